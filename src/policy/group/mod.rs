//! The servers as a set: who goes with whom, in what order they stop, when all is over.
//!
//! The watchdog does not know what a server is for: a slot is a limit, a patience and its edges to
//! others (`graph`). Rules: a server that *failed* takes those with it that restart with it, once
//! its own death is confirmed and not before; one that goes for that reason does not count as
//! failing; whoever needs another stops before it, and starts after it; giving up on an essential
//! one stops all. What people ask for is in `asked`, hearts are in `hearts`, deaths, starts and
//! stops in `life`.
//!
//! A turn is fed in this order, so that a death and a missed beat in one turn always resolve the
//! same way (death wins): [`Input::Turn`], what the server said, stop requests, deaths, samples,
//! [`Input::Timers`].

mod asked;
mod hearts;
mod life;
mod roll;
mod taken;

use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::pulse::{Gap, Limits, Sample, Turn, slack};
use osps_heart::segment::layout::TALLY;
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, Press, State};

use super::graph::{Cycle, Edges, Graph};
use super::lifecycle::{Act, Patience, Stage, Trigger};
use super::restart::Rule;
pub use super::server::{Goal, Line, Watch};
use super::server::{Holding, Life, Server};
pub use asked::Edit;
use roll::Roll;
pub use taken::{Past, Recorded};

/// What the policy has to know about one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What it needs of others.
    pub edges: Edges,
    /// Silence that convicts, before and after the first beat.
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
    /// How its silence is judged.
    pub watch: Watch,
    /// What its death means.
    pub rule: Rule,
}

impl Default for Spec {
    /// Of nobody: a free slot.
    fn default() -> Spec {
        let zero = Duration::ZERO;
        Spec {
            edges: Edges::default(),
            limits: Limits { hang: zero, start: zero },
            patience: Patience { ask: zero, term: zero, kill: zero },
            watch: Watch::default(),
            rule: Rule::default(),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// Start everything, in order.
    Boot,
    /// A turn of the loop begins that was planned for this moment.
    Turn {
        /// The deadline that the loop waited for.
        planned: Monotonic,
    },
    /// Stop everything, in order.
    Stop,
    /// Stop everything at once.
    ForceStop,
    /// A process was started; its heart's count stands at `count`.
    Spawned {
        /// In this slot.
        slot: SlotId,
        /// Baseline of the heart.
        count: u64,
    },
    /// A process is confirmed dead, its group killed, its status reaped.
    Died {
        /// In this slot.
        slot: SlotId,
        /// How.
        death: Death,
    },
    /// A heart was read, by the moment of this step.
    Sample {
        /// Of this slot.
        slot: SlotId,
        /// What it shows.
        seen: Sample,
    },
    /// A further heart was read, by the moment of this step.
    Further {
        /// Of this slot.
        slot: SlotId,
        /// In this line.
        line: u16,
        /// What it shows; `None` = it was given back.
        seen: Option<Sample>,
        /// Its limit; `None` = the server's.
        limit: Option<Duration>,
    },
    /// It is ready, though its heart may never beat (`READY=1`).
    Ready {
        /// In this slot.
        slot: SlotId,
    },
    /// It asked for more time: neither overdue nor pressed for so long.
    Excused {
        /// In this slot.
        slot: SlotId,
        /// From now on.
        span: Duration,
    },
    /// It chose a limit of its own.
    Limited {
        /// In this slot.
        slot: SlotId,
        /// Silence that convicts.
        hang: Duration,
    },
    /// Its kill was decided, and comes later by so much.
    Delayed {
        /// In this slot.
        slot: SlotId,
        /// From now on, at most.
        span: Duration,
    },
    /// It said itself that it is broken.
    Triggered {
        /// In this slot.
        slot: SlotId,
    },
    /// It was told to stop, but does not look at its desired word.
    Heedless {
        /// In this slot.
        slot: SlotId,
    },
    /// An overdue server was looked at, its heart read once more after that.
    Examined {
        /// In this slot.
        slot: SlotId,
        /// Which heart.
        line: Line,
        /// What its heart shows now.
        seen: Sample,
        /// What `/proc` says.
        class: Class,
    },
    /// A server kept the ownership of the data for its limit although it was asked to give it back.
    NotReleasing {
        /// In this slot.
        slot: SlotId,
    },
    /// Somebody wants it to run.
    Start {
        /// In this slot.
        slot: SlotId,
    },
    /// Somebody wants it to go, and to stay away.
    Rest {
        /// In this slot.
        slot: SlotId,
    },
    /// Somebody wants it to go and to come back, when all that the same request named before it
    /// are up.
    Restart {
        /// In this slot.
        slot: SlotId,
        /// The first slot of its service: one instance of that is away at a time.
        service: SlotId,
        /// Which request.
        request: u64,
    },
    /// Somebody wants it not to be judged.
    Pause {
        /// In this slot.
        slot: SlotId,
        /// Until then.
        until: Monotonic,
    },
    /// Somebody wants it to be judged again.
    Resume {
        /// In this slot.
        slot: SlotId,
    },
    /// Nothing of a server that was removed is left.
    Vacate {
        /// In this slot.
        slot: SlotId,
    },
    /// The moment to look at timers.
    Timers,
}

/// What the performer shall do, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Write it down (segment, event ring, log) before doing what follows.
    Changed(Change),
    /// Do one thing to one server.
    Do {
        /// The server.
        slot: SlotId,
        /// The thing.
        act: Act,
    },
    /// Take evidence, read the heart once more and feed [`Input::Examined`] in this turn.
    Examine {
        /// The overdue server.
        slot: SlotId,
        /// Which heart of it.
        line: Line,
    },
    /// From now on the slot's service is the one that a reload brought.
    Renewed {
        /// The server.
        slot: SlotId,
    },
    /// A server is up again, as this request wanted.
    Rolled {
        /// Which request.
        request: u64,
        /// The server.
        slot: SlotId,
    },
    /// Write it down: something happened, but no state changed.
    Told {
        /// The server; `None` = the watchdog itself.
        slot: Option<SlotId>,
        /// What happened.
        what: What,
    },
}

/// A state that changed: what happened, and what only the policy knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The server.
    pub slot: SlotId,
    /// Its state until now.
    pub from: State,
    /// Its state from now on.
    pub to: State,
    /// What happened. A start does not know its pid yet.
    pub what: What,
    /// What else the record says.
    pub note: Note,
}

/// What a record says beside what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    #[default]
    Nothing,
    /// The limit in force, of the server's own heart.
    Limit(Duration),
    /// The limit in force of a further heart.
    Further {
        /// Its line.
        line: u16,
        /// Its limit.
        limit: Duration,
    },
    /// Of a death.
    Death {
        /// How long the process had been up.
        up: Duration,
        /// Time from a kill without grace to the confirmed death; `None` = it went by itself, or
        /// in the course of a stop.
        took: Option<Duration>,
    },
}

/// How an instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everybody stopped.
    Clean,
    /// Everybody was killed, on request.
    Forced,
    /// An essential server failed for good.
    GaveUp,
}

/// All servers of an instance.
#[derive(Debug)]
pub struct Group {
    servers: Vec<Server>,
    graph: Graph,
    turn: Turn,
    ending: Option<Outcome>,
    /// The essential server whose end is that of all, and how that came.
    ended_by: Option<(SlotId, What)>,
    /// What is to be restarted one after the other, by request; older ones first.
    rolls: Vec<Roll>,
    /// Nobody waits any more for what a kill does not end.
    forced: bool,
}

impl Group {
    /// A group with nothing running yet; refused if somebody waits for itself.
    pub fn new(now: Monotonic, specs: &[Spec]) -> Result<Group, Cycle> {
        Ok(Group {
            servers: specs.iter().cloned().map(Server::new).collect(),
            graph: Graph::new(specs.iter().map(|spec| spec.edges.clone()))?,
            turn: Turn::new(now, now, Duration::ZERO),
            ending: None,
            ended_by: None,
            rolls: Vec::new(),
            forced: false,
        })
    }

    /// One input in, what to do about it out. Total: inputs that make no sense do nothing.
    pub fn step(&mut self, now: Monotonic, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match input {
            Input::Boot => {
                for slot in self.slots() {
                    if self.stage(slot) == Stage::Down && self.goal(slot) == Goal::Run {
                        self.want(slot, now, out);
                    }
                }
                self.start_waiting(now, out);
                self.press_stop(now, out);
            }
            Input::Turn { planned } => self.begin_turn(now, planned, out),
            Input::Stop => {
                self.ending.get_or_insert(Outcome::Clean);
                self.press_stop(now, out);
            }
            Input::ForceStop => {
                self.forced = true;
                self.ending = Some(self.ending.map_or(Outcome::Forced, |e| match e {
                    Outcome::GaveUp => Outcome::GaveUp,
                    Outcome::Clean | Outcome::Forced => Outcome::Forced,
                }));
                for slot in self.slots() {
                    self.condemn(slot, Cause::Requested, now, out);
                    self.stop(slot, now, out);
                }
            }
            Input::Spawned { slot, count } => {
                if let Some(server) = self.watched(slot) {
                    server.begin(now, count, true);
                }
            }
            Input::Died { slot, death } => self.died(slot, death, now, out),
            Input::Sample { slot, seen } => self.sample(slot, seen, now, out),
            Input::Further { slot, line, seen, limit } => {
                self.further(slot, line, seen, limit, now, out);
            }
            Input::Ready { slot } => self.ready(slot, now, out),
            Input::Excused { slot, span } => self.excuse(slot, now + span),
            Input::Limited { slot, hang } => {
                if let Some((_, _, life)) = self.alive(slot) {
                    life.own.pulse.set_limit(hang);
                }
            }
            Input::Delayed { slot, span } => {
                if self.stage(slot) == Stage::Killing
                    && let Some(server) = self.servers.get_mut(slot.index())
                {
                    server.timer = server.timer.map(|timer| timer + span);
                }
            }
            Input::Triggered { slot } => self.triggered(slot, now, out),
            Input::Heedless { slot } => {
                if self.stage(slot) == Stage::Asked {
                    let what = What::Pressed { press: Press::Terminate, heedless: true };
                    self.apply(slot, Trigger::Timer, what, Note::Nothing, now, out);
                }
            }
            Input::Examined { slot, line, seen, class } => {
                self.examined(slot, line, seen, class, now, out);
            }
            Input::NotReleasing { slot } => {
                let spared =
                    |server: &Server| server.stage == Stage::Held || server.paused_until.is_some();
                if self.watched(slot).is_some_and(|server| !spared(server)) {
                    let class = Some(Class::NotReleasing);
                    self.convict(slot, None, Cause::Frozen, class, now, now, out);
                }
            }
            Input::Start { slot } => self.asked_to_start(slot, now, out),
            Input::Rest { slot } => self.asked_to_stop(slot, now, out),
            Input::Restart { slot, service, request } => {
                self.asked_to_restart(request, roll::Turn { slot, service });
                self.roll_on(now, out);
            }
            Input::Pause { slot, until } => self.pause(slot, until, out),
            Input::Resume { slot } => self.resume(slot, now, out),
            Input::Vacate { slot } => self.vacate(slot, out),
            Input::Timers => {
                for slot in self.slots() {
                    self.timer(slot, now, out);
                }
                self.press_stop(now, out);
                self.roll_on(now, out);
            }
        }
        actions
    }

    /// The earliest moment at which something has to be looked at.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let pause = self.servers.iter().filter_map(|server| server.paused_until).min();
        let of = |server: &Server| match &server.holding {
            Holding::Alive(life) => {
                let starts = server.stage == Stage::Starting;
                let probe = (starts && !life.own.pulse.has_beaten()).then_some(life.probe_at);
                let up = life.up_at.filter(|_| starts);
                Some([probe, up].into_iter().flatten().fold(life.deadline(), Monotonic::min))
            }
            Holding::Dead(_) | Holding::Leaving(..) => server.timer,
        };
        self.servers.iter().filter_map(of).chain(pause).min()
    }

    /// How it ended, once nothing runs any more and nothing shall.
    pub fn outcome(&self) -> Option<Outcome> {
        let gone = |server: &Server| match server.stage {
            Stage::Unkillable => self.forced,
            stage => !stage.has_process(),
        };
        self.ending.filter(|_| self.servers.iter().all(gone))
    }

    /// Whether it is stopping.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The essential server that ends all, and how it ended; `None` = none does.
    pub fn ended_by(&self) -> Option<(SlotId, What)> {
        self.ended_by
    }

    /// The turn that is under way.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// Before which moment a server's own heart convicts nobody.
    pub fn excused_until(&self, slot: SlotId) -> Option<Monotonic> {
        Some(self.servers.get(slot.index())?.life()?.own.pulse.excused())
    }

    /// When a server that backs off starts again.
    pub fn due(&self, slot: SlotId) -> Option<Monotonic> {
        let server = self.servers.get(slot.index())?;
        server.timer.filter(|_| server.stage == Stage::Backoff)
    }

    /// Since when a server's process is up, or was before it had to go.
    pub fn up_since(&self, slot: SlotId) -> Option<Monotonic> {
        self.servers.get(slot.index())?.life()?.up_since
    }

    /// The limit of a server's own heart: as it was set, or chosen by its program.
    pub fn limit(&self, slot: SlotId) -> Option<Duration> {
        Some(self.servers.get(slot.index())?.life()?.own.pulse.limits().hang)
    }

    /// A server's recent deaths, as words.
    pub fn tally(&self, slot: SlotId) -> Option<[u64; TALLY]> {
        Some(self.servers.get(slot.index())?.tally.words())
    }

    /// A slot that nobody has: what comes later takes it.
    pub fn empty(&mut self, slot: SlotId) {
        self.graph.set(slot, Edges::default());
        if let Some(server) = self.servers.get_mut(slot.index()) {
            *server = Server::vacant();
        }
    }

    /// Where a server stands.
    pub fn stage(&self, slot: SlotId) -> Stage {
        self.servers.get(slot.index()).map_or(Stage::Down, |server| server.stage)
    }

    /// What a server needs of others, as its process was started.
    pub fn edges(&self, slot: SlotId) -> Option<&Edges> {
        Some(&self.servers.get(slot.index())?.spec.edges)
    }

    /// Time since the last beat of a server that has a process.
    pub fn silence(&self, slot: SlotId, now: Monotonic) -> Option<Duration> {
        let pulse = &self.servers.get(slot.index())?.life()?.own.pulse;
        pulse.has_beaten().then(|| now.since(pulse.last_beat()))
    }

    /// The silence that the last beat of a heart ended, once; see [`Gap`].
    pub fn take_gap(&mut self, slot: SlotId, line: Line) -> Option<Gap> {
        let (_, _, life) = self.alive(slot)?;
        life.heart(line)?.pulse.take_gap()
    }

    /// Whether a server's silence counts now.
    pub fn is_watched(&self, slot: SlotId) -> bool {
        let life = self.servers.get(slot.index()).and_then(Server::life);
        life.is_some_and(|life| life.own.pulse.is_counted())
    }

    /// All slots that have a service.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = SlotId> + use<> {
        let taken = |(slot, server): (u8, &Server)| (!server.vacant).then_some(SlotId(slot));
        let slots: Vec<_> = (0..u8::MAX).zip(&self.servers).filter_map(taken).collect();
        slots.into_iter()
    }

    fn begin_turn(&mut self, now: Monotonic, planned: Monotonic, out: &mut Vec<Action>) {
        let lateness = now.since(planned);
        self.turn = Turn::new(now, self.turn.now, lateness);
        let late = |server: &Server| match &server.holding {
            Holding::Alive(life) => {
                life.own.pulse.is_counted() && lateness > slack(life.own.pulse.limit())
            }
            Holding::Dead(_) | Holding::Leaving(..) => false,
        };
        if self.servers.iter().any(late) {
            out.push(Action::Told { slot: None, what: What::LateTurn { by: lateness } });
        }
    }

    fn watched(&mut self, slot: SlotId) -> Option<&mut Server> {
        self.servers.get_mut(slot.index()).filter(|server| server.stage.is_watched())
    }

    /// The limits, the watch and the life of a server whose heart is judged: one that was started.
    fn alive(&mut self, slot: SlotId) -> Option<(Limits, Watch, &mut Life)> {
        let server = self.watched(slot)?;
        match &mut server.holding {
            Holding::Alive(life) if life.spawned => {
                Some((server.spec.limits, server.spec.watch, life))
            }
            Holding::Alive(_) | Holding::Dead(_) | Holding::Leaving(..) => None,
        }
    }

    /// Runs the automaton and tells what changed.
    fn apply(
        &mut self,
        slot: SlotId,
        trigger: Trigger,
        what: What,
        note: Note,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let from = server.stage;
        let (to, act) = from.on(trigger);
        if from != to {
            server.stage = to;
            server.timer = to.lasts(&server.spec.patience).map(|lasts| now + lasts);
            let (from, to) = (from.state(), to.state());
            out.push(Action::Changed(Change { slot, from, to, what, note }));
        }
        if act == Some(Act::Spawn) {
            server.begin(now, 0, false);
        }
        out.extend(act.map(|act| Action::Do { slot, act }));
    }
}

/// The note on the limit of a heart.
fn limit_of(line: Line, limit: Duration) -> Note {
    match line {
        None => Note::Limit(limit),
        Some(line) => Note::Further { line, limit },
    }
}

/// What a death is as the exit code of whoever stands for the dead one, as shells have it; `None` =
/// nobody knows, or nobody ran.
pub fn exit_status(death: Death) -> Option<u8> {
    match death {
        Death::Exited(status) => u8::try_from(status & 0xff).ok(),
        Death::Killed(signal) => u8::try_from(128 + (signal & 0x7f)).ok(),
        Death::OutOfMemory => Some(128 + 9),
        Death::NotSpawned | Death::Unknown => None,
    }
}

#[cfg(test)]
mod tests;
