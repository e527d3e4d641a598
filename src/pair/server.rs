//! What both built-in servers do: one loop, one thread.
//!
//! *wait -> read the clock once -> frames -> ownership -> clients -> look at the watchdog and at
//! the desired word -> beat (fresh stamp)*. The beat comes last: it proves that the turn was done.

use std::ffi::CString;
use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Claim, Epoch, SlotId};
use osps_heart::orphan::{Orphan, Standing};
use osps_heart::ownership::Holder;
use osps_heart::segment::area::{LEVEL_PIECE, READ_TRIES, Update, View};
use osps_heart::segment::layout::flag;
use osps_heart::segment::{Access, Segment, text};
use osps_heart::sync::Ordering;
use osps_heart::table::Table;
use osps_heart::time::{Clock, Monotonic, Short};
use osps_heart::words;

use super::clients::{After, Clients, Responder};
use super::fault;
use super::link::Link;
use super::plan::fifos;
use super::primary::Primary;
use super::role::{Common, Queue, Rights, Role, Session};
use super::secondary::Secondary;
use super::slot_view::SlotView;
use crate::error::{Error, Refusal};
use crate::instance::exec::Birth;
use crate::instance::place::{RunDir, leave_orphaned};
use crate::pair::store::commands::{self, Command};
use crate::pair::store::execute;
use crate::pair::store::resp::{MAX_REQUEST, Protocol, Reply};
use crate::pair::wire::FrameKind;
use crate::sys::poll::{Interest, Poll, Ready};
use crate::sys::procfs;

/// First token of a link; link `i` has token `LINK + i`.
const LINK: u64 = 1;
/// Frames handled per link and turn: a flood must not delay the beat.
const FRAMES: usize = 256;
/// Pause before a frame that may have been lost is sent again. A lost frame costs a writer this.
const REPEAT: Duration = Duration::from_millis(20);
/// How often somebody who speaks another protocol is told in the log.
const FOREIGN_PAUSE: Duration = Duration::from_secs(60);
/// Tries of a walk over the whole table, before it is done as owner.
const WALK_TRIES: usize = 2;
/// What a client reads that writes where it may not.
const READ_ONLY: &str = "READONLY ask the primary for requetetype2";

/// Runs a built-in server until it is told to stop, superseded or orphaned.
pub fn main(birth: Birth) -> Result<ExitCode, Error> {
    let Birth { run_dir, slot, generation, sockets, members } = birth;
    let misfit = |why: &str| Error::from(Refusal::Misfit(why.to_owned()));
    // What it works with comes through the gate: names in the directory may vanish.
    let mut given = sockets.into_iter();
    let mut next = |what: &str| given.next().ok_or_else(|| misfit(&format!("no {what} was given")));
    let listener = next("listening socket")?;
    let segment = Segment::attach(&File::from(next("segment")?), Access::ReadWrite)
        .map_err(|why| Error::Segment { path: run_dir.clone(), why })?;
    let run_dir = RunDir::open(&run_dir)?;
    let Some(page) = segment.slots().get(slot.index()) else {
        return Err(misfit(&format!("the segment has no slot {slot}")));
    };
    let name = text::load(&page.server.name);
    let role = page.server.role.load(Ordering::Relaxed);
    let slots = u8::try_from(segment.slots().len()).unwrap_or(u8::MAX);
    set_process_name(&name);
    let pid = std::process::id();
    let mine = Claim::of(slot, generation, pid, procfs::start_time(pid).unwrap_or(0));
    let taken = |other: Claim| misfit(&format!("its heart is taken by pid {}", other.pid));
    segment.hearts()[slot.index()].claim(mine).map_err(taken)?;
    let me = SlotView { slot, generation, name, segment, clock: SystemClock };
    let (role, peers): (Box<dyn Role>, Vec<_>) = match words::Role::from_code(role) {
        Some(words::Role::Primary) => {
            (Box::new(Primary::new(&me)), (1..slots).map(SlotId).collect())
        }
        Some(words::Role::Secondary) => (Box::new(Secondary::new()), vec![SlotId::FIRST]),
        Some(words::Role::Program) | None => {
            return Err(misfit(&format!("slot {slot} has unknown role {role}")));
        }
    };
    let poll = Poll::new()?;
    let mut links = Vec::new();
    for (token, peer) in (LINK..).zip(peers) {
        let link = Link::new(next("fifo")?, next("fifo")?, &me, peer)?;
        poll.add(&link, token, Interest::READ)?;
        links.push(link);
    }
    // Those of the others: while one of us lives, a new watchdog finds all of them.
    let _kept: Vec<_> = given.collect();
    let mut server = Server::new(Common { me, links }, role, poll, TcpListener::from(listener))?;
    if server.run()? == Leave::Orphaned {
        let made = server.core.common.me.segment.header().flags.load(Ordering::Relaxed);
        drop(server);
        leave_orphaned(&run_dir, &fifos(), members, made);
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
    core: Core,
    poll: Poll,
    clients: Clients<Session>,
    orphan: Orphan,
}

/// A server without its connections.
struct Core {
    common: Common,
    role: Box<dyn Role>,
    holder: Holder,
    table: Table,
    /// Somebody waits for the ownership.
    wants: bool,
    /// Updates committed in the present epoch: after a grant at least one goes through.
    updated: Option<Epoch>,
    /// The spare copy is being levelled, one piece a turn: turn again at once.
    hasty: bool,
    repeat_at: Monotonic,
    /// When this turn has to come to its beat.
    spent_at: Monotonic,
    allow_debug: bool,
    /// Longest word that is of any use: what a cell can hold, and a little for messages.
    room: usize,
    /// When somebody was last told to speak another protocol.
    foreign_told: Option<Monotonic>,
    started: Monotonic,
}

impl Server {
    fn new(
        common: Common,
        role: Box<dyn Role>,
        poll: Poll,
        listener: TcpListener,
    ) -> Result<Server, Error> {
        let clients = Clients::new(listener, &poll)?;
        let me = &common.me;
        let started = me.clock.now();
        let orphan = Orphan::new(&me.segment, started);
        let flags = me.segment.header().flags.load(Ordering::Relaxed);
        let geometry = me.segment.geometry();
        let size = |bytes| usize::try_from(bytes).unwrap_or(0);
        let room = size(geometry.cell_size).max(1024);
        let table = Table::new(size(geometry.data_size), size(geometry.cell_size))
            .ok_or_else(|| Refusal::Misfit("the data area holds no table".to_owned()))?;
        let activity = &me.page().activity;
        for word in [&activity.sessions, &activity.link, &activity.parked] {
            word.store(0, Ordering::Relaxed);
        }
        activity.set_text("idle");
        let core = Core {
            holder: Holder::new(me.slot, me.generation),
            common,
            role,
            table,
            wants: false,
            updated: None,
            hasty: false,
            repeat_at: started,
            spent_at: started,
            allow_debug: flags & flag::ALLOW_DEBUG != 0,
            room,
            foreign_told: None,
            started,
        };
        Ok(Server { core, poll, clients, orphan })
    }

    fn run(&mut self) -> Result<Leave, Error> {
        let clock = self.core.common.me.clock;
        let header = self.core.common.me.segment.header();
        let interval = Duration::from_nanos(header.beat_interval_ns.load(Ordering::Relaxed));
        // Whatever stands there: neither a spin nor a silence.
        let interval = interval.clamp(Duration::from_millis(1), Duration::from_secs(60));
        let mut beaten = clock.now();
        self.core.common.me.heart().beat(beaten);
        loop {
            let waiting = (self.clients.parked() > 0).then_some(self.core.repeat_at);
            let deadlines = [self.core.role.deadline(), self.clients.deadline(), waiting];
            let planned = deadlines.into_iter().flatten().fold(beaten + interval, Monotonic::min);
            let now = clock.now();
            let hasty = std::mem::take(&mut self.core.hasty) || self.clients.has_pending();
            let until = if hasty { now } else { planned };
            let ready = self.poll.wait(now, Some(until))?;
            let now = clock.now();
            self.core.spent_at = now + interval / 4;
            if let Some(leave) = self.turn(&ready, now, planned.max(beaten)) {
                self.core.leave(now);
                return Ok(leave);
            }
            beaten = clock.now();
            self.core.common.me.heart().beat(beaten);
        }
    }

    fn turn(&mut self, ready: &[Ready], now: Monotonic, planned: Monotonic) -> Option<Leave> {
        self.core.frames(now);
        self.core.role.turn(&mut self.core.common, now);
        self.core.look(now);
        self.clients.turn(&self.poll, ready, &mut self.core, now);
        self.core.wait_for(self.clients.parked());
        self.core.look(now);
        let me = &self.core.common.me;
        let (activity, sessions) = (&me.page().activity, self.clients.len() as u64);
        // Compared with the word, not with what it was: the primary chooses by it, and whoever
        // scribbled over it shall not keep clients away for ever.
        if activity.sessions.load(Ordering::Relaxed) != sessions {
            activity.sessions.store(sessions, Ordering::Relaxed);
            activity.set_text(&match self.clients.len() {
                0 => "idle".to_owned(),
                1 => "serving 1 client".to_owned(),
                more => format!("serving {more} clients"),
            });
        }
        let server = &me.page().server;
        if server.stop_wanted() || server.current_generation() != me.generation {
            return Some(Leave::Told);
        }
        let name = &me.name;
        match self.orphan.look(&me.segment, now, planned) {
            Standing::Watched => {}
            Standing::Silent(silence) => {
                log::warn!("{name}: the watchdog is silent (no beat for {})", Short(silence));
            }
            Standing::Back(silence) => {
                log::info!("{name}: the watchdog beats again (after {})", Short(silence));
            }
            Standing::Orphaned(silence) => {
                let silence = Short(silence);
                log::warn!("{name}: orphaned, no beat of the watchdog for {silence}; leaving");
                return Some(Leave::Orphaned);
            }
        }
        None
    }
}

impl Core {
    /// Reads every link.
    fn frames(&mut self, now: Monotonic) {
        for index in 0..self.common.links.len() {
            for _ in 0..FRAMES {
                let Common { me, links } = &mut self.common;
                let Some(frame) = links[index].receive(me) else { break };
                log::trace!("from slot {}: {:?}", frame.from, frame.kind);
                if frame.kind == FrameKind::Recall {
                    let owner = self.common.me.owner();
                    if let Some(action) = self.holder.recalled(frame.epoch, owner) {
                        self.role.ask_arbiter(&mut self.common, action, now);
                    }
                }
                self.role.frame(&mut self.common, index, &frame, now);
            }
        }
    }

    /// Looks at the owner word and the pending recall, and tells the arbiter what follows.
    fn look(&mut self, now: Monotonic) {
        let owner = self.common.me.owner();
        let recall = self.common.me.segment.owner().recall().map(|(epoch, _)| epoch);
        let again = now >= self.repeat_at;
        if again {
            self.repeat_at = now + REPEAT;
        }
        // A fresh grant lets at least one waiting update through before it is given back.
        let owned = self.holder.owns(owner);
        let writing = self.wants && owned.is_some() && self.updated != owned;
        for action in self.holder.look(owner, recall, self.wants, writing, again) {
            log::debug!("{} gen={}: {action:?}", self.common.me.name, self.common.me.generation);
            self.role.ask_arbiter(&mut self.common, action, now);
        }
    }

    /// Says how many clients wait for the ownership.
    fn wait_for(&mut self, parked: usize) {
        self.wants = parked > 0;
        self.common.me.page().activity.parked.store(parked as u64, Ordering::Relaxed);
    }

    /// The epoch in which this server may write now: it owns the area, nobody wants it back (or
    /// nothing was written under this grant yet), and the spare copy is level.
    fn may_write(&mut self, now: Monotonic) -> Option<Epoch> {
        let owner = self.common.me.owner();
        let epoch = self.holder.owns(owner)?;
        let recall = self.common.me.segment.owner().recall().map(|(epoch, _)| epoch);
        if recall == Some(epoch) && self.updated == Some(epoch) {
            self.look(now);
            return None;
        }
        // One piece a turn, whoever asks: the next turn begins with who waits longest.
        self.hasty = self.hasty || !self.common.me.segment.area().level(LEVEL_PIECE);
        (!self.hasty).then_some(epoch)
    }

    /// Carries out changes of the table as one update: all of it, or none. `work` appends the reply
    /// and says whether there is something to commit.
    fn update(
        &mut self,
        out: &mut Vec<u8>,
        now: Monotonic,
        work: impl FnOnce(&Table, &mut Update<'_>, &mut Vec<u8>) -> bool,
    ) -> After {
        let Some(epoch) = self.may_write(now) else { return self.park() };
        let me = &self.common.me;
        let area = me.segment.area();
        let mut update = area.begin();
        let start = out.len();
        let changed = work(&self.table, &mut update, out);
        self.updated = Some(epoch);
        if changed {
            // The last look before the commit: what is ours was ours all the time.
            if self.holder.owns(me.owner()) != Some(epoch) {
                out.truncate(start);
                return self.park();
            }
            let keys = self.table.len(update.view());
            update.commit();
            me.segment.area_cells().keys.store(keys, Ordering::Relaxed);
            me.page().activity.committed_ns.store(now.0, Ordering::Relaxed);
        }
        After::Keep
    }

    /// Answers from the table without a lock; as owner if commits never pause. `look` appends the
    /// reply; it may be called again, with what it appended taken back.
    fn read(
        &mut self,
        out: &mut Vec<u8>,
        walks: bool,
        mut look: impl FnMut(&Table, View<'_>, &mut Vec<u8>),
    ) -> After {
        let area = self.common.me.segment.area();
        let start = out.len();
        let table = &self.table;
        // A walk over all keys takes long: few tries, then as owner. The others are short.
        let tries = if walks { WALK_TRIES } else { READ_TRIES };
        let read = area.read_within(tries, |view| {
            out.truncate(start);
            look(table, view, out);
        });
        if read.is_ok() {
            return After::Keep;
        }
        out.truncate(start);
        if self.holder.owns(self.common.me.owner()).is_none() {
            return self.park();
        }
        area.read_as_owner(|view| look(table, view, out));
        After::Keep
    }

    /// Carries out what was queued since `MULTI`: one update under one grant, or one look.
    fn exec(&mut self, session: &mut Session, out: &mut Vec<u8>, now: Monotonic) -> After {
        let Some(queue) = session.queue.take() else {
            Reply(out, session.protocol).error("ERR EXEC without MULTI");
            return After::Keep;
        };
        if queue.refused {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            Reply(out, session.protocol).error(text);
            return After::Keep;
        }
        let requests: Vec<Vec<&[u8]>> =
            queue.requests.iter().map(|words| words.iter().map(Vec::as_slice).collect()).collect();
        // Each was understood when it was queued.
        let commands: Vec<Command<'_>> =
            requests.iter().filter_map(|words| commands::parse(words).ok()).collect();
        let protocol = session.protocol;
        let mut plain = Vec::new();
        for command in commands.iter().filter(|command| !command.looks() && !command.writes()) {
            let mut bytes = Vec::new();
            self.plain(session, command, &mut bytes);
            plain.push(bytes);
        }
        let each = |out: &mut Vec<u8>, table: &mut dyn FnMut(&Command<'_>, &mut Reply<'_>)| {
            let mut reply = Reply(out, protocol);
            reply.array(commands.len());
            let mut plain = plain.iter();
            for command in &commands {
                if command.looks() || command.writes() {
                    table(command, &mut reply);
                } else {
                    reply.0.extend(plain.next().into_iter().flatten());
                }
            }
        };
        let after = if commands.iter().any(Command::writes) {
            self.update(out, now, |table, update, out| {
                let mut changed = false;
                each(out, &mut |command, reply| {
                    if command.writes() {
                        changed |= execute::change(table, update, command, reply);
                    } else {
                        execute::look(table, update.view(), command, reply);
                    }
                });
                changed
            })
        } else {
            self.read(out, true, |table, view, out| {
                each(out, &mut |command, reply| execute::look(table, view, command, reply));
            })
        };
        if after == After::Park {
            session.queue = Some(queue);
        }
        after
    }

    /// Between `MULTI` and `EXEC`: keeps a request, or refuses it and with it all of them.
    fn enqueue(session: &mut Session, words: &[&[u8]], command: &Command<'_>, out: &mut Vec<u8>) {
        let read_only = command.writes() && session.rights != Rights::All;
        let mut reply = Reply(out, session.protocol);
        let Some(queue) = &mut session.queue else { return };
        match command {
            // Slips that spoil nothing, as in Redis.
            Command::Multi => return reply.error("ERR MULTI calls can not be nested"),
            Command::Watch => return reply.error("ERR WATCH inside MULTI is not allowed"),
            _ => {}
        }
        let bytes: usize = words.iter().map(|word| word.len() + 32).sum::<usize>() + 64;
        let refusal = if read_only {
            Some(READ_ONLY)
        } else if queue.bytes + bytes > MAX_REQUEST {
            Some("ERR too many requests, or too large ones, between MULTI and EXEC")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            queue.refused = true;
            reply.error(refusal);
            return;
        }
        queue.bytes += bytes;
        queue.requests.push(words.iter().map(|word| word.to_vec()).collect());
        reply.simple("QUEUED");
    }

    /// Answers what has nothing to do with the table.
    fn plain(&mut self, session: &mut Session, command: &Command<'_>, out: &mut Vec<u8>) -> After {
        let mut reply = Reply(out, session.protocol);
        match command {
            Command::Ping(None) => reply.simple("PONG"),
            Command::Ping(Some(message)) | Command::Echo(message) => reply.bulk(message),
            Command::Info(_) => reply.bulk(self.info().as_bytes()),
            Command::Quit => {
                reply.simple("OK");
                return After::Close;
            }
            Command::Commands => reply.array(0),
            Command::ConfigGet => reply.map(0),
            Command::Client(client) => match client {
                commands::Client::GetName if session.name.is_empty() => reply.null(),
                commands::Client::GetName => reply.bulk(&session.name),
                commands::Client::Id => reply.integer(1),
                commands::Client::SetName(name) => {
                    session.name = name.to_vec();
                    reply.simple("OK");
                }
                commands::Client::SetInfo(_)
                | commands::Client::NoEvict
                | commands::Client::NoTouch => reply.simple("OK"),
            },
            Command::Hello { version, name } => {
                session.protocol = version.unwrap_or(session.protocol);
                if let Some(name) = name {
                    session.name = name.to_vec();
                }
                let mut reply = Reply(out, session.protocol);
                reply.map(7);
                for (key, value) in [
                    ("server", "osps"),
                    ("version", env!("CARGO_PKG_VERSION")),
                    ("mode", "standalone"),
                    ("role", "master"),
                ] {
                    reply.bulk(key.as_bytes());
                    reply.bulk(value.as_bytes());
                }
                reply.bulk(b"proto");
                reply.integer(if session.protocol == Protocol::Three { 3 } else { 2 });
                reply.bulk(b"id");
                reply.integer(1);
                reply.bulk(b"modules");
                reply.array(0);
            }
            Command::Select | Command::Unwatch | Command::FunctionFlush => reply.simple("OK"),
            Command::Watch => reply.error(&commands::Refused::Watch.to_string()),
            Command::Multi => {
                session.queue = Some(Queue::default());
                reply.simple("OK");
            }
            Command::Debug(_) if !self.allow_debug => {
                reply.error("ERR DEBUG is off; start osps with --allow-debug");
            }
            Command::Debug(fault) => {
                fault::make(&self.common.me, fault);
                reply.simple("OK");
            }
            Command::Foreign => {
                let now = self.common.me.clock.now();
                if self.foreign_told.is_none_or(|told| now.since(told) >= FOREIGN_PAUSE) {
                    self.foreign_told = Some(now);
                    log::warn!(
                        "{}: somebody at {} speaks HTTP to this port (POST, Host: or HTTP/..): a \
                         web page, perhaps; closed before anything it sent was done",
                        self.common.me.name,
                        session.peer
                    );
                }
                return After::Close;
            }
            // Everything else is the table's, or was answered before.
            _ => reply.error("ERR not here"),
        }
        After::Keep
    }

    fn park(&mut self) -> After {
        self.wants = true;
        After::Park
    }

    /// A leaving server gives back what it holds and waits for nobody.
    fn leave(&mut self, now: Monotonic) {
        let owner = self.common.me.owner();
        if let Some(action) = self.holder.leave(owner) {
            self.role.ask_arbiter(&mut self.common, action, now);
        }
        self.common.me.page().activity.set_text("leaving");
    }

    /// What `INFO` tells: `key:value` lines.
    fn info(&self) -> String {
        let me = &self.common.me;
        let (now, owner) = (me.clock.now(), me.owner());
        let activity = &me.page().activity;
        let mut lines = vec![
            format!("osps_version:{}", env!("CARGO_PKG_VERSION")),
            format!("name:{}", me.name),
            format!("slot:{}", me.slot),
            format!("generation:{}", me.generation),
            format!("process_id:{}", std::process::id()),
            format!("uptime_in_seconds:{}", now.since(self.started).as_secs()),
            format!("beats:{}", me.heart().sample().count),
            format!("sessions:{}", activity.sessions.load(Ordering::Relaxed)),
            format!("parked:{}", activity.parked.load(Ordering::Relaxed)),
            format!("frames_dropped:{}", activity.frames_dropped.load(Ordering::Relaxed)),
            format!("sequence:{}", me.segment.area().sequence()),
            format!("epoch:{}", owner.epoch),
            format!("owns_data:{}", u8::from(self.holder.owns(owner).is_some())),
        ];
        for link in &self.common.links {
            let state = match link.up {
                Some(generation) if link.is_up(me) => format!("up,gen={generation}"),
                _ => "down".to_owned(),
            };
            lines.push(format!("link_slot_{}:{state}", link.peer));
        }
        lines.join("\r\n") + "\r\n"
    }
}

impl Responder for Core {
    type Session = Session;

    fn opened(&mut self, peer: IpAddr, now: Monotonic) -> Session {
        // The announcement was sent before the client got its port, so it is there by now; it may
        // have come after this turn read the links.
        self.frames(now);
        self.role.opened(&mut self.common, peer, now)
    }

    fn closed(&mut self, session: Session, cleanly: bool) {
        self.role.closed(&mut self.common, &session, cleanly);
    }

    fn answer_bare(
        &mut self,
        session: &mut Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize> {
        self.role.bare(&mut self.common, session, input, out, now)
    }

    /// Text that is no RESP: whoever sent it waits for an answer. Half of a write may be on its way
    /// in pieces, and must not be carried out.
    fn takes_quiet_line(&self, line: &[u8]) -> bool {
        let is_text = line.first().is_some_and(|first| *first != b'*');
        is_text && !line.trim_ascii().is_empty() && !commands::may_be_half_a_write(line)
    }

    fn answer_text(
        &mut self,
        session: &mut Session,
        word: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> bool {
        // Who speaks of transactions knows the protocol.
        if session.queue.is_some() || word.is_some_and(commands::is_name) {
            return false;
        }
        let Some(line) = self.role.small_talk(&self.common, session) else { return false };
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
        true
    }

    fn refused(&mut self, session: &mut Session) {
        if let Some(queue) = &mut session.queue {
            queue.refused = true;
        }
    }

    fn room(&self) -> usize {
        self.room
    }

    fn is_spent(&self) -> bool {
        self.common.me.clock.now() >= self.spent_at
    }

    fn answer(
        &mut self,
        session: &mut Session,
        words: &[&[u8]],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> After {
        let command = match commands::parse(words) {
            Ok(command) => command,
            Err(refused) => {
                self.refused(session);
                Reply(out, session.protocol).error(&refused.to_string());
                return After::Keep;
            }
        };
        match &command {
            Command::Exec => return self.exec(session, out, now),
            Command::Discard => {
                let mut reply = Reply(out, session.protocol);
                match session.queue.take() {
                    Some(_) => reply.simple("OK"),
                    None => reply.error("ERR DISCARD without MULTI"),
                }
                return After::Keep;
            }
            Command::Quit | Command::Foreign => {}
            _ if session.queue.is_some() => {
                Core::enqueue(session, words, &command, out);
                return After::Keep;
            }
            _ => {}
        }
        let protocol = session.protocol;
        if command.looks() {
            let walks = matches!(command, Command::Keys(_));
            return self.read(out, walks, |table, view, out| {
                execute::look(table, view, &command, &mut Reply(out, protocol));
            });
        }
        if command.writes() {
            if session.rights != Rights::All {
                Reply(out, protocol).error(READ_ONLY);
                return After::Keep;
            }
            return self.update(out, now, |table, update, out| {
                execute::change(table, update, &command, &mut Reply(out, protocol))
            });
        }
        self.plain(session, &command, out)
    }
}

/// Shows a server's name in `ps` and `top`; cut at 15 bytes by the kernel.
fn set_process_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}
