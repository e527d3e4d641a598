//! The page, in a real browser.
//!
//! Goal: a person sees what is so: beats as spikes, a freeze as a flat line in red with a mark and its
//! cause, a frozen watchdog with what to do; in light and dark, on a telephone and a wide screen, by
//! keyboard, with little motion where that is wanted, and without scripts; nothing is asked of
//! anybody else, and the browser has nothing to complain about.
//!
//! Method: tests/browser/look.js drives Debian's Chromium, and looks at the pixels of the drawn
//! traces. Pictures are left in the build directory (`target/browser`), to be looked at.
//!
//! What it cannot show: taste; browsers of other makers.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "what it found")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{BINARY, Guest, Launch, has, skip};

#[test]
fn a_person_sees_what_is_so() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/clients/node/node_modules");
    if !has("/usr/bin/chromium") || !has("node") || !modules.join("playwright-core").exists() {
        return skip("the page in a browser: chromium, node, and npm's playwright-core");
    }
    let pictures = root.join("target/browser");
    std::fs::create_dir_all(&pictures).unwrap();
    let osps = Launch::pair(&["--hang-timeout", "3s", "--name", "shop"]).start();
    let mut page = Command::new(BINARY);
    page.args(["page", "--listen", "127.0.0.1:0", "--run-dir"]).arg(osps.run_dir());
    let mut page = page.env_remove("RUST_LOG").stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(page.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let _page = Guest(page);
    let mut look = Command::new("node");
    look.arg(root.join("tests/browser/look.js")).arg(url.trim()).arg(osps.pid(1).to_string());
    look.arg(osps.watchdog_pid().to_string()).arg(&pictures).env("NODE_PATH", modules);
    look.env("REPORTS", "1");
    let output = look.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{said}");
}
