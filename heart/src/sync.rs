//! The only source of atomics: one word type, so that the segment is nothing but words.
//!
//! The `atomic` crate guards types that do not fit a machine word with a lock of *this process*,
//! silently useless between processes; hence its `fallback` is off and the assertions below
//! refuse to compile where a word is not lock-free. Under `cfg(loom)` the same algorithms run on
//! loom's atomics, which have another layout: only pure cells are built there. There each ordering
//! can also be weakened, one at a time, to show that it is needed (tests/loom).

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
    use std::panic::Location;

    use super::weaken;
    pub use loom::sync::atomic::Ordering;
    use loom::sync::atomic::{self, AtomicU64};

    /// A word in a model. Its orderings are those of the call, unless that call is weakened.
    #[derive(Debug)]
    pub struct Word {
        value: AtomicU64,
        /// Touched before the value: loom 0.7 remembers only the last access to a word, so that a
        /// load before a store hides the loads of others from its search. A touch is an exchange,
        /// which nothing hides, and being relaxed it orders nothing.
        touched: AtomicU64,
    }

    impl Word {
        /// A word with this value.
        pub fn new(value: u64) -> Word {
            Word { value: AtomicU64::new(value), touched: AtomicU64::new(0) }
        }

        fn touch(&self) -> &AtomicU64 {
            self.touched.fetch_add(0, Ordering::Relaxed);
            &self.value
        }

        /// As the atomic's.
        #[track_caller]
        pub fn load(&self, ordering: Ordering) -> u64 {
            self.touch().load(weaken::ordering(Location::caller(), ordering))
        }

        /// As the atomic's.
        #[track_caller]
        pub fn store(&self, value: u64, ordering: Ordering) {
            self.touch().store(value, weaken::ordering(Location::caller(), ordering));
        }

        /// As the atomic's; the ordering of a failure is never weakened.
        #[track_caller]
        pub fn compare_exchange(
            &self,
            from: u64,
            to: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            let success = weaken::ordering(Location::caller(), success);
            self.touch().compare_exchange(from, to, success, failure)
        }
    }

    /// As the real one.
    #[track_caller]
    pub fn fence(ordering: Ordering) {
        let weakened = weaken::ordering(Location::caller(), ordering);
        // A relaxed fence is none.
        if weakened != Ordering::Relaxed {
            atomic::fence(weakened);
        }
    }
}

/// Takes one ordering out of a model, and keeps the list of those that a model has.
#[cfg(loom)]
pub mod weaken {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::fmt;
    use std::panic::Location;

    use super::Ordering;

    /// What an ordering promises; `AcqRel` promises both.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Half {
        /// What comes later in this thread stays behind it.
        Acquire,
        /// What came earlier in this thread stays in front of it.
        Release,
    }

    /// One half of an ordering in the source.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Site {
        /// Path as the compiler names it.
        pub file: &'static str,
        /// Line, from 1.
        pub line: u32,
        /// Which half.
        pub half: Half,
    }

    impl Site {
        /// The file's name without its folders.
        pub fn name(&self) -> &'static str {
            self.file.rsplit('/').next().unwrap_or(self.file)
        }
    }

    impl fmt::Display for Site {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}:{} {:?}", self.name(), self.line, self.half)
        }
    }

    thread_local! {
        static SEEN: RefCell<BTreeSet<Site>> = const { RefCell::new(BTreeSet::new()) };
        static WEAKENED: Cell<Option<Site>> = const { Cell::new(None) };
    }

    /// From now on this site is relaxed in the models of this thread.
    pub fn set(site: Option<Site>) {
        WEAKENED.set(site);
    }

    /// The sites that the models of this thread passed.
    pub fn seen() -> BTreeSet<Site> {
        SEEN.with_borrow(Clone::clone)
    }

    pub(super) fn ordering(at: &'static Location<'static>, ordering: Ordering) -> Ordering {
        let keeps = |half| {
            let site = Site { file: at.file(), line: at.line(), half };
            SEEN.with_borrow_mut(|seen| seen.insert(site));
            WEAKENED.get() != Some(site)
        };
        match ordering {
            Ordering::Acquire if !keeps(Half::Acquire) => Ordering::Relaxed,
            Ordering::Release if !keeps(Half::Release) => Ordering::Relaxed,
            Ordering::AcqRel => match (keeps(Half::Acquire), keeps(Half::Release)) {
                (true, true) => Ordering::AcqRel,
                (true, false) => Ordering::Acquire,
                (false, _) => Ordering::Release,
            },
            other => other,
        }
    }
}

pub use imp::{Ordering, Word, fence};
