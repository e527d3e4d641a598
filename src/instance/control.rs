//! The answering side of the control socket: one request line, then lines of progress.
//!
//! The watchdog never waits for a client here: what a slow one does not take is not sent to it.
//! Only the user who runs osps, and root, may ask.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::sys::poll::{Interest, Poll};
use crate::sys::{Failed, socket};

/// Askers served at once; further ones are turned away.
const ASKERS: usize = 8;
/// Longest request line.
const LINE: usize = 64;

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop everything in order.
    Stop,
}

#[derive(Debug)]
struct Asker {
    token: u64,
    stream: UnixStream,
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
        if self.askers.len() == ASKERS {
            // Who has not asked for anything makes room.
            if let Some(idle) = self.askers.iter().position(|asker| !asker.subscribed) {
                poll.remove(&self.askers.remove(idle).stream);
            }
        }
        let ours = rustix::process::geteuid().as_raw();
        let allowed = socket::peer(&stream).is_ok_and(|(uid, _)| uid == ours || uid == 0);
        let _ = stream.set_nonblocking(true);
        if !allowed || self.askers.len() == ASKERS {
            let why: &[u8] = if allowed { b"error busy\n" } else { b"error not your osps\n" };
            let _ = (&stream).write(why);
            return;
        }
        if poll.add(stream.as_fd(), self.next, Interest::READ).is_ok() {
            self.askers.push(Asker {
                token: self.next,
                stream,
                line: Vec::new(),
                subscribed: false,
            });
            self.next += 1;
        }
    }

    /// Reads from the asker with this token.
    pub fn read(&mut self, poll: &Poll, token: u64) -> Option<Request> {
        let index = self.askers.iter().position(|asker| asker.token == token)?;
        let asker = &mut self.askers[index];
        let mut chunk = [0u8; LINE];
        let gone = match asker.stream.read(&mut chunk) {
            Ok(0) => true,
            Ok(length) => {
                asker.line.extend_from_slice(&chunk[..length]);
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        let end = asker.line.iter().position(|byte| *byte == b'\n');
        let request = match end.map(|end| &asker.line[..end]) {
            Some(b"stop") => {
                asker.subscribed = true;
                asker.line.clear();
                let _ = asker.stream.write(b"ok stopping\n");
                return Some(Request::Stop);
            }
            Some(_) => Some(&b"error unknown request\n"[..]),
            None if asker.line.len() > LINE => Some(&b"error request too long\n"[..]),
            None => None,
        };
        if let Some(refusal) = request {
            let _ = asker.stream.write(refusal);
        }
        if gone || request.is_some() {
            let asker = self.askers.swap_remove(index);
            poll.remove(&asker.stream);
        }
        None
    }

    /// Tells those who asked how it goes.
    pub fn tell(&self, line: &str) {
        for asker in self.askers.iter().filter(|asker| asker.subscribed) {
            let _ = (&asker.stream).write(format!("{line}\n").as_bytes());
        }
    }
}
