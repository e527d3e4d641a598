//! The house rules that a machine can check.
//!
//! Goal: the floor plan stays what the folder names promise. Method: read every source file of both
//! crates and look at its `crate::` and `osps_heart::` paths, its words, its `unsafe`, and left-over
//! marks. It says nothing about taste.

use std::path::{Path, PathBuf};

/// Who may import whom, lowest first: a module imports only what stands in its list. Every module
/// of `osps` may import the heart crate, and the heart crate nothing of `osps`.
const HEART: [(&str, &[&str]); 15] = [
    ("ids", &[]),
    ("shown", &[]),
    ("time", &[]),
    ("sync", &[]),
    ("words", &[]),
    ("clock", &["time"]),
    ("pulse", &["time"]),
    ("ownership", &["ids"]),
    ("segment", &["ids", "pulse", "segment", "sync", "time", "words", "example"]),
    ("table", &["segment", "sync", "example"]),
    ("orphan", &["pulse", "segment", "sync", "time"]),
    ("heart", &["clock", "ids", "orphan", "segment", "shown", "sync", "time", "words"]),
    ("data", &["heart", "ids", "ownership", "segment", "sync", "table"]),
    ("example", &["clock", "heart", "ids", "segment", "sync", "time"]),
    ("lib", &[]),
];
const OSPS: [(&str, &[&str]); 19] = [
    ("policy", &["policy"]),
    ("sys", &["sys"]),
    ("error", &["sys"]),
    ("program", &["error"]),
    ("service", &["error", "policy", "program", "service", "sys"]),
    ("instance", &["error", "instance", "sys"]),
    ("prober", &["error", "prober", "sys"]),
    ("report", &["error", "instance", "report", "sys"]),
    ("view", &["error", "instance", "policy", "report", "sys", "view"]),
    ("top", &["error", "instance", "policy", "report", "sys", "top", "view"]),
    ("page", &["error", "instance", "page", "report", "sys", "view"]),
    ("watchdog", &["error", "instance", "policy", "report", "service", "sys", "view", "watchdog"]),
    ("drill", &["drill", "error", "instance", "policy", "service", "sys", "view"]),
    ("pair", &["error", "instance", "pair", "policy", "service", "sys"]),
    (
        "config",
        &["error", "instance", "pair", "policy", "prober", "report", "service", "sys", "watchdog"],
    ),
    ("cli", &["config", "drill", "error", "policy", "service"]),
    ("manual", &["cli", "error", "sys"]),
    ("lib", &[]),
    ("main", &[]),
];

/// The files with `unsafe`.
const UNSAFE: [&str; 2] = ["heart/src/segment/mapping.rs", "src/sys/raw.rs"];

/// Words of the pair, and who may say them: the rest of the house does not know its first tenant.
const TENANT: [&str; 3] = ["primary", "secondar", "resp"];
const TENANTS_ROOMS: [&str; 6] = [
    "src/pair/",
    "src/config/",
    "src/main.rs",
    "src/cli.rs",
    "heart/src/words.rs",
    "heart/src/ownership.rs",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Every source file of both crates: its path from the root, and its text.
fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        (name, std::fs::read_to_string(&path).expect("readable"))
    };
    let mut files = sources(&root.join("src"));
    files.extend(sources(&root.join("heart/src")));
    assert!(files.len() > 50, "the sources were not found");
    files.into_iter().map(read).collect()
}

/// The modules that a line names behind a crate's name.
fn named(line: &str, of: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in line.split(of).skip(1) {
        let rest = part.trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        found.push(rest[..end].to_owned());
    }
    found
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn modules_import_only_what_stands_below_them() {
    for (name, text) in all() {
        let (folder, arrows): (_, &[(&str, &[&str])]) = match name.strip_prefix("heart/src/") {
            Some(rest) => (rest, &HEART),
            None => (name.strip_prefix("src/").expect("in src"), &OSPS),
        };
        let module = folder.split(['/', '.']).next().unwrap_or_default();
        let (_, allowed) = arrows
            .iter()
            .find(|(known, _)| *known == module)
            .unwrap_or_else(|| panic!("{name}: no rule for {module}"));
        for line in text.lines().filter(|line| !is_comment(line)) {
            for import in named(line, "crate::") {
                let known = arrows.iter().any(|(known, _)| *known == import);
                assert!(
                    !known || allowed.contains(&import.as_str()),
                    "{name}: {module} must not know {import}: {line}"
                );
            }
        }
    }
}

#[test]
fn the_heart_crate_knows_nothing_of_osps() {
    for (name, text) in all().iter().filter(|(name, _)| name.starts_with("heart/")) {
        for line in text.lines().filter(|line| !is_comment(line)) {
            assert!(!line.contains("osps::"), "{name}: {line}");
        }
    }
}

#[test]
fn only_the_pairs_rooms_speak_of_the_pair() {
    for (name, text) in all() {
        if TENANTS_ROOMS.iter().any(|room| name.starts_with(room)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.map(str::to_ascii_lowercase) {
                let told = TENANT.iter().any(|tenant| match *tenant {
                    "resp" => word == "resp",
                    stem => word.starts_with(stem),
                });
                assert!(!told, "{name}:{}: {word}: {line}", number + 1);
            }
        }
    }
}

#[test]
fn only_main_and_config_name_the_pairs_folder() {
    for (name, text) in all() {
        let may = name.starts_with("src/pair/")
            || name.starts_with("src/config/")
            || ["src/main.rs", "src/lib.rs"].contains(&name.as_str());
        let names = text.lines().filter(|line| !is_comment(line)).any(|line| {
            named(line, "crate::").iter().chain(&named(line, "osps::")).any(|name| name == "pair")
        });
        assert!(may || !names, "{name} names the pair");
    }
}

#[test]
fn every_code_has_its_word_in_one_table() {
    // A `const NAME: u64 = 3;` beside the table would be a second place for a code.
    for (name, text) in all() {
        let allowed = ["heart/src/words.rs", "heart/src/segment/layout.rs"];
        for line in text.lines().filter(|_| !allowed.contains(&name.as_str())) {
            let words = ["DOWN", "STARTING", "UP", "LATE", "FROZEN", "KILLED", "EXITED", "VERDICT"];
            let code = words.iter().any(|word| line.contains(&format!("const {word}: u64")));
            assert!(!code, "{name}: {line}");
        }
    }
}

#[test]
fn instance_reports_and_never_kills() {
    for (name, text) in all().into_iter().filter(|(name, _)| name.starts_with("src/instance/")) {
        for word in [".kill()", ".terminate()", "kill_group", "pidfd_send_signal"] {
            assert!(!text.contains(word), "{name}: {word}");
        }
    }
}

#[test]
fn view_writes_nothing() {
    let reads = |name: &str| {
        let rooms = ["src/view/", "src/top/", "src/page/"];
        rooms.iter().any(|room| name.starts_with(room)) && !name.ends_with("tests.rs")
    };
    for (name, text) in all().into_iter().filter(|(name, _)| reads(name)) {
        for word in [".store(", ".fetch_add(", "Access::ReadWrite", ".exchange(", "push("] {
            let writes =
                text.lines().any(|line| line.contains(word) && !line.contains("text.push"));
            assert!(!writes || word == "push(", "{name}: {word}");
        }
    }
}

#[test]
fn unsafe_lives_in_two_files_and_is_argued() {
    for (name, text) in all() {
        let code = |line: &&str| !is_comment(line);
        let uses = text
            .lines()
            .filter(code)
            .filter(|line| line.contains("unsafe ") && !line.contains("unsafe_code"))
            .count();
        let argued = text.matches("// SAFETY:").count();
        if UNSAFE.contains(&name.as_str()) {
            assert!(uses > 0 && argued >= uses - 1, "{name}: {argued} arguments for {uses} uses");
        } else {
            assert_eq!(uses, 0, "{name}: unsafe belongs into {UNSAFE:?}");
        }
    }
}

#[test]
fn policy_is_without_io_clock_and_atomics() {
    for (name, text) in all().into_iter().filter(|(name, _)| name.starts_with("src/policy/")) {
        for word in [
            "std::fs",
            "std::io",
            "TcpStream",
            "TcpListener",
            "Instant",
            "SystemTime",
            "SystemClock",
            "sync::",
            "log::",
        ] {
            assert!(!text.contains(word), "{name}: {word}");
        }
    }
}

#[test]
fn nothing_is_left_lying_about() {
    for (name, text) in all() {
        for word in ["TODO", "FIXME", "XXX", "dbg!", "unimplemented!", "todo!"] {
            assert!(!text.contains(word), "{name}: {word}");
        }
        for (number, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 100, "{name}:{}: too long", number + 1);
        }
    }
}
