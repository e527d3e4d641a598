//! Texts that mean the same on the command line and in a file.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::policy::restart::{Intensity, Restart};
use crate::service::manner;

/// A duration with a unit: `4s`, `500ms`. The error says what would do.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("a unit is missing: did you mean `{text}s` or `{text}ms`?"));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 4s or 500ms"))
}

/// How often something may be restarted: `10/1m`.
pub fn intensity(text: &str) -> Result<Intensity, String> {
    let hint = "write it like 10/1m: at most 10 restarts within a minute";
    let (restarts, period) = text.split_once('/').ok_or(hint)?;
    let restarts = restarts.parse().map_err(|_| hint.to_owned())?;
    let period = duration(period).map_err(|error| format!("{error}; {hint}"))?;
    Ok(Intensity { restarts, period })
}

/// Which deaths are followed by another process: `on-failure`.
pub fn restart(text: &str) -> Result<Restart, String> {
    Restart::of(text).ok_or_else(|| "one of always, on-failure, never".to_owned())
}

/// A signal that asks a program to go or to look again: `TERM`, `SIGINT`, `15`.
pub fn signal(text: &str) -> Result<Signal, String> {
    let known = manner::signal(text);
    let known = known.filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP));
    known.ok_or_else(|| "write it like TERM, QUIT, SIGINT or 15; KILL comes by itself".to_owned())
}
