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
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::thread;

use osps_heart::ids::SlotId;
use osps_heart::sync::{Ordering, Word};
use osps_heart::words::State;
use osps_heart::{DataReader, HeartError};

use common::{
    BINARY, Launch, NO_RESTARTS, Osps, PRIMARY, Random, SECONDARY, SOON, Signal, ms, now, pass,
    verdicts, words,
};

/// Nearly a full table of the default size: what a walk over all keys may meet.
const KEYS: usize = 3500;

/// A `KEYS` whose every comparison is as long as a pattern can make it, and in vain.
fn costly_keys() -> Vec<u8> {
    let pattern = format!("*[a{}]c", "b".repeat(250));
    words(&[b"KEYS", pattern.as_bytes()])
}

/// Nearly fills the table; the keys are as long as `name` makes them.
fn fill(osps: &Osps, name: impl Fn(usize) -> String) {
    let mut client = osps.client(PRIMARY);
    let numbers: Vec<_> = (0..KEYS).collect();
    for part in numbers.chunks(250) {
        for number in part {
            client.send(&words(&[b"SET", name(*number).as_bytes(), b"v"]));
        }
        for number in part {
            assert_eq!(client.line(), "+OK\r\n", "key {number}\n{}", osps.log());
        }
    }
}

/// Nobody was convicted, restarted or replaced.
fn assert_untouched(osps: &Osps, slot: usize, generation: u32) {
    let shown = verdicts(&osps.segment());
    assert_eq!(osps.generation(slot), generation, "{shown:?}\n{}", osps.log());
    assert_eq!(osps.restarts(slot), NO_RESTARTS, "{}", osps.log());
}

// ---- What one client may cost ----

/// A pipeline of commands that each take milliseconds was answered within one turn, between two
/// beats: one client got the primary convicted of a freeze, and everybody lost it.
#[test]
fn a_pipeline_of_costly_commands_is_no_freeze() {
    let osps = Launch::pair(&["--hang-timeout", "1s"]).start();
    fill(&osps, |number| format!("story-{number:04}"));
    let generation = osps.generation(PRIMARY);
    let mut greedy = osps.client(PRIMARY);
    greedy.raw().set_read_timeout(Some(4 * SOON)).unwrap();
    let mut other = osps.client(PRIMARY);
    let done = Word::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            greedy.send(&costly_keys().repeat(256));
            for number in 0..256 {
                let reply = greedy.line();
                let sound = reply == "*0\r\n" || reply.starts_with("-ERR");
                assert!(sound, "reply {number}: {reply:?}\n{}", osps.log());
            }
            done.store(1, Ordering::Relaxed);
        });
        // At least twice while the pipeline is at work, and until it is done.
        let limit = now() + 10 * SOON;
        for round in 0.. {
            let asked = now();
            assert_eq!(other.ask_line("PING"), "+PONG\r\n");
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
    assert!(osps.is_state(PRIMARY, State::Up));
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
            let mut writer = osps.client(PRIMARY);
            let mut count = 0;
            while over.load(Ordering::Relaxed) == 0 {
                count += 1;
                assert_eq!(writer.ask_line("INCR counter"), format!(":{count}\r\n"));
            }
            count
        });
        // Nobody announced this client: it may read, and that is all it wants.
        let mut reader = osps.client(SECONDARY);
        reader.send(&costly_keys());
        pass(ms(2000));
        over.store(1, Ordering::Relaxed);
        let count = writes.join().unwrap();
        assert!(count > 0);
        let reply = reader.line();
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
    let mut client = osps.client(PRIMARY);
    client.send(b"SET balance 10");
    pass(ms(150));
    client.send(b"0000\r\n");
    assert_eq!(client.line(), "+OK\r\n");
    client.assert_quiet();
    assert_eq!(client.ask_line("GET balance"), "$6\r\n");
    assert_eq!(client.line(), "100000\r\n");

    client.send(b"FLUSHD");
    pass(ms(150));
    let mut other = osps.client(PRIMARY);
    assert_eq!(other.ask_line("DBSIZE"), ":1\r\n", "nothing is flushed by a half");
    client.send(b"B\r\n");
    assert_eq!(client.line(), "+OK\r\n");
    client.assert_quiet();
    assert_eq!(other.ask_line("DBSIZE"), ":0\r\n");

    // What can be no command's beginning is answered: whoever sent it waits for that.
    let sent = now();
    client.send(b"bogus");
    let reply = client.line();
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
    osps.kill_everything();

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
    let mut client = osps.client(PRIMARY);
    assert_eq!(client.ask_line("GET k"), "$8\r\n", "after this:\n{said}\n{}", osps.log());
    assert_eq!(client.line(), "precious\r\n");
    osps.stop();
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
    osps.stop();
    assert_there("after the stop");
    assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 2, "of osps nothing is left");
}

/// The data has one writer at a time, in one process as well: two would write into each other's
/// change, and no epoch tells them apart.
#[test]
fn a_process_owns_the_data_once() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    osps_heart::example::create_segment(dir.path()).unwrap();
    let heart = osps_heart::example::heart(dir.path()).unwrap();
    let mut first = heart.own_data().unwrap();
    let second = heart.own_data();
    assert!(matches!(second, Err(HeartError::NotOwner)), "{second:?}");
    first.update(|update| update.write(0, b"one")).unwrap();
    drop(first);
    // Letting go makes room.
    let mut third = heart.own_data().unwrap();
    third.update(|update| update.write(0, b"two")).unwrap();
    let mut bytes = [0; 3];
    DataReader::open(dir.path()).unwrap().read(0, &mut bytes).unwrap();
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
    let mut random = Random::new(1);
    for round in 0..20 {
        let noise = random.bytes(geometry.total_size - geometry.data_offset);
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
