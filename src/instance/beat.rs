//! `osps beat`: one beat of a script, whose commands are processes of their own.
//!
//! The line stays unclaimed, since this process ends at once: beats count all the same, whichever
//! child of the script it is that beats. A further heart has to be claimed, so it is claimed for
//! the leader, which is there as long as the script. Tested in tests/languages.rs.

use std::fs::File;
use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Claim, Generation, SlotId};
use osps_heart::segment::layout::HeartCells;
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::{Segment, text};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::Clock;
use osps_heart::{Heart, HeartError};
use rustix::fs::{FlockOperation, flock};

use crate::error::Error;
use crate::sys::Failed;

/// Beats the heart of this name, or the program's own.
pub fn main(name: Option<&str>, activity: Option<&str>) -> Result<ExitCode, Error> {
    let (run_dir, slot, generation) = Heart::environment()?;
    let segment = Heart::attach(&run_dir, slot, generation)?;
    let line = match name {
        None => {
            let own = &segment.hearts()[slot.index()];
            match own.claimed().pid {
                0 => own,
                pid => return Err(HeartError::Taken { pid }.into()),
            }
        }
        Some(name) => {
            // Of two that come at once with a new name, one claims a line for it, and the other
            // finds it. The lock goes with the file.
            let path = run_dir.join(FILE_NAME);
            let file = File::open(&path).map_err(Failed::to("open", Shown(&path)))?;
            flock(&file, FlockOperation::LockExclusive)
                .map_err(Failed::to("lock", Shown(&path)))?;
            further(&segment, slot, generation, name)?
        }
    };
    if let Some(activity) = activity {
        segment.slots()[slot.index()].activity.set_text(activity);
    }
    line.beat(SystemClock.now());
    Ok(ExitCode::SUCCESS)
}

/// The further heart of this name, claimed for the leader.
fn further<'a>(
    segment: &'a Segment,
    slot: SlotId,
    generation: Generation,
    name: &str,
) -> Result<&'a HeartCells, HeartError> {
    let leader = segment.slots()[slot.index()].server.identity();
    let leader = leader.filter(|leader| leader.generation == generation);
    let leader = leader.ok_or(HeartError::Superseded(generation.0))?;
    let mine = Claim::of(slot, generation, leader.pid, leader.start_time);
    let lines = segment.hearts().len();
    let further = || segment.hearts().iter().skip(segment.slots().len());
    let known = further().find(|line| line.claimed() == mine && text::is_stored(&line.name, name));
    if let Some(line) = known {
        return Ok(line);
    }
    let line = further().find(|line| line.claim_free(mine)).ok_or(HeartError::Full { lines })?;
    // What a predecessor's line says is not ours. Not judged before the first beat.
    line.limit_ns.store(0, Ordering::Relaxed);
    text::store(&line.name, name);
    Ok(line)
}
