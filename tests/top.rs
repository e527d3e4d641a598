//! `osps top` in a terminal of its own.
//!
//! Goal: it shows what is, asks for what was confirmed, and gives the terminal back whatever ends
//! it. Method: the real binary on one side of a pty, this test on the other; what it writes is put
//! on a small screen of our own, which knows the few sequences that it uses. It cannot show how
//! that looks to people, nor what terminals other than the kernel's pty do.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test's log")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::osps::sys::{process::Process, procfs};
use osps_heart::words::State;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

mod common;
use common::*;

#[test]
#[ignore = "not a test: the supervised program of these tests"]
fn as_program() {
    services::act();
}

/// What a terminal would show, from the sequences that are used.
#[derive(Default)]
struct Shown {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    /// On the other screen.
    alternate: bool,
    hidden: bool,
    rest: Vec<u8>,
    /// Bytes so far.
    bytes: usize,
}

impl Shown {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.rest.extend_from_slice(bytes);
        while let Some(used) = self.step() {
            self.rest.drain(..used);
        }
    }

    /// Takes one character or sequence; `None` = it is not whole yet.
    fn step(&mut self) -> Option<usize> {
        let bytes = self.rest.clone();
        match bytes.first()? {
            0x1b => {
                assert_eq!(*bytes.get(1)?, b'[', "{}", bytes.escape_ascii());
                let end = bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte))? + 2;
                let text = std::str::from_utf8(&bytes[2..end]).unwrap();
                self.sequence(text, bytes[end]);
                Some(end + 1)
            }
            0x18 | b'\r' | b'\n' => Some(1),
            byte => {
                assert!(*byte >= 0x20 && *byte != 0x7f, "a control character: {byte:#x}");
                let wanted = match byte {
                    0..0x80 => 1,
                    0x80..0xe0 => 2,
                    0xe0..0xf0 => 3,
                    _ => 4,
                };
                let text = std::str::from_utf8(bytes.get(..wanted)?).expect("UTF-8");
                let (x, y) = self.at;
                while self.rows.len() <= y {
                    self.rows.push(Vec::new());
                }
                let row = &mut self.rows[y];
                while row.len() <= x {
                    row.push(' ');
                }
                row[x] = text.chars().next().unwrap();
                self.at.0 += 1;
                Some(wanted)
            }
        }
    }

    fn sequence(&mut self, text: &str, end: u8) {
        match (text, end) {
            ("?1049", b'h') => self.alternate = true,
            ("?1049", b'l') => self.alternate = false,
            ("?25", b'l') => self.hidden = true,
            ("?25", b'h') => self.hidden = false,
            ("2", b'J') => self.rows.clear(),
            (_, b'H') => {
                let mut numbers = text.split(';').map(|number| number.parse::<usize>().unwrap());
                let (y, x) = (numbers.next().unwrap(), numbers.next().unwrap());
                self.at = (x - 1, y - 1);
            }
            (_, b'm') => {}
            _ => panic!("what is {text}{}", end as char),
        }
    }

    fn text(&self) -> String {
        self.rows.iter().map(|row| row.iter().collect::<String>() + "\n").collect()
    }
}

/// A pty with somebody on it.
struct Terminal {
    near: File,
    far: Option<OwnedFd>,
    shown: Arc<Mutex<Shown>>,
    child: Child,
    before: Termios,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Both ends of a new one.
fn open_pty(columns: u16, rows: u16) -> (OwnedFd, OwnedFd) {
    use rustix::fs::{Mode, OFlags};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let near = openpt(flags).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let path = ptsname(&near, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let far = rustix::fs::open(&*path, flags, Mode::empty()).unwrap();
    tcsetwinsize(&near, size(columns, rows)).unwrap();
    (near, far)
}

impl Terminal {
    fn start(mut command: Command, columns: u16, rows: u16) -> Terminal {
        let (near, far) = open_pty(columns, rows);
        let before = tcgetattr(&far).unwrap();
        let end = || Stdio::from(far.try_clone().unwrap());
        command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (mut reader, sink) = (File::from(near.try_clone().unwrap()), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = reader.read(&mut bytes) {
                sink.lock().unwrap().take(&bytes[..length]);
            }
        });
        Terminal { near: near.into(), far: Some(far), shown, child, before }
    }

    fn top(osps: &Osps) -> Terminal {
        Terminal::start(top(osps), 80, 24)
    }

    fn text(&self) -> String {
        self.shown.lock().unwrap().text()
    }

    /// Waits until the screen says so.
    fn until(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        wait_until(what, SOON, || {
            let text = self.text();
            // A look at what was there if it takes too long.
            let is_it = is_it(&text);
            if !is_it {
                *LAST.lock().unwrap() = text;
            }
            is_it.then_some(())
        });
    }

    fn shows(&self, text: &str) {
        self.until(text, |shown| shown.contains(text));
    }

    fn type_in(&mut self, text: &str) {
        self.near.write_all(text.as_bytes()).unwrap();
    }

    fn process(&self) -> Process {
        process_of(self.child.id()).unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        wait_until("the end of osps top", SOON, || self.child.try_wait().unwrap())
    }

    /// The terminal is as it was found.
    fn is_restored(&self) {
        wait_until("the usual screen", SOON, || {
            let shown = self.shown.lock().unwrap();
            (!shown.alternate && !shown.hidden).then_some(())
        });
        let after = tcgetattr(self.far.as_ref().unwrap()).unwrap();
        assert_eq!(format!("{after:?}"), format!("{:?}", self.before));
    }

    fn is_taken(&self) -> bool {
        let now = tcgetattr(self.far.as_ref().unwrap()).unwrap();
        let shown = self.shown.lock().unwrap();
        shown.alternate && !now.local_modes.contains(LocalModes::ICANON)
    }
}

/// What a terminal showed when something was not there.
static LAST: Mutex<String> = Mutex::new(String::new());

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen:\n{}", LAST.lock().unwrap());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn top(osps: &Osps) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["top", "--run-dir"]).arg(osps.run_dir());
    command
}

fn pair() -> Osps {
    Launch::pair(&["--hang-timeout", "1s"]).start()
}

#[test]
fn every_way_out_gives_the_terminal_back() {
    let osps = pair();
    for way in ["q", "\x1b", "\x03"] {
        let mut terminal = Terminal::top(&osps);
        terminal.shows("primary");
        assert!(terminal.is_taken());
        terminal.type_in(way);
        assert!(terminal.end().success(), "{way:?}");
        terminal.is_restored();
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut terminal = Terminal::top(&osps);
        terminal.shows("primary");
        terminal.process().signal(signal).unwrap();
        assert!(terminal.end().success(), "{signal:?}");
        terminal.is_restored();
    }
}

/// A terminal that is closed. No signal says so, since it is nobody's controlling one.
#[test]
fn a_terminal_that_is_gone_ends_it() {
    let osps = pair();
    let (near, far) = open_pty(80, 24);
    let mut command = top(&osps);
    let end = || Stdio::from(far.try_clone().unwrap());
    command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(Stdio::null());
    let mut child = Guest(command.spawn().unwrap());
    let mut near = File::from(near);
    assert!(near.read(&mut [0; 64]).unwrap() > 0);
    drop((near, far, command));
    wait_until("the end", SOON, || child.0.try_wait().unwrap());
}

#[test]
fn a_stop_gives_it_back_and_a_continuation_takes_it_again() {
    let osps = pair();
    let mut command = top(&osps);
    // A process group that is not orphaned: what stops it may be continued by its parent.
    command.process_group(0);
    let mut terminal = Terminal::start(command, 80, 24);
    terminal.shows("primary");
    for stop in [true, false] {
        if stop {
            terminal.process().signal(Signal::TSTP).unwrap();
        } else {
            terminal.type_in("\x1a");
        }
        let pid = terminal.child.id();
        wait_until("a stop", SOON, || (procfs::state(pid) == Some('T')).then_some(()));
        terminal.is_restored();
        terminal.process().signal(Signal::CONT).unwrap();
        wait_until("the terminal", SOON, || terminal.is_taken().then_some(()));
        terminal.shows("primary");
    }
    terminal.type_in("q");
    assert!(terminal.end().success());
    terminal.is_restored();
}

#[test]
fn a_freeze_is_seen_and_told_in_the_words_of_the_log() {
    let osps = Launch::pair(&["--hang-timeout", "4s"]).start();
    let mut terminal = Terminal::start(top(&osps), 140, 40);
    terminal.shows("▶ primary");
    terminal.type_in("j");
    terminal.shows("▶ secondary-1");
    terminal.until("a beating heart", |text| text.contains("▇▇▇"));
    osps.signal(&osps.process(SECONDARY), Signal::STOP);
    terminal.until("a flat line", |text| {
        text.lines().any(|line| line.contains("secondary-1") && line.contains("▁▁ "))
    });
    terminal.shows("-> frozen (stopped; no beat for 4.");
    terminal.shows("last: frozen (stopped)");
    // The report that was kept, in its sentence.
    terminal.shows("report   1: secondary-1 was frozen for");
    terminal.until("the mark of a restart", |text| text.contains('╳'));
}

#[test]
fn what_was_confirmed_is_done_and_answered() {
    let osps = Launch::up("[service.web]\n@BEAT@\n").spawn();
    osps.wait_up(&["web"]);
    let mut terminal = Terminal::start(top(&osps), 100, 24);
    terminal.shows("web");
    let first = osps.pid(0);
    terminal.type_in("r");
    terminal.shows("Restart web?");
    terminal.type_in("n");
    terminal.until("no question", |text| !text.contains("Restart web?"));
    terminal.type_in("r");
    terminal.shows("Restart web?");
    terminal.type_in("y");
    osps.wait_successor(0, first);
    terminal.shows("restart web: restarted");
    terminal.type_in("s");
    terminal.shows("Stop web?");
    terminal.type_in("y");
    osps.wait("down", || osps.is_state(0, State::Down).then_some(()));
    terminal.shows("1 down");
    terminal.shows("stop web: stopped");
    terminal.type_in("s");
    terminal.shows("Start web?");
    terminal.type_in("y");
    osps.wait("up", || osps.is_state(0, State::Up).then_some(()));
    terminal.shows("start web: up");
    terminal.type_in("p");
    terminal.shows("Pause web for 10m?");
    terminal.type_in("y");
    terminal.shows("paused for");
    assert!(terminal.child.try_wait().unwrap().is_none());
}

/// The watchdog is frozen, killed, and there again: each is said, and an answer that cannot come
/// holds up nothing.
#[test]
fn it_goes_on_beside_a_frozen_a_dead_and_a_new_watchdog() {
    let mut osps = pair();
    let mut terminal = Terminal::top(&osps);
    terminal.shows("all up");
    osps.signal_watchdog(Signal::STOP);
    terminal.shows("FROZEN");
    terminal.shows("kill -CONT");
    terminal.type_in("r");
    terminal.shows("Restart primary?");
    terminal.type_in("y");
    terminal.type_in("?");
    terminal.shows("this help");
    terminal.type_in("?");
    terminal.shows("is frozen");
    osps.kill_watchdog();
    terminal.shows("start osps again");
    osps.start_again();
    terminal.shows("all up");
}

#[test]
fn any_size_will_do() {
    let osps = pair();
    let mut terminal = Terminal::top(&osps);
    terminal.shows("primary");
    for (columns, rows) in [(1, 1), (2, 30), (200, 2), (20, 5), (132, 50)] {
        let before = terminal.shown.lock().unwrap().bytes;
        tcsetwinsize(&terminal.near, size(columns, rows)).unwrap();
        terminal.process().signal(Signal::WINCH).unwrap();
        wait_until("a frame", SOON, || {
            (terminal.shown.lock().unwrap().bytes > before).then_some(())
        });
        terminal.type_in("j\r?\x1bk");
    }
    terminal.shows("2 servers");
    terminal.type_in("\x03");
    assert!(terminal.end().success());
    terminal.is_restored();
}

#[test]
fn without_a_terminal_it_is_the_status() {
    let osps = pair();
    for arguments in [&[][..], &["--once"], &["--plain"]] {
        let mut command = top(&osps);
        command.args(arguments);
        let output = run(command);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.ends_with("all up\n"), "{}", text(&output));
        assert!(!told.contains('\x1b'), "{told}");
    }
    let mut nowhere = Command::new(BINARY);
    nowhere.args(["top", "--run-dir", "/dev/shm/there-is-no-such"]);
    assert_eq!(run(nowhere).status.code(), Some(3));
    let mut command = Command::new(BINARY);
    command.args(["top", "--run-dir", "/dev/shm/there-is-no-such"]);
    assert_eq!(Terminal::start(command, 80, 24).end().code(), Some(3));
}

/// Four looks a second at a terminal that takes nothing: signals are heard all the same.
#[test]
fn a_terminal_that_stands_still_holds_up_no_signal() {
    let osps = pair();
    let mut terminal = Terminal::top(&osps);
    terminal.shows("primary");
    rustix::termios::tcflow(terminal.far.as_ref().unwrap(), rustix::termios::Action::OOff).unwrap();
    pass(Duration::from_secs(1));
    terminal.process().signal(Signal::TERM).unwrap();
    assert!(terminal.end().success());
    rustix::termios::tcflow(terminal.far.as_ref().unwrap(), rustix::termios::Action::OOn).unwrap();
}
