//! A service: one supervised program, as the watchdog knows it. What it is for, nobody here knows.
//!
//! Whoever plans an instance makes a list of these; position in the list is the slot. The pair is
//! such a list (`pair::plan`), a program of the user's one entry.

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::sys::signal::Signal;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::Limits;
use osps_heart::shown::Shown;
use osps_heart::words::{HeartSource, Role};

use crate::error::{Error, Refusal};
use crate::policy::graph::Edges;
use crate::policy::group::{Spec, Watch};
use crate::policy::lifecycle::Patience;
use crate::program::{self, Unloadable};
use crate::sys::fifo::Fifo;
use crate::sys::{Failed, socket};

/// Most bytes of a name: the room in the segment.
pub const NAME_MAX: usize = 32;
/// Bytes of a wake-up.
pub const WAKE_SIZE: usize = 64;

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

/// What is ended with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KillMode {
    /// Everything that it started, whatever session it moved to.
    Tree,
    /// Its process group; what it put elsewhere on purpose survives.
    Group,
}

/// How a program of the user's is run, beside its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Who beats for it.
    pub heart: HeartChoice,
    /// A freeze is told, and not acted on.
    pub warn: bool,
    /// What it is sent when it has to go.
    pub stop_signal: Signal,
    /// What is ended with it.
    pub kill_mode: KillMode,
}

impl Default for Manner {
    fn default() -> Manner {
        let source = HeartSource::Auto;
        Manner {
            heart: HeartChoice { source, text: source.word().into(), process: None },
            warn: false,
            stop_signal: Signal::SIGTERM,
            kill_mode: KillMode::Tree,
        }
    }
}

impl Manner {
    /// The signal as system calls want it.
    pub fn stop(&self) -> rustix::process::Signal {
        let named = rustix::process::Signal::from_named_raw(self.stop_signal as i32);
        named.unwrap_or(rustix::process::Signal::TERM)
    }

    /// Its name without `SIG`, as people write it.
    pub fn stop_word(&self) -> &'static str {
        let name = self.stop_signal.as_str();
        name.strip_prefix("SIG").unwrap_or(name)
    }

    /// Of a server of osps's own: it beats by itself.
    pub fn built_in() -> Manner {
        let source = HeartSource::Memory;
        let heart = HeartChoice { source, text: source.word().into(), process: None };
        Manner { heart, ..Manner::default() }
    }
}

/// One supervised program, and what the watchdog holds for it.
#[derive(Debug)]
pub struct Service {
    /// What it is called everywhere.
    pub name: String,
    /// What it is for, for those who read the segment.
    pub role: Role,
    /// Program and arguments; empty = a server of osps's own.
    pub command: Vec<OsString>,
    /// The listening socket that it inherits, again and again.
    pub socket: Option<TcpListener>,
    /// Silence that convicts, before and after the first beat.
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
    /// Who beats for it, and how it is ended.
    pub manner: Manner,
    /// What it needs of others.
    pub edges: Edges,
    /// Whether it decides who owns the data area.
    pub arbiter: bool,
    /// How to make it look at the segment now.
    pub wake: Option<Wake>,
    /// FIFOs that a server of osps's own gets, in the order that it expects. Held open for the
    /// instance's life: what is in flight in them outlives a server, and a name that vanishes
    /// matters to nobody.
    pub fifos: Vec<Arc<Fifo>>,
}

/// A way to wake a server up, so that it looks at the segment now and not at its next beat.
#[derive(Debug)]
pub struct Wake {
    /// The FIFO that it reads.
    pub fifo: Arc<Fifo>,
    /// The bytes that mean "look" to the server of this slot and generation.
    pub bytes: fn(SlotId, Generation) -> [u8; WAKE_SIZE],
}

impl Wake {
    /// Wakes it. Only a hint: a frozen server does not read it, a full pipe does not take it, and
    /// nothing is lost.
    pub fn send(&self, slot: SlotId, generation: Generation) -> Result<(), Failed> {
        self.fifo.send(&(self.bytes)(slot, generation)).map(drop)
    }
}

impl Service {
    /// What the policy has to know about it.
    pub fn spec(&self) -> Spec {
        Spec {
            edges: self.edges.clone(),
            limits: self.limits,
            patience: self.patience,
            watch: Watch { source: self.manner.heart.source, warn: self.manner.warn },
        }
    }

    /// A program of the user's, alone in its instance; without a name it has its program's.
    pub fn program(
        name: Option<&str>,
        command: &[OsString],
        listen: Option<SocketAddr>,
        limits: Limits,
        patience: Patience,
        manner: Manner,
    ) -> Result<Service, Error> {
        let name_of = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let found = program::find(name_of)?;
        if manner.heart.is_looped()
            && let Some((file, why)) = program::unloadable(found)
        {
            if why == Unloadable::Sanitizer {
                return Err(Refusal::Sanitized(file).into());
            }
            log::warn!(
                "{} {why}, so the shim for event loops cannot be loaded into it: unless it starts \
                 another program, choose another --heart (probe:, file:, notify)",
                Shown(&file)
            );
        }
        let name = name.map_or_else(|| program_name(name_of), str::to_owned);
        Ok(Service {
            socket: listen.map(|address| bind(address, &name)).transpose()?,
            name,
            role: Role::Program,
            command: command.to_vec(),
            limits,
            patience,
            manner,
            edges: Edges::default(),
            arbiter: true,
            wake: None,
            fifos: Vec::new(),
        })
    }
}

/// Binds the socket of a service.
pub fn bind(address: SocketAddr, name: &str) -> Result<TcpListener, Error> {
    socket::listen(address).map_err(|why| match why.answer.kind() {
        std::io::ErrorKind::AddrInUse => {
            Refusal::AddressInUse { why, name: name.to_owned() }.into()
        }
        _ => why.into(),
    })
}

/// The last part of a program's path names its slot, as much of it as there is room for.
fn program_name(program: &OsStr) -> String {
    let name = program.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_end = |end: &usize| name.get(*end).is_none_or(|byte| byte & 0xc0 != 0x80);
    let shown = |end| Shown(OsStr::from_bytes(&name[..end])).to_string();
    let mut ends = (1..=name.len()).rev().filter(is_end).map(shown);
    ends.find(|shown| shown.len() <= NAME_MAX).unwrap_or_else(|| "program".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use osps_heart::segment::layout::{HeartCells, ServerCells};

    #[test]
    fn a_name_has_room_in_the_segment() {
        fn room<T, F>(_: fn(&T) -> &F) -> usize {
            size_of::<F>()
        }
        assert_eq!(room(|server: &ServerCells| &server.name), NAME_MAX);
        assert_eq!(room(|heart: &HeartCells| &heart.name), NAME_MAX);
    }

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
    fn a_slot_is_named_after_its_program() {
        for (program, expected) in [
            (&b"robot"[..], "robot"),
            (b"./robot", "robot"),
            (b"/usr/bin/python3.11", "python3.11"),
            (b"", "program"),
            (b"/", "program"),
            (b"./caf\xe9", r"caf\xe9"),
            ("./caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"a-name-of-more-than-thirty-two-bytes", "a-name-of-more-than-thirty-two-b"),
            // Neither a character nor an escape is cut in half.
            ("a-name-of-just-thirty-one-bytes\u{e9}".as_bytes(), "a-name-of-just-thirty-one-bytes"),
            (b"a-name-of-just-thirty-one-bytes\xe9", "a-name-of-just-thirty-one-bytes"),
        ] {
            assert_eq!(program_name(OsStr::from_bytes(program)), expected);
        }
    }
}
