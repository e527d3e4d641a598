//! Goal: `osps drill` measures what happened, keeps its hands off whatever it was not asked to
//! touch, and leaves an instance as it found it.
//!
//! Method: black box. Instances of the pair and of programs that nobody changed (redis, a gateway
//! in Python's asyncio) are drilled by the real binary; what it reports is compared with the
//! segment and with what the processes are afterwards.
//!
//! What it cannot show: that its figures are good ones; a loaded machine has others.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Output, Stdio};

use osps::sys::procfs;
use osps_heart::segment::layout::ServerCells;
use osps_heart::sync::{Ordering, Word};
use osps_heart::words::{Cause, Event, State};
use serde_json::Value;

use common::{
    BINARY, Guest, Launch, NOBODY, Osps, PRIMARY, SECONDARY, SOON, Signal, events, free_port, has,
    is_root, ms, pass, process_of, skip, text, wait_until,
};

/// Long enough that this machine is on time, short enough that nobody waits.
const PAIR: [&str; 4] = ["--hang-timeout", "1s", "--stop-timeout", "1s"];

fn drill(osps: &Osps, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("drill").arg("--run-dir").arg(osps.run_dir()).args(["--idle", "1s"]).args(args);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs a drill to its end.
fn drilled(osps: &Osps, args: &[&str]) -> Output {
    drill(osps, &[&["--yes"], args].concat()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

/// `SERVICE FAULT` of each pair of figures.
fn faults(report: &Value) -> Vec<String> {
    let figures = report["figures"].as_array().unwrap();
    let names = figures.iter().map(|figure| {
        format!("{} {}", figure["service"].as_str().unwrap(), figure["fault"].as_str().unwrap())
    });
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names
}

/// A loaded host is late now and then; what was measured there says nothing, and that is told.
fn assert_passed(osps: &Osps, output: &Output, report: &Value) {
    let late = events(&osps.segment()).iter().any(|record| record.what.event() == Event::LateTurn);
    let good = output.status.code() == Some(0) && report["passed"] == true;
    assert!(good || late, "{}\n{}", text(output), osps.log());
}

fn frozen(osps: &Osps, slot: usize) -> u64 {
    osps.restarts(slot)[Cause::Frozen.index()]
}

fn killed(osps: &Osps, slot: usize) -> u64 {
    osps.restarts(slot)[Cause::Killed.index()]
}

#[test]
fn the_pair_is_drilled_with_every_fault() {
    let osps = Launch::pair(&[&PAIR[..], &["--allow-debug"]].concat()).start();
    assert_eq!(osps.ask(PRIMARY, "SET k v"), "+OK");
    let output = drilled(&osps, &["--rounds", "1", "--json"]);
    let report = json(&output);
    assert_passed(&osps, &output, &report);
    let all = ["primary", "secondary-1"]
        .into_iter()
        .flat_map(|name| ["kill", "stop", "spin", "block"].map(|fault| format!("{name} {fault}")));
    assert_eq!(faults(&report), all.collect::<Vec<_>>());
    assert_eq!(report["not_drilled"], serde_json::json!([]));
    // The faults were there, and nobody was hit by another one's; a late host has more of them.
    for slot in [PRIMARY, SECONDARY] {
        assert!(frozen(&osps, slot) >= 3 && killed(&osps, slot) >= 1, "{}", osps.log());
    }
    for figure in report["figures"].as_array().unwrap() {
        let what = figure["what"].as_str().unwrap();
        let values = figure["values_ms"].as_array().unwrap();
        let value = |name: &str| figure[name].as_f64().unwrap();
        assert_eq!(Value::from(values.len()), figure["rounds"]);
        if what == "beat-verdict" && !values.is_empty() {
            assert!(value("min_ms") >= 1000.0, "{figure}");
            assert_eq!((value("least_ms"), value("most_ms")), (1000.0, 1125.0));
        }
    }
    osps.wait_all_up();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(progress.contains("secondary-1: stop 1 of 1: convicted (stopped)"), "{progress}");
    assert_eq!(osps.ask(PRIMARY, "GET k"), "$1", "the data is there");
}

#[test]
fn the_report_has_exactly_the_keys_of_schema_1() {
    let osps = Launch::pair(&PAIR).start();
    let output = drilled(&osps, &["secondary-1", "--fault", "kill", "--rounds", "1", "--json"]);
    let report = json(&output);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut top = keys(&report);
    top.sort();
    let known = [
        "ended_early",
        "figures",
        "idle_ms",
        "machine",
        "name",
        "not_drilled",
        "passed",
        "rounds",
        "run_dir",
        "schema",
        "version",
    ];
    assert_eq!(top, known);
    assert_eq!(keys(&report["machine"]).len(), 3);
    let mut figure = keys(&report["figures"][0]);
    figure.sort();
    let known = [
        "fault",
        "least_ms",
        "max_ms",
        "median_ms",
        "min_ms",
        "missed",
        "most_ms",
        "pass",
        "rounds",
        "service",
        "set_aside",
        "values_ms",
        "what",
    ];
    assert_eq!(figure, known);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["figures"][0]["what"], "kill-noticed");
    assert_eq!(report["figures"][1]["what"], "kill-up");
}

/// Redis and a gateway, both unchanged and watched in their event loops, and a program that nobody
/// watches.
#[test]
fn programs_of_ones_own_are_drilled_with_what_can_be_done_from_outside() {
    if !has("redis-server") || !has("python3") {
        return skip("redis-server and python3");
    }
    let port = free_port();
    let osps = Launch::up(&format!(
        r#"
[defaults]
hang-timeout = "1s"
start-timeout = "2s"
[service.db]
command = "redis-server --port {port} --save '' --appendonly no --dir @DIR@"
heart = "loop"
[service.gateway]
command = ["python3", "-c", """
import asyncio
async def serve():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), '127.0.0.1', 0)
    await server.serve_forever()
asyncio.run(serve())
"""]
heart = "loop"
depends-on = ["db"]
restart-with = ["db"]
[service.batch]
command = ["sleep", "1000"]
heart = "none"
"#
    ))
    .spawn();
    osps.wait_up(&["db", "gateway", "batch"]);
    let output = drilled(&osps, &["--rounds", "1", "--json"]);
    let report = json(&output);
    assert_passed(&osps, &output, &report);
    let expected = ["batch kill", "db kill", "db stop", "gateway kill", "gateway stop"];
    let mut done = faults(&report);
    done.sort();
    assert_eq!(done, expected);
    let mut left = report["not_drilled"].as_array().unwrap().clone();
    left.sort_by_key(|one| one["service"].as_str().unwrap().to_owned());
    assert_eq!(left.len(), 3, "{report}");
    assert_eq!(left[0]["faults"], serde_json::json!(["stop", "spin", "block"]));
    assert!(left[0]["why"].as_str().unwrap().contains("not watched"), "{report}");
    assert_eq!(left[1]["faults"], serde_json::json!(["spin", "block"]));
    osps.wait_up(&["db", "gateway", "batch"]);
}

/// A port is connected by the kernel, whatever its program does: a probe of it never sees a freeze.
/// The drill says so, and the program is let go on.
#[test]
fn a_promise_that_was_not_kept_is_told_and_nobody_stays_stopped() {
    if !has("redis-server") {
        return skip("redis-server");
    }
    let port = free_port();
    let osps = Launch::up(&format!(
        r#"
[service.db]
command = "redis-server --port {port} --save '' --appendonly no --dir @DIR@"
heart = "probe:tcp://127.0.0.1:{port}"
hang-timeout = "500ms"
"#
    ))
    .spawn();
    osps.wait_up(&["db"]);
    let before = osps.life("db");
    let output = drilled(&osps, &["db", "--fault", "stop", "--rounds", "1"]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("MISSED: its heart goes on beating"), "{told}");
    assert!(told.contains("NO (1 missed)") && told.contains("2 of 2 figures"), "{told}");
    assert_eq!(osps.life("db"), before, "nobody replaced it");
    osps.wait("it goes on", || (procfs::state(before.0) != Some('T')).then_some(()));
}

// ---- Hands off ----

#[test]
fn nothing_is_touched_without_a_yes() {
    let osps = Launch::pair(&PAIR).start();
    let before = [osps.generation(PRIMARY), osps.generation(SECONDARY)];
    let output = drill(&osps, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("say --yes if that is meant"), "{}", text(&output));
    if has("script") {
        let words = format!("{BINARY} drill --run-dir {}", osps.run_dir().display());
        let mut command = Command::new("script");
        command.args(["-qec", &words, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"no\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let told = text(&output);
        assert!(told.contains("primary: kill it (SIGKILL)") && told.contains("[y/N]"), "{told}");
        assert!(told.contains("nobody said yes; nothing was touched"), "{told}");
        assert_eq!(output.status.code(), Some(1), "{told}");
    } else {
        skip("script");
    }
    assert_eq!([osps.generation(PRIMARY), osps.generation(SECONDARY)], before, "{}", osps.log());
}

#[test]
fn what_is_not_fit_for_it_is_refused() {
    let mut osps = Launch::pair(&PAIR).start();
    let refused = |osps: &Osps, args: &[&str], why: &str| {
        let output = drilled(osps, args);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
    };
    refused(&osps, &["nobody"], "there is no service nobody; there is primary, secondary-1");
    refused(&osps, &["--fault", "spin"], "started without --allow-debug");
    osps.do_ask(&["pause", "secondary-1", "--for", "10m"]);
    refused(&osps, &[], "secondary-1 is paused; `osps resume secondary-1` ends that");
    osps.do_ask(&["resume", "secondary-1"]);
    osps.do_ask(&["stop", "secondary-1"]);
    refused(&osps, &[], "not everything is up: secondary-1 is down");
    osps.do_ask(&["start", "secondary-1"]);
    if is_root() && has("setpriv") {
        let mut command = Command::new("setpriv");
        let user = NOBODY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", BINARY, "drill"]);
        command.args(["--yes", "--run-dir"]).arg(osps.run_dir());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    }
    let before = [osps.generation(PRIMARY), osps.generation(SECONDARY)];
    osps.stop_watchdog();
    osps.wait("a frozen watchdog", || {
        String::from_utf8_lossy(&osps.command(&["status"]).stdout).contains("FROZEN").then_some(())
    });
    refused(&osps, &[], "its watchdog is frozen");
    osps.signal_watchdog(Signal::CONT);
    osps.kill_watchdog();
    refused(&osps, &[], "no watchdog runs there");
    assert_eq!([osps.generation(PRIMARY), osps.generation(SECONDARY)], before, "{}", osps.log());
    osps.kill_everything();
    let usage = |args: &[&str]| drilled(&osps, args).status.code();
    assert_eq!(usage(&["--rounds", "0"]), Some(2));
    assert_eq!(usage(&["--fault", "abort"]), Some(2));
    assert_eq!(usage(&["--idle", "10ms"]), Some(2));
}

/// What its `max-restarts` allows is not used up: of two restarts in 5 s one stays in reserve, so
/// each kill waits until the last one is forgotten.
#[test]
fn nobody_is_given_up_because_of_it() {
    let osps = Launch::pair(&[&PAIR[..], &["--max-restarts", "2/5s"]].concat()).start();
    let args = ["secondary-1", "--fault", "kill", "--rounds", "3", "--json"];
    let output = drilled(&osps, &args);
    let report = json(&output);
    assert_eq!(report["ended_early"], Value::Null, "{}", text(&output));
    assert_eq!(report["figures"][0]["missed"], 0, "{}", text(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("secondary-1: waits "), "{told}");
    let deaths: Vec<_> = events(&osps.segment())
        .into_iter()
        .filter(|record| record.what.event() == Event::Died)
        .map(|record| record.time)
        .collect();
    assert!(deaths.len() >= 3, "{told}");
    for pair in deaths.windows(2) {
        assert!(pair[1].since(pair[0]) >= ms(5000), "{deaths:?}");
    }
    assert!(osps.is_state(SECONDARY, State::Up));
}

/// Interrupted while a server is stopped: it goes on, with all that it had.
#[test]
fn ctrl_c_leaves_nobody_stopped() {
    let osps = Launch::pair(&["--hang-timeout", "20s"]).start();
    let (pid, generation) = (osps.pid(SECONDARY), osps.generation(SECONDARY));
    let mut command = drill(&osps, &["secondary-1", "--fault", "stop", "--yes"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a stopped server", SOON, || (procfs::state(pid) == Some('T')).then_some(()));
    let output = interrupt(child);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("ended early: interrupted (SIGINT)"), "{told}");
    osps.wait("it goes on", || (procfs::state(pid) != Some('T')).then_some(()));
    osps.wait_beats("secondary-1");
    assert_eq!((osps.pid(SECONDARY), osps.generation(SECONDARY)), (pid, generation));
}

fn interrupt(child: Child) -> Output {
    let process = process_of(child.id()).unwrap();
    process.signal(Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

/// Whoever can write the segment can name any process there. A drill, which may run as root, asks
/// the kernel whose it is, and leaves it alone.
#[test]
fn a_process_that_osps_did_not_start_is_never_signalled() {
    let osps = Launch::pair(&PAIR).start();
    let mut stranger = Guest(Command::new("sleep").arg("1000").spawn().unwrap());
    let start_time = procfs::start_time(stranger.0.id()).unwrap();
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    let page = osps.segment().geometry().slots_offset + SECONDARY * 4096;
    let at = |field: usize| u64::try_from(page + field).unwrap();
    let scribble = || {
        let pid = u64::from(stranger.0.id());
        let start = std::mem::offset_of!(ServerCells, start_time);
        file.write_all_at(&start_time.to_le_bytes(), at(start)).unwrap();
        let field = std::mem::offset_of!(ServerCells, pid);
        file.write_all_at(&pid.to_le_bytes(), at(field)).unwrap();
    };
    let over = Word::new(0);
    let output = std::thread::scope(|scope| {
        // The watchdog puts its own words back at every turn.
        scope.spawn(|| {
            while over.load(Ordering::Relaxed) == 0 {
                scribble();
                pass(ms(1));
            }
        });
        let output = drilled(&osps, &["secondary-1", "--fault", "kill", "--rounds", "1"]);
        over.store(1, Ordering::Relaxed);
        output
    });
    let told = text(&output);
    assert!(told.contains("left alone"), "{told}");
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(stranger.0.try_wait().unwrap(), None, "the stranger lives: {told}");
}
