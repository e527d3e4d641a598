//! The run directory: one per instance, holding everything, leaving nothing.
//!
//! `lock` is held exclusively by the watchdog for life, `members` shared by every server, both by
//! flock, which the kernel releases whatever kills the holder. Whoever takes `lock` compares it
//! with the path and starts over if somebody removed it meanwhile; a sweep removes `lock` last.
//! Nothing that osps did not make is removed. Tested in tests/rundir.rs.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, fstatfs, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::Error;
use crate::config::WORKERS_MAX;
use crate::segment::layout::flag;
use crate::segment::mapping::FILE_NAME as SEGMENT;
use crate::segment::{Access, Segment};
use crate::sync::Ordering;
use crate::sys::clock::SystemClock;
use crate::sys::poll::Poll;
use crate::sys::process::Process;
use crate::sys::{Failed, procfs};
use crate::time::{Clock, Monotonic, Short};

/// The watchdog's lock.
pub const LOCK: &str = "lock";
/// The servers' lock.
pub const MEMBERS: &str = "members";
/// A segment that is being made; it takes its name when everything else is ready.
pub const NEW_SEGMENT: &str = "segment.new";
/// The control socket.
pub const CONTROL: &str = "control";

/// How long a lock may be held by somebody who is just leaving.
const LEAVING: Duration = Duration::from_millis(1200);
/// How long a killed left-over may take to die. The kernel needs a millisecond, and some more for
/// much memory; longer means an uninterruptible wait.
const DYING: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Name of the FIFO from the primary to a secondary.
pub fn tube_down(secondary: u8) -> String {
    format!("dwtube{secondary}")
}

/// Name of the FIFO from a secondary to the primary.
pub fn tube_up(secondary: u8) -> String {
    format!("wdtube{secondary}")
}

/// Where an instance lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub path: PathBuf,
    /// The directory above it is osps's own too.
    pub own_parent: bool,
}

impl Place {
    /// `--run-dir`, else `$RUNTIME_DIRECTORY/NAME` (its first path), else `/dev/shm/osps-UID/NAME`.
    pub fn of(name: &str, run_dir: Option<&Path>) -> Place {
        if let Some(path) = run_dir {
            return Place {
                path: std::path::absolute(path).unwrap_or(path.into()),
                own_parent: false,
            };
        }
        let given = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
        if let Some(first) = given.split(':').next().filter(|first| first.starts_with('/')) {
            return Place { path: Path::new(first).join(name), own_parent: false };
        }
        let uid = rustix::process::geteuid().as_raw();
        Place { path: PathBuf::from(format!("/dev/shm/osps-{uid}/{name}")), own_parent: true }
    }
}

/// An open, checked run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    dir: OwnedFd,
}

/// A run directory whose `lock` is ours, with nobody living in it.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub run_dir: RunDir,
    /// What we made of it: bits of [`flag`].
    pub made: u64,
    /// The sound segment of an instance in which nobody lives any more, data and all.
    pub kept: Option<File>,
    /// Held for life.
    lock: OwnedFd,
}

impl RunDir {
    /// Opens an existing directory. Refuses a symlink, another user's, one that others may enter,
    /// and one that is not on a tmpfs.
    pub fn open(path: &Path) -> Result<RunDir, Error> {
        let shown = path.display();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::Refused(format!(
                    "run directory {shown} is a symlink or not a directory; name the directory \
                     itself"
                )));
            }
            other => other.map_err(Failed::to("open run directory", &shown))?,
        };
        let stat = fstat(&dir).map_err(Failed::to("examine run directory", &shown))?;
        let uid = rustix::process::geteuid().as_raw();
        if stat.st_uid != uid {
            return Err(Error::Refused(format!(
                "run directory {shown} belongs to user {}, not to user {uid}; choose another with \
                 --run-dir",
                stat.st_uid
            )));
        }
        if stat.st_mode & 0o1000 != 0 {
            return Err(Error::Refused(format!(
                "run directory {shown} is shared by everybody; name a directory of its own below it"
            )));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(Error::Refused(format!(
                "run directory {shown} is open to others (mode {:04o}); run `chmod 700 {shown}`",
                stat.st_mode & 0o7777
            )));
        }
        let kind = fstatfs(&dir).map_err(Failed::to("examine run directory", &shown))?.f_type;
        // tmpfs and ramfs, from linux/magic.h.
        if kind != 0x0102_1994 && kind != 0x8584_58f6 {
            return Err(Error::Refused(format!(
                "run directory {shown} is not on a tmpfs (a disk could stall every heartbeat); \
                 choose one under /dev/shm or /run with --run-dir"
            )));
        }
        Ok(RunDir { path: path.to_owned(), dir })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it that must exist.
    pub fn open_file(&self, name: &str) -> Result<OwnedFd, Failed> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(&self.dir, name, flags, Mode::empty())
            .map_err(Failed::to("open", self.path.join(name).display()))
    }

    /// Makes a new file in it.
    pub fn create_file(&self, name: &str) -> Result<OwnedFd, Failed> {
        let flags =
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Failed::to("create", self.path.join(name).display()))
    }

    /// Takes the shared lock of a server: as long as the descriptor is open, the directory is
    /// lived in.
    pub fn join(&self) -> Result<OwnedFd, Failed> {
        let members = self.open_file(MEMBERS)?;
        flock(&members, FlockOperation::NonBlockingLockShared)
            .map_err(Failed::to("lock", self.path.join(MEMBERS).display()))?;
        Ok(members)
    }

    /// Takes `lock`; `None` = somebody else holds it.
    fn take_lock(&self) -> Result<Option<OwnedFd>, Failed> {
        let failed = |errno| Failed::to("lock", self.path.join(LOCK).display())(errno);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE;
        loop {
            let lock = openat(&self.dir, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
            // Somebody may have removed it between our open and our lock: then start over.
            let ours = fstat(&lock).map_err(failed)?;
            match statat(&self.dir, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(lock));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Whether nobody holds `members`; a missing file is nobody.
    fn is_empty(&self) -> Result<bool, Failed> {
        let members = match self.open_file(MEMBERS) {
            Err(failed) if failed.source.raw_os_error() == Some(libc::ENOENT) => return Ok(true),
            other => other?,
        };
        match flock(&members, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(Failed::to("lock", self.path.join(MEMBERS).display())(errno)),
        }
    }

    /// Removes what osps made in it, except `lock` and perhaps the segment. Returns how many names
    /// were there.
    fn sweep(&self, with_segment: bool) -> usize {
        let tubes = (1..=u8::try_from(WORKERS_MAX).unwrap_or(u8::MAX))
            .flat_map(|secondary| [tube_down(secondary), tube_up(secondary)]);
        let tubes = tubes.map(|name| (name, FileType::Fifo));
        let files =
            [MEMBERS, NEW_SEGMENT, SEGMENT].map(|name| (name.into(), FileType::RegularFile));
        let all = files.into_iter().chain([(CONTROL.to_owned(), FileType::Socket)]).chain(tubes);
        // What has our name but is of another kind is somebody else's.
        let ours = |(name, kind): &(String, FileType)| {
            let stat = statat(&self.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            (with_segment || name != SEGMENT)
                && stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == *kind)
        };
        all.filter(ours)
            .filter(|(name, _)| unlinkat(&self.dir, name.as_str(), AtFlags::empty()).is_ok())
            .count()
    }

    /// Removes everything that osps made, `lock` last, and the directory if osps made it. The
    /// caller holds `lock` and knows that nobody lives here.
    fn remove(&self, made: u64) {
        self.sweep(true);
        let _ = unlinkat(&self.dir, LOCK, AtFlags::empty());
        if made & flag::MADE_DIR == 0 {
            return;
        }
        if let Err(errno) = rustix::fs::rmdir(&self.path) {
            log::info!("run directory {} stays: {errno}", self.path.display());
        } else if made & flag::MADE_PARENT != 0
            && let Some(parent) = self.path.parent()
        {
            // Not empty while other instances live in it: then it stays, rightly.
            let _ = rustix::fs::rmdir(parent);
        }
    }
}

impl AsFd for RunDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Claim {
    /// Finds or makes the directory, takes its lock, ends servers that a killed watchdog left
    /// running, and removes what it left lying about.
    pub fn take(place: &Place) -> Result<Claim, Error> {
        let clock = SystemClock;
        let until = clock.now() + LEAVING;
        loop {
            let vanished = |error: &Error| {
                matches!(error, Error::Failed(failed)
                    if failed.source.raw_os_error() == Some(libc::ENOENT))
                    && clock.now() < until
            };
            let opened = make(place).and_then(|made| {
                let run_dir = RunDir::open(&place.path).inspect_err(|_| unmake(place, made))?;
                Ok((made, run_dir))
            });
            let (made, run_dir) = match opened {
                Ok(opened) => opened,
                // Removed under us by one who left: make it again.
                Err(error) if vanished(&error) => {
                    pause(clock);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match run_dir.take_lock() {
                Ok(Some(lock)) => {
                    let mut claim = Claim { run_dir, made, kept: None, lock };
                    claim.clear()?;
                    return Ok(claim);
                }
                // Held by a living watchdog, or by somebody who is just leaving.
                Ok(None) if clock.now() >= until || is_watched(&place.path) => {
                    return Err(Error::Refused(describe_holder(&place.path, clock.now())));
                }
                // Removed under us by the one who left: make it again.
                Err(failed)
                    if failed.source.raw_os_error() == Some(libc::ENOENT)
                        && clock.now() < until => {}
                Ok(None) => {}
                Err(failed) => return Err(failed.into()),
            }
            pause(clock);
        }
    }

    /// Ends living left-overs and sweeps dead ones.
    fn clear(&mut self) -> Result<(), Error> {
        let clock = SystemClock;
        // Before anything is touched: is this a directory of osps at all?
        let mut old = [0u8; 32];
        let length = rustix::io::pread(&self.lock, &mut old, 0).unwrap_or(0);
        if !old[..length].iter().all(|byte| byte.is_ascii_digit() || *byte == b'\n') {
            return Err(Error::Refused(format!(
                "{} is not a lock of osps; choose another --run-dir",
                self.run_dir.path.join(LOCK).display()
            )));
        }
        if let Ok(segment) = Segment::open(&self.run_dir.path, Access::ReadOnly) {
            let header = segment.header();
            let boot = [0, 1].map(|i: usize| header.boot_id[i].load(Ordering::Relaxed));
            if boot == procfs::boot_id() {
                self.made |=
                    header.flags.load(Ordering::Relaxed) & (flag::MADE_DIR | flag::MADE_PARENT);
                end_survivors(&segment, clock)?;
                self.kept = self.run_dir.open_file(SEGMENT).ok().map(File::from);
            }
        }
        let until = clock.now() + LEAVING;
        while !self.run_dir.is_empty()? {
            if clock.now() >= until {
                return Err(Error::Refused(self.describe_members()));
            }
            pause(clock);
        }
        let swept = self.run_dir.sweep(self.kept.is_none());
        if swept > 0 {
            let path = self.run_dir.path.display();
            log::info!("swept {swept} files that a killed instance left in {path}");
        }
        let lock = &self.lock;
        let text = format!("{}\n", std::process::id());
        let written = rustix::fs::ftruncate(lock, 0)
            .and_then(|()| rustix::io::pwrite(lock, text.as_bytes(), 0).map(|_| ()));
        Ok(written.map_err(Failed::to("write", self.run_dir.path.join(LOCK).display()))?)
    }

    fn describe_members(&self) -> String {
        let path = self.run_dir.path.join(MEMBERS);
        let holders = self.run_dir.open_file(MEMBERS).ok().and_then(|file| fstat(&file).ok());
        let holders = holders.map(|stat| procfs::holders(stat.st_dev, stat.st_ino));
        let named: Vec<_> = holders
            .unwrap_or_default()
            .iter()
            .map(|pid| format!("pid {pid} ({})", procfs::name(*pid).unwrap_or_default()))
            .collect();
        let who = if named.is_empty() {
            "a process that is not visible from here (another pid namespace?)".to_owned()
        } else {
            named.join(", ")
        };
        format!(
            "{} is held by {who}, which no record of osps names: end it, or choose another --name",
            path.display()
        )
    }

    /// Gives a new segment its name, in place of one that was kept but did not fit.
    pub fn settle(&self) -> Result<(), Failed> {
        let dir = &self.run_dir.dir;
        renameat(dir, NEW_SEGMENT, dir, SEGMENT)
            .map_err(Failed::to("name segment in", self.run_dir.path.display()))
    }

    /// Gives up before anything ran. Data that a killed instance left stays for the next try.
    pub fn abandon(self) {
        if self.kept.is_some() {
            self.run_dir.sweep(false);
        } else {
            self.remove();
        }
    }

    /// Removes everything that osps made.
    pub fn remove(self) {
        self.run_dir.remove(self.made);
    }
}

/// Makes the directory (and osps's own one above it) if absent. Returns what it made.
fn make(place: &Place) -> Result<u64, Error> {
    let shown = place.path.display();
    // Below its own parent everything is osps's, whoever of several made it.
    let mut made = if place.own_parent { flag::MADE_DIR | flag::MADE_PARENT } else { 0 };
    if place.own_parent
        && let Some(parent) = place.path.parent()
    {
        // Refused if it exists; what it is then is looked at.
        let _ = mkdirat(rustix::fs::CWD, parent, Mode::RWXU);
        RunDir::open(parent).inspect_err(|_| unmake(place, made))?;
    }
    match mkdirat(rustix::fs::CWD, &place.path, Mode::RWXU) {
        Ok(()) => made |= flag::MADE_DIR,
        Err(Errno::EXIST) => {}
        Err(Errno::NOENT) if !place.own_parent => {
            return Err(Error::Refused(format!(
                "run directory {shown}: the directory above it does not exist"
            )));
        }
        Err(errno) => return Err(Failed::to("create run directory", &shown)(errno).into()),
    }
    Ok(made)
}

/// Removes what `make` made, if nobody uses it.
fn unmake(place: &Place, made: u64) {
    if made & flag::MADE_DIR != 0 {
        let _ = rustix::fs::rmdir(&place.path);
    }
    if made & flag::MADE_PARENT != 0
        && let Some(parent) = place.path.parent()
    {
        let _ = rustix::fs::rmdir(parent);
    }
}

/// Kills the servers that a dead watchdog's segment records, each identified by pid *and* start
/// time, and waits until the kernel confirms.
fn end_survivors(segment: &Segment, clock: SystemClock) -> Result<(), Error> {
    let old = segment.header().watchdog_pid.load(Ordering::Relaxed);
    for slot in segment.slots() {
        let Some(identity) = slot.record.identity() else { continue };
        let Some(process) = Process::find(identity.pid, identity.start_time) else { continue };
        let name = crate::segment::text::load(&slot.record.name);
        process.kill()?;
        let until = clock.now() + DYING;
        while !process.is_dead() {
            if clock.now() >= until {
                return Err(Error::Refused(format!(
                    "{name} (pid {}), left running by a killed watchdog, does not die (state {}); \
                     nothing was started",
                    identity.pid,
                    procfs::state(identity.pid).unwrap_or('?')
                )));
            }
            pause(clock);
        }
        log::warn!(
            "{name} gen={} pid={}: ended; the watchdog that started it (pid {old}) was killed",
            identity.generation,
            identity.pid
        );
    }
    Ok(())
}

/// Whether the watchdog that a segment names still lives.
fn is_watched(path: &Path) -> bool {
    Segment::open(path, Access::ReadOnly).is_ok_and(|segment| watchdog_of(&segment).is_some())
}

/// The living watchdog of a segment.
pub fn watchdog_of(segment: &Segment) -> Option<Process> {
    let header = segment.header();
    let pid = u32::try_from(header.watchdog_pid.load(Ordering::Relaxed)).ok()?;
    Process::find(pid, header.watchdog_start_time.load(Ordering::Relaxed))
}

/// Age of the watchdog's last beat; `None` if its stamp makes no sense.
pub fn watchdog_age(segment: &Segment, now: Monotonic) -> Option<Duration> {
    let stamp = segment.header().watchdog_heart.sample().stamp;
    // It may beat between our reading of the clock and of the heart.
    (stamp.0 != 0 && stamp <= now + Duration::from_secs(1)).then(|| now.since(stamp))
}

/// A watchdog beats at least every second; after three it is late beyond doubt.
pub const WATCHDOG_STALE: Duration = Duration::from_secs(3);

/// Who holds the lock, since when, alive or frozen, and what to do.
fn describe_holder(path: &Path, now: Monotonic) -> String {
    let shown = path.display();
    let Ok(segment) = Segment::open(path, Access::ReadOnly) else {
        return format!(
            "{shown} is locked by an osps that is just starting or stopping; try again"
        );
    };
    let header = segment.header();
    let pid = header.watchdog_pid.load(Ordering::Relaxed);
    let since = Short(now.since(Monotonic(header.started_ns.load(Ordering::Relaxed))));
    let what = format!("osps already runs in {shown}: watchdog pid {pid}, since {since}");
    match watchdog_age(&segment, now) {
        Some(age) if age < WATCHDOG_STALE => format!(
            "{what}, alive (last beat {} ago). See `osps status`, end it with `osps stop`, or \
             choose another --name",
            Short(age)
        ),
        age => {
            let state = u32::try_from(pid).ok().and_then(procfs::state).unwrap_or('?');
            let silent = age.map_or("an unknown time".to_owned(), |age| Short(age).to_string());
            format!(
                "{what}, frozen (no beat for {silent}, state {state}). Continue it with \
                 `kill -CONT {pid}`, or end it with `kill -9 {pid}` and start again"
            )
        }
    }
}

/// What the last orphaned server does: removes the directory, if nobody holds `lock` and nobody
/// else lives. `members` is given up first, so that of several leaving servers one finds it free.
pub fn leave_orphaned(run_dir: &RunDir, members: OwnedFd, made: u64) {
    drop(members);
    let clock = SystemClock;
    let until = clock.now() + LEAVING;
    while clock.now() < until {
        // An error: the directory was removed by another one who left.
        let Ok(lock) = run_dir.take_lock() else { return };
        // Busy: a new watchdog, a frozen one, or another server that is just leaving.
        if let Some(lock) = lock {
            if run_dir.is_empty().unwrap_or(false) {
                run_dir.remove(made);
                log::info!("removed {}: nobody is left", run_dir.path.display());
            }
            // Otherwise whoever else lives does it when it leaves.
            drop(lock);
            return;
        }
        pause(clock);
    }
}

/// A short wait between two tries.
pub fn pause(clock: SystemClock) {
    let now = clock.now();
    if let Ok(poll) = Poll::new() {
        let _ = poll.wait(now, Some(now + PAUSE));
    }
}
