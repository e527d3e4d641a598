//! Goal: whatever legal fault strikes, and while whichever other one is being recovered from: what
//! was acknowledged stays, one process at a time owns the data, everything is up again within the
//! documented bound, nobody is restarted who was not struck, and nothing leaks.
//!
//! Method: black box, after TigerBeetle's Vortex. The real binary, real signals, real clients that
//! write and read all the time. Faults come in rounds: some strikes close upon each other, then the
//! window in which everything must recover, then a look at everything while the clients pause. The
//! rounds are a script, drawn from a seed: `OSPS_SEED` draws the same one again, and `OSPS_CHAOS`
//! plays one that is written down, over and over; a failure prints both.
//!
//! What it cannot show: the same interleaving twice, an epoch that lived shorter than a look at it,
//! and faults that need a debugger, a control group or a process that does not die.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test tells its seed, its script and what it survived")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Client, Launch, NOBODY, Osps, READ_ONLY, Random, SOON, Signal, Talk, fifo, now, port,
};
use common::{resident, watch_owner};
use osps::ids::{Generation, SlotId};
use osps::policy::lifecycle::{Cause, STATE_WORDS};
use osps::policy::verdict::{Class, slack};
use osps::role::rundir::{CONTROL, LOCK, MEMBERS, tube_down, tube_up};
use osps::segment::mapping::FILE_NAME as SEGMENT;
use osps::segment::{Segment, events::Event, text};
use osps::sync::{Ordering, Word};
use osps::sys::process::Process;
use osps::sys::procfs;
use osps::time::{Monotonic, nanos};
use osps::wire::{self, Frame, Kind};

const PRIMARY: usize = 0;

/// `--hang-timeout` and `--start-timeout`.
const LIMIT: Duration = ms(500);
const START: Duration = ms(3000);
/// Stopped for less than this in one round, a server is not convicted: a beat interval, an eighth
/// of the limit, may have passed before, and the rest is for a busy machine to let it beat again.
const INNOCENT: Duration = ms(250);
/// How much later than due something may come on a busy machine: at a load of 16 on two processors
/// the scheduler was seen to leave a process out for six seconds.
const NOISE: Duration = Duration::from_secs(10);
/// A client that waits for longer has been forgotten: any fault is over by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the watchdog may grow by, in KiB.
const GROWTH: u64 = 4096;
/// Rounds of one instance, and its longest pause before a restart: then a fresh one takes over.
const ROUNDS: usize = 40;
const WEARY: Duration = ms(400);

/// Kinds of events, from docs/segment.md.
const STARTED: u64 = 1;
const VERDICT: u64 = 4;
const DIED: u64 = 9;
const BACKOFF: u64 = 10;
const LATE_TURN: u64 = 12;
const SPARED: u64 = 13;
const WATCHDOG_STARTED: u64 = 15;
/// Code of the state `starting`.
const STARTING: u64 = 1;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Lets time pass: a fault lasts, or the next one comes later.
fn pass_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

// ---- The script ----

/// What may go wrong; most of it for a span of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, for good.
    Freeze,
    /// SIGSTOP, and SIGCONT after the span.
    Thaw,
    /// A client's `DEBUG SPIN`, `BLOCK`, `ABORT`, and `SLEEP` for the span.
    Spin,
    Block,
    Abort,
    Sleep,
    /// The watchdog alone is stopped for the span.
    Pause,
    /// Everything is stopped for the span, as with a virtual machine. Even spans wake the servers
    /// first, odd ones the watchdog.
    Suspend,
    /// The watchdog is killed; after the span another one starts in its place.
    Restart,
    /// A client sends and sends for the span, and reads nothing.
    Deaf,
    /// A client sends half of a command and waits for the span.
    Half,
    /// Somebody keeps both FIFOs full for the span: even ones with frames, odd ones with noise.
    Full,
    /// So many pieces of noise in both FIFOs.
    Garbage,
    /// So many frames of old generations in both FIFOs.
    Stale,
}

/// Which servers a fault strikes.
#[derive(Clone, Copy)]
enum Whom {
    Nobody,
    One,
    /// One, the primary and another, or all.
    Several,
    /// One secondary, or all.
    Secondaries,
}

/// From, to; one of these pairs.
type Spans = &'static [(u64, u64)];

/// What there is to know of a fault.
struct Row {
    fault: Fault,
    word: &'static str,
    /// Its share among all.
    share: usize,
    whom: Whom,
    spans: Spans,
}

const fn row(fault: Fault, word: &'static str, share: usize, whom: Whom, spans: Spans) -> Row {
    Row { fault, word, share, whom, spans }
}

static FAULTS: [Row; 15] = [
    row(Fault::Kill, "kill", 4, Whom::Several, &[]),
    row(Fault::Freeze, "freeze", 4, Whom::Several, &[]),
    // Too short for a verdict, or around it.
    row(Fault::Thaw, "thaw", 4, Whom::Several, &[(10, 240), (400, 600)]),
    row(Fault::Spin, "spin", 1, Whom::One, &[]),
    row(Fault::Block, "block", 1, Whom::One, &[]),
    row(Fault::Abort, "abort", 1, Whom::One, &[]),
    row(Fault::Sleep, "sleep", 2, Whom::One, &[(10, 240), (400, 700)]),
    // Less than the slack, or more.
    row(Fault::Pause, "pause", 2, Whom::Nobody, &[(10, 60), (100, 1500)]),
    row(Fault::Suspend, "suspend", 2, Whom::Nobody, &[(10, 1500)]),
    row(Fault::Restart, "restart", 2, Whom::Nobody, &[(0, 0), (1, 300)]),
    row(Fault::Deaf, "deaf", 1, Whom::One, &[(50, 400)]),
    row(Fault::Half, "half", 1, Whom::One, &[(50, 400)]),
    row(Fault::Full, "full", 2, Whom::Secondaries, &[(20, 240), (500, 900)]),
    row(Fault::Garbage, "garbage", 1, Whom::Secondaries, &[(1, 40)]),
    row(Fault::Stale, "stale", 1, Whom::Secondaries, &[(1, 400)]),
];

impl Fault {
    fn row(self) -> &'static Row {
        FAULTS.iter().find(|row| row.fault == self).unwrap()
    }

    fn word(self) -> &'static str {
        self.row().word
    }
}

/// One fault: `WORD[:SLOT+SLOT..][/SPAN][@AFTER]`, in milliseconds since the strike before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Strike {
    fault: Fault,
    slots: Vec<usize>,
    span: u64,
    after: u64,
}

/// What strikes together.
type Round = Vec<Strike>;

/// `workers=N; ROUND; ROUND...`, the strikes of a round separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Script {
    workers: usize,
    rounds: Vec<Round>,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fault.word())?;
        for (number, slot) in self.slots.iter().enumerate() {
            write!(f, "{}{slot}", if number == 0 { ':' } else { '+' })?;
        }
        for (mark, time) in [('/', self.span), ('@', self.after)] {
            if time > 0 {
                write!(f, "{mark}{time}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workers={}", self.workers)?;
        for round in &self.rounds {
            let strikes: Vec<_> = round.iter().map(ToString::to_string).collect();
            write!(f, "; {}", strikes.join(", "))?;
        }
        Ok(())
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Strike, String> {
        let number = |digits: &str| digits.parse().map_err(|error| format!("{text}: {error}"));
        let (rest, after) = text.split_once('@').unwrap_or((text, "0"));
        let (rest, span) = rest.split_once('/').unwrap_or((rest, "0"));
        let (word, slots) = rest.split_once(':').unwrap_or((rest, ""));
        let row = FAULTS.iter().find(|row| row.word == word);
        let slots = slots.split('+').filter(|slot| !slot.is_empty()).map(str::parse);
        Ok(Strike {
            fault: row.ok_or_else(|| format!("no fault {word:?}"))?.fault,
            slots: slots.collect::<Result<_, _>>().map_err(|error| format!("{text}: {error}"))?,
            span: number(span)?,
            after: number(after)?,
        })
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Script, String> {
        let (head, rounds) = text.split_once(';').unwrap_or((text, ""));
        let workers = head.trim().strip_prefix("workers=").and_then(|count| count.parse().ok());
        let strikes = |round: &str| round.split(',').map(|text| text.trim().parse()).collect();
        let rounds = rounds.split(';').filter(|round| !round.trim().is_empty()).map(strikes);
        let script = Script {
            workers: workers.ok_or("a script begins with workers=N")?,
            rounds: rounds.collect::<Result<_, _>>()?,
        };
        let aimed = |strike: &Strike| {
            let at_nobody = matches!(strike.fault.row().whom, Whom::Nobody);
            let known = strike.slots.iter().all(|slot| *slot <= script.workers);
            known && at_nobody == strike.slots.is_empty()
        };
        match script.rounds.iter().flatten().find(|strike| !aimed(strike)) {
            Some(strike) => Err(format!("{strike}: no such slots")),
            None => Ok(script),
        }
    }
}

/// Draws rounds without end. Faults are dealt from a shuffled deck, so that each has its turn.
struct Draw {
    random: Random,
    workers: usize,
    deck: Vec<&'static Row>,
}

impl Draw {
    fn new(seed: u64) -> Draw {
        let mut random = Random::new(seed);
        let workers = 1 + random.below(4);
        Draw { random, workers, deck: Vec::new() }
    }

    fn within(&mut self, spans: &[(u64, u64)]) -> u64 {
        if spans.is_empty() {
            return 0;
        }
        let (least, most) = spans[self.random.below(spans.len())];
        least + self.random.next() % (most - least + 1)
    }

    fn strike(&mut self, is_first: bool) -> Strike {
        if self.deck.is_empty() {
            self.deck = FAULTS.iter().flat_map(|row| vec![row; row.share]).collect();
        }
        let card = self.random.below(self.deck.len());
        let &Row { fault, whom, spans, .. } = self.deck.swap_remove(card);
        let secondary = 1 + self.random.below(self.workers);
        let slots = match (whom, self.random.below(10)) {
            (Whom::Nobody, _) => Vec::new(),
            (Whom::Several, 0) => (0..=self.workers).collect(),
            (Whom::Several, 1 | 2) => vec![PRIMARY, secondary],
            (Whom::Several | Whom::One, 3..=5) => vec![PRIMARY],
            (Whom::Secondaries, 0..=4) => (1..=self.workers).collect(),
            _ => vec![secondary],
        };
        let span = self.within(spans);
        // The first leaves the clients some time; the others meet it, or its recovery.
        let after =
            self.within(if is_first { &[(50, 400)] } else { &[(0, 0), (1, 30), (30, 700)] });
        Strike { fault, slots, span, after }
    }
}

impl Iterator for Draw {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let count = [1, 1, 1, 1, 2, 2, 3][self.random.below(7)];
        Some((0..count).map(|number| self.strike(number == 0)).collect())
    }
}

#[test]
fn a_script_is_read_as_it_was_written() {
    for seed in 0..200 {
        let mut draw = Draw::new(seed);
        let script = Script { workers: draw.workers, rounds: draw.by_ref().take(20).collect() };
        assert_eq!(script.to_string().parse(), Ok(script.clone()), "{script}");
        let mut again = Draw::new(seed);
        assert!(again.by_ref().take(20).eq(script.rounds), "one seed, one script");
    }
    let short: Script = "workers=2; kill:0+2; pause/70, stale:1/3@9;".parse().unwrap();
    assert_eq!(short.to_string(), "workers=2; kill:0+2; pause/70, stale:1/3@9");
    for wrong in ["", "kill:1", "workers=1; kill:2", "workers=1; hill:1", "workers=1; kill"] {
        assert!(wrong.parse::<Script>().is_err(), "{wrong}");
    }
}

// ---- The clients ----

/// What may be read of one key. One client writes it: rising numbers, each once.
#[derive(Default)]
struct Key {
    /// The number acknowledged last.
    floor: Word,
    /// The number sent last.
    ceiling: Word,
    /// Numbers up to this one that nobody had seen when all was at rest: they must never come.
    barred: Word,
}

impl Key {
    /// Announces so many further numbers and returns the last.
    fn attempt(&self, count: u64) -> u64 {
        self.ceiling.fetch_add(count, Ordering::SeqCst) + count
    }

    /// Whether `value` may be read, if `floor` was acknowledged before it was asked for.
    fn allows(&self, floor: u64, value: u64) -> Result<(), String> {
        let (ceiling, barred) = (load(&self.ceiling), load(&self.barred));
        if value == floor || (value > floor && value > barred && value <= ceiling) {
            return Ok(());
        }
        Err(format!("{value}, but {floor} was acknowledged, {barred} barred, {ceiling} sent"))
    }

    fn acknowledge(&self, value: u64) -> Result<(), String> {
        let floor = load(&self.floor);
        if value == floor {
            return Err(format!("{value} was acknowledged twice"));
        }
        self.allows(floor, value)?;
        self.floor.store(value, Ordering::SeqCst);
        Ok(())
    }

    /// Nothing is under way: what is read now stays, and what did not come never will.
    fn settle(&self, value: u64, counts: bool) {
        let sent = if counts { value } else { load(&self.ceiling) };
        for (word, number) in [(&self.floor, value), (&self.ceiling, sent), (&self.barred, sent)] {
            word.store(number, Ordering::SeqCst);
        }
    }
}

fn load(word: &Word) -> u64 {
    word.load(Ordering::SeqCst)
}

/// The counter that all clients write: no two get the same number.
#[derive(Default)]
struct Shared {
    /// Its value when all was at rest, and the increments sent since.
    base: u64,
    sent: u64,
    acknowledged: BTreeSet<u64>,
}

/// Clients; each has a counter and a text of its own.
const CLIENTS: usize = 5;

/// What clients, watchers and the one who strikes tell each other.
#[derive(Default)]
struct Board {
    talk: Talk,
    /// Held by each client while it uses a connection, and exclusively while all is at rest.
    gate: RwLock<()>,
    addresses: Mutex<Vec<SocketAddr>>,
    /// Odd while the watchdog is being replaced, and its listening sockets with it.
    renewals: Word,
    counters: [Key; CLIENTS],
    texts: [Key; CLIENTS],
    shared: Mutex<Shared>,
    requests: Word,
    cuts: Word,
    /// The last beats of each generation, as seen from outside.
    beats: Mutex<BTreeMap<(usize, u32), VecDeque<Monotonic>>>,
}

/// Why a client leaves a connection.
enum Leave {
    /// A restart cut it: it tries again.
    Cut,
    /// It may only read: the secondary that was to expect it was replaced, or another client from
    /// its address came first.
    Denied,
    /// A fault of osps.
    Wrong(String),
}

impl From<Error> for Leave {
    fn from(error: Error) -> Leave {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Leave::Wrong(format!("no answer within {PATIENCE:?}"))
            }
            _ => Leave::Cut,
        }
    }
}

impl From<String> for Leave {
    fn from(wrong: String) -> Leave {
        Leave::Wrong(wrong)
    }
}

/// The text that stands for a number: torn, it would not be twenty times the same.
fn text_of(number: u64) -> String {
    format!("{number:08}").repeat(20)
}

fn number_in(text: &str) -> Result<u64, String> {
    let number = text.get(..8).and_then(|digits| digits.parse().ok());
    number.filter(|number| text_of(*number) == text).ok_or_else(|| format!("torn: {text:?}"))
}

/// What a `GET` tells; a key that is not there stands at 0.
fn value_of(key: &str, reply: &str) -> Result<u64, String> {
    match reply {
        "(nil)" => Ok(0),
        _ if key.starts_with("text") => number_in(reply),
        _ => reply.parse().map_err(|_| format!("{key} is {reply:?}")),
    }
}

struct Visitor<'a> {
    board: &'a Board,
    number: usize,
    random: Random,
}

impl Visitor<'_> {
    fn run(&mut self) {
        let _over = Over(&self.board.talk);
        while !self.board.talk.is_over() {
            let Ok(_using) = self.board.gate.read() else { return };
            match self.visit() {
                Ok(()) | Err(Leave::Denied) => {}
                Err(Leave::Cut) => drop(self.board.cuts.fetch_add(1, Ordering::Relaxed)),
                Err(Leave::Wrong(wrong)) => {
                    self.board.talk.complain(format!("client {}: {wrong}", self.number));
                }
            }
        }
    }

    /// Between two requests clients have something else to do.
    fn think(&mut self) {
        thread::sleep(ms(self.random.next() % 3));
    }

    /// A connection may be cut, but is never refused, except while its socket is being replaced.
    fn connect(&self, address: SocketAddr, renewals: u64) -> Result<Client, Leave> {
        let client = match Client::try_to(address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let replaced = || renewals % 2 == 1 || load(&self.board.renewals) != renewals;
                if !replaced() {
                    return Err(Leave::Wrong(format!("{address}: {error}")));
                }
                thread::sleep(ms(1));
                return Err(Leave::Cut);
            }
            client => client?,
        };
        client.raw().set_read_timeout(Some(PATIENCE))?;
        Ok(client)
    }

    /// One connection: at the primary, or at a secondary in the course's way.
    fn visit(&mut self) -> Result<(), Leave> {
        let renewals = load(&self.board.renewals);
        let primary = self.board.addresses.lock().unwrap()[PRIMARY];
        let mut client = self.connect(primary, renewals)?;
        let way = self.random.below(4);
        if way > 0 {
            let word: &[u8] = if way == 1 { b"requetetype1" } else { b"requetetype2" };
            client.stream.get_mut().write_all(word)?;
            let reply = client.bare_once()?;
            if reply == NOBODY {
                thread::sleep(ms(5));
                return Ok(());
            }
            let port: u16 = reply.parse().map_err(|_| format!("port {reply:?}"))?;
            client = self.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), renewals)?;
        }
        for _ in 0..=self.random.below(30) {
            if way == 1 || self.random.below(3) == 0 {
                self.read(&mut client)?;
            } else {
                self.write(&mut client)?;
            }
            self.board.requests.fetch_add(1, Ordering::Relaxed);
            self.think();
        }
        Ok(())
    }

    /// Reads anybody's key.
    fn read(&mut self, client: &mut Client) -> Result<(), Leave> {
        let whose = self.random.below(CLIENTS);
        let (name, keys) = match self.random.below(2) {
            0 => ("count", &self.board.counters),
            _ => ("text", &self.board.texts),
        };
        let floor = load(&keys[whose].floor);
        let value = value_of(name, &client.try_ask(&format!("GET {name}{whose}"))?)?;
        Ok(keys[whose].allows(floor, value).map_err(|why| format!("{name}{whose} is {why}"))?)
    }

    fn write(&mut self, client: &mut Client) -> Result<(), Leave> {
        let number = self.number;
        match self.random.below(4) {
            0 => {
                let sent = self.board.texts[number].attempt(1);
                let reply = client.try_ask(&format!("SET text{number} {}", text_of(sent)))?;
                self.permitted(&reply, "+OK")?;
                self.board.texts[number].acknowledge(sent)?;
            }
            1 => {
                self.board.shared.lock().unwrap().sent += 1;
                let reply = client.try_ask("INCR shared")?;
                let value = self.counted(&reply)?;
                let mut shared = self.board.shared.lock().unwrap();
                let possible = value > shared.base && value <= shared.base + shared.sent;
                if !possible || !shared.acknowledged.insert(value) {
                    return Err(Leave::Wrong(format!("shared: {value} a second time, or unsent")));
                }
            }
            choice => {
                // One, or a pipeline of some.
                let count = if choice == 2 { 1 } else { 2 + self.random.next() % 20 };
                self.board.counters[number].attempt(count);
                let pipeline = format!("INCR count{number}\r\n").repeat(count.try_into().unwrap());
                client.stream.get_mut().write_all(pipeline.as_bytes())?;
                for _ in 0..count {
                    let value = self.counted(&client.try_reply()?)?;
                    self.board.counters[number].acknowledge(value)?;
                }
            }
        }
        Ok(())
    }

    fn counted(&self, reply: &str) -> Result<u64, Leave> {
        self.permitted(reply, ":")?;
        Ok(reply[1..].parse().map_err(|_| format!("INCR: {reply:?}"))?)
    }

    fn permitted(&self, reply: &str, expected: &str) -> Result<(), Leave> {
        match reply {
            READ_ONLY => Err(Leave::Denied),
            _ if reply.starts_with(expected) => Ok(()),
            _ => Err(Leave::Wrong(format!("client {}: {reply:?}", self.number))),
        }
    }
}

/// Ends everybody's work when its holder goes, also by a panic.
struct Over<'a>(&'a Talk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(1, Ordering::Relaxed);
    }
}

/// Notes the beats of all servers, so that verdicts can be checked against them.
fn watch_hearts(segment: &Segment, board: &Board) {
    while !board.talk.is_over() {
        for (index, (slot, heart)) in segment.slots().iter().zip(segment.hearts()).enumerate() {
            let generation = slot.record.current_generation();
            let stamp = heart.sample().stamp;
            // In between the slot may have changed hands.
            if slot.record.current_generation() == generation {
                let mut beats = board.beats.lock().unwrap();
                let beats = beats.entry((index, generation.0)).or_default();
                if beats.back() != Some(&stamp) {
                    beats.push_back(stamp);
                    beats.drain(..beats.len().saturating_sub(100));
                }
            }
        }
        thread::sleep(ms(2));
    }
}

// ---- Striking ----

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
struct Toll {
    since: Monotonic,
    strikes: usize,
    /// Strikes that end a process, by slot.
    deadly: Vec<u64>,
    /// Time stopped, and strikes that did it: they end a process if it was too long.
    quiet: Vec<(Duration, u64)>,
    renewals: u64,
    /// The verdicts and restarts that are due, without what the watchdog grants.
    due: Duration,
    /// The longest limit in force: a server may be struck before its first beat.
    limit: Duration,
    /// Pauses of the watchdog that it must notice.
    long_pause: bool,
    killed: Vec<Process>,
    stopped: Vec<Process>,
    /// Connections that asked for a fault: answered or cut in the end.
    asked: Vec<TcpStream>,
}

impl Toll {
    fn new(strikes: usize, slots: usize) -> Toll {
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

    /// The same, for all reasons: the primary takes the others with it, the next watchdog replaces
    /// everybody.
    fn starts(&self, slot: usize) -> u64 {
        let primary = if slot == PRIMARY { 0 } else { self.own_starts(PRIMARY) };
        self.own_starts(slot) + primary + self.renewals
    }
}

/// One instance of osps, from its start to its end.
struct Life<'a> {
    osps: Osps,
    segment: &'a Segment,
    board: &'a Board,
    tally: &'a mut Tally,
    /// Descriptors by slot, `None` = the watchdog, and whether it took over its segment.
    descriptors: BTreeMap<(Option<usize>, bool), usize>,
    resident: u64,
    /// The longest pause before a restart so far.
    pause: Duration,
    /// The last event that was judged, and what the events tell so far: slots with a process, and
    /// the newest generation.
    judged: Option<Event>,
    living: BTreeSet<usize>,
    newest: Generation,
}

impl Life<'_> {
    fn slots(&self) -> usize {
        self.segment.slots().len()
    }

    fn process(&self, slot: usize) -> Option<Process> {
        let identity = self.segment.slots()[slot].record.identity()?;
        Process::find(identity.pid, identity.start_time)
    }

    fn watchdog(&self) -> Option<Process> {
        let pid = self.osps.watchdog_pid();
        Process::find(pid, procfs::start_time(pid)?)
    }

    fn address(&self, slot: usize) -> SocketAddr {
        self.board.addresses.lock().unwrap()[slot]
    }

    /// Plays the strikes of a round, at their times.
    fn strike_all(&mut self, round: &[Strike], toll: &mut Toll) {
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
                for fifo in &mut fifos {
                    while fifo.write(&piece).is_ok() {}
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
        let starting = self.state(slot) == STARTING;
        let limit = if starting { START } else { LIMIT };
        toll.limit = toll.limit.max(limit);
        toll.due += limit + slack(limit);
    }

    fn state(&self, slot: usize) -> u64 {
        self.segment.slots()[slot].record.state.load(Ordering::Relaxed)
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
        let (kind, _) = Kind::ALL[random.below(Kind::ALL.len())];
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

    fn generation(&self, slot: usize) -> u32 {
        self.segment.slots()[slot].record.current_generation().0
    }
}

/// Whom it meant may have gone meanwhile.
fn send(process: &Process, signal: Signal) {
    let _ = rustix::process::pidfd_send_signal(process.as_fd(), signal);
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(200);
    (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

// ---- The window of recovery ----

impl Life<'_> {
    /// How long after the last strike everything must be up again: the verdicts of all strikes, one
    /// after the other, each within `limit + slack`; one more limit for each that was granted, and
    /// the lateness that it was granted for; the pauses in front of restarts; and what a busy
    /// machine takes for the rest.
    fn due(&self, toll: &Toll) -> Duration {
        let mut events = self.segment.events().latest(1024);
        events.retain(|event| event.time >= toll.since);
        let extra = events.iter().map(|event| match event.kind {
            LATE_TURN => toll.limit + Duration::from_nanos(event.arguments[0]),
            SPARED => toll.limit,
            _ => backoff(event).unwrap_or_default(),
        });
        toll.due + extra.sum::<Duration>() + NOISE
    }

    /// Waits until everything is up and was seen to work after the last strike.
    fn recover(&mut self, toll: &mut Toll) -> Duration {
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
        let listens = self.segment.slots().iter().map(|slot| text::load(&slot.record.listen));
        let addresses = listens.map(|address| address.parse().unwrap()).collect();
        *self.board.addresses.lock().unwrap() = addresses;
        let renewals = load(&self.board.renewals);
        self.board.renewals.store(renewals.next_multiple_of(2), Ordering::SeqCst);
        took
    }

    /// Fails as soon as a client or a watcher complains.
    fn listen(&self) {
        let wrong = self.board.talk.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty() && !self.board.talk.is_over(), "{wrong:#?}");
    }

    /// What is not as it shall be, by the segment and the kernel.
    fn trouble(&self, toll: &mut Toll, ended: Monotonic) -> Option<String> {
        let header = self.segment.header();
        let turned = header.watchdog_heart.sample().stamp > ended;
        let named = load(&header.watchdog_pid) == u64::from(self.osps.watchdog_pid());
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
            ("watchdogs are dead", usize::from(self.osps.watchdog_is_dead())),
            ("watchdogs are not named in the segment", usize::from(!named)),
            ("watchdogs have not turned", usize::from(!turned)),
        ] {
            if count > 0 {
                return Some(format!("{count} {what}"));
            }
        }
        (0..self.slots()).find_map(|slot| {
            let state = STATE_WORDS[usize::try_from(self.state(slot)).unwrap()];
            let beat = self.segment.hearts()[slot].sample().stamp > ended;
            let lives = self.process(slot).is_some();
            let sound = state == "up" && beat && lives;
            (!sound).then(|| format!("slot {slot} is {state}, lives: {lives}, beat: {beat}"))
        })
    }

    /// What does not work, by the servers' own account and by a write in the course's way.
    fn unserved(&self) -> Option<String> {
        let failed = |what: &str, error: &Error| Some(format!("{what}: {error}"));
        let address = |slot: usize| -> Option<SocketAddr> {
            text::load(&self.segment.slots()[slot].record.listen).parse().ok()
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

/// The host gave a server no processor for too long: docs/verdicts.md. A silent owner of the data
/// may be convicted for not giving it back before it is convicted as starved.
fn is_starved(event: &Event) -> bool {
    let [_, class, silence] = event.arguments;
    let owner = class == Class::NotReleasing.code() && silence >= nanos(LIMIT / 2);
    event.kind == VERDICT && (owner || class == Class::Starved.code())
}

/// One more limit, because the watchdog or a server got no processor.
fn is_grant(event: &Event) -> bool {
    matches!(event.kind, LATE_TURN | SPARED)
}

/// The pause before a restart, if the event tells of one.
fn backoff(event: &Event) -> Option<Duration> {
    (event.kind == BACKOFF).then(|| Monotonic(event.arguments[0]).since(event.time))
}

// ---- The look at everything ----

impl Life<'_> {
    fn play(&mut self, round: &[Strike]) {
        let mut toll = Toll::new(round.len(), self.slots());
        self.strike_all(round, &mut toll);
        loop {
            let took = self.recover(&mut toll);
            if let ([strike], 1) = (round, toll.strikes) {
                self.tally.recovered(strike.fault, took);
            }
            self.judge(&toll);
            if self.rest().is_ok() {
                return;
            }
            // A host that starves a server for too long gets it replaced, also now.
            toll = Toll::new(0, self.slots());
        }
    }

    /// Lets the clients pause, and looks at the data and for leaks.
    fn rest(&mut self) -> Result<(), Error> {
        let board = self.board;
        let _rest = board.gate.write().unwrap();
        self.listen();
        self.check_data()?;
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
        let run_dir = self.osps.run_dir();
        let servers: BTreeSet<_> =
            (0..self.slots()).filter_map(|slot| Some(self.process(slot)?.pid())).collect();
        let family = family(run_dir);
        if servers != family || servers.len() != self.slots() {
            return Some(format!("servers {servers:?}, processes {family:?}"));
        }
        let zombies = self.osps.zombies();
        if !zombies.is_empty() {
            return Some(format!("zombies {zombies:?}"));
        }
        let mut expected = BTreeSet::from([LOCK, MEMBERS, SEGMENT, CONTROL].map(str::to_owned));
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
            let report = &self.segment.slots()[slot].report;
            let [sessions, parked] = [&report.sessions, &report.parked].map(load);
            if (sessions, parked) != (0, 0) {
                return Some(format!("slot {slot}: {sessions} sessions, {parked} parked"));
            }
        }
        let mut pids = vec![(None, self.osps.watchdog_pid())];
        pids.extend((0..self.slots()).map(|slot| (Some(slot), self.osps.pid(slot))));
        pids.into_iter().find_map(|(who, pid)| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
            let key = (who, who.is_none() && load(&self.board.renewals) > 0);
            let before = *self.descriptors.entry(key).or_insert(open);
            (before != open).then(|| format!("{who:?} has {open} descriptors, {before} before"))
        })
    }

    /// Whether what the watchdog did since the last time was its right and its duty.
    fn judge(&mut self, toll: &Toll) {
        let mut events = self.segment.events().latest(1024);
        let judged = events.iter().position(|event| Some(*event) == self.judged);
        events.drain(..judged.map_or(0, |last| last + 1));
        self.judged = events.last().copied().or(self.judged);
        let lines: Vec<_> = events.iter().map(|event| format!("{event:?}")).collect();
        let told = lines.join("\n");
        let starved = |slot: usize| count(&events, slot, is_starved);
        for slot in 0..self.slots() {
            let starts = count(&events, slot, |event| event.kind == STARTED);
            let primarys = if slot == PRIMARY { 0 } else { starved(PRIMARY) };
            let allowed = toll.starts(slot) + starved(slot) + primarys;
            assert!(starts <= allowed, "slot {slot}: {starts} starts, not {allowed}:\n{told}");
            self.tally.starts += starts;
        }
        for event in &events {
            let slot = event.slot.map_or(PRIMARY, SlotId::index);
            let ending = match event.kind {
                DIED => Some([event.arguments[0], event.arguments[1]]),
                BACKOFF => Some([event.arguments[1], event.arguments[2]]),
                _ => None,
            };
            if let Some(ending) = ending {
                self.living.remove(&slot);
                // KILL and ABRT: nobody left by itself, nobody crashed.
                assert!(ending == [1, 9] || ending == [1, 6], "it ended by itself: {event:?}");
            }
            match event.kind {
                VERDICT => self.assert_just(event),
                // It ended the servers of the one before.
                WATCHDOG_STARTED => self.living.clear(),
                STARTED => {
                    assert!(self.living.insert(slot), "two in one slot:\n{told}");
                    assert!(event.generation > self.newest, "a generation again:\n{told}");
                    self.newest = event.generation;
                }
                _ => {}
            }
        }
        let granted = events.iter().filter(|event| is_grant(event)).count();
        self.tally.grants += granted;
        assert!(granted > 0 || !toll.long_pause, "a pause went unnoticed:\n{told}");
        self.pause = events.iter().filter_map(backoff).fold(self.pause, Duration::max);
        let errors = self.osps.find_log(&[" ERROR "]).or_else(|| self.osps.find_log(&["panicked"]));
        assert!(errors.is_none(), "{errors:?}");
    }

    /// A server that is convicted of silence had been silent for its limit.
    fn assert_just(&mut self, verdict: &Event) {
        let [cause, class, silence] = verdict.arguments;
        let limit = if cause == Cause::StartTimeout.code() { START } else { LIMIT };
        if cause == Cause::Primary.code() {
            return;
        }
        let word = Class::from_code(class).map_or("start-timeout".to_owned(), |c| c.to_string());
        *self.tally.verdicts.entry(word).or_default() += 1;
        if class == Class::NotReleasing.code() {
            return;
        }
        assert!(silence >= nanos(limit), "convicted early: {verdict:?}");
        let of = (verdict.slot.unwrap().index(), verdict.generation.0);
        // A beat that came while the verdict was being written down came too late.
        let counts = |beat: &&Monotonic| **beat <= verdict.time - limit / 2;
        let beats = self.board.beats.lock().unwrap().remove(&of).unwrap_or_default();
        let last = beats.iter().rfind(counts);
        let silent = last.is_none_or(|beat| verdict.time.since(*beat) >= limit);
        assert!(silent, "convicted, but it had beaten at {last:?}: {verdict:?}");
    }

    /// An orderly stop leaves nothing at all.
    fn end(mut self) {
        let _rest = self.board.gate.write().unwrap();
        let servers: Vec<_> = (0..self.slots()).map(|slot| self.osps.process(slot)).collect();
        self.osps.signal_watchdog(Signal::TERM);
        let status = self.osps.wait_exit();
        assert_eq!(status.code(), Some(0));
        assert!(servers.iter().all(Process::is_dead), "a server outlives a stop");
        let run_dir = self.osps.run_dir();
        assert!(!run_dir.exists(), "{} stays", run_dir.display());
        assert_eq!(family(run_dir), BTreeSet::new(), "processes stay");
    }
}

fn count(events: &[Event], slot: usize, counts: impl Fn(&Event) -> bool) -> u64 {
    let here = |event: &&Event| event.slot.is_some_and(|at| at.index() == slot) && counts(event);
    events.iter().filter(here).count() as u64
}

/// Processes that osps started for this directory, wherever they stand in the tree by now.
fn family(run_dir: &std::path::Path) -> BTreeSet<u32> {
    let mark = format!("OSPS_RUN_DIR={}", run_dir.display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    })
    .collect()
}

// ---- The run ----

/// What was survived.
#[derive(Default)]
struct Tally {
    /// By fault: how many, and the slowest recovery from one that came alone.
    faults: BTreeMap<Fault, (u64, Duration)>,
    rounds: usize,
    lives: usize,
    starts: u64,
    /// By class.
    verdicts: BTreeMap<String, u64>,
    grants: usize,
    requests: u64,
    cuts: u64,
    epochs: usize,
}

impl Tally {
    fn struck(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().0 += 1;
    }

    fn recovered(&mut self, fault: Fault, took: Duration) {
        let slowest = &mut self.faults.entry(fault).or_default().1;
        *slowest = took.max(*slowest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10}{:>10}{:>26}", "fault", "survived", "slowest recovery, alone")?;
        for (fault, (count, slowest)) in &self.faults {
            let slowest = slowest.as_millis();
            writeln!(f, "{:<10}{count:>10}{slowest:>23} ms", fault.word())?;
        }
        let faults: u64 = self.faults.values().map(|(count, _)| count).sum();
        let Tally { rounds, lives, starts, grants, requests, cuts, epochs, .. } = self;
        writeln!(f, "{faults} faults in {rounds} rounds of {lives} instances: {starts} starts")?;
        let verdicts = self.verdicts.iter().map(|(class, count)| format!("{class} {count}"));
        let verdicts = verdicts.collect::<Vec<_>>().join(", ");
        writeln!(f, "verdicts: {verdicts}; {grants} limits granted")?;
        write!(f, "{requests} requests answered, {cuts} connections cut, {epochs} epochs seen")
    }
}

/// Tells, when the test fails, how to play it again.
struct Replay {
    seed: Option<u64>,
    played: Script,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        eprintln!("--- what was played; the last round failed ---\n{}", self.played);
        let play = "cargo test --test chaos twenty_seconds -- --nocapture";
        if let Some(seed) = self.seed {
            eprintln!("--- again from the seed ---\nOSPS_SEED={seed} {play}");
        }
        eprintln!("--- again as it is written ---\nOSPS_CHAOS='{}' {play}", self.played);
    }
}

/// One instance, until its rounds, its strength or the time is over.
fn live(
    replay: &mut Replay,
    rounds: impl Iterator<Item = Round>,
    until: Instant,
    tally: &mut Tally,
) {
    let workers = replay.played.workers.to_string();
    let limits = ["--hang-timeout", "500ms", "--start-timeout", "3s"];
    let args = [&["--workers", &workers, "--allow-debug"], &limits[..]].concat();
    let osps = Launch::pair(&args).start();
    let segment = osps.segment();
    let board = Board::default();
    let addresses = (0..segment.slots().len()).map(|slot| osps.address(slot));
    *board.addresses.lock().unwrap() = addresses.collect();
    thread::scope(|scope| {
        let (board, segment) = (&board, &segment);
        let over = Over(&board.talk);
        for number in 0..CLIENTS {
            let random = Random::new(replay.seed.unwrap_or_default().wrapping_add(number as u64));
            scope.spawn(move || Visitor { board, number, random }.run());
        }
        let owners = scope.spawn(|| watch_owner(segment, &board.talk));
        scope.spawn(|| watch_hearts(segment, board));
        let mut life = Life {
            osps,
            segment,
            board,
            tally,
            descriptors: BTreeMap::new(),
            resident: 0,
            pause: Duration::ZERO,
            judged: segment.events().latest(1).pop(),
            living: (0..segment.slots().len()).collect(),
            newest: Generation(u32::try_from(load(&segment.header().generation)).unwrap()),
        };
        // A round without strikes shows what is ordinary.
        life.play(&[]);
        for round in rounds {
            replay.played.rounds.push(round.clone());
            life.play(&round);
            life.tally.rounds += 1;
            if Instant::now() >= until || life.pause >= WEARY {
                break;
            }
        }
        life.end();
        drop(over);
        tally.lives += 1;
        tally.requests += load(&board.requests);
        tally.cuts += load(&board.cuts);
        tally.epochs += owners.join().unwrap().len();
    });
}

/// Instance after instance, for so long; at least one.
fn chaos(span: Duration) {
    // A server that aborts by request shall leave no core.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
    let span = std::env::var("OSPS_CHAOS_TIME").map_or(span, |text| {
        humantime::parse_duration(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    let written = std::env::var("OSPS_CHAOS").ok();
    let written: Option<Script> = written.map(|text| text.parse().unwrap());
    let begun = Instant::now();
    let until = begun + span;
    let mut tally = Tally::default();
    let mut seed = common::seed();
    let mut told = begun;
    while tally.lives == 0 || Instant::now() < until {
        if let Some(script) = &written {
            let played = Script { workers: script.workers, rounds: Vec::new() };
            let mut replay = Replay { seed: None, played };
            live(&mut replay, script.rounds.iter().cloned(), until, &mut tally);
        } else {
            let draw = Draw::new(seed);
            eprintln!("OSPS_SEED={seed} ({} workers)", draw.workers);
            let played = Script { workers: draw.workers, rounds: Vec::new() };
            let mut replay = Replay { seed: Some(seed), played };
            live(&mut replay, draw.take(ROUNDS), until, &mut tally);
            seed = Random::new(seed).next();
        }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            eprintln!("after {:.0?}:\n{tally}", begun.elapsed());
        }
    }
    eprintln!("survived {:.0?}:\n{tally}", begun.elapsed());
    assert!(tally.requests > 100 && tally.epochs > 5, "nothing happened");
}

#[test]
fn faults_are_survived_for_twenty_seconds() {
    chaos(Duration::from_secs(20));
}

#[test]
#[ignore = "takes an hour: cargo test --release --test chaos -- --ignored --nocapture"]
fn faults_are_survived_for_an_hour() {
    chaos(Duration::from_secs(3600));
}
