//! One end of a FIFO pair between the primary and a secondary.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use osps_heart::ids::{Epoch, Generation, SlotId};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use super::slot_view::SlotView;
use crate::pair::dispatch::{Job, JobType};
use crate::pair::wire::{self, FRAME_SIZE, Frame, FrameKind, PAYLOAD_SIZE};
use crate::sys::Failed;
use crate::sys::fifo::{Fifo, Received};

/// Name of the FIFO from the primary to a secondary.
pub fn tube_down(secondary: u8) -> String {
    format!("dwtube{secondary}")
}

/// Name of the FIFO from a secondary to the primary.
pub fn tube_up(secondary: u8) -> String {
    format!("wdtube{secondary}")
}

/// Frames dropped in one call before the caller gets its turn again.
const DROPS: usize = 256;

/// What a frame says, without its address.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// What is asked or told.
    pub kind: FrameKind,
    /// Ownership epoch it speaks of.
    pub epoch: Epoch,
    /// Job it speaks of.
    pub job: u64,
    /// The kind's own bytes.
    pub payload: [u8; PAYLOAD_SIZE],
}

impl Message {
    /// A message that says no more than its kind.
    pub fn plain(kind: FrameKind) -> Message {
        Message { kind, epoch: Epoch(0), job: 0, payload: [0; PAYLOAD_SIZE] }
    }

    /// A message about an epoch.
    pub fn about(kind: FrameKind, epoch: Epoch) -> Message {
        Message { epoch, ..Message::plain(kind) }
    }
}

/// One end of a FIFO pair.
#[derive(Debug)]
pub struct Link {
    /// The slot at the other end.
    pub peer: SlotId,
    /// The peer's generation that answered last; `None` = link down.
    pub up: Option<Generation>,
    out: Fifo,
    input: Fifo,
    sequence: u64,
}

impl Link {
    /// The pair between the primary and a secondary, from this server's end.
    pub fn new(down: OwnedFd, up: OwnedFd, me: &SlotView, peer: SlotId) -> Result<Link, Failed> {
        let secondary = me.slot.0.max(peer.0);
        let down = Fifo::given(down, &tube_down(secondary))?;
        let up = Fifo::given(up, &tube_up(secondary))?;
        let (out, input) = if me.slot < peer { (down, up) } else { (up, down) };
        Ok(Link { peer, up: None, out, input, sequence: 0 })
    }

    /// Whether the peer's present generation answered.
    pub fn is_up(&self, me: &SlotView) -> bool {
        self.up.is_some() && self.up == me.live_in(self.peer)
    }

    /// Sends to the peer's present generation. `false` = not sent; a full pipe means that the peer
    /// does not read. What matters is sent again.
    pub fn send(&mut self, me: &SlotView, message: &Message) -> bool {
        self.sequence += 1;
        let kind = message.kind;
        let frame = Frame {
            kind,
            from: me.slot,
            to: self.peer,
            from_generation: me.generation,
            to_generation: me.generation_in(self.peer),
            epoch: message.epoch,
            sequence: self.sequence,
            job: message.job,
            payload: message.payload,
        };
        match self.out.send(&wire::encode(&frame)) {
            Ok(true) => {
                log::trace!("to slot {}: {kind:?}", self.peer);
                return true;
            }
            Ok(false) => log::debug!("fifo to slot {} is full, {kind:?} not sent", self.peer),
            Err(failed) => log::debug!("{failed}"),
        }
        false
    }

    /// The next frame that is meant for this server, from the peer that runs now. Everything else
    /// is dropped and counted: no successor acts on its predecessor's mail.
    pub fn receive(&mut self, me: &SlotView) -> Option<Frame> {
        for _ in 0..DROPS {
            let dropped = match self.input.receive::<FRAME_SIZE>() {
                Ok(Received::Empty) => return None,
                Ok(Received::Frame(bytes)) => match wire::decode(&bytes) {
                    Ok(frame) if self.is_for(me, &frame) => return Some(frame),
                    Ok(frame) => format!("misaddressed {:?}", frame.kind),
                    Err(malformed) => {
                        // Whatever follows is out of step as well.
                        self.input.drain();
                        malformed.to_string()
                    }
                },
                Ok(Received::OutOfStep) => "bytes out of step".to_owned(),
                Err(failed) => {
                    log::debug!("{failed}");
                    return None;
                }
            };
            me.page().activity.frames_dropped.fetch_add(1, Ordering::Relaxed);
            log::debug!("dropped from the fifo of slot {}: {dropped}", self.peer);
        }
        None
    }

    fn is_for(&self, me: &SlotView, frame: &Frame) -> bool {
        let from_peer =
            frame.from == self.peer && frame.from_generation == me.generation_in(self.peer);
        let from_watchdog = frame.from == wire::WATCHDOG && frame.kind == FrameKind::Lost;
        frame.to == me.slot && frame.to_generation == me.generation && (from_peer || from_watchdog)
    }

    /// Notes that the peer's present generation answered.
    pub fn confirm(&mut self, me: &SlotView, generation: Generation) {
        if self.up != Some(generation) {
            self.up = Some(generation);
            log::debug!("link to slot {} gen={generation} is up", self.peer);
        }
        me.page().activity.link.store(u64::from(generation.0), Ordering::Relaxed);
    }
}

impl AsFd for Link {
    /// Where frames arrive.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}

/// The message that announces a job. Payload: the type's code in its first byte,
/// the client's address as IPv6 in its last sixteen.
pub fn announcement(job: &Job) -> Message {
    let mut payload = [0u8; PAYLOAD_SIZE];
    payload[0] = job.kind.code();
    let address = match job.peer {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    payload[8..].copy_from_slice(&address.octets());
    Message { job: job.id, epoch: Epoch(0), kind: FrameKind::Job, payload }
}

/// The job in an announcement, as it arrived at `now`.
pub fn announced(frame: &Frame, now: Monotonic) -> Option<Job> {
    let kind = JobType::from_code(frame.payload[0])?;
    let octets = <[u8; 16]>::try_from(&frame.payload[8..]).ok()?;
    let peer = IpAddr::V6(Ipv6Addr::from(octets)).to_canonical();
    (frame.job != 0).then_some(Job { id: frame.job, kind, peer, at: now })
}
