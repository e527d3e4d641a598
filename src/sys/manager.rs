//! The service manager above us, told what sd_notify(3) tells. It is never waited for: what it does
//! not take is lost, and said again in other words soon.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::Failed;

/// A manager that wants to hear of us.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It restarts who is silent for so long.
    pub patience: Option<Duration>,
}

impl Manager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`);
    /// `None` = there is none.
    pub fn from_env() -> Option<Result<Manager, Failed>> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|usec| meant && *usec > 0);
        Some(Manager::at(&name, patience.map(Duration::from_micros)))
    }

    fn at(name: &OsString, patience: Option<Duration>) -> Result<Manager, Failed> {
        let failed = Failed::to("notify", name.to_string_lossy());
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(OsStr::new(name)),
        };
        let made = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Manager { socket, address, patience })
        });
        made.map_err(failed)
    }

    /// Tells it something, as lines of `NAME=VALUE`. `false` = it does not take it now.
    pub fn tell(&self, text: &str) -> bool {
        self.socket.send_to_addr(text.as_bytes(), &self.address).is_ok()
    }
}
