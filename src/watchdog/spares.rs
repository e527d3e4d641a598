//! Trampolines that wait at their gates, already executed: a restart costs a message and an exec,
//! also when nothing of osps is hot any more (benches/restarts.rs measures that).
//!
//! A spare is nobody: it has no share of `members`, is recorded nowhere, and leaves when its gate
//! closes. One that died, or that somebody stopped, is not used. An empty pool costs a launch, as
//! ever. Tested in tests/spares.rs.

use osps_heart::time::{Clock, Monotonic};
use rustix::process::Signal;

use super::kin::DYING;
use super::{KIN, Watchdog};
use crate::sys::poll::{Interest, Poll, pause};
use crate::sys::process::{self, Gate, Process};
use crate::sys::{Failed, procfs};

/// So many wait. One serves a program that fails once; the second one that fails again at once.
const MOST: usize = 2;
/// After a launch, so long until the pool is filled up: what starts has the processors for itself.
const REST: std::time::Duration = std::time::Duration::from_millis(500);

/// The pool.
#[derive(Debug)]
pub(super) struct Spares {
    waiting: Vec<(Process, Gate)>,
    /// When one more may be made.
    fill_at: Monotonic,
}

impl Spares {
    pub(super) fn new(now: Monotonic) -> Spares {
        Spares { waiting: Vec::new(), fill_at: now + REST }
    }

    /// A process at a closed gate: a spare, or a fresh one. Never waits for a spare.
    pub(super) fn launch(
        &mut self,
        poll: &Poll,
        now: Monotonic,
    ) -> Result<(Process, Gate), Failed> {
        self.fill_at = now + REST;
        while let Some((process, gate)) = self.waiting.pop() {
            poll.remove(&process);
            // Whether it waits already does not matter; one that is stopped would never go on.
            let goes_on = |state| !matches!(state, 'T' | 't' | 'Z' | 'X');
            if !process.is_dead() && procfs::state(process.pid()).is_some_and(goes_on) {
                return Ok((process, gate));
            }
            end(&process);
        }
        process::launch(&["__exec".into()], &[])
    }

    /// Their pids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.waiting.iter().map(|(process, _)| process.pid())
    }

    /// Buries the dead.
    fn bury(&mut self, poll: &Poll) {
        self.waiting.retain(|(process, _)| {
            let lives = !process.is_dead();
            if !lives {
                poll.remove(process);
                let _ = process.reap();
            }
            lives
        });
    }
}

impl Watchdog {
    /// When to look after the pool; `None` = there is nothing to do.
    pub(super) fn spares_due(&self) -> Option<Monotonic> {
        let wanted = self.wants_spares() && self.spares.waiting.len() < MOST;
        wanted.then_some(self.spares.fill_at)
    }

    /// Spares become programs of the user's; servers of osps's own start in another way.
    fn wants_spares(&self) -> bool {
        let runs_programs = self.children.iter().any(|child| child.service.launch.is_program());
        runs_programs && !self.group.is_ending()
    }

    /// Fills the pool, one a turn, while nothing else is to be done.
    pub(super) fn fill_spares(&mut self, now: Monotonic) {
        self.spares.bury(&self.poll);
        if self.spares_due().is_none_or(|due| now < due) {
            return;
        }
        self.spares.fill_at = now + REST;
        match process::launch(&["__exec".into()], &[]) {
            Ok((process, gate)) => {
                if let Err(failed) = self.poll.add(&process, KIN, Interest::READ) {
                    log::debug!("{failed}; its death is seen later");
                }
                self.spares.waiting.push((process, gate));
            }
            Err(failed) => log::debug!("no spare: {failed}"),
        }
    }

    /// Lets all go: nothing of osps stays.
    pub(super) fn end_spares(&mut self) {
        for (process, gate) in std::mem::take(&mut self.spares.waiting) {
            drop(gate);
            end(&process);
            let until = self.clock.now() + DYING;
            while !process.is_dead() && self.clock.now() < until {
                pause();
            }
            let _ = process.reap();
        }
    }
}

fn end(process: &Process) {
    if let Err(failed) = process.signal(Signal::KILL) {
        log::debug!("{failed}");
    }
}
