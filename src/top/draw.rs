//! One frame, from what is known: pure, for any size and any text.
//!
//! Only the sixteen colours of the terminal itself, and of these none that is hard to read on a
//! light or on a dark ground; whatever a colour says, a word says too.

use std::fmt::Write;
use std::time::Duration;

use osps_heart::segment::gaps::{Gaps, end_of};
use osps_heart::time::Short;
use osps_heart::words::{Cause, HeartSource, State, Watched};
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::{Line, Span};

use super::app::{App, Taste, Tone};
use super::columns::{Columns, Field};
use super::detail;
use super::model::{Mark, Row};
use crate::view::snapshot::{Health, Server, Snapshot};
use crate::view::table;

/// Rows that the closer look gets at least, its title among them.
const CLOSER: u16 = 8;

impl Taste {
    pub(super) fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// What must be seen first.
    pub(super) fn alarm(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn state(self, state: Option<State>) -> Style {
        match state {
            Some(State::Up) => self.colour(Color::Green),
            Some(State::Done | State::Down) => Style::new(),
            Some(State::Starting | State::Stopping | State::Backoff | State::Blocked) => {
                self.colour(Color::Yellow)
            }
            Some(State::Held) => self.colour(Color::Magenta),
            None | Some(State::Late | State::Failed) => self.alarm(),
        }
    }

    fn cut(self) -> &'static str {
        if self.unicode { "…" } else { "~" }
    }
}

/// Characters of growing height; the first one is a flat line.
pub(super) fn levels(taste: Taste) -> [&'static str; 8] {
    if taste.unicode {
        ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
    } else {
        ["_", ".", ":", "-", "=", "+", "*", "#"]
    }
}

/// The height of a number among others of which `most` is the greatest: nothing is flat, anything
/// is not, and small differences do not look like large ones.
pub(super) fn level(count: u64, most: u64) -> usize {
    if count == 0 || most == 0 {
        return 0;
    }
    // The root of the share, in fifths, rounded up. The full height is left out: rows that stand
    // below each other would run into each other.
    let share = (u128::from(count.min(most)) * 25).div_ceil(u128::from(most));
    (1..=5).find(|root: &usize| (root * root) as u128 >= share).unwrap_or(5) + 1
}

/// Draws the whole frame.
pub(super) fn frame(app: &mut App, area: Rect) -> Buffer {
    let mut buffer = Buffer::empty(area);
    let mut pen = Pen { buffer: &mut buffer, taste: app.taste };
    let rows = app.rows();
    let (height, width) = (area.height, area.width);
    pen.line(0, &title(app, width));
    let mut y = 1;
    let bottom = height.saturating_sub(1);
    for line in summary(app).into_iter().take(usize::from(bottom.saturating_sub(1))) {
        pen.line(y, &line);
        y += 1;
    }
    let room = bottom.saturating_sub(y + 1);
    let current = app.current(&rows).map(|(place, _)| place);
    let wanted = u16::try_from(rows.len()).unwrap_or(u16::MAX);
    let is_alone = app.alone.is_some();
    let listed = match (is_alone, current) {
        (true, Some(_)) => 1.min(room),
        _ if room < CLOSER + 2 => wanted.min(room),
        _ => wanted.min((room - CLOSER).max(room / 2)),
    };
    let columns = Columns::of(width, &rows);
    if listed > 0 {
        pen.line(y, &header(&columns));
        y += 1;
    }
    let first = match current {
        Some(place) if is_alone => place,
        place => first_row(rows.len(), usize::from(listed), place.unwrap_or(0)),
    };
    for (place, row) in rows.iter().enumerate().skip(first).take(usize::from(listed)) {
        pen.row(y, &columns, row, Some(place) == current);
        y += 1;
    }
    let mut scrolled = app.alone.unwrap_or(0);
    if let Some((_, row)) = app.current(&rows)
        && bottom > y + 1
    {
        let part = (usize::from(listed) < rows.len() && !is_alone)
            .then(|| format!(" {}-{} of {} ", first + 1, first + usize::from(listed), rows.len()));
        pen.line(y, &rule(app.taste, &row.server.name, part.as_deref(), width));
        let room = usize::from(bottom - y - 1);
        let lines = detail::lines(app, row, (!is_alone).then_some(room));
        scrolled = scrolled.min(lines.len().saturating_sub(room));
        let lines = lines.iter().skip(scrolled).take(room);
        for (line, y) in lines.zip(y + 1..) {
            pen.line(y, line);
        }
    }
    if bottom > 0 {
        pen.line(bottom, &foot(app, width));
    }
    let page = if is_alone { bottom.saturating_sub(y + 1) } else { listed };
    if app.is_helped {
        pen.help(area);
    }
    app.page = usize::from(page);
    app.alone = app.alone.map(|_| scrolled);
    buffer
}

/// The first of so many rows that is shown, where that one shall be seen.
fn first_row(rows: usize, room: usize, place: usize) -> usize {
    place.saturating_sub(room / 2).min(rows.saturating_sub(room))
}

struct Pen<'a> {
    buffer: &'a mut Buffer,
    taste: Taste,
}

impl Pen<'_> {
    /// A line, cut where the terminal ends.
    fn line(&mut self, y: u16, line: &Line<'_>) {
        let area = self.buffer.area;
        if y >= area.height || area.width == 0 {
            return;
        }
        self.buffer.set_style(Rect::new(0, y, area.width, 1), line.style);
        self.buffer.set_line(0, y, line, area.width);
        if line.width() > usize::from(area.width) {
            let cut = self.taste.cut();
            self.buffer.set_stringn(area.width - 1, y, cut, 1, line.style);
        }
    }

    /// Text in so many columns.
    fn text(&mut self, (x, y): (u16, u16), width: u16, text: &str, style: Style, right: bool) {
        let area = self.buffer.area;
        if y >= area.height || x >= area.width {
            return;
        }
        let width = width.min(area.width - x);
        let span = Span::raw(text);
        let long = span.width();
        let room = usize::from(width);
        let shift = if right { u16::try_from(room.saturating_sub(long)).unwrap_or(0) } else { 0 };
        self.buffer.set_stringn(x + shift, y, text, room, style);
        if long > room && width > 0 {
            self.buffer.set_stringn(x + width - 1, y, self.taste.cut(), 1, style);
        }
    }

    fn row(&mut self, y: u16, columns: &Columns, row: &Row, selected: bool) {
        let server = &row.server;
        let marker = match (selected, self.taste.unicode) {
            (true, true) => "▶",
            (true, false) => ">",
            (false, _) => " ",
        };
        let bold = if selected { Modifier::BOLD } else { Modifier::empty() };
        self.text((0, y), 1, marker, Style::new().add_modifier(bold), false);
        for (field, x, width) in columns.iter() {
            let (text, style) = match field {
                Field::Name => {
                    let owns = if row.owns { "*" } else { "" };
                    (format!("{}{owns}", server.name), Style::new())
                }
                Field::State => (server.state_word().to_owned(), self.taste.state(server.state)),
                Field::Beat => (table::age(server.beat_age), self.beat_style(server)),
                Field::Rate => (rate(row), Style::new()),
                Field::Trace => {
                    self.trace((x, y), width, row);
                    continue;
                }
                Field::Restarts => {
                    let restarts = server.restarts.of(&Cause::ALL);
                    (short(restarts), Style::new())
                }
                Field::Sessions => (short(server.sessions), Style::new()),
                Field::Note => (note(server), self.note_style(server)),
            };
            self.text((x, y), width, &text, style.add_modifier(bold), field.is_right());
        }
    }

    /// The colour of the age of a beat: what is about to be called late.
    fn beat_style(&self, server: &Server) -> Style {
        match server.state {
            Some(State::Late) => self.taste.alarm(),
            _ => Style::new(),
        }
    }

    fn note_style(&self, server: &Server) -> Style {
        match server.state {
            Some(State::Failed | State::Late | State::Backoff) => self.taste.colour(Color::Red),
            _ => Style::new(),
        }
    }

    /// The last seconds of a heart, the newest at the right: none of one that never beat and has
    /// not to, since a flat line would look like a freeze.
    fn trace(&mut self, (x, y): (u16, u16), width: u16, row: &Row) {
        if has_no_heart(&row.server) {
            return;
        }
        let seconds: Vec<_> = row.trace.last(usize::from(width)).collect();
        let most = seconds.iter().map(|second| second.beats).max().unwrap_or(0);
        let levels = levels(self.taste);
        let start = usize::from(width) - seconds.len();
        for (second, at) in seconds.iter().zip(start..) {
            let (symbol, style) = match second.mark {
                Mark::Unseen => continue,
                Mark::Replaced if self.taste.unicode => ("╳", self.taste.alarm()),
                Mark::Replaced => ("x", self.taste.alarm()),
                Mark::Silent => (levels[level(second.beats, most)], self.taste.alarm()),
                Mark::Away if second.beats == 0 => {
                    (if self.taste.unicode { "·" } else { " " }, Style::new())
                }
                Mark::Away => (levels[level(second.beats, most)], self.taste.colour(Color::Yellow)),
                Mark::Well => (levels[level(second.beats, most)], self.taste.colour(Color::Green)),
            };
            let at = u16::try_from(at).unwrap_or(u16::MAX);
            self.text((x.saturating_add(at), y), 1, symbol, style, false);
        }
    }

    /// The help, over whatever is there.
    fn help(&mut self, area: Rect) {
        let width = HELP.iter().map(|line| line.len()).max().unwrap_or(0) + 4;
        let (width, height) =
            (width.min(area.width.into()), (HELP.len() + 2).min(area.height.into()));
        let [x, y] = [(area.width, width), (area.height, height)]
            .map(|(all, its)| all.saturating_sub(u16::try_from(its).unwrap_or(all)) / 2);
        let edge = |left: &str, middle: &str, right: &str| {
            format!("{left}{}{right}", middle.repeat(width.saturating_sub(2)))
        };
        let [top, side, end] = if self.taste.unicode {
            [edge("┌", "─", "┐"), "│".to_owned(), edge("└", "─", "┘")]
        } else {
            [edge("+", "-", "+"), "|".to_owned(), edge("+", "-", "+")]
        };
        let inside = width.saturating_sub(4);
        let middle = HELP.iter().map(|line| format!("{side} {line:<inside$} {side}"));
        let lines = [top].into_iter().chain(middle).chain([end]).take(height);
        let columns = u16::try_from(width).unwrap_or(area.width);
        for (line, y) in lines.zip(y..) {
            self.text((x, y), columns, &line, Style::new(), false);
        }
    }
}

/// What the help says.
const HELP: [&str; 19] = [
    "up, down, j, k    select a server; page by page: PgUp, PgDn, space",
    "enter             that one alone, and scroll in it; back: Esc",
    "o                 what is wrong stands above, or all in their order",
    "r                 restart the selected one",
    "p                 pause it (nobody judges it), or resume it",
    "s                 stop it, or start it",
    "?                 this help",
    "q, Esc, Ctrl-C    leave; Ctrl-Z: to the background",
    "",
    "LAST SECONDS      beats in each second, the newest at the right; a flat",
    "                  line: none; x: replaced then; a gap: it had not to beat",
    "BEAT, RATE        since its last beat (late at 60 % of its limit); beats a s",
    "RST, SES          restarts so far; sessions that it serves",
    "*                 it may write the data",
    "",
    "What changes something asks first, and asks the watchdog. To look",
    "needs none: only the segment is read, four times a second.",
    "",
    "? or Esc: back",
];

/// The first line: which instance, how it is, and its watchdog.
fn title(app: &App, width: u16) -> Line<'static> {
    let taste = app.taste;
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let snapshot = app.model.snapshot.as_deref();
    let (word, style) = match (&app.model.missing, snapshot) {
        (None, Some(snapshot)) => (snapshot.summary().to_owned(), health_style(taste, snapshot)),
        (Some(_), _) => ("gone".to_owned(), taste.alarm()),
        (None, None) => ("...".to_owned(), Style::new()),
    };
    let watchdog = snapshot.filter(|_| app.model.missing.is_none()).map(watchdog);
    let right = watchdog.unwrap_or_default();
    // As it calls itself, where that is known.
    let name = snapshot.map_or(&app.name, |snapshot| &snapshot.name);
    let left = format!(" osps {name}  ");
    let used = Span::raw(&left).width() + word.len() + right.len();
    let gap = usize::from(width).saturating_sub(used).max(2);
    let spans = [left.into(), Span::styled(word, style), " ".repeat(gap).into(), right.into()];
    Line::from_iter(spans).style(reversed)
}

fn health_style(taste: Taste, snapshot: &Snapshot) -> Style {
    let colour = match snapshot.health() {
        Health::AllUp => Color::Green,
        Health::Degraded if snapshot.is_watched_over() => Color::Yellow,
        Health::Degraded | Health::NotRunning | Health::CannotTell => Color::Red,
    };
    taste.colour(colour).add_modifier(Modifier::BOLD)
}

fn watchdog(snapshot: &Snapshot) -> String {
    let watchdog = &snapshot.watchdog;
    let pid = watchdog.pid_here.map_or(watchdog.pid, u64::from);
    let beat = watchdog
        .beat_age
        .map_or("no beat".to_owned(), |age| format!("beat {} ago", table::ago(age)));
    match (watchdog.alive, watchdog.frozen) {
        (true, false) => format!("watchdog {pid} for {}, {beat} ", since(watchdog.since)),
        (true, true) => format!("watchdog {pid} FROZEN, {beat} "),
        (false, _) => format!("watchdog {pid} DEAD, {beat} "),
    }
}

/// A long time, roughly.
pub(super) fn since(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The lines below: what is to be done, if something is; how many are in which state; the data.
fn summary(app: &App) -> Vec<Line<'static>> {
    let taste = app.taste;
    let mut lines = Vec::new();
    let mut alarm = |text: String| lines.push(Line::styled(format!(" {text}"), taste.alarm()));
    if let Some(missing) = &app.model.missing {
        alarm(missing.clone());
    }
    let Some(snapshot) = &app.model.snapshot else { return lines };
    if app.model.missing.is_none() && (!snapshot.is_watched_over() || snapshot.watchdog.elsewhere) {
        alarm(table::verdict(snapshot));
    }
    let rows = &app.model.rows;
    let mut spans: Vec<Span<'_>> = vec![format!(" {} ", count(rows.len(), "server")).into()];
    for state in State::ALL.into_iter().map(Some).chain([None]) {
        let many = rows.iter().filter(|row| row.server.state == state).count();
        if many > 0 {
            let word = state.map_or("unknown", State::word);
            let comma = if spans.len() > 1 { ", " } else { " " };
            spans.push(Span::raw(comma));
            spans.push(Span::styled(format!("{many} {word}"), taste.state(state)));
        }
    }
    let restarts = rows.iter().map(|row| row.server.restarts.of(&Cause::ALL));
    let restarts = restarts.fold(0, u64::saturating_add);
    let frozen = rows.iter().map(|row| row.server.restarts.of(&[Cause::Frozen]));
    let frozen = frozen.fold(0, u64::saturating_add);
    spans.push(format!("   restarts {restarts}").into());
    if frozen > 0 {
        spans.push(format!(", frozen {frozen}").into());
    }
    let data = &snapshot.data;
    if data.sequence > 0 || data.owner.is_some() {
        let owner = data.owner.as_deref().map_or("nobody", |owner| owner);
        let keys = usize::try_from(data.keys).unwrap_or(usize::MAX);
        spans.push(
            format!(
                "   data {owner} writes, epoch {}, {} commits, {}",
                data.epoch,
                data.sequence,
                count(keys, "key")
            )
            .into(),
        );
    }
    lines.push(Line::from(spans));
    lines
}

fn count(many: usize, what: &str) -> String {
    if many == 1 { format!("1 {what}") } else { format!("{many} {what}s") }
}

fn header(columns: &Columns) -> Line<'static> {
    let mut text = String::new();
    for (field, x, width) in columns.iter() {
        let (x, width) = (usize::from(x), usize::from(width));
        text.extend(std::iter::repeat_n(' ', x.saturating_sub(text.chars().count())));
        let title: String = field.title(width).chars().take(width).collect();
        let _ = if field.is_right() {
            write!(text, "{title:>width$}")
        } else {
            write!(text, "{title:<width$}")
        };
    }
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

/// The line above the closer look.
fn rule(taste: Taste, name: &str, part: Option<&str>, width: u16) -> Line<'static> {
    let bar = if taste.unicode { "─" } else { "-" };
    let left = format!(" {name} ");
    let part = part.unwrap_or_default();
    let used = 2 + Span::raw(&left).width() + part.len();
    let rest = usize::from(width).saturating_sub(used + 1);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Line::from_iter([
        Span::raw(bar.repeat(2)),
        Span::styled(left, bold),
        Span::raw(bar.repeat(rest)),
        Span::raw(part.to_owned()),
        Span::raw(bar.to_owned()),
    ])
}

/// The last line: a question, an answer, or what keys there are.
fn foot(app: &App, width: u16) -> Line<'static> {
    let taste = app.taste;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if let Some(question) = &app.question {
        let (what, meaning) = question.text();
        let spans = [
            Span::styled(format!(" {what} "), bold),
            "y".to_owned().into(),
            " yes, ".into(),
            "n no".into(),
            Span::raw(format!("   ({meaning})")),
        ];
        return Line::from_iter(spans).style(Style::new().add_modifier(Modifier::REVERSED));
    }
    if let Some(answer) = &app.answer {
        let style = match answer.tone {
            Tone::Going => Style::new(),
            Tone::Good => taste.colour(Color::Green),
            Tone::Bad => taste.alarm(),
        };
        return Line::styled(format!(" {}", answer.text), style);
    }
    let arrows = if taste.unicode { "↑↓" } else { "j/k" };
    let hints: &[(&str, &str)] = if app.alone.is_some() {
        &[
            (arrows, "scroll"),
            ("esc", "back"),
            ("r", "restart"),
            ("p", "pause"),
            ("s", "stop"),
            ("?", "help"),
            ("q", "quit"),
        ]
    } else {
        &[
            (arrows, "select"),
            ("enter", "open"),
            ("r", "restart"),
            ("p", "pause"),
            ("s", "stop"),
            ("o", "order"),
            ("?", "help"),
            ("q", "quit"),
        ]
    };
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, word) in hints {
        used += key.chars().count() + word.len() + 3;
        if used > usize::from(width) {
            break;
        }
        spans.push(Span::styled(format!(" {key}"), bold));
        spans.push(Span::raw(format!(" {word} ")));
    }
    Line::from(spans)
}

/// Nobody beats for it.
fn has_no_heart(server: &Server) -> bool {
    server.heart == Some(HeartSource::None) || (server.beats == 0 && !server.watched)
}

/// Beats a second.
fn rate(row: &Row) -> String {
    match row.trace.rate().filter(|_| !has_no_heart(&row.server)) {
        None => "-".to_owned(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) if rate < 9999.5 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1000.0),
    }
}

/// A number in few characters.
fn short(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        1000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

/// What is to be said of it in a few words, most important first.
fn note(server: &Server) -> String {
    let (mut said, habits) = table::news_and_habits(server);
    if table::heart(server) == Watched::No.word() {
        said.push(Watched::No.word().to_owned());
    }
    said.extend(server.last_cause.as_ref().map(|last| format!("last: {last}")));
    said.extend(server.activity.clone());
    said.extend(habits);
    said.join(", ")
}

/// How gaps are spread: from the shortest kind that there was to the longest.
pub(super) fn histogram(taste: Taste, gaps: &Gaps) -> String {
    let Some(first) = gaps.buckets.iter().position(|count| *count != 0) else {
        return "no gaps counted yet".to_owned();
    };
    let last = gaps.buckets.iter().rposition(|count| *count != 0).unwrap_or(first);
    let levels = levels(taste);
    // Counts span many powers of ten: one long gap among a million short ones has to be seen.
    let height = |count: u64| count.checked_ilog2().map_or(0, |log| u64::from(log) + 1);
    let most = gaps.buckets.iter().copied().map(height).max().unwrap_or(0);
    let bars = gaps.buckets[first..=last].iter();
    let bars: String = bars.map(|count| levels[level(height(*count), most)]).collect();
    let from = first.checked_sub(1).and_then(end_of).unwrap_or_default();
    let from = if first == 0 { "0".to_owned() } else { Short(from).to_string() };
    format!("{from} {bars} {}", Short(gaps.worst))
}
