//! How servers go and come back: stops in order, deaths, starts of those that wait for others.

use osps_heart::ids::SlotId;
use osps_heart::segment::{Death, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Press};

use super::super::lifecycle::{Next, Stage, Trigger};
use super::super::restart::{Decision, Restart};
use super::super::server::{Goal, Gone, Holding, Reason, Server};
use super::{Action, Group, Note, Outcome};

impl Group {
    /// Kills without grace, for a reason that is not the server's own.
    pub(super) fn condemn(
        &mut self,
        slot: SlotId,
        cause: Cause,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some(life) = self.servers.get(slot.index()).and_then(Server::life) else { return };
        let silence = now.since(life.own.pulse.last_beat());
        let limit = life.own.pulse.limit();
        self.leave(slot, Reason::Condemned(cause, now), Some(now));
        let what = What::Verdict { cause, class: None, silence };
        self.apply(slot, Trigger::Condemn, what, Note::Limit(limit), now, out);
    }

    pub(super) fn stop(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        self.leave(slot, Reason::Told, None);
        self.apply(slot, Trigger::Stop, What::StopOrder, Note::Nothing, now, out);
    }

    pub(super) fn leave(&mut self, slot: SlotId, reason: Reason, absent_since: Option<Monotonic>) {
        if let Some(server) = self.servers.get_mut(slot.index()) {
            server.leave(reason, absent_since);
        }
    }

    /// A process is confirmed dead: what that means for its slot, and for those that need it.
    pub(super) fn died(
        &mut self,
        slot: SlotId,
        death: Death,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let ending = self.ending.is_some();
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let (cause, killed_at) = match &server.holding {
            Holding::Dead(_) => return,
            Holding::Alive(_) => (Some(death.cause()), None),
            Holding::Leaving(_, Reason::Told) => (None, None),
            Holding::Leaving(_, Reason::Hastened(at)) => (None, Some(*at)),
            Holding::Leaving(_, Reason::Condemned(cause, at)) => (Some(*cause), Some(*at)),
        };
        let (up_since, absent_since) =
            server.life().map_or((None, None), |life| (life.up_since, life.absent_since));
        let up = up_since.map(|since| now.since(since));
        let took = killed_at.map(|killed| now.since(killed));
        let own = !matches!(cause, None | Some(Cause::Dependency | Cause::Requested));
        let goal = server.goal;
        let rule = &server.spec.rule;
        let success = killed_at.is_none() && rule.is_success(death);
        let next = if !own || ending || goal != Goal::Run {
            Next::Rest
        } else if success && rule.restart != Restart::Always {
            Next::Finish
        } else if rule.restart == Restart::Never {
            Next::Never
        } else {
            let decision = match death {
                Death::NotSpawned => server.tally.not_launched(now),
                _ => server.tally.died(now, up),
            };
            match decision {
                Decision::Again(at) if at <= now => Next::Rest,
                Decision::Again(at) => Next::Wait(at),
                Decision::GiveUp => Next::Never,
            }
        };
        let (essential, once) = (rule.essential, rule.restart == Restart::Never);
        server.holding = Holding::Dead(Gone { cause, absent_since: absent_since.or(Some(now)) });
        let what = match next {
            Next::Rest => What::Died { death, cause },
            Next::Wait(until) => What::Backoff { death, until },
            Next::Never => What::Failed { death, once },
            Next::Finish => What::Done { death },
        };
        let note = Note::Death { up: up.unwrap_or_default(), took };
        self.apply(slot, next.trigger(), what, note, now, out);
        if let (Next::Wait(until), Some(server)) = (next, self.servers.get_mut(slot.index())) {
            server.timer = Some(until);
        }
        let end = match next {
            Next::Never if essential => Some(Outcome::GaveUp),
            Next::Finish if essential => Some(Outcome::Clean),
            Next::Rest | Next::Wait(_) | Next::Never | Next::Finish => None,
        };
        if end.is_some() {
            (self.ending, self.ended_by) = (end, Some((slot, what)));
        }
        if self.ending.is_none() {
            // Not for those whose end was a success: nothing failed.
            if own && next != Next::Finish && goal == Goal::Run {
                for dependent in self.graph.go_with(slot) {
                    // Who goes already goes its own way.
                    if self.stage(dependent).is_watched() {
                        self.condemn(dependent, Cause::Dependency, now, out);
                    }
                }
            }
            match goal {
                // A crash of its own waits for nobody: whom it needs was up.
                Goal::Run if next == Next::Rest && own => self.start(slot, now, out),
                Goal::Run if next == Next::Rest => self.want(slot, now, out),
                Goal::Again => self.come_back(slot, now, out),
                // What a reload has for it takes its place now, or the reload would never be over.
                Goal::Rest => self.renew(slot, out),
                Goal::Run | Goal::Leave => {}
            }
        }
        self.press_stop(now, out);
        self.start_waiting(now, out);
    }

    /// A server that was to go only in order to come back is gone.
    fn come_back(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        server.goal = Goal::Run;
        server.forgive();
        self.renew(slot, out);
        self.want(slot, now, out);
    }

    /// What a reload has for this slot takes the place of what was there.
    pub(super) fn renew(&mut self, slot: SlotId, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        if let Some(spec) = server.next.take() {
            self.graph.set(slot, spec.edges.clone());
            server.spec = spec;
            server.forgive();
            out.push(Action::Renewed { slot });
        }
    }

    /// It shall run: at once, or as soon as those that it needs are up.
    pub(super) fn want(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        match self.blocked_by(slot) {
            _ if self.ending.is_some() => {}
            None => self.start(slot, now, out),
            Some(by) => {
                let what = What::Blocked { by };
                self.apply(slot, Trigger::Await, what, Note::Nothing, now, out);
            }
        }
    }

    /// Starts those that wait for nobody any more.
    pub(super) fn start_waiting(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        for slot in self.slots() {
            if self.stage(slot) == Stage::Blocked && self.blocked_by(slot).is_none() {
                self.start(slot, now, out);
            }
        }
    }

    /// The first of those that it needs to be up (or done) and that is not.
    pub fn blocked_by(&self, slot: SlotId) -> Option<SlotId> {
        let server = self.servers.get(slot.index())?;
        let edges = &server.spec.edges;
        let is_done = |of: SlotId| self.is_vacant(of) || self.stage(of) == Stage::Done;
        let up = edges.depends_on.iter().copied().filter(|of| !is_done(*of) && !self.is_up(*of));
        let done = edges.after_done.iter().copied().filter(|of| !is_done(*of));
        up.chain(done).next()
    }

    /// Whether a server is up, and shall stay so.
    fn is_up(&self, of: SlotId) -> bool {
        let Some(server) = self.servers.get(of.index()) else { return false };
        match &server.holding {
            Holding::Alive(life) => life.up_since.is_some() && server.goal == Goal::Run,
            Holding::Leaving(..) | Holding::Dead(_) => false,
        }
    }

    pub(super) fn start(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        if self.ending.is_some() {
            return;
        }
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        let what = What::Started { pid: 0, after: server.gone_for() };
        self.apply(slot, Trigger::Start, what, Note::Nothing, now, out);
    }

    pub(super) fn timer(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        self.grown_up(slot, now, out);
        if self.paused_until(slot).is_some_and(|until| now >= until) {
            self.resume(slot, now, out);
        }
        let Some(server) = self.servers.get(slot.index()) else { return };
        if server.timer.is_none_or(|timer| timer > now) {
            return;
        }
        let what = match server.stage.on(Trigger::Timer).0 {
            Stage::Terminating => What::Pressed { press: Press::Terminate, heedless: false },
            Stage::Killing => What::Pressed { press: Press::Kill, heedless: false },
            Stage::Unkillable => What::Alarm,
            Stage::Down
            | Stage::Starting
            | Stage::Up
            | Stage::Late
            | Stage::Held
            | Stage::Asked
            | Stage::Backoff
            | Stage::Failed
            | Stage::Done
            | Stage::Blocked => What::Started { pid: 0, after: server.gone_for() },
        };
        self.apply(slot, Trigger::Timer, what, Note::Nothing, now, out);
    }

    /// Stops every server that shall go and that nobody who shall go as well needs any more.
    pub(super) fn press_stop(&mut self, now: Monotonic, out: &mut Vec<Action>) {
        let ending = self.ending.is_some();
        let goes = |group: &Group, slot: SlotId| {
            ending || group.servers.get(slot.index()).is_some_and(|of| of.goal != Goal::Run)
        };
        for slot in self.slots().rev() {
            if !goes(self, slot) {
                continue;
            }
            let needed = || {
                self.graph.stop_before(slot).into_iter().any(|dependent| {
                    let stage = self.stage(dependent);
                    goes(self, dependent) && stage.has_process() && stage != Stage::Unkillable
                })
            };
            // A slot that waits for its next process stops at once: it must not start one.
            if !self.stage(slot).has_process() || !needed() {
                self.stop(slot, now, out);
            }
        }
        // While a reload is carried out, old and new edges together may make a circle, in which
        // everybody waits for another: one of them goes first, and the rest in order.
        if let Some(first) = self.stuck_in_circle(|slot| goes(self, slot)) {
            self.stop(first, now, out);
        }
    }

    /// The last of those on a circle whom nobody outside of it holds up any more: nobody else would
    /// ever let them go.
    fn stuck_in_circle(&self, goes: impl Fn(SlotId) -> bool) -> Option<SlotId> {
        let stays = |slot: &SlotId| {
            let stage = self.stage(*slot);
            goes(*slot) && stage.has_process() && stage != Stage::Unkillable
        };
        // Whom it waits for, directly or through others.
        let waits_for = |slot: SlotId| {
            let mut found: Vec<SlotId> = Vec::new();
            let mut next = vec![slot];
            while let Some(of) = next.pop() {
                for before in self.graph.stop_before(of).into_iter().filter(stays) {
                    if !found.contains(&before) {
                        found.push(before);
                        next.push(before);
                    }
                }
            }
            found
        };
        let is_stuck = |slot: &SlotId| {
            let found = waits_for(*slot);
            let waits = |of: &SlotId| self.stage(*of).is_watched() && waits_for(*of).contains(slot);
            found.contains(slot) && found.iter().all(waits)
        };
        let is_told = |slot: &SlotId| !self.stage(*slot).is_watched();
        self.slots().rev().filter(|slot| stays(slot) && !is_told(slot)).find(is_stuck)
    }
}
