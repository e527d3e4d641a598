//! A secondary (SS): serves the clients that the primary announces, and tells what became of them.

use std::net::IpAddr;

use super::link::{Message, announced};
use super::part::{Part, Rights, Session, Shared};
use crate::ids::Generation;
use crate::policy::dispatch::{Announced, Expected, Kind as JobKind};
use crate::policy::ownership::Plea;
use crate::sync::Ordering;
use crate::time::Monotonic;
use crate::wire::{Frame, Kind};

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

fn tell(shared: &mut Shared, kind: Kind, job: u64) {
    let Shared { me, links } = shared;
    for link in links {
        link.send(me, &Message { job, ..Message::plain(kind) });
    }
}

impl Part for Secondary {
    fn frame(&mut self, shared: &mut Shared, link: usize, frame: &Frame, now: Monotonic) {
        match frame.kind {
            Kind::Ping => {
                let Shared { me, links } = shared;
                links[link].confirm(me, frame.from_generation);
                links[link].send(me, &Message::plain(Kind::Pong));
            }
            Kind::Job => {
                let Some(job) = announced(frame, now) else { return };
                if self.expected.announce(job) == Announced::Begun {
                    tell(shared, Kind::Begin, job.id);
                }
            }
            // Prompts, since every turn looks at the segment; the others go the other way.
            Kind::Grant
            | Kind::Recall
            | Kind::Lost
            | Kind::Pong
            | Kind::Request
            | Kind::Release
            | Kind::Begin
            | Kind::Done
            | Kind::Failed => {}
        }
    }

    fn plead(&mut self, shared: &mut Shared, plea: Plea, _now: Monotonic) {
        let message = match plea {
            Plea::Request => Message::plain(Kind::Request),
            Plea::Release(epoch) => Message::about(Kind::Release, epoch),
        };
        let Shared { me, links } = shared;
        for link in links {
            link.send(me, &message);
        }
    }

    fn turn(&mut self, shared: &mut Shared, _now: Monotonic) {
        let Shared { me, links } = shared;
        for link in links {
            // Eligible for work from the first turn on, not from the next ping on.
            let primary = me.live_in(link.peer);
            if primary.is_some() && primary != self.greeted {
                self.greeted = primary;
                link.send(me, &Message::plain(Kind::Pong));
            }
            // The primary that answered was replaced: down until its successor pings.
            if link.up.is_some() && !link.is_up(me) {
                link.up = None;
                me.page().report.link.store(0, Ordering::Relaxed);
            }
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        None
    }

    fn opened(&mut self, shared: &mut Shared, peer: IpAddr, now: Monotonic) -> Session {
        let job = self.expected.claim(peer, now);
        let rights = match job.map(|job| job.kind) {
            Some(JobKind::ReadWrite) => Rights::All,
            Some(JobKind::Read) | None => Rights::Read,
        };
        if let Some(job) = job {
            tell(shared, Kind::Begin, job.id);
        }
        Session { peer, rights, job: job.map(|job| job.id) }
    }

    fn closed(&mut self, shared: &mut Shared, session: &Session, cleanly: bool) {
        if let Some(job) = session.job {
            tell(shared, if cleanly { Kind::Done } else { Kind::Failed }, job);
        }
    }

    fn bare(
        &mut self,
        _shared: &mut Shared,
        _session: &Session,
        _input: &[u8],
        _out: &mut Vec<u8>,
        _now: Monotonic,
    ) -> Option<usize> {
        None
    }

    fn takes_quiet_words(&self) -> bool {
        false
    }
}
