//! Hearts of all kinds under the real osps, as far as a program needs no tool for them: `auto` and
//! `none`, further named hearts, what a freeze means, and how a program that knows nothing of osps
//! is ended. What is decided when is tests/policy/watches.rs.
//!
//! Method: this test binary is the supervised program as well (`as_program`).
//!
//! What it cannot show: hearts of other sources (tests/notify.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::path::Path;
use std::time::Duration;

use osps_heart::Heart;
use osps_heart::segment::layout::HEARTS_DEFAULT;
use osps_heart::words::State;
use serde_json::json;

use common::{Launch, Osps, Signal, ms, pass};

const OPTIONS: [&str; 4] = ["--hang-timeout", "800ms", "--check-interval", "400ms"];
const PART: &str = "OSPS_TEST_PART";

/// What this binary does when osps starts it.
#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    let part = std::env::var(PART).unwrap_or_default();
    if part.is_empty() {
        return;
    }
    let mut heart = Heart::from_env().unwrap();
    let first = std::env::var("OSPS_GENERATION").unwrap() == "1";
    let mut writer = Some(Heart::named("db-writer", ms(300)).unwrap());
    let mut turn = 0_u32;
    while !heart.should_stop() {
        heart.beat();
        turn += 1;
        let told = std::env::var_os(TOLD).is_some_and(|path| Path::new(&path).exists());
        match (&*part, &writer) {
            // Five turns of a second heart, then it hangs while the first goes on.
            ("a heart hangs", Some(writer)) if turn < 5 || !first => writer.beat(),
            ("one beat", _) => std::process::exit(1),
            ("a heart hangs when told", Some(writer)) if !told || !first => writer.beat(),
            ("a heart parks", Some(writer)) if turn < 5 => writer.beat(),
            ("a heart parks", Some(writer)) if turn == 5 => writer.park(),
            ("a heart is dropped", Some(writer)) if turn < 5 => writer.beat(),
            ("a heart is dropped", _) => writer = None,
            ("many", _) => {
                let many = (0..).map_while(|number| {
                    Heart::named(&format!("heart-{number}"), Duration::ZERO)
                        .ok()
                        .inspect(Heart::beat)
                });
                let count = many.map(std::mem::forget).count();
                heart.set_activity(&format!("{count} more"));
                std::thread::sleep(Duration::from_secs(3600));
            }
            _ => {}
        }
        std::thread::sleep(ms(20));
    }
}

/// Before anybody had looked: it was taken for a start that came to nothing, and had to wait.
#[test]
fn who_dies_at_its_first_beat_was_up() {
    let osps = Launch::this(&OPTIONS).env(PART, "one beat").spawn();
    for generation in 1..=2 {
        let number = format!("gen={generation} ");
        osps.wait_log(&[&number, "starting -> up (first beat after "]);
        osps.wait_log(&[&number, "up -> exited (status 1"]);
    }
}

/// A file that tells the program to hang.
const TOLD: &str = "OSPS_TEST_TOLD";

/// Nobody had seen it beat: it was never convicted.
#[test]
fn a_further_heart_that_hangs_while_nobody_watches_is_found_by_the_next_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hang");
    let launch = Launch::this(&OPTIONS).env(PART, "a heart hangs when told").env(TOLD, &path);
    let mut osps = launch.start();
    osps.wait("its further heart", || {
        osps.server(0)["hearts"][0]["beat_age_ms"].is_u64().then_some(())
    });
    osps.kill_watchdog();
    std::fs::write(&path, "").unwrap();
    std::thread::sleep(ms(100));
    let start = common::now();
    osps.start_again();
    let line = osps.wait_log(&["gen=1 ", "-> frozen (", "heart db-writer"]);
    assert!(line.at.since(start) >= ms(300), "not before a full limit: {}", osps.log());
    osps.wait_log(&["gen=2 ", "starting -> up"]);
    osps.stop();
}

fn launch(options: &[&str], part: &str) -> Osps {
    Launch::this(&[&OPTIONS[..], options].concat()).env(PART, part).start()
}

#[test]
fn a_further_heart_that_hangs_convicts_and_is_named_everywhere() {
    let osps = launch(&[], "a heart hangs");
    osps.wait("the further heart", || {
        let hearts = osps.server(0)["hearts"].clone();
        (hearts[0]["name"] == "db-writer" && hearts[0]["limit_ms"] == 300).then_some(())
    });
    let late = osps.wait_log(&["up -> late (no beat for ", "limit 300ms, heart db-writer)"]);
    let verdict = osps.wait_log(&["late -> frozen (blocked in ", "limit 300ms, heart db-writer)"]);
    assert!(late.at < verdict.at);
    assert_eq!(osps.server(0)["last_cause"], "frozen (blocked, heart db-writer)");
    osps.wait_log(&["gen=2 ", "starting -> up"]);
    osps.wait("its successor's heart", || {
        let hearts = osps.server(0)["hearts"].as_array().unwrap().clone();
        // The line of the dead one is free again.
        (hearts.len() == 1 && hearts[0]["beat_age_ms"].is_u64()).then_some(())
    });
    let table = osps.table();
    assert!(table.contains("  db-writer") && table.contains("limit 300.0ms"), "{table}");
}

#[test]
fn a_further_heart_that_parks_or_is_dropped_convicts_nobody() {
    for part in ["a heart parks", "a heart is dropped"] {
        let osps = launch(&[], part);
        let segment = osps.segment();
        let line = &segment.hearts()[1];
        osps.wait("the end of its beats", || {
            let beaten = line.sample().count != 0;
            let ended = match part {
                "a heart parks" => osps.server(0)["hearts"][0]["parked"] == true,
                _ => line.claimed().slot.is_none() && osps.server(0)["hearts"] == json!([]),
            };
            (beaten && ended).then_some(())
        });
        pass(ms(1500));
        assert_eq!((osps.generation(0), osps.state(0)), (1, Some(State::Up)), "{}", osps.log());
    }
}

/// Every line that there is belongs to a dead generation: none is left for its successor but what
/// the watchdog frees, and it needs them at once. It was refused now and then, and gave up.
#[test]
fn the_lines_of_the_dead_are_free_again() {
    let osps = launch(&[], "many");
    let all = format!("{} more", HEARTS_DEFAULT - 2);
    for generation in 1..=2 {
        osps.wait("its hearts", || (osps.server(0)["activity"] == all.as_str()).then_some(()));
        osps.wait_log(&[&format!("gen={generation} "), "-> frozen (blocked in "]);
    }
}

#[test]
fn a_program_that_never_beats_is_up_unwatched_and_told_once_how_to_change_that() {
    let mut osps = Launch::own(&OPTIONS, &["sleep", "1000"]).start();
    osps.wait_log(&["starting -> up (unwatched: it has not beaten)"]);
    osps.wait_log(&["--heart loop ", "--heart probe:", "--heart file:", "--heart none"]);
    assert_eq!(
        (&osps.server(0)["heart"], &osps.server(0)["watched"]),
        (&"auto".into(), &false.into())
    );
    let table = osps.table();
    assert!(table.contains("unwatched") && table.contains("all up"), "{table}");
    osps.stop_process(&osps.process(0));
    pass(ms(1600));
    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait_log(&["gen=2 ", "starting -> up (unwatched"]);
    assert_eq!(osps.log().matches("--heart probe:").count(), 1, "{}", osps.log());
    osps.stop();
}

#[test]
fn none_is_what_its_user_wants_and_needs_no_advice() {
    let mut osps = Launch::own(&["--heart", "none"], &["sleep", "1000"]).start();
    osps.wait_log(&["starting -> up (unwatched"]);
    assert!(osps.find_log(&["--heart"]).is_none(), "{}", osps.log());
    osps.stop();
}

#[test]
fn on_hang_warn_tells_and_kills_nobody() {
    let osps = launch(&["--on-hang", "warn"], "many");
    let program = osps.process(0);
    osps.wait_log(&["-> held (blocked in ", "on-hang is warn, so it is not killed)"]);
    pass(ms(1000));
    assert!(!program.is_dead());
    assert_eq!((osps.generation(0), osps.state(0)), (1, Some(State::Held)));
}

#[test]
fn a_program_that_heeds_no_stop_word_gets_its_signal_at_once() {
    for (option, word) in [(None, "TERM"), (Some("QUIT"), "QUIT"), (Some("sigusr1"), "USR1")] {
        let options = option.map_or(vec![], |signal| vec!["--stop-signal", signal]);
        let script = format!(
            "trap 'echo got {word}; exit 0' {word}; echo ready; while :; do sleep 0.05; done"
        );
        let mut osps = Launch::own(&options, &["sh", "-c", &script]).start();
        osps.wait("its trap", || {
            osps.out.lock().unwrap().iter().any(|line| line.text == "ready").then_some(())
        });
        osps.stop();
        let log = osps.log();
        assert!(log.contains(&format!("(sent {word}, since")), "{log}");
        assert!(log.contains("stopping -> down (status 0)"), "{log}");
    }
    // One that does look at it is left in peace.
    let mut osps = launch(&[], "a heart parks");
    osps.stop();
    assert!(osps.find_log(&["(sent "]).is_none(), "{}", osps.log());
}

/// A daemon that leaves somebody behind on purpose, a login session or a terminal.
#[test]
fn with_kill_mode_group_what_left_the_group_survives() {
    let script = "setsid sleep 300 & echo survivor $!; sleep 0.2; exec sleep 1000";
    for (mode, survives) in [("tree", false), ("group", true)] {
        let mut osps = Launch::own(&["--kill-mode", mode], &["sh", "-c", script]).start();
        let survivor = osps.wait("the survivor", || {
            let lines = osps.out.lock().unwrap();
            let pid = lines.iter().find_map(|line| line.text.strip_prefix("survivor "))?;
            common::process_of(pid.parse().ok()?)
        });
        osps.stop();
        assert_eq!(!survivor.is_dead(), survives, "{mode}\n{}", osps.log());
        let told = osps.find_log(&["left alone (--kill-mode group): pid "]).is_some();
        assert_eq!(told, survives, "{}", osps.log());
        let _ = survivor.kill();
    }
}
