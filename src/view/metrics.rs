//! A look as metrics: Prometheus' text format, for its scraper and for the textfile collector of
//! node_exporter. Names and labels by its conventions: base units, `_total` for what only grows.
//! They stand in docs/operations.md, which tests/metrics.rs compares.
//!
//! What nobody can know is left out and not 0: the age of a beat that never came, say.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::segment::Segment;
use osps_heart::segment::gaps::{Gaps, end_of};
use osps_heart::segment::layout::{GAP_BUCKETS, VERSION};
use osps_heart::time::Clock;
use osps_heart::words::{Cause, Class, State};

use super::gaps::{self, HeartGaps};
use super::look;
use super::snapshot::{Server, Snapshot};
use crate::error::Error;
use crate::instance::place::Place;
use crate::sys::output;

/// What Prometheus is told to take a figure for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows.
    Counter,
    /// How many of each size.
    Histogram,
}

impl Kind {
    /// Its word in the text.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// One kind of figure.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, beside `name`: that of the instance.
    pub labels: &'static [&'static str],
    /// What it says; ends with no full stop.
    pub help: &'static str,
}

/// All of them, in the order of the text.
pub const FAMILIES: &[Family] = &[
    gauge("osps_build_info", &["version", "layout"], "Always 1: the osps that made this text"),
    gauge("osps_up", &[], "Whether the watchdog lives and its heart beats"),
    gauge("osps_watchdog_heartbeat_age_seconds", &[], "Time since the watchdog's last beat"),
    gauge("osps_watchdog_uptime_seconds", &[], "Time since the watchdog started"),
    gauge("osps_watchdog_lag_seconds", &[], "How late the watchdog's last turn was"),
    gauge("osps_watchdog_worst_lag_seconds", &[], "How late its latest turn so far was"),
    counter("osps_watchdog_late_turns_total", &[], "Turns so late that all limits ran again"),
    counter("osps_log_lines_dropped_total", &[], "Lines that were dropped, since nobody read them"),
    gauge("osps_service_up", &["service"], "Whether it is up, or done"),
    gauge("osps_service_state", &["service", "state"], "1 for the state that it is in"),
    gauge("osps_service_watched", &["service"], "Whether its silence convicts it now"),
    gauge("osps_service_paused_seconds", &["service"], "For how long it is not judged yet"),
    gauge("osps_service_sessions", &["service"], "Client connections, by its own account"),
    counter("osps_heartbeats_total", &["service"], "Beats, over all its processes"),
    gauge("osps_heartbeat_age_seconds", &["service", "heart"], "Time since its last beat"),
    gauge("osps_heartbeat_limit_seconds", &["service", "heart"], "Silence that convicts"),
    Family {
        name: "osps_heartbeat_gap_seconds",
        kind: Kind::Histogram,
        labels: &["service", "heart"],
        help: "Silences between two beats, over all its processes",
    },
    gauge("osps_heartbeat_worst_gap_seconds", &["service", "heart"], "The longest of them"),
    counter(
        "osps_heartbeat_near_misses_total",
        &["service", "heart"],
        "Silences that were found late, and ended by a beat",
    ),
    counter("osps_restarts_total", &["service", "cause"], "Restarts, by why the last process went"),
    counter("osps_hangs_total", &["service", "class"], "Verdicts on a silence, by their class"),
    counter("osps_reports_total", &["service"], "Hang reports that were written"),
    counter("osps_data_commits_total", &[], "Commits of the data area"),
    counter("osps_data_grants_total", &[], "Grants of the data area: the epoch of the last one"),
    gauge("osps_data_keys", &[], "Keys in the table"),
    gauge("osps_data_size_bytes", &[], "Bytes of one copy"),
    gauge("osps_data_owner", &["service"], "1 for the server that may write"),
];

type Labels = &'static [&'static str];

const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

/// `osps metrics`: one look, printed.
pub fn main(place: &Place) -> Result<ExitCode, Error> {
    let segment = look::open(place)?;
    let snapshot = Snapshot::of(&segment, &place.path, SystemClock.now());
    output::print(render(&segment, &snapshot).as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// A look, with what the segment counts beside it.
pub fn render(segment: &Segment, snapshot: &Snapshot) -> String {
    let mut series = Series { instance: &snapshot.name, found: BTreeMap::new() };
    series.watchdog(snapshot);
    for server in &snapshot.servers {
        series.server(server);
        for heart in &gaps::of(segment, server) {
            series.gaps(&server.name, heart);
        }
    }
    series.data(snapshot);
    series.text()
}

/// Lines so far, by the names of their families.
struct Series<'a> {
    instance: &'a str,
    found: BTreeMap<&'static str, String>,
}

impl Series<'_> {
    /// Adds a figure; the values of its labels are in the order of the family.
    fn put(&mut self, name: &'static str, values: &[&str], value: f64) {
        self.line(name, "", values, None, value);
    }

    fn count(&mut self, name: &'static str, values: &[&str], value: u64) {
        self.put(name, values, number(value));
    }

    fn span(&mut self, name: &'static str, values: &[&str], span: Duration) {
        self.put(name, values, span.as_secs_f64());
    }

    fn line(
        &mut self,
        name: &'static str,
        suffix: &str,
        values: &[&str],
        below: Option<&str>,
        value: f64,
    ) {
        let Some(family) = FAMILIES.iter().find(|family| family.name == name) else { return };
        let text = self.found.entry(name).or_default();
        let _ = write!(text, "{name}{suffix}{{name=\"{}\"", Escaped(self.instance));
        for (label, value) in family.labels.iter().zip(values) {
            let _ = write!(text, ",{label}=\"{}\"", Escaped(value));
        }
        if let Some(below) = below {
            let _ = write!(text, ",le=\"{below}\"");
        }
        let _ = writeln!(text, "}} {value}");
    }

    /// All families that have a line.
    fn text(&self) -> String {
        let mut text = String::new();
        for Family { name, kind, help, .. } in FAMILIES {
            if let Some(lines) = self.found.get(name) {
                let kind = kind.word();
                let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
            }
        }
        text
    }

    fn watchdog(&mut self, snapshot: &Snapshot) {
        let watchdog = &snapshot.watchdog;
        let layout = VERSION.to_string();
        self.put("osps_build_info", &[env!("CARGO_PKG_VERSION"), &layout], 1.0);
        self.put("osps_up", &[], truth(snapshot.is_watched_over()));
        if let Some(age) = watchdog.beat_age {
            self.span("osps_watchdog_heartbeat_age_seconds", &[], age);
        }
        self.span("osps_watchdog_uptime_seconds", &[], watchdog.since);
        self.span("osps_watchdog_lag_seconds", &[], watchdog.lag);
        self.span("osps_watchdog_worst_lag_seconds", &[], watchdog.worst_lag);
        self.count("osps_watchdog_late_turns_total", &[], watchdog.late_turns);
        self.count("osps_log_lines_dropped_total", &[], watchdog.dropped_lines);
    }

    fn server(&mut self, server: &Server) {
        let name = server.name.as_str();
        self.put("osps_service_up", &[name], truth(server.is_well()));
        for state in State::ALL {
            let is = truth(server.state == Some(state));
            self.put("osps_service_state", &[name, state.word()], is);
        }
        self.put("osps_service_watched", &[name], truth(server.watched));
        self.span("osps_service_paused_seconds", &[name], server.paused.unwrap_or_default());
        self.count("osps_service_sessions", &[name], server.sessions);
        self.count("osps_heartbeats_total", &[name], server.beats);
        if let Some(age) = server.beat_age {
            self.span("osps_heartbeat_age_seconds", &[name, ""], age);
        }
        for (heart, age) in oldest(server) {
            self.span("osps_heartbeat_age_seconds", &[name, heart], age);
        }
        for cause in Cause::ALL {
            let count = server.restarts.of(&[cause]);
            self.count("osps_restarts_total", &[name, cause.word()], count);
        }
        for class in Class::ALL {
            self.count("osps_hangs_total", &[name, class.word()], server.hangs.of(class));
        }
        self.count("osps_reports_total", &[name], server.reports.count);
    }

    fn gaps(&mut self, service: &str, heart: &HeartGaps) {
        let labels = [service, heart.heart.as_deref().unwrap_or_default()];
        if let Some(limit) = heart.limit {
            self.span("osps_heartbeat_limit_seconds", &labels, limit);
        }
        let Ok(gaps) = &heart.gaps else { return };
        self.histogram("osps_heartbeat_gap_seconds", &labels, gaps);
        self.span("osps_heartbeat_worst_gap_seconds", &labels, gaps.worst);
        self.count("osps_heartbeat_near_misses_total", &labels, gaps.near_misses);
    }

    /// Every second bucket: a doubling is fine enough for a graph, and half as many series.
    fn histogram(&mut self, name: &'static str, labels: &[&str], gaps: &Gaps) {
        let mut below = 0_u64;
        for (number, count) in gaps.buckets.iter().enumerate() {
            below = below.saturating_add(*count);
            let end = end_of(number).filter(|_| number % 2 == 0 && number + 1 < GAP_BUCKETS);
            if let Some(end) = end {
                let end = end.as_secs_f64().to_string();
                self.line(name, "_bucket", labels, Some(&end), self::number(below));
            }
        }
        self.line(name, "_bucket", labels, Some("+Inf"), number(below));
        self.line(name, "_sum", labels, None, gaps.sum.as_secs_f64());
        self.line(name, "_count", labels, None, number(below));
    }

    fn data(&mut self, snapshot: &Snapshot) {
        let data = &snapshot.data;
        self.count("osps_data_commits_total", &[], data.sequence);
        self.count("osps_data_grants_total", &[], data.epoch);
        self.count("osps_data_keys", &[], data.keys);
        self.count("osps_data_size_bytes", &[], data.size);
        if let Some(owner) = &data.owner {
            self.put("osps_data_owner", &[owner], 1.0);
        }
    }
}

/// The further hearts that are judged, each name once: of several, the age of the most silent one.
fn oldest(server: &Server) -> BTreeMap<&str, Duration> {
    let mut ages = BTreeMap::new();
    for heart in server.hearts.iter().filter(|heart| !heart.name.is_empty()) {
        if let Some(age) = heart.beat_age {
            let known = ages.entry(heart.name.as_str()).or_insert(age);
            *known = age.max(*known);
        }
    }
    ages
}

/// The value of a label, between its quotes.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

fn truth(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a double, whatever it counts")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_programs_chose_are_escaped() {
        let mut series = Series { instance: "a", found: BTreeMap::new() };
        series.put("osps_heartbeat_age_seconds", &["web", "a\"b\\c\nd"], 1.5);
        let text = series.text();
        let expected =
            "osps_heartbeat_age_seconds{name=\"a\",service=\"web\",heart=\"a\\\"b\\\\c\\nd\"} 1.5";
        assert_eq!(text.lines().last(), Some(expected));
    }
}
