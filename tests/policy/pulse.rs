//! One heart: the pulse beside the reference, and beside what is true.

use std::time::Duration;

use osps_heart::pulse::{Limits, Pulse, Reading, Sample, Turn};
use osps_heart::time::Monotonic;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::draw::{BOOT, Stamp, any_moment, baseline, config, lateness, limits, ms, stamp, stride};
use super::reference::{EXTENSIONS, Reference, SPARED, most_of, slack};

/// What is done about an overdue server that is not killed.
#[derive(Clone, Copy, Debug)]
enum Mercy {
    None,
    /// It is starved.
    Spare,
    /// Somebody held it, and holds it no more.
    Pardon,
}

/// One look at a heart, as a script tells it.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Time since the last look, in thousandths of the hang limit.
    pub wait: u64,
    /// How far the count moved, forwards or backwards; 0 = no beat.
    pub moved: u64,
    /// How long ago the beat was, in thousandths of the wait.
    ago: u64,
    pub stamp: Stamp,
    /// Of the wait, this many ms were not planned.
    pub late: u64,
    /// The heart is read so many ms after the clock.
    took: u64,
    mercy: Mercy,
}

fn look() -> impl Strategy<Value = Look> {
    let moved = prop_oneof![3 => Just(0), 1 => Just(1), 1 => any::<u64>()];
    let mercy = select(vec![Mercy::None, Mercy::Spare, Mercy::Pardon]);
    let took = prop_oneof![2 => Just(0), 1 => 1..2000_u64];
    (0..1100_u64, moved, 0..1000_u64, stamp(), lateness(), took, mercy).prop_map(
        |(wait, moved, ago, stamp, late, took, mercy)| Look {
            wait,
            moved,
            ago,
            stamp,
            late,
            took,
            mercy,
        },
    )
}

proptest! {
    #![proptest_config(config(1024))]

    /// The pulse and the reference agree on every reading, whatever server and host do; and nobody
    /// is overdue who was not silent for the limit in truth, over time that was not forgiven.
    #[test]
    fn verdicts_follow_the_rule(
        limits in limits(),
        baseline in baseline(),
        script in vec(look(), 1..40),
    ) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let (spared, pardoned, looks) = (Vec::new(), Vec::new(), Vec::new());
        let mut reference = Reference { limits, spawned: BOOT, baseline, looks, spared, pardoned };
        let (mut previous, mut count) = (Turn::new(BOOT, BOOT, Duration::ZERO), baseline);
        let (mut last_beat, mut forgiven, mut lie) = (BOOT, BOOT, Duration::ZERO);
        for (i, look) in script.into_iter().enumerate() {
            let planned = previous.read + limits.hang * u32::try_from(look.wait)? / 1000;
            let now = planned + ms(look.late);
            let read = now + ms(look.took);
            let turn = Turn { read, ..Turn::new(now, previous.now, ms(look.late)) };
            count = count.wrapping_add(look.moved);
            let truth = read - read.since(previous.read) * u32::try_from(look.ago)? / 1000;
            let seen = Sample { count, stamp: look.stamp.at(truth) };
            reference.look(turn, seen);
            let limit = pulse.limit();
            let reading = pulse.observe(&turn, seen);
            prop_assert_eq!(reading, reference.reading(), "at {:?}", now.since(BOOT));
            prop_assert_eq!(pulse.last_beat(), reference.last_beat());
            if look.moved != 0 {
                prop_assert!(matches!(reading, Reading::Beat { .. }), "any move is a beat");
                (last_beat, lie) = (truth, look.stamp.lie(limits, limit, &turn));
            }
            if reference.is_renewed(i) {
                forgiven = now;
            }
            if reading == Reading::Overdue {
                let silence = now.since(last_beat.max(forgiven)) + lie;
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                match look.mercy {
                    Mercy::None => {}
                    Mercy::Spare => {
                        let may = reference.may_spare(i);
                        prop_assert_eq!(pulse.renew_starved(now), may);
                        reference.spared.extend(may.then_some(i));
                    }
                    Mercy::Pardon => {
                        pulse.renew(now);
                        reference.pardoned.push(i);
                    }
                }
            }
            previous = turn;
        }
    }

    /// A server that beats within 40 % of its limit is never overdue, whatever it writes beside
    /// its count, however it counts, and however late the watchdog comes.
    #[test]
    fn no_stamp_convicts_a_beating_server(
        limits in limits(),
        (baseline, stride) in (baseline(), stride()),
        every in 1..=400_u32,
        first_beat in 1..1000_u32,
        stamps in vec(stamp(), 1..8),
        turns in vec((prop_oneof![0..200_u32, 0..4000_u32], lateness()), 1..60),
    ) {
        let every = limits.hang * every / 1000;
        let first_beat = limits.start * first_beat / 1000;
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let mut previous = BOOT;
        for (i, (wait, late)) in turns.into_iter().enumerate() {
            let planned = (previous + limits.hang * wait / 1000).min(pulse.deadline());
            let now = planned.max(previous) + ms(late);
            let turn = Turn::new(now, previous, ms(late));
            let beating = now.since(BOOT).checked_sub(first_beat);
            let beats = beating.map_or(0, |time| 1 + time.as_nanos() / every.as_nanos());
            let beats = u32::try_from(beats)?;
            let count = baseline.wrapping_add(stride.wrapping_mul(beats.into()));
            let truth = BOOT + first_beat + every * beats.saturating_sub(1);
            let seen = Sample { count, stamp: stamps[i % stamps.len()].at(truth) };
            prop_assert_ne!(pulse.observe(&turn, seen), Reading::Overdue, "{:?}", now.since(BOOT));
            previous = now;
        }
    }

    /// The window to the nanosecond: after the previous turn less the slack, and not after now.
    #[test]
    fn a_stamp_is_believed_within_its_window_only(
        limits in limits(),
        baseline in baseline(),
        gap in 0..10_000_u64,
    ) {
        let previous = BOOT + ms(60_000);
        let (now, nanosecond) = (previous + ms(gap), Duration::from_nanos(1));
        let begin = previous - slack(limits.start);
        for (stamp, believed) in [
            (begin, false),
            (begin + nanosecond, true),
            (now, true),
            (now + nanosecond, false),
        ] {
            let mut pulse = Pulse::new(limits, BOOT, baseline);
            let turn = Turn::new(now, previous, Duration::ZERO);
            let count = baseline.wrapping_add(1);
            let reading = pulse.observe(&turn, Sample { count, stamp });
            prop_assert_eq!(reading, Reading::Beat { first: true });
            prop_assert_eq!(pulse.last_beat(), if believed { stamp } else { now });
        }
    }

    /// The worst that a watchdog can do which is late whenever it matters: five further limits and
    /// its lateness, then two more for a starved server; to the nanosecond.
    #[test]
    fn a_freeze_is_hidden_for_exactly_the_documented_grace(
        limits in limits(),
        baseline in baseline(),
        beaten in any::<bool>(),
        lates in vec(1..2_000_000_000_u64, EXTENSIONS),
    ) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let mut count = baseline;
        if beaten {
            count = count.wrapping_add(1);
            let turn = Turn::new(BOOT, BOOT, Duration::ZERO);
            let reading = pulse.observe(&turn, Sample { count, stamp: BOOT });
            prop_assert_eq!(reading, Reading::Beat { first: true });
        }
        let limit = if beaten { limits.hang } else { limits.start };
        let mut from = BOOT;
        let mut look = |planned: Monotonic, lateness: Duration, expected: Reading| {
            prop_assert_eq!(pulse.deadline(), planned);
            let now = planned + lateness;
            let turn = Turn::new(now, planned - ms(1), lateness);
            let reading = pulse.observe(&turn, Sample { count, stamp: now });
            prop_assert_eq!(reading, expected, "{:?} late", lateness);
            Ok(())
        };
        // A watchdog that is late by the slack is on time, and a nanosecond more is late.
        for late in lates {
            let late = slack(limit) + Duration::from_nanos(late);
            look(from + most_of(limit), Duration::ZERO, Reading::Late)?;
            look(from + limit, late, Reading::Quiet)?;
            from = from + limit + late;
        }
        look(from + most_of(limit), Duration::ZERO, Reading::Late)?;
        look(from + limit, slack(limit) + ms(1), Reading::Overdue)?;
        let mut now = from + limit;
        for _ in 0..SPARED {
            prop_assert!(pulse.renew_starved(now));
            now = now + limit;
            let nearly = now - Duration::from_nanos(1);
            for (at, expected) in [(nearly, Reading::Late), (now, Reading::Overdue)] {
                let turn = Turn::new(at, at - ms(1), Duration::ZERO);
                let reading = pulse.observe(&turn, Sample { count, stamp: at });
                prop_assert_eq!(reading, expected);
            }
        }
        prop_assert!(!pulse.renew_starved(now), "spared a third time");
    }

    /// A turn that is late by the slack is on time.
    #[test]
    fn the_slack_itself_forgives_nothing(limits in limits(), baseline in baseline()) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let lateness = slack(limits.start);
        let now = BOOT + limits.start.max(lateness);
        let turn = Turn::new(now, BOOT, lateness);
        let seen = Sample { count: baseline, stamp: now };
        prop_assert_eq!(pulse.observe(&turn, seen), Reading::Overdue);
    }

    /// The monotonic clock does not jump, and never goes back. If it did all the same, nothing
    /// would break, and nobody would be overdue before its limit has passed on that clock.
    #[test]
    fn a_clock_that_jumps_anywhere_breaks_nothing(
        limits in limits(),
        baseline in baseline(),
        jumps in vec((any_moment(), any_moment(), any_moment(), 0..3_u64), 1..40),
    ) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let (mut count, mut earliest, mut previous) = (baseline, BOOT, BOOT);
        for (now, planned, stamp, moved) in jumps {
            let turn = Turn::new(now, previous, now.since(planned));
            count = count.wrapping_add(moved);
            let limit = pulse.limit();
            let reading = pulse.observe(&turn, Sample { count, stamp });
            earliest = if moved == 0 { earliest.min(now) } else { now };
            prop_assert_eq!(matches!(reading, Reading::Beat { .. }), moved != 0);
            if reading == Reading::Overdue {
                prop_assert!(now.since(earliest) + most_of(limits.hang) >= limit);
                pulse.renew_starved(now);
            }
            previous = now;
            let _ = pulse.deadline();
        }
    }
}

/// A deadline that no clock can show any more made a server overdue in the turn after its beat.
#[test]
fn at_the_end_of_time_nobody_is_overdue_at_once() {
    let end = Monotonic(u64::MAX);
    let turn = Turn::new(end, end, ms(0));
    let mut pulse = Pulse::new(Limits { hang: ms(20), start: ms(100) }, BOOT, 0);
    assert_eq!(
        pulse.observe(&turn, Sample { count: 1, stamp: end }),
        Reading::Beat { first: true }
    );
    // A stamp of all ones that did not move is a parked heart: this one has another.
    let seen = Sample { count: 1, stamp: BOOT };
    assert_eq!(pulse.observe(&turn, seen), Reading::Quiet);
}

/// While the start timeout is in force, turns may lie further apart than the hang limit, and a
/// stamp from just after the turn before counts as older than that limit.
#[test]
fn a_scribbled_stamp_of_the_first_beat_convicts_nobody() {
    let limits = Limits { hang: ms(600), start: ms(5000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let at = |time| BOOT + ms(time);
    let turn = |previous, now| Turn::new(at(now), at(previous), ms(0));
    // It beats every 25 ms; its stamps lag by a second.
    let seen = pulse.observe(&turn(0, 2000), Sample { count: 70, stamp: at(1000) });
    assert_eq!(seen, Reading::Beat { first: true });
    let reading = pulse.observe(&turn(2000, 2001), Sample { count: 70, stamp: at(1000) });
    assert_ne!(reading, Reading::Overdue);
}

/// A beat that a late turn sees has its silence forgiven from then on: the first of five times. It
/// used to be a sixth.
#[test]
fn a_silence_that_begins_in_a_late_turn_has_four_extensions_left() {
    let limits = Limits { hang: ms(4000), start: ms(4000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let readings = (1..=6_u32).map(|turn| {
        let (now, previous) = (BOOT + limits.hang * turn, BOOT + limits.hang * (turn - 1));
        pulse.observe(&Turn::new(now, previous, ms(501)), Sample { count: 1, stamp: BOOT })
    });
    let mut expected = [Reading::Quiet; 6];
    (expected[0], expected[5]) = (Reading::Beat { first: true }, Reading::Overdue);
    assert_eq!(readings.collect::<Vec<_>>(), expected);
}

/// A starved server was spared, and the beat that it was about to finish has a stamp from before.
/// The limit that it was given used to shrink by that.
#[test]
fn a_stamp_takes_back_no_extension() {
    let limits = Limits { hang: ms(4000), start: ms(4000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let at = |time| BOOT + ms(time);
    let turn = |previous, now| Turn::new(at(now), at(previous), ms(0));
    let silent = Sample { count: 0, stamp: at(0) };
    assert_eq!(pulse.observe(&turn(3000, 4000), silent), Reading::Overdue);
    assert!(pulse.renew_starved(at(4000)));
    let beat = Sample { count: 1, stamp: at(3900) };
    assert_eq!(pulse.observe(&turn(4000, 4100), beat), Reading::Beat { first: true });
    assert_eq!(pulse.observe(&turn(7800, 7950), beat), Reading::Late);
    assert_eq!(pulse.observe(&turn(7950, 8000), beat), Reading::Overdue);
}
