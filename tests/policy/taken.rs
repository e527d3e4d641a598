//! Watchdogs that are killed, also between two actions of one step, and the next ones that go on.

use std::time::Duration;

use osps::policy::adopt::{Fate, fate};
use osps::policy::group::{Action, Goal, Group, Input, Past, Recorded};
use osps::policy::lifecycle::{Act, Stage};
use osps_heart::ids::SlotId;
use osps_heart::pulse::Turn;
use osps_heart::segment::layout::TALLY;
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, State};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use super::draw::{BOOT, CHECK, any_moment, config, limits, ms};
use super::kernel::GOOD;
use super::rules::stage_after;
use super::script::{Step, Trouble, span, specs, step, wish};
use super::world::World;

/// What befalls a watchdog: steps, in which it is killed before this action, and how long nobody
/// is there then.
#[derive(Clone, Debug)]
struct Reign {
    steps: Vec<Step>,
    killed_before: Option<usize>,
    away: Duration,
}

fn reign() -> impl Strategy<Value = Reign> {
    let steps = vec(prop_oneof![2 => step(), 1 => wish()], 1..20);
    let away = prop_oneof![2 => Just(ms(0)), 3 => (1..100_u64).prop_map(ms), 1 => span()];
    (steps, option::of(1..40_usize), away).prop_map(|(steps, killed_before, away)| Reign {
        steps,
        killed_before,
        away,
    })
}

impl World {
    /// The watchdog is killed, if it was not yet; after a while another one takes over.
    fn replace_watchdog(&mut self, away: Duration) -> TestCaseResult {
        let until = self.now + away;
        self.run(until);
        let mut deaths = vec![Death::Unknown; self.processes.len()];
        for (process, death) in self.processes.iter_mut().zip(&mut deaths) {
            let dies = process.as_ref().and_then(|process| process.dies);
            if let Some((_, how)) = dies.filter(|(at, _)| *at <= until) {
                (*process, *death) = (None, how);
            }
        }
        // Who waits at a gate leaves: nobody will open it.
        self.refused.fill(false);
        self.group = Group::new(until, &self.specs).expect("no circle");
        let past = |slot: SlotId| {
            let place = slot.index();
            let lives = self.processes[place].is_some();
            Past::of(self.pages[place].clone(), lives, self.hearts[place].count, deaths[place])
        };
        let pasts: Vec<_> = self.group.slots().map(|slot| (slot, past(slot))).collect();
        for (slot, past) in &pasts {
            let adopted = matches!(fate(past.page.state, past.seen), Fate::Adopt | Fate::Stop);
            let process = &mut self.processes[slot.index()];
            prop_assert_eq!(adopted, process.is_some(), "{:?}", past);
            if let Some(process) = process {
                // Judged afresh: whatever it was convicted of is forgotten, and so is what it was
                // forgiven.
                self.reasons[slot.index()] = None;
                (process.heard, process.beaten) = (past.count, past.has_beaten());
                (process.heard_at, process.forgiven) = (until, until);
                (process.extensions, process.spared, process.lie) = (0, 0, Duration::ZERO);
            } else if past.page.told {
                self.reasons[slot.index()] = None;
            }
        }
        self.lives_for = None;
        self.takes_over = true;
        self.turn = Turn::new(until, until, Duration::ZERO);
        (self.spins, self.booted) = (0, false);
        let (acts, lived) = (self.acts.len(), self.processes.clone());
        let mut inputs = Vec::new();
        for action in self.group.take_over(until, &pasts) {
            if let Action::Changed(change) = &action
                && !matches!(change.what, What::Adopted { .. })
            {
                stage_after(change)?;
            }
            inputs.extend(self.perform(action)?);
        }
        for input in inputs {
            self.feed(input)?;
        }
        self.takes_over = false;
        self.feed(Input::Boot)?;
        for (slot, act) in &self.acts[acts..] {
            let (_, past) = &pasts[slot.index()];
            if lived[slot.index()].is_none() {
                continue;
            }
            // Nobody touches who lives, but for what it was told or for whom it goes down with.
            let with = self.reasons[slot.index()] == Some(Cause::Dependency);
            let fine = match act {
                Act::Kill => with,
                Act::Ask | Act::Terminate => past.page.told || past.page.goal != Goal::Run,
                Act::Look | Act::Alarm => true,
                Act::Spawn => false,
            };
            prop_assert!(fine, "{act:?} to slot {slot}, that lived: {past:?}");
        }
        for slot in self.group.slots() {
            let lives = self.processes[slot.index()].is_some();
            prop_assert_eq!(self.group.stage(slot).has_process(), lives, "slot {}", slot);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(128))]

    /// Wherever a watchdog is killed, the next one goes on: one process a slot, nobody touched who
    /// lived, nobody forgotten, and in the end all are up, or gone.
    #[test]
    fn a_group_survives_its_watchdogs(
        specs in specs(limits()),
        reigns in vec(reign(), 1..6),
        stop in any::<bool>(),
    ) {
        let mut world = World::ruled(specs, GOOD);
        world.feed(Input::Boot)?;
        for Reign { steps, killed_before, away } in &reigns {
            world.lives_for = *killed_before;
            for step in steps {
                world.play(step)?;
            }
            world.replace_watchdog(*away)?;
        }
        if stop {
            world.feed(Input::Stop)?;
        }
        if world.group.is_ending() {
            return world.check_end();
        }
        world.heal();
        for slot in world.group.slots().collect::<Vec<_>>() {
            world.feed(Input::Resume { slot })?;
            world.feed(Input::Start { slot })?;
        }
        world.settle(world.time_to_heal() * 2)?;
        let up = world.stages().iter().all(|stage| matches!(stage, Stage::Up | Stage::Done));
        prop_assert!(up, "{:?}", world.stages());
    }

    /// Whoever is taken over frozen is convicted one full limit later, not sooner; and a beat in
    /// time saves whoever was all but convicted.
    #[test]
    fn a_limit_runs_in_full_from_an_adoption(
        specs in specs(limits()),
        slot in 0..4_usize,
        (part, away, thaws) in (0..1000_u32, 0..20_000_u64, any::<bool>()),
    ) {
        let (slot, mut world) = (slot % specs.len(), World::ruled(specs, GOOD));
        world.feed(Input::Boot)?;
        world.settle(world.time_to_start())?;
        world.play(&Step::Freeze(slot, Class::Stopped))?;
        let limit = world.specs[slot].limits.hang;
        let frozen = world.now;
        while world.now.since(frozen) < limit * part / 1000 && world.verdicts.is_empty() {
            world.turn(Trouble::None)?;
        }
        if !world.verdicts.is_empty() {
            return Ok(());
        }
        world.replace_watchdog(ms(away))?;
        let since = world.now;
        if thaws {
            world.play(&Step::Thaw(slot))?;
            world.settle(limit * 2 + CHECK)?;
            prop_assert!(world.verdicts.is_empty());
            return Ok(());
        }
        world.wait_for_verdict(slot, std::iter::repeat(Trouble::None))?;
        let (at, ..) = world.verdicts[0];
        prop_assert_eq!(at.since(since), limit);
    }

    /// A page of garbage makes nobody act on who is not there, and no wait longer than it may be.
    #[test]
    fn a_page_of_garbage_is_an_allegation(
        specs in specs(limits()),
        pages in vec((page(), any::<bool>(), any::<u64>(), death()), 4),
        turns in vec(any_moment(), 0..20),
    ) {
        let mut group = Group::new(BOOT, &specs).expect("no circle");
        let lives: Vec<_> = pages.iter().map(|(_, lives, ..)| *lives).collect();
        let past = |(page, lives, beats, death)| Past::of(page, lives, beats, death);
        let pasts: Vec<_> =
            group.slots().zip(pages.into_iter().map(past)).collect();
        let mut actions = group.take_over(BOOT, &pasts);
        actions.extend(group.step(BOOT, Input::Boot));
        for action in &actions {
            if let Action::Do { slot, act } = action {
                let spawned = *act == Act::Spawn;
                prop_assert!(!spawned || !lives[slot.index()], "a second one in slot {}", slot);
            }
        }
        for slot in group.slots() {
            let spawned = actions.contains(&Action::Do { slot, act: Act::Spawn });
            let has = group.stage(slot).has_process();
            prop_assert_eq!(has, spawned || lives[slot.index()]);
            if let Some(due) = group.due(slot) {
                prop_assert!(due <= BOOT + osps::policy::restart::DELAY_MAX);
            }
        }
        for now in turns {
            group.step(now, Input::Turn { planned: now });
            group.step(now, Input::Timers);
        }
    }
}

fn death() -> impl Strategy<Value = Death> {
    select(vec![Death::Exited(0), Death::Exited(1), Death::Killed(9), Death::Unknown])
}

fn page() -> impl Strategy<Value = Recorded> {
    let goal = select(vec![Goal::Run, Goal::Rest, Goal::Again, Goal::Leave]);
    let words = (select(State::ALL.to_vec()), goal, any::<bool>(), any::<u32>(), any::<u64>());
    let moments = (any_moment(), any_moment(), option::of(any_moment()), any_moment());
    let rest = (option::of(any_moment()), option::of(select(Cause::ALL.to_vec())));
    let up = (any::<bool>(), option::of(any_moment()));
    let tally = vec(prop_oneof![any::<u64>(), 0..20_u64], TALLY);
    (words, moments, rest, up, tally).prop_map(|(words, moments, (due, cause), up, tally)| {
        let (opened, up_since) = up;
        let (state, goal, told, pid, baseline) = words;
        let (spawned_at, since, paused_until, excused_until): (Monotonic, _, _, _) = moments;
        let tally = tally.try_into().expect("as many");
        Recorded {
            state,
            goal,
            told,
            pid,
            baseline,
            opened,
            up_since,
            spawned_at,
            since,
            paused_until,
            excused_until,
            due,
            cause,
            tally,
        }
    })
}
