//! `osps stop`: asks, shows the progress, and returns when all is gone.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::orphan::watchdog_age;
use osps_heart::segment::{Access, Segment};
use osps_heart::shown::Shown;
use osps_heart::time::Clock;

use super::life::{is_frozen, is_locked};
use super::place::{CONTROL, Place, RunDir};
use crate::error::{Error, Refusal};
use crate::sys::process::Process;
use crate::sys::{Failed, output, procfs, socket};

/// How long an answer may take: a watchdog answers within one turn.
const ANSWER: Duration = Duration::from_secs(2);

/// Stops an instance, showing how it goes unless it shall be quiet.
pub fn main(place: &Place, quiet: bool) -> Result<ExitCode, Error> {
    let not_running = || Error::from(Refusal::NotRunning(place.path.clone()));
    let run_dir = match RunDir::visit(&place.path) {
        Err(Error::Failed(failed)) if failed.answer.kind() == ErrorKind::NotFound => {
            return Err(not_running());
        }
        other => other?,
    };
    let failed = |error| Failed::to("talk to", "the watchdog")(error);
    let mut stream = match socket::connect_unix(run_dir.as_fd(), CONTROL) {
        Ok(stream) => stream,
        Err(failed) if failed.answer.kind() == ErrorKind::NotFound => {
            let between = is_locked(&place.path).then(|| Refusal::Between(place.path.clone()));
            return Err(between.map_or_else(not_running, Error::from));
        }
        Err(failed) if failed.answer.kind() == ErrorKind::ConnectionRefused => {
            return Err(Refusal::NoWatchdog(place.path.clone()).into());
        }
        Err(failed) => {
            let object = Shown(place.path.join(CONTROL)).to_string();
            return Err(Failed { object, ..failed }.into());
        }
    };
    // The kernel's word for who listens; the segment may be cut short or not be readable. Nobody
    // is seen if the watchdog runs in another pid namespace: it is asked all the same.
    let (owner, pid) = socket::peer(&stream)?;
    if owner != run_dir.owner()? {
        return Err(Refusal::ForeignSocket { path: place.path.join(CONTROL), owner }.into());
    }
    let watchdog = pid.and_then(|pid| Process::find(pid, procfs::start_time(pid)?));
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
                if !quiet {
                    show(lines);
                }
                seen.extend_from_slice(&chunk[..length]);
                if seen.starts_with(b"error") {
                    let why = Shown(OsStr::from_bytes(seen.trim_ascii())).to_string();
                    return Err(Refusal::Watchdog(why).into());
                }
                seen.truncate(64);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                explain_silence(place, segment.as_ref(), watchdog.as_ref())?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // The stream ends with the watchdog, after everything that it made was removed.
    if place.path.join(CONTROL).symlink_metadata().is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    let dead = watchdog.map_or_else(|| !is_locked(&place.path), |watchdog| watchdog.is_dead());
    let why = if dead { Refusal::LeftOver(place.path.clone()) } else { Refusal::HungUp };
    Err(why.into())
}

/// Prints lines of a watchdog that may be another user's: a terminal shall not obey them.
fn show(lines: &[u8]) {
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let end = if text.len() < line.len() { "\n" } else { "" };
        output::print(format!("{}{end}", Shown(OsStr::from_bytes(text))).as_bytes());
    }
}

/// Nothing came for a while: is it still at work, or frozen?
fn explain_silence(
    place: &Place,
    segment: Option<&Segment>,
    watchdog: Option<&Process>,
) -> Result<(), Refusal> {
    let age = segment.and_then(|segment| watchdog_age(segment, SystemClock.now()));
    let frozen = segment.map(is_frozen);
    let Some(watchdog) = watchdog else {
        let path = place.path.clone();
        let frozen = frozen.unwrap_or(false);
        return if frozen { Err(Refusal::FrozenElsewhere { path, age }) } else { Ok(()) };
    };
    let pid = watchdog.pid();
    let frozen = frozen.unwrap_or_else(|| procfs::state(pid) == Some('T'));
    if !frozen || watchdog.is_dead() {
        return Ok(());
    }
    let state = procfs::state(pid).unwrap_or('?');
    Err(Refusal::FrozenWatchdog { pid, age, state })
}
