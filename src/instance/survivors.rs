//! Who is still alive of an instance whose watchdog was killed, and whether a watchdog is.

use std::path::Path;

use osps_heart::ids::SlotId;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Access, Segment, text};
use osps_heart::sync::Ordering;

use crate::sys::process::Process;

/// A server that outlived its watchdog.
#[derive(Debug)]
pub struct Survivor {
    /// Its slot.
    pub slot: SlotId,
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
    let alive = (0u8..).map(SlotId).zip(segment.slots()).filter_map(|(slot, page)| {
        let identity = page.server.identity()?;
        let process = Process::find(identity.pid, identity.start_time)?;
        Some(Survivor { slot, name: text::load(&page.server.name), identity, process, watchdog })
    });
    alive.collect()
}

/// The living watchdog of a segment, if its pid means here what it means there.
pub(super) fn watchdog_of(segment: &Segment) -> Option<Process> {
    let header = segment.header();
    let pid = u32::try_from(header.watchdog_pid.load(Ordering::Relaxed)).ok()?;
    Process::find(pid, header.watchdog_start_time.load(Ordering::Relaxed))
}

/// Whether the watchdog that a segment names still lives.
pub(super) fn is_watched(path: &Path) -> bool {
    Segment::open(path, Access::ReadOnly).is_ok_and(|segment| watchdog_of(&segment).is_some())
}
