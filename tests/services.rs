//! Goal: the services of a file start, fail, come back and stop in the order of their graph; what is
//! asked for over the control socket is done, answered and nothing else; a program receives what
//! the file says.
//!
//! Method: black box, `osps up`. This test binary is the supervised program as well (`as_program`),
//! beside shell scripts. What happened when is read from the event ring.
//!
//! What it cannot show: every graph (tests/policy plays those in simulated time); file systems and
//! name services that hang; how a mistake in a file is told (tests/config.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use osps_heart::words::{Cause, Event, State};

use common::services::{act, of, slot_in, state_of, who_serves};
use common::{Launch, Osps, SOON, Signal, has, is_root, ms, now, pass, process_of, skip, text};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

// ---- Order ----

/// `later` was started only when `earlier` was up.
fn assert_after(osps: &Osps, later: &str, earlier: &str) {
    let (started, up) = (osps.moment(later, Event::Started), osps.moment(earlier, Event::Up));
    assert!(started >= up, "{later} did not wait for {earlier}\n{}", osps.log());
}

#[test]
fn a_service_starts_when_all_that_it_needs_are_up_whatever_their_order_in_the_file() {
    let osps = Launch::up(
        "[service.top]\n@BEAT@\ndepends-on = ['left', 'right']\n\
         [service.left]\n@SLOW@\ndepends-on = ['base']\n\
         [service.right]\n@SLOW@\ndepends-on = ['base']\n\
         [service.alone]\n@BEAT@\n\
         [service.base]\n@SLOW@\n",
    )
    .spawn();
    osps.wait_up(&["top", "left", "right", "base", "alone"]);
    for (later, earlier) in [("top", "left"), ("top", "right"), ("left", "base"), ("right", "base")]
    {
        assert_after(&osps, later, earlier);
    }
    // Who needs nobody waits for nobody.
    assert!(osps.moment("alone", Event::Started) < osps.moment("base", Event::Up));
}

#[test]
fn they_stop_in_the_reverse_order() {
    let mut osps = Launch::up(
        "[service.db]\n@SLOW@\n\
         [service.web]\n@SLOW@\ndepends-on = ['db']\n\
         [service.edge]\n@SLOW@\ninstances = 2\nrestart-with = ['web']\n",
    )
    .spawn();
    osps.wait_up(&["db", "web", "edge-1", "edge-2"]);
    let segment = osps.segment();
    let slots = ["db", "web", "edge-1", "edge-2"].map(|name| osps.slot(name));
    osps.stop();
    let [db, web, edge1, edge2] = slots.map(|slot| {
        let one = |event| {
            let found = of(&segment, slot, event);
            assert_eq!(found.len(), 1, "{event} of slot {slot}");
            found[0].time
        };
        (one(Event::StopOrder), one(Event::Died))
    });
    for (first, then) in [(edge1, web), (edge2, web), (web, db)] {
        assert!(first.1 <= then.0, "told to stop too early\n{}", osps.log());
    }
}

#[test]
fn a_failed_oneshot_blocks_who_waits_for_its_success_and_is_named() {
    let osps = Launch::up(
        "[service.migrate]\ncommand = 'false'\nrestart = 'never'\n\
         [service.web]\n@BEAT@\ndepends-on = ['migrate:done']\n\
         [service.edge]\n@BEAT@\ndepends-on = ['web']\n\
         [service.other]\n@BEAT@\n",
    )
    .spawn();
    osps.wait_state("migrate", State::Failed);
    osps.wait_up(&["other"]);
    for (name, by) in [("web", "migrate"), ("edge", "web")] {
        osps.wait_state(name, State::Blocked);
        osps.wait_log(&["INFO", &format!("{name} gen=0: down -> blocked (waits for {by})")]);
        osps.wait("by whom", || (osps.service(name)["blocked_by"] == by).then_some(()));
        let table = osps.table();
        let row = table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(row.contains("blocked") && row.contains(&format!("waits for {by}")), "{table}");
        assert_eq!(osps.happened(name, Event::Started), []);
        let (code, said) = osps.ask_for(&["start", name]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("{name} waits for migrate, which is failed")), "{said}");
    }
    assert_eq!(osps.ask_for(&["status"]).0, 1);
}

#[test]
fn a_oneshot_is_tried_until_it_succeeds_and_then_others_start() {
    let osps = Launch::up(
        "[service.migrate]\nrestart = 'on-failure'\n\
         command = ['sh', '-c', 'echo >> @DIR@/tries; test $(wc -l < @DIR@/tries) -ge 3']\n\
         [service.web]\n@BEAT@\ndepends-on = ['migrate:done']\n",
    )
    .spawn();
    osps.wait_state("migrate", State::Done);
    osps.wait_up(&["web"]);
    assert_eq!(osps.happened("migrate", Event::Started).len(), 3);
    assert!(osps.moment("web", Event::Started) >= osps.moment("migrate", Event::Done));
    assert_eq!(osps.ask_for(&["status"]).0, 0, "done is as it should be: {}", osps.table());
    // Once more, because somebody asks for it; who waited for it is left alone.
    let web = osps.life("web");
    osps.do_ask(&["start", "migrate"]);
    assert_eq!(osps.wait_happened("migrate", Event::Done, 2).generation.0, 5);
    assert_eq!(osps.life("web"), web);
}

// ---- Failures ----

const CHAIN: &str = "\
    [defaults]\nhang-timeout = '800ms'\n\
    [service.edge]\n@BEAT@\nrestart-with = ['web']\n\
    [service.web]\n@BEAT@\nrestart-with = ['db']\n\
    [service.db]\n@BEAT@\n\
    [service.after]\n@BEAT@\ndepends-on = ['db']\n\
    [service.other]\n@BEAT@\n";

fn assert_chain_comes_back(signal: Signal, cause: Cause) {
    let osps = Launch::up(CHAIN).spawn();
    osps.wait_up(&["edge", "web", "db", "after", "other"]);
    let innocent = ["after", "other"].map(|name| osps.life(name));
    let olds = ["edge", "web", "db"].map(|name| osps.process(osps.slot(name)));
    osps.signal(&osps.process(osps.slot("db")), signal);
    let up = ["edge", "web", "db"].map(|name| osps.wait_happened(name, Event::Up, 2).time);
    let started = |name| osps.happened(name, Event::Started)[1].time;
    assert!(started("web") >= up[2], "web before db\n{}", osps.log());
    assert!(started("edge") >= up[1], "edge before web\n{}", osps.log());
    assert!(olds.iter().all(osps::sys::process::Process::is_dead));
    // Nobody is ended for another's sake before that one's death is the kernel's word.
    let died = osps.happened("db", Event::Died)[0].time;
    for name in ["edge", "web"] {
        assert!(osps.happened(name, Event::Verdict)[0].time >= died);
        let slot = osps.slot(name);
        assert_eq!(osps.restarts(slot)[Cause::Dependency.index()], 1);
        assert_eq!(osps.restarts(slot).iter().sum::<u64>(), 1);
    }
    assert_eq!(osps.restarts(osps.slot("db"))[cause.index()], 1);
    assert_eq!(["after", "other"].map(|name| osps.life(name)), innocent);
}

#[test]
fn a_killed_service_takes_along_who_restarts_with_it() {
    assert_chain_comes_back(Signal::KILL, Cause::Killed);
}

#[test]
fn a_frozen_service_takes_along_who_restarts_with_it() {
    assert_chain_comes_back(Signal::STOP, Cause::Frozen);
}

#[test]
fn a_crash_loop_is_given_up_and_touches_nobody_else() {
    let mut osps = Launch::up(
        "[service.web]\n@BEAT@\n[service.edge]\n@BEAT@\ndepends-on = ['web']\n\
         [service.bad]\ncommand = ['sh', '-c', 'exit 3']\nmax-restarts = '4/10m'\n\
         [service.poor]\n@BEAT@\ndepends-on = ['bad']\n",
    )
    .spawn();
    osps.wait_up(&["web", "edge"]);
    let before = ["web", "edge"].map(|name| osps.life(name));
    osps.wait_state("bad", State::Failed);
    osps.wait_log(&["bad", "status 3", "restarted too often, giving up"]);
    assert_eq!(osps.happened("bad", Event::Started).len(), 5);
    osps.wait_state("poor", State::Blocked);
    for name in ["web", "edge"] {
        osps.wait_beats(name);
    }
    assert_eq!(["web", "edge"].map(|name| osps.life(name)), before);
    let (code, said) = osps.ask_for(&["start", "bad"]);
    assert_eq!(code, 1, "{said}");
    osps.wait_happened("bad", Event::Started, 6);
    osps.stop();
}

#[test]
fn what_a_death_means_is_what_the_file_says() {
    let osps = Launch::up(
        "[service.seven]\ncommand = ['sh', '-c', 'exit 7']\nrestart = 'on-failure'\n\
         success-exit = [0, 7]\n\
         [service.zero]\ncommand = 'true'\nrestart = 'on-failure'\nsuccess-exit = [7]\n\
         [service.never]\ncommand = 'true'\nrestart = 'never'\n\
         [service.once]\ncommand = ['sh', '-c', 'exit 1']\nrestart = 'never'\n\
         [service.killed]\n@BEAT@\nrestart = 'on-failure'\n\
         [service.gone]\n@BEAT@\nrestart = 'never'\n\
         [service.always]\n@BEAT@\n",
    )
    .spawn();
    osps.wait_up(&["killed", "gone", "always"]);
    for name in ["killed", "gone", "always"] {
        osps.signal(&osps.process(osps.slot(name)), Signal::KILL);
    }
    for (name, state) in [
        ("seven", State::Done),
        ("never", State::Done),
        ("once", State::Failed),
        ("gone", State::Failed),
    ] {
        osps.wait_state(name, state);
        assert_eq!(osps.happened(name, Event::Started).len(), 1, "{name}");
    }
    for name in ["killed", "always", "zero"] {
        osps.wait_happened(name, Event::Started, 2);
    }
}

#[test]
fn an_essential_service_that_fails_for_good_ends_all_in_order() {
    let mut osps = Launch::up(
        "[service.web]\n@SLOW@\n\
         [service.heart]\n@BEAT@\nrestart = 'never'\nessential = true\ndepends-on = ['web']\n",
    )
    .spawn();
    osps.wait_up(&["heart"]);
    let (segment, web) = (osps.segment(), osps.slot("web"));
    osps.signal(&osps.process(osps.slot("heart")), Signal::KILL);
    assert_eq!(osps.wait_exit().code(), Some(3), "{}", osps.log());
    assert_eq!(of(&segment, web, Event::StopOrder).len(), 1);
    osps.wait_log(&["web", "stopping -> down (status 0"]);
    osps.wait_log(&["ERROR", "heart is essential and failed for good: stopping everything"]);
    osps.wait_log(&["ERROR", "gave up: heart failed, and is not restarted"]);
    assert!(!osps.run_dir().join("segment").exists());
}

#[test]
fn an_essential_service_that_is_done_ends_all_well() {
    let mut osps = Launch::up(
        "[service.web]\n@BEAT@\n\
         [service.job]\ncommand = 'true'\nrestart = 'on-failure'\nessential = true\n\
         depends-on = ['web']\n",
    )
    .spawn();
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    osps.wait_log(&["INFO", "job is essential and done: stopping everything"]);
}

// ---- Instances, and what is asked for ----

#[test]
fn instances_have_names_and_hearts_of_their_own_and_share_the_socket() {
    let osps =
        Launch::up("[service.web]\n@SERVE@\ninstances = 3\nlisten = '127.0.0.1:0'\n").spawn();
    let names = ["web-1", "web-2", "web-3"];
    osps.wait_up(&names);
    assert_eq!(slot_in(&osps.segment(), "web"), None);
    let address = osps.address(osps.slot("web-1"));
    let pids: BTreeSet<_> = names.iter().map(|name| osps.pid(osps.slot(name))).collect();
    assert_eq!(pids.len(), 3);
    let mut served = BTreeSet::new();
    osps.wait("everybody serves", || {
        served.insert(who_serves(address).unwrap());
        (served == pids).then_some(())
    });
    let innocent = ["web-1", "web-3"].map(|name| osps.life(name));
    osps.signal(&osps.process(osps.slot("web-2")), Signal::KILL);
    osps.wait_happened("web-2", Event::Up, 2);
    assert_eq!(["web-1", "web-3"].map(|name| osps.life(name)), innocent);
}

#[test]
fn a_dependency_on_a_service_means_all_of_its_instances() {
    let osps = Launch::up(
        "[service.web]\n@SLOW@\ninstances = 2\n[service.edge]\n@BEAT@\ndepends-on = ['web']\n\
         [service.half]\n@BEAT@\ndepends-on = ['web-2']\n",
    )
    .spawn();
    osps.wait_up(&["edge", "half"]);
    assert_after(&osps, "edge", "web-1");
    assert_after(&osps, "edge", "web-2");
    assert_after(&osps, "half", "web-2");
}

const SHOP: &str = "\
    [service.db]\n@BEAT@\n\
    [service.web]\n@SLOW@\ninstances = 3\ndepends-on = ['db']\n\
    [service.mail]\n@BEAT@\n";

fn shop() -> Osps {
    let osps = Launch::up(SHOP).spawn();
    osps.wait_up(&["db", "web-1", "web-2", "web-3", "mail"]);
    osps
}

#[test]
fn one_instance_one_service_and_several_are_stopped_and_started() {
    let osps = shop();
    let said = osps.do_ask(&["stop", "web-2"]);
    assert!(said.contains("web-2: stopping") && said.ends_with("stopped\n"), "{said}");
    assert!(!said.contains("web-1"), "{said}");
    assert_eq!(state_of(&osps, "web-2"), Some(State::Down));
    for name in ["db", "web-1", "web-3", "mail"] {
        assert_eq!(osps.life(name), (osps.pid(osps.slot(name)), osps.generation(osps.slot(name))));
        assert_eq!(state_of(&osps, name), Some(State::Up));
        assert_eq!(osps.happened(name, Event::Started).len(), 1);
    }
    let said = osps.do_ask(&["start", "web-2"]);
    assert!(said.contains("web-2: starting\nweb-2: up\nup\n"), "{said}");
    assert_eq!(osps.do_ask(&["stop", "mail", "web", "-q"]), "");
    for name in ["web-1", "web-2", "web-3", "mail"] {
        assert_eq!(state_of(&osps, name), Some(State::Down), "{name}");
    }
    // Who died by request is not started by anything but a request.
    assert_eq!(state_of(&osps, "db"), Some(State::Up));
    osps.do_ask(&["start", "web"]);
    assert_eq!(state_of(&osps, "mail"), Some(State::Down));
    let asked = osps.happened("web-2", Event::Asked);
    assert_eq!(asked.len(), 4, "{asked:?}");
    let who = if is_root() { "asked for by root" } else { "asked for by user" };
    osps.wait_log(&["web-2", "stop", who]);
}

#[test]
fn what_is_needed_stops_after_and_starts_before_those_that_are_named_with_it() {
    let osps = shop();
    osps.do_ask(&["stop", "db", "web"]);
    let died = |name| osps.happened(name, Event::Died)[0].time;
    let told = osps.happened("db", Event::StopOrder)[0].time;
    for name in ["web-1", "web-2", "web-3"] {
        assert!(died(name) <= told, "{}", osps.log());
    }
    // Alone it waits for what it needs, and the answer says so.
    let (code, said) = osps.ask_for(&["start", "web-1"]);
    assert!(code == 1 && said.contains("web-1 waits for db, which is down"), "{code} {said}");
    osps.do_ask(&["start", "web", "db"]);
    let up = osps.happened("db", Event::Up)[1].time;
    assert!(osps.happened("web-2", Event::Started)[1].time >= up);
    assert_eq!(osps.happened("mail", Event::Started).len(), 1);
}

#[test]
fn a_service_goes_without_those_that_need_it_if_only_it_is_asked_for() {
    let osps = shop();
    let web = osps.life("web-1");
    osps.do_ask(&["restart", "db"]);
    osps.do_ask(&["stop", "db"]);
    assert_eq!(osps.life("web-1"), web);
}

#[test]
fn a_restart_rolls_through_the_instances_one_by_one() {
    let osps = shop();
    let said = osps.do_ask(&["restart", "web"]);
    assert!(said.ends_with("restarted\n"), "{said}");
    let names = ["web-1", "web-2", "web-3"];
    let mut away: Vec<_> = names
        .iter()
        .map(|name| {
            let told = osps.happened(name, Event::StopOrder);
            let up = osps.happened(name, Event::Up);
            assert_eq!((told.len(), up.len()), (1, 2), "{name}\n{}", osps.log());
            (told[0].time, up[1].time)
        })
        .collect();
    away.sort();
    for pair in away.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two at once\n{}", osps.log());
    }
    assert_eq!(osps.happened("db", Event::Started).len(), 1);
    for name in names {
        let slot = osps.slot(name);
        assert_eq!(osps.restarts(slot)[Cause::Exited.index()], 0, "an order is no failure");
    }
}

#[test]
fn a_rolling_restart_halts_when_one_does_not_come_up() {
    let osps = Launch::up(
        "[service.web]\ninstances = 3\nheart = 'none'\n\
         command = ['sh', '-c', 'test -e @DIR@/good && exec sleep 1000']\n",
    );
    fs::write(osps.dir().join("good"), "").unwrap();
    let osps = osps.spawn();
    osps.wait_up(&["web-1", "web-2", "web-3"]);
    let left = ["web-2", "web-3"].map(|name| osps.life(name));
    fs::remove_file(osps.dir().join("good")).unwrap();
    let (code, said) = osps.ask_for(&["restart", "web"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("web-1 is backoff: see the log"), "{said}");
    for name in ["web-2", "web-3"] {
        assert!(said.contains(&format!("{name} was left as it was")), "{said}");
    }
    assert_eq!(["web-2", "web-3"].map(|name| osps.life(name)), left);
    // The roll is over: when the cause is gone, only the one that failed comes back.
    fs::write(osps.dir().join("good"), "").unwrap();
    osps.wait_state("web-1", State::Up);
    assert_eq!(["web-2", "web-3"].map(|name| osps.life(name)), left);
    osps.do_ask(&["restart", "web"]);
    assert_ne!(["web-2", "web-3"].map(|name| osps.life(name)), left);
}

/// Each request was a row of its own, so two of them had two instances away at once.
#[test]
fn one_instance_is_away_at_a_time_whoever_asks() {
    let osps = Launch::up("[service.web]\n@SLOW@\ninstances = 2\n").spawn();
    osps.wait_up(&["web-1", "web-2"]);
    let mut first = osps.begin_ask(&["restart", "web"]);
    osps.wait_happened("web-1", Event::Started, 2);
    let said = osps.do_ask(&["restart", "web-1"]);
    assert!(said.ends_with("restarted\n"), "{said}");
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(osps.happened("web-1", Event::Started).len(), 3);
    assert_eq!(osps.happened("web-2", Event::Started).len(), 2);
    let up = osps.happened("web-1", Event::Up)[1].time;
    let told = osps.happened("web-2", Event::StopOrder)[0].time;
    let again = osps.happened("web-1", Event::StopOrder)[1].time;
    let back = osps.happened("web-2", Event::Up)[1].time;
    assert!(up <= told && back <= again, "{}", osps.log());
}

/// They were told that the watchdog hung up without stopping.
#[test]
fn who_waits_for_a_start_while_somebody_stops_all_is_told_why_it_does_not_come() {
    let mut osps = Launch::up(
        "[service.never]\nheart = 'memory'\nstart-timeout = '1m'\nstop-timeout = '1s'\n\
         command = ['sh', '-c', 'trap \"\" TERM; while :; do sleep 0.05; done']\n",
    )
    .spawn();
    osps.wait_state("never", State::Starting);
    let mut waiting = Vec::new();
    for line in [&b"start never\n"[..], b"restart never\n"] {
        let stream = control(&osps);
        (&stream).write_all(line).unwrap();
        waiting.push(stream);
        osps.wait_happened("never", Event::Asked, waiting.len());
    }
    osps.stop();
    for stream in waiting {
        let said = rest(stream);
        assert!(said.ends_with("failed osps is stopping\n"), "{said}");
    }
}

/// Of several programs nobody knew whose it was: it lived on beside the successor. (Found by
/// tests/chaos.)
#[test]
fn what_made_itself_a_daemon_goes_with_its_service_also_among_several() {
    let mut osps = Launch::up(
        "[service.other]\n@SLEEP@\n[service.job]\nheart = 'none'\n\
         command = ['sh', '-c', 'setsid sleep 2000 & echo kin $!; exec sleep 3000']\n",
    )
    .spawn();
    osps.wait_up(&["other", "job"]);
    let (kin, other) = (osps.wait_process("kin "), osps.life("other"));
    osps.signal(&osps.process(osps.slot("job")), Signal::KILL);
    osps.wait_happened("job", Event::Started, 2);
    assert!(kin.is_dead(), "two in one slot: {}", osps.log());
    assert_eq!(osps.life("other"), other);
    osps.stop();
    assert!(osps.find_log(&["not ended, since nobody knows"]).is_none(), "{}", osps.log());
}

#[test]
fn who_is_not_there_is_refused_and_who_is_there_is_named() {
    let osps = Launch::up("[service.db]\n@BEAT@\n[service.web]\n@BEAT@\ninstances = 2\n").spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    let before = ["db", "web-1", "web-2"].map(|name| osps.life(name));
    for words in [
        &["stop", "nobody"][..],
        &["stop", "web-3"],
        &["restart", "db", "nobody"],
        &["start", "nobody"],
        &["pause", "nobody", "--for", "1s"],
        &["resume", "nobody"],
        &["reload", "nobody"],
    ] {
        let (code, said) = osps.ask_for(words);
        assert_eq!(code, 1, "{words:?}: {said}");
        assert!(said.contains("there is no service "), "{words:?}: {said}");
        assert!(said.contains("there is db, web"), "{words:?}: {said}");
    }
    let (code, said) = osps.ask_for(&["reload", "web"]);
    assert!(code == 1 && said.contains("has no reload of its own"), "{code} {said}");
    for words in [&["restart"][..], &["start"], &["pause", "web"]] {
        assert_eq!(osps.ask_for(words).0, 2, "{words:?}");
    }
    assert_eq!(["db", "web-1", "web-2"].map(|name| osps.life(name)), before);
}

// ---- Pauses ----

/// A span in which somebody who is not paused would have been convicted several times.
const PAUSE: Duration = ms(3000);
const LIMIT: Duration = ms(600);

fn assert_paused(program: &str, stop_watchdog: bool) {
    let osps = Launch::up(&format!(
        "check-interval = '500ms'\n[defaults]\nhang-timeout = '600ms'\n[service.web]\n{program}\n"
    ))
    .spawn();
    osps.wait_up(&["web"]);
    osps.wait("judged", || osps.service("web")["watched"].as_bool().filter(|yes| *yes));
    let asked = now();
    let said = osps.do_ask(&["pause", "web", "--for", "3s"]);
    assert!(said.ends_with("paused\n"), "{said}");
    let process = osps.process(osps.slot("web"));
    osps.stop_process(&process);
    osps.wait_log(&["web", "paused: not judged for 3.00s"]);
    osps.wait("it is shown", || osps.service("web")["paused_ms"].as_u64());
    assert!(osps.table().contains("paused for "), "{}", osps.table());
    // The limit runs from the end of the pause, and not before the watchdog sees that. The turn that
    // sees it read the clock before it wrote that down: its record is no lower bound.
    let mut judged_from = asked + PAUSE;
    if stop_watchdog {
        osps.stop_watchdog();
        pass(PAUSE + LIMIT * 2);
        judged_from = now();
        osps.signal_watchdog(Signal::CONT);
    }
    let resumed = osps.wait_happened("web", Event::Resumed, 1);
    assert!(resumed.time.since(asked) >= PAUSE);
    let verdict = osps.wait_happened("web", Event::Verdict, 1);
    assert!(verdict.time.since(judged_from) >= LIMIT, "too early\n{}", osps.log());
    osps.wait_happened("web", Event::Up, 2);
    assert_eq!(osps.happened("web", Event::Verdict).len(), 1);
    assert!(osps.service("web")["paused_ms"].is_null());
}

#[test]
fn a_paused_program_that_beats_in_memory_is_judged_when_the_pause_is_over() {
    assert_paused("@BEAT@", false);
}

#[test]
fn a_paused_event_loop_is_judged_when_the_pause_is_over() {
    if !has("python3") {
        return skip("python3, for an event loop");
    }
    assert_paused("@LOOP@", false);
}

#[test]
fn a_watchdog_that_slept_over_the_end_of_a_pause_grants_a_whole_limit() {
    assert_paused("@BEAT@", true);
}

#[test]
fn a_resumed_program_is_judged_from_then_on() {
    let osps = Launch::up("[service.web]\n@BEAT@\nhang-timeout = '600ms'\n").spawn();
    osps.wait_up(&["web"]);
    osps.do_ask(&["pause", "web", "--for", "10m"]);
    osps.stop_process(&osps.process(osps.slot("web")));
    pass(LIMIT * 3);
    assert_eq!(osps.happened("web", Event::Verdict), []);
    let asked = now();
    let said = osps.do_ask(&["resume", "web"]);
    assert!(said.ends_with("judged again\n"), "{said}");
    let verdict = osps.wait_happened("web", Event::Verdict, 1);
    assert!(verdict.time.since(asked) >= LIMIT);
}

#[test]
fn a_death_in_a_pause_is_noticed_and_the_pause_holds_for_the_successor() {
    let osps = Launch::up("[service.web]\n@BEAT@\nhang-timeout = '600ms'\n").spawn();
    osps.wait_up(&["web"]);
    osps.do_ask(&["pause", "web", "--for", "10m"]);
    osps.signal(&osps.process(osps.slot("web")), Signal::KILL);
    osps.wait_happened("web", Event::Up, 2);
    osps.stop_process(&osps.process(osps.slot("web")));
    pass(LIMIT * 3);
    assert_eq!(osps.happened("web", Event::Verdict), []);
}

// ---- How a program is ended ----

#[test]
fn a_program_that_does_not_look_gets_its_stop_signal_at_once() {
    let osps = Launch::up(
        "[service.web]\nheart = 'none'\nstop-signal = 'USR1'\nstop-timeout = '1m'\n\
         command = ['sh', '-c', 'trap \"echo told >> @DIR@/told; exit 0\" USR1; \
         echo ready >> @DIR@/told; while :; do sleep 0.02; done']\n",
    )
    .spawn();
    osps.wait_up(&["web"]);
    osps.wait_lines("told", 1);
    osps.do_ask(&["stop", "web"]);
    assert_eq!(osps.wait_lines("told", 2), "ready\ntold\n");
    osps.wait_log(&["web", "stopping (sent USR1, since it does not look at its stop word)"]);
}

#[test]
fn who_does_not_leave_in_time_is_killed_with_all_that_it_started() {
    let mut osps = Launch::up(
        "[service.web]\nheart = 'none'\nstop-timeout = '700ms'\n\
         command = ['sh', '-c', 'trap \"\" TERM; for i in 1 2; do sleep 1000 & \
         echo $! >> @DIR@/pids; done; wait; wait']\n",
    )
    .spawn();
    osps.wait_up(&["web"]);
    let pids = osps.wait_lines("pids", 2);
    let kin: Vec<_> =
        pids.lines().map(|pid| process_of(pid.parse().unwrap()).expect("alive")).collect();
    let segment = osps.segment();
    osps.stop();
    let told = of(&segment, 0, Event::StopOrder)[0].time;
    let died = of(&segment, 0, Event::Died)[0].time;
    assert!(died.since(told) >= ms(700), "killed too early\n{}", osps.log());
    osps.wait_log(&["web", "did not leave after TERM: KILL"]);
    assert!(kin.iter().all(osps::sys::process::Process::is_dead));
}

// ---- What a launch receives ----

/// A program that writes down what `script` says, and stays.
fn tells(script: &str) -> String {
    format!(
        "heart = 'none'\ncommand = ['sh', '-c', \"( {script} ) > @DIR@/out.new; mv @DIR@/out.new \
         @DIR@/out; exec sleep 1000\"]\n"
    )
}

fn told(osps: &Osps) -> String {
    osps.wait("what it tells", || fs::read_to_string(osps.dir().join("out")).ok())
}

#[test]
fn a_program_receives_directory_variables_mode_bits_and_limits() {
    let launch = Launch::up(&format!(
        "[defaults]\nenv = {{ A = 'defaults', B = 'defaults' }}\n\
         limits = {{ nofile = [100, 200], core = 0 }}\n\
         [service.web]\ndirectory = 'sub'\nenv = {{ B = 'service' }}\n\
         env-file = ['one.env', 'two.env']\numask = '027'\nlimits = {{ fsize = 'unlimited' }}\n{}",
        tells(
            "pwd; echo $A $B $C $D $INHERITED; umask; ulimit -Sn; ulimit -Hn; ulimit -c; \
             ulimit -f; echo $OSPS_SLOT $OSPS_GENERATION $LISTEN_FDS"
        )
    ))
    .env("INHERITED", "inherited");
    let dir = launch.dir().to_owned();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("one.env"), "# first\nA=one\nC=one\nexport D='o n e'\n").unwrap();
    fs::write(dir.join("two.env"), "C=two\n").unwrap();
    let osps = launch.spawn();
    let expected = format!(
        "{}\ndefaults service two o n e inherited\n0027\n100\n200\n0\nunlimited\n0 1\n",
        dir.join("sub").display()
    );
    assert_eq!(told(&osps), expected);
}

#[test]
fn output_and_errors_are_appended_to_the_log_also_after_it_was_cut() {
    let osps = Launch::up(
        "[service.web]\nheart = 'none'\nlog = 'web.log'\n\
         command = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo out $i; echo err $i >&2; \
         sleep 0.05; done']\n",
    );
    let log = osps.dir().join("web.log");
    fs::write(&log, "before\n").unwrap();
    let osps = osps.spawn();
    let text = osps.wait_lines("web.log", 5);
    assert!(text.starts_with("before\nout 1\nerr 1\nout 2\n"), "{text}");
    // As logrotate's copytruncate does.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    let text = osps.wait_lines("web.log", 2);
    assert!(text.starts_with("out ") || text.starts_with("err "), "no hole: {text:?}");
    assert!(!osps.log().contains("out 1"));
    osps.do_ask(&["restart", "web"]);
    osps.wait("the next one's first line", || {
        fs::read_to_string(&log).unwrap().contains("out 1\n").then_some(())
    });
    assert!(fs::read_to_string(&log).unwrap().starts_with(&text));
}

#[test]
fn a_program_of_another_user_has_that_ones_rights_and_groups() {
    if !is_root() {
        return skip("a service of another user needs root");
    }
    let osps = Launch::up(&format!(
        "[service.web]\nuser = 'nobody'\ndirectory = '/'\nlog = 'web.log'\nlisten = \
         '127.0.0.1:0'\nlimits = {{ nofile = 77 }}\nheart = 'none'\n\
         command = ['sh', '-c', \"id -u; id -g; id -G; echo $USER $LOGNAME $HOME; ulimit -n; {}; \
         echo end; exec sleep 1000\"]\n",
        "touch @DIR@/x 2>/dev/null || echo none"
    ))
    .spawn();
    let text = osps.wait("its lines", || {
        let text = fs::read_to_string(osps.dir().join("web.log")).ok()?;
        text.contains("end\n").then_some(text)
    });
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = passwd.lines().find(|line| line.starts_with("nobody:")).unwrap();
    let fields: Vec<_> = nobody.split(':').collect();
    let (uid, gid, home) = (fields[2], fields[3], fields[5]);
    let expected = format!("{uid}\n{gid}\n{gid}\nnobody nobody {home}\n77\nnone\nend\n");
    assert_eq!(text, expected);
}

#[test]
fn a_group_of_its_own_takes_the_place_of_the_users() {
    if !is_root() {
        return skip("a service of another user needs root");
    }
    let osps = Launch::up(
        "[service.web]\nuser = 'nobody'\ngroup = 'daemon'\ndirectory = '/'\nheart = 'none'\n\
         log = 'web.log'\ncommand = ['sh', '-c', 'id -gn; exec sleep 1000']\n",
    )
    .spawn();
    assert_eq!(osps.wait_lines("web.log", 1), "daemon\n");
}

#[test]
fn sockets_are_passed_in_order_with_their_names_and_the_right_pid() {
    let mut osps = Launch::up(&format!(
        "[service.web]\nlisten = ['127.0.0.1:0', 'unix:@DIR@/web.sock', '127.0.0.2:0']\n{}",
        tells(
            "echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine; \
             for fd in 3 4 5 6; do readlink /proc/$$/fd/$fd | cut -d: -f1; done"
        )
    ))
    .spawn();
    assert_eq!(told(&osps), "3 0:web.sock:0\nmine\nsocket\nsocket\nsocket\n");
    let path = osps.dir().join("web.sock");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    UnixStream::connect(&path).unwrap();
    let listen = osps.service("web")["listen"].clone();
    assert!(listen.as_str().unwrap().ends_with(" (+2)"), "{listen}");
    osps.stop();
    assert!(!path.exists(), "a socket stayed");
}

#[test]
fn a_socket_that_a_dead_program_left_is_replaced_and_a_living_one_refused() {
    let file = "[service.web]\n@BEAT@\nlisten = 'unix:@DIR@/web.sock'\n";
    let launch = Launch::up(file);
    let path = launch.dir().join("web.sock");
    let living = UnixListener::bind(&path).unwrap();
    let refused = launch.output();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("web.sock"), "{}", text(&refused));
    assert!(UnixStream::connect(&path).is_ok(), "somebody else's socket was taken away");
    drop(living);
    let osps = launch.spawn();
    osps.wait_up(&["web"]);
    UnixStream::connect(&path).unwrap();
    drop(osps);
    // No socket is no socket of a dead program.
    let launch = Launch::up(file);
    let path = launch.dir().join("web.sock");
    fs::write(&path, "precious").unwrap();
    assert_eq!(launch.output().status.code(), Some(1));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

/// What is wrong with one service is told with its cause, and is that service's affair alone.
fn assert_only_it_suffers(launch: Launch, cause: &[&str]) -> Osps {
    let osps = launch.spawn();
    osps.wait_up(&["good"]);
    let good = osps.life("good");
    osps.wait_log(&[&["bad"], cause].concat());
    osps.wait_happened("bad", Event::Backoff, 2);
    osps.wait_beats("good");
    assert_eq!(osps.life("good"), good);
    osps
}

#[test]
fn a_directory_that_is_gone_is_the_affair_of_one_service() {
    let launch =
        Launch::up("[service.good]\n@BEAT@\n[service.bad]\n@BEAT@\ndirectory = '@DIR@/sub'\n");
    let dir = launch.dir().join("sub");
    let osps = assert_only_it_suffers(launch, &["cannot be started: enter ", "sub"]);
    fs::create_dir(dir).unwrap();
    osps.wait_state("bad", State::Up);
}

#[test]
fn a_log_whose_directory_is_gone_is_the_affair_of_one_service() {
    let launch =
        Launch::up("[service.good]\n@BEAT@\n[service.bad]\n@BEAT@\nlog = '@DIR@/sub/bad.log'\n");
    let dir = launch.dir().join("sub");
    let osps = assert_only_it_suffers(launch, &["cannot be started: open log ", "sub/bad.log"]);
    fs::create_dir(dir).unwrap();
    osps.wait_state("bad", State::Up);
}

#[test]
fn advice_names_the_keys_of_the_file_and_not_the_options_of_the_command_line() {
    let osps = Launch::up("[service.quiet]\ncommand = 'sleep 1000'\n").spawn();
    osps.wait_log(&["quiet does not beat", "heart = \"loop\""]);
    assert!(!osps.log().contains("--heart"), "{}", osps.log());
}

#[test]
fn a_command_that_is_missing_is_the_affair_of_one_service() {
    let launch = Launch::up("[service.good]\n@BEAT@\n[service.bad]\ncommand = '@DIR@/bad'\n");
    let path = launch.dir().join("bad");
    let osps = assert_only_it_suffers(launch, &["cannot be started: run ", "No such file"]);
    std::os::unix::fs::symlink("/bin/cat", path).unwrap();
    osps.wait_log(&["bad", "starting -> exited (status 0"]);
}

/// Its trampoline waited for a reader, and was taken for the program.
#[test]
fn a_log_that_nobody_reads_is_the_affair_of_one_service() {
    let launch = Launch::up("[service.good]\n@BEAT@\n[service.bad]\n@SLEEP@\nlog = '@DIR@/fifo'\n");
    let path = launch.dir().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let osps = assert_only_it_suffers(launch, &["cannot be started: open log "]);
    let _reader = fs::File::options().read(true).write(true).open(&path).unwrap();
    osps.wait_state("bad", State::Up);
}

#[test]
fn a_limit_above_the_hard_one_is_the_affair_of_one_service() {
    let mut through = Vec::new();
    if is_root() {
        if !has("setpriv") {
            return skip("setpriv, to give up the right to raise limits");
        }
        through = vec!["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"];
    }
    let launch = Launch::up(
        "[service.good]\n@BEAT@\n[service.bad]\n@BEAT@\nlimits = { nproc = 'unlimited' }\n",
    );
    let words = [&["sh", "-c", "ulimit -u 20000; exec \"$@\"", "sh"][..], &through].concat();
    let launch = launch.through(&words);
    assert_only_it_suffers(launch, &["cannot be started: set limit nproc", "CAP_SYS_RESOURCE"]);
}

/// Root was told that root may do it.
#[test]
fn more_descriptors_than_the_kernel_has_are_refused_with_its_bound() {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    let launch = Launch::up(
        "[service.good]\n@BEAT@\n[service.bad]\n@BEAT@\nlimits = { nofile = 99999999999 }\n",
    );
    let bound = format!("fs.nr_open allows {} at most", most.trim());
    assert_only_it_suffers(launch, &["cannot be started: set limit nofile", &bound]);
}

/// `osps up` hung for ever, deaf to every signal, in its look whether somebody listens there.
#[test]
fn a_socket_whose_queue_is_full_is_in_use() {
    let launch = Launch::up("[service.db]\n@SLEEP@\nlisten = 'unix:@DIR@/db.sock'\n");
    let path = launch.dir().join("db.sock");
    let _busy = UnixListener::bind(&path).unwrap();
    let connect = || {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let (kind, flags) = (SocketType::STREAM, SocketFlags::NONBLOCK);
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        rustix::net::connect(&socket, &address).ok().map(|()| socket)
    };
    let queue: Vec<_> = std::iter::from_fn(connect).collect();
    assert!(!queue.is_empty());
    let output = launch.output();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("Address already in use"), "{}", text(&output));
}

#[test]
fn an_empty_name_is_nobody_and_not_all() {
    let osps = shop();
    for words in [["stop", ""], ["reload", ""], ["stop", "web db"]] {
        let (code, said) = osps.ask_for(&words);
        assert!(code == 2 && said.contains("names have 1 to 32"), "{words:?}: {code} {said}");
    }
    osps.wait_up(&["db"]);
    assert!(!osps.watchdog_is_dead());
}

/// Everybody's restarts were one row: one that did not come up ended those of others.
#[test]
fn a_restart_that_fails_ends_nobody_elses() {
    let osps = Launch::up(
        "[service.bad]\ncommand = ['sh', '-c', 'test ! -e @DIR@/no && exec sleep 1000; sleep 0.5; exit 1']\n\
         heart = 'none'\n[service.other]\n@BEAT@\n[service.third]\n@SLOW@\n",
    )
    .spawn();
    osps.wait_up(&["bad", "other", "third"]);
    std::fs::write(osps.dir().join("no"), "").unwrap();
    let (bad, other, third) = (osps.life("bad"), osps.life("other"), osps.life("third"));
    let mut asked = osps.begin_ask(&["restart", "bad"]);
    osps.wait("its restart", || (osps.life("bad") != bad).then_some(()));
    osps.do_ask(&["restart", "third", "other"]);
    assert!(osps.life("other") != other && osps.life("third") != third);
    assert!(!asked.wait().success());
}

/// What it reads may have changed between the two.
#[test]
fn who_asks_again_while_it_starts_gets_another_restart() {
    let osps = Launch::up("[service.a]\n@SLOW@\n").spawn();
    osps.wait_up(&["a"]);
    let mut first = osps.begin_ask(&["restart", "a"]);
    osps.wait_happened("a", Event::Started, 2);
    osps.do_ask(&["restart", "a"]);
    assert_eq!(osps.happened("a", Event::Started).len(), 3);
    assert!(first.wait().success());
}

// ---- The control socket ----

fn control(osps: &Osps) -> UnixStream {
    let stream = UnixStream::connect(osps.run_dir().join("control")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn rest(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    // What was not read when it closed resets the connection: an end as well.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_stranger_is_refused() {
    if !is_root() {
        return skip("becoming somebody else needs root");
    }
    let osps = shop();
    for (path, mode) in [(osps.dir(), 0o711), (osps.run_dir(), 0o711)] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let path = osps.run_dir().join("control");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let said = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            // Of this thread alone.
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_uid(nobody).unwrap();
            let mut stream = control(&osps);
            let _ = stream.write_all(b"stop\n");
            rest(stream)
        });
        stranger.join().unwrap()
    });
    assert_eq!(said, "error not your osps\n");
    let slot = osps.slot("db");
    osps.wait_beats("db");
    assert_eq!(of(&osps.segment(), slot, Event::Asked), []);
    assert!(!osps.watchdog_is_dead());
    assert_eq!(state_of(&osps, "web-1"), Some(State::Up));
}

#[test]
fn half_a_line_garbage_and_a_second_request_do_nothing() {
    let osps = shop();
    let mut half = control(&osps);
    half.write_all(b"stop").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(half), "");
    for (line, answer) in [
        (&b"stopp\n"[..], "error unknown request\n"),
        (b"\xff\xfe\n", "error unknown request\n"),
        (b"restart\n", "error unknown request\n"),
        // `osps stop "$UNSET"` stopped everything.
        (b"stop \n", "error unknown request\n"),
        (b"reload \n", "error unknown request\n"),
        (b"pause never web\n", "error unknown request\n"),
    ] {
        let mut stream = control(&osps);
        stream.write_all(line).unwrap();
        assert_eq!(rest(stream), answer);
    }
    let mut long = control(&osps);
    let _ = long.write_all(&vec![b'x'; 64 << 10]);
    let said = rest(long);
    assert!(said.is_empty() || said == "error request too long\n", "{said}");
    // In pieces, a line is a line.
    let mut pieces = control(&osps);
    for piece in [&b"res"[..], b"tart ", b"db", b"\n"] {
        pieces.write_all(piece).unwrap();
        pass(ms(50));
    }
    assert!(rest(pieces).ends_with("ok restarted\n"));
    assert_eq!(osps.happened("db", Event::Started).len(), 2);
    assert!(!osps.watchdog_is_dead());
}

#[test]
fn a_thousand_who_ask_at_once_keep_nobody_from_stopping() {
    let mut osps = shop();
    let idle: Vec<_> = (0..1000)
        .map(|number| {
            let mut stream = control(&osps);
            match number % 3 {
                0 => {}
                1 => stream.write_all(b"sto").unwrap(),
                _ => {
                    let _ = stream.write_all(b"pause 1000 mail\n");
                }
            }
            stream
        })
        .collect();
    osps.wait_beats("db");
    osps.do_ask(&["resume", "mail"]);
    osps.stop();
    drop(idle);
}

#[test]
fn what_is_asked_while_osps_stops_is_refused_and_does_not_hasten_it() {
    let mut osps = Launch::up(
        "[service.web]\nheart = 'none'\nstop-timeout = '2s'\n\
         command = ['sh', '-c', 'trap \"\" TERM; while :; do sleep 0.05; done']\n",
    )
    .spawn();
    osps.wait_up(&["web"]);
    let segment = osps.segment();
    let stopping = control(&osps);
    (&stopping).write_all(b"stop\n").unwrap();
    osps.wait_state("web", State::Stopping);
    for words in
        [&["restart", "web"][..], &["reload"], &["start", "web"], &["pause", "web", "--for", "1s"]]
    {
        let (code, said) = osps.ask_for(words);
        assert!(code == 1 && said.contains("osps is stopping"), "{words:?}: {code} {said}");
    }
    // HUP means a reload here, and nobody meant to kill.
    osps.signal_watchdog(Signal::HUP);
    let second = control(&osps);
    (&second).write_all(b"stop\n").unwrap();
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    let (told, died) = (of(&segment, 0, Event::StopOrder)[0], of(&segment, 0, Event::Died)[0]);
    assert!(died.time.since(told.time) >= ms(2000), "hastened\n{}", osps.log());
    for stream in [stopping, second] {
        let said = rest(stream);
        assert!(said.starts_with("ok stopping\n") && said.ends_with("stopped\n"), "{said}");
    }
}
