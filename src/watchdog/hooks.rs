//! Commands that the user wants run: for each happening of a service (`on-event`), and where a
//! service has a reload of its own.
//!
//! They are started as servers are, through the trampoline, so that a slow file system holds up
//! nobody but them; at the end of a turn, so that they are in nobody's way. Those of one service
//! run one after the other, at most [`MOST`] at once, for [`TIME`] each; what waits is bounded, and
//! what is dropped is told. What a command leaves behind in its session is ended with it; one that
//! takes too long is ended with all below it. Tested in tests/hooks.rs.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::segment::{Death, What};
use osps_heart::time::{Clock, Monotonic};
use osps_heart::words::State;

use super::kin::{DYING, end_tree};
use super::probing::end_session;
use super::{KIN, Watchdog};
use crate::instance::orders::Orders;
use crate::service::Reload;
use crate::sys::poll::{Interest, pause};
use crate::sys::process::{self, Process, Report};

/// So many run at once: a happening that hits all services shall not start a hundred processes.
const MOST: usize = 4;
/// So long may one run.
const TIME: Duration = Duration::from_secs(10);
/// So many wait.
const WAITING: usize = 256;

/// A command that is to be run.
#[derive(Debug)]
struct Hook {
    /// For whom, in the log.
    name: String,
    orders: Orders,
}

/// One that runs.
#[derive(Debug)]
struct Running {
    name: String,
    process: Process,
    report: Report,
    until: Monotonic,
    ended: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    waiting: VecDeque<Hook>,
    running: Vec<Running>,
    dropped: u64,
}

impl Hooks {
    /// Their pids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(|hook| hook.process.pid())
    }

    /// The first that waits for nothing but a place: the last one of its service is over.
    fn next(&mut self) -> Option<Hook> {
        let is_free = |hook: &Hook| self.running.iter().all(|other| other.name != hook.name);
        let place = self.waiting.iter().position(is_free)?;
        self.waiting.remove(place)
    }

    /// When one has had its time.
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.running.iter().filter(|hook| !hook.ended).map(|hook| hook.until).min()
    }
}

impl Watchdog {
    /// Something happened to a service, which is in this state now: its command shall be told.
    pub(super) fn hook(&mut self, slot: SlotId, what: &What, state: State) {
        let child = &self.children[slot.index()];
        if child.service.on_event.is_empty() {
            return;
        }
        let (cause, class) = (what.cause(), what.class());
        let page = &self.segment.slots()[slot.index()].server;
        let pid = page.identity().map_or(0, |identity| identity.pid);
        let env = [
            ("OSPS_EVENT", what.event().to_string()),
            ("OSPS_CAUSE", cause.map_or_else(String::new, |cause| cause.to_string())),
            ("OSPS_CLASS", class.map_or_else(String::new, |class| class.to_string())),
            ("OSPS_STATE", state.to_string()),
            ("OSPS_PID", if pid == 0 { String::new() } else { pid.to_string() }),
        ];
        let command = child.service.on_event.clone();
        self.queue(slot, command, &env);
    }

    /// A service shall take up its configuration anew, in its own way; `false` = it has none.
    pub(super) fn reload_own(&mut self, slot: SlotId) -> bool {
        let child = &self.children[slot.index()];
        let pid = child.beater().unwrap_or(0).to_string();
        match child.service.reload.clone() {
            None => false,
            Some(Reload::Signal(signal)) => {
                let raw = crate::service::manner::raw(signal);
                if let (Some(process), Some(signal)) = (&child.process, raw)
                    && let Err(failed) = process.signal(signal)
                {
                    log::error!("{}: {failed}", child.name());
                }
                true
            }
            Some(Reload::Command(command)) => {
                self.queue(slot, command, &[("OSPS_PID", pid)]);
                true
            }
        }
    }

    fn queue(&mut self, slot: SlotId, command: Vec<OsString>, env: &[(&str, String)]) {
        let child = &self.children[slot.index()];
        if self.hooks.waiting.len() == WAITING {
            self.hooks.dropped += 1;
            return;
        }
        let run_dir = self.claim.run_dir.path().as_os_str().to_owned();
        let mut env: Vec<(OsString, OsString)> =
            env.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
        env.push(("OSPS_SERVICE".into(), child.name().into()));
        env.push(("OSPS_NAME".into(), self.options.name.clone().into()));
        env.push(("OSPS_RUN_DIR".into(), run_dir));
        env.push(("OSPS_GENERATION".into(), child.generation.to_string().into()));
        let orders = Orders { settings: Vec::new(), env, command };
        let name = child.name().to_owned();
        self.hooks.waiting.push_back(Hook { name, orders });
    }

    /// Once a turn, after everything else: who is done, who takes too long, who is next.
    pub(super) fn gather_hooks(&mut self, now: Monotonic) {
        let hooks = &mut self.hooks;
        let poll = &self.poll;
        hooks.running.retain_mut(|hook| {
            if !hook.process.is_dead() {
                if now >= hook.until && !hook.ended {
                    hook.ended = true;
                    log::warn!(
                        "{}: its hook (pid {}) runs for longer than {}: ending it",
                        hook.name,
                        hook.process.pid(),
                        humantime::format_duration(TIME)
                    );
                    end_tree(&hook.process);
                }
                return true;
            }
            poll.remove(&hook.process);
            end_session(&hook.process);
            let death = hook.process.reap();
            if let Some(why) = hook.report.read() {
                log::warn!("{}: its hook cannot be started: {why}", hook.name);
            } else if let Some(death) = death.filter(|death| *death != Death::Exited(0))
                && !hook.ended
            {
                log::warn!("{}: its hook failed ({death})", hook.name);
            }
            false
        });
        while hooks.running.len() < MOST
            && let Some(Hook { name, orders }) = hooks.next()
        {
            let launched = orders
                .pack()
                .map_err(crate::sys::Failed::to("write down", "what to run"))
                .and_then(|orders| Ok((process::launch(&["__exec".into()], &[])?, orders)));
            let ((process, gate), orders) = match launched {
                Ok(launched) => launched,
                Err(failed) => {
                    log::warn!("{name}: its hook: {failed}");
                    continue;
                }
            };
            if let Err(failed) = poll.add(&process, KIN, Interest::READ) {
                log::debug!("{failed}; its death is seen within a second only");
            }
            let (report, sent) = gate.open(&[orders.as_fd()]);
            if let Err(failed) = sent {
                log::debug!("{name}: its hook: {failed}");
            }
            let until = now + TIME;
            hooks.running.push(Running { name, process, report, until, ended: false });
        }
        if hooks.dropped > 0 && hooks.waiting.is_empty() {
            log::warn!("{} hooks were dropped: {WAITING} were waiting already", hooks.dropped);
            hooks.dropped = 0;
        }
    }

    /// Lets those that wait and run have their time, then ends them: nothing of osps stays.
    pub(super) fn end_hooks(&mut self) {
        let until = self.clock.now() + TIME;
        while !(self.hooks.waiting.is_empty() && self.hooks.running.is_empty())
            && self.clock.now() < until
        {
            self.wait_for_hooks();
        }
        let dropped = self.hooks.waiting.len();
        if dropped > 0 {
            log::warn!("{dropped} hooks were dropped: there was no time left for them");
            self.hooks.waiting.clear();
        }
        for hook in &mut self.hooks.running {
            hook.until = Monotonic::default();
        }
        while !self.hooks.running.is_empty() && self.clock.now() < until + DYING {
            self.wait_for_hooks();
        }
    }

    /// A turn of a watchdog that has nobody left to watch: whoever asked for the end sees that it
    /// is at work.
    fn wait_for_hooks(&mut self) {
        let now = self.clock.now();
        self.segment.header().watchdog_heart.beat(now);
        self.gather_hooks(now);
        pause();
    }
}
