//! What a program starts besides itself: reached by the stop order, ended with its leader, reaped.
//!
//! Goal: TERM reaches the whole group and leaves it time; whoever detached itself (another session,
//! a daemon, a child of a killed parent) is ended before a successor starts and before a stop is
//! done; a daemon is told apart; orphans are reaped; children that osps had before are nobody's.
//!
//! Method: shell scripts under the real osps. They print the pids that the tests then hold.
//!
//! The stories: a robot behind `sh -c` was killed without a TERM; a daemonizing program left one
//! daemon a restart; a helper in a session of its own outlived a stop that said "nothing left"; as
//! PID 1 of a container osps gathered zombies.
//!
//! What it cannot show: a process that does not die when it is killed.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use osps::sys::procfs;

use common::{BINARY, Guest, Launch, Osps, Signal, process_of, skip, text, wait_until};

/// None of these programs beats: that is not what these tests are about.
const PATIENT: [&str; 4] = ["--start-timeout", "5m", "--stop-timeout", "20s"];

fn launch(script: &str) -> Osps {
    Launch::own(&PATIENT, &["sh", "-c", script]).spawn()
}

#[test]
fn a_stop_reaches_the_program_behind_a_shell_and_leaves_it_time() {
    let robot = "trap \"sleep 0.7; echo cleaned up; exit 0\" TERM; echo robot $$; \
                 while :; do sleep 0.05; done";
    let mut osps = launch(&format!("sh -c '{robot}'; true"));
    let robot = osps.wait_process("robot ");
    osps.stop();
    // The shell is gone with its TERM; what it ran still had its time.
    osps.wait_said("cleaned up");
    assert!(robot.is_dead());
    osps.wait_log(&["has left; waiting for pid"]);
    assert!(osps.find_log(&["signal 9"]).is_none(), "{}", osps.log());
}

#[test]
fn a_helper_in_a_session_of_its_own_does_not_outlive_a_stop() {
    let helper = "trap \"\" TERM; echo helper $$; while :; do sleep 0.05; done";
    let launch = Launch::own(
        &["--start-timeout", "5m", "--stop-timeout", "300ms"],
        &["sh", "-c", &format!("setsid sh -c '{helper}' & exec sleep 3600")],
    );
    let mut osps = launch.spawn();
    let helper = osps.wait_process("helper ");
    osps.stop();
    assert!(helper.is_dead(), "the stop said that nothing is left\n{}", osps.log());
}

#[test]
fn a_daemon_is_named_and_none_is_left_per_round() {
    let mut osps = launch("setsid sh -c 'echo daemon $$; exec sleep 3600' & sleep 0.2; exit 0");
    osps.wait_log(&["runs in the background (pid ", "keep it in the foreground"]);
    let third = |osps: &Osps| {
        let lines = osps.out.lock().unwrap();
        let pids = lines.iter().filter_map(|line| line.text.strip_prefix("daemon "));
        let pids: Vec<u32> = pids.map(|pid| pid.trim().parse().unwrap()).collect();
        (pids.len() >= 3).then_some(pids)
    };
    let daemons = osps.wait("three rounds", || third(&osps));
    let alive = |pids: &[u32]| {
        let sleeps = |pid: &&u32| procfs::name(**pid).is_some_and(|name| name == "sleep");
        pids.iter().filter(sleeps).count()
    };
    assert!(alive(&daemons) <= 1, "{daemons:?}\n{}", osps.log());
    osps.stop();
    assert_eq!(alive(&daemons), 0, "{daemons:?}\n{}", osps.log());
}

#[test]
fn a_successor_starts_after_everything_of_its_predecessor_died() {
    // A grandchild in a session of its own whose parent is gone, and one that nobody detached.
    let osps = launch(
        "(setsid sh -c 'echo hidden $$; exec sleep 3600' &); \
         sh -c 'echo near $$; exec sleep 3600' & echo leader $$; wait",
    );
    let (hidden, near, leader) =
        (osps.wait_process("hidden "), osps.wait_process("near "), osps.wait_process("leader "));
    assert_eq!(leader.pid(), osps.pid(0));
    // It told its pid before it became what the log shall name.
    osps.wait("sleep", || (procfs::name(hidden.pid()).as_deref() == Some("sleep")).then_some(()));
    osps.signal(&leader, Signal::KILL);
    let segment = osps.segment();
    osps.wait("a successor", || {
        let now = segment.slots()[0].server.identity();
        now.is_some_and(|now| now.generation.0 == 2).then_some(())
    });
    assert!(hidden.is_dead() && near.is_dead(), "two in one slot\n{}", osps.log());
    osps.wait_log(&["ending what it left behind: ", &format!("pid {} (", hidden.pid())]);
}

#[test]
fn children_from_before_are_nobodys() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run_dir = dir.path().join("run");
    // A shell with a job of its own becomes osps.
    let script = format!(
        "sleep 3600 & echo job $!; exec {BINARY} run --run-dir {} --start-timeout 5m -- \
         sh -c 'exit 0'",
        run_dir.display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut out = std::io::BufReader::new(shell.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let job = process_of(line.trim().strip_prefix("job ").unwrap().parse().unwrap()).unwrap();
    let osps = Guest(shell);
    let segment = wait_until("the segment", common::SOON, || {
        osps_heart::segment::Segment::open(&run_dir, osps_heart::segment::Access::ReadOnly).ok()
    });
    wait_until("a second round", common::SOON, || {
        (segment.slots()[0].server.current_generation().0 >= 2).then_some(())
    });
    let stopped = Command::new(BINARY).arg("stop").arg("--run-dir").arg(&run_dir).output().unwrap();
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(!job.is_dead(), "osps did not start it");
    job.kill().unwrap();
    drop(osps);
}

/// Orphans by the dozen: each is reaped soon, whoever of osps's stands where.
fn reaps_orphans(watchdog: u32) {
    let mut seen: Vec<u32> = Vec::new();
    wait_until("thirty orphans reaped", common::SOON, || {
        seen.extend(procfs::zombies_of(watchdog));
        seen.sort_unstable();
        seen.dedup();
        let gone = seen.iter().filter(|pid| !procfs::zombies_of(watchdog).contains(pid)).count();
        (gone >= 30).then_some(())
    });
    // What comes in one second of the script below, and as much again for a slow machine.
    assert!(procfs::zombies_of(watchdog).len() < 100, "{:?}", procfs::zombies_of(watchdog));
}

const ORPHANS: &str = "while :; do (sleep 0.01 &); sleep 0.02; done";

#[test]
fn orphans_are_reaped() {
    let osps = launch(ORPHANS);
    reaps_orphans(osps.watchdog_pid());
}

#[test]
fn orphans_are_reaped_as_pid_1() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", BINARY, "run", "--run-dir"]);
    command.arg(dir.path().join("run")).args(["--start-timeout", "5m", "--", "sh", "-c", ORPHANS]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else { return skip("unshare is missing") };
    let mut unshare = Guest(child);
    let parent = unshare.0.id();
    let found = wait_until("osps as PID 1, or a refusal", common::SOON, || {
        if unshare.0.try_wait().unwrap().is_some() {
            return Some(None);
        }
        let mut all = procfs::processes().into_iter();
        let osps = all.find(|stat| {
            stat.parent == parent && procfs::name(stat.pid).is_some_and(|name| name == "osps")
        });
        osps.map(|stat| Some(stat.pid))
    });
    let Some(osps) = found else { return skip("pid namespaces need root") };
    assert_eq!(procfs::pids_of(osps).last(), Some(&1));
    reaps_orphans(osps);
}

/// What `docker exec` left behind in a container is no business of the program's.
#[test]
fn as_pid_1_it_ends_no_orphan_of_somebody_else() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run_dir = dir.path().join("run");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", BINARY, "run", "--run-dir"]);
    command.arg(&run_dir).args(["--start-timeout", "5m", "--", "sh", "-c"]);
    command.arg("(setsid sleep 3601 &); exec sleep 3602");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else { return skip("unshare is missing") };
    let mut unshare = Guest(child);
    let parent = unshare.0.id();
    let find = |parent: u32, argument: &str| {
        let mut all = procfs::processes().into_iter().filter(|stat| stat.parent == parent);
        all.find(|stat| {
            let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        })
        .and_then(|stat| process_of(stat.pid))
    };
    let osps = wait_until("osps as PID 1, or a refusal", common::SOON, || {
        if unshare.0.try_wait().unwrap().is_some() {
            return Some(None);
        }
        find(parent, "3601").or_else(|| find(parent, "run")).map(Some)
    });
    let Some(osps) = osps else { return skip("pid namespaces need root") };
    let osps = osps.pid();
    let own = wait_until("the daemon", common::SOON, || find(osps, "3601"));
    let leader = wait_until("the program", common::SOON, || find(osps, "3602"));
    let mut enter = Command::new("nsenter");
    enter.args(["--target", &osps.to_string(), "--pid", "sh", "-c", "setsid sleep 3603 & exit"]);
    assert!(enter.env_clear().env("PATH", "/usr/bin:/bin").status().unwrap().success());
    let other = wait_until("an orphan of somebody else's", common::SOON, || find(osps, "3603"));
    leader.kill().unwrap();
    // Until it is dead it would be taken for its own successor.
    wait_until("its death", common::SOON, || leader.is_dead().then_some(()));
    wait_until("a successor", common::SOON, || find(osps, "3602"));
    assert!(own.is_dead(), "a daemon of its own is ended");
    assert!(!other.is_dead(), "somebody else's is not");
    other.kill().unwrap();
}

#[test]
fn children_that_come_and_go_are_nobodys_failure() {
    // The program's children come and go while it lives: nobody is ended for that.
    let osps = launch("for i in 1 2 3 4 5; do setsid sh -c 'exit 3'; done; echo done; sleep 3600");
    osps.wait_said("done");
    common::pass(Duration::from_millis(1200));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    assert_eq!(procfs::zombies_of(osps.watchdog_pid()), [0; 0]);
}
