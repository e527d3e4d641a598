//! The primary (SP): dispatcher. Checks its links; the ownership protocol and the dispatch of
//! clients build on that.

use std::time::Duration;

use super::server::{Link, Myself, Part};
use crate::ids::SlotId;
use crate::time::Monotonic;
use crate::wire::{Frame, Kind};

/// Pause between two pings of one link: the first is sent at once, and a lost one costs a second.
const PING: Duration = Duration::from_secs(1);

/// What the primary does beside the common loop.
#[derive(Debug)]
pub struct Primary {
    peers: Vec<SlotId>,
    ping_at: Monotonic,
}

impl Primary {
    /// A primary with a link to every secondary.
    pub fn new(me: &Myself) -> Primary {
        let slots = u8::try_from(me.segment.slots().len()).unwrap_or(u8::MAX);
        Primary { peers: (1..slots).map(SlotId).collect(), ping_at: Monotonic::default() }
    }
}

impl Part for Primary {
    fn peers(&self) -> Vec<SlotId> {
        self.peers.clone()
    }

    fn frame(&mut self, me: &Myself, link: &mut Link, frame: &Frame) {
        match frame.kind {
            Kind::Pong => link.confirm(me, frame.from_generation),
            // A wake-up: every turn looks at the segment anyway.
            Kind::Lost => {}
            // The other kinds come with the ownership protocol.
            other => log::debug!("unexpected {other:?} from slot {}", frame.from),
        }
    }

    fn turn(&mut self, me: &Myself, links: &mut [Link], now: Monotonic) {
        let due = now >= self.ping_at;
        for link in links {
            // A new generation is greeted at once, others are checked every second.
            let known = link.up == Some(me.generation_in(link.peer));
            if due || (!known && link.up.is_some()) {
                link.up = link.up.filter(|_| known);
                link.send(me, Kind::Ping);
            }
        }
        if due {
            self.ping_at = now + PING;
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        Some(self.ping_at)
    }
}
