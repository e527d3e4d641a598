//! The thread that looks: four times a second at all servers, and once a second closer at the one
//! that is selected. Whatever it reads may take its time; the screen does not wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::segment::Segment;
use osps_heart::time::{Clock, Monotonic};

use super::bell::Bell;
use crate::instance::place::Place;
use crate::report::store::Store;
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
    /// Its threads, the leader first, then by what they do.
    pub threads: Vec<Thread>,
    /// How many there are.
    pub thread_count: usize,
    /// What happened to it, newest first.
    pub happenings: Vec<(Monotonic, String)>,
    /// Its last report.
    pub report: Option<Report>,
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
    reports: Reports,
}

/// The last report that was read.
struct Reports {
    place: Place,
    read: Option<Report>,
    /// One that is being read, by a thread of its own: their directory is somebody's home, and may
    /// hang.
    reading: Option<Receiver<Report>>,
}

/// Looks until nobody listens any more.
pub(super) fn run(
    place: &Place,
    orders: &Receiver<Order>,
    looks: &SyncSender<Look>,
    bell: &Arc<Bell>,
) {
    let looker = Looker::new(&place.path);
    let reports = Reports { place: place.clone(), read: None, reading: None };
    let mut eye = Eye { looker, selected: None, closer: None, cpu: HashMap::new(), reports };
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
            let report = self.reports.of(&snapshot.name, server);
            closer = Some(Closer {
                server: name.clone(),
                happenings: happenings(segment, server),
                report,
                ..threads(snapshot, server, &mut self.cpu, span)
            });
            self.closer = Some(now);
        }
        Look { at: now, sight, closer }
    }
}

impl Reports {
    /// The last one about a server, as soon as it was read.
    fn of(&mut self, instance: &str, server: &Server) -> Option<Report> {
        let wanted = server.reports.last?;
        match self.reading.as_ref().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => {}
            Some(Ok(read)) => (self.read, self.reading) = (Some(read), None),
            Some(Err(TryRecvError::Disconnected)) => self.reading = None,
        }
        let found = self.read.clone().filter(|read| read.number == wanted);
        if found.is_none() && self.reading.is_none() {
            self.begin(instance.to_owned(), wanted);
        }
        found
    }

    fn begin(&mut self, instance: String, number: u64) {
        let (tell, told) = mpsc::sync_channel(1);
        let place = self.place.clone();
        let read = move || {
            let report = Store::of(&place, &instance).and_then(|store| store.read(number));
            let sentence = report.map(|report| report.summary.sentence);
            let sentence = sentence.unwrap_or_else(|| "cannot be read from here".to_owned());
            let _ = tell.send(Report { number, sentence });
        };
        let thread = std::thread::Builder::new().name("report".to_owned()).spawn(read);
        self.reading = thread.is_ok().then_some(told);
    }
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
