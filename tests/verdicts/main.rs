//! Every way in which a program can hang, for real, and what osps makes of it.
//!
//! Goal: each class of docs/verdicts.md is brought about by a real program under the real osps and
//! named rightly, within the documented time; what is somebody's intention is held for as long as
//! that lasts; no innocent is judged. The table in docs/verdicts.md is what these tests print.
//!
//! Method: `stuck.c` turns and beats (through the segment, the event loop's shim or `sd_notify`),
//! says so, and hangs in the way that it is told. Others are struck from outside. What was decided
//! is read from the event ring. A round that comes out differently is counted, and all of them are
//! told in the end.
//!
//! What it cannot show: `unknown`; `dying` (tests/dying.rs), `not-releasing` (tests/share.rs) and
//! `triggered` (tests/notify.rs); disks and network file systems that hang, which look like the
//! frozen file system here.
//!
//! `cargo test --test verdicts -- --ignored --nocapture` takes ten minutes over it; with
//! OSPS_BLESS=1 it writes the table.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the table is what it is run for")]
#![allow(clippy::unnecessary_wraps, reason = "plays have one shape; some can be impossible")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::pulse::slack;
use osps_heart::segment::{Record, What};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Event, State};

use common::holders::{Cgroup, Tracer, VERSION_2};
use common::{
    Guest, Launch, NO_RESTARTS, Osps, Random, Signal, cannot, events, has, is_root, ms, pass, skip,
    told_seed,
};
use disk::Disk;
use table::{Line, Tally};

/// Silence that convicts here.
const LIMIT: Duration = ms(800);
/// What a busy machine may take from a verdict to its record.
const NOISE: Duration = ms(1500);
/// The coarse clock of the event loop's shim may be so far behind.
const COARSE: Duration = ms(10);

const KILLED: &str = "killed";
const HELD: &str = "held; up again when let go";
const SPARED: &str = "spared while that lasts";

/// How long all of this goes on.
struct Effort {
    /// Lives that a program loses.
    lives: usize,
    /// The hearts that it does so with, by the number of the state; or all.
    all_hearts: bool,
    /// How often somebody holds one, and for how long.
    holds: usize,
    hold: Duration,
    /// How long a debugger holds one.
    debugger: Duration,
    /// How long the hogs are there.
    hogs: Duration,
    /// How often the host is paused.
    pauses: usize,
}

/// How a state comes about, and what happens to others meanwhile.
enum Play {
    /// The program does this to itself, in each of its lives.
    Hangs(&'static str),
    /// The same, and this much of its time is the kernel's.
    InKernel(&'static str),
    /// Somebody holds it for a while. It does this.
    Held(&'static str, fn(u32) -> Result<Holder, Absent>),
    /// Whatever it takes.
    Other(fn(&Effort) -> Result<Tally, Absent>),
}

/// Why something cannot be brought about here.
enum Absent {
    /// It can be had.
    Skip(String),
    /// Nobody can install it.
    Cannot(String),
}

/// Lets go of what it holds.
type Holder = Box<dyn FnOnce()>;

/// How many of its kind may be at work at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Quiet,
    Busy,
    Alone,
}

struct Case {
    load: Load,
    play: Play,
    /// The row of the table: state, what brings it about, class, what follows.
    row: &'static str,
}

const fn case(load: Load, play: Play, row: &'static str) -> Case {
    Case { load, play, row }
}

use Load::{Alone, Busy, Quiet};
use Play::{Hangs, Held, InKernel, Other};

#[rustfmt::skip]
const CASES: &[Case] = &[
    case(Quiet, Other(stopped),
        "stopped | SIGSTOP from outside | stopped | killed"),
    case(Quiet, Hangs("stops"),
        "stops itself | `raise(SIGSTOP)` | stopped | killed"),
    case(Quiet, Hangs("sleeps"),
        "sleeps | `pause` | blocked | killed"),
    case(Quiet, Hangs("deadlock"),
        "deadlock | two threads, two mutexes (futex) | blocked | killed"),
    case(Quiet, Hangs("fifo"),
        "reads a FIFO | nobody writes | blocked | killed"),
    case(Quiet, Hangs("full"),
        "writes a full pipe | nobody reads | blocked | killed"),
    case(Quiet, Hangs("answer"),
        "waits for an answer | a socket, nobody answers | blocked | killed"),
    case(Quiet, Hangs("child"),
        "waits for a child | the child sleeps | blocked | killed"),
    case(Quiet, Hangs("leader-leaves"),
        "its leader is gone | `pthread_exit`; a thread sleeps | blocked | killed"),
    case(Quiet, Other(named),
        "one heart of two | a named heart's thread sleeps, the first beats | blocked | killed"),
    case(Quiet, Other(never),
        "hangs at its start | no first beat | start-timeout | killed"),
    case(Quiet, Hangs("vforks"),
        "uninterruptible | parent of a vfork, the child sleeps | unkillable | killed"),
    case(Quiet, Hangs("beside-vforker"),
        "a thread uninterruptible | the same in a thread; the leader sleeps | unkillable | killed"),
    case(Quiet, Other(undying),
        "does not die | writes to a file system that `fsfreeze` froze | unkillable \
         | killed; replaced when it is dead"),
    case(Busy, Hangs("spins"),
        "spins | an endless loop in its own code | spinning | killed"),
    case(Busy, InKernel("kernel"),
        "spins in the kernel | one `readv` of 2 GiB from urandom | spinning | killed"),
    case(Busy, Hangs("naps"),
        "spins in naps | 15 ms of work, 1 ms of sleep | spinning | killed"),
    case(Busy, Hangs("beside-spinner"),
        "a thread spins | the leader sleeps | spinning | killed"),
    case(Busy, Hangs("beside-tickers"),
        "sleeps beside workers | eight threads work now and then | blocked | killed"),
    case(Busy, Hangs("vforks-beside-spinner"),
        "uninterruptible beside a spinner | the leader in vfork, a thread spins | unkillable \
         | killed"),
    case(Quiet, Other(debugged),
        "in a debugger | gdb attached | traced | held; up again when let go"),
    case(Quiet, Held("relays", held_thread),
        "a thread is held | a ptrace-stop of one thread that its leader waits for | traced \
         | held; up again when let go"),
    case(Quiet, Other(straced),
        "hangs under strace | a deadlock; strace attached, and gone later | traced \
         | held; then killed as blocked"),
    case(Quiet, Other(works_straced),
        "works under strace | strace attached to one that beats | – | nothing"),
    case(Quiet, Held("turns", frozen_v2),
        "frozen control group | version 2, `cgroup.freeze` | cgroup-frozen \
         | held; up again when let go"),
    case(Quiet, Held("turns", frozen_above),
        "frozen from above | the control group above its own | cgroup-frozen \
         | held; up again when let go"),
    case(Quiet, Held("turns", frozen_v1),
        "frozen control group, old | version 1, `freezer.state` | cgroup-frozen \
         | held; up again when let go"),
    case(Alone, Other(works_starved),
        "works beside hogs | 60 ms of work a turn, 20 hogs per processor | starved \
         | spared while that lasts"),
    case(Alone, Other(spins_starved),
        "spins beside hogs | an endless loop, 20 hogs per processor | starved \
         | spared twice, then killed"),
    case(Alone, Other(rationed),
        "hardly a processor | 60 ms of work a turn, a control group with 5 % of one | starved \
         | spared while that lasts"),
    case(Quiet, Other(paused),
        "paused host | all stopped together, in any order | – | nothing"),
];

/// What came of it in one round: class, what followed, how long after the last beat.
type Seen = (String, String, Duration);

/// The program, compiled once.
fn program() -> &'static str {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let path = MADE.get_or_init(|| {
        let (root, path) = (env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"));
        let (source, header) =
            (format!("{root}/tests/verdicts/stuck.c"), format!("{root}/heart/c"));
        // Another run of this test may be using the one that is there.
        let (new, path) = (Path::new(path).join("stuck.new"), Path::new(path).join("stuck"));
        let options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I", &header];
        common::compile(&options, source.as_ref(), &new, &["-lpthread"]);
        std::fs::rename(&new, &path).unwrap();
        path
    });
    path.to_str().unwrap()
}

/// A program that does this, under osps.
fn launch(heart: &str, words: &[&str]) -> Launch {
    // With a loop's heart nobody is overdue before the start timeout; the program turns for longer.
    launch_with(if heart == "loop" { "500ms" } else { "10s" }, heart, words)
}

fn launch_with(start: &str, heart: &str, words: &[&str]) -> Launch {
    let options = ["--hang-timeout", "800ms", "--stop-timeout", "200ms", "--heart", heart];
    let options = [&options[..], &["--start-timeout", start]].concat();
    Launch::own(&options, &[&[program(), heart], words].concat())
}

/// Waits until the program in this generation says that it hangs; returns its last beat.
fn wait_stuck(osps: &Osps, generation: u32) -> Monotonic {
    let word = format!("stuck {generation}");
    osps.wait(&word, || {
        osps.out.lock().unwrap().iter().any(|line| line.text == word).then_some(())
    });
    last_beat(osps)
}

fn last_beat(osps: &Osps) -> Monotonic {
    osps.segment().hearts()[0].sample().stamp
}

/// What is recorded of a generation since a moment.
fn record(
    osps: &Osps,
    generation: u32,
    since: Monotonic,
    which: impl Fn(&What) -> bool,
) -> Option<Record> {
    let its = |record: &Record| record.generation.0 == generation && record.time >= since;
    events(&osps.segment()).into_iter().find(|record| its(record) && which(&record.what))
}

/// How often it was spared, and what renewals allow in all.
fn renewals(osps: &Osps, limit: Duration, from: Monotonic, to: Monotonic) -> (usize, Duration) {
    let (mut spared, mut allowed) = (0, limit + slack(limit));
    for record in events(&osps.segment()) {
        if !(from..=to).contains(&record.time) {
            continue;
        }
        match record.what {
            What::LateTurn { by } => allowed += by + limit,
            What::Spared { .. } => {
                spared += 1;
                allowed += limit + slack(limit);
            }
            _ => {}
        }
    }
    (spared, allowed)
}

/// A decision on a silence since `from`: never early, and as late as docs/verdicts.md says.
fn assert_in_time(osps: &Osps, limit: Duration, from: Monotonic, at: Monotonic) -> usize {
    let (spared, allowed) = renewals(osps, limit, from, at);
    let after = at.since(from);
    assert!(
        (limit..=allowed + NOISE + COARSE).contains(&(after + COARSE)),
        "{after:?} after the last beat, allowed {allowed:?}\n{}",
        osps.log()
    );
    spared
}

/// The verdict on a silence, its death and its successor: in this order, and nobody beside it.
fn wait_killed(osps: &Osps, generation: u32, process: &Process, from: Monotonic) -> Seen {
    let (class, spared, at) = wait_verdict(osps, generation, from);
    let next = osps.wait("a successor", || {
        record(osps, generation + 1, from, |what| what.event() == Event::Started)
    });
    assert!(process.is_dead(), "a successor beside it\n{}", osps.log());
    // One that never came up is told by the pause that follows.
    let dies = |what: &What| matches!(what.event(), Event::Died | Event::Backoff);
    let died = record(osps, generation, at, dies).unwrap();
    assert!(died.time <= next.time, "{}", osps.log());
    // On a busy machine what wants a processor may be starved first; on one that is worse, so may be
    // workers that want one now and then, and whoever is on its way to hang.
    let follows = match (spared, &*class) {
        (0, _) | (_, "spinning") => KILLED.to_owned(),
        (_, class) if class != "starved" && is_overloaded() => KILLED.to_owned(),
        (2, _) => "spared twice, then killed".to_owned(),
        (spared, _) => format!("spared {spared} times, then killed"),
    };
    (class, follows, at.since(from))
}

/// Whether so many are at work on this machine that nobody gets a processor when it wants one.
fn is_overloaded() -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: usize = text.split('.').next().unwrap().parse().unwrap();
    load >= 3 * std::thread::available_parallelism().unwrap().get()
}

/// What it was convicted of, how often it had been spared, and when.
fn wait_verdict(osps: &Osps, generation: u32, from: Monotonic) -> (String, usize, Monotonic) {
    let found = osps.wait("a verdict", || {
        record(osps, generation, from, |what| what.event() == Event::Verdict)
    });
    let What::Verdict { cause, class, silence } = found.what else { unreachable!("{found:?}") };
    let limit = LIMIT;
    let spared = assert_in_time(osps, limit, from, found.time);
    assert!(silence >= limit, "{found:?}");
    let class = if cause == Cause::Frozen { class.unwrap().word() } else { cause.word() };
    (class.to_owned(), spared, found.time)
}

/// A program that hangs by itself, in each of its lives.
fn hang(case: &Case, word: &str, effort: &Effort, hearts: &[&str]) -> Tally {
    let mut tally = Tally::default();
    for heart in hearts {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mut osps = launch(heart, &[word, fifo.to_str().unwrap()]).start();
        for generation in 1..=u32::try_from(effort.lives).unwrap() {
            let from = wait_stuck(&osps, generation);
            let process = osps.process(0);
            if matches!(case.play, InKernel(_)) {
                assert_in_kernel(&osps, process.pid());
            }
            osps.wait("late", || {
                record(&osps, generation, from, |what| what.event() == Event::Late)
            });
            let place = place(process.pid());
            let seen = wait_killed(&osps, generation, &process, from);
            if let Some(place) = place.filter(|_| ["blocked", "unkillable"].contains(&&*seen.0)) {
                let told = format!("-> frozen ({} in {place}; ", seen.0);
                osps.wait_log(&[&format!("gen={generation} "), &told]);
            }
            tally.add(seen);
        }
        osps.stop();
    }
    tally
}

/// Where a process waits: its leader, unless a thread does so beyond any signal.
fn place(pid: u32) -> Option<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let is_in_disk = |tid: &u32| procfs::state(*tid) == Some('D');
    let tid = tids.find(is_in_disk).unwrap_or(pid);
    let channel = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan")).ok()?;
    (!matches!(&*channel, "" | "0")).then_some(channel)
}

/// What it does, it does in the kernel.
fn assert_in_kernel(osps: &Osps, pid: u32) {
    let before = times(pid);
    osps.wait("time in the kernel", || {
        let now = times(pid);
        let [user, system] = [0, 1].map(|which| now[which] - before[which]);
        // In ticks of 10 ms.
        (system > 10).then(|| assert!(user <= system / 5, "{user} of {system}"))
    });
}

/// Ticks in its own code and in the kernel.
fn times(pid: u32) -> [u64; 2] {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    [11, 12].map(|field| fields[field].parse().unwrap())
}

// ---- Struck from outside ----

fn stopped(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    for heart in HEARTS {
        let mut osps = launch(heart, &["turns"]).start();
        for generation in 1..=u32::try_from(effort.lives).unwrap() {
            wait_beating(&osps, generation);
            let process = osps.process(0);
            osps.stop_process(&process);
            tally.add(wait_killed(&osps, generation, &process, last_beat(&osps)));
        }
        osps.stop();
    }
    Ok(tally)
}

/// Waits until a generation has beaten a few times.
fn wait_beating(osps: &Osps, generation: u32) {
    osps.wait(&format!("generation {generation} up"), || {
        (osps.generation(0) == generation && osps.is_state(0, State::Up)).then_some(())
    });
    wait_beats(osps);
}

fn wait_beats(osps: &Osps) {
    let count = || osps.segment().hearts()[0].sample().count;
    let before = count();
    osps.wait("beats", || (count() > before + 2).then_some(()));
}

fn named(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let mut osps = launch("memory", &["writer"]).start();
    for generation in 1..=u32::try_from(effort.lives).unwrap() {
        wait_stuck(&osps, generation);
        let from = osps.segment().hearts()[1].sample().stamp;
        let process = osps.process(0);
        tally.add(wait_killed(&osps, generation, &process, from));
        osps.wait_log(&[&format!("gen={generation} "), "-> frozen (", "heart writer)"]);
    }
    osps.stop();
    Ok(tally)
}

fn never(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    for heart in ["memory", "notify"] {
        let mut osps = launch_with("800ms", heart, &["never"]).spawn();
        // One that never came up is restarted after pauses that double.
        for generation in 1..=u32::try_from(effort.lives.min(5)).unwrap() {
            osps.wait("a start", || {
                record(&osps, generation, Monotonic(0), |what| what.event() == Event::Started)
            });
            let segment = osps.segment();
            let spawned = segment.slots()[0].server.spawned_ns.load(Ordering::Relaxed);
            let from = Monotonic(spawned);
            let process = osps.process(0);
            tally.add(wait_killed(&osps, generation, &process, from));
        }
        osps.stop();
    }
    Ok(tally)
}

/// Killed, it stays: its slot stays closed as long, and nobody is started beside it.
fn undying(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let mut disk = Disk::new()?;
    let mut osps = launch("memory", &["writes", disk.file()]).start();
    for generation in 1..=u32::try_from(effort.lives).unwrap() {
        wait_beating(&osps, generation);
        disk.freeze();
        let process = osps.process(0);
        osps.wait("an uninterruptible sleep", || {
            (procfs::state(process.pid()) == Some('D')).then_some(())
        });
        let from = last_beat(&osps);
        let (class, _, at) = wait_verdict(&osps, generation, from);
        osps.wait("the alarm", || {
            record(&osps, generation, from, |what| what.event() == Event::Alarm)
        });
        pass(LIMIT);
        let next = record(&osps, generation + 1, from, |_| true);
        assert!(next.is_none() && !process.is_dead(), "{}", osps.log());
        disk.thaw();
        let (_, follows, _) = wait_killed(&osps, generation, &process, from);
        tally.add((class, format!("{follows}; replaced when it is dead"), at.since(from)));
    }
    osps.stop();
    Ok(tally)
}

// ---- Held ----

/// Waits until it is held, stays there for a while, lets go, and sees it beat again.
fn hold(osps: &Osps, span: Duration, from: Monotonic, let_go: Holder) -> Seen {
    let (class, at) = wait_held(osps, from);
    pass(span);
    assert!(osps.is_state(0, State::Held), "still held\n{}", osps.log());
    let_go();
    osps.wait("up again", || osps.is_state(0, State::Up).then_some(()));
    assert_untouched(osps);
    (class, HELD.to_owned(), at.since(from))
}

fn wait_held(osps: &Osps, from: Monotonic) -> (String, Monotonic) {
    let held = osps.wait("held", || {
        record(osps, osps.generation(0), from, |what| what.event() == Event::Held)
    });
    let What::Held { class } = held.what else { unreachable!("{held:?}") };
    assert_in_time(osps, LIMIT, from, held.time);
    (class.word().to_owned(), held.time)
}

/// Nobody was judged, nobody was replaced.
fn assert_untouched(osps: &Osps) {
    let judged = common::verdicts(&osps.segment());
    assert!(judged.is_empty(), "{judged:?}\n{}", osps.log());
    assert_eq!((osps.generation(0), osps.restarts(0)), (1, NO_RESTARTS), "{}", osps.log());
}

fn hold_each(
    effort: &Effort,
    word: &str,
    hearts: &[&str],
    holder: fn(u32) -> Result<Holder, Absent>,
) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    for heart in hearts {
        let mut osps = launch(heart, &[word]).start();
        for _ in 0..effort.holds {
            wait_beats(&osps);
            let let_go = holder(osps.pid(0))?;
            tally.add(hold(&osps, effort.hold, last_beat(&osps), let_go));
        }
        osps.stop();
    }
    Ok(tally)
}

fn gdb(pid: u32) -> Result<Tracer, Absent> {
    Tracer::gdb(pid).map_err(Absent::Skip)
}

fn debugged(effort: &Effort) -> Result<Tally, Absent> {
    let mut osps = launch("memory", &["turns"]).start();
    let mut tally = Tally::default();
    for round in 0..effort.holds {
        wait_beats(&osps);
        let gdb = gdb(osps.pid(0))?;
        let span = if round == 0 { effort.debugger } else { effort.hold };
        tally.add(hold(&osps, span, last_beat(&osps), Box::new(|| gdb.let_go())));
    }
    osps.stop();
    Ok(tally)
}

/// Holds the second thread of a process.
fn held_thread(pid: u32) -> Result<Holder, Absent> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut tids = tasks.map(|task| task.file_name().into_string().unwrap());
    let tid = tids.find(|tid| *tid != pid.to_string()).unwrap();
    let mut tracer = Command::new(program());
    tracer.args(["-", "trace", &tid]);
    let tracer = Tracer::of(tracer, "held").map_err(Absent::Skip)?;
    Ok(Box::new(|| tracer.let_go()))
}

fn strace(pid: u32) -> Result<Tracer, Absent> {
    Tracer::strace(pid).map_err(Absent::Skip)
}

/// Held while somebody looks on, and judged by what it does when nobody does any more.
fn straced(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let mut osps = launch("memory", &["deadlock"]).start();
    for generation in 1..=u32::try_from(effort.holds).unwrap() {
        let from = wait_stuck(&osps, generation);
        let process = osps.process(0);
        let strace = strace(process.pid())?;
        let (class, at) = wait_held(&osps, from);
        pass(effort.hold);
        assert!(osps.is_state(0, State::Held), "{}", osps.log());
        let gone = common::now();
        strace.let_go();
        let verdict = osps.wait("a verdict", || {
            record(&osps, generation, from, |what| what.event() == Event::Verdict)
        });
        let What::Verdict { class: Some(then), .. } = verdict.what else { panic!("{verdict:?}") };
        assert!(verdict.time.since(gone) >= LIMIT, "a full limit after that\n{}", osps.log());
        tally.add((class, format!("held; then killed as {then}"), at.since(from)));
    }
    osps.stop();
    Ok(tally)
}

fn works_straced(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let mut osps = launch("memory", &["turns"]).start();
    for _ in 0..effort.holds {
        let strace = strace(osps.pid(0))?;
        pass(effort.hold);
        strace.let_go();
        assert_untouched(&osps);
        tally.innocent();
    }
    osps.stop();
    Ok(tally)
}

/// A control group with this file, or why there is none.
fn group(parents: &[&str], name: &str, file: &str) -> Result<Cgroup, Absent> {
    if !is_root() {
        return Err(Absent::Skip("only root may make control groups".to_owned()));
    }
    Cgroup::make(parents, name, file).map_err(Absent::Cannot)
}

/// Freezes a process in a group of its own, which goes when it is let go.
fn frozen(pid: u32, parents: &[&str], name: &str, above: bool) -> Result<Holder, Absent> {
    let old = name == "v1";
    let (file, frozen, thawed) =
        if old { ("freezer.state", "FROZEN", "THAWED") } else { ("cgroup.freeze", "1", "0") };
    let group = group(parents, name, file)?;
    let below = above.then(|| Cgroup::make(&[group.path().to_str().unwrap()], "below", file));
    let below = below.transpose().map_err(Absent::Cannot)?;
    below.as_ref().unwrap_or(&group).add(pid).map_err(Absent::Cannot)?;
    group.write(file, frozen).unwrap();
    let root = group.path().parent().unwrap().join("cgroup.procs");
    Ok(Box::new(move || {
        group.write(file, thawed).unwrap();
        std::fs::write(root, pid.to_string()).unwrap();
        drop(below);
        drop(group);
    }))
}

fn frozen_v2(pid: u32) -> Result<Holder, Absent> {
    frozen(pid, &VERSION_2, "v2", false)
}

fn frozen_above(pid: u32) -> Result<Holder, Absent> {
    frozen(pid, &VERSION_2, "above", true)
}

fn frozen_v1(pid: u32) -> Result<Holder, Absent> {
    frozen(pid, &["/sys/fs/cgroup/freezer"], "v1", false)
}

// ---- Starved ----

/// Many that want all of the processors, until this goes.
fn hogs() -> Guest {
    let processors = std::thread::available_parallelism().unwrap().get();
    let count = (20 * processors).to_string();
    Guest(Command::new(program()).args(["-", "hogs", &count]).spawn().unwrap())
}

/// What an innocent shows that hardly gets a processor: spared again and again, and goes on.
fn starve(osps: &Osps, span: Duration, from: Monotonic) -> Seen {
    let spared = |what: &What| what.event() == Event::Spared;
    let first = osps.wait("spared", || record(osps, 1, from, spared));
    let What::Spared { silence } = first.what else { unreachable!("{first:?}") };
    pass(span);
    wait_beats(osps);
    assert_untouched(osps);
    ("starved".to_owned(), SPARED.to_owned(), silence)
}

fn works_starved(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let mut osps = launch("memory", &["works", "60"]).start();
    wait_beats(&osps);
    let (hogs, from) = (hogs(), common::now());
    tally.add(starve(&osps, effort.hogs, from));
    drop(hogs);
    osps.wait("up again", || osps.is_state(0, State::Up).then_some(()));
    assert_untouched(&osps);
    osps.stop();
    Ok(tally)
}

fn rationed(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    let old = group(&["/sys/fs/cgroup/cpu"], "rations", "cpu.cfs_quota_us");
    let (group, file, ration) = match old {
        Ok(group) => (group, "cpu.cfs_quota_us", "5000"),
        Err(_) => (group(&VERSION_2, "rations", "cpu.max")?, "cpu.max", "5000 100000"),
    };
    let mut osps = launch("memory", &["works", "60"]).start();
    wait_beats(&osps);
    group.add(osps.pid(0)).map_err(Absent::Cannot)?;
    group.write(file, ration).unwrap();
    tally.add(starve(&osps, effort.hogs, common::now()));
    osps.stop();
    Ok(tally)
}

fn spins_starved(effort: &Effort) -> Result<Tally, Absent> {
    let mut tally = Tally::default();
    for _ in 0..effort.holds {
        let mut osps = launch("memory", &["spins"]).start();
        let from = wait_stuck(&osps, 1);
        let process = osps.process(0);
        let hogs = hogs();
        tally.add(wait_killed(&osps, 1, &process, from));
        drop(hogs);
        osps.stop();
    }
    Ok(tally)
}

// ---- The paused host ----

/// Several hosts, each paused so many times for a while: nobody is judged.
fn paused(effort: &Effort) -> Result<Tally, Absent> {
    const HOSTS: usize = 8;
    let mut random = Random::new(told_seed("pauses"));
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for host in 0..HOSTS {
            let (seed, tally) = (random.next(), &tally);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let heart = HEARTS[host % HEARTS.len()];
                let mut osps = launch(heart, &["turns"]).start();
                for _ in 0..effort.pauses.div_ceil(HOSTS) {
                    wait_beats(&osps);
                    pause(&osps, &mut random);
                    wait_beats(&osps);
                    assert_untouched(&osps);
                    tally.lock().unwrap().innocent();
                }
                // Past the limit, counted from the last one.
                pass(LIMIT + LIMIT / 4);
                assert_untouched(&osps);
                osps.stop();
            });
        }
    });
    Ok(tally.into_inner().unwrap())
}

/// The watchdog and its server stand still for up to two limits, in any order.
fn pause(osps: &Osps, random: &mut Random) {
    let server = osps.process(0);
    let order = [random.below(2) == 0, random.below(2) == 0];
    let both = |first: bool, watchdog: &dyn Fn(), program: &dyn Fn()| {
        if first {
            watchdog();
        }
        program();
        if !first {
            watchdog();
        }
    };
    both(order[0], &|| osps.stop_watchdog(), &|| osps.stop_process(&server));
    pass(ms(random.next() % 1600));
    both(order[1], &|| osps.signal_watchdog(Signal::CONT), &|| {
        osps.signal(&server, Signal::CONT);
    });
}

// ---- All of it ----

const HEARTS: [&str; 3] = ["memory", "loop", "notify"];

fn play(number: usize, case: &Case, effort: &Effort) -> Option<Tally> {
    let own = [HEARTS[number % HEARTS.len()]];
    let hearts = if effort.all_hearts { &HEARTS[..] } else { &own };
    let done = match &case.play {
        Hangs(word) | InKernel(word) => Ok(hang(case, word, effort, hearts)),
        Held(word, holder) => hold_each(effort, word, hearts, *holder),
        Other(play) => play(effort),
    };
    match done {
        Ok(tally) => return Some(tally),
        Err(Absent::Skip(why)) => skip(&format!("{}: {why}", case.row)),
        Err(Absent::Cannot(why)) => cannot(&format!("{}: {why}", case.row)),
    }
    None
}

/// All cases of a kind, so many at a time.
fn play_some(load: Load, at_a_time: usize, effort: &Effort, done: &Mutex<Vec<Line>>) {
    let left = Mutex::new(CASES.iter().enumerate().filter(move |(_, case)| case.load == load));
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some((number, case)) = next else { break };
                    // What one finds wrong shall not hide what the others find.
                    let came = catch_unwind(AssertUnwindSafe(|| play(number, case, effort)));
                    let came = came.map_err(|_| ());
                    done.lock().unwrap().push(Line { number, row: case.row, came });
                }
            });
        }
    });
}

fn play_all(effort: &Effort) {
    if !has("cc") {
        return skip("cc is missing");
    }
    let done = Mutex::new(Vec::new());
    play_some(Quiet, 12, effort, &done);
    play_some(Busy, 2, effort, &done);
    play_some(Alone, 1, effort, &done);
    table::settle(done.into_inner().unwrap(), CASES.len());
}

#[test]
fn every_way_to_hang_is_named_rightly_and_no_innocent_is_judged() {
    play_all(&Effort {
        lives: 2,
        all_hearts: false,
        holds: 1,
        hold: LIMIT + LIMIT / 2,
        debugger: LIMIT + LIMIT / 2,
        hogs: ms(2000),
        pauses: 16,
    });
}

#[test]
#[ignore = "ten minutes: a thousand pauses, a debugger for a minute"]
fn the_same_again_and_again() {
    play_all(&Effort {
        lives: 10,
        all_hearts: true,
        holds: 5,
        hold: 3 * LIMIT,
        debugger: Duration::from_secs(60),
        hogs: Duration::from_secs(60),
        pauses: 1000,
    });
}
