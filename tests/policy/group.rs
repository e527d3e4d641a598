//! A group under random scripts.

use std::time::Duration;

use osps::policy::group::{Action, Goal, Group, Input, Watch};
use osps::policy::lifecycle::{Act, Stage};
use osps::policy::restart::{Intensity, Restart};
use osps::policy::verdict::DYING_MAX;
use osps_heart::ids::SlotId;
use osps_heart::pulse::Sample;
use osps_heart::segment::Death;
use osps_heart::words::{Class, HeartSource};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::draw::{BOOT, CHECK, Stamp, any_moment, config, limits, ms, roomy, stamp};
use super::kernel::{GOOD, Habit, beating, blind};
use super::reference::{EXTENSIONS, SPARED, slack};
use super::rules::stage_after;
use super::script::{Step, Trouble, class, span, specs, step, wish};
use super::world::World;

/// How a story ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Heal,
    Stop,
    ForceStop,
}

proptest! {
    #![proptest_config(config(512))]

    /// Whatever happens: one process per slot, no kill without a reason and a record, no busy
    /// loop, no start after a stop; and in the end everybody is up, or everybody is gone.
    #[test]
    fn a_group_survives_everything(
        specs in specs(limits()),
        intensity in option::of((0..8_u32, 1..120_u64)),
        script in vec(step(), 1..40),
        end in select(vec![End::Heal, End::Stop, End::ForceStop]),
    ) {
        let intensity =
            intensity.map(|(restarts, s)| Intensity { restarts, period: Duration::from_secs(s) });
        let mut world = World::new(intensity, specs, GOOD);
        world.feed(Input::Boot)?;
        for step in &script {
            world.play(step)?;
        }
        match end {
            End::Heal => world.heal(),
            End::Stop => world.feed(Input::Stop)?,
            End::ForceStop => world.feed(Input::ForceStop)?,
        }
        if !world.group.is_ending() {
            world.settle(world.time_to_heal())?;
            if !world.group.is_ending() {
                let up = world.stages().iter().all(|stage| *stage == Stage::Up);
                prop_assert!(up, "{:?}", world.stages());
                // And there they stay.
                let acts = world.acts.len();
                world.settle(CHECK * 3)?;
                prop_assert_eq!(&world.acts[acts..], &[]);
                return Ok(());
            }
        }
        world.check_end()?;
        if matches!(end, End::ForceStop) {
            prop_assert!(world.group.outcome().is_some(), "waits for what a kill does not end");
        }
    }

    /// Whatever is asked for between faults: what rests was told to, what is paused is not judged,
    /// a stop of some takes nobody else, and in the end everybody is where its rule and those that
    /// it needs let it be.
    #[test]
    fn a_group_does_what_it_is_asked_for(
        mut specs in specs(limits()),
        rules in vec((select(Restart::ALL.to_vec()), any::<bool>()), 4),
        script in vec(prop_oneof![
            2 => step(), 1 => wish(), 1 => (0..4_usize).prop_map(Step::Succeed)
        ], 1..60),
        stop in any::<bool>(),
    ) {
        for (spec, ((restart, _), done)) in specs.iter_mut().zip(rules) {
            spec.rule.restart = restart;
            if done {
                // Those that it needs to be up have to be done instead.
                spec.edges.after_done = std::mem::take(&mut spec.edges.depends_on);
            }
        }
        let mut world = World::ruled(specs, GOOD);
        world.feed(Input::Boot)?;
        for step in &script {
            world.play(step)?;
        }
        if stop {
            world.feed(Input::Stop)?;
        }
        if world.group.is_ending() {
            return world.check_end();
        }
        world.heal();
        let slots: Vec<_> = world.group.slots().collect();
        for slot in &slots {
            world.feed(Input::Resume { slot: *slot })?;
            world.feed(Input::Start { slot: *slot })?;
        }
        world.settle(world.time_to_heal() * 2)?;
        let stages = world.stages();
        for slot in slots {
            prop_assert_eq!(world.group.goal(slot), Goal::Run);
            let rule = &world.specs[slot.index()].rule;
            match stages[slot.index()] {
                Stage::Up => {}
                Stage::Done => prop_assert_ne!(rule.restart, Restart::Always),
                Stage::Failed => prop_assert_eq!(rule.restart, Restart::Never),
                Stage::Blocked => {
                    let by = world.group.blocked_by(slot);
                    prop_assert!(by.is_some_and(|by| stages[by.index()] != Stage::Down));
                }
                stage => prop_assert!(false, "{} is {:?}: {:?}", slot, stage, stages),
            }
        }
    }

    /// A debugger or a frozen control group is never a reason to kill, however long it lasts.
    #[test]
    fn what_somebody_holds_is_never_killed(
        specs in specs(limits()),
        slot in 0..4_usize,
        class in select(vec![Class::Traced, Class::CgroupFrozen]),
        lates in vec(prop_oneof![3 => Just(0), 1 => 0..3000_u64], 1..100),
    ) {
        let mut world = World::new(None, specs, GOOD);
        world.feed(Input::Boot)?;
        world.settle(ms(100))?;
        world.play(&Step::Freeze(slot, class))?;
        for late in lates {
            world.turn(Trouble::Watchdog(ms(late)))?;
        }
        world.settle(world.time_to_heal())?;
        if slot < world.specs.len() {
            prop_assert_eq!(world.stages()[slot], Stage::Held);
            // Nor for what it keeps from the others.
            world.feed(Input::NotReleasing { slot: SlotId(u8::try_from(slot)?) })?;
            prop_assert_eq!(world.stages()[slot], Stage::Held);
        }
        prop_assert!(!world.acts.iter().any(|(_, act)| *act == Act::Kill));
        world.play(&Step::Thaw(slot))?;
        world.settle(CHECK)?;
        prop_assert!(world.stages().iter().all(|stage| *stage == Stage::Up));
    }

    /// The formula: from the last beat to the verdict the limit and the slack, with a count only
    /// the look gap on top; and exactly the limit where stamps are kept and nobody is late.
    #[test]
    fn a_freeze_is_convicted_within_the_formula(
        (specs, habit) in (specs(limits()), beating()),
        slot in 0..4_usize,
        class in select(vec![Class::Stopped, Class::Spinning, Class::Blocked, Class::Unknown]),
        (turns, moment) in (0..20_usize, 0..1000_u32),
        lates in prop_oneof![Just(vec![0]), vec(0..=500_u32, 1..8)],
    ) {
        let (slot, mut world) = (slot % specs.len(), World::new(None, specs, habit));
        // Two turns matter: the one that sees the last beat, and the one that decides. Each is late
        // by half of the slack at most.
        let shortest = world.shortest(|spec| spec.limits.hang.min(spec.limits.start));
        let late = |part: &u32| Trouble::Watchdog(slack(shortest) * *part / 1000);
        let mut troubles = lates.iter().map(late).cycle();
        world.feed(Input::Boot)?;
        world.wait_for_process(slot)?;
        for trouble in troubles.by_ref().take(turns) {
            world.turn(trouble)?;
        }
        world.play(&Step::Within(moment))?;
        world.play(&Step::Freeze(slot, class))?;
        let (silence, process) = world.wait_for_verdict(slot, troubles)?;
        let limit = process.limit();
        let blind = blind(&habit, process.limits);
        let allowed = limit + slack(limit) + blind;
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}");
        if blind.is_zero() && lates.iter().all(|late| *late == 0) {
            prop_assert_eq!(silence, limit);
        }
    }

    /// What saves a frozen server is paid for: five late turns and two times of starvation, at most
    /// one limit each, and what turns were late. Its stamps may say what they like.
    #[test]
    fn a_frozen_server_gets_the_documented_grace_at_most(
        (specs, habit, stamp) in (specs(limits()), beating(), stamp()),
        slot in 0..4_usize,
        class in class().prop_filter("nobody holds it", |class| !class.is_intention()),
        (turns, moment) in (0..20_usize, 0..1000_u32),
        lates in vec(prop_oneof![2 => Just(ms(0)), 1 => span()], 1..100),
    ) {
        let habit = Habit { stamp, ..habit };
        let (slot, mut world) = (slot % specs.len(), World::new(None, specs, habit));
        world.feed(Input::Boot)?;
        world.wait_for_process(slot)?;
        let mut troubles = lates.into_iter().map(Trouble::Watchdog);
        for trouble in troubles.by_ref().take(turns) {
            world.turn(trouble)?;
        }
        world.play(&Step::Within(moment))?;
        world.play(&Step::Freeze(slot, class))?;
        let troubles = troubles.chain(std::iter::repeat(Trouble::None));
        let (silence, process) = world.wait_for_verdict(slot, troubles)?;
        let starved = if class == Class::Starved { SPARED } else { 0 };
        prop_assert!(process.extensions <= EXTENSIONS && process.spared == starved);
        let limits = u32::try_from(1 + process.extensions + process.spared)?;
        let blind = blind(&habit, process.limits);
        let allowed = process.limit() * limits + process.lateness + blind;
        prop_assert!(silence <= allowed, "{silence:?} of {allowed:?}: {process:?}");
    }

    /// A host that sleeps, not a server that hangs. A pause may fall anywhere between two beats and
    /// two turns, and take as long as it likes. (Stamps that lie may cost 60 % of the limit, so
    /// they are not forgiven a pause that nobody noticed.)
    #[test]
    fn a_watchdog_paused_with_its_servers_convicts_nobody(
        specs in specs(roomy()),
        (habit, ahead) in (beating(), option::of(1..20_000_u64)),
        pauses in vec((0..5000_u64, 0..=1000_u32, span()), 1..6),
    ) {
        let stamp = ahead.map_or(habit.stamp, Stamp::Ahead);
        let habit = Habit { stamp, every: habit.every.min(250), ..habit };
        let mut world = World::new(None, specs, habit);
        world.feed(Input::Boot)?;
        for (turns, from, span) in pauses {
            world.settle(ms(turns))?;
            world.turn(Trouble::Host(from, span))?;
            // Until everybody has started, and has beaten again.
            if world.processes.iter().any(Option::is_none) {
                world.settle(world.time_to_start())?;
            }
            world.settle(world.longest(|spec| spec.limits.hang))?;
            prop_assert!(world.stages().iter().all(|stage| *stage == Stage::Up));
        }
        let hurt = world.acts.iter().any(|(_, act)| !matches!(act, Act::Spawn | Act::Look));
        prop_assert!(!hurt, "{:?}", world.acts);
    }

    /// No input at no moment breaks the group, or makes it act on somebody who is not there.
    #[test]
    fn a_group_takes_every_input_at_every_moment(
        mut specs in specs(limits()),
        watches in vec((select(HeartSource::ALL.to_vec()), any::<bool>()), 4),
        inputs in vec((any_moment(), any_input()), 1..100),
    ) {
        for (spec, (source, warn)) in specs.iter_mut().zip(watches) {
            spec.watch = Watch { source, warn };
        }
        let mut group = Group::new(BOOT, &specs).expect("no circle");
        for (now, input) in inputs {
            let before: Vec<_> = group.slots().map(|slot| group.stage(slot)).collect();
            let mut stages = before.clone();
            for action in group.step(now, input) {
                match action {
                    Action::Changed(change) => {
                        let to = stage_after(&change)?;
                        let from = std::mem::replace(&mut stages[change.slot.index()], to);
                        prop_assert_eq!((from.state(), to.state()), (change.from, change.to));
                        prop_assert_ne!(from, to);
                    }
                    Action::Do { slot, act } => {
                        prop_assert!(stages[slot.index()].has_process(), "{:?} to nobody", act);
                        let first = !before[slot.index()].has_process();
                        let died = matches!(input, Input::Died { .. });
                        prop_assert!((act == Act::Spawn) <= (first || died), "a second process");
                    }
                    Action::Examine { .. } | Action::Told { .. } | Action::Renewed { .. } | Action::Rolled { .. } => {}
                }
            }
            let now: Vec<_> = group.slots().map(|slot| group.stage(slot)).collect();
            prop_assert_eq!(&stages, &now, "a change that was not told");
            let watched = |slot: SlotId| stages[slot.index()].is_watched() && group.is_watched(slot);
            let watched = group.slots().any(watched);
            prop_assert!(group.next_deadline().is_some() || !watched, "nobody would look again");
        }
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let slot = || prop_oneof![9 => 0..5_u8, 1 => Just(u8::MAX)].prop_map(SlotId);
    let seen = || (0..3_u64, any_moment()).prop_map(|(count, stamp)| Sample { count, stamp });
    let line = || 5..8_u16;
    let death = select(vec![Death::Exited(0), Death::Killed(9), Death::NotSpawned, Death::Unknown]);
    prop_oneof![
        1 => Just(Input::Boot),
        4 => any_moment().prop_map(|planned| Input::Turn { planned }),
        1 => select(vec![Input::Stop, Input::ForceStop]),
        2 => (slot(), any::<u64>()).prop_map(|(slot, count)| Input::Spawned { slot, count }),
        2 => (slot(), death).prop_map(|(slot, death)| Input::Died { slot, death }),
        6 => (slot(), seen()).prop_map(|(slot, seen)| Input::Sample { slot, seen }),
        4 => (slot(), seen(), class())
            .prop_map(|(slot, seen, class)| Input::Examined { slot, line: None, seen, class }),
        2 => (slot(), line(), seen(), class()).prop_map(|(slot, line, seen, class)| {
            Input::Examined { slot, line: Some(line), seen, class }
        }),
        4 => (slot(), line(), option::of(seen()), option::of(span())).prop_map(
            |(slot, line, seen, limit)| Input::Further { slot, line, seen, limit }
        ),
        1 => slot().prop_map(|slot| Input::Ready { slot }),
        1 => (slot(), span()).prop_map(|(slot, span)| Input::Excused { slot, span }),
        1 => (slot(), span()).prop_map(|(slot, hang)| Input::Limited { slot, hang }),
        1 => slot().prop_map(|slot| Input::Triggered { slot }),
        1 => slot().prop_map(|slot| Input::Heedless { slot }),
        1 => slot().prop_map(|slot| Input::NotReleasing { slot }),
        4 => Just(Input::Timers),
    ]
}

proptest! {
    // Five minutes of looks each.
    #![proptest_config(config(24))]

    /// Whoever writes a core, or is taken down by the kernel, is waited for; but not for ever.
    #[test]
    fn who_dies_by_itself_has_its_time(
        specs in specs(limits()),
        slot in 0..4_usize,
        lates in vec(prop_oneof![3 => Just(0), 1 => 0..3000_u64], 1..20),
    ) {
        let (slot, mut world) = (slot % specs.len(), World::new(None, specs, GOOD));
        world.feed(Input::Boot)?;
        world.settle(ms(100))?;
        world.play(&Step::Freeze(slot, Class::Dying))?;
        let since = world.now;
        for late in &lates {
            world.turn(Trouble::Watchdog(ms(*late)))?;
        }
        world.settle(DYING_MAX.saturating_sub(world.now.since(since)))?;
        prop_assert!(!world.acts.iter().any(|(_, act)| *act == Act::Kill), "a core is cut");
        // It was first seen after the late turns at the latest, and is looked at once a limit.
        let late: u64 = lates.iter().sum();
        world.settle(ms(late) + world.time_to_heal())?;
        let killed = world.acts.iter().any(|(_, act)| *act == Act::Kill);
        prop_assert!(killed, "a death that does not end hides a freeze for ever");
    }
}
