//! A file system that can be made to hang: whoever writes to it then sleeps beyond any signal.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Absent;
use crate::common::is_root;

/// Thaws and unmounts it at the end of its input, also when the test is killed.
const KEEPER: &str = "
trap '' INT TERM HUP
cd \"$1\" && truncate -s 16M image && mkfs.ext4 -q -F image && mkdir disk || exit 1
echo made
mount -o loop image disk || exit 1
echo mounted
while read -r order; do fsfreeze \"$order\" disk && echo done; done
fsfreeze -u disk 2>/dev/null
umount disk || umount -l disk
";

/// A small disk in a file.
pub(crate) struct Disk {
    dir: tempfile::TempDir,
    file: String,
    keeper: Child,
    said: BufReader<ChildStdout>,
}

impl Disk {
    /// Mounts one; why not, otherwise.
    pub(crate) fn new() -> Result<Disk, Absent> {
        if !is_root() {
            return Err(Absent::Skip("only root may mount a disk".to_owned()));
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk/file").to_str().unwrap().to_owned();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(dir.path());
        keeper.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().unwrap();
        let said = BufReader::new(keeper.stdout.take().unwrap());
        let mut disk = Disk { dir, file, keeper, said };
        if !disk.hear() {
            return Err(Absent::Skip("mkfs.ext4 is missing".to_owned()));
        }
        let mounted = disk.hear();
        mounted.then_some(disk).ok_or(Absent::Cannot("no disk can be mounted".to_owned()))
    }

    /// A file on it.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// From now on whoever writes there hangs.
    pub(crate) fn freeze(&mut self) {
        self.order("-f");
    }

    /// They go on.
    pub(crate) fn thaw(&mut self) {
        self.order("-u");
    }

    fn order(&mut self, order: &str) {
        writeln!(self.keeper.stdin.as_ref().unwrap(), "{order}").unwrap();
        assert!(self.hear(), "fsfreeze {order} {}", self.dir.path().display());
    }

    /// The next line, if there is one.
    fn hear(&mut self) -> bool {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap() > 0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
