//! The trampoline, what every server starts as: `osps __exec SLOT GENERATION` for osps's own,
//! `osps __exec` for whatever program its orders name.
//!
//! After exec this is an ordinary single-threaded program, so child set-up needs no `unsafe`. It
//! waits at the gate until the watchdog has recorded it, takes its share of `members`, and resets
//! what must not be inherited. A built-in server goes on in the same process; a foreign program is
//! exec'd, with its listening sockets from descriptor 3 on. If the watchdog dies first, the gate
//! ends and the trampoline leaves: no unrecorded server can exist.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use osps_heart::ids::{Generation, SlotId};
use osps_heart::shown::Shown;
use osps_heart::words::env;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::orders::{Orders, setting};
use super::outside;
use super::place::{RunDir, SHIM};
use crate::error::{Error, Refusal};
use crate::sys::process::{self, Report};
use crate::sys::standing::stay_in_memory;
use crate::sys::{Failed, limits, procfs, raw, signals, socket};

/// Descriptors that osps keeps in a foreign program lie above those that the program may expect.
const HIGH: i32 = 100;
/// What the dynamic loader loads before a program's own libraries.
const PRELOAD: &str = "LD_PRELOAD";
/// The first inherited socket, by systemd's convention.
const LISTEN_FIRST: i32 = 3;

/// What a server of osps's own gets through its gate.
#[derive(Debug)]
pub struct Birth {
    /// The run directory.
    pub run_dir: PathBuf,
    /// Its slot.
    pub slot: SlotId,
    /// Its generation.
    pub generation: Generation,
    /// Its listening socket, the segment, and its FIFOs.
    pub sockets: Vec<OwnedFd>,
    /// Its share of `members`: as long as it is open, the directory is lived in.
    pub members: OwnedFd,
}

/// Runs the trampoline with the arguments behind `__exec`; `built_in` is what goes on in this
/// process if there is a slot among them. What fails before that is told to the watchdog, as a
/// failure that is not the program's.
pub fn main(
    args: &[OsString],
    built_in: fn(Birth) -> Result<ExitCode, Error>,
) -> Result<ExitCode, Error> {
    let server = match args {
        [] => None,
        args => Some(parse(args).ok_or(Refusal::NotForPeople("__exec"))?),
    };
    let report = fcntl_dupfd_cloexec(std::io::stdin(), high())
        .map_err(Failed::to("keep", "standard input"))?;
    let prepared = match server {
        Some((slot, generation)) => prepare(slot, generation),
        None => become_program().map(|()| None),
    };
    match prepared {
        Ok(Some(birth)) => {
            drop(report);
            built_in(birth)
        }
        // Its watchdog is gone.
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error) if Report::write(&report, &error.to_string()) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

/// A server of osps's own: everything up to the open gate; `None` = it will not open.
fn prepare(slot: SlotId, generation: Generation) -> Result<Option<Birth>, Error> {
    let path = std::env::var_os(env::RUN_DIR).ok_or(Refusal::Environment(env::RUN_DIR))?;
    // A session of its own: no stop from a terminal reaches it, and it leads its process group.
    rustix::process::setsid().map_err(Failed::to("start", "session"))?;
    let members = join(Path::new(&path))?;
    let Some((_, sockets)) = socket::receive_descriptors(std::io::stdin())? else {
        return Ok(None);
    };
    rustix::stdio::dup2_stdin(process::null()?).map_err(Failed::to("replace", "standard input"))?;
    signals::reset()?;
    Ok(Some(Birth { run_dir: path.into(), slot, generation, sockets, members }))
}

/// A program of the user's: whatever can be done is done before the gate opens, since it may be a
/// spare, and its opening is a restart. Returns only if it will not open, or if that fails.
fn become_program() -> Result<(), Error> {
    rustix::process::setsid().map_err(Failed::to("start", "session"))?;
    let null =
        fcntl_dupfd_cloexec(process::null()?, high()).map_err(Failed::to("keep", "/dev/null"))?;
    raw::default_signals();
    signals::reset()?;
    // As far as its limits allow: else it is slower.
    let _ = stay_in_memory();
    let Some((_, mut sockets)) = socket::receive_descriptors(std::io::stdin())? else {
        return Ok(());
    };
    let orders = sockets.pop().and_then(Orders::unpack);
    let orders = orders.ok_or(Refusal::NotForPeople("__exec"))?;
    let path = orders.settings(setting::MEMBER).next();
    let members = path.map(|path| join(Path::new(path))).transpose()?;
    rustix::stdio::dup2_stdin(&null).map_err(Failed::to("replace", "standard input"))?;
    Err(exec(&orders, &sockets, members.as_ref()))
}

/// Takes a share of `members`, before anything is done in the instance: a sweep that got it cannot
/// have missed us, if it also ends who is recorded.
fn join(run_dir: &Path) -> Result<OwnedFd, Error> {
    let run_dir = RunDir::open(run_dir)?;
    let low = run_dir.join()?;
    // The share is given up when the last descriptor is closed: keep one.
    Ok(fcntl_dupfd_cloexec(&low, high()).map_err(Failed::to("keep", "members"))?)
}

/// The lowest number for what is kept: [`HIGH`], or less where so many are not allowed.
fn high() -> i32 {
    let limit = process::descriptor_limit().and_then(|limit| i32::try_from(limit / 2).ok());
    limit.map_or(HIGH, |half| half.min(HIGH))
}

fn parse(args: &[OsString]) -> Option<(SlotId, Generation)> {
    let [slot, generation] = args else { return None };
    let (slot, generation) = (slot.to_str()?.parse().ok()?, generation.to_str()?.parse().ok()?);
    Some((SlotId(slot), Generation(generation)))
}

/// Becomes the program; returns only if that fails. Its arguments are not told then: they may hold
/// secrets, and a log is read by many.
fn exec(orders: &Orders, sockets: &[OwnedFd], members: Option<&OwnedFd>) -> Error {
    let command = &orders.command;
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).envs(orders.env.iter().map(|(name, value)| (name, value)));
    let shim = orders.value(env::SHIM);
    let (sockets, segment) = match (shim, sockets.split_last()) {
        (Some(shim), Some((segment, sockets))) => {
            match preload(&mut program, orders, shim, segment) {
                Ok(kept) => (sockets, Some(kept)),
                Err(error) => return error,
            }
        }
        _ => (sockets, None),
    };
    let passed = (LISTEN_FIRST..).zip(sockets).try_for_each(|(expected, socket)| {
        if socket.as_raw_fd() != expected {
            return Err(Refusal::Socket(socket.as_raw_fd()).into());
        }
        fcntl_setfd(socket, FdFlags::empty()).map_err(Failed::to("pass on", "socket"))?;
        // Blocking, as systemd hands them over, also behind a predecessor that wanted it
        // otherwise: the flag belongs to the socket and not to the descriptor.
        let flags = fcntl_getfl(socket).map_err(Failed::to("pass on", "socket"))?;
        let flags = flags.difference(OFlags::NONBLOCK);
        Ok(fcntl_setfl(socket, flags).map_err(Failed::to("pass on", "socket"))?)
    });
    if let Err(error) = passed {
        return error;
    }
    if !sockets.is_empty() {
        program.env("LISTEN_FDS", sockets.len().to_string());
        program.env("LISTEN_PID", std::process::id().to_string());
        if let Some(names) = orders.settings(setting::NAMES).next() {
            program.env("LISTEN_FDNAMES", names);
        }
    }
    // The program's share of `members` goes on with it.
    if let Some(Err(errno)) = members.map(|members| fcntl_setfd(members, FdFlags::empty())) {
        return Failed::to("pass on", "members")(errno).into();
    }
    let limit = orders.value(env::DESCRIPTORS).and_then(OsStr::to_str);
    if let Some(limit) = limit.and_then(|text| text.parse().ok()) {
        process::lower_descriptor_limit(limit);
    }
    program.env_remove(env::DESCRIPTORS);
    // Last: from here on it may have fewer rights than osps.
    if let Err(error) = settle(orders) {
        return error.into();
    }
    let error = Failed::to("run", Shown(&command[0]))(program.exec()).into();
    drop(segment);
    error
}

/// Does what the orders say of limits, files and rights. What needs osps's rights comes before
/// they are given up; the directory is entered with those of the program.
fn settle(orders: &Orders) -> Result<(), Failed> {
    let text = |name| orders.settings(name).filter_map(OsStr::to_str);
    for limit in text(setting::LIMIT) {
        let mut words = limit.split(' ');
        let resource = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|number| number.parse().ok());
        let (soft, hard) = (number(), number());
        limits::set(resource, soft, hard).map_err(|error| {
            let advice = limits::advice(resource, hard);
            Failed::to("set limit", format!("{resource} ({advice})"))(error)
        })?;
    }
    if let Some(mask) =
        text(setting::UMASK).next().and_then(|text| u32::from_str_radix(text, 8).ok())
    {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    if let Some(path) = orders.settings(setting::LOG).next() {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o640);
        let failed = |errno| Failed::to("open log", Shown(path))(errno);
        // Not waiting for the reader of a FIFO: without one that is refused.
        let flags = flags | OFlags::NOCTTY | OFlags::NONBLOCK;
        let log = rustix::fs::open(path, flags, mode).map_err(failed)?;
        let flags = fcntl_getfl(&log).map_err(failed)?;
        fcntl_setfl(&log, flags.difference(OFlags::NONBLOCK)).map_err(failed)?;
        rustix::stdio::dup2_stdout(&log).map_err(failed)?;
        rustix::stdio::dup2_stderr(&log).map_err(failed)?;
    }
    if let Some(ids) = text(setting::USER).next() {
        process::become_user(ids).map_err(Failed::to("become user", ids))?;
    }
    if let Some(directory) = orders.settings(setting::DIRECTORY).next() {
        rustix::process::chdir(directory).map_err(Failed::to("enter", Shown(directory)))?;
    }
    Ok(())
}

/// Lets the program load the shim, behind what its user preloads, and gives it the segment, which
/// goes on with it: through a descriptor, whatever user or root directory it will have.
fn preload(
    program: &mut Command,
    orders: &Orders,
    shim: &OsStr,
    segment: &OwnedFd,
) -> Result<OwnedFd, Error> {
    let kept = fcntl_dupfd_cloexec(segment, high()).map_err(Failed::to("keep", "segment"))?;
    fcntl_setfd(&kept, FdFlags::empty()).map_err(Failed::to("pass on", "segment"))?;
    let stat = fstat(&kept).map_err(Failed::to("look at", "segment"))?;
    let mode = orders.value(env::LOOP).and_then(OsStr::to_str).unwrap_or_default();
    let (fd, filters) = (kept.as_raw_fd(), procfs::own_filters());
    program.env(env::LOOP, format!("{fd}:{}:{}:{filters}:{mode}", stat.st_dev, stat.st_ino));
    program.env_remove(env::SHIM);
    let said = orders.value(PRELOAD).map(OsStr::to_owned);
    let before = said.or_else(|| std::env::var_os(PRELOAD)).unwrap_or_default();
    // Not that of an osps above us: it would obey our orders, too.
    let others = before.as_bytes().split(|byte| b": ".contains(byte));
    let others = others.filter(|path| !path.is_empty() && !outside::may_be_one(path, SHIM));
    let all: Vec<_> = others.chain([shim.as_bytes()]).collect();
    program.env(PRELOAD, OsString::from_vec(all.join(&b':')));
    Ok(kept)
}
