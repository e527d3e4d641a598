//! One fault after the other, with idle seconds between them.

use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::orphan::watchdog_beat;
use osps_heart::pulse::{RENEWALS_MAX, Sample, late_after};
use osps_heart::segment::layout::TALLY;
use osps_heart::segment::{Segment, text};
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::{Clock, Monotonic, Short};
use osps_heart::words::{HeartSource, State};

use super::figures::{Outcome, Report, Round};
use super::happened::Trace;
use super::plan::{Fault, Plan, Promise, Step, Subject};
use super::strike::{Struck, Victim};
use super::{Request, fit, pace};
use crate::error::Error;
use crate::instance::place::RunDir;
use crate::policy::advice::look_gap;
use crate::sys::poll::{Interest, Poll};
use crate::sys::signals::{Came, Signals};
use crate::view::snapshot::Snapshot;

/// How often the segment is looked at where something is due; what is measured does not depend on
/// it. More often, and the machine is not as idle as it would be without us.
const LOOK: Duration = Duration::from_millis(20);
/// How much later than promised something may come and still be measured, as late.
const PATIENCE: Duration = Duration::from_secs(5);
/// A host that is late is given its limit again so often, after the first one (docs/verdicts.md).
const RENEWALS: u32 = RENEWALS_MAX as u32 + 1;
/// Those that restart with a service have so long to be up again, beside their start timeout.
const BACK: Duration = Duration::from_secs(30);
/// A wait that is longer than the idle time by more than this is told.
const TOLD: Duration = Duration::from_secs(2);
/// A round in which the host was late is taken again so often.
const AGAIN: usize = 1;

/// Why no more rounds follow.
type Ended = String;

/// A drill under way.
pub(super) struct Drill<'a> {
    segment: Segment,
    run_dir: RunDir,
    subjects: Vec<Subject>,
    request: &'a Request,
    waiting: Waiting,
}

impl<'a> Drill<'a> {
    pub(super) fn new(
        segment: Segment,
        run_dir: RunDir,
        subjects: Vec<Subject>,
        request: &'a Request,
    ) -> Result<Drill<'a>, Error> {
        let waiting = Waiting::new()?;
        Ok(Drill { segment, run_dir, subjects, request, waiting })
    }

    /// All of it, as far as it gets; what it finds stands in the report.
    pub(super) fn run(mut self, plan: &Plan, report: &mut Report) -> Result<(), Ended> {
        let ended = self.rounds(plan, report);
        // What is told now may be cut off like any other command's.
        let _ = crate::sys::signals::reset();
        ended
    }

    fn rounds(&mut self, plan: &Plan, report: &mut Report) -> Result<(), Ended> {
        for round in 1..=self.request.rounds {
            for (number, step) in plan.steps.iter().enumerate() {
                for _ in 0..=AGAIN {
                    self.prepare(step, round)?;
                    let outcome = self.round(step)?;
                    let (name, fault) = (&step.name, step.fault.word());
                    log::info!("{name}: {fault} {round} of {}: {outcome}", self.request.rounds);
                    let again = matches!(outcome, Outcome::SetAside(_));
                    report.add(number, &outcome);
                    if !again {
                        break;
                    }
                }
            }
        }
        // Whoever looks at the instance afterwards finds it as it was.
        self.wait_fit()
    }

    fn subject(&self, step: &Step) -> &Subject {
        &self.subjects[step.subject]
    }

    fn limits(&self, step: &Step) -> (Duration, Duration) {
        self.subject(step).known.map_or_else(Default::default, |known| (known.hang, known.start))
    }

    fn look(&self) -> Snapshot {
        Snapshot::of(&self.segment, self.run_dir.path(), SystemClock.now())
    }

    /// Waits until everybody is up again.
    fn wait_fit(&mut self) -> Result<(), Ended> {
        let starts = self.subjects.iter().filter_map(|subject| Some(subject.known?.start)).max();
        let until = SystemClock.now() + BACK + starts.unwrap_or_default();
        loop {
            let look = self.look();
            let Err(why) = fit(&look) else { return Ok(()) };
            if !look.is_watched_over() || SystemClock.now() >= until {
                return Err(why);
            }
            if let Some(lost) =
                look.servers.iter().find(|server| server.state == Some(State::Failed))
            {
                return Err(format!("{} has been given up", lost.name));
            }
            self.waiting.sleep(LOOK)?;
        }
    }

    /// Waits until a fault may come: everybody has been up, and at rest, for the idle time; one
    /// more death gets nobody given up; and its silence counts.
    fn prepare(&mut self, step: &Step, round: usize) -> Result<(), Ended> {
        loop {
            self.wait_fit()?;
            let now = SystemClock.now();
            // Every round at another point between two beats.
            let phase = get(&self.segment.header().beat_interval_ns) / 16;
            let phase = Duration::from_nanos(phase.saturating_mul(round as u64 * 7 % 16));
            let rested = now + self.request.idle + phase;
            let due = rested.max(self.earliest(step, now));
            if due.since(rested) > TOLD {
                let (name, wait) = (&step.name, Short(due.since(now)));
                log::info!("{name}: waits {wait}, so that nobody gives it up or excuses it");
            }
            self.waiting.sleep(due.since(now))?;
            if fit(&self.look()).is_ok() {
                return Ok(());
            }
        }
    }

    /// From when on a fault costs no service its life, and counts.
    fn earliest(&self, step: &Step, now: Monotonic) -> Monotonic {
        let subject = self.subject(step);
        let Some(known) = subject.known else { return now };
        let page = &self.segment.slots()[subject.slot].server;
        let words: [u64; TALLY] = std::array::from_fn(|place| get(&page.tally[place]));
        let mut due = pace::earliest(&words, known.intensity, now);
        if step.fault.is_freeze() {
            due = due.max(Monotonic(get(&page.excused_until_ns)).min(now + BACK));
            if matches!(subject.heart, Some(HeartSource::Loop | HeartSource::Loops)) {
                // While it sets itself up it may compute for long, and is not judged.
                due = due.max(Monotonic(get(&page.spawned_ns)).min(now) + known.start);
            }
        }
        due
    }

    /// One fault, from its making until its successor is up.
    fn round(&mut self, step: &Step) -> Result<Outcome, Ended> {
        let subject = self.subject(step);
        let (slot, address) = (subject.slot, subject.address);
        let Some(victim) = Victim::find(&self.segment, &self.run_dir, slot) else {
            let why = format!("{} is no process that this osps started: left alone", step.name);
            return Ok(Outcome::Missed(why));
        };
        let (limit, _) = self.limits(step);
        let generation = victim.generation;
        let patience = step.promise.notice.most * 2 + self.look_gap() + PATIENCE;
        let made = SystemClock.now();
        let struck = match victim.strike(step.fault, address, patience) {
            Ok(struck) => struck,
            Err(why) => return Ok(Outcome::Missed(why)),
        };
        let pending = Pending { slot, generation, made, until: made + patience, limit };
        let (trace, hearts) = match self.wait_noticed(&pending, struck, step.fault)? {
            Ok(noticed) => noticed,
            Err(outcome) => return Ok(outcome),
        };
        let trace = self.wait_back(step, &pending, trace)?;
        let (Some(noticed), Some(up)) = (trace.noticed(), trace.up) else {
            return Err(format!("{} did not come back", step.name));
        };
        if trace.excused {
            return Ok(Outcome::SetAside("the host was late"));
        }
        if noticed < made {
            return Ok(Outcome::SetAside("it died before it was struck"));
        }
        let (notice, promise) = match step.fault.is_freeze() {
            false => (noticed.since(made), step.promise),
            true if trace.verdict.is_none() => {
                return Ok(Outcome::Missed("it died, and was not convicted".to_owned()));
            }
            true => self.silence(step, made, &trace, &hearts),
        };
        let class = trace.class;
        Ok(Outcome::Taken(Round { notice, back: up.since(made), promise, class }))
    }

    /// How long a convicted process was silent, and what is promised for that heart.
    fn silence(&self, step: &Step, made: Monotonic, trace: &Trace, hearts: &[Line]) -> Silence {
        let (standard, start) = self.limits(step);
        let noticed = trace.verdict.unwrap_or(made);
        let convicted = trace.heart.to_string();
        let line = hearts.iter().find(|line| line.name == convicted);
        let chosen = trace.limit.or(line.and_then(|line| line.limit));
        let promise = Promise::within(step.fault, chosen.unwrap_or(standard), start);
        match line.map(|line| line.sample.stamp) {
            Some(stamp) if stamp.0 != 0 && stamp <= noticed => (noticed.since(stamp), promise),
            _ => (noticed.since(made), promise.counted(self.look_gap())),
        }
    }

    /// Waits for verdict or death; also returns the hearts as they stood at the last look before
    /// it: soon after it they are the successor's.
    fn wait_noticed(
        &mut self,
        pending: &Pending,
        mut struck: Struck,
        fault: Fault,
    ) -> Result<Result<(Trace, Vec<Line>), Outcome>, Ended> {
        let mut before = Vec::new();
        if fault.is_freeze() {
            let hearts = self.hearts(pending);
            let shortest = hearts.iter().filter_map(|line| line.limit).min();
            self.waiting.sleep(late_after(shortest.unwrap_or(pending.limit)))?;
        }
        loop {
            let hearts = self.hearts(pending);
            let trace = self.trace(pending);
            if trace.noticed().is_some() {
                struck.is_over();
                return Ok(Ok((trace, before)));
            }
            before = hearts;
            let look = self.look();
            if !look.is_watched_over() {
                return Err("the watchdog is dead or frozen".to_owned());
            }
            let grace = if trace.excused { pending.limit * RENEWALS } else { Duration::ZERO };
            if SystemClock.now() >= pending.until + grace {
                let beats = before.first().is_some_and(|own| own.sample.stamp > pending.made);
                let why = if beats { "its heart goes on beating" } else { "nobody noticed" };
                return Ok(Err(Outcome::Missed(why.to_owned())));
            }
            self.waiting.sleep(LOOK)?;
        }
    }

    /// Waits until the successor is up.
    fn wait_back(
        &mut self,
        step: &Step,
        pending: &Pending,
        mut trace: Trace,
    ) -> Result<Trace, Ended> {
        let until = SystemClock.now() + step.promise.back.most + BACK;
        while trace.up.is_none() {
            if trace.given_up {
                return Err(format!("{} has been given up", step.name));
            }
            if SystemClock.now() >= until {
                return Err(format!("{} did not come back", step.name));
            }
            self.waiting.sleep(LOOK)?;
            trace = self.trace(pending);
        }
        Ok(trace)
    }

    fn trace(&self, pending: &Pending) -> Trace {
        let records = self.segment.events().latest(usize::MAX);
        let slot = SlotId(u8::try_from(pending.slot).unwrap_or(u8::MAX));
        Trace::of(&records, slot, pending.generation, pending.made)
    }

    /// The hearts of a process: its own first, then those with names.
    fn hearts(&self, pending: &Pending) -> Vec<Line> {
        let lines = self.segment.hearts();
        let slot = u8::try_from(pending.slot).map(SlotId);
        let (own, further) = lines.split_at(self.segment.slots().len());
        let own = own.get(pending.slot).map(|line| Line {
            name: String::new(),
            sample: line.sample(),
            limit: None,
        });
        let of = |slot: SlotId| {
            further.iter().filter(move |line| line.claimed().is_of(slot, pending.generation))
        };
        let further = slot.into_iter().flat_map(of).map(|line| Line {
            name: text::load(&line.name),
            sample: line.sample(),
            limit: line.chosen_limit(),
        });
        own.into_iter().chain(further).collect()
    }

    /// The longest time between two looks of the watchdog (docs/verdicts.md).
    fn look_gap(&self) -> Duration {
        let header = self.segment.header();
        let span = |word: &Word| Duration::from_nanos(get(word));
        let beat = watchdog_beat(span(&header.orphan_timeout_ns));
        look_gap(span(&header.check_interval_ns), beat, span(&header.hang_timeout_ns))
    }
}

/// A fault that is under way.
struct Pending {
    slot: usize,
    generation: osps_heart::ids::Generation,
    made: Monotonic,
    until: Monotonic,
    limit: Duration,
}

/// How long it was, and what is promised for that.
type Silence = (Duration, Promise);

/// A heart, as it stood.
struct Line {
    name: String,
    sample: Sample,
    limit: Option<Duration>,
}

/// Waits that a request to stop ends at once.
struct Waiting {
    poll: Poll,
    signals: Signals,
}

impl Waiting {
    fn new() -> Result<Waiting, Error> {
        let (poll, signals) = (Poll::new()?, Signals::block()?);
        poll.add(&signals, 0, Interest::READ)?;
        Ok(Waiting { poll, signals })
    }

    fn sleep(&mut self, span: Duration) -> Result<(), Ended> {
        let until = SystemClock.now() + span;
        loop {
            let now = SystemClock.now();
            self.poll.wait(now, Some(until)).map_err(|failed| failed.to_string())?;
            let stop = self.signals.take().into_iter().find_map(|came| match came {
                Came::Stop(name) => Some(name),
                Came::Ignored(_) => None,
            });
            if let Some(name) = stop {
                return Err(format!("interrupted ({name})"));
            }
            if SystemClock.now() >= until {
                return Ok(());
            }
        }
    }
}

fn get(word: &Word) -> u64 {
    word.load(Ordering::Relaxed)
}
