//! Servers that nobody changed, as Debian has them: how they are started, asked, and stuck. Used by
//! the tests and by benches/loops.rs.
#![allow(dead_code, unreachable_pub, reason = "each user has its part")]

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::common::{Launch, Osps, compile, free_port, skip, text};

/// Of gunicorn: its master waits for events, too.
pub const WORKER: [&str; 3] = ["loop", "--heart-process", "worker"];
/// The verdict on one that spins.
pub const SPINNING: &str = "-> frozen (spinning; ";
/// While it is there, `accept` does not return.
const FREEZE: &str = "freeze";
/// A user's own preload stands before ours.
const SECOND_PRELOAD: &str = "export LD_PRELOAD=$FREEZER:$LD_PRELOAD; exec \"$@\"";

/// A server, how it is asked, and how it is stuck.
pub struct Case {
    pub name: &'static str,
    /// `--heart`, and perhaps `--heart-process`.
    pub heart: &'static [&'static str],
    pub command: Vec<String>,
    pub port: u16,
    pub ask: Vec<u8>,
    pub answer: &'static str,
    /// Requests that each block it; `None` = the file that stops it in `accept`.
    pub blocks: Option<Vec<&'static str>>,
    pub verdict: &'static str,
    /// How long it takes until it may be judged.
    pub start: &'static str,
}

impl Case {
    pub fn new(name: &'static str, port: u16, command: &[&str]) -> Case {
        Case {
            name,
            heart: &["loop"],
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

impl Case {
    /// Under osps with this limit; `dir` is one of its own.
    pub fn launch(&self, limit: &str, dir: &Path) -> Launch {
        // Workers are other users.
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        let options = ["--hang-timeout", limit, "--check-interval", "500ms", "--start-timeout"];
        let options = [&options[..], &[self.start, "--heart"], self.heart].concat();
        let mut command: Vec<&str> = self.command.iter().map(String::as_str).collect();
        if self.blocks.is_none() {
            // Not into osps itself, which accepts, too.
            command.splice(0..0, ["sh", "-c", SECOND_PRELOAD, "sh"]);
        }
        let launch = Launch::own(&options, &command).env("PATH", path());
        launch.env("FREEZE", dir.join(FREEZE)).env("FREEZER", freezer(dir))
    }

    /// Asks it once; whether it served.
    pub fn serves(&self) -> std::io::Result<bool> {
        Ok(exchange(self.port, &self.ask)?.contains(self.answer))
    }

    pub fn wait_served(&self, osps: &Osps) {
        osps.wait(&format!("an answer of {}", self.name), || {
            self.serves().is_ok_and(|served| served).then_some(())
        });
    }

    /// Blocks it in its own code, by one of its requests or for whoever comes next.
    pub fn stick(&self, dir: &Path, block: &str) -> Stuck {
        let freeze = dir.join(FREEZE);
        if self.blocks.is_none() {
            std::fs::write(&freeze, "").unwrap();
        }
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        client.write_all(block.as_bytes()).unwrap();
        Stuck { client, freeze }
    }
}

/// A server that is stuck, until a successor may serve.
pub struct Stuck {
    client: TcpStream,
    freeze: PathBuf,
}

impl Stuck {
    pub fn end(self) {
        let _ = std::fs::remove_file(&self.freeze);
        drop(self.client);
    }
}

/// Where daemons are, too, for users who do not start any.
pub fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

pub fn is_there(program: &str) -> bool {
    let there = std::env::split_paths(&path()).any(|dir| dir.join(program).is_file());
    if !there {
        skip(&format!("{program} is missing"));
    }
    there
}

pub fn file(name: &str) -> String {
    format!("{}/tests/loops/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The second preload, compiled.
pub fn freezer(dir: &Path) -> PathBuf {
    let out = dir.join("freeze.so");
    compile(&["-O1", "-shared", "-fPIC"], file("freeze.c").as_ref(), &out, &["-ldl"]);
    out
}

pub fn exchange(port: u16, ask: &[u8]) -> std::io::Result<String> {
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

pub fn config(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

pub fn nginx(dir: &Path, port: u16, master: &str) -> String {
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

/// The servers that are written in C: blocked in `accept`, or asleep on request.
pub fn daemons(dir: &Path) -> Vec<Case> {
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
        let conf = nginx(dir, port, "master_process off;");
        cases.push(Case::new("nginx", port, &["nginx", "-c", &conf]));
        let port = free_port();
        let conf = nginx(dir, port, "worker_processes 1;");
        cases.push(Case::new("nginx with its master", port, &["nginx", "-c", &conf]));
    }
    if is_there("haproxy") {
        let port = free_port();
        let text = format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client \
             9s\n  timeout server 9s\nfrontend f\n  bind 127.0.0.1:{port}\n  http-request return \
             status 200 content-type text/plain string well\n"
        );
        let conf = config(dir, "haproxy.cfg", &text);
        cases.push(Case::new("haproxy", port, &["haproxy", "-db", "-f", &conf]));
    }
    if is_there("mosquitto") {
        let port = free_port();
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        let conf = config(dir, "mosquitto.conf", &text);
        let mut case = Case::new("mosquitto", port, &["mosquitto", "-c", &conf]);
        // CONNECT of MQTT 3.1.1, and the first bytes of CONNACK.
        case.ask = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x".to_vec();
        case.answer = "\x20\x02";
        cases.push(case);
    }
    if is_there("lighttpd") {
        let port = free_port();
        std::fs::write(dir.join("index.html"), "well").unwrap();
        let text = format!(
            "server.document-root = \"{}\"\nserver.port = {port}\nserver.bind = \"127.0.0.1\"\n\
             index-file.names = (\"index.html\")\n",
            dir.display()
        );
        let conf = config(dir, "lighttpd.conf", &text);
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
    cases
}

/// The servers that are interpreted: stuck in their handlers.
pub fn interpreters(dir: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    if is_there("node") {
        let port = free_port();
        let command = ["node", &file("server.js"), &port.to_string()];
        let mut case = Case::new("node", port, &command);
        case.blocks = Some(vec!["GET /spin HTTP/1.0\r\n\r\n"]);
        case.verdict = SPINNING;
        cases.push(case);
        let port = free_port();
        let command = ["node", &file("server.js"), &port.to_string()];
        let mut case = Case::new("node with a child", port, &command);
        case.blocks = Some(vec!["GET /child HTTP/1.0\r\n\r\n"]);
        cases.push(case);
    }
    if is_there("python3") {
        let port = free_port();
        let mut case =
            Case::new("asyncio", port, &["python3", &file("server.py"), &port.to_string()]);
        (case.ask, case.answer) = (b"serve\n".to_vec(), "well");
        case.blocks = Some(vec!["sleep\n", "read\n", "request\n", "wait\n"]);
        cases.push(case);
    }
    if is_there("gunicorn") {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let command = ["gunicorn", "--chdir", &file(""), "-b", &address, "-t", "1000", "app:app"];
        let mut case = Case::new("gunicorn", port, &command);
        case.heart = &WORKER;
        case.blocks = Some(vec!["GET /sleep HTTP/1.0\r\n\r\n"]);
        cases.push(case);
    }
    if is_there("javac") && is_there("java") {
        let port = free_port();
        let mut javac = Command::new("javac");
        let done = javac.arg("-d").arg(dir).arg(file("Server.java")).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        let classes = dir.display().to_string();
        let command = ["java", "-Xshare:auto", "-cp", &classes, "Server", &port.to_string()];
        let mut case = Case::new("a JVM", port, &command);
        case.heart = &["loops"];
        (case.ask, case.answer) = (b"serve\n".to_vec(), "well");
        case.blocks = Some(vec!["sleep\n"]);
        cases.push(case);
    }
    cases
}
