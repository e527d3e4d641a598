//! The harness of the black-box tests: the real binary, its own run directory, free ports.
//!
//! No bare sleeps: [`wait_until`] waits for a condition with a limit, and says what it waited for
//! together with the log. Nothing is killed by name or by a bare pid: servers are found through
//! the segment and held by pidfd. Whatever a test leaves running ends with its [`Osps`].
//!
//! `osps` runs the real binary, `services` is what a file of services needs, `client` talks to it,
//! `watch` looks at it meanwhile, `holders` keep it from running, `systemd` is above it, `draw` is
//! everything that is left to chance.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(
    clippy::print_stderr,
    clippy::unused_self,
    reason = "a test's log; methods that read well"
)]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

pub mod client;
pub mod draw;
pub mod follower;
pub mod holders;
pub mod osps;
pub mod services;
pub mod systemd;
pub mod watch;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Error;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

pub use self::osps::{AS_PROGRAM, BINARY, Launch, Line, NO_RESTARTS, Osps, SOON, now, wait_until};
pub use self::osps::{process_in, process_of, recorded};
pub use client::{Client, NOBODY, READ_ONLY, port, words};
pub use draw::{Random, seed, told_seed};
pub use rustix::process::Signal;
pub use watch::{Over, Talk, events, is_extension, verdicts, watch_owner};

/// Slots of a pair.
pub const PRIMARY: usize = 0;
pub const SECONDARY: usize = 1;

pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Lets time pass, where the passing of time is what the test is about.
pub fn pass(span: Duration) {
    let end = now() + span;
    wait_until("the clock", span + SOON, || (now() >= end).then_some(()));
}

/// Runs a command to its end; one that does not end is killed and fails the test.
pub fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let end = now() + SOON;
    while child.try_wait().unwrap().is_none() {
        if now() >= end {
            let _ = child.kill();
            panic!("{command:?} does not end: {}", text(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(ms(1));
    }
    child.wait_with_output().unwrap()
}

/// Compiles C with these options in front and those behind; the compiler has to be there.
pub fn compile(options: &[&str], source: &Path, to: &Path, behind: &[&str]) {
    let mut cc = Command::new("cc");
    let done = cc.args(options).arg("-o").arg(to).arg(source).args(behind).output().unwrap();
    assert!(done.status.success(), "{cc:?}: {}", text(&done));
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a command told when it ended.
pub fn text(output: &Output) -> String {
    format!(
        "{}, stdout: {}, stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A process of the test's own; it ends with this value.
pub struct Guest(pub Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Servers that abort by request shall leave no core.
pub fn leave_no_cores() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).unwrap();
}

/// Processor time of a process, in clock ticks of 10 ms.
pub fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    // utime and stime are fields 14 and 15 of the line; the state, here number 0, is field 3.
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Resident memory, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A FIFO of an instance, opened as its servers do.
pub fn fifo(run_dir: &Path, name: &str) -> Result<File, Error> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    options.open(run_dir.join(name))
}

/// A socket for notifications to the reader that `NOTIFY_SOCKET` names.
pub fn notify_socket(address: &OsStr) -> UnixDatagram {
    try_notify_socket(address).unwrap()
}

/// The same, where the reader may be away.
pub fn try_notify_socket(address: &OsStr) -> Result<UnixDatagram, Error> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

/// Whether this test may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command in a pid namespace of its own, with a `/proc` that shows it; whoever is pid 1 there
/// dies with the command.
pub fn apart(program: &str) -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", program]);
    command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
    command
}

/// Whether there can be such namespaces here.
pub fn can_part() -> bool {
    let parted = apart("true").output();
    let parted = parted.is_ok_and(|output| output.status.success());
    if !parted {
        skip("a pid namespace needs unshare, and root or user namespaces");
    }
    parted
}

/// Whether a program can be run here.
pub fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Where what tests need comes from: `.ci/run` does all of this.
const INSTALL: &str = "\
    as root: apt-get install gcc g++ gdb python3 python3-pip redis-tools util-linux nodejs npm \
    systemd prometheus chromium ruby php-cli default-jdk-headless golang-go e2fsprogs strace \
    man-db zsh fish\n\
    and beside the build: python3 -m pip install --target target/clients/python redis\n\
    npm install --prefix target/clients/node ioredis redis playwright-core";

/// Says why a test does not run here, for want of a tool or a right that can be had. Where
/// `OSPS_NO_SKIP` is set, as in CI, that is a failure.
#[track_caller]
pub fn skip(reason: &str) {
    let forbidden = std::env::var("OSPS_NO_SKIP").is_ok_and(|value| !matches!(&*value, "" | "0"));
    assert!(!forbidden, "skipped, and OSPS_NO_SKIP is set: {reason}\n{INSTALL}");
    eprintln!("skipped: {reason}");
}

/// The exception from `OSPS_NO_SKIP`: says what the kernel of this machine does not have, whoever
/// asks and whatever is installed. For three things only: a kernel mounts one version of control
/// groups or the other, which systemd needs, a container may not mount a disk, and not every
/// processor is single-stepped.
pub fn cannot(reason: &str) {
    eprintln!("skipped: {reason}; it cannot be had here");
}
