//! What the shared data and the servers promise, measured: `cargo bench --bench sharing`, or
//! `cargo bench --bench sharing -- SUBSTRING` for some.
//!
//! One line per figure as in the bench `figures`; a figure that falls short is shown as `SHORT` and
//! fails nothing. What is compared is measured alternately in the same run. A bound of `-` promises
//! nothing: such a line says what a neighbour is to be compared with.
//!
//! For the hand-over this program runs itself a second time, as the holder in another process.
#![allow(clippy::print_stdout, reason = "the table is the purpose of this program")]
#![allow(clippy::disallowed_methods, reason = "measures in real time")]
#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts far below 2^52 become figures for people"
)]

mod table;

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use osps::pair::wire::{self, FRAME_SIZE, Frame, FrameKind, PAYLOAD_SIZE};
use osps::sys::fifo::{Fifo, Received};
use osps::sys::poll::{Interest, Poll};
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::ownership::{Arbiter, ArbiterAction, Holder, HolderAction};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::{Monotonic, nanos};
use osps_heart::{DataReader, HeartError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use table::common::{Guest, Launch, Osps, SOON, has, now, wait_until};
use table::{Bound, Figure, Table, batch, digits, founded, middle, ms};

fn main() -> ExitCode {
    if let Some(dir) = std::env::var_os(HOLDER_IN) {
        return hold(Path::new(&dir));
    }
    Table::fill(|table| {
        hand_overs(table);
        served_hand_overs(table);
        data(table);
        redis(table);
        writers(table);
        crowd(table);
    });
    ExitCode::SUCCESS
}

fn us(span: Duration) -> f64 {
    nanos(span) as f64 / 1e3
}

/// The value below which this part of sorted values lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let below =
        sorted.iter().enumerate().take_while(|(i, _)| *i as f64 <= part * sorted.len() as f64);
    below.last().map_or(f64::NAN, |(_, value)| *value)
}

/// The processors that this program may use.
fn processors() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("its own affinity");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Moves the calling thread, and what it starts, to these processors.
fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).expect("processors that it has");
}

// --- Hand-over between two processes -----------------------------------------------------------

/// Names the directory of the segment and the FIFOs to the second process.
const HOLDER_IN: &str = "OSPS_BENCH_HOLDER_IN";
const DOWN: &str = "down";
const UP: &str = "up";
/// The arbiter's server and the other one.
const FIRST: (SlotId, Generation) = (SlotId(0), Generation(1));
const SECOND: (SlotId, Generation) = (SlotId(1), Generation(2));
/// Measurements of one batch, batches of each kind for each placement.
const EXCHANGES: usize = 200;
const ROUNDS: usize = 40;

/// Both processes go through the same plan: for each placement, batches of bare round trips and of
/// hand-overs in turn.
fn plan(cpus: &[usize]) -> Vec<(&'static str, usize, usize)> {
    let (one, other) = (cpus[0], *cpus.last().unwrap_or(&cpus[0]));
    let mut plan = vec![("one core", one, one)];
    if one != other {
        plan.push(("two cores", one, other));
    }
    plan
}

fn hand_overs(table: &mut Table) {
    let what = |placement: &str| format!("hand-over: {placement}, in round trips of a frame");
    let cpus = processors();
    let plan = plan(&cpus);
    if !plan.iter().any(|(placement, ..)| table.wants(&what(placement))) {
        return;
    }
    let dir = founded();
    let at = File::open(dir.path()).expect("a directory");
    for name in [DOWN, UP] {
        Fifo::create(at.as_fd(), name).expect("a fifo");
    }
    let mut ends = Ends::open(dir.path(), DOWN, UP, FIRST, SECOND);
    let child = Command::new(std::env::current_exe().expect("its own path"))
        .env(HOLDER_IN, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("itself");
    let mut arbiter = Seat::new(FIRST);
    let served = (|| {
        for (_, cpu, _) in &plan {
            pin(&[*cpu]);
            for _ in 0..ROUNDS {
                for _ in 0..EXCHANGES {
                    ends.bare_wait()?;
                    ends.bare_send(&ends.bare_receive()?);
                }
                for _ in 0..EXCHANGES {
                    arbiter.serve(&mut ends)?;
                }
            }
        }
        Some(())
    })();
    pin(&cpus);
    let output = child.wait_with_output().expect("its own child");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    for (placement, ..) in plan {
        let medians = |kind: &str| {
            let head = format!("{placement}: {kind} ");
            let values = lines.lines().filter_map(|line| line.strip_prefix(&head)?.parse().ok());
            values.collect::<Vec<f64>>()
        };
        let (bare, granted) = (medians("bare"), medians("granted"));
        let both = format!(
            "  ({} us, the round trip {} us)",
            digits(middle(granted.iter().copied())),
            digits(middle(bare.iter().copied())),
        );
        table.show(Figure {
            what: what(placement),
            unit: "x",
            bound: Bound::AtMost(1.5),
            values: granted.iter().zip(&bare).map(|(granted, bare)| granted / bare).collect(),
            missed: usize::from(served.is_none()),
            remark: both,
        });
    }
}

/// The second process: a server that wants the data now and then. It prints the median of each
/// batch, in microseconds.
fn hold(dir: &Path) -> ExitCode {
    let plan = plan(&processors());
    let mut ends = Ends::open(dir, UP, DOWN, SECOND, FIRST);
    let mut seat = Seat::new(SECOND);
    let mut lines = Vec::new();
    let done = (|| {
        for (placement, _, cpu) in plan {
            pin(&[cpu]);
            for _ in 0..ROUNDS {
                let mut bare = Vec::new();
                for _ in 0..EXCHANGES {
                    let start = now();
                    ends.bare_send(&[0; FRAME_SIZE]);
                    ends.bare_wait()?;
                    black_box(ends.bare_receive()?);
                    bare.push(us(now().since(start)));
                }
                let mut granted = Vec::new();
                for _ in 0..EXCHANGES {
                    granted.push(seat.take(&mut ends)?);
                    seat.give_back(&mut ends)?;
                }
                for (kind, values) in [("bare", bare), ("granted", granted)] {
                    lines.push(format!("{placement}: {kind} {}", middle(values)));
                }
            }
        }
        Some(())
    })();
    println!("{}", lines.join("\n"));
    if done.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One process's ends of the two FIFOs, and the segment beside them.
struct Ends {
    segment: Segment,
    out: Fifo,
    input: Fifo,
    raw: [File; 2],
    poll: Poll,
    me: (SlotId, Generation),
    peer: (SlotId, Generation),
    sequence: u64,
}

impl Ends {
    fn open(
        dir: &Path,
        out: &str,
        input: &str,
        me: (SlotId, Generation),
        peer: (SlotId, Generation),
    ) -> Ends {
        let at = File::open(dir).expect("a directory");
        let open = |name: &str| Fifo::open(at.as_fd(), name).expect("a fifo");
        let raw =
            |fifo: &Fifo| File::from(fifo.as_fd().try_clone_to_owned().expect("a descriptor"));
        let (out, input) = (open(out), open(input));
        let poll = Poll::new().expect("an epoll");
        poll.add(&input, 0, Interest::READ).expect("a fifo can be watched");
        Ends {
            segment: Segment::open(dir, Access::ReadWrite).expect("the segment"),
            raw: [raw(&out), raw(&input)],
            out,
            input,
            poll,
            me,
            peer,
            sequence: 0,
        }
    }

    fn owner(&self) -> Owner {
        self.segment.owner().current()
    }

    /// Sends as a server does.
    fn send(&mut self, kind: FrameKind, epoch: Epoch) {
        self.sequence += 1;
        let frame = Frame {
            kind,
            from: self.me.0,
            to: self.peer.0,
            from_generation: self.me.1,
            to_generation: self.peer.1,
            epoch,
            sequence: self.sequence,
            job: 0,
            payload: [0; PAYLOAD_SIZE],
        };
        self.out.send(&wire::encode(&frame)).expect("a fifo with room");
    }

    /// One turn as a server does it: waits, then takes every frame that is there. `None` = the
    /// other process is gone.
    fn turn(&mut self, mut handle: impl FnMut(&mut Ends, &Frame)) -> Option<()> {
        let now = now();
        if self.poll.wait(now, Some(now + SOON)).ok()?.is_empty() {
            return None;
        }
        while let Received::Frame(bytes) = self.input.receive::<FRAME_SIZE>().ok()? {
            let frame = wire::decode(&bytes).ok()?;
            let expected = frame.from_generation == self.peer.1 && frame.to_generation == self.me.1;
            if !expected {
                return None;
            }
            handle(self, &frame);
        }
        Some(())
    }

    fn bare_send(&self, bytes: &[u8; FRAME_SIZE]) {
        rustix::io::write(&self.raw[0], bytes).expect("a fifo with room");
    }

    fn bare_wait(&self) -> Option<()> {
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.raw[1], PollFlags::IN)];
        (rustix::event::poll(&mut fds, Some(&limit)).ok()? > 0).then_some(())
    }

    fn bare_receive(&self) -> Option<[u8; FRAME_SIZE]> {
        let mut bytes = [0; FRAME_SIZE];
        (rustix::io::read(&self.raw[1], &mut bytes).ok()? == FRAME_SIZE).then_some(bytes)
    }
}

/// A server's part in the ownership; the arbiter is used by the first one only.
struct Seat {
    holder: Holder,
    arbiter: Arbiter,
}

impl Seat {
    fn new((slot, generation): (SlotId, Generation)) -> Seat {
        Seat { holder: Holder::new(slot, generation), arbiter: Arbiter::new() }
    }

    /// Arbiter's side of one hand-over and of taking it back.
    fn serve(&mut self, ends: &mut Ends) -> Option<()> {
        let mut measured = false;
        while !(measured && self.holder.owns(ends.owner()).is_some()) {
            ends.turn(|ends, frame| {
                let (slot, generation) = (frame.from, frame.from_generation);
                match frame.kind {
                    FrameKind::Request => self.arbiter.request(slot, generation),
                    FrameKind::Release => self.released(ends, slot, generation, frame.epoch),
                    // The other one has measured: now we want it back.
                    _ => {
                        measured = true;
                        self.arbiter.request(FIRST.0, FIRST.1);
                    }
                }
                self.arbitrate(ends);
            })?;
        }
        ends.send(FrameKind::Ping, Epoch(0));
        Some(())
    }

    fn arbitrate(&mut self, ends: &mut Ends) {
        let live = |slot: SlotId| [FIRST, SECOND].iter().find(|seat| seat.0 == slot).map(|s| s.1);
        while let Some(step) = self.arbiter.look(ends.owner(), live, true) {
            match step {
                ArbiterAction::Clear { from, to } => {
                    ends.segment.owner().exchange(from, to);
                }
                ArbiterAction::Grant { from, to } => {
                    let granted = ends.segment.owner().exchange(from, to);
                    if granted && to.slot == Some(SECOND.0) {
                        ends.send(FrameKind::Grant, to.epoch);
                    }
                }
                ArbiterAction::Recall { slot, epoch } => {
                    ends.segment.owner().set_recall(epoch, now());
                    if slot == FIRST.0 {
                        for action in
                            self.holder.look(ends.owner(), Some(epoch), false, false, false)
                        {
                            if let HolderAction::Release(epoch) = action {
                                self.released(ends, FIRST.0, FIRST.1, epoch);
                            }
                        }
                    } else {
                        ends.send(FrameKind::Recall, epoch);
                    }
                }
            }
        }
    }

    fn released(&self, ends: &Ends, slot: SlotId, generation: Generation, epoch: Epoch) {
        let step = self.arbiter.released(slot, generation, epoch, ends.owner());
        if let Some(ArbiterAction::Clear { from, to }) = step {
            ends.segment.owner().exchange(from, to);
        }
    }

    /// Asks for the data, waits until it is ours, and says how many microseconds that took.
    fn take(&mut self, ends: &mut Ends) -> Option<f64> {
        let start = now();
        let actions = self.holder.look(ends.owner(), None, true, false, false);
        if actions != [HolderAction::Request] {
            return None;
        }
        ends.send(FrameKind::Request, Epoch(0));
        loop {
            ends.turn(|_, _| {})?;
            if self.holder.owns(ends.owner()).is_some() {
                return Some(us(now().since(start)));
            }
        }
    }

    /// Has the arbiter take it back, and waits until it did.
    fn give_back(&mut self, ends: &mut Ends) -> Option<()> {
        // Notes that the wish is fulfilled.
        self.holder.look(ends.owner(), None, false, false, false);
        ends.send(FrameKind::Done, Epoch(0));
        let mut back = false;
        while !back {
            ends.turn(|ends, frame| {
                back |= frame.kind == FrameKind::Ping;
                let recall = ends.segment.owner().recall().map(|(epoch, _)| epoch);
                for action in self.holder.look(ends.owner(), recall, false, false, false) {
                    if let HolderAction::Release(epoch) = action {
                        ends.send(FrameKind::Release, epoch);
                    }
                }
            })?;
        }
        Some(())
    }
}

// --- Clients -----------------------------------------------------------------------------------

/// A client that sends one request and waits for its reply.
struct Client {
    stream: TcpStream,
    number: usize,
}

impl Client {
    /// On the primary's own port.
    fn of_primary(address: SocketAddr, number: usize) -> Client {
        let stream = TcpStream::connect(address).expect("a listening server");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        Client { stream, number }
    }

    /// On the secondary to which the primary sends it, with the right to write.
    fn of_secondary(primary: SocketAddr, number: usize) -> Client {
        let port = wait_until("a port for a writer", SOON, || {
            let mut asking = Client::of_primary(primary, 0);
            asking.stream.write_all(b"requetetype2").ok()?;
            let mut answer = [0; 64];
            let length = asking.stream.read(&mut answer).ok()?;
            std::str::from_utf8(&answer[..length]).ok()?.parse().ok()
        });
        Client::of_primary(SocketAddr::new(primary.ip(), port), number)
    }

    /// One request and a reply of known bytes. `false` = something else came, or nothing.
    fn exchange(&mut self, request: &str, reply: &[u8]) -> bool {
        let mut answer = [0; 64];
        let answer = &mut answer[..reply.len()];
        self.stream.write_all(request.as_bytes()).is_ok()
            && self.stream.read_exact(answer).is_ok()
            && answer == reply
    }

    /// Sixteen bytes under a key of its own.
    fn set(&mut self) -> bool {
        let key = self.number;
        let request = format!("*3\r\n$3\r\nSET\r\n$4\r\nk{key:03}\r\n$16\r\n{VALUE}\r\n");
        self.exchange(&request, b"+OK\r\n")
    }

    /// Reads what it set.
    fn get(&mut self) -> bool {
        let key = self.number;
        let request = format!("*2\r\n$3\r\nGET\r\n$4\r\nk{key:03}\r\n");
        self.exchange(&request, format!("$16\r\n{VALUE}\r\n").as_bytes())
    }

    /// The microseconds of something; `None` = it failed.
    fn timed(&mut self, what: impl FnOnce(&mut Client) -> bool) -> Option<f64> {
        let start = now();
        what(self).then(|| us(now().since(start)))
    }
}

const VALUE: &str = "0123456789abcdef";

/// Hand-overs as a client sees them: a `SET` that has to fetch the ownership first. The holder has
/// been idle for a while, shorter and longer than the primary leaves it in peace after a grant.
fn served_hand_overs(table: &mut Table) {
    let whiles =
        [1, 5].map(|idle| (idle, format!("hand-over: SET, the holder idle for {idle} ms")));
    if !whiles.iter().any(|(_, what)| table.wants(what)) {
        return;
    }
    let osps = Launch::pair(&[]).start();
    let mut first = Client::of_primary(osps.address(0), 1);
    let mut second = Client::of_secondary(osps.address(0), 2);
    for (idle, what) in whiles {
        let (mut fetched, mut owned, mut missed) = (Vec::new(), Vec::new(), 0);
        for _ in 0..200 {
            let ready = first.set();
            std::thread::sleep(Duration::from_millis(idle));
            match (ready, second.timed(Client::set), second.timed(Client::set)) {
                (true, Some(with), Some(without)) => {
                    fetched.push(with);
                    owned.push(without);
                }
                _ => missed += 1,
            }
            std::thread::sleep(Duration::from_millis(idle));
        }
        table.show(Figure {
            what,
            unit: "us",
            bound: Bound::None,
            values: fetched,
            missed,
            remark: format!("  (the next, without hand-over: {} us)", digits(middle(owned))),
        });
    }
}

// --- The data area -----------------------------------------------------------------------------

const BATCH: u32 = 1000;
const BATCHES: usize = 1000;
const BLOCK: usize = 64;

fn data(table: &mut Table) {
    let names = [
        "data: update of 64 bytes",
        "data: read of 64 bytes, idle",
        "data: read of 64 bytes, commits",
        "data: tries in vain per read, commits",
    ];
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let dir = founded();
    let heart = osps_heart::example::heart(dir.path()).expect("its heart");
    let mut owned = heart.own_data().expect("nobody else");
    let area = DataReader::open(dir.path()).expect("the data");
    let blocks = area.size() / BLOCK;
    let mut number = 0usize;
    let mut update = || {
        number = number.wrapping_add(1);
        let bytes = [number.to_le_bytes()[0]; BLOCK];
        let changed =
            owned.update(|update| update.write(number % blocks * BLOCK, black_box(&bytes)));
        black_box(changed.expect("it is the owner"));
    };
    let updates: Vec<_> = (0..BATCHES).map(|_| batch(BATCH, &mut update) / 1e3).collect();
    let mut bytes = [0; BLOCK];
    let mut at = 0;
    let mut busy = 0usize;
    let mut read = || {
        at = (at + BLOCK) % (blocks * BLOCK);
        match area.read(at, &mut bytes) {
            Ok(sequence) => drop(black_box(sequence)),
            Err(HeartError::Busy) => busy += 1,
            Err(error) => panic!("{error}"),
        }
        black_box(&bytes);
    };
    let idle: Vec<_> = (0..BATCHES).map(|_| batch(BATCH, &mut read)).collect();
    // The same again, while somebody commits without pause: on another processor, if there is one.
    let cpus = processors();
    let segment = Segment::open(dir.path(), Access::ReadOnly).expect("the segment");
    let stop = Word::new(0);
    let (mut under, mut vain, mut given_up) = (Vec::new(), Vec::new(), 0usize);
    let mut rate = 0.0;
    std::thread::scope(|scope| {
        let (stop, cpus) = (&stop, &cpus);
        scope.spawn(move || {
            pin(&cpus[cpus.len() - 1..]);
            while stop.load(Ordering::Relaxed) == 0 {
                update();
            }
        });
        pin(&cpus[..1]);
        // Until the writer is under way.
        let before = area.sequence();
        wait_until("commits", SOON, || (area.sequence() > before).then_some(()));
        let (start, before) = (now(), area.sequence());
        under.extend((0..BATCHES).map(|_| batch(BATCH, &mut read)));
        rate = (area.sequence() - before) as f64 / us(now().since(start));
        for _ in 0..BATCHES {
            let mut retries = 0;
            for _ in 0..BATCH {
                let mut bytes = [0; BLOCK];
                match segment.area().read(|view| view.read(0, &mut bytes)) {
                    Ok(((), disturbed)) => retries += disturbed,
                    Err(_) => given_up += 1,
                }
                black_box(bytes);
            }
            vain.push(retries as f64 / f64::from(BATCH));
        }
        stop.store(1, Ordering::Relaxed);
        pin(cpus);
    });
    let reads = BATCHES * usize::try_from(BATCH).expect("small");
    for (name, unit, bound, values, remark) in [
        (names[0], "us", Bound::AtMost(1.5), updates, String::new()),
        (names[1], "ns", Bound::AtMost(200.0), idle, String::new()),
        (
            names[2],
            "ns",
            Bound::AtMost(200.0),
            under,
            format!("  ({} commits per us; {busy} of {reads} busy)", digits(rate)),
        ),
        (names[3], "", Bound::None, vain, format!("  ({given_up} of {reads} busy)")),
    ] {
        let what = name.to_owned();
        table.show(Figure { what, unit, bound, values, missed: 0, remark });
    }
}

// --- Beside redis ------------------------------------------------------------------------------

/// Requests in flight on each connection, and how many requests one measurement takes.
const PIPELINES: [(&str, &str); 2] = [("1", "40000"), ("16", "300000")];

fn redis(table: &mut Table) {
    let ratio = |depth: &str| format!("redis-benchmark -c 50 -P {depth}: SET, in GET");
    let beside =
        |depth: &str, kind: &str| format!("redis-benchmark -c 50 -P {depth}: {kind}, in redis's");
    let names =
        PIPELINES.map(|(depth, _)| [ratio(depth), beside(depth, "GET"), beside(depth, "SET")]);
    if !names.iter().flatten().any(|name| table.wants(name)) {
        return;
    }
    if !has("redis-benchmark") {
        table.skip("redis-benchmark", "redis-benchmark is not installed");
        return;
    }
    let osps = Launch::pair(&[]).start();
    let ours = osps.address(0).port();
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let theirs = has("redis-server").then(|| redis_server(dir.path()));
    for ((depth, requests), [ratio, get, set]) in PIPELINES.into_iter().zip(names) {
        let (mut own, mut other, mut missed) = (Vec::new(), Vec::new(), 0);
        for _ in 0..3 {
            let mut measure =
                |port, rates: &mut Vec<_>| match redis_benchmark(port, depth, requests) {
                    Some(rate) => rates.push(rate),
                    None => missed += 1,
                };
            measure(ours, &mut own);
            if let Some((_, port)) = &theirs {
                measure(*port, &mut other);
            }
        }
        let thousands = |values: &[[f64; 2]], kind: usize| {
            digits(middle(values.iter().map(|rates| rates[kind])) / 1e3)
        };
        table.show(Figure {
            what: ratio,
            unit: "x",
            bound: Bound::AtLeast(0.7),
            values: own.iter().map(|[set, get]| set / get).collect(),
            missed,
            remark: format!("  (SET {}k/s, GET {}k/s)", thousands(&own, 0), thousands(&own, 1)),
        });
        for (kind, what) in [(1, get), (0, set)] {
            if theirs.is_none() {
                table.skip(&what, "redis-server is not installed");
                continue;
            }
            let (mine, its) = (thousands(&own, kind), thousands(&other, kind));
            table.show(Figure {
                what,
                unit: "x",
                bound: Bound::None,
                values: own
                    .iter()
                    .zip(&other)
                    .map(|(own, other)| own[kind] / other[kind])
                    .collect(),
                missed: 0,
                remark: format!("  ({mine}k/s, redis {its}k/s)"),
            });
        }
    }
}

fn redis_server(dir: &Path) -> (Guest, u16) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = free.expect("a free port").port();
    let server = Command::new("redis-server")
        .args(["--save", "", "--bind", "127.0.0.1", "--port"])
        .arg(port.to_string())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let guest = Guest(server.expect("redis-server starts"));
    wait_until("redis-server", SOON, || TcpStream::connect(("127.0.0.1", port)).ok());
    (guest, port)
}

/// Requests a second: SET, then GET.
fn redis_benchmark(port: u16, depth: &str, requests: &str) -> Option<[f64; 2]> {
    let output = Command::new("redis-benchmark")
        .args(["-c", "50", "-t", "set,get", "--csv", "-P", depth, "-n", requests, "-p"])
        .arg(port.to_string())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("\"{kind}\"")))?;
        line.split(',').nth(1)?.trim_matches('"').parse().ok()
    };
    Some([rate("SET")?, rate("GET")?])
}

// --- Many writers ------------------------------------------------------------------------------

const CLIENTS: usize = 16;
const WRITING: Duration = Duration::from_secs(3);

/// What clients saw who asked without pause.
struct Crowd {
    rate: f64,
    /// Milliseconds of every request, sorted.
    waits: Vec<f64>,
    /// Of each client, the longest.
    longest: Vec<f64>,
    missed: usize,
}

fn writers(table: &mut Table) {
    let rate = "16 writers: rate with 4 secondaries, in one's";
    let wait = |workers: &str| format!("16 writers: longest wait, secondaries: {workers}");
    let read = "16 readers: longest wait, secondaries: 4";
    let names = [rate.to_owned(), wait("4"), wait("1"), read.to_owned()];
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let (mut four, mut one) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        four.push(besiege("4", WRITING, Client::set));
        one.push(besiege("1", WRITING, Client::set));
    }
    let readers = vec![besiege("4", WRITING, Client::get)];
    let rates = |runs: &[Crowd]| digits(middle(runs.iter().map(|run| run.rate)) / 1e3);
    table.show(Figure {
        what: rate.to_owned(),
        unit: "x",
        bound: Bound::AtLeast(0.5),
        values: four.iter().zip(&one).map(|(four, one)| four.rate / one.rate).collect(),
        missed: four.iter().chain(&one).map(|run| run.missed).sum(),
        remark: format!("  ({}k/s, one {}k/s)", rates(&four), rates(&one)),
    });
    for (what, bound, runs) in [
        (wait("4"), Bound::NeverAbove(50.0), four),
        (wait("1"), Bound::None, one),
        // What the scheduling of so many threads and servers adds, without any ownership.
        (read.to_owned(), Bound::None, readers),
    ] {
        let part = |part| digits(middle(runs.iter().map(|run| quantile(&run.waits, part))));
        table.show(Figure {
            what,
            unit: "ms",
            bound,
            values: runs.iter().flat_map(|run| run.longest.iter().copied()).collect(),
            missed: 0,
            remark: format!(
                "  (of all requests: p50 {}, p99 {}, p99.9 {} ms)",
                part(0.5),
                part(0.99),
                part(0.999)
            ),
        });
    }
}

/// Clients that ask the secondaries of one instance without pause, each waiting for its reply.
fn besiege(workers: &str, span: Duration, ask: fn(&mut Client) -> bool) -> Crowd {
    let osps = Launch::pair(&["--workers", workers]).start();
    let address = osps.address(0);
    let mut clients: Vec<_> = (0..CLIENTS).map(|n| Client::of_secondary(address, n)).collect();
    let ready = clients.iter_mut().all(Client::set);
    let barrier = Barrier::new(CLIENTS);
    let results: Vec<(Vec<f64>, bool)> = std::thread::scope(|scope| {
        let barrier = &barrier;
        let run = |mut client: Client| {
            scope.spawn(move || {
                barrier.wait();
                let end = now() + span;
                let mut waits = Vec::with_capacity(1 << 17);
                while now() < end {
                    match client.timed(ask) {
                        Some(wait) => waits.push(wait / 1e3),
                        None => return (waits, false),
                    }
                }
                (waits, true)
            })
        };
        let threads: Vec<_> = clients.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let longest = results.iter().map(|(waits, _)| waits.iter().copied().fold(0.0, f64::max));
    let longest = longest.collect();
    let missed = results.iter().filter(|(_, sound)| !sound).count() + usize::from(!ready);
    let mut waits: Vec<_> = results.into_iter().flat_map(|(waits, _)| waits).collect();
    waits.sort_by(f64::total_cmp);
    Crowd { rate: waits.len() as f64 / span.as_secs_f64(), waits, longest, missed }
}

// --- Many clients ------------------------------------------------------------------------------

const MANY: usize = 10_000;
/// Descriptors beside those connections.
const ROOM: u64 = 200;

fn crowd(table: &mut Table) {
    let names = ["10000 clients: age of the primary's beat", "10000 clients: GET of one more"];
    if !names.iter().any(|name| table.wants(name)) {
        return;
    }
    let wanted = MANY as u64 + ROOM;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
        let raised = Rlimit { current: Some(wanted), maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            table.skip(names[0], &format!("{wanted} descriptors are not allowed: {error}"));
            return;
        }
    }
    let osps = Launch::pair(&[]).start();
    let address = osps.address(0);
    let mut one = Client::of_primary(address, 1);
    let ready = one.set();
    let mut gets = || -> Vec<f64> { (0..5000).filter_map(|_| one.timed(Client::get)).collect() };
    let before = middle(gets());
    let start = now();
    let over = Word::new(0);
    let (ages, served) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| beat_ages(&osps, &over));
        let mut clients: Vec<_> = (0..MANY).map(|n| Client::of_primary(address, n)).collect();
        // All of them at once, so that one turn has as much to do as can be.
        let sent = clients.iter_mut().all(|client| client.stream.write_all(b"PING\r\n").is_ok());
        let served = clients.iter_mut().filter_map(|client| {
            let mut line = String::new();
            BufReader::new(&client.stream).read_line(&mut line).ok()?;
            (line == "+PONG\r\n").then_some(())
        });
        let served = if sent { served.count() } else { 0 };
        let seconds = now().since(start).as_secs_f64();
        let beside = gets();
        over.store(1, Ordering::Relaxed);
        (sampler.join().expect("it does not panic"), (served, seconds, beside))
    });
    let (served, seconds, beside) = served;
    let restarts: u64 = osps.restarts(0).iter().sum();
    let header = osps.segment();
    let timeout = header.header().hang_timeout_ns.load(Ordering::Relaxed);
    table.show(Figure {
        what: names[0].to_owned(),
        unit: "ms",
        bound: Bound::NeverAbove(ms(Duration::from_nanos(timeout / 2))),
        values: ages,
        missed: MANY - served + usize::from(restarts > 0 || !ready),
        remark: format!(
            "  ({served} connected and served in {} s; {restarts} restarts)",
            digits(seconds)
        ),
    });
    table.show(Figure {
        what: names[1].to_owned(),
        unit: "us",
        bound: Bound::None,
        values: beside,
        missed: 0,
        remark: format!("  (before they came: {} us)", digits(before)),
    });
}

/// Looks at the primary's heart every millisecond.
fn beat_ages(osps: &Osps, over: &Word) -> Vec<f64> {
    let segment = osps.segment();
    let mut ages = Vec::new();
    while over.load(Ordering::Relaxed) == 0 {
        let stamp: Monotonic = segment.hearts()[0].sample().stamp;
        ages.push(ms(now().since(stamp)));
        std::thread::sleep(Duration::from_millis(1));
    }
    ages
}
