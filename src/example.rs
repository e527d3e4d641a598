//! A segment without a watchdog, for the examples in this documentation and for benches; not
//! part of the interface.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::ids::{Generation, SlotId};
use crate::role::heart::{Heart, NoHeart};
use crate::segment::mapping::FILE_NAME;
use crate::segment::slot::Identity;
use crate::segment::{Access, AttachError, Founding, Geometry, Segment};
use crate::sys::clock::SystemClock;
use crate::sys::{clock, procfs};
use crate::time::Clock;

/// A small segment of one slot in a directory, as a watchdog would make it.
pub fn found_segment(dir: &Path) -> Result<Segment, AttachError> {
    let geometry = Geometry::new(1, 1, 4096, 256).ok_or(AttachError::Geometry("bounds"))?;
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(FILE_NAME));
    let file = file.map_err(|source| AttachError::Io { op: "create", source })?;
    Segment::create(
        &file,
        &Founding {
            geometry,
            flags: 0,
            boot_id: procfs::boot_id(),
            name: "example".to_owned(),
            watchdog: (std::process::id(), procfs::start_time(std::process::id()).unwrap_or(0)),
            now: SystemClock.now(),
            unix_ns: clock::unix_ns(),
            hang_timeout: Duration::from_secs(4),
            check_interval: Duration::from_secs(2),
            beat_interval: Duration::from_millis(500),
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            orphan_timeout: Duration::from_secs(30),
        },
        |_| {},
    )
}

/// Registers this process in slot 0, as a watchdog would, and opens its heart again.
pub fn settle(heart: Heart, dir: &Path) -> Result<Heart, NoHeart> {
    drop(heart);
    let segment = Segment::open(dir, Access::ReadWrite)
        .map_err(|source| NoHeart::Segment { path: dir.to_owned(), source })?;
    let pid = std::process::id();
    let start_time = procfs::start_time(pid).unwrap_or(0);
    let generation = Generation(1);
    segment.slots()[0].record.set_identity(Identity { pid, start_time, generation });
    Heart::open(dir, SlotId(0), generation)
}
