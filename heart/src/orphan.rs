//! Who watches the watchdog: every server, by the same rule as it is watched itself.
//!
//! The watchdog beats in the segment at least every second. A server that finds it silent may say
//! so; after the orphan timeout it leaves, unless a beat (of the old watchdog or of a new one) came
//! meanwhile. Time in which the server itself was late does not count.

use std::time::Duration;

use crate::pulse::{Limits, PARKED, Pulse, Reading, Sample, Turn};
use crate::segment::Segment;
use crate::sync::Ordering;
use crate::time::Monotonic;

/// The watchdog beats at least this often, whatever the check interval: servers judge it.
const WATCHDOG_BEAT: Duration = Duration::from_secs(1);

/// A watchdog beats at least every second; after three it is late beyond doubt.
pub const WATCHDOG_STALE: Duration = Duration::from_secs(3);

/// What a server knows of its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It beats, or has been silent for a time that was told already.
    Watched,
    /// It has become silent beyond doubt; told once in one silence.
    Silent(Duration),
    /// It beats again after such a silence.
    Back(Duration),
    /// It has been silent for the orphan timeout: leave.
    Orphaned(Duration),
}

/// A server's view of its watchdog's heart.
#[derive(Debug)]
pub struct Orphan {
    stale: Pulse,
    alone: Pulse,
    previous: Monotonic,
    told: bool,
}

impl Orphan {
    /// Starts watching at `now`.
    pub fn new(segment: &Segment, now: Monotonic) -> Orphan {
        let header = segment.header();
        let count = header.watchdog_heart.sample().count;
        let timeout = Duration::from_nanos(header.orphan_timeout_ns.load(Ordering::Relaxed));
        let pulse = |limit| Pulse::new(Limits { hang: limit, start: limit }, now, count);
        Orphan {
            stale: pulse(WATCHDOG_STALE.min(timeout)),
            alone: pulse(timeout),
            previous: now,
            told: false,
        }
    }

    /// Looks at the watchdog's heart in a turn that was planned for `planned`.
    pub fn look(&mut self, segment: &Segment, now: Monotonic, planned: Monotonic) -> Standing {
        let turn = Turn::new(now, self.previous, now.since(planned));
        self.previous = now;
        // A watchdog does not park: a stamp that says so was scribbled.
        let Sample { count, stamp } = segment.header().watchdog_heart.sample();
        let stamp = if stamp == PARKED { Monotonic(0) } else { stamp };
        let seen = Sample { count, stamp };
        let silence = now.since(self.alone.last_beat());
        let stale = self.stale.observe(&turn, seen);
        if self.alone.observe(&turn, seen) == Reading::Overdue {
            return Standing::Orphaned(silence);
        }
        match stale {
            Reading::Overdue if !self.told => {
                self.told = true;
                Standing::Silent(silence)
            }
            Reading::Beat { .. } if self.told => {
                self.told = false;
                Standing::Back(silence)
            }
            Reading::Beat { .. }
            | Reading::Quiet
            | Reading::Parked
            | Reading::Late
            | Reading::Overdue => Standing::Watched,
        }
    }
}

/// The longest time between two beats of a watchdog: with a short orphan timeout it beats four
/// times within that.
pub fn watchdog_beat(orphan_timeout: Duration) -> Duration {
    WATCHDOG_BEAT.min(orphan_timeout / 4)
}

/// Age of the watchdog's last beat; `None` if its stamp makes no sense.
pub fn watchdog_age(segment: &Segment, now: Monotonic) -> Option<Duration> {
    let stamp = segment.header().watchdog_heart.sample().stamp;
    // It may beat between our reading of the clock and of the heart.
    (stamp.0 != 0 && stamp <= now + Duration::from_secs(1)).then(|| now.since(stamp))
}
