//! What tests of a file of services need: short words for its text, programs that it runs, and
//! looks at services by their names.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use osps_heart::Heart;
use osps_heart::segment::{Record, Segment, text};
use osps_heart::time::Monotonic;
use osps_heart::words::{Event, State};

use super::{AS_PROGRAM, BINARY, Guest, Osps, SOON, events, ms, run};
use super::{try_notify_socket, wait_until};

/// What this test binary does as a program of a service.
pub const PART: &str = "OSPS_TEST_PART";

/// What a short word stands for in a file of services.
fn short(part: &str, heart: &str) -> String {
    format!("command = [@THIS@]\nenv = {{ {PART} = \"{part}\" }}\nheart = \"{heart}\"")
}

/// An event loop in the main thread, which that of a test binary is not.
const LOOP: &str = r#"command = ["python3", "-c", "import select\nwhile True: select.poll().poll(20)"]
heart = "loop""#;

/// The first inherited socket becomes standard input: no number of a descriptor has to be believed.
const SERVE: &str = r#"command = ["sh", "-c", "exec \"$@\" <&3 3<&-", "sh", @THIS@]
env = { OSPS_TEST_PART = "serve" }
heart = "memory""#;

/// A text with its short words spelled out.
///
/// `@DIR@` is the test's directory, `@THIS@` the words of this binary's command. `@BEAT@`, `@SLOW@`,
/// `@NOTIFY@`, `@LOOP@`, `@SERVE@` and `@SLEEP@` are a command with its heart, on lines of their own.
pub fn expand(text: &str, dir: &Path) -> String {
    let exe = std::env::current_exe().unwrap();
    let words: Vec<_> = [exe.to_str().unwrap()].into_iter().chain(AS_PROGRAM).collect();
    text.replace("@BEAT@", &short("beat", "memory"))
        .replace("@SLOW@", &short("slow", "memory"))
        .replace("@NOTIFY@", &short("notify", "notify"))
        .replace("@LOOP@", LOOP)
        .replace("@SERVE@", SERVE)
        .replace("@SLEEP@", "command = [\"sleep\", \"1000\"]\nheart = \"none\"")
        .replace("@THIS@", format!("{words:?}").trim_matches(['[', ']']))
        .replace("@DIR@", dir.to_str().unwrap())
}

/// What a test binary does when osps starts it: the body of its `as_program`.
pub fn act() {
    let Ok(part) = std::env::var(PART) else { return };
    match &*part {
        "beat" => beat(Duration::ZERO),
        // It takes its time, to come and to go.
        "slow" => beat(ms(300)),
        "serve" => serve(),
        "notify" => notify(),
        _ => panic!("{part}"),
    }
}

fn beat(pause: Duration) {
    std::thread::sleep(pause);
    let mut heart = Heart::from_env().unwrap();
    while !heart.should_stop() {
        heart.beat();
        std::thread::sleep(ms(20));
    }
    std::thread::sleep(pause);
    // What the test harness would say at the end is nobody's affair.
    std::process::exit(0);
}

/// Beats over its socket, found by its name each time as by `sd_notify`: the next watchdog has
/// another one.
fn notify() {
    let address = std::env::var_os("NOTIFY_SOCKET").unwrap();
    let mut said = "READY=1\nWATCHDOG=1";
    loop {
        let sent = try_notify_socket(&address).and_then(|socket| socket.send(said.as_bytes()));
        said = if sent.is_ok() { "WATCHDOG=1" } else { said };
        std::thread::sleep(ms(20));
    }
}

/// Answers each client of the socket that is its standard input with its pid, and leaves when it is told to.
fn serve() {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = writeln!(client, "{}", std::process::id());
        }
    });
    beat(Duration::ZERO);
}

/// What a server of [`serve`]'s kind answers; an error is told.
pub fn who_serves(address: SocketAddr) -> Result<u32, std::io::Error> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.trim_end().parse().map_err(std::io::Error::other)
}

/// Where a service stands in a segment.
pub fn slot_in(segment: &Segment, name: &str) -> Option<usize> {
    segment.slots().iter().position(|slot| text::load(&slot.server.name) == name)
}

/// The happenings of a slot, of one kind.
pub fn of(segment: &Segment, slot: usize, event: Event) -> Vec<Record> {
    let here = |record: &Record| record.slot.is_some_and(|at| at.index() == slot);
    let mut found = events(segment);
    found.retain(|record| here(record) && record.what.event() == event);
    found
}

/// The state of a service; `None` = there is no such service.
pub fn state_of(osps: &Osps, name: &str) -> Option<State> {
    slot_in(&osps.segment(), name).and_then(|slot| osps.state(slot))
}

/// Somebody who waits for an answer.
pub struct Asking(Guest);

impl Asking {
    /// How that ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until("the answer", SOON, || self.ended())
    }

    /// The same, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.0.try_wait().unwrap()
    }
}

impl Osps {
    /// The slot of a service, waiting for it.
    pub fn slot(&self, name: &str) -> usize {
        self.wait(&format!("a service {name}"), || slot_in(&self.segment(), name))
    }

    /// Waits until a service is in a state.
    pub fn wait_state(&self, name: &str, state: State) {
        self.wait(&format!("{name} {state}"), || {
            (state_of(self, name) == Some(state)).then_some(())
        });
    }

    pub fn wait_up(&self, names: &[&str]) {
        for name in names {
            self.wait_state(name, State::Up);
        }
    }

    /// The happenings of a service, of one kind.
    pub fn happened(&self, name: &str, event: Event) -> Vec<Record> {
        of(&self.segment(), self.slot(name), event)
    }

    /// Waits until something has happened to a service so often; returns the last of these.
    pub fn wait_happened(&self, name: &str, event: Event, times: usize) -> Record {
        self.wait(&format!("{name} {event} for the {times}. time"), || {
            self.happened(name, event).get(times - 1).copied()
        })
    }

    /// Which process a service has, and how many it has had: the same when nobody touched it.
    pub fn life(&self, name: &str) -> (u32, u32) {
        let slot = self.slot(name);
        (self.pid(slot), self.generation(slot))
    }

    /// Waits until a service has beaten from now on.
    pub fn wait_beats(&self, name: &str) {
        let (segment, slot) = (self.segment(), self.slot(name));
        let before = segment.hearts()[slot].sample().count;
        self.wait(&format!("{name} beats"), || {
            (segment.hearts()[slot].sample().count > before + 2).then_some(())
        });
    }

    /// Asks for something; exit code and everything that was said.
    pub fn ask_for(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--run-dir").arg(self.run_dir()).env_remove("RUST_LOG");
        let output = run(command);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// Asks for something, and does not wait for the answer.
    pub fn begin_ask(&self, words: &[&str]) -> Asking {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--run-dir").arg(self.run_dir()).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Asking(Guest(command.spawn().unwrap()))
    }

    /// The same as [`Osps::ask_for`]; it has to be done.
    #[track_caller]
    pub fn do_ask(&self, words: &[&str]) -> String {
        let (code, said) = self.ask_for(words);
        assert_eq!(code, 0, "{words:?}: {said}\n{}", self.log());
        said
    }

    /// What `osps status --json` says of a service.
    pub fn service(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let servers = status["servers"].as_array().unwrap();
        let found = servers.iter().find(|server| server["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {status}")).clone()
    }

    /// Waits until a file in the test's directory has this many lines, and returns its text.
    pub fn wait_lines(&self, file: &str, count: usize) -> String {
        let path = self.dir().join(file);
        self.wait(&format!("{count} lines in {file}"), || {
            let text = std::fs::read_to_string(&path).ok()?;
            (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
        })
    }

    /// The moment at which something happened to a service first.
    pub fn moment(&self, name: &str, event: Event) -> Monotonic {
        self.wait_happened(name, event, 1).time
    }
}
