//! One instance of osps, from its start through its rounds to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use osps::sys::process::Process;
use osps_heart::ids::Generation;
use osps_heart::segment::{Record, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::State;

use super::clients::{Board, load};
use super::common::{Osps, Signal, process_in, process_of};
use super::script::Strike;
use super::strikes::Toll;
use super::tally::Tally;
use super::world::World;

/// One instance of osps, from its start to its end.
pub struct Life<'a> {
    pub world: World,
    /// What of the file of services is changed.
    pub variant: u64,
    pub osps: Osps,
    pub segment: &'a Segment,
    pub board: &'a Board,
    pub tally: &'a mut Tally,
    /// Descriptors by slot, `None` = the watchdog.
    pub descriptors: BTreeMap<Option<usize>, usize>,
    pub resident: u64,
    /// Its watchdog is not the first any more.
    pub taken_over: bool,
    /// The longest pause before a restart so far.
    pub pause: Duration,
    /// The last event that was judged, and what the events tell so far: slots with a process, and
    /// the newest generation.
    pub judged: Option<Record>,
    pub living: BTreeSet<usize>,
    pub newest: Generation,
}

impl Life<'_> {
    /// Those that are struck; services may have room for more.
    pub fn slots(&self) -> usize {
        self.world.slots()
    }

    pub fn process(&self, slot: usize) -> Option<Process> {
        process_in(self.segment, slot)
    }

    pub fn watchdog(&self) -> Option<Process> {
        process_of(self.osps.watchdog_pid())
    }

    /// Whether the segment names the present watchdog.
    pub fn is_named(&self) -> bool {
        load(&self.segment.header().watchdog_pid) == u64::from(self.osps.watchdog_pid())
    }

    pub fn address(&self, slot: usize) -> SocketAddr {
        self.board.addresses.lock().unwrap()[&slot]
    }

    /// Read from the mapping: the file may not be opened while the next watchdog takes it over.
    pub fn state(&self, slot: usize) -> Option<State> {
        State::from_code(self.segment.slots()[slot].server.state.load(Ordering::Relaxed))
    }

    pub fn generation(&self, slot: usize) -> u32 {
        self.segment.slots()[slot].server.current_generation().0
    }

    pub fn play(&mut self, round: &[Strike]) {
        let mut toll = Toll::new(self.world, round.len());
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
            toll = Toll::new(self.world, 0);
        }
    }

    /// An orderly stop leaves nothing at all.
    pub fn end(mut self) {
        let _rest = self.board.gate.write().unwrap();
        let servers: Vec<_> = (0..self.slots()).filter_map(|slot| self.process(slot)).collect();
        self.osps.signal_watchdog(Signal::TERM);
        let status = self.osps.wait_exit();
        assert_eq!(status.code(), Some(0));
        assert!(servers.iter().all(Process::is_dead), "a server outlives a stop");
        let run_dir = self.osps.run_dir();
        assert!(!run_dir.exists(), "{} stays", run_dir.display());
        assert_eq!(family(run_dir), BTreeMap::new(), "processes stay");
        // "unwatched for 9.9ms"
        let log = self.osps.log();
        let spans = log.split("unwatched for ").skip(1).filter_map(|rest| rest.lines().next());
        self.tally.upgrades.extend(spans.filter_map(short));
    }
}

/// A duration as it is told.
fn short(text: &str) -> Option<Duration> {
    let of = |unit: &str| text.strip_suffix(unit)?.parse::<f64>().ok();
    let seconds = of("us").map(|us| us / 1e6).or_else(|| of("ms").map(|ms| ms / 1e3));
    Some(Duration::from_secs_f64(seconds.or_else(|| of("s"))?))
}

/// Processes that osps started for this directory, wherever they stand in the tree by now, with the
/// generation that they were started as.
pub fn family(run_dir: &Path) -> BTreeMap<u32, Option<u32>> {
    let mark = format!("OSPS_RUN_DIR={}", run_dir.display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        environment.split('\0').any(|variable| variable == mark).then_some(())?;
        let mut variables = environment.split('\0');
        let number = variables.find_map(|variable| variable.strip_prefix("OSPS_GENERATION="));
        Some((pid, number.and_then(|number| number.parse().ok())))
    })
    .collect()
}

/// Those who were told on their command line to work here: the watchdog, and nobody else at rest.
pub fn watchdogs(run_dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == run_dir.as_os_str().as_bytes())
    })
    .collect()
}
