//! The numbers that name things: slots, generations, epochs.
//!
//! Newtypes, so that a generation can never be passed where an epoch is due.
//! Tested by the modules that use them.

use std::fmt;

/// Index of a server's record in the segment. Slot 0 is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u8);

impl SlotId {
    /// The primary's slot; under `osps run`, the program's.
    pub const FIRST: SlotId = SlotId(0);

    /// The slot as an index into a table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Incarnation number of the process in a slot. One counter serves all slots and is never
/// reset while the segment lives, so a generation names one process and no other. 0 = none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fencing number of the ownership of the data area: one more at every grant. 40 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
