//! What the process of a service receives when it starts, and nothing that only the watchdog needs:
//! two launches that are equal make the same process, and a reload leaves such a service alone.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use osps_heart::shown::Shown;
use serde::{Deserialize, Serialize};

pub use crate::sys::limits::Resource;

/// One launch, as the user said it. A server of osps's own has an empty command, and the rest at
/// its defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Program and arguments; empty = a server of osps's own.
    pub command: Vec<OsString>,
    /// Where it starts; `None` = where osps did.
    pub directory: Option<PathBuf>,
    /// What is set in its environment beside what it inherits: sorted by name, each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Whose rights it has; `None` = osps's.
    pub user: Option<User>,
    /// Mode bits that files of its making never have; `None` = as osps has it.
    pub umask: Option<u32>,
    /// Limits of resources, each resource once.
    pub limits: Vec<Limit>,
    /// Sockets that it inherits from descriptor 3 on.
    pub listen: Vec<Address>,
    /// The file to which its output is appended; `None` = where osps's goes.
    pub log: Option<PathBuf>,
}

impl Launch {
    /// Whether it is a program of the user's.
    pub fn is_program(&self) -> bool {
        !self.command.is_empty()
    }

    /// What is set in the program's environment: its user's data, and over that what the file says.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let mut env = Vec::new();
        if let Some((name, home)) = self.user.as_ref().and_then(|user| user.known.as_ref()) {
            env.push(("USER".into(), name.clone()));
            env.push(("LOGNAME".into(), name.clone()));
            env.push(("HOME".into(), home.into()));
        }
        env.extend(self.env.iter().cloned());
        env
    }
}

/// Whose rights a process has, looked up before anything is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Name and home directory, for its environment; `None` = the id has none.
    pub known: Option<(OsString, PathBuf)>,
}

/// The words of a limit that is none.
pub const UNLIMITED: &str = "unlimited";

/// A limit of a resource, soft and hard; `None` = unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what.
    pub resource: Resource,
    /// What the process has.
    pub soft: Option<u64>,
    /// How far it may raise that.
    pub hard: Option<u64>,
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Address {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// What stands before the path of a unix socket.
pub const UNIX: &str = "unix:";

impl Address {
    /// `127.0.0.1:8080`, `[::1]:8080` or `unix:PATH`, with an absolute path.
    pub fn parse(text: &str) -> Option<Address> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = Path::new(path);
            return path.is_absolute().then(|| Address::Unix(path.to_owned()));
        }
        text.parse().ok().map(Address::Tcp)
    }

    /// What the socket is called among those that a program inherits (`LISTEN_FDNAMES`): the port,
    /// or the last part of the path.
    pub fn name(&self) -> String {
        match self {
            Address::Tcp(address) => address.port().to_string(),
            Address::Unix(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let fit = |c: char| if c == ':' || c.is_control() { '-' } else { c };
                name.chars().map(fit).collect()
            }
        }
    }

    /// Where its file is, if it has one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Address::Tcp(_) => None,
            Address::Unix(path) => Some(path.clone()),
        }
    }

    /// Whether the kernel chooses the port.
    pub fn is_any(&self) -> bool {
        matches!(self, Address::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", Shown(path)),
        }
    }
}
