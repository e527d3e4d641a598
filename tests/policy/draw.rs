//! What the properties draw: limits, stamps, counts, lateness, moments.

use std::ops::Range;
use std::time::Duration;

use osps_heart::pulse::{Limits, Turn};
use osps_heart::time::Monotonic;
use proptest::prelude::*;
use proptest::sample::select;

use super::reference::{most_of, slack};

/// Longest time between two turns of the watchdog.
pub const CHECK: Duration = Duration::from_secs(2);
/// Where simulated time begins: far enough from zero for stamps that lie behind.
pub const BOOT: Monotonic = Monotonic(1_000_000_000_000);

pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// As config allows them.
pub fn limits() -> impl Strategy<Value = Limits> {
    prop_oneof![1 => limits_from(20..400, 100..400), 3 => roomy()]
}

/// From 400 ms on the slack is an eighth of the limit. Below, it is a larger part, and below 50 ms
/// a pause within the slack is as long as the limit.
pub fn roomy() -> impl Strategy<Value = Limits> {
    limits_from(400..8000, 400..12_000)
}

fn limits_from(hang: Range<u64>, start: Range<u64>) -> impl Strategy<Value = Limits> {
    (hang, start).prop_map(|(hang, start)| Limits { hang: ms(hang), start: ms(start) })
}

/// What a server writes beside its count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stamp {
    Honest,
    Zero,
    Behind(u64),
    Ahead(u64),
    Garbage(u64),
}

impl Stamp {
    pub fn at(self, truth: Monotonic) -> Monotonic {
        match self {
            Stamp::Honest => truth,
            Stamp::Zero => Monotonic(0),
            Stamp::Behind(span) => truth - ms(span),
            Stamp::Ahead(span) => truth + ms(span),
            Stamp::Garbage(bits) => Monotonic(bits),
        }
    }

    /// How much too old a beat with this stamp may be taken for that is seen in this turn.
    pub fn lie(self, limits: Limits, limit: Duration, turn: &Turn) -> Duration {
        let window = turn.read.since(turn.previous) + slack(limit);
        match self {
            Stamp::Honest | Stamp::Zero | Stamp::Ahead(_) => Duration::ZERO,
            Stamp::Behind(_) | Stamp::Garbage(_) => window.min(most_of(limits.hang)),
        }
    }
}

/// In another time namespace all stamps are off by the same, otherwise by anything.
pub fn stamp() -> impl Strategy<Value = Stamp> {
    prop_oneof![
        4 => Just(Stamp::Honest),
        1 => Just(Stamp::Zero),
        1 => (0..20_000_u64).prop_map(Stamp::Behind),
        1 => (1..20_000_u64).prop_map(Stamp::Ahead),
        1 => any::<u64>().prop_map(Stamp::Garbage),
    ]
}

/// Where a count stands when its process starts: often just before it wraps.
pub fn baseline() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), (0..9_u64).prop_map(|n| u64::MAX - n), any::<u64>()]
}

/// By how much a beat moves the count: anything, backwards as well, that does not come round to
/// the same value again.
pub fn stride() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(1), 1 => Just(u64::MAX), 1 => any::<u64>().prop_map(|n| n | 1)]
}

/// By how many ms a turn is late.
pub fn lateness() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => 1..60_u64, 1 => 40..2000_u64, 1 => 0..60_000_u64]
}

/// Any moment at all, more often one that means something.
pub fn any_moment() -> impl Strategy<Value = Monotonic> {
    prop_oneof![
        4 => (0..60_000_u64).prop_map(|after| BOOT + ms(after)),
        1 => select(vec![Monotonic(0), BOOT, Monotonic(u64::MAX)]),
        1 => any::<u64>().prop_map(Monotonic),
    ]
}
