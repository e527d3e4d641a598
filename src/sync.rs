//! The only source of atomics: one word type, so that the segment is nothing but words.
//!
//! The `atomic` crate guards types that do not fit a machine word with a lock of *this process*,
//! silently useless between processes; hence its `fallback` is off and the assertions below
//! refuse to compile where a word is not lock-free. Under `cfg(loom)` the same algorithms run on
//! loom's atomics, which have another layout: only pure cells are built there.

#[cfg(not(loom))]
mod imp {
    pub use atomic::{Ordering, fence};

    /// One shared 64-bit word: lock-free, 8 bytes, 8-aligned, any bit pattern valid.
    pub type Word = atomic::Atomic<u64>;

    const _: () = assert!(
        Word::is_lock_free() && size_of::<Word>() == 8 && align_of::<Word>() == 8,
        "osps needs lock-free 64-bit atomics"
    );
}

#[cfg(loom)]
mod imp {
    pub use loom::sync::atomic::{AtomicU64 as Word, Ordering, fence};
}

pub use imp::{Ordering, Word, fence};
