//! The heartbeat: what a server writes and what the watchdog reads.
//!
//! Writer: the server's main loop alone, plain load and store, no read-modify-write. Reader:
//! anybody. The count decides *whether* a beat happened, the stamp only *when* (`pulse`).
//! Tested in benches/figures.rs for cost, in tests/supervise.rs from outside.

use super::layout::HeartCells;
use crate::pulse::Sample;
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

    /// Reads the heart.
    pub fn sample(&self) -> Sample {
        // Acquire: pairs with the release in `tick`.
        let count = self.count.load(Ordering::Acquire);
        Sample { count, stamp: Monotonic(self.stamp_ns.load(Ordering::Relaxed)) }
    }
}
