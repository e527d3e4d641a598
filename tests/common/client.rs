//! A client over TCP, and what it reads.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use super::{SOON, ms};

/// What a write gets in a session that may only read.
pub const READ_ONLY: &str = "-READONLY ask the primary for requetetype2";
/// What the primary says while no secondary is linked.
pub const NOBODY: &str = "errtraitement no secondary available";

/// A client's connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub fn to(address: SocketAddr) -> Client {
        Client::try_to(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_to(address: SocketAddr) -> Result<Client, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub fn raw(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn try_ask(&mut self, request: &str) -> Result<String, Error> {
        self.stream.get_mut().write_all(format!("{request}\r\n").as_bytes())?;
        self.try_reply()
    }

    /// One inline request and its reply.
    pub fn ask(&mut self, request: &str) -> String {
        self.try_ask(request).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    /// One request as an array of words.
    pub fn ask_words(&mut self, words: &[&[u8]]) -> String {
        self.send(&self::words(words));
        self.reply()
    }

    /// One line of a reply as it came, with its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap_or_else(|error| panic!("no reply: {error}"));
        line
    }

    /// One inline request and the first line of its reply.
    pub fn ask_line(&mut self, request: &str) -> String {
        self.send(format!("{request}\r\n").as_bytes());
        self.line()
    }

    /// Asserts that nothing more has arrived, nor does within a while.
    pub fn assert_quiet(&mut self) {
        self.raw().set_read_timeout(Some(ms(200))).unwrap();
        let mut more = [0; 64];
        if let Ok(length) = self.stream.read(&mut more) {
            panic!("one reply too many: {:?}", String::from_utf8_lossy(&more[..length]));
        }
        self.raw().set_read_timeout(Some(SOON)).unwrap();
    }

    pub fn reply(&mut self) -> String {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// A reply as text: a bulk string without its head, an array as `[a b]`.
    pub fn try_reply(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        match line.split_at_checked(1) {
            Some(("$", "-1")) => Ok("(nil)".to_owned()),
            Some(("$", length)) => {
                let mut body = vec![0; length.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut body)?;
                Ok(String::from_utf8_lossy(&body[..body.len() - 2]).into_owned())
            }
            Some(("*", count)) => {
                let count = count.parse::<usize>().unwrap();
                let words: Result<Vec<_>, _> = (0..count).map(|_| self.try_reply()).collect();
                Ok(format!("[{}]", words?.join(" ")))
            }
            _ => Ok(line),
        }
    }

    /// What arrives until it has been quiet for a while: answers to bare words have no end.
    pub fn bare(&mut self) -> String {
        let text = self.bare_once().unwrap();
        self.raw().set_read_timeout(Some(ms(150))).unwrap();
        let mut more = [0; 256];
        let rest = match self.stream.read(&mut more) {
            Ok(length) => String::from_utf8_lossy(&more[..length]).into_owned(),
            Err(_) => String::new(),
        };
        self.raw().set_read_timeout(Some(SOON)).unwrap();
        text + &rest
    }

    pub fn bare_once(&mut self) -> Result<String, Error> {
        let mut bytes = [0; 256];
        match self.stream.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(String::from_utf8_lossy(&bytes[..length]).into_owned()),
        }
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A server that closes with input unread resets the connection: an end as well.
        let _ = self.stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A request as an array of words.
pub fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Where a dispatcher's answer sends a client.
pub fn port(text: &str) -> SocketAddr {
    let port = text.parse().unwrap_or_else(|_| panic!("not a port: {text:?}"));
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
