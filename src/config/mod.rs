//! What the operator wants, validated: contradictions end here, before anything is started.
//!
//! Texts become numbers in `cli`; numbers become limits here, and a list of services. Every default
//! stands in [`Config::default`]. Every refusal names the option, the value, why it cannot work and
//! what would. A file of services (`osps.toml`) is read by `file`, after the table in `keys`.

pub mod check;
pub mod file;
pub mod keys;
pub mod load;
pub mod look;
pub mod problem;
pub mod schema;
pub mod texts;
mod value;
mod variables;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use osps_heart::pulse::{LIMIT_MAX, LIMIT_MIN, Limits};
use osps_heart::segment::Times;
use osps_heart::segment::layout::{DATA_MAX, flag};
use osps_heart::shown::Shown;
use osps_heart::words::HeartSource;

use crate::error::{Error, Invalid};
use crate::instance::place::Place;
use crate::pair::plan::{self, WORKERS_MAX};
use crate::policy::lifecycle::Patience;
use crate::policy::restart::{INTENSITY_MAX, Intensity, Restart, Rule};
use crate::prober::target::Target;
use crate::report::store;
use crate::service::{Address, Inheritance, Launch, Manner, NAME_MAX, Service, program_name};
use crate::watchdog::Settings;

/// Smallest cell: a key of 64 bytes, a few words of control, and a value worth the name.
pub const CELL_MIN: u64 = 128;
/// Largest cell: one cell is levelled in one loop turn.
pub const CELL_MAX: u64 = 64 << 10;

/// What runs in the slots.
#[derive(Clone, Debug)]
pub enum Programs {
    /// The built-in primary and so many secondaries.
    Pair {
        /// Number of secondaries.
        workers: usize,
        /// Address of the primary; secondaries take the ports after it.
        listen: SocketAddr,
    },
    /// The services of a file.
    Listed {
        /// One for each slot that is taken at first.
        services: Vec<Service>,
        /// Room for so many.
        slots: usize,
        /// The file.
        file: PathBuf,
        /// The keys at its top that the command line did not overrule, with what is in effect.
        top: Vec<(String, String)>,
    },
    /// One program of the user's.
    Own {
        /// Program and arguments.
        command: Vec<OsString>,
        /// What its slot is called, if not after the program.
        name: Option<String>,
        /// A listening socket to hold for it, passed as descriptor 3.
        listen: Option<SocketAddr>,
        /// Who beats for it, and how it is ended.
        manner: Manner,
        /// Which of its deaths are followed by another process.
        restart: Restart,
        /// How it ended is how osps ends.
        forward_exit: bool,
    },
}

/// A whole, consistent wish.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the instance.
    pub name: String,
    /// Run directory, if it was chosen by hand.
    pub run_dir: Option<PathBuf>,
    /// Where reports of hangs are kept, if that was chosen by hand; `none` = nowhere.
    pub report_dir: Option<PathBuf>,
    /// Silence that convicts.
    pub hang_timeout: Duration,
    /// Longest time between two checks.
    pub check_interval: Duration,
    /// Longest time between two beats; `None` = an eighth of the hang timeout.
    pub beat_interval: Option<Duration>,
    /// Time to the first beat.
    pub start_timeout: Duration,
    /// Time to leave after the stop order.
    pub stop_timeout: Duration,
    /// How long servers outlive their watchdog.
    pub orphan_timeout: Duration,
    /// Bytes of one copy of the data area.
    pub data_size: u64,
    /// Bytes of one table cell.
    pub cell_size: u64,
    /// When to give up.
    pub intensity: Option<Intensity>,
    /// Whether `DEBUG` commands are answered.
    pub allow_debug: bool,
    /// Whether the pair may be reached from other machines.
    pub allow_remote: bool,
    /// Whether to tell only what went wrong.
    pub quiet: bool,
    /// What runs.
    pub programs: Programs,
}

/// Time from TERM to KILL for a server that did not leave when asked.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// Time for a program of the user's to see its desired word, before TERM: two of the longest beat
/// intervals. One that does not look costs its operator this second at a stop.
const PROGRAM_ASK: Duration = Duration::from_secs(1);

impl Default for Config {
    /// The pair on ports 2222 and 2223.
    fn default() -> Config {
        let seconds = Duration::from_secs;
        Config {
            name: "default".to_owned(),
            run_dir: None,
            report_dir: None,
            hang_timeout: seconds(4),
            check_interval: seconds(2),
            beat_interval: None,
            start_timeout: seconds(10),
            stop_timeout: seconds(5),
            orphan_timeout: seconds(30),
            data_size: 1 << 20,
            cell_size: 256,
            intensity: None,
            allow_debug: false,
            allow_remote: false,
            quiet: false,
            programs: Programs::Pair {
                workers: 1,
                listen: SocketAddr::from(([127, 0, 0, 1], 2222)),
            },
        }
    }
}

impl Config {
    /// What the watchdog has to know of the instance as a whole.
    pub fn settings(&self) -> Settings {
        Settings {
            name: self.name.clone(),
            place: Place::of(&self.name, self.run_dir.as_deref()),
            reports: self.reports(),
            flags: if self.allow_debug { flag::ALLOW_DEBUG } else { 0 },
            data_size: self.data_size,
            cell_size: self.cell_size,
            times: Times {
                hang_timeout: self.hang_timeout,
                check_interval: self.check_interval,
                beat_interval: self.beat_interval(),
                start_timeout: self.start_timeout,
                stop_timeout: self.stop_timeout,
                orphan_timeout: self.orphan_timeout,
            },
            slots: match &self.programs {
                Programs::Listed { slots, .. } => *slots,
                Programs::Pair { .. } | Programs::Own { .. } => 0,
            },
            file: match &self.programs {
                Programs::Listed { file, .. } => Some(file.clone()),
                Programs::Pair { .. } | Programs::Own { .. } => None,
            },
            top: match &self.programs {
                Programs::Listed { top, .. } => top.clone(),
                Programs::Pair { .. } | Programs::Own { .. } => Vec::new(),
            },
            quiet: self.quiet,
            forward_exit: matches!(self.programs, Programs::Own { forward_exit: true, .. }),
        }
    }

    /// Where reports of hangs are kept; `None` = nowhere.
    fn reports(&self) -> Option<PathBuf> {
        match &self.report_dir {
            Some(path) => store::chosen(path),
            None => store::default_directory(&self.name),
        }
    }

    /// The services of the instance, their sockets bound, with what they need in the run directory.
    pub fn services(
        &self,
        dir: BorrowedFd<'_>,
        inherited: &mut Inheritance,
    ) -> Result<Vec<Service>, Error> {
        let limits = Limits { hang: self.hang_timeout, start: self.start_timeout };
        // Nothing else runs beside it: its end is the end of all.
        let rule = Rule { intensity: self.intensity, essential: true, ..Rule::default() };
        match &self.programs {
            Programs::Own { command, name, listen, manner, restart, .. } => {
                let patience = programs_patience(self.hang_timeout, self.stop_timeout);
                let named = command.first().map_or(OsStr::new(""), OsString::as_os_str);
                let name = name.clone().unwrap_or_else(|| program_name(named));
                let launch = Launch { command: command.clone(), ..Launch::default() };
                let mut service = Service::program(name, launch, limits, patience);
                service.manner = manner.clone();
                service.rule = Rule { restart: *restart, ..rule };
                service.arbiter = true;
                if let Some(warning) = service.look()? {
                    log::warn!("{warning}");
                }
                if let Some(address) = listen.map(Address::Tcp) {
                    service.sockets.extend(inherited.listener(&service.name, &address)?);
                    service.launch.listen.push(address);
                }
                Ok(vec![service])
            }
            Programs::Listed { services, .. } => {
                let mut services = services.clone();
                load::warn(&services);
                load::bind(&mut services, inherited)?;
                Ok(services)
            }
            Programs::Pair { workers, listen } => {
                let patience = patience(self.stop_timeout, TERM_GRACE, self.hang_timeout);
                plan::services(dir, inherited, *listen, *workers, limits, patience, &rule)
            }
        }
    }

    /// Longest time between two beats: an eighth of the limit leaves seven chances to be heard;
    /// below 10 ms a beat costs a wake-up that nobody needs, above 500 ms a slow poll looks dead.
    pub fn beat_interval(&self) -> Duration {
        self.beat_interval.unwrap_or_else(|| {
            (self.hang_timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(500))
        })
    }

    /// Checks everything that can be checked without the machine.
    pub fn validate(&self) -> Result<(), Invalid> {
        name_is_valid("--name", &self.name, 64)?;
        let ms = Duration::from_millis;
        for (option, value, least) in [
            ("--hang-timeout", self.hang_timeout, LIMIT_MIN),
            ("--check-interval", self.check_interval, ms(10)),
            ("--beat-interval", self.beat_interval(), ms(1)),
            ("--start-timeout", self.start_timeout, ms(100)),
            ("--stop-timeout", self.stop_timeout, Duration::ZERO),
            ("--orphan-timeout", self.orphan_timeout, Duration::from_secs(1)),
        ] {
            let why = |why| Err(refuse(option, time(value), why));
            if value < least {
                return why(format!("too short, at least {} is needed", time(least)));
            }
            if value > LIMIT_MAX {
                return why(format!("too long, {} at most", time(LIMIT_MAX)));
            }
        }
        if self.hang_timeout < self.beat_interval() * 2 {
            let why = format!(
                "a server that beats every {} could never be heard in time; the limit must be at \
                 least two beat intervals ({})",
                time(self.beat_interval()),
                time(self.beat_interval() * 2)
            );
            return Err(refuse("--hang-timeout", time(self.hang_timeout), why));
        }
        if !(CELL_MIN..=CELL_MAX).contains(&self.cell_size) || !self.cell_size.is_multiple_of(8) {
            let why = format!("must be a multiple of 8 from {CELL_MIN} to {CELL_MAX} bytes");
            return Err(refuse("--cell-size", self.cell_size, why));
        }
        if self.data_size < self.cell_size * 16 || self.data_size > DATA_MAX {
            let why = format!(
                "must hold at least 16 cells of {} bytes, and stay below 4 GiB",
                self.cell_size
            );
            return Err(refuse("--data-size", self.data_size, why));
        }
        if let Some(intensity) = self.intensity
            && (intensity.restarts > INTENSITY_MAX || intensity.period.is_zero())
        {
            let value = format!("{}/{}", intensity.restarts, time(intensity.period));
            let why = format!("at most {INTENSITY_MAX} restarts, within a time above zero");
            return Err(refuse("--max-restarts", value, why));
        }
        match &self.programs {
            // Whoever read the file has seen to that.
            Programs::Listed { .. } => {}
            Programs::Pair { workers, listen } => {
                if !(1..=WORKERS_MAX).contains(workers) {
                    let why = format!("from 1 to {WORKERS_MAX} secondaries");
                    return Err(refuse("--workers", workers, why));
                }
                if !listen.ip().is_loopback() && !self.allow_remote {
                    let why = "other machines could read and change the data, without a password; \
                               say --allow-remote if that is meant"
                        .to_owned();
                    return Err(refuse("--listen", listen, why));
                }
                if self.allow_debug && !listen.ip().is_loopback() {
                    let why = format!("a stranger could end servers with it: not with {listen}");
                    return Err(refuse("--allow-debug", "", why));
                }
                if listen.port() != 0 && usize::from(u16::MAX - listen.port()) < *workers {
                    let why = format!("no room for {workers} further ports above it");
                    return Err(refuse("--listen", listen, why));
                }
            }
            Programs::Own { command, name, listen, manner, .. } => {
                if let Some(name) = name {
                    name_is_valid("--service", name, NAME_MAX)?;
                }
                if command.first().is_none_or(|program| program.is_empty()) {
                    return Err(refuse("--", "", "a command to run is needed".to_owned()));
                }
                if manner.stacks.limit < ms(100) || manner.stacks.limit > LIMIT_MAX {
                    let why = format!("from 100ms to {}", time(LIMIT_MAX));
                    return Err(refuse("--report-limit", time(manner.stacks.limit), why));
                }
                let heart = &manner.heart;
                if let Some(process) = heart.process.as_deref().filter(|_| !heart.is_looped()) {
                    let why = "only event loops are watched by the name of a process: say --heart \
                               loop or --heart loops as well";
                    return Err(refuse("--heart-process", process, why.to_owned()));
                }
                let invalid = |why| refuse("--heart", Shown(heart.text.as_os_str()), why);
                let held = listen.map(|address| address.port());
                match heart.source {
                    HeartSource::File | HeartSource::Probe => {
                        let target = Target::parse(&heart.text).map_err(invalid)?;
                        if matches!(target, Target::Tcp { port, .. } if held == Some(port)) {
                            return Err(invalid(HELD.to_owned()));
                        }
                    }
                    HeartSource::Loop
                    | HeartSource::Loops
                    | HeartSource::Auto
                    | HeartSource::Memory
                    | HeartSource::Notify
                    | HeartSource::None => {}
                }
            }
        }
        Ok(())
    }
}

fn patience(ask: Duration, term: Duration, hang: Duration) -> Patience {
    // How long the kernel may take; memory is freed at some 20 GiB a second.
    Patience { ask, term, kill: hang.clamp(Duration::from_secs(1), Duration::from_secs(5)) }
}

/// How long a program of the user's is waited for. It may not know of its desired word: TERM
/// follows soon.
fn programs_patience(hang: Duration, stop: Duration) -> Patience {
    patience(PROGRAM_ASK.min(stop), stop, hang)
}

fn name_is_valid(option: &'static str, name: &str, most: usize) -> Result<(), Invalid> {
    if is_name(name, most) { Ok(()) } else { Err(refuse(option, name, name_rule(most))) }
}

/// Whether something may be called that.
pub fn is_name(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// What a name is made of.
fn name_rule(most: usize) -> String {
    format!("1 to {most} letters, digits, dots, dashes or underscores, no dot in front")
}

/// Why a port that osps holds is not probed by connecting.
const HELD: &str = "osps itself listens there for the program (--listen), so a connection is made \
                    whoever is frozen: probe with http:// or a command";
fn refuse(option: &'static str, value: impl std::fmt::Display, why: String) -> Invalid {
    Invalid { option, value: value.to_string(), why }
}

/// A duration as it would be typed: `4s`, `500ms`.
pub fn time(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Config {
        Config::default()
    }

    #[test]
    fn the_defaults_are_sound_and_beat_eight_times_per_limit() {
        assert_eq!(sound().validate(), Ok(()));
        for (hang, beat) in [(40, 10), (1000, 125), (4000, 500), (60_000, 500)] {
            let config = Config { hang_timeout: Duration::from_millis(hang), ..sound() };
            assert_eq!(config.beat_interval(), Duration::from_millis(beat));
        }
    }

    #[test]
    fn contradictions_are_refused_by_option() {
        let ms = Duration::from_millis;
        let pair = |workers, port| Programs::Pair {
            workers,
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        let everywhere =
            Programs::Pair { workers: 1, listen: SocketAddr::from(([0, 0, 0, 0], 2222)) };
        let own = |command: &[&str], name: Option<&str>| Programs::Own {
            command: command.iter().map(OsString::from).collect(),
            name: name.map(str::to_owned),
            listen: None,
            manner: Manner::default(),
            restart: Restart::Always,
            forward_exit: false,
        };
        for (option, config) in [
            ("--name", Config { name: "../etc".to_owned(), ..sound() }),
            ("--name", Config { name: String::new(), ..sound() }),
            ("--hang-timeout", Config { hang_timeout: ms(19), ..sound() }),
            ("--hang-timeout", Config { hang_timeout: LIMIT_MAX * 2, ..sound() }),
            (
                "--hang-timeout",
                Config { hang_timeout: ms(999), beat_interval: Some(ms(500)), ..sound() },
            ),
            ("--check-interval", Config { check_interval: ms(0), ..sound() }),
            ("--orphan-timeout", Config { orphan_timeout: ms(999), ..sound() }),
            ("--cell-size", Config { cell_size: 129, ..sound() }),
            ("--data-size", Config { data_size: 100, ..sound() }),
            ("--data-size", Config { data_size: DATA_MAX + 1, ..sound() }),
            (
                "--max-restarts",
                Config {
                    intensity: Some(Intensity { restarts: 1, period: Duration::ZERO }),
                    ..sound()
                },
            ),
            ("--workers", Config { programs: pair(0, 2222), ..sound() }),
            ("--listen", Config { programs: everywhere.clone(), ..sound() }),
            (
                "--allow-debug",
                Config { programs: everywhere, allow_remote: true, allow_debug: true, ..sound() },
            ),
            ("--workers", Config { programs: pair(33, 2222), ..sound() }),
            ("--listen", Config { programs: pair(4, 65_532), ..sound() }),
            ("--", Config { programs: own(&[], None), ..sound() }),
            ("--", Config { programs: own(&[""], None), ..sound() }),
            ("--service", Config { programs: own(&["a"], Some("a b")), ..sound() }),
            ("--service", Config { programs: own(&["a"], Some(&"x".repeat(33))), ..sound() }),
        ] {
            let refused = config.validate().expect_err(option);
            assert_eq!(refused.option, option, "{refused}");
        }
    }
}
