//! Trampolines that wait for the next restart of a program.
//!
//! Goal: a successor is one of them, whatever its command line; one that was stopped or killed is
//! not used and delays nobody; nothing of them stays, however osps ends, and nobody sees them but
//! `ps`.
//!
//! Method: `osps run` with programs in shell; the spares are the watchdog's children that lead no
//! slot.
//!
//! What it cannot show: how fast it is (benches/restarts.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::time::{Duration, Instant};

use osps::sys::process::Process;
use osps::sys::procfs;

use common::{Launch, Osps, SOON, Signal, is_root, ms, pass, skip, wait_until};

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn launch(command: &[&str]) -> Osps {
    Launch::own(&["--heart", "none"], command).start()
}

/// The children of the watchdog that are no leader.
fn spares(osps: &Osps) -> Vec<Process> {
    let (watchdog, leader) = (osps.watchdog_pid(), osps.pid(0));
    let is = |stat: &procfs::Stat| stat.parent == watchdog && stat.pid != leader;
    let all = procfs::processes().into_iter().filter(is);
    all.filter_map(|stat| Process::find(stat.pid, stat.start_time)).collect()
}

fn wait_spares(osps: &Osps) -> Vec<Process> {
    osps.wait("two spares", || Some(spares(osps)).filter(|spares| spares.len() == 2))
}

fn kill_program(osps: &Osps) -> u32 {
    let old = osps.generation(0);
    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait("a successor", || {
        let identity = osps.segment().slots()[0].server.identity()?;
        (identity.generation.0 != old).then_some(identity.pid)
    })
}

#[test]
fn a_successor_was_a_spare_and_the_pool_is_filled_again() {
    let long = "x".repeat(100_000);
    let osps = launch(&["sh", "-c", "echo ${#1} $OSPS_GENERATION; exec sleep 1000", "sh", &long]);
    for generation in 2..=5 {
        let pids: Vec<_> = wait_spares(&osps).iter().map(Process::pid).collect();
        let successor = kill_program(&osps);
        assert!(pids.contains(&successor), "{successor} was none of {pids:?}");
        let said = format!("100000 {generation}");
        osps.wait("its word", || {
            osps.out.lock().unwrap().iter().any(|line| line.text == said).then_some(())
        });
        osps.wait("up", || osps.is_state(0, osps_heart::words::State::Up).then_some(()));
    }
}

/// What a restart touches is not read from the disk again, where the limit of locked memory allows.
#[test]
fn their_memory_and_the_watchdogs_is_kept() {
    if !is_root() {
        return skip("a limit of locked memory may be anything");
    }
    let osps = launch(&SLEEP);
    let spares = wait_spares(&osps);
    for pid in spares.iter().map(Process::pid).chain([osps.watchdog_pid()]) {
        osps.wait("locked memory", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
            let kib = locked.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
            (kib > 0).then_some(())
        });
    }
}

/// Whoever may signal osps may stop a spare; the restart shall not wait for it.
#[test]
fn a_spare_that_is_stopped_or_dead_delays_nobody() {
    let osps = launch(&SLEEP);
    let stopped = wait_spares(&osps);
    for spare in &stopped {
        osps.stop_process(spare);
    }
    let begun = Instant::now();
    let successor = kill_program(&osps);
    assert!(stopped.iter().all(|spare| spare.pid() != successor));
    assert!(begun.elapsed() < SOON / 3, "{:?}", begun.elapsed());
    osps.wait("the end of the stopped ones", || stopped.iter().all(Process::is_dead).then_some(()));
    let killed = wait_spares(&osps);
    for spare in &killed {
        osps.signal(spare, Signal::KILL);
    }
    osps.wait("others", || {
        let now = spares(&osps);
        let new = |spare: &Process| killed.iter().all(|old| old.pid() != spare.pid());
        (now.len() == 2 && now.iter().all(new)).then_some(())
    });
    assert!(osps.zombies().is_empty());
    kill_program(&osps);
}

#[test]
fn nothing_of_them_stays() {
    let mut osps = launch(&SLEEP);
    let left = wait_spares(&osps);
    osps.stop();
    assert!(left.iter().all(Process::is_dead));
    assert!(osps.log().contains("all stopped, nothing left"), "{}", osps.log());
    assert!(!osps.log().contains("nobody knows whose"), "{}", osps.log());
    // A watchdog that is killed ends nobody; the gates close.
    let mut osps = launch(&SLEEP);
    let left = wait_spares(&osps);
    osps.kill_watchdog();
    wait_until("their leaving", SOON, || left.iter().all(Process::is_dead).then_some(()));
    osps.kill_everything();
}

/// The pair's servers start as they did.
#[test]
fn a_pair_has_none() {
    let osps = Launch::pair(&[]).start();
    pass(ms(2500));
    let watchdog = osps.watchdog_pid();
    let children = procfs::processes().into_iter().filter(|stat| stat.parent == watchdog);
    assert_eq!(children.count(), 2);
}

/// Failures one after the other, faster than the pool is filled.
#[test]
fn an_empty_pool_costs_a_launch() {
    let osps = launch(&SLEEP);
    wait_spares(&osps);
    let begun = Instant::now();
    for _ in 0..5 {
        kill_program(&osps);
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(osps.generation(0), 6);
}
