//! Client connections of a built-in server: accept, read, decode, reply. Never blocks.
//!
//! What a client can make us hold is bounded: one unfinished request of input, and replies up to
//! a limit, beyond which its requests wait until it reads. All clients together have a budget: who
//! began an unfinished request first goes first, then who holds most. A turn takes a bounded
//! amount from each connection, so that one busy client delays neither the others nor the beat. A
//! connection whose request has to wait (for the ownership of the data) is parked: in order,
//! keeping the request, while everybody else goes on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use osps_heart::time::Monotonic;

use crate::pair::store::resp::{self, Decoded, Protocol, ProtocolError, Reply, Skip, TooLarge};
use crate::sys::poll::{Interest, Poll, Ready};
use crate::sys::{Failed, socket};

/// Token of the listener.
pub const LISTENER: u64 = 0;
/// First token of a connection; smaller ones are the server's.
const FIRST: u64 = 1 << 16;
/// Connections accepted in one turn.
const ACCEPTS: usize = 256;
/// Bytes read from one connection in one turn.
const READ: usize = 64 << 10;
/// How long the listener rests if no connection closes meanwhile: somebody else may hold what it
/// needs.
const REST: Duration = Duration::from_millis(100);
/// Requests answered on one connection in one turn.
const REQUESTS: usize = 256;
/// Replies waiting to be read by a client, beyond which its requests wait: enough for whoever sends
/// some 400,000 requests before it reads.
const REPLIES: usize = 32 << 20;
/// Bytes held for all clients together, input and replies.
const BUDGET: usize = 64 << 20;
/// An unfinished line that is quiet for so long counts as a line, where the service says so.
const QUIET: Duration = Duration::from_millis(50);

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    Keep,
    /// It closes once the reply is read.
    Close,
    /// The request has to wait; it is tried again, first come first served.
    Park,
}

/// What a server does for its clients.
pub trait Responder {
    /// What it remembers of one client.
    type Session: std::fmt::Debug;

    /// A client connected.
    fn opened(&mut self, peer: IpAddr, now: Monotonic) -> Self::Session;

    /// Its connection ended, by its own will or not.
    fn closed(&mut self, session: Self::Session, cleanly: bool);

    /// Answers one request: gets its words, appends its reply.
    fn answer(
        &mut self,
        session: &mut Self::Session,
        words: &[&[u8]],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> After;

    /// Answers a word that needs no line end, at the head of the input. Returns its length.
    fn answer_bare(
        &mut self,
        session: &mut Self::Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize>;

    /// Whether this unfinished line counts as a line once it has gone quiet.
    fn takes_quiet_line(&self, line: &[u8]) -> bool;

    /// Answers a line of text that is no command (`word` is its first word), or no line of words at
    /// all (`None`). `false` = that is not welcome: an error tells.
    fn answer_text(
        &mut self,
        session: &mut Self::Session,
        word: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> bool;

    /// A request was refused before it was understood.
    fn refused(&mut self, session: &mut Self::Session);

    /// Longest word that is of any use.
    fn room(&self) -> usize;

    /// Whether this turn has taken its time: what is left comes in the next, after a beat.
    fn is_spent(&self) -> bool;
}

#[derive(Debug)]
struct Connection<S> {
    stream: TcpStream,
    session: S,
    input: Vec<u8>,
    output: Vec<u8>,
    /// No more input: the client closed its side, or we shall close ours.
    ended: bool,
    /// It failed, or we close it for a fault of its own.
    broken: bool,
    progress: Progress,
    /// When the input last grew, if it ends in an unfinished line.
    quiet_since: Option<Monotonic>,
    /// The rest of a request that is not kept, and the error that it will be answered with.
    skip: Option<(Skip, TooLarge)>,
    /// Since when its request has been unfinished.
    unfinished_since: Option<Monotonic>,
    /// Bytes of replies that were sent; they stay in front of the others for a while.
    sent: usize,
    /// Bytes it was counted with in the budget.
    held: usize,
    interest: Interest,
}

/// All connections of one server.
#[derive(Debug)]
pub struct Clients<S> {
    listener: TcpListener,
    connections: HashMap<u64, Connection<S>>,
    next: u64,
    /// Out of descriptors: the listener rests until a connection closes, or until this moment.
    resting: Option<Monotonic>,
    /// The operator was told of it.
    told: bool,
    /// Connections that hold requests beyond this turn's share.
    pending: Vec<u64>,
    /// Connections that wait, in order.
    parked: VecDeque<u64>,
    /// Connections with an unfinished line, in the order of their deadlines.
    quiet: VecDeque<(Monotonic, u64)>,
    scratch: Vec<u8>,
    /// Bytes held for all connections.
    held: usize,
    /// The operator was told that the budget is spent.
    told_budget: bool,
}

/// How far one connection got with the requests that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Everything that was there is answered.
    Done,
    /// More is there than one turn may take, or than the client reads replies to.
    More,
    /// Its next request waits.
    Parked,
}

impl<S: std::fmt::Debug> Clients<S> {
    /// Serves a listening socket.
    pub fn new(listener: TcpListener, poll: &Poll) -> Result<Clients<S>, Failed> {
        // The flag belongs to the shared description: a predecessor may have changed it.
        listener.set_nonblocking(true).map_err(Failed::to("prepare", "listener"))?;
        poll.add(&listener, LISTENER, Interest::READ)?;
        Ok(Clients {
            listener,
            connections: HashMap::new(),
            next: FIRST,
            resting: None,
            told: false,
            pending: Vec::new(),
            parked: VecDeque::new(),
            quiet: VecDeque::new(),
            scratch: vec![0; READ],
            held: 0,
            told_budget: false,
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

    /// Connections that wait.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Whether requests wait that came with an earlier turn: do not sleep then.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When an unfinished line will have been quiet for long enough, or the listener has rested.
    pub fn deadline(&self) -> Option<Monotonic> {
        let quiet = self.quiet.front().map(|(at, _)| *at);
        [quiet, self.resting].into_iter().flatten().min()
    }

    /// Handles what one turn brought: the parked first, in their order.
    pub fn turn<V: Responder<Session = S>>(
        &mut self,
        poll: &Poll,
        ready: &[Ready],
        service: &mut V,
        now: Monotonic,
    ) {
        for _ in 0..self.parked.len() {
            if service.is_spent() {
                break;
            }
            let Some(token) = self.parked.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.progress = Progress::Done;
            let progress = connection.serve(service, now);
            self.settle(poll, service, token, progress);
            if progress == Progress::Parked {
                // It was first and stays first; whoever stands behind it waits as well.
                if self.parked.back() == Some(&token) {
                    self.parked.rotate_right(1);
                }
                break;
            }
        }
        let mut busy = std::mem::take(&mut self.pending);
        let mut arrivals = false;
        for event in ready {
            if event.token == LISTENER {
                arrivals = true;
            } else if let Some(connection) = self.connections.get_mut(&event.token) {
                if event.closed && connection.progress == Progress::Parked {
                    // Nobody is there to hear the answer; not acknowledged, not done.
                    connection.broken = true;
                    self.close(poll, service, event.token);
                    continue;
                }
                if event.readable && connection.fill(&mut self.scratch) {
                    connection.quiet_since = None;
                }
                busy.push(event.token);
            }
        }
        while let Some((at, token)) = self.quiet.front().copied() {
            if at > now {
                break;
            }
            self.quiet.pop_front();
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            if connection.quiet_since.is_some_and(|since| since + QUIET == at) {
                connection.quiet_since = None;
                connection.input.push(b'\n');
                busy.push(token);
            }
        }
        // Each once, in the order in which they have waited.
        let mut seen = HashSet::new();
        busy.retain(|token| seen.insert(*token));
        let mut skipped = Vec::new();
        for token in busy {
            if service.is_spent() {
                skipped.push(token);
                continue;
            }
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            let progress = connection.serve(service, now);
            self.settle(poll, service, token, progress);
        }
        // Who got nothing in this turn comes first in the next: no client starves the others.
        self.pending.splice(0..0, skipped);
        if arrivals {
            self.accept(poll, service, now);
        } else if self.resting.is_some_and(|until| now >= until) {
            self.wake_listener(poll);
        }
    }

    fn wake_listener(&mut self, poll: &Poll) {
        if self.resting.is_some() && poll.add(&self.listener, LISTENER, Interest::READ).is_ok() {
            self.resting = None;
        }
    }

    /// What has to be done for a connection after it was served.
    fn settle<V: Responder<Session = S>>(
        &mut self,
        poll: &Poll,
        service: &mut V,
        token: u64,
        progress: Progress,
    ) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let before = std::mem::replace(&mut connection.progress, progress);
        if connection.flush() {
            self.close(poll, service, token);
            return;
        }
        let held = connection.input.len() + connection.output.len();
        self.held = self.held + held - std::mem::replace(&mut connection.held, held);
        match progress {
            Progress::Done => {}
            // If the client does not read, its reading brings the next turn.
            Progress::More if connection.unread() > REPLIES => {}
            Progress::More => self.pending.push(token),
            Progress::Parked if before == Progress::Parked => {}
            Progress::Parked => self.parked.push_back(token),
        }
        if let Some(since) = connection.quiet_since {
            let entry = (since + QUIET, token);
            if self.quiet.back() != Some(&entry) {
                self.quiet.push_back(entry);
            }
        }
        if let Some(interest) = connection.wanted()
            && poll.modify(&connection.stream, token, interest).is_ok()
        {
            connection.interest = interest;
        }
        while self.held > BUDGET && self.relieve(poll, service) {}
    }

    /// Closes one connection, since too much is held: the oldest unfinished request, else the one
    /// that holds most.
    fn relieve<V: Responder<Session = S>>(&mut self, poll: &Poll, service: &mut V) -> bool {
        let unfinished = self.connections.iter().filter_map(|(token, connection)| {
            Some((connection.unfinished_since.filter(|_| connection.held > READ)?, *token))
        });
        let largest =
            || self.connections.iter().max_by_key(|(_, c)| c.held).map(|(token, _)| *token);
        let Some(token) = unfinished.min().map(|(_, token)| token).or_else(largest) else {
            return false;
        };
        if !self.told_budget {
            self.told_budget = true;
            log::warn!(
                "clients hold more than {} MiB of unfinished requests and unread replies: closing \
                 the oldest unfinished one, or the largest",
                BUDGET >> 20
            );
        }
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.broken = true;
            // It may not be read any more; if it is, it says why.
            connection.output.truncate(connection.sent);
            let why = "ERR too much memory is held for clients: closing this one";
            Reply(&mut connection.output, Protocol::Two).error(why);
            connection.ended = true;
            connection.flush();
        }
        self.close(poll, service, token);
        true
    }

    fn accept<V: Responder<Session = S>>(&mut self, poll: &Poll, service: &mut V, now: Monotonic) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    let token = self.next;
                    self.next += 1;
                    // A refused option costs latency, not correctness.
                    let _ = stream.set_nodelay(true);
                    let _ = socket::keep_alive(&stream);
                    let sound = stream.set_nonblocking(true).is_ok()
                        && poll.add(&stream, token, Interest::READ).is_ok();
                    if sound {
                        let connection = Connection {
                            stream,
                            session: service.opened(peer.ip().to_canonical(), now),
                            input: Vec::new(),
                            output: Vec::new(),
                            ended: false,
                            broken: false,
                            progress: Progress::Done,
                            quiet_since: None,
                            skip: None,
                            unfinished_since: None,
                            sent: 0,
                            held: 0,
                            interest: Interest::READ,
                        };
                        self.connections.insert(token, connection);
                        self.told = false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                    if out && self.resting.is_none() {
                        if !self.told {
                            log::warn!("out of descriptors: new clients wait until one is free");
                            self.told = true;
                        }
                        poll.remove(&self.listener);
                        self.resting = Some(now + REST);
                    }
                    return;
                }
            }
        }
    }

    fn close<V: Responder<Session = S>>(&mut self, poll: &Poll, service: &mut V, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            self.held -= connection.held;
            poll.remove(&connection.stream);
            if connection.progress == Progress::Parked {
                self.parked.retain(|parked| *parked != token);
            }
            service.closed(connection.session, !connection.broken);
        }
        self.wake_listener(poll);
    }
}

impl<S> Connection<S> {
    /// Takes what the client sent, up to this turn's share. Returns whether something came.
    fn fill(&mut self, chunk: &mut [u8]) -> bool {
        if self.ended || self.is_full() {
            return false;
        }
        match self.stream.read(chunk) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.input.extend_from_slice(&chunk[..length]);
                return true;
            }
            Err(error) if is_transient(&error) => {}
            Err(_) => {
                self.ended = true;
                self.broken = true;
                self.output.clear();
                self.sent = 0;
            }
        }
        false
    }

    /// Enough is held for this client; the rest stays in the socket until it reads, or until its
    /// requests went through.
    fn is_full(&self) -> bool {
        self.unread() > REPLIES || (self.progress != Progress::Done && self.input.len() >= READ)
    }

    /// Bytes of replies that the client has not taken yet.
    fn unread(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Skips what is not kept. Returns how much of the input that was.
    fn skip<V: Responder<Session = S>>(&mut self, service: &mut V) -> Result<usize, ProtocolError> {
        let Some((mut skip, why)) = self.skip.take() else { return Ok(0) };
        let (eaten, all) = skip.eat(&self.input)?;
        if all {
            service.refused(&mut self.session);
            Reply(&mut self.output, Protocol::Two).error(&format!("ERR {why}"));
        } else {
            self.skip = Some((skip, why));
        }
        Ok(eaten)
    }

    /// An error after which nothing can be understood any more.
    fn fail(&mut self, error: ProtocolError) -> usize {
        Reply(&mut self.output, Protocol::Two).error(&format!("ERR {error}"));
        self.ended = true;
        self.broken = true;
        self.input.len()
    }

    /// Answers complete requests, up to this turn's share.
    fn serve<V: Responder<Session = S>>(&mut self, service: &mut V, now: Monotonic) -> Progress {
        if self.progress == Progress::Parked {
            return Progress::Parked;
        }
        let mut used = match self.skip(service) {
            Ok(used) => used,
            Err(error) => self.fail(error),
        };
        let mut progress = Progress::Done;
        self.quiet_since = None;
        for number in 0.. {
            if self.skip.is_some() {
                break;
            }
            if self.unread() > REPLIES || number == REQUESTS || service.is_spent() {
                progress = Progress::More;
                break;
            }
            let input = &self.input[used..];
            if let Some(length) =
                service.answer_bare(&mut self.session, input, &mut self.output, now)
            {
                used += length;
                continue;
            }
            let is_text = input.first().is_some_and(|first| *first != b'*');
            match resp::decode_within(input, service.room()) {
                Ok(Decoded::Incomplete) => {
                    if service.takes_quiet_line(input) && !self.ended {
                        self.quiet_since = Some(now);
                    }
                    break;
                }
                Ok(Decoded::Request { words, used: length }) => {
                    let mut talks =
                        |word| service.answer_text(&mut self.session, word, &mut self.output);
                    let after = if words.is_empty() || (is_text && talks(words.first().copied())) {
                        After::Keep
                    } else {
                        service.answer(&mut self.session, &words, &mut self.output, now)
                    };
                    match after {
                        After::Keep => used += length,
                        After::Close => {
                            self.ended = true;
                            used = self.input.len();
                            break;
                        }
                        After::Park => {
                            progress = Progress::Parked;
                            break;
                        }
                    }
                }
                Ok(Decoded::TooLarge { why, skip, used: length }) => {
                    self.input.drain(..used + length);
                    self.skip = Some((skip, why));
                    used = match self.skip(service) {
                        Ok(used) => used,
                        Err(error) => self.fail(error),
                    };
                }
                Err(error) if is_text && error.is_of_line() => {
                    // Where it ends is known, so what follows can be understood.
                    let end = input.iter().position(|byte| *byte == b'\n');
                    used += end.map_or(input.len(), |end| end + 1);
                    if !service.answer_text(&mut self.session, None, &mut self.output) {
                        service.refused(&mut self.session);
                        Reply(&mut self.output, Protocol::Two).error(&format!("ERR {error}"));
                    }
                }
                Err(error) => {
                    used = self.fail(error);
                    break;
                }
            }
        }
        self.input.drain(..used);
        if used > 0 {
            self.unfinished_since = None;
        }
        if self.input.is_empty() {
            // A large request is over: its memory is not kept for the next.
            self.input.shrink_to(READ);
        } else {
            self.unfinished_since.get_or_insert(now);
        }
        progress
    }

    /// Sends what the client takes now. Returns whether the connection is finished.
    fn flush(&mut self) -> bool {
        let finished = loop {
            if self.sent == self.output.len() {
                break self.ended && (self.broken || self.progress == Progress::Done);
            }
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => break true,
                Ok(length) => self.sent += length,
                Err(error) if is_transient(&error) => break false,
                Err(_) => {
                    self.broken = true;
                    break true;
                }
            }
        };
        // Moved only when it is worth it: a long queue is not copied for every piece of it.
        if self.sent * 2 >= self.output.len() {
            self.output.drain(..self.sent);
            self.sent = 0;
            if self.output.is_empty() {
                self.output.shrink_to(READ);
            }
        }
        finished
    }

    /// What to wait for from now on, if that changed.
    fn wanted(&self) -> Option<Interest> {
        let read = !self.ended && !self.is_full();
        let interest = Interest { read, write: self.unread() > 0 };
        (interest != self.interest).then_some(interest)
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
