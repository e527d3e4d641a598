//! The numbers that name things: slots, generations, epochs, and the owner and the claim made of
//! them.
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

/// Whose a heart line is and who beats in it: one word, changed by compare-exchange. One more than
/// the slot (8 bits, none = 0), low 16 bits of the generation, pid as its process sees it (22
/// bits), low 18 bits of its start time. Without a pid nobody claimed the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The slot whose heart this is; `None` = free line.
    pub slot: Option<SlotId>,
    /// Low 16 bits of the claimant's generation.
    pub generation: u16,
    /// Pid of the claimant, in its own pid namespace; 0 = unclaimed.
    pub pid: u32,
    /// Low 18 bits of the claimant's start time in clock ticks since boot.
    pub start_time: u32,
}

const PID_BITS: u32 = 22;
const START_MASK: u64 = (1 << 18) - 1;

impl Claim {
    /// The line of a slot that nobody claimed yet.
    pub fn unclaimed(slot: SlotId) -> Claim {
        Claim { slot: Some(slot), generation: 0, pid: 0, start_time: 0 }
    }

    /// The claim of a process.
    pub fn of(slot: SlotId, generation: Generation, pid: u32, start_time: u64) -> Claim {
        let bytes = generation.0.to_le_bytes();
        Claim {
            slot: Some(slot),
            generation: u16::from_le_bytes([bytes[0], bytes[1]]),
            pid,
            start_time: u32::try_from(start_time & START_MASK).unwrap_or(0),
        }
    }

    /// Whether it is a claim, and of this generation of this slot.
    pub fn is_of(self, slot: SlotId, generation: Generation) -> bool {
        self.pid != 0
            && self.slot == Some(slot)
            && self.generation == Claim::of(slot, generation, 0, 0).generation
    }

    /// Whether it is of a later generation than `other`, by the 16 bits that both have. Those wrap;
    /// the two lie close together, since every launch frees the line.
    pub fn is_later_than(self, other: Claim) -> bool {
        (1..1 << 15).contains(&self.generation.wrapping_sub(other.generation))
    }

    /// Whether a process that started then may be the claimant. One without `/proc` (in a chroot)
    /// does not know its own start time and says 0.
    pub fn started_at(self, start_time: u64) -> bool {
        self.start_time == 0 || u64::from(self.start_time) == start_time & START_MASK
    }

    /// The word's value.
    pub fn pack(self) -> u64 {
        let slot = self.slot.map_or(0, |slot| u64::from(slot.0) + 1);
        let pid = u64::from(self.pid) & ((1 << PID_BITS) - 1);
        let start_time = u64::from(self.start_time) & START_MASK;
        slot | u64::from(self.generation) << 8 | pid << 24 | start_time << (24 + PID_BITS)
    }

    /// Takes a value apart; total, any value means something.
    pub fn unpack(word: u64) -> Claim {
        let bytes = word.to_le_bytes();
        let low = |value: u64| u32::try_from(value).unwrap_or(0);
        Claim {
            slot: bytes[0].checked_sub(1).map(SlotId),
            generation: u16::from_le_bytes([bytes[1], bytes[2]]),
            pid: low(word >> 24 & ((1 << PID_BITS) - 1)),
            start_time: low(word >> (24 + PID_BITS)),
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
            prop_assert_eq!(Claim::unpack(word).pack(), word);
        }
    }

    #[test]
    fn nobody_is_not_slot_zero() {
        assert_eq!(Owner::unpack(Owner::NONE.pack()), Owner::NONE);
        assert_ne!(Owner::NONE.pack(), 0);
    }

    #[test]
    fn a_claim_is_of_one_generation_of_one_slot() {
        let claim = Claim::of(SlotId(32), Generation(0x0001_0002), (1 << 22) - 1, u64::MAX);
        assert!(claim.is_of(SlotId(32), Generation(2)), "the low 16 bits are compared");
        assert!(!claim.is_of(SlotId(32), Generation(3)) && !claim.is_of(SlotId(31), Generation(2)));
        assert!(claim.started_at(u64::MAX) && !claim.started_at(0));
        let after = Claim::of(SlotId(32), Generation(0x0001_0003), 7, 7);
        assert!(after.is_later_than(claim) && !claim.is_later_than(after));
        assert!(!claim.is_later_than(claim), "the same");
        let (first, last) =
            (Claim { generation: 0, ..after }, Claim { generation: 0xffff, ..after });
        assert!(first.is_later_than(last) && !last.is_later_than(first), "it wraps");
        let unclaimed = Claim::unclaimed(SlotId(32));
        assert!(!unclaimed.is_of(SlotId(32), Generation(0)), "nobody is no claimant");
        assert_eq!((unclaimed.pack(), Claim::unpack(0).slot), (33, None));
    }
}
