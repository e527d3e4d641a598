//! Hearts: what is read becomes late, frozen, up again; the worst of a server's hearts decides.

use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::pulse::{Counts, Limits, Pulse, Reading, Sample, Turn, slack};
use osps_heart::segment::What;
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class};

use super::super::lifecycle::{Stage, Trigger};
use super::super::server::{Heart, Holding, Line, PROBE, Reason};
use super::{Action, Group, Note, limit_of};

impl Group {
    pub(super) fn sample(
        &mut self,
        slot: SlotId,
        seen: Sample,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let turn = Turn { read: now, ..self.turn };
        let Some((limits, _, life)) = self.alive(slot) else { return };
        if now >= life.probe_at {
            let pause = (now.since(life.spawned_at) / 2).min(slack(limits.hang));
            life.probe_at = now + pause.max(PROBE);
        }
        let silence = now.since(life.own.pulse.last_beat());
        let reading = life.own.pulse.observe(&turn, seen);
        self.hear(slot, None, reading, silence, now, out);
    }

    pub(super) fn further(
        &mut self,
        slot: SlotId,
        line: u16,
        seen: Option<Sample>,
        limit: Option<Duration>,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let turn = Turn { read: now, ..self.turn };
        let paused = self.paused_until(slot);
        let Some((limits, _, life)) = self.alive(slot) else { return };
        let Some(seen) = seen else {
            if life.further.remove(&line).is_some_and(|heart| heart.silent) {
                self.recovered(slot, Duration::ZERO, now, out);
            }
            return;
        };
        let heart = life.further.entry(line).or_insert_with(|| {
            // What it counted before we saw it for the first time says nothing of now.
            let limits = Limits { hang: limit.unwrap_or(limits.hang), ..limits };
            let mut pulse = Pulse::new(limits, now, seen.count).counting(Counts::FromFirstBeat);
            if let Some(until) = paused {
                pulse.excuse(until + limits.hang);
            }
            Heart::new(pulse)
        });
        let silence = now.since(heart.pulse.last_beat());
        let reading = heart.pulse.observe(&turn, seen);
        self.hear(slot, Some(line), reading, silence, now, out);
    }

    /// What one look at one heart means for the server: the worst of its hearts decides.
    fn hear(
        &mut self,
        slot: SlotId,
        line: Line,
        reading: Reading,
        silence: Duration,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        let Some(heart) = life.heart(line) else { return };
        let limit = heart.pulse.limit();
        heart.silent = match reading {
            Reading::Quiet => heart.silent,
            Reading::Beat { .. } | Reading::Parked => false,
            Reading::Late | Reading::Overdue => true,
        };
        match reading {
            Reading::Quiet => {}
            Reading::Beat { first: true } if line.is_none() => self.first_beat(slot, now, out),
            Reading::Beat { .. } | Reading::Parked => self.recovered(slot, silence, now, out),
            Reading::Late => {
                let note = limit_of(line, limit);
                self.apply(slot, Trigger::Late, What::Late { silence }, note, now, out);
            }
            Reading::Overdue => out.push(Action::Examine { slot, line }),
        }
    }

    /// It said that it is broken.
    pub(super) fn triggered(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let class = Class::Triggered;
        if self.paused_until(slot).is_some() {
            return;
        }
        if self.watched(slot).is_some_and(|server| server.spec.watch.warn) {
            let silence = self.silence(slot, now).unwrap_or_default();
            let what = What::Warned { class, silence };
            self.apply(slot, Trigger::Hold, what, Note::Nothing, now, out);
        } else if self.stage(slot) != Stage::Held {
            self.convict(slot, None, Cause::Frozen, Some(class), now, now, out);
        }
    }

    /// A heart beats again: the server does if no other heart of it is silent. Who has not come up
    /// yet does not by that.
    fn recovered(
        &mut self,
        slot: SlotId,
        silence: Duration,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        if !life.is_silent() && life.up_since.is_some() {
            self.apply(slot, Trigger::Beat, What::Beat { silence }, Note::Nothing, now, out);
        }
    }

    fn first_beat(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let Some((_, watch, life)) = self.alive(slot) else { return };
        let at = life.own.pulse.last_beat();
        let unwatched = watch.counts() == Counts::Never;
        if life.up_since.is_some() {
            // It was up without; now it can be judged.
            if !unwatched {
                let what = What::Watched { source: watch.source };
                out.push(Action::Told { slot: Some(slot), what });
            }
            return;
        }
        self.came_up(slot, at, now, out);
    }

    pub(super) fn ready(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let up = self.alive(slot).is_some_and(|(_, _, life)| life.up_since.is_some());
        if !up {
            self.came_up(slot, now, now, out);
        }
    }

    /// It is up since `at`: whoever waits for it may start.
    fn came_up(&mut self, slot: SlotId, at: Monotonic, now: Monotonic, out: &mut Vec<Action>) {
        let Some((_, _, life)) = self.alive(slot) else { return };
        life.up_since = Some(at);
        let down_for = life.absent_since.take().map(|gone| at.since(gone));
        let what = What::FirstBeat { after: at.since(life.spawned_at), down_for };
        self.apply(slot, Trigger::Beat, what, Note::Nothing, now, out);
        self.start_waiting(now, out);
    }

    /// Alive for long enough without a beat is up as well, where nothing else can be known.
    pub(super) fn grown_up(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let starting = self.stage(slot) == Stage::Starting;
        let Some((_, _, life)) = self.alive(slot) else { return };
        if starting && life.up_since.is_none() && life.up_at.is_some_and(|at| now >= at) {
            life.up_since = Some(now);
            life.absent_since = None;
            self.apply(slot, Trigger::Beat, What::Unwatched, Note::Nothing, now, out);
            self.start_waiting(now, out);
        }
    }

    /// Neither overdue nor pressed before this moment.
    pub(super) fn excuse(&mut self, slot: SlotId, until: Monotonic) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        match &mut server.holding {
            Holding::Alive(life) => life.own.pulse.excuse(until),
            Holding::Leaving(..) if server.stage == Stage::Terminating => {
                server.timer = server.timer.map(|timer| timer.max(until));
            }
            Holding::Leaving(..) | Holding::Dead(_) => {}
        }
    }

    pub(super) fn examined(
        &mut self,
        slot: SlotId,
        line: Line,
        seen: Sample,
        class: Class,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let turn = Turn { read: now, ..self.turn };
        let held = self.stage(slot) == Stage::Held;
        let Some((_, watch, life)) = self.alive(slot) else { return };
        let may_die = class == Class::Dying && life.may_die(now);
        let Some(heart) = life.heart(line) else { return };
        let silence = now.since(heart.pulse.last_beat());
        let limit = heart.pulse.limit();
        let reading = heart.pulse.observe(&turn, seen);
        match reading {
            // It beat between the two looks: the last moment at which that saves it.
            Reading::Beat { .. } | Reading::Parked => {
                self.hear(slot, line, reading, silence, now, out);
            }
            Reading::Quiet | Reading::Late => {}
            // Somebody's intention, or an honest silence of the kernel's: killing would cut the
            // core and hide the signal.
            Reading::Overdue if class.is_intention() || may_die => {
                heart.pulse.renew(now);
                self.apply(slot, Trigger::Hold, What::Held { class }, Note::Nothing, now, out);
            }
            Reading::Overdue if watch.warn => {
                heart.pulse.go_on(now);
                let (what, note) = (What::Warned { class, silence }, limit_of(line, limit));
                self.apply(slot, Trigger::Hold, what, note, now, out);
            }
            Reading::Overdue if held && class != Class::Dying => {
                heart.pulse.renew(now);
                self.apply(slot, Trigger::Pardon, What::Pardoned, Note::Nothing, now, out);
            }
            Reading::Overdue if class == Class::Starved && heart.pulse.renew_starved(now) => {
                out.push(Action::Told { slot: Some(slot), what: What::Spared { silence } });
            }
            Reading::Overdue => {
                let absent_since = heart.pulse.last_beat();
                let (cause, class) = if heart.pulse.has_beaten() {
                    (Cause::Frozen, Some(class))
                } else {
                    (Cause::StartTimeout, None)
                };
                self.convict(slot, line, cause, class, absent_since, now, out);
            }
        }
    }

    /// Kills a server for its own fault.
    #[allow(
        clippy::too_many_arguments,
        reason = "a verdict names all of them, and nobody else does"
    )]
    pub(super) fn convict(
        &mut self,
        slot: SlotId,
        line: Line,
        cause: Cause,
        class: Option<Class>,
        absent_since: Monotonic,
        now: Monotonic,
        out: &mut Vec<Action>,
    ) {
        let Some((limits, _, life)) = self.alive(slot) else { return };
        let Some(heart) = life.heart(line) else { return };
        let silence = now.since(heart.pulse.last_beat());
        // It kept the data for its limit, whether it ever beat or not.
        let kept = class == Some(Class::NotReleasing);
        let limit = if kept { limits.hang } else { heart.pulse.limit() };
        self.leave(slot, Reason::Condemned(cause, now), Some(absent_since));
        let what = What::Verdict { cause, class, silence };
        self.apply(slot, Trigger::Convict, what, limit_of(line, limit), now, out);
    }
}
