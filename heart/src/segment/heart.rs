//! The heartbeat: what a server writes and what the watchdog reads.
//!
//! Writer: the claimant's main loop alone, plain load and store, no read-modify-write. Reader:
//! anybody. A line is claimed before its first beat by the first process of its slot's
//! generation that opens it; the watchdog alone frees it again, when the claimant died or at a
//! launch. The count decides *whether* a beat happened, the stamp only *when* (`pulse`).
//! Tested in benches/figures.rs for cost, in tests/supervise.rs from outside.

use std::time::Duration;

use super::layout::HeartCells;
use crate::ids::{Claim, SlotId};
use crate::pulse::{PARKED, Sample, is_limit};
use crate::sync::Ordering;
use crate::time::Monotonic;

impl HeartCells {
    /// Beats: `now` must be freshly read by the caller, in the loop that does the work.
    pub fn beat(&self, now: Monotonic) {
        self.stamp_ns.store(now.0, Ordering::Relaxed);
        self.tick();
    }

    /// Beats without a stamp, for loops that cannot afford a clock: the watchdog then takes the
    /// moment at which it noticed.
    pub fn tick(&self) {
        let count = self.count.load(Ordering::Relaxed).wrapping_add(1);
        // Release: whoever sees this count sees its stamp, or a later one. Pairs with `sample`.
        self.count.store(count, Ordering::Release);
    }

    /// Parks: from now on silence means nothing, until the next beat. A beat itself, whose stamp
    /// says so.
    pub fn park(&self) {
        self.beat(PARKED);
    }

    /// Claims the line for `mine`. `Err` = another process of that generation was first, or of a
    /// later one. A claim under an earlier generation is a left-over's and gives way.
    pub fn claim(&self, mine: Claim) -> Result<(), Claim> {
        loop {
            let found = self.claimed();
            if found == mine {
                return Ok(());
            }
            if found.pid != 0 && found.slot == mine.slot && !mine.is_later_than(found) {
                return Err(found);
            }
            // If another one's claim came between, look again: each turn is one of those.
            if self.exchange_claim(found, mine) {
                return Ok(());
            }
        }
    }

    /// Claims a free further line. `false` = it is taken.
    pub fn claim_free(&self, mine: Claim) -> bool {
        let taken =
            self.claim.compare_exchange(0, mine.pack(), Ordering::Relaxed, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Gives a further line back, if it is still `mine`; the watchdog does so for the dead.
    pub fn give_back(&self, mine: Claim) {
        let (from, to) = (mine.pack(), 0);
        let _ = self.claim.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Who beats here.
    pub fn claimed(&self) -> Claim {
        Claim::unpack(self.claim.load(Ordering::Relaxed))
    }

    /// Replaces exactly `from` by `to`; `false` = it was something else meanwhile. Relaxed: a claim
    /// is before its beats for everybody who sees those, since `tick` releases.
    pub fn exchange_claim(&self, from: Claim, to: Claim) -> bool {
        let (from, to) = (from.pack(), to.pack());
        self.claim.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Makes it the line of a slot that nobody claimed: at creation and before each launch.
    /// Watchdog only.
    pub fn unclaim(&self, slot: SlotId) {
        self.claim.store(Claim::unclaimed(slot).pack(), Ordering::Relaxed);
    }

    /// The words of its name, whatever they are.
    pub fn raw_name(&self) -> [u64; 4] {
        self.name.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// The limit that the claimant of a further line chose; `None` = as its server's.
    pub fn chosen_limit(&self) -> Option<Duration> {
        let limit = Duration::from_nanos(self.limit_ns.load(Ordering::Relaxed));
        is_limit(limit).then_some(limit)
    }

    /// Reads the heart.
    pub fn sample(&self) -> Sample {
        // Acquire: pairs with the release in `tick`.
        let count = self.count.load(Ordering::Acquire);
        Sample { count, stamp: Monotonic(self.stamp_ns.load(Ordering::Relaxed)) }
    }
}
