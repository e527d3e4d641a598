//! What touches Linux: one thin file per kernel facility, no decisions.
//!
//! Everything here is non-blocking or bounded. A refusal of the kernel becomes a [`Failed`], which
//! names what was tried on what; whether that matters is decided above. This stratum knows neither
//! the segment nor the policy. `raw` holds the calls that have no safe wrapper.

pub mod fifo;
pub mod limits;
pub mod manager;
pub mod notify;
pub mod output;
pub mod poll;
pub mod process;
pub mod procfs;
pub mod raw;
pub mod signals;
pub mod socket;
pub mod standing;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

/// A call that the kernel refused: "failed to {op} {object}: {answer}".
#[derive(Debug, thiserror::Error)]
#[error("{op} {object}: {answer}")]
pub struct Failed {
    /// What was tried, as a verb.
    pub op: &'static str,
    /// On what: a path, a pid, an address.
    pub object: String,
    /// The kernel's answer. Printed with the rest, so not chained as a source.
    pub answer: io::Error,
}

impl Failed {
    /// For `map_err`: `.map_err(Failed::to("open", path))`.
    pub fn to<E: Into<io::Error>>(
        op: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(E) -> Failed {
        move |answer| Failed { op, object: object.to_string(), answer: answer.into() }
    }
}

/// A file in memory with this in it, to be read from its beginning: what is too long for a message
/// goes to another process as one.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
