//! `osps events`: what happened, one line each, in the words of the log; and as JSON.
//!
//! Reads the ring alone, so it works beside a frozen watchdog and after a dead one. The watchdog
//! waits for no reader: one that is overtaken says how many happenings it missed. Followed, the
//! ring is looked at ten times a second, which costs one load, and one look at a name: whether the
//! instance has another segment by now. Tested in tests/events.rs.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use osps_heart::clock::unix_ns;
use osps_heart::ids::Generation;
use osps_heart::segment::layout::{EVENTS, ServerCells};
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::{Record, Segment, Since, What, text};
use osps_heart::time::nanos;
use osps_heart::words::{Cause, Class, State};
use serde::Serialize;

use super::look::{self, Unseen};
use super::{log, snapshot};
use crate::error::{Error, Refusal};
use crate::instance::place::Place;
use crate::sys::output;

/// Version of the keys.
const SCHEMA: u32 = 1;
/// How often the ring is looked at while it is followed: nobody sees the difference, and a reader
/// that pauses so long is overtaken only by ten thousand happenings a second.
const PERIOD: Duration = Duration::from_millis(100);

/// What is to be shown.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Go on with what comes.
    pub follow: bool,
    /// What is older is not shown.
    pub since: Option<Duration>,
    /// Of this service or instance alone.
    pub service: Option<String>,
    /// As JSON.
    pub json: bool,
}

/// Shows the happenings of an instance.
pub fn main(place: &Place, wanted: &Wanted) -> Result<ExitCode, Error> {
    let mut segment = match look::open(place) {
        Ok(segment) => segment,
        Err(Unseen::NotRunning(refusal)) => return Err(refusal.into()),
        Err(error) => {
            ::log::error!("{error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut found = segment.events().since(0);
    if let Some(name) = &wanted.service {
        is_known(&segment, &found.records, name)?;
    }
    let from = wanted.since.map(|span| unix_ns().saturating_sub(nanos(span)));
    tell_overwritten(&found, from);
    // What was overwritten before anybody looked was not missed.
    found.missed = 0;
    if !show(&found, wanted, from) || !wanted.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let file = place.path.join(FILE_NAME);
    let mut ended = false;
    while output::stdout_is_read(PERIOD) {
        let is_last = !segment.is_file(std::fs::metadata(&file));
        found = segment.events().since(found.next);
        if !show(&found, wanted, from) {
            break;
        }
        if is_last {
            (segment, found) = match look::open(place) {
                Ok(new) => (new, Since { records: Vec::new(), missed: 0, next: 0 }),
                Err(_) => (segment, found),
            };
            let is_there = segment.is_file(std::fs::metadata(&file));
            if !is_there && !ended {
                ::log::info!("{} has ended; waiting for the next one", name_of(&segment));
            }
            ended = !is_there;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of(segment: &Segment) -> String {
    text::load(&segment.header().name)
}

/// Refuses a name that no service has, nor had as long as the ring remembers.
fn is_known(segment: &Segment, records: &[Record], name: &str) -> Result<(), Refusal> {
    let pages = || segment.slots().iter().map(|slot| &slot.server);
    let is_page = |page: &ServerCells| {
        snapshot::is_called(&text::load(&page.name), name) || text::is_stored(&page.family, name)
    };
    if pages().any(is_page) || records.iter().any(|record| is_of(record, name)) {
        return Ok(());
    }
    let mut known: Vec<_> = pages().map(|page| text::load(&page.family)).collect();
    known.retain(|known| !known.is_empty());
    known.dedup();
    Err(Refusal::NoService { name: name.to_owned(), known })
}

/// Whoever asks for a span shall not take the ring's beginning for the span's.
fn tell_overwritten(found: &Since, from: Option<u64>) {
    let Some(from) = from else { return };
    let oldest = found.records.first().map_or(u64::MAX, |record| record.unix_ns);
    if found.missed > 0 && oldest > from {
        ::log::warn!(
            "only the newest {EVENTS} happenings are kept: {} older ones are overwritten",
            found.missed
        );
    }
}

/// Prints what is wanted of this; `false` = nobody reads any more.
fn show(found: &Since, wanted: &Wanted, from: Option<u64>) -> bool {
    let mut lines = String::new();
    if found.missed > 0 {
        lines += &missed(found.missed, wanted.json);
        lines.push('\n');
    }
    let is_wanted = |record: &&Record| {
        from.is_none_or(|from| record.unix_ns >= from)
            && wanted.service.as_ref().is_none_or(|name| is_of(record, name))
    };
    for record in found.records.iter().filter(is_wanted) {
        lines += &if wanted.json { json(record) } else { line(record) };
        lines.push('\n');
    }
    lines.is_empty() || output::print(lines.as_bytes())
}

/// Whether a name means whom this is about.
fn is_of(record: &Record, name: &str) -> bool {
    record.slot.is_some() && snapshot::is_called(&record.name.to_string(), name)
}

/// That a reader was overtaken.
fn missed(count: u64, as_json: bool) -> String {
    #[derive(Serialize)]
    struct Missed {
        schema: u32,
        missed: u64,
    }
    if as_json {
        let missed = Missed { schema: SCHEMA, missed: count };
        // Only a map with keys that are no texts could fail.
        serde_json::to_string(&missed).unwrap_or_default()
    } else {
        format!("... {count} missed: they came faster than they were read")
    }
}

/// A happening as a line of the log, without its end.
pub fn line(record: &Record) -> String {
    format!("{} {:<5} {}", time(record), log::level(record), log::line(record))
}

/// When it happened, as the log has it.
fn time(record: &Record) -> String {
    let at = UNIX_EPOCH + Duration::from_nanos(record.unix_ns);
    humantime::format_rfc3339_millis(at).to_string()
}

/// A happening for tools. Absent is `null`.
#[derive(Serialize)]
struct Row {
    schema: u32,
    time: String,
    unix_ms: u64,
    level: String,
    event: &'static str,
    service: Option<String>,
    slot: Option<u8>,
    generation: Option<u32>,
    pid: Option<u32>,
    from: Option<&'static str>,
    to: Option<&'static str>,
    cause: Option<&'static str>,
    class: Option<&'static str>,
    death: Option<String>,
    heart: Option<String>,
    #[serde(rename = "silence_ms", serialize_with = "snapshot::maybe_millis")]
    silence: Option<Duration>,
    #[serde(rename = "limit_ms", serialize_with = "snapshot::maybe_millis")]
    limit: Option<Duration>,
    #[serde(rename = "up_ms", serialize_with = "snapshot::maybe_millis")]
    up: Option<Duration>,
    #[serde(rename = "down_ms", serialize_with = "snapshot::maybe_millis")]
    down: Option<Duration>,
    /// What the log says.
    line: String,
}

/// A happening as a JSON object, on one line without its end.
pub fn json(record: &Record) -> String {
    let what = &record.what;
    let said = |text: String| (!text.is_empty()).then_some(text);
    let down = match what {
        What::FirstBeat { down_for, .. } => *down_for,
        _ => None,
    };
    let row = Row {
        schema: SCHEMA,
        time: time(record),
        unix_ms: record.unix_ns / 1_000_000,
        level: log::level(record).to_string().to_lowercase(),
        event: what.event().word(),
        service: said(record.name.to_string()),
        slot: record.slot.map(|slot| slot.0),
        generation: Some(record.generation).filter(|g| *g != Generation::default()).map(|g| g.0),
        pid: Some(record.pid).filter(|pid| *pid != 0),
        from: record.change.map(|(from, _)| from).map(State::word),
        to: record.change.map(|(_, to)| to).map(State::word),
        cause: what.cause().map(Cause::word),
        class: what.class().map(Class::word),
        death: what.death().map(|death| death.to_string()),
        heart: said(record.heart.to_string()),
        silence: what.silence(),
        limit: record.limit,
        up: record.up,
        down,
        line: log::line(record),
    };
    // Only a map with keys that are no texts could fail.
    serde_json::to_string(&row).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use osps_heart::ids::SlotId;
    use osps_heart::time::Monotonic;

    fn record() -> Record {
        let silence = Duration::from_secs(4);
        let what = What::Verdict { cause: Cause::Frozen, class: Some(Class::Stopped), silence };
        Record {
            unix_ns: 1_700_000_000_123_456_789,
            pid: 4711,
            change: Some((State::Late, State::Stopping)),
            limit: Some(silence),
            name: "web-1".into(),
            ..Record::new(Monotonic(7), Some(SlotId(0)), Generation(3), what)
        }
    }

    #[test]
    fn a_line_is_that_of_the_log_with_its_time_and_level() {
        let expected = "2023-11-14T22:13:20.123Z WARN  web-1 gen=3 pid=4711: late -> frozen \
                        (stopped; no beat for 4.00s, limit 4s)";
        assert_eq!(line(&record()), expected);
        let unknown = Record { unix_ns: u64::MAX, ..record() };
        assert!(line(&unknown).starts_with("2554-"), "{}", line(&unknown));
    }

    #[test]
    fn whoever_was_overtaken_learns_by_how_many() {
        assert_eq!(missed(7, true), r#"{"schema":1,"missed":7}"#);
        assert!(missed(7, false).contains(" 7 missed"));
    }

    #[test]
    fn a_name_means_its_instances() {
        for (name, is_it) in [("web-1", true), ("web", true), ("we", false), ("web-12", false)] {
            assert_eq!(is_of(&record(), name), is_it, "{name}");
        }
    }
}
