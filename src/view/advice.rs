//! `osps status --advice`: what each heart's gaps were so far, and the limit that they suggest.
//!
//! Reads the segment alone, so it works beside a frozen watchdog and after a dead one. What a gap
//! is, and the formula: docs/verdicts.md.

use std::time::Duration;

use osps_heart::orphan::watchdog_beat;
use osps_heart::segment::Segment;
use osps_heart::segment::gaps::{Gaps, NoGaps};
use osps_heart::sync::Ordering;
use osps_heart::time::Short;
use osps_heart::words::HeartSource;
use serde::Serialize;

use super::gaps::{self, HeartGaps};
use super::snapshot::{self, Server, Snapshot};
use crate::policy::advice::{Advice, GAPS_MIN, Known, TIME_MIN, Why, advise, look_gap, quantile};

/// Version of the keys.
const SCHEMA: u32 = 1;

/// What is known of all hearts of an instance. Its fields are the keys of the JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    schema: u32,
    /// Name of the instance.
    name: String,
    /// Its hearts: those of a service together, its own first.
    hearts: Vec<Row>,
}

/// What is known of one heart, or of several of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    service: String,
    /// Name of a further one.
    heart: Option<String>,
    #[serde(serialize_with = "snapshot::source")]
    source: Option<HeartSource>,
    /// The limit in force.
    #[serde(rename = "limit_ms", serialize_with = "snapshot::maybe_millis")]
    limit: Option<Duration>,
    /// Gaps that were counted.
    gaps: u64,
    /// Between the first of them and the last.
    #[serde(rename = "time_ms", serialize_with = "snapshot::millis")]
    time: Duration,
    /// What 99.9 % of them stay below.
    #[serde(rename = "usual_ms", serialize_with = "snapshot::maybe_millis")]
    usual: Option<Duration>,
    /// The longest.
    #[serde(rename = "worst_ms", serialize_with = "snapshot::maybe_millis")]
    worst: Option<Duration>,
    near_misses: u64,
    /// The limit that follows.
    #[serde(rename = "suggested_ms", serialize_with = "snapshot::maybe_millis")]
    suggested: Option<Duration>,
    /// Why it does, or why none follows.
    why: String,
}

impl Report {
    /// On these servers.
    pub fn of(segment: &Segment, snapshot: &Snapshot, servers: &[&Server]) -> Report {
        let rows = |server: &&&Server| {
            let hearts = gaps::of(segment, server).into_iter();
            hearts.map(|heart| Row::of(segment, server, heart)).collect::<Vec<_>>()
        };
        let hearts = servers.iter().flat_map(|server| rows(&server)).collect();
        Report { schema: SCHEMA, name: snapshot.name.clone(), hearts }
    }

    /// For tools: on one line.
    pub fn json(&self) -> String {
        // Only a map with keys that are no texts could fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people, without a line end.
    pub fn table(&self) -> String {
        let mut lines = vec![line(
            ["HEART", "SOURCE", "LIMIT", "GAPS", "99.9 %", "WORST", "NEAR", "SUGGESTED"],
            "WHY",
        )];
        lines.extend(self.hearts.iter().map(Row::row));
        lines.join("\n")
    }
}

impl Row {
    fn of(segment: &Segment, server: &Server, heart: HeartGaps) -> Row {
        let HeartGaps { heart, limit, gaps: read, .. } = heart;
        let source = match (&heart, server.heart) {
            // Whoever claims a further line beats there itself, or its event loops do.
            (Some(_), own) => snapshot::further_source(own),
            (None, own) => own,
        };
        let header = segment.header();
        let span =
            |word: &osps_heart::sync::Word| Duration::from_nanos(word.load(Ordering::Relaxed));
        let beat = watchdog_beat(span(&header.orphan_timeout_ns));
        let known = limit.map(|limit| Known {
            limit,
            beat_interval: span(&header.beat_interval_ns),
            look_gap: look_gap(span(&header.check_interval_ns), beat, limit),
        });
        let gaps = read.as_ref().ok();
        let (suggested, why) = match (&read, known) {
            (Ok(gaps), Some(known)) => told(advise(gaps, known), known),
            (Ok(_), None) => (None, "its limit makes no sense".to_owned()),
            (Err(NoGaps::Empty), _) if source == Some(HeartSource::None) => {
                (None, "nobody beats for it".to_owned())
            }
            (Err(NoGaps::Empty), _) => (None, "not enough seen yet: no gap".to_owned()),
            (Err(NoGaps::Damaged), _) => {
                (None, "somebody scribbled over it: counted anew from its next start on".to_owned())
            }
        };
        Row {
            service: server.name.clone(),
            heart,
            source,
            limit,
            gaps: gaps.map_or(0, Gaps::total),
            time: gaps.map_or(Duration::ZERO, |gaps| gaps.last.since(gaps.since)),
            usual: gaps.map(|gaps| quantile(gaps, 999)),
            worst: gaps.map(|gaps| gaps.worst),
            near_misses: gaps.map_or(0, |gaps| gaps.near_misses),
            suggested,
            why,
        }
    }

    fn row(&self) -> String {
        let name = match &self.heart {
            None => self.service.clone(),
            Some(heart) => format!("  {heart}"),
        };
        let source = self.source.map_or("-", HeartSource::word);
        let span = |span: Option<Duration>| span.map_or("-".to_owned(), |s| Short(s).to_string());
        let (gaps, near) = (self.gaps.to_string(), self.near_misses.to_string());
        let (limit, usual) = (span(self.limit), span(self.usual));
        let (worst, suggested) = (span(self.worst), span(self.suggested));
        line([&name, source, &limit, &gaps, &usual, &worst, &near, &suggested], &self.why)
    }
}

/// A suggestion in words.
fn told(advice: Advice, known: Known) -> (Option<Duration>, String) {
    let few = |what: String| (None, format!("not enough seen yet: {what}"));
    let (limit, why) = match advice {
        Advice::FewGaps(gaps) => return few(format!("{gaps} of {GAPS_MIN} gaps")),
        Advice::ShortTime(time) => return few(format!("{} of {}", Short(time), Short(TIME_MIN))),
        Advice::Limit(limit, why) => (limit, why),
    };
    let why = match why {
        Why::Usual => "4 times what 99.9 % stay below".to_owned(),
        Why::Worst => "twice the worst gap".to_owned(),
        Why::Looks if limit == known.limit => {
            "as it is: shorter gaps may hide between two looks".to_owned()
        }
        Why::Looks => format!(
            "twice the time between two looks ({}): shorter gaps may hide",
            Short(known.look_gap)
        ),
        Why::Beats => "two beat intervals".to_owned(),
        Why::Least => "shorter ones convict for a hiccup of the host".to_owned(),
    };
    (Some(limit), why)
}

fn line(cells: [&str; 8], why: &str) -> String {
    let [name, source, limit, gaps, usual, worst, near, suggested] = cells;
    format!(
        "{name:<16} {source:<8} {limit:>8} {gaps:>8} {usual:>8} {worst:>8} {near:>5} \
         {suggested:>9}  {why}"
    )
}
