//! What the service manager above us is told: that we run, how all are, that we turn, that we stop.
//!
//! `WATCHDOG=1` comes from the turn itself, so a manager with `WatchdogSec` finds a watchdog that
//! hangs as the watchdog finds its servers. One with a store of descriptors keeps the listening
//! sockets, too: where everybody died at once, it hands them to the next watchdog, and clients only
//! wait. Tested in tests/above.rs.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::State;

use super::{Child, Watchdog};
use crate::policy::group::Goal;
use crate::service::{Address, Kept, Listener};
use crate::sys::manager::Manager;

/// Who is above us, and what it was told last.
#[derive(Debug)]
pub(super) struct Above {
    manager: Manager,
    status: String,
    /// When it has to hear that we turn.
    due: Monotonic,
    ready: bool,
    /// What it keeps.
    stored: Vec<Stored>,
}

/// A listening socket that the manager keeps. It must not be held here as well: when nobody listens
/// on it any more, it has to close.
#[derive(Debug)]
struct Stored {
    listener: Weak<Listener>,
    name: String,
    /// It has a file, which goes when osps ends: nobody would find the way to the socket then.
    has_path: bool,
}

impl Stored {
    fn is(&self, listener: &Arc<Listener>) -> bool {
        // What is pointed at so is no other one's place as long as this is here.
        self.listener.as_ptr() == Arc::as_ptr(listener)
    }
}

/// What the socket of an address is called in a manager's store: printable, without a colon.
fn store_name(address: &Address) -> String {
    /// Longest name that is taken.
    const MOST: usize = 255;
    let mut name = String::new();
    for byte in address.to_string().bytes() {
        match byte {
            b'!'..=b'~' if !b":%".contains(&byte) => name.push(char::from(byte)),
            _ => drop(write!(name, "%{byte:02X}")),
        }
    }
    name.truncate(MOST);
    name
}

impl Above {
    /// The one that started us. What it keeps for nobody it need not keep any longer.
    pub(super) fn find(unwanted: &[Kept]) -> Option<Above> {
        let manager = Manager::from_env();
        let manager =
            manager.and_then(|found| found.inspect_err(|failed| log::warn!("{failed}")).ok());
        for kept in unwanted {
            let what = match &kept.address {
                Some(address) => format!("a socket on {address} that no service has"),
                None => "something that is no listening socket".to_owned(),
            };
            log::warn!("the service manager kept {what} ({}): closing it", Shown(&*kept.name));
            if let Some(manager) = &manager {
                manager.forget(&kept.name);
            }
        }
        let (status, due) = (String::new(), SystemClock.now());
        Some(Above { manager: manager?, status, due, ready: false, stored: Vec::new() })
    }

    /// Lets it keep these and no others; what it does not take now it gets in the next turn.
    fn store(&mut self, held: &[&Arc<Listener>]) {
        let is_held = |stored: &Stored| held.iter().any(|listener| stored.is(listener));
        while let Some(place) = self.stored.iter().position(|stored| !is_held(stored)) {
            if !self.manager.forget(&self.stored[place].name) {
                return;
            }
            self.stored.swap_remove(place);
        }
        for listener in held {
            if self.stored.iter().any(|stored| stored.is(listener)) {
                continue;
            }
            let address = listener.address();
            let name = store_name(&address);
            if !self.manager.keep(&name, listener.as_fd()) {
                return;
            }
            let (listener, has_path) = (Arc::downgrade(listener), address.path().is_some());
            self.stored.push(Stored { listener, name, has_path });
        }
    }

    /// The end: what has a file loses it now, and `all` else is to be closed as well.
    pub(super) fn let_go(&self, all: bool) {
        for stored in self.stored.iter().filter(|stored| all || stored.has_path) {
            self.manager.forget(&stored.name);
        }
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
        self.store_above();
    }

    /// Lets it keep the sockets on which somebody listens, if it has a store.
    pub(super) fn store_above(&mut self) {
        let Some(above) = self.above.as_mut().filter(|above| above.manager.stores) else { return };
        let mut held: Vec<&Arc<Listener>> = Vec::new();
        for child in &self.children {
            let services = [&child.service].into_iter().chain(&child.next);
            for socket in services.flat_map(|service| &service.sockets) {
                // Instances share theirs.
                if !held.iter().any(|known| Arc::ptr_eq(known, socket)) {
                    held.push(socket);
                }
            }
        }
        above.store(&held);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_name_of_its_own_that_a_manager_takes() {
        let path = |text: &str| Address::Unix(text.into());
        for (address, expected) in [
            (Address::Tcp(([127, 0, 0, 1], 80).into()), "127.0.0.1%3A80"),
            (Address::Tcp(([0_u16, 0, 0, 0, 0, 0, 0, 1], 80).into()), "[%3A%3A1]%3A80"),
            (path("/run/a b.sock"), "unix%3A/run/a%20b.sock"),
            (path("/run/a%20b.sock"), "unix%3A/run/a%2520b.sock"),
            (path("/run/\u{e9}"), "unix%3A/run/%C3%A9"),
        ] {
            assert_eq!(store_name(&address), expected);
        }
        assert_eq!(store_name(&path(&"/\u{e9}".repeat(60))).len(), 255);
    }
}
