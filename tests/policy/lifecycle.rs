//! Every stage, every trigger.

use osps::policy::lifecycle::{Act, Patience, Stage, Trigger};

use super::draw::ms;

const PATIENCE: Patience = Patience { ask: ms(50), term: ms(10), kill: ms(40) };

/// How far a server has been pressed; nothing ever presses less.
pub fn height(stage: Stage) -> u8 {
    match stage {
        Stage::Asked => 1,
        Stage::Terminating => 2,
        Stage::Killing => 3,
        Stage::Unkillable => 4,
        Stage::Down
        | Stage::Starting
        | Stage::Up
        | Stage::Late
        | Stage::Held
        | Stage::Backoff
        | Stage::Failed
        | Stage::Done
        | Stage::Blocked => 0,
    }
}

fn is_death(trigger: Trigger) -> bool {
    matches!(trigger, Trigger::Rest | Trigger::Wait | Trigger::Never | Trigger::Finish)
}

/// The table once more, by trigger; `None` = it cannot happen in this stage. A heart is judged
/// while it is watched, a death has somebody who died, and a kill is final.
fn expected(stage: Stage, trigger: Trigger) -> Option<(Stage, Option<Act>)> {
    let watched = stage.is_watched();
    let (possible, to, act) = match trigger {
        Trigger::Start => (!stage.has_process(), Stage::Starting, Some(Act::Spawn)),
        Trigger::Await => (!stage.has_process() && stage != Stage::Blocked, Stage::Blocked, None),
        // Whoever is up beats and stays so.
        Trigger::Beat => (watched && stage != Stage::Up, Stage::Up, None),
        // Who never beat, or is held, is looked at where it stands.
        Trigger::Late => {
            let stays = matches!(stage, Stage::Starting | Stage::Held);
            (watched, if stays { stage } else { Stage::Late }, Some(Act::Look))
        }
        Trigger::Hold => (watched && stage != Stage::Held, Stage::Held, None),
        Trigger::Pardon => (stage == Stage::Held, Stage::Late, None),
        Trigger::Convict => (watched, Stage::Killing, Some(Act::Kill)),
        Trigger::Condemn => {
            (stage.has_process() && height(stage) < 3, Stage::Killing, Some(Act::Kill))
        }
        // A stop calls the next process off as well.
        Trigger::Stop if matches!(stage, Stage::Backoff | Stage::Blocked) => {
            (true, Stage::Down, None)
        }
        Trigger::Stop => (watched, Stage::Asked, Some(Act::Ask)),
        Trigger::Rest => (stage.has_process(), Stage::Down, None),
        Trigger::Wait => (stage.has_process(), Stage::Backoff, None),
        Trigger::Never => (stage.has_process(), Stage::Failed, None),
        Trigger::Finish => (stage.has_process(), Stage::Done, None),
        Trigger::Timer => match stage {
            Stage::Asked => (true, Stage::Terminating, Some(Act::Terminate)),
            Stage::Terminating => (true, Stage::Killing, Some(Act::Kill)),
            Stage::Killing => (true, Stage::Unkillable, Some(Act::Alarm)),
            Stage::Backoff => (true, Stage::Starting, Some(Act::Spawn)),
            _ => (false, stage, None),
        },
    };
    possible.then_some((to, act))
}

#[test]
fn every_pair_of_stage_and_trigger_is_sound() {
    let mut pairs = 0;
    for stage in Stage::ALL {
        for trigger in Trigger::ALL {
            pairs += 1;
            let (to, act) = stage.on(trigger);
            let name = format!("{stage:?} x {trigger:?} -> {to:?} + {act:?}");
            let died = is_death(trigger);
            if stage.has_process() {
                assert_eq!(to.has_process(), !died, "only a death takes the process: {name}");
            } else {
                assert_eq!(to.has_process(), act == Some(Act::Spawn), "{name}");
                assert!(matches!(act, None | Some(Act::Spawn)), "nobody to act upon: {name}");
            }
            if act == Some(Act::Spawn) {
                assert!(!stage.has_process(), "a second process in one slot: {name}");
                assert_eq!(to, Stage::Starting, "{name}");
            }
            if act == Some(Act::Kill) {
                assert_eq!(to, Stage::Killing, "{name}");
                assert_eq!(to.lasts(&PATIENCE), Some(PATIENCE.kill), "{name}");
            }
            if to != stage && height(to) == 3 {
                assert_eq!(act, Some(Act::Kill), "says it was killed, but nobody did: {name}");
            }
            if height(stage) >= 3 && !died {
                assert!(height(to) >= 3, "a kill is final: {name}");
                assert!(matches!(act, None | Some(Act::Alarm)), "{name}");
            }
            if height(stage) > 0 && !died {
                assert!(height(to) >= height(stage), "pressed less: {name}");
            }
            if trigger == Trigger::Timer && height(stage) > 0 {
                assert_eq!(height(to), (height(stage) + 1).min(4), "rung by rung: {name}");
                assert!(to.lasts(&PATIENCE).is_none_or(|lasts| !lasts.is_zero()), "{name}");
            }
            if matches!(stage, Stage::Failed | Stage::Done) {
                // It leaves only because somebody asked for it.
                let asked = matches!(trigger, Trigger::Start | Trigger::Await);
                assert!(asked || (to, act) == (stage, None), "{name}");
            }
            assert!(!(to.is_watched() && to.lasts(&PATIENCE).is_some()), "{name}");
        }
    }
    assert_eq!(pairs, 13 * 14);
}

/// The table has a cell for every pair: it says what it shall, and impossible ones stay.
#[test]
fn every_pair_of_stage_and_trigger_has_its_cell() {
    for stage in Stage::ALL {
        for trigger in Trigger::ALL {
            let cell = expected(stage, trigger).unwrap_or((stage, None));
            assert_eq!(stage.on(trigger), cell, "{stage:?} x {trigger:?}");
        }
    }
}

#[test]
fn a_process_that_ignores_everything_sees_the_whole_ladder() {
    for stage in [Stage::Starting, Stage::Up, Stage::Late, Stage::Held] {
        let (mut stage, act) = stage.on(Trigger::Stop);
        let mut acts = vec![act];
        while stage.lasts(&PATIENCE).is_some() {
            let (next, act) = stage.on(Trigger::Timer);
            acts.push(act);
            stage = next;
        }
        assert_eq!(acts, [Act::Ask, Act::Terminate, Act::Kill, Act::Alarm].map(Some));
        assert_eq!(stage, Stage::Unkillable);
    }
}
