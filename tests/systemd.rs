//! Goal: docs/examples/osps.service under systemd itself: it is active when osps supervises; a
//! watchdog that is killed or hangs is replaced, and its servers notice nothing; where the servers
//! were killed as well, clients wait in systemd's store; reload and stop do what they say.
//!
//! Method: `systemd --user` in namespaces and a control group of its own, with the unit as it
//! stands, but for paths, the user and a shorter `WatchdogSec`. The run directory lies on the
//! common /dev/shm; signals are sent from here.
//!
//! What it cannot show: systemd as the machine's own PID 1, an older or newer one than that which
//! is installed, and a boot. Without root and control groups of version 2 it does not run.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]
#![allow(clippy::print_stderr, reason = "the log of a test that failed")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use osps::sys::process::Process;
use osps::sys::procfs;
use rustix::process::pidfd_send_signal;
use serde_json::Value;

use common::services::{act, expand, who_serves};
use common::{BINARY, Guest, SOON, Signal, cannot, free_port, is_root, now, process_of, run, skip};
use common::{ms, pass, text, wait_until};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

const SYSTEMD: &str = "/lib/systemd/systemd";

/// How long a watchdog may be silent.
const PATIENCE: u64 = 2;

/// What runs in the namespaces: nothing of the machine's own systemd is seen, or touched. It says
/// 77 if this is not a place for it.
const INSIDE: &str = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup || exit 77
    mount -t tmpfs none /run && mkdir -p /run/systemd/system || exit 77
    unset DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET
    /lib/systemd/systemd --user & wait";

/// A manager of its own, and the unit in it; it ends with this value, and all that it started.
struct Systemd {
    outer: Guest,
    group: PathBuf,
    dir: tempfile::TempDir,
}

/// Where control groups of version 2 are.
fn groups() -> Option<&'static Path> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    places.into_iter().find(|place| place.join("cgroup.controllers").exists())
}

impl Systemd {
    /// With this file of services. `None` = it cannot be had here, and that was said.
    fn start(services: &str) -> Option<Systemd> {
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
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/osps.service");
        let mut unit = fs::read_to_string(unit).unwrap();
        let file = dir.path().join("osps.toml");
        let patience = format!("WatchdogSec={PATIENCE}s");
        for (there, here) in [
            ("/usr/local/bin/osps", BINARY),
            ("/etc/osps.toml", file.to_str().unwrap()),
            ("User=osps\n", ""),
            ("WatchdogSec=10s", &patience),
        ] {
            assert!(unit.contains(there), "{there}: {unit}");
            unit = unit.replace(there, here);
        }
        fs::write(units.join("osps.service"), unit).unwrap();
        for target in ["default", "basic", "shutdown"] {
            fs::write(units.join(format!("{target}.target")), "[Unit]\n").unwrap();
        }
        fs::write(&file, expand(services, dir.path())).unwrap();
        let script = "echo $$ >\"$0/cgroup.procs\" && exec unshare --mount --pid --fork \
                      --mount-proc --cgroup --kill-child sh -c \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group).arg(INSIDE).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", &home).env("SYSTEMD_UNIT_PATH", &units);
        command.env("SYSTEMD_LOG_TARGET", "console").env_remove("RUST_LOG");
        let log = File::create(dir.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut systemd = Systemd { outer: Guest(command.spawn().unwrap()), group, dir };
        let ready = wait_until("systemd, or a refusal", SOON, || {
            if systemd.outer.0.try_wait().unwrap().is_some() {
                return Some(false);
            }
            systemd.control(&["is-active", "default.target"]).0.then_some(true)
        });
        if !ready {
            cannot("systemd does not run in namespaces of its own");
            return None;
        }
        let (started, said) = systemd.control(&["start", "osps.service"]);
        assert!(started, "{said}");
        Some(systemd)
    }

    /// `systemctl --user ARGS...`, where systemd sees who asks: whether it was done, and what was
    /// said.
    fn control(&self, args: &[&str]) -> (bool, String) {
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

    /// A property of the unit.
    fn shows(&self, property: &str) -> String {
        self.control(&["show", "--value", "--property", property, "osps.service"]).1
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run/osps/default")
    }

    /// The watchdog, as this test sees it; `None` = there is none now.
    fn watchdog(&self) -> Option<Process> {
        let stat = rustix::fs::stat(self.run_dir().join("lock")).ok()?;
        process_of(procfs::lock_holder(stat.st_dev, stat.st_ino)?)
    }

    /// Name, pid and state of all services, with the pids that they have there.
    fn services(&self) -> Vec<(String, Option<u64>, String)> {
        let mut command = Command::new(BINARY);
        command.args(["status", "--json", "--run-dir"]).arg(self.run_dir()).env_remove("RUST_LOG");
        let output = run(command);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let servers = status["servers"].as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let of = |one: &Value| (word(&one["name"]), one["pid"].as_u64(), word(&one["state"]));
        servers.iter().map(of).collect()
    }

    /// Waits until all are up, and returns their pids.
    fn wait_up(&self) -> Vec<u64> {
        wait_until("all up", SOON, || {
            let services = self.services();
            let all = !services.is_empty() && services.iter().all(|(_, _, state)| state == "up");
            all.then(|| services.into_iter().filter_map(|(_, pid, _)| pid).collect())
        })
    }

    /// Waits until systemd has started another watchdog in the place of this one, for the how
    /// manyth time, and that supervises.
    fn wait_replaced(&self, old: &Process, times: usize) {
        wait_until("another watchdog", SOON, || {
            let other = self.watchdog().is_some_and(|new| new.pid() != old.pid());
            let active = self.shows("ActiveState") == "active";
            (old.is_dead() && other && active).then_some(())
        });
        assert_eq!(self.shows("NRestarts"), times.to_string());
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- log of systemd and osps ---\n{log}");
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

#[test]
fn a_watchdog_that_is_killed_or_hangs_is_replaced_and_its_servers_notice_nothing() {
    let port = free_port();
    let services = format!(
        "[service.db]\n@BEAT@\n[service.web]\n@SERVE@\nlisten = '127.0.0.1:{port}'\n\
         [service.sleeper]\n@SLEEP@\n"
    );
    let Some(systemd) = Systemd::start(&services) else { return };
    let address = ([127, 0, 0, 1], port).into();
    // A start is done when osps supervises; all are up soon after that.
    assert_eq!(systemd.shows("ActiveState"), "active");
    let pids = systemd.wait_up();
    wait_until("a line of health", SOON, || {
        (systemd.shows("StatusText") == "3 of 3 up").then_some(())
    });
    who_serves(address).unwrap();

    let old = systemd.watchdog().unwrap();
    pidfd_send_signal(old.as_fd(), Signal::KILL).unwrap();
    systemd.wait_replaced(&old, 1);
    assert_eq!(systemd.wait_up(), pids);
    who_serves(address).unwrap();

    let old = systemd.watchdog().unwrap();
    let moment = now();
    pidfd_send_signal(old.as_fd(), Signal::STOP).unwrap();
    systemd.wait_replaced(&old, 2);
    let took = now().since(moment);
    assert!(took >= ms(PATIENCE * 1000 * 3 / 4), "it was not silent for so long: {took:?}");
    assert_eq!(systemd.wait_up(), pids);
    who_serves(address).unwrap();

    // One that works is left alone.
    pass(ms(PATIENCE * 1500));
    assert_eq!(systemd.shows("NRestarts"), "2");

    let more = format!("{services}[service.more]\n@SLEEP@\n");
    fs::write(systemd.dir.path().join("osps.toml"), expand(&more, systemd.dir.path())).unwrap();
    let (reloaded, said) = systemd.control(&["reload", "osps.service"]);
    assert!(reloaded, "{said}");
    assert_eq!(systemd.wait_up()[..3], pids);
    assert_eq!(systemd.services().len(), 4);

    let (stopped, said) = systemd.control(&["stop", "osps.service"]);
    assert!(stopped, "{said}");
    let end = ["ActiveState", "Result"].map(|property| systemd.shows(property));
    assert_eq!(end, ["inactive", "success"]);
    assert!(!systemd.run_dir().exists());
}

#[test]
fn where_the_servers_were_killed_as_well_clients_wait_in_its_store() {
    let port = free_port();
    let services = format!("[service.web]\n@SERVE@\nlisten = '127.0.0.1:{port}'\n");
    let Some(systemd) = Systemd::start(&services) else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let pids = systemd.wait_up();
    wait_until("the socket in the store", SOON, || {
        (systemd.shows("NFileDescriptorStore") == "1").then_some(())
    });
    let old = systemd.watchdog().unwrap();
    // The unit's whole control group at once: the watchdog and all that it started.
    let group = systemd.group.join("app.slice/osps.service");
    let pids_here = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    let all = pids_here.lines().filter_map(|pid| process_of(pid.parse().unwrap()));
    let all: Vec<_> = all.collect();
    fs::write(group.join("cgroup.kill"), "1").unwrap();
    wait_until("their death", SOON, || all.iter().all(Process::is_dead).then_some(()));
    assert!(old.is_dead() && all.len() > pids.len(), "{pids_here}");
    let mut line = String::new();
    let client = TcpStream::connect(address).expect("not refused");
    client.set_read_timeout(Some(SOON)).unwrap();
    BufReader::new(client).read_line(&mut line).unwrap();
    systemd.wait_replaced(&old, 1);
    let successors = systemd.wait_up();
    assert_ne!(successors, pids);
    assert_eq!(line.trim(), successors[0].to_string());
    let (stopped, said) = systemd.control(&["stop", "osps.service"]);
    assert!(stopped, "{said}");
    assert!(TcpStream::connect(address).is_err(), "the store is empty after a stop");
}
