//! `systemd --user` in namespaces and a control group of its own: nothing of the machine's systemd is
//! seen, or touched. Signals are sent from outside, where its processes have other pids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use osps::sys::process::Process;
use osps::sys::procfs;

use super::{Guest, SOON, cannot, is_root, ms, now, process_of, run, skip, text, wait_until};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// What runs in the namespaces. It says 77 if this is not a place for it.
const INSIDE: &str = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup || exit 77
    mount -t tmpfs none /run && mkdir -p /run/systemd/system || exit 77
    unset DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET
    /lib/systemd/systemd --user & wait";

/// A manager, and the units in it; it ends with this value, and all that it started.
pub struct Manager {
    outer: Guest,
    pub group: PathBuf,
    pub dir: tempfile::TempDir,
}

/// Where control groups of version 2 are.
fn groups() -> Option<&'static Path> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    places.into_iter().find(|place| place.join("cgroup.controllers").exists())
}

impl Manager {
    /// With one unit, whose text may depend on the directory, and which it starts. `None` = it
    /// cannot be had here, and that was said.
    pub fn start(unit: &str, of: impl FnOnce(&Path) -> String) -> Option<Manager> {
        if !is_root() || !Path::new(SYSTEMD).exists() {
            skip("systemd, and root to give it namespaces of its own");
            return None;
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (units, home) = (dir.path().join("units"), dir.path().join("run"));
        fs::create_dir(&units).unwrap();
        fs::create_dir(&home).unwrap();
        let name = format!("osps-systemd-{}-{}", std::process::id(), now().0);
        let group = groups().map(|groups| groups.join(name));
        let Some(group) = group.filter(|group| fs::create_dir(group).is_ok()) else {
            cannot("no control group of version 2 can be made");
            return None;
        };
        fs::write(units.join(unit), of(dir.path())).unwrap();
        for target in ["default", "basic", "shutdown"] {
            fs::write(units.join(format!("{target}.target")), "[Unit]\n").unwrap();
        }
        let script = "echo $$ >\"$0/cgroup.procs\" && exec unshare --mount --pid --fork \
                      --mount-proc --cgroup --kill-child sh -c \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group).arg(INSIDE).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", &home).env("SYSTEMD_UNIT_PATH", &units);
        command.env("SYSTEMD_LOG_TARGET", "console").env_remove("RUST_LOG");
        let log = File::create(dir.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut manager = Manager { outer: Guest(command.spawn().unwrap()), group, dir };
        let ready = wait_until("systemd, or a refusal", SOON, || {
            if manager.outer.0.try_wait().unwrap().is_some() {
                return Some(false);
            }
            manager.control(&["is-active", "default.target"]).0.then_some(true)
        });
        if !ready {
            cannot("systemd does not run in namespaces of its own");
            return None;
        }
        let (started, said) = manager.control(&["start", unit]);
        assert!(started, "{said}");
        Some(manager)
    }

    /// `systemctl --user ARGS...`, where systemd sees who asks: whether it was done, and what was
    /// said.
    pub fn control(&self, args: &[&str]) -> (bool, String) {
        let mut all = procfs::processes().into_iter();
        let Some(inner) = all.find(|stat| stat.parent == self.outer.0.id()) else {
            return (false, "nobody is there yet".to_owned());
        };
        let mut command = Command::new("nsenter");
        command.args(["--target", &inner.pid.to_string(), "--mount", "--pid", "systemctl"]);
        command.arg("--user").args(args).env("XDG_RUNTIME_DIR", self.dir.path().join("run"));
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success(), if output.status.success() { said } else { text(&output) })
    }

    /// Everybody in a unit's control group, as seen from here.
    pub fn processes(&self, unit: &str) -> Vec<Process> {
        let file = self.group.join("app.slice").join(unit).join("cgroup.procs");
        let pids = fs::read_to_string(file).unwrap_or_default();
        pids.lines().filter_map(|pid| process_of(pid.parse().unwrap())).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- log of systemd and its units ---\n{log}");
        }
        let _ = self.outer.0.kill();
        let _ = self.outer.0.wait();
        // A group can be removed when nobody is in it any more: dead with its namespace.
        let end = now() + ms(5000);
        while now() < end && !remove_group(&self.group) {
            std::thread::sleep(ms(10));
        }
    }
}

/// Removes a control group with all below it; `false` = somebody is still in one.
fn remove_group(group: &Path) -> bool {
    let inner = fs::read_dir(group).into_iter().flatten().flatten();
    let mut inner = inner.filter(|entry| entry.path().is_dir());
    inner.all(|entry| remove_group(&entry.path())) && fs::remove_dir(group).is_ok()
}
