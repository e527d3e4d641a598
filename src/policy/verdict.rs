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
    /// How often it went to sleep, if it is ready to run and that is known.
    pub sleeps: Option<u64>,
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
    /// The same for a thread in an uninterruptible wait.
    pub uninterruptible: String,
}

/// How long the kernel may take to write a core or to take a process down: a core of 100 GB on a
/// fast disk. Longer is a hang like any other.
pub const DYING_MAX: Duration = Duration::from_secs(300);

/// Classifies a silence from two looks at it, `before` at 60 % of the limit and `after` at the
/// deadline. Without a `before` nothing is known about times.
///
/// A state is that of one moment, and a thread beside a stuck one may be met running or at a disk.
/// So what a thread is said to be, it has to have been since the first look.
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
    let Some((span, paths)) = before.and_then(|before| paths(before, after)) else {
        return if any(RunState::Running) {
            Class::Spinning
        } else if any(RunState::Uninterruptible) {
            Class::Unkillable
        } else {
            Class::Blocked
        };
    };
    // The kill has to wait for this one, whatever the others do.
    if paths.iter().any(Path::is_stuck) {
        return Class::Unkillable;
    }
    // Who wants to run: does it get to? A tenth of a processor is plenty for one turn of a loop.
    let busy = paths.iter().filter(|path| path.is_busy(span));
    match busy.map(|path| path.cpu).max() {
        None => Class::Blocked,
        Some(most) if most < span / 10 => Class::Starved,
        Some(_) => Class::Spinning,
    }
}

/// What a thread did between the two looks.
struct Path {
    /// Its state in the end.
    to: RunState,
    /// Time on a processor.
    cpu: Duration,
    /// Time spent waiting for one, as far as the waits have ended: the kernel counts no others.
    run_delay: Duration,
    /// It was ready to run at both looks, and never asleep between them.
    awake: bool,
}

impl Path {
    /// In an uninterruptible wait since then.
    fn is_stuck(&self) -> bool {
        self.to == RunState::Uninterruptible && self.cpu.is_zero()
    }

    /// It ran for half of the time; or it wanted to for most of it, or has not since it woke up.
    /// Of one that waits now the last wait is not counted yet.
    fn is_busy(&self, span: Duration) -> bool {
        let ready = self.to == RunState::Running;
        let most = if ready { span / 2 } else { span / 4 * 3 };
        let wants = self.awake || ready && self.cpu.is_zero();
        wants || self.cpu >= span / 2 || self.cpu + self.run_delay >= most
    }
}

/// The time between two looks at one process, and the threads that were there all the time.
fn paths(before: &Evidence, after: &Evidence) -> Option<(Duration, Vec<Path>)> {
    let leader = |look: &Evidence| look.threads.first().map(|thread| thread.tid);
    let span = after.at.since(before.at);
    if span.is_zero() || leader(before) != leader(after) {
        return None;
    }
    let path = |now: &Thread| {
        let then = before.threads.iter().find(|then| then.tid == now.tid)?;
        Some(Path {
            to: now.state,
            cpu: now.cpu.saturating_sub(then.cpu),
            run_delay: now.run_delay.saturating_sub(then.run_delay),
            awake: now.sleeps.is_some() && now.sleeps == then.sleeps,
        })
    };
    Some((span, after.threads.iter().filter_map(path).collect()))
}

impl Evidence {
    /// Where a server of this class sleeps; empty if that is unknown, or no part of it.
    pub fn place(&self, class: Class) -> &str {
        match class {
            Class::Blocked => &self.wait_channel,
            Class::Unkillable => &self.uninterruptible,
            _ => "",
        }
    }
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
            sleeps: None,
        };
        Evidence {
            at: at(at_ms),
            traced: false,
            cgroup_frozen: false,
            dying: false,
            threads: states.iter().enumerate().map(thread).collect(),
            wait_channel: "futex_do_wait".to_owned(),
            uninterruptible: "rpc_wait_bit_killable".to_owned(),
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
            ("under a tenth", &quiet, &[(Running, 169, 700)], Class::Starved),
            ("a tenth", &quiet, &[(Running, 170, 700)], Class::Spinning),
            ("wanted to for less than half", &quiet, &[(Running, 169, 640)], Class::Blocked),
            // Beside a leader that sleeps for good, others are met in some state or other.
            (
                "a worker is met running twice",
                &[(Sleeping, 10, 0), (Running, 10, 0)],
                &[(Sleeping, 10, 0), (Running, 40, 3)],
                Class::Blocked,
            ),
            (
                "a worker is met at work",
                &quiet,
                &[(Sleeping, 10, 0), (Running, 500, 10)],
                Class::Blocked,
            ),
            (
                "a worker is met at the disk",
                &quiet,
                &[(Sleeping, 10, 0), (Uninterruptible, 40, 0)],
                Class::Blocked,
            ),
            (
                "at a disk that does not answer, beside workers",
                &quiet,
                &[(Uninterruptible, 10, 0), (Running, 1500, 0)],
                Class::Unkillable,
            ),
            (
                "one that gets no processor sleeps just now",
                &quiet,
                &[(Sleeping, 10, 0), (Sleeping, 90, 1120)],
                Class::Starved,
            ),
            (
                "a worker that had to wait a little each time",
                &quiet,
                &[(Sleeping, 10, 0), (Sleeping, 90, 1119)],
                Class::Blocked,
            ),
            (
                "each thread is compared with itself",
                &[(Sleeping, 10, 0), (Sleeping, 1500, 0)],
                &[(Sleeping, 10, 0), (Running, 1510, 1400)],
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
        for (state, expected) in [
            (Running, Class::Spinning),
            (Uninterruptible, Class::Unkillable),
            (Sleeping, Class::Blocked),
        ] {
            let alone = evidence(4000, &[(state, 1500, 0)]);
            assert_eq!(classify(None, Some(&alone)), expected, "no times known");
            // As good as that: two looks at once.
            assert_eq!(classify(Some(&alone), Some(&alone)), expected);
        }
        // Its last wait began after a moment on a processor, and is not counted before it ends.
        let [mut before, mut after] =
            [2400, 4000].map(|at| evidence(at, &[(Running, at / 100, 0)]));
        assert_eq!(classify(Some(&before), Some(&after)), Class::Blocked, "it may have slept");
        (before.threads[0].sleeps, after.threads[0].sleeps) = (Some(7), Some(7));
        assert_eq!(classify(Some(&before), Some(&after)), Class::Starved, "it did not sleep");
        after.threads[0].sleeps = Some(8);
        assert_eq!(classify(Some(&before), Some(&after)), Class::Blocked, "it did");
        let look = evidence(4000, &quiet);
        let places = [Class::Blocked, Class::Unkillable, Class::Spinning].map(|c| look.place(c));
        assert_eq!(places, ["futex_do_wait", "rpc_wait_bit_killable", ""]);
        let traced = Evidence { traced: true, ..evidence(4000, &quiet) };
        assert_eq!(classify(None, Some(&traced)), Class::Traced, "attached, not stopped");
        let dying = Evidence { dying: true, ..evidence(4000, &[(Running, 1500, 0)]) };
        assert_eq!(classify(None, Some(&dying)), Class::Dying, "whatever its threads look like");
        let frozen = Evidence { cgroup_frozen: true, ..evidence(4000, &quiet) };
        assert_eq!(classify(None, Some(&frozen)), Class::CgroupFrozen);
    }
}
