//! Segments and data areas without a watchdog, for the examples in this documentation, for tests
//! and for benches; not part of the interface.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::clock::{SystemClock, unix_ns};
use crate::heart::{Heart, HeartError};
use crate::ids::{Generation, SlotId};
use crate::segment::area::{Area, LEVEL_PIECE, Update};
use crate::segment::mapping::FILE_NAME;
use crate::segment::slot::Identity;
use crate::segment::{Access, AttachError, CreateOptions, Geometry, Segment, Times};
use crate::sync::Word;
use crate::time::Clock;

/// A small segment of one slot in a directory, as a watchdog would make it.
pub fn create_segment(dir: &Path) -> Result<Segment, AttachError> {
    let geometry = Geometry::new(1, 1, 4096, 256).ok_or(AttachError::Geometry("bounds"))?;
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(FILE_NAME));
    let file = file.map_err(|answer| AttachError::Io { op: "create", answer })?;
    Segment::create(&file, &options(geometry), |_| {})
}

/// What a segment of these sizes starts with, as of now: ordinary limits, no boot id.
pub fn options(geometry: Geometry) -> CreateOptions {
    CreateOptions {
        geometry,
        flags: 0,
        boot_id: [0; 2],
        name: "example".to_owned(),
        watchdog: (std::process::id(), 0),
        now: SystemClock.now(),
        unix_ns: unix_ns(),
        times: Times {
            hang_timeout: Duration::from_secs(4),
            check_interval: Duration::from_secs(2),
            beat_interval: Duration::from_millis(500),
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            orphan_timeout: Duration::from_secs(30),
        },
    }
}

/// Registers this process in slot 0, as a watchdog would, and opens its heart.
pub fn heart(dir: &Path) -> Result<Heart, HeartError> {
    let segment = Segment::open(dir, Access::ReadWrite).map_err(HeartError::in_dir(dir))?;
    let generation = Generation(1);
    let identity = Identity { pid: std::process::id(), start_time: 0, generation };
    segment.slots()[0].server.set_identity(identity);
    Heart::open(dir, SlotId(0), generation)
}

/// A data area in ordinary memory.
#[derive(Debug)]
pub struct Memory {
    sequence: Word,
    count: Word,
    ranges: Vec<Word>,
    copies: [Vec<Word>; 2],
}

impl Memory {
    /// An area of so many bytes, all zero, with a list of so many ranges.
    pub fn new(bytes: usize, ranges: usize) -> Memory {
        let zeros = |count| (0..count).map(|_| Word::new(0)).collect::<Vec<_>>();
        Memory {
            sequence: Word::new(0),
            count: Word::new(0),
            ranges: zeros(ranges),
            copies: [zeros(bytes / 8), zeros(bytes / 8)],
        }
    }

    /// The area.
    pub fn area(&self) -> Area<'_> {
        let copies = [&self.copies[0][..], &self.copies[1][..]];
        Area::new(&self.sequence, &self.count, &self.ranges, copies)
    }

    /// Entries in the list of ranges.
    pub fn count(&self) -> &Word {
        &self.count
    }

    /// The list of ranges.
    pub fn ranges(&self) -> &[Word] {
        &self.ranges
    }

    /// Both copies.
    pub fn copies(&self) -> &[Vec<Word>; 2] {
        &self.copies
    }

    /// One change, levelled before and committed after it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Update<'_>) -> T) -> T {
        let area = self.area();
        while !area.level(LEVEL_PIECE) {}
        let mut update = area.begin();
        let result = change(&mut update);
        update.commit();
        result
    }
}
