//! Groups in stories that were faults once, or would be hard to read as a property.

use std::time::Duration;

use osps::ids::SlotId;
use osps::policy::group::{Event, Outcome, Spec};
use osps::policy::lifecycle::{Patience, State};
use osps::policy::restart::{FREE, Intensity};
use osps::policy::verdict::Limits;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::draw::ms;
use super::kernel::{GOOD, Habit};
use super::script::{Step, Trouble};
use super::world::World;

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
