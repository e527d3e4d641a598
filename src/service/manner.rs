//! How a program of the user's is watched and ended, beside its command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use osps_heart::words::HeartSource;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who beats for a service, as its user said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartChoice {
    /// The source.
    pub source: HeartSource,
    /// The whole of what was said: it names the file or the probe.
    pub text: OsString,
    /// The only name of a process that may beat from its event loop.
    pub process: Option<String>,
}

impl HeartChoice {
    /// What may be said.
    pub const KNOWN: &str = "known are auto, memory, notify, loop, loops, none, file:PATH, \
                             probe:http://HOST:PORT/PATH, probe:tcp://HOST:PORT and probe:COMMAND";

    /// A source that needs no more than its word.
    pub fn of(source: HeartSource) -> HeartChoice {
        HeartChoice { source, text: source.word().into(), process: None }
    }

    /// The source that a text names: one of the words, `file:PATH` or `probe:TARGET`.
    pub fn parse(text: &OsStr) -> Option<HeartChoice> {
        let bytes = text.as_bytes();
        let named =
            |prefix: &str| bytes.len() > prefix.len() && bytes.starts_with(prefix.as_bytes());
        let source = if named("file:") {
            HeartSource::File
        } else if named("probe:") {
            HeartSource::Probe
        } else {
            let is_word = |source: &HeartSource| source.word().as_bytes() == bytes;
            let alone = |source: &HeartSource| {
                !matches!(source, HeartSource::File | HeartSource::Probe) && is_word(source)
            };
            HeartSource::ALL.into_iter().find(alone)?
        };
        Some(HeartChoice { source, text: text.to_owned(), process: None })
    }

    /// Whether beats come from inside an event loop that nobody taught to beat.
    pub fn is_looped(&self) -> bool {
        matches!(self.source, HeartSource::Loop | HeartSource::Loops)
    }
}

/// Its text and the name of its process: the text says the source.
impl Serialize for HeartChoice {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (&self.text, &self.process).serialize(to)
    }
}

impl<'de> Deserialize<'de> for HeartChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<HeartChoice, D::Error> {
        let (text, process) = <(OsString, Option<String>)>::deserialize(from)?;
        let heart = HeartChoice::parse(&text);
        let heart = heart.ok_or_else(|| serde::de::Error::custom("no source of a heart"))?;
        Ok(HeartChoice { process, ..heart })
    }
}

/// What is ended with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum KillMode {
    /// Everything that it started, whatever session it moved to.
    Tree,
    /// Its process group; what it put elsewhere on purpose survives.
    Group,
}

/// How a program of the user's is watched and ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manner {
    /// Who beats for it.
    pub heart: HeartChoice,
    /// A freeze is told, and not acted on.
    pub warn: bool,
    /// What it is sent when it has to go.
    #[serde(with = "number")]
    pub stop_signal: Signal,
    /// What is ended with it.
    pub kill_mode: KillMode,
    /// Whether its stacks are taken when it has to go.
    #[serde(default)]
    pub stacks: StackChoice,
}

/// Whether the stacks of a program are taken before it is killed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackChoice {
    /// They are.
    pub wanted: bool,
    /// By this command of the user's; empty = by what is installed.
    pub command: Vec<OsString>,
    /// The kill waits no longer than this.
    pub limit: Duration,
}

impl Default for StackChoice {
    fn default() -> StackChoice {
        StackChoice { wanted: false, command: Vec::new(), limit: Duration::from_secs(2) }
    }
}

impl StackChoice {
    /// As its user said it: a command alone says that stacks are wanted.
    pub fn new(
        wanted: Option<bool>,
        command: Option<Vec<OsString>>,
        limit: Option<Duration>,
    ) -> StackChoice {
        let command = command.unwrap_or_default();
        let limit = limit.unwrap_or(StackChoice::default().limit);
        StackChoice { wanted: wanted.unwrap_or(!command.is_empty()), command, limit }
    }
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            heart: HeartChoice::of(HeartSource::Auto),
            warn: false,
            stop_signal: Signal::SIGTERM,
            kill_mode: KillMode::Tree,
            stacks: StackChoice::default(),
        }
    }
}

impl Manner {
    /// Of a server of osps's own: it beats by itself.
    pub fn built_in() -> Manner {
        Manner { heart: HeartChoice::of(HeartSource::Memory), ..Manner::default() }
    }

    /// The stop signal as system calls want it.
    pub fn stop(&self) -> rustix::process::Signal {
        raw(self.stop_signal).unwrap_or(rustix::process::Signal::TERM)
    }

    /// Its name without `SIG`, as people write it.
    pub fn stop_word(&self) -> &'static str {
        word(self.stop_signal)
    }
}

/// A signal as system calls want it.
pub fn raw(signal: Signal) -> Option<rustix::process::Signal> {
    rustix::process::Signal::from_named_raw(signal as i32)
}

/// The name of a signal without `SIG`, as people write it.
pub fn word(signal: Signal) -> &'static str {
    let name = signal.as_str();
    name.strip_prefix("SIG").unwrap_or(name)
}

/// The signal that a text names: `TERM`, `SIGTERM`, `term` or `15`.
pub fn signal(text: &str) -> Option<Signal> {
    let number = text.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    number.or_else(|| name.parse().ok())
}

/// Signals travel as their numbers.
pub(super) mod number {
    use nix::sys::signal::Signal;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    pub(crate) fn serialize<S: Serializer>(signal: &Signal, to: S) -> Result<S::Ok, S::Error> {
        (*signal as i32).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signal, D::Error> {
        let number = i32::deserialize(from)?;
        Signal::try_from(number).map_err(|_| serde::de::Error::custom("no signal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_is_one_of_the_words_or_names_a_file_or_a_probe() {
        let parsed = |text: &str| HeartChoice::parse(text.as_ref()).map(|heart| heart.source);
        for source in HeartSource::ALL {
            let needs_more = matches!(source, HeartSource::File | HeartSource::Probe);
            assert_eq!(parsed(source.word()), (!needs_more).then_some(source));
        }
        assert_eq!(parsed("file:/x"), Some(HeartSource::File));
        assert_eq!(parsed("probe:http://127.0.0.1:80/"), Some(HeartSource::Probe));
        for text in ["", "file:", "probe:", "Loop", "loop ", "fil:/x"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_signal_has_many_spellings() {
        for text in ["15", "TERM", "SIGTERM", "term", "sigterm"] {
            assert_eq!(signal(text), Some(Signal::SIGTERM), "{text}");
        }
        for text in ["", "0", "99", "SIG", "TERMS", "-1"] {
            assert_eq!(signal(text), None, "{text}");
        }
    }
}
