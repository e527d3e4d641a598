//! What the words of a request ask for: a [`Command`], or a [`Refused`] in Redis's wording.
//!
//! Names and options are case-insensitive, keys and values are any bytes. Parsing is pure and
//! total, and looks at the words only. Whether keys fit the table, whether this client may write,
//! and whether `DEBUG` is allowed at all is decided by whoever carries the command out.
//!
//! **Invariant:** a command that parses is complete: numbers are in range, options understood.
//! What is not understood is refused, never ignored: a `SET .. NX` that wrote regardless would
//! break the lock built on it. Tested below: a row per command and per refusal, arbitrary words.

use std::fmt::Write;
use std::time::Duration;
use thiserror::Error;

use super::resp::Protocol;

/// Longest pause `DEBUG` accepts, in seconds: a day outlasts every hang timeout under test.
pub const MAX_PAUSE_SECONDS: u32 = 86_400;

/// Pattern bytes [`glob_match`] examines before it gives up, and its longest pattern. `KEYS` runs
/// it once per key, between two beats: with more, a pattern made to backtrack could look like a
/// hang; with less, a reasonable pattern could miss a key. For a key of 64 bytes at most 64 * 64
/// elements are compared, so this leaves four bytes for each.
pub const GLOB_STEPS: usize = 64 * 64 * 4;

/// Bytes of an unknown word that a refusal quotes.
const QUOTED: usize = 64;

/// Names longer than this are unknown; the longest known one has 8 bytes.
const NAME: usize = 16;

/// The commands, in lower case, for telling a wrong number of arguments from an unknown name.
const NAMES: [&str; 38] = [
    "append", "client", "command", "config", "dbsize", "debug", "decr", "decrby", "del", "discard",
    "echo", "exec", "exists", "flushall", "flushdb", "function", "get", "getset", "hello", "incr",
    "incrby", "info", "keys", "mget", "mset", "multi", "ping", "quit", "select", "set", "setnx",
    "strlen", "type", "unlink", "unwatch", "watch", "post", "host:",
];

/// Those that change something, or make others do.
const WRITES: [&str; 14] = [
    "append", "decr", "decrby", "del", "exec", "flushall", "flushdb", "getset", "incr", "incrby",
    "mset", "set", "setnx", "unlink",
];

/// Whether these bytes are the name of a command.
pub fn is_name(word: &[u8]) -> bool {
    NAMES.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a line that has not ended may be half of a write: its first word is the name of one, or
/// is not ended itself and begins one.
pub fn may_be_half_a_write(line: &[u8]) -> bool {
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(line.len());
    let line = &line[start..];
    let end = line.iter().position(u8::is_ascii_whitespace);
    let word = line[..end.unwrap_or(line.len())].to_ascii_lowercase();
    let matches = |name: &&str| match end {
        Some(_) => name.as_bytes() == word,
        None => name.as_bytes().starts_with(&word),
    };
    WRITES.iter().any(matches)
}

/// A request understood. Keys, values and patterns are slices of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `PING [message]`: answer the message, else `PONG`.
    Ping(Option<&'a [u8]>),
    /// `ECHO message`.
    Echo(&'a [u8]),
    /// `GET key`.
    Get(&'a [u8]),
    /// `MGET key..`.
    MGet(Vec<&'a [u8]>),
    /// `STRLEN key`.
    Strlen(&'a [u8]),
    /// `TYPE key`: `string` or `none`.
    Type(&'a [u8]),
    /// `SET key value [NX|XX] [GET] [KEEPTTL]` and `GETSET key value`.
    Set {
        /// What to write under.
        key: &'a [u8],
        /// What to write.
        value: &'a [u8],
        /// Whether there is something under it already.
        when: When,
        /// Answer what was there before.
        get: bool,
    },
    /// `SETNX key value`: answer 1 or 0.
    SetNx {
        /// What to write under.
        key: &'a [u8],
        /// What to write.
        value: &'a [u8],
    },
    /// `MSET key value..`: all of them or none.
    MSet(Vec<(&'a [u8], &'a [u8])>),
    /// `APPEND key value`: answer the new length.
    Append {
        /// What to write under.
        key: &'a [u8],
        /// What to put behind what is there.
        value: &'a [u8],
    },
    /// `DEL key..` and `UNLINK key..`: at least one key, possibly repeated.
    Del(Vec<&'a [u8]>),
    /// `EXISTS key..`: at least one key; a repeated one counts as often as it is named.
    Exists(Vec<&'a [u8]>),
    /// `INCR key` (by 1), `INCRBY key by`, `DECR key` and `DECRBY key by`.
    Incr {
        /// The number to change.
        key: &'a [u8],
        /// What to add, possibly negative.
        by: i64,
    },
    /// `KEYS pattern`, for [`glob_match`].
    Keys(&'a [u8]),
    /// `DBSIZE`.
    DbSize,
    /// `FLUSHDB [ASYNC|SYNC]`, `FLUSHALL [ASYNC|SYNC]`: there is one table.
    FlushDb,
    /// `INFO [section]`.
    Info(Option<&'a [u8]>),
    /// `QUIT`: answer `OK`, then close.
    Quit,
    /// `COMMAND ..`, which clients ask when they connect: answer an empty array.
    Commands,
    /// `CONFIG GET pattern..`: nothing can be configured through it, so nothing matches.
    ConfigGet,
    /// `FUNCTION FLUSH [ASYNC|SYNC]`: there are none.
    FunctionFlush,
    /// `CLIENT ..`.
    Client(Client<'a>),
    /// `HELLO [version [SETNAME name]]`: describe the server, and speak this version from now on.
    Hello {
        /// Absent = as before.
        version: Option<Protocol>,
        /// What to call the connection.
        name: Option<&'a [u8]>,
    },
    /// `MULTI`: what follows is queued.
    Multi,
    /// `EXEC`: the queue is carried out as one update.
    Exec,
    /// `DISCARD`: the queue is forgotten.
    Discard,
    /// `WATCH ..`: refused.
    Watch,
    /// `UNWATCH`: nothing is watched.
    Unwatch,
    /// `POST` or `Host:`, or a line that ends in `HTTP/..`: a web browser speaks, on behalf of
    /// some page. The connection closes before anything else that it sent.
    Foreign,
    /// `SELECT 0`: there is no other table.
    Select,
    /// `DEBUG ..`: misbehave on request.
    Debug(Debug),
}

impl Command<'_> {
    /// Whether carrying it out may change the table.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Self::Set { .. }
                | Self::SetNx { .. }
                | Self::MSet(_)
                | Self::Append { .. }
                | Self::Del(_)
                | Self::Incr { .. }
                | Self::FlushDb
        )
    }

    /// Whether it is a question to the table.
    pub fn looks(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::MGet(_)
                | Self::Strlen(_)
                | Self::Type(_)
                | Self::Exists(_)
                | Self::Keys(_)
                | Self::DbSize
        )
    }
}

/// A condition of a `SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// `NX`: only if nothing is there.
    Absent,
    /// `XX`: only if something is there.
    Present,
}

/// What a client library says about its connection. `OK` answers all but the two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client<'a> {
    /// `SETNAME name`: printable, without spaces; empty = forget it.
    SetName(&'a [u8]),
    /// `GETNAME`: answer the name, or null.
    GetName,
    /// `SETINFO LIB-NAME|LIB-VER value`.
    SetInfo(&'a [u8]),
    /// `ID`: answer the connection's number.
    Id,
    /// `NO-EVICT ON|OFF`: nothing is ever evicted here.
    NoEvict,
    /// `NO-TOUCH ON|OFF`: nothing depends on when a key was last used.
    NoTouch,
}

/// The ways to misbehave: what the watchdog is there to detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debug {
    /// `SLEEP seconds`: answer late, without beating meanwhile.
    Sleep(Duration),
    /// `SPIN [seconds]`: burn the processor without beating; no limit = for ever.
    Spin(Option<Duration>),
    /// `BLOCK [seconds]`: sleep without beating; no limit = for ever.
    Block(Option<Duration>),
    /// `ABORT`: die by `SIGABRT`.
    Abort,
}

/// Why a request is not carried out; the text is the error reply, code included.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// No such command; its name and the front of its arguments, printable and truncated.
    #[error("ERR unknown command '{name}', with args beginning with: {arguments}")]
    Unknown {
        /// Its name.
        name: String,
        /// Each in quotes, with a blank behind it.
        arguments: String,
    },
    /// An option of `SET` that has to do with expiry.
    #[error("ERR keys do not expire here: SET takes NX, XX, GET and KEEPTTL")]
    Expiry,
    /// `WATCH`.
    #[error("ERR WATCH is not supported: a MULTI..EXEC is one update, without a condition")]
    Watch,
    /// `DECRBY` of the smallest number.
    #[error("ERR decrement would overflow")]
    Overflow,
    /// No such subcommand; its name, printable and truncated.
    #[error("ERR unknown subcommand '{0}'")]
    UnknownSubcommand(String),
    /// Too few or too many arguments for this command.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    /// An option that is not understood.
    #[error("ERR syntax error")]
    Syntax,
    /// Not a decimal 64-bit number.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// Not a number.
    #[error("ERR value is not a valid float")]
    NotFloat,
    /// Negative, or more than [`MAX_PAUSE_SECONDS`].
    #[error("ERR value is out of range, must be between 0 and {MAX_PAUSE_SECONDS}")]
    Pause,
    /// `SELECT` of a table other than 0.
    #[error("ERR DB index is out of range")]
    Table,
    /// `HELLO` with a version that is not a number.
    #[error("ERR Protocol version is not an integer or out of range")]
    NotVersion,
    /// `HELLO` with a version other than 2 and 3; clients then go on without `HELLO`.
    #[error("NOPROTO unsupported protocol version")]
    Version,
    /// `HELLO` with an option that is not understood; printable and truncated.
    #[error("ERR Syntax error in HELLO option '{0}'")]
    HelloOption(String),
    /// `CLIENT SETINFO` of something unknown; printable and truncated.
    #[error("ERR Unrecognized option '{0}'")]
    Attribute(String),
    /// A name that could not be listed.
    #[error("ERR {0} cannot contain spaces, newlines or special characters.")]
    Characters(&'static str),
}

/// Says what the words of a request ask for. No words at all are an unknown command; a caller
/// skips such requests.
pub fn parse<'a>(words: &[&'a [u8]]) -> Result<Command<'a>, Refused> {
    let (first, args) = words.split_first().map_or((&b""[..], words), |(word, rest)| (*word, rest));
    let mut room = [0; NAME];
    let name = lower(first, &mut room);
    Ok(match (name, args) {
        (b"ping", []) => Command::Ping(None),
        (b"ping", [message]) => Command::Ping(Some(message)),
        (b"echo", [message]) => Command::Echo(message),
        (b"get", [key]) => Command::Get(key),
        (b"mget", [_, ..]) => Command::MGet(args.to_vec()),
        (b"strlen", [key]) => Command::Strlen(key),
        (b"type", [key]) => Command::Type(key),
        (b"set", [key, value, options @ ..]) => set(key, value, options)?,
        (b"getset", [key, value]) => Command::Set { key, value, when: When::Always, get: true },
        (b"setnx", [key, value]) => Command::SetNx { key, value },
        (b"mset", [_, _, ..]) if args.len().is_multiple_of(2) => {
            let (pairs, _) = args.as_chunks::<2>();
            Command::MSet(pairs.iter().map(|[key, value]| (*key, *value)).collect())
        }
        (b"append", [key, value]) => Command::Append { key, value },
        (b"del" | b"unlink", [_, ..]) => Command::Del(args.to_vec()),
        (b"exists", [_, ..]) => Command::Exists(args.to_vec()),
        (b"incr", [key]) => Command::Incr { key, by: 1 },
        (b"incrby", [key, by]) => {
            Command::Incr { key, by: integer(by).ok_or(Refused::NotInteger)? }
        }
        (b"decr", [key]) => Command::Incr { key, by: -1 },
        (b"decrby", [key, by]) => {
            let by = integer(by).ok_or(Refused::NotInteger)?;
            Command::Incr { key, by: by.checked_neg().ok_or(Refused::Overflow)? }
        }
        (b"keys", [pattern]) => Command::Keys(pattern),
        (b"dbsize", []) => Command::DbSize,
        (b"flushdb" | b"flushall", []) => Command::FlushDb,
        (b"flushdb" | b"flushall", [mode]) if one_of(mode, &["async", "sync"]) => Command::FlushDb,
        (b"info", []) => Command::Info(None),
        (b"info", [section]) => Command::Info(Some(section)),
        (b"info", [_, _, ..]) | (b"flushdb" | b"flushall", _) => return Err(Refused::Syntax),
        (b"multi", []) => Command::Multi,
        (b"exec", []) => Command::Exec,
        (b"discard", []) => Command::Discard,
        (b"watch", [_, ..]) => Command::Watch,
        (b"unwatch", []) => Command::Unwatch,
        (b"post" | b"host:", _) => Command::Foreign,
        (_, [_, last]) if last.starts_with(b"HTTP/") => Command::Foreign,
        (b"quit", _) => Command::Quit,
        (b"command", _) => Command::Commands,
        (b"config", [get, _, ..]) if one_of(get, &["get"]) => Command::ConfigGet,
        (b"function", [flush, ..]) if one_of(flush, &["flush"]) => Command::FunctionFlush,
        (b"config" | b"function", [subcommand, ..]) => {
            return Err(Refused::UnknownSubcommand(printable(subcommand)));
        }
        (b"client", [subcommand, args @ ..]) => Command::Client(client(subcommand, args)?),
        (b"hello", []) => Command::Hello { version: None, name: None },
        (b"hello", [version, options @ ..]) => hello(version, options)?,
        (b"select", [table]) => match integer(table) {
            Some(0) => Command::Select,
            Some(_) => return Err(Refused::Table),
            None => return Err(Refused::NotInteger),
        },
        (b"debug", [subcommand, args @ ..]) => Command::Debug(debug(subcommand, args)?),
        _ => {
            let known = NAMES.iter().find(|known| known.as_bytes() == name);
            return Err(known.map_or_else(
                || Refused::Unknown { name: printable(first), arguments: quoted(args) },
                |known| Refused::Arity(known),
            ));
        }
    })
}

fn client<'a>(subcommand: &[u8], args: &[&'a [u8]]) -> Result<Client<'a>, Refused> {
    Ok(match (lower(subcommand, &mut [0; NAME]), args) {
        (b"setname", [name]) => Client::SetName(graphic(name, "Client names")?),
        (b"setname", _) => return Err(Refused::Arity("client|setname")),
        (b"getname", []) => Client::GetName,
        (b"getname", _) => return Err(Refused::Arity("client|getname")),
        (b"setinfo", [attribute, value]) => match lower(attribute, &mut [0; NAME]) {
            b"lib-name" => Client::SetInfo(graphic(value, "lib-name")?),
            b"lib-ver" => Client::SetInfo(graphic(value, "lib-ver")?),
            _ => return Err(Refused::Attribute(printable(attribute))),
        },
        (b"setinfo", _) => return Err(Refused::Arity("client|setinfo")),
        (b"id", []) => Client::Id,
        (b"id", _) => return Err(Refused::Arity("client|id")),
        (b"no-evict", [mode]) if one_of(mode, &["on", "off"]) => Client::NoEvict,
        (b"no-touch", [mode]) if one_of(mode, &["on", "off"]) => Client::NoTouch,
        (b"no-evict" | b"no-touch", [_]) => return Err(Refused::Syntax),
        (b"no-evict", _) => return Err(Refused::Arity("client|no-evict")),
        (b"no-touch", _) => return Err(Refused::Arity("client|no-touch")),
        _ => return Err(Refused::UnknownSubcommand(printable(subcommand))),
    })
}

fn hello<'a>(version: &[u8], options: &[&'a [u8]]) -> Result<Command<'a>, Refused> {
    let version = match integer(version) {
        Some(2) => Some(Protocol::Two),
        Some(3) => Some(Protocol::Three),
        Some(_) => return Err(Refused::Version),
        None => return Err(Refused::NotVersion),
    };
    let name = match options {
        [] => None,
        [option, name] if one_of(option, &["setname"]) => Some(graphic(name, "Client names")?),
        // AUTH too: to accept a password that nobody checks would be a lie.
        [option, ..] => return Err(Refused::HelloOption(printable(option))),
    };
    Ok(Command::Hello { version, name })
}

fn set<'a>(key: &'a [u8], value: &'a [u8], options: &[&'a [u8]]) -> Result<Command<'a>, Refused> {
    let (mut when, mut get) = (When::Always, false);
    for option in options {
        match lower(option, &mut [0; NAME]) {
            b"nx" if when == When::Always => when = When::Absent,
            b"xx" if when == When::Always => when = When::Present,
            b"get" => get = true,
            b"keepttl" => {}
            b"ex" | b"px" | b"exat" | b"pxat" => return Err(Refused::Expiry),
            _ => return Err(Refused::Syntax),
        }
    }
    Ok(Command::Set { key, value, when, get })
}

fn debug(subcommand: &[u8], args: &[&[u8]]) -> Result<Debug, Refused> {
    Ok(match (lower(subcommand, &mut [0; NAME]), args) {
        (b"sleep", [seconds]) => Debug::Sleep(pause(seconds)?),
        (b"sleep", _) => return Err(Refused::Arity("debug|sleep")),
        (b"spin", []) => Debug::Spin(None),
        (b"spin", [seconds]) => Debug::Spin(Some(pause(seconds)?)),
        (b"spin", _) => return Err(Refused::Arity("debug|spin")),
        (b"block", []) => Debug::Block(None),
        (b"block", [seconds]) => Debug::Block(Some(pause(seconds)?)),
        (b"block", _) => return Err(Refused::Arity("debug|block")),
        (b"abort", []) => Debug::Abort,
        (b"abort", _) => return Err(Refused::Arity("debug|abort")),
        _ => return Err(Refused::UnknownSubcommand(printable(subcommand))),
    })
}

/// The word in lower case; empty, which is no name, if it is longer than any name.
fn lower<'r>(word: &[u8], room: &'r mut [u8; NAME]) -> &'r [u8] {
    let Some(room) = room.get_mut(..word.len()) else { return b"" };
    room.copy_from_slice(word);
    room.make_ascii_lowercase();
    room
}

fn one_of(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// The front of a word, fit for a log line and an error reply.
fn printable(word: &[u8]) -> String {
    word.get(..QUOTED).unwrap_or(word).escape_ascii().to_string()
}

/// The front of some words, as Redis quotes them: at most 128 bytes.
fn quoted(words: &[&[u8]]) -> String {
    let mut text = String::new();
    for word in words {
        if text.len() >= 2 * QUOTED {
            break;
        }
        let _ = write!(text, "'{}' ", printable(word));
    }
    text
}

/// The word, if it could be shown in a list of words. `what` names it otherwise.
fn graphic<'a>(word: &'a [u8], what: &'static str) -> Result<&'a [u8], Refused> {
    if word.iter().all(u8::is_ascii_graphic) { Ok(word) } else { Err(Refused::Characters(what)) }
}

fn pause(word: &[u8]) -> Result<Duration, Refused> {
    let seconds = str::from_utf8(word).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| seconds.is_finite()).ok_or(Refused::NotFloat)?;
    if !(0.0..=f64::from(MAX_PAUSE_SECONDS)).contains(&seconds) {
        return Err(Refused::Pause);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| Refused::Pause)
}

/// Reads a number the way Redis does, in arguments and in stored values alike: the one spelling
/// that writing it back would produce. No `+`, no leading zero, no blanks, no `-0`.
pub fn integer(text: &[u8]) -> Option<i64> {
    match text {
        b"0" => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whether `text` matches the whole of `pattern`, as `KEYS` in Redis: `*` any bytes, `?` one byte,
/// `[ab]` `[a-c]` one of these, `[^a]` one of the others, `\x` the byte `x` itself.
///
/// Only the last `*` is ever retried: an earlier one taking more could not help, since what stands
/// between the two has already matched at the first place it can. So there is no recursion, and
/// about `text.len()` squared elements are compared. An element may be as long as the pattern,
/// though: past [`GLOB_STEPS`] the answer is "no".
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    // Steps are counted behind each element: this bounds the element that exceeds them.
    if pattern.len() > GLOB_STEPS {
        return false;
    }
    let (mut pattern, mut text) = (pattern, text);
    let mut steps = GLOB_STEPS;
    // What follows the last star, and where in the text it was last tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([], []) => return true,
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                star = Some((rest, text));
                continue;
            }
            ([_, ..], [byte, after @ ..]) => {
                let (matches, rest) = element(pattern, *byte);
                let Some(left) = steps.checked_sub(pattern.len() - rest.len()) else {
                    return false;
                };
                steps = left;
                if matches {
                    (pattern, text) = (rest, after);
                    continue;
                }
            }
            // The pattern or the text ended first.
            _ => {}
        }
        // The last star takes one byte more.
        let Some((after, [_, shorter @ ..])) = star else { return false };
        (pattern, text) = (after, shorter);
        star = Some((after, shorter));
    }
}

/// Compares one byte with the first element of a pattern, which is neither empty nor a star;
/// answers also what follows the element.
fn element(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    match pattern {
        [b'?', rest @ ..] => (true, rest),
        [b'[', b'^', class @ ..] => {
            let (found, rest) = in_class(class, byte);
            (!found, rest)
        }
        [b'[', class @ ..] => in_class(class, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte, rest),
        [] => (false, pattern),
    }
}

/// Looks a byte up in what follows `[` or `[^`. As in Redis a class that nothing closes ends with
/// the pattern, a range may be written backwards, and `]` may be the end of a range.
fn in_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut found = false;
    let mut class = class;
    loop {
        class = match class {
            [] => return (found, class),
            [b'\\', member, rest @ ..] => {
                found |= *member == byte;
                rest
            }
            [b']', rest @ ..] => return (found, rest),
            [from, b'-', to, rest @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [member, rest @ ..] => {
                found |= *member == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::resp::{Decoded, decode};
    use super::*;
    use proptest::prelude::*;

    /// Parses a line as a client would type it.
    fn typed(line: &str) -> Result<Command<'_>, Refused> {
        // Leaked, so that rows of a table can be compared without a buffer each.
        let line: &'static str = Box::leak(format!("{line}\n").into_boxed_str());
        let Ok(Decoded::Request { words, .. }) = decode(line.as_bytes()) else {
            panic!("not a request: {line}");
        };
        parse(&words)
    }

    fn plain<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
        Command::Set { key, value, when: When::Always, get: false }
    }

    #[test]
    fn a_line_that_may_be_half_a_write_is_told_apart() {
        for half in ["SET k v", "se", " s", "s", "DEL", "incr n", "EXEC", "\tset", "a"] {
            assert!(may_be_half_a_write(half.as_bytes()), "{half}");
        }
        for other in ["GET k", "PING", "Bonjour", "in the house", "42", "\u{e9}", "settle", "x"] {
            assert!(!may_be_half_a_write(other.as_bytes()), "{other}");
        }
        for name in WRITES {
            assert!(is_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn commands_are_understood() {
        use Command as C;
        let seconds = Duration::from_secs;
        let table: &[(&str, Command<'_>)] = &[
            ("PING", C::Ping(None)),
            ("ping hi", C::Ping(Some(b"hi"))),
            ("eChO hi", C::Echo(b"hi")),
            ("GET Key", C::Get(b"Key")),
            ("SET k 'a b'", plain(b"k", b"a b")),
            ("SET k ''", plain(b"k", b"")),
            (
                "SET k v nx get KEEPTTL",
                C::Set { key: b"k", value: b"v", when: When::Absent, get: true },
            ),
            ("SET k v XX", C::Set { key: b"k", value: b"v", when: When::Present, get: false }),
            ("GETSET k v", C::Set { key: b"k", value: b"v", when: When::Always, get: true }),
            ("SETNX k v", C::SetNx { key: b"k", value: b"v" }),
            ("MSET a 1 b 2", C::MSet(vec![(b"a", b"1"), (b"b", b"2")])),
            ("MGET a b", C::MGet(vec![b"a", b"b"])),
            ("APPEND k v", C::Append { key: b"k", value: b"v" }),
            ("STRLEN k", C::Strlen(b"k")),
            ("TYPE k", C::Type(b"k")),
            ("DECR n", C::Incr { key: b"n", by: -1 }),
            ("DECRBY n -3", C::Incr { key: b"n", by: 3 }),
            ("UNLINK a", C::Del(vec![b"a"])),
            ("FLUSHALL SYNC", C::FlushDb),
            ("CONFIG GET save", C::ConfigGet),
            ("FUNCTION FLUSH", C::FunctionFlush),
            ("MULTI", C::Multi),
            ("EXEC", C::Exec),
            ("DISCARD", C::Discard),
            ("WATCH a", C::Watch),
            ("UNWATCH", C::Unwatch),
            ("POST / HTTP/1.1", C::Foreign),
            ("host: localhost:2222", C::Foreign),
            ("GET / HTTP/1.1", C::Foreign),
            ("PRI * HTTP/2.0", C::Foreign),
            ("DEL a", C::Del(vec![b"a"])),
            ("DEL a b a", C::Del(vec![b"a", b"b", b"a"])),
            ("EXISTS a a", C::Exists(vec![b"a", b"a"])),
            ("INCR n", C::Incr { key: b"n", by: 1 }),
            ("INCRBY n -9223372036854775808", C::Incr { key: b"n", by: i64::MIN }),
            ("KEYS [a-c]*", C::Keys(b"[a-c]*")),
            ("DBSIZE", C::DbSize),
            ("FLUSHDB", C::FlushDb),
            ("FLUSHDB async", C::FlushDb),
            ("FLUSHDB SYNC", C::FlushDb),
            ("INFO", C::Info(None)),
            ("INFO server", C::Info(Some(b"server"))),
            ("QUIT", C::Quit),
            ("QUIT now", C::Quit),
            ("COMMAND", C::Commands),
            ("COMMAND DOCS get", C::Commands),
            ("CLIENT SETNAME me", C::Client(Client::SetName(b"me"))),
            ("CLIENT SETNAME ''", C::Client(Client::SetName(b""))),
            ("CLIENT getname", C::Client(Client::GetName)),
            ("CLIENT SETINFO LIB-NAME redis-py", C::Client(Client::SetInfo(b"redis-py"))),
            ("client setinfo lib-ver 5.0", C::Client(Client::SetInfo(b"5.0"))),
            ("CLIENT ID", C::Client(Client::Id)),
            ("CLIENT NO-EVICT on", C::Client(Client::NoEvict)),
            ("CLIENT NO-TOUCH OFF", C::Client(Client::NoTouch)),
            ("HELLO", C::Hello { version: None, name: None }),
            ("HELLO 2", C::Hello { version: Some(Protocol::Two), name: None }),
            ("HELLO 3 SETNAME me", C::Hello { version: Some(Protocol::Three), name: Some(b"me") }),
            ("SELECT 0", C::Select),
            ("DEBUG SLEEP 0", C::Debug(Debug::Sleep(Duration::ZERO))),
            ("DEBUG SLEEP -0.0", C::Debug(Debug::Sleep(Duration::ZERO))),
            ("debug sleep 1.5", C::Debug(Debug::Sleep(Duration::from_millis(1500)))),
            ("DEBUG SLEEP 86400", C::Debug(Debug::Sleep(seconds(86_400)))),
            ("DEBUG SPIN", C::Debug(Debug::Spin(None))),
            ("DEBUG SPIN 2", C::Debug(Debug::Spin(Some(seconds(2))))),
            ("DEBUG BLOCK", C::Debug(Debug::Block(None))),
            ("DEBUG BLOCK 3", C::Debug(Debug::Block(Some(seconds(3))))),
            ("DEBUG ABORT", C::Debug(Debug::Abort)),
        ];
        for (line, expected) in table {
            assert_eq!(typed(line).as_ref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn refusals_are_worded_as_in_redis() {
        let table: &[(&str, &str)] = &[
            ("foo", "ERR unknown command 'foo', with args beginning with: "),
            ("FOO bar", "ERR unknown command 'FOO', with args beginning with: 'bar' "),
            ("''", "ERR unknown command '', with args beginning with: "),
            (
                "g\x07\u{e9}t k",
                "ERR unknown command 'g\\x07\\xc3\\xa9t', with args beginning with: 'k' ",
            ),
            ("PING a b", "ERR wrong number of arguments for 'ping' command"),
            ("ECHO", "ERR wrong number of arguments for 'echo' command"),
            ("GET", "ERR wrong number of arguments for 'get' command"),
            ("GET a b", "ERR wrong number of arguments for 'get' command"),
            ("SET k", "ERR wrong number of arguments for 'set' command"),
            ("SET k v NX XX", "ERR syntax error"),
            ("SET k v now", "ERR syntax error"),
            ("SET k v EX 10", "ERR keys do not expire here: SET takes NX, XX, GET and KEEPTTL"),
            ("MSET a", "ERR wrong number of arguments for 'mset' command"),
            ("MSET a 1 b", "ERR wrong number of arguments for 'mset' command"),
            ("DECRBY n -9223372036854775808", "ERR decrement would overflow"),
            ("DEL", "ERR wrong number of arguments for 'del' command"),
            ("EXISTS", "ERR wrong number of arguments for 'exists' command"),
            ("INCR", "ERR wrong number of arguments for 'incr' command"),
            ("INCR n 2", "ERR wrong number of arguments for 'incr' command"),
            ("INCRBY n", "ERR wrong number of arguments for 'incrby' command"),
            ("INCRBY n x", "ERR value is not an integer or out of range"),
            ("INCRBY n 9223372036854775808", "ERR value is not an integer or out of range"),
            ("KEYS", "ERR wrong number of arguments for 'keys' command"),
            ("DBSIZE x", "ERR wrong number of arguments for 'dbsize' command"),
            ("FLUSHDB now", "ERR syntax error"),
            ("FLUSHDB SYNC SYNC", "ERR syntax error"),
            ("INFO a b", "ERR syntax error"),
            ("CLIENT", "ERR wrong number of arguments for 'client' command"),
            ("CONFIG SET save x", "ERR unknown subcommand 'SET'"),
            ("CLIENT FOO", "ERR unknown subcommand 'FOO'"),
            ("CLIENT REPLY OFF", "ERR unknown subcommand 'REPLY'"),
            ("CLIENT SETNAME", "ERR wrong number of arguments for 'client|setname' command"),
            ("CLIENT GETNAME x", "ERR wrong number of arguments for 'client|getname' command"),
            ("CLIENT SETINFO x", "ERR wrong number of arguments for 'client|setinfo' command"),
            ("CLIENT ID x", "ERR wrong number of arguments for 'client|id' command"),
            ("CLIENT NO-EVICT", "ERR wrong number of arguments for 'client|no-evict' command"),
            ("CLIENT NO-TOUCH", "ERR wrong number of arguments for 'client|no-touch' command"),
            ("CLIENT NO-TOUCH maybe", "ERR syntax error"),
            ("CLIENT NO-EVICT maybe", "ERR syntax error"),
            ("CLIENT SETINFO LIB-X y", "ERR Unrecognized option 'LIB-X'"),
            (
                "CLIENT SETNAME 'a b'",
                "ERR Client names cannot contain spaces, newlines or special characters.",
            ),
            (
                "CLIENT SETINFO LIB-VER 'a b'",
                "ERR lib-ver cannot contain spaces, newlines or special characters.",
            ),
            ("HELLO x", "ERR Protocol version is not an integer or out of range"),
            ("HELLO 4", "NOPROTO unsupported protocol version"),
            ("HELLO -1", "NOPROTO unsupported protocol version"),
            ("HELLO 2 AUTH u p", "ERR Syntax error in HELLO option 'AUTH'"),
            ("HELLO 2 SET a", "ERR Syntax error in HELLO option 'SET'"),
            ("HELLO 2 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
            ("SELECT", "ERR wrong number of arguments for 'select' command"),
            ("SELECT 1", "ERR DB index is out of range"),
            ("SELECT x", "ERR value is not an integer or out of range"),
            ("DEBUG", "ERR wrong number of arguments for 'debug' command"),
            ("DEBUG FOO", "ERR unknown subcommand 'FOO'"),
            ("DEBUG SLEEP", "ERR wrong number of arguments for 'debug|sleep' command"),
            ("DEBUG SPIN 1 2", "ERR wrong number of arguments for 'debug|spin' command"),
            ("DEBUG BLOCK 1 2", "ERR wrong number of arguments for 'debug|block' command"),
            ("DEBUG ABORT now", "ERR wrong number of arguments for 'debug|abort' command"),
            ("DEBUG SLEEP x", "ERR value is not a valid float"),
            ("DEBUG SLEEP ''", "ERR value is not a valid float"),
            ("DEBUG SLEEP nan", "ERR value is not a valid float"),
            ("DEBUG SPIN inf", "ERR value is not a valid float"),
            ("DEBUG SLEEP 1e999", "ERR value is not a valid float"),
            ("DEBUG SLEEP -1", "ERR value is out of range, must be between 0 and 86400"),
            ("DEBUG BLOCK 86400.1", "ERR value is out of range, must be between 0 and 86400"),
        ];
        for (line, expected) in table {
            let refused = typed(line).expect_err(line);
            assert_eq!(refused.to_string(), *expected, "{line}");
        }
    }

    #[test]
    fn no_words_are_no_command() {
        assert_eq!(
            parse(&[]).unwrap_err().to_string(),
            "ERR unknown command '', with args beginning with: "
        );
    }

    #[test]
    fn an_unknown_name_is_truncated() {
        let name = vec![b'x'; 60_000];
        let told = parse(&[&name]).unwrap_err().to_string();
        assert!(told.contains(&format!("'{}'", "x".repeat(QUOTED))) && told.len() < 200, "{told}");
    }

    #[test]
    fn every_name_in_the_list_is_a_command() {
        for name in NAMES {
            // Some number of arguments gets it past "unknown".
            assert!(!matches!(typed(name), Err(Refused::Unknown { .. })), "{name}");
            let understood = ["", " 0", " a 1", " id", " abort", " get a", " flush"]
                .iter()
                .any(|args| typed(&format!("{name}{args}")).is_ok());
            assert!(understood, "{name}");
        }
    }

    /// A pattern at the bound of what a key can ask for: 32 classes of five bytes, tried at each
    /// place of a key of 64 bytes.
    #[test]
    fn no_sensible_pattern_runs_out_of_steps() {
        let pattern = format!("*{}b", "[xya]".repeat(32));
        let key = format!("{}b", "a".repeat(63));
        assert!(glob_match(pattern.as_bytes(), key.as_bytes()));
    }

    #[test]
    fn what_changes_the_table_is_known() {
        let writes = |line| typed(line).is_ok_and(|command| command.writes());
        for line in
            ["SET k v", "SETNX k v", "MSET k v", "APPEND k v", "DEL k", "DECR n", "FLUSHALL"]
        {
            assert!(writes(line), "{line}");
        }
        for line in ["PING", "GET k", "MGET k", "STRLEN k", "KEYS *", "MULTI", "EXEC", "SELECT 0"] {
            assert!(!writes(line), "{line}");
        }
    }

    #[test]
    fn integers_have_one_spelling() {
        let table: &[(&str, Option<i64>)] = &[
            ("0", Some(0)),
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("1x", None),
            ("\u{661}", None),
        ];
        for (text, expected) in table {
            assert_eq!(integer(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn patterns_match_as_in_redis() {
        let table: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("abc", "abc", true),
            ("abc", "ABC", false),
            ("*", "", true),
            ("*", "abc", true),
            ("***", "abc", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c", "ac", true),
            ("a*c*e", "abcde", true),
            ("*ab*ab", "abxabyab", true),
            ("*aab", "aaaab", true),
            ("a*b*c", "acb", false),
            ("?", "a", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("a??", "ab", false),
            ("*?", "", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[a-]", "b", false),
            ("[a-]", "]", true),
            ("[-a]", "-", true),
            ("[a\\]b]", "]", true),
            ("[\\^a]", "^", true),
            ("[a^]", "^", true),
            ("[]", "]", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[abc", "b", true),
            ("[abc", "d", false),
            ("[", "[", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\?b", "a?b", true),
            ("\\\\", "\\", true),
            ("a\\", "a\\", true),
            ("*[0-9]", "user:7", true),
            ("user:*:name", "user:7:name", true),
        ];
        for (pattern, text, expected) in table {
            let matches = glob_match(pattern.as_bytes(), text.as_bytes());
            assert_eq!(matches, *expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn a_costly_pattern_matches_nothing() {
        let class = |members: usize| [&b"["[..], &vec![b'b'; members], b"a]"].concat();
        assert!(glob_match(&class(GLOB_STEPS - 3), b"a"));
        assert!(!glob_match(&class(GLOB_STEPS - 2), b"a"), "longer than the steps");
        let tried_thrice = [&b"*"[..], &class(GLOB_STEPS / 2), b"c"].concat();
        assert!(glob_match(&tried_thrice, b"ac"));
        assert!(!glob_match(&tried_thrice, b"aaac"), "exceeds the steps by retrying");
        // The longest retry of single bytes on the longest key stays within the steps.
        let (head, key) = ([b'a'; 32], [&[b'a'; 63][..], b"b"].concat());
        assert!(glob_match(&[b"*", &head[..], b"b"].concat(), &key));
    }

    /// Words that often come near a command.
    fn near_words() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let known = prop::sample::select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec());
        let other = prop::sample::select(&["sleep", "spin", "0", "-1", "1e9", "setname", "on"][..])
            .prop_map(|word| word.as_bytes().to_vec());
        let noise = prop::collection::vec(any::<u8>(), 0..20);
        prop::collection::vec(prop_oneof![known, other, noise], 0..6)
    }

    /// The definition of matching, by recursion: slow, short, and written apart from the code.
    fn matches_by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| matches_by_definition(rest, &text[n..])),
            _ => text.split_first().is_some_and(|(byte, text)| {
                let (matches, rest) = element(pattern, *byte);
                matches && matches_by_definition(rest, text)
            }),
        }
    }

    proptest! {
        #[test]
        fn arbitrary_words_never_panic(words in near_words()) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            if let Err(refused) = parse(&words) {
                let text = refused.to_string();
                prop_assert!(text.len() < 400 && !text.contains(['\r', '\n']));
            }
        }

        #[test]
        fn names_are_case_insensitive(name in prop::sample::select(&NAMES[..]), upper: u8) {
            let mixed: Vec<u8> = name.bytes().enumerate()
                .map(|(at, b)| if upper >> (at % 8) & 1 == 1 { b.to_ascii_uppercase() } else { b })
                .collect();
            prop_assert_eq!(parse(&[&mixed]), parse(&[name.as_bytes()]));
        }

        #[test]
        fn integers_are_read_back(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn patterns_match_as_defined(pattern in "[ab*?\\[\\]^\\\\-]{0,9}", text in "[ab^-]{0,9}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob_match(pattern, text), matches_by_definition(pattern, text));
        }

        #[test]
        fn arbitrary_patterns_never_panic(
            pattern in prop::collection::vec(any::<u8>(), 0..60),
            text in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            glob_match(&pattern, &text);
            prop_assert!(glob_match(b"*", &text));
        }
    }
}
