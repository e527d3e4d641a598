//! May it run again, and when? Answers from a tally of recent deaths; owns no timer.
//!
//! A server that was up for a second restarts at once: whatever it was, it is not a loop that eats
//! the machine. One that dies young gets three free tries, then waits longer each time; but one
//! that reached `up` works, and whatever kills it comes from outside: it never waits long.
//! After s6's death tally and Erlang's intensity and period.

use std::collections::VecDeque;
use std::time::Duration;

use osps_heart::segment::Death;
use osps_heart::segment::layout::TALLY;
use osps_heart::time::Monotonic;
use serde::{Deserialize, Serialize};

/// Up this long, it restarts at once. Shorter, and a crash loop takes a whole processor; longer,
/// and an honest crash costs its clients time.
pub const UP_LONG_ENOUGH: Duration = Duration::from_secs(1);
/// Free restarts within [`FREE_PERIOD`], however young the server died.
pub const FREE: usize = 3;
/// See [`FREE`].
pub const FREE_PERIOD: Duration = Duration::from_secs(10);
/// First delay; each further one is twice as long.
pub const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay: an operator who mends the cause waits half a minute at most.
pub const DELAY_MAX: Duration = Duration::from_secs(30);
/// Longest delay for a server that had beaten before it died. Longer, and a server that somebody
/// killed a few times by hand keeps its clients waiting although it is sound (25.6 s were seen);
/// shorter, and a program that beats once and crashes takes a tenth of a processor.
pub const DELAY_UP_MAX: Duration = Duration::from_secs(1);
/// Up this long, all is forgiven.
pub const HEALTHY: Duration = Duration::from_secs(60);
/// Launches of ours that may fail in a row before a slot is given up; with the delays between them
/// half a minute, enough for a deployment that replaces the program, or for a full process table.
pub const LAUNCHES_MAX: u32 = 10;
/// Longest delay between two such launches.
pub const LAUNCH_DELAY_MAX: Duration = Duration::from_secs(10);
/// So many doublings are as good as more.
const DOUBLINGS_MAX: u32 = 16;
/// Largest number of restarts that an intensity may name; bounds the tally.
pub const INTENSITY_MAX: u32 = 1000;

/// Give up when more than `restarts` happen within `period` (`--max-restarts 10/1m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intensity {
    /// Restarts that are still fine.
    pub restarts: u32,
    /// Within this time.
    pub period: Duration,
}

/// Which deaths are followed by another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// Each.
    #[default]
    Always,
    /// Those that are no success.
    OnFailure,
    /// None.
    Never,
}

impl Restart {
    /// All of them, with their words.
    pub const ALL: [(Restart, &str); 3] = [
        (Restart::Always, "always"),
        (Restart::OnFailure, "on-failure"),
        (Restart::Never, "never"),
    ];

    /// The one with this word.
    pub fn of(word: &str) -> Option<Restart> {
        Restart::ALL.into_iter().find(|(_, known)| *known == word).map(|(restart, _)| restart)
    }
}

/// What the death of a server means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether another process follows.
    pub restart: Restart,
    /// The exit statuses that are a success.
    pub success: Vec<i32>,
    /// When to give up.
    pub intensity: Option<Intensity>,
    /// Its end is the end of all.
    pub essential: bool,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule { restart: Restart::Always, success: vec![0], intensity: None, essential: false }
    }
}

impl Rule {
    /// Whether a death is a success: the server went by itself, with a status that says so.
    pub fn is_success(&self, death: Death) -> bool {
        matches!(death, Death::Exited(status) if self.success.contains(&status))
    }
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start again, not before this moment.
    Again(Monotonic),
    /// More restarts than the operator allows.
    GiveUp,
}

/// Recent deaths of one slot.
#[derive(Clone, Debug)]
pub struct Tally {
    intensity: Option<Intensity>,
    deaths: VecDeque<Monotonic>,
    doublings: u32,
    /// Launches that failed in a row.
    launches: u32,
}

impl Tally {
    /// A slot with no deaths yet.
    pub fn new(intensity: Option<Intensity>) -> Tally {
        Tally { intensity, deaths: VecDeque::new(), doublings: 0, launches: 0 }
    }

    /// As words, for the next watchdog: deaths that there is no room for are the oldest.
    pub fn words(&self) -> [u64; TALLY] {
        let mut words = [0; TALLY];
        (words[0], words[1]) = (self.doublings.into(), self.launches.into());
        for (word, death) in words[2..].iter_mut().zip(self.deaths.iter().rev()) {
            *word = death.0;
        }
        words
    }

    /// Continues what a tally wrote down. An allegation: moments to come, and counts that no tally
    /// reaches, are none.
    pub fn recall(&mut self, words: &[u64; TALLY], now: Monotonic) {
        let small = |word: u64| u32::try_from(word).unwrap_or(u32::MAX);
        self.doublings = small(words[0]).min(DOUBLINGS_MAX);
        self.launches = small(words[1]).min(LAUNCHES_MAX - 1);
        let deaths = words[2..].iter().rev().map(|word| Monotonic(*word));
        self.deaths = deaths.filter(|death| death.0 != 0 && *death <= now).collect();
        self.deaths.make_contiguous().sort_unstable();
    }

    /// From now on it is given up at another number of restarts.
    pub fn set_intensity(&mut self, intensity: Option<Intensity>) {
        self.intensity = intensity;
    }

    /// Counts a launch that failed at `now`: the program never ran, so it is no failure of its own.
    /// Each waits longer than the last, and there is an end.
    pub fn not_launched(&mut self, now: Monotonic) -> Decision {
        self.launches += 1;
        if self.launches >= LAUNCHES_MAX {
            return Decision::GiveUp;
        }
        let delay = DELAY_MIN.saturating_mul(1 << (self.launches - 1)).min(LAUNCH_DELAY_MAX);
        Decision::Again(now + delay)
    }

    /// Counts a death at `now` of a process that had been up for `up`; `None` = it never beat.
    pub fn died(&mut self, now: Monotonic, up: Option<Duration>) -> Decision {
        self.launches = 0;
        self.deaths.push_back(now);
        let kept = self.intensity.map_or(0, |intensity| intensity.restarts.min(INTENSITY_MAX));
        while self.deaths.len() > (kept as usize).max(FREE) + 1 {
            self.deaths.pop_front();
        }
        if let Some(intensity) = self.intensity
            && self.within(now, intensity.period) > intensity.restarts as usize
        {
            return Decision::GiveUp;
        }
        let lasted = |span| up.is_some_and(|up| up >= span);
        if lasted(HEALTHY) {
            self.doublings = 0;
        }
        // A start that came to nothing is never free: whatever is wrong was there from the first.
        let free = up.is_some() && self.doublings == 0 && self.within(now, FREE_PERIOD) <= FREE;
        if lasted(UP_LONG_ENOUGH) || free {
            return Decision::Again(now);
        }
        let most = if up.is_some() { DELAY_UP_MAX } else { DELAY_MAX };
        let delay = DELAY_MIN.saturating_mul(1 << self.doublings.min(DOUBLINGS_MAX)).min(most);
        // Whoever waits its longest climbs no further: a failing start after it begins there.
        if delay < most {
            self.doublings += 1;
        }
        Decision::Again(now + delay)
    }

    fn within(&self, now: Monotonic, period: Duration) -> usize {
        self.deaths.iter().filter(|death| now.since(**death) < period).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic(ms * 1_000_000)
    }

    /// Dies `lives` times, each life `up` ms long, and returns the delays in ms.
    fn delays(tally: &mut Tally, lives: usize, up: u64) -> Vec<u64> {
        let mut now = at(1000);
        (0..lives)
            .map(|_| {
                now = now + Duration::from_millis(up);
                let up = (up > 0).then(|| Duration::from_millis(up));
                let Decision::Again(next) = tally.died(now, up) else {
                    return u64::MAX;
                };
                let delay = next.since(now);
                now = next;
                u64::try_from(delay.as_millis()).expect("short")
            })
            .collect()
    }

    #[test]
    fn starts_that_fail_wait_from_the_first_time_doubling_to_half_a_minute() {
        let mut tally = Tally::new(None);
        assert_eq!(
            delays(&mut tally, 11, 0),
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
    }

    /// `ulimit -n 100` made every launch fail: 75 lines in four seconds, for ever.
    #[test]
    fn launches_that_fail_wait_longer_each_time_and_have_an_end() {
        let mut tally = Tally::new(None);
        let mut now = at(0);
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let Decision::Again(next) = tally.not_launched(now) else { panic!("too early") };
            assert_eq!(next.since(now), Duration::from_millis(expected));
            now = next;
        }
        assert_eq!(tally.not_launched(now), Decision::GiveUp);
        // One that ran begins afresh.
        let mut tally = Tally::new(None);
        for _ in 0..30 {
            assert_ne!(tally.not_launched(now), Decision::GiveUp);
            tally.died(now, None);
        }
    }

    /// Killed by hand again and again, a server that beats within milliseconds stayed down for 12.8
    /// and 25.6 s, and every client waited: the ladder was made for starts that fail.
    #[test]
    fn a_server_that_beats_waits_a_second_at_most() {
        let mut tally = Tally::new(None);
        let ladder = [0, 0, 0, 100, 200, 400, 800, 1000, 1000, 1000];
        assert_eq!(delays(&mut tally, 10, 5), ladder);
        // Starts that fail after that climb on from there.
        assert_eq!(delays(&mut tally, 3, 0), [1600, 3200, 6400]);
        assert_eq!(delays(&mut tally, 2, 5), [1000, 1000]);
    }

    #[test]
    fn a_second_up_restarts_at_once_however_often() {
        assert_eq!(delays(&mut Tally::new(None), 50, 1000), [0; 50]);
    }

    #[test]
    fn only_a_healthy_minute_forgives() {
        let mut tally = Tally::new(None);
        delays(&mut tally, 3, 0);
        assert_eq!(tally.died(at(100_000), None), Decision::Again(at(100_800)));
        assert_eq!(tally.died(at(200_000), Some(HEALTHY)), Decision::Again(at(200_000)));
        let young = Some(Duration::from_millis(5));
        assert_eq!(tally.died(at(200_005), young), Decision::Again(at(200_005)));
    }

    #[test]
    fn free_restarts_come_back_after_ten_seconds() {
        let mut tally = Tally::new(None);
        for i in 0..20 {
            let now = at(i * 4000);
            let young = Some(Duration::from_millis(5));
            assert_eq!(tally.died(now, young), Decision::Again(now), "death {i}");
        }
    }

    #[test]
    fn intensity_gives_up_at_the_restart_too_many() {
        let intensity = Intensity { restarts: 2, period: Duration::from_secs(60) };
        let mut tally = Tally::new(Some(intensity));
        let up = Some(Duration::from_secs(5));
        assert_eq!(tally.died(at(0), up), Decision::Again(at(0)));
        assert_eq!(tally.died(at(30_000), up), Decision::Again(at(30_000)));
        assert_eq!(tally.died(at(60_000), up), Decision::Again(at(60_000)), "the first is old");
        assert_eq!(tally.died(at(60_001), up), Decision::GiveUp);
        let mut none = Tally::new(Some(Intensity { restarts: 0, ..intensity }));
        assert_eq!(none.died(at(0), up), Decision::GiveUp);
    }

    #[test]
    fn the_next_watchdog_continues_where_this_one_was() {
        let second = Duration::from_secs(1);
        let intensity = Some(Intensity { restarts: 5, period: 60 * second });
        let mut known = Tally::new(intensity);
        let mut now = at(1000);
        for round in 0..20 {
            now = now + second / 2;
            let mut next = Tally::new(intensity);
            next.recall(&known.words(), now);
            let up = (round % 3 != 0).then_some(second / 4);
            assert_eq!(next.died(now, up), known.died(now, up), "death {round}");
        }
        // Nonsense does no harm.
        let mut next = Tally::new(intensity);
        next.recall(&[u64::MAX; TALLY], now);
        assert!(matches!(next.died(now, None), Decision::Again(_)));
        next.recall(&[u64::MAX; TALLY], now);
        assert!(matches!(next.not_launched(now), Decision::GiveUp));
    }

    #[test]
    fn memory_stays_bounded() {
        let mut tally =
            Tally::new(Some(Intensity { restarts: u32::MAX, period: Duration::from_secs(1) }));
        delays(&mut tally, 5000, 1000);
        assert!(tally.deaths.len() <= INTENSITY_MAX as usize + 1);
    }
}
