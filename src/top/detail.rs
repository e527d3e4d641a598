//! What is told of the selected server: process, hearts, threads, the last report, what happened.

use osps_heart::segment::gaps::Gaps;
use osps_heart::words::HeartSource;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::{Line, Span};

use super::app::{App, Taste, ago};
use super::draw::{histogram, since};
use super::look::{Closer, Thread};
use super::model::Row;
use crate::policy::advice::quantile;
use crate::view::snapshot::{Heart, Server};
use crate::view::table;

/// Columns of the labels at the left.
const LABEL: usize = 10;
/// Threads and further hearts that are shown where happenings want room, too.
const SOME: usize = 3;

/// The lines; in so much room, or all.
pub(super) fn lines(app: &App, row: &Row, room: Option<usize>) -> Vec<Line<'static>> {
    let taste = app.taste;
    let mut lines = section("process", vec![process(row)]);
    let closer = app.closer();
    let mut hearts = hearts(taste, &row.server);
    let threads = closer.map(|closer| threads(taste, closer)).unwrap_or_default();
    let happenings = closer.map(|closer| happenings(app, closer)).unwrap_or_default();
    if let Some(room) = room {
        hearts.truncate(2 + SOME);
        let left = room.saturating_sub(1 + hearts.len() + 1);
        // Each has half, and what the other one does not need.
        let half = (left / 2).max(left.saturating_sub(happenings.len()));
        lines.extend(section("heart", hearts));
        lines.extend(reports(taste, closer));
        let mut threads = threads;
        threads.truncate(half.min(1 + SOME.max(half)));
        lines.extend(section("threads", threads));
        lines.extend(section("events", happenings));
        lines.truncate(room);
    } else {
        lines.extend(section("heart", hearts));
        lines.extend(reports(taste, closer));
        lines.extend(section("threads", threads));
        lines.extend(section("events", happenings));
    }
    lines
}

/// Lines under a label that stands beside the first of them.
fn section(label: &str, lines: Vec<Line<'static>>) -> Vec<Line<'static>> {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let labelled = lines.into_iter().zip(labels).map(|(mut line, label)| {
        line.spans.insert(0, Span::styled(format!(" {label:<width$}", width = LABEL - 1), bold));
        line
    });
    labelled.collect()
}

fn process(row: &Row) -> Line<'static> {
    let server = &row.server;
    let mut said = vec![match server.pid {
        Some(pid) => format!("pid {pid}, generation {}", server.generation),
        None => format!("none, generation {}", server.generation),
    }];
    said.extend(server.up.map(|span| format!("up for {}", since(span))));
    said.extend(server.due.map(|span| format!("starts in {}", table::ago(span))));
    said.extend(server.listen.as_ref().map(|listen| format!("listens on {listen}")));
    said.extend(row.owns.then(|| "writes the data".to_owned()));
    said.extend(server.last_cause.as_ref().map(|last| format!("last {last}")));
    said.extend(table::remarks(server));
    said.extend(server.activity.clone());
    Line::raw(said.join(", "))
}

/// Its own heart on two lines, each further one on one.
fn hearts(taste: Taste, server: &Server) -> Vec<Line<'static>> {
    let mut own = vec![match (server.heart, table::heart(server)) {
        (Some(HeartSource::None), _) => "none: only its death is noticed".to_owned(),
        (source, word) => match source.map(HeartSource::word) {
            Some(source) if source != word => format!("{source}, {word}"),
            _ => word.to_owned(),
        },
    }];
    own.extend(server.beat_age.map(|age| format!("beat {} ago", table::ago(age))));
    own.extend(server.limit.map(|limit| format!("limit {}", table::ago(limit))));
    let mut lines = vec![Line::raw(own.join(", "))];
    lines.extend(server.gaps.as_ref().map(|counted| gaps(taste, counted)));
    lines.extend(server.hearts.iter().map(|heart| further(taste, heart)));
    lines
}

fn gaps(taste: Taste, gaps: &Gaps) -> Line<'static> {
    let mut spans = vec![
        Span::raw("gaps "),
        Span::styled(histogram(taste, gaps), taste.colour(Color::Cyan)),
        Span::raw(format!(", 99.9 % below {}", table::ago(quantile(gaps, 999)))),
    ];
    if gaps.near_misses > 0 {
        let text = format!(", {} near misses", gaps.near_misses);
        spans.push(Span::styled(text, taste.colour(Color::Yellow)));
    }
    Line::from(spans)
}

fn further(taste: Taste, heart: &Heart) -> Line<'static> {
    let mut said = vec![format!("{}: pid {}", heart.name, heart.pid)];
    if heart.parked {
        said.push("parked".to_owned());
    }
    said.extend(heart.beat_age.map(|age| format!("beat {} ago", table::ago(age))));
    said.extend(heart.limit.map(|limit| format!("limit {}", table::ago(limit))));
    let mut line = Line::raw(said.join(", "));
    if let Some(counted) = &heart.gaps {
        line.spans.push(Span::raw(", "));
        line.spans.extend(gaps(taste, counted).spans);
    }
    line
}

fn threads(taste: Taste, closer: &Closer) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = closer.threads.iter().map(|thread| line_of(taste, thread)).collect();
    if closer.thread_count > closer.threads.len() {
        let more = closer.thread_count - closer.threads.len();
        lines.push(Line::raw(format!("and {more} more")));
    }
    lines
}

fn line_of(taste: Taste, Thread { task, load }: &Thread) -> Line<'static> {
    let load = load.map_or("-".to_owned(), |load| format!("{}.{}", load / 10, load % 10));
    let (word, style) = match task.state {
        'R' => ("runs", taste.colour(Color::Green)),
        'S' => ("sleeps", Style::new()),
        'D' => ("waits (D)", taste.alarm()),
        'T' => ("stopped", taste.alarm()),
        't' => ("traced", taste.colour(Color::Magenta)),
        'Z' | 'X' => ("dead", taste.alarm()),
        'I' => ("idle", Style::new()),
        _ => ("?", Style::new()),
    };
    let place = match &*task.wait_channel {
        "" => String::new(),
        place => format!("in {place}"),
    };
    Line::from_iter([
        Span::raw(format!("{:>7} {:<15}  ", task.tid, task.name)),
        Span::styled(format!("{word:<9}"), style),
        Span::raw(format!(" {load:>6} %  {place}")),
    ])
}

fn reports(taste: Taste, closer: Option<&Closer>) -> Vec<Line<'static>> {
    let report = closer.and_then(|closer| closer.report.as_ref());
    let line = report.map(|report| {
        let text = format!("{}: {}", report.number, report.sentence);
        Line::styled(text, taste.colour(Color::Red))
    });
    section("report", line.into_iter().collect())
}

fn happenings(app: &App, closer: &Closer) -> Vec<Line<'static>> {
    let line =
        |(at, text): &(_, String)| Line::raw(format!("{:>7} ago  {text}", ago(app.model.at, *at)));
    closer.happenings.iter().map(line).collect()
}
