//! What the operator reads: one log line per happening, in a stable shape, and the status line.
//!
//! `worker-1 gen=3 pid=4711: late -> frozen (stopped; no beat for 4.00s, limit 4s)`. The words
//! are those of status, JSON and docs. Where a server goes for a cause, the cause stands in the
//! place of the new state: it is what the reader wants to know.

use std::fmt::Write;
use std::time::Duration;

use log::Level;
use osps_heart::ids::Generation;
use osps_heart::segment::{Death, Record, What};
use osps_heart::time::Short;
use osps_heart::words::{Cause, Class, HeartSource, Press, State};

use crate::policy::verdict::DYING_MAX;

/// Who a line speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Its generation.
    pub generation: Generation,
    /// Its pid, 0 = none.
    pub pid: u32,
}

/// Logs a happening.
pub fn tell(record: &Record) {
    log::log!(level(record), "{}", line(record));
}

/// Where a setting was given, and so where a line of advice says that it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// As an option of the command line.
    Option,
    /// As a key of the file.
    Key,
}

impl Given {
    fn start_timeout(self) -> &'static str {
        match self {
            Given::Option => "--start-timeout",
            Given::Key => "start-timeout",
        }
    }

    fn heart(self, source: &str) -> String {
        match self {
            Given::Option => format!("--heart {source}"),
            Given::Key => format!("heart = \"{source}\""),
        }
    }
}

/// Tells how a program gets a heart, when the first wait for a beat was in vain.
pub fn advise(name: &str, source: HeartSource, given: Given) {
    let timeout = given.start_timeout();
    match source {
        HeartSource::Notify => log::warn!(
            "{name} has not said READY=1 (sd_notify). If it does not speak that, choose another \
             heart; if it only starts slowly, raise {timeout}"
        ),
        HeartSource::File | HeartSource::Probe => log::warn!(
            "the {source} of {name} has never succeeded: look at it by hand; if {name} only starts \
             slowly, raise {timeout}"
        ),
        HeartSource::Memory
        | HeartSource::Loop
        | HeartSource::Loops
        | HeartSource::None
        | HeartSource::Auto => log::warn!(
            "{name} has never beaten, so nobody can tell whether it works. Let its main loop beat, \
             within the hang timeout: with three lines in Rust (osps_heart::Heart), C (osps.h) and \
             Python (import osps), elsewhere with one write or `osps beat` \
             (docs/your-program.md). If it only starts slowly, raise {timeout}"
        ),
    }
}

/// Tells how the silence of a program that is up without a beat can be made to count. `loaded` is
/// the process that the shim says it is in.
pub fn advise_unwatched(name: &str, source: HeartSource, loaded: Option<u32>, given: Given) {
    let heart = |source| given.heart(source);
    match (source, loaded) {
        (HeartSource::Loop | HeartSource::Loops, Some(pid)) => log::warn!(
            "{name} has not come to an event wait (the shim is loaded, last in pid {pid}), so a \
             freeze of it goes unnoticed. If its event loop is in another thread, {} watches \
             that; else choose another heart (probe:, file:, notify)",
            heart("loops")
        ),
        (HeartSource::Loop | HeartSource::Loops, None) => log::warn!(
            "{name} did not load the shim for event loops (a static or privileged program behind \
             a wrapper? an own runtime as Go's?), so a freeze of it goes unnoticed. Choose another \
             heart (probe:, file:, notify)"
        ),
        _ => log::info!(
            "{name} does not beat, so only its death is noticed, not a freeze. To change that: {} \
             (its event loop, unchanged), {} or probe:CMD, {} (a log that moves), sd_notify with \
             WATCHDOG=1, or three lines in its main loop (docs/your-program.md). If that is as it \
             should be: {}",
            heart("loop"),
            heart("probe:http://..."),
            heart("file:PATH"),
            heart("none")
        ),
    }
}

/// How loud a line is.
pub fn level(record: &Record) -> Level {
    let by_itself = record.up.is_some() && record.took.is_none();
    match record.what {
        What::Pressed { heedless: true, .. }
        | What::Verdict { cause: Cause::Dependency | Cause::Requested, .. } => Level::Info,
        What::Verdict { .. }
        | What::Held { .. }
        | What::Late { .. }
        | What::Pressed { .. }
        | What::Alarm
        | What::LateTurn { .. }
        | What::Spared { .. }
        | What::Paused { .. }
        | What::Warned { .. } => Level::Warn,
        What::Failed { .. } => Level::Error,
        What::Died { cause: Some(_), .. } | What::Backoff { .. } if by_itself => Level::Warn,
        What::Started { .. }
        | What::FirstBeat { .. }
        | What::Beat { .. }
        | What::Pardoned
        | What::StopOrder
        | What::Died { .. }
        | What::Backoff { .. }
        | What::WatchdogStarted
        | What::Unwatched
        | What::Watched { .. }
        | What::Done { .. }
        | What::Asked { .. }
        | What::Resumed
        | What::Removed
        | What::Adopted { .. }
        | What::Blocked { .. }
        | What::WatchdogStopping => Level::Info,
    }
}

/// The text.
pub fn line(record: &Record) -> String {
    let Record { name, detail, .. } = record;
    let (from, to) = record.change.unwrap_or((State::Down, State::Down));
    let event = match &record.what {
        What::Started { after: None, .. } => format!("{from} -> {to}"),
        What::Started { after: Some(cause), .. } => format!("{from} -> {to} (after {cause})"),
        What::FirstBeat { after, down_for: None } => {
            format!("{from} -> {to} (first beat after {})", Short(*after))
        }
        What::FirstBeat { after, down_for: Some(down_for) } => {
            let (after, down_for) = (Short(*after), Short(*down_for));
            format!("{from} -> {to} (first beat after {after}; down for {down_for})")
        }
        What::Beat { silence } => {
            format!("{from} -> {to} (beats again after {})", Short(*silence))
        }
        What::Late { silence } => {
            format!("{from} -> {to} (no beat for {}, limit {})", Short(*silence), limit(record))
        }
        What::Held { class: Class::Dying } => format!(
            "{from} -> {to} (dying: the kernel writes its core or takes it down; waiting for that, \
             {} at most)",
            humantime::format_duration(DYING_MAX)
        ),
        What::Held { class } => {
            format!("{from} -> {to} ({class}: somebody's intention; watched, but not killed)")
        }
        What::Pardoned => {
            format!("{from} -> {to} (nobody holds it any more; its limit runs again)")
        }
        What::Verdict { cause, class, silence } => {
            let why = verdict(*cause, *class, Short(*silence), record);
            format!("{from} -> {cause} ({why})")
        }
        What::StopOrder => format!("{from} -> {to} (told to stop)"),
        What::Pressed { press: Press::Terminate, heedless: true } => {
            format!("{from} (sent {detail}, since it does not look at its stop word)")
        }
        What::Pressed { press: Press::Terminate, .. } => {
            format!("{from} (did not leave when told to: {detail}, CONT)")
        }
        What::Pressed { press: Press::Kill, .. } => {
            format!("{from} (did not leave after {detail}: KILL)")
        }
        What::Alarm => {
            format!(
                "{from} (unkillable: KILL has had no effect; its slot stays closed, still watching)"
            )
        }
        What::Died { death, cause } => gone(record, *cause, *death, ""),
        What::Backoff { death, .. } => {
            gone(record, Some(death.cause()), *death, "; backs off before the next")
        }
        What::Failed { death, once } => {
            let next =
                if *once { "; it is not restarted" } else { "; restarted too often, giving up" };
            gone(record, Some(death.cause()), *death, next)
        }
        What::Done { death } => match record.up {
            Some(up) => format!("{from} -> {to} ({death}, after {} up)", Short(up)),
            None => format!("{from} -> {to} ({death})"),
        },
        What::Blocked { .. } => format!("{from} -> {to} (waits for {detail})"),
        What::Asked { request, uid } => match uid {
            0 => format!("{request} asked for by root"),
            uid => format!("{request} asked for by user {uid}"),
        },
        What::Paused { until } => {
            format!("paused: not judged for {}", Short(until.since(record.time)))
        }
        What::Resumed => "resumed: judged again, its limit runs from now".to_owned(),
        What::Removed => "removed: its service is not in the file any more".to_owned(),
        What::Adopted { .. } if from == to => format!("{to} (taken over, alive)"),
        What::Adopted { .. } => format!("{from} -> {to} (taken over, alive)"),
        What::LateTurn { by } => {
            format!("watchdog was late by {}: every limit runs again", Short(*by))
        }
        What::Spared { silence } => {
            let silence = Short(*silence);
            format!("starved (no beat for {silence}, the host is overloaded): one more limit")
        }
        What::Warned { class, silence } => {
            let why = verdict(Cause::Frozen, Some(*class), Short(*silence), record);
            format!("{from} -> {to} ({why}; on-hang is warn, so it is not killed)")
        }
        What::Unwatched if from == to => {
            "unwatched: whoever beat is gone; its silence counts again from the next beat"
                .to_owned()
        }
        What::Unwatched => format!("{from} -> {to} (unwatched: it has not beaten)"),
        What::Watched { source } => format!("watched from now on ({source} heart)"),
        What::WatchdogStarted => {
            format!("watchdog pid={} watches over {}", record.pid, record.text)
        }
        What::WatchdogStopping => format!("{detail}: stopping"),
    };
    if record.slot.is_none() {
        return event;
    }
    match record.pid {
        0 => format!("{name} gen={}: {event}", record.generation),
        pid => format!("{name} gen={} pid={pid}: {event}", record.generation),
    }
}

/// The limit in force, whose it is, and what the prober found: all that a silence is measured by.
fn limit(record: &Record) -> String {
    let mut text = record
        .limit
        .map_or("unknown".to_owned(), |limit| humantime::format_duration(limit).to_string());
    if !record.heart.is_empty() {
        let _ = write!(text, ", heart {}", record.heart);
    }
    if !record.text.is_empty() {
        let _ = write!(text, "; {}", record.text);
    }
    text
}

/// What a verdict is founded on.
fn verdict(cause: Cause, class: Option<Class>, silence: Short, record: &Record) -> String {
    let (limit, detail) = (limit(record), record.detail);
    match (cause, class) {
        (Cause::Frozen, Some(Class::NotReleasing)) => format!(
            "not-releasing: keeps the data although it was asked to give it back {limit} ago"
        ),
        (Cause::Frozen, Some(Class::Triggered)) => {
            "triggered: it said that it is broken (WATCHDOG=trigger)".to_owned()
        }
        (Cause::Frozen, class) => {
            let place = if detail.is_empty() { String::new() } else { format!(" in {detail}") };
            let class = class.unwrap_or(Class::Unknown);
            format!("{class}{place}; no beat for {silence}, limit {limit}")
        }
        (Cause::StartTimeout, _) => format!("no first beat for {silence}, limit {limit}"),
        (Cause::Dependency, _) => format!("ended, its {detail} failed"),
        (Cause::Requested | Cause::Exited | Cause::Killed | Cause::OutOfMemory, _) => {
            "killed at once".to_owned()
        }
    }
}

/// How a process went. If it went by itself, the cause is the news.
fn gone(record: &Record, cause: Option<Cause>, death: Death, next: &str) -> String {
    let (from, to) = record.change.unwrap_or((State::Down, State::Down));
    match (cause, record.up, record.took) {
        (Some(cause), Some(up), None) => {
            format!("{from} -> {cause} ({death}, after {} up{next})", Short(up))
        }
        (_, _, Some(took)) => {
            format!("{from} -> {to} ({death}, dead after {}{next})", Short(took))
        }
        (_, _, None) => format!("{from} -> {to} ({death}{next})"),
    }
}

/// One server in the status line.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    /// Who.
    pub who: Who<'a>,
    /// Its state.
    pub state: State,
    /// Time since its last beat.
    pub silence: Option<Duration>,
}

/// The status line of one check: the pids of watchdog and servers, their states and the ages of
/// their beats.
pub fn status_line(check: u64, watchdog: u32, servers: &[Glance<'_>]) -> String {
    let mut text = format!("check {check}: watchdog pid={watchdog}");
    for server in servers {
        let _ = write!(text, " | {}", server.who.name);
        let _ = match server.who.pid {
            0 => write!(text, " pid=- {}", server.state),
            pid => write!(text, " pid={pid} {}", server.state),
        };
        if let Some(silence) = server.silence {
            let _ = write!(text, ", beat {} ago", Short(silence));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use osps_heart::ids::SlotId;
    use osps_heart::time::Monotonic;

    #[test]
    fn lines_have_a_stable_shape() {
        let seconds = Duration::from_secs;
        let frozen =
            |class| What::Verdict { cause: Cause::Frozen, class: Some(class), silence: seconds(4) };
        let death = Death::Killed(9);
        let record = |what| Record {
            pid: 4711,
            name: "worker-1".into(),
            ..Record::new(Monotonic(7), Some(SlotId(1)), Generation(3), what)
        };
        let late = |class, detail: &str| Record {
            change: Some((State::Late, State::Stopping)),
            limit: Some(seconds(4)),
            detail: detail.into(),
            ..record(frozen(class))
        };
        let dependency =
            What::Verdict { cause: Cause::Dependency, class: None, silence: Duration::default() };
        let (after, down_for) = (Duration::from_micros(3100), Some(Duration::from_millis(4050)));
        for (record, expected) in [
            (late(Class::Stopped, ""), "late -> frozen (stopped; no beat for 4.00s, limit 4s)"),
            (
                late(Class::Blocked, "anon_pipe_read"),
                "late -> frozen (blocked in anon_pipe_read; no beat for 4.00s, limit 4s)",
            ),
            (
                Record {
                    heart: "poller".into(),
                    text: "status 503".into(),
                    ..late(Class::Spinning, "")
                },
                "late -> frozen (spinning; no beat for 4.00s, limit 4s, heart poller; status 503)",
            ),
            (
                Record {
                    change: Some((State::Starting, State::Up)),
                    ..record(What::FirstBeat { after, down_for })
                },
                "starting -> up (first beat after 3.1ms; down for 4.05s)",
            ),
            (
                Record {
                    change: Some((State::Up, State::Down)),
                    up: Some(seconds(7)),
                    ..record(What::Died { death, cause: Some(Cause::Killed) })
                },
                "up -> killed (signal 9, after 7.00s up)",
            ),
            (
                Record {
                    change: Some((State::Up, State::Stopping)),
                    detail: "database".into(),
                    ..record(dependency)
                },
                "up -> dependency (ended, its database failed)",
            ),
            (
                Record {
                    change: Some((State::Stopping, State::Down)),
                    up: Some(seconds(7)),
                    took: Some(Duration::from_micros(200)),
                    ..record(What::Died { death, cause: Some(Cause::Frozen) })
                },
                "stopping -> down (signal 9, dead after 200us)",
            ),
            (
                record(What::Paused { until: Monotonic(7) + seconds(60) }),
                "paused: not judged for 60.00s",
            ),
        ] {
            assert_eq!(line(&record), format!("worker-1 gen=3 pid=4711: {expected}"));
        }
    }

    #[test]
    fn the_status_line_names_every_pid() {
        let who = |name, pid| Who { name, generation: Generation(1), pid };
        let servers = [
            Glance {
                who: who("first", 12),
                state: State::Up,
                silence: Some(Duration::from_millis(120)),
            },
            Glance { who: who("worker-1", 0), state: State::Down, silence: None },
        ];
        assert_eq!(
            status_line(3, 10, &servers),
            "check 3: watchdog pid=10 | first pid=12 up, beat 120.0ms ago | worker-1 pid=- down\n"
        );
    }
}
