//! What reading a file of services asks the machine. Everything else about it is pure.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::unistd;

use crate::service::launch::User;

/// A user or a group, as a file names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// By name.
    Name(String),
    /// By number.
    Number(u32),
}

/// What the machine is asked.
pub trait Look {
    /// The bytes of a file, at most so many and one more, which says that it is longer.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
    /// A user with its groups; `None` = there is none.
    fn user(&self, who: &Who) -> io::Result<Option<User>>;
    /// The number of the group of this name.
    fn group(&self, name: &str) -> io::Result<Option<u32>>;
    /// Whether we are root.
    fn is_root(&self) -> bool;
    /// Where we are: what relative paths of a file begin with, if the file's own path is relative.
    fn here(&self) -> PathBuf;
}

/// The machine that osps runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Look for Machine {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn user(&self, who: &Who) -> io::Result<Option<User>> {
        let found = match who {
            Who::Name(name) => unistd::User::from_name(name)?,
            Who::Number(uid) => unistd::User::from_uid(unistd::Uid::from_raw(*uid))?,
        };
        let Some(found) = found else { return Ok(None) };
        let groups = unistd::getgrouplist(&CString::new(found.name.as_str())?, found.gid)?;
        Ok(Some(User {
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
            groups: groups.into_iter().map(unistd::Gid::as_raw).collect(),
            known: Some((found.name.into(), found.dir)),
        }))
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn here(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
    }
}
