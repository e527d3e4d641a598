//! Files of an instance that lie outside of its run directory: what a program has to reach that may
//! become another user, or that must be executable. A link in the run directory says where such a
//! file is, so that it goes with the directory, also after a kill. Tested in tests/loops and
//! tests/notify.rs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, fstat, readlinkat, symlinkat, unlinkat};

use super::place::RunDir;

/// Where they are.
pub const DIR: &str = "/run";
/// How such files begin.
const PREFIX: &str = "osps-";

/// What a file of this instance is called outside.
pub fn name(run_dir: &RunDir, name: &str) -> String {
    let id = fstat(run_dir).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
    format!("{PREFIX}{:x}-{:x}-{name}", id.0, id.1)
}

/// Where a file lies that a root's programs can reach as whoever they become; `None` = in the run
/// directory itself.
pub fn path(run_dir: &RunDir, file: &str) -> Option<PathBuf> {
    rustix::process::geteuid().is_root().then(|| Path::new(DIR).join(name(run_dir, file)))
}

/// Whether a path may be that of such a file, of any instance.
pub fn may_be_one(path: &[u8], name: &str) -> bool {
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    last == name.as_bytes()
        || last.starts_with(PREFIX.as_bytes()) && last.ends_with(&[b"-", name.as_bytes()].concat())
}

/// Writes down where it is.
pub fn record(run_dir: &RunDir, name: &str, path: &Path) {
    forget(run_dir, name);
    let _ = symlinkat(path, run_dir, name);
}

/// It is no longer there, or shall stay. What is no link is not ours.
pub(super) fn forget(run_dir: &RunDir, name: &str) {
    if readlinkat(run_dir, name, Vec::new()).is_ok() {
        let _ = unlinkat(run_dir, name, AtFlags::empty());
    }
}

/// Removes the file of an instance that is gone.
pub(super) fn sweep(run_dir: &RunDir, file: &str) {
    let Ok(target) = readlinkat(run_dir, file, Vec::new()) else { return };
    let path = Path::new(OsStr::from_bytes(target.as_bytes()));
    // An allegation: nothing is removed by it that has not the name of this instance's own file.
    if path.is_absolute() && path.file_name() == Some(OsStr::new(&name(run_dir, file))) {
        let _ = std::fs::remove_file(path);
        forget(run_dir, file);
    }
}
