//! What the operator wants, validated: contradictions end here, before anything is started.
//!
//! Texts become numbers in `cli`; numbers become limits here. Every refusal names the option, the
//! value, why it cannot work and what would.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::restart::{INTENSITY_MAX, Intensity};
use crate::segment::layout::{DATA_MAX, SLOTS_MAX};

/// Most secondaries.
pub const WORKERS_MAX: usize = SLOTS_MAX - 1;
/// Smallest cell: a key of 64 bytes, a few words of control, and a value worth the name.
pub const CELL_MIN: u64 = 128;
/// Largest cell: one cell is levelled in one loop turn.
pub const CELL_MAX: u64 = 64 << 10;
/// Longest time that any option may name; more is surely a slip of the finger.
pub const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// An option that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} {value}: {why}")]
pub struct Invalid {
    /// The option as typed.
    pub option: &'static str,
    /// Its value.
    pub value: String,
    /// Why it cannot work, and what would.
    pub why: String,
}

/// What runs in the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// The built-in primary and so many secondaries.
    Pair {
        /// Number of secondaries.
        workers: usize,
        /// Address of the primary; secondaries take the ports after it.
        listen: SocketAddr,
    },
    /// One program of the user's.
    Own {
        /// Program and arguments.
        command: Vec<String>,
        /// A listening socket to hold for it, passed as descriptor 3.
        listen: Option<SocketAddr>,
    },
}

/// A whole, consistent wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the instance.
    pub name: String,
    /// Run directory, if it was chosen by hand.
    pub run_dir: Option<PathBuf>,
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
    /// What runs.
    pub programs: Programs,
}

impl Config {
    /// Longest time between two beats: an eighth of the limit leaves seven chances to be heard;
    /// below 10 ms a beat costs a wake-up that nobody needs, above 500 ms a slow poll looks dead.
    pub fn beat_interval(&self) -> Duration {
        self.beat_interval.unwrap_or_else(|| {
            (self.hang_timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(500))
        })
    }

    /// Checks everything that can be checked without the machine.
    pub fn validate(&self) -> Result<(), Invalid> {
        name_is_valid(&self.name)?;
        let ms = Duration::from_millis;
        for (option, value, least) in [
            ("--hang-timeout", self.hang_timeout, ms(20)),
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
            if value > TIME_MAX {
                return why(format!("too long, {} at most", time(TIME_MAX)));
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
            Programs::Pair { workers, listen } => {
                if !(1..=WORKERS_MAX).contains(workers) {
                    let why = format!("from 1 to {WORKERS_MAX} secondaries");
                    return Err(refuse("--workers", workers, why));
                }
                if listen.port() != 0 && usize::from(u16::MAX - listen.port()) < *workers {
                    let why = format!("no room for {workers} further ports above it");
                    return Err(refuse("--listen", listen, why));
                }
            }
            Programs::Own { command, .. } => {
                if command.first().is_none_or(String::is_empty) {
                    return Err(refuse("--", "", "a command to run is needed".to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn name_is_valid(name: &str) -> Result<(), Invalid> {
    let sound = (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let why = "1 to 64 letters, digits, dots, dashes or underscores, no dot in front";
    if sound { Ok(()) } else { Err(refuse("--name", name, why.to_owned())) }
}

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
        Config {
            name: "default".to_owned(),
            run_dir: None,
            hang_timeout: Duration::from_secs(4),
            check_interval: Duration::from_secs(2),
            beat_interval: None,
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            orphan_timeout: Duration::from_secs(30),
            data_size: 1 << 20,
            cell_size: 256,
            intensity: None,
            allow_debug: false,
            programs: Programs::Pair {
                workers: 1,
                listen: SocketAddr::from(([127, 0, 0, 1], 2222)),
            },
        }
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
        for (option, config) in [
            ("--name", Config { name: "../etc".to_owned(), ..sound() }),
            ("--name", Config { name: String::new(), ..sound() }),
            ("--hang-timeout", Config { hang_timeout: ms(19), ..sound() }),
            ("--hang-timeout", Config { hang_timeout: TIME_MAX * 2, ..sound() }),
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
            ("--workers", Config { programs: pair(33, 2222), ..sound() }),
            ("--listen", Config { programs: pair(4, 65_532), ..sound() }),
            ("--", Config { programs: Programs::Own { command: vec![], listen: None }, ..sound() }),
        ] {
            let refused = config.validate().expect_err(option);
            assert_eq!(refused.option, option, "{refused}");
        }
    }
}
