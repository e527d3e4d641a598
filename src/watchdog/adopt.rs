//! Taking over what a killed watchdog left: its servers live, and none of them is restarted.
//!
//! What was started stands in the run directory (`started-SLOT`), where each server stands in its
//! slot page. Who lives is proved by pid, start time and boot id, and held by pidfd from then on;
//! the listening sockets are taken from whoever holds them. Then everything goes on by the same
//! rules as ever (`policy::adopt`), and the services of today take the place of those that were
//! started, as in a reload. Tested in tests/adopt.rs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::is_limit;
use osps_heart::segment::layout::SlotCells;
use osps_heart::segment::{Access, Death, Geometry, Segment};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, Short, nanos};
use osps_heart::words::{Cause, Desired, Goal, HeartSource, State, Watched};
use serde::{Deserialize, Serialize};

use super::claimant::Claimant;
use super::start::furnish_listen;
use super::upgrade::Upgrade;
use super::{CHILD, Child, Watchdog};
use crate::instance::claim::Claim;
use crate::instance::place::started_name;
use crate::instance::survivors::Survivor;
use crate::policy::group::{Input, Past, Recorded};
use crate::service::diff::{Fate, diff};
use crate::service::{Address, Held, Inheritance, Kept, Listener, Service};
use crate::sys::poll::{Interest, pause};
use crate::sys::process::Process;
use crate::sys::procfs::OomCounts;
use crate::sys::{process, procfs};

/// A trampoline whose watchdog was killed before its gate was open leaves within this time.
const LEAVING: Duration = Duration::from_millis(100);

/// A service as its process was started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    service: Service,
    /// Where it listens, in the order of its sockets: as it was asked for, and as it became.
    bound: Vec<(Address, Address)>,
}

/// What a killed watchdog left.
#[derive(Debug)]
pub(super) struct Left {
    started: BTreeMap<SlotId, Started>,
    pub(super) survivors: Vec<Survivor>,
    pasts: Vec<(SlotId, Past)>,
    /// Limits that programs chose for themselves.
    limits: Vec<(SlotId, Duration)>,
    /// Those that had said that they are ready, and whether they beat over their socket.
    heard: Vec<(SlotId, bool, bool)>,
    geometry: Geometry,
    /// The last generation that was given out.
    generation: Generation,
    /// The pid of the watchdog that left it.
    watchdog: u64,
    /// Sockets that another image handed over.
    sockets: Vec<(Held, Arc<Listener>)>,
    /// That image was this process.
    upgraded: bool,
}

impl Started {
    /// Takes those of its sockets from a process that are not there yet.
    fn take_from(&self, process: &Process, inherited: &mut Inheritance) {
        let held = |asked: &Address| {
            let (family, address) = (self.service.family.clone(), asked.clone());
            Held { family, address }
        };
        let mut wanted = self.bound.clone();
        wanted.retain(|(asked, _)| inherited.find(&held(asked)).is_none());
        let found = sockets_of(process, &wanted).into_iter();
        inherited.sockets.extend(found.map(|listener| (held(&listener.asked), listener)));
    }
}

impl Left {
    /// Looks at what is there; `None` = there is nothing to go on with.
    pub(super) fn look(claim: &mut Claim, upgrade: Option<&Upgrade>) -> Option<Left> {
        let segment = Segment::attach(claim.kept.as_ref()?, Access::ReadOnly).ok()?;
        let pages = segment.slots();
        // What goes on, whoever lives.
        let goes_on =
            upgrade.is_some() || pages.iter().any(|page| state_of(page) == State::Backoff);
        // What the dead had started is ended with them, by the same rules as ever.
        let goes_on = goes_on || claim.survivors.is_empty() && claim.has_kin();
        if claim.survivors.is_empty() && !goes_on {
            return None;
        }
        let slots = (0u8..).map(SlotId).zip(pages);
        let read = |slot| Some((slot, claim.run_dir.read(&started_name(slot))?));
        let started: BTreeMap<SlotId, Started> = slots.filter_map(|(slot, _)| read(slot)).collect();
        let survivors = std::mem::take(&mut claim.survivors);
        let (known, unknown): (Vec<_>, _) =
            survivors.into_iter().partition(|one| started.contains_key(&one.slot));
        // Of no service that we know of: ended as ever.
        claim.survivors = unknown;
        for one in &claim.survivors {
            log::warn!(
                "{}: what was started here cannot be read: it cannot be taken over",
                one.name
            );
        }
        let mut left = Left {
            started,
            survivors: known,
            pasts: Vec::new(),
            limits: Vec::new(),
            heard: Vec::new(),
            geometry: *segment.geometry(),
            generation: Generation::default(),
            watchdog: segment.header().watchdog_pid.load(Ordering::Relaxed),
            sockets: upgrade.map_or_else(Vec::new, |upgrade| upgrade.inherited.sockets.clone()),
            upgraded: upgrade.is_some(),
        };
        left.read(&segment);
        // Who was only about to start has left meanwhile: then there is nobody, as above.
        (goes_on || !left.survivors.is_empty()).then_some(left)
    }

    fn read(&mut self, segment: &Segment) {
        let clock = SystemClock;
        let header = segment.header().generation.load(Ordering::Relaxed);
        self.generation = Generation(u32::try_from(header).unwrap_or(0));
        for slot in self.started.keys().copied().collect::<Vec<_>>() {
            let page = &segment.slots()[slot.index()];
            let server = &page.server;
            let baseline = server.baseline.load(Ordering::Relaxed);
            let beats = segment.hearts()[slot.index()].sample().count;
            let state = state_of(page);
            let generation = server.current_generation();
            self.generation = self.generation.max(generation);
            if state == State::Starting && beats == baseline {
                self.wait_for_trampoline(slot, clock);
            }
            let lives = self.survivors.iter().any(|one| one.slot == slot);
            let moment = |word: u64| Some(Monotonic(word)).filter(|_| word != 0);
            let source = server.heart_source.load(Ordering::Relaxed);
            let watched = server.watched.load(Ordering::Relaxed) == Watched::Yes.code();
            let by_notify = watched && source == HeartSource::Notify.code();
            let death = match server.identity() {
                Some(identity) => process::fate_of(identity.pid, identity.start_time),
                None => Death::Unknown,
            };
            let page = Recorded {
                state,
                goal: Goal::from_code(server.goal.load(Ordering::Relaxed)).unwrap_or(Goal::Run),
                told: server.desired.load(Ordering::Relaxed) == Desired::Stop.code(),
                pid: u32::try_from(server.pid.load(Ordering::Relaxed)).unwrap_or(0),
                baseline,
                opened: server.opened.load(Ordering::Relaxed) == u64::from(generation.0),
                up_since: moment(server.up_since_ns.load(Ordering::Relaxed)),
                spawned_at: Monotonic(server.spawned_ns.load(Ordering::Relaxed)),
                since: Monotonic(server.since_ns.load(Ordering::Relaxed)),
                paused_until: moment(server.paused_until_ns.load(Ordering::Relaxed)),
                excused_until: Monotonic(server.excused_until_ns.load(Ordering::Relaxed)),
                due: moment(server.due_ns.load(Ordering::Relaxed)),
                cause: Cause::from_code(server.last_cause.load(Ordering::Relaxed)),
                tally: std::array::from_fn(|i| server.tally[i].load(Ordering::Relaxed)),
            };
            let past = Past::of(page, lives, beats, death);
            self.heard.push((slot, past.is_up(), by_notify));
            self.pasts.push((slot, past));
            let limit = segment.hearts()[slot.index()].limit_ns.load(Ordering::Relaxed);
            let limit = Duration::from_nanos(limit);
            let Service { limits, manner, .. } = &self.started[&slot].service;
            let (set, own) = (limits.hang, manner.heart.source);
            // What it chose, perhaps before its first beat.
            let may_choose = matches!(own, HeartSource::Notify | HeartSource::Auto);
            if may_choose && limit != set && is_limit(limit) {
                self.limits.push((slot, limit));
            }
        }
    }

    /// A process that waits at its gate is on its way out: nobody will open it.
    fn wait_for_trampoline(&mut self, slot: SlotId, clock: SystemClock) {
        let until = clock.now() + LEAVING;
        let Some(place) = self.survivors.iter().position(|one| one.slot == slot) else { return };
        while !self.survivors[place].process.is_dead() && clock.now() < until {
            pause();
        }
        if self.survivors[place].process.is_dead() {
            self.survivors.remove(place);
        }
    }

    /// The sockets of those that were started: taken from who lives, or bound again. What is in use
    /// then is held by one of them who does not let us take it.
    pub(super) fn inheritance(&self, kept: Vec<Kept>) -> Inheritance {
        let sockets = self.sockets.clone();
        let mut inherited = Inheritance { sockets, kept, ..Inheritance::default() };
        for survivor in &self.survivors {
            let Some(its) = self.started.get(&survivor.slot) else { continue };
            its.take_from(&survivor.process, &mut inherited);
            // Servers of osps's own keep those of the dead for each other.
            if !its.service.launch.is_program() {
                for any in self.started.values() {
                    any.take_from(&survivor.process, &mut inherited);
                }
            }
        }
        for Started { service, bound } in self.started.values() {
            let is_its = |one: &Survivor| self.started[&one.slot].service.family == service.family;
            let lives = self.survivors.iter().any(is_its);
            for (asked, was) in bound {
                if !inherited.bind_again(&service.family, asked, was) && lives {
                    let (family, address) = (service.family.clone(), asked.clone());
                    inherited.beyond.push(Held { family, address });
                }
            }
        }
        inherited
    }

    /// The sizes with which this can be gone on: the old ones, if the services of today have room
    /// in them. Servers of osps's own share more than that, and fit only if nothing changed.
    pub(super) fn geometry(&self, wanted: &Geometry, services: &[Service]) -> Option<Geometry> {
        let old = self.started.values().map(|one| &one.service);
        let programs = old.clone().chain(services).all(|service| service.launch.is_program());
        let same = old.map(|service| &service.name).eq(services.iter().map(|one| &one.name));
        let sizes = |geometry: &Geometry| (geometry.data_size, geometry.cell_size);
        let fits = if programs {
            sizes(wanted) == sizes(&self.geometry) && services.len() <= self.geometry.slots
        } else {
            same && *wanted == self.geometry
        };
        fits.then_some(self.geometry)
    }

    /// The slots as they were, with the sockets that could be had. Who has not changed since then
    /// is what it is today: servers of osps's own need what stands in no list.
    pub(super) fn services(
        &self,
        inherited: &Inheritance,
        today: &[Service],
    ) -> Vec<Option<Service>> {
        let last = self.started.keys().next_back().map_or(0, |slot| slot.index() + 1);
        let mut services: Vec<Option<Service>> = (0..last).map(|_| None).collect();
        let old: Vec<_> = self.started.iter().map(|(slot, one)| (*slot, &one.service)).collect();
        for fate in diff(&old, today) {
            if let Fate::Keep(slot, place) = fate {
                services[slot.index()] = Some(today[place].clone());
            }
        }
        for (slot, started) in &self.started {
            if services[slot.index()].is_some() {
                continue;
            }
            let mut service = started.service.clone();
            let find = |(address, _): &(Address, Address)| {
                let (family, address) = (service.family.clone(), address.clone());
                inherited.find(&Held { family, address })
            };
            let sockets: Option<Vec<_>> = started.bound.iter().map(find).collect();
            service.sockets = sockets.unwrap_or_default();
            services[slot.index()] = Some(service);
        }
        services
    }

    /// The last generation that was given out.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }
}

/// Those of these addresses, as they were asked for and became, on which a process listens.
fn sockets_of(process: &Process, wanted: &[(Address, Address)]) -> Vec<Arc<Listener>> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let there = process.listening().into_iter();
    let mut there: Vec<_> =
        there.filter_map(|socket| Some((Listener::place_of(&socket)?, socket))).collect();
    let take = |(asked, was): &(Address, Address)| {
        let place = there.iter().position(|(address, _)| address == was)?;
        let (_, socket) = there.swap_remove(place);
        Some(Arc::new(Listener::of(asked.clone(), socket)))
    };
    wanted.iter().filter_map(take).collect()
}

fn state_of(page: &SlotCells) -> State {
    State::from_code(page.server.state.load(Ordering::Relaxed)).unwrap_or(State::Down)
}

impl Watchdog {
    /// Takes over who lives, and goes on with what was under way; then the services of today take
    /// the place of those that were started.
    pub(super) fn take_over(&mut self, now: Monotonic, left: Left, services: Vec<Service>) {
        let Left { started, survivors, pasts, limits, heard, upgraded, watchdog, .. } = left;
        let own = std::process::id();
        for survivor in survivors {
            let Survivor { slot, identity, process, .. } = survivor;
            let child = &mut self.children[slot.index()];
            if let Err(failed) = self.poll.add(&process, CHILD + u64::from(slot.0), Interest::READ)
            {
                self.unpolled = true;
                log::error!("{}: {failed}; deaths are seen within a second only", child.name());
            }
            child.generation = identity.generation;
            // After an upgrade in place its servers are still our children.
            let ours = procfs::stat(process.pid()).is_some_and(|stat| stat.parent == own);
            child.adopted = Some(process.pid()).filter(|_| !ours);
            child.process = Some(process);
            child.count_oom_kills(&mut OomCounts::default());
        }
        for (slot, started) in started {
            let child = &mut self.children[slot.index()];
            if !child.service.sockets.is_empty() || started.bound.is_empty() {
                continue;
            }
            child.elsewhere = started.bound;
            if child.process.is_some() {
                log::warn!(
                    "{}: its sockets cannot be had from it (ptrace(2)): they are its own until its \
                     next start, and refuse clients for a moment then",
                    child.name()
                );
            }
        }
        for slot in self.group.slots() {
            furnish_listen(&self.segment, slot, &self.children[slot.index()].service);
        }
        for (slot, past) in &pasts {
            let server = &self.segment.slots()[slot.index()].server;
            let child = &mut self.children[slot.index()];
            child.claimant = Claimant::unclaimed(past.count);
            if past.is_up() {
                child.unheard = None;
            }
            if child.process.is_none() {
                child.generation = server.current_generation();
                // What a dead one left behind is looked for by its marks.
                child.adopted = Some(past.page.pid).filter(|pid| *pid != 0);
                server.clear_identity();
            }
        }
        for slot in self.group.slots() {
            let child = &self.children[slot.index()];
            if child.process.is_none() && child.adopted.is_some() {
                // Before anybody starts in its slot.
                self.end_kin_of_dead(slot, now);
            }
        }
        for (slot, ready, beats) in heard {
            let main = self.main_as_recorded(slot);
            if let Some(hearing) = &mut self.children[slot.index()].hearing {
                hearing.go_on(ready, beats, main);
            }
        }
        let count = self.children.iter().filter(|child| child.process.is_some()).count();
        let all = pasts.len();
        if upgraded {
            let since = self.unwatched_since.map_or(Duration::ZERO, |since| now.since(since));
            log::info!(
                "upgraded: goes on with {count} of {all} servers, unwatched for {}",
                Short(since)
            );
        } else {
            log::info!(
                "took over {count} of {all} servers of a watchdog that was killed (pid {watchdog})"
            );
        }
        let actions = self.group.take_over(now, &pasts);
        self.actions.extend(actions);
        for (slot, hang) in limits {
            self.step(now, Input::Limited { slot, hang });
        }
        self.take_over_further(now);
        self.perform_all();
        self.retire();
        // Before services go: what it keeps for them would stay for ever.
        self.store_above();
        match self.exchange_services(now, services) {
            Ok((summary, concerned)) => {
                if !concerned.is_empty() {
                    log::info!("meanwhile: {summary}");
                }
                self.perform_all();
            }
            Err(why) => log::error!("{why}: going on with what was started"),
        }
    }

    /// The sockets of all services.
    pub(super) fn held(&self) -> Inheritance {
        let sockets = self.children.iter().flat_map(|child| child.service.held()).collect();
        Inheritance { sockets, ..Inheritance::default() }
    }

    /// Takes the sockets that whoever was taken over did not have yet: one that was stopped before
    /// it had looked into its gate, say. Without, nobody holds them when it dies.
    pub(super) fn take_sockets(&mut self, slot: SlotId) {
        let child = &mut self.children[slot.index()];
        let Some(process) = &child.process else { return };
        let mut sockets = sockets_of(process, &child.elsewhere);
        if sockets.is_empty() || sockets.len() < child.elsewhere.len() {
            return;
        }
        log::debug!("{}: its sockets are held here, too", child.name());
        // Instances share theirs.
        let there = self.held();
        let child = &mut self.children[slot.index()];
        for socket in &mut sockets {
            let (family, address) = (child.service.family.clone(), socket.asked.clone());
            if let Some(known) = there.find(&Held { family, address }) {
                *socket = known;
            }
        }
        child.service.sockets = sockets;
        child.elsewhere.clear();
        furnish_listen(&self.segment, slot, &child.service);
        self.write_started(slot);
    }

    /// Writes down what was started in a slot, for the next watchdog.
    pub(super) fn write_started(&self, slot: SlotId) {
        let child = &self.children[slot.index()];
        let service = child.service.clone();
        let there = service.sockets.iter();
        let mut bound: Vec<_> =
            there.map(|socket| (socket.asked.clone(), socket.address())).collect();
        if bound.is_empty() {
            bound.clone_from(&child.elsewhere);
        }
        let started = Started { service, bound };
        if let Err(failed) = self.claim.run_dir.write(&started_name(slot), &started) {
            log::warn!("{failed}: the next watchdog cannot take {} over", child.name());
        }
    }

    /// Writes down what the next watchdog has to go on with, if this one is killed.
    pub(super) fn write_past(&self, slot: SlotId) {
        let page = &self.segment.slots()[slot.index()].server;
        let put = |word: &osps_heart::sync::Word, value| word.store(value, Ordering::Relaxed);
        let moment = |at: Option<Monotonic>| at.map_or(0, |at| at.0);
        put(&page.up_since_ns, moment(self.group.up_since(slot)));
        if let Some(limit) = self.group.limit(slot) {
            put(&self.segment.hearts()[slot.index()].limit_ns, nanos(limit));
        }
        put(&page.goal, self.group.goal(slot).code());
        put(&page.due_ns, moment(self.group.due(slot)));
        put(&page.excused_until_ns, moment(self.group.excused_until(slot)));
        put(&page.paused_until_ns, moment(self.group.paused_until(slot)));
    }

    /// The same of its recent deaths, which change only with its state or its service.
    pub(super) fn write_tally(&self, slot: SlotId) {
        let page = &self.segment.slots()[slot.index()].server;
        for (word, value) in page.tally.iter().zip(self.group.tally(slot).into_iter().flatten()) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl Child {
    /// A slot that nobody has.
    pub(super) fn vacant() -> Child {
        let zero = Duration::ZERO;
        let limits = osps_heart::pulse::Limits { hang: zero, start: zero };
        let patience = crate::policy::lifecycle::Patience { ask: zero, term: zero, kill: zero };
        let launch = crate::service::Launch::default();
        Child::new(Service::program(String::new(), launch, limits, patience), 0)
    }
}
