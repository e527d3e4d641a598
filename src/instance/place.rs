//! The run directory: one per instance, holding everything, leaving nothing.
//!
//! `lock` is held exclusively by the watchdog for life, `members` shared by every server, both by
//! flock, which the kernel releases whatever kills the holder. Whoever takes `lock` compares it
//! with the path and starts over if somebody removed it meanwhile; a sweep removes `lock` last.
//! Nothing that osps did not make is removed. Tested in tests/rundir.rs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::ids::SlotId;
use osps_heart::segment::layout::{SLOTS_MAX, flag};
use osps_heart::segment::mapping::{FILE_NAME as SEGMENT, is_held};
use osps_heart::shown::Shown;
use osps_heart::time::Clock;
use osps_heart::words::env;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, fstatfs, openat, readlinkat,
    renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::Uid;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Refusal};
use crate::sys::Failed;
use crate::sys::poll::pause;

/// Where instances live for whom nothing else was chosen.
pub(super) const DEFAULTS: &str = "/dev/shm";
/// The watchdog's lock.
pub const LOCK: &str = "lock";
/// The servers' lock.
pub const MEMBERS: &str = "members";
/// A segment that is being made; it takes its name when everything else is ready.
pub const NEW_SEGMENT: &str = "segment.new";
/// What is preloaded into programs whose event loop is watched.
pub(super) const SHIM: &str = "loop.so";
/// The control socket.
pub const CONTROL: &str = "control";
/// Which services there are, for those who read their logs.
pub const SERVICES: &str = "services";
/// Where reports of hangs are kept, for those who read them; `null` = nowhere.
pub const REPORTS: &str = "reports";
/// One of these files that is being written.
const NEW_FILE: &str = "file.new";

/// An instance of a service, as it stands in [`SERVICES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The name of the service.
    pub family: String,
    /// Where its output goes; `None` = where osps's does.
    pub log: Option<PathBuf>,
}

/// Name of the file that says what was started in a slot, for the next watchdog.
pub fn started_name(slot: SlotId) -> String {
    format!("started-{slot}")
}

/// Name of the file into which a program writes its stacks on request, see `dumps` in heart/python.
pub fn stacks_name(slot: SlotId) -> String {
    format!("stacks-{slot}")
}

/// Name of a slot's notify socket.
pub fn notify_name(slot: SlotId) -> String {
    format!("notify-{slot}")
}

/// Mode bit of a directory that osps made (the sticky bit, with nothing for others beside it). It
/// is there from `mkdir` to `rmdir`, so whoever is killed in between leaves something that the
/// next one knows to be osps's.
pub(super) const MADE_BY_US: u32 = 0o1000;

/// How long a lock may be held by somebody who is just leaving.
pub(super) const LEAVING: Duration = Duration::from_millis(1200);

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
        if let Some(dir) = runtime_directory() {
            return Place { path: dir.join(name), own_parent: false };
        }
        let uid = rustix::process::geteuid().as_raw();
        Place { path: PathBuf::from(format!("{DEFAULTS}/osps-{uid}/{name}")), own_parent: true }
    }
}

/// What a service manager gave us: the first path of `$RUNTIME_DIRECTORY`.
pub(super) fn runtime_directory() -> Option<PathBuf> {
    let given = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = given.as_bytes().split(|byte| *byte == b':').next()?;
    first.starts_with(b"/").then(|| PathBuf::from(OsStr::from_bytes(first)))
}

/// What stands under a name that should be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// What we hold, or a link to it.
    Ours,
    /// Nothing.
    Missing,
    /// Something that somebody else put there.
    Foreign,
}

/// An open, checked run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    dir: OwnedFd,
    ours: bool,
}

impl RunDir {
    /// Opens an existing directory. Refuses a symlink, another user's, one that others may enter,
    /// and one that is not on a tmpfs.
    pub fn open(path: &Path) -> Result<RunDir, Error> {
        RunDir::of(path, rustix::process::geteuid())
    }

    /// The same, for one who only asks there: root may ask in anybody's.
    pub fn visit(path: &Path) -> Result<RunDir, Error> {
        let me = rustix::process::geteuid();
        let there = rustix::fs::lstat(path);
        let owner = there.ok().filter(|_| me.is_root()).map(|there| Uid::from_raw(there.st_uid));
        RunDir::of(path, owner.unwrap_or(me))
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Result<u32, Failed> {
        let failed = Failed::to("examine run directory", Shown(&self.path));
        fstat(&self.dir).map(|stat| stat.st_uid).map_err(failed)
    }

    fn of(path: &Path, owner: Uid) -> Result<RunDir, Error> {
        let shown = Shown(path);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Refusal::NotADirectory(path.to_owned()).into());
            }
            other => other.map_err(Failed::to("open run directory", &shown))?,
        };
        let stat = fstat(&dir).map_err(Failed::to("examine run directory", &shown))?;
        let uid = owner.as_raw();
        if stat.st_uid != uid {
            let (path, owner) = (path.to_owned(), stat.st_uid);
            return Err(Refusal::ForeignDirectory { path, owner, user: uid }.into());
        }
        if stat.st_mode & MADE_BY_US != 0 && stat.st_mode & 0o077 != 0 {
            return Err(Refusal::CommonDirectory(path.to_owned()).into());
        }
        if stat.st_mode & 0o077 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(Refusal::OpenDirectory { path: path.to_owned(), mode }.into());
        }
        let kind = fstatfs(&dir).map_err(Failed::to("examine run directory", &shown))?.f_type;
        // tmpfs and ramfs, from linux/magic.h.
        if kind != 0x0102_1994 && kind != 0x8584_58f6 {
            return Err(Refusal::NotTmpfs(path.to_owned()).into());
        }
        Ok(RunDir { path: path.to_owned(), dir, ours: stat.st_mode & MADE_BY_US != 0 })
    }

    /// Whether osps made it, and so removes it.
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands for it in the environment of whatever is started here.
    pub fn mark(&self) -> Vec<u8> {
        [env::RUN_DIR.as_bytes(), b"=", self.path.as_os_str().as_bytes()].concat()
    }

    /// Opens a file in it that must exist.
    pub fn open_file(&self, name: &str) -> Result<OwnedFd, Failed> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(&self.dir, name, flags, Mode::empty())
            .map_err(Failed::to("open", Shown(self.path.join(name))))
    }

    /// Makes a new file in it.
    pub fn create_file(&self, name: &str) -> Result<OwnedFd, Failed> {
        let flags =
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Failed::to("create", Shown(self.path.join(name))))
    }

    /// Writes something down, in place of what was written before: the whole of the old or the
    /// whole of the new is there, whenever we are killed.
    pub fn write<T: Serialize>(&self, name: &str, what: &T) -> Result<(), Failed> {
        let failed = |error| Failed::to("write", Shown(self.path.join(name)))(error);
        let bytes = serde_json::to_vec(what).map_err(|error| failed(error.into()))?;
        let _ = unlinkat(&self.dir, NEW_FILE, AtFlags::empty());
        let mut file = File::from(self.create_file(NEW_FILE)?);
        file.write_all(&bytes).map_err(failed)?;
        renameat(&self.dir, NEW_FILE, &self.dir, name).map_err(|errno| failed(errno.into()))
    }

    /// Nobody needs that file any more.
    pub fn forget(&self, name: &str) {
        let _ = unlinkat(&self.dir, name, AtFlags::empty());
    }

    /// What was written down last; `None` = nothing that can be read.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&self.dir, name, flags, Mode::empty()).ok()?;
        serde_json::from_reader(BufReader::new(File::from(file))).ok()
    }

    /// Takes the shared lock of a server: as long as the descriptor is open, the directory is
    /// lived in.
    pub fn join(&self) -> Result<OwnedFd, Failed> {
        let members = self.open_file(MEMBERS)?;
        flock(&members, FlockOperation::NonBlockingLockShared)
            .map_err(Failed::to("lock", Shown(self.path.join(MEMBERS))))?;
        Ok(members)
    }

    /// Takes `lock`, and says whether it had to be made; `None` = somebody else holds it.
    pub(super) fn take_lock(&self) -> Result<Option<(OwnedFd, bool)>, Failed> {
        let failed = |errno| Failed::to("lock", Shown(self.path.join(LOCK)))(errno);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        loop {
            let (lock, made) = match openat(&self.dir, LOCK, flags, mode) {
                Ok(lock) => (lock, false),
                Err(Errno::NOENT) => {
                    let made = openat(&self.dir, LOCK, flags | OFlags::CREATE, mode);
                    (made.map_err(failed)?, true)
                }
                Err(errno) => return Err(failed(errno)),
            };
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
            // Somebody may have removed it between our open and our lock: then start over.
            let ours = fstat(&lock).map_err(failed)?;
            match statat(&self.dir, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some((lock, made)));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Whether nobody holds `members`; a missing file is nobody.
    pub(super) fn is_empty(&self) -> Result<bool, Failed> {
        let members = match self.open_file(MEMBERS) {
            Err(failed) if failed.answer.raw_os_error() == Some(libc::ENOENT) => return Ok(true),
            other => other?,
        };
        match flock(&members, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(Failed::to("lock", Shown(self.path.join(MEMBERS)))(errno)),
        }
    }

    /// Removes the sockets of a watchdog that is gone: a name that is there cannot be bound.
    pub(super) fn clear_sockets(&self) {
        let slots = 0..u8::try_from(SLOTS_MAX).unwrap_or(u8::MAX);
        let notify = slots.map(|slot| notify_name(SlotId(slot)));
        for name in notify.chain([CONTROL.to_owned()]) {
            let stat = statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket) {
                let _ = unlinkat(&self.dir, &name, AtFlags::empty());
            }
        }
    }

    /// Removes what osps made in it, FIFOs of these names too, except `lock` and perhaps the
    /// segment, which goes last: who is killed meanwhile has not lost the data. Returns how many
    /// names were there.
    pub(super) fn sweep(&self, fifos: &[String], with_segment: bool) -> usize {
        let fifos = fifos.iter().map(|name| (name.as_str(), FileType::Fifo));
        let slots = 0..u8::try_from(SLOTS_MAX).unwrap_or(u8::MAX);
        let notify: Vec<_> = slots.clone().map(|slot| notify_name(SlotId(slot))).collect();
        for name in notify.iter().map(String::as_str).chain([SHIM]) {
            super::outside::sweep(self, name);
        }
        let stacks = slots.clone().map(|slot| stacks_name(SlotId(slot)));
        let slots_own: Vec<_> =
            stacks.chain(slots.map(|slot| started_name(SlotId(slot)))).collect();
        let sockets = notify.iter().map(String::as_str).chain([CONTROL]);
        let sockets = sockets.map(|name| (name, FileType::Socket));
        let files = slots_own.iter().map(String::as_str).chain([
            MEMBERS,
            NEW_SEGMENT,
            SEGMENT,
            SHIM,
            SERVICES,
            REPORTS,
            NEW_FILE,
        ]);
        let files = files.map(|name| (name, FileType::RegularFile));
        let all = fifos.chain(sockets).chain(files);
        // What has our name but is of another kind is somebody else's.
        let ours = |(name, kind): &(&str, FileType)| {
            let stat = statat(&self.dir, *name, AtFlags::SYMLINK_NOFOLLOW);
            (with_segment || *name != SEGMENT)
                && (stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == *kind)
                    || self.leads_to_us(name))
        };
        all.filter(ours)
            .filter(|(name, _)| unlinkat(&self.dir, *name, AtFlags::empty()).is_ok())
            .count()
    }

    /// Whether this directory is what stands under its path now.
    pub(super) fn is_there(&self) -> bool {
        let there = rustix::fs::lstat(&self.path).map(|stat| (stat.st_dev, stat.st_ino));
        let ours = fstat(&self.dir).map(|stat| (stat.st_dev, stat.st_ino));
        there.is_ok() && there == ours
    }

    /// What stands under a name that should lead to this open file.
    pub(super) fn stands(&self, name: &str, held: BorrowedFd<'_>) -> Stands {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) => Stands::Missing,
            Ok(there) => {
                let same = |ours: rustix::fs::Stat| {
                    (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
                };
                if fstat(held).is_ok_and(same) || self.leads_to_us(name) {
                    Stands::Ours
                } else {
                    Stands::Foreign
                }
            }
        }
    }

    /// Whether a name is a link to a descriptor, as put back by a watchdog.
    fn leads_to_us(&self, name: &str) -> bool {
        let target = readlinkat(&self.dir, name, Vec::new());
        target.is_ok_and(|target| is_held(Path::new(OsStr::from_bytes(target.as_bytes()))))
    }

    /// Puts a name back whose file was removed and is still open here. A file without a name cannot
    /// get one again, so it is a link to our descriptor, good for as long as we live.
    pub(super) fn put_back(&self, name: &str, held: BorrowedFd<'_>) -> Result<(), Failed> {
        let target = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
        symlinkat(target, &self.dir, name)
            .map_err(Failed::to("put back", Shown(self.path.join(name))))
    }

    /// Whether there is anything under this name.
    pub(super) fn has(&self, name: &str) -> bool {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Gives a new segment its name, in place of one that was kept but did not fit.
    pub(super) fn settle(&self) -> Result<(), Failed> {
        renameat(&self.dir, NEW_SEGMENT, &self.dir, SEGMENT)
            .map_err(Failed::to("name segment in", Shown(&self.path)))
    }

    /// Removes everything that osps made, `lock` last, and the directory if osps made it. The
    /// caller holds `lock` and knows that nobody lives here.
    pub(super) fn remove(&self, fifos: &[String], made: u64) {
        self.sweep(fifos, true);
        let _ = unlinkat(&self.dir, LOCK, AtFlags::empty());
        if made & flag::MADE_DIR == 0 {
            return;
        }
        if let Err(errno) = rustix::fs::rmdir(&self.path) {
            log::info!("run directory {} stays: {errno}", Shown(&self.path));
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

/// What the last orphaned server does: removes the directory, if nobody holds `lock` and nobody
/// else lives. `members` is given up first, so that of several leaving servers one finds it free.
pub fn leave_orphaned(run_dir: &RunDir, fifos: &[String], members: OwnedFd, made: u64) {
    drop(members);
    let clock = SystemClock;
    let until = clock.now() + LEAVING;
    while clock.now() < until {
        // An error: the directory was removed by another one who left.
        let Ok(lock) = run_dir.take_lock() else { return };
        // Busy: a new watchdog, a frozen one, or another server that is just leaving.
        if let Some(lock) = lock {
            if run_dir.is_empty().unwrap_or(false) {
                run_dir.remove(fifos, made);
                log::info!("removed {}: nobody is left", Shown(&run_dir.path));
            }
            // Otherwise whoever else lives does it when it leaves.
            drop(lock);
            return;
        }
        pause();
    }
}
