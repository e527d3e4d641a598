//! The data area for other programs: read from anywhere, written by its owner.

use std::path::Path;

use crate::heart::{Heart, HeartError};
use crate::ids::Epoch;
use crate::ownership::{Arbiter, ArbiterAction, Holder};
use crate::segment::area::{LEVEL_PIECE, OutOfBounds, Update};
use crate::segment::{Access, Segment};
use crate::sync::{Ordering, Word};
use crate::table::Table;

/// A read-only view of an instance's data area. It takes no lock, delays nobody, and works while
/// the servers write, are frozen, or are gone.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # osps_heart::example::create_segment(dir.path())?;
/// # let heart = osps_heart::example::heart(dir.path())?;
/// use osps_heart::DataReader;
///
/// // A program under `osps run` owns the area of its instance and writes to it ...
/// let mut owned = heart.own_data()?;
/// owned.update(|update| update.write(100, b"all of this"))?;
///
/// // ... and anybody reads a consistent copy, from outside.
/// let data = DataReader::open(dir.path())?;
/// let mut bytes = [0; 11];
/// let sequence = data.read(100, &mut bytes)?;
/// assert_eq!((&bytes, sequence), (b"all of this", 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DataReader {
    segment: Segment,
}

impl DataReader {
    /// Opens the data area of the instance in a run directory.
    pub fn open(run_dir: &Path) -> Result<DataReader, HeartError> {
        let segment =
            Segment::open(run_dir, Access::ReadOnly).map_err(HeartError::in_dir(run_dir))?;
        Ok(DataReader { segment })
    }

    /// Bytes of the area.
    pub fn size(&self) -> usize {
        self.segment.area().size()
    }

    /// Commits so far.
    pub fn sequence(&self) -> u64 {
        self.segment.area().sequence()
    }

    /// A consistent copy of the bytes from `offset` on: all of them as of one commit, whose number
    /// is returned.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<u64, HeartError> {
        let area = self.segment.area();
        let fits = offset.checked_add(into.len()).is_some_and(|end| end <= area.size());
        if !fits {
            return Err(HeartError::OutOfBounds { offset, length: into.len() });
        }
        let (sequence, _) = area.read(|view| {
            view.read(offset, into);
            view.sequence()
        })?;
        Ok(sequence)
    }

    /// The value of a key in the servers' table.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, HeartError> {
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
pub struct DataWriter {
    segment: Segment,
    holder: Holder,
    epoch: Epoch,
}

impl Heart {
    /// Takes the ownership of the data area, for a program that is alone in its instance. Its
    /// predecessor's is over: osps confirmed its death before this process was started. One owner
    /// in a process at a time; dropping it makes room.
    pub fn own_data(&self) -> Result<DataWriter, HeartError> {
        let (run_dir, slot, generation) = self.place();
        let segment =
            Segment::open(run_dir, Access::ReadWrite).map_err(HeartError::in_dir(run_dir))?;
        if segment.slots().len() != 1 {
            return Err(HeartError::NotAlone);
        }
        let holder = Holder::new(slot, generation);
        let mut arbiter = Arbiter::new();
        arbiter.request(slot, generation);
        let live = |_| segment.slots()[0].server.identity().map(|identity| identity.generation);
        // A retirement, then a grant; a further one only if the watchdog was quicker.
        for _ in 0..4 {
            let owner = segment.owner().current();
            if let Some(epoch) = holder.owns(owner) {
                // One writer in this process, too: two would write into each other's change.
                let free = TAKEN.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
                free.map_err(|_| HeartError::NotOwner)?;
                return Ok(DataWriter { segment, holder, epoch });
            }
            match arbiter.look(owner, live, false) {
                Some(ArbiterAction::Clear { from, to } | ArbiterAction::Grant { from, to }) => {
                    segment.owner().exchange(from, to);
                }
                Some(ArbiterAction::Recall { .. }) | None => break,
            }
        }
        Err(HeartError::NotOwner)
    }
}

/// Whether somebody in this process owns the data.
static TAKEN: Word = Word::new(0);

impl Drop for DataWriter {
    fn drop(&mut self) {
        TAKEN.store(0, Ordering::Release);
    }
}

impl DataWriter {
    /// One change, all or nothing: what `change` writes becomes visible by a single store, after
    /// one more look at the owner word. If it fails or panics, nothing was changed. Returns the
    /// number of the commit.
    pub fn update(
        &mut self,
        change: impl FnOnce(&mut Update<'_>) -> Result<(), OutOfBounds>,
    ) -> Result<u64, HeartError> {
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
    pub fn level(&mut self) -> Result<bool, HeartError> {
        self.check()?;
        Ok(self.segment.area().level(LEVEL_PIECE))
    }

    fn check(&self) -> Result<(), HeartError> {
        let owns = self.holder.owns(self.segment.owner().current()) == Some(self.epoch);
        if owns { Ok(()) } else { Err(HeartError::NotOwner) }
    }
}
