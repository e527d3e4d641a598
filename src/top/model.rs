//! What the list shows: a row per server, with what the looks before this one saw of it.
//!
//! Pure: no clock, no terminal. A look is folded into the model before it; what only two looks
//! together tell (rates, traces) is made here, the rest is the snapshot's.

use std::collections::{HashMap, VecDeque};

use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, State};

use crate::view::looker::Sight;
use crate::view::snapshot::{Server, Snapshot};

/// Seconds of a trace: a column each, as many as the widest terminal shows.
pub(super) const COLUMNS: usize = 120;
/// Seconds that a rate is the mean of: twice the slowest usual beat, and more.
const RATE: usize = 5;
/// Nanoseconds of a column.
const SECOND: u64 = 1_000_000_000;

/// One second of a heart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Beats in it.
    pub beats: u64,
    /// The worst that was seen of its server.
    pub mark: Mark,
}

/// What a second was like, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Nobody looked.
    Unseen,
    /// As it should be.
    Well,
    /// It had not to beat: it starts, stops, waits or is down.
    Away,
    /// It was silent for too long.
    Silent,
    /// It was replaced.
    Replaced,
}

/// The last seconds of a heart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// Whole seconds, oldest first.
    columns: VecDeque<Column>,
    /// The one that is not over.
    open: Column,
    /// Which second that is.
    second: u64,
    /// The count at the last look.
    beats: u64,
    /// The restarts until then.
    restarts: u64,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As it was seen.
    pub server: Server,
    /// Whether it may write the data.
    pub owns: bool,
    /// Its last seconds.
    pub trace: Trace,
}

/// All that is known of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    /// When it was looked at last.
    pub at: Monotonic,
    /// What was seen then, or last.
    pub snapshot: Option<Box<Snapshot>>,
    /// Why nothing was seen at the last look.
    pub missing: Option<String>,
    /// Its servers, in the order of their slots.
    pub rows: Vec<Row>,
}

impl Model {
    /// What is known after this look, too.
    pub(super) fn look(self, sight: Sight, at: Monotonic) -> Model {
        let snapshot = match sight {
            Sight::There(snapshot) => snapshot,
            Sight::Nothing => {
                let missing = Some("nothing runs here; waiting for an osps that does".to_owned());
                return Model { at, missing, ..self };
            }
            Sight::Unreadable(why) => return Model { at, missing: Some(why), ..self },
        };
        let is_new = |known: &Snapshot| {
            // Another instance of the same name: nothing of the old one is its past.
            snapshot.servers.iter().any(|server| {
                let before = known.servers.iter().find(|old| old.name == server.name);
                before.is_some_and(|old| server.beats < old.beats)
            })
        };
        let is_new = self.snapshot.as_deref().is_some_and(is_new);
        let mut traces: HashMap<_, _> = if is_new {
            HashMap::new()
        } else {
            self.rows.into_iter().map(|row| (row.server.name, row.trace)).collect()
        };
        let rows = snapshot.servers.iter().map(|server| {
            let before = traces.remove(&server.name);
            let owns = snapshot.data.owner.as_ref() == Some(&server.name);
            Row { server: server.clone(), owns, trace: Trace::after(before, server, at) }
        });
        Model { at, rows: rows.collect(), missing: None, snapshot: Some(snapshot) }
    }
}

impl Row {
    /// What is wrong with it: the higher, the further up it stands.
    pub(super) fn urgency(&self) -> u8 {
        match self.server.state {
            Some(State::Failed) => 9,
            None | Some(State::Late) => 8,
            Some(State::Held) => 7,
            Some(State::Backoff) => 6,
            Some(State::Stopping) => 5,
            Some(State::Starting) => 4,
            Some(State::Blocked) => 3,
            // Somebody asked for it, or the watchdog is dead, which is told elsewhere.
            Some(State::Down) => 2,
            Some(State::Up | State::Done) => u8::from(self.server.paused.is_some()),
        }
    }
}

impl Trace {
    fn after(before: Option<Trace>, server: &Server, at: Monotonic) -> Trace {
        let restarts = server.restarts.of(&Cause::ALL);
        let second = at.0 / SECOND;
        let unseen = Column { beats: 0, mark: Mark::Unseen };
        let mut trace = before.unwrap_or_else(|| Trace {
            columns: VecDeque::new(),
            open: unseen,
            second,
            beats: server.beats,
            restarts,
        });
        let passed = second.saturating_sub(trace.second).min(COLUMNS as u64);
        for _ in 0..passed {
            let over = std::mem::replace(&mut trace.open, unseen);
            // The first one was looked at for a part of it only.
            trace.columns.push_back(if trace.columns.is_empty() { unseen } else { over });
        }
        let surplus = trace.columns.len().saturating_sub(COLUMNS);
        trace.columns.drain(..surplus);
        let is_new = restarts > trace.restarts;
        let mark = if is_new { Mark::Replaced } else { Mark::of(server.state) };
        trace.open.beats += server.beats.saturating_sub(trace.beats);
        trace.open.mark = trace.open.mark.max(mark);
        Trace { second, beats: server.beats, restarts, ..trace }
    }

    /// The last whole seconds, oldest first, at most `most`.
    pub(super) fn last(&self, most: usize) -> impl Iterator<Item = Column> + '_ {
        let skipped = self.columns.len().saturating_sub(most);
        self.columns.iter().skip(skipped).copied()
    }

    /// Beats a second, over the last whole seconds that were looked at; `None` = there is none.
    pub(super) fn rate(&self) -> Option<f64> {
        let seen = self.columns.iter().rev().take(RATE).filter(|one| one.mark != Mark::Unseen);
        let (beats, seconds) =
            seen.fold((0_u64, 0_u32), |(sum, count), one| (sum + one.beats, count + 1));
        let beats = u32::try_from(beats).unwrap_or(u32::MAX);
        (seconds > 0).then(|| f64::from(beats) / f64::from(seconds))
    }
}

impl Mark {
    fn of(state: Option<State>) -> Mark {
        match state {
            Some(State::Up) => Mark::Well,
            Some(State::Late | State::Held) => Mark::Silent,
            None
            | Some(
                State::Down
                | State::Starting
                | State::Stopping
                | State::Backoff
                | State::Failed
                | State::Done
                | State::Blocked,
            ) => Mark::Away,
        }
    }
}
