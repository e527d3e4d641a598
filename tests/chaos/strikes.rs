//! A round strikes: faults at their times, and what it may cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use osps::pair::link::{tube_down, tube_up};
use osps::pair::wire::{self, Frame, FrameKind};
use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::orphan::WATCHDOG_STALE;
use osps_heart::pulse::{PARKED, slack};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::State;

use super::common::services::Asking;
use super::common::{PRIMARY, Random, Signal, fifo, ms, now};
use super::faults::Fault;
use super::instance::Life;
use super::script::Strike;
use super::world::World;

/// Stopped for less than this in one round, a server is not convicted: a beat interval, an eighth
/// of the limit, may have passed before, and the rest is for a busy machine to let it beat again.
const INNOCENT: Duration = ms(250);
/// How long `--take-over` may look at a watchdog before it is sure that it is frozen.
const SURE: Duration = ms(3000);
/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

/// What has to be done later in a round.
pub enum Act {
    Strike(Strike),
    /// Continue those who were stopped at that moment; the servers have their slot.
    Continue(Instant, Vec<(Option<usize>, Process)>),
    /// Send on, read nothing, until then.
    Send(TcpStream, usize, Instant),
    /// Fill these with that, until then.
    Fill(Vec<File>, Vec<u8>, Instant),
    /// Close it.
    Close(TcpStream),
    /// Start another watchdog, with these options.
    Renew(&'static [&'static str]),
    /// Scribble on over the pages of these generations, until then.
    Scribble(Segment, Vec<(usize, u32)>, Random, Instant),
    /// Ask for this, of these slots.
    Ask(&'static str, Vec<usize>),
}

/// What a round may cost, noted while it strikes.
pub struct Toll {
    world: World,
    pub since: Monotonic,
    pub strikes: usize,
    /// Strikes that end a process, by slot.
    deadly: Vec<u64>,
    /// Time stopped, and strikes that did it: they end a process if it was too long.
    quiet: Vec<(Duration, u64)>,
    /// Restarts that somebody wanted, by slot.
    pub wanted: Vec<u64>,
    /// Watchdogs that were killed or replaced, and that became another image.
    pub renewals: u64,
    pub upgrades: u64,
    /// When the last new one was started that had nobody to kill.
    pub renewed: Option<Monotonic>,
    /// The verdicts and restarts that are due, without the extensions that the watchdog gives.
    pub due: Duration,
    /// The longest limit in force: a server may be struck before its first beat.
    pub limit: Duration,
    /// Somebody moved the arbiter's count.
    pub scribbled: bool,
    /// Slots and generations whose stamps may be no beats.
    pub smeared: BTreeSet<(usize, u32)>,
    /// Pauses of the watchdog that it must notice.
    pub long_pause: bool,
    pub killed: Vec<Process>,
    pub stopped: Vec<Process>,
    /// Connections that asked for a fault: answered or cut in the end.
    pub asked: Vec<TcpStream>,
    /// What osps was asked for, and is not done yet.
    pub wishes: Vec<(String, Asking)>,
    /// What of that may have got lost, with a watchdog: to be asked for again.
    pub unsure: Vec<String>,
}

impl Toll {
    pub fn new(world: World, strikes: usize) -> Toll {
        let slots = world.slots();
        Toll {
            world,
            since: now(),
            strikes,
            deadly: vec![0; slots],
            quiet: vec![(Duration::ZERO, 0); slots],
            wanted: vec![0; slots],
            renewals: 0,
            upgrades: 0,
            renewed: None,
            due: Duration::ZERO,
            limit: world.limits().0,
            scribbled: false,
            smeared: BTreeSet::new(),
            long_pause: false,
            killed: Vec::new(),
            stopped: Vec::new(),
            asked: Vec::new(),
            wishes: Vec::new(),
            unsure: Vec::new(),
        }
    }

    /// How often a server may be started again for what struck its own slot.
    fn own_starts(&self, slot: usize) -> u64 {
        let (quiet, strikes) = self.quiet[slot];
        self.deadly[slot] + if quiet > INNOCENT { strikes } else { 0 }
    }

    /// The same, for all reasons: who failed takes others with it. The next watchdog restarts
    /// nobody who lives.
    pub fn starts(&self, slot: usize) -> u64 {
        let others = self.world.goes_with(slot).iter().map(|other| self.own_starts(*other));
        self.own_starts(slot) + self.wanted[slot] + others.sum::<u64>()
    }
}

impl Life<'_> {
    /// Plays the strikes of a round, at their times.
    pub fn strike_all(&mut self, round: &[Strike], toll: &mut Toll) {
        self.expose(round);
        let mut agenda = BTreeMap::new();
        let mut at = Instant::now();
        for (number, strike) in round.iter().enumerate() {
            at += ms(strike.after);
            agenda.insert((at, number), Act::Strike(strike.clone()));
        }
        for number in round.len().. {
            let Some(((at, _), act)) = agenda.pop_first() else { return };
            pass_until(at);
            if let Some((at, act)) = self.perform(act, toll) {
                agenda.insert((at, number), act);
            }
        }
    }

    fn perform(&mut self, act: Act, toll: &mut Toll) -> Option<(Instant, Act)> {
        let now = Instant::now();
        match act {
            Act::Strike(strike) => return self.strike(&strike, toll),
            Act::Continue(since, stopped) => {
                for (slot, process) in stopped {
                    send(&process, Signal::CONT);
                    if let Some(slot) = slot {
                        toll.quiet[slot].0 += since.elapsed();
                    }
                }
            }
            Act::Send(mut stream, mut sent, until) => {
                let requests = b"GET text0\r\n".repeat(4000);
                let length = stream.write(&requests[sent..]).unwrap_or(0);
                sent = (sent + length) % requests.len();
                return (now < until).then(|| (now + ms(5), Act::Send(stream, sent, until)));
            }
            Act::Fill(mut fifos, piece, until) => {
                // A server that reads as fast as this writes never lets a pipe be full: without a
                // bound the strike did not end, and its flood kept a `release` away for a minute.
                for fifo in &mut fifos {
                    let pieces = 2 * PIPE / piece.len().max(1);
                    (0..pieces).take_while(|_| fifo.write(&piece).is_ok()).for_each(drop);
                }
                return (now < until).then(|| (now + ms(1), Act::Fill(fifos, piece, until)));
            }
            Act::Close(stream) => drop(stream),
            Act::Renew(options) => {
                // Another one looks first whether the old one is frozen.
                toll.renewed = options.is_empty().then(super::common::now);
                self.osps.start_again_with(options);
            }
            Act::Scribble(segment, pages, mut random, until) => {
                for (slot, generation) in &pages {
                    // What starts in its place would be up before it is.
                    let same = self.generation(*slot) == *generation;
                    if same && self.state(*slot) == Some(State::Up) {
                        scribble(&segment, *slot, &mut random);
                    }
                }
                let act = Act::Scribble(segment, pages, random, until);
                return (now < until).then(|| (now + ms(1), act));
            }
            Act::Ask(word, slots) => self.wish(word, &slots, &[], toll),
        }
        None
    }

    /// Who may die while there is no watchdog, when nobody else holds its socket: servers of a pair
    /// keep those of each other.
    fn expose(&self, round: &[Strike]) {
        if !round.iter().any(|strike| matches!(strike.fault, Fault::Restart | Fault::TakeOver)) {
            return;
        }
        let is_struck = |slot: usize| {
            let all = |fault| matches!(fault, Fault::Suspend | Fault::Reload);
            round.iter().any(|strike| all(strike.fault) || strike.slots.contains(&slot))
        };
        let may_die = |slot: &usize| {
            is_struck(*slot) || self.world.goes_with(*slot).iter().any(|other| is_struck(*other))
        };
        if matches!(self.world, World::Pair { .. }) && !(0..self.slots()).all(|slot| may_die(&slot))
        {
            return;
        }
        let addresses = self.board.addresses.lock().unwrap();
        let struck = (0..self.slots()).filter(may_die).filter_map(|slot| addresses.get(&slot));
        self.board.exposed.lock().unwrap().extend(struck.map(|address| (*address, None)));
    }

    /// One strike; what goes on, or ends it, comes later.
    fn strike(&mut self, strike: &Strike, toll: &mut Toll) -> Option<(Instant, Act)> {
        let since = Instant::now();
        let until = since + ms(strike.span);
        let (struck, later) = match strike.fault {
            Fault::Kill | Fault::Freeze | Fault::Thaw => self.signal(strike, since, toll),
            Fault::Spin | Fault::Block | Fault::Abort | Fault::Sleep => self.ask(strike, toll),
            Fault::Pause | Fault::Suspend => self.pause(strike, since, toll),
            Fault::Restart | Fault::TakeOver => self.replace(strike.fault, toll),
            Fault::Upgrade => self.upgrade(toll),
            Fault::Deaf | Fault::Half => self.burden(strike, until),
            Fault::Full | Fault::Garbage | Fault::Stale => (true, self.litter(strike, until)),
            Fault::Scribble => self.scribble(strike, until, toll),
            Fault::Reload | Fault::Slip => (self.reload(strike, toll), None),
            Fault::Again | Fault::Rest | Fault::Excuse => self.want(strike, toll),
        };
        if struck {
            self.tally.struck(strike.fault);
        }
        let goes_on = matches!(later, Some(Act::Send(..) | Act::Fill(..) | Act::Scribble(..)));
        later.map(|act| (if goes_on { since } else { until }, act))
    }

    /// Kills or stops servers. Returns, as the others do, whether anybody was struck.
    fn signal(&self, strike: &Strike, since: Instant, toll: &mut Toll) -> (bool, Option<Act>) {
        let (mut struck, mut thawed) = (false, Vec::new());
        for slot in strike.slots.iter().copied() {
            let Some(process) = self.process(slot) else { continue };
            // Who would not be missed would stand for good.
            if strike.fault == Fault::Freeze && !self.is_judged(slot) {
                continue;
            }
            struck = true;
            self.owe(slot, toll);
            let kills = strike.fault == Fault::Kill;
            send(&process, if kills { Signal::KILL } else { Signal::STOP });
            if strike.fault == Fault::Thaw {
                toll.quiet[slot].1 += 1;
                thawed.push((Some(slot), process));
            } else {
                toll.deadly[slot] += 1;
                if !kills {
                    stand_still(&process);
                }
                if kills { &mut toll.killed } else { &mut toll.stopped }.push(process);
            }
        }
        (struck, (!thawed.is_empty()).then(|| Act::Continue(since, thawed)))
    }

    /// Asks servers for a fault, as a client.
    fn ask(&self, strike: &Strike, toll: &mut Toll) -> (bool, Option<Act>) {
        let span = ms(strike.span);
        let sleeps = strike.fault == Fault::Sleep;
        let time = if sleeps { format!(" {}", span.as_secs_f64()) } else { String::new() };
        let request = format!("DEBUG {}{time}\r\n", strike.fault.word().to_uppercase());
        let mut struck = false;
        for slot in strike.slots.iter().copied() {
            let Some(stream) = self.client(slot, request.as_bytes()) else { continue };
            struck = true;
            self.owe(slot, toll);
            toll.asked.push(stream);
            if sleeps {
                toll.quiet[slot].0 += span;
                toll.quiet[slot].1 += 1;
            } else {
                toll.deadly[slot] += 1;
            }
        }
        (struck, None)
    }

    /// Stops the watchdog, alone or with everybody.
    fn pause(&self, strike: &Strike, since: Instant, toll: &mut Toll) -> (bool, Option<Act>) {
        let mut stopped: Vec<_> =
            self.watchdog().map(|process| (None, process)).into_iter().collect();
        let slots = if strike.fault == Fault::Suspend { self.slots() } else { 0 };
        for slot in 0..slots {
            // Alone, it is forgiven: the watchdog was late. Behind another silence its own sleep
            // may have been shorter than its slack.
            let counts = toll.strikes > 1;
            toll.quiet[slot].1 += u64::from(counts);
            stopped.extend(self.process(slot).map(|process| (counts.then_some(slot), process)));
        }
        for (_, process) in &stopped {
            send(process, Signal::STOP);
        }
        if strike.span.is_multiple_of(2) {
            stopped.reverse();
        }
        toll.long_pause = toll.strikes == 1 && ms(strike.span) >= self.world.limits().0;
        (!stopped.is_empty(), Some(Act::Continue(since, stopped)))
    }

    /// Kills the watchdog or stops it for good; its servers live on until the next one comes.
    fn replace(&mut self, fault: Fault, toll: &mut Toll) -> (bool, Option<Act>) {
        let Some(watchdog) = self.watchdog().filter(|_| self.osps.is_settled()) else {
            return (false, None);
        };
        // One that has not begun has nobody to be taken over from it.
        if fault == Fault::TakeOver && !self.is_named() {
            return (false, None);
        }
        toll.renewals += 1;
        self.taken_over = true;
        if fault == Fault::Restart {
            self.osps.kill_watchdog();
            return (true, Some(Act::Renew(&[])));
        }
        send(&watchdog, Signal::STOP);
        toll.due += WATCHDOG_STALE + SURE;
        (true, Some(Act::Renew(&["--take-over"])))
    }

    /// Asks the watchdog to become another image.
    fn upgrade(&mut self, toll: &mut Toll) -> (bool, Option<Act>) {
        self.wish("upgrade", &[], &[], toll);
        toll.upgrades += 1;
        self.taken_over = true;
        (true, None)
    }

    /// Begins to write over what servers say of themselves.
    fn scribble(&self, strike: &Strike, until: Instant, toll: &mut Toll) -> (bool, Option<Act>) {
        // Not there for a moment while the next watchdog takes it over.
        let Ok(segment) = Segment::open(self.osps.run_dir(), Access::ReadWrite) else {
            return (false, None);
        };
        // Counts that somebody moves hide a freeze for so long.
        toll.due += ms(strike.span);
        toll.scribbled |= strike.slots.contains(&PRIMARY);
        let pages: Vec<_> =
            strike.slots.iter().map(|slot| (*slot, self.generation(*slot))).collect();
        toll.smeared.extend(pages.iter().copied());
        (true, Some(Act::Scribble(segment, pages, Random::new(strike.span), until)))
    }

    /// A client that is a burden.
    fn burden(&self, strike: &Strike, until: Instant) -> (bool, Option<Act>) {
        let halves: [&[u8]; 5] =
            [b"SET half 1", b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1\r\n", b"INCR half", b"*", b"\"a"];
        let half = halves[usize::try_from(strike.span).unwrap() % halves.len()];
        let deaf = strike.fault == Fault::Deaf;
        let stream = self.client(strike.slots[0], if deaf { b"" } else { half });
        let act = |stream| if deaf { Act::Send(stream, 0, until) } else { Act::Close(stream) };
        (stream.is_some(), stream.map(act))
    }

    /// The verdict on what strikes a server may take so long.
    pub fn owe(&self, slot: usize, toll: &mut Toll) {
        let (hang, start) = self.world.limits();
        // A loop is not judged before it is as old as that.
        let young = self.world == World::Services || self.state(slot) == Some(State::Starting);
        let limit = if young { start } else { hang };
        toll.limit = toll.limit.max(limit);
        toll.due += limit + slack(limit);
    }

    /// Connects and sends; never waits for anything.
    fn client(&self, slot: usize, request: &[u8]) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.address(slot)).ok()?;
        stream.set_nonblocking(true).unwrap();
        stream.write_all(request).ok()?;
        Some(stream)
    }

    /// Writes into the FIFOs of secondaries what no server would.
    fn litter(&self, strike: &Strike, until: Instant) -> Option<Act> {
        let mut random = Random::new(strike.span);
        let mut fifos = Vec::new();
        for slot in &strike.slots {
            let secondary = u8::try_from(*slot).unwrap();
            for (tube, down) in [(tube_down(secondary), true), (tube_up(secondary), false)] {
                // Not there: the next watchdog is just making them anew.
                let Ok(mut fifo) = fifo(self.osps.run_dir(), &tube) else { continue };
                for _ in 0..strike.span {
                    // What does not fit is not written.
                    let _ = match strike.fault {
                        Fault::Stale => fifo.write(&self.stale(*slot, down, &mut random)),
                        Fault::Garbage => fifo.write(&noise(&mut random)),
                        _ => break,
                    };
                }
                fifos.push(fifo);
            }
        }
        let piece = match strike.span % 2 {
            0 => self.stale(strike.slots[0], true, &mut random).to_vec(),
            _ => noise(&mut random),
        };
        (strike.fault == Fault::Full).then(|| Act::Fill(fifos, piece, until))
    }

    /// A frame that a predecessor of the present sender may have sent, of any kind, and to the
    /// present addressee or to a predecessor; also about the epoch that is granted now.
    fn stale(&self, secondary: usize, down: bool, random: &mut Random) -> [u8; wire::FRAME_SIZE] {
        let ends = if down { [PRIMARY, secondary] } else { [secondary, PRIMARY] };
        let [from, to] = ends.map(|slot| SlotId(u8::try_from(slot).unwrap()));
        let [sender, addressee] = ends.map(|slot| self.generation(slot));
        let (kind, _) = FrameKind::ALL[random.below(FrameKind::ALL.len())];
        let back = u32::try_from(random.below(2)).unwrap();
        let mut payload = [0; wire::PAYLOAD_SIZE];
        payload[0] = u8::try_from(random.below(3)).unwrap();
        wire::encode(&Frame {
            kind,
            from,
            to,
            from_generation: Generation(sender.saturating_sub(1)),
            to_generation: Generation(addressee.saturating_sub(back)),
            epoch: self.segment.owner().current().epoch,
            sequence: random.next(),
            job: (u64::from(self.generation(PRIMARY)) << 32) + random.next() % 100,
            payload,
        })
    }
}

/// One word of what a server says of itself: of its heart, or of what it does.
fn scribble(segment: &Segment, slot: usize, random: &mut Random) {
    let heart = &segment.hearts()[slot];
    let says = &segment.slots()[slot].activity;
    let words = [&says.sessions, &says.link, &says.frames_dropped, &says.text_guard, &says.parked];
    let words = words.into_iter().chain([&says.committed_ns, &heart.count, &heart.stamp_ns]);
    let words: Vec<_> = words.chain(&says.text).collect();
    let near = [0, 1, u64::MAX, now().0, (now() + ms(1000)).0];
    let value = if random.below(2) == 0 { random.word() } else { *random.choose(&near) };
    // That stamp would say that it means to be silent.
    random.choose(&words).store(value.min(PARKED.0 - 1), Ordering::Relaxed);
}

/// Lets time pass: a fault lasts, or the next one comes later.
fn pass_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Waits until a stop has its effect: on another processor, or while a shell waits for the exec of
/// its child, that takes a moment, and whoever looks meanwhile takes it for one that was continued.
fn stand_still(process: &Process) {
    let end = Instant::now() + ms(1000);
    while procfs::state(process.pid()).is_some_and(|state| !"tTZX".contains(state))
        && Instant::now() < end
    {
        thread::sleep(ms(1));
    }
}

/// Whom it meant may have gone meanwhile.
fn send(process: &Process, signal: Signal) {
    let _ = rustix::process::pidfd_send_signal(process.as_fd(), signal);
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(200);
    random.bytes(length)
}
