//! Every state, every event.

use osps::policy::lifecycle;
use osps::policy::lifecycle::{Act, Next, Patience, Rung, State};

use super::draw::{BOOT, ms};

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
pub fn height(state: State) -> u8 {
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
