//! Named pipes that carry whole frames; knows nothing of their meaning.
//!
//! Every side opens them read-write and non-blocking: that never blocks, never sees an end of
//! file, and keeps what is in flight while any one side lives. One `write` and one `read` of
//! exactly `N` bytes per frame, never a buffered reader: frames stay whole over any `kill -9`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, mknodat, openat};
use rustix::io::Errno;

use super::Failed;

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<const N: usize> {
    /// One frame.
    Frame([u8; N]),
    /// Nothing there.
    Empty,
    /// Bytes that are not in step with frames: all of them were thrown away.
    OutOfStep,
}

/// Most reads in one attempt to get back in step: a pipe holds 64 KiB, so 1024 frames.
const DRAIN_READS: usize = 2048;

/// An open FIFO.
#[derive(Debug)]
pub struct Fifo {
    name: String,
    fd: OwnedFd,
}

impl Fifo {
    /// Makes the node.
    pub fn create(dir: BorrowedFd<'_>, name: &str) -> Result<(), Failed> {
        mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(Failed::to("create fifo", name))
    }

    /// Opens an existing one; refuses anything that is not a FIFO.
    pub fn open(dir: BorrowedFd<'_>, name: &str) -> Result<Fifo, Failed> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(Failed::to("open fifo", name))?;
        Fifo::given(fd, name)
    }

    /// One that was opened by somebody else, who passed it on.
    pub fn given(fd: OwnedFd, name: &str) -> Result<Fifo, Failed> {
        let stat = fstat(&fd).map_err(Failed::to("examine", name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Err(Failed::to("open fifo", name)(Errno::INVAL));
        }
        Ok(Fifo { name: name.to_owned(), fd })
    }

    /// Its name in the run directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a frame. `false` = the pipe is full: the peer does not read, so do not wait for it.
    pub fn send<const N: usize>(&self, frame: &[u8; N]) -> Result<bool, Failed> {
        match rustix::io::write(&self.fd, frame) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(Failed::to("write to", "fifo")(errno)),
        }
    }

    /// Takes the next frame.
    pub fn receive<const N: usize>(&self) -> Result<Received<N>, Failed> {
        let mut frame = [0u8; N];
        match rustix::io::read(&self.fd, &mut frame) {
            Ok(length) if length == N => Ok(Received::Frame(frame)),
            Ok(_) => {
                self.drain();
                Ok(Received::OutOfStep)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Empty),
            Err(errno) => Err(Failed::to("read from", "fifo")(errno)),
        }
    }

    /// Throws away all that is there: the next write is in step again, since writes are atomic.
    pub fn drain(&self) {
        let mut scrap = [0u8; 4096];
        for _ in 0..DRAIN_READS {
            if !matches!(rustix::io::read(&self.fd, &mut scrap), Ok(length) if length > 0) {
                return;
            }
        }
    }
}

impl AsFd for Fifo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
