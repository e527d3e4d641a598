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

/// What a program with a screen is told by signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Leave.
    Leave,
    /// Give the terminal back, and stop.
    Suspend,
    /// It runs again.
    Continue,
    /// The terminal has another size.
    Resize,
}

/// The signals of a program with a screen, as values: it restores its terminal before it obeys.
#[derive(Debug)]
pub struct OfTerminal(SignalFd);

/// What it is told.
const TOLD: [(Signal, Told); 7] = [
    (Signal::SIGINT, Told::Leave),
    (Signal::SIGTERM, Told::Leave),
    (Signal::SIGHUP, Told::Leave),
    (Signal::SIGQUIT, Told::Leave),
    (Signal::SIGTSTP, Told::Suspend),
    (Signal::SIGCONT, Told::Continue),
    (Signal::SIGWINCH, Told::Resize),
];

impl OfTerminal {
    /// Blocks these, and the one that stops whoever touches a terminal that is not his: he looks
    /// first. Before any thread is started, since threads inherit the mask. A hang-up that was
    /// ignored stays so.
    pub fn block() -> Result<OfTerminal, Failed> {
        let ignored = procfs::is_ignored(Signal::SIGHUP as u32);
        let told = TOLD.into_iter().map(|(signal, _)| signal);
        let told = told.filter(|signal| *signal != Signal::SIGHUP || !ignored);
        let set: SigSet = told.chain([Signal::SIGTTOU]).collect();
        set.thread_block().map_err(Failed::to("block", "signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&set, flags).map_err(Failed::to("open", "signalfd"))?;
        Ok(OfTerminal(fd))
    }

    /// What came since the last look.
    pub fn take(&mut self) -> Vec<Told> {
        let mut came = Vec::new();
        while let Ok(Some(info)) = self.0.read_signal() {
            let is_it =
                |known: &(Signal, Told)| u32::try_from(known.0 as i32) == Ok(info.ssi_signo);
            came.extend(TOLD.into_iter().find(is_it).map(|(_, told)| told));
        }
        came
    }

    /// Stops as the terminal's stop key stops, and returns when it is continued: the whole process
    /// group, or this process alone. Where nobody could continue it, the kernel does nothing.
    pub fn stop(&self, group: bool) {
        use rustix::process::{Signal, getpid, kill_current_process_group, kill_process};
        let stop: SigSet = [nix::sys::signal::Signal::SIGTSTP].into_iter().collect();
        let _ = stop.thread_unblock();
        let _ = if group {
            kill_current_process_group(Signal::TSTP)
        } else {
            kill_process(getpid(), Signal::TSTP)
        };
        let _ = stop.thread_block();
    }
}

impl AsFd for OfTerminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Unblocks everything: what a server must not inherit.
pub fn reset() -> Result<(), Failed> {
    raw::mask_signals(0).map(drop).map_err(Failed::to("unblock", "signals"))
}
