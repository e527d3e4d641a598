//! `osps drill`: does this instance keep its promises? Makes faults in what runs, from outside, and
//! times what the watchdog makes of them.
//!
//! ```text
//! plan       which faults can be made in which service, and what is promised then
//! pace       when the next one may come, so that nobody is restarted too often
//! happened   what the event ring tells of one fault
//! strike     makes a fault, and takes it back
//! run        one fault after the other, with idle seconds between them
//! figures    what came out: a table, JSON
//! ```
//!
//! Times are those of the event ring and of the hearts, so nothing is polled while a fault is under
//! way, and the machine is as idle as it is on any other night. A signal goes only to the process
//! that the watchdog recorded, held by its pidfd. Tested in tests/drill.rs.

pub mod figures;
pub mod happened;
pub mod pace;
pub mod plan;
mod run;
mod strike;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::segment::Segment;
use osps_heart::segment::layout::flag;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Short};
use serde::Deserialize;

use self::figures::Report;
use self::plan::{Plan, Subject, Wanted};
use self::run::Drill;
use crate::error::{Error, Invalid, Refusal};
use crate::instance::place::{Place, RunDir, started_name};
use crate::service::Service;
use crate::sys::output;
use crate::view::look;
use crate::view::snapshot::{Health, Server, Snapshot};

/// What shall be drilled.
#[derive(Clone, Debug)]
pub struct Request {
    /// These services, or instances of them; empty = all.
    pub services: Vec<String>,
    /// With these faults.
    pub fault: Wanted,
    /// Each so often.
    pub rounds: usize,
    /// Left alone for so long between two faults.
    pub idle: Duration,
    /// Nobody is asked first.
    pub yes: bool,
    /// For tools.
    pub json: bool,
}

/// What the watchdog wrote down of a slot.
#[derive(Debug, Deserialize)]
struct Started {
    service: Service,
}

/// Drills an instance. Exit code 1: a promise was not kept.
pub fn main(place: &Place, request: &Request) -> Result<ExitCode, Error> {
    let run_dir = match RunDir::open(&place.path) {
        Err(Error::Failed(failed)) if failed.answer.kind() == std::io::ErrorKind::NotFound => {
            return Err(place.not_running().into());
        }
        other => other?,
    };
    let segment = look::open(place)?;
    let snapshot = Snapshot::of(&segment, &place.path, SystemClock.now());
    fit(&snapshot).map_err(Refusal::NoDrill)?;
    let subjects = subjects(&segment, &run_dir, &snapshot, &request.services)?;
    let plan = Plan::of(&subjects, request.fault);
    if plan.steps.is_empty() {
        let why = plan.left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(Refusal::NoDrill(why).into());
    }
    if !request.yes && !agreed(&snapshot.name, &plan, request)? {
        return Err(Refusal::NoDrill("nobody said yes; nothing was touched".to_owned()).into());
    }
    let mut report = Report::new(&snapshot, request, &plan);
    let ended = Drill::new(segment, run_dir, subjects, request)?.run(&plan, &mut report);
    if let Err(why) = &ended {
        report.stopped = Some(why.clone());
    }
    let text = if request.json { report.json() } else { report.table() };
    output::print((text + "\n").as_bytes());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether an instance can be drilled now; else why not. Whoever is not up would be hit while it is
/// down, and no promise says when a second fault is noticed.
pub(crate) fn fit(snapshot: &Snapshot) -> Result<(), String> {
    let watchdog = &snapshot.watchdog;
    if watchdog.elsewhere {
        return Err("it runs in another pid namespace: drill it there".to_owned());
    }
    if !watchdog.alive {
        return Err("no watchdog runs there, so nobody would replace anything".to_owned());
    }
    if watchdog.frozen {
        return Err("its watchdog is frozen; see `osps status`".to_owned());
    }
    if let Some(paused) = snapshot.servers.iter().find(|server| server.paused.is_some()) {
        return Err(format!("{0} is paused; `osps resume {0}` ends that", paused.name));
    }
    if snapshot.health() != Health::AllUp {
        let down = |server: &&Server| !server.is_well();
        let down = snapshot.servers.iter().filter(down);
        let down: Vec<_> =
            down.map(|server| format!("{} is {}", server.name, server.state_word())).collect();
        return Err(format!("not everything is up: {}", down.join(", ")));
    }
    Ok(())
}

/// What is known of those that are meant.
fn subjects(
    segment: &Segment,
    run_dir: &RunDir,
    snapshot: &Snapshot,
    names: &[String],
) -> Result<Vec<Subject>, Refusal> {
    let meant = snapshot.called(names)?;
    let debug = segment.header().flags.load(Ordering::Relaxed) & flag::ALLOW_DEBUG != 0;
    let subject = |server: &Server| {
        let slot = u8::try_from(server.slot).map(SlotId).ok();
        let started = slot.and_then(|slot| run_dir.read::<Started>(&started_name(slot)));
        Subject::of(server, started.map(|started| started.service), debug)
    };
    Ok(meant.into_iter().map(subject).collect())
}

/// Says what will happen, and asks.
fn agreed(instance: &str, plan: &Plan, request: &Request) -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Invalid {
            option: "--yes",
            value: "is missing".to_owned(),
            why: "a drill kills and freezes what runs, and there is no terminal to ask at; say \
                  --yes if that is meant"
                .to_owned(),
        }
        .into());
    }
    let mut lines =
        vec![format!("In the running instance {instance}, {} times each:", request.rounds)];
    lines.extend(plan.steps.iter().map(|step| format!("  {}: {}", step.name, step.fault.deed())));
    lines.extend(plan.left_out.iter().map(|left_out| format!("  not {left_out}")));
    let least = Short(plan.duration(request.rounds, request.idle));
    lines.push(format!(
        "Each of these is restarted, with whatever restarts with it, and its clients are cut off; \
         the data stays.\nThat takes {least} or more. Go on? [y/N] "
    ));
    let text = lines.join("\n");
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    let mut answer = String::new();
    let heard = std::io::stdin().lock().read_line(&mut answer).is_ok();
    Ok(heard && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
