//! The command line: texts become a [`Config`] or another command.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use osps_heart::segment::layout;
use osps_heart::shown::Shown;

use crate::config::load::FILE;
use crate::config::texts::{duration, intensity, restart, signal};
use crate::config::{Config, Programs, is_name};
use crate::drill::plan::Wanted;
use crate::error::Invalid;
use crate::policy::restart::{Intensity, Restart};
use crate::service::NAME_MAX;
use crate::service::manner::{HeartChoice, KillMode, Manner, StackChoice};

const ABOUT: &str = "A supervisor that can tell frozen from alive.";

const LONG_ABOUT: &str = "\
A supervisor that can tell frozen from alive.

Without a command, osps runs a watchdog in the foreground, with a primary server and its secondary
servers. Each server beats: its main loop counts in shared memory. A server that died is replaced
at once; one that is alive but silent for the hang timeout is killed, and then replaced.
Clients keep their port meanwhile: the watchdog holds the listening sockets.";

const EXAMPLES: &str = "\
Examples:
  osps --hang-timeout 4s                  the built-in pair on ports 2222 and 2223
  osps status                             who runs, and when each last beat
  osps top                                the same live, with hearts, threads and events
  osps list                               which instances run
  kill -STOP PID                          freeze a server and watch it being replaced
  osps run --hang-timeout 4s -- ./robot   supervise a program of your own that beats
  osps up                                 the services of osps.toml
  osps client requetetype2 SET k v        a write through a secondary; GET k reads it back
  osps stop                               stop everything in order; returns when all is gone

Durations are written with a unit: 4s, 500ms, 1m30s.

Exit codes: 0 clean, 1 failure, 2 usage, 3 gave up (--max-restarts).
`osps status`: 0 all up, 1 degraded, 3 not running, 4 cannot tell.
The log goes to standard error (RUST_LOG=debug shows more), the status line to standard output.";

const RUN_EXAMPLES: &str = "\
Examples:
  osps run --hang-timeout 4s -- ./robot --verbose
  osps run --name web --listen 127.0.0.1:8080 --max-restarts 10/1m -- ./server
  osps run --heart loop -- node server.js
  osps run --heart probe:http://127.0.0.1:8080/health -- ./server
  osps run --heart notify --stop-signal INT -- ./gateway
  osps run --restart on-failure --forward-exit -- ./job       as the entry point of a container

A program that never beats is up and unwatched: only its death is noticed, and the log says how to
change that. At a stop it is sent its stop signal (after a second, if it looks at its desired
word), and KILL after the stop timeout.

Exit codes: 0 clean, 1 failure, 2 usage, 3 gave up (--max-restarts, --restart never). With
--forward-exit: the program's.";

const EVENTS_EXAMPLES: &str = "\
Examples:
  osps events --since 10m                 what happened lately
  osps events --follow --service web      go on until Ctrl-C
  osps events --follow --since 0s --json | jq 'select(.event == \"verdict\")'

The newest 1024 happenings are kept; they stay readable when the watchdog is dead. A reader that
is overtaken is told how many it missed.

Exit codes: 0 shown, 1 there is nothing that could be shown.";

const HEALTH_EXAMPLES: &str = "\
Examples:
  osps health                             all services, and the watchdog
  osps health web || mail -s 'web is down' root
  exec: { command: [osps, health, web] }  a probe of Kubernetes; cron, HAProxy and Consul likewise

Healthy is what `osps status` calls up (a late server is not), under a watchdog that beats.

Exit codes: 0 healthy, 1 not (also: nothing runs, or nobody can tell), 2 there is no such service.";

const UP_EXAMPLES: &str = "\
Examples:
  osps up                                 the services of osps.toml
  osps up shop.toml --name shop
  osps check && osps reload               after a change of the file

Exit codes: 0 clean, 1 failure, 2 mistakes in the file, 3 an essential service failed for good.";

const UPGRADE_EXAMPLES: &str = "\
Examples:
  osps upgrade                            after a new version was installed
  osps upgrade --name shop --binary ./osps

Exit codes: 0 it runs the new binary, 1 nothing was changed.";

const CHECK_EXAMPLES: &str = "\
Examples:
  osps check
  osps check shop.toml

Exit codes: 0 it can run, 1 something of it cannot, 2 mistakes in the file.";

const RELOAD_EXAMPLES: &str = "\
Examples:
  osps reload                             the file of `osps up`, as it is now
  osps reload web                         web's own way to take up its configuration

Exit codes: 0 done, 1 nothing was changed, or something does not come up.";

const START_EXAMPLES: &str = "\
Examples:
  osps start mail
  osps start web-1 web-2                  two instances of a service

It returns when they are up. Exit codes: 0 done, 1 refused, or something does not come up.";

const RESTART_EXAMPLES: &str = "\
Examples:
  osps restart web                        its instances one after the other
  osps restart db web

It returns when they are up. Exit codes: 0 done, 1 refused, or something does not come up.";

const RESUME_EXAMPLES: &str = "\
Example:
  osps resume web                         before `osps pause web --for 10m` is over

Exit codes: 0 done, 1 refused.";

const PAUSE_EXAMPLES: &str = "\
Examples:
  osps pause web --for 10m                while somebody looks at it with a debugger
  osps resume web

A pause ends by itself. Exit codes: 0 done, 1 refused.";

const LOGS_EXAMPLES: &str = "\
Examples:
  osps logs
  osps logs web db --follow
  osps logs -n 100 web-1

Only services with a `log` have one. Exit codes: 0 shown, 1 there is nothing to show.";

const METRICS_EXAMPLES: &str = "\
Examples:
  osps metrics | promtool check metrics
  osps metrics > /var/lib/node_exporter/osps.prom.new &&
      mv /var/lib/node_exporter/osps.prom.new /var/lib/node_exporter/osps.prom

Reads the segment alone, so it works beside a frozen watchdog and after a dead one. The names are
listed in docs/operations.md, rules for alerts in docs/examples.

Exit codes: 0 printed, 1 there is nothing to read.";

const STATUS_EXAMPLES: &str = "\
Examples:
  osps status
  osps status --json | jq .servers
  osps status --advice web                is its hang timeout a good one?

The advice is the longest of: 4 times the gap that 99.9 % of the gaps between two beats stay below;
twice the worst gap; twice the time between two looks of the watchdog, but no more than the limit in
force; two beat intervals; 84ms. Then it is rounded up. It takes 1000 gaps, and 10 minutes.

Works without a living watchdog, since it only reads the segment. Exit codes: 0 all up, 1 degraded
(also: servers without a watchdog, or a frozen one), 3 not running, 4 cannot tell.";

const REPORT_EXAMPLES: &str = "\
Examples:
  osps report                             why was the last one killed?
  osps report 17 --json | jq .threads
  osps report --list
  osps report --now web                   what does it do at this moment?

With `stacks` (a key of osps.toml, --stacks of `osps run`) a report holds the stacks of all threads.
Exit codes: 0 shown, 1 there is nothing to show.";

const TOP_EXAMPLES: &str = "\
Keys: up and down (j, k) select a server, enter shows it alone, r restarts it, p pauses or resumes
it, s stops or starts it (each asks first), o changes the order, ? helps, q leaves.

Examples:
  osps top
  osps top --name shop
  NO_COLOR=1 osps top                     without colours; in a locale without UTF-8: ASCII only
  watch osps top --once                   where a terminal can do nothing else

Works without a living watchdog, since it only reads the segment; only what changes something asks
one. Where another osps of that name starts, it goes on with that. Exit codes: 0 left, 1 failure, 3
not running; with --once those of `osps status`.";

const LIST_EXAMPLES: &str = "\
Examples:
  osps list
  osps list --json | jq -r '.instances[].name'

States: `all up`, `degraded`, `frozen` (its watchdog), `no watchdog` (its servers live),
`not running` (leftovers, data included), `cannot tell`. Exit code: 0.";

const STOP_EXAMPLES: &str = "\
Examples:
  osps stop
  osps stop --name web
  osps stop mail                          one service; `osps start mail` brings it back

Exit codes: 0 stopped and gone, 1 not running, frozen, or something is left.";

const DRILL_EXAMPLES: &str = "\
Examples:
  osps drill                              all that can be tried, after a question
  osps drill web --fault kill --rounds 10
  osps drill --yes --json | jq .passed    in a pipeline, on a staging instance

A kill has to be noticed within the slack (an eighth of the hang timeout, 50ms to 500ms), a freeze
at the hang timeout after the last beat, not earlier, and at most the slack later. Programs that
osps did not write cannot be told to spin or block, and what nobody watches cannot be frozen: they
are drilled with the rest. Faults are paced, so that --max-restarts gives nobody up.

Exit codes: 0 all promises kept, 1 one was missed, or refused, 2 usage.";

const BEAT_EXAMPLES: &str = "\
Examples:
  while work; do osps beat; done
  osps beat --activity 'step 3 of 7'
  osps beat --named uploads

It goes by the environment of the script. Exit codes: 0 beaten, 1 there is no heart to beat.";

const PAGE_EXAMPLES: &str = "\
Examples:
  osps page                               then open the address that it prints
  osps page --name shop --listen 127.0.0.1:9181
  ssh -L 9180:127.0.0.1:9180 host         from another machine

It shows every heart as a trace, what happened, and who needs whom, and follows the instance over
its restarts; /metrics is for Prometheus, /healthz for probes, /api/status and /api/events for
tools. Nothing can be changed through it. Whoever reaches it sees names, pids and what happened, but
whole reports only with the token of the printed address.

Exit codes: 1 it cannot listen there, 2 usage.";

const CLIENT_EXAMPLES: &str = "\
Examples:
  osps client requetetype2 SET greeting hello
  osps client requetetype1 GET greeting
  osps client --addr 127.0.0.1:2222 INFO

Exit codes: 0 answered, 1 refused or not answered in time.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  osps completions bash > /etc/bash_completion.d/osps
  osps completions zsh > \"${fpath[1]}/_osps\"
  osps completions fish > ~/.config/fish/completions/osps.fish

The Debian package has them. Exit code: 0.";

/// What `--version` says: who talks to a running osps has to read its layout.
fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        format!("{} (segment layout {})", env!("CARGO_PKG_VERSION"), layout::VERSION)
    })
}

/// The commands as the help lists them: what runs something, what shows it, what changes it, what
/// tries it out, and the rest.
const ORDER: [&str; 23] = [
    "run",
    "up",
    "check",
    "status",
    "top",
    "list",
    "events",
    "logs",
    "report",
    "health",
    "metrics",
    "page",
    "start",
    "stop",
    "restart",
    "reload",
    "pause",
    "resume",
    "upgrade",
    "drill",
    "client",
    "beat",
    "completions",
];

fn in_order(command: clap::Command) -> clap::Command {
    let place = ORDER.iter().position(|name| *name == command.get_name());
    command.display_order(place.unwrap_or(ORDER.len()))
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "osps", version = version(), about = ABOUT)]
#[command(long_about = LONG_ABOUT, after_help = EXAMPLES, mut_subcommands = in_order)]
pub struct Cli {
    /// Which instance.
    #[command(flatten)]
    pub instance: Instance,
    /// What if it runs already.
    #[command(flatten)]
    pub start: Start,
    /// Options of the watchdog.
    #[command(flatten)]
    pub watch: Watch,
    /// Options of the built-in pair.
    #[command(flatten)]
    pub pair: Pair,
    /// Something else than running the pair.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Which instance is meant.
#[derive(Args, Clone, Debug)]
pub struct Instance {
    /// Name of the instance; several run side by side under different names [default: default]
    #[arg(long, global = true, help_heading = "Which instance", value_name = "NAME")]
    pub name: Option<String>,
    /// Run directory, itself on a tmpfs; created if absent
    /// [default: $RUNTIME_DIRECTORY/NAME, else /dev/shm/osps-UID/NAME]
    #[arg(long, global = true, help_heading = "Which instance", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// For commands that start an instance.
#[derive(Args, Clone, Debug, Default)]
pub struct Start {
    /// If it runs already: become its watchdog's next binary; if that is frozen: kill it, and go on
    /// with its servers
    #[arg(long, help_heading = "Which instance")]
    pub take_over: bool,
    /// Where its reports are.
    #[command(flatten)]
    pub reports: Reports,
}

/// For commands that write or read reports.
#[derive(Args, Clone, Debug, Default)]
pub struct Reports {
    /// Where reports of hangs are kept, the newest 50; none = nowhere
    /// [default: $XDG_STATE_HOME/osps/NAME, else ~/.local/state/osps/NAME; for root
    /// /var/lib/osps/NAME]
    #[arg(long, help_heading = "Which instance", value_name = "DIR")]
    pub report_dir: Option<PathBuf>,
}

impl Instance {
    /// Its name, where nobody said one.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("default")
    }
}

/// Options of the watchdog.
#[derive(Args, Clone, Debug, Default)]
pub struct Watch {
    /// A server silent for so long is frozen [default: 4s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub hang_timeout: Option<Duration>,
    /// Look at every server and print the status line at least this often [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub check_interval: Option<Duration>,
    /// Servers beat at least this often [default: an eighth of the hang timeout, 10ms to 500ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub beat_interval: Option<Duration>,
    /// A new server has so long for its first beat [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub start_timeout: Option<Duration>,
    /// A server has so long to leave when told to stop; then TERM, then KILL [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub stop_timeout: Option<Duration>,
    /// Servers outlive a dead or frozen watchdog for so long [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub orphan_timeout: Option<Duration>,
    /// Give up (exit 3) when a server is restarted more often than N times within PERIOD, as in
    /// 10/1m [default: never]
    #[arg(long, value_name = "N/PERIOD", value_parser = intensity)]
    pub max_restarts: Option<Intensity>,
    /// No status lines, and of the log only warnings and errors (RUST_LOG still decides if set)
    #[arg(long, short)]
    pub quiet: bool,
}

/// Options of the built-in pair.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The built-in pair")]
pub struct Pair {
    /// Number of secondary servers, at most 32 [default: 1]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Address of the primary; secondaries take the ports after it. Port 0 picks free ones, shown
    /// by `osps status` [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Size of the shared data area [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub data_size: Option<u64>,
    /// Size of one cell of the table in it: key (at most 64 bytes), value and 8 bytes
    /// [default: 256]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub cell_size: Option<u64>,
    /// Answer DEBUG SLEEP|SPIN|BLOCK|ABORT, to make faults by hand; on loopback only
    #[arg(long)]
    pub allow_debug: bool,
    /// Let --listen name an address that other machines reach; there are no passwords
    #[arg(long)]
    pub allow_remote: bool,
}

/// Commands beside running the pair.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Supervise one program of your own
    ///
    /// One that nobody changed is watched in its event loop, or by what it says (sd_notify), writes
    /// (a file that moves) or answers (a probe): see --heart. One of your own finds OSPS_RUN_DIR,
    /// OSPS_SLOT and OSPS_GENERATION in its environment and beats from its main loop: in Rust, C
    /// and Python with a heart, in scripts with `osps beat`, elsewhere by one write into the
    /// segment (docs/your-program.md).
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<Run>),
    /// Run the services of a file
    ///
    /// The file names programs, what each needs of the others, and what their deaths mean
    /// (docs/services.md). HUP and `osps reload` read it again: what did not change stays. Without
    /// --name the instance has the name that the file says, else `default`.
    #[command(after_help = UP_EXAMPLES)]
    Up {
        /// The file
        #[arg(default_value = FILE, value_name = "FILE")]
        file: PathBuf,
        /// What if it runs already.
        #[command(flatten)]
        start: Start,
        /// No status lines, and of the log only warnings and errors (RUST_LOG still decides if set)
        #[arg(long, short)]
        quiet: bool,
    },
    /// Say what a file of services means, and what is wrong with it; starts nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The file
        #[arg(default_value = FILE, value_name = "FILE")]
        file: PathBuf,
    },
    /// Read the file of services again: what did not change stays
    ///
    /// With names, those services take up their own configuration instead, in the way that their
    /// key `reload` says.
    #[command(after_help = RELOAD_EXAMPLES)]
    Reload(Those),
    /// Let a running osps become this binary; no server is restarted
    ///
    /// It stays the same process, with the same options; its file of services is read again.
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade {
        /// The new binary [default: this one]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// No progress, only what went wrong
        #[arg(long, short)]
        quiet: bool,
    },
    /// Start services that were stopped or gave up
    #[command(after_help = START_EXAMPLES)]
    Start(These),
    /// Restart services, one after the other, each as soon as the last one is up
    #[command(after_help = RESTART_EXAMPLES)]
    Restart(These),
    /// Let services be silent for a while; a death is noticed all the same
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause {
        /// Which services, or instances of them
        #[command(flatten)]
        these: These,
        /// For how long
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        span: Duration,
    },
    /// End a pause: limits run again, from now
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(These),
    /// Show what services wrote into their logs, each line with its service
    #[command(after_help = LOGS_EXAMPLES)]
    Logs {
        /// Which services, or instances of them [default: all that have a log]
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
        /// So many of the last lines of each
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        lines: usize,
    },
    /// Show what was seen of a program when it had to go
    ///
    /// A report is taken between the verdict and the kill, and kept outside of the run directory,
    /// the newest 50. With --now: how a service is at this moment, without disturbing it; that
    /// works without a living watchdog, too.
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// Its number, or `last`
        #[arg(value_name = "N", default_value = "last", value_parser = report)]
        number: Numbered,
        /// All of them, a line each
        #[arg(long, conflicts_with = "number")]
        list: bool,
        /// How this service is now: nothing is stopped, signalled or traced
        #[arg(long, value_name = "SERVICE", conflicts_with_all = ["number", "list"])]
        now: Option<String>,
        /// Where they are.
        #[command(flatten)]
        reports: Reports,
        /// For tools: one JSON value
        #[arg(long)]
        json: bool,
    },
    /// Print the figures of a look for Prometheus
    ///
    /// As a file for the textfile collector of node_exporter.
    #[command(after_help = METRICS_EXAMPLES)]
    Metrics,
    /// Show who runs, and when each server last beat
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Instead: how long each heart was silent between its beats, and what limit follows
        #[arg(long)]
        advice: bool,
        /// For tools: one JSON object (schema 2)
        #[arg(long)]
        json: bool,
        /// Print nothing: the exit code tells
        #[arg(long, short, conflicts_with_all = ["json", "advice"])]
        quiet: bool,
        /// With --advice: which services, or instances of them [default: all]
        #[arg(value_name = "SERVICE", requires = "advice", value_parser = service)]
        services: Vec<String>,
    },
    /// Show what happened: restarts, verdicts, requests, in the words of the log
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// Go on with what comes, over restarts of osps as well
        #[arg(long, short)]
        follow: bool,
        /// Only what happened in this time; with --follow, 0s = only what comes
        #[arg(long, value_name = "TIME", value_parser = duration)]
        since: Option<Duration>,
        /// Only of this service, or of this instance of one
        #[arg(long, short, value_name = "SERVICE", value_parser = service)]
        service: Option<String>,
        /// For tools: one JSON object a line (schema 1)
        #[arg(long)]
        json: bool,
    },
    /// For probes: exit code 0 if all is up, else 1, and one line
    #[command(after_help = HEALTH_EXAMPLES)]
    Health {
        /// Only this service, or this instance of one
        #[arg(value_name = "SERVICE", value_parser = service)]
        service: Option<String>,
    },
    /// Show all of it live on a terminal
    ///
    /// States, hearts, threads, events; keys restart, pause and stop, and ask first.
    #[command(after_help = TOP_EXAMPLES)]
    Top {
        /// One table, as `osps status` prints it; so too where standard output is no terminal
        #[arg(long, visible_alias = "plain")]
        once: bool,
    },
    /// List the instances that run, of all users for root
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// For tools: one JSON object (schema 1)
        #[arg(long)]
        json: bool,
    },
    /// Make faults in what runs, and time what becomes of them
    ///
    /// Kills or freezes each service in turn, round by round with idle seconds in between, and
    /// compares when the watchdog noticed and when the service was up again with what osps
    /// promises. Clients of these services are cut off; the data stays.
    #[command(after_help = DRILL_EXAMPLES)]
    Drill {
        /// Which services, or instances of them [default: all]
        #[arg(value_name = "SERVICE", value_parser = service)]
        services: Vec<String>,
        /// With which fault
        #[arg(long, value_name = "FAULT", value_enum, default_value_t = Wanted::All)]
        fault: Wanted,
        /// Each fault so often
        #[arg(long, value_name = "N", default_value_t = 3,
              value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: u16,
        /// Leave everything alone for so long between two faults; at least 1s
        #[arg(long, value_name = "TIME", value_parser = idle, default_value = "3s")]
        idle: Duration,
        /// Do not ask first
        #[arg(long, short)]
        yes: bool,
        /// For tools: one JSON object (schema 1)
        #[arg(long)]
        json: bool,
        /// No progress, only what went wrong
        #[arg(long, short)]
        quiet: bool,
    },
    /// Stop everything in order, or some services; returns when all that is gone
    #[command(after_help = STOP_EXAMPLES)]
    Stop(Those),
    /// Beat once, from a script that osps runs
    #[command(after_help = BEAT_EXAMPLES)]
    Beat {
        /// A further heart of this name, which the script has from then on
        #[arg(long, value_name = "NAME")]
        named: Option<String>,
        /// What the script does, at most 96 bytes: `osps status` shows it
        #[arg(long, value_name = "TEXT")]
        activity: Option<String>,
    },
    /// Serve a live page of an instance, and metrics
    ///
    /// A process of its own that only reads: it needs no watchdog, and no watchdog knows of it.
    #[command(after_help = PAGE_EXAMPLES)]
    Page {
        /// Where it listens; port 0 = any free one
        #[arg(long, value_name = "ADDRESS", value_parser = address,
              default_value = "127.0.0.1:9180")]
        listen: SocketAddr,
        /// Let --listen name an address that other machines reach; there are no passwords
        #[arg(long)]
        allow_remote: bool,
        /// A further name that the page may be asked for by, as a proxy in front of it does
        #[arg(long = "host", value_name = "NAME")]
        hosts: Vec<String>,
    },
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// For this shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Ask the servers of the built-in pair
    ///
    /// With requetetype1 (read) or requetetype2 (read and write) in front, the primary names a
    /// secondary's port and the command goes there; without, the primary itself answers. What a
    /// restart cuts is tried again, if saying it twice does no harm (so not INCR, not DEBUG).
    #[command(after_help = CLIENT_EXAMPLES)]
    Client {
        /// Address of the primary [default: found through the run directory]
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        addr: Option<SocketAddr>,
        /// How long to try
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
        timeout: Duration,
        /// Perhaps requetetype1 or requetetype2, then the command
        #[arg(required = true, allow_negative_numbers = true, value_name = "WORD")]
        words: Vec<OsString>,
    },
}

/// Which report is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// The newest one.
    Last,
    /// This one.
    Number(u64),
}

fn report(text: &str) -> Result<Numbered, String> {
    match text {
        "last" => Ok(Numbered::Last),
        _ => text.parse().map(Numbered::Number).map_err(|_| "write a number, or last".to_owned()),
    }
}

/// Services that something is asked for.
#[derive(Args, Clone, Debug)]
pub struct These {
    /// Which services, or instances of them
    #[arg(required = true, value_name = "SERVICE", value_parser = service)]
    pub services: Vec<String>,
    /// No progress, only what went wrong
    #[arg(long, short)]
    pub quiet: bool,
}

/// All, or services that something is asked for.
#[derive(Args, Clone, Debug)]
pub struct Those {
    /// Which services, or instances of them [default: all]
    #[arg(value_name = "SERVICE", value_parser = service)]
    pub services: Vec<String>,
    /// No progress, only what went wrong
    #[arg(long, short)]
    pub quiet: bool,
}

/// Options of `osps run`.
#[derive(Args, Debug)]
pub struct Run {
    /// What if it runs already.
    #[command(flatten)]
    pub start: Start,
    /// Options of the watchdog.
    #[command(flatten)]
    pub watch: Watch,
    /// Hold a listening socket for the program: it inherits it as descriptor 3 (LISTEN_FDS)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// What the program is called in log, status and JSON, at most 32 bytes
    /// [default: the last part of its path]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Who beats for it: loop (its event loop, unchanged), loops (one for each epoll descriptor),
    /// auto, memory, notify, none, file:PATH, probe:http://HOST:PORT/PATH, probe:tcp://HOST:PORT
    /// or probe:COMMAND [default: auto]
    #[arg(long, value_name = "SOURCE")]
    pub heart: Option<OsString>,
    /// With --heart loop or loops: only a process of this name beats
    #[arg(long, value_name = "NAME")]
    pub heart_process: Option<String>,
    /// What a freeze means: restart, or warn (all but the kill, to try a limit first)
    /// [default: restart]
    #[arg(long, value_name = "WHAT")]
    pub on_hang: Option<OnHang>,
    /// Take the stacks of its threads for the report when it is frozen: the kill waits for them
    #[arg(long)]
    pub stacks: bool,
    /// The command that prints them, split as a shell does; {pid} in it becomes the pid. It says
    /// --stacks as well [default: what is installed]
    #[arg(long, value_name = "COMMAND", value_parser = words)]
    pub stack_command: Option<Words>,
    /// With --stacks: the kill waits no longer than this [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub report_limit: Option<Duration>,
    /// What it is sent when it has to go, as in QUIT or SIGINT [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    pub stop_signal: Option<Signal>,
    /// What is ended with it: tree, everything that it started; or group, its process group alone
    /// [default: tree]
    #[arg(long, value_name = "MODE")]
    pub kill_mode: Option<KillMode>,
    /// Which of its deaths are followed by another process: always, on-failure or never
    /// [default: always]
    #[arg(long, value_name = "WHEN", value_parser = restart)]
    pub restart: Option<Restart>,
    /// End as the program ended: with its exit code, or 128 and the number of its signal
    #[arg(long)]
    pub forward_exit: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A command as the words that it is made of.
#[derive(Clone, Debug)]
pub struct Words(Vec<OsString>);

fn words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|error| error.to_string())?;
    if words.first().is_none_or(String::is_empty) {
        return Err("a program to run is needed".to_owned());
    }
    Ok(Words(words.into_iter().map(OsString::from).collect()))
}

/// A shell that completes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish shell
    Fish,
}

/// What a freeze means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnHang {
    /// Kill it and start it again.
    Restart,
    /// Only tell.
    Warn,
}

impl Run {
    fn manner(&self) -> Result<Manner, Invalid> {
        let standard = Manner::default();
        let heart = match &self.heart {
            None => standard.heart,
            Some(text) => HeartChoice::parse(text).ok_or_else(|| Invalid {
                option: "--heart",
                value: Shown(text.as_os_str()).to_string(),
                why: HeartChoice::KNOWN.to_owned(),
            })?,
        };
        Ok(Manner {
            heart: HeartChoice { process: self.heart_process.clone(), ..heart },
            warn: self.on_hang == Some(OnHang::Warn),
            stop_signal: self.stop_signal.unwrap_or(standard.stop_signal),
            kill_mode: self.kill_mode.unwrap_or(standard.kill_mode),
            stacks: StackChoice::new(
                self.stacks.then_some(true),
                self.stack_command.as_ref().map(|words| words.0.clone()),
                self.report_limit,
            ),
        })
    }
}

impl Cli {
    /// What is said of an instance that is to be started by the command line.
    pub fn start(&self) -> &Start {
        match &self.command {
            Some(Command::Run(run)) => &run.start,
            _ => &self.start,
        }
    }

    /// What the operator wants to run, if the command is to run something.
    pub fn config(&self) -> Result<Config, Invalid> {
        let standard = Config::default();
        let (watch, programs) = if let Some(Command::Run(run)) = &self.command {
            let (command, name) = (run.command.clone(), run.service.clone());
            let manner = run.manner()?;
            let restart = run.restart.unwrap_or_default();
            let (listen, forward_exit) = (run.listen, run.forward_exit);
            let own = Programs::Own { command, name, listen, manner, restart, forward_exit };
            (&run.watch, own)
        } else {
            let mut programs = standard.programs;
            if let Programs::Pair { workers, listen } = &mut programs {
                *workers = self.pair.workers.unwrap_or(*workers);
                *listen = self.pair.listen.unwrap_or(*listen);
            }
            (&self.watch, programs)
        };
        let config = Config {
            name: self.instance.name().to_owned(),
            run_dir: self.instance.run_dir.clone(),
            report_dir: self.start().reports.report_dir.clone(),
            hang_timeout: watch.hang_timeout.unwrap_or(standard.hang_timeout),
            check_interval: watch.check_interval.unwrap_or(standard.check_interval),
            beat_interval: watch.beat_interval,
            start_timeout: watch.start_timeout.unwrap_or(standard.start_timeout),
            stop_timeout: watch.stop_timeout.unwrap_or(standard.stop_timeout),
            orphan_timeout: watch.orphan_timeout.unwrap_or(standard.orphan_timeout),
            data_size: self.pair.data_size.unwrap_or(standard.data_size),
            cell_size: self.pair.cell_size.unwrap_or(standard.cell_size),
            intensity: watch.max_restarts,
            allow_debug: self.pair.allow_debug,
            allow_remote: self.pair.allow_remote,
            quiet: watch.quiet,
            programs,
        };
        config.validate()?;
        Ok(config)
    }

    /// Whether only what went wrong is to be told.
    pub fn is_quiet(&self) -> bool {
        match &self.command {
            None => self.watch.quiet,
            Some(Command::Run(run)) => run.watch.quiet,
            Some(
                Command::Status { quiet, .. }
                | Command::Up { quiet, .. }
                | Command::Upgrade { quiet, .. }
                | Command::Drill { quiet, .. },
            ) => *quiet,
            Some(Command::Stop(these) | Command::Reload(these)) => these.quiet,
            Some(Command::Start(these) | Command::Restart(these) | Command::Resume(these)) => {
                these.quiet
            }
            Some(Command::Pause { these, .. }) => these.quiet,
            Some(
                Command::Beat { .. }
                | Command::Client { .. }
                | Command::List { .. }
                | Command::Metrics
                | Command::Check { .. }
                | Command::Events { .. }
                | Command::Health { .. }
                | Command::Report { .. }
                | Command::Logs { .. }
                | Command::Page { .. }
                | Command::Completions { .. }
                | Command::Top { .. },
            ) => false,
        }
    }

    /// An option of the watchdog that was given in front of a command that has no use for it
    /// there: ignoring it silently would mislead.
    pub fn misplaced(&self) -> Option<&'static str> {
        self.command.as_ref()?;
        let (watch, pair) = (&self.watch, &self.pair);
        // A script beats in its own instance. Its further hearts are --named.
        let beats = matches!(self.command, Some(Command::Beat { .. }));
        [
            ("--take-over", self.start.take_over),
            ("--report-dir", self.start.reports.report_dir.is_some()),
            ("--name", beats && self.instance.name.is_some()),
            ("--run-dir", beats && self.instance.run_dir.is_some()),
            ("--hang-timeout", watch.hang_timeout.is_some()),
            ("--check-interval", watch.check_interval.is_some()),
            ("--beat-interval", watch.beat_interval.is_some()),
            ("--start-timeout", watch.start_timeout.is_some()),
            ("--stop-timeout", watch.stop_timeout.is_some()),
            ("--orphan-timeout", watch.orphan_timeout.is_some()),
            ("--max-restarts", watch.max_restarts.is_some()),
            ("--quiet", watch.quiet),
            ("--workers", pair.workers.is_some()),
            ("--listen", pair.listen.is_some()),
            ("--data-size", pair.data_size.is_some()),
            ("--cell-size", pair.cell_size.is_some()),
            ("--allow-debug", pair.allow_debug),
            ("--allow-remote", pair.allow_remote),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let hint = "write it like 127.0.0.1:2222 or [::1]:2222, port 0 for any free one";
    text.parse().map_err(|_| hint.to_owned())
}

/// A name of a service or of an instance: an empty one is nobody, and not all.
fn service(text: &str) -> Result<String, String> {
    let why = "names have 1 to 32 letters, digits, dots, dashes and underscores";
    if is_name(text, NAME_MAX) { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

/// A time between two faults: a server that was not up for a second is not restarted at once.
fn idle(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(1);
    let span = duration(text)?;
    if span >= least { Ok(span) } else { Err("it is at least 1s".to_owned()) }
}

fn size(text: &str) -> Result<u64, String> {
    let hint = "write it like 64KiB, 1MiB or a number of bytes";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| hint.to_owned())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(hint.to_owned()),
    };
    number.checked_mul(factor).ok_or_else(|| hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A default stands in [`Config::default`] alone; what the help says of it is compared.
    #[test]
    fn the_help_tells_the_defaults() {
        let standard = Config::default();
        let Programs::Pair { workers, listen } = standard.programs else { panic!("the pair") };
        let command = Cli::command();
        let help = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).expect(id);
            arg.get_help().map(ToString::to_string).expect("a help text")
        };
        let time = |span: Duration| humantime::format_duration(span).to_string();
        for (id, default) in [
            ("hang_timeout", time(standard.hang_timeout)),
            ("check_interval", time(standard.check_interval)),
            ("start_timeout", time(standard.start_timeout)),
            ("stop_timeout", time(standard.stop_timeout)),
            ("orphan_timeout", time(standard.orphan_timeout)),
            ("workers", workers.to_string()),
            ("listen", listen.to_string()),
            ("data_size", format!("{}MiB", standard.data_size >> 20)),
            ("cell_size", standard.cell_size.to_string()),
        ] {
            let text = help(id);
            assert!(text.contains(&format!("[default: {default}]")), "{id}: {text}");
        }
        let name = help("name");
        assert!(name.contains(&format!("[default: {}]", standard.name)), "{name}");
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("4s"), Ok(Duration::from_secs(4)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for (text, hint) in [("4", "`4s` or `4ms`"), ("0.5", "unit"), ("4x", "500ms"), ("", "4s")] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_and_intensities() {
        for (text, bytes) in
            [("256", 256), ("1MiB", 1 << 20), ("64k", 64 << 10), ("2 GiB", 2 << 30)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "MiB", "1TiB", "-1", "99999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
        let minute = Duration::from_secs(60);
        assert_eq!(intensity("10/1m"), Ok(Intensity { restarts: 10, period: minute }));
        for text in ["10", "10/", "/1m", "x/1m", "10/60", "-1/1m"] {
            assert!(intensity(text).is_err(), "{text}");
        }
    }
}
