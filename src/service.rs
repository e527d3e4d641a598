//! A service: one supervised program, as the watchdog knows it. What it is for, nobody here knows.
//!
//! Whoever plans an instance makes a list of these; position in the list is the slot. The pair is
//! such a list (`pair::plan`), a program of the user's one entry.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::pulse::Limits;
use osps_heart::words::Role;

use crate::error::{Error, Refusal};
use crate::policy::graph::Edges;
use crate::policy::group::Spec;
use crate::policy::lifecycle::Patience;
use crate::sys::fifo::Fifo;
use crate::sys::{Failed, socket};

/// Bytes of a wake-up.
pub const WAKE_SIZE: usize = 64;

/// One supervised program, and what the watchdog holds for it.
#[derive(Debug)]
pub struct Service {
    /// What it is called everywhere.
    pub name: String,
    /// What it is for, for those who read the segment.
    pub role: Role,
    /// Program and arguments; empty = a server of osps's own.
    pub command: Vec<String>,
    /// The listening socket that it inherits, again and again.
    pub socket: Option<TcpListener>,
    /// Silence that convicts, before and after the first beat.
    pub limits: Limits,
    /// How long it is waited for when it has to go.
    pub patience: Patience,
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
        Spec { edges: self.edges.clone(), limits: self.limits, patience: self.patience }
    }

    /// A program of the user's, alone in its instance.
    pub fn program(
        command: &[String],
        listen: Option<SocketAddr>,
        limits: Limits,
        patience: Patience,
    ) -> Result<Service, Error> {
        let program = command.first().map_or("", String::as_str);
        find_program(program)?;
        let name = program_name(program);
        Ok(Service {
            socket: listen.map(|address| bind(address, &name)).transpose()?,
            name,
            role: Role::Program,
            command: command.to_vec(),
            limits,
            patience,
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

/// A program that cannot be found is a slip of the finger: better told now than by a crash loop.
fn find_program(program: &str) -> Result<(), Refusal> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if program.contains('/') {
        runs(program.as_ref())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| runs(&dir.join(program)))
    };
    if found { Ok(()) } else { Err(Refusal::NoProgram { program: program.to_owned() }) }
}

/// The last part of a program's path names its slot.
fn program_name(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    if name.is_empty() { "program".to_owned() } else { name.to_owned() }
}
