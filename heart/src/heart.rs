//! A heartbeat for programs of the user's own.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::SystemClock;
use crate::ids::{Claim, Generation, SlotId};
use crate::orphan::{Orphan, Standing};
use crate::segment::area::{Busy, OutOfBounds};
use crate::segment::{Access, AttachError, Segment, Unforked, text};
use crate::shown::Shown;
use crate::sync::Ordering;
use crate::time::{Clock, Monotonic, nanos};
use crate::words::env;

/// A program's heart: beat it once per turn of the loop that does the work.
///
/// Never from a helper thread: a beat must prove that the main loop still turns. A beat costs
/// about one reading of the clock and is never a system call. The mapping is not inherited by
/// children, so that none of them can beat in the program's name.
///
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let mut heart = osps_heart::Heart::from_env()?; // started by: osps run -- this-program
///     while !heart.should_stop() {
///         // ... one turn of work, shorter than the hang timeout ...
///         heart.beat();
///         std::thread::sleep(heart.beat_interval());
///     }
///     Ok(())
/// }
/// ```
///
/// Whoever maps the segment sees it beat:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # osps_heart::example::create_segment(dir.path())?;
/// # use osps_heart::{ids::{Generation, SlotId}, segment::{Access, Segment}};
/// # let heart = osps_heart::Heart::open(dir.path(), SlotId(0), Generation(0))?;
/// # let view = Segment::open(dir.path(), Access::ReadOnly)?;
/// let before = view.hearts()[0].sample();
/// heart.beat();
/// let after = view.hearts()[0].sample();
/// assert_eq!(after.count, before.count + 1);
/// assert!(after.stamp > before.stamp);
/// # Ok(())
/// # }
/// ```
///
/// A heart has one writer: it may move to another thread, but two threads cannot share it.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>(_: &T) {}
/// fn beat_from_two_threads(heart: &osps_heart::Heart) {
///     shared(heart);
/// }
/// ```
#[derive(Debug)]
pub struct Heart {
    run_dir: PathBuf,
    segment: Segment,
    slot: SlotId,
    generation: Generation,
    /// Index of its line: the slot's own, or a further one that is given back on drop.
    line: usize,
    parked: Cell<bool>,
    unforked: Unforked,
    clock: SystemClock,
    orphan: Orphan,
    looked: Monotonic,
    /// A beat is a load and a store: a second writer's beat would be lost.
    one_writer: PhantomData<Cell<()>>,
}

/// Why there is no heart, or no data. The text says what was tried, on what, and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum HeartError {
    /// The program was not started by osps: this variable is not set.
    NotSupervised(&'static str),
    /// The environment makes no sense.
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The segment cannot be used.
    Segment {
        /// The run directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another process runs in this slot: the generation that was asked for is over.
    Superseded(u32),
    /// Another process of this program was first, so this heart is its: a child that opens the
    /// heart of its parent, say. The pid is as that process sees it.
    Taken {
        /// Its pid.
        pid: u32,
    },
    /// Every heart line of the instance is taken.
    Full {
        /// So many there are.
        lines: usize,
    },
    /// Commits kept coming while the data was read: try again.
    Busy,
    /// Outside of the data area.
    OutOfBounds {
        /// First byte.
        offset: usize,
        /// Number of bytes.
        length: usize,
    },
    /// Somebody else owns the data area, or another process runs in this slot.
    NotOwner,
    /// Only a program that is alone in its instance owns the data area by itself.
    NotAlone,
}

impl fmt::Display for HeartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeartError::NotSupervised(name) => write!(
                f,
                "not started by osps ({name} is not set); start it with `osps run -- COMMAND`"
            ),
            HeartError::Environment { name, value } => {
                write!(f, "{name} is \"{value}\", not a number of osps's")
            }
            HeartError::Segment { path, why } => write!(f, "{}: {why}", Shown(path)),
            HeartError::Superseded(generation) => {
                write!(f, "generation {generation} of this slot was replaced")
            }
            HeartError::Taken { pid } => write!(
                f,
                "taken by pid {pid}: a heart has one owner, the first process that opens it; do \
                 not beat here, or let this process open it first"
            ),
            HeartError::Full { lines } => write!(
                f,
                "all {lines} heart lines are taken; drop a named heart that is not needed"
            ),
            HeartError::Busy => Busy.fmt(f),
            HeartError::OutOfBounds { offset, length } => {
                OutOfBounds { offset: *offset, length: *length }.fmt(f)
            }
            HeartError::NotOwner => f.write_str("the data area belongs to somebody else"),
            HeartError::NotAlone => {
                f.write_str("only the program of an `osps run` instance can own the data area")
            }
        }
    }
}

impl std::error::Error for HeartError {}

impl From<Busy> for HeartError {
    fn from(_: Busy) -> HeartError {
        HeartError::Busy
    }
}

impl From<OutOfBounds> for HeartError {
    fn from(OutOfBounds { offset, length }: OutOfBounds) -> HeartError {
        HeartError::OutOfBounds { offset, length }
    }
}

impl HeartError {
    /// For `map_err` of an attempt to attach the segment in a run directory.
    pub(crate) fn in_dir(path: &Path) -> impl FnOnce(AttachError) -> HeartError {
        move |error| HeartError::Segment { path: path.to_owned(), why: error.to_string() }
    }
}

impl Heart {
    /// The heart of a program that osps started, found through its environment, and claimed for
    /// this process: any other process of the program is refused from now on, so that no child
    /// can beat in its parent's name. Dropping does not give it back; osps frees it when this
    /// process ends.
    pub fn from_env() -> Result<Heart, HeartError> {
        let (run_dir, slot, generation) = Heart::environment()?;
        Heart::open(&run_dir, slot, generation)
    }

    /// Where a program that osps started, and every child of it, is to beat.
    #[doc(hidden)]
    pub fn environment() -> Result<(PathBuf, SlotId, Generation), HeartError> {
        let value = |name| std::env::var_os(name).ok_or(HeartError::NotSupervised(name));
        let slot = number(env::SLOT, &value(env::SLOT)?)?;
        let generation = number(env::GENERATION, &value(env::GENERATION)?)?;
        Ok((value(env::RUN_DIR)?.into(), SlotId(slot), Generation(generation)))
    }

    /// A further heart of this program, for a thread with a loop of its own: judged like the first
    /// one from its first beat on, by its own limit (20 ms to 30 days; zero = the hang timeout).
    /// The verdict names it. [`park`](Heart::park) it while its thread waits for work; dropping it
    /// gives it back. Takes no lock: killed in between, osps frees the line.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn next_job() -> Option<u64> { None }
    /// # fn main() -> Result<(), osps_heart::HeartError> {
    /// let writer = osps_heart::Heart::named("db-writer", Duration::from_secs(2))?;
    /// while let Some(job) = { writer.park(); next_job() } {
    ///     writer.beat(); // at the start of a job, and within it
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(name: &str, limit: Duration) -> Result<Heart, HeartError> {
        let (run_dir, slot, generation) = Heart::environment()?;
        Heart::open_named(&run_dir, slot, generation, name, limit)
    }

    /// The segment in a run directory, if this generation runs in this slot.
    #[doc(hidden)]
    pub fn attach(
        run_dir: &Path,
        slot: SlotId,
        generation: Generation,
    ) -> Result<Segment, HeartError> {
        let segment =
            Segment::open(run_dir, Access::ReadWrite).map_err(HeartError::in_dir(run_dir))?;
        let no_slot = || HeartError::Environment { name: env::SLOT, value: slot.to_string() };
        let page = segment.slots().get(slot.index()).ok_or_else(no_slot)?;
        if page.server.current_generation() != generation {
            return Err(HeartError::Superseded(generation.0));
        }
        Ok(segment)
    }

    /// A further heart of a slot in a run directory.
    #[doc(hidden)]
    pub fn open_named(
        run_dir: &Path,
        slot: SlotId,
        generation: Generation,
        name: &str,
        limit: Duration,
    ) -> Result<Heart, HeartError> {
        let segment = Heart::attach(run_dir, slot, generation)?;
        let mine = own_claim(slot, generation);
        let lines = segment.hearts().len();
        let free = (segment.slots().len()..lines)
            .find(|line| segment.hearts()[*line].claim_free(mine))
            .ok_or(HeartError::Full { lines })?;
        let cells = &segment.hearts()[free];
        // What a predecessor's line says is not ours. Not judged before the first beat.
        cells.limit_ns.store(nanos(limit), Ordering::Relaxed);
        text::store(&cells.name, name);
        Heart::on_line(run_dir, segment, slot, generation, free)
    }

    /// The heart of a slot in a run directory.
    #[doc(hidden)]
    pub fn open(run_dir: &Path, slot: SlotId, generation: Generation) -> Result<Heart, HeartError> {
        let segment = Heart::attach(run_dir, slot, generation)?;
        let mine = own_claim(slot, generation);
        segment.hearts()[slot.index()].claim(mine).map_err(|other| {
            if mine.generation == other.generation {
                HeartError::Taken { pid: other.pid }
            } else {
                HeartError::Superseded(generation.0)
            }
        })?;
        Heart::on_line(run_dir, segment, slot, generation, slot.index())
    }

    fn on_line(
        run_dir: &Path,
        segment: Segment,
        slot: SlotId,
        generation: Generation,
        line: usize,
    ) -> Result<Heart, HeartError> {
        let clock = SystemClock;
        let now = clock.now();
        let orphan = Orphan::new(&segment, now);
        let unforked = Unforked::new().map_err(|answer| {
            let op = "mark this process for";
            HeartError::in_dir(run_dir)(AttachError::Io { op, answer })
        })?;
        Ok(Heart {
            run_dir: run_dir.to_owned(),
            segment,
            slot,
            generation,
            line,
            parked: Cell::new(false),
            unforked,
            clock,
            orphan,
            looked: now,
            one_writer: PhantomData,
        })
    }

    /// Beats: a fresh stamp, then the count. Does nothing in a forked child, and once another
    /// generation runs in the slot: nobody beats in another's name.
    pub fn beat(&self) {
        if self.is_current() {
            self.segment.hearts()[self.line].beat(self.clock.now());
            self.parked.set(false);
        }
    }

    /// Says that this loop waits for work: from now on its silence means nothing, until the next
    /// beat. Being stopped meanwhile is not noticed by this heart.
    pub fn park(&self) {
        if self.is_current() {
            self.segment.hearts()[self.line].park();
            self.parked.set(true);
        }
    }

    /// Beats without a stamp, for loops that cannot afford a clock. A freeze is then noticed up to
    /// a check interval later.
    pub fn tick(&self) {
        if self.parked.get() {
            // The stamp still says parked.
            self.beat();
        } else if self.is_current() {
            self.segment.hearts()[self.line].tick();
        }
    }

    /// Says what the program does, at most 96 bytes: `osps status` shows it.
    pub fn set_activity(&self, text: &str) {
        if self.is_current() {
            self.segment.slots()[self.slot.index()].activity.set_text(text);
        }
    }

    fn is_current(&self) -> bool {
        // First, since a child does not have the segment.
        if !self.unforked.holds() {
            return false;
        }
        let server = &self.segment.slots()[self.slot.index()].server;
        server.current_generation() == self.generation
    }

    /// Whether to finish and exit: osps said so, another process runs in this slot, or osps has
    /// been gone for the orphan timeout. Look at it once per turn, like beating.
    pub fn should_stop(&mut self) -> bool {
        if !self.is_current() {
            return true;
        }
        let page = &self.segment.slots()[self.slot.index()];
        // Who looks is not sent a signal at once.
        page.activity.heeds.store(u64::from(self.generation.0), Ordering::Relaxed);
        if page.server.stop_wanted() {
            return true;
        }
        // A look that comes more than a second after the last one is a late one: no time in which
        // this program was stopped itself counts against the watchdog.
        let (now, planned) = (self.clock.now(), self.looked + Duration::from_secs(1));
        self.looked = now;
        matches!(self.orphan.look(&self.segment, now, planned), Standing::Orphaned(_))
    }

    /// Where this heart beats.
    pub(crate) fn place(&self) -> (&Path, SlotId, Generation) {
        (&self.run_dir, self.slot, self.generation)
    }

    /// The longest time between two beats that this program promises.
    pub fn beat_interval(&self) -> Duration {
        Duration::from_nanos(self.segment.header().beat_interval_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Heart {
    /// Gives a further line back. The slot's own stays: osps frees it when this process ends.
    fn drop(&mut self) {
        if self.line >= self.segment.geometry().slots && self.is_current() {
            self.park();
            self.segment.hearts()[self.line].give_back(own_claim(self.slot, self.generation));
        }
    }
}

fn own_claim(slot: SlotId, generation: Generation) -> Claim {
    Claim::of(slot, generation, std::process::id(), own_start_time())
}

/// When this process started, in clock ticks since boot; 0 = `/proc` does not say, and then the
/// claim goes by the pid alone.
fn own_start_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name stands in parentheses and may hold anything. Field 22; the state is 3.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn number<T: std::str::FromStr>(name: &'static str, value: &OsStr) -> Result<T, HeartError> {
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.ok_or_else(|| HeartError::Environment { name, value: Shown(value).to_string() })
}
