//! Whose instances there are, and who may ask them: `osps list`, and root among other users.
//!
//! Goal: every instance that runs is listed, wherever its directory is, with what a name alone does
//! not tell; root may look at and stop another user's, and is not led astray by that user.
//!
//! Method: instances of this test's own names, of this user and, as root, of two others; a control
//! socket that the test itself listens on.
//!
//! What it cannot show: the instances of real users. What needs root says that it is skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{BINARY, Guest, Launch, SOON, has, is_root, run, skip, text, wait_until};
use serde_json::Value;

// ---------------------------------------------------------------------------------------- helpers

/// A name that no other instance has.
fn unique(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

fn osps(args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    run(command)
}

/// The object of this name in `osps list --json`, and the row of it in the table.
fn listed(name: &str) -> Option<(Value, String)> {
    let output = osps(&["list", "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["schema"], 1);
    let table = String::from_utf8(osps(&["list"]).stdout).unwrap();
    assert!(table.starts_with("NAME "), "{table}");
    let mut instances = list["instances"].as_array().unwrap().iter();
    let object = instances.find(|instance| instance["name"] == name)?;
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    Some((object.clone(), row.to_owned()))
}

/// `osps run` of somebody else in the default place; it ends with this value.
struct Foreign {
    child: Guest,
    run_dir: PathBuf,
    bin: tempfile::TempDir,
}

impl Foreign {
    fn start(user: u32, name: &str) -> Foreign {
        // The build directory may be closed to others.
        let bin = tempfile::tempdir().unwrap();
        fs::set_permissions(bin.path(), Permissions::from_mode(0o755)).unwrap();
        let binary = bin.path().join("osps");
        fs::copy(BINARY, &binary).unwrap();
        let mut command = Command::new("setpriv");
        let id = user.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "TERM"]);
        command.arg(&binary).args(["run", "--name", name, "--", "sleep", "600"]).current_dir("/");
        command.env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null());
        let log = File::create(bin.path().join("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        let run_dir = PathBuf::from(format!("/dev/shm/osps-{user}/{name}"));
        let foreign = Foreign { child: Guest(command.spawn().unwrap()), run_dir, bin };
        wait_until("another user's instance", SOON, || {
            foreign.run_dir.join("control").symlink_metadata().is_ok().then_some(())
        });
        foreign
    }

    fn wait_gone(&mut self) {
        assert!(self.child.0.wait().unwrap().success());
        assert!(!self.run_dir.exists());
    }
}

impl Drop for Foreign {
    /// The test failed: a stop in order leaves no program behind.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.bin.path().join("log")).unwrap_or_default());
        }
        if self.run_dir.exists() {
            let mut stop = Command::new(BINARY);
            let _ = stop.args(["stop", "-q", "--run-dir"]).arg(&self.run_dir).status();
        }
    }
}

fn can_become_others() -> bool {
    let can = is_root() && has("setpriv");
    if !can {
        skip("to become somebody else needs root and setpriv");
    }
    can
}

// ------------------------------------------------------------------------------------------- list

/// "What did I start here?" had no answer: a name that was forgotten could not be stopped.
#[test]
fn an_instance_is_listed_wherever_its_directory_is() {
    let name = unique("anywhere");
    let mut osps = Launch::pair(&["--name", &name]).start();
    let (object, row) = listed(&name).expect("it runs");
    assert_eq!(object["run_dir"], osps.run_dir().to_str().unwrap());
    assert_eq!(object["state"], "all up");
    assert_eq!(object["user"], rustix::process::geteuid().as_raw());
    assert_eq!(object["watchdog"]["pid"], osps.watchdog_pid());
    assert!(object["watchdog"]["since_ms"].is_u64(), "{object}");
    let pid = osps.watchdog_pid().to_string();
    for part in [pid.as_str(), "all up", osps.run_dir().to_str().unwrap()] {
        assert!(row.contains(part), "no {part}: {row}");
    }
    osps.stop();
    assert!(listed(&name).is_none());
}

/// What a killed one left in its place is listed as that, until a start goes on with it.
/// Who named the instance in the file and asked without a name was told that nothing runs.
#[test]
fn who_asks_for_a_wrong_name_learns_which_run() {
    let runtime = tempfile::tempdir_in("/dev/shm").unwrap();
    let ask = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).env_remove("RUST_LOG").env("RUNTIME_DIRECTORY", runtime.path());
        text(&run(command))
    };
    let start = |name: &str| {
        let mut command = Command::new(BINARY);
        command.args(["run", "--name", name, "--", "sleep", "600"]).stdin(Stdio::null());
        command.env("RUNTIME_DIRECTORY", runtime.path());
        let child = Guest(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let control = runtime.path().join(name).join("control");
        wait_until("an instance", SOON, || control.symlink_metadata().is_ok().then_some(()));
        child
    };
    let default = runtime.path().join("default");
    let nobody = format!("osps: osps does not run in {}", default.display());
    assert!(ask(&["status"]).ends_with(&format!("{nobody}\n")), "{}", ask(&["status"]));
    let _one = start("user1");
    for command in ["status", "reload", "stop", "logs"] {
        let said = ask(&[command]);
        let expected = format!("{nobody}; running: user1; say --name user1\n");
        assert!(said.ends_with(&expected), "{command}: {said}");
    }
    let _other = start("user2");
    let said = ask(&["stop", "--name", "usr"]);
    assert!(said.contains("; running: user1, user2; say which with --name"), "{said}");
    // Who chose a directory by hand did not mean a name.
    let elsewhere = runtime.path().join("x/y");
    let said = ask(&["status", "--run-dir", elsewhere.to_str().unwrap()]);
    assert!(!said.contains("running:"), "{said}");
    for name in ["user1", "user2"] {
        ask(&["stop", "--name", name]);
    }
}

#[test]
fn leftovers_in_a_default_place_are_listed_as_such() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let name = unique("left");
    let command = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).env("RUNTIME_DIRECTORY", parent.path()).env_remove("RUST_LOG");
        command
    };
    let mut start = command(&["run", "--name", &name, "--", "sleep", "600"]);
    start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut watchdog = Guest(start.spawn().unwrap());
    let state = |wanted: &str| {
        wait_until(wanted, SOON, || {
            let list = String::from_utf8(run(command(&["list"])).stdout).unwrap();
            list.lines().any(|row| row.contains(&name) && row.contains(wanted)).then_some(())
        });
    };
    // Degraded until it counts as up, which may be sooner than the list is read.
    state("");
    // Also before the program is recorded; it has to be left behind.
    let segment = || {
        let run_dir = parent.path().join(&name);
        osps_heart::segment::Segment::open(&run_dir, osps_heart::segment::Access::ReadOnly)
    };
    wait_until("the program", SOON, || common::process_in(&segment().ok()?, 0));
    watchdog.0.kill().unwrap();
    watchdog.0.wait().unwrap();
    state("no watchdog");
    common::process_in(&segment().unwrap(), 0).unwrap().kill().unwrap();
    state("not running");
}

/// `/dev/shm` is everybody's: who makes a directory in another's name is not listed as him.
#[test]
fn a_directory_in_another_user_s_name_is_not_believed() {
    let user = 4_000_000_000 + std::process::id();
    let parent = PathBuf::from(format!("/dev/shm/osps-{user}"));
    let run_dir = parent.join("default");
    fs::create_dir_all(&run_dir).unwrap();
    File::create(run_dir.join("lock")).unwrap();
    let list = String::from_utf8(osps(&["list"]).stdout).unwrap();
    fs::remove_dir_all(&parent).unwrap();
    assert!(!list.contains(parent.to_str().unwrap()), "{list}");
}

// ------------------------------------------------------------------------------------ other users

/// Root could kill another's watchdog, but not stop it: "belongs to user 1000, not to user 0".
#[test]
fn root_looks_at_and_stops_anothers_by_name_or_directory() {
    if !can_become_others() {
        return;
    }
    let name = unique("foreign");
    let mut first = Foreign::start(65_533, &name);
    let dir = first.run_dir.display().to_string();
    let (object, row) = listed(&name).expect("root sees all");
    assert_eq!((&object["user"], &object["run_dir"]), (&65_533.into(), &dir.as_str().into()));
    assert!(row.contains("65533"), "{row}");
    let status = osps(&["status", "--name", &name]);
    assert!(status.status.code() == Some(1) && text(&status).contains(&dir), "{}", text(&status));

    // Of two with one name none is guessed.
    let mut second = Foreign::start(65_534, &name);
    for (command, code) in [("stop", 1), ("status", 4)] {
        let refused = osps(&[command, "--name", &name]);
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(code), "{said}");
        let both = said.contains(&dir) && said.contains(second.run_dir.to_str().unwrap());
        assert!(both && said.contains("--run-dir"), "{said}");
    }
    let stopped = osps(&["stop", "--run-dir", second.run_dir.to_str().unwrap()]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    second.wait_gone();
    let stopped = osps(&["stop", "--name", &name]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    first.wait_gone();
}

/// A link in the place of `control` would make root stop another instance than he meant, or talk to
/// any other socket of the machine; and so would a socket of somebody else's.
#[test]
fn root_is_not_led_to_another_socket() {
    let (dir, run_dir) = private();
    let mut bait = Launch::pair(&[]).start();
    symlink(bait.run_dir().join("control"), run_dir.join("control")).unwrap();
    let refused = osps(&["stop", "--run-dir", run_dir.to_str().unwrap()]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(
        text(&refused).contains("run/control: Socket operation on non-socket"),
        "{}",
        text(&refused)
    );
    assert!(osps(&["status", "--run-dir", bait.run_dir().to_str().unwrap()]).status.success());
    bait.stop();
    if is_root() {
        fs::remove_file(run_dir.join("control")).unwrap();
        let _ours = UnixListener::bind(run_dir.join("control")).unwrap();
        chown(&run_dir, Some(65_534), None).unwrap();
        let refused = osps(&["stop", "--run-dir", run_dir.to_str().unwrap()]);
        assert!(text(&refused).contains("is listened to by user 0"), "{}", text(&refused));
    }
    drop(dir);
}

fn private() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let run_dir = dir.path().join("run");
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, Permissions::from_mode(0o700)).unwrap();
    (dir, run_dir)
}

/// What another user's watchdog answers is shown on root's terminal.
#[test]
fn an_answer_does_not_command_the_terminal() {
    let (_dir, run_dir) = private();
    let control = run_dir.join("control");
    let listener = UnixListener::bind(&control).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = [0u8; 5];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(b"ok stopping\n\x1b]0;owned\x07 caf\xe9\n").unwrap();
        remove(&control);
    });
    let stopped = osps(&["stop", "--run-dir", run_dir.to_str().unwrap()]);
    answer.join().unwrap();
    assert!(stopped.status.success(), "{}", text(&stopped));
    let said = String::from_utf8(stopped.stdout).unwrap();
    assert_eq!(said, "stopping\n\\x1b]0;owned\\x07 caf\\xe9\n");
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}
