//! Actions become system calls, and what they bring becomes inputs.
//!
//! Order inside one action list is the policy's: what is recorded comes before what is done. A
//! failed action never returns early: it is logged and becomes an input of this turn.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use osps_heart::clock::unix_ns;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Death, Record, What, text};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};
use osps_heart::words::{Cause, Class, Desired, HeartSource, Role, env};

use super::claimant::Claimant;
use super::evidence::evidence;
use super::outfit;
use super::reports::Recent;
use super::start::furnish_listen;
use super::{CHILD, Child, Watchdog};
use crate::error::Error;
use crate::policy::graph::Edges;
use crate::policy::group::{Action, Change, Input, Line, Note};
use crate::policy::lifecycle::{Act, Stage};
use crate::policy::verdict;
use crate::service::Listener;
use crate::sys::Failed;
use crate::sys::poll::Interest;
use crate::sys::process::{self, Process};
use crate::sys::procfs::OomCounts;
use crate::view::log::{self as face, Given};

/// A program that asks whether it should stop has done so within this time of its first beat: once
/// a second is what it is told to do.
const LOOKS_WITHIN: Duration = Duration::from_secs(1);

/// Chooses the level of the log; servers of osps's own inherit it.
const LEVEL: &str = "RUST_LOG";

impl Watchdog {
    /// Performs until the policy wants nothing more in this turn.
    pub(super) fn perform_all(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Changed(change) => self.record(change),
                Action::Do { slot, act } => self.act(slot, act),
                Action::Examine { slot, line } => self.examine(slot, line),
                Action::Renewed { slot } => self.renew(slot),
                Action::Rolled { request, slot } => self.rolled(request, slot),
                Action::Told { slot: Some(slot), what } => self.report(slot, what),
                Action::Told { slot: None, what } => self.write_late_turn(what),
            }
        }
    }

    /// The service that a reload brought takes its place.
    fn renew(&mut self, slot: SlotId) {
        let child = &mut self.children[slot.index()];
        if let Some(service) = child.next.take() {
            let old = std::mem::replace(&mut child.service, service);
            self.remove_sockets(&old.launch.listen);
            self.furnish_anew(slot, self.group.turn().now);
            // Before its process starts: what runs is what is written down.
            self.write_started(slot);
        }
        self.write_tally(slot);
    }

    /// Writes down what happened to a server without changing its state.
    pub(super) fn report(&mut self, slot: SlotId, what: What) {
        let child = &self.children[slot.index()];
        let what = match what {
            What::Watched { .. } => What::Watched { source: child.source(true) },
            what => what,
        };
        self.write(&self.happening(Some(slot), what));
        self.hook(slot, &what, self.group.stage(slot).state());
    }

    /// A death, if there is one: the rest of the process group is killed before the leader is
    /// reaped, since its zombie keeps the numbers of its group and session from being reused.
    pub(super) fn gather_death(&mut self, slot: SlotId, now: Monotonic) {
        let process = self.children[slot.index()].process.as_ref();
        if !process.is_some_and(Process::is_dead) || self.waits_for_kin(slot) {
            return;
        }
        let child = &mut self.children[slot.index()];
        let Some(process) = child.process.as_ref() else { return };
        process.kill_group();
        // Dead is dead, even if somebody else (a tracer) keeps the status for a while.
        let death = process.reap();
        self.poll.remove(process);
        self.end_kin(slot, death, now);
        self.hear_first_beat(slot, now);
        let by_us = !self.group.stage(slot).is_watched();
        let child = &mut self.children[slot.index()];
        let death = death.map(|death| if by_us { death } else { child.explained(death) });
        // It never became what it should: our failure, told once with its cause.
        let failed = child.report.take().and_then(|report| report.read());
        let death = match failed {
            Some(why) if !by_us => {
                log::error!("{}: cannot be started: {why}", child.name());
                Some(Death::NotSpawned)
            }
            _ => death,
        };
        let death = death.unwrap_or_else(|| {
            self.unreaped.extend(child.process.take());
            Death::Unknown
        });
        self.children[slot.index()].ended = Some(death);
        self.step(now, Input::Died { slot, death });
        // The record of the death still names the process.
        self.perform_changes();
        self.segment.slots()[slot.index()].server.clear_identity();
        self.children[slot.index()].process = None;
        // Before any successor starts: the dead one's ownership ends here.
        self.retire();
        // Whoever it needed may have to know.
        for other in self.group.edges(slot).into_iter().flat_map(Edges::all) {
            if let Some(child) = self.children.get(other.index()) {
                child.wake(other);
            }
        }
    }

    /// Whoever died before the look that would have found its first beat was up all the same: its
    /// start came to something.
    fn hear_first_beat(&mut self, slot: SlotId, now: Monotonic) {
        let page = &self.segment.slots()[slot.index()].server;
        let baseline = page.baseline.load(Ordering::Relaxed);
        let (_, seen) = self.read_heart(slot);
        if self.group.stage(slot) == Stage::Starting && seen.count != baseline {
            self.step(now, Input::Sample { slot, seen });
            self.perform_all();
        }
    }

    /// Performs the recording at the head of the queue.
    fn perform_changes(&mut self) {
        while let Some(Action::Changed(change)) = self.actions.front().copied() {
            self.actions.pop_front();
            self.record(change);
        }
    }

    /// Writes a transition down: slot page, event ring, log, and those who asked for a stop.
    fn record(&mut self, change: Change) {
        let Change { slot, from, to, what, .. } = change;
        let now = self.clock.now();
        let server = &self.segment.slots()[slot.index()].server;
        server.state.store(to.code(), Ordering::Relaxed);
        if from != to {
            server.since_ns.store(now.0, Ordering::Relaxed);
        }
        let goes_for = |cause: Cause, class: Option<Class>| {
            server.last_cause.store(cause.code(), Ordering::Relaxed);
            server.last_class.store(class.map_or(0, Class::code), Ordering::Relaxed);
        };
        let by_itself = matches!(change.note, Note::Death { took: None, .. });
        match what {
            What::Verdict { cause, class, silence } => {
                goes_for(cause, class);
                server.last_silence_ns.store(nanos(silence), Ordering::Relaxed);
                text::store(&server.last_heart, &self.heart_of(change.note));
                if cause == Cause::Frozen {
                    let class = class.unwrap_or(Class::Unknown);
                    server.hangs[class.index()].fetch_add(1, Ordering::Relaxed);
                }
            }
            What::Died { cause: Some(cause), .. } if by_itself => goes_for(cause, None),
            What::Backoff { death, .. } | What::Failed { death, .. } if by_itself => {
                goes_for(death.cause(), None);
            }
            What::Started { after: Some(cause), .. } => {
                server.restarts[cause.index()].fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.write_past(slot);
        self.write_tally(slot);
        if matches!(what, What::Started { .. }) {
            self.children[slot.index()].starting = Some(change);
        } else {
            self.write(&self.described(&change));
            self.report_on(&change);
            match what {
                What::Verdict { cause: Cause::StartTimeout, .. } => self.advise(slot),
                What::Unwatched => self.advise_unwatched(slot),
                What::FirstBeat { .. } => self.take_sockets(slot),
                _ => {}
            }
            // Without a file everybody is essential, and that one gave up is said already.
            if self.file.is_some() && self.group.ended_by() == Some((slot, what)) {
                let name = self.children[slot.index()].name();
                match what {
                    What::Done { .. } => {
                        log::info!("{name} is essential and done: stopping everything");
                    }
                    _ => {
                        log::error!("{name} is essential and failed for good: stopping everything");
                    }
                }
            }
        }
        if from != to {
            self.tell_askers(slot, to);
        }
        if !matches!(what, What::Started { .. }) {
            self.hook(slot, &what, to);
        }
    }

    /// The record of a change.
    fn described(&self, change: &Change) -> Record {
        let child = &self.children[change.slot.index()];
        let place = |class| child.after.as_ref().map_or("", |after| after.place(class));
        let detail = match change.what {
            What::Verdict { cause: Cause::Dependency, .. } => self.failed(change.slot),
            What::Verdict { class: Some(class), .. } | What::Warned { class, .. } => place(class),
            What::Blocked { by } => self.children.get(by.index()).map_or("", Child::name),
            What::Pressed { .. } => child.service.manner.stop_word(),
            _ => "",
        };
        let mut record = Record {
            change: Some((change.from, change.to)),
            heart: self.heart_of(change.note).as_str().into(),
            detail: detail.into(),
            ..self.happening(Some(change.slot), change.what)
        };
        match change.note {
            Note::Nothing => {}
            Note::Limit(limit) | Note::Further { limit, .. } => {
                record.limit = Some(limit);
                record.text = self.found(change.slot).as_str().into();
            }
            Note::Death { up, took } => (record.up, record.took) = (Some(up), took),
        }
        record
    }

    /// What the prober of a service found wrong last.
    fn found(&self, slot: SlotId) -> String {
        let probed = self.children[slot.index()].probing.is_some();
        if probed { self.activity(slot) } else { String::new() }
    }

    /// The name of the further heart that a note speaks of; empty = the server's own.
    pub(super) fn heart_of(&self, note: Note) -> String {
        match note {
            Note::Further { line, .. } => self.heart_name(line),
            Note::Nothing | Note::Limit(_) | Note::Death { .. } => String::new(),
        }
    }

    /// The name of whom a server goes down with: of one among them that is not up.
    fn failed(&self, slot: SlotId) -> &str {
        let others = self.group.edges(slot).map_or(&[][..], |edges| &edges.restart_with);
        let failed = others.iter().find(|slot| self.group.stage(**slot) != Stage::Up);
        let failed = failed.or(others.first()).and_then(|slot| self.children.get(slot.index()));
        failed.map_or("dependency", Child::name)
    }

    /// Where the services were described.
    fn given(&self) -> Given {
        if self.file.is_some() { Given::Key } else { Given::Option }
    }

    /// A program that never beat under this watchdog does not know how to: told once.
    fn advise(&mut self, slot: SlotId) {
        let count = self.segment.hearts()[slot.index()].sample().count;
        let given = self.given();
        let child = &mut self.children[slot.index()];
        if child.unheard.take() == Some(count) && child.service.role == Role::Program {
            face::advise(child.name(), child.service.manner.heart.source, given);
        }
    }

    /// A program that is up without a beat: told once how that can be changed.
    fn advise_unwatched(&mut self, slot: SlotId) {
        let given = self.given();
        let child = &mut self.children[slot.index()];
        let source = child.service.manner.heart.source;
        if child.unheard.take().is_none() || source == HeartSource::None {
            return;
        }
        // Where the shim is loaded, it leaves its pid in the line until somebody beats there.
        let stamp = self.segment.hearts()[slot.index()].sample().stamp.0;
        let loaded = u32::try_from(stamp).ok().filter(|pid| child.is_looped() && *pid != 0);
        face::advise_unwatched(child.name(), source, loaded, given);
    }

    /// The record of what happens now: to a server, or to the watchdog itself.
    pub(super) fn happening(&self, slot: Option<SlotId>, what: What) -> Record {
        let child = slot.map(|slot| &self.children[slot.index()]);
        let generation = child.map_or_else(Generation::default, |child| child.generation);
        Record {
            unix_ns: unix_ns(),
            pid: child.map_or_else(std::process::id, |child| child.pid().unwrap_or(0)),
            name: child.map_or("", |child| child.name()).into(),
            ..Record::new(self.clock.now(), slot, generation, what)
        }
    }

    /// Writes a record down: event ring and log.
    pub(super) fn write(&self, record: &Record) {
        self.segment.events().push(record);
        face::tell(record);
    }

    /// Writes down that the watchdog itself was late.
    fn write_late_turn(&self, what: What) {
        self.segment.header().late_turns.fetch_add(1, Ordering::Relaxed);
        self.write(&self.happening(None, what));
    }

    fn act(&mut self, slot: SlotId, act: Act) {
        let child = &mut self.children[slot.index()];
        let process = child.process.as_ref();
        let done = match act {
            Act::Spawn => {
                // Never two in one slot: not while something of the last launch lives.
                child.left.successor_due = !child.left.is_empty();
                if !child.left.successor_due {
                    self.spawn(slot);
                }
                return;
            }
            Act::Look => {
                child.before = child.beater().and_then(|pid| evidence(pid, self.clock.now()));
                self.look_for_report(slot);
                return;
            }
            Act::Ask | Act::Terminate => {
                let word = &self.segment.slots()[slot.index()].server.desired;
                word.store(Desired::Stop.code(), Ordering::Relaxed);
                if act == Act::Ask {
                    child.wake(slot);
                    if self.is_heedless(slot) {
                        let now = self.clock.now();
                        self.step(now, Input::Heedless { slot });
                    }
                    Ok(())
                } else {
                    let stop = child.service.manner.stop();
                    let done = process.map_or(Ok(()), |process| process.terminate(stop));
                    self.terminate_kin(slot);
                    done
                }
            }
            Act::Kill => {
                if !self.holds_kill(slot) {
                    self.kill(slot);
                }
                return;
            }
            Act::Alarm => Ok(()),
        };
        if let Err(failed) = done {
            log::error!("{}: {failed}", self.children[slot.index()].name());
        }
    }

    /// Kills whoever runs in a slot, and what its predecessor left.
    pub(super) fn kill(&mut self, slot: SlotId) {
        let now = self.clock.now();
        let child = &mut self.children[slot.index()];
        let done = child.process.as_ref().map_or(Ok(()), Process::kill);
        child.left.kill(now);
        if let Err(failed) = done {
            log::error!("{}: {failed}", child.name());
        }
    }

    /// Whether what runs in a slot does not look at its desired word, nor for its watchdog.
    fn is_heedless(&self, slot: SlotId) -> bool {
        let child = &self.children[slot.index()];
        let activity = &self.segment.slots()[slot.index()].activity;
        child.service.launch.is_program() && !activity.is_heeded_by(child.generation)
    }

    /// Names a service that would stay if this watchdog died and no other one came: once, when it
    /// has been up for so long that it would have looked for that.
    pub(super) fn tell_who_stays(&mut self, slot: SlotId, now: Monotonic) {
        let child = &self.children[slot.index()];
        let since = self.segment.slots()[slot.index()].server.since_ns.load(Ordering::Relaxed);
        let looked = now.since(Monotonic(since)) >= LOOKS_WITHIN;
        let family = &child.service.family;
        if self.stay.contains(family)
            || self.group.stage(slot) != Stage::Up
            || !looked
            || !self.is_heedless(slot)
        {
            return;
        }
        log::info!(
            "{family} stays without a watchdog: it does not look for one (should_stop), so if this \
             osps is killed, it runs on until the next one takes it over or somebody ends it"
        );
        self.stay.insert(family.clone());
    }

    /// Starts a process: it waits at its gate until it is recorded, so that no unrecorded server
    /// can exist.
    pub(super) fn spawn(&mut self, slot: SlotId) {
        // It looks for its directory by name. If that is not there, its trampoline will say so.
        let _ = self.restore_names(true);
        self.mend_header();
        self.restore_notify(slot);
        if let Err(error) = self.bind_missing(slot) {
            log::error!("{}: cannot be started: {error}", self.children[slot.index()].name());
            let now = self.clock.now();
            self.step(now, Input::Died { slot, death: Death::NotSpawned });
            return;
        }
        let generation = self.next_generation();
        self.free_further(slot);
        self.mend_gaps(slot);
        let line = &self.segment.hearts()[slot.index()];
        line.unclaim(slot);
        let count = line.sample().count;
        let kept = self.kept_by(slot);
        let child = &mut self.children[slot.index()];
        // Until somebody beats, the stamp is free for the shim to say that it is there.
        line.stamp_ns.store(0, Ordering::Relaxed);
        child.claimant = Claimant::unclaimed(count);
        child.recent = Recent::default();
        child.generation = generation;
        child.adopted = None;
        (child.before, child.after) = (None, None);
        let (place, number) = (slot.to_string(), generation.to_string());
        let now = self.clock.now();
        let mut env = vec![
            (env::RUN_DIR, self.claim.run_dir.path().as_os_str()),
            (env::SLOT, place.as_ref()),
            (env::GENERATION, number.as_ref()),
        ];
        let descriptors = self.descriptors.map(|limit| limit.to_string());
        if let Some(limit) = &descriptors {
            env.push((env::DESCRIPTORS, limit.as_ref()));
        }
        let limit = child.service.limits.hang.as_micros().to_string();
        let shim = self.shim.as_ref().filter(|_| child.is_looped());
        let told =
            matches!(child.service.manner.heart.source, HeartSource::Notify | HeartSource::Auto);
        if let Some(hearing) = child.hearing.as_mut().filter(|_| told) {
            hearing.begin();
            env.push(("NOTIFY_SOCKET", hearing.notify.address.as_ref()));
            // Without WATCHDOG_PID: the program may be behind a wrapper (docs/decisions.md).
            env.push(("WATCHDOG_USEC", limit.as_ref()));
        }
        let heart = &child.service.manner.heart;
        if let Some(shim) = shim {
            env.push((env::SHIM, shim.path().as_os_str()));
            env.push((env::LOOP, heart.source.word().as_ref()));
            if let Some(process) = &heart.process {
                env.push((env::HEART_PROCESS, process.as_ref()));
            }
        }
        if self.quiet && !child.service.launch.is_program() && std::env::var_os(LEVEL).is_none() {
            env.push((LEVEL, "warn".as_ref()));
        }
        let member = self.claim.run_dir.path().as_os_str();
        let launched = if child.service.launch.is_program() {
            let orders = outfit::orders(&child.service.launch, member, &env);
            let packed = orders.pack().map_err(Failed::to("write down", "what to run"));
            packed.and_then(|orders| Ok((self.spares.launch(&self.poll, now)?, Some(orders))))
        } else {
            let args = ["__exec".into(), (&place).into(), (&number).into()];
            process::launch(&args, &env).map(|launched| (launched, None))
        };
        let ((process, gate), orders) = match launched {
            Ok(launched) => launched,
            Err(failed) => {
                log::error!("{}: {failed}", child.name());
                let death = Death::NotSpawned;
                self.step(now, Input::Died { slot, death });
                return;
            }
        };
        let page = &self.segment.slots()[slot.index()].server;
        page.desired.store(Desired::Run.code(), Ordering::Relaxed);
        page.spawned_ns.store(now.0, Ordering::Relaxed);
        page.baseline.store(count, Ordering::Relaxed);
        page.starts.fetch_add(1, Ordering::Relaxed);
        page.set_main((0, 0));
        if child.service.launch.is_program() {
            // What it shows from now on is its own.
            self.segment.slots()[slot.index()].activity.set_text("");
        }
        let (pid, start_time) = (process.pid(), process.start_time());
        page.set_identity(Identity { pid, start_time, generation });
        if let Err(failed) = self.poll.add(&process, CHILD + u64::from(slot.0), Interest::READ) {
            self.unpolled = true;
            log::error!("{}: {failed}; deaths are seen within a second only", child.name());
        }
        let mut given: Vec<_> = child.service.sockets.iter().map(|socket| socket.as_fd()).collect();
        if !child.service.launch.is_program() || shim.is_some() {
            given.push(self.segment_file.as_fd());
            given.extend(child.service.fifos.iter().map(|fifo| fifo.as_fd()));
        }
        given.extend(kept.iter().map(|socket| socket.as_fd()));
        given.extend(orders.as_ref().map(AsFd::as_fd));
        let (report, sent) = gate.open(&given);
        page.opened.store(u64::from(generation.0), Ordering::Relaxed);
        if let Err(failed) = sent {
            // It died already: its pidfd tells.
            log::debug!("{}: {failed}", child.name());
        }
        child.report = Some(report);
        child.process = Some(process);
        child.count_oom_kills(&mut OomCounts::default());
        let starting = child.starting.take();
        if let Some(mut change) = starting {
            if let What::Started { pid: known, .. } = &mut change.what {
                *known = pid;
            }
            self.write(&self.described(&change));
            self.hook(slot, &change.what, change.to);
        }
        self.step(now, Input::Spawned { slot, count });
    }

    /// The sockets of the others that a server of osps's own keeps for the next watchdog, beside
    /// its own: so nobody is refused there when the watchdog and whoever listens are both killed.
    fn kept_by(&self, slot: SlotId) -> Vec<Arc<Listener>> {
        let is_program = |slot: SlotId| self.children[slot.index()].service.launch.is_program();
        if is_program(slot) {
            return Vec::new();
        }
        let others = self.group.slots().filter(|other| *other != slot && !is_program(*other));
        others.flat_map(|other| self.children[other.index()].service.sockets.clone()).collect()
    }

    /// Binds the sockets of a service that a killed watchdog had, and that could not be taken from
    /// whoever held them: that one is dead by now.
    fn bind_missing(&mut self, slot: SlotId) -> Result<(), Error> {
        let child = &self.children[slot.index()];
        let service = &child.service;
        // What a server of osps's own listens to stands in no launch.
        let listen: Vec<_> = if service.launch.is_program() {
            service.launch.listen.clone()
        } else {
            child.elsewhere.iter().map(|(asked, _)| asked.clone()).collect()
        };
        if listen.is_empty() || service.sockets.len() == listen.len() {
            // Or a reload brought others.
            self.children[slot.index()].elsewhere.clear();
            return Ok(());
        }
        let mut there = self.held();
        let family = service.family.clone();
        for (asked, was) in &child.elsewhere {
            there.bind_again(&family, asked, was);
        }
        let sockets = listen.iter().filter_map(|at| there.listener(&family, at).transpose());
        self.children[slot.index()].service.sockets = sockets.collect::<Result<_, _>>()?;
        self.children[slot.index()].elsewhere.clear();
        furnish_listen(&self.segment, slot, &self.children[slot.index()].service);
        self.write_started(slot);
        Ok(())
    }

    /// Looks at an overdue server, and at its heart once more after that: the last moment at
    /// which a beat saves it.
    fn examine(&mut self, slot: SlotId, line: Line) {
        let now = self.clock.now();
        // What came since the poll looked.
        self.gather_last_words(slot);
        let child = &mut self.children[slot.index()];
        if child.process.as_ref().is_some_and(Process::is_dead) {
            // Death wins: the next turn tells it.
            return;
        }
        child.after = child.beater().and_then(|pid| evidence(pid, now));
        let class = verdict::classify(child.before.as_ref(), child.after.as_ref());
        let seen = match line {
            None => {
                self.check_program(slot);
                Some(self.read_heart(slot).1)
            }
            Some(line) => self.reread_further(slot, line),
        };
        let input = match (seen, line) {
            (Some(seen), line) => Input::Examined { slot, line, seen, class },
            (None, Some(line)) => Input::Further { slot, line, seen: None, limit: None },
            (None, None) => return,
        };
        self.step(self.clock.now(), input);
        // The beat that saved it.
        self.count_gap(slot, line);
    }

    /// A generation that no process of this instance ever had.
    fn next_generation(&mut self) -> Generation {
        self.generation = Generation(self.generation.0.wrapping_add(1).max(1));
        let word = &self.segment.header().generation;
        word.store(u64::from(self.generation.0), Ordering::Relaxed);
        self.generation
    }
}
