//! Goal: `osps run` is what a container can start with: as PID 1 it reaps whoever loses its parent
//! there, stops in order at TERM and INT, and ends as its program ended (`--forward-exit`).
//!
//! Method: the real binary as PID 1 of a pid namespace of its own, made by `unshare`; zombies are
//! counted in that namespace's `/proc`, and its exit code is the one that `unshare` hands on. What
//! an exit code is needs no namespace.
//!
//! What it cannot show: a container's runtime at work. That nobody else's orphan is ended is in
//! tests/kin.rs, a look from outside in tests/namespaces.rs.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;

use osps::sys::process::Process;
use osps::sys::procfs;
use rustix::process::pidfd_send_signal;

use common::{
    BINARY, Guest, Launch, SOON, Signal, apart, can_part, ms, process_of, text, wait_until,
};

/// The end of what `stat` says of nobody.
const NOBODY: &str = "(nobody";

/// `osps run` as PID 1 of a pid namespace; it ends with this value, and whoever is with it there.
struct Init {
    outer: Guest,
    dir: tempfile::TempDir,
}

impl Init {
    /// With these options, and a script of the shell as its program; `$DIR` is the test's directory.
    fn run(args: &[&str], script: &str) -> Init {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut command = apart(BINARY);
        command.arg("run").arg("--run-dir").arg(dir.path().join("run"));
        command.args(["--heart", "none"]).args(args).args(["--", "sh", "-c", script]);
        command.env("DIR", dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::create(dir.path().join("log")).unwrap();
        Init { outer: Guest(command.stderr(log).spawn().unwrap()), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits until its program has made a file of this name.
    fn wait_file(&self, name: &str) {
        wait_until(name, SOON, || self.path(name).exists().then_some(()));
    }

    /// The watchdog, as this test sees it.
    fn watchdog(&self) -> Process {
        let holder = || {
            let stat = rustix::fs::stat(self.path("run/lock")).ok()?;
            process_of(procfs::lock_holder(stat.st_dev, stat.st_ino)?)
        };
        wait_until("the watchdog in its namespace", SOON, holder)
    }

    /// The zombies that the namespace's own `/proc` shows, but for those of such a name.
    fn zombies(&self, but: &str) -> BTreeSet<u32> {
        let proc = format!("/proc/{}/root/proc", self.watchdog().pid());
        let first = fs::read_to_string(format!("{proc}/1/comm")).unwrap();
        assert_eq!(first, "osps\n", "the /proc of another namespace");
        let pids = fs::read_dir(&proc).unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_zombie = |pid: &u32| {
            let stat = fs::read_to_string(format!("{proc}/{pid}/stat")).unwrap_or_default();
            let (head, tail) = stat.rsplit_once(") ").unwrap_or_default();
            tail.starts_with('Z') && !head.ends_with(but)
        };
        pids.filter(is_zombie).collect()
    }

    /// Sees some zombies, and that each of them is reaped although others follow.
    fn assert_reaps(&self, but: &str) {
        let seen = wait_until("some zombies", SOON, || {
            Some(self.zombies(but)).filter(|zombies| zombies.len() >= 5)
        });
        wait_until("their end", ms(8000), || self.zombies(but).is_disjoint(&seen).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        pidfd_send_signal(self.watchdog().as_fd(), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_until("its end", SOON, || self.outer.0.try_wait().unwrap()).code()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log in the namespace ---\n{}", self.log());
        }
    }
}

#[test]
fn hundreds_of_orphans_that_end_at_different_moments_leave_no_zombie() {
    if !can_part() {
        return;
    }
    // Each is the child of a shell that is gone: whoever inherits it has to bury it.
    let script = "for i in $(seq 400); do (sh -c \"sleep $((i % 4)).$((i % 10)); echo >>$DIR/ended\" &); \
                  done; exec sleep 3600";
    let mut init = Init::run(&["--forward-exit"], script);
    let ended = || fs::read_to_string(init.path("ended")).map_or(0, |text| text.lines().count());
    init.assert_reaps(NOBODY);
    wait_until("the end of all", SOON, || (ended() == 400).then_some(()));
    wait_until("no zombie", SOON, || init.zombies(NOBODY).is_empty().then_some(()));
    init.signal(Signal::TERM);
    assert_eq!(init.exit_code(), Some(143), "{}", init.log());
}

/// The leader was dead already and kept as a zombie until its kin would be gone: it stood in front
/// of all others, and nobody was reaped for as long as a stop takes.
#[test]
fn during_a_long_stop_orphans_are_reaped_as_well() {
    if !can_part() {
        return;
    }
    let script = "setsid sh -c 'trap \"\" TERM; touch $DIR/ready; \
                  while :; do (sleep 0.01 &); sleep 0.05; done' & exec tail -f /dev/null";
    let mut init = Init::run(&["--stop-timeout", "15s", "--forward-exit"], script);
    init.wait_file("ready");
    init.signal(Signal::TERM);
    wait_until("the stop", SOON, || init.log().contains("has left; waiting for").then_some(()));
    init.assert_reaps("(tail");
    assert!(init.outer.0.try_wait().unwrap().is_none(), "it was over: {}", init.log());
    init.signal(Signal::INT);
    assert_eq!(init.exit_code(), Some(143), "{}", init.log());
}

#[test]
fn term_and_int_stop_in_order_with_the_programs_exit_code() {
    if !can_part() {
        return;
    }
    let graceful = "trap 'sleep 0.3; touch $DIR/done; exit 7' TERM; touch $DIR/ready; \
                    while :; do sleep 0.02; done";
    let plain = "touch $DIR/ready; exec sleep 3600";
    for signal in [Signal::TERM, Signal::INT] {
        for (args, script, code) in [
            (&["--forward-exit"][..], graceful, 7),
            (&["--forward-exit"], plain, 143),
            (&["--forward-exit", "--stop-signal", "INT"], plain, 130),
            (&[], graceful, 0),
        ] {
            let mut init = Init::run(args, script);
            init.wait_file("ready");
            init.signal(signal);
            assert_eq!(init.exit_code(), Some(code), "{signal:?} {args:?}: {}", init.log());
            assert!(init.log().contains("all stopped, nothing left"), "{}", init.log());
            assert!(!init.path("run").exists());
            assert_eq!(init.path("done").exists(), script == graceful, "it had its time");
        }
    }
}

#[test]
fn as_pid_1_it_ends_as_its_program_ended() {
    if !can_part() {
        return;
    }
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137), ("exit 0", 0)] {
        let mut init = Init::run(&["--restart", "never", "--forward-exit"], script);
        assert_eq!(init.exit_code(), Some(code), "{script}: {}", init.log());
    }
}

#[test]
fn the_exit_code_is_the_programs_where_that_is_asked_for() {
    for (args, script, code, told) in [
        (&["--restart", "never"][..], "exit 7", 3, "gave up: sh failed, and is not restarted"),
        (&["--restart", "never"], "exit 0", 0, "all stopped"),
        (&["--restart", "never", "--forward-exit"], "exit 7", 7, "is not restarted"),
        (&["--restart", "never", "--forward-exit"], "kill -SEGV $$", 139, "is not restarted"),
        (&["--restart", "on-failure", "--forward-exit"], "exit 0", 0, "all stopped"),
        (&["--max-restarts", "1/1m", "--forward-exit"], "exit 5", 5, "was restarted too often"),
        (&["--max-restarts", "1/1m"], "exit 5", 3, "was restarted too often"),
        // A freeze: who is killed for it has no code of its own.
        (
            &["--restart", "never", "--forward-exit", "--heart", "memory"],
            "sleep 3600",
            137,
            "is not restarted",
        ),
    ] {
        let args = [&["--start-timeout", "300ms"], args].concat();
        let output = Launch::own(&args, &["sh", "-c", script]).output();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?} {script}: {said}");
        assert!(said.contains(told), "{args:?} {script}: {said}");
    }
}

/// After a failure another one comes, after a success none.
#[test]
fn on_failure_means_until_it_succeeds() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("tries");
    let script = "echo >>\"$TRIES\"; [ $(wc -l <\"$TRIES\") -ge 3 ]";
    let launch = Launch::own(
        &["--restart", "on-failure", "--forward-exit", "--heart", "none"],
        &["sh", "-c", script],
    );
    let output = launch.env("TRIES", &file).output();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3, "{}", text(&output));
}
