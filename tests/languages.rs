//! The lines that docs/your-program.md shows beat, each in its own language.
//!
//! Goal: whoever types a block of *In your language* has a heart, within five lines; the header for
//! C and the package for Python have the rest of a heart, too, and agree with the Rust one on when
//! a watchdog is dead; `osps beat` beats for scripts.
//!
//! Method: each block is taken out of the page, put between imports and a turn of work, and run
//! under the real binary: with a heart in memory or over the notify socket, as the page says. The
//! programs of the further tests stand below, in C and in Python.
//!
//! What it cannot show: other versions of those languages. The block of Rust is run by
//! tests/tour.rs. A language that is missing is skipped.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use osps_heart::pulse::{Limits, Pulse, Reading, Sample, Turn};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use common::{BINARY, Guest, Launch, Osps, Random, SOON, has, ms, run, skip, told_seed};

const PAGE: &str = include_str!("../docs/your-program.md");
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/c");
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/python");

/// Limits that an interpreter on a loaded machine keeps.
const MEMORY: [&str; 6] = ["--heart", "memory", "--hang-timeout", "10s", "--start-timeout", "60s"];
const NOTIFY: [&str; 6] = ["--heart", "notify", "--hang-timeout", "10s", "--start-timeout", "60s"];

const HANG: Duration = Duration::from_secs(10);

/// The lines of the page in a language.
fn block(language: &str) -> String {
    let (_, section) = PAGE.split_once("\n## In your language\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let fence = format!("\n```{language}\n");
    let (_, rest) = section.split_once(&fence).unwrap_or_else(|| panic!("no block of {language}"));
    let (lines, _) = rest.split_once("```\n").expect("its end");
    assert!(lines.lines().count() <= 5, "five lines are promised:\n{lines}");
    lines.to_owned()
}

/// A program of one file in a directory of its own: what stands before, the lines, what stands
/// behind.
struct Program {
    dir: tempfile::TempDir,
    file: String,
}

impl Program {
    fn new(file: &str, before: &str, lines: &str, behind: &str) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(file).display().to_string();
        std::fs::write(&file, format!("{before}\n{lines}\n{behind}\n")).unwrap();
        Program { dir, file }
    }

    /// The file that a compiler made of it.
    fn compiled(&self, command: &[&str]) -> String {
        let out = self.dir.path().join("program").display().to_string();
        let mut compile = Command::new(command[0]);
        compile.args(&command[1..]).args(["-o", &out, &self.file]);
        // Where Go keeps the packages that it compiled.
        compile.env("GOCACHE", concat!(env!("CARGO_MANIFEST_DIR"), "/target/clients/go"));
        let done = compile.stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        out
    }
}

/// Whether a language is here; says so if it is not.
fn is_there(tool: &str) -> bool {
    let there = match tool {
        // The only one that does not know this option.
        "go" => Command::new("go").arg("version").output().is_ok_and(|told| told.status.success()),
        tool => has(tool),
    };
    if !there {
        skip(&format!("{tool} is missing"));
    }
    there
}

fn launch(options: &[&str], command: &[&str]) -> Launch {
    let bin = Path::new(BINARY).parent().unwrap().display();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    Launch::own(options, command).env("PYTHONPATH", PACKAGE).env("PATH", path)
}

fn beats(osps: &Osps) -> u64 {
    osps.segment().hearts()[0].sample().count
}

/// It comes up, beats again and again, and ends when it is told to.
fn beats_in(options: &[&str], command: &[&str]) {
    let mut osps = launch(options, command).start();
    let mut seen = beats(&osps);
    for _ in 0..3 {
        seen = osps.wait("a further beat", || Some(beats(&osps)).filter(|now| *now != seen));
    }
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    osps.stop();
}

/// The same over osps's notify socket, and with the words of the protocol over one with a path.
fn notifies(command: &[&str]) {
    beats_in(&NOTIFY, command);
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut program = Command::new(command[0]);
    program.args(&command[1..]).env("NOTIFY_SOCKET", dir.path().join("notify"));
    let _program = Guest(program.stdin(Stdio::null()).spawn().unwrap());
    for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        let mut bytes = [0u8; 100];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(str::from_utf8(&bytes[..length]), Ok(expected));
    }
}

const C_WORK: &str = "#include <unistd.h>\nstatic void one_turn_of_work(void) { usleep(20000); }\n";

/// The block of C in a language of the family, every warning an error.
fn in_c(compiler: &[&str], file: &str) {
    if !is_there(compiler[0]) {
        return;
    }
    // The header first: then it needs no option that names a source of functions.
    let before = format!("#include \"osps.h\"\n{C_WORK}int main(void) {{");
    let program = Program::new(file, &before, &block("c"), "return 0;\n}");
    let options =
        ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-I", HEADER];
    let options: Vec<_> = compiler.iter().chain(&options).copied().collect();
    beats_in(&MEMORY, &[&program.compiled(&options)]);
}

#[test]
fn c_beats() {
    in_c(&["cc", "-std=c11"], "program.c");
}

#[test]
fn cpp_beats() {
    in_c(&["c++", "-std=c++17"], "program.cpp");
}

/// The block of a language that needs no compiler.
fn in_script(tool: &str, language: &str, before: &str, runs: fn(&[&str])) {
    if is_there(tool) {
        let program = Program::new("program", before, &block(language), "");
        runs(&[tool, &program.file]);
    }
}

fn in_memory(command: &[&str]) {
    beats_in(&MEMORY, command);
}

#[test]
fn python_beats() {
    let before = "import time\ndef one_turn_of_work(): time.sleep(0.02)";
    in_script("python3", "python", before, in_memory);
}

#[test]
fn bash_beats() {
    in_script("bash", "bash", "one_turn_of_work() { sleep 0.02; }", in_memory);
}

#[test]
fn go_notifies() {
    if is_there("go") {
        let before = "package main\nimport (\"fmt\"; \"log\"; \"net\"; \"os\"; \"time\")\n\
                      func oneTurnOfWork() { time.Sleep(20 * time.Millisecond) }\nfunc main() {";
        let program = Program::new("program.go", before, &block("go"), "}");
        notifies(&[&program.compiled(&["go", "build"])]);
    }
}

#[test]
fn ruby_notifies() {
    let before = "require \"socket\"\ndef one_turn_of_work = sleep(0.02)";
    in_script("ruby", "ruby", before, notifies);
}

#[test]
fn php_notifies() {
    in_script("php", "php", "<?php\nfunction one_turn_of_work() { usleep(20000); }", notifies);
}

#[test]
fn node_beats() {
    in_script("node", "js", "const fs = require(\"fs\");", in_memory);
}

#[test]
fn java_beats() {
    // Beside the one that runs programs, it compiles them.
    if is_there("javac") {
        let before = "import java.nio.ByteBuffer;\nimport java.nio.channels.FileChannel;\n\
                      import java.nio.file.Path;\nimport static java.nio.ByteOrder.LITTLE_ENDIAN;\n\
                      import static java.nio.file.StandardOpenOption.*;\nclass Program {\n\
                      static void oneTurnOfWork() throws Exception { Thread.sleep(20); }\n\
                      public static void main(String[] args) throws Exception {";
        let program = Program::new("Program.java", before, &block("java"), "}\n}");
        beats_in(&MEMORY, &["java", &program.file]);
    }
}

// -------------------------------------------------------------------- the rest of a heart

/// Opens both hearts, shows that a child has neither, and works. In its first life the further heart
/// is parked for a second and then falls silent; in later ones it is given back.
const WHOLE_C: &str = r#"
int main(void) {
    osps_heart heart, writer, again;
    if (osps_open(&heart) != 0 || osps_open_named(&writer, "writer", 300000000) != 0) return 9;
    pid_t child = fork();
    if (child == 0) {
        osps_beat(&heart);
        osps_close(&writer);
        int silent = osps_should_stop(&heart);
        _exit(silent && osps_open(&again) != 0 && strstr(again.error, "taken by pid") ? 0 : 1);
    }
    int status = 1;
    if (waitpid(child, &status, 0) != child || status != 0) return 8;
    osps_activity(&heart, "at work");
    for (int turn = 0; !osps_should_stop(&heart); turn++) {
        osps_beat(&heart);
        if (turn < 20) osps_beat(&writer);
        if (turn == 20) osps_park(&writer);
        if (turn == 70 && heart.generation == 1) osps_beat(&writer);
        if (turn == 70 && heart.generation > 1) osps_close(&writer);
        one_turn_of_work();
    }
    return 0;
}
"#;

const WHOLE_PYTHON: &str = r#"
import os, sys, time, osps
heart, writer = osps.Heart.from_env(), osps.Heart.named("writer", 0.3)
child = os.fork()
if child == 0:
    heart.beat()
    writer.close()
    try:
        osps.Heart.from_env()
    except osps.HeartError as why:
        sys.exit(0 if heart.should_stop() and "taken by pid" in str(why) else 1)
    sys.exit(1)
if os.waitpid(child, 0)[1] != 0:
    sys.exit(8)
heart.activity("at work")
first, turn = os.environ["OSPS_GENERATION"] == "1", 0
while not heart.should_stop():
    heart.beat()
    if turn < 20:
        writer.beat()
    if turn == 20:
        writer.park()
    if turn == 70:
        writer.beat() if first else writer.close()
    time.sleep(0.02)
    turn += 1
"#;

/// Its further heart is judged by its own limit, not while it is parked, and not after it was given
/// back; it sees a stop by itself, and the end of its watchdog.
fn has_a_whole_heart(command: &[&str]) {
    let options = ["--heart", "memory", "--hang-timeout", "10s", "--orphan-timeout", "1s"];
    let mut osps = launch(&options, command).start();
    let hearts = |osps: &Osps| {
        let server = osps.status()["servers"][0].clone();
        let names = server["hearts"].as_array().unwrap().iter().map(|heart| heart["name"].clone());
        (server["generation"].as_u64().unwrap(), names.collect::<Vec<_>>())
    };
    osps.wait("a further heart", || (hearts(&osps) == (1, vec!["writer".into()])).then_some(()));
    osps.wait("its words", || (osps.status()["servers"][0]["activity"] == "at work").then_some(()));
    osps.wait_log(&["-> frozen (", "heart writer)"]);
    osps.wait("a successor", || (osps.generation(0) == 2).then_some(()));
    let segment = osps.segment();
    let server = &segment.slots()[0].server;
    let silence = Duration::from_nanos(server.last_silence_ns.load(Ordering::Relaxed));
    assert!((ms(300)..HANG).contains(&silence), "by its own limit: {silence:?}\n{}", osps.log());
    let turns = server.baseline.load(Ordering::Relaxed);
    assert!(turns > 70, "it was parked for fifty turns\n{}", osps.log());

    osps.wait("a further heart", || (hearts(&osps) == (2, vec!["writer".into()])).then_some(()));
    osps.wait("given back", || (hearts(&osps) == (2, vec![])).then_some(()));
    assert_eq!(osps.generation(0), 2, "{}", osps.log());

    let program = osps.process(0);
    osps.kill_watchdog();
    let last = segment.header().watchdog_heart.sample().stamp;
    osps.wait("the end of an orphan", || program.is_dead().then_some(()));
    assert!(common::now().since(last) >= Duration::from_secs(1), "not before its timeout");
}

/// A stop that it sees by itself needs no signal.
fn leaves_by_itself(command: &[&str]) {
    let mut osps = launch(&MEMORY, command).start();
    osps.wait("heeded", || {
        let segment = osps.segment();
        let heeds = segment.slots()[0].activity.heeds.load(Ordering::Relaxed);
        (heeds == u64::from(osps.generation(0))).then_some(())
    });
    osps.stop();
    assert!(osps.find_log(&["stopping -> down (status 0"]).is_some(), "{}", osps.log());
    assert!(osps.find_log(&["sent TERM"]).is_none(), "{}", osps.log());
}

#[test]
fn c_has_a_whole_heart() {
    for (compiler, file) in
        [(["cc", "-std=c11"], "program.c"), (["c++", "-std=c++17"], "program.cc")]
    {
        if is_there(compiler[0]) {
            let before = format!("#include \"osps.h\"\n#include <sys/wait.h>\n{C_WORK}");
            let program = Program::new(file, &before, WHOLE_C, "");
            let program = program.compiled(&[&compiler[..], &["-O2", "-I", HEADER]].concat());
            has_a_whole_heart(&[&program]);
            leaves_by_itself(&[&program]);
        }
    }
}

#[test]
fn python_has_a_whole_heart() {
    if is_there("python3") {
        let program = Program::new("program.py", "", WHOLE_PYTHON, "");
        has_a_whole_heart(&["python3", &program.file]);
        leaves_by_itself(&["python3", &program.file]);
    }
}

/// Each line of the input: a moment, the count and the stamp of the watchdog; the first one is what
/// was seen at the beginning, and the timeout. Each line of the output: whether it is overdue.
const ORPHAN_C: &str = r#"
int main(void) {
    osps_heart heart;
    memset(&heart, 0, sizeof heart);
    uint64_t now, count, stamp;
    if (scanf("%" SCNu64 "%" SCNu64 "%" SCNu64, &now, &count, &heart.timeout) != 3) return 9;
    heart.looked = heart.last_beat = heart.counted_from = now;
    heart.count = count;
    while (scanf("%" SCNu64 "%" SCNu64 "%" SCNu64, &now, &count, &stamp) == 3)
        puts(osps__orphaned(&heart, now, count, stamp) ? "1" : "0");
    return 0;
}
"#;

const ORPHAN_PYTHON: &str = r"
import sys
from osps._orphan import Orphan
now, count, timeout = map(int, sys.stdin.readline().split())
orphan = Orphan(timeout, now, count)
for line in sys.stdin:
    print(int(orphan.look(*map(int, line.split()))))
";

/// A history of looks at a watchdog, and what Rust says to each: the rule of heart/src/orphan.rs.
fn history(random: &mut Random) -> (String, String) {
    let timeout = Duration::from_secs(*random.choose(&[1, 3, 30]));
    let (mut now, mut count) = (Monotonic(1_000_000_000_000), random.word());
    let mut alone = Pulse::new(Limits { hang: timeout, start: timeout }, now, count);
    let mut input = format!("{} {count} {}\n", now.0, timeout.as_nanos());
    let mut output = String::new();
    let mut stamp = 0;
    for _ in 0..1000 {
        // In time, somewhat late, and in between, where the slack of each timeout ends.
        let pause = *random.choose(&[0, 10, 500, 1000, 1050, 1125, 1126, 1375, 1376, 1501, 9000]);
        let pause = if random.below(2) == 0 { pause } else { random.next() % 1600 };
        let previous = now;
        now = now + ms(pause);
        if random.below(4) == 0 {
            count = count.wrapping_add(1);
            let back = ms(*random.choose(&[0, 1, 2000, 40_000]));
            let back = if random.below(3) == 0 { back } else { ms(random.next() % 1600) };
            stamp = *random.choose(&[(now - back).0, (now + back).0, 0, 7, u64::MAX]);
        }
        let turn = Turn::new(now, previous, now.since(previous + Duration::from_secs(1)));
        // A watchdog does not park.
        let seen = if stamp == u64::MAX { 0 } else { stamp };
        let overdue = alone.observe(&turn, Sample { count, stamp: Monotonic(seen) });
        writeln!(input, "{} {count} {stamp}", now.0).unwrap();
        writeln!(output, "{}", u8::from(overdue == Reading::Overdue)).unwrap();
    }
    (input, output)
}

fn judges_a_watchdog_like_rust(command: &[&str]) {
    let mut random = Random::new(told_seed("looks at a watchdog"));
    let mut convicted = 0;
    for _ in 0..20 {
        let (input, expected) = history(&mut random);
        let mut program = Command::new(command[0]);
        program.args(&command[1..]).env("PYTHONPATH", PACKAGE);
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", common::text(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{input}");
        convicted += usize::from(expected.contains('1'));
    }
    assert!((1..20).contains(&convicted), "both happen: {convicted} of 20");
}

#[test]
fn c_judges_a_watchdog_like_rust() {
    if is_there("cc") {
        let program = Program::new("program.c", "#include \"osps.h\"", ORPHAN_C, "");
        judges_a_watchdog_like_rust(&[&program.compiled(&["cc", "-std=c11", "-I", HEADER])]);
    }
}

#[test]
fn python_judges_a_watchdog_like_rust() {
    if is_there("python3") {
        let program = Program::new("program.py", "", ORPHAN_PYTHON, "");
        judges_a_watchdog_like_rust(&["python3", &program.file]);
    }
}

const ASYNCIO: &str = r"
import asyncio, osps, osps.asyncio
async def main():
    stop = asyncio.Event()
    heart = osps.asyncio.beat(on_stop=stop.set)
    heart.activity(osps.dumps())
    await stop.wait()
asyncio.run(main())
";

#[test]
fn an_event_loop_of_python_beats_and_shows_its_stacks() {
    if !is_there("python3") || !is_there("bash") {
        return;
    }
    let program = Program::new("program.py", "", ASYNCIO, "");
    beats_in(&MEMORY, &["python3", &program.file]);
    leaves_by_itself(&["python3", &program.file]);

    let options = ["--heart", "memory", "--hang-timeout", "10s"];
    let mut osps = launch(&options, &["python3", &program.file]).start();
    let stacks = osps.run_dir().join("stacks-0");
    osps.wait("a place for stacks", || stacks.exists().then_some(()));
    assert_eq!(std::fs::read_to_string(&stacks).unwrap(), "");
    let activity = || osps.status()["servers"][0]["activity"].clone();
    osps.wait("its name", || (activity() == stacks.display().to_string()).then_some(()));
    let mut kill = Command::new("bash");
    kill.args(["-c", &format!("kill -s RTMAX {}", osps.pid(0))]);
    let killed = run(kill);
    assert!(killed.status.success(), "{}", common::text(&killed));
    osps.wait("the stacks", || {
        std::fs::read_to_string(&stacks).unwrap().contains("program.py").then_some(())
    });
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    osps.stop();
    assert!(!osps.run_dir().exists(), "the stacks do not keep it\n{}", osps.log());
}

// -------------------------------------------------------------------- osps beat

#[test]
fn a_script_beats_from_wherever_it_likes() {
    if !is_there("bash") {
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8; do osps beat --named side & done; wait
                  (osps beat --activity 'in a child')
                  while osps beat; do [ -e \"$OSPS_RUN_DIR/quiet\" ] || osps beat --named side; done";
    let program = Program::new("program.sh", "", script, "");
    let options = ["--heart", "memory", "--hang-timeout", "3s", "--start-timeout", "60s"];
    let mut osps = launch(&options, &["bash", &program.file]).start();
    let server = osps.status()["servers"][0].clone();
    assert_eq!(server["activity"], "in a child");
    assert_eq!(server["heart_pid"], serde_json::Value::Null, "unclaimed");
    let hearts: Vec<_> = server["hearts"].as_array().unwrap().iter().collect();
    assert_eq!(hearts.len(), 1, "eight that came at once have one: {hearts:?}");
    assert_eq!(
        (&hearts[0]["name"], hearts[0]["pid"].as_u64()),
        (&"side".into(), server["pid"].as_u64())
    );

    let quiet = osps.run_dir().join("quiet");
    std::fs::write(&quiet, "").unwrap();
    osps.wait_log(&["-> frozen (", "heart side)"]);
    std::fs::remove_file(&quiet).unwrap();
    osps.wait_successor(0, 1);
    osps.wait_all_up();
    osps.stop();
}

#[test]
fn osps_beat_says_why_it_does_not_beat() {
    let mut alone = Command::new(BINARY);
    alone.arg("beat").env_remove("OSPS_RUN_DIR").env_remove("OSPS_SLOT");
    let refused = |command: Command, code: i32, why: &str| {
        let output = run(command);
        let said = common::text(&output);
        assert!(output.status.code() == Some(code) && said.contains(why), "not {why}: {said}");
    };
    refused(alone, 1, "not started by osps");

    if !is_there("python3") {
        return;
    }
    let program = Program::new("program.py", "", WHOLE_PYTHON, "");
    let osps = launch(&MEMORY, &["python3", &program.file]).start();
    let (pid, generation) = (osps.pid(0), osps.generation(0));
    let child = |generation: u32, arguments: &[&str]| {
        let mut beat = Command::new(BINARY);
        beat.arg("beat").args(arguments).env("OSPS_RUN_DIR", osps.run_dir());
        beat.env("OSPS_SLOT", "0").env("OSPS_GENERATION", generation.to_string());
        beat
    };
    refused(child(generation, &[]), 1, &format!("taken by pid {pid}"));
    refused(child(generation + 1, &[]), 1, "was replaced");
    refused(child(generation, &["--name", "side"]), 2, "--name");
}
