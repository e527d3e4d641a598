//! Keys and values in the data area: fixed cells, open addressing, no allocator.
//!
//! ```text
//! word 0            keys in the table
//! byte 64           one tag word per cell: 0 = empty, else the key's hash with its lowest bit set
//! behind the tags   the cells: word 0 = key length | value length << 32, key bytes, value bytes
//! ```
//!
//! A key lives within 256 cells (`WINDOW`) from its home, so every walk is bounded, a deletion
//! needs no tombstone, and a change is one cell, its tag and the key count. Where everything lies
//! follows from the area's size and the cell size; nothing stored is believed: lengths are clipped
//! to the cell. The table may therefore be walked while it is being overwritten; the result counts
//! once the sequence was validated (`segment::area`). Tested below against a `HashMap`.

use std::fmt;

use crate::segment::area::{OutOfBounds, Update, View};

/// Longest key. Keys are copied at every lookup that meets an equal tag.
pub const KEY_MAX: usize = 64;
/// Bytes of a cell that hold neither key nor value.
pub const CELL_OVERHEAD: usize = 8;
/// Cells in which a key may live: their tags are 32 cache lines. With 256 a table of 4000 cells
/// takes 85 to 95 % of them before one window is full; more would make a miss slower.
const WINDOW: usize = 256;
const HEADER: usize = 64;

/// Why a value could not be stored. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key does not fit.
    KeyTooLong(usize),
    /// The value does not fit beside its key.
    ValueTooLong {
        /// Its length.
        length: usize,
        /// Room in the cell beside this key.
        room: usize,
    },
    /// All cells where this key could live are taken.
    Full,
    /// The table's geometry does not fit its area: our own bug.
    OutOfBounds(OutOfBounds),
}

impl From<OutOfBounds> for Refused {
    fn from(error: OutOfBounds) -> Refused {
        Refused::OutOfBounds(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::KeyTooLong(length) => {
                write!(f, "ERR key of {length} bytes is longer than {KEY_MAX}")
            }
            Refused::ValueTooLong { length, room } => write!(
                f,
                "ERR value of {length} bytes is longer than {room}, the room in its cell \
                 (--cell-size)"
            ),
            Refused::Full => {
                f.write_str("OOM the table is full; start osps with a larger --data-size")
            }
            Refused::OutOfBounds(error) => write!(f, "ERR {error}"),
        }
    }
}

impl std::error::Error for Refused {}

/// Where the table lies in its area. Two numbers and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    cell_size: usize,
    cells: usize,
}

impl Table {
    /// The table in an area of `size` bytes with cells of `cell_size` bytes; `None` if not even
    /// one cell fits.
    pub fn new(size: usize, cell_size: usize) -> Option<Table> {
        if cell_size < CELL_OVERHEAD + KEY_MAX || !cell_size.is_multiple_of(8) {
            return None;
        }
        let cells = size.checked_sub(HEADER)? / cell_size.checked_add(8)?;
        (cells > 0).then_some(Table { cell_size, cells })
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// Keys in the table.
    pub fn len(&self, view: View<'_>) -> u64 {
        view.word(0)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self, view: View<'_>) -> bool {
        self.len(view) == 0
    }

    /// The value of a key.
    pub fn get(&self, view: View<'_>, key: &[u8]) -> Option<Vec<u8>> {
        let cell = self.find(view, key)?;
        let (key_length, value_length) = self.lengths(view, cell);
        let mut value = vec![0; value_length];
        view.read(self.cell_at(cell) + CELL_OVERHEAD + key_length, &mut value);
        Some(value)
    }

    /// Whether a key is there.
    pub fn contains(&self, view: View<'_>, key: &[u8]) -> bool {
        self.find(view, key).is_some()
    }

    /// Shows every key, as long as `visit` wants more.
    pub fn keys(&self, view: View<'_>, mut visit: impl FnMut(&[u8]) -> bool) {
        let mut key = [0; KEY_MAX];
        for cell in (0..self.cells).filter(|cell| view.word(tag_index(*cell)) != 0) {
            let (length, _) = self.lengths(view, cell);
            view.read(self.cell_at(cell) + CELL_OVERHEAD, &mut key[..length]);
            if !visit(&key[..length]) {
                return;
            }
        }
    }

    /// Stores a value under a key.
    pub fn set(&self, update: &mut Update<'_>, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        if key.len() > KEY_MAX {
            return Err(Refused::KeyTooLong(key.len()));
        }
        let room = self.cell_size - CELL_OVERHEAD - key.len();
        if value.len() > room {
            return Err(Refused::ValueTooLong { length: value.len(), room });
        }
        let view = update.view();
        let (cell, new) = match self.find(view, key) {
            Some(cell) => (cell, false),
            None => (self.free(view, key).ok_or(Refused::Full)?, true),
        };
        let lengths = key.len() as u64 | (value.len() as u64) << 32;
        let mut bytes = Vec::with_capacity(self.cell_size);
        bytes.extend_from_slice(&lengths.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        update.write(self.cell_at(cell), &bytes)?;
        if new {
            let count = self.len(view).saturating_add(1);
            update.write(tag_index(cell) * 8, &tag(key).to_le_bytes())?;
            update.write(0, &count.to_le_bytes())?;
        }
        Ok(())
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&self, update: &mut Update<'_>, key: &[u8]) -> Result<bool, Refused> {
        let Some(cell) = self.find(update.view(), key) else { return Ok(false) };
        let count = self.len(update.view()).saturating_sub(1);
        update.write(tag_index(cell) * 8, &[0; 8])?;
        update.write(0, &count.to_le_bytes())?;
        Ok(true)
    }

    /// Removes all keys.
    pub fn clear(&self, update: &mut Update<'_>) -> Result<(), Refused> {
        Ok(update.write(0, &vec![0; HEADER + self.cells * 8])?)
    }

    /// The cell that holds a key.
    fn find(&self, view: View<'_>, key: &[u8]) -> Option<usize> {
        let wanted = tag(key);
        let mut stored = [0; KEY_MAX];
        self.window(key).find(|cell| {
            if view.word(tag_index(*cell)) != wanted {
                return false;
            }
            let (length, _) = self.lengths(view, *cell);
            view.read(self.cell_at(*cell) + CELL_OVERHEAD, &mut stored[..length]);
            stored[..length] == *key
        })
    }

    fn free(&self, view: View<'_>, key: &[u8]) -> Option<usize> {
        self.window(key).find(|cell| view.word(tag_index(*cell)) == 0)
    }

    /// The cells in which a key may live, its home first.
    fn window(&self, key: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let cells = self.cells;
        let home = usize::try_from(hash(key) % cells as u64).unwrap_or(0);
        (0..WINDOW.min(cells)).map(move |step| (home + step) % cells)
    }

    /// Lengths of key and value, clipped to the cell: what is stored is not believed.
    fn lengths(&self, view: View<'_>, cell: usize) -> (usize, usize) {
        let word = view.word(self.cell_at(cell) / 8);
        let key = usize::try_from(word & 0xffff_ffff).unwrap_or(0).min(KEY_MAX);
        let value = usize::try_from(word >> 32).unwrap_or(0);
        (key, value.min(self.cell_size - CELL_OVERHEAD - key))
    }

    fn cell_at(&self, cell: usize) -> usize {
        HEADER + self.cells * 8 + cell * self.cell_size
    }
}

fn tag_index(cell: usize) -> usize {
    HEADER / 8 + cell
}

fn tag(key: &[u8]) -> u64 {
    hash(key) | 1
}

/// FNV-1a with a final mix (from splitmix64). Part of the layout: it decides where keys lie, so it
/// may not change with a library. Not keyed: a client can aim at one window, and gets its own
/// "table full" for it.
fn hash(key: &[u8]) -> u64 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Memory;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Op {
        Set(Vec<u8>, Vec<u8>),
        Remove(Vec<u8>),
        Clear,
    }

    fn ops() -> impl Strategy<Value = Op> {
        let key = || prop::collection::vec(0u8..4, 0..3);
        prop_oneof![
            8 => (key(), prop::collection::vec(any::<u8>(), 0..60))
                .prop_map(|(k, v)| Op::Set(k, v)),
            4 => key().prop_map(Op::Remove),
            1 => Just(Op::Clear),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_hash_map(script in prop::collection::vec(ops(), 1..200)) {
            let memory = Memory::new(4096, 16);
            let area = memory.area();
            let table = Table::new(area.size(), 128).unwrap();
            let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
            for op in script {
                match op {
                    Op::Set(key, value) => {
                        memory.change(|update| table.set(update, &key, &value)).unwrap();
                        model.insert(key, value);
                    }
                    Op::Remove(key) => {
                        let was = memory.change(|update| table.remove(update, &key)).unwrap();
                        prop_assert_eq!(was, model.remove(&key).is_some());
                    }
                    Op::Clear => {
                        memory.change(|update| table.clear(update)).unwrap();
                        model.clear();
                    }
                }
                area.read_as_owner(|view| {
                    assert_eq!(table.len(view), model.len() as u64);
                    assert_eq!(table.is_empty(view), model.is_empty());
                    let mut keys = Vec::new();
                    table.keys(view, |key| { keys.push(key.to_vec()); true });
                    assert_eq!(keys.len(), model.len());
                    for key in keys {
                        assert_eq!(table.get(view, &key), model.get(&key).cloned());
                    }
                });
            }
        }

        #[test]
        fn a_walk_over_garbage_is_bounded(words in prop::collection::vec(any::<u64>(), 64..65)) {
            let memory = Memory::new(512, 16);
            for (cell, word) in memory.copies()[0].iter().zip(&words) {
                cell.store(*word, crate::sync::Ordering::Relaxed);
            }
            let table = Table::new(512, 128).unwrap();
            memory.area().read_as_owner(|view| {
                let value = table.get(view, b"key");
                assert!(value.is_none_or(|value| value.len() <= 128));
                let mut seen = 0;
                table.keys(view, |key| { seen += 1; key.len() <= KEY_MAX });
                assert!(seen <= table.cells());
            });
        }
    }

    #[test]
    fn stored_lengths_are_clipped_to_the_cell() {
        let memory = Memory::new(4096, 16);
        let area = memory.area();
        let table = Table::new(area.size(), 128).unwrap();
        memory.change(|update| {
            table.set(update, b"k", b"value").unwrap();
            let cell = table.find(update.view(), b"k").unwrap();
            let lengths = 1 | 1000 << 32;
            update.write(table.cell_at(cell), &u64::to_le_bytes(lengths)).unwrap();
        });
        let value = area.read_as_owner(|view| table.get(view, b"k")).unwrap();
        assert_eq!((value.len(), &value[..5]), (128 - 8 - 1, &b"value"[..]));
    }

    #[test]
    fn full_and_too_long_are_refused_and_lose_nothing() {
        let memory = Memory::new(64 + 3 * (128 + 8), 16);
        let area = memory.area();
        let table = Table::new(area.size(), 128).unwrap();
        assert_eq!(table.cells(), 3);
        for key in [b"a", b"b", b"c"] {
            memory.change(|update| table.set(update, key, key)).unwrap();
        }
        memory.change(|update| {
            assert_eq!(table.set(update, b"d", b"d"), Err(Refused::Full));
            assert_eq!(table.set(update, &[1; 65], b""), Err(Refused::KeyTooLong(65)));
            let refused = Refused::ValueTooLong { length: 120, room: 119 };
            assert_eq!(table.set(update, b"a", &[0; 120]), Err(refused));
            assert_eq!(table.set(update, b"a", &[7; 119]), Ok(()));
            assert_eq!(table.remove(update, b"c"), Ok(true));
            assert_eq!(table.set(update, &[1; 64], b""), Ok(()), "a key as long as may be");
        });
        area.read_as_owner(|view| {
            assert_eq!(table.get(view, b"a"), Some(vec![7; 119]));
            assert_eq!(table.get(view, b"b"), Some(b"b".to_vec()));
            assert_eq!(table.len(view), 3);
        });
    }

    #[test]
    fn a_table_takes_nine_tenths_of_its_cells() {
        let memory = Memory::new(1 << 20, 16);
        let area = memory.area();
        let table = Table::new(area.size(), 256).unwrap();
        let full = (0u32..10_000).find(|number| {
            let key = format!("key:{number}");
            memory.change(|update| table.set(update, key.as_bytes(), b"x")).is_err()
        });
        let share = f64::from(full.unwrap()) / f64::from(u32::try_from(table.cells()).unwrap());
        assert!(share > 0.9, "full at {share}");
    }
}
