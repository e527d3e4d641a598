//! The owner word: who may write the data area, packed in one word.
//!
//! Slot (8 bits), generation (low 16 bits) and epoch (40 bits) change together, by
//! compare-exchange of the whole word only, and are compared for equality, never for order.

use super::layout::OwnerCells;
use crate::ids::{Epoch, SlotId};
use crate::sync::Ordering;

const NOBODY: u64 = 0xff;
const EPOCH_MASK: u64 = (1 << 40) - 1;

/// The owner word, taken apart.
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

impl OwnerCells {
    /// Who owns the data area now.
    pub fn current(&self) -> Owner {
        // Acquire: pairs with the exchange that granted or cleared it.
        Owner::unpack(self.word.load(Ordering::Acquire))
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
