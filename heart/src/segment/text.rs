//! Short texts in shared words: UTF-8 bytes, eight to a word, zero-padded.
//!
//! A text that changes while others read it is guarded by a sequence word (odd while it is being
//! written). Its writer may die inside, so readers try a bounded number of times and then say
//! "unknown". What is read is an allegation: invalid UTF-8 and control characters are replaced,
//! since the text ends up on somebody's terminal.

use std::fmt;

use crate::sync::{Ordering, Word, fence};

/// How often a reader tries a guarded text. A write takes some 50 ns, so a live writer is caught
/// in the act twice in a row hardly ever.
const TRIES: usize = if cfg!(loom) { 2 } else { 8 };

/// Stores `text`, cut at a character boundary to what fits. Plain words: only for texts written
/// before the segment is published.
pub fn store(words: &[Word], text: &str) {
    for (word, value) in words.iter().zip(encode(words.len(), text)) {
        // Relaxed: published by the version word, or by the guard in `store_guarded`.
        word.store(value, Ordering::Relaxed);
    }
}

/// Whether [`store`] of this text would change nothing.
pub fn is_stored(words: &[Word], text: &str) -> bool {
    words.iter().map(|word| word.load(Ordering::Relaxed)).eq(encode(words.len(), text))
}

/// The text in so many words.
fn encode(count: usize, text: &str) -> impl Iterator<Item = u64> {
    let mut end = text.len().min(count * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].chunks(8);
    std::iter::repeat_with(move || {
        let mut raw = [0u8; 8];
        let chunk = bytes.next().unwrap_or_default();
        raw[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(raw)
    })
    .take(count)
}

/// The text in these words.
pub fn load(words: &[Word]) -> String {
    harmless(words.iter().map(|word| word.load(Ordering::Relaxed)))
}

/// A text of at most eight bytes to a word, as the segment has it, but nobody else's. What it shows
/// is as harmless as what [`load`] returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Text<WORDS> {
    /// The first ones of these words; those that are not there are empty.
    pub(super) fn take(words: &mut impl Iterator<Item = u64>) -> Text<WORDS> {
        Text(std::array::from_fn(|_| words.next().unwrap_or(0)))
    }

    /// Its words.
    pub(super) fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|word| word.to_le_bytes()[0] == 0)
    }
}

impl<const WORDS: usize> Default for Text<WORDS> {
    fn default() -> Text<WORDS> {
        Text([0; WORDS])
    }
}

/// Cut at a character boundary to what fits.
impl<const WORDS: usize> From<&str> for Text<WORDS> {
    fn from(text: &str) -> Text<WORDS> {
        let mut words = encode(WORDS, text);
        Text(std::array::from_fn(|_| words.next().unwrap_or(0)))
    }
}

impl<const WORDS: usize> fmt::Display for Text<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&harmless(self.0.iter().copied()))
    }
}

impl<const WORDS: usize> fmt::Debug for Text<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&harmless(self.0.iter().copied()), f)
    }
}

/// What is left of bytes that anybody may have written.
fn harmless(words: impl Iterator<Item = u64>) -> String {
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Replaces a guarded text. One writer only.
pub fn store_guarded(guard: &Word, words: &[Word], text: &str) {
    // A predecessor that died inside left the guard odd: `| 1` enters from both.
    let busy = guard.load(Ordering::Relaxed) | 1;
    guard.store(busy, Ordering::Relaxed);
    // Release fence: the odd guard is visible before the first new byte; pairs with the acquire
    // fence in `load_guarded`.
    fence(Ordering::Release);
    store(words, text);
    // Release: pairs with the first acquire load in `load_guarded`.
    guard.store(busy.wrapping_add(1), Ordering::Release);
}

/// The guarded text, or `None` if its writer was busy (or died) inside it each time.
pub fn load_guarded(guard: &Word, words: &[Word]) -> Option<String> {
    for _ in 0..TRIES {
        // Acquire: pairs with the final release store in `store_guarded`.
        let before = guard.load(Ordering::Acquire);
        if before & 1 == 1 {
            continue;
        }
        let text = load(words);
        // Acquire fence: the words above are read before the guard is read again.
        fence(Ordering::Acquire);
        if guard.load(Ordering::Relaxed) == before {
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> [Word; 2] {
        [Word::new(u64::MAX), Word::new(u64::MAX)]
    }

    #[test]
    fn texts_come_back_cut_at_a_character() {
        for (text, expected) in [
            ("", ""),
            ("short", "short"),
            ("exactly sixteen!", "exactly sixteen!"),
            ("more than sixteen bytes", "more than sixtee"),
            ("fifteen bytes..é", "fifteen bytes.."),
        ] {
            let cells = words();
            store(&cells, text);
            assert_eq!(load(&cells), expected);
            assert_eq!(Text::<2>::from(text).to_string(), expected);
            let mut words = cells.iter().map(|word| word.load(Ordering::Relaxed));
            assert_eq!(Text::<2>::take(&mut words), Text::from(text));
            assert_eq!(Text::<2>::from(text).is_empty(), text.is_empty());
        }
    }

    #[test]
    fn scribbled_bytes_are_made_harmless() {
        let cells = words();
        assert!(load(&cells).contains('\u{fffd}'));
        store(&cells, "\u{1b}[2Jboo");
        assert_eq!(load(&cells), "?[2Jboo");
    }

    #[test]
    fn a_writer_that_died_inside_blocks_no_reader_and_no_successor() {
        let (guard, cells) = (Word::new(7), words());
        assert_eq!(load_guarded(&guard, &cells), None);
        store_guarded(&guard, &cells, "idle");
        assert_eq!(load_guarded(&guard, &cells).as_deref(), Some("idle"));
    }
}
