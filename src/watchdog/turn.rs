//! The loop. One turn: wait for a descriptor or the earliest deadline; read the clock; beat;
//! gather, in this order: lateness, probers, notifications, stop requests, deaths, control
//! requests, hearts, timers; step the policy; perform.

use std::os::fd::AsFd;
use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::ownership;
use osps_heart::pulse::slack;
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::slot::store_set;
use osps_heart::segment::{Death, Record, What, text};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};
use osps_heart::words::Watched;

use super::above::Above;
use super::reload::{Loading, remove_paths};
use super::start::furnish_slot;
use super::{Allow, CHILD, CONTROL, Child, NOTIFY, Recall, Watchdog};
use crate::error::Error;
use crate::instance::control::Control;
use crate::instance::place::CONTROL as CONTROL_NAME;
use crate::policy::group::{Input, Outcome};
use crate::policy::lifecycle::Stage;
use crate::service::{Address, KillMode};
use crate::sys::poll::{BATCH, Ready};
use crate::sys::process::Process;
use crate::sys::procfs::OomCounts;
use crate::sys::signals::Came;
use crate::sys::{output, raw};
use crate::view::log::{Glance, status_line};

/// Between two turns while a deadline cannot be met.
const REST: Duration = Duration::from_millis(10);

/// Deaths are dealt with for so long in one turn: each may start a successor, for which whoever is
/// overdue meanwhile has to wait. The rest comes in the next turn.
const BURIALS: Duration = Duration::from_millis(10);

/// The same signal again within this time is the same request.
const MERGE: Duration = Duration::from_millis(100);

/// Servers of which a check looks whether they moved to another control group. More cost more at
/// rest: this is the dearest look of all; fewer, and one that moves is found out later.
const MOVERS: usize = 8;

impl Watchdog {
    /// Turns until the end.
    pub(super) fn run(&mut self) -> Outcome {
        let now = self.clock.now();
        self.write(&self.started());
        self.name_report_directory();
        for slot in self.group.slots() {
            self.open_notify(slot);
        }
        self.place_probers(now);
        if let Some((left, services)) = self.left.take() {
            // What is new of that is written down with it.
            self.take_over(now, left, services);
        } else {
            self.group.slots().for_each(|slot| self.write_started(slot));
            if self.file.is_some() {
                self.write_services();
            }
        }
        self.step(now, Input::Boot);
        loop {
            self.perform_all();
            if let Some(outcome) = self.group.outcome().filter(|_| self.kin_are_gone()) {
                return outcome;
            }
            let recall = self.recall.map(|recall| recall.since + recall.limit);
            // Hearts that are not judged have deadlines that nothing moves: no waiting for those.
            let group = self.group.next_deadline().filter(|_| !self.damaged);
            // Nor for that of a successor whose predecessor's kin still die.
            let blocked = self.children.iter().any(|child| child.left.successor_due);
            let group = group.map(|at| if blocked { at.max(self.clock.now() + REST) } else { at });
            let loading = self.loading.as_ref().map(Loading::until);
            let above = self.above.as_ref().and_then(Above::due);
            let deadlines = [Some(self.check_at), Some(self.beat_at), group, recall];
            let others = [self.spares_due(), self.hooks.due(), loading, above, self.reports.due()];
            let deadlines = deadlines.into_iter().chain(others);
            let planned = deadlines.flatten().min().unwrap_or(now);
            let ready = self.poll.wait(self.clock.now(), Some(planned)).unwrap_or_else(|failed| {
                // Cannot happen with a valid set; without this the loop would spin on it.
                log::error!("{failed}");
                Vec::new()
            });
            let now = self.clock.now();
            self.turn(&ready, now, planned);
        }
    }

    /// Whom to look at in this turn is what the poll said, for it costs less than to ask everybody.
    fn turn(&mut self, ready: &[Ready], now: Monotonic, planned: Monotonic) {
        let all = self.unpolled || ready.len() >= BATCH || now >= self.check_at;
        let is_ready = |token: u64| all || ready.iter().any(|event| event.token == token);
        self.segment.header().watchdog_heart.beat(now);
        self.beat_at = now + self.beat_interval;
        // Read now, judged below: what the turn does meanwhile takes milliseconds, and a beat that
        // comes during them belongs to the next turn.
        self.step(now, Input::Turn { planned });
        self.write_lag(now.since(planned));
        self.gather_probers();
        // A notification that is here by now is a beat that came in time.
        for slot in self.group.slots() {
            if is_ready(NOTIFY + u64::from(slot.0)) {
                self.gather_notifications(slot);
            }
        }
        let slots = self.group.slots();
        let seen: Vec<_> = slots.map(|slot| self.read_heart(slot)).collect();
        let further = self.read_further();
        // Whoever has to share its processor reads them later than the clock.
        let read = self.clock.now();
        self.perform_all();
        self.heed_collectors(now);
        for came in self.signals.take() {
            match came {
                Came::Stop("SIGHUP") if self.file.is_some() => match self.allow {
                    Allow::Running => self.reload_file(now, None, 0),
                    // Nobody who wants a reload means to kill.
                    Allow::Stopping { .. } => log::warn!("SIGHUP: osps is stopping"),
                },
                Came::Stop(signal) => self.stop_requested(now, signal),
                Came::Ignored(signal) => log::warn!(
                    "{signal}: ignored; INT, TERM, HUP and QUIT stop osps, and a signal for a \
                     server goes to that server's pid"
                ),
            }
        }
        self.perform_all();
        // Who waits for kin is dead already, and not polled.
        let waits = |slot: &SlotId| self.children[slot.index()].left.awaited;
        let gone = |slot: &SlotId| is_ready(CHILD + u64::from(slot.0)) || waits(slot);
        let gone: Vec<_> = self.group.slots().filter(gone).collect();
        let unburied = self.gather_deaths(gone, now);
        self.gather_kin(now);
        self.unreaped.retain(|process| process.reap().is_none());
        self.reap_inherited();
        for event in ready.iter().filter(|event| event.token >= CONTROL) {
            if event.token == CONTROL {
                self.control.accept(&self.poll);
            } else if let Some(asked) = self.control.read(&self.poll, event.token) {
                self.heed_asked(now, asked);
            }
        }
        self.gather_loading(now);
        // What was decided is written down before anybody compares.
        self.perform_all();
        self.check_segment(now >= self.check_at);
        self.perform_all();
        self.check_claims(&unburied);
        self.retire();
        if unburied.is_empty() {
            self.check_recall(now, planned);
        }
        if !self.damaged {
            for (slot, (generation, seen)) in self.group.slots().zip(seen) {
                // A successor that was started in this turn has its own baseline; one that is still
                // due has no heart, and who has left nothing but kin is not judged any more.
                let child = &self.children[slot.index()];
                let is_it = child.generation == generation && !child.left.successor_due;
                if is_it && !unburied.contains(&slot) {
                    self.step(read, Input::Sample { slot, seen });
                    self.count_gap(slot, None);
                }
            }
            self.judge_further(&further, &unburied, read);
            self.publish_watched(now);
        }
        self.step(now, Input::Timers);
        self.perform_all();
        self.vacate(now);
        self.answer();
        if now >= self.check_at {
            self.check(now);
        }
        self.gather_reports(now);
        self.gather_hooks(now);
        self.fill_spares(now);
        self.tell_above(now);
    }

    /// Deals with the deaths among these, for as long as a turn may take. Back come the dead that
    /// are left for the next turn: nobody judges them.
    fn gather_deaths(&mut self, slots: Vec<SlotId>, now: Monotonic) -> Vec<SlotId> {
        let until = self.clock.now() + BURIALS;
        let mut slots = slots.into_iter();
        for slot in slots.by_ref() {
            self.gather_death(slot, now);
            self.perform_all();
            if self.clock.now() >= until {
                break;
            }
        }
        let is_dead = |slot: &SlotId| {
            self.children[slot.index()].process.as_ref().is_some_and(Process::is_dead)
        };
        slots.filter(is_dead).collect()
    }

    /// Says in the pages whose silence counts now.
    fn publish_watched(&mut self, now: Monotonic) {
        for slot in self.group.slots() {
            let claim = self.segment.hearts()[slot.index()].claimed();
            let absent = self.children[slot.index()].is_looped() && claim.pid == 0;
            let watched =
                if self.group.is_watched(slot) && !absent { Watched::Yes } else { Watched::No };
            let page = &self.segment.slots()[slot.index()].server;
            page.watched.store(watched.code(), Ordering::Relaxed);
            let source = self.children[slot.index()].source(watched == Watched::Yes);
            page.heart_source.store(source.code(), Ordering::Relaxed);
            let waits = self.group.stage(slot) == Stage::Blocked;
            let by = self.group.blocked_by(slot).filter(|_| waits);
            page.blocked_by.store(by.map_or(0, |by| u64::from(by.0) + 1), Ordering::Relaxed);
            let unheld = self.children[slot.index()].elsewhere.len() as u64;
            page.unheld.store(unheld, Ordering::Relaxed);
            if let Some(edges) = self.group.edges(slot) {
                store_set(&page.depends_on, edges.depends_on.iter().copied());
                store_set(&page.after_done, edges.after_done.iter().copied());
                store_set(&page.restart_with, edges.restart_with.iter().copied());
            }
            self.write_past(slot);
            self.tell_who_stays(slot, now);
        }
    }

    pub(super) fn stop_requested(&mut self, now: Monotonic, who: &'static str) {
        self.rebuild = false;
        match self.allow {
            // `timeout` and service managers send the same signal to a process and to its group;
            // whoever presses Ctrl-C twice means it.
            Allow::Stopping { since, by }
                if by == who && who != "SIGINT" && now.since(since) < MERGE => {}
            Allow::Running => {
                self.tell_above_stopping();
                self.write_stopping(who);
                self.allow = Allow::Stopping { since: now, by: who };
                self.step(now, Input::Stop);
            }
            Allow::Stopping { .. } => {
                log::warn!("{who} again: killing what is left");
                self.release_kills();
                self.step(now, Input::ForceStop);
            }
        }
    }

    /// The record of the watchdog's start: of a long path the end tells most.
    fn started(&self) -> Record {
        let path = Shown(self.claim.run_dir.path()).to_string();
        let most = 8 * Record::TEXT;
        let shown = if path.len() <= most {
            path
        } else {
            let mut start = path.len() - (most - 3);
            while !path.is_char_boundary(start) {
                start += 1;
            }
            format!("...{}", &path[start..])
        };
        let text = shown.as_str().into();
        Record { text, ..self.happening(None, What::WatchdogStarted) }
    }

    fn write_stopping(&self, who: &str) {
        let detail = who.into();
        self.write(&Record { detail, ..self.happening(None, What::WatchdogStopping) });
    }

    /// Says how late this turn is.
    fn write_lag(&self, lag: Duration) {
        let (header, lag) = (self.segment.header(), nanos(lag));
        header.lag_ns.store(lag, Ordering::Relaxed);
        if lag > header.worst_lag_ns.load(Ordering::Relaxed) {
            header.worst_lag_ns.store(lag, Ordering::Relaxed);
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
        self.count_oom_kills();
        for slot in self.group.slots() {
            self.take_sockets(slot);
        }
        let glance = |slot: SlotId| Glance {
            who: self.children[slot.index()].who(),
            state: self.group.stage(slot).state(),
            silence: self.group.silence(slot, now),
        };
        let glances: Vec<_> = self.group.slots().map(glance).collect();
        if !self.quiet {
            let line = status_line(self.checks, std::process::id(), &glances);
            output::stdout().put(line.as_bytes());
        }
        let dropped = output::stdout().dropped() + output::stderr().dropped();
        self.segment.header().dropped_lines.store(dropped, Ordering::Relaxed);
    }

    /// Looks for kills for want of memory, and in turn where some of the servers live.
    fn count_oom_kills(&mut self) {
        let all = self.children.len();
        let first = usize::try_from(self.checks).unwrap_or(0).wrapping_mul(MOVERS) % all.max(1);
        let mut counts = OomCounts::default();
        for (number, child) in self.children.iter_mut().enumerate() {
            if (number + all - first) % all < MOVERS {
                child.count_oom_kills(&mut counts);
            } else {
                child.recount_oom_kills(&mut counts);
            }
        }
    }

    /// Somebody may cut the segment short. That is not the servers' fault: judge nobody by it. What
    /// was only scribbled over or removed is put back, and everybody goes on.
    fn check_segment(&mut self, all: bool) {
        let damaged = raw::bus_errors() > 0 || !self.segment.is_file(self.segment_file.metadata());
        if damaged && !self.damaged {
            log::error!(
                "the segment was cut short by somebody: what it held is lost; stopping everything \
                 in order, then starting anew"
            );
            if self.allow == Allow::Running {
                self.rebuild = true;
                self.write_stopping("segment lost");
                self.step(self.clock.now(), Input::Stop);
            }
        }
        self.damaged |= damaged;
        if !self.damaged {
            self.mend_header();
            self.mend_slots();
        }
        match self.restore_names(all) {
            Ok(looked) => {
                self.names_told.clear();
                self.restore_sockets(looked);
            }
            // Told once: it is tried again in every turn.
            Err(error) => {
                let error = error.to_string();
                if error != self.names_told {
                    log::error!("{error}; the names of this instance cannot be put back yet");
                    self.names_told = error;
                }
            }
        }
    }

    /// What every new server looks at.
    pub(super) fn mend_header(&self) {
        if !self.damaged && self.segment.mend_header(&self.options) {
            log::warn!("somebody scribbled over the segment's header: mended");
        }
    }

    /// Who runs in which slot, by our own table: what a page says has to agree. A process that was
    /// started after a scribble has a sound identity, and only its name tells.
    fn mend_slots(&self) {
        for slot in self.group.slots() {
            let child = &self.children[slot.index()];
            let server = &self.segment.slots()[slot.index()].server;
            let state = self.group.stage(slot).state().code();
            if server.identity() != child.identity()
                || server.state.load(Ordering::Relaxed) != state
                || !text::is_stored(&server.name, child.name())
            {
                log::warn!("{}: somebody scribbled over its page: mended", child.name());
                furnish_slot(&self.segment, slot, &child.service);
                match child.identity() {
                    Some(identity) => server.set_identity(identity),
                    None => server.clear_identity(),
                }
                server.state.store(state, Ordering::Relaxed);
            }
        }
    }

    /// Puts back the names in the run directory, but for those of notify sockets. `true` = they
    /// were looked at: `all` were wanted, or the directory had changed.
    pub(super) fn restore_names(&mut self, all: bool) -> Result<bool, Error> {
        let mut held = vec![(FILE_NAME, self.segment_file.as_fd())];
        let fifos = self.children.iter().flat_map(|child| &child.service.fifos);
        let mut fifos: Vec<_> = fifos.map(|fifo| (fifo.name(), fifo.as_fd())).collect();
        fifos.sort_by_key(|(name, _)| *name);
        fifos.dedup_by_key(|(name, _)| *name);
        held.extend(fifos);
        let mut restored = self.claim.restore(&held, all)?;
        if !restored.looked {
            return Ok(false);
        }
        if !self.claim.has(CONTROL_NAME) {
            self.control =
                Control::open(self.claim.run_dir.as_fd(), CONTROL_NAME, &self.poll, CONTROL)?;
            restored.back.push(CONTROL_NAME.to_owned());
        }
        let path = Shown(self.claim.run_dir.path());
        if !restored.back.is_empty() {
            let names = restored.back.join(", ");
            log::warn!("somebody removed {names} from {path}: put back, nothing was lost");
        }
        if !restored.foreign.is_empty() {
            let names = restored.foreign.join(", ");
            log::error!(
                "somebody put something else in the place of {names} in {path}: left alone; \
                 servers go on with what is held here"
            );
        }
        Ok(true)
    }

    /// Clears the owner word of a generation that is not alive. A reconciliation, not an event:
    /// done in every turn, and after every confirmed death before the successor starts.
    pub(super) fn retire(&self) {
        let cells = self.segment.owner();
        let owner = cells.current();
        let live = |slot: SlotId| self.children.get(slot.index()).and_then(Child::live);
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
        let is_up = |slot| self.group.stage(slot) == Stage::Up;
        let mut slots = self.group.slots();
        let mut arbiter_is_up =
            || slots.any(|slot| self.children[slot.index()].service.arbiter && is_up(slot));
        let pending = wanted == Some(owner.epoch) && arbiter_is_up();
        let holder = owner.slot.filter(|slot| pending && is_up(*slot));
        let Some((slot, child)) =
            holder.and_then(|slot| Some((slot, self.children.get(slot.index())?)))
        else {
            self.recall = None;
            return;
        };
        let limit = child.service.limits.hang;
        let late = now.since(planned) > slack(limit);
        match self.recall {
            Some(recall) if recall.epoch == owner.epoch && !late => {
                if now.since(recall.since) >= recall.limit {
                    self.step(now, Input::NotReleasing { slot });
                    self.recall = None;
                }
            }
            _ => self.recall = Some(Recall { epoch: owner.epoch, since: now, limit }),
        }
    }

    pub(super) fn step(&mut self, now: Monotonic, input: Input) {
        self.actions.extend(self.group.step(now, input));
    }

    /// Tells the end and removes everything that osps made.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.end_reports();
        self.end_hooks();
        self.end_loading();
        self.end_probers();
        self.end_spares();
        let mut left: Vec<_> = self.children.iter().filter_map(Child::undying).collect();
        let end = match outcome {
            Outcome::Clean => "stopped",
            Outcome::Forced => "stopped by force",
            Outcome::GaveUp => "gave up",
        };
        for token in &self.stoppers {
            self.control.tell(*token, end);
        }
        for token in self.waiting.iter().filter_map(|waiting| waiting.token) {
            self.control.tell(token, "failed osps was told to stop meanwhile");
        }
        if !left.is_empty() {
            left.sort();
            log::error!(
                "{} do not die; the run directory stays for the next start",
                left.join(", ")
            );
            return;
        }
        let strangers = self.unattributed();
        let on_purpose = |child: &Child| child.service.manner.kill_mode == KillMode::Group;
        if strangers.is_empty() {
            // As it should be.
        } else if self.children.iter().any(on_purpose) {
            if let Some(shim) = &mut self.shim {
                shim.stay(&self.claim.run_dir);
            }
            log::info!("left alone (--kill-mode group): {}", strangers.join(", "));
        } else {
            log::warn!("not ended, since nobody knows whose they are: {}", strangers.join(", "));
        }
        let taken: Vec<_> = self.group.slots().collect();
        let listening =
            taken.iter().flat_map(|slot| &self.children[slot.index()].service.launch.listen);
        remove_paths(listening.filter_map(Address::path).collect());
        if let Some(above) = &self.above {
            above.let_go(self.rebuild);
        }
        let given_up = self.given_up();
        drop(self.segment);
        self.claim.remove();
        match outcome {
            Outcome::Clean | Outcome::Forced => log::info!("all stopped, nothing left"),
            Outcome::GaveUp => log::error!("gave up: {given_up}"),
        }
    }

    /// How the first service ended: in the way that ended all, else as its last process did.
    pub(super) fn end_of_first(&self) -> Option<Death> {
        match self.group.ended_by() {
            Some((SlotId(0), What::Failed { death, .. } | What::Done { death })) => Some(death),
            _ => self.children.first().and_then(|child| child.ended),
        }
    }

    /// Who ended all by failing for good, and by what.
    fn given_up(&self) -> String {
        let Some((slot, what)) = self.group.ended_by() else { return "a server failed".to_owned() };
        let why = match what {
            What::Failed { death: Death::NotSpawned, once: false } => "could not be started",
            What::Failed { once: false, .. } => "was restarted too often",
            _ => "failed, and is not restarted",
        };
        format!("{} {why}", self.children[slot.index()].name())
    }
}
