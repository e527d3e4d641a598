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

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Launch, Osps, SOON, is_root, ms, pass, skip, text};

/// A user's own preload stands before ours.
const SECOND_PRELOAD: &str = "export LD_PRELOAD=$FREEZER:$LD_PRELOAD; exec \"$@\"";
const LIMIT: &str = "1s";
const OPTIONS: [&str; 4] = ["--hang-timeout", LIMIT, "--check-interval", "500ms"];
const IDLE: Duration = Duration::from_secs(10);
const LOAD: Duration = Duration::from_secs(2);

/// A server, how it is asked, and how it is stuck.
struct Case {
    name: &'static str,
    heart: &'static str,
    command: Vec<String>,
    port: u16,
    ask: Vec<u8>,
    answer: &'static str,
    /// Requests that each block it; `None` = the file that stops it in `accept`.
    blocks: Option<Vec<&'static str>>,
    verdict: &'static str,
    /// How long it takes until it may be judged.
    start: &'static str,
}

impl Case {
    fn new(name: &'static str, port: u16, command: &[&str]) -> Case {
        Case {
            name,
            heart: "loop",
            command: command.iter().map(|&word| word.to_owned()).collect(),
            port,
            ask: b"GET / HTTP/1.0\r\n\r\n".to_vec(),
            answer: "well",
            blocks: None,
            verdict: "-> frozen (blocked in ",
            start: "3s",
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where daemons are, too, for users who do not start any.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn is_there(program: &str) -> bool {
    let there = std::env::split_paths(&path()).any(|dir| dir.join(program).is_file());
    if !there {
        skip(&format!("{program} is missing"));
    }
    there
}

fn file(name: &str) -> String {
    format!("{}/tests/loops/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The second preload, compiled.
fn freezer(dir: &Path) -> PathBuf {
    let out = dir.join("freeze.so");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&out).arg(file("freeze.c")).arg("-ldl");
    let done = cc.output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    out
}

fn exchange(port: u16, ask: &[u8]) -> std::io::Result<String> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.write_all(ask)?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let length = client.read(&mut piece)?;
    answer.extend_from_slice(&piece[..length]);
    // An HTTP answer comes in two pieces now and then.
    while answer.starts_with(b"HTTP") && !answer.ends_with(b"well") {
        let length = client.read(&mut piece)?;
        if length == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..length]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn wait_served(osps: &Osps, case: &Case) {
    osps.wait(&format!("an answer of {}", case.name), || {
        let answer = exchange(case.port, &case.ask).ok()?;
        answer.contains(case.answer).then_some(())
    });
}

fn assert_innocent(osps: &Osps, case: &Case, generation: u32, when: &str) {
    assert_eq!(osps.generation(0), generation, "{} {when}\n{}", case.name, osps.log());
}

/// The whole life of one server.
fn live(case: &Case) {
    let dir = tempfile::tempdir().unwrap();
    // Workers are other users.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let freeze = dir.path().join("freeze");
    let options =
        [&OPTIONS[..], &["--start-timeout", case.start, "--heart", case.heart]].concat();
    let mut command: Vec<&str> = case.command.iter().map(String::as_str).collect();
    if case.blocks.is_none() {
        // Not into osps itself, which accepts, too.
        command.splice(0..0, ["sh", "-c", SECOND_PRELOAD, "sh"]);
    }
    let launch = Launch::own(&options, &command).env("PATH", path());
    let launch = launch.env("FREEZE", &freeze).env("FREEZER", freezer(dir.path()));
    let mut osps = launch.spawn();
    osps.wait("its first beat", || (osps.server(0)["watched"] == true).then_some(()));
    wait_served(&osps, case);
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
        let mut stuck = TcpStream::connect(("127.0.0.1", case.port)).unwrap();
        if case.blocks.is_none() {
            // The next one who comes.
            std::fs::write(&freeze, "").unwrap();
            stuck = TcpStream::connect(("127.0.0.1", case.port)).unwrap();
        } else {
            stuck.write_all(block.as_bytes()).unwrap();
        }
        let number = format!("gen={generation} ");
        let verdict = osps.wait_log(&[&number, case.verdict, "no beat for "]);
        assert!(verdict.text.contains(&format!("limit {LIMIT}")), "{}", verdict.text);
        let _ = std::fs::remove_file(&freeze);
        drop(stuck);
        wait_served(&osps, case);
        osps.wait("watched again", || {
            let server = osps.server(0);
            let next = generation + 1 == osps.generation(0);
            (next && server["watched"] == true && server["state"] == "up").then_some(())
        });
        // A loop counts as one after some turns.
        for _ in 0..5 {
            wait_served(&osps, case);
        }
    }
    osps.stop();
}

/// All of these at once, since they mostly sleep.
fn live_all(cases: &[Case]) {
    std::thread::scope(|scope| {
        let lives: Vec<_> = cases.iter().map(|case| (case.name, scope.spawn(|| live(case)))).collect();
        let failed = |(name, life): (&'static str, std::thread::ScopedJoinHandle<'_, ()>)| {
            life.join().is_err().then_some(name)
        };
        let failed: Vec<_> = lives.into_iter().filter_map(failed).collect();
        assert!(failed.is_empty(), "{failed:?} failed");
    });
}

fn config(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

fn nginx(dir: &Path, port: u16, master: &str) -> String {
    let text = format!(
        "daemon off; {master} pid {0}/nginx-{port}.pid; error_log {0}/nginx-{port}.log; \
         events {{ worker_connections 64; }} \
         http {{ access_log off; client_body_temp_path {0}/b{port}; proxy_temp_path {0}/p{port}; \
         fastcgi_temp_path {0}/f{port}; uwsgi_temp_path {0}/u{port}; scgi_temp_path {0}/s{port}; \
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 well; }} }} }}",
        dir.display()
    );
    config(dir, &format!("nginx-{port}.conf"), &text)
}

#[test]
fn daemons_are_convicted_in_their_own_code_and_never_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    if is_there("redis-server") {
        let (port, args) = (free_port(), ["--save", "", "--enable-debug-command", "yes"]);
        let number = port.to_string();
        let command = [&["redis-server", "--bind", "127.0.0.1", "--port", &number], &args[..]];
        let mut case = Case::new("redis", port, &command.concat());
        (case.ask, case.answer) = (b"PING\r\n".to_vec(), "+PONG");
        case.blocks = Some(vec!["DEBUG SLEEP 1000\r\n"]);
        cases.push(case);
    }
    if is_there("nginx") {
        let port = free_port();
        let conf = nginx(dir.path(), port, "master_process off;");
        cases.push(Case::new("nginx", port, &["nginx", "-c", &conf]));
        let port = free_port();
        let conf = nginx(dir.path(), port, "worker_processes 1;");
        cases.push(Case::new("nginx with its master", port, &["nginx", "-c", &conf]));
    }
    if is_there("haproxy") {
        let port = free_port();
        let text = format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client \
             9s\n  timeout server 9s\nfrontend f\n  bind 127.0.0.1:{port}\n  http-request return \
             status 200 content-type text/plain string well\n"
        );
        let conf = config(dir.path(), "haproxy.cfg", &text);
        cases.push(Case::new("haproxy", port, &["haproxy", "-db", "-f", &conf]));
    }
    if is_there("mosquitto") {
        let port = free_port();
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        let conf = config(dir.path(), "mosquitto.conf", &text);
        let mut case = Case::new("mosquitto", port, &["mosquitto", "-c", &conf]);
        // CONNECT of MQTT 3.1.1, and the first bytes of CONNACK.
        case.ask = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x".to_vec();
        case.answer = "\x20\x02";
        cases.push(case);
    }
    if is_there("lighttpd") {
        let port = free_port();
        std::fs::write(dir.path().join("index.html"), "well").unwrap();
        let text = format!(
            "server.document-root = \"{}\"\nserver.port = {port}\nserver.bind = \"127.0.0.1\"\n\
             index-file.names = (\"index.html\")\n",
            dir.path().display()
        );
        let conf = config(dir.path(), "lighttpd.conf", &text);
        cases.push(Case::new("lighttpd", port, &["lighttpd", "-D", "-f", &conf]));
    }
    if is_there("memcached") {
        let port = free_port();
        let number = port.to_string();
        let command = ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", &number];
        let mut case = Case::new("memcached", port, &command);
        (case.ask, case.answer) = (b"version\r\n".to_vec(), "VERSION");
        cases.push(case);
    }
    live_all(&cases);
}

#[test]
fn interpreters_are_convicted_in_their_handlers_and_never_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    if is_there("node") {
        let port = free_port();
        let command = ["node", &file("server.js"), &port.to_string()];
        let mut case = Case::new("node", port, &command);
        case.blocks = Some(vec!["GET /spin HTTP/1.0\r\n\r\n"]);
        case.verdict = "-> frozen (spinning; ";
        cases.push(case);
        let port = free_port();
        let command = ["node", &file("server.js"), &port.to_string()];
        let mut case = Case::new("node with a child", port, &command);
        case.blocks = Some(vec!["GET /child HTTP/1.0\r\n\r\n"]);
        cases.push(case);
    }
    if is_there("python3") {
        let port = free_port();
        let mut case = Case::new("asyncio", port, &["python3", &file("server.py"), &port.to_string()]);
        (case.ask, case.answer) = (b"serve\n".to_vec(), "well");
        case.blocks = Some(vec!["sleep\n", "read\n", "request\n", "wait\n"]);
        cases.push(case);
    }
    if is_there("gunicorn") {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let command = ["gunicorn", "--chdir", &file(""), "-b", &address, "-t", "1000", "app:app"];
        let mut case = Case::new("gunicorn", port, &command);
        case.blocks = Some(vec!["GET /sleep HTTP/1.0\r\n\r\n"]);
        cases.push(case);
    }
    if is_there("javac") && is_there("java") {
        let port = free_port();
        let mut javac = Command::new("javac");
        let done = javac.arg("-d").arg(dir.path()).arg(file("Server.java")).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        let classes = dir.path().display().to_string();
        let command = ["java", "-Xshare:auto", "-cp", &classes, "Server", &port.to_string()];
        let mut case = Case::new("a JVM", port, &command);
        case.heart = "loops";
        (case.ask, case.answer) = (b"serve\n".to_vec(), "well");
        case.blocks = Some(vec!["sleep\n"]);
        cases.push(case);
    }
    live_all(&cases);
}
