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
pub struct Recorded {
    /// Its state.
    pub state: State,
    /// What it shall do.
    pub goal: Goal,
    /// Its process was told to stop.
    pub told: bool,
    /// Its pid; 0 = none.
    pub pid: u32,
    /// Where its heart stood when its process was spawned.
    pub baseline: u64,
    /// Its gate was opened.
    pub opened: bool,
    /// Since when its process was up.
    pub up_since: Option<Monotonic>,
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

/// A slot page, and what is seen of the process that it names.
#[derive(Clone, Debug)]
pub struct Past {
    /// What was written down.
    pub page: Recorded,
    /// What is seen of its process.
    pub seen: Seen,
    /// How it died, if it is gone.
    pub death: Death,
    /// Where its heart stands: for one that was not up, where it stood at its spawn.
    pub count: u64,
}

impl Past {
    /// A page, by whether its process `lives`, where its heart stands now (`beats`), and how it
    /// died if it did.
    pub fn of(page: Recorded, lives: bool, beats: u64, death: Death) -> Past {
        let seen = match (lives, page.pid) {
            (true, _) if page.told => Seen::Told,
            (true, _) => Seen::Lives,
            // Its gate was closed, so it never ran.
            (false, _) if page.state == State::Starting && !page.opened => Seen::Nobody,
            (false, 0) => Seen::Nobody,
            (false, _) => Seen::Gone,
        };
        let count = if page.up_since.is_some() { beats } else { page.baseline };
        Past { page, seen, death, count }
    }

    /// It was up, if it lives.
    pub fn is_up(&self) -> bool {
        self.page.up_since.is_some()
    }

    /// Its silence counted.
    pub fn has_beaten(&self) -> bool {
        self.count != self.page.baseline
    }

    fn fate(&self) -> Fate {
        fate(self.page.state, self.seen)
    }
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
            if matches!(past.fate(), Fate::Adopt | Fate::Stop) {
                let what = What::Adopted { pid: past.page.pid };
                let (from, to) = (past.page.state, self.stage(*slot).state());
                let change = Change { slot: *slot, from, to, what, note: Note::Nothing };
                out.push(Action::Changed(change));
            }
        }
        for (slot, past) in pasts {
            match past.fate() {
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

    /// A further heart of who was taken over had beaten: its silence counts from now on.
    pub fn go_on_with(&mut self, slot: SlotId, line: u16) {
        if let Some((_, _, life)) = self.alive(slot)
            && let Some(heart) = life.further.get_mut(&line)
        {
            heart.pulse = heart.pulse.clone().continued();
        }
    }
}

impl Server {
    fn continue_from(&mut self, past: &Past, now: Monotonic) {
        let page = &past.page;
        let since = page.since.min(now);
        self.goal = page.goal;
        self.tally.recall(&page.tally, now);
        self.paused_until = page.paused_until.map(|until| until.min(now + PAUSE_MAX));
        self.holding = Holding::Dead(Gone { cause: page.cause, absent_since: Some(since) });
        match past.fate() {
            Fate::Adopt | Fate::Stop | Fate::Bury => {
                self.begin(now, past.count, true);
                self.stage = if past.is_up() { Stage::Up } else { Stage::Starting };
                if let Holding::Alive(life) = &mut self.holding {
                    life.spawned_at = page.spawned_at.min(now);
                    life.absent_since = (!past.is_up()).then_some(since);
                    life.up_since = page.up_since.map(|since| since.min(now));
                    if past.has_beaten() {
                        life.own.pulse = life.own.pulse.clone().continued();
                    }
                    life.own.pulse.excuse(page.excused_until.min(now + PAUSE_MAX));
                    if let Some(until) = self.paused_until {
                        life.excuse(until);
                    }
                }
                if past.seen == Seen::Gone && page.state == State::Stopping {
                    // The last cause of one that was told to go is that of an earlier process.
                    let cause = page.cause.filter(|_| !page.told);
                    let condemned = |cause| Reason::Condemned(cause, since);
                    self.leave(cause.map_or(Reason::Told, condemned), None);
                    self.stage = Stage::Killing;
                }
            }
            Fate::Start | Fate::Stay => {
                // It was to go only in order to come back, and it is gone.
                if self.goal == Goal::Again {
                    self.goal = Goal::Run;
                }
                let shall_run = self.goal == Goal::Run;
                self.stage = match page.state {
                    // Whether this start is still wanted is seen by all the others.
                    _ if past.fate() == Fate::Start => Stage::Down,
                    State::Backoff if shall_run => Stage::Backoff,
                    State::Blocked if shall_run => Stage::Blocked,
                    State::Failed => Stage::Failed,
                    State::Done => Stage::Done,
                    State::Backoff
                    | State::Blocked
                    | State::Down
                    | State::Starting
                    | State::Up
                    | State::Late
                    | State::Held
                    | State::Stopping => Stage::Down,
                };
                // Nobody waits longer than the longest pause.
                let most = now + super::super::restart::DELAY_MAX;
                let due = page.due.map_or(now, |due| due.min(most));
                self.timer = (self.stage == Stage::Backoff).then_some(due);
            }
        }
    }
}
