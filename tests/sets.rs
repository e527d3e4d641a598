//! A set of real servers under one `osps.toml`, and what their clients see.
//!
//! Goal: redis, an application under gunicorn that counts in redis, and nginx in front of it are
//! started in order; under load each of them is killed, blocked in its own code, restarted and
//! reloaded, and is back within the time that docs/services.md tells. Nobody else is touched. Where
//! osps holds the socket, no connection is refused, whatever became of the server behind it.
//!
//! Method: threads of plain HTTP clients ask nginx all the time and count what comes back, and how
//! long nobody was served. The application is a few lines of WSGI; redis sleeps by DEBUG SLEEP, the
//! worker of gunicorn in a handler, all processes of nginx are stopped.
//!
//! What it cannot show: clients that keep connections open; other versions of these servers.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "what clients saw, for docs/services.md")]

mod common;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Launch, Osps, Signal, free_port, ms, pass, process_of, skip, text};
use osps::sys::procfs;
use osps_heart::words::State;

/// Their slots, in the order of the file.
const SET: [&str; 3] = ["redis", "app", "nginx"];
const LIMIT: Duration = ms(1000);
/// So old a loop may be judged.
const START: Duration = ms(1500);

/// Counts in redis, by the plain protocol, and waits for it for less than its own limit: who waits
/// for longer than that is frozen as well.
const APP: &str = r#"
import ctypes, os, socket, time

ctypes.CDLL(None).prctl(15, b"worker", 0, 0, 0)
redis = None

def count():
    global redis
    if redis is None:
        redis = socket.create_connection(("127.0.0.1", int(os.environ["REDIS"])), 0.3)
    redis.sendall(b"INCR hits\r\n")
    answer = redis.recv(100)
    if not answer.startswith(b":"):
        raise OSError("redis is gone")
    return answer[1:].strip()

def app(environ, start_response):
    global redis
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(1000)
    for again in (True, False):
        try:
            number = count()
            break
        except OSError as error:
            redis = None
            # A connection that was cut is worth another try, one that is silent is not.
            if isinstance(error, socket.timeout) or not again:
                start_response("503 Service Unavailable", [])
                return [b""]
    start_response("200 OK", [("Content-Length", str(len(number)))])
    return [number]
"#;

/// What clients saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    served: u32,
    /// By nginx: nobody answered it.
    bad_gateway: u32,
    /// By the application: redis did not answer.
    unavailable: u32,
    refused: u32,
    /// Connections that ended without an answer.
    cut: u32,
    /// The longest time in which nobody was served.
    gap: Duration,
}

/// Clients that ask all the time.
struct Load {
    seen: Mutex<(Seen, Instant)>,
    over: AtomicBool,
    port: u16,
}

const CLIENTS: u32 = 4;

impl Load {
    fn ask(&self) {
        let answer = get(self.port, "/", ms(8000));
        let mut guard = self.seen.lock().unwrap();
        let (seen, last) = &mut *guard;
        match answer {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                seen.served += 1;
                seen.gap = seen.gap.max(last.elapsed());
                *last = Instant::now();
            }
            Ok(answer) if answer.starts_with("HTTP/1.1 502") => seen.bad_gateway += 1,
            Ok(answer) if answer.starts_with("HTTP/1.1 503") => seen.unavailable += 1,
            Ok(answer) => {
                assert!(answer.is_empty(), "{answer}");
                seen.cut += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                seen.refused += 1;
            }
            Err(_) => seen.cut += 1,
        }
    }

    /// What was seen since the last time.
    fn take(&self) -> Seen {
        let mut seen = self.seen.lock().unwrap();
        seen.1 = Instant::now();
        std::mem::take(&mut seen.0)
    }
}

fn get(port: u16, path: &str, patience: Duration) -> std::io::Result<String> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(patience))?;
    write!(client, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The set, running, in a directory of its own.
struct Set {
    osps: Osps,
    dir: tempfile::TempDir,
    redis: u16,
    app: u16,
    web: u16,
}

impl Set {
    fn start() -> Option<Set> {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        for program in ["redis-server", "gunicorn", "nginx"] {
            if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
                skip(&format!("{program} is missing"));
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        // Workers of nginx are other users.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let [redis, app, web] = [(); 3].map(|()| free_port());
        std::fs::write(dir.path().join("app.py"), APP).unwrap();
        std::fs::write(dir.path().join("nginx.conf"), nginx(dir.path(), app, web)).unwrap();
        write_file(dir.path(), [redis, app, web], None);
        let osps = Launch::of_file(&["--quiet"], &dir.path().join("osps.toml")).env("PATH", path);
        let osps = osps.env("RUST_LOG", "info").spawn();
        let set = Set { osps, dir, redis, app, web };
        set.wait_back([0; 3]);
        Some(set)
    }

    fn generations(&self) -> [u32; 3] {
        [0, 1, 2].map(|slot| self.osps.generation(slot))
    }

    /// All up, watched and old enough to be judged, of later generations than these.
    fn wait_back(&self, before: [u32; 3]) {
        self.osps.wait("the set", || {
            let is_up = |slot: usize| {
                self.osps.generation(slot) > before[slot]
                    && self.osps.is_state(slot, State::Up)
                    && self.osps.server(slot)["watched"] == true
            };
            (0..SET.len()).all(is_up).then_some(())
        });
        pass(START);
    }

    /// Lines of nginx about an application that refused it.
    fn refusals(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("Connection refused")).count()
    }

    fn order(&self, args: &[&str]) {
        let done = self.osps.command(args);
        assert!(done.status.success(), "{}\n{}", text(&done), self.osps.log());
    }

    /// Kills the process of a service; what it started, osps ends.
    fn kill(&self, slot: usize) {
        self.osps.signal(&self.osps.process(slot), Signal::KILL);
    }

    /// Blocks it in its own code.
    fn block(&self, slot: usize) -> Option<TcpStream> {
        match SET[slot] {
            "redis" => {
                let mut client = TcpStream::connect(("127.0.0.1", self.redis)).unwrap();
                client.write_all(b"DEBUG SLEEP 1000\r\n").unwrap();
                Some(client)
            }
            "app" => {
                let mut client = TcpStream::connect(("127.0.0.1", self.app)).unwrap();
                client.write_all(b"GET /sleep HTTP/1.0\r\n\r\n").unwrap();
                Some(client)
            }
            _ => {
                let leader = self.osps.pid(slot);
                let below = procfs::tree(leader).into_iter().map(|stat| stat.pid);
                for process in below.chain([leader]).filter_map(process_of) {
                    self.osps.signal(&process, Signal::STOP);
                }
                None
            }
        }
    }

    /// A change of its arguments that changes nothing else.
    fn reload(&self, slot: usize) {
        write_file(self.dir.path(), [self.redis, self.app, self.web], Some(slot));
        self.order(&["reload"]);
    }
}

/// Its socket comes from osps, by the variable through which nginx upgrades itself.
fn nginx(dir: &Path, app: u16, web: u16) -> String {
    format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/error.log; \
         events {{ worker_connections 256; }} \
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; \
         fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; \
         server {{ listen 127.0.0.1:{web}; location / {{ proxy_pass http://127.0.0.1:{app}; }} }} }}",
        dir.display()
    )
}

fn write_file(dir: &Path, [redis, app, web]: [u16; 3], changed: Option<usize>) {
    let more = |slot: usize, args: &str| match changed {
        Some(of) if of == slot => args.to_owned(),
        _ => String::new(),
    };
    let (redis_args, app_args) = (more(0, " --maxclients 5000"), more(1, " --backlog 99"));
    let nginx_args = more(2, " -g 'worker_rlimit_nofile 512;'");
    let file = format!(
        r#"
check-interval = "500ms"

[defaults]
heart = "loop"
hang-timeout = "{LIMIT:?}"
start-timeout = "{START:?}"

[service.redis]
command = "redis-server --bind 127.0.0.1 --port {redis} --save '' --enable-debug-command yes{redis_args}"

[service.app]
command = "gunicorn --timeout 1000 --log-level warning{app_args} app:app"
env = {{ REDIS = "{redis}" }}
directory = "."
heart-process = "worker"
listen = "127.0.0.1:{app}"
depends-on = ["redis"]

[service.nginx]
command = "nginx -c {dir}/nginx.conf{nginx_args}"
env = {{ NGINX = "3;" }}
listen = "127.0.0.1:{web}"
stop-signal = "QUIT"
depends-on = ["app"]
"#,
        dir = dir.display(),
    );
    std::fs::write(dir.join("osps.toml"), file).unwrap();
}

/// What is done to one of them; what comes back is held until the fault is over.
type Fault<'a> = &'a dyn Fn(&Set) -> Option<TcpStream>;

/// The four faults of one of the set, under load; what clients saw of each.
fn live(slot: usize) -> Option<[Seen; 4]> {
    let set = Set::start()?;
    let load = Load {
        seen: Mutex::new((Seen::default(), Instant::now())),
        over: AtomicBool::new(false),
        port: set.web,
    };
    let faults: [(&str, Fault<'_>); 4] = [
        ("killed", &|set| {
            set.kill(slot);
            None
        }),
        ("blocked", &|set| set.block(slot)),
        ("restarted", &|set| {
            set.order(&["restart", SET[slot]]);
            None
        }),
        ("reloaded", &|set| {
            set.reload(slot);
            None
        }),
    ];
    let seen = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !load.over.load(Ordering::Relaxed) {
                    load.ask();
                    std::thread::sleep(ms(5));
                }
            });
        }
        // Also if something fails: the clients end.
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            faults.map(|(what, fault)| {
                let before = set.generations();
                load.take();
                let held = fault(&set);
                let mut least = [0; 3];
                least[slot] = before[slot];
                set.wait_back(least);
                drop(held);
                let seen = load.take();
                eprintln!("{} {what}: {seen:?}", SET[slot]);
                let mut expected = before;
                expected[slot] += set.generations()[slot] - before[slot];
                assert_eq!(set.generations(), expected, "others were touched\n{}", set.osps.log());
                seen
            })
        }));
        load.over.store(true, Ordering::Relaxed);
        seen
    });
    let seen = seen.unwrap_or_else(|why| std::panic::resume_unwind(why));
    assert_eq!(set.refusals(), 0, "gunicorn's socket is held by osps");
    set.order(&["stop"]);
    Some(seen)
}

/// What may become of requests: generous bounds, for a loaded machine. Whom osps holds the socket
/// for refuses nobody.
#[derive(Clone, Copy)]
struct Most {
    bad_gateway: u32,
    unavailable: u32,
    cut: u32,
}

fn check(slot: usize, most: Most) {
    let Some(all) = live(slot) else { return };
    for (seen, what) in all.iter().zip(["killed", "blocked", "restarted", "reloaded"]) {
        assert_eq!(seen.refused, 0, "{what}: {seen:?}");
        assert!(seen.served > 50, "{what}: {seen:?}");
        assert!(seen.bad_gateway <= most.bad_gateway, "{what}: {seen:?}");
        assert!(seen.unavailable <= most.unavailable, "{what}: {seen:?}");
        assert!(seen.cut <= most.cut, "{what}: {seen:?}");
        let silence = if what == "blocked" { LIMIT } else { Duration::ZERO };
        assert!(seen.gap <= silence + ms(3000), "{what}: {seen:?}");
    }
}

/// What is under way when somebody dies; there is one request per client.
const UNDER_WAY: u32 = CLIENTS;

#[test]
fn redis_goes_and_the_application_says_so_until_it_is_back() {
    check(0, Most { bad_gateway: 0, unavailable: 500, cut: 0 });
}

#[test]
fn the_application_goes_and_its_clients_wait() {
    check(1, Most { bad_gateway: UNDER_WAY, unavailable: 0, cut: 0 });
}

#[test]
fn the_front_goes_and_its_clients_wait() {
    check(2, Most { bad_gateway: 0, unavailable: 0, cut: UNDER_WAY });
}
