//! Who runs: the watchdog, the servers, and those who ask.
//!
//! Only here a heart's sample becomes an observation of the policy, and an action of the policy
//! becomes a system call. One loop shape for all: wait for descriptors or the earliest deadline,
//! read the clock once, gather events, step, perform, beat.
//!
//! ```text
//! watchdog/   the supervising process: loop, performing, reporting, control socket
//! exec        the trampoline every server starts as
//! server      what both built-in servers do;  primary, secondary: what only one does
//! part        the seam between them
//! clients     their connections;  link: their FIFOs;  myself: their view of the segment
//! heart       a heartbeat for programs of the user's own
//! rundir      the run directory: found, claimed, swept, removed
//! data        the data area for programs of the user's own
//! status      the read-only view;  stop, client: those who ask
//! ```

pub mod client;
pub mod clients;
pub mod data;
pub mod exec;
pub mod fault;
pub mod heart;
pub mod link;
pub mod myself;
pub mod orphan;
pub mod part;
pub mod primary;
pub mod rundir;
pub mod secondary;
pub mod server;
pub mod status;
pub mod stop;
pub mod watchdog;

use std::path::PathBuf;

use crate::config::Invalid;
use crate::segment::AttachError;
use crate::sys::Failed;

/// Why a role could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A wish that cannot work.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The kernel refused something.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The segment of an instance cannot be used.
    #[error("{}: {source}", path.display())]
    Segment {
        /// The run directory.
        path: PathBuf,
        /// What is wrong with it.
        source: AttachError,
    },
    /// The state of the machine forbids it; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

/// Environment of every server.
pub mod env {
    /// The run directory.
    pub const RUN_DIR: &str = "OSPS_RUN_DIR";
    /// The slot, a number.
    pub const SLOT: &str = "OSPS_SLOT";
    /// The generation, a number.
    pub const GENERATION: &str = "OSPS_GENERATION";
}

/// Numbers of the roles in the segment.
pub mod role_code {
    /// The dispatcher.
    pub const PRIMARY: u64 = 1;
    /// A worker.
    pub const SECONDARY: u64 = 2;
    /// A program of the user's.
    pub const PROGRAM: u64 = 3;

    /// Its word in JSON.
    pub fn word(code: u64) -> &'static str {
        match code {
            PRIMARY => "primary",
            SECONDARY => "secondary",
            PROGRAM => "program",
            _ => "unknown",
        }
    }
}
