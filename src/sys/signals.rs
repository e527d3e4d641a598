//! Stop requests of the operator: blocked signals, read as values from a signalfd.
//!
//! Signals end osps, they never monitor anything. Threads inherit the mask, so [`Signals::block`]
//! comes before any thread is started; std passes it on to children, so the trampoline calls
//! [`reset`].

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Failed, procfs};

/// A source of stop requests.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals that stop osps and opens their descriptor. A hang-up that was being
    /// ignored (nohup) stays ignored. Terminal stops on output are blocked as well: a background
    /// job must not freeze because it prints.
    pub fn block() -> Result<Signals, Failed> {
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGINT);
        stops.add(Signal::SIGTERM);
        if !procfs::is_ignored(Signal::SIGHUP as u32) {
            stops.add(Signal::SIGHUP);
        }
        let mut blocked = stops;
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block().map_err(Failed::to("block", "signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&stops, flags).map_err(Failed::to("open", "signalfd"))?;
        Ok(Signals { fd })
    }

    /// The next pending stop request, by name.
    pub fn next(&self) -> Option<&'static str> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = i32::try_from(info.ssi_signo).ok()?;
        Some(Signal::try_from(signal).map_or("a signal", Signal::as_str))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Unblocks everything: what a server must not inherit.
pub fn reset() -> Result<(), Failed> {
    SigSet::all().thread_unblock().map_err(Failed::to("unblock", "signals"))
}
