//! Processes that the kernel takes down are waited for, and told as what they died of.
//!
//! Goal: a core that takes longer to write than the hang timeout is written whole, and the log
//! tells the signal; a kill for want of memory is told as one.
//!
//! Method: this test binary is the supervised program as well (`as_program`), under the real osps.
//! Memory is limited by a control group of the test's own, as root.
//!
//! The story: a process of 1.5 GB aborted, was convicted as spinning while its core was written,
//! and the core was cut to 8 %; the log told of signal 9.
//!
//! What it cannot show: a disk that never finishes; the bound on that is tested in tests/policy.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use osps_heart::Heart;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::holders::Cgroup;
use common::{Launch, Osps, cannot, is_root, skip};

const PART: &str = "OSPS_TEST_PART";
const WHERE: &str = "OSPS_TEST_WHERE";
const AMOUNT: &str = "OSPS_TEST_AMOUNT";
const MIB: usize = 1 << 20;

/// What this binary does when osps starts it.
#[test]
#[ignore = "not a test: the supervised program of the others"]
fn as_program() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    match variable(PART).as_str() {
        // Once: a successor's core would take the place of the first one's.
        "aborts" if variable("OSPS_GENERATION") == "1" => {
            std::env::set_current_dir(variable(WHERE)).unwrap();
            let hard = getrlimit(Resource::Core).maximum;
            setrlimit(Resource::Core, Rlimit { current: hard, maximum: hard }).unwrap();
            let heart = Heart::from_env().unwrap();
            let memory = fill(variable(AMOUNT).parse().unwrap(), &heart);
            heart.beat();
            assert!(!memory.is_empty());
            std::process::abort();
        }
        "grows" => {
            let heart = Heart::from_env().unwrap();
            let procs = Path::new(&variable(WHERE)).join("cgroup.procs");
            std::fs::write(procs, std::process::id().to_string()).unwrap();
            // Beyond the next check of the watchdog, which looks where it lives.
            for _ in 0..100 {
                heart.beat();
                std::thread::sleep(Duration::from_millis(10));
            }
            fill(512, &heart);
            unreachable!("more memory than the control group has");
        }
        _ => {}
    }
}

/// Memory that is really there, in MiB.
fn fill(amount: usize, heart: &Heart) -> Vec<Vec<u8>> {
    let chunk = |_| {
        heart.beat();
        vec![1; MIB]
    };
    (0..amount).map(chunk).collect()
}

fn launch(args: &[&str], part: &str, place: &Path, amount: usize) -> Osps {
    Launch::this(args)
        .env(PART, part)
        .env(WHERE, place.to_str().unwrap())
        .env(AMOUNT, amount.to_string())
        .spawn()
}

/// The core in a directory, under whatever name.
fn core_in(dir: &Path) -> Option<(PathBuf, u64)> {
    let entry = std::fs::read_dir(dir).unwrap().flatten().next()?;
    Some((entry.path(), entry.metadata().unwrap().len()))
}

#[test]
fn a_core_that_takes_longer_than_the_limit_is_written_whole() {
    if getrlimit(Resource::Core).maximum == Some(0) {
        return skip("no cores are allowed here (ulimit -H -c)");
    }
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/', '@']) {
        return cannot("cores go to a program or a directory of the machine's");
    }
    // The more memory, the longer it takes: until it takes longer than the limit.
    for amount in [256, 512, 1024, 2048] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let args = ["--hang-timeout", "150ms", "--check-interval", "100ms"];
        let osps = launch(&args, "aborts", dir.path(), amount);
        osps.wait_log(&["-> killed (signal 6"]);
        assert!(osps.find_log(&["-> frozen ("]).is_none(), "{}", osps.log());
        let (path, size) = core_in(dir.path()).expect("a core");
        assert!(size >= (amount * MIB) as u64, "{} has {size} bytes", path.display());
        if osps.find_log(&["-> held (dying: the kernel writes its core"]).is_some() {
            return;
        }
    }
    panic!("a core of 2 GiB is written in 150 ms here: the test shows nothing");
}

#[test]
fn a_kill_for_want_of_memory_is_told_as_one() {
    if !is_root() {
        return skip("a memory control group needs root");
    }
    let cage = match Cgroup::limited("oom", "memory.max", 64 * MIB) {
        Ok(cage) => cage,
        Err(why) => return cannot(&why),
    };
    let args = ["--hang-timeout", "30s", "--check-interval", "200ms"];
    let osps = launch(&args, "grows", cage.path(), 0);
    osps.wait_log(&["-> out-of-memory (out of memory: killed by the kernel, after"]);
    let segment = osps.segment();
    osps.wait("a successor", || {
        (segment.slots()[0].server.current_generation().0 >= 2).then_some(())
    });
    assert_eq!(osps.status()["servers"][0]["last_cause"], "out-of-memory", "{}", osps.log());
    drop(osps);
}
