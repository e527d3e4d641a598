//! `osps list`: which instances run, one row each.

use std::path::PathBuf;
use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::segment::{Access, Segment};
use osps_heart::shown::Shown;
use osps_heart::time::Clock;
use serde::Serialize;

use super::snapshot::{self, Snapshot, Watchdog};
use super::table;
use crate::error::Error;
use crate::instance::find;
use crate::sys::output;

/// Version of the keys.
const SCHEMA: u32 = 1;

/// One instance.
#[derive(Serialize)]
struct Row {
    /// Its name; `None` = its segment cannot be read.
    name: Option<String>,
    /// Its run directory.
    #[serde(serialize_with = "snapshot::path")]
    run_dir: PathBuf,
    /// Whose it is.
    user: Option<u32>,
    /// Its watchdog.
    watchdog: Option<Watchdog>,
    /// How it is.
    state: &'static str,
}

#[derive(Serialize)]
struct List {
    schema: u32,
    instances: Vec<Row>,
}

/// Shows all instances that can be found.
pub fn main(as_json: bool) -> Result<ExitCode, Error> {
    let instances: Vec<_> = find::everywhere().into_iter().map(look).collect();
    let text = if as_json {
        // Only a map with keys that are no texts could fail.
        serde_json::to_string(&List { schema: SCHEMA, instances }).unwrap_or_default()
    } else {
        render(&instances)
    };
    output::print((text + "\n").as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn look(run_dir: PathBuf) -> Row {
    let user = rustix::fs::stat(&run_dir).ok().map(|stat| stat.st_uid);
    let Ok(segment) = Segment::open(&run_dir, Access::ReadOnly) else {
        return Row { name: None, run_dir, user, watchdog: None, state: "cannot tell" };
    };
    let snapshot = Snapshot::of(&segment, &run_dir, SystemClock.now());
    let state = snapshot.summary();
    Row { name: Some(snapshot.name), run_dir, user, watchdog: Some(snapshot.watchdog), state }
}

/// The table, without a line end.
fn render(rows: &[Row]) -> String {
    let mut lines = vec![line("NAME", "WATCHDOG", "UP", "USER", "STATE", "RUN DIRECTORY")];
    lines.extend(rows.iter().map(|row| {
        let watchdog = row.watchdog.as_ref().filter(|watchdog| watchdog.alive);
        let pid = watchdog.map(|watchdog| match (watchdog.elsewhere, watchdog.pid_here) {
            (true, None) => "elsewhere".to_owned(),
            (_, here) => here.map_or(watchdog.pid, u64::from).to_string(),
        });
        let none = || "-".to_owned();
        line(
            row.name.as_deref().unwrap_or("-"),
            &pid.unwrap_or_else(none),
            &watchdog.map_or_else(none, |watchdog| table::ago(watchdog.since)),
            &row.user.map_or_else(none, |user| user.to_string()),
            row.state,
            &Shown(&row.run_dir).to_string(),
        )
    }));
    lines.join("\n")
}

fn line(name: &str, pid: &str, up: &str, user: &str, state: &str, dir: &str) -> String {
    format!("{name:<16} {pid:>9} {up:>9} {user:>7}  {state:<11} {dir}")
}
