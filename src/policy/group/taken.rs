//! Taking over what a killed watchdog left: where each server stands, and what it was to become.
//!
//! Whoever lives is taken first, and gets one full limit; then deaths are counted and what was
//! under way goes on, by the same rules as ever. Nothing is forgiven: tallies, pauses and pauses
//! before a next start are continued (`policy::adopt` has the table).

use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::segment::layout::TALLY;
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Goal, State};

use super::super::adopt::{Fate, Seen, fate};
use super::super::lifecycle::Stage;
use super::super::server::{Gone, Holding, Reason, Server};
use super::{Action, Change, Group, Note};

/// What a slot page says, as far as the policy goes on with it. An allegation.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its state.
    pub state: State,
    /// What it shall do.
    pub goal: Goal,
    /// What is seen of its process.
    pub seen: Seen,
    /// Its pid; 0 = none.
    pub pid: u32,
    /// How it died, if it is gone.
    pub death: Death,
    /// Where its heart stands.
    pub count: u64,
    /// Its silence counted.
    pub beaten: bool,
    /// It was up, if it lives.
    pub up: bool,
    /// When its process was spawned.
    pub spawned_at: Monotonic,
    /// When its state was entered.
    pub since: Monotonic,
    /// Not judged until then.
    pub paused_until: Option<Monotonic>,
    /// Not overdue before, by its own wish.
    pub excused_until: Monotonic,
    /// When it starts again, if it backs off.
    pub due: Option<Monotonic>,
    /// Why the last process went.
    pub cause: Option<Cause>,
    /// Its recent deaths.
    pub tally: [u64; TALLY],
}

/// Longest pause that is believed: nobody may ask for more.
const PAUSE_MAX: Duration = osps_heart::pulse::LIMIT_MAX;

impl Group {
    /// Takes over all slots that a killed watchdog left. To be followed by [`super::Input::Boot`].
    pub fn take_over(&mut self, now: Monotonic, pasts: &[(SlotId, Past)]) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        for (slot, past) in pasts {
            if let Some(server) = self.servers.get_mut(slot.index()) {
                server.continue_from(past, now);
            }
            if matches!(fate(past.state, past.seen), Fate::Adopt | Fate::Stop) {
                let what = What::Adopted { pid: past.pid };
                let (from, to) = (past.state, self.stage(*slot).state());
                let change = Change { slot: *slot, from, to, what, note: Note::Nothing };
                out.push(Action::Changed(change));
            }
        }
        for (slot, past) in pasts {
            match fate(past.state, past.seen) {
                Fate::Stop => {
                    let Some(server) = self.servers.get_mut(slot.index()) else { continue };
                    // The whole instance was stopping: who starts it again wants all of it.
                    if server.goal == Goal::Run {
                        server.goal = Goal::Again;
                    }
                    self.stop(*slot, now, out);
                }
                Fate::Bury => self.died(*slot, past.death, now, out),
                Fate::Adopt | Fate::Stay | Fate::Start => {}
            }
        }
        actions
    }
}

impl Server {
    fn continue_from(&mut self, past: &Past, now: Monotonic) {
        self.goal = past.goal;
        self.tally.recall(&past.tally, now);
        self.paused_until = past.paused_until.map(|until| until.min(now + PAUSE_MAX));
        let gone = Gone { cause: past.cause, absent_since: Some(past.since.min(now)) };
        self.holding = Holding::Dead(gone);
        match fate(past.state, past.seen) {
            Fate::Adopt | Fate::Stop | Fate::Bury => {
                self.begin(now, past.count, true);
                self.stage = if past.up { Stage::Up } else { Stage::Starting };
                if let Holding::Alive(life) = &mut self.holding {
                    life.spawned_at = past.spawned_at.min(now);
                    life.absent_since = (!past.up).then_some(past.since.min(now));
                    life.up_since = past.up.then_some(past.since.min(now));
                    if past.beaten {
                        life.own.pulse = life.own.pulse.clone().continued();
                    }
                    life.own.pulse.excuse(past.excused_until.min(now + PAUSE_MAX));
                    if let Some(until) = self.paused_until {
                        life.excuse(until);
                    }
                }
                if past.seen == Seen::Gone && past.state == State::Stopping {
                    let condemned = |cause| Reason::Condemned(cause, past.since.min(now));
                    self.leave(past.cause.map_or(Reason::Told, condemned), None);
                    self.stage = Stage::Killing;
                }
            }
            Fate::Start => self.stage = Stage::Down,
            Fate::Stay => {
                self.stage = match past.state {
                    State::Backoff => Stage::Backoff,
                    State::Failed => Stage::Failed,
                    State::Done => Stage::Done,
                    State::Blocked => Stage::Blocked,
                    State::Down
                    | State::Starting
                    | State::Up
                    | State::Late
                    | State::Held
                    | State::Stopping => Stage::Down,
                };
                // Nobody waits longer than the longest pause.
                let most = now + super::super::restart::DELAY_MAX;
                let due = past.due.map_or(now, |due| due.min(most));
                self.timer = (self.stage == Stage::Backoff).then_some(due);
                if self.goal == Goal::Again {
                    self.goal = Goal::Run;
                }
            }
        }
    }
}
