//! Every key of `osps.toml`, once: where it may stand, what it is, what it is by default, what it
//! means. The parser, its messages, the schema, docs/services.md and `osps check` go by this table.

use std::time::Duration;

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// At the top of the file.
    Top,
    /// In a service, or in `[defaults]` for all of them.
    Both,
    /// In a service only. The text says why not in `[defaults]`.
    Service(&'static str),
}

/// What the value of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Flag,
    /// A whole number within these bounds.
    Count(u64, u64),
    /// A time, at least so long.
    Time(Duration),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A name of at most so many bytes.
    Name(usize),
    /// A string that a shell would not look at.
    Text,
    /// A path; a relative one begins at the file's directory.
    Path,
    /// Such a path, or `none`.
    Store,
    /// Such paths: a string or an array.
    Paths,
    /// A program and its arguments: an array, or a string split as a shell does.
    Command,
    /// Addresses: a string or an array.
    Addresses,
    /// Names of services.
    Names,
    /// Exit statuses.
    Statuses,
    /// Variables and their values.
    Variables,
    /// Resources and their limits.
    Limits,
    /// A user or a group: a name or a number.
    Owner,
    /// Mode bits, octal.
    Mask,
    /// A signal.
    Signal,
    /// `N/PERIOD`.
    Intensity,
    /// Who beats.
    Heart,
    /// A signal, or a command in an array.
    Reload,
}

/// What a key that does not stand there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The same as this value, written as in the file.
    Value(&'static str),
    /// This, said in words.
    Absent(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// Where it may stand.
    pub stands: Stands,
    /// What its value is.
    pub kind: Kind,
    /// What it is without being said.
    pub preset: Preset,
    /// What is expected; completes "expected ...".
    pub expected: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
}

impl Key {
    /// The key of this name.
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Whether it says something of a service.
    pub fn is_services(&self) -> bool {
        self.stands != Stands::Top
    }
}

/// Slots of an instance that says nothing: room for what later reloads add.
pub const SLOTS: u64 = 64;
/// Most slots of an instance: the segment has no more.
pub const SLOTS_MAX: u64 = 254;
/// Most bytes of the name of an instance.
pub const INSTANCE_NAME_MAX: usize = 64;

use Kind::{
    Addresses, Choice, Command, Count, Flag, Heart, Intensity, Limits, Mask, Name, Names, Owner,
    Path, Paths, Reload, Signal, Statuses, Store, Text, Time, Variables,
};
use Preset::{Absent, Value};
use Stands::{Both, Service, Top};

const fn key(
    name: &'static str,
    (stands, kind, preset): (Stands, Kind, Preset),
    expected: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, stands, kind, preset, expected, meaning }
}

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

const TIME: &str = "a duration with a unit, like \"4s\"";
const COMMAND: &str = "an array of strings, or a string that is split as a shell does";
const ONCE: &str = "two services cannot listen to one address";
const ITSELF: &str = "a service would wait for itself";
const LIMIT: Duration = osps_heart::pulse::LIMIT_MIN;

/// All keys, in the order in which they are told.
pub const KEYS: [Key; 37] = [
    key(
        "name",
        (Top, Name(INSTANCE_NAME_MAX), Value("\"default\"")),
        "a name of letters, digits, dots, dashes and underscores",
        "name of the instance, as `--name`",
    ),
    key(
        "run-dir",
        (Top, Path, Absent("as for `--run-dir`")),
        "a path",
        "the run directory itself, on a tmpfs",
    ),
    key(
        "report-dir",
        (Top, Store, Absent("as for `--report-dir`")),
        "a path, or \"none\"",
        "where [reports of hangs](operations.md#reports) are kept",
    ),
    key(
        "check-interval",
        (Top, Time(ms(10)), Value("\"2s\"")),
        TIME,
        "look at every service at least so often",
    ),
    key(
        "orphan-timeout",
        (Top, Time(ms(1000)), Value("\"30s\"")),
        TIME,
        "services that beat in memory outlive a dead watchdog for so long",
    ),
    key("quiet", (Top, Flag, Value("false")), "true or false", "tell only what went wrong"),
    key(
        "slots",
        (Top, Count(1, SLOTS_MAX), Value("64")),
        "a number from 1 to 254",
        "room for the file's services, and for those that a reload adds",
    ),
    key(
        "command",
        (Service("each service has its own"), Command, Absent("required")),
        COMMAND,
        "the program and its arguments; there is no shell",
    ),
    key("directory", (Both, Path, Absent("where osps was started")), "a path", "where it starts"),
    key(
        "env",
        (Both, Variables, Absent("nothing")),
        "a table of strings",
        "variables beside what osps inherited; those of `[defaults]` are added, name by name",
    ),
    key(
        "env-file",
        (Both, Paths, Absent("none")),
        "a path, or an array of paths",
        "files of variables, `NAME=VALUE` a line; `env` and later files win",
    ),
    key(
        "user",
        (Both, Owner, Absent("osps's own")),
        "a user's name or number",
        "whose rights it has; only when osps runs as root",
    ),
    key(
        "group",
        (Both, Owner, Absent("the user's")),
        "a group's name or number",
        "its group, if not its user's; only together with `user`",
    ),
    key(
        "umask",
        (Both, Mask, Absent("osps's own")),
        "mode bits in octal, like \"027\"",
        "mode bits that files of its making never have",
    ),
    key(
        "limits",
        (Both, Limits, Absent("osps's own")),
        "a table of limits, like { nofile = 4096 }",
        "limits of resources, named as in limits.conf(5): a number, `\"unlimited\"`, or \
         `[soft, hard]`; those of `[defaults]` are added, one by one",
    ),
    key(
        "listen",
        (Service(ONCE), Addresses, Absent("none")),
        "addresses like \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/PATH\"",
        "sockets that osps holds for it, passed from descriptor 3 on",
    ),
    key(
        "heart",
        (Both, Heart, Value("\"auto\"")),
        "auto, memory, notify, loop, loops, none, file:PATH or probe:TARGET",
        "who beats for it, see [hearts](operations.md#hearts)",
    ),
    key(
        "heart-process",
        (Both, Text, Absent("any")),
        "the name of a process",
        "with `loop` or `loops`: only a process of this name beats",
    ),
    key(
        "hang-timeout",
        (Both, Time(LIMIT), Value("\"4s\"")),
        TIME,
        "silent for so long, it is frozen",
    ),
    key("start-timeout", (Both, Time(ms(100)), Value("\"10s\"")), TIME, "time to its first beat"),
    key(
        "stop-timeout",
        (Both, Time(Duration::ZERO), Value("\"5s\"")),
        TIME,
        "time to leave after its stop signal; then it is killed",
    ),
    key(
        "stop-signal",
        (Both, Signal, Value("\"TERM\"")),
        "a signal like \"TERM\" or \"INT\"; KILL comes by itself",
        "what it is sent when it has to go",
    ),
    key(
        "restart",
        (Both, Choice(&["always", "on-failure", "never"]), Value("\"always\"")),
        "always, on-failure or never",
        "after which deaths it is started again; otherwise it is `done` or `failed`",
    ),
    key(
        "success-exit",
        (Both, Statuses, Value("[0]")),
        "an array of numbers from 0 to 255",
        "exit statuses that are a success",
    ),
    key(
        "max-restarts",
        (Both, Intensity, Absent("never gives up")),
        "restarts and a time, like \"10/1m\"",
        "more restarts than that, and it is `failed`",
    ),
    key(
        "depends-on",
        (Service(ITSELF), Names, Absent("nobody")),
        "an array of names of services",
        "it starts when these are up, and stops before them; `\"migrate:done\"` waits for a \
         successful end",
    ),
    key(
        "restart-with",
        (Service(ITSELF), Names, Absent("nobody")),
        "an array of names of services",
        "it goes down when one of these failed, and comes back after that one",
    ),
    key(
        "instances",
        (Both, Count(1, SLOTS_MAX), Value("1")),
        "a number from 1 to 254",
        "how many of it run: `NAME`, or `NAME-1`, `NAME-2` and so on",
    ),
    key(
        "kill-mode",
        (Both, Choice(&["tree", "group"]), Value("\"tree\"")),
        "tree or group",
        "what is ended with it: all that it started, or its process group",
    ),
    key(
        "on-hang",
        (Both, Choice(&["restart", "warn"]), Value("\"restart\"")),
        "restart or warn",
        "what a freeze means; `warn` does everything but the kill",
    ),
    key(
        "stacks",
        (Both, Flag, Absent("true with a `stack-command`, else false")),
        "true or false",
        "whether its [report](operations.md#reports) has the stacks of its threads; the kill waits \
         for them",
    ),
    key(
        "stack-command",
        (Both, Command, Absent("what is installed")),
        COMMAND,
        "command that prints its stacks; `{pid}` in an argument becomes its pid",
    ),
    key(
        "report-limit",
        (Both, Time(ms(100)), Value("\"2s\"")),
        TIME,
        "with `stacks`: the kill waits no longer than this",
    ),
    key(
        "reload",
        (Both, Reload, Absent("by a restart")),
        "a signal like \"HUP\", or a command as an array of strings",
        "how it takes up a new configuration of its own",
    ),
    key(
        "log",
        (Both, Path, Absent("osps's own output")),
        "a path",
        "file to which its output is appended",
    ),
    key(
        "on-event",
        (Both, Command, Absent("nothing")),
        COMMAND,
        "command that is run for each happening",
    ),
    key(
        "essential",
        (Both, Flag, Value("false")),
        "true or false",
        "when it failed for good, the whole instance ends (exit 3); when it is done, too (exit 0)",
    ),
];
