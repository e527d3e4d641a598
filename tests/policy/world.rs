//! The group, the fake kernel under it, and the books that are kept of what is true.

use std::collections::VecDeque;
use std::time::Duration;

use osps::policy::group::{Action, Change, Goal, Group, Input, Note, Outcome, Recorded, Spec};
use osps::policy::lifecycle::{Act, Stage};
use osps::policy::restart::{DELAY_MAX, Intensity, Rule};
use osps_heart::ids::SlotId;
use osps_heart::pulse::{Sample, Turn};
use osps_heart::segment::layout::TALLY;
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, State};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::draw::{BOOT, CHECK, Stamp, ms};
use super::kernel::{GOOD, Habit, Process};
use super::reference::slack;
use super::script::Trouble;

/// Whether it is killed since it did not beat.
pub fn is_for_silence(what: What) -> bool {
    let What::Verdict { cause, class, .. } = what else { return false };
    match cause {
        Cause::Frozen => class != Some(Class::NotReleasing),
        Cause::StartTimeout => true,
        Cause::Exited
        | Cause::Killed
        | Cause::OutOfMemory
        | Cause::Dependency
        | Cause::Requested => false,
    }
}

/// The page of a slot that never had a process.
fn blank() -> Recorded {
    Recorded {
        state: State::Down,
        goal: Goal::Run,
        told: false,
        pid: 0,
        baseline: 0,
        opened: false,
        up_since: None,
        spawned_at: Monotonic(0),
        since: Monotonic(0),
        paused_until: None,
        excused_until: Monotonic(0),
        due: None,
        cause: None,
        tally: [0; TALLY],
    }
}

/// The group, the machine it runs on, and everything that must hold between them.
pub struct World {
    pub now: Monotonic,
    pub group: Group,
    pub specs: Vec<Spec>,
    pub habits: Vec<Habit>,
    pub hearts: Vec<Sample>,
    pub processes: Vec<Option<Process>>,
    /// The kernel refused to start it, and the group has not been told yet.
    pub refused: Vec<bool>,
    /// Why the process in each slot has to go, or the last one went; `None` = it was told to, or
    /// nobody said so.
    pub reasons: Vec<Option<Cause>>,
    /// Of the death that is being fed: what the server was to do then, and whether it was on its
    /// way because it was told to.
    pub before_death: Vec<Option<(Goal, bool)>>,
    /// Everything shall run.
    pub booted: bool,
    /// The last turn.
    pub turn: Turn,
    /// Turns without a moment between them.
    pub spins: u8,
    /// Acts so far: `(slot, act)`.
    pub acts: Vec<(SlotId, Act)>,
    /// When who was convicted of silence so far, and what was true of it.
    pub verdicts: Vec<(Monotonic, SlotId, Process)>,
    /// What the performer wrote down of each server, for the next watchdog.
    pub pages: Vec<Recorded>,
    /// Until its death is counted, one that died unwatched stands for one that lives.
    pub takes_over: bool,
    /// The watchdog is killed before it performs so many more actions.
    pub lives_for: Option<usize>,
}

impl World {
    pub fn new(intensity: Option<Intensity>, specs: Vec<Spec>, habit: Habit) -> World {
        let rule = Rule { intensity, essential: true, ..Rule::default() };
        let with_rule = |spec| Spec { rule: rule.clone(), ..spec };
        World::ruled(specs.into_iter().map(with_rule).collect(), habit)
    }

    /// One with rules of their own.
    pub fn ruled(specs: Vec<Spec>, habit: Habit) -> World {
        let count = specs.len();
        // Every count wraps soon.
        let heart = Sample { count: u64::MAX - 2, stamp: Monotonic(0) };
        World {
            now: BOOT,
            group: Group::new(BOOT, &specs).expect("no circle"),
            specs,
            habits: vec![habit; count],
            hearts: vec![heart; count],
            processes: vec![None; count],
            refused: vec![false; count],
            reasons: vec![None; count],
            before_death: vec![None; count],
            booted: false,
            turn: Turn::new(BOOT, BOOT, Duration::ZERO),
            spins: 0,
            acts: Vec::new(),
            verdicts: Vec::new(),
            pages: vec![blank(); count],
            takes_over: false,
            lives_for: None,
        }
    }

    pub fn process(&mut self, slot: usize) -> Option<&mut Process> {
        self.processes.get_mut(slot).and_then(Option::as_mut)
    }

    pub fn stages(&self) -> Vec<Stage> {
        self.group.slots().map(|slot| self.group.stage(slot)).collect()
    }

    /// Lets the machine run until `until`: those that beat, beat.
    pub fn run(&mut self, until: Monotonic) {
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
    pub fn planned(&self) -> Monotonic {
        let check = self.turn.now + CHECK;
        self.group.next_deadline().map_or(check, |at| at.min(check)).max(self.now)
    }

    /// What wakes it up: that, or a death before.
    pub fn woken(&self, planned: Monotonic) -> Monotonic {
        let deaths = self.processes.iter().flatten().filter_map(|process| process.dies);
        deaths.map(|(at, _)| at).fold(planned, Monotonic::min).max(self.now)
    }

    /// One turn, as the watchdog's loop takes it.
    pub fn turn(&mut self, trouble: Trouble) -> TestCaseResult {
        if self.lives_for == Some(0) {
            return Ok(());
        }
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
        prop_assert!(self.spins <= 8, "busy loop: {:?}", self.stages());
        self.feed(Input::Turn { planned })?;
        for process in self.processes.iter_mut().flatten() {
            process.lateness += self.now.since(planned.max(process.last_beat));
        }
        for slot in self.group.slots() {
            let dies = self.process(slot.index()).and_then(|process| process.dies);
            if let Some((_, death)) = dies.filter(|(at, _)| *at <= self.now) {
                self.processes[slot.index()] = None;
                self.feed(Input::Died { slot, death })?;
            }
        }
        for slot in self.group.slots() {
            if self.processes[slot.index()].is_some() {
                self.feed(Input::Sample { slot, seen: self.hearts[slot.index()] })?;
            }
        }
        self.feed(Input::Timers)
    }

    /// On-time turns for this long.
    pub fn settle(&mut self, span: Duration) -> TestCaseResult {
        let end = self.now + span;
        while self.now < end {
            self.turn(Trouble::None)?;
        }
        Ok(())
    }

    /// Feeds an input and all that follows from it at once, checking every step.
    pub fn feed(&mut self, input: Input) -> TestCaseResult {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front().filter(|_| self.lives_for != Some(0)) {
            let before = self.stages();
            self.before_death.fill(None);
            if let Input::Died { slot, .. } = input
                && let Some(known) = self.before_death.get_mut(slot.index())
            {
                let told = matches!(before[slot.index()], Stage::Asked | Stage::Terminating);
                *known = Some((self.group.goal(slot), told));
            }
            let ended = self.group.is_ending();
            if let Input::Died { slot, .. } = input
                && let Some(refused) = self.refused.get_mut(slot.index())
            {
                *refused = false;
            }
            self.booted |= matches!(input, Input::Boot);
            let beats = self.hear(input);
            let actions = self.group.step(self.now, input);
            self.check(input, &before, ended, &actions)?;
            if let Some(slot) = beats {
                let saved = before[slot.index()].is_watched();
                let up = self.group.stage(slot) == Stage::Up;
                prop_assert!(up || !saved, "a beat did not save {slot}: {input:?}");
            }
            let mut buried = match input {
                Input::Died { slot, .. } => Some(slot),
                _ => None,
            };
            for action in actions {
                // Its identity is erased when its end is written down.
                if !matches!(action, Action::Changed(_)) {
                    self.erase(buried.take());
                }
                inputs.extend(self.perform(action)?);
            }
            self.erase(buried);
            self.group.slots().for_each(|slot| self.write_down(slot));
        }
        Ok(())
    }

    /// Keeps the books of what the group is told; says whose beat it is.
    fn hear(&mut self, input: Input) -> Option<SlotId> {
        let turn = self.turn;
        match input {
            Input::Turn { planned } => {
                let (now, lateness) = (self.now, self.now.since(planned));
                self.turn = Turn::new(now, turn.now, lateness);
            }
            Input::Sample { slot, seen } | Input::Examined { slot, seen, .. } => {
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
    pub fn perform(&mut self, action: Action) -> Result<Option<Input>, TestCaseError> {
        let now = self.now;
        match &mut self.lives_for {
            None => {}
            Some(0) => return Ok(None),
            Some(more) => *more -= 1,
        }
        let (slot, act) = match action {
            Action::Do { slot, act } => (slot, act),
            Action::Examine { slot, line } => {
                let heart = &mut self.hearts[slot.index()];
                let process = self.processes[slot.index()].as_mut();
                let class = process.as_ref().and_then(|process| process.frozen);
                if let Some(process) = process.filter(|process| process.wakes) {
                    (process.wakes, process.frozen) = (false, None);
                    process.beat(heart, 1, now);
                }
                let class = class.unwrap_or(Class::Blocked);
                return Ok(Some(Input::Examined { slot, line, seen: *heart, class }));
            }
            Action::Renewed { .. } | Action::Rolled { .. } => return Ok(None),
            Action::Told { slot, what } => {
                let spared = slot.filter(|_| matches!(what, What::Spared { .. }));
                if let Some(slot) = spared
                    && let Some(process) = self.process(slot.index())
                {
                    process.spared += 1;
                    process.forgiven = now;
                }
                return Ok(None);
            }
            Action::Changed(change @ Change { slot, from, what, .. }) => {
                self.record(change);
                if let What::Verdict { cause, .. } = what
                    && from != State::Stopping
                {
                    // Whoever goes already keeps the reason for it.
                    self.reasons[slot.index()] = Some(cause);
                }
                if let Some(process) = self.process(slot.index()) {
                    if matches!(what, What::Held { .. } | What::Pardoned) {
                        process.forgiven = now;
                    }
                    let process = process.clone();
                    self.verdicts.extend(is_for_silence(what).then_some((now, slot, process)));
                }
                return Ok(None);
            }
        };
        let index = slot.index();
        self.acts.push((slot, act));
        if act == Act::Spawn {
            let habit = self.habits[index];
            self.reasons[index] = None;
            prop_assert!(self.processes[index].is_none(), "two processes in slot {}", slot);
            prop_assert!(!self.refused[index]);
            if !habit.starts {
                self.refused[index] = true;
                return Ok(Some(Input::Died { slot, death: Death::NotSpawned }));
            }
            let count = self.hearts[index].count;
            let limits = self.specs[index].limits;
            let page = &mut self.pages[index];
            (page.pid, page.told, page.baseline, page.spawned_at) = (1, false, count, now);
            page.opened = true;
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
                extensions: 0,
                spared: 0,
                forgiven: now,
            });
            return Ok(Some(Input::Spawned { slot, count }));
        }
        self.pages[index].told |= matches!(act, Act::Ask | Act::Terminate);
        let (refused, takes_over) = (self.refused[index], self.takes_over);
        let Some(process) = self.process(index) else {
            if refused || takes_over {
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

    /// Writes a transition down.
    fn record(&mut self, change: Change) {
        let Change { slot, from, to, what, note } = change;
        let page = &mut self.pages[slot.index()];
        page.state = to;
        if from != to {
            page.since = self.now;
        }
        let by_itself = matches!(note, Note::Death { took: None, .. });
        page.cause = match what {
            What::Verdict { cause, .. } => Some(cause),
            What::Died { cause: Some(cause), .. } if by_itself => Some(cause),
            What::Backoff { death, .. } | What::Failed { death, .. } if by_itself => {
                Some(death.cause())
            }
            _ => page.cause,
        };
        self.write_down(slot);
    }

    /// Writes down what the next watchdog goes on with.
    fn write_down(&mut self, slot: SlotId) {
        let (group, page) = (&self.group, &mut self.pages[slot.index()]);
        if self.lives_for != Some(0) {
            page.goal = group.goal(slot);
            page.up_since = group.up_since(slot);
            page.due = group.due(slot);
            page.excused_until = group.excused_until(slot).unwrap_or(Monotonic(0));
            page.paused_until = group.paused_until(slot);
            page.tally = group.tally(slot).expect("there is one");
        }
    }

    fn erase(&mut self, slot: Option<SlotId>) {
        if let Some(slot) = slot.filter(|_| self.lives_for != Some(0))
            && let Some(page) = self.pages.get_mut(slot.index())
        {
            page.pid = 0;
        }
    }

    /// The longest of these over all servers.
    pub fn longest(&self, of: impl Fn(&Spec) -> Duration) -> Duration {
        self.specs.iter().map(of).max().unwrap_or_default()
    }

    /// The shortest one.
    pub fn shortest(&self, of: impl Fn(&Spec) -> Duration) -> Duration {
        self.specs.iter().map(of).min().unwrap_or_default()
    }

    /// How many servers there are.
    fn count(&self) -> u32 {
        u32::try_from(self.specs.len()).expect("few")
    }

    /// On-time turns until all that it waits for is up, and it has a process.
    pub fn wait_for_process(&mut self, slot: usize) -> TestCaseResult {
        for _ in 0..400 {
            if self.processes[slot].is_some() {
                return Ok(());
            }
            self.turn(Trouble::None)?;
        }
        Err(TestCaseError::fail("never started"))
    }

    /// Long enough for everybody to be up after the start, one after the other: a look comes later
    /// than a first beat by half of its time at most.
    pub fn time_to_start(&self) -> Duration {
        let first_beat = self.habits.iter().map(|habit| habit.first_beat).max();
        ms(first_beat.unwrap_or_default() * 2) * self.count()
    }

    /// Turns until a server is convicted of silence; how long that was, and what was true of it.
    pub fn wait_for_verdict(
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

    /// Long enough for everybody to be up again once faults have stopped: a limit that was renewed
    /// just now for a held server, then the one of its pardon; the kill; the longest delay; the
    /// first beat. Who restarts with another may go once more; and where one waits for the other,
    /// one first beat comes after the other.
    pub fn time_to_heal(&self) -> Duration {
        let limit = self.longest(|spec| spec.limits.hang.max(spec.limits.start));
        let fresh = ms(GOOD.dies + GOOD.first_beat);
        (limit + slack(limit)) * 2 + DELAY_MAX + fresh * (self.count() + 1) + CHECK
    }

    /// Long enough for a whole stop: one ladder after the other.
    fn time_to_stop(&self) -> Duration {
        let ladder = self.longest(|spec| {
            let patience = spec.patience;
            patience.ask + patience.term + patience.kill * 2
        });
        ladder * self.count() + CHECK
    }

    /// After a stop order, everything that can die is dead in time, and that is said.
    pub fn check_end(&mut self) -> TestCaseResult {
        self.settle(self.time_to_stop())?;
        let left: Vec<_> = self.processes.iter().flatten().collect();
        prop_assert!(left.iter().all(|process| process.unkillable), "alive: {left:?}");
        if left.is_empty() {
            prop_assert!(self.group.outcome().is_some(), "{:?}", self.stages());
        } else {
            let allowed = |end| matches!(end, Outcome::Forced | Outcome::GaveUp);
            prop_assert!(self.group.outcome().is_none_or(allowed), "clean with {left:?}");
        }
        Ok(())
    }
}
