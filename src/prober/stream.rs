//! Probes by TCP: a connection that is made, and an answer by HTTP. Nothing here waits, except for
//! the resolution of names.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use osps_heart::shown::Shown;
use osps_heart::time::Monotonic;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, send, socket_with};

use super::failure::Failure;
use super::target::HTTP_PORT;
use crate::sys::poll::Interest;

/// Most addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// An answer's status line ends within so many bytes, or there is none.
const HEAD: usize = 4096;
/// So much of an answer is read, status and all, before the connection is closed under it.
const ANSWER: usize = 64 << 10;
/// So much of what is no status line is shown.
const GARBAGE: usize = 40;

/// A probe under way. Its descriptor changes with each address that is tried.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    stage: Stage,
    /// What is asked; empty = a connection is all that is wanted.
    request: Vec<u8>,
    /// Addresses that are still to be tried, the next one last.
    others: Vec<SocketAddr>,
    /// When the next one is tried.
    share: Monotonic,
    until: Monotonic,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    /// So much of the request is sent.
    Sending(usize),
    /// What came so far.
    Reading(Vec<u8>),
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Nothing yet, and another socket is to be waited for.
    Another,
    /// A sign of life, or none.
    Over(Result<(), Failure>),
}

impl Stream {
    /// Begins to connect. Waits for the resolver if the host is a name.
    pub fn start(host: &str, port: u16, request: Vec<u8>) -> Result<Stream, Failure> {
        let found = (host, port).to_socket_addrs();
        let found = found.map_err(|error| Failure::answer_on(&Shown(host), &error))?;
        let mut others: Vec<_> = found.take(ADDRESSES).collect();
        others.reverse();
        let socket = next(&mut others).map_err(|error| Failure::answer(&error))?;
        let (stage, never) = (Stage::Connecting, Monotonic(u64::MAX));
        Ok(Stream { socket, stage, request, others, share: never, until: never })
    }

    /// The time that it has; each address gets an equal share of it.
    pub fn limit(&mut self, now: Monotonic, until: Monotonic) {
        self.until = until;
        let left = u32::try_from(self.others.len()).unwrap_or(0) + 1;
        self.share = now + until.since(now) / left;
    }

    /// What to wait for, and until when at most.
    pub fn waits_for(&self) -> (Interest, Monotonic) {
        match self.stage {
            Stage::Connecting => (WRITE, self.share.min(self.until)),
            Stage::Sending(_) => (WRITE, self.until),
            Stage::Reading(_) => (Interest::READ, self.until),
        }
    }

    /// Goes on as far as it can without waiting; `ready` = the socket has something to tell.
    pub fn step(&mut self, ready: bool, now: Monotonic) -> Step {
        if let Stage::Connecting = self.stage {
            let failed = match ready.then(|| self.connected()) {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(error),
                None if now < self.share || self.others.is_empty() => return Step::Wait,
                None => Some(ErrorKind::TimedOut.into()),
            };
            if let Some(error) = failed {
                let Ok(socket) = next(&mut self.others) else {
                    return Step::Over(Err(Failure::answer(&error)));
                };
                self.socket = socket;
                self.limit(now, self.until);
                return Step::Another;
            }
            if self.request.is_empty() {
                return Step::Over(Ok(()));
            }
            self.stage = Stage::Sending(0);
        }
        match self.talk() {
            Ok(None) => Step::Wait,
            Ok(Some(outcome)) => Step::Over(outcome),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Wait,
            Err(error) => Step::Over(Err(Failure::answer(&error))),
        }
    }

    fn connected(&self) -> io::Result<()> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        // A socket that happens to get the port that it connects to meets itself. It proves
        // nothing, and it would keep the port from the service.
        if self.socket.peer_addr()? == self.socket.local_addr()? {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Ok(())
    }

    fn talk(&mut self) -> io::Result<Option<Result<(), Failure>>> {
        while let Stage::Sending(sent) = &mut self.stage {
            let rest = &self.request[*sent..];
            if rest.is_empty() {
                self.stage = Stage::Reading(Vec::new());
            } else {
                *sent += send(&self.socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
            }
        }
        let Stage::Reading(head) = &mut self.stage else { return Ok(None) };
        loop {
            let mut piece = [0; HEAD];
            let room = &mut piece[..HEAD - head.len()];
            let length = self.socket.read(room)?;
            head.extend_from_slice(&piece[..length]);
            match status(head, length == 0 || head.len() == HEAD) {
                Ok(None) => {}
                Ok(Some(200..400)) => return Ok(Some(Ok(()))),
                Ok(Some(code)) => return Ok(Some(Err(Failure::new(format!("HTTP {code}"))))),
                Err(why) => return Ok(Some(Err(Failure::new(why)))),
            }
        }
    }

    /// What is left to read of an answer whose status is known: a server whose answer is read to
    /// its end has nothing to complain of.
    pub fn rest(self) -> Option<Rest> {
        match self.stage {
            Stage::Reading(head) => Some(Rest { socket: self.socket, left: ANSWER - head.len() }),
            Stage::Connecting | Stage::Sending(_) => None,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An answer that nobody looks at any more.
#[derive(Debug)]
pub struct Rest {
    socket: TcpStream,
    left: usize,
}

impl Rest {
    /// Reads what is there. `false` = that was all, or as much as is read.
    pub fn drain(&mut self) -> bool {
        let mut piece = [0; HEAD];
        while self.left > 0 {
            let room = self.left.min(HEAD);
            match self.socket.read(&mut piece[..room]) {
                Ok(0) => return false,
                Ok(length) => self.left -= length,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }
}

impl AsFd for Rest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Wake up when it can be written: connected, or refused.
const WRITE: Interest = Interest { read: false, write: true };

/// Begins to connect to the next address that does not refuse at once.
fn next(others: &mut Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut refused = io::Error::other("the name has no address");
    while let Some(address) = others.pop() {
        match begin(address) {
            Ok(socket) => return Ok(TcpStream::from(socket)),
            Err(errno) => refused = errno.into(),
        }
    }
    Err(refused)
}

fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// What is asked by HTTP.
pub fn request(host: &str, port: u16, path: &str) -> Vec<u8> {
    let named = match host.split('%').next().unwrap_or_default() {
        // The zone of an address means something on this machine only.
        address if address.parse::<Ipv6Addr>().is_ok() => format!("[{address}]"),
        _ => host.to_owned(),
    };
    let port = if port == HTTP_PORT { String::new() } else { format!(":{port}") };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {named}{port}\r\nUser-Agent: osps/{version}\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The status that an answer begins with; `None` = more must come. `ended` = nothing more comes.
fn status(head: &[u8], ended: bool) -> Result<Option<u16>, String> {
    const START: &[u8] = b"HTTP/";
    let line = head.iter().position(|byte| *byte == b'\n').map(|end| &head[..end]);
    let begins = head.iter().zip(START).all(|(byte, expected)| byte == expected);
    match line {
        None if begins && !ended => return Ok(None),
        None if head.is_empty() => return Err("closed without an answer".to_owned()),
        _ => {}
    }
    if let Some(
        &[b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9', b' ', ref rest @ ..],
    ) = line
        && let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ref rest @ ..] = rest
        && matches!(rest.first(), None | Some(b' ' | b'\r'))
    {
        let digit = |byte: u8| u16::from(byte - b'0');
        return Ok(Some(digit(a) * 100 + digit(b) * 10 + digit(c)));
    }
    let garbage = line.unwrap_or(head);
    let garbage = garbage.strip_suffix(b"\r").unwrap_or(garbage);
    let garbage = OsStr::from_bytes(&garbage[..garbage.len().min(GARBAGE)]);
    Err(format!("no HTTP status line: {}", Shown(garbage)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_defensively() {
        let garbage = |text: &str| Err(format!("no HTTP status line: {text}"));
        for (head, ended, expected) in [
            (&b""[..], false, Ok(None)),
            (b"HT", false, Ok(None)),
            (b"HTTP/1.1 200 OK", false, Ok(None)),
            (b"HTTP/1.1 200 OK\r\n", false, Ok(Some(200))),
            (b"HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nbody", false, Ok(Some(503))),
            (b"HTTP/1.1 399\n", true, Ok(Some(399))),
            (b"HTTP/1.1 404\r\n", false, Ok(Some(404))),
            (b"", true, Err("closed without an answer".to_owned())),
            (b"HTTP/1.1 200 OK", true, garbage("HTTP/1.1 200 OK")),
            (b"HTTP/1.1 20", true, garbage("HTTP/1.1 20")),
            (b"HTTP/1.1 2000 OK\r\n", false, garbage("HTTP/1.1 2000 OK")),
            (b"HTTP/1.1 20x OK\r\n", false, garbage("HTTP/1.1 20x OK")),
            (b"HTTP/1.1 000 OK\r\n", false, garbage("HTTP/1.1 000 OK")),
            (b"HTTP/1.1 \xb2\xb0\xb0\r\n", false, garbage(r"HTTP/1.1 \xb2\xb0\xb0")),
            (b"HTTP/2 200\r\n", false, garbage("HTTP/2 200")),
            (b"HTTP/1.1\t200 OK\r\n", false, garbage(r"HTTP/1.1\x09200 OK")),
            (b"SSH-2.0-x", false, garbage("SSH-2.0-x")),
            (b"\r\nHTTP/1.1 200 OK\r\n", false, garbage("")),
            (b"\x15\x03\x01\0\x02", false, garbage(r"\x15\x03\x01\x00\x02")),
        ] {
            assert_eq!(status(head, ended), expected, "{}", String::from_utf8_lossy(head));
        }
        let endless = [b'x'; HEAD];
        let shown = garbage(&"x".repeat(GARBAGE));
        assert_eq!(status(&endless, true), shown);
    }

    #[test]
    fn a_request_names_its_host_as_the_url_does() {
        for (host, port, expected) in [
            ("localhost", 80, "Host: localhost\r\n"),
            ("10.0.0.1", 8080, "Host: 10.0.0.1:8080\r\n"),
            ("::1", 81, "Host: [::1]:81\r\n"),
            ("fe80::1%lo", 81, "Host: [fe80::1]:81\r\n"),
        ] {
            let text = String::from_utf8(request(host, port, "/x?y")).expect("text");
            assert!(text.starts_with("GET /x?y HTTP/1.1\r\n"), "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
        }
    }
}
