//! What the page shows, and how it came to be: pure, of one look after the other.
//!
//! A face is what changes seldom; a trace is what one heart did at the last looks; what happened
//! are the records of the ring in the log's words. A stream gets all of it at first and then what
//! is new: an object a look (docs/operations.md lists its keys). Bounded: so many looks, so many
//! records.

use std::collections::{HashMap, VecDeque};

use osps_heart::segment::{Record, What};
use osps_heart::words::{Cause, State};
use serde::Serialize;

use super::graph::Graph;
use crate::view::log;

/// Time between two looks.
pub(super) const PERIOD_MS: u64 = 250;
/// Looks kept: two minutes. A wide screen shows less, a tab that was away catches up from them.
pub(super) const LOOKS: usize = 480;
/// Records kept.
const RECORDS: usize = 200;

/// A heart, as it is seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulse {
    /// What it is and stays, over all processes of its service.
    pub(super) key: String,
    /// Beats so far.
    pub(super) count: u64,
    /// Age of the last one, ms, if known.
    pub(super) age: Option<u64>,
}

/// A heart's row on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) service: String,
    /// Name of a further heart.
    pub(super) heart: Option<String>,
    pub(super) state: &'static str,
    pub(super) code: u64,
    pub(super) pid: Option<u32>,
    pub(super) generation: u32,
    pub(super) restarts: u64,
    pub(super) cause: Option<String>,
    pub(super) doing: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) source: &'static str,
    pub(super) limit_ms: Option<u64>,
    /// It has a heart, and that has beaten.
    pub(super) beats: bool,
}

/// What changes seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Face {
    pub(super) name: String,
    pub(super) run_dir: String,
    /// How it is, in two words.
    pub(super) summary: &'static str,
    /// All is as it should be.
    pub(super) well: bool,
    /// What is wrong with it, and what is to be done.
    pub(super) advice: Option<String>,
    /// Its watchdog: pid, and `alive`, `frozen` or `dead`.
    pub(super) watchdog: Option<(u64, &'static str)>,
    /// When that started, ms since 1970.
    pub(super) since_ms: u64,
    pub(super) rows: Vec<Row>,
}

/// What a heart did between two looks: beats, age of the last one (ms), state of its service.
type Step = (u64, Option<u64>, u64);

#[derive(Debug, Default)]
struct Trace {
    count: Option<u64>,
    steps: VecDeque<Step>,
    /// It stands in the face.
    shown: bool,
}

/// One happening, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Told {
    /// When, ms since 1970.
    pub(super) at: u64,
    /// Of whom; empty = the watchdog.
    pub(super) service: String,
    /// `info`, `warn` or `error`.
    pub(super) level: &'static str,
    /// What stands beside the mark on the trace, if there is one.
    pub(super) mark: Option<String>,
    /// The log's words.
    pub(super) line: String,
}

impl Told {
    fn of(record: &Record) -> Told {
        let level = match log::level(record) {
            ::log::Level::Error => "error",
            ::log::Level::Warn => "warn",
            _ => "info",
        };
        Told {
            at: record.unix_ns / 1_000_000,
            service: record.name.to_string(),
            level,
            mark: mark(record),
            line: log::line(record),
        }
    }
}

/// What deserves a mark on a trace: verdicts, deaths that nobody wanted, and who came after.
fn mark(record: &Record) -> Option<String> {
    let with = |cause: Cause, class| match class {
        Some(class) => format!("{cause} ({class})"),
        None => cause.to_string(),
    };
    Some(match record.what {
        What::Verdict { cause, class, .. } => with(cause, class),
        What::Died { cause: Some(cause), .. } if record.took.is_none() => cause.to_string(),
        What::Backoff { .. } if record.took.is_none() => State::Backoff.to_string(),
        What::Failed { .. } => State::Failed.to_string(),
        What::Held { class } => format!("held ({class})"),
        What::Warned { class, .. } => format!("overdue ({class})"),
        What::Started { after: Some(_), .. } => format!("gen {}", record.generation),
        What::Adopted { .. } => "taken over".to_owned(),
        _ => return None,
    })
}

/// A report, a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub(super) number: u64,
    /// When, ms since 1970.
    pub(super) at: u64,
    pub(super) service: String,
    pub(super) sentence: String,
}

/// One look.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// ms since 1970.
    pub(super) at: u64,
    pub(super) face: Face,
    /// Hearts, in the order of the rows.
    pub(super) pulses: Vec<Pulse>,
    /// Age of the watchdog's beat, ms.
    pub(super) watchdog_age: Option<u64>,
    /// What happened since the last look.
    pub(super) records: Vec<Record>,
    /// The segment is another one: counts begin anew, and so does the ring.
    pub(super) afresh: bool,
    /// The graph, if it may be another one.
    pub(super) graph: Option<Graph>,
    /// Reports, if there may be others.
    pub(super) reports: Option<Vec<Summary>>,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) at: u64,
    pub(super) face: Face,
    pub(super) watchdog_age: Option<u64>,
    pub(super) told: VecDeque<Told>,
    pub(super) graph: Graph,
    pub(super) reports: Vec<Summary>,
    times: VecDeque<u64>,
    keys: Vec<String>,
    traces: HashMap<String, Trace>,
}

/// An object for those who follow.
#[derive(Serialize)]
struct Message<'a> {
    at: u64,
    watchdog_age: Option<u64>,
    hearts: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    face: Option<&'a Face>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<&'a VecDeque<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<Vec<&'a VecDeque<Step>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<Vec<&'a Told>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<&'a Graph>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reports: Option<&'a [Summary]>,
}

/// What a look changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    face: bool,
    graph: bool,
    reports: bool,
    told: usize,
}

impl Model {
    /// Takes a look in.
    pub(super) fn take(&mut self, look: Look) -> News {
        let mut news = News { face: self.face != look.face, ..News::default() };
        self.at = look.at;
        self.watchdog_age = look.watchdog_age;
        if self.times.len() == LOOKS {
            self.times.pop_front();
        }
        self.times.push_back(look.at);
        self.step(&look);
        self.keys = look.pulses.into_iter().map(|pulse| pulse.key).collect();
        self.face = look.face;
        let fresh: Vec<_> = look.records.iter().map(Told::of).collect();
        news.told = fresh.len().min(RECORDS);
        self.told.extend(fresh);
        self.told.drain(..self.told.len().saturating_sub(RECORDS));
        if let Some(graph) = look.graph.filter(|graph| *graph != self.graph) {
            self.graph = graph;
            news.graph = true;
        }
        if let Some(reports) = look.reports.filter(|reports| *reports != self.reports) {
            self.reports = reports;
            news.reports = true;
        }
        news
    }

    /// What each heart did since the last look.
    fn step(&mut self, look: &Look) {
        for trace in self.traces.values_mut() {
            trace.shown = false;
        }
        for (pulse, row) in look.pulses.iter().zip(&look.face.rows) {
            let trace = self.traces.entry(pulse.key.clone()).or_default();
            let last = trace.count.filter(|_| !look.afresh);
            let beats = last.map_or(0, |last| pulse.count.saturating_sub(last));
            trace.count = Some(pulse.count);
            trace.shown = true;
            trace.steps.push_back((beats, pulse.age, row.code));
            if trace.steps.len() > self.times.len() {
                trace.steps.pop_front();
            }
        }
        self.traces.retain(|_, trace| trace.shown);
    }

    /// Everything, for one who begins.
    pub(super) fn whole(&self) -> String {
        let traces = self.traces().map(|(_, steps)| steps).collect();
        json(&Message {
            face: Some(&self.face),
            times: Some(&self.times),
            traces: Some(traces),
            told: Some(self.told.iter().collect()),
            graph: Some(&self.graph),
            reports: Some(&self.reports),
            ..self.message()
        })
    }

    /// What is new, for those who follow.
    pub(super) fn news(&self, news: News) -> String {
        let told = self.told.iter().skip(self.told.len().saturating_sub(news.told)).collect();
        json(&Message {
            face: news.face.then_some(&self.face),
            told: (news.told > 0).then_some(told),
            graph: news.graph.then_some(&self.graph),
            reports: news.reports.then_some(&self.reports),
            ..self.message()
        })
    }

    fn message(&self) -> Message<'_> {
        let hearts = self.traces().map(|(_, steps)| steps.back().copied().unwrap_or_default());
        Message {
            at: self.at,
            watchdog_age: self.watchdog_age,
            hearts: hearts.collect(),
            face: None,
            times: None,
            traces: None,
            told: None,
            graph: None,
            reports: None,
        }
    }

    /// Rows and what their hearts did at the last looks.
    pub(super) fn traces(&self) -> impl Iterator<Item = (&Row, &VecDeque<Step>)> {
        let steps = self.keys.iter().filter_map(|key| Some(&self.traces.get(key)?.steps));
        self.face.rows.iter().zip(steps)
    }

    /// When the looks were, ms since 1970.
    pub(super) fn times(&self) -> &VecDeque<u64> {
        &self.times
    }
}

fn json<T: Serialize>(message: &T) -> String {
    // Only a map with keys that are no texts could fail.
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use osps_heart::ids::{Generation, SlotId};
    use osps_heart::time::Monotonic;
    use osps_heart::words::Class;
    use std::time::Duration;

    fn look(at: u64, count: u64) -> Look {
        let row = Row { service: "web".to_owned(), state: "up", code: 2, ..Row::default() };
        let face = Face { summary: "all up", well: true, rows: vec![row], ..Face::default() };
        let pulse = Pulse { key: "0/web".to_owned(), count, age: Some(5) };
        Look { at, face, pulses: vec![pulse], ..Look::default() }
    }

    fn steps(model: &Model) -> Vec<u64> {
        model.traces().flat_map(|(_, steps)| steps.iter().map(|step| step.0)).collect()
    }

    #[test]
    fn beats_are_differences_and_a_new_segment_begins_anew() {
        let mut model = Model::default();
        for (at, count) in [(250, 100), (500, 102), (750, 102), (1000, 103)] {
            model.take(look(at, count));
        }
        assert_eq!(steps(&model), [0, 2, 0, 1]);
        model.take(Look { afresh: true, ..look(1250, 900) });
        model.take(look(1500, 901));
        assert_eq!(steps(&model), [0, 2, 0, 1, 0, 1]);
        // Whatever is scribbled there.
        model.take(look(1750, 3));
        assert_eq!(steps(&model).last(), Some(&0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut model = Model::default();
        let record = Record::new(Monotonic(1), None, Generation(0), What::WatchdogStarted);
        for at in 0..2000 {
            model.take(Look { records: vec![record; 3], ..look(at, at) });
        }
        assert_eq!((model.times.len(), steps(&model).len()), (LOOKS, LOOKS));
        assert_eq!(model.told.len(), RECORDS);
        model.take(Look { at: 2000, ..Look::default() });
        assert!(model.traces.is_empty());
    }

    #[test]
    fn those_who_follow_are_told_what_is_new_and_no_more() {
        let mut model = Model::default();
        let news = model.take(look(250, 1));
        assert!(news.face);
        let verdict = What::Verdict {
            cause: Cause::Frozen,
            class: Some(Class::Stopped),
            silence: Duration::from_secs(4),
        };
        let record = Record {
            unix_ns: 7_000_000,
            name: "web".into(),
            ..Record::new(Monotonic(1), Some(SlotId(0)), Generation(3), verdict)
        };
        let quiet = model.take(look(500, 2));
        assert_eq!(model.news(quiet), r#"{"at":500,"watchdog_age":null,"hearts":[[1,5,2]]}"#);
        let news = model.take(Look { records: vec![record], ..look(750, 2) });
        let text = model.news(news);
        assert!(text.contains(r#""mark":"frozen (stopped)""#) && !text.contains("face"), "{text}");
        let whole = model.whole();
        for part in [r#""times":[250,500,750]"#, r#""traces":[[[0,5,2],[1,5,2],[0,5,2]]]"#] {
            assert!(whole.contains(part), "{whole}");
        }
    }
}
