//! Another list of services, while those of the old one run.
//!
//! The file is read by a process of its own (`osps __load FILE`): a path that hangs, or a name
//! service that does, holds up nobody but that. It answers through its gate with the new list and
//! the sockets that it bound, or with what is wrong; then nothing is changed. What is changed is
//! decided by `service::diff`, carried out by the policy, in order. Tested in tests/reload.rs.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::text;
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::{Request, State};

use super::asked::Waiting;
use super::kin::DYING;
use super::probing::end_session;
use super::start::furnish_slot;
use super::{Child, LOAD, Watchdog};
use crate::instance::place::{Listed, SERVICES, started_name};
use crate::instance::shim::Shim;
use crate::policy::group::{Edit, Input};
use crate::service::diff::{Fate, diff};
use crate::service::{Address, Held, Listener, Loaded, Service};
use crate::sys::poll::{Interest, pause};
use crate::sys::process::{self, Process, Report};
use crate::sys::{Failed, memory_file};

/// How long reading a file may take: longer, and something hangs.
const TIME: Duration = Duration::from_secs(10);

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Loading {
    process: Process,
    report: Report,
    until: Monotonic,
    /// Whom to answer; `None` = a signal asked.
    token: Option<u64>,
    /// The binary that reads it, if that is to take our place.
    image: Option<PathBuf>,
}

impl Loading {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn until(&self) -> Monotonic {
        self.until
    }
}

impl Watchdog {
    /// Begins to read the file again.
    pub(super) fn reload_file(&mut self, now: Monotonic, token: Option<u64>, uid: u32) {
        match (token, uid) {
            (None, _) => log::info!("SIGHUP: reading the file again"),
            (Some(_), 0) => log::info!("reload asked for by root"),
            (Some(_), uid) => log::info!("reload asked for by user {uid}"),
        }
        if let Err(why) = self.begin_to_load(now, token, None) {
            self.refuse("reload", token, &why);
        }
    }

    /// Begins to become another binary. Where there is a file, that has to read it first: what
    /// cannot do that could not go on.
    pub(super) fn upgrade(&mut self, now: Monotonic, token: u64, uid: u32, image: PathBuf) {
        log::info!("upgrade to {} asked for by user {uid}", Shown(&image));
        let result = if self.file.is_some() {
            self.begin_to_load(now, Some(token), Some(image))
        } else {
            Err(self.become_another(&image).to_string())
        };
        if let Err(why) = result {
            self.refuse("upgrade", Some(token), &why);
        }
    }

    fn begin_to_load(
        &mut self,
        now: Monotonic,
        token: Option<u64>,
        image: Option<PathBuf>,
    ) -> Result<(), String> {
        let Some(file) = self.file.clone() else {
            return Err("this osps was not started from a file (`osps up FILE`)".to_owned());
        };
        if self.loading.is_some() {
            return Err("another reload is under way: try again".to_owned());
        }
        if self.group.is_editing() {
            let slots = self.group.slots();
            let goes = slots.filter(|slot| self.group.stage(*slot).state() == State::Stopping);
            let names: Vec<_> = goes.map(|slot| self.children[slot.index()].name()).collect();
            let names = names.join(", ");
            return Err(format!("the last reload still waits for {names} to stop: try again"));
        }
        let held = self.group.slots().flat_map(|slot| {
            let service = &self.children[slot.index()].service;
            let family = &service.family;
            service
                .launch
                .listen
                .iter()
                .map(move |address| Held { family: family.clone(), address: address.clone() })
        });
        let held: Vec<_> = held.collect();
        let start = || -> Result<(Process, Report), Failed> {
            let failed = |error: std::io::Error| Failed::to("write down", "the sockets")(error);
            let bytes = serde_json::to_vec(&held).map_err(|error| failed(error.into()))?;
            let memory = memory_file("osps held", &bytes).map_err(failed)?;
            let args = ["__load".into(), file.into_os_string()];
            let own = Path::new("/proc/self/exe");
            let image = image.as_deref().unwrap_or(own);
            let (process, gate) = process::launch_image(image, &args, &[])?;
            let (report, sent) = gate.open(&[memory.as_fd()]);
            sent?;
            Ok((process, report))
        };
        let (process, report) = start().map_err(|failed| failed.to_string())?;
        if let Err(failed) = self.poll.add(&report, LOAD, Interest::READ) {
            log::debug!("{failed}; its answer is seen within a second only");
        }
        self.loading = Some(Loading { process, report, until: now + TIME, token, image });
        Ok(())
    }

    /// Nobody waits any more for the file that is being read.
    pub(super) fn end_loading(&mut self) {
        if let Some(loading) = self.loading.take() {
            if let Some(token) = loading.token {
                self.control.close(&self.poll, token, "error osps is stopping");
            }
            end_session(&loading.process);
            let until = self.clock.now() + DYING;
            while !loading.process.is_dead() && self.clock.now() < until {
                pause();
            }
            let _ = loading.process.reap();
        }
    }

    /// Nothing was changed: whoever asked is told why.
    fn refuse(&mut self, what: &str, token: Option<u64>, why: &str) {
        for line in why.lines() {
            log::error!("{what}: {line}");
            if let Some(token) = token {
                self.control.tell(token, &format!("problem {line}"));
            }
        }
        log::error!("{what}: nothing was changed");
        if let Some(token) = token {
            self.control.close(&self.poll, token, "error nothing was changed");
        }
    }

    /// Once a turn: whether the file is read.
    pub(super) fn gather_loading(&mut self, now: Monotonic) {
        let Some(loading) = &self.loading else { return };
        let answer = loading.report.answer();
        let dead = loading.process.is_dead();
        if answer.is_none() && !dead && now < loading.until {
            return;
        }
        let Some(loading) = self.loading.take() else { return };
        self.poll.remove(&loading.report);
        // A word that came between the two looks.
        let answer = answer.or_else(|| loading.report.answer());
        end_session(&loading.process);
        if loading.process.reap().is_none() {
            self.unreaped.push(loading.process);
        }
        let result = match answer {
            Some(Ok((kind, _))) if kind == Loaded::WORD && loading.image.is_some() => {
                let image = loading.image.as_deref().unwrap_or(Path::new(""));
                Err(self.become_another(image).to_string())
            }
            Some(Ok((kind, fds))) => self.take_answer(now, loading.token, kind, fds),
            Some(Err(failed)) => Err(failed.to_string()),
            None if dead => Err("who reads the file ended without a word".to_owned()),
            None => Err(format!(
                "reading the file took longer than {}: is the file system at work?",
                humantime::format_duration(TIME)
            )),
        };
        if let Err(why) = result {
            let what = if loading.image.is_some() { "upgrade" } else { "reload" };
            self.refuse(what, loading.token, &why);
        }
    }

    fn take_answer(
        &mut self,
        now: Monotonic,
        token: Option<u64>,
        kind: u8,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let mut fds = fds.into_iter();
        let mut bytes = Vec::new();
        let memory = fds.next().ok_or("an answer without a list")?;
        File::from(memory).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if kind != Loaded::WORD {
            return Err(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        }
        let loaded: Loaded = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let made: Vec<_> = loaded.bound.iter().filter_map(|held| held.address.path()).collect();
        let result = self.replace_services(now, token, loaded, fds.collect());
        if result.is_err() {
            remove_paths(made);
        }
        result
    }

    /// The free slots, lowest first.
    fn free_slots(&self) -> impl Iterator<Item = SlotId> {
        let most = self.segment.slots().len();
        let is_free = |slot: &SlotId| {
            let child = self.children.get(slot.index());
            self.group.is_vacant(*slot) && child.is_none_or(|child| child.left.is_empty())
        };
        (0..u8::MAX).map(SlotId).take(most).filter(is_free)
    }

    fn replace_services(
        &mut self,
        now: Monotonic,
        token: Option<u64>,
        loaded: Loaded,
        bound: Vec<OwnedFd>,
    ) -> Result<(), String> {
        if self.group.is_ending() {
            return Err("osps is stopping".to_owned());
        }
        let Loaded { mut services, bound: addresses, warnings, top } = loaded;
        let pool = self.sockets(addresses, bound)?;
        for service in &mut services {
            let find = |address: &Address| {
                let mine = |held: &&(Held, Arc<Listener>)| {
                    held.0.address == *address && held.0.family == service.family
                };
                let any = |held: &&(Held, Arc<Listener>)| held.0.address == *address;
                let found = pool.iter().find(mine);
                let found = found.or_else(|| pool.iter().find(any).filter(|_| !address.is_any()));
                found.map(|(_, listener)| Arc::clone(listener))
            };
            let sockets: Option<Vec<_>> = service.launch.listen.iter().map(find).collect();
            // Or whoever survived a killed watchdog has it still: as long as that one lives.
            let elsewhere = || {
                let mut children = self.children.iter();
                let has = |child: &Child| !child.elsewhere.is_empty();
                children.any(|child| child.service.family == service.family && has(child))
            };
            service.sockets = match sockets {
                Some(sockets) => sockets,
                None if elsewhere() => Vec::new(),
                None => return Err(format!("{}: no socket", service.name)),
            };
        }
        let (summary, slots) = self.exchange_services(now, services)?;
        let summary = format!("reloaded: {summary}");
        if let Some(token) = token {
            self.control.tell(token, &summary);
        }
        log::info!("{summary}");
        for warning in warnings.into_iter().chain(self.changed_top(&top)) {
            log::warn!("reload: {warning}");
            if let Some(token) = token {
                self.control.tell(token, &format!("problem {warning}"));
            }
        }
        let (request, summary) = (Request::Reload, "reload done".to_owned());
        self.waiting.push(Waiting { token, request, slots, summary });
        Ok(())
    }

    /// The services of another list, their sockets bound, take the place of those that are there.
    /// Returns what that means, and whom it concerns.
    pub(super) fn exchange_services(
        &mut self,
        now: Monotonic,
        services: Vec<Service>,
    ) -> Result<(String, Vec<(SlotId, Generation)>), String> {
        let slots: Vec<_> = self.group.slots().collect();
        let old: Vec<_> =
            slots.iter().map(|slot| (*slot, &self.children[slot.index()].service)).collect();
        let fates = diff(&old, &services);
        // Where everybody will live.
        let mut free = self.free_slots();
        let mut places: Vec<(String, SlotId)> = Vec::new();
        for fate in &fates {
            let (place, slot) = match *fate {
                Fate::Keep(slot, place) | Fate::Replace(slot, place) => (place, slot),
                Fate::Add(place) => (place, free.next().ok_or_else(|| self.no_room())?),
                Fate::Remove(_) => continue,
            };
            places.push((services[place].name.clone(), slot));
        }
        drop(free);
        let needs_shim = services.iter().any(|service| service.manner.heart.is_looped());
        if needs_shim && self.shim.is_none() {
            let shim = Shim::place(&self.claim.run_dir).map_err(|error| error.to_string())?;
            self.shim = Some(shim);
        }
        let slot_of =
            |name: &str| places.iter().find(|(known, _)| known == name).map(|(_, slot)| *slot);
        let mut services: Vec<_> = services.into_iter().map(Some).collect();
        let mut edits = Vec::new();
        let mut concerned: Vec<(SlotId, Generation)> = Vec::new();
        let mut told: [Vec<String>; 3] = Default::default();
        let mut kept = 0;
        for fate in fates {
            let place = match fate {
                Fate::Keep(_, place) | Fate::Replace(_, place) | Fate::Add(place) => Some(place),
                Fate::Remove(_) => None,
            };
            let service = place.and_then(|place| services[place].take());
            let (slot, edit) = match (fate, service) {
                (Fate::Keep(slot, _), Some(service)) => {
                    kept += 1;
                    let spec = service.spec(slot_of);
                    self.children[slot.index()].service = service;
                    self.furnish_anew(slot, now);
                    self.write_started(slot);
                    (slot, Edit::Keep(spec))
                }
                (Fate::Replace(slot, _), Some(service)) => {
                    told[0].push(service.name.clone());
                    let spec = service.spec(slot_of);
                    self.children[slot.index()].next = Some(service);
                    (slot, Edit::Replace(spec))
                }
                (Fate::Add(_), Some(service)) => {
                    let Some(slot) = slot_of(&service.name) else { continue };
                    told[1].push(service.name.clone());
                    let spec = service.spec(slot_of);
                    self.move_in(slot, service, now);
                    self.write_started(slot);
                    (slot, Edit::Add(spec))
                }
                (Fate::Remove(slot), _) => {
                    told[2].push(self.children[slot.index()].name().to_owned());
                    (slot, Edit::Remove)
                }
                _ => continue,
            };
            if !matches!(edit, Edit::Keep(_)) {
                concerned.push((slot, self.children[slot.index()].generation));
            }
            edits.push((slot, edit));
        }
        let parts = ["changed", "new", "removed"].into_iter().zip(&told);
        let parts = parts.filter(|(_, names)| !names.is_empty());
        let mut parts: Vec<_> = parts
            .map(|(what, names)| format!("{} {what} ({})", names.len(), names.join(", ")))
            .collect();
        parts.push(format!("{kept} unchanged"));
        let actions = self.group.edit(now, edits);
        self.actions.extend(actions);
        if self.file.is_some() {
            self.write_services();
        }
        Ok((parts.join(", "), concerned))
    }

    /// The keys at the top of the file that are others now than at the start.
    fn changed_top(&self, top: &[(String, String)]) -> Option<String> {
        let changed = self.top.iter().filter(|said| !top.contains(said));
        let keys: Vec<_> = changed.map(|(key, _)| key.as_str()).collect();
        let verb = if keys.len() == 1 { "is another" } else { "are others" };
        let keys = keys.join(", ");
        (!keys.is_empty()).then(|| format!("{keys} {verb} now: that takes a new start"))
    }

    fn no_room(&self) -> String {
        format!(
            "there is room for {} services at a time, and stopping ones count: raise `slots` at \
             the top of the file and start osps again",
            self.segment.slots().len()
        )
    }

    /// The sockets that are held, and those that were bound for the new list.
    fn sockets(
        &self,
        addresses: Vec<Held>,
        bound: Vec<OwnedFd>,
    ) -> Result<Vec<(Held, Arc<Listener>)>, String> {
        if addresses.len() != bound.len() {
            return Err("not all sockets arrived".to_owned());
        }
        let mut pool = Vec::new();
        for slot in self.group.slots() {
            pool.extend(self.children[slot.index()].service.held());
        }
        for (held, socket) in addresses.into_iter().zip(bound) {
            let listener = Listener::of(held.address.clone(), socket);
            pool.push((held, Arc::new(listener)));
        }
        Ok(pool)
    }

    /// A new service gets a free slot.
    fn move_in(&mut self, slot: SlotId, service: Service, now: Monotonic) {
        let page = &self.segment.slots()[slot.index()];
        page.server.forget();
        page.activity.set_text("");
        let line = &self.segment.hearts()[slot.index()];
        furnish_slot(&self.segment, slot, &service);
        line.unclaim(slot);
        let child = Child::new(service, line.sample().count);
        match self.children.get_mut(slot.index()) {
            // The socket for notifications stays the slot's.
            Some(old) => *old = Child { hearing: old.hearing.take(), ..child },
            None => self.children.push(child),
        }
        if self.children[slot.index()].hearing.is_none() {
            self.open_notify(slot);
        }
        self.place_prober(slot, now);
    }

    /// The slot's service was exchanged: what is held for it follows.
    pub(super) fn furnish_anew(&mut self, slot: SlotId, now: Monotonic) {
        let child = &mut self.children[slot.index()];
        furnish_slot(&self.segment, slot, &child.service);
        // One that is open already stays: it has a name, and what nobody asked for is dropped.
        if child.hearing.is_none() {
            self.open_notify(slot);
        }
        self.replace_prober(slot, now);
    }

    /// Once a turn: slots whose service is not wanted any more, and of which nothing is left.
    pub(super) fn vacate(&mut self, now: Monotonic) {
        for slot in self.group.slots() {
            let child = &self.children[slot.index()];
            if !self.group.is_over(slot) || !child.left.is_empty() {
                continue;
            }
            self.step(now, Input::Vacate { slot });
            self.perform_all();
            // Its sockets close: nobody listens there any more.
            let listened = std::mem::take(&mut self.children[slot.index()].service.launch.listen);
            self.children[slot.index()].service.sockets.clear();
            self.remove_sockets(&listened);
            self.end_prober(slot);
            self.free_further(slot);
            self.forget_gaps(slot);
            let page = &self.segment.slots()[slot.index()].server;
            text::store(&page.name, "");
            text::store(&self.segment.hearts()[slot.index()].name, "");
            self.segment.hearts()[slot.index()].unclaim(slot);
            self.claim.run_dir.forget(&started_name(slot));
        }
    }

    /// Removes the files of sockets that a service had, unless another one has them now.
    pub(super) fn remove_sockets(&self, listened: &[Address]) {
        let services = self.group.slots().flat_map(|slot| {
            let child = &self.children[slot.index()];
            child.next.iter().chain([&child.service])
        });
        let held: Vec<_> = services.flat_map(|service| &service.launch.listen).collect();
        let gone = listened.iter().filter(|address| !held.contains(address));
        remove_paths(gone.filter_map(Address::path).collect());
    }

    /// Writes down which services there are, for those who read their logs.
    pub(super) fn write_services(&self) {
        let all = self.group.slots().map(|slot| {
            let child = &self.children[slot.index()];
            let service = child.next.as_ref().unwrap_or(&child.service);
            Listed {
                name: service.name.clone(),
                family: service.family.clone(),
                log: service.launch.log.clone(),
            }
        });
        let all: Vec<_> = all.collect();
        if let Err(failed) = self.claim.run_dir.write(SERVICES, &all) {
            log::warn!("{failed}: `osps logs` does not know the services");
        }
    }
}

/// Removes the sockets that were made at paths of the user's; bounded, since those may hang.
pub(super) fn remove_paths(paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let remove = move || {
        for path in &paths {
            if let Err(error) = std::fs::remove_file(path) {
                log::debug!("{}: {error}", Shown(path));
            }
        }
        let _ = tell.send(());
    };
    if std::thread::Builder::new().spawn(remove).is_ok() {
        let _ = told.recv_timeout(Duration::from_secs(1));
    }
}
