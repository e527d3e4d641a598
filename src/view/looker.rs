//! A reader that looks again and again: at what a look costs, and without ever waiting.
//!
//! `osps status` looks once: it finds each process anew, and watches a silent watchdog for a second
//! and a half before it calls it frozen. Who looks four times a second keeps the processes that it
//! found (one poll each), and goes by what the looks before this one saw. A segment that was
//! replaced under its name is left for the new one. Reads only. Tested in tests/top.rs.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use super::snapshot::{Eyes, Snapshot, Standing};
use crate::instance::life::{Life, MOVES, is_stale};
use crate::sys::process::Process;
use crate::sys::raw;

/// A watchdog that is not there, or not visible, is looked for this often.
const SEEK: Duration = Duration::from_secs(1);

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// An instance.
    There(Box<Snapshot>),
    /// Nothing, any more or yet.
    Nothing,
    /// Something that cannot be read, and why.
    Unreadable(String),
}

/// Looks at whatever instance lives in one directory.
#[derive(Debug)]
pub struct Looker {
    run_dir: PathBuf,
    segment: Option<Segment>,
    opened: u64,
    memory: Memory,
}

/// What was seen at earlier looks.
#[derive(Debug, Default)]
struct Memory {
    watchdog: Option<Watchdog>,
    /// Beats of the watchdog, and since when it has had so many.
    beats: Option<(u64, Monotonic)>,
    /// Processes of servers that lived, and the look that asked for them last.
    held: HashMap<u32, (Process, u64)>,
    look: u64,
    now: Monotonic,
}

/// Who watches, as of the last time that it was looked for.
#[derive(Debug)]
struct Watchdog {
    standing: Standing,
    life: Life,
    /// Pid and start time in the header then.
    recorded: (u64, u64),
    since: Monotonic,
}

impl Looker {
    /// Of this run directory. Nothing is opened yet.
    pub fn new(run_dir: &Path) -> Looker {
        let (segment, memory) = (None, Memory::default());
        Looker { run_dir: run_dir.to_owned(), segment, opened: 0, memory }
    }

    /// Looks.
    pub fn look(&mut self, now: Monotonic) -> Sight {
        let known = self.run_dir.join(FILE_NAME);
        let is_same = |segment: &Segment| segment.is_file(std::fs::metadata(&known));
        if !self.segment.as_ref().is_some_and(is_same)
            && let Some(nothing) = self.find(now)
        {
            return nothing;
        }
        let Some(segment) = &self.segment else { return Sight::Nothing };
        self.memory.begin(now);
        let snapshot = Snapshot::through(segment, &self.run_dir, now, &mut self.memory);
        self.memory.end();
        Sight::There(Box::new(snapshot))
    }

    /// The segment that was looked at last.
    pub fn segment(&self) -> Option<&Segment> {
        self.segment.as_ref()
    }

    /// Segments that were opened so far: where it grew, numbers of events mean others.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Looks for a segment other than the one that was open, if there was one. A name that is gone
    /// while its watchdog lives comes back: then the mapping is the truth.
    fn find(&mut self, now: Monotonic) -> Option<Sight> {
        let found = match Segment::open(&self.run_dir, Access::ReadOnly) {
            Ok(found) => found,
            Err(AttachError::Io { answer, .. }) if answer.kind() == ErrorKind::NotFound => {
                let lives = self.segment.as_ref().is_some_and(|segment| {
                    self.memory.now = now;
                    self.memory.standing(segment, &self.run_dir).alive
                });
                if lives {
                    return None;
                }
                self.forget();
                return Some(Sight::Nothing);
            }
            Err(error) => {
                self.forget();
                return Some(Sight::Unreadable(format!("{}: {error}", Shown(&self.run_dir))));
            }
        };
        self.forget();
        // Whoever cuts the file short under us shall not end us.
        let range = found.addresses();
        let _ = raw::survive_bus_errors(range.start, range.end);
        self.segment = Some(found);
        self.opened += 1;
        None
    }

    fn forget(&mut self) {
        self.segment = None;
        self.memory = Memory::default();
    }
}

impl Memory {
    fn begin(&mut self, now: Monotonic) {
        self.look += 1;
        self.now = now;
    }

    /// Lets go of the processes that nobody asked for.
    fn end(&mut self) {
        self.held.retain(|_, (_, look)| *look == self.look);
    }
}

impl Eyes for Memory {
    fn standing(&mut self, segment: &Segment, run_dir: &Path) -> Standing {
        let header = segment.header();
        let recorded = (
            header.watchdog_pid.load(Ordering::Relaxed),
            header.watchdog_start_time.load(Ordering::Relaxed),
        );
        let still = |known: &Watchdog| {
            let lives = match &known.life {
                Life::Here(process) => !process.is_dead(),
                Life::Elsewhere(_) | Life::Gone => self.now.since(known.since) < SEEK,
            };
            lives && known.recorded == recorded
        };
        if let Some(known) = self.watchdog.as_ref().filter(|known| still(known)) {
            return known.standing;
        }
        let (standing, life) = Standing::of(segment, run_dir);
        self.watchdog = Some(Watchdog { standing, life, recorded, since: self.now });
        standing
    }

    fn is_frozen(&mut self, segment: &Segment, now: Monotonic) -> bool {
        let count = segment.header().watchdog_heart.sample().count;
        let (_, since) = *self
            .beats
            .insert(self.beats.filter(|(seen, _)| *seen == count).unwrap_or((count, now)));
        is_stale(segment) && now.since(since) >= MOVES
    }

    fn lives(&mut self, pid: u32, start_time: u64) -> bool {
        let look = self.look;
        if let Some((process, last)) = self.held.get_mut(&pid)
            && process.start_time() == start_time
        {
            *last = look;
            return !process.is_dead();
        }
        let found = Process::find(pid, start_time);
        let lives = found.is_some();
        if let Some(process) = found {
            self.held.insert(pid, (process, look));
        }
        lives
    }
}
