//! What limit a heart's gaps suggest.
//!
//! Pure arithmetic on a histogram: a limit that what was seen so far keeps away from by a factor,
//! and that is not below what looks from outside can tell (docs/verdicts.md). Never a reason to do
//! anything: people read it. Tested here and in tests/policy.

use std::time::Duration;

use osps_heart::pulse::{LIMIT_MAX, late_after};
use osps_heart::segment::gaps::{Gaps, end_of};

/// So many gaps have to be seen: of fewer nobody can say what 99.9 % of them stay below.
pub const GAPS_MIN: u64 = 1000;
/// Over so long a time: a minute without load says nothing of the next hour, and nor does this of
/// the night; but shorter, and it is the start that is measured.
pub const TIME_MIN: Duration = Duration::from_secs(600);
/// Shorter limits are as long as a hiccup of the host, and a freeze may take the slack once more.
const LEAST: Duration = Duration::from_millis(84);

/// What is known of a heart beside its gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The limit in force.
    pub limit: Duration,
    /// The longest time between two beats that servers promise.
    pub beat_interval: Duration,
    /// The longest time between two looks: see [`look_gap`].
    pub look_gap: Duration,
}

/// What decides a suggestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Four times the gap that 99.9 % stay below.
    Usual,
    /// Twice the worst gap.
    Worst,
    /// Twice the time between two looks: what is shorter may hide between them.
    Looks,
    /// Two beat intervals.
    Beats,
    /// No limit makes sense that is shorter.
    Least,
}

/// What the gaps of a heart suggest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Fewer gaps than [`GAPS_MIN`].
    FewGaps(u64),
    /// Seen over less than [`TIME_MIN`].
    ShortTime(Duration),
    /// This limit.
    Limit(Duration, Why),
}

/// The longest time between two looks at a heart, on time (docs/verdicts.md).
pub fn look_gap(check_interval: Duration, watchdog_beat: Duration, limit: Duration) -> Duration {
    check_interval.min(watchdog_beat).min(late_after(limit))
}

/// A time that so many of a thousand gaps stay below: the end of a bucket, or the worst gap.
pub fn quantile(gaps: &Gaps, thousandths: u64) -> Duration {
    let rank = u128::from(gaps.total()) * u128::from(thousandths);
    let mut seen = 0_u128;
    let reached = gaps.buckets.iter().position(|count| {
        seen += u128::from(*count) * 1000;
        seen >= rank
    });
    reached.and_then(end_of).map_or(gaps.worst, |end| end.min(gaps.worst))
}

/// What the gaps of a heart suggest: see docs/verdicts.md for the formula.
pub fn advise(gaps: &Gaps, known: Known) -> Advice {
    let time = gaps.last.since(gaps.since);
    if gaps.total() < GAPS_MIN {
        return Advice::FewGaps(gaps.total());
    }
    if time < TIME_MIN {
        return Advice::ShortTime(time);
    }
    let Known { limit, beat_interval, look_gap } = known;
    let wanted = [
        (quantile(gaps, 999).saturating_mul(4), Why::Usual),
        (gaps.worst.saturating_mul(2), Why::Worst),
        // Whoever chose less than that has a reason of its own.
        (look_gap.saturating_mul(2).min(limit), Why::Looks),
        (beat_interval.saturating_mul(2), Why::Beats),
        (LEAST, Why::Least),
    ];
    let first = wanted[0];
    let (least, why) = wanted.into_iter().fold(first, |a, b| if b.0 > a.0 { b } else { a });
    // What is in force and suffices is not changed for the sake of a round number.
    let round = if least <= limit { round_up(least).min(limit) } else { round_up(least) };
    Advice::Limit(round.min(LIMIT_MAX), why)
}

/// The next round time: one, one and a half, two, three, four, five, six or eight, and zeros.
fn round_up(span: Duration) -> Duration {
    let ns = span.as_nanos().max(1);
    let power = 10_u128.pow(ns.ilog10());
    let tenths = [10, 15, 20, 30, 40, 50, 60, 80, 100].map(|tenths| power * tenths);
    // No round number is below a nanosecond, and none of these is too long for 64 bits.
    let round = tenths.into_iter().find(|tenths| *tenths >= ns * 10).unwrap_or(ns * 10);
    Duration::from_nanos(u64::try_from(round.div_ceil(10)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use osps_heart::segment::gaps::bucket;
    use osps_heart::segment::layout::GAP_BUCKETS;
    use osps_heart::time::Monotonic;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    const KNOWN: Known = Known { limit: ms(4000), beat_interval: ms(500), look_gap: ms(1000) };

    /// The histogram of these gaps, each so often, over an hour.
    fn of(spans: &[(Duration, u64)]) -> Gaps {
        let mut buckets = [0; GAP_BUCKETS];
        for (span, count) in spans {
            buckets[bucket(*span)] += count;
        }
        let worst = spans.iter().map(|(span, _)| *span).max().unwrap_or_default();
        let last = Monotonic(0) + ms(3_600_000);
        let sum = worst;
        Gaps { buckets, worst, sum, near_misses: 0, limit: KNOWN.limit, since: Monotonic(0), last }
    }

    #[test]
    fn round_numbers_are_round() {
        for (span, expected) in [
            (ms(84), ms(100)),
            (ms(100), ms(100)),
            (ms(101), ms(150)),
            (ms(2001), ms(3000)),
            (ms(7001), ms(8000)),
            (ms(8001), ms(10_000)),
            (Duration::ZERO, Duration::from_nanos(1)),
        ] {
            assert_eq!(round_up(span), expected, "{span:?}");
        }
    }

    #[test]
    fn what_decides_is_said() {
        let many = |usual, worst| of(&[(ms(usual), 9999), (ms(worst), 1)]);
        let short = Known { limit: ms(500), beat_interval: ms(62), look_gap: ms(300) };
        let tiny = Known { limit: ms(40), beat_interval: ms(10), look_gap: ms(24) };
        let slow = Known { limit: ms(2000), beat_interval: ms(900), look_gap: ms(500) };
        for (name, gaps, known, limit, why) in [
            ("fast and even", many(10, 20), KNOWN, ms(2000), Why::Looks),
            ("its worst gap counts twice", many(10, 1400), KNOWN, ms(3000), Why::Worst),
            ("the usual gap four times", many(700, 1400), KNOWN, ms(4000), Why::Usual),
            ("a near miss", many(10, 2500), KNOWN, ms(5000), Why::Worst),
            ("a short limit is not raised for the looks", many(10, 20), short, ms(500), Why::Looks),
            ("but for a gap", many(10, 260), short, ms(600), Why::Worst),
            ("below all sense", many(1, 2), tiny, ms(100), Why::Least),
            ("promised beats", many(1, 2), slow, ms(2000), Why::Beats),
        ] {
            assert_eq!(advise(&gaps, known), Advice::Limit(limit, why), "{name}");
        }
    }

    #[test]
    fn of_little_nothing_is_said() {
        let few = of(&[(ms(10), 999)]);
        assert_eq!(advise(&few, KNOWN), Advice::FewGaps(999));
        let short = Gaps { last: Monotonic(0) + ms(599_999), ..of(&[(ms(10), 1000)]) };
        assert_eq!(advise(&short, KNOWN), Advice::ShortTime(ms(599_999)));
    }
}
