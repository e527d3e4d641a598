//! Before the first turn: the run directory is claimed, survivors of a killed watchdog are ended,
//! services are planned, the segment is made or taken over. Nobody is started yet.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;

use osps_heart::clock::{SystemClock, unix_ns};
use osps_heart::ids::{Generation, SlotId};
use osps_heart::orphan::watchdog_beat;
use osps_heart::segment::layout::HEARTS_DEFAULT;
use osps_heart::segment::{AttachError, CreateOptions, Geometry, Segment, text};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};

use super::above::Above;
use super::adopt::Left;
use super::hooks::Hooks;
use super::kin::DYING;
use super::reports::Reports;
use super::spares::Spares;
use super::upgrade::Upgrade;
use super::{Allow, CONTROL, Child, Plan, SIGNALS, Settings, Watchdog};
use crate::error::{Error, Refusal};
use crate::instance::claim::Claim;
use crate::instance::control::Control;
use crate::instance::place;
use crate::instance::shim::Shim;
use crate::instance::survivors::Survivor;
use crate::policy::graph::Cycle;
use crate::policy::group::{Group, Spec};
use crate::service::{Inheritance, Kept, Service};
use crate::sys::poll::{Interest, Poll, pause};
use crate::sys::process::Process;
use crate::sys::signals::Signals;
use crate::sys::{Failed, process, procfs, raw};

/// What a watchdog is made of before it runs.
struct Parts {
    /// By slot; `None` = nobody has it.
    services: Vec<Option<Service>>,
    /// What a killed watchdog left, and the services of today.
    left: Option<(Left, Vec<Service>)>,
    group: Group,
    segment: Segment,
    file: File,
    poll: Poll,
    control: Control,
    options: CreateOptions,
    shim: Option<Shim>,
    /// What the service manager keeps for nobody.
    unwanted: Vec<Kept>,
}

impl Watchdog {
    /// Claims the run directory, binds the sockets, makes the segment; starts nobody yet.
    pub(super) fn start(
        settings: &Settings,
        signals: Signals,
        fifos: Vec<String>,
        plan: Plan<'_>,
        upgrade: Option<&Upgrade>,
        kept: Vec<Kept>,
    ) -> Result<Watchdog, Error> {
        let clock = SystemClock;
        let locks = upgrade.map(Upgrade::locks).unwrap_or_default();
        let mut claim = Claim::take(&settings.place, fifos, locks)?;
        let left = Left::look(&mut claim, upgrade);
        end(std::mem::take(&mut claim.survivors), clock)?;
        match &left {
            Some(_) => claim.join_in()?,
            None => claim.move_in()?,
        }
        let lived_in = left.as_ref().is_some_and(|left| !left.survivors.is_empty());
        let parts = match set_up(settings, &claim, &signals, clock, plan, left, kept) {
            Ok(parts) => parts,
            // Who lives there goes on, and the next one takes over.
            Err(error) if lived_in => return Err(error),
            Err(error) => {
                claim.abandon();
                return Err(error);
            }
        };
        let now = clock.now();
        let last = parts.segment.header().generation.load(Ordering::Relaxed);
        let last = Generation(u32::try_from(last).unwrap_or(0));
        let known = parts.left.as_ref().map(|(left, _)| left.generation());
        let hearts = parts.segment.hearts().iter().map(|heart| heart.sample().count);
        let child = |(service, count): (Option<Service>, u64)| {
            service.map_or_else(Child::vacant, |service| Child::new(service, count))
        };
        let children = parts.services.into_iter().zip(hearts).map(child).collect();
        Ok(Watchdog {
            clock,
            poll: parts.poll,
            unpolled: false,
            signals,
            control: parts.control,
            claim,
            segment: parts.segment,
            segment_file: parts.file,
            options: parts.options,
            shim: parts.shim,
            spares: Spares::new(now),
            damaged: false,
            names_told: String::new(),
            outside_seen: None,
            rebuild: false,
            group: parts.group,
            children,
            generation: known.map_or(last, |known| known.max(last)),
            recall: None,
            actions: VecDeque::new(),
            strangers: Watchdog::children_before(),
            unreaped: Vec::new(),
            check_interval: settings.times.check_interval,
            check_at: now,
            checks: 0,
            beat_at: now,
            beat_interval: watchdog_beat(settings.times.orphan_timeout),
            allow: Allow::Running,
            descriptors: None,
            quiet: settings.quiet,
            file: settings.file.clone(),
            unwatched_since: None,
            left: parts.left,
            top: settings.top.clone(),
            loading: None,
            stay: HashSet::new(),
            above: Above::find(&parts.unwanted),
            waiting: Vec::new(),
            stoppers: Vec::new(),
            hooks: Hooks::default(),
            reports: Reports::new(settings.reports.clone(), upgrade.is_some() || lived_in),
        })
    }
}

/// Kills the servers that a dead watchdog left running, and waits until the kernel confirms.
fn end(survivors: Vec<Survivor>, clock: SystemClock) -> Result<(), Error> {
    for Survivor { name, identity, process, watchdog, .. } in survivors {
        process.kill()?;
        wait_for_death(&process, &name, clock)?;
        log::warn!(
            "{name} gen={} pid={}: ended; the watchdog that started it (pid {watchdog}) was killed",
            identity.generation,
            identity.pid
        );
    }
    Ok(())
}

/// Waits until the kernel confirms that somebody whom we killed is dead.
pub(super) fn wait_for_death(
    process: &Process,
    name: &str,
    clock: SystemClock,
) -> Result<(), Refusal> {
    let until = clock.now() + DYING;
    while !process.is_dead() {
        if clock.now() >= until {
            let (pid, state) = (process.pid(), procfs::state(process.pid()).unwrap_or('?'));
            return Err(Refusal::Undying { name: name.to_owned(), pid, state });
        }
        pause();
    }
    Ok(())
}

/// Plans the services, makes the segment and the control socket.
fn set_up(
    settings: &Settings,
    claim: &Claim,
    signals: &Signals,
    clock: SystemClock,
    plan: Plan<'_>,
    mut left: Option<Left>,
    kept: Vec<Kept>,
) -> Result<Parts, Error> {
    let dir = claim.run_dir.as_fd();
    let mut inherited = match &left {
        Some(left) => left.inheritance(kept),
        None => Inheritance { kept, ..Inheritance::default() },
    };
    let mut services = plan(dir, &mut inherited)?;
    // Its own, and for each server a pidfd, a socket, a report, a claimant, FIFOs, and some for
    // what it leaves behind. A server needs less.
    let fifos: usize = services.iter().map(|service| service.fifos.len()).sum();
    let slots = settings.slots.max(services.len());
    let (have, need) = (process::descriptor_limit(), 32 + slots * 8 + fifos);
    if have.is_some_and(|have| have < need as u64) {
        return Err(Refusal::Descriptors { have: have.unwrap_or(0), need }.into());
    }
    // Each server's own, each prober's, and room for further ones.
    let hearts = HEARTS_DEFAULT.max(slots * 2 + HEARTS_DEFAULT / 4);
    let mut geometry = Geometry::new(slots, hearts, settings.data_size, settings.cell_size)
        .ok_or(Refusal::Sizes)?;
    match left.as_ref().map(|left| left.geometry(&geometry, &services)) {
        None => {}
        Some(Some(old)) => {
            if old.slots != geometry.slots {
                log::warn!("there is room for {} services until all were stopped", old.slots);
            }
            geometry = old;
        }
        Some(None) => {
            log::warn!(
                "what a killed watchdog left cannot be taken over: other sizes, or other servers"
            );
            end(left.take().map(|left| left.survivors).unwrap_or_default(), clock)?;
            claim.move_in()?;
            // What was swept is made again.
            services = plan(dir, &mut inherited)?;
        }
    }
    let slots = match &left {
        Some(left) => left.services(&inherited, &services),
        None => services.drain(..).map(Some).collect(),
    };
    let group = group_of(clock.now(), &slots).map_err(|cycle| named(&cycle, &slots))?;
    let pid = std::process::id();
    let options = CreateOptions {
        geometry,
        flags: claim.made | settings.flags,
        boot_id: procfs::boot_id(),
        name: settings.name.clone(),
        watchdog: (pid, procfs::start_time(pid).unwrap_or(0)),
        now: clock.now(),
        unix_ns: unix_ns(),
        times: settings.times,
    };
    let (segment, file, new) = create(claim, &options, &slots, left.is_some())?;
    if !claim.has(place::MEMBERS) {
        drop(claim.run_dir.create_file(place::MEMBERS)?);
    }
    let is_looped = |service: &Service| service.manner.heart.is_looped();
    let mut all = slots.iter().flatten().chain(&services);
    let shim = all.any(is_looped).then(|| Shim::place(&claim.run_dir)).transpose()?;
    let poll = Poll::new()?;
    let control = Control::open(dir, place::CONTROL, &poll, CONTROL)?;
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
    let left = left.map(|left| (left, services));
    let unwanted = inherited.unwanted();
    Ok(Parts {
        services: slots,
        left,
        group,
        segment,
        file,
        poll,
        control,
        options,
        shim,
        unwanted,
    })
}

/// The policy's view of these slots.
fn group_of(now: Monotonic, services: &[Option<Service>]) -> Result<Group, Cycle> {
    let slot_of = |name: &str| {
        let mut slots = (0u8..).map(SlotId).zip(services);
        let is_it = |service: &Option<Service>| service.as_ref().is_some_and(|s| s.name == name);
        slots.find(|(_, service)| is_it(service)).map(|(slot, _)| slot)
    };
    let spec = |service: &Option<Service>| {
        service.as_ref().map_or_else(Spec::default, |service| service.spec(slot_of))
    };
    let specs: Vec<_> = services.iter().map(spec).collect();
    let mut group = Group::new(now, &specs)?;
    for (slot, service) in (0u8..).map(SlotId).zip(services) {
        if service.is_none() {
            group.empty(slot);
        }
    }
    Ok(group)
}

/// A circle, by the names of its servers.
fn named(cycle: &Cycle, services: &[Option<Service>]) -> Refusal {
    let name =
        |slot: &SlotId| services.get(slot.index())?.as_ref().map(|service| service.name.clone());
    Refusal::Cycle(cycle.0.iter().filter_map(name).collect())
}

/// The segment of this instance: the one that a killed instance left, with its data, if it fits;
/// else a new one (`true`), which has to be settled yet.
fn create(
    claim: &Claim,
    options: &CreateOptions,
    services: &[Option<Service>],
    adopt: bool,
) -> Result<(Segment, File, bool), Error> {
    let path = claim.run_dir.path();
    let failed = |why| Error::Segment { path: path.to_owned(), why };
    let furnish = |segment: &Segment| furnish(segment, services);
    if let Some(kept) = &claim.kept {
        let kept = kept.try_clone().map_err(Failed::to("keep", "segment"))?;
        if adopt && let Some(segment) = Segment::adopt(&kept, options).map_err(failed)? {
            return Ok((segment, kept, false));
        }
        if let Some(segment) = Segment::refound(&kept, options, furnish).map_err(failed)? {
            log::info!(
                "kept the data that a killed instance left (commit {}, {} keys)",
                segment.area().sequence(),
                segment.area_cells().keys.load(Ordering::Relaxed)
            );
            return Ok((segment, kept, false));
        }
    }
    let file = File::from(claim.run_dir.create_file(place::NEW_SEGMENT)?);
    match Segment::create(&file, options, furnish) {
        Ok(segment) => Ok((segment, file, true)),
        Err(AttachError::Io { answer, .. }) if answer.raw_os_error() == Some(libc::ENOSPC) => {
            let (path, bytes) = (path.to_owned(), options.geometry.total_size);
            Err(Refusal::Full { path, bytes }.into())
        }
        Err(AttachError::Io { answer, .. }) if answer.raw_os_error() == Some(libc::EFBIG) => {
            let (path, bytes) = (path.to_owned(), options.geometry.total_size);
            Err(Refusal::FileLimit { path, bytes }.into())
        }
        Err(why) => Err(failed(why)),
    }
}

/// What does not change in slots and hearts as long as the segment lives.
fn furnish(segment: &Segment, services: &[Option<Service>]) {
    let services = (0u8..).map(SlotId).zip(services);
    for (slot, service) in services.filter_map(|(slot, service)| Some((slot, service.as_ref()?))) {
        furnish_slot(segment, slot, service);
        segment.hearts()[slot.index()].unclaim(slot);
    }
}

/// The same for one slot, but for the claim of its heart.
pub(super) fn furnish_slot(segment: &Segment, slot: SlotId, service: &Service) {
    let server = &segment.slots()[slot.index()].server;
    let heart = &segment.hearts()[slot.index()];
    text::store(&server.name, &service.name);
    text::store(&server.family, &service.family);
    text::store(&heart.name, &service.name);
    server.role.store(service.role.code(), Ordering::Relaxed);
    server.heart_source.store(service.manner.heart.source.code(), Ordering::Relaxed);
    furnish_listen(segment, slot, service);
    heart.limit_ns.store(nanos(service.limits.hang), Ordering::Relaxed);
}

/// Where it listens.
pub(super) fn furnish_listen(segment: &Segment, slot: SlotId, service: &Service) {
    let built_in = !service.launch.is_program();
    if service.sockets.is_empty() && (built_in || !service.launch.listen.is_empty()) {
        // Where whoever has them listens.
        return;
    }
    let mut addresses = service.sockets.iter().map(|socket| socket.address().to_string());
    let listen = match (addresses.next(), addresses.count()) {
        (Some(first), 0) => first,
        (Some(first), more) => format!("{first} (+{more})"),
        (None, _) => String::new(),
    };
    text::store(&segment.slots()[slot.index()].server.listen, &listen);
}
