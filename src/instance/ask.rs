//! The asking side of the control socket: one request, lines of progress, an answer.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::orphan::watchdog_age;
use osps_heart::segment::layout::VERSION;
use osps_heart::segment::{Access, Segment};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::Clock;

use super::control::Wish;
use super::life::{is_frozen, is_locked};
use super::place::{CONTROL, Place, RunDir};
use crate::error::{Error, Refusal};
use crate::sys::poll::pause;
use crate::sys::process::Process;
use crate::sys::{Failed, output, procfs, socket};

/// How long an answer may take: a watchdog answers within one turn.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the new image may take to begin.
const UPGRADE: Duration = Duration::from_secs(10);

/// Who was asked, and what came back so far.
struct Talk<'a> {
    place: &'a Place,
    stream: UnixStream,
    watchdog: Option<Process>,
    segment: Option<Segment>,
    /// Bytes that are not a whole line yet.
    rest: Vec<u8>,
}

/// Stops an instance, showing how it goes unless it shall be quiet.
pub fn stop(place: &Place, quiet: bool) -> Result<ExitCode, Error> {
    let mut talk = Talk::begin(place, &Wish::StopAll)?;
    while let Some(line) = talk.line()? {
        match line.strip_prefix(b"error ") {
            Some(why) => return Err(refused(why)),
            None if quiet => {}
            None => show(line.strip_prefix(b"ok ").unwrap_or(&line)),
        }
    }
    // The stream ends with the watchdog, after everything that it made was removed.
    if place.path.join(CONTROL).symlink_metadata().is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    let dead = talk.watchdog.map_or_else(|| !is_locked(&place.path), |process| process.is_dead());
    let why = if dead { Refusal::LeftOver(place.path.clone()) } else { Refusal::HungUp };
    Err(why.into())
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// How it goes, or how it ended: well.
    Progress(String),
    /// What is wrong with what was asked for.
    Problem(String),
}

/// Asks for something else, and returns when it is done: the last line says how that went.
pub fn ask(place: &Place, wish: &Wish, quiet: bool) -> Result<ExitCode, Error> {
    hear(place, wish, &mut |said| match said {
        Said::Problem(text) => log::error!("{text}"),
        Said::Progress(text) if !quiet => {
            output::print(format!("{text}\n").as_bytes());
        }
        Said::Progress(_) => {}
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The same, where somebody else shows what is said.
pub fn hear(place: &Place, wish: &Wish, tell: &mut dyn FnMut(Said)) -> Result<(), Error> {
    let mut talk = Talk::begin(place, wish)?;
    while let Some(line) = talk.line()? {
        if let Some(why) = line.strip_prefix(b"error ") {
            return Err(refused(why));
        }
        if let Some(how) = line.strip_prefix(b"failed ") {
            return Err(Refusal::CameOut(shown(how)).into());
        }
        if let Some(what) = line.strip_prefix(b"problem ") {
            tell(Said::Problem(shown(what)));
            continue;
        }
        let end = line.strip_prefix(b"ok ");
        tell(Said::Progress(shown(end.unwrap_or(&line))));
        if end.is_some() {
            return Ok(());
        }
    }
    Err(Refusal::HungUp.into())
}

/// Lets a running osps become another binary, in its own process. That has to say first that it
/// reads this layout; the watchdog lets it read its file of services before it lets go.
pub fn upgrade(place: &Place, image: &Path, quiet: bool) -> Result<ExitCode, Error> {
    let image = std::path::absolute(image).map_err(Failed::to("find", Shown(image)))?;
    let version = layout_of(&image)?;
    let started = || {
        let segment = Segment::open(&place.path, Access::ReadOnly).ok()?;
        Some(segment.header().started_ns.load(Ordering::Relaxed))
    };
    let before = started();
    let mut talk = Talk::begin(place, &Wish::Upgrade(image))?;
    while let Some(line) = talk.line()? {
        if let Some(why) = line.strip_prefix(b"error ") {
            return Err(refused(why));
        }
        match line.strip_prefix(b"problem ") {
            Some(what) => log::error!("{}", shown(what)),
            None => show(&line),
        }
    }
    // Its last word is the end of the stream: the exec closed it.
    let until = SystemClock.now() + UPGRADE;
    while started() == before {
        if SystemClock.now() >= until {
            return Err(Refusal::HungUp.into());
        }
        pause();
    }
    let pid = talk.watchdog.map_or(0, |process| process.pid());
    if !quiet {
        show(format!("upgraded to osps {version}: pid {pid} goes on with its servers").as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}

/// What another binary says of itself: the layout that it reads, and its version.
pub fn layout() -> String {
    format!("{VERSION} {}", env!("CARGO_PKG_VERSION"))
}

/// The version of another binary, if it reads the same layout.
fn layout_of(image: &Path) -> Result<String, Error> {
    let mut osps = std::process::Command::new(image);
    let output = osps.arg("__layout").stdin(std::process::Stdio::null()).output();
    let output = output.map_err(Failed::to("run", Shown(image)))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (layout, version) = said.trim().split_once(' ').unwrap_or_default();
    if !output.status.success() || layout != VERSION.to_string() {
        let (image, layout) = (image.to_owned(), layout.to_owned());
        return Err(Refusal::OtherLayout { image, layout }.into());
    }
    Ok(version.to_owned())
}

impl<'a> Talk<'a> {
    fn begin(place: &'a Place, wish: &Wish) -> Result<Talk<'a>, Error> {
        let not_running = || Error::from(place.not_running());
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
        // The kernel's word for who listens; the segment may be cut short or not be readable.
        // Nobody is seen if the watchdog runs in another pid namespace: it is asked all the same.
        let (owner, pid) = socket::peer(&stream)?;
        if owner != run_dir.owner()? {
            return Err(Refusal::ForeignSocket { path: place.path.join(CONTROL), owner }.into());
        }
        let watchdog = pid.and_then(|pid| Process::find(pid, procfs::start_time(pid)?));
        let segment = Segment::open(&place.path, Access::ReadOnly).ok();
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        stream.write_all(format!("{}\n", wish.line()).as_bytes()).map_err(failed)?;
        Ok(Talk { place, stream, watchdog, segment, rest: Vec::new() })
    }

    /// The next line; `None` = the watchdog closed the connection.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut chunk = [0u8; 4096];
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(length) => self.rest.extend_from_slice(&chunk[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    self.explain_silence()?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Nothing came for a while: is it still at work, or frozen?
    fn explain_silence(&self) -> Result<(), Refusal> {
        let segment = self.segment.as_ref();
        let age = segment.and_then(|segment| watchdog_age(segment, SystemClock.now()));
        let frozen = segment.map(is_frozen);
        let Some(watchdog) = &self.watchdog else {
            let path = self.place.path.clone();
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
}

fn refused(why: &[u8]) -> Error {
    Refusal::Watchdog(shown(why)).into()
}

/// A line of a watchdog that may be another user's: a terminal shall not obey it.
fn shown(line: &[u8]) -> String {
    Shown(OsStr::from_bytes(line)).to_string()
}

fn show(line: &[u8]) {
    output::print(format!("{}\n", shown(line)).as_bytes());
}
