//! What people ask for over the control socket, and what they are told of it.
//!
//! Everything goes through the policy and is written down with who asked. Whoever asked gets a
//! line for each change of those that are concerned, and at the end one that says how it came out.
//! Tested in tests/services.rs.

use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::What;
use osps_heart::time::Monotonic;
use osps_heart::words::{Request, State};

use super::{Allow, Watchdog};
use crate::instance::control::{Asked, Wish};
use crate::policy::group::{Goal, Input};
use crate::policy::lifecycle::Stage;

/// Somebody who waits until what was asked for is done.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Whom to answer; `None` = a signal asked.
    pub(super) token: Option<u64>,
    pub(super) request: Request,
    /// Who is concerned, and which process was there when it was asked.
    pub(super) slots: Vec<(SlotId, Generation)>,
    /// What the answer begins with.
    pub(super) summary: String,
}

/// What became of a service that a reload took away.
const REMOVED: &str = "is not in the file any more";

impl Watchdog {
    /// Does what somebody asks for, or begins to.
    pub(super) fn heed_asked(&mut self, now: Monotonic, asked: Asked) {
        let Asked { token, uid, wish } = asked;
        match wish {
            Wish::StopAll => {
                self.control.tell(token, "ok stopping");
                self.stoppers.push(token);
                if self.allow == Allow::Running {
                    self.stop_requested(now, "osps stop");
                }
            }
            _ if self.allow != Allow::Running => {
                self.control.close(&self.poll, token, "error osps is stopping");
            }
            Wish::Upgrade(image) => self.upgrade(now, token, uid, image),
            Wish::ReloadFile => self.reload_file(now, Some(token), uid),
            Wish::Some { request, span, names } => match self.find(&names) {
                Err(why) => self.control.close(&self.poll, token, &format!("error {why}")),
                Ok(slots) => {
                    let wants_it = matches!(request, Request::Start | Request::Restart);
                    let leaves = |slot: &&SlotId| self.group.goal(**slot) == Goal::Leave;
                    if let Some(slot) = slots.iter().find(leaves).filter(|_| wants_it) {
                        let why = format!("{} {REMOVED}", self.children[slot.index()].name());
                        self.control.close(&self.poll, token, &format!("error {why}"));
                        return;
                    }
                    for slot in &slots {
                        self.report(*slot, What::Asked { request, uid });
                    }
                    let seen = |slot: &SlotId| (*slot, self.children[slot.index()].generation);
                    let known = slots.iter().map(seen).collect();
                    if request == Request::Restart && !self.group.may_roll() {
                        let why = "error too many restarts are under way: try again";
                        self.control.close(&self.poll, token, why);
                        return;
                    }
                    let summary = match request {
                        Request::Reload => match self.reload_those(&slots) {
                            Ok(()) => "reload begun",
                            Err(why) => {
                                self.control.close(&self.poll, token, &format!("error {why}"));
                                return;
                            }
                        },
                        Request::Stop => "stopped",
                        Request::Start => "up",
                        Request::Restart => "restarted",
                        Request::Pause => "paused",
                        Request::Resume => "judged again",
                    };
                    // Whoever needs another goes before it.
                    let slots = match request {
                        Request::Stop => slots.into_iter().rev().collect(),
                        _ => slots,
                    };
                    for slot in slots {
                        let input = match request {
                            Request::Stop => Input::Rest { slot },
                            Request::Start => Input::Start { slot },
                            Request::Restart => {
                                let service = self.first_of_family(slot);
                                Input::Restart { slot, service, request: token }
                            }
                            Request::Pause => Input::Pause { slot, until: now + span },
                            Request::Resume => Input::Resume { slot },
                            Request::Reload => continue,
                        };
                        self.step(now, input);
                    }
                    let (token, summary) = (Some(token), summary.to_owned());
                    self.waiting.push(Waiting { token, request, slots: known, summary });
                }
            },
        }
    }

    /// The slot of the first instance of a service.
    fn first_of_family(&self, slot: SlotId) -> SlotId {
        let family = |slot: SlotId| &self.children[slot.index()].service.family;
        self.group.slots().find(|other| family(*other) == family(slot)).unwrap_or(slot)
    }

    /// What somebody wanted restarted is up again: whatever comes later is another one's affair.
    pub(super) fn rolled(&mut self, request: u64, slot: SlotId) {
        let mut waiting = self.waiting.iter_mut();
        let of = waiting
            .find(|waiting| waiting.request == Request::Restart && waiting.token == Some(request));
        if let Some(waiting) = of {
            waiting.slots.retain(|(of, _)| *of != slot);
        }
    }

    /// Each service by its own way to take up a new configuration.
    fn reload_those(&mut self, slots: &[SlotId]) -> Result<(), String> {
        let has_none = |slot: &&SlotId| self.children[slot.index()].service.reload.is_none();
        if let Some(slot) = slots.iter().find(has_none) {
            let name = self.children[slot.index()].name();
            return Err(format!(
                "{name} has no reload of its own (key `reload`); `osps restart {name}` restarts it"
            ));
        }
        // Its signal kills one that has not set itself up yet.
        let is_up = |slot: &SlotId| {
            matches!(self.group.stage(*slot), Stage::Up | Stage::Late | Stage::Held)
        };
        if let Some(slot) = slots.iter().find(|slot| !is_up(slot)) {
            let (name, state) = (self.children[slot.index()].name(), self.group.stage(*slot));
            return Err(format!("{name} is {}, and not up: nobody was reloaded", state.state()));
        }
        for slot in slots {
            self.reload_own(*slot);
        }
        Ok(())
    }

    /// The slots of those with these names, of a service or of one instance of it; first those that
    /// others of them need.
    fn find(&self, names: &[String]) -> Result<Vec<SlotId>, String> {
        let mut found: Vec<SlotId> = Vec::new();
        for name in names {
            let service = |slot: &SlotId| &self.children[slot.index()].service;
            let exact = self.group.slots().filter(|slot| service(slot).name == *name);
            let family = self.group.slots().filter(|slot| service(slot).family == *name);
            let mut slots: Vec<_> = exact.collect();
            if slots.is_empty() {
                slots = family.collect();
            }
            if slots.is_empty() {
                let mut known: Vec<_> =
                    self.group.slots().map(|slot| service(&slot).family.as_str()).collect();
                known.dedup();
                return Err(format!("there is no service {name}; there is {}", known.join(", ")));
            }
            found.extend(slots);
        }
        found.sort_unstable();
        found.dedup();
        // Few, and without circles: each round finds one at least.
        let mut ordered: Vec<SlotId> = Vec::new();
        while !found.is_empty() {
            let free = |slot: &SlotId| {
                let edges = self.group.edges(*slot);
                !edges.is_some_and(|edges| edges.all().any(|on| found.contains(&on)))
            };
            let next = found.iter().copied().find(free).unwrap_or(found[0]);
            found.retain(|slot| *slot != next);
            ordered.push(next);
        }
        Ok(ordered)
    }

    /// A server changed: whoever waits for it is told.
    pub(super) fn tell_askers(&self, slot: SlotId, state: State) {
        let line = format!("{}: {state}", self.children[slot.index()].name());
        for token in &self.stoppers {
            self.control.tell(*token, &line);
        }
        for waiting in &self.waiting {
            let concerns = waiting.slots.iter().any(|(of, _)| *of == slot);
            if let Some(token) = waiting.token.filter(|_| concerns) {
                self.control.tell(token, &line);
            }
        }
    }

    /// Once a turn: answers those whose wish is done.
    pub(super) fn answer(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|waiting| {
            let Waiting { token, request, summary, .. } = waiting;
            // Nobody starts any more; whoever waits for a stop still gets it.
            let in_vain = matches!(request, Request::Start | Request::Restart | Request::Reload);
            let trouble = match self.trouble_of(waiting) {
                trouble if trouble.as_ref().is_some_and(String::is_empty) => trouble,
                _ if in_vain && self.group.is_ending() => Some("osps is stopping".to_owned()),
                trouble => trouble,
            };
            let Some(trouble) = trouble else { return true };
            match (token, trouble.is_empty()) {
                (Some(token), true) => {
                    self.control.close(&self.poll, *token, &format!("ok {summary}"));
                }
                (Some(token), false) => {
                    self.control.close(&self.poll, *token, &format!("failed {trouble}"));
                }
                (None, true) => log::info!("{summary}"),
                (None, false) => log::warn!("{summary}, but {trouble}"),
            }
            false
        });
        self.waiting.extend(waiting);
    }

    /// What did not come out well of what somebody waits for; `None` = it is not done yet.
    fn trouble_of(&self, waiting: &Waiting) -> Option<String> {
        if waiting.request == Request::Reload && self.group.is_editing() {
            return None;
        }
        let mut troubles = Vec::new();
        for (slot, before) in &waiting.slots {
            let is_vacant = self.group.is_vacant(*slot);
            // A restart of what is not wanted any more is done with.
            if is_vacant && waiting.request != Request::Start {
                continue;
            }
            let trouble = match waiting.request {
                _ if is_vacant => Some(REMOVED.to_owned()),
                Request::Pause | Request::Resume => None,
                Request::Stop => self.is_down(*slot)?,
                // Somebody stopped it, and no reload means to start it.
                Request::Reload if self.group.goal(*slot) == Goal::Rest => None,
                Request::Start | Request::Restart | Request::Reload => {
                    let same = self.children[slot.index()].generation == *before;
                    let rolls = waiting.token.filter(|_| waiting.request == Request::Restart);
                    match self.is_settled(*slot, rolls)? {
                        None if same && waiting.request == Request::Restart => {
                            Some("was left as it was".to_owned())
                        }
                        trouble => trouble,
                    }
                }
            };
            let name = self.children[slot.index()].name();
            troubles.extend(trouble.map(|trouble| format!("{name} {trouble}")));
        }
        Some(troubles.join("; "))
    }

    /// Whether nothing of a server runs any more, or why that will not be; `None` = not yet.
    #[allow(clippy::option_option, reason = "not yet, done, and done badly")]
    fn is_down(&self, slot: SlotId) -> Option<Option<String>> {
        let stage = self.group.stage(slot);
        let gone = !stage.has_process() && self.children[slot.index()].left.is_empty();
        match stage {
            Stage::Unkillable => Some(Some("does not die".to_owned())),
            // Somebody else wants it back.
            _ if self.group.goal(slot) == Goal::Run => Some(Some("was started again".to_owned())),
            _ => gone.then_some(None),
        }
    }

    /// Whether a server that shall run does, or why that will take longer; `None` = not yet. Who
    /// asked for a restart waits for its own, anybody else for all.
    #[allow(clippy::option_option, reason = "not yet, done, and done badly")]
    fn is_settled(&self, slot: SlotId, roll: Option<u64>) -> Option<Option<String>> {
        let state = |slot: SlotId| self.group.stage(slot).state();
        match self.group.stage(slot) {
            // Before its goal: it may be meant to come back for ever.
            Stage::Unkillable => Some(Some("does not die".to_owned())),
            _ if self.group.is_rolling(slot, roll) || self.group.goal(slot) == Goal::Again => None,
            Stage::Up | Stage::Late | Stage::Held | Stage::Done => Some(None),
            Stage::Starting | Stage::Asked | Stage::Terminating | Stage::Killing => None,
            Stage::Blocked => {
                let by = self.group.waits_in_vain_for(slot)?;
                let name = self.children[by.index()].name();
                Some(Some(match self.group.stage(by) {
                    Stage::Unkillable => format!("waits for {name}, which does not die"),
                    _ => format!("waits for {name}, which is {}", state(by)),
                }))
            }
            Stage::Down | Stage::Backoff | Stage::Failed => {
                Some(Some(format!("is {}: see the log", state(slot))))
            }
        }
    }
}
