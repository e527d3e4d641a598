//! Further hearts: lines besides the slot's own that processes of a launch have claimed.
//!
//! A claim is an allegation here, too. It counts if it names the slot's present generation; a line
//! of a generation that is gone is free again, and so is one whose claimant is gone while its
//! leader lives: who is to beat there is not for us to know. Tested in tests/hearts.rs.

use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::Sample;
use osps_heart::segment::layout::HeartCells;
use osps_heart::segment::text;
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use super::Watchdog;
use crate::policy::group::Input;

/// What one further line shows.
pub(super) struct Further {
    slot: SlotId,
    generation: Generation,
    line: u16,
    seen: Sample,
    /// The claimant's wish; `None` = as the server.
    limit: Option<Duration>,
}

impl Watchdog {
    /// All lines that are no slot's own and no prober's.
    fn further_lines(&self) -> impl Iterator<Item = (u16, &HeartCells)> {
        let probers: Vec<_> =
            self.children.iter().filter_map(|child| Some(child.probing.as_ref()?.line())).collect();
        let lines = (0u16..).zip(self.segment.hearts()).skip(self.children.len());
        lines.filter(move |(number, _)| !probers.contains(number))
    }

    /// Before a launch: who claimed lines in this slot is dead, and its successor may need them.
    pub(super) fn free_further(&self, slot: SlotId) {
        for (_, line) in self.further_lines() {
            let claim = line.claimed();
            if claim.slot == Some(slot) {
                line.give_back(claim);
            }
        }
    }

    /// Reads all further lines that somebody claimed, and frees those of nobody who lives.
    pub(super) fn read_further(&self) -> Vec<Further> {
        let mut read = Vec::new();
        for (number, line) in self.further_lines() {
            let claim = line.claimed();
            let Some(slot) = claim.slot else { continue };
            let child = self.children.get(slot.index());
            let live = child.and_then(|child| child.live().filter(|own| claim.is_of(slot, *own)));
            let Some(generation) = live else {
                line.give_back(claim);
                continue;
            };
            let (seen, limit) = (line.sample(), line.chosen_limit());
            read.push(Further { slot, generation, line: number, seen, limit });
        }
        read
    }

    /// Of those that were taken over: a heart that beat in this launch goes on to be judged, a full
    /// limit from now. Who stored no stamp is judged from its next beat on.
    pub(super) fn take_over_further(&mut self, now: Monotonic) {
        for Further { slot, line, seen, limit, .. } in self.read_further() {
            let spawned = &self.segment.slots()[slot.index()].server.spawned_ns;
            let spawned = Monotonic(spawned.load(Ordering::Relaxed));
            self.step(now, Input::Further { slot, line, seen: Some(seen), limit });
            if seen.stamp > spawned && seen.stamp <= now {
                self.group.go_on_with(slot, line);
            }
        }
    }

    /// Judges what was read at the beginning of this turn, and what is not there any more; not of
    /// those who are dead, which the next turn tells.
    pub(super) fn judge_further(&mut self, read: &[Further], dead: &[SlotId], now: Monotonic) {
        for slot in self.group.slots().filter(|slot| !dead.contains(slot)) {
            let child = &mut self.children[slot.index()];
            let is_own = |one: &&Further| one.slot == slot && child.live() == Some(one.generation);
            let now_there = read.iter().filter(is_own).map(|one| one.line).collect();
            let gone = std::mem::replace(&mut child.further, now_there);
            let gone: Vec<_> = gone.difference(&child.further).copied().collect();
            for line in gone {
                self.step(now, Input::Further { slot, line, seen: None, limit: None });
            }
        }
        for Further { slot, line, seen, limit, .. } in read {
            let is_known = self.children[slot.index()].further.contains(line);
            if is_known && !dead.contains(slot) {
                let (slot, line, seen, limit) = (*slot, *line, Some(*seen), *limit);
                self.step(now, Input::Further { slot, line, seen, limit });
                self.count_gap(slot, Some(line));
            }
        }
    }

    /// A further heart as it is now; `None` = whoever beat there is gone, and the line is free.
    pub(super) fn reread_further(&mut self, slot: SlotId, number: u16) -> Option<Sample> {
        let line = self.segment.hearts().get(usize::from(number))?;
        let claim = line.claimed();
        let child = &self.children[slot.index()];
        if !claim.is_of(slot, child.generation) {
            return None;
        }
        if self.is_another_program(slot) || !self.has_claimant(slot, claim) {
            log::info!(
                "{} gen={}: pid {}, which beat heart {}, is gone; the line is free again",
                child.name(),
                child.generation,
                claim.pid,
                text::load(&line.name)
            );
            line.give_back(claim);
            return None;
        }
        Some(line.sample())
    }

    /// The name of a further heart, as its claimant gave it.
    pub(super) fn heart_name(&self, number: u16) -> String {
        let name =
            self.segment.hearts().get(usize::from(number)).map(|line| text::load(&line.name));
        let name = name.filter(|name| !name.is_empty());
        name.unwrap_or_else(|| format!("in line {number}"))
    }
}
