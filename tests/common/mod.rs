//! The harness of the black-box tests: the real binary, its own run directory, free ports.
//!
//! No bare sleeps: [`wait_until`] waits for a condition with a limit, and says what it waited for
//! together with the log. Nothing is killed by name or by a bare pid: servers are found through
//! the segment and held by pidfd. Whatever a test leaves running ends with its [`Osps`].
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(
    clippy::print_stderr,
    clippy::unused_self,
    reason = "a test's log; methods that read well"
)]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use osps::ids::{Epoch, SlotId};
use osps::segment::layout::SlotCells;
use osps::segment::{Access, Segment};
use osps::sync::{Ordering, Word};
use osps::sys::clock::SystemClock;
use osps::sys::process::Process;
use osps::time::{Clock, Monotonic};
pub use rustix::process::Signal;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_osps");

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
    launch: Launch,
    pub out: Lines,
    pub err: Lines,
}

/// Builds the command line of a run.
pub struct Launch {
    dir: tempfile::TempDir,
    run_dir: PathBuf,
    args: Vec<String>,
    tail: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    /// `osps --run-dir (a new one) --listen 127.0.0.1:0 ARGS...`
    pub fn pair(args: &[&str]) -> Launch {
        let mut launch = Launch::new();
        launch.args =
            ["--listen", "127.0.0.1:0"].iter().chain(args).map(ToString::to_string).collect();
        launch
    }

    /// `osps run --run-dir (a new one) ARGS... -- COMMAND...`
    pub fn own(args: &[&str], command: &[&str]) -> Launch {
        let mut launch = Launch::new();
        launch.args = ["run"].iter().chain(args).map(ToString::to_string).collect();
        launch.tail = ["--"].iter().chain(command).map(ToString::to_string).collect();
        launch
    }

    fn new() -> Launch {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let run_dir = dir.path().join("run");
        Launch { dir, run_dir, args: Vec::new(), tail: Vec::new(), env: Vec::new() }
    }

    pub fn env(mut self, key: &str, value: &str) -> Launch {
        self.env.push((key.to_owned(), value.to_owned()));
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
        let mut command = Command::new(BINARY);
        command.args(&self.args).arg("--run-dir").arg(&self.run_dir).args(&self.tail);
        command.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
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
        let start_time = osps::sys::procfs::start_time(child.id()).unwrap();
        let watchdog = Process::find(child.id(), start_time).expect("just started");
        (child, watchdog)
    }

    /// Starts it and waits until its segment is there.
    pub fn spawn(self) -> Osps {
        let (out, err) = (Lines::default(), Lines::default());
        let (child, watchdog) = self.begin(&out, &err);
        let osps = Osps { child, watchdog, launch: self, out, err };
        osps.wait("the segment", || {
            let segment = Segment::open(osps.run_dir(), Access::ReadOnly).ok()?;
            let pid = segment.header().watchdog_pid.load(Ordering::Relaxed);
            (pid == u64::from(osps.watchdog_pid())).then_some(())
        });
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

    /// The first log line that contains all of these, waiting for it.
    pub fn wait_log(&self, parts: &[&str]) -> Line {
        self.wait_log_for(SOON, parts)
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

    pub fn watchdog_pid(&self) -> u32 {
        self.child.id()
    }

    /// The process in a slot, held by pidfd.
    pub fn process(&self, slot: usize) -> Process {
        self.wait(&format!("a process in slot {slot}"), || {
            let identity = self.segment().slots()[slot].record.identity()?;
            Process::find(identity.pid, identity.start_time)
        })
    }

    pub fn pid(&self, slot: usize) -> u32 {
        self.process(slot).pid()
    }

    pub fn generation(&self, slot: usize) -> u32 {
        self.segment().slots()[slot].record.current_generation().0
    }

    /// State code of a slot: index into `STATE_WORDS`.
    pub fn state(&self, slot: usize) -> u64 {
        self.segment().slots()[slot].record.state.load(Ordering::Relaxed)
    }

    /// Sum of the restarts of a slot, per cause code minus one.
    pub fn restarts(&self, slot: usize) -> [u64; 6] {
        let segment = self.segment();
        let SlotCells { record, .. } = &segment.slots()[slot];
        std::array::from_fn(|cause| record.restarts[cause].load(Ordering::Relaxed))
    }

    pub fn wait_all_up(&self) {
        let slots = self.segment().slots().len();
        self.wait("all servers up", || (0..slots).all(|slot| self.state(slot) == 2).then_some(()));
    }

    /// Waits until another generation than `old` beats in a slot; returns it and the moment of its
    /// first seen beat.
    pub fn wait_successor(&self, slot: usize, old: u32) -> (u32, Monotonic) {
        let segment = self.segment();
        self.wait(&format!("a successor of gen {old} in slot {slot}"), || {
            let record = &segment.slots()[slot].record;
            let generation = record.current_generation().0;
            let baseline = record.baseline.load(Ordering::Relaxed);
            let sample = segment.hearts()[slot].sample();
            let beats = generation != old && record.identity().is_some();
            (beats && sample.count != baseline).then_some((generation, sample.stamp))
        })
    }

    /// Sends a signal through a pidfd.
    pub fn signal(&self, process: &Process, signal: Signal) {
        rustix::process::pidfd_send_signal(process.as_fd(), signal).unwrap();
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
        osps::segment::text::load(&segment.slots()[slot].record.listen).parse().unwrap()
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
        command.stdin(Stdio::null()).output().unwrap()
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

    /// Kills the watchdog like the kernel would, and reaps it.
    pub fn kill_watchdog(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another watchdog in the place of one that was killed, with the same options. Does
    /// not wait for it; its log goes on where the last one's ended.
    pub fn start_again(&mut self) {
        (self.child, self.watchdog) = self.launch.begin(&self.out, &self.err);
    }

    /// Zombie children of the watchdog, right now.
    pub fn zombies(&self) -> Vec<u32> {
        let pid = self.watchdog_pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| osps::sys::procfs::state(*pid) == Some('Z')).collect()
    }

    /// Ends everything and hands over the directories.
    fn abandon(mut self) -> (tempfile::TempDir, PathBuf) {
        self.end();
        let spare = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = std::mem::replace(&mut self.launch.dir, spare);
        (dir, self.launch.run_dir.clone())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Osps {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of osps ---\n{}", self.log());
        }
        self.end();
        if let Ok(segment) = Segment::open(self.run_dir(), Access::ReadOnly) {
            for slot in segment.slots() {
                let Some(identity) = slot.record.identity() else { continue };
                if let Some(process) = Process::find(identity.pid, identity.start_time) {
                    let _ = process.kill();
                }
            }
        }
    }
}

// ---- Clients, and what several tests watch ----

/// What a write gets in a session that may only read.
pub const READ_ONLY: &str = "-READONLY ask the primary for requetetype2";
/// What the primary says while no secondary is linked.
pub const NOBODY: &str = "errtraitement no secondary available";

/// A client's connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub fn to(address: SocketAddr) -> Client {
        Client::try_to(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_to(address: SocketAddr) -> Result<Client, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub fn raw(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn try_ask(&mut self, request: &str) -> Result<String, Error> {
        self.stream.get_mut().write_all(format!("{request}\r\n").as_bytes())?;
        self.try_reply()
    }

    /// One inline request and its reply.
    pub fn ask(&mut self, request: &str) -> String {
        self.try_ask(request).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    /// One request as an array of words.
    pub fn ask_words(&mut self, words: &[&[u8]]) -> String {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.send(&bytes);
        self.reply()
    }

    pub fn reply(&mut self) -> String {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// A reply as text: a bulk string without its head, an array as `[a b]`.
    pub fn try_reply(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        match line.split_at_checked(1) {
            Some(("$", "-1")) => Ok("(nil)".to_owned()),
            Some(("$", length)) => {
                let mut body = vec![0; length.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut body)?;
                Ok(String::from_utf8_lossy(&body[..body.len() - 2]).into_owned())
            }
            Some(("*", count)) => {
                let count = count.parse::<usize>().unwrap();
                let words: Result<Vec<_>, _> = (0..count).map(|_| self.try_reply()).collect();
                Ok(format!("[{}]", words?.join(" ")))
            }
            _ => Ok(line),
        }
    }

    /// What arrives until it has been quiet for a while: answers to bare words have no end.
    pub fn bare(&mut self) -> String {
        let text = self.bare_once().unwrap();
        self.raw().set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let mut more = [0; 256];
        let rest = match self.stream.read(&mut more) {
            Ok(length) => String::from_utf8_lossy(&more[..length]).into_owned(),
            Err(_) => String::new(),
        };
        self.raw().set_read_timeout(Some(SOON)).unwrap();
        text + &rest
    }

    pub fn bare_once(&mut self) -> Result<String, Error> {
        let mut bytes = [0; 256];
        match self.stream.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(String::from_utf8_lossy(&bytes[..length]).into_owned()),
        }
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A server that closes with input unread resets the connection: an end as well.
        let _ = self.stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

pub fn port(text: &str) -> SocketAddr {
    let port = text.parse().unwrap_or_else(|_| panic!("not a port: {text:?}"));
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Numbers from a seed: the same ones for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Spread, since small seeds begin with small numbers; never 0, which stays 0.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// A seed for everything that a test draws: `OSPS_SEED`, else a fresh one.
pub fn seed() -> u64 {
    let given = std::env::var("OSPS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| now().0)
}

/// What the test's threads tell each other.
#[derive(Default)]
pub struct Talk {
    pub over: Word,
    pub wrong: Mutex<Vec<String>>,
}

impl Talk {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) != 0
    }

    pub fn complain(&self, what: String) {
        self.over.store(1, Ordering::Relaxed);
        self.wrong.lock().unwrap().push(what);
    }
}

/// Watches the owner word and the sequence from outside, as fast as a test may.
pub fn watch_owner(segment: &Segment, talk: &Talk) -> BTreeMap<u64, (SlotId, u16)> {
    let mut owners = BTreeMap::new();
    let (mut epoch, mut sequence) = (Epoch(0), 0);
    while !talk.is_over() {
        let owner = segment.owner().current();
        if owner.epoch < epoch {
            talk.complain(format!("epoch {} after {epoch}", owner.epoch));
        }
        epoch = owner.epoch;
        if let Some(slot) = owner.slot {
            let named = (slot, owner.generation);
            let before = *owners.entry(owner.epoch.0).or_insert(named);
            if before != named {
                talk.complain(format!("epoch {epoch} names {before:?} and {named:?}"));
            }
        }
        let commits = segment.area().sequence();
        if commits < sequence {
            talk.complain(format!("commit {commits} after {sequence}"));
        }
        sequence = commits;
        std::thread::sleep(Duration::from_micros(50));
    }
    owners
}

/// Resident memory, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A FIFO of an instance, opened as its servers do.
pub fn fifo(run_dir: &Path, name: &str) -> Result<File, Error> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    options.open(run_dir.join(name))
}

/// Says why a test does not run here.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
