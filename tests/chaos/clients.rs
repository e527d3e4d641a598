//! The clients that write and read all the time, and what they may read.
//!
//! Each key has one writer, which numbers what it writes: from what was sent and what was
//! acknowledged everybody can tell whether a value may be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use osps_heart::segment::Segment;
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::Monotonic;

use super::common::services::who_serves;
use super::common::{Client, NOBODY, Over, PRIMARY, READ_ONLY, Random, Talk, ms};

/// A client that waits for longer has been forgotten: any fault is over by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// What may be read of one key. One client writes it: rising numbers, each once.
#[derive(Default)]
pub struct Key {
    /// The number acknowledged last.
    pub floor: Word,
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
    pub fn allows(&self, floor: u64, value: u64) -> Result<(), String> {
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
    pub fn settle(&self, value: u64, counts: bool) {
        let sent = if counts { value } else { load(&self.ceiling) };
        for (word, number) in [(&self.floor, value), (&self.ceiling, sent), (&self.barred, sent)] {
            word.store(number, Ordering::SeqCst);
        }
    }
}

pub fn load(word: &Word) -> u64 {
    word.load(Ordering::SeqCst)
}

/// The counter that all clients write: no two get the same number.
#[derive(Default)]
pub struct Shared {
    /// Its value when all was at rest, and the increments sent since.
    pub base: u64,
    pub sent: u64,
    pub acknowledged: BTreeSet<u64>,
}

/// Clients; each has a counter and a text of its own.
pub const CLIENTS: usize = 5;

/// What clients, watchers and the one who strikes tell each other.
#[derive(Default)]
pub struct Board {
    pub talk: Talk,
    /// Held by each client while it uses a connection, and exclusively while all is at rest.
    pub gate: RwLock<()>,
    /// By slot.
    pub addresses: Mutex<BTreeMap<usize, SocketAddr>>,
    /// Where nobody may have been listening, and until when (`None` = it is so yet): the server died
    /// while there was no watchdog.
    pub exposed: Mutex<BTreeMap<SocketAddr, Option<Instant>>>,
    /// Connections that were refused there.
    pub refused: Word,
    pub counters: [Key; CLIENTS],
    pub texts: [Key; CLIENTS],
    pub shared: Mutex<Shared>,
    pub requests: Word,
    pub cuts: Word,
    /// The last beats of each generation, as seen from outside.
    pub beats: Mutex<BTreeMap<(usize, u32), VecDeque<Monotonic>>>,
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

impl Board {
    /// What an error means to a client that began to connect then: a connection may be cut, but is
    /// never refused, except where nobody could hold its socket.
    fn left(&self, address: SocketAddr, began: Instant, error: Error) -> Leave {
        if error.kind() != ErrorKind::ConnectionRefused {
            return error.into();
        }
        let until = self.exposed.lock().unwrap().get(&address).copied();
        let exposed = until.is_some_and(|until| until.is_none_or(|until| began <= until));
        if !exposed {
            return Leave::Wrong(format!("{address}: {error}"));
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        thread::sleep(ms(1));
        Leave::Cut
    }

    /// Everybody is up again.
    pub fn cover(&self) {
        for until in self.exposed.lock().unwrap().values_mut() {
            until.get_or_insert_with(Instant::now);
        }
    }

    /// What became of a connection.
    fn close(&self, who: &str, left: Result<(), Leave>) {
        match left {
            Ok(()) | Err(Leave::Denied) => {}
            Err(Leave::Cut) => drop(self.cuts.fetch_add(1, Ordering::Relaxed)),
            Err(Leave::Wrong(wrong)) => self.talk.complain(format!("{who}: {wrong}")),
        }
    }

    /// Asks services all the time who they are.
    pub fn call(&self) {
        let _over = Over(&self.talk.over);
        while !self.talk.is_over() {
            let addresses: Vec<_> = self.addresses.lock().unwrap().values().copied().collect();
            for address in addresses {
                let began = Instant::now();
                let served = who_serves(address);
                if served.is_ok() {
                    self.requests.fetch_add(1, Ordering::Relaxed);
                }
                let left = served.map(drop).map_err(|error| match error.kind() {
                    // Its process was killed before it answered.
                    ErrorKind::Other => Leave::Cut,
                    _ => self.left(address, began, error),
                });
                self.close("a caller", left);
                thread::sleep(ms(5));
            }
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
pub fn value_of(key: &str, reply: &str) -> Result<u64, String> {
    match reply {
        "(nil)" => Ok(0),
        _ if key.starts_with("text") => number_in(reply),
        _ => reply.parse().map_err(|_| format!("{key} is {reply:?}")),
    }
}

pub struct Visitor<'a> {
    pub board: &'a Board,
    pub number: usize,
    pub random: Random,
}

impl Visitor<'_> {
    pub fn run(&mut self) {
        let _over = Over(&self.board.talk.over);
        while !self.board.talk.is_over() {
            let Ok(_using) = self.board.gate.read() else { return };
            let left = self.visit();
            self.board.close(&format!("client {}", self.number), left);
        }
    }

    /// Between two requests clients have something else to do.
    fn think(&mut self) {
        thread::sleep(ms(self.random.next() % 3));
    }

    fn connect(&self, address: SocketAddr) -> Result<Client, Leave> {
        let began = Instant::now();
        let client =
            Client::try_to(address).map_err(|error| self.board.left(address, began, error))?;
        client.raw().set_read_timeout(Some(PATIENCE))?;
        Ok(client)
    }

    /// One connection: at the primary, or at a secondary in the course's way.
    fn visit(&mut self) -> Result<(), Leave> {
        let primary = self.board.addresses.lock().unwrap()[&PRIMARY];
        let mut client = self.connect(primary)?;
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
            client = self.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
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

/// Notes the beats of all servers, so that verdicts can be checked against them.
pub fn watch_hearts(segment: &Segment, board: &Board) {
    while !board.talk.is_over() {
        for (index, (slot, heart)) in segment.slots().iter().zip(segment.hearts()).enumerate() {
            let generation = slot.server.current_generation();
            let stamp = heart.sample().stamp;
            // In between the slot may have changed hands.
            if slot.server.current_generation() == generation {
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
