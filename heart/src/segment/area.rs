//! The data area: torn never, blocked never.
//!
//! Two copies and one sequence word. Copy `sequence & 1` is the good one and is not written while
//! the word keeps its value. The owner changes the other one, the spare, and one store of the
//! sequence makes that the good one: that store is the commit.
//!
//! ```text
//! level     bring the spare level: for each listed range copy good -> spare; clear the list
//! write     append the range to the list FIRST, then write the spare
//! commit    sequence += 1 (release)
//! ```
//!
//! **Invariant:** outside of the listed ranges the two copies are equal. It holds between any two
//! instructions of the owner, so a killed owner needs no recovery of its own: the next owner's
//! `level` is it. Listed ranges mean "the copies may differ here", which is symmetric, so the list
//! stays right over a commit. Readers take no lock: load the sequence, copy, fence, load it again;
//! they retry only if a commit ended meanwhile, with a bound. A frozen or dead owner blocks nobody.
//!
//! The idea is Romulus's (Correia, Felber, Ramalhete, SPAA 2018) without its persistence fences.
//! Only the owner writes (policy/ownership); the caller re-checks that right before `commit`.

use std::fmt;

use super::layout::RANGES;
use crate::sync::{Ordering, Word, fence};

/// Value of the range count that means "everything may differ".
const ALL: u64 = u64::MAX;

/// Bytes levelled in one piece: some 50 us, so that no owner misses a beat over a large area.
pub const LEVEL_PIECE: usize = 256 << 10;

/// How often a reader tries. Against an owner that commits without pause one try in two fails, so
/// 64 in a row mean something else than bad luck.
pub const READ_TRIES: usize = 64;

/// Commits kept finishing while somebody read: ask for ownership and read as owner, or try later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data kept changing at every attempt to read it")
    }
}

impl std::error::Error for Busy {}

/// An offset and length that do not lie in the area: our own bug, or a scribbled table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub length: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}+{} are outside of the data area", self.offset, self.length)
    }
}

impl std::error::Error for OutOfBounds {}

/// The shared words of a data area.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    sequence: &'a Word,
    count: &'a Word,
    ranges: &'a [Word],
    copies: [&'a [Word]; 2],
}

/// A read-only look at one copy. What it shows is worth nothing until the sequence was validated.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    words: &'a [Word],
    sequence: u64,
}

/// A change that is being made to the spare copy; dropped without `commit`, it never happened.
#[derive(Debug)]
pub struct Update<'a> {
    area: Area<'a>,
    sequence: u64,
}

impl<'a> Area<'a> {
    /// An area over these words. Both copies have the same length.
    ///
    /// # Panics
    ///
    /// If they do not, or are longer than a range entry can name.
    pub fn new(
        sequence: &'a Word,
        count: &'a Word,
        ranges: &'a [Word],
        copies: [&'a [Word]; 2],
    ) -> Area<'a> {
        assert_eq!(copies[0].len(), copies[1].len(), "copies of different length");
        assert!(copies[0].len() < 1 << 29, "an area stops below 4 GiB");
        assert!(ranges.len() <= RANGES, "more ranges than the layout has");
        Area { sequence, count, ranges, copies }
    }

    /// Bytes of one copy.
    pub fn size(&self) -> usize {
        self.copies[0].len() * 8
    }

    /// Commits so far. A number to show: it orders nothing.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// Runs `look` on the good copy until it ran undisturbed, at most [`READ_TRIES`] times. `look`
    /// may see bytes of two commits at once: it must be bounded and believe nothing; only its
    /// last result is given back. The second value is the number of tries that were disturbed.
    pub fn read<T>(&self, look: impl FnMut(View<'a>) -> T) -> Result<(T, usize), Busy> {
        self.read_within(READ_TRIES, look)
    }

    /// As [`Area::read`], with another number of tries: fewer for a look that takes long.
    pub fn read_within<T>(
        &self,
        tries: usize,
        mut look: impl FnMut(View<'a>) -> T,
    ) -> Result<(T, usize), Busy> {
        for retries in 0..tries {
            // Acquire: pairs with the release of `commit`: the copy it made good is visible.
            let before = self.sequence.load(Ordering::Acquire);
            let seen = look(View { words: self.copy(before), sequence: before });
            // Acquire fence: all loads above come before the load below; pairs with the release
            // fence of `level`: whoever read a byte of the next levelling also sees the sequence
            // that came before it.
            fence(Ordering::Acquire);
            if self.sequence.load(Ordering::Relaxed) == before {
                return Ok((seen, retries));
            }
        }
        Err(Busy)
    }

    /// The owner's own look: nobody else commits, so one try is enough.
    pub fn read_as_owner<T>(&self, look: impl FnOnce(View<'a>) -> T) -> T {
        let sequence = self.sequence();
        look(View { words: self.copy(sequence), sequence })
    }

    /// Brings the spare copy level, at most `budget` bytes of it. Returns whether it is level now.
    /// Owner only; may be killed anywhere and repeated by the next owner.
    pub fn level(&self, budget: usize) -> bool {
        // Relaxed: the owner word was loaded with acquire, and the last owner's stores with it.
        let sequence = self.sequence.load(Ordering::Relaxed);
        let (good, spare) = (self.copy(sequence), self.copy(sequence.wrapping_add(1)));
        // Release fence: the sequence above is older than every store below; without it a reader
        // of the copy that was good before can see a torn mix and an unchanged sequence.
        fence(Ordering::Release);
        let mut budget = (budget / 8).max(1);
        loop {
            let count = match self.count.load(Ordering::Relaxed) {
                0 => return true,
                // A count that cannot be (scribbled) means the same as ALL.
                count if count == ALL || count > self.ranges.len() as u64 => self.list_all(),
                count => count,
            };
            let last = &self.ranges[usize::try_from(count - 1).unwrap_or(0)];
            let Some((start, length)) = self.words_of(last.load(Ordering::Relaxed)) else {
                // A range outside of the area was never written by an owner: believe none. The next
                // call lists all: whoever goes on scribbling shall not keep us here.
                self.count.store(ALL, Ordering::Relaxed);
                return false;
            };
            let piece = length.min(budget);
            for (from, to) in good[start..start + piece].iter().zip(&spare[start..start + piece]) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            budget -= piece;
            // Release fence: the words are level before the list says so.
            fence(Ordering::Release);
            if piece == length {
                self.count.store(count - 1, Ordering::Relaxed);
            } else {
                last.store(range_of(start + piece, length - piece), Ordering::Relaxed);
                return false;
            }
            if budget == 0 {
                return self.count.load(Ordering::Relaxed) == 0;
            }
        }
    }

    /// Begins a change. The spare must be level ([`Area::level`] said so in this ownership).
    pub fn begin(&self) -> Update<'a> {
        Update { area: *self, sequence: self.sequence.load(Ordering::Relaxed) }
    }

    /// Turns "everything" into one range, so that it can be worked off in pieces: while the count
    /// says ALL no entry counts, and one store makes this one count.
    fn list_all(&self) -> u64 {
        if let Some(first) = self.ranges.first() {
            first.store(range_of(0, self.copies[0].len()), Ordering::Relaxed);
        }
        fence(Ordering::Release);
        self.count.store(1, Ordering::Relaxed);
        1
    }

    /// An entry in words, if it lies in the area.
    fn words_of(&self, entry: u64) -> Option<(usize, usize)> {
        let start = usize::try_from(entry >> 32).ok()? / 8;
        let length = usize::try_from(entry & 0xffff_ffff).ok()? / 8;
        (length > 0 && start.checked_add(length)? <= self.copies[0].len())
            .then_some((start, length))
    }

    fn copy(&self, sequence: u64) -> &'a [Word] {
        self.copies[usize::from(sequence & 1 == 1)]
    }
}

/// A range entry: offset << 32 | length, in bytes.
fn range_of(start: usize, length: usize) -> u64 {
    (start as u64 * 8) << 32 | (length as u64 * 8)
}

impl<'a> Update<'a> {
    /// Writes bytes into the spare copy.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let end = offset.checked_add(bytes.len()).filter(|end| *end <= self.area.size());
        let end = end.ok_or(OutOfBounds { offset, length: bytes.len() })?;
        if bytes.is_empty() {
            return Ok(());
        }
        let (first, last) = (offset / 8, end.div_ceil(8));
        self.declare(first, last - first);
        for (index, word) in (first..last).zip(&self.spare()[first..last]) {
            let at = index * 8;
            let mut raw = word.load(Ordering::Relaxed).to_le_bytes();
            let (from, to) = (offset.max(at), end.min(at + 8));
            raw[from - at..to - at].copy_from_slice(&bytes[from - offset..to - offset]);
            word.store(u64::from_le_bytes(raw), Ordering::Relaxed);
        }
        Ok(())
    }

    /// What this change has made of the data so far.
    pub fn view(&self) -> View<'a> {
        View { words: self.spare(), sequence: self.sequence }
    }

    /// Makes the change visible, all of it, by one store. The caller has just checked that it
    /// still owns the area.
    pub fn commit(self) -> u64 {
        let next = self.sequence.wrapping_add(1);
        // Release: pairs with the acquire of `read`.
        self.area.sequence.store(next, Ordering::Release);
        next
    }

    /// Lists a range before it is touched. A full list becomes "everything" by one store.
    fn declare(&self, start: usize, length: usize) {
        let count = self.area.count.load(Ordering::Relaxed);
        let entry = range_of(start, length);
        let index = usize::try_from(count).unwrap_or(usize::MAX);
        if index
            .checked_sub(1)
            .and_then(|last| self.area.ranges.get(last))
            .is_some_and(|last| last.load(Ordering::Relaxed) == entry)
        {
            return;
        }
        if let Some(cell) = self.area.ranges.get(index) {
            cell.store(entry, Ordering::Relaxed);
            // The entry is there before it counts.
            fence(Ordering::Release);
            self.area.count.store(count + 1, Ordering::Relaxed);
        } else {
            self.area.count.store(ALL, Ordering::Relaxed);
        }
        // Release fence: the range is listed before the first word in it changes.
        fence(Ordering::Release);
    }

    fn spare(&self) -> &'a [Word] {
        self.area.copy(self.sequence.wrapping_add(1))
    }
}

impl View<'_> {
    /// Number of the commit that made this copy good.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of the copy.
    pub fn size(&self) -> usize {
        self.words.len() * 8
    }

    /// The word at an index of 8 bytes; 0 outside of the area.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Copies bytes out; what lies outside of the area reads as zeros.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let raw = self.word(at / 8).to_le_bytes();
            let part = &raw[at % 8..];
            let length = part.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&part[..length]);
            rest = later;
            at = at.saturating_add(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Memory;
    use proptest::prelude::*;

    fn bytes(memory: &Memory) -> Vec<u8> {
        let area = memory.area();
        let mut bytes = vec![0; area.size()];
        area.read_as_owner(|view| view.read(0, &mut bytes));
        bytes
    }

    fn write(area: &Area<'_>, changes: &[(usize, Vec<u8>)]) -> u64 {
        while !area.level(LEVEL_PIECE) {}
        let mut update = area.begin();
        for (offset, bytes) in changes {
            update.write(*offset, bytes).expect("inside");
        }
        update.commit()
    }

    #[test]
    fn a_commit_shows_all_or_nothing() {
        let memory = Memory::new(64, 4);
        let area = memory.area();
        assert_eq!(write(&area, &[(3, b"hello".to_vec())]), 1);
        assert_eq!(&bytes(&memory)[..9], b"\0\0\0hello\0");
        assert!(area.level(LEVEL_PIECE));
        let mut update = area.begin();
        update.write(3, b"HELLO").unwrap();
        // Not committed: it ends here.
        let _ = update;
        assert_eq!(&bytes(&memory)[3..8], b"hello", "an aborted change never happened");
        assert_eq!(area.read(|view| view.sequence()), Ok((1, 0)));
        assert_eq!(write(&area, &[(0, b"x".to_vec())]), 2);
        assert_eq!(&bytes(&memory)[..9], b"x\0\0hello\0", "and leaves no trace in the next one");
    }

    #[test]
    fn a_full_list_means_everything_and_is_levelled_in_pieces() {
        let memory = Memory::new(512, 2);
        let area = memory.area();
        let changes: Vec<_> =
            (0..8).map(|i| (i * 64, vec![u8::try_from(i).unwrap() + 1; 8])).collect();
        write(&area, &changes);
        assert_eq!(memory.count().load(Ordering::Relaxed), ALL);
        let pieces = (1..100).take_while(|_| !area.level(64)).count();
        assert_eq!(pieces, 7, "512 bytes in pieces of 64");
        for i in 0..64 {
            let [a, b] = [0, 1].map(|copy: usize| memory.copies()[copy][i].load(Ordering::Relaxed));
            assert_eq!(a, b);
        }
    }

    /// What is not listed is not touched, and a piece is as long as was asked for.
    #[test]
    fn levelling_costs_what_was_changed() {
        let memory = Memory::new(512, 3);
        let area = memory.area();
        write(&area, &[(0, vec![1; 8]), (16, vec![1; 8]), (32, vec![1; 8])]);
        let spare = &memory.copies()[0];
        spare[5].store(99, Ordering::Relaxed);
        assert!(!area.level(16), "two of three");
        assert_eq!(memory.count().load(Ordering::Relaxed), 1);
        assert!(area.level(8), "the last one, to its end");
        assert_eq!(spare[5].load(Ordering::Relaxed), 99, "nobody listed it");
        write(&area, &[(0, vec![2; 512])]);
        assert!(area.level(LEVEL_PIECE), "a small area in one piece");
    }

    #[test]
    fn scribbled_lists_are_not_believed() {
        for (count, entry) in [(1, range_of(60, 8)), (1, 0), (1, u64::MAX), (77, 0), (ALL - 1, 3)] {
            let memory = Memory::new(512, 2);
            let area = memory.area();
            write(&area, &[(0, vec![7; 512])]);
            memory.count().store(count, Ordering::Relaxed);
            memory.ranges()[0].store(entry, Ordering::Relaxed);
            for _ in 0..100 {
                if area.level(64) {
                    break;
                }
            }
            assert_eq!(memory.count().load(Ordering::Relaxed), 0);
            write(&area, &[]);
            assert_eq!(bytes(&memory), vec![7; 512]);
        }
    }

    #[test]
    fn writes_outside_are_refused() {
        let memory = Memory::new(16, 2);
        let mut update = memory.area().begin();
        for (offset, length) in [(16, 1), (15, 2), (usize::MAX, 1), (0, 17)] {
            assert!(update.write(offset, &vec![1; length]).is_err());
        }
        assert!(update.write(16, &[]).is_ok());
    }

    #[test]
    fn a_reader_under_a_stream_of_commits_gives_up() {
        let memory = Memory::new(16, 2);
        let area = memory.area();
        let mut commits = 0;
        let seen = area.read(|_| {
            commits += 1;
            write(&area, &[(0, vec![1])])
        });
        assert_eq!((seen, commits), (Err(Busy), READ_TRIES));
    }

    fn changes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
        prop::collection::vec((0usize..500, prop::collection::vec(any::<u8>(), 0..40)), 0..6)
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_plain_array(
            script in prop::collection::vec((changes(), any::<bool>(), 1usize..600), 1..40),
        ) {
            let memory = Memory::new(512, 4);
            let area = memory.area();
            let mut model = vec![0u8; 512];
            for (changes, commit, piece) in script {
                while !area.level(piece) {}
                let mut update = area.begin();
                let mut changed = model.clone();
                for (offset, bytes) in changes {
                    let fits = offset + bytes.len() <= 512;
                    prop_assert_eq!(update.write(offset, &bytes).is_ok(), fits);
                    if fits {
                        changed[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    }
                }
                if commit {
                    update.commit();
                    model = changed;
                }
                prop_assert_eq!(&bytes(&memory), &model);
            }
        }
    }
}
