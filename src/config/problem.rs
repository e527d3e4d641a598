//! What is wrong with a file, all of it at once, each with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use osps_heart::shown::Shown;

/// Most problems that are told at once. A file with more is no file of this kind.
pub const PROBLEMS_MAX: usize = 100;
/// Most characters of a text that are shown of what was found.
const FOUND_MAX: usize = 60;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1 on, and the column in characters, from 1 on; `None` = the file as a whole.
    pub place: Option<(usize, usize)>,
    /// The key with the tables around it, or nothing.
    pub key: String,
    /// What was found, and what was expected.
    pub text: String,
}

/// All that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The problems in the order of their places.
    pub list: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Problems {
    /// One line each, and no line end behind the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for Problem { place, key, text } in &self.list {
            write!(f, "{between}{}:", Shown(&self.path))?;
            between = "\n";
            if let Some((line, column)) = place {
                write!(f, "{line}:{column}:")?;
            }
            if !key.is_empty() {
                write!(f, " {}:", Shown(key))?;
            }
            write!(f, " {}", Shown(text))?;
        }
        if self.more > 0 {
            write!(f, "{between}and {} more", self.more)?;
        }
        Ok(())
    }
}

impl Problems {
    /// A problem of the file as a whole.
    pub fn whole(path: &Path, text: String) -> Problems {
        let list = vec![Problem { place: None, key: String::new(), text }];
        Problems { path: path.to_owned(), list, more: 0 }
    }
}

/// Problems as they are found, by their offsets.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<(usize, String, String)>);

impl Notes {
    /// Adds one.
    pub(super) fn add(&mut self, at: usize, key: impl Into<String>, text: impl Into<String>) {
        self.0.push((at, key.into(), text.into()));
    }

    /// Whether nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps some, by their offsets and keys.
    pub(super) fn retain(&mut self, keep: impl Fn(usize, &str) -> bool) {
        self.0.retain(|(at, key, _)| keep(*at, key));
    }

    /// Adds all of another list.
    pub(super) fn append(&mut self, more: Notes) {
        self.0.extend(more.0);
    }

    /// ` (did you mean ...?)` where there is something near, as long as anybody reads it.
    pub(super) fn hint<'a>(&self, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
        let near = (self.0.len() < PROBLEMS_MAX).then(|| nearest(name, known)).flatten();
        near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
    }

    /// How many were found so far.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The same with lines and columns; what is said twice is said once.
    pub(super) fn placed(mut self, path: &Path, text: &str) -> Problems {
        self.0.sort();
        self.0.dedup();
        let more = self.0.len().saturating_sub(PROBLEMS_MAX);
        self.0.truncate(PROBLEMS_MAX);
        let lines = Lines::of(text);
        let place = |(at, key, problem)| {
            let place = Some(lines.place(text, at));
            Problem { place, key, text: problem }
        };
        Problems { path: path.to_owned(), list: self.0.into_iter().map(place).collect(), more }
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    /// Looks for them.
    pub(super) fn of(text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines(std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect())
    }

    /// The line of an offset, from 1 on.
    pub(super) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    /// The line and the column in characters, both from 1 on.
    fn place(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.0.get(line - 1).copied().unwrap_or_default();
        let before = text.as_bytes().get(start..at.min(text.len())).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }
}

/// A found text, in quotes, and not all of it if it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(FOUND_MAX) {
        Some((end, _)) => format!("\"{}...\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// Names longer than that are no slips of known ones.
const NEAR_MAX: usize = 64;

/// The nearest of some names, if it is near.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &'a str| (strsim::damerau_levenshtein(name, known), known);
    let plain = |known: &&str| known.len() <= NEAR_MAX;
    let known = known.into_iter().filter(|_| name.len() <= NEAR_MAX).filter(plain);
    let (far, nearest) = known.map(distance).min()?;
    // Of one letter, any other is as near.
    let length = name.chars().count();
    (far <= (length / 3).max(1) && far < length).then_some(nearest)
}
