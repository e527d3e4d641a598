//! When may a service fail again, so that nobody gives it up? Owns no timer.

use osps_heart::segment::layout::TALLY;
use osps_heart::time::Monotonic;

use crate::policy::restart::Intensity;

/// Deaths that a slot page has room for.
const ROOM: usize = TALLY - 2;

/// From when on one more death is allowed, if these were its deaths so far (the words of a
/// tally). A further one stays in reserve, for a death that no drill made.
pub fn earliest(words: &[u64; TALLY], intensity: Option<Intensity>, now: Monotonic) -> Monotonic {
    let Some(intensity) = intensity else { return now };
    let mut deaths: Vec<_> = words[2..].iter().filter(|word| **word != 0).copied().collect();
    deaths.sort_unstable();
    let allowed = usize::try_from(intensity.restarts).unwrap_or(ROOM).min(ROOM);
    let allowed = allowed.saturating_sub(1).max(1);
    // With this one behind us there are fewer than that.
    let hindrance = deaths.len().checked_sub(allowed).and_then(|place| deaths.get(place));
    hindrance.map_or(now, |death| now.max(Monotonic(*death) + intensity.period))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::restart::{Decision, Tally};

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever died before and however often is allowed: a drill that waits as it is told gets
        /// nobody given up, and still has one death in reserve where two are allowed.
        #[test]
        fn who_waits_is_never_given_up(
            restarts in 1u32..12,
            period in 1u64..60,
            pauses in prop::collection::vec(0u64..20, 0..12),
            rounds in 1usize..12,
        ) {
            let period = Duration::from_secs(period);
            let intensity = Some(Intensity { restarts, period });
            let mut tally = Tally::new(intensity);
            let mut now = Monotonic(1000 * SECOND);
            for pause in pauses {
                now = now + Duration::from_secs(pause);
                if tally.died(now, Some(period)) == Decision::GiveUp {
                    return Ok(());
                }
            }
            for _ in 0..rounds {
                now = earliest(&tally.words(), intensity, now);
                let mut spare = Tally::new(intensity);
                spare.recall(&tally.words(), now);
                prop_assert_ne!(tally.died(now, Some(period)), Decision::GiveUp);
                if restarts > 1 {
                    spare.died(now, Some(period));
                    prop_assert_ne!(spare.died(now, Some(period)), Decision::GiveUp);
                }
            }
        }
    }

    #[test]
    fn nobody_waits_without_a_reason() {
        let now = Monotonic(100 * SECOND);
        let mut words = [0; TALLY];
        let intensity = |restarts| Some(Intensity { restarts, period: Duration::from_secs(60) });
        assert_eq!(earliest(&words, intensity(1), now), now);
        words[2] = 90 * SECOND;
        assert_eq!(earliest(&words, None, now), now);
        assert_eq!(earliest(&words, intensity(3), now), now);
        assert_eq!(earliest(&words, intensity(1), now), Monotonic(150 * SECOND));
        assert_eq!(earliest(&words, intensity(2), now), Monotonic(150 * SECOND));
    }
}
