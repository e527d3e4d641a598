//! The page, complete without its script: a table whose traces are drawn here, then the same facts
//! once more as an object, from which the script goes on. Whatever others wrote is escaped.

use std::collections::VecDeque;
use std::fmt::{self, Display, Write};

use super::graph::{Graph, Kind};
use super::model::{Face, LOOKS, Model, PERIOD_MS, Row, Told};
use crate::report::{Report, Summary};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// A heart, as the icon of the tab.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 \
                    16'%3E%3Cpath d='M0 9h4l2-6 3 11 2-5h5' fill='none' stroke='%23c2281d' \
                    stroke-width='1.6' stroke-linejoin='round'/%3E%3C/svg%3E";
/// Happenings that the table of a page without a script shows.
const TOLD: usize = 40;

/// Text inside an element or an attribute.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '&' => self.0.write_str("&amp;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// The page. `token` = whole reports are linked.
pub(super) fn page(model: &Model, nonce: &str, token: Option<&str>) -> String {
    let mut html = String::with_capacity(64 << 10);
    // Writing to a text cannot fail.
    let _ = write(&mut html, model, nonce, token);
    html
}

fn write(html: &mut String, model: &Model, nonce: &str, token: Option<&str>) -> fmt::Result {
    let face = &model.face;
    let (name, summary) = (Text(&face.name), Text(face.summary));
    let condition = if face.well { "well" } else { "unwell" };
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n\
         <title>{name} \u{b7} {summary}</title>\n<link rel=\"icon\" href=\"{ICON}\">\n\
         <style nonce=\"{nonce}\">{STYLE}</style>\n</head>\n<body class=\"{condition}\">\n\
         <header>\n<h1 id=\"name\">{name}</h1>\n<p id=\"summary\" role=\"status\">{summary}</p>\n"
    )?;
    about(html, model)?;
    let (hidden, advice) = match &face.advice {
        Some(advice) => ("", advice.as_str()),
        None => (" hidden", ""),
    };
    write!(
        html,
        "</header>\n<p id=\"advice\"{hidden} role=\"alert\">{}</p>\n<main>\n\
         <section aria-labelledby=\"h-hearts\">\n<h2 id=\"h-hearts\">Hearts</h2>\n\
         <table id=\"hearts\">\n<thead><tr><th scope=\"col\">Service</th><th scope=\"col\">Last \
         minute</th><th scope=\"col\">Last beat</th><th scope=\"col\">Restarts</th></tr></thead>\n\
         <tbody>\n",
        Text(advice)
    )?;
    for (row, steps) in model.traces() {
        heart(html, row, steps, model.times())?;
    }
    html.push_str("</tbody>\n</table>\n</section>\n");
    graph(html, &model.graph, face)?;
    reports(html, model, token)?;
    told(html, &model.told)?;
    let whole = model.whole().replace('<', "\\u003c");
    write!(
        html,
        "</main>\n<footer><a href=\"/metrics\">metrics</a> <a href=\"/api/status\">status</a> <a \
         href=\"/api/events\">events</a> <a href=\"/healthz\">health</a> <span>osps {}</span>\
         </footer>\n<noscript><p class=\"note\">Scripts are off: this page loads anew every five \
         seconds.</p></noscript>\n<script type=\"application/json\" id=\"first\">{whole}</script>\n\
         <script nonce=\"{nonce}\">{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A whole report, as `osps report` shows it.
pub(super) fn report(report: &Report, nonce: &str) -> String {
    let Summary { number, service, sentence, .. } = &report.summary;
    let (service, sentence, text) = (Text(service), Text(sentence), Text(report.text()));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
         name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta \
         name=\"color-scheme\" content=\"light dark\">\n<title>report {number} \u{b7} \
         {service}</title>\n<link rel=\"icon\" href=\"{ICON}\">\n<style \
         nonce=\"{nonce}\">{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{service}</h1>\n<p \
         id=\"summary\">report {number}</p>\n<p id=\"about\">{sentence}</p>\n</header>\n\
         <main><pre tabindex=\"0\">{text}</pre></main>\n</body>\n</html>\n"
    )
}

fn about(html: &mut String, model: &Model) -> fmt::Result {
    html.push_str("<p id=\"about\">");
    if let Some((pid, standing)) = model.face.watchdog {
        write!(html, "watchdog {pid} {standing}")?;
        if let Some(age) = model.watchdog_age {
            write!(html, ", beat {} ago", Span(age))?;
        }
        let up = model.at.saturating_sub(model.face.since_ms);
        write!(html, ", started {} ago", Span(up))?;
    }
    writeln!(html, " <span>{}</span></p>", Text(&model.face.run_dir))
}

/// A span for people: `0.3 s`, `12 s`, `5 min`, `3 h`, `2 d`.
struct Span(u64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ ..10_000 => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
            ms @ ..120_000 => write!(f, "{} s", ms / 1000),
            ms @ ..7_200_000 => write!(f, "{} min", ms / 60_000),
            ms @ ..172_800_000 => write!(f, "{} h", ms / 3_600_000),
            ms => write!(f, "{} d", ms / 86_400_000),
        }
    }
}

/// Time of day.
struct Clock(u64);

impl Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000 % 86_400;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}", seconds % 60)
    }
}

/// How a state is drawn: `ok`, `bad`, `held`, `off`.
fn manner(state: &str) -> &'static str {
    match state {
        "up" | "starting" => "ok",
        "late" | "stopping" | "failed" | "backoff" => "bad",
        "held" => "held",
        _ => "off",
    }
}

type Steps = VecDeque<(u64, Option<u64>, u64)>;

fn heart(html: &mut String, row: &Row, steps: &Steps, times: &VecDeque<u64>) -> fmt::Result {
    let name = row.heart.as_deref().unwrap_or(&row.service);
    let kind = if row.heart.is_some() { "further" } else { "own" };
    let state = row.state;
    let still = if row.beats || steps.iter().any(|step| step.0 > 0) { "" } else { " still" };
    write!(
        html,
        "<tr class=\"{kind} {}{still}\"><th scope=\"row\"><span class=\"name\">{}</span> <span \
         class=\"sub\"><b>{state}</b>",
        manner(state),
        Text(name)
    )?;
    if let (Some(pid), None) = (row.pid, &row.heart) {
        write!(html, " \u{b7} pid {pid} \u{b7} gen {}", row.generation)?;
    }
    html.push_str("</span>");
    if let Some(doing) = &row.doing {
        write!(html, " <span class=\"sub\">{}</span>", Text(doing))?;
    }
    html.push_str("</th><td class=\"trace\">");
    trace(html, name, steps, times)?;
    let age = steps.back().and_then(|step| step.1).map(|age| Span(age).to_string());
    let age = age.unwrap_or_else(|| "\u{2013}".to_owned());
    write!(
        html,
        "</td><td class=\"num beat\"><span class=\"big\">{age}</span> <span \
         class=\"sub\">{}</span></td>\
         <td class=\"num again\">",
        Text(row.source)
    )?;
    if row.heart.is_none() {
        let last = row.cause.as_ref().map_or(String::new(), |cause| format!(", last {cause}"));
        let plural = if row.restarts == 1 { "" } else { "s" };
        write!(
            html,
            "<span class=\"big\">{}</span> <span class=\"sub\">restart{plural}{}</span>",
            row.restarts,
            Text(last)
        )?;
    }
    html.push_str("</td></tr>\n");
    Ok(())
}

/// Looks that a trace drawn here shows: a minute.
const SHOWN: usize = LOOKS / 2;
/// Width of one.
const STEP: f64 = 4.0;

fn trace(html: &mut String, name: &str, steps: &Steps, times: &VecDeque<u64>) -> fmt::Result {
    let width = STEP * f64::from(u16::try_from(SHOWN).unwrap_or(u16::MAX));
    write!(
        html,
        "<svg viewBox=\"0 0 {width} 64\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"beats of {}\"><path d=\"",
        Text(name)
    )?;
    let shown = steps.len().min(SHOWN);
    // Beats of a second each, so that the grid of looks does not show.
    let beats: Vec<_> = steps.iter().skip(steps.len() - shown).map(|step| step.0).collect();
    let second = |at: usize| {
        beats[at.saturating_sub(3)..=at]
            .iter()
            .fold(0, |sum: u64, beats| sum.saturating_add(*beats))
    };
    let most = (0..beats.len()).map(second).max().unwrap_or(1).max(1);
    let end = times.back().copied().unwrap_or(0);
    let x = |at: u64| {
        let back = u32::try_from(end.saturating_sub(at)).unwrap_or(u32::MAX);
        width - f64::from(back) / f64::from(u32::try_from(PERIOD_MS).unwrap_or(1)) * STEP
    };
    let first = times.len() - shown.min(times.len());
    write!(html, "M{:.1} 52", x(times.get(first).copied().unwrap_or(end)))?;
    let shown = times.iter().skip(first).zip(steps.iter().skip(steps.len() - shown));
    for (index, (at, step)) in shown.enumerate() {
        if let (1.., age) = (step.0, step.1.unwrap_or(0)) {
            let x = x(at.saturating_sub(age.min(PERIOD_MS)));
            let top = 52.0 - 40.0 * height(second(index), most);
            write!(html, "H{:.1}L{x:.1} {top:.0}L{:.1} 52", x - 1.2, x + 1.2)?;
        }
    }
    write!(html, "H{width}\"/></svg>")
}

/// How high so many beats are, of the most that there were.
fn height(beats: u64, most: u64) -> f64 {
    let log =
        |beats: u64| f64::from(u32::try_from(beats.saturating_add(1)).unwrap_or(u32::MAX)).log2();
    0.4 + 0.6 * log(beats) / log(most)
}

/// Sizes of the drawn graph, in its units; `page.js` has the same.
const NODE: (usize, usize) = (156, 46);
const GAP: (usize, usize) = (56, 14);

fn graph(html: &mut String, graph: &Graph, face: &Face) -> fmt::Result {
    let hidden = if graph.edges.is_empty() { " hidden" } else { "" };
    write!(
        html,
        "<section id=\"needs\" aria-labelledby=\"h-needs\"{hidden}>\n<h2 id=\"h-needs\">Who needs \
         whom</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-labelledby=\"h-needs\">"
    )?;
    let size = |most: Option<usize>, index: usize| {
        let (node, gap) = ([NODE.0, NODE.1][index], [GAP.0, GAP.1][index]);
        (most.unwrap_or(0) + 1) * (node + gap) - gap + 4
    };
    let width = size(graph.nodes.iter().map(|node| node.column).max(), 0);
    let height = size(graph.nodes.iter().map(|node| node.row).max(), 1);
    write!(
        html,
        "<svg id=\"graph\" role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"-2 -2 \
         {width} {height}\" aria-label=\"{}\">",
        Text(sentence(graph))
    )?;
    let place = |index: usize| {
        let node = &graph.nodes[index];
        (node.column * (NODE.0 + GAP.0), node.row * (NODE.1 + GAP.1))
    };
    for edge in &graph.edges {
        let ((x, y), (to_x, to_y)) = (place(edge.from), place(edge.to));
        let (x, y, to_y) = (x + NODE.0, y + NODE.1 / 2, to_y + NODE.1 / 2);
        let (bend, to_bend) = (x + GAP.0 / 2, to_x.saturating_sub(GAP.0 / 2));
        let kind = kind(edge.kind);
        let to_x = to_x.saturating_sub(1);
        write!(
            html,
            "<path class=\"edge {kind}\" d=\"M{x} {y}C{bend} {y} {to_bend} {to_y} {to_x} {to_y}\"/>\
             <path class=\"head\" d=\"M{} {}l6 4l-6 4\"/>",
            to_x.saturating_sub(6),
            to_y.saturating_sub(4)
        )?;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let (x, y) = place(index);
        let row = face.rows.iter().find(|row| row.service == node.name && row.heart.is_none());
        let state = row.map_or("", |row| row.state);
        write!(
            html,
            "<g class=\"node {}\" transform=\"translate({x} {y})\"><rect width=\"{}\" \
             height=\"{}\" rx=\"3\"/><text x=\"12\" y=\"20\">{}</text><text class=\"state\" \
             x=\"12\" y=\"36\">{state}</text></g>",
            manner(state),
            NODE.0,
            NODE.1,
            Text(short(&node.name))
        )?;
    }
    html.push_str(
        "</svg></div>\n<p class=\"legend\"><span class=\"up\">needs it up</span><span \
         class=\"done\">needs it done</span><span class=\"with\">goes down with \
         it</span></p>\n</section>\n",
    );
    Ok(())
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Up => "up",
        Kind::Done => "done",
        Kind::With => "with",
    }
}

/// The graph for those who do not see it.
fn sentence(graph: &Graph) -> String {
    let name = |index: usize| &graph.nodes[index].name;
    let edge = |edge: &super::graph::Edge| format!("{} needs {}", name(edge.to), name(edge.from));
    graph.edges.iter().map(edge).collect::<Vec<_>>().join(", ")
}

/// A name that fits into its box.
fn short(name: &str) -> String {
    match name.char_indices().nth(19) {
        Some((end, _)) => format!("{}\u{2026}", &name[..end]),
        None => name.to_owned(),
    }
}

fn reports(html: &mut String, model: &Model, token: Option<&str>) -> fmt::Result {
    let hidden = if model.reports.is_empty() { " hidden" } else { "" };
    let known = token.map_or(String::new(), |token| format!(" data-token=\"{token}\""));
    write!(
        html,
        "<section id=\"reports\"{known} aria-labelledby=\"h-reports\"{hidden}>\n<h2 \
         id=\"h-reports\">Reports</h2>\n<ol>"
    )?;
    for report in model.reports.iter().rev() {
        let (number, at, sentence) = (report.number, Clock(report.at), Text(&report.sentence));
        write!(html, "<li id=\"report-{number}\"><time>{at}</time> ")?;
        match token {
            Some(token) => {
                write!(html, "<a href=\"/reports/{number}?token={token}\">report {number}</a> ")?;
            }
            None => {
                write!(html, "<span class=\"sub\">report {number}</span> ")?;
            }
        }
        write!(html, "<span>{sentence}</span></li>")?;
    }
    let note = match token {
        Some(_) => "",
        None => {
            "<p class=\"note\">Whole reports open at the address that <code>osps page</code> \
             printed, or with <code>osps report</code>.</p>"
        }
    };
    writeln!(html, "</ol>{note}</section>")
}

fn told(html: &mut String, told: &VecDeque<Told>) -> fmt::Result {
    html.push_str(
        "<section aria-labelledby=\"h-told\">\n<h2 id=\"h-told\">What happened</h2>\n<ol \
         id=\"told\">",
    );
    for told in told.iter().rev().take(TOLD) {
        let (level, at, line) = (told.level, Clock(told.at), Text(&told.line));
        write!(html, "<li class=\"{level}\"><time>{at}</time> <span>{line}</span></li>")?;
    }
    html.push_str("</ol>\n</section>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::model::{Look, Pulse};
    use super::*;

    const NASTY: &str = "</script><img src=x onerror='alert(1)'>\"&";

    #[test]
    fn whatever_others_wrote_is_text() {
        let mut model = Model::default();
        let row = Row {
            service: NASTY.to_owned(),
            state: "up",
            doing: Some(NASTY.to_owned()),
            cause: Some(NASTY.to_owned()),
            ..Row::default()
        };
        let face = Face {
            name: NASTY.to_owned(),
            run_dir: NASTY.to_owned(),
            advice: Some(NASTY.to_owned()),
            rows: vec![row],
            ..Face::default()
        };
        let pulse = Pulse { key: "0".to_owned(), count: 1, age: None };
        model.take(Look { at: 1, face, pulses: vec![pulse], ..Look::default() });
        let html = page(&model, "n0nce", Some("t0ken"));
        assert!(!html.contains("<img"), "{html}");
        assert_eq!(html.matches("</script>").count(), 2);
        let scripts = html.matches("<script").count();
        let nonces = html.matches("<script nonce=\"n0nce\">").count();
        assert_eq!((scripts, nonces), (2, 1));
        assert!(!html.contains("style=\""), "the policy forbids it");
    }

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (0, "0.0 s"),
            (1234, "1.2 s"),
            (11_900, "11 s"),
            (130_000, "2 min"),
            (7_200_000, "2 h"),
            (259_200_000, "3 d"),
        ] {
            assert_eq!(Span(ms).to_string(), text);
        }
        assert_eq!(Clock(86_399_000).to_string(), "23:59:59");
    }
}
