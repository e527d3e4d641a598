//! Goal: a segment is what docs/segment.md says: made, attached to, taken over and mended as a
//! whole or not at all, and every part lies where the header says.
//!
//! Method: segments in files of this test, looked at through the library and as plain bytes, with
//! one word after the other made wrong.
//!
//! What it cannot show: other processes (tests/rundir.rs, tests/share.rs), a creator that is killed
//! half-way (tests/instruction.rs), what others may see of stores on their way (tests/loom).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::pulse::Sample;
use osps_heart::segment::area::LEVEL_PIECE;
use osps_heart::segment::layout::{
    DATA_MAX, EVENTS, HEARTS_MAX, HeaderCells, MAGIC, PAGE, SLOTS_MAX, VERSION, flag,
};
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{
    Access, AttachError, CreateOptions, Death, Geometry, Record, Segment, Times, What, text,
};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::{Desired, State};

/// Bytes of the header that are in use.
const HEADER: u64 = 384;
/// Offsets in the header, as docs/segment.md has them.
const AT_MAGIC: u64 = 0;
const AT_VERSION: u64 = 8;

fn founding(data_size: u64) -> CreateOptions {
    CreateOptions {
        geometry: Geometry::new(2, 4, data_size, 256).unwrap(),
        flags: flag::MADE_DIR | flag::ALLOW_DEBUG,
        boot_id: [11, 12],
        name: "test".to_owned(),
        watchdog: (4711, 13),
        now: Monotonic(14),
        unix_ns: 15,
        times: Times {
            hang_timeout: Duration::from_nanos(16),
            check_interval: Duration::from_nanos(17),
            beat_interval: Duration::from_nanos(18),
            start_timeout: Duration::from_nanos(19),
            stop_timeout: Duration::from_nanos(20),
            orphan_timeout: Duration::from_nanos(21),
        },
    }
}

fn made() -> (File, Segment) {
    let file = tempfile::tempfile().unwrap();
    let segment = Segment::create(&file, &founding(8192), |_| {}).unwrap();
    (file, segment)
}

fn word(file: &File, offset: u64) -> u64 {
    let mut raw = [0; 8];
    file.read_exact_at(&mut raw, offset).unwrap();
    u64::from_le_bytes(raw)
}

fn put(file: &File, offset: u64, value: u64) {
    file.write_all_at(&value.to_le_bytes(), offset).unwrap();
}

fn refusal(file: &File) -> AttachError {
    Segment::attach(file, Access::ReadOnly).expect_err("attached to")
}

// ---- Made and attached to ----

#[test]
fn what_was_founded_is_found() {
    let file = tempfile::tempfile().unwrap();
    let founding = founding(5000);
    let made = Segment::create(&file, &founding, |segment| {
        let version = segment.header().version.load(Ordering::Relaxed);
        assert_eq!(version, 0, "published before it was furnished");
        assert!(matches!(refusal(&file), AttachError::Unfinished));
        text::store(&segment.slots()[1].server.name, "second");
    });
    drop(made.unwrap());

    let found = Segment::attach(&file, Access::ReadOnly).unwrap();
    assert_eq!(found.geometry(), &founding.geometry);
    assert_eq!(found.geometry().data_size, 8192, "whole pages");
    assert_eq!(file.metadata().unwrap().len(), founding.geometry.total_size as u64);
    let header = found.header();
    assert_eq!(text::load(&header.name), "test");
    assert_eq!(text::load(&found.slots()[1].server.name), "second");
    assert_eq!(found.owner().current(), Owner::NONE);
    assert_eq!(header.watchdog_heart.sample(), Sample { count: 1, stamp: Monotonic(14) });
    let words = [
        (&header.flags, 5),
        (&header.boot_id[0], 11),
        (&header.boot_id[1], 12),
        (&header.watchdog_pid, 4711),
        (&header.watchdog_start_time, 13),
        (&header.started_ns, 14),
        (&header.started_unix_ns, 15),
        (&header.hang_timeout_ns, 16),
        (&header.check_interval_ns, 17),
        (&header.beat_interval_ns, 18),
        (&header.start_timeout_ns, 19),
        (&header.stop_timeout_ns, 20),
        (&header.orphan_timeout_ns, 21),
    ];
    for (number, (word, expected)) in words.into_iter().enumerate() {
        assert_eq!(word.load(Ordering::Relaxed), expected, "word {number} of the list above");
    }
}

#[test]
fn every_part_lies_where_the_header_says() {
    let (file, segment) = made();
    let geometry = *segment.geometry();
    let at = |offset: usize| word(&file, offset as u64);
    segment.hearts()[3].count.store(1, Ordering::Relaxed);
    assert_eq!(at(geometry.hearts_offset + 3 * 64), 1);
    segment.slots()[1].server.role.store(2, Ordering::Relaxed);
    assert_eq!(at(geometry.slots_offset + PAGE + 32), 2);
    segment.events().head.store(3, Ordering::Relaxed);
    assert_eq!(at(geometry.events_offset), 3);
    segment.owner().recall_epoch.store(4, Ordering::Relaxed);
    assert_eq!(at(geometry.owner_offset + 8), 4);
    segment.area_cells().keys.store(5, Ordering::Relaxed);
    assert_eq!(at(geometry.data_offset + 8), 5);

    // Copy `sequence & 1` is the good one, so the first commit goes into copy 1.
    let area = segment.area();
    assert_eq!(area.size(), 8192);
    let last = area.size() - 8;
    let mut update = area.begin();
    update.write(0, &6u64.to_le_bytes()).unwrap();
    update.write(last, &7u64.to_le_bytes()).unwrap();
    assert_eq!(update.view().size(), 8192);
    assert_eq!(update.commit(), 1);
    let copies = [0, 1].map(|copy: usize| geometry.data_offset + PAGE + copy * 8192);
    assert_eq!(copies.map(|copy| (at(copy), at(copy + last))), [(0, 0), (6, 7)]);
    assert!(area.level(LEVEL_PIECE));
    assert_eq!(copies.map(|copy| (at(copy), at(copy + last))), [(6, 7), (6, 7)]);
    assert_eq!(copies[1] + 8192, geometry.total_size);
}

#[test]
fn sizes_have_bounds() {
    assert_eq!(DATA_MAX, 0xffff_f000, "a length in a range entry has 32 bits");
    let sound = |slots, hearts, data, cell| Geometry::new(slots, hearts, data, cell).is_some();
    assert!(sound(1, 1, 1, 0) && sound(SLOTS_MAX, HEARTS_MAX, DATA_MAX, DATA_MAX));
    for (slots, hearts, data, cell) in [
        (0, 1, 1, 0),
        (SLOTS_MAX + 1, SLOTS_MAX + 1, 1, 0),
        (2, 1, 1, 0),
        (1, HEARTS_MAX + 1, 1, 0),
        (1, 1, 0, 0),
        (1, 1, DATA_MAX + 1, 0),
        (1, 1, 256, 257),
    ] {
        assert!(!sound(slots, hearts, data, cell), "{slots} {hearts} {data} {cell}");
    }
}

#[test]
fn a_file_that_is_none_is_refused_with_the_reason() {
    let file = tempfile::tempfile().unwrap();
    for length in [0, 1, HEADER - 1] {
        file.set_len(length).unwrap();
        assert!(matches!(refusal(&file), AttachError::Short(seen) if seen == length));
    }
    file.set_len(HEADER).unwrap();
    assert!(matches!(refusal(&file), AttachError::Unfinished), "zeros: its creator was killed");
    put(&file, AT_MAGIC, MAGIC);
    assert!(matches!(refusal(&file), AttachError::Unfinished));
    put(&file, AT_MAGIC, 9);
    assert!(matches!(refusal(&file), AttachError::Magic(9)));
    put(&file, AT_MAGIC, 0);
    put(&file, AT_VERSION, VERSION);
    assert!(matches!(refusal(&file), AttachError::Magic(0)));
    put(&file, AT_MAGIC, MAGIC);
    put(&file, AT_VERSION, VERSION + 1);
    assert!(matches!(refusal(&file), AttachError::Version(version) if version == VERSION + 1));
    put(&file, AT_VERSION, VERSION);
    assert!(matches!(refusal(&file), AttachError::Geometry(_)), "sizes of zero");
}

#[test]
fn no_stored_size_is_believed_alone() {
    let (file, segment) = made();
    // The eleven words after magic and version, and one more.
    for offset in (16..16 + 11 * 8).step_by(8).chain([288]) {
        let sound = word(&file, offset);
        for wrong in [0, sound - 1, sound + 1, sound << 32, u64::MAX] {
            put(&file, offset, wrong);
            match Segment::attach(&file, Access::ReadOnly) {
                Err(AttachError::Geometry(_)) => {}
                // Another number of hearts on the same pages, cells of another size: no offset
                // depends on them.
                Ok(segment) if wrong != sound && [32, 96].contains(&offset) => {
                    assert_eq!(segment.geometry().total_size as u64, word(&file, 16));
                }
                other => assert_eq!(wrong, sound, "offset {offset}: {other:?}"),
            }
        }
        put(&file, offset, sound);
    }
    let length = segment.geometry().total_size as u64;
    file.set_len(length - 1).unwrap();
    assert!(matches!(refusal(&file), AttachError::Geometry(_)), "a byte is missing");
    for enough in [length, length + 1] {
        file.set_len(enough).unwrap();
        assert!(Segment::attach(&file, Access::ReadOnly).is_ok(), "{enough} of {length} bytes");
    }
}

#[test]
fn a_segment_is_opened_in_its_directory_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let new = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    Segment::create(&new, &founding(4096), |_| {}).unwrap();
    let writer = Segment::open(dir.path(), Access::ReadWrite).unwrap();
    let reader = Segment::open(dir.path(), Access::ReadOnly).unwrap();
    writer.hearts()[0].beat(Monotonic(1));
    assert_eq!(reader.hearts()[0].sample().count, 1);

    let held = tempfile::tempdir().unwrap();
    let target = format!("/proc/{}/fd/{}", std::process::id(), new.as_raw_fd());
    std::os::unix::fs::symlink(target, held.path().join(FILE_NAME)).unwrap();
    Segment::open(held.path(), Access::ReadWrite).expect("what the watchdog holds");

    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&path, elsewhere.path().join(FILE_NAME)).unwrap();
    let refused = Segment::open(elsewhere.path(), Access::ReadOnly).expect_err("a link followed");
    assert!(matches!(refused, AttachError::Io { op: "open", .. }), "{refused}");
    std::fs::remove_file(elsewhere.path().join(FILE_NAME)).unwrap();
    nix::unistd::mkfifo(&elsewhere.path().join(FILE_NAME), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A FIFO that nobody writes: it is not waited for.
    assert!(Segment::open(elsewhere.path(), Access::ReadOnly).is_err());
}

#[test]
fn a_file_that_was_cut_or_swapped_is_another() {
    let (file, segment) = made();
    assert!(segment.is_file(file.metadata()));
    assert!(!segment.is_file(tempfile::tempfile().unwrap().metadata()));
    assert!(!segment.is_file(Err(std::io::Error::other("gone"))));
    let length = file.metadata().unwrap().len();
    file.set_len(length - 1).unwrap();
    assert!(!segment.is_file(file.metadata()));
    let header = std::ptr::from_ref(segment.header()) as usize;
    assert_eq!(segment.addresses(), header..header + segment.geometry().total_size);
}

/// One write of 0xff over the segment made every successor die: only magic and version were mended.
#[test]
fn a_scribbled_header_is_put_back_word_by_word() {
    let (file, segment) = made();
    let options = founding(8192);
    assert!(!segment.mend_header(&options), "nothing to mend");
    let size = std::mem::offset_of!(HeaderCells, watchdog_heart) as u64;
    let before: Vec<u64> = (0..size).step_by(8).map(|at| word(&file, at)).collect();
    // What others may change, and what is mended with its own value elsewhere: the last generation,
    // dropped lines, and room.
    let changing = [272, 280, 296, 304, 312];
    for (at, was) in (0..size).step_by(8).zip(&before) {
        put(&file, at, u64::MAX);
        let mended = segment.mend_header(&options);
        assert_eq!(mended, !changing.contains(&at), "offset {at}");
        if !mended {
            put(&file, at, *was);
        }
    }
    let after: Vec<u64> = (0..size).step_by(8).map(|at| word(&file, at)).collect();
    assert_eq!(after, before);
    Segment::attach(&file, Access::ReadOnly).unwrap();
}

// ---- Taken over ----

#[test]
fn a_takeover_keeps_data_and_counts_and_clears_who_was_there() {
    let (file, old) = made();
    let held = Owner { slot: Some(SlotId(1)), generation: 8, epoch: Epoch(9) };
    assert!(old.owner().exchange(Owner::NONE, held));
    old.owner().set_recall(Epoch(9), Monotonic(30));
    let mut update = old.area().begin();
    update.write(0, b"kept").unwrap();
    update.commit();
    old.hearts()[1].beat(Monotonic(31));
    old.header().generation.store(8, Ordering::Relaxed);
    let slots = old.geometry().slots_offset..old.geometry().events_offset;
    for offset in slots.clone().step_by(8) {
        put(&file, offset as u64, 1);
    }
    drop(old);

    let mut next = founding(8192);
    next.name = "next".to_owned();
    let new = Segment::refound(&file, &next, |segment| {
        segment.slots()[0].server.role.store(3, Ordering::Relaxed);
    });
    let new = new.unwrap().expect("the same sizes");
    assert_eq!(text::load(&new.header().name), "next");
    assert_eq!(new.owner().current(), Owner { epoch: Epoch(9), ..Owner::NONE });
    assert_eq!(new.owner().recall(), None);
    let mut kept = [0; 4];
    new.area().read_as_owner(|view| view.read(0, &mut kept));
    assert_eq!(&kept, b"kept");
    assert_eq!(new.hearts()[1].sample().count, 1);
    assert_eq!(new.header().watchdog_heart.sample().count, 2);
    assert_eq!(new.header().generation.load(Ordering::Relaxed), 8);
    let set: Vec<_> = slots.step_by(8).filter(|at| word(&file, *at as u64) != 0).collect();
    assert_eq!(set, [new.geometry().slots_offset + 32], "the role in the first slot, alone");

    assert!(Segment::refound(&file, &founding(4096), |_| {}).unwrap().is_none(), "other sizes");
}

// ---- What stands in it ----

#[test]
fn a_heart_counts_and_carries_a_stamp() {
    let (_file, segment) = made();
    let heart = &segment.hearts()[0];
    assert_eq!(heart.sample(), Sample { count: 0, stamp: Monotonic(0) });
    heart.beat(Monotonic(5));
    assert_eq!(heart.sample(), Sample { count: 1, stamp: Monotonic(5) });
    heart.tick();
    assert_eq!(heart.sample(), Sample { count: 2, stamp: Monotonic(5) });
    heart.count.store(u64::MAX, Ordering::Relaxed);
    heart.tick();
    assert_eq!(heart.sample().count, 0, "it wraps");
}

fn event(number: u64) -> Record {
    let slot = u8::try_from(number % 3).unwrap().checked_sub(1).map(SlotId);
    let what = What::Backoff {
        death: Death::Exited(i32::try_from(number).unwrap() + 2),
        until: Monotonic(number + 1),
    };
    Record {
        name: "worker-1".into(),
        change: Some((State::Up, State::Backoff)),
        text: format!("number {number}").as_str().into(),
        ..Record::new(Monotonic(number), slot, Generation(u32::try_from(number).unwrap()), what)
    }
}

#[test]
fn the_newest_events_come_back_in_their_order() {
    let (_file, segment) = made();
    let ring = segment.events();
    assert_eq!(ring.latest(EVENTS), []);
    let events = |range: std::ops::Range<u64>| range.map(event).collect::<Vec<_>>();
    let push = |range| {
        for event in events(range) {
            ring.push(&event);
        }
    };
    push(0..5);
    assert_eq!(ring.latest(EVENTS), events(0..5));
    assert_eq!(ring.latest(2), events(3..5));
    assert_eq!(ring.latest(0), []);
    push(5..3000);
    assert_eq!(ring.latest(usize::MAX), events(3000 - EVENTS as u64..3000));
    // One that is being written, or whose writer died over it.
    ring.entries[2998 % EVENTS].ticket.store(0, Ordering::Relaxed);
    assert_eq!(ring.latest(3), [event(2997), event(2999)]);
    // One of another round.
    ring.entries[2999 % EVENTS].ticket.store(1, Ordering::Relaxed);
    assert_eq!(ring.latest(3), [event(2997)]);
    ring.head.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(ring.latest(EVENTS), [], "a scribbled head shows nothing");
}

#[test]
fn the_owner_word_changes_as_a_whole() {
    let (_file, segment) = made();
    let cells = segment.owner();
    let held = Owner { slot: Some(SlotId(1)), generation: 2, epoch: Epoch(3) };
    for wrong in [
        Owner { slot: None, ..held },
        Owner { generation: 1, ..held },
        Owner { epoch: Epoch(2), ..held },
    ] {
        cells.word.store(held.pack(), Ordering::Relaxed);
        assert!(!cells.exchange(wrong, Owner::NONE));
        assert_eq!(cells.current(), held);
    }
    assert!(cells.exchange(held, Owner::NONE));
    assert_eq!(cells.current(), Owner::NONE);
}

#[test]
fn a_recall_keeps_its_first_time() {
    let (_file, segment) = made();
    let cells = segment.owner();
    assert_eq!(cells.recall(), None);
    cells.set_recall(Epoch(1), Monotonic(10));
    cells.set_recall(Epoch(1), Monotonic(11));
    assert_eq!(cells.recall(), Some((Epoch(1), Monotonic(10))));
    cells.set_recall(Epoch(2), Monotonic(12));
    assert_eq!(cells.recall(), Some((Epoch(2), Monotonic(12))));
}

#[test]
fn an_identity_that_cannot_be_is_nobody() {
    let (_file, segment) = made();
    let server = &segment.slots()[0].server;
    assert_eq!(server.identity(), None);
    let sound = Identity { pid: 2, start_time: 3, generation: Generation(4) };
    server.set_identity(sound);
    assert_eq!((server.identity(), server.current_generation()), (Some(sound), Generation(4)));
    let largest = Identity { pid: (1 << 22) - 1, ..sound };
    server.set_identity(largest);
    assert_eq!(server.identity(), Some(largest));
    for pid in [0, 1, 1 << 22, u64::MAX] {
        server.pid.store(pid, Ordering::Relaxed);
        assert_eq!(server.identity(), None, "pid {pid}");
    }
    server.set_identity(sound);
    server.generation.store(1 << 32, Ordering::Relaxed);
    assert_eq!((server.identity(), server.current_generation()), (None, Generation(0)));
    server.set_identity(sound);
    server.clear_identity();
    assert_eq!(server.identity(), None);
    assert!(!server.stop_wanted());
    server.desired.store(Desired::Stop.code(), Ordering::Relaxed);
    assert!(server.stop_wanted());
}

#[test]
fn an_activity_is_said_and_cut() {
    let (_file, segment) = made();
    let activity = &segment.slots()[0].activity;
    assert_eq!(activity.text().as_deref(), Some(""));
    activity.set_text("counting");
    assert_eq!(activity.text().as_deref(), Some("counting"));
    activity.set_text(&"é".repeat(60));
    assert_eq!(activity.text(), Some("é".repeat(48)), "96 bytes");
    activity.text_guard.fetch_add(1, Ordering::Relaxed);
    assert_eq!(activity.text(), None, "its writer died in it");
    activity.set_text("alive");
    assert_eq!(activity.text().as_deref(), Some("alive"));
}
