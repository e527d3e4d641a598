//! A running osps: the real binary, started, watched and ended.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::clock::SystemClock;
use osps_heart::segment::layout::SlotCells;
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::{Cause, State};
use rustix::process::Signal;

use super::{Client, PRIMARY, text};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_osps");

/// Restarts of a slot that had none.
pub const NO_RESTARTS: [u64; Cause::ALL.len()] = [0; Cause::ALL.len()];

/// What makes a test binary the supervised program of its own tests.
pub const AS_PROGRAM: [&str; 4] = ["--exact", "as_program", "--ignored", "--nocapture"];

/// How long anything may take that should take milliseconds: generous, for a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something; panics with `what` after `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Now, on the clock that heartbeats use.
pub fn now() -> Monotonic {
    SystemClock.now()
}

/// The process with this number now.
pub fn process_of(pid: u32) -> Option<Process> {
    Process::find(pid, procfs::start_time(pid)?)
}

/// The process that a segment names for a slot.
pub fn process_in(segment: &Segment, slot: usize) -> Option<Process> {
    let identity = segment.slots().get(slot)?.server.identity()?;
    Process::find(identity.pid, identity.start_time)
}

/// The processes that a segment names.
pub fn recorded(segment: &Segment) -> Vec<Process> {
    (0..segment.slots().len()).filter_map(|slot| process_in(segment, slot)).collect()
}

/// One line that osps printed, and when it arrived here.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: Monotonic,
    pub text: String,
}

type Lines = Arc<Mutex<Vec<Line>>>;

fn collect(stream: impl Read + Send + 'static, lines: &Lines) {
    let sink = Arc::clone(lines);
    std::thread::spawn(move || {
        for text in BufReader::new(stream).lines().map_while(Result::ok) {
            sink.lock().unwrap().push(Line { at: now(), text });
        }
    });
}

/// A running osps.
pub struct Osps {
    child: Child,
    watchdog: Process,
    /// The one before it, which may live: a new one that was told to take over may leave it at work.
    former: Option<(Child, Process)>,
    launch: Box<Launch>,
    pub out: Lines,
    pub err: Lines,
}

/// Builds the command line of a run.
pub struct Launch {
    dir: tempfile::TempDir,
    run_dir: PathBuf,
    args: Vec<OsString>,
    tail: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    absent: Vec<OsString>,
    through: Vec<OsString>,
}

/// The name of a file of services.
const FILE: &str = "osps.toml";

impl Launch {
    /// `osps --run-dir (a new one) --listen 127.0.0.1:0 ARGS...`
    pub fn pair(args: &[&str]) -> Launch {
        let mut launch = Launch::new();
        launch.args = ["--listen", "127.0.0.1:0"].iter().chain(args).map(OsString::from).collect();
        launch
    }

    /// `osps run --run-dir (a new one) ARGS... -- COMMAND...`
    pub fn own(args: &[&str], command: &[&str]) -> Launch {
        let mut launch = Launch::new();
        launch.args = ["run"].iter().chain(args).map(OsString::from).collect();
        launch.tail = ["--"].iter().chain(command).map(OsString::from).collect();
        launch
    }

    /// `osps up --run-dir (a new one) ARGS... FILE`
    pub fn of_file(args: &[&str], file: &Path) -> Launch {
        let mut launch = Launch::new();
        launch.args = ["up"].iter().chain(args).map(OsString::from).collect();
        launch.tail = vec![file.into()];
        launch
    }

    /// `run` with this test binary as the program, which does there what its `as_program` says.
    pub fn this(args: &[&str]) -> Launch {
        let exe = std::env::current_exe().unwrap();
        let command = [&[exe.to_str().unwrap()][..], &AS_PROGRAM].concat();
        Launch::own(args, &command)
    }

    /// `osps up --run-dir (a new one) FILE`, with this text in the file (see [`Launch::write`]).
    pub fn up(text: &str) -> Launch {
        let mut launch = Launch::new();
        launch.args = vec!["up".into(), launch.dir.path().join(FILE).into()];
        launch.write(text);
        launch
    }

    /// Its file of services gets this text, at once: `@DIR@` is the directory that it stands in,
    /// `@BEAT@` and its like are in [`super::services`].
    pub fn write(&self, text: &str) {
        let (file, new) = (self.dir.path().join(FILE), self.dir.path().join("new"));
        std::fs::write(&new, super::services::expand(text, self.dir.path())).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// The directory that is the test's own; the run directory is in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What runs osps.
    pub fn through(mut self, words: &[&str]) -> Launch {
        self.through = words.iter().map(OsString::from).collect();
        self
    }

    /// A further word of the command, whatever its bytes.
    pub fn word(mut self, word: &OsStr) -> Launch {
        self.tail.push(word.to_owned());
        self
    }

    /// The run directory gets this name.
    pub fn in_dir(mut self, name: &OsStr) -> Launch {
        self.run_dir = self.dir.path().join(name);
        self
    }

    fn new() -> Launch {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let run_dir = dir.path().join("run");
        let (args, tail, env, absent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Launch { dir, run_dir, args, tail, env, absent, through: Vec::new() }
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Launch {
        self.env.push((key.into(), value.as_ref().to_owned()));
        self
    }

    /// Takes a variable out of its environment.
    pub fn without(mut self, key: &str) -> Launch {
        self.absent.push(key.into());
        self
    }

    /// Uses the directory of an instance that has ended.
    pub fn in_place_of(mut self, old: Osps) -> Launch {
        let (dir, run_dir) = old.abandon();
        (self.dir, self.run_dir) = (dir, run_dir);
        self
    }

    /// The run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The command, not yet started.
    pub fn command(&self) -> Command {
        let mut words = self.through.iter().map(OsString::as_os_str).chain([BINARY.as_ref()]);
        let mut command = Command::new(words.next().expect("the binary"));
        command.args(words);
        command.args(&self.args).arg("--run-dir").arg(&self.run_dir).args(&self.tail);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        command.env_remove("STATE_DIRECTORY").env("XDG_STATE_HOME", self.dir.path().join("state"));
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        for key in &self.absent {
            command.env_remove(key);
        }
        command
    }

    /// Runs it to its end: for refusals.
    pub fn output(&self) -> Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    fn begin(&self, out: &Lines, err: &Lines) -> (Child, Process) {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        collect(child.stdout.take().unwrap(), out);
        collect(child.stderr.take().unwrap(), err);
        let watchdog = process_of(child.id()).expect("just started");
        (child, watchdog)
    }

    /// Starts it and waits for nothing.
    pub fn spawn_unfounded(self) -> Osps {
        let (out, err) = (Lines::default(), Lines::default());
        let (child, watchdog) = self.begin(&out, &err);
        Osps { child, watchdog, former: None, launch: Box::new(self), out, err }
    }

    /// Starts it and waits until its segment is there.
    pub fn spawn(self) -> Osps {
        let osps = self.spawn_unfounded();
        osps.wait_founded();
        osps
    }

    /// Starts it and waits until every server beats.
    pub fn start(self) -> Osps {
        let osps = self.spawn();
        osps.wait_all_up();
        osps
    }
}

impl Osps {
    /// Waits, and shows the log if it was in vain.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        self.wait_for(what, SOON, &mut condition)
    }

    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> T {
        let end = Instant::now() + limit;
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(Instant::now() < end, "not within {limit:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        let lines = self.err.lock().unwrap();
        lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// What a program printed behind `word`, waiting for it.
    pub fn wait_said(&self, word: &str) -> String {
        self.wait(&format!("the program says {word:?}"), || {
            let lines = self.out.lock().unwrap();
            lines
                .iter()
                .find_map(|line| line.text.strip_prefix(word).map(|rest| rest.trim().to_owned()))
        })
    }

    /// The process whose pid a program printed behind `word`.
    pub fn wait_process(&self, word: &str) -> Process {
        let pid = self.wait_said(word).parse().unwrap();
        process_of(pid).unwrap_or_else(|| panic!("{word} {pid} is gone\n{}", self.log()))
    }

    /// The first log line that contains all of these, waiting for it.
    pub fn wait_log(&self, parts: &[&str]) -> Line {
        self.wait_log_for(SOON, parts)
    }

    /// The verdict on one that spins, by what its line contains. Where the host gives it hardly any
    /// processor, that is its class.
    pub fn wait_spinning(&self, parts: &[&str]) -> Line {
        let verdict = self.wait_log(&[parts, &["-> frozen ("]].concat());
        let starved = self.find_log(&["the host is overloaded"]).is_some();
        let class = if starved { "(starved; no beat" } else { "(spinning; no beat" };
        let named = [class, "(spinning; no beat"].iter().any(|class| verdict.text.contains(class));
        assert!(named, "{}", self.log());
        verdict
    }

    pub fn wait_log_for(&self, limit: Duration, parts: &[&str]) -> Line {
        self.wait_for(&format!("a log line with {parts:?}"), limit, || self.find_log(parts))
    }

    pub fn find_log(&self, parts: &[&str]) -> Option<Line> {
        let lines = self.err.lock().unwrap();
        lines.iter().find(|line| parts.iter().all(|part| line.text.contains(part))).cloned()
    }

    /// A read-only view of the segment.
    pub fn segment(&self) -> Segment {
        Segment::open(self.run_dir(), Access::ReadOnly).unwrap()
    }

    pub fn run_dir(&self) -> &Path {
        &self.launch.run_dir
    }

    /// The directory that is the test's own.
    pub fn dir(&self) -> &Path {
        self.launch.dir.path()
    }

    /// Its file of services gets another text.
    pub fn write(&self, text: &str) {
        self.launch.write(text);
    }

    pub fn watchdog_pid(&self) -> u32 {
        self.child.id()
    }

    /// The process in a slot, held by pidfd.
    pub fn process(&self, slot: usize) -> Process {
        self.wait(&format!("a process in slot {slot}"), || process_in(&self.segment(), slot))
    }

    /// The processes in all slots.
    pub fn servers(&self) -> Vec<Process> {
        (0..self.segment().slots().len()).map(|slot| self.process(slot)).collect()
    }

    pub fn pid(&self, slot: usize) -> u32 {
        self.process(slot).pid()
    }

    pub fn generation(&self, slot: usize) -> u32 {
        self.segment().slots()[slot].server.current_generation().0
    }

    /// State of a slot; a scribbled code is none.
    pub fn state(&self, slot: usize) -> Option<State> {
        State::from_code(self.segment().slots()[slot].server.state.load(Ordering::Relaxed))
    }

    pub fn is_state(&self, slot: usize, state: State) -> bool {
        self.state(slot) == Some(state)
    }

    /// Restarts of a slot, per cause in the order of `Cause::ALL`.
    pub fn restarts(&self, slot: usize) -> [u64; Cause::ALL.len()] {
        let segment = self.segment();
        let server = &segment.slots()[slot].server;
        std::array::from_fn(|cause| server.restarts[cause].load(Ordering::Relaxed))
    }

    /// Waits until the segment names this watchdog.
    pub fn wait_founded(&self) {
        self.wait("the segment", || {
            let segment = Segment::open(self.run_dir(), Access::ReadOnly).ok()?;
            let pid = segment.header().watchdog_pid.load(Ordering::Relaxed);
            (pid == u64::from(self.watchdog_pid())).then_some(())
        });
    }

    pub fn wait_all_up(&self) {
        let slots = self.segment().slots().len();
        let is_up = |slot| self.is_state(slot, State::Up);
        self.wait("all servers up", || (0..slots).all(is_up).then_some(()));
    }

    /// All up, and the primary knows every secondary that runs now.
    pub fn wait_linked(&self) {
        self.wait_all_up();
        for slot in 1..self.segment().slots().len() {
            self.wait(&format!("the link to slot {slot}"), || {
                let wanted = format!("link_slot_{slot}:up,gen={}\r\n", self.generation(slot));
                self.info(PRIMARY).contains(&wanted).then_some(())
            });
        }
    }

    /// Waits until another generation than `old` beats in a slot; returns it and the moment of its
    /// first seen beat.
    pub fn wait_successor(&self, slot: usize, old: u32) -> (u32, Monotonic) {
        let segment = self.segment();
        self.wait(&format!("a successor of gen {old} in slot {slot}"), || {
            let server = &segment.slots()[slot].server;
            let generation = server.current_generation().0;
            let baseline = server.baseline.load(Ordering::Relaxed);
            let sample = segment.hearts()[slot].sample();
            let beats = generation != old && server.identity().is_some();
            (beats && sample.count != baseline).then_some((generation, sample.stamp))
        })
    }

    /// Sends a signal through a pidfd.
    pub fn signal(&self, process: &Process, signal: Signal) {
        rustix::process::pidfd_send_signal(process.as_fd(), signal).unwrap();
    }

    /// Stops a process, and returns when it stands still.
    pub fn stop_process(&self, process: &Process) {
        self.signal(process, Signal::STOP);
        self.wait("a stopped process", || {
            (procfs::state(process.pid()) == Some('T')).then_some(())
        });
    }

    pub fn stop_watchdog(&self) {
        self.stop_process(&self.watchdog);
    }

    pub fn signal_watchdog(&self, signal: Signal) {
        self.signal(&self.watchdog, signal);
    }

    pub fn watchdog_is_dead(&self) -> bool {
        self.watchdog.is_dead()
    }

    /// The address of a slot's listening socket.
    pub fn address(&self, slot: usize) -> SocketAddr {
        let segment = self.segment();
        osps_heart::segment::text::load(&segment.slots()[slot].server.listen).parse().unwrap()
    }

    /// A client of the server in a slot.
    pub fn client(&self, slot: usize) -> Client {
        Client::to(self.address(slot))
    }

    /// What a server tells about itself.
    pub fn info(&self, slot: usize) -> String {
        self.client(slot).ask("INFO")
    }

    /// Connects and sends one inline request; does not wait for the reply.
    pub fn send(&self, slot: usize, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address(slot)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        stream
    }

    /// One inline request and the first line of its reply.
    pub fn ask(&self, slot: usize, request: &str) -> String {
        let mut line = String::new();
        BufReader::new(self.send(slot, request)).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Runs another osps command on this instance.
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).arg("--run-dir").arg(self.run_dir()).env_remove("RUST_LOG");
        command.env_remove("STATE_DIRECTORY").env("XDG_STATE_HOME", self.dir().join("state"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What `osps status` shows to people.
    pub fn table(&self) -> String {
        String::from_utf8(self.command(&["status"]).stdout).unwrap()
    }

    /// What `osps status --json` says of a slot.
    pub fn server(&self, slot: usize) -> serde_json::Value {
        self.status()["servers"][slot].clone()
    }

    pub fn status(&self) -> serde_json::Value {
        let output = self.command(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Waits for the end of the watchdog.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the watchdog does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `osps stop`, and the end of everything in order.
    pub fn stop(&mut self) {
        let stopped = self.command(&["stop"]);
        assert!(stopped.status.success(), "{}", text(&stopped));
        assert_eq!(self.wait_exit().code(), Some(0), "{}", self.log());
    }

    /// Kills the watchdog like the kernel would, and reaps it.
    pub fn kill_watchdog(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills the watchdog and then its servers; returns when the kernel says that all are dead.
    pub fn kill_everything(&mut self) {
        let servers = self.servers();
        self.kill_watchdog();
        for server in &servers {
            self.signal(server, Signal::KILL);
        }
        self.wait("all servers dead", || servers.iter().all(Process::is_dead).then_some(()));
    }

    /// Starts another watchdog in the place of one that was killed, with the same options. Does
    /// not wait for it; its log goes on where the last one's ended.
    pub fn start_again(&mut self) {
        let (child, watchdog) = self.launch.begin(&self.out, &self.err);
        let former = (
            std::mem::replace(&mut self.child, child),
            std::mem::replace(&mut self.watchdog, watchdog),
        );
        self.former = Some(former);
    }

    /// Whether it is clear who is the watchdog since [`Osps::start_again`]: the new one as soon as
    /// the former is dead, the former if the new one left (`--take-over` upgrades one that works).
    pub fn is_settled(&mut self) -> bool {
        let Some((former, _)) = &mut self.former else { return true };
        if former.try_wait().unwrap().is_some() {
            self.former = None;
        } else if self.child.try_wait().unwrap().is_some()
            && let Some(former) = self.former.take()
        {
            (self.child, self.watchdog) = former;
        }
        self.former.is_none()
    }

    /// The same, with further options.
    pub fn start_again_with(&mut self, args: &[&str]) {
        let own = self.launch.args.clone();
        self.launch.args.extend(args.iter().map(OsString::from));
        self.start_again();
        self.launch.args = own;
    }

    /// The same, started by these words.
    pub fn start_again_through(&mut self, words: &[&str]) {
        let words = words.iter().map(OsString::from).collect();
        let own = std::mem::replace(&mut self.launch.through, words);
        self.start_again();
        self.launch.through = own;
    }

    /// Zombie children of the watchdog, right now.
    pub fn zombies(&self) -> Vec<u32> {
        procfs::zombies_of(self.watchdog_pid())
    }

    /// Ends everything and hands over the directories.
    fn abandon(mut self) -> (tempfile::TempDir, PathBuf) {
        self.end();
        let spare = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = std::mem::replace(&mut self.launch.dir, spare);
        (dir, self.launch.run_dir.clone())
    }

    fn end(&mut self) {
        let former = self.former.as_mut().map(|(child, _)| child);
        for child in [&mut self.child].into_iter().chain(former) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Osps {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of osps ---\n{}", self.log());
        }
        self.end();
        if let Ok(segment) = Segment::open(self.run_dir(), Access::ReadOnly) {
            for process in recorded(&segment) {
                let _ = process.kill();
            }
        }
        // What a killed osps leaves outside of its directory, the next one there would remove; there
        // is one if the directory was handed over.
        let is_last = self.run_dir().starts_with(self.launch.dir.path());
        for name in ["loop.so", "notify-0"].into_iter().filter(|_| is_last) {
            if let Ok(path) = std::fs::read_link(self.run_dir().join(name)) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
