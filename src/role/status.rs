//! `osps status`: the read-only view. Needs neither the watchdog nor a lock: the segment is the
//! whole truth, and pids are believed only with their start times.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::rundir::{Place, WATCHDOG_STALE, watchdog_age, watchdog_of};
use super::{Error, role_code};
use crate::policy::lifecycle::{Cause, STATE_WORDS};
use crate::policy::verdict::Class;
use crate::segment::layout::{RecordCells, SlotCells};
use crate::segment::{Access, AttachError, Segment, text};
use crate::sync::{Ordering, Word};
use crate::sys::clock::SystemClock;
use crate::sys::output;
use crate::sys::process::Process;
use crate::time::{Clock, Monotonic, Short, nanos};

/// How a look ends, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every server is up, and the watchdog beats.
    AllUp = 0,
    /// Something is not as it should be.
    Degraded = 1,
    /// Nobody lives.
    NotRunning = 3,
    /// There is something that is no segment.
    CannotTell = 4,
}

/// The JSON object, schema 1 (design §10): tools build on it, keys are only ever added.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    name: String,
    run_dir: String,
    watchdog: Watchdog,
    hang_timeout_ms: u64,
    check_interval_ms: u64,
    servers: Vec<Server>,
    data: Data,
}

#[derive(Debug, Serialize)]
struct Watchdog {
    pid: u64,
    alive: bool,
    beat_age_ms: Option<u64>,
    since_ms: u64,
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    role: &'static str,
    slot: usize,
    pid: Option<u32>,
    generation: u32,
    state: &'static str,
    listen: Option<String>,
    beats: u64,
    beat_age_ms: Option<u64>,
    restarts: Restarts,
    last_cause: Option<String>,
    activity: Option<String>,
    sessions: u64,
    #[serde(skip)]
    alive: bool,
}

#[derive(Debug, Serialize)]
struct Restarts {
    dead: u64,
    frozen: u64,
    other: u64,
}

#[derive(Debug, Serialize)]
struct Data {
    sequence: u64,
    epoch: u64,
    owner: Option<String>,
    size: u64,
    keys: u64,
}

/// Shows an instance.
pub fn main(place: &Place, json: bool) -> Result<ExitCode, Error> {
    let shown = place.path.display();
    let segment = match Segment::open(&place.path, Access::ReadOnly) {
        Ok(segment) => segment,
        Err(AttachError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            log::error!("osps does not run in {shown}");
            return Ok(exit(Verdict::NotRunning));
        }
        Err(error) => {
            log::error!("cannot tell: {shown}: {error}");
            return Ok(exit(Verdict::CannotTell));
        }
    };
    let (text, verdict) = view(&segment, &place.path, json, SystemClock.now());
    output::print(text.as_bytes());
    Ok(exit(verdict))
}

/// What is shown of a segment, and the verdict on it, whatever stands in it.
pub fn view(segment: &Segment, run_dir: &Path, json: bool, now: Monotonic) -> (String, Verdict) {
    let report = Report::of(segment, run_dir, now);
    let verdict = report.verdict();
    let mut text = if json {
        serde_json::to_string(&report).unwrap_or_default()
    } else {
        report.table(verdict)
    };
    text.push('\n');
    (text, verdict)
}

fn exit(verdict: Verdict) -> ExitCode {
    ExitCode::from(verdict as u8)
}

impl Report {
    fn of(segment: &Segment, run_dir: &Path, now: Monotonic) -> Report {
        let header = segment.header();
        let get = |word: &Word| word.load(Ordering::Relaxed);
        let started = Monotonic(get(&header.started_ns));
        let owner = segment.owner().current();
        let area = segment.area_cells();
        let servers: Vec<_> =
            (0..segment.slots().len()).map(|slot| Server::of(segment, slot, now)).collect();
        Report {
            schema: 1,
            name: text::load(&header.name),
            run_dir: run_dir.display().to_string(),
            watchdog: Watchdog {
                pid: get(&header.watchdog_pid),
                alive: watchdog_of(segment).is_some(),
                beat_age_ms: watchdog_age(segment, now).map(millis),
                since_ms: millis(now.since(started)),
            },
            hang_timeout_ms: get(&header.hang_timeout_ns) / 1_000_000,
            check_interval_ms: get(&header.check_interval_ns) / 1_000_000,
            data: Data {
                sequence: get(&area.sequence),
                epoch: owner.epoch.0,
                owner: owner.slot.and_then(|slot| Some(servers.get(slot.index())?.name.clone())),
                size: segment.geometry().data_size,
                keys: get(&area.keys),
            },
            servers,
        }
    }

    fn is_frozen(&self) -> bool {
        self.watchdog.beat_age_ms.is_none_or(|age| age >= millis(WATCHDOG_STALE))
    }

    fn verdict(&self) -> Verdict {
        let any_alive = self.servers.iter().any(|server| server.alive);
        let all_up = self.servers.iter().all(|server| server.alive && server.state == "up");
        match (self.watchdog.alive, any_alive) {
            (false, false) => Verdict::NotRunning,
            (true, _) if all_up && !self.is_frozen() => Verdict::AllUp,
            _ => Verdict::Degraded,
        }
    }

    fn table(&self, verdict: Verdict) -> String {
        let watchdog = &self.watchdog;
        let age = |ms: Option<u64>| ms.map_or("-".to_owned(), ago);
        let standing = match (watchdog.alive, self.is_frozen()) {
            (true, false) => "alive",
            (true, true) => "FROZEN",
            (false, _) => "DEAD",
        };
        let mut lines = vec![
            format!(
                "{} in {}: watchdog pid {} {standing}, beat {} ago, started {} ago; hang \
                 timeout {}",
                self.name,
                self.run_dir,
                watchdog.pid,
                age(watchdog.beat_age_ms),
                ago(watchdog.since_ms),
                ago(self.hang_timeout_ms),
            ),
            format!(
                "{:<14} {:>7} {:>4} {:<9} {:>8} {:>9}  {:<21} {:<18} {}",
                "SERVER",
                "PID",
                "GEN",
                "STATE",
                "BEAT",
                "RESTARTS",
                "LISTEN",
                "LAST CAUSE",
                "ACTIVITY"
            ),
        ];
        for server in &self.servers {
            let restarts = &server.restarts;
            lines.push(format!(
                "{:<14} {:>7} {:>4} {:<9} {:>8} {:>9}  {:<21} {:<18} {}",
                server.name,
                server.pid.map_or("-".to_owned(), |pid| pid.to_string()),
                server.generation,
                server.state,
                age(server.beat_age_ms),
                restarts.dead.saturating_add(restarts.frozen).saturating_add(restarts.other),
                server.listen.as_deref().unwrap_or("-"),
                server.last_cause.as_deref().unwrap_or("-"),
                server.activity.as_deref().unwrap_or("-"),
            ));
        }
        lines.push(match verdict {
            Verdict::AllUp => "all up".to_owned(),
            Verdict::Degraded if !watchdog.alive => {
                "servers live without a watchdog: start osps again".to_owned()
            }
            Verdict::Degraded if self.is_frozen() => format!(
                "the watchdog is frozen: continue it with `kill -CONT {0}` or end it with `kill -9 \
                 {0}`",
                watchdog.pid
            ),
            Verdict::Degraded => "degraded".to_owned(),
            Verdict::NotRunning => {
                "not running: these are leftovers of a killed instance".to_owned()
            }
            Verdict::CannotTell => "cannot tell".to_owned(),
        });
        lines.join("\n")
    }
}

impl Server {
    fn of(segment: &Segment, slot: usize, now: Monotonic) -> Server {
        let SlotCells { record, report } = &segment.slots()[slot];
        let get = |word: &Word| word.load(Ordering::Relaxed);
        let sample = segment.hearts()[slot].sample();
        let identity = record.identity();
        let alive = identity
            .is_some_and(|identity| Process::find(identity.pid, identity.start_time).is_some());
        let beaten = sample.count != get(&record.baseline);
        let ahead = Duration::from_secs(1);
        let age = (beaten && sample.stamp <= now + ahead && sample.stamp.0 != 0)
            .then(|| millis(now.since(sample.stamp)));
        let restarts: Vec<_> = record.restarts.iter().map(get).collect();
        let sum = |causes: &[Cause]| {
            let of = |cause: &Cause| usize::try_from(cause.code() - 1).map_or(0, |i| restarts[i]);
            causes.iter().map(of).fold(0, u64::saturating_add)
        };
        let state = usize::try_from(get(&record.state)).ok();
        let listen = text::load(&record.listen);
        Server {
            name: text::load(&record.name),
            role: role_code::word(get(&record.role)),
            slot,
            pid: identity.filter(|_| alive).map(|identity| identity.pid),
            generation: record.current_generation().0,
            // A process that the record still names may be gone, if nobody was there to notice.
            state: match state.and_then(|state| STATE_WORDS.get(state)).copied() {
                Some("starting" | "up" | "late" | "stopping" | "held") if !alive => "down",
                word => word.unwrap_or("unknown"),
            },
            listen: (!listen.is_empty()).then_some(listen),
            beats: sample.count,
            beat_age_ms: age.filter(|_| alive),
            restarts: Restarts {
                dead: sum(&[Cause::Exited, Cause::Killed]),
                frozen: sum(&[Cause::Frozen(Class::Unknown)]),
                other: sum(&[Cause::StartTimeout, Cause::Primary, Cause::Requested]),
            },
            last_cause: last_cause(record),
            activity: report.activity().filter(|text| !text.is_empty() && alive),
            sessions: get(&report.sessions),
            alive,
        }
    }
}

/// The cause of the last restart, with the class of a freeze: `frozen (stopped)`.
fn last_cause(record: &RecordCells) -> Option<String> {
    let code = record.last_cause.load(Ordering::Relaxed);
    let word = Cause::WORDS.get(usize::try_from(code.checked_sub(1)?).ok()?)?;
    let class = Class::from_code(record.last_class.load(Ordering::Relaxed));
    Some(class.map_or((*word).to_owned(), |class| format!("{word} ({class})")))
}

fn millis(span: Duration) -> u64 {
    nanos(span) / 1_000_000
}

fn ago(ms: u64) -> String {
    Short(Duration::from_millis(ms)).to_string()
}
