//! An instance in a container, seen from the host and from a side-car: life is not judged by a pid.
//!
//! Goal: a held `lock` or a moving heart is life, whatever pid can be seen. A look says so, a start
//! is refused in those words, a stop goes through `control`, and nobody is advised to kill pid 1 or
//! to delete a directory that is lived in. (It was told as DEAD, with that advice, and the stop
//! failed with "Success".)
//!
//! Method: the watchdog runs as pid 1 of a pid namespace of its own, made by `unshare`; the run
//! directory lies on the common /dev/shm. The host is this test, a side-car is a second such
//! namespace, where nobody of the first can be seen.
//!
//! What it cannot show: containers with a user namespace or a network of their own, whose root is
//! not ours. Without root or user namespaces the tests say that they are skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::fs::{self, File};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::orphan::{WATCHDOG_STALE, watchdog_age};
use osps_heart::segment::layout::{HeaderCells, ServerCells, SlotCells};
use osps_heart::segment::{Access, Segment};
use osps_heart::words::State;
use rustix::process::pidfd_send_signal;
use serde_json::Value;

use common::{
    BINARY, Guest, SOON, Signal, apart, can_part, is_root, now, process_of, run, skip, text,
    wait_until,
};

// ---------------------------------------------------------------------------------------- helpers

/// An osps in a pid namespace of its own; it ends with this value, and whoever is with it there.
struct Container {
    /// The `unshare` around it.
    outer: Guest,
    run_dir: PathBuf,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Container {
    /// The pair, its watchdog being pid 1.
    fn start() -> Container {
        Container::around(apart(BINARY))
    }

    /// The pair, its watchdog being the child of a shell that is pid 1 and outlives it.
    fn in_shell() -> Container {
        let mut command = apart("sh");
        command.args(["-c", "\"$0\" \"$@\" & wait; exec sleep 600", BINARY]);
        Container::around(command)
    }

    fn around(mut command: Command) -> Container {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (run_dir, log) = (dir.path().join("run"), dir.path().join("log"));
        command.args(["--listen", "127.0.0.1:0", "--run-dir"]).arg(&run_dir);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let container = Container { outer: Guest(child), run_dir, log, _dir: dir };
        wait_until("an instance in a namespace", SOON, || {
            let segment = Segment::open(&container.run_dir, Access::ReadOnly).ok()?;
            let state = |slot: usize| {
                let word = &segment.slots()[slot].server.state;
                State::from_code(word.load(osps_heart::sync::Ordering::Relaxed))
            };
            (0..2).all(|slot| state(slot) == Some(State::Up)).then_some(())
        });
        container
    }

    fn segment(&self) -> Segment {
        Segment::open(&self.run_dir, Access::ReadOnly).unwrap()
    }

    /// The watchdog, as the host sees it.
    fn watchdog(&self) -> Process {
        let holder = || {
            let stat = rustix::fs::stat(self.run_dir.join("lock")).ok()?;
            process_of(procfs::lock_holder(stat.st_dev, stat.st_ino)?)
        };
        wait_until("the watchdog in its namespace", SOON, holder)
    }

    /// Sends it a signal, from the host.
    fn signal(&self, signal: Signal) {
        use std::os::fd::AsFd;
        pidfd_send_signal(self.watchdog().as_fd(), signal).unwrap();
    }

    fn ask(&self, mut command: Command, args: &[&str]) -> Output {
        command.args(args).arg("--run-dir").arg(&self.run_dir);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        run(command)
    }

    /// `osps ARGS...` on it, from the host.
    fn by_host(&self, args: &[&str]) -> Output {
        self.ask(Command::new(BINARY), args)
    }

    /// `osps ARGS...` on it, from another pid namespace.
    fn by_side_car(&self, args: &[&str]) -> Output {
        self.ask(apart(BINARY), args)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log in the namespace ---\n{}", fs::read_to_string(&self.log).unwrap());
        }
    }
}

/// Has this exit code, all of these parts and none of those that would do harm.
#[track_caller]
fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    for part in ["DEAD", "leftovers", "kill -9 1`", "kill -CONT 1`", "Success", "panicked"] {
        assert!(!said.contains(part), "{part:?} in: {said}");
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

// ------------------------------------------------------------------------------------------ alive

#[test]
fn from_the_host_it_is_alive_and_can_be_stopped() {
    if !can_part() {
        return;
    }
    let mut container = Container::start();
    let pid = container.watchdog().pid();
    let named = format!("watchdog pid {pid} (1 in its own pid namespace) alive");
    let status = container.by_host(&["status"]);
    assert_says(&status, 0, &[&named, "all up (runs in another pid namespace"]);

    let status = json(&container.by_host(&["status", "--json"]));
    let watchdog = &status["watchdog"];
    assert_eq!((&watchdog["alive"], &watchdog["elsewhere"]), (&true.into(), &true.into()));
    assert_eq!((&watchdog["pid"], &watchdog["pid_here"]), (&1.into(), &pid.into()));
    for server in status["servers"].as_array().unwrap() {
        assert_eq!(server["state"], "up", "{status}");
        assert!(server["pid"].is_u64() && server["beat_age_ms"].is_u64(), "{status}");
    }

    // Another one is told whom it meets, in words that are true here.
    let second = container.by_host(&["--listen", "127.0.0.1:0"]);
    assert_says(&second, 1, &["already runs", &format!("watchdog pid {pid}"), "alive"]);

    let stopped = container.by_host(&["stop"]);
    assert_says(&stopped, 0, &["stopping", "stopped"]);
    assert!(!container.run_dir.exists());
    assert!(container.outer.0.wait().unwrap().success());
}

#[test]
fn from_a_side_car_it_is_alive_and_can_be_stopped() {
    if !can_part() {
        return;
    }
    let container = Container::start();
    let status = container.by_side_car(&["status"]);
    let parts = ["watchdog pid 1 of another pid namespace alive", "all up (runs in another pid"];
    assert_says(&status, 0, &parts);
    let status = json(&container.by_side_car(&["status", "--json"]));
    assert!(status["watchdog"]["pid_here"].is_null(), "{status}");
    assert_eq!(status["watchdog"]["elsewhere"], true);

    let second = container.by_side_car(&["--listen", "127.0.0.1:0"]);
    assert_says(&second, 1, &["already runs", "in another pid namespace, since", "`osps stop`"]);
    let stopped = container.by_side_car(&["stop"]);
    assert_says(&stopped, 0, &["stopping", "stopped"]);
    assert!(!container.run_dir.exists());
}

/// The other way round: a look out of a container at an instance of the host, and a stop of it.
#[test]
fn from_inside_a_namespace_the_host_s_instance_is_alive() {
    if !can_part() {
        return;
    }
    let mut osps = common::Launch::pair(&[]).start();
    let from_inside = |args: &[&str]| {
        let mut command = apart(BINARY);
        command.args(args).arg("--run-dir").arg(osps.run_dir());
        run(command)
    };
    let pid = osps.watchdog_pid();
    let named = format!("watchdog pid {pid} of another pid namespace alive");
    assert_says(&from_inside(&["status"]), 0, &[&named, "all up"]);
    assert_says(&from_inside(&["stop"]), 0, &["stopped"]);
    assert_eq!(osps.wait_exit().code(), Some(0));
}

/// Somebody tidied up and took the lock's name: its heart still moves.
#[test]
fn a_moving_heart_is_life_when_the_lock_has_no_name() {
    if !can_part() {
        return;
    }
    let mut container = Container::start();
    fs::remove_file(container.run_dir.join("lock")).unwrap();
    let status = container.by_side_car(&["status"]);
    assert_says(&status, 0, &["watchdog pid 1 of another pid namespace alive"]);
    container.outer.0.kill().unwrap();
    container.outer.0.wait().unwrap();
    wait_until("its end", SOON, || {
        (container.by_host(&["status"]).status.code() == Some(3)).then_some(())
    });
}

// ----------------------------------------------------------------------------------------- frozen

#[test]
fn a_frozen_one_is_continued_where_it_runs() {
    if !can_part() {
        return;
    }
    let container = Container::start();
    let watchdog = container.watchdog();
    container.signal(Signal::STOP);
    let segment = container.segment();
    wait_until("a stale watchdog", SOON, || {
        (watchdog_age(&segment, now())? > WATCHDOG_STALE).then_some(())
    });
    let cure = format!("kill -CONT {}", watchdog.pid());
    let status = container.by_host(&["status"]);
    assert_says(&status, 1, &["FROZEN", &cure, "in another pid namespace"]);
    let status = container.by_side_car(&["status"]);
    assert_says(&status, 1, &["FROZEN", "continue it or end it where it runs"]);
    assert!(!text(&status).contains("kill -"), "{}", text(&status));

    let second = container.by_host(&["--listen", "127.0.0.1:0"]);
    assert_says(&second, 1, &["frozen", &cure]);
    let parts = ["runs in another pid namespace and is frozen", "Continue it or end it there"];
    assert_says(&container.by_side_car(&["--listen", "127.0.0.1:0"]), 1, &parts);
    assert_says(&container.by_side_car(&["stop"]), 1, &parts);
    assert_says(&container.by_host(&["stop"]), 1, &["is frozen", &cure]);
    container.signal(Signal::CONT);
    wait_until("it to stop as asked", SOON, || (!container.run_dir.exists()).then_some(()));
}

// ------------------------------------------------------------------------------------------- dead

#[test]
fn servers_without_a_watchdog_are_no_leftovers() {
    if !can_part() {
        return;
    }
    let mut container = Container::in_shell();
    container.signal(Signal::KILL);
    wait_until("a dead watchdog", SOON, || {
        (container.by_host(&["status"]).status.code() == Some(1)).then_some(())
    });
    for output in [container.by_host(&["status"]), container.by_side_car(&["status"])] {
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let told = "servers live without a watchdog: end them where they run (runs in another pid";
        assert!(said.contains(told) && !said.contains("leftovers"), "{said}");
    }
    let second = container.by_side_car(&["--listen", "127.0.0.1:0"]);
    let told = "a process that is not visible from here";
    assert!(second.status.code() == Some(1) && text(&second).contains(told), "{}", text(&second));

    // With the namespace everybody dies, and then they are leftovers.
    container.outer.0.kill().unwrap();
    container.outer.0.wait().unwrap();
    wait_until("everybody's end", SOON, || {
        let status = container.by_host(&["status"]);
        (status.status.code() == Some(3)).then(|| assert!(text(&status).contains("leftovers")))
    });
}

/// Two containers that start together have the same pids and, by the clock tick, the same start
/// times. (A side-car's look took itself for the watchdog, which was pid 1 as well.) So what a dead
/// instance of another namespace recorded names nobody here, however well it fits.
#[test]
fn a_stranger_with_a_recorded_pid_and_start_time_is_left_alone() {
    if !can_part() {
        return;
    }
    let mut container = Container::start();
    let stranger = Guest(Command::new("sleep").arg("600").spawn().unwrap());
    let stranger = process_of(stranger.0.id()).map(|process| (stranger, process)).unwrap();
    let (pid, start_time) = (u64::from(stranger.1.pid()), stranger.1.start_time());
    container.outer.0.kill().unwrap();
    container.outer.0.wait().unwrap();
    wait_until("everybody's end", SOON, || {
        (container.by_host(&["status"]).status.code() == Some(3)).then_some(())
    });

    let server = container.segment().geometry().slots_offset + offset_of!(SlotCells, server);
    let segment = File::options().write(true).open(container.run_dir.join("segment")).unwrap();
    for (offset, value) in [
        (offset_of!(HeaderCells, watchdog_pid), pid),
        (offset_of!(HeaderCells, watchdog_start_time), start_time),
        (server + offset_of!(ServerCells, pid), pid),
        (server + offset_of!(ServerCells, start_time), start_time),
    ] {
        segment.write_all_at(&value.to_le_bytes(), offset as u64).unwrap();
    }
    let status = container.by_host(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", text(&status));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let start = container.by_host(&["--listen", &address]);
    assert!(text(&start).contains("Another program"), "it came to its ports: {}", text(&start));
    assert!(!stranger.1.is_dead(), "{}", text(&start));
}

/// A container has a `/dev/shm` of its own as a rule: the host finds the instance through its
/// processes, and reaches it through their root.
#[test]
fn an_instance_on_a_dev_shm_of_its_own_is_found_by_the_host() {
    if !is_root() {
        skip("to look into another's files needs root");
        return;
    }
    if !can_part() {
        return;
    }
    let mut command = apart("sh");
    let script = "mount -t tmpfs -o mode=1777 none /dev/shm || exit 77
        exec \"$0\" --listen 127.0.0.1:0 --name \"$1\"";
    let name = format!("test-apart-{}", std::process::id());
    command.args(["-c", script, BINARY, &name]).stdin(Stdio::null());
    let mut outer = Guest(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut list = || {
        if let Some(status) = outer.0.try_wait().unwrap() {
            assert_eq!(status.code(), Some(77), "it does not start");
            skip("no tmpfs of its own can be mounted here");
            return Some(None);
        }
        let mut command = Command::new(BINARY);
        command.args(["list", "--json"]);
        let list = json(&run(command));
        let mut instances = list["instances"].as_array().unwrap().iter();
        let found = instances.find(|one| one["name"] == name.as_str() && one["state"] == "all up");
        found.cloned().map(Some)
    };
    let Some(found) = wait_until("the instance in the list", SOON, &mut list) else { return };
    assert_eq!(found["watchdog"]["elsewhere"], true, "{found}");
    let run_dir = found["run_dir"].as_str().unwrap();
    let inside = format!("/root/dev/shm/osps-0/{name}");
    assert!(run_dir.starts_with("/proc/") && run_dir.ends_with(&inside), "{run_dir}");
    let mut stop = Command::new(BINARY);
    stop.args(["stop", "--run-dir", run_dir]);
    assert_says(&run(stop), 0, &["stopped"]);
    assert!(outer.0.wait().unwrap().success());
}

/// Where the clock is another one (a time namespace, a restored container), every stamp is hours
/// old or in the future, and start times differ: the watchdog was FROZEN, and the advice to kill it.
#[test]
fn by_another_clock_it_is_alive_as_well() {
    let by_clock = |option: &str, shift: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--time", "--fork", option, shift, BINARY]).args(args);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        command
    };
    let parted = by_clock("--monotonic", "9", &["--version"]).output();
    if !is_root() || !parted.is_ok_and(|output| output.status.success()) {
        skip("a time namespace needs root and unshare");
        return;
    }
    let osps = common::Launch::pair(&[]).start();
    let named = format!("watchdog pid {} alive", osps.watchdog_pid());
    for (option, shift) in
        [("--monotonic", "100000"), ("--monotonic", "-1"), ("--boottime", "100000")]
    {
        let mut status = by_clock(option, shift, &["status"]);
        status.arg("--run-dir").arg(osps.run_dir());
        assert_says(&run(status), 0, &[&named, "all up"]);
        let mut second = by_clock(option, shift, &["--listen", "127.0.0.1:0"]);
        second.arg("--run-dir").arg(osps.run_dir());
        assert_says(&run(second), 1, &["already runs", "alive"]);
    }
}
