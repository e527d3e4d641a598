//! Programs of the user's own under `osps run`, in Python and in C: the examples of the documents.
//!
//! Goal: what docs/examples says works as it stands, on the header and the package in heart/. A
//! program that maps a file and stores two words is supervised like a built-in server: frozen,
//! spinning or killed, it is replaced; and whoever maps the file sees all hearts, even those that a
//! dead watchdog left behind.
//!
//! Method: the example files themselves run under the real binary; the C one is compiled first.
//! Faults are SIGSTOP, SIGKILL and the examples' own `--hang-after`.
//!
//! What it cannot show: other languages, other compilers, big-endian machines. Without python3 or
//! cc the tests say that they are skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use osps::sys::process::Process;
use osps_heart::sync::{Ordering, Word};

use common::{Launch, Osps, Over, Signal, has, now, skip};

/// A limit that a python on a loaded machine keeps easily.
const LIMIT: Duration = Duration::from_secs(2);
/// The same for the command line. Seldom checks: verdicts come at the deadline all the same.
const PATIENT: [&str; 4] = ["--hang-timeout", "2s", "--check-interval", "1s"];

/// Where the package `osps` for Python is.
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/python");
/// Where osps.h is.
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/c");

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name)
}

/// `python3 docs/examples/beat.py`, if it can run here.
fn in_python() -> Option<Vec<String>> {
    if !has("python3") {
        skip("python3 is missing");
        return None;
    }
    Some(vec!["python3".to_owned(), example("beat.py").display().to_string()])
}

/// docs/examples/beat.c, compiled; the directory keeps the program.
fn in_c() -> Option<(tempfile::TempDir, Vec<String>)> {
    if !has("cc") {
        skip("cc is missing");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("beat");
    let options = ["-O2", "-Wall", "-Wextra", "-Werror", "-I", HEADER];
    common::compile(&options, example("beat.c").as_ref(), &program, &[]);
    Some((dir, vec![program.display().to_string()]))
}

fn launch(command: &[String], more: &[&str]) -> Osps {
    let command: Vec<_> = command.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Launch::own(&PATIENT, &command).env("PYTHONPATH", PACKAGE).start()
}

/// Up, frozen, killed, stopped.
fn lives_a_whole_life(command: &[String]) {
    let mut osps = launch(command, &[]);
    let heart = osps.segment();
    let beats = || heart.hearts()[0].sample().count;
    let first = beats();
    osps.wait("ten beats", || (beats() >= first + 10).then_some(()));

    let (frozen, generation) = (osps.process(0), osps.generation(0));
    osps.signal(&frozen, Signal::STOP);
    let at = heart.hearts()[0].sample().stamp;
    let (generation, _) = {
        let successor = osps.wait_successor(0, generation);
        assert!(successor.1.since(at) >= LIMIT, "not before the limit\n{}", osps.log());
        successor
    };
    assert!(frozen.is_dead());
    osps.wait_log(&["-> frozen (stopped; no beat for "]);
    osps.wait_all_up();

    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait_successor(0, generation);
    osps.wait_log(&["-> killed (signal 9"]);
    osps.wait_all_up();
    let restarts = &osps.status()["servers"][0]["restarts"];
    let by_cause = serde_json::json!({
        "exited": 0, "killed": 1, "frozen": 1, "start-timeout": 0, "dependency": 0,
        "requested": 0, "out-of-memory": 0,
    });
    let expected = serde_json::json!({"dead": 1, "frozen": 1, "other": 0, "by_cause": by_cause});
    assert_eq!(restarts, &expected);

    let last = osps.process(0);
    let stopped = osps.command(&["stop"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(last.is_dead(), "stop returns when all is gone");
    assert_eq!(osps.wait_exit().code(), Some(0));
    assert!(!osps.run_dir().exists());
}

/// A program that computes for ever is busy, and still frozen.
fn is_convicted_of_spinning(command: &[String]) {
    let osps = launch(command, &["--hang-after", "0.5"]);
    let (spinning, generation) = (osps.process(0), osps.generation(0));
    let pid = format!("pid={}: ", spinning.pid());
    osps.wait_spinning(&[&pid]);
    let segment = osps.segment();
    let silence = segment.slots()[0].server.last_silence_ns.load(Ordering::Relaxed);
    assert!(Duration::from_nanos(silence) >= LIMIT, "not before the limit\n{}", osps.log());
    osps.wait_successor(0, generation);
    assert!(spinning.is_dead());
}

#[test]
fn a_python_program_lives_a_whole_life() {
    if let Some(command) = in_python() {
        lives_a_whole_life(&command);
    }
}

#[test]
fn a_python_program_is_convicted_of_spinning() {
    if let Some(command) = in_python() {
        is_convicted_of_spinning(&command);
    }
}

#[test]
fn a_c_program_lives_a_whole_life() {
    if let Some((_dir, command)) = in_c() {
        lives_a_whole_life(&command);
    }
}

#[test]
fn a_c_program_is_convicted_of_spinning() {
    if let Some((_dir, command)) = in_c() {
        is_convicted_of_spinning(&command);
    }
}

#[test]
fn without_osps_the_examples_say_how_to_start_them() {
    let started_by_hand = |command: &[String]| {
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]).env_remove("OSPS_RUN_DIR").env_remove("OSPS_SLOT");
        program.env("PYTHONPATH", PACKAGE);
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("not started by osps") && said.contains("osps run --"), "{said}");
    };
    if let Some(command) = in_python() {
        started_by_hand(&command);
    }
    if let Some((_dir, command)) = in_c() {
        started_by_hand(&command);
    }
}

fn hearts(run_dir: &Path) -> Output {
    Command::new("python3").arg(example("hearts.py")).arg(run_dir).output().unwrap()
}

/// The row of a name: pid, state and the age of the last beat.
fn row(table: &str, name: &str) -> (u32, String, Option<f64>) {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|row| row.first() == Some(&name));
    let row = row.unwrap_or_else(|| panic!("no row of {name}:\n{table}"));
    let age = row[5].parse().ok().filter(|_| row.get(6) == Some(&"ms"));
    (row[1].parse().unwrap(), row[3].to_owned(), age)
}

#[test]
fn hearts_are_seen_from_outside_even_without_a_watchdog() {
    if in_python().is_none() {
        return;
    }
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    let see = |osps: &Osps| {
        let output = hearts(osps.run_dir());
        let table = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}\n{table}");
        assert_eq!(row(&table, "watchdog").0, osps.watchdog_pid());
        for (slot, name) in ["primary", "secondary-1", "secondary-2"].into_iter().enumerate() {
            let (pid, state, age) = row(&table, name);
            assert_eq!((pid, state.as_str()), (osps.pid(slot), "up"), "{table}");
            // A server beats every half second; a machine that is this late is not usable.
            assert!(age.is_some_and(|age| (0.0..10_000.0).contains(&age)), "{table}");
        }
        table
    };
    see(&osps);

    osps.kill_watchdog();
    let dead_at = now();
    let segment = osps.segment();
    osps.wait("beats after the watchdog's death", || {
        let beaten = |slot: usize| segment.hearts()[slot].sample().stamp > dead_at;
        (0..3).all(beaten).then_some(())
    });
    let table = see(&osps);
    let silence = now().since(segment.header().watchdog_heart.sample().stamp);
    let age = row(&table, "watchdog").2.unwrap();
    assert!(Duration::from_secs_f64(age / 1e3) <= silence, "{table}");

    let servers = osps.servers();
    for server in &servers {
        osps.signal(server, Signal::KILL);
    }
    osps.wait("all dead", || servers.iter().all(Process::is_dead).then_some(()));
    assert!(hearts(osps.run_dir()).status.success(), "the dead are still recorded");
    std::fs::write(osps.run_dir().join("segment"), "garbage").unwrap();
    let refused = hearts(osps.run_dir());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("hearts.py: "));
}

/// Every commit here is one `INCR` of the only key, so in a consistent copy the number of the
/// commit and the value are equal; in a torn one they are not, or the value is no number at all.
#[test]
fn a_copy_of_the_data_from_outside_is_consistent_while_a_server_writes() {
    if in_python().is_none() {
        return;
    }
    let osps = Launch::pair(&[]).start();
    let mut writer = osps.send(0, "INCR n");
    let done = Word::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut replies = [0u8; 4096];
            while done.load(Ordering::Relaxed) == 0 {
                writer.write_all(&b"INCR n\r\n".repeat(64)).unwrap();
                assert!(writer.read(&mut replies).unwrap() > 0);
            }
        });
        let _done = Over(&done);
        let mut last = 0;
        for _ in 0..10 {
            let mut command = Command::new("python3");
            command.arg(example("hearts.py")).arg("--data").arg(osps.run_dir());
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let number = |before: &str, after: char| {
                let rest = text.split_once(before).expect(before).1;
                rest.split_once(after).expect("an end").0.parse::<u64>().unwrap()
            };
            let (sequence, value) = (number("data: sequence ", ','), number("b'n' = b'", '\''));
            assert_eq!(sequence, value, "{text}");
            assert!(value > last, "the writer writes on: {text}");
            last = value;
        }
    });
}
