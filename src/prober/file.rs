//! A file that its service writes or touches as long as it works.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file as it was found by the last look.
#[derive(Debug, Default)]
pub struct Watched {
    /// There was a look before: what it found is what the next one is compared with.
    looked: bool,
    seen: Option<Stamp>,
}

/// What moves when a file is written, touched or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Watched {
    /// Whether it moved since the last look; the first one moves nothing. May hang with the file
    /// system. One that comes back moved only if it is not what it was when it went.
    pub fn look(&mut self, path: &Path) -> io::Result<bool> {
        let found = std::fs::metadata(path).map(|meta| Stamp::of(&meta));
        let is_first = !self.looked;
        // Whether a file is there that cannot be looked at is not known.
        self.looked |= found.is_ok() || kind(&found) == Some(ErrorKind::NotFound);
        let found = Some(found?);
        let moved = !is_first && found != self.seen;
        self.seen = found;
        Ok(moved)
    }
}

fn kind(found: &io::Result<Stamp>) -> Option<ErrorKind> {
    found.as_ref().err().map(io::Error::kind)
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp {
            inode: (meta.dev(), meta.ino()),
            size: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, rename, write};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn every_kind_of_move_counts_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let [path, other] = ["beat", "other"].map(|name| dir.path().join(name));
        let touch = |at: u64| {
            let file = File::options().append(true).open(&path).expect("opened");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(at)).expect("touched");
        };
        let mut watched = Watched::default();
        write(&path, "1").expect("written");
        touch(1000);
        assert!(!watched.look(&path).expect("there"), "the first look");
        assert!(!watched.look(&path).expect("there"), "nothing happened");
        touch(900);
        assert!(watched.look(&path).expect("there"), "time, whichever way");
        write(&path, "22").expect("written");
        touch(900);
        assert!(watched.look(&path).expect("there"), "size");
        write(&other, "33").expect("written");
        rename(&other, &path).expect("replaced");
        touch(900);
        assert!(watched.look(&path).expect("there"), "inode");
        rename(&path, &other).expect("hidden");
        assert!(watched.look(&path).is_err());
        rename(&other, &path).expect("put back");
        assert!(!watched.look(&path).expect("there"), "the same file came back");
    }

    #[test]
    fn a_file_that_was_not_there_and_is_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("beat");
        let mut watched = Watched::default();
        assert!(watched.look(&path).is_err());
        write(&path, "").expect("written");
        assert!(watched.look(&path).expect("there"));
        // What was never seen is no move.
        let mut watched = Watched::default();
        assert!(watched.look(&path.join("below")).is_err());
        assert!(!watched.look(&path).expect("there"));
    }
}
