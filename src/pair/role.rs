//! Where the two built-in servers differ: the seam between the common loop and its two parts.

use std::net::IpAddr;

use osps_heart::ownership::HolderAction;
use osps_heart::time::Monotonic;

use super::link::Link;
use super::slot_view::SlotView;
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
    pub job: Option<u64>,
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
    /// Whether an unfinished, unknown word that has gone quiet counts as a line.
    fn takes_quiet_words(&self) -> bool;
}
