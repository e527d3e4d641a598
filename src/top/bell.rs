//! A descriptor that other threads make readable, for a loop that waits for descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::sys::Failed;

/// Rung by anybody, heard by one.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> Result<Bell, Failed> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        eventfd(0, flags).map(Bell).map_err(Failed::to("create", "eventfd"))
    }

    /// Makes it readable.
    pub(super) fn ring(&self) {
        // Any number but zero will do. The only failure is that it has been rung very often.
        let _ = rustix::io::write(&self.0, &[1; 8]);
    }

    /// Makes it quiet again.
    pub(super) fn hush(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
