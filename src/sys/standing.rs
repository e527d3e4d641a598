//! How the kernel treats this process beside all others: what of it stays in memory, whom it kills
//! when there is none left, whom it lets run first.
//!
//! A watchdog that is slowed down or killed together with what it watches is of no use. Nothing of
//! it is inherited: the scheduler sets its part back at every fork, and the score is set back
//! around everything that is started.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::mm::MlockAllFlags;
use rustix::process::{getpriority_process, setpriority_process};

use super::raw;

/// Killed for want of memory after nearly everybody else, but not immune: it could be the one that
/// eats it.
const SCORE: i32 = -900;

/// Before everybody who is not in a hurry.
const NICE: i32 = -10;

const SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// The score that this process had, once it was lowered.
static OWN_SCORE: OnceLock<(File, i32)> = OnceLock::new();

/// Makes this process stand as firm as it may; returns what the kernel did not permit, for people.
/// Who was given another priority, a policy or a lower score keeps it.
pub fn stand_firm() -> Vec<&'static str> {
    let mut refused = Vec::new();
    if stay_in_memory().is_err() {
        refused.push("lock its memory");
    }
    if lower_score().is_err() {
        refused.push("lower its OOM score");
    }
    if raise_priority().is_err() {
        refused.push("raise its priority");
    }
    refused
}

/// Keeps what this process has touched from being read from the disk again, as far as its limits
/// allow: that takes longer than all the rest of a restart. Not what it will touch, since a request
/// for memory beyond those limits would fail.
pub fn stay_in_memory() -> io::Result<()> {
    Ok(rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT)?)
}

fn lower_score() -> io::Result<()> {
    let own = std::fs::read_to_string(SCORE_FILE)?.trim().parse().map_err(io::Error::other)?;
    if own <= SCORE {
        return Ok(());
    }
    let file = File::options().write(true).open(SCORE_FILE)?;
    write(&file, SCORE)?;
    // Set once, by the one thread that starts processes.
    let _ = OWN_SCORE.set((file, own));
    Ok(())
}

fn raise_priority() -> io::Result<()> {
    if getpriority_process(None)? == 0 && raw::has_usual_policy() {
        raw::reset_priority_on_fork()?;
        setpriority_process(None, NICE)?;
    }
    Ok(())
}

/// Starts something with the score that this process itself was started with.
pub fn as_others<T>(start: impl FnOnce() -> T) -> T {
    let Some((file, own)) = OWN_SCORE.get() else { return start() };
    // To raise it is always permitted, and what was permitted once to lower it.
    let _ = write(file, *own);
    let started = start();
    let _ = write(file, SCORE);
    started
}

fn write(file: &File, score: i32) -> io::Result<()> {
    file.write_all_at(score.to_string().as_bytes(), 0)
}
