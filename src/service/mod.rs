//! A service: one supervised program, as the watchdog knows it. What it is for, nobody here knows.
//!
//! Whoever plans an instance makes a list of these, one for each slot: the pair is such a list
//! (`pair::plan`), `osps.toml` another, a program of the user's one entry. What its process
//! receives is in `launch`, how it is watched and ended in `manner`.

pub mod diff;
pub mod launch;
pub mod manner;

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::Signal;
use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::Limits;
use osps_heart::shown::Shown;
use osps_heart::words::Role;
use serde::{Deserialize, Serialize};

pub use self::launch::{Address, Launch};
pub use self::manner::{HeartChoice, KillMode, Manner, StackChoice};
use crate::error::{Error, Refusal};
use crate::policy::graph::Edges;
use crate::policy::group::{Spec, Watch};
use crate::policy::lifecycle::Patience;
use crate::policy::restart::Rule;
use crate::program::{self, Unloadable};
use crate::sys::fifo::Fifo;
use crate::sys::{Failed, socket};

/// Most bytes of a name: the room in the segment.
pub const NAME_MAX: usize = 32;
/// Bytes of a wake-up.
pub const WAKE_SIZE: usize = 64;

/// What a service needs of others, by their names; an instance of a service has its own name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// It starts when these are up, and stops before them.
    pub up: Vec<String>,
    /// It starts when these are done.
    pub done: Vec<String>,
    /// It goes down when one of these failed, and comes back after that.
    pub with: Vec<String>,
}

/// How a service takes up a new configuration of its own without a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reload {
    /// It is sent this signal.
    Signal(#[serde(with = "manner::number")] Signal),
    /// This command is run.
    Command(Vec<OsString>),
}

/// One supervised program, and what the watchdog holds for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// What it is called everywhere.
    pub name: String,
    /// The name that it shares with the other instances of its service; else its own.
    pub family: String,
    /// What it is for, for those who read the segment.
    #[serde(skip, default = "Service::programs_role")]
    pub role: Role,
    /// What its process receives.
    pub launch: Launch,
    /// Silence that convicts, before and after the first beat.
    #[serde(with = "limits")]
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
    /// Who beats for it, and how it is ended.
    pub manner: Manner,
    /// What its death means.
    pub rule: Rule,
    /// What it needs of others.
    pub needs: Needs,
    /// How it takes up a new configuration of its own; `None` = by a restart.
    pub reload: Option<Reload>,
    /// Run for each happening; empty = nothing.
    pub on_event: Vec<OsString>,
    /// Whether it decides who owns the data area.
    #[serde(skip)]
    pub arbiter: bool,
    /// The listening sockets that it inherits again and again, in the order of its addresses.
    #[serde(skip)]
    pub sockets: Vec<Arc<Listener>>,
    /// How to make it look at the segment now.
    #[serde(skip)]
    pub wake: Option<Wake>,
    /// FIFOs that a server of osps's own gets, in the order that it expects. Held open for the
    /// instance's life: what is in flight in them outlives a server, and a name that vanishes
    /// matters to nobody.
    #[serde(skip)]
    pub fifos: Vec<Arc<Fifo>>,
}

/// A listening socket that outlives the servers that use it.
#[derive(Debug)]
pub struct Listener {
    /// The address as it was asked for; port 0 = any free one.
    pub asked: Address,
    /// The socket.
    pub socket: Socket,
}

/// A socket that is held, by the service that it is for and the address that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The service.
    pub family: String,
    /// The address.
    pub address: Address,
}

/// Sockets that are there already: what survivors of a killed watchdog hold.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Those that could be had.
    pub sockets: Vec<(Held, Arc<Listener>)>,
    /// Those that could not: whoever holds them goes on with them, and they are bound again when
    /// that one's successor starts.
    pub beyond: Vec<Held>,
    /// Those that the service manager kept, until it is known whose they are.
    pub kept: Vec<Kept>,
}

/// A listening socket that the service manager kept.
#[derive(Debug)]
pub struct Kept {
    /// What it is called there.
    pub name: String,
    /// Where it listens; `None` = it does not.
    pub address: Option<Address>,
    /// The socket.
    pub socket: OwnedFd,
}

impl Kept {
    /// What the kernel says of it: its name is only a name.
    pub fn of(name: String, socket: OwnedFd) -> Kept {
        let listens = rustix::net::sockopt::socket_acceptconn(&socket) == Ok(true);
        let address = if listens { Listener::place_of(&socket) } else { None };
        Kept { name, address, socket }
    }
}

impl Inheritance {
    /// The socket that is known so, if it is there.
    pub fn find(&self, held: &Held) -> Option<Arc<Listener>> {
        let found = self.sockets.iter().find(|(known, _)| known == held);
        found.map(|(_, listener)| Arc::clone(listener))
    }

    /// Takes what the service manager kept for an address. One whose file is gone cannot be
    /// had back: nobody would find the way to what is bound there.
    fn take_kept(&mut self, address: &Address) -> Option<Listener> {
        let is_socket = |meta: std::fs::Metadata| meta.file_type().is_socket();
        let is_gone = |path: PathBuf| !path.symlink_metadata().is_ok_and(is_socket);
        if address.path().is_some_and(is_gone) {
            return None;
        }
        let place = self.kept.iter().position(|kept| kept.address.as_ref() == Some(address))?;
        Some(Listener::of(address.clone(), self.kept.swap_remove(place).socket))
    }

    /// What of that belongs to nobody here: neither is it taken, nor another descriptor of what is.
    pub fn unwanted(self) -> Vec<Kept> {
        let Inheritance { mut kept, sockets, .. } = self;
        let held: Vec<_> = sockets.iter().map(|(_, one)| Some(one.address())).collect();
        kept.retain(|kept| !held.contains(&kept.address));
        kept
    }

    /// Binds one again that nobody holds any more: whichever port the kernel had chosen, clients
    /// keep it. `false` = it is not there, and in use.
    pub fn bind_again(&mut self, family: &str, asked: &Address, was: &Address) -> bool {
        let held = Held { family: family.to_owned(), address: asked.clone() };
        if self.find(&held).is_some() {
            return true;
        }
        let kept = self.take_kept(was);
        let Some(mut listener) = kept.or_else(|| Listener::bind(was, family).ok()) else {
            return false;
        };
        listener.asked = held.address.clone();
        self.sockets.push((held, Arc::new(listener)));
        true
    }

    /// The socket of a service on an address: one that is there, or a new one; `None` = somebody
    /// who survived has it.
    pub fn listener(
        &mut self,
        family: &str,
        address: &Address,
    ) -> Result<Option<Arc<Listener>>, Error> {
        let wanted = Held { family: family.to_owned(), address: address.clone() };
        if let Some(listener) = self.find(&wanted) {
            return Ok(Some(listener));
        }
        if self.beyond.contains(&wanted) {
            return Ok(None);
        }
        let listener = match self.take_kept(address) {
            Some(listener) => listener,
            None => Listener::bind(address, family)?,
        };
        let listener = Arc::new(listener);
        self.sockets.push((wanted, Arc::clone(&listener)));
        Ok(Some(listener))
    }
}

/// What the process answers that reads the file for a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The new list.
    pub services: Vec<Service>,
    /// The sockets that were bound for it; they come with the answer, in this order.
    pub bound: Vec<Held>,
    /// What will go wrong on this machine, and is no reason to leave the others as they are.
    pub warnings: Vec<String>,
    /// The keys at the top of the file, with what is in effect.
    pub top: Vec<(String, String)>,
}

impl Loaded {
    /// The byte of an answer that is a list; any other one comes with a text of what is wrong.
    pub const WORD: u8 = b'l';
}

/// Either kind of a listening socket.
#[derive(Debug)]
pub enum Socket {
    /// On a TCP port.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener),
}

impl Listener {
    /// Binds the socket of a service.
    pub fn bind(address: &Address, name: &str) -> Result<Listener, Error> {
        let bound = match address {
            Address::Tcp(address) => socket::listen(*address).map(Socket::Tcp),
            Address::Unix(path) => socket::listen_path(path).map(Socket::Unix),
        };
        let socket = bound.map_err(|why| match why.answer.kind() {
            std::io::ErrorKind::AddrInUse => {
                Error::from(Refusal::AddressInUse { why, name: name.to_owned() })
            }
            _ => why.into(),
        })?;
        Ok(Listener { asked: address.clone(), socket })
    }

    /// One that another process bound for us.
    pub fn of(asked: Address, socket: OwnedFd) -> Listener {
        let socket = match asked {
            Address::Tcp(_) => Socket::Tcp(socket.into()),
            Address::Unix(_) => Socket::Unix(socket.into()),
        };
        Listener { asked, socket }
    }

    /// Where one that somebody else made listens; `None` = it is of another kind.
    pub fn place_of(socket: &OwnedFd) -> Option<Address> {
        use rustix::net::{SocketAddrAny, SocketAddrUnix};
        let name: SocketAddrAny = rustix::net::getsockname(socket).ok()?;
        if let Ok(unix) = SocketAddrUnix::try_from(name.clone()) {
            return Some(Address::Unix(OsStr::from_bytes(unix.path()?.to_bytes()).into()));
        }
        SocketAddr::try_from(name).ok().map(Address::Tcp)
    }

    /// The address that clients use: with the port that the kernel chose.
    pub fn address(&self) -> Address {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| self.asked.clone(), Address::Tcp)
            }
            Socket::Unix(_) => self.asked.clone(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A way to wake a server up, so that it looks at the segment now and not at its next beat.
#[derive(Clone, Debug)]
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
    /// What a program of the user's is for.
    fn programs_role() -> Role {
        Role::Program
    }

    /// A program of the user's, without sockets yet.
    pub fn program(name: String, launch: Launch, limits: Limits, patience: Patience) -> Service {
        Service {
            family: name.clone(),
            name,
            role: Service::programs_role(),
            launch,
            limits,
            patience,
            manner: Manner::default(),
            rule: Rule::default(),
            needs: Needs::default(),
            reload: None,
            on_event: Vec::new(),
            arbiter: false,
            sockets: Vec::new(),
            wake: None,
            fifos: Vec::new(),
        }
    }

    /// Its sockets, by what they are known as.
    pub fn held(&self) -> impl Iterator<Item = (Held, Arc<Listener>)> {
        self.sockets.iter().map(|listener| {
            let (family, address) = (self.family.clone(), listener.asked.clone());
            (Held { family, address }, Arc::clone(listener))
        })
    }

    /// What the policy has to know about it; `slots` finds who has a name.
    pub fn spec(&self, slots: impl Fn(&str) -> Option<SlotId>) -> Spec {
        let find = |names: &[String]| names.iter().filter_map(|name| slots(name)).collect();
        Spec {
            edges: Edges {
                depends_on: find(&self.needs.up),
                after_done: find(&self.needs.done),
                restart_with: find(&self.needs.with),
            },
            limits: self.limits,
            patience: self.patience,
            watch: Watch { source: self.manner.heart.source, warn: self.manner.warn },
            rule: self.rule.clone(),
        }
    }

    /// Looks at the program before anything is started: whether it is there, and whether a shim
    /// can be loaded into it. The text is a warning.
    pub fn look(&self) -> Result<Option<String>, Error> {
        let Launch { command, directory, env, .. } = &self.launch;
        let Some(named) = command.first() else { return Ok(None) };
        let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        let found = program::find_in(named, path, directory.as_deref()).map_err(|refusal| {
            if program::is_for_shell(command) { Refusal::NoShell(refusal.into()) } else { refusal }
        })?;
        if self.manner.heart.is_looped()
            && let Some((file, why)) = program::unloadable(found)
        {
            if why == Unloadable::Sanitizer {
                return Err(Refusal::Sanitized(file).into());
            }
            return Ok(Some(format!(
                "{} {why}, so the shim for event loops cannot be loaded into it: unless it starts \
                 another program, choose another heart (probe:, file:, notify)",
                Shown(&file)
            )));
        }
        Ok(None)
    }
}

/// Both limits of a heart travel as a pair.
mod limits {
    use std::time::Duration;

    use osps_heart::pulse::Limits;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(limits: &Limits, to: S) -> Result<S::Ok, S::Error> {
        (limits.hang, limits.start).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
        let (hang, start) = <(Duration, Duration)>::deserialize(from)?;
        Ok(Limits { hang, start })
    }
}

/// The last part of a program's path names its slot, as much of it as there is room for.
pub fn program_name(program: &OsStr) -> String {
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
