//! Actions become system calls, and what they bring becomes events.
//!
//! Order inside one action list is the policy's: what is recorded comes before what is done. A
//! failed action never returns early: it is logged and becomes an event of this turn.

use std::net::TcpListener;

use super::report::{self, Who};
use super::{PROCESS, Plan, Watchdog, descriptors};
use crate::ids::{Epoch, Generation, SlotId};
use crate::policy::group::{Action, Event, Why};
use crate::policy::lifecycle::{Act, Cause, Death, Rung, State};
use crate::policy::verdict::{self, Class, Evidence, RunState, Thread};
use crate::role::env;
use crate::segment::events;
use crate::segment::slot::{Identity, desired};
use crate::sync::Ordering;
use crate::sys::fifo::Fifo;
use crate::sys::poll::Interest;
use crate::sys::process::{self, Ending, Process};
use crate::sys::procfs;
use crate::time::{Clock, Monotonic, Short, nanos};
use crate::wire::{self, Frame, Kind};

/// Kinds of events in the ring; their arguments are listed in docs/segment.md.
pub(super) mod kind {
    pub(crate) const STARTED: u64 = 1;
    pub(crate) const UP: u64 = 2;
    pub(crate) const LATE: u64 = 3;
    pub(crate) const VERDICT: u64 = 4;
    pub(crate) const HELD: u64 = 5;
    pub(crate) const PARDONED: u64 = 6;
    pub(crate) const STOP_ORDER: u64 = 7;
    pub(crate) const PRESSED: u64 = 8;
    pub(crate) const DIED: u64 = 9;
    pub(crate) const BACKOFF: u64 = 10;
    pub(crate) const FAILED: u64 = 11;
    pub(crate) const LATE_TURN: u64 = 12;
    pub(crate) const SPARED: u64 = 13;
    pub(crate) const ALARM: u64 = 14;
    pub(crate) const WATCHDOG_STARTED: u64 = 15;
    pub(crate) const WATCHDOG_STOPPING: u64 = 16;
}

/// What the watchdog holds for one slot.
#[derive(Debug)]
pub(super) struct Post {
    name: String,
    listener: Option<TcpListener>,
    command: Vec<String>,
    generation: Generation,
    process: Option<Process>,
    /// Evidence taken when the server became late, and the newest.
    baseline: Option<Evidence>,
    latest: Option<Evidence>,
    /// The start that is being performed: its line is logged with the pid.
    starting: Option<(State, Why)>,
    /// FIFOs held open so that frames outlive the server; it reads the first one.
    tubes: Vec<Fifo>,
}

impl Post {
    pub(super) fn new(plan: Plan, tubes: Vec<Fifo>) -> Post {
        Post {
            name: plan.name,
            listener: plan.listener,
            command: plan.command,
            generation: Generation::default(),
            process: None,
            baseline: None,
            latest: None,
            starting: None,
            tubes,
        }
    }

    /// Wakes the server up, so that it looks at the segment now and not at its next beat. Only a
    /// hint: a frozen server does not read it, a full pipe does not take it, and nothing is lost.
    fn wake(&self, slot: SlotId) {
        let Some(tube) = self.tubes.first() else { return };
        let frame = Frame {
            kind: Kind::Lost,
            from: wire::WATCHDOG,
            to: slot,
            from_generation: Generation::default(),
            to_generation: self.generation,
            epoch: Epoch::default(),
            sequence: 0,
            job: 0,
            payload: [0; wire::PAYLOAD_SIZE],
        };
        if let Err(failed) = tube.send(&wire::encode(&frame)) {
            log::debug!("{}: {failed}", self.name);
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The generation that was started last.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The generation that lives in the slot, by our own table.
    pub(super) fn live(&self) -> Option<Generation> {
        self.process.as_ref().map(|_| self.generation)
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who { name: &self.name, generation: self.generation, pid: self.pid().unwrap_or(0) }
    }
}

impl Watchdog {
    /// Performs until the policy wants nothing more in this turn.
    pub(super) fn perform_all(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Changed { slot, from, to, why } => self.record(slot, from, to, &why),
                Action::Do { slot, act } => self.act(slot, act),
                Action::Examine { slot } => self.examine(slot),
                Action::LateTurn { by } => {
                    log::warn!("watchdog was late by {}: every limit runs again", Short(by));
                    self.event(None, kind::LATE_TURN, [nanos(by), 0, 0]);
                }
                Action::Spared { slot, silence } => {
                    let who = self.posts[slot.index()].who();
                    log::warn!(
                        "{} gen={} pid={}: starved (no beat for {}, the host is overloaded): one \
                         more limit",
                        who.name,
                        who.generation,
                        who.pid,
                        Short(silence)
                    );
                    self.event(Some(slot), kind::SPARED, [nanos(silence), 0, 0]);
                }
            }
        }
    }

    /// A death, if there is one: the rest of the process group is killed before the leader is
    /// reaped, since its zombie keeps the group's number from being reused.
    pub(super) fn gather_death(&mut self, slot: SlotId, now: Monotonic) {
        let post = &mut self.posts[slot.index()];
        let Some(process) = post.process.as_ref().filter(|process| process.is_dead()) else {
            return;
        };
        process.kill_group();
        // Dead is dead, even if somebody else (a tracer) keeps the status for a while.
        let ending = process.reap();
        self.poll.remove(process);
        let ending = ending.unwrap_or_else(|| {
            self.unreaped.extend(post.process.take());
            Ending::Unknown
        });
        let death = match ending {
            Ending::Exited(status) => Death::Exited(status),
            Ending::Killed(signal) => Death::Killed(signal),
            Ending::Unknown => Death::Unknown,
        };
        self.step(now, Event::Died { slot, death });
        // The record of the death still names the process.
        self.perform_changes();
        self.segment.slots()[slot.index()].record.clear_identity();
        self.posts[slot.index()].process = None;
        // Before any successor starts: the dead one's ownership ends here.
        self.retire();
        if slot != SlotId::FIRST
            && let Some(primary) = self.posts.first()
        {
            primary.wake(SlotId::FIRST);
        }
    }

    /// Performs the recording at the head of the queue.
    fn perform_changes(&mut self) {
        while let Some(Action::Changed { slot, from, to, why }) = self.actions.front().copied() {
            self.actions.pop_front();
            self.record(slot, from, to, &why);
        }
    }

    /// Writes a transition down: slot page, event ring, log, and those who asked for a stop.
    fn record(&mut self, slot: SlotId, from: State, to: State, why: &Why) {
        let now = self.clock.now();
        let page = &self.segment.slots()[slot.index()].record;
        page.state.store(to.code(), Ordering::Relaxed);
        page.since_ns.store(now.0, Ordering::Relaxed);
        let condemned = |cause: &Cause| {
            page.last_cause.store(cause.code(), Ordering::Relaxed);
            let class = cause.class().map_or(0, Class::code);
            page.last_class.store(class, Ordering::Relaxed);
        };
        match why {
            Why::Condemned { cause, silence, .. } => {
                condemned(cause);
                page.last_silence_ns.store(nanos(*silence), Ordering::Relaxed);
            }
            Why::Died { cause: Some(cause), took: None, .. } => condemned(cause),
            Why::Started { after: Some(cause) } => {
                if let Some(counter) = usize::try_from(cause.code() - 1)
                    .ok()
                    .and_then(|index| page.restarts.get(index))
                {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        if let Some((kind, arguments)) = event_of(to, why) {
            self.event(Some(slot), kind, arguments);
        }
        let post = &mut self.posts[slot.index()];
        if matches!(why, Why::Started { .. }) {
            post.starting = Some((from, *why));
        } else {
            let channel = post.latest.as_ref().map_or("", |evidence| &evidence.wait_channel);
            report::transition(&post.who(), from, to, why, channel);
        }
        if self.group.is_ending() {
            self.control.tell(&format!("{}: {to}", post.name));
        }
    }

    pub(super) fn event(&self, slot: Option<SlotId>, kind: u64, arguments: [u64; 3]) {
        let time = self.clock.now();
        let generation =
            slot.map_or_else(Generation::default, |s| self.posts[s.index()].generation);
        let event = events::Event { time, slot, generation, kind, arguments };
        self.segment.events().push(&event);
    }

    fn act(&mut self, slot: SlotId, act: Act) {
        let post = &mut self.posts[slot.index()];
        let process = post.process.as_ref();
        let done = match act {
            Act::Spawn => {
                self.spawn(slot);
                return;
            }
            Act::Baseline => {
                post.baseline = post.pid().and_then(|pid| evidence(pid, self.clock.now()));
                return;
            }
            Act::Ask | Act::Terminate => {
                let word = &self.segment.slots()[slot.index()].record.desired;
                word.store(desired::STOP, Ordering::Relaxed);
                if act == Act::Ask {
                    post.wake(slot);
                    Ok(())
                } else {
                    process.map_or(Ok(()), Process::terminate)
                }
            }
            Act::Kill => process.map_or(Ok(()), Process::kill),
            Act::Alarm => Ok(()),
        };
        if let Err(failed) = done {
            log::error!("{}: {failed}", self.posts[slot.index()].name);
        }
    }

    /// Starts a process: it waits at its gate until it is recorded, so that no unrecorded server
    /// can exist.
    fn spawn(&mut self, slot: SlotId) {
        let generation = self.next_generation();
        let count = self.segment.hearts()[slot.index()].sample().count;
        let post = &mut self.posts[slot.index()];
        post.generation = generation;
        (post.baseline, post.latest) = (None, None);
        let mut args = vec!["__exec".to_owned(), slot.to_string(), generation.to_string()];
        if !post.command.is_empty() {
            args.push("--".to_owned());
            args.extend(post.command.iter().cloned());
        }
        let path = self.claim.run_dir.path().display().to_string();
        let now = self.clock.now();
        let (process, gate) = match process::launch(
            &args,
            &[
                (env::RUN_DIR, path),
                (env::SLOT, slot.to_string()),
                (env::GENERATION, generation.to_string()),
            ],
        ) {
            Ok(launched) => launched,
            Err(failed) => {
                log::error!("{}: {failed}", post.name);
                let death = Death::NotSpawned;
                self.step(now, Event::Died { slot, death });
                return;
            }
        };
        let page = &self.segment.slots()[slot.index()].record;
        page.desired.store(desired::RUN, Ordering::Relaxed);
        page.spawned_ns.store(now.0, Ordering::Relaxed);
        page.baseline.store(count, Ordering::Relaxed);
        page.starts.fetch_add(1, Ordering::Relaxed);
        let (pid, start_time) = (process.pid(), process.start_time());
        page.set_identity(Identity { pid, start_time, generation });
        if let Err(failed) = self.poll.add(&process, PROCESS + u64::from(slot.0), Interest::READ) {
            log::error!("{}: {failed}; deaths are seen within a second only", post.name);
        }
        if let Err(failed) = gate.open(&descriptors(post.listener.as_ref())) {
            // It died already: its pidfd tells.
            log::debug!("{}: {failed}", post.name);
        }
        post.process = Some(process);
        let cause = page.last_cause.load(Ordering::Relaxed);
        if let Some((from, why)) = post.starting.take() {
            report::transition(&post.who(), from, State::Starting, &why, "");
        }
        self.event(Some(slot), kind::STARTED, [u64::from(pid), cause, 0]);
        self.step(now, Event::Spawned { slot, count });
    }

    /// Looks at an overdue server, and at its heart once more after that: the last moment at
    /// which a beat saves it.
    fn examine(&mut self, slot: SlotId) {
        let now = self.clock.now();
        let post = &mut self.posts[slot.index()];
        post.latest = post.pid().and_then(|pid| evidence(pid, now));
        let class = verdict::classify(post.baseline.as_ref(), post.latest.as_ref());
        let (_, seen) = self.observe(slot);
        self.step(now, Event::Examined { slot, seen, class });
    }
}

fn event_of(to: State, why: &Why) -> Option<(u64, [u64; 3])> {
    Some(match why {
        // Told by `spawn`, with the pid.
        Why::Started { .. } => return None,
        Why::FirstBeat { after, down_for } => {
            (kind::UP, [nanos(*after), down_for.map_or(0, nanos), 0])
        }
        Why::Beat { silence } => (kind::UP, [0, 0, nanos(*silence)]),
        Why::Silent { silence, .. } => (kind::LATE, [nanos(*silence), 0, 0]),
        Why::Held { class } => (kind::HELD, [class.code(), 0, 0]),
        Why::Pardoned => (kind::PARDONED, [0; 3]),
        Why::Condemned { cause, silence, .. } => {
            let class = cause.class().map_or(0, Class::code);
            (kind::VERDICT, [cause.code(), class, nanos(*silence)])
        }
        Why::StopOrder => (kind::STOP_ORDER, [0; 3]),
        Why::Pressed => match to {
            State::Stopping(Rung::Unkillable) => (kind::ALARM, [0; 3]),
            State::Stopping(Rung::Terminating { .. }) => (kind::PRESSED, [1, 0, 0]),
            _ => (kind::PRESSED, [2, 0, 0]),
        },
        Why::Died { death, cause, .. } => {
            let (how, value) = match death {
                Death::Exited(status) => (0, *status),
                Death::Killed(signal) => (1, *signal),
                Death::NotSpawned => (2, 0),
                Death::Unknown => (3, 0),
            };
            let value = u64::from(value.unsigned_abs());
            match to {
                State::Backoff { until } => (kind::BACKOFF, [until.0, how, value]),
                State::Failed => (kind::FAILED, [how, value, 0]),
                _ => (kind::DIED, [how, value, cause.map_or(0, Cause::code)]),
            }
        }
    })
}

/// What `/proc` shows becomes evidence in the policy's terms.
fn evidence(pid: u32, at: Monotonic) -> Option<Evidence> {
    let look = procfs::look(pid)?;
    let thread = |stat: &procfs::ThreadStat| Thread {
        tid: stat.tid,
        state: match stat.state {
            'R' => RunState::Running,
            'D' => RunState::Uninterruptible,
            'T' => RunState::Stopped,
            't' => RunState::Traced,
            'Z' | 'X' => RunState::Gone,
            // S, I, P and whatever a later kernel adds: not running.
            _ => RunState::Sleeping,
        },
        cpu: stat.cpu,
        run_delay: stat.run_delay,
    };
    Some(Evidence {
        at,
        traced: look.traced,
        cgroup_frozen: look.cgroup_frozen,
        threads: look.threads.iter().map(thread).collect(),
        wait_channel: look.wait_channel,
    })
}
