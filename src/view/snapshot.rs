//! The model of a look: everything that any face shows of an instance, whatever stands in its
//! segment. Needs neither the watchdog nor a lock; pids are believed only with their start times.
//! Its fields are the keys of the JSON object (schema 1, docs/operations.md); what serialises them
//! stands at the end.
#![allow(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields over by reference"
)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::orphan::watchdog_age;
use osps_heart::pulse::Sample;
use osps_heart::segment::layout::{ServerCells, SlotCells};
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Segment, text};
use osps_heart::shown::Shown;
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::{Monotonic, nanos};
use osps_heart::words::{Cause, Class, HeartSource, Role, State, Watched};
use serde::{Serialize, Serializer};

use crate::instance::life::{Life, has_members, is_comparable, is_frozen};
use crate::sys::process::Process;

/// One look at an instance. Absent is `None`, never a number that means it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Name of the instance.
    pub name: String,
    /// Its run directory.
    #[serde(serialize_with = "path")]
    pub run_dir: PathBuf,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// Silence that convicts.
    #[serde(rename = "hang_timeout_ms", serialize_with = "millis")]
    pub hang_timeout: Duration,
    /// Longest time between two checks.
    #[serde(rename = "check_interval_ms", serialize_with = "millis")]
    pub check_interval: Duration,
    /// Its servers, in the order of their slots.
    pub servers: Vec<Server>,
    /// The data area.
    pub data: Data,
}

/// The watchdog, as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watchdog {
    /// Its pid, as recorded.
    pub pid: u64,
    /// Whether that process lives, here or elsewhere.
    pub alive: bool,
    /// Whether it lives (or its servers do, if it does not) in another pid namespace: the pids are
    /// those seen there.
    pub elsewhere: bool,
    /// Its pid as seen from here, if it lives and can be seen.
    pub pid_here: Option<u32>,
    /// Whether it lives and its heart stands still.
    #[serde(skip)]
    pub frozen: bool,
    /// Age of its last beat.
    #[serde(rename = "beat_age_ms", serialize_with = "maybe_millis")]
    pub beat_age: Option<Duration>,
    /// Time since it started.
    #[serde(rename = "since_ms", serialize_with = "millis")]
    pub since: Duration,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(serialize_with = "role")]
    pub role: Option<Role>,
    /// Its slot.
    pub slot: usize,
    /// Its pid, if it lives.
    pub pid: Option<u32>,
    /// The generation that was started last.
    pub generation: u32,
    /// Its state. A process that is still recorded may be gone: then it is down.
    #[serde(serialize_with = "state")]
    pub state: Option<State>,
    /// The server that it waits for, if it is blocked.
    pub blocked_by: Option<String>,
    /// For how long it is not judged.
    #[serde(rename = "paused_ms", serialize_with = "maybe_millis")]
    pub paused: Option<Duration>,
    /// Where it listens.
    pub listen: Option<String>,
    /// Who has its listening sockets; `None` = it has none.
    pub sockets: Option<Sockets>,
    /// Beats so far, over all generations.
    pub beats: u64,
    /// Age of its last beat, from its first beat on.
    #[serde(rename = "beat_age_ms", serialize_with = "maybe_millis")]
    pub beat_age: Option<Duration>,
    /// Who beats for it.
    #[serde(serialize_with = "source")]
    pub heart: Option<HeartSource>,
    /// Whether its silence convicts it now.
    pub watched: bool,
    /// Further hearts of its processes.
    pub hearts: Vec<Heart>,
    /// Pid of the process that claimed its heart, as that process sees it; the leader or a program
    /// behind it.
    pub heart_pid: Option<u32>,
    /// Restarts so far.
    pub restarts: Restarts,
    /// Why the last process went.
    pub last_cause: Option<LastCause>,
    /// What it says it is doing.
    pub activity: Option<String>,
    /// Client connections it serves, as it says.
    pub sessions: u64,
    /// Whether it stays if the watchdog is gone for good, since it does not look for that; `None` =
    /// it does not run, or nobody can know yet.
    #[serde(rename = "stays_without_watchdog")]
    pub stays: Option<bool>,
}

/// A further heart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heart {
    /// What its claimant calls it.
    pub name: String,
    /// Pid of its claimant, as that process sees it.
    pub pid: u32,
    /// Whether it waits for work and is not judged.
    pub parked: bool,
    /// Age of its last beat, if it is not parked.
    #[serde(rename = "beat_age_ms", serialize_with = "maybe_millis")]
    pub beat_age: Option<Duration>,
    /// Its own limit; absent = the service's.
    #[serde(rename = "limit_ms", serialize_with = "maybe_millis")]
    pub limit: Option<Duration>,
}

/// Who has the listening sockets of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sockets {
    /// osps: they outlive the server.
    Held,
    /// The server alone, since a new watchdog could not have them: until its next start.
    Elsewhere,
}

/// The data area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Data {
    /// Commits so far.
    pub sequence: u64,
    /// Epoch of the last grant.
    pub epoch: u64,
    /// Name of the server that may write.
    pub owner: Option<String>,
    /// Bytes of one copy.
    pub size: u64,
    /// Keys in the table.
    pub keys: u64,
}

/// How an instance is, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Every server is up, and the watchdog beats.
    AllUp = 0,
    /// Something is not as it should be.
    Degraded = 1,
    /// Nobody lives.
    NotRunning = 3,
    /// There is something that is no segment.
    CannotTell = 4,
}

impl Snapshot {
    /// A look at a segment.
    pub fn of(segment: &Segment, run_dir: &Path, now: Monotonic) -> Snapshot {
        let header = segment.header();
        let owner = segment.owner().current();
        let area = segment.area_cells();
        let life = Life::of(segment, run_dir);
        let left_elsewhere = !life.is_alive() && !is_comparable(run_dir);
        let elsewhere = life.is_elsewhere() || left_elsewhere && has_members(run_dir);
        // By another clock start times mean as little as pids.
        let start_time = get(&header.watchdog_start_time);
        let shifted = life.process().is_some_and(|process| process.start_time() != start_time);
        let pids = match elsewhere || shifted {
            true => Pids::Believed,
            false if left_elsewhere => Pids::Strange,
            false => Pids::Seen,
        };
        let slots = 0..segment.slots().len();
        // A page without a name is free: room for what a reload brings.
        let taken = slots.filter(|slot| get(&segment.slots()[*slot].server.name[0]) != 0);
        let servers: Vec<_> = taken.map(|slot| Server::of(segment, slot, now, pids)).collect();
        Snapshot {
            name: text::load(&header.name),
            run_dir: run_dir.to_owned(),
            watchdog: Watchdog {
                pid: get(&header.watchdog_pid),
                alive: life.is_alive(),
                elsewhere,
                pid_here: life.process().map(Process::pid),
                frozen: life.is_alive() && is_frozen(segment),
                beat_age: watchdog_age(segment, now),
                since: now.since(Monotonic(get(&header.started_ns))),
            },
            hang_timeout: Duration::from_nanos(get(&header.hang_timeout_ns)),
            check_interval: Duration::from_nanos(get(&header.check_interval_ns)),
            data: Data {
                sequence: get(&area.sequence),
                epoch: owner.epoch.0,
                owner: owner.slot.and_then(|slot| {
                    let mut servers = servers.iter();
                    Some(servers.find(|server| server.slot == slot.index())?.name.clone())
                }),
                size: segment.geometry().data_size,
                keys: get(&area.keys),
            },
            servers,
        }
    }

    /// How it is, in two words.
    pub fn summary(&self) -> &'static str {
        match self.health() {
            Health::AllUp => "all up",
            Health::Degraded if !self.watchdog.alive => "no watchdog",
            Health::Degraded if self.watchdog.frozen => "frozen",
            Health::Degraded => "degraded",
            Health::NotRunning => "not running",
            Health::CannotTell => "cannot tell",
        }
    }

    /// How it is.
    pub fn health(&self) -> Health {
        let any_alive = self.servers.iter().any(|server| server.pid.is_some());
        let up = |server: &Server| {
            server.pid.is_some() && server.state == Some(State::Up)
                || server.state == Some(State::Done)
        };
        let all_up = self.servers.iter().all(up);
        match (self.watchdog.alive, any_alive) {
            (false, false) => Health::NotRunning,
            (true, _) if all_up && !self.watchdog.frozen => Health::AllUp,
            _ => Health::Degraded,
        }
    }
}

/// What recorded pids mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pids {
    /// What they meant to who recorded them: looked for.
    Seen,
    /// Nothing that could be looked for, but the watchdog or a server lives: pages are believed.
    Believed,
    /// Nothing, and nobody lives there any more.
    Strange,
}

impl Server {
    fn of(segment: &Segment, slot: usize, now: Monotonic, pids: Pids) -> Server {
        let SlotCells { server, activity } = &segment.slots()[slot];
        let sample = segment.hearts()[slot].sample();
        let identity = server.identity();
        let pid = identity.map(|identity| identity.pid).filter(|_| {
            let seen = |known: Identity| Process::find(known.pid, known.start_time).is_some();
            match pids {
                Pids::Seen => identity.is_some_and(seen),
                Pids::Believed => true,
                Pids::Strange => false,
            }
        });
        let beaten = sample.count != get(&server.baseline);
        let credible = beaten && is_credible(sample, now);
        let listen = text::load(&server.listen);
        let claim = segment.hearts()[slot].claimed();
        let generation = server.current_generation();
        let claimed = u8::try_from(slot).is_ok_and(|slot| claim.is_of(SlotId(slot), generation));
        let role = Role::from_code(get(&server.role));
        // A process that the page still names may be gone, if nobody was there to notice.
        let state = State::from_code(get(&server.state))
            .map(|state| if state.has_process() && pid.is_none() { State::Down } else { state });
        Server {
            name: text::load(&server.name),
            role,
            slot,
            pid,
            generation: generation.0,
            state,
            blocked_by: (get(&server.state) == State::Blocked.code())
                .then(|| usize::try_from(get(&server.blocked_by)).ok())
                .flatten()
                .and_then(|by| segment.slots().get(by.checked_sub(1)?))
                .map(|by| text::load(&by.server.name)),
            paused: Some(Monotonic(get(&server.paused_until_ns)).since(now))
                .filter(|left| !left.is_zero()),
            sockets: (!listen.is_empty()).then_some(match get(&server.unheld) {
                0 => Sockets::Held,
                _ => Sockets::Elsewhere,
            }),
            listen: (!listen.is_empty()).then_some(listen),
            beats: sample.count,
            beat_age: (credible && pid.is_some()).then(|| now.since(sample.stamp)),
            heart: HeartSource::from_code(get(&server.heart_source)),
            watched: pid.is_some() && get(&server.watched) == Watched::Yes.code(),
            hearts: match pid {
                Some(_) => further(segment, slot, generation, now).collect(),
                None => Vec::new(),
            },
            heart_pid: (claimed && pid.is_some()).then_some(claim.pid),
            restarts: Restarts(std::array::from_fn(|cause| get(&server.restarts[cause]))),
            last_cause: LastCause::of(server),
            activity: activity.text().filter(|text| !text.is_empty() && pid.is_some()),
            sessions: get(&activity.sessions),
            stays: state
                .filter(|state| *state != State::Starting && pid.is_some())
                .map(|_| role == Some(Role::Program) && !activity.is_heeded_by(generation)),
        }
    }

    /// Its state's word.
    pub fn state_word(&self) -> &'static str {
        self.state.map_or("unknown", State::word)
    }
}

/// Whether a stamp may be the moment of a beat.
fn is_credible(sample: Sample, now: Monotonic) -> bool {
    let ahead = Duration::from_secs(1);
    sample.stamp <= now + ahead && sample.stamp.0 != 0
}

/// The further hearts that a generation of a slot has claimed.
fn further(
    segment: &Segment,
    slot: usize,
    generation: Generation,
    now: Monotonic,
) -> impl Iterator<Item = Heart> + use<'_> {
    let slot = u8::try_from(slot).map(SlotId);
    let lines = segment.hearts().iter().skip(segment.slots().len());
    lines.filter_map(move |line| {
        let claim = line.claimed();
        let of = slot.is_ok_and(|slot| claim.is_of(slot, generation));
        let sample = line.sample();
        of.then(|| Heart {
            name: text::load(&line.name),
            pid: claim.pid,
            parked: sample.is_parked(),
            beat_age: is_credible(sample, now).then(|| now.since(sample.stamp)),
            limit: line.chosen_limit(),
        })
    })
}

/// Restarts per cause, in the order of [`Cause::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts([u64; Cause::ALL.len()]);

impl Restarts {
    /// Those for one of these causes.
    pub fn of(&self, causes: &[Cause]) -> u64 {
        causes.iter().map(|cause| self.0[cause.index()]).fold(0, u64::saturating_add)
    }
}

/// Why the last process went: `frozen (stopped)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCause {
    /// The cause.
    pub cause: Cause,
    /// The class of a freeze.
    pub class: Option<Class>,
    /// The name of the further heart that fell silent; empty = its own.
    pub heart: String,
}

impl LastCause {
    fn of(server: &ServerCells) -> Option<LastCause> {
        let cause = Cause::from_code(get(&server.last_cause))?;
        let class = Class::from_code(get(&server.last_class));
        let heart = if class.is_some() { text::load(&server.last_heart) } else { String::new() };
        Some(LastCause { cause, class, heart })
    }
}

impl fmt::Display for LastCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Some(class) if self.heart.is_empty() => write!(f, "{} ({class})", self.cause),
            Some(class) => write!(f, "{} ({class}, heart {})", self.cause, self.heart),
            None => self.cause.fmt(f),
        }
    }
}

/// Three sums, as schema 1 has them.
impl Serialize for Restarts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Sums {
            dead: u64,
            frozen: u64,
            other: u64,
        }
        let sums = Sums {
            dead: self.of(&[Cause::Exited, Cause::Killed, Cause::OutOfMemory]),
            frozen: self.of(&[Cause::Frozen]),
            other: self.of(&[Cause::StartTimeout, Cause::Dependency, Cause::Requested]),
        };
        sums.serialize(to)
    }
}

impl Serialize for LastCause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

pub(super) fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Shown(path))
}

fn role<S: Serializer>(role: &Option<Role>, to: S) -> Result<S::Ok, S::Error> {
    role.map_or("unknown", Role::word).serialize(to)
}

pub(super) fn source<S: Serializer>(
    source: &Option<HeartSource>,
    to: S,
) -> Result<S::Ok, S::Error> {
    source.map_or("unknown", HeartSource::word).serialize(to)
}

fn state<S: Serializer>(state: &Option<State>, to: S) -> Result<S::Ok, S::Error> {
    state.map_or("unknown", State::word).serialize(to)
}

pub(super) fn millis<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    whole_millis(*span).serialize(to)
}

pub(super) fn maybe_millis<S: Serializer>(
    span: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    span.map(whole_millis).serialize(to)
}

fn whole_millis(span: Duration) -> u64 {
    nanos(span) / 1_000_000
}

fn get(word: &Word) -> u64 {
    word.load(Ordering::Relaxed)
}
