//! How long hearts are silent between their beats: a histogram for each, over all processes of a
//! service.
//!
//! Writer: the watchdog alone, plain loads and stores at the looks that find a beat. Reader:
//! anybody, at any moment; no store waits for another, so a reader that finds a contradiction looks
//! again, and after some tries calls it that. Servers can scribble here, too. What a gap is, and
//! what follows from all of them: docs/verdicts.md, `policy::advice`.
//! Tested here, in tests/policy, and from outside in tests/gaps.rs.

use std::time::Duration;

use super::layout::{GAP_BUCKETS, GapCells};
use super::text;
use crate::pulse::{Gap, is_limit};
use crate::sync::{Ordering, Word};
use crate::time::{Monotonic, nanos};

/// Gaps below 2^20 ns, a millisecond, are one bucket: no limit is that short.
const FIRST: u32 = 20;

/// How often a reader looks again that meets the writer between two stores.
const TRIES: usize = 8;

/// Name of a heart, as it stands in its line: whatever its claimant stored there.
pub type Name = [u64; 4];
/// That of a service's own heart.
pub const OWN: Name = [0; 4];

/// The bucket that a gap falls into. Number 0 is what lies below 2^20 ns; from there on two to each
/// doubling, which meet at one and a half times a power of two; the last takes all that is longer.
pub fn bucket(span: Duration) -> usize {
    let ns = nanos(span);
    let Some(doublings) = ns.checked_ilog2().and_then(|log| log.checked_sub(FIRST)) else {
        return 0;
    };
    let upper_half = ns >> (doublings + FIRST - 1) & 1 == 1;
    (1 + 2 * doublings as usize + usize::from(upper_half)).min(GAP_BUCKETS - 1)
}

/// Where a bucket ends, exclusively; `None` = the last one does not.
pub fn end_of(bucket: usize) -> Option<Duration> {
    let (doublings, upper_half) = (bucket / 2, bucket % 2);
    (bucket < GAP_BUCKETS - 1)
        .then(|| Duration::from_nanos((2 + upper_half as u64) << (FIRST - 1) << doublings))
}

/// What a histogram says, and no contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Gaps by their length.
    pub buckets: [u64; GAP_BUCKETS],
    /// The longest one.
    pub worst: Duration,
    /// All of them together.
    pub sum: Duration,
    /// Those that a beat ended only after they were found late.
    pub near_misses: u64,
    /// The limit that was in force at the last one.
    pub limit: Duration,
    /// When the first one was counted.
    pub since: Monotonic,
    /// When the last one was.
    pub last: Monotonic,
}

impl Gaps {
    /// How many there are.
    pub fn total(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Those of two hearts as one.
    #[must_use]
    pub fn and(self, other: &Gaps) -> Gaps {
        let sum = |bucket: usize| self.buckets[bucket].saturating_add(other.buckets[bucket]);
        let newer = if self.last < other.last { other } else { &self };
        Gaps {
            buckets: std::array::from_fn(sum),
            worst: self.worst.max(other.worst),
            sum: self.sum.saturating_add(other.sum),
            near_misses: self.near_misses.saturating_add(other.near_misses),
            limit: newer.limit,
            since: self.since.min(other.since),
            last: newer.last,
        }
    }

    /// Whether a watchdog can have counted this.
    fn is_sound(&self) -> bool {
        let total = self.buckets.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        self.buckets.iter().rposition(|count| *count != 0) == Some(bucket(self.worst))
            && total.is_some_and(|total| self.near_misses <= total)
            && self.since <= self.last
            && is_limit(self.limit)
    }
}

/// Why a histogram says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGaps {
    /// No gap was counted.
    Empty,
    /// It contradicts itself: somebody scribbled there.
    Damaged,
}

impl GapCells {
    /// Counts a gap that a beat has ended. Watchdog only.
    pub fn count(&self, gap: Gap, now: Monotonic) {
        // One writer: nothing is lost between load and store.
        let add = |word: &Word, more| put(word, get(word).saturating_add(more));
        if get(&self.since_ns) == 0 {
            put(&self.since_ns, now.0);
        }
        put(&self.last_ns, now.0);
        put(&self.limit_ns, nanos(gap.limit));
        if nanos(gap.span) > get(&self.worst_ns) {
            put(&self.worst_ns, nanos(gap.span));
        }
        add(&self.sum_ns, nanos(gap.span));
        add(&self.buckets[bucket(gap.span)], 1);
        if gap.near_miss {
            add(&self.near_misses, 1);
        }
    }

    /// What it says.
    pub fn read(&self) -> Result<Gaps, NoGaps> {
        for _ in 0..TRIES {
            let gaps = Gaps {
                buckets: std::array::from_fn(|bucket| get(&self.buckets[bucket])),
                worst: Duration::from_nanos(get(&self.worst_ns)),
                sum: Duration::from_nanos(get(&self.sum_ns)),
                near_misses: get(&self.near_misses),
                limit: Duration::from_nanos(get(&self.limit_ns)),
                since: Monotonic(get(&self.since_ns)),
                last: Monotonic(get(&self.last_ns)),
            };
            if gaps.is_sound() {
                return Ok(gaps);
            }
            if gaps.total() == 0 && gaps.since.0 == 0 {
                return Err(NoGaps::Empty);
            }
        }
        Err(NoGaps::Damaged)
    }

    /// Whether it is of a heart of this service.
    pub fn is_of(&self, service: &str) -> bool {
        text::is_stored(&self.service, service)
    }

    /// Whether that is the one of this name; the service's own has none.
    pub fn is_of_heart(&self, name: Name) -> bool {
        self.heart.iter().map(get).eq(name)
    }

    /// Begins anew, for this heart. Watchdog only.
    pub fn begin(&self, service: &str, name: Name) {
        self.words().for_each(|word| put(word, 0));
        text::store(&self.service, service);
        self.heart.iter().zip(name).for_each(|(word, value)| put(word, value));
    }

    /// Is nobody's. Watchdog only.
    pub fn forget(&self) {
        self.begin("", OWN);
    }

    /// Each of two becomes what the other was. Watchdog only.
    pub fn exchange(&self, other: &GapCells) {
        for (mine, its) in self.words().zip(other.words()) {
            let was = get(mine);
            put(mine, get(its));
            put(its, was);
        }
    }

    fn words(&self) -> impl Iterator<Item = &Word> {
        let GapCells { service, heart, buckets, reserved, .. } = self;
        let GapCells { since_ns, last_ns, limit_ns, worst_ns, near_misses, sum_ns, .. } = self;
        let numbers = [since_ns, last_ns, limit_ns, worst_ns, near_misses, sum_ns];
        service.iter().chain(heart).chain(numbers).chain(buckets).chain(reserved)
    }
}

fn get(word: &Word) -> u64 {
    word.load(Ordering::Relaxed)
}

fn put(word: &Word, value: u64) {
    word.store(value, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Scribble = fn(&GapCells);

    const WRITER: Name = [7, 0, 0, 9];

    fn zeros<const N: usize>() -> [Word; N] {
        std::array::from_fn(|_| Word::new(0))
    }

    fn cells() -> GapCells {
        GapCells {
            service: zeros(),
            heart: zeros(),
            since_ns: Word::new(0),
            last_ns: Word::new(0),
            limit_ns: Word::new(0),
            worst_ns: Word::new(0),
            near_misses: Word::new(0),
            buckets: zeros(),
            sum_ns: Word::new(0),
            reserved: zeros(),
        }
    }

    fn gap(ms: u64, near_miss: bool) -> Gap {
        Gap { span: Duration::from_millis(ms), near_miss, limit: Duration::from_secs(4) }
    }

    #[test]
    fn buckets_follow_each_other_two_to_a_doubling() {
        let ends: Vec<_> = (0..GAP_BUCKETS - 1).map(|bucket| end_of(bucket).unwrap()).collect();
        assert_eq!(ends[..4], [1 << 20, 3 << 19, 1 << 21, 3 << 20].map(Duration::from_nanos));
        assert_eq!(ends.last(), Some(&Duration::from_nanos(1 << 40)));
        for (number, end) in ends.iter().enumerate() {
            assert_eq!(bucket(end.saturating_sub(Duration::from_nanos(1))), number);
            assert_eq!(bucket(*end), number + 1);
        }
        assert_eq!(end_of(GAP_BUCKETS - 1), None);
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, GAP_BUCKETS - 1));
    }

    #[test]
    fn what_is_counted_is_read() {
        let cells = cells();
        assert_eq!(cells.read(), Err(NoGaps::Empty));
        cells.begin("web", OWN);
        assert_eq!(cells.read(), Err(NoGaps::Empty));
        cells.count(gap(20, false), Monotonic(5));
        cells.count(gap(3000, true), Monotonic(7));
        cells.count(gap(0, false), Monotonic(9));
        let gaps = cells.read().unwrap();
        assert_eq!((gaps.total(), gaps.near_misses), (3, 1));
        assert_eq!((gaps.worst, gaps.limit), (gap(3000, true).span, gap(0, false).limit));
        assert_eq!((gaps.since, gaps.last), (Monotonic(5), Monotonic(9)));
        assert_eq!(gaps.buckets[bucket(gaps.worst)], 1);
        assert!(cells.is_of("web") && cells.is_of_heart(OWN));
        assert!(!cells.is_of("we") && !cells.is_of_heart(WRITER));
        cells.begin("db", WRITER);
        assert_eq!(cells.read(), Err(NoGaps::Empty));
        assert!(cells.is_of("db") && cells.is_of_heart(WRITER));
        cells.forget();
        assert!(cells.is_of("") && cells.is_of_heart(OWN));
    }

    #[test]
    fn a_history_moves_as_a_whole() {
        let (one, other) = (cells(), cells());
        one.begin("web", WRITER);
        one.count(gap(20, true), Monotonic(5));
        let was = one.read();
        one.exchange(&other);
        assert_eq!((one.read(), other.read()), (Err(NoGaps::Empty), was));
        assert!(other.is_of("web") && other.is_of_heart(WRITER) && one.is_of(""));
    }

    /// Each word that the counts go by, as somebody may have left it.
    #[test]
    fn what_contradicts_itself_says_nothing() {
        let sound = || {
            let cells = cells();
            cells.begin("web", OWN);
            cells.count(gap(20, false), Monotonic(5));
            cells
        };
        assert!(sound().read().is_ok());
        let cases: [(&str, Scribble); 9] = [
            ("worst", |cells| put(&cells.worst_ns, 1)),
            ("worst", |cells| put(&cells.worst_ns, u64::MAX)),
            ("near misses", |cells| put(&cells.near_misses, 2)),
            ("since", |cells| put(&cells.since_ns, 6)),
            ("limit", |cells| put(&cells.limit_ns, 0)),
            ("limit", |cells| put(&cells.limit_ns, u64::MAX)),
            ("a bucket", |cells| put(&cells.buckets[GAP_BUCKETS - 1], 1)),
            ("more than fit", |cells| put(&cells.buckets[0], u64::MAX)),
            ("no gap", |cells| put(&cells.buckets[bucket(gap(20, false).span)], 0)),
        ];
        for (name, scribble) in cases {
            let cells = sound();
            scribble(&cells);
            assert_eq!(cells.read(), Err(NoGaps::Damaged), "{name}");
            // To go on counting there breaks nothing.
            cells.count(gap(7_000_000, true), Monotonic(9));
            let _ = cells.read();
        }
    }
}
