//! The documents tell the truth about the code.
//!
//! Goal: docs/segment.md lists every word of the segment where it really lies, and every code with
//! the word that the program prints, the table of keys with its hashes included; the C header, the
//! Python package and the example beside it use the same offsets; the frames, their kinds, the
//! numbers, the automata and the commands in docs/pair.md are those of the code; the lifecycle tables in docs/architecture.md are what
//! `State::on` does; and whatever a document points at is there.
//!
//! Method: the tables are parsed out of the Markdown and compared, row by row and in order, with
//! rows made from the code (`offset_of!`, `size_of`, the `code` functions). Where a list in the
//! code has no end that a test could see (constants of a module), its source is read. The cells of
//! the automata say what the real ones want done in a state that the column describes. The
//! lifecycle tables are made the other way round: rendered from the code, compared with the
//! document, and written into it when OSPS_BLESS is set.
//!
//! What it cannot show: that the *meaning* columns are right, that a word has only the writer the
//! table names, or that the orderings described are the ones in use. `FOR_PEOPLE` names the tables
//! that nothing is compared with; the crash matrix is played in tests/instruction.rs.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its document has failed")]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use osps::pair::dispatch::{self, JobType};
use osps::pair::link::announced;
use osps::pair::store::commands::{self, MAX_PAUSE_SECONDS};
use osps::pair::store::resp;
use osps::pair::wire::{self, Frame, FrameKind, offset};
use osps::policy::adopt::{self, Seen};
use osps::policy::lifecycle::{Stage, Trigger};
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::ownership::{Arbiter, ArbiterAction, Holder, HolderAction};
use osps_heart::segment::area::{self, Area};
use osps_heart::segment::layout::{
    self, ActivityCells, AreaCells, EventCells, GapCells, HeaderCells, HeartCells, OwnerCells,
    RingCells, ServerCells, SlotCells,
};
use osps_heart::segment::{Death, Geometry, What};
use osps_heart::sync::Word;
use osps_heart::table as store;
use osps_heart::time::Monotonic;
use osps_heart::words::{
    Cause, Class, DeathKind, Desired, Event, Goal, HeartSource, Press, Request, Role, State,
    Watched, env,
};

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
            // A bar within a cell is escaped.
            let inner = inner.replace("\\|", "\0");
            let cell = |cell: &str| cell.trim().trim_matches('`').replace('\0', "|");
            inner.split('|').map(cell).collect()
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
        gaps_offset,
        late_turns,
        worst_lag_ns,
        lag_ns,
        watchdog_heart,
    });
    check_fields!(HeartCells { count, stamp_ns, limit_ns, claim, name });
    check_fields!(SlotCells { server, activity });
    check_fields!(ServerCells {
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
        blocked_by,
        heart_source,
        watched,
        last_heart,
        paused_until_ns,
        goal,
        due_ns,
        excused_until_ns,
        tally,
        unheld,
        main_pid,
        main_start,
        up_since_ns,
        opened,
        hangs,
        reports,
        last_report,
        family,
        depends_on,
        after_done,
        restart_with,
        reserved,
    });
    check_fields!(ActivityCells {
        sessions,
        link,
        frames_dropped,
        text_guard,
        text,
        parked,
        committed_ns,
        heeds,
        reserved,
    });
    check_fields!(RingCells { head, reserved, entries });
    check_fields!(EventCells {
        ticket,
        time_ns,
        slot,
        generation,
        kind,
        arguments,
        unix_ns,
        pid,
        from,
        to,
        limit_ns,
        up_ns,
        took_ns,
        name,
        heart,
        detail,
        text,
    });
    check_fields!(OwnerCells { word, recall_epoch, recall_since_ns, reserved });
    check_fields!(GapCells {
        service,
        heart,
        since_ns,
        last_ns,
        limit_ns,
        worst_ns,
        near_misses,
        buckets,
        sum_ns,
        reserved,
    });
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
        (g.gaps_offset, "gaps"),
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
        ("SLOT_SET", layout::SLOT_SET as u64),
        ("TALLY", layout::TALLY as u64),
        ("GAP_BUCKETS", layout::GAP_BUCKETS as u64),
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
    macro_rules! check_words {
        ($($name:ident),+) => {$(
            let rows = $name::ALL.map(|one| (one.code(), one.word(), one.meaning()));
            check_codes(stringify!($name), &rows);
        )+};
    }
    check_words!(State, Cause, Class, Role, Desired, Goal, HeartSource, Watched, DeathKind, Press);
    check_words!(Request);

    let flags = [
        (layout::flag::MADE_DIR, "MADE_DIR"),
        (layout::flag::MADE_PARENT, "MADE_PARENT"),
        (layout::flag::ALLOW_DEBUG, "ALLOW_DEBUG"),
    ];
    assert_eq!(codes("Header flags"), flags.map(|(code, word)| format!("{code} {word}")));
}

/// Compares the table under a heading with the one in heart/src/words.rs, or writes it.
fn check_codes(title: &str, rows: &[(u64, &str, &str)]) {
    const FILE: &str = "docs/segment.md";
    let mut rendered = "| code | word | meaning |\n| --- | --- | --- |\n".to_owned();
    for (code, word, meaning) in rows {
        writeln!(rendered, "| {code} | `{word}` | {meaning} |").unwrap();
    }
    let document = read(FILE);
    let (before, rest) =
        document.split_once(&format!("\n### {title}\n")).expect("a heading for the table");
    let start = rest.find("| code |").expect("a table under the heading");
    let length: usize =
        rest[start..].split_inclusive('\n').take_while(|l| l.starts_with('|')).map(str::len).sum();
    let (intro, block, after) =
        (&rest[..start], &rest[start..start + length], &rest[start + length..]);
    if std::env::var_os("OSPS_BLESS").is_some() {
        let blessed = format!("{before}\n### {title}\n{intro}{rendered}{after}");
        std::fs::write(path(FILE), blessed).unwrap();
    } else {
        assert_eq!(block, rendered, "{FILE} is out of date: run this test with OSPS_BLESS=1");
    }
}

/// A code that stood twice would be changed once.
#[test]
fn codes_stand_in_one_document() {
    for entry in std::fs::read_dir(path("docs")).unwrap().flatten() {
        let file = entry.path();
        if file.is_file() && !file.ends_with("segment.md") {
            let document = std::fs::read_to_string(&file).unwrap();
            let tables = ["| code | word |", "| kind | word |"];
            let found = tables.iter().find(|table| document.contains(**table));
            assert!(found.is_none(), "{} has a table of codes: {found:?}", file.display());
        }
    }
}

/// Names and values of the public constants of a module (none = of the file itself), in order.
fn constants(file: &str, module: Option<&str>) -> Vec<(String, String)> {
    let source = read(file);
    let indent = if module.is_some() { "    " } else { "" };
    let begin = |line: &&str| module.is_none_or(|m| line.ends_with(&format!("mod {m} {{")));
    let found: Vec<_> = source
        .lines()
        .skip_while(|line| !begin(line))
        .take_while(|line| module.is_none() || *line != "}")
        .filter_map(|line| {
            let line = line.strip_prefix(indent)?;
            let constant =
                line.strip_prefix("pub const ").or(line.strip_prefix("pub(crate) const "))?;
            let (name, rest) = constant.split_once(':')?;
            let (_, value) = rest.split_once('=')?;
            Some((name.to_owned(), value.trim().trim_end_matches(';').to_owned()))
        })
        .collect();
    assert!(!found.is_empty(), "{file}: no constants in {module:?}");
    found
}

/// The names alone, as the documents write words.
fn words(file: &str, module: &str) -> Vec<String> {
    let word = |(name, _): (String, String)| name.to_lowercase().replace('_', "-");
    constants(file, Some(module)).into_iter().map(word).collect()
}

#[test]
fn no_constant_is_missing_in_the_documents() {
    let names = |rows: &[Vec<String>], column: usize| -> Vec<String> {
        rows.iter().map(|row| row[column].clone()).collect()
    };
    let code = ["code", "word", "meaning"];
    let layout: Vec<_> =
        constants("heart/src/segment/layout.rs", None).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names(&table("Constants", &["constant", "value", "meaning"]), 0), layout);
    let flags =
        constants("heart/src/segment/layout.rs", Some("flag")).into_iter().map(|(name, _)| name);
    assert_eq!(names(&table("Header flags", &code), 1), flags.collect::<Vec<_>>());
    let frame = table_in(PAIR, "Frame", &["offset", "size", "field", "meaning"]);
    let fields = words("src/pair/wire.rs", "offset").into_iter().map(|word| word.replace('-', "_"));
    assert_eq!(names(&frame, 2), fields.collect::<Vec<_>>());
}

/// The words of the events, and the arguments that a record of each really has.
#[test]
fn events_have_the_numbers_in_the_document() {
    let rows = table("Event", &["code", "word", "arg0", "arg1", "arg2"]);
    let words: Vec<_> = rows.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
    let expected = Event::ALL.map(|event| format!("{} {event}", event.code()));
    assert_eq!(words, expected, "left docs/segment.md, right heart/src/words.rs");
    let (span, death) = (Duration::from_nanos(7), Death::Killed(9));
    let (cause, class) = (Cause::Frozen, Some(Class::Stopped));
    for what in [
        What::Started { pid: 7, after: Some(cause) },
        What::FirstBeat { after: span, down_for: Some(span) },
        What::Beat { silence: span },
        What::Late { silence: span },
        What::Verdict { cause, class, silence: span },
        What::Held { class: Class::Traced },
        What::Pardoned,
        What::StopOrder,
        What::Pressed { press: Press::Kill, heedless: true },
        What::Died { death, cause: Some(cause) },
        What::Backoff { death, until: Monotonic(7) },
        What::Failed { death, once: true },
        What::Done { death },
        What::Blocked { by: SlotId(3) },
        What::Asked { request: Request::Stop, uid: 7 },
        What::Paused { until: Monotonic(7) },
        What::Resumed,
        What::Removed,
        What::LateTurn { by: span },
        What::Spared { silence: span },
        What::Alarm,
        What::WatchdogStarted,
        What::WatchdogStopping,
    ] {
        let (event, arguments) = what.encode();
        let row = rows.iter().find(|row| row[1] == event.word()).expect("a row");
        for (argument, told) in arguments.into_iter().zip(&row[2..]) {
            let silent = told.is_empty() || told == "-";
            assert!(argument == 0 || !silent, "{what:?}: {told:?} says nothing of {argument}");
        }
    }
}

/// Tables that nothing is compared with: for people, or shown by the test named behind them.
const FOR_PEOPLE: [(&str, &str); 9] = [
    ("Who writes what, with which ordering", "the writers by the types, the orderings by loom"),
    ("Recovery, case by case", "tests/rundir.rs and tests/instruction.rs"),
    ("Who may write", "tests/ownership"),
    ("Crash matrix", "the steps of the next three"),
    ("The owner dies", "tests/instruction.rs"),
    ("The holder dies", "tests/instruction.rs"),
    ("The arbiter dies", "tests/ownership and tests/share.rs"),
    ("The watchdog dies or freezes", "tests/rundir.rs"),
    ("Bare words", "tests/share.rs"),
];

/// A new table finds its test, or its place above.
#[test]
fn every_table_is_compared_or_named() {
    let source = include_str!("docs.rs");
    let mut for_people = FOR_PEOPLE.map(|(heading, _)| heading).to_vec();
    for file in ["docs/segment.md", PAIR] {
        let document = read(file);
        let mut heading = "";
        for line in document.lines() {
            if line.starts_with('#') {
                heading = line.trim_start_matches('#').trim();
            } else if line.starts_with("| ---") {
                for_people.retain(|known| *known != heading);
                let structure = source.contains(&format!("check_fields!({heading} {{"));
                let named = source.contains(&format!("\"{heading}\""));
                let coded = source.lines().filter(|line| line.contains("check_words!("));
                let mut words = coded.flat_map(|line| line.split(|c: char| !c.is_alphanumeric()));
                let named = named || words.any(|word| word == heading);
                assert!(structure || named, "{file}: nobody looks at the table under {heading}");
            }
        }
    }
    assert!(for_people.is_empty(), "no table under {for_people:?}");
}

/// One glossary, one meaning per word, and no word that nobody uses.
#[test]
fn the_glossary_has_one_meaning_for_each_word_in_use() {
    let rows = table_in("docs/architecture.md", "Glossary", &["word", "meaning"]);
    let mut words: Vec<_> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    let others = DOCUMENTS.map(read).join("\n");
    let others = others.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    for word in &words {
        let word = word.strip_prefix("to ").unwrap_or(word);
        assert!(others.contains(word), "no other document says \"{word}\"");
    }
    let known = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), known, "a word has two meanings: {words:?}");
    for file in DOCUMENTS {
        let document = read(file);
        for heading in ["# Glossary", "# Definitions"] {
            assert!(!document.contains(heading), "{file} defines words again");
        }
        let links = document.contains("architecture.md#glossary");
        assert!(links, "{file} does not say where its words are told");
    }
}

/// The anchor that a heading has on the pages that render it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let in_docs = std::fs::read_dir(path("docs")).unwrap().flatten().map(|entry| entry.path());
    let documents: Vec<_> = in_docs
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([path("README.md")])
        .collect();
    assert!(documents.len() > 6);
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let headings = |document: &str| -> Vec<String> {
        let mut code = false;
        let mut found = Vec::new();
        for line in document.lines() {
            code ^= line.starts_with("```");
            let heading = line.trim_start_matches('#');
            if !code && heading.len() < line.len() {
                found.push(anchor(heading.trim()));
            }
        }
        found
    };
    let mut broken = Vec::new();
    for document in documents {
        let links = text(&document);
        let links = links.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (link, _) in links.filter(|(link, _)| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = document.parent().unwrap();
            let target = if file.is_empty() { document.clone() } else { folder.join(file) };
            let leads = target.exists()
                && (heading.is_empty() || headings(&text(&target)).contains(&heading.to_owned()));
            broken.extend((!leads).then(|| format!("{}: {link}", document.display())));
        }
    }
    assert!(broken.is_empty(), "no such file or heading: {broken:#?}");
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

/// What the program can say, as its sources have it: without comments, unit tests and line breaks.
fn texts_in_the_sources() -> String {
    let mut folders = vec![path("src"), path("heart")];
    let mut texts = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(file).unwrap();
                let code = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
                let lines = code.lines().map(str::trim_start).filter(|l| !l.starts_with("//"));
                texts.extend(lines.map(|line| line.strip_suffix('\\').unwrap_or(line)));
            }
        }
    }
    texts
}

/// Cuts a message where something else stands each time: at dots, at words in capitals, at numbers
/// with their units, and at the words of states, causes and classes; and at brackets and commas,
/// behind which another text may begin.
fn constant_pieces(message: &str) -> Vec<String> {
    const PLACES: [&str; 13] = [
        "NAME",
        "HEART",
        "SIGNAL",
        "SOURCE",
        "DIR",
        "OPTION",
        "PROGRAM",
        "FUNCTION",
        "PID",
        "GENERATION",
        "SIGINT",
        "SIGTERM",
        "anon_pipe_read",
    ];
    let names = ["primary", "secondary-1"];
    let known: Vec<&str> = (State::ALL.map(State::word).into_iter())
        .chain(Cause::ALL.map(Cause::word))
        .chain(Class::ALL.map(Class::word))
        .chain(DeathKind::ALL.map(DeathKind::word))
        .chain(names)
        .chain(PLACES)
        .collect();
    let mut pieces = vec![String::new()];
    let mut rest = message;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let begins = !before.is_alphanumeric() && before != '-';
        let ends = |length: usize| {
            rest[length..].chars().next().is_none_or(|c| !c.is_alphanumeric() && c != '-')
        };
        let word = known.iter().filter(|word| begins && rest.starts_with(**word));
        let cut = if rest.starts_with("...") {
            3
        } else if "(),".contains(next) {
            1
        } else if begins && next.is_ascii_digit() {
            let span = |c: char| !c.is_ascii_alphanumeric() && c != '.';
            rest.find(span).unwrap_or(rest.len())
        } else {
            word.map(|word| word.len()).filter(|length| ends(*length)).max().unwrap_or(0)
        };
        if cut > 0 {
            pieces.push(String::new());
            before = rest[..cut].chars().next_back().unwrap_or(' ');
            rest = &rest[cut..];
        } else {
            pieces.last_mut().unwrap().push(next);
            before = next;
            rest = &rest[next.len_utf8()..];
        }
    }
    let piece = |piece: &String| piece.trim().to_owned();
    pieces.iter().map(piece).filter(|piece| piece.contains(char::is_alphabetic)).collect()
}

/// Each message of the troubleshooting, and each log line, is one that the program has.
#[test]
fn every_message_in_operations_is_in_the_sources() {
    let texts = texts_in_the_sources();
    let document = read("docs/operations.md");
    let mut messages = Vec::new();
    let mut rows = 0;
    for (begin, end) in [("## Log lines", "## Status"), ("## Troubleshooting", "\0")] {
        let (_, section) = document.split_once(begin).expect("the section");
        let section = section.split(end).next().unwrap_or_default();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            rows += 1;
            let first = row.split(" | ").next().unwrap_or_default();
            messages.extend(first.split('`').skip(1).step_by(2));
        }
    }
    assert!(rows > 60, "only {rows} rows found");
    let mut foreign = Vec::new();
    for message in messages {
        let pieces = constant_pieces(message);
        // The words of a transition may all be names of states.
        if pieces.is_empty() && !message.contains(" -> ") && !message.starts_with("SIG") {
            foreign.push(format!("`{message}`: nothing to look for"));
        }
        let missing = pieces.iter().filter(|piece| !texts.contains(piece.as_str()));
        foreign.extend(missing.map(|piece| format!("`{message}`: \"{piece}\"")));
    }
    assert!(foreign.is_empty(), "the program does not say: {foreign:#?}");
}

const PAIR: &str = "docs/pair.md";

/// Those that use the words of the glossary and do not have it.
const DOCUMENTS: [&str; 5] =
    ["docs/segment.md", PAIR, "docs/verdicts.md", "docs/operations.md", "docs/your-program.md"];

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
    let rows = table_in(PAIR, "Frame", &["offset", "size", "field", "meaning"]);
    assert_eq!(leading(&rows, 3), expected);

    // What `encode` stores where, seen from outside: a frame with one field set differs from the
    // empty one within that field's bytes only.
    let empty = Frame {
        kind: FrameKind::Ping,
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
    let rows = table_in(PAIR, "Kinds", &columns);
    let expected = FrameKind::ALL
        .map(|(kind, number)| format!("{number} {}", format!("{kind:?}").to_lowercase()));
    assert_eq!(leading(&rows, 2), expected);
    for row in rows {
        assert!(row[2..].iter().all(|cell| !cell.is_empty()), "{} says nothing", row[1]);
    }
}

#[test]
fn the_payload_of_a_job_is_read_where_the_document_says() {
    let rows = table_in(PAIR, "Job payload", &["offset", "size", "field", "meaning"]);
    assert_eq!(leading(&rows, 3), ["0 1 kind", "1 7 zero", "8 16 address"]);
    let mut frame = Frame {
        kind: FrameKind::Job,
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
    for (code, kind) in [(1, Some(JobType::Read)), (2, Some(JobType::ReadWrite)), (0, None)] {
        frame.payload[0] = code;
        let job = announced(&frame, Monotonic(0));
        assert_eq!(job.map(|job| job.kind), kind);
        let peer = job.map(|job| job.peer);
        assert!(peer.is_none_or(|peer| peer == Ipv4Addr::new(127, 0, 0, 2)));
    }
}

#[test]
fn the_pair_has_the_numbers_in_the_document() {
    let expected = [
        ("FRAME_SIZE", wire::FRAME_SIZE as u64),
        ("PAYLOAD_SIZE", wire::PAYLOAD_SIZE as u64),
        ("MAGIC", u64::from(wire::MAGIC)),
        ("VERSION", u64::from(wire::VERSION)),
        ("WATCHDOG", u64::from(wire::WATCHDOG.0)),
        ("CLAIM_TIME", dispatch::CLAIM_TIME.as_secs()),
        ("JOBS_MAX", dispatch::JOBS_MAX as u64),
        ("MAX_WORDS", resp::MAX_WORDS as u64),
        ("MAX_WORD", resp::MAX_WORD as u64),
        ("MAX_INLINE", resp::MAX_INLINE as u64),
        ("MAX_PAUSE_SECONDS", u64::from(MAX_PAUSE_SECONDS)),
    ]
    .map(|(name, value)| format!("{name} {value}"));
    let rows = table_in(PAIR, "Numbers", &["name", "value", "what it bounds"]);
    assert_eq!(leading(&rows, 2), expected);
}

#[test]
fn the_data_area_has_the_numbers_in_the_document() {
    let expected = [
        ("LEVEL_PIECE", area::LEVEL_PIECE),
        ("READ_TRIES", area::READ_TRIES),
        ("KEY_MAX", store::KEY_MAX),
        ("CELL_OVERHEAD", store::CELL_OVERHEAD),
    ]
    .map(|(name, value)| format!("{name} {value}"));
    let rows = table("Numbers of the data area", &["name", "value", "what it bounds"]);
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
    let rows = table("The table", &["offset", "size", "what"]);
    let table = store::Table::new(bytes, 256).unwrap();
    let rows = leading(&rows, 3);
    // Where the numbers below come from.
    let parts = [
        "0 8 keys in the table",
        "8 56 zero",
        "64 + 8 * i 8 tag of cell i: 0 = empty, else the key's hash with its lowest bit set",
        "64 + 8 * cells + i * cell_size 4 cell i: length of the key",
        "4 further 4 length of the value",
        "8 further key length the key",
        "behind the key value length the value",
    ];
    assert_eq!(rows, parts);
    for (key, hash) in [
        ("", 7_351_636_920_882_584_609),
        ("k1", 14_072_894_629_228_418_169),
        ("hello", 1_521_874_140_924_359_652_u64),
    ] {
        let stands = read("docs/segment.md").contains(&format!(" | {hash} |"));
        assert!(stands, "no hash of \"{key}\"");
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

/// hearts.py names its offsets `HEADER_x`, `HEART_x`, `SERVER_x` and `AREA_x` after the fields.
#[test]
fn the_example_uses_the_offsets_in_the_document() {
    let columns = ["offset", "size", "field", "writer", "meaning"];
    let structures = [
        ("HEADER_", table("HeaderCells", &columns)),
        ("HEART_", table("HeartCells", &columns)),
        ("SERVER_", table("ServerCells", &columns)),
        ("AREA_", table("AreaCells", &columns)),
    ];
    let source = read("docs/examples/hearts.py");
    let words: Vec<&str> = source.split_whitespace().collect();
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
        let row = row.unwrap_or_else(|| panic!("{name} is no field"));
        assert_eq!(value, row[0], "{name}");
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} offsets found");
}

/// What programs in other languages know of the segment: names and numbers.
fn known_to_programs() -> Vec<(String, u64)> {
    let mut known = vec![
        ("VERSION".to_owned(), layout::VERSION),
        ("PAGE".to_owned(), layout::PAGE as u64),
        ("HEART_SIZE".to_owned(), size_of::<HeartCells>() as u64),
        ("HEART_NAME_SIZE".to_owned(), field_size(|cells: &HeartCells| &cells.name) as u64),
        ("ACTIVITY_TEXT_SIZE".to_owned(), field_size(|cells: &ActivityCells| &cells.text) as u64),
    ];
    macro_rules! offsets {
        ($prefix:literal, $cells:ident, $($field:ident),+) => {
            known.extend([$((
                format!("{}_{}", $prefix, stringify!($field).to_uppercase()),
                std::mem::offset_of!($cells, $field) as u64,
            )),+]);
        };
    }
    offsets!("HEADER", HeaderCells, magic, version, hearts_offset, hearts_count);
    offsets!("HEADER", HeaderCells, slots_offset, slots_count, beat_interval_ns);
    offsets!("HEADER", HeaderCells, orphan_timeout_ns, watchdog_heart);
    offsets!("HEART", HeartCells, count, stamp_ns, limit_ns, claim, name);
    offsets!("SERVER", ServerCells, generation, desired, baseline);
    offsets!("SLOT", SlotCells, activity);
    offsets!("ACTIVITY", ActivityCells, text_guard, text, heeds);
    known.push(("DESIRED_STOP".to_owned(), Desired::Stop.code()));
    known
}

#[test]
fn programs_in_other_languages_use_the_offsets_of_the_code() {
    let magic = layout::MAGIC.to_le_bytes();
    let texts = [
        ("MAGIC", str::from_utf8(&magic).unwrap()),
        ("ENV_RUN_DIR", env::RUN_DIR),
        ("ENV_SLOT", env::SLOT),
        ("ENV_GENERATION", env::GENERATION),
    ];
    let (mut in_c, mut in_python) = (String::new(), String::new());
    for (name, text) in texts {
        writeln!(in_c, "#define OSPS_{name} \"{text}\"").unwrap();
        writeln!(in_python, "{name} = \"{text}\"").unwrap();
    }
    in_c.push_str("enum {\n");
    for (name, number) in known_to_programs() {
        writeln!(in_c, "    OSPS_{name} = {number},").unwrap();
        writeln!(in_python, "{name} = {number}").unwrap();
    }
    in_c.push_str("};\n");
    let how = "generated from heart/src by: OSPS_BLESS=1 cargo test --test docs";
    let end = "end of what is generated";
    let (begin_c, end_c) = (format!("/* {how} */\n"), format!("/* {end} */\n"));
    check_block("heart/c/osps.h", &begin_c, &end_c, &in_c);
    let (begin, end) = (format!("# {how}\n"), format!("# {end}\n"));
    check_block("heart/python/osps/_layout.py", &begin, &end, &in_python);
}

const ME: (SlotId, Generation) = (SlotId(1), Generation(11));
const OTHER: (SlotId, Generation) = (SlotId(2), Generation(12));
const NEWCOMER: (SlotId, Generation) = (SlotId(3), Generation(13));
const DEAD: (SlotId, Generation) = (SlotId(2), Generation(7));
const EPOCH: Epoch = Epoch(9);

fn live(slot: SlotId) -> Option<Generation> {
    [ME, OTHER, NEWCOMER].into_iter().find(|(known, _)| *known == slot).map(|(_, now)| now)
}

/// The word that names this server, or nobody.
fn held(by: Option<(SlotId, Generation)>) -> Owner {
    let generation = by.map_or(0, |(_, generation)| u16::try_from(generation.0).unwrap());
    Owner { slot: by.map(|(slot, _)| slot), generation, epoch: EPOCH }
}

/// What an arbiter wants done, in the document's words.
fn arbitration(wanted: Option<ArbiterAction>) -> &'static str {
    match wanted {
        None => "·",
        Some(ArbiterAction::Clear { .. }) => "clear",
        Some(ArbiterAction::Grant { to, .. }) => {
            assert_eq!((to.slot, to.epoch), (Some(ME.0), Epoch(EPOCH.0 + 1)));
            "grant the first"
        }
        Some(ArbiterAction::Recall { slot, epoch }) => {
            assert_eq!((slot, epoch), (OTHER.0, EPOCH));
            "recall"
        }
    }
}

/// The cells of one state of the arbiter: who is named, whether somebody waits, whether the holder
/// may be asked already, and whether it was.
fn arbiter_cells(
    named: Option<(SlotId, Generation)>,
    waits: bool,
    may_recall: bool,
    recalled: bool,
) -> Vec<String> {
    let word = held(named);
    let mut arbiter = Arbiter::new();
    if recalled {
        arbiter.request(ME.0, ME.1);
        assert_eq!(arbitration(arbiter.look(held(Some(OTHER)), live, true)), "recall");
    } else if waits {
        arbiter.request(ME.0, ME.1);
    }
    let look = |arbiter: &Arbiter, word| arbitration(arbiter.clone().look(word, live, may_recall));

    let mut asked = arbiter.clone();
    asked.request(NEWCOMER.0, NEWCOMER.1);
    // The others first, then the newcomer: it stands at the end of the queue.
    let mut alone = asked.clone();
    let only = |slot: SlotId| live(slot).filter(|_| slot == NEWCOMER.0);
    let granted = alone.look(held(None), only, true);
    assert!(
        matches!(granted, Some(ArbiterAction::Grant { to, .. }) if to.slot == Some(NEWCOMER.0))
    );
    let first = if waits { "grant the first" } else { "·" };
    assert_eq!(look(&arbiter, held(None)), first);

    let exactly = named.map(|(slot, generation)| arbiter.released(slot, generation, EPOCH, word));
    let mut strangers = vec![(NEWCOMER, EPOCH)];
    if let Some((slot, generation)) = named {
        let younger = Generation(generation.0 + 1);
        strangers.extend([((slot, generation), Epoch(EPOCH.0 - 1)), ((slot, younger), EPOCH)]);
    }
    for ((slot, generation), epoch) in strangers {
        assert_eq!(arbiter.released(slot, generation, epoch, word), None, "as turn");
    }
    let mut repeated = arbiter.clone();
    repeated.repeat();
    [
        look(&arbiter, word),
        "enqueue, then as turn",
        exactly.map_or("cannot be", |wanted| match arbitration(wanted) {
            "clear" => "clear, then as turn",
            other => other,
        }),
        "as turn",
        if repeated == arbiter { "·" } else { "recall may be said again" },
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn the_arbiter_does_what_its_table_says() {
    let columns = [
        ("word: not live", arbiter_cells(Some(DEAD), true, true, true)),
        ("word: nobody; nobody waits", arbiter_cells(None, false, true, false)),
        ("word: nobody; somebody waits", arbiter_cells(None, true, true, false)),
        ("word: live; nobody waits", arbiter_cells(Some(OTHER), false, true, false)),
        ("word: live; waits, may keep", arbiter_cells(Some(OTHER), true, false, false)),
        ("word: live; waits, time is over", arbiter_cells(Some(OTHER), true, true, false)),
        ("the same, recalled already", arbiter_cells(Some(OTHER), true, true, true)),
    ];
    let titles: Vec<_> = ["event"].into_iter().chain(columns.iter().map(|(t, _)| *t)).collect();
    let rows = table_in(PAIR, "Arbiter", &titles);
    let events: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let known = [
        "turn",
        "request",
        "release`, exactly this word",
        "release`, anything else",
        "each second",
    ];
    assert_eq!(events, known);
    for (i, (title, cells)) in columns.iter().enumerate() {
        let documented: Vec<_> = rows.iter().map(|row| row[i + 1].as_str()).collect();
        assert_eq!(documented, *cells, "{title}: left the document, right the code");
    }
}

/// The cells of a holder to whom a word says this, `released` = after it gave it back.
fn holder_cells(word: Owner, released: bool) -> Vec<String> {
    let mut holder = Holder::new(ME.0, ME.1);
    if released {
        assert_eq!(holder.leave(held(Some(ME))), Some(HolderAction::Release(EPOCH)));
    }
    let action = |action: &HolderAction| match action {
        HolderAction::Request => "`request`",
        HolderAction::Release(EPOCH) => "`release(e)`",
        HolderAction::Release(_) => "`release(d)`",
    };
    // A look, with and without clients waiting, repeating or not: under which of them is it said?
    let look = |recall: Option<Epoch>, writing: bool| {
        let dies = |after: &Holder| holder.owns(word).is_some() && after.owns(word).is_none();
        let runs =
            [(false, false), (false, true), (true, false), (true, true)].map(|(wants, again)| {
                let mut after = holder.clone();
                let actions = after.look(word, recall, wants, writing, again);
                (wants, again, dies(&after), actions.iter().map(action).collect::<Vec<_>>())
            });
        let mut said = Vec::new();
        if runs.iter().any(|(_, _, dead, _)| *dead) {
            assert!(runs.iter().all(|(_, _, dead, _)| *dead));
            said.push("e is dead for ever".to_owned());
        }
        for action in ["`release(e)`", "`request`"] {
            let when: Vec<_> = runs
                .iter()
                .filter(|(.., actions)| actions.contains(&action))
                .map(|(wants, again, ..)| (*wants, *again))
                .collect();
            said.extend(match when[..] {
                [] => None,
                [_, _, _, _] => Some(action.to_owned()),
                [(false, true), (true, true)] => Some(format!("repeating: {action}")),
                [(true, false), (true, true)] => Some(format!("clients wait: {action}")),
                _ => panic!("{action} under {when:?}"),
            });
        }
        if said.is_empty() { "·".to_owned() } else { said.join("; ") }
    };
    let frame = |epoch| holder.recalled(epoch, word).as_ref().map_or("·", action).to_owned();
    let mut left = holder.clone();
    let leaving = left.leave(word);
    vec![
        look(None, false),
        look(Some(EPOCH), true),
        look(Some(EPOCH), false),
        frame(EPOCH),
        frame(Epoch(EPOCH.0 - 1)),
        leaving.map_or("·".to_owned(), |leaving| {
            assert_eq!(left.owns(word), None);
            format!("e is dead for ever; {}", action(&leaving))
        }),
    ]
}

#[test]
fn the_holder_does_what_its_table_says() {
    let columns = [
        ("word is mine, epoch e", holder_cells(held(Some(ME)), false)),
        ("e given back, the word still names me", holder_cells(held(Some(ME)), true)),
        ("word is not mine", holder_cells(held(Some(OTHER)), false)),
    ];
    let titles: Vec<_> = ["event"].into_iter().chain(columns.iter().map(|(t, _)| *t)).collect();
    let rows = table_in(PAIR, "Holder", &titles);
    let events: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let known = [
        "look, e is not recalled",
        "look, e is recalled, writing",
        "look, e is recalled, not writing",
        "frame `recall(e)",
        "frame `recall` of another epoch d",
        "leaving",
    ];
    assert_eq!(events, known);
    for (i, (title, cells)) in columns.iter().enumerate() {
        let mut above = "";
        for (row, cell) in rows.iter().zip(cells) {
            // What stands in brackets is for people.
            let text = row[i + 1].split(" (").next().unwrap_or_default();
            above = if text == "as above" { above } else { text };
            let marks = |text: &str| text.trim_matches('`').to_owned();
            assert_eq!(marks(above), marks(cell), "{title}, {}: left the document", row[0]);
        }
    }
}

/// Every command is documented, every documented one is understood, and those that write say so.
#[test]
fn commands_are_those_in_the_document() {
    let source = read("src/pair/store/commands.rs");
    let (_, list) = source.split_once("const NAMES: [&str; 38] = [").expect("the list of names");
    let (list, _) = list.split_once("];").expect("its end");
    let mut known: Vec<_> = list.split('"').skip(1).step_by(2).map(str::to_uppercase).collect();
    let mut documented = Vec::new();
    for row in table_in(PAIR, "Commands", &["command", "reply", "writes"]) {
        // Usages stand between code marks: options in brackets, dots for more, bars between words.
        for usage in row[0].split("`, `") {
            let (usage, _) = usage.split_once('[').unwrap_or((usage, ""));
            let usage = usage.replace("...", "");
            let word = |word: &str| match word.split('|').next().unwrap_or_default() {
                "n" => "1".to_owned(),
                word => word.to_owned(),
            };
            let words: Vec<String> = usage.split_ascii_whitespace().map(word).collect();
            let bytes: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            let name = words[0].to_uppercase();
            match commands::parse(&bytes) {
                Ok(command) => assert_eq!(command.writes(), row[2] == "yes", "{usage}"),
                // Those whose words have arguments of their own.
                Err(refused) => {
                    assert!(["CLIENT", "DEBUG"].contains(&&*name), "{usage}: {refused}");
                }
            }
            documented.push(name);
        }
    }
    documented.sort();
    documented.dedup();
    known.sort();
    assert_eq!(documented, known, "left docs/pair.md, right the code");
}

#[test]
fn error_replies_are_those_in_the_document() {
    let refused = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        commands::parse(&words).expect_err("refused").to_string()
    };
    let literal = |text: &str| {
        let server = read("src/pair/server.rs");
        assert!(server.contains(&format!("\"{text}\"")), "the code does not say: {text}");
        text.to_owned()
    };
    let numbers = |text: String| text.replace("7777", "N").replace("8888", "M");
    let protocol = resp::ProtocolError::InvalidBulkLength.to_string();
    let expected = [
        literal("READONLY ask the primary for requetetype2"),
        store::Refused::Full.to_string(),
        numbers(store::Refused::KeyTooLong(7777).to_string()),
        numbers(store::Refused::ValueTooLong { length: 7777, room: 8888 }.to_string()),
        refused(&["..."]).split(", with").next().unwrap_or_default().to_owned(),
        literal("ERR DEBUG is off; start osps with --allow-debug"),
        refused(&["HELLO", "4"]),
        format!("ERR {}...", protocol.split_inclusive(": ").next().unwrap_or_default()),
    ];
    let rows = table_in(PAIR, "Errors", &["reply", "why", "then"]);
    let documented: Vec<_> = rows
        .iter()
        .map(|row| row[0].split('`').next().unwrap_or_default().trim_start_matches('-'))
        .collect();
    assert_eq!(documented, expected, "left docs/pair.md, right the code");
}

/// A stage as the table names it: a rung of `stopping` by the name of the rung.
fn stage_name(stage: Stage) -> String {
    format!("{stage:?}").to_lowercase()
}

/// One cell: `next stage / act`, a dot where nothing happens.
fn cell(stage: Stage, trigger: Trigger) -> String {
    let (next, act) = stage.on(trigger);
    let act = act.map(|act| format!(" / {}", format!("{act:?}").to_lowercase()));
    match act {
        None if next == stage => "·".to_owned(),
        act => format!("{}{}", stage_name(next), act.unwrap_or_default()),
    }
}

fn lifecycle_table(triggers: &[Trigger]) -> String {
    let mut lines = vec!["stage".to_owned()];
    lines[0].extend(triggers.iter().map(|trigger| format!(" | {trigger:?}")));
    lines.push(format!("---{}", " | ---".repeat(triggers.len())));
    for stage in Stage::ALL {
        let mut line = stage_name(stage);
        for trigger in triggers {
            write!(line, " | {}", cell(stage, *trigger)).unwrap();
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
    // In two groups, since one table of all would be wider than a page.
    let (silence, ending) = Trigger::ALL.split_at(5);
    let rendered = format!(
        "A cell is `next stage / act`; a dot means that nothing happens. `asked`, `terminating`,\n\
         `killing` and `unkillable` are the rungs of the state `stopping`. Rest, Wait and Never are\n\
         a confirmed death, with what the restart rules say of the next process.\n\n{}\n{}",
        lifecycle_table(silence),
        lifecycle_table(ending),
    );
    check_block(FILE, BEGIN, END, &rendered);
}

#[test]
fn the_adoption_table_is_what_the_code_does() {
    let mut lines = vec!["recorded".to_owned(), "---".to_owned()];
    for seen in Seen::ALL {
        write!(lines[0], " | {}", seen.word()).unwrap();
        lines[1] += " | ---";
    }
    lines.extend(State::ALL.map(|state| {
        let cells = Seen::ALL.map(|seen| adopt::fate(state, seen).word());
        format!("{state} | {}", cells.join(" | "))
    }));
    let rendered = format!("| {} |\n", lines.join(" |\n| "));
    let begin = "<!-- adoption table -->\n";
    check_block("docs/architecture.md", begin, "<!-- end -->", &rendered);
}

/// Compares what stands between two markers of a file with what it should be, or writes it.
fn check_block(file: &str, begin: &str, end: &str, rendered: &str) {
    let document = read(file);
    let (before, rest) = document.split_once(begin).expect("the marker before the block");
    let (block, after) = rest.split_once(end).expect("the marker after the block");
    if std::env::var_os("OSPS_BLESS").is_some() {
        if block != rendered {
            let blessed = format!("{before}{begin}{rendered}{end}{after}");
            std::fs::write(path(file), blessed).unwrap();
        }
    } else {
        assert_eq!(block, rendered, "{file} is out of date: run this test with OSPS_BLESS=1");
    }
}
