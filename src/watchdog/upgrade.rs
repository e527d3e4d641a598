//! Another binary in the place of this one, in the same process: nobody is restarted, no client is
//! refused, and it stays its servers' parent and its service manager's main process.
//!
//! The new image does what any new watchdog does (`adopt`), but it is handed what dies with a
//! process: the locks and the listening sockets, by descriptors that stay open over the exec, and a
//! list of them in a file in memory. If it cannot start, it becomes the old image again, once.
//! Tested in tests/adopt.rs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use osps_heart::clock::SystemClock;
use osps_heart::segment::{Access, Segment};
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::Watchdog;
use super::start::wait_for_death;
use crate::error::Error;
use crate::instance::life::{Life, stays_frozen};
use crate::instance::place::{Place, RunDir};
use crate::service::{Held, Inheritance, Listener};
use crate::sys::process::UPGRADE;
use crate::sys::standing::as_others;
use crate::sys::{Failed, manager, memory_file, output, procfs, raw};

/// What is handed over an exec: numbers of descriptors, and what they are. It names its process, so
/// that nobody else takes it for its own.
#[derive(Debug, Serialize, Deserialize)]
struct Handed {
    pid: u32,
    start_time: u64,
    locks: Vec<i32>,
    sockets: Vec<(Held, i32)>,
    /// The image that ran before, and its arguments.
    old: i32,
    args: Vec<OsString>,
    /// The new one could not start: this is the old one again.
    back: bool,
    /// The limit of open descriptors that programs get back.
    descriptors: Option<u64>,
    /// When it was handed, monotonic ns.
    since: u64,
}

/// What this image was handed.
#[derive(Debug)]
pub(super) struct Upgrade {
    locks: Vec<OwnedFd>,
    pub(super) inherited: Inheritance,
    pub(super) descriptors: Option<u64>,
    pub(super) since: Monotonic,
    /// Those that were handed: open until the start is done, or there would be no way back.
    kept: Vec<i32>,
}

fn handed() -> Option<(Handed, i32)> {
    let number: i32 = std::env::var(UPGRADE).ok()?.parse().ok()?;
    let memory = File::open(format!("/proc/self/fd/{number}")).ok()?;
    let handed: Handed = serde_json::from_reader(BufReader::new(memory)).ok()?;
    let pid = std::process::id();
    let is_ours = handed.pid == pid && procfs::start_time(pid) == Some(handed.start_time);
    is_ours.then_some((handed, number))
}

impl Upgrade {
    /// What this image was handed; `None` = it was started as any other.
    pub(super) fn take() -> Option<Upgrade> {
        let (handed, memory) = handed()?;
        let locks: Option<Vec<_>> =
            handed.locks.iter().map(|number| raw::copy_of(*number)).collect();
        let mut inherited = Inheritance::default();
        for (held, number) in &handed.sockets {
            let listener = Listener::of(held.address.clone(), raw::copy_of(*number)?);
            inherited.sockets.push((held.clone(), Arc::new(listener)));
        }
        let kept = [memory, handed.old].into_iter().chain(handed.locks.iter().copied());
        let kept = kept.chain(handed.sockets.iter().map(|(_, number)| *number));
        let (descriptors, since) = (handed.descriptors, Monotonic(handed.since));
        Some(Upgrade { locks: locks?, inherited, descriptors, since, kept: kept.collect() })
    }

    /// The locks, for a claim.
    pub(super) fn locks(&self) -> Vec<OwnedFd> {
        self.locks.iter().filter_map(|lock| lock.try_clone().ok()).collect()
    }

    /// The start is done: there is no way back any more.
    pub(super) fn done(self) {
        self.kept.into_iter().for_each(raw::close);
    }
}

/// Whether this image was handed something, and did not begin yet.
pub fn is_handed() -> bool {
    handed().is_some()
}

/// Becomes the image again that ran before, if this one was to take its place and cannot start.
pub fn go_back(error: &dyn std::fmt::Display) {
    let Some((mut handed, number)) = handed().filter(|(handed, _)| !handed.back) else { return };
    log::error!("{error}: the new osps cannot start, going on with the old one");
    handed.back = true;
    let old = format!("/proc/self/fd/{}", handed.old);
    let numbers = handed.locks.iter().chain([&handed.old]);
    let numbers = numbers.chain(handed.sockets.iter().map(|(_, number)| number));
    for number in numbers {
        raw::keep_over_exec(*number);
    }
    let written = File::create(format!("/proc/self/fd/{number}"))
        .and_then(|mut memory| memory.write_all(&serde_json::to_vec(&handed)?));
    raw::keep_over_exec(number);
    let failed = match written {
        Ok(()) => become_image(Path::new(&old), &handed.args, number),
        Err(error) => Failed::to("hand over", "to the old osps")(error),
    };
    log::error!("{failed}");
}

/// Returns only if that fails.
fn become_image(path: &Path, args: &[OsString], memory: i32) -> Failed {
    output::stdout().flush_bounded();
    output::stderr().flush_bounded();
    let mut osps = Command::new(path);
    osps.arg0("osps").args(args).env(UPGRADE, memory.to_string());
    // They were heeded, and say nothing of what is open by now.
    manager::forget_given(&mut osps);
    Failed::to("run", Shown(path))(as_others(|| osps.exec()))
}

impl Watchdog {
    /// Becomes another image. Returns only if that fails.
    pub(super) fn become_another(&mut self, path: &Path) -> Failed {
        // They know only this image.
        self.drop_reports();
        let pid = std::process::id();
        let old = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let old = match old {
            Ok(old) => old,
            Err(errno) => return Failed::to("open", "/proc/self/exe")(errno),
        };
        let slots = self.group.slots();
        let held: Vec<_> =
            slots.flat_map(|slot| self.children[slot.index()].service.held()).collect();
        let number = |socket: BorrowedFd<'_>| socket.as_raw_fd();
        let handed = Handed {
            pid,
            start_time: procfs::start_time(pid).unwrap_or(0),
            locks: self.claim.locks().map(|lock| lock.as_raw_fd()).collect(),
            sockets: held.iter().map(|(held, one)| (held.clone(), number(one.as_fd()))).collect(),
            old: old.as_raw_fd(),
            args: std::env::args_os().skip(1).collect(),
            back: false,
            descriptors: self.descriptors,
            since: self.clock.now().0,
        };
        let bytes = serde_json::to_vec(&handed).map_err(std::io::Error::from);
        let memory = match bytes.and_then(|bytes| memory_file("osps upgrade", &bytes)) {
            Ok(memory) => memory,
            Err(error) => return Failed::to("hand over", "what is held")(error),
        };
        let mut over: Vec<BorrowedFd<'_>> = vec![memory.as_fd(), old.as_fd()];
        over.extend(self.claim.locks());
        over.extend(held.iter().map(|(_, listener)| listener.as_fd()));
        let mark = |flags: FdFlags| {
            for fd in &over {
                let _ = rustix::io::fcntl_setfd(fd, flags);
            }
        };
        log::info!("becoming {}", Shown(path));
        mark(FdFlags::empty());
        let failed = become_image(path, &handed.args, memory.as_raw_fd());
        mark(FdFlags::CLOEXEC);
        failed
    }
}

/// Makes room for a new watchdog in the place of one that is frozen: kills it, and only it. `false`
/// = it lives and works.
pub fn take_over(place: &Place) -> Result<bool, Error> {
    // Whose it is, before anything is done there.
    if !place.path.exists() {
        return Err(place.not_running().into());
    }
    let run_dir = RunDir::open(&place.path)?;
    let not_running = |_| place.not_running();
    let segment = Segment::open(run_dir.path(), Access::ReadOnly).map_err(not_running)?;
    let process = match Life::of(&segment, run_dir.path()) {
        Life::Here(process) => process,
        // Of another pid namespace: what refuses a start says who it is.
        Life::Gone | Life::Elsewhere(_) => return Ok(true),
    };
    if !stays_frozen(&segment) {
        return Ok(false);
    }
    let pid = process.pid();
    log::warn!("the watchdog (pid {pid}) is frozen: killing it, and taking its servers over");
    process.signal(Signal::KILL)?;
    wait_for_death(&process, "watchdog", SystemClock)?;
    Ok(true)
}
