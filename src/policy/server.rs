//! One server, as the group knows it: where it stands, and what belongs to that.
//!
//! A process that lives owns its times and its pulse, one that has to go owns the reason, a slot
//! without a process owns why the last one went. So no field is only sometimes meaningful.

use std::time::Duration;

use osps_heart::pulse::{Limits, Pulse};
use osps_heart::time::Monotonic;
use osps_heart::words::Cause;

use super::lifecycle::{Patience, Stage};
use super::restart::Tally;
use super::verdict::DYING_MAX;

/// First look for a new server's first beat; each further one comes later by half of the time that
/// has passed, at most by the slack. So "up" is known within milliseconds, a freeze right after it
/// in time, and a slow start of ten seconds costs some forty wake-ups.
pub(super) const PROBE: Duration = Duration::from_millis(2);

/// What is known of a process, from its spawn to its confirmed death.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) spawned_at: Monotonic,
    /// When to look for the first beat.
    pub(super) probe_at: Monotonic,
    pub(super) pulse: Pulse,
    /// Its first beat.
    pub(super) up_since: Option<Monotonic>,
    /// Since when the kernel has been seen taking it down.
    pub(super) dying_since: Option<Monotonic>,
    /// Since when clients have had nobody to talk to; `None` = they have somebody.
    pub(super) absent_since: Option<Monotonic>,
}

/// What is known of a slot without a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    /// Why the last process went; `None` = it was told to, or there was none.
    pub(super) cause: Option<Cause>,
    /// Since when clients have had nobody to talk to; `None` = they never had.
    pub(super) absent_since: Option<Monotonic>,
}

/// Why a process has to go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    /// It was told to.
    Told,
    /// It was told to, and then killed at this moment without waiting for it.
    Hastened(Monotonic),
    /// It was killed at this moment, for this cause.
    Condemned(Cause, Monotonic),
}

/// What belongs to a stage.
#[derive(Clone, Debug)]
pub(super) enum Holding {
    /// Down, backoff, failed.
    Dead(Gone),
    /// Starting, up, late, held.
    Alive(Life),
    /// Asked, terminating, killing, unkillable.
    Leaving(Life, Reason),
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) limits: Limits,
    pub(super) patience: Patience,
    pub(super) tally: Tally,
    /// It shall start as soon as what it depends on is up.
    pub(super) due: bool,
    pub(super) stage: Stage,
    pub(super) holding: Holding,
    /// When the stage wants [`super::lifecycle::Trigger::Timer`].
    pub(super) timer: Option<Monotonic>,
}

impl Life {
    /// Whether it may go on dying: within the time that the kernel may take.
    pub(super) fn may_die(&mut self, now: Monotonic) -> bool {
        now.since(*self.dying_since.get_or_insert(now)) < DYING_MAX
    }
}

impl Server {
    /// Who runs in the slot, watched or leaving.
    pub(super) fn life(&self) -> Option<&Life> {
        match &self.holding {
            Holding::Alive(life) | Holding::Leaving(life, _) => Some(life),
            Holding::Dead(_) => None,
        }
    }

    /// Why the last process went, if none runs.
    pub(super) fn gone_for(&self) -> Option<Cause> {
        match &self.holding {
            Holding::Dead(gone) => gone.cause,
            Holding::Alive(_) | Holding::Leaving(..) => None,
        }
    }

    /// A process begins its life in place of one that is gone.
    pub(super) fn begin(&mut self, now: Monotonic, count: u64) {
        let absent_since = match &self.holding {
            Holding::Dead(gone) => gone.absent_since,
            Holding::Alive(life) | Holding::Leaving(life, _) => life.absent_since,
        };
        self.holding = Holding::Alive(Life {
            spawned_at: now,
            probe_at: now + PROBE,
            pulse: Pulse::new(self.limits, now, count),
            up_since: None,
            dying_since: None,
            absent_since,
        });
    }

    /// Notes why the process has to go, and since when clients have nobody to talk to. Whoever goes
    /// already keeps the reason for it.
    pub(super) fn leave(&mut self, reason: Reason, absent_since: Option<Monotonic>) {
        match &mut self.holding {
            Holding::Alive(life) => {
                let mut life = life.clone();
                life.absent_since = life.absent_since.or(absent_since);
                self.holding = Holding::Leaving(life, reason);
            }
            Holding::Leaving(_, was) => {
                if let (Reason::Told, Reason::Condemned(_, at)) = (*was, reason) {
                    *was = Reason::Hastened(at);
                }
            }
            Holding::Dead(_) => {}
        }
    }
}
