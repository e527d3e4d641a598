//! One instance of osps, from its start through its rounds to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use osps::sys::process::Process;
use osps_heart::ids::Generation;
use osps_heart::segment::{Record, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::State;

use super::clients::Board;
use super::common::{Osps, Signal, process_in, process_of};
use super::script::Strike;
use super::strikes::Toll;
use super::tally::Tally;

/// One instance of osps, from its start to its end.
pub struct Life<'a> {
    pub osps: Osps,
    pub segment: &'a Segment,
    pub board: &'a Board,
    pub tally: &'a mut Tally,
    /// Descriptors by slot, `None` = the watchdog.
    pub descriptors: BTreeMap<Option<usize>, usize>,
    pub resident: u64,
    /// The longest pause before a restart so far.
    pub pause: Duration,
    /// The last event that was judged, and what the events tell so far: slots with a process, and
    /// the newest generation.
    pub judged: Option<Record>,
    pub living: BTreeSet<usize>,
    pub newest: Generation,
}

impl Life<'_> {
    pub fn slots(&self) -> usize {
        self.segment.slots().len()
    }

    pub fn process(&self, slot: usize) -> Option<Process> {
        process_in(self.segment, slot)
    }

    pub fn watchdog(&self) -> Option<Process> {
        process_of(self.osps.watchdog_pid())
    }

    pub fn address(&self, slot: usize) -> SocketAddr {
        self.board.addresses.lock().unwrap()[slot]
    }

    /// Read from the mapping: the file may not be opened while the next watchdog takes it over.
    pub fn state(&self, slot: usize) -> Option<State> {
        State::from_code(self.segment.slots()[slot].server.state.load(Ordering::Relaxed))
    }

    pub fn generation(&self, slot: usize) -> u32 {
        self.segment.slots()[slot].server.current_generation().0
    }

    pub fn play(&mut self, round: &[Strike]) {
        let mut toll = Toll::new(round.len(), self.slots());
        self.strike_all(round, &mut toll);
        loop {
            let took = self.recover(&mut toll);
            if let ([strike], 1) = (round, toll.strikes) {
                self.tally.recovered(strike.fault, took);
            }
            self.judge(&toll);
            if self.rest().is_ok() {
                return;
            }
            // A host that starves a server for too long gets it replaced, also now.
            toll = Toll::new(0, self.slots());
        }
    }

    /// An orderly stop leaves nothing at all.
    pub fn end(mut self) {
        let _rest = self.board.gate.write().unwrap();
        let servers = self.osps.servers();
        self.osps.signal_watchdog(Signal::TERM);
        let status = self.osps.wait_exit();
        assert_eq!(status.code(), Some(0));
        assert!(servers.iter().all(Process::is_dead), "a server outlives a stop");
        let run_dir = self.osps.run_dir();
        assert!(!run_dir.exists(), "{} stays", run_dir.display());
        assert_eq!(family(run_dir), BTreeSet::new(), "processes stay");
    }
}

/// Processes that osps started for this directory, wherever they stand in the tree by now.
pub fn family(run_dir: &Path) -> BTreeSet<u32> {
    let mark = format!("OSPS_RUN_DIR={}", run_dir.display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    })
    .collect()
}
