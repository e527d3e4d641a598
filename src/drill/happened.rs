//! What the event ring tells of one fault.

use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::segment::text::Text;
use osps_heart::segment::{Record, What};
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class};

/// What became of the process that had this generation of a slot, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// It was convicted of a freeze.
    pub verdict: Option<Monotonic>,
    /// In which way it was silent.
    pub class: Option<Class>,
    /// The limit that it was convicted by; `None` = not told.
    pub limit: Option<Duration>,
    /// Name of the further heart that fell silent; empty = its own.
    pub heart: Text<4>,
    /// Its death was confirmed.
    pub died: Option<Monotonic>,
    /// Nobody follows it.
    pub given_up: bool,
    /// A process that followed it is up.
    pub up: Option<Monotonic>,
    /// The watchdog was late, or the host gave the server no processor: no promise holds then.
    pub excused: bool,
}

impl Trace {
    /// From records in their order; those before `since` are of no interest.
    pub fn of(records: &[Record], slot: SlotId, generation: Generation, since: Monotonic) -> Trace {
        let mut trace = Trace::default();
        let mut started = None;
        for record in records.iter().filter(|record| record.time >= since) {
            let own = record.slot == Some(slot) && record.generation == generation;
            let next = record.slot == Some(slot) && record.generation != generation;
            match record.what {
                What::LateTurn { .. } => trace.excused |= trace.noticed().is_none(),
                What::Spared { .. } if own => trace.excused = true,
                What::Verdict { cause: Cause::Frozen, class, .. } if own => {
                    (trace.verdict, trace.class) = (Some(record.time), class);
                    (trace.limit, trace.heart) = (record.limit, record.heart);
                }
                What::Died { .. } | What::Backoff { .. } if own => trace.died = Some(record.time),
                What::Failed { .. } | What::Done { .. } if own => {
                    (trace.died, trace.given_up) = (Some(record.time), true);
                }
                What::Failed { .. } | What::Done { .. } if next => trace.given_up = true,
                What::Started { .. } if next => started = Some(record.time),
                What::FirstBeat { after, .. } if next && trace.up.is_none() => {
                    trace.up = started.map(|at: Monotonic| at + after);
                }
                What::Unwatched if next && started.is_some() && trace.up.is_none() => {
                    trace.up = Some(record.time);
                }
                _ => {}
            }
        }
        trace
    }

    /// When the watchdog knew.
    pub fn noticed(&self) -> Option<Monotonic> {
        self.verdict.or(self.died)
    }
}

#[cfg(test)]
mod tests {
    use osps_heart::segment::Death;

    use super::*;

    const SLOT: SlotId = SlotId(3);

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn trace(records: &[(u64, u8, u32, What)]) -> Trace {
        let record = |&(time, slot, generation, what)| {
            Record::new(at(time), Some(SlotId(slot)), Generation(generation), what)
        };
        let records: Vec<_> = records.iter().map(record).collect();
        Trace::of(&records, SLOT, Generation(7), at(100))
    }

    const DEATH: Death = Death::Killed(9);
    const VERDICT: What = What::Verdict {
        cause: Cause::Frozen,
        class: Some(Class::Stopped),
        silence: Duration::ZERO,
    };

    #[test]
    fn a_freeze_is_followed_to_its_successor() {
        let died = What::Died { death: DEATH, cause: Some(Cause::Frozen) };
        let started = What::Started { pid: 1, after: None };
        let up = What::FirstBeat { after: ms(4), down_for: None };
        let seen = trace(&[
            // An earlier one of its own, and one of somebody else.
            (90, 3, 7, VERDICT),
            (120, 2, 7, VERDICT),
            (4000, 3, 7, VERDICT),
            (4005, 3, 7, died),
            (4006, 3, 9, started),
            (4500, 3, 9, up),
        ]);
        let whole = Trace {
            verdict: Some(at(4000)),
            class: Some(Class::Stopped),
            died: Some(at(4005)),
            up: Some(at(4010)),
            ..Trace::default()
        };
        assert_eq!(seen, whole);
        assert_eq!(seen.noticed(), Some(at(4000)));
    }

    #[test]
    fn one_without_a_heart_is_up_when_it_is_called_so() {
        let died = What::Died { death: DEATH, cause: Some(Cause::Killed) };
        let started = What::Started { pid: 1, after: None };
        let seen = trace(&[(101, 3, 7, died), (102, 3, 8, started), (1102, 3, 8, What::Unwatched)]);
        assert_eq!((seen.noticed(), seen.up), (Some(at(101)), Some(at(1102))));
    }

    #[test]
    fn a_late_watchdog_excuses_only_what_was_not_yet_noticed() {
        let late = What::LateTurn { by: ms(900) };
        assert!(trace(&[(200, 0, 0, late), (300, 3, 7, VERDICT)]).excused);
        assert!(!trace(&[(50, 0, 0, late), (300, 3, 7, VERDICT)]).excused);
        assert!(!trace(&[(300, 3, 7, VERDICT), (400, 0, 0, late)]).excused);
        assert!(trace(&[(200, 3, 7, What::Spared { silence: ms(4) })]).excused);
    }

    #[test]
    fn who_is_given_up_is_seen() {
        assert!(trace(&[(200, 3, 7, What::Failed { death: DEATH, once: false })]).given_up);
        assert!(trace(&[(200, 3, 8, What::Failed { death: DEATH, once: false })]).given_up);
        assert!(!trace(&[(200, 4, 8, What::Failed { death: DEATH, once: false })]).given_up);
    }
}
