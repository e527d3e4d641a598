//! The life of one server: a finite automaton, one `match`, no wildcard arm.
//!
//! After s6-supervise's transition table: audit a supervisor by reading rows. The table printed in
//! docs/architecture.md is compared with this code by a test there. Impossible pairs are arms too:
//! they keep the state.

use std::fmt;
use std::time::Duration;

use super::verdict::Class;
use crate::time::Monotonic;

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No process.
    Down,
    /// Spawned, no beat yet.
    Starting,
    /// Beating.
    Up,
    /// Silent for 60 % of its limit.
    Late,
    /// Silent by somebody's intention (debugger, frozen control group): watched, not killed.
    Held,
    /// A process that has to go; nothing else may start in its slot until its death is confirmed.
    Stopping(Rung),
    /// No process; waits before the next.
    Backoff {
        /// Not before this moment.
        until: Monotonic,
    },
    /// No process and never again: too many restarts.
    Failed,
}

/// How far a stopping server has been pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Its desired word says stop.
    Asked {
        /// Then TERM and CONT.
        until: Monotonic,
    },
    /// TERM and CONT were sent.
    Terminating {
        /// Then KILL.
        until: Monotonic,
    },
    /// KILL was sent.
    Killing {
        /// Then an alarm.
        until: Monotonic,
    },
    /// KILL did not work so far; the slot stays closed.
    Unkillable,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It may run now.
    Start,
    /// It beat.
    Beat,
    /// It has been silent for 60 % of its limit.
    Late,
    /// It is overdue, and somebody wants it so.
    Hold,
    /// Nobody wants it silent any more: its limit runs again.
    Pardon,
    /// It is overdue: kill it.
    Convict,
    /// It must go at once, for another's sake.
    Condemn,
    /// It shall stop in an orderly way.
    Stop,
    /// Its process is confirmed dead (or could not be started).
    Died(Next),
    /// A moment named by the state has come.
    Timer,
}

/// What follows a death, decided by `restart` and `group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Stay down.
    Rest,
    /// Wait until then.
    Wait(Monotonic),
    /// Give up.
    Never,
}

/// What the performer shall do; at most one thing per transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Start a process in the slot.
    Spawn,
    /// Look at `/proc` and remember.
    Baseline,
    /// Set the desired word to stop.
    Ask,
    /// Send TERM, then CONT, so that a stopped process can act on it.
    Terminate,
    /// Send KILL to the process group and through the pidfd.
    Kill,
    /// Tell everybody that it does not die.
    Alarm,
}

/// How long each rung of a stop lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Time to leave when asked, by the desired word alone.
    pub ask: Duration,
    /// Time from TERM to KILL.
    pub term: Duration,
    /// Time from KILL to the alarm.
    pub kill: Duration,
}

impl State {
    /// The transition table.
    #[must_use]
    pub fn on(self, event: Event, now: Monotonic, patience: &Patience) -> (State, Option<Act>) {
        let kill = (State::Stopping(Rung::Killing { until: now + patience.kill }), Some(Act::Kill));
        let terminate = (
            State::Stopping(Rung::Terminating { until: now + patience.term }),
            Some(Act::Terminate),
        );
        let stop = (State::Stopping(Rung::Asked { until: now + patience.ask }), Some(Act::Ask));
        match self {
            State::Down => match event {
                Event::Start => (State::Starting, Some(Act::Spawn)),
                Event::Beat
                | Event::Late
                | Event::Hold
                | Event::Pardon
                | Event::Convict
                | Event::Condemn
                | Event::Stop
                | Event::Died(_)
                | Event::Timer => (self, None),
            },
            State::Starting => match event {
                Event::Beat => (State::Up, None),
                Event::Late => (self, Some(Act::Baseline)),
                Event::Hold => (State::Held, None),
                Event::Convict | Event::Condemn => kill,
                Event::Stop => stop,
                Event::Died(next) => (next.state(), None),
                Event::Start | Event::Pardon | Event::Timer => (self, None),
            },
            State::Up => match event {
                Event::Late => (State::Late, Some(Act::Baseline)),
                Event::Hold => (State::Held, None),
                Event::Convict | Event::Condemn => kill,
                Event::Stop => stop,
                Event::Died(next) => (next.state(), None),
                Event::Start | Event::Beat | Event::Pardon | Event::Timer => (self, None),
            },
            State::Late => match event {
                Event::Beat => (State::Up, None),
                Event::Late => (self, Some(Act::Baseline)),
                Event::Hold => (State::Held, None),
                Event::Convict | Event::Condemn => kill,
                Event::Stop => stop,
                Event::Died(next) => (next.state(), None),
                Event::Start | Event::Pardon | Event::Timer => (self, None),
            },
            State::Held => match event {
                Event::Beat => (State::Up, None),
                Event::Late => (self, Some(Act::Baseline)),
                Event::Pardon => (State::Late, None),
                Event::Convict | Event::Condemn => kill,
                Event::Stop => stop,
                Event::Died(next) => (next.state(), None),
                Event::Start | Event::Hold | Event::Timer => (self, None),
            },
            State::Stopping(rung) => match event {
                Event::Died(next) => (next.state(), None),
                Event::Condemn => match rung {
                    Rung::Asked { .. } | Rung::Terminating { .. } => kill,
                    Rung::Killing { .. } | Rung::Unkillable => (self, None),
                },
                Event::Timer => match rung {
                    Rung::Asked { .. } => terminate,
                    Rung::Terminating { .. } => kill,
                    Rung::Killing { .. } => (State::Stopping(Rung::Unkillable), Some(Act::Alarm)),
                    Rung::Unkillable => (self, None),
                },
                Event::Start
                | Event::Beat
                | Event::Late
                | Event::Hold
                | Event::Pardon
                | Event::Convict
                | Event::Stop => (self, None),
            },
            State::Backoff { .. } => match event {
                Event::Timer => (State::Starting, Some(Act::Spawn)),
                Event::Stop => (State::Down, None),
                Event::Start
                | Event::Beat
                | Event::Late
                | Event::Hold
                | Event::Pardon
                | Event::Convict
                | Event::Condemn
                | Event::Died(_) => (self, None),
            },
            State::Failed => match event {
                Event::Start
                | Event::Beat
                | Event::Late
                | Event::Hold
                | Event::Pardon
                | Event::Convict
                | Event::Condemn
                | Event::Stop
                | Event::Died(_)
                | Event::Timer => (self, None),
            },
        }
    }

    /// The moment at which this state wants [`Event::Timer`].
    pub fn timer(self) -> Option<Monotonic> {
        match self {
            State::Backoff { until }
            | State::Stopping(
                Rung::Asked { until } | Rung::Terminating { until } | Rung::Killing { until },
            ) => Some(until),
            State::Down
            | State::Starting
            | State::Up
            | State::Late
            | State::Held
            | State::Stopping(Rung::Unkillable)
            | State::Failed => None,
        }
    }

    /// Whether a process may be alive in the slot.
    pub fn has_process(self) -> bool {
        match self {
            State::Starting | State::Up | State::Late | State::Held | State::Stopping(_) => true,
            State::Down | State::Backoff { .. } | State::Failed => false,
        }
    }

    /// Whether its heart is being judged.
    pub fn is_watched(self) -> bool {
        match self {
            State::Starting | State::Up | State::Late | State::Held => true,
            State::Down | State::Stopping(_) | State::Backoff { .. } | State::Failed => false,
        }
    }

    /// Its number in the segment.
    pub fn code(self) -> u64 {
        match self {
            State::Down => 0,
            State::Starting => 1,
            State::Up => 2,
            State::Late => 3,
            State::Stopping(_) => 4,
            State::Backoff { .. } => 5,
            State::Held => 6,
            State::Failed => 7,
        }
    }
}

/// The words for [`State::code`], in order; the same in log, JSON and docs.
pub const STATE_WORDS: [&str; 8] =
    ["down", "starting", "up", "late", "stopping", "backoff", "held", "failed"];

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = usize::try_from(self.code()).ok().and_then(|code| STATE_WORDS.get(code));
        f.write_str(word.unwrap_or(&"unknown"))
    }
}

impl Next {
    fn state(self) -> State {
        match self {
            Next::Rest => State::Down,
            Next::Wait(until) => State::Backoff { until },
            Next::Never => State::Failed,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It never ran: the kernel refused to start it.
    NotSpawned,
    /// Confirmed, but somebody else got the status.
    Unknown,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exited(status) => write!(f, "status {status}"),
            Death::Killed(signal) => write!(f, "signal {signal}"),
            Death::NotSpawned => f.write_str("could not be started"),
            Death::Unknown => f.write_str("status unknown"),
        }
    }
}

/// Why a process had to be replaced. Written down before anything is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It exited by itself.
    Exited,
    /// A signal that was not ours killed it.
    Killed,
    /// It fell silent.
    Frozen(Class),
    /// It never beat.
    StartTimeout,
    /// The primary failed, so it was restarted as well.
    Primary,
    /// Somebody asked for it.
    Requested,
}

impl Cause {
    /// The words for [`Cause::code`] minus one, in order.
    pub const WORDS: [&'static str; 6] =
        ["exited", "killed", "frozen", "start-timeout", "primary", "requested"];

    /// The cause that a death by itself is.
    pub fn of(death: Death) -> Cause {
        match death {
            Death::Exited(_) | Death::NotSpawned | Death::Unknown => Cause::Exited,
            Death::Killed(_) => Cause::Killed,
        }
    }

    /// Its number in the segment, 1 to 6.
    pub fn code(self) -> u64 {
        match self {
            Cause::Exited => 1,
            Cause::Killed => 2,
            Cause::Frozen(_) => 3,
            Cause::StartTimeout => 4,
            Cause::Primary => 5,
            Cause::Requested => 6,
        }
    }

    /// The class, for a freeze.
    pub fn class(self) -> Option<Class> {
        match self {
            Cause::Frozen(class) => Some(class),
            Cause::Exited
            | Cause::Killed
            | Cause::StartTimeout
            | Cause::Primary
            | Cause::Requested => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = usize::try_from(self.code()).map_or(0, |code| code - 1);
        f.write_str(Cause::WORDS[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_and_causes_have_words() {
        let words: Vec<_> = [
            Cause::Exited,
            Cause::Killed,
            Cause::Frozen(Class::Stopped),
            Cause::StartTimeout,
            Cause::Primary,
            Cause::Requested,
        ]
        .map(|cause| (cause.code(), cause.to_string(), cause.class()))
        .into();
        let expected = Cause::WORDS.iter().zip(1..).map(|(word, code)| {
            let class = (*word == "frozen").then_some(Class::Stopped);
            (code, (*word).to_owned(), class)
        });
        assert_eq!(words, expected.collect::<Vec<_>>());
        assert_eq!(Death::Exited(3).to_string(), "status 3");
        assert_eq!(Death::Killed(9).to_string(), "signal 9");
        assert_eq!(Death::NotSpawned.to_string(), "could not be started");
    }

    #[test]
    fn each_rung_of_a_stop_has_its_time() {
        let s = Duration::from_secs;
        let patience = Patience { ask: s(5), term: s(1), kill: s(4) };
        let now = Monotonic(7_000_000_000);
        let mut state = State::Up;
        for (event, act, lasts) in [
            (Event::Stop, Act::Ask, s(5)),
            (Event::Timer, Act::Terminate, s(1)),
            (Event::Timer, Act::Kill, s(4)),
        ] {
            let (next, done) = state.on(event, now, &patience);
            assert_eq!((next.timer(), done), (Some(now + lasts), Some(act)), "{event:?}");
            state = next;
        }
    }
}
