//! Restarts one after the other: each request for one is a roll of its own.
//!
//! A roll goes on to its next server as soon as the last one is up again, and ends where one does
//! not come up: the others of it stay as they are. Rolls do not wait for each other, unless both
//! want the same service: of that one instance is away at a time, and who is asked for twice is
//! restarted twice, since what it reads may have changed in between.

use std::collections::VecDeque;

use osps_heart::ids::SlotId;
use osps_heart::time::Monotonic;

use super::super::lifecycle::Stage;
use super::super::server::{Goal, Holding};
use super::{Action, Group};

/// So many requests may be under way: who asks and does not wait for the answer shall not make a
/// list without an end.
const ROLLS: usize = 64;

/// One server of a roll, and the first slot of its service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) slot: SlotId,
    pub(super) service: SlotId,
}

/// What one request wants restarted.
#[derive(Debug)]
pub(super) struct Roll {
    request: u64,
    waiting: VecDeque<Turn>,
    /// Who is being restarted.
    current: Option<Turn>,
}

/// What became of a server that is being restarted.
enum Came {
    Up,
    NotYet,
    Never,
    /// A reload took it out of the list: nothing that failed.
    Removed,
}

impl Group {
    /// One more server for what a request wants restarted.
    pub(super) fn asked_to_restart(&mut self, request: u64, turn: Turn) {
        if let Some(roll) = self.rolls.iter_mut().find(|roll| roll.request == request) {
            if roll.waiting.iter().all(|known| known.slot != turn.slot) {
                roll.waiting.push_back(turn);
            }
        } else if self.may_roll() {
            let waiting = VecDeque::from([turn]);
            self.rolls.push(Roll { request, waiting, current: None });
        }
    }

    /// Every roll goes on as far as it can.
    pub(super) fn roll_on(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        let mut place = 0;
        // All that go are known before anybody is told: whoever needs another goes before it.
        let mut goes = false;
        while place < self.rolls.len() && self.ending.is_none() {
            let (moved, over) = self.advance(place, now, out);
            if over {
                self.rolls.remove(place);
            }
            // An older one may have waited for this one's service. Each move takes somebody out of
            // a roll, so this ends.
            place = if moved || over { 0 } else { place + 1 };
            goes |= moved;
        }
        if goes {
            self.press_stop(now, out);
        }
    }

    /// Whether a roll made a step, and whether it is over.
    fn advance(&mut self, place: usize, now: Monotonic, out: &mut Vec<Action>) -> (bool, bool) {
        let Roll { request, current, .. } = self.rolls[place];
        if let Some(Turn { slot, .. }) = current {
            match self.came(slot) {
                Came::NotYet => return (false, false),
                Came::Never => return (false, true),
                Came::Up => out.push(Action::Rolled { request, slot }),
                Came::Removed => {}
            }
            self.rolls[place].current = None;
        }
        let Some(next) = self.rolls[place].waiting.front().copied() else { return (false, true) };
        let is_away = |roll: &Roll| roll.current.is_some_and(|turn| turn.service == next.service);
        if self.rolls.iter().any(is_away) {
            return (current.is_some(), false);
        }
        self.rolls[place].waiting.pop_front();
        self.rolls[place].current = Some(next);
        match self.servers.get_mut(next.slot.index()) {
            Some(server) if server.stage.has_process() && server.goal != Goal::Leave => {
                server.goal = Goal::Again;
            }
            _ => self.asked_to_start(next.slot, now, out),
        }
        (true, false)
    }

    fn came(&self, slot: SlotId) -> Came {
        let Some(server) = self.servers.get(slot.index()) else { return Came::Removed };
        let up = match &server.holding {
            Holding::Alive(life) => life.up_since.is_some(),
            Holding::Dead(_) | Holding::Leaving(..) => false,
        };
        match server.stage {
            // Before its goal: it may be meant to come back for ever.
            Stage::Unkillable => Came::Never,
            _ if server.goal == Goal::Again => Came::NotYet,
            stage if !stage.has_process() && (server.vacant || server.goal == Goal::Leave) => {
                Came::Removed
            }
            Stage::Done => Came::Up,
            _ if up => Came::Up,
            stage if stage.has_process() => Came::NotYet,
            Stage::Blocked if self.waits_in_vain_for(slot).is_none() => Came::NotYet,
            _ => Came::Never,
        }
    }

    /// Nobody waits for its restart any more.
    pub(super) fn drop_from_rolls(&mut self, slot: SlotId) {
        for roll in &mut self.rolls {
            roll.waiting.retain(|turn| turn.slot != slot);
        }
    }

    /// Whether it waits for its turn in what a request wants restarted, or has it; `None` = in
    /// whatever somebody wants.
    pub fn is_rolling(&self, slot: SlotId, request: Option<u64>) -> bool {
        let mut rolls =
            self.rolls.iter().filter(|roll| request.is_none_or(|of| of == roll.request));
        rolls.any(|roll| roll.current.iter().chain(&roll.waiting).any(|turn| turn.slot == slot))
    }

    /// Whether there is room for one more request for restarts.
    pub fn may_roll(&self) -> bool {
        self.rolls.len() < ROLLS
    }

    /// Whom a blocked server waits for in the end, if that one is not on its way.
    pub fn waits_in_vain_for(&self, slot: SlotId) -> Option<SlotId> {
        let mut by = self.blocked_by(slot)?;
        // No way is longer, should there be a circle after all.
        for _ in &self.servers {
            if self.stage(by) == Stage::Blocked {
                by = self.blocked_by(by)?;
            }
        }
        match self.stage(by) {
            Stage::Backoff | Stage::Failed | Stage::Down | Stage::Unkillable => Some(by),
            Stage::Starting
            | Stage::Up
            | Stage::Late
            | Stage::Held
            | Stage::Asked
            | Stage::Terminating
            | Stage::Killing
            | Stage::Done
            | Stage::Blocked => None,
        }
    }
}
