//! Looks become frames: over a real segment in memory, whatever stands in it, and any terminal.

use std::time::Duration;

use osps_heart::example;
use osps_heart::segment::layout::Geometry;
use osps_heart::segment::slot::Identity;
use osps_heart::segment::{Segment, text};
use osps_heart::sync::{Ordering, Word};
use osps_heart::time::Monotonic;
use osps_heart::words::{HeartSource, Request, State, Watched};
use proptest::prelude::*;
use ratatui_core::backend::{Backend, TestBackend};
use ratatui_core::buffer::{Buffer, Cell};
use ratatui_core::layout::Rect;

use super::app::{App, Effect, Taste, Tone};
use super::draw;
use super::keys::{Action, Keys, Mode, action};
use super::look::{Closer, Look, Thread};
use crate::instance::control::Wish;
use crate::sys::procfs::Task;
use crate::view::looker::Sight;
use crate::view::snapshot::{Eyes, Snapshot, Standing};

const COLOURS: Taste = Taste { colours: true, unicode: true };
const ASCII: Taste = Taste { colours: false, unicode: false };
const SECOND: Duration = Duration::from_secs(1);

/// A kernel that says what the test wants.
#[derive(Clone, Copy)]
struct Told {
    alive: bool,
    frozen: bool,
}

const ALIVE: Told = Told { alive: true, frozen: false };

impl Eyes for Told {
    fn standing(&mut self, _: &Segment, _: &std::path::Path) -> Standing {
        let process = self.alive.then_some((1, 0));
        Standing { alive: self.alive, elsewhere: false, left_elsewhere: false, process }
    }
    fn is_frozen(&mut self, _: &Segment, _: Monotonic) -> bool {
        self.frozen
    }
    fn lives(&mut self, _: u32, _: u64) -> bool {
        true
    }
}

/// A segment that a test writes into as a watchdog and its servers would.
struct Stage {
    segment: Segment,
    now: Monotonic,
    told: Told,
}

impl Stage {
    fn new(names: &[&str]) -> Stage {
        let geometry = Geometry::new(names.len(), names.len() + 2, 4096, 256).unwrap();
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let segment = Segment::create(&file, &example::options(geometry), |_| {}).unwrap();
        let stage = Stage { segment, now: Monotonic(1_000_000_000_000), told: ALIVE };
        for (slot, name) in names.iter().enumerate() {
            let server = &stage.segment.slots()[slot].server;
            text::store(&server.name, name);
            let generation = osps_heart::ids::Generation(1);
            server.set_identity(Identity { pid: 100, start_time: 0, generation });
            put(&server.heart_source, HeartSource::Memory.code());
            put(&server.watched, Watched::Yes.code());
            stage.state(slot, State::Up);
        }
        stage
    }

    fn state(&self, slot: usize, state: State) {
        put(&self.segment.slots()[slot].server.state, state.code());
    }

    fn beat(&self, slot: usize) {
        let heart = &self.segment.hearts()[slot];
        put(&heart.count, heart.count.load(Ordering::Relaxed) + 1);
        put(&heart.stamp_ns, self.now.0);
    }

    fn look(&self, app: &mut App) {
        let mut told = self.told;
        let path = std::path::Path::new("/dev/shm/osps-0/shop");
        let snapshot = Snapshot::through(&self.segment, path, self.now, &mut told);
        let sight = Sight::There(Box::new(snapshot));
        app.look(Look { at: self.now, sight, closer: None });
    }
}

fn put(word: &Word, value: u64) {
    word.store(value, Ordering::Relaxed);
}

fn app() -> App {
    App::new("shop".to_owned(), COLOURS)
}

fn lines(frame: &Buffer) -> Vec<String> {
    let width = usize::from(frame.area.width.max(1));
    let row = |row: &[Cell]| row.iter().map(Cell::symbol).collect();
    frame.content.chunks(width).map(row).collect()
}

fn drawn(app: &mut App, width: u16, height: u16) -> Vec<String> {
    lines(&draw::frame(app, Rect::new(0, 0, width, height)))
}

fn closer(name: &str) -> Closer {
    let task = Task {
        tid: 7,
        name: "worker".to_owned(),
        state: 'S',
        cpu: SECOND,
        wait_channel: "futex_wait".to_owned(),
    };
    Closer {
        server: name.to_owned(),
        threads: vec![Thread { task, load: Some(123) }; 40],
        thread_count: 41,
        happenings: vec![(Monotonic(1), "late -> frozen (stopped)".to_owned()); 40],
        ..Closer::default()
    }
}

/// Keys as they are typed.
fn press(app: &mut App, typed: &str) -> Vec<Effect> {
    let mut keys = Keys::default();
    let mut found = keys.feed(typed.as_bytes());
    found.extend(keys.close());
    found.into_iter().filter_map(|key| app.act(action(app.mode(), key)?)).collect()
}

#[test]
fn a_frozen_heart_is_a_flat_line_and_a_replaced_one_is_marked() {
    let (mut stage, mut app) = (Stage::new(&["db", "web"]), app());
    for quarter in 0..60 {
        stage.now = stage.now + SECOND / 4;
        stage.beat(0);
        if quarter < 32 {
            stage.beat(1);
        } else if quarter == 45 {
            stage.state(1, State::Late);
        }
        stage.look(&mut app);
    }
    let screen = drawn(&mut app, 80, 24);
    // What is late stands above.
    let web = screen.iter().position(|line| line.contains(" web ")).unwrap();
    let db = screen.iter().position(|line| line.contains(" db ")).unwrap();
    assert!(web < db, "{screen:#?}");
    assert!(screen[web].contains("late") && screen[web].contains("▁▁▁▁▁▁ "), "{screen:#?}");
    assert!(screen[db].contains("▇▇▇▇▇▇▇▇▇▇"), "{screen:#?}");
    put(&stage.segment.slots()[1].server.restarts[2], 1);
    stage.state(1, State::Up);
    for _ in 0..8 {
        stage.now = stage.now + SECOND / 4;
        stage.beat(1);
        stage.look(&mut app);
    }
    let screen = drawn(&mut app, 80, 24);
    let web = screen.iter().find(|line| line.contains(" web ")).unwrap();
    assert!(web.contains("▁▁╳"), "{screen:#?}");
    assert!(screen[1].contains("restarts 1, frozen 1"), "{screen:#?}");
}

#[test]
fn who_is_not_watched_over_is_told_in_red_what_to_do() {
    let (mut stage, mut app) = (Stage::new(&["web"]), app());
    for (told, summary, advice) in [
        (Told { alive: true, frozen: true }, "frozen", "`kill -CONT 1`"),
        (Told { alive: false, frozen: false }, "no watchdog", "start osps again"),
    ] {
        stage.told = told;
        stage.look(&mut app);
        let frame = draw::frame(&mut app, Rect::new(0, 0, 80, 24));
        let screen = lines(&frame);
        assert!(screen[0].contains(summary) && screen[1].contains(advice), "{screen:#?}");
        assert_eq!(frame[(1, 1)].fg, ratatui_core::style::Color::Red);
    }
    app.look(Look { at: stage.now, sight: Sight::Nothing, closer: None });
    let screen = drawn(&mut app, 80, 24);
    assert!(screen[0].contains("gone") && screen[1].contains("waiting"), "{screen:#?}");
    // What was seen last stays.
    assert!(screen.iter().any(|line| line.contains(" web ")), "{screen:#?}");
}

/// What the past of one instance was is not that of the next one of its name.
#[test]
fn another_instance_begins_with_an_empty_trace() {
    let (mut stage, mut app) = (Stage::new(&["web"]), app());
    for _ in 0..40 {
        stage.now = stage.now + SECOND / 4;
        stage.beat(0);
        stage.look(&mut app);
    }
    assert!(drawn(&mut app, 80, 24)[3].contains('▇'));
    let next = Stage { now: stage.now + SECOND / 4, ..Stage::new(&["web"]) };
    next.look(&mut app);
    assert!(!drawn(&mut app, 80, 24)[3].contains('▇'));
}

#[test]
fn what_changes_something_is_asked_twice() {
    let (stage, mut app) = (Stage::new(&["db", "web"]), app());
    stage.look(&mut app);
    assert_eq!(press(&mut app, "jr"), []);
    let screen = drawn(&mut app, 80, 24);
    assert!(screen[23].contains("Restart web? y yes, n no"), "{screen:#?}");
    assert_eq!(press(&mut app, "n"), []);
    assert_eq!(app.mode(), Mode::List);
    for (typed, request, span) in [
        ("ry", Request::Restart, 0),
        ("sy", Request::Stop, 0),
        ("py", Request::Pause, 600),
        ("p\x1b[C\x1b[C\x1b[Cy", Request::Pause, 8 * 3600),
        ("p---y", Request::Pause, 60),
    ] {
        let (span, names) = (Duration::from_secs(span), vec!["web".to_owned()]);
        let wish = Wish::Some { request, span, names };
        assert_eq!(press(&mut app, typed), [Effect::Ask(wish)], "{typed}");
        // Until that is answered, nothing else is.
        assert_eq!(press(&mut app, typed), [], "{typed}");
        assert!(drawn(&mut app, 80, 24)[23].contains("no answer yet"));
        app.hear(Tone::Good, "done".to_owned());
        assert!(drawn(&mut app, 80, 24)[23].contains(" web: done"));
    }
    // One that is paused or stopped is brought back.
    put(&stage.segment.slots()[1].server.paused_until_ns, u64::MAX);
    stage.state(1, State::Down);
    stage.look(&mut app);
    assert!(matches!(
        &press(&mut app, "py")[..],
        [Effect::Ask(Wish::Some { request: Request::Resume, .. })]
    ));
    app.hear(Tone::Good, String::new());
    assert!(matches!(
        &press(&mut app, "sy")[..],
        [Effect::Ask(Wish::Some { request: Request::Start, .. })]
    ));
}

#[test]
fn the_selection_follows_its_server() {
    let names: Vec<_> = (0..64).map(|number| format!("worker-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (stage, mut app) = (Stage::new(&names), app());
    stage.look(&mut app);
    assert_eq!(app.selected.as_deref(), Some("worker-0"));
    press(&mut app, "Gk");
    assert_eq!(app.selected.as_deref(), Some("worker-62"));
    let marked = |app: &mut App| {
        drawn(app, 80, 24).into_iter().find(|line| line.starts_with('▶')).unwrap_or_default()
    };
    assert!(marked(&mut app).contains("worker-62"));
    stage.state(62, State::Failed);
    stage.look(&mut app);
    assert!(marked(&mut app).contains("worker-62"));
    assert_eq!(app.rows()[0].server.name, "worker-62");
    press(&mut app, "o");
    assert_eq!(app.rows()[0].server.name, "worker-0");
    // It is gone: somebody else is selected.
    text::store(&stage.segment.slots()[62].server.name, "");
    stage.look(&mut app);
    assert_eq!(app.selected.as_deref(), Some("worker-0"));
}

#[test]
fn one_alone_is_scrolled_to_its_end_and_not_beyond() {
    let (stage, mut app) = (Stage::new(&["web"]), app());
    stage.look(&mut app);
    app.closer = Some(closer("web"));
    press(&mut app, "\r");
    assert_eq!(app.mode(), Mode::Alone);
    drawn(&mut app, 80, 24);
    press(&mut app, "G");
    let screen = drawn(&mut app, 80, 24);
    assert!(screen[22].contains("late -> frozen") && app.alone < Some(100), "{screen:#?}");
    press(&mut app, "g");
    assert!(drawn(&mut app, 80, 24)[5].contains("process"));
    press(&mut app, "\x1b");
    assert_eq!(app.mode(), Mode::List);
}

#[test]
fn without_colours_and_beyond_ascii_nothing_is_lost() {
    let (mut stage, mut app) = (Stage::new(&["web", "db"]), app());
    app.taste = ASCII;
    for _ in 0..20 {
        stage.now = stage.now + SECOND / 4;
        stage.beat(0);
        stage.look(&mut app);
    }
    stage.state(1, State::Late);
    stage.look(&mut app);
    let frame = draw::frame(&mut app, Rect::new(0, 0, 100, 30));
    assert!(lines(&frame).concat().is_ascii(), "{:#?}", lines(&frame));
    let plain = |cell: &Cell| cell.fg == ratatui_core::style::Color::Reset;
    assert!(frame.content.iter().all(plain));
    let screen = lines(&frame).concat();
    assert!(screen.contains("late") && screen.contains("***"), "{screen}");
}

/// Every word that servers and a watchdog can write, as anybody may have left it.
fn scribble(stage: &Stage, words: &[u64]) {
    let mut values = words.iter().copied().cycle();
    let mut next = |word: &Word| put(word, values.next().unwrap_or(0));
    for slot in stage.segment.slots() {
        let (server, activity) = (&slot.server, &slot.activity);
        let single = [&server.state, &server.pid, &server.generation, &server.role];
        single.into_iter().for_each(&mut next);
        let more = [&server.last_cause, &server.last_class, &server.heart_source];
        more.into_iter().for_each(&mut next);
        let more = [&server.paused_until_ns, &server.blocked_by, &activity.sessions];
        more.into_iter().for_each(&mut next);
        server.name.iter().chain(&server.listen).chain(&server.restarts).for_each(&mut next);
        server.last_heart.iter().chain(&activity.text).for_each(&mut next);
    }
    for heart in stage.segment.hearts() {
        [&heart.count, &heart.stamp_ns, &heart.claim].into_iter().for_each(&mut next);
        heart.name.iter().for_each(&mut next);
    }
    let header = stage.segment.header();
    header.name.iter().chain([&header.started_ns, &header.watchdog_pid]).for_each(&mut next);
}

/// What a terminal would obey or lose its place by.
fn is_harmless(symbol: &str) -> bool {
    let is_bad = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    !symbol.contains(is_bad)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..Default::default()
    })]

    /// Whatever stands in the segment, whatever is typed and however large the terminal is.
    #[test]
    fn any_frame_of_anything_is_drawn(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..16], 1..200),
        typed in "[jkgGo?rpsynq\r \u{1b}]{0,12}",
        (width, height) in prop_oneof![
            (1_u16..=200, 1_u16..=60),
            (1_u16..=12, 1_u16..=8),
            Just((80, 24)),
        ],
        garbage in "\\PC{0,40}|[\u{0}-\u{9f}\u{202e}\u{1f600}\u{4e00}\u{301}]{0,40}",
        colours: bool,
        unicode: bool,
    ) {
        let mut stage = Stage::new(&["web", "db", "a", "b", "c"]);
        let mut app = App::new(garbage.clone(), Taste { colours, unicode });
        for turn in 0..4_usize {
            stage.now = stage.now + SECOND;
            if turn > 1 {
                scribble(&stage, &words[turn % words.len()..]);
            }
            stage.look(&mut app);
            let mut near = closer(app.selected.as_deref().unwrap_or_default());
            near.threads[0].task.name.clone_from(&garbage);
            near.happenings[0].1.clone_from(&garbage);
            app.closer = Some(near);
            press(&mut app, &typed);
            let area = Rect::new(0, 0, width, height);
            let frame = draw::frame(&mut app, area);
            prop_assert_eq!(frame.area, area);
            for cell in &frame.content {
                prop_assert!(is_harmless(cell.symbol()), "{:?}", cell);
            }
            // And a terminal takes it.
            let mut backend = TestBackend::new(width, height);
            let blank = Buffer::empty(area);
            backend.draw(blank.diff(&frame).into_iter()).unwrap();
            app.hear(Tone::Bad, garbage.clone());
        }
    }
}

/// A page is what was drawn, and a step beyond either end stays there.
#[test]
fn steps_end_at_the_ends() {
    let (stage, mut app) = (Stage::new(&["a", "b", "c"]), app());
    assert_eq!(app.act(Action::Move(1)), None);
    stage.look(&mut app);
    for (act, selected) in [
        (Action::Move(-1), "a"),
        (Action::Page(1), "c"),
        (Action::Move(1), "c"),
        (Action::Top, "a"),
        (Action::Bottom, "c"),
    ] {
        drawn(&mut app, 80, 24);
        app.act(act);
        assert_eq!(app.selected.as_deref(), Some(selected), "{act:?}");
    }
}
