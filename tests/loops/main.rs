//! Programs that nobody changed, watched in their event loops: `--heart loop` and `--heart loops`.
//!
//! Goal: real servers start under it, idle for ten limits and serve under load without a verdict,
//! are convicted when their loop is stuck in their own code, and serve again. A worker that retires
//! convicts nobody. What cannot be watched is said at the start, with what to do instead.
//!
//! Method: redis, nginx (alone and with its master), haproxy, mosquitto, lighttpd, memcached, Node,
//! asyncio, gunicorn and a JVM, as Debian has them. redis is put to sleep by a command, what is
//! interpreted by its own handlers, the other daemons by a second preload that stops them in
//! `accept`. What the shim does to single calls is tests/loop_shim.rs.
//!
//! What it cannot show: other versions of them; ten minutes (a bench does that).
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

#[path = "../common/mod.rs"]
mod common;
mod servers;

use std::fs::Permissions;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use servers::{
    Case, SPINNING, WORKER, config, daemons, exchange, file, interpreters, is_there, nginx, path,
};

use common::{BINARY, Launch, Osps, free_port, has, is_root, ms, pass, run, skip, text};

const LIMIT: &str = "1s";
const IDLE: Duration = Duration::from_secs(10);
const LOAD: Duration = Duration::from_secs(2);

fn assert_innocent(osps: &Osps, case: &Case, generation: u32, when: &str) {
    assert_eq!(osps.generation(0), generation, "{} {when}\n{}", case.name, osps.log());
}

/// The whole life of one server.
fn live(case: &Case) {
    let dir = tempfile::tempdir().unwrap();
    let launch = case.launch(LIMIT, dir.path());
    let mut osps = launch.spawn();
    osps.wait("its first beat", || (osps.server(0)["watched"] == true).then_some(()));
    case.wait_served(&osps);
    pass(IDLE);
    assert_innocent(&osps, case, 1, "idle");
    let end = Instant::now() + LOAD;
    let mut served = 0;
    while Instant::now() < end {
        let answer = exchange(case.port, &case.ask).unwrap();
        assert!(answer.contains(case.answer), "{}: {answer}", case.name);
        served += 1;
    }
    assert!(served > 20, "{} served {served}", case.name);
    assert_innocent(&osps, case, 1, "under load");
    let blocks = case.blocks.as_deref().unwrap_or(&[""]);
    for (generation, block) in (1u32..).zip(blocks) {
        let stuck = case.stick(dir.path(), block);
        let number = format!("gen={generation} ");
        let verdict = match case.verdict {
            SPINNING => osps.wait_spinning(&[&number]),
            other => osps.wait_log(&[&number, other, "no beat for "]),
        };
        assert!(verdict.text.contains(&format!("limit {LIMIT}")), "{}", verdict.text);
        stuck.end();
        case.wait_served(&osps);
        osps.wait("watched again", || {
            let server = osps.server(0);
            let next = generation + 1 == osps.generation(0);
            (next && server["watched"] == true && server["state"] == "up").then_some(())
        });
        // A loop counts as one after some turns.
        for _ in 0..5 {
            case.wait_served(&osps);
        }
    }
    osps.stop();
}

/// All of these at once, since they mostly sleep.
fn live_all(cases: &[Case]) {
    std::thread::scope(|scope| {
        let lives: Vec<_> =
            cases.iter().map(|case| (case.name, scope.spawn(|| live(case)))).collect();
        let failed = |(name, life): (&'static str, std::thread::ScopedJoinHandle<'_, ()>)| {
            life.join().is_err().then_some(name)
        };
        let failed: Vec<_> = lives.into_iter().filter_map(failed).collect();
        assert!(failed.is_empty(), "{failed:?} failed");
    });
}

#[test]
fn daemons_are_convicted_in_their_own_code_and_never_before() {
    let dir = tempfile::tempdir().unwrap();
    live_all(&daemons(dir.path()));
}

#[test]
fn interpreters_are_convicted_in_their_handlers_and_never_before() {
    let dir = tempfile::tempdir().unwrap();
    live_all(&interpreters(dir.path()));
}

/// A program in C, compiled.
fn compiled(dir: &Path, name: &str, source: &str, options: &[&str]) -> Option<String> {
    let (from, to) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&from, source).unwrap();
    std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let (compiler, options) = match options {
        ["musl"] => ("musl-gcc", &[][..]),
        options => ("cc", options),
    };
    let mut cc = Command::new(compiler);
    let done = cc.args(options).arg("-o").arg(&to).arg(&from).output().ok()?;
    if !done.status.success() {
        skip(&format!("{compiler} {options:?}: {}", text(&done)));
        return None;
    }
    Some(to.display().to_string())
}

const POLLS: &str = "#include <poll.h>\nint main() { for (;;) poll(0, 0, 50); }\n";
const SLEEPS: &str = "#include <unistd.h>\nint main() { for (;;) pause(); }\n";
/// Polls for a while, and becomes another program.
const POLLS_AND_EXECS: &str = "#include <poll.h>\n#include <unistd.h>\n\
    int main(int n, char **v) { for (int i = 0; i < 10; i++) poll(0, 0, 20); execv(v[1], v + 1); }\n";

fn quick(heart: &[&str], command: &[&str]) -> Launch {
    limited("500ms", heart, command)
}

fn limited(limit: &str, heart: &[&str], command: &[&str]) -> Launch {
    let options = ["--hang-timeout", limit, "--start-timeout", "1s", "--check-interval", "200ms"];
    let options = [&options[..], &["--heart"], heart].concat();
    Launch::own(&options, command).env("PATH", path())
}

#[test]
fn what_cannot_be_watched_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    if let Some(program) = compiled(dir, "static", POLLS, &["-static"]) {
        let osps = quick(&["loop"], &[&program]).spawn();
        osps.wait_log(&["is a static program, so the shim for event loops cannot be loaded"]);
        osps.wait_log(&["starting -> up (unwatched"]);
        osps.wait_log(&["did not load the shim for event loops"]);
        assert_eq!(osps.server(0)["watched"], false);
    }
    if let Some(program) = compiled(dir, "sanitized", POLLS, &["-fsanitize=address"]) {
        let refused = quick(&["loop"], &[&program]).output();
        assert!(text(&refused).contains("is built with a sanitizer"), "{}", text(&refused));
        assert_eq!(refused.status.code(), Some(1));
    }
    if let Some(program) = compiled(dir, "privileged", POLLS, &[])
        && is_root()
        && has("setpriv")
    {
        std::fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
        // Where nobody may go, too.
        let osps = dir.join("osps");
        std::fs::copy(BINARY, &osps).unwrap();
        let mut nobody = Command::new("timeout");
        nobody.args(["1", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).arg(osps);
        nobody.args(["--name", &format!("privileged-{}", std::process::id())]);
        nobody.args(["run", "--heart", "loop", "--", &program]);
        let told = text(&run(nobody));
        assert!(told.contains("runs with more rights than its user"), "{told}");
    }
    // Through `#!` and `env`.
    if let Some(program) = compiled(dir, "interpreter", POLLS, &["-static"]) {
        let script = config(dir, "script", "#!/usr/bin/env interpreter\n");
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let at = format!("{}:{}", dir.display(), path());
        let osps = quick(&["loop"], &[&script]).env("PATH", at).spawn();
        osps.wait_log(&[&program, "is a static program"]);
    }
}

#[test]
fn a_program_of_another_c_library_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    if !has("musl-gcc") {
        return skip("musl-gcc is missing");
    }
    let Some(program) = compiled(dir.path(), "musl", POLLS, &["musl"]) else { return };
    let osps = quick(&["loop"], &[&program]).start();
    pass(ms(1500));
    osps.stop_process(&osps.process(0));
    osps.wait_log(&["gen=1 ", "-> frozen (stopped; "]);
    osps.wait_log(&["gen=2 ", "starting -> up (first beat"]);
}

/// It polled, and so claimed the heart. What it became cannot beat, and is no frozen program.
#[test]
fn a_wrapper_that_polled_convicts_nobody_for_what_it_becomes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let Some(wrapper) = compiled(dir, "wrapper", POLLS_AND_EXECS, &[]) else { return };
    for options in [&[][..], &["-static"]] {
        let Some(program) = compiled(dir, "program", SLEEPS, options) else { return };
        let osps = quick(&["loop"], &[&wrapper, &program]).start();
        osps.wait_log(&["unwatched: whoever beat is gone"]);
        pass(ms(2000));
        assert_eq!(osps.generation(0), 1, "{options:?}\n{}", osps.log());
        assert!(osps.find_log(&["-> frozen"]).is_none(), "{}", osps.log());
    }
    // And what it becomes beats, if it waits for events.
    let Some(program) = compiled(dir, "polls", POLLS, &[]) else { return };
    let osps = quick(&["loop"], &[&wrapper, &program]).start();
    pass(ms(1500));
    osps.wait("its heart", || (osps.server(0)["watched"] == true).then_some(()));
    osps.stop_process(&osps.process(0));
    osps.wait_log(&["gen=1 ", "-> frozen (stopped; "]);
}

#[test]
fn a_program_without_an_event_loop_is_up_and_told_so() {
    let osps = quick(&["loop"], &["sleep", "1000"]).spawn();
    osps.wait_log(&["starting -> up (unwatched"]);
    osps.wait_log(&["has not come to an event wait (the shim is loaded, last in pid "]);
    pass(ms(1500));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
}

#[test]
fn only_the_named_process_beats() {
    if !is_there("node") || !is_there("python3") {
        return;
    }
    // A wrapper with a loop of its own, as npm has.
    let port = free_port().to_string();
    let script = "require('child_process').spawn('python3', process.argv.slice(1), \
                  {stdio: 'inherit'}); setInterval(() => {}, 100)";
    let command = ["node", "-e", script, &file("server.py"), &port];
    let python = Command::new("python3")
        .args([
            "-c",
            "import sys, os; \
        print(os.path.basename(os.path.realpath('/proc/self/exe')))",
        ])
        .output()
        .unwrap();
    let python = String::from_utf8(python.stdout).unwrap();
    let osps = quick(&["loop", "--heart-process", python.trim()], &command).start();
    let beater = osps.wait_log(&["gen=1: its heart is beaten by pid "]);
    assert!(!beater.text.ends_with(&osps.pid(0).to_string()), "{}", beater.text);
    osps.wait("the server", || exchange(port.parse().ok()?, b"serve\n").ok());
    pass(ms(1500));
    let mut stuck = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
    stuck.write_all(b"sleep\n").unwrap();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in hrtimer_nanosleep"]);
    let refused = Launch::own(&["--heart-process", "node"], &["node"]).output();
    assert!(text(&refused).contains("say --heart loop"), "{}", text(&refused));
}

/// An idle Node had waited twice when its first request blocked it by a synchronous child, and the
/// waits for that were taken for the loop's: it was never found.
#[test]
fn a_first_request_that_blocks_is_found() {
    if !is_there("node") {
        return;
    }
    let port = free_port();
    let osps = quick(&["loop"], &["node", &file("server.js"), &port.to_string()]).start();
    // It rests in its loop, and has done nothing else.
    pass(ms(2500));
    let mut stuck = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stuck.write_all(b"GET /child HTTP/1.0\r\n\r\n").unwrap();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in "]);
    osps.wait("its successor", || TcpStream::connect(("127.0.0.1", port)).ok());
}

/// A master that never waits for events, and workers that come and go.
#[test]
fn a_worker_that_retires_convicts_nobody() {
    if is_there("gunicorn") {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let (apps, options) = (file(""), ["--max-requests", "2", "-w", "2", "app:app"]);
        let command = [&["gunicorn", "--chdir", &apps, "-b", &address], &options[..]].concat();
        // A worker that starts takes a second where the host is busy.
        let osps = limited("2s", &WORKER, &command).start();
        osps.wait("an answer", || exchange(port, b"GET / HTTP/1.0\r\n\r\n").ok());
        for _ in 0..20 {
            let _ = exchange(port, b"GET / HTTP/1.0\r\n\r\n");
            pass(ms(100));
        }
        osps.wait_log(&["which beat its heart, is gone; the heart is free for another"]);
        pass(ms(4000));
        assert_eq!(osps.generation(0), 1, "{}", osps.log());
        osps.wait("a worker's heart", || (osps.server(0)["watched"] == true).then_some(()));
    }
    if is_there("nginx") {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let conf = nginx(dir.path(), port, "worker_processes 1;");
        let osps = quick(&["loop"], &["nginx", "-c", &conf]).start();
        osps.wait("an answer", || exchange(port, b"GET / HTTP/1.0\r\n\r\n").ok());
        osps.signal(&osps.process(0), rustix::process::Signal::HUP);
        osps.wait_log(&["which beat its heart, is gone; the heart is free for another"]);
        pass(ms(2500));
        assert_eq!(osps.generation(0), 1, "{}", osps.log());
        // It takes over when it has something to do.
        osps.wait("an answer", || exchange(port, b"GET / HTTP/1.0\r\n\r\n").ok());
        osps.wait("the next worker", || (osps.server(0)["watched"] == true).then_some(()));
    }
}

/// It gives itself a filter that ends it for whatever it does not need itself.
#[test]
fn a_program_that_shuts_itself_in_is_left_alone() {
    const SHUT_IN: &str = "#define _GNU_SOURCE\n#include <linux/filter.h>\n\
        #include <linux/seccomp.h>\n#include <poll.h>\n#include <stddef.h>\n\
        #include <sys/prctl.h>\n#include <sys/syscall.h>\n\
        int main() { for (int i = 0; i < 10; i++) poll(0, 0, 20);\n\
        struct sock_filter f[] = {\n\
          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),\n\
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALL, 0, 1),\n\
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),\n\
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS) };\n\
        struct sock_fprog p = { sizeof f / sizeof *f, f };\n\
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);\n\
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p)) return 7;\n\
        for (;;) poll(0, 0, 20); }\n";
    let dir = tempfile::tempdir().unwrap();
    let call = if cfg!(target_arch = "x86_64") { "-DCALL=SYS_poll" } else { "-DCALL=SYS_ppoll" };
    let Some(program) = compiled(dir.path(), "shut-in", SHUT_IN, &[call]) else { return };
    let osps = quick(&["loop"], &[&program]).start();
    osps.wait_log(&["unwatched: whoever beat is gone"]);
    pass(ms(2000));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    assert_eq!(osps.server(0)["watched"], false);
}

/// Files may be executed nowhere.
#[test]
fn without_a_place_for_the_shim_the_start_is_refused() {
    if !is_root() || !has("unshare") {
        return skip("needs root and unshare");
    }
    let script = format!(
        "exec 9< {BINARY}; mount -t tmpfs -o noexec none /run && \
         mount -t tmpfs -o noexec none /tmp && TMPDIR=/tmp exec /proc/self/fd/9 --name noexec-{} run --heart loop -- sleep 1",
        std::process::id()
    );
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &script]);
    let told = text(&run(shell));
    let expected = "there is no place for the shim that watches event loops (/run/osps-";
    assert!(told.contains(expected) && told.contains("mounted noexec; /tmp/osps-"), "{told}");
}

/// An osps above may watch ours; our programs are none of its business.
#[test]
fn nothing_of_it_reaches_a_program_that_is_watched_otherwise() {
    let osps = Launch::own(&["--heart", "none"], &["sh", "-c", "env; exec sleep 1000"])
        .env("OSPS_LOOP", "3:1:1:0:loop")
        .env("OSPS_HEART_PROCESS", "x")
        .start();
    let lines = || osps.out.lock().unwrap().iter().map(|l| l.text.clone()).collect::<Vec<_>>();
    osps.wait("its environment", || {
        lines().iter().any(|line| line.starts_with("OSPS_SLOT=")).then_some(())
    });
    for line in lines() {
        assert!(!line.starts_with("OSPS_LOOP=") && !line.starts_with("OSPS_HEART_"), "{line}");
    }
}

/// Where the shim of an instance is.
fn shim_of(osps: &Osps) -> PathBuf {
    let preload = osps.wait("what is preloaded", || {
        let environ = std::fs::read(format!("/proc/{}/environ", osps.pid(0))).ok()?;
        let mut entries = environ.split(|byte| *byte == 0);
        let preload = entries.find_map(|entry| entry.strip_prefix(b"LD_PRELOAD="))?;
        Some(String::from_utf8_lossy(preload).into_owned())
    });
    PathBuf::from(preload.rsplit(':').next().unwrap())
}

#[test]
fn the_shim_goes_with_osps_also_when_that_was_killed() {
    let mut osps = quick(&["loop"], &["sleep", "1000"]).spawn();
    let shim = shim_of(&osps);
    assert!(shim.is_file(), "{}", shim.display());
    osps.stop();
    assert!(!shim.exists(), "{}", shim.display());
    // Killed: the next one in the same place takes it over.
    let mut osps = quick(&["loop"], &["sleep", "1000"]).spawn();
    let shim = shim_of(&osps);
    osps.kill_watchdog();
    assert!(shim.is_file());
    let mut osps = Launch::own(&["--heart", "none"], &["sleep", "1000"]).in_place_of(osps).start();
    assert!(!shim.exists(), "{}", shim.display());
    osps.stop();
}

/// The link that says where the shim is may say anything.
#[test]
fn a_link_to_something_else_removes_nothing() {
    let mut osps = quick(&["loop"], &["sleep", "1000"]).spawn();
    let shim = shim_of(&osps);
    let dir = tempfile::tempdir().unwrap();
    osps.kill_watchdog();
    let link = osps.run_dir().join("loop.so");
    let others = ["loop.so", "osps-1-2-loop.so"].map(|name| dir.path().join(name));
    for other in &others {
        std::fs::write(other, "").unwrap();
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(other, &link).unwrap();
        let mut next = quick(&["loop"], &["sleep", "1000"]).in_place_of(osps).spawn();
        assert_eq!(shim_of(&next), shim);
        next.kill_watchdog();
        osps = next;
    }
    assert!(others.iter().all(|other| other.exists()), "{others:?}");
}

/// What was left alive on purpose executes programs, which look for it.
#[test]
fn the_shim_stays_for_those_who_stay() {
    if !is_root() {
        return skip("not root's shim lies in the run directory, and goes with that");
    }
    let script = "setsid sh -c 'sleep 2; exec sleep 3' & exec sleep 1000";
    let osps = quick(&["loop", "--kill-mode", "group"], &["sh", "-c", script]);
    let mut osps = osps.spawn();
    let shim = shim_of(&osps);
    pass(ms(500));
    osps.stop();
    assert!(osps.log().contains("left alone (--kill-mode group)"), "{}", osps.log());
    assert!(shim.is_file());
    std::fs::remove_file(shim).unwrap();
}

/// What the file preloads was lost: the shim's own environment was looked at.
#[test]
fn what_a_service_preloads_comes_before_the_shim() {
    let osps = Launch::up("[service.a]\n@LOOP@\nenv = { LD_PRELOAD = 'libm.so.6' }\n").spawn();
    osps.wait("a beat", || osps.is_state(0, osps_heart::words::State::Up).then_some(()));
    let environ = std::fs::read(format!("/proc/{}/environ", osps.pid(0))).unwrap();
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let preload = environ.split('\0').find_map(|entry| entry.strip_prefix("LD_PRELOAD="));
    assert!(preload.is_some_and(|all| all.starts_with("libm.so.6:")), "{preload:?}");
}

/// An osps that is watched itself: one shim in each program, and that obeys its own osps.
#[test]
fn one_osps_under_another_has_one_shim() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let inner = dir.path().join("inner").display().to_string();
    let inner = [BINARY, "run", "--run-dir", &inner, "--heart", "loop", "--", "sleep", "1000"];
    let osps = quick(&["loop"], &inner).spawn();
    let program = osps.wait("the inner program", || {
        let all = osps::sys::procfs::tree(osps.pid(0));
        let is = |pid: u32| osps::sys::procfs::name(pid).as_deref() == Some("sleep");
        all.into_iter().map(|stat| stat.pid).find(|pid| is(*pid))
    });
    // The name changes inside an exec, before the environment is there.
    let preload = osps.wait("what it preloads", || {
        let environ = std::fs::read(format!("/proc/{program}/environ")).unwrap();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        environ.split('\0').find(|entry| entry.starts_with("LD_PRELOAD=")).map(str::to_owned)
    });
    assert!(!preload.contains(':'), "{preload}");
    pass(ms(2500));
    // It waits past the C library, so it is not watched, and not killed for that.
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
}
