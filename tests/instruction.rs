//! Goal: a process may be killed between any two of its instructions: what it leaves in the segment
//! is the old state or the new one, whole, and the next one can go on from it.
//!
//! Method: a child, this program again, runs the real code on a real, small segment, and its parent
//! single-steps it. At each instruction boundary the parent copies the bytes as a kill would leave
//! them, and on the copy plays everybody who comes after: a reader, the next owner who levels the
//! spare copy, its next update; a new primary that grants the ownership; a process that attaches
//! to the file. Most instructions store nothing there: a copy that equals the one before shares its
//! verdict. Writers that are wrong on purpose show that the net has no such hole. `--nocapture`
//! shows the figures.
//!
//! What it cannot show: the order in which other processors see the stores (docs/segment.md
//! argues that), and other instructions than those of this build.
#![allow(unsafe_code, reason = "one system call without a safe wrapper in our dependencies")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test tells its figures")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::mem::offset_of;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use osps::pair::store::commands::{Command, When};
use osps::pair::store::execute;
use osps::pair::store::resp::{Protocol, Reply};
use osps_heart::example;
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::ownership::{Arbiter, ArbiterAction, Holder, HolderAction, names, retired};
use osps_heart::segment::area::{Area, LEVEL_PIECE};
use osps_heart::segment::layout::{AreaCells, HeaderCells, HeartCells, OwnerCells, PAGE};
use osps_heart::segment::mapping::FILE_NAME;
use osps_heart::segment::{Access, AttachError, CreateOptions, Geometry, Segment, Times, text};
use osps_heart::sync::{Ordering, Word, fence};
use osps_heart::table::Table;
use osps_heart::time::Monotonic;
use tempfile::TempDir;

use common::{cannot, skip};

/// Tells the child which part it plays, and where.
const PART: &str = "OSPS_STEPPED_PART";
const PLACE: &str = "OSPS_STEPPED_DIR";
/// The file that the parts about whole segments work on.
const MADE: &str = "made";
/// Values of the mark, a spare word of slot 0: the child is inside of what is examined.
const INSIDE: u64 = 1;
/// The child may not be traced here.
const REFUSED: u64 = 2;
/// Ten times the instructions of the longest deed. A processor whose atomics are loops of exclusive
/// loads and stores never leaves them when it is stepped.
const ENDLESS: usize = 1_000_000;

// ---- Stepping ----

#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;
#[cfg(target_env = "musl")]
type Request = libc::c_int;

/// `ptrace` with a request that takes no address.
fn plain_set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Set { key, value, when: When::Always, get: false }
}

fn trace(request: Request, thread: Pid, data: i32) -> nix::Result<()> {
    let (nothing, data) = (std::ptr::null_mut::<libc::c_void>(), libc::c_long::from(data));
    // SAFETY: TRACEME, SETOPTIONS, SINGLESTEP and CONT use no pointer and touch no memory of ours.
    let answer = unsafe { libc::ptrace(request, thread.as_raw(), nothing, data) };
    nix::errno::Errno::result(answer).map(drop)
}

/// A child that runs one instruction at a time. It stops by itself before each deed.
struct Stepped {
    child: Child,
    /// Its only thread that matters.
    thread: Pid,
    segment: Segment,
    dir: TempDir,
    ended: bool,
}

impl Stepped {
    /// Starts a child in a part; it stands before its first deed. `None` = this cannot be done
    /// here, and the reason was told.
    fn start(part: &str) -> Option<Stepped> {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let segment = example::create_segment(dir.path()).unwrap();
        let child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_stepped_process", "--ignored", "--test-threads=1"])
            .arg("--nocapture")
            .env(PART, part)
            .env(PLACE, dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let thread = Pid::from_raw(child.id().try_into().unwrap());
        let mut stepped = Stepped { child, thread, segment, dir, ended: false };
        match stepped.wait() {
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => stepped.thread = thread,
            _ if stepped.mark() == REFUSED => {
                skip("this process may not trace its children");
                return None;
            }
            other => panic!("{other:?} before the first deed"),
        }
        trace(libc::PTRACE_SETOPTIONS, stepped.thread, libc::PTRACE_O_EXITKILL).unwrap();
        if let Err(errno) = trace(libc::PTRACE_SINGLESTEP, stepped.thread, 0) {
            cannot(&format!("this processor is not stepped: {errno}"));
            return None;
        }
        assert_eq!(stepped.wait(), WaitStatus::Stopped(stepped.thread, Signal::SIGTRAP));
        Some(stepped)
    }

    fn mark(&self) -> u64 {
        mark(&self.segment).load(Ordering::Relaxed)
    }

    /// Waits for children of this thread only: other tests have their own.
    fn wait(&mut self) -> WaitStatus {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = waitpid(Pid::from_raw(-1), Some(flags)).unwrap();
        self.ended = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        status
    }

    /// Lets the child run until it stands before the next deed.
    fn run(&mut self) {
        trace(libc::PTRACE_CONT, self.thread, 0).unwrap();
        let status = self.wait();
        assert_eq!(status, WaitStatus::Stopped(self.thread, Signal::SIGSTOP));
    }

    /// Takes the child through its next deed, and shows what it would leave behind at each
    /// instruction boundary.
    fn step(&mut self, mut boundary: impl FnMut()) {
        let mut entered = false;
        for _ in 0..ENDLESS {
            trace(libc::PTRACE_SINGLESTEP, self.thread, 0).unwrap();
            let status = self.wait();
            assert_eq!(status, WaitStatus::Stopped(self.thread, Signal::SIGTRAP));
            if self.mark() == INSIDE {
                entered = true;
                boundary();
            } else if entered {
                return self.run();
            }
        }
        panic!("the deed takes no end");
    }

    /// Bytes of a file in the directory.
    fn file(&self, name: &str) -> Bytes {
        let file = File::open(self.dir.path().join(name)).unwrap();
        Bytes { file, now: Vec::new(), before: None }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // An ended child's number may be somebody else's by now.
        if !self.ended {
            self.child.kill().unwrap();
        }
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while waitpid(Pid::from_raw(-1), Some(flags)).is_ok() {}
    }
}

fn mark(segment: &Segment) -> &Word {
    &segment.slots()[0].activity.reserved[0]
}

/// A part of a file, looked at again and again while nobody runs who could change it.
struct Bytes {
    file: File,
    now: Vec<u8>,
    before: Option<Vec<u8>>,
}

impl Bytes {
    /// The bytes in `range`, as far as there are any, if they changed since the last look.
    fn changed(&mut self, range: &Range<usize>) -> Option<&[u8]> {
        self.now.resize(range.len(), 0);
        let mut filled = 0;
        while filled < self.now.len() {
            let at = (range.start + filled) as u64;
            match self.file.read_at(&mut self.now[filled..], at).unwrap() {
                0 => break,
                length => filled += length,
            }
        }
        let now = &self.now[..filled];
        if self.before.as_deref() == Some(now) {
            return None;
        }
        self.before = Some(now.to_vec());
        self.before.as_deref()
    }
}

/// What somebody who comes after a kill finds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Old,
    New,
    /// Neither nor.
    Torn(String),
    /// A reader is well served, but the two copies cannot be brought level.
    Unequal(String),
    /// Whoever comes next cannot go on.
    Stuck(String),
}

/// Boundaries by verdict.
#[derive(Clone, Debug, Default)]
struct Tally {
    boundaries: usize,
    old: usize,
    new: usize,
    torn: usize,
    unequal: usize,
    stuck: usize,
    first_fault: Option<String>,
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        self.boundaries += 1;
        let (kind, fault) = match verdict {
            Verdict::Old => (&mut self.old, None),
            Verdict::New => (&mut self.new, None),
            Verdict::Torn(fault) => (&mut self.torn, Some(fault)),
            Verdict::Unequal(fault) => (&mut self.unequal, Some(fault)),
            Verdict::Stuck(fault) => (&mut self.stuck, Some(fault)),
        };
        *kind += 1;
        if let (None, Some(fault)) = (&self.first_fault, fault) {
            self.first_fault = Some(format!("boundary {}: {fault}", self.boundaries));
        }
    }

    fn tell(&self, name: &str) {
        let Tally { boundaries, old, new, torn, unequal, stuck, .. } = self;
        eprintln!("{name}: {boundaries} boundaries / {old} old / {new} new / {torn} torn");
        if unequal + stuck > 0 {
            eprintln!("{name}: {unequal} unequal / {stuck} stuck");
        }
    }

    fn assert_sound(&self, name: &str) {
        assert_eq!(self.first_fault, None, "{name}");
    }
}

// ---- Deeds on a data area ----

/// Offset, length and value of a change.
type Change = (usize, usize, u8);

/// A rule of the data area that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// It breaks none: the net catches only what is wrong.
    None,
    /// Writes into the spare before the range is listed.
    ListsLate,
    /// The last change is made in the good copy, after the sequence: two stores commit.
    CommitsTwice,
    /// Clears the list before the copies are level.
    ClearsEarly,
}

#[derive(Clone, Debug)]
enum Deed {
    Update(&'static [Change]),
    Abort(&'static [Change]),
    /// In pieces of so many bytes.
    Level(usize),
    /// As a server carries it out.
    Obey(Command<'static>),
    Wrong(Mutant, &'static [Change]),
}

/// Where an area lies: in bytes of the file, and in words from there.
struct Place {
    start: usize,
    words: usize,
    sequence: usize,
    count: usize,
    ranges: Range<usize>,
    copies: [usize; 2],
    length: usize,
}

impl Place {
    /// The data area of the segment.
    fn table(geometry: &Geometry) -> Place {
        let length = usize::try_from(geometry.data_size).unwrap() / 8;
        let control = PAGE / 8;
        Place {
            start: geometry.data_offset,
            words: control + 2 * length,
            sequence: offset_of!(AreaCells, sequence) / 8,
            count: offset_of!(AreaCells, range_count) / 8,
            ranges: offset_of!(AreaCells, ranges) / 8..control,
            copies: [control, control + length],
            length,
        }
    }

    /// A small area in spare words of the owner page, whose list has room for three ranges.
    fn small(geometry: &Geometry) -> Place {
        Place {
            start: geometry.owner_offset + offset_of!(OwnerCells, reserved),
            words: 128,
            sequence: 0,
            count: 8,
            ranges: 16..19,
            copies: [32, 80],
            length: 40,
        }
    }

    fn bytes(&self) -> Range<usize> {
        self.start..self.start + self.words * 8
    }

    fn copy<'a>(&self, words: &'a [Word], number: usize) -> &'a [Word] {
        &words[self.copies[number]..][..self.length]
    }

    fn area<'a>(&self, words: &'a [Word]) -> Area<'a> {
        let copies = [self.copy(words, 0), self.copy(words, 1)];
        Area::new(&words[self.sequence], &words[self.count], &words[self.ranges.clone()], copies)
    }
}

/// Of eight cells: a walk over them is most of what a command does.
fn table(area: &Area<'_>) -> Table {
    Table::new(area.size(), 480).unwrap()
}

fn perform(deed: &Deed, area: &Area<'_>, raw: Option<(&Place, &[Word])>) {
    let update = |changes: &[Change]| {
        while !area.level(LEVEL_PIECE) {}
        let mut update = area.begin();
        for (offset, length, value) in changes {
            update.write(*offset, &[*value; 320][..*length]).unwrap();
        }
        update
    };
    match deed {
        Deed::Update(changes) => drop(update(changes).commit()),
        Deed::Abort(changes) => drop(update(changes)),
        Deed::Level(piece) => while !area.level(*piece) {},
        Deed::Obey(command) => {
            let table = table(area);
            let mut update = update(&[]);
            let mut reply = Vec::new();
            if execute::change(&table, &mut update, command, &mut Reply(&mut reply, Protocol::Two))
            {
                update.commit();
            }
        }
        Deed::Wrong(mutant, changes) => {
            let (place, words) = raw.expect("raw words to do wrong to");
            do_wrong(*mutant, changes, place, words);
        }
    }
}

/// An update of whole words by hand, with one mistake. Levels behind itself.
fn do_wrong(mutant: Mutant, changes: &[Change], place: &Place, words: &[Word]) {
    let put = |index: usize, value: u64| words[index].store(value, Ordering::SeqCst);
    let get = |index: usize| words[index].load(Ordering::SeqCst);
    let sequence = get(place.sequence);
    let spare = place.copies[usize::from(sequence & 1 == 0)];
    let good = place.copies[usize::from(sequence & 1 == 1)];
    let last = changes.len() - 1;
    for (number, (offset, length, value)) in changes.iter().enumerate() {
        let list = || {
            put(place.ranges.start + number, (*offset as u64) << 32 | *length as u64);
            put(place.count, number as u64 + 1);
        };
        if mutant != Mutant::ListsLate {
            list();
        }
        if mutant == Mutant::CommitsTwice && number == last {
            put(place.sequence, sequence + 1);
        }
        for word in offset / 8..(offset + length) / 8 {
            put(spare + word, u64::from_le_bytes([*value; 8]));
        }
        if mutant == Mutant::ListsLate {
            list();
        }
    }
    put(place.sequence, sequence + 1);
    fence(Ordering::SeqCst);
    if mutant == Mutant::ClearsEarly {
        put(place.count, 0);
    }
    for (offset, length, _) in changes {
        for word in offset / 8..(offset + length) / 8 {
            put(good + word, get(spare + word));
        }
    }
    put(place.count, 0);
}

/// Each deed with its name; those without one only prepare the next.
fn updates() -> Vec<(&'static str, Deed)> {
    // Twice as many as the list has room for.
    const MANY: &[Change] =
        &[(8, 3, 1), (40, 8, 2), (80, 8, 3), (120, 1, 4), (160, 2, 5), (9, 9, 6)];
    vec![
        ("", Deed::Update(&[(0, 320, 1)])),
        ("", Deed::Level(LEVEL_PIECE)),
        ("small update", Deed::Update(&[(3, 7, 2)])),
        ("large update", Deed::Update(&[(0, 64, 3), (100, 60, 4), (253, 67, 5)])),
        ("overlapping update", Deed::Update(&[(0, 40, 6), (17, 40, 7), (30, 4, 8), (30, 4, 9)])),
        ("aborted update", Deed::Abort(&[(8, 24, 10), (300, 20, 11)])),
        ("update after an aborted one", Deed::Update(&[(200, 9, 12)])),
        ("update that overflows the list", Deed::Update(MANY)),
        ("levelling of everything in pieces", Deed::Level(72)),
        ("aborted update that overflows the list", Deed::Abort(MANY)),
        ("update after that", Deed::Update(&[(316, 4, 13)])),
        ("empty update", Deed::Update(&[])),
    ]
}

fn commands() -> Vec<(&'static str, Deed)> {
    let set = |key, value| Deed::Obey(plain_set(key, value));
    let increase = |by| Deed::Obey(Command::Incr { key: b"number", by });
    vec![
        ("", set(b"other", b"stays")),
        ("insert", set(b"key", b"a first value")),
        ("overwrite", set(b"key", b"another, longer value")),
        ("insert by INCR", increase(9)),
        ("INCR", increase(1)),
        ("delete", Deed::Obey(Command::Del(vec![b"key", b"other", b"none"]))),
        ("refused command", increase(i64::MAX)),
        ("FLUSHDB", Deed::Obey(Command::FlushDb)),
        ("insert after FLUSHDB", set(b"key", b"again")),
    ]
}

const MUTANTS: [Mutant; 4] =
    [Mutant::None, Mutant::ListsLate, Mutant::CommitsTwice, Mutant::ClearsEarly];

fn wrongs() -> Vec<(&'static str, Deed)> {
    let names = ["right writer", "lists late", "commits twice", "clears early"];
    let changes: [&[Change]; 4] = [
        &[(0, 24, 1), (80, 16, 2)],
        &[(0, 24, 3), (80, 16, 4)],
        &[(0, 24, 5), (80, 16, 6)],
        &[(0, 24, 7), (80, 16, 8)],
    ];
    let deeds = MUTANTS.into_iter().zip(changes).map(|(mutant, list)| Deed::Wrong(mutant, list));
    names.into_iter().zip(deeds).collect()
}

// ---- Who comes after an owner ----

fn content(area: &Area<'_>) -> Result<(u64, Vec<u8>), String> {
    let mut bytes = vec![0; area.size()];
    let (sequence, retries) = area
        .read(|view| {
            view.read(0, &mut bytes);
            view.sequence()
        })
        .map_err(|busy| busy.to_string())?;
    assert_eq!(retries, 0, "nobody disturbs a reader of a copy");
    Ok((sequence, bytes))
}

/// All keys and values, found as a client finds them.
fn entries(area: &Area<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let table = table(area);
    area.read_as_owner(|view| {
        let mut keys = Vec::new();
        table.keys(view, |key| {
            keys.push(key.to_vec());
            true
        });
        assert_eq!(keys.len() as u64, table.len(view), "the count of keys");
        let value = |key: Vec<u8>| (table.get(view, &key).map(|value| (key, value))).unwrap();
        keys.into_iter().map(value).collect()
    })
}

fn words(bytes: &[u8]) -> Vec<Word> {
    bytes
        .chunks_exact(8)
        .map(|raw| Word::new(u64::from_le_bytes(raw.try_into().unwrap())))
        .collect()
}

fn values(words: &[Word]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// What is known of an area before its owner is killed.
struct Owned<'a> {
    place: &'a Place,
    /// The content after each commit, as a model has it.
    history: &'a BTreeMap<u64, Vec<u8>>,
    /// The sequence before the deed, and as last seen.
    start: u64,
    sequence: u64,
    /// Whether the area holds a table.
    keyed: bool,
    judged: usize,
}

impl Owned<'_> {
    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        self.judged += 1;
        let words = words(bytes);
        let area = self.place.area(&words);
        // A reader.
        let seen = match content(&area) {
            Ok(seen) => seen,
            Err(busy) => return Verdict::Torn(busy),
        };
        if seen.0 < self.sequence {
            return Verdict::Torn(format!("sequence {} after {}", seen.0, self.sequence));
        }
        self.sequence = seen.0;
        if self.history.get(&seen.0) != Some(&seen.1) {
            return Verdict::Torn(format!("commit {} is {:?}", seen.0, seen.1));
        }
        // The next owner, in large or small pieces.
        let piece = [LEVEL_PIECE, 8, 24][self.judged % 3];
        let mut pieces = 0;
        while !area.level(piece) {
            pieces += 1;
            if content(&area).as_ref() != Ok(&seen) {
                return Verdict::Torn(format!("levelling changed commit {}", seen.0));
            }
            if pieces > self.place.length {
                return Verdict::Stuck("never level".to_owned());
            }
        }
        if content(&area).as_ref() != Ok(&seen) {
            return Verdict::Torn(format!("levelling changed commit {}", seen.0));
        }
        if let Some(fault) = self.unequal(&words) {
            return Verdict::Unequal(fault);
        }
        // Its first update, and the second one.
        for _ in 0..2 {
            if let Some(fault) = self.next_update(&area) {
                return Verdict::Stuck(fault);
            }
            while !area.level(LEVEL_PIECE) {}
            if let Some(fault) = self.unequal(&words) {
                return Verdict::Unequal(format!("after the next update: {fault}"));
            }
        }
        if seen.0 == self.start { Verdict::Old } else { Verdict::New }
    }

    fn unequal(&self, words: &[Word]) -> Option<String> {
        let [a, b] = [0, 1].map(|number| values(self.place.copy(words, number)));
        let at = a.iter().zip(&b).position(|(a, b)| a != b)?;
        Some(format!("word {at} is {:#x} in one copy, {:#x} in the other", a[at], b[at]))
    }

    fn next_update(&self, area: &Area<'_>) -> Option<String> {
        let before = content(area).ok()?;
        if self.keyed {
            let mut expected = entries(area);
            expected.insert(b"next".to_vec(), b"owner".to_vec());
            perform(&Deed::Obey(plain_set(b"next", b"owner")), area, None);
            let found = entries(area);
            return (found != expected).then(|| format!("{found:?} instead of {expected:?}"));
        }
        let (mut expected, offset) = (before.1, self.judged * 7 % (area.size() - 13));
        expected[offset..offset + 13].fill(99);
        let mut update = area.begin();
        update.write(offset, &[99; 13]).unwrap();
        update.commit();
        let found = content(area);
        let good = found.as_ref() == Ok(&(before.0 + 1, expected));
        (!good).then(|| format!("update at {offset} after commit {}: {found:?}", before.0))
    }
}

/// What each commit of a script makes of an area, played on ordinary memory and compared with
/// models that know nothing of copies, lists and cells.
fn history(deeds: &[(&str, Deed)], place: &Place) -> BTreeMap<u64, Vec<u8>> {
    let memory = words(&vec![0; place.words * 8]);
    let area = place.area(&memory);
    let (mut plain, mut keyed) = (vec![0; area.size()], BTreeMap::new());
    let mut history = BTreeMap::from([(0, plain.clone())]);
    for (_, deed) in deeds {
        let right = match deed {
            Deed::Wrong(_, changes) => &Deed::Update(changes),
            right => right,
        };
        perform(right, &area, None);
        let (sequence, bytes) = content(&area).unwrap();
        match right {
            Deed::Update(changes) => {
                for (offset, length, value) in *changes {
                    plain[*offset..offset + length].fill(*value);
                }
                assert_eq!(bytes, plain, "{deed:?}");
            }
            Deed::Obey(command) => {
                obey(command, &mut keyed);
                assert_eq!(entries(&area), keyed, "{deed:?}");
            }
            _ => {}
        }
        history.insert(sequence, bytes);
    }
    history
}

fn obey(command: &Command<'_>, keyed: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    match command {
        Command::Set { key, value, .. } => drop(keyed.insert(key.to_vec(), value.to_vec())),
        Command::Del(keys) => keyed.retain(|key, _| !keys.contains(&&key[..])),
        Command::Incr { key, by } => {
            let old = keyed.get(*key).map_or("0", |value| str::from_utf8(value).unwrap());
            if let Some(new) = old.parse::<i64>().unwrap().checked_add(*by) {
                keyed.insert(key.to_vec(), new.to_string().into_bytes());
            }
        }
        Command::FlushDb => keyed.clear(),
        other => panic!("no model for {other:?}"),
    }
}

/// Steps through the deeds of a part; a tally for each that has a name.
fn examine(part: &str, deeds: &[(&'static str, Deed)]) -> Option<Vec<(&'static str, Tally)>> {
    let mut stepped = Stepped::start(part)?;
    let keyed = part == "commands";
    let place = if keyed { Place::table } else { Place::small }(stepped.segment.geometry());
    let history = history(deeds, &place);
    let mut bytes = stepped.file(FILE_NAME);
    let mut tallies = Vec::new();
    for (name, _) in deeds {
        if name.is_empty() {
            stepped.run();
            continue;
        }
        bytes.before = None;
        let begin = bytes.changed(&place.bytes()).unwrap();
        let start = values(&words(begin))[place.sequence];
        let mut owned =
            Owned { place: &place, history: &history, start, sequence: start, keyed, judged: 0 };
        let (mut tally, mut verdict) = (Tally::default(), owned.judge(begin));
        stepped.step(|| {
            if let Some(changed) = bytes.changed(&place.bytes()) {
                verdict = owned.judge(changed);
            }
            tally.count(&verdict);
        });
        tally.tell(name);
        tallies.push((*name, tally));
    }
    Some(tallies)
}

// ---- Ownership ----

const A: (SlotId, Generation) = (SlotId(1), Generation(11));
const B: (SlotId, Generation) = (SlotId(2), Generation(12));
/// The primary that comes after a killed one.
const SUCCESSOR: (SlotId, Generation) = (SlotId(0), Generation(20));

fn is_live(alive: &[(SlotId, Generation)]) -> impl Fn(SlotId) -> Option<Generation> {
    |slot| alive.iter().find(|(known, _)| *known == slot).map(|(_, generation)| *generation)
}

/// When an epoch is asked back.
fn recall_time(epoch: Epoch) -> Monotonic {
    Monotonic(epoch.0 * 1000)
}

/// As a primary does it, until there is nothing more to do, or something to wait for.
fn arbitrate(
    cells: &OwnerCells,
    arbiter: &mut Arbiter,
    alive: &[(SlotId, Generation)],
    recall: impl Fn(&OwnerCells, Epoch),
) {
    while let Some(step) = arbiter.look(cells.current(), is_live(alive), true) {
        match step {
            ArbiterAction::Clear { from, to } | ArbiterAction::Grant { from, to } => {
                cells.exchange(from, to);
            }
            ArbiterAction::Recall { epoch, .. } => recall(cells, epoch),
        }
    }
}

fn set_recall(cells: &OwnerCells, epoch: Epoch) {
    cells.set_recall(epoch, recall_time(epoch));
    // Said again later, and no younger for it.
    cells.set_recall(epoch, Monotonic(7));
}

/// Not so: whoever sees the epoch may see the time of another one.
fn set_recall_wrongly(cells: &OwnerCells, epoch: Epoch) {
    cells.recall_epoch.store(epoch.0, Ordering::SeqCst);
    cells.recall_since_ns.store(recall_time(epoch).0, Ordering::SeqCst);
}

/// Two rounds of: granted to A, recalled, released, granted to B, which dies and is retired.
fn hand_over(cells: &OwnerCells, recall: fn(&OwnerCells, Epoch)) {
    let mut arbiter = Arbiter::new();
    let mut holder = Holder::new(A.0, A.1);
    for _ in 0..2 {
        arbiter.request(A.0, A.1);
        arbitrate(cells, &mut arbiter, &[A, B], recall);
        arbiter.request(B.0, B.1);
        arbitrate(cells, &mut arbiter, &[A, B], recall);
        let wanted = cells.recall().map(|(epoch, _)| epoch);
        let old = cells.current();
        for action in holder.look(old, wanted, false, false, false) {
            let HolderAction::Release(epoch) = action else { continue };
            let step = arbiter.released(A.0, A.1, epoch, cells.current());
            if let Some(ArbiterAction::Clear { from, to }) = step {
                assert!(cells.exchange(from, to));
                assert!(!cells.exchange(from, to), "only once");
            }
        }
        arbitrate(cells, &mut arbiter, &[A, B], recall);
        assert!(names(cells.current(), B.0, B.1));
        let dead = cells.current();
        assert!(cells.exchange(dead, retired(dead, is_live(&[A])).unwrap()));
    }
}

fn owner_cells(bytes: &[u8]) -> OwnerCells {
    let mut words = words(bytes).into_iter();
    let mut next = || words.next().unwrap();
    let (word, recall_epoch, recall_since_ns) = (next(), next(), next());
    OwnerCells { word, recall_epoch, recall_since_ns, reserved: std::array::from_fn(|_| next()) }
}

/// Who comes after a killed primary: `before` is the word at the boundary before.
fn judge_hand_over(bytes: &[u8], start: Owner, before: &mut Owner) -> Verdict {
    let cells = owner_cells(bytes);
    let owner = cells.current();
    let holds = [A, B].iter().any(|(slot, generation)| names(owner, *slot, *generation));
    let lawful = match (before.slot, owner.slot) {
        _ if owner == *before => true,
        (None, Some(_)) => holds && owner.epoch.0 == before.epoch.0 + 1,
        (Some(_), None) => owner.generation == 0 && owner.epoch == before.epoch,
        _ => false,
    };
    if !lawful {
        return Verdict::Torn(format!("{owner:?} after {before:?}"));
    }
    *before = owner;
    if let Some((epoch, since)) = cells.recall() {
        if epoch.0 > owner.epoch.0 {
            return Verdict::Torn(format!("{epoch} is asked back before it is granted: {owner:?}"));
        }
        if epoch == owner.epoch && since != recall_time(epoch) {
            return Verdict::Torn(format!("epoch {epoch} is asked back since {since:?}"));
        }
    }
    // The next primary wants to write; the others died with it, or live on.
    for alive in [&[SUCCESSOR][..], &[SUCCESSOR, A, B]] {
        let cells = owner_cells(bytes);
        let mut arbiter = Arbiter::new();
        arbiter.request(SUCCESSOR.0, SUCCESSOR.1);
        arbitrate(&cells, &mut arbiter, alive, set_recall);
        for (slot, generation) in alive {
            let (owner, recall) = (cells.current(), cells.recall().map(|(epoch, _)| epoch));
            let mut holder = Holder::new(*slot, *generation);
            for action in holder.look(owner, recall, false, false, false) {
                let HolderAction::Release(epoch) = action else { continue };
                if let Some(ArbiterAction::Clear { from, to }) =
                    arbiter.released(*slot, *generation, epoch, owner)
                {
                    cells.exchange(from, to);
                }
            }
        }
        arbitrate(&cells, &mut arbiter, alive, set_recall);
        let now = cells.current();
        if !names(now, SUCCESSOR.0, SUCCESSOR.1) || now.epoch.0 != owner.epoch.0 + 1 {
            return Verdict::Stuck(format!("{now:?} instead of a grant after {owner:?}"));
        }
    }
    if owner == start { Verdict::Old } else { Verdict::New }
}

fn examine_hand_over(part: &str) -> Option<Tally> {
    let mut stepped = Stepped::start(part)?;
    let mut bytes = stepped.file(FILE_NAME);
    let offset = stepped.segment.geometry().owner_offset;
    let start = stepped.segment.owner().current();
    let mut before = start;
    let (mut tally, mut verdict) = (Tally::default(), Verdict::Old);
    stepped.step(|| {
        if let Some(changed) = bytes.changed(&(offset..offset + PAGE)) {
            verdict = judge_hand_over(changed, start, &mut before);
        }
        tally.count(&verdict);
    });
    tally.tell(part);
    assert_eq!(before.epoch, Epoch(4), "two grants in each of two rounds");
    Some(tally)
}

// ---- Whole segments ----

fn founding(name: &str) -> CreateOptions {
    CreateOptions {
        geometry: Geometry::new(1, 2, 4096, 256).unwrap(),
        flags: 5,
        boot_id: [11, 12],
        name: name.to_owned(),
        watchdog: (13, 14),
        now: Monotonic(15),
        unix_ns: 16,
        times: Times {
            hang_timeout: Duration::from_nanos(17),
            check_interval: Duration::from_nanos(18),
            beat_interval: Duration::from_nanos(19),
            start_timeout: Duration::from_nanos(20),
            stop_timeout: Duration::from_nanos(21),
            orphan_timeout: Duration::from_nanos(22),
        },
    }
}

fn furnish(segment: &Segment) {
    for (number, slot) in segment.slots().iter().enumerate() {
        text::store(&slot.server.name, "server");
        slot.server.role.store(number as u64 + 1, Ordering::Relaxed);
    }
}

fn new_file(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

/// A segment in which somebody lived: owned, with data, beats and identities.
fn inhabit(segment: &Segment) {
    let held = Owner { slot: Some(A.0), generation: 11, epoch: Epoch(4) };
    assert!(segment.owner().exchange(Owner::NONE, held));
    segment.owner().set_recall(Epoch(4), Monotonic(1));
    perform(&Deed::Obey(plain_set(b"key", b"kept")), &segment.area(), None);
    perform(&Deed::Abort(&[(100, 50, 1)]), &segment.area(), None);
    segment.hearts()[1].beat(Monotonic(2));
    segment.header().generation.store(12, Ordering::Relaxed);
    segment.slots()[0].activity.set_text("lives");
}

/// The same segment, made without being killed.
fn whole(dir: &Path, refounded: bool) -> Vec<u8> {
    let path = dir.join("whole");
    let file = new_file(&path);
    let segment = Segment::create(&file, &founding("first"), furnish).unwrap();
    if refounded {
        inhabit(&segment);
        Segment::refound(&file, &founding("second"), furnish).unwrap().unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// The beginning of a creation by single words in which the version is the second one.
fn create_wrongly(file: &File, whole: &[u8]) {
    file.set_len(whole.len() as u64).unwrap();
    for (index, raw) in whole.chunks_exact(8).enumerate().take(16) {
        file.write_all_at(raw, index as u64 * 8).unwrap();
    }
}

/// Judges by the segment as it shall be, the bytes that a kill leaves, and a copy of their file.
type Judge = fn(&[u8], &[u8], &File) -> Verdict;

/// Steps through the making of a segment, or through its takeover, and judges it whenever it
/// changed.
fn examine_segment(part: &str, refounded: bool, judge: Judge) -> Option<Tally> {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let whole = whole(dir.path(), refounded);
    let mut stepped = Stepped::start(part)?;
    let mut bytes = stepped.file(MADE);
    let copy = new_file(&stepped.dir.path().join("copy"));
    let limit = founding("").geometry.total_size + PAGE;
    let (mut tally, mut verdict) = (Tally::default(), Verdict::Old);
    stepped.step(|| {
        if let Some(changed) = bytes.changed(&(0..limit)) {
            copy.set_len(changed.len() as u64).unwrap();
            copy.write_all_at(changed, 0).unwrap();
            verdict = judge(&whole, changed, &copy);
        }
        tally.count(&verdict);
    });
    tally.tell(part);
    Some(tally)
}

/// Who attaches to a segment whose creator was killed.
fn judge_creation(whole: &[u8], bytes: &[u8], copy: &File) -> Verdict {
    match Segment::attach(copy, Access::ReadOnly) {
        Ok(_) if bytes == whole => Verdict::New,
        Ok(_) => Verdict::Torn("a half-made segment is taken for a whole one".to_owned()),
        Err(AttachError::Short(0) | AttachError::Unfinished) => Verdict::Old,
        Err(other) => Verdict::Torn(other.to_string()),
    }
}

/// Who takes over a segment whose last taker-over was killed at it.
fn judge_refounding(whole: &[u8], bytes: &[u8], copy: &File) -> Verdict {
    // Nobody owns the data while the instance is down, so what matters is that it stays.
    let data = founding("").geometry.data_offset;
    if bytes[data..] != whole[data..] {
        return Verdict::Torn("the data changed".to_owned());
    }
    match Segment::attach(copy, Access::ReadOnly).map(|segment| segment.owner().current().epoch) {
        Ok(Epoch(4)) => {}
        other => return Verdict::Torn(format!("{other:?} instead of epoch 4")),
    }
    match Segment::refound(copy, &founding("second"), furnish) {
        Ok(Some(_)) => {}
        other => return Verdict::Stuck(format!("{other:?}")),
    }
    let mut after = vec![0; whole.len()];
    copy.read_exact_at(&mut after, 0).unwrap();
    // The second takeover beats once more than an undisturbed one, if the first came that far.
    let count = offset_of!(HeaderCells, watchdog_heart) + offset_of!(HeartCells, count);
    after[count..count + 8].copy_from_slice(&whole[count..count + 8]);
    if after != whole {
        return Verdict::Stuck("the second takeover is not like an undisturbed one".to_owned());
    }
    if bytes == whole { Verdict::New } else { Verdict::Old }
}

// ---- The child ----

#[test]
#[ignore = "the process that the other tests start and step through"]
fn the_stepped_process() {
    let (Ok(part), Some(dir)) = (std::env::var(PART), std::env::var_os(PLACE)) else { return };
    let dir = Path::new(&dir);
    let segment = Segment::open(dir, Access::ReadWrite).unwrap();
    let mark = mark(&segment);
    if trace(libc::PTRACE_TRACEME, Pid::from_raw(0), 0).is_err() {
        mark.store(REFUSED, Ordering::Relaxed);
        return;
    }
    let examined = |deed: &mut dyn FnMut()| {
        raise(Signal::SIGSTOP).unwrap();
        mark.store(INSIDE, Ordering::SeqCst);
        deed();
        mark.store(0, Ordering::SeqCst);
    };
    let small = Place::small(segment.geometry());
    let raw = &segment.owner().reserved[..];
    let each = |deeds: Vec<(&str, Deed)>, area: &Area<'_>| {
        for (_, deed) in deeds {
            examined(&mut || perform(&deed, area, Some((&small, raw))));
        }
    };
    match &part[..] {
        "updates" => each(updates(), &small.area(raw)),
        "commands" => each(commands(), &segment.area()),
        "wrong updates" => each(wrongs(), &small.area(raw)),
        "hand-over" => examined(&mut || hand_over(segment.owner(), set_recall)),
        "wrong hand-over" => examined(&mut || hand_over(segment.owner(), set_recall_wrongly)),
        "creation" => {
            let file = new_file(&dir.join(MADE));
            examined(&mut || drop(Segment::create(&file, &founding("first"), furnish).unwrap()));
        }
        "wrong creation" => {
            let whole = whole(dir, false);
            let file = new_file(&dir.join(MADE));
            examined(&mut || create_wrongly(&file, &whole));
        }
        "refounding" => {
            let file = new_file(&dir.join(MADE));
            inhabit(&Segment::create(&file, &founding("first"), furnish).unwrap());
            let founding = founding("second");
            examined(&mut || drop(Segment::refound(&file, &founding, furnish).unwrap().unwrap()));
        }
        other => panic!("no part {other:?}"),
    }
    // Here it is ended.
    raise(Signal::SIGSTOP).unwrap();
}

// ---- The tests ----

#[test]
fn an_update_killed_anywhere_is_whole_or_never_happened() {
    let Some(tallies) = examine("updates", &updates()) else { return };
    let boundaries: usize = tallies.iter().map(|(_, tally)| tally.boundaries).sum();
    for (name, tally) in tallies {
        tally.assert_sound(name);
        let commits = !name.starts_with("aborted") && !name.starts_with("levelling");
        assert!(tally.old > 0 && (tally.new > 0) == commits, "{name}: {tally:?}");
    }
    assert!(boundaries >= 10_000, "only {boundaries} boundaries");
}

#[test]
fn a_command_killed_anywhere_is_whole_or_never_happened() {
    let Some(tallies) = examine("commands", &commands()) else { return };
    let boundaries: usize = tallies.iter().map(|(_, tally)| tally.boundaries).sum();
    for (name, tally) in tallies {
        tally.assert_sound(name);
        assert!(tally.old > 0 && (tally.new > 0) == (name != "refused command"), "{name}");
    }
    assert!(boundaries >= 10_000, "only {boundaries} boundaries");
}

#[test]
fn a_hand_over_killed_anywhere_can_be_taken_up() {
    let Some(tally) = examine_hand_over("hand-over") else { return };
    tally.assert_sound("hand-over");
    assert!(tally.old > 0 && tally.new > 0);
}

#[test]
fn a_creation_killed_anywhere_is_whole_or_refused() {
    let Some(tally) = examine_segment("creation", false, judge_creation) else { return };
    tally.assert_sound("creation");
    assert!(tally.old > 0 && tally.new > 0);
}

#[test]
fn a_takeover_killed_anywhere_keeps_the_data_and_can_be_repeated() {
    let Some(tally) = examine_segment("refounding", true, judge_refounding) else { return };
    tally.assert_sound("refounding");
    assert!(tally.old > 0 && tally.new > 0);
}

#[test]
fn what_is_wrong_is_found() {
    let Some(tallies) = examine("wrong updates", &wrongs()) else { return };
    for ((_, tally), mutant) in tallies.iter().zip(MUTANTS) {
        let Tally { torn, unequal, stuck, .. } = *tally;
        let found = match mutant {
            Mutant::None => (torn, unequal) == (0, 0),
            Mutant::ListsLate | Mutant::ClearsEarly => torn == 0 && unequal > 0,
            Mutant::CommitsTwice => torn > 0,
        };
        assert!(found && stuck == 0, "{mutant:?}: {tally:?}");
    }
    let Some(tally) = examine_hand_over("wrong hand-over") else { return };
    assert!(tally.torn > 0, "{tally:?}");
    let Some(tally) = examine_segment("wrong creation", false, judge_creation) else { return };
    assert!(tally.torn > 0 && tally.old > 0, "{tally:?}");
}
