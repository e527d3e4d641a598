//! A command whose status is the sign of life.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};

use osps_heart::segment::Death;
use osps_heart::shown::Shown;
use osps_heart::words::env;

use super::failure::Failure;
use crate::sys::process::{self, Process};

/// A command that was started. Dropped, it is killed with its process group.
#[derive(Debug)]
pub struct Running {
    process: Process,
    /// Its status was taken: nothing may be sent to its number any more.
    reaped: bool,
}

impl Running {
    /// Starts it: nothing to read, and nobody reads what it says.
    pub fn start(words: &[OsString]) -> Result<Running, Failure> {
        let (program, args) = words.split_first().ok_or_else(|| Failure::new("no command"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It shall find no heart: nobody beats in the service's name by accident.
        for name in [env::SLOT, env::GENERATION, env::DESCRIPTORS] {
            command.env_remove(name);
        }
        match process::spawn_group(&mut command) {
            Ok(process) => Ok(Running { process, reaped: false }),
            Err(error) => Err(Failure::answer_on(&Shown(program), &error)),
        }
    }

    /// How it ended; `None` = it runs. Takes its status, so that no zombie stays, and ends what it
    /// left in its process group.
    pub fn outcome(&mut self) -> Option<Result<(), Failure>> {
        if !self.process.is_dead() {
            return None;
        }
        self.kill();
        let death = self.process.reap()?;
        self.reaped = true;
        Some(match death {
            Death::Exited(0) => Ok(()),
            Death::Exited(status) => Err(Failure::new(format!("status {status}"))),
            Death::Killed(signal) => Err(Failure::new(format!("killed by signal {signal}"))),
            _ => Err(Failure::new("its status was lost")),
        })
    }

    /// Ends it, without waiting. `false` = it is not dead yet: ask again.
    pub fn end(&mut self) -> bool {
        self.kill();
        self.reaped || self.outcome().is_some()
    }

    fn kill(&self) {
        if !self.reaped {
            // Only one that we may not signal refuses: it made itself another user's.
            let _ = self.process.kill();
        }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
