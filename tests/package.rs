//! What is handed out: completions, manual pages, a Debian package.
//!
//! Goal: each command and option of osps is completed by the shells and has its page; the package
//! holds everything, installs, runs and is removed without a trace. The same binary makes the same
//! files.
//!
//! Method: the shells themselves complete words, `man` renders the pages, and dpkg installs the
//! package of the binary under test into a root of its own, so that an osps of this machine is left
//! alone.
//!
//! What it cannot show: other distributions; what the maintainer scripts say to a running systemd.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use osps::cli::Cli;

use common::{BINARY, has, is_root, skip, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn done(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    output
}

fn told(command: &mut Command) -> String {
    String::from_utf8(done(command).stdout).unwrap()
}

/// Names of all commands that people see.
fn commands() -> Vec<String> {
    let command = Cli::command();
    let seen = command.get_subcommands().filter(|one| !one.is_hide_set());
    let names: Vec<_> = seen.map(|one| one.get_name().to_owned()).collect();
    assert!(names.len() >= 17, "{names:?}");
    names
}

/// The script for a shell, in a file of its own.
fn completions(shell: &str, dir: &Path) -> PathBuf {
    let script = dir.join(shell);
    let output = done(Command::new(BINARY).args(["completions", shell]));
    std::fs::write(&script, output.stdout).unwrap();
    script
}

// ---- Completions ----

/// What bash offers for `osps WORD`.
#[test]
fn bash_completes_commands_options_and_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let script = completions("bash", dir.path());
    let offered = |words: &str| {
        let last = words.split(' ').count() - 1;
        let program = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _osps osps \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let found = told(Command::new("bash").args(["--norc", "-c", &program]));
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = offered("osps s");
    for name in commands().iter().filter(|name| name.starts_with('s')) {
        assert!(all.contains(name), "{name}: {all:?}");
    }
    assert_eq!(offered("osps dri"), ["drill"]);
    assert_eq!(offered("osps drill --fa"), ["--fault"]);
    assert_eq!(offered("osps drill --fault sp"), ["spin"]);
    assert_eq!(offered("osps completions z"), ["zsh"]);
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let (zsh, fish) = (completions("zsh", dir.path()), completions("fish", dir.path()));
    let zsh_text = std::fs::read_to_string(&zsh).unwrap();
    assert!(zsh_text.starts_with("#compdef osps"), "{zsh_text}");
    for name in commands() {
        assert!(zsh_text.contains(&format!("\n'{name}:")), "{name}");
    }
    if has("zsh") {
        done(Command::new("zsh").args(["--no-rcs", "-n"]).arg(&zsh));
    } else {
        skip("zsh");
    }
    if has("fish") {
        let offers = format!("source {}; complete -C 'osps dri'", fish.display());
        let home = dir.path().join("home");
        let offered =
            told(Command::new("fish").args(["--no-config", "-c", &offers]).env("HOME", &home));
        assert!(offered.starts_with("drill\tMake faults"), "{offered:?}");
    } else {
        skip("fish");
    }
}

// ---- Manual pages ----

#[test]
fn every_command_has_a_page_that_names_its_options() {
    let [dir, again] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for dir in [&dir, &again] {
        done(Command::new(BINARY).arg("__man").arg(dir.path()));
    }
    let mut whole = Cli::command();
    whole.build();
    let has_man = has("man");
    if !has_man {
        skip("man");
    }
    let mut pages = vec![("osps".to_owned(), &whole)];
    let seen = whole.get_subcommands().filter(|one| one.get_name() != "help");
    pages.extend(seen.map(|one| (format!("osps-{}", one.get_name()), one)));
    let written = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(written, pages.len());
    for (name, command) in pages {
        let page = dir.path().join(format!("{name}.1"));
        let source = std::fs::read_to_string(&page).unwrap();
        let other = std::fs::read_to_string(again.path().join(format!("{name}.1"))).unwrap();
        assert_eq!(source, other, "{name}: twice the same");
        if !has_man {
            continue;
        }
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page);
        man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100").env("MAN_KEEP_FORMATTING", "");
        let rendered = done(&mut man);
        assert_eq!(String::from_utf8_lossy(&rendered.stderr), "", "{name}");
        let shown = String::from_utf8(rendered.stdout).unwrap();
        for option in command.get_opts().filter(|option| !option.is_hide_set()) {
            let long = format!("--{}", option.get_long().unwrap());
            assert!(shown.contains(&long), "{name}: no {long}:\n{shown}");
        }
        let about = command.get_about().unwrap().to_string();
        let first = about.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        assert!(shown.contains(&first), "{name}: no {first:?}:\n{shown}");
    }
}

/// Lines of an example keep their ends and their columns.
#[test]
fn examples_look_in_a_page_as_in_the_help() {
    if !has("man") {
        return skip("man");
    }
    let dir = tempfile::tempdir().unwrap();
    done(Command::new(BINARY).arg("__man").arg(dir.path()));
    let mut man = Command::new("man");
    man.args(["-E", "UTF-8", "-l"]).arg(dir.path().join("osps-drill.1"));
    let shown = told(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100"));
    let lines: Vec<_> = shown.lines().map(str::trim).collect();
    let example = "osps drill                              all that can be tried, after a question";
    assert!(lines.contains(&example), "{shown}");
}

// ---- The package ----

/// Every file below a directory, from there.
fn files(dir: &Path) -> Vec<String> {
    let found = told(Command::new("find").arg(dir).args(["!", "-type", "d", "-printf", "%P\\n"]));
    let mut found: Vec<_> = found.lines().map(str::to_owned).collect();
    found.sort();
    found
}

/// A package of the binary under test, made twice.
fn build(dir: &Path) -> PathBuf {
    let make = |into: &str| {
        let into = dir.join(into);
        std::fs::create_dir(&into).unwrap();
        let mut script = Command::new(root().join("packaging/deb"));
        script.arg(BINARY).arg(&into).env("DEB_COMPRESSION", "gzip");
        PathBuf::from(told(&mut script).trim_end())
    };
    let (first, second) = (make("first"), make("second"));
    let bytes = |package: &Path| std::fs::read(package).unwrap();
    assert!(bytes(&first) == bytes(&second), "the same binary makes the same package");
    first
}

#[test]
fn the_package_installs_runs_and_leaves_nothing() {
    if !has("dpkg-deb") {
        return skip("dpkg-deb");
    }
    let dir = tempfile::tempdir().unwrap();
    let package = build(dir.path());
    let field = |name: &str| {
        let mut info = Command::new("dpkg-deb");
        told(info.arg("--field").arg(&package).arg(name)).trim().to_owned()
    };
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("libc6 (>= 2."), "{}", field("Depends"));

    // A root of its own: nothing of this machine is touched.
    let there = dir.path().join("root");
    for part in ["info", "updates"] {
        std::fs::create_dir_all(there.join("var/lib/dpkg").join(part)).unwrap();
    }
    std::fs::write(there.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |args: &[&str], what: &Path| {
        let mut command = Command::new("dpkg");
        command.arg("--root").arg(&there).args(["--force-script-chrootless", "--force-depends"]);
        // Its log would be the machine's.
        command.args(["--log", "/dev/null"]).args(args).arg(what);
        if !is_root() {
            command.arg("--force-not-root");
        }
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        done(&mut command);
    };
    let before = files(&there);
    dpkg(&["--install"], &package);
    let installed: Vec<_> =
        files(&there).into_iter().filter(|file| !file.starts_with("var/")).collect();
    let pages =
        commands().iter().map(|name| format!("usr/share/man/man1/osps-{name}.1.gz")).collect();
    let mut expected: Vec<String> = pages;
    let others = [
        "usr/bin/osps",
        "usr/lib/systemd/system/osps.service",
        "usr/lib/sysusers.d/osps.conf",
        "usr/share/bash-completion/completions/osps",
        "usr/share/doc/osps/changelog.Debian.gz",
        "usr/share/doc/osps/changelog.gz",
        "usr/share/doc/osps/copyright",
        "usr/share/fish/vendor_completions.d/osps.fish",
        "usr/share/man/man1/osps.1.gz",
        "usr/share/zsh/vendor-completions/_osps",
    ];
    expected.extend(others.map(str::to_owned));
    expected.sort();
    assert_eq!(installed, expected);

    let version = told(Command::new(there.join("usr/bin/osps")).arg("--version"));
    assert_eq!(version, told(Command::new(BINARY).arg("--version")));
    let unit = std::fs::read_to_string(there.join("usr/lib/systemd/system/osps.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/osps up /etc/osps.toml\n"), "{unit}");
    assert!(!unit.contains("/usr/local"), "{unit}");
    let copyright = std::fs::read_to_string(there.join("usr/share/doc/osps/copyright")).unwrap();
    assert!(copyright.contains("License: MIT or Apache-2.0"), "{copyright}");
    assert!(copyright.contains("WITHOUT WARRANTY OF ANY KIND"), "{copyright}");

    dpkg(&["--purge"], Path::new("osps"));
    let rest = files(&there).into_iter().filter(|file| !file.starts_with("var/lib/dpkg/"));
    assert_eq!(rest.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(!there.join("usr").exists(), "not even a directory");
    assert_eq!(before, ["var/lib/dpkg/status"]);
}

/// What goes to a registry, or to `cargo install`, has what the build and the licence ask for.
#[test]
fn the_crate_has_what_it_needs() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline", "-p", "osps"]);
    let list = told(cargo.current_dir(root()));
    let files: Vec<_> = list.lines().collect();
    for needed in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "README.md", "build.rs"] {
        assert!(files.contains(&needed), "{needed}: {files:?}");
    }
    assert!(!files.iter().any(|file| file.starts_with(".ci")), "{files:?}");
    let changes = std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let newest = changes.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert!(newest.starts_with(env!("CARGO_PKG_VERSION")), "{newest}");
}
