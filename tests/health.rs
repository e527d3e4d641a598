//! Goal: `osps health` tells a probe by its exit code what `osps status` tells people, in one line.
//!
//! Method: black box, services that are ended, stopped by request, frozen, or without a watchdog.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use common::services::act;
use common::{Launch, Osps, SOON, Signal, wait_until};
use osps::sys::process::Process;
use osps_heart::words::State;

#[test]
#[ignore = "a program that these tests start"]
fn as_program() {
    act();
}

const TWO: &str = "\
    [service.db]\n@SLEEP@\n\
    [service.web]\n@SLEEP@\ninstances = 2\n";

fn two() -> Osps {
    let osps = Launch::up(TWO).spawn();
    osps.wait_up(&["db", "web-1", "web-2"]);
    osps
}

#[track_caller]
fn assert_health(osps: &Osps, words: &[&str], code: i32, line: &str) {
    let (got, said) = osps.ask_for(&[&["health"], words].concat());
    assert_eq!((got, said.trim_end()), (code, line), "{words:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn one_line_and_an_exit_code_tell_how_it_is() {
    let osps = two();
    assert_health(&osps, &[], 0, "default: 3 of 3 up");
    assert_health(&osps, &["web"], 0, "web: 2 of 2 up");
    assert_health(&osps, &["web-2"], 0, "web-2: 1 of 1 up");
    osps.do_ask(&["stop", "web-2"]);
    osps.wait_state("web-2", State::Down);
    assert_health(&osps, &[], 1, "default: 2 of 3 up; web-2 is down");
    assert_health(&osps, &["web"], 1, "web: 1 of 2 up; web-2 is down");
    assert_health(&osps, &["web-1"], 0, "web-1: 1 of 1 up");
    assert_health(&osps, &["db"], 0, "db: 1 of 1 up");
}

#[test]
fn a_watchdog_that_is_dead_or_frozen_watches_over_nobody() {
    let mut osps = two();
    osps.stop_watchdog();
    let frozen = "1 of 1 up; the watchdog is frozen";
    wait_until("a stale heart", SOON, || {
        (osps.ask_for(&["health", "db"]) == (1, format!("db: {frozen}\n"))).then_some(())
    });
    osps.signal_watchdog(Signal::CONT);
    wait_until("a heart that beats", SOON, || {
        (osps.ask_for(&["health", "db"]).0 == 0).then_some(())
    });
    let servers = [0, 1, 2].map(|slot| osps.process(slot));
    osps.kill_watchdog();
    assert_health(&osps, &["db"], 1, "db: 1 of 1 up; servers live without a watchdog");
    for server in &servers {
        osps.signal(server, Signal::KILL);
    }
    osps.wait("all dead", || servers.iter().all(Process::is_dead).then_some(()));
    assert_health(&osps, &[], 1, "default: does not run; these are leftovers");
}

#[test]
fn who_is_not_there_is_not_healthy_and_a_name_of_nobody_is_a_slip() {
    let mut osps = two();
    let (code, said) = osps.ask_for(&["health", "nobody"]);
    assert!(code == 2 && said.ends_with("no service nobody; there is db, web\n"), "{said}");
    osps.stop();
    let (code, said) = osps.ask_for(&["health"]);
    assert!(code == 1 && said.contains("does not run") && said.lines().count() == 1, "{said}");
    let (code, said) = osps.ask_for(&["health", "db"]);
    assert!(code == 1 && said.contains("does not run"), "{said}");
}
