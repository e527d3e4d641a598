//! The look at everything between two rounds: the data, leaks, and whether each verdict and
//! each restart had its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Error;
use std::time::{Duration, Instant};
use std::{fs, thread};

use osps::instance::place::{CONTROL, LOCK, MEMBERS, REPORTS, started_name};
use osps::pair::link::{tube_down, tube_up};
use osps_heart::ids::SlotId;
use osps_heart::segment::mapping::FILE_NAME as SEGMENT;
use osps_heart::segment::{Death, Record, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, Event};

use super::clients::{CLIENTS, Shared, load, value_of};
use super::common::{Client, PRIMARY, SOON, events, is_extension, ms, resident};
use super::instance::{Life, family, watchdogs};
use super::recovery::backoff;
use super::strikes::Toll;
use super::world::World;

/// What the watchdog may grow by, in KiB.
const GROWTH: u64 = 4096;

impl Life<'_> {
    /// Lets the clients pause, and looks at the data and for leaks.
    pub fn rest(&mut self) -> Result<(), Error> {
        let board = self.board;
        let _rest = board.gate.write().unwrap();
        self.listen();
        if self.world != World::Services {
            self.check_data()?;
        }
        let end = Instant::now() + SOON;
        // A closed connection, a look at /proc: some descriptors are there for a moment.
        while let Some(leak) = self.leak() {
            assert!(Instant::now() < end, "a leak: {leak}");
            thread::sleep(ms(1));
        }
        let resident = resident(self.osps.watchdog_pid());
        if self.resident == 0 {
            self.resident = resident;
        }
        assert!(resident <= self.resident + GROWTH, "the watchdog grew to {resident} KiB");
        board.beats.lock().unwrap().clear();
        Ok(())
    }

    /// Every server shows the same, and nothing but what was acknowledged or may have been done.
    fn check_data(&self) -> Result<(), Error> {
        let mut seen = BTreeMap::new();
        for slot in 0..self.slots() {
            let mut client = Client::try_to(self.address(slot))?;
            let mut names = vec!["shared".to_owned()];
            for number in 0..CLIENTS {
                names.extend([format!("count{number}"), format!("text{number}")]);
            }
            let keys = client.try_ask("KEYS *")?;
            let mut present = 0;
            for key in keys.trim_matches(['[', ']']).split(' ') {
                assert!(key == "probe" || names.iter().any(|name| name == key), "a key {key:?}");
                present += 1;
            }
            assert_eq!(client.try_ask("DBSIZE")?, format!(":{present}"), "of {keys}");
            for name in names {
                let value = value_of(&name, &client.try_ask(&format!("GET {name}"))?);
                let value = value.unwrap_or_else(|wrong| panic!("slot {slot}: {wrong}"));
                let before = *seen.entry(name.clone()).or_insert(value);
                assert_eq!(before, value, "{name} in slot {slot} and in those before it");
            }
        }
        for number in 0..CLIENTS {
            for (name, keys) in [("count", &self.board.counters), ("text", &self.board.texts)] {
                let (key, value) = (&keys[number], seen[&format!("{name}{number}")]);
                if let Err(why) = key.allows(load(&key.floor), value) {
                    panic!("at rest {name}{number} is {why}");
                }
                key.settle(value, name == "count");
            }
        }
        let mut shared = self.board.shared.lock().unwrap();
        let value = seen["shared"];
        let least = shared.base + shared.acknowledged.len() as u64;
        let possible = least..=shared.base + shared.sent;
        assert!(possible.contains(&value), "shared is {value}, expected {possible:?}");
        *shared = Shared { base: value, ..Shared::default() };
        Ok(())
    }

    /// Something that should not be there, or is missing, while all is at rest.
    fn leak(&mut self) -> Option<String> {
        let watchdogs = watchdogs(self.osps.run_dir());
        if watchdogs != [self.osps.watchdog_pid()] {
            return Some(format!("watchdogs {watchdogs:?}, not {}", self.osps.watchdog_pid()));
        }
        let zombies = self.osps.zombies();
        if !zombies.is_empty() {
            return Some(format!("zombies {zombies:?}"));
        }
        match self.world {
            World::Pair { .. } => self.pair_leak(),
            World::Services => self.services_leak(),
        }
    }

    fn pair_leak(&mut self) -> Option<String> {
        let run_dir = self.osps.run_dir();
        let servers: BTreeSet<_> =
            (0..self.slots()).filter_map(|slot| Some(self.process(slot)?.pid())).collect();
        let family: BTreeSet<_> = family(run_dir).into_keys().collect();
        if servers != family || servers.len() != self.slots() {
            return Some(format!("servers {servers:?}, processes {family:?}"));
        }
        let mut expected =
            BTreeSet::from([LOCK, MEMBERS, SEGMENT, CONTROL, REPORTS].map(str::to_owned));
        let slots = 0..u8::try_from(self.slots()).unwrap();
        expected.extend(slots.map(|slot| started_name(SlotId(slot))));
        for secondary in 1..u8::try_from(self.slots()).unwrap() {
            expected.extend([tube_down(secondary), tube_up(secondary)]);
        }
        let entries = fs::read_dir(run_dir).unwrap().map(|entry| entry.unwrap().file_name());
        let files: BTreeSet<_> = entries.map(|name| name.into_string().unwrap()).collect();
        if files != expected {
            return Some(format!("files {files:?}"));
        }
        let owner = self.segment.owner().current();
        if let Some(slot) = owner.slot {
            let [low, high, ..] = self.generation(slot.index()).to_le_bytes();
            if owner.generation != u16::from_le_bytes([low, high]) {
                return Some(format!("a dead owner: {owner:?}"));
            }
        }
        for slot in 0..self.slots() {
            let activity = &self.segment.slots()[slot].activity;
            let [sessions, parked] = [&activity.sessions, &activity.parked].map(load);
            if (sessions, parked) != (0, 0) {
                return Some(format!("slot {slot}: {sessions} sessions, {parked} parked"));
            }
        }
        let mut pids = vec![(None, self.osps.watchdog_pid())];
        pids.extend((0..self.slots()).map(|slot| (Some(slot), self.osps.pid(slot))));
        pids.into_iter().find_map(|(who, pid)| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
            let before = *self.descriptors.entry(who).or_insert(open);
            // A watchdog that took servers over has no gate of those, and perhaps one file more.
            let taken = who.is_none() && self.taken_over;
            let fits = if taken { open <= before + 1 } else { open == before };
            (!fits).then(|| format!("{who:?} has {open} descriptors, {before} before"))
        })
    }

    /// Whether what the watchdog did since the last time was its right and its duty.
    pub fn judge(&mut self, toll: &Toll) {
        let mut events = events(self.segment);
        let judged = events.iter().position(|event| Some(*event) == self.judged);
        events.drain(..judged.map_or(0, |last| last + 1));
        self.judged = events.last().copied().or(self.judged);
        let lines: Vec<_> = events.iter().map(|event| format!("{event:?}")).collect();
        let told = lines.join("\n");
        let (limit, _) = self.world.limits();
        // Behind an arbiter that is frozen and does not look so, nobody's release is read.
        let least = if toll.scribbled { Duration::ZERO } else { limit / 2 };
        let starved = |slot: usize| count(&events, slot, |event| is_starved(event, least));
        for slot in 0..self.slots() {
            let starts = count(&events, slot, |event| event.what.event() == Event::Started);
            let others = self.world.goes_with(slot).iter().map(|other| starved(*other));
            let allowed = toll.starts(slot) + starved(slot) + others.sum::<u64>();
            assert!(starts <= allowed, "slot {slot}: {starts} starts, not {allowed}:\n{told}");
            self.tally.starts += starts;
        }
        for event in &events {
            let slot = event.slot.map_or(PRIMARY, SlotId::index);
            if let What::Died { death, .. } | What::Backoff { death, .. } = event.what {
                self.living.remove(&slot);
                // KILL and ABRT: nobody left by itself, nobody crashed. Who died while nobody
                // watched may have been reaped by another; whoever was told to go leaves.
                let struck = matches!(death, Death::Killed(9 | 6))
                    || death == Death::Unknown && toll.renewals + toll.upgrades > 0
                    || toll.wanted.get(slot).is_none_or(|wanted| *wanted > 0);
                let goes_with = || self.world.goes_with(slot).iter();
                let taken_along = self.world == World::Services
                    && goes_with().any(|other| toll.starts(*other) + starved(*other) > 0);
                assert!(struck || taken_along, "it ended by itself: {event:?}\n{told}");
            }
            match event.what {
                What::Verdict { cause, class, silence } => {
                    self.assert_just(event, cause, class, silence, toll);
                }
                // Who lived is taken over, and told so.
                What::WatchdogStarted => self.living.clear(),
                What::Adopted { .. } => drop(self.living.insert(slot)),
                What::Started { .. } => {
                    assert!(self.living.insert(slot), "two in one slot:\n{told}");
                    assert!(event.generation > self.newest, "a generation again:\n{told}");
                    self.newest = event.generation;
                }
                _ => {}
            }
        }
        let extended = events.iter().filter(|event| is_extension(event)).count();
        self.tally.extensions += extended;
        assert!(extended > 0 || !toll.long_pause, "a pause went unnoticed:\n{told}");
        self.pause = events.iter().filter_map(backoff).fold(self.pause, Duration::max);
        // A file that cannot be taken is told as an error, and so are a request that came too soon,
        // the end of who reads a file for a watchdog that is gone, and the second of two that would
        // take over at once.
        let log = self.osps.log();
        let is_wrong = |line: &&str| {
            let asked = [
                "ERROR reload: ",
                "ERROR upgrade: ",
                "ERROR send descriptors",
                "ERROR osps already runs",
            ]
            .iter()
            .any(|told| line.contains(told));
            line.contains("panicked") || line.contains(" ERROR ") && !asked
        };
        let errors = log.lines().find(is_wrong);
        assert!(errors.is_none(), "{errors:?}");
    }

    /// A server that is convicted of silence had been silent for its limit.
    fn assert_just(
        &mut self,
        verdict: &Record,
        cause: Cause,
        class: Option<Class>,
        silence: Duration,
        toll: &Toll,
    ) {
        let (hang, start) = self.world.limits();
        let limit = if cause == Cause::StartTimeout { start } else { hang };
        if cause == Cause::Dependency {
            return;
        }
        let word = class.map_or(Cause::StartTimeout.to_string(), |class| class.to_string());
        *self.tally.verdicts.entry(word).or_default() += 1;
        if class == Some(Class::NotReleasing) {
            return;
        }
        assert!(silence >= limit, "convicted early: {verdict:?}");
        let of = (verdict.slot.unwrap().index(), verdict.generation.0);
        // A stamp that somebody wrote over it is no beat.
        if toll.smeared.contains(&of) {
            return;
        }
        // A beat that came while the verdict was being written down came too late.
        let counts = |beat: &&Monotonic| **beat <= verdict.time - limit / 2;
        let beats = self.board.beats.lock().unwrap().remove(&of).unwrap_or_default();
        let last = beats.iter().rfind(counts);
        let silent = last.is_none_or(|beat| verdict.time.since(*beat) >= limit);
        assert!(silent, "convicted, but it had beaten at {last:?}: {verdict:?}");
    }
}

/// The host gave a server no processor for too long: docs/verdicts.md. A silent owner of the data
/// may be convicted for not giving it back before it is convicted as starved.
fn is_starved(event: &Record, least: Duration) -> bool {
    let What::Verdict { class, silence, .. } = event.what else { return false };
    let owner = class == Some(Class::NotReleasing) && silence >= least;
    owner || class == Some(Class::Starved)
}

fn count(events: &[Record], slot: usize, counts: impl Fn(&Record) -> bool) -> u64 {
    let here = |event: &&Record| event.slot.is_some_and(|at| at.index() == slot) && counts(event);
    events.iter().filter(here).count() as u64
}
