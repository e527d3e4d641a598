//! Who is still alive of an instance whose watchdog was killed, and whether a watchdog is. From a
//! host or a side-car a pid of another namespace is nobody's, or somebody else's: then the lock
//! and the heart tell.

use std::path::Path;

use osps_heart::clock::SystemClock;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Access, Segment, text};
use osps_heart::sync::Ordering;
use osps_heart::time::Clock;

use super::place::{self, LEAVING};
use crate::sys::poll::pause;
use crate::sys::process::Process;

/// A server that outlived its watchdog.
#[derive(Debug)]
pub struct Survivor {
    /// Its name, as its page says.
    pub name: String,
    /// As which it was recorded.
    pub identity: Identity,
    /// The process with that pid *and* start time.
    pub process: Process,
    /// Pid of the watchdog that started it.
    pub watchdog: u64,
}

/// The servers that a segment records and that live.
pub fn survivors(segment: &Segment) -> Vec<Survivor> {
    let watchdog = segment.header().watchdog_pid.load(Ordering::Relaxed);
    let alive = segment.slots().iter().filter_map(|page| {
        let identity = page.server.identity()?;
        let process = Process::find(identity.pid, identity.start_time)?;
        Some(Survivor { name: text::load(&page.server.name), identity, process, watchdog })
    });
    alive.collect()
}

/// Whether a watchdog lives, as far as can be told from here.
#[derive(Debug)]
pub enum Watch {
    /// It is this process.
    Here(Process),
    /// It lives, but its pid means nothing here: it runs in another pid namespace.
    Elsewhere,
    /// Nobody holds its lock, and its heart stands still.
    Dead,
}

impl Watch {
    /// The watchdog of the segment in a run directory. Its pid is looked for first; where that is
    /// nobody's, a held lock is life, and without a lock a moving heart.
    pub fn of(segment: &Segment, run_dir: &Path) -> Watch {
        if let Some(process) = Watch::process(segment) {
            return Watch::Here(process);
        }
        if place::lock_is_held(run_dir).unwrap_or_else(|| moves(segment)) {
            Watch::Elsewhere
        } else {
            Watch::Dead
        }
    }

    /// The same for one who holds the lock: whether there is another watchdog all the same. Without
    /// its process only its heart tells, which takes a second if it does not beat: looked at if
    /// `in_doubt`.
    pub(super) fn beside_us(segment: &Segment, in_doubt: bool) -> bool {
        Watch::process(segment).is_some() || (in_doubt && moves(segment))
    }

    /// The process that a segment names, if it lives and is not this one.
    fn process(segment: &Segment) -> Option<Process> {
        let header = segment.header();
        let pid = u32::try_from(header.watchdog_pid.load(Ordering::Relaxed)).ok()?;
        let start_time = header.watchdog_start_time.load(Ordering::Relaxed);
        Process::find(pid, start_time).filter(|_| pid != std::process::id())
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        !matches!(self, Watch::Dead)
    }
}

/// Whether the watchdog's heart beats; it does so every second.
fn moves(segment: &Segment) -> bool {
    let clock = SystemClock;
    let beats = || segment.header().watchdog_heart.sample().count;
    let (before, until) = (beats(), clock.now() + LEAVING);
    while beats() == before {
        if clock.now() >= until {
            return false;
        }
        pause();
    }
    true
}

/// Whether the watchdog that a segment names still lives.
pub(super) fn is_watched(path: &Path) -> bool {
    Segment::open(path, Access::ReadOnly).is_ok_and(|segment| Watch::of(&segment, path).is_alive())
}
