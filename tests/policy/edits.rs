//! Another list of services while those of the old one run, beside a small model of it.
//!
//! Processes come up and leave after some turns, at random; lists and graphs are random, too. What
//! is kept is never touched; what is replaced or removed goes after those that need it and go as
//! well; what starts waits for what it needs; and in the end exactly the new list is up.

use std::collections::BTreeMap;

use osps::policy::graph::Edges;
use osps::policy::group::{Action, Edit, Goal, Group, Input, Spec};
use osps::policy::lifecycle::{Act, Patience, Stage};
use osps_heart::ids::SlotId;
use osps_heart::pulse::{Limits, Sample};
use osps_heart::segment::Death;
use osps_heart::time::Monotonic;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::draw::{BOOT, config, ms};

/// So many names there are.
const NAMES: usize = 6;

/// One list: for each name whether it is there, whether its process is another than before, and how
/// it is tied to others that stand before it in the order.
#[derive(Clone, Debug)]
struct List {
    order: Vec<usize>,
    there: Vec<bool>,
    changed: Vec<bool>,
    ties: Vec<u8>,
}

fn list() -> impl Strategy<Value = List> {
    let order = Just((0..NAMES).collect::<Vec<_>>()).prop_shuffle();
    let ties = vec(0..5_u8, NAMES * NAMES);
    let flags = || vec(any::<bool>(), NAMES);
    let there = vec(prop::bool::weighted(0.7), NAMES);
    (order, there, flags(), ties).prop_map(|(order, there, changed, ties)| List {
        order,
        there,
        changed,
        ties,
    })
}

impl List {
    /// Whom a name needs, by name: to be up, and to fail with.
    fn needs(&self, name: usize) -> (Vec<usize>, Vec<usize>) {
        let before = self.order.iter().take_while(|other| **other != name);
        let (mut up, mut with) = (Vec::new(), Vec::new());
        for other in before.copied().filter(|other| self.there[*other]) {
            match self.ties[name * NAMES + other] {
                0 => up.push(other),
                // As the file has it: it comes back after the other one.
                1 => {
                    up.push(other);
                    with.push(other);
                }
                _ => {}
            }
        }
        (up, with)
    }
}

/// A process of the model.
#[derive(Clone, Copy, Debug)]
struct Process {
    /// Turns until its first beat.
    starts: u8,
    /// Turns until it has left, once it was told to.
    leaves: Option<u8>,
    count: u64,
}

struct World {
    group: Group,
    now: Monotonic,
    /// Where each name lives.
    slots: BTreeMap<usize, SlotId>,
    /// What each process was started by: who it needs, by slots.
    edges: BTreeMap<SlotId, Edges>,
    processes: BTreeMap<SlotId, Process>,
    paces: Vec<u8>,
    drawn: usize,
    /// What was done since the last list.
    acts: Vec<(SlotId, Act)>,
    /// Old and new edges may make a circle together, in which somebody has to go first.
    mixed: bool,
}

impl World {
    fn new(paces: Vec<u8>) -> World {
        World {
            group: Group::new(BOOT, &[]).expect("no circle"),
            now: BOOT,
            slots: BTreeMap::new(),
            edges: BTreeMap::new(),
            processes: BTreeMap::new(),
            paces,
            drawn: 0,
            acts: Vec::new(),
            mixed: false,
        }
    }

    fn pace(&mut self) -> u8 {
        self.drawn += 1;
        self.paces[self.drawn % self.paces.len()]
    }

    fn spec(edges: Edges) -> Spec {
        let limits = Limits { hang: ms(4000), start: ms(60_000) };
        let patience = Patience { ask: ms(60_000), term: ms(1000), kill: ms(1000) };
        Spec { edges, limits, patience, ..Spec::default() }
    }

    fn edges_of(&self, list: &List, name: usize) -> Edges {
        let (up, with) = list.needs(name);
        let find = |names: Vec<usize>| names.iter().map(|name| self.slots[name]).collect();
        Edges { depends_on: find(up), restart_with: find(with), ..Edges::default() }
    }

    fn perform(&mut self, actions: Vec<Action>) -> TestCaseResult {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let Action::Do { slot, act } = action else { continue };
            self.acts.push((slot, act));
            match act {
                Act::Spawn => {
                    prop_assert!(!self.processes.contains_key(&slot), "two in slot {}", slot);
                    let edges = self.group.edges(slot).cloned().unwrap_or_default();
                    for on in &edges.depends_on {
                        let up = self.group.stage(*on) == Stage::Up;
                        let stays = self.group.goal(*on) == Goal::Run;
                        prop_assert!(up && stays, "{} started before {}", slot, on);
                    }
                    self.edges.insert(slot, edges);
                    let starts = self.pace();
                    self.processes.insert(slot, Process { starts, leaves: None, count: 0 });
                    let input = Input::Spawned { slot, count: 0 };
                    actions.extend(self.group.step(self.now, input));
                }
                Act::Ask => {
                    for (other, edges) in &self.edges {
                        let goes = self.group.goal(*other) != Goal::Run;
                        let lives = self.processes.contains_key(other);
                        let needs = edges.all().any(|on| on == slot);
                        let early = goes && lives && needs && !self.mixed;
                        prop_assert!(!early, "{} went before {}", slot, other);
                    }
                    let pace = self.pace();
                    if let Some(process) = self.processes.get_mut(&slot) {
                        process.leaves = Some(pace);
                    }
                }
                Act::Look | Act::Terminate | Act::Kill | Act::Alarm => {
                    prop_assert!(false, "{:?} of {}: nobody misbehaves here", act, slot);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> TestCaseResult {
        self.now = self.now + ms(100);
        let now = self.now;
        let actions = self.group.step(now, Input::Turn { planned: now });
        self.perform(actions)?;
        for slot in self.processes.keys().copied().collect::<Vec<_>>() {
            let Some(process) = self.processes.get_mut(&slot) else { continue };
            match &mut process.leaves {
                Some(0) => {
                    self.processes.remove(&slot);
                    let death = Death::Exited(0);
                    let actions = self.group.step(now, Input::Died { slot, death });
                    self.perform(actions)?;
                    continue;
                }
                Some(turns) => *turns -= 1,
                None => {}
            }
            match process.starts {
                0 => process.count += 1,
                _ => process.starts -= 1,
            }
            let seen = Sample { count: process.count, stamp: now };
            let actions = self.group.step(now, Input::Sample { slot, seen });
            self.perform(actions)?;
        }
        let actions = self.group.step(now, Input::Timers);
        self.perform(actions)?;
        for slot in self.group.slots().filter(|slot| self.group.is_over(*slot)).collect::<Vec<_>>()
        {
            let actions = self.group.step(now, Input::Vacate { slot });
            self.perform(actions)?;
            self.edges.remove(&slot);
        }
        Ok(())
    }

    /// Everybody leaves.
    fn stop(&mut self) -> TestCaseResult {
        let actions = self.group.step(self.now, Input::Stop);
        self.perform(actions)?;
        for _ in 0..400 {
            self.turn()?;
        }
        let left: Vec<_> = self.processes.keys().collect();
        prop_assert!(self.group.outcome().is_some(), "not everybody left: {:?}", left);
        Ok(())
    }

    /// Another list begins to take the place of the old one: who is kept, and who is replaced.
    fn begin(&mut self, list: &List) -> Result<(Vec<SlotId>, Vec<SlotId>), TestCaseError> {
        let old = self.slots.clone();
        let was_up = |slot: &SlotId| self.group.stage(*slot) == Stage::Up;
        prop_assert!(old.values().all(was_up), "the last list is not up");
        // Who is new finds a free slot.
        let mut free = (0..).map(SlotId).filter(|slot| self.group.is_vacant(*slot));
        let mut slots = BTreeMap::new();
        for name in list.order.iter().copied().filter(|name| list.there[*name]) {
            let slot = old.get(&name).copied().or_else(|| free.next());
            slots.insert(name, slot.expect("many numbers"));
        }
        self.slots = slots;
        let (mut edits, mut kept, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        for (name, slot) in self.slots.clone() {
            let spec = World::spec(self.edges_of(list, name));
            edits.push((
                slot,
                match old.contains_key(&name) {
                    false => Edit::Add(spec),
                    true if list.changed[name] => {
                        replaced.push(slot);
                        Edit::Replace(spec)
                    }
                    true => {
                        kept.push(slot);
                        self.edges.insert(slot, spec.edges.clone());
                        Edit::Keep(spec)
                    }
                },
            ));
        }
        let gone: Vec<_> = old.iter().filter(|(name, _)| !self.slots.contains_key(name)).collect();
        edits.extend(gone.iter().map(|(_, slot)| (**slot, Edit::Remove)));
        self.acts.clear();
        let actions = self.group.edit(self.now, edits);
        self.perform(actions)?;
        Ok((kept, replaced))
    }

    /// Another list takes the place of the old one; everything of that is done before the next.
    fn take(&mut self, list: &List) -> TestCaseResult {
        let (kept, replaced) = self.begin(list)?;
        for _ in 0..400 {
            self.turn()?;
        }
        prop_assert!(!self.group.is_editing(), "not done");
        let up: Vec<_> = self.group.slots().collect();
        let mut expected: Vec<_> = self.slots.values().copied().collect();
        expected.sort_unstable();
        prop_assert_eq!(&up, &expected, "who has a slot");
        for slot in &expected {
            prop_assert_eq!(self.group.stage(*slot), Stage::Up, "{}: {:?}", slot, self.acts);
        }
        let of = |slot: &SlotId| -> Vec<Act> {
            self.acts.iter().filter(|(of, _)| of == slot).map(|(_, act)| *act).collect()
        };
        for slot in &kept {
            prop_assert_eq!(of(slot), [], "{} was kept", slot);
        }
        for slot in &replaced {
            prop_assert_eq!(of(slot), [Act::Ask, Act::Spawn], "{} was replaced", slot);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(256))]

    /// List after list, each carried out to its end.
    #[test]
    fn a_list_takes_the_place_of_another_in_order(
        lists in vec(list(), 1..5),
        paces in vec(0..6_u8, 1..20),
    ) {
        let mut world = World::new(paces);
        let actions = world.group.step(BOOT, Input::Boot);
        world.perform(actions)?;
        for list in &lists {
            world.take(list)?;
        }
        world.stop()?;
    }

    /// A stop in the midst of a list ends everything. It did not when a kept service got an edge at
    /// once to one that was to be replaced, whose old edge pointed back: both stayed up for ever.
    #[test]
    fn a_stop_in_the_midst_of_a_list_ends_everything(
        first in list(),
        then in list(),
        turns in 0..12_usize,
        paces in vec(0..20_u8, 1..20),
    ) {
        let mut world = World::new(paces);
        let actions = world.group.step(BOOT, Input::Boot);
        world.perform(actions)?;
        world.take(&first)?;
        world.mixed = true;
        world.begin(&then)?;
        for _ in 0..turns {
            world.turn()?;
        }
        world.stop()?;
    }

    /// A list is carried out whatever circle its edges make with the old ones.
    #[test]
    fn a_list_whose_edges_are_the_old_ones_turned_round_is_carried_out(
        first in list(),
        then in list(),
        paces in vec(0..20_u8, 1..20),
    ) {
        let mut world = World::new(paces);
        let actions = world.group.step(BOOT, Input::Boot);
        world.perform(actions)?;
        let first = List { there: vec![true; NAMES], ..first };
        world.take(&first)?;
        world.mixed = true;
        let order = first.order.iter().rev().copied().collect();
        world.take(&List { order, ..then })?;
    }
}
