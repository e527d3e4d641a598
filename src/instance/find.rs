//! Which instances there are on this machine, as far as who asks may know.
//!
//! Three places: the default directories of all users, `$RUNTIME_DIRECTORY`, and, for what was put
//! elsewhere by `--run-dir`, the processes that hold a `lock` beside a `segment`. Whoever may not
//! enter a directory does not find it. Nothing is believed by its name alone: `/dev/shm` is
//! everybody's. Tested in tests/list.rs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use osps_heart::segment::mapping::FILE_NAME as SEGMENT;
use osps_heart::shown::Shown;
use rustix::fs::{FileType, lstat, stat};

use super::life::is_locked;
use super::place::{DEFAULTS, LOCK, Place, runtime_directory};
use crate::error::Refusal;
use crate::sys::procfs;

/// Whose default directory a name stands for.
const PREFIX: &[u8] = b"osps-";

impl Place {
    /// The place that one who asks means: his own, or, for root and a name of which he runs nobody,
    /// another user's.
    pub fn asked(name: &str, run_dir: Option<&Path>) -> Result<Place, Refusal> {
        let own = Place::of(name, run_dir);
        let root = rustix::process::geteuid().is_root();
        if run_dir.is_some() || !root || lstat(&own.path).is_ok() {
            return Ok(own);
        }
        let mut others: Vec<_> = defaults().map(|dir| dir.join(name)).filter(is_lived_in).collect();
        match others.len() {
            0 => Ok(own),
            1 => Ok(Place { path: others.remove(0), own_parent: true }),
            _ => Err(Refusal::Ambiguous { name: name.to_owned(), paths: others }),
        }
    }
}

impl Place {
    /// That nobody runs there. Whoever asked by a name, or by none, learns who does.
    pub fn not_running(&self) -> Refusal {
        let path = self.path.clone();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let beside = path.parent().filter(|_| Place::of(name, None).path == path);
        let beside = beside.map(entries).unwrap_or_default();
        let others = beside.iter().filter(|other| is_lived_in(other) && is_locked(other));
        let others = others.filter_map(|other| Some(Shown(other.file_name()?).to_string()));
        Refusal::NotRunning { others: others.collect(), path }
    }
}

/// The run directories of all instances, leftovers included, in the order of their paths.
pub fn everywhere() -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let below = defaults().chain(runtime_directory());
    found.extend(below.flat_map(|dir| entries(&dir)).filter(is_lived_in));
    for pid in procfs::lock_holders() {
        found.extend(procfs::open_files(pid).into_iter().filter_map(|path| held_by(pid, &path)));
    }
    // One directory may have several names, `/proc/PID/root/...` the last of them.
    let mut known = BTreeSet::new();
    let is_new =
        |path: &PathBuf| stat(path).is_ok_and(|stat| known.insert((stat.st_dev, stat.st_ino)));
    let (inside, here): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|path| path.starts_with("/proc"));
    here.into_iter().chain(inside).filter(is_new).collect()
}

/// The default directories of all users, each really its user's.
fn defaults() -> impl Iterator<Item = PathBuf> {
    entries(Path::new(DEFAULTS)).into_iter().filter(|path| {
        let name = path.file_name().map_or(&b""[..], OsStr::as_bytes);
        let uid = name.strip_prefix(PREFIX).and_then(|uid| str::from_utf8(uid).ok()?.parse().ok());
        let meta = lstat(path).ok();
        meta.is_some_and(|meta| is_directory(meta.st_mode) && Some(meta.st_uid) == uid)
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_directory(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Directory
}

/// Whether this is a directory with a lock of osps in it.
fn is_lived_in(path: &PathBuf) -> bool {
    let is_file =
        |meta: rustix::fs::Stat| FileType::from_raw_mode(meta.st_mode) == FileType::RegularFile;
    lstat(path).is_ok_and(|meta| is_directory(meta.st_mode))
        && [LOCK, SEGMENT].iter().any(|name| lstat(path.join(name)).is_ok_and(is_file))
}

/// The run directory in which this process has this open file as its lock, by a path that leads
/// there from here: where it has a `/dev/shm` of its own, through its root.
fn held_by(pid: u32, file: &Path) -> Option<PathBuf> {
    let dir = file.parent().filter(|_| file.file_name() == Some(OsStr::new(LOCK)))?;
    let inside =
        Path::new("/proc").join(pid.to_string()).join("root").join(dir.strip_prefix("/").ok()?);
    let same = |there: &Path| {
        let (one, other) = (stat(there.join(SEGMENT)).ok()?, stat(inside.join(SEGMENT)).ok()?);
        ((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)).then(|| there.to_owned())
    };
    same(dir).or_else(|| same(&inside))
}
