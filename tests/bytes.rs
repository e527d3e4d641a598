//! Bytes and words: what is typed arrives as it is, and what is told names the cause and the cure.
//!
//! Goal: a path, an argument or an environment variable is bytes, and bytes they stay, on the whole
//! way to the program; where they are shown, they are escaped in one way. A refusal names its first
//! cause. A secret stays out of the log. Each test tells what somebody met in the field.
//!
//! Method: the real binary, with scripts of `sh` as programs that write down what they were given.
//!
//! What it cannot show: that a text is understood. What needs root or a tool says why it is
//! skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{BINARY, Launch, Osps, run, text};

// ---------------------------------------------------------------------------------------- helpers

/// An executable script of `sh` with this name, in a directory that goes with the value.
fn script(name: &[u8], lines: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OsStr::from_bytes(name));
    write_script(&path, &format!("#!/bin/sh\n{lines}\n"));
    (dir, path)
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// `osps ARGS...`, ready to run, without what this test's own environment would add.
fn osps(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    command
}

/// Refused with this exit code, with all of these parts in the text.
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

// ------------------------------------------------------------------------------------------ bytes

/// An argument in Latin-1 was refused ("invalid UTF-8"), and a run directory with one such byte
/// ended in an endless loop: servers were told another directory than there was.
#[test]
fn arguments_directories_and_environment_arrive_byte_by_byte() {
    let (dir, program) = script(
        b"robot\xe9",
        "printf '%s\\n%s\\n%s' \"$1\" \"$OSPS_RUN_DIR\" \"$LATIN\" >\"$0.new\"
        mv \"$0.new\" \"$0.told\"; exec sleep 60",
    );
    let odd = OsStr::from_bytes(b"caf\xe9 \\ \n");
    let mut osps = Launch::own(&[], &[])
        .word(program.as_os_str())
        .word(OsStr::from_bytes(b"--na\xefve=\xff\xfe"))
        .in_dir(odd)
        .env("LATIN", OsStr::from_bytes(b"gar\xe7on"))
        .spawn();
    let told = dir.path().join(OsStr::from_bytes(b"robot\xe9.told"));
    let told = osps.wait("what the program was given", || fs::read(&told).ok());
    let run_dir = osps.run_dir().as_os_str().as_bytes();
    assert_eq!(told, [b"--na\xefve=\xff\xfe\n", run_dir, b"\ngar\xe7on"].concat());

    let shown = format!(r"{}/caf\xe9 \\ \x0a", osps.run_dir().parent().unwrap().display());
    let status = osps.status();
    assert_eq!(status["run_dir"], shown.as_str());
    assert_eq!(status["servers"][0]["name"], r"robot\xe9");
    osps.wait_log(&["watches over", &shown]);
    osps.wait_log(&[r"robot\xe9 gen=1 pid="]);
    let table = osps.command(&["status"]);
    let table = String::from_utf8(table.stdout).expect("what is shown is text");
    assert!(table.contains(&shown) && table.contains(r"robot\xe9"), "{table}");
    osps.stop();
}

/// The same for the built-in servers: they open the directory that they are told.
#[test]
fn the_pair_runs_in_any_directory_and_keeps_any_bytes() {
    let mut osps = Launch::pair(&[]).in_dir(OsStr::from_bytes(b"\xff\xff")).start();
    let client = |words: &[&[u8]]| {
        let mut command = osps_client(&osps);
        command.args(words.iter().map(|word| OsStr::from_bytes(word)));
        run(command)
    };
    let set = client(&[b"requetetype2", b"SET", b"cl\xe9", b"valeur\xff\x01"]);
    assert_eq!(set.stdout, b"OK\n", "{}", text(&set));
    let get = client(&[b"requetetype1", b"GET", b"cl\xe9"]);
    assert_eq!(get.stdout, b"valeur\xff\x01\n", "{}", text(&get));
    // Its answer repeats what was asked.
    let unknown = client(&[b"NON\xe9"]);
    assert_refused(&unknown, 1, &["unknown command"]);
    osps.stop();
}

fn osps_client(osps: &Osps) -> Command {
    let mut command = self::osps(&["client", "--run-dir"]);
    command.arg(osps.run_dir());
    command
}

/// `RUNTIME_DIRECTORY` that is not UTF-8 was taken for one that is not set: another instance was
/// looked at than the one that was meant.
#[test]
fn a_runtime_directory_may_have_any_bytes() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let odd = dir.path().join(OsStr::from_bytes(b"caf\xe9"));
    let mut command = osps(&["status"]);
    command.env(
        "RUNTIME_DIRECTORY",
        [odd.as_os_str(), OsStr::new("/elsewhere")].join(OsStr::new(":")),
    );
    let shown = format!(r"osps does not run in {}/caf\xe9/default", dir.path().display());
    assert_refused(&run(command), 3, &[&shown]);
}
