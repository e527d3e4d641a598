//! Goal: osps replaces what is dead or frozen, in time and in the right company, and leaves the
//! innocent alone; it stops in order and leaves nothing behind.
//!
//! Method: black box. The real binary, real signals, real clocks. What happened and when is read
//! from the event ring and the heart stamps, which share one clock. Lower limits are exact. Upper
//! ones are generous, and wider by one limit for each that the watchdog granted on a busy host.
//! The ring stays readable after the end, since the test keeps its own mapping.
//!
//! What it cannot show: every order of events (tests/policy plays those in simulated time), how
//! fast a restart is at best (benches/figures.rs), and anything about a machine that is worse than
//! this one.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::segment::{Death, Record, Segment, What};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, Event, Press, State};

use common::holders::{Cgroup, Tracer, VERSION_2};
use common::{
    Launch, Osps, PRIMARY, SECONDARY, SOON, Signal, cannot, events, is_extension, is_root,
    leave_no_cores, ms, now, pass, process_of, skip, ticks, wait_until,
};

/// By slot.
const NAMES: [&str; 2] = ["primary", "secondary-1"];

/// How much later than due something may come on a busy machine.
const NOISE: Duration = Duration::from_secs(5);

/// The first event of a kind for one process, and its place in the ring.
fn find(events: &[Record], kind: Event, slot: usize, generation: u32) -> Option<(usize, Record)> {
    let wanted = |event: &Record| {
        let here = event.slot.is_some_and(|at| at.index() == slot);
        event.what.event() == kind && here && event.generation.0 == generation
    };
    let index = events.iter().position(wanted)?;
    Some((index, events[index]))
}

fn the(events: &[Record], kind: Event, slot: usize, generation: u32) -> (usize, Record) {
    find(events, kind, slot, generation)
        .unwrap_or_else(|| panic!("no event {kind} of slot {slot} gen {generation}: {events:#?}"))
}

/// Limits that ran again since a moment, because the watchdog or a server got no processor.
fn extensions(events: &[Record], since: Monotonic) -> u32 {
    let counts = |event: &&Record| is_extension(event) && event.time >= since;
    u32::try_from(events.iter().filter(counts).count()).unwrap()
}

/// A verdict on a silence since `last_beat`, caused at `struck`: never early, hardly late.
fn assert_in_time(events: &[Record], verdict: &Record, last_beat: Monotonic, limit: Duration) {
    let after = verdict.time.since(last_beat);
    let allowed = limit * (1 + extensions(events, last_beat)) + NOISE;
    assert!(
        (limit..=allowed).contains(&after),
        "verdict {after:?} after the last beat: {events:#?}"
    );
    let long = matches!(verdict.what, What::Verdict { silence, .. } if silence >= limit);
    assert!(long, "silence in the event: {verdict:?}");
}

/// What a server was killed for.
fn assert_cause(verdict: &Record, cause: Cause, class: Option<Class>) {
    let What::Verdict { cause: found, class: in_which_way, .. } = verdict.what else {
        panic!("no verdict: {verdict:?}")
    };
    assert_eq!((found, in_which_way), (cause, class));
}

/// Told to go, and gone with status 0.
const BY_ITSELF: What = What::Died { death: Death::Exited(0), cause: None };

/// The last beat of a server that is frozen by now.
fn last_beat(segment: &Segment, slot: usize) -> Monotonic {
    segment.hearts()[slot].sample().stamp
}

/// The link is up with the secondary that runs now, and it answers.
fn wait_working(osps: &Osps) {
    osps.wait_linked();
    assert_eq!(osps.ask(SECONDARY, "PING"), "+PONG");
}

/// A dead child is a zombie until it is reaped, for moments; one that stays is a fault.
#[derive(Default)]
struct Zombies(HashMap<u32, Monotonic>);

impl Zombies {
    fn look(&mut self, osps: &Osps) {
        let (present, now) = (osps.zombies(), now());
        self.0.retain(|pid, _| present.contains(pid));
        for pid in present {
            let age = now.since(*self.0.entry(pid).or_insert(now));
            assert!(age < NOISE, "zombie {pid} for {age:?}");
        }
    }
}

fn assert_restarts(osps: &Osps, slot: usize, expected: &[(Cause, u64)]) {
    let mut counts = [0; Cause::ALL.len()];
    for (cause, count) in expected {
        counts[cause.index()] = *count;
    }
    assert_eq!(osps.restarts(slot), counts, "restarts of slot {slot} by cause");
}

fn last_cause(osps: &Osps, slot: usize) -> serde_json::Value {
    osps.status()["servers"][slot]["last_cause"].clone()
}

// ---- 1. One server fails ----

#[derive(Clone, Copy)]
enum Fault {
    Signal(Signal),
    Debug(&'static str),
}

/// One row of the table of faults.
struct Row {
    fault: Fault,
    /// The class of the freeze; `None` = it dies by itself.
    freeze: Option<Class>,
    /// The signal that ends it.
    signal: i32,
}

impl Row {
    /// The cause as `status` tells it.
    fn last_cause(&self) -> String {
        self.freeze.map_or("killed".to_owned(), |class| format!("frozen ({class})"))
    }

    fn cause(&self) -> Cause {
        self.freeze.map_or(Cause::Killed, |_| Cause::Frozen)
    }

    /// What the log line of the failure says.
    fn log(&self) -> String {
        self.freeze.map_or(format!("-> killed (signal {}", self.signal), |class| {
            format!("-> frozen ({class}")
        })
    }

    /// Strikes, and returns the last beat if it is a freeze.
    fn strike(&self, osps: &Osps, slot: usize) -> Option<Monotonic> {
        let segment = osps.segment();
        match self.fault {
            Fault::Signal(Signal::STOP) => osps.stop_process(&osps.process(slot)),
            Fault::Signal(signal) => osps.signal(&osps.process(slot), signal),
            Fault::Debug(what) => {
                drop(osps.send(slot, &format!("DEBUG {what}")));
                if self.freeze.is_some() {
                    osps.wait("the fault to begin", || {
                        let activity = segment.slots()[slot].activity.text()?;
                        activity.starts_with("DEBUG").then_some(())
                    });
                }
            }
        }
        self.freeze.map(|_| last_beat(&segment, slot))
    }

    fn check_both_slots(&self) {
        std::thread::scope(|scope| {
            for slot in [PRIMARY, SECONDARY] {
                scope.spawn(move || self.check(slot));
            }
        });
    }

    fn check(&self, slot: usize) {
        let limit = ms(1000);
        let osps = Launch::pair(&["--hang-timeout", "1s", "--allow-debug"]).start();
        let segment = osps.segment();
        let (old, others_old) = (osps.generation(slot), osps.generation(1 - slot));
        let (victim, other) = (osps.process(slot), osps.process(1 - slot));

        let struck = now();
        let last_beat = self.strike(&osps, slot);
        let (new, _) = osps.wait_successor(slot, old);
        assert!(new > old);
        assert!(victim.is_dead(), "a successor beside its predecessor");
        if slot == PRIMARY {
            osps.wait_successor(SECONDARY, others_old);
        }
        osps.wait_all_up();
        // The state is written down before what happened: a reader may come in between.
        osps.wait("the record of that", || find(&events(&segment), Event::Up, slot, new));

        // The order of things: verdict, death, and only then the successor.
        let ring = events(&segment);
        let (died_at, died) = the(&ring, Event::Died, slot, old);
        let (started_at, _) = the(&ring, Event::Started, slot, new);
        let (up_at, up) = the(&ring, Event::Up, slot, new);
        assert!(died_at < started_at && started_at < up_at, "{ring:#?}");
        let (death, cause) = (Death::Killed(self.signal), Some(self.cause()));
        assert_eq!(died.what, What::Died { death, cause });
        if let (Some(class), Some(last_beat)) = (self.freeze, last_beat) {
            let (verdict_at, verdict) = the(&ring, Event::Verdict, slot, old);
            assert!(verdict_at < died_at, "recorded before done: {ring:#?}");
            assert_cause(&verdict, self.cause(), Some(class));
            assert_in_time(&ring, &verdict, last_beat, limit);
            assert!(up.time.since(verdict.time) < NOISE, "slow restart: {ring:#?}");
        } else {
            assert!(find(&ring, Event::Verdict, slot, old).is_none(), "nobody judges the dead");
            assert!(up.time.since(struck) < NOISE, "slow restart: {ring:#?}");
        }

        // Who else went.
        if slot == PRIMARY {
            let (condemned_at, verdict) = the(&ring, Event::Verdict, SECONDARY, others_old);
            assert!(died_at < condemned_at, "the primary's death is confirmed first: {ring:#?}");
            assert_cause(&verdict, Cause::Dependency, None);
            assert!(condemned_at < the(&ring, Event::Died, SECONDARY, others_old).0);
            assert!(other.is_dead());
            assert_restarts(&osps, SECONDARY, &[(Cause::Dependency, 1)]);
            assert_eq!(last_cause(&osps, SECONDARY), "dependency");
            osps.wait_log(&[&format!("secondary-1 gen={others_old} "), "-> dependency ("]);
        } else {
            assert_eq!((osps.generation(PRIMARY), osps.pid(PRIMARY)), (others_old, other.pid()));
            assert!(!other.is_dead());
            assert_restarts(&osps, PRIMARY, &[]);
            assert_eq!(last_cause(&osps, PRIMARY), serde_json::Value::Null);
        }

        // The same words everywhere.
        assert_restarts(&osps, slot, &[(self.cause(), 1)]);
        assert_eq!(last_cause(&osps, slot), self.last_cause());
        let name = NAMES[slot];
        osps.wait_log(&[&format!("{name} gen={old} pid={}: ", victim.pid()), &self.log()]);
        osps.wait_log(&[&format!("{name} gen={new} "), "starting -> up (first beat", "down for"]);
        wait_working(&osps);
        osps.wait("no zombies", || osps.zombies().is_empty().then_some(()));
    }
}

#[test]
fn a_killed_server_is_replaced() {
    Row { fault: Fault::Signal(Signal::KILL), freeze: None, signal: 9 }.check_both_slots();
}

#[test]
fn an_aborted_server_is_replaced() {
    leave_no_cores();
    Row { fault: Fault::Debug("ABORT"), freeze: None, signal: 6 }.check_both_slots();
}

#[test]
fn a_stopped_server_is_replaced() {
    let freeze = Some(Class::Stopped);
    Row { fault: Fault::Signal(Signal::STOP), freeze, signal: 9 }.check_both_slots();
}

#[test]
fn a_spinning_server_is_replaced() {
    let freeze = Some(Class::Spinning);
    Row { fault: Fault::Debug("SPIN"), freeze, signal: 9 }.check_both_slots();
}

#[test]
fn a_blocked_server_is_replaced() {
    let freeze = Some(Class::Blocked);
    Row { fault: Fault::Debug("BLOCK"), freeze, signal: 9 }.check_both_slots();
}

#[test]
fn a_server_that_sleeps_past_its_limit_is_replaced() {
    let freeze = Some(Class::Blocked);
    Row { fault: Fault::Debug("SLEEP 30"), freeze, signal: 9 }.check_both_slots();
}

/// Stops the secondary and returns when the verdict is checked.
fn check_limit(args: &[&str], limit: Duration) {
    let osps = Launch::pair(args).start();
    let segment = osps.segment();
    let old = osps.generation(SECONDARY);
    osps.stop_process(&osps.process(SECONDARY));
    let beat = last_beat(&segment, SECONDARY);
    osps.wait_successor(SECONDARY, old);
    let ring = events(&segment);
    assert_in_time(&ring, &the(&ring, Event::Verdict, SECONDARY, old).1, beat, limit);
}

/// The ancestor never noticed a SIGSTOP.
#[test]
fn the_default_limit_is_four_seconds() {
    check_limit(&[], ms(4000));
}

#[test]
fn a_limit_of_half_a_second_is_kept() {
    check_limit(&["--hang-timeout", "500ms"], ms(500));
}

/// The verdict comes at the limit, not at the next check.
#[test]
fn a_limit_may_be_shorter_than_the_check_interval() {
    check_limit(&["--hang-timeout", "800ms", "--check-interval", "30s"], ms(800));
}

// ---- 2. Several fail ----

/// Fails both, and says what became of them.
fn check_both(signal: Signal) {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    let olds = [osps.generation(PRIMARY), osps.generation(SECONDARY)];
    let both = [osps.process(PRIMARY), osps.process(SECONDARY)];
    let struck = now();
    for process in &both {
        osps.signal(process, signal);
    }
    for slot in [PRIMARY, SECONDARY] {
        osps.wait_successor(slot, olds[slot]);
    }
    wait_working(&osps);
    let took = now().since(struck);
    let due = if signal == Signal::STOP { ms(1000) } else { ms(0) };
    let allowed = due * (1 + extensions(&events(&osps.segment()), struck)) + 2 * NOISE;
    assert!(took < allowed, "both back after {took:?}\n{}", osps.log());
    for slot in [PRIMARY, SECONDARY] {
        assert!(both[slot].is_dead());
        // The secondary may have been replaced for itself before it went for the primary's sake.
        let restarts: u64 = osps.restarts(slot).iter().sum();
        assert!((1..=1 + slot as u64).contains(&restarts), "slot {slot}: {restarts} restarts");
    }
}

/// The ancestor did not restart them then.
#[test]
fn both_dead_at_once_are_replaced() {
    check_both(Signal::KILL);
}

#[test]
fn both_stopped_at_once_are_replaced() {
    check_both(Signal::STOP);
}

#[test]
fn a_successor_killed_at_its_first_beat_is_replaced_as_quickly() {
    for slot in [PRIMARY, SECONDARY] {
        let osps = Launch::pair(&[]).start();
        let mut generation = osps.generation(slot);
        for _ in 0..2 {
            let struck = now();
            osps.signal(&osps.process(slot), Signal::KILL);
            (generation, _) = osps.wait_successor(slot, generation);
            let took = now().since(struck);
            assert!(took < NOISE, "back after {took:?}\n{}", osps.log());
        }
        wait_working(&osps);
        assert_restarts(&osps, slot, &[(Cause::Killed, 2)]);
    }
}

// ---- 3. The ancestor's faults ----

/// The ancestor took two processors when idle.
#[test]
fn idle_servers_cost_next_to_nothing() {
    let osps = Launch::pair(&[]).start();
    wait_working(&osps);
    let pids = [osps.watchdog_pid(), osps.pid(PRIMARY), osps.pid(SECONDARY)];
    let sum = || pids.into_iter().map(ticks).sum::<u64>();
    let before = sum();
    pass(ms(3000));
    let used = sum() - before;
    assert!(used < 15, "{used} ticks of 10 ms in 3 s, 5 % of one processor allowed");
}

/// The ancestor took a second or two.
#[test]
fn a_dead_server_is_back_within_a_second() {
    for slot in [SECONDARY, PRIMARY] {
        let osps = Launch::pair(&[]).start();
        let old = osps.generation(slot);
        let struck = now();
        osps.signal(&osps.process(slot), Signal::KILL);
        osps.wait_successor(slot, old);
        let took = now().since(struck);
        assert!(took < ms(1000), "back after {took:?}\n{}", osps.log());
    }
}

/// The ancestor's restarted secondary blocked for ever while counted as alive.
#[test]
fn a_restarted_secondary_works() {
    let osps = Launch::pair(&[]).start();
    wait_working(&osps);
    let old = osps.generation(SECONDARY);
    osps.signal(&osps.process(SECONDARY), Signal::KILL);
    let (new, _) = osps.wait_successor(SECONDARY, old);
    wait_working(&osps);
    assert_eq!(osps.generation(SECONDARY), new);
    let status = osps.command(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stdout));
}

/// The ancestor's servers stayed as orphans.
#[test]
fn servers_of_a_killed_watchdog_leave_by_themselves() {
    let mut osps = Launch::pair(&["--orphan-timeout", "1s"]).start();
    let segment = osps.segment();
    let servers = osps.servers();
    osps.kill_watchdog();
    let beat = segment.header().watchdog_heart.sample().stamp;
    osps.wait("the first server to leave", || servers.iter().any(Process::is_dead).then_some(()));
    let after = now().since(beat);
    assert!(after >= ms(1000), "left {after:?} after the watchdog's last beat");
    osps.wait("the servers to leave", || servers.iter().all(Process::is_dead).then_some(()));
    assert!(!osps.run_dir().exists(), "the last one removes the run directory\n{}", osps.log());
    osps.wait_log(&["orphaned"]);
}

// ---- 4. The innocent ----

/// Nobody was judged, nobody was replaced.
fn assert_untouched(osps: &Osps, servers: &[Process]) {
    osps.wait_all_up();
    let ring = events(&osps.segment());
    assert!(
        ring.iter().all(|event| event.what.event() != Event::Verdict),
        "{ring:#?}\n{}",
        osps.log()
    );
    for (slot, server) in servers.iter().enumerate() {
        assert!(!server.is_dead(), "slot {slot}\n{}", osps.log());
        assert_eq!(osps.pid(slot), server.pid());
        assert_restarts(osps, slot, &[]);
    }
}

#[test]
fn a_slow_server_is_not_a_frozen_one() {
    let osps = Launch::pair(&["--hang-timeout", "1s", "--allow-debug"]).start();
    let servers = osps.servers();
    let mut client = BufReader::new(TcpStream::connect(osps.address(SECONDARY)).unwrap());
    for _ in 0..4 {
        client.get_mut().write_all(b"DEBUG SLEEP 0.6\r\n").unwrap();
        let mut reply = String::new();
        client.read_line(&mut reply).unwrap();
        assert_eq!(reply, "+OK\r\n", "{}", osps.log());
    }
    assert_untouched(&osps, &servers);
}

/// As after a suspend or a pause of the whole machine.
#[test]
fn nobody_is_judged_for_time_in_which_all_were_stopped() {
    std::thread::scope(|scope| {
        for servers_first in [true, false] {
            scope.spawn(move || check_pause(servers_first));
        }
    });
}

fn check_pause(servers_first: bool) {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    let servers = osps.servers();
    osps.stop_watchdog();
    for server in &servers {
        osps.stop_process(server);
    }
    pass(ms(2500));
    if !servers_first {
        osps.signal_watchdog(Signal::CONT);
    }
    for server in &servers {
        osps.signal(server, Signal::CONT);
    }
    if servers_first {
        osps.signal_watchdog(Signal::CONT);
    }
    osps.wait_log(&["late by "]);
    // Past the limit, counted from the continuation.
    pass(ms(1300));
    assert_untouched(&osps, &servers);
}

/// Waits for `held`, stays there for longer than the limit, lets go and checks the rest.
fn check_held(osps: &Osps, servers: &[Process], class: Class, let_go: impl FnOnce()) {
    let segment = osps.segment();
    let held = || osps.is_state(SECONDARY, State::Held);
    osps.wait("the secondary held", || held().then_some(()));
    pass(ms(1300));
    assert!(held(), "still held\n{}", osps.log());
    let (_, event) = the(&events(&segment), Event::Held, SECONDARY, osps.generation(SECONDARY));
    assert_eq!(event.what, What::Held { class });
    osps.wait_log(&["secondary-1 ", &format!("-> held ({class}")]);
    assert_eq!(osps.ask(PRIMARY, "PING"), "+PONG", "the others go on");
    let_go();
    assert_untouched(osps, servers);
    assert_eq!(osps.ask(SECONDARY, "PING"), "+PONG");
}

#[test]
fn a_server_in_a_debugger_is_held() {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    let servers = osps.servers();
    match Tracer::gdb(servers[SECONDARY].pid()) {
        Ok(gdb) => check_held(&osps, &servers, Class::Traced, || gdb.let_go()),
        Err(why) => skip(&why),
    }
}

fn check_freezer(parents: &[&str], file: &str, [frozen, thawed]: [&str; 2]) {
    if !is_root() {
        return skip("only root may freeze control groups");
    }
    // Removed after the servers have ended.
    let group = match Cgroup::make(parents, &format!("pair-{file}"), file) {
        Ok(group) => group,
        Err(why) => return cannot(&why),
    };
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    let servers = osps.servers();
    if let Err(why) = group.add(servers[SECONDARY].pid()) {
        return cannot(&why);
    }
    group.write(file, frozen).unwrap();
    check_held(&osps, &servers, Class::CgroupFrozen, || group.write(file, thawed).unwrap());
}

#[test]
fn a_server_in_a_frozen_control_group_is_held() {
    check_freezer(&VERSION_2, "cgroup.freeze", ["1", "0"]);
}

#[test]
fn a_server_in_a_frozen_control_group_of_version_1_is_held() {
    check_freezer(&["/sys/fs/cgroup/freezer"], "freezer.state", ["FROZEN", "THAWED"]);
}

// ---- 5. Back-off and giving up ----

#[test]
fn starts_that_come_to_nothing_back_off_from_the_first_time() {
    let osps = Launch::own(&[], &["sh", "-c", "exit 1"]).spawn();
    let segment = osps.segment();
    let of_kind = |kind| {
        let ring = events(&segment).into_iter();
        ring.filter(|event| event.what.event() == kind).collect::<Vec<_>>()
    };
    let starts = osps.wait("the fourth start", || {
        Some(of_kind(Event::Started)).filter(|starts| starts.len() >= 4)
    });
    assert_eq!(of_kind(Event::Died).len(), 0, "every death is followed by a pause");
    let pauses = of_kind(Event::Backoff);
    for (number, least) in [(0, ms(100)), (1, ms(200)), (2, ms(400))] {
        let (before, after) = (&starts[number], &starts[number + 1]);
        assert!(after.time.since(before.time) >= least, "pause {number}: {starts:#?}");
        let What::Backoff { death, until } = pauses[number].what else { panic!("{pauses:#?}") };
        assert!(after.time >= until);
        assert_eq!(death, Death::Exited(1));
    }
    osps.wait_log(&["sh gen=1 ", "-> exited (status 1, ", "backs off"]);
    assert_eq!(last_cause(&osps, 0), "exited");
}

/// A pause is no reason to stay.
#[test]
fn a_program_that_waits_for_its_restart_can_be_stopped() {
    let mut osps = Launch::own(&[], &["sh", "-c", "exit 1"]).spawn();
    osps.wait("a pause", || osps.is_state(0, State::Backoff).then_some(()));
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(wait_stopped(&mut osps, &[]), Some(0), "{}", osps.log());
}

#[test]
fn a_crash_loop_with_a_limit_ends_with_exit_code_3() {
    let launch = Launch::own(&["--max-restarts", "2/1m"], &["sh", "-c", "exit 1"]);
    let output = launch.output();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert!(log.contains("gave up: sh was restarted too often"), "{log}");
    assert_eq!(log.matches("-> exited (status 1").count(), 3, "{log}");
    assert!(!launch.run_dir().exists());
}

#[test]
fn giving_up_on_one_server_stops_the_others() {
    let mut osps = Launch::pair(&["--max-restarts", "2/1m"]).start();
    let segment = osps.segment();
    let primary = osps.process(PRIMARY);
    let mut generation = osps.generation(SECONDARY);
    for _ in 0..2 {
        osps.signal(&osps.process(SECONDARY), Signal::KILL);
        (generation, _) = osps.wait_successor(SECONDARY, generation);
    }
    let (primarys, last) = (osps.generation(PRIMARY), osps.process(SECONDARY));
    osps.signal(&last, Signal::KILL);
    assert_eq!(wait_stopped(&mut osps, &[primary, last]), Some(3), "{}", osps.log());
    let ring = events(&segment);
    let (failed_at, _) = the(&ring, Event::Failed, SECONDARY, generation);
    let (ordered_at, _) = the(&ring, Event::StopOrder, PRIMARY, primarys);
    assert!(failed_at < ordered_at, "{ring:#?}");
    let (_, died) = the(&ring, Event::Died, PRIMARY, primarys);
    assert_eq!(died.what, BY_ITSELF, "the primary left by itself: {ring:#?}");
    osps.wait_log(&["gave up"]);
}

#[test]
fn a_program_that_never_beats_is_restarted_after_the_start_timeout() {
    let args = ["--heart", "memory", "--start-timeout", "1s"];
    let osps = Launch::own(&args, &["sleep", "1000"]).spawn();
    let segment = osps.segment();
    let first = osps.process(0);
    let spawned = Monotonic(segment.slots()[0].server.spawned_ns.load(Ordering::Relaxed));
    osps.wait("a second start", || find(&events(&segment), Event::Started, 0, 2));
    assert!(first.is_dead());
    let ring = events(&segment);
    let (_, verdict) = the(&ring, Event::Verdict, 0, 1);
    assert_cause(&verdict, Cause::StartTimeout, None);
    assert_in_time(&ring, &verdict, spawned, ms(1000));
    assert_restarts(&osps, 0, &[(Cause::StartTimeout, 1)]);
    assert_eq!(last_cause(&osps, 0), "start-timeout");
    osps.wait_log(&["sleep gen=1 ", "starting -> start-timeout (no first beat for "]);
}

// ---- 6. Orderly stop ----

/// Waits for the end; no zombie stays meanwhile, and nothing at all in the end.
fn wait_stopped(osps: &mut Osps, servers: &[Process]) -> Option<i32> {
    let mut zombies = Zombies::default();
    osps.wait("the end", || {
        zombies.look(osps);
        osps.watchdog_is_dead().then_some(())
    });
    let status = osps.wait_exit();
    assert!(servers.iter().all(Process::is_dead), "{}", osps.log());
    assert!(!osps.run_dir().exists(), "{}", osps.log());
    status.code()
}

fn check_stop(how: &str, order: impl FnOnce(&Osps)) {
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    let segment = osps.segment();
    let servers = osps.servers();
    let generations: Vec<_> = (0..3).map(|slot| osps.generation(slot)).collect();
    order(&osps);
    assert_eq!(wait_stopped(&mut osps, &servers), Some(0), "{how}: {}", osps.log());
    let ring = events(&segment);
    let (primary_told, _) = the(&ring, Event::StopOrder, PRIMARY, generations[PRIMARY]);
    for (slot, generation) in generations.iter().enumerate() {
        let (died_at, died) = the(&ring, Event::Died, slot, *generation);
        assert_eq!(died.what, BY_ITSELF, "{how}: slot {slot} left by itself: {ring:#?}");
        assert!(slot == PRIMARY || died_at < primary_told, "{how}: {ring:#?}");
    }
    assert!(
        ring.iter()
            .all(|event| event.what.event() != Event::Pressed
                && event.what.event() != Event::Verdict),
        "{ring:#?}"
    );
}

#[test]
fn a_stop_is_orderly_whoever_asks() {
    check_stop("Ctrl-C", |osps| osps.signal_watchdog(Signal::INT));
    check_stop("kill", |osps| osps.signal_watchdog(Signal::TERM));
    check_stop("osps stop", |osps| {
        let output = osps.command(&["stop"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!osps.run_dir().exists(), "it returns when all is gone");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let place = |what: &str| told.find(what).unwrap_or_else(|| panic!("{what} in {told}"));
        assert!(place("secondary-2: down") < place("primary: stopping"), "{told}");
        assert!(place("primary: down") < place("\nstopped\n"), "{told}");
    });
    if procfs::is_ignored(1) {
        return skip("hang-up is ignored here (nohup), so it does not stop osps");
    }
    check_stop("hang-up", |osps| osps.signal_watchdog(Signal::HUP));
}

#[test]
fn a_server_that_ignores_the_stop_order_is_pressed() {
    let mut osps = Launch::pair(&["--stop-timeout", "1s", "--hang-timeout", "10s"]).start();
    let segment = osps.segment();
    let servers = osps.servers();
    let generation = osps.generation(SECONDARY);
    osps.stop_process(&servers[SECONDARY]);
    let ordered = now();
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(wait_stopped(&mut osps, &servers), Some(0), "{}", osps.log());
    let ring = events(&segment);
    let (pressed_at, pressed) = the(&ring, Event::Pressed, SECONDARY, generation);
    let term = What::Pressed { press: Press::Terminate, heedless: false };
    assert_eq!(pressed.what, term);
    assert!(pressed.time.since(ordered) >= ms(1000), "{ring:#?}");
    let (died_at, died) = the(&ring, Event::Died, SECONDARY, generation);
    assert!(pressed_at < died_at);
    let by_term = What::Died { death: Death::Killed(15), cause: None };
    assert_eq!(died.what, by_term, "it went by TERM, KILL was not needed: {ring:#?}");
    osps.wait_log(&["secondary-1 ", "TERM, CONT"]);
}

#[test]
fn a_second_ctrl_c_kills_what_is_left() {
    let mut osps = Launch::pair(&["--stop-timeout", "1m", "--hang-timeout", "1m"]).start();
    let servers = osps.servers();
    osps.stop_process(&servers[SECONDARY]);
    osps.signal_watchdog(Signal::INT);
    osps.wait_log(&["SIGINT: stopping"]);
    assert!(!servers[PRIMARY].is_dead(), "it waits for the secondary");
    let again = now();
    osps.signal_watchdog(Signal::INT);
    assert_eq!(wait_stopped(&mut osps, &servers), Some(1), "{}", osps.log());
    let took = now().since(again);
    assert!(took < NOISE, "{took:?}\n{}", osps.log());
}

#[test]
fn a_program_that_ignores_term_is_killed_after_the_stop_timeout() {
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    let args = ["--start-timeout", "30s", "--stop-timeout", "1s"];
    let mut osps = Launch::own(&args, &["sh", "-c", deaf]).spawn();
    let segment = osps.segment();
    wait_said(&osps, "deaf");
    let program = osps.process(0);
    let ordered = now();
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(wait_stopped(&mut osps, &[program]), Some(0), "{}", osps.log());
    let ring = events(&segment);
    // It does not look at its desired word: TERM at once, and KILL after the stop timeout.
    let pressed: Vec<_> =
        ring.iter().filter(|event| event.what.event() == Event::Pressed).collect();
    let rungs: Vec<_> = pressed.iter().map(|event| event.what).collect();
    let term = What::Pressed { press: Press::Terminate, heedless: true };
    let kill = What::Pressed { press: Press::Kill, heedless: false };
    assert_eq!(rungs, [term, kill]);
    assert!(pressed[0].time.since(ordered) < NOISE, "{ring:#?}");
    assert!(pressed[1].time.since(pressed[0].time) >= ms(1000), "{ring:#?}");
    let killed = What::Died { death: Death::Killed(9), cause: None };
    assert_eq!(the(&ring, Event::Died, 0, 1).1.what, killed);
}

// ---- 7. Hygiene of processes ----

/// What a program printed behind this word.
fn wait_said(osps: &Osps, word: &str) -> String {
    osps.wait(word, || {
        let lines = osps.out.lock().unwrap();
        lines.iter().find_map(|line| Some(line.text.strip_prefix(word)?.trim().to_owned()))
    })
}

fn status_field(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap().trim().to_owned()
}

/// Process group and session of a process.
fn group_and_session(pid: u32) -> (u32, u32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let mut fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(2);
    let mut next = || fields.next().unwrap().parse().unwrap();
    (next(), next())
}

fn descriptors(pid: u32) -> Vec<(u32, PathBuf)> {
    let number = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().parse().unwrap();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    // One that was closed meanwhile has no target any more.
    entries.filter_map(|entry| Some((number(&entry), fs::read_link(entry.path()).ok()?))).collect()
}

fn environment(pid: u32) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Its OOM score and its nice value.
fn standing(pid: u32) -> (String, String) {
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The 19th field, counted from behind the name, which is the second.
    let nice = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(16).unwrap();
    (score.trim().to_owned(), nice.to_owned())
}

/// A watchdog that is starved or killed with its servers is of no use.
#[test]
fn a_watchdog_stands_firm_where_it_may() {
    let osps = Launch::pair(&[]).start();
    let (score, nice) = standing(osps.watchdog_pid());
    let locked = status_field(osps.watchdog_pid(), "VmLck");
    match osps.find_log(&["not permitted to "]) {
        None => {
            assert!(score == "-900" && nice == "-10", "{score} {nice}");
            assert_ne!(locked, "0 kB");
        }
        Some(line) => {
            assert_eq!(line.text.contains("OOM"), score != "-900", "{}", line.text);
            assert_eq!(line.text.contains("priority"), nice != "-10", "{}", line.text);
            assert_eq!(line.text.contains("memory"), locked == "0 kB", "{}", line.text);
        }
    }
    // What is started later stands as the rest, too.
    let old = osps.process(SECONDARY);
    let generation = osps.generation(SECONDARY);
    osps.signal(&old, Signal::KILL);
    osps.wait_successor(SECONDARY, generation);
    assert_eq!(standing(osps.pid(SECONDARY)), standing(std::process::id()));
}

/// A file that every process started from here inherits, as a careless parent leaves one open.
fn leave_open() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    rustix::io::fcntl_setfd(file.as_file(), rustix::io::FdFlags::empty()).unwrap();
    file
}

/// What holds for every server.
fn assert_clean(osps: &Osps, pid: u32, stray: &Path) {
    assert_eq!(group_and_session(pid), (pid, pid), "a session and a group of its own");
    assert_eq!(status_field(pid, "SigBlk"), "0000000000000000");
    assert_eq!(standing(pid), standing(std::process::id()), "OOM score and priority");
    let inherited = descriptors(osps.watchdog_pid()).into_iter().any(|(_, target)| target == stray);
    assert!(inherited, "the watchdog inherited the stray file, or this shows nothing");
    for (fd, target) in descriptors(pid) {
        assert_ne!(target, stray, "descriptor {fd}");
        if fd == 0 {
            assert_eq!(target, Path::new("/dev/null"));
        }
    }
}

#[test]
fn servers_inherit_nothing_but_what_they_need() {
    let stray = leave_open();
    let osps = Launch::pair(&[]).env("NOTIFY_SOCKET", "/nonexistent").start();
    for slot in [PRIMARY, SECONDARY] {
        let pid = osps.pid(slot);
        assert_clean(&osps, pid, stray.path());
        for (fd, target) in descriptors(pid) {
            let text = target.to_string_lossy();
            let known = ["/dev/null", "pipe:[", "socket:[", "anon_inode:"];
            let sound = known.iter().any(|start| text.starts_with(start))
                || target.starts_with(osps.run_dir());
            assert!(sound, "descriptor {fd} of slot {slot}: {text}");
        }
        assert!(!environment(pid).contains_key("NOTIFY_SOCKET"));
    }
}

/// Waits until the program `sleep` runs in this process and does what it is there for. A name alone
/// says nothing: it changes inside an exec, and a dynamic loader opens files behind it.
fn wait_asleep(osps: &Osps, pid: u32) {
    let mut before = None;
    osps.wait("a program that sleeps", || {
        let is_sleep = procfs::name(pid)? == "sleep";
        let channel = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        if is_sleep && channel.contains("nanosleep") {
            return Some(());
        }
        // Kernels may hide the channel: then two looks at rest, some time apart, must agree.
        let rests = is_sleep && matches!(channel.as_str(), "" | "0");
        let rests = rests && procfs::state(pid) == Some('S');
        let look = rests.then(|| descriptors(pid));
        let settled = look.is_some() && look == before;
        before = look;
        if rests && !settled {
            pass(ms(100));
        }
        settled.then_some(())
    });
}

#[test]
fn a_program_gets_its_socket_and_nothing_else() {
    let stray = leave_open();
    let args = ["--listen", "127.0.0.1:0", "--start-timeout", "1m"];
    let launch = Launch::own(&args, &["sh", "-c", "exec sleep 1000"]);
    let osps = launch.env("NOTIFY_SOCKET", "/nonexistent").env("GREETING", "hello").spawn();
    let pid = osps.pid(0);
    wait_asleep(&osps, pid);
    assert_clean(&osps, pid, stray.path());
    let ignored = u64::from_str_radix(&status_field(pid, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "signals 1 to 31; those above are the C library's own");
    let open = descriptors(pid);
    let few: BTreeSet<_> = open.iter().map(|(fd, _)| *fd).filter(|fd| *fd < 100).collect();
    assert_eq!(few, BTreeSet::from([0, 1, 2, 3]), "{open:?}");
    let socket = open.iter().find(|(fd, _)| *fd == 3).unwrap();
    assert!(socket.1.to_string_lossy().starts_with("socket:["), "{open:?}");
    let high: Vec<_> = open.iter().filter(|(fd, _)| *fd >= 100).map(|(_, target)| target).collect();
    assert_eq!(high, [&osps.run_dir().join("members")]);

    let environment = environment(pid);
    let get = |key: &str| environment.get(key).map(String::as_str);
    assert_eq!(get("LISTEN_PID"), Some(pid.to_string().as_str()));
    assert_eq!(get("LISTEN_FDS"), Some("1"));
    assert_eq!(get("OSPS_RUN_DIR"), osps.run_dir().to_str());
    assert_eq!((get("OSPS_SLOT"), get("OSPS_GENERATION")), (Some("0"), Some("1")));
    assert_eq!(get("GREETING"), Some("hello"));
    // Its own, and not the one that osps may have been given.
    let notify = get("NOTIFY_SOCKET").expect("a notify socket");
    assert!(notify.ends_with("notify-0"), "{notify}");
    TcpStream::connect(osps.address(0)).unwrap();
}

#[test]
fn children_go_with_their_server() {
    let script = "sleep 1000 & echo child-$OSPS_GENERATION $!; exec sleep 1000";
    let mut osps = Launch::own(&["--start-timeout", "1m"], &["sh", "-c", script]).spawn();
    let child = |generation: u32| {
        let pid = wait_said(&osps, &format!("child-{generation} ")).parse().unwrap();
        process_of(pid).unwrap()
    };
    let first = child(1);
    osps.signal(&osps.process(0), Signal::KILL);
    let second = child(2);
    osps.wait("the first child to go", || first.is_dead().then_some(()));
    assert!(!second.is_dead());
    let program = osps.process(0);
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(wait_stopped(&mut osps, &[program]), Some(0), "{}", osps.log());
    wait_until("the second child to go", SOON, || second.is_dead().then_some(()));
}

// ---- 8. Clients ----

#[test]
fn no_client_is_refused_while_the_primary_is_killed_again_and_again() {
    let osps = Launch::pair(&[]).start();
    let address = osps.address(PRIMARY);
    let mut waiting = VecDeque::new();
    let (mut kills, mut killed, mut clients) = (0, 0, 0);
    // Five deaths take it through free restarts and pauses alike.
    osps.wait_for("five restarts", 2 * SOON, || {
        let mut stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("client {clients}: {error}\n{}", osps.log()));
        stream.write_all(b"PING\r\n").unwrap();
        clients += 1;
        waiting.push_back(stream);
        if waiting.len() > 100 {
            waiting.pop_front();
        }
        let generation = osps.generation(PRIMARY);
        if !osps.is_state(PRIMARY, State::Up) || generation == killed {
            return None;
        }
        if kills == 5 {
            return Some(());
        }
        osps.signal(&osps.process(PRIMARY), Signal::KILL);
        killed = generation;
        kills += 1;
        None
    });
    let mut reply = [0; 7];
    let mut last = waiting.pop_back().unwrap();
    last.set_read_timeout(Some(SOON)).unwrap();
    last.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
    assert_restarts(&osps, PRIMARY, &[(Cause::Killed, 5)]);
}
