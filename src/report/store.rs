//! The directory of reports: one file each, `N.json`, the newest [`KEPT`].
//!
//! It is the user's own (mode 0700, files 0600) and lies outside of the run directory, so that
//! reports outlive an instance. Every look checks it anew: one that is a link, no directory, or
//! another user's is refused. A report gets its name only when all of it is written, and a number
//! that nobody has, so whoever reads never finds half of one and several may write at once.
//! Tested here and in tests/report.rs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use osps_heart::shown::Shown;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::{BYTES_MAX, Report, Summary};
use crate::instance::place::{Place, REPORTS, RunDir};
use crate::sys::procfs;

/// So many reports are kept.
pub const KEPT: usize = 50;
/// How a report begins that is being written; the writer's pid follows.
const NEW: &str = ".new-";
/// Tries to find a number that nobody takes meanwhile.
const TRIES: usize = 100;

/// The directory of reports where none are kept.
pub const NOWHERE: &str = "none";

/// What somebody chose by hand; `None` = nowhere.
pub fn chosen(path: &Path) -> Option<PathBuf> {
    (path != Path::new(NOWHERE)).then(|| std::path::absolute(path).unwrap_or(path.to_owned()))
}

/// Where reports are kept, unless somebody says otherwise; `None` = there is no place.
///
/// `$STATE_DIRECTORY/NAME` (its first path), else `$XDG_STATE_HOME/osps/NAME`, else
/// `/var/lib/osps/NAME` for root and `~/.local/state/osps/NAME` for others.
pub fn default_directory(name: &str) -> Option<PathBuf> {
    let given = |variable: &str| {
        let value = std::env::var_os(variable)?;
        let first = value.as_bytes().split(|byte| *byte == b':').next()?;
        first.starts_with(b"/").then(|| PathBuf::from(OsStr::from_bytes(first)))
    };
    if let Some(state) = given("STATE_DIRECTORY") {
        return Some(state.join(name));
    }
    let home = match given("XDG_STATE_HOME") {
        Some(state) => state,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib"),
        None => given("HOME")?.join(".local/state"),
    };
    Some(home.join("osps").join(name))
}

/// A directory of reports, which may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In this directory.
    pub fn at(path: PathBuf) -> Store {
        Store { path }
    }

    /// That of an instance: the one that its watchdog says it uses, else the default one; `None` =
    /// it keeps none.
    pub fn of(place: &Place, name: &str) -> Option<Store> {
        let said = RunDir::visit(&place.path).ok().and_then(|run_dir| run_dir.read(REPORTS));
        match said {
            Some(Some::<OsString>(path)) => Some(Store::at(path.into())),
            Some(None) => None,
            None => default_directory(name).map(Store::at),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reports could be kept there, now: one that is not there yet could be made.
    pub fn check(&self) -> Result<(), String> {
        Store::told(self.open(For::Writing))
    }

    /// Whether reports could be read there.
    pub fn check_reading(&self) -> Result<(), String> {
        Store::told(self.open(For::Reading))
    }

    fn told(opened: Result<OwnedFd, Unusable>) -> Result<(), String> {
        opened.map(drop).or_else(|why| match why {
            Unusable::Missing => Ok(()),
            Unusable::Refused(why) => Err(why),
        })
    }

    /// All reports in a line each, the newest last. What cannot be read is left out.
    pub fn list(&self) -> Vec<Summary> {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers.into_iter().filter_map(|number| self.load(number)).collect()
    }

    /// Numbers of the reports that are there, in no order.
    pub fn numbers(&self) -> Vec<u64> {
        self.open(For::Reading).map(|dir| numbers(&dir)).unwrap_or_default()
    }

    /// A report; `None` = there is none of this number, or it cannot be read.
    pub fn read(&self, number: u64) -> Option<Report> {
        self.load(number)
    }

    fn load<T: serde::de::DeserializeOwned>(&self, number: u64) -> Option<T> {
        let dir = self.open(For::Reading).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&dir, name_of(number), flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps a report, and returns the number that it got; the oldest ones go. The text of the
    /// error is a line.
    pub fn keep(&self, report: &mut Report) -> Result<u64, String> {
        let dir = self.open(For::Making).map_err(|why| match why {
            Unusable::Missing => format!("{}: it vanished again", Shown(&self.path)),
            Unusable::Refused(why) => why,
        })?;
        let failed = |error: io::Error| format!("{}: {error}", Shown(&self.path));
        sweep(&dir);
        let name = format!("{NEW}{}", std::process::id());
        let mut next = numbers(&dir).into_iter().max().unwrap_or(0) + 1;
        for _ in 0..TRIES {
            report.summary.number = next;
            let written = write(&dir, &name, &report.bytes());
            let named = written.and_then(|()| {
                let flags = RenameFlags::NOREPLACE;
                match renameat_with(&dir, &name, &dir, name_of(next), flags) {
                    // A file system that has no such call.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        rustix::fs::linkat(&dir, &name, &dir, name_of(next), AtFlags::empty())
                    }
                    renamed => renamed,
                }
                .map_err(io::Error::from)
            });
            let _ = unlinkat(&dir, &name, AtFlags::empty());
            match named {
                Ok(()) => {
                    prune(&dir);
                    return Ok(next);
                }
                // Somebody else took it.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => next += 1,
                Err(error) => {
                    report.summary.number = 0;
                    return Err(failed(error));
                }
            }
        }
        report.summary.number = 0;
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    /// Opens the directory.
    fn open(&self, wanted: For) -> Result<OwnedFd, Unusable> {
        let shown = Shown(&self.path);
        let refused = |why: String| Unusable::Refused(format!("{shown}: {why}"));
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(Errno::NOENT) if wanted == For::Making => {
                make_directory(&self.path).map_err(|error| refused(error.to_string()))?;
                return self.open(For::Writing);
            }
            Err(Errno::NOENT) => return Err(Unusable::Missing),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(refused("it is a symlink or not a directory".to_owned()));
            }
            other => other.map_err(|errno| refused(io::Error::from(errno).to_string()))?,
        };
        let stat = fstat(&dir).map_err(|errno| refused(io::Error::from(errno).to_string()))?;
        let me = rustix::process::geteuid().as_raw();
        // Root may read anybody's.
        if stat.st_uid != me && (wanted != For::Reading || me != 0) {
            return Err(refused(format!("it belongs to user {}, not to user {me}", stat.st_uid)));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return Err(refused(format!("others may write into it (mode {mode:04o})")));
        }
        Ok(dir)
    }
}

/// What a directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Reports are read.
    Reading,
    /// Reports are kept.
    Writing,
    /// The same, and it is made if it is not there.
    Making,
}

/// Why a directory cannot be opened.
enum Unusable {
    /// It is not there.
    Missing,
    /// The reason, with its path.
    Refused(String),
}

fn name_of(number: u64) -> String {
    format!("{number}.json")
}

/// Makes it, and what is above it, for us alone.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn names(dir: &OwnedFd) -> Vec<String> {
    let entries = Dir::read_from(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned())).collect()
}

fn numbers(dir: &OwnedFd) -> Vec<u64> {
    let number = |name: &String| {
        let number: u64 = name.strip_suffix(".json")?.parse().ok()?;
        (name_of(number) == *name && number != 0).then_some(number)
    };
    // The last number has nobody after it.
    names(dir).iter().filter_map(number).filter(|number| *number < u64::MAX / 2).collect()
}

/// Removes what a writer left that was killed.
fn sweep(dir: &OwnedFd) {
    for name in names(dir) {
        let pid = name.strip_prefix(NEW).and_then(|pid| pid.parse::<u32>().ok());
        let me = std::process::id();
        if pid.is_some_and(|pid| pid == me || procfs::stat(pid).is_none()) {
            let _ = unlinkat(dir, name, AtFlags::empty());
        }
    }
}

fn write(dir: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    let file = openat(dir.as_fd(), name, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(bytes)
}

/// Removes the oldest ones.
fn prune(dir: &OwnedFd) {
    let mut numbers = numbers(dir);
    numbers.sort_unstable();
    let spare = numbers.len().saturating_sub(KEPT);
    for number in &numbers[..spare] {
        let _ = unlinkat(dir, name_of(*number), AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn named(service: &str) -> Report {
        let mut report = Report::default();
        report.summary.service = service.to_owned();
        report
    }

    /// `osps report --report-dir none` made a directory of that name.
    #[test]
    fn nowhere_is_no_directory() {
        assert_eq!(chosen(Path::new(NOWHERE)), None);
        assert!(chosen(Path::new("./none")).is_some_and(|path| path.is_absolute()));
    }

    #[test]
    fn reports_get_numbers_and_the_newest_fifty_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("a/b"));
        assert_eq!((store.list(), store.read(1)), (Vec::new(), None));
        assert_eq!(store.check(), Ok(()));
        for number in 1..=60 {
            let mut report = named(&format!("s{number}"));
            assert_eq!(store.keep(&mut report), Ok(number));
            assert_eq!(report.summary.number, number);
        }
        let list = store.list();
        let numbers: Vec<_> = list.iter().map(|summary| summary.number).collect();
        assert_eq!(numbers, (11..=60).collect::<Vec<_>>());
        assert_eq!(store.read(60).map(|report| report.summary.service), Some("s60".to_owned()));
        assert_eq!(store.read(10), None);
        let mode = |path: PathBuf| path.metadata().expect("there").mode() & 0o777;
        assert_eq!(mode(store.path().to_owned()), 0o700);
        assert_eq!(mode(store.path().join("60.json")), 0o600);
    }

    #[test]
    fn what_is_no_report_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("reports"));
        store.keep(&mut named("a")).expect("kept");
        let names = ["x.json", "007.json", "0.json", "18446744073709551615.json", "3.json", "2"];
        for name in names {
            std::fs::write(store.path().join(name), "garbage").expect("written");
        }
        std::fs::write(store.path().join(format!("{NEW}4194305")), "half").expect("written");
        assert_eq!(store.list().len(), 1);
        assert_eq!(store.keep(&mut named("b")), Ok(4), "a number that is taken is not reused");
        let left = names.map(|name| store.path().join(name).exists());
        assert_eq!(left, [true; 6]);
        assert!(!store.path().join(format!("{NEW}4194305")).exists(), "what a dead writer left");
    }

    #[test]
    fn two_writers_never_take_one_number() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().join("reports"));
        store.keep(&mut named("a")).expect("kept");
        // As if somebody had taken it between the look and the rename.
        std::fs::write(store.path().join("2.json"), "{}").expect("written");
        std::fs::remove_file(store.path().join("1.json")).expect("removed");
        assert_eq!(store.keep(&mut named("b")), Ok(3));
    }

    #[test]
    fn links_and_open_directories_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().join("real");
        std::fs::create_dir(&real).expect("made");
        let link = dir.path().join("link");
        symlink(&real, &link).expect("linked");
        let why = Store::at(link.clone()).keep(&mut named("a")).expect_err("a link");
        assert!(why.contains("symlink") && why.contains("link"), "{why}");
        assert!(Store::at(link).check().is_err());
        std::fs::write(dir.path().join("file"), "").expect("written");
        assert!(Store::at(dir.path().join("file")).check().is_err());
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o777)).expect("opened");
        let why = Store::at(real).check().expect_err("open to others");
        assert!(why.contains("mode 0777"), "{why}");
    }
}
