//! Who beats in a slot's line: the leader, or a program behind it that claimed the line.
//!
//! A claim is an allegation. It is looked up in the leader's own tree, by the pid that the claimant
//! sees of itself; who is found there is held by pidfd, and once it died while the leader lives,
//! the line is free for another. Beats under another generation's claim do not count. Tested in
//! tests/claims.rs.

use std::path::PathBuf;

use osps_heart::ids::{Claim, Generation, SlotId};
use osps_heart::pulse::Sample;
use osps_heart::segment::What;
use osps_heart::time::Clock;

use super::probing::Probing;
use super::{KIN, Watchdog};
use crate::sys::poll::Interest;
use crate::sys::process::Process;
use crate::sys::procfs;

/// What became of a claimant.
const GONE: &str = "is gone";

/// Who was found behind the claim of a line.
#[derive(Debug, Default)]
pub(super) struct Claimant {
    /// The claim that was looked at last.
    seen: Option<Claim>,
    /// The claimant, if it is not the leader and was found.
    pub(super) process: Option<Process>,
    /// The program that beat, for event loops: one that is executed after it has no shim, perhaps.
    program: Option<PathBuf>,
    /// What was executed at the last look.
    executed: Option<PathBuf>,
    /// The last count that counted.
    count: u64,
}

/// What a look behind a claim shows.
enum Found {
    Leader,
    Other(Process),
    /// Somebody of that launch lives in a pid namespace that we cannot look up.
    Hidden,
    Nobody,
}

impl Claimant {
    /// As before a launch, when the heart's count stands at `count`.
    pub(super) fn unclaimed(count: u64) -> Claimant {
        Claimant { count, ..Claimant::default() }
    }
}

impl Watchdog {
    /// Reads a heart, and says whose it is. What is counted under another generation's claim is
    /// silence.
    pub(super) fn read_heart(&mut self, slot: SlotId) -> (Generation, Sample) {
        let line = &self.segment.hearts()[slot.index()];
        let mut sample = line.sample();
        let claim = line.claimed();
        let child = &mut self.children[slot.index()];
        let limit = child.service.limits.hang;
        let is_silent = |probing: &Probing| probing.is_silent(limit, self.clock.now());
        let unasked = child.probing.as_ref().is_some_and(is_silent);
        let is_foreign =
            claim.slot == Some(slot) && claim.pid != 0 && !claim.is_of(slot, child.generation);
        if is_foreign {
            sample.count = child.claimant.count;
        } else if unasked || child.is_looped() && claim.pid == 0 {
            // Nobody asked it, or nobody came to an event wait yet, or who did is gone: no freeze.
            sample = Sample::parked(child.claimant.count);
        } else {
            let moved = child.claimant.count != sample.count;
            child.claimant.count = sample.count;
            if child.is_looped() {
                // A beat between two looks at the same program is that program's.
                let now = child.beater().and_then(procfs::program);
                let claimant = &mut child.claimant;
                if moved && now.is_some() && claimant.executed == now {
                    claimant.program.clone_from(&now);
                }
                claimant.executed = now;
            }
        }
        (child.generation, sample)
    }

    /// Looks at the claims: once a turn, and cheap as long as they do not change.
    pub(super) fn check_claims(&mut self, dead: &[SlotId]) {
        for slot in self.group.slots().filter(|slot| !dead.contains(slot)) {
            let child = &self.children[slot.index()];
            if child.pid().is_none() || child.left.awaited {
                continue;
            }
            let claim = self.segment.hearts()[slot.index()].claimed();
            if child.claimant.seen != Some(claim) {
                self.look_behind(slot, claim);
            } else if child.claimant.process.as_ref().is_some_and(Process::is_dead) {
                self.free_line(slot, claim, GONE);
            }
        }
    }

    fn look_behind(&mut self, slot: SlotId, claim: Claim) {
        let line = &self.segment.hearts()[slot.index()];
        let child = &self.children[slot.index()];
        let (name, generation) = (child.name(), child.generation);
        let mut process = None;
        // One of an earlier generation by nobody whom we launched is no left-over's: any number may
        // be scribbled, and some of them are pids.
        let is_there =
            |stat: &procfs::Stat| stat.pid == claim.pid && claim.started_at(stat.start_time);
        let is_earlier = claim.pid != 0 && !claim.is_of(slot, generation);
        let is_nobodys = is_earlier && !procfs::tree(std::process::id()).iter().any(is_there);
        if claim.slot != Some(slot) || is_nobodys {
            log::warn!("{name} gen={generation}: somebody scribbled over the owner of its heart");
            line.exchange_claim(claim, Claim::unclaimed(slot));
            return;
        } else if claim.pid == 0 {
            // Nobody yet, or a language that can only store.
        } else if !claim.is_of(slot, generation) {
            log::warn!(
                "{name} gen={generation}: pid {} of an earlier generation claimed its heart; what \
                 is counted there does not count",
                claim.pid
            );
        } else {
            match self.find_claimant(slot, claim) {
                Found::Leader => {}
                Found::Hidden => log::info!(
                    "{name} gen={generation}: its heart is beaten by a process in another pid \
                     namespace, there pid {}",
                    claim.pid
                ),
                Found::Other(found) => {
                    log::info!(
                        "{name} gen={generation}: its heart is beaten by pid {}",
                        found.pid()
                    );
                    if let Err(failed) = self.poll.add(&found, KIN, Interest::READ) {
                        log::debug!("{failed}; its death is seen within a second only");
                    }
                    process = Some(found);
                }
                Found::Nobody => {
                    self.free_line(slot, claim, GONE);
                    return;
                }
            }
        }
        let child = &mut self.children[slot.index()];
        let was_claimed = child.claimant.seen.is_some_and(|seen| seen.pid != 0);
        child.claimant.seen = Some(claim);
        child.claimant.process = process;
        child.claimant.program = child.beater().and_then(procfs::program);
        // The shim let go: the program became another one, or gave itself a filter.
        if was_claimed && claim.pid == 0 && child.is_looped() && self.group.is_watched(slot) {
            self.report(slot, What::Unwatched);
        }
    }

    /// Whether the process that beat from its event loop executes another program by now, into
    /// which no shim was loaded: it cannot beat, and no silence of it means anything.
    pub(super) fn is_another_program(&self, slot: SlotId) -> bool {
        let child = &self.children[slot.index()];
        let programs = (&child.claimant.program, child.beater().and_then(procfs::program));
        let differ = matches!(programs, (Some(known), Some(now)) if *known != now);
        child.is_looped() && differ
    }

    /// Frees the line in that case.
    pub(super) fn check_program(&mut self, slot: SlotId) {
        let claim = self.segment.hearts()[slot.index()].claimed();
        if claim.pid != 0 && self.is_another_program(slot) {
            self.free_line(slot, claim, "executes another program");
        }
    }

    /// The claimant is gone, the leader lives: another process of the launch may claim the line.
    fn free_line(&mut self, slot: SlotId, claim: Claim, why: &str) {
        let line = &self.segment.hearts()[slot.index()];
        if !line.exchange_claim(claim, Claim::unclaimed(slot)) {
            // Somebody was faster: looked at in the next turn.
            return;
        }
        let child = &mut self.children[slot.index()];
        log::info!(
            "{} gen={}: pid {}, which beat its heart, {why}; the heart is free for another",
            child.name(),
            child.generation,
            claim.pid
        );
        child.claimant.seen = None;
        child.claimant.process = None;
        // A retired worker is no freeze: from now on nobody is there to be judged.
        if child.is_looped() && self.group.is_watched(slot) {
            self.report(slot, What::Unwatched);
        }
    }

    /// Whether somebody of this launch is behind a claim.
    pub(super) fn has_claimant(&self, slot: SlotId, claim: Claim) -> bool {
        !matches!(self.find_claimant(slot, claim), Found::Nobody)
    }

    fn find_claimant(&self, slot: SlotId, claim: Claim) -> Found {
        let Some(leader) = self.children[slot.index()].process.as_ref() else {
            return Found::Nobody;
        };
        if claim.pid == leader.pid() && claim.started_at(leader.start_time()) {
            return Found::Leader;
        }
        let mut hidden = false;
        for stat in self.kin(slot) {
            let pids = procfs::pids_of(stat.pid);
            hidden |= pids.len() > 1;
            if pids.last() == Some(&claim.pid)
                && claim.started_at(stat.start_time)
                && let Some(process) = Process::find(stat.pid, stat.start_time)
            {
                return Found::Other(process);
            }
        }
        if hidden { Found::Hidden } else { Found::Nobody }
    }
}
