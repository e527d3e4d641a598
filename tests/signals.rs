//! Every signal number, sent to a watchdog.
//!
//! Goal: four of them stop it in order, KILL and STOP are the kernel's, and no other ends it or
//! keeps it from supervising; nothing of that is inherited by what it starts.
//!
//! Method: the real binary, and `kill` for every number from 1 to 64.
//!
//! The story: QUIT, USR1, ALRM, XCPU or a real-time signal ended the watchdog as `kill -9` would,
//! and its servers ran on with nobody to watch them.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{BINARY, Launch, Osps, PRIMARY, SECONDARY, Signal, text};

const STOPS: [i32; 4] = [1, 2, 3, 15];
const LAST: i32 = 64;

fn send(osps: &Osps, number: i32) {
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -{number} {}", osps.watchdog_pid())]);
    assert!(kill.status().unwrap().success(), "signal {number}");
}

#[test]
fn four_signals_stop_in_order() {
    for number in STOPS {
        let mut osps = Launch::pair(&[]).start();
        let servers = osps.servers();
        send(&osps, number);
        assert_eq!(osps.wait_exit().code(), Some(0), "signal {number}\n{}", osps.log());
        assert!(servers.iter().all(osps::sys::process::Process::is_dead), "signal {number}");
        assert!(!osps.run_dir().exists(), "signal {number}");
    }
}

#[test]
fn no_other_signal_ends_the_watchdog_or_stops_it() {
    // It beats at every check.
    let mut osps = Launch::pair(&["--check-interval", "50ms"]).start();
    let (kill, stop) = (9, 19);
    let others = (1..=LAST).filter(|n| ![kill, stop].contains(n) && !STOPS.contains(n));
    for number in others {
        send(&osps, number);
        // It turned after that: it is neither dead nor stopped.
        let beats = || osps.segment().header().watchdog_heart.sample().count;
        let before = beats();
        osps.wait(&format!("beats after signal {number}"), || (beats() > before).then_some(()));
        assert!(!osps.watchdog_is_dead(), "signal {number}\n{}", osps.log());
    }
    for name in ["SIGUSR1", "SIGTSTP", "SIGXFSZ", "SIGSEGV", "signal 64"] {
        osps.wait_log(&[&format!("{name}: ignored; INT, TERM, HUP and QUIT stop osps")]);
    }
    let before = osps.generation(PRIMARY);
    osps.signal(&osps.process(PRIMARY), Signal::KILL);
    osps.wait_successor(PRIMARY, before);
    osps.wait_all_up();
    assert!(osps.generation(SECONDARY) > 0);
    osps.stop();
}

#[test]
fn a_flood_of_real_time_signals_keeps_nobody_from_its_work() {
    let osps = Launch::pair(&[]).start();
    let pid = osps.watchdog_pid();
    let mut flood = Command::new("sh");
    flood.args(["-c", &format!("while kill -40 {pid}; do :; done")]);
    let _flood = common::Guest(flood.stderr(std::process::Stdio::null()).spawn().unwrap());
    let before = osps.generation(SECONDARY);
    osps.signal(&osps.process(SECONDARY), Signal::KILL);
    osps.wait_successor(SECONDARY, before);
}

/// What a program under osps has ignored and blocked, as `/proc` shows it.
fn masks_of_a_program(prepare: fn() -> std::io::Result<()>) -> String {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let shown = dir.path().join("shown");
    let script =
        format!("grep -E '^Sig(Ign|Blk)' /proc/self/status > {}; sleep 60", shown.display());
    let launch = Launch::own(&[], &["sh", "-c", &script]);
    let mut command = launch.command();
    // SAFETY: only async-signal-safe calls, and no memory is touched.
    #[allow(unsafe_code, reason = "what a parent leaves in a child can only be left so")]
    unsafe {
        command.pre_exec(prepare);
    }
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _osps = common::Guest(command.stdout(std::process::Stdio::null()).spawn().unwrap());
    let seen = common::wait_until("the program's masks", common::SOON, || {
        std::fs::read_to_string(&shown).ok().filter(|text| text.lines().count() == 2)
    });
    let stop = Command::new(BINARY).arg("stop").arg("--run-dir").arg(launch.run_dir()).output();
    let stop = stop.unwrap();
    assert!(stop.status.success(), "{}", text(&stop));
    seen
}

#[test]
fn what_was_ignored_or_blocked_is_not_passed_on() {
    let seen = masks_of_a_program(|| {
        osps::sys::raw::mask_signals(u64::MAX).map(drop)?;
        for signal in 1..=LAST {
            ignore(signal);
        }
        Ok(())
    });
    for line in seen.lines() {
        assert!(line.ends_with("0000000000000000"), "{seen}");
    }
}

fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is a valid action; numbers that have none are refused.
    #[allow(unsafe_code, reason = "as above")]
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_refusal_that_says_so() {
    let launch = Launch::pair(&[]);
    let mut command = Command::new("sh");
    // 64 blocks of 512 bytes or of 1024: less than any segment.
    command.args(["-c", "ulimit -f 64; exec \"$@\"", "sh"]).arg(BINARY);
    command.args(launch.command().get_args());
    let refused = command.output().unwrap();
    let told = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    for part in ["File too large", "ulimit -f"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!launch.run_dir().exists(), "files are left");
}
