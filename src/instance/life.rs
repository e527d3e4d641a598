//! Whether a watchdog lives, whatever pid can be seen from here.
//!
//! A pid means something in one pid namespace only. Seen from a host or from another container the
//! recorded one is nobody, or a stranger: even its start time may be the same, if two containers
//! were started together. So `lock` names the namespace beside the pid, and the kernel's word for
//! life is the lock itself, which it gives back when its holder dies. Where its name is gone, a
//! heart that moves is life. Tested in tests/namespaces.rs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::orphan::{WATCHDOG_STALE, watchdog_age};
use osps_heart::segment::Segment;
use osps_heart::sync::Ordering;
use osps_heart::time::Clock;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::io::Errno;

use super::place::{LOCK, MEMBERS};
use super::survivors::watchdog_of;
use crate::sys::poll::pause;
use crate::sys::process::Process;
use crate::sys::procfs::{self, start_time};

/// A living watchdog beats at least every second; a little more, for a loaded machine.
pub const MOVES: Duration = Duration::from_millis(1500);

/// What is known of the life of a watchdog.
#[derive(Debug)]
pub enum Life {
    /// The process that it recorded.
    Here(Process),
    /// It lives in another pid namespace; with its process, if that can be seen from here.
    Elsewhere(Option<Process>),
    /// It is dead.
    Gone,
}

impl Life {
    /// Of the watchdog that this segment names, which lies in this directory.
    pub fn of(segment: &Segment, run_dir: &Path) -> Life {
        let record = Record::read(run_dir);
        let own = std::process::id();
        let here = || {
            let process = watchdog_of(segment).filter(|_| record.is_comparable())?;
            // Who looks is not who is looked for, whatever its pid.
            (process.pid() != own).then_some(process)
        };
        let is_recorded = |process: &Process| {
            record.is_comparable() && u64::from(process.pid()) == pid_in(segment)
        };
        match holder(run_dir, LOCK, FlockOperation::NonBlockingLockShared) {
            Some(Holder::Somebody(pid)) => {
                let seen = || pid.and_then(|pid| Process::find(pid, start_time(pid)?));
                match here().or_else(seen) {
                    // Also where start times differ (in another time namespace), and where a new
                    // one has the lock already and not yet a segment.
                    Some(process) if record.is_ours() || is_recorded(&process) => {
                        Life::Here(process)
                    }
                    other => Life::Elsewhere(other),
                }
            }
            // The kernel's word: whoever wrote into it is dead.
            Some(Holder::Nobody) if record.pid == Some(pid_in(segment)) => Life::Gone,
            // Somebody took the name away.
            _ => match here() {
                Some(process) => Life::Here(process),
                None if !is_stale(segment) && moves(segment) => Life::Elsewhere(None),
                None => Life::Gone,
            },
        }
    }

    /// Its process, if that can be seen from here.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Life::Here(process) => Some(process),
            Life::Elsewhere(process) => process.as_ref(),
            Life::Gone => None,
        }
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        !matches!(self, Life::Gone)
    }

    /// Whether it lives where its pids are not those seen here.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Life::Elsewhere(_))
    }
}

/// What a watchdog writes into its lock.
#[derive(Debug, Default)]
pub(super) struct Record {
    pid: Option<u64>,
    namespace: Option<u64>,
}

impl Record {
    /// Of this process.
    pub(super) fn text() -> String {
        let namespace = procfs::pid_namespace().unwrap_or(0);
        format!("{}\n{namespace}\n", std::process::id())
    }

    /// Whatever stands in a lock.
    pub(super) fn parse(text: &[u8]) -> Record {
        let mut lines = text.split(|byte| *byte == b'\n').map(|line| {
            str::from_utf8(line).ok().and_then(|line| line.parse().ok()).filter(|n| *n != 0)
        });
        Record { pid: lines.next().flatten(), namespace: lines.next().flatten() }
    }

    fn read(run_dir: &Path) -> Record {
        let mut text = [0u8; 64];
        let file = open(run_dir, LOCK);
        let length = file.and_then(|file| rustix::io::pread(&file, &mut text, 0).ok());
        Record::parse(&text[..length.unwrap_or(0)])
    }

    /// Whether it was written in our own pid namespace.
    fn is_ours(&self) -> bool {
        self.namespace.is_some() && self.is_comparable()
    }

    /// Whether pids of that instance mean here what they mean there. Unknown is taken for yes.
    pub(super) fn is_comparable(&self) -> bool {
        self.namespace.is_none_or(|namespace| procfs::pid_namespace() == Some(namespace))
    }
}

/// For one who holds the lock: whether there is another watchdog all the same. Without its process
/// only its heart tells, which takes a second if it does not beat: looked at if `in_doubt`.
pub(super) fn is_beside(segment: &Segment, record: &Record, in_doubt: bool) -> bool {
    let process = watchdog_of(segment).filter(|_| record.is_comparable());
    process.is_some_and(|process| process.pid() != std::process::id())
        || (in_doubt && moves(segment))
}

/// Whether pids that an instance recorded mean here what they mean there.
pub fn is_comparable(run_dir: &Path) -> bool {
    Record::read(run_dir).is_comparable()
}

fn pid_in(segment: &Segment) -> u64 {
    segment.header().watchdog_pid.load(Ordering::Relaxed)
}

/// Whether some server holds `members`, seen from here or not. Only to be asked behind a dead
/// watchdog: the answer takes the lock for a moment, and a server that joins then would fail.
pub fn has_members(run_dir: &Path) -> bool {
    let holder = holder(run_dir, MEMBERS, FlockOperation::NonBlockingLockExclusive);
    matches!(holder, Some(Holder::Somebody(_)))
}

/// Whether the lock is held, by a watchdog that runs, starts or stops.
pub(super) fn is_locked(run_dir: &Path) -> bool {
    let holder = holder(run_dir, LOCK, FlockOperation::NonBlockingLockShared);
    matches!(holder, Some(Holder::Somebody(_)))
}

/// Who holds a lock.
enum Holder {
    Nobody,
    /// The pid of one who holds it exclusively, if it can be seen from here.
    Somebody(Option<u32>),
}

/// Tries a lock and gives it back at once; `None` = there is no such file that we may open. Whoever
/// wants the lock in that moment tries again, as behind one who is leaving.
fn holder(run_dir: &Path, name: &str, with: FlockOperation) -> Option<Holder> {
    let file = open(run_dir, name)?;
    match flock(&file, with) {
        Ok(()) => Some(Holder::Nobody),
        Err(Errno::WOULDBLOCK) => {
            let stat = fstat(&file).ok()?;
            Some(Holder::Somebody(procfs::lock_holder(stat.st_dev, stat.st_ino)))
        }
        Err(_) => None,
    }
}

fn open(run_dir: &Path, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(run_dir.join(name), flags, Mode::empty()).ok()
}

/// Whether a watchdog that lives does nothing. Its stamp is a hint only, which our clock may read
/// wrongly (in another time namespace): before anybody is advised to kill it, its heart is watched.
pub fn is_frozen(segment: &Segment) -> bool {
    is_stale(segment) && !moves(segment)
}

/// The same, however long ago it fell silent: watched until it beats, or has been silent for long
/// enough.
pub fn stays_frozen(segment: &Segment) -> bool {
    while !moves(segment) {
        if is_stale(segment) {
            return true;
        }
    }
    false
}

/// Whether its last beat was long ago, by its stamp and our clock.
pub fn is_stale(segment: &Segment) -> bool {
    watchdog_age(segment, SystemClock.now()).is_none_or(|age| age >= WATCHDOG_STALE)
}

/// Whether the watchdog's heart moves while we look.
fn moves(segment: &Segment) -> bool {
    let clock = SystemClock;
    let count = || segment.header().watchdog_heart.sample().count;
    let (start, before) = (clock.now(), count());
    while count() == before {
        if clock.now() >= start + MOVES {
            return false;
        }
        pause();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_pid_and_namespace() {
        let ours = Record::parse(Record::text().as_bytes());
        assert_eq!(ours.pid, Some(std::process::id().into()));
        assert!(ours.namespace.is_some() && ours.is_comparable());
        for (text, pid, comparable) in [
            (&b"4711\n7\n"[..], Some(4711), false),
            // What earlier versions wrote, and what is no record at all.
            (b"4711\n", Some(4711), true),
            (b"4711\n0\n", Some(4711), true),
            (b"", None, true),
            (b"\xff\n\xff\n", None, true),
        ] {
            let record = Record::parse(text);
            assert_eq!((record.pid, record.is_comparable()), (pid, comparable), "{text:?}");
        }
    }
}
