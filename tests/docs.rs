//! The documents tell the truth about the code.
//!
//! Goal: docs/segment.md lists every word of the segment where it really lies, and every code with
//! the word that the program prints; the examples beside it use the same offsets; the frames, their
//! kinds, the numbers and the hashes in docs/protocol.md are those of the code; the lifecycle
//! tables in docs/architecture.md are what `State::on` does.
//!
//! Method: the tables are parsed out of the Markdown and compared, row by row and in order, with
//! rows made from the code (`offset_of!`, `size_of`, the `code` functions). The lifecycle tables
//! are made the other way round: rendered from the code, compared with the document, and written
//! into it when OSPS_BLESS is set.
//!
//! What it cannot show: that the *meaning* columns are right, that a word has only the writer the
//! table names, or that the orderings described are the ones in use. The automata and the crash
//! matrix in docs/protocol.md are read by people only. Roles and event kinds are numbers that only
//! their users know, so their tables are checked for shape alone.
#![cfg(not(loom))] // Under loom a word is not eight bytes, so there are no offsets to compare.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its document has failed")]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use osps::ids::Owner;
use osps::ids::{Epoch, Generation, SlotId};
use osps::policy::dispatch::{self, Kind as JobKind};
use osps::policy::lifecycle::{Act, Cause, Event, Next, Patience, Rung, STATE_WORDS, State};
use osps::policy::verdict::Class;
use osps::role::link::announced;
use osps::segment::Geometry;
use osps::segment::area::{self, Area};
use osps::segment::layout;
use osps::segment::layout::{
    AreaCells, EventCells, HeaderCells, HeartCells, OwnerCells, RecordCells, ReportCells,
    RingCells, SlotCells,
};
use osps::segment::slot::desired;
use osps::store::commands::MAX_PAUSE_SECONDS;
use osps::store::{resp, table as store};
use osps::sync::Word;
use osps::time::Monotonic;
use osps::wire::{self, Frame, Kind, offset};

fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|e| panic!("{relative}: {e}"))
}

/// The cells of the first table under the heading `title` of docs/segment.md.
fn table(title: &str, columns: &[&str]) -> Vec<Vec<String>> {
    table_in("docs/segment.md", title, columns)
}

/// The cells of the first table under the heading `title` of a document, which must have exactly
/// these columns. Code marks are taken off.
fn table_in(file: &str, title: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let document = read(file);
    let is_title =
        |line: &&str| line.starts_with('#') && line.trim_start_matches('#').trim() == title;
    let headings = document.lines().filter(is_title).count();
    assert_eq!(headings, 1, "headings \"{title}\" in {file}");
    let mut rows = document
        .lines()
        .skip_while(|line| !is_title(line))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let inner = line.strip_prefix('|').and_then(|l| l.strip_suffix('|')).unwrap_or(line);
            inner.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect::<Vec<Vec<String>>>();
    assert!(rows.len() > 2, "{title}: no table under this heading");
    assert_eq!(rows[0], columns, "{title}: columns");
    assert!(rows[1].iter().all(|cell| cell == "---"), "{title}: no line under the columns");
    for row in &rows {
        assert_eq!(row.len(), columns.len(), "{title}: cells in row {row:?}");
    }
    rows.split_off(2)
}

/// The first `count` columns of each row, joined: short enough to be read in a failed comparison.
fn leading(rows: &[Vec<String>], count: usize) -> Vec<String> {
    rows.iter().map(|row| row[..count].join(" ")).collect()
}

/// Size of a field, from a function that borrows it.
fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Fails unless the document lists all fields of the structure. The pattern has no `..`, so a new
/// field does not even compile until it is named here, and then fails until it is documented.
macro_rules! check_fields {
    ($name:ident { $($field:ident),+ $(,)? }) => {{
        let _every_field_is_listed = |cells: $name| { let $name { $($field: _),+ } = cells; };
        check_structure(stringify!($name), size_of::<$name>(), &[$((
            std::mem::offset_of!($name, $field),
            field_size(|cells: &$name| &cells.$field),
            stringify!($field),
        )),+]);
    }};
}

fn check_structure(name: &str, size: usize, fields: &[(usize, usize, &str)]) {
    let mut expected = Vec::new();
    let mut end = 0;
    let mut sorted = fields.to_vec();
    sorted.sort_unstable();
    for (offset, size, field) in sorted {
        if offset > end {
            expected.push(format!("{end} {} (gap)", offset - end));
        }
        expected.push(format!("{offset} {size} {field}"));
        end = offset + size;
    }
    assert_eq!(end, size, "{name}: it ends after its last field");
    let rows = table(name, &["offset", "size", "field", "writer", "meaning"]);
    assert_eq!(leading(&rows, 3), expected, "{name}: left docs/segment.md, right the code");
    for row in rows {
        assert!(!row[3].is_empty() && !row[4].is_empty(), "{name}: {} says nothing", row[2]);
    }
}

#[test]
fn every_field_is_where_the_document_says() {
    check_fields!(HeaderCells {
        magic,
        version,
        total_size,
        hearts_offset,
        hearts_count,
        slots_offset,
        slots_count,
        events_offset,
        events_count,
        owner_offset,
        data_offset,
        data_size,
        cell_size,
        flags,
        boot_id,
        name,
        watchdog_pid,
        watchdog_start_time,
        started_ns,
        started_unix_ns,
        hang_timeout_ns,
        check_interval_ns,
        beat_interval_ns,
        start_timeout_ns,
        stop_timeout_ns,
        orphan_timeout_ns,
        generation,
        dropped_lines,
        reserved,
        watchdog_heart,
    });
    check_fields!(HeartCells { count, stamp_ns, limit_ns, owner, name });
    check_fields!(SlotCells { record, report });
    check_fields!(RecordCells {
        name,
        role,
        state,
        pid,
        start_time,
        generation,
        desired,
        since_ns,
        spawned_ns,
        baseline,
        listen,
        starts,
        restarts,
        last_cause,
        last_class,
        last_silence_ns,
        depends_on,
        reserved,
    });
    check_fields!(ReportCells {
        sessions,
        link,
        frames_dropped,
        activity_guard,
        activity,
        parked,
        committed_ns,
        reserved,
    });
    check_fields!(RingCells { head, reserved, entries });
    check_fields!(EventCells { ticket, time_ns, slot, generation, kind, arguments });
    check_fields!(OwnerCells { word, recall_epoch, recall_since_ns, reserved });
    check_fields!(AreaCells { sequence, keys, reserved, range_count, reserved_too, ranges });
}

#[test]
fn the_sections_of_the_example_lie_where_the_document_says() {
    let g = Geometry::new(2, layout::HEARTS_DEFAULT, 1 << 20, 256).unwrap();
    let copy = usize::try_from(g.data_size).unwrap();
    let starts = [
        (0, "header"),
        (g.hearts_offset, "hearts"),
        (g.slots_offset, "slots"),
        (g.events_offset, "events"),
        (g.owner_offset, "owner"),
        (g.data_offset, "data, control page"),
        (g.data_offset + layout::PAGE, "data, copy 0"),
        (g.data_offset + layout::PAGE + copy, "data, copy 1"),
    ];
    let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([g.total_size]);
    let expected: Vec<String> = starts
        .iter()
        .zip(ends)
        .map(|((start, section), end)| format!("{start} {} {section}", end - start))
        .collect();
    let rows = table("Sections", &["offset", "size", "section", "stored as"]);
    assert_eq!(leading(&rows, 3), expected);
}

#[test]
fn constants_have_the_values_in_the_document() {
    let expected = [
        ("MAGIC", layout::MAGIC),
        ("VERSION", layout::VERSION),
        ("PAGE", layout::PAGE as u64),
        ("SLOTS_MAX", layout::SLOTS_MAX as u64),
        ("HEARTS_MAX", layout::HEARTS_MAX as u64),
        ("HEARTS_DEFAULT", layout::HEARTS_DEFAULT as u64),
        ("EVENTS", layout::EVENTS as u64),
        ("RANGES", layout::RANGES as u64),
        ("DATA_MAX", layout::DATA_MAX),
    ]
    .map(|(name, value)| format!("{name} {value}"));
    assert_eq!(leading(&table("Constants", &["constant", "value", "meaning"]), 2), expected);
}

/// The rows `code word` of a table of codes.
fn codes(title: &str) -> Vec<String> {
    leading(&table(title, &["code", "word", "meaning"]), 2)
}

#[test]
fn codes_have_the_words_in_the_document() {
    let states: Vec<String> =
        STATE_WORDS.iter().enumerate().map(|(code, word)| format!("{code} {word}")).collect();
    assert_eq!(codes("State"), states);
    for state in STATES {
        let line = format!("{} {state}", state.code());
        assert!(states.contains(&line), "{state:?} is not \"{line}\"");
    }

    let causes = [
        Cause::Exited,
        Cause::Killed,
        Cause::Frozen(Class::Unknown),
        Cause::StartTimeout,
        Cause::Primary,
        Cause::Requested,
    ]
    .map(|cause| format!("{} {cause}", cause.code()));
    assert_eq!(causes.len(), Cause::WORDS.len(), "a cause is missing here");
    assert_eq!(codes("Cause"), causes);

    let classes = Class::ALL.map(|(class, ..)| format!("{} {class}", class.code()));
    assert_eq!(codes("Class"), classes);

    let orders = [(desired::RUN, "run"), (desired::STOP, "stop")];
    assert_eq!(codes("Desired"), orders.map(|(code, word)| format!("{code} {word}")));

    let flags = [
        (layout::flag::MADE_DIR, "MADE_DIR"),
        (layout::flag::MADE_PARENT, "MADE_PARENT"),
        (layout::flag::ALLOW_DEBUG, "ALLOW_DEBUG"),
    ];
    assert_eq!(codes("Header flags"), flags.map(|(code, word)| format!("{code} {word}")));
}

#[test]
fn tables_without_a_counterpart_are_well_formed() {
    assert_eq!(codes("Role"), ["1 primary", "2 secondary", "3 program"]);
    let kinds = table("Event kinds", &["kind", "word", "arg0", "arg1", "arg2"]);
    for (i, row) in kinds.iter().enumerate() {
        assert_eq!(row[0], (i + 1).to_string(), "kinds are numbered without a hole: {row:?}");
    }
}

#[test]
fn the_owner_word_is_packed_as_the_document_says() {
    let none = Owner { slot: Some(SlotId(0)), generation: 0, epoch: Epoch(0) };
    assert_eq!(none.pack(), 0, "the parts below are looked at one by one");
    let parts = [
        ("slot", Owner { slot: Some(SlotId(0xfe)), ..none }.pack() | 1),
        ("generation", Owner { generation: u16::MAX, ..none }.pack()),
        ("epoch", Owner { epoch: Epoch(u64::MAX), ..none }.pack()),
    ];
    let expected = parts.map(|(part, mask)| {
        let (low, high) = (mask.trailing_zeros(), mask.ilog2());
        assert_eq!(mask.count_ones(), high - low + 1, "{part} is one run of bits");
        format!("{low}..{high} {part}")
    });
    assert_eq!(leading(&table("Owner word", &["bits", "part", "meaning"]), 2), expected);
}

const PROTOCOL: &str = "docs/protocol.md";

#[test]
fn frames_are_laid_out_as_the_document_says() {
    let fields = [
        (offset::MAGIC, "magic"),
        (offset::VERSION, "version"),
        (offset::KIND, "kind"),
        (offset::FROM, "from"),
        (offset::TO, "to"),
        (offset::FROM_GENERATION, "from_generation"),
        (offset::TO_GENERATION, "to_generation"),
        (offset::EPOCH, "epoch"),
        (offset::SEQUENCE, "sequence"),
        (offset::JOB, "job"),
        (offset::PAYLOAD, "payload"),
    ];
    let ends = fields.iter().skip(1).map(|(start, _)| *start).chain([wire::FRAME_SIZE]);
    let expected: Vec<String> = fields
        .iter()
        .zip(ends)
        .map(|((start, field), end)| format!("{start} {} {field}", end - start))
        .collect();
    let rows = table_in(PROTOCOL, "Frame", &["offset", "size", "field", "meaning"]);
    assert_eq!(leading(&rows, 3), expected);

    // What `encode` stores where, seen from outside: a frame with one field set differs from the
    // empty one within that field's bytes only.
    let empty = Frame {
        kind: Kind::Ping,
        from: SlotId(0),
        to: SlotId(0),
        from_generation: Generation(0),
        to_generation: Generation(0),
        epoch: Epoch(0),
        sequence: 0,
        job: 0,
        payload: [0; wire::PAYLOAD_SIZE],
    };
    let frames = [
        ("from", Frame { from: SlotId(u8::MAX), ..empty }),
        ("to", Frame { to: SlotId(u8::MAX), ..empty }),
        ("from_generation", Frame { from_generation: Generation(u32::MAX), ..empty }),
        ("to_generation", Frame { to_generation: Generation(u32::MAX), ..empty }),
        ("epoch", Frame { epoch: Epoch(u64::MAX), ..empty }),
        ("sequence", Frame { sequence: u64::MAX, ..empty }),
        ("job", Frame { job: u64::MAX, ..empty }),
        ("payload", Frame { payload: [u8::MAX; wire::PAYLOAD_SIZE], ..empty }),
    ];
    for (field, frame) in frames {
        let bytes = wire::encode(&frame).into_iter().zip(wire::encode(&empty));
        let changed: Vec<usize> =
            bytes.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
        let line = format!("{} {} {field}", changed[0], changed.len());
        assert!(expected.contains(&line), "{line} is not where `encode` stores it");
    }
}

#[test]
fn kinds_of_frames_have_the_numbers_in_the_document() {
    let columns = ["number", "kind", "from, to", "what the addressee does", "what a loss costs"];
    let rows = table_in(PROTOCOL, "Kinds", &columns);
    let expected =
        Kind::ALL.map(|(kind, number)| format!("{number} {}", format!("{kind:?}").to_lowercase()));
    assert_eq!(leading(&rows, 2), expected);
    for row in rows {
        assert!(row[2..].iter().all(|cell| !cell.is_empty()), "{} says nothing", row[1]);
    }
}

#[test]
fn the_payload_of_a_job_is_read_where_the_document_says() {
    let rows = table_in(PROTOCOL, "Job payload", &["offset", "size", "field", "meaning"]);
    assert_eq!(leading(&rows, 3), ["0 1 kind", "1 7 zero", "8 16 address"]);
    let mut frame = Frame {
        kind: Kind::Job,
        from: SlotId(0),
        to: SlotId(1),
        from_generation: Generation(1),
        to_generation: Generation(2),
        epoch: Epoch(0),
        sequence: 1,
        job: 7,
        payload: [0; wire::PAYLOAD_SIZE],
    };
    frame.payload[8..].copy_from_slice(&Ipv4Addr::new(127, 0, 0, 2).to_ipv6_mapped().octets());
    for (code, kind) in [(1, Some(JobKind::Read)), (2, Some(JobKind::ReadWrite)), (0, None)] {
        frame.payload[0] = code;
        let job = announced(&frame, NOW);
        assert_eq!(job.map(|job| job.kind), kind);
        let peer = job.map(|job| job.peer);
        assert!(peer.is_none_or(|peer| peer == Ipv4Addr::new(127, 0, 0, 2)));
    }
}

#[test]
fn the_protocol_has_the_numbers_in_the_document() {
    let expected = [
        ("FRAME_SIZE", wire::FRAME_SIZE as u64),
        ("PAYLOAD_SIZE", wire::PAYLOAD_SIZE as u64),
        ("MAGIC", u64::from(wire::MAGIC)),
        ("VERSION", u64::from(wire::VERSION)),
        ("WATCHDOG", u64::from(wire::WATCHDOG.0)),
        ("CLAIM_TIME", dispatch::CLAIM_TIME.as_secs()),
        ("JOBS_MAX", dispatch::JOBS_MAX as u64),
        ("RANGES", layout::RANGES as u64),
        ("LEVEL_PIECE", area::LEVEL_PIECE as u64),
        ("READ_TRIES", area::READ_TRIES as u64),
        ("KEY_MAX", store::KEY_MAX as u64),
        ("CELL_OVERHEAD", store::CELL_OVERHEAD as u64),
        ("MAX_WORDS", resp::MAX_WORDS as u64),
        ("MAX_WORD", resp::MAX_WORD as u64),
        ("MAX_INLINE", resp::MAX_INLINE as u64),
        ("MAX_PAUSE_SECONDS", u64::from(MAX_PAUSE_SECONDS)),
    ]
    .map(|(name, value)| format!("{name} {value}"));
    let rows = table_in(PROTOCOL, "Numbers", &["name", "value", "what it bounds"]);
    assert_eq!(leading(&rows, 2), expected);
}

/// The hashes are checked by their effect: in an empty table a key stands in its home cell.
#[test]
fn keys_lie_where_the_document_says() {
    let bytes = 1 << 20;
    let words = |count: usize| (0..count).map(|_| Word::new(0)).collect::<Vec<_>>();
    let (sequence, count, ranges) = (Word::new(0), Word::new(0), words(8));
    let copies = [words(bytes / 8), words(bytes / 8)];
    let area = Area::new(&sequence, &count, &ranges, [&copies[0], &copies[1]]);
    let table = store::Table::new(bytes, 256).unwrap();
    let rows = table_in(PROTOCOL, "The table", &["offset", "size", "what"]);
    let offsets: Vec<&str> = rows.iter().take(3).map(|row| row[0].as_str()).collect();
    assert_eq!(offsets, ["0", "8", "64 + 8 * i"]);
    for (key, hash) in [
        ("", 7_351_636_920_882_584_609),
        ("k1", 14_072_894_629_228_418_169),
        ("hello", 1_521_874_140_924_359_652_u64),
    ] {
        assert!(read(PROTOCOL).contains(&format!(" | {hash} |")), "no hash of \"{key}\"");
        while !area.level(area::LEVEL_PIECE) {}
        let mut update = area.begin();
        table.clear(&mut update).unwrap();
        table.set(&mut update, key.as_bytes(), b"value").unwrap();
        update.commit();
        let home = usize::try_from(hash % table.cells() as u64).unwrap();
        let cell = 64 + 8 * table.cells() + 256 * home;
        area.read_as_owner(|view| {
            assert_eq!(view.word(0), 1, "keys");
            assert_eq!(view.word(8 + home), hash | 1, "tag of \"{key}\"");
            assert_eq!(view.word(cell / 8), key.len() as u64 | 5 << 32, "lengths");
            let mut stored = vec![0; key.len() + 5];
            view.read(cell + 8, &mut stored);
            assert_eq!(stored, format!("{key}value").as_bytes());
        });
    }
}

/// The examples name their offsets `HEADER_x`, `HEART_x`, `RECORD_x` and `AREA_x` after the
/// fields.
#[test]
fn the_examples_use_the_offsets_in_the_document() {
    let columns = ["offset", "size", "field", "writer", "meaning"];
    let structures = [
        ("HEADER_", table("HeaderCells", &columns)),
        ("HEART_", table("HeartCells", &columns)),
        ("RECORD_", table("RecordCells", &columns)),
        ("AREA_", table("AreaCells", &columns)),
    ];
    for example in ["docs/examples/beat.py", "docs/examples/beat.c", "docs/examples/hearts.py"] {
        let source = read(example);
        let words: Vec<&str> = source
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .collect();
        let mut checked = 0;
        for definition in words.windows(3).filter(|words| words[1] == "=") {
            let (name, value) = (definition[0], definition[2]);
            let Some((field, rows)) = structures
                .iter()
                .find_map(|(prefix, rows)| Some((name.strip_prefix(prefix)?.to_lowercase(), rows)))
            else {
                continue;
            };
            let row = rows.iter().find(|row| row[2] == field);
            let row = row.unwrap_or_else(|| panic!("{example}: {name} is no field"));
            assert_eq!(value, row[0], "{example}: {name}");
            checked += 1;
        }
        assert!(checked >= 8, "{example}: only {checked} offsets found");
    }
}

const NOW: Monotonic = Monotonic(0);

const STATES: [State; 11] = [
    State::Down,
    State::Starting,
    State::Up,
    State::Late,
    State::Held,
    State::Stopping(Rung::Asked { until: NOW }),
    State::Stopping(Rung::Terminating { until: NOW }),
    State::Stopping(Rung::Killing { until: NOW }),
    State::Stopping(Rung::Unkillable),
    State::Backoff { until: NOW },
    State::Failed,
];

const NEXTS: [Next; 3] = [Next::Rest, Next::Wait(NOW), Next::Never];

/// The events in two groups, since one table of all would be wider than a page.
const SILENCE: [Event; 5] = [Event::Start, Event::Beat, Event::Late, Event::Hold, Event::Pardon];
const ENDING: [Event; 5] =
    [Event::Convict, Event::Condemn, Event::Stop, Event::Died(Next::Rest), Event::Timer];

fn state_name(state: State) -> &'static str {
    match state {
        State::Down => "down",
        State::Starting => "starting",
        State::Up => "up",
        State::Late => "late",
        State::Held => "held",
        State::Stopping(Rung::Asked { .. }) => "asked",
        State::Stopping(Rung::Terminating { .. }) => "terminating",
        State::Stopping(Rung::Killing { .. }) => "killing",
        State::Stopping(Rung::Unkillable) => "unkillable",
        State::Backoff { .. } => "backoff",
        State::Failed => "failed",
    }
}

fn event_name(event: Event) -> &'static str {
    match event {
        Event::Start => "Start",
        Event::Beat => "Beat",
        Event::Late => "Late",
        Event::Hold => "Hold",
        Event::Pardon => "Pardon",
        Event::Convict => "Convict",
        Event::Condemn => "Condemn",
        Event::Stop => "Stop",
        Event::Died(_) => "Died",
        Event::Timer => "Timer",
    }
}

fn act_name(act: Act) -> &'static str {
    match act {
        Act::Spawn => "spawn",
        Act::Baseline => "baseline",
        Act::Ask => "ask",
        Act::Terminate => "terminate",
        Act::Kill => "kill",
        Act::Alarm => "alarm",
    }
}

/// One cell: `next state / act`, a dot where nothing happens.
fn cell(state: State, event: Event) -> String {
    let second = Duration::from_secs(1);
    let patience = Patience { ask: second, term: second, kill: second };
    let outcome = |event| {
        let (next, act) = state.on(event, NOW, &patience);
        let act = act.map(|act| format!(" / {}", act_name(act))).unwrap_or_default();
        if next == state && act.is_empty() {
            "·".to_owned()
        } else {
            format!("{}{act}", state_name(next))
        }
    };
    let Event::Died(_) = event else { return outcome(event) };
    let outcomes = NEXTS.map(|next| outcome(Event::Died(next)));
    if outcomes == ["down", "backoff", "failed"] {
        "next".to_owned()
    } else {
        assert!(outcomes.iter().all(|o| o == "·"), "a death in {state:?} is special: {outcomes:?}");
        "·".to_owned()
    }
}

fn lifecycle_table(events: &[Event]) -> String {
    let mut lines = vec!["state".to_owned()];
    lines[0].extend(events.iter().map(|event| format!(" | {}", event_name(*event))));
    lines.push(format!("---{}", " | ---".repeat(events.len())));
    for state in STATES {
        let mut line = state_name(state).to_owned();
        for event in events {
            write!(line, " | {}", cell(state, *event)).unwrap();
        }
        lines.push(line);
    }
    format!("| {} |\n", lines.join(" |\n| "))
}

#[test]
fn the_lifecycle_tables_are_what_the_code_does() {
    const FILE: &str = "docs/architecture.md";
    const BEGIN: &str = "<!-- lifecycle table -->\n";
    const END: &str = "<!-- end -->";
    let rendered = format!(
        "A cell is `next state / act`; a dot means that nothing happens. `asked`, `terminating`,\n\
         `killing` and `unkillable` are the rungs of `stopping`. `next` is `down`, `backoff` or\n\
         `failed`, as the restart rules decide.\n\n{}\n{}",
        lifecycle_table(&SILENCE),
        lifecycle_table(&ENDING),
    );
    let document = read(FILE);
    let (before, rest) = document.split_once(BEGIN).expect("the marker before the block");
    let (block, after) = rest.split_once(END).expect("the marker after the block");
    if std::env::var_os("OSPS_BLESS").is_some() {
        if block != rendered {
            let blessed = format!("{before}{BEGIN}{rendered}{END}{after}");
            std::fs::write(path(FILE), blessed).unwrap();
        }
    } else {
        assert_eq!(block, rendered, "{FILE} is out of date: run this test with OSPS_BLESS=1");
    }
}
