//! One server, as the group knows it: where it stands, and what belongs to that.
//!
//! A process that lives owns its times and its pulse, one that has to go owns the reason, a slot
//! without a process owns why the last one went. So no field is only sometimes meaningful.

use std::collections::BTreeMap;
use std::time::Duration;

use osps_heart::pulse::{Counts, Limits, Pulse};
use osps_heart::time::Monotonic;
pub use osps_heart::words::Goal;
use osps_heart::words::{Cause, HeartSource};

use super::group::Spec;
use super::lifecycle::Stage;
use super::restart::Tally;
use super::verdict::DYING_MAX;

/// First look for a new server's first beat; each further one comes later by half of the time that
/// has passed, at most by the slack. So "up" is known within milliseconds, a freeze right after it
/// in time, and a slow start of ten seconds costs some forty wake-ups.
pub(super) const PROBE: Duration = Duration::from_millis(2);

/// Without a heart, alive for so long is up. Shorter, and a crash loop looks like success; longer,
/// and whoever waits for it waits in vain.
const ALIVE: Duration = Duration::from_secs(1);

/// How a server's silence is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Who stores its beats.
    pub source: HeartSource,
    /// A freeze is told, but nobody is killed for it.
    pub warn: bool,
}

impl Default for Watch {
    /// It beats by itself, and a freeze is its end.
    fn default() -> Watch {
        Watch { source: HeartSource::Memory, warn: false }
    }
}

impl Watch {
    /// From when on silence counts (docs/verdicts.md).
    pub(super) fn counts(self) -> Counts {
        match self.source {
            HeartSource::Memory | HeartSource::Notify | HeartSource::File | HeartSource::Probe => {
                Counts::FromStart
            }
            HeartSource::Loop | HeartSource::Loops => Counts::FromSetUp,
            HeartSource::Auto => Counts::FromFirstBeat,
            HeartSource::None => Counts::Never,
        }
    }

    /// After so long alive without a beat it is up all the same; `None` = a beat is needed.
    fn up_after(self, limits: Limits) -> Option<Duration> {
        match self.source {
            HeartSource::Memory | HeartSource::Notify | HeartSource::File | HeartSource::Probe => {
                None
            }
            // Who never comes to an event wait is not killed for it.
            HeartSource::Loop | HeartSource::Loops => Some(limits.start),
            HeartSource::Auto | HeartSource::None => Some(ALIVE),
        }
    }
}

/// One heart of a process.
#[derive(Clone, Debug)]
pub(super) struct Heart {
    pub(super) pulse: Pulse,
    /// It was found late or overdue and has not beaten since.
    pub(super) silent: bool,
}

impl Heart {
    pub(super) fn new(pulse: Pulse) -> Heart {
        Heart { pulse, silent: false }
    }
}

/// What is known of a process, from its spawn to its confirmed death.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) spawned_at: Monotonic,
    /// There is a process; until then what its heart shows is its predecessor's.
    pub(super) spawned: bool,
    /// When to look for the first beat.
    pub(super) probe_at: Monotonic,
    /// The slot's own heart.
    pub(super) own: Heart,
    /// Further ones, by their lines.
    pub(super) further: BTreeMap<u16, Heart>,
    /// When it is up without a beat.
    pub(super) up_at: Option<Monotonic>,
    /// Its first beat, or when it was taken for up without one.
    pub(super) up_since: Option<Monotonic>,
    /// Since when the kernel has been seen taking it down.
    pub(super) dying_since: Option<Monotonic>,
    /// Since when clients have had nobody to talk to; `None` = they have somebody.
    pub(super) absent_since: Option<Monotonic>,
}

/// A heart of a server: its own, or a further one by the number of its line.
pub type Line = Option<u16>;

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
    /// As its process was started.
    pub(super) spec: Spec,
    /// As the next one will be, if a reload made it another.
    pub(super) next: Option<Spec>,
    pub(super) tally: Tally,
    pub(super) goal: Goal,
    /// Nobody has this slot.
    pub(super) vacant: bool,
    /// Not judged until then.
    pub(super) paused_until: Option<Monotonic>,
    pub(super) stage: Stage,
    pub(super) holding: Holding,
    /// When the stage wants [`super::lifecycle::Trigger::Timer`].
    pub(super) timer: Option<Monotonic>,
}

impl Life {
    /// The heart in a line.
    pub(super) fn heart(&mut self, line: Line) -> Option<&mut Heart> {
        match line {
            None => Some(&mut self.own),
            Some(line) => self.further.get_mut(&line),
        }
    }

    /// Whether some heart is known to be silent.
    pub(super) fn is_silent(&self) -> bool {
        self.own.silent || self.further.values().any(|heart| heart.silent)
    }

    /// When some heart wants to be looked at.
    pub(super) fn deadline(&self) -> Monotonic {
        let further = self.further.values().map(|heart| heart.pulse.deadline());
        further.fold(self.own.pulse.deadline(), Monotonic::min)
    }

    fn hearts(&mut self) -> impl Iterator<Item = &mut Heart> {
        std::iter::once(&mut self.own).chain(self.further.values_mut())
    }

    /// Nobody judges it before this moment, and every limit runs from then.
    pub(super) fn excuse(&mut self, until: Monotonic) {
        for heart in self.hearts() {
            let limit = heart.pulse.limit();
            heart.pulse.excuse(until + limit);
        }
    }

    /// It is judged again, and every limit runs from now.
    pub(super) fn resume(&mut self, now: Monotonic) {
        for heart in self.hearts() {
            heart.pulse.resume(now);
        }
    }

    /// Whether it may go on dying: within the time that the kernel may take.
    pub(super) fn may_die(&mut self, now: Monotonic) -> bool {
        now.since(*self.dying_since.get_or_insert(now)) < DYING_MAX
    }
}

impl Server {
    /// One that shall run.
    pub(super) fn new(spec: Spec) -> Server {
        Server {
            tally: Tally::new(spec.rule.intensity),
            spec,
            next: None,
            goal: Goal::Run,
            vacant: false,
            paused_until: None,
            stage: Stage::Down,
            holding: Holding::Dead(Gone { cause: None, absent_since: None }),
            timer: None,
        }
    }

    /// A free slot.
    pub(super) fn vacant() -> Server {
        Server { goal: Goal::Rest, vacant: true, ..Server::new(Spec::default()) }
    }

    /// What it did before counts no more.
    pub(super) fn forgive(&mut self) {
        self.tally = Tally::new(self.spec.rule.intensity);
    }

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
    pub(super) fn begin(&mut self, now: Monotonic, count: u64, spawned: bool) {
        let absent_since = match &self.holding {
            Holding::Dead(gone) => gone.absent_since,
            Holding::Alive(life) | Holding::Leaving(life, _) => life.absent_since,
        };
        let spec = &self.spec;
        let mut life = Life {
            spawned_at: now,
            spawned,
            probe_at: now + PROBE,
            own: Heart::new(Pulse::new(spec.limits, now, count).counting(spec.watch.counts())),
            further: BTreeMap::new(),
            up_at: spec.watch.up_after(spec.limits).map(|after| now + after),
            up_since: None,
            dying_since: None,
            absent_since,
        };
        if let Some(until) = self.paused_until {
            life.excuse(until);
        }
        self.holding = Holding::Alive(life);
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
