//! Creating, validating and viewing the mapped file. One of the two files with `unsafe`.
//!
//! # Safety
//!
//! Memory that other processes write is never `&[u8]` and never a plain Rust value: the mapping
//! is a raw pointer, and all that leaves this file are shared references to structures made
//! solely of atomic words (the private trait `Shared` says which). Offsets come from a
//! [`Geometry`] that was checked against the file's length, once, before the first access.
//! The mapping lives as long as the [`Segment`] and every reference borrows from it.
//!
//! A file that is cut short *after* it was mapped kills the reader with SIGBUS; the watchdog
//! survives that by `sys::raw::survive_bus_errors`.
#![allow(unsafe_code, reason = "views of memory that other processes write, see # Safety")]

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::mm::{Advice as ForkAdvice, madvise};

use super::area::Area;
use super::layout::{
    AreaCells, EVENTS, GapCells, Geometry, HeaderCells, HeartCells, MAGIC, OwnerCells, PAGE,
    RingCells, SlotCells, VERSION,
};
use super::text;
use crate::ids::Owner;
use crate::sync::{Ordering, Word};
use crate::time::{Monotonic, nanos};

/// Name of the segment inside the run directory.
pub const FILE_NAME: &str = "segment";
/// Neither a symlink nor somebody's FIFO shall hold us up, and no child inherits it.
const OPEN_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Structures that may be viewed in place.
///
/// # Safety
///
/// `repr(C)`, built of [`Word`]s and arrays of them only, no padding, no `Drop`: any bytes are a
/// valid value, and other processes may change them at any time.
unsafe trait Shared {}
// SAFETY: made of words only, checked by the size assertions in `layout`.
unsafe impl Shared for HeaderCells {}
// SAFETY: as above.
unsafe impl Shared for HeartCells {}
// SAFETY: as above.
unsafe impl Shared for SlotCells {}
// SAFETY: as above.
unsafe impl Shared for RingCells {}
// SAFETY: as above.
unsafe impl Shared for OwnerCells {}
// SAFETY: as above.
unsafe impl Shared for GapCells {}
// SAFETY: as above.
unsafe impl Shared for AreaCells {}
// SAFETY: a word is a word.
unsafe impl Shared for Word {}

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look only: `status`, foreign readers. A store would be a fault.
    ReadOnly,
    /// The watchdog and its servers.
    ReadWrite,
}

/// Why a file is not a segment that we can use.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The kernel refused.
    Io {
        /// What was tried.
        op: &'static str,
        /// The kernel's answer.
        answer: io::Error,
    },
    /// Not even a header.
    Short(u64),
    /// Another kind of file.
    Magic(u64),
    /// Its creator died, or is still at it.
    Unfinished,
    /// Made by another version of osps.
    Version(u64),
    /// Stored sizes contradict each other or the file's length.
    Geometry(&'static str),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Io { op, answer } => write!(f, "{op} segment: {answer}"),
            AttachError::Short(bytes) => {
                write!(f, "segment is {bytes} bytes, shorter than its header")
            }
            AttachError::Magic(magic) => write!(f, "not an osps segment (magic {magic:#018x})"),
            AttachError::Unfinished => {
                f.write_str("segment is half-made: its creator has not finished it")
            }
            AttachError::Version(version) => {
                write!(f, "segment has layout version {version}, this osps reads version {VERSION}")
            }
            AttachError::Geometry(why) => write!(f, "segment is damaged: {why}"),
        }
    }
}

impl std::error::Error for AttachError {}

/// What a new segment starts with.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Sizes and offsets.
    pub geometry: Geometry,
    /// Flag bits, see [`super::layout::flag`].
    pub flags: u64,
    /// Boot id of this kernel.
    pub boot_id: [u64; 2],
    /// Name of the instance.
    pub name: String,
    /// Pid and start time of the watchdog.
    pub watchdog: (u32, u64),
    /// The present, monotonic.
    pub now: Monotonic,
    /// The present, ns since 1970.
    pub unix_ns: u64,
    /// What the header tells everybody of time.
    pub times: Times,
}

/// The times of an instance. A server may have limits of its own: these are what readers and
/// programs go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Silence that convicts.
    pub hang_timeout: Duration,
    /// Longest time between two checks.
    pub check_interval: Duration,
    /// Longest time between two beats that servers promise.
    pub beat_interval: Duration,
    /// Time to the first beat.
    pub start_timeout: Duration,
    /// Time to leave after the stop order.
    pub stop_timeout: Duration,
    /// How long servers outlive a dead or frozen watchdog.
    pub orphan_timeout: Duration,
}

/// A mapped, validated segment.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    geometry: Geometry,
    /// Device, inode and length of the file, to notice when somebody swaps or cuts it.
    file: (u64, u64, u64),
}

impl Segment {
    /// Makes a segment of a new, empty file: reserves its memory (so that a full tmpfs is an
    /// error here and not a SIGBUS later), fills the header, lets `furnish` name the slots, and
    /// publishes it last.
    pub fn create(
        file: &File,
        options: &CreateOptions,
        furnish: impl FnOnce(&Segment),
    ) -> Result<Segment, AttachError> {
        let geometry = options.geometry;
        let size = geometry.total_size as u64;
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size)
            .map_err(|errno| AttachError::Io { op: "reserve memory for", answer: errno.into() })?;
        let segment = Segment::map(file, geometry, Access::ReadWrite)?;
        segment.put(&segment.header().magic, MAGIC);
        segment.put(&segment.owner().word, Owner::NONE.pack());
        segment.fill(options);
        furnish(&segment);
        // Release: pairs with the acquire in `attach`.
        segment.header().version.store(VERSION, Ordering::Release);
        Ok(segment)
    }

    /// Takes over the segment of an instance in which nobody lives, with its data, its events and
    /// its counters: generations, epochs and heart counts go on. `None` = its sizes are others.
    pub fn refound(
        file: &File,
        options: &CreateOptions,
        furnish: impl FnOnce(&Segment),
    ) -> Result<Option<Segment>, AttachError> {
        let segment = Segment::attach(file, Access::ReadWrite)?;
        if segment.geometry != options.geometry {
            return Ok(None);
        }
        let epoch = segment.owner().current().epoch;
        segment.put(&segment.owner().word, Owner { epoch, ..Owner::NONE }.pack());
        segment.put(&segment.owner().recall_epoch, 0);
        let pages = segment.geometry.slots * PAGE / size_of::<Word>();
        for word in segment.cells::<Word>(segment.geometry.slots_offset, pages) {
            segment.put(word, 0);
        }
        segment.fill(options);
        furnish(&segment);
        Ok(Some(segment))
    }

    /// Takes over the segment of an instance whose servers live and whose watchdog is gone: all
    /// that it says of them stays. `None` if its sizes are not those of the options.
    pub fn adopt(file: &File, options: &CreateOptions) -> Result<Option<Segment>, AttachError> {
        let segment = Segment::attach(file, Access::ReadWrite)?;
        if segment.geometry != options.geometry {
            return Ok(None);
        }
        segment.fill(options);
        Ok(Some(segment))
    }

    /// Fills in what the options say.
    fn fill(&self, options: &CreateOptions) {
        for (word, value) in self.header_words(options) {
            self.put(word, value);
        }
        text::store(&self.header().name, &options.name);
        self.header().watchdog_heart.beat(options.now);
    }

    /// The words of the header that do not change, but for the name, with their values.
    fn header_words(&self, options: &CreateOptions) -> Vec<(&Word, u64)> {
        let header = self.header();
        let mut words: Vec<(&Word, u64)> =
            stored_geometry(header).into_iter().zip(numbers(&options.geometry)).collect();
        words.extend([
            (&header.flags, options.flags),
            (&header.boot_id[0], options.boot_id[0]),
            (&header.boot_id[1], options.boot_id[1]),
            (&header.watchdog_pid, u64::from(options.watchdog.0)),
            (&header.watchdog_start_time, options.watchdog.1),
            (&header.started_ns, options.now.0),
            (&header.started_unix_ns, options.unix_ns),
            (&header.hang_timeout_ns, nanos(options.times.hang_timeout)),
            (&header.check_interval_ns, nanos(options.times.check_interval)),
            (&header.beat_interval_ns, nanos(options.times.beat_interval)),
            (&header.start_timeout_ns, nanos(options.times.start_timeout)),
            (&header.stop_timeout_ns, nanos(options.times.stop_timeout)),
            (&header.orphan_timeout_ns, nanos(options.times.orphan_timeout)),
        ]);
        words
    }

    /// A store that the version word, or a lock on the run directory, publishes.
    #[allow(clippy::unused_self, reason = "reads as what it is: a store into this segment")]
    fn put(&self, word: &Word, value: u64) {
        word.store(value, Ordering::Relaxed);
    }

    /// Maps a segment that somebody else made, after checking everything it says about itself.
    pub fn attach(file: &File, access: Access) -> Result<Segment, AttachError> {
        let io = |op| move |answer| AttachError::Io { op, answer };
        let length = file.metadata().map_err(io("examine"))?.len();
        if length < size_of::<HeaderCells>() as u64 {
            return Err(AttachError::Short(length));
        }
        // A first look with the smallest layout, only to read the header.
        let smallest = Geometry::new(1, 1, 1, 0).ok_or(AttachError::Geometry("no layout"))?;
        let peek = Segment::map_length(file, smallest, Access::ReadOnly, size_of::<HeaderCells>())?;
        let header = peek.header();
        // Acquire: pairs with the release in `create`.
        let version = header.version.load(Ordering::Acquire);
        let magic = header.magic.load(Ordering::Relaxed);
        if magic != MAGIC && !(magic == 0 && version == 0) {
            return Err(AttachError::Magic(magic));
        }
        match version {
            0 => return Err(AttachError::Unfinished),
            VERSION => {}
            other => return Err(AttachError::Version(other)),
        }
        let small = |word: &Word| usize::try_from(word.load(Ordering::Relaxed)).unwrap_or(0);
        let geometry = Geometry::new(
            small(&header.slots_count),
            small(&header.hearts_count),
            header.data_size.load(Ordering::Relaxed),
            header.cell_size.load(Ordering::Relaxed),
        )
        .ok_or(AttachError::Geometry("sizes out of bounds"))?;
        let stored = stored_geometry(header).map(|word| word.load(Ordering::Relaxed));
        if stored != numbers(&geometry) {
            return Err(AttachError::Geometry("stored offsets contradict the stored sizes"));
        }
        if length < geometry.total_size as u64 {
            return Err(AttachError::Geometry("the file is shorter than its header says"));
        }
        Segment::map(file, geometry, access)
    }

    /// Opens and attaches the segment in a run directory. Its name may be a link to what the
    /// watchdog holds, if somebody removed the file under it.
    pub fn open(run_dir: &Path, access: Access) -> Result<Segment, AttachError> {
        let open = |path: &Path, flags: OFlags| {
            let mut options = File::options();
            options.read(true).write(access == Access::ReadWrite);
            options.custom_flags(flags.bits().cast_signed()).open(path)
        };
        let path = run_dir.join(FILE_NAME);
        let file = open(&path, OPEN_FLAGS).or_else(|answer| match std::fs::read_link(&path) {
            Ok(target) if is_held(&target) => open(&target, OPEN_FLAGS - OFlags::NOFOLLOW),
            _ => Err(answer),
        });
        let file = file.map_err(|answer| AttachError::Io { op: "open", answer })?;
        Segment::attach(&file, access)
    }

    fn map(file: &File, geometry: Geometry, access: Access) -> Result<Segment, AttachError> {
        Segment::map_length(file, geometry, access, geometry.total_size)
    }

    fn map_length(
        file: &File,
        geometry: Geometry,
        access: Access,
        length: usize,
    ) -> Result<Segment, AttachError> {
        let io = |op| move |answer| AttachError::Io { op, answer };
        let meta = file.metadata().map_err(io("examine"))?;
        let mut map = MmapOptions::new();
        map.len(length);
        let map = match access {
            Access::ReadOnly => map.map_raw_read_only(&file.as_fd()),
            Access::ReadWrite => map.map_raw(&file.as_fd()),
        }
        .map_err(io("map"))?;
        // Design §12.8: no child of a server may write after the server's death was confirmed.
        map.advise(Advice::DontFork).map_err(io("protect"))?;
        Ok(Segment { map, geometry, file: (meta.dev(), meta.ino(), meta.len()) })
    }

    /// Sizes and offsets.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The addresses that the mapping covers, for `sys::raw::survive_bus_errors`.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        let start = self.map.as_ptr() as usize;
        start..start + self.map.len()
    }

    /// Whether this is the file that was mapped, at its full length.
    pub fn is_file(&self, meta: io::Result<Metadata>) -> bool {
        meta.is_ok_and(|meta| (meta.dev(), meta.ino(), meta.len()) == self.file)
    }

    /// Puts back every word of the header that does not change, if somebody stored something else
    /// there: every new server looks at them. Watchdog only. Returns whether it was needed.
    pub fn mend_header(&self, options: &CreateOptions) -> bool {
        let header = self.header();
        let ends = [(&header.magic, MAGIC), (&header.version, VERSION)];
        let mut mended = false;
        for (word, value) in ends.into_iter().chain(self.header_words(options)) {
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Release);
                mended = true;
            }
        }
        if !text::is_stored(&header.name, &options.name) {
            text::store(&header.name, &options.name);
            mended = true;
        }
        mended
    }

    /// The header page.
    pub fn header(&self) -> &HeaderCells {
        &self.cells(0, 1)[0]
    }

    /// All heart lines; line `i` belongs to slot `i` for the first `slots` lines.
    pub fn hearts(&self) -> &[HeartCells] {
        self.cells(self.geometry.hearts_offset, self.geometry.hearts)
    }

    /// All slot pages.
    pub fn slots(&self) -> &[SlotCells] {
        self.cells(self.geometry.slots_offset, self.geometry.slots)
    }

    /// The event ring.
    pub fn events(&self) -> &RingCells {
        &self.cells(self.geometry.events_offset, 1)[0]
    }

    /// The owner page.
    pub fn owner(&self) -> &OwnerCells {
        &self.cells(self.geometry.owner_offset, 1)[0]
    }

    /// The histograms of gaps, one for each heart line.
    pub fn gaps(&self) -> &[GapCells] {
        self.cells(self.geometry.gaps_offset, self.geometry.hearts)
    }

    /// The data area's control page.
    pub fn area_cells(&self) -> &AreaCells {
        &self.cells(self.geometry.data_offset, 1)[0]
    }

    /// The data area.
    pub fn area(&self) -> Area<'_> {
        let cells = self.area_cells();
        let bytes = usize::try_from(self.geometry.data_size).unwrap_or(0);
        let copy = |number| {
            self.cells(self.geometry.data_offset + PAGE + number * bytes, bytes / size_of::<Word>())
        };
        Area::new(&cells.sequence, &cells.range_count, &cells.ranges, [copy(0), copy(1)])
    }

    /// `count` structures at `offset`.
    ///
    /// # Panics
    ///
    /// If they do not lie inside the mapping: the callers above pass offsets of a validated
    /// [`Geometry`], so this would be our own bug.
    fn cells<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        let end = offset + count * size_of::<T>();
        assert!(end <= self.map.len(), "cells outside of the mapping");
        assert!(offset.is_multiple_of(align_of::<T>()), "cells out of alignment");
        // SAFETY: offset <= len of the mapping, asserted above.
        let start = unsafe { self.map.as_ptr().add(offset) };
        // SAFETY: start..start + count * size is inside the mapping and aligned (asserted; the
        // mapping itself starts on a page), T is `Shared`, so any bytes are valid, and only
        // atomics are reached through the reference, so concurrent stores are no data race. The
        // mapping outlives `&self`.
        unsafe { std::slice::from_raw_parts(start.cast::<T>(), count) }
    }
}

/// Tells a forked child from the process that made this, at the cost of a load. The kernel wipes
/// the page in every child with memory of its own, however it was forked: fork handlers would miss
/// `_Fork` and a bare `clone`.
#[derive(Debug)]
pub struct Unforked(MmapRaw);

impl Unforked {
    /// Of this process.
    pub fn new() -> io::Result<Unforked> {
        let map = MmapRaw::from(MmapOptions::new().len(PAGE).map_anon()?);
        // SAFETY: the range is the whole mapping, which nobody else has seen yet; the advice
        // changes what children find there and nothing else.
        unsafe { madvise(map.as_mut_ptr().cast(), PAGE, ForkAdvice::LinuxWipeOnFork) }?;
        let mark = Unforked(map);
        mark.word().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    /// Whether this is still that process.
    pub fn holds(&self) -> bool {
        self.word().load(Ordering::Relaxed) == 1
    }

    fn word(&self) -> &Word {
        #[allow(clippy::cast_ptr_alignment, reason = "a mapping starts with a page")]
        let start = self.0.as_ptr().cast::<Word>();
        // SAFETY: the mapping is a page of our own, aligned as such, for any bytes of which a word
        // is valid; it is unmapped when `self` goes, and the reference borrows from that.
        unsafe { &*start }
    }
}

/// Whether a link leads to a descriptor of a process: what the watchdog puts in the place of a name
/// that somebody removed. Any other link is not followed.
pub fn is_held(target: &Path) -> bool {
    let text = target.to_string_lossy();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split('/').collect();
    matches!(&parts[..], ["", "proc", pid, "fd", fd] if number(pid) && number(fd))
}

/// The words that store the geometry, in the order of [`numbers`].
fn stored_geometry(header: &HeaderCells) -> [&Word; 12] {
    [
        &header.total_size,
        &header.hearts_offset,
        &header.hearts_count,
        &header.slots_offset,
        &header.slots_count,
        &header.events_offset,
        &header.events_count,
        &header.owner_offset,
        &header.data_offset,
        &header.data_size,
        &header.cell_size,
        &header.gaps_offset,
    ]
}

fn numbers(geometry: &Geometry) -> [u64; 12] {
    [
        geometry.total_size as u64,
        geometry.hearts_offset as u64,
        geometry.hearts as u64,
        geometry.slots_offset as u64,
        geometry.slots as u64,
        geometry.events_offset as u64,
        EVENTS as u64,
        geometry.owner_offset as u64,
        geometry.data_offset as u64,
        geometry.data_size,
        geometry.cell_size,
        geometry.gaps_offset as u64,
    ]
}
