//! `osps status`: a look, rendered; or with `--advice` what limits are suggested.

use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::shown::Shown;
use osps_heart::time::Clock;

use super::advice::Report;
use super::snapshot::{Health, Server, Snapshot};
use super::{json, table};
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
    let text = match wanted {
        Wanted::Nothing => return Ok(exit(snapshot.health())),
        Wanted::Servers if as_json => json::render(&snapshot),
        Wanted::Servers => table::render(&snapshot),
        Wanted::Advice(names) => match meant(&snapshot, names) {
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

/// The servers of these names, or all.
fn meant<'a>(snapshot: &'a Snapshot, names: &[String]) -> Result<Vec<&'a Server>, Refusal> {
    let all = &snapshot.servers;
    if let Some(name) = names.iter().find(|name| !all.iter().any(|one| one.is_called(name))) {
        let known = all.iter().map(|server| server.name.clone()).collect();
        return Err(Refusal::NoService { name: name.clone(), known });
    }
    let wanted =
        |server: &&Server| names.is_empty() || names.iter().any(|name| server.is_called(name));
    Ok(all.iter().filter(wanted).collect())
}

fn exit(health: Health) -> ExitCode {
    ExitCode::from(health as u8)
}
