//! The numbers that name things: slots, generations, epochs, and the owner made of them.
//!
//! Newtypes, so that a generation can never be passed where an epoch is due.
//! Tested by the modules that use them.

use std::fmt;

/// Index of a server's record in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u8);

impl SlotId {
    /// The first one: of a pair the arbiter's, under `osps run` the program's.
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

impl Epoch {
    /// The next one, in the 40 bits that the owner word has for it.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.wrapping_add(1) & EPOCH_MASK)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const NOBODY: u64 = 0xff;
const EPOCH_MASK: u64 = (1 << 40) - 1;

/// Who may write the data area: one word, compared for equality and never for order. Slot (8 bits),
/// low 16 bits of the generation, epoch (40 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The slot that may write; `None` = nobody.
    pub slot: Option<SlotId>,
    /// Low 16 bits of its generation.
    pub generation: u16,
    /// Epoch of the last grant.
    pub epoch: Epoch,
}

impl Owner {
    /// Nobody owns anything, nothing was ever granted.
    pub const NONE: Owner = Owner { slot: None, generation: 0, epoch: Epoch(0) };

    /// The word's value.
    pub fn pack(self) -> u64 {
        let slot = self.slot.map_or(NOBODY, |slot| u64::from(slot.0));
        slot | u64::from(self.generation) << 8 | (self.epoch.0 & EPOCH_MASK) << 24
    }

    /// Takes a value apart; total, any value means something.
    pub fn unpack(word: u64) -> Owner {
        let bytes = word.to_le_bytes();
        Owner {
            slot: (u64::from(bytes[0]) != NOBODY).then_some(SlotId(bytes[0])),
            generation: u16::from_le_bytes([bytes[1], bytes[2]]),
            epoch: Epoch(word >> 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_means_one_owner(word: u64) {
            prop_assert_eq!(Owner::unpack(word).pack(), word);
        }
    }

    #[test]
    fn nobody_is_not_slot_zero() {
        assert_eq!(Owner::unpack(Owner::NONE.pack()), Owner::NONE);
        assert_ne!(Owner::NONE.pack(), 0);
    }
}
