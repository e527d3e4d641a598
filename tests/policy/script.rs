//! Scripts: what befalls a group, drawn at random and played.

use std::time::Duration;

use osps::policy::graph::Edges;
use osps::policy::group::{Input, Spec, Watch};
use osps::policy::lifecycle::Patience;
use osps_heart::ids::SlotId;
use osps_heart::pulse::{Limits, Sample};
use osps_heart::segment::Death;
use osps_heart::words::Class;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use super::draw::ms;
use super::kernel::{GOOD, Habit, habit};
use super::world::World;

/// What keeps a turn from coming when it was planned.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    None,
    /// Only the watchdog is held up, for so long.
    Watchdog(Duration),
    /// The whole host stands still, from a moment within the wait, in thousandths, for so long.
    Host(u32, Duration),
}

pub fn span() -> impl Strategy<Value = Duration> {
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
pub enum Step {
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
    /// It ends with success.
    Succeed(usize),
    Ask(Wish),
    Stop,
    ForceStop,
}

/// What somebody asks for, of which server.
#[derive(Clone, Copy, Debug)]
pub enum Wish {
    Start(u8),
    Rest(u8),
    Restart(u8, u64),
    Pause(u8, Duration),
    Resume(u8),
}

pub fn wish() -> impl Strategy<Value = Step> {
    let slot = 0..5_u8;
    prop_oneof![
        slot.clone().prop_map(Wish::Start),
        slot.clone().prop_map(Wish::Rest),
        (slot.clone(), 0..3_u64).prop_map(|(slot, request)| Wish::Restart(slot, request)),
        (slot.clone(), span()).prop_map(|(slot, span)| Wish::Pause(slot, span)),
        slot.prop_map(Wish::Resume),
    ]
    .prop_map(Step::Ask)
}

/// Inputs that the performer would not send, or not now.
#[derive(Clone, Copy, Debug)]
pub enum Stray {
    Boot,
    Turn,
    Timers,
    Spawned(u8, u64),
    Died(u8),
    Sample(u8, u64),
    Examined(u8, Class),
    NotReleasing(u8),
}

/// What a look at `/proc` may find, except for what lasts minutes by right.
pub fn class() -> impl Strategy<Value = Class> {
    let other = [Class::NotReleasing, Class::Dying];
    let seen = Class::ALL.into_iter().filter(move |class| !other.contains(class));
    select(seen.collect::<Vec<_>>())
}

pub fn step() -> impl Strategy<Value = Step> {
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
        1 => Just(Step::ForceStop),
    ]
}

/// What one server needs of another: that it is up at the start; that both fail together.
#[derive(Clone, Copy, Debug)]
struct Need {
    starts_after: bool,
    fails_with: bool,
}

fn need() -> impl Strategy<Value = Need> {
    let need = |starts_after, fails_with| Just(Need { starts_after, fails_with });
    prop_oneof![
        3 => need(false, false),
        2 => need(false, true),
        1 => need(true, false),
        1 => need(true, true),
    ]
}

/// One to four servers; who needs whom is any graph without circles: in some order, each may need
/// any of those before it.
pub fn specs(limits: impl Strategy<Value = Limits>) -> impl Strategy<Value = Vec<Spec>> {
    let patience = (1..3000_u64, 1..1000_u64, 400..3000_u64)
        .prop_map(|(ask, term, kill)| Patience { ask: ms(ask), term: ms(term), kill: ms(kill) });
    let order = Just(vec![0_u8, 1, 2, 3]).prop_shuffle();
    let needs = vec(need(), 6);
    (vec((limits, patience), 1..=4), order, needs).prop_map(|(servers, order, needs)| {
        let spec = |(limits, patience)| {
            let (edges, watch) = (Edges::default(), Watch::default());
            Spec { edges, limits, patience, watch, ..Spec::default() }
        };
        let mut specs: Vec<_> = servers.into_iter().map(spec).collect();
        let pairs = (1..4).flat_map(|later| (0..later).map(move |earlier| (later, earlier)));
        for ((later, earlier), need) in pairs.zip(needs) {
            let (slot, on) = (SlotId(order[later]), SlotId(order[earlier]));
            let count = specs.len();
            let Some(spec) = specs.get_mut(slot.index()).filter(|_| on.index() < count) else {
                continue;
            };
            spec.edges.depends_on.extend(need.starts_after.then_some(on));
            spec.edges.restart_with.extend(need.fails_with.then_some(on));
        }
        specs
    })
}

impl World {
    pub fn play(&mut self, step: &Step) -> TestCaseResult {
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
            Step::Succeed(slot) => {
                if let Some(process) = self.process(slot)
                    && !process.unkillable
                {
                    process.dies = Some((now + ms(1), Death::Exited(0)));
                }
            }
            Step::Ask(wish) => self.feed(match wish {
                Wish::Start(slot) => Input::Start { slot: SlotId(slot) },
                Wish::Rest(slot) => Input::Rest { slot: SlotId(slot) },
                Wish::Restart(slot, request) => {
                    let slot = SlotId(slot);
                    Input::Restart { slot, service: slot, request }
                }
                Wish::Pause(slot, span) => Input::Pause { slot: SlotId(slot), until: now + span },
                Wish::Resume(slot) => Input::Resume { slot: SlotId(slot) },
            })?,
            Step::Stop => self.feed(Input::Stop)?,
            Step::ForceStop => self.feed(Input::ForceStop)?,
        }
        Ok(())
    }

    /// A stray input is one that lies about nothing: no death of a living process, no beat of one
    /// that did not beat.
    fn stray(&mut self, stray: Stray) -> TestCaseResult {
        let empty = |slot: u8| self.processes.get(usize::from(slot)).is_none_or(Option::is_none);
        let heart = |slot: u8| self.hearts.get(usize::from(slot)).copied();
        let input = match stray {
            Stray::Boot => Input::Boot,
            Stray::Turn => Input::Turn { planned: self.now },
            Stray::Timers => Input::Timers,
            Stray::Spawned(slot, count) if empty(slot) => {
                Input::Spawned { slot: SlotId(slot), count }
            }
            Stray::Died(slot) if empty(slot) => {
                Input::Died { slot: SlotId(slot), death: Death::Unknown }
            }
            Stray::Sample(slot, count) => {
                let made_up = Sample { count, stamp: self.now };
                let seen = if empty(slot) { made_up } else { heart(slot).unwrap_or(made_up) };
                Input::Sample { slot: SlotId(slot), seen }
            }
            Stray::Examined(slot, class) => {
                let seen = heart(slot).unwrap_or_default();
                let held = self.processes.get(usize::from(slot)).and_then(Option::as_ref);
                let class = held.and_then(|process| process.frozen).unwrap_or(class);
                Input::Examined { slot: SlotId(slot), line: None, seen, class }
            }
            Stray::NotReleasing(slot) => Input::NotReleasing { slot: SlotId(slot) },
            Stray::Spawned(..) | Stray::Died(_) => return Ok(()),
        };
        self.feed(input)
    }

    /// No more faults: what is frozen stays so, but nobody wants it; whatever starts, beats.
    pub fn heal(&mut self) {
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
}
