//! What is fuzzed: each function takes foreign bytes, hands them to a part of osps that reads such
//! bytes, and checks what that part promises. A panic is a fault.
//!
//! One file for two users: the fuzz targets beside it, where coverage steers the input, and
//! tests/hostile.rs, where `cargo test` runs the same for a moment and bounds memory and time.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps::config::check;
use osps::config::file::load;
use osps::config::look::{Look, Who};
use osps::pair::client::{self, read_reply};
use osps::pair::dispatch::{Dispatcher, Expected, JobProgress, JobType};
use osps::pair::link::{announced, announcement};
use osps::pair::store::commands::{self, Command, glob_match};
use osps::pair::store::execute;
use osps::pair::store::resp::{self, Decoded, MAX_REQUEST, MAX_WORDS};
use osps::pair::wire::{self, FRAME_SIZE, Frame};
use osps::service::launch::User;
use osps::view::advice::Report;
use osps::view::snapshot::Snapshot;
use osps::view::{json, table};
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::orphan::Orphan;
use osps_heart::ownership::{Arbiter, ArbiterAction, Holder, retired};
use osps_heart::pulse::{Gap, Limits, Pulse, Turn};
use osps_heart::segment::area::{Area, LEVEL_PIECE, Update};
use osps_heart::segment::gaps::OWN;
use osps_heart::segment::layout::{EVENTS, PAGE, RANGES};
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{
    Access, AttachError, CreateOptions, Geometry, Record, Segment, Times, What, text,
};
use osps_heart::sync::{Ordering, Word};
use osps_heart::table::{CELL_OVERHEAD, KEY_MAX, Table};
use osps_heart::time::Monotonic;
use osps_heart::words::Cause;

/// What takes foreign bytes, and panics if something is wrong.
pub(crate) type Target = fn(&[u8]);

/// Every target by its name.
pub(crate) const TARGETS: [(&str, Target); 6] = [
    ("frame", frame),
    ("resp", resp),
    ("reply", reply),
    ("attach", attach),
    ("table", table),
    ("config", config),
];

/// A moment that is as good as any.
const NOW: Monotonic = Monotonic(1_000_000_000_000);

// ---- Frames ----

/// The bytes are frames, as they come out of a FIFO: decoded, then used as the servers use them.
pub(crate) fn frame(bytes: &[u8]) {
    let mut books = Books::new();
    for raw in bytes.as_chunks::<FRAME_SIZE>().0 {
        match wire::decode(raw) {
            Ok(frame) => {
                assert_eq!(&wire::encode(&frame), raw, "a frame is its bytes");
                books.take(&frame);
            }
            Err(malformed) => assert!(malformed.to_string().len() < 80),
        }
    }
}

/// What the servers keep of frames.
struct Books {
    arbiter: Arbiter,
    dispatcher: Dispatcher,
    expected: Expected,
}

impl Books {
    fn new() -> Books {
        let (dispatcher, expected) = (Dispatcher::new(0), Expected::default());
        Books { arbiter: Arbiter::new(), dispatcher, expected }
    }

    fn take(&mut self, frame: &Frame) {
        if let Some(job) = announced(frame, NOW) {
            let said = announcement(&job);
            let again = Frame { job: said.job, payload: said.payload, ..*frame };
            assert_eq!(announced(&again, NOW), Some(job), "a job is its announcement");
            self.expected.announce(job);
            self.expected.claim(job.peer, NOW);
            self.dispatcher.assign(&[], JobType::Read, job.peer, NOW);
        }
        let (slot, generation) = (frame.from, frame.from_generation);
        for report in [JobProgress::Begin, JobProgress::Done, JobProgress::Failed] {
            self.dispatcher.report(frame.job, slot, generation, report);
        }
        self.dispatcher.sweep(NOW, |_| Some(generation));
        // The payload is as good an owner word as any that somebody scribbled.
        let mut word = Owner::unpack(u64::from_le_bytes(*frame.payload.first_chunk().unwrap()));
        let live = |slot: SlotId| (slot.0 < 3).then_some(generation);
        let mut holder = Holder::new(slot, generation);
        for again in [false, true] {
            holder.look(word, Some(frame.epoch), true, false, again);
        }
        holder.recalled(frame.epoch, word);
        holder.leave(word);
        self.arbiter.request(slot, generation);
        self.arbiter.released(slot, generation, frame.epoch, word);
        // A clearing, a grant, a recall; the primary takes no more steps in one go.
        for step in 0.. {
            assert!(step < 4, "the arbiter does not come to rest: {word:?}");
            match self.arbiter.look(word, live, true) {
                Some(ArbiterAction::Clear { from, to } | ArbiterAction::Grant { from, to }) => {
                    assert_eq!(from, word);
                    word = to;
                }
                Some(ArbiterAction::Recall { epoch, .. }) => {
                    assert_ne!(epoch, Epoch(0), "0 means that nothing is recalled");
                }
                None => break,
            }
        }
        assert_eq!(retired(word, live), None, "nobody dead is left in the word");
    }
}

// ---- Requests ----

/// The bytes are what a client sends, after a first one that says how they are cut into pieces.
/// However they arrive, the requests are the same, and so is the error that ends them.
pub(crate) fn resp(bytes: &[u8]) {
    let Some((cut, input)) = bytes.split_first() else { return };
    let whole = requests(input, input.len().max(1));
    assert_eq!(requests(input, usize::from(*cut % 32) + 1), whole);
    assert_eq!(requests(input, usize::from(*cut) * 16 + 33), whole);
    for words in &whole.0 {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let encoded = array(&words);
        let used = encoded.len();
        assert_eq!(resp::decode(&encoded), Ok(Decoded::Request { words: words.clone(), used }));
        understand(&words);
    }
}

type Requests = (Vec<Vec<Vec<u8>>>, Option<String>, usize);

/// What a server makes of input that arrives in pieces of this size: requests, the error that ended
/// them, and how much is left waiting for more.
fn requests(input: &[u8], piece: usize) -> Requests {
    let (mut buffer, mut all) = (Vec::new(), Vec::new());
    let mut skip: Option<resp::Skip> = None;
    for piece in input.chunks(piece) {
        buffer.extend_from_slice(piece);
        let mut used = 0;
        loop {
            if let Some(rest) = &mut skip {
                match rest.eat(&buffer[used..]) {
                    Ok((eaten, done)) => {
                        used += eaten;
                        if !done {
                            assert!(buffer.len() - used < 32, "a head at most is kept");
                            break;
                        }
                    }
                    Err(error) => return (all, Some(error.to_string()), 0),
                }
            }
            skip = None;
            let rest = &buffer[used..];
            match resp::decode(rest) {
                Ok(Decoded::Incomplete) => {
                    assert!(rest.len() < MAX_REQUEST);
                    break;
                }
                Ok(Decoded::Request { words, used: length }) => {
                    assert!((1..=rest.len()).contains(&length), "{length} of {}", rest.len());
                    assert_eq!(rest[length - 1], b'\n', "a request ends with its last line");
                    assert!(words.len() <= MAX_WORDS && words.capacity() <= 2 * MAX_WORDS);
                    all.push(words.into_iter().map(<[u8]>::to_vec).collect());
                    used += length;
                }
                Ok(Decoded::TooLarge { why, skip: rest, used: length }) => {
                    all.push(vec![why.to_string().into_bytes()]);
                    used += length;
                    skip = Some(rest);
                }
                Err(error) => return (all, Some(error.to_string()), 0),
            }
        }
        buffer.drain(..used);
    }
    (all, None, buffer.len())
}

/// A request as an array of words.
fn array(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn understand(words: &[&[u8]]) {
    match commands::parse(words) {
        Ok(command) => {
            if let Command::Keys(pattern) = command {
                glob_match(pattern, &[b'a'; KEY_MAX]);
            }
        }
        Err(refused) => {
            let text = refused.to_string();
            assert!(text.len() < 800 && !text.contains(['\r', '\n']), "{text:?}");
        }
    }
}

// ---- Replies ----

/// The bytes are what a server answers to `osps client`.
pub(crate) fn reply(bytes: &[u8]) {
    if let Ok(reply) = read_reply(bytes) {
        let mut shown = Vec::new();
        client::render(&reply, &mut shown);
        assert!(shown.len() <= 16 + 8 * bytes.len());
    }
    // And what our own servers say is understood.
    let mut said = Vec::new();
    resp::Reply(&mut said, resp::Protocol::Two).array(2);
    resp::Reply(&mut said, resp::Protocol::Two).bulk(bytes);
    resp::Reply(&mut said, resp::Protocol::Two).null();
    let list = vec![client::Reply::Bytes(bytes.to_vec()), client::Reply::Nothing];
    assert_eq!(read_reply(&said[..]).ok(), Some(client::Reply::List(list)));
}

// ---- The segment ----

/// The bytes are a small geometry, a length of the file and edits of its words, each a place (3
/// bytes) and a value (8 bytes). Whatever a sound segment becomes by that: it is refused, or every
/// look at it and every write to it ends, stays inside, and shows no more than it may.
pub(crate) fn attach(bytes: &[u8]) {
    let mut input = bytes;
    let [slots, hearts, pages, cell] = take(&mut input).map(usize::from);
    let slots = 1 + slots % 33;
    let geometry =
        Geometry::new(slots, slots + hearts, (1 + pages % 4) as u64 * 4096, cell as u64 * 8);
    let founding = founding(geometry.expect("within bounds"));
    let file = scrap_file();
    drop(Segment::create(&file, &founding, |_| {}).unwrap());

    let cut = u16::from_le_bytes(take(&mut input));
    let mut edits = input.as_chunks::<11>().0.to_vec();
    edit(&file, &founding.geometry, &mut edits);
    if cut != 0 {
        // Shorter, longer, or the same; what is longer than the segment reads as zeros.
        let half = founding.geometry.total_size as u64 / 2;
        file.set_len(half + u64::from(cut) * 8).unwrap();
    }
    let length = file.metadata().unwrap().len();
    let may_be_refused = cut != 0 || edits.iter().any(is_header);
    match Segment::attach(&file, Access::ReadOnly) {
        Ok(segment) => {
            assert!(segment.geometry().total_size as u64 <= length);
            assert_consistent(&segment);
            look(&segment);
        }
        Err(error) => {
            assert!(!matches!(error, AttachError::Io { .. }), "{error}");
            assert!(may_be_refused, "refused: {error}");
            assert!(error.to_string().len() < 120);
        }
    }
    if let Ok(segment) = Segment::attach(&file, Access::ReadWrite) {
        // Whatever it says: afterwards it says what its watchdog knows.
        if segment.geometry() == &founding.geometry {
            segment.mend_header(&founding);
            assert!(!segment.mend_header(&founding));
        }
        use_words(&segment);
        use_area(segment.area(), usize::try_from(segment.geometry().cell_size).unwrap());
    }
    if let Ok(Some(segment)) = Segment::refound(&file, &founding, |_| {}) {
        assert_eq!(segment.geometry(), &founding.geometry);
        assert!(segment.slots().iter().all(|slot| slot.server.identity().is_none()));
        assert_eq!((segment.owner().current().slot, segment.owner().recall()), (None, None));
        look(&segment);
    }
}

/// The next bytes, zeros behind the end.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let length = input.read(&mut bytes).unwrap();
    assert!(length <= N);
    bytes
}

/// Stores words over a file, at places modulo its size.
fn edit(file: &File, geometry: &Geometry, edits: &mut [[u8; 11]]) {
    let words = u32::try_from(geometry.total_size / 8).expect("a small geometry");
    for [low, middle, high, value @ ..] in edits {
        let place = u32::from_le_bytes([*low, *middle, *high, 0]) % words;
        [*low, *middle, *high, _] = place.to_le_bytes();
        file.write_all_at(value, u64::from(place) * 8).unwrap();
    }
}

fn is_header(edit: &[u8; 11]) -> bool {
    u64::from(u32::from_le_bytes([edit[0], edit[1], edit[2], 0])) * 8 < PAGE as u64
}

/// An empty file in memory, without a name.
fn scrap_file() -> File {
    let id = std::thread::current().id();
    let path = format!("/dev/shm/osps-fuzz-{}-{id:?}", std::process::id());
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file
}

fn founding(geometry: Geometry) -> CreateOptions {
    let span = Duration::from_secs(4);
    CreateOptions {
        geometry,
        flags: 0,
        boot_id: [1, 2],
        name: "fuzz".to_owned(),
        watchdog: (0, 0),
        now: NOW,
        unix_ns: 0,
        times: Times {
            hang_timeout: span,
            check_interval: span,
            beat_interval: span,
            start_timeout: span,
            stop_timeout: span,
            orphan_timeout: span,
        },
    }
}

/// Programs in other languages take the offsets from the header: they are those that osps uses.
fn assert_consistent(segment: &Segment) {
    let (header, geometry) = (segment.header(), segment.geometry());
    for (stored, used) in [
        (&header.total_size, geometry.total_size),
        (&header.hearts_offset, geometry.hearts_offset),
        (&header.slots_offset, geometry.slots_offset),
        (&header.events_offset, geometry.events_offset),
        (&header.owner_offset, geometry.owner_offset),
        (&header.gaps_offset, geometry.gaps_offset),
        (&header.data_offset, geometry.data_offset),
    ] {
        assert_eq!(stored.load(Ordering::Relaxed), used as u64);
    }
}

/// Every look that somebody takes at a segment.
fn look(segment: &Segment) {
    let snapshot = Snapshot::of(segment, Path::new("/run"), NOW);
    for json in [true, false] {
        let shown = if json { json::render(&snapshot) } else { table::render(&snapshot) };
        assert!(shown.len() < 1000 * (2 + segment.slots().len()), "{shown}");
        if json {
            serde_json::from_str::<serde_json::Value>(&shown).unwrap();
        } else {
            assert_eq!(shown.lines().count(), snapshot.servers.len() + 3, "{shown}");
            assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        }
    }
    let servers: Vec<_> = snapshot.servers.iter().collect();
    let report = Report::of(segment, &snapshot, &servers);
    serde_json::from_str::<serde_json::Value>(&report.json()).unwrap();
    let shown = report.table();
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    for heart in segment.hearts() {
        let seen = heart.sample();
        let limits = Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) };
        let lateness = Duration::ZERO;
        let turn = Turn::new(NOW, NOW - Duration::from_secs(1), lateness);
        let mut pulse = Pulse::new(limits, NOW - Duration::from_secs(2), 0);
        pulse.observe(&turn, seen);
        assert!(pulse.last_beat() <= NOW && pulse.deadline() > NOW, "{seen:?}");
        assert!(text::load(&heart.name).len() <= 3 * 32);
    }
    let mut orphan = Orphan::new(segment, NOW);
    orphan.look(segment, NOW, NOW);
    for slot in segment.slots() {
        if let Some(identity) = slot.server.identity() {
            assert!((2..1 << 22).contains(&identity.pid));
        }
        let activity = slot.activity.text().unwrap_or_default();
        assert!(activity.len() <= 3 * 96 && !activity.contains(char::is_control));
    }
    assert!(segment.events().latest(usize::MAX).len() <= EVENTS);
    segment.owner().recall();
    let cell_size = usize::try_from(segment.geometry().cell_size).unwrap();
    if let Some(table) = Table::new(segment.area().size(), cell_size) {
        let (value, _) = segment.area().read(|view| table.get(view, b"k")).unwrap();
        assert!(value.is_none_or(|value| value.len() < cell_size));
    }
    let size = segment.area().size();
    let mut bytes = [0; 64];
    for offset in [0, size - 64, size, usize::MAX] {
        segment.area().read(|view| view.read(offset, &mut bytes)).unwrap();
    }
    assert_eq!(bytes, [0; 64], "outside there is nothing");
}

/// Every write of a watchdog and its servers, over words that somebody scribbled.
fn use_words(segment: &Segment) {
    let heart = &segment.hearts()[0];
    let before = heart.sample().count;
    heart.beat(NOW);
    assert_eq!((heart.sample().count, heart.sample().stamp), (before.wrapping_add(1), NOW));
    let page = &segment.slots()[0];
    page.activity.set_text("at work");
    assert_eq!(page.activity.text().as_deref(), Some("at work"));
    let identity = Identity { pid: 7, start_time: 8, generation: Generation(9) };
    page.server.set_identity(identity);
    assert_eq!(page.server.identity(), Some(identity));

    let cells = &segment.gaps()[0];
    let limit = Duration::from_secs(4);
    let gap = Gap { span: limit, near_miss: true, limit };
    // Whatever stands there: it is counted, and makes sense once it is begun anew.
    cells.count(gap, NOW);
    let _ = cells.read();
    cells.begin("fuzz", OWN);
    cells.count(gap, NOW);
    assert_eq!(cells.read().map(|gaps| (gaps.total(), gaps.worst)), Ok((1, limit)));

    let head = segment.events().head.load(Ordering::Relaxed);
    let started = What::Started { pid: 1, after: Some(Cause::Killed) };
    let event = Record::new(NOW, Some(SlotId(0)), Generation(9), started);
    segment.events().push(&event);
    if head != u64::MAX {
        assert_eq!(segment.events().latest(1), [event]);
    }

    let cells = segment.owner();
    let owner = cells.current();
    let live = |_| Some(Generation(9));
    if let Some(to) = retired(owner, live) {
        assert!(cells.exchange(owner, to));
    }
    assert_eq!(retired(cells.current(), live), None);
    cells.set_recall(Epoch(3), NOW);
    assert_eq!(cells.recall().map(|(epoch, _)| epoch), Some(Epoch(3)));
}

// ---- The table ----

/// The bytes are a small data area, edits of it (a place in 2 bytes, a value in 8), and what
/// clients send. They send it, somebody scribbles, they send it again: every command ends, answers
/// or refuses, and after a FLUSHDB the table is as good as new.
pub(crate) fn table(bytes: &[u8]) {
    let mut input = bytes;
    let [words, cell, sequence, count, fill, edits] = take(&mut input).map(usize::from);
    let (edits, requests) = input.split_at((edits * 10).min(input.len()));
    let (edits, _) = edits.as_chunks::<10>();
    // Nothing but zeros, or the values over and over.
    let values = edits.iter().map(value_of).collect::<Vec<_>>();
    let mut values = values.iter().copied().cycle().take_while(|_| fill % 2 == 1);
    let mut garbage =
        |length| (0..length).map(|_| Word::new(values.next().unwrap_or(0))).collect::<Vec<_>>();
    let copies = [garbage(64 + words * 8), garbage(64 + words * 8)];
    let ranges = garbage(RANGES);
    let sequence = Word::new(u64::MAX - sequence as u64);
    let count = Word::new(if count < 250 { count as u64 } else { u64::MAX - (count - 250) as u64 });
    let area = Area::new(&sequence, &count, &ranges, [&copies[0], &copies[1]]);
    let cell_size = CELL_OVERHEAD + KEY_MAX + cell % 32 * 8;
    let table = Table::new(area.size(), cell_size).expect("one cell at least");

    serve(&table, area, requests);
    for edit in edits {
        let (place, value) = (usize::from(u16::from_le_bytes([edit[0], edit[1]])), value_of(edit));
        for copy in &copies {
            copy[place % copy.len()].store(value, Ordering::Relaxed);
        }
        ranges[place % RANGES].store(value, Ordering::Relaxed);
        count.store(place as u64, Ordering::Relaxed);
    }
    serve(&table, area, requests);
    use_area(area, cell_size);
}

fn value_of([_, _, value @ ..]: &[u8; 10]) -> u64 {
    u64::from_le_bytes(*value)
}

/// Carries out requests up to the first that is none.
fn serve(table: &Table, area: Area<'_>, requests: &[u8]) {
    let mut rest = requests;
    while let Ok(Decoded::Request { words, used }) = resp::decode(rest) {
        rest = &rest[used..];
        if let Ok(command) = commands::parse(&words) {
            carry_out(table, area, &command);
        }
    }
}

/// One command as a server carries it out; its reply.
fn carry_out(table: &Table, area: Area<'_>, command: &Command<'_>) -> client::Reply {
    let mut said = Vec::new();
    let reply = &mut resp::Reply(&mut said, resp::Protocol::Two);
    if command.writes() {
        change(area, |update| execute::change(table, update, command, reply));
    } else {
        area.read_as_owner(|view| execute::look(table, view, command, reply));
    }
    read_reply(&said[..]).unwrap_or_else(|error| panic!("{error}: {command:?}"))
}

/// Levels, changes, and commits if told to.
fn change(area: Area<'_>, change: impl FnOnce(&mut Update<'_>) -> bool) {
    let before = area.sequence();
    let mut update = level(area);
    if change(&mut update) {
        assert_eq!(update.commit(), before.wrapping_add(1));
    }
}

/// Brings the spare level, which takes a bounded time, whatever the list says.
fn level(area: Area<'_>) -> Update<'_> {
    let pieces = 3 + RANGES * area.size() / LEVEL_PIECE;
    assert!((0..=pieces).any(|_| area.level(LEVEL_PIECE)), "not level after {pieces} pieces");
    area.begin()
}

/// Makes a table in an area of garbage anew, and uses it.
fn use_area(area: Area<'_>, cell_size: usize) {
    change(area, |update| update.write(area.size() - 3, b"end").is_ok());
    let mut end = [0; 3];
    area.read(|view| view.read(area.size() - 3, &mut end)).unwrap();
    assert_eq!(&end, b"end");
    let Some(table) = Table::new(area.size(), cell_size) else { return };
    let ask = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let reply = carry_out(&table, area, &commands::parse(&words).unwrap());
        let mut shown = Vec::new();
        client::render(&reply, &mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    };
    for (request, expected) in [
        ("FLUSHDB", "OK\n"),
        ("DBSIZE", "0\n"),
        ("KEYS *", "(empty)\n"),
        ("GET k", "(nil)\n"),
        ("SET k whole", "OK\n"),
        ("GET k", "whole\n"),
        ("KEYS *", "k\n"),
        ("DEL k", "1\n"),
        ("INCR n", "1\n"),
        ("INCR n", "2\n"),
        ("EXISTS k n", "1\n"),
        ("DBSIZE", "1\n"),
    ] {
        assert_eq!(ask(request), expected, "{request}");
    }
}

// ---- The file of services ----

/// The bytes are `osps.toml`, and every file that it names: it is sound, or what is wrong is told.
pub(crate) fn config(bytes: &[u8]) {
    match load(Path::new("osps.toml"), &Paper(bytes)) {
        Ok(file) => {
            assert!((1..=254).contains(&file.services.len()));
            assert!(file.services.iter().all(|service| service.launch.is_program()));
            assert!(check::render(&file, &[]).contains("start order"));
        }
        Err(problems) => {
            let told = problems.to_string();
            assert!(told.starts_with("osps.toml:"), "{told}");
            assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
        }
    }
}

/// A machine whose files are all the same.
struct Paper<'a>(&'a [u8]);

impl Look for Paper<'_> {
    fn read(&self, _: &Path, most: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.iter().copied().take(usize::try_from(most).unwrap_or(usize::MAX)).collect())
    }

    fn user(&self, who: &Who) -> io::Result<Option<User>> {
        Ok((*who == Who::Number(0)).then(User::default))
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        Ok((name == "root").then_some(0))
    }

    fn is_root(&self) -> bool {
        self.0.len().is_multiple_of(2)
    }

    fn here(&self) -> PathBuf {
        PathBuf::from("/etc")
    }
}
