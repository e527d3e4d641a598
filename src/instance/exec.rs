//! The trampoline: `osps __exec SLOT GENERATION [-- COMMAND...]`, what every server starts as.
//!
//! After exec this is an ordinary single-threaded program, so child set-up needs no `unsafe`. It
//! takes its share of `members`, waits at the gate until the watchdog has recorded it, and resets
//! what must not be inherited. A built-in server goes on in the same process; a foreign program is
//! exec'd, with its listening sockets from descriptor 3 on. If the watchdog dies first, the gate
//! ends and the trampoline leaves: no unrecorded server can exist.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use osps_heart::ids::{Generation, SlotId};
use osps_heart::shown::Shown;
use osps_heart::words::env;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use super::place::RunDir;
use crate::error::{Error, Refusal};
use crate::sys::process::{self, Report};
use crate::sys::{Failed, procfs, raw, signals, socket};

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
/// process if there is no foreign program to exec. What fails before that is told to the watchdog,
/// as a failure that is not the program's.
pub fn main(
    args: &[OsString],
    built_in: fn(Birth) -> Result<ExitCode, Error>,
) -> Result<ExitCode, Error> {
    let (slot, generation, command) = parse(args).ok_or(Refusal::NotForPeople("__exec"))?;
    let report = fcntl_dupfd_cloexec(std::io::stdin(), high())
        .map_err(Failed::to("keep", "standard input"))?;
    let prepared = prepare(slot, generation).and_then(|birth| match (birth, command) {
        (Some(birth), Some(command)) => Err(exec(command, &birth.sockets, &birth.members)),
        (birth, _) => Ok(birth),
    });
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

/// Everything up to the open gate; `None` = it will not open.
fn prepare(slot: SlotId, generation: Generation) -> Result<Option<Birth>, Error> {
    let path = std::env::var_os(env::RUN_DIR).ok_or(Refusal::Environment(env::RUN_DIR))?;
    // A session of its own: no stop from a terminal reaches it, and it leads its process group.
    rustix::process::setsid().map_err(Failed::to("start", "session"))?;
    let run_dir = RunDir::open(Path::new(&path))?;
    // Joined before the gate opens: a sweep that got `members` cannot have missed us.
    let low = run_dir.join()?;
    let members = fcntl_dupfd_cloexec(&low, high()).map_err(Failed::to("keep", "members"))?;
    // The share is given up when the last descriptor is closed: keep one.
    drop((low, run_dir));
    let Some((_, sockets)) = socket::receive_descriptors(std::io::stdin())? else {
        return Ok(None);
    };
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failed::to("open", "/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(Failed::to("replace", "standard input"))?;
    drop(null);
    signals::reset()?;
    Ok(Some(Birth { run_dir: path.into(), slot, generation, sockets, members }))
}

/// The lowest number for what is kept: [`HIGH`], or less where so many are not allowed.
fn high() -> i32 {
    let limit = process::descriptor_limit().and_then(|limit| i32::try_from(limit / 2).ok());
    limit.map_or(HIGH, |half| half.min(HIGH))
}

fn parse(args: &[OsString]) -> Option<(SlotId, Generation, Option<&[OsString]>)> {
    let (slot, generation) = (args.first()?.to_str()?, args.get(1)?.to_str()?);
    let (slot, generation) = (slot.parse().ok()?, generation.parse().ok()?);
    let command = match args.get(2) {
        None => None,
        Some(dashes) if dashes == "--" => Some(args.get(3..).filter(|rest| !rest.is_empty())?),
        Some(_) => return None,
    };
    Some((SlotId(slot), Generation(generation), command))
}

/// Becomes the program; returns only if that fails. Its arguments are not told then: they may hold
/// secrets, and a log is read by many.
fn exec(command: &[OsString], sockets: &[OwnedFd], members: &OwnedFd) -> Error {
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]);
    let shim = std::env::var_os(env::SHIM);
    let (sockets, segment) = match (shim, sockets.split_last()) {
        (Some(shim), Some((segment, sockets))) => match preload(&mut program, &shim, segment) {
            Ok(kept) => (sockets, Some(kept)),
            Err(error) => return error,
        },
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
    }
    // The program's share of `members` goes on with it.
    if let Err(errno) = fcntl_setfd(members, FdFlags::empty()) {
        return Failed::to("pass on", "members")(errno).into();
    }
    if let Some(limit) = std::env::var(env::DESCRIPTORS).ok().and_then(|text| text.parse().ok()) {
        process::lower_descriptor_limit(limit);
    }
    program.env_remove(env::DESCRIPTORS);
    raw::default_signals();
    let error = Failed::to("run", Shown(&command[0]))(program.exec()).into();
    drop(segment);
    error
}

/// Lets the program load the shim, behind what its user preloads, and gives it the segment, which
/// goes on with it: through a descriptor, whatever user or root directory it will have.
fn preload(program: &mut Command, shim: &OsStr, segment: &OwnedFd) -> Result<OwnedFd, Error> {
    let kept = fcntl_dupfd_cloexec(segment, high()).map_err(Failed::to("keep", "segment"))?;
    fcntl_setfd(&kept, FdFlags::empty()).map_err(Failed::to("pass on", "segment"))?;
    let stat = fstat(&kept).map_err(Failed::to("look at", "segment"))?;
    let mode = std::env::var(env::LOOP).unwrap_or_default();
    let (fd, filters) = (kept.as_raw_fd(), procfs::own_filters());
    program.env(env::LOOP, format!("{fd}:{}:{}:{filters}:{mode}", stat.st_dev, stat.st_ino));
    program.env_remove(env::SHIM);
    let mut all = std::env::var_os(PRELOAD).unwrap_or_default();
    if !all.is_empty() {
        all.push(":");
    }
    all.push(shim);
    program.env(PRELOAD, all);
    Ok(kept)
}
