//! What must hold after every step of a group.

use osps::policy::group::{Action, Change, Goal, Input, Note, Outcome};
use osps::policy::lifecycle::{Act, Stage};
use osps_heart::ids::SlotId;
use osps_heart::segment::What;
use osps_heart::words::{Cause, Class, Press, State};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::edges::{goes_with, needs};
use super::lifecycle::height;
use super::reference::{SPARED, slack};
use super::world::{World, is_for_silence};

/// The stage that a change leads to, by what was written down about it.
pub fn stage_after(change: &Change) -> Result<Stage, TestCaseError> {
    Ok(match change.what {
        What::Started { .. } => Stage::Starting,
        What::FirstBeat { .. } | What::Beat { .. } | What::Unwatched => Stage::Up,
        What::Late { .. } | What::Pardoned => Stage::Late,
        What::Held { .. } | What::Warned { .. } => Stage::Held,
        // A stop calls off who waits for its start, and asks the others.
        What::StopOrder if matches!(change.from, State::Backoff | State::Blocked) => Stage::Down,
        What::StopOrder => Stage::Asked,
        What::Pressed { press: Press::Terminate, .. } => Stage::Terminating,
        What::Pressed { press: Press::Kill, .. } | What::Verdict { .. } => Stage::Killing,
        What::Alarm => Stage::Unkillable,
        What::Died { .. } => Stage::Down,
        What::Backoff { .. } => Stage::Backoff,
        What::Failed { .. } => Stage::Failed,
        What::Done { .. } => Stage::Done,
        What::Blocked { .. } => Stage::Blocked,
        What::LateTurn { .. }
        | What::Spared { .. }
        | What::Watched { .. }
        | What::Asked { .. }
        | What::Paused { .. }
        | What::Resumed
        | What::Removed
        | What::Adopted { .. }
        | What::WatchdogStarted
        | What::WatchdogStopping => {
            return Err(TestCaseError::fail(format!("no change of a state: {change:?}")));
        }
    })
}

impl World {
    /// What must hold after every step.
    pub fn check(
        &self,
        input: Input,
        before: &[Stage],
        ended: bool,
        actions: &[Action],
    ) -> TestCaseResult {
        let mut stages = before.to_vec();
        let mut changed = vec![false; before.len()];
        let mut killed = vec![false; before.len()];
        for action in actions {
            match *action {
                Action::Changed(change) => {
                    let index = change.slot.index();
                    let (from, to) = (stages[index], stage_after(&change)?);
                    prop_assert_eq!(from.state(), change.from, "a gap in the record");
                    prop_assert_eq!(to.state(), change.to, "{:?}", change);
                    prop_assert_ne!(from, to);
                    stages[index] = to;
                    changed[index] = true;
                    self.check_reason(input, from, &change)?;
                    check_note(&change)?;
                }
                Action::Do { slot, act: Act::Kill } => {
                    prop_assert!(changed[slot.index()], "killed before it was written down");
                    prop_assert_eq!(height(stages[slot.index()]), 3);
                    killed[slot.index()] = true;
                }
                Action::Do { slot, act: Act::Spawn } => {
                    prop_assert!(!self.group.is_ending(), "spawned {} while stopping", slot);
                    prop_assert_eq!(stages[slot.index()], Stage::Starting);
                    self.check_start(slot, &stages)?;
                }
                Action::Do { slot, act: Act::Ask } => {
                    let needed = self.needed_by(slot, &stages);
                    prop_assert_eq!(needed, None, "{} was told to stop before that", slot);
                }
                Action::Do { .. }
                | Action::Examine { .. }
                | Action::Renewed { .. }
                | Action::Rolled { .. }
                | Action::Told { what: What::Paused { .. } | What::Resumed, .. } => {}
                Action::Told { slot: None, what: What::LateTurn { by } } => {
                    prop_assert_eq!(by, self.turn.lateness);
                }
                Action::Told { slot: Some(slot), what: What::Spared { .. } } => {
                    prop_assert!(!changed[slot.index()]);
                    let spared = self.processes[slot.index()].as_ref().map(|p| p.spared);
                    prop_assert!(spared < Some(SPARED), "spared too often: {spared:?}");
                }
                Action::Told { .. } => {
                    return Err(TestCaseError::fail(format!("told as no change: {action:?}")));
                }
            }
        }
        if matches!(input, Input::Turn { .. }) {
            let late = |action: &Action| {
                matches!(action, Action::Told { what: What::LateTurn { .. }, .. })
            };
            let told = actions.iter().any(late);
            let watched =
                before.iter().zip(&self.processes).filter(|(stage, _)| stage.is_watched());
            let mut limits = watched.filter_map(|(_, process)| Some(process.as_ref()?.limit()));
            let late = limits.any(|limit| self.turn.lateness > slack(limit));
            prop_assert_eq!(told, late, "{:?} late", self.turn.lateness);
        }
        prop_assert_eq!(&stages, &self.stages(), "a change that was not told");
        prop_assert!(self.group.is_ending() || !ended, "the end was called off");
        if stages.iter().any(|stage| stage.is_watched()) {
            prop_assert!(self.group.next_deadline().is_some(), "nobody would look again");
        }
        if self.group.outcome() == Some(Outcome::Clean) {
            prop_assert!(self.processes.iter().all(Option::is_none), "left a process behind");
        }
        self.check_failure(input, before, actions, &killed)?;
        if self.group.is_ending() {
            // Whoever nobody needs any more was told so at once.
            for slot in self.group.slots().filter(|slot| stages[slot.index()].is_watched()) {
                let needed = self.needed_by(slot, &stages);
                prop_assert!(needed.is_some(), "{} was not told to stop: {:?}", slot, stages);
            }
        } else if self.booted {
            // Whoever waits for nobody any more was started at once; who rests was told to.
            for slot in self.group.slots() {
                match stages[slot.index()] {
                    Stage::Blocked => {
                        let waits = self.missing(slot, &stages).is_some();
                        prop_assert!(waits, "{} waits for nobody: {:?}", slot, stages);
                    }
                    Stage::Down => prop_assert_eq!(self.group.goal(slot), Goal::Rest),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Who keeps a server from being told to stop: a process that may still die needs it.
    fn needed_by(&self, slot: SlotId, stages: &[Stage]) -> Option<SlotId> {
        let leaves = |stage: Stage| stage.has_process() && stage != Stage::Unkillable;
        let goes = |other: &SlotId| self.group.is_ending() || self.group.goal(*other) != Goal::Run;
        self.group.slots().filter(goes).find(|other| {
            leaves(stages[other.index()]) && needs(&self.specs[other.index()].edges, slot)
        })
    }

    /// Whom a server still waits for.
    fn missing(&self, slot: SlotId, stages: &[Stage]) -> Option<SlotId> {
        let edges = &self.specs[slot.index()].edges;
        let is_done = |on: &&SlotId| stages[on.index()] == Stage::Done;
        let is_up = |on: &&SlotId| {
            stages[on.index()].is_watched()
                && self.has_beaten(**on)
                && self.group.goal(**on) == Goal::Run
        };
        let up = edges.depends_on.iter().find(|on| !is_done(on) && !is_up(on));
        up.or(edges.after_done.iter().find(|on| !is_done(on))).copied()
    }

    /// Whether the group heard a beat of the process in this slot.
    fn has_beaten(&self, slot: SlotId) -> bool {
        self.processes[slot.index()].as_ref().is_some_and(|process| process.beaten)
    }

    /// The first process of a slot waits for all that it depends on, and so does one that comes
    /// back after others; one whose predecessor failed by itself waits for nobody.
    fn check_start(&self, slot: SlotId, stages: &[Stage]) -> TestCaseResult {
        prop_assert!(self.booted || self.takes_over, "{} started by itself", slot);
        let first = !self.acts.contains(&(slot, Act::Spawn));
        if first || self.reasons[slot.index()] == Some(Cause::Dependency) {
            let missing = self.missing(slot, stages);
            prop_assert_eq!(missing, None, "{} started before that", slot);
        }
        Ok(())
    }

    /// A server that failed for its own reason takes exactly those with it that restart with it,
    /// directly or through others, and have a process. (Whoever goes already keeps its reason.)
    fn check_failure(
        &self,
        input: Input,
        before: &[Stage],
        actions: &[Action],
        killed: &[bool],
    ) -> TestCaseResult {
        let died = match input {
            Input::Died { slot, .. }
                if before.get(slot.index()).is_some_and(|s| s.has_process()) =>
            {
                Some(slot)
            }
            _ => None,
        };
        // Nobody failed who goes for another's sake, was told to go, or ended with success.
        let own = |slot: &SlotId| {
            let told = matches!(self.before_death[slot.index()], Some((Goal::Run, false)));
            let done = actions.iter().any(|action| {
                matches!(action, Action::Changed(Change { slot: of, what: What::Done { .. }, .. })
                    if of == slot)
            });
            self.reasons[slot.index()] != Some(Cause::Dependency) && told && !done
        };
        let failed = died.filter(own).filter(|_| !self.group.is_ending());
        let goes = |slot: &SlotId| {
            before[slot.index()].is_watched()
                && failed.is_some_and(|failed| goes_with(&self.specs, *slot, failed))
        };
        let expected: Vec<_> = self.group.slots().filter(goes).collect();
        let condemned = actions.iter().filter_map(|action| match action {
            Action::Changed(Change {
                slot,
                what: What::Verdict { cause: Cause::Dependency, .. },
                ..
            }) => Some(*slot),
            _ => None,
        });
        let mut condemned: Vec<_> = condemned.collect();
        condemned.sort_unstable();
        prop_assert_eq!(&condemned, &expected, "go down with {:?}", failed);
        for slot in expected {
            prop_assert!(killed[slot.index()], "{} outlived {:?}", slot, failed);
        }
        Ok(())
    }

    /// Nobody is killed for a reason that is not so, and nobody dies of one.
    fn check_reason(&self, input: Input, from: Stage, change: &Change) -> TestCaseResult {
        let &Change { slot, what, note, .. } = change;
        if let What::Verdict { cause, class, .. } = what {
            prop_assert_eq!(class.is_some(), cause == Cause::Frozen, "{:?}", change);
        }
        match what {
            What::Verdict { cause: Cause::Dependency, .. } => {
                let with = |of| goes_with(&self.specs, slot, of);
                let confirmed = matches!(input, Input::Died { slot: of, .. } if with(of));
                prop_assert!(confirmed, "{} killed though nobody it needs died", slot);
            }
            What::Verdict { cause: Cause::Requested, .. } => {
                prop_assert!(matches!(input, Input::ForceStop), "{:?}", input);
            }
            What::Verdict { class: Some(Class::NotReleasing), .. } => {
                let asked = matches!(input, Input::NotReleasing { .. });
                prop_assert!(asked, "{:?}", input);
                prop_assert_ne!(from, Stage::Held);
                prop_assert_eq!(note, Note::Limit(self.specs[slot.index()].limits.hang));
            }
            What::Verdict { cause, class, silence } if is_for_silence(what) => {
                let looked = matches!(input, Input::Examined { .. });
                prop_assert!(looked, "killed without a second look");
                let Some(process) = &self.processes[slot.index()] else {
                    return Err(TestCaseError::fail(format!("nobody to convict in slot {slot}")));
                };
                let limit = process.limit();
                prop_assert_eq!(note, Note::Limit(limit));
                prop_assert!(silence >= limit, "{silence:?} of {limit:?}");
                let lie = process.lie;
                let counted = self.now.since(process.heard_at.max(process.forgiven)) + lie;
                prop_assert!(counted >= limit, "{counted:?} of {limit:?}: {process:?}");
                let due = process.next_beat.since(process.last_beat);
                let innocent = process.innocent && due + lie < limit;
                prop_assert!(!innocent, "slot {} beat in time: {:?}", slot, process);
                prop_assert_eq!(cause == Cause::StartTimeout, !process.beaten);
                if let Some(class) = class {
                    prop_assert!(!class.is_intention(), "killed what somebody holds");
                    let spared = class != Class::Starved || process.spared == SPARED;
                    prop_assert!(spared, "starved, and not spared: {process:?}");
                }
            }
            What::Verdict { .. } => {
                return Err(TestCaseError::fail(format!("no reason to kill: {change:?}")));
            }
            What::Held { class } => {
                prop_assert!(class.is_intention() || class == Class::Dying);
            }
            What::Died { death, cause } => {
                let itself = from.is_watched().then(|| death.cause());
                let expected = self.reasons[slot.index()].or(itself);
                prop_assert_eq!(cause, expected, "{:?}", change);
            }
            What::Backoff { .. } | What::Failed { .. } | What::Done { .. } => {
                let reason = self.reasons[slot.index()];
                let own = !matches!(reason, Some(Cause::Dependency | Cause::Requested));
                prop_assert!(own, "counted for another's fault: {:?}", change);
                prop_assert!(from.is_watched() || reason.is_some(), "it was told to: {change:?}");
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the ring has no room for is told with what it belongs to.
fn check_note(change: &Change) -> TestCaseResult {
    let fits = match change.what {
        What::Late { .. } | What::Verdict { .. } => matches!(change.note, Note::Limit(_)),
        What::Died { .. } | What::Backoff { .. } | What::Failed { .. } | What::Done { .. } => {
            matches!(change.note, Note::Death { .. })
        }
        _ => change.note == Note::Nothing,
    };
    prop_assert!(fits, "{:?}", change);
    Ok(())
}
