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

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use osps::sys::process::Process;
use osps::sys::procfs;
use rustix::process::pidfd_send_signal;
use serde_json::Value;

use common::services::{act, expand, who_serves};
use common::systemd::Manager;
use common::{BINARY, SOON, Signal, free_port, now, process_of, run};
use common::{ms, pass, wait_until};

#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    act();
}

/// How long a watchdog may be silent.
const PATIENCE: u64 = 2;

/// A manager of its own, and the unit in it; it ends with this value, and all that it started.
struct Systemd(Manager);

impl Systemd {
    /// With this file of services. `None` = it cannot be had here, and that was said.
    fn start(services: &str) -> Option<Systemd> {
        let manager = Manager::start("osps.service", |dir| {
            let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/osps.service");
            let mut unit = fs::read_to_string(unit).unwrap();
            let file = dir.join("osps.toml");
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
            fs::write(&file, expand(services, dir)).unwrap();
            unit
        })?;
        Some(Systemd(manager))
    }

    fn control(&self, args: &[&str]) -> (bool, String) {
        self.0.control(args)
    }

    fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// A property of the unit.
    fn shows(&self, property: &str) -> String {
        self.control(&["show", "--value", "--property", property, "osps.service"]).1
    }

    fn run_dir(&self) -> PathBuf {
        self.dir().join("run/osps/default")
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
    fs::write(systemd.dir().join("osps.toml"), expand(&more, systemd.dir())).unwrap();
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
    let all = systemd.0.processes("osps.service");
    fs::write(systemd.0.group.join("app.slice/osps.service/cgroup.kill"), "1").unwrap();
    wait_until("their death", SOON, || all.iter().all(Process::is_dead).then_some(()));
    assert!(old.is_dead() && all.len() > pids.len(), "{all:?}");
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
