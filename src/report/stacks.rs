//! Stacks of a program's threads, by whatever gives the best ones. Only of who is to be killed: the
//! tools stop the process that they look at.
//!
//! In this order, until one gives something: the user's command; the language's own (a Python
//! program that called `osps.dumps()` is signalled, a JVM asked by jcmd or jstack); py-spy for
//! other Python programs; eu-stack, gstack, gdb. Each has a part of the time and bounded output,
//! and what was tried and why it gave nothing is told. A tool is the leader of a session of its
//! own, dies with this process, and is ended with all below it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::segment::Death;
use osps_heart::time::{Clock, Monotonic, nanos};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::Stacks;
use crate::error::{Error, Refusal};
use crate::sys::poll::{Interest, Poll, pause};
use crate::sys::process::{self, Process};
use crate::sys::{Failed, procfs, raw, signals};

/// Most bytes that are taken of what a tool says.
const TEXT_MAX: usize = 128 << 10;
/// Most bytes of what it says on its standard error.
const COMPLAINT_MAX: usize = 4 << 10;
/// A program's own dump is whole when nothing came for so long.
const SETTLED: Duration = Duration::from_millis(30);
/// How long a program may take until it begins to dump.
const ANSWER: Duration = Duration::from_millis(500);

/// Which stacks are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// The user's command; empty = what is installed.
    pub command: Vec<OsString>,
    /// How long all of it may take.
    pub limit: Duration,
    /// Where a program writes its own when it is signalled: see `dumps` in heart/python.
    pub dump: OsString,
}

/// Of whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) service: String,
    /// It is stopped, and so answers nothing.
    pub(super) stopped: bool,
}

/// One way to get stacks.
enum Way {
    /// A signal, and a file that grows.
    Dump,
    /// A command.
    Tool(Vec<OsString>),
}

/// Takes stacks: what was tried, the last one is what gave some, if one did.
pub(super) fn take(target: &Target, wanted: &Wanted) -> Vec<Stacks> {
    let until = SystemClock.now() + wanted.limit;
    let mut tried = Vec::new();
    let mut ways = ways(target, wanted).into_iter().peekable();
    while let Some(way) = ways.next() {
        let began = SystemClock.now();
        // What comes after it shall have a chance.
        let rest = until.since(began);
        let share = if ways.peek().is_some() { rest / 2 } else { rest };
        let mut stacks = match way {
            Way::Dump => dump(target, wanted.dump.as_ref(), began + share),
            Way::Tool(command) => tool(target, &command, began + share),
        };
        stacks.took_ns = nanos(SystemClock.now().since(began));
        let done = stacks.failed.is_empty();
        tried.push(stacks);
        if done || procfs::start_time(target.pid) != Some(target.start_time) {
            break;
        }
    }
    tried
}

fn ways(target: &Target, wanted: &Wanted) -> Vec<Way> {
    let pid = target.pid.to_string();
    let tool = |words: &[&str]| Way::Tool(words.iter().map(OsString::from).collect());
    let mut ways = Vec::new();
    if !wanted.command.is_empty() {
        let word = |word: &OsString| match word.to_str() {
            Some(text) => text.replace("{pid}", &pid).into(),
            None => word.clone(),
        };
        ways.push(Way::Tool(wanted.command.iter().map(word).collect()));
    }
    let program = procfs::program(target.pid).unwrap_or_default();
    let program = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if program.starts_with("python") || program.starts_with("pypy") {
        ways.push(Way::Dump);
        ways.push(tool(&["py-spy", "dump", "--pid", &pid]));
    } else if program == "java" {
        ways.push(tool(&["jcmd", &pid, "Thread.print"]));
        ways.push(tool(&["jstack", &pid]));
    }
    ways.push(tool(&["eu-stack", "-p", &pid]));
    ways.push(tool(&["gstack", &pid]));
    // Arguments of frames are the program's own data.
    let settings = "set print frame-arguments none";
    let all = "thread apply all bt";
    ways.push(tool(&["gdb", "-p", &pid, "-batch", "-nx", "-iex", settings, "-ex", all]));
    ways
}

fn failed(tool: impl Into<String>, why: impl Into<String>) -> Stacks {
    Stacks { tool: tool.into(), failed: why.into(), ..Stacks::default() }
}

/// Asks a Python program that has registered for it.
fn dump(target: &Target, path: &Path, until: Monotonic) -> Stacks {
    const NAME: &str = "osps.dumps";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else {
        return failed(NAME, "the program has not called osps.dumps()");
    };
    if !procfs::handles(target.pid, libc::SIGRTMAX().unsigned_abs()) {
        return failed(NAME, "the program does not handle SIGRTMAX");
    }
    if target.stopped {
        return failed(NAME, "it is stopped, and could not answer");
    }
    let length = || file.metadata().map_or(0, |meta| meta.len());
    let before = length();
    let Some(process) = Process::find(target.pid, target.start_time) else {
        return failed(NAME, "it is gone");
    };
    if let Err(error) = raw::signal(process.as_fd(), libc::SIGRTMAX()) {
        return failed(NAME, error.to_string());
    }
    let began = SystemClock.now();
    let (mut size, mut grew) = (before, began);
    loop {
        let now = SystemClock.now();
        let length = length();
        if length != size {
            (size, grew) = (length, now);
        }
        let answered = size > before;
        if answered && now.since(grew) >= SETTLED || now >= until {
            break;
        }
        if !answered && now.since(began) >= ANSWER {
            return failed(NAME, "it did not answer");
        }
        pause();
    }
    let wanted = usize::try_from(size.saturating_sub(before)).unwrap_or(TEXT_MAX);
    let mut bytes = vec![0; wanted.min(TEXT_MAX)];
    let read = file.read_at(&mut bytes, before).unwrap_or(0);
    bytes.truncate(read);
    if bytes.is_empty() {
        return failed(NAME, "it did not answer");
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Stacks { tool: NAME.to_owned(), text, cut: wanted > TEXT_MAX, ..Stacks::default() }
}

/// What comes out of a pipe, up to a bound.
struct Stream {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    most: usize,
    cut: bool,
}

impl Stream {
    fn new(pipe: impl Into<OwnedFd>, most: usize, poll: &Poll) -> Stream {
        let pipe = pipe.into();
        let _ = rustix::io::ioctl_fionbio(&pipe, true);
        let _ = poll.add(&pipe, 0, Interest::READ);
        Stream { pipe: Some(pipe), bytes: Vec::new(), most, cut: false }
    }

    /// Takes what is there.
    fn read(&mut self, poll: &Poll) {
        let Some(pipe) = &self.pipe else { return };
        let mut buffer = [0; 16 << 10];
        loop {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let room = self.most.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                    if count > room {
                        self.cut = true;
                        break;
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                Err(_) => break,
            }
        }
        poll.remove(pipe);
        self.pipe = None;
    }
}

/// Runs a command.
fn tool(target: &Target, command: &[OsString], until: Monotonic) -> Stacks {
    let name = command.first().map_or(Path::new(""), Path::new);
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !is_there(command.first().map_or(OsStr::new(""), OsString::as_os_str)) {
        return failed(name, "it is not installed");
    }
    if target.stopped && (name == "jcmd" || name == "jstack") {
        return failed(name, "it is stopped, and could not answer");
    }
    let run = || -> Result<(Process, Stream, Stream, Poll), std::io::Error> {
        let mut wrapped = Command::new("/proc/self/exe");
        wrapped.arg0("osps").args(["__report", TOOL]).args(command);
        wrapped.env("OSPS_PID", target.pid.to_string()).env("OSPS_SERVICE", &target.service);
        // They would ask the network for what they do not find here.
        wrapped.env_remove("DEBUGINFOD_URLS");
        wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let poll = Poll::new().map_err(|failed| failed.answer)?;
        let mut child = wrapped.spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let process = process::hold(child)?;
        let (Some(out), Some(err)) = (out, err) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let _ = poll.add(&process, 1, Interest::READ);
        let out = Stream::new(out, TEXT_MAX, &poll);
        let err = Stream::new(err, COMPLAINT_MAX, &poll);
        Ok((process, out, err, poll))
    };
    let (process, mut out, mut err, poll) = match run() {
        Ok(run) => run,
        Err(error) => return failed(name, error.to_string()),
    };
    let late = loop {
        out.read(&poll);
        err.read(&poll);
        if process.is_dead() || out.cut {
            break false;
        }
        let now = SystemClock.now();
        if now >= until {
            break true;
        }
        let _ = poll.wait(now, Some(until));
    };
    // What it said before it died.
    out.read(&poll);
    err.read(&poll);
    let death = if process.is_dead() { process.reap() } else { None };
    end_below();
    let text = String::from_utf8_lossy(&out.bytes).into_owned();
    let complaint = String::from_utf8_lossy(&err.bytes);
    let complaint = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let why = match death {
        _ if late => "it took too long".to_owned(),
        Some(death) if death != Death::Exited(0) && !out.cut => match complaint {
            "" => format!("it failed ({death})"),
            complaint => complaint.trim().to_owned(),
        },
        _ if text.trim().is_empty() => match complaint {
            "" => "it said nothing".to_owned(),
            complaint => complaint.trim().to_owned(),
        },
        _ => String::new(),
    };
    // What came in time is kept, even if the tool did not end well.
    Stacks { tool: name, failed: why, text, cut: out.cut, ..Stacks::default() }
}

/// Whether a program of this name can be found.
fn is_there(program: &OsStr) -> bool {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.exists();
    }
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&dirs).any(|dir| dir.join(path).is_file())
}

/// The word that makes `osps __report` a tool.
const TOOL: &str = "tool";

/// `osps __report tool COMMAND...`: becomes the command, in a session of its own, to be killed with
/// the process that started it.
pub(super) fn become_tool(args: &[OsString]) -> Option<Result<ExitCode, Error>> {
    let [word, program, arguments @ ..] = args else { return None };
    if word != TOOL {
        return None;
    }
    let started_by = rustix::process::getppid();
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid() != started_by {
        return Some(Err(Refusal::NotForPeople("__report").into()));
    }
    let _ = rustix::process::setsid();
    raw::default_signals();
    let _ = signals::reset();
    let mut command = Command::new(program);
    command.args(arguments);
    let failed = Failed::to("run", osps_heart::shown::Shown(program))(command.exec());
    Some(Err(failed.into()))
}

/// Kills whatever is below this process, until nothing is.
pub(super) fn end_below() {
    let me = std::process::id();
    let all = || procfs::below(&procfs::tree(me), [me]);
    for _ in 0..100 {
        for stat in all() {
            if let Some(process) = Process::find(stat.pid, stat.start_time) {
                let _ = process.signal(Signal::KILL);
            }
        }
        while let Some(pid) = process::dead_child() {
            if !process::reap_stranger(pid) {
                break;
            }
        }
        if all().is_empty() {
            return;
        }
        pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(target: &Target, wanted: &Wanted) -> Vec<String> {
        let name = |way: Way| match way {
            Way::Dump => "dump".to_owned(),
            Way::Tool(command) => command.join(OsStr::new(" ")).to_string_lossy().into_owned(),
        };
        ways(target, wanted).into_iter().map(name).collect()
    }

    #[test]
    fn the_users_command_comes_first_with_the_pid() {
        let me = std::process::id();
        let target = Target { pid: me, ..Target::default() };
        let command = ["stacks", "--of={pid}", "{pid}"].map(OsString::from).to_vec();
        let wanted = Wanted { command, ..Wanted::default() };
        let names = names(&target, &wanted);
        assert_eq!(names[0], format!("stacks --of={me} {me}"));
        assert_eq!(names[1], format!("eu-stack -p {me}"));
        assert_eq!(names.len(), 4);
    }

    #[test]
    fn programs_are_found_in_the_search_path() {
        assert!(is_there("sh".as_ref()) && is_there("/bin/sh".as_ref()));
        assert!(!is_there("no-such-program".as_ref()) && !is_there("".as_ref()));
    }
}
