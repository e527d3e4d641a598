//! The service manager above us, told what sd_notify(3) tells, and its store of descriptors. It is
//! never waited for: what it does not take is lost, and said again in other words soon.

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
};

use super::{Failed, raw};

/// What tells that it keeps descriptors, and how many; from systemd 254 on it does so by itself.
pub const STORE: &str = "FDSTORE";
/// The first descriptor that it gives us at the start.
const FIRST: i32 = 3;
/// Most of them that are looked at.
const MOST: i32 = 4096;

/// A manager that wants to hear of us.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// It restarts who is silent for so long.
    pub patience: Option<Duration>,
    /// It keeps descriptors for us.
    pub stores: bool,
}

impl Manager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`,
    /// `FDSTORE`); `None` = there is none.
    pub fn from_env() -> Option<Result<Manager, Failed>> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|usec| meant && *usec > 0);
        let stores = number(STORE).is_some_and(|most| most > 0);
        Some(Manager::at(&name, patience.map(Duration::from_micros), stores))
    }

    fn at(name: &OsString, patience: Option<Duration>, stores: bool) -> Result<Manager, Failed> {
        let failed = Failed::to("notify", name.to_string_lossy());
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(name.as_os_str()),
        };
        let made = address.map_err(std::io::Error::from).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Manager { socket, address, patience, stores })
        });
        made.map_err(failed)
    }

    /// Tells it something, as lines of `NAME=VALUE`. `false` = it does not take it now.
    pub fn tell(&self, text: &str) -> bool {
        self.send(text, &[])
    }

    /// Gives it a descriptor to keep, under a name of printable characters without a colon.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor])
    }

    /// It need not keep what has this name.
    pub fn forget(&self, name: &str) -> bool {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return false;
        }
        let (text, flags) = ([IoSlice::new(text.as_bytes())], SendFlags::NOSIGNAL);
        sendmsg_addr(&self.socket, &self.address, &text, &mut control, flags).is_ok()
    }
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Whoever runs next was given nothing: says so in its environment.
pub fn forget_given(command: &mut Command) {
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
}

/// A descriptor that the manager gave us at the start.
#[derive(Debug)]
pub struct Given {
    /// What it is called there.
    pub name: String,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// Takes what the manager gave this very process (`LISTEN_FDS`), once: whoever inherited only the
/// variables has nothing. To be called before anything else is opened.
pub fn given() -> Vec<Given> {
    if number("LISTEN_PID") != Some(u64::from(std::process::id())) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let take = |number| {
        let name = names.next().unwrap_or_default();
        let descriptor = raw::copy_of(number)?;
        // What is not a socket is something else of ours, whatever the variables say.
        rustix::net::getsockname(&descriptor).ok()?;
        raw::close(number);
        Some(Given { name, descriptor })
    };
    (FIRST..FIRST.saturating_add(count.clamp(0, MOST))).filter_map(take).collect()
}
