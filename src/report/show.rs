//! `osps report`: the reports of an instance, and a look at a service as it is now.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::{SystemClock, unix_ns};
use osps_heart::segment::{Access, Segment, text as words};
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic, nanos};
use osps_heart::words::HeartSource;

use super::helper::fill;
use super::look::Look;
use super::store::{self, Store};
use super::{Data, Extent, Heart, Report, SCHEMA, sentence, text};
use crate::error::{Error, Refusal};
use crate::instance::place::Place;
use crate::sys::output;
use crate::sys::poll::sleep;

/// Time between the two looks at a process that goes on.
const BETWEEN: Duration = Duration::from_millis(300);

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A report, by its number.
    Number(u64),
    /// The newest one.
    Last,
    /// All of them, a line each.
    List,
    /// How this service is now.
    Now(String),
}

/// Shows it.
pub fn main(
    place: &Place,
    name: &str,
    directory: Option<&Path>,
    wanted: &Wanted,
    json: bool,
) -> Result<ExitCode, Error> {
    let store = match directory {
        Some(path) => store::chosen(path).map(Store::at),
        None => Store::of(place, name),
    };
    if let Wanted::Now(service) = wanted {
        let mut report = now(place, service)?;
        let kept = store.as_ref().map(|store| store.keep(&mut report));
        if let Some(Err(why)) = kept {
            log::warn!("the report is shown, but not kept: {why}");
        }
        show(&report, json);
        return Ok(ExitCode::SUCCESS);
    }
    let store = store.ok_or(Refusal::NoReports)?;
    store.check_reading().map_err(Refusal::ReportDirectory)?;
    match wanted {
        Wanted::List => {
            let all = store.list();
            let out = if json { line(&all) } else { text::list(&all) };
            output::print(out.as_bytes());
        }
        Wanted::Last | Wanted::Now(_) => {
            let newest = store.numbers().into_iter().max();
            let report = newest.and_then(|number| store.read(number));
            let none = || Refusal::NoReport { number: newest, path: store.path().to_owned() };
            show(&report.ok_or_else(none)?, json);
        }
        Wanted::Number(number) => {
            let (number, path) = (Some(*number), store.path().to_owned());
            let report = number.and_then(|number| store.read(number));
            show(&report.ok_or(Refusal::NoReport { number, path })?, json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(what: &impl serde::Serialize) -> String {
    serde_json::to_string(what).unwrap_or_default() + "\n"
}

fn show(report: &Report, json: bool) {
    let text = if json { line(report) } else { text::render(report) };
    output::print(text.as_bytes());
}

/// Looks at a service without disturbing it. Needs no watchdog.
fn now(place: &Place, service: &str) -> Result<Report, Error> {
    let not_running = |_| place.not_running();
    let segment = Segment::open(&place.path, Access::ReadOnly).map_err(not_running)?;
    let name = |slot: usize| words::load(&segment.slots()[slot].server.name);
    let taken = (0..segment.slots().len()).filter(|slot| !name(*slot).is_empty());
    let slots: Vec<_> = taken.collect();
    let Some(slot) = slots.iter().copied().find(|slot| name(*slot) == service) else {
        let known = slots.iter().map(|slot| name(*slot)).collect();
        return Err(Refusal::NoService { name: service.to_owned(), known }.into());
    };
    let cells = &segment.slots()[slot];
    let (server, activity) = (&cells.server, &cells.activity);
    let identity = server.identity().ok_or(Refusal::NoProcess(service.to_owned()))?;
    let (pid, start_time) = server.main().unwrap_or((identity.pid, identity.start_time));
    let before = Look::at(pid, start_time).ok_or(Refusal::NoProcess(service.to_owned()))?;
    sleep(BETWEEN);
    let after = Look::at(pid, start_time);
    let now = SystemClock.now();
    let sample = segment.hearts()[slot].sample();
    let beats = sample.count.wrapping_sub(server.baseline.load(Ordering::Relaxed));
    let source = HeartSource::from_code(server.heart_source.load(Ordering::Relaxed));
    let gaps = segment.gaps().get(slot).filter(|gaps| gaps.is_of(service));
    let mut report = Report {
        schema: SCHEMA,
        instance: words::load(&segment.header().name),
        pid,
        age_ns: nanos(now.since(Monotonic(server.spawned_ns.load(Ordering::Relaxed)))),
        heart: Heart {
            source: source.map_or("unknown", HeartSource::word).to_owned(),
            limit_ns: segment.hearts()[slot].limit_ns.load(Ordering::Relaxed),
            beats,
            worst_ns: gaps.and_then(|gaps| gaps.read().ok()).map_or(0, |gaps| nanos(gaps.worst)),
            ..Heart::default()
        },
        activity: activity.text().filter(|text| !text.is_empty()),
        data: data(&segment, &slots, now),
        ..Report::default()
    };
    let summary = &mut report.summary;
    summary.at = unix_ns();
    service.clone_into(&mut summary.service);
    summary.slot = u8::try_from(slot).unwrap_or(u8::MAX);
    summary.generation = identity.generation.0;
    let watchdog = &mut report.watchdog;
    let pid = segment.header().watchdog_pid.load(Ordering::Relaxed);
    watchdog.pid = u32::try_from(pid).unwrap_or(0);
    watchdog.lag_ns = segment.header().lag_ns.load(Ordering::Relaxed);
    watchdog.worst_lag_ns = segment.header().worst_lag_ns.load(Ordering::Relaxed);
    // A stamp of another clock, or none, says nothing.
    let silence = now.since(sample.stamp);
    if beats > 0 && sample.stamp.0 != 0 && !sample.is_parked() {
        report.summary.silence_ns = nanos(silence);
    }
    fill(&mut report, Some(&before), after);
    report.extent = Extent::Asked;
    report.summary.sentence = sentence::of(&report);
    Ok(report)
}

/// Who owns the data, and who waits for that.
fn data(segment: &Segment, slots: &[usize], now: Monotonic) -> Option<Data> {
    let name = |slot: usize| words::load(&segment.slots()[slot].server.name);
    let owner = segment.owner().current().slot.map(osps_heart::ids::SlotId::index);
    let owner = owner.filter(|slot| slots.contains(slot)).map(name);
    let waits = |slot: &usize| {
        let parked = segment.slots()[*slot].activity.parked.load(Ordering::Relaxed);
        (parked > 0).then(|| (name(*slot), parked))
    };
    let waiting: Vec<_> = slots.iter().filter_map(waits).collect();
    let recalled_ns = segment.owner().recall().map(|(_, since)| nanos(now.since(since)));
    (owner.is_some() || !waiting.is_empty()).then_some(Data { owner, recalled_ns, waiting })
}
