//! `osps health`: one line and an exit code, for whoever asks by a command: Kubernetes (`exec`),
//! HAProxy (external-check), Consul, cron.
//!
//! Healthy is what `osps status` calls all up; of one service, that all its instances are up (or
//! done) under a watchdog that works. A watchdog that seems frozen is watched for 1.5 s first;
//! else it takes some milliseconds. Tested in tests/health.rs.

use std::process::ExitCode;

use osps_heart::clock::SystemClock;
use osps_heart::time::Clock;

use super::look;
use super::snapshot::{Health, Server, Snapshot};
use crate::error::Refusal;
use crate::instance::place::Place;
use crate::sys::output;

/// Exit code of a wish that cannot work: nobody has that name.
const USAGE: u8 = 2;

/// Tells how an instance is, or one service of it.
pub fn main(place: Result<Place, Refusal>, service: Option<&str>) -> ExitCode {
    let place = match place {
        Ok(place) => place,
        Err(refusal) => return say(false, &refusal.to_string()),
    };
    let segment = match look::open(&place) {
        Ok(segment) => segment,
        Err(unseen) => return say(false, &unseen.to_string()),
    };
    let snapshot = Snapshot::of(&segment, &place.path, SystemClock.now());
    let Some(name) = service else {
        let servers: Vec<_> = snapshot.servers.iter().collect();
        let healthy = snapshot.health() == Health::AllUp;
        return say(healthy, &told(&snapshot, &snapshot.name, &servers));
    };
    match snapshot.called(&[name.to_owned()]) {
        Ok(servers) => {
            let healthy = snapshot.is_watched_over() && servers.iter().all(|one| one.is_well());
            say(healthy, &told(&snapshot, name, &servers))
        }
        Err(refusal) => {
            log::error!("{refusal}");
            ExitCode::from(USAGE)
        }
    }
}

fn say(healthy: bool, line: &str) -> ExitCode {
    output::print(format!("{line}\n").as_bytes());
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line on these servers.
fn told(snapshot: &Snapshot, name: &str, servers: &[&Server]) -> String {
    let up = servers.iter().filter(|server| server.is_well()).count();
    let mut said = vec![format!("{name}: {up} of {} up", servers.len())];
    match snapshot.health() {
        Health::NotRunning => return format!("{name}: does not run; these are leftovers"),
        Health::Degraded if !snapshot.watchdog.alive => {
            said.push("servers live without a watchdog".to_owned());
        }
        Health::Degraded if snapshot.watchdog.frozen => {
            said.push("the watchdog is frozen".to_owned());
        }
        Health::AllUp | Health::Degraded | Health::CannotTell => {}
    }
    said.extend(servers.iter().filter(|server| !server.is_well()).map(|server| {
        let cause = server.last_cause.as_ref();
        let cause = cause.map_or(String::new(), |cause| format!(", last cause {cause}"));
        let waits = server.blocked_by.as_ref();
        let waits = waits.map_or(String::new(), |by| format!(", waits for {by}"));
        format!("{} is {}{waits}{cause}", server.name, server.state_word())
    }));
    said.join("; ")
}
