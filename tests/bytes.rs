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

use common::{BINARY, Launch, Osps, Signal, has, is_root, run, skip, text};

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

// --------------------------------------------------------------------------------------- programs

/// Each was "not an executable file"; the reader looked for rights where a name was wrong.
#[test]
fn a_program_that_cannot_be_run_is_told_why() {
    let (dir, plain) = script(b"plain", "");
    fs::set_permissions(&plain, Permissions::from_mode(0o644)).unwrap();
    let nested = plain.join("robot");
    let orphan = dir.path().join("orphan");
    write_script(&orphan, "#! /no/such/interpreter -u\n");
    let windows = dir.path().join("windows");
    write_script(&windows, "#!/bin/sh\r\n");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (program, why) in [
        (Path::new("./no-such-robot"), "no such file"),
        (&link, "no such file"),
        (dir.path(), "it is a directory"),
        (&plain, "it is not executable for you"),
        (&nested, "Not a directory"),
        (Path::new("no-such-robot"), "it is in none of the directories of PATH"),
        (&orphan, "its first line wants /no/such/interpreter, and there is no such file"),
        (&windows, r"its first line wants /bin/sh\x0d, and"),
    ] {
        let refused = Launch::own(&[], &[]).word(program.as_os_str()).output();
        let whole = format!("cannot run {}: {why}", program.display());
        assert_refused(&refused, 1, &[&whole]);
    }
}

/// Without `PATH` the kernel's users look into /bin and /usr/bin; osps refused to start there
/// (`env -i osps run -- sleep 60`, some containers, some init scripts).
#[test]
fn without_path_programs_are_looked_for_as_exec_does() {
    let refused = Launch::own(&[], &["no-such-robot"]).without("PATH").output();
    assert_refused(&refused, 1, &["neither in /bin nor in /usr/bin, and PATH is not set"]);
    let mut osps = Launch::own(&[], &["sleep", "60"]).without("PATH").spawn();
    osps.wait("the program", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", osps.pid(0))).unwrap_or_default();
        (comm == "sleep\n").then_some(())
    });
    osps.stop();
}

/// `osps run -- ./robot --password ...` told the password in the log as soon as the program could
/// not be executed: after an update that took the file away, for a moment.
#[test]
fn a_failed_start_tells_no_arguments() {
    let (dir, program) = script(b"robot", "rm \"$0\"");
    let secret = "--password=hunter2";
    let launch = Launch::own(&[], &[]).word(program.as_os_str()).word(secret.as_ref());
    let mut osps = launch.env("RUST_LOG", "trace").spawn();
    let run = format!("run {}: No such file", program.display());
    osps.wait_log(&[&run]);
    osps.wait_log(&["gen=3", "starting -> exited"]);
    osps.stop();
    let (log, out) = (osps.log(), osps.out.lock().unwrap());
    let told = |text: &str| text.contains("hunter2");
    assert!(!told(&log) && !out.iter().any(|line| told(&line.text)), "{log}");
    drop(dir);
}

/// systemd hands over blocking sockets, so a program that is used to it does nothing about the
/// flag; with a non-blocking one its `accept` failed at once, for ever. And the flag belongs to the
/// socket: what one generation does to it the next one inherits.
#[test]
fn sockets_are_handed_over_blocking_to_each_generation() {
    if !has("python3") {
        skip("python3 is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    let look = format!(
        "import fcntl, os, time
flags = fcntl.fcntl(3, fcntl.F_GETFL)
fcntl.fcntl(3, fcntl.F_SETFL, flags | os.O_NONBLOCK)
with open({told:?}, 'a') as told: told.write('%d ' % (flags & os.O_NONBLOCK))
time.sleep(0 if open({told:?}).read().count(' ') < 3 else 60)"
    );
    let args = ["--listen", "127.0.0.1:0"];
    let mut osps = Launch::own(&args, &["python3", "-c", &look]).spawn();
    let told = osps.wait("three generations", || {
        fs::read_to_string(&told).ok().filter(|told| told.matches(' ').count() == 3)
    });
    assert_eq!(told, "0 0 0 ", "the flag of each generation at its start");
    osps.stop();
}

// --------------------------------------------------------------------------------------- refusals

/// `mkdir /dev/shm/osps-0` failed, and what was told was that the directory that had not been made
/// could not be opened: "No such file or directory", in a directory that everybody can see.
#[test]
fn the_first_cause_is_told() {
    if !is_root() || !has("unshare") {
        skip("a /dev/shm of its own needs root and unshare");
        return;
    }
    for (options, why) in [
        ("ro,mode=1777", "Read-only file system"),
        // No inode is free: the limit counts the mount itself.
        ("nr_inodes=1,mode=1777", "No space left on device"),
    ] {
        let script = "mount -t tmpfs -o \"$1\" none /dev/shm || exit 77
            exec \"$0\" run -- sleep 60";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, BINARY, options]);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        let refused = run(command);
        let no_namespace = String::from_utf8_lossy(&refused.stderr).contains("unshare:");
        if refused.status.code() == Some(77) || no_namespace {
            skip(&format!("no tmpfs of its own can be mounted here: {}", text(&refused)));
            return;
        }
        assert_refused(&refused, 1, &["create run directory /dev/shm/osps-", why]);
    }
}

// ------------------------------------------------------------------------------------------ words

/// "goes because the primary failed" read as if a server went up. Whoever goes down for another's
/// sake is told to have ended, and for whose.
#[test]
fn whoever_goes_down_with_another_is_told_for_whose_sake() {
    let osps = Launch::pair(&["--workers", "2"]).start();
    let before = osps.generation(2);
    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait_successor(2, before);
    for name in ["secondary-1", "secondary-2"] {
        let line = osps.wait_log(&[name, "-> dependency"]);
        assert!(line.text.ends_with(": up -> dependency (ended, its primary failed)"), "{line:?}");
    }
    osps.wait_all_up();
    let status = osps.status();
    assert_eq!(status["servers"][1]["last_cause"], "dependency");
    assert_eq!(status["servers"][0]["last_cause"], "killed");
}

/// `osps run -- ./robot` for a first look, with a program that knows nothing of osps: it was killed
/// every ten seconds, and nothing said what was wanted of it.
#[test]
fn a_program_that_never_beats_is_told_what_to_do_once() {
    let args = ["--heart", "memory", "--start-timeout", "200ms"];
    let mut osps = Launch::own(&args, &["sleep", "60"]).spawn();
    osps.wait_log(&["gen=3", "starting -> start-timeout"]);
    let log = osps.log();
    let advice: Vec<_> = log.lines().filter(|line| line.contains("has never beaten")).collect();
    assert_eq!(advice.len(), 1, "{log}");
    for way in ["osps_heart::Heart", "osps.h", "osps beat", "your-program.md", "--start-timeout"] {
        assert!(advice[0].contains(way), "no {way}: {advice:?}");
    }
    osps.stop();
}

/// One that has beaten knows how: what hangs in its second start has another trouble.
#[test]
fn a_program_that_has_beaten_is_not_told_how_to() {
    if !has("python3") {
        skip("python3 is missing");
        return;
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/beat.py");
    let args = ["--heart", "memory", "--start-timeout", "3s"];
    let start = format!("[ $OSPS_GENERATION = 1 ] && exec python3 {example}; exec sleep 60");
    let launch = Launch::own(&args, &["sh", "-c", &start]);
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/python");
    let mut osps = launch.env("PYTHONPATH", package).start();
    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait_log(&["gen=2", "starting -> start-timeout"]);
    osps.wait_log(&["gen=3", "-> starting"]);
    assert!(osps.find_log(&["has never beaten"]).is_none(), "{}", osps.log());
    osps.stop();
}

/// A program was called after the last part of its path, so two instances of `python3` could not be
/// told apart in a journal.
#[test]
fn a_slot_is_called_as_its_operator_wants() {
    let args = ["--service", "left-arm"];
    let mut osps = Launch::own(&args, &["sleep", "60"]).spawn();
    osps.wait_log(&["left-arm gen=1 pid="]);
    assert_eq!(osps.status()["servers"][0]["name"], "left-arm");
    osps.stop();
    for bad in ["", "two words", ".hidden", "a-name-that-does-not-fit-into-its-room"] {
        let refused = Launch::own(&["--service", bad], &["sleep", "60"]).output();
        assert_refused(&refused, 2, &["--service", "1 to 32 letters"]);
    }
}

/// Under cron and in journals the line every two seconds was the whole log, and `>/dev/null` took
/// the output of the program along.
#[test]
fn quiet_tells_only_what_went_wrong() {
    let mut osps = Launch::pair(&["--quiet", "--check-interval", "10ms"]).start();
    let before = osps.generation(1);
    osps.signal(&osps.process(1), Signal::KILL);
    osps.wait_successor(1, before);
    osps.wait_log(&["WARN", "secondary-1", "-> killed"]);
    osps.wait_all_up();
    let stopped = osps.command(&["stop", "--quiet"]);
    assert!(stopped.status.success() && stopped.stdout.is_empty(), "{}", text(&stopped));
    assert_eq!(osps.wait_exit().code(), Some(0));
    assert!(osps.out.lock().unwrap().is_empty(), "no status line");
    let log = osps.log();
    assert!(log.lines().all(|line| line.contains(" WARN ")), "{log}");
    let gone = osps.command(&["status", "--quiet"]);
    assert_eq!(gone.status.code(), Some(3), "the exit code tells");
    assert!(gone.stdout.is_empty() && gone.stderr.is_empty(), "{}", text(&gone));
}

/// Quiet is what osps says, not what the program says, whose environment stays as it was.
#[test]
fn a_quiet_osps_leaves_its_program_alone() {
    let say = "echo \"level=$RUST_LOG\"; exec sleep 60";
    let mut osps = Launch::own(&["-q"], &["sh", "-c", say]).spawn();
    osps.wait("the program's output", || {
        osps.out.lock().unwrap().iter().any(|line| line.text == "level=").then_some(())
    });
    assert_eq!(osps.log(), "");
    osps.stop();
}

/// A segment that could not be opened was taken for garbage and swept, data and all, where a right
/// or a descriptor was missing for the moment. And `osps client` said that nobody ran there.
#[test]
fn a_segment_that_may_not_be_read_is_neither_swept_nor_nobody_s() {
    if is_root() && !has("setpriv") {
        skip("root may read everything; to become somebody else needs setpriv");
        return;
    }
    let (shm, bin) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
    let binary = bin.path().join("osps");
    fs::copy(BINARY, &binary).unwrap();
    let run_dir = shm.path().join("run");
    fs::create_dir(&run_dir).unwrap();
    let segment = run_dir.join("segment");
    fs::write(&segment, "what somebody needs").unwrap();
    for (path, mode) in
        [(shm.path(), 0o755), (bin.path(), 0o755), (&*run_dir, 0o700), (&*segment, 0)]
    {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let unprivileged = |args: &[&str], command: &[&str]| {
        let mut whole = Command::new(&binary);
        if is_root() {
            for path in [&run_dir, &segment] {
                std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
            }
            whole = Command::new("setpriv");
            whole.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
        }
        whole.args(args).arg("--run-dir").arg(&run_dir).args(command).current_dir("/");
        whole.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        run(whole)
    };
    let why = "open segment: Permission denied";
    assert_refused(&unprivileged(&["run"], &["--", "sleep", "60"]), 1, &[why]);
    assert_refused(&unprivileged(&["status"], &[]), 4, &["cannot tell", why]);
    assert_refused(&unprivileged(&["client"], &["PING"]), 1, &["cannot tell who runs in", why]);
    fs::set_permissions(&segment, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::read_to_string(&segment).unwrap(), "what somebody needs");
}
