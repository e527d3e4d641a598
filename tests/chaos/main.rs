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
#![allow(unreachable_pub, reason = "the parts of one test")]

mod checks;
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod instance;
mod recovery;
mod script;
mod strikes;
mod tally;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clients::{Board, CLIENTS, Visitor, load, watch_hearts};
use instance::Life;
use osps_heart::ids::Generation;
use script::{Draw, Round, Script};
use tally::Tally;

use common::{Launch, Over, Random, leave_no_cores, ms, watch_owner};

/// `--hang-timeout` and `--start-timeout`.
const LIMIT: Duration = ms(500);
const START: Duration = ms(3000);
/// Rounds of one instance, and its longest pause before a restart: then a fresh one takes over.
const ROUNDS: usize = 40;
const WEARY: Duration = ms(400);

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
        let over = Over(&board.talk.over);
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
    leave_no_cores();
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
