//! What came of it all, as the table in docs/verdicts.md has it.

use std::collections::HashMap;
use std::time::Duration;

/// What came of one way to hang.
#[derive(Default)]
pub(crate) struct Tally {
    /// Class, what followed, and how long after the last beat that was decided.
    seen: Vec<(String, String, Duration)>,
    innocents: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, seen: (String, String, Duration)) {
        self.seen.push(seen);
    }

    /// Somebody was left alone, as it should be.
    pub(crate) fn innocent(&mut self) {
        self.innocents += 1;
    }

    /// What differs from what is expected.
    fn wrong(&self, row: &str) -> Vec<String> {
        let came = self.seen.iter().map(|(class, follows, _)| format!("{class} | {follows}"));
        came.filter(|came| !row.ends_with(&format!(" | {came}")))
            .map(|came| format!("{row}\n    came out as {came}"))
            .collect()
    }

    /// The shortest and the longest time to the decision.
    fn times(&self) -> String {
        let times = || self.seen.iter().map(|(_, _, after)| after.as_millis());
        let ends = times().min().zip(times().max());
        ends.map_or(String::new(), |(least, most)| format!("{least} to {most} ms"))
    }
}

/// A row with what came of it: `Ok(None)` = it cannot be brought about here.
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) row: &'static str,
    pub(crate) came: Result<Option<Tally>, ()>,
}

/// Columns that are the same in each run.
const STABLE: usize = 4;

impl Line {
    fn cells(&self, tally: &Tally) -> String {
        let rounds = tally.seen.len() + tally.innocents;
        format!("| {} | {rounds} | {} |", self.row, tally.times())
    }
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verdicts.md");
const BEGIN: &str = "<!-- produced -->\n";
const END: &str = "<!-- end -->";
const HEAD: &str = "| state | brought about by | class | what follows | rounds | decided after |\n\
                    | --- | --- | --- | --- | --- | --- |\n";

fn stable(line: &str) -> Vec<&str> {
    line.split('|').skip(1).take(STABLE).map(str::trim).collect()
}

/// Prints the table, compares it with the document or writes it there, and fails for what is wrong.
pub(crate) fn settle(mut lines: Vec<Line>, all: usize) {
    assert_eq!(lines.len(), all);
    lines.sort_by_key(|line| line.number);
    let document = std::fs::read_to_string(FILE).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the marker before the table");
    let (old, after) = rest.split_once(END).expect("the marker after the table");
    let old: HashMap<_, _> =
        old.lines().skip(2).map(|line| (stable(line)[0], line.to_owned())).collect();

    let (mut table, mut wrong) = (HEAD.to_owned(), Vec::new());
    for line in &lines {
        let state = line.row.split(" | ").next().unwrap();
        let told = old.get(state);
        let new = match &line.came {
            Ok(Some(tally)) => {
                wrong.extend(tally.wrong(line.row));
                line.cells(tally)
            }
            // It stands there from another machine.
            Ok(None) => told.cloned().unwrap_or_default(),
            Err(()) => {
                wrong.push(format!("{state}: see above"));
                continue;
            }
        };
        table.extend([new.as_str(), "\n"]);
        let blessed = std::env::var_os("OSPS_BLESS").is_some();
        if !blessed && told.is_none_or(|told| stable(told) != stable(&new)) {
            wrong.push(format!("{FILE} is out of date: OSPS_BLESS=1 writes it: {new}"));
        }
    }
    eprintln!("{table}");
    assert!(wrong.is_empty(), "wrong:\n{}", wrong.join("\n"));
    assert!(old.len() <= all, "{FILE} has rows that nobody plays");
    if std::env::var_os("OSPS_BLESS").is_some() {
        std::fs::write(FILE, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    }
}
