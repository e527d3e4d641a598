//! Goal: the prober beats for a service when, and only when, there is a sign of life of the
//! generation that it asked; it tells what is wrong; it beats for itself as long as it turns; and
//! nothing of it is left when the watchdog goes.
//!
//! Method: the test is the watchdog. It makes a segment, starts `osps __probe` and sends the
//! segment through the gate; then it plays the service: a file, a server of the test's own that
//! answers well, badly, endlessly or not at all, and commands. What the prober did is read from the
//! segment.
//!
//! What it cannot show: a file system that hangs, a resolver that does not answer (a stopped prober
//! stands for both); how a watchdog judges what it reads (tests/supervise.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use osps::sys::process::Process;
use osps::sys::socket::send_descriptors;
use osps_heart::example::options;
use osps_heart::ids::Generation;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Geometry, Segment};
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::nanos;

use common::{BINARY, Guest, SOON, Signal, ms, pass, process_of, wait_until};

/// The service's slot, and the prober's own heart line.
const SLOT: usize = 1;
const LINE: usize = 5;
/// The service's limit: short, so that probes come often.
const LIMIT: Duration = ms(400);

/// A prober, and what its watchdog has of it.
struct Probing {
    segment: Segment,
    gate: Option<UnixStream>,
    prober: Guest,
}

fn spec(kind: &str, what: impl AsRef<OsStr>) -> OsString {
    let mut spec = OsString::from(kind);
    spec.push(what);
    spec
}

impl Probing {
    fn start(spec: impl AsRef<OsStr>) -> Probing {
        Probing::with_limit(spec, LIMIT)
    }

    fn with_limit(spec: impl AsRef<OsStr>, limit: Duration) -> Probing {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let geometry = Geometry::new(2, 8, 4096, 256).unwrap();
        let segment = Segment::create(&file, &options(geometry), |_| {}).unwrap();
        segment.hearts()[SLOT].limit_ns.store(nanos(limit), Ordering::Relaxed);
        // As a predecessor that was killed leaves it.
        segment.slots()[SLOT].activity.set_text("left behind");
        let (prober, gate) = launch(&[SLOT.to_string().into(), LINE.to_string().into()], spec);
        let probing = Probing { segment, gate: Some(gate), prober };
        probing.set_generation(1);
        send_descriptors(probing.gate.as_ref().unwrap(), b'g', &[file.as_fd()]).unwrap();
        probing
    }

    fn set_generation(&self, generation: u32) {
        let generation = Generation(generation);
        let identity = Identity { pid: std::process::id(), start_time: 0, generation };
        self.segment.slots()[SLOT].server.set_identity(identity);
    }

    /// Beats so far, in the service's line and in the prober's own.
    fn beats(&self) -> u64 {
        self.segment.hearts()[SLOT].sample().count
    }

    fn own_beats(&self) -> u64 {
        self.segment.hearts()[LINE].sample().count
    }

    fn text(&self) -> String {
        self.segment.slots()[SLOT].activity.text().unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        self.prober.0.id()
    }

    #[track_caller]
    fn wait_for_beats(&self, more: u64) {
        let before = self.beats();
        wait_until(&format!("{more} beats, not \"{}\"", self.text()), SOON, || {
            (self.beats() >= before + more).then_some(())
        });
    }

    #[track_caller]
    fn wait_for_text(&self, wanted: impl Fn(&str) -> bool) -> String {
        let end = common::now() + SOON;
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            assert!(common::now() < end, "the text stays at \"{text}\"");
            std::thread::sleep(ms(1));
        }
    }

    /// Waits until the text begins and ends so, with a span behind it.
    #[track_caller]
    fn wait_for_failure(&self, begin: &str) {
        let text = self.wait_for_text(|text| text.starts_with(begin) && text.contains(" for "));
        assert!(text.len() <= 96, "{text}");
    }

    /// Waits for so many turns of the prober.
    #[track_caller]
    fn wait_for_turns(&self, turns: u64) {
        let before = self.own_beats();
        wait_until("turns", SOON, || (self.own_beats() >= before + turns).then_some(()));
    }

    /// No beats for a while in which the prober works.
    #[track_caller]
    fn is_silent(&self) {
        let before = self.beats();
        self.wait_for_turns(20);
        assert_eq!(self.beats(), before, "it beat, and says \"{}\"", self.text());
    }

    /// Its command, or none; the dead would be counted, too.
    #[track_caller]
    fn has_one_child(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        wait_until("no more than one child", SOON, || {
            let children = std::fs::read_to_string(&children).unwrap();
            (children.split_whitespace().count() <= 1).then_some(())
        });
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        wait_until("the prober's end", SOON, || self.prober.0.try_wait().unwrap())
    }
}

impl Drop for Probing {
    /// Killed, it would leave its command behind: it leaves by itself, also when a test failed.
    fn drop(&mut self) {
        self.gate = None;
        if let Some(prober) = process_of(self.pid()) {
            let _ = prober.signal(Signal::CONT);
            let end = common::now() + SOON;
            while !prober.is_dead() && common::now() < end {
                std::thread::sleep(ms(1));
            }
        }
    }
}

/// Starts a prober behind a closed gate.
fn launch(numbers: &[OsString], spec: impl AsRef<OsStr>) -> (Guest, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(BINARY);
    command.arg("__probe").args(numbers).arg(spec.as_ref());
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
    (Guest(child), ours)
}

/// Serves every connection by `answer`, in a thread that ends with the test.
fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream);
        }
    });
    address
}

/// Reads a request up to its empty line.
fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Serves every request with the answer that the word says at the moment.
fn serve_status(status: &'static Word) -> SocketAddr {
    serve(move |mut stream| {
        request(&mut stream);
        let code = status.load(Ordering::Relaxed);
        let _ = write!(stream, "HTTP/1.1 {code} So\r\nConnection: close\r\n\r\nbody");
    })
}

fn word(value: u64) -> &'static Word {
    Box::leak(Box::new(Word::new(value)))
}

fn append(path: &Path) {
    File::options().append(true).create(true).open(path).unwrap().write_all(b".").unwrap();
}

/// The process whose pid a command of the test wrote into a file.
fn written(path: &Path) -> u32 {
    wait_until("the command's pid", SOON, || {
        std::fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
    })
}

#[track_caller]
fn wait_for_death(pid: u32) {
    wait_until("the command's death", SOON, || process_of(pid).is_none().then_some(()));
}

// ---- Files ----

#[test]
fn a_file_that_moves_beats_and_one_that_does_not_is_told() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join(OsStr::from_bytes(b"beat \xff"));
    append(&path);
    let probing = Probing::start(spec("file:", &path));
    probing.wait_for_text(str::is_empty);
    assert_eq!(probing.beats(), 0, "the first look is the baseline");
    for round in 1..5 {
        append(&path);
        wait_until("a beat", SOON, || (probing.beats() >= round).then_some(()));
    }
    probing.wait_for_failure("file: unchanged");
    probing.is_silent();
    append(&path);
    probing.wait_for_beats(1);
    probing.wait_for_text(str::is_empty);
}

#[test]
fn a_file_may_vanish_and_come_back() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (path, aside) = (dir.path().join("beat"), dir.path().join("aside"));
    let probing = Probing::start(spec("file:", &path));
    probing.wait_for_failure(&format!("file: {}: No such file or directory", path.display()));
    append(&path);
    probing.wait_for_beats(1);
    std::fs::rename(&path, &aside).unwrap();
    probing.wait_for_failure(&format!("file: {}: No such file or directory", path.display()));
    // The same file, as it was: nobody wrote to it.
    let before = probing.beats();
    std::fs::rename(&aside, &path).unwrap();
    probing.wait_for_failure("file: unchanged");
    assert_eq!(probing.beats(), before);
    std::fs::remove_file(&path).unwrap();
    probing.wait_for_failure(&format!("file: {}: No such file or directory", path.display()));
    append(&path);
    probing.wait_for_beats(1);
}

#[test]
fn a_file_that_cannot_be_looked_at_is_told_in_96_bytes() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    append(&dir.path().join("plain"));
    let below = dir.path().join("plain").join("x".repeat(200));
    let probing = Probing::start(spec("file:", below));
    probing.wait_for_failure("file: \u{2026}xxx");
    assert!(probing.text().contains("x: Not a directory for "), "{}", probing.text());
    assert_eq!(probing.beats(), 0);
}

#[test]
fn what_moved_before_a_generation_is_no_beat_of_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("beat");
    append(&path);
    let probing = Probing::start(spec("file:", &path));
    probing.wait_for_text(str::is_empty);
    // Stopped, so that what its service did and the change fall between two looks.
    let prober = process_of(probing.pid()).unwrap();
    stop(&prober);
    append(&path);
    probing.set_generation(2);
    prober.signal(Signal::CONT).unwrap();
    probing.is_silent();
    append(&path);
    probing.wait_for_beats(1);
}

// ---- HTTP ----

#[test]
fn http_beats_while_the_status_is_good() {
    let status = word(200);
    let address = serve_status(status);
    let probing = Probing::start(format!("probe:http://{address}/health"));
    probing.wait_for_beats(3);
    probing.wait_for_text(str::is_empty);
    status.store(503, Ordering::Relaxed);
    probing.wait_for_failure("probe: HTTP 503 for ");
    probing.is_silent();
    status.store(399, Ordering::Relaxed);
    probing.wait_for_beats(3);
    probing.wait_for_text(str::is_empty);
    for (bad, text) in [(199, "probe: HTTP 199 for "), (400, "probe: HTTP 400 for ")] {
        status.store(bad, Ordering::Relaxed);
        probing.wait_for_failure(text);
    }
}

#[test]
fn a_request_is_what_servers_expect() {
    let (say, hear): (Sender<String>, Receiver<String>) = channel();
    let address = serve(move |mut stream| {
        let _ = say.send(request(&mut stream));
    });
    let name = format!("localhost:{}", address.port());
    // By name, which may mean ::1 first, where nobody listens.
    let _probing = Probing::start(format!("probe:http://{name}/a?b"));
    let heard = hear.recv_timeout(SOON).unwrap();
    let lines: Vec<_> = heard.lines().collect();
    assert_eq!(lines[0], "GET /a?b HTTP/1.1");
    for line in [
        format!("Host: {name}"),
        format!("User-Agent: osps/{}", env!("CARGO_PKG_VERSION")),
        "Connection: close".to_owned(),
    ] {
        assert!(lines.contains(&&*line), "{heard}");
    }
}

#[test]
fn an_answer_in_pieces_is_an_answer() {
    let address = serve(|mut stream| {
        request(&mut stream);
        for piece in ["HT", "TP/1.", "1 20", "4 No Content", "\r", "\n"] {
            let _ = stream.write_all(piece.as_bytes());
            pass(ms(5));
        }
    });
    Probing::with_limit(format!("probe:http://{address}"), SOON / 10).wait_for_beats(1);
}

#[test]
fn garbage_is_no_answer() {
    let address = serve(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-\x1b[2J\xff\r\n");
        request(&mut stream);
    });
    let probing = Probing::start(format!("probe:http://{address}/"));
    probing.wait_for_failure(r"probe: no HTTP status line: SSH-2.0-\x1b[2J\xff for ");
    probing.is_silent();
    let address = serve(|mut stream| drop(request(&mut stream)));
    let probing = Probing::start(format!("probe:http://{address}/"));
    probing.wait_for_failure("probe: closed without an answer for ");
    assert_eq!(probing.beats(), 0);
}

/// A gigabyte behind a good status is not read; neither is one without any status.
#[test]
fn an_endless_answer_is_cut_off() {
    const GIGABYTE: usize = 1 << 30;
    for (begin, is_good) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("", false)] {
        let (say, sent) = channel();
        let address = serve(move |mut stream| {
            request(&mut stream);
            let mut length = 0;
            if stream.write_all(begin.as_bytes()).is_ok() {
                let piece = vec![b'x'; 64 << 10];
                while length < GIGABYTE && stream.write_all(&piece).is_ok() {
                    length += piece.len();
                }
            }
            let _ = say.send(length);
        });
        let probing = Probing::start(format!("probe:http://{address}/"));
        if is_good {
            probing.wait_for_beats(3);
        } else {
            probing.wait_for_failure("probe: no HTTP status line: xxxxxxxx");
            assert_eq!(probing.beats(), 0);
        }
        let length = sent.recv_timeout(SOON).unwrap();
        // What the kernel's buffers hold on both sides.
        assert!(length < 64 << 20, "{length} bytes were taken");
        assert!(common::resident(probing.pid()) < 32 << 10);
    }
}

/// A server that keeps the connection open behind its answer delays nothing, and costs nothing.
#[test]
fn an_open_end_delays_no_beat() {
    let (keep, kept) = channel();
    let address = serve(move |mut stream| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx");
        let _ = keep.send(stream);
    });
    let probing = Probing::start(format!("probe:http://{address}/"));
    probing.wait_for_beats(3);
    let (start, before) = (common::now(), probing.own_beats());
    probing.wait_for_turns(50);
    // A loop that spins turns thousands of times a second.
    let (turns, took) = (probing.own_beats() - before, common::now().since(start));
    assert!(took > ms(250), "{turns} turns in {took:?}: it spins");
    drop(kept);
}

#[test]
fn who_accepts_and_says_nothing_is_silent() {
    let (keep, kept) = channel();
    let address = serve(move |stream| keep.send(stream).unwrap());
    let probing = Probing::start(format!("probe:http://{address}/"));
    probing.wait_for_failure("probe: no answer within 200ms for ");
    probing.is_silent();
    // It goes on beating for itself, and tells for how long.
    probing.wait_for_text(|text| text.ends_with('s') && !text.ends_with("ms"));
    drop((probing, kept));
}

#[test]
fn a_closed_port_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for spec in [format!("probe:http://{address}/"), format!("probe:tcp://{address}")] {
        let probing = Probing::start(spec);
        probing.wait_for_failure("probe: connection refused for ");
        probing.is_silent();
    }
}

#[test]
fn a_name_that_means_nothing_is_told() {
    let probing = Probing::start("probe:tcp://no-such-host.invalid:1");
    probing.wait_for_failure("probe: no-such-host.invalid: ");
    assert_eq!(probing.beats(), 0);
}

// ---- TCP ----

#[test]
fn a_connection_is_a_beat() {
    let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let probing = Probing::start(format!("probe:tcp://{}", listener.local_addr().unwrap()));
    probing.wait_for_beats(3);
    probing.wait_for_text(str::is_empty);
    drop(listener);
    probing.wait_for_failure("probe: connection refused for ");
    probing.is_silent();
}

// ---- Commands ----

#[test]
fn a_command_beats_by_its_status() {
    let probing = Probing::start("probe:true");
    probing.wait_for_beats(3);
    probing.wait_for_text(str::is_empty);
    for (command, text) in [
        ("probe:false", "probe: status 1 for "),
        ("probe:sh -c 'exit 7'", "probe: status 7 for "),
        ("probe:sh -c 'kill -9 $$'", "probe: killed by signal 9 for "),
        ("probe:no-such-program", "probe: no-such-program: No such file or directory for "),
        ("probe:/dev/null", "probe: /dev/null: Permission denied for "),
        ("probe:sleep 60", "probe: no answer within 200ms for "),
        // Its output is endless, and nobody's.
        ("probe:yes", "probe: no answer within 200ms for "),
    ] {
        let probing = Probing::start(command);
        probing.wait_for_failure(text);
        probing.is_silent();
    }
}

#[test]
fn a_command_gets_its_words_and_no_heart() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let out = dir.path().join("out");
    // Words of any bytes; what would be a heart's is not set.
    let script = b"probe:sh -c 'printf \"%s|%s|%s\" \"$1\" \"$2\" \"$OSPS_SLOT\" > \"$0.new\"; \
                   mv \"$0.new\" \"$0\"' ";
    let mut spec = script.to_vec();
    spec.extend_from_slice(out.as_os_str().as_bytes());
    spec.extend_from_slice(b" \"a  'b'\" \xff\\ c");
    Probing::with_limit(OsString::from_vec(spec), SOON / 10).wait_for_beats(1);
    assert_eq!(std::fs::read(&out).unwrap(), b"a  'b'|\xff c|");
}

/// What a command left in its process group ends with it, and no zombie stays of anybody.
#[test]
fn a_command_leaves_nobody() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let pid = dir.path().join("pid");
    let left = format!(
        "probe:sh -c 'test -e {0} && exit; sleep 60 & echo $! > {0}.new; mv {0}.new {0}; exit 3'",
        pid.display()
    );
    let probing = Probing::start(left);
    wait_for_death(written(&pid));
    probing.wait_for_beats(3);
    // One that does not end is killed, with those that it waits for.
    let pid = dir.path().join("second");
    let stuck = format!(
        "probe:sh -c 'test -e {0} && exit; sleep 60 & echo $! > {0}.new; mv {0}.new {0}; wait'",
        pid.display()
    );
    let second = Probing::start(stuck);
    wait_for_death(written(&pid));
    second.wait_for_beats(3);
    [probing, second].iter().for_each(Probing::has_one_child);
}

/// A command that asks for a generation which is over is ended, and the next one begins.
#[test]
fn a_command_ends_with_its_generation() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let pid = dir.path().join("pid");
    let command =
        format!("probe:sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 60'", pid.display());
    let probing = Probing::with_limit(command, SOON * 10);
    for generation in 2..5 {
        let asked = written(&pid);
        probing.set_generation(generation);
        wait_for_death(asked);
        wait_until("the next command", SOON, || (written(&pid) != asked).then_some(()));
    }
    probing.has_one_child();
    assert_eq!(probing.beats(), 0);
}

// ---- Generations ----

#[test]
fn an_answer_to_another_generation_does_not_count() {
    let (say, came) = channel();
    let (go, going): (Sender<()>, Receiver<()>) = channel();
    let address = serve(move |mut stream| {
        let is_first = say.send(request(&mut stream)).is_ok() && going.recv().is_ok();
        let status = if is_first { "200 OK" } else { "503 No" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    });
    // Long, so that the first probe has the time.
    let probing = Probing::with_limit(format!("probe:http://{address}/"), SOON);
    came.recv_timeout(SOON).unwrap();
    probing.set_generation(2);
    go.send(()).unwrap();
    // Every later one is answered badly.
    drop(go);
    probing.wait_for_failure("probe: HTTP 503 for ");
    assert_eq!(probing.beats(), 0);
}

#[test]
fn nobody_is_probed_before_the_first_generation() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("ran");
    let probing = Probing::start(format!("probe:touch {}", path.display()));
    probing.wait_for_beats(1);
    probing.segment.slots()[SLOT].server.generation.store(0, Ordering::Relaxed);
    probing.wait_for_turns(3);
    probing.is_silent();
    probing.set_generation(3);
    probing.wait_for_beats(1);
}

// ---- The prober itself ----

#[test]
fn it_leaves_with_its_watchdog_and_its_command_with_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let [leader, child] = ["leader", "child"].map(|name| dir.path().join(name));
    let command = format!(
        "probe:sh -c 'sleep 60 & echo $! > {}; echo $$ > {}; wait'",
        child.display(),
        leader.display()
    );
    let mut probing = Probing::with_limit(command, SOON * 10);
    let pids = [written(&leader), written(&child)];
    assert!(pids.iter().all(|pid| process_of(*pid).is_some()));
    probing.gate = None;
    assert!(probing.wait_for_end().success());
    pids.into_iter().for_each(wait_for_death);
}

#[test]
fn it_leaves_if_the_gate_does_not_open() {
    let (mut prober, gate) = launch(&["1".into(), "5".into()], "probe:true");
    drop(gate);
    let status = wait_until("the end", SOON, || prober.0.try_wait().unwrap());
    assert!(status.success());
}

#[test]
fn it_leaves_on_a_term() {
    let mut probing = Probing::start("probe:true");
    probing.wait_for_beats(1);
    process_of(probing.pid()).unwrap().signal(Signal::TERM).unwrap();
    assert!(!probing.wait_for_end().success());
}

#[test]
fn what_cannot_be_is_told_through_the_gate() {
    for (numbers, spec, reason) in [
        (["1", "5"], "probe:https://host/", "only http:// and tcp:// or a command"),
        (["1", "8"], "probe:true", "osps's own business"),
        (["2", "5"], "probe:true", "osps's own business"),
        (["5", "5"], "probe:true", "osps's own business"),
        (["x", "5"], "probe:true", "osps's own business"),
    ] {
        let (mut prober, mut gate) = launch(&numbers.map(OsString::from), spec);
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let geometry = Geometry::new(2, 8, 4096, 256).unwrap();
        let _segment = Segment::create(&file, &options(geometry), |_| {}).unwrap();
        // It may be gone already.
        let _ = send_descriptors(&gate, b'g', &[file.as_fd()]);
        let status = wait_until("the end", SOON, || prober.0.try_wait().unwrap());
        assert!(!status.success());
        let mut told = vec![0; 400];
        let length = gate.read(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told[..length]);
        assert!(told.contains(reason), "{spec}: {told}");
    }
}

/// Stops a process and waits until it stands still.
fn stop(process: &Process) {
    process.signal(Signal::STOP).unwrap();
    wait_until("the stop", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    });
}

#[test]
fn a_stopped_prober_is_silent_itself() {
    let status = word(200);
    let probing = Probing::start(format!("probe:http://{}/", serve_status(status)));
    probing.wait_for_beats(3);
    let prober = process_of(probing.pid()).unwrap();
    stop(&prober);
    let before = (probing.own_beats(), probing.beats());
    pass(ms(300));
    assert_eq!((probing.own_beats(), probing.beats()), before);
    prober.signal(Signal::CONT).unwrap();
    probing.wait_for_turns(3);
    probing.wait_for_beats(1);
    let heart = &probing.segment.hearts()[LINE];
    assert_eq!(heart.claim.load(Ordering::Relaxed), 0, "its line is the watchdog's to claim");
}

/// What came while nobody could take it says nothing of now.
#[test]
fn an_answer_from_before_a_pause_does_not_count() {
    let (say, came) = channel();
    let (go, going): (Sender<()>, Receiver<()>) = channel();
    let address = serve(move |mut stream| {
        let is_first = say.send(request(&mut stream)).is_ok() && going.recv().is_ok();
        let status = if is_first { "200 OK" } else { "503 No" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
        let _ = say.send("answered".to_owned());
    });
    let probing = Probing::with_limit(format!("probe:http://{address}/"), ms(4000));
    came.recv_timeout(SOON).unwrap();
    let prober = process_of(probing.pid()).unwrap();
    stop(&prober);
    go.send(()).unwrap();
    drop(go);
    assert_eq!(came.recv_timeout(SOON).unwrap(), "answered");
    pass(ms(2100));
    prober.signal(Signal::CONT).unwrap();
    probing.wait_for_failure("probe: HTTP 503 for ");
    assert_eq!(probing.beats(), 0);
}

/// With nothing to look at for seconds, it turns ten times a second and no more.
#[test]
fn it_beats_for_itself_whatever_the_limit_is() {
    let probing = Probing::with_limit("probe:true", Duration::from_secs(3600));
    probing.wait_for_beats(1);
    let (start, before) = (common::now(), probing.own_beats());
    probing.wait_for_turns(10);
    let turns = probing.own_beats() - before;
    let took = common::now().since(start);
    assert!(took > ms(500), "{turns} turns in {took:?}: it spins");
}
