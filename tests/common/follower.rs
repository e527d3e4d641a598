//! Somebody who follows: a command that goes on printing lines.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::{BINARY, Guest, Osps, SOON, wait_until};

/// A command that follows, and what it printed so far.
pub struct Follower {
    pub guest: Guest,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    pub fn of(osps: &Osps, words: &[&str]) -> Follower {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--run-dir").arg(osps.run_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).env_remove("RUST_LOG");
        let mut guest = Guest(command.spawn().unwrap());
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (sink, stdout) = (Arc::clone(&lines), guest.0.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Follower { guest, lines }
    }

    /// What it printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line.
    pub fn wait(&self, line: &str) {
        self.wait_for(line, |known| known == line);
    }

    /// The first line that is like this, waiting for it.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        wait_until(&format!("{what:?} in {:?}", self.lines), SOON, || {
            self.lines().into_iter().find(|known| is_it(known))
        })
    }

    /// How often it printed a line.
    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|known| *known == line).count()
    }
}
