//! A secondary (SS): serves the clients that the primary announces, and tells what became of them.

use std::net::IpAddr;
use std::time::Duration;

use osps_heart::clock::unix_ns;
use osps_heart::ids::Generation;
use osps_heart::ownership::HolderAction;
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;

use super::link::{Message, announced};
use super::role::{Common, Rights, Role, Session, Taken};
use crate::pair::dispatch::{Announced, Expected, JobType};
use crate::pair::wire::{Frame, FrameKind};

/// What a secondary does beside the common loop.
#[derive(Debug, Default)]
pub struct Secondary {
    expected: Expected,
    /// The primary that was told that this secondary is there.
    greeted: Option<Generation>,
}

impl Secondary {
    /// A secondary that expects nobody yet.
    pub fn new() -> Secondary {
        Secondary::default()
    }
}

fn tell(common: &mut Common, kind: FrameKind, job: u64) {
    let Common { me, links } = common;
    for link in links {
        link.send(me, &Message { job, ..Message::plain(kind) });
    }
}

impl Role for Secondary {
    fn frame(&mut self, common: &mut Common, link: usize, frame: &Frame, now: Monotonic) {
        match frame.kind {
            FrameKind::Ping => {
                let Common { me, links } = common;
                links[link].confirm(me, frame.from_generation);
                links[link].send(me, &Message::plain(FrameKind::Pong));
            }
            FrameKind::Job => {
                let Some(job) = announced(frame, now) else { return };
                if self.expected.announce(job) == Announced::Begun {
                    tell(common, FrameKind::Begin, job.id);
                }
            }
            // Prompts, since every turn looks at the segment; the others go the other way.
            FrameKind::Grant
            | FrameKind::Recall
            | FrameKind::Lost
            | FrameKind::Pong
            | FrameKind::Request
            | FrameKind::Release
            | FrameKind::Begin
            | FrameKind::Done
            | FrameKind::Failed => {}
        }
    }

    fn ask_arbiter(&mut self, common: &mut Common, action: HolderAction, _now: Monotonic) {
        let message = match action {
            HolderAction::Request => Message::plain(FrameKind::Request),
            HolderAction::Release(epoch) => Message::about(FrameKind::Release, epoch),
        };
        let Common { me, links } = common;
        for link in links {
            link.send(me, &message);
        }
    }

    fn turn(&mut self, common: &mut Common, _now: Monotonic) {
        let Common { me, links } = common;
        for link in links {
            // Eligible for work from the first turn on, not from the next ping on.
            let primary = me.live_in(link.peer);
            if primary.is_some() && primary != self.greeted {
                self.greeted = primary;
                link.send(me, &Message::plain(FrameKind::Pong));
            }
            // The primary that answered was replaced: down until its successor pings.
            if link.up.is_some() && !link.is_up(me) {
                link.up = None;
                me.page().activity.link.store(0, Ordering::Relaxed);
            }
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        None
    }

    fn opened(&mut self, common: &mut Common, peer: IpAddr, now: Monotonic) -> Session {
        let job = self.expected.claim(peer, now);
        let rights = match job.map(|job| job.kind) {
            Some(JobType::ReadWrite) => Rights::All,
            Some(JobType::Read) | None => Rights::Read,
        };
        if let Some(job) = job {
            tell(common, FrameKind::Begin, job.id);
        }
        Session::new(peer, rights, job.map(|job| Taken { id: job.id, kind: job.kind }))
    }

    fn closed(&mut self, common: &mut Common, session: &Session, cleanly: bool) {
        if let Some(job) = session.job {
            tell(common, if cleanly { FrameKind::Done } else { FrameKind::Failed }, job.id);
        }
    }

    fn bare(
        &mut self,
        _shared: &mut Common,
        _session: &Session,
        _input: &[u8],
        _out: &mut Vec<u8>,
        _now: Monotonic,
    ) -> Option<usize> {
        None
    }

    fn small_talk(&self, common: &Common, session: &Session) -> Option<String> {
        let kind = session.job?.kind;
        let (_, _, word) = *JobType::ALL.iter().find(|(known, ..)| *known == kind)?;
        let commands = match session.rights {
            Rights::All => "GET key, SET key value, INCR key, KEYS *, PING, QUIT",
            Rights::Read => "GET key, KEYS *, PING, QUIT",
        };
        let time = std::time::UNIX_EPOCH + Duration::from_nanos(unix_ns());
        Some(format!(
            "{} (generation {}) serves you, {word}; it is {} UTC. What I know: {commands}",
            common.me.name,
            common.me.generation,
            humantime::format_rfc3339_seconds(time).to_string().replace(['T', 'Z'], " ").trim_end(),
        ))
    }
}
