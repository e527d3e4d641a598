//! What many services cost, and how fast they are: `cargo bench --bench services`.
//!
//! The real `osps up` with a file of 64 services that beat in memory, each a copy of this program.
//! They beat on a grid, all at the same moments, so that 64 that are frozen at once are due at once:
//! the worst case. What depends on the number of services stands beside the same with one.
#![allow(clippy::print_stdout, reason = "the table is the purpose of this program")]
#![allow(clippy::disallowed_methods, reason = "measures in real time")]
#![allow(clippy::unwrap_used, reason = "a bench that fails panics")]
#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts far below 2^52 become figures for people"
)]

mod table;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use osps_heart::Heart;
use osps_heart::segment::Segment;
use osps_heart::sync::Ordering;
use osps_heart::time::{Monotonic, nanos};
use osps_heart::words::{Event, State};
use table::common::{BINARY, Launch, Osps, Signal, now, text, wait_until};
use table::{Bound, Figure, Table, Usage, middle, ms, pss_kib};

/// So many services: as many as a file has room for without a word about it.
const MANY: usize = 64;
const LIMIT: Duration = Duration::from_secs(4);
/// Between two beats of a service.
const BEAT: Duration = Duration::from_millis(500);
/// How often one that obeys looks whether it shall go.
const LOOK: Duration = Duration::from_millis(20);
/// How long a figure waits for what should take a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Set where this program is a service: how it is one.
const SERVICE: &str = "OSPS_BENCH_SERVICE";

fn main() {
    if let Some(manner) = std::env::var_os(SERVICE) {
        serve(if manner == "obeys" { LOOK } else { BEAT });
    }
    Table::fill(|table| {
        idle(table);
        deaths(table);
        freezes(table);
        stops(table);
        checks(table);
        reloads(table);
        adoptions(table);
        upgrades(table);
    });
}

/// Beats on the grid until it shall go, looking so often.
fn serve(pause: Duration) -> ! {
    let mut heart = Heart::from_env().expect("a heart");
    let pause = nanos(pause);
    loop {
        heart.beat();
        if heart.should_stop() {
            std::process::exit(0);
        }
        std::thread::sleep(Duration::from_nanos(pause - now().0 % pause));
    }
}

// --- A file and what runs of it ----------------------------------------------------------------

/// A file of services in a directory of its own.
struct Set {
    dir: tempfile::TempDir,
    count: usize,
}

impl Set {
    /// `manner` = what its services do, `keys` = what all of them say beside their command.
    fn new(count: usize, keys: &str) -> Set {
        let set = Set { dir: tempfile::tempdir_in("/dev/shm").unwrap(), count };
        set.write(keys, None);
        set
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("osps.toml")
    }

    /// Writes the file; `changed` has another variable than the rest.
    fn write(&self, keys: &str, changed: Option<usize>) {
        let slots =
            if self.count > MANY { format!("slots = {}\n", self.count) } else { String::new() };
        let mut file = format!("{slots}[defaults]\n{keys}\n");
        for number in 0..self.count {
            let command = if keys.contains("heart = \"none\"") {
                vec!["sleep".to_owned(), "1000".to_owned()]
            } else {
                vec![std::env::current_exe().unwrap().display().to_string()]
            };
            writeln!(file, "[service.s{number}]\ncommand = {command:?}").unwrap();
            if changed == Some(number) {
                writeln!(file, "env = {{ CHANGED = \"{}\" }}", now().0).unwrap();
            }
        }
        std::fs::write(self.file(), file).unwrap();
    }

    /// Starts it, and waits until all are up.
    fn start(&self, options: &[&str]) -> Osps {
        let osps = Launch::of_file(options, &self.file()).spawn();
        self.wait_up(&osps);
        osps
    }

    fn wait_up(&self, osps: &Osps) {
        let segment = osps.segment();
        let is_up = |slot: usize| {
            let state = segment.slots()[slot].server.state.load(Ordering::Relaxed);
            state == State::Up.code()
        };
        osps.wait("all services up", || (0..self.count).all(is_up).then_some(()));
    }
}

/// Keys of services of that manner.
fn keys(manner: &str) -> String {
    format!("heart = \"memory\"\nhang-timeout = \"4s\"\nenv = {{ {SERVICE} = \"{manner}\" }}")
}

fn generations(segment: &Segment, count: usize) -> Vec<u32> {
    let of = |slot: usize| segment.slots()[slot].server.current_generation().0;
    (0..count).map(of).collect()
}

/// The stamp of the first beat of another generation than this, looked for every tenth of a
/// millisecond.
fn first_beat(segment: &Segment, slot: usize, old: u32) -> Option<Monotonic> {
    let server = &segment.slots()[slot].server;
    if server.current_generation().0 == old || server.identity().is_none() {
        return None;
    }
    let sample = segment.hearts()[slot].sample();
    (sample.count != server.baseline.load(Ordering::Acquire)).then_some(sample.stamp)
}

fn show(table: &mut Table, what: &str, unit: &'static str, bound: Bound, values: Vec<f64>) {
    let (what, missed, remark) = (what.to_owned(), 0, String::new());
    table.show(Figure { what, unit, bound, values, missed, remark });
}

// --- At rest -----------------------------------------------------------------------------------

const IDLE: Duration = Duration::from_secs(30);

fn idle(table: &mut Table) {
    let part = |count: usize, part: &str| format!("idle, {count} services: {part}");
    for (count, bounds) in [(1, [f64::NAN; 3]), (MANY, [20.0, 4.0, 3.0])] {
        let names = ["CPU in 30 s", "PSS", "wake-ups a second"].map(|name| part(count, name));
        if !names.iter().any(|name| table.wants(name)) {
            continue;
        }
        let set = Set::new(count, &keys("beats"));
        let osps = set.start(&[]);
        // Past the start, the first checks and the spares.
        std::thread::sleep(Duration::from_secs(4));
        let pid = osps.watchdog_pid();
        let (start, before) = (now(), Usage::of(pid));
        std::thread::sleep(IDLE);
        let (seconds, after) = (now().since(start).as_secs_f64(), Usage::of(pid));
        let cpu = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e6;
        let switches = after.switches.saturating_sub(before.switches) as f64;
        let values =
            [cpu * IDLE.as_secs_f64() / seconds, pss_kib(pid) / 1024.0, switches / seconds];
        for (index, unit) in ["ms", "MiB", "/s"].into_iter().enumerate() {
            let bound = Bound::AtMost(bounds[index]);
            let bound = if bounds[index].is_nan() { Bound::None } else { bound };
            show(table, &names[index], unit, bound, vec![values[index]]);
        }
    }
}

// --- One of many dies --------------------------------------------------------------------------

/// Each of another service: three young deaths of one are held back.
const DEATHS: usize = 12;

fn deaths(table: &mut Table) {
    let name = |count: usize| format!("death of 1 of {count} -> first beat");
    let both = [1, MANY].map(name);
    if !both.iter().any(|name| table.wants(name)) {
        return;
    }
    let sets = [1, MANY].map(|count| Set::new(count, &keys("beats")));
    let all = [0, 1].map(|which: usize| sets[which].start(&["--quiet"]));
    let mut values = [Vec::new(), Vec::new()];
    for round in 0..DEATHS {
        for (which, osps) in all.iter().enumerate() {
            // The pool of spares is full again, and what died was up long enough not to wait.
            std::thread::sleep(Duration::from_millis(2100));
            let slot = round * 2 % sets[which].count;
            let segment = osps.segment();
            let old = segment.slots()[slot].server.current_generation().0;
            let process = osps.process(slot);
            let killed = now();
            osps.signal(&process, Signal::KILL);
            let beat = wait_until("a first beat", PATIENCE, || {
                std::thread::sleep(Duration::from_micros(50));
                first_beat(&segment, slot, old)
            });
            values[which].push(ms(beat.since(killed)));
        }
    }
    let one = middle(values[0].iter().copied());
    let bounds = [Bound::None, Bound::AtMost((one * 110.0).round() / 100.0)];
    for ((name, values), bound) in both.iter().zip(values).zip(bounds) {
        show(table, name, "ms", bound, values);
    }
}

// --- All are frozen ----------------------------------------------------------------------------

const FREEZES: usize = 5;

fn freezes(table: &mut Table) {
    let names = ["deadline -> verdict", "first deadline -> last one up again"];
    let names = names.map(|name| format!("{MANY} frozen at once: {name}"));
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let (mut late, mut up, mut early) = (Vec::new(), Vec::new(), 0);
    for _ in 0..FREEZES {
        let set = Set::new(MANY, &keys("beats"));
        let osps = set.start(&["--quiet"]);
        // Past its youth.
        std::thread::sleep(Duration::from_millis(2500));
        let segment = osps.segment();
        let old = generations(&segment, MANY);
        let processes: Vec<_> = (0..MANY).map(|slot| osps.process(slot)).collect();
        for process in &processes {
            osps.signal(process, Signal::STOP);
        }
        std::thread::sleep(LIMIT / 2);
        let due = |slot: usize| segment.hearts()[slot].sample().stamp + LIMIT;
        let due: Vec<_> = (0..MANY).map(due).collect();
        let mut verdicts: Vec<Option<Monotonic>> = vec![None; MANY];
        let mut beats: Vec<Option<Monotonic>> = vec![None; MANY];
        osps.wait("all of them back", || {
            for event in segment.events().latest(256) {
                let slot = event.slot.map_or(MANY, osps_heart::ids::SlotId::index);
                if event.what.event() == Event::Verdict && slot < MANY {
                    verdicts[slot] = Some(event.time);
                }
            }
            for slot in (0..MANY).filter(|slot| beats[*slot].is_none()).collect::<Vec<_>>() {
                beats[slot] = first_beat(&segment, slot, old[slot]);
            }
            beats.iter().all(Option::is_some).then_some(())
        });
        for (due, verdict) in due.iter().zip(&verdicts) {
            let Some(verdict) = verdict else { continue };
            early += usize::from(verdict < due);
            late.push(ms(verdict.since(*due)));
        }
        let first = due.iter().min().unwrap();
        let last = beats.iter().flatten().max().unwrap();
        up.push(ms(last.since(*first)));
    }
    let [verdict, back] = names;
    let missed = MANY * FREEZES - late.len() + early;
    let (unit, bound, remark) = ("ms", Bound::NeverAbove(50.0), String::new());
    table.show(Figure { what: verdict, unit, bound, values: late, missed, remark });
    show(table, &back, "ms", Bound::NeverAbove(1000.0), up);
}

// --- All stop ----------------------------------------------------------------------------------

const STOPS: usize = 5;

fn stops(table: &mut Table) {
    for (name, keys) in [("that obey", keys("obeys")), ("`sleep`", "heart = \"none\"".to_owned())] {
        let name = format!("osps stop of {MANY} {name}");
        if !table.wants(&name) {
            continue;
        }
        let mut values = Vec::new();
        for _ in 0..STOPS {
            let set = Set::new(MANY, &keys);
            let mut osps = set.start(&["--quiet"]);
            std::thread::sleep(Duration::from_secs(1));
            let start = now();
            osps.stop();
            values.push(ms(now().since(start)));
        }
        show(table, &name, "ms", Bound::AtMost(500.0), values);
    }
}

// --- The watchdog ------------------------------------------------------------------------------

const ADOPTIONS: usize = 10;

/// From the start of a new osps on until the last server was taken over: a turn later all are
/// judged.
fn adoptions(table: &mut Table) {
    for (count, bound) in [(2, 20.0), (MANY, 50.0)] {
        let name = format!("new watchdog started -> all {count} servers taken over");
        if !table.wants(&name) {
            continue;
        }
        let set = Set::new(count, &keys("beats"));
        let mut osps = set.start(&["--quiet"]);
        let segment = osps.segment();
        let old = generations(&segment, count);
        let mut values = Vec::new();
        for _ in 0..ADOPTIONS {
            std::thread::sleep(Duration::from_secs(2));
            osps.kill_watchdog();
            std::thread::sleep(Duration::from_millis(500));
            let start = now();
            osps.start_again();
            let last = osps.wait("the last one", || {
                let events = segment.events().latest(1024);
                let adopted = events
                    .iter()
                    .filter(|event| event.time > start && event.what.event() == Event::Adopted);
                let times: Vec<_> = adopted.map(|event| event.time).collect();
                (times.len() == count).then(|| times.into_iter().max()).flatten()
            });
            values.push(ms(last.since(start)));
        }
        let missed = usize::from(generations(&segment, count) != old);
        let (unit, bound, remark) = ("ms", Bound::AtMost(bound), String::new());
        table.show(Figure { what: name, unit, bound, values, missed, remark });
    }
}

/// A span as the log writes it, `6.2ms` or `953us`, in milliseconds.
fn in_ms(span: &str) -> f64 {
    let number = |unit: &str| span.trim().strip_suffix(unit)?.parse::<f64>().ok();
    let known = number("ms").or(number("us").map(|us| us / 1000.0));
    known.or(number("s").map(|s| s * 1000.0)).expect(span)
}

/// From the exec on until its servers are watched again, as the new image says.
fn upgrades(table: &mut Table) {
    let name = format!("osps upgrade with {MANY} servers: unwatched");
    if !table.wants(&name) {
        return;
    }
    let set = Set::new(MANY, &keys("beats"));
    let osps = set.start(&[]);
    let segment = osps.segment();
    let old = generations(&segment, MANY);
    let mut values = Vec::new();
    for round in 1..=ADOPTIONS {
        std::thread::sleep(Duration::from_secs(2));
        let done = osps.command(&["upgrade", "--binary", BINARY]);
        assert!(done.status.success(), "{}", text(&done));
        let lines = osps.wait("its word", || {
            let log = osps.log();
            let said: Vec<_> =
                log.lines().filter_map(|line| line.split_once("unwatched for ")).collect();
            let said: Vec<_> = said.into_iter().map(|(_, span)| span.to_owned()).collect();
            (said.len() == round).then_some(said)
        });
        values.push(in_ms(&lines[round - 1]));
    }
    let missed = usize::from(generations(&segment, MANY) != old);
    let (unit, bound, remark) = ("ms", Bound::AtMost(50.0), String::new());
    table.show(Figure { what: name, unit, bound, values, missed, remark });
}

// --- The file ----------------------------------------------------------------------------------

fn checks(table: &mut Table) {
    let name = "osps check of 200 services";
    if !table.wants(name) {
        return;
    }
    let set = Set::new(200, &keys("beats"));
    let check = || {
        let start = now();
        let done = Command::new(BINARY).arg("check").arg(set.file()).stdin(Stdio::null()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", text(&done));
        ms(now().since(start))
    };
    let values = (0..10).map(|_| check()).collect();
    show(table, name, "ms", Bound::AtMost(50.0), values);
}

const RELOADS: usize = 10;

fn reloads(table: &mut Table) {
    let name = format!("reload that changes 1 of {MANY}, beside its stop");
    if !table.wants(&name) {
        return;
    }
    let keys = keys("obeys");
    let set = Set::new(MANY, &keys);
    let osps = set.start(&["--quiet"]);
    let segment = osps.segment();
    let mut values = Vec::new();
    let slot = 17;
    for _ in 0..RELOADS {
        std::thread::sleep(Duration::from_millis(1500));
        let before = generations(&segment, MANY);
        set.write(&keys, Some(slot));
        let process = osps.process(slot);
        let start = now();
        let reload = reload(osps.run_dir());
        // Its own stop: from the order, which the segment tells, to its death.
        let of_it = |event: Event| {
            let all = segment.events().latest(64);
            let it = all.iter().rev().find(|record| {
                record.what.event() == event
                    && record.slot.is_some_and(|of| of.index() == slot)
                    && record.time >= start
            });
            it.map(|record| record.time)
        };
        let ordered = of_it(Event::StopOrder).expect("it was told to go");
        let died = of_it(Event::Died).expect("it went");
        values.push(ms(reload.since(start)) - ms(died.since(ordered)));
        assert!(process.is_dead());
        let after = generations(&segment, MANY);
        let touched = (0..MANY).filter(|slot| before[*slot] != after[*slot]);
        assert_eq!(touched.collect::<Vec<_>>(), [slot], "others were touched");
    }
    show(table, &name, "ms", Bound::AtMost(100.0), values);
}

/// When a reload was done.
fn reload(run_dir: &Path) -> Monotonic {
    let mut command = Command::new(BINARY);
    let done = command.args(["reload", "--run-dir"]).arg(run_dir).stdin(Stdio::null()).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", text(&done));
    now()
}
