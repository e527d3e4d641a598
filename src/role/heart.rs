//! A heartbeat for programs of the user's own, under `osps run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env;
use super::orphan::{Orphan, Standing};
use crate::ids::{Generation, SlotId};
use crate::segment::{Access, AttachError, Segment, text};
use crate::sync::Ordering;
use crate::sys::clock::SystemClock;
use crate::time::{Clock, Monotonic};

/// A program's heart: beat it once per turn of the loop that does the work.
///
/// Never from a helper thread: a beat must prove that the main loop still turns. A beat costs
/// about one reading of the clock and is never a system call. The mapping is not inherited by
/// children, so that none of them can beat in the program's name.
///
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let mut heart = osps::Heart::from_env()?; // started by: osps run -- this-program
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
/// # osps::example::found_segment(dir.path())?;
/// use osps::segment::{Access, Segment};
///
/// let heart = osps::Heart::open(dir.path(), osps::ids::SlotId(0), osps::ids::Generation(0))?;
/// let view = Segment::open(dir.path(), Access::ReadOnly)?;
/// let before = view.hearts()[0].sample();
/// heart.beat();
/// let after = view.hearts()[0].sample();
/// assert_eq!(after.count, before.count + 1);
/// assert!(after.stamp > before.stamp);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Heart {
    run_dir: PathBuf,
    segment: Segment,
    slot: SlotId,
    generation: Generation,
    clock: SystemClock,
    orphan: Orphan,
    looked: Monotonic,
}

/// Why there is no heart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoHeart {
    /// The program was not started by osps.
    #[error("not started by osps ({0} is not set); start it with `osps run -- COMMAND`")]
    NotSupervised(&'static str),
    /// The environment makes no sense.
    #[error("{name} is {value:?}, not a number of osps's")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The segment cannot be used.
    #[error("{}: {source}", path.display())]
    Segment {
        /// The run directory.
        path: PathBuf,
        /// What is wrong.
        source: AttachError,
    },
    /// Another process runs in this slot by now.
    #[error("generation {0} of this slot was replaced")]
    Superseded(Generation),
}

impl Heart {
    /// The heart of a program that osps started, found through its environment.
    pub fn from_env() -> Result<Heart, NoHeart> {
        let text = |name| std::env::var(name).map_err(|_| NoHeart::NotSupervised(name));
        let slot = number(env::SLOT, &text(env::SLOT)?)?;
        let generation = number(env::GENERATION, &text(env::GENERATION)?)?;
        Heart::open(Path::new(&text(env::RUN_DIR)?), SlotId(slot), Generation(generation))
    }

    /// The heart of a slot in a run directory.
    pub fn open(run_dir: &Path, slot: SlotId, generation: Generation) -> Result<Heart, NoHeart> {
        let segment = Segment::open(run_dir, Access::ReadWrite)
            .map_err(|source| NoHeart::Segment { path: run_dir.to_owned(), source })?;
        let value = || slot.to_string();
        let record = segment
            .slots()
            .get(slot.index())
            .ok_or_else(|| NoHeart::Environment { name: env::SLOT, value: value() })?;
        if record.record.current_generation() != generation {
            return Err(NoHeart::Superseded(generation));
        }
        let clock = SystemClock;
        let now = clock.now();
        let orphan = Orphan::new(&segment, now, &text::load(&record.record.name));
        let run_dir = run_dir.to_owned();
        Ok(Heart { run_dir, segment, slot, generation, clock, orphan, looked: now })
    }

    /// Beats: a fresh stamp, then the count.
    pub fn beat(&self) {
        self.segment.hearts()[self.slot.index()].beat(self.clock.now());
    }

    /// Beats without a stamp, for loops that cannot afford a clock. A freeze is then noticed up to
    /// a check interval later.
    pub fn tick(&self) {
        self.segment.hearts()[self.slot.index()].tick();
    }

    /// Whether to finish and exit: osps said so, another process runs in this slot, or osps has
    /// been gone for the orphan timeout. Look at it once per turn, like beating.
    pub fn should_stop(&mut self) -> bool {
        let record = &self.segment.slots()[self.slot.index()].record;
        if record.stop_wanted() || record.current_generation() != self.generation {
            return true;
        }
        // A look that comes more than a second after the last one is a late one: no time in which
        // this program was stopped itself counts against the watchdog.
        let (now, planned) = (self.clock.now(), self.looked + Duration::from_secs(1));
        self.looked = now;
        self.orphan.look(&self.segment, now, planned) == Standing::Orphaned
    }

    /// Where this heart beats.
    pub(super) fn place(&self) -> (&Path, SlotId, Generation) {
        (&self.run_dir, self.slot, self.generation)
    }

    /// The longest time between two beats that this program promises.
    pub fn beat_interval(&self) -> Duration {
        Duration::from_nanos(self.segment.header().beat_interval_ns.load(Ordering::Relaxed))
    }
}

fn number<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<T, NoHeart> {
    value.parse().map_err(|_| NoHeart::Environment { name, value: value.to_owned() })
}
