//! Goal: whatever legal fault strikes, and while whichever other one is being recovered from: what
//! was acknowledged stays, one process at a time owns the data, everything is up again within the
//! documented bound, nobody is restarted who was not struck, whoever is the watchdog meanwhile, and
//! nothing leaks. In two worlds: the pair, and services of a file.
//!
//! Method: black box, after TigerBeetle's Vortex. The real binary, real signals, real clients that
//! write and read all the time; among the services are a redis and a script in Python. Faults come
//! in rounds: some strikes close upon each other, then the window in which everything must recover,
//! then a look at everything while the clients pause. The rounds are a script, drawn from a seed:
//! `OSPS_SEED` draws the same one again, and `OSPS_CHAOS` plays one that is written down, over and
//! over; a failure prints both.
//!
//! What it cannot show: the same interleaving twice, an epoch that lived shorter than a look at it,
//! and faults that need a debugger, a control group or a process that does not die. What is written
//! over here is what servers say of themselves; the rest of the segment has tests/hostile.rs.
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
mod services;
mod strikes;
mod tally;
mod world;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clients::{Board, CLIENTS, Visitor, load, watch_hearts};
use faults::Fault;
use instance::Life;
use osps_heart::ids::Generation;
use osps_heart::words::State;
use recovery::addresses;
use script::{Draw, Round, Script, Strike};
use tally::Tally;
use world::World;

use common::{Over, Random, has, leave_no_cores, ms, skip, watch_owner};

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
        let play = match self.played.world {
            World::Pair { .. } => "cargo test --test chaos twenty_seconds -- --nocapture",
            World::Services => "cargo test --test chaos services_survive -- --nocapture",
        };
        if let Some(seed) = self.seed {
            eprintln!("--- again from the seed ---\nOSPS_SEED={seed} {play}");
        }
        eprintln!("--- again as it is written ---\nOSPS_CHAOS='{}' {play}", self.played);
    }
}

/// When it is enough.
type Enough<'a> = &'a dyn Fn(&Tally) -> bool;

/// One instance, until its rounds or its strength are over, or it is enough.
fn live(
    replay: &mut Replay,
    rounds: impl Iterator<Item = Round>,
    enough: Enough<'_>,
    tally: &mut Tally,
) {
    let world = replay.played.world;
    let osps = world.launch().spawn();
    osps.wait("all up", || {
        (0..world.slots()).all(|slot| osps.is_state(slot, State::Up)).then_some(())
    });
    let segment = osps.segment();
    let board = Board::default();
    *board.addresses.lock().unwrap() = addresses(&segment);
    thread::scope(|scope| {
        let (board, segment) = (&board, &segment);
        let over = Over(&board.talk.over);
        for number in 0..CLIENTS {
            let seed = replay.seed.unwrap_or_default().wrapping_add(number as u64);
            let random = Random::new(seed);
            scope.spawn(move || match world {
                World::Pair { .. } => Visitor { board, number, random }.run(),
                World::Services => board.call(),
            });
        }
        let owners = scope.spawn(|| watch_owner(segment, &board.talk));
        scope.spawn(|| watch_hearts(segment, board));
        let mut life = Life {
            world,
            variant: 0,
            osps,
            segment,
            board,
            tally,
            descriptors: BTreeMap::new(),
            resident: 0,
            taken_over: false,
            pause: Duration::ZERO,
            judged: segment.events().latest(1).pop(),
            living: (0..world.slots()).collect(),
            newest: Generation(u32::try_from(load(&segment.header().generation)).unwrap()),
        };
        // A round without strikes shows what is ordinary.
        life.play(&[]);
        for round in rounds {
            replay.played.rounds.push(round.clone());
            life.play(&round);
            life.tally.rounds += 1;
            if enough(life.tally) || life.pause >= WEARY {
                break;
            }
        }
        life.end();
        drop(over);
        tally.lives += 1;
        tally.requests += load(&board.requests);
        tally.cuts += load(&board.cuts);
        tally.refused += load(&board.refused);
        tally.epochs += owners.join().unwrap().len();
    });
}

/// Instance after instance, until it is enough; at least one. `rounds` draws what strikes.
fn chaos<R: Iterator<Item = Round>>(
    enough: Enough<'_>,
    mut rounds: impl FnMut(u64) -> (World, R),
) -> Tally {
    leave_no_cores();
    let written = std::env::var("OSPS_CHAOS").ok();
    let written: Option<Script> = written.map(|text| text.parse().unwrap());
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut seed = common::seed();
    let mut told = begun;
    while tally.lives == 0 || !enough(&tally) {
        if let Some(script) = &written {
            let played = Script { world: script.world, rounds: Vec::new() };
            let mut replay = Replay { seed: None, played };
            live(&mut replay, script.rounds.iter().cloned(), enough, &mut tally);
        } else {
            let (world, rounds) = rounds(seed);
            eprintln!("OSPS_SEED={seed} ({world})");
            let mut replay = Replay { seed: Some(seed), played: Script { world, rounds: vec![] } };
            live(&mut replay, rounds.take(ROUNDS), enough, &mut tally);
            seed = Random::new(seed).next();
        }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            eprintln!("after {:.0?}:\n{tally}", begun.elapsed());
        }
    }
    eprintln!("survived {:.0?}:\n{tally}", begun.elapsed());
    assert!(tally.requests > 100, "nothing happened");
    tally
}

fn of_pair(seed: u64) -> (World, Draw) {
    let draw = Draw::of_pair(seed);
    (draw.world, draw)
}

fn of_services(seed: u64) -> (World, Draw) {
    (World::Services, Draw::of_services(seed))
}

/// For so long, or as long as `OSPS_CHAOS_TIME` says.
fn chaos_for(span: Duration, rounds: fn(u64) -> (World, Draw)) -> Tally {
    let span = std::env::var("OSPS_CHAOS_TIME").map_or(span, |text| {
        humantime::parse_duration(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    let until = Instant::now() + span;
    chaos(&|_| Instant::now() >= until, rounds)
}

fn pair_for(span: Duration) {
    assert!(chaos_for(span, of_pair).epochs > 5, "nothing was written");
}

fn services_for(span: Duration) {
    for program in ["redis-server", "python3"] {
        if !has(program) {
            return skip(program);
        }
    }
    chaos_for(span, of_services);
}

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    common::services::act();
}

#[test]
fn faults_are_survived_for_twenty_seconds() {
    pair_for(Duration::from_secs(20));
}

#[test]
fn services_survive_faults_for_twenty_seconds() {
    services_for(Duration::from_secs(20));
}

#[test]
#[ignore = "takes an hour: cargo test --release --test chaos -- --ignored --nocapture an_hour"]
fn faults_are_survived_for_an_hour() {
    pair_for(Duration::from_secs(3600));
}

#[test]
#[ignore = "takes an hour: cargo test --release --test chaos -- --ignored --nocapture an_hour"]
fn services_survive_faults_for_an_hour() {
    services_for(Duration::from_secs(3600));
}

/// A figure: the watchdog is killed while clients write and its servers are struck. Each round ends
/// with the looks of all others: nothing acknowledged is lost, nobody who lived was restarted, no
/// connection was refused but by who had died meanwhile.
#[test]
#[ignore = "takes minutes: cargo test --release --test chaos -- --ignored --nocapture 500"]
fn a_watchdog_is_killed_500_times() {
    let rounds = |seed: u64| {
        let mut random = Random::new(!seed);
        let draw = Draw::of_pair(seed);
        let kill = move |mut round: Round| {
            round.retain(|strike| strike.fault != Fault::Restart);
            let (span, after) = (random.next() % 100, random.next() % 300);
            let kill = Strike { fault: Fault::Restart, slots: Vec::new(), span, after };
            // Before, among or behind what strikes the servers.
            round.insert(random.below(round.len() + 1), kill);
            round
        };
        (draw.world, draw.map(kill))
    };
    let tally = chaos(&|tally| tally.count(Fault::Restart) >= 500, rounds);
    assert!(tally.take_overs.len() > 250 && tally.epochs > 5, "nothing happened");
}
