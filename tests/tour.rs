//! The README, typed in and read off the screen.
//!
//! Goal: whoever follows README.md sees what it prints: the tour in two terminals, with the same
//! words, states and columns in the same order, the log of the freeze included; and every command,
//! option and path in it is there. The same for the freeze in docs/your-program.md. The lines that
//! the README asks of a Rust program are all it needs, and what is compiled for them is little.
//!
//! Method: the commands are taken from the file itself and run by a shell, under the real binary.
//! Only the place differs: a run directory of its own, and free ports. Output is compared piece by
//! piece. Durations and times of day may differ. A pid or a port stands for the one in its place,
//! and for the same one wherever it comes again: that is how `kill -STOP` finds its victim. Every
//! other number is compared.
//!
//! What it cannot show: that its sentences are true (the other tests), that `cargo build` works on
//! your machine, how it looks on a terminal.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use osps::pair::store::commands;

use common::{BINARY, Launch, Osps};

/// Longer than somebody takes from one command to the next.
const TYPING: Duration = Duration::from_secs(3);

/// A host that is late tells another story: the tour is taken again.
const TRIES: usize = 3;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The lines of the `console` blocks under a heading of the README.
fn blocks(title: &str) -> Vec<Vec<String>> {
    blocks_in(&readme(), title)
}

fn blocks_in(document: &str, title: &str) -> Vec<Vec<String>> {
    let (_, section) = document.split_once(&format!("\n## {title}\n")).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let block = |rest: &str| {
        let (block, _) = rest.split_once("\n```").expect("the end of a block");
        block.lines().map(str::to_owned).collect()
    };
    section.split("```console\n").skip(1).map(block).collect()
}

/// What is typed, without the comment behind it.
fn typed(line: &str) -> Option<&str> {
    let command = line.strip_prefix("$ ")?;
    Some(command.split(" #").next().unwrap_or_default().trim_end())
}

// ------------------------------------------------------------------------- what is alike

/// A piece of a line.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Words(String),
    Number(String),
    /// A number with a unit of time.
    Span(String),
}

/// Cuts a line at its numbers. Runs of spaces count as one, since columns follow their longest.
fn pieces(line: &str) -> Vec<Piece> {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rest = line.as_str();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let digit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (words, number) = rest.split_at(digit);
        if !words.is_empty() {
            found.push(Piece::Words(words.to_owned()));
        }
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let (number, behind) = number.split_at(end);
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let unit = Some(&behind[..letters]).filter(|unit| ["us", "ms", "s"].contains(unit));
        found.extend(match unit {
            _ if number.is_empty() => None,
            Some(unit) => Some(Piece::Span(format!("{number}{unit}"))),
            None => Some(Piece::Number(number.to_owned())),
        });
        rest = &behind[unit.map_or(0, str::len)..];
    }
    found
}

/// Which pid or port here stands for which in the README.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    /// Whether a line on the screen is the one in the README.
    fn alike(&mut self, readme: &str, screen: &str) -> Result<(), String> {
        let (wanted, found) = (pieces(readme), pieces(screen));
        let mut before = "";
        for (i, wanted) in wanted.iter().enumerate() {
            let alike = match (wanted, found.get(i)) {
                (Piece::Number(a), Some(Piece::Number(b))) => self.is_number(before, a, b),
                (Piece::Span(a), Some(Piece::Span(b))) => is_span(before, a, b),
                (wanted, found) => Some(wanted) == found,
            };
            if !alike {
                let is = found.get(i).map_or("nothing".to_owned(), |piece| format!("{piece:?}"));
                return Err(format!("{wanted:?} is {is}\nREADME: {readme}\nscreen: {screen}"));
            }
            before = if let Piece::Words(words) = wanted { words } else { "" };
        }
        match found.get(wanted.len()) {
            None => Ok(()),
            Some(more) => Err(format!("and {more:?}\nREADME: {readme}\nscreen: {screen}")),
        }
    }

    /// Four digits are a pid or a port; one of a check counts how long one waited.
    fn is_number(&mut self, before: &str, readme: &str, screen: &str) -> bool {
        if readme.len() < 4 || readme.contains('.') {
            return readme == screen || before == "check ";
        }
        let pair = (readme.to_owned(), screen.to_owned());
        let known = self.0.iter().any(|(a, b)| *a == pair.0 || *b == pair.1);
        if !known {
            self.0.push(pair.clone());
        }
        self.0.contains(&pair)
    }

    /// What the README tells to type, for the processes that run here.
    fn here(&self, command: &str) -> String {
        let here = |word: &str| {
            let known = self.0.iter().find(|(readme, _)| readme == word);
            known.map_or(word, |(_, here)| here).to_owned()
        };
        command.split(' ').map(here).collect::<Vec<_>>().join(" ")
    }
}

/// Spans differ, but limits do not, and nobody is late or frozen before its time.
fn is_span(before: &str, readme: &str, screen: &str) -> bool {
    if before.ends_with("limit ") || before.ends_with("timeout ") {
        return readme == screen;
    }
    let seconds = |span: &str| {
        let number = span.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = [("us", 1e-6), ("ms", 1e-3)].into_iter().find(|(unit, _)| span.ends_with(unit));
        number.parse::<f64>().unwrap() * unit.map_or(1.0, |(_, unit)| unit)
    };
    !before.ends_with("no beat for ") || seconds(screen) >= seconds(readme)
}

/// A line of the log without its date: the time of day may differ, in its digits.
fn without_time(line: &str) -> Result<&str, String> {
    let (time, rest) = line.split_once(' ').ok_or(format!("no time: {line}"))?;
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if shape == "00:00:00.000Z" { Ok(rest) } else { Err(format!("no time of day: {line}")) }
}

// ------------------------------------------------------------------------------ the tour

/// Types a line into a shell in which `osps` is this one, and reads what it shows.
fn shell(osps: &Osps, line: &str) -> Result<String, String> {
    let function =
        "osps() { command=$1; shift; \"$OSPS\" \"$command\" --run-dir \"$DIR\" \"$@\"; }";
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{function}\n{line}")])
        .envs([("OSPS", BINARY.as_ref()), ("DIR", osps.run_dir().as_os_str())])
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let screen = String::from_utf8(output.stdout).unwrap();
    let failed = format!("`{line}`: {}\n{screen}", output.status);
    if output.status.success() { Ok(screen) } else { Err(failed) }
}

/// The options behind a command of the README, up to its `--` or its end.
fn options<'a>(command: &'a str, before: &str) -> Vec<&'a str> {
    let rest = command.strip_prefix(before).unwrap_or_else(|| panic!("{command}: not {before}"));
    rest.split_whitespace().take_while(|word| *word != "--").collect()
}

fn log_lines(osps: &Osps) -> Vec<String> {
    // What osps may not do on this machine is no part of the story, and nobody knows between which
    // lines that of a report comes.
    let told =
        |line: &&str| !line.contains(" not permitted to ") && !line.contains(": osps report ");
    osps.log().lines().filter(told).map(str::to_owned).collect()
}

/// Types one command and compares what it shows with these lines.
fn compare(osps: &Osps, line: &str, wanted: &[&str], names: &mut Names) -> Result<(), String> {
    let screen = shell(osps, line)?;
    let mut screen = screen.lines();
    for wanted in wanted {
        let place = osps.run_dir().display().to_string();
        let wanted = wanted.replace("/dev/shm/osps-0/default", &place);
        let shown = screen.next().ok_or(format!("`{line}` does not show: {wanted}"))?;
        names.alike(&wanted, shown)?;
        // The head of the table has nothing that could differ.
        if wanted.starts_with("SERVER") && wanted != shown {
            return Err(format!("columns\nREADME: {wanted}\nscreen: {shown}"));
        }
    }
    screen.next().map_or(Ok(()), |more| Err(format!("`{line}` shows more: {more}")))
}

/// Both terminals, from the first command to the last line of the log.
fn take_the_tour(osps: &Osps) -> Result<(), String> {
    let [second, first] = &blocks("A tour in two terminals")[..] else {
        panic!("the tour has two blocks");
    };
    let mut names = Names::default();
    let mut log_before = 0;
    let mut lines = second.iter().map(String::as_str).peekable();
    while let Some(line) = lines.next() {
        let command = names.here(typed(line).expect("a command"));
        log_before = if command.starts_with("kill ") { log_lines(osps).len() } else { log_before };
        let mut wanted = Vec::new();
        while let Some(line) = lines.next_if(|line| typed(line).is_none()) {
            wanted.push(line);
        }
        // A look is taken again: nobody types so fast that a server has not noticed yet that the
        // client before has left.
        let end = Instant::now() + TYPING;
        loop {
            let alike = compare(osps, &command, &wanted, &mut names);
            if alike.is_err() && command == "osps status" && Instant::now() < end {
                continue;
            }
            break alike?;
        }
    }
    assert!(log_before > 0, "the tour kills somebody");

    let (checks, log): (Vec<_>, Vec<_>) = first.iter().partition(|line| line.starts_with("check"));
    osps.wait("the log of the README", || {
        (log_lines(osps).len() >= log_before + log.len()).then_some(())
    });
    let shown = log_lines(osps).split_off(log_before);
    if shown.len() != log.len() {
        return Err(format!("{} lines are {}:\n{}", log.len(), shown.len(), shown.join("\n")));
    }
    for (line, shown) in log.iter().zip(&shown) {
        let (_, shown) = shown.split_once('T').expect("a date before the time");
        names.alike(without_time(line)?, without_time(shown)?)?;
    }
    for line in checks {
        let shown: Vec<_> = osps.out.lock().unwrap().iter().map(|l| l.text.clone()).collect();
        if !shown.iter().any(|shown| names.alike(line, shown).is_ok()) {
            return Err(format!("no status line like\n{line}\n{}", shown.join("\n")));
        }
    }
    Ok(())
}

#[test]
fn the_tour_shows_what_the_readme_shows() {
    let [commands] = &blocks("Two commands")[..] else { panic!("one block of two commands") };
    let command = typed(&commands[0]).expect("a command");
    let options = options(command, "cargo run --release -- ");
    for attempt in 1..=TRIES {
        let mut osps = Launch::pair(&options).start();
        let ended = take_the_tour(&osps).and_then(|()| {
            // What ends the tour, in the text below it.
            assert!(readme().contains("`osps stop` (or Ctrl-C, or `kill`) ends it in order"));
            shell(&osps, "osps stop").map(drop)
        });
        let Err(why) = ended else {
            assert_eq!(osps.wait_exit().code(), Some(0));
            assert!(!osps.run_dir().exists(), "it leaves nothing behind");
            return;
        };
        let late = osps.find_log(&["watchdog was late by"]).is_some();
        assert!(late && attempt < TRIES, "{why}\n--- log\n{}", osps.log());
    }
}

#[test]
fn a_program_of_ones_own_runs_as_the_readme_says() {
    let [command] = &blocks("Your own program")[..] else { panic!("one block") };
    let command = typed(&command[0]).expect("a command");
    let options = options(command, "osps run ");
    let (_, robot) = command.split_once(" -- ").expect("a program");
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let program = dir.path().join(robot);
    std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut osps = Launch::own(&options, &[program.to_str().unwrap()]).spawn();
    let status = osps.status();
    assert_eq!(status["servers"][0]["name"], robot.trim_start_matches("./"));
    assert_eq!(status["hang_timeout_ms"], 4000);
    assert!(osps.command(&["stop"]).status.success());
    assert_eq!(osps.wait_exit().code(), Some(0));
}

/// The program of docs/your-program.md: the C example, which does what the Rust one does, under
/// the name that the page gives to it.
fn robot(dir: &Path) -> Option<PathBuf> {
    let program = dir.join("robot");
    if !common::has("cc") {
        common::skip("cc is missing");
        return None;
    }
    let header = root().join("heart/c");
    let options = ["-O2", "-I", header.to_str().unwrap()];
    common::compile(&options, &root().join("docs/examples/beat.c"), &program, &[]);
    Some(program)
}

#[test]
fn a_freeze_of_ones_own_program_reads_as_its_page_says() {
    let page = std::fs::read_to_string(root().join("docs/your-program.md")).unwrap();
    let [lines] = &blocks_in(&page, "When it freezes")[..] else { panic!("one block") };
    let command = typed(&lines[1]).expect("the second command");
    let options = options(command, "osps run ");
    let (_, program) = command.split_once(" -- ./robot ").expect("the program");
    let dir = tempfile::tempdir().unwrap();
    let Some(robot) = robot(dir.path()) else { return };
    let words = [robot.to_str().unwrap()].into_iter().chain(program.split(' '));
    let words: Vec<_> = words.collect();
    for attempt in 1..=TRIES {
        let mut osps = Launch::own(&options, &words).spawn();
        let wanted = &lines[2..];
        osps.wait("the log of the page", || (log_lines(&osps).len() >= wanted.len()).then_some(()));
        let (shown, place) = (log_lines(&osps), osps.run_dir().display().to_string());
        let mut names = Names::default();
        let ended = wanted.iter().zip(&shown).try_for_each(|(line, shown)| {
            let line = line.replace("/dev/shm/osps-0/default", &place);
            let (_, shown) = shown.split_once('T').expect("a date before the time");
            names.alike(without_time(&line)?, without_time(shown)?)
        });
        assert!(osps.command(&["stop"]).status.success());
        assert_eq!(osps.wait_exit().code(), Some(0));
        let Err(why) = ended else { return };
        let late = osps.find_log(&["watchdog was late by"]).is_some();
        assert!(late && attempt < TRIES, "{why}\n--- log\n{}", osps.log());
    }
}

// -------------------------------------------------------------------- what it points at

/// The lines of the Rust block that a document shows, as a package of its own that depends on the
/// heart crate alone; the versions are those of this repository.
fn package(dir: &Path, document: &str) {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let (_, block) = text.split_once("```rust,ignore\n").expect("a block of Rust");
    let (lines, _) = block.split_once("```").expect("its end");
    let heart = root().join("heart").display().to_string();
    let manifest = format!(
        "[package]\nname = \"robot\"\nedition = \"2024\"\n\n[dependencies]\nosps-heart = {{ path = \
         {heart:?} }}\n\n[workspace]\n"
    );
    let program = format!(
        "fn main() -> Result<(), osps_heart::HeartError> {{\n{lines}Ok(())\n}}\n\nfn \
         one_turn_of_work() {{\n    std::thread::sleep(std::time::Duration::from_millis(10));\n}}\n"
    );
    std::fs::create_dir(dir.join("src")).unwrap();
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(dir.join("src/main.rs"), program).unwrap();
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
}

fn cargo(dir: &Path, args: &[&str]) -> Vec<u8> {
    let target = root().join("target/tour");
    let mut command = Command::new(env!("CARGO"));
    command.args(args).arg("--offline").current_dir(dir).env("CARGO_TARGET_DIR", target);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Whoever wants to beat compiles at most ten crates, none of them a proc macro, and writes what the
/// README shows.
#[test]
fn the_lines_that_the_readme_shows_beat() {
    for document in ["README.md", "docs/your-program.md"] {
        let dir = tempfile::tempdir().unwrap();
        package(dir.path(), document);
        cargo(dir.path(), &["build"]);
        let robot = root().join("target/tour/debug/robot");
        let osps = Launch::own(&["--hang-timeout", "1s"], &[robot.to_str().unwrap()]).start();
        osps.wait_log(&["robot gen=1 ", "starting -> up (first beat after "]);

        let tree = cargo(dir.path(), &["tree", "--prefix", "none", "--edges", "normal,build"]);
        let tree = String::from_utf8(tree).unwrap();
        assert!(!tree.contains("(proc-macro)"), "{document}: {tree}");
        let mut crates: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        crates.sort_unstable();
        crates.dedup();
        assert!(crates.len() <= 1 + 10, "{document}: {crates:?}");
    }
}

fn help(command: &[&str]) -> String {
    let output = Command::new(BINARY).args(command).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that looks like an option.
fn options_in(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("--") && !word.ends_with('-')).collect()
}

#[test]
fn every_command_and_option_of_the_readme_is_known() {
    let readme = readme();
    let commands = ["run", "status", "client", "up", "pause", "logs", "drill"];
    let known = commands.iter().fold(help(&[]), |known, command| known + &help(&[command]));
    let known = options_in(&known);
    // What a file of services starts has options of its own.
    let lines = readme.lines().filter(|line| !line.contains("command = "));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let options = options_in(&lines);
    assert!(options.len() >= 5, "{options:?}");
    let of_cargo = ["--release", "--path"];
    for option in options.iter().filter(|option| !of_cargo.contains(option)) {
        assert!(known.contains(option), "{option} is no option of osps");
    }
    let (_, faults) = readme.split_once("`osps client DEBUG ").expect("the faults by hand");
    let (faults, _) = faults.split_once("`.\n").expect("the end of the sentence");
    for fault in faults.split("`, `") {
        let words = ["DEBUG"].into_iter().chain(fault.split(' '));
        let words: Vec<&[u8]> = words.map(str::as_bytes).collect();
        assert!(commands::parse(&words).is_ok(), "DEBUG {fault}");
    }
    for typed in blocks("Two commands").concat().iter().filter_map(|line| typed(line)) {
        assert!(typed.starts_with("cargo run ") || typed == "cargo test", "{typed}");
    }
    let cargo = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, rust) = cargo.split_once("\nrust-version = \"").expect("the oldest Rust");
    let (rust, _) = rust.split_once('"').expect("its end");
    assert!(readme.contains(&format!("With Rust ({rust} or later)")), "Rust {rust}");
}

/// Links are followed in tests/docs.rs.
#[test]
fn every_path_of_the_readme_exists() {
    let readme = readme();
    let (_, table) = readme.split_once("\n## Where things are\n").expect("the heading");
    let paths: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(|path| root().join(path))
        .collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        assert!(path.is_dir(), "{}", path.display());
    }
}
