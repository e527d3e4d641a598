//! The event ring: the last 1024 things that happened, readable after everybody died.
//!
//! Writer: the watchdog alone. An entry's ticket is cleared first and stored last, so a reader
//! that meets a writer (or its corpse) skips that entry and never shows a torn one. A [`Record`] is
//! one happening in its only form: log line, events, JSON and metrics are renderings of it. It
//! names whom it is about, since the slot may have another service by the time that it is read.
//! What is read is an allegation: numbers that no record has are skipped.

use std::fmt;
use std::time::Duration;

use super::layout::{EVENTS, EventCells, RingCells};
use super::text::Text;
use crate::ids::{Generation, SlotId};
use crate::sync::{Ordering, Word, fence};
use crate::time::{Monotonic, nanos};
use crate::words::{Cause, Class, DeathKind, Event, HeartSource, Press, Request, State};

/// One happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub time: Monotonic,
    /// Which server; `None` = the watchdog itself.
    pub slot: Option<SlotId>,
    /// Which incarnation of it.
    pub generation: Generation,
    /// What.
    pub what: What,
    /// When, ns since 1970; 0 = not known.
    pub unix_ns: u64,
    /// The process, or the watchdog's; 0 = there is none.
    pub pid: u32,
    /// Its state until then, and from then on; `None` = it did not change.
    pub change: Option<(State, State)>,
    /// The limit in force.
    pub limit: Option<Duration>,
    /// How long a dead process had been up.
    pub up: Option<Duration>,
    /// Time from a kill without grace to the confirmed death.
    pub took: Option<Duration>,
    /// Name of the service; empty = the watchdog itself.
    pub name: Text<4>,
    /// Name of the further heart that it is about; empty = its own.
    pub heart: Text<4>,
    /// A word more: where a silent server sleeps in the kernel, whom it goes down with or waits
    /// for, the signal that tells it to leave, who wants everything to stop.
    pub detail: Text<5>,
    /// A longer text: what its prober found wrong last, where the watchdog's run directory is.
    pub text: Text<{ Record::TEXT }>,
}

impl Record {
    /// Words of the longest text.
    pub const TEXT: usize = 12;

    /// One with nothing said beside it.
    pub fn new(
        time: Monotonic,
        slot: Option<SlotId>,
        generation: Generation,
        what: What,
    ) -> Record {
        Record {
            time,
            slot,
            generation,
            what,
            unix_ns: 0,
            pid: 0,
            change: None,
            limit: None,
            up: None,
            took: None,
            name: Text::default(),
            heart: Text::default(),
            detail: Text::default(),
            text: Text::default(),
        }
    }
}

/// What happened. Durations have the resolution of a nanosecond; those that may be absent are
/// never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A process was started.
    Started {
        /// Its pid; 0 = not known yet.
        pid: u32,
        /// Why its predecessor went; `None` = it is the first one.
        after: Option<Cause>,
    },
    /// It beats for the first time.
    FirstBeat {
        /// Time since it was started.
        after: Duration,
        /// Time without a live predecessor, if there was one.
        down_for: Option<Duration>,
    },
    /// It beats again.
    Beat {
        /// After this silence.
        silence: Duration,
    },
    /// It has been silent for 60 % of its limit.
    Late {
        /// For so long.
        silence: Duration,
    },
    /// It is silent and somebody wants it so.
    Held {
        /// In which way.
        class: Class,
    },
    /// Nobody holds it any more; its limit runs again.
    Pardoned,
    /// It is killed now.
    Verdict {
        /// For this.
        cause: Cause,
        /// In which way it was silent, for a freeze.
        class: Option<Class>,
        /// Time since its last beat.
        silence: Duration,
    },
    /// An orderly stop: its desired word says so.
    StopOrder,
    /// It did not leave in time.
    Pressed {
        /// What was sent.
        press: Press,
        /// At once, since it does not look at its desired word.
        heedless: bool,
    },
    /// It does not die; its slot stays closed.
    Alarm,
    /// Its death is confirmed; a successor may start at once.
    Died {
        /// How.
        death: Death,
        /// What made it go; `None` = it was told to.
        cause: Option<Cause>,
    },
    /// Its death is confirmed; the next one waits.
    Backoff {
        /// How it died.
        death: Death,
        /// Not before this moment.
        until: Monotonic,
    },
    /// Its death is confirmed, and no next one starts by itself.
    Failed {
        /// How it died.
        death: Death,
        /// Once is enough (`restart` is `never`); else it was restarted too often.
        once: bool,
    },
    /// Its death is confirmed; that was a success, and no more of it is needed.
    Done {
        /// How it ended.
        death: Death,
    },
    /// It shall run, and waits for another.
    Blocked {
        /// For this one.
        by: SlotId,
    },
    /// Somebody asked for something.
    Asked {
        /// For this.
        request: Request,
        /// Who: a user id.
        uid: u32,
    },
    /// It is not judged for a while.
    Paused {
        /// Until then.
        until: Monotonic,
    },
    /// It is judged again.
    Resumed,
    /// Its service is not in the file any more.
    Removed,
    /// A new watchdog took it over.
    Adopted {
        /// Its pid.
        pid: u32,
    },
    /// The watchdog itself was late: every silent server's limit runs again.
    LateTurn {
        /// By this much.
        by: Duration,
    },
    /// Overdue, but its limit runs again, since the host starves it.
    Spared {
        /// Its silence so far.
        silence: Duration,
    },
    /// Overdue, but only told, not killed.
    Warned {
        /// In which way it was silent.
        class: Class,
        /// Time since its last beat.
        silence: Duration,
    },
    /// Its silence convicts nobody, for the time being.
    Unwatched,
    /// From now on its silence counts.
    Watched {
        /// Who beats for it.
        source: HeartSource,
    },
    /// The watchdog runs.
    WatchdogStarted,
    /// An orderly stop of everything begins.
    WatchdogStopping,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It never ran: the kernel refused to start it.
    NotSpawned,
    /// Confirmed, but somebody else got the status.
    Unknown,
    /// The kernel killed it for want of memory: its control group's or the machine's.
    OutOfMemory,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.encode() {
            (kind @ (DeathKind::Exited | DeathKind::Killed), value) => write!(f, "{kind} {value}"),
            (kind, _) => kind.fmt(f),
        }
    }
}

impl Death {
    /// The cause that it is, if nobody made it.
    pub fn cause(self) -> Cause {
        match self {
            Death::Exited(_) | Death::NotSpawned | Death::Unknown => Cause::Exited,
            Death::Killed(_) => Cause::Killed,
            Death::OutOfMemory => Cause::OutOfMemory,
        }
    }

    fn encode(self) -> (DeathKind, u64) {
        let value = |number: i32| u64::from(number.unsigned_abs());
        match self {
            Death::Exited(status) => (DeathKind::Exited, value(status)),
            Death::Killed(signal) => (DeathKind::Killed, value(signal)),
            Death::NotSpawned => (DeathKind::NotSpawned, 0),
            Death::Unknown => (DeathKind::Unknown, 0),
            Death::OutOfMemory => (DeathKind::OutOfMemory, 0),
        }
    }

    fn decode(kind: u64, value: u64) -> Option<Death> {
        let number = || i32::try_from(value).ok();
        Some(match DeathKind::from_code(kind)? {
            DeathKind::Exited => Death::Exited(number()?),
            DeathKind::Killed => Death::Killed(number()?),
            DeathKind::NotSpawned => Death::NotSpawned,
            DeathKind::Unknown => Death::Unknown,
            DeathKind::OutOfMemory => Death::OutOfMemory,
        })
    }
}

impl What {
    /// The cause that it speaks of.
    pub fn cause(&self) -> Option<Cause> {
        match *self {
            What::Verdict { cause, .. } => Some(cause),
            What::Started { after, .. } => after,
            What::Died { cause, .. } => cause,
            What::Backoff { death, .. } | What::Failed { death, .. } => Some(death.cause()),
            _ => None,
        }
    }

    /// In which way a server is silent.
    pub fn class(&self) -> Option<Class> {
        match *self {
            What::Verdict { class, .. } => class,
            What::Held { class } | What::Warned { class, .. } => Some(class),
            _ => None,
        }
    }

    /// For how long it is, or was, silent.
    pub fn silence(&self) -> Option<Duration> {
        match *self {
            What::Beat { silence }
            | What::Late { silence }
            | What::Verdict { silence, .. }
            | What::Spared { silence }
            | What::Warned { silence, .. } => Some(silence),
            _ => None,
        }
    }

    /// How its process ended.
    pub fn death(&self) -> Option<Death> {
        match *self {
            What::Died { death, .. }
            | What::Backoff { death, .. }
            | What::Failed { death, .. }
            | What::Done { death } => Some(death),
            _ => None,
        }
    }

    /// Which event of the ring it is.
    pub fn event(&self) -> Event {
        self.encode().0
    }

    /// The event and its arguments, as docs/segment.md lists them.
    pub fn encode(&self) -> (Event, [u64; 3]) {
        match *self {
            What::Started { pid, after } => {
                (Event::Started, [u64::from(pid), after.map_or(0, Cause::code), 0])
            }
            What::FirstBeat { after, down_for } => {
                (Event::Up, [nanos(after), down_for.map_or(0, present), 0])
            }
            What::Beat { silence } => (Event::Up, [0, 0, present(silence)]),
            What::Late { silence } => (Event::Late, [nanos(silence), 0, 0]),
            What::Verdict { cause, class, silence } => {
                let class = class.map_or(0, Class::code);
                (Event::Verdict, [cause.code(), class, nanos(silence)])
            }
            What::Held { class } => (Event::Held, [class.code(), 0, 0]),
            What::Pardoned => (Event::Pardoned, [0; 3]),
            What::StopOrder => (Event::StopOrder, [0; 3]),
            What::Pressed { press, heedless } => {
                (Event::Pressed, [press.code(), u64::from(heedless), 0])
            }
            What::Alarm => (Event::Alarm, [0; 3]),
            What::Died { death, cause } => {
                let (kind, value) = death.encode();
                (Event::Died, [kind.code(), value, cause.map_or(0, Cause::code)])
            }
            What::Backoff { death, until } => {
                let (kind, value) = death.encode();
                (Event::Backoff, [until.0, kind.code(), value])
            }
            What::Failed { death, once } => {
                let (kind, value) = death.encode();
                (Event::Failed, [kind.code(), value, u64::from(once)])
            }
            What::Done { death } => {
                let (kind, value) = death.encode();
                (Event::Done, [kind.code(), value, 0])
            }
            What::Blocked { by } => (Event::Blocked, [u64::from(by.0) + 1, 0, 0]),
            What::Asked { request, uid } => (Event::Asked, [request.code(), u64::from(uid), 0]),
            What::Paused { until } => (Event::Paused, [until.0, 0, 0]),
            What::Resumed => (Event::Resumed, [0; 3]),
            What::Removed => (Event::Removed, [0; 3]),
            What::Adopted { pid } => (Event::Adopted, [u64::from(pid), 0, 0]),
            What::LateTurn { by } => (Event::LateTurn, [nanos(by), 0, 0]),
            What::Spared { silence } => (Event::Spared, [nanos(silence), 0, 0]),
            What::Warned { class, silence } => (Event::Warned, [class.code(), nanos(silence), 0]),
            What::Unwatched => (Event::Unwatched, [0; 3]),
            What::Watched { source } => (Event::Watched, [source.code(), 0, 0]),
            What::WatchdogStarted => (Event::WatchdogStarted, [0; 3]),
            What::WatchdogStopping => (Event::WatchdogStopping, [0; 3]),
        }
    }

    /// What these words say; `None` = nothing that a watchdog of this version writes.
    pub fn decode(event: u64, [a, b, c]: [u64; 3]) -> Option<What> {
        let span = Duration::from_nanos;
        // 0 = absent; another code must be one.
        let cause = |code| match code {
            0 => Some(None),
            code => Cause::from_code(code).map(Some),
        };
        let class = |code| match code {
            0 => Some(None),
            code => Class::from_code(code).map(Some),
        };
        Some(match Event::from_code(event)? {
            Event::Started => What::Started { pid: u32::try_from(a).ok()?, after: cause(b)? },
            Event::Up if c != 0 => What::Beat { silence: span(c) },
            Event::Up => What::FirstBeat { after: span(a), down_for: (b != 0).then(|| span(b)) },
            Event::Late => What::Late { silence: span(a) },
            Event::Verdict => {
                What::Verdict { cause: Cause::from_code(a)?, class: class(b)?, silence: span(c) }
            }
            Event::Held => What::Held { class: Class::from_code(a)? },
            Event::Pardoned => What::Pardoned,
            Event::StopOrder => What::StopOrder,
            Event::Pressed => What::Pressed { press: Press::from_code(a)?, heedless: b == 1 },
            Event::Alarm => What::Alarm,
            Event::Died => What::Died { death: Death::decode(a, b)?, cause: cause(c)? },
            Event::Backoff => What::Backoff { until: Monotonic(a), death: Death::decode(b, c)? },
            Event::Failed => What::Failed { death: Death::decode(a, b)?, once: c == 1 },
            Event::Done => What::Done { death: Death::decode(a, b)? },
            Event::Blocked => {
                What::Blocked { by: SlotId(a.checked_sub(1).and_then(|a| u8::try_from(a).ok())?) }
            }
            Event::Asked => {
                What::Asked { request: Request::from_code(a)?, uid: u32::try_from(b).ok()? }
            }
            Event::Paused => What::Paused { until: Monotonic(a) },
            Event::Resumed => What::Resumed,
            Event::Removed => What::Removed,
            Event::Adopted => What::Adopted { pid: u32::try_from(a).ok()? },
            Event::LateTurn => What::LateTurn { by: span(a) },
            Event::Spared => What::Spared { silence: span(a) },
            Event::Warned => What::Warned { class: Class::from_code(a)?, silence: span(b) },
            Event::Unwatched => What::Unwatched,
            Event::Watched => What::Watched { source: HeartSource::from_code(a)? },
            Event::WatchdogStarted => What::WatchdogStarted,
            Event::WatchdogStopping => What::WatchdogStopping,
        })
    }
}

/// A span in a word where 0 stands for "absent".
fn present(span: Duration) -> u64 {
    nanos(span).max(1)
}

/// Words of an entry behind its ticket.
const WORDS: usize = 39;
/// Those that are stored and read. The models look at the first ones alone: all are treated alike,
/// and each one more makes a model take longer.
const SHARED: usize = if cfg!(loom) { 7 } else { WORDS };

impl EventCells {
    /// All words but the ticket, in their order.
    fn words(&self) -> impl Iterator<Item = &Word> {
        let first = [&self.time_ns, &self.slot, &self.generation, &self.kind];
        let then = [&self.unix_ns, &self.pid, &self.from, &self.to];
        let spans = [&self.limit_ns, &self.up_ns, &self.took_ns];
        let said = first.into_iter().chain(&self.arguments).chain(then).chain(spans);
        let texts = self.name.iter().chain(&self.heart).chain(&self.detail).chain(&self.text);
        said.chain(texts).take(SHARED)
    }
}

impl Record {
    /// Its words, in the order of an entry's.
    fn words(&self) -> [u64; WORDS] {
        let (event, [a, b, c]) = self.what.encode();
        let slot = self.slot.map_or(0, |slot| u64::from(slot.0) + 1);
        let state = |state: State| state.code() + 1;
        let span = |span: Option<Duration>| span.map_or(0, present);
        let generation = u64::from(self.generation.0);
        let said = [
            self.time.0,
            slot,
            generation,
            event.code(),
            a,
            b,
            c,
            self.unix_ns,
            u64::from(self.pid),
            self.change.map_or(0, |(from, _)| state(from)),
            self.change.map_or(0, |(_, to)| state(to)),
            span(self.limit),
            span(self.up),
            span(self.took),
        ];
        let texts = self.name.words().iter().chain(self.heart.words());
        let texts = texts.chain(self.detail.words()).chain(self.text.words());
        let mut words = said.iter().chain(texts).copied();
        std::array::from_fn(|_| words.next().unwrap_or(0))
    }

    /// What these words say; `None` = nothing that a watchdog of this version writes.
    fn of_words(words: &[u64; WORDS]) -> Option<Record> {
        let [time, slot, generation, event, a, b, c, unix_ns, pid, from, to, limit, up, took, ..] =
            *words;
        let state = |code: u64| State::from_code(code.checked_sub(1)?);
        let span = |ns: u64| (ns != 0).then(|| Duration::from_nanos(ns));
        let mut texts = words[14..].iter().copied();
        Some(Record {
            time: Monotonic(time),
            slot: slot.checked_sub(1).and_then(|slot| u8::try_from(slot).ok()).map(SlotId),
            generation: Generation(u32::try_from(generation).unwrap_or(0)),
            what: What::decode(event, [a, b, c])?,
            unix_ns,
            pid: u32::try_from(pid).unwrap_or(0),
            change: state(from).zip(state(to)),
            limit: span(limit),
            up: span(up),
            took: span(took),
            name: Text::take(&mut texts),
            heart: Text::take(&mut texts),
            detail: Text::take(&mut texts),
            text: Text::take(&mut texts),
        })
    }
}

/// What a reader of the ring finds that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// What is there, oldest first.
    pub records: Vec<Record>,
    /// How many are overwritten, or make no sense.
    pub missed: u64,
    /// The number to come back with.
    pub next: u64,
}

impl RingCells {
    /// Appends a record, overwriting the oldest.
    pub fn push(&self, record: &Record) {
        let number = self.head.load(Ordering::Relaxed);
        let entry = self.entry(number);
        entry.ticket.store(0, Ordering::Relaxed);
        // Release fence: the cleared ticket is visible before any new word; pairs with the
        // acquire fence in `read`.
        fence(Ordering::Release);
        for (cell, value) in entry.words().zip(record.words()) {
            cell.store(value, Ordering::Relaxed);
        }
        entry.ticket.store(number.wrapping_add(1), Ordering::Relaxed);
        // Release: pairs with the acquire in `written`: what is counted is there, and whole.
        self.head.store(number.wrapping_add(1), Ordering::Release);
    }

    /// Events ever written.
    pub fn written(&self) -> u64 {
        // Acquire: pairs with the release in `push`.
        self.head.load(Ordering::Acquire)
    }

    /// The records from this number on that are still there, oldest first, and how many are not.
    pub fn since(&self, number: u64) -> Since {
        let next = self.written();
        let first = number.max(next.saturating_sub(EVENTS as u64)).min(next);
        let records: Vec<_> = (first..next).filter_map(|number| self.read(number)).collect();
        let missed = next.saturating_sub(number) - records.len() as u64;
        Since { records, missed, next }
    }

    /// The newest records, oldest first, at most `most`.
    pub fn latest(&self, most: usize) -> Vec<Record> {
        let head = self.written();
        let span = (most.min(EVENTS) as u64).min(head);
        (head - span..head).filter_map(|number| self.read(number)).collect()
    }

    fn entry(&self, number: u64) -> &EventCells {
        let index = number % EVENTS as u64;
        &self.entries[usize::try_from(index).unwrap_or(0)]
    }

    fn read(&self, number: u64) -> Option<Record> {
        let entry = self.entry(number);
        let ticket = number.wrapping_add(1);
        // Relaxed: `head` was loaded with acquire, so the words are at least this record's.
        if entry.ticket.load(Ordering::Relaxed) != ticket {
            return None;
        }
        let mut words = [0; WORDS];
        for (word, cell) in words.iter_mut().zip(entry.words()) {
            *word = cell.load(Ordering::Relaxed);
        }
        // Acquire fence: the words above are read before the ticket is read again.
        fence(Ordering::Acquire);
        if entry.ticket.load(Ordering::Relaxed) != ticket {
            return None;
        }
        Record::of_words(&words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        prop::sample::select(all)
    }

    fn span() -> impl Strategy<Value = Duration> {
        (1..u64::MAX).prop_map(Duration::from_nanos)
    }

    fn death() -> impl Strategy<Value = Death> {
        prop_oneof![
            (0..i32::MAX).prop_map(Death::Exited),
            (0..i32::MAX).prop_map(Death::Killed),
            Just(Death::NotSpawned),
            Just(Death::Unknown),
        ]
    }

    fn what() -> impl Strategy<Value = What> {
        let cause = || prop::option::of(one_of(&Cause::ALL));
        let class = || one_of(&Class::ALL);
        prop_oneof![
            (any::<u32>(), cause()).prop_map(|(pid, after)| What::Started { pid, after }),
            (span(), prop::option::of(span()))
                .prop_map(|(after, down_for)| What::FirstBeat { after, down_for }),
            span().prop_map(|silence| What::Beat { silence }),
            span().prop_map(|silence| What::Late { silence }),
            class().prop_map(|class| What::Held { class }),
            (one_of(&Cause::ALL), prop::option::of(class()), span())
                .prop_map(|(cause, class, silence)| What::Verdict { cause, class, silence }),
            (one_of(&Press::ALL), any::<bool>())
                .prop_map(|(press, heedless)| What::Pressed { press, heedless }),
            (death(), cause()).prop_map(|(death, cause)| What::Died { death, cause }),
            (death(), any::<u64>())
                .prop_map(|(death, at)| What::Backoff { death, until: Monotonic(at) }),
            (death(), any::<bool>()).prop_map(|(death, once)| What::Failed { death, once }),
            death().prop_map(|death| What::Done { death }),
            (0..254_u8).prop_map(|by| What::Blocked { by: SlotId(by) }),
            (one_of(&Request::ALL), any::<u32>())
                .prop_map(|(request, uid)| What::Asked { request, uid }),
            any::<u64>().prop_map(|until| What::Paused { until: Monotonic(until) }),
            any::<u32>().prop_map(|pid| What::Adopted { pid }),
            span().prop_map(|by| What::LateTurn { by }),
            span().prop_map(|silence| What::Spared { silence }),
            (one_of(&Class::ALL), span())
                .prop_map(|(class, silence)| What::Warned { class, silence }),
            one_of(&HeartSource::ALL).prop_map(|source| What::Watched { source }),
            one_of(&[
                What::Pardoned,
                What::StopOrder,
                What::Alarm,
                What::WatchdogStarted,
                What::WatchdogStopping,
                What::Unwatched,
                What::Resumed,
                What::Removed,
            ]),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let span = || prop::option::of(span());
        let change = prop::option::of((one_of(&State::ALL), one_of(&State::ALL)));
        let text = || ".{0,40}";
        let head = (any::<u64>(), prop::option::of(any::<u8>()), any::<u32>(), what());
        let body = (any::<u64>(), any::<u32>(), change, span(), span(), span());
        (head, body, text(), text(), text(), text()).prop_map(
            |((time, slot, generation, what), body, name, heart, detail, text)| {
                let (unix_ns, pid, change, limit, up, took) = body;
                let slot = slot.map(SlotId);
                Record {
                    unix_ns,
                    pid,
                    change,
                    limit,
                    up,
                    took,
                    name: name.as_str().into(),
                    heart: heart.as_str().into(),
                    detail: detail.as_str().into(),
                    text: text.as_str().into(),
                    ..Record::new(Monotonic(time), slot, Generation(generation), what)
                }
            },
        )
    }

    #[test]
    fn a_record_fills_an_entry() {
        assert_eq!((WORDS + 1) * 8, size_of::<EventCells>());
    }

    proptest! {
        #[test]
        fn a_record_comes_back_whole(record in record()) {
            prop_assert_eq!(Record::of_words(&record.words()), Some(record));
        }

        #[test]
        fn what_is_encoded_is_decoded(what in what()) {
            let (event, arguments) = what.encode();
            prop_assert_eq!(What::decode(event.code(), arguments), Some(what));
        }

        #[test]
        fn scribbled_words_are_a_record_or_nothing(event in 0u64..30, words: [u64; 3]) {
            if let Some(what) = What::decode(event, words) {
                prop_assert_eq!(what.event().code(), event);
            }
        }
    }

    #[test]
    fn every_event_has_a_record() {
        for event in Event::ALL {
            let plausible = [[1, 1, 1], [1, 0, 0], [0, 1, 1]];
            let what = plausible.iter().find_map(|words| What::decode(event.code(), *words));
            assert_eq!(what.map(|what| what.event()), Some(event), "{event}");
        }
    }

    #[test]
    fn deaths_have_words() {
        for (death, words) in [
            (Death::Exited(3), "status 3"),
            (Death::Killed(9), "signal 9"),
            (Death::NotSpawned, "could not be started"),
            (Death::Unknown, "status unknown"),
        ] {
            assert_eq!(death.to_string(), words);
        }
    }
}
