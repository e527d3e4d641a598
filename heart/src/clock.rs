//! The kernel's clocks. The only file of both crates that reads one.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::time::{Clock, Monotonic};

/// `CLOCK_MONOTONIC`: through the vDSO, some 35 ns, no syscall.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Monotonic {
        Monotonic(nanoseconds(clock_gettime(ClockId::Monotonic)))
    }
}

/// Nanoseconds since 1970, for people.
pub fn unix_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

fn nanoseconds(time: Timespec) -> u64 {
    // Neither field is negative on these clocks.
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
