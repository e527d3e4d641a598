//! Sockets: listeners that outlive their servers, the control socket, descriptors as messages.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps_heart::shown::Shown;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, recvmsg, sendmsg,
};

use super::Failed;

/// Connections that the kernel queues while a server is replaced. std's 128 lets clients time out
/// after a second of freeze; the kernel cuts this to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Most descriptors passed to one server.
pub const FDS_MAX: usize = 128;

/// Binds and listens; non-blocking, close-on-exec.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Failed> {
    let listener = TcpListener::bind(address).map_err(Failed::to("listen on", address))?;
    rustix::net::listen(&listener, BACKLOG).map_err(Failed::to("listen on", address))?;
    listener.set_nonblocking(true).map_err(Failed::to("listen on", address))?;
    Ok(listener)
}

/// Binds a unix socket at a path and listens; non-blocking, for everybody who may reach the path. A
/// socket that a dead program left there is removed first; a living one is in use.
pub fn listen_path(path: &Path) -> Result<UnixListener, Failed> {
    let failed = |answer| Failed::to("listen on", Shown(path))(answer);
    let bound = UnixListener::bind(path).or_else(|error| {
        let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
        if error.kind() != ErrorKind::AddrInUse || !is_socket {
            return Err(error);
        }
        let address = SocketAddrUnix::new(path)?;
        match connect_now(&address) {
            Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        }
    });
    let listener = bound.map_err(failed)?;
    rustix::net::listen(&listener, BACKLOG).map_err(|errno| failed(errno.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Finds out about a peer that went without a word, as Redis does: asked after 300 s of silence,
/// and given up after three more questions 100 s apart.
pub fn keep_alive(stream: &TcpStream) -> Result<(), Failed> {
    use rustix::net::sockopt;
    let failed = |errno| Failed::to("keep alive", "connection")(errno);
    sockopt::set_socket_keepalive(stream, true).map_err(failed)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(300)).map_err(failed)?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(100)).map_err(failed)?;
    sockopt::set_tcp_keepcnt(stream, 3).map_err(failed)
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

/// What became of an attempt to claim a name.
#[derive(Debug)]
pub enum Claimed {
    /// It is ours as long as this is open.
    Ours(UnixListener),
    /// Somebody of this user has it: this process, if it is visible.
    Taken(Option<u32>),
    /// Somebody else has it; such names are free for all.
    Squatted,
}

/// The name that a directory has in the kernel's own list: user and path, in the room that there
/// is; some 90 bytes at most.
pub fn abstract_name(path: &Path) -> Vec<u8> {
    let uid = rustix::process::geteuid().as_raw();
    let path = path.as_os_str().as_bytes();
    let mut name = format!("osps/{uid}").into_bytes();
    if path.len() <= 80 {
        name.extend_from_slice(path);
    } else {
        // FNV-1a: spreads, and nobody has to trust it.
        let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        name.extend_from_slice(format!("#{hash:016x}").as_bytes());
    }
    name
}

/// Claims a name in the kernel's own list (abstract sockets): it is there as long as its owner
/// lives, and nobody can remove it. One list per network namespace.
pub fn claim_name(name: &[u8]) -> Result<Claimed, Failed> {
    use std::os::linux::net::SocketAddrExt;
    let shown = String::from_utf8_lossy(name).into_owned();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)
        .map_err(Failed::to("claim name", &shown))?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => {
            listener.set_nonblocking(true).map_err(Failed::to("claim name", &shown))?;
            Ok(Claimed::Ours(listener))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let ours = rustix::process::geteuid().as_raw();
            let address = SocketAddrUnix::new_abstract_name(name);
            let stream = address.ok().and_then(|address| connect_now(&address).ok());
            let peer = stream.and_then(|stream| peer(&stream).ok());
            Ok(match peer {
                Some((uid, pid)) if uid == ours => Claimed::Taken(pid),
                // Gone between the two calls, too: the lock decides.
                _ => Claimed::Squatted,
            })
        }
        Err(error) => Err(Failed::to("claim name", &shown)(error)),
    }
}

/// Connects to a unix socket without waiting for room: its owner may be frozen.
fn connect_now(address: &SocketAddrUnix) -> std::io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, address)?;
    Ok(UnixStream::from(socket))
}

/// The user at the other end of a unix socket, and its process id; `None` = it lives in a pid
/// namespace that is not visible from here.
pub fn peer(stream: &UnixStream) -> Result<(u32, Option<u32>), Failed> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let credentials = getsockopt(stream, PeerCredentials)
        .map_err(Failed::to("ask for the peer of", "control socket"))?;
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0);
    Ok((credentials.uid(), pid))
}

/// Sends one byte and, with it, descriptors.
pub fn send_descriptors(to: &UnixStream, byte: u8, fds: &[BorrowedFd<'_>]) -> Result<(), Failed> {
    send_descriptors_to(to, byte, fds)
}

/// The same, through whatever descriptor the socket has.
pub fn send_descriptors_to(to: impl AsFd, byte: u8, fds: &[BorrowedFd<'_>]) -> Result<(), Failed> {
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
