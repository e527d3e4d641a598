//! What the operator reads: one log line per transition, in a stable shape, and the status line.
//!
//! `secondary-1 gen=3 pid=4711: late -> frozen (stopped; no beat for 4.00s, limit 4s)`. The words
//! are those of status, JSON and docs. Where a server goes for a cause, the cause stands in the
//! place of the new state: it is what the reader wants to know.

use std::fmt::Write;
use std::time::Duration;

use crate::config;
use crate::ids::Generation;
use crate::policy::group::Why;
use crate::policy::lifecycle::{Cause, Rung, State};
use crate::policy::verdict::Class;
use crate::time::Short;

/// Who a line speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    /// Name of the server.
    pub(super) name: &'a str,
    /// Its generation.
    pub(super) generation: Generation,
    /// Its pid, 0 = none.
    pub(super) pid: u32,
}

/// How loud a line is.
fn level(to: State, why: &Why) -> log::Level {
    match why {
        Why::Condemned { cause: Cause::Primary | Cause::Requested, .. } => log::Level::Info,
        Why::Condemned { .. } | Why::Held { .. } | Why::Silent { .. } | Why::Pressed => {
            log::Level::Warn
        }
        _ if to == State::Failed => log::Level::Error,
        Why::Died { cause: Some(_), took: None, .. } => log::Level::Warn,
        Why::Started { .. }
        | Why::FirstBeat { .. }
        | Why::Beat { .. }
        | Why::Pardoned
        | Why::StopOrder
        | Why::Died { .. } => log::Level::Info,
    }
}

/// Logs a transition. `wait_channel` is where a blocked server sleeps, if known.
pub(super) fn transition(who: &Who<'_>, from: State, to: State, why: &Why, wait_channel: &str) {
    log::log!(level(to, why), "{}", line(who, from, to, why, wait_channel));
}

fn line(who: &Who<'_>, from: State, to: State, why: &Why, wait_channel: &str) -> String {
    let mut text = format!("{} gen={}", who.name, who.generation);
    if who.pid != 0 {
        let _ = write!(text, " pid={}", who.pid);
    }
    let _ = match why {
        Why::Started { after: None } => write!(text, ": {from} -> {to}"),
        Why::Started { after: Some(cause) } => {
            write!(text, ": {from} -> {to} (after {cause})")
        }
        Why::FirstBeat { after, down_for: None } => {
            write!(text, ": {from} -> {to} (first beat after {})", Short(*after))
        }
        Why::FirstBeat { after, down_for: Some(down_for) } => write!(
            text,
            ": {from} -> {to} (first beat after {}; down for {})",
            Short(*after),
            Short(*down_for)
        ),
        Why::Beat { silence } => {
            write!(text, ": {from} -> {to} (beats again after {})", Short(*silence))
        }
        Why::Silent { silence, limit } => {
            write!(
                text,
                ": {from} -> {to} (no beat for {}, limit {})",
                Short(*silence),
                time(*limit)
            )
        }
        Why::Held { class } => write!(
            text,
            ": {from} -> {to} ({class}: somebody's intention; watched, but not killed)"
        ),
        Why::Pardoned => {
            write!(text, ": {from} -> {to} (nobody holds it any more; its limit runs again)")
        }
        Why::Condemned { cause, silence, limit } => match cause {
            Cause::Frozen(Class::NotReleasing) => write!(
                text,
                ": {from} -> {cause} (not-releasing: keeps the data although it was asked to give \
                 it back {} ago)",
                time(*limit)
            ),
            Cause::Frozen(class) => {
                let place = match (class, wait_channel) {
                    (Class::Blocked | Class::Unkillable, channel) if !channel.is_empty() => {
                        format!(" in {channel}")
                    }
                    _ => String::new(),
                };
                write!(
                    text,
                    ": {from} -> {cause} ({class}{place}; no beat for {}, limit {})",
                    Short(*silence),
                    time(*limit)
                )
            }
            Cause::StartTimeout => write!(
                text,
                ": {from} -> {cause} (no first beat for {}, limit {})",
                Short(*silence),
                time(*limit)
            ),
            Cause::Primary => write!(text, ": {from} -> {cause} (goes because the primary failed)"),
            Cause::Requested | Cause::Exited | Cause::Killed => {
                write!(text, ": {from} -> {cause} (killed at once)")
            }
        },
        Why::StopOrder => write!(text, ": {from} -> {to} (told to stop)"),
        Why::Pressed => match to {
            State::Stopping(Rung::Terminating { .. }) => {
                write!(text, ": {from} (did not leave when told to: TERM, CONT)")
            }
            State::Stopping(Rung::Killing { .. }) => {
                write!(text, ": {from} (did not leave after TERM: KILL)")
            }
            _ => write!(
                text,
                ": {from} (unkillable: KILL has had no effect; its slot stays closed, still \
                 watching)"
            ),
        },
        Why::Died { death, cause, took, up } => {
            let next = match to {
                State::Backoff { .. } => "; backs off before the next",
                State::Failed => "; restarted too often, giving up",
                _ => "",
            };
            match (cause, took) {
                // It went by itself: the cause is the news.
                (Some(cause), None) => {
                    write!(text, ": {from} -> {cause} ({death}, after {} up{next})", Short(*up))
                }
                (_, Some(took)) => {
                    write!(text, ": {from} -> {to} ({death}, dead after {}{next})", Short(*took))
                }
                (None, None) => write!(text, ": {from} -> {to} ({death})"),
            }
        }
    };
    text
}

fn time(span: Duration) -> String {
    config::time(span)
}

/// One server in the status line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance<'a> {
    /// Who.
    pub(super) who: Who<'a>,
    /// Its state.
    pub(super) state: State,
    /// Time since its last beat.
    pub(super) silence: Option<Duration>,
}

/// The status line of one check: the pids of watchdog, primary and secondaries, their states and
/// the ages of their beats.
pub(super) fn status_line(check: u64, watchdog: u32, servers: &[Glance<'_>]) -> String {
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
    use crate::policy::lifecycle::Death;
    use crate::time::Monotonic;

    #[test]
    fn lines_have_a_stable_shape() {
        let who = Who { name: "secondary-1", generation: Generation(3), pid: 4711 };
        let seconds = Duration::from_secs;
        let killing = State::Stopping(Rung::Killing { until: Monotonic(0) });
        let frozen = |class| Why::Condemned {
            cause: Cause::Frozen(class),
            silence: seconds(4),
            limit: seconds(4),
        };
        let died = |cause, took| Why::Died { death: Death::Killed(9), cause, took, up: seconds(7) };
        for (from, to, why, channel, expected) in [
            (
                State::Late,
                killing,
                frozen(Class::Stopped),
                "do_signal_stop",
                "late -> frozen (stopped; no beat for 4.00s, limit 4s)",
            ),
            (
                State::Late,
                killing,
                frozen(Class::Blocked),
                "anon_pipe_read",
                "late -> frozen (blocked in anon_pipe_read; no beat for 4.00s, limit 4s)",
            ),
            (
                State::Starting,
                State::Up,
                Why::FirstBeat {
                    after: Duration::from_micros(3100),
                    down_for: Some(Duration::from_millis(4050)),
                },
                "",
                "starting -> up (first beat after 3.1ms; down for 4.05s)",
            ),
            (
                State::Up,
                State::Down,
                died(Some(Cause::Killed), None),
                "",
                "up -> killed (signal 9, after 7.00s up)",
            ),
            (
                killing,
                State::Down,
                died(Some(Cause::Frozen(Class::Stopped)), Some(Duration::from_micros(200))),
                "",
                "stopping -> down (signal 9, dead after 200us)",
            ),
        ] {
            let line = line(&who, from, to, &why, channel);
            assert_eq!(line, format!("secondary-1 gen=3 pid=4711: {expected}"));
        }
    }

    #[test]
    fn the_status_line_names_every_pid() {
        let who = |name, pid| Who { name, generation: Generation(1), pid };
        let servers = [
            Glance {
                who: who("primary", 12),
                state: State::Up,
                silence: Some(Duration::from_millis(120)),
            },
            Glance { who: who("secondary-1", 0), state: State::Down, silence: None },
        ];
        assert_eq!(
            status_line(3, 10, &servers),
            "check 3: watchdog pid=10 | primary pid=12 up, beat 120.0ms ago | secondary-1 pid=- \
             down\n"
        );
    }
}
