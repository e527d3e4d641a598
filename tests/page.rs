//! `osps page`: what it says, to whom, and what becomes of those who misbehave.
//!
//! Goal: it shows the instance, follows it over a restart and says when its watchdog is dead or
//! frozen; only questions are answered, asked for by our own name and by no other site's scripts;
//! whoever is slow, silent, endless or greedy costs little and holds up nobody, the watchdog least.
//!
//! Method: black box, with clients that write and read raw bytes. What is drawn: tests/browser.rs.
//!
//! What it cannot show: how browsers of other makers behave.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use osps::sys::process::raise_descriptor_limit;
use serde_json::Value;

use common::{
    BINARY, Guest, Launch, Osps, SOON, Signal, ms, now, pass, resident, run, text, ticks,
    wait_until,
};

// ---------------------------------------------------------------------------------------- helpers

/// A page, served.
struct Page {
    process: Guest,
    address: SocketAddr,
    token: String,
}

impl Page {
    /// Of an instance that runs.
    fn of(osps: &Osps) -> Page {
        let page = Page::at(osps.run_dir());
        wait_until("the first look", SOON, || page.status().is_some().then_some(()));
        page
    }

    fn at(run_dir: &Path) -> Page {
        let mut command = Command::new(BINARY);
        command.args(["page", "--listen", "127.0.0.1:0", "--run-dir"]).arg(run_dir);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("http://").unwrap();
        let (address, token) = url.split_once("/?token=").unwrap();
        assert!(token.len() >= 32, "{line}");
        let (address, token) = (address.parse().unwrap(), token.to_owned());
        Page { process: Guest(child), address, token }
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Sends these bytes; what comes back until the other end closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes);
        rest(&mut stream)
    }

    /// One request with these headers, and no other ones.
    fn request(&self, line: &str, headers: &[&str]) -> Answer {
        let line = format!("{line} HTTP/1.1");
        let lines = [&[&*line], headers, &["", ""]].concat();
        Answer::parse(&self.raw(lines.join("\r\n").as_bytes()))
    }

    /// A request as a plain client sends it.
    fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), &[&self.host(), "Connection: close"])
    }

    fn host(&self) -> String {
        format!("Host: {}", self.address)
    }

    fn status(&self) -> Option<Value> {
        let answer = self.get("/api/status");
        (answer.status == 200).then(|| serde_json::from_str(&answer.body).unwrap())
    }

    /// Follows what happens.
    fn follow(&self) -> Stream {
        let mut stream = self.connect();
        stream.write_all(self.follower().as_bytes()).unwrap();
        Stream(BufReader::new(stream))
    }

    fn follower(&self) -> String {
        format!("GET /api/events HTTP/1.1\r\n{}\r\n\r\n", self.host())
    }

    /// It does its work.
    fn assert_well(&self) {
        assert_eq!(self.get("/healthz").status, 200);
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Events as they come.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// The first event that this is true of.
    fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = now() + SOON;
        while now() < end {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
        }
        panic!("never came: {what}");
    }
}

fn pair() -> Osps {
    Launch::pair(&["--hang-timeout", "1s", "--name", "shop"]).start()
}

// ----------------------------------------------------------------------------------- what it says

#[test]
fn each_path_says_what_the_command_says() {
    let osps = pair();
    let page = Page::of(&osps);
    let health = page.get("/healthz");
    assert_eq!((health.status, &*health.body), (200, "all up\n"));
    let (mine, its) = (osps.status(), page.status().unwrap());
    for key in ["schema", "name", "run_dir"] {
        assert_eq!(mine[key], its[key]);
    }
    assert_eq!(mine["servers"][0]["pid"], its["servers"][0]["pid"]);
    let figures = page.get("/metrics");
    assert_eq!(figures.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(figures.body.contains("osps_up{name=\"shop\"} 1\n"), "{}", figures.body);
    // The page is whole without its script.
    let whole = page.get("/");
    assert_eq!(whole.header("content-type"), Some("text/html; charset=utf-8"));
    let shown = whole.body.split("<script").next().unwrap();
    for part in ["shop", "all up", "<table", "primary", "secondary-1", "<svg", "starting"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for part in ["http://", "https://", "//cdn", " onclick", " onload", "style=\""] {
        let own = whole.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(part), "{part}: an outside resource or an inline handler");
    }
    let question = page.request("HEAD /", &[&page.host(), "Connection: close"]);
    assert_eq!((question.status, &*question.body), (200, ""));
}

#[test]
fn every_answer_has_the_headers_that_a_browser_needs() {
    let osps = pair();
    let page = Page::of(&osps);
    for path in ["/", "/healthz", "/api/status", "/metrics", "/reports/1", "/nothing", "/?token=x"]
    {
        let answer = page.get(path);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let nonce = |answer: &Answer| {
        let policy = answer.header("content-security-policy").unwrap();
        policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned()
    };
    assert_ne!(nonce(&page.get("/")), nonce(&page.get("/")), "a nonce is used once");
}

/// A freeze, from the first silent look to the mark.
#[test]
fn a_stream_tells_a_freeze_as_it_happens() {
    let osps = pair();
    let page = Page::of(&osps);
    let mut stream = page.follow();
    let first = stream.next();
    assert_eq!(first["face"]["rows"][1]["service"], "secondary-1");
    assert!(first["times"].is_array() && first["told"].as_array().unwrap().len() > 3, "{first}");
    let beats = |event: &Value| event["hearts"][1][0].as_u64().unwrap();
    stream.find("a beat", |event| beats(event) > 0);
    osps.stop_process(&osps.process(1));
    stream.find("silence", |event| beats(event) == 0);
    let told = stream.find("the verdict", |event| event["told"].to_string().contains("frozen"));
    let mut marks = told["told"].as_array().unwrap().iter();
    let verdict = marks.find(|one| one["mark"] == "frozen (stopped)").expect("a mark");
    assert_eq!(verdict["service"], "secondary-1");
    stream.find("it beats again", |event| beats(event) > 0);
}

#[test]
fn whole_reports_are_for_those_who_know_the_token() {
    let osps = pair();
    let page = Page::of(&osps);
    let (server, old) = (osps.process(1), osps.generation(1));
    osps.stop_process(&server);
    osps.wait_successor(1, old);
    let lines = osps.wait("its report", || {
        let lines: Value = serde_json::from_str(&page.get("/api/reports").body).unwrap();
        lines.get(0).is_some().then_some(lines)
    });
    assert_eq!(lines[0]["service"], "secondary-1");
    assert!(lines[0]["sentence"].as_str().unwrap().contains("was frozen"), "{lines}");
    let number = &lines[0]["number"];
    let (shown, raw) = (format!("/reports/{number}"), format!("/api/reports/{number}"));
    assert_eq!((page.get(&shown).status, page.get(&raw).status), (403, 403));
    let known = |path: &str| page.get(&format!("{path}?token={}", page.token));
    let (shown, raw) = (known(&shown), known(&raw));
    assert_eq!((shown.status, raw.status), (200, 200));
    assert!(shown.body.contains("was frozen") && shown.body.contains("<pre"), "{shown:?}");
    assert!(raw.body.contains("\"schema\":1"), "{raw:?}");
    assert_eq!(known("/reports/999999").status, 404);
    // Who does not know it sees sentences and no links.
    assert!(!page.get("/").body.contains("href=\"/reports/"));
}

#[test]
fn it_follows_the_instance_over_deaths_freezes_and_starts() {
    let mut osps = pair();
    let page = Page::of(&osps);
    let advice = |page: &Page, word: &str| {
        osps.wait_for("a word of advice", SOON, || {
            let shown = page.get("/").body;
            let alert = shown.split("role=\"alert\">").nth(1)?.split('<').next()?;
            alert.contains(word).then_some(())
        });
        assert_eq!(page.get("/healthz").status, 503);
    };
    osps.stop_watchdog();
    advice(&page, "frozen");
    osps.signal_watchdog(Signal::CONT);
    wait_until("all well", SOON, || (page.get("/healthz").status == 200).then_some(()));
    osps.kill_everything();
    wait_until("the end", SOON, || (page.get("/healthz").status == 503).then_some(()));
    let first = osps.status()["servers"][0]["generation"].clone();
    osps.start_again();
    osps.wait_founded();
    osps.wait_all_up();
    wait_until("all well again", SOON, || (page.get("/healthz").status == 200).then_some(()));
    let status = page.status().unwrap();
    assert_ne!(status["servers"][0]["generation"], first);
    assert_eq!(status["watchdog"]["pid"], osps.watchdog_pid());
    // An orderly stop takes the segment away: that is no error of the page.
    osps.stop();
    wait_until("not running", SOON, || {
        (page.get("/healthz").body == "not running\n").then_some(())
    });
    assert_eq!((page.get("/api/status").status, page.get("/metrics").status), (503, 503));
    assert!(page.get("/").body.contains("nothing runs in"));
}

/// A look watched a silent watchdog for a second and a half: traces came to a halt just when
/// somebody looked at them.
#[test]
fn traces_go_on_while_the_watchdog_is_frozen() {
    let osps = pair();
    let page = Page::of(&osps);
    page.assert_well();
    let mut stream = page.follow();
    osps.stop_watchdog();
    let is_frozen = |event: &Value| event["face"]["summary"] == "frozen";
    let mut last = stream.find("a frozen watchdog", is_frozen)["at"].as_u64().unwrap();
    let mut gaps: Vec<_> = (0..10)
        .map(|_| {
            let before = std::mem::replace(&mut last, stream.next()["at"].as_u64().unwrap());
            last - before
        })
        .collect();
    gaps.sort_unstable();
    assert!(gaps[5] < 1000, "{gaps:?} ms between two looks");
    osps.signal_watchdog(common::Signal::CONT);
}

#[test]
fn a_page_may_be_there_before_its_instance() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let page = Page::at(&dir.path().join("run"));
    let nobody = page.get("/healthz");
    assert_eq!((nobody.status, &*nobody.body), (503, "not running\n"));
    assert!(page.get("/").body.contains("start it, and it appears here"));
    assert_eq!(page.follow().next()["face"]["summary"], "not running");
}

#[test]
fn an_address_that_others_reach_has_to_be_meant() {
    let mut command = Command::new(BINARY);
    command.args(["page", "--listen", "0.0.0.0:0", "--run-dir", "/dev/shm/none"]);
    let refused = run(command);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("--allow-remote"), "{}", text(&refused));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(BINARY);
    command.args(["page", "--run-dir", "/dev/shm/none", "--listen"]);
    command.arg(taken.local_addr().unwrap().to_string());
    let refused = run(command);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("listen on 127.0.0.1:"), "{}", text(&refused));
}

// -------------------------------------------------------------------------------------- who may

#[test]
fn only_questions_by_our_own_name_are_answered() {
    let osps = pair();
    let page = Page::of(&osps);
    let host = page.host();
    let port = page.address.port();
    let named = format!("Host: localhost:{port}");
    for (line, headers, status) in [
        ("GET /healthz", vec![&*host], 200),
        ("GET /healthz", vec![&*named], 200),
        ("GET /healthz", vec!["Host: evil.example"], 421),
        ("GET /healthz", vec!["Host: 127.0.0.1.evil.example"], 421),
        ("GET /healthz", vec![], 400),
        ("GET /healthz", vec![&*host, "Host: evil.example"], 400),
        ("GET http://evil.example/healthz", vec![&*host], 421),
        ("GET /healthz", vec![&*host, "Origin: http://evil.example"], 403),
        ("GET /healthz", vec![&*host, "Origin: null"], 403),
        ("GET /api/events", vec![&*host, "Origin: http://evil.example"], 403),
        ("GET /api/status", vec![&*host, "Sec-Fetch-Site: cross-site"], 403),
        ("GET /", vec![&*host, "Sec-Fetch-Site: cross-site"], 200),
        ("POST /", vec![&*host, "Content-Length: 0"], 405),
        ("DELETE /", vec![&*host], 405),
        ("PUT /api/status", vec![&*host, "Content-Length: 0"], 405),
        ("OPTIONS *", vec![&*host], 405),
        ("TRACE /", vec![&*host], 405),
        ("GET /", vec![&*host, "Content-Length: 3"], 413),
        ("GET /../../etc/passwd", vec![&*host], 404),
        ("GET /?token=wrong", vec![&*host], 403),
        ("GET /reports/1", vec![&*host], 403),
        ("GET /api/reports/1", vec![&*host, "Authorization: Bearer wrong"], 403),
    ] {
        let headers = [&headers[..], &["Connection: close"]].concat();
        let answer = page.request(line, &headers);
        assert_eq!(answer.status, status, "{line} {headers:?}: {answer:?}");
        // Whoever is refused is told why, in a line.
        assert!(status == 200 || answer.body.ends_with('\n'), "{line} {headers:?}: {answer:?}");
    }
    let trusted = page.get(&format!("/?token={}", page.token));
    assert_eq!(trusted.status, 200);
    let bearer = format!("Authorization: Bearer {}", page.token);
    let none = page.request("GET /api/reports/1", &[&host, &bearer, "Connection: close"]);
    assert_eq!(none.status, 404, "{none:?}");
}

// --------------------------------------------------------------------------------- who misbehaves

#[test]
fn requests_that_are_none_are_refused_and_closed() {
    let osps = pair();
    let page = Page::of(&osps);
    let host = page.host();
    let long = "a".repeat(100_000);
    let many = "X: a\r\n".repeat(1000);
    for (bytes, status) in [
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\n{host}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{host}\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{host}\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{host}\r\nContent-Length: -1\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}\r\nX: a\r\n b\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\nf"), 405),
    ] {
        let answer = Answer::parse(&page.raw(bytes.as_bytes()));
        assert_eq!(answer.status, status, "{:?}", &bytes[..bytes.len().min(80)]);
    }
    // Many in one go are answered one after the other, and the last one closes.
    let one = format!("GET /healthz HTTP/1.1\r\n{host}\r\n\r\n");
    let last = format!("GET /healthz HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n");
    let all = page.raw((one.repeat(500) + &last).as_bytes());
    assert_eq!(all.matches("HTTP/1.1 200 OK\r\n").count(), 501);
    page.assert_well();
}

/// Those who say nothing, or never end, and those who take nothing: their time is bounded, and so is
/// what they cost. Both at once, since it is their waiting that takes the time of this test.
#[test]
fn the_silent_the_endless_and_those_who_do_not_read_are_let_go() {
    let osps = pair();
    let page = Page::of(&osps);
    let before = resident(page.pid());
    let begun = now();
    let mut silent = page.connect();
    let mut endless = page.connect();
    endless.write_all(format!("GET / HTTP/1.1\r\n{}\r\nX: ", page.host()).as_bytes()).unwrap();
    // Each asks for more than any buffer holds, and reads none of it.
    let greedy = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", page.host()).repeat(300);
    let deaf: Vec<_> = (0..30)
        .map(|number| {
            let mut stream = page.connect();
            stream.set_write_timeout(Some(ms(100))).unwrap();
            let follow = page.follower();
            let wish = if number % 2 == 0 { &follow } else { &greedy };
            let _ = stream.write_all(wish.as_bytes());
            stream
        })
        .collect();
    wait_until("the endless one is let go", SOON, || {
        pass(ms(100));
        endless.write_all(b"a").is_err().then_some(())
    });
    assert_eq!(rest(&mut silent), "");
    assert!(now().since(begun) >= Duration::from_secs(4), "a slow line is no crime");
    let grown = resident(page.pid()).saturating_sub(before);
    assert!(grown < 20 << 10, "{grown} KiB for 32 connections");
    // Those who take nothing: the kernel has room for a while, but not for ever.
    wait_until("only those who follow stay", Duration::from_secs(60), || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", page.pid())).unwrap().count();
        (fds < 30).then_some(())
    });
    page.assert_well();
    drop(deaf);
    assert_eq!(osps.status()["servers"][0]["restarts"]["frozen"], 0);
}

#[test]
fn a_thousand_follow_at_once() {
    // Ours; the page raises its own.
    let _ = raise_descriptor_limit();
    let osps = pair();
    let page = Page::of(&osps);
    let mut streams: Vec<_> = (0..1000).map(|_| page.follow()).collect();
    for stream in &mut streams {
        assert!(stream.next()["face"].is_object());
    }
    // All of them are told the next look, and nobody who only asks has to wait.
    for stream in &mut streams {
        assert!(stream.next()["at"].is_u64());
    }
    page.assert_well();
    assert!(resident(page.pid()) < 200 << 10, "{} KiB", resident(page.pid()));
    drop(streams);
    // The next one finds room.
    wait_until("room", SOON, || page.follow().next()["face"].is_object().then_some(()));
}

/// At most 1 % of a core with a page open; a debug build on a machine that is busy gets more.
#[test]
fn a_page_that_is_looked_at_costs_little() {
    let osps = pair();
    let page = Page::of(&osps);
    let mut stream = page.follow();
    stream.next();
    let (begun, before) = (now(), ticks(page.pid()));
    while now().since(begun) < Duration::from_secs(5) {
        stream.next();
    }
    let spent = ticks(page.pid()) - before;
    eprintln!("{spent} ticks in 5 s");
    assert!(spent <= 25, "{spent} ticks of 10 ms in 5 s");
}
