//! What both built-in servers do: one loop, one thread.
//!
//! *wait -> read the clock once -> frames -> clients -> look at the watchdog and at the desired
//! word -> beat (fresh stamp)*. The beat comes last, so it proves that the whole turn was done.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::thread::nanosleep;

use super::clients::{After, Clients};
use super::exec::set_process_name;
use super::orphan::{Orphan, Standing};
use super::primary::Primary;
use super::rundir::{self, RunDir};
use super::secondary::Secondary;
use super::{Error, role_code};
use crate::ids::{Generation, SlotId};
use crate::segment::layout::{HeartCells, SlotCells, flag};
use crate::segment::{Access, Segment, text};
use crate::store::commands::{self, Command, Debug};
use crate::store::resp::Reply;
use crate::sync::Ordering;
use crate::sys::Failed;
use crate::sys::clock::SystemClock;
use crate::sys::fifo::{Fifo, Received};
use crate::sys::poll::{Interest, Poll, Ready};
use crate::time::{Clock, Monotonic};
use crate::wire::{self, FRAME_SIZE, Frame, Kind};

/// First token of a link; link `i` has token `LINK + i`.
const LINK: u64 = 1;
/// Frames handled per link and turn: a flood must not delay the beat.
const FRAMES: usize = 256;

/// What a server knows of itself.
#[derive(Debug)]
pub struct Myself {
    /// Its slot.
    pub slot: SlotId,
    /// Its generation.
    pub generation: Generation,
    /// Its name.
    pub name: String,
    /// The segment.
    pub segment: Segment,
    /// Its clock.
    pub clock: SystemClock,
}

impl Myself {
    /// Its page.
    pub fn page(&self) -> &SlotCells {
        &self.segment.slots()[self.slot.index()]
    }

    fn heart(&self) -> &HeartCells {
        &self.segment.hearts()[self.slot.index()]
    }

    /// The generation that runs in another slot, as the watchdog published it.
    pub fn generation_in(&self, slot: SlotId) -> Generation {
        let page = self.segment.slots().get(slot.index());
        page.map_or(Generation(0), |page| page.record.current_generation())
    }
}

/// One end of a FIFO pair.
#[derive(Debug)]
pub struct Link {
    /// The slot at the other end.
    pub peer: SlotId,
    /// The peer's generation that answered last; `None` = link down.
    pub up: Option<Generation>,
    out: Fifo,
    input: Fifo,
    sequence: u64,
}

impl Link {
    /// Opens the pair between the primary and a secondary, from this server's end.
    pub fn open(run_dir: &RunDir, me: &Myself, peer: SlotId) -> Result<Link, Failed> {
        let secondary = me.slot.0.max(peer.0);
        let (down, up) = (rundir::tube_down(secondary), rundir::tube_up(secondary));
        let (out, input) = if me.slot < peer { (down, up) } else { (up, down) };
        Ok(Link {
            peer,
            up: None,
            out: Fifo::open(std::os::fd::AsFd::as_fd(run_dir), &out)?,
            input: Fifo::open(std::os::fd::AsFd::as_fd(run_dir), &input)?,
            sequence: 0,
        })
    }

    /// Sends a frame to the peer's present generation. A full pipe means that the peer does not
    /// read: what matters is sent again.
    pub fn send(&mut self, me: &Myself, kind: Kind) {
        self.sequence += 1;
        let frame = Frame {
            kind,
            from: me.slot,
            to: self.peer,
            from_generation: me.generation,
            to_generation: me.generation_in(self.peer),
            epoch: crate::ids::Epoch(0),
            sequence: self.sequence,
            job: 0,
            payload: [0; wire::PAYLOAD_SIZE],
        };
        match self.out.send(&wire::encode(&frame)) {
            Ok(true) => log::trace!("sent {kind:?} to slot {}", self.peer),
            Ok(false) => log::debug!("fifo to slot {} is full, {kind:?} not sent", self.peer),
            Err(failed) => log::debug!("{failed}"),
        }
    }

    /// The next frame that is meant for this server, from the peer that runs now. Everything else
    /// is dropped and counted: no successor acts on its predecessor's mail.
    fn receive(&mut self, me: &Myself) -> Option<Frame> {
        for _ in 0..FRAMES {
            let dropped = match self.input.receive::<FRAME_SIZE>() {
                Ok(Received::Empty) => return None,
                Ok(Received::Frame(bytes)) => match wire::decode(&bytes) {
                    Ok(frame) if self.is_for(me, &frame) => return Some(frame),
                    Ok(frame) => format!("misaddressed {:?}", frame.kind),
                    Err(malformed) => malformed.to_string(),
                },
                Ok(Received::OutOfStep) => "bytes out of step".to_owned(),
                Err(failed) => {
                    log::debug!("{failed}");
                    return None;
                }
            };
            me.page().report.frames_dropped.fetch_add(1, Ordering::Relaxed);
            log::debug!("dropped from the fifo of slot {}: {dropped}", self.peer);
        }
        None
    }

    fn is_for(&self, me: &Myself, frame: &Frame) -> bool {
        let from_peer =
            frame.from == self.peer && frame.from_generation == me.generation_in(self.peer);
        let from_watchdog = frame.from == wire::WATCHDOG && frame.kind == Kind::Lost;
        frame.to == me.slot && frame.to_generation == me.generation && (from_peer || from_watchdog)
    }

    /// Notes that the peer's present generation answered.
    pub fn confirm(&mut self, me: &Myself, generation: Generation) {
        if self.up != Some(generation) {
            self.up = Some(generation);
            log::debug!("link to slot {} gen={generation} is up", self.peer);
        }
        me.page().report.link.store(u64::from(generation.0), Ordering::Relaxed);
    }
}

/// What only one of the two servers does.
pub trait Part {
    /// The slots it has a link with.
    fn peers(&self) -> Vec<SlotId>;
    /// A frame arrived.
    fn frame(&mut self, me: &Myself, link: &mut Link, frame: &Frame);
    /// Once per turn, before the beat.
    fn turn(&mut self, me: &Myself, links: &mut [Link], now: Monotonic);
    /// When it wants its next turn at the latest.
    fn deadline(&self) -> Option<Monotonic>;
}

/// Runs a built-in server until it is told to stop, superseded or orphaned.
pub fn main(
    run_dir: &Path,
    slot: SlotId,
    generation: Generation,
    sockets: Vec<OwnedFd>,
    members: OwnedFd,
) -> Result<ExitCode, Error> {
    let segment = Segment::open(run_dir, Access::ReadWrite)
        .map_err(|source| Error::Segment { path: run_dir.to_owned(), source })?;
    let run_dir = RunDir::open(run_dir)?;
    let Some(page) = segment.slots().get(slot.index()) else {
        return Err(Error::Refused(format!("the segment has no slot {slot}")));
    };
    let name = text::load(&page.record.name);
    let role = page.record.role.load(Ordering::Relaxed);
    set_process_name(&name);
    let clock = SystemClock;
    let me = Myself { slot, generation, name, segment, clock };
    let part: Box<dyn Part> = match role {
        role_code::PRIMARY => Box::new(Primary::new(&me)),
        role_code::SECONDARY => Box::new(Secondary::new()),
        other => return Err(Error::Refused(format!("slot {slot} has unknown role {other}"))),
    };
    let listener = sockets.into_iter().next();
    let listener = listener.ok_or_else(|| Error::Refused("no listening socket".to_owned()))?;
    let mut server = Server::new(me, part, &run_dir, TcpListener::from(listener))?;
    if server.run()? == Leave::Orphaned {
        let made = server.me.segment.header().flags.load(Ordering::Relaxed);
        drop(server);
        rundir::leave_orphaned(&run_dir, members, made);
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a server leaves its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It was told to, or another generation runs in its slot.
    Told,
    /// Its watchdog is gone for good.
    Orphaned,
}

struct Server {
    me: Myself,
    part: Box<dyn Part>,
    poll: Poll,
    links: Vec<Link>,
    clients: Clients,
    orphan: Orphan,
    allow_debug: bool,
    started: Monotonic,
}

impl Server {
    fn new(
        me: Myself,
        part: Box<dyn Part>,
        run_dir: &RunDir,
        listener: TcpListener,
    ) -> Result<Server, Error> {
        let poll = Poll::new()?;
        let clients = Clients::new(listener, &poll)?;
        let mut links = Vec::new();
        for (token, peer) in (LINK..).zip(part.peers()) {
            let link = Link::open(run_dir, &me, peer)?;
            poll.add(&link.input, token, Interest::READ)?;
            links.push(link);
        }
        let started = me.clock.now();
        let orphan = Orphan::new(&me.segment, started);
        let flags = me.segment.header().flags.load(Ordering::Relaxed);
        let allow_debug = flags & flag::ALLOW_DEBUG != 0;
        me.page().report.sessions.store(0, Ordering::Relaxed);
        me.page().report.link.store(0, Ordering::Relaxed);
        me.page().report.set_activity("idle");
        Ok(Server { me, part, poll, links, clients, orphan, allow_debug, started })
    }

    fn run(&mut self) -> Result<Leave, Error> {
        let interval = self.me.segment.header().beat_interval_ns.load(Ordering::Relaxed);
        let interval = Duration::from_nanos(interval);
        let mut beaten = self.me.clock.now();
        self.me.heart().beat(beaten);
        loop {
            let mut planned = beaten + interval;
            if let Some(deadline) = self.part.deadline() {
                planned = planned.min(deadline);
            }
            let now = self.me.clock.now();
            let until = if self.clients.has_pending() { now } else { planned };
            let ready = self.poll.wait(now, Some(until))?;
            let now = self.me.clock.now();
            if let Some(leave) = self.turn(&ready, now, planned) {
                self.me.page().report.set_activity("leaving");
                return Ok(leave);
            }
            beaten = self.me.clock.now();
            self.me.heart().beat(beaten);
        }
    }

    fn turn(&mut self, ready: &[Ready], now: Monotonic, planned: Monotonic) -> Option<Leave> {
        for event in ready {
            let index = event.token.checked_sub(LINK).and_then(|i| usize::try_from(i).ok());
            let Some(link) = index.and_then(|index| self.links.get_mut(index)) else { continue };
            for _ in 0..FRAMES {
                let Some(frame) = link.receive(&self.me) else { break };
                log::trace!("slot {} received {:?}", self.me.slot, frame.kind);
                self.part.frame(&self.me, link, &frame);
            }
        }
        let me = &self.me;
        let (links, started, allow_debug) = (&self.links, self.started, self.allow_debug);
        let mut answer = |words: &[&[u8]], out: &mut Vec<u8>| {
            answer(me, links, started, allow_debug, words, out)
        };
        let before = self.clients.len();
        self.clients.turn(&self.poll, ready, &mut answer);
        if self.clients.len() != before {
            let sessions = self.clients.len();
            let report = &self.me.page().report;
            report.sessions.store(sessions as u64, Ordering::Relaxed);
            report.set_activity(&match sessions {
                0 => "idle".to_owned(),
                1 => "serving 1 client".to_owned(),
                more => format!("serving {more} clients"),
            });
        }
        self.part.turn(&self.me, &mut self.links, now);
        let record = &self.me.page().record;
        if record.stop_wanted() || record.current_generation() != self.me.generation {
            return Some(Leave::Told);
        }
        let standing = self.orphan.look(&self.me.segment, now, planned);
        (standing == Standing::Orphaned).then_some(Leave::Orphaned)
    }
}

/// Carries one request out.
fn answer(
    me: &Myself,
    links: &[Link],
    started: Monotonic,
    allow_debug: bool,
    words: &[&[u8]],
    out: &mut Vec<u8>,
) -> After {
    let command = match commands::parse(words) {
        Ok(command) => command,
        Err(refused) => {
            Reply(out).error(&refused.to_string());
            return After::Keep;
        }
    };
    let mut reply = Reply(out);
    match command {
        Command::Ping(None) => reply.simple("PONG"),
        Command::Ping(Some(message)) | Command::Echo(message) => reply.bulk(message),
        Command::Info(_) => {
            let info = info(me, links, started);
            reply.bulk(info.as_bytes());
        }
        Command::Quit => {
            reply.simple("OK");
            return After::Close;
        }
        Command::Commands => reply.array(0),
        Command::Client(client) => match client {
            commands::Client::GetName => reply.null(),
            commands::Client::Id => reply.integer(1),
            commands::Client::SetName(_)
            | commands::Client::SetInfo(_)
            | commands::Client::NoEvict
            | commands::Client::NoTouch => reply.simple("OK"),
        },
        Command::Hello(_) => {
            reply.array(6);
            for (key, value) in [("server", "osps"), ("version", env!("CARGO_PKG_VERSION"))] {
                reply.bulk(key.as_bytes());
                reply.bulk(value.as_bytes());
            }
            reply.bulk(b"proto");
            reply.integer(2);
        }
        Command::Select => reply.simple("OK"),
        Command::Debug(_) if !allow_debug => {
            reply.error("ERR DEBUG is off; start osps with --allow-debug");
        }
        Command::Debug(fault) => {
            misbehave(me, &fault);
            me.page().report.set_activity("idle");
            reply.simple("OK");
        }
        Command::Get(_)
        | Command::Set { .. }
        | Command::Del(_)
        | Command::Exists(_)
        | Command::Incr { .. }
        | Command::Keys(_)
        | Command::DbSize
        | Command::FlushDb => reply.error("ERR this version of osps has no shared table yet"),
    }
    After::Keep
}

/// What `INFO` tells: `key:value` lines.
fn info(me: &Myself, links: &[Link], started: Monotonic) -> String {
    let now = me.clock.now();
    let mut lines = vec![
        format!("osps_version:{}", env!("CARGO_PKG_VERSION")),
        format!("name:{}", me.name),
        format!("slot:{}", me.slot),
        format!("generation:{}", me.generation),
        format!("process_id:{}", std::process::id()),
        format!("uptime_in_seconds:{}", now.since(started).as_secs()),
        format!("beats:{}", me.heart().sample().count),
        format!("sessions:{}", me.page().report.sessions.load(Ordering::Relaxed)),
        format!("frames_dropped:{}", me.page().report.frames_dropped.load(Ordering::Relaxed)),
    ];
    for link in links {
        let state = match link.up {
            Some(generation) if generation == me.generation_in(link.peer) => {
                format!("up,gen={generation}")
            }
            _ => "down".to_owned(),
        };
        lines.push(format!("link_slot_{}:{state}", link.peer));
    }
    lines.join("\r\n") + "\r\n"
}

/// Makes a fault by hand: that is what `--allow-debug` is for.
fn misbehave(me: &Myself, fault: &Debug) {
    log::warn!("{} gen={}: DEBUG {fault:?} on a client's request", me.name, me.generation);
    me.page().report.set_activity(&format!("DEBUG {fault:?}"));
    match fault {
        Debug::Sleep(time) | Debug::Block(Some(time)) => sleep(*time),
        Debug::Spin(time) => {
            let until = time.map(|time| me.clock.now() + time);
            while until.is_none_or(|until| me.clock.now() < until) {
                std::hint::spin_loop();
            }
        }
        Debug::Block(None) => block_for_ever(),
        Debug::Abort => std::process::abort(),
    }
}

fn sleep(time: Duration) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let span = rustix::time::Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
    let _ = nanosleep(&span);
}

/// Reads from a pipe that nobody ever writes to.
fn block_for_ever() {
    if let Ok((read, _write)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        let _ = rustix::io::read(&read, &mut [0u8; 1]);
    }
}
