//! Hostile bytes: whatever arrives in a FIFO, from a client, from a server, or stands in the
//! segment, nothing panics, runs for ever, reads outside or takes memory without bound.
//!
//! Goal: a short run of the fuzz targets (tests/fuzz/targets.rs) in every `cargo test`; and a real
//! osps whose segment is overwritten while it runs: the watchdog goes on, kills nobody but its own
//! servers, and once the scribbling stops everything is up and stays up.
//!
//! Method: inputs are noise, and mutated samples (the corpus in tests/fuzz/corpus), drawn from a
//! seed that is printed; `OSPS_SEED` draws them again. Memory is counted by the allocator, time by
//! the thread's own clock. From outside, the test plays the hostile process: it writes noise into
//! the segment, old words, and words that would mean something: pids, owners, counts.
//!
//! What it cannot show: what only coverage finds (that is what fuzzing is for, docs/testing.md);
//! words that mean something the test did not think of; and it promises no data, only service.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test tells its seed")]
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

mod common;
#[path = "fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::mem::offset_of;
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use osps::instance::place;
use osps::pair::client::read_reply;
use osps::sys::process::Process;
use osps_heart::ids::{Epoch, Owner, SlotId};
use osps_heart::segment::layout::{OwnerCells, PAGE, ServerCells};
use osps_heart::segment::{Access, Geometry, Segment};
use osps_heart::sync::{Ordering, Word};
use targets::{TARGETS, Target};

use common::{
    Guest, Launch, NO_RESTARTS, Osps, Over, PRIMARY, Random, SECONDARY, SOON, Signal, now, pass,
    process_of, told_seed,
};

// ---- What an input may cost ----

/// The system's allocator, with an account for each thread.
struct Counting;

thread_local! {
    /// Bytes that this thread holds, and the most that it held.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn account(change: impl FnOnce(usize) -> usize) {
    // A thread that is ending has no account any more.
    let _ = HELD.try_with(|held| {
        let now = change(held.get().0);
        held.set((now, now.max(held.get().1)));
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(|held| held.saturating_add(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        account(|held| held.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that this thread held at once in `work`, beyond what it held before.
fn most_held(work: impl FnOnce()) -> usize {
    let before = HELD.get().0;
    HELD.set((before, before));
    work();
    HELD.get().1 - before
}

/// Time that this thread had a processor.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// Inputs per target in `cargo test`, beside the corpus.
const INPUTS: usize = 1500;
/// Most bytes of an input.
const INPUT_MAX: usize = 4096;
/// Memory for one input: the areas of the targets, replies to it, and a multiple of its length. A
/// length or a count that was believed would be far above it.
const MEMORY_MAX: usize = 512 << 10;
/// Time for one input, in a debug build; most take a thousandth.
const TIME_MAX: Duration = Duration::from_secs(2);

// ---- Inputs ----

/// What often matters to a parser.
const TELLING: [&[u8]; 12] = [
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x01\0\0\0\0\0\0\0",
    b"\0\x10\0\0\0\0\0\0",
    b"OSPF\x01\x05",
    b"\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n",
    b"$65536\r\n",
    b"KEYS *[^a-z]?\\\r\n",
    b"\"",
    b"99999999999999999999",
    b"FLUSHDB\n",
];

/// A sample with a few changes.
fn mutated(samples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.choose(samples).clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let until = at + random.below(input.len() - at + 1).min(32);
        match random.below(6) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..until)),
            2 => drop(input.splice(at..at, random.choose(&TELLING).iter().copied())),
            3 => drop(input.splice(at..until, random.choose(&TELLING).iter().copied())),
            4 => {
                let other = random.choose(samples);
                input.splice(at..at, other.iter().copied());
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    input.truncate(INPUT_MAX);
    input
}

/// The samples of a target.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files =
        std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut samples: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    samples.sort();
    samples
}

/// Tells the input that was at work when a target panicked.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {}, input b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn play(name: &str, target: Target, input: &[u8]) {
    let told = Told(name, input);
    let began = cpu_time();
    let held = most_held(|| target(input));
    let took = cpu_time().saturating_sub(began);
    assert!(held <= MEMORY_MAX, "{held} bytes held for {} of input", input.len());
    assert!(took <= TIME_MAX, "{took:?} for {} bytes of input", input.len());
    drop(told);
}

fn run(name: &str) {
    let (_, target) = *TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let samples = corpus(name);
    assert!(!samples.is_empty(), "no corpus");
    for (path, sample) in &samples {
        play(path, target, sample);
    }
    let samples: Vec<_> = samples.into_iter().map(|(_, sample)| sample).collect();
    let mut random = Random::new(told_seed(name));
    for number in 0..INPUTS {
        let input = if number % 4 == 0 {
            let length = random.below(256);
            random.bytes(length)
        } else {
            mutated(&samples, &mut random)
        };
        play(name, target, &input);
    }
}

#[test]
fn frames() {
    run("frame");
}

#[test]
fn requests() {
    run("resp");
}

#[test]
fn replies() {
    run("reply");
}

#[test]
fn segments() {
    run("attach");
}

#[test]
fn tables() {
    run("table");
}

#[test]
fn files_of_services() {
    run("config");
}

/// A target that nobody runs would be forgotten.
#[test]
fn every_target_is_run_here_and_by_the_fuzzer() {
    let this = include_str!("hostile.rs");
    let manifest = include_str!("fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(this.contains(&format!("run(\"{name}\");")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

/// `osps client --addr` may meet any server. One that announced a long list and never stopped
/// talking took all the memory there was.
#[test]
fn a_server_that_never_stops_talking_is_left() {
    struct Endless(u64);
    impl std::io::Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            assert!(self.0 < 1 << 22, "still listening");
            let say: &[u8] = if self.0 == 0 { b"*18446744073709551615\r\n" } else { b"+\r\n" };
            self.0 += 1;
            let length = say.len().min(into.len());
            into[..length].copy_from_slice(&say[..length]);
            Ok(length)
        }
    }
    let held = most_held(|| assert!(read_reply(Endless(0)).is_err()));
    assert!(held <= MEMORY_MAX, "{held} bytes held for nothing");
}

// ---- A running osps ----

/// How long a test scribbles: several hang timeouts.
const SCRIBBLING: Duration = Duration::from_secs(4);
/// Longest pause between two checks of a watchdog that makes five a second.
const CHECKS: Duration = Duration::from_secs(5);

/// A process that has nothing to do with osps; it waits for its standard input to end.
struct Bystander {
    process: Process,
    _guest: Guest,
}

impl Bystander {
    fn start() -> Bystander {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = process_of(child.id()).unwrap();
        Bystander { process, _guest: Guest(child) }
    }

    fn assert_lives(&self, osps: &Osps) {
        assert!(!self.process.is_dead(), "a bystander was killed\n{}", osps.log());
    }
}

/// What servers write, or the primary as arbiter, and what nobody is judged by: parts of the file.
fn server_written(geometry: &Geometry) -> Vec<Range<usize>> {
    let report = |slot| {
        let page = geometry.slots_offset + slot * PAGE;
        page + size_of::<ServerCells>()..page + PAGE
    };
    let hearts = geometry.hearts_offset..geometry.hearts_offset + geometry.slots * 64;
    let owner = geometry.owner_offset..geometry.owner_offset + 24;
    let lists = geometry.data_offset..geometry.data_offset + PAGE;
    let copies = geometry.data_offset + PAGE..geometry.total_size;
    let gaps = geometry.gaps_offset..geometry.data_offset;
    let others = [hearts, owner.clone(), owner, gaps, lists, copies];
    (0..geometry.slots).map(report).chain(others).collect()
}

/// Somebody who may write the segment, and does.
struct Scribbler<'a> {
    segment: Segment,
    file: File,
    random: Random,
    parts: Vec<Range<usize>>,
    bystander: &'a Bystander,
}

impl<'a> Scribbler<'a> {
    fn new(osps: &Osps, random: Random, bystander: &'a Bystander) -> Scribbler<'a> {
        let path = osps.run_dir().join("segment");
        Scribbler {
            segment: osps.segment(),
            file: File::options().read(true).write(true).open(path).unwrap(),
            random,
            parts: server_written(osps.segment().geometry()),
            bystander,
        }
    }

    /// One word somewhere, or once in a while a whole part.
    fn scribble(&mut self) {
        let part = self.random.choose(&self.parts).clone();
        if self.random.below(500) == 0 {
            let noise = self.random.bytes(part.len());
            self.store(part.start, &noise);
        } else {
            let word = part.start + self.random.below(part.len() / 8) * 8;
            let value = self.value(word);
            self.store(word, &value.to_le_bytes());
        }
    }

    /// A record that names the bystander as the server of a slot.
    fn impersonate(&mut self) {
        let slot = self.random.below(self.segment.slots().len());
        let record = self.segment.geometry().slots_offset + slot * PAGE;
        for (field, value) in [
            (offset_of!(ServerCells, generation), self.random.next() % 64),
            (offset_of!(ServerCells, start_time), self.bystander.process.start_time()),
            (offset_of!(ServerCells, pid), u64::from(self.bystander.process.pid())),
        ] {
            self.store(record + field, &value.to_le_bytes());
        }
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, at as u64).unwrap();
    }

    /// Noise, or something that means something.
    fn value(&mut self, at: usize) -> u64 {
        let slot = self.random.below(self.segment.slots().len());
        let server = &self.segment.slots()[slot].server;
        let owner = self.segment.owner().current();
        match self.random.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => self.random.next() % 64,
            3 => u64::from(self.bystander.process.pid()),
            4 => self.bystander.process.start_time(),
            5 => server.pid.load(Ordering::Relaxed),
            6 => {
                let mut old = [0; 8];
                self.file.read_exact_at(&mut old, at as u64).unwrap();
                u64::from_le_bytes(old).wrapping_add(self.random.next() % 3).wrapping_sub(1)
            }
            7 => {
                let [low, high, ..] = server.current_generation().0.to_le_bytes();
                let epoch = Epoch(*self.random.choose(&[0, 1, owner.epoch.0, owner.epoch.0 + 1]));
                let slot = u8::try_from(slot).ok().map(SlotId);
                Owner { slot, generation: u16::from_le_bytes([low, high]), epoch }.pack()
            }
            8 => owner.epoch.0,
            9 => now().0,
            _ => self.random.word(),
        }
    }
}

/// Watches what the hostile process must not bring about, while `scribble` goes on.
fn under_attack(osps: &Osps, bystander: &Bystander, mut scribble: impl FnMut() + Send) {
    let over = Word::new(0);
    let goes_on = || over.load(Ordering::Relaxed) == 0;
    // Looked up before they may be scribbled over.
    let addresses = [PRIMARY, SECONDARY].map(|slot| osps.address(slot));
    let began = now();
    std::thread::scope(|scope| {
        let end = Over(&over);
        scope.spawn(|| {
            while goes_on() {
                (0..32).for_each(|_| scribble());
                pass(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            while goes_on() {
                assert_status_works(osps);
            }
        });
        for address in addresses {
            scope.spawn(move || {
                while goes_on() {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    // Whatever is answered, and if nothing is: the server is replaced, or waits.
                    for request in ["SET k v", "GET k", "INCR n", "KEYS *", "DEL k", "FLUSHDB"] {
                        let sent = stream.write_all(format!("{request}\r\n").as_bytes());
                        if sent.is_err() || !matches!(lines.next(), Some(Ok(_))) {
                            break;
                        }
                    }
                }
            });
        }
        while now().since(began) < SCRIBBLING {
            assert!(!osps.watchdog_is_dead(), "{}", osps.log());
            let checked = osps.out.lock().unwrap().last().map_or(began, |line| line.at);
            assert!(now().since(checked.max(began)) < CHECKS, "no check\n{}", osps.log());
            bystander.assert_lives(osps);
            pass(Duration::from_millis(20));
        }
        drop(end);
    });
    assert_eq!(osps.find_log(&["panicked"]).map(|line| line.text), None, "{}", osps.log());
}

/// `osps status` ends with one of its exit codes, and shows something that can be read.
fn assert_status_works(osps: &Osps) {
    let advice = &["status", "--advice"][..];
    for args in [&["status", "--json"][..], &["status"], advice, &[advice, &["--json"]].concat()] {
        let output = osps.command(args);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 3 | 4)), "{args:?}: {output:?}");
        let shown = str::from_utf8(&output.stdout).unwrap();
        assert_eq!(shown.is_empty(), code == Some(4), "{args:?}: {output:?}");
        if code != Some(4) && args.contains(&"--json") {
            serde_json::from_str::<serde_json::Value>(shown).unwrap();
        }
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    }
}

/// What a server was restarted for, over all slots.
fn restarts(osps: &Osps) -> Vec<[u64; NO_RESTARTS.len()]> {
    (0..osps.segment().slots().len()).map(|slot| osps.restarts(slot)).collect()
}

/// Everything is up, serves, and stays up.
fn assert_calm(osps: &Osps, hang_timeout: Duration) {
    osps.wait_all_up();
    // The table is whatever was scribbled: made anew, it works, and everybody reads it.
    osps.wait("a table made anew", || (osps.ask(PRIMARY, "FLUSHDB") == "+OK").then_some(()));
    assert_eq!(osps.ask(PRIMARY, "SET k whole"), "+OK");
    for slot in 0..osps.segment().slots().len() {
        assert_eq!(osps.ask(slot, "GET k"), "$5", "slot {slot}");
    }
    let before = restarts(osps);
    pass(3 * hang_timeout);
    osps.wait_all_up();
    assert_eq!(restarts(osps), before, "{}", osps.log());
}

/// The count says whether a server beats, so a count that somebody else changes hides a freeze. It
/// invents none: nobody is restarted, and once it stops, freezes are found again.
#[test]
fn scribbled_hearts_convict_nobody() {
    let osps = Launch::pair(&["--hang-timeout", "1s", "--check-interval", "200ms"]).start();
    let (bystander, random) = (Bystander::start(), Random::new(told_seed("hearts")));
    let generations = [PRIMARY, SECONDARY].map(|slot| osps.generation(slot));
    let mut scribbler = Scribbler::new(&osps, random, &bystander);
    let hearts = scribbler.segment.geometry().hearts_offset;
    under_attack(&osps, &bystander, || {
        let at = hearts + scribbler.random.below(16) * 8;
        let noise = scribbler.random.word();
        scribbler.store(at, &noise.to_le_bytes());
    });
    assert_calm(&osps, Duration::from_secs(1));
    assert_eq!([PRIMARY, SECONDARY].map(|slot| osps.generation(slot)), generations);
    assert_eq!(restarts(&osps), [NO_RESTARTS; 2], "{}", osps.log());

    osps.signal(&osps.process(SECONDARY), Signal::STOP);
    osps.wait_successor(SECONDARY, generations[SECONDARY]);
    bystander.assert_lives(&osps);
}

/// Everything that servers write, again and again. Once it stops, all is well within a moment; and
/// what a `kill -9` of everything leaves then is still taken over.
#[test]
fn scribbled_server_pages_are_survived() {
    let options = ["--hang-timeout", "1s", "--check-interval", "200ms", "--workers", "2"];
    let options = [&options[..], &["--data-size", "64KiB"]].concat();
    let mut osps = Launch::pair(&options).start();
    let (bystander, random) = (Bystander::start(), Random::new(told_seed("server pages")));
    let mut scribbler = Scribbler::new(&osps, random, &bystander);
    under_attack(&osps, &bystander, || scribbler.scribble());
    assert_calm(&osps, Duration::from_secs(1));
    eprintln!("restarts: {:?}", restarts(&osps));

    (0..2000).for_each(|_| scribbler.scribble());
    osps.kill_everything();
    let osps = Launch::pair(&options).in_place_of(osps).start();
    assert!(osps.find_log(&["kept the data"]).is_some(), "{}", osps.log());
    assert_calm(&osps, Duration::from_secs(1));
    bystander.assert_lives(&osps);
}

/// The whole file, the watchdog's own pages as well. What stood there is gone and the servers may
/// go with it; the watchdog goes on, kills no stranger, and stops when it is told to.
#[test]
fn a_scribbled_segment_leaves_the_watchdog_at_work() {
    let options = ["--hang-timeout", "1s", "--check-interval", "200ms", "--data-size", "64KiB"];
    let mut osps = Launch::pair(&options).start();
    let (bystander, random) = (Bystander::start(), Random::new(told_seed("the whole segment")));
    let mut scribbler = Scribbler::new(&osps, random, &bystander);
    let geometry = *scribbler.segment.geometry();
    // The header, the records, the ring and its first entries, each as often as all the others.
    scribbler.parts.push(0..PAGE);
    for slot in 0..geometry.slots {
        let page = geometry.slots_offset + slot * PAGE;
        scribbler.parts.push(page..page + size_of::<ServerCells>());
    }
    scribbler.parts.push(geometry.events_offset..geometry.events_offset + PAGE);
    under_attack(&osps, &bystander, || {
        scribbler.scribble();
        scribbler.impersonate();
    });
    osps.signal_watchdog(Signal::TERM);
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    assert!(!osps.run_dir().exists(), "{}", osps.log());
    bystander.assert_lives(&osps);
}

/// Whoever may connect to the control socket may say anything there, or nothing, and for as long as
/// it likes. The watchdog refuses, goes on, and hears who asks in earnest.
#[test]
fn noise_in_the_control_socket_harms_nobody() {
    let mut osps = Launch::pair(&["--check-interval", "200ms"]).start();
    let mut random = Random::new(told_seed("control socket"));
    let mut open = Vec::new();
    for number in 0..200 {
        let mut asker = UnixStream::connect(osps.run_dir().join(place::CONTROL)).unwrap();
        asker.set_read_timeout(Some(SOON)).unwrap();
        let length = random.below(300);
        // Without the letters of what means something.
        let noise: Vec<u8> = random.bytes(length).iter().map(|byte| byte | 0x80).collect();
        // It may have been refused already, and closed.
        let _ = asker.write_all(&noise).and_then(|()| asker.write_all(b"\n"));
        if number % 2 == 0 {
            let mut answer = String::new();
            let heard = asker.read_to_string(&mut answer).is_ok();
            assert!(!heard || answer.starts_with("error "), "{answer:?}");
        } else {
            open.push(asker);
        }
    }
    // This one never comes to the end of its line.
    let mut endless = UnixStream::connect(osps.run_dir().join(place::CONTROL)).unwrap();
    endless.set_read_timeout(Some(SOON)).unwrap();
    endless.write_all(&vec![b's'; 20 << 10]).unwrap();
    let mut answer = String::new();
    endless.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "error request too long\n");
    // These say nothing at all.
    open.extend((0..20).map(|_| UnixStream::connect(osps.run_dir().join(place::CONTROL)).unwrap()));
    assert_eq!(osps.ask(PRIMARY, "PING"), "+PONG");
    osps.stop();
    drop(open);
}

/// Nobody can be asked to give epoch 0 back. A word that named a living server with it kept all
/// others from writing for ever.
#[test]
fn an_owner_with_epoch_zero_blocks_no_writer() {
    let osps = Launch::pair(&[]).start();
    let (segment, generation) = (osps.segment(), osps.generation(SECONDARY));
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    let word = 1 | u64::from(generation) << 8;
    assert_eq!(Owner::unpack(word).epoch, Epoch(0));
    let at = segment.geometry().owner_offset + offset_of!(OwnerCells, word);
    file.write_all_at(&word.to_le_bytes(), at as u64).unwrap();
    assert_eq!(osps.ask(PRIMARY, "SET k v"), "+OK", "{}", osps.log());
    assert_eq!(osps.generation(SECONDARY), generation);
}

/// The primary sends a client to the secondary with the fewest sessions, as its page says. A
/// scribbled number stayed as long as no client came, and kept them from coming.
#[test]
fn a_scribbled_number_of_sessions_is_put_right() {
    let osps = Launch::pair(&[]).start();
    let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let sessions = &segment.slots()[SECONDARY].activity.sessions;
    sessions.store(u64::MAX, Ordering::Relaxed);
    osps.wait("the number put right", || (sessions.load(Ordering::Relaxed) == 0).then_some(()));
}
