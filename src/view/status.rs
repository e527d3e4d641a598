//! `osps status`: a look, rendered; or with `--advice` what limits are suggested.

use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::time::Clock;

use super::advice::Report;
use super::snapshot::{Health, Snapshot};
use super::{json, look, table};
use crate::error::{Error, Refusal};
use crate::instance::place::Place;
use crate::sys::output;

/// What is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Nothing: the exit code tells.
    Nothing,
    /// Who runs.
    Servers,
    /// What limits are suggested to these, or to all.
    Advice(&'a [String]),
}

/// Shows an instance. The exit code is its health.
pub fn main(
    place: Result<Place, Refusal>,
    wanted: Wanted<'_>,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let quiet = wanted == Wanted::Nothing;
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
    let segment = match look::open(&place) {
        Ok(segment) => segment,
        Err(unseen) => {
            complain(&unseen);
            return Ok(exit(unseen.health()));
        }
    };
    let snapshot = Snapshot::of(&segment, &place.path, SystemClock.now());
    let text = match wanted {
        Wanted::Nothing => return Ok(exit(snapshot.health())),
        Wanted::Servers if as_json => json::render(&snapshot),
        Wanted::Servers => table::render(&snapshot),
        Wanted::Advice(names) => match snapshot.called(names) {
            Ok(servers) => {
                let report = Report::of(&segment, &snapshot, &servers);
                if as_json { report.json() } else { report.table() }
            }
            Err(refusal) => {
                complain(&refusal);
                return Ok(exit(Health::CannotTell));
            }
        },
    };
    output::print((text + "\n").as_bytes());
    Ok(exit(snapshot.health()))
}

fn exit(health: Health) -> ExitCode {
    ExitCode::from(health as u8)
}
