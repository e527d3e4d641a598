//! What a launch started besides its leader, found in the tree of our own children.
//!
//! osps is a subreaper: whoever in its tree loses its parent becomes its child, however it detached
//! itself. So nobody escapes, and everything that it inherits is from a launch of its own, except
//! for children that it had before. As PID 1 it inherits from strangers, too (`docker exec`). A
//! process is signalled only for a launch that it is known to be of: by its parents, by the
//! session that the leader made, because only one launch can have made it, or by our marks in its
//! environment. What a dead leader left behind is ended before a successor starts and
//! before a stop is done; what does not die closes the slot and is named. Tested here and in
//! tests/kin.rs.

use std::collections::HashSet;
use std::time::Duration;

use osps_heart::ids::SlotId;
use osps_heart::segment::Death;
use osps_heart::sync::Ordering;
use osps_heart::time::Monotonic;
use osps_heart::words::env;
use rustix::process::Signal;

use super::probing::end_session;
use super::reload::Loading;
use super::{KIN, Watchdog};
use crate::policy::group::Input;
use crate::policy::lifecycle::Stage;
use crate::service::KillMode;
use crate::sys::poll::Interest;
use crate::sys::process::{self, Process};
use crate::sys::procfs::{self, Stat, below};

/// How long a killed process may take to die. The kernel needs a millisecond, and some more for
/// much memory; longer means an uninterruptible wait.
pub(super) const DYING: Duration = Duration::from_secs(5);

/// The parent of all threads of the kernel.
const KTHREADD: u32 = 2;

/// A living process of a launch that is not its leader.
#[derive(Debug)]
pub(super) struct Kin {
    process: Process,
    name: String,
}

/// The kin of a slot's launch that a dead leader left behind.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    kin: Vec<Kin>,
    /// Since when they have been killed; `None` = they may still leave by themselves.
    killed: Option<Monotonic>,
    /// They do not die, and that was told.
    undying: bool,
    /// The stop order reached the leader, which left; its kin got a TERM and have their time.
    pub(super) awaited: bool,
    /// A successor is due as soon as they are gone.
    pub(super) successor_due: bool,
}

impl Kin {
    fn of(stat: &Stat) -> Option<Kin> {
        let process = Process::find(stat.pid, stat.start_time)?;
        Some(Kin { process, name: procfs::name(stat.pid).unwrap_or_default() })
    }
}

impl LeftBehind {
    pub(super) fn is_empty(&self) -> bool {
        self.kin.is_empty()
    }

    /// `pid 12 (robot), pid 13 (sh)`.
    pub(super) fn names(&self) -> String {
        let name = |kin: &Kin| format!("pid {} ({})", kin.process.pid(), kin.name);
        self.kin.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Kills them; from now on their time counts.
    pub(super) fn kill(&mut self, now: Monotonic) {
        for kin in &self.kin {
            if let Err(failed) = kin.process.signal(Signal::KILL) {
                log::error!("{failed}");
            }
        }
        if !self.kin.is_empty() {
            self.killed.get_or_insert(now);
        }
    }

    fn terminate(&self, signal: Signal) {
        for signal in [signal, Signal::CONT] {
            for kin in &self.kin {
                if let Err(failed) = kin.process.signal(signal) {
                    log::error!("{failed}");
                }
            }
        }
    }

    /// Forgets the dead ones, whose status nobody else takes.
    fn bury(&mut self) {
        self.kin.retain(|kin| !kin.process.is_dead() || kin.process.reap().is_none());
        if self.kin.is_empty() {
            (self.killed, self.undying) = (None, false);
        }
    }
}

/// Kills a process that leads a session, everybody below it, and all in the sessions of those: only
/// they can have made them. Who left the tree and made a session before is not found.
pub(super) fn end_tree(leader: &Process) {
    let below = below(&procfs::tree(leader.pid()), [leader.pid()]);
    end_session(leader);
    let mut sessions: HashSet<u32> = below.iter().map(|stat| stat.session).collect();
    // Already ended; and its own child, on the way to a session, may still be in ours.
    let ours = procfs::stat(std::process::id()).map_or(0, |stat| stat.session);
    sessions.retain(|session| ![leader.pid(), ours, 0].contains(session));
    let others = procfs::processes();
    let others = others.iter().filter(|stat| sessions.contains(&stat.session));
    for stat in below.iter().chain(others) {
        if let Some(process) = Process::find(stat.pid, stat.start_time) {
            let _ = process.signal(Signal::KILL);
        }
    }
}

/// Who of our children is of a launch.
#[derive(Clone, Copy)]
struct Launch<'a> {
    leader: Option<u32>,
    /// Whether an orphan is of this launch, where no session tells.
    is_its: &'a dyn Fn(u32) -> bool,
    /// All leaders, this one too, and whoever else was launched by us.
    leaders: &'a [u32],
    /// Children that we had before anything was launched.
    strangers: &'a HashSet<(u32, u64)>,
}

/// The kin of a launch among all processes, as seen by their parent or grandparent `me`.
fn kin_of(all: &[Stat], me: u32, launch: Launch<'_>) -> Vec<Stat> {
    let is_ours = |stat: &&Stat| {
        stat.parent == me
            && !launch.leaders.contains(&stat.pid)
            && !launch.strangers.contains(&(stat.pid, stat.start_time))
            && (launch.leader.is_some_and(|leader| stat.session == leader)
                || (launch.is_its)(stat.pid))
    };
    let orphans: Vec<Stat> = all.iter().filter(is_ours).copied().collect();
    let roots = orphans.iter().map(|stat| stat.pid).chain(launch.leader);
    let mut kin = below(all, roots);
    kin.extend(orphans);
    kin
}

/// Whether a process has all of these in its environment.
fn has(pid: u32, marks: &[Vec<u8>]) -> bool {
    procfs::has_variables(pid, &marks.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

impl Watchdog {
    /// Our children before anything was launched: what a shell left in us before it became osps.
    pub(super) fn children_before() -> HashSet<(u32, u64)> {
        let me = std::process::id();
        let mine = procfs::tree(me).into_iter().filter(|stat| stat.parent == me);
        mine.map(|stat| (stat.pid, stat.start_time)).collect()
    }

    /// Whether what a slot's processes start is ended with them: those of osps itself start nobody,
    /// and some programs leave others behind on purpose.
    fn has_kin(&self, slot: SlotId) -> bool {
        let service = &self.children[slot.index()].service;
        service.launch.is_program() && service.manner.kill_mode == KillMode::Tree
    }

    /// The living kin of a slot's launch, the leader not included. Costs as much as there are of
    /// those, and of orphans: the trees of other launches are not looked at.
    pub(super) fn kin(&self, slot: SlotId) -> Vec<Stat> {
        if let Some(leader) = self.children[slot.index()].adopted {
            return self.adopted_kin(slot, leader);
        }
        let leaders: Vec<u32> = self.launched().collect();
        let leader = self.children[slot.index()].pid();
        let others: Vec<u32> = leaders.iter().copied().filter(|pid| Some(*pid) != leader).collect();
        let programs = self.children.iter().filter(|child| child.service.launch.is_program());
        let alone = programs.count() == 1;
        let me = std::process::id();
        let marks = self.marks(slot);
        // One program alone made all our orphans, unless we are PID 1 and strangers are among them.
        // Of several, each has its marks in its environment.
        let is_its = |pid| {
            if alone { me != 1 || procfs::has_variable(pid, &marks[0]) } else { has(pid, &marks) }
        };
        let launch =
            Launch { is_its: &is_its, leader, leaders: &leaders, strangers: &self.strangers };
        kin_of(&procfs::tree_but(me, &others), me, launch)
    }

    /// What the environment of a launch says, and of nothing else, hooks neither: this directory,
    /// its slot and its generation.
    fn marks(&self, slot: SlotId) -> [Vec<u8>; 3] {
        let number = format!("{}={}", env::GENERATION, self.children[slot.index()].generation);
        let place = format!("{}={slot}", env::SLOT);
        [self.claim.run_dir.mark(), place.into_bytes(), number.into_bytes()]
    }

    /// The living kin of a launch that was taken over: whoever of it lost its parent went to
    /// somebody else, so the whole machine is looked at. Of it is who is below the leader, in the
    /// session that it made, or has the marks of this generation in its environment.
    fn adopted_kin(&self, slot: SlotId, leader: u32) -> Vec<Stat> {
        let child = &self.children[slot.index()];
        let mut all = procfs::processes();
        // The number of a leader that is gone may be another's, which then leads a session of its
        // own. Its zombie, which nobody has reaped yet, is itself.
        let page = &self.segment.slots()[slot.index()].server;
        let started = page.start_time.load(Ordering::Relaxed);
        let is_other = |stat: &Stat| stat.pid == leader && stat.start_time != started;
        let reused = child.process.is_none() && all.iter().any(is_other);
        if reused {
            return Vec::new();
        }
        let marks = self.marks(slot);
        let own: Vec<u32> = self.launched().chain([std::process::id(), leader]).collect();
        let is_of = |stat: &Stat| {
            !own.contains(&stat.pid)
                && (stat.session == leader || stat.parent != KTHREADD && has(stat.pid, &marks))
        };
        let mut kin = below(&all, [leader]);
        all.retain(|stat| is_of(stat) && !kin.iter().any(|known| known.pid == stat.pid));
        kin.extend(all);
        kin
    }

    /// Looks who is there besides the leader, and holds them.
    fn find_kin(&mut self, slot: SlotId) {
        if !self.has_kin(slot) {
            return;
        }
        let kin = self.kin(slot);
        let left = &mut self.children[slot.index()].left;
        left.bury();
        for stat in &kin {
            let known = left.kin.iter().any(|kin| {
                (kin.process.pid(), kin.process.start_time()) == (stat.pid, stat.start_time)
            });
            if !known && let Some(kin) = Kin::of(stat) {
                if let Err(failed) = self.poll.add(&kin.process, KIN, Interest::READ) {
                    log::debug!("{failed}; its death is seen within a second only");
                }
                left.kin.push(kin);
            }
        }
    }

    /// The leader of a slot is dead: looks for what it left. `true` = it went at a stop order, and
    /// its kin are still on their way; the slot is not empty before they have left, too, or until
    /// their time is over.
    pub(super) fn waits_for_kin(&mut self, slot: SlotId) -> bool {
        self.find_kin(slot);
        let stopping = matches!(self.group.stage(slot), Stage::Asked | Stage::Terminating);
        let child = &mut self.children[slot.index()];
        if !stopping || child.left.is_empty() {
            child.left.awaited = false;
            return false;
        }
        if !child.left.awaited {
            child.left.awaited = true;
            // Its descriptor stays readable: without this the loop would spin on it.
            if let Some(process) = &child.process {
                self.poll.remove(process);
            }
            child.left.terminate(child.service.manner.stop());
            log::info!("{} has left; waiting for {}", child.name(), child.left.names());
        }
        true
    }

    /// Asks everybody outside of the leader's group to go as well: those inside got the same.
    pub(super) fn terminate_kin(&mut self, slot: SlotId) {
        self.find_kin(slot);
        let child = &self.children[slot.index()];
        child.left.terminate(child.service.manner.stop());
    }

    /// A dead leader's kin are killed; nobody may start in the slot before they are dead.
    pub(super) fn end_kin(&mut self, slot: SlotId, death: Option<Death>, now: Monotonic) {
        let in_background = death == Some(Death::Exited(0)) && !self.group.is_ending();
        let child = &mut self.children[slot.index()];
        if child.left.is_empty() {
            return;
        }
        if in_background {
            log::warn!(
                "{0}: runs in the background ({1}): keep it in the foreground, or osps can neither \
                 see it die nor replace it; ending it now",
                child.name(),
                child.left.names()
            );
        } else {
            log::info!("{}: ending what it left behind: {}", child.name(), child.left.names());
        }
        child.left.kill(now);
    }

    /// What one left behind that died while nobody watched.
    pub(super) fn end_kin_of_dead(&mut self, slot: SlotId, now: Monotonic) {
        self.find_kin(slot);
        self.end_kin(slot, None, now);
    }

    /// Once a turn: who of those that were left behind is gone, and what waits for that.
    pub(super) fn gather_kin(&mut self, now: Monotonic) {
        for slot in self.group.slots() {
            let left = &mut self.children[slot.index()].left;
            if left.killed.is_none() && !left.successor_due {
                // Not waited for: only remembered from a stop that goes on.
                left.bury();
                continue;
            }
            left.bury();
            if left.is_empty() {
                // Somebody may have been born while the others were killed.
                self.find_kin(slot);
                self.children[slot.index()].left.kill(now);
            }
            let starting = self.group.stage(slot) == Stage::Starting;
            let patience = DYING.min(self.children[slot.index()].service.limits.start / 2);
            let child = &mut self.children[slot.index()];
            let undying = child.left.killed.is_some_and(|since| now.since(since) >= patience);
            if undying && !child.left.undying {
                child.left.undying = true;
                log::error!(
                    "{}: {} does not die: its slot stays closed",
                    child.name(),
                    child.left.names()
                );
            }
            if !child.left.successor_due {
                continue;
            }
            if child.left.is_empty() && starting {
                child.left.successor_due = false;
                self.spawn(slot);
            } else if undying || !starting {
                child.left.successor_due = false;
                child.left.killed = None;
                self.step(now, Input::Died { slot, death: Death::NotSpawned });
            }
            self.perform_all();
        }
    }

    /// Whether a stop is done: nobody is left behind, or those who are do not die.
    pub(super) fn kin_are_gone(&self) -> bool {
        self.children.iter().all(|child| child.left.is_empty() || child.left.undying)
    }

    /// The pids of leaders, probers and spares.
    fn launched(&self) -> impl Iterator<Item = u32> {
        self.children
            .iter()
            .flat_map(super::Child::pids)
            .chain(self.spares.pids())
            .chain(self.hooks.pids())
            .chain(self.reports.pids())
            .chain(self.loading.as_ref().map(Loading::pid))
    }

    /// Whether a pid is one of those.
    fn is_launched(&self, pid: u32) -> bool {
        self.launched().any(|own| own == pid)
    }

    /// Takes the status of every dead child that is nobody's leader: orphans that came to us.
    pub(super) fn reap_inherited(&self) {
        let is_ours = |pid: u32| {
            self.is_launched(pid) || self.unreaped.iter().any(|process| process.pid() == pid)
        };
        while let Some(pid) = process::dead_child() {
            if is_ours(pid) {
                // It stands in front of the others for as long as its status is wanted here.
                let dead = procfs::zombies_of(std::process::id()).into_iter();
                dead.filter(|pid| !is_ours(*pid)).for_each(|pid| {
                    process::reap_stranger(pid);
                });
                return;
            }
            if !process::reap_stranger(pid) {
                return;
            }
        }
    }

    /// Children of ours that are of no launch we know: never signalled, but named at the end.
    pub(super) fn unattributed(&self) -> Vec<String> {
        let me = std::process::id();
        let left: HashSet<u32> =
            self.children.iter().flat_map(|c| c.left.kin.iter()).map(|k| k.process.pid()).collect();
        let is_stranger = |stat: &Stat| {
            stat.parent == me
                && !matches!(stat.state, 'Z' | 'X')
                && !left.contains(&stat.pid)
                && !self.strangers.contains(&(stat.pid, stat.start_time))
                && !self.is_launched(stat.pid)
        };
        let strangers = procfs::tree(me).into_iter().filter(is_stranger);
        let name = |stat: Stat| {
            format!("pid {} ({})", stat.pid, procfs::name(stat.pid).unwrap_or_default())
        };
        strangers.map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// pid, parent, session.
    fn stats(table: &[(u32, u32, u32)]) -> Vec<Stat> {
        let stat = |(pid, parent, session): &(u32, u32, u32)| Stat {
            pid: *pid,
            state: 'S',
            parent: *parent,
            session: *session,
            exiting: false,
            start_time: u64::from(*pid),
        };
        table.iter().map(stat).collect()
    }

    fn pids(stats: &[Stat]) -> Vec<u32> {
        let mut pids: Vec<_> = stats.iter().map(|stat| stat.pid).collect();
        pids.sort_unstable();
        pids
    }

    const ME: u32 = 10;

    #[test]
    fn kin_are_below_the_leader_or_were_inherited() {
        // 20 leads with a child 21 and a grandchild 22; 30 daemonized, with a child 31; 40 was
        // there before; 50 leads another slot, with a child 51; 99 has nothing to do with us.
        let all = stats(&[
            (ME, 1, 1),
            (20, ME, 20),
            (21, 20, 20),
            (22, 21, 22),
            (30, ME, 30),
            (31, 30, 31),
            (40, ME, 1),
            (41, 40, 1),
            (50, ME, 50),
            (51, 50, 50),
            (60, ME, 20),
            (99, 1, 99),
        ]);
        let strangers = HashSet::from([(40, 40)]);
        let launch = Launch {
            leader: Some(20),
            is_its: &|_| true,
            leaders: &[20, 50],
            strangers: &strangers,
        };
        assert_eq!(pids(&kin_of(&all, ME, launch)), [21, 22, 30, 31, 60]);
        // Others might have made it, and it has no marks: only the session tells.
        let among = Launch { is_its: &|_| false, ..launch };
        assert_eq!(pids(&kin_of(&all, ME, among)), [21, 22, 60]);
        let second = Launch { leader: Some(50), ..among };
        assert_eq!(pids(&kin_of(&all, ME, second)), [51]);
        let nobody = Launch { leader: None, ..among };
        assert_eq!(kin_of(&all, ME, nobody), []);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        // Two looks at different moments may contradict each other.
        let all = stats(&[(2, 3, 1), (3, 2, 1), (4, 4, 1)]);
        assert_eq!(pids(&below(&all, [2])), [3]);
        assert_eq!(below(&all, [9]), []);
    }
}
