//! Every world that can come about, and every step from each of them.
//!
//! The classes ([`super::classes`]) make that finite without a bound on time: any number of deaths,
//! successors, requests and grants. The bounds are the number of servers and the room in the tubes.
//! More room adds one thing, frames that wait behind each other: a frame alone in its tube, too, is
//! taken at any time or never. Two frames in one tube show what their order can do; a longer row of
//! them is what the random schedules have.
//!
//! **Liveness** is asked of every world: faults stop now, and one fair schedule has to give
//! everybody its turn ([`World::settle`]). So a grant can be reached from everywhere without a
//! fault (in the words of temporal logic, AG EF). The classes are finite in number, and a schedule
//! in which everything happens at last that is possible again and again (strong fairness) cannot
//! avoid for ever what can be reached from everywhere: once faults stop, everybody gets its turn.
//! stateright's own `eventually` does not answer this, for it overlooks cycles.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use osps_heart::ids::{Epoch, Generation};
use osps_heart::sync::{Ordering, Word};
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::classes::{Exact, class};
use super::world::{
    Broken, Event, FROM_THE_DEAD, Mutant, Rules, SECOND_GRANT, SLOTS, STALE_EPOCH, STARVED, Step,
    World,
};

struct Exploration {
    rules: Rules,
    /// What is asked of each world.
    laws: fn(&World) -> Result<(), Broken>,
    steps: Vec<Step>,
    /// How often each came about.
    events: [Word; Event::ALL.len()],
}

/// Liveness: all want to write, and frames reach them or do not; or one alone wants.
fn settles(world: &World) -> Result<(), Broken> {
    world.clone().settle([true; SLOTS], false)?;
    world.clone().settle([true; SLOTS], true)?;
    for alone in 0..world.rules.servers {
        world.clone().settle(std::array::from_fn(|slot| slot == alone), false)?;
    }
    Ok(())
}

impl Exploration {
    fn new(servers: usize, room: [usize; 2], mutant: Mutant) -> Exploration {
        Exploration {
            rules: Rules { mutant, servers, room, filters: true },
            laws: |world| world.check().and_then(|()| settles(world)),
            steps: Step::all(servers),
            events: [const { Word::new(0) }; Event::ALL.len()],
        }
    }

    /// Nobody dies, and tubes carry only what the automata say.
    fn calm(mut self) -> Exploration {
        self.steps.retain(|step| !matches!(step, Step::Kill(_) | Step::Other(_)));
        self
    }

    /// To the end: until no step leads to a world that was not seen yet.
    fn exhaust(self) {
        let (rules, laws) = (self.rules, self.laws);
        let all = self.steps == Step::all(rules.servers);
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        let failing = HasDiscoveries::AnyFailures;
        let end = self.checker().threads(threads).finish_when(failing).spawn_bfs().join();
        if let Some(path) = end.discoveries().into_values().next() {
            let broken = laws(path.last_state());
            panic!("{broken:?} after {:#?}", path.into_actions());
        }
        assert!(end.is_done(), "worlds are left");

        let (states, steps) = (end.unique_state_count(), end.state_count());
        // The checker knows a state by 64 bits of hash.
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let mistaken = (states as f64).powi(2) / 2f64.powi(65);
        eprintln!(
            "{} servers{}, room for {:?} frames: {states} states, {steps} steps; two states taken \
             for one with probability {mistaken:.0e}",
            rules.servers,
            if all { "" } else { " without faults" },
            rules.room,
        );
        for event in Event::ALL {
            let times = end.model().events[event as usize].load(Ordering::Relaxed);
            eprintln!("{times:>12} x {event:?}");
            assert!(times > 0 || !all, "{event:?} never came about");
        }
    }

    /// The shortest way to a broken law, if there is any.
    fn shortest(mutant: Mutant, laws: fn(&World) -> Result<(), Broken>) -> Option<Counterexample> {
        let mut found = None;
        let mut depth = usize::MAX;
        // Breadth first, but when the checker finds something, it goes on for a while and keeps the
        // last: so again with less depth, until nothing is found.
        loop {
            let model = Exploration { laws, ..Exploration::new(2, [1, 1], mutant) };
            let checker = model.checker().target_max_depth(depth);
            let end = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            let Some(path) = end.discoveries().into_values().next() else { return found };
            let broken = laws(path.last_state()).unwrap_err();
            let steps = path.into_actions();
            depth = steps.len() + 1;
            found = Some((broken, steps));
        }
    }
}

type Counterexample = (Broken, Vec<Step>);

impl Model for Exploration {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.rules, Epoch(0), Generation(0))]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(self.steps.iter().filter(|step| world.allows(**step)));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        world.step(step);
        for event in world.events.iter() {
            self.events[event as usize].fetch_add(1, Ordering::Relaxed);
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Exploration>> {
        vec![Property::always("the laws stand", |model, world| (model.laws)(world).is_ok())]
    }
}

#[test]
fn two_servers_whatever_happens() {
    Exploration::new(2, [1, 1], Mutant::None).exhaust();
}

#[test]
fn three_servers_without_faults() {
    Exploration::new(3, [1, 0], Mutant::None).calm().exhaust();
}

#[test]
#[ignore = "minutes, with --release"]
fn three_servers_whatever_happens() {
    Exploration::new(3, [1, 1], Mutant::None).exhaust();
}

#[test]
#[ignore = "ten minutes, with --release"]
fn three_servers_with_more_room() {
    Exploration::new(3, [2, 1], Mutant::None).exhaust();
}

#[test]
fn every_broken_rule_is_caught() {
    for (mutant, law) in [
        (Mutant::ForgetsReleases, STALE_EPOCH),
        (Mutant::GivesBackInAnUpdate, STALE_EPOCH),
        (Mutant::NeverRepeats, STARVED),
        (Mutant::RetiresTheUnconfirmed, STALE_EPOCH),
        (Mutant::NeverRetires, STARVED),
        (Mutant::ReleasesAnyEpoch, STALE_EPOCH),
        (Mutant::ReleasesForSuccessors, FROM_THE_DEAD),
        (Mutant::GrantsTheHeld, STALE_EPOCH),
        (Mutant::ReusesEpochs, SECOND_GRANT),
        (Mutant::QueuesTheDead, FROM_THE_DEAD),
    ] {
        // Safety first: a broken one rarely leaves liveness whole, which is less to the point.
        let found = Exploration::shortest(mutant, World::check)
            .or_else(|| Exploration::shortest(mutant, settles));
        let (broken, steps) = found.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        eprintln!("{mutant:?}: {broken}, after {} steps: {steps:?}", steps.len());
        assert_eq!(broken, law, "{mutant:?}");
    }
}

/// Explores worlds of which every number counts, and compares what can follow on those of one
/// class.
struct Futures {
    rules: Rules,
    steps: Vec<Step>,
    /// Numbers up to these are explored.
    last: (Epoch, Generation),
    /// Of each class, what can follow.
    known: Mutex<HashMap<u64, u64>>,
}

impl Futures {
    fn new(servers: usize, room: [usize; 2], epoch: Epoch, generation: Generation) -> Futures {
        Futures {
            rules: Rules { mutant: Mutant::None, servers, room, filters: true },
            steps: Step::all(servers),
            last: (epoch, generation),
            known: Mutex::default(),
        }
    }

    /// The classes behind one step, and whether the world is as it should be.
    fn of(&self, world: &World) -> u64 {
        let mut next: Vec<_> = Vec::with_capacity(self.steps.len());
        for step in self.steps.iter().filter(|step| world.allows(**step)) {
            let mut world = world.clone();
            world.step(*step);
            next.push(class(&world));
        }
        // Two worlds that differ in the order of the secondaries come there by other steps.
        next.sort_unstable();
        let mut hasher = DefaultHasher::new();
        (next, world.check()).hash(&mut hasher);
        hasher.finish()
    }

    fn explore(self) {
        let failing = HasDiscoveries::AnyFailures;
        let rules = self.rules;
        let end = self.checker().threads(2).finish_when(failing).spawn_bfs().join();
        if let Some(path) = end.discoveries().into_values().next() {
            panic!("another future than its class, after {:#?}", path.into_actions());
        }
        let (worlds, classes) = (end.unique_state_count(), end.model().known.lock().unwrap().len());
        eprintln!("{} servers: {worlds} worlds of {classes} classes", rules.servers);
        assert!(worlds > 2 * classes, "hardly any two of one class");
    }
}

impl Model for Futures {
    type State = Exact;
    type Action = Step;

    fn init_states(&self) -> Vec<Exact> {
        vec![Exact(World::new(self.rules, Epoch(0), Generation(0)))]
    }

    fn actions(&self, Exact(world): &Exact, steps: &mut Vec<Step>) {
        steps.extend(self.steps.iter().filter(|step| world.allows(**step)));
    }

    fn next_state(&self, Exact(world): &Exact, step: Step) -> Option<Exact> {
        let mut world = world.clone();
        world.step(step);
        Some(Exact(world))
    }

    fn within_boundary(&self, Exact(world): &Exact) -> bool {
        world.word.epoch <= self.last.0 && world.generation <= self.last.1
    }

    fn properties(&self) -> Vec<Property<Futures>> {
        vec![Property::always("one class, one future", |model, Exact(world)| {
            let future = model.of(world);
            *model.known.lock().unwrap().entry(class(world)).or_insert(future) == future
        })]
    }
}

#[test]
fn worlds_of_one_class_have_one_future() {
    Futures::new(2, [1, 1], Epoch(1), Generation(4)).explore();
}

#[test]
#[ignore = "minutes, with --release"]
fn three_servers_of_one_class_have_one_future() {
    Futures::new(2, [1, 1], Epoch(3), Generation(5)).explore();
    Futures::new(3, [1, 0], Epoch(1), Generation(4)).explore();
}
