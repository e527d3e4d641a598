//! The house rules that a machine can check.
//!
//! Goal: the floor plan stays what the folder names promise. Method: read every source file and
//! look at its `use crate::` lines, its `unsafe`, and left-over marks. It cannot see a path that is
//! spelled out in an expression across lines, and says nothing about taste.

use std::path::{Path, PathBuf};

/// Who may import whom, lowest first: a module imports only what stands in its list.
const ARROWS: [(&str, &[&str]); 14] = [
    ("ids", &[]),
    ("time", &[]),
    ("sync", &[]),
    ("segment", &["ids", "time", "sync", "segment"]),
    ("policy", &["ids", "time", "policy"]),
    ("wire", &["ids"]),
    ("sys", &["ids", "time", "sync", "sys"]),
    ("store", &["segment", "store", "sync"]),
    ("config", &["policy", "segment"]),
    ("cli", &["config", "policy"]),
    (
        "role",
        &["ids", "time", "sync", "segment", "policy", "wire", "sys", "store", "config", "role"],
    ),
    ("example", &["ids", "role", "segment", "sys", "time"]),
    ("lib", &["role"]),
    ("main", &[]),
];

/// The two files with `unsafe`.
const UNSAFE: [&str; 2] = ["segment/mapping.rs", "sys/raw.rs"];

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

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below src").display().to_string();
        (name, std::fs::read_to_string(&path).expect("readable"))
    };
    let files: Vec<_> = sources(&root).into_iter().map(read).collect();
    assert!(files.len() > 30, "the sources were not found");
    files
}

/// The top-level modules that a line imports from this crate.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in line.split("crate::").skip(1) {
        let rest = part.trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        found.push(rest[..end].to_owned());
    }
    found
}

#[test]
fn modules_import_only_what_stands_below_them() {
    for (name, text) in all() {
        let module = name.split(['/', '.']).next().unwrap_or_default();
        let (_, allowed) = ARROWS
            .iter()
            .find(|(known, _)| *known == module)
            .unwrap_or_else(|| panic!("{name}: no rule for {module}"));
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for import in imports(line) {
                let known = ARROWS.iter().any(|(known, _)| *known == import);
                assert!(
                    !known || allowed.contains(&import.as_str()),
                    "{name}: {module} must not know {import}: {line}"
                );
            }
        }
    }
}

#[test]
fn unsafe_lives_in_two_files_and_is_argued() {
    for (name, text) in all() {
        let code = |line: &&str| !line.trim_start().starts_with("//");
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
    for (name, text) in all().into_iter().filter(|(name, _)| name.starts_with("policy/")) {
        for word in [
            "std::fs",
            "std::io",
            "TcpStream",
            "TcpListener",
            "Instant",
            "SystemTime",
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
