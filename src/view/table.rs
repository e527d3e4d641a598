//! A snapshot for people: a line on the watchdog, a row per server, a verdict.

use std::time::Duration;

use osps_heart::shown::Shown;
use osps_heart::time::Short;
use osps_heart::words::{Cause, HeartSource, State, Watched};

use super::snapshot::{Health, Heart, Server, Snapshot, Sockets};

/// The table, without a line end.
pub fn render(snapshot: &Snapshot) -> String {
    let watchdog = &snapshot.watchdog;
    let standing = match (watchdog.alive, watchdog.frozen) {
        (true, false) => "alive",
        (true, true) => "FROZEN",
        (false, _) => "DEAD",
    };
    let pid = match (watchdog.elsewhere, watchdog.pid_here) {
        (false, _) => watchdog.pid.to_string(),
        (true, None) => format!("{} of another pid namespace", watchdog.pid),
        (true, Some(here)) => format!("{here} ({} in its own pid namespace)", watchdog.pid),
    };
    let mut lines = vec![
        format!(
            "{} in {}: watchdog pid {pid} {standing}, beat {} ago, started {} ago; hang timeout {}",
            snapshot.name,
            Shown(&snapshot.run_dir),
            age(watchdog.beat_age),
            ago(watchdog.since),
            ago(snapshot.hang_timeout),
        ),
        format!(
            "{:<14} {:>7} {:>4} {:<9} {:<9} {:>8} {:>9}  {:<21} {:<18} {}",
            "SERVER",
            "PID",
            "GEN",
            "STATE",
            "HEART",
            "BEAT",
            "RESTARTS",
            "LISTEN",
            "LAST CAUSE",
            "ACTIVITY"
        ),
    ];
    for server in &snapshot.servers {
        lines.push(row(server));
        lines.extend(server.hearts.iter().map(further));
    }
    lines.push(verdict(snapshot));
    lines.join("\n")
}

/// How it is, and what is to be done about it.
pub fn verdict(snapshot: &Snapshot) -> String {
    let watchdog = &snapshot.watchdog;
    let verdict = match snapshot.health() {
        Health::AllUp => "all up".to_owned(),
        Health::Degraded if !watchdog.alive && watchdog.elsewhere => {
            "servers live without a watchdog: end them where they run".to_owned()
        }
        Health::Degraded if !watchdog.alive => {
            "servers live without a watchdog: start osps again".to_owned()
        }
        Health::Degraded if watchdog.frozen => match watchdog.pid_here {
            Some(pid) => format!(
                "the watchdog is frozen: continue it with `kill -CONT {pid}` or end it with \
                 `kill -9 {pid}`"
            ),
            None => "the watchdog is frozen: continue it or end it where it runs".to_owned(),
        },
        Health::Degraded => "degraded".to_owned(),
        Health::NotRunning => "not running: these are leftovers of a killed instance".to_owned(),
        Health::CannotTell => "cannot tell".to_owned(),
    };
    if watchdog.elsewhere {
        verdict + " (runs in another pid namespace: pids are those seen there)"
    } else {
        verdict
    }
}

fn row(server: &Server) -> String {
    format!(
        "{:<14} {:>7} {:>4} {:<9} {:<9} {:>8} {:>9}  {:<21} {:<18} {}",
        server.name,
        server.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        server.generation,
        server.state_word(),
        heart(server),
        age(server.beat_age),
        server.restarts.of(&Cause::ALL),
        server.listen.as_deref().unwrap_or("-"),
        server.last_cause.as_ref().map_or("-".to_owned(), ToString::to_string),
        doing(server),
    )
}

/// Who beats for it, or that nobody is judged by that.
pub fn heart(server: &Server) -> &'static str {
    match server.heart {
        Some(HeartSource::None) => HeartSource::None.word(),
        Some(_) if server.pid.is_some() && server.state == Some(State::Up) && !server.watched => {
            Watched::No.word()
        }
        source => source.map_or("-", HeartSource::word),
    }
}

/// A further heart of the server above.
fn further(heart: &Heart) -> String {
    let name = format!("  {}", heart.name);
    let state = if heart.parked { "parked" } else { "" };
    let limit = heart.limit.map_or(String::new(), |limit| format!("  limit {}", ago(limit)));
    let row = format!(
        "{name:<14} {:>7} {:>4} {state:<9} {:<9} {:>8}{limit}",
        heart.pid,
        "",
        "",
        age(heart.beat_age)
    );
    row.trim_end().to_owned()
}

/// What it is doing, and what is said of it.
fn doing(server: &Server) -> String {
    let said = remarks(server).into_iter().chain(server.activity.clone()).collect::<Vec<_>>();
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

/// What is said of it beside its state, most important first.
pub fn remarks(server: &Server) -> Vec<String> {
    let (news, habits) = news_and_habits(server);
    news.into_iter().chain(habits).collect()
}

/// The same in two: what may be of interest now, and what is so all the time.
pub fn news_and_habits(server: &Server) -> (Vec<String>, Vec<String>) {
    let beater = match (server.pid, server.heart_pid) {
        (Some(leader), Some(pid)) if leader != pid => Some(format!("pid {pid} beats")),
        (Some(_), None)
            if server.beat_age.is_some() && server.heart == Some(HeartSource::Memory) =>
        {
            Some("unclaimed heart".to_owned())
        }
        _ => None,
    };
    let stays = (server.stays == Some(true)).then(|| "stays without a watchdog".to_owned());
    let alone = (server.sockets == Some(Sockets::Elsewhere))
        .then(|| "osps does not hold its sockets".to_owned());
    let waits = server.blocked_by.as_ref().map(|by| format!("waits for {by}"));
    let paused = server.paused.map(|left| format!("paused for {} more", ago(left)));
    let all = |said: [Option<String>; 2]| said.into_iter().flatten().collect();
    (all([waits, paused]), [beater, alone, stays].into_iter().flatten().collect())
}

/// An age, or that there is none.
pub fn age(span: Option<Duration>) -> String {
    span.map_or("-".to_owned(), ago)
}

/// Whole milliseconds, as in JSON: both faces show the same number.
pub fn ago(span: Duration) -> String {
    Short(Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))).to_string()
}
