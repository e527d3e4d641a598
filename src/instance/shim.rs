//! The shim for event loops, as a file that the dynamic loader of a supervised program can map.
//!
//! It lies where the program's user can reach it and where files may be executed: `/dev/shm` is
//! often mounted without that. A root's programs may become other users, who do not get into the
//! run directory. The file goes with the watchdog. Tested in tests/loops.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use osps_heart::shown::Shown;
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::outside;
use super::place::{RunDir, SHIM};
use crate::error::Refusal;

/// What the compiler made of heart/loop/loop.c; empty = there is none for this machine.
const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/loop.so"));

/// A placed shim. Its file is removed with it, or by a sweep of the run directory.
#[derive(Debug)]
pub struct Shim {
    path: PathBuf,
    stays: bool,
}

impl Shim {
    /// Places it, for an instance that lives in this directory.
    pub fn place(run_dir: &RunDir) -> Result<Shim, Refusal> {
        if BYTES.is_empty() {
            return Err(Refusal::NoShim("there is none for this kind of processor".to_owned()));
        }
        let name = outside::name(run_dir, SHIM);
        let is_root = rustix::process::geteuid().is_root();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let candidates = [
            (!is_root).then(|| run_dir.path().join(SHIM)),
            runtime.filter(|_| !is_root).map(|dir| dir.join(&name)),
            outside::path(run_dir, SHIM),
            Some(std::env::temp_dir().join(&name)),
            Some(Path::new("/tmp").join(&name)),
        ];
        let mut tried = Vec::new();
        for path in candidates.into_iter().flatten() {
            match write(&path) {
                Ok(()) => {
                    log::debug!("the shim for event loops is {}", Shown(&path));
                    if path.file_name() != Some(OsStr::new(SHIM)) {
                        outside::record(run_dir, SHIM, &path);
                    }
                    return Ok(Shim { path, stays: false });
                }
                Err(why) => tried.push(format!("{}: {why}", Shown(&path))),
            }
        }
        Err(Refusal::NoShim(tried.join("; ")))
    }

    /// Some of a service were left alive on purpose: what they execute looks for the file, and
    /// complains if it is not there.
    pub fn stay(&mut self, run_dir: &RunDir) {
        self.stays = true;
        // A file in the run directory goes with that.
        if self.path.parent() != Some(run_dir.path()) {
            outside::forget(run_dir, SHIM);
        }
    }

    /// Its path, for `LD_PRELOAD`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.stays {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes it there, as a file of our own that nobody can change.
fn write(path: &Path) -> Result<(), String> {
    // The loader takes these for the end of a name, or for a variable.
    let is_plain = |byte: &u8| !b" :;\t\n$".contains(byte);
    if !path.as_os_str().as_bytes().iter().all(is_plain) || !path.is_absolute() {
        return Err("a blank, a colon or a dollar in it".to_owned());
    }
    let said = |error: std::io::Error| error.to_string();
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mounted = statvfs(dir).map_err(|errno| said(errno.into()))?;
    if mounted.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err("mounted noexec".to_owned());
    }
    // Made anew and then renamed, so that it is ours, and whole whenever somebody loads it. Another
    // user's file in /tmp cannot be replaced.
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o500).open(&new).map_err(said)?;
    let written = file.write_all(BYTES);
    // Whatever the umask: a program may become another user.
    let written = written.and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o555)));
    let placed = written.and_then(|()| std::fs::rename(&new, path));
    placed.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        said(error)
    })
}
