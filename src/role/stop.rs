//! `osps stop`: asks, shows the progress, and returns when all is gone.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use super::Error;
use super::rundir::{self, Place, RunDir, WATCHDOG_STALE};
use crate::segment::{Access, Segment};
use crate::sys::clock::SystemClock;
use crate::sys::process::Process;
use crate::sys::{Failed, output, procfs, socket};
use crate::time::{Clock, Short};

/// How long an answer may take: a watchdog answers within one turn.
const ANSWER: Duration = Duration::from_secs(2);

/// Stops an instance.
pub fn main(place: &Place) -> Result<ExitCode, Error> {
    let shown = place.path.display();
    let not_running = || Error::Refused(format!("osps does not run in {shown}"));
    let run_dir = match RunDir::open(&place.path) {
        Err(Error::Failed(failed)) if failed.source.kind() == ErrorKind::NotFound => {
            return Err(not_running());
        }
        other => other?,
    };
    let failed = |error| Failed::to("talk to", "the watchdog")(error);
    let mut stream = match socket::connect_unix(run_dir.as_fd(), rundir::CONTROL) {
        Ok(stream) => stream,
        Err(failed) if failed.source.kind() == ErrorKind::NotFound => return Err(not_running()),
        Err(failed) if failed.source.kind() == ErrorKind::ConnectionRefused => {
            return Err(Error::Refused(format!(
                "no watchdog runs in {shown}; `osps status` shows what is left, and starting osps \
                 there cleans up"
            )));
        }
        Err(failed) => return Err(failed.into()),
    };
    // The kernel's word for who listens; the segment may be cut short or not be readable.
    let (_, pid) = socket::peer(&stream)?;
    let start_time = procfs::start_time(pid).unwrap_or(0);
    let watchdog = Process::find(pid, start_time).ok_or_else(not_running)?;
    let segment = Segment::open(&place.path, Access::ReadOnly).ok();
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    stream.write_all(b"stop\n").map_err(failed)?;
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                let lines = chunk[..length].strip_prefix(b"ok ").unwrap_or(&chunk[..length]);
                output::print(lines);
                seen.extend_from_slice(&chunk[..length]);
                if seen.starts_with(b"error") {
                    let why = String::from_utf8_lossy(&seen).trim().to_owned();
                    return Err(Error::Refused(format!("the watchdog refused: {why}")));
                }
                seen.truncate(64);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                explain_silence(segment.as_ref(), &watchdog)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // The stream ends with the watchdog, after everything that it made was removed.
    if place.path.join(rundir::CONTROL).symlink_metadata().is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::Refused(if watchdog.is_dead() {
        format!("the watchdog ended, but not everything is gone: see its log and {shown}")
    } else {
        "the watchdog hung up without stopping; try again".to_owned()
    }))
}

/// Nothing came for a while: is it still at work, or frozen?
fn explain_silence(segment: Option<&Segment>, watchdog: &Process) -> Result<(), Error> {
    let age = segment.and_then(|segment| rundir::watchdog_age(segment, SystemClock.now()));
    let pid = watchdog.pid();
    let stopped = procfs::state(pid) == Some('T');
    let beats = age.map_or(!stopped, |age| age < WATCHDOG_STALE);
    if beats || watchdog.is_dead() {
        return Ok(());
    }
    let silent = age.map_or("an unknown time".to_owned(), |age| Short(age).to_string());
    Err(Error::Refused(format!(
        "the watchdog (pid {pid}) is frozen: no beat for {silent}, state {}. Continue it with \
         `kill -CONT {pid}`: it then stops as asked; or end it with `kill -9 {pid}`",
        procfs::state(pid).unwrap_or('?')
    )))
}
