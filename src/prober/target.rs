//! What stands behind `--heart file:` and `--heart probe:`, and what it means. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use osps_heart::shown::Shown;

/// What is looked at, to know whether a service is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file that moves: its time of change, its size, or itself.
    File(PathBuf),
    /// An answer by plain HTTP/1.1, with a status from 200 to 399.
    Http {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A connection that is made. A port that osps listens to for the service connects always,
    /// whoever is frozen behind it.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A command that ends with status 0: the program and its arguments.
    Command(Vec<OsString>),
}

/// The port of an `http://` address that names none.
pub const HTTP_PORT: u16 = 80;

impl Target {
    /// Reads `file:PATH`, `probe:http://HOST[:PORT]/PATH`, `probe:tcp://HOST:PORT` or
    /// `probe:COMMAND`. The error says what would do.
    pub fn parse(spec: &OsStr) -> Result<Target, String> {
        let bytes = spec.as_bytes();
        if let Some(path) = bytes.strip_prefix(b"file:") {
            return match path {
                [] => Err("it names no file; write file:PATH".to_owned()),
                _ if path.contains(&0) => Err("a path has no zero byte".to_owned()),
                _ => Ok(Target::File(OsStr::from_bytes(path).into())),
            };
        }
        let Some(probe) = bytes.strip_prefix(b"probe:") else {
            return Err("neither file:PATH nor probe:WHAT".to_owned());
        };
        let probe = probe.trim_ascii_start();
        match scheme(probe) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => http(rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => tcp(rest),
            Some((scheme, _)) => Err(format!(
                "{scheme}:// cannot be probed, only http:// and tcp:// or a command, such as curl"
            )),
            None => match words(probe)? {
                words if words.is_empty() => {
                    Err("it names nothing to probe; write http://, tcp:// or a command".to_owned())
                }
                words => Ok(Target::Command(words)),
            },
        }
    }

    /// How it is called where it is told.
    pub fn kind(&self) -> &'static str {
        match self {
            Target::File(_) => "file",
            Target::Http { .. } | Target::Tcp { .. } | Target::Command(_) => "probe",
        }
    }
}

/// `http` and what stands behind `://`.
fn scheme(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = text.windows(3).position(|three| three == b"://")?;
    let name = std::str::from_utf8(&text[..end]).ok()?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_name.then_some((name, &text[end + 3..]))
}

fn http(rest: &[u8]) -> Result<Target, String> {
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (host, port) = host_and_port(&rest[..end])?;
    let path = &rest[end..];
    if let Some(byte) = path.iter().find(|byte| !byte.is_ascii_graphic() || **byte == b'#') {
        return Err(format!("a path holds no byte {byte:#04x}; write it as %{byte:02X}"));
    }
    let slash = if path.starts_with(b"/") { "" } else { "/" };
    let path = format!("{slash}{}", String::from_utf8_lossy(path));
    Ok(Target::Http { host, port: port.unwrap_or(HTTP_PORT), path })
}

fn tcp(rest: &[u8]) -> Result<Target, String> {
    let (host, port) = host_and_port(rest.strip_suffix(b"/").unwrap_or(rest))?;
    let port = port.ok_or("the port is missing; write tcp://HOST:PORT")?;
    Ok(Target::Tcp { host, port })
}

/// `HOST`, `HOST:PORT`, or either with an IPv6 address in brackets.
fn host_and_port(text: &[u8]) -> Result<(String, Option<u16>), String> {
    let shown = Shown(OsStr::from_bytes(text));
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.chars().all(|c| c.is_ascii_graphic()))
        .ok_or_else(|| format!("\"{shown}\" is no host"))?;
    if text.contains('@') {
        return Err("users and passwords cannot be sent; probe by a command, such as curl".into());
    }
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => (host, Some(rest.strip_prefix(':').unwrap_or("?"))),
        Some(None) => return Err(format!("{shown}: a bracket stands open")),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| port.contains(':')) {
        return Err(format!("{shown}: an IPv6 address stands in brackets, such as [::1]:80"));
    }
    if host.is_empty() || host.contains(['[', ']', '/']) {
        return Err(format!("\"{shown}\" names no host"));
    }
    let number = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let number = port.parse().ok().filter(|number| digits && *number != 0);
        number.ok_or_else(|| format!("\"{port}\" is no port; ports go from 1 to 65535"))
    };
    Ok((host.to_owned(), port.map(number).transpose()?))
}

/// Splits a command line as a shell does: at blanks, unless they are quoted or stand behind a
/// backslash. Nothing else means anything, since there is no shell.
fn words(line: &[u8]) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    // `Some` = inside of a word, which may be empty: "".
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            0 => return Err("a command has no zero byte".to_owned()),
            b' ' | b'\t' | b'\n' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or("a ' stands alone")? {
                        b'\'' => break,
                        byte => word.push(byte),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or("a \" stands alone")? {
                        b'"' => break,
                        b'\\' => match bytes.next().ok_or("a \" stands alone")? {
                            b'\n' => {}
                            byte @ (b'$' | b'`' | b'"' | b'\\') => word.push(byte),
                            byte => word.extend([b'\\', byte]),
                        },
                        byte => word.push(byte),
                    }
                }
            }
            b'\\' => match bytes.next().ok_or("nothing stands behind the last \\")? {
                b'\n' => {}
                byte => word.get_or_insert_default().push(byte),
            },
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    if words.iter().any(|word| word.contains(&0)) {
        return Err("a command has no zero byte".to_owned());
    }
    Ok(words.into_iter().map(OsString::from_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(spec: &[u8]) -> Result<Target, String> {
        Target::parse(OsStr::from_bytes(spec))
    }

    fn command(words: &[&[u8]]) -> Target {
        Target::Command(words.iter().map(|word| OsString::from_vec(word.to_vec())).collect())
    }

    #[test]
    fn what_can_be_looked_at() {
        let http = |host: &str, port, path: &str| {
            let (host, path) = (host.to_owned(), path.to_owned());
            Target::Http { host, port, path }
        };
        let tcp = |host: &str, port| Target::Tcp { host: host.to_owned(), port };
        for (spec, expected) in [
            (&b"file:/run/beat"[..], Target::File("/run/beat".into())),
            (b"file:a b: \xff", Target::File(OsStr::from_bytes(b"a b: \xff").into())),
            (b"probe:http://localhost:8080/health?full=1", {
                http("localhost", 8080, "/health?full=1")
            }),
            (b"probe:http://10.0.0.1", http("10.0.0.1", 80, "/")),
            (b"probe:HTTP://host?x", http("host", 80, "/?x")),
            (b"probe:http://[::1]:81/", http("::1", 81, "/")),
            (b"probe:http://[fe80::1%lo]/", http("fe80::1%lo", 80, "/")),
            (b"probe:tcp://db:5432", tcp("db", 5432)),
            (b"probe:tcp://[::1]:1/", tcp("::1", 1)),
            (b"probe: tcp://db:5432", tcp("db", 5432)),
            (b"probe:true", command(&[b"true"])),
            (b"probe:/bin/check  -x 'a b'", command(&[b"/bin/check", b"-x", b"a b"])),
            (b"probe:curl https://host/", command(&[b"curl", b"https://host/"])),
        ] {
            assert_eq!(parse(spec), Ok(expected), "{}", String::from_utf8_lossy(spec));
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (spec, reason) in [
            (&b"file:"[..], "no file"),
            (b"file:a\0b", "zero byte"),
            (b"disk:/x", "neither"),
            (b"probe:", "nothing to probe"),
            (b"probe: \t", "nothing to probe"),
            (b"probe:https://host/", "only http:// and tcp:// or a command"),
            (b"probe:http:///path", "names no host"),
            (b"probe:http://:80/", "names no host"),
            (b"probe:http://[]:80/", "names no host"),
            (b"probe:http://h\xff/", "no host"),
            (b"probe:http://me:word@host/", "passwords"),
            (b"probe:http://host/a b", "%20"),
            (b"probe:http://host/a\r\nX: y", "%0D"),
            (b"probe:http://host/#top", "%23"),
            (b"probe:http://host:/", "no port"),
            (b"probe:http://host:+1/", "no port"),
            (b"probe:http://::1/", "brackets"),
            (b"probe:http://[::1/", "bracket stands open"),
            (b"probe:http://[::1]80/", "no port"),
            (b"probe:tcp://host", "port is missing"),
            (b"probe:tcp://host:0", "no port"),
            (b"probe:tcp://host:65536", "no port"),
            (b"probe:tcp://host/x:1", "names no host"),
            (b"probe:echo 'a", "' stands alone"),
            (b"probe:echo \"a", "\" stands alone"),
            (b"probe:echo \"a\\", "\" stands alone"),
            (b"probe:echo a\\", "behind the last \\"),
            (b"probe:echo 'a\0'", "zero byte"),
        ] {
            let refused = parse(spec).expect_err("refused");
            assert!(refused.contains(reason), "{}: {refused}", String::from_utf8_lossy(spec));
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (line, expected) in [
            (&b""[..], &[][..]),
            (b" a\tb\nc ", &[&b"a"[..], b"b", b"c"]),
            (b"'' \"\"", &[b"", b""]),
            (b"a'b c'd", &[b"ab cd"]),
            (b"'a\\'", &[b"a\\"]),
            (b"\"a\\\"b\\\\c\\n\"", &[b"a\"b\\c\\n"]),
            (b"\"\\$HOME \\`x\\`\"", &[b"$HOME `x`"]),
            (b"a\\ b \\\\ \\'", &[b"a b", b"\\", b"'"]),
            (b"a\\\nb \"c\\\nd\" \\\n e", &[b"ab", b"cd", b"e"]),
            (b"a|b #c $x >y", &[b"a|b", b"#c", b"$x", b">y"]),
            (b"\xff\xfe '\x80'", &[b"\xff\xfe", b"\x80"]),
        ] {
            let words = words(line).expect("balanced");
            let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(words, expected, "{}", String::from_utf8_lossy(line));
        }
    }
}
