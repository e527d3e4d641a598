//! Restarts beside the list of all deaths.

use std::time::Duration;

use osps::policy::restart::{
    DELAY_MAX, DELAY_MIN, DELAY_UP_MAX, Decision, FREE, FREE_PERIOD, HEALTHY, Intensity, Tally,
    UP_LONG_ENOUGH,
};
use osps_heart::time::Monotonic;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::draw::{BOOT, config, ms};

proptest! {
    #![proptest_config(config(256))]

    /// Every promise of `restart` at once, checked against the list of all deaths.
    #[test]
    fn restarts_keep_their_promises(
        intensity in option::of((0..6_u32, 1..120_u64)),
        lives in vec((prop_oneof![
            2 => Just(0_u64), 3 => 0..1000_u64, 2 => 1000..59_000_u64, 1 => 60_000..90_000_u64,
        ], 0..500_u64), 1..80),
    ) {
        let intensity =
            intensity.map(|(restarts, s)| Intensity { restarts, period: Duration::from_secs(s) });
        let mut tally = Tally::new(intensity);
        let mut now = BOOT;
        let mut deaths: Vec<Monotonic> = Vec::new();
        let mut young_at_once: Vec<Monotonic> = Vec::new();
        let mut last_delay: Option<Duration> = None;
        for (up, dying) in lives {
            // What it was up for is less than what its life took.
            let up = ms(up);
            now = now + up + ms(dying);
            deaths.push(now);
            let recent = |list: &[Monotonic], period: Duration| {
                list.iter().filter(|at| now.since(**at) < period).count()
            };
            let beaten = (!up.is_zero()).then_some(up);
            let next = match tally.died(now, beaten) {
                Decision::Again(next) => next,
                Decision::GiveUp => {
                    let Some(Intensity { restarts, period }) = intensity else {
                        return Err(TestCaseError::fail("gave up though nobody asked for that"));
                    };
                    prop_assert!(recent(&deaths, period) > restarts as usize, "gave up early");
                    return Ok(());
                }
            };
            if let Some(Intensity { restarts, period }) = intensity {
                prop_assert!(recent(&deaths, period) <= restarts as usize, "one too many");
            }
            prop_assert!(next >= now);
            let delay = next.since(now);
            prop_assert!(delay <= DELAY_MAX);
            if up >= HEALTHY {
                last_delay = None;
            }
            if up >= UP_LONG_ENOUGH {
                prop_assert_eq!(delay, Duration::ZERO);
            } else if delay.is_zero() {
                young_at_once.push(now);
                prop_assert_eq!(last_delay, None, "a free restart within an unhealthy streak");
                prop_assert!(recent(&young_at_once, FREE_PERIOD) <= FREE);
                prop_assert!(beaten.is_some(), "a start that came to nothing is never free");
            } else {
                // One ladder for all; who has beaten waits on it up to its own limit.
                let rung = last_delay.map_or(DELAY_MIN, |delay| (delay * 2).min(DELAY_MAX));
                let most = if beaten.is_some() { DELAY_UP_MAX } else { DELAY_MAX };
                prop_assert_eq!(delay, rung.min(most));
                let free = recent(&deaths, FREE_PERIOD) <= FREE && last_delay.is_none();
                prop_assert!(!free || beaten.is_none());
                if rung < most {
                    last_delay = Some(rung);
                }
            }
            now = next;
        }
    }
}
