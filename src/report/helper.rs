//! The collector: `osps __report`, a process that looks at a program that fell silent, and writes
//! the report of it.
//!
//! ```text
//! watchdog                                  collector
//!   late     -- gate: Task -->                looks
//!   verdict  -- v: what it knows -->          looks again
//!            <-- "seen" --                    (with stacks: after those)
//!   kill                                      reads the log, writes the report
//!            <-- "kept N" or "failed WHY" --
//! ```
//!
//! It decides nothing: the watchdog kills when it wants to, and ends this process, too. When the
//! watchdog's end of the gate is closed it is gone, and so is this process, with all below it.
//! What can block (the log and the directory of reports, which users chose) is touched only after
//! `seen`. A collector without anybody to look at writes the short reports that it is given.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::time::Clock;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::look::{Look, pressure};
use super::stacks::{self, Target, Wanted, become_tool, end_below};
use super::store::Store;
use super::{Extent, Report, SCHEMA, sentence};
use crate::error::{Error, Refusal};
use crate::sys::{Failed, process, socket};

/// The byte that comes with a verdict.
pub const VERDICT: u8 = b'v';
/// Most bytes at the end of a log in which its last lines are looked for.
const TAIL: u64 = 16 << 10;
/// The last lines of a log that are kept.
const LINES: usize = 20;

/// What a collector is to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Task {
    /// Where reports are kept. Paths are bytes, and travel as such.
    pub directory: OsString,
    /// Whom to look at; `None` = the reports are whole.
    pub victim: Option<Victim>,
    /// Reports that are only to be written.
    pub reports: Vec<Report>,
}

/// Who fell silent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Victim {
    /// Its pid.
    pub pid: u32,
    /// Its start time.
    pub start_time: u64,
    /// The service.
    pub service: String,
    /// Where its output goes.
    pub log: Option<OsString>,
    /// Whether stacks are wanted.
    pub stacks: Option<Wanted>,
}

/// What a collector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The kill need not wait any more.
    Seen,
    /// A report of this slot was written, with this number.
    Kept(u8, u64),
    /// It was not, and why.
    Failed(String),
}

impl Word {
    /// As a line.
    fn line(&self) -> String {
        match self {
            Word::Seen => "seen\n".to_owned(),
            Word::Kept(slot, number) => format!("kept {slot} {number}\n"),
            Word::Failed(why) => format!("failed {}\n", why.replace(['\n', '\r'], " ")),
        }
    }

    /// A line read back; `None` = it is none.
    pub fn of(line: &str) -> Option<Word> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "seen" => Some(Word::Seen),
            "kept" => {
                let (slot, number) = rest.split_once(' ')?;
                Some(Word::Kept(slot.parse().ok()?, number.parse().ok()?))
            }
            "failed" => Some(Word::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

/// Runs the collector with the arguments behind `__report`.
pub fn main(args: &[OsString]) -> Result<ExitCode, Error> {
    if let Some(result) = become_tool(args) {
        return result;
    }
    if !args.is_empty() {
        return Err(Refusal::NotForPeople("__report").into());
    }
    let gate = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)
        .map_err(Failed::to("keep", "standard input"))?;
    // A session of its own: no stop from a terminal reaches it.
    rustix::process::setsid().map_err(Failed::to("start", "session"))?;
    let Some((_, handed)) = socket::receive_descriptors(&gate)? else {
        return Ok(ExitCode::SUCCESS);
    };
    process::settle_helper()?;
    // What a tool leaves behind comes to us.
    process::inherit_orphans()?;
    let task: Option<Task> = handed.into_iter().next().and_then(unpack);
    let task = task.ok_or(Refusal::NotForPeople("__report"))?;
    watch(&gate)?;
    let store = Store::at(task.directory.into());
    if task.victim.is_none() {
        step_back();
    }
    for report in task.reports {
        keep(&store, report, &gate);
    }
    if let Some(victim) = task.victim
        && let Some(report) = collect(&victim, &gate)?
    {
        keep(&store, report, &gate);
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads what was handed over in a file in memory.
fn unpack<T: serde::de::DeserializeOwned>(memory: OwnedFd) -> Option<T> {
    serde_json::from_reader(BufReader::new(File::from(memory))).ok()
}

fn say(gate: &OwnedFd, word: &Word) {
    if *word == Word::Seen {
        step_back();
    }
    // Nobody hears it: then this process is about to end.
    let _ = rustix::io::write(gate, word.line().as_bytes());
}

/// Whoever is started anew goes first.
fn step_back() {
    let _ = rustix::process::setpriority_process(None, 10);
}

/// Ends this process with all below it when the watchdog is gone, whatever it does then.
fn watch(gate: &OwnedFd) -> Result<(), Failed> {
    let gate = gate.try_clone().map_err(Failed::to("keep", "gate"))?;
    let watch = move || {
        loop {
            let mut ready = [PollFd::new(&gate, PollFlags::RDHUP)];
            match rustix::event::poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
        end_below();
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(watch);
    thread.map(drop).map_err(Failed::to("start", "a thread"))
}

/// Looks, waits for the verdict, looks again; `None` = there was none.
fn collect(victim: &Victim, gate: &OwnedFd) -> Result<Option<Report>, Error> {
    let before = Look::at(victim.pid, victim.start_time);
    let Some((byte, handed)) = socket::receive_descriptors(gate)? else { return Ok(None) };
    let report = handed.into_iter().next().and_then(unpack::<Report>);
    let Some(mut report) = report.filter(|_| byte == VERDICT) else {
        return Err(Refusal::NotForPeople("__report").into());
    };
    let after = Look::at(victim.pid, victim.start_time);
    let wanted = victim.stacks.as_ref();
    if wanted.is_none() {
        say(gate, &Word::Seen);
    }
    fill(&mut report, before.as_ref(), after);
    if let Some(wanted) = wanted {
        let target = Target {
            pid: victim.pid,
            start_time: victim.start_time,
            service: victim.service.clone(),
            stopped: report.threads.iter().any(|thread| thread.state == "T"),
        };
        report.stacks = stacks::take(&target, wanted);
        say(gate, &Word::Seen);
    }
    if let Some(log) = &victim.log {
        match last_lines(log.as_ref()) {
            Ok(lines) => report.log = lines,
            Err(error) => report.missing.push(format!("log: {error}")),
        }
    }
    Ok(Some(report))
}

/// Puts what was seen into a report.
pub(super) fn fill(report: &mut Report, before: Option<&Look>, after: Option<Look>) {
    report.extent = Extent::Full;
    report.pressure = pressure();
    let look = match (before, after) {
        (Some(before), Some(mut after)) => {
            after.since(before);
            Some(after)
        }
        (None, Some(after)) => Some(after),
        (Some(before), None) => {
            let ago = SystemClock.now().since(before.at).as_millis();
            report.missing.push(format!("it was gone at the verdict: as it was {ago} ms before"));
            Some(before.clone())
        }
        (None, None) => {
            report.missing.push("it was gone before it could be looked at".to_owned());
            None
        }
    };
    if let Some(look) = look {
        report.program = look.program;
        report.process = Some(look.process);
        report.threads = look.threads;
        report.threads_left_out = look.threads_left_out;
        report.sockets = look.sockets;
        report.sockets_left_out = look.sockets_left_out;
        report.missing.extend(look.missing);
    }
}

fn keep(store: &Store, mut report: Report, gate: &OwnedFd) {
    report.schema = SCHEMA;
    report.summary.sentence = sentence::of(&report);
    let word = match store.keep(&mut report) {
        Ok(number) => Word::Kept(report.summary.slot, number),
        Err(why) => Word::Failed(why),
    };
    say(gate, &word);
}

/// The last lines of a log.
fn last_lines(path: &Path) -> std::io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    let from = meta.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first one may have lost its beginning.
    let lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_as_they_were_said() {
        for word in [Word::Seen, Word::Kept(7, 42), Word::Failed("no\nspace".to_owned())] {
            let line = word.line();
            let line = line.strip_suffix('\n').expect("a line");
            let expected = match word {
                Word::Failed(_) => Word::Failed("no space".to_owned()),
                word => word,
            };
            assert_eq!(Word::of(line), Some(expected));
        }
        for wrong in ["", "kept", "kept 1", "kept x 1", "seen it"] {
            assert!(Word::of(wrong).is_none_or(|word| word == Word::Seen), "{wrong}");
        }
    }

    #[test]
    fn the_end_of_a_log_is_its_last_whole_lines() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let lines: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
        std::fs::write(file.path(), lines.join("\n")).expect("written");
        let last = last_lines(file.path()).expect("read");
        assert_eq!((last.len(), last[19].as_str()), (LINES, "line 4999"));
        std::fs::write(file.path(), "one\ntwo").expect("written");
        assert_eq!(last_lines(file.path()).expect("read"), ["one", "two"]);
        std::fs::write(file.path(), "x".repeat(1 << 20)).expect("written");
        assert_eq!(last_lines(file.path()).expect("read"), [""; 0], "a line without beginning");
        assert_eq!(last_lines(Path::new("/dev/zero")).expect("no file"), [""; 0]);
        assert!(last_lines(Path::new("/no/such/file")).is_err());
    }
}
