//! Probers: who beats for a service with a `file` or `probe` heart, one process each.
//!
//! A prober is judged by a heart of its own, in a line at the end of the table that the watchdog
//! marks as its slot's. While that is silent, or nobody is there to probe, the service's silence is
//! no evidence against it. A prober that died or hangs is ended with everything in its session, and
//! another one starts after a pause. It lives as long as the instance. Tested in tests/probing.rs.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::pulse::{Limits, Pulse, Reading, Turn};
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::{HeartSource, env};
use rustix::process::Signal;

use super::kin::DYING;
use super::{KIN, Watchdog};
use crate::sys::poll::{Interest, pause};
use crate::sys::process::{self, Process, Report};
use crate::sys::procfs;

/// Silence of a prober after which it is replaced; it turns ten times a second. Before its first
/// beat it has its launch to do.
const LIMITS: Limits = Limits { hang: Duration::from_secs(2), start: Duration::from_secs(5) };
/// Bounds of the silence of a prober after which its service is not judged: half of the service's
/// limit, so that the prober is found silent before the service is.
const SILENT: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(1));
/// Bounds of the pause between two probers, doubling while they do not last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The place of a service's prober.
#[derive(Debug)]
pub(super) struct Probing {
    line: u16,
    /// What is looked at.
    target: OsString,
    prober: Option<Prober>,
    /// When the next one may start, and the pause after that.
    again: (Monotonic, Duration),
}

/// A prober that was started.
#[derive(Debug)]
struct Prober {
    process: Process,
    /// Its gate: dropped, it is told to leave.
    report: Report,
    pulse: Pulse,
    since: Monotonic,
    /// It hangs and was killed.
    ended: bool,
}

impl Probing {
    /// In this line.
    pub(super) fn new(line: u16, target: OsString, now: Monotonic) -> Probing {
        Probing { line, target, prober: None, again: (now, AGAIN.0) }
    }

    pub(super) fn line(&self) -> u16 {
        self.line
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.prober.as_ref().map(|prober| prober.process.pid())
    }

    /// Whether nobody can say how the service is.
    pub(super) fn is_silent(&self, limit: Duration, now: Monotonic) -> bool {
        let silent = (limit / 2).clamp(SILENT.0, SILENT.1);
        self.prober.as_ref().is_none_or(|prober| {
            let pulse = &prober.pulse;
            !pulse.has_beaten() || now.since(pulse.last_beat()) > silent
        })
    }
}

impl Watchdog {
    /// Gives each service that needs one its prober's line, from the end of the table.
    pub(super) fn place_probers(&mut self, now: Monotonic) {
        for slot in self.group.slots() {
            self.place_prober(slot, now);
        }
    }

    /// Gives a service its prober's line, if it needs one.
    pub(super) fn place_prober(&mut self, slot: SlotId, now: Monotonic) {
        let line = self.segment.hearts().len() - 1 - slot.index();
        let child = &mut self.children[slot.index()];
        let heart = &child.service.manner.heart;
        if matches!(heart.source, HeartSource::File | HeartSource::Probe) {
            self.segment.hearts()[line].unclaim(slot);
            let text = heart.text.clone();
            child.probing = u16::try_from(line).ok().map(|line| Probing::new(line, text, now));
        }
    }

    /// The slot's service was exchanged: another prober, if it looks at something else.
    pub(super) fn replace_prober(&mut self, slot: SlotId, now: Monotonic) {
        let child = &self.children[slot.index()];
        let text = &child.service.manner.heart.text;
        if child.probing.as_ref().is_none_or(|probing| probing.target != *text) {
            self.end_prober(slot);
            self.place_prober(slot, now);
        }
    }

    /// Ends the prober of one service.
    pub(super) fn end_prober(&mut self, slot: SlotId) {
        let Some(probing) = self.children[slot.index()].probing.take() else { return };
        if let Some(prober) = probing.prober {
            self.poll.remove(&prober.process);
            end_session(&prober.process);
            self.unreaped.push(prober.process);
        }
    }

    /// Once a turn: hears the probers, replaces those that died or hang.
    pub(super) fn gather_probers(&mut self) {
        let turn = self.group.turn();
        for slot in self.group.slots() {
            let child = &mut self.children[slot.index()];
            let Some(probing) = &mut child.probing else { continue };
            let line = &self.segment.hearts()[usize::from(probing.line)];
            let Some(prober) = &mut probing.prober else {
                if turn.now >= probing.again.0 && !self.group.is_ending() {
                    self.start_prober(slot, turn.now);
                }
                continue;
            };
            if prober.process.is_dead() {
                self.bury_prober(slot, turn.now);
                continue;
            }
            let seen = line.sample();
            let turn = Turn { read: self.clock.now(), ..turn };
            if prober.pulse.observe(&turn, seen) == Reading::Overdue && !prober.ended {
                let pid = prober.process.pid();
                prober.ended = true;
                log::warn!(
                    "{}: its prober (pid {pid}) hangs: replacing it; nobody is judged meanwhile",
                    child.service.name
                );
                end_session(&prober.process);
            }
        }
    }

    fn start_prober(&mut self, slot: SlotId, now: Monotonic) {
        let child = &mut self.children[slot.index()];
        let Some(probing) = &mut child.probing else { return };
        let (pause, line) = (probing.again.1, probing.line);
        let args: Vec<OsString> = vec![
            "__probe".into(),
            slot.to_string().into(),
            line.to_string().into(),
            child.service.manner.heart.text.clone(),
        ];
        let descriptors = self.descriptors.map(|limit| limit.to_string());
        let descriptors = descriptors.as_ref().map(|limit| (env::DESCRIPTORS, limit.as_ref()));
        let env: Vec<_> = descriptors.into_iter().collect();
        probing.again = (now + pause, (pause * 2).min(AGAIN.1));
        let (process, gate) = match process::launch(&args, &env) {
            Ok(launched) => launched,
            Err(failed) => {
                log::error!("{}: its prober: {failed}", child.service.name);
                return;
            }
        };
        if let Err(failed) = self.poll.add(&process, KIN, Interest::READ) {
            log::debug!("{failed}; its death is seen within a second only");
        }
        let (report, sent) = gate.open(&[self.segment_file.as_fd()]);
        if let Err(failed) = sent {
            // It died already: its pidfd tells.
            log::debug!("{}: its prober: {failed}", child.service.name);
        }
        log::debug!("{}: its prober is pid {}", child.service.name, process.pid());
        let count = self.segment.hearts()[usize::from(line)].sample().count;
        let pulse = Pulse::new(LIMITS, now, count);
        probing.prober = Some(Prober { process, report, pulse, since: now, ended: false });
    }

    fn bury_prober(&mut self, slot: SlotId, now: Monotonic) {
        let child = &mut self.children[slot.index()];
        let Some(probing) = &mut child.probing else { return };
        let Some(prober) = probing.prober.take() else { return };
        self.poll.remove(&prober.process);
        end_session(&prober.process);
        let death = prober.process.reap().map(|death| death.to_string());
        if now.since(prober.since) >= AGAIN.1 {
            probing.again = (now, AGAIN.0);
        }
        let why = prober.report.read().or(death).unwrap_or_default();
        let pid = prober.process.pid();
        log::warn!(
            "{}: its prober (pid {pid}) is gone ({why}): starting another; nobody is judged \
             meanwhile",
            child.service.name
        );
    }

    /// Ends all probers: nothing of osps stays.
    pub(super) fn end_probers(&mut self) {
        let probers = self.children.iter_mut().filter_map(|child| child.probing.take());
        for prober in probers.filter_map(|probing| probing.prober) {
            end_session(&prober.process);
            let until = self.clock.now() + DYING;
            while !prober.process.is_dead() && self.clock.now() < until {
                pause();
            }
            end_session(&prober.process);
            let _ = prober.process.reap();
        }
    }
}

/// Kills a prober and what it runs: nobody else is in its session. To be called before the prober
/// is reaped: its zombie keeps the number of its group and session from being reused.
pub(super) fn end_session(prober: &Process) {
    if let Err(failed) = prober.kill() {
        log::error!("{failed}");
    }
    for stat in procfs::processes().iter().filter(|stat| stat.session == prober.pid()) {
        if let Some(process) = Process::find(stat.pid, stat.start_time) {
            let _ = process.signal(Signal::KILL);
        }
    }
}
