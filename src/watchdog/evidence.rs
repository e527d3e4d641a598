//! What `/proc` shows of a server becomes evidence in the policy's terms.

use osps_heart::time::Monotonic;

use crate::policy::verdict::{Evidence, RunState, Thread};
use crate::sys::procfs;

/// A look at a process; `None` = it is gone or hidden.
pub(super) fn evidence(pid: u32, at: Monotonic) -> Option<Evidence> {
    let look = procfs::look(pid)?;
    let thread = |stat: &procfs::ThreadStat| Thread {
        tid: stat.tid,
        state: match stat.state {
            'R' => RunState::Running,
            'D' => RunState::Uninterruptible,
            'T' => RunState::Stopped,
            't' => RunState::Traced,
            'Z' | 'X' => RunState::Gone,
            // S, I, P and whatever a later kernel adds: not running.
            _ => RunState::Sleeping,
        },
        cpu: stat.cpu,
        run_delay: stat.run_delay,
        sleeps: stat.sleeps,
    };
    Some(Evidence {
        at,
        traced: look.traced,
        cgroup_frozen: look.cgroup_frozen,
        dying: look.core_dumping || look.threads.iter().all(|thread| thread.exiting),
        threads: look.threads.iter().map(thread).collect(),
        wait_channel: look.wait_channel,
        uninterruptible: look.uninterruptible,
    })
}
