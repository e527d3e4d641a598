//! The answering side of the control socket: one request line, then lines of progress.
//!
//! The watchdog never waits for a client here: what a slow one does not take is not sent to it.
//! Only the user who runs osps, and root, may ask.
//!
//! ```text
//! TEXT           how it goes: standard output, unless the asker wants quiet
//! problem TEXT   what is wrong: standard error
//! ok TEXT        the end: done
//! failed TEXT    the end: done, and it did not come out well
//! error TEXT     the end: refused
//! ```

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use osps_heart::words::Request;

use crate::sys::poll::{Interest, Poll};
use crate::sys::{Failed, socket};

/// Askers served at once; further ones are turned away.
const ASKERS: usize = 32;
/// Longest request line: every name of the largest instance.
const LINE: usize = 16 << 10;
/// The verb of a request to become another binary.
const UPGRADE: &str = "upgrade";
/// What is read at once.
const CHUNK: usize = 4096;

/// What somebody asks for: a request line, as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whom to answer.
    pub token: u64,
    /// The user who asks.
    pub uid: u32,
    /// What.
    pub wish: Wish,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Stop everything in order: `stop`.
    StopAll,
    /// Read the file again: `reload`.
    ReloadFile,
    /// Become this binary: `upgrade /usr/bin/osps`.
    Upgrade(PathBuf),
    /// Something for some services: `restart web db`, `pause 600000 web` (milliseconds).
    Some {
        /// What.
        request: Request,
        /// For how long, where that is asked for.
        span: Duration,
        /// For whom: names of services, or of instances of them.
        names: Vec<String>,
    },
}

impl Wish {
    /// The line that asks for it.
    pub fn line(&self) -> String {
        match self {
            Wish::StopAll => Request::Stop.word().to_owned(),
            Wish::ReloadFile => Request::Reload.word().to_owned(),
            Wish::Upgrade(image) => format!("{UPGRADE} {}", image.display()),
            Wish::Some { request: Request::Pause, span, names } => {
                format!("{} {} {}", Request::Pause, span.as_millis(), names.join(" "))
            }
            Wish::Some { request, names, .. } => format!("{request} {}", names.join(" ")),
        }
    }

    /// What a line asks for.
    pub fn parse(line: &[u8]) -> Option<Wish> {
        let line = str::from_utf8(line).ok()?;
        if let Some(image) = line.strip_prefix(UPGRADE).and_then(|rest| rest.strip_prefix(' ')) {
            let image = PathBuf::from(image);
            return image.is_absolute().then_some(Wish::Upgrade(image));
        }
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let verb = words.next()?;
        let request = Request::ALL.into_iter().find(|request| request.word() == verb)?;
        let span = match request {
            Request::Pause => Duration::from_millis(words.next()?.parse().ok()?),
            _ => Duration::ZERO,
        };
        let names: Vec<_> = words.map(str::to_owned).collect();
        // An empty name is nobody, and not all: `stop "$UNSET"`.
        if names.is_empty() && line != verb {
            return None;
        }
        match (request, names.is_empty()) {
            (Request::Stop, true) => Some(Wish::StopAll),
            (Request::Reload, true) => Some(Wish::ReloadFile),
            (_, true) => None,
            (request, false) => Some(Wish::Some { request, span, names }),
        }
    }
}

#[derive(Debug)]
struct Asker {
    token: u64,
    stream: UnixStream,
    uid: u32,
    line: Vec<u8>,
    subscribed: bool,
}

/// The control socket and those who are connected to it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    askers: Vec<Asker>,
    next: u64,
    token: u64,
    resting: bool,
}

impl Control {
    /// Listens in the run directory. `token` is the listener's; askers get those after it.
    pub fn open(dir: BorrowedFd<'_>, name: &str, poll: &Poll, token: u64) -> Result<Self, Failed> {
        let listener = socket::listen_unix(dir, name)?;
        poll.add(&listener, token, Interest::READ)?;
        let next = token + 1;
        Ok(Control { listener, askers: Vec::new(), next, token, resting: false })
    }

    /// Listens again after a lack of descriptors.
    pub fn rested(&mut self, poll: &Poll) {
        if self.resting && poll.add(&self.listener, self.token, Interest::READ).is_ok() {
            self.resting = false;
        }
    }

    /// Takes a new asker.
    pub fn accept(&mut self, poll: &Poll) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: the socket stays ready, so it is left alone until the next
                // check, instead of spinning on it.
                if error.kind() != ErrorKind::WouldBlock {
                    poll.remove(&self.listener);
                    self.resting = true;
                }
                return;
            }
        };
        let ours = rustix::process::geteuid().as_raw();
        let uid = socket::peer(&stream).map(|(uid, _)| uid).ok();
        let uid = uid.filter(|uid| *uid == ours || *uid == 0);
        let _ = stream.set_nonblocking(true);
        let Some(uid) = uid else {
            let _ = (&stream).write(b"error not your osps\n");
            return;
        };
        if self.askers.len() == ASKERS {
            // Who has not asked for anything makes room, or else who waits longest: what it asked
            // for is done all the same.
            let idle = self.askers.iter().position(|asker| !asker.subscribed).unwrap_or(0);
            let gone = self.askers.remove(idle);
            let _ = (&gone.stream).write(b"error busy\n");
            poll.remove(&gone.stream);
        }
        if poll.add(stream.as_fd(), self.next, Interest::READ).is_ok() {
            self.askers.push(Asker {
                token: self.next,
                stream,
                uid,
                line: Vec::new(),
                subscribed: false,
            });
            self.next += 1;
        }
    }

    /// Reads from the asker with this token. A whole request makes it wait for lines of progress;
    /// whoever carries the request out closes the connection.
    pub fn read(&mut self, poll: &Poll, token: u64) -> Option<Asked> {
        let index = self.askers.iter().position(|asker| asker.token == token)?;
        let asker = &mut self.askers[index];
        let mut chunk = [0u8; CHUNK];
        let gone = match asker.stream.read(&mut chunk) {
            Ok(0) => true,
            Ok(length) => {
                asker.line.extend_from_slice(&chunk[..length]);
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        let end = asker.line.iter().position(|byte| *byte == b'\n');
        let refusal = match end {
            // It asked already, and may only listen.
            Some(_) if asker.subscribed => Some("error one request at a time"),
            Some(end) => match Wish::parse(&asker.line[..end]) {
                Some(wish) => {
                    asker.subscribed = true;
                    asker.line.clear();
                    return Some(Asked { token, uid: asker.uid, wish });
                }
                None => Some("error unknown request"),
            },
            None if asker.line.len() > LINE => Some("error request too long"),
            None => None,
        };
        if let Some(refusal) = refusal {
            self.close(poll, token, refusal);
        } else if gone {
            poll.remove(&self.askers.remove(index).stream);
        }
        None
    }

    /// Tells one of those who asked how it goes.
    pub fn tell(&self, token: u64, line: &str) {
        if let Some(asker) = self.askers.iter().find(|asker| asker.token == token) {
            let _ = (&asker.stream).write(format!("{line}\n").as_bytes());
        }
    }

    /// Tells one of those who asked the end, and lets it go.
    pub fn close(&mut self, poll: &Poll, token: u64, line: &str) {
        self.tell(token, line);
        if let Some(index) = self.askers.iter().position(|asker| asker.token == token) {
            poll.remove(&self.askers.remove(index).stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let names = || vec!["web".to_owned(), "db-1".to_owned()];
        let some = |request, ms| {
            let span = Duration::from_millis(ms);
            Wish::Some { request, span, names: names() }
        };
        for wish in [
            Wish::StopAll,
            Wish::ReloadFile,
            some(Request::Stop, 0),
            some(Request::Restart, 0),
            some(Request::Pause, 600_000),
        ] {
            assert_eq!(Wish::parse(wish.line().as_bytes()), Some(wish));
        }
        for line in [&b""[..], b" ", b"stopp", b"start", b"pause web", b"pause 5", b"\xff web"] {
            assert_eq!(Wish::parse(line), None, "{line:?}");
        }
    }
}
