//! The thread that looks: four times a second at all servers, and once a second closer at the one
//! that is selected. Whatever it reads may take its time; the screen does not wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::segment::gaps::{Gaps, OWN};
use osps_heart::segment::{Segment, text};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic};

use super::bell::Bell;
use crate::instance::place::Place;
use crate::policy::advice::quantile;
use crate::sys::procfs::{self, Task};
use crate::view::log;
use crate::view::looker::{Looker, Sight};
use crate::view::snapshot::{Server, Snapshot};

/// Time between two looks.
pub(super) const PERIOD: Duration = Duration::from_millis(250);
/// Time between two closer looks: at some files in `/proc` for each thread.
const CLOSER: Duration = Duration::from_secs(1);
/// Happenings that are shown of one server, at most.
const HAPPENINGS: usize = 200;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Look closer at this server, at once, or at none.
    Closer(Option<String>),
}

/// One look.
#[derive(Debug)]
pub(super) struct Look {
    pub at: Monotonic,
    pub sight: Sight,
    /// The closer look, if there was one this time.
    pub closer: Option<Closer>,
}

/// What a closer look saw of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Closer {
    /// Its name.
    pub server: String,
    /// What is known of its hearts, its own first.
    pub hearts: Vec<Heart>,
    /// Its threads, the leader first, then by what they do.
    pub threads: Vec<Thread>,
    /// How many there are.
    pub thread_count: usize,
    /// What happened to it, newest first.
    pub happenings: Vec<(Monotonic, String)>,
    /// Its last report.
    pub report: Option<Report>,
}

/// The gaps of a heart so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heart {
    /// Its name; `None` = the server's own.
    pub name: Option<String>,
    pub limit: Duration,
    /// What 99.9 % of them stay below.
    pub usual: Duration,
    /// All of them, if any were counted.
    pub gaps: Gaps,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub task: Task,
    /// Thousandths of a processor that it used since the last closer look.
    pub load: Option<u64>,
}

/// A hang report, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub number: u64,
    pub sentence: String,
}

/// What the thread keeps from look to look.
struct Eye {
    looker: Looker,
    selected: Option<String>,
    /// When it looked closer last.
    closer: Option<Monotonic>,
    /// Processor times of threads then.
    cpu: HashMap<u32, Duration>,
}

/// Looks until nobody listens any more.
pub(super) fn run(
    place: &Place,
    orders: &Receiver<Order>,
    looks: &SyncSender<Look>,
    bell: &Arc<Bell>,
) {
    let looker = Looker::new(&place.path);
    let mut eye = Eye { looker, selected: None, closer: None, cpu: HashMap::new() };
    let mut due = SystemClock.now();
    loop {
        let now = SystemClock.now();
        if now >= due {
            due = now + PERIOD;
        }
        match looks.try_send(eye.look(now)) {
            Ok(()) => bell.ring(),
            // It has enough to draw.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return,
        }
        match orders.recv_timeout(due.since(SystemClock.now())) {
            Ok(Order::Closer(selected)) => eye.select(selected),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Eye {
    fn select(&mut self, selected: Option<String>) {
        if selected != self.selected {
            self.selected = selected;
            self.closer = None;
            self.cpu.clear();
        }
    }

    fn look(&mut self, now: Monotonic) -> Look {
        let sight = self.looker.look(now);
        let is_due = self.closer.is_none_or(|last| now >= last + CLOSER);
        let mut closer = None;
        if let (Sight::There(snapshot), Some(name), true) = (&sight, &self.selected, is_due)
            && let Some(server) = snapshot.servers.iter().find(|one| one.name == *name)
            && let Some(segment) = self.looker.segment()
        {
            let span = self.closer.map(|last| now.since(last));
            closer = Some(Closer {
                server: name.clone(),
                hearts: hearts(segment, server),
                happenings: happenings(segment, server),
                report: None,
                ..threads(snapshot, server, &mut self.cpu, span)
            });
            self.closer = Some(now);
        }
        Look { at: now, sight, closer }
    }
}

/// The gaps of its hearts: its own, and those that have a name.
fn hearts(segment: &Segment, server: &Server) -> Vec<Heart> {
    let all = segment.gaps().iter().filter(|cells| cells.is_of(&server.name));
    let mut found: Vec<_> = all
        .filter_map(|cells| {
            let gaps = cells.read().ok()?;
            let name = (!cells.is_of_heart(OWN)).then(|| text::load(&cells.heart));
            Some(Heart { name, limit: gaps.limit, usual: quantile(&gaps, 999), gaps })
        })
        .collect();
    if !found.iter().any(|heart| heart.name.is_none()) {
        let line = &segment.hearts()[server.slot];
        let limit = Duration::from_nanos(line.limit_ns.load(Ordering::Relaxed));
        let gaps = Gaps {
            buckets: [0; _],
            worst: Duration::ZERO,
            near_misses: 0,
            limit,
            since: Monotonic(0),
            last: Monotonic(0),
        };
        found.push(Heart { name: None, limit, usual: Duration::ZERO, gaps });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// What happened to a server, newest first.
fn happenings(segment: &Segment, server: &Server) -> Vec<(Monotonic, String)> {
    let is_its = |at: Option<SlotId>| at.is_some_and(|at| at.index() == server.slot);
    let records = segment.events().latest(usize::MAX);
    // A slot may have been another server's before.
    let its =
        records.iter().rev().filter(|one| is_its(one.slot) && one.name == (&*server.name).into());
    its.take(HAPPENINGS).map(|record| (record.time, without_name(&log::line(record)))).collect()
}

/// A line of the log, where it is plain whom it is about.
fn without_name(line: &str) -> String {
    line.split_once(": ").map_or(line, |(_, what)| what).to_owned()
}

/// The threads of a server, as far as its pid means anything here.
fn threads(
    snapshot: &Snapshot,
    server: &Server,
    cpu: &mut HashMap<u32, Duration>,
    span: Option<Duration>,
) -> Closer {
    let Some(leader) = server.pid.filter(|_| !snapshot.watchdog.elsewhere) else {
        cpu.clear();
        return Closer::default();
    };
    // Behind a wrapper the program itself is worth looking at: it is of the leader's session.
    let beater = server.heart_pid.filter(|pid| {
        *pid != leader && procfs::stat(*pid).is_some_and(|stat| stat.session == leader)
    });
    let (tasks, thread_count) = procfs::tasks(beater.unwrap_or(leader));
    let mut threads: Vec<_> = tasks
        .into_iter()
        .map(|task| {
            let before = cpu.get(&task.tid).copied();
            let load = before.zip(span).and_then(|(before, span)| {
                let used = task.cpu.saturating_sub(before).as_micros() * 1000;
                u64::try_from(used / span.as_micros().max(1)).ok()
            });
            Thread { task, load }
        })
        .collect();
    *cpu = threads.iter().map(|thread| (thread.task.tid, thread.task.cpu)).collect();
    if let [_, others @ ..] = &mut *threads {
        others.sort_by_key(|thread| std::cmp::Reverse(thread.load));
    }
    Closer { threads, thread_count, ..Closer::default() }
}
