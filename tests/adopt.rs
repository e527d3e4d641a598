//! Goal: a watchdog may be killed at any moment; the next one takes over who lives, restarts nobody
//! who lived, and goes on with what was under way.
//!
//! Method: black box. The watchdog is killed and another one started in its place; pids,
//! generations, counters and sockets are compared, then faults show that it supervises as fully as
//! the first. The last tests kill it at each of its system calls, by `strace`.
//!
//! What it cannot show: `policy::adopt`'s table, which has tests of its own; another pid namespace
//! (tests/namespaces.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stdout, reason = "a test says which calls it met")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::mem::offset_of;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use osps::service::{Address, Listener};
use osps::sys::process::Process;
use osps_heart::segment::layout::{PAGE, ServerCells, SlotCells};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::{Event, State};
use serde_json::json;

use common::services::{act, slot_in, state_of, who_serves};
use common::{
    BINARY, Launch, NO_RESTARTS, Osps, Random, SOON, Signal, has, is_root, ms, now, pass,
    process_in, process_of, recorded, skip, told_seed, wait_until,
};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

/// Kills the watchdog and starts another one; returns when that has taken over.
fn replace_watchdog(osps: &mut Osps) {
    osps.kill_watchdog();
    osps.start_again();
    osps.wait_log(&["took over"]);
    osps.err.lock().unwrap().retain(|line| !line.text.contains("took over"));
}

/// Who runs, with its generation.
fn lives(osps: &Osps, slots: usize) -> Vec<(u32, u32)> {
    (0..slots).map(|slot| (osps.pid(slot), osps.generation(slot))).collect()
}

// ---- The pair ----

#[test]
fn servers_clients_and_data_do_not_notice_that_the_watchdog_was_killed() {
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    osps.wait_linked();
    let mut client = osps.client(0);
    assert_eq!(client.ask("SET k v"), "+OK");
    let (before, addresses) = (lives(&osps, 3), [0, 1, 2].map(|slot| osps.address(slot)));
    for _ in 0..5 {
        replace_watchdog(&mut osps);
        assert_eq!(client.ask("GET k"), "v", "the same connection");
    }
    assert_eq!(lives(&osps, 3), before, "{}", osps.log());
    assert_eq!([0, 1, 2].map(|slot| osps.address(slot)), addresses);
    assert!((0..3).all(|slot| osps.restarts(slot) == NO_RESTARTS), "{}", osps.log());
    assert!((0..3).all(|slot| osps.is_state(slot, State::Up)), "{}", osps.table());
    assert_eq!(osps.ask(0, "INCR n"), ":1");
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

#[test]
fn an_adopted_server_that_dies_is_replaced_at_once_with_its_signal() {
    let mut osps = Launch::pair(&[]).start();
    replace_watchdog(&mut osps);
    let (old, generation) = (osps.process(1), osps.generation(1));
    let (port, moment) = (osps.address(1), now());
    osps.signal(&old, Signal::KILL);
    let (_, up) = osps.wait_successor(1, generation);
    assert!(up.since(moment) < ms(1000), "{:?}", up.since(moment));
    assert_eq!(osps.address(1), port);
    osps.wait_log(&["secondary-1", "up -> killed (signal 9"]);
    assert_eq!(osps.ask(1, "PING"), "+PONG");
    osps.stop();
}

/// Since when it is up stood in its page as the moment of the last take-over. The next watchdog took
/// who had worked for days for one that had died young, and let it wait before its restart.
#[test]
fn who_was_up_before_a_take_over_was_up_since_then() {
    let mut osps = Launch::pair(&[]).start();
    let (old, since) = (osps.process(1), since(&osps));
    pass(ms(1500));
    for _ in 0..3 {
        replace_watchdog(&mut osps);
    }
    assert_eq!(self::since(&osps), since);
    osps.signal(&old, Signal::KILL);
    let line = osps.wait_log(&["secondary-1", "up -> killed (signal 9, after ", "s up)"]);
    assert!(!line.text.contains("ms up)"), "{}", line.text);
    osps.stop();
}

/// Since when the second server is what it is.
fn since(osps: &Osps) -> u64 {
    osps.segment().slots()[1].server.since_ns.load(Ordering::Relaxed)
}

#[test]
fn an_adopted_server_that_freezes_is_convicted_one_full_limit_after_the_adoption() {
    let limit = ms(1000);
    let mut osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    let old = osps.process(1);
    osps.kill_watchdog();
    osps.stop_process(&old);
    // Longer than the limit: what was before the adoption does not count.
    pass(ms(1500));
    let moment = now();
    osps.start_again();
    let line = osps.wait_log(&["secondary-1", "frozen (stopped"]);
    assert!(line.at.since(moment) >= limit, "too early: {:?}", line.at.since(moment));
    osps.wait_log(&["secondary-1", "starting -> up"]);
    osps.stop();
}

#[test]
fn who_died_while_nobody_watched_is_replaced() {
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    let (old, generation, other) = (osps.process(1), osps.generation(1), osps.pid(2));
    let port = osps.address(1);
    osps.kill_watchdog();
    osps.signal(&old, Signal::KILL);
    wait_until("its death", SOON, || old.is_dead().then_some(()));
    osps.start_again();
    osps.wait_successor(1, generation);
    // Its first successor had no FIFO: what was written down of it has none.
    assert!(osps.find_log(&["exited"]).is_none(), "{}", osps.log());
    assert_eq!(osps.pid(2), other, "{}", osps.log());
    assert_eq!(osps.address(1), port, "clients keep their port");
    assert_eq!(osps.ask(1, "PING"), "+PONG");
    osps.stop();
}

/// Nobody held the socket of one that died after the watchdog, and its clients were refused until
/// the next one bound it again: the others keep it now.
#[test]
fn clients_are_not_refused_when_the_watchdog_and_their_server_are_both_killed() {
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    // The last one that is there has the sockets of both others, whoever was replaced before.
    for survivor in 0..3 {
        let others: Vec<_> = (0..3).filter(|slot| *slot != survivor).collect();
        let dying: Vec<_> = others.iter().map(|slot| osps.process(*slot)).collect();
        osps.kill_watchdog();
        for process in &dying {
            osps.signal(process, Signal::KILL);
            wait_until("its death", SOON, || process.is_dead().then_some(()));
        }
        let mut clients: Vec<_> = others.iter().map(|slot| osps.client(*slot)).collect();
        osps.start_again();
        for client in &mut clients {
            assert_eq!(client.ask("PING"), "+PONG");
        }
        osps.wait_linked();
        assert!(osps.find_log(&["sockets cannot be had"]).is_none(), "{}", osps.log());
    }
    osps.stop();
}

/// A server that was stopped before it had looked into its gate had its socket on the way. The next
/// watchdog found it nowhere and did not look again: when that server died, its clients were refused
/// until another one was there.
#[test]
fn the_socket_of_one_that_did_not_have_it_yet_is_held_as_well() {
    let mut osps = Launch::pair(&["--check-interval", "100ms"]).start();
    let address = osps.address(1);
    let listens = |process: &Process| {
        let mut sockets = process.listening().into_iter();
        sockets.any(|socket| Listener::place_of(&socket) == Some(Address::Tcp(address)))
    };
    let stopped = osps.wait("one that is stopped early enough", || {
        let (old, generation) = (osps.process(1), osps.generation(1));
        osps.signal(&old, Signal::KILL);
        let new = wait_until("a successor", SOON, || {
            process_in(&osps.segment(), 1).filter(|_| osps.generation(1) > generation)
        });
        osps.stop_process(&new);
        if listens(&new) {
            osps.signal(&new, Signal::CONT);
            osps.wait_all_up();
            return None;
        }
        Some(new)
    });
    replace_watchdog(&mut osps);
    osps.signal(&stopped, Signal::CONT);
    osps.wait("its link to the primary", || {
        osps.info(0).contains(&format!("link_slot_1:up,gen={}", osps.generation(1))).then_some(())
    });
    assert!(!stopped.is_dead(), "{}", osps.log());
    let watchdog = process_of(osps.watchdog_pid()).unwrap();
    osps.wait("its socket", || listens(&watchdog).then_some(()));
    osps.stop();
}

// ---- Services ----

const FIVE: &str = "[service.db]\n@BEAT@\n\
     [service.web]\n@SERVE@\nlisten = '127.0.0.1:0'\ndepends-on = ['db']\ninstances = 2\n\
     [service.edge]\n@LOOP@\nrestart-with = ['web']\n\
     [service.sleeper]\n@SLEEP@\n";
const NAMES: [&str; 5] = ["db", "web-1", "web-2", "edge", "sleeper"];

fn five() -> Osps {
    let osps = Launch::up(FIVE).spawn();
    osps.wait_up(&NAMES);
    osps
}

#[test]
fn services_of_a_file_are_taken_over_with_their_sockets_and_hearts() {
    let mut osps = five();
    let before = NAMES.map(|name| osps.life(name));
    let address = osps.address(osps.slot("web-1"));
    for _ in 0..3 {
        replace_watchdog(&mut osps);
        let served = who_serves(address).unwrap();
        assert!([before[1].0, before[2].0].contains(&served));
    }
    assert_eq!(NAMES.map(|name| osps.life(name)), before, "{}", osps.log());
    osps.wait_up(&NAMES);
    // It obeys as the first one did.
    osps.do_ask(&["restart", "web"]);
    let restarted = ["web-1", "web-2"].map(|name| osps.life(name));
    assert!(restarted.iter().all(|life| !before.contains(life)));
    assert_eq!(osps.life("db"), before[0]);
    assert_eq!(osps.address(osps.slot("web-1")), address);
    who_serves(address).unwrap();
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

#[test]
fn an_event_loop_that_was_taken_over_is_convicted_when_it_freezes() {
    let mut osps =
        Launch::up("[defaults]\nhang-timeout = '500ms'\n[service.edge]\n@LOOP@\n").spawn();
    osps.wait_up(&["edge"]);
    osps.wait_beats("edge");
    replace_watchdog(&mut osps);
    let old = osps.process(0);
    pass(ms(1200));
    assert!(!old.is_dead(), "an innocent: {}", osps.log());
    osps.stop_process(&old);
    osps.wait_log(&["edge", "frozen (stopped"]);
    osps.wait_log(&["edge", "down -> starting (after frozen)"]);
    osps.stop();
}

/// One that does not keep the socket that it was handed: nobody had it any more, until its restart.
#[test]
fn a_socket_that_nobody_holds_is_bound_again() {
    let port = common::free_port();
    let mut osps = Launch::up(&format!(
        "[service.deaf]\nlisten = ['127.0.0.1:{port}', 'unix:@DIR@/deaf.sock']\nheart = 'none'\n\
         command = ['sh', '-c', 'exec 3<&- 4<&-; exec sleep 1000']\n"
    ))
    .spawn();
    osps.wait_up(&["deaf"]);
    let before = osps.life("deaf");
    replace_watchdog(&mut osps);
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    UnixStream::connect(osps.dir().join("deaf.sock")).unwrap();
    assert_eq!(osps.life("deaf"), before);
    osps.do_ask(&["reload"]);
    osps.do_ask(&["restart", "deaf"]);
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    osps.stop();
    assert!(!osps.run_dir().exists() && !osps.dir().join("deaf.sock").exists());
}

/// Of another user's program nothing can be taken without the right to trace it.
#[test]
fn sockets_that_cannot_be_taken_stay_with_their_program_and_status_says_so() {
    if !is_root() || !has("setpriv") {
        return skip("setpriv, and root to give up a right");
    }
    let (port, path) = (common::free_port(), "unix:@DIR@/other.sock");
    let mut osps = Launch::up(&format!(
        "[service.other]\nuser = 'nobody'\nlisten = ['127.0.0.1:{port}', '{path}']\n@SLEEP@\n\
         [service.own]\nlisten = '127.0.0.1:0'\n@SLEEP@\n[service.none]\n@SLEEP@\n"
    ))
    .through(&["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
    .spawn();
    let names = ["other", "own", "none"];
    osps.wait_up(&names);
    let who_has = |osps: &Osps| names.map(|name| osps.service(name)["sockets"].clone());
    let held = [json!("held"), json!("held"), json!(null)];
    assert_eq!(who_has(&osps), held);
    let (before, listen) =
        (names.map(|name| osps.life(name)), osps.service("other")["listen"].clone());
    replace_watchdog(&mut osps);
    osps.wait_log(&["other: its sockets cannot be had from it"]);
    osps.wait("what is published", || {
        (who_has(&osps) == [json!("elsewhere"), json!("held"), json!(null)]).then_some(())
    });
    let table = osps.table();
    let marked: Vec<_> = table.lines().filter(|row| row.contains("osps does not hold")).collect();
    assert!(marked.len() == 1 && marked[0].starts_with("other "), "{table}");
    assert_eq!(names.map(|name| osps.life(name)), before, "{}", osps.log());
    let knock = || {
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        UnixStream::connect(osps.dir().join("other.sock")).unwrap();
    };
    knock();
    osps.do_ask(&["restart", "other"]);
    assert_eq!(who_has(&osps), held, "bound again: {}", osps.log());
    assert_eq!(osps.service("other")["listen"], listen);
    knock();
    assert!(!osps.table().contains("osps does not hold"), "{}", osps.table());
    osps.stop();
}

#[test]
fn what_changed_in_the_file_meanwhile_is_done_after_the_adoption() {
    let mut osps = five();
    let before = NAMES.map(|name| osps.life(name));
    osps.kill_watchdog();
    osps.write(
        "[service.db]\n@BEAT@\numask = '077'\n\
         [service.web]\n@SERVE@\nlisten = '127.0.0.1:0'\ndepends-on = ['db']\ninstances = 2\n\
         [service.edge]\n@LOOP@\n\
         [service.late]\n@BEAT@\ndepends-on = ['db']\n",
    );
    let sleeper = process_of(before[4].0).unwrap();
    osps.start_again();
    osps.wait_log(&["meanwhile: 1 changed (db), 1 new (late), 1 removed (sleeper)"]);
    osps.wait_up(&["late", "db"]);
    wait_until("the removed one's end", SOON, || sleeper.is_dead().then_some(()));
    assert_ne!(osps.life("db"), before[0]);
    for (name, life) in NAMES.iter().zip(before).skip(1).take(3) {
        assert_eq!(osps.life(name), life, "{name}: {}", osps.log());
    }
    osps.stop();
}

/// What log and status say of it before is what happens then.
#[test]
fn who_stays_without_a_watchdog_is_named_before_that_matters() {
    let mut osps = Launch::up(
        "orphan-timeout = '1s'\n[service.db]\n@BEAT@\n[service.edge]\n@LOOP@\n\
         [service.many]\n@SLEEP@\ninstances = 2\n[service.auto]\ncommand = 'sleep 1000'\n",
    )
    .spawn();
    let names = ["db", "edge", "many-1", "many-2", "auto"];
    osps.wait_up(&names);
    for name in ["edge", "many", "auto"] {
        osps.wait_log(&[&format!("{name} stays without a watchdog: it does not look")]);
    }
    osps.do_ask(&["restart", "many"]);
    pass(ms(2500));
    let told = osps.log().matches("stays without a watchdog").count();
    assert_eq!(told, 3, "once a service, and not who asks should_stop: {}", osps.log());
    let stays = |name| osps.service(name)["stays_without_watchdog"].clone();
    assert_eq!(names.map(stays), [false, true, true, true, true]);
    let table = osps.table();
    let is_marked = |name| {
        let row = table.lines().find(|row| row.split(' ').next() == Some(name));
        row.unwrap().contains("stays without a watchdog")
    };
    assert_eq!(names.map(is_marked), [false, true, true, true, true], "{table}");
    let processes = names.map(|name| osps.process(osps.slot(name)));
    osps.kill_watchdog();
    osps.wait("who leaves", || processes[0].is_dead().then_some(()));
    pass(ms(500));
    assert!(processes[1..].iter().all(|process| !process.is_dead()), "they stay");
    osps.start_again();
    osps.wait_log(&["took over"]);
    osps.stop();
}

#[test]
fn what_was_held_stays_held() {
    let mut osps = Launch::up(
        "[defaults]\nhang-timeout = '400ms'\n[service.paused]\n@BEAT@\n[service.resting]\n@BEAT@\n\
         [service.failed]\ncommand = 'false'\nmax-restarts = '1/1m'\nheart = 'none'\n\
         [service.done]\ncommand = 'true'\nrestart = 'never'\nheart = 'none'\n\
         [service.blocked]\n@BEAT@\ndepends-on = ['resting']\n",
    )
    .spawn();
    osps.wait_up(&["paused", "resting", "blocked"]);
    osps.do_ask(&["pause", "paused", "--for", "10m"]);
    osps.do_ask(&["stop", "blocked", "resting"]);
    osps.wait_state("failed", State::Failed);
    osps.wait_state("done", State::Done);
    let victim = osps.process(osps.slot("paused"));
    replace_watchdog(&mut osps);
    osps.stop_process(&victim);
    pass(ms(1000));
    assert!(!victim.is_dead(), "it is paused: {}", osps.log());
    for (name, state) in
        [("resting", State::Down), ("failed", State::Failed), ("done", State::Done)]
    {
        assert_eq!(state_of(&osps, name), Some(state), "{}", osps.log());
    }
    assert!(osps.service("paused")["paused_ms"].as_u64().unwrap() > 500_000);
    osps.do_ask(&["resume", "paused"]);
    osps.wait_log(&["paused", "frozen (stopped"]);
    osps.do_ask(&["start", "resting"]);
    osps.wait_up(&["resting"]);
    osps.stop();
}

/// A watchdog that is killed again and again must not make a crash loop endless.
#[test]
fn a_crash_loop_is_not_forgiven_by_a_new_watchdog() {
    let mut osps = Launch::up(
        "[service.good]\n@BEAT@\n\
         [service.bad]\ncommand = 'false'\nmax-restarts = '4/1m'\nheart = 'none'\n",
    )
    .spawn();
    osps.wait_up(&["good"]);
    let good = osps.life("good");
    for round in 1..10 {
        if state_of(&osps, "bad") == Some(State::Failed) {
            break;
        }
        osps.wait_happened("bad", Event::Backoff, round.min(3));
        replace_watchdog(&mut osps);
    }
    osps.wait_state("bad", State::Failed);
    assert!(osps.happened("bad", Event::Started).len() <= 6, "{}", osps.log());
    assert_eq!(osps.life("good"), good);
    osps.stop();
}

#[test]
fn a_stop_that_was_under_way_goes_on_and_then_all_starts_again() {
    let mut osps = Launch::up(
        "[service.db]\n@BEAT@\n[service.slow]\n@SLOW@\ndepends-on = ['db']\nstop-timeout = '10s'\n",
    )
    .spawn();
    osps.wait_up(&["db", "slow"]);
    let before = ["db", "slow"].map(|name| osps.life(name));
    osps.signal_watchdog(Signal::TERM);
    osps.wait_happened("slow", Event::StopOrder, 1);
    osps.kill_watchdog();
    osps.start_again();
    osps.wait_log(&["took over"]);
    // Taken over it is up for a moment, until it is told to go once more.
    osps.wait_happened("slow", Event::Started, 2);
    osps.wait_up(&["db", "slow"]);
    assert_ne!(osps.life("slow"), before[1], "it was told to go: {}", osps.log());
    assert_eq!(osps.life("db"), before[0], "it was not told yet: {}", osps.log());
    osps.stop();
}

#[test]
fn what_an_adopted_program_started_goes_with_it() {
    let mut osps = Launch::own(
        &["--heart", "none"],
        &["sh", "-c", "sleep 1000 & setsid sleep 2000 & echo kin $!; exec sleep 3000"],
    )
    .spawn();
    osps.wait("up", || osps.is_state(0, State::Up).then_some(()));
    let (kin, old) = (osps.wait_process("kin "), osps.process(0));
    replace_watchdog(&mut osps);
    osps.signal(&old, Signal::KILL);
    osps.wait_log(&["down -> starting (after killed)"]);
    wait_until("the end of its kin", SOON, || kin.is_dead().then_some(()));
    osps.stop();
}

/// Its leader died while nobody watched, and what that had started lived on: nobody was recorded,
/// somebody held `members`, and every further start was refused.
#[test]
fn what_dead_programs_left_does_not_keep_the_next_watchdog_out() {
    let mut osps = Launch::own(
        &["--heart", "none"],
        &["sh", "-c", "sleep 1000 & echo kin $!; exec sleep 3000"],
    )
    .spawn();
    osps.wait("up", || osps.is_state(0, State::Up).then_some(()));
    let (kin, old) = (osps.wait_process("kin "), osps.process(0));
    osps.kill_watchdog();
    osps.signal(&old, Signal::KILL);
    wait_until("its death", SOON, || old.is_dead().then_some(()));
    osps.start_again();
    osps.wait_log(&["took over 0 of 1 servers"]);
    wait_until("the end of its kin", SOON, || kin.is_dead().then_some(()));
    osps.wait("up again", || osps.is_state(0, State::Up).then_some(()));
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

// ---- Another binary in its place ----

/// A copy of the binary, as a new version would be installed.
fn installed(osps: &Osps) -> String {
    let path = osps.dir().join("osps");
    fs::copy(BINARY, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn image(pid: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn an_upgrade_restarts_nobody_and_refuses_no_client() {
    let mut osps = five();
    let before = NAMES.map(|name| osps.life(name));
    let (pid, new) = (osps.watchdog_pid(), installed(&osps));
    let address = osps.address(osps.slot("web-1"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let over = &done;
    let asked = std::thread::scope(|scope| {
        let clients = scope.spawn(move || {
            let mut asked = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                who_serves(address).unwrap();
                asked += 1;
            }
            asked
        });
        for _ in 0..3 {
            let said = osps.do_ask(&["upgrade", "--binary", &new]);
            assert!(said.contains("upgraded to osps"), "{said}");
            osps.wait_log(&["upgraded: goes on with 5 of 5 servers, unwatched for"]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.join().unwrap()
    });
    assert!(asked > 10, "{asked} clients");
    assert_eq!((osps.watchdog_pid(), image(pid)), (pid, new.into()));
    assert_eq!(NAMES.map(|name| osps.life(name)), before, "{}", osps.log());
    // They are its children still, and it does everything as before.
    let db = osps.process(osps.slot("db"));
    osps.signal(&db, Signal::ABORT);
    osps.wait_log(&["db", "up -> killed (signal 6"]);
    osps.wait_up(&NAMES);
    assert_eq!(osps.zombies(), [0; 0]);
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

#[test]
fn an_upgrade_of_the_pair_keeps_connections_and_data() {
    let mut osps = Launch::pair(&[]).start();
    let before = lives(&osps, 2);
    let mut client = osps.client(0);
    assert_eq!(client.ask("SET k v"), "+OK");
    let new = installed(&osps);
    osps.do_ask(&["upgrade", "--binary", &new]);
    osps.wait_log(&["upgraded: goes on with 2 of 2 servers"]);
    assert_eq!(client.ask("GET k"), "v");
    assert_eq!(lives(&osps, 2), before, "{}", osps.log());
    osps.stop();
}

#[test]
fn what_cannot_take_its_place_changes_nothing() {
    let mut osps = five();
    let before = NAMES.map(|name| osps.life(name));
    let own = image(osps.watchdog_pid());
    for (binary, why) in [
        ("/bin/true", "does not say that it reads layout version"),
        ("/no/such/osps", "No such file"),
        ("/dev/null", "Permission denied"),
    ] {
        let (code, said) = osps.ask_for(&["upgrade", "--binary", binary]);
        assert!(code == 1 && said.contains(why), "{binary}: {code} {said}");
    }
    // It could not read the file.
    let new = installed(&osps);
    osps.write("[service.db]\ncommnd = 'x'\n");
    let (code, said) = osps.ask_for(&["upgrade", "--binary", &new]);
    assert!(code == 1 && said.contains("commnd") && said.contains("nothing was changed"), "{said}");
    assert_eq!(image(osps.watchdog_pid()), own);
    assert_eq!(NAMES.map(|name| osps.life(name)), before, "{}", osps.log());
    osps.stop();
}

/// As one that does not know an option any more.
#[test]
fn a_new_image_that_cannot_start_becomes_the_old_one_again() {
    let mut osps = Launch::pair(&[]).start();
    let before = lives(&osps, 2);
    let own = image(osps.watchdog_pid());
    let new = installed(&osps);
    let wrapped = osps.dir().join("wrapped");
    let script =
        format!("#!/bin/sh\n[ \"$1\" = __layout ] || set -- --no-such-option\nexec {new} \"$@\"\n");
    fs::write(&wrapped, script).unwrap();
    fs::set_permissions(&wrapped, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, said) = osps.ask_for(&["upgrade", "--binary", wrapped.to_str().unwrap()]);
    assert_eq!(code, 0, "it goes on: {said}");
    osps.wait_log(&["the new osps cannot start, going on with the old one"]);
    osps.wait_log(&["upgraded: goes on with 2 of 2 servers"]);
    assert_eq!(image(osps.watchdog_pid()), own);
    assert_eq!(lives(&osps, 2), before, "{}", osps.log());
    assert_eq!(osps.ask(1, "PING"), "+PONG");
    osps.stop();
}

#[test]
fn a_frozen_watchdog_is_replaced_and_a_living_one_upgraded() {
    let mut osps = Launch::pair(&[]).start();
    let before = lives(&osps, 2);
    osps.stop_watchdog();
    let old = process_of(osps.watchdog_pid()).unwrap();
    let refused = Launch::pair(&["--take-over"]).output();
    assert!(refused.status.code() == Some(1), "nothing runs there");
    osps.start_again_with(&["--take-over"]);
    osps.wait_log(&["is frozen: killing it, and taking its servers over"]);
    osps.wait_log(&["took over 2 of 2"]);
    assert!(old.is_dead());
    assert_eq!(lives(&osps, 2), before, "{}", osps.log());
    let (code, said) = osps.ask_for(&["--take-over", "--listen", "127.0.0.1:0"]);
    assert!(code == 0 && said.contains("upgraded to osps"), "{code} {said}");
    osps.wait_log(&["upgraded: goes on with 2 of 2 servers"]);
    assert_eq!(lives(&osps, 2), before, "{}", osps.log());
    osps.stop();
}

// ---- Bad input ----

#[test]
fn a_record_that_cannot_be_read_makes_a_fresh_start() {
    let mut osps = Launch::pair(&[]).start();
    let old = osps.servers();
    osps.kill_watchdog();
    for slot in 0..2 {
        fs::write(osps.run_dir().join(format!("started-{slot}")), "{\"slot\":9}").unwrap();
    }
    osps.start_again();
    osps.wait_founded();
    osps.wait_all_up();
    assert!(old.iter().all(Process::is_dead), "{}", osps.log());
    osps.wait_log(&["what was started here cannot be read"]);
    osps.stop();
}

/// Whatever stands in the page of one, the others are not touched, and it runs again when it is
/// asked for. Only who it is may not be garbage: a stranger is not signalled.
#[test]
fn a_page_of_garbage_harms_nobody() {
    let mut random = Random::new(told_seed("a_page_of_garbage_harms_nobody"));
    let mut osps = Launch::up("[service.one]\n@BEAT@\n[service.two]\n@BEAT@\n").spawn();
    osps.wait_up(&["one", "two"]);
    let two = osps.life("two");
    let identity = [
        offset_of!(ServerCells, pid),
        offset_of!(ServerCells, start_time),
        offset_of!(ServerCells, generation),
    ];
    for _ in 0..6 {
        osps.kill_watchdog();
        let page = osps.segment().geometry().slots_offset
            + osps.slot("one") * PAGE
            + offset_of!(SlotCells, server);
        let path = osps.run_dir().join("segment");
        let file = File::options().write(true).open(path).unwrap();
        let words = (0..size_of::<ServerCells>()).step_by(size_of::<u64>());
        for word in words.filter(|word| !identity.contains(word)) {
            let value = match random.below(4) {
                0 => 0,
                1 => u64::MAX,
                2 => random.below(12) as u64,
                _ => random.word(),
            };
            file.write_all_at(&value.to_le_bytes(), (page + word) as u64).unwrap();
        }
        osps.start_again();
        osps.wait_log(&["took over"]);
        osps.err.lock().unwrap().retain(|line| !line.text.contains("took over"));
        osps.do_ask(&["start", "one"]);
        osps.do_ask(&["resume", "one"]);
        osps.wait_up(&["one", "two"]);
        assert_eq!(osps.life("two"), two, "{}", osps.log());
    }
    osps.stop();
    assert!(!osps.run_dir().exists());
}

#[test]
fn a_directory_of_another_boot_is_refused_while_somebody_lives_there() {
    let mut osps = Launch::pair(&[]).start();
    let before = lives(&osps, 2);
    let servers = osps.servers();
    osps.kill_watchdog();
    let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let boot = &segment.header().boot_id[0];
    let own = boot.load(Ordering::Relaxed);
    boot.store(!own, Ordering::Relaxed);
    osps.start_again();
    let code = osps.wait_exit().code();
    assert_eq!(code, Some(1), "{}", osps.log());
    for server in &servers {
        assert!(!server.is_dead(), "a stranger was ended: {}", osps.log());
        let named = format!("pid {}", server.pid());
        assert!(osps.log().contains(&named), "{named}: {}", osps.log());
    }
    boot.store(own, Ordering::Relaxed);
    osps.start_again();
    osps.wait_log(&["took over 2 of 2"]);
    assert_eq!(lives(&osps, 2), before, "{}", osps.log());
    osps.stop();
}

/// All of these run, and not as they did before.
fn wait_anew(osps: &Osps, names: &[&str], old: &[Process]) {
    osps.wait("all up in a segment that is sound", || {
        // Cut or not yet made, it is none.
        let segment = Segment::open(osps.run_dir(), Access::ReadOnly).ok()?;
        let is_up = |name: &&str| {
            let slot = slot_in(&segment, name)?;
            let state = segment.slots()[slot].server.state.load(Ordering::Relaxed);
            (state == State::Up.code()).then_some(process_in(&segment, slot)?.pid())
        };
        let pids: Vec<_> = names.iter().map(is_up).collect::<Option<_>>()?;
        old.iter().all(|process| !pids.contains(&process.pid())).then_some(())
    });
    assert!(old.iter().all(Process::is_dead), "{}", osps.log());
}

/// What a cut segment held is beyond repair, also for one whose servers are nobody's children of
/// its own: they are ended and started anew, once; the second time is the end of all.
#[test]
fn a_cut_segment_is_made_anew_once_by_who_took_over() {
    const FOUR: [&str; 4] = ["db", "web-1", "web-2", "edge"];
    let pair = || Launch::pair(&["--check-interval", "100ms", "--stop-timeout", "500ms"]).start();
    let set = || {
        let osps = Launch::up(&format!("[defaults]\nstop-timeout = '500ms'\n{FIVE}")).spawn();
        osps.wait_up(&NAMES);
        osps
    };
    for (start, names) in [(pair as fn() -> Osps, &["primary", "secondary-1"][..]), (set, &FOUR)] {
        let mut osps = start();
        replace_watchdog(&mut osps);
        let segment = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
        let old = recorded(&osps.segment());
        segment.set_len(0).unwrap();
        osps.wait_log(&["the segment was cut short by somebody", "starting anew"]);
        wait_anew(&osps, names, &old);
        let old = recorded(&osps.segment());
        let segment = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
        segment.set_len(4096).unwrap();
        assert_eq!(osps.wait_exit().code(), Some(5), "{}", osps.log());
        assert!(old.iter().all(Process::is_dead) && !osps.run_dir().exists(), "{}", osps.log());
    }
}

/// What the watchdog writes there it puts back from its own memory; who read garbage meanwhile is
/// replaced, and that is all.
#[test]
fn a_scribbled_segment_is_mended_by_who_took_over() {
    let mut osps = five();
    replace_watchdog(&mut osps);
    let before = NAMES.map(|name| osps.life(name));
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    let end = osps.segment().geometry().events_offset;
    file.write_all_at(&vec![0xff; end], 0).unwrap();
    osps.wait_log(&["somebody scribbled over the segment's header: mended"]);
    osps.wait("all up", || {
        let segment = Segment::open(osps.run_dir(), Access::ReadOnly).ok()?;
        let is_up = |name: &&str| slot_in(&segment, name).map(|slot| osps.state(slot));
        NAMES.iter().all(|name| is_up(name) == Some(Some(State::Up))).then_some(())
    });
    pass(ms(1000));
    for (name, (_, generation)) in NAMES.iter().zip(before) {
        osps.wait_state(name, State::Up);
        let (_, now) = osps.life(name);
        assert!(now <= generation + 10, "{name} again and again: {}", osps.log());
        // Each of those that it goes down with may take it along, and then itself.
        assert!(osps.happened(name, Event::Started).len() <= 4, "{name}: {}", osps.log());
    }
    // It goes on to find faults.
    let db = osps.slot("db");
    osps.stop_process(&osps.process(db));
    osps.wait_log(&["db", "frozen (stopped"]);
    osps.wait_up(&NAMES);
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

/// Its notify socket had a name, which a killed watchdog left. The next one could not bind it: every
/// service that speaks sd_notify was convicted, unless root ran it, whose sockets lie elsewhere.
#[test]
fn a_service_that_notifies_is_heard_by_the_next_watchdog() {
    const TEXT: &str = "[defaults]\nhang-timeout = '600ms'\n\
        [service.mail]\ncommand = ['python3', '@DIR@/mail.py']\nheart = 'notify'\n";
    const MAIL: &str = r#"
import os, socket, time
said = b"READY=1"
while True:
    try:
        name = os.environ["NOTIFY_SOCKET"].replace("@", "\0")
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(said, name)
        said = b"WATCHDOG=1"
    except OSError:
        pass
    time.sleep(0.02)
"#;
    let mut users = vec![None];
    match (is_root(), has("setpriv")) {
        (true, true) => users.push(Some(65534)),
        (true, false) => skip("to become somebody else needs setpriv"),
        (false, _) => {}
    }
    for user in users {
        let mut launch = Launch::up(TEXT);
        fs::write(launch.dir().join("mail.py"), MAIL).unwrap();
        // The build directory may be closed to others.
        let binary = launch.dir().join("osps").to_str().unwrap().to_owned();
        fs::copy(BINARY, &binary).unwrap();
        if let Some(id) = user {
            std::os::unix::fs::chown(launch.dir(), Some(id), Some(id)).unwrap();
            let [uid, gid] = ["reuid", "regid"].map(|what| format!("--{what}={id}"));
            let others = ["setpriv", &uid, &gid, "--clear-groups"];
            let own = ["sh", "-c", "shift; exec \"$0\" \"$@\"", &binary];
            launch = launch.through(&[others, own].concat());
        }
        let mut osps = launch.spawn();
        osps.wait_up(&["mail"]);
        let before = osps.life("mail");
        for _ in 0..2 {
            replace_watchdog(&mut osps);
            osps.wait_beats("mail");
            pass(ms(1200));
        }
        osps.do_ask(&["upgrade", "--binary", &binary]);
        osps.wait_beats("mail");
        pass(ms(1200));
        assert_eq!(osps.life("mail"), before, "{}", osps.log());
        osps.stop();
    }
}

/// One service, a program in Python that says over its notify socket what `turn` does; no more.
fn saying(keys: &str, turn: &str) -> Osps {
    let text = format!(
        "[service.mail]\ncommand = ['python3', '@DIR@/mail.py', '@DIR@/told']\nheart = 'notify'\n{keys}\n"
    );
    let program = format!(
        r#"
import os, socket, sys, time
def say(what):
    try:
        name = os.environ["NOTIFY_SOCKET"].replace("@", "\0")
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(what, name)
    except OSError:
        pass
told = lambda: os.path.exists(sys.argv[1])
{turn}
"#
    );
    let launch = Launch::up(&text);
    fs::write(launch.dir().join("mail.py"), program).unwrap();
    launch.spawn()
}

/// The page said the limit of the file after the first take-over, so the second one killed it.
#[test]
fn a_limit_that_a_program_chose_outlives_two_watchdogs() {
    let mut osps = saying(
        "hang-timeout = '600ms'",
        "say(b'READY=1\\nWATCHDOG_USEC=60000000')\nwhile True: say(b'WATCHDOG=1'); time.sleep(2)",
    );
    osps.wait_up(&["mail"]);
    osps.wait_log(&["chose a limit of"]);
    let before = osps.life("mail");
    for _ in 0..2 {
        replace_watchdog(&mut osps);
        pass(ms(1500));
        assert_eq!(osps.life("mail"), before, "{}", osps.log());
    }
    osps.stop();
}

/// Who said it while nobody listened was killed at its start timeout, though it beat.
#[test]
fn a_word_that_it_is_ready_may_be_lost_with_a_watchdog() {
    let mut osps = saying(
        "start-timeout = '2s'",
        "while not told(): time.sleep(0.01)\nsay(b'READY=1')\ntime.sleep(1)\n\
         while True: say(b'WATCHDOG=1'); time.sleep(0.05)",
    );
    osps.wait_state("mail", State::Starting);
    // Its gate is open: without that its process leaves with the watchdog.
    osps.wait_happened("mail", Event::Started, 1);
    let before = osps.life("mail");
    osps.kill_watchdog();
    fs::write(osps.dir().join("told"), "").unwrap();
    pass(ms(300));
    osps.start_again();
    osps.wait_up(&["mail"]);
    pass(ms(2500));
    assert_eq!(osps.life("mail"), before, "{}", osps.log());
    osps.stop();
}

/// What one that had not beaten yet had started lived on beside its successor.
#[test]
fn what_a_dead_one_left_goes_though_it_was_never_up() {
    let mut osps = Launch::up(
        "[service.one]\nheart = 'memory'\nstart-timeout = '1m'\n\
         command = ['sh', '-c', 'setsid sleep 2000 & echo kin $!; exec sleep 3000']\n\
         [service.two]\n@BEAT@\n",
    )
    .spawn();
    osps.wait_up(&["two"]);
    let (kin, old) = (osps.wait_process("kin "), osps.process(osps.slot("one")));
    osps.kill_watchdog();
    osps.signal(&old, Signal::KILL);
    wait_until("its death", SOON, || old.is_dead().then_some(()));
    osps.start_again();
    osps.wait_log(&["one gen=", "starting -> killed"]);
    wait_until("the end of its kin", SOON, || kin.is_dead().then_some(()));
    osps.stop();
}

#[test]
fn a_second_new_watchdog_is_refused() {
    let mut osps = five();
    let before = NAMES.map(|name| osps.life(name));
    osps.kill_watchdog();
    osps.start_again();
    osps.wait_log(&["took over"]);
    let (code, said) = osps.ask_for(&["up", osps.dir().join("osps.toml").to_str().unwrap()]);
    assert!(code == 1 && said.contains("already runs"), "{code} {said}");
    osps.wait_up(&NAMES);
    assert_eq!(NAMES.map(|name| osps.life(name)), before);
    osps.stop();
}

// ---- At every system call ----

/// A system call of one run: its name, and the how-manyth of that name it is.
type Call = (String, usize);

/// The calls of a trace, in their order.
fn calls(trace: &Path) -> Vec<Call> {
    let mut seen = BTreeMap::<String, usize>::new();
    let text = fs::read_to_string(trace).unwrap();
    let names = text.lines().filter_map(|line| Some(line.split_once('(')?.0));
    let names = names.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    let count = |name: &str| {
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        (name.to_owned(), *count)
    };
    names.map(count).collect()
}

/// All of these calls, or a spread of them that differs from run to run.
fn spread(calls: Vec<Call>, all: bool) -> Vec<Call> {
    let step = if all { 1 } else { (calls.len() / 10).max(1) };
    let first = usize::try_from(now().0).unwrap() % step;
    println!("{} calls, killed at every {step}. from the {first}. on", calls.len());
    calls.into_iter().skip(first).step_by(step).collect()
}

/// Kills whoever makes this call.
fn inject((name, number): &Call) -> String {
    format!("inject={name}:signal=KILL:when={number}")
}

/// Starts osps under `strace`. The shell gives time to look at its process first.
fn start_under(osps: &mut Osps, options: &[&str]) {
    let words = ["sh", "-c", "sleep 0.02; exec \"$@\"", "sh", "strace", "-D", "-qq"];
    osps.start_again_through(&[&words[..], options].concat());
}

/// What a start does, up to its first turns; that osps is killed then.
fn calls_of_a_start(osps: &mut Osps) -> Vec<Call> {
    let trace = osps.dir().join("trace");
    start_under(osps, &["-o", trace.to_str().unwrap()]);
    osps.wait_founded();
    osps.wait_up(&THREE_NAMES[..2]);
    osps.kill_watchdog();
    calls(&trace)
}

/// Starts an osps that is killed at this call, or soon after it came to its loop.
fn start_killed_at(osps: &mut Osps, call: &Call) {
    let before = osps.log().matches("watches over").count();
    start_under(osps, &["-o", "/dev/null", "-e", &inject(call)]);
    let runs = || osps.log().matches("watches over").count() > before;
    wait_until("a death, or its loop", SOON, || (osps.watchdog_is_dead() || runs()).then_some(()));
    let end = now() + ms(300);
    wait_until("a death, or the time", SOON, || {
        (osps.watchdog_is_dead() || now() >= end).then_some(())
    });
    osps.kill_watchdog();
}

/// Lets `what` happen to a running watchdog under `strace` with these options.
fn run_under(osps: &Osps, options: &[&str], what: impl FnOnce()) {
    let pid = osps.watchdog_pid();
    let mut tracer = Command::new("strace");
    let mut tracer =
        tracer.arg("-qq").args(options).args(["-p", &pid.to_string()]).spawn().unwrap();
    let is_traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    wait_until("the tracer", SOON, || (is_traced() || osps.watchdog_is_dead()).then_some(()));
    what();
    // It lets go of whom it traces, and has written everything.
    let tracer_pid = i32::try_from(tracer.id()).ok().and_then(rustix::process::Pid::from_raw);
    let _ = rustix::process::kill_process(tracer_pid.unwrap(), Signal::INT);
    let _ = tracer.wait();
}

const THREE: &str = "[service.db]\n@BEAT@\n\
     [service.web]\n@SERVE@\nlisten = '127.0.0.1:0'\ndepends-on = ['db']\n\
     [service.sleeper]\n@SLEEP@\n";
const THREE_NAMES: [&str; 3] = ["db", "web", "sleeper"];

/// The next watchdog finds a sound state: all up, whoever lived goes on.
fn assert_sound(osps: &mut Osps, before: &[Process], call: &Call) {
    osps.start_again();
    osps.wait_founded();
    let told = || format!("killed at {call:?}\n{}", osps.log());
    println!("{call:?}");
    osps.wait_up(&THREE_NAMES[..2]);
    // Without a heart it is up only after a second: that it is there is enough.
    osps.wait("the sleeper", || process_in(&osps.segment(), osps.slot("sleeper")));
    for process in before {
        assert!(!process.is_dead(), "pid {} was restarted: {}", process.pid(), told());
    }
    let address = osps.address(osps.slot("web"));
    who_serves(address).unwrap_or_else(|error| panic!("{error}: {}", told()));
}

/// A stop leaves nothing, whatever was before it.
fn assert_nothing_left(osps: &mut Osps) {
    osps.stop();
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

fn take_overs_are_killed(all: bool) {
    let mut osps = Launch::up(THREE).spawn();
    osps.wait_up(&THREE_NAMES);
    let before = THREE_NAMES.map(|name| osps.process(osps.slot(name)));
    osps.kill_watchdog();
    let calls = calls_of_a_start(&mut osps);
    for call in spread(calls, all) {
        start_killed_at(&mut osps, &call);
        assert_sound(&mut osps, &before, &call);
        osps.kill_watchdog();
    }
    osps.start_again();
    osps.wait_founded();
    assert_nothing_left(&mut osps);
}

fn starts_are_killed(all: bool) {
    let mut osps = Launch::up(THREE).spawn();
    osps.wait_up(&THREE_NAMES[..2]);
    osps.stop();
    let calls = calls_of_a_start(&mut osps);
    osps.start_again();
    osps.wait_founded();
    for call in spread(calls, all) {
        osps.stop();
        start_killed_at(&mut osps, &call);
        assert_sound(&mut osps, &[], &call);
    }
    assert_nothing_left(&mut osps);
}

fn restarts_are_killed(all: bool) {
    let mut osps = Launch::up(THREE).spawn();
    osps.wait_up(&THREE_NAMES);
    let others = ["db", "sleeper"].map(|name| osps.process(osps.slot(name)));
    let web = osps.slot("web");
    let strike = |osps: &Osps| {
        let old = osps.generation(web);
        osps.signal(&osps.process(web), Signal::KILL);
        let segment = osps.segment();
        let server = &segment.slots()[web].server;
        let comes = || server.current_generation().0 > old && osps.is_state(web, State::Up);
        wait_until("a successor, or a death", SOON, || {
            (osps.watchdog_is_dead() || comes()).then_some(())
        });
    };
    let trace = osps.dir().join("trace");
    run_under(&osps, &["-o", trace.to_str().unwrap()], || strike(&osps));
    for call in spread(calls(&trace), all) {
        run_under(&osps, &["-o", "/dev/null", "-e", &inject(&call)], || strike(&osps));
        osps.kill_watchdog();
        assert_sound(&mut osps, &others, &call);
    }
    assert_nothing_left(&mut osps);
}

fn stops_are_killed(all: bool) {
    let mut osps = Launch::up(THREE).spawn();
    osps.wait_up(&THREE_NAMES[..2]);
    let stop = |osps: &Osps| {
        let _ = osps.ask_for(&["stop"]);
        wait_until("its end", SOON, || osps.watchdog_is_dead().then_some(()));
    };
    let trace = osps.dir().join("trace");
    run_under(&osps, &["-o", trace.to_str().unwrap()], || stop(&osps));
    osps.start_again();
    osps.wait_founded();
    for call in spread(calls(&trace), all) {
        osps.wait_up(&THREE_NAMES[..2]);
        run_under(&osps, &["-o", "/dev/null", "-e", &inject(&call)], || stop(&osps));
        assert_sound(&mut osps, &[], &call);
    }
    assert_nothing_left(&mut osps);
}

fn with_strace(test: fn(bool), all: bool) {
    if has("strace") { test(all) } else { skip("strace") }
}

#[test]
fn a_take_over_killed_at_a_system_call_can_be_repeated() {
    with_strace(take_overs_are_killed, false);
}

#[test]
fn a_start_killed_at_a_system_call_leaves_a_sound_state() {
    with_strace(starts_are_killed, false);
}

#[test]
fn a_restart_killed_at_a_system_call_is_finished_by_the_next_watchdog() {
    with_strace(restarts_are_killed, false);
}

#[test]
fn a_stop_killed_at_a_system_call_leaves_a_sound_state() {
    with_strace(stops_are_killed, false);
}

#[test]
#[ignore = "takes minutes: cargo test --test adopt -- --ignored every_system_call"]
fn every_system_call() {
    for test in [take_overs_are_killed, starts_are_killed, restarts_are_killed, stops_are_killed] {
        with_strace(test, true);
    }
}
