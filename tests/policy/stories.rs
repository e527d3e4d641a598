//! Groups in stories that were faults once, or would be hard to read as a property.

use std::time::Duration;

use osps::policy::graph::Edges;
use osps::policy::group::{Input, Outcome, Spec};
use osps::policy::lifecycle::{Act, Patience, Stage};
use osps::policy::restart::{FREE, Intensity};
use osps_heart::ids::SlotId;
use osps_heart::pulse::Limits;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::draw::ms;
use super::kernel::{GOOD, Habit};
use super::script::{Step, Trouble};
use super::world::World;

/// A server and one that restarts with it, with limits of seconds, for the stories below.
fn pair() -> Vec<Spec> {
    let limits = Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) };
    let patience = Patience { ask: ms(5000), term: ms(1000), kill: ms(4000) };
    [vec![], vec![SlotId::FIRST]]
        .map(|restart_with| Spec {
            edges: Edges { restart_with, ..Edges::default() },
            limits,
            patience,
            ..Spec::default()
        })
        .to_vec()
}

/// Tells a story and says what went wrong in it.
fn tell(
    intensity: Option<Intensity>,
    specs: Vec<Spec>,
    habit: Habit,
    story: fn(&mut World) -> TestCaseResult,
) {
    let mut world = World::new(intensity, specs, habit);
    if let Err(reason) = story(&mut world) {
        panic!("{reason}");
    }
}

/// The one waits out its delay while the other takes its time to stop.
#[test]
fn a_delay_that_ends_during_a_stop_starts_nobody() {
    tell(None, pair(), Habit { leaves: Some(4000), ..GOOD }, |world| {
        world.feed(Input::Boot)?;
        // One turn for its death, which is a start that came to nothing, one for that of the other,
        // which goes with it.
        world.play(&Step::Exit(0))?;
        world.turn(Trouble::None)?;
        world.turn(Trouble::None)?;
        let waits = matches!(world.stages()[..], [Stage::Backoff, Stage::Starting]);
        prop_assert!(waits, "{:?}", world.stages());
        world.feed(Input::Stop)?;
        world.check_end()
    });
}

#[test]
fn a_stop_before_the_start_starts_nobody() {
    tell(None, pair(), GOOD, |world| {
        world.feed(Input::Stop)?;
        world.feed(Input::Boot)?;
        world.check_end()
    });
}

/// The instance gives up; one process cannot be killed; the operator presses Ctrl-C twice.
#[test]
fn a_second_ctrl_c_ends_an_instance_that_gave_up_as_well() {
    let intensity = Intensity { restarts: 0, period: Duration::from_secs(60) };
    tell(Some(intensity), pair(), GOOD, |world| {
        world.feed(Input::Boot)?;
        world.settle(ms(50))?;
        world.play(&Step::Unkillable(0))?;
        world.play(&Step::Exit(1))?;
        world.settle(ms(50))?;
        prop_assert_eq!(world.stages()[1], Stage::Failed);
        world.feed(Input::Stop)?;
        world.feed(Input::ForceStop)?;
        world.check_end()?;
        prop_assert_eq!(world.group.outcome(), Some(Outcome::GaveUp), "{:?}", world.stages());
        Ok(())
    });
}

/// It crashes before its first beat, again and again: who waits for it is not started, and so does
/// not go down with it either.
#[test]
fn who_waits_for_its_start_is_no_victim() {
    let mut specs = pair();
    specs[1].edges.depends_on = vec![SlotId::FIRST];
    tell(None, specs, Habit { first_beat: 500, ..GOOD }, |world| {
        world.feed(Input::Boot)?;
        for _ in 0..3 {
            while world.processes[0].is_none() {
                world.turn(Trouble::None)?;
            }
            world.play(&Step::Exit(0))?;
            world.turn(Trouble::None)?;
            prop_assert_eq!(world.stages(), [Stage::Backoff, Stage::Blocked]);
        }
        prop_assert!(world.acts.iter().all(|act| *act == (SlotId::FIRST, Act::Spawn)));
        world.settle(world.time_to_heal())?;
        prop_assert_eq!(world.stages(), [Stage::Up, Stage::Up]);
        Ok(())
    });
}

/// Of two that it waits for, the first one was up and failed before the second one was.
#[test]
fn both_are_up_when_who_waits_for_both_is_started() {
    let mut specs = vec![pair()[0].clone(); 3];
    specs[0].edges.depends_on = vec![SlotId(1), SlotId(2)];
    tell(None, specs, GOOD, |world| {
        world.habits[1].first_beat = 500;
        world.feed(Input::Boot)?;
        world.settle(ms(100))?;
        prop_assert_eq!(world.stages(), [Stage::Blocked, Stage::Starting, Stage::Up]);
        world.habits[2].first_beat = 2000;
        world.play(&Step::Exit(2))?;
        world.settle(ms(1000))?;
        prop_assert_eq!(world.stages(), [Stage::Blocked, Stage::Up, Stage::Starting]);
        world.settle(ms(2500))?;
        prop_assert_eq!(world.stages(), [Stage::Up; 3]);
        Ok(())
    });
}

/// The last of a chain goes down with the first one, and its fate is nobody's fault: it comes back
/// at once, however often that is.
#[test]
fn a_chain_goes_down_as_a_whole_and_only_the_first_one_waits() {
    let mut specs = vec![pair()[0].clone(); 4];
    for (spec, on) in specs[1..].iter_mut().zip(0..) {
        spec.edges.restart_with = vec![SlotId(on)];
    }
    tell(None, specs, GOOD, |world| {
        world.feed(Input::Boot)?;
        for crash in 0..=FREE {
            // Not longer: who was up for a second never waits.
            while world.stages() != [Stage::Up; 4] {
                world.turn(Trouble::None)?;
                prop_assert!(world.stages()[0].has_process(), "waits after crash {}", crash);
            }
            let spawns = world.acts.len();
            world.play(&Step::Exit(0))?;
            // One turn for its death, one for those of the others.
            world.turn(Trouble::None)?;
            world.turn(Trouble::None)?;
            let kills = [1, 2, 3].map(|slot| (SlotId(slot), Act::Kill));
            prop_assert_eq!(&world.acts[spawns..][..3], &kills);
        }
        let [first, others @ ..] = &world.stages()[..] else { unreachable!("four servers") };
        prop_assert_eq!((*first, others), (Stage::Backoff, &[Stage::Starting; 3][..]));
        Ok(())
    });
}
