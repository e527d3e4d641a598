//! Whose heart it is: a line has one owner, and nobody else's beats hide its freeze.
//!
//! Goal: the first process of a generation that opens the heart owns it, also behind a wrapper; a
//! child of the program is refused by name; beats under an earlier generation's claim do not count;
//! once the owner died while the leader lives, another may own it.
//!
//! Method: this test binary is the supervised program as well (`as_program`, told by an environment
//! variable what to do), under the real osps.
//!
//! The story: a program that started a child of its own binary hung for seven limits and was `up`
//! all the time, since its child beat in the same line.
//!
//! What it cannot show: two openers at the very same moment; there the exchange decides, which
//! heart/src/segment/heart.rs tests.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use osps::sys::process::Process;
use osps_heart::ids::{Claim, Generation, SlotId};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::{Heart, HeartError};

use common::{AS_PROGRAM, Launch, Osps, Signal, now, pass, process_of};

const LIMIT: Duration = Duration::from_millis(800);
const PATIENT: [&str; 4] = ["--hang-timeout", "800ms", "--check-interval", "400ms"];
const PART: &str = "OSPS_TEST_PART";

/// What this binary does when osps starts it.
#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    match std::env::var(PART).unwrap_or_default().as_str() {
        "beats" => beat_for_ever(),
        "has a child" => {
            let heart = Heart::from_env().unwrap();
            heart.beat();
            program("beats").status().unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(3600)); // Hangs.
            }
        }
        _ => {}
    }
}

fn beat_for_ever() {
    match Heart::from_env() {
        Ok(mut heart) => {
            while !heart.should_stop() {
                heart.beat();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Err(why) => {
            // Not the harness's captured output: the log of osps shows it.
            let _ = writeln!(std::io::stderr(), "refused: {why}");
        }
    }
}

fn program(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(AS_PROGRAM).env(PART, part);
    command
}

fn this() -> String {
    let exe = std::env::current_exe().unwrap();
    format!("{} {}", exe.display(), AS_PROGRAM.join(" "))
}

fn launch(part: &str) -> Osps {
    Launch::this(&PATIENT).env(PART, part).start()
}

/// Behind a shell that does not beat itself.
fn launch_behind(script: &str) -> Osps {
    Launch::own(&PATIENT, &["sh", "-c", script]).env(PART, "beats").start()
}

/// Who beats in slot 0, once somebody claimed the heart; held by pidfd.
fn beater(osps: &Osps) -> Process {
    let segment = osps.segment();
    osps.wait("a claimant", || {
        let claim = segment.hearts()[0].claimed();
        process_of(claim.pid).filter(|process| claim.started_at(process.start_time()))
    })
}

#[test]
fn a_child_cannot_beat_for_its_parent() {
    let osps = launch("has a child");
    let leader = osps.process(0);
    osps.wait_log(&[&format!("refused: taken by pid {}", leader.pid())]);
    // Read before the verdict: a successor's would be later.
    let spawned = osps.segment().slots()[0].server.spawned_ns.load(Ordering::Relaxed);
    let verdict = osps.wait_log(&["-> frozen (blocked"]);
    assert!(verdict.at.0 >= spawned + u64::try_from(LIMIT.as_nanos()).unwrap());
    osps.wait("its death", || leader.is_dead().then_some(()));
}

#[test]
fn the_program_behind_a_wrapper_owns_the_heart_and_is_the_one_examined() {
    is_reached_behind(&format!("{} & wait", this()));
}

#[test]
fn a_wrapper_that_makes_another_session_hides_nobody() {
    is_reached_behind(&format!("setsid {} & wait", this()));
}

fn is_reached_behind(script: &str) {
    let osps = launch_behind(script);
    let (leader, beater) = (osps.process(0), beater(&osps));
    assert_ne!(leader.pid(), beater.pid());
    osps.wait_log(&[&format!("its heart is beaten by pid {}", beater.pid())]);
    assert_eq!(osps.server(0)["heart_pid"], beater.pid());
    let table = osps.table();
    assert!(table.contains(&format!("pid {} beats", beater.pid())), "{table}");

    osps.signal(&beater, Signal::STOP);
    // The shell sleeps, and the one that beats is stopped: that is what is told.
    osps.wait_log(&["-> frozen (stopped; no beat for "]);
    osps.wait_successor(0, 1);
    assert!(leader.is_dead() && beater.is_dead(), "two in one slot\n{}", osps.log());
}

#[test]
fn a_wrapper_may_replace_the_one_that_beats() {
    let osps = launch_behind(&format!("while :; do {}; done", this()));
    let (leader, first) = (osps.process(0), beater(&osps));
    osps.wait_log(&[&format!("its heart is beaten by pid {}", first.pid())]);
    osps.signal(&first, Signal::KILL);
    // The shell starts another at once. It may come before the watchdog saw the death: then it is
    // refused, and the shell starts one more.
    osps.wait_log(&["which beat its heart, is gone; the heart is free for another"]);
    osps.wait("another claimant", || {
        let claim = osps.segment().hearts()[0].claimed();
        (claim.pid != 0 && claim.pid != first.pid()).then_some(())
    });
    pass(LIMIT * 2);
    assert!(!leader.is_dead(), "nothing was wrong with it\n{}", osps.log());
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
}

#[test]
fn what_cannot_claim_counts_and_is_shown_as_unclaimed() {
    let osps = Launch::own(&PATIENT, &["sleep", "3600"]).spawn();
    let line = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let end = now() + LIMIT * 3;
    while now() < end {
        line.hearts()[0].beat(now());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    line.hearts()[0].beat(now());
    let table = osps.table();
    assert!(table.contains("unclaimed heart"), "{table}");
    assert!(osps.server(0)["heart_pid"].is_null());
}

#[test]
fn beats_under_an_earlier_generations_claim_are_silence() {
    let osps = Launch::own(&PATIENT, &["sleep", "3600"]).spawn();
    let line = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let first = osps.process(0);
    // By somebody who lives, and whom osps launched.
    let left_over = Claim::of(SlotId(0), Generation(0), first.pid(), 0);
    let heart = &line.hearts()[0];
    let beat = || {
        heart.beat(now());
        (osps.generation(0) != 1).then_some(())
    };
    // It beats by itself, then a left-over comes that does not look at its generation.
    osps.wait("up", || {
        heart.beat(now());
        osps.is_state(0, osps_heart::words::State::Up).then_some(())
    });
    heart.claim.store(left_over.pack(), Ordering::Relaxed);
    osps.wait("a successor", beat);
    let told = format!("pid {} of an earlier generation claimed its heart", left_over.pid);
    osps.wait_log(&[&told]);
    osps.wait_log(&["-> frozen (blocked"]);
    assert!(first.is_dead());
}

#[test]
fn a_scribbled_claim_is_put_back_and_convicts_nobody() {
    let osps = launch("beats");
    let line = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let claim = &line.hearts()[0].claim;
    // The last ones as if an earlier generation's, by nobody, and by somebody who lives but was not
    // launched here: they convicted, and once in a while a random word is one.
    let earlier = |pid, start| Claim::of(SlotId(0), Generation(0), pid, start).pack();
    let own = std::process::id();
    for word in [u64::MAX, 0, 77, earlier(own, 1), earlier(own, 0), earlier(1, 0)] {
        claim.store(word, Ordering::Relaxed);
        osps.wait("the line of slot 0", || {
            let claim = line.hearts()[0].claimed();
            (claim.slot == Some(SlotId(0))).then_some(())
        });
    }
    pass(LIMIT * 2);
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
}

#[test]
fn a_heart_of_a_replaced_generation_is_silent() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let segment = osps_heart::example::create_segment(dir.path()).unwrap();
    let heart = osps_heart::example::heart(dir.path()).unwrap();
    heart.beat();
    heart.tick();
    let server = &segment.slots()[0].server;
    let mut successor = server.identity().unwrap();
    successor.generation = Generation(2);
    server.set_identity(successor);
    let before = segment.hearts()[0].sample();
    heart.beat();
    heart.tick();
    assert_eq!((before.count, segment.hearts()[0].sample()), (2, before));
    let refused = Heart::open(dir.path(), SlotId(0), Generation(1)).unwrap_err();
    assert!(matches!(refused, HeartError::Superseded(1)), "{refused}");
    // The claim of generation 1 gives way to generation 2.
    Heart::open(dir.path(), SlotId(0), Generation(2)).unwrap();
}
