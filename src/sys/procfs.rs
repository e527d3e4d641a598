//! What `/proc` says, parsed by total functions.
//!
//! Only files that cannot block on the victim's own locks are read (stat, status, wchan,
//! schedstat, cgroup), each at most once and bounded; no ptrace. Whoever may signal a process may
//! read these.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use osps_heart::shown::Shown;

/// Most threads looked at: bounds the time that a look takes. The leader is always among them.
const THREADS_MAX: usize = 64;
/// Most bytes read of one file.
const BYTES_MAX: u64 = 4096;
/// The same for `/proc/vmstat`, whose interesting line is far down.
const VMSTAT_MAX: u64 = 1 << 16;
/// Most directory entries walked to find those threads.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// One thread, as the kernel prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStat {
    /// Thread id.
    pub tid: u32,
    /// State letter.
    pub state: char,
    /// It will never run a user's instruction again.
    pub exiting: bool,
    /// Time on a processor.
    pub cpu: Duration,
    /// Time waiting for one.
    pub run_delay: Duration,
    /// How often it went to sleep; `None` = it is not ready to run, or the kernel does not say.
    pub sleeps: Option<u64>,
}

/// One look at a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// A tracer is attached.
    pub traced: bool,
    /// Its control group is frozen.
    pub cgroup_frozen: bool,
    /// The kernel is writing its core.
    pub core_dumping: bool,
    /// Its threads, the leader first.
    pub threads: Vec<ThreadStat>,
    /// Where the leader sleeps.
    pub wait_channel: String,
    /// The same for the first thread in an uninterruptible wait.
    pub uninterruptible: String,
}

/// Looks at a process; `None` = it is gone or hidden.
pub fn look(pid: u32) -> Option<Look> {
    let leader = thread(pid, pid)?;
    let mut threads = vec![leader];
    if let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) {
        let tids = tasks.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        threads.extend(
            tids.filter(|tid| *tid != pid).take(THREADS_MAX - 1).filter_map(|tid| thread(pid, tid)),
        );
    }
    let status = read(&format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = field(&status, "TracerPid:").and_then(|value| value.parse::<u32>().ok());
    let waiting = threads.iter().find(|thread| thread.state == 'D');
    Some(Look {
        traced: tracer.is_some_and(|tracer| tracer != 0),
        core_dumping: field(&status, "CoreDumping:") == Some("1"),
        cgroup_frozen: is_frozen(&read(&format!("/proc/{pid}/cgroup")).unwrap_or_default()),
        wait_channel: wait_channel(pid, pid),
        uninterruptible: waiting.map(|thread| wait_channel(pid, thread.tid)).unwrap_or_default(),
        threads,
    })
}

/// One thread, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Thread id.
    pub tid: u32,
    /// Its name, as it is shown.
    pub name: String,
    /// State letter.
    pub state: char,
    /// Time on a processor so far.
    pub cpu: Duration,
    /// The kernel function that it sleeps in; empty if it does not, or we may not know.
    pub wait_channel: String,
}

/// The threads of a process, the leader first, and how many there are.
pub fn tasks(pid: u32) -> (Vec<Task>, usize) {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return (Vec::new(), 0);
    };
    let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut tids: Vec<u32> = tids.collect();
    let total = tids.len();
    tids.sort_unstable_by_key(|tid| (*tid != pid, *tid));
    let task = |tid| {
        let ThreadStat { state, cpu, .. } = thread(pid, tid)?;
        let name = name_in(&format!("/proc/{pid}/task/{tid}/comm"))?;
        Some(Task { tid, name, state, cpu, wait_channel: wait_channel(pid, tid) })
    };
    (tids.into_iter().take(THREADS_MAX).filter_map(task).collect(), total)
}

/// The kernel function that a thread sleeps in; empty if it does not, or we may not know.
fn wait_channel(pid: u32, tid: u32) -> String {
    let channel = read(&format!("/proc/{pid}/task/{tid}/wchan"));
    channel.filter(|channel| channel != "0").unwrap_or_default()
}

/// What the kernel says of a process in its `stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: u32,
    /// State letter.
    pub state: char,
    /// Pid of its parent.
    pub parent: u32,
    /// Its session: the pid of the process that made it.
    pub session: u32,
    /// It is on its way out of the kernel: it will never run a user's instruction again.
    pub exiting: bool,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// The flag of `stat` that says so, from linux/sched.h.
const PF_EXITING: u64 = 4;

/// Looks at a process's `stat`.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(pid, &read(&format!("/proc/{pid}/stat"))?)
}

/// All processes that are visible, one look at each; some 10 us a process.
pub fn processes() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).collect()
}

/// Everybody below this process, as its children and theirs: costs as much as there are of those,
/// however many processes the machine has. The kernel may leave somebody out while another one
/// ends, so two looks have to agree.
pub fn tree(root: u32) -> Vec<Stat> {
    tree_but(root, &[])
}

/// The same without those of its children, and whoever is below them: they are not even looked at.
pub fn tree_but(root: u32, but: &[u32]) -> Vec<Stat> {
    let mut before = descendants(root, but);
    for _ in 0..LOOKS {
        let again = descendants(root, but);
        if again == before {
            break;
        }
        before = again;
    }
    match before {
        Some(pids) => pids.into_iter().filter_map(stat).collect(),
        // A kernel without these lists (CONFIG_PROC_CHILDREN).
        None => processes(),
    }
}

/// Everything below these processes, which are not included.
pub fn below(all: &[Stat], roots: impl IntoIterator<Item = u32>) -> Vec<Stat> {
    let mut parents: HashSet<u32> = roots.into_iter().collect();
    let mut found: Vec<Stat> = Vec::new();
    loop {
        let is_new = |stat: &&Stat| parents.contains(&stat.parent) && !parents.contains(&stat.pid);
        let new: Vec<Stat> = all.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return found;
        }
        parents.extend(new.iter().map(|stat| stat.pid));
        found.extend(new);
    }
}

/// The children of this process that are dead and not yet reaped.
pub fn zombies_of(parent: u32) -> Vec<u32> {
    let all = match children(parent) {
        Some(pids) => pids.into_iter().filter_map(stat).collect(),
        None => processes(),
    };
    let is_dead = |stat: &&Stat| stat.parent == parent && stat.state == 'Z';
    all.iter().filter(is_dead).map(|stat| stat.pid).collect()
}

/// Further looks at a tree that does not hold still.
const LOOKS: usize = 4;
/// Most bytes of a list of children.
const CHILDREN_MAX: u64 = 1 << 20;

fn descendants(root: u32, but: &[u32]) -> Option<Vec<u32>> {
    let mut found = children(root)?;
    found.retain(|pid| !but.contains(pid));
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        // Who has gone meanwhile has none.
        let more = children(*pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    Some(found)
}

/// The children of a process, of all its threads; `None` = it is gone, or the kernel does not tell.
fn children(pid: u32) -> Option<Vec<u32>> {
    let mut found = None;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let path = task.path().join("children");
        // A thread that ended meanwhile handed its children on.
        let Some(list) = read_to(path.to_str()?, CHILDREN_MAX) else { continue };
        let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        found.get_or_insert_with(Vec::new).extend(pids);
    }
    found
}

/// The pids of a process in its pid namespaces, from ours to its own.
pub fn pids_of(pid: u32) -> Vec<u32> {
    let status = read(&format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = field(&status, "NSpid:").unwrap_or_default();
    pids.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect()
}

/// How long a look at an environment may take.
const PATIENCE: Duration = Duration::from_millis(50);
/// Most bytes of one.
const ENVIRON_MAX: u64 = 1 << 18;

/// Whether a process has this `NAME=VALUE` in its environment. Reading it waits for locks of the
/// process, so a thread does, and is left behind if that takes too long; then the answer is no.
pub fn has_variable(pid: u32, variable: &[u8]) -> bool {
    has_variables(pid, &[variable])
}

/// The same for several: all of them.
pub fn has_variables(pid: u32, variables: &[&[u8]]) -> bool {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let read = move || tell.send(read_bytes(&format!("/proc/{pid}/environ"), ENVIRON_MAX));
    let reader = std::thread::Builder::new().stack_size(64 << 10).spawn(read);
    let environ = reader.ok().and_then(|_| told.recv_timeout(PATIENCE).ok()).flatten();
    environ.is_some_and(|bytes| {
        let has = |variable: &&[u8]| bytes.split(|byte| *byte == 0).any(|entry| entry == *variable);
        variables.iter().all(has)
    })
}

/// When a process started, in clock ticks since boot.
pub fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// The number of the pid namespace that this process is in.
pub fn pid_namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino())
}

/// Its state letter.
pub fn state(pid: u32) -> Option<char> {
    stat(pid).map(|stat| stat.state)
}

/// The command's short name, as it is shown.
pub fn name(pid: u32) -> Option<String> {
    name_in(&format!("/proc/{pid}/comm"))
}

fn name_in(file: &str) -> Option<String> {
    let name = read_bytes(file, BYTES_MAX)?;
    Some(Shown(OsStr::from_bytes(name.trim_ascii_end())).to_string())
}

/// Processes that hold a file open, by device and inode; for messages, so it may miss some.
pub fn holders(device: u64, inode: u64) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten().any(|fd| {
            let meta = std::fs::metadata(fd.path());
            meta.is_ok_and(|meta| meta.dev() == device && meta.ino() == inode)
        })
    };
    pids.filter(|pid| *pid != std::process::id()).filter(holds).collect()
}

/// Most bytes of `/proc/locks`: some ten thousand locks.
const LOCKS_MAX: u64 = 1 << 20;

/// Who holds an exclusive flock on a file, if that process can be seen from here.
pub fn lock_holder(device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks().lines().filter_map(exclusive).find(|(_, locked)| *locked == file).map(|found| found.0)
}

/// Processes that can be seen from here and hold an exclusive flock on something.
pub fn lock_holders() -> Vec<u32> {
    let mut pids: Vec<_> = locks().lines().filter_map(exclusive).map(|found| found.0).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The files that a process has open, by the paths that it sees; none if we may not know.
pub fn open_files(pid: u32) -> Vec<PathBuf> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect()
}

/// Numbers of the sockets that a process has open; none if we may not know.
pub fn open_sockets(pid: u32) -> Vec<i32> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_socket = |path: PathBuf| path.as_os_str().as_bytes().starts_with(b"socket:");
    fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(is_socket))
        .filter_map(|fd| fd.file_name().to_str()?.parse().ok())
        .collect()
}

/// The status of a process that is dead and not yet reaped, as wait(2) has it; `None` = it is not
/// there any more, or we may not know.
pub fn exit_status(pid: u32, started: u64) -> Option<i32> {
    let line = read(&format!("/proc/{pid}/stat"))?;
    let stat = parse_stat(pid, &line)?;
    let is_it = stat.state == 'Z' && stat.start_time == started;
    // Field 52, the last one.
    is_it.then(|| line.split_ascii_whitespace().next_back()?.parse().ok()).flatten()
}

fn locks() -> String {
    read_bytes("/proc/locks", LOCKS_MAX)
        .map_or(String::new(), |text| String::from_utf8_lossy(&text).into_owned())
}

/// Holder and file of an exclusive flock in a line of `/proc/locks`; of one that is waited for the
/// line has an arrow in the second place.
fn exclusive(line: &str) -> Option<(u32, &str)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (kind, _, mode) = (fields.next()?, fields.next()?, fields.next()?);
    let pid = fields.next()?.parse().ok().filter(|pid| *pid != 0)?;
    (kind == "FLOCK" && mode == "WRITE").then_some((pid, fields.next()?))
}

/// The kernel's random name for this boot, as two words.
pub fn boot_id() -> [u64; 2] {
    let text = read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let word =
        |range| digits.get(range).and_then(|part| u64::from_str_radix(part, 16).ok()).unwrap_or(0);
    [word(0..16), word(16..32)]
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: u32) -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    is_in_mask(&status, "SigIgn:", signal)
}

/// Whether a process has a handler of its own for a signal.
pub fn handles(pid: u32, signal: u32) -> bool {
    let status = read(&format!("/proc/{pid}/status")).unwrap_or_default();
    is_in_mask(&status, "SigCgt:", signal)
}

fn is_in_mask(status: &str, key: &str, signal: u32) -> bool {
    let mask = field(status, key).and_then(|value| u64::from_str_radix(value, 16).ok());
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
}

/// Kills for want of memory so far, where a process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKills {
    /// The file that counts them: of its control group, or of the machine.
    place: String,
    count: u64,
}

/// What was read while several processes are looked at: a file that counts for many is read once.
#[derive(Debug, Default)]
pub struct OomCounts(HashMap<String, Option<u64>>);

impl OomCounts {
    fn of(&mut self, place: String) -> Option<OomKills> {
        let count = *self.0.entry(place.clone()).or_insert_with(|| oom_count(&place));
        Some(OomKills { place, count: count? })
    }
}

impl OomKills {
    /// Those that concern a process; `None` = nobody counts them.
    pub fn of(pid: u32, counts: &mut OomCounts) -> Option<OomKills> {
        let cgroups = read(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
        // The root group counts nothing; then the machine's number is what there is.
        let mut places = cgroups.lines().flat_map(oom_files);
        places.find_map(|place| counts.of(place)).or_else(|| counts.of("/proc/vmstat".to_owned()))
    }

    /// As of now, if its process has not moved.
    pub fn again(&self, counts: &mut OomCounts) -> Option<OomKills> {
        counts.of(self.place.clone())
    }

    /// Whether there was one since then. The kill of a process that moved meanwhile is not seen.
    pub fn grew(&self) -> bool {
        oom_count(&self.place).is_some_and(|now| now > self.count)
    }
}

fn oom_count(place: &str) -> Option<u64> {
    let text = read_to(place, VMSTAT_MAX)?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

/// Where a line of `/proc/PID/cgroup` has its kills counted, version 2 or version 1.
fn oom_files(line: &str) -> Vec<String> {
    let mut parts = line.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(""), Some(path)) => {
            CGROUP_ROOTS.map(|root| format!("{root}{path}/memory.events")).to_vec()
        }
        (Some(_), Some(controllers), Some(path))
            if controllers.split(',').any(|controller| controller == "memory") =>
        {
            vec![format!("/sys/fs/cgroup/memory{path}/memory.oom_control")]
        }
        _ => Vec::new(),
    }
}

fn thread(pid: u32, tid: u32) -> Option<ThreadStat> {
    let stat = parse_stat(tid, &read(&format!("/proc/{pid}/task/{tid}/stat"))?)?;
    let schedstat = read(&format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
    let mut numbers = schedstat.split_ascii_whitespace().map_while(|number| number.parse().ok());
    let mut time = || Duration::from_nanos(numbers.next().unwrap_or(0));
    let (state, exiting) = (stat.state, stat.exiting);
    let sleeps = || {
        let status = read(&format!("/proc/{pid}/task/{tid}/status"))?;
        field(&status, "voluntary_ctxt_switches:")?.parse().ok()
    };
    let sleeps = (state == 'R').then(sleeps).flatten();
    Some(ThreadStat { tid, state, exiting, cpu: time(), run_delay: time(), sleeps })
}

/// The command's name stands in parentheses and may hold anything, so counting starts behind the
/// last one.
fn parse_stat(pid: u32, stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // Fields 3, 4, 6, 9 and 22 of the line.
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let flags: u64 = fields.nth(2)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(Stat { pid, state, parent, session, exiting: flags & PF_EXITING != 0, start_time })
}

/// Seccomp filters of this process; 0 = none, or a kernel before 5.9 or no `/proc` to tell.
pub fn own_filters() -> u64 {
    let status = read("/proc/self/status").unwrap_or_default();
    field(&status, "Seccomp_filters:").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The program that a process executes, by the kernel's name of its file. No file is touched.
pub fn program(pid: u32) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // An upgrade replaces the file of a running program.
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Whether a control group in this `/proc/PID/cgroup` is frozen, version 2 or version 1.
fn is_frozen(cgroups: &str) -> bool {
    cgroups.lines().any(|line| {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        if controllers.is_empty() {
            return CGROUP_ROOTS.iter().any(|root| {
                let events = read(&format!("{root}{path}/cgroup.events")).unwrap_or_default();
                events.lines().any(|line| line == "frozen 1")
            });
        }
        controllers.split(',').any(|controller| controller == "freezer")
            && read(&format!("/sys/fs/cgroup/freezer{path}/freezer.state"))
                .is_some_and(|state| state.trim() != "THAWED")
    })
}

fn read(path: &str) -> Option<String> {
    read_to(path, BYTES_MAX)
}

fn read_to(path: &str, most: u64) -> Option<String> {
    read_bytes(path, most).map(|text| String::from_utf8_lossy(&text).into_owned())
}

fn read_bytes(path: &str, most: u64) -> Option<Vec<u8>> {
    // In one go, as most of these files allow.
    let mut bytes = Vec::with_capacity(usize::try_from(most.min(BYTES_MAX)).unwrap_or(0) + 1);
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let expected =
            Stat { pid: 12, state: 'S', parent: 1, session: 3, exiting: true, start_time: 4711 };
        for name in ["sh", "a) R 1 (b", "", "((("] {
            assert_eq!(parse_stat(12, &format!("12 ({name}){tail}")), Some(expected));
        }
        for bad in ["", "12 sh S", "12 (sh)", "12 (sh) S 1", "12 (sh) "] {
            assert_eq!(parse_stat(12, bad), None, "{bad:?}");
        }
        assert_eq!(pids_of(std::process::id()).first(), Some(&std::process::id()));
        let me = stat(std::process::id()).expect("this process lives");
        assert!(processes().iter().any(|stat| (stat.pid, stat.parent) == (me.pid, me.parent)));
        assert!(!me.exiting);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let look = look(std::process::id()).expect("this process lives");
        assert_eq!(look.threads[0].tid, std::process::id());
        assert!(look.threads.len() >= 2, "the test harness runs tests in threads");
        assert!(start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_ne!(boot_id(), [0, 0]);
    }

    #[test]
    fn exclusive_flocks_are_found_among_locks() {
        for (line, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 4711 00:1c:7 0 EOF", Some((4711, "00:1c:7"))),
            ("1: FLOCK  ADVISORY  READ  4711 00:1c:7 0 EOF", None),
            ("2: -> FLOCK  ADVISORY  WRITE 4711 00:1c:7 0 EOF", None),
            ("3: POSIX  ADVISORY  WRITE 4711 00:1c:7 0 EOF", None),
            ("4: FLOCK  ADVISORY  WRITE 0 00:1c:7 0 EOF", None),
            ("5: OFDLCK ADVISORY  WRITE -1 00:1c:7 0 EOF", None),
            ("6: FLOCK", None),
            ("", None),
        ] {
            assert_eq!(exclusive(line), expected, "{line}");
        }
        let file = tempfile::tempfile().expect("a file");
        let stat = rustix::fs::fstat(&file).expect("its numbers");
        assert_eq!(lock_holder(stat.st_dev, stat.st_ino), None);
    }

    #[test]
    fn what_is_gone_is_none() {
        assert_eq!(look(u32::MAX), None);
        assert_eq!(start_time(u32::MAX), None);
        let path =
            [b"PATH=", std::env::var_os("PATH").unwrap_or_default().as_encoded_bytes()].concat();
        assert!(has_variable(std::process::id(), &path));
        assert!(!has_variable(std::process::id(), b"PATH") && !has_variable(u32::MAX, &path));
        assert_eq!(oom_files("garbage"), [""; 0]);
        assert_eq!(oom_files("4:memory:/a"), ["/sys/fs/cgroup/memory/a/memory.oom_control"]);
        assert_eq!(oom_files("0::/a")[0], "/sys/fs/cgroup/a/memory.events");
        assert!(
            OomKills::of(std::process::id(), &mut OomCounts::default()).is_some(),
            "the machine counts at least"
        );
        assert!(!is_frozen("garbage\n0::\n:::\n7:freezer:/no/such/group\n"));
    }
}
