//! Goal: `osps events` says what the log says, word for word, to whoever comes later; it tells a
//! reader that was overtaken how many it missed, and works when the watchdog is dead.
//!
//! Method: black box. Services fail in different ways, and the log is compared with the events line
//! by line. For a flood the watchdog is killed, and the test writes into the ring in its place.
//!
//! What it cannot show: a reader that is overtaken while it reads; the models in tests/loom do.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::process::Stdio;

use common::follower::Follower;
use common::services::act;
use common::{Launch, Osps, SOON, Signal, ms, wait_until};
use osps_heart::clock::unix_ns;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::layout::EVENTS;
use osps_heart::segment::{Access, Record, Segment, What};
use osps_heart::time::nanos;
use osps_heart::words::{Event, State};
use serde_json::Value;

#[test]
#[ignore = "a program that these tests start"]
fn as_program() {
    act();
}

const TWO: &str = "\
    [defaults]\nhang-timeout = '400ms'\n\
    [service.db]\n@BEAT@\n\
    [service.web]\n@BEAT@\ninstances = 2\nrestart-with = ['db']\n";

/// What a line says, without its time.
fn said(line: &str) -> &str {
    line.split_once(' ').map_or("", |(_, said)| said)
}

/// The lines of the log that tell a happening: all that have a generation or are the watchdog's own
/// words for one.
fn happenings(log: &str) -> Vec<&str> {
    let tells = |line: &&str| {
        line.contains(" gen=")
            || ["watches over", ": every limit runs again", ": stopping"]
                .iter()
                .any(|part| line.contains(part))
    };
    log.lines().filter(tells).collect()
}

fn events(osps: &Osps, words: &[&str]) -> String {
    // More than a pipe holds.
    let output = osps.command(&[&["events"], words].concat());
    assert_eq!(output.status.code(), Some(0), "{}", common::text(&output));
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

fn json(osps: &Osps, words: &[&str]) -> Vec<Value> {
    let text = events(osps, &[&["--json"], words].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_log_and_the_events_say_the_same_line_by_line() {
    let mut osps = Launch::up(TWO).spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    let follower = Follower::of(&osps, &["events", "--follow"]);
    // A freeze that takes others along, a death, and what somebody asks for.
    osps.stop_process(&osps.process(osps.slot("db")));
    osps.wait_happened("web-2", Event::Verdict, 1);
    for name in ["db", "web-1", "web-2"] {
        osps.wait_happened(name, Event::Up, 2);
    }
    osps.signal(&osps.process(osps.slot("web-1")), Signal::KILL);
    osps.wait_happened("web-1", Event::Up, 3);
    osps.do_ask(&["pause", "web-2", "--for", "1m"]);
    osps.do_ask(&["resume", "web-2"]);
    osps.do_ask(&["stop", "web-1"]);
    // The service goes, and what happened to it is still told with its name.
    osps.write(&TWO.replace("instances = 2\n", ""));
    osps.do_ask(&["reload"]);
    osps.wait_up(&["web"]);

    let told = events(&osps, &[]);
    let told: Vec<_> = told.lines().collect();
    let newest = said(told.last().unwrap());
    osps.wait("the log to be written", || osps.log().contains(newest).then_some(()));
    let log = osps.log();
    let log = happenings(&log);
    for (line, (event, logged)) in told.iter().zip(&log).enumerate() {
        assert_eq!(said(event), said(logged), "line {line}");
        assert_eq!(event[..14], logged[..14], "the time of line {line}: {event} {logged}");
    }
    assert!(told.len() <= log.len(), "{told:#?}\n{log:#?}");
    for part in [
        "watches over",
        "late -> frozen (stopped; no beat for",
        "up -> dependency (ended, its db failed)",
        "up -> killed (signal 9, after",
        "down for",
        "paused: not judged for 60.00s",
        "stop asked for by",
        "web-2 gen=",
        "removed: its service is not in the file any more",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:#?}");
    }

    // Whoever followed saw all of it, and sees the end as well.
    osps.stop();
    wait_until("the last lines", SOON, || {
        let log = osps.log();
        let log: Vec<_> = happenings(&log).into_iter().map(said).map(str::to_owned).collect();
        let lines = follower.lines();
        let lines: Vec<_> = lines.iter().map(|line| said(line).to_owned()).collect();
        (lines == log).then_some(())
    });
}

#[test]
fn json_says_it_in_keys() {
    let osps = Launch::up(TWO).spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    osps.stop_process(&osps.process(osps.slot("web-1")));
    osps.wait_happened("web-1", Event::Up, 2);
    let all = json(&osps, &[]);
    let text = events(&osps, &[]);
    let lines: Vec<_> = text.lines().collect();
    for (event, line) in all.iter().zip(lines) {
        let keys: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = "cause class death down_ms event from generation heart level limit_ms line \
                        pid schema service silence_ms slot time to unix_ms up_ms";
        assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
        assert_eq!(event["schema"], 1);
        let level = event["level"].as_str().unwrap().to_uppercase();
        let (time, said) = (event["time"].as_str().unwrap(), event["line"].as_str().unwrap());
        assert_eq!(format!("{time} {level:<5} {said}"), line);
        let now = unix_ns() / 1_000_000;
        let at = event["unix_ms"].as_u64().unwrap();
        assert!(at <= now && now - at < 60_000, "{event}");
    }
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, section) = document.split_once("\n## Events\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    for key in all[0].as_object().unwrap().keys() {
        assert!(section.contains(&format!("`{key}`")), "{key} stands not in docs/operations.md");
    }
    assert_eq!(all[0]["event"], "watchdog-started");
    assert!(all[0]["service"].is_null() && all[0]["slot"].is_null(), "{}", all[0]);
    assert_eq!(all[0]["pid"], osps.watchdog_pid());
    let verdict = all.iter().find(|event| event["event"] == "verdict").unwrap();
    for (key, value) in [
        ("service", Value::from("web-1")),
        ("from", "late".into()),
        ("to", "stopping".into()),
        ("cause", "frozen".into()),
        ("class", "stopped".into()),
        ("limit_ms", 400.into()),
        ("level", "warn".into()),
        ("death", Value::Null),
        ("heart", Value::Null),
    ] {
        assert_eq!(verdict[key], value, "{key} in {verdict}");
    }
    assert!(verdict["silence_ms"].as_u64().unwrap() >= 400, "{verdict}");
    let died = all.iter().find(|event| event["event"] == "died").unwrap();
    assert_eq!((&died["death"], &died["cause"]), (&"signal 9".into(), &"frozen".into()));
    let server = osps.service("web-1");
    assert_eq!(server["hangs"]["stopped"], 1);
    assert_eq!(server["restarts"]["by_cause"]["frozen"], 1);
}

#[test]
fn a_watchdog_that_was_late_says_by_how_much() {
    let osps = Launch::up(TWO).spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    osps.stop_watchdog();
    common::pass(ms(1500));
    osps.signal_watchdog(Signal::CONT);
    osps.wait_log(&["watchdog was late by", ": every limit runs again"]);
    let late: Vec<_> =
        json(&osps, &[]).into_iter().filter(|event| event["event"] == "late-turn").collect();
    let watchdog = &osps.status()["watchdog"];
    assert_eq!(watchdog["late_turns"], late.len());
    assert!(!late.is_empty() && late[0]["service"].is_null(), "{late:?}");
    // It beats each second, if nothing else is due: a second at least was lost.
    let worst = watchdog["worst_lag_us"].as_u64().unwrap();
    assert!(worst >= 500_000, "{watchdog}");
    assert!(watchdog["lag_us"].as_u64().unwrap() <= worst, "{watchdog}");
}

#[test]
fn a_service_may_be_chosen_and_one_that_is_not_there_is_told_so() {
    let osps = Launch::up(TWO).spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    let of = |name: &str| events(&osps, &["--service", name]);
    let (db, one, both) = (of("db"), of("web-1"), of("web"));
    assert!(db.lines().all(|line| line.contains(" db gen=")) && !db.is_empty(), "{db}");
    assert!(one.lines().all(|line| line.contains(" web-1 gen=")) && !one.is_empty(), "{one}");
    assert!(both.contains(" web-1 gen=") && both.contains(" web-2 gen="), "{both}");
    assert!(!both.contains(" db gen=") && !both.contains("watches over"), "{both}");
    for words in [&["events", "-s", "nobody"][..], &["events", "--follow", "-s", "nobody"]] {
        let (code, said) = osps.ask_for(words);
        assert!(code == 1 && said.ends_with("no service nobody; there is db, web\n"), "{said}");
    }
}

/// A dead watchdog's instance, and somebody who writes into its ring.
struct Dead {
    osps: Osps,
    segment: Segment,
}

impl Dead {
    fn new() -> Dead {
        let mut osps = Launch::up("[service.db]\n@SLEEP@\n").spawn();
        osps.wait_up(&["db"]);
        osps.kill_watchdog();
        let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
        Dead { osps, segment }
    }

    /// Number `pid` happened so long ago.
    fn push(&self, pid: u32, ago: std::time::Duration) {
        let what = What::Started { pid, after: None };
        self.segment.events().push(&Record {
            unix_ns: unix_ns() - nanos(ago),
            pid,
            name: "db".into(),
            change: Some((State::Down, State::Starting)),
            ..Record::new(common::now(), Some(SlotId(0)), Generation(1), what)
        });
    }
}

fn is_of(line: &str, pid: u32) -> bool {
    line.contains(&format!(" pid={pid}: "))
}

#[test]
fn whoever_is_overtaken_by_a_flood_learns_how_much_was_missed() {
    let dead = Dead::new();
    let follower = Follower::of(&dead.osps, &["events", "--follow"]);
    let as_json = Follower::of(&dead.osps, &["events", "--follow", "--since", "0s", "--json"]);
    // Until it looks, nothing comes for it.
    wait_until("the first for whoever wants what comes", SOON, || {
        dead.push(69_999, ms(0));
        common::pass(ms(20));
        (!as_json.lines().is_empty()).then_some(())
    });
    let before = usize::try_from(dead.segment.events().written()).unwrap();
    dead.push(70_000, ms(0));
    for follower in [&follower, &as_json] {
        follower.wait_for("the first", |line| line.contains("70000"));
    }
    let ids = [&follower, &as_json].map(|follower| follower.guest.0.id());
    for id in ids {
        dead.osps.signal(&common::process_of(id).unwrap(), Signal::STOP);
    }
    let count = u32::try_from(EVENTS).unwrap() + 37;
    (1..=count).for_each(|number| dead.push(70_000 + number, ms(0)));
    for id in ids {
        dead.osps.signal(&common::process_of(id).unwrap(), Signal::CONT);
    }
    follower.wait_for("the last", |line| is_of(line, 70_000 + count));
    let lines = follower.lines();
    let place = lines.iter().position(|line| is_of(line, 70_000)).unwrap();
    assert!(lines[place + 1].starts_with("... 37 missed"), "{:?}", &lines[place..place + 3]);
    assert!(is_of(&lines[place + 2], 70_038), "{:?}", &lines[place..place + 3]);
    assert_eq!(lines.len() - place - 2, EVENTS, "each of the others once");
    assert_eq!(place, before, "and all that was there before");
    // Only what came is shown to whoever wants that, and what was missed is said in keys.
    as_json.wait_for("the last", |line| line.contains(&(70_000 + count).to_string()));
    let lines = as_json.lines();
    let place = lines.iter().position(|line| line.contains("70000")).unwrap();
    assert!(place < before && lines[..place].iter().all(|line| line.contains("69999")));
    assert_eq!(lines[place + 1], r#"{"schema":1,"missed":37}"#);
    assert_eq!(lines.len() - place, EVENTS + 2);
}

#[test]
fn since_cuts_by_time_and_says_when_the_ring_began_later() {
    let dead = Dead::new();
    dead.push(70_000, ms(7_200_000));
    dead.push(70_001, ms(60_000));
    dead.push(70_002, ms(0));
    let shown = |since: &str| events(&dead.osps, &["--since", since]);
    let all = shown("3h");
    assert!([70_000, 70_001, 70_002].iter().all(|pid| is_of(&all, *pid)), "{all}");
    let hour = shown("1h");
    assert!(!is_of(&hour, 70_000) && is_of(&hour, 70_001) && is_of(&hour, 70_002), "{hour}");
    let ten = shown("30s");
    assert!(!is_of(&ten, 70_001) && is_of(&ten, 70_002), "{ten}");
    assert_eq!(shown("0s"), "");
    // Without a time, the ring's beginning is where it is; with one, it must not pass for silence.
    (0..EVENTS).for_each(|_| dead.push(70_003, ms(60_000)));
    assert!(!events(&dead.osps, &[]).contains("only the newest"));
    assert!(shown("1h").contains("only the newest 1024 happenings are kept"), "{}", shown("1h"));
    assert!(!shown("10s").contains("only the newest"));
}

#[test]
fn a_follower_goes_on_with_the_next_watchdog_and_with_the_next_instance() {
    let mut osps = Launch::up("[service.db]\n@BEAT@\n").spawn();
    osps.wait_up(&["db"]);
    let follower = Follower::of(&osps, &["events", "--follow"]);
    osps.kill_watchdog();
    osps.start_again();
    osps.wait_happened("db", Event::Adopted, 1);
    follower.wait_for("the adoption", |line| line.ends_with("up (taken over, alive)"));
    osps.stop();
    follower.wait_for("the end", |line| line.contains("stopping -> down"));
    osps.start_again();
    osps.wait_founded();
    osps.wait_up(&["db"]);
    let pid = osps.watchdog_pid();
    follower.wait_for("the next", |line| is_of(line, osps.pid(0)) && line.contains("-> up"));
    let lines = follower.lines();
    assert_eq!(lines.iter().filter(|line| line.contains(" watches over ")).count(), 3);
    assert!(lines.iter().any(|line| line.contains(&format!("watchdog pid={pid} "))), "{lines:#?}");
}

#[test]
fn a_follower_ends_quietly_with_its_reader() {
    let dead = Dead::new();
    let follow = |stdout: Stdio| {
        let mut command = std::process::Command::new(common::BINARY);
        command.args(["events", "--follow", "--run-dir"]).arg(dead.osps.run_dir());
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        common::Guest(command.env_remove("RUST_LOG").spawn().unwrap())
    };
    // Nothing happens, and yet it ends: `osps events -f | head`.
    let mut piped = follow(Stdio::piped());
    drop(piped.0.stdout.take());
    let status = wait_until("its end", SOON, || piped.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let mut other = follow(Stdio::null());
    let process = common::process_of(other.0.id()).unwrap();
    common::pass(ms(300));
    assert!(other.0.try_wait().unwrap().is_none(), "it follows");
    dead.osps.signal(&process, Signal::INT);
    wait_until("its end", SOON, || other.0.try_wait().unwrap());
    for mut guest in [piped, other] {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut guest.0.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(said, "");
    }
}

#[test]
fn following_costs_next_to_nothing() {
    let dead = Dead::new();
    let follower = Follower::of(&dead.osps, &["events", "--follow"]);
    follower.wait_for("the first", |line| line.contains("watches over"));
    let before = common::ticks(follower.guest.0.id());
    common::pass(ms(2000));
    // Two seconds are 200 ticks.
    let took = common::ticks(follower.guest.0.id()) - before;
    assert!(took <= 4, "{took} ticks in 2 s");
}
