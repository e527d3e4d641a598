//! The watchdog: starts everything, watches everything, replaces what is dead or frozen.
//!
//! It is given services and knows nothing of what they are for. It never blocks on what it watches,
//! and once it runs no error ends it: a failed action becomes an input of the next step.
//!
//! ```text
//! upgrade   another binary in the place of this one
//! start     the run directory claimed, the segment made;  adopt: what a killed watchdog left
//! turn      the loop: what is gathered, in which order
//! perform   actions become system calls; child: what is held for one slot
//! kin       what a launch started besides its leader; claimant: who of them beats
//! notify    what programs say over their sockets; further: hearts besides the slot's own
//! probing   who beats for a service with a file or a probe
//! gaps      how long hearts are silent between their beats
//! outfit    what a launch says, as the trampoline reads it;  hooks: commands for happenings
//! asked     what people ask for;  reload: another list of services
//! reports   what is kept of whom had to go
//! spares    trampolines that wait, for the next restart
//! evidence  what /proc shows, in the policy's terms;  above: what a service manager is told
//! ```

mod above;
mod adopt;
mod asked;
mod child;
mod claimant;
mod evidence;
mod further;
mod gaps;
mod hooks;
mod kin;
mod notify;
mod outfit;
mod perform;
mod probing;
mod reload;
mod reports;
mod spares;
mod start;
mod turn;
mod upgrade;

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Epoch, Generation};
use osps_heart::segment::{CreateOptions, Segment, Times};
use osps_heart::time::Monotonic;

use self::above::Above;
use self::adopt::Left;
use self::asked::Waiting;
use self::child::Child;
use self::hooks::Hooks;
use self::reload::Loading;
use self::reports::Reports;
use self::spares::Spares;
use self::upgrade::Upgrade;
pub use self::upgrade::{go_back, is_handed, take_over};
use crate::error::{Error, Refusal};
use crate::instance::claim::{Claim, Looks};
use crate::instance::control::Control;
use crate::instance::place::Place;
use crate::instance::shim::Shim;
use crate::policy::group::{Action, Group, Outcome, exit_status};
use crate::service::{Inheritance, Kept, Service};
use crate::sys::poll::Poll;
use crate::sys::process::{self, Process};
use crate::sys::signals::Signals;
use crate::sys::standing::as_others;
use crate::sys::{Failed, manager, output, procfs, raw, standing};

/// Tokens of the poll set. Slot `i` has `CHILD + i` and `NOTIFY + i`, who is only waited for to
/// die shares `KIN`, askers have those from `CONTROL` on.
const SIGNALS: u64 = 0;
const CHILD: u64 = 1;
const NOTIFY: u64 = 500;
const LOAD: u64 = 998;
const REPORT: u64 = 997;
const KIN: u64 = 999;
const CONTROL: u64 = 1000;

/// Exit code of an instance that gave up.
const GAVE_UP: u8 = 3;
/// Exit code of an instance whose segment was cut short again after it had been made anew, or whose
/// directory is gone and cannot be put back.
const LOST: u8 = 5;
/// Set in the environment of an osps that started anew.
const REBUILT: &str = "OSPS_REBUILT";

/// What the watchdog has to know of the instance as a whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the instance.
    pub name: String,
    /// Where it lives.
    pub place: Place,
    /// Where reports of hangs are kept; `None` = nowhere.
    pub reports: Option<PathBuf>,
    /// Flag bits of the segment, beside those on what was made.
    pub flags: u64,
    /// Bytes of one copy of the data area.
    pub data_size: u64,
    /// Bytes of one table cell.
    pub cell_size: u64,
    /// As the header tells everybody; each service has limits of its own.
    pub times: Times,
    /// Slots, at least one for each service.
    pub slots: usize,
    /// The file that the services come from, to be read again at a reload.
    pub file: Option<PathBuf>,
    /// The keys at its top that a reload does not take up, with what is in effect.
    pub top: Vec<(String, String)>,
    /// No status lines, and servers of osps's own log less.
    pub quiet: bool,
    /// How the first service ended is how the instance ends.
    pub forward_exit: bool,
}

/// Makes the services of an instance in its run directory, once that is ours: their sockets may be
/// those of survivors that had to be ended first.
pub type Plan<'a> = &'a dyn Fn(BorrowedFd<'_>, &mut Inheritance) -> Result<Vec<Service>, Error>;

/// Runs an instance to its end. `fifos` names what the plan may make in the run directory.
pub fn main(settings: &Settings, fifos: Vec<String>, plan: Plan<'_>) -> Result<ExitCode, Error> {
    let upgrade = Upgrade::take();
    // An image before this one took them.
    let given = if upgrade.is_none() { manager::given() } else { Vec::new() };
    let kept = given.into_iter().map(|given| Kept::of(given.name, given.descriptor)).collect();
    let signals = Signals::block()?;
    raw::close_on_exec_from(3);
    if procfs::stat(std::process::id()).is_none() {
        return Err(Refusal::NoProc.into());
    }
    process::check().map_err(Refusal::Kernel)?;
    process::inherit_orphans()?;
    let (before, now) = process::raise_descriptor_limit();
    let mut watchdog = Watchdog::start(settings, signals, fifos, plan, upgrade.as_ref(), kept)?;
    let refused = standing::stand_firm();
    if !refused.is_empty() {
        log::info!("not permitted to {}: osps stands as any other process", refused.join(", "));
    }
    watchdog.descriptors = before.filter(|before| now != Some(*before));
    if let Some(upgrade) = upgrade {
        watchdog.descriptors = upgrade.descriptors;
        watchdog.unwatched_since = Some(upgrade.since);
        upgrade.done();
    }
    let outcome = watchdog.run();
    let rebuild = watchdog.rebuild;
    let homeless = !watchdog.names_told.is_empty();
    let forwarded = watchdog.end_of_first().filter(|_| settings.forward_exit).and_then(exit_status);
    watchdog.finish(outcome);
    if rebuild && outcome == Outcome::Clean {
        return start_anew();
    }
    if let Some(code) = forwarded {
        return Ok(ExitCode::from(code));
    }
    Ok(match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Forced => ExitCode::FAILURE,
        Outcome::GaveUp if homeless => ExitCode::from(LOST),
        Outcome::GaveUp => ExitCode::from(GAVE_UP),
    })
}

/// Becomes a new osps with the same arguments, once: what it shared is beyond repair.
fn start_anew() -> Result<ExitCode, Error> {
    if std::env::var_os(REBUILT).is_some() {
        log::error!("the segment was cut short for the second time: giving up");
        return Ok(ExitCode::from(LOST));
    }
    output::stdout().flush_bounded();
    output::stderr().flush_bounded();
    let mut osps = Command::new("/proc/self/exe");
    osps.arg0("osps").args(std::env::args_os().skip(1)).env(REBUILT, "1");
    // It is the same process, but what the variables speak of is gone.
    manager::forget_given(&mut osps);
    Err(Failed::to("start anew", "osps")(as_others(|| osps.exec())).into())
}

#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, told apart by name")]
struct Watchdog {
    clock: SystemClock,
    poll: Poll,
    /// Somebody is there whose death the poll does not tell.
    unpolled: bool,
    signals: Signals,
    control: Control,
    claim: Claim,
    segment: Segment,
    segment_file: File,
    /// What its header has to say.
    options: CreateOptions,
    /// Trampolines that wait.
    spares: Spares,
    /// What is preloaded where event loops are watched.
    shim: Option<Shim>,
    /// Somebody cut the segment: hearts mean nothing then.
    damaged: bool,
    /// Why names in the run directory cannot be put back, as told last.
    names_told: String,
    /// The directory outside of the run directory at the last look.
    outside_seen: Option<Looks>,
    /// It ends in order only to start anew.
    rebuild: bool,
    group: Group,
    children: Vec<Child>,
    /// Last generation given out. Ours, not the segment's: servers can write there.
    generation: Generation,
    /// The pending recall, and since when we have seen it.
    recall: Option<Recall>,
    actions: VecDeque<Action>,
    /// Children that we had before anything was launched, by pid and start time.
    strangers: HashSet<(u32, u64)>,
    /// Dead, but their status is held by somebody: reaped as soon as it is free.
    unreaped: Vec<Process>,
    check_interval: Duration,
    check_at: Monotonic,
    checks: u64,
    beat_at: Monotonic,
    beat_interval: Duration,
    allow: Allow,
    /// The limit of open descriptors before ours was raised: programs get it back.
    descriptors: Option<u64>,
    quiet: bool,
    /// The file that the services come from.
    file: Option<PathBuf>,
    /// Since when an upgrade in place has left everybody unwatched.
    unwatched_since: Option<Monotonic>,
    /// What a killed watchdog left, until it is taken over, and the services of today.
    left: Option<(Left, Vec<Service>)>,
    /// The keys at its top, as they were at the start.
    top: Vec<(String, String)>,
    /// One that is being read.
    loading: Option<Loading>,
    /// The services that were named as staying without a watchdog.
    stay: HashSet<String>,
    /// The service manager that started us.
    above: Option<Above>,
    /// Those who wait until what they asked for is done.
    waiting: Vec<Waiting>,
    /// Those who wait for the end of all.
    stoppers: Vec<u64>,
    hooks: Hooks,
    reports: Reports,
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
