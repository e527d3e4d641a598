//! Who beats decides from when on silence counts: one story for each kind of heart, told turn by
//! turn to a group of one.

use std::time::Duration;

use osps::policy::graph::Edges;
use osps::policy::group::{Action, Group, Input, Line, Note, Spec, Watch};
use osps::policy::lifecycle::{Act, Patience, Stage};
use osps_heart::ids::SlotId;
use osps_heart::pulse::{Gap, Limits, Sample};
use osps_heart::segment::What;
use osps_heart::time::Monotonic;
use osps_heart::words::{Cause, Class, HeartSource, Press};

use super::draw::ms;

pub const SLOT: SlotId = SlotId::FIRST;
/// A further heart is in this line.
const LINE: u16 = 7;

/// A service with a hang timeout of 1 s and a start timeout of 5 s, turned every 10 ms.
pub struct Story {
    pub group: Group,
    pub now: u64,
    pub count: u64,
    stamp: Monotonic,
    /// What its further heart shows, if it has one.
    pub further: Option<Sample>,
    limit: Option<Duration>,
    pub class: Class,
    told: Vec<(u64, What, Note)>,
    acts: Vec<(u64, Act)>,
    /// What its own heart's beats ended, and its further heart's.
    pub gaps: [Vec<Gap>; 2],
}

pub fn at(now: u64) -> Monotonic {
    Monotonic(now * 1_000_000)
}

impl Story {
    pub fn of(source: HeartSource, warn: bool) -> Story {
        let spec = Spec {
            edges: Edges::default(),
            limits: Limits { hang: ms(1000), start: ms(5000) },
            patience: Patience { ask: ms(1000), term: ms(4000), kill: ms(1000) },
            watch: Watch { source, warn },
            ..Spec::default()
        };
        let group = Group::new(at(0), &[spec]).expect("no circle");
        let mut story = Story {
            group,
            now: 0,
            count: 0,
            stamp: at(0),
            further: None,
            limit: None,
            class: Class::Blocked,
            told: Vec::new(),
            acts: Vec::new(),
            gaps: [Vec::new(), Vec::new()],
        };
        story.feed(Input::Boot);
        story.feed(Input::Spawned { slot: SLOT, count: 0 });
        story
    }

    pub fn feed(&mut self, input: Input) {
        let mut actions: std::collections::VecDeque<_> =
            self.group.step(at(self.now), input).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Changed(change) => self.told.push((self.now, change.what, change.note)),
                Action::Told { what, .. } => self.told.push((self.now, what, Note::Nothing)),
                Action::Renewed { .. } | Action::Rolled { .. } => {}
                Action::Do { act, .. } => self.acts.push((self.now, act)),
                Action::Examine { slot, line } => {
                    let seen = self.seen(line);
                    let class = self.class;
                    let input = Input::Examined { slot, line, seen, class };
                    actions.extend(self.group.step(at(self.now), input));
                }
            }
        }
    }

    fn seen(&self, line: Line) -> Sample {
        let own = Sample { count: self.count, stamp: self.stamp };
        line.and(self.further).unwrap_or(own)
    }

    /// Turns until a moment, beating every 10 ms or not at all.
    pub fn until(&mut self, moment: u64, beats: bool) {
        while self.now < moment {
            self.now += 10;
            self.turn(self.now, beats);
        }
    }

    /// A turn that was planned for then.
    pub fn turn(&mut self, planned: u64, beats: bool) {
        if beats {
            (self.count, self.stamp) = (self.count + 1, at(self.now));
        }
        self.feed(Input::Turn { planned: at(planned) });
        self.feed(Input::Sample { slot: SLOT, seen: self.seen(None) });
        let seen = self.further;
        self.feed(Input::Further { slot: SLOT, line: LINE, seen, limit: self.limit });
        self.feed(Input::Timers);
        for (line, gaps) in [None, Some(LINE)].into_iter().zip(&mut self.gaps) {
            gaps.extend(self.group.take_gap(SLOT, line));
        }
    }

    pub fn stage(&self) -> Stage {
        self.group.stage(SLOT)
    }

    /// When it was convicted, for what.
    pub fn verdict(&self) -> Option<(u64, Cause, Option<Class>)> {
        self.told.iter().find_map(|(at, what, _)| match what {
            What::Verdict { cause, class, .. } => Some((*at, *cause, *class)),
            _ => None,
        })
    }

    fn says(&self, wanted: impl Fn(&What) -> bool) -> Option<u64> {
        self.told.iter().find(|(_, what, _)| wanted(what)).map(|(at, ..)| *at)
    }
}

#[test]
fn memory_and_its_likes_need_a_first_beat_within_the_start_timeout() {
    use HeartSource::{File, Memory, Notify, Probe};
    for source in [Memory, Notify, File, Probe] {
        let mut silent = Story::of(source, false);
        silent.until(6000, false);
        assert_eq!(silent.verdict(), Some((5000, Cause::StartTimeout, None)), "{source}");
        let mut frozen = Story::of(source, false);
        frozen.until(1000, true);
        frozen.until(3000, false);
        let frozen = frozen.verdict();
        assert_eq!(frozen, Some((2000, Cause::Frozen, Some(Class::Blocked))), "{source}");
    }
}

#[test]
fn who_never_beats_is_up_and_unwatched_after_a_second_and_never_killed() {
    for source in [HeartSource::Auto, HeartSource::None] {
        let mut story = Story::of(source, false);
        story.until(990, false);
        assert_eq!(story.stage(), Stage::Starting);
        story.until(600_000, false);
        assert_eq!(story.says(|what| *what == What::Unwatched), Some(1000), "{source}");
        assert_eq!((story.stage(), story.verdict()), (Stage::Up, None));
        assert!(!story.group.is_watched(SLOT));
    }
}

#[test]
fn auto_is_watched_from_the_first_beat_on_whenever_that_comes() {
    let mut story = Story::of(HeartSource::Auto, false);
    story.until(60_000, false);
    story.until(61_000, true);
    let watched = |what: &What| matches!(what, What::Watched { .. });
    assert_eq!(story.says(watched), Some(60_010));
    assert!(story.group.is_watched(SLOT));
    story.until(63_000, false);
    assert_eq!(story.verdict(), Some((62_000, Cause::Frozen, Some(Class::Blocked))));
}

#[test]
fn ready_alone_makes_it_up_but_not_watched() {
    let mut story = Story::of(HeartSource::Auto, false);
    story.until(100, false);
    story.feed(Input::Ready { slot: SLOT });
    assert_eq!(story.stage(), Stage::Up);
    story.feed(Input::Ready { slot: SLOT });
    story.until(60_000, false);
    assert_eq!((story.verdict(), story.group.is_watched(SLOT)), (None, false));
    let ups = story.told.iter().filter(|(_, what, _)| matches!(what, What::FirstBeat { .. }));
    assert_eq!(ups.count(), 1, "told once");
}

#[test]
fn a_loop_is_not_convicted_while_its_program_sets_itself_up() {
    for source in [HeartSource::Loop, HeartSource::Loops] {
        let mut story = Story::of(source, false);
        story.until(20, true);
        assert_eq!(story.stage(), Stage::Up, "its first event wait is the first beat");
        // It polled once; then it reads its data for 4 s.
        story.until(4900, false);
        assert_eq!(story.verdict(), None, "{source}");
        story.until(5100, false);
        assert_eq!(story.verdict(), Some((5000, Cause::Frozen, Some(Class::Blocked))));
    }
}

#[test]
fn a_loop_that_never_comes_to_an_event_wait_is_up_at_the_start_timeout() {
    let mut story = Story::of(HeartSource::Loop, false);
    story.until(60_000, false);
    assert_eq!(story.says(|what| *what == What::Unwatched), Some(5000));
    assert_eq!((story.verdict(), story.stage()), (None, Stage::Up));
}

#[test]
fn a_heart_that_nobody_beats_any_more_is_not_judged() {
    let mut story = Story::of(HeartSource::Loop, false);
    story.until(6000, true);
    // What the watchdog shows of a line whose claimant is gone.
    story.stamp = Sample::parked(0).stamp;
    story.until(600_000, false);
    assert_eq!(story.verdict(), None);
    story.until(601_000, true);
    story.until(603_000, false);
    assert_eq!(story.verdict(), Some((602_000, Cause::Frozen, Some(Class::Blocked))));
}

#[test]
fn the_worst_heart_convicts_and_is_named() {
    let mut story = Story::of(HeartSource::Memory, false);
    story.limit = Some(ms(300));
    story.further = Some(Sample { count: 3, stamp: at(0) });
    story.until(2000, true);
    assert_eq!(story.verdict(), None, "before its first beat it is not judged");
    story.further = Some(Sample { count: 4, stamp: at(2010) });
    story.until(2200, true);
    assert_eq!(story.stage(), Stage::Late, "the server beats, this heart does not");
    story.until(3000, true);
    assert_eq!(story.verdict(), Some((2310, Cause::Frozen, Some(Class::Blocked))));
    let note = story.told.iter().find(|(_, what, _)| matches!(what, What::Verdict { .. }));
    assert_eq!(note.expect("told").2, Note::Further { line: LINE, limit: ms(300) });
}

#[test]
fn a_further_heart_that_is_parked_or_given_back_is_not_judged() {
    for given_back in [false, true] {
        let mut story = Story::of(HeartSource::Memory, false);
        story.further = Some(Sample { count: 1, stamp: at(0) });
        story.until(100, true);
        story.further = Some(Sample { count: 2, stamp: at(110) });
        story.until(800, true);
        assert_eq!(story.stage(), Stage::Late);
        story.further = (!given_back).then(|| Sample::parked(3));
        story.until(60_000, true);
        assert_eq!((story.verdict(), story.stage()), (None, Stage::Up));
    }
}

#[test]
fn late_by_one_heart_is_late_until_that_one_beats() {
    let mut story = Story::of(HeartSource::Memory, false);
    story.further = Some(Sample { count: 1, stamp: at(0) });
    story.until(100, true);
    story.further = Some(Sample { count: 2, stamp: at(110) });
    story.until(900, true);
    assert_eq!(story.stage(), Stage::Late);
    story.further = Some(Sample { count: 3, stamp: at(910) });
    story.until(920, true);
    assert_eq!((story.stage(), story.verdict()), (Stage::Up, None));
}

#[test]
fn warn_tells_once_a_limit_and_kills_nobody() {
    let mut story = Story::of(HeartSource::Memory, true);
    story.until(1000, true);
    story.until(10_000, false);
    let warned = |what: &What| matches!(what, What::Warned { class: Class::Blocked, .. });
    assert_eq!(story.says(warned), Some(2000));
    assert_eq!((story.verdict(), story.stage()), (None, Stage::Held));
    assert_eq!(story.told.iter().filter(|(_, what, _)| warned(what)).count(), 1);
    story.until(10_100, true);
    assert_eq!(story.stage(), Stage::Up);
    story.feed(Input::Triggered { slot: SLOT });
    assert_eq!((story.verdict(), story.stage()), (None, Stage::Held));
    assert!(story.acts.iter().all(|(_, act)| matches!(act, Act::Spawn | Act::Look)));
}

#[test]
fn who_says_that_it_is_broken_is_replaced_at_once() {
    let mut story = Story::of(HeartSource::Notify, false);
    story.until(1000, true);
    story.feed(Input::Triggered { slot: SLOT });
    assert_eq!(story.verdict(), Some((1000, Cause::Frozen, Some(Class::Triggered))));
    assert_eq!(story.acts.last(), Some(&(1000, Act::Kill)));
}

#[test]
fn more_time_is_given_to_who_asks_for_it() {
    let mut story = Story::of(HeartSource::Notify, false);
    story.until(1000, true);
    story.feed(Input::Excused { slot: SLOT, span: ms(7000) });
    story.until(7990, false);
    assert_eq!(story.verdict(), None);
    story.until(9000, false);
    assert_eq!(story.verdict(), Some((8000, Cause::Frozen, Some(Class::Blocked))));
    // At a start, too.
    let mut story = Story::of(HeartSource::Notify, false);
    story.feed(Input::Excused { slot: SLOT, span: ms(20_000) });
    story.until(30_000, false);
    assert_eq!(story.verdict(), Some((20_000, Cause::StartTimeout, None)));
}

#[test]
fn a_limit_of_its_own_counts_from_then_on() {
    let mut story = Story::of(HeartSource::Notify, false);
    story.until(1000, true);
    story.feed(Input::Limited { slot: SLOT, hang: ms(3000) });
    story.until(9000, false);
    assert_eq!(story.verdict(), Some((4000, Cause::Frozen, Some(Class::Blocked))));
}

#[test]
fn who_does_not_look_at_the_stop_word_gets_its_signal_at_once() {
    let mut story = Story::of(HeartSource::None, false);
    story.feed(Input::Heedless { slot: SLOT });
    assert_eq!(story.acts, [(0, Act::Spawn)], "nobody asked it to stop yet");
    story.until(2000, false);
    story.feed(Input::Stop);
    story.feed(Input::Heedless { slot: SLOT });
    let acts = [(0, Act::Spawn), (2000, Act::Ask), (2000, Act::Terminate)];
    assert_eq!(story.acts, acts);
    let pressed = What::Pressed { press: Press::Terminate, heedless: true };
    assert_eq!(story.told.last().expect("told").1, pressed);
    // It leaves in its own time; TERM's span begins now.
    story.feed(Input::Excused { slot: SLOT, span: ms(9000) });
    story.until(10_990, false);
    assert_eq!(story.stage(), Stage::Terminating);
    story.until(11_000, false);
    assert_eq!(story.stage(), Stage::Killing);
}
