//! Goal: a reload changes what the file changed and nothing else: who is the same keeps its process,
//! clients are not refused meanwhile, a file that cannot be read changes nothing.
//!
//! Method: black box, `osps up` and a file that is written anew. This test binary is the supervised
//! program as well (`as_program`), beside shell scripts. What happened when is read from the event
//! ring.
//!
//! What it cannot show: every pair of files (`service::diff` and `Group::edit` have tests of their
//! own); a file system that hangs, but for a FIFO in its place.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use osps::sys::procfs;
use osps_heart::sync::Word;
use osps_heart::words::{Event, HeartSource, State};

use common::services::{act, of, slot_in, state_of, who_serves};
use common::{Launch, Osps, Over, Signal, Talk, ms, now, pass, process_of, run};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

fn up(text: &str, names: &[&str]) -> Osps {
    let osps = Launch::up(text).spawn();
    osps.wait_up(names);
    osps
}

/// Each keeps its process and goes on beating.
struct Untouched<'a> {
    osps: &'a Osps,
    names: Vec<&'static str>,
    lives: Vec<(u32, u32)>,
}

impl<'a> Untouched<'a> {
    fn of(osps: &'a Osps, names: &[&'static str]) -> Untouched<'a> {
        let lives = names.iter().map(|name| osps.life(name)).collect();
        Untouched { osps, names: names.to_vec(), lives }
    }

    #[track_caller]
    fn check(&self) {
        for (name, life) in self.names.iter().zip(&self.lives) {
            assert_eq!(self.osps.life(name), *life, "{name}\n{}", self.osps.log());
            self.osps.wait_beats(name);
            assert_eq!(self.osps.happened(name, Event::Verdict), [], "{name}");
        }
    }
}

// ---- What changes ----

#[test]
fn the_same_file_changes_nothing() {
    let text = "[service.a]\n@BEAT@\nlisten = '127.0.0.1:0'\n[service.b]\n@BEAT@\ninstances = 2\n";
    let osps = up(text, &["a", "b-1", "b-2"]);
    let same = Untouched::of(&osps, &["a", "b-1", "b-2"]);
    let address = osps.address(osps.slot("a"));
    for _ in 0..3 {
        let said = osps.do_ask(&["reload"]);
        assert_eq!(said, "reloaded: 3 unchanged\nreload done\n");
    }
    same.check();
    assert_eq!(osps.address(osps.slot("a")), address);
}

#[test]
fn the_unchanged_stay_the_changed_restart_in_order_the_new_start_and_the_removed_stop() {
    let osps = up(
        "[service.stays]\n@BEAT@\n[service.db]\n@SLOW@\n\
         [service.web]\n@SLOW@\ndepends-on = ['db']\n[service.old]\n@BEAT@\n",
        &["stays", "web", "old"],
    );
    let same = Untouched::of(&osps, &["stays"]);
    let old = osps.process(osps.slot("old"));
    osps.write(
        "[service.stays]\n@BEAT@\ndepends-on = ['new']\n[service.db]\n@SLOW@\numask = '027'\n\
         [service.web]\n@SLOW@\numask = '027'\ndepends-on = ['db']\n[service.new]\n@BEAT@\n",
    );
    let said = osps.do_ask(&["reload"]);
    assert!(
        said.starts_with(
            "reloaded: 2 changed (db, web), 1 new (new), 1 removed (old), 1 unchanged\n"
        ),
        "{said}"
    );
    assert!(said.ends_with("reload done\n"), "{said}");
    same.check();
    assert!(old.is_dead());
    assert_eq!(slot_in(&osps.segment(), "old"), None);
    osps.wait_up(&["new", "db", "web"]);
    let one = |name, event, place: usize| osps.happened(name, event)[place].time;
    assert!(one("web", Event::Died, 0) <= one("db", Event::StopOrder, 0), "{}", osps.log());
    assert!(one("db", Event::Up, 1) <= one("web", Event::Started, 1), "{}", osps.log());
    // Its edge is another now, its process is not.
    osps.wait_log(&["old", "removed: its service is not in the file any more"]);
    let mut osps = osps;
    osps.stop();
}

#[test]
fn a_slot_of_a_removed_service_is_used_again_and_begins_anew() {
    let osps = up("[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n", &["a", "b"]);
    let (slot, old) = (osps.slot("b"), osps.generation(osps.slot("b")));
    osps.signal(&osps.process(slot), Signal::KILL);
    osps.wait_happened("b", Event::Up, 2);
    osps.write("[service.a]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    osps.write("[service.c]\n@BEAT@\n[service.a]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    assert_eq!(osps.slot("c"), slot);
    assert!(osps.generation(slot) > old + 1, "a generation is nobody else's");
    assert_eq!(osps.restarts(slot), common::NO_RESTARTS);
    assert!(osps.service("c")["last_cause"].is_null());
    // It is judged like any other one.
    osps.write("[service.c]\n@BEAT@\nhang-timeout = '600ms'\n[service.a]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    osps.stop_process(&osps.process(slot));
    osps.wait_happened("c", Event::Verdict, 1);
    osps.wait_happened("c", Event::Up, 2);
}

#[test]
fn instances_come_and_go() {
    let text = |count| format!("[service.web]\n@BEAT@\ninstances = {count}\n");
    let osps = up(&text(2), &["web-1", "web-2"]);
    let same = Untouched::of(&osps, &["web-1", "web-2"]);
    osps.write(&text(4));
    osps.do_ask(&["reload"]);
    assert_eq!(["web-3", "web-4"].map(|name| state_of(&osps, name)), [Some(State::Up); 2]);
    osps.write(&text(2));
    osps.do_ask(&["reload"]);
    assert_eq!(["web-3", "web-4"].map(|name| state_of(&osps, name)), [None; 2]);
    same.check();
}

#[test]
fn a_service_that_does_not_come_up_is_told_and_the_others_are_there() {
    let osps = up("[service.a]\n@BEAT@\n", &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write("[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n[service.bad]\ncommand = 'false'\n");
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("bad is backoff: see the log"), "{code} {said}");
    // Nothing was refused: what was asked for is done.
    assert!(said.ends_with("\nosps: bad is backoff: see the log\n"), "{said}");
    assert_eq!(state_of(&osps, "b"), Some(State::Up));
    same.check();
}

#[test]
fn who_was_stopped_stays_so_over_a_reload_that_changes_it() {
    let osps = up("[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n", &["a", "b"]);
    osps.do_ask(&["stop", "b"]);
    osps.write("[service.a]\n@BEAT@\n[service.b]\n@BEAT@\numask = '077'\n");
    osps.do_ask(&["reload"]);
    assert_eq!(state_of(&osps, "b"), Some(State::Down));
    osps.do_ask(&["start", "b"]);
    assert_eq!(osps.happened("b", Event::Started).len(), 2);
    osps.do_ask(&["reload"]);
}

/// Who reads the file is ended as soon as it has answered: its warnings were lost with it.
#[test]
fn what_the_machine_lacks_is_told_and_the_others_are_reloaded() {
    let osps = up("[service.a]\n@BEAT@\n", &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write(
        "[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n[service.none]\ncommand = 'no-such-program'\n\
         [service.nowhere]\n@BEAT@\ndirectory = '@DIR@/nowhere'\ninstances = 2\n",
    );
    let (code, said) = osps.ask_for(&["reload"]);
    assert_eq!(code, 1, "{said}");
    for told in ["none: cannot run no-such-program: ", "nowhere: there is no directory "] {
        assert_eq!(said.matches(told).count(), 1, "{told} {said}");
        osps.wait_log(&["WARN", "reload: ", told]);
    }
    assert!(said.contains("none is backoff: see the log"), "{said}");
    assert_eq!(state_of(&osps, "b"), Some(State::Up));
    same.check();
}

#[test]
fn keys_at_the_top_that_changed_are_told_and_take_a_new_start() {
    let text = "check-interval = '2s'\nquiet = false\n[service.a]\n@BEAT@\n";
    let osps = up(text, &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    // A default that is said, or is not said any more, is the same; so is what an option overrules.
    osps.write("run-dir = '/dev/shm/elsewhere'\norphan-timeout = '30s'\n[service.a]\n@BEAT@\n");
    assert_eq!(osps.do_ask(&["reload"]), "reloaded: 1 unchanged\nreload done\n");
    osps.write("check-interval = '1s'\n[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n");
    let told = "check-interval is another now: that takes a new start";
    let said = osps.do_ask(&["reload"]);
    assert!(said.contains(&format!("osps: {told}\n")), "{said}");
    osps.wait_log(&["WARN", told]);
    assert_eq!(state_of(&osps, "b"), Some(State::Up));
    osps.write("name = 'x'\nslots = 9\nquiet = true\n[service.a]\n@BEAT@\n");
    let said = osps.do_ask(&["reload"]);
    assert!(said.contains("osps: name, quiet, slots are others now: that takes a"), "{said}");
    same.check();
}

/// Takes a second and a half to leave, and shows which text it has.
fn lingers(text: &str) -> String {
    format!(
        "[service.slow]\nheart = 'none'\nenv = {{ TEXT = '{text}' }}\nstop-timeout = '1500ms'\n\
         command = ['sh', '-c', 'trap \"\" TERM; echo $TEXT >> @DIR@/texts; \
         while :; do sleep 0.02; done']\n"
    )
}

#[test]
fn a_service_that_changes_while_it_is_being_stopped_keeps_no_later_reload_waiting() {
    let osps = up(&lingers("one"), &["slow"]);
    let mut stop = osps.begin_ask(&["stop", "slow"]);
    osps.wait_state("slow", State::Stopping);
    osps.write(&lingers("two"));
    osps.do_ask(&["reload"]);
    assert_eq!(stop.wait().code(), Some(0));
    assert_eq!(state_of(&osps, "slow"), Some(State::Down));
    // Nothing is left of the first one: this one is not refused.
    osps.do_ask(&["reload"]);
    osps.do_ask(&["start", "slow"]);
    assert_eq!(osps.wait_lines("texts", 2), "one\ntwo\n");
}

/// `osps start` of it said that it was up.
#[test]
fn what_a_reload_removed_is_not_started_while_it_still_leaves() {
    let osps = up(&format!("{}[service.web]\n@BEAT@\n", lingers("one")), &["slow", "web"]);
    osps.write("[service.web]\n@BEAT@\n");
    let mut reload = osps.begin_ask(&["reload"]);
    osps.wait_state("slow", State::Stopping);
    for verb in ["start", "restart"] {
        let (code, said) = osps.ask_for(&[verb, "slow"]);
        assert!(code == 1 && said.contains("slow is not in the file any more"), "{code} {said}");
    }
    assert_eq!(reload.wait().code(), Some(0));
}

// ---- What is refused ----

#[test]
fn a_file_that_is_wrong_half_written_or_gone_changes_nothing_and_is_told() {
    let text = "[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n";
    let osps = up(text, &["a", "b"]);
    let same = Untouched::of(&osps, &["a", "b"]);
    let path = osps.dir().join("osps.toml");
    for (wrong, says) in [
        ("[service.a]\n@BEAT@\nhang-timeout = 4\n", "osps.toml:5:16: service.a.hang-timeout"),
        ("[service.a]\ncommand = 'x'\ndepends-on = ['b']\n", "osps.toml:3:"),
        ("[service.a]\n@BEAT@\n[service.b]\ncomm", "osps.toml:6:"),
        ("[service.a]\n@BEAT@\n[service.", "osps.toml:5:"),
        ("", "osps.toml"),
    ] {
        osps.write(wrong);
        let (code, said) = osps.ask_for(&["reload"]);
        assert!(code == 1 && said.contains(says), "{wrong:?}: {code} {said}");
        assert!(said.ends_with("refused: nothing was changed\n"), "{said}");
        let output = osps.command(&["reload"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "a mistake is an error");
    }
    fs::remove_file(&path).unwrap();
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("osps.toml") && said.contains("o such file"), "{said}");
    fs::create_dir(&path).unwrap();
    assert_eq!(osps.ask_for(&["reload"]).0, 1);
    fs::remove_dir(&path).unwrap();
    osps.write("[service.a]\n@BEAT@\nhang-timeout = 4\n");
    osps.signal_watchdog(Signal::HUP);
    osps.wait_log(&["reload: ", "service.a.hang-timeout"]);
    osps.wait_log(&["reload: nothing was changed"]);
    same.check();
    osps.write(text);
    assert_eq!(osps.do_ask(&["reload"]), "reloaded: 2 unchanged\nreload done\n");
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let osps = Launch::this(&[]).env(common::services::PART, "beat").start();
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("was not started from a file"), "{said}");
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let text = |count| format!("slots = 4\n[service.a]\n@BEAT@\ninstances = {count}\n");
    let osps = up(&text(3), &["a-1", "a-2", "a-3"]);
    let same = Untouched::of(&osps, &["a-1", "a-2", "a-3"]);
    for slots in [4, 5] {
        osps.write(&text(5).replace("slots = 4", &format!("slots = {slots}")));
        let (code, said) = osps.ask_for(&["reload"]);
        let why = ["5 services do not fit into 4 slots", "there is room for 4 services at a time"];
        assert!(code == 1 && said.contains(why[slots - 4]), "{said}");
        assert!(said.ends_with("nothing was changed\n"), "{said}");
    }
    assert_eq!(slot_in(&osps.segment(), "a-4"), None);
    osps.write(&text(4));
    osps.do_ask(&["reload"]);
    same.check();
}

#[test]
fn sixty_four_services_run_and_the_sixty_fifth_is_refused() {
    let text = |count| {
        let sleep = "command = ['sleep', '1000']\nheart = 'none'\n";
        format!("[service.a]\n{sleep}instances = {count}\n")
    };
    let osps = Launch::up(&text(64)).spawn();
    osps.wait_up(&["a-1", "a-64"]);
    osps.wait_all_up();
    osps.write(&format!("slots = 65\n{}", text(65)));
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("room for 64 services"), "{said}");
    // One instance alone would have another name, and there is no room for one more.
    osps.write(&text(2));
    let said = osps.do_ask(&["reload", "-q"]);
    assert_eq!(said, "");
    osps.write(&text(64));
    osps.do_ask(&["reload", "-q"]);
    assert_eq!(state_of(&osps, "a-64"), Some(State::Up));
}

#[test]
fn a_reload_while_the_last_one_is_carried_out_is_refused_and_says_for_whom_that_waits() {
    let osps = up(&(lingers("one") + "[service.a]\n@BEAT@\n"), &["slow", "a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write(&(lingers("two") + "[service.a]\n@BEAT@\n"));
    let mut first = osps.begin_ask(&["reload"]);
    osps.wait_state("slow", State::Stopping);
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("the last reload still waits for slow to stop"), "{said}");
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(osps.wait_lines("texts", 2), "one\ntwo\n");
    osps.do_ask(&["reload"]);
    same.check();
}

#[test]
fn a_stop_during_a_reload_is_the_end_of_both() {
    let mut osps = up(&(lingers("one") + "[service.a]\n@BEAT@\n"), &["slow", "a"]);
    osps.write(&(lingers("two") + "[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n"));
    let mut reload = osps.begin_ask(&["reload"]);
    osps.wait_state("slow", State::Stopping);
    let segment = osps.segment();
    let slow = osps.slot("slow");
    osps.stop();
    assert_eq!(reload.wait().code(), Some(1));
    assert_eq!(of(&segment, slow, Event::Started).len(), 1, "it came back into a stop");
    assert_eq!(fs::read_to_string(osps.dir().join("texts")).unwrap(), "one\n");
}

#[test]
fn a_reload_in_the_midst_of_a_rolling_restart_and_both_come_to_their_end() {
    let text = |mask| {
        format!("[service.web]\n@SLOW@\ninstances = 3\numask = '{mask}'\n[service.a]\n@BEAT@\n")
    };
    let names = ["web-1", "web-2", "web-3"];
    let osps = up(&text("022"), &["web-1", "web-2", "web-3", "a"]);
    let same = Untouched::of(&osps, &["a"]);
    let mut restart = osps.begin_ask(&["restart", "web"]);
    osps.wait_state("web-1", State::Stopping);
    osps.write(&text("027"));
    osps.do_ask(&["reload"]);
    assert_eq!(restart.wait().code(), Some(0));
    for name in names {
        assert_eq!(state_of(&osps, name), Some(State::Up));
        let status = fs::read_to_string(format!("/proc/{}/status", osps.life(name).0)).unwrap();
        assert!(status.contains("Umask:\t0027\n"), "{name}: {status}");
    }
    same.check();
    // And the other way round: one that is to be restarted is removed.
    let mut restart = osps.begin_ask(&["restart", "web"]);
    osps.wait_state("web-1", State::Stopping);
    osps.write(&text("027").replace("instances = 3", "instances = 2"));
    osps.do_ask(&["reload"]);
    assert_eq!(restart.wait().code(), Some(0));
    assert_eq!(names.map(|name| state_of(&osps, name)), [Some(State::Up), Some(State::Up), None]);
    same.check();
}

#[test]
fn hang_up_reads_the_file_again() {
    let osps = up("[service.a]\n@BEAT@\n", &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write("[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n");
    osps.signal_watchdog(Signal::HUP);
    osps.wait_state("b", State::Up);
    osps.wait_log(&["SIGHUP: reading the file again"]);
    osps.wait_log(&["INFO", "reload done"]);
    same.check();
}

/// So long may the reading of a file take.
const READING: Duration = Duration::from_secs(10);

#[test]
fn a_file_that_hangs_is_given_up_while_everybody_is_judged() {
    let text = "[defaults]\nhang-timeout = '800ms'\n[service.a]\n@BEAT@\n[service.b]\n@BEAT@\n";
    let osps = up(text, &["a", "b"]);
    let same = Untouched::of(&osps, &["a"]);
    let path = osps.dir().join("osps.toml");
    fs::remove_file(&path).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    mkfifo.arg(&path);
    assert!(run(mkfifo).status.success());
    let asked = now();
    let mut reload = osps.begin_ask(&["reload"]);
    osps.wait_log(&["reload asked for by"]);
    let loader = osps.wait("who reads", || {
        let pid = osps.watchdog_pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let is_it = |pid: &u32| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("__load")
        };
        let pid = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).find(is_it);
        process_of(pid?)
    });
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("another reload is under way"), "{said}");
    osps.stop_process(&osps.process(osps.slot("b")));
    let verdict = osps.wait_happened("b", Event::Verdict, 1);
    osps.wait_happened("b", Event::Up, 2);
    assert!(!loader.is_dead() && verdict.time.since(asked) < READING, "it was not meanwhile");
    let status = reload.wait();
    assert_eq!(status.code(), Some(1));
    assert!(now().since(asked) >= READING);
    osps.wait_log(&["reload: reading the file took longer than 10s"]);
    osps.wait("the end of who read", || loader.is_dead().then_some(()));
    fs::remove_file(&path).unwrap();
    osps.write(text);
    osps.do_ask(&["reload"]);
    same.check();
}

#[test]
fn a_stop_while_a_file_hangs_leaves_nobody_behind() {
    let mut osps = up("[service.a]\n@BEAT@\n", &["a"]);
    let path = osps.dir().join("osps.toml");
    fs::remove_file(&path).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    mkfifo.arg(&path);
    assert!(run(mkfifo).status.success());
    osps.signal_watchdog(Signal::HUP);
    let file = path.to_str().unwrap().to_owned();
    let readers = || {
        let pids = procfs::processes().into_iter().map(|stat| stat.pid);
        let reads = |pid: &u32| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("__load") && words.contains(&file)
        };
        pids.filter(reads).filter_map(process_of).collect::<Vec<_>>()
    };
    let found = osps.wait("who reads", || Some(readers()).filter(|found| !found.is_empty()));
    osps.stop();
    assert!(found.iter().all(osps::sys::process::Process::is_dead), "it reads for ever");
}

// ---- Live changes ----

#[test]
fn a_new_limit_of_a_program_that_beats_in_memory_holds_at_once_for_the_same_process() {
    let text = |limit| format!("[service.a]\n@BEAT@\nhang-timeout = '{limit}'\n");
    let osps = up(&text("1h"), &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write(&text("700ms"));
    assert_eq!(osps.do_ask(&["reload"]), "reloaded: 1 unchanged\nreload done\n");
    same.check();
    osps.stop_process(&osps.process(osps.slot("a")));
    let last_beat = osps.segment().hearts()[osps.slot("a")].sample().stamp;
    let verdict = osps.wait_happened("a", Event::Verdict, 1);
    assert!(verdict.time.since(last_beat) >= ms(700), "before its limit\n{}", osps.log());
    osps.wait_log(&["-> frozen (stopped", "limit 700ms"]);
    // And a longer one: who is silent by now gets all of it.
    osps.wait_happened("a", Event::Up, 2);
    osps.write(&text("1h"));
    osps.do_ask(&["reload"]);
    osps.stop_process(&osps.process(osps.slot("a")));
    pass(ms(2000));
    assert_eq!(osps.happened("a", Event::Verdict).len(), 1);
}

#[test]
fn a_heart_that_becomes_a_probe_and_memory_again_restarts_and_is_judged_by_the_right_one() {
    let memory = "[defaults]\nhang-timeout = '900ms'\n[service.a]\n@BEAT@\n";
    let probe = "[defaults]\nhang-timeout = '900ms'\n[service.a]\ncommand = ['sleep', '1000']\n\
                 heart = 'probe:test -e @DIR@/good'\n";
    let osps = up(memory, &["a"]);
    let heart = || osps.service("a")["heart"].as_str().map(str::to_owned);
    assert_eq!(heart().as_deref(), Some(HeartSource::Memory.word()));
    fs::write(osps.dir().join("good"), "").unwrap();
    osps.write(probe);
    let said = osps.do_ask(&["reload"]);
    assert!(said.starts_with("reloaded: 1 changed (a)"), "{said}");
    assert_eq!(osps.happened("a", Event::Started).len(), 2);
    assert_eq!(heart().as_deref(), Some(HeartSource::Probe.word()));
    osps.wait_beats("a");
    fs::remove_file(osps.dir().join("good")).unwrap();
    osps.wait_happened("a", Event::Verdict, 1);
    fs::write(osps.dir().join("good"), "").unwrap();
    osps.wait_happened("a", Event::Up, 3);
    osps.write(memory);
    osps.do_ask(&["reload"]);
    assert_eq!(heart().as_deref(), Some(HeartSource::Memory.word()));
    // The probe's word counts no more.
    fs::remove_file(osps.dir().join("good")).unwrap();
    let same = Untouched::of(&osps, &["a"]);
    pass(ms(2000));
    assert_eq!(osps.happened("a", Event::Verdict).len(), 1);
    assert_eq!(osps.life("a"), same.lives[0]);
    osps.wait("nobody probes any more", || {
        let pid = osps.watchdog_pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let probes = children.split_ascii_whitespace().any(|pid| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("__probe")
        });
        (!probes).then_some(())
    });
}

// ---- Sockets ----

#[test]
fn no_client_is_refused_while_its_service_is_replaced() {
    let text = |number| {
        format!("[service.web]\n@SERVE@\numask = '0{number}7'\nlisten = ['127.0.0.1:0']\n")
    };
    let osps = up(&text(0), &["web"]);
    let address = osps.address(osps.slot("web"));
    let (talk, served) = (Talk::default(), Word::new(0));
    std::thread::scope(|scope| {
        let over = Over(&talk.over);
        scope.spawn(|| {
            while !talk.is_over() {
                match who_serves(address) {
                    Ok(_) => served.store(served.load(ORDER) + 1, ORDER),
                    // The one that was being served goes with its server.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                        talk.complain(format!("refused: {error}"));
                    }
                    Err(_) => {}
                }
            }
        });
        let mut pids = BTreeSet::new();
        for number in 1..6 {
            osps.write(&text(number));
            osps.do_ask(&["reload"]);
            let before = served.load(ORDER);
            osps.wait("clients are served", || (served.load(ORDER) > before).then_some(()));
            pids.insert(osps.pid(osps.slot("web")));
        }
        assert_eq!(pids.len(), 5);
        drop(over);
    });
    assert_eq!(*talk.wrong.lock().unwrap(), [""; 0]);
    assert_eq!(osps.address(osps.slot("web")), address, "port 0 stays what it was");
}

const ORDER: osps_heart::sync::Ordering = osps_heart::sync::Ordering::SeqCst;

#[test]
fn an_address_moves_from_one_service_to_another_without_a_gap() {
    let port = common::free_port();
    let with = format!("@SERVE@\nlisten = '127.0.0.1:{port}'\n");
    let osps =
        up(&format!("[service.a]\n{with}[service.b]\n@BEAT@\n[service.c]\n@BEAT@\n"), &["a", "b"]);
    let address = osps.address(osps.slot("a"));
    let same = Untouched::of(&osps, &["c"]);
    osps.write(&format!("[service.a]\n@BEAT@\n[service.b]\n{with}[service.c]\n@BEAT@\n"));
    osps.do_ask(&["reload"]);
    assert_eq!(who_serves(address).unwrap(), osps.pid(osps.slot("b")));
    // To one that is new, while its last holder goes away altogether.
    osps.write(&format!("[service.d]\n{with}[service.a]\n@BEAT@\n[service.c]\n@BEAT@\n"));
    osps.do_ask(&["reload"]);
    assert_eq!(who_serves(address).unwrap(), osps.pid(osps.slot("d")));
    // To nobody: now clients are refused, and somebody else may have it.
    osps.write("[service.a]\n@BEAT@\n[service.c]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    assert!(who_serves(address).is_err());
    std::net::TcpListener::bind(address).unwrap();
    same.check();
}

#[test]
fn an_address_that_is_in_use_changes_nothing_and_leaves_no_socket() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let osps = up("[service.a]\n@BEAT@\n", &["a"]);
    let same = Untouched::of(&osps, &["a"]);
    osps.write(&format!(
        "[service.a]\n@BEAT@\n[service.b]\n@BEAT@\nlisten = ['unix:@DIR@/b.sock', '{}']\n",
        taken.local_addr().unwrap()
    ));
    let (code, said) = osps.ask_for(&["reload"]);
    assert!(code == 1 && said.contains("in use"), "{code} {said}");
    assert!(said.contains("choose another address for b (key `listen` of a file"), "{said}");
    assert!(!osps.dir().join("b.sock").exists(), "a socket of nobody stayed");
    same.check();
}

/// It said that another program listens there, and which option chooses another address.
#[test]
fn an_address_in_the_way_of_one_that_osps_holds_is_told_with_what_that_takes() {
    let port = common::free_port();
    let with = |ip: &str| format!("[service.web]\n@SERVE@\nlisten = '{ip}:{port}'\n");
    let osps = up(&with("127.0.0.1"), &["web"]);
    let same = Untouched::of(&osps, &["web"]);
    osps.write(&with("0.0.0.0"));
    let (code, said) = osps.ask_for(&["reload"]);
    let held = format!("osps itself holds 127.0.0.1:{port} for web");
    assert!(code == 1 && said.contains(&held), "{code} {said}");
    same.check();
    // What it advises does it.
    osps.write("[service.web]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    osps.write(&with("0.0.0.0"));
    osps.do_ask(&["reload"]);
    assert_eq!(who_serves(([127, 0, 0, 1], port).into()).unwrap(), osps.pid(osps.slot("web")));
}

#[test]
fn a_unix_socket_goes_with_its_service_and_a_later_one_of_somebody_else_stays() {
    let mut osps = up(
        "[service.a]\n@BEAT@\nlisten = 'unix:@DIR@/a.sock'\n\
         [service.b]\n@BEAT@\nlisten = ['unix:@DIR@/b.sock', 'unix:@DIR@/c.sock']\n",
        &["a", "b"],
    );
    let [a, b, c] = ["a.sock", "b.sock", "c.sock"].map(|name| osps.dir().join(name));
    osps.write("[service.b]\n@BEAT@\nlisten = ['unix:@DIR@/c.sock']\n[service.n]\n@BEAT@\n");
    osps.do_ask(&["reload"]);
    assert!(!a.exists() && !b.exists(), "sockets of nobody stayed");
    UnixStream::connect(&c).unwrap();
    let _others = UnixListener::bind(&a).unwrap();
    osps.stop();
    assert!(a.exists(), "somebody else's socket was taken away");
    assert!(!c.exists());
}

// ---- A reload of its own ----

#[test]
fn a_service_takes_up_its_configuration_by_a_signal_or_a_command() {
    let osps = up(
        "[service.a]\nheart = 'none'\nreload = 'HUP'\ninstances = 2\n\
         command = ['sh', '-c', 'trap \"echo $OSPS_SLOT >> @DIR@/told\" HUP; \
         while :; do sleep 0.02; done']\n\
         [service.b]\n@BEAT@\nreload = ['sh', '-c', 'echo $OSPS_SERVICE $OSPS_PID >> @DIR@/ran']\n\
         [service.c]\n@BEAT@\n",
        &["a-1", "a-2", "b", "c"],
    );
    let same = ["a-1", "a-2", "b", "c"].map(|name| osps.life(name));
    let said = osps.do_ask(&["reload", "a"]);
    assert!(said.ends_with("reload begun\n"), "{said}");
    let told = osps.wait_lines("told", 2);
    assert_eq!(told.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["0", "1"]));
    osps.do_ask(&["reload", "b"]);
    assert_eq!(osps.wait_lines("ran", 1), format!("b {}\n", same[2].0));
    // One that was still starting was killed by its signal, and one that was stopped "reloaded".
    osps.do_ask(&["stop", "a-2"]);
    let (code, said) = osps.ask_for(&["reload", "a"]);
    assert!(code == 1 && said.contains("a-2 is down, and not up: nobody was reloaded"), "{said}");
    osps.do_ask(&["start", "a-2"]);
    let same = ["a-1", "a-2", "b", "c"].map(|name| osps.life(name));
    // All or nobody.
    let (code, said) = osps.ask_for(&["reload", "b", "c"]);
    assert!(code == 1 && said.contains("c has no reload of its own"), "{said}");
    pass(ms(300));
    assert_eq!(osps.wait_lines("ran", 1).lines().count(), 1);
    assert_eq!(["a-1", "a-2", "b", "c"].map(|name| osps.life(name)), same);
}
