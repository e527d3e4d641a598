//! Programs that speak sd_notify are judged by what they say, with systemd's meaning.
//!
//! Goal: every message has its effect on state, verdict and status; what strangers, predecessors
//! and garbage say has none; descriptors that come along are closed; a stopped watchdog only makes
//! senders wait.
//!
//! Method: this test binary is the supervised program as well (`as_program`); an environment
//! variable is its script. Beside it the real `systemd-notify`, from a shell script.
//!
//! What it cannot show: programs that misread `NOTIFY_SOCKET`; that each of the three guards against
//! what a predecessor said (the order of a turn, the drain, the session) is needed beside the others.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use osps::sys::procfs;
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::State;

use common::{AS_PROGRAM, Launch, Osps, SOON, Signal, ms, pass, skip, wait_until};

const LIMIT: Duration = ms(600);
const OPTIONS: [&str; 6] =
    ["--heart", "notify", "--hang-timeout", "600ms", "--check-interval", "300ms"];
const SCRIPT: &str = "OSPS_TEST_SCRIPT";

/// What this binary does when osps starts it: one thing after the other, then it sleeps.
#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    let socket = common::notify_socket(&std::env::var_os("NOTIFY_SOCKET").unwrap());
    for step in script.split(';').map(str::trim) {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let span = || ms(rest.parse().unwrap());
        match word {
            "say" => say(&socket, &rest.replace(',', "\n")),
            "wait" => std::thread::sleep(span()),
            "beat" => {
                let end = Instant::now() + span();
                while Instant::now() < end {
                    say(&socket, "WATCHDOG=1");
                    std::thread::sleep(ms(20));
                }
            }
            // As sd_notify does: a socket of its own each time, and what cannot be said is not.
            "persist" => {
                let (end, path) = (Instant::now() + span(), std::env::var_os("NOTIFY_SOCKET"));
                while Instant::now() < end {
                    if let Ok(socket) = common::try_notify_socket(path.as_ref().unwrap()) {
                        let _ = socket.send(b"WATCHDOG=1");
                    }
                    std::thread::sleep(ms(20));
                }
            }
            "repeat" => loop {
                say(&socket, rest);
                std::thread::sleep(ms(5));
            },
            "main" => {
                let child = common::Guest(Command::new("sleep").arg("1000").spawn().unwrap());
                say(&socket, &format!("MAINPID={}", child.0.id()));
                std::mem::forget(child);
            }
            "spin" => loop {
                std::hint::spin_loop();
            },
            "flood" => flood(&socket, rest.parse().unwrap()),
            "first" if std::env::var("OSPS_GENERATION").unwrap() != "1" => break,
            "first" => {}
            _ => panic!("{step}"),
        }
    }
    std::thread::sleep(Duration::from_secs(3600));
}

fn say(socket: &UnixDatagram, text: &str) {
    socket.send(text.as_bytes()).unwrap();
}

/// Oversized, without sense, and with descriptors attached.
fn flood(socket: &UnixDatagram, count: usize) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds: Vec<RawFd> = vec![null.as_raw_fd(); 200];
    for number in 0..count {
        let message = match number % 4 {
            0 => vec![b'x'; 100_000],
            1 => b"\xff\xfe=1".to_vec(),
            2 => b"FDSTORE=1".to_vec(),
            _ => Vec::new(),
        };
        let attached = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(&message)],
            &attached,
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }
}

fn launch(options: &[&str], script: &str) -> Launch {
    Launch::this(options).env(SCRIPT, script)
}

fn stop_watchdog(osps: &Osps) {
    let pid = osps.watchdog_pid();
    osps.signal_watchdog(Signal::STOP);
    osps.wait("a stopped watchdog", || (procfs::state(pid) == Some('T')).then_some(()));
}

#[test]
fn ready_makes_it_up_and_a_missing_watchdog_convicts() {
    let osps = launch(&OPTIONS, "wait 300; say READY=1,STATUS=serves 7 robots; beat 1000").spawn();
    let up = osps.wait_log(&["gen=1 ", "starting -> up (first beat after "]);
    osps.wait("its status", || (osps.server(0)["activity"] == "serves 7 robots").then_some(()));
    assert_eq!(
        (&osps.server(0)["heart"], &osps.server(0)["watched"]),
        (&"notify".into(), &true.into())
    );
    let verdict = osps.wait_log(&["gen=1 ", "-> frozen (blocked in ", "limit 600ms)"]);
    assert!(verdict.at.since(up.at) >= ms(1000), "{}", osps.log());
    osps.wait_log(&["gen=2 ", "starting -> up (first beat after "]);
}

#[test]
fn who_never_says_ready_is_a_start_that_failed_and_is_told_so() {
    let options = [&OPTIONS[..], &["--start-timeout", "700ms"]].concat();
    // WATCHDOG=1 before READY=1 is no beat.
    let osps = launch(&options, "beat 10000").spawn();
    osps.wait_log(&["gen=1 ", "starting -> start-timeout (no first beat for ", "limit 700ms)"]);
    osps.wait_log(&["has not said READY=1"]);
}

#[test]
fn ready_alone_leaves_auto_unwatched_and_the_first_watchdog_changes_that() {
    let auto = &OPTIONS[2..];
    let osps = launch(auto, "say READY=1; wait 2000; say WATCHDOG=1; wait 100000").spawn();
    let up = osps.wait_log(&["gen=1 ", "starting -> up (first beat after "]);
    osps.wait("a table", || {
        let table = osps.table();
        table.contains("unwatched").then_some(())
    });
    assert_eq!(osps.server(0)["watched"], false);
    osps.wait_log(&["gen=1 ", "watched from now on (notify heart)"]);
    let verdict = osps.wait_log(&["gen=1 ", "-> frozen (blocked in "]);
    assert!(verdict.at.since(up.at) >= ms(2500), "{}", osps.log());
}

#[test]
fn a_trigger_is_a_verdict_at_once() {
    let osps = launch(&OPTIONS, "say READY=1; beat 100; first; say WATCHDOG=trigger").spawn();
    osps.wait_log(&["gen=1 ", "up -> frozen (triggered: it said that it is broken"]);
    assert_eq!(osps.server(0)["last_cause"], "frozen (triggered)");
}

#[test]
fn a_limit_of_its_own_and_more_time_are_honoured() {
    let script = "say READY=1; say WATCHDOG_USEC=2000000; wait 1300; beat 40; \
                  say EXTEND_TIMEOUT_USEC=3000000";
    let osps = launch(&OPTIONS, script).spawn();
    let up = osps.wait_log(&["gen=1 ", "starting -> up"]);
    osps.wait_log(&["chose a limit of 2s"]);
    let verdict = osps.wait_log(&["gen=1 ", "-> frozen (", "limit 2s)"]);
    assert!(verdict.at.since(up.at) >= ms(1300 + 3000), "{}", osps.log());
    let osps = launch(&OPTIONS, "say READY=1,WATCHDOG_USEC=7; beat 60000").spawn();
    osps.wait_log(&["WATCHDOG_USEC=7 is out of bounds", "its limit stays 600ms"]);
}

#[test]
fn reloading_stopping_errno_and_a_strange_mainpid_are_told() {
    let script = "say READY=1; say RELOADING=1; beat 500; say READY=1; beat 500; say ERRNO=2; \
                  say MAINPID=1; say FDSTORE=1; say FDSTORE=1; say STOPPING=1; beat 60000";
    let osps = launch(&OPTIONS, script).spawn();
    osps.wait("reloading", || (osps.server(0)["activity"] == "reloading").then_some(()));
    osps.wait("reloaded", || osps.server(0)["activity"].is_null().then_some(()));
    osps.wait_log(&["says that it fails: No such file or directory"]);
    osps.wait_log(&["MAINPID=1 is no process of its session: not believed"]);
    osps.wait_log(&["wants descriptors kept (FDSTORE=1)"]);
    osps.wait("stopping", || (osps.server(0)["activity"] == "stopping").then_some(()));
    assert_eq!(osps.log().matches("FDSTORE").count(), 1, "{}", osps.log());
}

/// What is shown of a freeze is what the process that does the work shows.
#[test]
fn the_process_that_it_names_is_looked_at() {
    let osps = launch(&OPTIONS, "say READY=1; main; beat 100; spin").start();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in hrtimer_nanosleep"]);
    let osps = launch(&OPTIONS, "say READY=1; beat 100; spin").start();
    osps.wait_spinning(&["gen=1 "]);
}

/// A new watchdog looked at the leader, which its own debugger or a wait may make look sound.
#[test]
fn the_process_that_it_named_is_looked_at_by_the_next_watchdog_as_well() {
    for (step, shown) in [("main;", "blocked in hrtimer_nanosleep"), ("", "spinning")] {
        let script = format!("say READY=1; {step} persist 3000; spin");
        let mut osps = launch(&OPTIONS, &script).start();
        if !step.is_empty() {
            osps.wait("MAINPID", || osps.segment().slots()[0].server.main());
        }
        osps.kill_watchdog();
        osps.start_again();
        osps.wait_log(&["took over 1 of 1"]);
        osps.wait_log(&["gen=1 ", "-> frozen (", shown]);
    }
}

#[test]
fn strangers_are_heard_by_nobody() {
    let osps = launch(&OPTIONS, "say READY=1; beat 60000").start();
    let program = osps.process(0);
    let pid = program.pid();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let is_socket = |pair: &&str| pair.starts_with("NOTIFY_SOCKET=");
    let address =
        environment.split('\0').find(is_socket).unwrap()["NOTIFY_SOCKET=".len()..].to_owned();
    let stranger = common::notify_socket(address.as_ref());
    say(&stranger, "WATCHDOG=trigger");
    say(&stranger, "STATUS=I am somebody else");
    let me = std::process::id();
    osps.wait_log(&[&format!("dropped a notification of pid {me}"), "not of its session"]);
    // A stopped program is silent, whatever a stranger says in its place.
    osps.stop_process(&program);
    let end = Instant::now() + SOON;
    while osps.find_log(&["gen=1 ", "-> frozen (stopped"]).is_none() {
        assert!(Instant::now() < end, "{}", osps.log());
        say(&stranger, "WATCHDOG=1");
        std::thread::sleep(ms(10));
    }
    assert!(!osps.server(0)["activity"].to_string().contains("somebody"), "{}", osps.log());
}

/// A queue that is full when its sender dies belongs to that sender.
#[test]
fn what_a_predecessor_said_is_not_its_successors() {
    let osps = launch(&OPTIONS, "first; repeat READY=1").start();
    let program = osps.process(0);
    // That it is ready it says while the watchdog is stopped, too: that is found after its death.
    stop_watchdog(&osps);
    pass(ms(100));
    program.kill().unwrap();
    osps.wait("its death", || program.is_dead().then_some(()));
    osps.signal_watchdog(Signal::CONT);
    osps.wait_log(&["gen=2 ", "down -> starting"]);
    pass(ms(300));
    assert!(osps.find_log(&["gen=2 ", "starting -> up"]).is_none(), "{}", osps.log());
}

#[test]
fn garbage_and_descriptors_are_dropped_and_nothing_leaks() {
    let osps = launch(&OPTIONS, "say READY=1; flood 400; beat 60000").start();
    osps.wait_log(&["dropped a notification", "that is no message"]);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", osps.watchdog_pid())).unwrap().count();
    osps.wait("beats after the flood", || {
        (osps.server(0)["beats"].as_u64() > Some(3)).then_some(())
    });
    assert!(open() < 60, "{} descriptors", open());
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    assert_eq!(osps.log().matches("dropped a notification").count(), 1, "told once");
}

/// The kernel queues ten datagrams; then the sender waits for the watchdog, and goes on with it.
#[test]
fn a_stopped_watchdog_makes_senders_wait_and_loses_nothing() {
    let osps = launch(&OPTIONS, "say READY=1; beat 60000").start();
    stop_watchdog(&osps);
    let pid = osps.pid(0);
    osps.wait("a sender that waits for its reader", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let mut places = threads.map(|thread| std::fs::read_to_string(thread.path().join("wchan")));
        let waits =
            |place: std::io::Result<String>| place.is_ok_and(|place| place.contains("unix"));
        places.any(waits).then_some(())
    });
    pass(LIMIT * 3);
    osps.signal_watchdog(Signal::CONT);
    let before = osps.server(0)["beats"].as_u64();
    osps.wait("more beats", || (osps.server(0)["beats"].as_u64() > before).then_some(()));
    pass(LIMIT * 2);
    assert_eq!(osps.generation(0), 1, "its silence was the watchdog's\n{}", osps.log());
}

#[test]
fn a_socket_that_somebody_removed_comes_back() {
    let osps = launch(&OPTIONS, RETURNS).start();
    comes_back(osps.run_dir());
    drop(osps);
    if !common::is_root() {
        return;
    }
    if !common::has("setpriv") {
        skip("to become somebody else needs setpriv");
        return;
    }
    let (bin, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    // The build directory may be closed to others, and /dev/shm may forbid to run programs.
    std::fs::set_permissions(bin.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name| {
        let to = bin.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let osps = copy(common::BINARY.as_ref(), "osps");
    let program = copy(&std::env::current_exe().unwrap(), "program");
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (id, run_dir) = (NOBODY.to_string(), home.path().join("run"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "TERM"]);
    command.arg(osps).arg("run").arg("--run-dir").arg(&run_dir).args(OPTIONS);
    command.arg("--").arg(program).args(AS_PROGRAM).env(SCRIPT, RETURNS).current_dir("/");
    let mut watchdog = common::Guest(command.stdin(Stdio::null()).spawn().unwrap());
    comes_back(&run_dir);
    let pid = rustix::process::Pid::from_child(&watchdog.0);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(watchdog.0.wait().unwrap().success());
    assert!(!run_dir.exists(), "the socket's name is removed with the rest");
}

const NOBODY: u32 = 65_534;
/// Its first generation falls silent; the next one needs the socket to come up.
const RETURNS: &str = "say READY=1; beat 400; first; wait 600000";

fn comes_back(run_dir: &Path) {
    let name = run_dir.join("notify-0");
    wait_until("the socket", SOON, || name.exists().then_some(()));
    std::fs::remove_file(&name).unwrap();
    wait_until("the socket again", SOON, || name.exists().then_some(()));
    let second_up = || {
        let segment = Segment::open(run_dir, Access::ReadOnly).ok()?;
        let server = &segment.slots()[0].server;
        let up = server.state.load(Ordering::Relaxed) == State::Up.code();
        (up && server.current_generation().0 == 2).then_some(())
    };
    wait_until("a second generation that is up", SOON, second_up);
}

/// A path too long for a socket was cut in the middle of a character, and osps ended.
#[test]
fn a_directory_of_any_name_is_heard() {
    let (even, odd) = ("\u{e9}".repeat(100), "\u{e9}".repeat(100) + "x");
    let not_a_text = OsStr::from_bytes(b"caf\xe9");
    for name in [even.as_ref(), odd.as_ref(), not_a_text] {
        let osps = launch(&OPTIONS, "say READY=1; beat 60000").in_dir(name).start();
        osps.wait("beats", || (osps.server(0)["beats"].as_u64() > Some(3)).then_some(()));
    }
}

#[test]
fn systemds_own_tool_beats_from_a_shell_script() {
    if !common::has("systemd-notify") {
        skip("systemd-notify is missing");
        return;
    }
    let script = "systemd-notify --ready --status='a shell serves'; \
                  for i in 1 2 3 4 5 6 7 8 9 10; do systemd-notify WATCHDOG=1; sleep 0.1; done; \
                  exec sleep 1000";
    let options = ["--heart", "notify", "--hang-timeout", "2s"];
    let osps = Launch::own(&options, &["sh", "-c", script]).start();
    osps.wait("its status", || (osps.server(0)["activity"] == "a shell serves").then_some(()));
    osps.wait("beats", || (osps.server(0)["beats"].as_u64() > Some(10)).then_some(()));
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in "]);
    assert!(osps.find_log(&["dropped a notification"]).is_none(), "{}", osps.log());
}

/// A wrapper that forks does not keep a program behind it from being heard: its session counts.
#[test]
fn a_program_behind_a_wrapper_is_heard_and_looked_at() {
    let exe = std::env::current_exe().unwrap();
    let script = format!("{} {}; true", exe.display(), AS_PROGRAM.join(" "));
    let osps =
        Launch::own(&OPTIONS, &["sh", "-c", &script]).env(SCRIPT, "say READY=1; beat 200").start();
    assert_eq!(osps.state(0), Some(State::Up));
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in "]);
}

/// Puma beats from a thread of its own, by the gem `sd_notify`, which knows no abstract sockets: under
/// root it ended at its first word.
#[test]
fn puma_is_heard_and_its_silence_convicts() {
    if !common::has("puma") {
        return skip("puma is missing");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.ru");
    std::fs::write(&config, "run ->(env) { [200, {}, [\"well\"]] }\n").unwrap();
    let address = format!("tcp://127.0.0.1:{}", common::free_port());
    let options = ["--heart", "notify", "--hang-timeout", "2s", "--start-timeout", "30s"];
    let command = ["puma", "-q", "-b", &address, config.to_str().unwrap()];
    let osps = Launch::own(&options, &command).start();
    let beats = || osps.server(0)["beats"].as_u64().unwrap();
    let before = beats();
    osps.wait("beats", || (beats() > before + 2).then_some(()));
    pass(ms(3000));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    osps.stop_process(&osps.process(0));
    osps.wait_log(&["gen=1 ", "-> frozen (stopped; "]);
    osps.wait_log(&["gen=2 ", "starting -> up (first beat after "]);
}

/// They say `READY=1` and nothing more: up at once, never judged for it; with a probe they are.
#[test]
fn daemons_that_only_say_ready_are_up_and_a_probe_watches_them() {
    if !common::has("redis-server") {
        return skip("redis-server is missing");
    }
    let port = common::free_port().to_string();
    let redis = ["redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", ""];
    let redis =
        [&redis[..], &["--supervised", "systemd", "--enable-debug-command", "yes"]].concat();
    let osps = Launch::own(&["--hang-timeout", "1s"], &redis).start();
    osps.wait_log(&["gen=1 ", "starting -> up (first beat after "]);
    osps.wait("its status", || {
        let activity = osps.server(0)["activity"].as_str()?.to_owned();
        activity.contains("Ready to accept connections").then_some(())
    });
    pass(ms(3000));
    assert_eq!((osps.generation(0), &osps.server(0)["watched"]), (1, &false.into()));
    drop(osps);
    let probe = format!("probe:redis-cli -p {port} ping");
    let options = ["--hang-timeout", "2s", "--start-timeout", "20s", "--heart", &probe];
    let osps = Launch::own(&options, &redis).start();
    pass(ms(3000));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    let mut client =
        std::net::TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
    std::io::Write::write_all(&mut client, b"DEBUG SLEEP 1000\r\n").unwrap();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in hrtimer_nanosleep"]);
    osps.wait_log(&["gen=2 ", "starting -> up"]);
}
