//! Goal: a service manager above osps is told that it runs, how all are, that it turns, and that it
//! stops; the unit file that we hand out is one that systemd takes.
//!
//! Method: a socket of our own in the place of the manager's; `systemd-analyze verify`.
//!
//! What it cannot show: systemd itself at work, which this needs a session of its own for.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use common::{BINARY, Launch, SOON, Signal, has, ms, now, pass, run, skip, text, wait_until};

/// The socket of a manager, and what came so far.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(launch: &Launch) -> (Manager, std::path::PathBuf) {
        let path = launch.dir().join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Manager { socket, heard: Vec::new() }, path)
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
            self.heard.extend(text.lines().map(str::to_owned));
        }
    }

    fn wait(&mut self, line: &str) {
        wait_until(line, SOON, || {
            self.listen();
            self.heard.iter().any(|heard| heard == line).then_some(())
        });
    }

    /// How often it heard since the last time that osps turns.
    fn turns(&mut self) -> usize {
        self.listen();
        let turns = self.heard.iter().filter(|line| *line == "WATCHDOG=1").count();
        self.heard.clear();
        turns
    }
}

#[test]
fn a_manager_hears_that_it_runs_how_all_are_that_it_turns_and_that_it_stops() {
    let launch = Launch::pair(&["--hang-timeout", "1s"]);
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "400000").spawn();
    manager.wait("READY=1");
    manager.wait(&format!("MAINPID={}", osps.watchdog_pid()));
    manager.wait("STATUS=2 of 2 up");
    // A quarter of its patience: ten a second, few in a second of a loaded machine.
    manager.turns();
    pass(ms(1000));
    let turns = manager.turns();
    assert!((3..=13).contains(&turns), "{turns} times in a second");
    // A server that is frozen does not make osps look so.
    let server = osps.process(1);
    osps.stop_process(&server);
    manager.wait("STATUS=1 of 2 up: secondary-1 is late");
    manager.wait("STATUS=2 of 2 up");
    osps.signal_watchdog(Signal::STOP);
    pass(ms(200));
    manager.turns();
    pass(ms(600));
    assert_eq!(manager.turns(), 0, "it hangs, and nobody says otherwise");
    osps.signal_watchdog(Signal::CONT);
    manager.wait("WATCHDOG=1");
    osps.stop();
    manager.wait("STOPPING=1");
}

/// The manager's watchdog is for another process: a shell that started osps, for one.
#[test]
fn another_ones_watchdog_is_left_alone_and_a_deaf_manager_holds_up_nobody() {
    let launch = Launch::pair(&[]);
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch
        .env("NOTIFY_SOCKET", path)
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .spawn();
    manager.wait("READY=1");
    pass(ms(500));
    assert_eq!(manager.turns(), 0);
    let launch = Launch::pair(&[]);
    let (deaf, path) = Manager::at(&launch);
    let mut other = launch.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "8000").start();
    // Its queue of ten is full by now.
    pass(ms(300));
    let start = now();
    let old = other.generation(1);
    other.signal(&other.process(1), Signal::KILL);
    other.wait_successor(1, old);
    assert!(now().since(start) < ms(2000));
    other.stop();
    drop(deaf);
    osps.stop();
}

#[test]
fn the_unit_file_is_one_that_systemd_takes() {
    if !has("systemd-analyze") {
        return skip("systemd-analyze");
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/osps.service");
    let unit = fs::read_to_string(unit).unwrap();
    // Where this one lies, and a user that is here.
    let here = unit.replace("/usr/local/bin/osps", BINARY).replace("User=osps", "User=root");
    assert_ne!(here, unit);
    let path = dir.path().join("osps.service");
    fs::write(&path, here).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&path);
    let output = run(verify);
    let said = text(&output);
    assert!(output.status.success() && !said.contains("osps.service"), "{said}");
}
