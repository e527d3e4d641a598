//! The event ring: the last 1024 things that happened, readable after everybody died.
//!
//! Writer: the watchdog alone. An entry's ticket is cleared first and stored last, so a reader
//! that meets a writer (or its corpse) skips that entry and never shows a torn one. Kinds are
//! numbers here; their meaning is `policy::lifecycle`'s.

use super::layout::{EVENTS, EventCells, RingCells};
use crate::ids::{Generation, SlotId};
use crate::sync::{Ordering, fence};
use crate::time::Monotonic;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Monotonic,
    /// Which server; `None` = the watchdog itself.
    pub slot: Option<SlotId>,
    /// Which incarnation of it.
    pub generation: Generation,
    /// What: see docs/segment.md.
    pub kind: u64,
    /// The kind's arguments.
    pub arguments: [u64; 3],
}

impl RingCells {
    /// Appends an event, overwriting the oldest.
    pub fn push(&self, event: &Event) {
        let number = self.head.load(Ordering::Relaxed);
        let entry = self.entry(number);
        entry.ticket.store(0, Ordering::Relaxed);
        // Release fence: the cleared ticket is visible before any new word; pairs with the
        // acquire fence in `read`.
        fence(Ordering::Release);
        entry.time_ns.store(event.time.0, Ordering::Relaxed);
        let slot = event.slot.map_or(0, |slot| u64::from(slot.0) + 1);
        entry.slot.store(slot, Ordering::Relaxed);
        entry.generation.store(u64::from(event.generation.0), Ordering::Relaxed);
        entry.kind.store(event.kind, Ordering::Relaxed);
        for (cell, value) in entry.arguments.iter().zip(event.arguments) {
            cell.store(value, Ordering::Relaxed);
        }
        entry.ticket.store(number.wrapping_add(1), Ordering::Relaxed);
        // Release: pairs with the acquire in `latest`: what is counted is there, and whole.
        self.head.store(number.wrapping_add(1), Ordering::Release);
    }

    /// The newest events, oldest first, at most `most`.
    pub fn latest(&self, most: usize) -> Vec<Event> {
        let head = self.head.load(Ordering::Acquire);
        let span = (most.min(EVENTS) as u64).min(head);
        (head - span..head).filter_map(|number| self.read(number)).collect()
    }

    fn entry(&self, number: u64) -> &EventCells {
        let index = number % EVENTS as u64;
        &self.entries[usize::try_from(index).unwrap_or(0)]
    }

    fn read(&self, number: u64) -> Option<Event> {
        let entry = self.entry(number);
        let ticket = number.wrapping_add(1);
        // Relaxed: `head` was loaded with acquire, so the words are at least this event's.
        if entry.ticket.load(Ordering::Relaxed) != ticket {
            return None;
        }
        let slot = entry.slot.load(Ordering::Relaxed);
        let generation = entry.generation.load(Ordering::Relaxed);
        let event = Event {
            time: Monotonic(entry.time_ns.load(Ordering::Relaxed)),
            slot: slot.checked_sub(1).and_then(|slot| u8::try_from(slot).ok()).map(SlotId),
            generation: Generation(u32::try_from(generation).unwrap_or(0)),
            kind: entry.kind.load(Ordering::Relaxed),
            arguments: [0, 1, 2].map(|i: usize| entry.arguments[i].load(Ordering::Relaxed)),
        };
        // Acquire fence: the words above are read before the ticket is read again.
        fence(Ordering::Acquire);
        (entry.ticket.load(Ordering::Relaxed) == ticket).then_some(event)
    }
}
