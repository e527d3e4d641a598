//! The run directory: one instance in it, nothing foreign removed, nothing left behind.
//!
//! Goal: a second osps is refused with a text that helps; whatever a `kill -9` leaves is swept by
//! the next start; only processes that are surely osps's own are killed; orphaned servers clear
//! up behind themselves, but never behind a watchdog that is merely frozen; a directory or a
//! segment that cannot be right is refused; garbage in the FIFOs and a cut segment harm nobody.
//!
//! Method: the real binary in directories of its own on /dev/shm. The remains are made by killing
//! real instances and by patching their files through the layout's own offsets. Processes are held
//! by pidfd, so "dead" is the kernel's word and "alive" cannot be a reused pid.
//!
//! What it cannot show: races inside the start itself that only a stop at every system call would
//! find; a server that does not die (nothing here can make one); other kernels' tmpfs. What needs
//! root, a disk or a tool says why it is skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::mem::offset_of;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use osps::instance::place::{LOCK, MEMBERS};
use osps::pair::link::{tube_down, tube_up};
use osps::pair::wire::{self, FRAME_SIZE, Frame, FrameKind};
use osps::sys::process::Process;
use osps_heart::ids::{Epoch, Generation, SlotId};
use osps_heart::orphan::{WATCHDOG_STALE, watchdog_age};
use osps_heart::segment::layout::{HeaderCells, PAGE, ServerCells, SlotCells};
use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::State;

use common::{
    BINARY, Launch, Osps, Random, SOON, Signal, fifo, has, is_root, now, process_of, recorded, run,
    skip, text, told_seed, wait_until,
};

/// "nobody" on every Linux.
const NOBODY: u32 = 65534;

// ---------------------------------------------------------------------------------------- helpers

/// A further osps in a run directory that a killed one left; it ends with this value.
struct Again {
    child: Child,
    run_dir: PathBuf,
    log: PathBuf,
}

impl Again {
    /// Starts it and waits until every server of *its* segment beats.
    fn start(run_dir: &Path, args: &[&str]) -> Again {
        let mut command = Command::new(BINARY);
        command.args(["--listen", "127.0.0.1:0"]).args(args);
        Again::of(command, run_dir)
    }

    fn of(mut command: Command, run_dir: &Path) -> Again {
        let log = run_dir.with_extension("log");
        command.arg("--run-dir").arg(run_dir).env_remove("RUST_LOG");
        command.env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let again = Again { child, run_dir: run_dir.to_owned(), log };
        let pid = u64::from(again.child.id());
        let what = format!("a new instance in {}", run_dir.display());
        let up = wait_until(&what, SOON, || {
            let segment = again.segment().ok()?;
            let is_its = segment.header().watchdog_pid.load(Ordering::Relaxed) == pid;
            let state = |slot: &SlotCells| slot.server.state.load(Ordering::Relaxed);
            let up = is_its && segment.slots().iter().all(|slot| state(slot) == 2);
            let ended = !is_its && process_of(again.child.id()).is_none();
            (up || ended).then_some(up)
        });
        assert!(up, "it did not start:\n{}", again.log());
        again
    }

    fn segment(&self) -> Result<Segment, AttachError> {
        Segment::open(&self.run_dir, Access::ReadOnly)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it in order.
    fn stop(&mut self) {
        let stopped = attempt(&["stop"], &self.run_dir);
        assert!(stopped.status.success(), "{}\n{}", text(&stopped), self.log());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the further osps ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(segment) = self.segment() {
            for process in recorded(&segment) {
                let _ = process.kill();
            }
        }
    }
}

/// `osps ARGS... --run-dir RUN_DIR`, to its end.
fn attempt(args: &[&str], run_dir: &Path) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).arg("--run-dir").arg(run_dir);
    run_plain(command)
}

fn run_plain(mut command: Command) -> Output {
    command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    run(command)
}

/// Starting in this directory is refused: exit code 1, and a message with all of these parts.
fn assert_refused(run_dir: &Path, parts: &[&str]) {
    assert_says(&attempt(&["--listen", "127.0.0.1:0"], run_dir), parts);
}

fn assert_says(output: &Output, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Pid and generation of every server: what must not change if nothing happened to them.
fn lives(osps: &Osps) -> Vec<(u32, u32)> {
    let slots = osps.segment().slots().len();
    (0..slots).map(|slot| (osps.pid(slot), osps.generation(slot))).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Overwrites one word of the segment file.
fn patch(run_dir: &Path, offset: usize, value: u64) {
    let file = File::options().write(true).open(run_dir.join("segment")).unwrap();
    file.write_all_at(&value.to_le_bytes(), offset as u64).unwrap();
}

/// A directory as osps wants it, made by somebody else.
fn make_private(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
}

/// A new directory on a tmpfs for what a test makes itself.
fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run_dir = dir.path().join("run");
    (dir, run_dir)
}

// --------------------------------------------------------------------------- one instance at once

#[test]
fn a_second_osps_is_refused_and_told_who_is_there() {
    let osps = Launch::pair(&["--hang-timeout", "10s"]).start();
    let before = lives(&osps);
    let pid = format!("watchdog pid {}", osps.watchdog_pid());
    assert_refused(osps.run_dir(), &["already runs", &pid, "since ", "alive"]);

    osps.signal_watchdog(Signal::STOP);
    let segment = osps.segment();
    let age = || watchdog_age(&segment, now());
    osps.wait("a stale watchdog", || (age()? > WATCHDOG_STALE).then_some(()));
    let cure = format!("kill -CONT {}", osps.watchdog_pid());
    assert_refused(osps.run_dir(), &["already runs", &pid, "since ", "frozen", &cure, "state T"]);
    osps.signal_watchdog(Signal::CONT);

    osps.wait("the watchdog's beat", || (age()? < WATCHDOG_STALE).then_some(()));
    osps.wait_all_up();
    assert_eq!(lives(&osps), before, "the first instance was not harmed\n{}", osps.log());
    assert_eq!(osps.ask(0, "PING"), "+PONG");
}

#[test]
fn two_instances_live_side_by_side() {
    let (mut one, two) = (Launch::pair(&[]).start(), Launch::pair(&[]).start());
    let before = lives(&two);
    assert_ne!(one.address(0), two.address(0));
    assert!(one.command(&["stop"]).status.success());
    assert_eq!(one.wait_exit().code(), Some(0));
    assert!(!one.run_dir().exists());
    assert_eq!(two.ask(1, "PING"), "+PONG");
    assert_eq!(lives(&two), before);
}

/// Under systemd the directory is given by the environment; names tell instances apart in it.
#[test]
fn names_tell_instances_apart() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let named = |name: &str, args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).args(["--name", name]).env_remove("RUST_LOG");
        command.env("RUNTIME_DIRECTORY", format!("{}:/nowhere", parent.path().display()));
        command
    };
    let mut children = Vec::new();
    for name in ["one", "two"] {
        let mut command = named(name, &["--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        children.push(command.spawn().unwrap());
    }
    for name in ["one", "two"] {
        wait_until(&format!("{name} is up"), SOON, || {
            run(named(name, &["status"])).status.success().then_some(())
        });
    }
    assert_eq!(names(parent.path()), ["one", "two"]);
    for (name, child) in ["one", "two"].iter().zip(&mut children) {
        let stopped = run(named(name, &["stop"]));
        assert!(stopped.status.success(), "{}", text(&stopped));
        assert!(child.wait().unwrap().success());
    }
    assert!(names(parent.path()).is_empty(), "{:?}", names(parent.path()));
}

#[test]
fn it_needs_no_privileges() {
    if !is_root() || !has("setpriv") {
        skip("to become somebody else needs root and setpriv; the other tests run unprivileged");
        return;
    }
    let (dir, home) = scratch();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    make_private(&home);
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    // The build directory may be closed to others, and /dev/shm may forbid to run programs.
    let bin = tempfile::tempdir().unwrap();
    fs::set_permissions(bin.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = bin.path().join("osps");
    fs::copy(BINARY, &binary).unwrap();
    let id = NOBODY.to_string();
    let become_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&binary).args(args);
        command.current_dir("/");
        command
    };
    let run_dir = home.join("run");
    let mut again = Again::of(become_nobody(&["--listen", "127.0.0.1:0"]), &run_dir);
    assert_eq!(fs::metadata(&run_dir).unwrap().uid(), NOBODY);
    let pid = again.segment().unwrap().slots()[0].server.identity().unwrap().pid;
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), NOBODY);
    let refused = ["lower its OOM score", "raise its priority: osps stands as any other process"];
    assert!(refused.iter().all(|what| again.log().contains(what)), "{}", again.log());
    let server = process_of(pid).unwrap();
    server.kill().unwrap();
    let segment = again.segment().unwrap();
    wait_until("a successor", SOON, || {
        let server = &segment.slots()[0].server;
        let other = server.identity().is_some_and(|identity| identity.pid != pid);
        (other && server.state.load(Ordering::Relaxed) == State::Up.code()).then_some(())
    });
    let mut status = become_nobody(&["status"]);
    status.arg("--run-dir").arg(&run_dir);
    let status = run_plain(status);
    assert!(matches!(status.status.code(), Some(0 | 1)), "{}", text(&status));
    // Root may ask for anything, but a run directory of another user is not believed.
    assert_refused(&run_dir, &["belongs to user 65534"]);
    let mut stop = become_nobody(&["stop"]);
    stop.arg("--run-dir").arg(&run_dir);
    let stopped = run_plain(stop);
    assert!(stopped.status.success(), "{}\n{}", text(&stopped), again.log());
    assert!(again.child.wait().unwrap().success());
    assert!(names(&home).iter().all(|name| name == "run.log"), "{:?}", names(&home));
}

// ------------------------------------------------------------------------------ after a kill -9

#[test]
fn remains_are_swept_data_is_kept_and_what_is_foreign_stays() {
    let launch = Launch::pair(&[]);
    make_private(launch.run_dir());
    let foreign = launch.run_dir().join("mine");
    fs::write(&foreign, "the user's own").unwrap();
    let mut osps = launch.start();
    assert_eq!(osps.ask(0, "SET kept yes"), "+OK");
    let old: Vec<_> = lives(&osps).iter().map(|(_, generation)| *generation).collect();
    osps.kill_everything();
    assert!(osps.run_dir().join("segment").exists(), "kill -9 leaves the files");

    let mut again = Again::start(osps.run_dir(), &[]);
    assert!(again.log().contains("swept "), "{}", again.log());
    assert!(again.log().contains("kept the data"), "{}", again.log());
    assert!(!again.log().contains("ended;"), "nobody was left to be ended: {}", again.log());
    assert_eq!(osps.ask(0, "GET kept"), "$3", "an acknowledged write survives\n{}", again.log());
    let new: Vec<_> = lives(&osps).iter().map(|(_, generation)| *generation).collect();
    assert!(new.iter().min() > old.iter().max(), "no generation comes twice: {old:?}, {new:?}");

    again.stop();
    assert_eq!(names(osps.run_dir()), ["mine"], "osps did not make this directory");
    assert_eq!(fs::read_to_string(foreign).unwrap(), "the user's own");
}

/// Data of another size, or of another boot, is not believed: the instance starts afresh.
#[test]
fn data_that_does_not_fit_is_discarded() {
    let cases: [(&[&str], bool, &str); 2] =
        [(&["--data-size", "64KiB"], false, "discarded"), (&[], true, "swept ")];
    for (args, other_boot, said) in cases {
        let mut osps = Launch::pair(&[]).start();
        assert_eq!(osps.ask(0, "SET kept no"), "+OK");
        osps.kill_everything();
        if other_boot {
            patch(osps.run_dir(), offset_of!(HeaderCells, boot_id), 1);
        }
        let mut again = Again::start(osps.run_dir(), args);
        assert!(again.log().contains(said), "{}", again.log());
        assert_eq!(osps.ask(0, "GET kept"), "$-1", "{}", again.log());
        assert_eq!(osps.ask(0, "SET new yes"), "+OK");
        let mut generations: Vec<_> = lives(&osps).iter().map(|(_, number)| *number).collect();
        generations.sort_unstable();
        assert_eq!(generations, [1, 2]);
        again.stop();
    }
}

#[test]
fn a_directory_that_osps_made_goes_even_after_a_kill() {
    let mut osps = Launch::pair(&[]).start();
    osps.kill_everything();
    let mut again = Again::start(osps.run_dir(), &[]);
    again.stop();
    assert!(!osps.run_dir().exists());
}

/// The story: 18 of 116 kills at random moments of a start or a stop left a directory that nobody
/// knew to be osps's, and 17 of 20 kills during a stop had dropped the data already.
#[test]
fn who_is_killed_while_it_starts_or_stops_leaves_nothing_that_stays() {
    let mut random = Random::new(told_seed("moments of kills"));
    for round in 0..24 {
        let stops = round % 2 == 0;
        let mut osps = if stops {
            let osps = Launch::pair(&[]).start();
            assert_eq!(osps.ask(0, "SET k v"), "+OK");
            osps.signal_watchdog(Signal::TERM);
            osps
        } else {
            Launch::pair(&[]).spawn_unfounded()
        };
        let most = if stops { 12_000 } else { 25_000 };
        let moment = Duration::from_micros(random.next() % most);
        let end = now() + moment;
        while now() < end {
            std::hint::spin_loop();
        }
        osps.kill_watchdog();
        let run_dir = osps.run_dir().to_owned();
        let left = if run_dir.exists() { names(&run_dir) } else { Vec::new() };
        let whole = left.iter().any(|name| name == "segment");
        assert!(
            !stops || whole || left.is_empty() || left == ["lock"],
            "the data went before its last step: {left:?} after {moment:?}"
        );
        let mut again = Again::start(&run_dir, &[]);
        if stops && whole {
            let address =
                osps_heart::segment::text::load(&again.segment().unwrap().slots()[0].server.listen);
            let reply = common::Client::to(address.parse().unwrap()).ask("GET k");
            assert_eq!(reply, "v", "{left:?} after {moment:?}");
        }
        again.stop();
        assert!(!run_dir.exists(), "killed after {moment:?} (stopping: {stops}): {left:?}");
    }
}

/// One that was killed right after `mkdir`.
#[test]
fn an_empty_directory_that_osps_made_is_known_to_be_its() {
    let (_dir, run_dir) = scratch();
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, Permissions::from_mode(0o1700)).unwrap();
    Again::start(&run_dir, &[]).stop();
    assert!(!run_dir.exists());
    make_private(&run_dir);
    Again::start(&run_dir, &[]).stop();
    assert!(run_dir.exists(), "somebody else made this one");
}

#[test]
fn servers_of_a_killed_watchdog_are_ended_before_new_ones_start() {
    let mut osps = Launch::pair(&["--workers", "2"]).start();
    let old = osps.servers();
    osps.kill_watchdog();
    assert!(!old.iter().any(Process::is_dead), "servers outlive their watchdog");
    let again = Again::start(osps.run_dir(), &[]);
    assert!(old.iter().all(Process::is_dead));
    for process in &old {
        let line = format!("pid={}: ended; the watchdog that started it", process.pid());
        assert!(again.log().contains(&line), "{line:?} is missing: {}", again.log());
    }
    let new = osps.servers();
    assert_eq!(new.len(), 2, "one worker this time");
    assert!(new.iter().all(|new| old.iter().all(|old| old.pid() != new.pid())));
    assert_eq!(osps.ask(1, "PING"), "+PONG");
}

/// A pid alone is no proof. The second half shows that the patch reaches what it should.
#[test]
fn a_recorded_pid_is_believed_only_with_its_start_time() {
    let mut osps = Launch::pair(&[]).start();
    osps.kill_everything();
    // In a group of its own: whoever kills it kills its group.
    let mut sleep = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
    let innocent = process_of(sleep.id()).unwrap();
    let patch_record = |field: usize, value: u64| {
        let record = osps.segment().geometry().slots_offset + PAGE + offset_of!(SlotCells, server);
        patch(osps.run_dir(), record + field, value);
    };
    patch_record(offset_of!(ServerCells, pid), sleep.id().into());
    // One tick of the kernel's clock beside it: a test is quicker than a tick.
    patch_record(offset_of!(ServerCells, start_time), innocent.start_time() - 1);
    assert_eq!(osps.segment().slots()[1].server.identity().unwrap().pid, sleep.id());

    let mut again = Again::start(osps.run_dir(), &[]);
    assert!(!innocent.is_dead(), "a stranger was killed: {}", again.log());
    again.child.kill().unwrap();
    again.child.wait().unwrap();
    let recorded = osps.servers();
    for server in &recorded {
        server.kill().unwrap();
    }
    wait_until("all dead", SOON, || recorded.iter().all(Process::is_dead).then_some(()));

    patch_record(offset_of!(ServerCells, pid), sleep.id().into());
    patch_record(offset_of!(ServerCells, start_time), innocent.start_time());
    let mut again = Again::start(osps.run_dir(), &[]);
    let line = format!("pid={}: up (taken over", sleep.id());
    wait_until("the patch reaches the right words", SOON, || {
        again.log().contains(&line).then_some(())
    });
    again.stop();
    sleep.wait().unwrap();
}

// ------------------------------------------------------------------------------ orphaned servers

const ORPHAN: Duration = Duration::from_secs(1);

/// As soon as osps allows: the watchdog then beats every quarter of a second.
fn soon_orphaned() -> Launch {
    Launch::pair(&["--orphan-timeout", "1s", "--check-interval", "100ms", "--workers", "2"])
}

fn last_watchdog_beat(segment: &Segment) -> Monotonic {
    segment.header().watchdog_heart.sample().stamp
}

#[test]
fn orphaned_servers_leave_and_the_last_one_removes_the_directory() {
    let mut osps = soon_orphaned().start();
    let (servers, segment) = (osps.servers(), osps.segment());
    osps.kill_watchdog();
    osps.wait("a server to leave", || servers.iter().any(Process::is_dead).then_some(()));
    assert!(now().since(last_watchdog_beat(&segment)) >= ORPHAN, "not before its time");
    osps.wait("all to leave", || servers.iter().all(Process::is_dead).then_some(()));
    assert!(!osps.run_dir().exists(), "{:?}\n{}", names(osps.run_dir()), osps.log());
    osps.wait_log(&["orphaned"]);
    osps.wait_log(&["removed", "nobody is left"]);
}

#[test]
fn orphaned_servers_leave_a_foreign_file_alone() {
    let mut osps = soon_orphaned().start();
    fs::write(osps.run_dir().join("mine"), "the user's own").unwrap();
    let servers = osps.servers();
    osps.kill_watchdog();
    osps.wait("all to leave", || servers.iter().all(Process::is_dead).then_some(()));
    assert_eq!(names(osps.run_dir()), ["mine"], "{}", osps.log());
}

#[test]
fn behind_a_frozen_watchdog_nothing_is_removed() {
    let osps = soon_orphaned().start();
    let (servers, segment) = (osps.servers(), osps.segment());
    let (before, generations) = (names(osps.run_dir()), lives(&osps));
    osps.signal_watchdog(Signal::STOP);
    osps.wait("all to leave", || servers.iter().all(Process::is_dead).then_some(()));
    assert!(now().since(last_watchdog_beat(&segment)) >= ORPHAN);
    assert_eq!(names(osps.run_dir()), before, "{}", osps.log());
    assert!(before.iter().any(|name| name == LOCK));

    osps.signal_watchdog(Signal::CONT);
    for (slot, (_, generation)) in generations.iter().enumerate() {
        osps.wait_successor(slot, *generation);
    }
    osps.wait_all_up();
    assert_eq!(osps.ask(0, "PING"), "+PONG");
}

/// Servers that look often meet every gap between two beats of the watchdog, the longest included.
#[test]
fn the_shortest_orphan_timeout_is_longer_than_the_watchdogs_pauses() {
    let args = ["--orphan-timeout", "1s", "--check-interval", "1m", "--beat-interval", "1ms"];
    let osps = Launch::pair(&args).start();
    let (before, segment) = (lives(&osps), osps.segment());
    let beats = || segment.header().watchdog_heart.sample().count;
    let first = beats();
    osps.wait("five beats", || (beats() >= first + 5).then_some(()));
    assert!(osps.find_log(&["orphaned"]).is_none(), "{}", osps.log());
    assert_eq!(lives(&osps), before, "{}", osps.log());
}

// ---------------------------------------------------------------------------------------- refusals

#[test]
fn a_symlink_or_a_file_is_no_run_directory() {
    let (dir, run_dir) = scratch();
    let real = dir.path().join("real");
    make_private(&real);
    symlink(&real, &run_dir).unwrap();
    assert_refused(&run_dir, &[run_dir.to_str().unwrap(), "symlink"]);
    assert!(names(&real).is_empty());
    fs::remove_file(&run_dir).unwrap();
    fs::write(&run_dir, "").unwrap();
    assert_refused(&run_dir, &[run_dir.to_str().unwrap(), "not a directory"]);
    assert!(run_dir.is_file());
}

#[test]
fn a_directory_of_another_user_is_refused() {
    if !is_root() {
        skip("to give a directory away needs root");
        return;
    }
    let (_dir, run_dir) = scratch();
    make_private(&run_dir);
    std::os::unix::fs::chown(&run_dir, Some(NOBODY), None).unwrap();
    assert_refused(&run_dir, &["belongs to user 65534", "--run-dir"]);
    // Nor is one that runs there replaced.
    assert_says(&attempt(&["--take-over"], &run_dir), &["belongs to user 65534"]);
    assert!(names(&run_dir).is_empty());
}

#[test]
fn a_directory_open_to_others_is_refused() {
    let (_dir, run_dir) = scratch();
    make_private(&run_dir);
    for mode in [0o755, 0o710, 0o701, 0o777] {
        fs::set_permissions(&run_dir, Permissions::from_mode(mode)).unwrap();
        let shown = format!("mode 0{mode:o}");
        assert_refused(&run_dir, &["open to others", &shown, "chmod 700"]);
        assert!(names(&run_dir).is_empty());
    }
}

fn on_disk() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kind = rustix::fs::statfs(dir.path()).unwrap().f_type;
    if kind == 0x0102_1994 {
        skip("the build directory is on a tmpfs itself");
        return None;
    }
    Some(dir)
}

#[test]
fn a_directory_on_a_disk_is_refused() {
    let Some(dir) = on_disk() else { return };
    let run_dir = dir.path().join("run");
    make_private(&run_dir);
    assert_refused(&run_dir, &["not on a tmpfs", "/dev/shm", "--run-dir"]);
    assert!(names(&run_dir).is_empty());
}

#[test]
fn a_refused_start_leaves_no_directory_behind() {
    let Some(dir) = on_disk() else { return };
    assert_refused(&dir.path().join("run"), &["not on a tmpfs"]);
    assert!(names(dir.path()).is_empty(), "left: {:?}", names(dir.path()));
}

#[test]
fn a_missing_parent_is_told() {
    let (dir, _) = scratch();
    let run_dir = dir.path().join("no/such");
    assert_refused(&run_dir, &[run_dir.to_str().unwrap(), "directory above it does not exist"]);
}

#[test]
fn a_taken_port_is_told_and_nothing_is_left() {
    let (dir, run_dir) = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = attempt(&["--listen", &address], &run_dir);
    assert_says(&refused, &[&address, "--listen", "port 0"]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_full_tmpfs_is_told_and_nothing_is_left() {
    if !is_root() || !has("unshare") {
        skip("a small tmpfs of its own needs root and unshare");
        return;
    }
    let (dir, _) = scratch();
    let script = "mount -t tmpfs -o size=64k,mode=700 none \"$1\" || exit 77
        \"$0\" --listen 127.0.0.1:0 --run-dir \"$1/run\"; code=$?
        echo \"left: $(ls -A \"$1\")\"; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, BINARY]).arg(dir.path());
    let refused = run_plain(command);
    let no_namespace = String::from_utf8_lossy(&refused.stderr).contains("unshare:");
    if refused.status.code() == Some(77) || no_namespace {
        skip(&format!("no tmpfs of its own can be mounted here: {}", text(&refused)));
        return;
    }
    assert_says(&refused, &["tmpfs is full", "bytes are needed", "--data-size", "left: \n"]);
}

/// Somebody lives there whom the segment does not name, perhaps in another pid namespace.
#[test]
fn a_stranger_among_the_members_is_respected() {
    let (_dir, run_dir) = scratch();
    make_private(&run_dir);
    let path = run_dir.join(MEMBERS);
    let members = File::options().create_new(true).write(true).mode(0o600).open(&path).unwrap();
    rustix::fs::flock(&members, rustix::fs::FlockOperation::LockShared).unwrap();
    let start = Instant::now();
    let me = format!("pid {}", std::process::id());
    assert_refused(&run_dir, &[MEMBERS, &me]);
    assert!(start.elapsed() >= Duration::from_secs(1), "it waits for somebody who is leaving");
    assert!(path.exists());
    drop(members);
    Again::start(&run_dir, &[]).stop();
}

// -------------------------------------------------------------------------------- damaged segments

fn open_error(run_dir: &Path) -> AttachError {
    Segment::open(run_dir, Access::ReadOnly).expect_err("this is no segment")
}

type Expected = fn(&AttachError) -> bool;

#[test]
fn a_segment_that_cannot_be_right_is_refused_and_swept() {
    let sound = {
        let osps = Launch::pair(&[]).start();
        fs::read(osps.run_dir().join("segment")).unwrap()
    };
    let patched = |offset: usize, value: u64| {
        let mut bytes = sound.clone();
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let version = offset_of!(HeaderCells, version);
    let garbage = Random::new(1).bytes(8192);
    let cases: [(&str, Vec<u8>, Expected); 9] = [
        ("of another version", patched(version, 9), |e| matches!(e, AttachError::Version(9))),
        ("unfinished", patched(version, 0), |e| matches!(e, AttachError::Unfinished)),
        ("with another magic", patched(0, 7), |e| matches!(e, AttachError::Magic(7))),
        ("garbage", garbage, |e| matches!(e, AttachError::Magic(_))),
        ("empty", Vec::new(), |e| matches!(e, AttachError::Short(0))),
        ("a header cut short", sound[..100].to_vec(), |e| matches!(e, AttachError::Short(100))),
        ("a byte too short", sound[..sound.len() - 1].to_vec(), |e| {
            matches!(e, AttachError::Geometry(_))
        }),
        ("with too many slots", patched(offset_of!(HeaderCells, slots_count), 1 << 40), |e| {
            matches!(e, AttachError::Geometry(_))
        }),
        ("with shifted slots", patched(offset_of!(HeaderCells, slots_offset), 8), |e| {
            matches!(e, AttachError::Geometry(_))
        }),
    ];
    let (_dir, run_dir) = scratch();
    assert_eq!(attempt(&["status"], &run_dir).status.code(), Some(3), "nothing is there");
    make_private(&run_dir);
    assert_eq!(attempt(&["status"], &run_dir).status.code(), Some(3), "an empty directory");
    for (name, bytes, expected) in cases {
        fs::write(run_dir.join("segment"), bytes).unwrap();
        let error = open_error(&run_dir);
        assert!(expected(&error), "{name}: {error:?}");
        let status = attempt(&["status"], &run_dir);
        assert_eq!(status.status.code(), Some(4), "{name}: {}", text(&status));
        assert!(text(&status).contains("cannot tell"), "{name}: {}", text(&status));
        let mut again = Again::start(&run_dir, &[]);
        assert!(again.log().contains("swept 1 file"), "{name}: {}", again.log());
        again.stop();
        assert!(names(&run_dir).is_empty(), "{name}");
    }
    symlink("/dev/zero", run_dir.join("segment")).unwrap();
    assert!(matches!(open_error(&run_dir), AttachError::Io { .. }), "links are not followed");
    assert_eq!(attempt(&["status"], &run_dir).status.code(), Some(4));
}

/// Cuts the segment of a running instance.
fn cut(osps: &Osps, length: u64) {
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    file.set_len(length).unwrap();
}

/// What a cut segment held is beyond repair: everything stops in order and starts anew, once.
#[test]
fn a_cut_segment_is_made_anew_once() {
    for length in [0, 4096] {
        let mut osps =
            Launch::pair(&["--check-interval", "100ms", "--stop-timeout", "500ms"]).start();
        let pid = osps.watchdog_pid();
        cut(&osps, length);
        osps.wait_log(&["the segment was cut short by somebody", "starting anew"]);
        osps.wait("a new segment", || {
            let segment = Segment::open(osps.run_dir(), Access::ReadOnly).ok()?;
            let up = |slot: &SlotCells| slot.server.state.load(Ordering::Relaxed) == 2;
            segment.slots().iter().all(up).then_some(())
        });
        assert_eq!(osps.watchdog_pid(), pid, "the same process goes on");
        assert_eq!(osps.ask(0, "SET k v"), "+OK");
        cut(&osps, length);
        assert_eq!(osps.wait_exit().code(), Some(5), "{}", osps.log());
        assert!(!osps.run_dir().exists(), "{:?}", names(osps.run_dir()));
    }
}

#[test]
fn a_stop_is_a_stop_on_a_cut_segment_too() {
    let mut osps = Launch::pair(&["--check-interval", "100ms", "--stop-timeout", "1s"]).start();
    cut(&osps, 4096);
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    assert!(!osps.run_dir().exists());
}

// ---------------------------------------------------------------------------------- vanished names

/// Everything works: successors start, data is there, a second start is refused, `stop` stops.
fn is_whole(osps: &mut Osps, what: &str) {
    let kept = osps.client(0).ask("GET k");
    assert_eq!(kept, "v", "{what}");
    for slot in [1, 0] {
        let generation = osps.generation(slot);
        osps.signal(&osps.process(slot), Signal::KILL);
        osps.wait_successor(slot, generation);
        osps.wait_all_up();
    }
    osps.wait_linked();
    assert_eq!(osps.ask(0, "INCR n"), ":1", "{what}");
    let restarts: u64 = (0..2).map(|slot| osps.restarts(slot).iter().sum::<u64>()).sum();
    assert!(restarts <= 3, "{what}: {restarts} restarts\n{}", osps.log());
    osps.stop();
    assert!(!osps.run_dir().exists(), "{what}: {:?}", names(osps.run_dir()));
}

fn with_data() -> Osps {
    let osps = Launch::pair(&["--check-interval", "100ms"]).start();
    osps.wait_linked();
    assert_eq!(osps.ask(0, "SET k v"), "+OK");
    osps
}

/// The story: somebody cleaned /dev/shm. Hearts were not judged any more, successors crash-looped,
/// `status` and `stop` said that nothing runs.
#[test]
fn a_removed_directory_is_put_back() {
    let mut osps = with_data();
    let servers = osps.servers();
    fs::remove_dir_all(osps.run_dir()).unwrap();
    osps.wait_log(&[
        "somebody removed the directory, lock, members, segment, dwtube1, wdtube1, control",
    ]);
    assert!(servers.iter().all(|server| !server.is_dead()), "nobody was touched");
    let status = osps.command(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    is_whole(&mut osps, "all of it");
}

#[test]
fn each_removed_name_is_put_back() {
    for name in ["lock", "members", "control", "segment", "dwtube1", "wdtube1"] {
        let mut osps = with_data();
        let (servers, before) = (osps.servers(), lives(&osps));
        fs::remove_file(osps.run_dir().join(name)).unwrap();
        // The lock was removed: a second start killed the servers of the living watchdog.
        assert_refused(osps.run_dir(), &["osps already runs"]);
        osps.wait_log(&[&format!("somebody removed {name} from")]);
        assert_refused(osps.run_dir(), &["osps already runs"]);
        assert_eq!(lives(&osps), before, "{name}");
        assert!(servers.iter().all(|server| !server.is_dead()), "{name}");
        is_whole(&mut osps, name);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn a_directory_that_cannot_be_put_back_ends_osps_with_a_code_of_its_own() {
    let mut osps = Launch::pair(&["--check-interval", "100ms"]).start();
    let servers = osps.servers();
    fs::remove_dir_all(osps.run_dir().parent().unwrap()).unwrap();
    osps.wait_log(&["cannot be put back yet"]);
    assert!(servers.iter().all(|server| !server.is_dead()), "judged on, not ended");
    osps.signal(&servers[1], Signal::KILL);
    osps.wait_log_for(Duration::from_secs(60), &["restarted too often, giving up"]);
    assert_eq!(osps.wait_exit().code(), Some(5), "{}", osps.log());
    assert!(servers.iter().all(Process::is_dead));
}

/// A removed directory does not give two watchdogs one name.
#[test]
fn a_start_finds_the_watchdog_whose_directory_was_just_removed() {
    let mut osps = Launch::pair(&[]).start();
    let pid = osps.watchdog_pid().to_string();
    osps.stop_watchdog();
    fs::remove_dir_all(osps.run_dir()).unwrap();
    assert_refused(osps.run_dir(), &["already runs for", &pid]);
    osps.signal_watchdog(Signal::CONT);
    osps.wait_log(&["somebody removed the directory"]);
    osps.stop();
}

/// A FIFO that somebody replaced was never made again, and its server crash-looped.
#[test]
fn what_others_put_in_the_place_of_a_name_is_left_and_harms_nobody() {
    for (name, make) in [
        (
            "dwtube1",
            (|path: &Path| {
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }) as fn(&Path),
        ),
        ("wdtube1", |path| fs::write(path, "mine").unwrap()),
        ("segment", |path| fs::write(path, "mine").unwrap()),
        ("lock", |path| fs::write(path, "mine").unwrap()),
    ] {
        let osps = with_data();
        let path = osps.run_dir().join(name);
        fs::remove_file(&path).unwrap();
        make(&path);
        osps.wait_log(&[&format!("somebody put something else in the place of {name}")]);
        // The segment is not under its name any more: the log tells who runs.
        let first = osps.wait_log(&["secondary-1 gen=", "down -> starting"]);
        let pid = first.text.split("pid=").nth(1).unwrap().split(':').next().unwrap();
        let server = process_of(pid.parse().unwrap()).unwrap();
        osps.signal(&server, Signal::KILL);
        osps.wait_log(&["secondary-1 gen=3", "starting -> up"]);
        assert!(path.exists());
        if path.is_file() {
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        }
    }
}

/// One write of 0xff over the segment: geometry words were never mended, every successor died, 27
/// restarts into back-off.
#[test]
fn a_scribbled_segment_costs_a_restart_and_no_more() {
    let mut osps = Launch::pair(&["--check-interval", "100ms"]).start();
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    let end = osps.segment().geometry().events_offset;
    let pids = [osps.pid(0), osps.pid(1)];
    file.write_all_at(&vec![0xff; end], 0).unwrap();
    osps.wait_log(&["somebody scribbled over the segment's header: mended"]);
    osps.wait("everybody up and linked", || {
        let segment = Segment::open(osps.run_dir(), Access::ReadOnly).ok()?;
        let up = segment.slots().iter().all(|slot| {
            slot.server.state.load(Ordering::Relaxed) == 2 && slot.server.identity().is_some()
        });
        (up && osps.ask(0, "SET k v") == "+OK").then_some(())
    });
    osps.wait_linked();
    let generation = osps.generation(0);
    assert!(generation <= 8, "generation {generation} after {pids:?}\n{}", osps.log());
    osps.stop();
    assert!(!osps.run_dir().exists());
}

// ------------------------------------------------------------------------------ garbage in the FIFOs

fn dropped(osps: &Osps, slot: usize) -> u64 {
    osps.segment().slots()[slot].activity.frames_dropped.load(Ordering::Relaxed)
}

#[test]
fn garbage_in_the_fifos_harms_nobody() {
    let osps = Launch::pair(&[]).start();
    osps.wait("the link", || osps.info(0).contains("link_slot_1:up").then_some(()));
    let before = lives(&osps);
    let mut random = Random::new(1);
    let mut noise = |length| random.bytes(length);
    for (tube, reader) in [(tube_down(1), 1usize), (tube_up(1), 0usize)] {
        let generation = |slot: usize| Generation(osps.generation(slot));
        let (reader_slot, writer) = (SlotId(u8::try_from(reader).unwrap()), 1 - reader);
        let frame = Frame {
            kind: FrameKind::Pong,
            from: SlotId(u8::try_from(writer).unwrap()),
            to: reader_slot,
            from_generation: generation(writer),
            to_generation: generation(reader),
            epoch: Epoch(0),
            sequence: 0,
            job: 0,
            payload: [0xff; wire::PAYLOAD_SIZE],
        };
        let stale = Frame { to_generation: Generation(77), ..frame };
        let impostor = Frame { from_generation: Generation(77), ..frame };
        let astray = Frame { to: SlotId(9), ..frame };
        let from_itself = Frame { from: reader_slot, ..frame };
        let mut unknown = wire::encode(&frame);
        unknown[wire::offset::KIND] = 200;
        let mut future = wire::encode(&frame);
        future[wire::offset::VERSION] = 9;
        let mut pieces: Vec<(&str, Vec<u8>)> = vec![
            ("random bytes", noise(1000)),
            ("ten bytes", noise(10)),
            ("half a frame", wire::encode(&frame)[..FRAME_SIZE / 2].to_vec()),
            ("a frame and a half", [&wire::encode(&stale)[..], &noise(32)].concat()),
            ("whole frames of noise", noise(FRAME_SIZE * 16)),
            ("as much as a pipe takes", noise(64 << 10)),
        ];
        for (name, bad) in [
            ("to a dead generation", wire::encode(&stale)),
            ("from a dead generation", wire::encode(&impostor)),
            ("to another slot", wire::encode(&astray)),
            ("from itself", wire::encode(&from_itself)),
            ("of an unknown kind", unknown),
            ("of another version", future),
        ] {
            pieces.push((name, bad.to_vec()));
        }
        let mut fifo = fifo(osps.run_dir(), &tube).unwrap();
        for (name, piece) in pieces {
            let start = dropped(&osps, reader);
            let written = fifo.write(&piece).unwrap();
            assert!(written > 0);
            osps.wait(&format!("{name} in {tube} to be dropped"), || {
                (dropped(&osps, reader) > start).then_some(())
            });
        }
    }
    assert_eq!(lives(&osps), before, "{}", osps.log());
    for slot in [0, 1] {
        assert_eq!(osps.ask(slot, "PING"), "+PONG");
    }
    // That the link still carries frames shows a secondary that the primary does not know yet.
    let (_, old) = before[1];
    osps.signal(&osps.process(1), Signal::KILL);
    let (new, _) = osps.wait_successor(1, old);
    let up = format!("link_slot_1:up,gen={new}");
    osps.wait(&up, || osps.info(0).contains(&up).then_some(()));
    assert_eq!(lives(&osps)[0], before[0]);
}
