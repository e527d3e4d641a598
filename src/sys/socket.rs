//! Sockets: listeners that outlive their servers, the control socket, descriptors as messages.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{Failed, raw};

/// Connections that the kernel queues while a server is replaced. std's 128 lets clients time out
/// after a second of freeze; the kernel cuts this to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Most descriptors passed to one server.
pub const FDS_MAX: usize = 16;

/// Binds and listens; non-blocking, close-on-exec.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Failed> {
    let listener = TcpListener::bind(address).map_err(Failed::to("listen on", address))?;
    rustix::net::listen(&listener, BACKLOG).map_err(Failed::to("listen on", address))?;
    listener.set_nonblocking(true).map_err(Failed::to("listen on", address))?;
    Ok(listener)
}

/// A path to `name` in an open directory that fits into a socket address, however long the
/// directory's own path is.
fn short_path(dir: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Binds a unix socket inside a directory; non-blocking.
pub fn listen_unix(dir: BorrowedFd<'_>, name: &str) -> Result<UnixListener, Failed> {
    let listener =
        UnixListener::bind(short_path(dir, name)).map_err(Failed::to("bind socket", name))?;
    listener.set_nonblocking(true).map_err(Failed::to("bind socket", name))?;
    Ok(listener)
}

/// Connects to a unix socket inside a directory, and to no other: whoever may write there could
/// lead root to a socket of somebody else's by a link.
pub fn connect_unix(dir: BorrowedFd<'_>, name: &str) -> Result<UnixStream, Failed> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(dir, name, flags, Mode::empty()).map_err(Failed::to("connect to", name))?;
    let stat = fstat(&found).map_err(Failed::to("connect to", name))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Failed::to("connect to", name)(Errno::NOTSOCK));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    UnixStream::connect(path).map_err(|error| match error.kind() {
        // The socket is there: it is the way to it that is not.
        ErrorKind::NotFound => {
            Failed::to("connect to", name)(std::io::Error::other("/proc is not mounted"))
        }
        _ => Failed::to("connect to", name)(error),
    })
}

/// The user at the other end of a unix socket, and its process id if that can be seen from here.
pub fn peer(stream: &UnixStream) -> Result<(u32, Option<u32>), Failed> {
    let (uid, pid) =
        raw::peer(stream.as_fd()).map_err(Failed::to("ask for the peer of", "control socket"))?;
    Ok((uid, u32::try_from(pid).ok().filter(|pid| *pid != 0)))
}

/// Sends one byte and, with it, descriptors.
pub fn send_descriptors(to: &UnixStream, byte: u8, fds: &[BorrowedFd<'_>]) -> Result<(), Failed> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let failed = |errno| Failed::to("send descriptors to", "server")(errno);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(failed(rustix::io::Errno::NOBUFS));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(to, &[IoSlice::new(&[byte])], &mut control, flags).map_err(failed)?;
    Ok(())
}

/// Waits for one byte and the descriptors that come with it (close-on-exec); `None` = the other
/// side is gone.
pub fn receive_descriptors(from: impl AsFd) -> Result<Option<(u8, Vec<OwnedFd>)>, Failed> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let message =
        recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(Failed::to("receive from", "watchdog"))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((message.bytes > 0).then_some((byte[0], fds)))
}
