//! The first thing that every reader does: it maps the segment, or says why it cannot.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::shown::Shown;

use super::snapshot::Health;
use crate::error::{Error, Refusal};
use crate::instance::place::Place;

/// Why an instance cannot be looked at.
#[derive(Debug)]
pub enum Unseen {
    /// There is none: nobody runs there.
    NotRunning(Refusal),
    /// There is something that is no segment of this osps.
    CannotTell(PathBuf, AttachError),
}

impl Unseen {
    /// What that is as the health of an instance.
    pub fn health(&self) -> Health {
        match self {
            Unseen::NotRunning(_) => Health::NotRunning,
            Unseen::CannotTell(..) => Health::CannotTell,
        }
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unseen::NotRunning(refusal) => refusal.fmt(f),
            Unseen::CannotTell(path, error) => {
                write!(f, "cannot tell: {}: {error}", Shown(path))
            }
        }
    }
}

impl From<Unseen> for Error {
    fn from(unseen: Unseen) -> Error {
        match unseen {
            Unseen::NotRunning(refusal) => refusal.into(),
            Unseen::CannotTell(path, why) => Error::Segment { path, why },
        }
    }
}

/// The segment of an instance, to read.
pub fn open(place: &Place) -> Result<Segment, Unseen> {
    match Segment::open(&place.path, Access::ReadOnly) {
        Ok(segment) => Ok(segment),
        Err(AttachError::Io { answer, .. }) if answer.kind() == ErrorKind::NotFound => {
            Err(Unseen::NotRunning(place.not_running()))
        }
        Err(error) => Err(Unseen::CannotTell(place.path.clone(), error)),
    }
}
