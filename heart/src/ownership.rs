//! Who may write the data area: two small automata, without time.
//!
//! The *arbiter* lives in one server, a *holder* in every server, that one included. The truth
//! is the owner word; frames are prompts to look at it. Laws:
//!
//! - Only a grant mints an epoch, always the last plus one; so an epoch is granted once.
//! - "Mine" = the word names my slot and generation *and* I have not released its epoch. What was
//!   released is dead for its holder for ever.
//! - The word of a dead generation is cleared by whoever sees it (arbiter and watchdog), by
//!   exchange of exactly that word: a failed exchange means that there is nothing to do.
//! - Everything may be repeated, and what matters is, until the word shows its effect.
//!
//! docs/pair.md prints both automata and the crash matrix.

use std::collections::VecDeque;

use crate::ids::{Epoch, Generation, Owner, SlotId};

/// Whether the word names this server. Epoch 0 is never granted, and it could not be recalled: a
/// word with it was scribbled, and names nobody.
pub fn names(owner: Owner, slot: SlotId, generation: Generation) -> bool {
    owner.slot == Some(slot) && owner.generation == low(generation) && owner.epoch != Epoch(0)
}

/// The part of a generation that fits into the owner word.
fn low(generation: Generation) -> u16 {
    let [a, b, ..] = generation.0.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The word without its holder, if its holder is not the live generation of its slot: what the
/// watchdog and the arbiter exchange it for.
pub fn retired(owner: Owner, live: impl Fn(SlotId) -> Option<Generation>) -> Option<Owner> {
    let slot = owner.slot?;
    let lives = live(slot).is_some_and(|generation| names(owner, slot, generation));
    (!lives).then_some(Owner { slot: None, generation: 0, epoch: owner.epoch })
}

/// What the arbiter wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArbiterAction {
    /// Exchange the word for one without a holder.
    Clear {
        /// Exactly this word.
        from: Owner,
        /// For this.
        to: Owner,
    },
    /// Exchange the word, then tell the new holder.
    Grant {
        /// Exactly this word.
        from: Owner,
        /// For this.
        to: Owner,
    },
    /// Write the recall down and tell the holder.
    Recall {
        /// The holder.
        slot: SlotId,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// First come, first served; at most one entry per slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arbiter {
    queue: VecDeque<(SlotId, Generation)>,
    recalled: Option<Epoch>,
}

impl Arbiter {
    /// An arbiter with nobody waiting.
    pub fn new() -> Arbiter {
        Arbiter::default()
    }

    /// A server wants to write. Asking again changes nothing.
    pub fn request(&mut self, slot: SlotId, generation: Generation) {
        match self.queue.iter_mut().find(|(waiting, _)| *waiting == slot) {
            Some(entry) => entry.1 = generation,
            None => self.queue.push_back((slot, generation)),
        }
    }

    /// A holder gave an epoch back; `owner` is the word now.
    pub fn released(
        &self,
        slot: SlotId,
        generation: Generation,
        epoch: Epoch,
        owner: Owner,
    ) -> Option<ArbiterAction> {
        let current = names(owner, slot, generation) && owner.epoch == epoch;
        let to = Owner { slot: None, generation: 0, epoch };
        current.then_some(ArbiterAction::Clear { from: owner, to })
    }

    /// Looks at the word: what is to be done now? At most one thing; look again after it.
    /// `may_recall` is false while the holder may keep it a little longer.
    pub fn look(
        &mut self,
        owner: Owner,
        live: impl Fn(SlotId) -> Option<Generation>,
        may_recall: bool,
    ) -> Option<ArbiterAction> {
        if let Some(to) = retired(owner, &live) {
            return Some(ArbiterAction::Clear { from: owner, to });
        }
        // Who died while it waited, or holds it already, waits no more.
        self.queue.retain(|(slot, generation)| {
            live(*slot) == Some(*generation) && !names(owner, *slot, *generation)
        });
        let (next, generation) = *self.queue.front()?;
        let Some(holder) = owner.slot else {
            // 40 bits; 0 stands for "no epoch" in the pending recall.
            let epoch = Epoch((owner.epoch.next().0).max(1));
            let to = Owner { slot: Some(next), generation: low(generation), epoch };
            return Some(ArbiterAction::Grant { from: owner, to });
        };
        if !may_recall || self.recalled == Some(owner.epoch) {
            return None;
        }
        self.recalled = Some(owner.epoch);
        Some(ArbiterAction::Recall { slot: holder, epoch: owner.epoch })
    }

    /// Whether somebody waits.
    pub fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Frames may have been lost: say again what was said.
    pub fn repeat(&mut self) {
        self.recalled = None;
    }
}

/// What a holder wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderAction {
    /// Tell the arbiter that we want to write.
    Request,
    /// Tell the arbiter that this epoch is given back.
    Release(Epoch),
}

/// One server's side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    slot: SlotId,
    generation: Generation,
    released: Option<Epoch>,
    asked: bool,
}

impl Holder {
    /// A server that owns nothing yet.
    pub fn new(slot: SlotId, generation: Generation) -> Holder {
        Holder { slot, generation, released: None, asked: false }
    }

    /// The epoch in which this server may write now.
    pub fn owns(&self, owner: Owner) -> Option<Epoch> {
        let mine = names(owner, self.slot, self.generation) && self.released != Some(owner.epoch);
        mine.then_some(owner.epoch)
    }

    /// Looks at the word and the pending recall. `wants` = there is something to write; `writing`
    /// = in the middle of an update; `again` = frames may have been lost, repeat what matters.
    pub fn look(
        &mut self,
        owner: Owner,
        recall: Option<Epoch>,
        wants: bool,
        writing: bool,
        again: bool,
    ) -> Vec<HolderAction> {
        let mut actions = Vec::new();
        if let Some(epoch) = self.owns(owner) {
            self.asked = false;
            if recall == Some(epoch) && !writing {
                self.released = Some(epoch);
                actions.push(HolderAction::Release(epoch));
            }
        } else if names(owner, self.slot, self.generation) && again {
            // Given back, but the word does not show it yet.
            actions.push(HolderAction::Release(owner.epoch));
        }
        if self.owns(owner).is_none() {
            if wants && (again || !self.asked) {
                actions.push(HolderAction::Request);
            }
            self.asked = wants;
        }
        actions
    }

    /// A recall frame arrived. An epoch that we do not write under is given back in every state;
    /// our own is given back by the next `look`, after the current update.
    pub fn recalled(&self, epoch: Epoch, owner: Owner) -> Option<HolderAction> {
        (self.owns(owner) != Some(epoch)).then_some(HolderAction::Release(epoch))
    }

    /// This server leaves: it gives back what it holds and waits for nobody.
    pub fn leave(&mut self, owner: Owner) -> Option<HolderAction> {
        let epoch = self.owns(owner)?;
        self.released = Some(epoch);
        Some(HolderAction::Release(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (SlotId, Generation) = (SlotId(1), Generation(11));
    const B: (SlotId, Generation) = (SlotId(2), Generation(12));

    fn free(epoch: u64) -> Owner {
        Owner { slot: None, generation: 0, epoch: Epoch(epoch) }
    }

    fn held(by: (SlotId, Generation), epoch: u64) -> Owner {
        Owner { slot: Some(by.0), generation: low(by.1), epoch: Epoch(epoch) }
    }

    fn live(slot: SlotId) -> Option<Generation> {
        [A, B].into_iter().find(|(known, _)| *known == slot).map(|(_, generation)| generation)
    }

    #[test]
    fn grants_come_in_the_order_of_requests_with_a_new_epoch_each() {
        let mut arbiter = Arbiter::new();
        assert_eq!(arbiter.look(free(7), live, true), None, "nobody asked");
        assert!(!arbiter.is_wanted());
        arbiter.request(B.0, B.1);
        arbiter.request(A.0, A.1);
        arbiter.request(B.0, B.1);
        assert!(arbiter.is_wanted());
        let grant = ArbiterAction::Grant { from: free(7), to: held(B, 8) };
        assert_eq!(arbiter.look(free(7), live, true), Some(grant));
        let recall = ArbiterAction::Recall { slot: B.0, epoch: Epoch(8) };
        assert_eq!(arbiter.look(held(B, 8), live, false), None, "it may keep it a little");
        assert_eq!(arbiter.look(held(B, 8), live, true), Some(recall));
        assert_eq!(arbiter.look(held(B, 8), live, true), None, "said once");
        arbiter.repeat();
        assert_eq!(arbiter.look(held(B, 8), live, true), Some(recall), "and again");
        let clear = ArbiterAction::Clear { from: held(B, 8), to: free(8) };
        assert_eq!(arbiter.released(B.0, B.1, Epoch(8), held(B, 8)), Some(clear));
        let grant = ArbiterAction::Grant { from: free(8), to: held(A, 9) };
        assert_eq!(arbiter.look(free(8), live, true), Some(grant));
    }

    #[test]
    fn a_release_of_another_epoch_or_generation_is_nothing() {
        let arbiter = Arbiter::new();
        for (slot, generation, epoch) in [(A.0, A.1, 8), (A.0, Generation(99), 9), (B.0, B.1, 9)] {
            assert_eq!(arbiter.released(slot, generation, Epoch(epoch), held(A, 9)), None);
        }
    }

    /// A grant to a generation that died while it waited would block writers for ever.
    #[test]
    fn the_dead_are_retired_and_lose_their_place() {
        let mut arbiter = Arbiter::new();
        let dead = (SlotId(1), Generation(10));
        let clear = ArbiterAction::Clear { from: held(dead, 4), to: free(4) };
        assert_eq!(arbiter.look(held(dead, 4), live, true), Some(clear));
        arbiter.request(dead.0, dead.1);
        arbiter.request(B.0, B.1);
        let grant = ArbiterAction::Grant { from: free(4), to: held(B, 5) };
        assert_eq!(arbiter.look(free(4), live, true), Some(grant));
        assert_eq!(retired(held(B, 5), |_| None), Some(free(5)), "nobody in the slot");
        assert_eq!(retired(held(B, 5), live), None);
        assert_eq!(retired(free(5), live), None);
    }

    /// Nobody can ask for epoch 0 back: a living server that a scribbled word named with it kept
    /// the data from all others for ever.
    #[test]
    fn epoch_zero_is_held_by_nobody() {
        assert_eq!(Holder::new(A.0, A.1).owns(held(A, 0)), None);
        assert_eq!(retired(held(A, 0), live), Some(free(0)));
    }

    /// Release on its way, a new client comes: the old holder must not write again while the next
    /// one is being granted.
    #[test]
    fn what_was_released_is_dead_for_ever() {
        let mut holder = Holder::new(A.0, A.1);
        let word = held(A, 9);
        assert_eq!(holder.owns(word), Some(Epoch(9)));
        let actions = holder.look(word, Some(Epoch(9)), true, false, false);
        assert_eq!(actions, [HolderAction::Release(Epoch(9)), HolderAction::Request]);
        assert_eq!(holder.owns(word), None);
        assert_eq!(holder.look(word, Some(Epoch(9)), true, false, false), []);
        let again = holder.look(word, Some(Epoch(9)), true, false, true);
        assert_eq!(
            again,
            [HolderAction::Release(Epoch(9)), HolderAction::Request],
            "until the word shows it"
        );
        assert_eq!(holder.owns(held(A, 10)), Some(Epoch(10)), "a new grant is new");
    }

    #[test]
    fn a_holder_finishes_its_update_first() {
        let mut holder = Holder::new(A.0, A.1);
        assert_eq!(holder.look(held(A, 9), Some(Epoch(9)), false, true, false), []);
        let actions = holder.look(held(A, 9), Some(Epoch(9)), false, false, false);
        assert_eq!(actions, [HolderAction::Release(Epoch(9))]);
    }

    #[test]
    fn an_uncontended_holder_sends_nothing() {
        let mut holder = Holder::new(A.0, A.1);
        for wants in [true, false, true] {
            assert_eq!(holder.look(held(A, 9), None, wants, false, false), []);
        }
    }

    #[test]
    fn a_request_is_sent_once_and_repeated_on_demand() {
        let mut holder = Holder::new(A.0, A.1);
        assert_eq!(holder.look(free(3), None, true, false, false), [HolderAction::Request]);
        assert_eq!(holder.look(free(3), None, true, false, false), []);
        assert_eq!(holder.look(free(3), None, true, false, true), [HolderAction::Request]);
        assert_eq!(holder.look(free(3), None, false, false, true), []);
    }

    #[test]
    fn a_recall_of_what_one_does_not_hold_is_answered_in_every_state() {
        let holder = Holder::new(A.0, A.1);
        for word in [free(9), held(B, 9), held(A, 10)] {
            assert_eq!(holder.recalled(Epoch(9), word), Some(HolderAction::Release(Epoch(9))));
        }
        assert_eq!(holder.recalled(Epoch(9), held(A, 9)), None, "given back by the next look");
    }

    #[test]
    fn who_leaves_gives_back() {
        let mut holder = Holder::new(A.0, A.1);
        assert_eq!(holder.leave(held(A, 9)), Some(HolderAction::Release(Epoch(9))));
        assert_eq!(holder.leave(held(A, 9)), None);
        assert_eq!(holder.leave(held(B, 9)), None);
    }
}
