//! Goal: each fault that a review found stays mended. The doc comment of a test tells its story.
//!
//! Method: black box. The real binary, raw sockets, real signals; what happened is read from the
//! segment, the replies and the log. Where a story needs a bad moment (half of a command, a slow
//! reader, a full disk quota), the test makes it on purpose.
//!
//! What it cannot show: faults of the same kind elsewhere; and a story that needs an exact moment
//! inside a server is told with many moments instead.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{BINARY, Launch, Osps, SOON, Signal, now, wait_until};
use osps::ids::{Generation, SlotId};
use osps::role::data::DataError;
use osps::segment::Segment;
use osps::segment::events::Event;
use osps::sync::{Ordering, Word};
use osps::sys::process::Process;
use osps::{DataArea, Heart};

const PRIMARY: usize = 0;
const SECONDARY: usize = 1;

/// Code of the state `up`, from docs/segment.md.
const UP: u64 = 2;
/// Code of the event of a verdict.
const VERDICT: u64 = 4;

/// Nearly a full table of the default size: what a walk over all keys may meet.
const KEYS: usize = 3500;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Lets time pass, where the passing of time is what the test is about.
fn pass(span: Duration) {
    let end = now() + span;
    wait_until("the clock", span + SOON, || (now() >= end).then_some(()));
}

// ---- Clients ----

type Client = BufReader<TcpStream>;

fn connect(osps: &Osps, slot: usize) -> Client {
    let stream = TcpStream::connect(osps.address(slot)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    BufReader::new(stream)
}

fn send(client: &mut Client, bytes: &[u8]) {
    client.get_mut().write_all(bytes).unwrap();
}

/// One line of a reply.
fn line(client: &mut Client) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap_or_else(|error| panic!("no reply: {error}"));
    line
}

fn ask(client: &mut Client, request: &str) -> String {
    send(client, format!("{request}\r\n").as_bytes());
    line(client)
}

/// Asserts that nothing more has arrived, nor does within a while.
fn assert_quiet(client: &mut Client) {
    client.get_ref().set_read_timeout(Some(ms(200))).unwrap();
    let mut more = [0; 64];
    if let Ok(length) = client.read(&mut more) {
        panic!("one reply too many: {:?}", String::from_utf8_lossy(&more[..length]));
    }
    client.get_ref().set_read_timeout(Some(SOON)).unwrap();
}

/// A request as an array of words.
fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A `KEYS` whose every comparison is as long as a pattern can make it, and in vain.
fn costly_keys() -> Vec<u8> {
    let pattern = format!("*[a{}]c", "b".repeat(250));
    words(&[b"KEYS", pattern.as_bytes()])
}

/// Nearly fills the table; the keys are as long as `name` makes them.
fn fill(osps: &Osps, name: impl Fn(usize) -> String) {
    let mut client = connect(osps, PRIMARY);
    let numbers: Vec<_> = (0..KEYS).collect();
    for part in numbers.chunks(250) {
        for number in part {
            send(&mut client, &words(&[b"SET", name(*number).as_bytes(), b"v"]));
        }
        for number in part {
            assert_eq!(line(&mut client), "+OK\r\n", "key {number}\n{}", osps.log());
        }
    }
}

fn verdicts(segment: &Segment) -> Vec<Event> {
    let events = segment.events().latest(1024);
    events.into_iter().filter(|event| event.kind == VERDICT).collect()
}

/// Nobody was convicted, restarted or replaced.
fn assert_untouched(osps: &Osps, slot: usize, generation: u32) {
    let shown = verdicts(&osps.segment());
    assert_eq!(osps.generation(slot), generation, "{shown:?}\n{}", osps.log());
    assert_eq!(osps.restarts(slot), [0; 6], "{}", osps.log());
}

// ---- What one client may cost ----

/// A pipeline of commands that each take milliseconds was answered within one turn, between two
/// beats: one client got the primary convicted of a freeze, and everybody lost it.
#[test]
fn a_pipeline_of_costly_commands_is_no_freeze() {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    fill(&osps, |number| format!("story-{number:04}"));
    let generation = osps.generation(PRIMARY);
    let mut greedy = connect(&osps, PRIMARY);
    greedy.get_ref().set_read_timeout(Some(4 * SOON)).unwrap();
    let mut other = connect(&osps, PRIMARY);
    let done = Word::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&mut greedy, &costly_keys().repeat(256));
            for number in 0..256 {
                let reply = line(&mut greedy);
                let sound = reply == "*0\r\n" || reply.starts_with("-ERR");
                assert!(sound, "reply {number}: {reply:?}\n{}", osps.log());
            }
            done.store(1, Ordering::Relaxed);
        });
        // At least twice while the pipeline is at work, and until it is done.
        let limit = now() + 10 * SOON;
        for round in 0.. {
            let asked = now();
            assert_eq!(ask(&mut other, "PING"), "+PONG\r\n");
            let took = now().since(asked);
            assert!(took < ms(1000), "another client's round {round} took {took:?}");
            if round >= 2 && done.load(Ordering::Relaxed) == 1 {
                break;
            }
            assert!(now() < limit, "the pipeline is not answered\n{}", osps.log());
            pass(ms(20));
        }
    });
    assert_untouched(&osps, PRIMARY, generation);
    assert_eq!(osps.state(PRIMARY), UP);
}

/// A look at the table is tried again when a commit came in between. A walk over all keys takes
/// so long that under steady writes one always came: the secondary tried until it was convicted.
#[test]
fn a_walk_over_all_keys_under_steady_writes_is_no_freeze() {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    fill(&osps, |number| format!("key-{number:04}-aaaaaaaaaaaaaaaa"));
    let generations = [PRIMARY, SECONDARY].map(|slot| osps.generation(slot));
    let over = Word::new(0);
    thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let mut writer = connect(&osps, PRIMARY);
            let mut count = 0;
            while over.load(Ordering::Relaxed) == 0 {
                count += 1;
                assert_eq!(ask(&mut writer, "INCR counter"), format!(":{count}\r\n"));
            }
            count
        });
        // Nobody announced this client: it may read, and that is all it wants.
        let mut reader = connect(&osps, SECONDARY);
        send(&mut reader, &costly_keys());
        pass(ms(2000));
        over.store(1, Ordering::Relaxed);
        let count = writes.join().unwrap();
        assert!(count > 0);
        let reply = line(&mut reader);
        assert!(reply == "*0\r\n" || reply.starts_with("-ERR"), "{reply:?}");
    });
    assert_untouched(&osps, SECONDARY, generations[SECONDARY]);
    assert_untouched(&osps, PRIMARY, generations[PRIMARY]);
}

// ---- Half a command ----

/// The primary's port takes a bare word without a line end, once it has been quiet. A command that
/// came in pieces was taken for one: `SET balance 10`, a pause, `0000` set 10, not 100000.
#[test]
fn half_a_command_is_never_carried_out() {
    let osps = Launch::pair(&[]).start();
    let mut client = connect(&osps, PRIMARY);
    send(&mut client, b"SET balance 10");
    pass(ms(150));
    send(&mut client, b"0000\r\n");
    assert_eq!(line(&mut client), "+OK\r\n");
    assert_quiet(&mut client);
    assert_eq!(ask(&mut client, "GET balance"), "$6\r\n");
    assert_eq!(line(&mut client), "100000\r\n");

    send(&mut client, b"FLUSHD");
    pass(ms(150));
    let mut other = connect(&osps, PRIMARY);
    assert_eq!(ask(&mut other, "DBSIZE"), ":1\r\n", "nothing is flushed by a half");
    send(&mut client, b"B\r\n");
    assert_eq!(line(&mut client), "+OK\r\n");
    assert_quiet(&mut client);
    assert_eq!(ask(&mut other, "DBSIZE"), ":0\r\n");

    // What can be no command's beginning is answered: whoever sent it waits for that.
    let sent = now();
    send(&mut client, b"bogus");
    let reply = line(&mut client);
    assert!(reply.starts_with("-ERR"), "{reply:?}");
    assert!(now().since(sent) >= ms(50), "not before it was quiet");
}

// ---- Precious data ----

/// A start that failed after it had found a dead instance's segment removed it, data and all: a
/// typing error in an option cost what a `kill -9` had spared.
#[test]
fn a_start_that_fails_spares_the_data() {
    let mut osps = Launch::pair(&[]).start();
    assert_eq!(osps.ask(PRIMARY, "SET k precious"), "+OK");
    let servers: Vec<Process> = [PRIMARY, SECONDARY].map(|slot| osps.process(slot)).into();
    osps.kill_watchdog();
    for server in &servers {
        rustix::process::pidfd_send_signal(server.as_fd(), Signal::KILL).unwrap();
    }
    wait_until("all dead", SOON, || servers.iter().all(Process::is_dead).then_some(()));

    let launch = Launch::pair(&[]).in_place_of(osps);
    // 100 blocks are at most 100 KiB: no room for the segment that is asked for.
    let mut cramped = Command::new("sh");
    cramped.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]);
    cramped.arg(BINARY).args(launch.command().get_args()).args(["--data-size", "64MiB"]);
    cramped.env_remove("RUST_LOG").env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null());
    let failed = cramped.output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");

    let mut osps = launch.start();
    let mut client = connect(&osps, PRIMARY);
    assert_eq!(ask(&mut client, "GET k"), "$8\r\n", "after this:\n{said}\n{}", osps.log());
    assert_eq!(line(&mut client), "precious\r\n");
    let stopped = osps.command(&["stop"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    assert!(!osps.run_dir().exists(), "what a killed instance had made goes as well");
}

/// Whoever may write the segment may write its first bytes, too. A scribbled magic kept every
/// successor from attaching, and nobody was replaced any more.
#[test]
fn a_scribbled_magic_is_mended_and_verdicts_go_on() {
    let osps = Launch::pair(&["--hang-timeout", "500ms"]).start();
    let generation = osps.generation(SECONDARY);
    let (segment, secondary) = (osps.segment(), osps.process(SECONDARY));
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    file.write_all_at(b"?", 0).unwrap();
    osps.wait_log(&["mended"]);

    osps.signal(&secondary, Signal::STOP);
    osps.wait_successor(SECONDARY, generation);
    assert!(secondary.is_dead());
    osps.wait_log(&["-> frozen (stopped"]);
    osps.wait_all_up();
    let first = verdicts(&segment)[0];
    let convicted = (first.slot.map(SlotId::index), first.generation.0);
    assert_eq!(convicted, (Some(SECONDARY), generation), "{first:?}");
    assert_eq!(osps.ask(SECONDARY, "PING"), "+PONG");
}

/// Whoever names the run directory may keep things of their own in it. What only looked like a
/// name of osps was removed with the rest.
#[test]
fn foreign_files_in_the_run_directory_stay() {
    let launch = Launch::pair(&[]);
    let run_dir = launch.run_dir().to_owned();
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, Permissions::from_mode(0o700)).unwrap();
    let (fifo, file) = (run_dir.join("segment.txt"), run_dir.join("dwtube7"));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::write(&file, "mine").unwrap();
    let assert_there = |when: &str| {
        let kind = fs::symlink_metadata(&fifo).map(|meta| meta.file_type());
        assert!(kind.is_ok_and(|kind| kind.is_fifo()), "the FIFO, {when}");
        assert_eq!(fs::read(&file).ok().as_deref(), Some(&b"mine"[..]), "the file, {when}");
    };

    let mut osps = launch.start();
    assert_there("after the start");
    assert!(osps.command(&["stop"]).status.success());
    assert_eq!(osps.wait_exit().code(), Some(0), "{}", osps.log());
    assert_there("after the stop");
    assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 2, "of osps nothing is left");
}

/// The data has one writer at a time, in one process as well: two would write into each other's
/// change, and no epoch tells them apart.
#[test]
fn a_process_owns_the_data_once() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    osps::example::found_segment(dir.path()).unwrap();
    let heart = Heart::open(dir.path(), SlotId(0), Generation(0)).unwrap();
    let heart = osps::example::settle(heart, dir.path()).unwrap();
    let mut first = heart.own_data().unwrap();
    let second = heart.own_data();
    assert!(matches!(second, Err(DataError::NotOwner)), "{second:?}");
    first.update(|update| update.write(0, b"one")).unwrap();
    drop(first);
    // Letting go makes room.
    let mut third = heart.own_data().unwrap();
    third.update(|update| update.write(0, b"two")).unwrap();
    let mut bytes = [0; 3];
    DataArea::open(dir.path()).unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"two");
}

// ---- The commands beside it ----

/// Standard output in a pipe that is read late took only what fitted into the pipe: the rest of a
/// long reply was dropped, and the exit code said that all was well.
#[test]
fn a_long_reply_comes_whole_through_a_slow_pipe() {
    let osps = Launch::pair(&[]).start();
    let name = |number: usize| format!("key-{number:04}-{}", "x".repeat(50));
    fill(&osps, name);
    let mut command = Command::new(BINARY);
    command.arg("--run-dir").arg(osps.run_dir()).args(["client", "KEYS", "*"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).env_remove("RUST_LOG");
    let mut client = command.spawn().unwrap();
    pass(ms(1000));
    let mut text = String::new();
    client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(client.wait().unwrap().success());
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let expected: Vec<_> = (0..KEYS).map(name).collect();
    assert!(text.len() > 1 << 16, "more than a pipe takes, or this shows nothing");
    assert_eq!(lines.len(), KEYS, "one line for each key, and no other");
    assert_eq!(lines, expected);
}

/// `osps status` read the clock before the hearts: a beat in between lay in the future, its age
/// made no sense, and a watchdog that had just beaten was called frozen.
#[test]
fn status_never_calls_a_beating_watchdog_frozen() {
    let osps = Launch::pair(&["--hang-timeout", "40ms", "--beat-interval", "10ms"]).start();
    for round in 0..300 {
        let output = osps.command(&["status"]);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains("watchdog pid"), "round {round}: {output:?}");
        assert!(!shown.contains("FROZEN"), "round {round}:\n{shown}");
    }
}

/// A client's command that was cut was said again, whatever it was: one `DEBUG ABORT` killed one
/// primary after the other until the client's time was up.
#[test]
fn a_deadly_command_is_said_once() {
    let osps = Launch::pair(&["--allow-debug"]).start();
    let generation = osps.generation(PRIMARY);
    let mut client = Command::new(BINARY);
    // In front: behind the words of a client it would be one of them.
    client.arg("--run-dir").arg(osps.run_dir()).args(["client", "DEBUG", "ABORT"]);
    let asked = client.stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{}", String::from_utf8_lossy(&asked.stderr));
    osps.wait_successor(PRIMARY, generation);
    osps.wait_all_up();
    // If it were said again, then by now.
    pass(ms(500));
    assert_eq!(osps.restarts(PRIMARY).iter().sum::<u64>(), 1, "{}", osps.log());
    assert_eq!(osps.ask(PRIMARY, "PING"), "+PONG");
}

/// Random bytes over the whole data area: replies may be anything, but they are replies; both
/// servers keep beating, and after a FLUSHDB the table works again.
#[test]
fn a_scribbled_data_area_stops_nobody() {
    let osps = Launch::pair(&["--hang-timeout", "1s", "--data-size", "64KiB"]).start();
    let generations = [osps.generation(0), osps.generation(1)];
    let geometry = *osps.segment().geometry();
    let file = File::options().write(true).open(osps.run_dir().join("segment")).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = vec![0u8; geometry.total_size - geometry.data_offset];
    for round in 0..20 {
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        let at = u64::try_from(geometry.data_offset).unwrap();
        file.write_all_at(&noise, at).unwrap();
        for request in
            ["GET k", "SET k v", "INCR n", "KEYS *", "DBSIZE", "DEL k", "EXISTS a b", "FLUSHDB"]
        {
            let reply = osps.ask(0, request);
            assert!(reply.starts_with(['+', '-', ':', '$', '*']), "round {round}: {reply:?}");
            assert!(!osps.ask(1, "GET k").is_empty());
        }
        assert_eq!(osps.ask(0, "FLUSHDB"), "+OK", "round {round}");
        assert_eq!(osps.ask(0, "SET k whole"), "+OK", "round {round}");
        assert_eq!(osps.ask(0, "GET k"), "$5", "round {round}");
    }
    assert_eq!([osps.generation(0), osps.generation(1)], generations, "{}", osps.log());
}
