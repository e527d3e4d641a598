//! Long random schedules of the same world: three servers, tubes as long as the real ones, numbers
//! that grow and wrap, links that filter and links that do not.

use std::sync::LazyLock;

use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::ownership::Arbiter;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestError, TestRng, TestRunner};

use super::world::{Event, Mutant, Rules, SLOTS, STALE_EPOCH, Step, TWO_WRITERS, World};

/// Frames in a full tube.
const ROOM: usize = 1024;

/// Epoch and generation at which a schedule begins: those of a new instance, and others that soon
/// outgrow their bits in the owner word.
const BEGINNINGS: [(Epoch, Generation); 2] =
    [(Epoch(0), Generation(0)), (Epoch((1 << 40) - 4), Generation(0xfff0))];

/// Every step as often as it shall come.
static STEPS: LazyLock<Vec<Step>> = LazyLock::new(|| {
    let often = |step: &Step| match step {
        Step::CarryOut => 200,
        Step::Decide { .. } => 60,
        Step::Begin(_) | Step::Take(_) => 30,
        Step::Look { .. } | Step::End(_) | Step::Retire => 20,
        Step::Spawn(_) => 17,
        Step::Confirm(_) => 13,
        Step::Repeat => 10,
        Step::Lose(_) | Step::Other(_) => 2,
        Step::Leave(_) | Step::Kill(_) => 1,
    };
    let repeat = |step: Step| std::iter::repeat_n(step, often(&step));
    Step::all(SLOTS).into_iter().flat_map(repeat).collect()
});

/// Numbers, since these are generated quickly.
fn schedule() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..STEPS.len(), 1..1500)
}

/// Plays a schedule; what is impossible at its time is skipped.
fn play(
    mutant: Mutant,
    filters: bool,
    (epoch, generation): (Epoch, Generation),
    schedule: &[usize],
    mut seen: impl FnMut(Event),
) -> Result<World, TestCaseError> {
    let rules = Rules { mutant, servers: SLOTS, room: [ROOM; 2], filters };
    let mut world = World::new(rules, epoch, generation);
    for number in schedule {
        if world.step(STEPS[*number]) {
            world.check().map_err(TestCaseError::fail)?;
            world.events.iter().for_each(&mut seen);
        }
    }
    Ok(world)
}

proptest! {
    #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn at_most_one_writes_and_everybody_gets_a_turn(
        schedule in schedule(), filters: bool, beginning in 0..BEGINNINGS.len(),
        wanted: [bool; SLOTS], deaf: bool,
    ) {
        let mut world = play(Mutant::None, filters, BEGINNINGS[beginning], &schedule, drop)?;
        world.settle(wanted, deaf).map_err(TestCaseError::fail)?;
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
        let exact = (slot, generation, epoch) == (holder, held_by, held) && held != 0;
        prop_assert_eq!(cleared.is_some(), exact);
    }
}

/// The schedules are not idle: in a plain sample everything comes about in plenty.
#[test]
fn the_schedules_get_somewhere() {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let counts = std::cell::Cell::new([0; Event::ALL.len()]);
    let count = |event: Event| {
        let mut more = counts.get();
        more[event as usize] += 1;
        counts.set(more);
    };
    let played = |schedule: Vec<usize>| -> TestCaseResult {
        play(Mutant::None, true, BEGINNINGS[0], &schedule, count).map(drop)
    };
    TestRunner::new_with_rng(config, deterministic()).run(&schedule(), played).unwrap();
    let counts: Vec<_> = Event::ALL.into_iter().zip(counts.get()).collect();
    let least = |event: Event| match event {
        Event::Granted | Event::Wrote | Event::Recalled => 200,
        // No schedule is long enough to fill a real tube.
        Event::FoundATubeFull => 0,
        _ => 1,
    };
    assert!(counts.iter().all(|(event, times)| *times >= least(*event)), "{counts:?}");
}

fn deterministic() -> TestRng {
    TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha)
}

/// Three of the rules that the exploration breaks too ([`super::exploration`]): the schedules are
/// no looser a net.
#[test]
fn broken_rules_are_caught() {
    for mutant in [Mutant::ForgetsReleases, Mutant::RetiresTheUnconfirmed, Mutant::ReleasesAnyEpoch]
    {
        let config = Config {
            cases: 3000,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..Config::default()
        };
        let found = TestRunner::new_with_rng(config, deterministic())
            .run(&schedule(), |schedule| {
                play(mutant, true, BEGINNINGS[0], &schedule, drop).map(drop)
            });
        let Err(TestError::Fail(reason, schedule)) = found else {
            panic!("{mutant:?} was not caught: {found:?}");
        };
        let steps: Vec<_> = schedule.iter().map(|number| STEPS[*number]).collect();
        let told = [TWO_WRITERS, STALE_EPOCH].contains(&reason.message());
        assert!(told, "{mutant:?}: {reason} after {steps:?}");
    }
}
