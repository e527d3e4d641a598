//! Client connections of a built-in server: accept, read, decode, reply. Never blocks.
//!
//! What a client can make us hold is bounded: one unfinished request of input, and replies up to
//! a limit, beyond which its requests wait until it reads. A turn takes a bounded amount from each
//! connection, so that one busy client delays neither the others nor the beat.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::store::resp::{self, Decoded, Reply};
use crate::sys::Failed;
use crate::sys::poll::{Interest, Poll, Ready};

/// Token of the listener.
pub const LISTENER: u64 = 0;
/// First token of a connection; smaller ones are the server's.
const FIRST: u64 = 1 << 16;
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// Bytes read from one connection in one turn.
const READ: usize = 64 << 10;
/// Requests answered on one connection in one turn.
const REQUESTS: usize = 256;
/// Replies waiting to be read by a client, beyond which its requests wait.
const REPLIES: usize = 256 << 10;

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    Keep,
    /// It closes once the reply is read.
    Close,
}

/// Answers one request: gets its words, appends its reply.
pub type Answer<'a> = dyn FnMut(&[&[u8]], &mut Vec<u8>) -> After + 'a;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// No more input: the client closed its side, or we shall close ours.
    ended: bool,
    interest: Interest,
}

/// All connections of one server.
#[derive(Debug)]
pub struct Clients {
    listener: TcpListener,
    connections: HashMap<u64, Connection>,
    next: u64,
    /// Out of descriptors: the listener rests until a connection closes.
    resting: bool,
    /// Connections that hold requests beyond this turn's share.
    pending: Vec<u64>,
    scratch: Vec<u8>,
}

impl Clients {
    /// Serves a listening socket.
    pub fn new(listener: TcpListener, poll: &Poll) -> Result<Clients, Failed> {
        // The flag belongs to the shared description: a predecessor may have changed it.
        listener.set_nonblocking(true).map_err(Failed::to("prepare", "listener"))?;
        poll.add(&listener, LISTENER, Interest::READ)?;
        Ok(Clients {
            listener,
            connections: HashMap::new(),
            next: FIRST,
            resting: false,
            pending: Vec::new(),
            scratch: vec![0; READ],
        })
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether requests wait that came with an earlier turn: do not sleep then.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Handles what one turn brought. `answer` gets the words of a request and writes its reply.
    pub fn turn(&mut self, poll: &Poll, ready: &[Ready], answer: &mut Answer<'_>) {
        let mut busy = std::mem::take(&mut self.pending);
        for event in ready {
            if event.token == LISTENER {
                self.accept(poll);
            } else if let Some(connection) = self.connections.get_mut(&event.token) {
                if event.readable {
                    connection.fill(&mut self.scratch);
                }
                busy.push(event.token);
            }
        }
        busy.sort_unstable();
        busy.dedup();
        for token in busy {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            let more = connection.serve(answer);
            if connection.flush() {
                self.close(poll, token);
                continue;
            }
            if more {
                self.pending.push(token);
            }
            if let Some(connection) = self.connections.get_mut(&token)
                && let Some(interest) = connection.wanted()
                && poll.modify(&connection.stream, token, interest).is_ok()
            {
                connection.interest = interest;
            }
        }
    }

    fn accept(&mut self, poll: &Poll) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let token = self.next;
                    self.next += 1;
                    // A refused option costs latency, not correctness.
                    let _ = stream.set_nodelay(true);
                    let sound = stream.set_nonblocking(true).is_ok()
                        && poll.add(&stream, token, Interest::READ).is_ok();
                    if sound {
                        let connection = Connection {
                            stream,
                            input: Vec::new(),
                            output: Vec::new(),
                            ended: false,
                            interest: Interest::READ,
                        };
                        self.connections.insert(token, connection);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                    if out && !self.resting {
                        log::warn!("out of descriptors: new clients wait until one is free");
                        poll.remove(&self.listener);
                        self.resting = true;
                    }
                    return;
                }
            }
        }
    }

    fn close(&mut self, poll: &Poll, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            poll.remove(&connection.stream);
        }
        if self.resting && poll.add(&self.listener, LISTENER, Interest::READ).is_ok() {
            self.resting = false;
        }
    }
}

impl Connection {
    /// Takes what the client sent, up to this turn's share.
    fn fill(&mut self, chunk: &mut [u8]) {
        if self.ended || self.output.len() > REPLIES {
            return;
        }
        match self.stream.read(chunk) {
            Ok(0) => self.ended = true,
            Ok(length) => self.input.extend_from_slice(&chunk[..length]),
            Err(error) if is_transient(&error) => {}
            Err(_) => {
                self.ended = true;
                self.output.clear();
            }
        }
    }

    /// Answers complete requests. Returns whether some are left for the next turn.
    fn serve(&mut self, answer: &mut Answer<'_>) -> bool {
        let mut used = 0;
        let mut more = false;
        for number in 0.. {
            if self.output.len() > REPLIES {
                break;
            }
            match resp::decode(&self.input[used..]) {
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Request { words, used: length }) => {
                    if number == REQUESTS {
                        more = true;
                        break;
                    }
                    used += length;
                    if !words.is_empty() && answer(&words, &mut self.output) == After::Close {
                        self.ended = true;
                        used = self.input.len();
                        break;
                    }
                }
                Err(error) => {
                    Reply(&mut self.output).error(&format!("ERR {error}"));
                    self.ended = true;
                    used = self.input.len();
                    break;
                }
            }
        }
        self.input.drain(..used);
        more
    }

    /// Sends what the client takes now. Returns whether the connection is finished.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return true,
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if is_transient(&error) => return false,
                Err(_) => return true,
            }
        }
        self.ended
    }

    /// What to wait for from now on, if that changed.
    fn wanted(&self) -> Option<Interest> {
        let read = !self.ended && self.output.len() <= REPLIES;
        let interest = Interest { read, write: !self.output.is_empty() };
        (interest != self.interest).then_some(interest)
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
