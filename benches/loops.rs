//! The figures of the event-loop heart: `cargo bench --bench loops`, or with a SUBSTRING for some.
//!
//! What the shim costs: the same program with and without it, in turn. How late a verdict on real
//! servers is: the silence that it names, less the limit. `OSPS_BENCH_MINUTES=10` adds the long look:
//! all servers at once, idle and under load for so long, and how many verdicts there were.
//!
//! As in benches/figures.rs, a figure that falls short is shown as `SHORT` and fails nothing.
#![allow(clippy::print_stdout, reason = "the table is the purpose of this program")]
#![allow(clippy::disallowed_methods, reason = "measures in real time")]
#![allow(clippy::unwrap_used, reason = "a bench that fails panics")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/loops/servers.rs"]
mod servers;
mod table;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::State;
use servers::{Case, daemons, interpreters};
use table::common::{self, Launch, Osps};
use table::{Bound, Figure, Table};

const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loop.so"));
/// Pairs of runs with and without the shim.
const RUNS: usize = 31;
/// Blocks of each server.
const BLOCKS: usize = 5;
const LIMIT: Duration = Duration::from_secs(1);

fn main() {
    Table::fill(|table| {
        cost(table);
        throughput(table);
        verdicts(table);
        minutes(table);
    });
}

fn cost(table: &mut Table) {
    let name = "loop heart: cost of a wait that returns at once";
    if !table.wants(name) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("calls");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loop_shim/calls.c");
    common::compile(&["-O1", "-w"], source.as_ref(), &program, &["-lpthread"]);
    let shim = dir.path().join("loop.so");
    std::fs::write(&shim, SHIM).unwrap();
    // A segment as a watchdog would make it, found by its name.
    let founded = table::founded();
    let segment = Segment::open(founded.path(), Access::ReadWrite).unwrap();
    let (slot, generation) = (SlotId(0), Generation(1));
    let identity = Identity { pid: 1, start_time: 0, generation };
    segment.slots()[0].server.set_identity(identity);
    let file = founded.path().join(FILE_NAME).metadata().unwrap();
    let told = format!("0:{}:{}:99:loop", file.dev(), file.ino());
    let ns = |with: bool| {
        segment.hearts()[0].unclaim(slot);
        let mut program = Command::new(&program);
        program.arg("cost");
        if with {
            program.env("LD_PRELOAD", &shim).env("OSPS_LOOP", &told);
            program.env("OSPS_RUN_DIR", founded.path()).env("OSPS_SLOT", slot.to_string());
            program.env("OSPS_GENERATION", generation.to_string());
        }
        let told = program.output().unwrap();
        String::from_utf8(told.stdout).unwrap().trim().parse::<f64>().unwrap()
    };
    let mut plain = Vec::new();
    let mut values = Vec::new();
    for _ in 0..RUNS {
        let without = ns(false);
        values.push(ns(true) - without);
        plain.push(without);
    }
    plain.sort_by(f64::total_cmp);
    let beats = segment.hearts()[0].sample().count;
    assert!(beats >= RUNS as u64 * 400_000, "the shim did not beat: {beats}");
    let remark = format!("  (without it {} ns)", table::digits(plain[RUNS / 2]));
    let (what, unit, bound) = (name.to_owned(), "ns", Bound::AtMost(40.0));
    table.show(Figure { what, unit, bound, values, missed: 0, remark });
}

/// redis-benchmark's GET, requests a second: with and without, in turn, on servers that go on.
fn throughput(table: &mut Table) {
    let name = "loop heart: redis GET at -c 50, with / without";
    if !table.wants(name) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let all = daemons(dir.path());
    let Some(redis) = all.iter().find(|case| case.name == "redis") else {
        return table.skip(name, "redis-server is missing");
    };
    let command: Vec<&str> = redis.command.iter().map(String::as_str).collect();
    let other = common::free_port();
    let plain: Vec<String> = redis
        .command
        .iter()
        .map(|word| if *word == redis.port.to_string() { other.to_string() } else { word.clone() })
        .collect();
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let watched = Launch::own(&["--heart", "loop"], &command).env("PATH", servers::path()).start();
    let bare = Launch::own(&["--heart", "none"], &plain).env("PATH", servers::path()).start();
    let rate = |port: u16| {
        let mut bench = Command::new("redis-benchmark");
        bench.args(["-t", "get", "-c", "50", "-n", "200000", "--csv", "-p", &port.to_string()]);
        let told = String::from_utf8(bench.output().unwrap().stdout).unwrap();
        let row = told.lines().last().unwrap().replace('"', "");
        row.split(',').nth(1).unwrap().parse::<f64>().unwrap()
    };
    let mut values = Vec::new();
    for turn in 0..RUNS {
        // Whoever comes second may be warmer or hotter.
        let (first, second) = if turn % 2 == 0 { (redis.port, other) } else { (other, redis.port) };
        let (first, second) = (rate(first), rate(second));
        let (with, without) = if turn % 2 == 0 { (first, second) } else { (second, first) };
        values.push(with / without);
    }
    drop((watched, bare));
    let (what, unit, bound) = (name.to_owned(), "x", Bound::AtLeast(0.99));
    table.show(Figure { what, unit, bound, values, missed: 0, remark: String::new() });
}

fn verdicts(table: &mut Table) {
    let name = |case: &Case| format!("loop heart: verdict after the limit, {}", case.name);
    let dir = tempfile::tempdir().unwrap();
    let all = daemons(dir.path()).into_iter().chain(interpreters(dir.path()));
    for case in all.filter(|case| table.wants(&name(case))).collect::<Vec<_>>() {
        let own = tempfile::tempdir().unwrap();
        let osps = case.launch("1s", own.path()).spawn();
        let mut values = Vec::new();
        for turn in 0..BLOCKS {
            wait_watched(&osps, &case);
            // Not only the hot case.
            std::thread::sleep(Duration::from_secs(4));
            let before = osps.generation(0);
            let blocks = case.blocks.as_deref().unwrap_or(&[""]);
            let stuck = case.stick(own.path(), blocks[turn % blocks.len()]);
            osps.wait("a verdict", || (osps.generation(0) != before).then_some(()));
            stuck.end();
            let silence = osps.segment().slots()[0].server.last_silence_ns.load(Ordering::Relaxed);
            values.push(silence as f64 / 1e6 - LIMIT.as_secs_f64() * 1e3);
        }
        let (what, unit, bound) = (name(&case), "ms", Bound::NeverAbove(20.0));
        table.show(Figure { what, unit, bound, values, missed: 0, remark: String::new() });
    }
}

/// Up, watched, and of the age at which it may be judged.
fn wait_watched(osps: &Osps, case: &Case) {
    osps.wait("its first beat", || {
        let watched = osps.server(0)["watched"] == true && osps.is_state(0, State::Up);
        watched.then_some(())
    });
    for _ in 0..5 {
        case.wait_served(osps);
    }
}

fn minutes(table: &mut Table) {
    let name = "loop heart: verdicts on idle and busy servers";
    let minutes =
        std::env::var("OSPS_BENCH_MINUTES").ok().and_then(|text| text.parse::<u64>().ok());
    let Some(minutes) = minutes.filter(|_| table.wants(name)) else {
        return table.skip(name, "takes as long as OSPS_BENCH_MINUTES says");
    };
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = daemons(dir.path()).into_iter().chain(interpreters(dir.path())).collect();
    let dirs: Vec<_> = all.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let start = |case: &Case, dir: &Path| case.launch("1s", dir).spawn();
    let running: Vec<_> =
        all.iter().zip(&dirs).map(|(case, dir)| (case, start(case, dir.path()))).collect();
    for (case, osps) in &running {
        wait_watched(osps, case);
    }
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    while Instant::now() < end {
        // Half a minute of rest, and some seconds of work for each.
        std::thread::sleep(Duration::from_secs(30));
        for (case, _) in &running {
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                let _ = case.serves();
            }
        }
    }
    let verdicts = |osps: &Osps| f64::from(osps.generation(0) - 1);
    let values = running.iter().map(|(_, osps)| verdicts(osps)).collect();
    let remark = format!("  ({minutes} minutes, {} servers)", running.len());
    let (what, unit, bound) = (name.to_owned(), "", Bound::NeverAbove(0.0));
    table.show(Figure { what, unit, bound, values, missed: 0, remark });
}
