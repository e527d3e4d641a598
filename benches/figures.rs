//! The figures that osps promises, measured: `cargo bench`, or `cargo bench -- SUBSTRING` for some.
//!
//! One line per figure: what, bound, median, least and greatest, number of measurements, verdict.
//! A figure that falls short is shown as `SHORT` and fails nothing: machines differ, and a busy one
//! falls short for reasons of its own. Compare only inside one run.
//!
//! What is measured is taken from the segment, not from when this program happened to look:
//! beats by their stamps, verdicts by the time in the event ring. A successor's first beat is the
//! stamp of the earliest beat that was seen; the table says how often that was not the first one of
//! its life, and then the figure is a little too large, never too small.
#![allow(clippy::print_stdout, reason = "the table is the purpose of this program")]
#![allow(clippy::disallowed_methods, reason = "measures in real time")]
#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts far below 2^52 become figures for people"
)]

mod table;

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use osps_heart::Heart;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::{Access, Geometry, Record, Segment};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::Event;
use rustix::time::{ClockId, clock_gettime};
use table::common::holders::Cgroup;
use table::common::{BINARY, Guest, Launch, Osps, Signal, notify_socket, now, process_in};
use table::{Bound, Figure, Table, Usage, batch, digits, founded, median, ms, pss_kib};

/// How far a beat may be later than promised for reasons of the kernel: timers overshoot by 0.2 ms,
/// by 3 or 4 ms on a busy machine.
const OVERSHOOT: Duration = Duration::from_millis(5);

/// The servers of a pair.
const SERVERS: [(usize, &str); 2] = [(0, "primary"), (1, "secondary")];

fn main() {
    if std::env::var_os(NOTIFIER).is_some() {
        notify_for_ever();
    }
    Table::fill(|table| {
        beats(table);
        scans(table);
        restarts(table);
        verdicts(table);
        notifications(table);
        idle(table);
    });
}

/// Milliseconds from `early` to `late`, negative if they are the other way round.
fn between(early: Monotonic, late: Monotonic) -> f64 {
    if late >= early { ms(late.since(early)) } else { -ms(early.since(late)) }
}

// --- One heartbeat -----------------------------------------------------------------------------

/// Beats of one batch: some 40 us, so that an interruption spoils a batch and not the median.
const BATCH: u32 = 1000;
const BATCHES: usize = 2000;

fn beats(table: &mut Table) {
    let names = ["heartbeat: beat(), in readings of the clock", "heartbeat: tick()"];
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let dir = founded();
    let heart = Heart::open(dir.path(), SlotId(0), Generation(0)).expect("its heart");
    let (mut clocks, mut beats, mut ticks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        // One word of the answer: a look at both would cost a trip through memory, and flatter us.
        let clock = || {
            black_box(clock_gettime(ClockId::Monotonic).tv_nsec);
        };
        clocks.push(batch(BATCH, clock));
        beats.push(batch(BATCH, || black_box(&heart).beat()));
        ticks.push(batch(BATCH, || black_box(&heart).tick()));
    }
    clocks.sort_by(f64::total_cmp);
    let clock = median(&clocks).expect("batches ran");
    let mut sorted = beats.clone();
    sorted.sort_by(f64::total_cmp);
    let beat = median(&sorted).expect("batches ran");
    table.show(Figure {
        what: names[0].to_owned(),
        unit: "x",
        bound: Bound::AtMost(1.2),
        values: beats.iter().map(|beat| beat / clock).collect(),
        missed: 0,
        remark: format!("  ({} ns, the clock {} ns)", digits(beat), digits(clock)),
    });
    table.show(Figure {
        what: names[1].to_owned(),
        unit: "ns",
        bound: Bound::AtMost(3.0),
        values: ticks,
        missed: 0,
        remark: String::new(),
    });
}

// --- A notification ----------------------------------------------------------------------------

/// Set where this program is the one that osps supervises.
const NOTIFIER: &str = "OSPS_BENCH_NOTIFIER";
const NOTIFICATIONS: usize = 400;

fn notifications(table: &mut Table) {
    let name = "notify heart: WATCHDOG=1 -> beat in the segment";
    if !table.wants(name) {
        return;
    }
    let exe = std::env::current_exe().expect("this program");
    let exe = exe.to_str().expect("a path that is text");
    let launch = Launch::own(&["--heart", "notify", "--quiet"], &[exe]).env(NOTIFIER, "1");
    let osps = launch.start();
    let values = osps.wait("the notifications", || {
        let lines = osps.out.lock().expect("no panic");
        let values: Vec<f64> = lines.iter().filter_map(|line| line.text.parse().ok()).collect();
        (values.len() >= NOTIFICATIONS).then_some(values)
    });
    let (what, unit, bound) = (name.to_owned(), "ms", Bound::AtMost(0.2));
    table.show(Figure { what, unit, bound, values, missed: 0, remark: String::new() });
}

/// Sends notifications some time apart, and says how long each took to become a beat.
fn notify_for_ever() -> ! {
    let address = std::env::var_os("NOTIFY_SOCKET").expect("a notify socket");
    let socket = notify_socket(&address);
    let run_dir = std::env::var_os("OSPS_RUN_DIR").expect("a run directory");
    let segment = Segment::open(Path::new(&run_dir), Access::ReadOnly).expect("a segment");
    let heart = &segment.hearts()[0];
    socket.send(b"READY=1").expect("sent");
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let count = heart.sample().count;
        let sent = now();
        socket.send(b"WATCHDOG=1").expect("sent");
        while heart.sample().count == count {
            std::hint::spin_loop();
        }
        println!("{}", ms(now().since(sent)));
    }
}

// --- Reading hearts ----------------------------------------------------------------------------

const MANY: usize = 10_000;

fn scans(table: &mut Table) {
    let sizes = [64, MANY];
    let name = |hearts: usize| format!("scan: each of {hearts} hearts, hot");
    if !sizes.iter().any(|hearts| table.wants(&name(*hearts))) {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let segment = many_hearts(dir.path());
    for (number, heart) in (0u64..).zip(segment.hearts()) {
        heart.beat(Monotonic(number));
    }
    for hearts in sizes {
        // Ten thousand hearts per batch either way.
        let rounds = u32::try_from(MANY / hearts).expect("small");
        let lines = &segment.hearts()[..hearts];
        let scan = || {
            let beats = black_box(lines).iter().fold(0u64, |sum, heart| {
                let sample = heart.sample();
                sum.wrapping_add(sample.count ^ sample.stamp.0)
            });
            black_box(beats);
        };
        let values = (0..BATCHES).map(|_| batch(rounds, scan) / hearts as f64).collect();
        table.show(Figure {
            what: name(hearts),
            unit: "ns",
            bound: Bound::AtMost(5.0),
            values,
            missed: 0,
            remark: String::new(),
        });
    }
}

/// A segment with room for ten thousand hearts.
fn many_hearts(dir: &Path) -> Segment {
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(FILE_NAME));
    let geometry = Geometry::new(1, MANY, 4096, 256).expect("sizes within bounds");
    let options = osps_heart::example::options(geometry);
    Segment::create(&file.expect("a file"), &options, |_| {}).expect("a segment")
}

// --- Death -> successor ------------------------------------------------------------------------

/// Pairs of deaths per server, each pair in an instance of its own: after three young deaths within
/// ten seconds restarts are held back.
const PAIRS: usize = 20;

/// How long a figure waits for what should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

fn restarts(table: &mut Table) {
    for (slot, server) in SERVERS {
        let names = ["first", "second"].map(|which| format!("restart: {server} killed, {which}"));
        if names.iter().any(|name| table.wants(name)) {
            let sets = deaths(slot, || Launch::pair(&[]));
            for (what, set) in names.into_iter().zip(sets) {
                table.show(set.figure(what, 5.0));
            }
        }
        let what = format!("restart: {server} killed, memory short");
        if table.wants(&what) {
            match Shortage::new() {
                Ok(shortage) => {
                    let [set, _] = deaths(slot, || shortage.launch());
                    let remark = shortage.remark();
                    table.show(Figure { remark, ..set.figure(what, 5.0) });
                }
                Err(why) => table.skip(&what, &why),
            }
        }
    }
}

/// First and second deaths of a server in instances launched like this.
fn deaths(slot: usize, launch: impl Fn() -> Launch) -> [Set; 2] {
    let mut sets = [Set::default(), Set::default()];
    for _ in 0..PAIRS {
        let osps = launch().start();
        // The pair's first exchange is over, and the watchdog sleeps.
        std::thread::sleep(Duration::from_millis(50));
        let segment = osps.segment();
        for set in &mut sets {
            let generation = segment.slots()[slot].server.current_generation();
            let Some(process) = process_in(&segment, slot) else {
                set.missed += 1;
                break;
            };
            let killed = now();
            osps.signal(&process, Signal::KILL);
            let Some(beat) = first_beat(&segment, slot, generation) else {
                set.missed += 1;
                break;
            };
            set.add(between(killed, beat.at), beat.exact);
        }
    }
    sets
}

/// A control group that is short of memory all the time, since somebody in it reads a large file
/// again and again: the kernel takes whatever page was not used just now.
struct Shortage {
    /// Ended before its group is removed.
    _reader: Guest,
    group: Cgroup,
    _file: tempfile::NamedTempFile,
}

impl Shortage {
    /// Twice what a pair takes.
    const LIMIT: usize = 32 << 20;
    const FILE: u64 = 256 << 20;

    fn new() -> Result<Shortage, String> {
        let group = Cgroup::limited("short", "memory.high", Shortage::LIMIT)?;
        // What is cached already is another group's memory.
        let binary = File::open(BINARY).map_err(|error| format!("{BINARY}: {error}"))?;
        let _ = rustix::fs::fadvise(&binary, 0, None, rustix::fs::Advice::DontNeed);
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"));
        let file = file.map_err(|error| error.to_string())?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, Shortage::FILE)
            .map_err(|error| error.to_string())?;
        let read = "while :; do cat \"$1\"; done > /dev/null";
        let mut reader = std::process::Command::new("sh");
        reader.args(["-c", &Shortage::enter(&group, read), "sh"]).arg(file.path());
        let reader = Guest(reader.spawn().map_err(|error| error.to_string())?);
        Ok(Shortage { _reader: reader, group, _file: file })
    }

    /// A shell's words that go into the group first.
    fn enter(group: &Cgroup, then: &str) -> String {
        format!("echo $$ > {}/cgroup.procs && {then}", group.path().display())
    }

    fn launch(&self) -> Launch {
        let words = Shortage::enter(&self.group, "exec \"$@\"");
        Launch::pair(&[]).through(&["sh", "-c", &words, "sh"])
    }

    fn remark(&self) -> String {
        // Version 1 has the number alone.
        let read = |file| std::fs::read_to_string(self.group.path().join(file)).ok();
        let text = read("memory.failcnt").or_else(|| read("memory.events")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.trim_start_matches("high ").parse().ok());
        format!("  (short {} times)", count.unwrap_or(0_u64))
    }
}

/// Times to a first beat.
#[derive(Default)]
struct Set {
    values: Vec<f64>,
    inexact: usize,
    missed: usize,
}

impl Set {
    fn add(&mut self, value: f64, exact: bool) {
        self.values.push(value);
        self.inexact += usize::from(!exact);
    }

    fn figure(self, what: String, bound: f64) -> Figure {
        let remark = match self.inexact {
            0 => String::new(),
            later => format!("  ({later} by a later beat)"),
        };
        let Set { values, missed, .. } = self;
        Figure { what, unit: "ms", bound: Bound::AtMost(bound), values, missed, remark }
    }
}

struct FirstBeat {
    at: Monotonic,
    /// It is the first beat of its life, not one that followed before we looked.
    exact: bool,
}

/// Waits for a beat of another generation than `old`, looking every tenth of a millisecond: often
/// enough to meet the first one, seldom enough to leave the processors to those who are measured.
fn first_beat(segment: &Segment, slot: usize, old: Generation) -> Option<FirstBeat> {
    let server = &segment.slots()[slot].server;
    let end = now() + PATIENCE;
    while now() < end {
        if server.current_generation() != old && server.identity().is_some() {
            let baseline = server.baseline.load(Ordering::Acquire);
            let sample = segment.hearts()[slot].sample();
            if sample.count != baseline {
                let exact = sample.count == baseline.wrapping_add(1);
                return Some(FirstBeat { at: sample.stamp, exact });
            }
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    None
}

// --- Freeze -> verdict -> successor ------------------------------------------------------------

#[derive(Clone, Copy)]
enum Fault {
    Stop,
    Spin,
    Block,
}

impl Fault {
    /// SIGSTOP alone would flatter: the signal that tells a parent of a stop wakes it up.
    const ALL: [(Fault, &'static str); 3] =
        [(Fault::Stop, "SIGSTOP"), (Fault::Spin, "DEBUG SPIN"), (Fault::Block, "DEBUG BLOCK")];
}

/// Limits and how often each fault hits each server under them.
const LIMITS: [(&str, Duration, u32); 3] = [
    ("4s", Duration::from_secs(4), 3),
    ("1s", Duration::from_secs(1), 8),
    ("500ms", Duration::from_millis(500), 10),
];

/// Up this long a server starts again at once, whatever happened before.
const UP_LONG_ENOUGH: Duration = Duration::from_millis(1100);

/// What one freeze showed.
struct Freeze {
    /// Deadline (last beat + limit) -> verdict.
    late_by: f64,
    /// (freeze + limit - beat interval - overshoot) -> verdict.
    early_by: f64,
    /// Verdict -> the successor's first beat.
    successor: Option<(f64, bool)>,
}

/// All freezes of one fault under one limit.
#[derive(Default)]
struct Freezes {
    seen: Vec<(usize, Freeze)>,
    /// The host was late or overloaded meanwhile, and the server rightly got more time.
    excused: usize,
    missed: usize,
}

fn verdicts(table: &mut Table) {
    let line = |limit, part| format!("verdict: limit {limit}, {part}");
    let after = |server: &str| format!("restart: {server}, after a verdict");
    let mut successors = [Set::default(), Set::default()];
    let successors_wanted = SERVERS.iter().any(|(_, server)| table.wants(&after(server)));
    let early = "never early";
    for (name, limit, times) in LIMITS {
        let faults = Fault::ALL.map(|(_, fault)| fault);
        let mut parts = faults.into_iter().chain([early]);
        if !successors_wanted && !parts.any(|part| table.wants(&line(name, part))) {
            continue;
        }
        // One instance per fault, side by side: never more than one spins.
        let results = std::thread::scope(|scope| {
            let run = |(fault, _)| scope.spawn(move || freezes(fault, name, limit, times));
            Fault::ALL.map(run).map(|thread| thread.join().expect("it does not panic"))
        });
        let mut margins = Vec::new();
        for ((_, fault), result) in Fault::ALL.into_iter().zip(results) {
            let remark = match result.excused {
                0 => String::new(),
                excused => format!("  ({excused} set aside: the host was late)"),
            };
            table.show(Figure {
                what: line(name, fault),
                unit: "ms",
                bound: Bound::AtMost(10.0),
                values: result.seen.iter().map(|(_, freeze)| freeze.late_by).collect(),
                missed: result.missed,
                remark,
            });
            for (slot, freeze) in result.seen {
                margins.push(freeze.early_by);
                // Before the deadline is too early, whatever the freeze.
                margins.extend(Some(freeze.late_by).filter(|late_by| *late_by < 0.0));
                match freeze.successor {
                    Some((value, exact)) => successors[slot].add(value, exact),
                    None => successors[slot].missed += 1,
                }
            }
        }
        table.show(Figure {
            what: line(name, early),
            unit: "ms",
            bound: Bound::NeverBelow(0.0),
            values: margins,
            missed: 0,
            remark: "  (over freeze + limit - beat interval)".to_owned(),
        });
    }
    for ((_, server), set) in SERVERS.into_iter().zip(successors) {
        table.show(set.figure(after(server), 10.0));
    }
}

fn freezes(fault: Fault, name: &str, limit: Duration, times: u32) -> Freezes {
    let mut all = Freezes::default();
    let launch = || Launch::pair(&["--hang-timeout", name, "--allow-debug"]).start();
    let mut osps = launch();
    for time in 0..times {
        for (slot, _) in SERVERS {
            osps.wait_all_up();
            let interval = beat_interval(&osps.segment());
            // Long enough up for a restart at once; and every freeze at another point of the
            // interval between two beats.
            let phase = interval.mul_f64((f64::from(time) * 0.618 + 0.1).fract());
            std::thread::sleep(UP_LONG_ENOUGH.saturating_sub(limit) + interval + phase);
            match freeze(&osps, slot, fault, limit) {
                Outcome::Seen(freeze) => all.seen.push((slot, freeze)),
                Outcome::Excused => all.excused += 1,
                Outcome::Missed => {
                    all.missed += 1;
                    osps = launch();
                }
            }
        }
    }
    all
}

fn beat_interval(segment: &Segment) -> Duration {
    Duration::from_nanos(segment.header().beat_interval_ns.load(Ordering::Relaxed))
}

enum Outcome {
    Seen(Freeze),
    Excused,
    Missed,
}

fn freeze(osps: &Osps, slot: usize, fault: Fault, limit: Duration) -> Outcome {
    let segment = osps.segment();
    let generation = segment.slots()[slot].server.current_generation();
    let Some(process) = process_in(&segment, slot) else { return Outcome::Missed };
    let frozen = now();
    let connection = match fault {
        Fault::Stop => {
            osps.signal(&process, Signal::STOP);
            None
        }
        Fault::Spin => Some(osps.send(slot, "DEBUG SPIN")),
        Fault::Block => Some(osps.send(slot, "DEBUG BLOCK")),
    };
    // Frozen for certain, and its heart not yet its successor's.
    std::thread::sleep(limit / 2);
    let last_beat = segment.hearts()[slot].sample().stamp;
    let verdict = wait_verdict(&segment, slot, generation, limit);
    drop(connection);
    let Some(verdict) = verdict else { return Outcome::Missed };
    let successor = first_beat(&segment, slot, generation);
    let slow = |event: &Record| {
        let concerns = match event.what.event() {
            Event::LateTurn => true,
            Event::Spared => event.slot.is_some_and(|s| s.index() == slot),
            _ => false,
        };
        concerns && event.time >= last_beat && event.time <= verdict
    };
    if segment.events().latest(usize::MAX).iter().any(slow) {
        return Outcome::Excused;
    }
    Outcome::Seen(Freeze {
        late_by: between(last_beat + limit, verdict),
        early_by: between(frozen + limit - beat_interval(&segment) - OVERSHOOT, verdict),
        successor: successor.map(|beat| (between(verdict, beat.at), beat.exact)),
    })
}

/// Waits for the verdict on one generation; far longer than promised, so that a late one is seen
/// as late.
fn wait_verdict(
    segment: &Segment,
    slot: usize,
    generation: Generation,
    limit: Duration,
) -> Option<Monotonic> {
    let end = now() + limit * 3 + PATIENCE;
    let it = |event: &Record| {
        let of_slot = event.slot.is_some_and(|s| s.index() == slot);
        event.what.event() == Event::Verdict && of_slot && event.generation == generation
    };
    while now() < end {
        if let Some(event) = segment.events().latest(32).into_iter().find(it) {
            return Some(event.time);
        }
        // A restart takes longer than this, so nothing of it is missed.
        std::thread::sleep(Duration::from_micros(500));
    }
    None
}

// --- The watchdog at rest ----------------------------------------------------------------------

const IDLE: Duration = Duration::from_secs(30);

fn idle(table: &mut Table) {
    let names = ["idle: PSS of the watchdog", "idle: wake-ups a second", "idle: CPU in 30 s"];
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let osps = Launch::pair(&["--hang-timeout", "4s"]).start();
    // Past the start and the first check.
    std::thread::sleep(Duration::from_secs(3));
    let pid = osps.watchdog_pid();
    let (start, before) = (now(), Usage::of(pid));
    std::thread::sleep(IDLE);
    let (seconds, after) = (now().since(start).as_secs_f64(), Usage::of(pid));
    let switches = after.switches.saturating_sub(before.switches) as f64;
    let cpu = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e6;
    for (name, unit, bound, value) in [
        (names[0], "MiB", 3.0, pss_kib(pid) / 1024.0),
        (names[1], "/s", 1.5, switches / seconds),
        (names[2], "ms", 10.0, cpu * IDLE.as_secs_f64() / seconds),
    ] {
        let (what, values) = (name.to_owned(), vec![value]);
        let bound = Bound::AtMost(bound);
        table.show(Figure { what, unit, bound, values, missed: 0, remark: String::new() });
    }
}
