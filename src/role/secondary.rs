//! A secondary (SS): worker. Answers the primary's pings, so that it is eligible for work.

use super::server::{Link, Myself, Part};
use crate::ids::SlotId;
use crate::time::Monotonic;
use crate::wire::{Frame, Kind};

/// What a secondary does beside the common loop.
#[derive(Debug, Default)]
pub struct Secondary;

impl Secondary {
    /// A secondary linked to the primary.
    pub fn new() -> Secondary {
        Secondary
    }
}

impl Part for Secondary {
    fn peers(&self) -> Vec<SlotId> {
        vec![SlotId::FIRST]
    }

    fn frame(&mut self, me: &Myself, link: &mut Link, frame: &Frame) {
        match frame.kind {
            Kind::Ping => {
                link.confirm(me, frame.from_generation);
                link.send(me, Kind::Pong);
            }
            // A wake-up: every turn looks at the segment anyway.
            Kind::Lost => {}
            // The other kinds come with the ownership protocol.
            other => log::debug!("unexpected {other:?} from slot {}", frame.from),
        }
    }

    fn turn(&mut self, me: &Myself, links: &mut [Link], _now: Monotonic) {
        for link in links {
            // The primary that answered was replaced: down until its successor pings.
            if link.up.is_some_and(|generation| generation != me.generation_in(link.peer)) {
                link.up = None;
                me.page().report.link.store(0, crate::sync::Ordering::Relaxed);
            }
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        None
    }
}
