//! Goal: whoever is killed for a freeze leaves a report that says why, and no report, whatever
//! happens to it, delays anybody's recovery.
//!
//! Method: black box. Programs freeze in all ways; reports are read as files, and by `osps report`.
//!
//! What it cannot show: hangs of a network file system; how much later a kill comes (benches).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use osps::report::{BYTES_MAX, Extent, Report};
use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::sync::Ordering;
use osps_heart::words::{Cause, Class, Event, State};

use common::services::act;
use common::{
    Launch, Osps, Signal, free_port, has, is_root, ms, pass, process_of, run, skip, text,
};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

/// A service in Python that beats for half a second, and then does this.
fn python(then: &str) -> String {
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/heart/python");
    let script = format!(
        "import os, threading, time\nimport osps\nheart = osps.Heart.from_env()\n\
         print('pid', os.getpid(), flush=True)\nfor turn in range(25):\n    heart.beat()\n    \
         heart.activity(f'turn {{turn}}')\n    time.sleep(0.02)\n{then}\n"
    );
    format!(
        "[service.snake]\ncommand = ['python3', '-c', '''\n{script}''']\n\
         env = {{ PYTHONPATH = '{package}', SECRET = 'do-not-tell' }}\nheart = 'memory'\n\
         hang-timeout = '500ms'\n"
    )
}

/// The directory of reports of an instance.
fn store(osps: &Osps) -> PathBuf {
    osps.dir().join("state/osps/default")
}

/// The reports that are there, by their numbers.
fn reports(osps: &Osps) -> Vec<Report> {
    let mut found: Vec<Report> = fs::read_dir(store(osps))
        .into_iter()
        .flatten()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some())
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .map(|bytes| serde_json::from_slice(&bytes).unwrap())
        .collect();
    found.sort_by_key(|report| report.summary.number);
    found
}

/// Report number 1, when its line is in the log.
fn first(osps: &Osps, service: &str) -> Report {
    osps.wait_log(&[&format!("{service}: report 1: osps report 1")]);
    reports(osps).remove(0)
}

/// On a machine that has no time for it the second look comes too late: that is said.
fn is_told_from_the_first_look(report: &Report) -> bool {
    report.missing.iter().any(|what| what.starts_with("it was gone at the verdict"))
}

/// The collectors of an instance.
fn collectors(osps: &Osps) -> Vec<Process> {
    let is_one = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"osps\0__report\0")
    };
    let tree = procfs::below(&procfs::tree(osps.watchdog_pid()), [osps.watchdog_pid()]);
    let pids = tree.iter().map(|stat| stat.pid).filter(|pid| is_one(*pid));
    pids.filter_map(process_of).collect()
}

#[test]
fn a_read_that_gets_nothing_is_told_with_what_was_read() {
    if !has("python3") {
        return skip("it needs python3");
    }
    let then = "os.mkfifo('@DIR@/fifo')\nos.read(os.open('@DIR@/fifo', os.O_RDWR), 1)";
    let osps = Launch::up(&(python(then) + "log = '@DIR@/log'\n")).spawn();
    let report = first(&osps, "snake");
    let sentence = &report.summary.sentence;
    let fifo = osps.dir().join("fifo").display().to_string();
    assert!(sentence.starts_with("snake was frozen for "), "{sentence}");
    assert!(sentence.contains("blocked in ") && sentence.contains(&fifo), "{sentence}");
    assert_eq!(report.summary.cause, Some(Cause::Frozen));
    assert_eq!(report.summary.class, Some(Class::Blocked));
    assert_eq!((report.extent, report.instance.as_str()), (Extent::Full, "default"));
    assert_eq!(report.activity.as_deref(), Some("turn 24"));
    assert_eq!(report.log, [format!("pid {}", report.pid)]);
    assert_eq!(report.heart.beats, 25);
    assert!(!report.heart.last_minute.is_empty());
    assert!(report.threads[0].call.starts_with("read("), "{:?}", report.threads);
    let twice = report.threads[0].cpu_since_ns.is_some();
    assert!(twice || is_told_from_the_first_look(&report), "looked at when it was late, too");
    assert!(report.process.unwrap().status.iter().any(|(key, _)| key == "VmRSS"));
    let file = store(&osps).join("1.json");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(store(&osps).metadata().unwrap().mode() & 0o777, 0o700);
    let said = fs::read_to_string(&file).unwrap();
    for secret in ["do-not-tell", "import threading", "range(25)"] {
        assert!(!said.contains(secret), "{said}");
    }
    let segment = osps.segment();
    let page = &segment.slots()[0].server;
    let counted = || page.last_report.load(Ordering::Relaxed) >= 1;
    osps.wait("the number in its page", || counted().then_some(()));

    let shown = osps.command(&["report", "1"]);
    let screen = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<_> = screen.lines().collect();
    assert!(lines[0].starts_with("report 1: snake gen=1 pid="), "{screen}");
    assert!(lines[1].starts_with("snake was frozen for "), "{screen}");
    let json = osps.command(&["report", "1", "--json"]);
    let read: Report = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(read.summary.sentence, *sentence);
    let list = String::from_utf8(osps.command(&["report", "--list"]).stdout).unwrap();
    assert!(list.lines().nth(1).unwrap().trim_start().starts_with("1  "), "{list}");
    let none = osps.command(&["report", "777"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).contains("there is no report 777"), "{}", text(&none));
}

#[test]
fn a_lock_that_is_never_free_is_called_one() {
    if !has("python3") {
        return skip("it needs python3");
    }
    let osps =
        Launch::up(&python("lock = threading.Lock()\nlock.acquire()\nlock.acquire()")).spawn();
    let report = first(&osps, "snake");
    let sentence = &report.summary.sentence;
    assert!(sentence.ends_with("waiting for a lock"), "{sentence}");
    assert!(report.threads[0].call.starts_with("futex("), "{:?}", report.threads);
}

#[test]
fn a_thread_that_spins_is_named_with_its_share_of_a_processor() {
    if !has("python3") {
        return skip("it needs python3");
    }
    let osps = Launch::up(&python("while True: pass")).spawn();
    let report = first(&osps, "snake");
    let sentence = &report.summary.sentence;
    let share = sentence.contains('%') || is_told_from_the_first_look(&report);
    assert!(sentence.contains("thread `python3`") && share, "{sentence}");
    assert_eq!(report.threads[0].state, "R");
}

#[test]
fn clients_of_a_server_that_was_stopped_are_counted() {
    if !has("redis-server") {
        return skip("it needs redis-server");
    }
    let port = free_port();
    let osps = Launch::up(&format!(
        "[service.redis]\ncommand = ['redis-server', '--port', '{port}', '--save', '']\n\
         directory = '@DIR@'\nheart = 'loop'\nhang-timeout = '4s'\nstart-timeout = '500ms'\n"
    ))
    .spawn();
    osps.wait_up(&["redis"]);
    let mut clients: Vec<_> = osps.wait("a server", || {
        let clients: Vec<_> =
            (0..2).map_while(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
        (clients.len() == 2).then_some(clients)
    });
    // Its loop is judged from its set-up on.
    pass(ms(700));
    osps.stop_process(&osps.process(0));
    for client in &mut clients {
        client.write_all(b"PING\r\n").unwrap();
    }
    let report = first(&osps, "redis");
    let sentence = &report.summary.sentence;
    // The first look, long before the kill, has seen them, whatever becomes of the second.
    let told = sentence.contains("stopped by a signal; 2 clients waited");
    assert!(told, "{sentence}: {:?}", report.missing);
    let unread = report.sockets.iter().filter(|socket| socket.unread == 6).count();
    assert_eq!(unread, 2, "{:#?}", report.sockets);
}

#[test]
fn of_a_python_program_its_own_stacks_are_taken() {
    if !has("python3") {
        return skip("it needs python3");
    }
    let then = "osps.dumps()\ndef stuck_here():\n    threading.Event().wait()\nstuck_here()";
    let osps = Launch::up(&(python(then) + "stacks = true\n")).spawn();
    let report = first(&osps, "snake");
    let stacks = &report.stacks[0];
    assert_eq!((stacks.tool.as_str(), stacks.failed.as_str()), ("osps.dumps", ""));
    assert!(stacks.text.contains("in stuck_here"), "{}", stacks.text);
    assert_eq!(report.stacks.len(), 1);
}

#[test]
fn what_was_tried_for_stacks_is_told_with_why_it_gave_none() {
    if !has("python3") || !has("gdb") {
        return skip("it needs python3 and gdb");
    }
    let then = "threading.Event().wait()";
    let osps = Launch::up(
        &(python(then) + "stack-command = ['no-such-tool', '{pid}']\nreport-limit = '20s'\n"),
    )
    .spawn();
    let report = first(&osps, "snake");
    let tried: Vec<_> =
        report.stacks.iter().map(|one| (one.tool.as_str(), one.failed.as_str())).collect();
    assert_eq!(tried[0], ("no-such-tool", "it is not installed"));
    assert_eq!(tried[1], ("osps.dumps", "the program has not called osps.dumps()"));
    let last = report.stacks.last().unwrap();
    assert!(last.failed.is_empty() && !last.text.is_empty(), "{tried:?}");
    assert_eq!(report.summary.class, Some(Class::Blocked), "no tracer of ours is a verdict");
}

#[test]
fn of_a_jvm_the_threads_are_asked_by_jcmd() {
    if !has("java") || !has("javac") {
        return skip("it needs a JDK");
    }
    let program = "public class Main { static void stuckHere() throws Exception { \
                   synchronized (Main.class) { Main.class.wait(); } } public static void \
                   main(String[] args) throws Exception { for (int i = 0; i < 20; i++) { \
                   java.nio.file.Files.writeString(java.nio.file.Path.of(args[0]), \"\" + i); \
                   Thread.sleep(50); } stuckHere(); } }";
    let launch = Launch::up(
        "[service.jvm]\ncommand = ['java', '@DIR@/Main.java', '@DIR@/alive']\n\
         heart = 'file:@DIR@/alive'\nhang-timeout = '2s'\nstart-timeout = '30s'\nstacks = true\n\
         report-limit = '20s'\n",
    );
    fs::write(launch.dir().join("Main.java"), program).unwrap();
    let osps = launch.spawn();
    let report = first(&osps, "jvm");
    let stacks = &report.stacks[0];
    assert_eq!((stacks.tool.as_str(), stacks.failed.as_str()), ("jcmd", ""));
    assert!(stacks.text.contains("Main.stuckHere"), "{}", stacks.text);
}

/// A stack command that never ends, and leaves something in a session of its own. Both write down
/// their pids.
const ENDLESS: &str = "stack-command = ['sh', '-c', 'setsid sleep 1000 & echo $! >> @DIR@/pids; \
                       echo $$ >> @DIR@/pids; echo $OSPS_SERVICE {pid}; sleep 1000']\n";

fn endless(osps: &Osps) -> Vec<Process> {
    let text = osps.wait_lines("pids", 2);
    text.lines().filter_map(|line| process_of(line.parse().unwrap())).collect()
}

#[test]
fn a_stack_command_that_never_ends_has_its_time_and_leaves_nothing() {
    let osps = Launch::up(&format!(
        "[service.a]\n@BEAT@\nhang-timeout = '300ms'\nreport-limit = '400ms'\n{ENDLESS}"
    ))
    .spawn();
    osps.wait_up(&["a"]);
    let pid = osps.pid(0);
    osps.stop_process(&osps.process(0));
    let left = endless(&osps);
    let verdict = osps.wait_log(&["a gen=1", "late -> frozen (stopped"]);
    let down = osps.wait_log(&["a gen=1", "stopping -> down"]);
    let waited = down.at.since(verdict.at);
    assert!(waited >= ms(100), "the kill waited for stacks: {waited:?}");
    osps.wait_happened("a", Event::Up, 2);
    let report = first(&osps, "a");
    let stacks = &report.stacks[0];
    assert_eq!((stacks.tool.as_str(), stacks.failed.as_str()), ("sh", "it took too long"));
    assert_eq!(stacks.text, format!("a {pid}\n"), "what it said before");
    osps.wait("nothing is left", || left.iter().all(Process::is_dead).then_some(()));
    osps.wait("no collector", || collectors(&osps).is_empty().then_some(()));
}

#[test]
fn a_stack_command_that_prints_without_end_is_cut() {
    let osps = Launch::up(
        "[service.a]\n@BEAT@\nhang-timeout = '300ms'\nreport-limit = '20s'\n\
         stack-command = ['sh', '-c', 'yes stack | head -c 1073741824']\n",
    )
    .spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    let report = first(&osps, "a");
    let stacks = &report.stacks[0];
    assert_eq!((stacks.cut, stacks.failed.as_str()), (true, ""));
    assert!(stacks.text.starts_with("stack\nstack\n"));
    let size = store(&osps).join("1.json").metadata().unwrap().len();
    assert!(size <= BYTES_MAX as u64, "{size}");
}

/// The kill of one that is looked at for long is nobody else's affair.
#[test]
fn nobody_waits_for_the_stacks_of_another() {
    let osps = Launch::up(&format!(
        "[service.a]\n@BEAT@\nhang-timeout = '300ms'\nreport-limit = '3s'\n{ENDLESS}\
         [service.b]\n@BEAT@\nhang-timeout = '600ms'\n"
    ))
    .spawn();
    osps.wait_up(&["a", "b"]);
    for slot in [0, 1] {
        osps.stop_process(&osps.process(slot));
    }
    osps.wait_log(&["b gen=", "stopping -> down (signal 9"]);
    assert!(osps.find_log(&["a gen=", "-> frozen"]).is_some(), "a was convicted before b");
    assert!(osps.find_log(&["a gen=", "stopping -> down"]).is_none(), "and its kill waits");
    osps.wait_happened("b", Event::Up, 2);
    osps.wait_happened("a", Event::Up, 2);
}

#[test]
fn a_collector_that_hangs_delays_no_kill_and_is_ended() {
    let osps = Launch::up("[service.a]\n@BEAT@\nhang-timeout = '3s'\n").spawn();
    osps.wait_up(&["a"]);
    let old = osps.process(0);
    osps.stop_process(&old);
    let collector = osps.wait("a collector", || collectors(&osps).pop());
    osps.wait_log(&["up -> late"]);
    assert!(!old.is_dead(), "it is looked at before the verdict");
    osps.stop_process(&collector);
    osps.wait_happened("a", Event::Up, 2);
    osps.wait_log(&["WARN", "a: writing its report takes longer than 5s: ended"]);
    osps.wait("its end", || collector.is_dead().then_some(()));
    assert_eq!(reports(&osps).len(), 0);
    // The next one gets a report again.
    osps.stop_process(&osps.process(0));
    first(&osps, "a");
}

#[test]
fn a_collector_that_dies_is_a_line() {
    let osps = Launch::up("[service.a]\n@BEAT@\nhang-timeout = '3s'\n").spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    // Behind its gate: one that dies before is told as a failed start, and another one comes.
    let is_at_work = |process: &Process| {
        fs::read_link(format!("/proc/{}/fd/0", process.pid())).is_ok_and(|to| to == *"/dev/null")
    };
    let collector = osps.wait("a collector", || collectors(&osps).pop().filter(is_at_work));
    osps.signal(&collector, Signal::KILL);
    osps.wait_log(&["WARN", "a: no report: its collector ended (signal 9)"]);
    osps.wait_happened("a", Event::Up, 2);
    osps.wait("nobody is left", || osps.zombies().is_empty().then_some(()));
}

#[test]
fn who_beats_again_or_vanishes_gets_no_report() {
    let osps = Launch::up("[service.a]\n@BEAT@\nhang-timeout = '4s'\n").spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    osps.wait("a collector", || collectors(&osps).pop());
    osps.signal(&osps.process(0), Signal::CONT);
    osps.wait_log(&["late -> up"]);
    osps.wait("its end", || collectors(&osps).is_empty().then_some(()));
    let old = osps.process(0);
    osps.stop_process(&old);
    osps.wait("it is late again", || osps.is_state(0, State::Late).then_some(()));
    osps.signal(&old, Signal::KILL);
    osps.wait_happened("a", Event::Up, 3);
    osps.wait("no collector", || collectors(&osps).is_empty().then_some(()));
    assert_eq!(reports(&osps).len(), 0);
}

#[test]
fn of_fifty_that_freeze_at_once_all_are_replaced_and_most_reports_are_short() {
    const ALL: usize = 50;
    let osps =
        Launch::up("[service.a]\n@BEAT@\nhang-timeout = '2s'\ninstances = 50\nstacks = true\n")
            .spawn();
    let names: Vec<_> = (1..=ALL).map(|number| format!("a-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    osps.wait_up(&names);
    for slot in 0..ALL {
        osps.signal(&osps.process(slot), Signal::STOP);
    }
    for name in &names {
        osps.wait_happened(name, Event::Up, 2);
    }
    osps.wait("fifty reports", || (reports(&osps).len() == ALL).then_some(()));
    osps.wait_log(&["short reports", "since too many fell silent at once: osps report --list"]);
    let reports = reports(&osps);
    let full = reports.iter().filter(|report| report.extent == Extent::Full).count();
    assert!((1..10).contains(&full), "{full}");
    for report in &reports {
        let sentence = &report.summary.sentence;
        assert!(sentence.contains("stopped by a signal"), "{sentence}");
    }
    osps.wait("no collector", || collectors(&osps).is_empty().then_some(()));
}

#[test]
fn a_killed_watchdog_leaves_no_collector_behind() {
    let mut osps = Launch::up(&format!(
        "[service.a]\n@BEAT@\nhang-timeout = '300ms'\nreport-limit = '1m'\n{ENDLESS}"
    ))
    .spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    let mut left = endless(&osps);
    left.extend(collectors(&osps));
    assert!(left.len() >= 3, "{left:?}");
    osps.kill_watchdog();
    osps.wait("nothing is left", || left.iter().all(Process::is_dead).then_some(()));
    // The next one judges afresh, and reports.
    fs::remove_file(osps.dir().join("pids")).unwrap();
    osps.start_again();
    let left = endless(&osps);
    osps.signal_watchdog(Signal::INT);
    osps.wait_log(&["SIGINT: stopping"]);
    osps.signal_watchdog(Signal::INT);
    osps.wait_exit();
    osps.wait("nothing is left", || left.iter().all(Process::is_dead).then_some(()));
    assert!(!osps.run_dir().exists(), "{}", osps.log());
}

#[test]
fn no_space_is_a_line_and_delays_nobody() {
    let mut can = std::process::Command::new("unshare");
    can.args(["-m", "true"]);
    if !is_root() || !run(can).status.success() {
        return skip("a file system of its own needs root");
    }
    let script = "mkdir -p \"$0\" && mount -t tmpfs -o size=4k,mode=700 none \"$0\" && \
                  head -c 4096 /dev/zero > \"$0/full\"; exec \"$@\"";
    let launch = Launch::up("[service.a]\n@BEAT@\nhang-timeout = '500ms'\n");
    let store = launch.dir().join("state/osps/default").display().to_string();
    let osps = launch.through(&["unshare", "-m", "sh", "-c", script, &store]).spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    osps.wait_log(&["WARN", "a: no report: ", "No space left on device"]);
    osps.wait_happened("a", Event::Up, 2);
}

#[test]
fn a_directory_that_is_a_link_or_anothers_is_refused_and_osps_goes_on() {
    let one = "[service.a]\n@BEAT@\nhang-timeout = '500ms'\nstop-timeout = '1s'\n";
    let check = |launch: Launch, why: &str| {
        let osps = launch.spawn();
        osps.wait_log(&["WARN", "no reports of hangs: ", why]);
        osps.wait_up(&["a"]);
        osps.stop_process(&osps.process(0));
        osps.wait_happened("a", Event::Up, 2);
        assert!(osps.find_log(&["report 1"]).is_none());
        let shown = osps.command(&["report"]);
        assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
        assert!(text(&shown).contains("keeps no reports"), "{}", text(&shown));
    };
    let launch = Launch::up(one);
    fs::create_dir(launch.dir().join("elsewhere")).unwrap();
    fs::create_dir_all(launch.dir().join("state/osps")).unwrap();
    symlink(launch.dir().join("elsewhere"), launch.dir().join("state/osps/default")).unwrap();
    check(launch, "it is a symlink or not a directory");
    if !is_root() {
        return skip("another's directory needs root");
    }
    let launch = Launch::up(one);
    let store = launch.dir().join("state/osps/default");
    fs::create_dir_all(&store).unwrap();
    std::os::unix::fs::chown(&store, Some(65534), None).unwrap();
    check(launch, "it belongs to user 65534");
}

#[test]
fn where_none_are_wanted_none_are_kept() {
    let osps =
        Launch::up("report-dir = 'none'\n[service.a]\n@BEAT@\nhang-timeout = '500ms'\n").spawn();
    osps.wait_up(&["a"]);
    osps.stop_process(&osps.process(0));
    osps.wait_happened("a", Event::Up, 2);
    assert!(!osps.dir().join("state").exists());
    let shown = osps.command(&["report"]);
    assert!(text(&shown).contains("this osps keeps no reports"), "{}", text(&shown));
}

#[test]
fn a_look_on_request_disturbs_nobody_and_needs_no_watchdog() {
    let mut osps = Launch::up("[service.a]\n@BEAT@\n").spawn();
    osps.wait_up(&["a"]);
    let process = osps.process(0);
    let look = |osps: &Osps| {
        let shown = osps.command(&["report", "--now", "a", "--json"]);
        let report: Report = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!((report.extent, report.summary.cause), (Extent::Asked, None));
        assert!(report.summary.sentence.starts_with("a was looked at "), "{report:#?}");
        assert!(report.threads.len() >= 2 && report.stacks.is_empty());
        report.summary.number
    };
    assert_eq!(look(&osps), 1);
    osps.kill_watchdog();
    assert_eq!(look(&osps), 2);
    assert!(!process.is_dead());
    let unknown = osps.command(&["report", "--now", "nobody"]);
    assert!(text(&unknown).contains("there is no service nobody"), "{}", text(&unknown));
    let list = osps.command(&["report", "--list", "--json"]);
    let list: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list.len(), 2);
    osps.start_again();
    osps.wait_log(&["took over 1 of 1"]);
    osps.stop();
    let after = osps.command(&["report", "2"]);
    assert!(after.status.success(), "reports outlive an instance: {}", text(&after));
}

#[test]
fn who_is_only_warned_of_is_looked_at_without_being_stopped() {
    let osps = Launch::up(
        "[service.a]\n@BEAT@\nhang-timeout = '500ms'\non-hang = 'warn'\nstacks = true\n",
    )
    .spawn();
    osps.wait_up(&["a"]);
    let process = osps.process(0);
    osps.stop_process(&process);
    let report = first(&osps, "a");
    assert_eq!((report.summary.class, report.stacks.len()), (Some(Class::Stopped), 0));
    osps.signal(&process, Signal::CONT);
    osps.wait("it is up again", || osps.is_state(0, State::Up).then_some(()));
    assert!(!process.is_dead());
}
