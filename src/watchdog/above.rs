//! What the service manager above us is told: that we run, how all are, that we turn, that we stop.
//!
//! `WATCHDOG=1` comes from the turn itself, so a manager with `WatchdogSec` finds a watchdog that
//! hangs as the watchdog finds its servers. Tested in tests/above.rs.

use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::time::Monotonic;
use osps_heart::words::State;

use super::{Child, Watchdog};
use crate::policy::group::Goal;
use crate::sys::manager::Manager;

/// Who is above us, and what it was told last.
#[derive(Debug)]
pub(super) struct Above {
    manager: Manager,
    status: String,
    /// When it has to hear that we turn.
    due: Monotonic,
    ready: bool,
}

impl Above {
    pub(super) fn find() -> Option<Above> {
        let manager = Manager::from_env()?;
        let manager = manager.inspect_err(|failed| log::warn!("{failed}")).ok()?;
        Some(Above { manager, status: String::new(), due: Monotonic::default(), ready: false })
    }

    /// It has to be told so often that we turn.
    fn period(&self) -> Option<Duration> {
        // Four times within its patience: three may be lost.
        self.manager.patience.map(|patience| patience / 4)
    }

    /// When it has to be told next.
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.period().map(|_| self.due)
    }
}

impl Watchdog {
    /// Tells it that we turn, and how all are if that changed.
    pub(super) fn tell_above(&mut self, now: Monotonic) {
        if self.above.is_none() {
            return;
        }
        let status = self.health();
        let Some(above) = &mut self.above else { return };
        if !above.ready {
            let pid = std::process::id();
            above.ready = above.manager.tell(&format!("READY=1\nMAINPID={pid}\nSTATUS={status}"));
            above.status.clone_from(&status);
        }
        if let Some(period) = above.period().filter(|_| now >= above.due) {
            above.manager.tell("WATCHDOG=1");
            above.due = now + period;
        }
        if above.status != status && above.manager.tell(&format!("STATUS={status}")) {
            above.status = status;
        }
    }

    /// Tells it that we stop.
    pub(super) fn tell_above_stopping(&self) {
        if let Some(above) = &self.above {
            above.manager.tell("STOPPING=1\nSTATUS=stopping");
        }
    }

    /// One line of health: how many are up, and who is not.
    fn health(&self) -> String {
        let state = |slot: &SlotId| self.group.stage(*slot).state();
        let wanted =
            |slot: &SlotId| self.group.goal(*slot) == Goal::Run && state(slot) != State::Done;
        let wanted: Vec<_> = self.group.slots().filter(wanted).collect();
        let (up, rest): (Vec<_>, Vec<_>) = wanted.iter().partition(|slot| state(slot) == State::Up);
        let name = |slot: &&SlotId| self.children.get(slot.index()).map_or("", Child::name);
        let mut rest = rest.iter().map(|slot| format!("{} is {}", name(slot), state(slot)));
        let first: Vec<_> = rest.by_ref().take(3).collect();
        let more = rest.count();
        let mut text = format!("{} of {} up", up.len(), wanted.len());
        if !first.is_empty() {
            text = format!("{text}: {}", first.join(", "));
        }
        if more > 0 {
            text = format!("{text} and {more} more");
        }
        text
    }
}
