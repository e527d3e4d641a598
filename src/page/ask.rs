//! What a request asks for, and whether it may: pure, of its line and headers alone.
//!
//! A page on loopback is within reach of every web site that the same browser has open. A name
//! that such a site makes point here (DNS rebinding) is no name of ours, so `Host` must be an
//! address, or `localhost`, or a name that the operator said; and what another site's scripts ask
//! says so, in `Origin` or `Sec-Fetch-Site`. Nothing here changes anything, so GET and HEAD are all
//! there is.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, StatusCode, Uri, Version};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The page.
    Page,
    /// The same for Prometheus.
    Metrics,
    /// Whether all is up.
    Healthz,
    /// A look, as `osps status --json` shows it.
    Status,
    /// What happens, as it happens.
    Events,
    /// Reports, a sentence each.
    Reports,
    /// A whole report, for people.
    Report(u64),
    /// The same for tools.
    RawReport(u64),
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        let number = |text: &str| {
            let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        Some(match path {
            "/" => Route::Page,
            "/metrics" => Route::Metrics,
            "/healthz" => Route::Healthz,
            "/api/status" => Route::Status,
            "/api/events" => Route::Events,
            "/api/reports" => Route::Reports,
            _ => match path.strip_prefix("/api/reports/") {
                Some(rest) => Route::RawReport(number(rest)?),
                None => Route::Report(number(path.strip_prefix("/reports/")?)?),
            },
        })
    }

    /// Whether it holds what not everybody may see who can reach the port.
    fn is_closed(self) -> bool {
        matches!(self, Route::Report(_) | Route::RawReport(_))
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The status.
    pub(super) status: StatusCode,
    /// What is wrong, and what would be right: a line.
    pub(super) why: &'static str,
}

fn refused<T>(status: StatusCode, why: &'static str) -> Result<T, Refused> {
    Err(Refused { status, why })
}

/// Who may ask, and how.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Opens whole reports.
    pub(super) token: String,
    /// Further names that the page has.
    pub(super) hosts: Vec<String>,
}

/// A request that may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) route: Route,
    /// It knows the token.
    pub(super) trusted: bool,
}

impl Rules {
    /// Judges a request.
    pub(super) fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Asked, Refused> {
        if version != Version::HTTP_11 && version != Version::HTTP_10 {
            return refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this speaks HTTP/1.1");
        }
        let host = one(headers, &header::HOST)?;
        let ours = |name: &str| is_ours(name, &self.hosts);
        match host {
            Some(host) if ours(host) && uri.authority().is_none_or(|said| ours(said.as_str())) => {}
            Some(_) => {
                return refused(
                    StatusCode::MISDIRECTED_REQUEST,
                    "this page has no such name: ask for it by an address, as in \
                     http://127.0.0.1:9180/, or start it with --host NAME",
                );
            }
            None => return refused(StatusCode::BAD_REQUEST, "a request needs a Host"),
        }
        if *method != Method::GET && *method != Method::HEAD {
            return refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "nothing can be changed here: GET and HEAD only",
            );
        }
        let has_body = headers.contains_key(header::TRANSFER_ENCODING)
            || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
        if has_body {
            return refused(StatusCode::PAYLOAD_TOO_LARGE, "a question has no body");
        }
        let Some(route) = Route::of(uri.path()) else {
            return refused(
                StatusCode::NOT_FOUND,
                "no such page; there is / /metrics /healthz /api/status /api/events /api/reports",
            );
        };
        self.check_origin(route, headers)?;
        let trusted = self.knows_token(uri, headers)?;
        if route.is_closed() && !trusted {
            return refused(
                StatusCode::FORBIDDEN,
                "whole reports need the token: open the address that `osps page` printed when it \
                 started, or read them with `osps report`",
            );
        }
        Ok(Asked { route, trusted })
    }

    /// Whether a script of our own, or none, asks.
    fn check_origin(&self, route: Route, headers: &HeaderMap) -> Result<(), Refused> {
        let foreign = || refused(StatusCode::FORBIDDEN, "another site's scripts may not ask here");
        if let Some(origin) = one(headers, &header::ORIGIN)? {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !host.is_some_and(|host| is_ours(host, &self.hosts)) {
                return foreign();
            }
        }
        // Whoever follows a link from elsewhere to the page itself is welcome.
        match one(headers, &HeaderName::from_static("sec-fetch-site"))? {
            Some("cross-site" | "same-site") if route != Route::Page => foreign(),
            _ => Ok(()),
        }
    }

    /// Whether the right token is there. A wrong one is told, since a page without what was hoped
    /// for would only puzzle.
    fn knows_token(&self, uri: &Uri, headers: &HeaderMap) -> Result<bool, Refused> {
        let bearer = one(headers, &header::AUTHORIZATION)?;
        let bearer = bearer.map(|text| text.strip_prefix("Bearer ").unwrap_or(""));
        let mut query = uri.query().unwrap_or_default().split('&');
        let said = bearer.or_else(|| query.find_map(|pair| pair.strip_prefix("token=")));
        match said {
            None => Ok(false),
            Some(token) if is_same(token.as_bytes(), self.token.as_bytes()) => Ok(true),
            Some(_) => refused(
                StatusCode::FORBIDDEN,
                "that is not the token: `osps page` makes a new one at each start, and prints it",
            ),
        }
    }
}

/// The only value of a header; several are a trick.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refused> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    let text = value.map(|value| value.to_str().unwrap_or("\u{0}"));
    match values.next() {
        None => Ok(text),
        Some(_) => refused(StatusCode::BAD_REQUEST, "a header that is there twice"),
    }
}

/// Whether a `Host` cannot be a name that a stranger chose.
fn is_ours(host: &str, names: &[String]) -> bool {
    let is_port = |port: &str| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
    };
    // In brackets there are colons.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if !port.is_none_or(is_port) {
        return false;
    }
    let address = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').and_then(|text| text.parse::<IpAddr>().ok()),
        None => name.parse().ok().filter(IpAddr::is_ipv4),
    };
    let is_name = |known: &str| name.eq_ignore_ascii_case(known);
    address.is_some() || is_name("localhost") || names.iter().any(|known| is_name(known))
}

/// Compares in a time that tells nothing but the lengths.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Asked, u16> {
        let rules = Rules { token: "5ec4e7".to_owned(), hosts: vec!["board.example".to_owned()] };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let uri = uri.parse().expect("an address");
        let asked = rules.admit(&method, &uri, Version::HTTP_11, &map);
        asked.map_err(|refused| refused.status.as_u16())
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:9180");

    #[test]
    fn hosts_are_addresses_or_names_that_were_said() {
        for (host, ours) in [
            ("127.0.0.1:9180", true),
            ("127.0.0.1", true),
            ("localhost:8080", true),
            ("LocalHost", true),
            ("[::1]:9180", true),
            ("[::1]", true),
            ("192.168.7.1:9180", true),
            ("board.example", true),
            ("Board.Example:443", true),
            ("evil.example", false),
            ("evil.example:9180", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:9180", false),
            ("board.example.evil.example", false),
            ("localhost:80@evil.example", false),
            ("127.0.0.1:", false),
            ("127.0.0.1:1x", false),
            ("::1", false),
            ("[::1", false),
            ("[127.0.0.1", false),
            ("", false),
            (":9180", false),
        ] {
            let asked = ask("GET", "/", &[("host", host)]);
            assert_eq!(asked.is_ok(), ours, "{host:?}: {asked:?}");
        }
        assert_eq!(ask("GET", "/", &[]), Err(400));
        assert_eq!(ask("GET", "/", &[HERE, HERE]), Err(400));
        assert_eq!(ask("GET", "http://evil.example/", &[HERE]), Err(421));
    }

    #[test]
    fn other_sites_learn_nothing() {
        for (name, value, page, api) in [
            ("origin", "http://127.0.0.1:9180", true, true),
            ("origin", "https://board.example", true, true),
            ("origin", "http://evil.example", false, false),
            ("origin", "null", false, false),
            ("origin", "", false, false),
            ("sec-fetch-site", "same-origin", true, true),
            ("sec-fetch-site", "none", true, true),
            ("sec-fetch-site", "cross-site", true, false),
            ("sec-fetch-site", "same-site", true, false),
        ] {
            let ok = |path| ask("GET", path, &[HERE, (name, value)]).is_ok();
            assert_eq!((ok("/"), ok("/api/events")), (page, api), "{name}: {value}");
        }
    }

    #[test]
    fn only_questions_are_answered() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"] {
            assert_eq!(ask(method, "/", &[HERE]), Err(405), "{method}");
        }
        assert!(ask("HEAD", "/", &[HERE]).is_ok());
        assert_eq!(ask("GET", "/", &[HERE, ("content-length", "3")]), Err(413));
        assert_eq!(ask("GET", "/", &[HERE, ("transfer-encoding", "chunked")]), Err(413));
        assert!(ask("GET", "/", &[HERE, ("content-length", "0")]).is_ok());
    }

    #[test]
    fn paths_are_what_they_say() {
        for (path, route) in [
            ("/", Route::Page),
            ("/?x=1", Route::Page),
            ("/metrics", Route::Metrics),
            ("/healthz", Route::Healthz),
            ("/api/status", Route::Status),
            ("/api/events", Route::Events),
            ("/api/reports", Route::Reports),
            ("/reports/12?token=5ec4e7", Route::Report(12)),
            ("/api/reports/7?token=5ec4e7", Route::RawReport(7)),
        ] {
            assert_eq!(ask("GET", path, &[HERE]).map(|asked| asked.route), Ok(route), "{path}");
        }
        for path in ["/x", "//", "/metrics/", "/reports/", "/reports/x", "/reports/07", "/api/"] {
            assert_eq!(ask("GET", path, &[HERE]), Err(404), "{path}");
        }
        for path in ["/reports/-1", "/reports/+1", "/reports/99999999999999999999999", "/../etc"] {
            assert_eq!(ask("GET", path, &[HERE]), Err(404), "{path}");
        }
    }

    #[test]
    fn whole_reports_need_the_token() {
        let trusted = |uri, headers: &[_]| ask("GET", uri, headers).map(|asked| asked.trusted);
        assert_eq!(trusted("/", &[HERE]), Ok(false));
        assert_eq!(trusted("/?token=5ec4e7", &[HERE]), Ok(true));
        assert_eq!(trusted("/?a=b&token=5ec4e7", &[HERE]), Ok(true));
        let bearer = ("authorization", "Bearer 5ec4e7");
        assert_eq!(trusted("/api/reports/1", &[HERE, bearer]), Ok(true));
        for wrong in ["/?token=", "/?token=5ec4e", "/?token=5ec4e78", "/?token=5ec4e8"] {
            assert_eq!(trusted(wrong, &[HERE]), Err(403), "{wrong}");
        }
        assert_eq!(trusted("/reports/1", &[HERE]), Err(403));
        assert_eq!(trusted("/api/reports/1", &[HERE, ("authorization", "Basic x")]), Err(403));
    }
}
