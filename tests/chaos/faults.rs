//! The faults: what there is, whom each may strike, and how often.

/// What may go wrong; most of it for a span of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, for good.
    Freeze,
    /// SIGSTOP, and SIGCONT after the span.
    Thaw,
    /// A client's `DEBUG SPIN`, `BLOCK`, `ABORT`, and `SLEEP` for the span.
    Spin,
    Block,
    Abort,
    Sleep,
    /// The watchdog alone is stopped for the span.
    Pause,
    /// Everything is stopped for the span, as with a virtual machine. Even spans wake the servers
    /// first, odd ones the watchdog.
    Suspend,
    /// The watchdog is killed; after the span another one starts in its place.
    Restart,
    /// A client sends and sends for the span, and reads nothing.
    Deaf,
    /// A client sends half of a command and waits for the span.
    Half,
    /// Somebody keeps both FIFOs full for the span: even ones with frames, odd ones with noise.
    Full,
    /// So many pieces of noise in both FIFOs.
    Garbage,
    /// So many frames of old generations in both FIFOs.
    Stale,
}

/// Which servers a fault strikes.
#[derive(Clone, Copy)]
pub enum Whom {
    Nobody,
    One,
    /// One, the primary and another, or all.
    Several,
    /// One secondary, or all.
    Secondaries,
}

/// From, to; one of these pairs.
type Spans = &'static [(u64, u64)];

/// What there is to know of a fault.
pub struct Row {
    pub fault: Fault,
    pub word: &'static str,
    /// Its share among all.
    pub share: usize,
    pub whom: Whom,
    pub spans: Spans,
}

pub const fn row(fault: Fault, word: &'static str, share: usize, whom: Whom, spans: Spans) -> Row {
    Row { fault, word, share, whom, spans }
}

pub static FAULTS: [Row; 15] = [
    row(Fault::Kill, "kill", 4, Whom::Several, &[]),
    row(Fault::Freeze, "freeze", 4, Whom::Several, &[]),
    // Too short for a verdict, or around it.
    row(Fault::Thaw, "thaw", 4, Whom::Several, &[(10, 240), (400, 600)]),
    row(Fault::Spin, "spin", 1, Whom::One, &[]),
    row(Fault::Block, "block", 1, Whom::One, &[]),
    row(Fault::Abort, "abort", 1, Whom::One, &[]),
    row(Fault::Sleep, "sleep", 2, Whom::One, &[(10, 240), (400, 700)]),
    // Less than the slack, or more.
    row(Fault::Pause, "pause", 2, Whom::Nobody, &[(10, 60), (100, 1500)]),
    row(Fault::Suspend, "suspend", 2, Whom::Nobody, &[(10, 1500)]),
    row(Fault::Restart, "restart", 2, Whom::Nobody, &[(0, 0), (1, 300)]),
    row(Fault::Deaf, "deaf", 1, Whom::One, &[(50, 400)]),
    row(Fault::Half, "half", 1, Whom::One, &[(50, 400)]),
    row(Fault::Full, "full", 2, Whom::Secondaries, &[(20, 240), (500, 900)]),
    row(Fault::Garbage, "garbage", 1, Whom::Secondaries, &[(1, 40)]),
    row(Fault::Stale, "stale", 1, Whom::Secondaries, &[(1, 400)]),
];

impl Fault {
    pub fn row(self) -> &'static Row {
        FAULTS.iter().find(|row| row.fault == self).unwrap()
    }

    pub fn word(self) -> &'static str {
        self.row().word
    }
}
