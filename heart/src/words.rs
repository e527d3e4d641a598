//! Every code of the segment with its word: one table per enum.
//!
//! A code is what stands in the segment, a word is what people and tools read: the same in the log,
//! in JSON, in documents and in code. A row is `Name = code, "word", "meaning"`; everything else
//! (`ALL`, `code`, `from_code`, `word`, `meaning`, `Display`) follows from it, and so do the tables
//! in docs/segment.md. Codes are never reused; a new one is added at the end.

use std::fmt;

/// Declares an enum of codes from its table.
macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident:
        $($variant:ident = $code:literal, $word:literal, $meaning:literal;)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant = $code,)+
        }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: [$name; [$($code),+].len()] = [$($name::$variant),+];

            /// Its number in the segment.
            pub const fn code(self) -> u64 {
                self as u64
            }

            /// The one with this number; `None` = a number that nobody of this version wrote.
            pub fn from_code(code: u64) -> Option<$name> {
                $name::ALL.into_iter().find(|known| known.code() == code)
            }

            /// The same everywhere: log, JSON, documents.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }

            /// One line for people.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words! {
    /// Where a server stands. Written by the watchdog.
    State:
    Down = 0, "down", "no process";
    Starting = 1, "starting", "spawned, no beat yet";
    Up = 2, "up", "beating";
    Late = 3, "late", "silent for 60 % of its limit";
    Stopping = 4, "stopping", "it has to go; the slot is closed until its death is confirmed";
    Backoff = 5, "backoff", "no process; waits before the next";
    Held = 6, "held", "silent by somebody's intention: watched, not killed";
    Failed = 7, "failed", "no process and none by itself: it failed too often";
    Done = 8, "done", "no process: it ended with success, and no more of it is needed";
    Blocked = 9, "blocked", "no process yet: it waits for what it depends on";
}

words! {
    /// Why a process had to be replaced. Written down before anything is done about it.
    Cause:
    Exited = 1, "exited", "it exited by itself";
    Killed = 2, "killed", "a signal that was not the watchdog's killed it";
    Frozen = 3, "frozen", "it fell silent; the class says in which way";
    StartTimeout = 4, "start-timeout", "it never beat";
    Dependency = 5, "dependency", "one that it restarts with failed, so it went as well";
    Requested = 6, "requested", "somebody asked for it";
    OutOfMemory = 7, "out-of-memory", "the kernel killed it for want of memory";
}

words! {
    /// What kind of silence a freeze is.
    Class:
    Stopped = 1, "stopped", "SIGSTOP or a terminal stop";
    Traced = 2, "traced", "a debugger holds it: somebody's intention";
    CgroupFrozen = 3, "cgroup-frozen", "its control group is frozen: somebody's intention";
    Starved = 4, "starved", "ready to run, but the host gives it no processor";
    Spinning = 5, "spinning", "running without turning its main loop";
    Blocked = 6, "blocked", "asleep somewhere: a lock, a pipe, a socket";
    Unkillable = 7, "unkillable", "in an uninterruptible wait: a kill may not work";
    Unknown = 8, "unknown", "`/proc` would not tell";
    NotReleasing = 9, "not-releasing", "it beats, but does not give the data area back";
    Dying = 10, "dying", "the kernel writes its core or takes it down: it ends by itself";
    Triggered = 11, "triggered", "it said itself that it is broken";
}

words! {
    /// What a happening in the event ring is; its arguments are `Record`'s affair.
    Event:
    Started = 1, "started", "a process was started";
    Up = 2, "up", "first beat, or beats again";
    Late = 3, "late", "silent for 60 % of its limit";
    Verdict = 4, "verdict", "it is killed now";
    Held = 5, "held", "silent by somebody's intention";
    Pardoned = 6, "pardoned", "nobody holds it any more: its limit runs again";
    StopOrder = 7, "stop-order", "its desired word says stop";
    Pressed = 8, "pressed", "it did not leave in time: a signal was sent";
    Died = 9, "died", "death confirmed; a successor may start at once";
    Backoff = 10, "backoff", "death confirmed; the next one waits";
    Failed = 11, "failed", "death confirmed; no other one starts by itself";
    LateTurn = 12, "late-turn", "the watchdog itself was late: every limit runs again";
    Spared = 13, "spared", "starved by the host: one more limit";
    Alarm = 14, "alarm", "it does not die: its slot stays closed";
    WatchdogStarted = 15, "watchdog-started", "the watchdog runs";
    WatchdogStopping = 16, "watchdog-stopping", "an orderly stop begins";
    Warned = 17, "warned", "overdue, but `on-hang` is `warn`: not killed";
    Unwatched = 18, "unwatched", "its silence convicts nobody, for the time being";
    Watched = 19, "watched", "from now on its silence counts";
    Done = 20, "done", "death confirmed; it was a success, and no more of it is needed";
    Blocked = 21, "blocked", "it shall run, and waits for what it depends on";
    Asked = 22, "asked", "somebody asked for something";
    Paused = 23, "paused", "it is not judged for a while";
    Resumed = 24, "resumed", "it is judged again: its limit runs from now";
    Removed = 25, "removed", "its service is not in the file any more";
    Adopted = 26, "adopted", "a new watchdog took it over, alive";
}

words! {
    /// What somebody may ask of a server over the control socket.
    Request:
    Stop = 1, "stop", "it shall go, and stay away";
    Start = 2, "start", "it shall run";
    Restart = 3, "restart", "it shall go and come back";
    Pause = 4, "pause", "it shall not be judged for a while";
    Resume = 5, "resume", "it shall be judged again";
    Reload = 6, "reload", "the file shall be read again, or the service's own reload be done";
}

words! {
    /// How a process ended; exit status or signal stand beside it.
    DeathKind:
    Exited = 0, "status", "it exited, with this status";
    Killed = 1, "signal", "this signal killed it";
    NotSpawned = 2, "could not be started", "the kernel refused to start it";
    Unknown = 3, "status unknown", "confirmed, but somebody else got the status";
    OutOfMemory = 4, "out of memory: killed by the kernel", "it was killed for want of memory";
}

words! {
    /// How a server is pressed that did not leave when told to.
    Press:
    Terminate = 1, "TERM", "TERM, then CONT";
    Kill = 2, "KILL", "KILL";
}

words! {
    /// What a server is for.
    Role:
    Primary = 1, "primary", "the dispatcher of the built-in pair, and the arbiter of its data";
    Secondary = 2, "secondary", "a worker of the built-in pair";
    Program = 3, "program", "a program of the user's";
}

words! {
    /// What the operator wants of a server. It looks at it at every beat.
    Desired:
    Run = 0, "run", "it shall run";
    Stop = 1, "stop", "it shall finish what it does and exit";
}

words! {
    /// What becomes of a server's process, and of its slot. Written by the watchdog.
    Goal:
    Run = 0, "run", "it shall run";
    Rest = 1, "rest", "it shall go, and stay away: somebody asked for that";
    Again = 2, "again", "it shall go, and come back";
    Leave = 3, "leave", "it shall go for good: its service is not wanted any more";
}

words! {
    /// Who stores the beats of a heart.
    HeartSource:
    Memory = 1, "memory", "the program itself, in the segment";
    Notify = 2, "notify", "the watchdog, for each `WATCHDOG=1` of the program";
    Loop = 3, "loop", "the preloaded shim, each time the main thread comes to its event wait";
    Loops = 4, "loops", "the preloaded shim, one heart for each epoll descriptor";
    File = 5, "file", "the prober, when a file moved";
    Probe = 6, "probe", "the prober, when its probe succeeded";
    None = 7, "none", "nobody: only its death is noticed";
    Auto = 8, "auto", "`memory` or `notify`, whichever beats first";
}

words! {
    /// Whether a server's silence convicts it.
    Watched:
    No = 1, "unwatched", "not now: it never beat, or whoever beat is gone";
    Yes = 2, "watched", "yes, after its limit";
}

/// Names in the environment of every server.
pub mod env {
    /// The run directory, a path.
    pub const RUN_DIR: &str = "OSPS_RUN_DIR";
    /// The slot, a number.
    pub const SLOT: &str = "OSPS_SLOT";
    /// The generation, a number.
    pub const GENERATION: &str = "OSPS_GENERATION";
    /// What the event-loop shim needs: descriptor of the segment, its device and inode, the number
    /// of seccomp filters that osps itself has, and `loop` or `loops`, with colons between them.
    pub const LOOP: &str = "OSPS_LOOP";
    /// The only name of a process that may claim the heart of an event loop.
    pub const HEART_PROCESS: &str = "OSPS_HEART_PROCESS";
    /// The shim's file, to be preloaded; no program sees it.
    pub const SHIM: &str = "OSPS_SHIM";
    /// The limit of open descriptors that a program gets back; no program sees it.
    pub const DESCRIPTORS: &str = "OSPS_DESCRIPTORS";
}

impl Class {
    /// Somebody wants it silent: hold, warn, do not kill.
    pub fn is_intention(self) -> bool {
        match self {
            Class::Traced | Class::CgroupFrozen => true,
            Class::Stopped
            | Class::Starved
            | Class::Spinning
            | Class::Blocked
            | Class::Unkillable
            | Class::Unknown
            | Class::NotReleasing
            | Class::Dying
            | Class::Triggered => false,
        }
    }
}

impl Class {
    /// Its place in a table with one entry per class.
    pub fn index(self) -> usize {
        Class::ALL.iter().position(|class| *class == self).unwrap_or(0)
    }
}

impl Cause {
    /// Its place in a table with one entry per cause.
    pub fn index(self) -> usize {
        Cause::ALL.iter().position(|cause| *cause == self).unwrap_or(0)
    }
}

impl State {
    /// Whether a process may be alive in a slot in this state.
    pub fn has_process(self) -> bool {
        match self {
            State::Starting | State::Up | State::Late | State::Held | State::Stopping => true,
            State::Down | State::Backoff | State::Failed | State::Done | State::Blocked => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One table: codes and words unique, both ways.
    macro_rules! check {
        ($name:ident) => {{
            let words: BTreeSet<_> = $name::ALL.iter().map(|one| one.word()).collect();
            assert_eq!(words.len(), $name::ALL.len(), "a word twice in {}", stringify!($name));
            assert!($name::ALL.is_sorted_by_key(|one| one.code()), "{}", stringify!($name));
            for one in $name::ALL {
                assert_eq!($name::from_code(one.code()), Some(one));
                assert_eq!(one.to_string(), one.word());
                assert!(!one.meaning().is_empty());
            }
            assert_eq!($name::from_code(u64::MAX), None);
        }};
    }

    #[test]
    fn codes_and_words_are_unique() {
        check!(State);
        check!(Goal);
        check!(Cause);
        check!(Class);
        check!(Event);
        check!(Role);
        check!(Desired);
        check!(HeartSource);
        check!(Watched);
        check!(DeathKind);
        check!(Press);
        check!(Request);
    }

    #[test]
    fn zero_means_none_where_a_word_is_optional() {
        assert_eq!(Cause::from_code(0), None);
        assert_eq!(Class::from_code(0), None);
        assert_eq!(Event::from_code(0), None);
    }
}
