//! The harness of the black-box tests: the real binary, its own run directory, free ports.
//!
//! No bare sleeps: [`wait_until`] waits for a condition with a limit, and says what it waited for
//! together with the log. Nothing is killed by name or by a bare pid: servers are found through
//! the segment and held by pidfd. Whatever a test leaves running ends with its [`Osps`].
//!
//! `osps` runs the real binary, `client` talks to it, `watch` looks at it meanwhile, `draw` is
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
pub mod osps;
pub mod watch;

use std::fs::File;
use std::io::Error;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use self::osps::{BINARY, Launch, Line, Osps, SOON, now, wait_until};
pub use client::{Client, NOBODY, READ_ONLY, port};
pub use draw::{Random, seed};
pub use rustix::process::Signal;
pub use watch::{Talk, watch_owner};

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

/// Says why a test does not run here.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
