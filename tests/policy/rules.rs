//! What must hold after every step of a group.

use osps::ids::SlotId;
use osps::policy::group::{Action, Event, Outcome, Why};
use osps::policy::lifecycle::{Act, Cause, State};
use osps::policy::verdict::Class;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::lifecycle::height;
use super::reference::{SPARED, slack};
use super::world::{World, is_for_silence};

impl World {
    /// What must hold after every step.
    pub fn check(
        &self,
        event: Event,
        before: &[State],
        ended: bool,
        actions: &[Action],
    ) -> TestCaseResult {
        let mut states = before.to_vec();
        let mut changed = vec![false; before.len()];
        let mut killed = vec![false; before.len()];
        for action in actions {
            match *action {
                Action::Changed { slot, from, to, why } => {
                    prop_assert_eq!(states[slot.index()], from, "a gap in the record");
                    prop_assert_ne!(from, to);
                    states[slot.index()] = to;
                    changed[slot.index()] = true;
                    self.check_reason(event, from, slot, why)?;
                }
                Action::Do { slot, act: Act::Kill } => {
                    prop_assert!(changed[slot.index()], "killed before it was written down");
                    prop_assert_eq!(height(states[slot.index()]), 3);
                    killed[slot.index()] = true;
                }
                Action::Do { slot, act: Act::Spawn } => {
                    prop_assert!(!self.group.is_ending(), "spawned {} while stopping", slot);
                    prop_assert_eq!(states[slot.index()], State::Starting);
                }
                Action::Do { .. } | Action::Examine { .. } => {}
                Action::LateTurn { by } => prop_assert_eq!(by, self.turn.lateness),
                Action::Spared { slot, .. } => {
                    prop_assert!(!changed[slot.index()]);
                    let spared = self.processes[slot.index()].as_ref().map(|p| p.spared);
                    prop_assert!(spared < Some(SPARED), "spared too often: {spared:?}");
                }
            }
        }
        if matches!(event, Event::Turn { .. }) {
            let told = actions.iter().any(|action| matches!(action, Action::LateTurn { .. }));
            let watched =
                before.iter().zip(&self.processes).filter(|(state, _)| state.is_watched());
            let mut limits = watched.filter_map(|(_, process)| Some(process.as_ref()?.limit()));
            let late = limits.any(|limit| self.turn.lateness > slack(limit));
            prop_assert_eq!(told, late, "{:?} late", self.turn.lateness);
        }
        prop_assert_eq!(&states, &self.states(), "a change that was not told");
        prop_assert!(self.group.is_ending() || !ended, "the end was called off");
        if states.iter().any(|state| state.is_watched()) {
            prop_assert!(self.group.next_deadline().is_some(), "nobody would look again");
        }
        if self.group.outcome() == Some(Outcome::Clean) {
            prop_assert!(self.processes.iter().all(Option::is_none), "left a process behind");
        }
        // A server that failed takes its dependents with it.
        let failed = actions.iter().find_map(|action| match *action {
            Action::Changed { slot, why: Why::Died { cause, .. }, .. }
                if cause.is_some_and(|cause| cause != Cause::Primary) =>
            {
                Some(slot)
            }
            _ => None,
        });
        if let Some(failed) = failed.filter(|_| !self.group.is_ending()) {
            for slot in self.group.slots() {
                if self.specs[slot.index()].depends_on == Some(failed) {
                    let up = before[slot.index()].is_watched();
                    prop_assert!(killed[slot.index()] || !up, "{} outlived {}", slot, failed);
                }
            }
        }
        Ok(())
    }

    /// Nobody is killed for a reason that is not so.
    fn check_reason(&self, event: Event, from: State, slot: SlotId, why: Why) -> TestCaseResult {
        match why {
            Why::Condemned { cause: Cause::Primary, .. } => {
                let on = self.specs[slot.index()].depends_on;
                let confirmed = matches!(event, Event::Died { slot, .. } if Some(slot) == on);
                prop_assert!(confirmed, "{} killed though nobody it needs died", slot);
            }
            Why::Condemned { cause: Cause::Frozen(Class::NotReleasing), .. } => {
                let asked = matches!(event, Event::NotReleasing { .. });
                prop_assert!(asked, "{:?}", event);
                prop_assert_ne!(from, State::Held);
            }
            Why::Condemned { cause, silence, limit } if is_for_silence(why) => {
                let looked = matches!(event, Event::Examined { .. });
                prop_assert!(looked, "killed without a second look");
                let Some(process) = &self.processes[slot.index()] else {
                    return Err(TestCaseError::fail(format!("nobody to convict in slot {slot}")));
                };
                prop_assert_eq!(limit, process.limit());
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                let lie = process.lie;
                let counted = self.now.since(process.heard_at.max(process.forgiven)) + lie;
                prop_assert!(counted >= limit, "{counted:?} of {limit:?}: {process:?}");
                let due = process.next_beat.since(process.last_beat);
                let innocent = process.innocent && due + lie < limit;
                prop_assert!(!innocent, "slot {} beat in time: {:?}", slot, process);
                prop_assert_eq!(cause == Cause::StartTimeout, !process.beaten);
                if let Cause::Frozen(class) = cause {
                    prop_assert!(!class.is_intention(), "killed what somebody holds");
                    let spared = class != Class::Starved || process.spared == SPARED;
                    prop_assert!(spared, "starved, and not spared: {process:?}");
                }
            }
            Why::Held { class } => prop_assert!(class.is_intention()),
            _ => {}
        }
        Ok(())
    }
}
