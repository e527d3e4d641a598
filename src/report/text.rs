//! A report for people: what matters most on the first screen, the rest below it.
//!
//! Whatever a program chose (names, paths, lines of its log) is escaped line by line.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use osps_heart::shown::Shown;
use osps_heart::time::Short;

use super::sentence::{busy, span};
use super::{Extent, Report, Socket, Stacks, Summary, Thread};

/// Columns of a screen.
const WIDTH: usize = 80;
/// Where what a line says begins.
const INDENT: usize = 11;
/// Threads on the first screen.
const FIRST: usize = 8;

/// The whole of it.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let summary = &report.summary;
    let number = match summary.number {
        0 => "report (not kept)".to_owned(),
        number => format!("report {number}"),
    };
    let (name, generation, pid) = (Shown(&summary.service), summary.generation, report.pid);
    let _ = writeln!(text, "{number}: {name} gen={generation} pid={pid}, {}", time(summary.at));
    wrap(&mut text, "", &(summary.sentence.clone() + "."));
    text.push('\n');
    head(report, &mut text);
    threads(report, &mut text);
    sockets(report, &mut text);
    stacks(report, &mut text);
    kernel(report, &mut text);
    rest(report, &mut text);
    plain(&text)
}

/// A report is a file, and what it says was read from programs: nothing of it moves the cursor.
/// Names that are escaped already stay as they are.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// All of them, a line each.
pub(super) fn list(summaries: &[Summary]) -> String {
    let mut text = format!("{:>6}  {:<20}  WHAT\n", "REPORT", "WHEN");
    for summary in summaries {
        let sentence = Shown(&summary.sentence).to_string();
        let _ = writeln!(text, "{:>6}  {:<20}  {sentence}", summary.number, time(summary.at));
    }
    text
}

/// `2026-11-26T19:15:37Z`.
fn time(ns: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_nanos(ns);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Breaks a line at blanks, what goes on below its beginning.
fn wrap(text: &mut String, label: &str, line: &str) {
    let indent = if label.is_empty() { 0 } else { INDENT };
    let mut column = indent;
    let _ = write!(text, "{label:<indent$}");
    for (place, word) in line.split(' ').enumerate() {
        let length = word.chars().count();
        if place > 0 && column + 1 + length > WIDTH {
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        } else if place > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

fn short(ns: u64) -> Short {
    Short(Duration::from_nanos(ns))
}

fn head(report: &Report, text: &mut String) {
    let (summary, heart) = (&report.summary, &report.heart);
    let kind = match (summary.cause, summary.class) {
        (Some(cause), Some(class)) => format!("{cause} ({class})"),
        (Some(cause), None) => cause.to_string(),
        (None, _) => "none, somebody asked".to_owned(),
    };
    let limit = short(heart.limit_ns);
    let silence = format!("no beat for {}, limit {limit}", short(summary.silence_ns));
    wrap(text, "verdict", &format!("{kind}: {silence}"));
    let name = match heart.name.as_str() {
        "" => String::new(),
        name => format!(" {}", Shown(name)),
    };
    let mut line = format!("{}{name}, {} beats", heart.source, heart.beats);
    if let Some(longest) = heart.last_minute.iter().map(|gap| gap.gap_ns).max() {
        let _ = write!(line, "; longest gap of the last minute {}", short(longest));
    }
    if heart.worst_ns > 0 {
        let _ = write!(line, ", ever {}", short(heart.worst_ns));
    }
    wrap(text, "heart", &line);
    if let Some(activity) = &report.activity {
        wrap(text, "doing", &Shown(activity).to_string());
    }
    if let Some(data) = &report.data {
        let owner = data.owner.as_deref().unwrap_or("nobody");
        let mut line = format!("owned by {owner}");
        if let Some(recalled) = data.recalled_ns {
            let _ = write!(line, ", asked back {} before", short(recalled));
        }
        for (name, count) in &data.waiting {
            let _ = write!(line, "; {count} wait in {name}");
        }
        wrap(text, "data", &line);
    }
    if let Some(process) = &report.process {
        let get = |key: &str| {
            process.status.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
        };
        let threads = report.threads.len() as u64 + report.threads_left_out;
        let age = span(report.age_ns);
        let threads = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
        let mut line = format!("{} for {age}, {threads}", Shown(&report.program));
        if let Some(memory) = get("VmRSS") {
            let _ = write!(line, ", {memory} of memory");
        }
        if let Some(count) = process.descriptors {
            let _ = write!(line, ", {count}");
            let limit = process.limits.iter().find(|(name, ..)| name == "Max open files");
            if let Some((_, soft, _)) = limit {
                let _ = write!(line, " of {soft}");
            }
            line += " descriptors";
        }
        wrap(text, "process", &line);
    }
    let some: Vec<_> = report.pressure.iter().filter_map(|line| ten_seconds(line)).collect();
    if !some.is_empty() {
        wrap(text, "host", &format!("short of {} (% of the last 10 s)", some.join(", ")));
    }
    let watchdog = &report.watchdog;
    let (now, worst) = (short(watchdog.lag_ns), short(watchdog.worst_lag_ns));
    wrap(text, "watchdog", &format!("{now} late in this turn, {worst} at worst"));
}

/// `cpu some avg10=1.50 avg60=...` becomes `cpu 1.50`.
fn ten_seconds(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let (what, kind) = (words.next()?, words.next()?);
    let value = words.next()?.strip_prefix("avg10=")?;
    (kind == "some").then(|| format!("{what} {value}"))
}

/// Those first that say most: the leader, who runs, who is stuck.
fn threads(report: &Report, text: &mut String) {
    if report.threads.is_empty() {
        return;
    }
    let mut order: Vec<(usize, &Thread)> = report.threads.iter().enumerate().collect();
    let weight = |place: usize, thread: &Thread| match thread.state.as_str() {
        _ if place == 0 => 0,
        "R" | "D" | "T" | "t" => 1,
        _ => 2,
    };
    order.sort_by_key(|(place, thread)| (weight(*place, thread), thread.tid));
    let _ = writeln!(text, "\n{:>8} {:<15}  S  {:>8}  WHERE", "THREAD", "NAME", "CPU");
    for (place, (_, thread)) in order.iter().enumerate() {
        if place == FIRST && order.len() > FIRST + 4 && report.stacks_come() {
            let more = order.len() - FIRST;
            let _ = writeln!(text, "{more:>8} more are below");
            break;
        }
        row(thread, text);
    }
    if report.threads_left_out > 0 {
        let _ = writeln!(text, "{:>8} more were not looked at", report.threads_left_out);
    }
}

fn row(thread: &Thread, text: &mut String) {
    let cpu = match busy(thread) {
        Some(share) => format!("{share} %"),
        None => short(thread.cpu_ns).to_string(),
    };
    let mut place = thread.call.clone();
    if !thread.wait_channel.is_empty() {
        let of = if place.is_empty() { "" } else { " in " };
        let _ = write!(place, "{of}{}", thread.wait_channel);
    }
    let (tid, name, state) = (thread.tid, Shown(&thread.name).to_string(), &thread.state);
    let _ = writeln!(text, "{tid:>8} {name:<15}  {state}  {cpu:>8}  {place}");
}

fn sockets(report: &Report, text: &mut String) {
    if report.sockets.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{:>8} {:>8} {:>8}  SOCKET", "FD", "UNREAD", "UNSENT");
    for Socket { descriptor, what, state, unread, unsent } in &report.sockets {
        let what = Shown(what);
        let _ = writeln!(text, "{descriptor:>8} {unread:>8} {unsent:>8}  {what} {state}");
    }
    if report.sockets_left_out > 0 {
        let _ = writeln!(text, "{:>8} more", report.sockets_left_out);
    }
}

fn lines(text: &mut String, lines: &str) {
    for line in lines.lines() {
        // A tab is no danger, and stacks are set with it.
        let shown: Vec<_> = line.split('\t').map(|part| Shown(part).to_string()).collect();
        let _ = writeln!(text, "  {}", shown.join("    "));
    }
}

fn stacks(report: &Report, text: &mut String) {
    for Stacks { tool, took_ns, failed, text: said, cut } in &report.stacks {
        let took = short(*took_ns);
        let (tool, failed) = (Shown(tool), Shown(failed).to_string());
        if failed.is_empty() {
            let _ = writeln!(text, "\nstacks by {tool} ({took})");
        } else {
            let _ = writeln!(text, "\nno stacks by {tool}: {failed} ({took})");
        }
        lines(text, said);
        if *cut {
            text.push_str("  (it said more)\n");
        }
    }
}

fn kernel(report: &Report, text: &mut String) {
    for thread in report.threads.iter().filter(|thread| !thread.kernel_stack.is_empty()) {
        let _ = writeln!(text, "\nin the kernel: {} {}", thread.tid, Shown(&thread.name));
        lines(text, &thread.kernel_stack.join("\n"));
    }
}

fn rest(report: &Report, text: &mut String) {
    if !report.log.is_empty() {
        text.push_str("\nlast lines of its log\n");
        lines(text, &report.log.join("\n"));
    }
    if let Some(process) = &report.process {
        text.push_str("\nprocess\n");
        for (key, value) in &process.status {
            let _ = writeln!(text, "  {key:<20} {value}");
        }
        for (name, soft, hard) in &process.limits {
            let _ = writeln!(text, "  {name:<20} {soft} (at most {hard})");
        }
        lines(text, &process.cgroup.join("\n"));
    }
    if !report.pressure.is_empty() {
        text.push_str("\nhost\n");
        lines(text, &report.pressure.join("\n"));
    }
    if report.extent == Extent::Short {
        text.push_str("\nshort: too many fell silent at once for a closer look\n");
    }
    if !report.missing.is_empty() {
        text.push_str("\nnot read\n");
        lines(text, &report.missing.join("\n"));
    }
}

impl Report {
    /// Whether every thread is told once more below.
    fn stacks_come(&self) -> bool {
        self.threads.iter().all(|thread| !thread.kernel_stack.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Data, Process};
    use osps_heart::words::{Cause, Class};

    /// The path of a socket, which anybody may choose, went to the terminal as it was: by way of
    /// the call that a thread sleeps in, and of the sentence.
    #[test]
    fn nothing_in_a_report_moves_the_cursor() {
        let bad = "a\u{1b}[2J\r\u{9b}b";
        let call = format!("read of socket {bad}");
        let mut report = Report {
            threads: vec![Thread { call, name: bad.to_owned(), ..Thread::default() }],
            ..Report::default()
        };
        report.heart.source = bad.to_owned();
        report.summary.sentence = bad.to_owned();
        let text = render(&report);
        assert!(text.contains("a?[2J??b"), "{text}");
        assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
    }

    #[test]
    fn the_first_screen_says_what_matters() {
        let thread = |tid, name: &str, call: &str| Thread {
            tid,
            name: name.to_owned(),
            state: "S".to_owned(),
            wait_channel: "futex_do_wait".to_owned(),
            call: call.to_owned(),
            ..Thread::default()
        };
        let mut report = Report {
            pid: 4711,
            program: "server".to_owned(),
            activity: Some("step \u{1b}[2J".to_owned()),
            data: Some(Data {
                owner: Some("worker-1".to_owned()),
                recalled_ns: Some(3_900_000_000),
                waiting: vec![("worker-2".to_owned(), 3)],
            }),
            process: Some(Process::default()),
            threads: vec![thread(4711, "main", "futex(0x7f)"), thread(4712, "io", "")],
            pressure: vec!["cpu some avg10=1.50 avg60=0.00 total=1".to_owned()],
            ..Report::default()
        };
        report.summary.number = 17;
        report.summary.service = "worker-1".to_owned();
        report.summary.generation = 3;
        report.summary.cause = Some(Cause::Frozen);
        report.summary.class = Some(Class::Blocked);
        report.summary.silence_ns = 4_020_000_000;
        report.summary.sentence =
            "worker-1 was frozen for 4.0 s: blocked in futex_do_wait, thread \
                                   `main`, waiting for a lock; 3 clients waited"
                .to_owned();
        report.heart.limit_ns = 4_000_000_000;
        let text = render(&report);
        let first: Vec<_> = text.lines().take(24).collect();
        assert!(first.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        let expected = "\
report 17: worker-1 gen=3 pid=4711, 1970-01-01T00:00:00Z
worker-1 was frozen for 4.0 s: blocked in futex_do_wait, thread `main`, waiting
for a lock; 3 clients waited.

verdict    frozen (blocked): no beat for 4.02s, limit 4.00s
heart      , 0 beats
doing      step \\x1b[2J
data       owned by worker-1, asked back 3.90s before; 3 wait in worker-2
process    server for 0 ms, 2 threads
host       short of cpu 1.50 (% of the last 10 s)
watchdog   0us late in this turn, 0us at worst

  THREAD NAME             S       CPU  WHERE
    4711 main             S       0us  futex(0x7f) in futex_do_wait
    4712 io               S       0us  futex_do_wait
";
        assert!(text.starts_with(expected), "{text}");
    }
}
