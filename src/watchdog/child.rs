//! What the watchdog holds for one slot: the service, and the process that runs it now.

use osps_heart::ids::{Generation, SlotId};

use crate::policy::group::Change;
use crate::policy::verdict::Evidence;
use crate::service::Service;
use crate::sys::process::Process;
use crate::view::log::Who;

/// One slot's service and its present process.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) service: Service,
    /// The generation that was started last.
    pub(super) generation: Generation,
    /// The process, until its death is confirmed.
    pub(super) process: Option<Process>,
    /// Evidence taken when the server became late.
    pub(super) before: Option<Evidence>,
    /// The newest evidence.
    pub(super) after: Option<Evidence>,
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
            generation: Generation::default(),
            process: None,
            before: None,
            after: None,
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

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The generation that lives in the slot, by our own table.
    pub(super) fn live(&self) -> Option<Generation> {
        self.process.as_ref().map(|_| self.generation)
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who { name: self.name(), generation: self.generation, pid: self.pid().unwrap_or(0) }
    }
}
