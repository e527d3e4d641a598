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
    /// The watchdog is stopped for good; after the span another one is told to take over.
    TakeOver,
    /// The watchdog becomes another image, which is the same binary.
    Upgrade,
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
    /// Somebody writes over what servers write of themselves, for the span: their hearts, and what
    /// they say they do. The data are not scribbled over: what is in there was written.
    Scribble,
    /// The file of services changes, and is read again: the bits of the span say what is changed.
    Reload,
    /// The file has a mistake when it is read again, and is put right.
    Slip,
    /// Somebody asks for a restart.
    Again,
    /// Somebody asks for a stop, and after the span for a start.
    Rest,
    /// Somebody asks that it is not judged for the span.
    Excuse,
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
    /// Its share among all, of the pair's faults and of the services'.
    pub shares: [usize; 2],
    pub whom: Whom,
    pub spans: Spans,
}

const fn row(
    fault: Fault,
    word: &'static str,
    shares: [usize; 2],
    whom: Whom,
    spans: Spans,
) -> Row {
    Row { fault, word, shares, whom, spans }
}

pub static FAULTS: [Row; 23] = [
    row(Fault::Kill, "kill", [4, 4], Whom::Several, &[]),
    row(Fault::Freeze, "freeze", [4, 3], Whom::Several, &[]),
    // Too short for a verdict, or around it.
    row(Fault::Thaw, "thaw", [4, 3], Whom::Several, &[(10, 240), (400, 600)]),
    row(Fault::Spin, "spin", [1, 0], Whom::One, &[]),
    row(Fault::Block, "block", [1, 0], Whom::One, &[]),
    row(Fault::Abort, "abort", [1, 0], Whom::One, &[]),
    row(Fault::Sleep, "sleep", [2, 0], Whom::One, &[(10, 240), (400, 700)]),
    // Less than the slack, or more.
    row(Fault::Pause, "pause", [2, 1], Whom::Nobody, &[(10, 60), (100, 1500)]),
    row(Fault::Suspend, "suspend", [2, 1], Whom::Nobody, &[(10, 1500)]),
    row(Fault::Restart, "restart", [2, 3], Whom::Nobody, &[(0, 0), (1, 300)]),
    row(Fault::TakeOver, "takeover", [1, 1], Whom::Nobody, &[(0, 0), (1, 300)]),
    row(Fault::Upgrade, "upgrade", [2, 3], Whom::Nobody, &[]),
    row(Fault::Deaf, "deaf", [1, 0], Whom::One, &[(50, 400)]),
    row(Fault::Half, "half", [1, 0], Whom::One, &[(50, 400)]),
    row(Fault::Full, "full", [2, 0], Whom::Secondaries, &[(20, 240), (500, 900)]),
    row(Fault::Garbage, "garbage", [1, 0], Whom::Secondaries, &[(1, 40)]),
    row(Fault::Stale, "stale", [1, 0], Whom::Secondaries, &[(1, 400)]),
    row(Fault::Scribble, "scribble", [2, 0], Whom::Several, &[(20, 400)]),
    row(Fault::Reload, "reload", [0, 4], Whom::Nobody, &[(0, 7)]),
    row(Fault::Slip, "slip", [0, 1], Whom::Nobody, &[]),
    row(Fault::Again, "again", [0, 2], Whom::One, &[]),
    row(Fault::Rest, "rest", [0, 2], Whom::One, &[(0, 0), (1, 400)]),
    row(Fault::Excuse, "excuse", [0, 1], Whom::One, &[(100, 1000)]),
];

impl Fault {
    pub fn row(self) -> &'static Row {
        FAULTS.iter().find(|row| row.fault == self).unwrap()
    }

    pub fn word(self) -> &'static str {
        self.row().word
    }
}
