//! A report in one sentence: what stood still, for how long, where, and who waited.

use std::fmt::Write;
use std::time::Duration;

use osps_heart::shown::Shown;
use osps_heart::words::{Cause, Class};

use super::calls::{Kind, Waits, by_name};
use super::{Report, Socket, Thread};

/// The whole of it.
pub(super) fn of(report: &Report) -> String {
    let summary = &report.summary;
    let silence = span(summary.silence_ns);
    let service = &summary.service;
    let heart = match report.heart.name.as_str() {
        "" => String::new(),
        name => format!(" (heart {})", Shown(name)),
    };
    let mut text = match (summary.cause, summary.class) {
        (_, Some(Class::NotReleasing)) => {
            format!("{service} did not give the data back within {}", span(report.heart.limit_ns))
        }
        (_, Some(Class::Triggered)) => format!("{service} said that it is broken"),
        (Some(Cause::StartTimeout), _) => {
            format!("{service} had not beaten {silence} after its start")
        }
        (Some(_), _) => format!("{service} was frozen for {silence}{heart}"),
        (None, _) if summary.silence_ns == 0 => format!("{service} was looked at"),
        (None, _) => format!("{service} was looked at {silence} after its last beat"),
    };
    let place = place(report);
    if !place.is_empty() {
        let _ = write!(text, ": {place}");
    }
    match waiting(report) {
        0 => {}
        1 => text += "; 1 client waited",
        many => {
            let _ = write!(text, "; {many} clients waited");
        }
    }
    text
}

/// `4.0 s`.
pub(super) fn span(ns: u64) -> String {
    let span = Duration::from_nanos(ns);
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        1..120 => format!("{:.1} s", span.as_secs_f64()),
        seconds => format!("{} min", seconds / 60),
    }
}

/// What the thread did that says most.
fn place(report: &Report) -> String {
    let stopped = report.threads.iter().any(|thread| thread.state == "T");
    if report.summary.class == Some(Class::Stopped) || stopped {
        return "stopped by a signal".to_owned();
    }
    let Some(thread) = telling(report) else {
        return report.summary.class.map_or(String::new(), |class| class.meaning().to_owned());
    };
    let name = format!("thread `{}`", Shown(&thread.name));
    match thread.state.as_str() {
        "R" => match (report.summary.class, busy(thread)) {
            (Some(Class::Starved), Some(share)) => {
                format!("it got no processor, {name} had {share} % of one")
            }
            (_, Some(share)) => format!("{name} ran all the time, with {share} % of a processor"),
            (_, None) => format!("{name} was running"),
        },
        "D" => format!("in an uninterruptible wait in {}, {name}{}", at(thread), waits(thread)),
        _ => format!("blocked in {}, {name}{}", at(thread), waits(thread)),
    }
}

/// The thread that explains the silence: of a spinning program the busiest one, of one that cannot
/// be killed the one that is stuck, else the leader.
fn telling(report: &Report) -> Option<&Thread> {
    let mut threads = report.threads.iter();
    match report.summary.class {
        Some(Class::Spinning | Class::Starved) => {
            threads.max_by_key(|thread| (thread.cpu_since_ns, thread.cpu_ns))
        }
        Some(Class::Unkillable) => {
            threads.find(|thread| thread.state == "D").or(report.threads.first())
        }
        // The leader of a program may have gone before its threads.
        _ => threads.find(|thread| thread.state != "Z").or(report.threads.first()),
    }
}

/// Share of a processor since it was late, in percent.
pub(super) fn busy(thread: &Thread) -> Option<u64> {
    let (cpu, since) = (thread.cpu_since_ns?, thread.since_ns.filter(|since| *since > 0)?);
    Some((cpu.saturating_mul(100) / since).min(100))
}

/// Where in the kernel.
fn at(thread: &Thread) -> String {
    let channel = thread.wait_channel.as_str();
    let call = thread.call.split('(').next().unwrap_or_default();
    match (channel, call) {
        ("", "") => "the kernel".to_owned(),
        ("", call) => call.to_owned(),
        (channel, _) => channel.to_owned(),
    }
}

/// `, waiting for a lock`.
fn waits(thread: &Thread) -> String {
    let (name, arguments) = thread.call.split_once('(').unwrap_or_default();
    // `3 = pipe`, perhaps with a time behind it.
    let what = arguments.trim_end_matches(')').split_once(" = ").map_or("", |(_, what)| what);
    let of = |what: &str| if what.is_empty() { String::new() } else { format!(" {what}") };
    let waits = match by_name(name).map(|call| call.kind) {
        Some(Kind::Lock) => "a lock".to_owned(),
        Some(Kind::Time) => "a time to pass".to_owned(),
        Some(Kind::Child) => "another process to end".to_owned(),
        Some(Kind::Events(_) | Kind::Descriptor(Waits::Events)) => "events".to_owned(),
        Some(Kind::Descriptor(Waits::Data)) if what.is_empty() => "data".to_owned(),
        Some(Kind::Descriptor(Waits::Data)) => format!("data from {what}"),
        Some(Kind::Descriptor(Waits::Room)) => format!("room in{}", of(what)),
        Some(Kind::Descriptor(Waits::Client)) => format!("a client of{}", of(what)),
        Some(Kind::Descriptor(Waits::Connection)) => format!("a connection of{}", of(what)),
        Some(Kind::Descriptor(Waits::Disk)) => format!("the file{}", of(what)),
        Some(Kind::Descriptor(Waits::FileLock)) => format!("a lock of{}", of(what)),
        Some(Kind::Other) => format!("{name} to return"),
        None if thread.wait_channel.contains("futex") => "a lock".to_owned(),
        None => return String::new(),
    };
    format!(", waiting for {waits}")
}

/// Clients that waited: connections to where it listens that have something to be read or accepted,
/// and those that wait for the data.
fn waiting(report: &Report) -> u64 {
    let listening =
        |socket: &&Socket| socket.state == "listening" && socket.what.starts_with("tcp");
    let port = |what: &str| {
        let local = what.split(' ').nth(1)?;
        local.rsplit_once(':').map(|(_, port)| port.to_owned())
    };
    let ports: Vec<_> =
        report.sockets.iter().filter(listening).filter_map(|socket| port(&socket.what)).collect();
    let is_client = |socket: &&Socket| {
        socket.state == "established"
            && socket.unread > 0
            && port(&socket.what).is_some_and(|port| ports.contains(&port))
    };
    // One socket may be open more than once.
    let mut listeners: Vec<_> = report.sockets.iter().filter(listening).collect();
    listeners.sort_by_key(|socket| &socket.what);
    listeners.dedup_by_key(|socket| &socket.what);
    let queued: u64 = listeners.iter().map(|socket| socket.unread).sum();
    let served = report.sockets.iter().filter(is_client).count() as u64;
    let parked = report.data.iter().flat_map(|data| &data.waiting).map(|(_, count)| count);
    parked.fold(queued.saturating_add(served), |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Data;

    fn report(class: Class, state: &str, channel: &str, call: &str) -> Report {
        let mut report = Report::default();
        report.summary.service = "worker-1".to_owned();
        report.summary.cause = Some(Cause::Frozen);
        report.summary.class = Some(class);
        report.summary.silence_ns = 4_020_000_000;
        report.threads = vec![Thread {
            name: "main".to_owned(),
            state: state.to_owned(),
            wait_channel: channel.to_owned(),
            call: call.to_owned(),
            cpu_since_ns: Some(1_560_000_000),
            since_ns: Some(1_600_000_000),
            ..Thread::default()
        }];
        report
    }

    #[test]
    fn it_says_where_and_what_was_waited_for() {
        for (class, state, channel, call, expected) in [
            (
                Class::Blocked,
                "S",
                "futex_do_wait",
                "futex(0x7f10)",
                "blocked in futex_do_wait, thread `main`, waiting for a lock",
            ),
            (
                Class::Blocked,
                "S",
                "",
                "read(3 = FIFO /tmp/f)",
                "blocked in read, thread `main`, waiting for data from FIFO /tmp/f",
            ),
            (Class::Blocked, "S", "", "", "blocked in the kernel, thread `main`"),
            (Class::Stopped, "T", "do_signal_stop", "", "stopped by a signal"),
            (
                Class::Spinning,
                "R",
                "",
                "",
                "thread `main` ran all the time, with 97 % of a processor",
            ),
            (
                Class::Unkillable,
                "D",
                "rpc_wait",
                "close(4 = /x)",
                "in an uninterruptible wait in rpc_wait, thread `main`, waiting for the file /x",
            ),
        ] {
            let text = of(&report(class, state, channel, call));
            assert_eq!(text, format!("worker-1 was frozen for 4.0 s: {expected}"));
        }
    }

    #[test]
    fn clients_that_waited_are_counted() {
        let mut report = report(Class::Stopped, "T", "", "");
        let socket = |what: &str, state: &str, unread| Socket {
            what: what.to_owned(),
            state: state.to_owned(),
            unread,
            ..Socket::default()
        };
        report.sockets = vec![
            socket("tcp 127.0.0.1:80", "listening", 2),
            socket("tcp 127.0.0.1:80", "listening", 2),
            socket("tcp 127.0.0.1:80 - 10.0.0.1:999", "established", 5),
            socket("tcp 127.0.0.1:80 - 10.0.0.1:998", "established", 0),
            socket("tcp 127.0.0.1:4000 - 127.0.0.1:5432", "established", 7),
        ];
        assert!(of(&report).ends_with("; 3 clients waited"), "{}", of(&report));
        let waiting = vec![("worker-2".to_owned(), 4)];
        report.data = Some(Data { waiting, ..Data::default() });
        assert!(of(&report).ends_with("; 7 clients waited"));
        report.sockets.clear();
        report.data = Some(Data { waiting: vec![(String::new(), 1)], ..Data::default() });
        assert!(of(&report).ends_with("; 1 client waited"));
    }

    #[test]
    fn what_nobody_knows_is_not_said() {
        let mut report = Report::default();
        report.summary.service = "a".to_owned();
        assert_eq!(of(&report), "a was looked at");
        report.summary.cause = Some(Cause::StartTimeout);
        report.summary.silence_ns = 10_000_000_000;
        assert_eq!(of(&report), "a had not beaten 10.0 s after its start");
        report.summary.cause = Some(Cause::Frozen);
        report.summary.class = Some(Class::Blocked);
        report.heart.name = "\u{1b}x".to_owned();
        assert!(of(&report).starts_with("a was frozen for 10.0 s (heart \\x1bx): asleep"));
    }
}
