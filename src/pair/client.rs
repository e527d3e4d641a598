//! `osps client`: one command for the servers, found through the run directory.
//!
//! With `requetetype1` or `requetetype2` in front it goes the whole way: ask the primary, get a
//! port, connect to that secondary, exchange, close. A connection that a restart cuts is tried
//! again until the time is up, if the command may be said twice.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::segment::{Access, AttachError, Segment, text};
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Short};

use crate::error::{Error, Refusal};
use crate::instance::place::Place;
use crate::pair::store::resp::MAX_WORD;
use crate::sys::output;
use crate::sys::poll::pause;

/// What to ask, and how long to try.
#[derive(Clone, Debug)]
pub struct Request {
    /// Address of the primary, if not found through the run directory.
    pub address: Option<SocketAddr>,
    /// How long a restart may take.
    pub timeout: Duration,
    /// The words: perhaps a request type, then the command.
    pub words: Vec<OsString>,
}

/// A reply, as the protocol has it.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A short text or a number.
    Text(String),
    /// A refusal.
    Error(String),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// No value.
    Nothing,
    /// Several replies.
    List(Vec<Reply>),
}

/// Why one attempt failed.
enum Trouble {
    /// Nothing was asked yet, or asking again does no harm.
    Again(String),
    /// Somebody said no.
    Final(String),
}

/// Asks and prints the reply.
pub fn main(place: &Place, request: &Request) -> Result<ExitCode, Error> {
    let clock = SystemClock;
    let until = clock.now() + request.timeout;
    loop {
        let left = until.since(clock.now()).max(Duration::from_millis(1));
        let why = match attempt(place, request, left) {
            Ok(Reply::Error(text)) => return Err(Refusal::Answer(text).into()),
            Ok(reply) => {
                let mut bytes = Vec::new();
                render(&reply, &mut bytes);
                let told = output::print(&bytes);
                return Ok(if told { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Err(Trouble::Final(why)) => return Err(Refusal::Answer(why).into()),
            Err(Trouble::Again(why)) => why,
        };
        if clock.now() >= until {
            let tried = Short(request.timeout);
            return Err(Refusal::Answer(format!("{why} (tried for {tried})")).into());
        }
        pause();
    }
}

fn attempt(place: &Place, request: &Request, left: Duration) -> Result<Reply, Trouble> {
    let primary = match request.address {
        Some(address) => address,
        None => find_primary(place)?,
    };
    let typed =
        request.words.first().is_some_and(|word| word.as_bytes().starts_with(b"requetetype"));
    if !typed {
        return exchange(primary, left, &request.words);
    }
    let answer = ask_port(primary, left, &request.words[0])?;
    let port = answer.parse::<u16>().map_err(|_| {
        let text = format!("the primary answered: {answer}");
        if answer.starts_with("errtraitement") {
            Trouble::Again(text)
        } else {
            Trouble::Final(text)
        }
    })?;
    let command = &request.words[1..];
    if command.is_empty() {
        return Ok(Reply::Text(answer));
    }
    exchange(SocketAddr::new(primary.ip(), port), left, command)
}

fn find_primary(place: &Place) -> Result<SocketAddr, Trouble> {
    let shown = Shown(&place.path);
    let segment = Segment::open(&place.path, Access::ReadOnly).map_err(|error| {
        Trouble::Final(match &error {
            AttachError::Io { answer, .. } if answer.kind() == ErrorKind::NotFound => {
                place.not_running().to_string()
            }
            _ => format!("cannot tell who runs in {shown}: {error}"),
        })
    })?;
    let listen = segment.slots().first().map(|page| text::load(&page.server.listen));
    listen.unwrap_or_default().parse().map_err(|_| {
        Trouble::Final(format!("the server in {shown} has no listening address; use --addr"))
    })
}

fn connect(address: SocketAddr, left: Duration) -> Result<TcpStream, Trouble> {
    let again = |error| Trouble::Again(format!("connect to {address}: {error}"));
    let stream = TcpStream::connect_timeout(&address, left).map_err(again)?;
    stream.set_read_timeout(Some(left)).map_err(again)?;
    Ok(stream)
}

/// What a failed exchange means to a person.
fn describe(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no answer from {address}: it may be frozen, or just being replaced")
        }
        _ => format!("{address} cut the connection: {error}"),
    }
}

/// The primary's answer to a request type: a port without a line end.
fn ask_port(primary: SocketAddr, left: Duration, word: &OsStr) -> Result<String, Trouble> {
    let mut stream = connect(primary, left)?;
    let again = |error| Trouble::Again(describe(primary, &error));
    stream.write_all(word.as_bytes()).map_err(again)?;
    let mut answer = [0u8; 512];
    let length = stream.read(&mut answer).map_err(again)?;
    if length == 0 {
        return Err(Trouble::Again(format!("{primary} closed the connection")));
    }
    Ok(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned())
}

/// Commands that may be said twice: the same once more changes nothing.
const REPEATABLE: [&str; 9] =
    ["DBSIZE", "DEL", "ECHO", "EXISTS", "GET", "INFO", "KEYS", "PING", "SET"];

fn exchange(address: SocketAddr, left: Duration, command: &[OsString]) -> Result<Reply, Trouble> {
    let mut stream = connect(address, left)?;
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let cut = |error: std::io::Error| {
        let why = describe(address, &error);
        if REPEATABLE.iter().any(|word| command[0].eq_ignore_ascii_case(word)) {
            return Trouble::Again(why);
        }
        Trouble::Final(format!("{why}; the command may or may not have been done"))
    };
    stream.write_all(&bytes).map_err(cut)?;
    read_reply(stream).map_err(cut)
}

/// Longest string in a reply, as in Redis itself. `--addr` may name any server.
const BULK_MAX: usize = 512 << 20;

/// Most bytes of a reply: such a string and its head.
const REPLY_MAX: u64 = (BULK_MAX + 64) as u64;

/// Most elements of all lists in a reply: some sixteen times what `KEYS` of ours answers.
const ELEMENTS_MAX: usize = 1 << 20;

/// Reads one reply. Whatever the server sends, and if it never stops: this ends, and holds no more
/// than the limits above.
pub fn read_reply(from: impl Read) -> std::io::Result<Reply> {
    let mut left = ELEMENTS_MAX;
    element(&mut BufReader::new(from.take(REPLY_MAX)), 0, &mut left)
}

/// Reads one reply, or one element of a list in it; `left` elements may come yet.
fn element(from: &mut impl BufRead, depth: usize, left: &mut usize) -> std::io::Result<Reply> {
    let invalid = || std::io::Error::new(ErrorKind::InvalidData, "not a RESP reply");
    let mut line = Vec::new();
    if from.take(MAX_WORD as u64).read_until(b'\n', &mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    // An error may repeat a word of ours, whatever bytes that had.
    let line = String::from_utf8_lossy(line.trim_ascii_end());
    let (kind, rest) = line.split_at_checked(1).ok_or_else(invalid)?;
    match kind {
        "+" | ":" => Ok(Reply::Text(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(Reply::Nothing) };
            if length > BULK_MAX {
                return Err(invalid());
            }
            let mut bytes = Vec::new();
            from.take(length as u64 + 2).read_to_end(&mut bytes)?;
            if bytes.len() != length + 2 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(length);
            Ok(Reply::Bytes(bytes))
        }
        "*" if depth < 4 => {
            let Ok(count) = rest.parse::<usize>() else { return Ok(Reply::Nothing) };
            *left = left.checked_sub(count).ok_or_else(invalid)?;
            let mut list = Vec::new();
            for _ in 0..count {
                list.push(element(from, depth + 1, left)?);
            }
            Ok(Reply::List(list))
        }
        _ => Err(invalid()),
    }
}

/// Writes a reply as people read it: every element on a line of its own.
pub fn render(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Text(text) | Reply::Error(text) => out.extend_from_slice(text.as_bytes()),
        Reply::Bytes(bytes) => out.extend_from_slice(bytes),
        Reply::Nothing => out.extend_from_slice(b"(nil)"),
        Reply::List(list) if list.is_empty() => out.extend_from_slice(b"(empty)"),
        Reply::List(list) => {
            for reply in list {
                render(reply, out);
            }
            return;
        }
    }
    if !out.ends_with(b"\n") || matches!(reply, Reply::Bytes(bytes) if bytes.is_empty()) {
        out.push(b'\n');
    }
}
