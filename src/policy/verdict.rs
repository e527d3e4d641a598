//! What kind of freeze it is, from two looks at `/proc`.
//!
//! Whether a heart is overdue is decided in `osps_heart::pulse`; here only what kind of silence
//! that is, and so whether somebody wants it (docs/verdicts.md).

use std::time::Duration;

use osps_heart::time::Monotonic;
use osps_heart::words::Class;

/// What the kernel calls the state of a thread, reduced to what matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// `R`: running or ready.
    Running,
    /// `S`, `I`: asleep, interruptibly.
    Sleeping,
    /// `D`: asleep, uninterruptibly.
    Uninterruptible,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped by a tracer.
    Traced,
    /// `Z`, `X`: this thread is gone (a leader may go before its threads).
    Gone,
}

/// One thread at one moment. Times are totals since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Its state.
    pub state: RunState,
    /// Time on a processor.
    pub cpu: Duration,
    /// Time spent ready, waiting for a processor.
    pub run_delay: Duration,
}

/// What `/proc` says of a server at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When it was taken.
    pub at: Monotonic,
    /// A tracer is attached.
    pub traced: bool,
    /// Its control group is frozen.
    pub cgroup_frozen: bool,
    /// The kernel writes its core, or all its threads are on their way out: it never runs again.
    pub dying: bool,
    /// Its threads, a bounded number, the leader first.
    pub threads: Vec<Thread>,
    /// Kernel function that the leader sleeps in; empty if unknown or none.
    pub wait_channel: String,
}

/// How long the kernel may take to write a core or to take a process down: a core of 100 GB on a
/// fast disk. Longer is a hang like any other.
pub const DYING_MAX: Duration = Duration::from_secs(300);

/// Classifies a silence from two looks at it, `before` at 60 % of the limit and `after` at the
/// deadline. Without a `before` nothing is known about times.
pub fn classify(before: Option<&Evidence>, after: Option<&Evidence>) -> Class {
    let Some(after) = after else { return Class::Unknown };
    let any = |state| after.threads.iter().any(|thread| thread.state == state);
    if after.dying {
        return Class::Dying;
    }
    if after.traced || any(RunState::Traced) {
        return Class::Traced;
    }
    if after.cgroup_frozen {
        return Class::CgroupFrozen;
    }
    if any(RunState::Stopped) {
        return Class::Stopped;
    }
    if any(RunState::Uninterruptible) && !any(RunState::Running) {
        return Class::Unkillable;
    }
    if !any(RunState::Running) && cpu_share(before, after) < 0.5 {
        return Class::Blocked;
    }
    // Ready to run: did it get to run? A tenth of a processor is plenty for one turn of a loop. How
    // long it waited is no evidence: the kernel counts a wait only when it ends.
    if before.is_some_and(|before| before.knows(after)) && cpu_share(before, after) < 0.1 {
        return Class::Starved;
    }
    Class::Spinning
}

impl Evidence {
    /// Whether it has seen the threads that are ready to run `later`.
    fn knows(&self, later: &Evidence) -> bool {
        let mut ready = later.threads.iter().filter(|thread| thread.state == RunState::Running);
        ready.all(|thread| self.threads.iter().any(|known| known.tid == thread.tid))
    }
}

/// Largest share of the time between two looks that one thread spent on a processor.
fn cpu_share(before: Option<&Evidence>, after: &Evidence) -> f64 {
    let Some(before) = before else { return 0.0 };
    let span = after.at.since(before.at).as_secs_f64();
    let grown = after.threads.iter().filter_map(|now| {
        let then = before.threads.iter().find(|then| then.tid == now.tid)?;
        Some(now.cpu.saturating_sub(then.cpu).as_secs_f64())
    });
    if span > 0.0 { grown.fold(0.0, f64::max) / span } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn evidence(at_ms: u64, states: &[(RunState, u64, u64)]) -> Evidence {
        let thread = |(i, (state, cpu, delay)): (usize, &(RunState, u64, u64))| Thread {
            tid: 100 + u32::try_from(i).expect("few threads"),
            state: *state,
            cpu: Duration::from_millis(*cpu),
            run_delay: Duration::from_millis(*delay),
        };
        Evidence {
            at: at(at_ms),
            traced: false,
            cgroup_frozen: false,
            dying: false,
            threads: states.iter().enumerate().map(thread).collect(),
            wait_channel: String::new(),
        }
    }

    #[test]
    fn classes_from_two_looks() {
        use RunState::{Gone, Running, Sleeping, Stopped, Traced, Uninterruptible};
        let quiet = [(Sleeping, 10, 0), (Sleeping, 10, 0)];
        for (name, before, after, expected) in [
            ("stopped", &quiet[..], &[(Stopped, 10, 0), (Stopped, 10, 0)][..], Class::Stopped),
            ("tracing stop", &quiet, &[(Traced, 10, 0)], Class::Traced),
            ("lock wait", &quiet, &[(Sleeping, 11, 0), (Sleeping, 10, 0)], Class::Blocked),
            ("disk", &quiet, &[(Uninterruptible, 10, 0)], Class::Unkillable),
            ("spinning", &quiet, &[(Running, 1500, 90)], Class::Spinning),
            (
                "a second thread spins",
                &quiet,
                &[(Sleeping, 10, 0), (Running, 900, 0)],
                Class::Spinning,
            ),
            ("spinning on a busy host", &quiet, &[(Running, 300, 1300)], Class::Spinning),
            ("spins in short naps", &quiet, &[(Sleeping, 1500, 0)], Class::Spinning),
            ("starved", &quiet, &[(Running, 12, 1400)], Class::Starved),
            ("starved all the time", &quiet, &[(Running, 10, 0)], Class::Starved),
            // 1600 ms lie between the looks: half of them, and a tenth.
            ("asleep more than half", &quiet, &[(Sleeping, 809, 0)], Class::Blocked),
            ("at work for half", &quiet, &[(Sleeping, 810, 0)], Class::Spinning),
            ("under a tenth", &quiet, &[(Running, 169, 0)], Class::Starved),
            ("over a tenth", &quiet, &[(Running, 171, 0)], Class::Spinning),
            (
                "each thread is compared with itself",
                &[(Sleeping, 10, 0), (Sleeping, 1500, 0)],
                &[(Sleeping, 10, 0), (Running, 1510, 0)],
                Class::Starved,
            ),
            ("ready, no times known", &[], &[(Running, 12, 1400)], Class::Spinning),
            (
                "leader gone, threads asleep",
                &quiet,
                &[(Gone, 10, 0), (Sleeping, 10, 0)],
                Class::Blocked,
            ),
        ] {
            let (before, after) = (evidence(2400, before), evidence(4000, after));
            assert_eq!(classify(Some(&before), Some(&after)), expected, "{name}");
        }
        assert_eq!(classify(None, None), Class::Unknown);
        let traced = Evidence { traced: true, ..evidence(4000, &quiet) };
        assert_eq!(classify(None, Some(&traced)), Class::Traced, "attached, not stopped");
        let dying = Evidence { dying: true, ..evidence(4000, &[(Running, 1500, 0)]) };
        assert_eq!(classify(None, Some(&dying)), Class::Dying, "whatever its threads look like");
        let frozen = Evidence { cgroup_frozen: true, ..evidence(4000, &quiet) };
        assert_eq!(classify(None, Some(&frozen)), Class::CgroupFrozen);
    }
}
