//! What came out: a table for people, JSON for tools.

use std::fmt;
use std::time::Duration;

use osps_heart::time::{Short, nanos};
use osps_heart::words::Class;
use serde::Serialize;

use super::Request;
use super::plan::{Bound, Fault, Plan, Promise, Step};
use crate::view::snapshot::Snapshot;

/// What became of one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was measured.
    Taken(Round),
    /// No promise holds here, for this reason.
    SetAside(&'static str),
    /// What was promised did not happen, or the fault could not be made.
    Missed(String),
}

/// One fault, measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Until it was noticed.
    pub notice: Duration,
    /// Until the successor was up.
    pub back: Duration,
    /// What was promised.
    pub promise: Promise,
    /// In which way it was silent.
    pub class: Option<Class>,
}

impl Round {
    /// Whether only the count of its heart is known, so that the time runs from the fault on.
    fn is_counted(&self) -> bool {
        self.promise.notice.least.is_zero()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Taken(round) => {
                let (notice, back) = (span(round.notice), span(round.back));
                match (round.class, round.is_counted()) {
                    (None, _) => write!(f, "noticed after {notice}")?,
                    (Some(class), false) => {
                        write!(f, "convicted ({class}) {notice} after its last beat")?;
                    }
                    (Some(class), true) => write!(f, "convicted ({class}) after {notice}")?,
                }
                write!(f, ", up again after {back}")
            }
            Outcome::SetAside(why) => write!(f, "set aside, {why}"),
            Outcome::Missed(why) => write!(f, "MISSED: {why}"),
        }
    }
}

/// What came out of a step.
#[derive(Clone, Debug)]
struct Results {
    step: Step,
    rounds: Vec<Round>,
    set_aside: usize,
    missed: usize,
}

/// What a figure measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Notice,
    Back,
}

impl What {
    /// As it is shown, and as a key; `counted` as in [`Round::is_counted`].
    const fn words(self, fault: Fault, counted: bool) -> (&'static str, &'static str) {
        match (self, fault.is_freeze()) {
            (What::Notice, false) => ("kill -> noticed", "kill-noticed"),
            (What::Back, false) => ("kill -> up again", "kill-up"),
            (What::Notice, true) if counted => ("freeze -> verdict", "freeze-verdict"),
            (What::Notice, true) => ("last beat -> verdict", "beat-verdict"),
            (What::Back, true) => ("freeze -> up again", "freeze-up"),
        }
    }

    fn of(self, round: &Round) -> Duration {
        match self {
            What::Notice => round.notice,
            What::Back => round.back,
        }
    }

    fn bound(self, promise: &Promise) -> Bound {
        match self {
            What::Notice => promise.notice,
            What::Back => promise.back,
        }
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Figure {
    service: String,
    fault: &'static str,
    what: &'static str,
    #[serde(skip)]
    shown: &'static str,
    rounds: usize,
    set_aside: usize,
    missed: usize,
    #[serde(flatten)]
    spans: Option<Spans>,
    least_ms: f64,
    most_ms: f64,
    #[serde(skip)]
    bound: Bound,
    pass: bool,
    values_ms: Vec<f64>,
}

/// The least, the middle and the greatest.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spans {
    #[serde(rename = "min_ms", serialize_with = "as_ms")]
    min: Duration,
    #[serde(rename = "median_ms", serialize_with = "as_ms")]
    median: Duration,
    #[serde(rename = "max_ms", serialize_with = "as_ms")]
    max: Duration,
}

#[derive(Debug, Serialize)]
struct NotDone {
    service: String,
    faults: Vec<&'static str>,
    why: &'static str,
}

/// What came out of a drill so far.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    run_dir: String,
    rounds: usize,
    idle: Duration,
    machine: Machine,
    results: Vec<Results>,
    plan: Plan,
    /// Why it ended early.
    pub stopped: Option<String>,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
struct Machine {
    cores: usize,
    kernel: String,
    load: String,
}

impl Machine {
    fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim_end().to_owned(),
            load: load.split_ascii_whitespace().next().unwrap_or("?").to_owned(),
        }
    }
}

impl Report {
    /// Of a drill that begins.
    pub fn new(snapshot: &Snapshot, request: &Request, plan: &Plan) -> Report {
        let results = |step: &Step| Results {
            step: step.clone(),
            rounds: Vec::new(),
            set_aside: 0,
            missed: 0,
        };
        Report {
            name: snapshot.name.clone(),
            run_dir: osps_heart::shown::Shown(&snapshot.run_dir).to_string(),
            rounds: request.rounds,
            idle: request.idle,
            machine: Machine::here(),
            results: plan.steps.iter().map(results).collect(),
            plan: plan.clone(),
            stopped: None,
        }
    }

    /// What became of one fault of a step.
    pub fn add(&mut self, step: usize, outcome: &Outcome) {
        let Some(results) = self.results.get_mut(step) else { return };
        match outcome {
            Outcome::Taken(round) => results.rounds.push(*round),
            Outcome::SetAside(_) => results.set_aside += 1,
            Outcome::Missed(_) => results.missed += 1,
        }
    }

    /// Whether every promise was kept, and the drill came to its end.
    pub fn passed(&self) -> bool {
        self.stopped.is_none() && self.figures().iter().all(|figure| figure.pass)
    }

    fn figures(&self) -> Vec<Figure> {
        let both = |results| [What::Notice, What::Back].map(|what| figure(results, what));
        self.results.iter().flat_map(both).collect()
    }

    /// For people, without a line end.
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut lines = vec![
            format!(
                "{} in {}: osps {}, {} cores, Linux {}, load {}; {} idle between two faults",
                self.name,
                self.run_dir,
                env!("CARGO_PKG_VERSION"),
                machine.cores,
                machine.kernel,
                machine.load,
                compact(self.idle)
            ),
            row(["SERVICE", "FAULT", "TIME", "ROUNDS", "MIN", "MEDIAN", "MAX", "BOUND", "PASS"]),
        ];
        let figures = self.figures();
        lines.extend(figures.iter().map(Figure::row));
        for left_out in &self.plan.left_out {
            lines.push(format!("not drilled: {left_out}"));
        }
        if let Some(why) = &self.stopped {
            lines.push(format!("ended early: {why}"));
        }
        let short = figures.iter().filter(|figure| !figure.pass).count();
        lines.push(match short {
            0 => format!("{} figures, all within their bounds", figures.len()),
            short => format!("{short} of {} figures out of bounds or not measured", figures.len()),
        });
        lines.join("\n")
    }

    /// For tools, without a line end.
    pub fn json(&self) -> String {
        let left_out = self.plan.left_out.iter().map(|left_out| NotDone {
            service: left_out.name.clone(),
            faults: left_out.faults.iter().map(|fault| fault.word()).collect(),
            why: left_out.why,
        });
        let whole = serde_json::json!({
            "schema": 1,
            "name": self.name,
            "run_dir": self.run_dir,
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine,
            "idle_ms": millis(self.idle),
            "rounds": self.rounds,
            "figures": self.figures(),
            "not_drilled": left_out.collect::<Vec<_>>(),
            "ended_early": self.stopped,
            "passed": self.passed(),
        });
        whole.to_string()
    }
}

/// Everything that was measured of one step, in one way. What was not measured is not kept.
fn figure(results: &Results, what: What) -> Figure {
    let Results { step, rounds, set_aside, missed } = results;
    let bounds = || rounds.iter().map(|round| what.bound(&round.promise));
    let planned = what.bound(&step.promise);
    let bound = Bound {
        least: bounds().map(|bound| bound.least).min().unwrap_or(planned.least),
        most: bounds().map(|bound| bound.most).max().unwrap_or(planned.most),
    };
    let kept = rounds.iter().all(|round| what.bound(&round.promise).holds(what.of(round)));
    let values: Vec<_> = rounds.iter().map(|round| what.of(round)).collect();
    let (shown, key) = what.words(step.fault, rounds.iter().any(Round::is_counted));
    Figure {
        service: step.name.clone(),
        fault: step.fault.word(),
        what: key,
        shown,
        rounds: rounds.len(),
        set_aside: *set_aside,
        missed: *missed,
        spans: spans(&values),
        least_ms: millis(bound.least),
        most_ms: millis(bound.most),
        bound,
        pass: kept && *missed == 0 && !rounds.is_empty(),
        values_ms: values.iter().map(|value| millis(*value)).collect(),
    }
}

impl Figure {
    fn row(&self) -> String {
        let Figure { spans: figure, bound, .. } = self;
        let shown = |pick: fn(&Spans) -> Duration| {
            figure.as_ref().map_or("-".to_owned(), |spans| span(pick(spans)))
        };
        let most = compact(bound.most);
        let bound = match bound.least {
            Duration::ZERO => most,
            least => format!("{} to {most}", compact(least)),
        };
        let missed = match self.missed {
            0 => String::new(),
            missed => format!(" ({missed} missed)"),
        };
        let set_aside = match self.set_aside {
            0 => String::new(),
            set_aside => format!(" ({set_aside} set aside)"),
        };
        let pass = format!("{}{missed}{set_aside}", if self.pass { "yes" } else { "NO" });
        row([
            &self.service,
            self.fault,
            self.shown,
            &self.rounds.to_string(),
            &shown(|spans| spans.min),
            &shown(|spans| spans.median),
            &shown(|spans| spans.max),
            &bound,
            &pass,
        ])
    }
}

fn row(cells: [&str; 9]) -> String {
    let [service, fault, time, rounds, min, median, max, bound, pass] = cells;
    format!(
        "{service:<14} {fault:<6} {time:<20} {rounds:>6} {min:>8} {median:>8} {max:>8}  \
         {bound:<13} {pass}"
    )
}

fn spans(values: &[Duration]) -> Option<Spans> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(Spans { min, median: (lower + upper) / 2, max })
}

/// As the log has it, but milliseconds also of what is longer than a second.
fn span(span: Duration) -> String {
    match span.as_secs() {
        1..120 => format!("{:.3}s", span.as_secs_f64()),
        _ => Short(span).to_string(),
    }
}

/// A figure that was chosen: `500ms`, `4.5s`.
fn compact(span: Duration) -> String {
    let rounded = Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    match rounded.as_secs() {
        0 => format!("{}ms", rounded.as_millis()),
        _ => format!("{}s", rounded.as_secs_f64()),
    }
}

fn millis(span: Duration) -> f64 {
    // Whole microseconds: more would only look exact.
    let micros = u32::try_from(nanos(span) / 1000).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn as_ms<S: serde::Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    millis(*span).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn results(rounds: &[(u64, u64)], missed: usize) -> Results {
        let promise = Promise::within(Fault::Stop, ms(4000), ms(10_000));
        let (name, fault) = ("web".to_owned(), Fault::Stop);
        let round = |&(notice, back): &(u64, u64)| {
            let class = Some(Class::Stopped);
            Round { notice: ms(notice), back: ms(back), promise, class }
        };
        let step = Step { subject: 0, name, fault, promise };
        Results { step, rounds: rounds.iter().map(round).collect(), set_aside: 0, missed }
    }

    #[test]
    fn a_figure_passes_if_every_round_does() {
        let pass = |rounds, missed| figure(&results(rounds, missed), What::Notice).pass;
        assert!(pass(&[(4000, 4010), (4500, 4510)], 0));
        assert!(!pass(&[(3999, 4010), (4500, 4510)], 0), "too early is as wrong as too late");
        assert!(!pass(&[(4000, 4010), (4501, 4510)], 0));
        assert!(!pass(&[(4000, 4010)], 1), "what never happened was not in time");
        assert!(!pass(&[], 0), "nothing was measured");
    }

    #[test]
    fn a_row_reads_well() {
        let shown = figure(&results(&[(4001, 4011), (4003, 4013)], 0), What::Notice).row();
        let expected = "web            stop   last beat -> verdict      2   4.001s   4.002s   \
                        4.003s  4s to 4.5s    yes";
        assert_eq!(shown, expected);
        let shown = figure(&results(&[], 2), What::Back).row();
        assert!(shown.ends_with("-  15s           NO (2 missed)"), "{shown}");
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        let median = |values: &[u64]| {
            let values: Vec<_> = values.iter().map(|value| ms(*value)).collect();
            spans(&values).map(|spans| spans.median)
        };
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7]), Some(ms(7)));
        assert_eq!(median(&[9, 1]), Some(ms(5)));
        assert_eq!(median(&[9, 1, 2]), Some(ms(2)));
    }
}
