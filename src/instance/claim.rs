//! Taking the run directory: found or made, locked, swept, given back.
//!
//! What a killed instance left is told (`Claim::survivors`, `Claim::kept`), not ended: whoever
//! claims decides, and moves in when nobody lives there any more. Tested in tests/rundir.rs.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use osps_heart::clock::SystemClock;
use osps_heart::orphan::watchdog_age;
use osps_heart::segment::layout::flag;
use osps_heart::segment::mapping::FILE_NAME as SEGMENT;
use osps_heart::segment::{Access, AttachError, Segment};
use osps_heart::shown::Shown;
use osps_heart::sync::Ordering;
use osps_heart::time::{Clock, Monotonic};
use rustix::fs::{Mode, fstat, mkdirat};
use rustix::io::Errno;

use super::life::{Life, Record, is_beside, is_frozen};
use super::place::{LEAVING, LOCK, MEMBERS, Place, RunDir, Stands};
use super::survivors::{Survivor, is_watched, survivors};
use crate::error::{Error, Refusal};
use crate::sys::poll::pause;
use crate::sys::process::Process;
use crate::sys::socket::Claimed;
use crate::sys::{Failed, procfs, socket};

/// A run directory whose `lock` is ours.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub run_dir: RunDir,
    /// What we made of it: bits of [`flag`].
    pub made: u64,
    /// The sound segment of an instance whose watchdog is gone, data and all.
    pub kept: Option<File>,
    /// Servers of that instance that still live. Nobody may move in before they are gone.
    pub survivors: Vec<Survivor>,
    /// Names of the FIFOs that osps may have made here.
    fifos: Vec<String>,
    /// Held for life: the lock, and those that took its place after somebody had removed it.
    locks: Vec<OwnedFd>,
    /// Where it should be.
    place: Place,
    /// Held for life: nobody else of this user can claim the same place, even if the directory is
    /// removed. `None` where the kernel has no such names for us.
    address: Option<UnixListener>,
    /// What the path looked like when all names were there: device, inode, last change.
    seen: Option<Looks>,
    /// Names under which somebody put something else, told once.
    foreign: Vec<String>,
}

/// What became of the names.
#[derive(Debug, Default)]
pub struct Restored {
    /// These were gone and are there again.
    pub back: Vec<String>,
    /// Under these somebody put something else; not told before.
    pub foreign: Vec<String>,
    /// Names were looked at: all were wanted, or the directory had changed.
    pub looked: bool,
}

impl Claim {
    /// Finds or makes the directory, takes its lock, and looks at what a killed watchdog left.
    /// `locks` are those that we hold already, in another image's place.
    pub fn take(
        place: &Place,
        fifos: Vec<String>,
        mut locks: Vec<OwnedFd>,
    ) -> Result<Claim, Error> {
        let clock = SystemClock;
        let until = clock.now() + LEAVING;
        let mut name = loop {
            match socket::claim_name(&socket::abstract_name(&place.path))? {
                Claimed::Ours(listener) => break Some(listener),
                // Somebody else's name is no reason not to start: the lock decides.
                Claimed::Squatted => break None,
                // By one who is just leaving, or who lives and whose directory was removed.
                Claimed::Taken(_) if clock.now() < until && !is_watched(&place.path) => pause(),
                Claimed::Taken(pid) => {
                    let vanished = !place.path.join(SEGMENT).exists();
                    let path = place.path.clone();
                    let refusal = if vanished {
                        Refusal::Nameless { path, pid }
                    } else {
                        holder(&place.path, clock.now())
                    };
                    return Err(refusal.into());
                }
            }
        };
        loop {
            let vanished = |error: &Error| {
                matches!(error, Error::Failed(failed)
                    if failed.answer.raw_os_error() == Some(libc::ENOENT))
                    && clock.now() < until
            };
            let opened = make(place).and_then(|made| {
                let run_dir = RunDir::open(&place.path).inspect_err(|_| unmake(place, made))?;
                // Perhaps by one who was killed before it could say more.
                let made = if run_dir.is_ours() { made | flag::MADE_DIR } else { made };
                Ok((made, run_dir))
            });
            let (made, run_dir) = match opened {
                Ok(opened) => opened,
                // Removed under us by one who left: make it again.
                Err(error) if vanished(&error) => {
                    pause();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let lock = match locks.pop() {
                Some(lock) => Ok(Some((lock, false))),
                None => run_dir.take_lock(),
            };
            match lock {
                Ok(Some((lock, lock_is_new))) => {
                    let (kept, survivors) = (None, Vec::new());
                    let locks = [lock].into_iter().chain(locks).collect();
                    let place = place.clone();
                    let mut claim = Claim {
                        run_dir,
                        made,
                        kept,
                        survivors,
                        fifos,
                        locks,
                        place,
                        address: name.take(),
                        seen: None,
                        foreign: Vec::new(),
                    };
                    claim.look(lock_is_new)?;
                    return Ok(claim);
                }
                // Held by a living watchdog, or by somebody who is just leaving.
                Ok(None) if clock.now() >= until || is_watched(&place.path) => {
                    return Err(holder(&place.path, clock.now()).into());
                }
                // Removed under us by the one who left: make it again.
                Err(failed)
                    if failed.answer.raw_os_error() == Some(libc::ENOENT)
                        && clock.now() < until => {}
                Ok(None) => {}
                Err(failed) => return Err(failed.into()),
            }
            pause();
        }
    }

    /// Looks at what is there.
    fn look(&mut self, lock_is_new: bool) -> Result<(), Error> {
        // Before anything is touched: is this a directory of osps at all?
        let mut old = [0u8; 64];
        let length = rustix::io::pread(&self.locks[0], &mut old, 0).unwrap_or(0);
        if !old[..length].iter().all(|byte| byte.is_ascii_digit() || *byte == b'\n') {
            return Err(Refusal::ForeignLock(self.run_dir.path().join(LOCK)).into());
        }
        let opened = Segment::open(self.run_dir.path(), Access::ReadOnly);
        // What cannot be read for want of a right or a descriptor is no leftover to be swept.
        let is_hidden = |why: &AttachError| {
            let kinds = [libc::EACCES, libc::EPERM, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
            matches!(why, AttachError::Io { answer, .. }
                if answer.raw_os_error().is_some_and(|code| kinds.contains(&code)))
        };
        let opened = match opened {
            Err(why) if is_hidden(&why) => {
                return Err(Error::Segment { path: self.run_dir.path().to_owned(), why });
            }
            other => other,
        };
        if let Ok(segment) = opened {
            let header = segment.header();
            let boot = [0, 1].map(|i: usize| header.boot_id[i].load(Ordering::Relaxed));
            if boot == procfs::boot_id() {
                // Who lives is no left-over. If there was a lock it is ours, and so nobody's; if
                // there was none, somebody may have removed it under a living watchdog.
                let record = Record::parse(&old[..length]);
                if is_beside(&segment, &record, lock_is_new) {
                    return Err(holder(self.run_dir.path(), SystemClock.now()).into());
                }
                self.made |=
                    header.flags.load(Ordering::Relaxed) & (flag::MADE_DIR | flag::MADE_PARENT);
                // Pids of another pid namespace are strangers here: `members` tells of those.
                if record.is_comparable() {
                    self.survivors = survivors(&segment);
                }
                self.kept = self.run_dir.open_file(SEGMENT).ok().map(File::from);
            }
        }
        Ok(())
    }

    /// Puts our name to the lock, beside those who live here and are taken over.
    pub fn join_in(&self) -> Result<(), Failed> {
        self.run_dir.clear_sockets();
        self.sign(&self.locks[0])
    }

    /// Waits until nobody lives here any more, sweeps what was left lying about, and puts our name
    /// to the lock. The survivors have been ended before.
    pub fn move_in(&self) -> Result<(), Error> {
        let clock = SystemClock;
        let until = clock.now() + LEAVING;
        while !self.run_dir.is_empty()? {
            if clock.now() >= until {
                return Err(self.unknown_members().into());
            }
            pause();
        }
        let swept = self.run_dir.sweep(&self.fifos, self.kept.is_none());
        if swept > 0 {
            let path = Shown(self.run_dir.path());
            log::info!("swept {swept} files that a killed instance left in {path}");
        }
        Ok(self.sign(&self.locks[0])?)
    }

    /// The locks that we hold.
    pub fn locks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.locks.iter().map(AsFd::as_fd)
    }

    /// Puts our name to a lock.
    fn sign(&self, lock: &OwnedFd) -> Result<(), Failed> {
        let text = Record::text();
        let written = rustix::fs::ftruncate(lock, 0)
            .and_then(|()| rustix::io::pwrite(lock, text.as_bytes(), 0).map(|_| ()));
        written.map_err(Failed::to("write", Shown(self.run_dir.path().join(LOCK))))
    }

    /// Puts back the names that somebody removed, never over what somebody else put there. `held`
    /// are the files that we have open, by name. One look at the path if nothing changed; `all`
    /// looks at everything.
    pub fn restore(
        &mut self,
        held: &[(&str, BorrowedFd<'_>)],
        all: bool,
    ) -> Result<Restored, Error> {
        let mut restored = Restored::default();
        if all && let Some(address) = &self.address {
            // Who asked for our name and went: room for the next ones.
            while address.accept().is_ok() {}
        }
        if !all && self.seen.is_some() && self.seen == looks(&self.place.path) {
            return Ok(restored);
        }
        restored.looked = true;
        if !self.run_dir.is_there() {
            self.made |= make(&self.place)?;
            self.run_dir = RunDir::open(&self.place.path)?;
            restored.back.push("the directory".to_owned());
        }
        let is_held = |lock: &OwnedFd| self.run_dir.stands(LOCK, lock.as_fd()) == Stands::Ours;
        if !self.locks.iter().any(is_held) {
            // A new one beside the old: who asks for either finds it held.
            match self.run_dir.take_lock()? {
                Some((lock, made)) => {
                    if made {
                        self.sign(&lock)?;
                        restored.back.push(LOCK.to_owned());
                    } else {
                        // Somebody's file: held, but not written to.
                        restored.foreign.push(LOCK.to_owned());
                    }
                    self.locks.push(lock);
                }
                None => restored.foreign.push(LOCK.to_owned()),
            }
        }
        if !self.run_dir.has(MEMBERS) {
            drop(self.run_dir.create_file(MEMBERS)?);
            restored.back.push(MEMBERS.to_owned());
        }
        for (name, file) in held {
            match self.run_dir.stands(name, *file) {
                Stands::Ours => {}
                Stands::Missing => {
                    self.run_dir.put_back(name, *file)?;
                    restored.back.push((*name).to_owned());
                }
                Stands::Foreign => restored.foreign.push((*name).to_owned()),
            }
        }
        restored.foreign.retain(|name| !self.foreign.contains(name));
        self.foreign.extend(restored.foreign.iter().cloned());
        self.seen = looks(&self.place.path);
        Ok(restored)
    }

    /// Whether a name stands in the directory.
    pub fn has(&self, name: &str) -> bool {
        self.run_dir.has(name)
    }

    /// Those who have `members` open, as far as they can be seen from here.
    fn holders(&self) -> Vec<u32> {
        let members = self.run_dir.open_file(MEMBERS).ok().and_then(|file| fstat(&file).ok());
        members.map_or_else(Vec::new, |stat| procfs::holders(stat.st_dev, stat.st_ino))
    }

    /// Whether somebody lives here, and only what the dead had started: it has our mark.
    pub fn has_kin(&self) -> bool {
        let mark = self.run_dir.mark();
        let holders = self.holders();
        !holders.is_empty() && holders.iter().all(|pid| procfs::has_variable(*pid, &mark))
    }

    fn unknown_members(&self) -> Refusal {
        let path = self.run_dir.path().join(MEMBERS);
        let holders = self.holders();
        let named: Vec<_> = holders
            .iter()
            .map(|pid| format!("pid {pid} ({})", procfs::name(*pid).unwrap_or_default()))
            .collect();
        let holders = if named.is_empty() {
            "a process that is not visible from here (another pid namespace?)".to_owned()
        } else {
            named.join(", ")
        };
        Refusal::UnknownMembers { path, holders }
    }

    /// Gives a new segment its name, in place of one that was kept but did not fit.
    pub fn settle(&self) -> Result<(), Failed> {
        self.run_dir.settle()
    }

    /// Gives up before anything ran. Data that a killed instance left stays for the next try.
    pub fn abandon(self) {
        if self.kept.is_some() {
            self.run_dir.sweep(&self.fifos, false);
        } else {
            self.remove();
        }
    }

    /// Removes everything that osps made.
    pub fn remove(self) {
        self.run_dir.remove(&self.fifos, self.made);
    }
}

/// A directory at one moment: a name that is put into it or taken out changes the last part.
pub type Looks = (u64, u64, i64, u64);

/// What a path looks like.
pub fn looks(path: &Path) -> Option<Looks> {
    let stat = rustix::fs::lstat(path).ok()?;
    Some((stat.st_dev, stat.st_ino, stat.st_mtime, stat.st_mtime_nsec))
}

/// Makes the directory (and osps's own one above it) if absent. Returns what it made.
fn make(place: &Place) -> Result<u64, Error> {
    let shown = Shown(&place.path);
    // Below its own parent everything is osps's, whoever of several made it.
    let mut made = if place.own_parent { flag::MADE_DIR | flag::MADE_PARENT } else { 0 };
    if place.own_parent
        && let Some(parent) = place.path.parent()
    {
        match mkdirat(rustix::fs::CWD, parent, Mode::RWXU) {
            // What it is if it exists already is looked at.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(Failed::to("create run directory", Shown(parent))(errno).into());
            }
        }
        RunDir::open(parent).inspect_err(|_| unmake(place, made))?;
    }
    match mkdirat(rustix::fs::CWD, &place.path, Mode::RWXU | Mode::SVTX) {
        Ok(()) => made |= flag::MADE_DIR,
        Err(Errno::EXIST) => {}
        Err(Errno::NOENT) if !place.own_parent => {
            return Err(Refusal::NoParent(place.path.clone()).into());
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

/// Who holds the lock, since when, alive or frozen.
fn holder(path: &Path, now: Monotonic) -> Refusal {
    let Ok(segment) = Segment::open(path, Access::ReadOnly) else {
        return Refusal::Between(path.to_owned());
    };
    let life = Life::of(&segment, path);
    let path = path.to_owned();
    let since = now.since(Monotonic(segment.header().started_ns.load(Ordering::Relaxed)));
    let age = watchdog_age(&segment, now);
    if !life.is_alive() {
        // Gone in this very moment.
        return Refusal::Between(path);
    }
    match (life.process().map(Process::pid), is_frozen(&segment)) {
        (Some(pid), false) => Refusal::Running { path, pid, since, age: age.unwrap_or_default() },
        (Some(pid), true) => {
            let state = procfs::state(pid).unwrap_or('?');
            Refusal::Frozen { path, pid, since, age, state }
        }
        (None, false) => Refusal::RunningElsewhere { path, since, age: age.unwrap_or_default() },
        (None, true) => Refusal::FrozenElsewhere { path, age },
    }
}
