//! What the watchdog holds for one slot: the service, and the process that runs it now.

use std::collections::BTreeSet;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::Death;
use osps_heart::segment::slot::Identity;
use osps_heart::words::HeartSource;

use super::claimant::Claimant;
use super::kin::LeftBehind;
use super::notify::Hearing;
use super::probing::Probing;
use super::reports::Recent;
use crate::policy::group::Change;

use crate::policy::verdict::Evidence;
use crate::service::{Address, Service};
use crate::sys::process::{Process, Report};
use crate::sys::procfs::{OomCounts, OomKills};
use crate::view::log::Who;

/// One slot's service and its present process.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) service: Service,
    /// The pid of its process, if that was taken over: it is no child of ours, nor is its kin.
    pub(super) adopted: Option<u32>,
    /// Where its service listens by sockets that we could not have: as it was asked, and as it is.
    pub(super) elsewhere: Vec<(Address, Address)>,
    /// What a reload brought; takes its place when its process is gone.
    pub(super) next: Option<Service>,
    /// The generation that was started last.
    pub(super) generation: Generation,
    /// What its trampoline says if it cannot become the server.
    pub(super) report: Option<Report>,
    /// The process, until its death is confirmed.
    pub(super) process: Option<Process>,
    /// Who beats in the slot's line.
    pub(super) claimant: Claimant,
    /// Lines of further hearts that its processes have claimed.
    pub(super) further: BTreeSet<u16>,
    /// What it says over its notify socket, if it has one.
    pub(super) hearing: Option<Hearing>,
    /// Who beats for it from outside.
    pub(super) probing: Option<Probing>,
    /// Kills for want of memory where it lives, as of the last look.
    pub(super) oom_kills: Option<OomKills>,
    /// What its dead leader left behind.
    pub(super) left: LeftBehind,
    /// Evidence taken when the server became late.
    pub(super) before: Option<Evidence>,
    /// The newest evidence.
    pub(super) after: Option<Evidence>,
    /// How long its own heart was silent lately.
    pub(super) recent: Recent,
    /// How its last process ended; `None` = none did yet.
    pub(super) ended: Option<Death>,
    /// The start that is being performed: it is told with the pid.
    pub(super) starting: Option<Change>,
    /// The count of its heart before anybody ran here; `None` = what follows from it was told.
    pub(super) unheard: Option<u64>,
}

impl Child {
    /// For a heart that stands at this count.
    pub(super) fn new(service: Service, count: u64) -> Child {
        Child {
            service,
            adopted: None,
            elsewhere: Vec::new(),
            next: None,
            generation: Generation::default(),
            report: None,
            process: None,
            claimant: Claimant::default(),
            further: BTreeSet::new(),
            hearing: None,
            probing: None,
            left: LeftBehind::default(),
            oom_kills: None,
            before: None,
            after: None,
            recent: Recent::default(),
            ended: None,
            starting: None,
            unheard: Some(count),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.service.name
    }

    /// Wakes the server up, so that it looks at the segment now.
    pub(super) fn wake(&self, slot: SlotId) {
        let Some(wake) = &self.service.wake else { return };
        if let Err(failed) = wake.send(slot, self.generation) {
            log::debug!("{}: {failed}", self.name());
        }
    }

    /// Who runs here.
    pub(super) fn identity(&self) -> Option<Identity> {
        let process = self.process.as_ref()?;
        let (pid, start_time) = (process.pid(), process.start_time());
        Some(Identity { pid, start_time, generation: self.generation })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its processes that are children of ours by launch: the leader and its prober.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.pid().into_iter().chain(self.probing.as_ref().and_then(Probing::pid))
    }

    /// The process whose silence is to be explained: who beats, or says that it does the work, if
    /// that is not the leader.
    pub(super) fn beater(&self) -> Option<u32> {
        let claimant = self.claimant.process.as_ref().map(Process::pid);
        let main = || self.hearing.as_ref().and_then(Hearing::main_pid);
        claimant.or_else(main).or(self.pid())
    }

    /// Who beats for it, as far as that is known: `auto` becomes what beat first.
    pub(super) fn source(&self, watched: bool) -> HeartSource {
        match self.service.manner.heart.source {
            HeartSource::Auto if watched => {
                let notify = self.hearing.as_ref().is_some_and(|hearing| hearing.beats);
                if notify { HeartSource::Notify } else { HeartSource::Memory }
            }
            source => source,
        }
    }

    /// Whether beats come from inside an event loop that nobody taught to beat.
    pub(super) fn is_looped(&self) -> bool {
        self.service.manner.heart.is_looped()
    }

    /// Looks how many kills for want of memory there were where it lives.
    pub(super) fn count_oom_kills(&mut self, counts: &mut OomCounts) {
        self.oom_kills = self.pid().and_then(|pid| OomKills::of(pid, counts));
    }

    /// The same, if it has not moved.
    pub(super) fn recount_oom_kills(&mut self, counts: &mut OomCounts) {
        self.oom_kills = self.oom_kills.take().and_then(|kills| kills.again(counts));
    }

    /// A death by SIGKILL, or by a shell that tells one of its child, is told as one for want of
    /// memory if there was such a kill since the last look.
    pub(super) fn explained(&self, death: Death) -> Death {
        let may_be = matches!(death, Death::Killed(libc::SIGKILL) | Death::Exited(137));
        let grew = may_be && self.oom_kills.as_ref().is_some_and(OomKills::grew);
        if grew { Death::OutOfMemory } else { death }
    }

    /// Who of this slot does not die, if somebody does not.
    pub(super) fn undying(&self) -> Option<String> {
        let leader = self.pid().map(|pid| format!("pid {pid} ({})", self.name()));
        leader.or_else(|| (!self.left.is_empty()).then(|| self.left.names()))
    }

    /// The generation that lives in the slot, by our own table.
    pub(super) fn live(&self) -> Option<Generation> {
        self.process.as_ref().map(|_| self.generation)
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who { name: self.name(), generation: self.generation, pid: self.pid().unwrap_or(0) }
    }
}
