//! What the benches share: the table that they print, one line per figure, and what they measure
//! with.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]
#![allow(clippy::print_stdout, reason = "the table is the purpose of these programs")]
#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts far below 2^52 become figures for people"
)]

#[path = "../../tests/common/mod.rs"]
pub mod common;

use std::time::Duration;

use osps_heart::time::nanos;

use common::now;

/// What a figure must not go beyond.
#[derive(Clone, Copy)]
pub enum Bound {
    /// The median is at most this.
    AtMost(f64),
    /// The median is at least this.
    AtLeast(f64),
    /// No single measurement is below this.
    NeverBelow(f64),
    /// No single measurement is above this.
    NeverAbove(f64),
    /// Nothing is promised: shown beside what is.
    None,
}

/// One line of the table.
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub bound: Bound,
    pub values: Vec<f64>,
    /// Measurements that should have been made and gave nothing: the figure falls short.
    pub missed: usize,
    /// Shown behind the line.
    pub remark: String,
}

pub struct Table {
    filter: String,
    shown: usize,
    short: usize,
}

impl Table {
    /// Measures, and shows the figures whose names contain the argument. Under `cargo test` there
    /// is nothing to measure.
    pub fn fill(measure: impl FnOnce(&mut Table)) {
        let args: Vec<_> = std::env::args().skip(1).collect();
        if !args.iter().any(|arg| arg == "--bench") {
            println!("figures are measured by `cargo bench` only");
            return;
        }
        let filter = args.into_iter().find(|arg| !arg.starts_with('-')).unwrap_or_default();
        let mut table = Table { filter, shown: 0, short: 0 };
        table.head();
        measure(&mut table);
        table.foot();
    }

    pub fn wants(&self, what: &str) -> bool {
        what.contains(&self.filter)
    }

    fn head(&self) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        println!(
            "machine: {} cores, {}, Linux {}, load {}",
            std::thread::available_parallelism().map_or(0, usize::from),
            model.map_or("unknown processor", |line| line.trim_start_matches([' ', '\t', ':'])),
            read("/proc/sys/kernel/osrelease").trim_end(),
            read("/proc/loadavg").split_ascii_whitespace().next().unwrap_or("?"),
        );
        if !self.filter.is_empty() {
            println!("only figures with {:?}", self.filter);
        }
        println!(
            "{:<44} {:>12} {:>11} {:>23} {:>5}  ok",
            "what", "bound", "median", "min..max", "n"
        );
    }

    pub fn show(&mut self, mut figure: Figure) {
        if !self.wants(&figure.what) {
            return;
        }
        figure.values.sort_by(f64::total_cmp);
        let (least, most) = (figure.values.first(), figure.values.last());
        let middle = median(&figure.values);
        let unit = figure.unit;
        let (bound, sound) = match figure.bound {
            Bound::AtMost(bound) => (format!("<= {bound} {unit}"), middle <= Some(bound)),
            Bound::AtLeast(bound) => (format!(">= {bound} {unit}"), middle >= Some(bound)),
            Bound::NeverBelow(bound) => (format!("min >= {bound} {unit}"), least >= Some(&bound)),
            Bound::NeverAbove(bound) => (format!("max <= {bound} {unit}"), most <= Some(&bound)),
            Bound::None => ("-".to_owned(), true),
        };
        let sound = sound && least.is_some() && figure.missed == 0;
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), digits);
        let missed = match figure.missed {
            0 => String::new(),
            missed => format!("; {missed} missed"),
        };
        println!(
            "{:<44} {bound:>12} {:>11} {:>23} {:>5}  {}{}{missed}",
            figure.what,
            format!("{} {unit}", number(middle)),
            format!("{}..{}", number(least.copied()), number(most.copied())),
            figure.values.len(),
            match figure.bound {
                _ if !sound => "SHORT",
                Bound::None => "-",
                _ => "ok",
            },
            figure.remark,
        );
        self.shown += 1;
        self.short += usize::from(!sound);
    }

    /// Says why a figure could not be measured here.
    pub fn skip(&self, what: &str, reason: &str) {
        if self.wants(what) {
            println!("{what:<44} skipped: {reason}");
        }
    }

    fn foot(&self) {
        println!("{} figures, {} short", self.shown, self.short);
    }
}

/// A small segment without a watchdog, in a directory of its own.
pub fn founded() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    osps_heart::example::create_segment(dir.path()).expect("a segment");
    dir
}

/// Of sorted values.
pub fn median(values: &[f64]) -> Option<f64> {
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

/// Of values in any order.
pub fn middle(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    median(&values).unwrap_or(f64::NAN)
}

pub fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// ns per call of one batch.
pub fn batch(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = now();
    for _ in 0..calls {
        call();
    }
    nanos(now().since(start)) as f64 / f64::from(calls)
}

/// What all threads of a process used so far.
#[derive(Default)]
pub struct Usage {
    pub switches: u64,
    pub cpu_ns: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Usage {
        let mut usage = Usage::default();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the watchdog lives");
        for task in tasks.flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            let switches = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
            usage.switches += switches.filter_map(number).sum::<u64>();
            usage.cpu_ns += read("schedstat")
                .split_ascii_whitespace()
                .next()
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0);
        }
        usage
    }
}

/// Proportional share of memory.
pub fn pss_kib(pid: u32) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find(|line| line.starts_with("Pss:"));
    line.and_then(number).map_or(f64::INFINITY, |kib| kib as f64)
}

/// The number in a line like `Pss:     1234 kB`.
fn number(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}
