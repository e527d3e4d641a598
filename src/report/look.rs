//! One look at a process for a report, by what `/proc` shows to anybody who may look.
//!
//! Everything is bounded, nothing is traced or signalled, and nothing is read that holds the
//! program's own data: no environment, no arguments, no memory. What cannot be read is named.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use osps_heart::clock::SystemClock;
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic, nanos};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::calls::decode;
use super::{Process, Socket, Thread};
use crate::sys::procfs;

/// Most threads that are looked at, and those that are told. The leader is among them.
const THREADS_MAX: usize = 256;
/// Most descriptors that are looked at.
const DESCRIPTORS_MAX: usize = 4096;
/// Most sockets that are told.
const SOCKETS_MAX: usize = 100;
/// Most bytes of a file of one value or some lines.
const SMALL: u64 = 8 << 10;
/// Most bytes of a list of sockets: some ten thousand of them.
const LIST: u64 = 2 << 20;
/// Most frames of a stack in the kernel.
const FRAMES_MAX: usize = 32;
/// Lines of `/proc/PID/status` that are told.
const STATUS: [&str; 12] = [
    "VmPeak",
    "VmSize",
    "VmRSS",
    "VmSwap",
    "VmLck",
    "Threads",
    "TracerPid",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "Seccomp",
    "NoNewPrivs",
];
/// Limits that are told.
const LIMITS: [&str; 6] = [
    "Max cpu time",
    "Max stack size",
    "Max core file size",
    "Max processes",
    "Max open files",
    "Max address space",
];

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Monotonic,
    pub(super) program: String,
    pub(super) process: Process,
    pub(super) threads: Vec<Thread>,
    pub(super) threads_left_out: u64,
    pub(super) sockets: Vec<Socket>,
    pub(super) sockets_left_out: u64,
    pub(super) missing: Vec<String>,
}

impl Look {
    /// Looks at a process; `None` = it is gone, or another one has its number.
    pub(super) fn at(pid: u32, start_time: u64) -> Option<Look> {
        let is_it = || procfs::start_time(pid) == Some(start_time);
        if !is_it() {
            return None;
        }
        let mut missing = Missing::default();
        let at = SystemClock.now();
        // First what changes fastest.
        let descriptors = Descriptors::of(pid, &mut missing);
        let (mut threads, threads_left_out) = threads(pid, &descriptors, &mut missing);
        let (sockets, sockets_left_out) = descriptors.sockets();
        for thread in &mut threads {
            // Stacks in the kernel cost most, and whoever runs has none.
            thread.kernel_stack = kernel_stack(pid, thread.tid, &mut missing);
        }
        let process = process(pid, &descriptors, &mut missing);
        let program = procfs::name(pid).unwrap_or_default();
        let missing = missing.told();
        let look = Look {
            at,
            program,
            process,
            threads,
            threads_left_out,
            sockets,
            sockets_left_out,
            missing,
        };
        // Of one that dies meanwhile some is gone already: less than nothing.
        let whole = procfs::stat(pid).is_some_and(|stat| !stat.exiting && stat.state != 'Z');
        (is_it() && whole && !look.threads.is_empty()).then_some(look)
    }

    /// Adds what each thread did since an earlier look.
    pub(super) fn since(&mut self, before: &Look) {
        let known: HashMap<u32, u64> =
            before.threads.iter().map(|thread| (thread.tid, thread.cpu_ns)).collect();
        let span = nanos(self.at.since(before.at));
        for thread in &mut self.threads {
            if let Some(cpu) = known.get(&thread.tid) {
                thread.cpu_since_ns = Some(thread.cpu_ns.saturating_sub(*cpu));
                thread.since_ns = Some(span);
            }
        }
    }
}

/// What could not be read, each kind once.
#[derive(Debug, Default)]
struct Missing(BTreeMap<&'static str, String>);

impl Missing {
    fn note(&mut self, what: &'static str, error: &io::Error) {
        // Whoever is gone meanwhile is no news.
        if !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) {
            self.0.entry(what).or_insert_with(|| error.to_string());
        }
    }

    fn told(self) -> Vec<String> {
        self.0.into_iter().map(|(what, why)| format!("{what}: {why}")).collect()
    }
}

fn read_to(path: &str, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read(path: &str) -> io::Result<String> {
    read_to(path, SMALL)
}

fn threads(pid: u32, descriptors: &Descriptors, missing: &mut Missing) -> (Vec<Thread>, u64) {
    let mut tids = vec![pid];
    match std::fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tids.extend(
            tasks
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .filter(|tid: &u32| *tid != pid),
        ),
        Err(error) => missing.note("threads", &error),
    }
    let left_out = tids.len().saturating_sub(THREADS_MAX);
    tids.truncate(THREADS_MAX);
    let threads = tids.into_iter().filter_map(|tid| thread(pid, tid, descriptors, missing));
    (threads.collect(), left_out as u64)
}

fn thread(pid: u32, tid: u32, open: &Descriptors, missing: &mut Missing) -> Option<Thread> {
    let path = |file: &str| format!("/proc/{pid}/task/{tid}/{file}");
    let mut get = |file: &'static str| {
        read(&path(file)).map_err(|error| missing.note(file, &error)).unwrap_or_default()
    };
    let stat = get("stat");
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
    let cpu = get("schedstat").split_ascii_whitespace().next().and_then(|cpu| cpu.parse().ok());
    let channel = get("wchan");
    Some(Thread {
        tid,
        name,
        state: state.to_string(),
        wait_channel: if channel == "0" { String::new() } else { channel },
        call: decode(&get("syscall"), |number| open.told(number)),
        cpu_ns: cpu.unwrap_or(0),
        ..Thread::default()
    })
}

fn kernel_stack(pid: u32, tid: u32, missing: &mut Missing) -> Vec<String> {
    match read(&format!("/proc/{pid}/task/{tid}/stack")) {
        // `[<0>] futex_wait+0x10/0x20`.
        Ok(text) => text
            .lines()
            .take(FRAMES_MAX)
            .filter_map(|line| line.split_once("] ").map(|(_, frame)| frame.to_owned()))
            .collect(),
        Err(error) => {
            missing.note("stacks in the kernel", &error);
            Vec::new()
        }
    }
}

fn process(pid: u32, descriptors: &Descriptors, missing: &mut Missing) -> Process {
    let path = |file: &str| format!("/proc/{pid}/{file}");
    let mut get = |file: &'static str| {
        read(&path(file)).map_err(|error| missing.note(file, &error)).unwrap_or_default()
    };
    let status = get("status");
    let status = status.lines().filter_map(|line| line.split_once(':'));
    let status = status.filter(|(key, _)| STATUS.contains(key));
    let status = status.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
    // Fixed columns: a name, two numbers, a unit.
    let limits = get("limits");
    let limit = |line: &str| {
        let name = LIMITS.iter().find(|name| line.starts_with(*name))?;
        let mut words = line[name.len()..].split_ascii_whitespace();
        Some(((*name).to_owned(), words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let limits = limits.lines().filter_map(limit).collect();
    let groups = get("cgroup");
    let mut cgroup: Vec<String> = groups.lines().map(str::to_owned).collect();
    if let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::")) {
        for file in
            ["memory.current", "memory.high", "memory.max", "cpu.max", "cpu.stat", "pids.current"]
        {
            let text = read(&format!("/sys/fs/cgroup{path}/{file}")).unwrap_or_default();
            let lines =
                text.lines().filter(|line| file != "cpu.stat" || line.contains("throttled"));
            cgroup.extend(lines.map(|line| format!("{file} {line}")));
        }
    }
    let descriptors = descriptors.known.then_some(descriptors.count);
    Process { status, limits, cgroup, descriptors }
}

/// What the host was short of: `cpu some avg10=0.00 ...`.
pub(super) fn pressure() -> Vec<String> {
    let of = |what: &str| {
        let text = read(&format!("/proc/pressure/{what}")).unwrap_or_default();
        text.lines().map(|line| format!("{what} {line}")).collect::<Vec<_>>()
    };
    ["cpu", "memory", "io"].into_iter().flat_map(of).collect()
}

/// The open descriptors of a process.
#[derive(Debug, Default)]
struct Descriptors {
    pid: u32,
    known: bool,
    count: u64,
    targets: BTreeMap<i32, PathBuf>,
    sockets: HashMap<u64, Socket>,
}

impl Descriptors {
    fn of(pid: u32, missing: &mut Missing) -> Descriptors {
        let mut all = Descriptors { pid, ..Descriptors::default() };
        match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => {
                all.known = true;
                for entry in entries.flatten() {
                    all.count += 1;
                    let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                    if let Some(number) = number
                        && all.targets.len() < DESCRIPTORS_MAX
                        && let Ok(target) = std::fs::read_link(entry.path())
                    {
                        all.targets.insert(number, target);
                    }
                }
            }
            Err(error) => missing.note("descriptors", &error),
        }
        if all.targets.values().any(|target| socket_number(target).is_some()) {
            all.sockets = sockets(pid, missing);
        }
        all
    }

    /// What a descriptor is.
    fn told(&self, number: i32) -> String {
        let Some(target) = self.targets.get(&number) else { return String::new() };
        if let Some(inode) = socket_number(target) {
            return self.sockets.get(&inode).map_or("socket".to_owned(), |socket| {
                format!("socket {}", socket.what.split_once(' ').map_or("", |(_, rest)| rest))
            });
        }
        let bytes = target.as_os_str().as_bytes();
        if bytes.starts_with(b"pipe:") {
            return "pipe".to_owned();
        }
        if let Some(kind) = bytes.strip_prefix(b"anon_inode:") {
            let kind = String::from_utf8_lossy(kind);
            return kind.trim_matches(['[', ']']).replace("eventpoll", "epoll");
        }
        // Without asking a server for it: it may be the one that hangs.
        let path = format!("/proc/{}/fd/{number}", self.pid);
        let kind = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)
            .map(|seen| FileType::from_raw_mode(seen.stx_mode.into()));
        match kind {
            Ok(FileType::Fifo) => format!("FIFO {}", Shown(target)),
            _ => Shown(target).to_string(),
        }
    }

    /// The sockets, those first in which something waits.
    fn sockets(&self) -> (Vec<Socket>, u64) {
        let of = |(number, target): (&i32, &PathBuf)| {
            let socket = self.sockets.get(&socket_number(target)?)?;
            Some(Socket { descriptor: *number, ..socket.clone() })
        };
        let mut all: Vec<_> = self.targets.iter().filter_map(of).collect();
        all.sort_by_key(|socket| socket.unread == 0 && socket.unsent == 0);
        let left_out = all.len().saturating_sub(SOCKETS_MAX);
        all.truncate(SOCKETS_MAX);
        (all, left_out as u64)
    }
}

fn socket_number(target: &std::path::Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The sockets of the network namespace that a process is in, by their inodes.
fn sockets(pid: u32, missing: &mut Missing) -> HashMap<u64, Socket> {
    let mut found = HashMap::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6"] {
        match read_to(&format!("/proc/{pid}/net/{protocol}"), LIST) {
            Ok(text) => {
                found.extend(text.lines().skip(1).filter_map(|line| internet(protocol, line)));
            }
            Err(error) => missing.note("sockets", &error),
        }
    }
    match read_to(&format!("/proc/{pid}/net/unix"), LIST) {
        Ok(text) => found.extend(text.lines().skip(1).filter_map(unix)),
        Err(error) => missing.note("sockets", &error),
    }
    found
}

/// A line of `/proc/net/tcp` and its like.
fn internet(protocol: &str, line: &str) -> Option<(u64, Socket)> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let local = address(fields.get(1)?)?;
    let peer = address(fields.get(2)?)?;
    let code = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let (unsent, unread) = fields.get(4)?.split_once(':')?;
    let queue = |text| u64::from_str_radix(text, 16).ok();
    let inode = fields.get(9)?.parse().ok()?;
    let states = [
        "",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listening",
        "closing",
    ];
    let state = (*states.get(usize::from(code))?).to_owned();
    let protocol = protocol.trim_end_matches('6');
    let what = if peer.port() == 0 {
        format!("{protocol} {local}")
    } else {
        format!("{protocol} {local} - {peer}")
    };
    let state = if protocol == "udp" { String::new() } else { state };
    Some((
        inode,
        Socket { descriptor: 0, what, state, unread: queue(unread)?, unsent: queue(unsent)? },
    ))
}

/// `0100007F:1F90`: words in the machine's order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(host.get(at..at + 8)?, 16).ok()?.to_le_bytes());
    let ip = if host.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for part in 0..4 {
            bytes[part * 4..][..4].copy_from_slice(&word(part * 8)?);
        }
        let ip = Ipv6Addr::from(bytes);
        ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
    };
    Some(SocketAddr::new(ip, port))
}

/// A line of `/proc/net/unix`.
fn unix(line: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let kind = match fields.next()? {
        "0001" => "stream",
        "0002" => "datagram",
        _ => "packet",
    };
    let state = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().map_or(String::new(), |path| format!(" {path}"));
    // __SO_ACCEPTCON.
    let state = if flags & 0x10000 != 0 {
        "listening"
    } else if state == "03" {
        "established"
    } else {
        ""
    };
    let (what, state) = (format!("unix {kind}{path}"), state.to_owned());
    Some((inode, Socket { descriptor: 0, what, state, unread: 0, unsent: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn this_process_shows_its_threads_sockets_and_limits() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut client = TcpStream::connect(address).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        client.write_all(b"twelve bytes").expect("written");
        let _waiting = TcpStream::connect(address).expect("connected");
        let pid = std::process::id();
        let start = procfs::start_time(pid).expect("it lives");
        let before = Look::at(pid, start).expect("it lives");
        let mut look = Look::at(pid, start).expect("it lives");
        look.since(&before);
        assert_eq!(look.threads[0].tid, pid);
        // Others come and go while tests run.
        assert!(look.threads.len() >= 2 && look.threads[0].cpu_since_ns.is_some());
        let has = |what: String, state, unread| {
            let mut sockets = look.sockets.iter();
            sockets.any(|one| one.what == what && one.state == state && one.unread == unread)
        };
        assert!(has(format!("tcp {address}"), "listening", 1), "{:#?}", look.sockets);
        let peer = server.peer_addr().expect("the client");
        assert!(has(format!("tcp {address} - {peer}"), "established", 12), "{:#?}", look.sockets);
        assert!(look.process.limits.iter().any(|(name, ..)| name == "Max open files"));
        assert!(look.process.status.iter().any(|(key, _)| key == "VmRSS"));
        assert!(look.process.descriptors.is_some_and(|count| count > 3));
        assert!(Look::at(pid, start + 1).is_none(), "another one with its number");
        assert!(Look::at(u32::MAX, 1).is_none());
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        for (text, expected) in [
            ("0100007F:1F90", "127.0.0.1:8080"),
            ("00000000000000000000000001000000:0050", "[::1]:80"),
            ("0000000000000000FFFF00000100007F:0050", "127.0.0.1:80"),
        ] {
            assert_eq!(address(text).map(|at| at.to_string()), Some(expected.to_owned()));
        }
        for wrong in ["", "0100007F", "0100007G:1F90", "01:1F90", "0100007F:1F901"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
        assert!(internet("tcp", "garbage").is_none() && unix("").is_none());
    }
}
