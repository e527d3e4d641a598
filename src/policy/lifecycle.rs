//! The life of one server: a finite automaton, one table, states by triggers.
//!
//! After s6-supervise's transition table: audit a supervisor by reading rows. docs/architecture.md
//! prints the table, and a test there compares. Impossible pairs have cells too: they stay. What a
//! stage knows besides (pids, times, causes) is `group`'s, and moves with it.

use std::time::Duration;

use osps_heart::time::Monotonic;
use osps_heart::words::State;
use serde::{Deserialize, Serialize};

/// Where a server stands: a state of the outside world, with the rungs of a stop told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
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
    /// It has to go: its desired word says stop.
    Asked,
    /// It has to go: TERM and CONT were sent.
    Terminating,
    /// It has to go: KILL was sent.
    Killing,
    /// KILL did not work so far; the slot stays closed.
    Unkillable,
    /// No process; waits before the next.
    Backoff,
    /// No process and none by itself: it failed too often, or once where that is enough.
    Failed,
    /// No process, and none needed any more: it ended with success.
    Done,
    /// No process yet: it shall run, and waits for what it depends on.
    Blocked,
}

/// What makes a server change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It may run now.
    Start,
    /// It shall run, and waits for what it depends on.
    Await,
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
    /// Its process is confirmed dead (or could not be started): stay down.
    Rest,
    /// The same: wait before the next.
    Wait,
    /// The same: give up.
    Never,
    /// The same, and that was a success: no more of it is needed.
    Finish,
    /// A moment named by the stage has come.
    Timer,
}

/// What the performer shall do; at most one thing per transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Start a process in the slot.
    Spawn,
    /// Look at `/proc` and remember.
    Look,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Time to leave when asked, by the desired word alone.
    pub ask: Duration,
    /// Time from TERM to KILL.
    pub term: Duration,
    /// Time from KILL to the alarm.
    pub kill: Duration,
}

/// What a trigger does in a stage; `None` = it stays, and nothing is done.
type Cell = Option<(Stage, Option<Act>)>;

const STAY: Cell = None;
const DOWN: Cell = Some((Stage::Down, None));
const BOOT: Cell = Some((Stage::Starting, Some(Act::Spawn)));
const GOES: Cell = Some((Stage::Up, None));
const LATE: Cell = Some((Stage::Late, Some(Act::Look)));
const LAX_: Cell = Some((Stage::Late, None));
const HELD: Cell = Some((Stage::Held, None));
const ASK_: Cell = Some((Stage::Asked, Some(Act::Ask)));
const TERM: Cell = Some((Stage::Terminating, Some(Act::Terminate)));
const KILL: Cell = Some((Stage::Killing, Some(Act::Kill)));
const ALRM: Cell = Some((Stage::Unkillable, Some(Act::Alarm)));
const WAIT: Cell = Some((Stage::Backoff, None));
const FAIL: Cell = Some((Stage::Failed, None));
const DONE: Cell = Some((Stage::Done, None));
const BLKD: Cell = Some((Stage::Blocked, None));
/// The same stage, looked at.
const LK_S: Cell = Some((Stage::Starting, Some(Act::Look)));
const LK_H: Cell = Some((Stage::Held, Some(Act::Look)));

/// The transition table: a row per stage, a column per trigger, in the order of their `ALL`. The
/// stages are shown by their first letters.
#[rustfmt::skip]
const TABLE: [[Cell; Trigger::ALL.len()]; Stage::ALL.len()] = [
    //         Start Await Beat  Late  Hold  Pard. Conv. Cond. Stop  Rest  Wait  Never Fin.  Timer
    /* Down */ [BOOT, BLKD, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY],
    /* Star */ [STAY, STAY, GOES, LK_S, HELD, STAY, KILL, KILL, ASK_, DOWN, WAIT, FAIL, DONE, STAY],
    /* Up   */ [STAY, STAY, STAY, LATE, HELD, STAY, KILL, KILL, ASK_, DOWN, WAIT, FAIL, DONE, STAY],
    /* Late */ [STAY, STAY, GOES, LATE, HELD, STAY, KILL, KILL, ASK_, DOWN, WAIT, FAIL, DONE, STAY],
    /* Held */ [STAY, STAY, GOES, LK_H, STAY, LAX_, KILL, KILL, ASK_, DOWN, WAIT, FAIL, DONE, STAY],
    /* Aske */ [STAY, STAY, STAY, STAY, STAY, STAY, STAY, KILL, STAY, DOWN, WAIT, FAIL, DONE, TERM],
    /* Term */ [STAY, STAY, STAY, STAY, STAY, STAY, STAY, KILL, STAY, DOWN, WAIT, FAIL, DONE, KILL],
    /* Kill */ [STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, DOWN, WAIT, FAIL, DONE, ALRM],
    /* Unki */ [STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, DOWN, WAIT, FAIL, DONE, STAY],
    /* Back */ [BOOT, BLKD, STAY, STAY, STAY, STAY, STAY, STAY, DOWN, STAY, STAY, STAY, STAY, BOOT],
    /* Fail */ [BOOT, BLKD, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY],
    /* Done */ [BOOT, BLKD, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY, STAY],
    /* Bloc */ [BOOT, STAY, STAY, STAY, STAY, STAY, STAY, STAY, DOWN, STAY, STAY, STAY, STAY, STAY],
];

impl Stage {
    /// All of them, in the order of the table's rows.
    pub const ALL: [Stage; 13] = [
        Stage::Down,
        Stage::Starting,
        Stage::Up,
        Stage::Late,
        Stage::Held,
        Stage::Asked,
        Stage::Terminating,
        Stage::Killing,
        Stage::Unkillable,
        Stage::Backoff,
        Stage::Failed,
        Stage::Done,
        Stage::Blocked,
    ];

    /// The transition.
    #[must_use]
    pub fn on(self, trigger: Trigger) -> (Stage, Option<Act>) {
        TABLE[self as usize][trigger as usize].unwrap_or((self, None))
    }

    /// How long it may last until [`Trigger::Timer`]; `None` = no limit of this kind.
    pub fn lasts(self, patience: &Patience) -> Option<Duration> {
        match self {
            Stage::Asked => Some(patience.ask),
            Stage::Terminating => Some(patience.term),
            Stage::Killing => Some(patience.kill),
            Stage::Down
            | Stage::Starting
            | Stage::Up
            | Stage::Late
            | Stage::Held
            | Stage::Unkillable
            | Stage::Backoff
            | Stage::Failed
            | Stage::Done
            | Stage::Blocked => None,
        }
    }

    /// What the outside world calls it.
    pub fn state(self) -> State {
        match self {
            Stage::Down => State::Down,
            Stage::Starting => State::Starting,
            Stage::Up => State::Up,
            Stage::Late => State::Late,
            Stage::Held => State::Held,
            Stage::Asked | Stage::Terminating | Stage::Killing | Stage::Unkillable => {
                State::Stopping
            }
            Stage::Backoff => State::Backoff,
            Stage::Failed => State::Failed,
            Stage::Done => State::Done,
            Stage::Blocked => State::Blocked,
        }
    }

    /// Whether a process may be alive in the slot.
    pub fn has_process(self) -> bool {
        self.state().has_process()
    }

    /// Whether its heart is being judged.
    pub fn is_watched(self) -> bool {
        match self {
            Stage::Starting | Stage::Up | Stage::Late | Stage::Held => true,
            Stage::Down
            | Stage::Asked
            | Stage::Terminating
            | Stage::Killing
            | Stage::Unkillable
            | Stage::Backoff
            | Stage::Failed
            | Stage::Done
            | Stage::Blocked => false,
        }
    }
}

impl Trigger {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Trigger; 14] = [
        Trigger::Start,
        Trigger::Await,
        Trigger::Beat,
        Trigger::Late,
        Trigger::Hold,
        Trigger::Pardon,
        Trigger::Convict,
        Trigger::Condemn,
        Trigger::Stop,
        Trigger::Rest,
        Trigger::Wait,
        Trigger::Never,
        Trigger::Finish,
        Trigger::Timer,
    ];
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
    /// It is done.
    Finish,
}

impl Next {
    /// The trigger that a death with this consequence is.
    pub fn trigger(self) -> Trigger {
        match self {
            Next::Rest => Trigger::Rest,
            Next::Wait(_) => Trigger::Wait,
            Next::Never => Trigger::Never,
            Next::Finish => Trigger::Finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_stand_in_the_order_of_their_names() {
        for (row, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, row);
        }
        for (column, trigger) in Trigger::ALL.into_iter().enumerate() {
            assert_eq!(trigger as usize, column);
        }
    }

    #[test]
    fn each_rung_of_a_stop_has_its_time() {
        let s = Duration::from_secs;
        let patience = Patience { ask: s(5), term: s(1), kill: s(4) };
        let mut stage = Stage::Up;
        for (trigger, act, lasts) in [
            (Trigger::Stop, Act::Ask, Some(s(5))),
            (Trigger::Timer, Act::Terminate, Some(s(1))),
            (Trigger::Timer, Act::Kill, Some(s(4))),
            (Trigger::Timer, Act::Alarm, None),
        ] {
            let (next, done) = stage.on(trigger);
            assert_eq!((next.lasts(&patience), done), (lasts, Some(act)), "{trigger:?}");
            stage = next;
        }
    }

    #[test]
    fn only_a_confirmed_death_opens_a_slot() {
        let deaths = [Trigger::Rest, Trigger::Wait, Trigger::Never, Trigger::Finish];
        for stage in Stage::ALL.into_iter().filter(|stage| stage.has_process()) {
            for trigger in Trigger::ALL {
                let (next, act) = stage.on(trigger);
                assert_eq!(next.has_process(), !deaths.contains(&trigger), "{stage:?} {trigger:?}");
                assert_ne!(act, Some(Act::Spawn), "a second process: {stage:?} {trigger:?}");
            }
        }
    }
}
