//! Who gets a report of how much, and how long a kill waits for it.
//!
//! A collector has a seat; there are [`SEATS`]. Who is late takes one if it is free, so that the
//! collector has seen it before the verdict. A verdict goes before who is only late, and starts the
//! clock: the kill waits until the collector has seen enough, [`WAIT`] at most, or as long as
//! stacks may take. Whoever finds no seat is killed at once and gets a short report, of what is
//! known anyway. Nobody waits for the report of another.

use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::time::Monotonic;

/// So many are looked at at once.
pub const SEATS: usize = 2;
/// How long a kill waits for a report without stacks.
pub const WAIT: Duration = Duration::from_millis(20);
/// How long writing a report may take after the kill.
pub const WRITING: Duration = Duration::from_secs(5);
/// Who was late for nothing is looked at only by its verdict for so long: a heart that is often
/// late shall not start a process each time.
const CALM: Duration = Duration::from_secs(10);

/// One launch of a service.
pub type Who = (SlotId, Generation);

/// Where a collector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It looks at who is late.
    Looking,
    /// The verdict fell: the kill waits, until then at most.
    Holding(Monotonic),
    /// It writes, and may do so until then.
    Writing(Monotonic),
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    who: Who,
    phase: Phase,
}

/// What a verdict means for the report of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Its collector is to be told.
    Full,
    /// A collector is to be started, and to be told; the one of somebody else who was only late is
    /// to be ended for that, if there is one.
    Fresh(Option<Who>),
    /// What the watchdog knows.
    Short,
}

/// All seats.
#[derive(Debug, Default)]
pub struct Seats {
    seats: Vec<Seat>,
    /// Who was late for nothing, and when.
    calm: Vec<(SlotId, Monotonic)>,
}

impl Seats {
    /// Somebody is late: `true` = a collector is to be started for it.
    pub fn late(&mut self, who: Who, now: Monotonic) -> bool {
        self.calm.retain(|(_, since)| now.since(*since) < CALM);
        let calm = self.calm.iter().any(|(slot, _)| *slot == who.0);
        let free = self.seats.len() < SEATS && !self.has(who);
        if free && !calm {
            self.seats.push(Seat { who, phase: Phase::Looking });
        }
        free && !calm
    }

    /// Those that are only looked at and not late any more, by `is_late`: their collectors are to
    /// be ended.
    pub fn relieve(&mut self, now: Monotonic, is_late: impl Fn(Who) -> bool) -> Vec<Who> {
        let over = |seat: &&Seat| seat.phase == Phase::Looking && !is_late(seat.who);
        let over: Vec<_> = self.seats.iter().filter(over).map(|seat| seat.who).collect();
        for who in &over {
            self.leave(*who);
            self.calm.retain(|(slot, _)| *slot != who.0);
            self.calm.push((who.0, now));
        }
        over
    }

    /// A verdict fell; a kill that follows may be held for so long.
    pub fn verdict(&mut self, who: Who, now: Monotonic, wait: Duration) -> Extent {
        self.calm.retain(|(slot, _)| *slot != who.0);
        let holding = Phase::Holding(now + wait);
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.who == who) {
            // Convicted already: it is one report.
            if seat.phase != Phase::Looking {
                return Extent::Short;
            }
            seat.phase = holding;
            return Extent::Full;
        }
        let mut ended = None;
        if self.seats.len() >= SEATS {
            let looking = self.seats.iter().find(|seat| seat.phase == Phase::Looking);
            let Some(looking) = looking else { return Extent::Short };
            ended = Some(looking.who);
            self.leave(looking.who);
        }
        self.seats.push(Seat { who, phase: holding });
        Extent::Fresh(ended)
    }

    /// Until when the kill of this one waits; `None` = it does not.
    pub fn held(&self, who: Who) -> Option<Monotonic> {
        self.seats.iter().find(|seat| seat.who == who).and_then(|seat| match seat.phase {
            Phase::Holding(until) => Some(until),
            Phase::Looking | Phase::Writing(_) => None,
        })
    }

    /// A collector has seen enough, or there is nobody left to look at.
    pub fn seen(&mut self, who: Who, now: Monotonic) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.who == who)
            && matches!(seat.phase, Phase::Holding(_))
        {
            seat.phase = Phase::Writing(now + WRITING);
        }
    }

    /// Whose kill has waited for long enough: it does not wait any more.
    pub fn release(&mut self, now: Monotonic) -> Vec<Who> {
        let due = |seat: &&Seat| matches!(seat.phase, Phase::Holding(until) if until <= now);
        let due: Vec<_> = self.seats.iter().filter(due).map(|seat| seat.who).collect();
        for who in &due {
            self.seen(*who, now);
        }
        due
    }

    /// Whose collector writes for too long.
    pub fn overdue(&self, now: Monotonic) -> Vec<Who> {
        let over = |seat: &&Seat| matches!(seat.phase, Phase::Writing(until) if until <= now);
        self.seats.iter().filter(over).map(|seat| seat.who).collect()
    }

    /// A collector is gone.
    pub fn leave(&mut self, who: Who) {
        self.seats.retain(|seat| seat.who != who);
    }

    /// Whether there is a collector for this one.
    pub fn has(&self, who: Who) -> bool {
        self.seats.iter().any(|seat| seat.who == who)
    }

    /// Whether some kill waits.
    pub fn is_holding(&self) -> bool {
        self.seats.iter().any(|seat| matches!(seat.phase, Phase::Holding(_)))
    }

    /// When one of these is to be looked at again.
    pub fn due(&self) -> Option<Monotonic> {
        let of = |seat: &Seat| match seat.phase {
            Phase::Looking => None,
            Phase::Holding(until) | Phase::Writing(until) => Some(until),
        };
        self.seats.iter().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(slot: u8) -> Who {
        (SlotId(slot), Generation(7))
    }

    fn ms(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    #[test]
    fn a_kill_waits_until_enough_was_seen_or_its_time_is_over() {
        let mut seats = Seats::default();
        assert!(seats.late(who(1), ms(0)) && !seats.late(who(1), ms(1)), "one collector each");
        assert_eq!((seats.held(who(1)), seats.due()), (None, None));
        assert_eq!(seats.verdict(who(1), ms(100), WAIT), Extent::Full);
        assert_eq!((seats.held(who(1)), seats.due()), (Some(ms(120)), Some(ms(120))));
        assert_eq!(seats.release(ms(119)), []);
        assert_eq!(seats.release(ms(120)), [who(1)]);
        assert_eq!((seats.held(who(1)), seats.release(ms(121))), (None, vec![]));
        assert_eq!(seats.overdue(ms(5119)), []);
        assert_eq!(seats.overdue(ms(5120)), [who(1)]);
        seats.leave(who(1));
        assert_eq!(seats.verdict(who(1), ms(6000), WAIT), Extent::Fresh(None));
        seats.seen(who(1), ms(6003));
        assert_eq!((seats.held(who(1)), seats.due()), (None, Some(ms(11_003))));
    }

    #[test]
    fn of_fifty_at_once_two_are_looked_at_and_nobody_waits_for_another() {
        let mut seats = Seats::default();
        let late: Vec<_> = (0..50).filter(|slot| seats.late(who(*slot), ms(0))).collect();
        assert_eq!(late, [0, 1]);
        let extents: Vec<_> = (0..50).map(|slot| seats.verdict(who(slot), ms(9), WAIT)).collect();
        assert_eq!(extents[..3], [Extent::Full, Extent::Full, Extent::Short]);
        assert!(extents[2..].iter().all(|extent| *extent == Extent::Short));
        assert!((2..50).all(|slot| seats.held(who(slot)).is_none()));
    }

    #[test]
    fn a_verdict_goes_before_who_is_only_late() {
        let mut seats = Seats::default();
        assert!(seats.late(who(1), ms(0)) && seats.late(who(2), ms(0)));
        assert_eq!(seats.verdict(who(3), ms(1), WAIT), Extent::Fresh(Some(who(1))));
        assert_eq!(seats.verdict(who(4), ms(1), WAIT), Extent::Fresh(Some(who(2))));
        assert_eq!(seats.verdict(who(1), ms(1), WAIT), Extent::Short);
        assert!(!seats.late(who(5), ms(2)));
    }

    #[test]
    fn who_is_often_late_for_nothing_is_looked_at_by_its_verdict_only() {
        let mut seats = Seats::default();
        assert!(seats.late(who(1), ms(0)));
        assert_eq!(seats.relieve(ms(5), |_| true), []);
        assert_eq!(seats.relieve(ms(5), |_| false), [who(1)]);
        assert!(!seats.late(who(1), ms(10_004)), "it was late for nothing just now");
        assert!(seats.late(who(2), ms(10_004)), "others were not");
        assert_eq!(seats.verdict(who(1), ms(10_004), WAIT), Extent::Fresh(None));
        seats.leave(who(1));
        assert!(seats.late(who(1), ms(10_005)), "that one was no false alarm");
        assert_eq!(seats.relieve(ms(10_006), |(slot, _)| slot == SlotId(1)), [who(2)]);
        assert!(seats.late(who(2), ms(20_006)), "long ago");
    }

    #[test]
    fn a_launch_is_not_its_predecessor() {
        let mut seats = Seats::default();
        let next = (SlotId(1), Generation(8));
        assert_eq!(seats.verdict(who(1), ms(0), WAIT), Extent::Fresh(None));
        assert_eq!(seats.verdict(who(1), ms(1), WAIT), Extent::Short, "it is convicted already");
        seats.seen(who(1), ms(1));
        assert!(seats.late(next, ms(2)));
        assert_eq!(seats.verdict(next, ms(3), WAIT), Extent::Full);
        assert_eq!((seats.held(who(1)), seats.held(next)), (None, Some(ms(23))));
        assert!(seats.is_holding());
    }
}
