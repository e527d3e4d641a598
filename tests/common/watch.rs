//! What tests watch from outside while an instance works.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use osps::ids::{Epoch, SlotId};
use osps::segment::{Event, Segment};
use osps::sync::{Ordering, Word};

/// Kinds of events, from docs/segment.md.
pub mod kind {
    pub const STARTED: u64 = 1;
    pub const UP: u64 = 2;
    pub const VERDICT: u64 = 4;
    pub const HELD: u64 = 5;
    pub const STOP_ORDER: u64 = 7;
    pub const PRESSED: u64 = 8;
    pub const DIED: u64 = 9;
    pub const BACKOFF: u64 = 10;
    pub const FAILED: u64 = 11;
    pub const LATE_TURN: u64 = 12;
    pub const SPARED: u64 = 13;
    pub const WATCHDOG_STARTED: u64 = 15;
}

/// All that the ring holds.
pub fn events(segment: &Segment) -> Vec<Event> {
    segment.events().latest(1024)
}

pub fn verdicts(segment: &Segment) -> Vec<Event> {
    events(segment).into_iter().filter(|event| event.kind == kind::VERDICT).collect()
}

/// One more limit, because the watchdog or a server got no processor.
pub fn is_grant(event: &Event) -> bool {
    matches!(event.kind, kind::LATE_TURN | kind::SPARED)
}

/// Ends everybody's work when its holder goes, also by a panic.
pub struct Over<'a>(pub &'a Word);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::SeqCst);
    }
}

/// What the test's threads tell each other.
#[derive(Default)]
pub struct Talk {
    pub over: Word,
    pub wrong: Mutex<Vec<String>>,
}

impl Talk {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) != 0
    }

    pub fn complain(&self, what: String) {
        self.over.store(1, Ordering::Relaxed);
        self.wrong.lock().unwrap().push(what);
    }
}

/// Watches the owner word and the sequence from outside, as fast as a test may.
pub fn watch_owner(segment: &Segment, talk: &Talk) -> BTreeMap<u64, (SlotId, u16)> {
    let mut owners = BTreeMap::new();
    let (mut epoch, mut sequence) = (Epoch(0), 0);
    while !talk.is_over() {
        let owner = segment.owner().current();
        if owner.epoch < epoch {
            talk.complain(format!("epoch {} after {epoch}", owner.epoch));
        }
        epoch = owner.epoch;
        if let Some(slot) = owner.slot {
            let named = (slot, owner.generation);
            let before = *owners.entry(owner.epoch.0).or_insert(named);
            if before != named {
                talk.complain(format!("epoch {epoch} names {before:?} and {named:?}"));
            }
        }
        let commits = segment.area().sequence();
        if commits < sequence {
            talk.complain(format!("commit {commits} after {sequence}"));
        }
        sequence = commits;
        std::thread::sleep(Duration::from_micros(50));
    }
    owners
}
