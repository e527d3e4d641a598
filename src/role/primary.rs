//! The primary (SP): checks its links, arbitrates the ownership, sends clients to secondaries.

use std::net::IpAddr;
use std::time::Duration;

use super::link::{Message, announcement};
use super::myself::Myself;
use super::part::{Part, Rights, Session, Shared};
use crate::ids::{Epoch, SlotId};
use crate::policy::dispatch::{Candidate, Dispatcher, Kind as JobKind, Report};
use crate::policy::ownership::{Arbiter, Arbitration, Plea};
use crate::sync::Ordering;
use crate::time::Monotonic;
use crate::wire::{Frame, Kind};

/// Pause between two pings of one link: the first is sent at once, and a lost one costs a second.
const PING: Duration = Duration::from_secs(1);
/// A holder that is busy writing keeps the ownership for so long although others wait. Shorter,
/// and hand-overs eat the time; longer, and with 32 writers somebody waits too long for a turn.
const TENURE: Duration = Duration::from_millis(2);
/// A holder that committed nothing for so long, and has nobody waiting, is idle: it may be asked
/// at once. Some ten commits fit into it.
const CALM: Duration = Duration::from_micros(100);
/// Steps of arbitration in one go: a clearing, a grant, a recall; more would be a loop.
const STEPS: usize = 4;
/// The words a client may say without a line end.
const BARE: [(&[u8], JobKind); 2] =
    [(b"requetetype1", JobKind::Read), (b"requetetype2", JobKind::ReadWrite)];

/// What the primary does beside the common loop.
#[derive(Debug)]
pub struct Primary {
    ping_at: Monotonic,
    arbiter: Arbiter,
    /// Epoch granted last, and when.
    granted: (Epoch, Monotonic),
    /// When the holder may be asked to give way, if it was too early at the last look.
    ask_at: Option<Monotonic>,
    book: Dispatcher,
}

impl Primary {
    /// A primary that knows nothing yet. Its job numbers start behind those of its predecessors,
    /// which lived at other times.
    pub fn new(me: &Myself) -> Primary {
        Primary {
            ping_at: Monotonic::default(),
            arbiter: Arbiter::new(),
            granted: (Epoch(0), Monotonic::default()),
            ask_at: None,
            book: Dispatcher::new(u64::from(me.generation.0) << 32),
        }
    }

    /// Lets the arbiter look at the word until nothing more is to be done.
    fn arbitrate(&mut self, shared: &mut Shared, now: Monotonic) {
        for _ in 0..STEPS {
            let me = &shared.me;
            let owner = me.owner();
            let may_recall = self.tenure_is_over(me, now);
            let Some(step) = self.arbiter.look(owner, |slot| me.live_in(slot), may_recall) else {
                return;
            };
            self.carry_out(shared, step, now);
        }
    }

    fn carry_out(&mut self, shared: &mut Shared, step: Arbitration, now: Monotonic) {
        log::debug!("arbiter: {step:?}");
        let Shared { me, links } = shared;
        match step {
            // A failed exchange: somebody else cleared it. The next look sees what is.
            Arbitration::Clear { from, to } => drop(me.segment.owner().exchange(from, to)),
            Arbitration::Grant { from, to } => {
                if me.segment.owner().exchange(from, to) {
                    self.granted = (to.epoch, now);
                    let link = links.iter_mut().find(|link| Some(link.peer) == to.slot);
                    if let Some(link) = link {
                        link.send(me, &Message::about(Kind::Grant, to.epoch));
                    }
                }
            }
            Arbitration::Recall { slot, epoch } => {
                me.segment.owner().set_recall(epoch, now);
                if let Some(link) = links.iter_mut().find(|link| link.peer == slot) {
                    link.send(me, &Message::about(Kind::Recall, epoch));
                }
            }
        }
    }

    /// Whether the holder may be asked to give way: it had its time, or has nothing to write.
    fn tenure_is_over(&mut self, me: &Myself, now: Monotonic) -> bool {
        let (epoch, since) = self.granted;
        let owner = me.owner();
        let page = owner.slot.and_then(|slot| me.segment.slots().get(slot.index()));
        let Some(page) = page.filter(|_| epoch == owner.epoch) else { return true };
        let idle_from = Monotonic(page.report.committed_ns.load(Ordering::Relaxed)) + CALM;
        let busy = page.report.parked.load(Ordering::Relaxed) > 0;
        let over = since + TENURE;
        let ask_at = if busy { over } else { over.min(idle_from) };
        self.ask_at = (ask_at > now).then_some(ask_at);
        self.ask_at.is_none()
    }

    /// Chooses a secondary for a client and announces the client to it.
    fn dispatch(
        &mut self,
        shared: &mut Shared,
        kind: JobKind,
        peer: IpAddr,
        now: Monotonic,
    ) -> Option<u16> {
        let Shared { me, links } = shared;
        let candidate = |slot: SlotId, up| {
            let page = me.segment.slots().get(slot.index())?;
            let sessions = page.report.sessions.load(Ordering::Relaxed);
            Some(Candidate { slot, generation: up, sessions })
        };
        let candidates: Vec<_> = links
            .iter()
            .filter(|link| link.is_up(me))
            .filter_map(|link| candidate(link.peer, link.up?))
            .collect();
        let (slot, job) = self.book.assign(&candidates, kind, peer, now)?;
        let generation = me.generation_in(slot);
        let page = me.segment.slots().get(slot.index())?;
        let address = crate::segment::text::load(&page.record.listen);
        let port = address.parse::<std::net::SocketAddr>().ok()?.port();
        let link = links.iter_mut().find(|link| link.peer == slot)?;
        if !link.send(me, &announcement(&job)) {
            // It would meet a secondary that does not expect it.
            self.book.report(job.id, slot, generation, Report::Failed);
            return None;
        }
        Some(port)
    }
}

impl Part for Primary {
    fn frame(&mut self, shared: &mut Shared, link: usize, frame: &Frame, now: Monotonic) {
        let (slot, generation) = (frame.from, frame.from_generation);
        match frame.kind {
            Kind::Pong => {
                let Shared { me, links } = shared;
                links[link].confirm(me, generation);
                for job in self.book.unbegun(slot) {
                    links[link].send(me, &announcement(&job));
                }
            }
            Kind::Request => {
                self.arbiter.request(slot, generation);
                self.arbitrate(shared, now);
            }
            Kind::Release => {
                let owner = shared.me.owner();
                if let Some(step) = self.arbiter.released(slot, generation, frame.epoch, owner) {
                    self.carry_out(shared, step, now);
                }
                self.arbitrate(shared, now);
            }
            Kind::Begin => {
                log::debug!("debuttraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, Report::Begin);
            }
            Kind::Done => {
                log::debug!("fintraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, Report::Done);
            }
            Kind::Failed => {
                log::debug!("errtraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, Report::Failed);
            }
            // A wake-up, since every turn looks at the segment; the others go the other way.
            Kind::Lost | Kind::Ping | Kind::Grant | Kind::Recall | Kind::Job => {}
        }
    }

    fn plead(&mut self, shared: &mut Shared, plea: Plea, now: Monotonic) {
        let (slot, generation) = (shared.me.slot, shared.me.generation);
        match plea {
            Plea::Request => self.arbiter.request(slot, generation),
            Plea::Release(epoch) => {
                let owner = shared.me.owner();
                if let Some(step) = self.arbiter.released(slot, generation, epoch, owner) {
                    self.carry_out(shared, step, now);
                }
            }
        }
        self.arbitrate(shared, now);
    }

    fn turn(&mut self, shared: &mut Shared, now: Monotonic) {
        let due = now >= self.ping_at;
        let Shared { me, links } = &mut *shared;
        for link in links {
            // A new generation is greeted at once, others are checked every second.
            let stale = link.up.is_some() && !link.is_up(me);
            if stale {
                link.up = None;
            }
            if due || stale {
                link.send(me, &Message::plain(Kind::Ping));
            }
        }
        if due {
            self.ping_at = now + PING;
            self.arbiter.repeat();
            for job in self.book.sweep(now, |slot| me.live_in(slot)) {
                log::debug!("errtraitement {}: {:?} from {}", job.id, job.kind, job.peer);
            }
        }
        self.arbitrate(shared, now);
    }

    fn deadline(&self) -> Option<Monotonic> {
        let ask_at = self.ask_at.filter(|_| self.arbiter.is_wanted());
        Some(ask_at.map_or(self.ping_at, |at| at.min(self.ping_at)))
    }

    fn opened(&mut self, _shared: &mut Shared, peer: IpAddr, _now: Monotonic) -> Session {
        Session { peer, rights: Rights::All, job: None }
    }

    fn closed(&mut self, _shared: &mut Shared, _session: &Session, _cleanly: bool) {}

    fn bare(
        &mut self,
        shared: &mut Shared,
        session: &Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize> {
        let (word, kind) = BARE.into_iter().find(|(word, _)| input.starts_with(word))?;
        match self.dispatch(shared, kind, session.peer, now) {
            Some(port) => out.extend_from_slice(port.to_string().as_bytes()),
            None => out.extend_from_slice(b"errtraitement no secondary available"),
        }
        Some(word.len())
    }

    fn takes_quiet_words(&self) -> bool {
        true
    }
}
