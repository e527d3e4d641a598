//! Services that do not beat by themselves, watched from outside under the real osps.
//!
//! Goal: a file that stands still and a probe that fails convict, with the last failure in the
//! verdict; a prober that is stopped or killed is replaced and convicts nobody; nothing of it
//! outlives osps.
//!
//! Method: shell scripts as services; the file or the command says how they are. What one probe
//! means is tests/prober.rs.
//!
//! What it cannot show: a file system or a resolver that hangs.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::io::{Read, Write};

use osps::sys::process::Process;
use osps::sys::procfs;
use osps_heart::words::State;

use common::{Launch, Osps, Signal, ms, pass, text};

const OPTIONS: [&str; 6] =
    ["--hang-timeout", "1s", "--check-interval", "500ms", "--start-timeout", "20s"];

fn launch(heart: &str, script: &str) -> Launch {
    let options = [&OPTIONS[..], &["--heart", heart]].concat();
    Launch::own(&options, &["sh", "-c", script])
}

/// The prober of the only service.
fn prober(osps: &Osps) -> Process {
    let watchdog = osps.watchdog_pid();
    osps.wait("a prober", || {
        let probes = |pid: u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).nth(1) == Some(b"__probe")
        };
        let is = |stat: &&procfs::Stat| stat.parent == watchdog && probes(stat.pid);
        let all = procfs::processes();
        let stat = all.iter().find(is)?;
        Process::find(stat.pid, stat.start_time)
    })
}

#[test]
fn a_file_that_stands_still_convicts() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!(
        "i=0; while [ $OSPS_GENERATION != 1 -o $i -lt 20 ]; do i=$((i+1)); echo x >> {}; \
         sleep 0.1; done; exec sleep 1000",
        log.display()
    );
    let osps = launch(&format!("file:{}", log.display()), &script).start();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in ", "limit 1s; file: unchanged for "]);
    osps.wait_log(&["gen=2 ", "starting -> up (first beat after "]);
    pass(ms(2500));
    assert_eq!((osps.generation(0), osps.state(0)), (2, Some(State::Up)), "{}", osps.log());
}

#[test]
fn a_command_that_fails_convicts_with_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let well = dir.path().join("well");
    std::fs::write(&well, "").unwrap();
    let osps = launch(&format!("probe:test -e {}", well.display()), "exec sleep 1000").start();
    pass(ms(2500));
    assert_eq!(osps.generation(0), 1, "{}", osps.log());
    std::fs::remove_file(&well).unwrap();
    osps.wait_log(&["gen=1 ", "-> frozen (blocked in hrtimer_nanosleep", "limit 1s; probe: "]);
    osps.wait_log(&["gen=2 ", "down -> starting"]);
    std::fs::write(&well, "").unwrap();
    osps.wait_log(&["gen=2 ", "starting -> up"]);
    assert_eq!(osps.status()["servers"][0]["heart"], "probe");
}

#[test]
fn a_prober_that_is_stopped_or_killed_convicts_nobody_and_is_replaced() {
    let mut osps = launch("probe:true", "exec sleep 1000").start();
    let first = prober(&osps);
    osps.stop_process(&first);
    osps.wait_log(&[&format!("its prober (pid {}) hangs: replacing it", first.pid())]);
    osps.wait("its death", || first.is_dead().then_some(()));
    osps.wait_log(&[&format!("its prober (pid {}) is gone", first.pid())]);
    let second = prober(&osps);
    assert_ne!(first.pid(), second.pid());
    osps.signal(&second, Signal::KILL);
    osps.wait_log(&[&format!("its prober (pid {}) is gone", second.pid())]);
    let third = prober(&osps);
    pass(ms(2500));
    assert_eq!((osps.generation(0), osps.state(0)), (1, Some(State::Up)), "{}", osps.log());
    // And a freeze is found again: the probe of the next prober counts.
    assert_eq!(osps.status()["servers"][0]["watched"], true);
    osps.stop();
    assert!(third.is_dead(), "it outlives osps");
}

/// The README's first freeze.
#[test]
fn a_node_server_that_spins_is_replaced_and_serves_again() {
    if !common::has("node") {
        common::skip("node is missing");
        return;
    }
    let port = common::free_port();
    let server = format!(
        "require('http').createServer((req, res) => {{ if (req.url === '/spin') for (;;); \
         res.end('hello'); }}).listen({port}, '127.0.0.1')"
    );
    let heart = format!("probe:http://127.0.0.1:{port}/");
    let options = [&OPTIONS[..], &["--heart", &heart]].concat();
    let osps = Launch::own(&options, &["node", "-e", &server]).start();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    osps.wait_spinning(&["gen=1 ", "probe: no answer within "]);
    osps.wait_log(&["gen=2 ", "starting -> up (first beat after "]);
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello\r\n0\r\n\r\n") || answer.ends_with("hello"), "{answer}");
}

#[test]
fn what_cannot_be_probed_is_refused_at_once() {
    for (options, why) in [
        (&["--heart", "probe:https://127.0.0.1/"][..], "https:// cannot be probed"),
        (&["--heart", "probe:tcp://127.0.0.1"], "the port is missing"),
        (
            &["--heart", "probe:tcp://127.0.0.1:39998", "--listen", "127.0.0.1:39998"],
            "osps itself listens there",
        ),
        (&["--heart", "pulse"], "known are auto, memory"),
    ] {
        let output = Launch::own(options, &["true"]).output();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
    }
}
