//! Processes, held by pidfd: a pid is reused within minutes, a pidfd never names another.
//!
//! Launch protocol: our own binary is started as a trampoline that waits on its standard input, a
//! socket; it goes on only when [`Gate::open`] sends a byte (with its listening sockets). Until
//! then it can be recorded; if we die first it reads the end of file and leaves. So no unrecorded
//! server can exist.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use osps_heart::segment::Death;
use osps_heart::words::env as names;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit,
    kill_process_group, pidfd_getfd, pidfd_open, pidfd_send_signal, setrlimit, waitid,
};

use super::standing::as_others;
use super::{Failed, manager, procfs, raw, signals, socket};

/// A process of ours, or one that a predecessor left behind.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
}

/// The waiting trampoline's end: it runs on when this opens and leaves when this is dropped.
#[derive(Debug)]
pub struct Gate(UnixStream);

impl Gate {
    /// Lets the server run, with these sockets. What is returned tells whether it did.
    pub fn open(self, sockets: &[BorrowedFd<'_>]) -> (Report, Result<(), Failed>) {
        let sent = socket::send_descriptors(&self.0, b'g', sockets);
        (Report(self.0), sent)
    }
}

/// An empty standard input, for whatever is behind its gate.
pub fn null() -> Result<OwnedFd, Failed> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failed::to("open", "/dev/null"))
}

/// What a helper that goes on as osps does behind its gate: standard input is not the gate any
/// more, and signals are as for a fresh program: what is inherited as ignored would keep a TERM
/// from it and a status from its commands. A broken pipe stays ignored, as Rust wants it.
pub fn settle_helper() -> Result<(), Failed> {
    rustix::stdio::dup2_stdin(null()?).map_err(Failed::to("replace", "standard input"))?;
    signals::reset()?;
    (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE).for_each(raw::default_signal);
    Ok(())
}

/// What the trampoline says if it cannot become what it should: a failure of ours and not of the
/// program, which never ran.
#[derive(Debug)]
pub struct Report(UnixStream);

/// Longest text that is taken.
const REPORT: usize = 400;

impl Report {
    /// Why the launch failed; `None` = it did not. To be asked when the process is dead.
    pub fn read(&self) -> Option<String> {
        let mut text = [0; REPORT];
        self.0.set_nonblocking(true).ok()?;
        let length = (&self.0).read(&mut text).ok().filter(|length| *length > 0)?;
        Some(String::from_utf8_lossy(&text[..length]).replace(['\r', '\n'], " "))
    }

    /// What a process that goes on said since the last look; `None` = it will say no more.
    pub fn hear(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; REPORT];
        let flags = rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.0, bytes.as_mut_slice(), flags) {
            Ok((0, _)) => None,
            Ok((count, _)) => {
                bytes.truncate(count);
                Some(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Tells a process that goes on something: a byte, and descriptors.
    pub fn tell(&self, byte: u8, fds: &[BorrowedFd<'_>]) -> Result<(), Failed> {
        socket::send_descriptors(&self.0, byte, fds)
    }

    /// A whole answer of a process that was started for one: a byte and descriptors; `None` = it
    /// has not come yet.
    pub fn answer(&self) -> Option<Result<(u8, Vec<OwnedFd>), Failed>> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
            return None;
        }
        socket::receive_descriptors(&self.0).transpose()
    }

    /// Says why, from the trampoline: `socket` is the other end of its gate.
    pub fn write(socket: &OwnedFd, text: &str) -> bool {
        let text = text.as_bytes();
        rustix::io::write(socket, &text[..text.len().min(REPORT)]).is_ok()
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Set in the environment of an image that takes the place of another one, for itself alone.
pub const UPGRADE: &str = "OSPS_UPGRADE";

/// Tries the kernel calls that everything depends on: some sandboxes forbid them, and what cannot
/// work shall be told at the start and not by restarts.
pub fn check() -> Result<(), Failed> {
    let own = open_pidfd(std::process::id()).map_err(Failed::to("open", "pidfd (Linux 5.3)"))?;
    raw::may_signal(own.as_fd()).map_err(Failed::to("signal through", "pidfd (Linux 5.1)"))?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(own.as_fd()), options) {
        // We are nobody's child of ours.
        Ok(_) | Err(Errno::CHILD) => Ok(()),
        Err(errno) => Err(Failed::to("wait for", "pidfd (Linux 5.4)")(errno)),
    }
}

/// Raises the limit of open descriptors as far as it goes; returns what it was and what it is.
pub fn raise_descriptor_limit() -> (Option<u64>, Option<u64>) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    (before.current, getrlimit(Resource::Nofile).current)
}

/// Descriptors that this process may open; `None` = as many as there are.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Sets the limit of open descriptors back, for a program that does not expect more.
pub fn lower_descriptor_limit(to: u64) {
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum: now.maximum });
}

/// Starts this binary (the very one that runs, even if the file was replaced since) as
/// `osps __exec ARGS...` with a closed gate.
///
/// What it is to run is not told if this fails: its arguments may hold secrets.
pub fn launch(args: &[OsString], env: &[(&str, &OsStr)]) -> Result<(Process, Gate), Failed> {
    launch_image(Path::new("/proc/self/exe"), args, env)
}

/// The same with another binary.
pub fn launch_image(
    image: &Path,
    args: &[OsString],
    env: &[(&str, &OsStr)],
) -> Result<(Process, Gate), Failed> {
    let failed = |error: io::Error| Failed::to("start", "a process")(error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut command = Command::new(image);
    command
        .arg0("osps")
        .args(args)
        .env_remove(UPGRADE)
        // The watchdog's own: a server that used them would speak in its name.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env_remove(manager::STORE)
        .env_remove("OSPS_REBUILT")
        // An osps above us may watch an event loop: ours, and not those of our servers.
        .env_remove(names::LOOP)
        .env_remove(names::SHIM)
        .env_remove(names::HEART_PROCESS)
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    manager::forget_given(&mut command);
    command.envs(env.iter().copied());
    let process = as_others(|| command.spawn()).and_then(hold).map_err(failed)?;
    Ok((process, Gate(ours)))
}

/// Gives up the rights of this process for those of a user: `UID GID GROUP...`.
pub fn become_user(ids: &str) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let ids: Option<Vec<u32>> = ids.split(' ').map(|id| id.parse().ok()).collect();
    let Some([uid, gid, groups @ ..]) = ids.as_deref() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Starts a command in a process group of its own.
pub fn spawn_group(command: &mut Command) -> io::Result<Process> {
    as_others(|| command.process_group(0).spawn()).and_then(hold)
}

/// Holds a child that was just started.
pub fn hold(mut child: Child) -> io::Result<Process> {
    let pid = child.id();
    // Nobody else waits for our children, so the pid is this process's until we reap it.
    let known = open_pidfd(pid).map_err(io::Error::from).and_then(|pidfd| {
        let start_time = procfs::start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Process { pid, start_time, pidfd })
    });
    if known.is_err() {
        // Gone within a moment, and no zombie stays.
        let _ = child.kill();
        let _ = child.wait();
    }
    known
}

/// From now on, whoever in our tree loses its parent becomes our child.
pub fn inherit_orphans() -> Result<(), Failed> {
    // Any pid turns it on; the kernel takes it as a flag.
    let on = Pid::from_raw(1);
    rustix::process::set_child_subreaper(on).map_err(Failed::to("become", "subreaper"))
}

/// A child that is dead and not yet reaped; it stays so.
pub fn dead_child() -> Option<u32> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags).ok()?.pid()?.as_raw().try_into().ok()
}

/// Reaps a dead child whose status nobody wants. `false` = it was not there.
pub fn reap_stranger(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

impl Process {
    /// The process with this pid *and* start time, if it lives. Opened first and compared then:
    /// from the opening on nobody can swap the pid under us.
    pub fn find(pid: u32, start_time: u64) -> Option<Process> {
        let pidfd = open_pidfd(pid).ok()?;
        let process = Process { pid, start_time, pidfd };
        let same = procfs::start_time(pid) == Some(start_time);
        (same && !process.is_dead()).then_some(process)
    }

    /// Process id. For people and for `/proc`, never for signals.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Start time in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Kills it and its process group. Works on a stopped process too. That it is dead is only
    /// known when [`Process::is_dead`] says so.
    pub fn kill(&self) -> Result<(), Failed> {
        self.kill_group();
        self.signal(Signal::KILL)
    }

    /// Kills what is left of its process group. To be called before a dead leader is reaped: its
    /// zombie keeps the group's number from being reused.
    pub fn kill_group(&self) {
        let _ = self.signal_group(Signal::KILL);
    }

    /// Sends its process group a signal, if it leads one.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        let refused = raw::signal_group(self.as_fd(), signal.as_raw());
        if refused.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // Before Linux 6.9. The group is led by this process or does not exist; of one that
            // somebody else reaped the number may be another's by now.
            if procfs::start_time(self.pid) != Some(self.start_time) {
                return Err(Errno::SRCH.into());
            }
            let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
            return Ok(kill_process_group(group, signal)?);
        }
        refused
    }

    /// Asks it and its process group to leave, by this signal; continued after that, so that a
    /// stopped one can act on it.
    pub fn terminate(&self, signal: Signal) -> Result<(), Failed> {
        for signal in [signal, Signal::CONT] {
            // A group that does not exist, or not any more, is this process alone.
            if self.signal_group(signal).is_err() {
                self.signal(signal)?;
            }
        }
        Ok(())
    }

    /// Sends it a signal. One that is gone needs none.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => {
                let what = format!("signal {} to pid {}", signal.as_raw(), self.pid);
                Err(Failed::to("send", what)(errno))
            }
        }
    }

    /// Whether it is dead: the kernel's word, after which it stores nothing more.
    pub fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Takes the status of a dead child, so that no zombie stays; `None` = still alive.
    pub fn reap(&self) -> Option<Death> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.as_fd()), options) {
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Death::Exited(code),
                (None, Some(signal)) => Death::Killed(signal),
                (None, None) => Death::Unknown,
            }),
            Ok(None) | Err(Errno::INTR) => None,
            // Not our child: whoever is its parent gets the status.
            Err(_) => self.is_dead().then(|| self.fate()),
        }
    }

    /// How one that is nobody's child of ours died, as far as the kernel tells: from its zombie, or
    /// from its pidfd once it was reaped.
    pub fn fate(&self) -> Death {
        let known = || {
            procfs::exit_status(self.pid, self.start_time)
                .or_else(|| raw::status_of_reaped(self.as_fd()))
        };
        // Between the two it may be neither.
        known().or_else(known).map_or(Death::Unknown, death_by)
    }

    /// Duplicates of the sockets on which it listens; none where we may not look into it (ptrace(2)
    /// has the rule, and Yama makes it stricter).
    pub fn listening(&self) -> Vec<OwnedFd> {
        let take = |number| pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty()).ok();
        let numbers = procfs::open_sockets(self.pid).into_iter();
        let listens = |socket: &OwnedFd| rustix::net::sockopt::socket_acceptconn(socket);
        numbers.filter_map(take).filter(|socket| listens(socket) == Ok(true)).collect()
    }
}

/// How a process with this pid and start time died, if its zombie is still there.
pub fn fate_of(pid: u32, start_time: u64) -> Death {
    procfs::exit_status(pid, start_time).map_or(Death::Unknown, death_by)
}

/// What a status of wait(2) says.
fn death_by(status: i32) -> Death {
    match status & 0x7f {
        0 => Death::Exited((status >> 8) & 0xff),
        signal => Death::Killed(signal),
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
