//! Goal: how long a program was silent between its beats is counted as it was, over its restarts and
//! over watchdogs, and `osps status --advice` makes a limit of that.
//!
//! Method: black box. This test binary is the supervised program as well: it stalls once, below its
//! limit, and says for how long that was; beats have stamps, so the counts can be compared with
//! that. Counts that take hours are written into the segment by hand. What is counted when is
//! tests/policy/gaps.rs.
//!
//! What it cannot show: that an advice is good for a program that does something else tomorrow.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::time::Duration;

use osps_heart::Heart;
use osps_heart::segment::gaps::{Gaps, NoGaps, bucket};
use osps_heart::segment::layout::GapCells;
use osps_heart::segment::{Access, Segment, text};
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::nanos;
use serde_json::Value;

use common::{Launch, Osps, Signal, ms, now, pass, text as told};

const OPTIONS: [&str; 2] = ["--hang-timeout", "1s"];
const LIMIT: Duration = ms(1000);
/// The longest time between two looks: 60 % of the limit.
const LOOK_GAP: Duration = ms(600);
/// Late, and not overdue, with some room for a busy machine.
const STALL: Duration = ms(700);
const PART: &str = "OSPS_TEST_PART";

/// What this binary does when osps starts it.
#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    let part = std::env::var(PART).unwrap_or_default();
    if part.is_empty() {
        return;
    }
    let mut heart = Heart::from_env().unwrap();
    let first = std::env::var("OSPS_GENERATION").unwrap() == "1";
    // In another order each time, so in other lines.
    let names = if first { ["quick", "slow"] } else { ["slow", "quick"] };
    let named = part == "further hearts";
    let open = |name| (name, Heart::named(name, Duration::ZERO).unwrap());
    let further: Vec<_> = names.into_iter().filter(|_| named).map(open).collect();
    let (mut turn, mut last) = (0_u32, now());
    while !heart.should_stop() {
        turn += 1;
        let stalls = turn == 50 && first;
        match &*part {
            "stalls" if stalls => std::thread::sleep(STALL),
            "further hearts" if (50..50 + 35).contains(&turn) && first => {
                further.iter().filter(|(name, _)| *name == "quick").for_each(|(_, h)| h.beat());
            }
            _ => further.iter().for_each(|(_, heart)| heart.beat()),
        }
        let before = std::mem::replace(&mut last, now());
        heart.beat();
        if stalls {
            heart.set_activity(&format!("stalled {}", nanos(last.since(before))));
        }
        std::thread::sleep(ms(20));
    }
}

fn launch(part: &str) -> Osps {
    Launch::this(&OPTIONS).env(PART, part).start()
}

/// The histogram of the program's own heart.
fn own(osps: &Osps) -> Gaps {
    osps.wait("its gaps", || osps.segment().gaps()[0].read().ok())
}

/// The rows of the advice, and the exit code.
fn advice(osps: &Osps, words: &[&str]) -> (Vec<Value>, Option<i32>) {
    let output = osps.command(&[&["status", "--advice", "--json"], words].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", told(&output));
    });
    (report["hearts"].as_array().unwrap().clone(), output.status.code())
}

fn put(word: &Word, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// As if it had been watched for an hour, in which it beat each millisecond.
fn age(osps: &Osps) {
    let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let cells = &segment.gaps()[0];
    put(&cells.since_ns, (now() - Duration::from_secs(3600)).0);
    // The watchdog counts in others.
    put(&cells.buckets[bucket(ms(2))], 1_000_000);
}

/// What the program said of its stall, once that is counted.
fn stalled(osps: &Osps) -> Duration {
    let stall = osps.wait("its stall", || {
        let activity = osps.server(0)["activity"].as_str()?.to_owned();
        activity.strip_prefix("stalled ")?.parse().ok().map(Duration::from_nanos)
    });
    osps.wait("the gap", || (own(osps).worst >= stall).then_some(()));
    stall
}

#[test]
fn a_stall_is_a_near_miss_as_long_as_it_was_and_the_advice_is_twice_that() {
    let mut osps = launch("stalls");
    let stall = stalled(&osps);
    // Too long by the time since the look that last found it silent.
    let gaps = own(&osps);
    assert!(stall >= STALL && gaps.worst >= stall, "{stall:?}: {gaps:?}");
    assert!(gaps.worst <= stall + LOOK_GAP, "{stall:?}: {gaps:?}");
    let late = osps.log().matches("up -> late").count() as u64;
    assert!(late >= 1 && own(&osps).near_misses == late, "{gaps:?}\n{}", osps.log());
    assert_eq!(osps.generation(0), 1, "{}", osps.log());

    let (rows, code) = advice(&osps, &[]);
    assert_eq!((rows.len(), code), (1, Some(0)));
    assert!(rows[0]["suggested_ms"].is_null(), "{rows:?}");
    assert!(rows[0]["why"].as_str().unwrap().starts_with("not enough seen yet"), "{rows:?}");
    age(&osps);
    let (rows, _) = advice(&osps, &[]);
    let number = |key: &str| rows[0][key].as_u64().unwrap_or_else(|| panic!("{key}: {rows:?}"));
    let worst = u64::try_from(own(&osps).worst.as_millis()).unwrap();
    assert_eq!((number("limit_ms"), number("worst_ms")), (1000, worst), "{rows:?}");
    assert!(number("near_misses") >= 1 && number("usual_ms") < 100, "{rows:?}");
    let suggested = number("suggested_ms");
    assert!(suggested >= 2 * worst && suggested <= 4 * worst, "{rows:?}");
    assert_eq!(rows[0]["why"], "twice the worst gap");

    // The same for people; and after the end of everybody.
    let name = rows[0]["service"].as_str().unwrap().to_owned();
    let table = osps.command(&["status", "--advice", &name]);
    let shown = String::from_utf8(table.stdout).unwrap();
    let row = shown.lines().nth(1).unwrap();
    assert!(row.starts_with(&name) && row.ends_with("twice the worst gap"), "{shown}");
    osps.kill_everything();
    let (after, code) = advice(&osps, &[]);
    assert_eq!(code, Some(3));
    assert_eq!(after[0]["suggested_ms"], rows[0]["suggested_ms"], "{after:?}");
    let unknown = osps.command(&["status", "--advice", "nobody"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", told(&unknown));
    assert!(told(&unknown).contains("there is no service nobody"), "{}", told(&unknown));
}

/// The silence of whoever is killed for it would be the worst gap for ever.
#[test]
fn a_freeze_is_in_no_advice_and_its_successor_goes_on_with_the_counts() {
    let osps = launch("beats");
    osps.wait("some gaps", || (own(&osps).total() >= 3).then_some(()));
    let generation = osps.generation(0);
    let before = own(&osps);
    osps.stop_process(&osps.process(0));
    osps.wait_log(&["late -> frozen (stopped"]);
    osps.wait_successor(0, generation);
    let more = osps.wait("more gaps", || {
        let gaps = own(&osps);
        (gaps.total() >= before.total() + 5).then_some(gaps)
    });
    assert_eq!(more.since, before.since, "it goes on");
    assert!(more.worst < LIMIT, "{more:?}\n{}", osps.log());
}

#[test]
fn the_next_watchdog_goes_on_with_the_counts() {
    let mut osps = launch("stalls");
    stalled(&osps);
    let before = own(&osps);
    osps.kill_watchdog();
    // It beats all the time; that nobody looks is not its fault.
    pass(2 * LIMIT);
    osps.start_again();
    osps.wait_log(&["took over 1 of 1"]);
    let more = osps.wait("more gaps", || {
        let gaps = own(&osps);
        (gaps.total() > before.total() && gaps.last > before.last + LIMIT).then_some(gaps)
    });
    assert_eq!((more.since, osps.generation(0)), (before.since, 1));
    assert!(more.near_misses >= before.near_misses && more.worst < LIMIT, "{more:?}");
}

/// The histogram of a further heart.
fn of_name<'a>(segment: &'a Segment, name: &str) -> Vec<&'a GapCells> {
    let all = segment.gaps().iter();
    all.filter(|cells| text::load(&cells.heart) == name && !cells.is_of("")).collect()
}

#[test]
fn a_further_heart_keeps_its_counts_in_whatever_line_it_is() {
    let osps = launch("further hearts");
    let segment = osps.segment();
    let slow = osps.wait("a near miss", || {
        let gaps = of_name(&segment, "slow").first()?.read().ok()?;
        (gaps.near_misses > 0).then_some(gaps)
    });
    osps.signal(&osps.process(0), Signal::KILL);
    osps.wait_successor(0, 1);
    let names = |line: usize| text::load(&segment.hearts()[line].name);
    let slots = segment.slots().len();
    osps.wait("its hearts in the other order", || {
        (names(slots) == "slow" && names(slots + 1) == "quick").then_some(())
    });
    let (slow_now, quick_now) = osps.wait("gaps of both", || {
        let read = |line: usize| segment.gaps()[line].read().ok();
        let (slow_now, quick_now) = (read(slots)?, read(slots + 1)?);
        (slow_now.total() > slow.total() && quick_now.total() > 5).then_some((slow_now, quick_now))
    });
    assert_eq!((of_name(&segment, "slow").len(), of_name(&segment, "quick").len()), (1, 1));
    assert_eq!(slow_now.since, slow.since, "it goes on");
    assert!(slow_now.near_misses >= slow.near_misses && slow_now.worst >= slow.worst);
    assert!(quick_now.worst < slow_now.worst, "{quick_now:?} {slow_now:?}");
    let (rows, _) = advice(&osps, &[]);
    let hearts: Vec<_> = rows.iter().map(|row| row["heart"].as_str()).collect();
    assert_eq!(hearts, [None, Some("quick"), Some("slow")], "{rows:?}");
}

#[test]
fn a_service_that_is_new_in_a_slot_begins_anew() {
    let (one, two) = ("[service.one]\n@BEAT@\n", "[service.two]\n@BEAT@\n");
    let osps = Launch::up(one).spawn();
    osps.wait_up(&["one"]);
    let before = own(&osps);
    osps.write(two);
    osps.do_ask(&["reload", "-q"]);
    osps.wait_up(&["two"]);
    osps.write(&format!("{one}{two}"));
    osps.do_ask(&["reload", "-q"]);
    let place = osps.wait("it is counted", || {
        let segment = osps.segment();
        let mut all = segment.gaps().iter();
        let place = all.position(|cells| cells.is_of("one"))?;
        segment.gaps()[place].read().ok().filter(|gaps| gaps.since > before.last)?;
        Some(place)
    });
    let segment = osps.segment();
    assert_eq!(text::load(&segment.slots()[place].server.name), "one");
    assert_eq!(segment.gaps().iter().filter(|cells| cells.is_of("one")).count(), 1);
    let (rows, _) = advice(&osps, &["one"]);
    assert_eq!((rows.len(), &rows[0]["service"]), (1, &"one".into()));
}

/// Servers can write there. Nobody is judged by it, and what makes no sense is not shown.
#[test]
fn garbage_in_a_histogram_is_told_and_hurts_nobody() {
    let osps = launch("beats");
    own(&osps);
    let process = osps.process(0);
    let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let cells = &segment.gaps()[0];
    put(cells.buckets.last().unwrap(), u64::MAX);
    put(&cells.near_misses, u64::MAX);
    put(&cells.limit_ns, u64::MAX);
    let total = || cells.buckets.iter().map(|word| word.load(Ordering::Relaxed) >> 1).sum::<u64>();
    let counted = total();
    osps.wait("it counts on", || (total() > counted).then_some(()));
    assert_eq!(cells.read(), Err(NoGaps::Damaged));
    let (rows, code) = advice(&osps, &[]);
    assert!(rows[0]["why"].as_str().unwrap().starts_with("somebody scribbled"), "{rows:?}");
    assert!(code == Some(0) && rows[0]["suggested_ms"].is_null(), "{rows:?}");
    // All of them, those of lines that nobody has too.
    for cells in segment.gaps() {
        cells.buckets.iter().chain(&cells.heart).for_each(|word| put(word, u64::MAX / 3));
    }
    pass(2 * LIMIT);
    assert!(!process.is_dead() && osps.generation(0) == 1, "{}", osps.log());
    let anew = own(&osps);
    assert!(anew.worst < LIMIT && anew.near_misses <= anew.total(), "{anew:?}");
    // What still has its name is mended at the next launch.
    put(&cells.limit_ns, 0);
    put(cells.buckets.last().unwrap(), 7);
    osps.signal(&process, Signal::KILL);
    osps.wait_successor(0, 1);
    let mended = osps
        .wait("counts that make sense", || cells.read().ok().filter(|gaps| gaps.since > anew.last));
    assert!(mended.worst < LIMIT, "{mended:?}");
}
