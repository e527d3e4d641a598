//! What `osps top` shows and what it is doing: the model, what is selected, what is asked.
//!
//! Pure: looks, actions and answers come in, wishes go out. No clock but that of the looks.

use std::time::Duration;

use osps_heart::time::{Monotonic, Short};
use osps_heart::words::{Request, State};

use super::keys::{Action, Mode};
use super::look::{Closer, Look};
use super::model::{Model, Row};
use crate::instance::control::Wish;

/// How long a pause may be, from the list of answers; the second one is offered first.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(8 * 3600),
];
/// How long an answer stays.
const TELLS: Duration = Duration::from_secs(20);

/// How the screen looks, whatever is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taste {
    /// In colours; else bold and reversed only.
    pub colours: bool,
    /// With characters beyond ASCII.
    pub unicode: bool,
}

/// A question before something is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub server: String,
    pub request: Request,
    /// Which of the pauses.
    span: usize,
}

/// How an answer is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Going,
    Good,
    Bad,
}

/// What was answered last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub tone: Tone,
    pub text: String,
    since: Monotonic,
}

/// What has to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    Suspend,
    Redraw,
    /// Ask the watchdog.
    Ask(Wish),
}

/// All of it.
#[derive(Debug)]
pub(super) struct App {
    pub name: String,
    pub taste: Taste,
    pub model: Model,
    /// The closer look at what is selected.
    pub closer: Option<Closer>,
    /// Name of the selected server.
    pub selected: Option<String>,
    /// What is wrong stands above; else in the order of the slots.
    pub by_urgency: bool,
    /// The selected one is shown alone; so many lines of it are scrolled away above.
    pub alone: Option<usize>,
    pub is_helped: bool,
    pub question: Option<Question>,
    pub answer: Option<Answer>,
    /// Something was asked for and is not answered yet.
    pub is_waiting: bool,
    /// What was asked for last.
    asked: String,
    /// Rows of a page, as they were drawn last.
    pub page: usize,
}

impl App {
    pub(super) fn new(name: String, taste: Taste) -> App {
        App {
            name,
            taste,
            model: Model::default(),
            closer: None,
            selected: None,
            by_urgency: true,
            alone: None,
            is_helped: false,
            question: None,
            answer: None,
            is_waiting: false,
            asked: String::new(),
            page: 10,
        }
    }

    /// The next look.
    pub(super) fn look(&mut self, look: Look) {
        let Look { at, sight, closer } = look;
        self.model = std::mem::take(&mut self.model).look(sight, at);
        if closer.is_some() {
            self.closer = closer;
        }
        let is_there = |name: &String| self.model.rows.iter().any(|row| row.server.name == *name);
        if !self.selected.as_ref().is_some_and(is_there) {
            self.selected = self.rows().first().map(|row| row.server.name.clone());
            self.alone = self.alone.map(|_| 0);
        }
        if self.question.as_ref().is_some_and(|asked| !is_there(&asked.server)) {
            self.question = None;
        }
        self.answer
            .take_if(|answer| !self.is_waiting && self.model.at.since(answer.since) >= TELLS);
    }

    /// The rows in the order in which they are shown.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<_> = self.model.rows.iter().collect();
        if self.by_urgency {
            rows.sort_by_key(|row| std::cmp::Reverse(row.urgency()));
        }
        rows
    }

    /// The selected one, and where it stands.
    pub(super) fn current<'a>(&self, rows: &[&'a Row]) -> Option<(usize, &'a Row)> {
        let name = self.selected.as_ref()?;
        let place = rows.iter().position(|row| row.server.name == *name)?;
        Some((place, rows[place]))
    }

    /// The closer look, if it is at what is selected.
    pub(super) fn closer(&self) -> Option<&Closer> {
        self.closer.as_ref().filter(|closer| Some(&closer.server) == self.selected.as_ref())
    }

    pub(super) fn mode(&self) -> Mode {
        match (&self.question, self.is_helped, self.alone) {
            (Some(_), _, _) => Mode::Question,
            (None, true, _) => Mode::Help,
            (None, false, Some(_)) => Mode::Alone,
            (None, false, None) => Mode::List,
        }
    }

    /// Does what was typed.
    pub(super) fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Move(by) => self.go(by),
            Action::Page(by) => self.go(by.saturating_mul(self.page.max(1).cast_signed())),
            Action::Top => self.go(isize::MIN),
            Action::Bottom => self.go(isize::MAX),
            Action::Open => self.alone = self.alone.or(self.selected.as_ref().map(|_| 0)),
            Action::Close => self.alone = None,
            Action::Help => self.is_helped = !self.is_helped,
            Action::Order => self.by_urgency = !self.by_urgency,
            Action::Restart => self.ask(|_| Request::Restart),
            Action::Pause => self.ask(|row| match row.server.paused {
                None => Request::Pause,
                Some(_) => Request::Resume,
            }),
            Action::Stop => self.ask(|row| match row.server.state {
                Some(State::Down | State::Failed | State::Done) => Request::Start,
                _ => Request::Stop,
            }),
            Action::Span(by) => {
                if let Some(question) = &mut self.question {
                    question.span = question.span.saturating_add_signed(by).min(PAUSES.len() - 1);
                }
            }
            Action::No => self.question = None,
            Action::Yes => {
                let question = self.question.take()?;
                self.is_waiting = true;
                self.asked = format!("{} {}", question.request, question.server);
                self.tell(Tone::Going, format!("{}: asked", self.asked));
                return Some(Effect::Ask(question.wish()));
            }
        }
        None
    }

    /// Up or down: the selection, or what is shown of one server.
    fn go(&mut self, by: isize) {
        if let Some(scrolled) = &mut self.alone {
            // What there is to scroll is known when it is drawn, which ends it there.
            *scrolled = scrolled.saturating_add_signed(by);
            return;
        }
        let rows = self.rows();
        let (place, _) = self.current(&rows).unzip();
        let place = place.unwrap_or(0).saturating_add_signed(by);
        let row = rows.get(place.min(rows.len().saturating_sub(1)));
        self.selected = row.map(|row| row.server.name.clone());
    }

    fn ask(&mut self, request: impl Fn(&Row) -> Request) {
        let rows = self.rows();
        let Some((_, row)) = self.current(&rows) else { return };
        let (server, request) = (row.server.name.clone(), request(row));
        if self.is_waiting {
            self.tell(Tone::Bad, "one thing after the other: no answer yet".to_owned());
            return;
        }
        self.is_helped = false;
        self.question = Some(Question { server, request, span: 1 });
    }

    /// What came back: how it goes, or the end of it.
    pub(super) fn hear(&mut self, tone: Tone, text: String) {
        self.is_waiting = tone == Tone::Going;
        let text = if self.is_waiting { text } else { format!("{}: {text}", self.asked) };
        self.tell(tone, text);
    }

    fn tell(&mut self, tone: Tone, text: String) {
        self.answer = Some(Answer { tone, text, since: self.model.at });
    }
}

impl Question {
    fn wish(&self) -> Wish {
        let Question { server, request, .. } = self;
        let span = match request {
            Request::Pause => PAUSES[self.span],
            _ => Duration::ZERO,
        };
        Wish::Some { request: *request, span, names: vec![server.clone()] }
    }

    /// What is asked, and what it would mean.
    pub(super) fn text(&self) -> (String, &'static str) {
        let Question { server, request, .. } = self;
        match request {
            Request::Pause => {
                let span = humantime::format_duration(PAUSES[self.span]);
                (
                    format!("Pause {server} for {span}?"),
                    "nobody judges it; left and right: how long",
                )
            }
            Request::Resume => (format!("Resume {server}?"), "it is judged again"),
            Request::Stop => (format!("Stop {server}?"), "it stays away until somebody starts it"),
            Request::Start => {
                (format!("Start {server}?"), "it shall run again, whatever became of it")
            }
            Request::Restart => (format!("Restart {server}?"), "it is told to go, and comes back"),
            Request::Reload => (format!("Reload {server}?"), ""),
        }
    }
}

/// How long ago that was.
pub(super) fn ago(now: Monotonic, then: Monotonic) -> String {
    let span = now.since(then);
    match span.as_secs() {
        0..60 => format!("{}s", span.as_secs()),
        seconds @ 60..7200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => Short(span).to_string(),
    }
}
