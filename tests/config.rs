//! `osps.toml`: what a text becomes, and what is said of one that is wrong.
//!
//! Goal: each key does what docs/services.md says, each slip is told with its place, what was found
//! and what was expected, all slips of a file at once, and no text whatever makes the parser panic
//! or take long. The documents that are made from the table of keys (the table in docs/services.md,
//! docs/osps.schema.json) are those of the code; OSPS_BLESS=1 writes them.
//!
//! Method: the real parser with a machine of paper: a few files, users and groups. Bad files are a
//! table of texts with their exact messages.
//!
//! What it cannot show: what a watchdog makes of the services.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use osps::config::file::{FILE_MAX, File, Instance, Origin, load, parse};
use osps::config::keys::{KEYS, Key, Kind, Preset, SLOTS_MAX, Stands};
use osps::config::look::{Look, Machine, Who};
use osps::config::problem::{PROBLEMS_MAX, Problems};
use osps::config::{Config, Programs, check, schema, time};
use osps::policy::lifecycle::Patience;
use osps::policy::restart::{Intensity, Restart, Rule};
use osps::service::launch::{Limit, Resource, User};
use osps::service::{
    Address, HeartChoice, Inheritance, KillMode, Launch, Manner, Needs, Reload, Service,
    StackChoice,
};
use osps_heart::clock::SystemClock;
use osps_heart::pulse::Limits;
use osps_heart::time::Clock;
use osps_heart::words::HeartSource;
use proptest::prelude::*;

// ---- A machine of paper ----

#[derive(Debug, Default)]
struct Paper {
    files: BTreeMap<PathBuf, Vec<u8>>,
    is_root: bool,
}

impl Paper {
    fn root() -> Paper {
        Paper { is_root: true, ..Paper::default() }
    }

    fn with(mut self, path: &str, text: &str) -> Paper {
        self.files.insert(path.into(), text.into());
        self
    }
}

fn web_user() -> User {
    let known = Some(("web".into(), "/home/web".into()));
    User { uid: 1000, gid: 100, groups: vec![100, 7], known }
}

impl Look for Paper {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes[..bytes.len().min(usize::try_from(most).unwrap() + 1)].to_vec())
    }

    fn user(&self, who: &Who) -> io::Result<Option<User>> {
        let known = *who == Who::Name("web".to_owned()) || *who == Who::Number(1000);
        Ok(known.then(web_user))
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        Ok((name == "staff").then_some(50))
    }

    fn is_root(&self) -> bool {
        self.is_root
    }

    fn here(&self) -> PathBuf {
        "/etc/osps".into()
    }
}

const FILE: &str = "osps.toml";

fn read_on(text: &str, machine: &Paper) -> Result<File, Problems> {
    parse(Path::new(FILE), text, machine)
}

fn read(text: &str) -> File {
    read_on(text, &Paper::root()).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// What is said of a bad file, without the file's name.
fn told_on(text: &str, machine: &Paper) -> Vec<String> {
    let Err(problems) = read_on(text, machine) else { panic!("accepted:\n{text}") };
    let lines = problems.to_string();
    let line = |line: &str| line.strip_prefix("osps.toml:").unwrap_or(line).to_owned();
    lines.lines().map(line).collect()
}

fn told(text: &str) -> Vec<String> {
    told_on(text, &Paper::root())
}

/// One service with a line of its own, the third of the file.
fn one(line: &str) -> String {
    format!("[service.a]\ncommand = [\"x\"]\n{line}\n")
}

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(OsString::from).collect()
}

const SECOND: Duration = Duration::from_secs(1);

// ---- What a sound text becomes ----

#[test]
fn a_service_that_says_nothing_is_what_osps_run_makes() {
    let file = read(&one(""));
    let standard = Config::default();
    let instance = Instance {
        name: None,
        run_dir: None,
        report_dir: None,
        check_interval: None,
        orphan_timeout: None,
        quiet: None,
        slots: 64,
    };
    assert_eq!(file.instance, instance);
    let [service] = &file.services[..] else { panic!("one service") };
    assert_eq!((service.name.as_str(), service.family.as_str()), ("a", "a"));
    let launch = Launch { command: words(&["x"]), ..Launch::default() };
    assert_eq!(service.launch, launch);
    let limits = Limits { hang: standard.hang_timeout, start: standard.start_timeout };
    assert_eq!(service.limits, limits);
    let kill = 4 * SECOND;
    assert_eq!(service.patience, Patience { ask: SECOND, term: standard.stop_timeout, kill });
    assert_eq!(service.manner, Manner::default());
    assert_eq!(service.rule, Rule::default());
    assert_eq!(service.needs, Needs::default());
    assert_eq!((&service.reload, service.on_event.len()), (&None, 0));
}

/// The table has the numbers of the command line.
#[test]
fn defaults_and_bounds_are_those_of_the_command_line() {
    let standard = Config::default();
    let preset = |name| Key::named(name).unwrap().preset;
    for (name, span) in [
        ("hang-timeout", standard.hang_timeout),
        ("start-timeout", standard.start_timeout),
        ("stop-timeout", standard.stop_timeout),
        ("check-interval", standard.check_interval),
        ("orphan-timeout", standard.orphan_timeout),
    ] {
        let Preset::Value(text) = preset(name) else { panic!("{name}") };
        assert_eq!(text, format!("\"{}\"", time(span)));
        let Kind::Time(least) = Key::named(name).unwrap().kind else { panic!("{name}") };
        let refused = |span: Duration| {
            let mut config = Config::default();
            *match name {
                "hang-timeout" => &mut config.hang_timeout,
                "start-timeout" => &mut config.start_timeout,
                "stop-timeout" => &mut config.stop_timeout,
                "check-interval" => &mut config.check_interval,
                _ => &mut config.orphan_timeout,
            } = span;
            config.validate().is_err()
        };
        assert!(!refused(least), "{name}");
        assert!(
            least.is_zero() || refused(least.saturating_sub(Duration::from_nanos(1))),
            "{name}"
        );
    }
    assert_eq!(preset("name"), Preset::Value("\"default\""));
    assert_eq!(preset("slots"), Preset::Value("64"));
    let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS.len(), "each key once");
}

const WHOLE: &str = r#"
name = "shop"
run-dir = "run"
report-dir = "none"
check-interval = "1s"
orphan-timeout = "1m"
quiet = true
slots = 10

[defaults]
hang-timeout = "2s"
env = { A = "general", B = "general" }
limits = { nofile = 1024, core = 0 }

[service.db]
command = "db --file 'my data'"
listen = ["127.0.0.1:5432", "unix:/run/db.sock"]

[service.migrate]
command = ["migrate"]
restart = "on-failure"
success-exit = [3, 0]
depends-on = ["db"]

[service.web]
command = ["./web", "--port", "80"]
directory = "app"
env = { B = "own" }
env-file = ["first.env", "second.env"]
user = "web"
group = "staff"
umask = "027"
limits = { nofile = [100, "unlimited"], as = "unlimited" }
heart = "loop"
heart-process = "node"
hang-timeout = "500ms"
start-timeout = "3s"
stop-timeout = "500ms"
stop-signal = "INT"
max-restarts = "10/1m"
depends-on = ["migrate:done"]
restart-with = ["db"]
instances = 2
kill-mode = "group"
on-hang = "warn"
stacks = true
stack-command = "stacks -p {pid}"
report-limit = "300ms"
reload = "HUP"
log = "/var/log/web"
on-event = "tell me"
essential = true
"#;

fn whole() -> File {
    let machine = Paper::root()
        .with("/etc/osps/first.env", "# one\nexport A=first\nC='a b'\n")
        .with("/etc/osps/second.env", "C=\"a \\\"c\\\"\"\n\nD=\n");
    read_on(WHOLE, &machine).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn everything_that_can_be_said_is_done() {
    let file = whole();
    let instance = Instance {
        name: Some("shop".to_owned()),
        run_dir: Some("/etc/osps/run".into()),
        report_dir: Some("none".into()),
        check_interval: Some(SECOND),
        orphan_timeout: Some(60 * SECOND),
        quiet: Some(true),
        slots: 10,
    };
    assert_eq!(file.instance, instance);
    let names: Vec<_> = file.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["db", "migrate", "web-1", "web-2"]);

    let db = &file.services[0];
    assert_eq!(db.launch.command, words(&["db", "--file", "my data"]));
    let addresses =
        [Address::Tcp("127.0.0.1:5432".parse().unwrap()), Address::Unix("/run/db.sock".into())];
    assert_eq!(db.launch.listen, addresses);
    assert_eq!(db.limits.hang, 2 * SECOND, "said in the defaults");

    let migrate = &file.services[1];
    assert_eq!(
        (migrate.rule.restart, &migrate.rule.success[..]),
        (Restart::OnFailure, &[0, 3][..])
    );
    assert_eq!(migrate.needs.up, ["db"]);

    for (number, web) in (1..).zip(&file.services[2..]) {
        assert_eq!((web.family.as_str(), web.name.clone()), ("web", format!("web-{number}")));
        let variable = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let limit = |resource, soft, hard| Limit { resource, soft, hard };
        let launch = Launch {
            command: words(&["./web", "--port", "80"]),
            directory: Some("/etc/osps/app".into()),
            env: vec![
                variable("A", "general"),
                variable("B", "own"),
                variable("C", "a \"c\""),
                variable("D", ""),
            ],
            user: Some(User { gid: 50, ..web_user() }),
            umask: Some(0o027),
            limits: vec![
                limit(Resource::Core, Some(0), Some(0)),
                limit(Resource::AddressSpace, None, None),
                limit(Resource::Files, Some(100), None),
            ],
            listen: vec![],
            log: Some("/var/log/web".into()),
        };
        assert_eq!(web.launch, launch);
        let limits = Limits { hang: SECOND / 2, start: 3 * SECOND };
        assert_eq!(web.limits, limits);
        let patience = Patience { ask: SECOND / 2, term: SECOND / 2, kill: SECOND };
        assert_eq!(web.patience, patience);
        let heart =
            HeartChoice { process: Some("node".to_owned()), ..HeartChoice::of(HeartSource::Loop) };
        let stop_signal = Signal::SIGINT;
        let stacks = StackChoice {
            wanted: true,
            command: words(&["stacks", "-p", "{pid}"]),
            limit: Duration::from_millis(300),
        };
        let manner = Manner { heart, warn: true, stop_signal, kill_mode: KillMode::Group, stacks };
        assert_eq!(web.manner, manner);
        let intensity = Some(Intensity { restarts: 10, period: 60 * SECOND });
        assert_eq!(web.rule, Rule { intensity, essential: true, ..Rule::default() });
        let needs = Needs {
            up: vec!["db".to_owned()],
            done: vec!["migrate".to_owned()],
            with: vec!["db".to_owned()],
        };
        assert_eq!(web.needs, needs);
        assert_eq!(web.reload, Some(Reload::Signal(Signal::SIGHUP)));
        assert_eq!(web.on_event, words(&["tell", "me"]));
    }
}

/// A service is the same as the one that `osps run` makes of the same words.
#[test]
fn patience_is_that_of_osps_run() {
    for (hang, stop) in [(100, 0), (4000, 5000), (60_000, 300), (2500, 1000)] {
        let (hang, stop) = (Duration::from_millis(hang), Duration::from_millis(stop));
        let config = Config {
            hang_timeout: hang,
            stop_timeout: stop,
            programs: Programs::Own {
                command: words(&["/bin/sh"]),
                name: None,
                listen: None,
                manner: Manner::default(),
                restart: Restart::Always,
                forward_exit: false,
            },
            ..Config::default()
        };
        let here = std::fs::File::open("/").unwrap();
        let own =
            config.services(std::os::fd::AsFd::as_fd(&here), &mut Inheritance::default()).unwrap();
        let text = format!("hang-timeout = \"{}\"\nstop-timeout = \"{}\"", time(hang), time(stop));
        assert_eq!(read(&one(&text)).services[0].patience, own[0].patience);
    }
}

#[test]
fn a_command_is_split_as_a_shell_does_but_there_is_none() {
    for (line, expected) in [
        ("a b", &["a", "b"][..]),
        ("a 'b c' \\\"d\\\\ e\\\" f\\\\ g", &["a", "b c", "d\\ e", "f g"]),
        ("a $HOME *.c | cat > x", &["a", "$HOME", "*.c", "|", "cat", ">", "x"]),
        ("a '' # said to people", &["a", ""]),
    ] {
        let file = read(&format!("[service.a]\ncommand = \"{line}\""));
        assert_eq!(file.services[0].launch.command, words(expected), "{line}");
    }
}

#[test]
fn a_dependency_on_a_service_means_all_its_instances() {
    let file = read(
        "[service.a]\ncommand = 'x'\ninstances = 2\n\
         [service.b]\ncommand = 'x'\ndepends-on = ['a', 'a']\n\
         [service.c]\ncommand = 'x'\nrestart-with = ['a-2']\n",
    );
    let needs = |name: &str| {
        let service = file.services.iter().find(|service| service.name == name).unwrap();
        (service.needs.up.clone(), service.needs.with.clone())
    };
    assert_eq!(needs("b"), (vec!["a-1".to_owned(), "a-2".to_owned()], vec![]));
    assert_eq!(needs("c"), (vec!["a-2".to_owned()], vec!["a-2".to_owned()]));
}

#[test]
fn files_of_variables_are_read_as_a_shell_would() {
    let text = "A=1\n  # no\n\nexport B = no\n";
    let machine = Paper::default().with("/etc/osps/x.env", text);
    let env = one("env-file = 'x.env'");
    assert_eq!(
        told_on(&env, &machine),
        ["3:12: service.a.env-file: /etc/osps/x.env:4: before the `=` stands a name of letters, \
          digits and underscores, without blanks"]
    );
    for (line, expected) in [
        ("A=b", Some("b")),
        ("export A=b", Some("b")),
        ("export\tA=b", Some("b")),
        ("A=b\r", Some("b")),
        ("A='b c'", Some("b c")),
        ("A=\"b $C `d` \\\\ \\\" e\"", Some("b $C `d` \\ \" e")),
        ("A=b\\ c", Some("b c")),
        ("A=#b", Some("#b")),
        ("A=b#c", Some("b#c")),
        ("A=b # c", Some("b")),
        ("A=b=c", Some("b=c")),
        ("A=", Some("")),
        ("A=1\nA=2", Some("2")),
        ("A= b", None),
        ("A=b c", None),
        ("A='b", None),
        ("A", None),
        ("=b", None),
        ("1A=b", None),
        ("A B=c", None),
        ("A=a\0", None),
    ] {
        let machine = Paper::default().with("/etc/osps/x.env", line);
        match (read_on(&env, &machine), expected) {
            (Ok(file), Some(expected)) => {
                let expected = ("A".into(), expected.into());
                assert_eq!(file.services[0].launch.env, [expected], "{line}");
            }
            (Err(_), None) => {}
            (read, _) => panic!("{line:?}: {read:?}"),
        }
    }
}

/// What is wrong in a file of variables is told without the values, which may be secrets.
#[test]
fn secrets_are_not_told() {
    let secret = "tops3cret";
    let machine = Paper::default().with("/etc/osps/x.env", &format!("A=a {secret}\nB='{secret}\n"));
    for text in [
        one("env-file = 'x.env'"),
        one(&format!("env = 'A={secret}'")),
        one("env = { A = 41414141 }").replace("41414141", "[\"tops3cret\"]"),
        one(&format!("env = {{ A = \"{secret}\\u0000\" }}")),
    ] {
        let lines = told_on(&text, &machine).join("\n");
        assert!(!lines.contains(secret), "{lines}");
    }
    let said = format!("env = {{ NAMED = \"{secret}\" }}\non-event = 'x {secret}'\n");
    let file = read(&one(&said).replace("[\"x\"]", "['sleep', 'tops3cret']"));
    let shown = check::render(&file, &check::findings(&file));
    assert!(shown.contains("NAMED") && !shown.contains(secret), "{shown}");
}

// ---- What is said of a bad one ----

/// Each slip, its line and what is said of it; the line is the third of the file.
const SLIPS: [(&str, &str); 64] = [
    (
        "hang-timeout = 4",
        "3:16: service.a.hang-timeout: found the integer 4, expected a duration with a unit, like \"4s\" (did you mean \"4s\"?)",
    ),
    (
        "hang-timeout = \"4\"",
        "3:16: service.a.hang-timeout: found \"4\", expected a duration with a unit, like \"4s\" (did you mean \"4s\"?)",
    ),
    (
        "hang-timeout = 0.5",
        "3:16: service.a.hang-timeout: found the number 0.5, expected a duration with a unit, like \"4s\" (did you mean \"0.5s\"?)",
    ),
    (
        "hang-timeout = \"fast\"",
        "3:16: service.a.hang-timeout: found \"fast\", expected a duration with a unit, like \"4s\"",
    ),
    (
        "hang-timeout = \"19ms\"",
        "3:16: service.a.hang-timeout: found \"19ms\", expected at least 20ms",
    ),
    (
        "hang-timeout = \"31days\"",
        "3:16: service.a.hang-timeout: found \"31days\", expected 30days at most",
    ),
    (
        "start-timeout = \"99ms\"",
        "3:17: service.a.start-timeout: found \"99ms\", expected at least 100ms",
    ),
    (
        "hang_timeout = \"4s\"",
        "3:1: service.a.hang_timeout: no such key (did you mean `hang-timeout`?)",
    ),
    ("colour = \"red\"", "3:1: service.a.colour: no such key"),
    ("slots = 3", "3:1: service.a.slots: it belongs to the top of the file, above all tables"),
    (
        "restart = \"allways\"",
        "3:11: service.a.restart: found \"allways\", expected always, on-failure or never (did you mean `always`?)",
    ),
    ("restart = true", "3:11: service.a.restart: found true, expected always, on-failure or never"),
    (
        "heart = \"lop\"",
        "3:9: service.a.heart: found \"lop\", expected auto, memory, notify, loop, loops, none, file:PATH or probe:TARGET (did you mean `loop`?)",
    ),
    (
        "heart = \"probe:tcp://x\"",
        "3:9: service.a.heart: found \"probe:tcp://x\": the port is missing; write tcp://HOST:PORT",
    ),
    (
        "heart = \"probe:ftp://x\"",
        "3:9: service.a.heart: found \"probe:ftp://x\": ftp:// cannot be probed, only http:// and tcp:// or a command, such as curl",
    ),
    (
        "heart-process = \"node\"",
        "3:17: service.a.heart-process: only event loops are watched by the name of a process: say heart = \"loop\" or \"loops\" as well (service a)",
    ),
    (
        "heart-process = \"\"",
        "3:17: service.a.heart-process: found \"\", expected the name of a process",
    ),
    (
        "heart = \"probe:tcp://x:80\"\nlisten = \"127.0.0.1:80\"",
        "3:9: service.a.heart: osps itself listens there for the service, so a connection is made whoever is frozen: probe with http:// or a command (service a)",
    ),
    (
        "heart = \"memory\"\nuser = \"web\"",
        "3:9: service.a.heart: only osps's own user can beat in memory, since the run directory is private; say notify, loop, probe or file (service a)",
    ),
    (
        "stop-signal = \"KILL\"",
        "3:15: service.a.stop-signal: found \"KILL\", expected a signal like \"TERM\" or \"INT\"; KILL comes by itself",
    ),
    (
        "stop-signal = \"STOP\"",
        "3:15: service.a.stop-signal: found \"STOP\", expected a signal like \"TERM\" or \"INT\"; KILL comes by itself",
    ),
    (
        "max-restarts = \"10\"",
        "3:16: service.a.max-restarts: found \"10\", expected restarts and a time, like \"10/1m\"",
    ),
    (
        "max-restarts = \"10/0s\"",
        "3:16: service.a.max-restarts: found \"10/0s\", expected at most 1000 restarts, within a time above zero and up to 30days",
    ),
    (
        "max-restarts = \"1001/1m\"",
        "3:16: service.a.max-restarts: found \"1001/1m\", expected at most 1000 restarts, within a time above zero and up to 30days",
    ),
    (
        "success-exit = [256]",
        "3:17: service.a.success-exit: found the integer 256, expected an array of numbers from 0 to 255",
    ),
    (
        "success-exit = 0",
        "3:16: service.a.success-exit: found the integer 0, expected an array of numbers from 0 to 255",
    ),
    (
        "umask = \"089\"",
        "3:9: service.a.umask: found \"089\", expected mode bits in octal, like \"027\"",
    ),
    (
        "umask = \"1000\"",
        "3:9: service.a.umask: found \"1000\", expected mode bits in octal, like \"027\"",
    ),
    (
        "umask = 27",
        "3:9: service.a.umask: found the integer 27, expected mode bits in octal, like \"027\"",
    ),
    (
        "limits = { nofiles = 1 }",
        "3:12: service.a.limits.nofiles: no such resource (did you mean `nofile`?); known are as, core, cpu, data, fsize, memlock, msgqueue, nice, nofile, nproc, rtprio, sigpending, stack",
    ),
    (
        "limits = { nofile = -1 }",
        "3:21: service.a.limits.nofile: found the integer -1, expected a number, \"unlimited\", or [soft, hard]",
    ),
    (
        "limits = { nofile = [2, 1] }",
        "3:21: service.a.limits.nofile: the soft limit is above the hard one; write [soft, hard]",
    ),
    (
        "limits = { nofile = [\"unlimited\", 1] }",
        "3:21: service.a.limits.nofile: the soft limit is above the hard one; write [soft, hard]",
    ),
    (
        "limits = { nofile = [1] }",
        "3:21: service.a.limits.nofile: found an array, expected a number, \"unlimited\", or [soft, hard]",
    ),
    (
        "listen = \"80\"",
        "3:10: service.a.listen: found \"80\", expected an address like 127.0.0.1:80, [::1]:80 or unix:/PATH",
    ),
    (
        "listen = \"unix:run\"",
        "3:10: service.a.listen: found \"unix:run\", expected an absolute path behind unix:",
    ),
    (
        "listen = [\"[::1]:80\", 80]",
        "3:23: service.a.listen: found the integer 80, expected addresses like \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/PATH\"",
    ),
    ("listen = [\"[::1]:80\", \"[::]:80\"]", "3:23: service.a.listen: [::]:80 stands here twice"),
    (
        "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
        "3:26: service.a.listen: 127.0.0.1:0 stands here twice",
    ),
    ("env = { A = 1 }", "3:13: service.a.env.A: found an integer, expected a string, in quotes"),
    (
        "env = { \"A=B\" = \"c\" }",
        "3:17: service.a.env.A=B: a name has no `=` and no zero byte, and is not empty",
    ),
    ("env = [\"A=b\"]", "3:7: service.a.env: found an array, expected a table of strings"),
    ("env-file = \"absent\"", "3:12: service.a.env-file: /etc/osps/absent: entity not found"),
    ("directory = \"\"", "3:13: service.a.directory: found \"\", expected a path"),
    ("directory = \"a\\u0000\"", "3:13: service.a.directory: a zero byte cannot be in it"),
    ("user = \"nobody-here\"", "3:8: service.a.user: no such user: nobody-here"),
    ("user = 4711", "3:8: service.a.user: user 4711 has no name and no group; say `group` as well"),
    ("user = -1", "3:8: service.a.user: found the integer -1, expected a user's name or number"),
    ("user = \"web\"\ngroup = \"none\"", "4:9: service.a.group: no such group: none"),
    ("group = \"staff\"", "3:9: service.a.group: service a has no `user`; say that as well"),
    (
        "instances = 0",
        "3:13: service.a.instances: found the integer 0, expected a number from 1 to 254",
    ),
    (
        "instances = 255",
        "3:13: service.a.instances: found the integer 255, expected a number from 1 to 254",
    ),
    (
        "kill-mode = \"trees\"",
        "3:13: service.a.kill-mode: found \"trees\", expected tree or group (did you mean `tree`?)",
    ),
    ("on-hang = \"ignore\"", "3:11: service.a.on-hang: found \"ignore\", expected restart or warn"),
    ("on-event = []", "3:12: service.a.on-event: it is empty: a program to run is needed"),
    ("on-event = \"'a\"", "3:12: service.a.on-event: a quote stands open"),
    (
        "reload = \"KILL\"",
        "3:10: service.a.reload: found \"KILL\", expected a signal like \"HUP\", or a command as an array of strings",
    ),
    ("reload = [\"\"]", "3:10: service.a.reload: it is empty: a program to run is needed"),
    (
        "depends-on = \"a\"",
        "3:14: service.a.depends-on: found \"a\", expected an array of names of services",
    ),
    ("depends-on = [\"b\"]", "3:15: service.a.depends-on: no service \"b\""),
    ("depends-on = [\"a\"]", "3:15: service.a.depends-on: services wait for each other: a -> a"),
    (
        "depends-on = [\"a:done\"]",
        "3:15: service.a.depends-on: a never ends: its restart is \"always\"; there say \"on-failure\" or \"never\"",
    ),
    (
        "restart-with = [\"a:done\"]",
        "3:17: service.a.restart-with: nothing may stand behind a name here",
    ),
    ("essential = 1", "3:13: service.a.essential: found the integer 1, expected true or false"),
];

#[test]
fn each_slip_is_told_with_its_place() {
    for (line, expected) in SLIPS {
        assert_eq!(told(&one(line)), [expected], "{line}");
    }
}

/// Slips of a whole file.
#[test]
fn slips_of_the_whole_are_told() {
    let a = "[service.a]\ncommand = 'x'\n";
    let many = |count| {
        let each = |n| format!("[service.s{n}]\ncommand='x'\n");
        (0..count).map(each).collect::<Vec<_>>().concat()
    };
    let long = "x".repeat(31);
    for (text, expected) in [
        (String::new(), "1:1: no service is in it; write [service.NAME] with a command"),
        ("[service]\n".to_owned(), "2:1: no service is in it; write [service.NAME] with a command"),
        ("[service.a]\n".to_owned(), "1:10: service.a: it has no `command`"),
        (
            "[service.a]\ncommand = []\n".to_owned(),
            "2:11: service.a.command: it is empty: a program to run is needed",
        ),
        (
            "[service.a]\ncommand = \"\"\n".to_owned(),
            "2:11: service.a.command: it is empty: a program to run is needed",
        ),
        (
            "[service.a]\ncommand = 7\n".to_owned(),
            "2:11: service.a.command: found the integer 7, expected an array of strings, or a string that is split as a shell does",
        ),
        (
            "[service.a]\ncommand = ['x', 7]\n".to_owned(),
            "2:17: service.a.command: found the integer 7, expected an array of strings, or a string that is split as a shell does",
        ),
        (format!("{a}{a}").replace("x'\n[", "x'\n\n["), "4:10: `a` stands here again"),
        (
            format!("name = 'a b'\n{a}"),
            "1:8: name: found \"a b\", expected 1 to 64 letters, digits, dots, dashes or underscores, no dot in front",
        ),
        (
            format!("slots = 255\n{a}"),
            "1:9: slots: found the integer 255, expected a number from 1 to 254",
        ),
        (
            format!("check-interval = '9ms'\n{a}"),
            "1:18: check-interval: found \"9ms\", expected at least 10ms",
        ),
        (
            format!("orphan-timeout = '9ms'\n{a}"),
            "1:18: orphan-timeout: found \"9ms\", expected at least 1s",
        ),
        (
            format!("heart = 'loop'\n{a}"),
            "1:1: heart: it belongs into [defaults] or a [service.NAME]",
        ),
        (format!("listen = '[::1]:1'\n{a}"), "1:1: listen: it belongs into a [service.NAME]"),
        (format!("[default]\n{a}"), "1:2: default: no such key (did you mean `defaults`?)"),
        (format!("defaults = 3\n{a}"), "1:12: defaults: expected a table, [defaults]"),
        (
            format!("[defaults]\ncommand = 'x'\n{a}"),
            "2:1: defaults.command: not in [defaults]: each service has its own",
        ),
        (
            format!("[defaults]\nlisten = '[::1]:1'\n{a}"),
            "2:1: defaults.listen: not in [defaults]: two services cannot listen to one address",
        ),
        (
            format!("[defaults]\ndepends-on = []\n{a}"),
            "2:1: defaults.depends-on: not in [defaults]: a service would wait for itself",
        ),
        (
            "[[service]]\ncommand = 'x'\n".to_owned(),
            "1:1: service: expected tables, [service.NAME]",
        ),
        (
            "[service]\ncommand = 'x'\n".to_owned(),
            "2:11: service.command: expected a table, [service.NAME]: `command` is a key of a service, say [service.NAME] above it",
        ),
        (
            "[service.\".a\"]\ncommand = 'x'\n".to_owned(),
            "1:10: service..a: no name of a service, expected 1 to 32 letters, digits, dots, dashes or underscores, no dot in front",
        ),
        (
            format!("[service.{long}]\ncommand = 'x'\ninstances = 2\n"),
            "3:13: service.LONG: its instance LONG-1 has no name, expected 1 to 32 letters, digits, dots, dashes or underscores, no dot in front",
        ),
        (
            format!("{a}instances = 2\n[service.a-1]\ncommand = 'x'\n"),
            "3:13: service.a: its instance a-1 would be called like one of service a-1",
        ),
        (
            format!("{a}depends-on = ['b']\n[service.b]\ncommand='x'\nrestart-with = ['a']\n"),
            "6:17: service.b.restart-with: services wait for each other: a -> b -> a",
        ),
        (
            format!(
                "{a}listen = '127.0.0.1:80'\n[service.b]\ncommand='x'\nlisten = '0.0.0.0:80'\n"
            ),
            "6:10: service.b.listen: service a listens to 0.0.0.0:80 as well",
        ),
        (
            format!("{a}listen = 'unix:/x'\n[service.b]\ncommand='x'\nlisten = ['unix:/x']\n"),
            "6:11: service.b.listen: service a listens to unix:/x as well",
        ),
        (
            format!("{a}depends-on = ['a:up']\n"),
            "3:15: service.a.depends-on: only `:done` may stand behind a name",
        ),
        (many(65), "1:1: slots: 65 services do not fit into 64 slots; say slots = 65 or more"),
        (
            format!("slots = 1\n{a}instances = 2\n"),
            "1:9: slots: 2 services do not fit into 1 slots; say slots = 2 or more",
        ),
        (
            many(255),
            "1:1: slots: 255 services do not fit into 64 slots; an instance has 254 at most: take several files with a name each",
        ),
        ("key".to_owned(), "1:4: key with no value, expected `=`"),
        (
            format!("{a}hang-timeout = 4s\n"),
            "3:16: string values must be quoted, expected literal string",
        ),
        (
            "\u{e9} = 1\n".to_owned(),
            "1:1: invalid unquoted key, expected letters, numbers, `-`, `_`",
        ),
    ] {
        let told: Vec<_> = told(&text).iter().map(|line| line.replace(&long, "LONG")).collect();
        assert_eq!(told[0], expected, "{text}");
        let alone = told.len() == 1 || expected.contains("again") || expected.contains("LONG");
        assert!(alone || expected.contains("unquoted key"), "{told:#?}");
    }
}

#[test]
fn any_free_port_is_nobodys_and_other_addresses_do_not_clash() {
    let listen = |name: &str, list: &str| format!("[service.{name}]\ncommand='x'\nlisten={list}\n");
    read(
        &(listen("a", "['127.0.0.1:0', '127.0.0.1:80', '[::1]:80']")
            + &listen("b", "['127.0.0.1:0', '127.0.0.2:80', '127.0.0.1:81', 'unix:/x']")),
    );
}

#[test]
fn all_slips_of_a_file_are_told_at_once_in_its_order() {
    let text = "slotz = 3\n[defaults]\nheart = 7\nhang-timeout = 4\n\n[service.a]\ncomand = 'x'\n\
                start-timeout = '1ms'\n[service.b]\ncommand = 'x'\ndepends-on = ['c', 'a']\n\
                heart-process = 'x'\n";
    assert_eq!(
        told(text),
        [
            "1:1: slotz: no such key (did you mean `slots`?)",
            "3:9: defaults.heart: found the integer 7, expected auto, memory, notify, loop, loops, \
             none, file:PATH or probe:TARGET",
            "4:16: defaults.hang-timeout: found the integer 4, expected a duration with a unit, \
             like \"4s\" (did you mean \"4s\"?)",
            "6:10: service.a: it has no `command`",
            "7:1: service.a.comand: no such key (did you mean `command`?)",
            "8:17: service.a.start-timeout: found \"1ms\", expected at least 100ms",
            "11:15: service.b.depends-on: no service \"c\"",
        ]
    );
    // Text that is no TOML does not hide the rest, and what it may have hidden is not told.
    let text = "[service.a]\ncommand = x\nheart = 7\n[service.b\ncommand = 'x'\n";
    let told = told(text);
    let places: Vec<_> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["2:11", "3:9", "4:11"], "{told:#?}");
}

#[test]
fn another_user_needs_root() {
    assert_eq!(
        told_on(&one("user = 'web'"), &Paper::default()),
        ["3:8: service.a.user: only root may give a service another user; take it out, or run \
          osps as root"]
    );
    for (line, user) in [
        ("user = 'web'", web_user()),
        ("user = 1000", web_user()),
        ("user = '1000'\ngroup = 5", User { gid: 5, ..web_user() }),
        (
            "user = 4711\ngroup = 'staff'",
            User { uid: 4711, gid: 50, groups: vec![50], known: None },
        ),
    ] {
        assert_eq!(read(&one(line)).services[0].launch.user, Some(user), "{line}");
    }
}

/// The machine itself knows root, and files as they are.
#[test]
fn the_real_machine_answers() {
    let root = Machine.user(&Who::Number(0)).unwrap().unwrap();
    assert_eq!((root.uid, root.gid), (0, 0));
    assert_eq!(Machine.user(&Who::Name("root".to_owned())).unwrap(), Some(root));
    assert_eq!(Machine.user(&Who::Name("nobody-here".to_owned())).unwrap(), None);
    assert_eq!(Machine.group("root").unwrap(), Some(0));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("osps.toml");
    std::fs::write(&path, one("directory = 'app'")).unwrap();
    let file = load(&path, &Machine).unwrap();
    assert_eq!(file.services[0].launch.directory, Some(dir.path().join("app")));
    let shown = path.display();
    std::fs::write(&path, b"[service.a]\n\xff").unwrap();
    let text = load(&path, &Machine).unwrap_err().to_string();
    assert_eq!(text, format!("{shown}: it is no UTF-8 text, see line 2"));
    let absent = dir.path().join("absent");
    let text = load(&absent, &Machine).unwrap_err().to_string();
    assert_eq!(text, format!("{}: No such file or directory", absent.display()));
}

/// A value of each kind of TOML.
const VALUES: [(&str, &str); 7] = [
    ("string", "\"\\u0001\""),
    ("integer", "-7"),
    ("float", "1.5"),
    ("boolean", "true"),
    ("date", "1979-05-27"),
    ("array", "[[]]"),
    ("table", "{ \"\" = [] }"),
];

#[test]
fn every_key_refuses_every_wrong_type() {
    for key in &KEYS {
        for (kind, value) in VALUES {
            let fits = matches!(
                (key.kind, kind),
                (Kind::Flag, "boolean")
                    | (
                        Kind::Text | Kind::Path | Kind::Store | Kind::Paths | Kind::Command,
                        "string"
                    )
            );
            let line = format!("{} = {value}", key.name);
            let text = match key.stands {
                Stands::Top => format!("{line}\n{}", one("")),
                _ if key.name == "command" => format!("[service.a]\n{line}\n"),
                _ => one(&line),
            };
            let machine = Paper::root().with("/etc/osps/\u{1}", "");
            if fits {
                let refused = read_on(&text, &machine).err().map(|problems| problems.to_string());
                let other = refused.filter(|told| !told.contains("only event loops"));
                assert_eq!(other, None, "{line}");
            } else {
                let told = told_on(&text, &machine);
                assert_eq!(told.len(), 1, "{line}: {told:#?}");
                assert!(told[0].contains(key.name), "{told:?}");
                let words = ["expected", "no such", "is not empty", "say that as well"]
                    .iter()
                    .any(|word| told[0].contains(word));
                assert!(words, "{told:?}");
            }
        }
    }
}

// ---- Bounds ----

#[test]
fn a_file_of_a_mebibyte_is_read_and_no_longer_one() {
    let mut text = one("");
    text.push('#');
    text.push_str(&"x".repeat(FILE_MAX - text.len()));
    assert_eq!(read(&text).services.len(), 1);
    text.push('x');
    assert_eq!(told(&text), [" it has more than 1048576 bytes (1 MiB), which is no configuration"]);
}

/// Texts that are meant to take long.
#[test]
fn no_text_takes_long() {
    let fill = |piece: &str| piece.repeat(FILE_MAX / piece.len());
    let numbered = |line: fn(usize) -> String| {
        let mut text = String::new();
        let mut number = 0;
        while text.len() < FILE_MAX - 200 {
            text.push_str(&line(number));
            number += 1;
        }
        text
    };
    let chain = (0..254).map(|n| {
        let all = (0..254).map(|m| format!("'s{m}'")).collect::<Vec<_>>().join(",");
        format!("[service.s{n}]\ncommand='x'\ndepends-on=[{all}]\n")
    });
    for (what, text) in [
        ("broken lines", fill("a\n")),
        ("one broken line", fill("[")),
        ("nested arrays", format!("a = {}", fill("[")).chars().take(FILE_MAX).collect()),
        ("dots", fill("a.")),
        ("quotes", fill("\"")),
        ("services", numbered(|n| format!("[service.s{n}]\n"))),
        ("instances", numbered(|n| format!("[service.s{n}]\ncommand='x'\ninstances=254\n"))),
        ("unknown keys", numbered(|n| format!("hang-timeou{n} = 1\n"))),
        ("unknown names", one(&format!("depends-on = [{}]", &numbered(|n| format!("'b{n}',"))))),
        ("a long name", format!("{} = 1", "a".repeat(FILE_MAX - 10))),
        ("addresses", one(&format!("listen = [{}]", &numbered(|n| format!("'[::1]:{n}',"))))),
        ("a circle of all", format!("slots = 254\n{}", chain.collect::<String>())),
        ("a long command", format!("[service.a]\ncommand = '{}'", "x ".repeat(FILE_MAX / 3))),
    ] {
        let began = SystemClock.now();
        let problems = match read_on(&text, &Paper::root()) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        };
        let took = SystemClock.now().since(began);
        assert!(problems.lines().count() <= PROBLEMS_MAX + 1, "{what}");
        assert!(problems.len() < 1 << 21, "{what}: {} bytes", problems.len());
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    }
}

// ---- Telling ----

#[test]
fn check_tells_who_said_what_the_order_and_the_latency() {
    let file = whole();
    let shown = check::render(&file, &[]);
    for line in [
        "service web (2 instances: web-1 to web-2)",
        "  command        ./web and 2 arguments                    osps.toml:26",
        "  hang-timeout   2s                                       [defaults] osps.toml:11",
        "  start-timeout  10s",
        "  start-timeout  3s                                       osps.toml:37",
        "  1. db",
        "  2. migrate after db",
        "  3. web after db, migrate",
    ] {
        assert!(shown.lines().any(|known| known == line), "{line}\n{shown}");
    }
    assert_eq!(file.families[2].after, [0, 1]);
    let entry = |key| file.families[2].entries.iter().find(|entry| entry.key == key).unwrap();
    assert_eq!(entry("stop-timeout").origin, Origin::Service(38));
    assert_eq!(entry("success-exit").origin, Origin::Default);
}

#[test]
fn a_latency_is_a_formula_with_its_numbers() {
    let latency = |line: &str| check::latency(&read(&one(line)).services[0]);
    for (line, expected) in [
        ("heart = 'none'", "is not noticed: only death is (heart none)"),
        (
            "heart = 'memory'",
            "is noticed after 3s 500ms to 4s 500ms: limit 4s, less a beat interval of 500ms, plus \
             slack 500ms, before the first beat 10s",
        ),
        (
            "heart = 'loop'",
            "is noticed after 3s to 4s 500ms: limit 4s, less a slice of a wait of 1s, plus slack \
             500ms, and not before it is 10s old",
        ),
        (
            "heart = 'file:x'\nhang-timeout = '2s'\non-hang = 'warn'",
            "is noticed after 2s to 2s 500ms: limit 2s, plus slack 250ms, plus a look every 250ms, \
             less the time between two moves, before the first beat 10s, told, and not acted on",
        ),
        (
            "heart = 'probe:true'",
            "is noticed after 2s to 4s 500ms: limit 4s, less what a probe may take of 2s, plus \
             slack 500ms, before the first beat 10s",
        ),
    ] {
        assert_eq!(latency(line), expected, "{line}");
    }
    assert!(latency("").contains("until then only death is"), "{}", latency(""));
}

#[test]
fn check_finds_what_this_machine_has_not() {
    let file = read(
        "[defaults]\nheart = 'notify'\n[service.a]\ncommand = '/absent/x'\nlog = '/absent/log'\n\
         [service.b]\ncommand = '/bin/sh'\ndirectory = '/absent'\nheart = 'none'\n\
         [service.c]\ncommand = '/bin/sh'\n",
    );
    let found: Vec<_> =
        check::findings(&file).into_iter().map(|found| (found.fatal, found.text)).collect();
    assert_eq!(
        found,
        [
            (true, "service a: cannot run /absent/x: no such file".to_owned()),
            (true, "service a: there is no directory /absent for its log".to_owned()),
            (true, "service b: there is no directory /absent".to_owned()),
            (false, "service b: only its death is noticed (heart none)".to_owned()),
        ]
    );
}

#[test]
fn a_command_for_a_shell_is_told_that_there_is_none() {
    for (command, told) in [
        ("export A=1 && node server.js", true),
        ("FOO=1 node server.js", true),
        ("~/server", true),
        ("/absent/x > log", true),
        ("/absent/x --out=log", false),
    ] {
        let text = format!("[service.a]\nheart = 'notify'\ncommand = '{command}'\n");
        let found = check::findings(&read(&text));
        let hint = "; there is no shell: write [\"sh\", \"-c\", \"...\"]";
        assert_eq!(found.len(), 1, "{command}: {found:?}");
        assert!(found[0].fatal && found[0].text.ends_with(hint) == told, "{found:?}");
    }
}

#[test]
fn two_hundred_services_are_checked_soon() {
    let mut text = "slots = 254\n[defaults]\nenv = { A = 'b' }\n".to_owned();
    for number in 0..200 {
        write!(text, "[service.s{number}]\ncommand = '/bin/sh -c x'\nlog = '/tmp/{number}'\n")
            .unwrap();
        if number > 0 {
            writeln!(text, "depends-on = ['s{}']\nrestart-with = ['s{}']", number - 1, number / 2)
                .unwrap();
        }
    }
    let began = SystemClock.now();
    let file = read(&text);
    let shown = check::render(&file, &check::findings(&file));
    let took = SystemClock.now().since(began);
    assert!(shown.lines().count() > 200 * 5);
    // In release it is 50 ms.
    assert!(took < if cfg!(debug_assertions) { SECOND * 5 } else { SECOND / 4 }, "{took:?}");
}

// ---- Documents ----

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn compare(file: &str, found: &str, rendered: &str, whole: &str) {
    if std::env::var_os("OSPS_BLESS").is_some() {
        if found != rendered {
            std::fs::write(path(file), whole).unwrap();
        }
    } else {
        assert_eq!(found, rendered, "{file} is out of date: run this test with OSPS_BLESS=1");
    }
}

#[test]
fn the_schema_is_that_of_the_table() {
    const SCHEMA: &str = "docs/osps.schema.json";
    let rendered = schema::render();
    let found = std::fs::read_to_string(path(SCHEMA)).unwrap_or_default();
    compare(SCHEMA, &found, &rendered, &rendered);
}

fn keys_table() -> String {
    let mut table = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for key in &KEYS {
        let stands = match key.stands {
            Stands::Top => "\u{2191} ",
            Stands::Both => "",
            Stands::Service(_) => "\u{2022} ",
        };
        let default = match key.preset {
            Preset::Value(text) => format!("`{text}`"),
            Preset::Absent(text) => text.to_owned(),
        };
        writeln!(
            table,
            "| {stands}`{}` | {} | {default} | {} |",
            key.name, key.expected, key.meaning
        )
        .unwrap();
    }
    table
}

#[test]
fn the_reference_lists_the_keys_of_the_table() {
    const FILE: &str = "docs/services.md";
    const BEGIN: &str = "<!-- keys -->\n";
    const END: &str = "<!-- end -->";
    let document = std::fs::read_to_string(path(FILE)).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (block, after) = rest.split_once(END).unwrap();
    let rendered = keys_table();
    compare(FILE, block, &rendered, &format!("{before}{BEGIN}{rendered}{END}{after}"));
}

/// What the reference shows is a file.
#[test]
fn the_example_of_the_reference_is_sound() {
    let document = std::fs::read_to_string(path("docs/services.md")).unwrap();
    let machine = Paper::root().with("/etc/osps/shop.env", "");
    let mut examples = document.split("```toml\n").skip(1);
    let example = examples.next().unwrap().split("```").next().unwrap();
    let file = read_on(example, &machine).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(file.services.len() > 2);
}

// ---- Whatever a text is ----

fn sound_or_told(text: &str) {
    match read_on(text, &Paper::root()) {
        Ok(file) => {
            let slots = u64::try_from(file.services.len()).unwrap();
            assert!((1..=SLOTS_MAX).contains(&slots));
            assert!(file.services.iter().all(|service: &Service| service.launch.is_program()));
            check::render(&file, &[]);
        }
        Err(problems) => {
            assert!(!problems.list.is_empty() && problems.list.is_sorted_by_key(|each| each.place));
            let lines = problems.to_string();
            assert!(
                lines
                    .lines()
                    .all(|line| line.starts_with("osps.toml:") || line.starts_with("and ")),
                "{lines}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_sound_or_told(text in "(?s).{0,400}") {
        sound_or_told(&text);
    }

    #[test]
    fn text_of_our_words_is_sound_or_told(
        lines in prop::collection::vec((0..KEYS.len() + 3, 0..VALUES.len() + 4), 0..12)
    ) {
        let mut text = String::new();
        for (key, value) in lines {
            let value = match value {
                0..7 => VALUES[value].1,
                7 => "'a'",
                8 => "['a', 'b:done']",
                9 => "'4s'",
                _ => "3",
            };
            match KEYS.get(key) {
                Some(key) => writeln!(text, "{} = {value}", key.name).unwrap(),
                None => text.push_str(["[defaults]\n", "[service.a]\n", "[service.b]\n"][key - KEYS.len()]),
            }
        }
        sound_or_told(&text);
    }

    #[test]
    fn a_mutated_file_is_sound_or_told(
        edits in prop::collection::vec((0..WHOLE.len(), 0..6_usize, any::<char>()), 1..8)
    ) {
        let mut chars: Vec<char> = WHOLE.chars().collect();
        for (at, what, with) in edits {
            // Earlier edits may have left nothing.
            if chars.is_empty() {
                chars.push(with);
            }
            let at = at % chars.len();
            match what {
                0 => chars.insert(at, with),
                1 => { chars.remove(at); }
                2 => chars[at] = with,
                3 => chars.truncate(at + 1),
                4 => { let copy = chars[at..(at + 40).min(chars.len())].to_vec(); chars.extend(copy); }
                _ => { chars.drain(at..(at + 20).min(chars.len())); }
            }
        }
        sound_or_told(&chars.into_iter().collect::<String>());
    }
}
