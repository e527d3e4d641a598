//! The command line, from outside: what is typed, what is answered, and how a look ends.
//!
//! Goal: every command explains itself; what cannot work is refused with the option's name and
//! exit code 2, what the machine forbids with 1; `status --json` has exactly the keys of schema 2,
//! and its exit codes are those of the documents; whatever becomes of stdout and stderr, servers
//! are supervised.
//!
//! Method: the real binary with real arguments. Where output is blocked (a full pipe that nobody
//! reads, a terminal stopped with Ctrl-S), the test waits until lines were dropped, kills a server
//! and waits for its successor.
//!
//! What it cannot show: that the texts are good, only that they name what matters; terminals other
//! than the kernel's own pty.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use osps::sys::process::Process;
use osps_heart::orphan::{WATCHDOG_STALE, watchdog_age};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::{Cause, Class, State};
use serde_json::Value;

use common::{
    BINARY, Launch, SOON, Signal, now, process_in, recorded, run, skip, text, wait_until,
};

// ---------------------------------------------------------------------------------------- helpers

fn osps(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    command
}

/// Runs osps on a run directory of its own, which must not exist afterwards.
fn attempt(args: &[&str]) -> Output {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run_dir = dir.path().join("run");
    // Before a `--` that ends the options.
    let (options, command): (&[&str], &[&str]) =
        args.iter().position(|arg| *arg == "--").map_or((args, &[]), |at| args.split_at(at));
    let mut whole = osps(options);
    whole.arg("--run-dir").arg(&run_dir).args(command);
    let output = run(whole);
    assert!(!run_dir.exists(), "{args:?} left its run directory: {}", text(&output));
    output
}

/// Refused with this exit code and an explanation on stderr that has all of these parts.
fn assert_refused(args: &[&str], code: i32, parts: &[&str]) {
    let output = attempt(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
    for part in parts {
        assert!(said.contains(part), "{args:?}: {part:?} is missing: {said}");
    }
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output));
    assert!(!said.contains("panicked"), "{said}");
}

/// An instance with an unusual stdout or stderr; it ends with this value.
struct Odd {
    child: Child,
    run_dir: PathBuf,
    _dir: tempfile::TempDir,
}

impl Odd {
    /// Starts what `command` makes of the arguments and waits until every server beats.
    fn start(command: impl FnOnce(&[&str], &Path) -> Command) -> Odd {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let run_dir = dir.path().join("run");
        let args = ["--listen", "127.0.0.1:0", "--check-interval", "10ms", "--run-dir"];
        let child = command(&args, &run_dir).spawn().unwrap();
        let odd = Odd { child, run_dir, _dir: dir };
        wait_until("all servers up", SOON, || {
            let segment = Segment::open(&odd.run_dir, Access::ReadOnly).ok()?;
            let up =
                (0..2).all(|slot| segment.slots()[slot].server.state.load(Ordering::Relaxed) == 2);
            up.then_some(())
        });
        odd
    }

    fn segment(&self) -> Segment {
        Segment::open(&self.run_dir, Access::ReadOnly).unwrap()
    }

    fn process(&self, slot: usize) -> Option<Process> {
        process_in(&self.segment(), slot)
    }

    /// Waits until nobody takes what the watchdog prints.
    fn wait_dropped(&self) {
        let segment = self.segment();
        wait_until("dropped lines", SOON * 3, || {
            (segment.header().dropped_lines.load(Ordering::Relaxed) > 0).then_some(())
        });
    }

    /// Kills both servers, one after the other, and sees their successors.
    fn assert_supervises(&self) {
        for slot in [1, 0] {
            let segment = self.segment();
            let server = &segment.slots()[slot].server;
            let up = || server.state.load(Ordering::Relaxed) == State::Up.code();
            let old = wait_until("a server to kill", SOON, || self.process(slot).filter(|_| up()));
            let generation = server.current_generation();
            old.kill().unwrap();
            wait_until(&format!("a successor in slot {slot}"), SOON, || {
                (server.current_generation() != generation && up()).then_some(())
            });
            assert!(old.is_dead());
        }
    }

    /// Stops it in order: that works whatever its output is.
    fn stop(&mut self) {
        let mut stop = osps(&["stop", "--run-dir"]);
        stop.arg(&self.run_dir);
        let stopped = run(stop);
        assert!(stopped.status.success(), "{}", text(&stopped));
        assert!(self.child.wait().unwrap().success());
        assert!(!self.run_dir.exists());
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        let segment = Segment::open(&self.run_dir, Access::ReadOnly);
        let processes = segment.iter().flat_map(recorded).collect::<Vec<_>>();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in processes {
            let _ = process.kill();
        }
    }
}

// ------------------------------------------------------------------------------------------- help

const WATCH: [&str; 8] = [
    "--hang-timeout",
    "--check-interval",
    "--beat-interval",
    "--start-timeout",
    "--stop-timeout",
    "--orphan-timeout",
    "--max-restarts",
    "--quiet",
];
const PAIR: [&str; 5] = ["--workers", "--listen", "--data-size", "--cell-size", "--allow-debug"];

fn help(command: &[&str]) -> String {
    let mut args = command.to_vec();
    args.push("--help");
    let output = run(osps(&args));
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_lists_every_option() {
    let cases: [(&[&str], Vec<&str>); 5] = [
        (&[], [&WATCH[..], &PAIR, &["run", "status", "list", "stop", "default: 4s"]].concat()),
        (
            &["run"],
            [&WATCH[..], &["--listen", "--service", "COMMAND", "OSPS_RUN_DIR", "OSPS_SLOT"]]
                .concat(),
        ),
        (&["status"], vec!["--advice", "--json", "--quiet", "[SERVICE]", "twice the worst gap"]),
        (&["list"], vec!["--json"]),
        (&["stop"], vec!["--quiet"]),
    ];
    for (command, options) in cases {
        let help = help(command);
        for option in options.into_iter().chain(["--name", "--run-dir"]) {
            assert!(help.contains(option), "osps {command:?} --help: no {option}:\n{help}");
        }
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let help = help(&[]);
    for part in ["Examples:", "Exit codes:", "0 clean", "3 gave up", "4 cannot tell", "RUST_LOG"] {
        assert!(help.contains(part), "no {part}:\n{help}");
    }
}

#[test]
fn help_of_every_command_has_examples_and_exit_codes() {
    let whole = osps::cli::Cli::command();
    for command in whole.get_subcommands() {
        let name = command.get_name();
        let help = help(&[name]);
        for part in ["Example", "Exit code"] {
            assert!(help.contains(part), "osps {name} --help: no {part}:\n{help}");
        }
        // One line of the list of commands, without a full stop.
        let about = command.get_about().unwrap().to_string();
        assert!(about.len() <= 76 && !about.ends_with('.'), "osps {name}: {about}");
    }
}

#[test]
fn version_is_told() {
    let output = run(osps(&["--version"]));
    let layout = osps_heart::segment::layout::VERSION;
    let expected = format!("osps {} (segment layout {layout})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

// --------------------------------------------------------------------------------------- refusals

#[test]
fn what_cannot_work_is_refused_by_option() {
    for (args, parts) in [
        (&["--hang-timeout", "4"][..], &["--hang-timeout", "`4s`"][..]),
        (&["--hang-timeout", "0.5"], &["--hang-timeout", "unit"]),
        (&["--hang-timeout", "4x"], &["--hang-timeout", "500ms"]),
        (&["--hang-timeout=-1s"], &["--hang-timeout", "500ms"]),
        (&["--hang-timeout", "10ms"], &["--hang-timeout", "20ms"]),
        (&["--hang-timeout", "99years"], &["--hang-timeout", "too long"]),
        (
            &["--hang-timeout", "1s", "--beat-interval", "600ms"],
            &["--hang-timeout", "600ms", "1s 200ms"],
        ),
        (&["--check-interval", "1ms"], &["--check-interval", "10ms"]),
        (&["--orphan-timeout", "10ms"], &["--orphan-timeout"]),
        (&["--max-restarts", "10"], &["--max-restarts", "10/1m"]),
        (&["--workers", "0"], &["--workers", "32"]),
        (&["--workers", "33"], &["--workers", "32"]),
        (&["--listen", "2222"], &["--listen"]),
        (&["--data-size", "1"], &["--data-size"]),
        (&["--cell-size", "100"], &["--cell-size", "128"]),
        (&["--name", "../etc"], &["--name", "letters"]),
        (&["run", "--hang-timeout", "4", "--", "true"], &["--hang-timeout", "`4s`"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["no-such-command"], &["no-such-command"]),
    ] {
        assert_refused(args, 2, parts);
    }
}

#[test]
fn options_in_the_wrong_place_are_refused() {
    for (args, parts) in [
        (&["--hang-timeout", "4s", "status"][..], &["--hang-timeout"][..]),
        (&["--workers", "2", "stop"], &["--workers"]),
        (&["--hang-timeout", "4s", "run", "--", "true"], &["--hang-timeout"]),
        (&["--allow-debug", "run", "--", "true"], &["--allow-debug"]),
        (&["run", "--workers", "2", "--", "true"], &["--workers"]),
        (&["status", "--hang-timeout", "4s"], &["--hang-timeout"]),
        (&["stop", "--json"], &["--json"]),
        (&["--quiet", "status"], &["--quiet"]),
        (&["status", "--quiet", "--json"], &["--quiet", "--json"]),
        (&["status", "--quiet", "--advice"], &["--quiet", "--advice"]),
        (&["status", "web"], &["--advice"]),
        (&["status", "--advice", ""], &["names have"]),
        (&["--service", "a"], &["--service"]),
        (&["run", "--listen", "127.0.0.1:0"], &["COMMAND"]),
        (&["run"], &["COMMAND"]),
        (&["run", "--"], &["COMMAND"]),
        (&["run", "--", ""], &["command"]),
    ] {
        assert_refused(args, 2, parts);
    }
}

#[test]
fn a_program_that_is_not_there_is_told_at_once() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "not a program").unwrap();
    for program in ["/no/such/program", "no-such-program-here", "/tmp", plain.to_str().unwrap()] {
        let start = Instant::now();
        assert_refused(&["run", "--", program], 1, &["cannot run", program]);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn without_an_instance_there_is_nothing_to_see_or_to_stop() {
    assert_refused(&["status"], 3, &["does not run"]);
    assert_refused(&["status", "--json"], 3, &["does not run"]);
    assert_refused(&["status", "--advice"], 3, &["does not run"]);
    assert_refused(&["stop"], 1, &["does not run"]);
}

// ----------------------------------------------------------------------------------------- status

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Fails unless docs/operations.md tells of every key, in the section with this heading.
fn assert_told(value: &Value, heading: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    let (_, section) = document.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        left.extend(value.as_array().into_iter().flatten());
        for (key, inside) in value.as_object().into_iter().flatten() {
            let told = [format!("`{key}`"), format!(".{key}`"), format!("`{key}[]`")];
            let is_told = told.iter().any(|told| section.contains(told));
            let parts = [format!("`{key}."), format!(".{key}.")];
            let has_parts = parts.iter().any(|part| section.contains(part));
            let names = inside.is_object() && has_parts || section.contains(&format!("{key}[]`"));
            assert!(is_told || names, "{key} stands not under {heading:?}");
            // Words of tables that stand in segment.md.
            if !["hangs", "by_cause"].contains(&key.as_str()) {
                left.push(inside);
            }
        }
    }
}

#[test]
fn the_advice_has_exactly_the_keys_of_schema_1() {
    let osps = Launch::pair(&["--workers", "2"]).start();
    let advice = |words: &[&str]| -> Value {
        let output = osps.command(&[&["status", "--advice", "--json"], words].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "one line, for `jq` and for logs");
        serde_json::from_str(&text).unwrap()
    };
    let all = advice(&[]);
    assert_eq!(keys(&all), ["hearts", "name", "schema"]);
    assert_eq!((&all["schema"], &all["name"]), (&1.into(), &"default".into()));
    let services = |report: &Value| -> Vec<String> {
        let hearts = report["hearts"].as_array().unwrap().iter();
        hearts.map(|heart| heart["service"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(services(&all), ["primary", "secondary-1", "secondary-2"]);
    for heart in all["hearts"].as_array().unwrap() {
        let first = ["gaps", "heart", "limit_ms", "near_misses", "service", "source"];
        let then = ["suggested_ms", "time_ms", "usual_ms", "why", "worst_ms"];
        assert_eq!(keys(heart), [&first[..], &then].concat());
        assert_eq!((&heart["limit_ms"], &heart["source"]), (&4000.into(), &"memory".into()));
        assert!(heart["heart"].is_null() && heart["suggested_ms"].is_null(), "{heart}");
    }
    // An instance by its name, all of a service by that of the service.
    assert_eq!(services(&advice(&["secondary-2"])), ["secondary-2"]);
    assert_eq!(services(&advice(&["secondary"])), ["secondary-1", "secondary-2"]);
}

#[test]
fn json_has_exactly_the_keys_of_schema_2() {
    let osps = Launch::pair(&["--workers", "2", "--hang-timeout", "5s"]).start();
    osps.signal(&osps.process(2), Signal::KILL);
    osps.wait_successor(2, osps.generation(2));
    osps.wait_all_up();
    let output = osps.command(&["status", "--json"]);
    assert!(output.stderr.is_empty(), "{}", text(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one line, for `jq` and for logs");
    let status: Value = serde_json::from_str(&text).unwrap();

    assert_told(&status, "\n## Status\n");
    let top = ["check_interval_ms", "data", "hang_timeout_ms", "name", "run_dir", "schema"];
    assert_eq!(keys(&status), [&top[..], &["servers", "services", "state", "watchdog"]].concat());
    assert_eq!((&status["schema"], &status["state"]), (&2.into(), &"all up".into()));
    assert_eq!(status["name"], "default");
    assert_eq!(status["run_dir"], osps.run_dir().to_str().unwrap());
    assert_eq!(status["hang_timeout_ms"], 5000);
    assert_eq!(status["check_interval_ms"], 2000);

    let watchdog = &status["watchdog"];
    let first = ["alive", "beat_age_ms", "dropped_lines", "elsewhere", "frozen", "lag_us"];
    let then = ["late_turns", "pid", "pid_here", "since_ms", "started_unix_ms", "worst_lag_us"];
    assert_eq!(keys(watchdog), [first, then].concat());
    assert_eq!(watchdog["pid"], osps.watchdog_pid());
    assert_eq!((&watchdog["alive"], &watchdog["elsewhere"]), (&true.into(), &false.into()));
    assert_eq!(watchdog["pid_here"], osps.watchdog_pid());
    assert!(watchdog["beat_age_ms"].is_u64() && watchdog["since_ms"].is_u64(), "{watchdog}");

    let data = &status["data"];
    assert_eq!(keys(data), ["epoch", "keys", "owner", "sequence", "size"]);
    assert!(["epoch", "keys", "sequence"].iter().all(|key| data[key].is_u64()), "{data}");
    assert_eq!(data["size"], 1 << 20);
    assert!(data["owner"].is_null() || data["owner"].is_string(), "{data}");

    let services = status["services"].as_array().unwrap();
    assert_eq!(services.len(), 3);
    for service in services {
        let all =
            "after_done depends_on hangs instances name reports restart_with restarts state up";
        assert_eq!(keys(service), all.split(' ').collect::<Vec<_>>());
        assert_eq!(service["instances"], serde_json::json!([service["name"]]));
        assert_eq!((&service["state"], &service["up"]), (&"up".into(), &1.into()));
    }

    let starts = |slot: usize| if slot == 2 { 2 } else { 1 };
    let servers = status["servers"].as_array().unwrap();
    let expected =
        [("primary", "primary"), ("secondary-1", "secondary"), ("secondary-2", "secondary")];
    assert_eq!(servers.len(), expected.len());
    for ((server, (name, role)), slot) in servers.iter().zip(expected).zip(0..) {
        let all = "activity after_done beat_age_ms beats blocked_by depends_on due_ms gaps \
                   generation hangs heart heart_pid hearts last_cause limit_ms listen name \
                   paused_ms pid reports restart_with restarts role service sessions since_ms slot \
                   sockets starts state stays_without_watchdog up_ms watched";
        assert_eq!(keys(server), all.split(' ').collect::<Vec<_>>());
        assert_eq!(server["service"], name);
        assert_eq!((&server["limit_ms"], &server["starts"]), (&5000.into(), &starts(slot).into()));
        let with = if slot == 0 { &[][..] } else { &["primary"] };
        assert_eq!(server["restart_with"], serde_json::json!(with));
        let none = serde_json::json!([]);
        assert_eq!((&server["depends_on"], &server["after_done"]), (&none, &none));
        assert!(server["since_ms"].is_u64() && server["up_ms"].is_u64(), "{server}");
        assert!(server["due_ms"].is_null(), "{server}");
        assert_eq!(server["reports"], serde_json::json!({"count": 0, "last": null}));
        let hangs = server["hangs"].as_object().unwrap();
        assert_eq!(hangs.len(), Class::ALL.len());
        assert!(Class::ALL.iter().all(|class| hangs[class.word()] == 0), "{server}");
        if !server["gaps"].is_null() {
            assert_eq!(keys(&server["gaps"]), ["count", "near_misses", "time_ms", "worst_ms"]);
        }
        assert_eq!((&server["name"], &server["role"]), (&name.into(), &role.into()));
        assert_eq!(server["slot"], slot);
        assert_eq!(server["pid"], osps.pid(slot));
        assert_eq!(server["generation"], osps.generation(slot));
        assert_eq!(server["state"], "up");
        assert_eq!((&server["heart"], &server["watched"]), (&"memory".into(), &true.into()));
        assert_eq!(server["hearts"], serde_json::json!([]));
        assert_eq!(server["stays_without_watchdog"], false);
        assert_eq!(server["sockets"], "held");
        assert_eq!(server["listen"], osps.address(slot).to_string());
        assert!(server["beats"].as_u64() > Some(0) && server["beat_age_ms"].is_u64(), "{server}");
        assert_eq!(keys(&server["restarts"]), ["by_cause", "dead", "frozen", "other"]);
        let causes = server["restarts"]["by_cause"].as_object().unwrap();
        assert_eq!(causes.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            let killed = u64::from(cause == Cause::Killed && slot == 2);
            assert_eq!(causes[cause.word()], killed, "{cause}");
        }
        assert_eq!(server["restarts"]["dead"], u64::from(slot == 2));
        assert_eq!(server["restarts"]["frozen"], 0);
        assert_eq!(server["restarts"]["other"], 0);
        let cause = if slot == 2 { Value::from("killed") } else { Value::Null };
        assert_eq!(server["last_cause"], cause);
        assert_eq!((&server["activity"], &server["sessions"]), (&"idle".into(), &0.into()));
    }
}

#[test]
fn the_table_names_everybody() {
    let osps = Launch::pair(&[]).start();
    let output = osps.command(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let watchdog = format!("watchdog pid {} alive", osps.watchdog_pid());
    for part in [&watchdog, "primary", "secondary-1", "all up"] {
        assert!(table.contains(part), "no {part}:\n{table}");
    }
    for slot in [0, 1] {
        let parts = [osps.pid(slot).to_string(), osps.address(slot).to_string(), " up ".to_owned()];
        let row = |line: &&str| parts.iter().all(|part| line.contains(part.as_str()));
        assert!(table.lines().any(|line| row(&line)), "no row with {parts:?}:\n{table}");
    }
}

#[test]
fn a_silent_server_is_degraded() {
    let osps = Launch::pair(&["--hang-timeout", "2s"]).start();
    assert_eq!(osps.command(&["status"]).status.code(), Some(0));
    osps.signal(&osps.process(1), Signal::STOP);
    let output = osps.wait("a degraded status", || {
        Some(osps.command(&["status"])).filter(|output| output.status.code() == Some(1))
    });
    assert!(text(&output).contains("degraded"), "{}", text(&output));
    osps.wait("all up again", || osps.command(&["status"]).status.success().then_some(()));
}

#[test]
fn a_program_that_has_not_beaten_is_degraded() {
    let mut osps = Launch::own(&[], &["sleep", "60"]).spawn();
    let pid = osps.pid(0);
    let output = osps.command(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let server = &osps.status()["servers"][0];
    assert_eq!((&server["name"], &server["role"]), (&"sleep".into(), &"program".into()));
    assert_eq!((&server["state"], &server["pid"]), (&"starting".into(), &pid.into()));
    assert!(server["beat_age_ms"].is_null() && server["listen"].is_null(), "{server}");
    osps.stop();
}

#[test]
fn servers_without_a_watchdog_are_degraded_and_leftovers_do_not_run() {
    let mut osps = Launch::pair(&[]).start();
    let servers = [osps.process(0), osps.process(1)];
    osps.kill_watchdog();
    let output = osps.command(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("DEAD") && text(&output).contains("without a watchdog"));
    assert_eq!(osps.status()["watchdog"]["alive"], false);
    let stop = osps.command(&["stop"]);
    assert_eq!(stop.status.code(), Some(1), "{}", text(&stop));
    assert!(text(&stop).contains("no watchdog runs"), "{}", text(&stop));

    for server in &servers {
        osps.signal(server, Signal::KILL);
    }
    osps.wait("all dead", || servers.iter().all(Process::is_dead).then_some(()));
    let output = osps.command(&["status"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("leftovers"), "{}", text(&output));
    File::create(osps.run_dir().join("segment")).unwrap().write_all(&[7; 9000]).unwrap();
    let output = osps.command(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(output.stdout.is_empty() && text(&output).contains("cannot tell"));
}

#[test]
fn a_frozen_watchdog_is_named_and_can_be_stopped_later() {
    let mut osps = Launch::pair(&[]).start();
    osps.signal_watchdog(Signal::STOP);
    let segment = osps.segment();
    osps.wait("a stale watchdog", || {
        (watchdog_age(&segment, now())? > WATCHDOG_STALE).then_some(())
    });
    let output = osps.command(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("FROZEN"), "{}", text(&output));
    let stop = osps.command(&["stop"]);
    assert_eq!(stop.status.code(), Some(1), "{}", text(&stop));
    let cure = format!("kill -CONT {}", osps.watchdog_pid());
    assert!(text(&stop).contains("frozen") && text(&stop).contains(&cure), "{}", text(&stop));
    osps.signal_watchdog(Signal::CONT);
    assert_eq!(osps.wait_exit().code(), Some(0), "it stops as asked");
    assert!(!osps.run_dir().exists());
}

// ----------------------------------------------------------------------------------------- output

#[test]
fn a_closed_stdout_is_no_reason_to_stop() {
    let mut odd = Odd::start(|args, run_dir| {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-", BINARY]).args(args).arg(run_dir);
        command.stdin(Stdio::null());
        command
    });
    odd.assert_supervises();
    odd.stop();
}

#[test]
fn a_full_disk_behind_stderr_is_no_reason_to_stop() {
    let mut odd = Odd::start(|args, run_dir| {
        let mut command = osps(args);
        let full = || File::options().write(true).open("/dev/full").unwrap();
        command.arg(run_dir).stdin(Stdio::null()).stdout(full()).stderr(full());
        command
    });
    odd.assert_supervises();
    odd.stop();
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::pipe::fcntl_setpipe_size(&read, 4096).unwrap();
    let mut odd = Odd::start(|args, run_dir| {
        let mut command = osps(args);
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        command.arg(run_dir).stdin(Stdio::null()).stdout(end(&write)).stderr(end(&write));
        // Servers write too, into the same pipe.
        command.env("RUST_LOG", "trace");
        command
    });
    odd.wait_dropped();
    odd.assert_supervises();
    odd.stop();
    drop((read, write));
}

/// A terminal of its own for a program, with somebody at its keyboard: each line on stdin is a
/// key in hexadecimal; every byte that the terminal shows is thrown away.
const TERMINAL: &str = "
import os, pty, sys, threading
pid, screen = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
def look():
    try:
        while os.read(screen, 4096): pass
    except OSError: pass
threading.Thread(target=look, daemon=True).start()
for key in sys.stdin:
    os.write(screen, bytes.fromhex(key))
";

#[test]
fn ctrl_s_stops_nobody() {
    let python = Command::new("python3").args(["-c", "import pty"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        skip("a terminal needs python3 with its pty module");
        return;
    }
    let mut odd = Odd::start(|args, run_dir| {
        let mut command = Command::new("python3");
        command.args(["-c", TERMINAL, BINARY]).args(args).arg(run_dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    });
    let mut keyboard = odd.child.stdin.take().unwrap();
    let header = |odd: &Odd| odd.segment().header().dropped_lines.load(Ordering::Relaxed);
    assert_eq!(header(&odd), 0, "the terminal is read before Ctrl-S");
    keyboard.write_all(b"13\n").unwrap();
    odd.wait_dropped();
    odd.assert_supervises();
    keyboard.write_all(b"11\n").unwrap();
    odd.assert_supervises();
    // Whoever pulls the terminal's plug hangs up: an orderly stop.
    let servers = [odd.process(0), odd.process(1)];
    drop(keyboard);
    assert!(odd.child.wait().unwrap().success());
    wait_until("the end", SOON, || (!odd.run_dir.exists()).then_some(()));
    assert!(servers.iter().flatten().all(Process::is_dead));
}
