//! Where the two built-in servers differ: the seam between the common loop and its two parts.

use std::net::IpAddr;

use super::link::Link;
use super::myself::Myself;
use crate::policy::ownership::Plea;
use crate::time::Monotonic;
use crate::wire::Frame;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read and write.
    All,
    /// Read.
    Read,
}

/// What a server remembers of one client.
#[derive(Debug)]
pub struct Session {
    /// Where it came from.
    pub peer: IpAddr,
    /// What it may do.
    pub rights: Rights,
    /// The job it was announced with.
    pub job: Option<u64>,
}

/// What both parts of a server work with.
#[derive(Debug)]
pub struct Shared {
    /// Itself.
    pub me: Myself,
    /// Its links.
    pub links: Vec<Link>,
}

/// What only one of the two servers does.
pub trait Part {
    /// A frame arrived over a link.
    fn frame(&mut self, shared: &mut Shared, link: usize, frame: &Frame, now: Monotonic);
    /// This server's own holder asks or tells the arbiter something.
    fn plead(&mut self, shared: &mut Shared, plea: Plea, now: Monotonic);
    /// Once per turn.
    fn turn(&mut self, shared: &mut Shared, now: Monotonic);
    /// When it wants its next turn at the latest.
    fn deadline(&self) -> Option<Monotonic>;
    /// A client connected.
    fn opened(&mut self, shared: &mut Shared, peer: IpAddr, now: Monotonic) -> Session;
    /// Its connection ended.
    fn closed(&mut self, shared: &mut Shared, session: &Session, cleanly: bool);
    /// Answers a word that needs no line end. Returns its length.
    fn bare(
        &mut self,
        shared: &mut Shared,
        session: &Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize>;
    /// Whether an unfinished, unknown word that has gone quiet counts as a line.
    fn takes_quiet_words(&self) -> bool;
}
