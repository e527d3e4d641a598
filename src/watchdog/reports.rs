//! Reports of hangs: who is looked at before the kill, and how long that waits.
//!
//! A collector (`report::helper`) is started when somebody is late, at the end of a turn, and told
//! at the verdict what is known here. The kill then waits for its word, at most as long as
//! `policy::collect` says; that wait is a deadline of the loop like any other, and nobody else's
//! kill knows of it. Who gets no collector gets a short report, of what is known anyway: those are
//! written together, when whoever fell silent with it has been dealt with. A collector that fails
//! or hangs is a line in the log. No path of the user's is touched here. Tested in tests/report.rs.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use osps_heart::clock::unix_ns;
use osps_heart::ids::SlotId;
use osps_heart::segment::What;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};
use osps_heart::words::{Cause, Class};
use rustix::process::Signal;

use super::kin::{DYING, end_tree};
use super::{Child, KIN, REPORT, Watchdog};
use crate::instance::place::{REPORTS, stacks_name};
use crate::policy::collect::{Extent, Seats, WAIT, WRITING, Who};
use crate::policy::group::{Change, Input, Note};
use crate::policy::lifecycle::Stage;
use crate::policy::verdict::{Evidence, RunState};
use crate::report::helper::{Task, VERDICT, Victim, Word};
use crate::report::stacks::Wanted;
use crate::report::store::Store;
use crate::report::{self, Data, Gap, Heart, Report};
use crate::sys::poll::{Interest, pause};
use crate::sys::process::{self, Process};
use crate::sys::{Failed, memory_file};

/// So many short reports wait.
const WAITING: usize = 64;
/// Short reports are written when nobody fell silent for so long: restarts go before them.
const REST: Duration = Duration::from_millis(200);
/// How long reports that are being written are waited for at the end of an instance.
const LAST: Duration = Duration::from_secs(1);
/// Most bytes of a word of a collector.
const WORD_MAX: usize = 4 << 10;

/// What is kept, and who collects it.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The directory; `None` = nothing is kept.
    directory: Option<PathBuf>,
    seats: Seats,
    collectors: Vec<Collector>,
    /// Who became late in this turn.
    late: Vec<Who>,
    /// Who was convicted in this turn and has no collector yet.
    fresh: Vec<(Who, Report)>,
    /// Whose kill waits.
    pending: Vec<Who>,
    /// Short reports to be written, and how many there was no room for.
    waiting: VecDeque<Report>,
    left_out: usize,
    /// When they are written.
    write_at: Monotonic,
}

/// A process that collects.
#[derive(Debug)]
struct Collector {
    /// For whom; `None` = it writes what was collected here.
    who: Option<Who>,
    name: String,
    process: Process,
    gate: process::Report,
    /// What it said of a word that has no end yet.
    heard: Vec<u8>,
    /// It says no more.
    deaf: bool,
    /// Reports that it told of: the numbers of the first and the last, and how many.
    kept: Option<(u64, u64, usize)>,
    /// That it failed was told.
    failed: bool,
    /// When the writer has had its time.
    until: Option<Monotonic>,
}

/// Seconds of which the longest gap is remembered.
const SECONDS: usize = 60;

/// The longest silences that beats ended lately, one for each second in which there was one.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(VecDeque<(Monotonic, Duration)>);

impl Recent {
    /// A beat has ended a silence.
    pub(super) fn count(&mut self, now: Monotonic, gap: Duration) {
        let second = |at: Monotonic| at.0 / 1_000_000_000;
        match self.0.back_mut() {
            Some((at, longest)) if second(*at) == second(now) => *longest = gap.max(*longest),
            _ => self.0.push_back((now, gap)),
        }
        while self.0.len() > SECONDS {
            self.0.pop_front();
        }
    }

    fn told(&self, now: Monotonic) -> Vec<Gap> {
        let minute = Duration::from_secs(SECONDS as u64);
        let recent = self.0.iter().filter(|(at, _)| now.since(*at) <= minute);
        let gap = |(at, gap): &(Monotonic, Duration)| Gap {
            before_ns: nanos(now.since(*at)),
            gap_ns: nanos(*gap),
        };
        recent.map(gap).collect()
    }
}

impl Reports {
    /// In this directory, if it can be used. Whoever takes servers over does not look: nobody
    /// watches them meanwhile.
    pub(super) fn new(directory: Option<PathBuf>, takes_over: bool) -> Reports {
        let usable = |path: &PathBuf| match Store::at(path.clone()).check() {
            Ok(()) => true,
            Err(why) => {
                log::warn!("no reports of hangs: {why}; choose another --report-dir");
                false
            }
        };
        let directory = directory.filter(|path| takes_over || usable(path));
        Reports { directory, ..Reports::default() }
    }

    /// The pids of collectors.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.collectors.iter().map(|collector| collector.process.pid())
    }

    /// When something of it is to be looked at.
    pub(super) fn due(&self) -> Option<Monotonic> {
        let writers = self.collectors.iter().filter_map(|collector| collector.until);
        // A moment that has come and changes nothing would make every turn a late one.
        let writes =
            !self.waiting.is_empty() && self.writer().is_none() && !self.seats.is_holding();
        let waiting = writes.then_some(self.write_at);
        self.seats.due().into_iter().chain(writers).chain(waiting).min()
    }

    fn writer(&self) -> Option<&Collector> {
        self.collectors.iter().find(|collector| collector.who.is_none())
    }

    fn is_off(&self) -> bool {
        self.directory.is_none()
    }

    fn put_off(&mut self, mut report: Report, now: Monotonic) {
        self.write_at = now + REST;
        if self.waiting.len() < WAITING {
            report.extent = report::Extent::Short;
            self.waiting.push_back(report);
        } else {
            self.left_out += 1;
        }
    }
}

impl Watchdog {
    /// Names the directory for those who read reports.
    pub(super) fn name_report_directory(&self) {
        let directory = self.reports.directory.as_ref().map(|path| path.as_os_str());
        if let Err(failed) = self.claim.run_dir.write(REPORTS, &directory) {
            log::debug!("{failed}; readers look for reports in the default place");
        }
    }

    fn launch_in(&self, slot: SlotId) -> Who {
        (slot, self.children[slot.index()].generation)
    }

    /// Somebody fell silent for so long that it may come to a verdict.
    pub(super) fn look_for_report(&mut self, slot: SlotId) {
        if !self.reports.is_off() && self.group.stage(slot) == Stage::Late {
            let who = self.launch_in(slot);
            self.reports.late.push(who);
        }
    }

    /// A verdict was written down: whoever looks at that one is told.
    pub(super) fn report_on(&mut self, change: &Change) {
        let (cause, class, silence, acts) = match change.what {
            What::Verdict {
                cause: cause @ (Cause::Frozen | Cause::StartTimeout),
                class,
                silence,
            } => (cause, class, silence, true),
            What::Warned { class, silence } => (Cause::Frozen, Some(class), silence, false),
            _ => return,
        };
        if self.reports.is_off() {
            return;
        }
        let now = self.clock.now();
        let who = self.launch_in(change.slot);
        let stacks = &self.children[change.slot.index()].service.manner.stacks;
        let wait = if acts && stacks.wanted { stacks.limit } else { WAIT };
        let mut report = self.known(change, now);
        let summary = &mut report.summary;
        (summary.cause, summary.class, summary.silence_ns) = (Some(cause), class, nanos(silence));
        match self.reports.seats.verdict(who, now, wait) {
            Extent::Full => self.hand_over(who, report, now),
            Extent::Fresh(ended) => {
                if let Some(ended) = ended {
                    self.end_collector(ended);
                }
                self.reports.fresh.push((who, report));
            }
            Extent::Short => self.reports.put_off(report, now),
        }
    }

    /// What is known here of somebody who has to go.
    fn known(&self, change: &Change, now: Monotonic) -> Report {
        let slot = change.slot;
        let child = &self.children[slot.index()];
        let line = match change.note {
            Note::Further { line, .. } => Some(line),
            _ => None,
        };
        let place = line.map_or(slot.index(), usize::from);
        let limit = match change.note {
            Note::Limit(limit) | Note::Further { limit, .. } => limit,
            Note::Nothing | Note::Death { .. } => child.service.limits.hang,
        };
        let server = &self.segment.slots()[slot.index()].server;
        let baseline = server.baseline.load(Ordering::Relaxed);
        let count = self.segment.hearts().get(place).map_or(0, |line| line.sample().count);
        let gaps = self.segment.gaps().get(place).filter(|gaps| gaps.is_of(child.name()));
        let worst = gaps.and_then(|gaps| gaps.read().ok()).map_or(0, |gaps| nanos(gaps.worst));
        let heart = Heart {
            name: self.heart_of(change.note),
            source: child.source(true).word().to_owned(),
            limit_ns: nanos(limit),
            beats: if line.is_none() { count.wrapping_sub(baseline) } else { count },
            last_minute: if line.is_none() { child.recent.told(now) } else { Vec::new() },
            worst_ns: worst,
        };
        let activity = self.segment.slots()[slot.index()].activity.text();
        let header = self.segment.header();
        let mut report = Report {
            instance: self.options.name.clone(),
            pid: child.beater().unwrap_or(0),
            age_ns: nanos(now.since(Monotonic(server.spawned_ns.load(Ordering::Relaxed)))),
            heart,
            activity: activity.filter(|text| !text.is_empty()),
            watchdog: report::Watchdog {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                lag_ns: header.lag_ns.load(Ordering::Relaxed),
                worst_lag_ns: header.worst_lag_ns.load(Ordering::Relaxed),
            },
            data: self.known_of_data(now),
            threads: threads(child.before.as_ref(), child.after.as_ref()),
            ..Report::default()
        };
        report.summary.at = unix_ns();
        child.name().clone_into(&mut report.summary.service);
        report.summary.slot = slot.0;
        report.summary.generation = child.generation.0;
        report
    }

    /// Who owns the data, and who waits for that.
    fn known_of_data(&self, now: Monotonic) -> Option<Data> {
        let owner = self.segment.owner().current();
        let name = |slot: SlotId| Some(self.children.get(slot.index())?.name().to_owned());
        let waits = |slot: SlotId| {
            let activity = &self.segment.slots()[slot.index()].activity;
            let parked = activity.parked.load(Ordering::Relaxed);
            Some((name(slot)?, parked)).filter(|(_, parked)| *parked > 0)
        };
        let waiting: Vec<_> = self.group.slots().filter_map(waits).collect();
        let owner = owner.slot.and_then(name);
        let recalled_ns = self.recall.map(|recall| nanos(now.since(recall.since)));
        (owner.is_some() || !waiting.is_empty()).then_some(Data { owner, recalled_ns, waiting })
    }

    /// Whether the kill of whoever runs here waits for its report.
    pub(super) fn holds_kill(&mut self, slot: SlotId) -> bool {
        let who = self.launch_in(slot);
        let Some(until) = self.reports.seats.held(who) else { return false };
        let now = self.clock.now();
        self.reports.pending.push(who);
        // From the kill on it may take its time to die.
        self.step(now, Input::Delayed { slot, span: until.since(now) });
        true
    }

    /// The kill waits no more, if it did.
    fn release_kill(&mut self, who: Who) {
        let before = self.reports.pending.len();
        self.reports.pending.retain(|waiting| *waiting != who);
        if self.reports.pending.len() < before && self.launch_in(who.0) == who {
            self.kill(who.0);
        }
    }

    /// No kill waits any more: somebody is in a hurry.
    pub(super) fn release_kills(&mut self) {
        let now = self.clock.now();
        for who in std::mem::take(&mut self.reports.pending) {
            self.reports.seats.seen(who, now);
            if self.launch_in(who.0) == who {
                self.kill(who.0);
            }
        }
    }

    /// Once a turn, and early in it: what collectors say, and whose kill has waited long enough.
    pub(super) fn heed_collectors(&mut self, now: Monotonic) {
        for place in 0..self.reports.collectors.len() {
            let collector = &mut self.reports.collectors[place];
            let who = collector.who;
            for word in collector.hear() {
                match word {
                    Word::Seen => {}
                    Word::Kept(slot, number) => self.kept(place, slot, number),
                    Word::Failed(why) => {
                        let collector = &mut self.reports.collectors[place];
                        if !std::mem::replace(&mut collector.failed, true) {
                            log::warn!("{}: no report: {why}", collector.name);
                        }
                        continue;
                    }
                }
                if let Some(who) = who.filter(|_| word == Word::Seen) {
                    self.reports.seats.seen(who, now);
                    self.release_kill(who);
                }
            }
            let collector = &self.reports.collectors[place];
            if collector.deaf {
                self.poll.remove(&collector.gate);
                if let Some(who) = who {
                    self.reports.seats.seen(who, now);
                    self.release_kill(who);
                }
            }
        }
        for who in self.reports.seats.release(now) {
            self.release_kill(who);
        }
    }

    /// A report was written.
    fn kept(&mut self, place: usize, slot: u8, number: u64) {
        let collector = &mut self.reports.collectors[place];
        let (first, count) = collector.kept.map_or((number, 0), |(first, _, count)| (first, count));
        collector.kept = Some((first, number, count + 1));
        if collector.who.is_some() {
            log::info!("{}: report {number}: osps report {number}", collector.name);
        }
        self.count_report(SlotId(slot), number);
    }

    /// Tells readers of the segment.
    fn count_report(&self, slot: SlotId, number: u64) {
        let Some(page) = self.segment.slots().get(slot.index()) else { return };
        page.server.reports.fetch_add(1, Ordering::Relaxed);
        page.server.last_report.store(number, Ordering::Relaxed);
    }

    /// Once a turn, after everything else: who is to be looked at, who is not, who is done.
    pub(super) fn gather_reports(&mut self, now: Monotonic) {
        if self.reports.is_off() {
            return;
        }
        self.bury_collectors(now);
        let (group, children) = (&self.group, &self.children);
        let is_late = |(slot, generation): Who| {
            group.stage(slot) == Stage::Late && children[slot.index()].generation == generation
        };
        let over = self.reports.seats.relieve(now, is_late);
        let late: Vec<_> = self.reports.late.drain(..).filter(|who| is_late(*who)).collect();
        for who in over {
            self.end_collector(who);
        }
        for (who, report) in std::mem::take(&mut self.reports.fresh) {
            if self.start_collector(who) {
                self.hand_over(who, report, now);
            } else {
                self.release_kill(who);
                self.reports.put_off(report, now);
            }
        }
        for who in late {
            if self.reports.seats.late(who, now) {
                self.start_collector(who);
            }
        }
        self.write_short(now);
    }

    /// Collectors that are done, and those that take too long.
    fn bury_collectors(&mut self, now: Monotonic) {
        let mut overdue = self.reports.seats.overdue(now).into_iter().map(Some).collect::<Vec<_>>();
        let late = |collector: &Collector| collector.until.is_some_and(|until| now >= until);
        if self.reports.writer().is_some_and(late) {
            overdue.push(None);
        }
        for who in overdue {
            let Some(place) = self.reports.collectors.iter().position(|one| one.who == who) else {
                continue;
            };
            let collector = self.reports.collectors.swap_remove(place);
            log::warn!(
                "{}: writing its report takes longer than {}: ended",
                collector.name,
                humantime::format_duration(WRITING)
            );
            self.dismiss(collector);
        }
        let is_dead = |collector: &&Collector| collector.process.is_dead();
        let dead: Vec<u32> =
            self.reports.collectors.iter().filter(is_dead).map(|one| one.process.pid()).collect();
        if !dead.is_empty() {
            // Their last words.
            self.heed_collectors(now);
        }
        let is_one = |collector: &mut Collector| dead.contains(&collector.process.pid());
        let dead: Vec<_> = self.reports.collectors.extract_if(.., is_one).collect();
        for collector in dead {
            let death = collector.process.reap();
            if collector.who.is_none() {
                self.tell_short(&collector);
            } else if collector.kept.is_none() && !collector.failed {
                let death = death.map_or(String::new(), |death| format!(" ({death})"));
                log::warn!("{}: no report: its collector ended{death}", collector.name);
            }
            self.dismiss(collector);
        }
    }

    /// Ends the collector of somebody, which has only looked so far: there is nobody below it.
    fn end_collector(&mut self, who: Who) {
        let place = self.reports.collectors.iter().position(|one| one.who == Some(who));
        if let Some(place) = place {
            let collector = self.reports.collectors.swap_remove(place);
            if let Err(failed) = collector.process.signal(Signal::KILL) {
                log::debug!("{failed}");
            }
            self.let_go(collector);
        }
    }

    /// Ends a collector with all below it.
    fn dismiss(&mut self, collector: Collector) {
        if !collector.process.is_dead() {
            end_tree(&collector.process);
        }
        self.let_go(collector);
    }

    /// Nobody waits for a collector any more.
    fn let_go(&mut self, collector: Collector) {
        if let Some(who) = collector.who {
            self.reports.seats.leave(who);
            self.release_kill(who);
        }
        self.poll.remove(&collector.gate);
        self.poll.remove(&collector.process);
        if collector.process.reap().is_none() {
            self.unreaped.push(collector.process);
        }
    }

    /// Starts a collector for somebody who has a seat; `false` = that failed, and was told.
    fn start_collector(&mut self, who: Who) -> bool {
        let child = &self.children[who.0.index()];
        let process = child.beater().and_then(|pid| Some((pid, child.start_of(pid)?)));
        let Some((pid, start_time)) = process else {
            self.reports.seats.leave(who);
            return false;
        };
        let stacks = &child.service.manner.stacks;
        let wanted = (stacks.wanted && !child.service.manner.warn).then(|| Wanted {
            command: stacks.command.clone(),
            limit: stacks.limit,
            dump: self.claim.run_dir.path().join(stacks_name(who.0)).into_os_string(),
        });
        let service = child.name().to_owned();
        let log = child.service.launch.log.clone().map(PathBuf::into_os_string);
        let victim = Victim { pid, start_time, service, log, stacks: wanted };
        let name = child.name().to_owned();
        let task = Task { victim: Some(victim), ..Task::default() };
        let started = self.start_process(Some(who), name, task);
        if !started {
            self.reports.seats.leave(who);
        }
        started
    }

    fn start_process(&mut self, who: Option<Who>, name: String, mut task: Task) -> bool {
        task.directory = self.reports.directory.clone().unwrap_or_default().into_os_string();
        let launched = || {
            let failed = |error: std::io::Error| Failed::to("write down", "what to report")(error);
            let bytes = serde_json::to_vec(&task).map_err(|error| failed(error.into()))?;
            let memory = memory_file("osps report", &bytes).map_err(failed)?;
            let (process, gate) = process::launch(&["__report".into()], &[])?;
            let (gate, sent) = gate.open(&[memory.as_fd()]);
            sent.map(|()| (process, gate))
        };
        let (process, gate) = match launched() {
            Ok(launched) => launched,
            Err(failed) => {
                log::warn!("{name}: no report: {failed}");
                return false;
            }
        };
        for added in [
            self.poll.add(&process, KIN, Interest::READ),
            self.poll.add(&gate, REPORT, Interest::READ),
        ] {
            if let Err(failed) = added {
                log::debug!("{failed}; what it says is seen within a second only");
            }
        }
        let (heard, deaf, kept, failed, until) = (Vec::new(), false, None, false, None);
        let collector = Collector { who, name, process, gate, heard, deaf, kept, failed, until };
        self.reports.collectors.push(collector);
        true
    }

    /// Tells the collector of somebody what is known here.
    fn hand_over(&mut self, who: Who, report: Report, now: Monotonic) {
        let tell = |collector: &Collector| -> Result<(), Failed> {
            let failed = |error: std::io::Error| Failed::to("write down", "what is known")(error);
            let bytes = serde_json::to_vec(&report).map_err(|error| failed(error.into()))?;
            let memory = memory_file("osps report", &bytes).map_err(failed)?;
            collector.gate.tell(VERDICT, &[memory.as_fd()])
        };
        let collector = self.reports.collectors.iter().find(|one| one.who == Some(who));
        let told = collector.map(tell);
        if let Some(Ok(())) = told {
            return;
        }
        if let Some(Err(failed)) = told {
            log::debug!("{}: its collector: {failed}", self.children[who.0.index()].name());
        }
        // It died already, or could not be started: what is known is written all the same.
        self.end_collector(who);
        self.reports.seats.leave(who);
        self.release_kill(who);
        self.reports.put_off(report, now);
    }

    /// Starts the writing of short reports, when nothing is more urgent.
    fn write_short(&mut self, now: Monotonic) {
        let reports = &mut self.reports;
        let urgent = reports.seats.is_holding() || now < reports.write_at;
        if reports.waiting.is_empty() || urgent || reports.writer().is_some() {
            return;
        }
        let waiting: Vec<_> = reports.waiting.drain(..).collect();
        let name = waiting.first().map_or(String::new(), |one| one.summary.service.clone());
        let task = Task { reports: waiting, ..Task::default() };
        if self.start_process(None, name, task)
            && let Some(collector) = self.reports.collectors.last_mut()
        {
            collector.until = Some(now + WRITING);
        }
    }

    /// The short reports are written.
    fn tell_short(&mut self, writer: &Collector) {
        let left_out = std::mem::take(&mut self.reports.left_out);
        let none = match left_out {
            0 => String::new(),
            many => format!("; {many} got none"),
        };
        match writer.kept {
            Some((first, last, 1)) if first == last => log::info!(
                "{}: report {first}: osps report {first} (short: too many fell silent at once)\
                 {none}",
                writer.name
            ),
            Some((first, last, count)) => log::info!(
                "{count} short reports, {first} to {last}, since too many fell silent at once\
                 {none}: osps report --list"
            ),
            None if writer.failed => {}
            None => log::warn!("{}: no report: its collector ended", writer.name),
        }
    }

    /// Lets what is being written have its time, then ends it: nothing of osps stays.
    pub(super) fn end_reports(&mut self) {
        self.release_kills();
        let until = self.clock.now() + LAST;
        self.reports.write_at = Monotonic::default();
        loop {
            let now = self.clock.now();
            self.segment.header().watchdog_heart.beat(now);
            self.heed_collectors(now);
            self.gather_reports(now);
            let busy = !self.reports.collectors.is_empty() || !self.reports.waiting.is_empty();
            if !busy || now >= until {
                break;
            }
            pause();
        }
        self.drop_reports();
        let until = self.clock.now() + DYING;
        while self.clock.now() < until {
            self.segment.header().watchdog_heart.beat(self.clock.now());
            self.unreaped.retain(|process| process.reap().is_none());
            if self.unreaped.is_empty() {
                break;
            }
            pause();
        }
    }

    /// Ends all collectors, with what they have not written.
    pub(super) fn drop_reports(&mut self) {
        self.release_kills();
        for collector in std::mem::take(&mut self.reports.collectors) {
            self.dismiss(collector);
        }
    }
}

impl Collector {
    /// Its words since the last look.
    fn hear(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while !self.deaf {
            match self.gate.hear() {
                Some(bytes) if bytes.is_empty() => break,
                Some(bytes) => self.heard.extend(bytes),
                None => self.deaf = true,
            }
            while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                words.extend(Word::of(String::from_utf8_lossy(&line[..end]).as_ref()));
            }
            if self.heard.len() > WORD_MAX {
                self.heard.clear();
            }
        }
        words
    }
}

impl Child {
    /// The start time of a process of its own, if it is known to be alive.
    fn start_of(&self, pid: u32) -> Option<u64> {
        let own = [self.claimant.process.as_ref(), self.process.as_ref()];
        let known = own.into_iter().flatten().find(|process| process.pid() == pid);
        known.map(Process::start_time).or_else(|| crate::sys::procfs::start_time(pid))
    }
}

/// What two looks at threads say, in the words of a report.
fn threads(before: Option<&Evidence>, after: Option<&Evidence>) -> Vec<report::Thread> {
    let Some(after) = after else { return Vec::new() };
    let thread = |(place, thread): (usize, &crate::policy::verdict::Thread)| {
        let known = before.and_then(|before| {
            let known = before.threads.iter().find(|known| known.tid == thread.tid)?;
            Some((thread.cpu.saturating_sub(known.cpu), after.at.since(before.at)))
        });
        let state = match thread.state {
            RunState::Running => "R",
            RunState::Sleeping => "S",
            RunState::Uninterruptible => "D",
            RunState::Stopped => "T",
            RunState::Traced => "t",
            RunState::Gone => "Z",
        };
        let wait_channel = match (thread.state, place) {
            (RunState::Uninterruptible, _) => after.place(Class::Unkillable).to_owned(),
            (_, 0) => after.place(Class::Blocked).to_owned(),
            _ => String::new(),
        };
        report::Thread {
            tid: thread.tid,
            state: state.to_owned(),
            wait_channel,
            cpu_ns: nanos(thread.cpu),
            cpu_since_ns: known.map(|(cpu, _)| nanos(cpu)),
            since_ns: known.map(|(_, since)| nanos(since)),
            ..report::Thread::default()
        }
    };
    after.threads.iter().enumerate().map(thread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_second_the_longest_gap_is_remembered_for_a_minute() {
        let at = |ms: u64| Monotonic(ms * 1_000_000);
        let ms = Duration::from_millis;
        let mut recent = Recent::default();
        for (now, gap) in [(1000, 10), (1500, 30), (1900, 20), (2100, 5)] {
            recent.count(at(now), ms(gap));
        }
        let told: Vec<_> = recent.told(at(3100)).iter().map(|gap| gap.gap_ns).collect();
        assert_eq!(told, [30_000_000, 5_000_000]);
        assert_eq!(recent.told(at(62_000)).len(), 1);
        for second in 0..1000 {
            recent.count(at(10_000 + second * 1000), ms(second));
        }
        assert_eq!(recent.told(at(10_000 + 999_500)).len(), SECONDS);
    }
}
