//! How fast a program that died is there again, beside what others need, in the same run:
//! `cargo bench --bench restarts`.
//!
//! From SIGKILL to the first instruction of the successor's `main`, which writes the time. After 2 to
//! 5 s of idleness each, since nothing is hot when a real server dies. The supervisors take turns,
//! each with a program of its own.
#![allow(clippy::print_stdout, reason = "the table is the purpose of this program")]
#![allow(clippy::disallowed_methods, reason = "measures in real time")]
#![allow(clippy::unwrap_used, reason = "a bench that fails panics")]

mod table;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use osps::sys::process::Process;
use table::common::systemd::Manager;
use table::common::{Launch, Osps, Random, Signal, process_of, told_seed, wait_until};
use table::{Bound, Figure, Table, median, ms};

const ROUNDS: usize = 15;
/// What the table promises of osps, in ms, and beside the shell.
const MOST: f64 = 3.0;

const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int file = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(file, "%d %lld\n", getpid(), now.tv_sec * 1000000000ll + now.tv_nsec);
    close(file);
    for (;;) pause();
    return count;
}
"#;

/// One supervisor at work.
struct Candidate {
    name: &'static str,
    stamps: PathBuf,
    keeper: Keeper,
    values: Vec<f64>,
}

/// What systemd is given.
const UNIT: &str = "program.service";

enum Keeper {
    Systemd(Manager),
    Osps(#[allow(dead_code, reason = "held")] Osps),
    /// A group of its own, ended as one.
    Other(Child),
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Keeper::Other(child) = self {
            let group = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// Pids and times of all starts so far.
fn starts(stamps: &Path) -> Vec<(u32, u64)> {
    let text = std::fs::read_to_string(stamps).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| {
        let (pid, time) = line.split_once(' ')?;
        Some((pid.parse().ok()?, time.parse().ok()?))
    };
    whole.lines().filter_map(parse).collect()
}

impl Candidate {
    fn program(&self) -> Process {
        wait_until("a start", Duration::from_secs(10), || match &self.keeper {
            // It has another pid there.
            Keeper::Systemd(manager) => manager.processes(UNIT).pop(),
            Keeper::Osps(_) | Keeper::Other(_) => process_of(starts(&self.stamps).last()?.0),
        })
    }

    /// Kills the program; the time until the first instruction of the next one.
    fn measure(&mut self) {
        let before = starts(&self.stamps).len();
        let program = self.program();
        let killed = table::common::now().0;
        program.signal(Signal::KILL).unwrap();
        let at = wait_until("a restart", Duration::from_secs(10), || {
            starts(&self.stamps).get(before).map(|(_, at)| *at)
        });
        self.values.push(ms(Duration::from_nanos(at.saturating_sub(killed))));
    }
}

fn other(command: &mut Command) -> Keeper {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Keeper::Other(command.process_group(0).spawn().unwrap())
}

fn main() {
    Table::fill(restarts);
}

fn restarts(table: &mut Table) {
    let name = |who: &str| format!("restart: SIGKILL -> first instruction, {who}");
    let seed = told_seed("pauses");
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    // Where files may be executed.
    let program_dir = tempfile::tempdir().unwrap();
    let program = program_dir.path().join("program");
    let source = program.with_extension("c");
    std::fs::write(&source, PROGRAM).unwrap();
    table::common::compile(&["-O1"], &source, &program, &[]);
    let path = program.to_str().unwrap();
    let mut all = Vec::new();
    let mut add = |name, start: &dyn Fn(&str) -> Keeper| {
        let stamps = dir.path().join(name);
        let keeper = start(stamps.to_str().unwrap());
        all.push(Candidate { name, stamps, keeper, values: Vec::new() });
    };
    add("osps", &|stamps| Keeper::Osps(Launch::own(&["--heart", "none"], &[path, stamps]).start()));
    add("shell", &|stamps| {
        other(Command::new("sh").args(["-c", "while :; do \"$0\" \"$1\"; done", path, stamps]))
    });
    if table::common::has("runsv") || Path::new("/usr/bin/runsv").exists() {
        add("runit", &|stamps| {
            let service = dir.path().join("service");
            std::fs::create_dir(&service).unwrap();
            let run = program_dir.path().join("run");
            std::fs::write(&run, format!("#!/bin/sh\nexec {path} {stamps}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&run, mode).unwrap();
            // The directory may be where nothing is executed.
            std::os::unix::fs::symlink(&run, service.join("run")).unwrap();
            other(Command::new("runsv").arg(&service))
        });
    } else {
        table.skip(&name("runit"), "runit is missing");
    }
    let stamps = dir.path().join("systemd");
    let unit = format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={path} {}\nRestart=always\n\
         RestartSec=0\n",
        stamps.display()
    );
    match Manager::start(UNIT, |_| unit) {
        Some(manager) => {
            let (name, keeper) = ("systemd --user", Keeper::Systemd(manager));
            all.push(Candidate { name, stamps, keeper, values: Vec::new() });
        }
        None => table.skip(&name("systemd --user"), "it cannot be had here"),
    }
    for candidate in &all {
        candidate.program();
    }
    for _ in 0..ROUNDS {
        for candidate in &mut all {
            std::thread::sleep(Duration::from_millis(2000 + random.below(3000) as u64));
            candidate.measure();
        }
    }
    let middle = |who: &str| {
        let mut values = all.iter().find(|candidate| candidate.name == who)?.values.clone();
        values.sort_by(f64::total_cmp);
        median(&values)
    };
    let shell = middle("shell").unwrap_or_default();
    let bound = MOST.min(2.0 * shell + 1.0);
    for candidate in &all {
        let bound = match candidate.name {
            "osps" => Bound::AtMost((bound * 100.0).round() / 100.0),
            _ => Bound::None,
        };
        let (what, unit, values) = (name(candidate.name), "ms", candidate.values.clone());
        table.show(Figure { what, unit, bound, values, missed: 0, remark: String::new() });
    }
    drop(all.into_iter().map(|candidate| candidate.keeper).collect::<Vec<_>>());
}
