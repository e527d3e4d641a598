//! Stories of a few servers, by hand; properties over many are in tests/policy.

use super::super::restart::Intensity;
use super::*;

/// The one that the others restart with, and one of them.
const FIRST: SlotId = SlotId(0);
const WORKER: SlotId = SlotId(1);

fn spec(depends_on: &[u8], restart_with: &[u8]) -> Spec {
    let slots = |numbers: &[u8]| numbers.iter().copied().map(SlotId).collect();
    Spec {
        edges: Edges {
            depends_on: slots(depends_on),
            restart_with: slots(restart_with),
            ..Edges::default()
        },
        limits: Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) },
        patience: Patience {
            ask: Duration::from_secs(5),
            term: Duration::from_secs(1),
            kill: Duration::from_secs(4),
        },
        ..Spec::default()
    }
}

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn acts(actions: &[Action]) -> Vec<(u8, Act)> {
    let act = |action: &Action| match action {
        Action::Do { slot, act } => Some((slot.0, *act)),
        _ => None,
    };
    actions.iter().filter_map(act).collect()
}

fn group(intensity: Option<Intensity>, specs: &[Spec]) -> Group {
    let rule = Rule { intensity, essential: true, ..Rule::default() };
    let with_rule = |spec: &Spec| Spec { rule: rule.clone(), ..spec.clone() };
    let specs: Vec<_> = specs.iter().map(with_rule).collect();
    Group::new(at(0), &specs).expect("no circle")
}

/// One server and two that restart with it, all up since 10 ms.
fn three() -> Group {
    let mut group = group(None, &[spec(&[], &[]), spec(&[], &[0]), spec(&[], &[0])]);
    let actions = group.step(at(0), Input::Boot);
    assert_eq!(acts(&actions), [(0, Act::Spawn), (1, Act::Spawn), (2, Act::Spawn)]);
    for slot in group.slots() {
        group.step(at(0), Input::Spawned { slot, count: 0 });
    }
    group.step(at(10), Input::Turn { planned: at(10) });
    for slot in group.slots() {
        let seen = Sample { count: 1, stamp: at(10) };
        group.step(at(10), Input::Sample { slot, seen });
        assert_eq!(group.stage(slot), Stage::Up);
    }
    group
}

/// One turn at `now` in which the listed slots beat and the others do not.
fn turn(group: &mut Group, now: u64, beating: &[u8]) -> Vec<Action> {
    let mut actions = group.step(at(now), Input::Turn { planned: at(now) });
    for slot in group.slots() {
        let count = if beating.contains(&slot.0) { now } else { 1 };
        let seen = Sample { count, stamp: at(now) };
        actions.extend(group.step(at(now), Input::Sample { slot, seen }));
    }
    actions.extend(group.step(at(now), Input::Timers));
    actions
}

fn examined(group: &mut Group, now: u64, slot: SlotId, class: Class) -> Vec<Action> {
    let seen = Sample { count: 1, stamp: at(10) };
    group.step(at(now), Input::Examined { slot, line: None, seen, class })
}

#[test]
fn a_frozen_server_that_nobody_restarts_with_is_replaced_alone() {
    let mut group = three();
    assert_eq!(acts(&turn(&mut group, 2410, &[0, 2])), [(1, Act::Look)]);
    let actions = turn(&mut group, 4010, &[0, 2]);
    assert_eq!(actions, [Action::Examine { slot: WORKER, line: None }]);
    let actions = examined(&mut group, 4010, WORKER, Class::Stopped);
    assert_eq!(acts(&actions), [(1, Act::Kill)]);
    assert!(matches!(actions[0], Action::Changed(_)), "recorded before the kill");
    let death = Death::Killed(9);
    let actions = group.step(at(4011), Input::Died { slot: WORKER, death });
    assert_eq!(acts(&actions), [(1, Act::Spawn)]);
}

fn told(actions: &[Action]) -> Vec<(u8, What, Note)> {
    let change = |action: &Action| match action {
        Action::Changed(change) => Some((change.slot.0, change.what, change.note)),
        _ => None,
    };
    actions.iter().filter_map(change).collect()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn what_is_told_of_a_freeze() {
    let mut group = three();
    assert_eq!(group.next_deadline(), Some(at(10 + 2400)), "when somebody would be late");
    let (late, limit) = (What::Late { silence: ms(2400) }, Note::Limit(ms(4000)));
    assert_eq!(told(&turn(&mut group, 2410, &[0, 2])), [(1, late, limit)]);
    assert_eq!(group.next_deadline(), Some(at(4010)), "when it would be frozen");
    assert_eq!(group.silence(WORKER, at(3000)), Some(ms(2990)));
    turn(&mut group, 4010, &[0, 2]);
    let actions = examined(&mut group, 4010, WORKER, Class::Stopped);
    let (cause, class) = (Cause::Frozen, Some(Class::Stopped));
    let verdict = What::Verdict { cause, class, silence: ms(4000) };
    assert_eq!(told(&actions), [(1, verdict, limit)]);
    let death = Death::Killed(9);
    let actions = group.step(at(4013), Input::Died { slot: WORKER, death });
    let died = What::Died { death, cause: Some(cause) };
    let note = Note::Death { took: Some(ms(3)), up: ms(4003) };
    let started = What::Started { pid: 0, after: Some(cause) };
    assert_eq!(told(&actions), [(1, died, note), (1, started, Note::Nothing)]);
    group.step(at(4014), Input::Spawned { slot: WORKER, count: 1 });
    assert_eq!(group.next_deadline(), Some(at(4016)), "the first look for its first beat");
    assert_eq!(group.silence(WORKER, at(4016)), None, "before the first beat");
    let actions = turn(&mut group, 4016, &[0, 1, 2]);
    // Clients had nobody since the last beat before the freeze.
    let first = What::FirstBeat { after: ms(2), down_for: Some(ms(4006)) };
    assert_eq!(told(&actions), [(1, first, Note::Nothing)]);
}

#[test]
fn what_is_told_of_a_crash_loop() {
    let mut group = three();
    let death = Death::Exited(1);
    let died = Input::Died { slot: WORKER, death };
    for now in [20, 30, 40] {
        let actions = group.step(at(now), died);
        assert_eq!(acts(&actions), [(1, Act::Spawn)], "at once at first");
        first_beat(&mut group, now + 9, WORKER);
    }
    let actions = group.step(at(50), died);
    let what = What::Backoff { death, until: at(150) };
    let note = Note::Death { took: None, up: ms(1) };
    assert_eq!((acts(&actions), told(&actions)), (vec![], vec![(1, what, note)]));
    assert_eq!(group.next_deadline(), Some(at(150)), "100 ms of rest");
    assert_eq!(turn(&mut group, 149, &[0, 2]), []);
    let actions = turn(&mut group, 150, &[0, 2]);
    assert_eq!(acts(&actions), [(1, Act::Spawn)]);
    let started = What::Started { pid: 0, after: Some(Cause::Exited) };
    assert_eq!(told(&actions), [(1, started, Note::Nothing)]);
}

#[test]
fn a_frozen_server_takes_others_along_after_its_death_is_confirmed() {
    let mut group = three();
    turn(&mut group, 2410, &[1, 2]);
    turn(&mut group, 4010, &[1, 2]);
    let kill = examined(&mut group, 4010, FIRST, Class::Blocked);
    assert_eq!(acts(&kill), [(0, Act::Kill)], "nobody else yet");
    let died = |slot| Input::Died { slot, death: Death::Killed(9) };
    let actions = group.step(at(4020), died(FIRST));
    assert_eq!(acts(&actions), [(1, Act::Kill), (2, Act::Kill), (0, Act::Spawn)]);
    assert_eq!(acts(&group.step(at(4021), died(SlotId(2)))), [(2, Act::Spawn)]);
    assert_eq!(acts(&group.step(at(4022), died(WORKER))), [(1, Act::Spawn)]);
}

#[test]
fn an_unkillable_server_takes_nobody_along() {
    let mut group = three();
    turn(&mut group, 2410, &[1, 2]);
    turn(&mut group, 4010, &[1, 2]);
    examined(&mut group, 4010, FIRST, Class::Unkillable);
    assert_eq!(acts(&turn(&mut group, 8010, &[1, 2])), [(0, Act::Alarm)]);
    assert_eq!(group.stage(FIRST), Stage::Unkillable);
    assert_eq!(group.stage(WORKER), Stage::Up);
    assert_eq!(acts(&turn(&mut group, 8500, &[1, 2])), []);
}

#[test]
fn a_beat_between_the_two_looks_saves_the_server() {
    let mut group = three();
    turn(&mut group, 2410, &[0, 2]);
    turn(&mut group, 4010, &[0, 2]);
    let seen = Sample { count: 2, stamp: at(4011) };
    let event = Input::Examined { slot: WORKER, line: None, seen, class: Class::Blocked };
    assert_eq!(acts(&group.step(at(4010), event)), []);
    assert_eq!(group.stage(WORKER), Stage::Up);
}

#[test]
fn a_debugger_holds_and_detaching_gives_the_limit_again() {
    let mut group = three();
    turn(&mut group, 2410, &[0, 2]);
    turn(&mut group, 4010, &[0, 2]);
    assert_eq!(acts(&examined(&mut group, 4010, WORKER, Class::Traced)), []);
    assert_eq!(group.stage(WORKER), Stage::Held);
    turn(&mut group, 6500, &[0, 2]);
    turn(&mut group, 8010, &[0, 2]);
    assert_eq!(acts(&examined(&mut group, 8010, WORKER, Class::Stopped)), []);
    assert_eq!(group.stage(WORKER), Stage::Late);
    turn(&mut group, 10_500, &[0, 2]);
    assert_eq!(turn(&mut group, 12_009, &[0, 2]), []);
    assert_eq!(turn(&mut group, 12_010, &[0, 2]), [Action::Examine { slot: WORKER, line: None }]);
    let actions = examined(&mut group, 12_010, WORKER, Class::Stopped);
    assert_eq!(acts(&actions), [(1, Act::Kill)]);
}

#[test]
fn starvation_is_spared_twice() {
    let mut group = three();
    for deadline in [4010, 8010] {
        turn(&mut group, deadline - 1600, &[0, 2]);
        turn(&mut group, deadline, &[0, 2]);
        let actions = examined(&mut group, deadline, WORKER, Class::Starved);
        assert!(matches!(actions[..], [Action::Told { what: What::Spared { .. }, .. }]));
    }
    turn(&mut group, 10_500, &[0, 2]);
    turn(&mut group, 12_010, &[0, 2]);
    let actions = examined(&mut group, 12_010, WORKER, Class::Starved);
    assert_eq!(acts(&actions), [(1, Act::Kill)]);
}

#[test]
fn who_needs_another_stops_before_it() {
    let mut group = three();
    assert_eq!(acts(&group.step(at(100), Input::Stop)), [(2, Act::Ask), (1, Act::Ask)]);
    let died = |slot| Input::Died { slot, death: Death::Exited(0) };
    assert_eq!(acts(&group.step(at(110), died(WORKER))), []);
    assert_eq!(acts(&group.step(at(120), died(SlotId(2)))), [(0, Act::Ask)]);
    assert_eq!(group.outcome(), None);
    assert_eq!(acts(&group.step(at(130), died(FIRST))), []);
    assert_eq!(group.outcome(), Some(Outcome::Clean));
}

#[test]
fn a_server_that_ignores_the_stop_order_climbs_the_ladder() {
    let mut group = three();
    group.step(at(100), Input::Stop);
    let ladder = [5100, 6100, 10_100].map(|now| turn(&mut group, now, &[]));
    let pressed = What::Pressed { press: Press::Terminate, heedless: false };
    let each = [1, 2].map(|slot| (slot, pressed, Note::Nothing));
    assert_eq!(told(&ladder[0]), each);
    let ladder = ladder.map(|actions| acts(&actions));
    assert_eq!(ladder[0], [(1, Act::Terminate), (2, Act::Terminate)]);
    assert_eq!(ladder[1], [(1, Act::Kill), (2, Act::Kill)]);
    // What does not die does not keep the others from stopping.
    assert_eq!(ladder[2], [(1, Act::Alarm), (2, Act::Alarm), (0, Act::Ask)]);
}

#[test]
fn a_second_ctrl_c_kills_everybody() {
    let mut group = three();
    group.step(at(100), Input::Stop);
    let actions = group.step(at(200), Input::ForceStop);
    assert_eq!(acts(&actions), [(0, Act::Kill), (1, Act::Kill), (2, Act::Kill)]);
    for slot in group.slots() {
        group.step(at(201), Input::Died { slot, death: Death::Killed(9) });
    }
    assert_eq!(group.outcome(), Some(Outcome::Forced));
}

#[test]
fn too_many_restarts_stop_everything() {
    let intensity = Intensity { restarts: 1, period: Duration::from_secs(60) };
    let mut group = group(Some(intensity), &[spec(&[], &[]), spec(&[], &[0])]);
    group.step(at(0), Input::Boot);
    let died = Input::Died { slot: WORKER, death: Death::Exited(1) };
    assert_eq!(acts(&group.step(at(10), died)), [], "it never came up: it waits");
    assert_eq!(acts(&turn(&mut group, 110, &[])), [(1, Act::Spawn)]);
    assert_eq!(acts(&group.step(at(120), died)), [(0, Act::Ask)]);
    assert_eq!(group.stage(WORKER), Stage::Failed);
    group.step(at(30), Input::Died { slot: FIRST, death: Death::Exited(0) });
    assert_eq!(group.outcome(), Some(Outcome::GaveUp));
}

#[test]
fn a_late_turn_is_told_and_nobody_is_convicted() {
    let mut group = three();
    assert_eq!(group.step(at(1000), Input::Turn { planned: at(500) }), [], "the slack itself");
    let actions = group.step(at(5000), Input::Turn { planned: at(1000) });
    let what = What::LateTurn { by: Duration::from_secs(4) };
    assert_eq!(actions, [Action::Told { slot: None, what }]);
    for slot in group.slots() {
        let seen = Sample { count: 1, stamp: at(10) };
        assert_eq!(group.step(at(5000), Input::Sample { slot, seen }), []);
    }
}

/// 1 waits for 0 and restarts with it, 2 restarts with 1, 3 only waits for 1.
fn chain() -> Group {
    let specs = [spec(&[], &[]), spec(&[0], &[0]), spec(&[], &[1]), spec(&[1], &[])];
    group(None, &specs)
}

fn first_beat(group: &mut Group, now: u64, slot: SlotId) -> Vec<Action> {
    group.step(at(now), Input::Spawned { slot, count: 0 });
    group.step(at(now), Input::Turn { planned: at(now) });
    group.step(at(now), Input::Sample { slot, seen: Sample { count: 1, stamp: at(now) } })
}

#[test]
fn a_server_starts_when_all_that_it_depends_on_are_up() {
    let mut group = chain();
    let actions = group.step(at(0), Input::Boot);
    assert_eq!(acts(&actions), [(0, Act::Spawn), (2, Act::Spawn)], "2 waits for nobody");
    assert_eq!(acts(&first_beat(&mut group, 5, SlotId(2))), []);
    assert_eq!(acts(&first_beat(&mut group, 10, SlotId(0))), [(1, Act::Spawn)]);
    assert_eq!(acts(&first_beat(&mut group, 20, SlotId(1))), [(3, Act::Spawn)]);
    assert_eq!(acts(&first_beat(&mut group, 30, SlotId(3))), []);
}

/// One that waited for another was started in the turn in which the other came up; what its heart
/// showed then was its predecessor's, and it was up before it ran.
#[test]
fn a_heart_is_not_heard_before_its_process_is_started() {
    let mut group = chain();
    group.step(at(0), Input::Boot);
    assert_eq!(acts(&first_beat(&mut group, 10, SlotId(0))), [(1, Act::Spawn)]);
    let (slot, seen) = (SlotId(1), Sample { count: 7, stamp: at(9) });
    assert_eq!(group.step(at(10), Input::Sample { slot, seen }), []);
    assert_eq!(group.step(at(10), Input::Ready { slot }), []);
    assert_eq!(group.stage(slot), Stage::Starting);
    group.step(at(12), Input::Spawned { slot, count: 7 });
    assert_eq!(group.step(at(12), Input::Sample { slot, seen }), []);
    assert_eq!(group.stage(slot), Stage::Starting);
}

#[test]
fn a_server_that_has_to_go_is_not_up_for_those_that_wait() {
    let mut group = group(None, &[spec(&[], &[]), spec(&[], &[]), spec(&[0, 1], &[])]);
    group.step(at(0), Input::Boot);
    first_beat(&mut group, 10, SlotId(0));
    group.step(at(20), Input::NotReleasing { slot: SlotId(0) });
    assert_eq!(group.stage(SlotId(0)), Stage::Killing);
    assert_eq!(acts(&first_beat(&mut group, 30, SlotId(1))), [], "0 is being killed");
    let death = Death::Killed(9);
    let actions = group.step(at(40), Input::Died { slot: SlotId(0), death });
    assert_eq!(acts(&actions), [(0, Act::Spawn)]);
    assert_eq!(acts(&first_beat(&mut group, 50, SlotId(0))), [(2, Act::Spawn)]);
}

#[test]
fn a_failure_goes_down_the_whole_chain_and_a_dependency_changes_nothing() {
    let mut group = chain();
    group.step(at(0), Input::Boot);
    for slot in [2, 0, 1, 3].map(SlotId) {
        first_beat(&mut group, 10, slot);
    }
    let died = |slot, death| Input::Died { slot: SlotId(slot), death };
    let actions = group.step(at(2000), died(0, Death::Killed(11)));
    assert_eq!(acts(&actions), [(1, Act::Kill), (2, Act::Kill), (0, Act::Spawn)]);
    assert_eq!(group.stage(SlotId(3)), Stage::Up, "it only waited for 1 at the start");
    // Who goes for another's sake comes back as soon as those that it needs are up, and takes
    // nobody along in its turn.
    assert_eq!(acts(&group.step(at(2001), died(1, Death::Killed(9)))), []);
    assert_eq!(group.stage(SlotId(1)), Stage::Blocked);
    assert_eq!(group.blocked_by(SlotId(1)), Some(SlotId(0)));
    assert_eq!(acts(&group.step(at(2002), died(2, Death::Killed(9)))), [(2, Act::Spawn)]);
    assert_eq!(acts(&first_beat(&mut group, 2010, SlotId(0))), [(1, Act::Spawn)]);
}

#[test]
fn a_stop_begins_with_those_that_nobody_needs() {
    let mut group = chain();
    group.step(at(0), Input::Boot);
    first_beat(&mut group, 10, SlotId(0));
    // 1 has just been started, 2 runs, 3 still waits for 1: it never starts.
    assert_eq!(acts(&group.step(at(20), Input::Stop)), [(2, Act::Ask)]);
    let died = |slot| Input::Died { slot: SlotId(slot), death: Death::Exited(0) };
    assert_eq!(acts(&group.step(at(30), died(2))), [(1, Act::Ask)]);
    assert_eq!(acts(&group.step(at(40), died(1))), [(0, Act::Ask)]);
    assert_eq!(acts(&group.step(at(50), died(0))), []);
    assert_eq!(group.outcome(), Some(Outcome::Clean));
}

/// After a reload that turned an edge round while the old one was still in force, `osps stop` never
/// ended: each of two services waited for the other to stop first.
#[test]
fn old_and_new_edges_that_make_a_circle_hold_up_no_stop() {
    let mut group = chain();
    group.step(at(0), Input::Boot);
    for slot in [0, 1, 2].map(SlotId) {
        first_beat(&mut group, 10, slot);
        assert_eq!(group.stage(slot), Stage::Up);
    }
    let edits = vec![
        (SlotId(0), Edit::Keep(spec(&[1], &[]))),
        (SlotId(1), Edit::Replace(spec(&[], &[]))),
        (SlotId(2), Edit::Replace(spec(&[1], &[]))),
    ];
    group.edit(at(20), edits);
    for slot in [0, 1, 2].map(SlotId) {
        assert!(group.stage(slot).has_process());
    }
    group.step(at(21), Input::Stop);
    for round in 0..10 {
        for slot in group.slots().collect::<Vec<_>>() {
            if matches!(group.stage(slot), Stage::Asked | Stage::Terminating | Stage::Killing) {
                group.step(at(30 + round), Input::Died { slot, death: Death::Exited(0) });
            }
        }
    }
    assert_eq!(group.outcome(), Some(Outcome::Clean));
}

/// The last of all went first, though one on the circle still needed it.
#[test]
fn who_goes_first_of_a_circle_is_on_it() {
    let mut group = chain();
    group.step(at(0), Input::Boot);
    for slot in [0, 1, 2, 3].map(SlotId) {
        first_beat(&mut group, 10, slot);
    }
    // 0 and 1 wait for each other, and 0 needs 3.
    let edits =
        vec![(SlotId(0), Edit::Keep(spec(&[1, 3], &[]))), (SlotId(3), Edit::Keep(spec(&[], &[])))];
    group.edit(at(20), edits);
    assert_eq!(acts(&group.step(at(21), Input::Stop)), [(2, Act::Ask)]);
    let died = |slot| Input::Died { slot: SlotId(slot), death: Death::Exited(0) };
    assert_eq!(acts(&group.step(at(22), died(2))), [(1, Act::Ask)]);
    assert_eq!(acts(&group.step(at(23), died(1))), [(0, Act::Ask)]);
    assert_eq!(acts(&group.step(at(24), died(0))), [(3, Act::Ask)]);
}

/// A restart of one that does not die waited for ever, and every later restart with it.
#[test]
fn a_restart_of_one_that_does_not_die_is_over_and_holds_up_nobody() {
    let mut group = group(None, &[spec(&[], &[]), spec(&[], &[])]);
    group.step(at(0), Input::Boot);
    for slot in [0, 1].map(SlotId) {
        first_beat(&mut group, 10, slot);
    }
    let restart = |slot, request| {
        let slot = SlotId(slot);
        Input::Restart { slot, service: slot, request }
    };
    group.step(at(20), restart(0, 7));
    group.step(at(20), restart(1, 7));
    let mut now = 20;
    while group.stage(SlotId(0)) != Stage::Unkillable {
        assert!(group.is_rolling(SlotId(0), Some(7)));
        now += 100;
        assert!(now < 100_000, "it is {:?}", group.stage(SlotId(0)));
        turn(&mut group, now, &[1]);
    }
    assert!(!group.is_rolling(SlotId(0), Some(7)));
    assert_eq!(group.stage(SlotId(1)), Stage::Up, "the rest of that request stays as it is");
    let actions = group.step(at(now + 1), restart(1, 8));
    assert_eq!(acts(&actions), [(1, Act::Ask)]);
    // Once more for the same: it is told at once.
    group.step(at(now + 2), restart(0, 9));
    assert!(!group.is_rolling(SlotId(0), Some(9)));
}

#[test]
fn nobody_waits_for_itself() {
    let circle = Group::new(at(0), &[spec(&[1], &[]), spec(&[], &[0])]);
    assert_eq!(circle.err(), Some(Cycle([0, 1, 0].map(SlotId).to_vec())));
}
