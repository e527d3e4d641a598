//! The shim for event loops inside of a program in C, without a watchdog.
//!
//! Goal: each of the nine waits beats and is sliced; to the program everything is as without it:
//! results, errno, times, masks, signals in and between slices, closed descriptors, senseless
//! arguments; nobody beats in another's name: threads, forked children however they were forked,
//! processes that may not claim; a filter, another user, another root, closed descriptors do no
//! harm; garbage in its environment makes it transparent.
//!
//! Method: `calls.c` says in words what its waits brought. It runs with and without the shim, at a
//! limit of 20 ms, so that a wait has many slices; the words must be the same, and the segment shows
//! who beat. A failure prints the seed.
//!
//! What it cannot show: other C libraries (tests/loops has one with musl); cancelled threads.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

#[path = "../common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use osps_heart::example;
use osps_heart::ids::{Claim, Generation, SlotId};
use osps_heart::pulse::PARKED;
use osps_heart::segment::layout::HeartCells;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Geometry, Segment, text};
use osps_heart::sync::Ordering;

use common::{SOON, is_root, ms, pass, skip, told_seed, wait_until};

const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loop.so"));
const KINDS: [&str; 9] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
    "select",
    "pselect",
    "__poll_chk",
    "__ppoll_chk",
];
const GENERATION: Generation = Generation(7);
const LIMIT: Duration = Duration::from_millis(20);

/// The program and the shim, where everybody can read them.
fn made() -> &'static (PathBuf, PathBuf) {
    static MADE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loop_shim");
        std::fs::create_dir_all(&dir).unwrap();
        let (program, shim) = (dir.join("calls"), dir.join("loop.so"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loop_shim/calls.c");
        common::compile(&["-O1", "-w"], source.as_ref(), &program, &["-lpthread"]);
        std::fs::write(&shim, SHIM).unwrap();
        (program, shim)
    })
}

/// A segment as a watchdog makes it, with a process in slot 0 that is going to start.
struct Stage {
    dir: tempfile::TempDir,
    segment: Segment,
    file: File,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let geometry = Geometry::new(1, 4, 4096, 256).unwrap();
        let path = dir.path().join("segment");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let segment = Segment::create(&file, &example::options(geometry), |_| {}).unwrap();
        let stage = Stage { dir, segment, file };
        stage.line().unclaim(SlotId(0));
        stage.line().limit_ns.store(u64::try_from(LIMIT.as_nanos()).unwrap(), Ordering::Relaxed);
        let identity = Identity { pid: 1, start_time: 0, generation: GENERATION };
        stage.segment.slots()[0].server.set_identity(identity);
        stage
    }

    fn line(&self) -> &HeartCells {
        &self.segment.hearts()[0]
    }

    fn count(&self) -> u64 {
        self.line().sample().count
    }

    /// What the trampoline tells, for a segment at this descriptor.
    fn told(&self, fd: i32, mode: &str) -> String {
        let meta = self.file.metadata().unwrap();
        format!("{fd}:{}:{}:99:{mode}", meta.dev(), meta.ino())
    }

    fn command(&self, mode: &str, words: &[&str]) -> Command {
        let (program, shim) = made();
        let mut command = Command::new(program);
        // A descriptor without close-on-exec, as the trampoline leaves it.
        let kept = rustix::io::dup(&self.file).unwrap();
        command.args(words).env("LD_PRELOAD", shim);
        command.env("OSPS_LOOP", self.told(kept.as_raw_fd(), mode));
        command.env("OSPS_RUN_DIR", self.dir.path());
        command.env("OSPS_SLOT", "0").env("OSPS_GENERATION", GENERATION.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Held until the process is made; a leak of some descriptors of a test.
        std::mem::forget(kept);
        command
    }

    fn start(&self, mode: &str, words: &[&str]) -> Program {
        Program::new(self.command(mode, words))
    }

    /// A program that goes so far, and does not beat from then on.
    fn start_silent(&self, words: &[&str], why: &str) {
        let mut program = self.start("loop", words);
        program.says("done");
        self.assert_silent(why);
    }

    /// It beats again and again.
    fn wait_beats(&self) {
        let line = self.line();
        for _ in 0..3 {
            let before = line.sample().count;
            wait_until("a beat", SOON, || (line.sample().count != before).then_some(()));
        }
    }

    fn assert_silent(&self, why: &str) {
        let before = self.count();
        pass(ms(300));
        assert_eq!(self.count(), before, "{why}");
    }
}

struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Program {
    fn new(mut command: Command) -> Program {
        // A group of its own: what it forks ends with it.
        let mut child = command.process_group(0).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Program { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn says(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The words of the program with the shim and without.
fn same(words: &[&str]) {
    let plain = Command::new(&made().0).args(words).output().unwrap();
    let stage = Stage::new();
    let shimmed = stage.command("loop", words).output().unwrap();
    assert!(stage.count() > 0, "the shim did nothing");
    assert_eq!(shimmed.status, plain.status, "{}", common::text(&shimmed));
    let (plain, shimmed) = (common::text(&plain), common::text(&shimmed));
    let mut differences = String::new();
    for (plain, shimmed) in plain.lines().zip(shimmed.lines()).filter(|(a, b)| a != b) {
        let _ = writeln!(differences, "plain:   {plain}\nshimmed: {shimmed}");
    }
    assert!(differences.is_empty(), "{differences}");
    assert_eq!(plain, shimmed);
}

#[test]
fn every_wait_beats_and_is_sliced() {
    for (number, kind) in KINDS.into_iter().enumerate() {
        let stage = Stage::new();
        let mut program = stage.start("loop", &["kind", &number.to_string()]);
        // It waits for ever, so each further beat is a slice's.
        wait_until(kind, SOON, || (stage.count() > 20).then_some(()));
        let claim = stage.line().claimed();
        assert_eq!(claim.pid, program.child.id(), "{kind}");
        assert!(claim.is_of(SlotId(0), GENERATION), "{kind}");
        program.child.kill().unwrap();
    }
}

#[test]
fn nothing_changes_for_the_program() {
    let seed = told_seed("waits");
    same(&["senseless"]);
    for round in 0..4 {
        same(&["random", &(seed + round).to_string()]);
    }
}

/// Five slices and their wake-ups are no longer than the one wait, and not shorter.
#[test]
fn slices_add_up_to_the_wait() {
    for (kind, more) in [("0", 1000), ("2", 500), ("4", 500), ("5", 500)] {
        let number = |output: &std::process::Output| {
            String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().expect("microseconds")
        };
        let plain = number(&Command::new(&made().0).args(["longer", kind]).output().unwrap());
        let stage = Stage::new();
        let shimmed = number(&stage.command("loop", &["longer", kind]).output().unwrap());
        assert!(shimmed >= 0, "kind {kind} too short: {shimmed} us");
        assert!(shimmed <= plain.max(200) + more, "kind {kind}: {plain} and {shimmed} us");
    }
}

#[test]
fn no_signal_is_lost_between_two_slices() {
    let seed = told_seed("signals");
    same(&["signals", &seed.to_string()]);
}

/// Two beats for each wait that returns at once, from the third on, and none without a wait.
#[test]
fn a_beat_is_a_turn() {
    for kind in ["0", "3", "5"] {
        let stage = Stage::new();
        let mut program = stage.start("loop", &["turns", kind, "50"]);
        program.says("done");
        assert_eq!(stage.count(), 96);
        let stamp = stage.line().sample().stamp;
        assert!(stamp <= common::now() && common::now().since(stamp) < SOON);
        stage.assert_silent("a program that waits no more");
    }
}

#[test]
fn only_the_main_thread_and_its_own_epoll_count() {
    for (what, why) in [
        ("threads", "a stuck main thread beside one that polls"),
        ("nested", "a callback that polls its own socket"),
        ("callback", "a callback with a loop of its own"),
    ] {
        Stage::new().start_silent(&[what], why);
    }
}

/// `asyncio.run()` twice, the second time deeper in the program.
#[test]
fn the_next_loop_counts_when_the_last_one_was_closed() {
    let stage = Stage::new();
    let mut program = stage.start("loop", &["deeper"]);
    program.says("1");
    stage.wait_beats();
}

/// gunicorn's workers do not wait while clients are there: under load they were killed.
#[test]
fn a_client_that_is_taken_is_a_turn() {
    let stage = Stage::new();
    let mut program = stage.start("loop", &["accepts"]);
    wait_until("its claim", SOON, || (stage.count() > 0).then_some(()));
    stage.wait_beats();
    program.says("done");
    assert!(stage.count() >= 500, "{}", stage.count());
    stage.assert_silent("who takes no more");
}

/// Programs of Rust poll once before they begin, without waiting.
#[test]
fn who_only_looks_is_no_event_loop() {
    let stage = Stage::new();
    stage.start_silent(&["looks"], "looks");
    assert_eq!(stage.line().claimed().pid, 0);
}

/// It was claimed again by the wait that went on, and nobody beat there any more.
#[test]
fn a_filter_of_another_thread_frees_the_line_for_good() {
    let stage = Stage::new();
    let mut program = stage.start("loop", &["filter"]);
    stage.wait_beats();
    program.says("filtered 0");
    pass(ms(100));
    assert_eq!(stage.line().claimed(), Claim::unclaimed(SlotId(0)));
    stage.assert_silent("a filtered program");
}

/// The kernel looks at no more descriptors than there may be; an array behind the set is not its.
#[test]
fn stacks_and_sets_may_be_small() {
    for what in ["small", "many"] {
        let plain = Command::new(&made().0).arg(what).output().unwrap();
        let stage = Stage::new();
        let shimmed = stage.command("loop", &[what]).output().unwrap();
        assert!(plain.status.success(), "{what}");
        assert_eq!(common::text(&shimmed), common::text(&plain), "{what}");
    }
}

#[test]
fn a_child_never_beats_for_its_parent() {
    for how in ["fork", "_Fork", "clone"] {
        let stage = Stage::new();
        let mut program = stage.start("loop", &[how]);
        program.says("done");
        assert_eq!(stage.line().claimed().pid, program.child.id(), "{how}");
        stage.assert_silent(how);
        // Once the watchdog freed the line, the child stands for the service.
        let claim = stage.line().claimed();
        assert!(stage.line().exchange_claim(claim, Claim::unclaimed(SlotId(0))));
        stage.wait_beats();
        assert_ne!(stage.line().claimed().pid, program.child.id(), "{how}");
    }
    // The child of a vfork has the parent's memory, and waits without slices and beats.
    let stage = Stage::new();
    let mut program = stage.start("loop", &["vfork"]);
    program.says("done");
    let before = stage.count();
    pass(ms(1000));
    // A beat for each wait of 10 ms that it enters; sliced at 5 ms it would be more.
    assert!(stage.count() - before <= 2 * 101, "{}", stage.count() - before);
}

#[test]
fn who_may_not_claim_is_silent() {
    let taken = Claim::of(SlotId(0), GENERATION, 4711, 0);
    let earlier = Claim::of(SlotId(0), Generation(GENERATION.0 - 1), 4711, 0);
    let later = Claim::of(SlotId(0), Generation(GENERATION.0 + 1), 4711, 0);
    for (claim, may) in [(taken, false), (earlier, true), (later, false)] {
        let stage = Stage::new();
        assert!(stage.line().exchange_claim(Claim::unclaimed(SlotId(0)), claim));
        let _program = stage.start("loop", &["kind", "6"]);
        if may {
            stage.wait_beats();
        } else {
            stage.assert_silent("another's line");
            assert_eq!(stage.line().claimed(), claim);
        }
    }
    // Replaced meanwhile: silent for good.
    let stage = Stage::new();
    let _program = stage.start("loop", &["kind", "6"]);
    stage.wait_beats();
    let identity = Identity { pid: 2, start_time: 0, generation: Generation(8) };
    stage.segment.slots()[0].server.set_identity(identity);
    stage.line().unclaim(SlotId(0));
    pass(ms(50));
    stage.assert_silent("the process of an earlier generation");
    // By name.
    for (name, may) in [("calls", true), ("call", false), ("calls2", false)] {
        let stage = Stage::new();
        let mut command = stage.command("loop", &["kind", "6"]);
        let _program = Program::new({
            command.env("OSPS_HEART_PROCESS", name);
            command
        });
        if may {
            stage.wait_beats();
        } else {
            stage.assert_silent(name);
            assert_eq!(stage.line().claimed().pid, 0, "{name}");
        }
    }
}

#[test]
fn until_it_beats_the_stamp_says_that_it_is_there() {
    let stage = Stage::new();
    let mut command = Command::new("sleep");
    let template = stage.command("loop", &[]);
    command.arg("1000").stdout(Stdio::piped());
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let program = Program::new(command);
    let stamp = || stage.line().sample().stamp.0;
    wait_until("a sign", SOON, || (stamp() == u64::from(program.child.id())).then_some(()));
    assert_eq!((stage.count(), stage.line().claimed().pid), (0, 0));
}

#[test]
fn closed_descriptors_another_user_and_another_root_do_no_harm() {
    let stage = Stage::new();
    let mut program = stage.start("loop", &["close"]);
    program.says("done");
    stage.wait_beats();
    if !is_root() {
        return skip("another user and another root need root");
    }
    let stage = Stage::new();
    let mut program = stage.start("loop", &["user"]);
    program.says("done");
    stage.wait_beats();
    // Without the descriptor, by name.
    let stage = Stage::new();
    let mut command = stage.command("loop", &["kind", "6"]);
    command.env("OSPS_LOOP", stage.told(0, "loop"));
    let _program = Program::new(command);
    stage.wait_beats();
}

/// In the strictest mode every call but four is the end.
#[test]
fn a_filter_ends_the_heart_and_not_the_program() {
    let stage = Stage::new();
    let mut program = stage.start("loop", &["strict"]);
    program.says("done");
    wait_until("the line given up", SOON, || {
        (stage.line().claimed() == Claim::unclaimed(SlotId(0))).then_some(())
    });
    assert_eq!(stage.line().sample().stamp, PARKED);
    program.go_on();
    pass(ms(100));
    assert_eq!(program.child.try_wait().unwrap(), None, "it lives");
    drop(program.child.stdin.take());
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn garbage_makes_it_transparent() {
    let stage = Stage::new();
    let good = stage.told(3, "loop");
    let bad = [
        "",
        "x",
        "3",
        "3:1:2",
        "3:1:2:0:loop",
        "3:1:2:0:",
        "-1:1:2:0:loop",
        "::::",
        "3:1:2:0:Loop",
        "99999999999999999999:1:2:0:loop",
        "1:0:0:0:loop",
        "0:0:0:0:loops",
    ];
    let garbage = bad.iter().map(|text| ("OSPS_LOOP", (*text).to_owned()));
    let others = [
        ("OSPS_LOOP", good.replace(":loop", ":loopss")),
        ("OSPS_LOOP", format!("{good} ")),
        ("OSPS_SLOT", "1".to_owned()),
        ("OSPS_SLOT", "-1".to_owned()),
        ("OSPS_SLOT", String::new()),
        ("OSPS_GENERATION", "8".to_owned()),
        ("OSPS_GENERATION", "7x".to_owned()),
        ("OSPS_HEART_PROCESS", "x".repeat(5000)),
    ];
    for (name, value) in garbage.chain(others) {
        let mut command = stage.command("loop", &["turns", "3", "10"]);
        let mut program = Program::new({
            command.env(name, &value);
            command
        });
        program.says("done");
        assert_eq!((stage.count(), stage.line().claimed().pid), (0, 0), "{name}={value}");
    }
    // What it is given is not a segment.
    let header = &stage.segment.header();
    for (word, value) in [
        (&header.magic, 1),
        (&header.version, 99),
        (&header.hearts_offset, u64::MAX - 4095),
        (&header.hearts_offset, 64),
        (&header.hearts_count, u64::MAX / 64),
        (&header.slots_offset, 1 << 40),
        (&header.slots_count, 5),
        (&header.slots_count, 0),
    ] {
        let before = word.load(Ordering::Relaxed);
        word.store(value, Ordering::Relaxed);
        let mut program = stage.start("loop", &["turns", "3", "10"]);
        program.says("done");
        word.store(before, Ordering::Relaxed);
        assert_eq!((stage.count(), stage.line().claimed().pid), (0, 0), "{value}");
    }
}

#[test]
fn loops_have_a_line_for_each_descriptor_until_it_is_closed() {
    let stage = Stage::new();
    let further = &stage.segment.hearts()[1];
    let mut program = stage.start("loops", &["loops"]);
    program.says("two");
    let pid = program.child.id();
    assert_eq!((stage.line().claimed().pid, further.claimed().pid), (pid, pid));
    assert!(stage.count() > 0 && further.sample().count > 0);
    assert!(text::load(&further.name).starts_with("epoll "), "{}", text::load(&further.name));
    program.go_on();
    program.says("one");
    assert_eq!(further.claimed(), Claim::unpack(0));
    assert_eq!(further.sample().stamp, PARKED);
    program.go_on();
    program.says("none");
    assert_eq!(stage.line().claimed(), Claim::unclaimed(SlotId(0)));
}

/// Lines that it had before its exec were left to be silent.
#[test]
fn after_an_exec_nothing_is_claimed() {
    let stage = Stage::new();
    let further = &stage.segment.hearts()[1];
    let mut program = stage.start("loops", &["again"]);
    program.says("two");
    assert_ne!((stage.line().claimed().pid, further.claimed().pid), (0, 0));
    program.go_on();
    program.says("again");
    assert_eq!(stage.line().claimed(), Claim::unclaimed(SlotId(0)));
    assert_eq!(further.claimed(), Claim::unpack(0));
}

/// It loads into any program: no library that it needs, no version of a symbol.
#[test]
fn it_needs_nothing() {
    let (_, shim) = made();
    let Ok(told) = Command::new("readelf").args(["-dsW"]).arg(shim).output() else {
        return skip("readelf is missing");
    };
    let told = common::text(&told);
    assert!(told.contains("epoll_wait") && !told.contains("(NEEDED)"), "{told}");
    let mut undefined: Vec<_> = told.lines().filter(|line| line.contains(" UND ")).collect();
    undefined.retain(|line| line.contains('@'));
    assert!(undefined.is_empty(), "{undefined:?}");
}
