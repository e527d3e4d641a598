//! The one who looks: four times a second, for all who follow. A thread of its own, since a look
//! asks the kernel about processes. Nobody who follows can hold it up.

use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use osps_heart::clock::{SystemClock, unix_ns};
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic, nanos};
use osps_heart::words::HeartSource;
use tokio::sync::mpsc;

use super::graph::Graph;
use super::model::{Face, Look, Model, PERIOD_MS, Pulse, Row, Summary};
use crate::instance::place::Place;
use crate::report::store::Store;
use crate::report::{self, Report};
use crate::sys::poll::sleep;
use crate::view::looker::{Looker, Sight};
use crate::view::snapshot::{Health, Server, Snapshot};
use crate::view::{json, metrics, table};

/// Streams that are served; more would take the descriptors of those who only ask.
pub(super) const STREAMS: usize = 1100;
/// Messages that wait for one who follows: two seconds. Whoever is further behind begins anew.
const BEHIND: usize = 8;
/// A looker that was not back for so long hangs.
const STALE: Duration = Duration::from_secs(5);

/// What is known, for everybody who asks.
#[derive(Debug)]
pub(super) struct Board {
    place: Place,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    model: Model,
    /// As `osps status --json` shows it.
    status: Option<(String, Health)>,
    followers: Vec<mpsc::Sender<Bytes>>,
    /// They want the figures of the next look.
    scrapers: Vec<mpsc::Sender<Bytes>>,
    /// The first message of a stream that begins now, once somebody wanted it.
    whole: Option<Bytes>,
    looked: Option<Monotonic>,
    /// Where reports are kept.
    store: Option<Store>,
}

/// How the instance is, for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) well: bool,
    pub(super) text: String,
}

impl Board {
    /// Of an instance; nobody looks yet.
    pub(super) fn new(place: Place) -> Board {
        Board { place, inner: Mutex::default() }
    }

    /// Looks for ever.
    pub(super) fn watch(self: &Arc<Board>) {
        let mut eye = Eye::new(&self.place.path);
        let mut next = SystemClock.now();
        loop {
            let scrapers = std::mem::take(&mut self.inner().scrapers);
            let (look, status) = eye.look(&self.place);
            self.inner().store.clone_from(&eye.store);
            self.take(look, status);
            if let Some(figures) = eye.figures().filter(|_| !scrapers.is_empty()) {
                let figures = Bytes::from(figures);
                // One who is gone meanwhile is not waited for.
                // Each text ends with its sender, and so before the next look.
                for one in scrapers {
                    let _ = one.try_send(figures.clone());
                }
            }
            let now = SystemClock.now();
            // What was missed is not made up for.
            next = now.max(next + Duration::from_millis(PERIOD_MS));
            sleep(next.since(now));
        }
    }

    /// One look, taken in and told to all who follow.
    fn take(&self, look: Look, status: Option<(String, Health)>) {
        let mut inner = self.inner();
        let news = inner.model.take(look);
        inner.status = status;
        inner.whole = None;
        inner.looked = Some(SystemClock.now());
        inner.followers.retain(|follower| !follower.is_closed());
        if !inner.followers.is_empty() {
            let message = event(&inner.model.news(news));
            // A full queue: it does not read. It is let go, and may come back.
            inner.followers.retain(|follower| follower.try_send(message.clone()).is_ok());
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything and then what is new, one event each; `None` = too many follow already.
    pub(super) fn follow(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut inner = self.inner();
        inner.followers.retain(|follower| !follower.is_closed());
        if inner.followers.len() >= STREAMS {
            return None;
        }
        let (follower, messages) = mpsc::channel(BEHIND);
        let inner = &mut *inner;
        let whole = inner.whole.get_or_insert_with(|| event(&inner.model.whole()));
        let _ = follower.try_send(whole.clone());
        inner.followers.push(follower);
        Some(messages)
    }

    /// The text of `osps metrics` at the next look: one rendering for all who wait for it. `None`
    /// = nothing runs.
    pub(super) fn figures(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut inner = self.inner();
        inner.status.as_ref()?;
        let (scraper, text) = mpsc::channel(1);
        inner.scrapers.push(scraper);
        Some(text)
    }

    /// A whole report, rendered like this. `None` = there is none of this number. It is read by a
    /// thread of its own: the disk may be slow.
    pub(super) fn report(
        &self,
        number: u64,
        render: impl FnOnce(&Report) -> String + Send + 'static,
    ) -> Option<mpsc::Receiver<Bytes>> {
        let inner = self.inner();
        inner.model.reports.iter().find(|known| known.number == number)?;
        let store = inner.store.clone()?;
        let (to, text) = mpsc::channel(1);
        let read = move || {
            let whole = store.read(number).map(|report| Bytes::from(render(&report)));
            whole.map(|whole| to.try_send(whole))
        };
        std::thread::Builder::new().name("reader".to_owned()).spawn(read).ok()?;
        Some(text)
    }

    /// Asks something of what is known.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&Model) -> T) -> T {
        ask(&self.inner().model)
    }

    /// The object of `osps status --json`; `None` = nothing runs.
    pub(super) fn status(&self) -> Option<String> {
        self.inner().status.as_ref().map(|(text, _)| text.clone())
    }

    /// How it is, for a probe.
    pub(super) fn condition(&self) -> Condition {
        let inner = self.inner();
        let looked = inner.looked.is_some_and(|at| SystemClock.now().since(at) < STALE);
        let face = &inner.model.face;
        if looked {
            Condition { well: face.well, text: face.summary.to_owned() }
        } else {
            Condition { well: false, text: "cannot tell: no look succeeds".to_owned() }
        }
    }
}

/// A message as it goes over the wire.
fn event(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

/// Looks again and again.
#[derive(Debug)]
struct Eye {
    looker: Looker,
    /// What was seen last.
    snapshot: Option<Snapshot>,
    /// The segment that the next record is of, by its number, and the number of that.
    segment: u64,
    next: u64,
    /// Where reports are kept, and those that are.
    store: Option<Store>,
    reports: Vec<u64>,
    /// What is being read of that, by a thread of its own: the directory may be in somebody's home,
    /// and hang.
    reading: Option<Receiver<Kept>>,
    looks: u64,
}

/// What is kept.
#[derive(Debug)]
struct Kept {
    store: Option<Store>,
    numbers: Vec<u64>,
    /// In a line each, if there are others than before.
    lines: Option<Vec<Summary>>,
}

impl Kept {
    fn read(place: &Place, name: &str, before: &[u64]) -> Kept {
        let store = Store::of(place, name);
        let mut numbers = store.as_ref().map(Store::numbers).unwrap_or_default();
        numbers.sort_unstable();
        let line = |report: report::Summary| Summary {
            number: report.number,
            at: report.at / 1_000_000,
            service: report.service,
            sentence: report.sentence,
        };
        let list = || store.as_ref().map(Store::list).unwrap_or_default();
        let lines = (numbers != before).then(|| list().into_iter().map(line).collect());
        Kept { store, numbers, lines }
    }
}

impl Eye {
    fn new(run_dir: &Path) -> Eye {
        Eye {
            looker: Looker::new(run_dir),
            snapshot: None,
            segment: 0,
            next: 0,
            store: None,
            reports: Vec::new(),
            reading: None,
            looks: 0,
        }
    }

    fn look(&mut self, place: &Place) -> (Look, Option<(String, Health)>) {
        let (now, at) = (SystemClock.now(), unix_ns() / 1_000_000);
        self.snapshot = None;
        let snapshot = match self.looker.look(now) {
            Sight::There(snapshot) => *snapshot,
            Sight::Nothing => return (nothing(&place.path, at, None), None),
            Sight::Unreadable(why) => return (nothing(&place.path, at, Some(why)), None),
        };
        let reports = self.reports(place, &snapshot.name);
        let Some(segment) = self.looker.segment() else {
            return (nothing(&place.path, at, None), None);
        };
        let afresh = self.segment != self.looker.opened();
        if afresh {
            (self.segment, self.next) = (self.looker.opened(), 0);
        }
        let since = segment.events().since(self.next);
        self.next = since.next;
        let (rows, pulses) = hearts(&snapshot);
        let look = Look {
            at,
            face: Face { rows, ..face(&snapshot) },
            pulses,
            watchdog_age: snapshot.watchdog.beat_age.map(millis),
            records: since.records,
            afresh,
            graph: Some(Graph::of(&snapshot.servers)),
            reports,
        };
        let status = (json::render(&snapshot), snapshot.health());
        self.snapshot = Some(snapshot);
        (look, Some(status))
    }

    /// Reports in a line each, if there are others than at the last look, once a second.
    fn reports(&mut self, place: &Place, name: &str) -> Option<Vec<Summary>> {
        self.looks += 1;
        let mut lines = None;
        match self.reading.as_ref().map(Receiver::try_recv) {
            Some(Ok(kept)) => {
                (self.store, self.reports, lines) = (kept.store, kept.numbers, kept.lines);
                self.reading = None;
            }
            Some(Err(TryRecvError::Disconnected)) => self.reading = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
        if self.reading.is_none() && self.looks % (1000 / PERIOD_MS) == 1 {
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let (place, name, before) = (place.clone(), name.to_owned(), self.reports.clone());
            let read = move || tell.send(Kept::read(&place, &name, &before));
            let thread = std::thread::Builder::new().name("reports".to_owned()).spawn(read);
            self.reading = thread.is_ok().then_some(told);
        }
        lines
    }

    /// The last look for Prometheus.
    fn figures(&self) -> Option<String> {
        Some(metrics::render(self.looker.segment()?, self.snapshot.as_ref()?))
    }
}

/// What there is to see where nothing is.
fn nothing(run_dir: &Path, at: u64, why: Option<String>) -> Look {
    let shown = Shown(run_dir).to_string();
    let name = run_dir.file_name().map(|name| Shown(name).to_string()).unwrap_or_default();
    let (summary, advice) = match why {
        None => ("not running", format!("nothing runs in {shown}: start it, and it appears here")),
        Some(why) => ("cannot tell", why),
    };
    let face = Face { name, run_dir: shown, summary, advice: Some(advice), ..Face::default() };
    Look { at, face, afresh: true, graph: Some(Graph::default()), ..Look::default() }
}

fn face(snapshot: &Snapshot) -> Face {
    let watchdog = &snapshot.watchdog;
    let standing = match (watchdog.alive, watchdog.frozen) {
        (true, false) => "alive",
        (true, true) => "frozen",
        (false, _) => "dead",
    };
    let well = snapshot.health() == Health::AllUp;
    Face {
        name: snapshot.name.clone(),
        run_dir: Shown(&snapshot.run_dir).to_string(),
        summary: snapshot.summary(),
        well,
        advice: (!snapshot.is_watched_over()).then(|| table::verdict(snapshot)),
        watchdog: Some((watchdog.pid_here.map_or(watchdog.pid, u64::from), standing)),
        since_ms: snapshot.watchdog.started_unix_ms,
        rows: Vec::new(),
    }
}

/// A row for every heart, and its pulse.
fn hearts(snapshot: &Snapshot) -> (Vec<Row>, Vec<Pulse>) {
    let mut all = Vec::new();
    for server in &snapshot.servers {
        let name = &server.name;
        let key = format!("{}/{name}", server.slot);
        let pulse = Pulse { key, count: server.beats, age: server.beat_age.map(millis) };
        all.push((row(server), pulse));
        all.extend(further(server));
    }
    all.into_iter().unzip()
}

fn row(server: &Server) -> Row {
    Row {
        service: server.name.clone(),
        heart: None,
        state: server.state_word(),
        code: server.state.map_or(0, osps_heart::words::State::code),
        pid: server.pid,
        generation: server.generation,
        restarts: server.restarts.of(&osps_heart::words::Cause::ALL),
        cause: server.last_cause.as_ref().map(ToString::to_string),
        doing: doing(server),
        listen: server.listen.clone(),
        source: table::heart(server),
        limit_ms: server.limit.map(millis),
        beats: server.beat_age.is_some(),
    }
}

/// What it waits for, or says that it is doing.
fn doing(server: &Server) -> Option<String> {
    let waits = server.blocked_by.as_ref().map(|by| format!("waits for {by}"));
    let paused = server.paused.map(|left| format!("not judged for {} s", left.as_secs() + 1));
    let said = [waits, paused, server.activity.clone()];
    let said: Vec<_> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// The further hearts of a server.
fn further(server: &Server) -> impl Iterator<Item = (Row, Pulse)> {
    server.hearts.iter().map(move |heart| {
        let row = Row {
            heart: Some(heart.name.clone()),
            doing: heart.parked.then(|| "parked".to_owned()),
            limit_ms: heart.limit.map(millis),
            restarts: 0,
            cause: None,
            listen: None,
            source: heart.source.map_or("-", HeartSource::word),
            beats: !heart.parked,
            ..row(server)
        };
        let key = format!("{}/{}/{}/{}", server.slot, server.name, heart.line, heart.name);
        (row, Pulse { key, count: heart.beats, age: heart.beat_age.map(millis) })
    })
}

fn millis(span: Duration) -> u64 {
    nanos(span) / 1_000_000
}
