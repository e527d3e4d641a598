//! What programs say of themselves by systemd's notification protocol (sd_notify): a datagram
//! socket, one per service, whose kernel names each sender.
//!
//! The kernel queues `net.unix.max_dgram_qlen` datagrams (ten by default); while nobody reads, the
//! next sender waits. Descriptors that come along are closed unread, which is also the answer to
//! `BARRIER=1`: its sender waits until that. Tested in tests/notify.rs.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials};
use nix::sys::socket::{recvmsg, setsockopt};

use super::Failed;
use super::socket::abstract_name;

/// Longest datagram that is looked at, as in systemd.
const DATAGRAM: usize = 4096;
/// Most descriptors that come with a message (the kernel's `SCM_MAX_FD`).
const DESCRIPTORS: usize = 253;
/// Longest name of a socket.
const PATH_MAX: usize = 107;

/// One thing that a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `READY=1`: it is up.
    Ready,
    /// `RELOADING=1`: it reads its configuration again.
    Reloading,
    /// `STOPPING=1`: it is about to leave.
    Stopping,
    /// `WATCHDOG=1`: it beats.
    Beat,
    /// `WATCHDOG=trigger`: it found out that it is broken.
    Trigger,
    /// `WATCHDOG_USEC=N`: its limit from now on.
    Limit(Duration),
    /// `EXTEND_TIMEOUT_USEC=N`: it needs so much more time.
    Extend(Duration),
    /// `STATUS=text`: what it is doing.
    Status(String),
    /// `MAINPID=N`: who does the work.
    MainPid(u32),
    /// `ERRNO=N`: why it fails.
    Errno(i32),
    /// `BARRIER=1`: answered by closing what came with it.
    Barrier,
    /// `FDSTORE=1`: it wants its descriptors kept.
    Store,
}

/// A datagram.
#[derive(Debug)]
pub struct Heard {
    /// Its sender; 0 = nobody that can be seen from here.
    pub pid: u32,
    /// What it says, in order; `None` = it is no message: oversized, or not made of assignments.
    pub said: Option<Vec<Said>>,
    /// What came along. Closed unread when this is dropped, and not before: a sender that waits at
    /// a barrier stays until then, so that it can be looked up.
    attached: Vec<RawFd>,
}

impl Drop for Heard {
    fn drop(&mut self) {
        for fd in &self.attached {
            let _ = nix::unistd::close(*fd);
        }
    }
}

/// The socket of one service.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    /// What goes into `NOTIFY_SOCKET`.
    pub address: OsString,
    /// Where it is bound outside of the run directory; removed with this.
    outside: Option<PathBuf>,
}

impl Drop for Notify {
    fn drop(&mut self) {
        if let Some(path) = &self.outside {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds a socket to which every user may send.
fn for_everybody(path: &Path) -> std::io::Result<UnixDatagram> {
    let _ = std::fs::remove_file(path);
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(socket)
}

impl Notify {
    /// Where it is bound, if that is outside of the run directory.
    pub fn outside(&self) -> Option<&Path> {
        self.outside.as_deref()
    }

    /// Binds a socket by this name in a directory, or outside of it, where a program reaches it
    /// that runs as somebody else; or, where neither goes, by an abstract one, which not every
    /// program knows (Ruby's `sd_notify` does not).
    pub fn bind(
        dir: BorrowedFd<'_>,
        path: &Path,
        name: &str,
        outside: Option<PathBuf>,
    ) -> Result<Notify, Failed> {
        let failed = |error: std::io::Error| Failed::to("bind socket", name)(error);
        let full = path.join(name).into_os_string();
        let bound = outside.as_deref().map(for_everybody);
        let outside = outside.filter(|_| matches!(bound, Some(Ok(_))));
        let (socket, address) = if let (Some(Ok(socket)), Some(path)) = (bound, &outside) {
            (socket, path.clone().into_os_string())
        } else if full.len() <= PATH_MAX && !rustix::process::geteuid().is_root() {
            // By the directory that we hold, whatever its name is now.
            let held = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
            (UnixDatagram::bind(held).map_err(failed)?, full)
        } else {
            let name = [&abstract_name(path)[..], b"/", name.as_bytes()].concat();
            let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
            let socket = UnixDatagram::bind_addr(&address).map_err(failed)?;
            (socket, OsString::from_vec([b"@", &name[..]].concat()))
        };
        socket.set_nonblocking(true).map_err(failed)?;
        setsockopt(&socket, PassCred, &true).map_err(|errno| failed(errno.into()))?;
        Ok(Notify { socket, address, outside })
    }

    /// Another one is about to be bound in its place.
    pub fn give_way(&mut self) {
        self.outside = None;
    }

    /// Whether it has no name in a directory, which somebody could remove.
    pub fn is_abstract(&self) -> bool {
        self.address.as_bytes().starts_with(b"@")
    }

    /// The next datagram; `None` = there is none.
    pub fn receive(&self) -> Option<Heard> {
        let mut bytes = [0; DATAGRAM];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        // Room for all that a message can carry: what the kernel opened here and did not tell of
        // could not be closed.
        let mut space = nix::cmsg_space!(UnixCredentials, [i32; DESCRIPTORS]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC;
        let received = loop {
            match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), flags)
            {
                Err(Errno::EINTR) => {}
                other => break other.ok()?,
            }
        };
        let (mut pid, mut attached) = (0, Vec::new());
        for message in received.cmsgs().into_iter().flatten() {
            match message {
                ControlMessageOwned::ScmCredentials(sender) => {
                    pid = u32::try_from(sender.pid()).unwrap_or(0);
                }
                ControlMessageOwned::ScmRights(fds) => attached = fds,
                _ => {}
            }
        }
        let length = received.bytes;
        let said = bytes.get(..length).and_then(parse);
        Some(Heard { pid, said, attached })
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message says, in its order. Assignments that are not known say nothing; `None` = there is
/// not one assignment in it.
fn parse(message: &[u8]) -> Option<Vec<Said>> {
    let text = std::str::from_utf8(message).ok()?;
    let mut any = false;
    let mut said = Vec::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        any = true;
        let micros = || value.parse().ok().map(Duration::from_micros);
        said.extend(match (name, value) {
            ("READY", "1") => Some(Said::Ready),
            ("RELOADING", "1") => Some(Said::Reloading),
            ("STOPPING", "1") => Some(Said::Stopping),
            ("WATCHDOG", "1") => Some(Said::Beat),
            ("WATCHDOG", "trigger") => Some(Said::Trigger),
            ("WATCHDOG_USEC", _) => micros().map(Said::Limit),
            ("EXTEND_TIMEOUT_USEC", _) => micros().map(Said::Extend),
            ("STATUS", text) => Some(Said::Status(text.to_owned())),
            ("MAINPID", _) => value.parse().ok().map(Said::MainPid),
            ("ERRNO", _) => value.parse().ok().map(Said::Errno),
            ("BARRIER", "1") => Some(Said::Barrier),
            ("FDSTORE", "1") => Some(Said::Store),
            _ => None,
        });
    }
    any.then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_assignments() {
        let micros = Duration::from_micros;
        for (message, expected) in [
            ("READY=1", Some(vec![Said::Ready])),
            (
                "READY=1\nSTATUS=at work = yes\n",
                Some(vec![Said::Ready, Said::Status("at work = yes".to_owned())]),
            ),
            ("WATCHDOG=1\nWATCHDOG=trigger", Some(vec![Said::Beat, Said::Trigger])),
            ("WATCHDOG_USEC=20000", Some(vec![Said::Limit(micros(20_000))])),
            ("EXTEND_TIMEOUT_USEC=7", Some(vec![Said::Extend(micros(7))])),
            (
                "MAINPID=12\nERRNO=5\nBARRIER=1\nFDSTORE=1",
                Some(vec![Said::MainPid(12), Said::Errno(5), Said::Barrier, Said::Store]),
            ),
            ("RELOADING=1\nSTOPPING=1", Some(vec![Said::Reloading, Said::Stopping])),
            // What a later systemd may know.
            ("X_WHATEVER=1\nREADY=0\nMAINPID=x\nWATCHDOG_USEC=-1", Some(vec![])),
            ("", None),
            ("hello", None),
        ] {
            assert_eq!(parse(message.as_bytes()), expected, "{message:?}");
        }
        assert_eq!(parse(b"READY=1\xff"), None, "not a text");
    }
}
