//! Goal: `osps logs` shows what services wrote into their files, each line with its service, whatever
//! becomes of the files and of the watchdog.
//!
//! Method: black box, `osps up`; services are shell scripts that write, or files that the test
//! writes itself.
//!
//! What it cannot show: a line that was written and cut away between two looks.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs::{self, File};
use std::io::Write;

use common::follower::Follower;
use common::{Launch, Osps};

/// Each writes its name and a number, twice, and stays.
const THREE: &str = "\
    [defaults]\nheart = 'none'\n\
    [service.db]\nlog = 'db.log'\n\
    command = ['sh', '-c', 'echo db 1; echo db 2 >&2; exec sleep 1000']\n\
    [service.web]\nlog = 'web.log'\ninstances = 2\n\
    command = ['sh', '-c', 'echo web 1; echo web 2; exec sleep 1000']\n\
    [service.silent]\ncommand = ['sleep', '1000']\n";

fn three() -> Osps {
    let osps = Launch::up(THREE).spawn();
    osps.wait_lines("db.log", 2);
    osps.wait_lines("web.log", 4);
    osps
}

fn append(osps: &Osps, file: &str, text: &str) {
    let mut file = File::options().append(true).create(true).open(osps.dir().join(file)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn lines_have_their_services_and_a_service_may_be_chosen() {
    let osps = three();
    let all = osps.do_ask(&["logs"]);
    assert!(all.starts_with("db  | db 1\ndb  | db 2\nweb | web "), "{all}");
    assert_eq!(all.lines().count(), 6);
    assert_eq!(osps.do_ask(&["logs", "db"]), "db | db 1\ndb | db 2\n");
    assert_eq!(osps.do_ask(&["logs", "-n", "1", "db"]), "db | db 2\n");
    // Both instances write into one file, so nobody knows whose line it is.
    assert_eq!(osps.do_ask(&["logs", "web"]).lines().filter(|l| l.starts_with("web |")).count(), 4);
    assert_eq!(osps.do_ask(&["logs", "db", "web"]), all);
}

#[test]
fn an_end_without_a_line_end_is_shown_as_well() {
    let osps = three();
    append(&osps, "db.log", "db 3\nlast words");
    assert_eq!(osps.do_ask(&["logs", "db"]), "db | db 1\ndb | db 2\ndb | db 3\ndb | last words\n");
}

#[test]
fn who_has_no_log_and_who_is_not_there_is_told_so() {
    let osps = three();
    let (code, said) = osps.ask_for(&["logs", "nobody"]);
    assert!(code == 1 && said.contains("nobody") && said.contains("db, web, silent"), "{said}");
    let (code, said) = osps.ask_for(&["logs", "silent"]);
    assert!(code == 1 && said.contains("silent without a `log`"), "{said}");
    let said = osps.do_ask(&["logs", "db", "silent"]);
    assert!(said.contains("silent without a `log`") && said.contains("db | db 2\n"), "{said}");
    let run = Launch::own(&["--heart", "none"], &["sleep", "1000"]).start();
    let (code, said) = run.ask_for(&["logs"]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn what_comes_is_followed_over_a_cut_and_a_replacement() {
    let osps = three();
    let follower = Follower::of(&osps, &["logs", "--follow", "-n", "1"]);
    follower.wait("db  | db 2");
    append(&osps, "db.log", "later\nhal");
    follower.wait("db  | later");
    append(&osps, "db.log", "f\n");
    follower.wait("db  | half");
    append(&osps, "web.log", "from the web\n");
    follower.wait("web | from the web");
    // As logrotate's copytruncate does.
    File::options().write(true).open(osps.dir().join("db.log")).unwrap().set_len(0).unwrap();
    append(&osps, "db.log", "cut\n");
    follower.wait("db  | cut");
    // As logrotate does otherwise; what was written into the old one until then is not lost.
    append(&osps, "db.log", "last of the old\nwithout an end");
    fs::rename(osps.dir().join("db.log"), osps.dir().join("db.log.1")).unwrap();
    append(&osps, "db.log", "first of the new\n");
    follower.wait("db  | last of the old");
    follower.wait("db  | without an end");
    follower.wait("db  | first of the new");
    fs::remove_file(osps.dir().join("web.log")).unwrap();
    append(&osps, "web.log", "from another file\n");
    follower.wait("web | from another file");
    assert_eq!(follower.count("db  | db 1"), 0, "only the last line was asked for");
    for line in ["db  | db 2", "db  | later", "db  | half", "db  | cut", "db  | first of the new"] {
        assert_eq!(follower.count(line), 1, "{line}");
    }
}

#[test]
fn a_log_that_is_not_there_yet_is_followed_from_its_beginning() {
    let osps = three();
    fs::remove_file(osps.dir().join("db.log")).unwrap();
    let follower = Follower::of(&osps, &["logs", "--follow", "db", "web"]);
    follower.wait("web | web 2");
    append(&osps, "db.log", "here\n");
    follower.wait("db  | here");
}

#[test]
fn logs_are_shown_and_followed_without_a_watchdog() {
    let mut osps = three();
    let follower = Follower::of(&osps, &["logs", "--follow", "db"]);
    follower.wait("db | db 2");
    osps.kill_watchdog();
    append(&osps, "db.log", "without a watchdog\n");
    follower.wait("db | without a watchdog");
    let said = osps.do_ask(&["logs", "db"]);
    assert!(said.ends_with("db | without a watchdog\n"), "{said}");
}

#[test]
fn services_of_a_reload_are_known_at_once() {
    let osps = three();
    osps.write(&THREE.replace("[service.silent]", "[service.silent]\nlog = 'silent.log'"));
    osps.do_ask(&["reload"]);
    append(&osps, "silent.log", "no more\n");
    assert_eq!(osps.do_ask(&["logs", "silent"]), "silent | no more\n");
}
