//! Goal: the rules of `policy` hold for *every* history, not only for those somebody thought of.
//!
//! Method: random scripts in simulated time, shrunk to a short one when they fail. `verdict` runs
//! beside a reference that keeps the whole history and reads the rule off it; `restart` beside the
//! list of all deaths; `lifecycle` is small enough to enumerate; `group` is played against a fake
//! kernel, which starts, kills and loses processes that beat, freeze or exit as the script says.
//!
//! What it cannot show: that the performer does what the actions say, in that order and in time
//! (tests/supervise.rs), and that a real `/proc` tells the classes apart. Slots depend on lower
//! slots only and every limit is a sane one: config refuses the rest.

use std::collections::VecDeque;
use std::time::Duration;

use osps::ids::SlotId;
use osps::policy::group::{Action, Event, Group, Outcome, Spec, Why};
use osps::policy::lifecycle::{self, Act, Cause, Death, Next, Patience, Rung, State};
use osps::policy::restart::{
    DELAY_MAX, DELAY_MIN, Decision, FREE, FREE_PERIOD, HEALTHY, Intensity, Tally, UP_LONG_ENOUGH,
};
use osps::policy::verdict::{Class, GRANTS_MAX, Limits, Observation, Pulse, Reading, Turn, slack};
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

fn config() -> ProptestConfig {
    ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// From 400 ms on the slack is an eighth of the limit; below, it is a larger part.
fn limits() -> impl Strategy<Value = Limits> {
    (400..8000_u64, 400..12_000_u64)
        .prop_map(|(hang, start)| Limits { hang: ms(hang), start: ms(start) })
}

// ---------------------------------------------------------------------------- verdict

/// What a server writes beside its count.
#[derive(Clone, Copy, Debug)]
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
}

fn stamp() -> impl Strategy<Value = Stamp> {
    prop_oneof![
        4 => Just(Stamp::Honest),
        1 => Just(Stamp::Zero),
        1 => (0..20_000_u64).prop_map(Stamp::Behind),
        1 => (1..20_000_u64).prop_map(Stamp::Ahead),
        1 => any::<u64>().prop_map(Stamp::Garbage),
    ]
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
}

fn look() -> impl Strategy<Value = Look> {
    let moved = prop_oneof![3 => Just(0), 1 => Just(1), 1 => any::<u64>()];
    let late = prop_oneof![3 => Just(0), 1 => 1..60_u64, 1 => 40..2000_u64];
    (0..1100_u64, moved, 0..1000_u64, stamp(), late)
        .prop_map(|(wait, moved, ago, stamp, late)| Look { wait, moved, ago, stamp, late })
}

/// A look with its moment: what the reference remembers, for ever.
#[derive(Clone, Copy, Debug)]
struct Seen {
    turn: Turn,
    truth: Monotonic,
    heart: Observation,
    beat: bool,
}

/// The rule of docs/verdicts.md, read off a whole history.
struct Reference {
    limits: Limits,
    spawned: Monotonic,
    history: Vec<Seen>,
}

impl Reference {
    /// The limit that was in force before look `i`.
    fn limit(&self, i: usize) -> Duration {
        let beaten = self.history[..i].iter().any(|look| look.beat);
        if beaten { self.limits.hang } else { self.limits.start }
    }

    fn is_late(&self, i: usize) -> bool {
        self.history[i].turn.lateness > slack(self.limit(i))
    }

    /// From which moment silence counts after look `i`, which is not the one that is judged.
    fn counted_from(&self, i: usize) -> Monotonic {
        let mut from = self.spawned;
        let mut last_beat = self.spawned;
        let mut grants = 0;
        for (j, look) in self.history[..=i].iter().enumerate() {
            let Turn { now, previous, .. } = look.turn;
            if look.beat {
                let window = slack(self.limit(j));
                let stamp = look.heart.stamp;
                let trusted = stamp > previous - window && stamp <= now;
                last_beat = last_beat.max(if trusted { stamp } else { now });
                // Silence counts over time in which the watchdog was on time.
                // A beat seen after more than 60 % of the limit is an old one only if its stamp is
                // believed, and a stamp alone must not convict.
                let oldest = now - self.limits.hang / 5 * 3;
                from = if self.is_late(j) { now } else { last_beat.max(oldest) };
                grants = 0;
            } else if self.is_late(j) && grants < GRANTS_MAX {
                from = now;
                grants += 1;
            }
        }
        from
    }

    /// What the last look of the history means.
    fn reading(&self) -> Reading {
        let last = self.history.len() - 1;
        let Turn { now, .. } = self.history[last].turn;
        if self.history[last].beat {
            return Reading::Beat { first: !self.history[..last].iter().any(|look| look.beat) };
        }
        let from = self.counted_from(last);
        let limit = self.limit(last);
        let granted = from == now && self.is_late(last);
        let counted = now.since(from);
        // Looks of this silence that were late already, since the limit last began to run.
        let told = (0..last).rev().take_while(|i| !self.history[*i].beat).any(|i| {
            let look = &self.history[i];
            let counted = look.turn.now.since(self.counted_from(i));
            look.turn.now >= from && counted >= limit * 3 / 5 && counted < limit
        });
        match () {
            () if granted => Reading::Quiet,
            () if counted >= limit => Reading::Overdue,
            () if counted >= limit * 3 / 5 && !told => Reading::Late,
            () => Reading::Quiet,
        }
    }
}

/// When silence turns into a verdict: `(moment, base, bound)` of a server that beat `beats` times
/// and then no more, seen by a watchdog that wakes at `Pulse::deadline()` plus some lateness.
struct Conviction {
    overdue: Monotonic,
    /// The last beat, or the turn that saw it if that one came late or the limit was still the
    /// start timeout's (then nobody had promised to look earlier).
    base: Monotonic,
    /// All lateness since the last beat.
    late: Duration,
}

fn conviction(
    limits: Limits,
    beats: u64,
    every: Duration,
    honest: bool,
    lates: &[u64],
) -> Option<Conviction> {
    let mut pulse = Pulse::new(limits, BOOT, 0);
    let (mut previous, mut seen_beats) = (BOOT, 0);
    let last_beat = BOOT + every * u32::try_from(beats).ok()?;
    let (mut base, mut late_since) = (last_beat, Duration::ZERO);
    for late in lates.iter().copied().chain(std::iter::repeat(0)).take(2000) {
        let planned = pulse.deadline().min(previous + CHECK).max(previous);
        let now = planned + ms(late);
        let turn = Turn { now, previous, lateness: now.since(planned) };
        let count = (now.since(BOOT).as_nanos() / every.as_nanos()).min(beats.into());
        let count = u64::try_from(count).ok()?;
        let stamp = BOOT + every * u32::try_from(count).ok()?;
        let first = seen_beats == 0;
        let stamp = if honest { stamp } else { Monotonic(0) };
        let reading = pulse.observe(&turn, Observation { count, stamp });
        if now >= last_beat {
            late_since += ms(late);
        }
        if count == beats && count != seen_beats && (first || late > 0) {
            base = now;
        }
        if reading == Reading::Overdue {
            return Some(Conviction { overdue: now, base, late: late_since });
        }
        (previous, seen_beats) = (now, count);
    }
    None
}

proptest! {
    #![proptest_config(config())]

    /// The pulse and the reference agree on every reading, whatever server and host do; and
    /// nobody is overdue who has not been silent for the limit since its last beat or grant.
    #[test]
    fn verdicts_follow_the_rule(
        limits in limits(),
        baseline in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        script in vec(look(), 1..40),
    ) {
        let mut pulse = Pulse::new(limits, BOOT, baseline);
        let mut reference = Reference { limits, spawned: BOOT, history: Vec::new() };
        let (mut previous, mut count) = (BOOT, baseline);
        for look in script {
            let planned = previous + limits.hang * u32::try_from(look.wait)? / 1000;
            let now = planned + ms(look.late);
            let turn = Turn { now, previous, lateness: ms(look.late) };
            count = count.wrapping_add(look.moved);
            let truth = now - now.since(previous) * u32::try_from(look.ago)? / 1000;
            let seen = Observation { count, stamp: look.stamp.at(truth) };
            reference.history.push(Seen { turn, truth, heart: seen, beat: look.moved != 0 });
            let limit = pulse.limit();
            let reading = pulse.observe(&turn, seen);
            prop_assert_eq!(reading, reference.reading(), "at {:?}", now.since(BOOT));
            if look.moved != 0 {
                prop_assert!(matches!(reading, Reading::Beat { .. }), "any move is a beat");
            }
            if reading == Reading::Overdue {
                let honest = matches!(look.stamp, Stamp::Honest);
                let beats = reference.history.iter().filter(|look| look.beat);
                let beat = beats.map(|look| look.truth).max().unwrap_or(BOOT);
                prop_assert!(!honest || now.since(beat) >= limit || count_is_shifted(&reference));
            }
            previous = now;
        }
    }

    /// A server that beats in time is never overdue, whatever it writes beside its count. (Of the
    /// first beat see also `a_scribbled_stamp_of_the_first_beat_convicts_nobody`.)
    #[test]
    fn no_stamp_convicts_a_beating_server(
        limits in limits(),
        every in 20..=125_u32,
        first_beat in 1..1000_u32,
        stamps in vec(stamp(), 1..8),
        steps in vec(prop_oneof![0..200_u32, 0..4000_u32], 1..60),
    ) {
        let every = limits.hang * every / 1000;
        let first_beat = limits.start * first_beat / 1000;
        let mut pulse = Pulse::new(limits, BOOT, 0);
        let mut previous = BOOT;
        for (i, step) in steps.into_iter().enumerate() {
            let step = previous + limits.hang * step / 1000;
            let now = step.min(pulse.deadline()).max(previous);
            let turn = Turn { now, previous, lateness: Duration::ZERO };
            let beating = now.since(BOOT).checked_sub(first_beat);
            let beats = beating.map_or(0, |time| 1 + time.as_nanos() / every.as_nanos());
            let count = u64::try_from(beats)?;
            let truth = BOOT + first_beat + every * u32::try_from(count.saturating_sub(1))?;
            let stamp = if pulse.has_beaten() { stamps[i % stamps.len()] } else { Stamp::Honest };
            let seen = Observation { count, stamp: stamp.at(truth) };
            prop_assert_ne!(pulse.observe(&turn, seen), Reading::Overdue, "{:?}", now.since(BOOT));
            previous = now;
        }
    }

    /// Freeze to verdict: the limit and the slack; with a counter-only beat, the check interval
    /// on top. Turns before the freeze may be late; those after it are not.
    #[test]
    fn a_freeze_is_overdue_in_time(
        limits in limits(),
        beats in 0..40_u64,
        every in 10..=125_u32,
        honest in any::<bool>(),
    ) {
        let every = limits.hang * every / 1000;
        let limit = if beats == 0 { limits.start } else { limits.hang };
        let Some(seen) = conviction(limits, beats, every, honest, &[]) else {
            return Err(TestCaseError::fail("never convicted"));
        };
        let allowed = limit + slack(limit) + if honest { Duration::ZERO } else { CHECK };
        let silence = seen.overdue.since(seen.base);
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}");
    }

    /// A watchdog that is late again and again still convicts: five further limits at most.
    #[test]
    fn late_turns_hide_a_freeze_for_five_limits_at_most(
        limits in limits(),
        beats in 0..20_u64,
        every in 10..=125_u32,
        honest in any::<bool>(),
        lates in vec(prop_oneof![Just(0), 0..100_u64, 400..5000_u64], 1..60),
    ) {
        let every = limits.hang * every / 1000;
        let limit = if beats == 0 { limits.start } else { limits.hang };
        let Some(seen) = conviction(limits, beats, every, honest, &lates) else {
            return Err(TestCaseError::fail("never convicted"));
        };
        let blind = if honest { Duration::ZERO } else { CHECK };
        let allowed = limit * (1 + u32::from(GRANTS_MAX)) + slack(limit) + blind + seen.late;
        let silence = seen.overdue.since(seen.base);
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}");
    }
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

/// Whether some stamp of the history was not the truth, so that a beat may count as older than it
/// was, by the window at most.
fn count_is_shifted(reference: &Reference) -> bool {
    reference.history.iter().any(|look| look.beat && look.heart.stamp != look.truth)
}

// ---------------------------------------------------------------------------- restart

proptest! {
    #![proptest_config(config())]

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
    /// Its beats carry a stamp.
    stamps: bool,
    /// Time that it needs to leave when asked or terminated; `None` = it does not care.
    leaves: Option<u64>,
    /// Time that the kernel needs to kill it.
    dies: u64,
}

const GOOD: Habit = Habit { starts: true, first_beat: 20, stamps: true, leaves: Some(5), dies: 1 };

fn habit() -> impl Strategy<Value = Habit> {
    let first_beat = prop_oneof![3 => 1..300_u64, 1 => Just(60_000)];
    (prop::bool::weighted(0.8), first_beat, any::<bool>(), option::of(1..3000_u64), 1..400_u64)
        .prop_map(|(starts, first_beat, stamps, leaves, dies)| Habit {
            starts,
            first_beat,
            stamps,
            leaves,
            dies,
        })
}

/// A process of the fake kernel.
#[derive(Clone, Debug)]
struct Process {
    habit: Habit,
    every: Duration,
    next_beat: Monotonic,
    frozen: Option<Class>,
    /// A kill waits until this ends.
    unkillable: bool,
    kill_waits: bool,
    dies: Option<(Monotonic, Death)>,
    /// It beat in time whenever the host let it.
    innocent: bool,
    /// Pauses of the whole host since its last beat.
    pauses: u8,
}

/// What the script says.
#[derive(Clone, Debug)]
enum Step {
    /// Turns of the watchdog; the last one is late by so many ms, the host with it or not.
    Turns {
        count: u8,
        late: u64,
        host: bool,
    },
    Freeze(usize, Class),
    Thaw(usize),
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
}

fn class() -> impl Strategy<Value = Class> {
    select(Class::ALL.map(|(class, ..)| class).to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..4_usize;
    let any_slot = prop_oneof![9 => 0..5_u8, 1 => Just(u8::MAX)];
    let late = prop_oneof![4 => Just(0), 1 => 1..100_u64, 1 => 501..5000_u64];
    let stray = prop_oneof![
        Just(Stray::Boot),
        Just(Stray::Turn),
        Just(Stray::Timers),
        (any_slot.clone(), any::<u64>()).prop_map(|(slot, count)| Stray::Spawned(slot, count)),
        any_slot.clone().prop_map(Stray::Died),
        (any_slot.clone(), any::<u64>()).prop_map(|(slot, count)| Stray::Sample(slot, count)),
        (any_slot, class()).prop_map(|(slot, class)| Stray::Examined(slot, class)),
    ];
    prop_oneof![
        40 => (1..20_u8, late, any::<bool>())
            .prop_map(|(count, late, host)| Step::Turns { count, late, host }),
        10 => (slot.clone(), class()).prop_map(|(slot, class)| Step::Freeze(slot, class)),
        4 => slot.clone().prop_map(Step::Thaw),
        10 => slot.clone().prop_map(Step::Exit),
        3 => slot.clone().prop_map(Step::Unkillable),
        8 => (slot, habit()).prop_map(|(slot, habit)| Step::Habit(slot, habit)),
        10 => stray.prop_map(Step::Stray),
        1 => Just(Step::Stop),
        1 => Just(Step::Hurry),
    ]
}

/// One to four servers; each may depend on one before it.
fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let patience = (1..3000_u64, 1..1000_u64, 400..3000_u64)
        .prop_map(|(ask, term, kill)| Patience { ask: ms(ask), term: ms(term), kill: ms(kill) });
    let spec = (option::of(0..4_u8), limits(), patience);
    vec(spec, 1..=4).prop_map(|specs| {
        let spec = |(i, (on, limits, patience)): (usize, (Option<u8>, Limits, Patience))| Spec {
            depends_on: on.map(SlotId).filter(|on| on.index() < i),
            limits,
            patience,
        };
        specs.into_iter().enumerate().map(spec).collect()
    })
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
    /// Turns without a moment between them.
    spins: u8,
    /// Acts so far: `(slot, act)`.
    acts: Vec<(SlotId, Act)>,
}

impl World {
    fn new(intensity: Option<Intensity>, specs: Vec<Spec>, habit: Habit) -> World {
        let count = specs.len();
        World {
            now: BOOT,
            group: Group::new(BOOT, intensity, &specs),
            specs,
            habits: vec![habit; count],
            hearts: vec![Observation::default(); count],
            processes: vec![None; count],
            refused: vec![false; count],
            spins: 0,
            acts: Vec::new(),
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
            let due = process.next_beat <= until && process.frozen.is_none();
            if due {
                let more = until.since(process.next_beat).as_nanos() / process.every.as_nanos();
                let more = u32::try_from(more).expect("short steps");
                let last = process.next_beat + process.every * more;
                heart.count = heart.count.wrapping_add(u64::from(more) + 1);
                heart.stamp = if process.habit.stamps { last } else { Monotonic(0) };
                process.next_beat = last + process.every;
                process.pauses = 0;
            }
        }
    }

    /// The host stops for so long, everybody with it.
    fn pause(&mut self, span: Duration) {
        self.now = self.now + span;
        for process in self.processes.iter_mut().flatten() {
            process.next_beat = process.next_beat + span;
            process.pauses += 1;
            if let Some((at, _)) = &mut process.dies {
                *at = *at + span;
            }
        }
    }

    /// One turn, as the watchdog's loop takes it. `late`: it comes so much later than planned,
    /// since only the watchdog was held up, or the whole `host`.
    fn turn(&mut self, late: Duration, host: bool) -> TestCaseResult {
        let check = self.now + CHECK;
        // A deadline that has passed already is waited for no longer, but was not missed.
        let planned = self.group.next_deadline().map_or(check, |at| at.min(check)).max(self.now);
        let deaths = self.processes.iter().flatten().filter_map(|process| process.dies);
        let wake = deaths.map(|(at, _)| at).fold(planned, Monotonic::min).max(self.now);
        self.spins = if wake == self.now && late.is_zero() { self.spins + 1 } else { 0 };
        prop_assert!(self.spins <= 8, "busy loop: {:?}", self.states());
        self.run(wake);
        if host && !late.is_zero() {
            self.pause(late);
        } else {
            self.run(wake + late);
        }
        self.feed(Event::Turn { planned })?;
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
            self.turn(Duration::ZERO, false)?;
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
            let actions = self.group.step(self.now, event);
            self.check(event, &before, ended, &actions)?;
            for action in actions {
                events.extend(self.perform(action)?);
            }
        }
        Ok(())
    }

    /// What the kernel does, and what the performer tells the group about it.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, TestCaseError> {
        let (slot, act) = match action {
            Action::Do { slot, act } => (slot, act),
            Action::Examine { slot } => {
                let frozen = self.process(slot.index()).and_then(|process| process.frozen);
                let class = frozen.unwrap_or(Class::Blocked);
                let seen = self.hearts[slot.index()];
                return Ok(Some(Event::Examined { slot, seen, class }));
            }
            Action::Changed { .. } | Action::LateTurn { .. } | Action::Spared { .. } => {
                return Ok(None);
            }
        };
        self.acts.push((slot, act));
        let (now, index) = (self.now, slot.index());
        if act == Act::Spawn {
            let habit = self.habits[index];
            prop_assert!(self.processes[index].is_none(), "two processes in slot {}", slot);
            prop_assert!(!self.refused[index]);
            if !habit.starts {
                self.refused[index] = true;
                return Ok(Some(Event::Died { slot, death: Death::NotSpawned }));
            }
            self.processes[index] = Some(Process {
                habit,
                every: self.specs[index].limits.hang / 8,
                next_beat: now + ms(habit.first_beat),
                frozen: None,
                unkillable: false,
                kill_waits: false,
                dies: None,
                innocent: ms(habit.first_beat) < self.specs[index].limits.start,
                pauses: 0,
            });
            return Ok(Some(Event::Spawned { slot, count: self.hearts[index].count }));
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
                    self.check_reason(event, slot, why)?;
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
                Action::LateTurn { by } => prop_assert!(by > ms(50)),
                Action::Spared { slot, .. } => prop_assert!(!changed[slot.index()]),
            }
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
    fn check_reason(&self, event: Event, slot: SlotId, why: Why) -> TestCaseResult {
        let process = self.processes[slot.index()].as_ref();
        match why {
            Why::Condemned { cause: Cause::Primary, .. } => {
                let on = self.specs[slot.index()].depends_on;
                let confirmed = matches!(event, Event::Died { slot, .. } if Some(slot) == on);
                prop_assert!(confirmed, "{} killed though nobody it needs died", slot);
            }
            Why::Condemned { cause, silence, limit } if cause != Cause::Requested => {
                if let Cause::Frozen(class) = cause {
                    prop_assert!(!class.is_intention(), "killed what somebody holds");
                }
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                let innocent = process.is_some_and(|process| {
                    process.innocent && process.frozen.is_none() && process.pauses <= GRANTS_MAX
                });
                prop_assert!(!innocent, "slot {} beat in time: {:?}", slot, process);
            }
            Why::Held { class } => prop_assert!(class.is_intention()),
            _ => {}
        }
        Ok(())
    }

    fn play(&mut self, step: &Step) -> TestCaseResult {
        let now = self.now;
        match *step {
            Step::Turns { count, late, host } => {
                for _ in 1..count {
                    self.turn(Duration::ZERO, false)?;
                }
                self.turn(ms(late), host)?;
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
            Stray::Spawned(..) | Stray::Died(_) => return Ok(()),
        };
        self.feed(event)
    }

    /// No more faults: what is frozen stays so, but nobody wants it; whatever starts, beats.
    fn heal(&mut self) {
        self.habits.fill(GOOD);
        let now = self.now;
        for process in self.processes.iter_mut().flatten() {
            process.habit.dies = GOOD.dies;
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

    /// Long enough for everybody to be up again once faults have stopped: a limit that was granted
    /// just now to a held server, then the one of its pardon; the kill; the longest delay; the first
    /// beat. A dependent may go once more with what it depends on.
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
    #![proptest_config(config())]

    /// Whatever happens: one process per slot, no kill without a reason and a record, no busy
    /// loop, no start after a stop; and in the end everybody is up, or everybody is gone.
    #[test]
    fn a_group_survives_everything(
        specs in specs(),
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
        specs in specs(),
        slot in 0..4_usize,
        class in select(vec![Class::Traced, Class::CgroupFrozen]),
        lates in vec(prop_oneof![3 => Just(0), 1 => 0..3000_u64], 1..100),
    ) {
        let mut world = World::new(None, specs, GOOD);
        world.feed(Event::Boot)?;
        world.settle(ms(100))?;
        world.play(&Step::Freeze(slot, class))?;
        for late in lates {
            world.turn(ms(late), true)?;
        }
        world.settle(world.time_to_heal())?;
        prop_assert!(!world.acts.iter().any(|(_, act)| *act == Act::Kill));
        if slot < world.specs.len() {
            prop_assert_eq!(world.states()[slot], State::Held);
        }
        world.play(&Step::Thaw(slot))?;
        world.settle(CHECK)?;
        prop_assert!(world.states().iter().all(|state| *state == State::Up));
    }
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
            world.turn(ms(0), false)?;
            world.turn(ms(0), false)?;
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

/// A host that sleeps, not a server that hangs. The pause may fall anywhere between two beats and
/// two turns; with `stamps` the last beat before it is known to be ten minutes old.
#[test]
fn a_watchdog_paused_with_its_servers_convicts_nobody() {
    let limits = Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) };
    let patience = Patience { ask: ms(5000), term: ms(1000), kill: ms(4000) };
    let spec = |depends_on| Spec { depends_on, limits, patience };
    let first = Some(SlotId::FIRST);
    for stamps in [true, false] {
        for offset in (0..2000).step_by(100) {
            let specs = vec![spec(None), spec(first), spec(first)];
            let mut world = World::new(None, specs, Habit { stamps, ..GOOD });
            let story = |world: &mut World| -> TestCaseResult {
                world.feed(Event::Boot)?;
                world.settle(Duration::from_secs(10))?;
                let acts = world.acts.len();
                world.run(world.now + ms(offset));
                world.pause(Duration::from_secs(600));
                // The deadline passed during the pause.
                let planned = world.now - Duration::from_secs(600) + CHECK - ms(offset);
                world.feed(Event::Turn { planned })?;
                for slot in world.group.slots() {
                    world.feed(Event::Sample { slot, seen: world.hearts[slot.index()] })?;
                }
                world.feed(Event::Timers)?;
                world.settle(Duration::from_secs(20))?;
                let kills = world.acts[acts..].iter().filter(|(_, act)| *act != Act::Baseline);
                prop_assert_eq!(kills.count(), 0);
                prop_assert!(world.states().iter().all(|state| *state == State::Up));
                Ok(())
            };
            if let Err(reason) = story(&mut world) {
                panic!("stamps {stamps}, paused after {offset} ms: {reason}");
            }
        }
    }
}
