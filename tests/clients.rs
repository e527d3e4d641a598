//! Clients that others wrote: redis-cli, redis-benchmark, redis-py, node-redis, ioredis.
//!
//! Goal: what speaks the Redis protocol works on every port, also while a server is replaced.
//! Method: the real clients against the real binary. `.ci/run` installs them (Debian's redis-tools,
//! PyPI's redis into target/clients/python, npm's ioredis and redis into target/clients/node);
//! where one is missing, its test says so. It cannot show what other versions of these clients do.

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Launch, NO_RESTARTS, Osps, PRIMARY, SECONDARY, skip};

fn port(osps: &Osps, slot: usize) -> String {
    osps.address(slot).port().to_string()
}

/// Where `.ci/run` puts packages of other languages.
fn installed(language: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(language)
}

/// Runs a client to its end; `None` = it is not installed.
fn run(command: &mut Command) -> Option<Output> {
    let output = command.output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.expect("runs")),
    }
}

fn checked(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text
}

#[test]
fn redis_cli_reads_and_writes() {
    let osps = Launch::pair(&[]).start();
    let ask = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        run(command.args(["-h", "127.0.0.1", "-p", &port(&osps, PRIMARY)]).args(words))
            .map(|output| checked(&output).trim_end().to_owned())
    };
    let Some(pong) = ask(&["PING"]) else { return skip("redis-cli is not installed") };
    assert_eq!(pong, "PONG");
    for (words, expected) in [
        (&["SET", "greeting", "hello world"][..], "OK"),
        (&["GET", "greeting"], "hello world"),
        (&["INCR", "n"], "1"),
        (&["INCRBY", "n", "-11"], "-10"),
        (&["EXISTS", "n", "none"], "1"),
        (&["DBSIZE"], "2"),
        (&["KEYS", "g*"], "greeting"),
        (&["DEL", "n", "greeting"], "2"),
        (&["GET", "greeting"], ""),
        (&["FLUSHDB"], "OK"),
    ] {
        assert_eq!(ask(words).as_deref(), Some(expected), "{words:?}");
    }
    assert!(ask(&["INFO"]).is_some_and(|info| info.contains("name:primary")));
}

#[test]
fn redis_benchmark_runs_on_every_port() {
    let osps = Launch::pair(&[]).start();
    // On the secondary nobody was announced, so only reads are measured there.
    for (slot, tests) in [(PRIMARY, "ping,set,get,incr"), (SECONDARY, "ping,get")] {
        for pipeline in ["1", "16"] {
            let mut command = Command::new("redis-benchmark");
            command.args(["-h", "127.0.0.1", "-p", &port(&osps, slot), "-c", "20", "-n", "2000"]);
            let output = run(command.args(["-P", pipeline, "-t", tests, "--csv"]));
            let Some(output) = output else { return skip("redis-benchmark is not installed") };
            let text = checked(&output);
            let lines = text.lines().filter(|line| line.starts_with('"')).count();
            assert!(lines >= tests.split(',').count(), "{text}");
        }
    }
    assert_eq!(osps.restarts(PRIMARY), NO_RESTARTS);
}

/// Talks through a secondary, kills it in the middle, and goes on with one retry.
const PYTHON: &str = r#"
import os, signal, socket, sys
import redis
primary, victim = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(host="127.0.0.1", port=primary, protocol=2)
assert r.ping()
assert r.set("k", "v") and r.get("k") == b"v"
with r.pipeline(transaction=False) as pipe:
    assert pipe.incr("n").incr("n").get("n").execute() == [1, 2, b"2"]
assert sorted(r.keys("*")) == [b"k", b"n"] and r.dbsize() == 2
try:
    r.execute_command("NOSUCH")
    sys.exit("an unknown command was accepted")
except redis.ResponseError as error:
    assert "unknown command" in str(error), error

def session():
    with socket.create_connection(("127.0.0.1", primary)) as ask:
        ask.sendall(b"requetetype2")
        answer = ask.recv(64).decode()
    return redis.Redis(host="127.0.0.1", port=int(answer), protocol=2) if answer.isdigit() else None

s = session()
assert s.set("through", "a secondary")
os.kill(victim, signal.SIGKILL)
for attempt in range(1000):
    try:
        s = session()
        if s is not None and s.set("through", "its successor"):
            break
    except (redis.ConnectionError, redis.ResponseError):
        pass
assert r.get("through") == b"its successor"
"#;

#[test]
fn redis_py_goes_on_over_a_restart() {
    let path = installed("python");
    let probe = run(Command::new("python3").args(["-c", "import redis"]).env("PYTHONPATH", &path));
    if !probe.is_some_and(|output| output.status.success()) {
        return skip("python3 with the package redis is not installed");
    }
    let osps = Launch::pair(&[]).start();
    let victim = osps.pid(SECONDARY).to_string();
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON, &port(&osps, PRIMARY), &victim]).env("PYTHONPATH", &path);
    checked(&run(&mut command).expect("probed"));
    assert_eq!(osps.restarts(PRIMARY), NO_RESTARTS);
}

/// What first programs do, with the version of the protocol that the library prefers.
const PYTHON_DEFAULTS: &str = r#"
import sys, redis
r = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]), client_name="me", decode_responses=True)
assert r.ping() and r.client_getname() == "me"
assert r.mset({"a": 1, "b": 2}) and r.mget("a", "none", "b") == ["1", None, "2"]
assert r.setnx("a", 9) is False and r.set("c", 3, nx=True) and r.set("c", 4, nx=True) is None
assert r.set("c", 5, get=True) == "3" and r.getset("c", 6) == "5" and r.set("d", 1, xx=True) is None
assert r.decr("c", 2) == 4 and r.append("c", "x") == 2 and r.strlen("c") == 2 and r.type("c") == "string"
with r.pipeline() as p:  # MULTI .. EXEC
    p.set("x", 1).incr("x").get("none").incrby("a", 5)
    assert p.execute() == [True, 2, None, 6]
with r.pipeline(transaction=False) as p:
    for number in range(2000):
        p.set(f"k{number % 100}", number)
    assert p.execute() == [True] * 2000
assert r.delete(*[f"k{number}" for number in range(100)]) == 100
try:
    r.set("big", "x" * 100_000)
    raise SystemExit("a value of 100 KB fits?")
except redis.ResponseError as error:
    assert "longer than" in str(error), error
try:
    with r.pipeline() as p:
        p.watch("x")
    raise SystemExit("WATCH is there?")
except redis.ResponseError as error:
    assert "WATCH is not supported" in str(error), error
assert r.ping() and r.flushall() and r.dbsize() == 0
"#;

#[test]
fn redis_py_works_with_its_defaults() {
    let path = installed("python");
    let probe = run(Command::new("python3").args(["-c", "import redis"]).env("PYTHONPATH", &path));
    if !probe.is_some_and(|output| output.status.success()) {
        return skip("python3 with the package redis is not installed");
    }
    let osps = Launch::pair(&[]).start();
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON_DEFAULTS, &port(&osps, PRIMARY)]).env("PYTHONPATH", &path);
    checked(&run(&mut command).expect("probed"));
}

/// node-redis opens with `HELLO 3` and gave up at `NOPROTO`.
const NODE_REDIS: &str = r#"
const { createClient } = require("redis");
const url = `redis://127.0.0.1:${process.argv[1]}`;
(async () => {
  const check = (got, want) => {
    if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${got} is not ${want}`);
  };
  for (const RESP of [2, 3]) {
    const r = createClient({ url, RESP, socket: { reconnectStrategy: false } });
    await r.connect();
    check(await r.set("k", "v"), "OK");
    check(await r.get("k"), "v");
    check(await r.get("none"), null);
    check(await r.mGet(["k", "none"]), ["v", null]);
    check(await r.multi().set("n", "1").incr("n").get("n").exec(), ["OK", 2, "2"]);
    check(await Promise.all([r.exists("k"), r.del("k"), r.get("k")]), [1, 1, null]);
    check(await r.set("k", "w", { NX: true }), "OK");
    check(await r.flushAll(), "OK");
    await r.close();
  }
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn node_redis_works_in_both_versions_of_the_protocol() {
    let path = installed("node").join("node_modules");
    let mut probe = Command::new("node");
    probe.args(["-e", "require('redis')"]).env("NODE_PATH", &path);
    if !run(&mut probe).is_some_and(|output| output.status.success()) {
        return skip("node with the package redis is not installed");
    }
    let osps = Launch::pair(&[]).start();
    let mut command = Command::new("node");
    command.args(["-e", NODE_REDIS, &port(&osps, PRIMARY)]).env("NODE_PATH", &path);
    checked(&run(&mut command).expect("probed"));
}

const NODE: &str = r#"
const Redis = require("ioredis");
const r = new Redis({ host: "127.0.0.1", port: Number(process.argv[1]), maxRetriesPerRequest: 3 });
r.on("error", () => {});
(async () => {
  const check = (got, want) => {
    if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${got} is not ${want}`);
  };
  check(await r.set("k", "v"), "OK");
  check(await r.get("k"), "v");
  check(await r.pipeline().incr("n").incr("n").exec(), [[null, 1], [null, 2]]);
  check(await Promise.all([r.exists("k"), r.del("k"), r.get("k")]), [1, 1, null]);
  r.disconnect();
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn ioredis_reads_and_writes() {
    let path = installed("node").join("node_modules");
    let mut probe = Command::new("node");
    probe.args(["-e", "require('ioredis')"]).env("NODE_PATH", &path);
    if !run(&mut probe).is_some_and(|output| output.status.success()) {
        return skip("node with the package ioredis is not installed");
    }
    let osps = Launch::pair(&[]).start();
    let mut command = Command::new("node");
    command.args(["-e", NODE, &port(&osps, PRIMARY)]).env("NODE_PATH", &path);
    checked(&run(&mut command).expect("probed"));
}
