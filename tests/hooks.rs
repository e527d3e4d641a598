//! Goal: the command of `on-event` is told what happens to its service, in order; whatever it does or
//! does not do, it delays no restart and nothing of it stays.
//!
//! Method: black box, `osps up`. Commands are shell scripts that write down what they were told.
//!
//! What it cannot show: a command that does not die when it is killed.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs;
use std::time::Duration;

use osps::sys::process::Process;
use osps_heart::words::{Event, State};

use common::services::act;
use common::{Launch, Osps, Signal, now, process_of};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

/// So long may a command run.
const TIME: Duration = Duration::from_secs(10);

/// Lines of a file, as words.
fn words(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn it_is_told_of_each_happening_in_order_with_its_variables() {
    let osps = Launch::up(
        "[service.web]\n@BEAT@\nhang-timeout = '700ms'\n\
         on-event = ['sh', '-c', 'echo \"$OSPS_EVENT $OSPS_SERVICE $OSPS_STATE $OSPS_CAUSE \
         $OSPS_CLASS $OSPS_PID $OSPS_GENERATION\" >> @DIR@/told']\n",
    )
    .spawn();
    osps.wait_up(&["web"]);
    let old = osps.life("web");
    osps.stop_process(&osps.process(osps.slot("web")));
    osps.wait_happened("web", Event::Up, 2);
    let new = osps.life("web");
    osps.wait_lines("told", 7);
    osps.do_ask(&["stop", "web"]);
    let told = osps.wait_lines("told", 10);
    let row = |event: &str, state: &str, cause: &str, class: &str, (pid, generation)| {
        format!("{event} web {state} {cause} {class} {pid} {generation}")
    };
    let expected = [
        row("started", "starting", "", "", old),
        row("up", "up", "", "", old),
        row("late", "late", "", "", old),
        row("verdict", "stopping", "frozen", "stopped", old),
        row("died", "down", "frozen", "", old),
        row("started", "starting", "frozen", "", new),
        row("up", "up", "", "", new),
        row("asked", "up", "", "", new),
        row("stop-order", "stopping", "", "", new),
        row("died", "down", "", "", new),
    ];
    assert_eq!(words(&told), words(&expected.join("\n")), "{told}");
}

#[test]
fn it_is_told_where_its_instance_is_and_has_no_part_in_the_service() {
    let osps = Launch::up(
        "[service.web]\n@BEAT@\nlisten = '127.0.0.1:0'\ninstances = 2\nrestart = 'never'\n\
         on-event = ['sh', '-c', 'echo $OSPS_NAME $OSPS_RUN_DIR $LISTEN_FDS $OSPS_SLOT \
         $OSPS_TEST_PART >> @DIR@/told-$OSPS_SERVICE; \
         test ! -e /proc/$$/fd/3 || echo open >> @DIR@/told-$OSPS_SERVICE']\n",
    )
    .spawn();
    for file in ["told-web-1", "told-web-2"] {
        let told = osps.wait_lines(file, 2);
        for line in told.lines() {
            assert_eq!(line.trim_end(), format!("default {}", osps.run_dir().display()));
        }
    }
}

/// A command that never ends, with a child in its session, and one in another with a child of its
/// own there: they went on when it was ended. All write down their pids.
const STUCK: &str = "on-event = ['sh', '-c', 'sleep 1000 & echo $! >> @DIR@/pids; \
    setsid sh -c \"sleep 1000 & echo \\$! >> @DIR@/pids; echo \\$\\$ >> @DIR@/pids; wait\" & \
    echo $$ >> @DIR@/pids; wait']\n";

fn written(osps: &Osps, count: usize) -> Vec<Process> {
    let text = osps.wait_lines("pids", count);
    let of = |line: &str| process_of(line.parse().unwrap());
    text.lines().filter_map(of).collect()
}

#[test]
fn one_that_never_ends_delays_no_restart_and_is_killed_with_what_it_started() {
    let begun = now();
    let osps = Launch::up(&format!("[service.web]\n@BEAT@\n{STUCK}")).spawn();
    let stuck = written(&osps, 4);
    assert_eq!(stuck.len(), 4);
    osps.wait_up(&["web"]);
    for times in 2..4 {
        osps.signal(&osps.process(osps.slot("web")), Signal::KILL);
        osps.wait_happened("web", Event::Up, times);
    }
    assert!(now().since(begun) < TIME, "restarts waited");
    assert!(!stuck.iter().any(Process::is_dead), "it was not given its time");
    let line = osps.wait_log(&["web: its hook (pid ", "runs for longer than 10s: ending it"]);
    assert!(line.at.since(begun) >= TIME, "before its time");
    osps.wait("its end", || stuck.iter().all(Process::is_dead).then_some(()));
    // The next one has its turn.
    written(&osps, 8);
}

#[test]
fn nothing_of_those_that_run_or_wait_stays_after_the_end() {
    let mut osps =
        Launch::up(&format!("[service.web]\n@BEAT@\n{STUCK}[service.db]\n@BEAT@\n{STUCK}")).spawn();
    osps.wait_up(&["web", "db"]);
    let mut stuck = written(&osps, 8);
    osps.stop();
    // Whoever was started later as well.
    let text = fs::read_to_string(osps.dir().join("pids")).unwrap();
    stuck.extend(text.lines().filter_map(|line| process_of(line.parse().unwrap())));
    assert!(stuck.iter().all(Process::is_dead), "{text}");
    osps.wait_log(&["hooks were dropped: there was no time left for them"]);
    osps.wait_log(&["all stopped, nothing left"]);
}

#[test]
fn one_that_cannot_start_or_fails_is_a_line_of_the_log() {
    let osps = Launch::up(
        "[service.a]\n@BEAT@\non-event = '@DIR@/nobody'\n[service.b]\n@BEAT@\n\
         on-event = ['sh', '-c', 'exit 7']\n[service.c]\n@BEAT@\non-event = 'true'\n",
    )
    .spawn();
    osps.wait_up(&["a", "b", "c"]);
    osps.wait_log(&["a: its hook cannot be started: ", "nobody"]);
    osps.wait_log(&["b: its hook failed (status 7)"]);
    assert!(osps.find_log(&["c: its hook"]).is_none());
    for name in ["a", "b", "c"] {
        assert_eq!(osps.happened(name, Event::Started).len(), 1);
    }
}

#[test]
fn at_most_four_run_at_once_and_one_of_a_service() {
    let osps = Launch::up(
        "[service.web]\ncommand = ['sleep', '1000']\nheart = 'none'\ninstances = 9\n\
         on-event = ['sh', '-c', 'mkdir -p @DIR@/now; mkdir @DIR@/now/$OSPS_SERVICE || \
         echo twice >> @DIR@/counts; ls @DIR@/now | wc -l >> @DIR@/counts; sleep 0.2; \
         rmdir @DIR@/now/$OSPS_SERVICE']\n",
    )
    .spawn();
    let counts = osps.wait_lines("counts", 18);
    let counts: Vec<usize> = counts.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(counts.iter().max(), Some(&4), "{counts:?}");
    osps.wait_state("web-9", State::Up);
}

#[test]
fn a_service_that_fails_for_good_is_told_of_before_the_end_of_all() {
    let mut osps = Launch::up(
        "[service.web]\ncommand = 'false'\nrestart = 'never'\nessential = true\n\
         on-event = ['sh', '-c', 'sleep 0.3; echo $OSPS_EVENT $OSPS_STATE >> @DIR@/told']\n",
    )
    .spawn_unfounded();
    assert_eq!(osps.wait_exit().code(), Some(3));
    let told = fs::read_to_string(osps.dir().join("told")).unwrap();
    assert_eq!(told, "started starting\nfailed failed\n");
}
