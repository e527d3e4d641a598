//! What can be known at a start is told at the start, and a failure of our own launch is not one of
//! the program.
//!
//! Goal: limits and forbidden kernel calls end in a refusal that says what, why and what to do, or
//! are lived with; a launch that fails later is told with its cause, waits longer each time, and
//! goes on as soon as the cause is gone.
//!
//! Method: the real binary under `ulimit` and under system call filters of the test's own.
//!
//! The stories: `ulimit -n 100` made 75 lines in four seconds, for ever; a forbidden `pidfd_open`
//! looped; without a thread for the log there was no output at all.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{BINARY, Guest, Launch, SOON, Signal, events, ms, now, run, text, wait_until};
use osps_heart::words::Event;

fn limited(limit: &str, launch: &Launch) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh", BINARY]);
    command.args(launch.command().get_args());
    command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    command
}

#[test]
fn a_hundred_descriptors_are_enough_for_a_pair() {
    let launch = Launch::pair(&[]);
    let mut command = limited("-n 100", &launch);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut osps = Guest(command.spawn().unwrap());
    wait_until("all up", SOON, || {
        let status =
            Command::new(BINARY).args(["status", "--run-dir"]).arg(launch.run_dir()).output();
        status.unwrap().status.success().then_some(())
    });
    let mut stop = Command::new(BINARY);
    stop.args(["stop", "--run-dir"]).arg(launch.run_dir());
    let stopped = run(stop);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(osps.0.wait().unwrap().success());
}

#[test]
fn too_few_descriptors_are_told_at_the_start() {
    let launch = Launch::pair(&["--workers", "4"]);
    let refused = run(limited("-n 40", &launch));
    let told = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    for part in ["open descriptors are needed and 40 are allowed", "ulimit -Hn", "LimitNOFILE="] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!launch.run_dir().exists());
}

/// The watchdog raises its own limit; the program finds what it would have found without it.
#[test]
fn a_program_gets_the_limit_of_descriptors_that_osps_was_given() {
    let launch = Launch::own(&[], &["sh", "-c", "ulimit -Sn; env | grep -c OSPS_DESC; sleep 60"]);
    let mut command = limited("-Sn 77", &launch);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut osps = Guest(command.spawn().unwrap());
    let mut out = std::io::BufReader::new(osps.0.stdout.take().unwrap());
    let mut said = Vec::new();
    while said.len() < 2 {
        let mut line = String::new();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "{said:?}");
        if line.trim().parse::<u32>().is_ok() {
            said.push(line.trim().to_owned());
        }
    }
    assert_eq!(said, ["77", "0"]);
    let mut stop = Command::new(BINARY);
    stop.args(["stop", "--run-dir"]).arg(launch.run_dir());
    assert!(run(stop).status.success());
}

/// One instruction of a classic BPF program.
fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k }
}

/// Forbids what these instructions find, from now on and in every child.
fn filter(program: &mut [libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: the program outlives the call, which copies it and touches no other memory.
    #[allow(unsafe_code, reason = "a sandbox can only be made by this call")]
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const ANY_OF: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const ALLOW: u32 = 0x7fff_0000;

fn errno(number: i32) -> u32 {
    0x0005_0000 | u32::try_from(number).unwrap()
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap()
}

fn sandboxed(launch: &Launch, prepare: fn() -> std::io::Result<()>) -> Command {
    let mut command = launch.command();
    // SAFETY: between fork and exec only system calls are made, on memory of this stack.
    #[allow(unsafe_code, reason = "a parent's sandbox can only be made there")]
    unsafe {
        command.pre_exec(prepare);
    }
    command
}

#[test]
fn a_forbidden_pidfd_is_a_refusal_and_no_loop() {
    let launch = Launch::pair(&[]);
    let refused = run(sandboxed(&launch, || {
        filter(&mut [
            instruction(LOAD, 0, 0, 0),
            instruction(EQUAL, 0, 1, number(libc::SYS_pidfd_open)),
            instruction(RETURN, 0, 0, errno(libc::EPERM)),
            instruction(RETURN, 0, 0, ALLOW),
        ])
    }));
    let told = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    for part in ["open pidfd", "Operation not permitted", "seccomp"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!launch.run_dir().exists());
}

/// It was told as a missing control socket.
#[test]
fn a_missing_proc_is_told() {
    let launch = Launch::pair(&[]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "umount -l /proc || exit 77; exec \"$@\"", "sh", BINARY]);
    command.args(launch.command().get_args());
    let refused = run(command);
    let told = text(&refused);
    if refused.status.code() == Some(77) || told.contains("unshare:") {
        return common::skip("a mount namespace needs root");
    }
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("/proc is not mounted"), "{told}");
    assert!(!launch.run_dir().exists());
}

#[test]
fn without_a_thread_the_log_is_there_all_the_same() {
    let launch = Launch::pair(&["--check-interval", "100ms"]);
    let mut command = sandboxed(&launch, || {
        const CLONE_THREAD: u32 = 0x0001_0000;
        filter(&mut [
            instruction(LOAD, 0, 0, 0),
            instruction(EQUAL, 3, 0, number(libc::SYS_clone3)),
            instruction(EQUAL, 0, 4, number(libc::SYS_clone)),
            // The low half of its first argument.
            instruction(LOAD, 0, 0, 16),
            instruction(ANY_OF, 1, 2, CLONE_THREAD),
            instruction(RETURN, 0, 0, errno(libc::ENOSYS)),
            instruction(RETURN, 0, 0, errno(libc::EAGAIN)),
            instruction(RETURN, 0, 0, ALLOW),
        ])
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut osps = command.spawn().unwrap();
    wait_until("all up", SOON, || {
        let status =
            Command::new(BINARY).args(["status", "--run-dir"]).arg(launch.run_dir()).output();
        status.unwrap().status.success().then_some(())
    });
    common::pass(ms(300));
    let mut stop = Command::new(BINARY);
    stop.args(["stop", "--run-dir"]).arg(launch.run_dir());
    assert!(run(stop).status.success());
    osps.wait().unwrap();
    let output = osps.wait_with_output().unwrap();
    let told = text(&output);
    for part in ["watches over", "starting -> up", "all stopped, nothing left", "check"] {
        assert!(told.contains(part), "{told}");
    }
}

/// Somebody replaces the program: for a moment it is not there.
#[test]
fn a_program_that_vanished_is_no_restart_storm_and_starts_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("robot");
    let put = || {
        fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put();
    let osps = Launch::own(&["--start-timeout", "5m"], &[program.to_str().unwrap()]).spawn();
    let first = osps.process(0);
    // Behind its trampoline, which has the name of osps.
    osps.wait("the program", || {
        let name = osps::sys::procfs::name(first.pid());
        (name.as_deref() == Some("sleep")).then_some(())
    });
    fs::remove_file(&program).unwrap();
    osps.signal(&first, Signal::KILL);
    let told = |osps: &common::Osps| {
        let lines = osps.err.lock().unwrap();
        let lines = lines.iter().filter(|line| {
            line.text.contains("robot: cannot be started:") && line.text.contains("No such file")
        });
        lines.map(|line| line.at).collect::<Vec<_>>()
    };
    osps.wait("four failed launches", || (told(&osps).len() >= 4).then_some(()));
    // By the ring: a line of the log may arrive here later than the next one should.
    let started = events(&osps.segment()).into_iter();
    let started = started.filter(|event| event.what.event() == Event::Started);
    let at: Vec<_> = started.map(|event| event.time).skip(1).collect();
    for (number, expected) in (1..4).zip([100, 200, 400]) {
        assert!(
            at[number].since(at[number - 1]) >= ms(expected),
            "launch {number}\n{}",
            osps.log()
        );
    }
    let since = now();
    put();
    osps.wait("it runs again", || {
        let pid = osps.segment().slots()[0].server.identity()?.pid;
        (osps::sys::procfs::name(pid).as_deref() == Some("sleep")).then_some(())
    });
    assert!(now().since(since) < ms(10_000), "it was not given up");
    assert!(told(&osps).len() <= 7, "{}", osps.log());
}
