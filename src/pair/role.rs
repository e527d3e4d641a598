//! Where the two built-in servers differ: the seam between the common loop and its two parts.

use std::net::IpAddr;

use osps_heart::ownership::HolderAction;
use osps_heart::time::Monotonic;

use super::link::Link;
use super::slot_view::SlotView;
use crate::pair::dispatch::JobType;
use crate::pair::store::resp::Protocol;
use crate::pair::wire::Frame;

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
    pub job: Option<Taken>,
    /// What it asked to be answered in.
    pub protocol: Protocol,
    /// What it called itself; empty = nothing.
    pub name: Vec<u8>,
    /// Its requests since `MULTI`.
    pub queue: Option<Queue>,
}

/// A job that a session took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub kind: JobType,
}

/// Requests between `MULTI` and `EXEC`.
#[derive(Debug, Default)]
pub struct Queue {
    /// Their words.
    pub requests: Vec<Vec<Vec<u8>>>,
    /// Bytes of them.
    pub bytes: usize,
    /// One was refused: none will be carried out.
    pub refused: bool,
}

impl Session {
    /// A client that just connected.
    pub fn new(peer: IpAddr, rights: Rights, job: Option<Taken>) -> Session {
        let (protocol, name) = (Protocol::Two, Vec::new());
        Session { peer, rights, job, protocol, name, queue: None }
    }
}

/// What both parts of a server work with.
#[derive(Debug)]
pub struct Common {
    /// Itself.
    pub me: SlotView,
    /// Its links.
    pub links: Vec<Link>,
}

/// What only one of the two servers does.
pub trait Role {
    /// A frame arrived over a link.
    fn frame(&mut self, common: &mut Common, link: usize, frame: &Frame, now: Monotonic);
    /// This server's own holder asks or tells the arbiter something.
    fn ask_arbiter(&mut self, common: &mut Common, action: HolderAction, now: Monotonic);
    /// Once per turn.
    fn turn(&mut self, common: &mut Common, now: Monotonic);
    /// When it wants its next turn at the latest.
    fn deadline(&self) -> Option<Monotonic>;
    /// A client connected.
    fn opened(&mut self, common: &mut Common, peer: IpAddr, now: Monotonic) -> Session;
    /// Its connection ended.
    fn closed(&mut self, common: &mut Common, session: &Session, cleanly: bool);
    /// Answers a word that needs no line end. Returns its length.
    fn bare(
        &mut self,
        common: &mut Common,
        session: &Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize>;
    /// One plain line for a text that is no command, in a session where that is welcome.
    fn small_talk(&self, common: &Common, session: &Session) -> Option<String>;
}
