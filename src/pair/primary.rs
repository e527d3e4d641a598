//! The primary (SP): checks its links, arbitrates the ownership, sends clients to secondaries.

use std::net::IpAddr;
use std::time::Duration;

use osps_heart::ids::{Epoch, SlotId};
use osps_heart::ownership::{Arbiter, ArbiterAction, HolderAction};
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use super::link::{Message, announcement};
use super::role::{Common, Rights, Role, Session};
use super::slot_view::SlotView;
use crate::pair::dispatch::{Candidate, Dispatcher, JobProgress, JobType};
use crate::pair::wire::{Frame, FrameKind};

/// Pause between two pings of one link: the first is sent at once, and a lost one costs a second.
const PING: Duration = Duration::from_secs(1);
/// A holder that is busy writing keeps the ownership for so long although others wait. Shorter,
/// and hand-overs eat the time; longer, and with 32 writers somebody waits too long for a turn.
const TENURE: Duration = Duration::from_millis(2);
/// A holder that committed nothing for so long, and has nobody waiting, is idle: it may be asked
/// at once. Some ten commits fit into it.
const CALM: Duration = Duration::from_micros(100);
/// What a word that asks for a session begins with.
const ASKS: &[u8] = b"requete";
/// Steps of arbitration in one go: a clearing, a grant, a recall; more would be a loop.
const STEPS: usize = 4;

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
    pub fn new(me: &SlotView) -> Primary {
        Primary {
            ping_at: Monotonic::default(),
            arbiter: Arbiter::new(),
            granted: (Epoch(0), Monotonic::default()),
            ask_at: None,
            book: Dispatcher::new(u64::from(me.generation.0) << 32),
        }
    }

    /// Lets the arbiter look at the word until nothing more is to be done.
    fn arbitrate(&mut self, common: &mut Common, now: Monotonic) {
        for _ in 0..STEPS {
            let me = &common.me;
            let owner = me.owner();
            let may_recall = self.tenure_is_over(me, now);
            let Some(step) = self.arbiter.look(owner, |slot| me.live_in(slot), may_recall) else {
                return;
            };
            self.carry_out(common, step, now);
        }
    }

    fn carry_out(&mut self, common: &mut Common, step: ArbiterAction, now: Monotonic) {
        log::debug!("arbiter: {step:?}");
        let Common { me, links } = common;
        match step {
            // A failed exchange: somebody else cleared it. The next look sees what is.
            ArbiterAction::Clear { from, to } => drop(me.segment.owner().exchange(from, to)),
            ArbiterAction::Grant { from, to } => {
                if me.segment.owner().exchange(from, to) {
                    self.granted = (to.epoch, now);
                    let link = links.iter_mut().find(|link| Some(link.peer) == to.slot);
                    if let Some(link) = link {
                        link.send(me, &Message::about(FrameKind::Grant, to.epoch));
                    }
                }
            }
            ArbiterAction::Recall { slot, epoch } => {
                me.segment.owner().set_recall(epoch, now);
                if let Some(link) = links.iter_mut().find(|link| link.peer == slot) {
                    link.send(me, &Message::about(FrameKind::Recall, epoch));
                }
            }
        }
    }

    /// Whether the holder may be asked to give way: it had its time, or has nothing to write.
    fn tenure_is_over(&mut self, me: &SlotView, now: Monotonic) -> bool {
        let (epoch, since) = self.granted;
        let owner = me.owner();
        let page = owner.slot.and_then(|slot| me.segment.slots().get(slot.index()));
        let Some(page) = page.filter(|_| epoch == owner.epoch) else { return true };
        let idle_from = Monotonic(page.activity.committed_ns.load(Ordering::Relaxed)) + CALM;
        let busy = page.activity.parked.load(Ordering::Relaxed) > 0;
        let over = since + TENURE;
        let ask_at = if busy { over } else { over.min(idle_from) };
        self.ask_at = (ask_at > now).then_some(ask_at);
        self.ask_at.is_none()
    }

    /// Chooses a secondary for a client and announces the client to it.
    fn dispatch(
        &mut self,
        common: &mut Common,
        kind: JobType,
        peer: IpAddr,
        now: Monotonic,
    ) -> Option<u16> {
        let Common { me, links } = common;
        let candidate = |slot: SlotId, up| {
            let page = me.segment.slots().get(slot.index())?;
            let sessions = page.activity.sessions.load(Ordering::Relaxed);
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
        let address = osps_heart::segment::text::load(&page.server.listen);
        let port = address.parse::<std::net::SocketAddr>().ok()?.port();
        let link = links.iter_mut().find(|link| link.peer == slot)?;
        if !link.send(me, &announcement(&job)) {
            // It would meet a secondary that does not expect it.
            self.book.report(job.id, slot, generation, JobProgress::Failed);
            return None;
        }
        Some(port)
    }
}

impl Role for Primary {
    fn frame(&mut self, common: &mut Common, link: usize, frame: &Frame, now: Monotonic) {
        let (slot, generation) = (frame.from, frame.from_generation);
        match frame.kind {
            FrameKind::Pong => {
                let Common { me, links } = common;
                links[link].confirm(me, generation);
                for job in self.book.unbegun(slot) {
                    links[link].send(me, &announcement(&job));
                }
            }
            FrameKind::Request => {
                self.arbiter.request(slot, generation);
                self.arbitrate(common, now);
            }
            FrameKind::Release => {
                let owner = common.me.owner();
                if let Some(step) = self.arbiter.released(slot, generation, frame.epoch, owner) {
                    self.carry_out(common, step, now);
                }
                self.arbitrate(common, now);
            }
            FrameKind::Begin => {
                log::debug!("debuttraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, JobProgress::Begin);
            }
            FrameKind::Done => {
                log::debug!("fintraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, JobProgress::Done);
            }
            FrameKind::Failed => {
                log::debug!("errtraitement {} on slot {slot}", frame.job);
                self.book.report(frame.job, slot, generation, JobProgress::Failed);
            }
            // A wake-up, since every turn looks at the segment; the others go the other way.
            FrameKind::Lost
            | FrameKind::Ping
            | FrameKind::Grant
            | FrameKind::Recall
            | FrameKind::Job => {}
        }
    }

    fn ask_arbiter(&mut self, common: &mut Common, action: HolderAction, now: Monotonic) {
        let (slot, generation) = (common.me.slot, common.me.generation);
        match action {
            HolderAction::Request => self.arbiter.request(slot, generation),
            HolderAction::Release(epoch) => {
                let owner = common.me.owner();
                if let Some(step) = self.arbiter.released(slot, generation, epoch, owner) {
                    self.carry_out(common, step, now);
                }
            }
        }
        self.arbitrate(common, now);
    }

    fn turn(&mut self, common: &mut Common, now: Monotonic) {
        let due = now >= self.ping_at;
        let Common { me, links } = &mut *common;
        for link in links {
            // A new generation is greeted at once, others are checked every second.
            let stale = link.up.is_some() && !link.is_up(me);
            if stale {
                link.up = None;
            }
            if due || stale {
                link.send(me, &Message::plain(FrameKind::Ping));
            }
        }
        if due {
            self.ping_at = now + PING;
            self.arbiter.repeat();
            for job in self.book.sweep(now, |slot| me.live_in(slot)) {
                log::debug!("errtraitement {}: {:?} from {}", job.id, job.kind, job.peer);
            }
        }
        self.arbitrate(common, now);
    }

    fn deadline(&self) -> Option<Monotonic> {
        let ask_at = self.ask_at.filter(|_| self.arbiter.is_wanted());
        Some(ask_at.map_or(self.ping_at, |at| at.min(self.ping_at)))
    }

    fn opened(&mut self, _shared: &mut Common, peer: IpAddr, _now: Monotonic) -> Session {
        Session::new(peer, Rights::All, None)
    }

    fn closed(&mut self, _shared: &mut Common, _session: &Session, _cleanly: bool) {}

    fn bare(
        &mut self,
        common: &mut Common,
        session: &Session,
        input: &[u8],
        out: &mut Vec<u8>,
        now: Monotonic,
    ) -> Option<usize> {
        let blanks = input.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let said = &input[blanks..];
        let asked = JobType::ALL.iter().find(|(.., word)| said.starts_with(word.as_bytes()));
        if let Some((kind, _, word)) = asked {
            match self.dispatch(common, *kind, session.peer, now) {
                Some(port) => out.extend_from_slice(port.to_string().as_bytes()),
                None => out.extend_from_slice(b"errtraitement no secondary available"),
            }
            return Some(blanks + word.len());
        }
        // Another type: a whole line, since its end may be on its way.
        let end = said.iter().position(|byte| *byte == b'\n')?;
        let word = said[..end].trim_ascii();
        if !word.starts_with(ASKS) || word.contains(&b' ') {
            return None;
        }
        let word = word.get(..32).unwrap_or(word).escape_ascii();
        let refusal = format!(
            "errtraitement unknown request type {word} (requetetype1 reads, requetetype2 reads and \
             writes)"
        );
        out.extend_from_slice(refusal.as_bytes());
        Some(blanks + end + 1)
    }

    fn small_talk(&self, _shared: &Common, _session: &Session) -> Option<String> {
        None
    }
}
