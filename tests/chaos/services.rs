//! What is done to services of a file, and what is looked at, beside what holds for the pair, too.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use osps::sys::procfs;
use osps_heart::sync::Ordering;
use osps_heart::words::{State, Watched};

use super::common::ms;
use super::common::services::{slot_in, who_serves};
use super::faults::Fault;
use super::instance::{Life, family};
use super::script::Strike;
use super::strikes::{Act, Toll};
use super::world::{GUEST, HAS_GUEST, SERVICES, WEB, WEB_CHANGES, World, file};

/// What the watchdog of services may have open beside what it had: what is held of kin differs.
const OPEN: usize = 16;

impl Life<'_> {
    /// Asks osps for something, and goes on.
    pub fn wish(&self, word: &str, slots: &[usize], more: &[&str], toll: &mut Toll) {
        let names = slots.iter().map(|slot| SERVICES[*slot].0);
        let words: Vec<_> = [word].into_iter().chain(names).chain(more.iter().copied()).collect();
        toll.wishes.push((words.join(" "), self.osps.begin_ask(&words)));
    }

    /// Asks for something that concerns one service. Returns, as the other strikes do, whether
    /// anybody was struck.
    pub fn want(&self, strike: &Strike, toll: &mut Toll) -> (bool, Option<Act>) {
        let span = format!("{}ms", strike.span);
        match strike.fault {
            Fault::Excuse => {
                toll.due += ms(strike.span);
                self.wish("pause", &strike.slots, &["--for", &span], toll);
                return (true, None);
            }
            Fault::Again => self.wish("restart", &strike.slots, &[], toll),
            _ => self.wish("stop", &strike.slots, &[], toll),
        }
        for slot in &strike.slots {
            toll.wanted[*slot] += 1;
            // A frozen one takes all the time that a stop may take.
            self.owe(*slot, toll);
            if strike.fault == Fault::Rest {
                toll.unsure.push(format!("start {}", SERVICES[*slot].0));
            }
        }
        let starts = strike.fault == Fault::Rest;
        (true, starts.then(|| Act::Ask("start", strike.slots.clone())))
    }

    /// Changes the file, or puts a mistake into it for a moment. Returns whether that was done.
    pub fn reload(&mut self, strike: &Strike, toll: &mut Toll) -> bool {
        if strike.fault == Fault::Slip {
            return self.slip(toll);
        }
        if (self.variant ^ strike.span) & WEB_CHANGES != 0 {
            for slot in WEB {
                toll.wanted[slot] += 1;
            }
        }
        self.variant = strike.span;
        self.osps.write(&file(self.variant));
        self.wish("reload", &[], &[], toll);
        toll.unsure.push("reload".to_owned());
        true
    }

    /// A mistake in the file is told, and changes nothing.
    fn slip(&mut self, toll: &Toll) -> bool {
        // Who starts just now would read it, and could not start; who is stopped does not answer.
        let pid = self.osps.watchdog_pid();
        let stands = procfs::state(pid).is_none_or(|state| state == 'T');
        if !toll.wishes.is_empty() || !self.osps.is_settled() || !self.is_named() || stands {
            return false;
        }
        self.osps.write("[service.db]\ncommnd = 'x'\n");
        let (code, said) = self.osps.ask_for(&["reload"]);
        self.osps.write(&file(self.variant));
        assert_eq!(code, 1, "{said}");
        assert!(toll.strikes > 1 || said.contains("commnd"), "{said}");
        true
    }

    /// Whether the silence of a slot would be seen.
    pub fn is_judged(&self, slot: usize) -> bool {
        let watched = self.segment.slots()[slot].server.watched.load(Ordering::Relaxed);
        self.world != World::Services || watched == Watched::Yes.code()
    }

    /// What osps was asked for and has not done. What may have got lost with a watchdog is asked
    /// for again.
    pub fn unanswered(&self, toll: &mut Toll) -> Option<String> {
        let alone = toll.renewals == 0 && toll.strikes == 1;
        toll.wishes.retain_mut(|(words, asking)| {
            let ended = asking.ended();
            let failed = ended.is_some_and(|status| !status.success());
            // A stop is in vain if the start comes before it is done.
            assert!(!failed || !alone || words.starts_with("stop "), "{words}: {ended:?}");
            ended.is_none()
        });
        if let Some((words, _)) = toll.wishes.first() {
            return Some(format!("`osps {words}` has no answer"));
        }
        while let Some(words) = toll.unsure.last() {
            let (code, said) = self.osps.ask_for(&words.split(' ').collect::<Vec<_>>());
            if code != 0 {
                return Some(format!("{words}: {said}"));
            }
            toll.unsure.pop();
        }
        None
    }

    /// What does not work, by those who can be asked.
    pub fn services_unserved(&self) -> Option<String> {
        let guest = slot_in(self.segment, GUEST).and_then(|slot| self.state(slot));
        let wanted = (self.variant & HAS_GUEST != 0).then_some(State::Up);
        if guest != wanted {
            return Some(format!("{GUEST} is {guest:?}, not {wanted:?}"));
        }
        let redis = || -> Result<(), Error> {
            let mut client = UnixStream::connect(self.osps.dir().join("db.sock"))?;
            client.set_read_timeout(Some(ms(1000)))?;
            client.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            client.read_exact(&mut answer)?;
            if &answer == b"+PONG\r\n" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
        };
        if let Err(error) = redis() {
            return Some(format!("redis: {error}"));
        }
        let served = who_serves(self.address(WEB[0]));
        let pids = WEB.map(|slot| self.process(slot).map(|process| process.pid()));
        match served {
            Ok(pid) if pids.contains(&Some(pid)) => None,
            other => Some(format!("web is {pids:?}, served by {other:?}")),
        }
    }

    /// Something that should not be there while all is at rest: above all what an earlier process of
    /// a service left.
    pub fn services_leak(&mut self) -> Option<String> {
        let slots = self.segment.slots().iter();
        let current = slots.filter_map(|slot| Some(slot.server.identity()?.generation.0));
        let current: BTreeSet<_> = current.collect();
        let mut family = family(self.osps.run_dir());
        family.retain(|_, generation| generation.is_some_and(|number| !current.contains(&number)));
        if !family.is_empty() {
            return Some(format!("left by earlier generations: {family:?}, now {current:?}"));
        }
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.osps.watchdog_pid()));
        let open = open.map_or(0, Iterator::count);
        let before = *self.descriptors.entry(None).or_insert(open);
        (open > before + OPEN).then(|| format!("{open} descriptors, {before} before"))
    }
}
