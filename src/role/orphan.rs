//! Who watches the watchdog: every server, by the same rule as it is watched itself.
//!
//! The watchdog beats in the segment at least every second. A server that finds it silent says so
//! once; after the orphan timeout it leaves, unless a beat (of the old watchdog or of a new one)
//! came meanwhile. Time in which the server itself was late does not count.

use std::time::Duration;

use super::rundir::WATCHDOG_STALE;
use crate::policy::verdict::{Limits, Observation, Pulse, Reading, Turn};
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::time::{Monotonic, Short};

/// What a server knows of its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It beats, or has been silent for a short time only.
    Watched,
    /// It has been silent for the orphan timeout: leave.
    Orphaned,
}

/// A server's view of its watchdog's heart.
#[derive(Debug)]
pub struct Orphan {
    stale: Pulse,
    alone: Pulse,
    previous: Monotonic,
    told: bool,
    /// Of the server, for the log.
    name: String,
}

impl Orphan {
    /// Starts watching at `now`.
    pub fn new(segment: &Segment, now: Monotonic, name: &str) -> Orphan {
        let header = segment.header();
        let count = header.watchdog_heart.sample().count;
        let timeout = Duration::from_nanos(header.orphan_timeout_ns.load(Ordering::Relaxed));
        let pulse = |limit| Pulse::new(Limits { hang: limit, start: limit }, now, count);
        Orphan {
            stale: pulse(WATCHDOG_STALE.min(timeout)),
            alone: pulse(timeout),
            previous: now,
            told: false,
            name: name.to_owned(),
        }
    }

    /// Looks at the watchdog's heart in a turn that was planned for `planned`.
    pub fn look(&mut self, segment: &Segment, now: Monotonic, planned: Monotonic) -> Standing {
        let turn = Turn { now, previous: self.previous, lateness: now.since(planned) };
        self.previous = now;
        let sample = segment.header().watchdog_heart.sample();
        let seen = Observation { count: sample.count, stamp: sample.stamp };
        let silence = now.since(self.alone.last_beat());
        match self.stale.observe(&turn, seen) {
            Reading::Overdue if !self.told => {
                self.told = true;
                log::warn!(
                    "{}: the watchdog is silent (no beat for {})",
                    self.name,
                    Short(silence)
                );
            }
            Reading::Beat { .. } if self.told => {
                self.told = false;
                log::info!("{}: the watchdog beats again (after {})", self.name, Short(silence));
            }
            Reading::Beat { .. } | Reading::Quiet | Reading::Late | Reading::Overdue => {}
        }
        match self.alone.observe(&turn, seen) {
            Reading::Overdue => {
                let silence = Short(silence);
                log::warn!(
                    "{}: orphaned, no beat of the watchdog for {silence}; leaving",
                    self.name
                );
                Standing::Orphaned
            }
            Reading::Beat { .. } | Reading::Quiet | Reading::Late => Standing::Watched,
        }
    }
}
