//! What tests watch from outside while an instance works.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use osps_heart::ids::{Epoch, SlotId};
use osps_heart::segment::layout::EVENTS;
use osps_heart::segment::{Record, Segment, What};
use osps_heart::sync::{Ordering, Word};
use osps_heart::words::Event;

/// All that the ring holds.
pub fn events(segment: &Segment) -> Vec<Record> {
    segment.events().latest(EVENTS)
}

pub fn verdicts(segment: &Segment) -> Vec<Record> {
    events(segment).into_iter().filter(|record| record.what.event() == Event::Verdict).collect()
}

/// One more limit, because the watchdog or a server got no processor.
pub fn is_extension(record: &Record) -> bool {
    matches!(record.what, What::LateTurn { .. } | What::Spared { .. })
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
