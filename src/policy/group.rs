//! The servers as a set: who goes with whom, in what order they stop, when all is over.
//!
//! The watchdog does not know what a server is for: a slot is a limit, a patience and what it
//! depends on. Rules: a server that *failed* takes its dependents with it, once its own death is
//! confirmed and not before; a dependent that goes for that reason does not count as failing;
//! dependents stop before what they depend on; giving up on one stops all.
//!
//! A turn is fed in this order, so that a death and a missed beat in one turn always resolve the
//! same way (death wins): [`Event::Turn`], stop requests, deaths, samples, [`Event::Timers`].

use std::time::Duration;

use super::lifecycle::{self, Act, Cause, Death, Next, Patience, Rung, State};
use super::restart::{Decision, Intensity, Tally};
use super::verdict::{Class, Limits, Observation, Pulse, Reading, Turn, slack};
use crate::ids::SlotId;
use crate::time::Monotonic;

/// First look for a new server's first beat; each further one comes later by half of the time that
/// has passed, at most by the slack. So "up" is known within milliseconds, a freeze right after it
/// in time, and a slow start of ten seconds costs some forty wake-ups.
const PROBE: Duration = Duration::from_millis(2);

/// What the policy has to know about one server.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// It goes when that one fails, and stops before it.
    pub depends_on: Option<SlotId>,
    /// Silence that convicts, before and after the first beat.
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Start everything.
    Boot,
    /// A turn of the loop begins that was planned for this moment.
    Turn {
        /// The deadline that the loop waited for.
        planned: Monotonic,
    },
    /// Stop everything, in order.
    Stop,
    /// Stop everything at once.
    Hurry,
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
        seen: Observation,
    },
    /// An overdue server was looked at, its heart read once more after that.
    Examined {
        /// In this slot.
        slot: SlotId,
        /// What its heart shows now.
        seen: Observation,
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
    Changed {
        /// The server.
        slot: SlotId,
        /// Its state until now.
        from: State,
        /// Its state from now on.
        to: State,
        /// The reason.
        why: Why,
    },
    /// Do one thing to one server.
    Do {
        /// The server.
        slot: SlotId,
        /// The thing.
        act: Act,
    },
    /// Take evidence, read the heart once more and feed [`Event::Examined`] in this turn.
    Examine {
        /// The overdue server.
        slot: SlotId,
    },
    /// The watchdog itself was late; every silent server's limit runs again.
    LateTurn {
        /// By this much.
        by: Duration,
    },
    /// Overdue, but its limit runs again, since the host starves it.
    Spared {
        /// The server.
        slot: SlotId,
        /// Its silence so far.
        silence: Duration,
    },
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// A process is being started, in place of one that went for this cause.
    Started {
        /// `None` = the first one.
        after: Option<Cause>,
    },
    /// It beats for the first time.
    FirstBeat {
        /// Time since it was started.
        after: Duration,
        /// Time without a live predecessor, if there was one.
        down_for: Option<Duration>,
    },
    /// It beats again.
    Beat {
        /// After this silence.
        silence: Duration,
    },
    /// It is silent.
    Silent {
        /// For so long.
        silence: Duration,
        /// Of this limit.
        limit: Duration,
    },
    /// It is silent and somebody wants it so.
    Held {
        /// In which way.
        class: Class,
    },
    /// Nobody holds it any more; its limit runs again.
    Pardoned,
    /// It is killed.
    Condemned {
        /// For this.
        cause: Cause,
        /// Time since its last beat.
        silence: Duration,
        /// The limit in force.
        limit: Duration,
    },
    /// An orderly stop.
    StopOrder,
    /// It did not react in time.
    Pressed,
    /// Its process is gone.
    Died {
        /// How.
        death: Death,
        /// What made it go; `None` = it was told to.
        cause: Option<Cause>,
        /// Time from the kill to the confirmed death.
        took: Option<Duration>,
        /// How long it had been up.
        up: Duration,
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

#[derive(Debug)]
struct Server {
    spec: Spec,
    state: State,
    pulse: Pulse,
    tally: Tally,
    /// Why the process has to go or went; `None` = nobody's fault.
    cause: Option<Cause>,
    spawned_at: Monotonic,
    /// When to look for the first beat.
    probe_at: Monotonic,
    up_since: Option<Monotonic>,
    killed_at: Option<Monotonic>,
    /// Since when clients have had nobody to talk to.
    gone_since: Option<Monotonic>,
}

impl Server {
    /// Notes why it is killed now, and since when clients have had nobody to talk to.
    fn condemn(&mut self, cause: Cause, now: Monotonic, gone_since: Monotonic) {
        self.cause = Some(cause);
        self.killed_at.get_or_insert(now);
        self.gone_since.get_or_insert(gone_since);
    }
}

/// All servers of an instance.
#[derive(Debug)]
pub struct Group {
    servers: Vec<Server>,
    turn: Turn,
    ending: Option<Outcome>,
    /// Nobody waits any more for what a kill does not end.
    hurried: bool,
}

impl Group {
    /// A group with nothing running yet.
    pub fn new(now: Monotonic, intensity: Option<Intensity>, specs: &[Spec]) -> Group {
        let server = |spec: &Spec| Server {
            spec: *spec,
            state: State::Down,
            pulse: Pulse::new(spec.limits, now, 0),
            tally: Tally::new(intensity),
            cause: None,
            spawned_at: now,
            probe_at: now,
            up_since: None,
            killed_at: None,
            gone_since: None,
        };
        Group {
            servers: specs.iter().map(server).collect(),
            turn: Turn { now, previous: now, lateness: Duration::ZERO },
            ending: None,
            hurried: false,
        }
    }

    /// One event in, what to do about it out. Total: events that make no sense do nothing.
    pub fn step(&mut self, now: Monotonic, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event {
            Event::Boot => {
                for slot in self.slots() {
                    self.start(slot, now, out);
                }
            }
            Event::Turn { planned } => self.begin_turn(now, planned, out),
            Event::Stop => {
                self.ending.get_or_insert(Outcome::Clean);
                self.press_stop(now, out);
            }
            Event::Hurry => {
                self.hurried = true;
                self.ending = Some(self.ending.map_or(Outcome::Forced, |e| match e {
                    Outcome::GaveUp => Outcome::GaveUp,
                    Outcome::Clean | Outcome::Forced => Outcome::Forced,
                }));
                for slot in self.slots() {
                    self.condemn(slot, Cause::Requested, now, out);
                    self.apply(slot, lifecycle::Event::Stop, Why::StopOrder, now, out);
                }
            }
            Event::Spawned { slot, count } => {
                if let Some(server) = self.servers.get_mut(slot.index()) {
                    server.pulse = Pulse::new(server.spec.limits, now, count);
                    server.spawned_at = now;
                    server.probe_at = now + PROBE;
                }
            }
            Event::Died { slot, death } => self.died(slot, death, now, out),
            Event::Sample { slot, seen } => self.sample(slot, seen, now, out),
            Event::Examined { slot, seen, class } => self.examined(slot, seen, class, now, out),
            Event::NotReleasing { slot } => {
                if let Some(server) = self.watched(slot).filter(|s| s.state != State::Held) {
                    let cause = Cause::Frozen(Class::NotReleasing);
                    let (silence, limit) =
                        (now.since(server.pulse.last_beat()), server.spec.limits.hang);
                    server.condemn(cause, now, now);
                    let why = Why::Condemned { cause, silence, limit };
                    self.apply(slot, lifecycle::Event::Convict, why, now, out);
                }
            }
            Event::Timers => {
                for slot in self.slots() {
                    let Some(server) = self.servers.get(slot.index()) else { continue };
                    if server.state.timer().is_some_and(|timer| timer <= now) {
                        let why = match server.state {
                            State::Backoff { .. } => Why::Started { after: server.cause },
                            _ => Why::Pressed,
                        };
                        self.apply(slot, lifecycle::Event::Timer, why, now, out);
                    }
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
        let of = |server: &Server| {
            let heart = server.state.is_watched().then(|| {
                let probe = (!server.pulse.has_beaten()).then_some(server.probe_at);
                probe.map_or(server.pulse.deadline(), |at| at.min(server.pulse.deadline()))
            });
            server.state.timer().or(heart)
        };
        self.servers.iter().filter_map(of).min()
    }

    /// How it ended, once nothing runs any more and nothing shall.
    pub fn outcome(&self) -> Option<Outcome> {
        let gone = |server: &Server| match server.state {
            State::Stopping(Rung::Unkillable) => self.hurried,
            state => !state.has_process(),
        };
        self.ending.filter(|_| self.servers.iter().all(gone))
    }

    /// Whether it is stopping.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The state of a server.
    pub fn state(&self, slot: SlotId) -> State {
        self.servers.get(slot.index()).map_or(State::Down, |server| server.state)
    }

    /// Time since the last beat of a server that has a process.
    pub fn silence(&self, slot: SlotId, now: Monotonic) -> Option<Duration> {
        let server = self.servers.get(slot.index())?;
        let beats = server.state.has_process() && server.pulse.has_beaten();
        beats.then(|| now.since(server.pulse.last_beat()))
    }

    /// All slots.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = SlotId> + use<> {
        (0..u8::try_from(self.servers.len()).unwrap_or(u8::MAX)).map(SlotId)
    }

    fn begin_turn(&mut self, now: Monotonic, planned: Monotonic, out: &mut Vec<Action>) {
        let lateness = now.since(planned);
        self.turn = Turn { now, previous: self.turn.now, lateness };
        let watched = self.servers.iter().filter(|server| server.state.is_watched());
        if watched.map(|server| slack(server.pulse.limit())).any(|slack| lateness > slack) {
            out.push(Action::LateTurn { by: lateness });
        }
    }

    fn sample(&mut self, slot: SlotId, seen: Observation, now: Monotonic, out: &mut Vec<Action>) {
        let turn = self.turn;
        let Some(server) = self.watched(slot) else { return };
        let silence = now.since(server.pulse.last_beat());
        let limit = server.pulse.limit();
        if now >= server.probe_at {
            let pause = (now.since(server.spawned_at) / 2).min(slack(server.spec.limits.hang));
            server.probe_at = now + pause.max(PROBE);
        }
        match server.pulse.observe(&turn, seen) {
            Reading::Quiet => {}
            Reading::Beat { first } => self.beat(slot, first, silence, now, out),
            Reading::Late => {
                let why = Why::Silent { silence, limit };
                self.apply(slot, lifecycle::Event::Late, why, now, out);
            }
            Reading::Overdue => out.push(Action::Examine { slot }),
        }
    }

    fn beat(
        &mut self,
        slot: SlotId,
        first: bool,
        silence: Duration,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some(server) = self.watched(slot) else { return };
        let why = if first {
            let at = server.pulse.last_beat();
            server.up_since = Some(at);
            let down_for = server.gone_since.take().map(|gone| at.since(gone));
            Why::FirstBeat { after: at.since(server.spawned_at), down_for }
        } else {
            Why::Beat { silence }
        };
        self.apply(slot, lifecycle::Event::Beat, why, now, out);
    }

    fn examined(
        &mut self,
        slot: SlotId,
        seen: Observation,
        class: Class,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let turn = self.turn;
        let Some(server) = self.watched(slot) else { return };
        let silence = now.since(server.pulse.last_beat());
        let limit = server.pulse.limit();
        match server.pulse.observe(&turn, seen) {
            // It beat between the two looks: the last moment at which that saves it.
            Reading::Beat { first } => self.beat(slot, first, silence, now, out),
            Reading::Quiet | Reading::Late => {}
            Reading::Overdue if class.is_intention() => {
                server.pulse.grant(now);
                self.apply(slot, lifecycle::Event::Hold, Why::Held { class }, now, out);
            }
            Reading::Overdue if server.state == State::Held => {
                server.pulse.grant(now);
                self.apply(slot, lifecycle::Event::Pardon, Why::Pardoned, now, out);
            }
            Reading::Overdue => {
                if class == Class::Starved && server.pulse.grant_starved(now) {
                    out.push(Action::Spared { slot, silence });
                    return;
                }
                let cause = if server.pulse.has_beaten() {
                    Cause::Frozen(class)
                } else {
                    Cause::StartTimeout
                };
                let gone_since = server.pulse.last_beat();
                server.condemn(cause, now, gone_since);
                let why = Why::Condemned { cause, silence, limit };
                self.apply(slot, lifecycle::Event::Convict, why, now, out);
            }
        }
    }

    /// Kills without grace, for a reason that is not the server's own.
    fn condemn(&mut self, slot: SlotId, cause: Cause, now: Monotonic, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let silence = now.since(server.pulse.last_beat());
        let limit = server.pulse.limit();
        if server.state.is_watched() {
            server.condemn(cause, now, now);
        } else if server.state.has_process() {
            server.killed_at.get_or_insert(now);
        }
        let why = Why::Condemned { cause, silence, limit };
        self.apply(slot, lifecycle::Event::Condemn, why, now, out);
    }

    fn died(&mut self, slot: SlotId, death: Death, now: Monotonic, out: &mut Vec<Action>) {
        let ending = self.ending.is_some();
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        if !server.state.has_process() {
            return;
        }
        let told = matches!(server.state, State::Stopping(_)) && server.cause.is_none();
        if !told && server.cause.is_none() {
            server.cause = Some(Cause::of(death));
        }
        let cause = server.cause;
        let up = server.up_since.take().map_or(Duration::ZERO, |since| now.since(since));
        let took = server.killed_at.take().map(|killed| now.since(killed));
        server.gone_since.get_or_insert(now);
        let counts = !matches!(cause, None | Some(Cause::Primary | Cause::Requested));
        let next = if ending {
            Next::Rest
        } else if counts {
            match server.tally.died(now, up) {
                Decision::Again(at) if at <= now => Next::Rest,
                Decision::Again(at) => Next::Wait(at),
                Decision::GiveUp => Next::Never,
            }
        } else {
            Next::Rest
        };
        let why = Why::Died { death, cause, took, up };
        self.apply(slot, lifecycle::Event::Died(next), why, now, out);
        if next == Next::Never {
            self.ending = Some(Outcome::GaveUp);
        }
        if self.ending.is_some() {
            self.press_stop(now, out);
            return;
        }
        if cause != Some(Cause::Primary) {
            for dependent in self.dependents(slot) {
                self.condemn(dependent, Cause::Primary, now, out);
            }
        }
        if next == Next::Rest {
            self.start(slot, now, out);
        }
    }

    fn start(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        if self.ending.is_some() {
            return;
        }
        let after = self.servers.get(slot.index()).and_then(|server| server.cause);
        self.apply(slot, lifecycle::Event::Start, Why::Started { after }, now, out);
    }

    /// Stops every server that nobody depends on any more.
    fn press_stop(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        for slot in self.slots().rev() {
            let needed = || {
                self.dependents(slot).into_iter().any(|dependent| {
                    let state = self.state(dependent);
                    state.has_process() && state != State::Stopping(Rung::Unkillable)
                })
            };
            // A slot that waits for its next process stops at once: it must not start one.
            if !self.state(slot).has_process() || !needed() {
                self.apply(slot, lifecycle::Event::Stop, Why::StopOrder, now, out);
            }
        }
    }

    fn dependents(&self, of: SlotId) -> Vec<SlotId> {
        let depends = |slot: &SlotId| {
            self.servers.get(slot.index()).is_some_and(|s| s.spec.depends_on == Some(of))
        };
        self.slots().filter(depends).collect()
    }

    fn watched(&mut self, slot: SlotId) -> Option<&mut Server> {
        self.servers.get_mut(slot.index()).filter(|server| server.state.is_watched())
    }

    /// Runs the automaton and reports what changed.
    fn apply(
        &mut self,
        slot: SlotId,
        event: lifecycle::Event,
        why: Why,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let from = server.state;
        let (to, act) = from.on(event, now, &server.spec.patience);
        server.state = to;
        if from != to {
            out.push(Action::Changed { slot, from, to, why });
        }
        if act == Some(Act::Spawn) {
            server.cause = None;
        }
        out.extend(act.map(|act| Action::Do { slot, act }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: SlotId = SlotId(0);
    const SECONDARY: SlotId = SlotId(1);

    fn spec(depends_on: Option<SlotId>) -> Spec {
        Spec {
            depends_on,
            limits: Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) },
            patience: Patience {
                ask: Duration::from_secs(5),
                term: Duration::from_secs(1),
                kill: Duration::from_secs(4),
            },
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

    /// A primary and two secondaries, all up since 10 ms.
    fn pair() -> Group {
        let dependent = spec(Some(PRIMARY));
        let mut group = Group::new(at(0), None, &[spec(None), dependent, dependent]);
        let actions = group.step(at(0), Event::Boot);
        assert_eq!(acts(&actions), [(0, Act::Spawn), (1, Act::Spawn), (2, Act::Spawn)]);
        for slot in group.slots() {
            group.step(at(0), Event::Spawned { slot, count: 0 });
        }
        group.step(at(10), Event::Turn { planned: at(10) });
        for slot in group.slots() {
            let seen = Observation { count: 1, stamp: at(10) };
            group.step(at(10), Event::Sample { slot, seen });
            assert_eq!(group.state(slot), State::Up);
        }
        group
    }

    /// One turn at `now` in which the listed slots beat and the others do not.
    fn turn(group: &mut Group, now: u64, beating: &[u8]) -> Vec<Action> {
        let mut actions = group.step(at(now), Event::Turn { planned: at(now) });
        for slot in group.slots() {
            let count = if beating.contains(&slot.0) { now } else { 1 };
            let seen = Observation { count, stamp: at(now) };
            actions.extend(group.step(at(now), Event::Sample { slot, seen }));
        }
        actions.extend(group.step(at(now), Event::Timers));
        actions
    }

    fn examined(group: &mut Group, now: u64, slot: SlotId, class: Class) -> Vec<Action> {
        let seen = Observation { count: 1, stamp: at(10) };
        group.step(at(now), Event::Examined { slot, seen, class })
    }

    #[test]
    fn a_frozen_secondary_is_replaced_alone() {
        let mut group = pair();
        assert_eq!(acts(&turn(&mut group, 2410, &[0, 2])), [(1, Act::Baseline)]);
        let actions = turn(&mut group, 4010, &[0, 2]);
        assert_eq!(actions, [Action::Examine { slot: SECONDARY }]);
        let actions = examined(&mut group, 4010, SECONDARY, Class::Stopped);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
        assert!(matches!(actions[0], Action::Changed { .. }), "recorded before the kill");
        let death = Death::Killed(9);
        let actions = group.step(at(4011), Event::Died { slot: SECONDARY, death });
        assert_eq!(acts(&actions), [(1, Act::Spawn)]);
    }

    fn told(actions: &[Action]) -> Vec<(u8, Why)> {
        let why = |action: &Action| match action {
            Action::Changed { slot, why, .. } => Some((slot.0, *why)),
            _ => None,
        };
        actions.iter().filter_map(why).collect()
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_is_told_of_a_freeze() {
        let mut group = pair();
        assert_eq!(group.next_deadline(), Some(at(10 + 2400)), "when somebody would be late");
        let silent = Why::Silent { silence: ms(2400), limit: ms(4000) };
        assert_eq!(told(&turn(&mut group, 2410, &[0, 2])), [(1, silent)]);
        assert_eq!(group.next_deadline(), Some(at(4010)), "when it would be frozen");
        assert_eq!(group.silence(SECONDARY, at(3000)), Some(ms(2990)));
        turn(&mut group, 4010, &[0, 2]);
        let actions = examined(&mut group, 4010, SECONDARY, Class::Stopped);
        let cause = Cause::Frozen(Class::Stopped);
        let condemned = Why::Condemned { cause, silence: ms(4000), limit: ms(4000) };
        assert_eq!(told(&actions), [(1, condemned)]);
        let death = Death::Killed(9);
        let actions = group.step(at(4013), Event::Died { slot: SECONDARY, death });
        let died = Why::Died { death, cause: Some(cause), took: Some(ms(3)), up: ms(4003) };
        assert_eq!(told(&actions), [(1, died), (1, Why::Started { after: Some(cause) })]);
        group.step(at(4014), Event::Spawned { slot: SECONDARY, count: 1 });
        assert_eq!(group.next_deadline(), Some(at(4016)), "the first look for its first beat");
        assert_eq!(group.silence(SECONDARY, at(4016)), None, "before the first beat");
        let actions = turn(&mut group, 4016, &[0, 1, 2]);
        // Clients had nobody since the last beat before the freeze.
        let first = Why::FirstBeat { after: ms(2), down_for: Some(ms(4006)) };
        assert_eq!(told(&actions), [(1, first)]);
    }

    #[test]
    fn what_is_told_of_a_crash_loop() {
        let mut group = pair();
        let death = Death::Exited(1);
        let died = Event::Died { slot: SECONDARY, death };
        for now in [20, 30, 40] {
            let actions = group.step(at(now), died);
            assert_eq!(acts(&actions), [(1, Act::Spawn)], "at once at first");
        }
        let actions = group.step(at(50), died);
        let cause = Cause::of(death);
        let why = Why::Died { death, cause: Some(cause), took: None, up: Duration::ZERO };
        assert_eq!((acts(&actions), told(&actions)), (vec![], vec![(1, why)]));
        assert_eq!(group.next_deadline(), Some(at(150)), "100 ms of rest");
        assert_eq!(turn(&mut group, 149, &[0, 2]), []);
        let actions = turn(&mut group, 150, &[0, 2]);
        assert_eq!(acts(&actions), [(1, Act::Spawn)]);
        assert_eq!(told(&actions), [(1, Why::Started { after: Some(cause) })]);
    }

    #[test]
    fn a_frozen_primary_takes_the_secondaries_after_its_death_is_confirmed() {
        let mut group = pair();
        turn(&mut group, 2410, &[1, 2]);
        turn(&mut group, 4010, &[1, 2]);
        let kill = examined(&mut group, 4010, PRIMARY, Class::Blocked);
        assert_eq!(acts(&kill), [(0, Act::Kill)], "nobody else yet");
        let died = |slot| Event::Died { slot, death: Death::Killed(9) };
        let actions = group.step(at(4020), died(PRIMARY));
        assert_eq!(acts(&actions), [(1, Act::Kill), (2, Act::Kill), (0, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(4021), died(SlotId(2)))), [(2, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(4022), died(SECONDARY))), [(1, Act::Spawn)]);
    }

    #[test]
    fn an_unkillable_primary_leaves_the_secondaries_alone() {
        let mut group = pair();
        turn(&mut group, 2410, &[1, 2]);
        turn(&mut group, 4010, &[1, 2]);
        examined(&mut group, 4010, PRIMARY, Class::Unkillable);
        assert_eq!(acts(&turn(&mut group, 8010, &[1, 2])), [(0, Act::Alarm)]);
        assert_eq!(group.state(PRIMARY), State::Stopping(Rung::Unkillable));
        assert_eq!(group.state(SECONDARY), State::Up);
        assert_eq!(acts(&turn(&mut group, 8500, &[1, 2])), []);
    }

    #[test]
    fn a_beat_between_the_two_looks_saves_the_server() {
        let mut group = pair();
        turn(&mut group, 2410, &[0, 2]);
        turn(&mut group, 4010, &[0, 2]);
        let seen = Observation { count: 2, stamp: at(4011) };
        let event = Event::Examined { slot: SECONDARY, seen, class: Class::Blocked };
        assert_eq!(acts(&group.step(at(4010), event)), []);
        assert_eq!(group.state(SECONDARY), State::Up);
    }

    #[test]
    fn a_debugger_holds_and_detaching_gives_the_limit_again() {
        let mut group = pair();
        turn(&mut group, 2410, &[0, 2]);
        turn(&mut group, 4010, &[0, 2]);
        assert_eq!(acts(&examined(&mut group, 4010, SECONDARY, Class::Traced)), []);
        assert_eq!(group.state(SECONDARY), State::Held);
        turn(&mut group, 6500, &[0, 2]);
        turn(&mut group, 8010, &[0, 2]);
        assert_eq!(acts(&examined(&mut group, 8010, SECONDARY, Class::Stopped)), []);
        assert_eq!(group.state(SECONDARY), State::Late);
        turn(&mut group, 10_500, &[0, 2]);
        assert_eq!(turn(&mut group, 12_009, &[0, 2]), []);
        assert_eq!(turn(&mut group, 12_010, &[0, 2]), [Action::Examine { slot: SECONDARY }]);
        let actions = examined(&mut group, 12_010, SECONDARY, Class::Stopped);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
    }

    #[test]
    fn starvation_is_spared_twice() {
        let mut group = pair();
        for deadline in [4010, 8010] {
            turn(&mut group, deadline - 1600, &[0, 2]);
            turn(&mut group, deadline, &[0, 2]);
            let actions = examined(&mut group, deadline, SECONDARY, Class::Starved);
            assert!(matches!(actions[..], [Action::Spared { .. }]));
        }
        turn(&mut group, 10_500, &[0, 2]);
        turn(&mut group, 12_010, &[0, 2]);
        let actions = examined(&mut group, 12_010, SECONDARY, Class::Starved);
        assert_eq!(acts(&actions), [(1, Act::Kill)]);
    }

    #[test]
    fn secondaries_stop_before_the_primary() {
        let mut group = pair();
        assert_eq!(acts(&group.step(at(100), Event::Stop)), [(2, Act::Ask), (1, Act::Ask)]);
        let died = |slot| Event::Died { slot, death: Death::Exited(0) };
        assert_eq!(acts(&group.step(at(110), died(SECONDARY))), []);
        assert_eq!(acts(&group.step(at(120), died(SlotId(2)))), [(0, Act::Ask)]);
        assert_eq!(group.outcome(), None);
        assert_eq!(acts(&group.step(at(130), died(PRIMARY))), []);
        assert_eq!(group.outcome(), Some(Outcome::Clean));
    }

    #[test]
    fn a_server_that_ignores_the_stop_order_climbs_the_ladder() {
        let mut group = pair();
        group.step(at(100), Event::Stop);
        let ladder = [5100, 6100, 10_100].map(|now| turn(&mut group, now, &[]));
        assert_eq!(told(&ladder[0]), [(1, Why::Pressed), (2, Why::Pressed)]);
        let ladder = ladder.map(|actions| acts(&actions));
        assert_eq!(ladder[0], [(1, Act::Terminate), (2, Act::Terminate)]);
        assert_eq!(ladder[1], [(1, Act::Kill), (2, Act::Kill)]);
        // What does not die does not keep the primary from stopping.
        assert_eq!(ladder[2], [(1, Act::Alarm), (2, Act::Alarm), (0, Act::Ask)]);
    }

    #[test]
    fn a_second_ctrl_c_kills_everybody() {
        let mut group = pair();
        group.step(at(100), Event::Stop);
        let actions = group.step(at(200), Event::Hurry);
        assert_eq!(acts(&actions), [(0, Act::Kill), (1, Act::Kill), (2, Act::Kill)]);
        for slot in group.slots() {
            group.step(at(201), Event::Died { slot, death: Death::Killed(9) });
        }
        assert_eq!(group.outcome(), Some(Outcome::Forced));
    }

    #[test]
    fn too_many_restarts_stop_everything() {
        let intensity = Intensity { restarts: 1, period: Duration::from_secs(60) };
        let mut group = Group::new(at(0), Some(intensity), &[spec(None), spec(Some(PRIMARY))]);
        group.step(at(0), Event::Boot);
        let died = Event::Died { slot: SECONDARY, death: Death::Exited(1) };
        assert_eq!(acts(&group.step(at(10), died)), [(1, Act::Spawn)]);
        assert_eq!(acts(&group.step(at(20), died)), [(0, Act::Ask)]);
        assert_eq!(group.state(SECONDARY), State::Failed);
        group.step(at(30), Event::Died { slot: PRIMARY, death: Death::Exited(0) });
        assert_eq!(group.outcome(), Some(Outcome::GaveUp));
    }

    #[test]
    fn a_late_turn_is_told_and_nobody_is_convicted() {
        let mut group = pair();
        assert_eq!(group.step(at(1000), Event::Turn { planned: at(500) }), [], "the slack itself");
        let actions = group.step(at(5000), Event::Turn { planned: at(1000) });
        assert_eq!(actions, [Action::LateTurn { by: Duration::from_secs(4) }]);
        for slot in group.slots() {
            let seen = Observation { count: 1, stamp: at(10) };
            assert_eq!(group.step(at(5000), Event::Sample { slot, seen }), []);
        }
    }
}
