//! Who keeps a process from running, and lets go of it again: debuggers, tracers, control groups.
//! Whatever one of these holds goes on at the latest when its value goes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, kill_process};

use super::{Guest, SOON, Signal, ms, now, pass, wait_until};

/// A program that has attached itself to another.
pub struct Tracer {
    guest: Guest,
    farewell: Farewell,
}

/// What makes a tracer let go.
enum Farewell {
    Input(&'static str),
    Signal(Signal),
}

impl Tracer {
    /// gdb at a process; why not, otherwise.
    pub fn gdb(pid: u32) -> Result<Tracer, String> {
        let mut gdb = Command::new("gdb");
        gdb.args(["-q", "-nx", "-p", &pid.to_string(), "-ex", "echo tried\\n"]);
        gdb.env("DEBUGINFOD_URLS", "").env("LC_ALL", "C");
        let tracer = Tracer::start(gdb, "tried", Farewell::Input("detach\nquit\n"))?;
        // It tries, and says so, whether it may or not.
        if tracer_of(pid) == 0 { Err("gdb may not attach here".to_owned()) } else { Ok(tracer) }
    }

    /// strace at a process: it looks on, and stops it at each call for a moment.
    pub fn strace(pid: u32) -> Result<Tracer, String> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-p", &pid.to_string()]);
        Tracer::start(strace, "attached", Farewell::Signal(Signal::INT))
    }

    /// Whatever says this word when it has attached itself, and leaves when its input ends.
    pub fn of(command: Command, word: &str) -> Result<Tracer, String> {
        Tracer::start(command, word, Farewell::Input(""))
    }

    fn start(mut command: Command, word: &str, farewell: Farewell) -> Result<Tracer, String> {
        let said = tempfile::NamedTempFile::new().unwrap();
        command.stdin(Stdio::piped());
        let out = said.reopen().unwrap();
        command.stderr(out.try_clone().unwrap()).stdout(out);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut guest = Guest(child);
        wait_until("a tracer to attach itself", 3 * SOON, || {
            let told = fs::read_to_string(said.path()).unwrap();
            if told.contains(word) {
                return Some(Ok(()));
            }
            guest.0.try_wait().unwrap().map(|_| Err(format!("{command:?}: {told}")))
        })?;
        Ok(Tracer { guest, farewell })
    }

    /// It leaves, and what it held goes on.
    pub fn let_go(mut self) {
        match self.farewell {
            Farewell::Input(words) => {
                self.guest.0.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
            }
            Farewell::Signal(signal) => {
                kill_process(Pid::from_child(&self.guest.0), signal).unwrap();
            }
        }
        wait_until("the tracer to leave", SOON, || self.guest.0.try_wait().unwrap());
    }
}

/// Who traces a process, 0 = nobody.
pub fn tracer_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    value.unwrap().trim().parse().unwrap()
}

/// Where control groups of version 2 are mounted, alone or beside version 1.
pub const VERSION_2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A control group of the test's own, thawed and removed with its value.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one that has this file, in the first of these directories where that can be done; why
    /// not, otherwise.
    pub fn make(parents: &[&str], name: &str, file: &str) -> Result<Cgroup, String> {
        let mut whys = Vec::new();
        for parent in parents {
            let parent = Path::new(parent);
            // Elsewhere the same calls would make an ordinary directory.
            if !parent.join("cgroup.procs").exists() {
                whys.push(format!("{} holds no control groups", parent.display()));
                continue;
            }
            let group = Cgroup(parent.join(format!("osps-test-{}-{name}", std::process::id())));
            match fs::create_dir(&group.0) {
                Err(error) => whys.push(format!("{}: {error}", group.0.display())),
                Ok(()) if group.0.join(file).exists() => return Ok(group),
                Ok(()) => whys.push(format!("{} has no {file}", parent.display())),
            }
        }
        Err(whys.join("; "))
    }

    /// One that may have this much memory, by this file where version 2 counts it; why not,
    /// otherwise.
    pub fn limited(name: &str, limit: &str, bytes: usize) -> Result<Cgroup, String> {
        let old = "memory.limit_in_bytes";
        let (group, file) = match Cgroup::make(&["/sys/fs/cgroup/memory"], name, old) {
            Ok(group) => (group, old),
            Err(why) => {
                let group = Cgroup::make(&VERSION_2, name, limit);
                (group.map_err(|also| format!("{why}; {also}"))?, limit)
            }
        };
        group.write(file, &bytes.to_string()).map_err(|error| format!("{file}: {error}"))?;
        Ok(group)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process there; why not, otherwise.
    pub fn add(&self, pid: u32) -> Result<(), String> {
        let moved = self.write("cgroup.procs", &pid.to_string());
        moved.map_err(|error| format!("cannot move a process to {}: {error}", self.0.display()))
    }

    /// Writes to one of its files, which is there or is not.
    pub fn write(&self, file: &str, word: &str) -> Result<(), std::io::Error> {
        File::options().write(true).open(self.0.join(file))?.write_all(word.as_bytes())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.write("cgroup.freeze", "0");
        let _ = self.write("freezer.state", "THAWED");
        // Busy until its killed process is reaped.
        let end = now() + SOON;
        while fs::remove_dir(&self.0).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
            && now() < end
        {
            pass(ms(5));
        }
    }
}
