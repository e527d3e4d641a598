//! The window in which everything must recover, and how long it may be.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use osps::sys::procfs;
use osps_heart::segment::{Record, Segment, What, text};
use osps_heart::time::Monotonic;
use osps_heart::words::State;

use super::common::{Client, NOBODY, PRIMARY, SOON, events, ms, now, port};
use super::instance::Life;
use super::strikes::Toll;
use super::world::World;

/// How much later than due something may come on a busy machine: at a load of 16 on two processors
/// the scheduler was seen to leave a process out for six seconds.
const NOISE: Duration = Duration::from_secs(10);

impl Life<'_> {
    /// How long after the last strike everything must be up again: the verdicts of all strikes, one
    /// after the other, each within `limit + slack`; one more limit for each that was granted, and
    /// the lateness that it was granted for; the pauses in front of restarts; and what a busy
    /// machine takes for the rest.
    fn due(&self, toll: &Toll) -> Duration {
        let mut events = events(self.segment);
        events.retain(|event| event.time >= toll.since);
        let extra = events.iter().map(|event| match event.what {
            What::LateTurn { by } => toll.limit + by,
            What::Spared { .. } => toll.limit,
            _ => backoff(event).unwrap_or_default(),
        });
        toll.due + extra.sum::<Duration>() + NOISE
    }

    /// Waits until everything is up and was seen to work after the last strike.
    pub fn recover(&mut self, toll: &mut Toll) -> Duration {
        let ended = now();
        while let Some(trouble) = self.trouble(toll, ended).or_else(|| self.unserved()) {
            // Who was late can tell so only later.
            let waited = now().since(ended);
            assert!(waited <= self.due(toll) + SOON, "not recovered after {waited:?}: {trouble}");
            self.listen();
            thread::sleep(ms(2));
        }
        let (took, due) = (now().since(ended), self.due(toll));
        assert!(took <= due, "recovered after {took:?} only, expected within {due:?}");
        *self.board.addresses.lock().unwrap() = addresses(self.segment);
        self.board.cover();
        if let (Some(renewed), 1) = (toll.renewed, toll.renewals) {
            let mut events = events(self.segment);
            events.retain(|event| matches!(event.what, What::Adopted { .. }));
            let last = events.last().map(|event| event.time);
            self.tally
                .take_overs
                .extend(last.filter(|at| *at > renewed).map(|at| at.since(renewed)));
        }
        took
    }

    /// Fails as soon as a client or a watcher complains.
    pub fn listen(&self) {
        let wrong = self.board.talk.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty() && !self.board.talk.is_over(), "{wrong:#?}");
    }

    /// What is not as it shall be, by the segment and the kernel.
    fn trouble(&mut self, toll: &mut Toll, ended: Monotonic) -> Option<String> {
        let settled = self.osps.is_settled();
        let header = self.segment.header();
        let turned = header.watchdog_heart.sample().stamp > ended;
        let named = self.is_named();
        toll.killed.retain(|process| !process.is_dead());
        // Continued by another strike, or dead.
        toll.stopped
            .retain(|process| !process.is_dead() && procfs::state(process.pid()) == Some('T'));
        toll.asked.retain_mut(|stream| {
            let read = stream.read(&mut [0; 64]);
            read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        });
        for (what, count) in [
            ("killed processes live", toll.killed.len()),
            ("stopped processes stand", toll.stopped.len()),
            ("requests for a fault are pending", toll.asked.len()),
            ("take-overs are under way", usize::from(!settled)),
            ("watchdogs are dead", usize::from(self.osps.watchdog_is_dead())),
            ("watchdogs are not named in the segment", usize::from(!named)),
            ("watchdogs have not turned", usize::from(!turned)),
        ] {
            if count > 0 {
                return Some(format!("{count} {what}"));
            }
        }
        if let Some(trouble) = self.unanswered(toll) {
            return Some(trouble);
        }
        (0..self.slots()).find_map(|slot| {
            let state = self.state(slot).map_or("unknown", State::word);
            let stamp = self.segment.hearts()[slot].sample().stamp;
            let beat = !self.world.beats(slot) || stamp > ended;
            let lives = self.process(slot).is_some();
            let sound = state == State::Up.word() && beat && lives;
            (!sound).then(|| format!("slot {slot} is {state}, lives: {lives}, beat: {beat}"))
        })
    }

    /// What does not work, by the servers' own account and by a write in the course's way.
    fn unserved(&self) -> Option<String> {
        match self.world {
            World::Pair { .. } => self.pair_unserved(),
            World::Services => self.services_unserved(),
        }
    }

    fn pair_unserved(&self) -> Option<String> {
        let failed = |what: &str, error: &Error| Some(format!("{what}: {error}"));
        let address = |slot: usize| -> Option<SocketAddr> {
            text::load(&self.segment.slots()[slot].server.listen).parse().ok()
        };
        let connect = |address| {
            let client = Client::try_to(address)?;
            client.raw().set_read_timeout(Some(ms(1000)))?;
            Ok::<_, Error>(client)
        };
        for slot in (0..self.slots()).rev() {
            let Some(address) = address(slot) else { return Some("no address".to_owned()) };
            let info = match connect(address).and_then(|mut client| client.try_ask("INFO")) {
                Ok(info) => info,
                Err(error) => return failed(&format!("INFO of slot {slot}"), &error),
            };
            let links = 1..if slot == PRIMARY { self.slots() } else { 1 };
            for peer in links {
                let link = format!("link_slot_{peer}:up,gen={}\r\n", self.generation(peer));
                if !info.contains(&link) {
                    return Some(format!("no link to slot {peer}:\n{info}"));
                }
            }
        }
        let write = || {
            let mut dispatcher = connect(address(PRIMARY).ok_or(ErrorKind::AddrNotAvailable)?)?;
            dispatcher.stream.get_mut().write_all(b"requetetype2")?;
            let reply = dispatcher.bare_once()?;
            if reply == NOBODY {
                return Ok(reply);
            }
            connect(port(&reply))?.try_ask("SET probe 1")
        };
        match write() {
            Ok(reply) if reply == "+OK" => None,
            Ok(reply) => Some(format!("a write got {reply}")),
            Err(error) => failed("a write", &error),
        }
    }
}

/// Where servers listen, by slot.
pub fn addresses(segment: &Segment) -> BTreeMap<usize, SocketAddr> {
    let listens = segment.slots().iter().map(|slot| text::load(&slot.server.listen).parse().ok());
    listens.enumerate().filter_map(|(slot, address)| Some((slot, address?))).collect()
}

/// The pause before a restart, if the event tells of one.
pub fn backoff(event: &Record) -> Option<Duration> {
    let What::Backoff { until, .. } = event.what else { return None };
    Some(until.since(event.time))
}
