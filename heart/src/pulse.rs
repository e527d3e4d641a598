//! Is this heart alive? The rule of docs/verdicts.md, run by the watchdog on its servers and by
//! servers on their watchdog.
//!
//! A beat happened iff the *count* moved; the stamp only says when, and only within a window that
//! the watchdog knows itself. Silence counts only over time in which the watchdog was on time: a
//! late turn renews the full limit, a few times. So neither a scribbled stamp nor a paused
//! host convicts an innocent, and neither saves a frozen server for ever.

use std::time::Duration;

use crate::time::{Monotonic, nanos};

/// Late turns that one silence may be forgiven for. More would let a host that is always late
/// hide a freeze for ever; fewer would convict during a bumpy resume from suspend.
pub const RENEWALS_MAX: u8 = 5;

/// Further limits that a starved server gets. The host is overloaded then: killing would add work.
pub const STARVED_MAX: u8 = 2;

/// The allowance for scheduling: an eighth of the limit, within 50..500 ms. Smaller, and ordinary
/// jitter counts as a late watchdog; larger, and a pause as long as the limit goes unnoticed.
pub fn slack(limit: Duration) -> Duration {
    (limit / 8).clamp(Duration::from_millis(50), Duration::from_millis(500))
}

/// From here on a silent server is `late`: 60 % of the limit, early enough that evidence taken
/// now and at the deadline spans a telling time.
pub fn late_after(limit: Duration) -> Duration {
    limit / 5 * 3
}

/// Shortest limit of a heart.
pub const LIMIT_MIN: Duration = Duration::from_millis(20);
/// Longest limit of a heart, and longest time that anything here may be told: more is a slip.
pub const LIMIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether a program may choose this as the limit of a heart.
pub fn is_limit(span: Duration) -> bool {
    (LIMIT_MIN..=LIMIT_MAX).contains(&span)
}

/// A stamp that says: parked, waits for work, not judged until the next beat.
pub const PARKED: Monotonic = Monotonic(u64::MAX);

/// What one look at a heart shows. An allegation: the server may have written anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Beats so far.
    pub count: u64,
    /// When the last one was, as the server says.
    pub stamp: Monotonic,
}

impl Sample {
    /// A heart that stands at this count and is not judged now.
    pub fn parked(count: u64) -> Sample {
        Sample { count, stamp: PARKED }
    }

    /// Whether it says that its silence means nothing.
    pub fn is_parked(self) -> bool {
        self.stamp == PARKED
    }
}

/// One turn of the watchdog's loop, as far as verdicts care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The moment of this turn.
    pub now: Monotonic,
    /// The moment of the turn before.
    pub previous: Monotonic,
    /// How much later than planned this turn came.
    pub lateness: Duration,
    /// The heart was read by then: no beat that was seen is later. A watchdog without a processor
    /// may read hearts long after its clock, and then knows of beats after `now`.
    pub read: Monotonic,
}

impl Turn {
    /// One whose hearts were read at once.
    pub fn new(now: Monotonic, previous: Monotonic, lateness: Duration) -> Turn {
        Turn { now, previous, lateness, read: now }
    }
}

/// What one observation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The server beat since the last look; `first` of its life?
    Beat {
        /// The first beat since it was spawned.
        first: bool,
    },
    /// Silent, and that is still fine.
    Quiet,
    /// Silent, and that means nothing: it waits for work, or nobody is there to beat.
    Parked,
    /// Silent for 60 % of the limit, told once: take a first look.
    Late,
    /// Silent for the limit: take evidence, read once more, then decide.
    Overdue,
}

/// Limits of one heart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Silence that convicts.
    pub hang: Duration,
    /// Time to the first beat.
    pub start: Duration,
}

/// From when on silence counts: what is known before the first beat differs by who beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// From the start on; until the first beat the start timeout is the limit.
    FromStart,
    /// From the first beat on, but nobody is overdue before it is as old as the start timeout:
    /// while a program sets itself up, it may wait for events here and there, and compute.
    FromSetUp,
    /// From the first beat on.
    FromFirstBeat,
    /// Never.
    Never,
}

/// A silence that a beat ended, as the looks show it (docs/verdicts.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How long it was.
    pub span: Duration,
    /// It was late, or more than that, before the beat came.
    pub near_miss: bool,
    /// The limit that was in force.
    pub limit: Duration,
}

/// What is known of the silence that is under way, for the gap that it becomes.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    /// It began with a beat, and nothing excuses it so far.
    own: bool,
    /// A look found no beat in it.
    looked: bool,
    /// It was found late or overdue.
    near_miss: bool,
}

/// The history of one heart, from one spawn to the death of that process.
#[derive(Clone, Debug)]
pub struct Pulse {
    limits: Limits,
    count: u64,
    beaten: bool,
    last_beat: Monotonic,
    counted_from: Monotonic,
    late: bool,
    renewals: u8,
    starved: u8,
    counts: Counts,
    /// Nobody is overdue before.
    not_before: Monotonic,
    open: Open,
    /// What the last beat ended, until somebody takes it.
    gap: Option<Gap>,
}

impl Pulse {
    /// A process spawned at `now`, when its heart's count stood at `count`.
    pub fn new(limits: Limits, now: Monotonic, count: u64) -> Pulse {
        Pulse {
            limits,
            count,
            beaten: false,
            last_beat: now,
            counted_from: now,
            late: false,
            renewals: 0,
            starved: 0,
            counts: Counts::FromStart,
            not_before: now,
            open: Open::default(),
            gap: None,
        }
    }

    /// The same, but its silence counts from another moment on.
    #[must_use]
    pub fn counting(self, counts: Counts) -> Pulse {
        let not_before = match counts {
            Counts::FromSetUp => self.counted_from + self.limits.start,
            Counts::FromStart | Counts::FromFirstBeat | Counts::Never => self.not_before,
        };
        Pulse { counts, not_before, ..self }
    }

    /// The same, of a process that beat before we came: one full limit from now on.
    #[must_use]
    pub fn continued(self) -> Pulse {
        Pulse { beaten: true, not_before: self.counted_from, ..self }
    }

    /// Judges one observation. Call it once a turn.
    pub fn observe(&mut self, turn: &Turn, seen: Sample) -> Reading {
        let slack = slack(self.limit());
        let late = turn.lateness > slack;
        if seen.count != self.count {
            let first = !self.beaten;
            let trusted = seen.stamp > turn.previous - slack && seen.stamp <= turn.read;
            let at = if trusted { seen.stamp.max(self.last_beat) } else { turn.read };
            // Silence before this look counts up to the point where it would have been late: in
            // time, turns are never further apart, so an older stamp is a slip or a lie. Nor does a
            // stamp take back what was renewed. A late turn renews the limit of those who beat
            // before it as well: they were paused with us.
            let renewed = if late { turn.now } else { self.counted_from };
            let counted_from = at.max(turn.read - late_after(self.limits.hang)).max(renewed);
            let is_own = !late && !seen.is_parked();
            let moved = seen.count.wrapping_sub(self.count);
            *self = Pulse {
                beaten: true,
                gap: self.ended(at, turn, moved).filter(|_| is_own),
                open: Open { own: is_own, ..Open::default() },
                last_beat: at,
                renewals: u8::from(late),
                counted_from,
                count: seen.count,
                late: false,
                starved: 0,
                ..*self
            };
            return Reading::Beat { first };
        }
        self.open.looked = true;
        if seen.is_parked() {
            self.renew(turn.now);
            return Reading::Parked;
        }
        if late && self.renewals < RENEWALS_MAX {
            self.renewals += 1;
            self.renew(turn.now);
            return Reading::Quiet;
        }
        if !self.is_counted() {
            return Reading::Quiet;
        }
        if self.is_over(self.limit(), turn.now) {
            self.open.near_miss = true;
            Reading::Overdue
        } else if self.is_over(late_after(self.limit()), turn.now) && !self.late {
            (self.late, self.open.near_miss) = (true, true);
            Reading::Late
        } else {
            Reading::Quiet
        }
    }

    /// The silence that ends with a beat at `at`, which moved the count by so much; `None` = it is
    /// not the program's own, or nobody would have been judged by it.
    fn ended(&self, at: Monotonic, turn: &Turn, moved: u64) -> Option<Gap> {
        // What a look found silent began with the last known beat, and ended before this one. Of
        // many beats only one gap is known: that in which the last look fell. It goes on from there
        // for one of the parts that they divide the rest into; of a single beat that is all of it.
        let span = if self.open.looked {
            at.since(self.last_beat)
        } else {
            let look = turn.previous.max(self.last_beat).min(at);
            let part = nanos(at.since(look)) / moved.max(1);
            look.since(self.last_beat) + Duration::from_nanos(part)
        };
        let own = self.open.own && self.is_counted() && self.last_beat >= self.not_before;
        let (near_miss, limit) = (self.open.near_miss, self.limits.hang);
        own.then_some(Gap { span, near_miss, limit })
    }

    /// The silence that the last beat ended, once; `None` = it has not beaten since then, or that
    /// was not its own fault: watchdog or host were late, it was parked, excused, held or starved.
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    /// Whether its silence counts now.
    pub fn is_counted(&self) -> bool {
        match self.counts {
            Counts::FromStart => true,
            Counts::FromSetUp | Counts::FromFirstBeat => self.beaten,
            Counts::Never => false,
        }
    }

    /// Whether so much of the limit is over. By the time that has passed, and not by a moment to
    /// come: at the end of time a moment plus a limit is that moment.
    fn is_over(&self, share: Duration, now: Monotonic) -> bool {
        now.since(self.counted_from) >= share && now >= self.excused_until(share)
    }

    /// When so much of the limit is over, if it stays silent.
    fn over_at(&self, share: Duration) -> Monotonic {
        (self.counted_from + share).max(self.excused_until(share))
    }

    /// Who is not overdue before some moment is late as much earlier as ever.
    fn excused_until(&self, share: Duration) -> Monotonic {
        self.not_before - self.limit().saturating_sub(share)
    }

    /// Not overdue before this moment.
    pub fn excused(&self) -> Monotonic {
        self.not_before
    }

    /// It asked for more time: not overdue before this moment.
    pub fn excuse(&mut self, until: Monotonic) {
        self.not_before = self.not_before.max(until);
        self.late = false;
    }

    /// Its own wish for a limit, from now on.
    pub fn set_limit(&mut self, hang: Duration) {
        self.limits.hang = hang;
        self.late = false;
    }

    /// Nothing excuses it any more: silence counts from `now` on.
    pub fn resume(&mut self, now: Monotonic) {
        self.not_before = now;
        self.renew(now);
    }

    /// Counts silence from `now` on: one full limit again. What was until now is excused.
    pub fn renew(&mut self, now: Monotonic) {
        self.open.own = false;
        self.go_on(now);
    }

    /// The same, though nothing excuses it: it was only told.
    pub fn go_on(&mut self, now: Monotonic) {
        self.counted_from = now;
        self.late = false;
    }

    /// Another limit for a starved server, while there is one left.
    pub fn renew_starved(&mut self, now: Monotonic) -> bool {
        let left = self.starved < STARVED_MAX;
        if left {
            self.starved += 1;
            self.renew(now);
        }
        left
    }

    /// When this heart wants to be looked at next, if it stays silent; far away if that does not
    /// count.
    pub fn deadline(&self) -> Monotonic {
        match (self.is_counted(), self.late) {
            (false, _) => Monotonic(u64::MAX),
            (true, true) => self.over_at(self.limit()),
            (true, false) => self.over_at(late_after(self.limit())),
        }
    }

    /// The limit in force: until the first beat it is the start timeout.
    pub fn limit(&self) -> Duration {
        if self.beaten { self.limits.hang } else { self.limits.start }
    }

    /// The limits that are in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether it ever beat.
    pub fn has_beaten(&self) -> bool {
        self.beaten
    }

    /// The last beat, or the spawn.
    pub fn last_beat(&self) -> Monotonic {
        self.last_beat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { hang: Duration::from_secs(4), start: Duration::from_secs(10) };

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    fn turn(previous: u64, now: u64) -> Turn {
        let (now, previous) = (at(now), at(previous));
        Turn::new(now, previous, Duration::ZERO)
    }

    fn seen(count: u64, stamp: u64) -> Sample {
        Sample { count, stamp: at(stamp) }
    }

    /// A pulse whose first beat was at 1000 ms.
    fn beating() -> Pulse {
        let mut pulse = Pulse::new(LIMITS, at(0), 7);
        assert_eq!(pulse.observe(&turn(0, 1000), seen(8, 1000)), Reading::Beat { first: true });
        pulse
    }

    #[test]
    fn slack_is_an_eighth_within_bounds() {
        for (limit, expected) in [(100, 50), (400, 50), (800, 100), (4000, 500), (60_000, 500)] {
            assert_eq!(slack(Duration::from_millis(limit)), Duration::from_millis(expected));
        }
    }

    #[test]
    fn the_stamp_says_when_only_inside_its_window() {
        // previous turn 2000, slack 500: the window is (1500, 3000].
        for (name, stamp, expected) in [
            ("fresh", 2900, 2900),
            ("just now", 3000, 3000),
            ("just inside", 1501, 1501),
            ("stale", 1500, 3000),
            ("another time namespace, behind", 3, 3000),
            ("another time namespace, ahead", 9_000_000, 3000),
            ("counter only", 0, 3000),
        ] {
            let mut pulse = beating();
            let reading = pulse.observe(&turn(2000, 3000), seen(9, stamp));
            assert_eq!(reading, Reading::Beat { first: false }, "{name}");
            assert_eq!(pulse.last_beat(), at(expected), "{name}");
        }
    }

    /// A watchdog without a processor read its clock at 3000, and the heart at 3200. A beat in
    /// between was dated 3000, and its server convicted before its limit was over.
    #[test]
    fn a_beat_after_the_clock_was_read_is_not_dated_before_it() {
        for (name, stamp, expected) in
            [("its stamp", 3190, 3190), ("too new", 3201, 3200), ("counter only", 0, 3200)]
        {
            let mut pulse = beating();
            let turn = Turn { read: at(3200), ..turn(2000, 3000) };
            assert_eq!(pulse.observe(&turn, seen(9, stamp)), Reading::Beat { first: false });
            assert_eq!(pulse.last_beat(), at(expected), "{name}");
            assert_eq!(pulse.deadline(), at(expected + 2400), "{name}");
        }
    }

    #[test]
    fn a_moving_stamp_without_a_count_is_silence() {
        let mut pulse = beating();
        assert_eq!(pulse.observe(&turn(4900, 5000), seen(8, 4990)), Reading::Overdue);
    }

    #[test]
    fn a_counter_that_wraps_or_runs_backwards_still_beats() {
        let mut pulse = beating();
        for (i, count) in [u64::MAX, 0, 8, 3].into_iter().enumerate() {
            let now = 2000 + i as u64 * 100;
            let reading = pulse.observe(&turn(now - 100, now), seen(count, now));
            assert_eq!(reading, Reading::Beat { first: false });
        }
    }

    #[test]
    fn silence_is_late_once_then_overdue_at_the_limit_exactly() {
        let mut pulse = beating();
        for (now, expected) in [
            (3399, Reading::Quiet),
            (3400, Reading::Late),
            (3401, Reading::Quiet),
            (4999, Reading::Quiet),
            (5000, Reading::Overdue),
            (5001, Reading::Overdue),
        ] {
            assert_eq!(pulse.observe(&turn(now - 1, now), seen(8, 1000)), expected, "at {now}");
        }
    }

    #[test]
    fn the_deadline_names_the_next_change() {
        let mut pulse = beating();
        assert_eq!(pulse.deadline(), at(3400));
        pulse.observe(&turn(3000, 3400), seen(8, 1000));
        assert_eq!(pulse.deadline(), at(5000));
    }

    #[test]
    fn until_the_first_beat_the_start_timeout_applies() {
        let mut pulse = Pulse::new(LIMITS, at(0), 7);
        assert_eq!(pulse.observe(&turn(0, 5000), seen(7, 4000)), Reading::Quiet);
        assert_eq!(pulse.observe(&turn(5000, 6000), seen(7, 4000)), Reading::Late);
        assert_eq!(pulse.observe(&turn(6000, 10_000), seen(7, 4000)), Reading::Overdue);
    }

    #[test]
    fn late_turns_renew_the_limit_five_times_in_one_silence() {
        let late = |now: u64| Turn::new(at(now), at(now - 4000), Duration::from_millis(501));
        let mut pulse = beating();
        for i in 1..=5 {
            assert_eq!(pulse.observe(&late(1000 + i * 4000), seen(8, 1000)), Reading::Quiet);
        }
        assert_eq!(pulse.observe(&late(25_000), seen(8, 1000)), Reading::Overdue);
        assert_eq!(pulse.observe(&late(26_000), seen(9, 0)), Reading::Beat { first: false });
        assert_eq!(
            pulse.observe(&late(30_000), seen(9, 0)),
            Reading::Quiet,
            "a beat starts afresh"
        );
    }

    #[test]
    fn lateness_within_the_slack_renews_nothing() {
        let mut pulse = beating();
        let turn = Turn { lateness: Duration::from_millis(500), ..turn(1000, 5000) };
        assert_eq!(pulse.observe(&turn, seen(8, 1000)), Reading::Overdue);
    }

    #[test]
    fn a_gap_is_what_the_looks_know_of_it() {
        for (name, look, seen_then, moved, expected) in [
            ("one beat", 1500, 8, 1, 1200),
            ("found silent", 1500, 8, 4, 1200),
            ("no look in it", 1000, 8, 4, 300),
            ("a count that was set back", 1000, 8, u64::MAX, 0),
        ] {
            let mut pulse = beating();
            if look > 1000 {
                pulse.observe(&turn(1000, look), seen(seen_then, 1000));
            }
            let count = 8_u64.wrapping_add(moved);
            pulse.observe(&turn(look, 2300), seen(count, 2200));
            let span = pulse.take_gap().map(|gap| gap.span.as_millis());
            assert_eq!(span, Some(expected), "{name}");
        }
    }

    /// Below 125 ms a look that is late by less than the slack may find both at once.
    #[test]
    fn who_is_found_overdue_at_once_was_late_as_well() {
        let hang = Duration::from_millis(100);
        let mut pulse = Pulse::new(Limits { hang, ..LIMITS }, at(0), 7);
        pulse.observe(&turn(0, 10), seen(8, 10));
        assert_eq!(pulse.observe(&turn(20, 111), seen(8, 10)), Reading::Overdue);
        pulse.observe(&turn(20, 111), seen(9, 110));
        let gap = Gap { span: hang, near_miss: true, limit: hang };
        assert_eq!(pulse.take_gap(), Some(gap));
    }

    #[test]
    fn starvation_earns_two_more_limits() {
        let mut pulse = beating();
        assert!(pulse.renew_starved(at(5000)));
        assert_eq!(pulse.observe(&turn(8999, 9000), seen(8, 0)), Reading::Overdue);
        assert!(pulse.renew_starved(at(9000)));
        assert!(!pulse.renew_starved(at(13_000)));
    }
}
