//! What people ask for: a stop, a start or a restart of some, a pause, another list of services.

use osps_heart::ids::SlotId;
use osps_heart::segment::What;
use osps_heart::time::Monotonic;

use super::super::server::{Goal, Holding, Server};
use super::{Action, Group, Spec};

/// What another list of services means for one slot.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Its process stays; limits and edges may be others.
    Keep(Spec),
    /// Its process goes, and another one comes in its place.
    Replace(Spec),
    /// The slot was free.
    Add(Spec),
    /// Its process goes, and the slot is free then.
    Remove,
}

impl Group {
    /// It shall run, whatever became of it.
    pub(super) fn asked_to_start(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        match (server.goal, server.stage.has_process()) {
            (Goal::Leave, _) | (Goal::Run, true) => {}
            (_, true) => server.goal = Goal::Again,
            (_, false) => {
                server.goal = Goal::Run;
                server.forgive();
                self.renew(slot, out);
                self.want(slot, now, out);
            }
        }
    }

    /// It shall go, and stay away until it is asked for.
    pub(super) fn asked_to_stop(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        if let Some(server) = self.servers.get_mut(slot.index())
            && server.goal != Goal::Leave
        {
            server.goal = Goal::Rest;
            self.drop_from_rolls(slot);
            self.press_stop(now, out);
        }
    }

    /// Not judged until then.
    pub(super) fn pause(&mut self, slot: SlotId, until: Monotonic, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        server.paused_until = Some(until);
        if let Holding::Alive(life) = &mut server.holding {
            life.excuse(until);
        }
        out.push(Action::Told { slot: Some(slot), what: What::Paused { until } });
    }

    /// Judged again: every limit runs from now.
    pub(super) fn resume(&mut self, slot: SlotId, now: Monotonic, out: &mut Vec<Action>) {
        let Some(server) = self.servers.get_mut(slot.index()) else { return };
        if server.paused_until.take().is_some() {
            if let Holding::Alive(life) = &mut server.holding {
                life.resume(now);
            }
            out.push(Action::Told { slot: Some(slot), what: What::Resumed });
        }
    }

    /// Takes another list of services. Whoever calls has seen that no edges make a circle, and that
    /// no earlier list is still being carried out ([`Group::is_editing`]).
    pub fn edit(&mut self, now: Monotonic, edits: Vec<(SlotId, Edit)>) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        let mut wanted = Vec::new();
        for (slot, edit) in edits {
            match edit {
                Edit::Add(spec) => {
                    self.graph.set(slot, spec.edges.clone());
                    while self.servers.len() <= slot.index() {
                        self.servers.push(Server::vacant());
                    }
                    self.servers[slot.index()] = Server::new(spec);
                    wanted.push(slot);
                }
                Edit::Remove => {
                    if let Some(server) = self.servers.get_mut(slot.index()) {
                        server.goal = Goal::Leave;
                        self.drop_from_rolls(slot);
                    }
                }
                Edit::Keep(spec) => {
                    let Some(server) = self.servers.get_mut(slot.index()) else { continue };
                    self.graph.set(slot, spec.edges.clone());
                    if let Holding::Alive(life) = &mut server.holding
                        && server.spec.limits.hang != spec.limits.hang
                    {
                        life.own.pulse.set_limit(spec.limits.hang);
                        life.own.pulse.renew(now);
                    }
                    server.tally.set_intensity(spec.rule.intensity);
                    server.spec = spec;
                }
                Edit::Replace(spec) => {
                    let Some(server) = self.servers.get_mut(slot.index()) else { continue };
                    server.next = Some(spec);
                    if server.stage.has_process() {
                        if server.goal == Goal::Run {
                            server.goal = Goal::Again;
                        }
                    } else {
                        let rests = server.goal == Goal::Rest;
                        self.renew(slot, out);
                        if !rests {
                            wanted.push(slot);
                        }
                    }
                }
            }
        }
        self.press_stop(now, out);
        for slot in wanted {
            self.want(slot, now, out);
        }
        self.start_waiting(now, out);
        actions
    }

    /// Whether a list of services is still being carried out.
    pub fn is_editing(&self) -> bool {
        self.servers.iter().any(|of| !of.vacant && (of.next.is_some() || of.goal == Goal::Leave))
    }

    /// Whether a slot's service is not wanted any more, and its process is gone.
    pub fn is_over(&self, slot: SlotId) -> bool {
        self.servers.get(slot.index()).is_some_and(|server| {
            !server.vacant && server.goal == Goal::Leave && !server.stage.has_process()
        })
    }

    /// Nobody has this slot any more.
    pub(super) fn vacate(&mut self, slot: SlotId, out: &mut Vec<Action>) {
        if self.is_over(slot) {
            out.push(Action::Told { slot: Some(slot), what: What::Removed });
            self.graph.set(slot, super::super::graph::Edges::default());
            self.servers[slot.index()] = Server::vacant();
        }
    }

    /// What a server shall do.
    pub fn goal(&self, slot: SlotId) -> Goal {
        self.servers.get(slot.index()).map_or(Goal::Rest, |server| server.goal)
    }

    /// Until when it is not judged.
    pub fn paused_until(&self, slot: SlotId) -> Option<Monotonic> {
        self.servers.get(slot.index())?.paused_until
    }

    /// Whether nobody has this slot.
    pub fn is_vacant(&self, slot: SlotId) -> bool {
        self.servers.get(slot.index()).is_none_or(|server| server.vacant)
    }
}
