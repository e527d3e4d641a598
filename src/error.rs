//! Why a command could not do its work. Errors print what they were made of and chain nothing:
//! one line says it all.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use osps_heart::HeartError;
use osps_heart::segment::AttachError;
use osps_heart::shown::Shown;
use osps_heart::time::Short;

use crate::sys::Failed;

/// An option that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value}: {why}")]
pub struct Invalid {
    /// The option as typed.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// Why it cannot work, and what would.
    pub why: String,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A wish that cannot work.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The kernel refused something.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The segment of an instance cannot be used.
    #[error("{}: {why}", Shown(path))]
    Segment {
        /// The run directory.
        path: PathBuf,
        /// What is wrong with it.
        why: AttachError,
    },
    /// The state of the machine forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file of services with mistakes, a line each.
    #[error("{0}")]
    Problems(String),
    /// There is no heart to beat.
    #[error(transparent)]
    Heart(#[from] HeartError),
}

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Unrunnable {
    /// Nothing has this name.
    #[error("no such file")]
    NoFile,
    /// A directory has it.
    #[error("it is a directory")]
    Directory,
    /// We may not execute it.
    #[error("it is not executable for you; `chmod +x` makes it so")]
    NotExecutable,
    /// Its name has no slash, and no directory of the search path has it.
    #[error("it is in none of the directories of PATH ({})", Shown(.0))]
    NotInPath(OsString),
    /// The same, without a search path.
    #[error("it is neither in /bin nor in /usr/bin, and PATH is not set")]
    NoPath,
    /// It is a script, and what shall run it is missing.
    #[error("its first line wants {}, and there is no such file", Shown(.0))]
    Interpreter(PathBuf),
    /// The kernel's word.
    #[error("{0}")]
    Refused(std::io::Error),
}

/// What the state of the machine forbids; the text says what to do. `path` is the run directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The program would end at once.
    #[error(
        "{} is built with a sanitizer, and those end a program into which something else is \
         preloaded; choose another heart than the event loop (probe:, file:, notify)",
        Shown(.0)
    )]
    Sanitized(PathBuf),
    /// Nowhere can it be put.
    #[error(
        "there is no place for the shim that watches event loops ({0}); choose another heart \
         (probe:, file:, notify), or set TMPDIR to a directory where files may be executed"
    )]
    NoShim(String),
    // ---- The run directory ----
    /// It is not a directory, or reached through a link.
    #[error(
        "run directory {} is a symlink or not a directory; name the directory itself",
        Shown(.0)
    )]
    NotADirectory(PathBuf),
    /// It is another user's.
    #[error(
        "run directory {} belongs to user {owner}, not to user {user}; choose another with \
         --run-dir",
        Shown(path)
    )]
    ForeignDirectory {
        /// The run directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// A directory like `/tmp`.
    #[error(
        "run directory {} is shared by everybody; name a directory of its own below it",
        Shown(.0)
    )]
    CommonDirectory(PathBuf),
    /// Others may enter it.
    #[error(
        "run directory {0} is open to others (mode {mode:04o}); run `chmod 700 {0}`",
        Shown(path)
    )]
    OpenDirectory {
        /// The run directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It lies on a disk.
    #[error(
        "run directory {} is not on a tmpfs (a disk could stall every heartbeat); choose one under \
         /dev/shm or /run with --run-dir",
        Shown(.0)
    )]
    NotTmpfs(PathBuf),
    /// It cannot be made.
    #[error("run directory {}: the directory above it does not exist", Shown(.0))]
    NoParent(PathBuf),
    /// Its `lock` holds what osps never wrote.
    #[error("{} is not a lock of osps; choose another --run-dir", Shown(.0))]
    ForeignLock(PathBuf),
    /// Its `members` is locked by somebody whom no record names.
    #[error(
        "{} is held by {holders}, which no record of osps names: end it, or choose another --name",
        Shown(path)
    )]
    UnknownMembers {
        /// The file.
        path: PathBuf,
        /// Who.
        holders: String,
    },
    /// The tmpfs has no room for the segment.
    #[error(
        "{}: the tmpfs is full: {bytes} bytes are needed; free some, or choose a smaller \
         --data-size or another --run-dir",
        Shown(path)
    )]
    Full {
        /// The run directory.
        path: PathBuf,
        /// Bytes of the segment.
        bytes: usize,
    },

    /// A limit on the size of files is smaller than the segment.
    #[error(
        "{}: File too large: the segment needs {bytes} bytes, and a limit on the size of files is \
         below that; raise it (ulimit -f unlimited) or choose a smaller --data-size",
        Shown(path)
    )]
    FileLimit {
        /// The run directory.
        path: PathBuf,
        /// Bytes of the segment.
        bytes: usize,
    },

    /// The kernel, or a sandbox, does not let us do what everything depends on.
    #[error(
        "{0}: osps holds its servers by such descriptors and cannot work without; an older kernel \
         or a sandbox (a seccomp profile) is in the way"
    )]
    Kernel(Failed),
    /// There is no `/proc`.
    #[error("/proc is not mounted: osps knows its servers by what stands there; mount it")]
    NoProc,
    /// Too few descriptors.
    #[error(
        "{need} open descriptors are needed and {have} are allowed: raise the hard limit (ulimit \
         -Hn {need}, LimitNOFILE= under systemd)"
    )]
    Descriptors {
        /// The limit.
        have: u64,
        /// What is needed.
        need: usize,
    },

    // ---- Another watchdog ----
    /// Its lock is held, but there is no segment.
    #[error("{} is locked by an osps that is just starting or stopping; try again", Shown(.0))]
    Between(PathBuf),
    /// A watchdog beats there.
    #[error(
        "osps already runs in {}: watchdog pid {pid}, since {}, alive (last beat {} ago). See \
         `osps status`, end it with `osps stop`, or choose another --name",
        Shown(path), Short(*since), Short(*age)
    )]
    Running {
        /// The run directory.
        path: PathBuf,
        /// The watchdog's.
        pid: u32,
        /// Time since it started.
        since: Duration,
        /// Age of its last beat.
        age: Duration,
    },
    /// A watchdog has the place, but its directory is gone.
    #[error(
        "osps already runs for {}: {}, whose directory was removed by somebody; it puts it back \
         within a second: try again, or end it with `osps stop` then",
        Shown(path),
        pid.map_or("in another pid namespace".to_owned(), |pid| format!("watchdog pid {pid}"))
    )]
    Nameless {
        /// The run directory.
        path: PathBuf,
        /// The watchdog's, if it is visible.
        pid: Option<u32>,
    },
    /// A watchdog holds the lock, but does not beat.
    #[error(
        "osps already runs in {}: watchdog pid {pid}, since {}, frozen (no beat for {}, state \
         {state}). Continue it with `kill -CONT {pid}`, or end it with `kill -9 {pid}` and start \
         again",
        Shown(path), Short(*since), silence(*age)
    )]
    Frozen {
        /// The run directory.
        path: PathBuf,
        /// The watchdog's.
        pid: u32,
        /// Time since it started.
        since: Duration,
        /// Age of its last beat, if known.
        age: Option<Duration>,
        /// Its state letter.
        state: char,
    },
    /// A watchdog of another pid namespace beats there.
    #[error(
        "osps already runs in {}: in another pid namespace, since {}, alive (last beat {} ago). \
         See `osps status`, end it with `osps stop`, or choose another --name",
        Shown(path), Short(*since), Short(*age)
    )]
    RunningElsewhere {
        /// The run directory.
        path: PathBuf,
        /// Time since it started.
        since: Duration,
        /// Age of its last beat.
        age: Duration,
    },
    /// A watchdog of another pid namespace holds the lock, but does not beat.
    #[error(
        "the watchdog in {} runs in another pid namespace and is frozen: no beat for {}. Continue \
         it or end it there: its pid means nothing here",
        Shown(path), silence(*age)
    )]
    FrozenElsewhere {
        /// The run directory.
        path: PathBuf,
        /// Age of its last beat, if known.
        age: Option<Duration>,
    },
    /// A server of a killed watchdog cannot be ended.
    #[error(
        "{name} (pid {pid}), left running by a killed watchdog, does not die (state {state}); \
         nothing was started"
    )]
    Undying {
        /// The server.
        name: String,
        /// Its pid.
        pid: u32,
        /// Its state letter.
        state: char,
    },

    // ---- Starting ----
    /// Sizes out of bounds: our own bug, since they were validated.
    #[error("these sizes make no segment")]
    Sizes,
    /// Servers that wait for each other.
    #[error("{} wait for each other in a circle; take one of these edges out", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// An address is taken.
    #[error(
        "{why}. Another program (or another osps) listens there; choose another address for {name} \
         (key `listen` of a file, else --listen), or port 0 for any free one"
    )]
    AddressInUse {
        /// What was tried, and the kernel's answer.
        why: Failed,
        /// For which server.
        name: String,
    },
    /// A new address in the way of one that osps itself holds until the reload is done.
    #[error(
        "listen on {wanted}: osps itself holds {held} for {family}; reload a file without that \
         address first, or start osps again"
    )]
    OwnAddress {
        /// The new one.
        wanted: String,
        /// The one that is held.
        held: String,
        /// For this service.
        family: String,
    },
    /// More new sockets at a reload than travel in one message.
    #[error("a reload can add {0} listening sockets at once: add some now, and the rest later")]
    Sockets(usize),
    /// This program cannot be run.
    #[error("cannot run {}: {why}", Shown(program))]
    NoProgram {
        /// As it was named.
        program: OsString,
        /// Why not.
        why: Unrunnable,
    },

    /// The same, of a command that only a shell would understand.
    #[error("{0}; there is no shell: write [\"sh\", \"-c\", \"...\"]")]
    NoShell(Box<Refusal>),

    // ---- Inside a server ----
    /// `osps __exec` or `__probe` by hand.
    #[error("`osps {0}` is osps's own business")]
    NotForPeople(&'static str),
    /// A variable that the watchdog sets is missing.
    #[error("{0} is not set")]
    Environment(&'static str),
    /// A socket arrived at another place than the program expects.
    #[error("socket arrived as {0}")]
    Socket(i32),
    /// What the watchdog handed over does not fit this server.
    #[error("{0}")]
    Misfit(String),

    // ---- Asking ----
    /// Nobody is there.
    #[error("osps does not run in {}{}", Shown(path), running(others))]
    NotRunning {
        /// The run directory.
        path: PathBuf,
        /// Names of those that run beside it.
        others: Vec<String>,
    },
    /// Several users have one of that name.
    #[error(
        "several users run an osps named {name}: say which with --run-dir: {}",
        paths.iter().map(|path| Shown(path).to_string()).collect::<Vec<_>>().join(", ")
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// Their run directories.
        paths: Vec<PathBuf>,
    },
    /// It runs, but not from a file of services.
    #[error(
        "osps in {} was not started from a file of services (`osps up`), so there are no logs of \
         theirs: its output holds all",
        Shown(.0)
    )]
    NoServices(PathBuf),
    /// Nobody has this name.
    #[error("there is no service {name}; there is {}", .known.join(", "))]
    NoService {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It is not running.
    #[error("{0} has no process now, so there is nothing to look at")]
    NoProcess(String),
    /// Nothing is kept.
    #[error("this osps keeps no reports (--report-dir none), or has no place for them")]
    NoReports,
    /// It cannot be used; the text says which and why.
    #[error("reports: {0}; choose another directory with --report-dir")]
    ReportDirectory(String),
    /// There is no such report.
    #[error(
        "there is no {} in {}",
        .number.map_or("report yet".to_owned(), |number| {
            format!("report {number} (`osps report --list` shows those that there are)")
        }),
        Shown(path)
    )]
    NoReport {
        /// Its number; `None` = any.
        number: Option<u64>,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Nobody writes into a file.
    #[error("none of the services has a `log`: their output goes where that of osps goes")]
    NoLogs,
    /// Somebody else listens there.
    #[error("{} is listened to by user {owner}, whose directory it is not in", Shown(path))]
    ForeignSocket {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        owner: u32,
    },
    /// There are only left-overs.
    #[error(
        "no watchdog runs in {}; `osps status` shows what is left, and starting osps there cleans \
         up",
        Shown(.0)
    )]
    NoWatchdog(PathBuf),
    /// The watchdog's own words.
    #[error("the watchdog refused: {0}")]
    Watchdog(String),
    /// What was asked for is done, and did not come out well.
    #[error("{0}")]
    CameOut(String),
    /// It does not answer, because it does not run.
    #[error(
        "the watchdog (pid {pid}) is frozen: no beat for {}, state {state}. Continue it with \
         `kill -CONT {pid}`: it then stops as asked; or end it with `kill -9 {pid}`",
        silence(*age)
    )]
    FrozenWatchdog {
        /// The watchdog's.
        pid: u32,
        /// Age of its last beat, if known.
        age: Option<Duration>,
        /// Its state letter.
        state: char,
    },
    /// It ended in the middle of its stop.
    #[error("the watchdog ended, but not everything is gone: see its log and {}", Shown(.0))]
    LeftOver(PathBuf),
    /// A binary that cannot take the place of this one.
    #[error(
        "{} does not say that it reads layout version {} of the segment (it says \"{layout}\"): \
         it cannot go on with what runs. Nothing was changed; stop osps and start that one",
        Shown(image),
        osps_heart::segment::layout::VERSION
    )]
    OtherLayout {
        /// The binary.
        image: PathBuf,
        /// What it says.
        layout: String,
    },
    /// It closed the connection.
    #[error("the watchdog hung up without stopping; try again")]
    HungUp,
    /// Nothing can be tried out there now.
    #[error("no drill: {0}")]
    NoDrill(String),
    /// A server's own words, or why there are none.
    #[error("{0}")]
    Answer(String),
}

fn running(others: &[String]) -> String {
    match others {
        [] => String::new(),
        [one] => format!("; running: {one}; say --name {one}"),
        others => format!("; running: {}; say which with --name", others.join(", ")),
    }
}

fn silence(age: Option<Duration>) -> String {
    age.map_or("an unknown time".to_owned(), |age| Short(age).to_string())
}
