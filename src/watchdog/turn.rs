//! The loop. One turn: wait for a descriptor or the earliest deadline; read the clock once; beat;
//! gather, in this order: lateness, stop requests, deaths, control requests, hearts, timers; step
//! the policy; perform.

use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::ownership;
use osps_heart::pulse::{Sample, slack};
use osps_heart::segment::What;
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};

use super::{Allow, CONTROL, Child, Recall, Watchdog};
use crate::instance::control::Request;
use crate::policy::group::{Input, Outcome};
use crate::policy::lifecycle::Stage;
use crate::sys::poll::Ready;
use crate::sys::{output, raw};
use crate::view::log::{Glance, status_line};

/// The same signal again within this time is the same request.
const MERGE: Duration = Duration::from_millis(100);

impl Watchdog {
    /// Turns until the end.
    pub(super) fn run(&mut self) -> Outcome {
        let now = self.clock.now();
        let path = Shown(self.claim.run_dir.path());
        log::info!("watchdog pid={} watches over {path}", std::process::id());
        self.push(None, What::WatchdogStarted);
        self.step(now, Input::Boot);
        loop {
            self.perform_all();
            if let Some(outcome) = self.group.outcome() {
                return outcome;
            }
            let recall = self.recall.map(|recall| recall.since + recall.limit);
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
        let seen: Vec<_> = self.group.slots().map(|slot| self.read_heart(slot)).collect();
        self.step(now, Input::Turn { planned });
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
                if self.children[slot.index()].generation == generation {
                    self.step(now, Input::Sample { slot, seen });
                }
            }
        }
        self.step(now, Input::Timers);
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
                self.push(None, What::WatchdogStopping);
                self.allow = Allow::Stopping { since: now, by: who };
                self.step(now, Input::Stop);
            }
            Allow::Stopping { .. } => {
                log::warn!("{who} again: killing what is left");
                self.step(now, Input::ForceStop);
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
        if self.damaged {
            log::error!("the segment is damaged: no heart can be judged; restart osps");
        }
    }

    /// Somebody may cut the segment short or put another in its place. That is not the servers'
    /// fault: judge nobody by it.
    fn check_segment(&mut self) {
        let path = self.claim.run_dir.path().join(FILE_NAME);
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
        let pending = wanted == Some(owner.epoch) && self.arbiter.is_some_and(is_up);
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

    /// Reads a heart, and says whose it is.
    pub(super) fn read_heart(&self, slot: SlotId) -> (Generation, Sample) {
        let sample = self.segment.hearts()[slot.index()].sample();
        (self.children[slot.index()].generation, sample)
    }

    pub(super) fn step(&mut self, now: Monotonic, input: Input) {
        self.actions.extend(self.group.step(now, input));
    }

    /// Tells the end and removes everything that osps made.
    pub(super) fn finish(self, outcome: Outcome) {
        let left: Vec<_> = self.children.iter().filter_map(Child::pid).collect();
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
