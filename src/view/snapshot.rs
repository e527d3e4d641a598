//! The model of a look: everything that any face shows of an instance, whatever stands in its
//! segment. Needs neither the watchdog nor a lock; pids are believed only with their start times.
//! Its fields are the keys of the JSON object (schema 2, docs/operations.md); what serialises them
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
use osps_heart::pulse::{Sample, is_limit};
use osps_heart::segment::gaps::{Gaps, Name, OWN};
use osps_heart::segment::layout::{HeartCells, ServerCells, SlotCells};
use osps_heart::segment::slot::load_set;
use osps_heart::segment::{Segment, text};
use osps_heart::shown::Shown;
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::{Monotonic, nanos};
use osps_heart::words::{Cause, Class, HeartSource, Role, State, Watched};
use serde::{Serialize, Serializer};

use crate::error::Refusal;
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
    /// Its services, in the order of their first slots.
    pub services: Vec<Service>,
    /// Their instances, in the order of their slots.
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
    pub frozen: bool,
    /// Age of its last beat.
    #[serde(rename = "beat_age_ms", serialize_with = "maybe_millis")]
    pub beat_age: Option<Duration>,
    /// Time since it started.
    #[serde(rename = "since_ms", serialize_with = "millis")]
    pub since: Duration,
    /// When the instance was started, ms since 1970.
    pub started_unix_ms: u64,
    /// How late its last turn was.
    #[serde(rename = "lag_us", serialize_with = "micros")]
    pub lag: Duration,
    /// How late its latest turn so far was.
    #[serde(rename = "worst_lag_us", serialize_with = "micros")]
    pub worst_lag: Duration,
    /// Turns so late that limits ran again.
    pub late_turns: u64,
    /// Lines of its output that were dropped because nobody read them.
    pub dropped_lines: u64,
}

/// A service: all its instances together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The state that is farthest from `up` among those of its instances.
    #[serde(serialize_with = "state")]
    pub state: Option<State>,
    /// Names of its instances.
    pub instances: Vec<String>,
    /// How many of them are up, or done.
    pub up: usize,
    /// Names of the services that it waits for until they are up.
    pub depends_on: Vec<String>,
    /// Names of the services that it waits for until they are done.
    pub after_done: Vec<String>,
    /// Names of the services that it goes down with.
    pub restart_with: Vec<String>,
    /// Restarts of its instances.
    pub restarts: Restarts,
    /// Verdicts of a freeze on its instances.
    pub hangs: Hangs,
    /// Hang reports about its instances.
    pub reports: Reports,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// The service that it is an instance of.
    pub service: String,
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
    /// Time in this state, as long as a watchdog keeps it.
    #[serde(rename = "since_ms", serialize_with = "millis")]
    pub since: Duration,
    /// For how long its process has been up.
    #[serde(rename = "up_ms", serialize_with = "maybe_millis")]
    pub up: Option<Duration>,
    /// Time to the next start, if it backs off.
    #[serde(rename = "due_ms", serialize_with = "maybe_millis")]
    pub due: Option<Duration>,
    /// Names of those that it waits for until they are up.
    pub depends_on: Vec<String>,
    /// Names of those that it waits for until they are done.
    pub after_done: Vec<String>,
    /// Names of those that it goes down with.
    pub restart_with: Vec<String>,
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
    /// Silence that convicts it.
    #[serde(rename = "limit_ms", serialize_with = "maybe_millis")]
    pub limit: Option<Duration>,
    /// How long its own heart was silent between beats; `None` = nothing was counted.
    #[serde(serialize_with = "gaps")]
    pub gaps: Option<Gaps>,
    /// Further hearts of its processes.
    pub hearts: Vec<Heart>,
    /// Pid of the process that claimed its heart, as that process sees it; the leader or a program
    /// behind it.
    pub heart_pid: Option<u32>,
    /// Processes started so far.
    pub starts: u64,
    /// Restarts so far.
    pub restarts: Restarts,
    /// Verdicts of a freeze so far.
    pub hangs: Hangs,
    /// Hang reports about it.
    pub reports: Reports,
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
    /// Its line among the hearts of the segment.
    #[serde(skip)]
    pub line: usize,
    /// Beats so far.
    #[serde(skip)]
    pub beats: u64,
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
    /// Who beats in it.
    #[serde(serialize_with = "source")]
    pub source: Option<HeartSource>,
    /// How long it was silent between beats.
    #[serde(serialize_with = "gaps")]
    pub gaps: Option<Gaps>,
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
        Snapshot::through(segment, run_dir, now, &mut Once)
    }

    /// The same, where the kernel is asked by somebody who may remember what it said.
    pub fn through(
        segment: &Segment,
        run_dir: &Path,
        now: Monotonic,
        eyes: &mut dyn Eyes,
    ) -> Snapshot {
        let header = segment.header();
        let owner = segment.owner().current();
        let area = segment.area_cells();
        let standing = eyes.standing(segment, run_dir);
        // By another clock start times mean as little as pids.
        let start_time = get(&header.watchdog_start_time);
        let shifted = standing.process.is_some_and(|(_, started)| started != start_time);
        let pids = match standing.elsewhere || shifted {
            true => Pids::Believed,
            false if standing.left_elsewhere => Pids::Strange,
            false => Pids::Seen,
        };
        let slots = 0..segment.slots().len();
        // A page without a name is free: room for what a reload brings.
        let taken = slots.filter(|slot| get(&segment.slots()[*slot].server.name[0]) != 0);
        let servers: Vec<_> =
            taken.map(|slot| Server::of(segment, slot, now, pids, eyes)).collect();
        Snapshot {
            name: text::load(&header.name),
            run_dir: run_dir.to_owned(),
            watchdog: Watchdog {
                pid: get(&header.watchdog_pid),
                alive: standing.alive,
                elsewhere: standing.elsewhere,
                pid_here: standing.process.map(|(pid, _)| pid),
                frozen: standing.alive && eyes.is_frozen(segment, now),
                beat_age: watchdog_age(segment, now),
                since: now.since(Monotonic(get(&header.started_ns))),
                started_unix_ms: get(&header.started_unix_ns) / 1_000_000,
                lag: Duration::from_nanos(get(&header.lag_ns)),
                worst_lag: Duration::from_nanos(get(&header.worst_lag_ns)),
                late_turns: get(&header.late_turns),
                dropped_lines: get(&header.dropped_lines),
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
            services: services(&servers),
            servers,
        }
    }

    /// The servers of these names, or all; refused if one of them is nobody's.
    pub fn called(&self, names: &[String]) -> Result<Vec<&Server>, Refusal> {
        let all = &self.servers;
        if let Some(name) = names.iter().find(|name| !all.iter().any(|one| one.is_called(name))) {
            let known = self.services.iter().map(|service| service.name.clone()).collect();
            return Err(Refusal::NoService { name: name.clone(), known });
        }
        let wanted =
            |server: &&Server| names.is_empty() || names.iter().any(|name| server.is_called(name));
        Ok(all.iter().filter(wanted).collect())
    }

    /// Whether its watchdog lives and beats.
    pub fn is_watched_over(&self) -> bool {
        self.watchdog.alive && !self.watchdog.frozen
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
        let all_up = self.servers.iter().all(Server::is_well);
        match (self.watchdog.alive, any_alive) {
            (false, false) => Health::NotRunning,
            (true, _) if all_up && self.is_watched_over() => Health::AllUp,
            _ => Health::Degraded,
        }
    }
}

/// The services of these servers.
fn services(servers: &[Server]) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    // Of several instances the names of the service, once.
    let family = |name: &String| {
        let other = servers.iter().find(|server| server.name == *name);
        other.map_or(name, |server| &server.service).clone()
    };
    let add = |known: &mut Vec<String>, names: &[String]| {
        for name in names.iter().map(family) {
            if !known.contains(&name) {
                known.push(name);
            }
        }
    };
    for server in servers {
        let place = services.iter().position(|service| service.name == server.service);
        let place = place.unwrap_or_else(|| {
            services.push(Service {
                name: server.service.clone(),
                state: server.state,
                instances: Vec::new(),
                up: 0,
                depends_on: Vec::new(),
                after_done: Vec::new(),
                restart_with: Vec::new(),
                restarts: Restarts::default(),
                hangs: Hangs::default(),
                reports: Reports::default(),
            });
            services.len() - 1
        });
        let service = &mut services[place];
        if distance(server.state) > distance(service.state) {
            service.state = server.state;
        }
        service.instances.push(server.name.clone());
        service.up += usize::from(server.is_well());
        add(&mut service.depends_on, &server.depends_on);
        add(&mut service.after_done, &server.after_done);
        add(&mut service.restart_with, &server.restart_with);
        service.restarts.add(&server.restarts);
        service.hangs.add(&server.hangs);
        service.reports.add(server.reports);
    }
    services
}

/// How far a state is from where a server should be.
fn distance(state: Option<State>) -> u8 {
    match state {
        Some(State::Done) => 0,
        Some(State::Up) => 1,
        Some(State::Late) => 2,
        Some(State::Held) => 3,
        Some(State::Starting) => 4,
        Some(State::Blocked) => 5,
        Some(State::Stopping) => 6,
        Some(State::Down) => 7,
        Some(State::Backoff) => 8,
        Some(State::Failed) => 9,
        None => 10,
    }
}

/// What a look asks the kernel.
pub trait Eyes {
    /// Who watches there.
    fn standing(&mut self, segment: &Segment, run_dir: &Path) -> Standing;
    /// Whether a watchdog that lives does nothing.
    fn is_frozen(&mut self, segment: &Segment, now: Monotonic) -> bool;
    /// Whether this process lives.
    fn lives(&mut self, pid: u32, start_time: u64) -> bool;
}

/// How a watchdog is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It lives.
    pub alive: bool,
    /// It, or its servers, live in another pid namespace.
    pub elsewhere: bool,
    /// It is dead, and lived in another pid namespace.
    pub left_elsewhere: bool,
    /// Pid and start time of its process, if that can be seen from here.
    pub process: Option<(u32, u64)>,
}

impl Standing {
    /// As the kernel says now.
    pub fn of(segment: &Segment, run_dir: &Path) -> (Standing, Life) {
        let life = Life::of(segment, run_dir);
        let left_elsewhere = !life.is_alive() && !is_comparable(run_dir);
        let standing = Standing {
            alive: life.is_alive(),
            elsewhere: life.is_elsewhere() || left_elsewhere && has_members(run_dir),
            left_elsewhere,
            process: life.process().map(|process| (process.pid(), process.start_time())),
        };
        (standing, life)
    }
}

/// Of somebody who looks once: remembers nothing, and watches a silent watchdog for a while.
struct Once;

impl Eyes for Once {
    fn standing(&mut self, segment: &Segment, run_dir: &Path) -> Standing {
        Standing::of(segment, run_dir).0
    }

    fn is_frozen(&mut self, segment: &Segment, _: Monotonic) -> bool {
        is_frozen(segment)
    }

    fn lives(&mut self, pid: u32, start_time: u64) -> bool {
        Process::find(pid, start_time).is_some()
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
    fn of(
        segment: &Segment,
        slot: usize,
        now: Monotonic,
        pids: Pids,
        eyes: &mut dyn Eyes,
    ) -> Server {
        let SlotCells { server, activity } = &segment.slots()[slot];
        let sample = segment.hearts()[slot].sample();
        let identity = server.identity();
        let pid = identity.map(|identity| identity.pid).filter(|_| match pids {
            Pids::Seen => identity.is_some_and(|known| eyes.lives(known.pid, known.start_time)),
            Pids::Believed => true,
            Pids::Strange => false,
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
        let name = text::load(&server.name);
        let family = text::load(&server.family);
        let names = |set| {
            let known = load_set(set).filter_map(|slot| segment.slots().get(slot.index()));
            known.map(|page| text::load(&page.server.name)).collect()
        };
        let heart = HeartSource::from_code(get(&server.heart_source));
        let limit = Duration::from_nanos(get(&segment.hearts()[slot].limit_ns));
        let since = |word| Some(Monotonic(get(word))).filter(|at| at.0 != 0);
        Server {
            service: if family.is_empty() { name.clone() } else { family },
            since: now.since(Monotonic(get(&server.since_ns))),
            up: since(&server.up_since_ns).filter(|_| pid.is_some()).map(|at| now.since(at)),
            due: since(&server.due_ns)
                .filter(|_| state == Some(State::Backoff))
                .map(|at| at.since(now)),
            depends_on: names(&server.depends_on),
            after_done: names(&server.after_done),
            restart_with: names(&server.restart_with),
            limit: Some(limit).filter(|limit| is_limit(*limit)),
            gaps: gaps_of(segment, slot, &name, OWN),
            starts: get(&server.starts),
            hangs: Hangs(std::array::from_fn(|class| get(&server.hangs[class]))),
            reports: Reports {
                count: get(&server.reports),
                last: Some(get(&server.last_report)).filter(|number| *number != 0),
            },
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
            heart,
            watched: pid.is_some() && get(&server.watched) == Watched::Yes.code(),
            hearts: match pid {
                Some(_) => further(segment, slot, (generation, &name), heart, now),
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
            name,
        }
    }

    /// Whether it is where it should be: up, or done.
    pub fn is_well(&self) -> bool {
        self.pid.is_some() && self.state == Some(State::Up) || self.state == Some(State::Done)
    }

    /// Whether a name means it: its own, that of its service, or its own without its number.
    pub fn is_called(&self, name: &str) -> bool {
        is_called(&self.name, name) || self.service == name
    }

    /// Its state's word.
    pub fn state_word(&self) -> &'static str {
        self.state.map_or("unknown", State::word)
    }
}

/// Whether a name means one of this name: itself, or the service that it is an instance of.
pub(super) fn is_called(known: &str, name: &str) -> bool {
    let number = known.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    known == name || number.is_some_and(is_number)
}

/// Whether a stamp may be the moment of a beat.
fn is_credible(sample: Sample, now: Monotonic) -> bool {
    let ahead = Duration::from_secs(1);
    sample.stamp <= now + ahead && sample.stamp.0 != 0
}

/// The further hearts that a generation of a slot has claimed. Its own is beaten by this source.
fn further(
    segment: &Segment,
    slot: usize,
    (generation, service): (Generation, &str),
    own: Option<HeartSource>,
    now: Monotonic,
) -> Vec<Heart> {
    let Ok(of) = u8::try_from(slot).map(SlotId) else { return Vec::new() };
    let lines = segment.hearts().iter().enumerate().skip(segment.slots().len());
    let claimed = lines.filter(|(_, line)| line.claimed().is_of(of, generation));
    let heart = |(number, line): (usize, &HeartCells)| {
        let sample = line.sample();
        Heart {
            name: text::load(&line.name),
            line: number,
            beats: sample.count,
            pid: line.claimed().pid,
            parked: sample.is_parked(),
            beat_age: is_credible(sample, now).then(|| now.since(sample.stamp)),
            limit: line.chosen_limit(),
            source: further_source(own),
            gaps: gaps_of(segment, number, service, std::array::from_fn(|i| get(&line.name[i]))),
        }
    };
    claimed.map(heart).collect()
}

/// Who beats in the further hearts of a service, by who beats in its own: whoever claims one beats
/// there itself, or its event loops do.
pub(super) fn further_source(own: Option<HeartSource>) -> Option<HeartSource> {
    match own {
        Some(HeartSource::Loops) => own,
        _ => Some(HeartSource::Memory),
    }
}

/// The gaps that were counted in a heart line, if they are this heart's and make sense.
fn gaps_of(segment: &Segment, line: usize, service: &str, heart: Name) -> Option<Gaps> {
    let cells = segment.gaps().get(line)?;
    if cells.is_of(service) && cells.is_of_heart(heart) { cells.read().ok() } else { None }
}

/// Adds up, number by number.
fn add_all<const N: usize>(sums: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Verdicts of a freeze per class, in the order of [`Class::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hangs([u64; Class::ALL.len()]);

impl Hangs {
    /// Those of this class.
    pub fn of(&self, class: Class) -> u64 {
        self.0[class.index()]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn add(&mut self, more: &Hangs) {
        add_all(&mut self.0, &more.0);
    }
}

/// A key for each class.
impl Serialize for Hangs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Class::ALL.map(|class| (class.word(), self.of(class))))
    }
}

/// Hang reports about a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reports {
    /// How many were written.
    pub count: u64,
    /// The number of the newest.
    pub last: Option<u64>,
}

impl Reports {
    fn add(&mut self, more: Reports) {
        self.count = self.count.saturating_add(more.count);
        self.last = self.last.max(more.last);
    }
}

/// Restarts per cause, in the order of [`Cause::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts([u64; Cause::ALL.len()]);

impl Restarts {
    /// Those for one of these causes.
    pub fn of(&self, causes: &[Cause]) -> u64 {
        causes.iter().map(|cause| self.0[cause.index()]).fold(0, u64::saturating_add)
    }

    fn add(&mut self, more: &Restarts) {
        add_all(&mut self.0, &more.0);
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

/// Three sums, and one number per cause.
impl Serialize for Restarts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Sums<'a> {
            dead: u64,
            frozen: u64,
            other: u64,
            by_cause: ByCause<'a>,
        }
        struct ByCause<'a>(&'a Restarts);
        impl Serialize for ByCause<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_map(Cause::ALL.map(|cause| (cause.word(), self.0.of(&[cause]))))
            }
        }
        let sums = Sums {
            dead: self.of(&[Cause::Exited, Cause::Killed, Cause::OutOfMemory]),
            frozen: self.of(&[Cause::Frozen]),
            other: self.of(&[Cause::StartTimeout, Cause::Dependency, Cause::Requested]),
            by_cause: ByCause(self),
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

fn micros<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    (nanos(*span) / 1000).serialize(to)
}

/// The sums of a histogram.
fn gaps<S: Serializer>(gaps: &Option<Gaps>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Sums {
        count: u64,
        time_ms: u64,
        worst_ms: u64,
        near_misses: u64,
    }
    let sums = gaps.as_ref().map(|gaps| Sums {
        count: gaps.total(),
        time_ms: whole_millis(gaps.last.since(gaps.since)),
        worst_ms: whole_millis(gaps.worst),
        near_misses: gaps.near_misses,
    });
    sums.serialize(to)
}

fn whole_millis(span: Duration) -> u64 {
    nanos(span) / 1_000_000
}

fn get(word: &Word) -> u64 {
    word.load(Ordering::Relaxed)
}
