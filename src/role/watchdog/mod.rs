//! The watchdog: starts everything, watches everything, replaces what is dead or frozen.
//!
//! One turn: wait for a descriptor or the earliest deadline; read the clock once; beat; gather, in
//! this order: lateness, stop requests, deaths, control requests, hearts, timers; step the policy;
//! perform. It never blocks on what it watches, and once it runs no error ends it: a failed
//! action becomes an event.

mod control;
mod perform;
mod report;

use std::collections::VecDeque;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use self::control::{Control, Request};
use self::perform::Post;
use super::Error;
use super::role_code;
use super::rundir::{self, Claim, Place};
use crate::config::{Config, Programs};
use crate::ids::{Epoch, Generation, SlotId};
use crate::policy::group::{Action, Event, Group, Outcome, Spec};
use crate::policy::lifecycle::{Patience, State};
use crate::policy::ownership;
use crate::policy::verdict::{self, Limits, Observation};
use crate::segment::layout::{HEARTS_DEFAULT, flag};
use crate::segment::{AttachError, Founding, Geometry, Segment, text};
use crate::sync::Ordering;
use crate::sys::clock::{self, SystemClock};
use crate::sys::fifo::Fifo;
use crate::sys::poll::{Interest, Poll, Ready};
use crate::sys::process::Process;
use crate::sys::signals::Signals;
use crate::sys::{Failed, output, procfs, raw, socket};
use crate::time::{Clock, Monotonic, nanos};

/// The watchdog beats at least this often, whatever the check interval: servers judge it. With a
/// short orphan timeout it beats four times within that.
const BEAT: Duration = Duration::from_secs(1);
/// Time from TERM to KILL for a server that did not leave when asked.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// Time for a program of the user's to see its desired word, before TERM: two of the longest beat
/// intervals. One that does not look costs its operator this second at a stop.
const PROGRAM_ASK: Duration = Duration::from_secs(1);

/// The same signal again within this time is the same request.
const MERGE: Duration = Duration::from_millis(100);

/// Tokens of the poll set. Process `i` has `PROCESS + i`, askers have those from `CONTROL` on.
const SIGNALS: u64 = 0;
const PROCESS: u64 = 1;
const CONTROL: u64 = 1000;

/// Exit code of an instance that gave up.
const GAVE_UP: u8 = 3;

/// Runs an instance to its end.
pub fn main(config: &Config) -> Result<ExitCode, Error> {
    let signals = Signals::block()?;
    raw::close_on_exec_from(3);
    let mut watchdog = Watchdog::start(config, signals)?;
    let outcome = watchdog.run();
    watchdog.finish(outcome);
    Ok(match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Forced => ExitCode::FAILURE,
        Outcome::GaveUp => ExitCode::from(GAVE_UP),
    })
}

struct Watchdog {
    clock: SystemClock,
    poll: Poll,
    signals: Signals,
    control: Control,
    claim: Claim,
    segment: Segment,
    segment_file: File,
    /// Somebody cut or swapped the segment: hearts mean nothing then.
    damaged: bool,
    group: Group,
    posts: Vec<Post>,
    /// Last generation given out. Ours, not the segment's: servers can write there.
    generation: Generation,
    /// The pending recall, and since when we have seen it.
    recall: Option<(Epoch, Monotonic)>,
    hang_timeout: Duration,
    actions: VecDeque<Action>,
    /// Dead, but their status is held by somebody: reaped as soon as it is free.
    unreaped: Vec<Process>,
    check_interval: Duration,
    check_at: Monotonic,
    checks: u64,
    beat_at: Monotonic,
    beat_interval: Duration,
    allow: Allow,
}

/// What a stop request may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allow {
    /// Nothing was asked yet.
    Running,
    /// An orderly stop is under way; another request makes it hasty.
    Stopping {
        /// Since then.
        since: Monotonic,
        /// At the request of this one.
        by: &'static str,
    },
}

/// What a watchdog is made of before it runs.
struct Parts {
    plans: Vec<Plan>,
    segment: Segment,
    file: File,
    tubes: Vec<Vec<Fifo>>,
    poll: Poll,
    control: Control,
}

/// One server before it exists.
struct Plan {
    name: String,
    role: u64,
    listener: Option<TcpListener>,
    command: Vec<String>,
    spec: Spec,
}

impl Watchdog {
    /// Claims the run directory, binds the sockets, makes the segment; starts nobody yet.
    fn start(config: &Config, signals: Signals) -> Result<Watchdog, Error> {
        let clock = SystemClock;
        let place = Place::of(&config.name, config.run_dir.as_deref());
        let claim = Claim::take(&place)?;
        let parts = match Watchdog::set_up(config, &claim, &signals, clock) {
            Ok(parts) => parts,
            Err(error) => {
                claim.abandon();
                return Err(error);
            }
        };
        let now = clock.now();
        let last = parts.segment.header().generation.load(Ordering::Relaxed);
        let specs: Vec<_> = parts.plans.iter().map(|plan| plan.spec).collect();
        let posts = parts.plans.into_iter().zip(parts.tubes);
        Ok(Watchdog {
            clock,
            poll: parts.poll,
            signals,
            control: parts.control,
            claim,
            segment: parts.segment,
            segment_file: parts.file,
            damaged: false,
            group: Group::new(now, config.intensity, &specs),
            posts: posts.map(|(plan, tubes)| Post::new(plan, tubes)).collect(),
            generation: Generation(u32::try_from(last).unwrap_or(0)),
            recall: None,
            hang_timeout: config.hang_timeout,
            actions: VecDeque::new(),
            unreaped: Vec::new(),
            check_interval: config.check_interval,
            check_at: now,
            checks: 0,
            beat_at: now,
            beat_interval: BEAT.min(config.orphan_timeout / 4),
            allow: Allow::Running,
        })
    }

    /// Binds the sockets and makes the segment, the FIFOs and the control socket.
    fn set_up(
        config: &Config,
        claim: &Claim,
        signals: &Signals,
        clock: SystemClock,
    ) -> Result<Parts, Error> {
        let plans = plans(config)?;
        let dir = claim.run_dir.as_fd();
        let geometry =
            Geometry::new(plans.len(), HEARTS_DEFAULT, config.data_size, config.cell_size)
                .ok_or_else(|| Error::Refused("these sizes make no segment".to_owned()))?;
        let debug = if config.allow_debug { flag::ALLOW_DEBUG } else { 0 };
        let pid = std::process::id();
        let founding = Founding {
            geometry,
            flags: claim.made | debug,
            boot_id: procfs::boot_id(),
            name: config.name.clone(),
            watchdog: (pid, procfs::start_time(pid).unwrap_or(0)),
            now: clock.now(),
            unix_ns: clock::unix_ns(),
            hang_timeout: config.hang_timeout,
            check_interval: config.check_interval,
            beat_interval: config.beat_interval(),
            start_timeout: config.start_timeout,
            stop_timeout: config.stop_timeout,
            orphan_timeout: config.orphan_timeout,
        };
        let (segment, file, new) = found(claim, &founding, &plans, config)?;
        drop(claim.run_dir.create_file(rundir::MEMBERS)?);
        let tubes = tubes(dir, &plans)?;
        let poll = Poll::new()?;
        let control = Control::open(dir, rundir::CONTROL, &poll, CONTROL)?;
        poll.add(signals, SIGNALS, Interest::READ)?;
        let range = segment.addresses();
        raw::survive_bus_errors(range.start, range.end).map_err(Failed::to("guard", "segment"))?;
        // From here on nothing can fail, and what was kept may go.
        if new {
            claim.settle()?;
            if claim.kept.is_some() {
                log::warn!(
                    "discarded the data that a killed instance left: --data-size, --cell-size or \
                     --workers were others"
                );
            }
        }
        Ok(Parts { plans, segment, file, tubes, poll, control })
    }

    /// Turns until the end.
    fn run(&mut self) -> Outcome {
        let now = self.clock.now();
        let path = self.claim.run_dir.path().display();
        log::info!("watchdog pid={} watches over {path}", std::process::id());
        self.event(None, perform::kind::WATCHDOG_STARTED, [0; 3]);
        self.step(now, Event::Boot);
        loop {
            self.perform_all();
            if let Some(outcome) = self.group.outcome() {
                return outcome;
            }
            let recall = self.recall.map(|(_, since)| since + self.hang_timeout);
            // Hearts that are not judged have deadlines that nothing moves: no waiting for those.
            let group = self.group.next_deadline().filter(|_| !self.damaged);
            let deadlines = [Some(self.check_at), Some(self.beat_at), group, recall];
            let planned = deadlines.into_iter().flatten().min().unwrap_or(now);
            let ready = self.poll.wait(self.clock.now(), Some(planned)).unwrap_or_else(|failed| {
                // Cannot happen with a valid set; without this the loop would spin on it.
                log::error!("{failed}");
                Vec::new()
            });
            let now = self.clock.now();
            self.turn(&ready, now, planned);
        }
    }

    fn turn(&mut self, ready: &[Ready], now: Monotonic, planned: Monotonic) {
        self.segment.header().watchdog_heart.beat(now);
        self.beat_at = now + self.beat_interval;
        // Read now, judged below: what the turn does meanwhile takes milliseconds, and a beat that
        // comes during them belongs to the next turn.
        let seen: Vec<_> = self.group.slots().map(|slot| self.observe(slot)).collect();
        self.step(now, Event::Turn { planned });
        self.perform_all();
        while let Some(signal) = self.signals.next() {
            self.stop_requested(now, signal);
        }
        self.perform_all();
        for slot in self.group.slots() {
            self.gather_death(slot, now);
            self.perform_all();
        }
        self.unreaped.retain(|process| process.reap().is_none());
        for event in ready.iter().filter(|event| event.token >= CONTROL) {
            if event.token == CONTROL {
                self.control.accept(&self.poll);
            } else if self.control.read(&self.poll, event.token) == Some(Request::Stop)
                && self.allow == Allow::Running
            {
                self.stop_requested(now, "osps stop");
            }
        }
        self.check_segment();
        self.retire();
        self.check_recall(now, planned);
        if !self.damaged {
            for (slot, (generation, seen)) in self.group.slots().zip(seen) {
                // A successor that was started in this turn has its own baseline.
                if self.posts[slot.index()].generation() == generation {
                    self.step(now, Event::Sample { slot, seen });
                }
            }
        }
        self.step(now, Event::Timers);
        if now >= self.check_at {
            self.check(now);
        }
    }

    fn stop_requested(&mut self, now: Monotonic, who: &'static str) {
        match self.allow {
            // `timeout` and service managers send the same signal to a process and to its group;
            // whoever presses Ctrl-C twice means it.
            Allow::Stopping { since, by }
                if by == who && who != "SIGINT" && now.since(since) < MERGE => {}
            Allow::Running => {
                log::info!("{who}: stopping");
                self.event(None, perform::kind::WATCHDOG_STOPPING, [0; 3]);
                self.allow = Allow::Stopping { since: now, by: who };
                self.step(now, Event::Stop);
            }
            Allow::Stopping { .. } => {
                log::warn!("{who} again: killing what is left");
                self.step(now, Event::Hurry);
            }
        }
    }

    fn check(&mut self, now: Monotonic) {
        self.checks += 1;
        self.control.rested(&self.poll);
        while self.check_at <= now {
            // A grid, so that checks do not drift; missed ones are not made up for.
            let behind = nanos(now.since(self.check_at)) / nanos(self.check_interval).max(1);
            let steps = u32::try_from(behind + 1).unwrap_or(u32::MAX);
            self.check_at = self.check_at + self.check_interval.saturating_mul(steps);
        }
        let glances: Vec<_> = self
            .group
            .slots()
            .map(|slot| report::Glance {
                who: self.posts[slot.index()].who(),
                state: self.group.state(slot),
                silence: self.group.silence(slot, now),
            })
            .collect();
        let line = report::status_line(self.checks, std::process::id(), &glances);
        output::stdout().put(line.as_bytes());
        let dropped = output::stdout().dropped() + output::stderr().dropped();
        self.segment.header().dropped_lines.store(dropped, Ordering::Relaxed);
        if self.damaged {
            log::error!("the segment is damaged: no heart can be judged; restart osps");
        }
    }

    /// Somebody may cut the segment short or put another in its place. That is not the servers'
    /// fault: judge nobody by it.
    fn check_segment(&mut self) {
        let path = self.claim.run_dir.path().join(crate::segment::mapping::FILE_NAME);
        let intact = self.segment.is_file(self.segment_file.metadata())
            && self.segment.is_file(path.symlink_metadata());
        let damaged = raw::bus_errors() > 0 || !intact;
        if !damaged && self.segment.mend_header() {
            log::warn!("somebody scribbled over the segment's header: its first words are mended");
        }
        if damaged && !self.damaged {
            log::error!("the segment was cut short or replaced by somebody: hearts are not judged");
        }
        self.damaged |= damaged;
    }

    /// Clears the owner word of a generation that is not alive. A reconciliation, not an event:
    /// done in every turn, and after every confirmed death before the successor starts.
    fn retire(&self) {
        let cells = self.segment.owner();
        let owner = cells.current();
        let live = |slot: SlotId| self.posts.get(slot.index()).and_then(Post::live);
        if let Some(to) = ownership::retired(owner, live)
            && cells.exchange(owner, to)
        {
            log::debug!("owner retired: {owner:?}");
        }
    }

    /// A holder that beats, but does not give back what it was asked for, blocks every writer as a
    /// frozen one would. Counted by our own clock, over turns that were on time.
    fn check_recall(&mut self, now: Monotonic, planned: Monotonic) {
        let owner = self.segment.owner().current();
        let wanted = self.segment.owner().recall().map(|(epoch, _)| epoch);
        // While the arbiter itself is not at work, nobody takes back what is released; and a silent
        // holder is judged by its silence, which the host may have caused.
        let is_up = |slot| self.group.state(slot) == State::Up;
        let pending = wanted == Some(owner.epoch) && is_up(SlotId::FIRST);
        let Some(slot) = owner.slot.filter(|slot| pending && is_up(*slot)) else {
            self.recall = None;
            return;
        };
        let late = now.since(planned) > verdict::slack(self.hang_timeout);
        match self.recall {
            Some((epoch, since)) if epoch == owner.epoch && !late => {
                if now.since(since) >= self.hang_timeout {
                    self.step(now, Event::NotReleasing { slot });
                    self.recall = None;
                }
            }
            _ => self.recall = Some((owner.epoch, now)),
        }
    }

    /// Reads a heart, and says whose it is.
    fn observe(&self, slot: SlotId) -> (Generation, Observation) {
        let sample = self.segment.hearts()[slot.index()].sample();
        let seen = Observation { count: sample.count, stamp: sample.stamp };
        (self.posts[slot.index()].generation(), seen)
    }

    fn step(&mut self, now: Monotonic, event: Event) {
        self.actions.extend(self.group.step(now, event));
    }

    /// A generation that no process of this instance ever had.
    fn next_generation(&mut self) -> Generation {
        self.generation = Generation(self.generation.0.wrapping_add(1).max(1));
        let word = &self.segment.header().generation;
        word.store(u64::from(self.generation.0), Ordering::Relaxed);
        self.generation
    }

    /// Tells the end and removes everything that osps made.
    fn finish(self, outcome: Outcome) {
        let left: Vec<_> = self.posts.iter().filter_map(Post::pid).collect();
        self.control.tell(match outcome {
            Outcome::Clean => "stopped",
            Outcome::Forced => "stopped by force",
            Outcome::GaveUp => "gave up",
        });
        if !left.is_empty() {
            log::error!("pids {left:?} do not die; the run directory stays for the next start");
            return;
        }
        drop(self.segment);
        self.claim.remove();
        match outcome {
            Outcome::Clean | Outcome::Forced => log::info!("all stopped, nothing left"),
            Outcome::GaveUp => log::error!("gave up: a server was restarted too often"),
        }
    }
}

/// The segment of this instance: the one that a killed instance left, with its data, if it fits;
/// else a new one (`true`), which has to be settled yet.
fn found(
    claim: &Claim,
    founding: &Founding,
    plans: &[Plan],
    config: &Config,
) -> Result<(Segment, File, bool), Error> {
    let path = claim.run_dir.path();
    let failed = |source| Error::Segment { path: path.to_owned(), source };
    if let Some(kept) = &claim.kept {
        let kept = kept.try_clone().map_err(Failed::to("keep", "segment"))?;
        let furnish = |segment: &Segment| furnish(segment, plans, config);
        if let Some(segment) = Segment::refound(&kept, founding, furnish).map_err(failed)? {
            log::info!(
                "kept the data that a killed instance left (commit {}, {} keys)",
                segment.area().sequence(),
                segment.area_cells().keys.load(Ordering::Relaxed)
            );
            return Ok((segment, kept, false));
        }
    }
    let file = File::from(claim.run_dir.create_file(rundir::NEW_SEGMENT)?);
    let furnish = |segment: &Segment| furnish(segment, plans, config);
    match Segment::create(&file, founding, furnish) {
        Ok(segment) => Ok((segment, file, true)),
        Err(AttachError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOSPC) => {
            Err(Error::Refused(format!(
                "{}: the tmpfs is full: {} bytes are needed; free some, or choose a smaller \
                 --data-size or another --run-dir",
                path.display(),
                founding.geometry.total_size
            )))
        }
        Err(source) => Err(failed(source)),
    }
}

/// Turns the configuration into servers, and binds their sockets.
fn plans(config: &Config) -> Result<Vec<Plan>, Error> {
    let limits = Limits { hang: config.hang_timeout, start: config.start_timeout };
    let patience = |ask, term| Patience {
        ask,
        term,
        // How long the kernel may take; memory is freed at some 20 GiB a second.
        kill: config.hang_timeout.clamp(Duration::from_secs(1), Duration::from_secs(5)),
    };
    match &config.programs {
        Programs::Own { command, listen } => {
            find_program(&command[0])?;
            let name = program_name(&command[0]);
            let listener = listen.map(|address| bind(address, &name)).transpose()?;
            // A program may not know of its desired word: TERM follows soon.
            let ask = PROGRAM_ASK.min(config.stop_timeout);
            let spec =
                Spec { depends_on: None, limits, patience: patience(ask, config.stop_timeout) };
            let command = command.clone();
            Ok(vec![Plan { name, role: role_code::PROGRAM, listener, command, spec }])
        }
        Programs::Pair { workers, listen } => {
            let patience = patience(config.stop_timeout, TERM_GRACE);
            let count = u16::try_from(*workers).unwrap_or(u16::MAX);
            let plan = |number: u16| {
                let mut address = *listen;
                if address.port() != 0 {
                    address.set_port(address.port() + number);
                }
                let primary = number == 0;
                let name = match number {
                    0 => "primary".to_owned(),
                    _ => format!("secondary-{number}"),
                };
                let listener = bind(address, &name)?;
                Ok(Plan {
                    name,
                    role: if primary { role_code::PRIMARY } else { role_code::SECONDARY },
                    listener: Some(listener),
                    command: Vec::new(),
                    spec: Spec {
                        depends_on: (!primary).then_some(SlotId::FIRST),
                        limits,
                        patience,
                    },
                })
            };
            (0..=count).map(plan).collect()
        }
    }
}

/// Makes the FIFO pairs. Each server gets the tubes that outlive it with us, first the one that it
/// reads: a secondary its own pair, the primary the upward tube of the first secondary.
fn tubes(dir: BorrowedFd<'_>, plans: &[Plan]) -> Result<Vec<Vec<Fifo>>, Failed> {
    let mut tubes: Vec<Vec<Fifo>> = Vec::new();
    for (plan, number) in plans.iter().zip(0u8..) {
        let mut pair = Vec::new();
        if plan.role == role_code::SECONDARY {
            for name in [rundir::tube_down(number), rundir::tube_up(number)] {
                Fifo::create(dir, &name)?;
                pair.push(Fifo::open(dir, &name)?);
            }
        }
        tubes.push(pair);
    }
    if plans.first().is_some_and(|plan| plan.role == role_code::PRIMARY) {
        tubes[0].push(Fifo::open(dir, &rundir::tube_up(1))?);
    }
    Ok(tubes)
}

fn bind(address: SocketAddr, name: &str) -> Result<TcpListener, Error> {
    socket::listen(address).map_err(|failed| match failed.source.kind() {
        std::io::ErrorKind::AddrInUse => Error::Refused(format!(
            "{failed}. Another program (or another osps) has the port of {name}; choose another \
             with --listen, or port 0 for any free one"
        )),
        _ => failed.into(),
    })
}

/// A program that cannot be found is a slip of the finger: better told now than by a crash loop.
fn find_program(program: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &std::path::Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if program.contains('/') {
        runs(program.as_ref())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| runs(&dir.join(program)))
    };
    if found {
        return Ok(());
    }
    let place = if program.contains('/') { "is not an executable file" } else { "is not in PATH" };
    Err(Error::Refused(format!("cannot run {program}: it {place}")))
}

/// The last part of a program's path names its slot.
fn program_name(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    if name.is_empty() { "program".to_owned() } else { name.to_owned() }
}

/// What does not change in slots and hearts as long as the segment lives.
fn furnish(segment: &Segment, plans: &[Plan], config: &Config) {
    for ((plan, slot), heart) in plans.iter().zip(segment.slots()).zip(segment.hearts()) {
        let number = plans.iter().position(|other| std::ptr::eq(other, plan)).unwrap_or(0) as u64;
        let record = &slot.record;
        text::store(&record.name, &plan.name);
        text::store(&heart.name, &plan.name);
        record.role.store(plan.role, Ordering::Relaxed);
        let depends = plan.spec.depends_on.map_or(0, |slot| u64::from(slot.0) + 1);
        record.depends_on.store(depends, Ordering::Relaxed);
        if let Some(address) = plan.listener.as_ref().and_then(|l| l.local_addr().ok()) {
            text::store(&record.listen, &address.to_string());
        }
        heart.limit_ns.store(nanos(config.hang_timeout), Ordering::Relaxed);
        heart.owner.store(number + 1, Ordering::Relaxed);
    }
}

/// Sockets of a server, borrowed.
fn descriptors(listener: Option<&TcpListener>) -> Vec<BorrowedFd<'_>> {
    listener.map(AsFd::as_fd).into_iter().collect()
}
