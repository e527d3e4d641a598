//! The watchdog: starts everything, watches everything, replaces what is dead or frozen.
//!
//! It is given services and knows nothing of what they are for. It never blocks on what it watches,
//! and once it runs no error ends it: a failed action becomes an input of the next step.
//!
//! ```text
//! start     the run directory claimed, survivors ended, the segment made
//! turn      the loop: what is gathered, in which order
//! perform   actions become system calls; child: what is held for one slot
//! evidence  what /proc shows, in the policy's terms
//! ```

mod child;
mod evidence;
mod perform;
mod start;
mod turn;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Epoch, Generation, SlotId};
use osps_heart::segment::{Segment, Times};
use osps_heart::time::Monotonic;

use self::child::Child;
use crate::error::Error;
use crate::instance::claim::Claim;
use crate::instance::control::Control;
use crate::instance::place::Place;
use crate::policy::group::{Action, Group, Outcome};
use crate::policy::restart::Intensity;
use crate::service::Service;
use crate::sys::poll::Poll;
use crate::sys::process::Process;
use crate::sys::raw;
use crate::sys::signals::Signals;

/// Tokens of the poll set. Child `i` has `CHILD + i`, askers have those from `CONTROL` on.
const SIGNALS: u64 = 0;
const CHILD: u64 = 1;
const CONTROL: u64 = 1000;

/// Exit code of an instance that gave up.
const GAVE_UP: u8 = 3;

/// What the watchdog has to know of the instance as a whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the instance.
    pub name: String,
    /// Where it lives.
    pub place: Place,
    /// Flag bits of the segment, beside those on what was made.
    pub flags: u64,
    /// Bytes of one copy of the data area.
    pub data_size: u64,
    /// Bytes of one table cell.
    pub cell_size: u64,
    /// As the header tells everybody; each service has limits of its own.
    pub times: Times,
    /// When to give up.
    pub intensity: Option<Intensity>,
    /// No status lines, and servers of osps's own log less.
    pub quiet: bool,
}

/// Makes the services of an instance in its run directory, once that is ours: their sockets may be
/// those of survivors that had to be ended first.
pub type Plan<'a> = &'a dyn Fn(BorrowedFd<'_>) -> Result<Vec<Service>, Error>;

/// Runs an instance to its end. `fifos` names what the plan may make in the run directory.
pub fn main(settings: &Settings, fifos: Vec<String>, plan: Plan<'_>) -> Result<ExitCode, Error> {
    let signals = Signals::block()?;
    raw::close_on_exec_from(3);
    let mut watchdog = Watchdog::start(settings, signals, fifos, plan)?;
    let outcome = watchdog.run();
    watchdog.finish(outcome);
    Ok(match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Forced => ExitCode::FAILURE,
        Outcome::GaveUp => ExitCode::from(GAVE_UP),
    })
}

struct Watchdog {
    clock: SystemClock,
    poll: Poll,
    signals: Signals,
    control: Control,
    claim: Claim,
    segment: Segment,
    segment_file: File,
    /// Somebody cut or swapped the segment: hearts mean nothing then.
    damaged: bool,
    group: Group,
    children: Vec<Child>,
    /// The slot that decides who owns the data area.
    arbiter: Option<SlotId>,
    /// Last generation given out. Ours, not the segment's: servers can write there.
    generation: Generation,
    /// The pending recall, and since when we have seen it.
    recall: Option<Recall>,
    actions: VecDeque<Action>,
    /// Dead, but their status is held by somebody: reaped as soon as it is free.
    unreaped: Vec<Process>,
    check_interval: Duration,
    check_at: Monotonic,
    checks: u64,
    beat_at: Monotonic,
    beat_interval: Duration,
    allow: Allow,
    quiet: bool,
}

/// What somebody was asked to give back.
#[derive(Clone, Copy, Debug)]
struct Recall {
    epoch: Epoch,
    /// Since when we have seen it.
    since: Monotonic,
    /// How long the holder may take.
    limit: Duration,
}

/// What a stop request may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allow {
    /// Nothing was asked yet.
    Running,
    /// An orderly stop is under way; another request makes it hasty.
    Stopping {
        /// Since then.
        since: Monotonic,
        /// At the request of this one.
        by: &'static str,
    },
}
