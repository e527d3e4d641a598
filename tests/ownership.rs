//! Goal: whatever the schedule, one process at most writes the data area; every epoch has one
//! owner; the dead are replaced; and who wants to write gets its turn once faults stop.
//!
//! Method: the real automata, `Arbiter` and three `Holder`s (the primary's own and two
//! secondaries), in a world made of the owner word, the pending recall, and one FIFO per direction.
//! A random schedule moves, repeats and loses frames, lets holders begin and end updates, crashes
//! processes, confirms deaths, retires, and starts successors. What a process read before it
//! wrote may be arbitrarily old: an update is two steps, and anything may come between. A process
//! that is dead but not confirmed dead still counts as a writer. Three mutants of the rules show
//! that the net has no such hole.
//!
//! What it cannot show: the order of memory accesses and that the servers use the
//! automata as they should (tests/share.rs).
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeMap, VecDeque};

use osps::ids::{Epoch, Generation, Owner, SlotId};
use osps::policy::ownership::{Arbiter, Arbitration, Holder, Plea, names, retired};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestError, TestRunner};

/// The primary and two secondaries.
const SLOTS: usize = 3;
/// Rounds in which everybody takes a turn and every frame arrives, within which each of the three
/// gets its grant: 4 at worst in 30 000 schedules, each in turn recalled from the one before.
const ROUNDS: usize = 5;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// A holder takes what it gave back for its own as long as the word names it.
    ForgetsReleases,
    /// Who crashed is retired although its death is not confirmed.
    RetiresTheUnconfirmed,
    /// Any release of the right process is good for any epoch.
    IgnoresEpochs,
}

/// One step of a schedule. What is impossible at its time is skipped.
#[derive(Clone, Copy, Debug)]
enum Step {
    Want(usize),
    /// A holder's turn; `again` = it repeats what may have been lost.
    Look(usize, bool),
    /// It reads that it owns the area, and starts to write.
    Begin(usize),
    /// It commits.
    End(usize),
    /// The next frame to the arbiter arrives.
    Up(usize),
    LoseUp(usize),
    /// The next frame from the arbiter arrives.
    Down(usize),
    LoseDown(usize),
    /// The arbiter's turn; `tenure` = the holder may be asked already; `raced` = the watchdog
    /// retires between its look and its exchange.
    Arbitrate {
        tenure: bool,
        raced: bool,
    },
    Repeat,
    Crash(usize),
    /// An orderly end.
    Leave(usize),
    /// The kernel says that it is dead.
    Confirm(usize),
    /// The watchdog reconciles.
    Retire,
    Spawn(usize),
}

/// How often each kind of step comes, out of their sum.
const WEIGHTS: [u32; 15] = [60, 100, 90, 70, 120, 6, 60, 6, 120, 20, 4, 4, 40, 20, 50];

impl Step {
    /// The step that a number stands for: one number per step is generated quickly.
    fn of(number: u32) -> Step {
        let (slot, rest) = (usize::try_from(number % 3).unwrap(), number / 3);
        let (one, other, rest) = (rest % 2 == 1, rest % 4 > 1, rest / 4);
        // Only secondaries have links.
        let link = 1 + slot % 2;
        let mut left = rest % WEIGHTS.iter().sum::<u32>();
        let kind = WEIGHTS.iter().position(|weight| match left.checked_sub(*weight) {
            Some(further) => {
                left = further;
                false
            }
            None => true,
        });
        match kind {
            Some(0) => Step::Want(slot),
            Some(1) => Step::Look(slot, one),
            Some(2) => Step::Begin(slot),
            Some(3) => Step::End(slot),
            Some(4) => Step::Up(link),
            Some(5) => Step::LoseUp(link),
            Some(6) => Step::Down(link),
            Some(7) => Step::LoseDown(link),
            Some(8) => Step::Arbitrate { tenure: one, raced: other },
            Some(9) => Step::Repeat,
            Some(10) => Step::Crash(slot),
            Some(11) => Step::Leave(slot),
            Some(12) => Step::Confirm(slot),
            Some(13) => Step::Retire,
            _ => Step::Spawn(slot),
        }
    }
}

fn schedule() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 1..1500)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// Killed; what it had begun may still reach memory.
    Unconfirmed,
    Dead,
}

#[derive(Clone, Debug)]
struct Process {
    generation: Generation,
    life: Life,
    holder: Holder,
    wants: bool,
    writing: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Frame<T> {
    from: Generation,
    to: Generation,
    what: T,
}

struct World {
    mutant: Mutant,
    /// Frames to or from the dead are thrown away before the automata see them, as a link does.
    /// Safety must not depend on it.
    filters: bool,
    word: Owner,
    recall: Option<Epoch>,
    arbiter: Arbiter,
    processes: Vec<Process>,
    up: [VecDeque<Frame<Plea>>; SLOTS],
    down: [VecDeque<Frame<Epoch>>; SLOTS],
    generation: u32,
    minted: BTreeMap<u64, (SlotId, Generation)>,
    commits: usize,
}

fn id(slot: usize) -> SlotId {
    SlotId(u8::try_from(slot).unwrap())
}

impl World {
    fn new(mutant: Mutant, filters: bool) -> World {
        let process = |slot| {
            let generation = Generation(u32::try_from(slot).unwrap() + 1);
            let holder = Holder::new(id(slot), generation);
            Process { generation, life: Life::Alive, holder, wants: false, writing: None }
        };
        World {
            mutant,
            filters,
            word: Owner::NONE,
            recall: None,
            arbiter: Arbiter::new(),
            processes: (0..SLOTS).map(process).collect(),
            up: Default::default(),
            down: Default::default(),
            generation: u32::try_from(SLOTS).unwrap(),
            minted: BTreeMap::new(),
            commits: 0,
        }
    }

    fn live(&self) -> impl Fn(SlotId) -> Option<Generation> + use<> {
        let hasty = self.mutant == Mutant::RetiresTheUnconfirmed;
        let live = |process: &Process| match process.life {
            Life::Alive => Some(process.generation),
            Life::Unconfirmed => (!hasty).then_some(process.generation),
            Life::Dead => None,
        };
        let table: Vec<_> = self.processes.iter().map(live).collect();
        move |slot| table.get(slot.index()).copied().flatten()
    }

    fn alive(&self, slot: usize) -> bool {
        self.processes[slot].life == Life::Alive
    }

    fn owns(&self, slot: usize) -> Option<Epoch> {
        let process = &self.processes[slot];
        if self.mutant == Mutant::ForgetsReleases {
            let named = names(self.word, id(slot), process.generation);
            return named.then_some(self.word.epoch);
        }
        process.holder.owns(self.word)
    }

    /// The exchange of the whole word.
    fn exchange(&mut self, from: Owner, to: Owner) -> bool {
        let same = self.word == from;
        if same {
            self.word = to;
        }
        same
    }

    fn retire(&mut self) {
        if let Some(to) = retired(self.word, self.live()) {
            self.exchange(self.word, to);
        }
    }

    fn tell(&mut self, slot: usize, epoch: Epoch) {
        let (from, to) = (self.processes[0].generation, self.processes[slot].generation);
        self.down[slot].push_back(Frame { from, to, what: epoch });
    }

    fn carry_out(&mut self, arbitration: Arbitration) -> TestCaseResult {
        match arbitration {
            Arbitration::Clear { from, to } => {
                prop_assert_eq!(to.epoch, from.epoch, "clearing mints nothing");
                self.exchange(from, to);
            }
            Arbitration::Grant { from, to } => {
                prop_assert_eq!(from.slot, None, "granted what is held");
                prop_assert_eq!(to.epoch.0, from.epoch.0 + 1, "epochs grow by one");
                if self.exchange(from, to) {
                    let slot = to.slot.unwrap();
                    let owner = (slot, self.processes[slot.index()].generation);
                    let before = self.minted.insert(to.epoch.0, owner);
                    prop_assert_eq!(before, None, "epoch {} granted twice", to.epoch);
                }
            }
            Arbitration::Recall { slot, epoch } => {
                self.recall = Some(epoch);
                if slot.index() != 0 {
                    self.tell(slot.index(), epoch);
                }
            }
        }
        Ok(())
    }

    fn arbitrate(&mut self, tenure: bool, raced: bool) -> TestCaseResult {
        if !self.alive(0) {
            return Ok(());
        }
        let live = self.live();
        for _ in 0..4 {
            let Some(arbitration) = self.arbiter.look(self.word, &live, tenure) else { break };
            if raced {
                self.retire();
            }
            self.carry_out(arbitration)?;
        }
        Ok(())
    }

    /// A plea reaches the arbiter.
    fn hear(&mut self, slot: usize, generation: Generation, plea: Plea) -> TestCaseResult {
        match plea {
            Plea::Request => self.arbiter.request(id(slot), generation),
            Plea::Release(epoch) => {
                let ignores = self.mutant == Mutant::IgnoresEpochs;
                let epoch = if ignores { self.word.epoch } else { epoch };
                let cleared = self.arbiter.released(id(slot), generation, epoch, self.word);
                if let Some(arbitration) = cleared {
                    self.carry_out(arbitration)?;
                }
            }
        }
        Ok(())
    }

    /// A holder says something: over its FIFO, or, in the primary, directly.
    fn plead(&mut self, slot: usize, plea: Plea) -> TestCaseResult {
        let (from, to) = (self.processes[slot].generation, self.processes[0].generation);
        if slot == 0 {
            return self.hear(0, from, plea);
        }
        self.up[slot].push_back(Frame { from, to, what: plea });
        Ok(())
    }

    fn look(&mut self, slot: usize, again: bool) -> TestCaseResult {
        let (word, recall) = (self.word, self.recall);
        let process = &mut self.processes[slot];
        let writing = process.writing.is_some();
        for plea in process.holder.look(word, recall, process.wants, writing, again) {
            self.plead(slot, plea)?;
        }
        Ok(())
    }

    fn receive_up(&mut self, slot: usize) -> TestCaseResult {
        if !self.alive(0) {
            return Ok(());
        }
        let Some(frame) = self.up[slot].pop_front() else { return Ok(()) };
        let present = (frame.from, frame.to)
            == (self.processes[slot].generation, self.processes[0].generation);
        if present {
            return self.hear(slot, frame.from, frame.what);
        }
        if !self.filters && frame.to == self.processes[0].generation {
            // Of a dead process: whatever it says, the word of others stays.
            let before = self.word;
            self.hear(slot, frame.from, frame.what)?;
            let own = names(before, id(slot), frame.from);
            prop_assert!(own || self.word == before, "a dead generation was heard");
        }
        Ok(())
    }

    fn receive_down(&mut self, slot: usize) -> TestCaseResult {
        if !self.alive(slot) {
            return Ok(());
        }
        let Some(frame) = self.down[slot].pop_front() else { return Ok(()) };
        let here = frame.to == self.processes[slot].generation;
        let present = here && frame.from == self.processes[0].generation;
        if present || !self.filters {
            let plea = self.processes[slot].holder.recalled(frame.what, self.word);
            if let Some(plea) = plea {
                self.plead(slot, plea)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, slot: usize) {
        if self.processes[slot].writing.is_none() && self.alive(slot) {
            self.processes[slot].writing = self.owns(slot);
        }
    }

    fn end(&mut self, slot: usize) {
        if self.processes[slot].writing.take().is_some() {
            self.commits += 1;
            self.processes[slot].wants = false;
        }
    }

    fn confirm(&mut self, slot: usize) {
        if self.processes[slot].life != Life::Unconfirmed {
            return;
        }
        self.processes[slot].life = Life::Dead;
        self.processes[slot].writing = None;
        if slot == 0 {
            // The secondaries go with the primary.
            for process in self.processes.iter_mut().filter(|other| other.life == Life::Alive) {
                process.life = Life::Unconfirmed;
            }
        }
    }

    fn spawn(&mut self, slot: usize) {
        // A secondary waits for its primary.
        if self.processes[slot].life != Life::Dead || (slot != 0 && !self.alive(0)) {
            return;
        }
        self.generation += 1;
        let generation = Generation(self.generation);
        let holder = Holder::new(id(slot), generation);
        self.processes[slot] =
            Process { generation, life: Life::Alive, holder, wants: false, writing: None };
        if slot == 0 {
            self.arbiter = Arbiter::new();
        }
    }

    fn step(&mut self, step: Step) -> TestCaseResult {
        let before = self.word;
        match step {
            Step::Want(slot) => self.processes[slot].wants = true,
            Step::Look(slot, again) if self.alive(slot) => self.look(slot, again)?,
            Step::Begin(slot) => self.begin(slot),
            // The unconfirmed may still do what it had begun.
            Step::End(slot) => self.end(slot),
            Step::Up(slot) => self.receive_up(slot)?,
            Step::LoseUp(slot) => drop(self.up[slot].pop_front()),
            Step::Down(slot) => self.receive_down(slot)?,
            Step::LoseDown(slot) => drop(self.down[slot].pop_front()),
            Step::Arbitrate { tenure, raced } => self.arbitrate(tenure, raced)?,
            Step::Repeat => self.arbiter.repeat(),
            Step::Crash(slot) if self.alive(slot) => self.processes[slot].life = Life::Unconfirmed,
            Step::Leave(slot) if self.alive(slot) && self.processes[slot].writing.is_none() => {
                let plea = self.processes[slot].holder.leave(self.word);
                if let Some(plea) = plea {
                    self.plead(slot, plea)?;
                }
                self.processes[slot].life = Life::Unconfirmed;
            }
            Step::Confirm(slot) => self.confirm(slot),
            Step::Retire => self.retire(),
            Step::Spawn(slot) => self.spawn(slot),
            Step::Look(..) | Step::Crash(_) | Step::Leave(_) => {}
        }
        self.check(before)
    }

    fn check(&self, before: Owner) -> TestCaseResult {
        let may_write = |slot: &usize| {
            let process = &self.processes[*slot];
            let owns = self.owns(*slot).is_some();
            process.life != Life::Dead && (process.writing.is_some() || owns)
        };
        let writers: Vec<_> = (0..SLOTS).filter(may_write).collect();
        prop_assert!(writers.len() <= 1, "writers {:?}, word {:?}", writers, self.word);
        for (slot, process) in self.processes.iter().enumerate() {
            if let Some(epoch) = process.writing {
                let holds = names(self.word, id(slot), process.generation);
                prop_assert!(holds && self.word.epoch == epoch, "writes under a stale epoch");
            }
        }
        prop_assert!(self.word.epoch >= before.epoch, "an epoch went back");
        if let Some(slot) = self.word.slot {
            let (granted, generation) = self.minted[&self.word.epoch.0];
            prop_assert!(granted == slot && names(self.word, slot, generation), "nobody's epoch");
        }
        Ok(())
    }

    /// Faults stop, everybody comes back, and those in `wanted` want to write. Returns the rounds
    /// until all of them did. `deaf` = no frame ever reaches a holder: they are prompts only.
    fn settle(&mut self, wanted: [bool; SLOTS], deaf: bool) -> Result<usize, TestCaseError> {
        for _ in 0..2 {
            for slot in 0..SLOTS {
                self.step(Step::End(slot))?;
                self.step(Step::Confirm(slot))?;
                self.step(Step::Spawn(slot))?;
            }
        }
        let mut missing = Vec::new();
        for (slot, wants) in wanted.into_iter().enumerate() {
            self.processes[slot].wants = wants;
            missing.extend(wants.then_some(slot));
        }
        for round in 0..ROUNDS {
            if missing.is_empty() {
                return Ok(round);
            }
            self.step(Step::Retire)?;
            self.step(Step::Repeat)?;
            for slot in 0..SLOTS {
                while !deaf && !self.down[slot].is_empty() {
                    self.step(Step::Down(slot))?;
                }
                if missing.contains(&slot) && self.owns(slot).is_some() {
                    self.step(Step::Begin(slot))?;
                    self.step(Step::End(slot))?;
                    missing.retain(|waiting| *waiting != slot);
                }
                self.step(Step::Look(slot, true))?;
                while !self.up[slot].is_empty() {
                    self.step(Step::Up(slot))?;
                }
                self.step(Step::Arbitrate { tenure: true, raced: false })?;
            }
        }
        if missing.is_empty() {
            return Ok(ROUNDS);
        }
        Err(TestCaseError::fail(format!("{missing:?} never got it; word {:?}", self.word)))
    }
}

fn run(mutant: Mutant, filters: bool, steps: &[u32]) -> Result<World, TestCaseError> {
    let mut world = World::new(mutant, filters);
    for step in steps {
        world.step(Step::of(*step))?;
    }
    Ok(world)
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn at_most_one_writes_and_everybody_gets_a_turn(
        steps in schedule(), filters: bool, wanted: [bool; SLOTS], deaf: bool,
    ) {
        let mut world = run(Mutant::None, filters, &steps)?;
        world.settle(wanted, deaf)?;
    }

    #[test]
    fn garbage_to_the_automata_changes_no_foreign_word(
        slot in 0u8..4, generation in 0u32..4, epoch in 0u64..4,
        holder in 0u8..3, held_by in 1u32..4, held in 0u64..4,
    ) {
        let owner = Owner {
            slot: Some(SlotId(holder)),
            generation: u16::try_from(held_by).unwrap(),
            epoch: Epoch(held),
        };
        let (claimed, by) = (SlotId(slot), Generation(generation));
        let cleared = Arbiter::new().released(claimed, by, Epoch(epoch), owner);
        let exact = (slot, generation, epoch) == (holder, held_by, held);
        prop_assert_eq!(cleared.is_some(), exact);
    }
}

/// The schedules are not idle: in a plain sample there are grants, commits and deaths in plenty.
#[test]
fn the_schedules_get_somewhere() {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let sums = std::cell::Cell::new((0, 0, 0));
    TestRunner::new_with_rng(config.clone(), deterministic())
        .run(&schedule(), |steps| {
            let world = run(Mutant::None, true, &steps)?;
            let (grants, commits, deaths) = sums.get();
            let died = usize::try_from(world.generation).unwrap() - SLOTS;
            sums.set((grants + world.minted.len(), commits + world.commits, deaths + died));
            Ok(())
        })
        .unwrap();
    let (grants, commits, deaths) = sums.get();
    assert!(grants > 400 && commits > 200 && deaths > 200, "{:?}", sums.get());
}

fn deterministic() -> proptest::test_runner::TestRng {
    let algorithm = proptest::test_runner::RngAlgorithm::ChaCha;
    proptest::test_runner::TestRng::deterministic_rng(algorithm)
}

/// Breaks a rule, and expects the net to catch it with `what`.
fn assert_caught(mutant: Mutant, what: &[&str]) {
    let config =
        Config { cases: 3000, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let found = TestRunner::new_with_rng(config, deterministic())
        .run(&schedule(), |steps| run(mutant, true, &steps).map(drop));
    let Err(TestError::Fail(reason, steps)) = found else {
        panic!("{mutant:?} was not caught: {found:?}");
    };
    let told = what.iter().any(|what| reason.message().contains(what));
    let script: Vec<_> = steps.iter().map(|number| Step::of(*number)).collect();
    assert!(told, "{mutant:?}: {reason} after {script:?}");
}

const UNSAFE: [&str; 2] = ["writers", "stale epoch"];

#[test]
fn a_holder_that_forgets_its_releases_is_caught() {
    assert_caught(Mutant::ForgetsReleases, &UNSAFE);
}

#[test]
fn retiring_before_death_is_confirmed_is_caught() {
    assert_caught(Mutant::RetiresTheUnconfirmed, &UNSAFE);
}

#[test]
fn a_release_that_is_good_for_any_epoch_is_caught() {
    assert_caught(Mutant::IgnoresEpochs, &UNSAFE);
}
