//! docs/verdicts.md once more: its numbers, and its rule read off a whole history.

use std::ops::Range;
use std::time::Duration;

use osps_heart::pulse::{Limits, Reading, Sample, Turn};
use osps_heart::time::Monotonic;

use super::draw::ms;

// The numbers of docs/verdicts.md, written down once more: who changes one in the code changes
// what is promised, and a test that took them from there would not notice.

/// Late turns that one silence is forgiven.
pub const EXTENSIONS: usize = 5;
/// Further limits of a starved server in one silence.
pub const SPARED: usize = 2;

/// An eighth of the limit, within 50 ms and 500 ms.
pub fn slack(limit: Duration) -> Duration {
    (limit / 8).clamp(ms(50), ms(500))
}

/// 60 % of a limit: from here on a server is late, and a beat counts for no more.
pub fn most_of(limit: Duration) -> Duration {
    limit * 3 / 5
}

/// A look as the reference remembers it, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub turn: Turn,
    pub heart: Sample,
    pub beat: bool,
    /// The limit that was in force before it.
    pub limit: Duration,
}

impl Seen {
    fn is_late(&self) -> bool {
        self.turn.lateness > slack(self.limit)
    }

    /// The moment of its beat.
    fn when(&self) -> Monotonic {
        let (stamp, Turn { previous, read, .. }) = (self.heart.stamp, self.turn);
        if previous - slack(self.limit) < stamp && stamp <= read { stamp } else { read }
    }
}

/// The rule of docs/verdicts.md, read off a whole history.
pub struct Reference {
    pub limits: Limits,
    pub spawned: Monotonic,
    pub baseline: u64,
    pub looks: Vec<Seen>,
    /// The looks after which a starved server was spared.
    pub spared: Vec<usize>,
    /// The looks after which nobody held it any more.
    pub pardoned: Vec<usize>,
}

impl Reference {
    pub fn look(&mut self, turn: Turn, heart: Sample) {
        let before = self.looks.last().map_or(self.baseline, |look| look.heart.count);
        let beaten = self.looks.iter().any(|look| look.beat);
        let limit = if beaten { self.limits.hang } else { self.limits.start };
        self.looks.push(Seen { turn, heart, beat: heart.count != before, limit });
    }

    /// The silence that look `i` belongs to: from the look that saw the last beat up to before it.
    fn silence(&self, i: usize) -> Range<usize> {
        (0..=i).rev().find(|j| self.looks[*j].beat).unwrap_or(0)..i
    }

    /// Whether look `i` is forgiven, since it came late and the silence has an extension left.
    pub fn is_renewed(&self, i: usize) -> bool {
        let late = self.silence(i).filter(|j| self.looks[*j].is_late()).count();
        self.looks[i].is_late() && late < EXTENSIONS
    }

    /// Whether a starved server gets another limit after look `i`.
    pub fn may_spare(&self, i: usize) -> bool {
        let silence = self.silence(i);
        self.spared.iter().filter(|j| silence.contains(j)).count() < SPARED
    }

    /// From which moment silence counts at look `i`, and how many looks were before that.
    fn from(&self, i: usize) -> (Monotonic, usize) {
        let mut from = (self.spawned, 0);
        for (j, look) in self.looks[..=i].iter().enumerate() {
            let now = look.turn.now;
            let oldest = look.turn.read - most_of(self.limits.hang);
            let beat = look.beat.then(|| look.when().max(oldest));
            let given = j < i && (self.spared.contains(&j) || self.pardoned.contains(&j));
            let renewed = (given || self.is_renewed(j)).then_some(now);
            for moment in [beat, renewed].into_iter().flatten() {
                from = (from.0.max(moment), j + 1);
            }
        }
        from
    }

    /// The last beat, or the spawn. It does not go back.
    pub fn last_beat(&self) -> Monotonic {
        let beats = self.looks.iter().filter(|look| look.beat).map(Seen::when);
        beats.fold(self.spawned, Monotonic::max)
    }

    /// What the last look of the history means.
    pub fn reading(&self) -> Reading {
        let last = self.looks.len() - 1;
        let Seen { turn, beat, limit, .. } = self.looks[last];
        if beat {
            return Reading::Beat { first: !self.looks[..last].iter().any(|look| look.beat) };
        }
        if self.is_renewed(last) {
            return Reading::Quiet;
        }
        let (from, looks) = self.from(last);
        let is_late = |now: Monotonic| (most_of(limit)..limit).contains(&now.since(from));
        let told = self.looks[looks..last].iter().any(|look| is_late(look.turn.now));
        match turn.now.since(from) {
            counted if counted >= limit => Reading::Overdue,
            _ if is_late(turn.now) && !told => Reading::Late,
            _ => Reading::Quiet,
        }
    }
}
