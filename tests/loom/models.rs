//! Goal: the memory orderings of the segment suffice, and each of them is needed.
//!
//! Method: loom runs small programs over the real cells in every order of their steps and with
//! every value that the memory model lets a load see, up to two preemptions (LOOM_MAX_PREEMPTIONS
//! sets another bound). Then every acquire, release and fence of `heart/src/segment` is taken out, one at
//! a time: a model must fail. One that no model passes fails the test as well.
//!
//! A killed process is a thread that stops: what it stored may be seen in any order that its fences
//! allow. The kernel's word that it is dead is a `join`, a frame in a FIFO is a mutex.
//!
//! What it cannot show: more threads or longer programs than these; orders that loom does not
//! know (a load that sees a store which comes later in the same thread's order); compilers' bugs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use loom::sync::Mutex;
use loom::thread;
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::segment::area::{Area, LEVEL_PIECE, View};
use osps_heart::segment::layout::{
    EVENTS, EventCells, HeartCells, OwnerCells, RingCells, ServerCells,
};
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Record, What, text};
use osps_heart::sync::weaken::{self, Site};
use osps_heart::sync::{Ordering, Word, fence};
use osps_heart::time::Monotonic;

/// The models, and what each of them shows.
const MODELS: [(&str, fn()); 14] = [
    ("who sees a beat sees its stamp", heartbeat),
    ("a reader of the data sees one commit", reader),
    ("two readers do", two_readers),
    ("a changed word is listed", listed_before_touched),
    ("a word that is not listed any more is level", level_before_unlisted),
    ("everything in pieces: nothing is forgotten", all_in_pieces),
    ("a new owner sees what the old one wrote, then gave back", handed_over),
    ("a new owner sees what the dead one wrote, retired by the watchdog", retired_by_watchdog),
    ("the same, retired by the arbiter", retired_by_arbiter),
    ("who sees a recall sees its time", recall),
    ("an event is whole", ring),
    ("an event that is counted is there", ring_before_it_is_full),
    ("an identity is of one process", identity),
    ("a text is of one writing", activity),
];

fn zeros<const N: usize>() -> [Word; N] {
    std::array::from_fn(|_| Word::new(0))
}

// --- heartbeat --------------------------------------------------------------------------------

fn heartbeat() {
    let heart = Arc::new(HeartCells {
        count: Word::new(0),
        stamp_ns: Word::new(0),
        limit_ns: Word::new(0),
        claim: Word::new(0),
        name: zeros(),
    });
    let server = {
        let heart = heart.clone();
        thread::spawn(move || [10, 20].map(|now| heart.beat(Monotonic(now))))
    };
    let mut last = 0;
    for _ in 0..2 {
        let sample = heart.sample();
        assert!(sample.stamp.0 >= sample.count * 10, "a stale stamp: {sample:?}");
        assert!(sample.count >= last, "the count went back");
        last = sample.count;
    }
    server.join().unwrap();
}

// --- data area --------------------------------------------------------------------------------

/// Words of one copy.
const WORDS: usize = 2;
const ONES: u64 = u64::from_le_bytes([1; 8]);

struct Data {
    sequence: Word,
    count: Word,
    ranges: [Word; 2],
    copies: [[Word; WORDS]; 2],
}

impl Data {
    fn new() -> Data {
        Data {
            sequence: Word::new(0),
            count: Word::new(0),
            ranges: zeros(),
            copies: [zeros(), zeros()],
        }
    }

    /// As after a commit of other values in every word, with this list.
    fn dirty(count: u64, ranges: [u64; 2]) -> Data {
        Data {
            sequence: Word::new(1),
            count: Word::new(count),
            ranges: ranges.map(Word::new),
            copies: [zeros(), std::array::from_fn(|_| Word::new(7))],
        }
    }

    fn area(&self) -> Area<'_> {
        let copies = [&self.copies[0][..], &self.copies[1][..]];
        Area::new(&self.sequence, &self.count, &self.ranges, copies)
    }

    /// Stores `value` into each of these words, as one change.
    fn change(&self, words: impl Iterator<Item = usize>, value: u64) {
        let area = self.area();
        while !area.level(LEVEL_PIECE) {}
        let mut update = area.begin();
        for word in words {
            update.write(word * 8, &value.to_le_bytes()).unwrap();
        }
        update.commit();
    }
}

fn entry(first: usize, words: usize) -> u64 {
    (first as u64 * 8) << 32 | (words as u64 * 8)
}

fn both(view: View<'_>) -> [u64; WORDS] {
    std::array::from_fn(|word| view.word(word))
}

/// One change of both words, and as much of the next as touches the copy that was good before.
fn write_and_level(data: &Data) {
    let area = data.area();
    let mut update = area.begin();
    update.write(0, &[1; WORDS * 8]).unwrap();
    update.commit();
    area.level(LEVEL_PIECE);
}

fn read(data: &Data) {
    if let Ok((seen, _)) = data.area().read_within(1, |view| (view.sequence(), both(view))) {
        let (sequence, words) = seen;
        assert_eq!(words, [sequence * ONES; WORDS], "torn");
    }
}

fn reader() {
    let data = Arc::new(Data::new());
    let reader = {
        let data = data.clone();
        thread::spawn(move || read(&data))
    };
    write_and_level(&data);
    reader.join().unwrap();
}

fn two_readers() {
    let data = Arc::new(Data::new());
    let threads = [data.clone(), data.clone()].map(|data| thread::spawn(move || read(&data)));
    write_and_level(&data);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A change begins, and somebody looks at what it left so far: the words first, the list last.
fn listed_before_touched() {
    let data = Arc::new(Data::new());
    let owner = {
        let data = data.clone();
        thread::spawn(move || {
            let area = data.area();
            let mut update = area.begin();
            update.write(8, &[1; 8]).unwrap();
            update.write(0, &[1; 8]).unwrap();
        })
    };
    let spare = data.copies[1].each_ref().map(|word| word.load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    let count = data.count.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let listed: Vec<_> = data.ranges[..usize::try_from(count).unwrap()]
        .iter()
        .map(|range| range.load(Ordering::Relaxed))
        .collect();
    for (word, value) in spare.into_iter().enumerate() {
        assert!(value == 0 || listed.contains(&entry(word, 1)), "word {word} is not listed");
    }
    // An entry that counts is there, whether or not its word was touched.
    assert!(!listed.contains(&0), "an entry counts before it is there");
    owner.join().unwrap();
}

/// An owner levels, and somebody looks: the list first, the words last.
fn check_level(data: &Data) {
    let count = data.count.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let last =
        count.checked_sub(1).and_then(|last| data.ranges.get(usize::try_from(last).unwrap()));
    let last = last.map(|range| range.load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    if count == u64::MAX {
        return;
    }
    for word in 0..WORDS {
        let [spare, good] =
            [0, 1].map(|copy: usize| data.copies[copy][word].load(Ordering::Relaxed));
        // Entries before the last are as they were: entry 0 lists word 0.
        let listed = (count == 2 && word == 0)
            || last.is_some_and(|last| {
                let (start, length) = (last >> 32, last & 0xffff_ffff);
                (start..start + length).contains(&(word as u64 * 8))
            });
        assert!(listed || spare == good, "word {word} is neither listed nor level");
    }
}

fn level_before_unlisted() {
    let data = Arc::new(Data::dirty(2, [entry(0, 1), entry(1, 1)]));
    let owner = {
        let data = data.clone();
        thread::spawn(move || assert!(data.area().level(LEVEL_PIECE)))
    };
    check_level(&data);
    owner.join().unwrap();
}

fn all_in_pieces() {
    let data = Arc::new(Data::dirty(u64::MAX, [entry(0, 1), 0]));
    let owner = {
        let data = data.clone();
        thread::spawn(move || while !data.area().level(8) {})
    };
    check_level(&data);
    owner.join().unwrap();
}

// --- ownership --------------------------------------------------------------------------------

const FIRST: (SlotId, Generation) = (SlotId(0), Generation(1));
const SECOND: (SlotId, Generation) = (SlotId(1), Generation(2));
const SUCCESSOR: Generation = Generation(3);

fn owned(by: (SlotId, Generation), epoch: u64) -> Owner {
    let generation = u16::try_from(by.1.0).unwrap();
    Owner { slot: Some(by.0), generation, epoch: Epoch(epoch) }
}

fn free(epoch: u64) -> Owner {
    Owner { epoch: Epoch(epoch), ..Owner::NONE }
}

fn owner_cells(owner: Owner) -> OwnerCells {
    OwnerCells {
        word: Word::new(owner.pack()),
        recall_epoch: Word::new(0),
        recall_since_ns: Word::new(0),
        reserved: zeros(),
    }
}

struct Shared {
    owner: OwnerCells,
    data: Data,
}

impl Shared {
    /// Owned by the first.
    fn new() -> Arc<Shared> {
        Arc::new(Shared { owner: owner_cells(owned(FIRST, 1)), data: Data::new() })
    }

    /// The second server: if it owns the data, it changes another word than the first did.
    fn second(self: Arc<Shared>) {
        if self.owner.current() != owned(SECOND, 2) {
            return;
        }
        self.data.change(1..2, 9);
        let seen = self.data.area().read_as_owner(both);
        assert_eq!(seen, [9, 9], "a change of the first is lost");
    }

    fn exchange(&self, from: Owner, to: Owner) -> bool {
        self.owner.current() == from && self.owner.exchange(from, to)
    }
}

fn handed_over() {
    let shared = Shared::new();
    let released = Arc::new(Mutex::new(false));
    let first = {
        let (shared, released) = (shared.clone(), released.clone());
        thread::spawn(move || {
            shared.data.change(0..1, 9);
            *released.lock().unwrap() = true;
        })
    };
    let second = {
        let shared = shared.clone();
        thread::spawn(move || shared.second())
    };
    if *released.lock().unwrap() {
        assert!(shared.exchange(owned(FIRST, 1), free(1)));
        assert!(shared.exchange(free(1), owned(SECOND, 2)));
    }
    first.join().unwrap();
    second.join().unwrap();
}

fn retired_by_watchdog() {
    let shared = Shared::new();
    let first = {
        let shared = shared.clone();
        thread::spawn(move || shared.data.change(0..1, 9))
    };
    let arbiter = {
        let shared = shared.clone();
        thread::spawn(move || {
            shared.exchange(free(1), owned(SECOND, 2));
        })
    };
    let second = {
        let shared = shared.clone();
        thread::spawn(move || shared.second())
    };
    first.join().unwrap();
    assert!(shared.exchange(owned(FIRST, 1), free(1)));
    arbiter.join().unwrap();
    second.join().unwrap();
}

/// The watchdog has published the successor of the dead holder; the arbiter, which is the second
/// server here, sees that and clears the word itself.
fn retired_by_arbiter() {
    let shared = Shared::new();
    let server = Arc::new(server());
    server.generation.store(u64::from(FIRST.1.0), Ordering::Relaxed);
    let first = {
        let shared = shared.clone();
        thread::spawn(move || shared.data.change(0..1, 9))
    };
    let arbiter = {
        let (shared, server) = (shared.clone(), server.clone());
        thread::spawn(move || {
            if server.current_generation() == SUCCESSOR {
                assert!(shared.exchange(owned(FIRST, 1), free(1)));
                assert!(shared.exchange(free(1), owned(SECOND, 2)));
                shared.second();
            }
        })
    };
    first.join().unwrap();
    server.set_identity(Identity { pid: 30, start_time: 300, generation: SUCCESSOR });
    arbiter.join().unwrap();
}

fn recall() {
    let cells = Arc::new(owner_cells(Owner::NONE));
    let arbiter = {
        let cells = cells.clone();
        thread::spawn(move || {
            for epoch in [1, 2] {
                cells.set_recall(Epoch(epoch), Monotonic(epoch * 10));
            }
        })
    };
    if let Some((epoch, since)) = cells.recall() {
        assert!(since.0 >= epoch.0 * 10, "a recall of {epoch} looks as old as the one before");
    }
    arbiter.join().unwrap();
}

// --- events, identities, texts ----------------------------------------------------------------

/// Three records that differ in every word, and of which every mixture is a record, too: a torn one
/// is seen, not skipped.
fn record(number: u64) -> Record {
    let span = Duration::from_nanos(number);
    let what = match number {
        1 => What::Late { silence: span },
        2 => What::Spared { silence: span },
        _ => What::LateTurn { by: span },
    };
    Record::new(Monotonic(number), None, Generation(u32::try_from(number).unwrap()), what)
}

/// The watchdog pushes this many records, and somebody reads; returns how many
/// were counted before, and the numbers found.
fn push_and_read(events: u64) -> (u64, Vec<u64>) {
    let ring = Arc::new(RingCells {
        head: Word::new(0),
        reserved: zeros(),
        entries: std::array::from_fn(|_| EventCells {
            ticket: Word::new(0),
            time_ns: Word::new(0),
            slot: Word::new(0),
            generation: Word::new(0),
            kind: Word::new(0),
            arguments: zeros(),
            unix_ns: Word::new(0),
            pid: Word::new(0),
            from: Word::new(0),
            to: Word::new(0),
            limit_ns: Word::new(0),
            up_ns: Word::new(0),
            took_ns: Word::new(0),
            name: zeros(),
            heart: zeros(),
            detail: zeros(),
            text: zeros(),
        }),
    });
    let watchdog = {
        let ring = ring.clone();
        thread::spawn(move || (1..=events).for_each(|number| ring.push(&record(number))))
    };
    let counted = ring.head.load(Ordering::Relaxed);
    let seen = ring.latest(EVENTS);
    watchdog.join().unwrap();
    for one in &seen {
        assert_eq!(one, &record(one.time.0), "torn");
    }
    (counted, seen.into_iter().map(|record| record.time.0).collect())
}

/// The ring has two entries here: the third event overwrites the first.
fn ring() {
    push_and_read(3);
}

fn ring_before_it_is_full() {
    let (counted, seen) = push_and_read(2);
    let counted: Vec<_> = (1..=counted).collect();
    assert!(seen.starts_with(&counted), "counted {counted:?}, found {seen:?}");
}

fn server() -> ServerCells {
    ServerCells {
        name: zeros(),
        role: Word::new(0),
        state: Word::new(0),
        pid: Word::new(0),
        start_time: Word::new(0),
        generation: Word::new(0),
        desired: Word::new(0),
        since_ns: Word::new(0),
        spawned_ns: Word::new(0),
        baseline: Word::new(0),
        listen: zeros(),
        starts: Word::new(0),
        restarts: zeros(),
        last_cause: Word::new(0),
        last_class: Word::new(0),
        last_silence_ns: Word::new(0),
        blocked_by: Word::new(0),
        heart_source: Word::new(0),
        watched: Word::new(0),
        last_heart: zeros(),
        paused_until_ns: Word::new(0),
        goal: Word::new(0),
        due_ns: Word::new(0),
        excused_until_ns: Word::new(0),
        tally: zeros(),
        unheld: Word::new(0),
        main_pid: Word::new(0),
        main_start: Word::new(0),
        up_since_ns: Word::new(0),
        opened: Word::new(0),
        hangs: zeros(),
        reports: Word::new(0),
        last_report: Word::new(0),
        family: zeros(),
        depends_on: zeros(),
        after_done: zeros(),
        restart_with: zeros(),
        reserved: zeros(),
    }
}

fn identity() {
    let server = Arc::new(server());
    let of = |pid: u32| Identity {
        pid,
        start_time: u64::from(pid) * 10,
        generation: Generation(pid * 100),
    };
    let watchdog = {
        let server = server.clone();
        thread::spawn(move || [2, 3].map(|pid| server.set_identity(of(pid))))
    };
    if let Some(seen) = server.identity() {
        assert_eq!(seen, of(seen.pid), "two processes in one");
    }
    watchdog.join().unwrap();
}

fn activity() {
    let cells = Arc::new((Word::new(0), zeros::<2>()));
    let server = {
        let cells = cells.clone();
        let say = move |text| text::store_guarded(&cells.0, &cells.1, text);
        thread::spawn(move || ["aaaaaaaaa", "bbbbbbbbb"].map(say))
    };
    if let Some(seen) = text::load_guarded(&cells.0, &cells.1) {
        assert!(["", "aaaaaaaaa", "bbbbbbbbb"].contains(&&*seen), "two texts in one: {seen}");
    }
    server.join().unwrap();
}

// --- the run ----------------------------------------------------------------------------------

/// Preemptions that are tried; every ordering that is needed shows with two.
const PREEMPTIONS: usize = 2;

/// What one exploration showed: the orderings that the model passed, its executions, and why it
/// failed.
struct Explored {
    passed: BTreeSet<Site>,
    executions: u64,
    fault: Option<String>,
}

/// Explores a model with one ordering taken out.
fn explore((name, model): (&'static str, fn()), without: Option<Site>) -> Explored {
    let explore = move || {
        weaken::set(without);
        let executions = Arc::new(AtomicU64::new(0));
        let counted = executions.clone();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
        let end = std::panic::catch_unwind(|| {
            builder.check(move || {
                counted.fetch_add(1, Relaxed);
                model();
            });
        });
        let fault = end.err().map(|why| match why.downcast::<String>() {
            Ok(text) => *text,
            Err(why) => why.downcast_ref::<&str>().copied().unwrap_or("it panicked").to_string(),
        });
        Explored { passed: weaken::seen(), executions: executions.load(Relaxed), fault }
    };
    let thread = std::thread::Builder::new().name(format!("{QUIET}{name}"));
    thread.spawn(explore).unwrap().join().unwrap()
}

const QUIET: &str = "model: ";

/// A model that fails is told of in one line: its panic is no news.
fn be_quiet() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !std::thread::current().name().is_some_and(|name| name.starts_with(QUIET)) {
            loud(info);
        }
    }));
}

/// Orderings that no model passes, and why.
const EXEMPT: [(&str, &str); 1] = [(
    "mapping.rs",
    "no model can map files; `version`, stored last, is the pattern of the heart's count",
)];

/// Where `heart/src/segment` names an ordering, in code: file and line.
fn in_the_source() -> BTreeSet<(String, u32)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../heart/src/segment");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("mod tests {").next().unwrap();
        for (line, number) in code.lines().zip(1..) {
            let code = line.split("//").next().unwrap();
            if ["::Acquire", "::Release", "::AcqRel", "::SeqCst"].iter().any(|o| code.contains(o)) {
                found.insert((name.clone(), number));
            }
        }
    }
    found
}

#[test]
fn orderings_suffice_and_each_is_needed() {
    be_quiet();
    let mut faults = Vec::new();
    let mut passed_by: BTreeMap<Site, Vec<usize>> = BTreeMap::new();
    for (number, model) in MODELS.into_iter().enumerate() {
        let explored = explore(model, None);
        println!("{:>6} executions: {}", explored.executions, model.0);
        faults.extend(explored.fault.map(|fault| format!("{}: {fault}", model.0)));
        for site in explored.passed {
            passed_by.entry(site).or_default().push(number);
        }
    }
    for (site, models) in &passed_by {
        let failed = models.iter().find(|model| {
            let explored = explore(MODELS[**model], Some(*site));
            explored.fault.is_some()
        });
        match failed {
            Some(model) => println!("needed: {site}, else not \"{}\"", MODELS[*model].0),
            None => faults.push(format!("{site}: no model fails without it")),
        }
    }
    let modelled: BTreeSet<_> = passed_by.keys().map(|site| (site.name(), site.line)).collect();
    for (name, line) in in_the_source() {
        let exempt = EXEMPT.iter().any(|(file, _)| *file == name);
        if !exempt && !modelled.contains(&(&*name, line)) {
            faults.push(format!("{name}:{line}: no model passes this ordering"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
