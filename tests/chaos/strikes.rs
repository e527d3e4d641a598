//! A round strikes: faults at their times, and what it may cost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use osps::pair::link::{tube_down, tube_up};
use osps::pair::wire::{self, Frame, FrameKind};
use osps::sys::process::Process;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::slack;
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::State;

use super::clients::load;
use super::common::{PRIMARY, Random, Signal, fifo, ms, now};
use super::faults::Fault;
use super::instance::Life;
use super::script::Strike;
use super::{LIMIT, START};

/// Stopped for less than this in one round, a server is not convicted: a beat interval, an eighth
/// of the limit, may have passed before, and the rest is for a busy machine to let it beat again.
const INNOCENT: Duration = ms(250);
/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

/// What has to be done later in a round.
enum Act {
    Strike(Strike),
    /// Continue those who were stopped at that moment; the servers have their slot.
    Continue(Instant, Vec<(Option<usize>, Process)>),
    /// Send on, read nothing, until then.
    Send(TcpStream, usize, Instant),
    /// Fill these with that, until then.
    Fill(Vec<File>, Vec<u8>, Instant),
    /// Close it.
    Close(TcpStream),
    /// Start another watchdog.
    Renew,
}

/// What a round may cost, noted while it strikes.
pub struct Toll {
    pub since: Monotonic,
    pub strikes: usize,
    /// Strikes that end a process, by slot.
    deadly: Vec<u64>,
    /// Time stopped, and strikes that did it: they end a process if it was too long.
    quiet: Vec<(Duration, u64)>,
    pub renewals: u64,
    /// The verdicts and restarts that are due, without the extensions that the watchdog gives.
    pub due: Duration,
    /// The longest limit in force: a server may be struck before its first beat.
    pub limit: Duration,
    /// Pauses of the watchdog that it must notice.
    pub long_pause: bool,
    pub killed: Vec<Process>,
    pub stopped: Vec<Process>,
    /// Connections that asked for a fault: answered or cut in the end.
    pub asked: Vec<TcpStream>,
}

impl Toll {
    pub fn new(strikes: usize, slots: usize) -> Toll {
        Toll {
            since: now(),
            strikes,
            deadly: vec![0; slots],
            quiet: vec![(Duration::ZERO, 0); slots],
            renewals: 0,
            due: Duration::ZERO,
            limit: LIMIT,
            long_pause: false,
            killed: Vec::new(),
            stopped: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// How often a server may be started again for what struck its own slot.
    fn own_starts(&self, slot: usize) -> u64 {
        let (quiet, strikes) = self.quiet[slot];
        self.deadly[slot] + if quiet > INNOCENT { strikes } else { 0 }
    }

    /// The same, for all reasons: the primary takes the others with it. The next watchdog restarts
    /// nobody who lives.
    pub fn starts(&self, slot: usize) -> u64 {
        let primary = if slot == PRIMARY { 0 } else { self.own_starts(PRIMARY) };
        self.own_starts(slot) + primary
    }
}

impl Life<'_> {
    /// Plays the strikes of a round, at their times.
    pub fn strike_all(&mut self, round: &[Strike], toll: &mut Toll) {
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
            Act::Renew => self.osps.start_again(),
        }
        None
    }

    /// One strike; what goes on, or ends it, comes later.
    fn strike(&mut self, strike: &Strike, toll: &mut Toll) -> Option<(Instant, Act)> {
        let since = Instant::now();
        let until = since + ms(strike.span);
        let (struck, later) = match strike.fault {
            Fault::Kill | Fault::Freeze | Fault::Thaw => self.signal(strike, since, toll),
            Fault::Spin | Fault::Block | Fault::Abort | Fault::Sleep => self.ask(strike, toll),
            Fault::Pause | Fault::Suspend => self.pause(strike, since, toll),
            Fault::Restart => self.replace(toll),
            Fault::Deaf | Fault::Half => self.burden(strike, until),
            Fault::Full | Fault::Garbage | Fault::Stale => (true, self.litter(strike, until)),
        };
        if struck {
            self.tally.struck(strike.fault);
        }
        let goes_on = matches!(later, Some(Act::Send(..) | Act::Fill(..)));
        later.map(|act| (if goes_on { since } else { until }, act))
    }

    /// Kills or stops servers. Returns, as the others do, whether anybody was struck.
    fn signal(&self, strike: &Strike, since: Instant, toll: &mut Toll) -> (bool, Option<Act>) {
        let (mut struck, mut thawed) = (false, Vec::new());
        for slot in strike.slots.iter().copied() {
            let Some(process) = self.process(slot) else { continue };
            struck = true;
            self.owe(slot, toll);
            let kills = strike.fault == Fault::Kill;
            send(&process, if kills { Signal::KILL } else { Signal::STOP });
            if strike.fault == Fault::Thaw {
                toll.quiet[slot].1 += 1;
                thawed.push((Some(slot), process));
            } else {
                toll.deadly[slot] += 1;
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
        toll.long_pause = toll.strikes == 1 && ms(strike.span) >= LIMIT;
        (!stopped.is_empty(), Some(Act::Continue(since, stopped)))
    }

    /// Kills the watchdog; its servers live on until the next one comes.
    fn replace(&mut self, toll: &mut Toll) -> (bool, Option<Act>) {
        if self.watchdog().is_none() {
            return (false, None);
        }
        toll.renewals += 1;
        self.board.renewals.store(load(&self.board.renewals) | 1, Ordering::SeqCst);
        self.osps.kill_watchdog();
        (true, Some(Act::Renew))
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
    fn owe(&self, slot: usize, toll: &mut Toll) {
        let limit = if self.state(slot) == Some(State::Starting) { START } else { LIMIT };
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

/// Lets time pass: a fault lasts, or the next one comes later.
fn pass_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Whom it meant may have gone meanwhile.
fn send(process: &Process, signal: Signal) {
    let _ = rustix::process::pidfd_send_signal(process.as_fd(), signal);
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(200);
    random.bytes(length)
}
