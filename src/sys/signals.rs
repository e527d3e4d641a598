//! Signals to the watchdog: all that can be blocked are, and come as values from a signalfd.
//!
//! Signals end osps, they never monitor anything. Whatever nobody meant would end the watchdog as a
//! kill does, and leave its servers alone: so only the stop requests do anything, and the rest is
//! told and ignored. Threads inherit the mask, so [`Signals::block`] comes before anything can go
//! wrong; std passes it on to children, so the trampoline calls [`reset`]. Tested for every number
//! in tests/signals.rs.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Failed, procfs, raw};

/// What ends osps in order.
const STOPS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// What is left as it is. By default the kernel drops all but two of these, and a blocked one would
/// wake us up for nothing: a child's death is told by its pidfd, a broken pipe by the write, which
/// is why Rust ignores that signal. The handler of a bus error is ours.
const LEFT: [Signal; 6] = [
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
    Signal::SIGBUS,
];

/// Most signals taken in one turn: whoever floods us shall not keep us from our work.
const BATCH: usize = 64;

/// A source of signals.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// Ignored ones that were told, a bit each.
    told: u64,
}

/// A signal that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// It means: stop.
    Stop(&'static str),
    /// It means nothing; the first of its number.
    Ignored(String),
}

fn bit(number: i32) -> u64 {
    u32::try_from(number - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0)
}

impl Signals {
    /// Blocks everything that can be blocked and opens the descriptor. A hang-up that was being
    /// ignored (nohup) stays ignored. Deaths of children that were being ignored, so that their
    /// status would be lost, are not any more.
    pub fn block() -> Result<Signals, Failed> {
        raw::default_signal(libc::SIGCHLD);
        let mut left: u64 = LEFT.into_iter().map(|signal| bit(signal as i32)).sum();
        if procfs::is_ignored(Signal::SIGHUP as u32) {
            left |= bit(Signal::SIGHUP as i32);
        }
        raw::mask_signals(!left).map_err(Failed::to("block", "signals"))?;
        // Real-time signals are in it, too; what is not blocked never comes.
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let all = SigSet::all();
        let fd = SignalFd::with_flags(&all, flags).map_err(Failed::to("open", "signalfd"))?;
        Ok(Signals { fd, told: 0 })
    }

    /// What came since the last look, a bounded number.
    pub fn take(&mut self) -> Vec<Came> {
        let mut came = Vec::new();
        for _ in 0..BATCH {
            let Some(info) = self.fd.read_signal().ok().flatten() else { break };
            let Ok(number) = i32::try_from(info.ssi_signo) else { continue };
            let known = Signal::try_from(number).ok();
            match known {
                Some(signal) if STOPS.contains(&signal) => came.push(Came::Stop(signal.as_str())),
                _ if self.told & bit(number) != 0 => {}
                _ => {
                    self.told |= bit(number);
                    let name = known.map_or(format!("signal {number}"), |s| s.as_str().to_owned());
                    came.push(Came::Ignored(name));
                }
            }
        }
        came
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Unblocks everything: what a server must not inherit.
pub fn reset() -> Result<(), Failed> {
    raw::mask_signals(0).map(drop).map_err(Failed::to("unblock", "signals"))
}
