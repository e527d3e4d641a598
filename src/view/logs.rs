//! `osps logs`: what services wrote into their files, together, each line with its service.
//!
//! Programs append to their logs themselves, so this only reads files; it needs no watchdog. A file
//! that was cut (logrotate's copytruncate) or replaced is read from its new beginning.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Error, Refusal};
use crate::instance::place::{Listed, Place, RunDir, SERVICES};
use crate::sys::poll::sleep;

/// How often files are looked at while they are followed.
const PERIOD: Duration = Duration::from_millis(200);
/// Most bytes at the end of a file in which its last lines are looked for.
const TAIL: u64 = 1 << 20;
/// What is read at once.
const CHUNK: usize = 64 << 10;
/// Longest line: a longer one is shown in pieces.
const LINE: usize = 16 << 10;

/// One file, of one service or of several that share it.
struct Log {
    /// Who writes there.
    name: String,
    path: PathBuf,
    file: Option<File>,
    /// Bytes of a line that has no end yet.
    rest: Vec<u8>,
}

/// Shows the last `lines` of each log, and what comes after that if it shall be followed.
pub fn main(
    place: &Place,
    services: &[String],
    follow: bool,
    lines: usize,
) -> Result<ExitCode, Error> {
    let mut logs = find(place, services)?;
    let width = logs.iter().map(|log| log.name.len()).max().unwrap_or_default();
    let mut out = io::stdout().lock();
    for log in &mut logs {
        // Whoever does not want to read any more is no failure.
        if log.last(lines, width, &mut out).and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if !follow {
        for log in &mut logs {
            // The last words of whoever crashed may have no end.
            let rest = std::mem::take(&mut log.rest);
            if !rest.is_empty() && show(&log.name, width, &rest, &mut out).is_err() {
                break;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        sleep(PERIOD);
        for log in &mut logs {
            if log.news(width, &mut out).and_then(|()| out.flush()).is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// The files of those that were asked for, each once.
fn find(place: &Place, services: &[String]) -> Result<Vec<Log>, Error> {
    let run_dir = RunDir::visit(&place.path).map_err(|_| place.not_running())?;
    let listed: Option<Vec<Listed>> = run_dir.read(SERVICES);
    let listed = listed.ok_or(Refusal::NoServices(place.path.clone()))?;
    if let Some(unknown) = services
        .iter()
        .find(|name| !listed.iter().any(|known| known.name == **name || known.family == **name))
    {
        let mut known: Vec<_> = listed.iter().map(|service| service.family.clone()).collect();
        known.dedup();
        return Err(Refusal::NoService { name: unknown.clone(), known }.into());
    }
    let mut logs: Vec<Log> = Vec::new();
    let mut silent = Vec::new();
    for service in &listed {
        let is_meant = |name: &String| *name == service.name || *name == service.family;
        if !services.is_empty() && !services.iter().any(is_meant) {
            continue;
        }
        let Some(path) = service.log.clone() else {
            silent.push(service.name.clone());
            continue;
        };
        match logs.iter_mut().find(|log| log.path == path) {
            // Nobody knows whose line it is.
            Some(log) if log.name != service.family => log.name.clone_from(&service.family),
            Some(_) => {}
            None => {
                let (file, rest) = (None, Vec::new());
                logs.push(Log { name: service.name.clone(), path, file, rest });
            }
        }
    }
    if !silent.is_empty() && (logs.is_empty() || !services.is_empty()) {
        log::warn!(
            "{} without a `log`: its output goes where that of osps goes",
            silent.join(", ")
        );
    }
    if logs.is_empty() { Err(Refusal::NoLogs.into()) } else { Ok(logs) }
}

impl Log {
    fn open(&mut self) {
        self.file = match File::open(&self.path) {
            Ok(file) => Some(file),
            Err(error) => {
                // It has not written anything yet; else it is worth a word, once.
                if error.kind() != io::ErrorKind::NotFound && self.file.is_none() {
                    log::warn!("{}: {}: {error}", self.name, self.path.display());
                }
                None
            }
        };
    }

    /// The last whole lines, and from then on what comes.
    fn last(&mut self, lines: usize, width: usize, out: &mut impl Write) -> io::Result<()> {
        self.open();
        let Some(file) = &mut self.file else { return Ok(()) };
        let Ok(length) = file.metadata().map(|meta| meta.len()) else { return Ok(()) };
        let from = length.saturating_sub(TAIL);
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(from)).is_err()
            || file.take(length - from).read_to_end(&mut bytes).is_err()
        {
            return Ok(());
        }
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.rest = bytes.split_off(end);
        let all: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for line in &all[all.len().saturating_sub(lines)..] {
            show(&self.name, width, line, out)?;
        }
        Ok(())
    }

    /// What came since the last look.
    fn news(&mut self, width: usize, out: &mut impl Write) -> io::Result<()> {
        let there = std::fs::metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        let here = self.file.as_ref().and_then(|file| file.metadata().ok());
        if let (Some(here), Some(file)) = (&here, &mut self.file) {
            if file.stream_position().is_ok_and(|at| at > here.len()) {
                let _ = file.rewind();
                self.end_line(width, out)?;
            }
            self.take(width, out)?;
        }
        let same = here.map(|here| (here.dev(), here.ino())) == there.as_ref().ok().copied();
        if there.is_ok() && !same {
            self.end_line(width, out)?;
            self.open();
            self.take(width, out)?;
        }
        Ok(())
    }

    /// The last words of a file that was replaced or cut may have no end.
    fn end_line(&mut self, width: usize, out: &mut impl Write) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { show(&self.name, width, &rest, out) }
    }

    fn take(&mut self, width: usize, out: &mut impl Write) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        while let Some(file) = &mut self.file
            && let Ok(length @ 1..) = file.read(&mut chunk)
        {
            self.rest.extend_from_slice(&chunk[..length]);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                show(&self.name, width, &line, out)?;
            }
            if self.rest.len() > LINE {
                let piece = std::mem::take(&mut self.rest);
                show(&self.name, width, &piece, out)?;
            }
        }
        Ok(())
    }
}

fn show(name: &str, width: usize, line: &[u8], out: &mut impl Write) -> io::Result<()> {
    write!(out, "{name:<width$} | ")?;
    out.write_all(line.strip_suffix(b"\n").unwrap_or(line))?;
    out.write_all(b"\n")
}
