//! What a new watchdog makes of each slot that a killed one left: what was recorded, by what is
//! seen.
//!
//! A pure table, total: recorded states by what became of the process. docs/architecture.md prints
//! it, and a test there compares. Who cannot be proved to be ours is *gone* here: nobody signals
//! it.

use osps_heart::words::State;

/// What is seen of a recorded process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It lives: pid, start time and boot agree.
    Lives,
    /// It lives, and its desired word says stop.
    Told,
    /// It is gone, or its pid belongs to somebody else.
    Gone,
    /// None was recorded.
    Nobody,
}

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is watched as if it had always been: one full limit from now on.
    Adopt,
    /// The same, and then its stop begins again.
    Stop,
    /// Its death is counted now.
    Bury,
    /// Its death, if there was one, was written down: it stays what it is.
    Stay,
    /// It was about to be started: that is done now.
    Start,
}

impl Seen {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Seen; 4] = [Seen::Lives, Seen::Told, Seen::Gone, Seen::Nobody];

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Seen::Lives => "lives",
            Seen::Told => "lives, told to stop",
            Seen::Gone => "gone",
            Seen::Nobody => "nobody",
        }
    }
}

impl Fate {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Fate::Adopt => "adopt",
            Fate::Stop => "adopt, stop",
            Fate::Bury => "bury",
            Fate::Stay => "stay",
            Fate::Start => "start",
        }
    }
}

/// The table: a row per state, in the order of their codes, a column per sight.
#[rustfmt::skip]
const TABLE: [[Fate; Seen::ALL.len()]; State::ALL.len()] = {
    use Fate::{Adopt, Bury, Start, Stay, Stop};
    [
        //               lives  told  gone  nobody
        /* down     */ [Adopt, Stop, Stay, Stay],
        /* starting */ [Adopt, Stop, Bury, Start],
        /* up       */ [Adopt, Stop, Bury, Start],
        /* late     */ [Adopt, Stop, Bury, Start],
        // Convicted, and not killed yet: judged afresh.
        /* stopping */ [Adopt, Stop, Bury, Stay],
        /* backoff  */ [Adopt, Stop, Stay, Stay],
        /* held     */ [Adopt, Stop, Bury, Start],
        /* failed   */ [Adopt, Stop, Stay, Stay],
        /* done     */ [Adopt, Stop, Stay, Stay],
        /* blocked  */ [Adopt, Stop, Stay, Stay],
    ]
};

/// What becomes of a slot that was recorded in this state.
pub fn fate(recorded: State, seen: Seen) -> Fate {
    let row = State::ALL.iter().position(|state| *state == recorded).unwrap_or(0);
    TABLE[row][seen as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_is_adopted_and_who_is_gone_is_not_signalled() {
        for state in State::ALL {
            assert_eq!(fate(state, Seen::Lives), Fate::Adopt, "{state}");
            assert_eq!(fate(state, Seen::Told), Fate::Stop, "{state}");
            for seen in [Seen::Gone, Seen::Nobody] {
                assert!(!matches!(fate(state, seen), Fate::Adopt | Fate::Stop), "{state}");
            }
        }
    }

    #[test]
    fn a_death_that_was_written_down_is_not_counted_again() {
        for state in State::ALL.into_iter().filter(|state| !state.has_process()) {
            assert_eq!(fate(state, Seen::Gone), Fate::Stay, "{state}");
        }
        for state in State::ALL.into_iter().filter(|state| state.has_process()) {
            assert_eq!(fate(state, Seen::Gone), Fate::Bury, "{state}");
        }
    }
}
