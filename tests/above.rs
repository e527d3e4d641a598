//! Goal: a service manager above osps is told that it runs, how all are, that it turns, and that it
//! stops; the sockets that it keeps are those on which somebody listens, and go on where osps and
//! the program were killed at once; the unit file that we hand out is one that systemd takes.
//!
//! Method: a socket of our own in the place of the manager's, and what came over it in the place of
//! its store; `systemd-analyze verify`.
//!
//! What it cannot show: systemd itself at work (tests/systemd.rs).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use osps::sys::process::Process;
use osps_heart::words::State;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use common::services::{act, who_serves};
use common::{
    BINARY, Launch, Osps, SOON, Signal, free_port, has, ms, now, pass, run, skip, text, wait_until,
};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

/// The socket of a manager, and what came so far.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
    /// What it was given to keep, by name.
    store: Vec<(String, OwnedFd)>,
}

impl Manager {
    fn at(launch: &Launch) -> (Manager, std::path::PathBuf) {
        let path = launch.dir().join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Manager { socket, heard: Vec::new(), store: Vec::new() }, path)
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let (mut slices, flags) = ([IoSliceMut::new(&mut bytes)], RecvFlags::CMSG_CLOEXEC);
            let Ok(message) = recvmsg(&self.socket, &mut slices, &mut control, flags) else {
                return;
            };
            let came = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let came: Vec<OwnedFd> = came.flatten().collect();
            let text = String::from_utf8(bytes[..message.bytes].to_vec()).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            let name = name.unwrap_or("stored").to_owned();
            if text.contains("FDSTOREREMOVE=1") {
                self.store.retain(|(known, _)| *known != name);
            }
            if text.contains("FDSTORE=1") {
                let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
                for fd in came {
                    // As systemd does with what it has already.
                    if !self.store.iter().any(|(_, known)| inode(known) == inode(&fd)) {
                        self.store.push((name.clone(), fd));
                    }
                }
            }
            self.heard.extend(text.lines().map(str::to_owned));
        }
    }

    /// Waits until it keeps what has these names and nothing else.
    fn wait_stored(&mut self, names: &[String]) {
        wait_until(&format!("{names:?} and no others in the store"), SOON, || {
            self.listen();
            let mut known: Vec<_> = self.store.iter().map(|(name, _)| name).collect();
            let mut wanted: Vec<_> = names.iter().collect();
            known.sort();
            wanted.sort();
            (known == wanted).then_some(())
        });
    }

    /// Starts osps again as systemd does, with all that it keeps.
    fn start_again(&self, osps: &mut Osps) {
        let open = self.store.iter().map(|(_, fd)| {
            let high = rustix::io::fcntl_dupfd_cloexec(fd, 100).unwrap();
            rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
            high
        });
        let open: Vec<OwnedFd> = open.collect();
        let (names, numbers) = (self.store.iter().map(|(name, _)| name.as_str()), 3..);
        let copies =
            open.iter().zip(numbers).map(|(fd, to)| format!("{to}<&{0} {0}<&-", fd.as_raw_fd()));
        let script = format!(
            "exec {} && export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES='{}' && exec \"$@\"",
            copies.collect::<Vec<_>>().join(" "),
            open.len(),
            names.collect::<Vec<_>>().join(":")
        );
        osps.start_again_through(&["bash", "-c", &script, "bash"]);
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

// ---- Its store ----

fn tcp(port: u16) -> String {
    format!("127.0.0.1%3A{port}")
}

/// Kills the watchdog and these at once.
fn kill(osps: &mut Osps, names: &[&str]) {
    let slots = names.iter().map(|name| osps.slot(name));
    let processes: Vec<_> = slots.map(|slot| osps.process(slot)).collect();
    osps.kill_watchdog();
    for process in &processes {
        osps.signal(process, Signal::KILL);
    }
    wait_until("their death", SOON, || processes.iter().all(Process::is_dead).then_some(()));
}

#[test]
fn where_everybody_was_killed_at_once_clients_wait_in_the_managers_store() {
    let (port, gone) = (free_port(), free_port());
    let web = format!(
        "[service.web]\n@SERVE@\nlisten = ['127.0.0.1:{port}', 'unix:@DIR@/web.sock']\n\
         instances = 2\n"
    );
    let launch = Launch::up(&format!(
        "{web}[service.gone]\nlisten = '127.0.0.1:{gone}'\ncommand = ['sh', '-c', \
         'env >@DIR@/env; exec sleep 1000']\nheart = 'none'\n"
    ));
    let unix = format!("unix%3A{}/web.sock", launch.dir().display());
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch.env("NOTIFY_SOCKET", path).env("FDSTORE", "16").spawn();
    osps.wait_up(&["web-1", "web-2", "gone"]);
    manager.wait_stored(&[tcp(port), unix.clone(), tcp(gone)]);
    let env = fs::read_to_string(osps.dir().join("env")).unwrap();
    assert!(!env.contains("FDSTORE"), "the store is the watchdog's: {env}");
    osps.write(&web);
    kill(&mut osps, &["web-1", "web-2", "gone"]);

    let address = ([127, 0, 0, 1], port).into();
    let early = TcpStream::connect(address).expect("not refused");
    UnixStream::connect(osps.dir().join("web.sock")).expect("not refused");
    manager.start_again(&mut osps);
    osps.wait_founded();
    let mut line = String::new();
    early.set_read_timeout(Some(SOON)).unwrap();
    BufReader::new(early).read_line(&mut line).unwrap();
    osps.wait_up(&["web-1", "web-2"]);
    let lives = ["web-1", "web-2"].map(|name| osps.life(name).0);
    assert!(lives.contains(&line.trim().parse().unwrap()), "{line}: {}", osps.log());
    UnixStream::connect(osps.dir().join("web.sock")).unwrap();
    // What nobody has any more is closed, and not kept any longer.
    osps.wait_log(&[&format!("a socket on 127.0.0.1:{gone} that no service has")]);
    assert_eq!(osps.log().matches("that no service has").count(), 1, "{}", osps.log());
    manager.wait_stored(&[tcp(port), unix]);
    assert!(TcpStream::connect(("127.0.0.1", gone)).is_err(), "somebody listens there");

    // Another image is the same process, and was given nothing.
    let before = osps.life("web-1");
    osps.do_ask(&["upgrade"]);
    osps.wait_log(&["upgraded: goes on with 2 of 2"]);
    assert_eq!(osps.life("web-1"), before, "{}", osps.log());
    who_serves(address).unwrap();
    osps.stop();
    // Between a stop and a start they wait as well; but to a socket whose file is gone is no way.
    manager.wait_stored(&[tcp(port)]);
}

/// The kernel had chosen the port; what was written down says whose it was.
#[test]
fn a_port_that_the_kernel_chose_comes_back_from_the_store() {
    let launch =
        Launch::up("[service.web]\n@SERVE@\nlisten = '127.0.0.1:0'\n[service.sleeper]\n@SLEEP@\n");
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch.env("NOTIFY_SOCKET", path).env("FDSTORE", "16").spawn();
    osps.wait_up(&["web", "sleeper"]);
    let (address, sleeper) = (osps.address(osps.slot("web")), osps.life("sleeper"));
    manager.wait_stored(&[tcp(address.port())]);
    kill(&mut osps, &["web"]);
    let early = TcpStream::connect(address).expect("not refused");
    manager.start_again(&mut osps);
    osps.wait_log(&["took over 1 of 2"]);
    osps.wait_up(&["web"]);
    assert_eq!(osps.address(osps.slot("web")), address);
    assert_eq!(osps.life("sleeper"), sleeper);
    let mut line = String::new();
    early.set_read_timeout(Some(SOON)).unwrap();
    BufReader::new(early).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), osps.life("web").0.to_string());
    assert!(osps.find_log(&["that no service has"]).is_none(), "{}", osps.log());
    osps.stop();
}

#[test]
fn the_store_follows_the_file_and_one_that_is_not_there_gets_nothing() {
    let ports = [free_port(), free_port(), free_port()];
    let web = |ports: &[u16]| {
        let listen: Vec<_> = ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
        format!("[service.web]\n@SLEEP@\nlisten = [{}]\n", listen.join(", "))
    };
    let launch = Launch::up(&web(&ports[..2]));
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch.env("NOTIFY_SOCKET", path).env("FDSTORE", "16").spawn();
    manager.wait_stored(&[tcp(ports[0]), tcp(ports[1])]);
    osps.wait_state("web", State::Up);
    osps.write(&web(&ports[1..]));
    osps.do_ask(&["reload"]);
    manager.wait_stored(&[tcp(ports[1]), tcp(ports[2])]);
    osps.write("[service.other]\n@SLEEP@\n");
    osps.do_ask(&["reload"]);
    manager.wait_stored(&[]);
    osps.stop();

    let launch = Launch::up(&web(&ports));
    let (mut manager, path) = Manager::at(&launch);
    let mut osps = launch.env("NOTIFY_SOCKET", path).without("FDSTORE").spawn();
    manager.wait("STATUS=1 of 1 up");
    osps.stop();
    manager.wait("STOPPING=1");
    assert!(!manager.heard.iter().any(|line| line.contains("FDSTORE")), "{:?}", manager.heard);
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
