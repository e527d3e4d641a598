//! A server's page: what the watchdog says of it, and what it says of itself.
//!
//! The identity (pid, start time, generation) changes as one: the pid is cleared first and stored
//! last, so a reader sees either nobody or a whole identity, even if the watchdog dies between
//! two stores. Tested here and, from outside, in tests/rundir.rs.

use super::layout::{ActivityCells, SLOT_SET, ServerCells};
use super::text;
use crate::ids::{Generation, SlotId};
use crate::sync::{Ordering, Word, fence};
use crate::words::Desired;

/// One process: pids are reused, the pair of pid and start time is not (within one boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Generation it was started as.
    pub generation: Generation,
}

/// Stores a set of slots: slot `n` is bit `n % 64` of word `n / 64`. Watchdog only.
pub fn store_set(words: &[Word; SLOT_SET], slots: impl IntoIterator<Item = SlotId>) {
    let mut bits = [0; SLOT_SET];
    for SlotId(slot) in slots {
        bits[usize::from(slot / 64)] |= 1 << (slot % 64);
    }
    for (word, bits) in words.iter().zip(bits) {
        word.store(bits, Ordering::Relaxed);
    }
}

/// The slots of a set, in their order.
pub fn load_set(words: &[Word; SLOT_SET]) -> impl Iterator<Item = SlotId> + use<> {
    let bits: [u64; SLOT_SET] = std::array::from_fn(|i| words[i].load(Ordering::Relaxed));
    (0..=u8::MAX)
        .filter(move |slot| bits[usize::from(slot / 64)] >> (slot % 64) & 1 == 1)
        .map(SlotId)
}

/// How often a reader tries to see a whole identity.
const TRIES: usize = if cfg!(loom) { 2 } else { 8 };

impl ServerCells {
    /// Publishes who runs in the slot. Watchdog only.
    pub fn set_identity(&self, identity: Identity) {
        self.clear_identity();
        self.start_time.store(identity.start_time, Ordering::Relaxed);
        self.generation.store(u64::from(identity.generation.0), Ordering::Relaxed);
        // Release: pairs with the acquire in `identity`.
        self.pid.store(u64::from(identity.pid), Ordering::Release);
    }

    /// Nobody runs in the slot: its process is confirmed dead. Watchdog only.
    pub fn clear_identity(&self) {
        self.pid.store(0, Ordering::Relaxed);
        // Release fence: "nobody" is visible before any later word of the next identity.
        fence(Ordering::Release);
    }

    /// Who runs in the slot; `None` if nobody does or the words make no sense.
    pub fn identity(&self) -> Option<Identity> {
        for _ in 0..TRIES {
            // Acquire: pairs with the release in `set_identity`.
            let pid = self.pid.load(Ordering::Acquire);
            let start_time = self.start_time.load(Ordering::Relaxed);
            let generation = self.generation.load(Ordering::Relaxed);
            // Acquire fence: both words are read before the pid is read again.
            fence(Ordering::Acquire);
            if self.pid.load(Ordering::Relaxed) == pid {
                // Pids 0 and 1 are never ours; a larger one than the kernel's limit is noise.
                let pid = u32::try_from(pid).ok().filter(|pid| (2..1 << 22).contains(pid))?;
                let generation = Generation(u32::try_from(generation).ok()?);
                return Some(Identity { pid, start_time, generation });
            }
        }
        None
    }

    /// Says which process does the work, by pid and start time; 0 = the leader. Watchdog only.
    pub fn set_main(&self, (pid, start_time): (u32, u64)) {
        self.main_start.store(start_time, Ordering::Relaxed);
        self.main_pid.store(u64::from(pid), Ordering::Relaxed);
    }

    /// The process that is said to do the work, if that is not the leader.
    pub fn main(&self) -> Option<(u32, u64)> {
        let pid = u32::try_from(self.main_pid.load(Ordering::Relaxed)).ok()?;
        (pid != 0).then(|| (pid, self.main_start.load(Ordering::Relaxed)))
    }

    /// Forgets all about the service that had the slot. Watchdog only, with nobody in the slot.
    pub fn forget(&self) {
        self.clear_identity();
        let words = [&self.generation, &self.since_ns, &self.spawned_ns, &self.baseline];
        let words = words.into_iter().chain([&self.starts, &self.last_cause, &self.last_class]);
        let words = words.chain([&self.unheld, &self.main_pid, &self.main_start]);
        let words = words.chain([&self.up_since_ns, &self.opened]);
        let words = words.chain([&self.last_silence_ns, &self.blocked_by, &self.paused_until_ns]);
        let words =
            words.chain([&self.goal, &self.due_ns, &self.excused_until_ns]).chain(&self.tally);
        let words = words.chain(&self.hangs).chain([&self.reports, &self.last_report]);
        let edges = self.depends_on.iter().chain(&self.after_done).chain(&self.restart_with);
        for word in words.chain(&self.restarts).chain(edges) {
            word.store(0, Ordering::Relaxed);
        }
        text::store(&self.listen, "");
        text::store(&self.last_heart, "");
    }

    /// The generation that the watchdog last published.
    pub fn current_generation(&self) -> Generation {
        Generation(u32::try_from(self.generation.load(Ordering::Acquire)).unwrap_or(0))
    }

    /// Whether the server shall stop.
    pub fn stop_wanted(&self) -> bool {
        self.desired.load(Ordering::Relaxed) == Desired::Stop.code()
    }
}

impl ActivityCells {
    /// Says what the server is doing. The server in the slot only.
    pub fn set_text(&self, activity: &str) {
        text::store_guarded(&self.text_guard, &self.text, activity);
    }

    /// What the server says it is doing; `None` = it died or was stopped while saying so.
    pub fn text(&self) -> Option<String> {
        text::load_guarded(&self.text_guard, &self.text)
    }

    /// Whether the process of this generation looks at its desired word, and for its watchdog.
    pub fn is_heeded_by(&self, generation: Generation) -> bool {
        self.heeds.load(Ordering::Relaxed) == u64::from(generation.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_slots_comes_back() {
        for slots in [vec![], vec![0], vec![63, 64, 127, 253], (0..=255).collect()] {
            let words = [7, 7, 7, 7].map(Word::new);
            store_set(&words, slots.iter().copied().map(SlotId));
            assert_eq!(load_set(&words).map(|slot| slot.0).collect::<Vec<_>>(), slots);
        }
    }
}
