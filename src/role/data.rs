//! The data area for other programs: read from anywhere, written by its owner.

use std::path::{Path, PathBuf};

use super::heart::Heart;
use crate::ids::{Epoch, Owner};
use crate::policy::ownership::{Arbiter, Arbitration, Holder};
use crate::segment::area::{Busy, LEVEL_PIECE, OutOfBounds, Update};
use crate::segment::{Access, AttachError, Segment};
use crate::store::table::Table;
use crate::sync::{Ordering, Word};

/// A read-only view of an instance's data area. It takes no lock, delays nobody, and works while
/// the servers write, are frozen, or are gone.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # osps::example::found_segment(dir.path())?;
/// use osps::{DataArea, Heart};
///
/// // A program under `osps run` owns the area of its instance and writes to it ...
/// let heart = Heart::open(dir.path(), osps::ids::SlotId(0), osps::ids::Generation(0))?;
/// # let heart = osps::example::settle(heart, dir.path())?;
/// let mut owned = heart.own_data()?;
/// owned.update(|update| update.write(100, b"all of this"))?;
///
/// // ... and anybody reads a consistent copy, from outside.
/// let data = DataArea::open(dir.path())?;
/// let mut bytes = [0; 11];
/// let sequence = data.read(100, &mut bytes)?;
/// assert_eq!((&bytes, sequence), (b"all of this", 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DataArea {
    segment: Segment,
}

/// Why the data could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The segment cannot be used.
    #[error("{}: {source}", path.display())]
    Segment {
        /// The run directory.
        path: PathBuf,
        /// What is wrong.
        source: AttachError,
    },
    /// Commits kept coming while it was read: try again.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Outside of the area.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// Somebody else owns the area, or another process runs in this slot.
    #[error("the data area belongs to somebody else")]
    NotOwner,
    /// Only a program under `osps run` owns its area by itself; secondaries ask the primary.
    #[error("only the program of an `osps run` instance can own the data area")]
    NotAlone,
}

impl DataArea {
    /// Opens the data area of the instance in a run directory.
    pub fn open(run_dir: &Path) -> Result<DataArea, DataError> {
        let segment = Segment::open(run_dir, Access::ReadOnly)
            .map_err(|source| DataError::Segment { path: run_dir.to_owned(), source })?;
        Ok(DataArea { segment })
    }

    /// Bytes of the area.
    pub fn size(&self) -> usize {
        self.segment.area().size()
    }

    /// Commits so far.
    pub fn sequence(&self) -> u64 {
        self.segment.area().sequence()
    }

    /// Who may write now.
    pub fn owner(&self) -> Owner {
        self.segment.owner().current()
    }

    /// A consistent copy of the bytes from `offset` on: all of them as of one commit, whose number
    /// is returned.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<u64, DataError> {
        let area = self.segment.area();
        let fits = offset.checked_add(into.len()).is_some_and(|end| end <= area.size());
        if !fits {
            return Err(OutOfBounds { offset, length: into.len() }.into());
        }
        let (sequence, _) = area.read(|view| {
            view.read(offset, into);
            view.sequence()
        })?;
        Ok(sequence)
    }

    /// The value of a key in the servers' table.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DataError> {
        let geometry = self.segment.geometry();
        let size = |bytes| usize::try_from(bytes).unwrap_or(0);
        let table = Table::new(size(geometry.data_size), size(geometry.cell_size));
        let Some(table) = table else { return Ok(None) };
        let (value, _) = self.segment.area().read(|view| table.get(view, key))?;
        Ok(value)
    }
}

/// The data area in the hands of its owner.
#[derive(Debug)]
pub struct OwnedData {
    segment: Segment,
    holder: Holder,
    epoch: Epoch,
}

impl Heart {
    /// Takes the ownership of the data area, for a program that is alone in its instance. Its
    /// predecessor's is over: osps confirmed its death before this process was started. One owner
    /// in a process at a time; dropping it makes room.
    pub fn own_data(&self) -> Result<OwnedData, DataError> {
        let (run_dir, slot, generation) = self.place();
        let segment = Segment::open(run_dir, Access::ReadWrite)
            .map_err(|source| DataError::Segment { path: run_dir.to_owned(), source })?;
        if segment.slots().len() != 1 {
            return Err(DataError::NotAlone);
        }
        let holder = Holder::new(slot, generation);
        let mut arbiter = Arbiter::new();
        arbiter.request(slot, generation);
        let live = |_| segment.slots()[0].record.identity().map(|identity| identity.generation);
        // A retirement, then a grant; a further one only if the watchdog was quicker.
        for _ in 0..4 {
            let owner = segment.owner().current();
            if let Some(epoch) = holder.owns(owner) {
                // One writer in this process, too: two would write into each other's change.
                let free = TAKEN.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
                free.map_err(|_| DataError::NotOwner)?;
                return Ok(OwnedData { segment, holder, epoch });
            }
            match arbiter.look(owner, live, false) {
                Some(Arbitration::Clear { from, to } | Arbitration::Grant { from, to }) => {
                    segment.owner().exchange(from, to);
                }
                Some(Arbitration::Recall { .. }) | None => break,
            }
        }
        Err(DataError::NotOwner)
    }
}

/// Whether somebody in this process owns the data.
static TAKEN: Word = Word::new(0);

impl Drop for OwnedData {
    fn drop(&mut self) {
        TAKEN.store(0, Ordering::Release);
    }
}

impl OwnedData {
    /// One change, all or nothing: what `change` writes becomes visible by a single store, after
    /// one more look at the owner word. If it fails or panics, nothing was changed. Returns the
    /// number of the commit.
    pub fn update(
        &mut self,
        change: impl FnOnce(&mut Update<'_>) -> Result<(), OutOfBounds>,
    ) -> Result<u64, DataError> {
        self.check()?;
        let area = self.segment.area();
        // A large area is levelled in pieces; whoever has a heart to beat meanwhile calls `level`.
        while !area.level(LEVEL_PIECE) {}
        let mut update = area.begin();
        change(&mut update)?;
        self.check()?;
        Ok(update.commit())
    }

    /// Levels one piece of at most 256 KiB after an update; `true` = nothing is left to level.
    pub fn level(&mut self) -> Result<bool, DataError> {
        self.check()?;
        Ok(self.segment.area().level(LEVEL_PIECE))
    }

    fn check(&self) -> Result<(), DataError> {
        let owns = self.holder.owns(self.segment.owner().current()) == Some(self.epoch);
        if owns { Ok(()) } else { Err(DataError::NotOwner) }
    }
}
