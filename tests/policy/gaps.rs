//! Gaps between beats: what the looks make of them beside what is true, and the limit that follows.

use std::time::Duration;

use osps::policy::advice::{Advice, GAPS_MIN, Known, advise, look_gap, quantile};
use osps::policy::group::Input;
use osps::policy::lifecycle::Stage;
use osps_heart::pulse::{Gap, Limits, Pulse, Reading, Sample, Turn, is_limit};
use osps_heart::segment::Death;
use osps_heart::segment::gaps::{Gaps, bucket};
use osps_heart::segment::layout::GAP_BUCKETS;
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, HeartSource};
use proptest::collection::vec;
use proptest::prelude::*;

use super::draw::{BOOT, config, ms, roomy};
use super::reference::{most_of, slack};
use super::watches::{SLOT, Story, at};

// ---- What a look counts ----

/// What goes on at a look beside a beat or none.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    /// The look comes late, by so many ms beyond the slack.
    Late(u64),
    /// It is held, or starved: its limit runs again.
    Renewed,
    /// It asked for so many ms, or somebody paused it.
    Excused(u64),
    /// It waits for work since its last beat.
    Parked,
}

fn beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        10 => Just(Beside::Nothing),
        1 => (1..3000_u64).prop_map(Beside::Late),
        1 => Just(Beside::Renewed),
        1 => (1..5000_u64).prop_map(Beside::Excused),
        1 => Just(Beside::Parked),
    ]
}

/// A look, and what it counted.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Monotonic,
    /// Beats up to then.
    count: usize,
    gap: Option<Gap>,
    beside: Beside,
}

/// A heart that beats at these moments, with honest stamps, looked at until it has beaten them all:
/// at its deadlines, and before them after so many thousandths of its limit.
fn watch(limits: Limits, beats: &[Monotonic], looks: &[(u32, Beside)]) -> Vec<Look> {
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let mut seen = vec![Look { at: BOOT, count: 0, gap: None, beside: Beside::Nothing }];
    let mut looks = looks.iter().cycle();
    while let (Some(last), Some((wait, beside))) = (seen.last().copied(), looks.next())
        && last.count < beats.len()
    {
        let mut soon = last.at + limits.hang * *wait / 1000 + ms(1);
        if last.count == 0 {
            // Who starts is looked at more often.
            soon = soon.min(last.at + slack(limits.hang));
        }
        // One that has passed already makes no look any earlier.
        let deadline = Some(pulse.deadline()).filter(|deadline| *deadline > last.at);
        let planned = deadline.map_or(soon, |deadline| deadline.min(soon));
        let late = match beside {
            Beside::Late(by) => slack(limits.start.max(limits.hang)) + ms(*by),
            _ => Duration::ZERO,
        };
        let now = planned + late;
        let count = beats.iter().filter(|beat| **beat <= now).count();
        let stamp = match beside {
            Beside::Parked => Sample::parked(0).stamp,
            _ => beats[..count].last().copied().unwrap_or(BOOT),
        };
        let turn = Turn::new(now, last.at, late);
        let reading = pulse.observe(&turn, Sample { count: count as u64, stamp });
        let gap = pulse.take_gap();
        assert!(gap.is_none() || reading == Reading::Beat { first: false }, "{reading:?}");
        assert_eq!(pulse.take_gap(), None, "once");
        match beside {
            Beside::Renewed => pulse.renew(now),
            Beside::Excused(span) => pulse.excuse(now + ms(*span)),
            Beside::Nothing | Beside::Late(_) | Beside::Parked => {}
        }
        seen.push(Look { at: now, count, gap, beside: *beside });
    }
    seen
}

/// Beats after these thousandths of the limit.
fn beats(limits: Limits, waits: &[u32]) -> Vec<Monotonic> {
    let mut at = BOOT;
    let next = |wait: &u32| {
        at = at + limits.hang * *wait / 1000;
        at
    };
    waits.iter().map(next).collect()
}

proptest! {
    #![proptest_config(config(512))]

    /// Beside the true times: a gap is no shorter than the silence that a look found, and too long
    /// by the time since that look at most; that of a single beat is exact. Who was late is a near
    /// miss, and nobody else.
    #[test]
    fn a_gap_is_known_between_two_looks(
        limits in roomy(),
        waits in vec(prop_oneof![3 => 1..300_u32, 1 => 1..990_u32], 3..40),
        looks in vec(1..800_u32, 1..20),
    ) {
        let limits = Limits { start: limits.hang * 2, ..limits };
        let beats = beats(limits, &waits);
        let looks: Vec<_> = looks.into_iter().map(|wait| (wait, Beside::Nothing)).collect();
        let seen = watch(limits, &beats, &looks);
        let mut near = 0;
        for pair in seen.windows(2) {
            let [before, look] = pair else { unreachable!("pairs") };
            let beat = |number: usize| beats[number - 1];
            let moved = look.count - before.count;
            prop_assert_eq!(look.gap.is_some(), moved > 0 && before.count > 0, "{:?}", look);
            let Some(gap) = look.gap else { continue };
            let (from, until) = (beat(before.count), beat(before.count + 1));
            let truth = until.since(from);
            prop_assert!(gap.span >= before.at.since(from), "{:?}: it was seen silent", gap);
            prop_assert!(gap.span <= truth + look.at.since(before.at), "{gap:?} of {truth:?}");
            if moved == 1 {
                prop_assert_eq!(gap.span, truth);
            }
            let late = truth > most_of(limits.hang);
            prop_assert_eq!(gap.near_miss, late, "{:?} of {:?}", gap, truth);
            prop_assert!(!late || gap.span >= truth, "{:?} of {:?}", gap, truth);
            prop_assert_eq!(gap.limit, limits.hang);
            near += usize::from(late);
        }
        // None of them is missed, wherever the looks fell.
        let counted = seen.last().expect("a look").count;
        let true_gaps = beats[..counted].windows(2).map(|pair| pair[1].since(pair[0]));
        prop_assert_eq!(near, true_gaps.filter(|gap| *gap > most_of(limits.hang)).count());
    }

    /// Nothing is counted that anything excuses: from the look that saw the beat before to the one
    /// that sees the next.
    #[test]
    fn what_is_excused_is_no_gap(
        limits in roomy(),
        waits in vec(1..990_u32, 3..40),
        looks in vec((1..800_u32, beside()), 1..20),
    ) {
        let limits = Limits { start: limits.hang * 2, ..limits };
        let beats = beats(limits, &waits);
        let seen = watch(limits, &beats, &looks);
        let mut until = BOOT;
        for (i, look) in seen.iter().enumerate() {
            if look.gap.is_some() {
                let first = seen.iter().position(|one| one.count == seen[i - 1].count);
                let first = first.expect("the look that saw the beat before");
                // The renewal at the last look came after it was counted.
                let excused = seen[first..i].iter().any(|one| match one.beside {
                    Beside::Late(_) | Beside::Renewed | Beside::Parked => true,
                    Beside::Excused(_) | Beside::Nothing => false,
                });
                let here = matches!(look.beside, Beside::Late(_) | Beside::Parked);
                prop_assert!(!excused && !here, "{:?} at {}", look, i);
                let began = beats[seen[i - 1].count - 1];
                prop_assert!(began >= until, "{:?}: excused until {:?}", look, until);
            }
            if let Beside::Excused(span) = look.beside {
                until = until.max(look.at + ms(span));
            }
        }
    }
}

/// A heart of a hang timeout of a second that beats every 10 ms, for a second.
fn beating(warn: bool) -> Story {
    let mut story = Story::of(HeartSource::Memory, warn);
    story.until(1000, true);
    assert_eq!(story.gaps[0].len(), 99, "all but the time to the first beat");
    assert!(story.gaps[0].iter().all(|gap| gap.span == ms(10) && !gap.near_miss));
    story.gaps[0].clear();
    story
}

fn gap(span: u64, near_miss: bool) -> Gap {
    Gap { span: ms(span), near_miss, limit: ms(1000) }
}

#[test]
fn a_freeze_is_no_gap_and_a_near_miss_is_one() {
    let mut story = beating(false);
    story.until(1590, false);
    story.until(1600, true);
    story.until(2210, false);
    story.until(2220, true);
    assert_eq!(story.gaps[0], [gap(600, false), gap(620, true)]);
    // At the limit it is examined, and a beat that comes meanwhile saves it.
    story.until(3210, false);
    let before = Sample { count: story.count, stamp: at(2220) };
    (story.now, story.count) = (3220, story.count + 1);
    story.feed(Input::Turn { planned: at(3220) });
    story.feed(Input::Sample { slot: SLOT, seen: before });
    assert_eq!(story.group.take_gap(SLOT, None), Some(gap(1000, true)));
    story.gaps[0].clear();
    story.until(4220, false);
    assert_eq!(story.verdict(), Some((4220, Cause::Frozen, Some(Class::Blocked))));
    story.feed(Input::Died { slot: SLOT, death: Death::Killed(9) });
    story.feed(Input::Spawned { slot: SLOT, count: story.count });
    story.until(4620, true);
    assert_eq!(story.stage(), Stage::Up);
    assert_eq!(story.gaps[0].len(), 39);
    assert!(story.gaps[0].iter().all(|gap| gap.span == ms(10)), "{:?}", story.gaps);
}

#[test]
fn where_a_freeze_is_only_told_its_end_is_counted() {
    let mut story = beating(true);
    story.until(3490, false);
    assert_eq!(story.stage(), Stage::Held);
    story.until(3510, true);
    assert_eq!(story.gaps[0], [gap(2500, true), gap(10, false)]);
}

#[test]
fn what_somebody_holds_pauses_or_parks_is_not_counted() {
    let mut held = beating(false);
    held.class = Class::Traced;
    held.until(2500, false);
    assert_eq!(held.stage(), Stage::Held);
    held.until(2520, true);
    assert_eq!(held.gaps[0], [gap(10, false)]);

    let mut paused = beating(false);
    paused.feed(Input::Pause { slot: SLOT, until: at(5000) });
    paused.until(3000, false);
    paused.until(5010, true);
    assert_eq!(paused.gaps[0], []);
    paused.until(5020, true);
    assert_eq!(paused.gaps[0], [gap(10, false)]);

    let mut asked = beating(false);
    asked.feed(Input::Excused { slot: SLOT, span: ms(500) });
    asked.until(1500, true);
    assert_eq!(asked.gaps[0], []);
    asked.until(1510, true);
    assert_eq!(asked.gaps[0], [gap(10, false)]);

    let mut parks = beating(false);
    let mut sees = |count, stamp| {
        parks.further = Some(Sample { count, stamp });
        parks.until(parks.now + 10, true);
        parks.gaps[1].clone()
    };
    for count in 1..4 {
        sees(count, at(1000 + count * 10));
    }
    assert_eq!(sees(4, Sample::parked(0).stamp), [gap(10, false)]);
    for _ in 0..200 {
        sees(4, Sample::parked(0).stamp);
    }
    assert_eq!(sees(5, at(3050)), [gap(10, false)], "until it has work again");
    assert_eq!(sees(6, at(3060)), [gap(10, false); 2]);
}

#[test]
fn a_late_watchdog_blames_nobody() {
    let mut story = beating(false);
    // It was away for half a second, and so was everybody; then it finds the beat of just before.
    story.now = 1510;
    story.turn(1010, true);
    story.until(1520, true);
    assert_eq!(story.gaps[0], []);
    story.until(1530, true);
    assert_eq!(story.gaps[0], [gap(10, false)]);
}

// ---- What follows ----

/// Shorter ones are not suggested.
const LEAST: Duration = ms(84);

/// The histogram of these gaps, each so often, over an hour.
fn of(spans: &[(Duration, u64)]) -> Gaps {
    let mut buckets = [0; GAP_BUCKETS];
    for (span, count) in spans {
        buckets[bucket(*span)] += count;
    }
    let worst = spans.iter().map(|(span, _)| *span).max().unwrap_or_default();
    Gaps {
        buckets,
        worst,
        sum: worst,
        near_misses: 0,
        limit: ms(4000),
        since: BOOT,
        last: BOOT + ms(3_600_000),
    }
}

/// Whatever a damaged header says.
fn any_known() -> impl Strategy<Value = Known> {
    let span = || any::<u64>().prop_map(Duration::from_nanos);
    (20..2_592_000_000_u64, span(), span()).prop_map(|(limit, beat_interval, look_gap)| Known {
        limit: ms(limit),
        beat_interval,
        look_gap,
    })
}

proptest! {
    #![proptest_config(config(256))]

    /// Whatever was counted: the suggestion is a limit that config accepts, above all that was
    /// seen.
    #[test]
    fn a_suggestion_is_a_limit_above_all_that_was_seen(
        spans in vec((0..1_000_000_u64, 1..5000_u64), 1..20),
        limit in 20..100_000_u64,
        beat in 10..500_u64,
    ) {
        let spans: Vec<_> = spans.into_iter().map(|(span, n)| (ms(span), n)).collect();
        let gaps = of(&spans);
        let limit = ms(limit);
        let look_gap = look_gap(ms(2000), ms(1000), limit);
        let known = Known { limit, beat_interval: ms(beat), look_gap };
        match advise(&gaps, known) {
            Advice::Limit(suggested, _) => {
                prop_assert!(is_limit(suggested) && suggested >= LEAST);
                prop_assert!(suggested >= gaps.worst * 2 && suggested >= ms(beat) * 2);
                prop_assert!(suggested >= quantile(&gaps, 999) * 4);
                prop_assert!(suggested >= limit.min(look_gap * 2));
                // And not far above it, unless something else wants that.
                let seen = (gaps.worst * 4).max(look_gap * 2).max(ms(beat) * 2).max(LEAST);
                prop_assert!(suggested <= seen * 2, "{suggested:?} of {seen:?}");
            }
            Advice::FewGaps(seen) => prop_assert!(seen < GAPS_MIN),
            Advice::ShortTime(_) => prop_assert!(false, "an hour is enough"),
        }
    }

    /// Beside the sorted list: no quantile is below the gap of that rank, nor far above it.
    #[test]
    fn a_quantile_is_just_above_its_gap(
        spans in vec(0..5_000_000_000_u64, 1..2000),
        thousandths in 1..=1000_u64,
    ) {
        let mut spans: Vec<_> = spans.into_iter().map(Duration::from_nanos).collect();
        let gaps = of(&spans.iter().map(|span| (*span, 1)).collect::<Vec<_>>());
        spans.sort();
        let rank = (spans.len() as u64 * thousandths).div_ceil(1000);
        let true_one = spans[usize::try_from(rank)? - 1];
        let found = quantile(&gaps, thousandths);
        prop_assert!(found >= true_one, "{found:?} is below {true_one:?}");
        prop_assert!(found <= (true_one * 3 / 2).max(Duration::from_nanos(1 << 20)));
    }

    /// Arbitrary words, as a scribble leaves them: no panic, and a limit if anything.
    #[test]
    fn no_numbers_break_it(
        buckets in vec(
            prop_oneof![Just(0), any::<u64>(), Just(u64::MAX)], GAP_BUCKETS,
        ),
        (worst, since, last) in any::<(u64, u64, u64)>(),
        known in any_known(),
    ) {
        let gaps = Gaps {
            buckets: buckets.try_into().expect("as many"),
            worst: Duration::from_nanos(worst),
            sum: Duration::from_nanos(worst),
            near_misses: last,
            limit: Duration::from_nanos(since),
            since: Monotonic(since),
            last: Monotonic(last),
        };
        if let Advice::Limit(limit, _) = advise(&gaps, known) {
            prop_assert!(is_limit(limit));
        }
    }
}
