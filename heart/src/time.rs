//! Time as osps counts it: nanoseconds of `CLOCK_MONOTONIC`, behind a seam.
//!
//! Nothing outside `clock.rs` reads a clock; decisions get `now` as an argument, so every
//! test of them runs in simulated time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on this host's monotonic clock, in nanoseconds since boot. It is comparable
/// between processes of one host and one time namespace, which `std::time::Instant` is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Nanoseconds of a duration, saturating after 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;
    fn add(self, span: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(nanos(span)))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Monotonic;
    fn sub(self, span: Duration) -> Monotonic {
        Monotonic(self.0.saturating_sub(nanos(span)))
    }
}

/// Where the time comes from: the kernel in production, a test's own hand otherwise.
pub trait Clock {
    /// The present moment.
    fn now(&self) -> Monotonic;
}

/// A duration as people read it in logs: `3.1ms`, `4.00s`, `2m05s`.
#[derive(Clone, Copy, Debug)]
pub struct Short(pub Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.0;
        let seconds = span.as_secs();
        if span < Duration::from_millis(1) {
            write!(f, "{}us", span.as_micros())
        } else if span < Duration::from_secs(1) {
            write!(f, "{:.1}ms", span.as_secs_f64() * 1e3)
        } else if seconds < 120 {
            write!(f, "{:.2}s", span.as_secs_f64())
        } else if seconds < 7200 {
            write!(f, "{}m{:02}s", seconds / 60, seconds % 60)
        } else {
            write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_durations_read_well() {
        for (span, expected) in [
            (Duration::ZERO, "0us"),
            (Duration::from_micros(999), "999us"),
            (Duration::from_micros(3100), "3.1ms"),
            (Duration::from_secs(4), "4.00s"),
            (Duration::from_secs(119), "119.00s"),
            (Duration::from_secs(125), "2m05s"),
            (Duration::from_secs(7300), "2h01m"),
        ] {
            assert_eq!(Short(span).to_string(), expected);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Monotonic(u64::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(Monotonic(5) - Duration::from_secs(1), Monotonic(0));
        assert_eq!(Monotonic(5).since(Monotonic(9)), Duration::ZERO);
    }
}
