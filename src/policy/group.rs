//! The servers as a set: who goes with whom, in what order they stop, when all is over.
//!
//! The watchdog does not know what a server is for: a slot is a limit, a patience and its edges to
//! others (`graph`). Rules: a server that *failed* takes those with it that restart with it, once
//! its own death is confirmed and not before; one that goes for that reason does not count as
//! failing; whoever needs another stops before it; giving up on one stops all.
//!
//! A turn is fed in this order, so that a death and a missed beat in one turn always resolve the
//! same way (death wins): [`Input::Turn`], what the server said, stop requests, deaths, samples,
//! [`Input::Timers`].

use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::pulse::{Counts, Limits, Pulse, Reading, Sample, Turn, slack};
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, Press, State};

use super::graph::{Cycle, Edges, Graph};
use super::lifecycle::{Act, Next, Patience, Stage, Trigger};
use super::restart::{Decision, Intensity, Tally};
use super::server::{Gone, Heart, Holding, Life, PROBE, Reason, Server};
pub use super::server::{Line, Watch};

/// What the policy has to know about one server.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it needs of others.
    pub edges: Edges,
    /// Silence that convicts, before and after the first beat.
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
    /// How its silence is judged.
    pub watch: Watch,
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
    /// A heart was read.
    Sample {
        /// Of this slot.
        slot: SlotId,
        /// What it shows.
        seen: Sample,
    },
    /// A further heart was read.
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
    /// Write it down: something happened, but no state changed.
    Told {
        /// The server; `None` = the watchdog itself.
        slot: Option<SlotId>,
        /// What happened.
        what: What,
    },
}

/// A state that changed: what happened, and what only the log has room for.
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
    /// What the event ring has no room for.
    pub note: Note,
}

/// What the log says beside a record.
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
    /// It does not look at its desired word.
    Heedless,
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
    /// A server was restarted too often.
    GaveUp,
}

/// All servers of an instance.
#[derive(Debug)]
pub struct Group {
    servers: Vec<Server>,
    graph: Graph,
    turn: Turn,
    ending: Option<Outcome>,
    /// Nobody waits any more for what a kill does not end.
    forced: bool,
}

impl Group {
    /// A group with nothing running yet; refused if somebody waits for itself.
    pub fn new(
        now: Monotonic,
        intensity: Option<Intensity>,
        specs: &[Spec],
    ) -> Result<Group, Cycle> {
        let server = |spec: &Spec| Server {
            limits: spec.limits,
            patience: spec.patience,
            watch: spec.watch,
            tally: Tally::new(intensity),
            due: false,
            stage: Stage::Down,
            holding: Holding::Dead(Gone { cause: None, absent_since: None }),
            timer: None,
        };
        Ok(Group {
            servers: specs.iter().map(server).collect(),
            graph: Graph::new(specs.iter().map(|spec| spec.edges.clone()))?,
            turn: Turn { now, previous: now, lateness: Duration::ZERO },
            ending: None,
            forced: false,
        })
    }

    /// One input in, what to do about it out. Total: inputs that make no sense do nothing.
    pub fn step(&mut self, now: Monotonic, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match input {
            Input::Boot => {
                for server in &mut self.servers {
                    server.due = true;
                }
                self.start_due(now, out);
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
                    server.begin(now, count);
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
            Input::Triggered { slot } => self.triggered(slot, now, out),
            Input::Heedless { slot } => {
                if self.stage(slot) == Stage::Asked {
                    let what = What::Pressed { press: Press::Terminate };
                    self.apply(slot, Trigger::Timer, what, Note::Heedless, now, out);
                }
            }
            Input::Examined { slot, line, seen, class } => {
                self.examined(slot, line, seen, class, now, out);
            }
            Input::NotReleasing { slot } => {
                if self.watched(slot).is_some_and(|server| server.stage != Stage::Held) {
                    let class = Some(Class::NotReleasing);
                    self.convict(slot, None, Cause::Frozen, class, now, now, out);
                }
            }
            Input::Timers => {
                for slot in self.slots() {
                    self.timer(slot, now, out);
                }
                if self.ending.is_some() {
                    self.press_stop(now, out);
                }
            }
        }
        actions
    }

    /// The earliest moment at which something has to be looked at.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let of = |server: &Server| match &server.holding {
            Holding::Alive(life) => {
                let starts = server.stage == Stage::Starting;
                let probe = (starts && !life.own.pulse.has_beaten()).then_some(life.probe_at);
                let up = life.up_at.filter(|_| starts);
                Some([probe, up].into_iter().flatten().fold(life.deadline(), Monotonic::min))
            }
            Holding::Dead(_) | Holding::Leaving(..) => server.timer,
        };
        self.servers.iter().filter_map(of).min()
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

    /// The turn that is under way.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// Where a server stands.
    pub fn stage(&self, slot: SlotId) -> Stage {
        self.servers.get(slot.index()).map_or(Stage::Down, |server| server.stage)
    }

    /// Time since the last beat of a server that has a process.
    pub fn silence(&self, slot: SlotId, now: Monotonic) -> Option<Duration> {
        let pulse = &self.servers.get(slot.index())?.life()?.own.pulse;
        pulse.has_beaten().then(|| now.since(pulse.last_beat()))
    }

    /// Whether a server's silence counts now.
    pub fn is_watched(&self, slot: SlotId) -> bool {
        let life = self.servers.get(slot.index()).and_then(Server::life);
        life.is_some_and(|life| life.own.pulse.is_counted())
    }

    /// All slots.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = SlotId> + use<> {
        (0..u8::try_from(self.servers.len()).unwrap_or(u8::MAX)).map(SlotId)
    }

    fn begin_turn(&mut self, now: Monotonic, planned: Monotonic, out: &mut Vec<Action>) {
        let lateness = now.since(planned);
        self.turn = Turn { now, previous: self.turn.now, lateness };
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

    fn sample(&mut self, slot: SlotId, seen: Sample, now: Monotonic, out: &mut Vec<Action>) {
        let turn = self.turn;
        let Some((limits, _, life)) = self.alive(slot) else { return };
        if now >= life.probe_at {
            let pause = (now.since(life.spawned_at) / 2).min(slack(limits.hang));
            life.probe_at = now + pause.max(PROBE);
        }
        let silence = now.since(life.own.pulse.last_beat());
        let reading = life.own.pulse.observe(&turn, seen);
        self.hear(slot, None, reading, silence, now, out);
    }

    fn further(
        &mut self,
        slot: SlotId,
        line: u16,
        seen: Option<Sample>,
        limit: Option<Duration>,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let turn = self.turn;
        let Some((limits, _, life)) = self.alive(slot) else { return };
        let Some(seen) = seen else {
            if life.further.remove(&line).is_some_and(|heart| heart.silent) {
                self.recovered(slot, Duration::ZERO, now, out);
            }
            return;
        };
        let heart = life.further.entry(line).or_insert_with(|| {
            // What it counted before we saw it for the first time says nothing of now.
            let limits = Limits { hang: limit.unwrap_or(limits.hang), ..limits };
            Heart::new(Pulse::new(limits, now, seen.count).counting(Counts::FromFirstBeat))
        });
        let silence = now.since(heart.pulse.last_beat());
        let reading = heart.pulse.observe(&turn, seen);
        self.hear(slot, Some(line), reading, silence, now, out);
    }

    /// What one look at one heart means for the server: the worst of its hearts decides.
    fn hear(
        &mut self,
        slot: SlotId,
        line: Line,
        reading: Reading,
        silence: Duration,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        let Some(heart) = life.heart(line) else { return };
        let limit = heart.pulse.limit();
        heart.silent = match reading {
            Reading::Quiet => heart.silent,
            Reading::Beat { .. } | Reading::Parked => false,
            Reading::Late | Reading::Overdue => true,
        };
        match reading {
            Reading::Quiet => {}
            Reading::Beat { first: true } if line.is_none() => self.first_beat(slot, now, out),
            Reading::Beat { .. } | Reading::Parked => self.recovered(slot, silence, now, out),
            Reading::Late => {
                let note = limit_of(line, limit);
                self.apply(slot, Trigger::Late, What::Late { silence }, note, now, out);
            }
            Reading::Overdue => out.push(Action::Examine { slot, line }),
        }
    }

    /// It said that it is broken.
    fn triggered(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let class = Class::Triggered;
        if self.watched(slot).is_some_and(|server| server.watch.warn) {
            let silence = self.silence(slot, now).unwrap_or_default();
            let what = What::Warned { class, silence };
            self.apply(slot, Trigger::Hold, what, Note::Nothing, now, out);
        } else if self.stage(slot) != Stage::Held {
            self.convict(slot, None, Cause::Frozen, Some(class), now, now, out);
        }
    }

    /// A heart beats again: the server does if no other heart of it is silent. Who has not come up
    /// yet does not by that.
    fn recovered(
        &mut self,
        slot: SlotId,
        silence: Duration,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        if !life.is_silent() && life.up_since.is_some() {
            self.apply(slot, Trigger::Beat, What::Beat { silence }, Note::Nothing, now, out);
        }
    }

    fn first_beat(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let Some((_, watch, life)) = self.alive(slot) else { return };
        let at = life.own.pulse.last_beat();
        let unwatched = watch.counts() == Counts::Never;
        if life.up_since.is_some() {
            // It was up without; now it can be judged.
            if !unwatched {
                let what = What::Watched { source: watch.source };
                out.push(Action::Told { slot: Some(slot), what });
            }
            return;
        }
        self.came_up(slot, at, now, out);
    }

    fn ready(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let up = self.alive(slot).is_some_and(|(_, _, life)| life.up_since.is_some());
        if !up {
            self.came_up(slot, now, now, out);
        }
    }

    /// It is up since `at`: whoever waits for it may start.
    fn came_up(&mut self, slot: SlotId, at: Monotonic, now: Monotonic, out: &mut Vec<Action>) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        life.up_since = Some(at);
        let down_for = life.absent_since.take().map(|gone| at.since(gone));
        let what = What::FirstBeat { after: at.since(life.spawned_at), down_for };
        self.apply(slot, Trigger::Beat, what, Note::Nothing, now, out);
        self.start_due(now, out);
    }

    /// Alive for long enough without a beat is up as well, where nothing else can be known.
    fn grown_up(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let starting = self.stage(slot) == Stage::Starting;
        let Some((_, _, life)) = self.alive(slot) else { return };
        if starting && life.up_since.is_none() && life.up_at.is_some_and(|at| now >= at) {
            life.up_since = Some(now);
            life.absent_since = None;
            self.apply(slot, Trigger::Beat, What::Unwatched, Note::Nothing, now, out);
            self.start_due(now, out);
        }
    }

    /// Neither overdue nor pressed before this moment.
    fn excuse(&mut self, slot: SlotId, until: Monotonic) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        match &mut server.holding {
            Holding::Alive(life) => life.own.pulse.excuse(until),
            Holding::Leaving(..) if server.stage == Stage::Terminating => {
                server.timer = server.timer.map(|timer| timer.max(until));
            }
            Holding::Leaving(..) | Holding::Dead(_) => {}
        }
    }

    fn examined(
        &mut self,
        slot: SlotId,
        line: Line,
        seen: Sample,
        class: Class,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let (turn, held) = (self.turn, self.stage(slot) == Stage::Held);
        let Some((_, watch, life)) = self.alive(slot) else { return };
        let may_die = class == Class::Dying && life.may_die(now);
        let Some(heart) = life.heart(line) else { return };
        let silence = now.since(heart.pulse.last_beat());
        let limit = heart.pulse.limit();
        let reading = heart.pulse.observe(&turn, seen);
        match reading {
            // It beat between the two looks: the last moment at which that saves it.
            Reading::Beat { .. } | Reading::Parked => {
                self.hear(slot, line, reading, silence, now, out);
            }
            Reading::Quiet | Reading::Late => {}
            // Somebody's intention, or an honest silence of the kernel's: killing would cut the
            // core and hide the signal.
            Reading::Overdue if class.is_intention() || may_die => {
                heart.pulse.renew(now);
                self.apply(slot, Trigger::Hold, What::Held { class }, Note::Nothing, now, out);
            }
            Reading::Overdue if watch.warn => {
                heart.pulse.renew(now);
                let (what, note) = (What::Warned { class, silence }, limit_of(line, limit));
                self.apply(slot, Trigger::Hold, what, note, now, out);
            }
            Reading::Overdue if held && class != Class::Dying => {
                heart.pulse.renew(now);
                self.apply(slot, Trigger::Pardon, What::Pardoned, Note::Nothing, now, out);
            }
            Reading::Overdue if class == Class::Starved && heart.pulse.renew_starved(now) => {
                out.push(Action::Told { slot: Some(slot), what: What::Spared { silence } });
            }
            Reading::Overdue => {
                let absent_since = heart.pulse.last_beat();
                let (cause, class) = if heart.pulse.has_beaten() {
                    (Cause::Frozen, Some(class))
                } else {
                    (Cause::StartTimeout, None)
                };
                self.convict(slot, line, cause, class, absent_since, now, out);
            }
        }
    }

    /// Kills a server for its own fault.
    #[allow(
        clippy::too_many_arguments,
        reason = "a verdict names all of them, and nobody else does"
    )]
    fn convict(
        &mut self,
        slot: SlotId,
        line: Line,
        cause: Cause,
        class: Option<Class>,
        absent_since: Monotonic,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((limits, _, life)) = self.alive(slot) else { return };
        let Some(heart) = life.heart(line) else { return };
        let silence = now.since(heart.pulse.last_beat());
        // It kept the data for its limit, whether it ever beat or not.
        let kept = class == Some(Class::NotReleasing);
        let limit = if kept { limits.hang } else { heart.pulse.limit() };
        self.leave(slot, Reason::Condemned(cause, now), Some(absent_since));
        let what = What::Verdict { cause, class, silence };
        self.apply(slot, Trigger::Convict, what, limit_of(line, limit), now, out);
    }

    /// Kills without grace, for a reason that is not the server's own.
    fn condemn(&mut self, slot: SlotId, cause: Cause, now: Monotonic, out: &mut Vec<Action>) {
        let Some(life) = self.servers.get(slot.index()).and_then(Server::life) else { return };
        let silence = now.since(life.own.pulse.last_beat());
        let limit = life.own.pulse.limit();
        self.leave(slot, Reason::Condemned(cause, now), Some(now));
        let what = What::Verdict { cause, class: None, silence };
        self.apply(slot, Trigger::Condemn, what, Note::Limit(limit), now, out);
    }

    fn stop(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        self.leave(slot, Reason::Told, None);
        self.apply(slot, Trigger::Stop, What::StopOrder, Note::Nothing, now, out);
    }

    fn leave(&mut self, slot: SlotId, reason: Reason, absent_since: Option<Monotonic>) {
        if let Some(server) = self.servers.get_mut(slot.index()) {
            server.leave(reason, absent_since);
        }
    }

    fn died(&mut self, slot: SlotId, death: Death, now: Monotonic, out: &mut Vec<Action>) {
        let ending = self.ending.is_some();
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let (cause, killed_at) = match &server.holding {
            Holding::Dead(_) => return,
            Holding::Alive(_) => (Some(cause_of(death)), None),
            Holding::Leaving(_, Reason::Told) => (None, None),
            Holding::Leaving(_, Reason::Hastened(at)) => (None, Some(*at)),
            Holding::Leaving(_, Reason::Condemned(cause, at)) => (Some(*cause), Some(*at)),
        };
        let (up_since, absent_since) =
            server.life().map_or((None, None), |life| (life.up_since, life.absent_since));
        let up = up_since.map(|since| now.since(since));
        let took = killed_at.map(|killed| now.since(killed));
        let own = !matches!(cause, None | Some(Cause::Dependency | Cause::Requested));
        let next = if own && !ending {
            let decision = match death {
                Death::NotSpawned => server.tally.not_launched(now),
                _ => server.tally.died(now, up),
            };
            match decision {
                Decision::Again(at) if at <= now => Next::Rest,
                Decision::Again(at) => Next::Wait(at),
                Decision::GiveUp => Next::Never,
            }
        } else {
            Next::Rest
        };
        server.holding = Holding::Dead(Gone { cause, absent_since: absent_since.or(Some(now)) });
        let (trigger, what) = match next {
            Next::Rest => (Trigger::Rest, What::Died { death, cause }),
            Next::Wait(until) => (Trigger::Wait, What::Backoff { death, until }),
            Next::Never => (Trigger::Never, What::Failed { death }),
        };
        let note = Note::Death { up: up.unwrap_or_default(), took };
        self.apply(slot, trigger, what, note, now, out);
        if let (Next::Wait(until), Some(server)) = (next, self.servers.get_mut(slot.index())) {
            server.timer = Some(until);
        }
        if next == Next::Never {
            self.ending = Some(Outcome::GaveUp);
        }
        if self.ending.is_some() {
            self.press_stop(now, out);
            return;
        }
        if cause != Some(Cause::Dependency) {
            for dependent in self.graph.go_with(slot) {
                self.condemn(dependent, Cause::Dependency, now, out);
            }
        }
        if next == Next::Rest {
            self.start(slot, now, out);
        }
    }

    /// Starts those that wait for nobody any more.
    fn start_due(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        let is_up = |of: &SlotId| match self.servers.get(of.index()).map(|server| &server.holding) {
            Some(Holding::Alive(life)) => life.up_since.is_some(),
            Some(Holding::Leaving(..) | Holding::Dead(_)) | None => false,
        };
        let ready: Vec<_> = self
            .slots()
            .filter(|slot| self.servers.get(slot.index()).is_some_and(|server| server.due))
            .filter(|slot| self.graph.depends_on(*slot).iter().all(is_up))
            .collect();
        for slot in ready {
            self.start(slot, now, out);
        }
    }

    fn start(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        if self.ending.is_some() {
            return;
        }
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        server.due = false;
        let what = What::Started { pid: 0, after: server.gone_for() };
        self.apply(slot, Trigger::Start, what, Note::Nothing, now, out);
    }

    fn timer(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        self.grown_up(slot, now, out);
        let Some(server) = self.servers.get(slot.index()) else { return };
        if server.timer.is_none_or(|timer| timer > now) {
            return;
        }
        let what = match server.stage.on(Trigger::Timer).0 {
            Stage::Terminating => What::Pressed { press: Press::Terminate },
            Stage::Killing => What::Pressed { press: Press::Kill },
            Stage::Unkillable => What::Alarm,
            Stage::Down
            | Stage::Starting
            | Stage::Up
            | Stage::Late
            | Stage::Held
            | Stage::Asked
            | Stage::Backoff
            | Stage::Failed => What::Started { pid: 0, after: server.gone_for() },
        };
        self.apply(slot, Trigger::Timer, what, Note::Nothing, now, out);
    }

    /// Stops every server that nobody needs any more.
    fn press_stop(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        for slot in self.slots().rev() {
            let needed = || {
                self.graph.stop_before(slot).into_iter().any(|dependent| {
                    let stage = self.stage(dependent);
                    stage.has_process() && stage != Stage::Unkillable
                })
            };
            // A slot that waits for its next process stops at once: it must not start one.
            if !self.stage(slot).has_process() || !needed() {
                self.stop(slot, now, out);
            }
        }
    }

    fn watched(&mut self, slot: SlotId) -> Option<&mut Server> {
        self.servers.get_mut(slot.index()).filter(|server| server.stage.is_watched())
    }

    /// The limits, the watch and the life of a server whose heart is judged.
    fn alive(&mut self, slot: SlotId) -> Option<(Limits, Watch, &mut Life)> {
        let server = self.watched(slot)?;
        match &mut server.holding {
            Holding::Alive(life) => Some((server.limits, server.watch, life)),
            Holding::Dead(_) | Holding::Leaving(..) => None,
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
            server.timer = to.lasts(&server.patience).map(|lasts| now + lasts);
            let (from, to) = (from.state(), to.state());
            out.push(Action::Changed(Change { slot, from, to, what, note }));
        }
        if act == Some(Act::Spawn) {
            server.begin(now, 0);
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

/// The cause that a death by itself is.
pub fn cause_of(death: Death) -> Cause {
    match death {
        Death::Exited(_) | Death::NotSpawned | Death::Unknown => Cause::Exited,
        Death::Killed(_) => Cause::Killed,
        Death::OutOfMemory => Cause::OutOfMemory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one that the others restart with, and one of them.
    const FIRST: SlotId = SlotId(0);
    const WORKER: SlotId = SlotId(1);

    fn spec(depends_on: &[u8], restart_with: &[u8]) -> Spec {
        let slots = |numbers: &[u8]| numbers.iter().copied().map(SlotId).collect();
        Spec {
            edges: Edges { depends_on: slots(depends_on), restart_with: slots(restart_with) },
            limits: Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) },
            patience: Patience {
                ask: Duration::from_secs(5),
                term: Duration::from_secs(1),
                kill: Duration::from_secs(4),
            },
            watch: Watch::default(),
        }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn acts(actions: &[Action]) -> Vec<(u8, Act)> {
        let act = |action: &Action| match action {
            Action::Do { slot, act } => Some((slot.0, *act)),
            _ => None,
        };
        actions.iter().filter_map(act).collect()
    }

    fn group(intensity: Option<Intensity>, specs: &[Spec]) -> Group {
        Group::new(at(0), intensity, specs).expect("no circle")
    }

    /// One server and two that restart with it, all up since 10 ms.
    fn three() -> Group {
        let mut group = group(None, &[spec(&[], &[]), spec(&[], &[0]), spec(&[], &[0])]);
        let actions = group.step(at(0), Input::Boot);
        assert_eq!(acts(&actions), [(0, Act::Spawn), (1, Act::Spawn), (2, Act::Spawn)]);
        for slot in group.slots() {
            group.step(at(0), Input::Spawned { slot, count: 0 });
        }
        group.step(at(10), Input::Turn { planned: at(10) });
        for slot in group.slots() {
            let seen = Sample { count: 1, stamp: at(10) };
            group.step(at(10), Input::Sample { slot, seen });
            assert_eq!(group.stage(slot), Stage::Up);
        }
        group
    }

    /// One turn at `now` in which the listed slots beat and the others do not.
    fn turn(group: &mut Group, now: u64, beating: &[u8]) -> Vec<Action> {
        let mut actions = group.step(at(now), Input::Turn { planned: at(now) });
        for slot in group.slots() {
            let count = if beating.contains(&slot.0) { now } else { 1 };
            let seen = Sample { count, stamp: at(now) };
            actions.extend(group.step(at(now), Input::Sample { slot, seen }));
        }
        actions.extend(group.step(at(now), Input::Timers));
        actions
    }

    fn examined(group: &mut Group, now: u64, slot: SlotId, class: Class) -> Vec<Action> {
        let seen = Sample { count: 1, stamp: at(10) };
        group.step(at(now), Input::Examined { slot, line: None, seen, class })
    }

    #[test]
    fn a_frozen_server_that_nobody_restarts_with_is_replaced_alone() {
        let mut group = three();
        assert_eq!(acts(&turn(&mut group, 2410, &[0, 2])), [(1, Act::Look)]);
        let actions = turn(&mut group, 4010, &[0, 2]);
        assert_eq!(actions, [Action::Examine { slot: WORKER, line: None }]);
        let actions = examined(&mut group, 4010, WORKER, Class::Stopped);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
        assert!(matches!(actions[0], Action::Changed(_)), "recorded before the kill");
        let death = Death::Killed(9);
        let actions = group.step(at(4011), Input::Died { slot: WORKER, death });
        assert_eq!(acts(&actions), [(1, Act::Spawn)]);
    }

    fn told(actions: &[Action]) -> Vec<(u8, What, Note)> {
        let change = |action: &Action| match action {
            Action::Changed(change) => Some((change.slot.0, change.what, change.note)),
            _ => None,
        };
        actions.iter().filter_map(change).collect()
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_is_told_of_a_freeze() {
        let mut group = three();
        assert_eq!(group.next_deadline(), Some(at(10 + 2400)), "when somebody would be late");
        let (late, limit) = (What::Late { silence: ms(2400) }, Note::Limit(ms(4000)));
        assert_eq!(told(&turn(&mut group, 2410, &[0, 2])), [(1, late, limit)]);
        assert_eq!(group.next_deadline(), Some(at(4010)), "when it would be frozen");
        assert_eq!(group.silence(WORKER, at(3000)), Some(ms(2990)));
        turn(&mut group, 4010, &[0, 2]);
        let actions = examined(&mut group, 4010, WORKER, Class::Stopped);
        let (cause, class) = (Cause::Frozen, Some(Class::Stopped));
        let verdict = What::Verdict { cause, class, silence: ms(4000) };
        assert_eq!(told(&actions), [(1, verdict, limit)]);
        let death = Death::Killed(9);
        let actions = group.step(at(4013), Input::Died { slot: WORKER, death });
        let died = What::Died { death, cause: Some(cause) };
        let note = Note::Death { took: Some(ms(3)), up: ms(4003) };
        let started = What::Started { pid: 0, after: Some(cause) };
        assert_eq!(told(&actions), [(1, died, note), (1, started, Note::Nothing)]);
        group.step(at(4014), Input::Spawned { slot: WORKER, count: 1 });
        assert_eq!(group.next_deadline(), Some(at(4016)), "the first look for its first beat");
        assert_eq!(group.silence(WORKER, at(4016)), None, "before the first beat");
        let actions = turn(&mut group, 4016, &[0, 1, 2]);
        // Clients had nobody since the last beat before the freeze.
        let first = What::FirstBeat { after: ms(2), down_for: Some(ms(4006)) };
        assert_eq!(told(&actions), [(1, first, Note::Nothing)]);
    }

    #[test]
    fn what_is_told_of_a_crash_loop() {
        let mut group = three();
        let death = Death::Exited(1);
        let died = Input::Died { slot: WORKER, death };
        for now in [20, 30, 40] {
            let actions = group.step(at(now), died);
            assert_eq!(acts(&actions), [(1, Act::Spawn)], "at once at first");
        }
        let actions = group.step(at(50), died);
        let what = What::Backoff { death, until: at(150) };
        let note = Note::Death { took: None, up: Duration::ZERO };
        assert_eq!((acts(&actions), told(&actions)), (vec![], vec![(1, what, note)]));
        assert_eq!(group.next_deadline(), Some(at(150)), "100 ms of rest");
        assert_eq!(turn(&mut group, 149, &[0, 2]), []);
        let actions = turn(&mut group, 150, &[0, 2]);
        assert_eq!(acts(&actions), [(1, Act::Spawn)]);
        let started = What::Started { pid: 0, after: Some(Cause::Exited) };
        assert_eq!(told(&actions), [(1, started, Note::Nothing)]);
    }

    #[test]
    fn a_frozen_server_takes_others_along_after_its_death_is_confirmed() {
        let mut group = three();
        turn(&mut group, 2410, &[1, 2]);
        turn(&mut group, 4010, &[1, 2]);
        let kill = examined(&mut group, 4010, FIRST, Class::Blocked);
        assert_eq!(acts(&kill), [(0, Act::Kill)], "nobody else yet");
        let died = |slot| Input::Died { slot, death: Death::Killed(9) };
        let actions = group.step(at(4020), died(FIRST));
        assert_eq!(acts(&actions), [(1, Act::Kill), (2, Act::Kill), (0, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(4021), died(SlotId(2)))), [(2, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(4022), died(WORKER))), [(1, Act::Spawn)]);
    }

    #[test]
    fn an_unkillable_server_takes_nobody_along() {
        let mut group = three();
        turn(&mut group, 2410, &[1, 2]);
        turn(&mut group, 4010, &[1, 2]);
        examined(&mut group, 4010, FIRST, Class::Unkillable);
        assert_eq!(acts(&turn(&mut group, 8010, &[1, 2])), [(0, Act::Alarm)]);
        assert_eq!(group.stage(FIRST), Stage::Unkillable);
        assert_eq!(group.stage(WORKER), Stage::Up);
        assert_eq!(acts(&turn(&mut group, 8500, &[1, 2])), []);
    }

    #[test]
    fn a_beat_between_the_two_looks_saves_the_server() {
        let mut group = three();
        turn(&mut group, 2410, &[0, 2]);
        turn(&mut group, 4010, &[0, 2]);
        let seen = Sample { count: 2, stamp: at(4011) };
        let event = Input::Examined { slot: WORKER, line: None, seen, class: Class::Blocked };
        assert_eq!(acts(&group.step(at(4010), event)), []);
        assert_eq!(group.stage(WORKER), Stage::Up);
    }

    #[test]
    fn a_debugger_holds_and_detaching_gives_the_limit_again() {
        let mut group = three();
        turn(&mut group, 2410, &[0, 2]);
        turn(&mut group, 4010, &[0, 2]);
        assert_eq!(acts(&examined(&mut group, 4010, WORKER, Class::Traced)), []);
        assert_eq!(group.stage(WORKER), Stage::Held);
        turn(&mut group, 6500, &[0, 2]);
        turn(&mut group, 8010, &[0, 2]);
        assert_eq!(acts(&examined(&mut group, 8010, WORKER, Class::Stopped)), []);
        assert_eq!(group.stage(WORKER), Stage::Late);
        turn(&mut group, 10_500, &[0, 2]);
        assert_eq!(turn(&mut group, 12_009, &[0, 2]), []);
        assert_eq!(
            turn(&mut group, 12_010, &[0, 2]),
            [Action::Examine { slot: WORKER, line: None }]
        );
        let actions = examined(&mut group, 12_010, WORKER, Class::Stopped);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
    }

    #[test]
    fn starvation_is_spared_twice() {
        let mut group = three();
        for deadline in [4010, 8010] {
            turn(&mut group, deadline - 1600, &[0, 2]);
            turn(&mut group, deadline, &[0, 2]);
            let actions = examined(&mut group, deadline, WORKER, Class::Starved);
            assert!(matches!(actions[..], [Action::Told { what: What::Spared { .. }, .. }]));
        }
        turn(&mut group, 10_500, &[0, 2]);
        turn(&mut group, 12_010, &[0, 2]);
        let actions = examined(&mut group, 12_010, WORKER, Class::Starved);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
    }

    #[test]
    fn who_needs_another_stops_before_it() {
        let mut group = three();
        assert_eq!(acts(&group.step(at(100), Input::Stop)), [(2, Act::Ask), (1, Act::Ask)]);
        let died = |slot| Input::Died { slot, death: Death::Exited(0) };
        assert_eq!(acts(&group.step(at(110), died(WORKER))), []);
        assert_eq!(acts(&group.step(at(120), died(SlotId(2)))), [(0, Act::Ask)]);
        assert_eq!(group.outcome(), None);
        assert_eq!(acts(&group.step(at(130), died(FIRST))), []);
        assert_eq!(group.outcome(), Some(Outcome::Clean));
    }

    #[test]
    fn a_server_that_ignores_the_stop_order_climbs_the_ladder() {
        let mut group = three();
        group.step(at(100), Input::Stop);
        let ladder = [5100, 6100, 10_100].map(|now| turn(&mut group, now, &[]));
        let pressed = What::Pressed { press: Press::Terminate };
        let each = [1, 2].map(|slot| (slot, pressed, Note::Nothing));
        assert_eq!(told(&ladder[0]), each);
        let ladder = ladder.map(|actions| acts(&actions));
        assert_eq!(ladder[0], [(1, Act::Terminate), (2, Act::Terminate)]);
        assert_eq!(ladder[1], [(1, Act::Kill), (2, Act::Kill)]);
        // What does not die does not keep the others from stopping.
        assert_eq!(ladder[2], [(1, Act::Alarm), (2, Act::Alarm), (0, Act::Ask)]);
    }

    #[test]
    fn a_second_ctrl_c_kills_everybody() {
        let mut group = three();
        group.step(at(100), Input::Stop);
        let actions = group.step(at(200), Input::ForceStop);
        assert_eq!(acts(&actions), [(0, Act::Kill), (1, Act::Kill), (2, Act::Kill)]);
        for slot in group.slots() {
            group.step(at(201), Input::Died { slot, death: Death::Killed(9) });
        }
        assert_eq!(group.outcome(), Some(Outcome::Forced));
    }

    #[test]
    fn too_many_restarts_stop_everything() {
        let intensity = Intensity { restarts: 1, period: Duration::from_secs(60) };
        let mut group = group(Some(intensity), &[spec(&[], &[]), spec(&[], &[0])]);
        group.step(at(0), Input::Boot);
        let died = Input::Died { slot: WORKER, death: Death::Exited(1) };
        assert_eq!(acts(&group.step(at(10), died)), [(1, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(20), died)), [(0, Act::Ask)]);
        assert_eq!(group.stage(WORKER), Stage::Failed);
        group.step(at(30), Input::Died { slot: FIRST, death: Death::Exited(0) });
        assert_eq!(group.outcome(), Some(Outcome::GaveUp));
    }

    #[test]
    fn a_late_turn_is_told_and_nobody_is_convicted() {
        let mut group = three();
        assert_eq!(group.step(at(1000), Input::Turn { planned: at(500) }), [], "the slack itself");
        let actions = group.step(at(5000), Input::Turn { planned: at(1000) });
        let what = What::LateTurn { by: Duration::from_secs(4) };
        assert_eq!(actions, [Action::Told { slot: None, what }]);
        for slot in group.slots() {
            let seen = Sample { count: 1, stamp: at(10) };
            assert_eq!(group.step(at(5000), Input::Sample { slot, seen }), []);
        }
    }

    /// 1 waits for 0 and restarts with it, 2 restarts with 1, 3 only waits for 1.
    fn chain() -> Group {
        let specs = [spec(&[], &[]), spec(&[0], &[0]), spec(&[], &[1]), spec(&[1], &[])];
        group(None, &specs)
    }

    fn first_beat(group: &mut Group, now: u64, slot: SlotId) -> Vec<Action> {
        group.step(at(now), Input::Spawned { slot, count: 0 });
        group.step(at(now), Input::Turn { planned: at(now) });
        group.step(at(now), Input::Sample { slot, seen: Sample { count: 1, stamp: at(now) } })
    }

    #[test]
    fn a_server_starts_when_all_that_it_depends_on_are_up() {
        let mut group = chain();
        let actions = group.step(at(0), Input::Boot);
        assert_eq!(acts(&actions), [(0, Act::Spawn), (2, Act::Spawn)], "2 waits for nobody");
        assert_eq!(acts(&first_beat(&mut group, 5, SlotId(2))), []);
        assert_eq!(acts(&first_beat(&mut group, 10, SlotId(0))), [(1, Act::Spawn)]);
        assert_eq!(acts(&first_beat(&mut group, 20, SlotId(1))), [(3, Act::Spawn)]);
        assert_eq!(acts(&first_beat(&mut group, 30, SlotId(3))), []);
    }

    #[test]
    fn a_server_that_has_to_go_is_not_up_for_those_that_wait() {
        let mut group = group(None, &[spec(&[], &[]), spec(&[], &[]), spec(&[0, 1], &[])]);
        group.step(at(0), Input::Boot);
        first_beat(&mut group, 10, SlotId(0));
        group.step(at(20), Input::NotReleasing { slot: SlotId(0) });
        assert_eq!(group.stage(SlotId(0)), Stage::Killing);
        assert_eq!(acts(&first_beat(&mut group, 30, SlotId(1))), [], "0 is being killed");
        let death = Death::Killed(9);
        let actions = group.step(at(40), Input::Died { slot: SlotId(0), death });
        assert_eq!(acts(&actions), [(0, Act::Spawn)]);
        assert_eq!(acts(&first_beat(&mut group, 50, SlotId(0))), [(2, Act::Spawn)]);
    }

    #[test]
    fn a_failure_goes_down_the_whole_chain_and_a_dependency_changes_nothing() {
        let mut group = chain();
        group.step(at(0), Input::Boot);
        for slot in [2, 0, 1, 3].map(SlotId) {
            first_beat(&mut group, 10, slot);
        }
        let died = |slot, death| Input::Died { slot: SlotId(slot), death };
        let actions = group.step(at(2000), died(0, Death::Killed(11)));
        assert_eq!(acts(&actions), [(1, Act::Kill), (2, Act::Kill), (0, Act::Spawn)]);
        assert_eq!(group.stage(SlotId(3)), Stage::Up, "it only waited for 1 at the start");
        // Who goes for another's sake comes back at once, and takes nobody along in its turn.
        assert_eq!(acts(&group.step(at(2001), died(1, Death::Killed(9)))), [(1, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(2002), died(2, Death::Killed(9)))), [(2, Act::Spawn)]);
    }

    #[test]
    fn a_stop_begins_with_those_that_nobody_needs() {
        let mut group = chain();
        group.step(at(0), Input::Boot);
        first_beat(&mut group, 10, SlotId(0));
        // 1 has just been started, 2 runs, 3 still waits for 1: it never starts.
        assert_eq!(acts(&group.step(at(20), Input::Stop)), [(2, Act::Ask)]);
        let died = |slot| Input::Died { slot: SlotId(slot), death: Death::Exited(0) };
        assert_eq!(acts(&group.step(at(30), died(2))), [(1, Act::Ask)]);
        assert_eq!(acts(&group.step(at(40), died(1))), [(0, Act::Ask)]);
        assert_eq!(acts(&group.step(at(50), died(0))), []);
        assert_eq!(group.outcome(), Some(Outcome::Clean));
    }

    #[test]
    fn nobody_waits_for_itself() {
        let circle = Group::new(at(0), None, &[spec(&[1], &[]), spec(&[], &[0])]);
        assert_eq!(circle.err(), Some(Cycle([0, 1, 0].map(SlotId).to_vec())));
    }
}
