//! The prober: `osps __probe SLOT LINE SPEC`, a process that beats for a service which does not
//! beat by itself.
//!
//! It looks at a file or probes (HTTP, TCP, a command), and each sign of life is a beat in the
//! service's line. A look may hang, on a file system or a resolver: that is why it is not the
//! watchdog that looks. The prober beats for itself in `LINE`, at every turn of its loop and never
//! while it hangs, so the watchdog knows whether the service is silent or nobody asked it.
//!
//! A sign of life counts only for the generation under which the look began. What the last look
//! found wrong stands in the slot's activity text. The segment comes through a gate, like a
//! server's; when the gate's other end is closed, the watchdog is gone and the prober leaves, and
//! its command with it. It decides nothing. Tested in tests/prober.rs.

pub mod command;
pub mod failure;
pub mod file;
pub mod stream;
pub mod target;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::Generation;
use osps_heart::segment::layout::{HeartCells, SlotCells};
use osps_heart::segment::{Access, Segment};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::env;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvFlags, recv};

use self::command::Running;
use self::failure::{Failure, brief};
use self::file::Watched;
use self::stream::{Rest, Step, Stream};
use self::target::Target;
use crate::error::{Error, Invalid, Refusal};
use crate::sys::poll::{Interest, Poll, Ready};
use crate::sys::process::{self, Report};
use crate::sys::{Failed, socket};

/// Longest time between two beats of its own.
const TURN: Duration = Duration::from_millis(100);
/// Bounds of the time between two probes, a quarter of the service's limit.
const PERIOD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Bounds of the time between two looks at a file, an eighth of it: a look costs next to nothing.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The least that a probe may take; else it has half of the limit.
const ALLOWANCE: Duration = Duration::from_millis(100);

/// Time between two looks at a file, by the service's limit.
pub fn look_period(limit: Duration) -> Duration {
    (limit / 8).clamp(LOOK.0, LOOK.1)
}

/// Time between the starts of two probes.
pub fn probe_period(limit: Duration) -> Duration {
    (limit / 4).clamp(PERIOD.0, PERIOD.1)
}

/// How long one probe may take.
pub fn probe_allowance(limit: Duration) -> Duration {
    (limit / 2).max(ALLOWANCE)
}

/// What is waited for.
const WATCHDOG: u64 = 0;
const PROBE: u64 = 1;

/// Runs the prober with the arguments behind `__probe`. What fails before the first look is told
/// to the watchdog through the gate, as a server's launch does.
pub fn main(args: &[OsString]) -> Result<ExitCode, Error> {
    let [slot, line, spec] = args else { return Err(Refusal::NotForPeople("__probe").into()) };
    let gate =
        fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(Failed::to("keep", "standard input"))?;
    let numbers = (number(slot), number(line));
    let prepared = Target::parse(spec)
        .map_err(|why| Invalid { option: "--heart", value: Shown(spec).to_string(), why }.into())
        .and_then(|target| prepare(numbers, target));
    match prepared {
        Ok(Some(mut prober)) => prober.run(&gate).map(|()| ExitCode::SUCCESS),
        // The watchdog is gone.
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error) if Report::write(&gate, &error.to_string()) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

fn number(text: &OsString) -> Option<usize> {
    text.to_str()?.parse().ok()
}

/// Everything up to the first look; `None` = the gate does not open.
fn prepare(
    (slot, line): (Option<usize>, Option<usize>),
    target: Target,
) -> Result<Option<Prober>, Error> {
    // A session of its own: no stop from a terminal reaches it.
    rustix::process::setsid().map_err(Failed::to("start", "session"))?;
    let Some((_, mut handed)) = socket::receive_descriptors(std::io::stdin())? else {
        return Ok(None);
    };
    process::settle_helper()?;
    // Its commands expect no more descriptors than a server's program.
    if let Some(limit) = std::env::var(env::DESCRIPTORS).ok().and_then(|text| text.parse().ok()) {
        process::lower_descriptor_limit(limit);
    }
    let file = handed.pop().ok_or(Refusal::Misfit("no segment came with the gate".to_owned()))?;
    let segment = Segment::attach(&File::from(file), Access::ReadWrite)
        .map_err(|why| Refusal::Misfit(format!("what came with the gate: {why}")))?;
    let fit = slot.zip(line).filter(|(slot, line)| {
        *slot < segment.slots().len() && *line < segment.hearts().len() && slot != line
    });
    let (slot, line) = fit.ok_or(Refusal::NotForPeople("__probe"))?;
    let (poll, round) = (Poll::new()?, Round::default());
    Ok(Some(Prober { segment, slot, line, target, poll, round, rest: None, dying: None }))
}

/// One service's prober.
#[derive(Debug)]
struct Prober {
    segment: Segment,
    /// Whose line it beats in.
    slot: usize,
    /// Where it beats for itself.
    line: usize,
    target: Target,
    poll: Poll,
    round: Round,
    /// The end of an answer, read as long as there is time for it.
    rest: Option<Rest>,
    /// A killed command that is not dead yet, and until when the next one waits for that.
    dying: Option<(Running, Monotonic)>,
}

/// What is known of one generation: the next one starts afresh.
#[derive(Debug, Default)]
struct Round {
    generation: Generation,
    /// When the next look is due, by the service's limit.
    due: Monotonic,
    probe: Option<Probe>,
    file: Watched,
    /// When the file last moved, or was looked at first.
    moved: Option<Monotonic>,
    /// Something was found, or nothing wrong.
    settled: bool,
    /// What the last look found wrong, and since when it does.
    failure: Option<(Failure, Monotonic)>,
    told: Option<String>,
}

/// A probe under way.
#[derive(Debug)]
struct Probe {
    way: Way,
    until: Monotonic,
    allowance: Duration,
}

#[derive(Debug)]
enum Way {
    Stream(Stream),
    Command(Running),
}

impl Prober {
    /// Turns until the gate's other end is closed.
    fn run(&mut self, gate: &OwnedFd) -> Result<(), Error> {
        self.poll.add(gate, WATCHDOG, Interest::READ)?;
        let mut ready = Vec::new();
        while !(is_ready(&ready, WATCHDOG) && has_ended(gate)) {
            self.turn(is_ready(&ready, PROBE))?;
            let now = SystemClock.now();
            ready = self.poll.wait(now, Some(self.next().min(now + TURN)))?;
        }
        Ok(())
    }

    /// One turn; `ready` = what is probed has something to tell.
    fn turn(&mut self, ready: bool) -> Result<(), Error> {
        let now = SystemClock.now();
        self.segment.hearts()[self.line].beat(now);
        self.dying.take_if(|(command, _)| command.end());
        if ready && self.rest.as_mut().is_some_and(|rest| !rest.drain()) {
            self.rest = None;
        }
        if self.generation() != self.round.generation {
            self.give_up();
            self.round = Round { generation: self.generation(), ..Round::default() };
        }
        if self.round.generation == Generation(0) {
            return Ok(());
        }
        self.pursue(ready, now)?;
        if self.round.probe.is_none() && now >= self.due() {
            self.begin(now)?;
        }
        self.tell();
        Ok(())
    }

    /// When to turn next.
    fn next(&self) -> Monotonic {
        match &self.round.probe {
            Some(Probe { way: Way::Stream(stream), .. }) => stream.waits_for().1,
            Some(probe) => probe.until,
            None => self.due(),
        }
    }

    /// When the next look is due.
    fn due(&self) -> Monotonic {
        self.dying.as_ref().map_or(self.round.due, |(_, until)| self.round.due.max(*until))
    }

    /// Goes on with the probe under way.
    fn pursue(&mut self, ready: bool, now: Monotonic) -> Result<(), Error> {
        let Some(probe) = &mut self.round.probe else { return Ok(()) };
        let allowance = brief(probe.allowance);
        let too_late = || Some(Err(Failure::new(format!("no answer within {allowance}"))));
        let outcome = if now >= probe.until {
            // Also if an answer lies there: it came at a time that nobody knows, when we were
            // stopped ourselves.
            too_late()
        } else {
            match &mut probe.way {
                Way::Command(command) => command.outcome(),
                Way::Stream(stream) => match stream.step(ready, now) {
                    Step::Over(outcome) => Some(outcome),
                    step => {
                        let (interest, _) = stream.waits_for();
                        if matches!(step, Step::Another) {
                            self.poll.add(&*stream, PROBE, interest)?;
                        } else {
                            self.poll.modify(&*stream, PROBE, interest)?;
                        }
                        None
                    }
                },
            }
        };
        // Nor does one count that was taken after a stop since the clock was read.
        let late = matches!(outcome, Some(Ok(()))) && SystemClock.now() >= probe.until;
        if let Some(outcome) = if late { too_late() } else { outcome } {
            self.settle(outcome);
            self.give_up();
        }
        Ok(())
    }

    /// Takes the next look: at a file, or the first step of a probe.
    fn begin(&mut self, now: Monotonic) -> Result<(), Error> {
        let limit = self.limit();
        self.rest = None;
        if let Target::File(path) = &self.target {
            self.round.due = now + look_period(limit);
            let look = self.round.file.look(path);
            let look = look.map_err(|error| Failure::answer_on(&Shown(path), &error));
            self.settle_file(look, limit);
            return Ok(());
        }
        self.round.due = now + probe_period(limit);
        let allowance = probe_allowance(limit);
        match self.open(now, now + allowance) {
            Ok(way) => {
                match &way {
                    Way::Stream(stream) => self.poll.add(stream, PROBE, stream.waits_for().0)?,
                    Way::Command(command) => self.poll.add(command, PROBE, Interest::READ)?,
                }
                self.round.probe = Some(Probe { way, until: now + allowance, allowance });
            }
            Err(failure) => self.settle(Err(failure)),
        }
        Ok(())
    }

    fn open(&self, now: Monotonic, until: Monotonic) -> Result<Way, Failure> {
        let stream = |host: &str, port, request| {
            let mut stream = Stream::start(host, port, request)?;
            stream.limit(now, until);
            Ok(Way::Stream(stream))
        };
        match &self.target {
            Target::Http { host, port, path } => {
                stream(host, *port, stream::request(host, *port, path))
            }
            Target::Tcp { host, port } => stream(host, *port, Vec::new()),
            // Else those that cannot be killed would pile up.
            Target::Command(_) if self.dying.is_some() => {
                Err(Failure::new("the last command was killed and does not die"))
            }
            Target::Command(words) => Running::start(words).map(Way::Command),
            Target::File(_) => Err(Failure::new("a file is not probed")),
        }
    }

    /// Ends the probe under way, whatever came of it.
    fn give_up(&mut self) {
        match self.round.probe.take().map(|probe| probe.way) {
            Some(Way::Stream(stream)) => {
                let wanted = |rest: &Rest| self.poll.modify(rest, PROBE, Interest::READ).is_ok();
                self.rest = stream.rest().filter(wanted);
            }
            Some(Way::Command(mut command)) => {
                let until = SystemClock.now() + ALLOWANCE;
                self.dying = (!command.end()).then_some((command, until));
            }
            None => {}
        }
    }

    fn settle_file(&mut self, look: Result<bool, Failure>, limit: Duration) {
        let now = SystemClock.now();
        match look {
            Ok(false) => {
                let since = *self.round.moved.get_or_insert(now);
                self.round.settled = true;
                // A pause that is shorter is nothing to be told.
                let still = now.since(since) >= limit / 2;
                self.round.failure = still.then(|| (Failure::new("unchanged"), since));
            }
            Ok(true) => {
                self.round.moved = Some(now);
                self.settle(Ok(()));
            }
            Err(failure) => self.settle(Err(failure)),
        }
    }

    /// Takes what a look found: a beat, or why there is none; nothing if the generation changed
    /// meanwhile.
    fn settle(&mut self, outcome: Result<(), Failure>) {
        let now = SystemClock.now();
        if self.generation() != self.round.generation {
            return;
        }
        match outcome {
            Ok(()) => {
                self.service_heart().beat(now);
                self.round.failure = None;
            }
            Err(failure) => match &self.round.failure {
                Some((known, _)) if *known == failure => {}
                _ => self.round.failure = Some((failure, now)),
            },
        }
        self.round.settled = true;
    }

    /// Tells what is wrong, and for how long it has been.
    fn tell(&mut self) {
        if !self.round.settled || self.generation() != self.round.generation {
            return;
        }
        let now = SystemClock.now();
        let text = self.round.failure.as_ref().map_or(String::new(), |(failure, since)| {
            failure.text(self.target.kind(), now.since(*since))
        });
        if self.round.told.as_ref() != Some(&text) {
            self.page().activity.set_text(&text);
            self.round.told = Some(text);
        }
    }

    fn page(&self) -> &SlotCells {
        &self.segment.slots()[self.slot]
    }

    fn service_heart(&self) -> &HeartCells {
        &self.segment.hearts()[self.slot]
    }

    fn generation(&self) -> Generation {
        self.page().server.current_generation()
    }

    /// The silence that convicts the service.
    fn limit(&self) -> Duration {
        let own = self.service_heart().limit_ns.load(Ordering::Relaxed);
        let common = || self.segment.header().hang_timeout_ns.load(Ordering::Relaxed);
        Duration::from_nanos(if own == 0 { common() } else { own })
    }
}

fn is_ready(ready: &[Ready], token: u64) -> bool {
    ready.iter().any(|ready| ready.token == token)
}

/// Whether the gate's other end is closed. What else may come from there means nothing.
fn has_ended(gate: &OwnedFd) -> bool {
    let mut bytes = [0; 64];
    match recv(gate, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((_, length)) => length == 0,
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(_) => true,
    }
}
