//! Goal: the rules of `policy` hold for *every* history, not only for those somebody thought of.
//!
//! Method: random scripts in simulated time, shrunk to a short one when they fail. `verdict` runs
//! beside a reference written from docs/verdicts.md, which keeps the whole history and reads the
//! rule off it; `restart` beside the list of all deaths; `lifecycle` is small enough to enumerate;
//! `group` is played against a fake kernel, which starts, kills and loses processes that beat,
//! freeze or exit as the script says, stops them all together with the watchdog, and knows of each
//! how long it was silent in truth.
//!
//! What it cannot show: that the performer does what the actions say, in that order and in time
//! (tests/supervise.rs), and that a real `/proc` tells the classes apart. Slots depend on lower
//! slots only and every limit is a sane one: config refuses the rest.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use osps::ids::SlotId;
use osps::policy::group::{Action, Event, Group, Outcome, Spec, Why};
use osps::policy::lifecycle::{self, Act, Cause, Death, Next, Patience, Rung, State};
use osps::policy::restart::{
    DELAY_MAX, DELAY_MIN, Decision, FREE, FREE_PERIOD, HEALTHY, Intensity, Tally, UP_LONG_ENOUGH,
};
use osps::policy::verdict::{Class, Limits, Observation, Pulse, Reading, Turn};
use osps::time::Monotonic;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

/// Longest time between two turns of the watchdog.
const CHECK: Duration = Duration::from_secs(2);
/// Where simulated time begins: far enough from zero for stamps that lie behind.
const BOOT: Monotonic = Monotonic(1_000_000_000_000);

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// As config allows them.
fn limits() -> impl Strategy<Value = Limits> {
    prop_oneof![1 => limits_from(20..400, 100..400), 3 => roomy()]
}

/// From 400 ms on the slack is an eighth of the limit. Below, it is a larger part, and below 50 ms
/// a pause within the slack is as long as the limit.
fn roomy() -> impl Strategy<Value = Limits> {
    limits_from(400..8000, 400..12_000)
}

fn limits_from(hang: Range<u64>, start: Range<u64>) -> impl Strategy<Value = Limits> {
    (hang, start).prop_map(|(hang, start)| Limits { hang: ms(hang), start: ms(start) })
}

// ---------------------------------------------------------------------------- verdict

// The numbers of docs/verdicts.md, written down once more: who changes one in the code changes
// what is promised, and a test that took them from there would not notice.

/// Late turns that one silence is forgiven.
const GRANTS: usize = 5;
/// Further limits of a starved server in one silence.
const SPARED: usize = 2;

/// An eighth of the limit, within 50 ms and 500 ms.
fn slack(limit: Duration) -> Duration {
    (limit / 8).clamp(ms(50), ms(500))
}

/// 60 % of a limit: from here on a server is late, and a beat counts for no more.
fn most_of(limit: Duration) -> Duration {
    limit * 3 / 5
}

/// What a server writes beside its count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stamp {
    Honest,
    Zero,
    Behind(u64),
    Ahead(u64),
    Garbage(u64),
}

impl Stamp {
    fn at(self, truth: Monotonic) -> Monotonic {
        match self {
            Stamp::Honest => truth,
            Stamp::Zero => Monotonic(0),
            Stamp::Behind(span) => truth - ms(span),
            Stamp::Ahead(span) => truth + ms(span),
            Stamp::Garbage(bits) => Monotonic(bits),
        }
    }

    /// How much too old a beat with this stamp may be taken for that is seen in this turn.
    fn lie(self, limits: Limits, limit: Duration, turn: &Turn) -> Duration {
        let window = turn.now.since(turn.previous) + slack(limit);
        match self {
            Stamp::Honest | Stamp::Zero | Stamp::Ahead(_) => Duration::ZERO,
            Stamp::Behind(_) | Stamp::Garbage(_) => window.min(most_of(limits.hang)),
        }
    }
}

/// In another time namespace all stamps are off by the same, otherwise by anything.
fn stamp() -> impl Strategy<Value = Stamp> {
    prop_oneof![
        4 => Just(Stamp::Honest),
        1 => Just(Stamp::Zero),
        1 => (0..20_000_u64).prop_map(Stamp::Behind),
        1 => (1..20_000_u64).prop_map(Stamp::Ahead),
        1 => any::<u64>().prop_map(Stamp::Garbage),
    ]
}

/// Where a count stands when its process starts: often just before it wraps.
fn baseline() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), (0..9_u64).prop_map(|n| u64::MAX - n), any::<u64>()]
}

/// By how much a beat moves the count: anything, backwards as well, that does not come round to
/// the same value again.
fn stride() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(1), 1 => Just(u64::MAX), 1 => any::<u64>().prop_map(|n| n | 1)]
}

/// By how many ms a turn is late.
fn lateness() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => 1..60_u64, 1 => 40..2000_u64, 1 => 0..60_000_u64]
}

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
    wait: u64,
    /// How far the count moved, forwards or backwards; 0 = no beat.
    moved: u64,
    /// How long ago the beat was, in thousandths of the wait.
    ago: u64,
    stamp: Stamp,
    /// Of the wait, this many ms were not planned.
    late: u64,
    mercy: Mercy,
}

fn look() -> impl Strategy<Value = Look> {
    let moved = prop_oneof![3 => Just(0), 1 => Just(1), 1 => any::<u64>()];
    let mercy = select(vec![Mercy::None, Mercy::Spare, Mercy::Pardon]);
    (0..1100_u64, moved, 0..1000_u64, stamp(), lateness(), mercy).prop_map(
        |(wait, moved, ago, stamp, late, mercy)| Look { wait, moved, ago, stamp, late, mercy },
    )
}

/// A look as the reference remembers it, for ever.
#[derive(Clone, Copy, Debug)]
struct Seen {
    turn: Turn,
    heart: Observation,
    beat: bool,
    /// The limit that was in force before it.
    limit: Duration,
}

impl Seen {
    fn is_late(&self) -> bool {
        self.turn.lateness > slack(self.limit)
    }

    /// The moment of its beat.
    fn when(&self) -> Monotonic {
        let (stamp, Turn { now, previous, .. }) = (self.heart.stamp, self.turn);
        if previous - slack(self.limit) < stamp && stamp <= now { stamp } else { now }
    }
}

/// The rule of docs/verdicts.md, read off a whole history.
struct Reference {
    limits: Limits,
    spawned: Monotonic,
    baseline: u64,
    looks: Vec<Seen>,
    /// The looks after which a starved server was spared.
    spared: Vec<usize>,
    /// The looks after which nobody held it any more.
    pardoned: Vec<usize>,
}

impl Reference {
    fn look(&mut self, turn: Turn, heart: Observation) {
        let before = self.looks.last().map_or(self.baseline, |look| look.heart.count);
        let beaten = self.looks.iter().any(|look| look.beat);
        let limit = if beaten { self.limits.hang } else { self.limits.start };
        self.looks.push(Seen { turn, heart, beat: heart.count != before, limit });
    }

    /// The silence that look `i` belongs to: from the look that saw the last beat up to before it.
    fn silence(&self, i: usize) -> Range<usize> {
        (0..=i).rev().find(|j| self.looks[*j].beat).unwrap_or(0)..i
    }

    /// Whether look `i` is forgiven, since it came late and the silence has a grant left.
    fn is_granted(&self, i: usize) -> bool {
        let late = self.silence(i).filter(|j| self.looks[*j].is_late()).count();
        self.looks[i].is_late() && late < GRANTS
    }

    /// Whether a starved server gets another limit after look `i`.
    fn may_spare(&self, i: usize) -> bool {
        let silence = self.silence(i);
        self.spared.iter().filter(|j| silence.contains(j)).count() < SPARED
    }

    /// From which moment silence counts at look `i`, and how many looks were before that.
    fn from(&self, i: usize) -> (Monotonic, usize) {
        let mut from = (self.spawned, 0);
        for (j, look) in self.looks[..=i].iter().enumerate() {
            let now = look.turn.now;
            let oldest = now - most_of(self.limits.hang);
            let beat = look.beat.then(|| look.when().max(oldest));
            let given = j < i && (self.spared.contains(&j) || self.pardoned.contains(&j));
            let grant = (given || self.is_granted(j)).then_some(now);
            for moment in [beat, grant].into_iter().flatten() {
                from = (from.0.max(moment), j + 1);
            }
        }
        from
    }

    /// The last beat, or the spawn. It does not go back.
    fn last_beat(&self) -> Monotonic {
        let beats = self.looks.iter().filter(|look| look.beat).map(Seen::when);
        beats.fold(self.spawned, Monotonic::max)
    }

    /// What the last look of the history means.
    fn reading(&self) -> Reading {
        let last = self.looks.len() - 1;
        let Seen { turn, beat, limit, .. } = self.looks[last];
        if beat {
            return Reading::Beat { first: !self.looks[..last].iter().any(|look| look.beat) };
        }
        if self.is_granted(last) {
            return Reading::Quiet;
        }
        let (from, looks) = self.from(last);
        let is_late = |now: Monotonic| (most_of(limit)..limit).contains(&now.since(from));
        let told = self.looks[looks..last].iter().any(|look| is_late(look.turn.now));
        match turn.now.since(from) {
            counted if counted >= limit => Reading::Overdue,
            _ if is_late(turn.now) && !told => Reading::Late,
            _ => Reading::Quiet,
        }
    }
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
        let (mut previous, mut count) = (BOOT, baseline);
        let (mut last_beat, mut forgiven, mut lie) = (BOOT, BOOT, Duration::ZERO);
        for (i, look) in script.into_iter().enumerate() {
            let planned = previous + limits.hang * u32::try_from(look.wait)? / 1000;
            let now = planned + ms(look.late);
            let turn = Turn { now, previous, lateness: ms(look.late) };
            count = count.wrapping_add(look.moved);
            let truth = now - now.since(previous) * u32::try_from(look.ago)? / 1000;
            let seen = Observation { count, stamp: look.stamp.at(truth) };
            reference.look(turn, seen);
            let limit = pulse.limit();
            let reading = pulse.observe(&turn, seen);
            prop_assert_eq!(reading, reference.reading(), "at {:?}", now.since(BOOT));
            prop_assert_eq!(pulse.last_beat(), reference.last_beat());
            if look.moved != 0 {
                prop_assert!(matches!(reading, Reading::Beat { .. }), "any move is a beat");
                (last_beat, lie) = (truth, look.stamp.lie(limits, limit, &turn));
            }
            if reference.is_granted(i) {
                forgiven = now;
            }
            if reading == Reading::Overdue {
                let silence = now.since(last_beat.max(forgiven)) + lie;
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                match look.mercy {
                    Mercy::None => {}
                    Mercy::Spare => {
                        let may = reference.may_spare(i);
                        prop_assert_eq!(pulse.grant_starved(now), may);
                        reference.spared.extend(may.then_some(i));
                    }
                    Mercy::Pardon => {
                        pulse.grant(now);
                        reference.pardoned.push(i);
                    }
                }
            }
            previous = now;
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
            let turn = Turn { now, previous, lateness: ms(late) };
            let beating = now.since(BOOT).checked_sub(first_beat);
            let beats = beating.map_or(0, |time| 1 + time.as_nanos() / every.as_nanos());
            let beats = u32::try_from(beats)?;
            let count = baseline.wrapping_add(stride.wrapping_mul(beats.into()));
            let truth = BOOT + first_beat + every * beats.saturating_sub(1);
            let seen = Observation { count, stamp: stamps[i % stamps.len()].at(truth) };
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
            let turn = Turn { now, previous, lateness: Duration::ZERO };
            let count = baseline.wrapping_add(1);
            let reading = pulse.observe(&turn, Observation { count, stamp });
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
        lates in vec(1..2_000_000_000_u64, GRANTS),
    ) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let mut count = baseline;
        if beaten {
            count = count.wrapping_add(1);
            let turn = Turn { now: BOOT, previous: BOOT, lateness: Duration::ZERO };
            let reading = pulse.observe(&turn, Observation { count, stamp: BOOT });
            prop_assert_eq!(reading, Reading::Beat { first: true });
        }
        let limit = if beaten { limits.hang } else { limits.start };
        let mut from = BOOT;
        let mut look = |planned: Monotonic, lateness: Duration, expected: Reading| {
            prop_assert_eq!(pulse.deadline(), planned);
            let now = planned + lateness;
            let turn = Turn { now, previous: planned - ms(1), lateness };
            let reading = pulse.observe(&turn, Observation { count, stamp: now });
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
            prop_assert!(pulse.grant_starved(now));
            now = now + limit;
            let nearly = now - Duration::from_nanos(1);
            for (at, expected) in [(nearly, Reading::Late), (now, Reading::Overdue)] {
                let turn = Turn { now: at, previous: at - ms(1), lateness: Duration::ZERO };
                let reading = pulse.observe(&turn, Observation { count, stamp: at });
                prop_assert_eq!(reading, expected);
            }
        }
        prop_assert!(!pulse.grant_starved(now), "spared a third time");
    }

    /// A turn that is late by the slack is on time.
    #[test]
    fn the_slack_itself_forgives_nothing(limits in limits(), baseline in baseline()) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let lateness = slack(limits.start);
        let now = BOOT + limits.start.max(lateness);
        let turn = Turn { now, previous: BOOT, lateness };
        let seen = Observation { count: baseline, stamp: now };
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
            let turn = Turn { now, previous, lateness: now.since(planned) };
            count = count.wrapping_add(moved);
            let limit = pulse.limit();
            let reading = pulse.observe(&turn, Observation { count, stamp });
            earliest = if moved == 0 { earliest.min(now) } else { now };
            prop_assert_eq!(matches!(reading, Reading::Beat { .. }), moved != 0);
            if reading == Reading::Overdue {
                prop_assert!(now.since(earliest) + most_of(limits.hang) >= limit);
                pulse.grant_starved(now);
            }
            previous = now;
            let _ = pulse.deadline();
        }
    }
}

/// Any moment at all, more often one that means something.
fn any_moment() -> impl Strategy<Value = Monotonic> {
    prop_oneof![
        4 => (0..60_000_u64).prop_map(|after| BOOT + ms(after)),
        1 => select(vec![Monotonic(0), BOOT, Monotonic(u64::MAX)]),
        1 => any::<u64>().prop_map(Monotonic),
    ]
}

/// While the start timeout is in force, turns may lie further apart than the hang limit, and a
/// stamp from just after the turn before counts as older than that limit.
#[test]
fn a_scribbled_stamp_of_the_first_beat_convicts_nobody() {
    let limits = Limits { hang: ms(600), start: ms(5000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let at = |time| BOOT + ms(time);
    let turn = |previous, now| Turn { now: at(now), previous: at(previous), lateness: ms(0) };
    // It beats every 25 ms; its stamps lag by a second.
    let seen = pulse.observe(&turn(0, 2000), Observation { count: 70, stamp: at(1000) });
    assert_eq!(seen, Reading::Beat { first: true });
    let reading = pulse.observe(&turn(2000, 2001), Observation { count: 70, stamp: at(1000) });
    assert_ne!(reading, Reading::Overdue);
}

/// A beat that a late turn sees has its silence forgiven from then on: the first of five times. It
/// used to be a sixth.
#[test]
fn a_silence_that_begins_in_a_late_turn_has_four_grants_left() {
    let limits = Limits { hang: ms(4000), start: ms(4000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let readings = (1..=6_u32).map(|turn| {
        let (now, previous) = (BOOT + limits.hang * turn, BOOT + limits.hang * (turn - 1));
        pulse.observe(
            &Turn { now, previous, lateness: ms(501) },
            Observation { count: 1, stamp: BOOT },
        )
    });
    let mut expected = [Reading::Quiet; 6];
    (expected[0], expected[5]) = (Reading::Beat { first: true }, Reading::Overdue);
    assert_eq!(readings.collect::<Vec<_>>(), expected);
}

/// A starved server was spared, and the beat that it was about to finish has a stamp from before.
/// The limit that it was given used to shrink by that.
#[test]
fn a_stamp_takes_back_no_grant() {
    let limits = Limits { hang: ms(4000), start: ms(4000) };
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let at = |time| BOOT + ms(time);
    let turn = |previous, now| Turn { now: at(now), previous: at(previous), lateness: ms(0) };
    let silent = Observation { count: 0, stamp: at(0) };
    assert_eq!(pulse.observe(&turn(3000, 4000), silent), Reading::Overdue);
    assert!(pulse.grant_starved(at(4000)));
    let beat = Observation { count: 1, stamp: at(3900) };
    assert_eq!(pulse.observe(&turn(4000, 4100), beat), Reading::Beat { first: true });
    assert_eq!(pulse.observe(&turn(7800, 7950), beat), Reading::Late);
    assert_eq!(pulse.observe(&turn(7950, 8000), beat), Reading::Overdue);
}

// ---------------------------------------------------------------------------- restart

proptest! {
    #![proptest_config(config(256))]

    /// Every promise of `restart` at once, checked against the list of all deaths.
    #[test]
    fn restarts_keep_their_promises(
        intensity in option::of((0..6_u32, 1..120_u64)),
        lives in vec((prop_oneof![
            4 => 0..1000_u64, 2 => 1000..59_000_u64, 1 => 60_000..90_000_u64,
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
            let next = match tally.died(now, up) {
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
            } else {
                let expected = last_delay.map_or(DELAY_MIN, |delay| (delay * 2).min(DELAY_MAX));
                prop_assert_eq!(delay, expected);
                prop_assert!(recent(&deaths, FREE_PERIOD) > FREE || last_delay.is_some());
                last_delay = Some(delay);
            }
            now = next;
        }
    }
}

// ---------------------------------------------------------------------------- lifecycle

fn every_state() -> Vec<State> {
    let until = BOOT + ms(1);
    vec![
        State::Down,
        State::Starting,
        State::Up,
        State::Late,
        State::Held,
        State::Stopping(Rung::Asked { until }),
        State::Stopping(Rung::Terminating { until }),
        State::Stopping(Rung::Killing { until }),
        State::Stopping(Rung::Unkillable),
        State::Backoff { until },
        State::Failed,
    ]
}

fn every_event() -> Vec<lifecycle::Event> {
    use lifecycle::Event::{Beat, Condemn, Convict, Died, Hold, Late, Pardon, Start, Stop, Timer};
    let died = [Next::Rest, Next::Wait(BOOT + ms(9)), Next::Never].map(Died);
    [Start, Beat, Late, Hold, Pardon, Convict, Condemn, Stop, Timer]
        .into_iter()
        .chain(died)
        .collect()
}

/// How far a server has been pressed; nothing ever presses less.
fn height(state: State) -> u8 {
    match state {
        State::Stopping(Rung::Asked { .. }) => 1,
        State::Stopping(Rung::Terminating { .. }) => 2,
        State::Stopping(Rung::Killing { .. }) => 3,
        State::Stopping(Rung::Unkillable) => 4,
        _ => 0,
    }
}

#[test]
fn every_pair_of_state_and_event_is_sound() {
    let now = BOOT + ms(5);
    let patience = Patience { ask: ms(50), term: ms(10), kill: ms(40) };
    for state in every_state() {
        for event in every_event() {
            let (to, act) = state.on(event, now, &patience);
            let name = format!("{state:?} x {event:?} -> {to:?} + {act:?}");
            let died = matches!(event, lifecycle::Event::Died(_));
            if state.has_process() {
                assert_eq!(to.has_process(), !died, "only a death takes the process: {name}");
            } else {
                assert_eq!(to.has_process(), act == Some(Act::Spawn), "{name}");
                assert!(matches!(act, None | Some(Act::Spawn)), "nobody to act upon: {name}");
            }
            if act == Some(Act::Spawn) {
                assert!(!state.has_process(), "a second process in one slot: {name}");
                assert_eq!(to, State::Starting, "{name}");
            }
            let killing = State::Stopping(Rung::Killing { until: now + patience.kill });
            if act == Some(Act::Kill) {
                assert_eq!(to, killing, "{name}");
            }
            if to != state && height(to) == 3 {
                assert_eq!(act, Some(Act::Kill), "says it was killed, but nobody did: {name}");
            }
            if height(state) >= 3 && !died {
                assert!(height(to) >= 3, "a kill is final: {name}");
                assert!(matches!(act, None | Some(Act::Alarm)), "{name}");
            }
            if height(state) > 0 && !died {
                assert!(height(to) >= height(state), "pressed less: {name}");
            }
            if event == lifecycle::Event::Timer && height(state) > 0 {
                assert_eq!(height(to), (height(state) + 1).min(4), "rung by rung: {name}");
                assert!(to.timer().is_none_or(|until| until > now), "{name}");
            }
            if state == State::Failed {
                assert_eq!((to, act), (state, None), "{name}");
            }
            assert!(!(to.is_watched() && to.timer().is_some()), "{name}");
        }
    }
}

#[test]
fn a_process_that_ignores_everything_sees_the_whole_ladder() {
    let patience = Patience { ask: ms(50), term: ms(10), kill: ms(40) };
    for state in [State::Starting, State::Up, State::Late, State::Held] {
        let (mut state, act) = state.on(lifecycle::Event::Stop, BOOT, &patience);
        let mut acts = vec![act];
        while let Some(until) = state.timer() {
            let (next, act) = state.on(lifecycle::Event::Timer, until, &patience);
            acts.push(act);
            state = next;
        }
        assert_eq!(acts, [Act::Ask, Act::Terminate, Act::Kill, Act::Alarm].map(Some));
        assert_eq!(state, State::Stopping(Rung::Unkillable));
    }
}

// ---------------------------------------------------------------------------- group

/// How the processes of a slot behave.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// The kernel starts it at all.
    starts: bool,
    /// Time to the first beat, in ms; beyond the start timeout it is too slow.
    first_beat: u64,
    /// Time between two beats, in thousandths of the hang limit.
    every: u32,
    /// By how much a beat moves the count.
    stride: u64,
    /// What its beats carry.
    stamp: Stamp,
    /// Time that it needs to leave when asked or terminated; `None` = it does not care.
    leaves: Option<u64>,
    /// Time that the kernel needs to kill it.
    dies: u64,
}

const GOOD: Habit = Habit {
    starts: true,
    first_beat: 20,
    every: 125,
    stride: 1,
    stamp: Stamp::Honest,
    leaves: Some(5),
    dies: 1,
};

fn habit() -> impl Strategy<Value = Habit> {
    let first_beat = prop_oneof![3 => 1..300_u64, 1 => Just(60_000)];
    let starts = prop::bool::weighted(0.8);
    (starts, first_beat, 10..400_u32, stride(), stamp(), option::of(1..3000_u64), 1..400_u64)
        .prop_map(|(starts, first_beat, every, stride, stamp, leaves, dies)| Habit {
            starts,
            first_beat,
            every,
            stride,
            stamp,
            leaves,
            dies,
        })
}

/// A server that beats as it should, with stamps or without.
fn beating() -> impl Strategy<Value = Habit> {
    let stamp = select(vec![Stamp::Honest, Stamp::Zero]);
    (1..100_u64, 10..=400_u32, stride(), stamp).prop_map(|(first_beat, every, stride, stamp)| {
        Habit { first_beat, every, stride, stamp, ..GOOD }
    })
}

/// By how much a beat may be taken for younger than it is. Without a stamp that is the longest time
/// between two looks: 60 % of the limit, and the slack while it starts. With one it is what the
/// latter is longer, below a limit of 84 ms.
fn blind(habit: &Habit, limits: Limits) -> Duration {
    let (known, starting) = (most_of(limits.hang), slack(limits.hang));
    if habit.stamp == Stamp::Honest {
        starting.saturating_sub(known)
    } else {
        known.max(starting).min(CHECK)
    }
}

/// A process of the fake kernel, with what is true of it.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
struct Process {
    habit: Habit,
    limits: Limits,
    next_beat: Monotonic,
    /// Or the spawn.
    last_beat: Monotonic,
    /// What that beat carries.
    stamp: Stamp,
    frozen: Option<Class>,
    /// It goes on between the two looks of its examination.
    wakes: bool,
    /// A kill waits until this ends.
    unkillable: bool,
    kill_waits: bool,
    dies: Option<(Monotonic, Death)>,
    /// It is neither frozen nor was its host, since the last beat.
    innocent: bool,
    /// How late turns were since the last beat.
    lateness: Duration,
    /// Its count as the group saw it last, and the moment of that beat. (All that is seen in one
    /// turn was there at its beginning.)
    heard: u64,
    heard_at: Monotonic,
    /// How much older its stamp may have made that beat.
    lie: Duration,
    /// The group saw it beat.
    beaten: bool,
    /// Late turns that this silence was forgiven, and limits that it got for being starved.
    grants: usize,
    spared: usize,
    /// When its limit began to run again the last time.
    forgiven: Monotonic,
}

impl Process {
    fn every(&self) -> Duration {
        self.limits.hang * self.habit.every / 1000
    }

    /// The limit in force.
    fn limit(&self) -> Duration {
        if self.beaten { self.limits.hang } else { self.limits.start }
    }

    /// Beats so often, the last time at this moment.
    fn beat(&mut self, heart: &mut Observation, times: u32, last: Monotonic) {
        let moved = self.habit.stride.wrapping_mul(times.into());
        *heart = Observation {
            count: heart.count.wrapping_add(moved),
            stamp: self.habit.stamp.at(last),
        };
        self.next_beat = last + self.every();
        (self.last_beat, self.stamp) = (last, self.habit.stamp);
        self.innocent = true;
        self.lateness = Duration::ZERO;
    }

    /// The group hears its heart in this turn.
    fn hear(&mut self, count: u64, turn: &Turn) {
        let late = turn.lateness > slack(self.limit());
        if count != self.heard {
            self.lie = self.stamp.lie(self.limits, self.limit(), turn);
            (self.heard, self.beaten) = (count, true);
            self.heard_at = self.last_beat.min(turn.now);
            (self.grants, self.spared) = (0, 0);
        }
        if late && self.grants < GRANTS {
            self.grants += 1;
            self.forgiven = turn.now;
        }
    }
}

/// What keeps a turn from coming when it was planned.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// Only the watchdog is held up, for so long.
    Watchdog(Duration),
    /// The whole host stands still, from a moment within the wait, in thousandths, for so long.
    Host(u32, Duration),
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![2 => 1..100_u64, 2 => 100..5000_u64, 1 => 5000..600_000_u64].prop_map(ms)
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::None),
        1 => span().prop_map(Trouble::Watchdog),
        1 => (0..=1000_u32, span()).prop_map(|(from, span)| Trouble::Host(from, span)),
    ]
}

/// What the script says.
#[derive(Clone, Debug)]
enum Step {
    /// Turns of the watchdog, the last one with some trouble.
    Turns(u8, Trouble),
    /// Turns until shortly before the next one.
    Within(u32),
    Freeze(usize, Class),
    Thaw(usize),
    /// It will go on between the two looks of its next examination.
    Wake(usize),
    Exit(usize),
    Unkillable(usize),
    Habit(usize, Habit),
    Stray(Stray),
    Stop,
    Hurry,
}

/// Events that the performer would not send, or not now.
#[derive(Clone, Copy, Debug)]
enum Stray {
    Boot,
    Turn,
    Timers,
    Spawned(u8, u64),
    Died(u8),
    Sample(u8, u64),
    Examined(u8, Class),
    NotReleasing(u8),
}

/// What a look at `/proc` may find.
fn class() -> impl Strategy<Value = Class> {
    let all = Class::ALL.into_iter().map(|(class, ..)| class);
    select(all.filter(|class| *class != Class::NotReleasing).collect::<Vec<_>>())
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..4_usize;
    let any_slot = prop_oneof![9 => 0..5_u8, 1 => Just(u8::MAX)];
    let stray = prop_oneof![
        Just(Stray::Boot),
        Just(Stray::Turn),
        Just(Stray::Timers),
        (any_slot.clone(), any::<u64>()).prop_map(|(slot, count)| Stray::Spawned(slot, count)),
        any_slot.clone().prop_map(Stray::Died),
        (any_slot.clone(), any::<u64>()).prop_map(|(slot, count)| Stray::Sample(slot, count)),
        (any_slot.clone(), class()).prop_map(|(slot, class)| Stray::Examined(slot, class)),
        any_slot.prop_map(Stray::NotReleasing),
    ];
    prop_oneof![
        40 => (1..20_u8, trouble()).prop_map(|(count, trouble)| Step::Turns(count, trouble)),
        10 => (0..1000_u32).prop_map(Step::Within),
        10 => (slot.clone(), class()).prop_map(|(slot, class)| Step::Freeze(slot, class)),
        4 => slot.clone().prop_map(Step::Thaw),
        8 => slot.clone().prop_map(Step::Wake),
        10 => slot.clone().prop_map(Step::Exit),
        3 => slot.clone().prop_map(Step::Unkillable),
        8 => (slot, habit()).prop_map(|(slot, habit)| Step::Habit(slot, habit)),
        10 => stray.prop_map(Step::Stray),
        1 => Just(Step::Stop),
        1 => Just(Step::Hurry),
    ]
}

/// One to four servers; each may depend on one before it.
fn specs(limits: impl Strategy<Value = Limits>) -> impl Strategy<Value = Vec<Spec>> {
    let patience = (1..3000_u64, 1..1000_u64, 400..3000_u64)
        .prop_map(|(ask, term, kill)| Patience { ask: ms(ask), term: ms(term), kill: ms(kill) });
    let spec = (option::of(0..4_u8), limits, patience);
    vec(spec, 1..=4).prop_map(|specs| {
        let spec = |(i, (on, limits, patience)): (usize, (Option<u8>, Limits, Patience))| Spec {
            depends_on: on.map(SlotId).filter(|on| on.index() < i),
            limits,
            patience,
        };
        specs.into_iter().enumerate().map(spec).collect()
    })
}

/// Whether it is killed since it did not beat.
fn is_for_silence(why: Why) -> bool {
    let Why::Condemned { cause, .. } = why else { return false };
    match cause {
        Cause::Frozen(class) => class != Class::NotReleasing,
        Cause::StartTimeout => true,
        Cause::Exited | Cause::Killed | Cause::Primary | Cause::Requested => false,
    }
}

/// The group, the machine it runs on, and everything that must hold between them.
struct World {
    now: Monotonic,
    group: Group,
    specs: Vec<Spec>,
    habits: Vec<Habit>,
    hearts: Vec<Observation>,
    processes: Vec<Option<Process>>,
    /// The kernel refused to start it, and the group has not been told yet.
    refused: Vec<bool>,
    /// The last turn.
    turn: Turn,
    /// Turns without a moment between them.
    spins: u8,
    /// Acts so far: `(slot, act)`.
    acts: Vec<(SlotId, Act)>,
    /// When who was convicted of silence so far, and what was true of it.
    verdicts: Vec<(Monotonic, SlotId, Process)>,
}

impl World {
    fn new(intensity: Option<Intensity>, specs: Vec<Spec>, habit: Habit) -> World {
        let count = specs.len();
        // Every count wraps soon.
        let heart = Observation { count: u64::MAX - 2, stamp: Monotonic(0) };
        World {
            now: BOOT,
            group: Group::new(BOOT, intensity, &specs),
            specs,
            habits: vec![habit; count],
            hearts: vec![heart; count],
            processes: vec![None; count],
            refused: vec![false; count],
            turn: Turn { now: BOOT, previous: BOOT, lateness: Duration::ZERO },
            spins: 0,
            acts: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn process(&mut self, slot: usize) -> Option<&mut Process> {
        self.processes.get_mut(slot).and_then(Option::as_mut)
    }

    fn states(&self) -> Vec<State> {
        self.group.slots().map(|slot| self.group.state(slot)).collect()
    }

    /// Lets the machine run until `until`: those that beat, beat.
    fn run(&mut self, until: Monotonic) {
        self.now = until;
        for (process, heart) in self.processes.iter_mut().zip(&mut self.hearts) {
            let Some(process) = process else { continue };
            if process.next_beat <= until && process.frozen.is_none() {
                let more = until.since(process.next_beat).as_nanos() / process.every().as_nanos();
                let more = u32::try_from(more).expect("short steps");
                process.beat(heart, more + 1, process.next_beat + process.every() * more);
            }
        }
    }

    /// The host stops for so long, everybody with it.
    fn pause(&mut self, span: Duration) {
        self.now = self.now + span;
        for process in self.processes.iter_mut().flatten() {
            process.next_beat = process.next_beat + span;
            process.innocent = false;
            if let Some((at, _)) = &mut process.dies {
                *at = *at + span;
            }
        }
    }

    /// What the loop waits for next. A deadline that has passed already is waited for no longer,
    /// but was not missed.
    fn planned(&self) -> Monotonic {
        let check = self.turn.now + CHECK;
        self.group.next_deadline().map_or(check, |at| at.min(check)).max(self.now)
    }

    /// What wakes it up: that, or a death before.
    fn woken(&self, planned: Monotonic) -> Monotonic {
        let deaths = self.processes.iter().flatten().filter_map(|process| process.dies);
        deaths.map(|(at, _)| at).fold(planned, Monotonic::min).max(self.now)
    }

    /// One turn, as the watchdog's loop takes it.
    fn turn(&mut self, trouble: Trouble) -> TestCaseResult {
        let (planned, start) = (self.planned(), self.now);
        if let Trouble::Host(from, span) = trouble {
            let wait = self.woken(planned).since(start);
            self.run(start + wait * from / 1000);
            self.pause(span);
        }
        self.run(self.woken(planned));
        if let Trouble::Watchdog(span) = trouble {
            self.run(self.now + span);
        }
        self.spins = if self.now == start { self.spins + 1 } else { 0 };
        prop_assert!(self.spins <= 8, "busy loop: {:?}", self.states());
        self.feed(Event::Turn { planned })?;
        for process in self.processes.iter_mut().flatten() {
            process.lateness += self.now.since(planned.max(process.last_beat));
        }
        for slot in self.group.slots() {
            let dies = self.process(slot.index()).and_then(|process| process.dies);
            if let Some((_, death)) = dies.filter(|(at, _)| *at <= self.now) {
                self.processes[slot.index()] = None;
                self.feed(Event::Died { slot, death })?;
            }
        }
        for slot in self.group.slots() {
            if self.processes[slot.index()].is_some() {
                self.feed(Event::Sample { slot, seen: self.hearts[slot.index()] })?;
            }
        }
        self.feed(Event::Timers)
    }

    /// On-time turns for this long.
    fn settle(&mut self, span: Duration) -> TestCaseResult {
        let end = self.now + span;
        while self.now < end {
            self.turn(Trouble::None)?;
        }
        Ok(())
    }

    /// Feeds an event and all that follows from it at once, checking every step.
    fn feed(&mut self, event: Event) -> TestCaseResult {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let before = self.states();
            let ended = self.group.is_ending();
            if let Event::Died { slot, .. } = event
                && let Some(refused) = self.refused.get_mut(slot.index())
            {
                *refused = false;
            }
            let beats = self.hear(event);
            let actions = self.group.step(self.now, event);
            self.check(event, &before, ended, &actions)?;
            if let Some(slot) = beats {
                let saved = before[slot.index()].is_watched();
                let up = self.group.state(slot) == State::Up;
                prop_assert!(up || !saved, "a beat did not save {slot}: {event:?}");
            }
            for action in actions {
                events.extend(self.perform(action)?);
            }
        }
        Ok(())
    }

    /// Keeps the books of what the group is told; says whose beat it is.
    fn hear(&mut self, event: Event) -> Option<SlotId> {
        let turn = self.turn;
        match event {
            Event::Turn { planned } => {
                let (now, lateness) = (self.now, self.now.since(planned));
                self.turn = Turn { now, previous: turn.now, lateness };
            }
            Event::Sample { slot, seen } | Event::Examined { slot, seen, .. } => {
                let process = self.process(slot.index())?;
                let beats = process.heard != seen.count;
                process.hear(seen.count, &turn);
                return beats.then_some(slot);
            }
            _ => {}
        }
        None
    }

    /// What the kernel does, and what the performer tells the group about it.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, TestCaseError> {
        let now = self.now;
        let (slot, act) = match action {
            Action::Do { slot, act } => (slot, act),
            Action::Examine { slot } => {
                let heart = &mut self.hearts[slot.index()];
                let process = self.processes[slot.index()].as_mut();
                let class = process.as_ref().and_then(|process| process.frozen);
                if let Some(process) = process.filter(|process| process.wakes) {
                    (process.wakes, process.frozen) = (false, None);
                    process.beat(heart, 1, now);
                }
                let class = class.unwrap_or(Class::Blocked);
                return Ok(Some(Event::Examined { slot, seen: *heart, class }));
            }
            Action::Spared { slot, .. } => {
                if let Some(process) = self.process(slot.index()) {
                    process.spared += 1;
                    process.forgiven = now;
                }
                return Ok(None);
            }
            Action::Changed { slot, why, .. } => {
                if let Some(process) = self.process(slot.index()) {
                    if matches!(why, Why::Held { .. } | Why::Pardoned) {
                        process.forgiven = now;
                    }
                    let process = process.clone();
                    self.verdicts.extend(is_for_silence(why).then_some((now, slot, process)));
                }
                return Ok(None);
            }
            Action::LateTurn { .. } => return Ok(None),
        };
        let index = slot.index();
        self.acts.push((slot, act));
        if act == Act::Spawn {
            let habit = self.habits[index];
            prop_assert!(self.processes[index].is_none(), "two processes in slot {}", slot);
            prop_assert!(!self.refused[index]);
            if !habit.starts {
                self.refused[index] = true;
                return Ok(Some(Event::Died { slot, death: Death::NotSpawned }));
            }
            let count = self.hearts[index].count;
            let limits = self.specs[index].limits;
            self.processes[index] = Some(Process {
                habit,
                limits,
                next_beat: now + ms(habit.first_beat),
                last_beat: now,
                stamp: Stamp::Honest,
                frozen: None,
                wakes: false,
                unkillable: false,
                kill_waits: false,
                dies: None,
                innocent: true,
                lateness: Duration::ZERO,
                heard: count,
                heard_at: now,
                lie: Duration::ZERO,
                beaten: false,
                grants: 0,
                spared: 0,
                forgiven: now,
            });
            return Ok(Some(Event::Spawned { slot, count }));
        }
        let refused = self.refused[index];
        let Some(process) = self.process(index) else {
            if refused {
                return Ok(None);
            }
            return Err(TestCaseError::fail(format!("{act:?} to nobody in slot {slot}")));
        };
        let leave = |span: u64, death| Some((now + ms(span), death));
        match act {
            Act::Kill if process.unkillable => process.kill_waits = true,
            Act::Kill if process.dies.is_none_or(|(at, _)| at > now + ms(process.habit.dies)) => {
                process.dies = leave(process.habit.dies, Death::Killed(9));
            }
            Act::Ask | Act::Terminate
                if process.dies.is_none()
                    && !process.unkillable
                    && process.frozen.is_none_or(|class| class == Class::Stopped) =>
            {
                let cooperates = act == Act::Terminate || process.frozen.is_none();
                let span = process.habit.leaves.filter(|_| cooperates);
                process.dies = span.and_then(|span| leave(span, Death::Exited(0)));
            }
            _ => {}
        }
        Ok(None)
    }

    /// What must hold after every step.
    fn check(
        &self,
        event: Event,
        before: &[State],
        ended: bool,
        actions: &[Action],
    ) -> TestCaseResult {
        let mut states = before.to_vec();
        let mut changed = vec![false; before.len()];
        let mut killed = vec![false; before.len()];
        for action in actions {
            match *action {
                Action::Changed { slot, from, to, why } => {
                    prop_assert_eq!(states[slot.index()], from, "a gap in the record");
                    prop_assert_ne!(from, to);
                    states[slot.index()] = to;
                    changed[slot.index()] = true;
                    self.check_reason(event, from, slot, why)?;
                }
                Action::Do { slot, act: Act::Kill } => {
                    prop_assert!(changed[slot.index()], "killed before it was written down");
                    prop_assert_eq!(height(states[slot.index()]), 3);
                    killed[slot.index()] = true;
                }
                Action::Do { slot, act: Act::Spawn } => {
                    prop_assert!(!self.group.is_ending(), "spawned {} while stopping", slot);
                    prop_assert_eq!(states[slot.index()], State::Starting);
                }
                Action::Do { .. } | Action::Examine { .. } => {}
                Action::LateTurn { by } => prop_assert_eq!(by, self.turn.lateness),
                Action::Spared { slot, .. } => {
                    prop_assert!(!changed[slot.index()]);
                    let spared = self.processes[slot.index()].as_ref().map(|p| p.spared);
                    prop_assert!(spared < Some(SPARED), "spared too often: {spared:?}");
                }
            }
        }
        if matches!(event, Event::Turn { .. }) {
            let told = actions.iter().any(|action| matches!(action, Action::LateTurn { .. }));
            let watched =
                before.iter().zip(&self.processes).filter(|(state, _)| state.is_watched());
            let mut limits = watched.filter_map(|(_, process)| Some(process.as_ref()?.limit()));
            let late = limits.any(|limit| self.turn.lateness > slack(limit));
            prop_assert_eq!(told, late, "{:?} late", self.turn.lateness);
        }
        prop_assert_eq!(&states, &self.states(), "a change that was not told");
        prop_assert!(self.group.is_ending() || !ended, "the end was called off");
        if states.iter().any(|state| state.is_watched()) {
            prop_assert!(self.group.next_deadline().is_some(), "nobody would look again");
        }
        if self.group.outcome() == Some(Outcome::Clean) {
            prop_assert!(self.processes.iter().all(Option::is_none), "left a process behind");
        }
        // A server that failed takes its dependents with it.
        let failed = actions.iter().find_map(|action| match *action {
            Action::Changed { slot, why: Why::Died { cause, .. }, .. }
                if cause.is_some_and(|cause| cause != Cause::Primary) =>
            {
                Some(slot)
            }
            _ => None,
        });
        if let Some(failed) = failed.filter(|_| !self.group.is_ending()) {
            for slot in self.group.slots() {
                if self.specs[slot.index()].depends_on == Some(failed) {
                    let up = before[slot.index()].is_watched();
                    prop_assert!(killed[slot.index()] || !up, "{} outlived {}", slot, failed);
                }
            }
        }
        Ok(())
    }

    /// Nobody is killed for a reason that is not so.
    fn check_reason(&self, event: Event, from: State, slot: SlotId, why: Why) -> TestCaseResult {
        match why {
            Why::Condemned { cause: Cause::Primary, .. } => {
                let on = self.specs[slot.index()].depends_on;
                let confirmed = matches!(event, Event::Died { slot, .. } if Some(slot) == on);
                prop_assert!(confirmed, "{} killed though nobody it needs died", slot);
            }
            Why::Condemned { cause: Cause::Frozen(Class::NotReleasing), .. } => {
                let asked = matches!(event, Event::NotReleasing { .. });
                prop_assert!(asked, "{:?}", event);
                prop_assert_ne!(from, State::Held);
            }
            Why::Condemned { cause, silence, limit } if is_for_silence(why) => {
                let looked = matches!(event, Event::Examined { .. });
                prop_assert!(looked, "killed without a second look");
                let Some(process) = &self.processes[slot.index()] else {
                    return Err(TestCaseError::fail(format!("nobody to convict in slot {slot}")));
                };
                prop_assert_eq!(limit, process.limit());
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                let lie = process.lie;
                let counted = self.now.since(process.heard_at.max(process.forgiven)) + lie;
                prop_assert!(counted >= limit, "{counted:?} of {limit:?}: {process:?}");
                let due = process.next_beat.since(process.last_beat);
                let innocent = process.innocent && due + lie < limit;
                prop_assert!(!innocent, "slot {} beat in time: {:?}", slot, process);
                prop_assert_eq!(cause == Cause::StartTimeout, !process.beaten);
                if let Cause::Frozen(class) = cause {
                    prop_assert!(!class.is_intention(), "killed what somebody holds");
                    let spared = class != Class::Starved || process.spared == SPARED;
                    prop_assert!(spared, "starved, and not spared: {process:?}");
                }
            }
            Why::Held { class } => prop_assert!(class.is_intention()),
            _ => {}
        }
        Ok(())
    }

    fn play(&mut self, step: &Step) -> TestCaseResult {
        let now = self.now;
        match *step {
            Step::Turns(count, trouble) => {
                for _ in 1..count {
                    self.turn(Trouble::None)?;
                }
                self.turn(trouble)?;
            }
            Step::Within(part) => {
                let wait = self.woken(self.planned()).since(now);
                self.run(now + wait * part / 1000);
            }
            Step::Freeze(slot, class) => {
                if let Some(process) = self.process(slot) {
                    process.frozen = Some(class);
                    process.innocent = false;
                }
            }
            Step::Thaw(slot) => {
                if let Some(process) = self.process(slot) {
                    process.frozen = None;
                    process.next_beat = process.next_beat.max(now + ms(1));
                }
            }
            Step::Wake(slot) => {
                if let Some(process) = self.process(slot) {
                    process.wakes = true;
                }
            }
            Step::Exit(slot) => {
                if let Some(process) = self.process(slot)
                    && !process.unkillable
                {
                    process.dies = Some((now + ms(1), Death::Exited(1)));
                }
            }
            Step::Unkillable(slot) => {
                if let Some(process) = self.process(slot)
                    && process.dies.is_none()
                {
                    process.unkillable = true;
                }
            }
            Step::Habit(slot, habit) => {
                if let Some(known) = self.habits.get_mut(slot) {
                    *known = habit;
                }
            }
            Step::Stray(stray) => self.stray(stray)?,
            Step::Stop => self.feed(Event::Stop)?,
            Step::Hurry => self.feed(Event::Hurry)?,
        }
        Ok(())
    }

    /// A stray event is one that lies about nothing: no death of a living process, no beat of one
    /// that did not beat.
    fn stray(&mut self, stray: Stray) -> TestCaseResult {
        let empty = |slot: u8| self.processes.get(usize::from(slot)).is_none_or(Option::is_none);
        let heart = |slot: u8| self.hearts.get(usize::from(slot)).copied();
        let event = match stray {
            Stray::Boot => Event::Boot,
            Stray::Turn => Event::Turn { planned: self.now },
            Stray::Timers => Event::Timers,
            Stray::Spawned(slot, count) if empty(slot) => {
                Event::Spawned { slot: SlotId(slot), count }
            }
            Stray::Died(slot) if empty(slot) => {
                Event::Died { slot: SlotId(slot), death: Death::Unknown }
            }
            Stray::Sample(slot, count) => {
                let made_up = Observation { count, stamp: self.now };
                let seen = if empty(slot) { made_up } else { heart(slot).unwrap_or(made_up) };
                Event::Sample { slot: SlotId(slot), seen }
            }
            Stray::Examined(slot, class) => {
                let seen = heart(slot).unwrap_or_default();
                let held = self.processes.get(usize::from(slot)).and_then(Option::as_ref);
                let class = held.and_then(|process| process.frozen).unwrap_or(class);
                Event::Examined { slot: SlotId(slot), seen, class }
            }
            Stray::NotReleasing(slot) => Event::NotReleasing { slot: SlotId(slot) },
            Stray::Spawned(..) | Stray::Died(_) => return Ok(()),
        };
        self.feed(event)
    }

    /// No more faults: what is frozen stays so, but nobody wants it; whatever starts, beats.
    fn heal(&mut self) {
        self.habits.fill(GOOD);
        let now = self.now;
        for process in self.processes.iter_mut().flatten() {
            process.habit = Habit { leaves: process.habit.leaves, ..GOOD };
            process.unkillable = false;
            process.frozen = process.frozen.map(|_| Class::Blocked);
            if process.kill_waits && process.dies.is_none() {
                process.dies = Some((now + ms(GOOD.dies), Death::Killed(9)));
            }
        }
    }

    /// The longest of these over all servers.
    fn longest(&self, of: impl Fn(&Spec) -> Duration) -> Duration {
        self.specs.iter().map(of).max().unwrap_or_default()
    }

    /// The shortest one.
    fn shortest(&self, of: impl Fn(&Spec) -> Duration) -> Duration {
        self.specs.iter().map(of).min().unwrap_or_default()
    }

    /// Turns until a server is convicted of silence; how long that was, and what was true of it.
    fn wait_for_verdict(
        &mut self,
        slot: usize,
        troubles: impl Iterator<Item = Trouble>,
    ) -> Result<(Duration, Process), TestCaseError> {
        for trouble in troubles.take(40_000) {
            let verdict = self.verdicts.iter().find(|(_, of, _)| of.index() == slot);
            if let Some((at, _, process)) = verdict {
                return Ok((at.since(process.last_beat), process.clone()));
            }
            self.turn(trouble)?;
        }
        Err(TestCaseError::fail("never convicted"))
    }

    /// Long enough for everybody to be up again once faults have stopped: a limit that was granted
    /// just now to a held server, then the one of its pardon; the kill; the longest delay; the
    /// first beat. A dependent may go once more with what it depends on.
    fn time_to_heal(&self) -> Duration {
        let limit = self.longest(|spec| spec.limits.hang.max(spec.limits.start));
        let fresh = ms(GOOD.dies + GOOD.first_beat);
        (limit + slack(limit)) * 2 + DELAY_MAX + fresh * 2 + CHECK
    }

    /// Long enough for a whole stop: one ladder after the other.
    fn time_to_stop(&self) -> Duration {
        let ladder = self.longest(|spec| {
            let patience = spec.patience;
            patience.ask + patience.term + patience.kill * 2
        });
        ladder * u32::try_from(self.specs.len()).expect("few") + CHECK
    }

    /// After a stop order, everything that can die is dead in time, and that is said.
    fn check_end(&mut self) -> TestCaseResult {
        self.settle(self.time_to_stop())?;
        let left: Vec<_> = self.processes.iter().flatten().collect();
        prop_assert!(left.iter().all(|process| process.unkillable), "alive: {left:?}");
        if left.is_empty() {
            prop_assert!(self.group.outcome().is_some(), "{:?}", self.states());
        } else {
            let allowed = |end| matches!(end, Outcome::Forced | Outcome::GaveUp);
            prop_assert!(self.group.outcome().is_none_or(allowed), "clean with {left:?}");
        }
        Ok(())
    }
}

/// How a story ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Heal,
    Stop,
    Hurry,
}

proptest! {
    #![proptest_config(config(512))]

    /// Whatever happens: one process per slot, no kill without a reason and a record, no busy
    /// loop, no start after a stop; and in the end everybody is up, or everybody is gone.
    #[test]
    fn a_group_survives_everything(
        specs in specs(limits()),
        intensity in option::of((0..8_u32, 1..120_u64)),
        script in vec(step(), 1..40),
        end in select(vec![End::Heal, End::Stop, End::Hurry]),
    ) {
        let intensity =
            intensity.map(|(restarts, s)| Intensity { restarts, period: Duration::from_secs(s) });
        let mut world = World::new(intensity, specs, GOOD);
        world.feed(Event::Boot)?;
        for step in &script {
            world.play(step)?;
        }
        match end {
            End::Heal => world.heal(),
            End::Stop => world.feed(Event::Stop)?,
            End::Hurry => world.feed(Event::Hurry)?,
        }
        if !world.group.is_ending() {
            world.settle(world.time_to_heal())?;
            if !world.group.is_ending() {
                let up = world.states().iter().all(|state| *state == State::Up);
                prop_assert!(up, "{:?}", world.states());
                // And there they stay.
                let acts = world.acts.len();
                world.settle(CHECK * 3)?;
                prop_assert_eq!(&world.acts[acts..], &[]);
                return Ok(());
            }
        }
        world.check_end()?;
        if matches!(end, End::Hurry) {
            prop_assert!(world.group.outcome().is_some(), "waits for what a kill does not end");
        }
    }

    /// A debugger or a frozen control group is never a reason to kill, however long it lasts.
    #[test]
    fn what_somebody_holds_is_never_killed(
        specs in specs(limits()),
        slot in 0..4_usize,
        class in select(vec![Class::Traced, Class::CgroupFrozen]),
        lates in vec(prop_oneof![3 => Just(0), 1 => 0..3000_u64], 1..100),
    ) {
        let mut world = World::new(None, specs, GOOD);
        world.feed(Event::Boot)?;
        world.settle(ms(100))?;
        world.play(&Step::Freeze(slot, class))?;
        for late in lates {
            world.turn(Trouble::Watchdog(ms(late)))?;
        }
        world.settle(world.time_to_heal())?;
        if slot < world.specs.len() {
            prop_assert_eq!(world.states()[slot], State::Held);
            // Nor for what it keeps from the others.
            world.feed(Event::NotReleasing { slot: SlotId(u8::try_from(slot)?) })?;
            prop_assert_eq!(world.states()[slot], State::Held);
        }
        prop_assert!(!world.acts.iter().any(|(_, act)| *act == Act::Kill));
        world.play(&Step::Thaw(slot))?;
        world.settle(CHECK)?;
        prop_assert!(world.states().iter().all(|state| *state == State::Up));
    }

    /// The formula: from the last beat to the verdict the limit and the slack, with a count only
    /// the look gap on top; and exactly the limit where stamps are kept and nobody is late.
    #[test]
    fn a_freeze_is_convicted_within_the_formula(
        (specs, habit) in (specs(limits()), beating()),
        slot in 0..4_usize,
        class in select(vec![Class::Stopped, Class::Spinning, Class::Blocked, Class::Unknown]),
        (turns, moment) in (0..20_usize, 0..1000_u32),
        lates in prop_oneof![Just(vec![0]), vec(0..=500_u32, 1..8)],
    ) {
        let (slot, mut world) = (slot % specs.len(), World::new(None, specs, habit));
        // Two turns matter: the one that sees the last beat, and the one that decides. Each is late
        // by half of the slack at most.
        let shortest = world.shortest(|spec| spec.limits.hang.min(spec.limits.start));
        let late = |part: &u32| Trouble::Watchdog(slack(shortest) * *part / 1000);
        let mut troubles = lates.iter().map(late).cycle();
        world.feed(Event::Boot)?;
        for trouble in troubles.by_ref().take(turns) {
            world.turn(trouble)?;
        }
        world.play(&Step::Within(moment))?;
        world.play(&Step::Freeze(slot, class))?;
        let (silence, process) = world.wait_for_verdict(slot, troubles)?;
        let limit = process.limit();
        let blind = blind(&habit, process.limits);
        let allowed = limit + slack(limit) + blind;
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}");
        if blind.is_zero() && lates.iter().all(|late| *late == 0) {
            prop_assert_eq!(silence, limit);
        }
    }

    /// What saves a frozen server is paid for: five late turns and two times of starvation, at most
    /// one limit each, and what turns were late. Its stamps may say what they like.
    #[test]
    fn a_frozen_server_gets_the_documented_grace_at_most(
        (specs, habit, stamp) in (specs(limits()), beating(), stamp()),
        slot in 0..4_usize,
        class in class().prop_filter("nobody holds it", |class| !class.is_intention()),
        (turns, moment) in (0..20_usize, 0..1000_u32),
        lates in vec(prop_oneof![2 => Just(ms(0)), 1 => span()], 1..100),
    ) {
        let habit = Habit { stamp, ..habit };
        let (slot, mut world) = (slot % specs.len(), World::new(None, specs, habit));
        world.feed(Event::Boot)?;
        let mut troubles = lates.into_iter().map(Trouble::Watchdog);
        for trouble in troubles.by_ref().take(turns) {
            world.turn(trouble)?;
        }
        world.play(&Step::Within(moment))?;
        world.play(&Step::Freeze(slot, class))?;
        let troubles = troubles.chain(std::iter::repeat(Trouble::None));
        let (silence, process) = world.wait_for_verdict(slot, troubles)?;
        let starved = if class == Class::Starved { SPARED } else { 0 };
        prop_assert!(process.grants <= GRANTS && process.spared == starved);
        let limits = u32::try_from(1 + process.grants + process.spared)?;
        let blind = blind(&habit, process.limits);
        let allowed = process.limit() * limits + process.lateness + blind;
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}: {process:?}");
    }

    /// A host that sleeps, not a server that hangs. A pause may fall anywhere between two beats and
    /// two turns, and take as long as it likes. (Stamps that lie may cost 60 % of the limit, so
    /// they are not forgiven a pause that nobody noticed.)
    #[test]
    fn a_watchdog_paused_with_its_servers_convicts_nobody(
        specs in specs(roomy()),
        (habit, ahead) in (beating(), option::of(1..20_000_u64)),
        pauses in vec((0..5000_u64, 0..=1000_u32, span()), 1..6),
    ) {
        let stamp = ahead.map_or(habit.stamp, Stamp::Ahead);
        let habit = Habit { stamp, every: habit.every.min(250), ..habit };
        let mut world = World::new(None, specs, habit);
        world.feed(Event::Boot)?;
        for (turns, from, span) in pauses {
            world.settle(ms(turns))?;
            world.turn(Trouble::Host(from, span))?;
            // Until everybody has beaten again.
            world.settle(world.longest(|spec| spec.limits.hang))?;
            prop_assert!(world.states().iter().all(|state| *state == State::Up));
        }
        let hurt = world.acts.iter().any(|(_, act)| !matches!(act, Act::Spawn | Act::Baseline));
        prop_assert!(!hurt, "{:?}", world.acts);
    }

    /// No event at no moment breaks the group, or makes it act on somebody who is not there.
    #[test]
    fn a_group_takes_every_event_at_every_moment(
        specs in specs(limits()),
        events in vec((any_moment(), any_event()), 1..100),
    ) {
        let mut group = Group::new(BOOT, None, &specs);
        for (now, event) in events {
            let before: Vec<_> = group.slots().map(|slot| group.state(slot)).collect();
            let mut states = before.clone();
            for action in group.step(now, event) {
                match action {
                    Action::Changed { slot, from, to, .. } => {
                        prop_assert_eq!(std::mem::replace(&mut states[slot.index()], to), from);
                    }
                    Action::Do { slot, act } => {
                        prop_assert!(states[slot.index()].has_process(), "{:?} to nobody", act);
                        let first = !before[slot.index()].has_process();
                        let died = matches!(event, Event::Died { .. });
                        prop_assert!((act == Act::Spawn) <= (first || died), "a second process");
                    }
                    Action::Examine { .. } | Action::LateTurn { .. } | Action::Spared { .. } => {}
                }
            }
            let watched = states.iter().any(|state| state.is_watched());
            prop_assert!(group.next_deadline().is_some() || !watched, "nobody would look again");
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let slot = || prop_oneof![9 => 0..5_u8, 1 => Just(u8::MAX)].prop_map(SlotId);
    let seen = || (0..3_u64, any_moment()).prop_map(|(count, stamp)| Observation { count, stamp });
    let death = select(vec![Death::Exited(0), Death::Killed(9), Death::NotSpawned, Death::Unknown]);
    prop_oneof![
        1 => Just(Event::Boot),
        4 => any_moment().prop_map(|planned| Event::Turn { planned }),
        1 => select(vec![Event::Stop, Event::Hurry]),
        2 => (slot(), any::<u64>()).prop_map(|(slot, count)| Event::Spawned { slot, count }),
        2 => (slot(), death).prop_map(|(slot, death)| Event::Died { slot, death }),
        6 => (slot(), seen()).prop_map(|(slot, seen)| Event::Sample { slot, seen }),
        4 => (slot(), seen(), class())
            .prop_map(|(slot, seen, class)| Event::Examined { slot, seen, class }),
        1 => slot().prop_map(|slot| Event::NotReleasing { slot }),
        4 => Just(Event::Timers),
    ]
}

/// A primary and a secondary of seconds, for the stories below.
fn pair() -> Vec<Spec> {
    let limits = Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) };
    let patience = Patience { ask: ms(5000), term: ms(1000), kill: ms(4000) };
    [None, Some(SlotId::FIRST)].map(|depends_on| Spec { depends_on, limits, patience }).to_vec()
}

/// Tells a story and says what went wrong in it.
fn tell(intensity: Option<Intensity>, habit: Habit, story: fn(&mut World) -> TestCaseResult) {
    let mut world = World::new(intensity, pair(), habit);
    if let Err(reason) = story(&mut world) {
        panic!("{reason}");
    }
}

/// The primary waits out its delay while a secondary takes its time to stop.
#[test]
fn a_delay_that_ends_during_a_stop_starts_nobody() {
    tell(None, Habit { leaves: Some(4000), ..GOOD }, |world| {
        world.feed(Event::Boot)?;
        for _ in 0..=FREE {
            // One turn for the primary's death, one for that of the secondary, which goes with it.
            world.play(&Step::Exit(0))?;
            world.turn(Trouble::None)?;
            world.turn(Trouble::None)?;
        }
        let waits = matches!(world.states()[..], [State::Backoff { .. }, State::Starting]);
        prop_assert!(waits, "{:?}", world.states());
        world.feed(Event::Stop)?;
        world.check_end()
    });
}

#[test]
fn a_stop_before_the_start_starts_nobody() {
    tell(None, GOOD, |world| {
        world.feed(Event::Stop)?;
        world.feed(Event::Boot)?;
        world.check_end()
    });
}

/// The instance gives up; one process cannot be killed; the operator presses Ctrl-C twice.
#[test]
fn a_second_ctrl_c_ends_an_instance_that_gave_up_as_well() {
    let intensity = Intensity { restarts: 0, period: Duration::from_secs(60) };
    tell(Some(intensity), GOOD, |world| {
        world.feed(Event::Boot)?;
        world.settle(ms(50))?;
        world.play(&Step::Unkillable(0))?;
        world.play(&Step::Exit(1))?;
        world.settle(ms(50))?;
        prop_assert_eq!(world.states()[1], State::Failed);
        world.feed(Event::Stop)?;
        world.feed(Event::Hurry)?;
        world.check_end()?;
        prop_assert_eq!(world.group.outcome(), Some(Outcome::GaveUp), "{:?}", world.states());
        Ok(())
    });
}
