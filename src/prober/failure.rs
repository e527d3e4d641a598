//! What a look found wrong, in the few words that a slot page has room for.

use std::io;
use std::time::Duration;

use osps_heart::time::Short;

/// Bytes of an activity text.
const TEXT: usize = 96;
/// Stands where something was left out.
const CUT: &str = "\u{2026}";

/// Why a look was no sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// On what; empty where that is plain.
    what: String,
    why: String,
}

impl Failure {
    /// In these words.
    pub fn new(why: impl Into<String>) -> Failure {
        Failure { what: String::new(), why: why.into() }
    }

    /// In the kernel's words.
    pub fn answer(error: &io::Error) -> Failure {
        let text = words_of(error);
        let mut letters = text.chars();
        // "Connection refused" goes on a sentence here.
        let first = letters.next().map(|first| first.to_ascii_lowercase());
        Failure::new(first.into_iter().chain(letters).collect::<String>())
    }

    /// In the kernel's words, of this object.
    pub fn answer_on(what: &impl ToString, error: &io::Error) -> Failure {
        Failure { what: what.to_string(), why: words_of(error) }
    }

    /// `file: /x/y: No such file or directory for 3.0s`. What is too long loses the beginning of
    /// the object: how long it has been so, and why, says more.
    pub fn text(&self, kind: &str, span: Duration) -> String {
        let Failure { what, why } = self;
        let tail = format!(" for {}", brief(span));
        if what.is_empty() {
            let room = TEXT.saturating_sub(kind.len() + 2 + tail.len());
            return format!("{kind}: {}{tail}", beginning(why, room));
        }
        let room = TEXT.saturating_sub(kind.len() + 4 + why.len() + tail.len());
        format!("{kind}: {}: {why}{tail}", end(what, room))
    }
}

/// Without the number, which says nothing more.
fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    let (words, _) = text.split_once(" (os error ").unwrap_or((&text, ""));
    // The resolver's words come behind this.
    words.trim_start_matches("failed to lookup address information: ").to_owned()
}

/// The beginning of a text, in so many bytes.
fn beginning(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(CUT.len());
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= kept).last();
    format!("{}{CUT}", &text[..end.unwrap_or(0)])
}

/// The end of a text, in so many bytes.
fn end(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(CUT.len());
    let first = text.char_indices().map(|(at, _)| at).find(|at| text.len() - at <= kept);
    format!("{CUT}{}", &text[first.unwrap_or(text.len())..])
}

/// A span as it reads well beside a count of seconds: `350ms`, `3.0s`, `2m05s`.
pub fn brief(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{}ms", span.as_millis()),
        1..120 => format!("{:.1}s", span.as_secs_f64()),
        _ => Short(span).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_why_and_since_when() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        for (failure, kind, ms, expected) in [
            (Failure::new("HTTP 503"), "probe", 3000, "probe: HTTP 503 for 3.0s"),
            (Failure::new("unchanged"), "file", 350, "file: unchanged for 350ms"),
            (Failure::answer(&refused), "probe", 1200, "probe: connection refused for 1.2s"),
            (
                Failure::answer_on(&"/x/y", &missing),
                "file",
                125_000,
                "file: /x/y: No such file or directory for 2m05s",
            ),
        ] {
            assert_eq!(failure.text(kind, Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn texts_fit_and_keep_the_span() {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        for length in 60..110 {
            for letter in ["x", "\u{e9}", "\u{4e2d}"] {
                let long = letter.repeat(length);
                let why = Failure::new(long.clone()).text("probe", Duration::from_secs(3));
                let what = Failure::answer_on(&long, &missing).text("file", Duration::from_secs(3));
                assert!(why.len() <= TEXT && why.ends_with(" for 3.0s"), "{why}");
                assert!(what.len() <= TEXT, "{what}");
                assert!(what.ends_with("x: No such file or directory for 3.0s") || letter != "x");
                assert!(what.ends_with(": No such file or directory for 3.0s"), "{what}");
            }
        }
    }
}
