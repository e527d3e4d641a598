//! What programs say over their notify sockets, put into effect: the watchdog beats in their name.
//!
//! A datagram counts if its sender is the slot's leader or of its session; a stranger's is counted
//! and dropped. `READY=1` is the first beat of a `notify` heart, and what comes before it is none.
//! Where the program itself has claimed the line, the line is its own. Tested in tests/notify.rs.

use std::os::fd::AsFd;

use humantime::format_duration as shown;
use osps_heart::ids::SlotId;
use osps_heart::pulse::{LIMIT_MAX, LIMIT_MIN, is_limit};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, nanos};
use osps_heart::words::HeartSource;

use super::{NOTIFY, Watchdog};
use crate::instance::claim::looks;
use crate::instance::outside;
use crate::instance::place::notify_name;
use crate::policy::group::Input;
use crate::policy::lifecycle::Stage;
use crate::sys::notify::{Notify, Said};
use crate::sys::poll::Interest;
use crate::sys::process::Process;
use crate::sys::procfs;

/// Most datagrams of one service in one turn: a flood must not hold up the others.
const BATCH: usize = 64;

/// The process of this pid, if it is of the session that this leader made.
fn of_session(pid: u32, leader: Option<u32>) -> Option<Process> {
    let stat = procfs::stat(pid).filter(|stat| Some(stat.session) == leader)?;
    Process::find(pid, stat.start_time)
}

/// What a program that reloads is said to do, until it is ready again.
const RELOADING: &str = "reloading";

/// The notify socket of a service, and what was said over it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, told apart by name")]
pub(super) struct Hearing {
    pub(super) notify: Notify,
    /// `READY=1` came from this generation.
    ready: bool,
    /// Or it may have come while nobody listened: then what beats is ready.
    missed: bool,
    /// `WATCHDOG=1` came from this generation, and counted.
    pub(super) beats: bool,
    /// The process that does the work, as the leader's session says.
    main: Option<Process>,
    /// Datagrams that were dropped; the first is told.
    dropped: u64,
    /// Told once.
    told_store: bool,
}

impl Hearing {
    pub(super) fn new(notify: Notify) -> Hearing {
        let (ready, beats, main, dropped) = (false, false, None, 0);
        Hearing { notify, ready, missed: false, beats, main, dropped, told_store: false }
    }

    /// Of a program that said so to a watchdog that was killed.
    pub(super) fn go_on(&mut self, ready: bool, beats: bool, main: Option<Process>) {
        (self.ready, self.beats, self.main) = (ready, beats, main);
        self.missed = !ready;
    }

    /// Before a launch: what a predecessor sent is not its successor's.
    pub(super) fn begin(&mut self) {
        while self.notify.receive().is_some() {}
        (self.ready, self.beats, self.main) = (false, false, None);
        self.missed = false;
    }

    /// The process that does the work, if it said so and lives.
    pub(super) fn main_pid(&self) -> Option<u32> {
        self.main.as_ref().filter(|process| !process.is_dead()).map(Process::pid)
    }
}

impl Watchdog {
    /// Hears what a program says: once a turn.
    pub(super) fn gather_notifications(&mut self, slot: SlotId) {
        for _ in 0..BATCH {
            if !self.hear(slot) {
                break;
            }
            self.perform_all();
        }
    }

    /// Hears what a program whose silence is about to be judged says in this moment. What follows
    /// from it is performed after that.
    pub(super) fn gather_last_words(&mut self, slot: SlotId) {
        for _ in 0..BATCH {
            if !self.hear(slot) {
                break;
            }
        }
    }

    /// Hears one thing that a program says; `false` = it says nothing.
    pub(super) fn hear(&mut self, slot: SlotId) -> bool {
        let hearing = self.children[slot.index()].hearing.as_ref();
        let Some(heard) = hearing.and_then(|hearing| hearing.notify.receive()) else {
            return false;
        };
        match &heard.said {
            Some(said) if self.is_of(slot, heard.pid) => {
                for said in said {
                    self.heed(slot, said);
                }
            }
            said => self.drop_datagram(slot, heard.pid, said.is_none()),
        }
        true
    }

    /// Whether a sender is of the slot's present launch.
    fn is_of(&self, slot: SlotId, pid: u32) -> bool {
        let leader = self.children[slot.index()].pid();
        leader.is_some_and(|leader| {
            pid == leader || procfs::stat(pid).is_some_and(|stat| stat.session == leader)
        })
    }

    fn drop_datagram(&mut self, slot: SlotId, pid: u32, garbage: bool) {
        let child = &mut self.children[slot.index()];
        let name = &child.service.name;
        let Some(hearing) = &mut child.hearing else { return };
        hearing.dropped += 1;
        if hearing.dropped > 1 {
            log::debug!("{name}: dropped a notification of pid {pid} ({} so far)", hearing.dropped);
            return;
        }
        let why = if garbage {
            "that is no message (at most 4096 bytes of NAME=VALUE lines)"
        } else {
            "that is not of its session, or gone before it could be looked up (`systemd-notify` \
             waits unless told not to)"
        };
        log::warn!(
            "{name}: dropped a notification of pid {pid}, {why}; further ones are only counted"
        );
    }

    fn heed(&mut self, slot: SlotId, said: &Said) {
        let now = self.clock.now();
        let child = &mut self.children[slot.index()];
        let name = &child.service.name;
        let source = child.service.manner.heart.source;
        let patience = child.service.patience;
        let limit = child.service.limits.hang;
        let Some(hearing) = &mut child.hearing else { return };
        let line = &self.segment.hearts()[slot.index()];
        let for_it = line.claimed().pid == 0;
        match *said {
            Said::Ready => {
                hearing.ready = true;
                match source {
                    HeartSource::Notify if for_it => line.beat(now),
                    _ => self.step(now, Input::Ready { slot }),
                }
                if self.activity(slot) == RELOADING {
                    self.set_activity(slot, "");
                }
            }
            Said::Beat
                if for_it && (hearing.ready || hearing.missed || source == HeartSource::Auto) =>
            {
                hearing.beats = true;
                line.beat(now);
            }
            Said::Trigger => self.step(now, Input::Triggered { slot }),
            Said::Limit(hang) if is_limit(hang) => {
                log::info!("{name}: chose a limit of {} (WATCHDOG_USEC)", shown(hang));
                line.limit_ns.store(nanos(hang), Ordering::Relaxed);
                self.step(now, Input::Limited { slot, hang });
            }
            Said::Limit(hang) => log::warn!(
                "{name}: WATCHDOG_USEC={} is out of bounds ({} to {}): its limit stays {}",
                hang.as_micros(),
                shown(LIMIT_MIN),
                shown(LIMIT_MAX),
                shown(limit)
            ),
            Said::Extend(span) => {
                self.step(now, Input::Excused { slot, span: span.min(LIMIT_MAX) });
            }
            // It leaves by itself: as long as a stop may take, its silence is honest.
            Said::Stopping => {
                let span = patience.ask + patience.term;
                self.step(now, Input::Excused { slot, span });
                self.set_activity(slot, "stopping");
            }
            Said::Reloading => self.set_activity(slot, RELOADING),
            Said::Status(ref text) => self.set_activity(slot, text),
            Said::MainPid(pid) => {
                let leader = child.process.as_ref().map(Process::pid);
                let Some(process) = of_session(pid, leader) else {
                    log::warn!("{name}: MAINPID={pid} is no process of its session: not believed");
                    return;
                };
                hearing.main = Some(process).filter(|_| Some(pid) != leader);
                self.segment.slots()[slot.index()].server.set_main(match &hearing.main {
                    Some(main) => (main.pid(), main.start_time()),
                    None => (0, 0),
                });
            }
            Said::Errno(number) => {
                let why = std::io::Error::from_raw_os_error(number);
                log::warn!("{name}: says that it fails: {}", Shown(&*why.to_string()));
            }
            Said::Store if !hearing.told_store => {
                hearing.told_store = true;
                log::info!(
                    "{name}: wants descriptors kept (FDSTORE=1); osps closes them: a socket that \
                     shall outlive it belongs to --listen"
                );
            }
            // Before READY=1 the start timeout is what counts; a barrier is over when it was read.
            Said::Beat | Said::Barrier | Said::Store => {}
        }
    }

    /// The process that does the work, as a slot's program said to a watchdog that was killed.
    pub(super) fn main_as_recorded(&self, slot: SlotId) -> Option<Process> {
        let (pid, start_time) = self.segment.slots()[slot.index()].server.main()?;
        let process = of_session(pid, self.children[slot.index()].pid())?;
        (process.start_time() == start_time).then_some(process)
    }

    /// What a program is said to be doing.
    pub(super) fn activity(&self, slot: SlotId) -> String {
        self.segment.slots()[slot.index()].activity.text().unwrap_or_default()
    }

    /// Says what a program is doing, in its name.
    pub(super) fn set_activity(&self, slot: SlotId, text: &str) {
        self.segment.slots()[slot.index()].activity.set_text(text);
    }

    /// Once a turn: binds again the notify sockets whose names somebody removed. `all` = from the
    /// run directory, too; outside of it, that directory tells whether to look.
    pub(super) fn restore_sockets(&mut self, all: bool) {
        let outside = looks(outside::DIR.as_ref());
        if !all && self.outside_seen == outside {
            return;
        }
        for slot in self.group.slots() {
            self.restore_notify(slot);
        }
        self.outside_seen = looks(outside::DIR.as_ref());
    }

    /// Binds the notify socket of a service again, if somebody removed its name.
    pub(super) fn restore_notify(&mut self, slot: SlotId) {
        let child = &self.children[slot.index()];
        let name = notify_name(slot);
        let is_missing = |hearing: &Hearing| {
            let notify = &hearing.notify;
            let gone = notify.outside().is_some_and(|path| path.symlink_metadata().is_err());
            !notify.is_abstract() && (gone || !self.claim.has(&name))
        };
        let missing = child.hearing.as_ref().is_some_and(is_missing);
        if missing && self.group.stage(slot) != Stage::Failed {
            self.open_notify(slot);
        }
    }

    /// Binds the notify socket of a service whose heart may need one.
    pub(super) fn open_notify(&mut self, slot: SlotId) {
        let child = &mut self.children[slot.index()];
        let source = child.service.manner.heart.source;
        if !matches!(source, HeartSource::Notify | HeartSource::Auto)
            || !child.service.launch.is_program()
        {
            return;
        }
        let run_dir = &self.claim.run_dir;
        let name = notify_name(slot);
        if let Some(hearing) = &mut child.hearing {
            hearing.notify.give_way();
        }
        let outside = outside::path(run_dir, &name);
        let bound = Notify::bind(run_dir.as_fd(), run_dir.path(), &name, outside);
        let bound = bound.and_then(|notify| {
            if let Some(path) = notify.outside() {
                outside::record(run_dir, &name, path);
            }
            self.poll.add(&notify, NOTIFY + u64::from(slot.0), Interest::READ)?;
            Ok(notify)
        });
        match bound {
            Ok(notify) => match &mut child.hearing {
                Some(hearing) => hearing.notify = notify,
                None => child.hearing = Some(Hearing::new(notify)),
            },
            Err(failed) => log::error!("{}: {failed}: WATCHDOG=1 is not heard", child.name()),
        }
    }
}
