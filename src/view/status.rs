//! `osps status`: a look, rendered.

use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::shown::Shown;
use osps_heart::time::Clock;

use super::snapshot::{Health, Snapshot};
use super::{json, table};
use crate::error::{Error, Refusal};
use crate::instance::place::Place;
use crate::sys::output;

/// Shows an instance, unless it shall be quiet. The exit code is its health.
pub fn main(place: Result<Place, Refusal>, as_json: bool, quiet: bool) -> Result<ExitCode, Error> {
    let complain = |why: &dyn std::fmt::Display| {
        if !quiet {
            log::error!("{why}");
        }
    };
    let place = match place {
        Ok(place) => place,
        Err(refusal) => {
            complain(&refusal);
            return Ok(exit(Health::CannotTell));
        }
    };
    let segment = match Segment::open(&place.path, Access::ReadOnly) {
        Ok(segment) => segment,
        Err(AttachError::Io { answer, .. }) if answer.kind() == std::io::ErrorKind::NotFound => {
            complain(&place.not_running());
            return Ok(exit(Health::NotRunning));
        }
        Err(error) => {
            complain(&format_args!("cannot tell: {}: {error}", Shown(&place.path)));
            return Ok(exit(Health::CannotTell));
        }
    };
    let snapshot = Snapshot::of(&segment, &place.path, SystemClock.now());
    if !quiet {
        let render = if as_json { json::render } else { table::render };
        output::print((render(&snapshot) + "\n").as_bytes());
    }
    Ok(exit(snapshot.health()))
}

fn exit(health: Health) -> ExitCode {
    ExitCode::from(health as u8)
}
