//! What `osps check` tells of a sound file: what is in effect and who said so, the order of the
//! start, how soon a freeze is noticed, and what would go wrong on this machine.
//!
//! Values of variables and arguments of commands are not shown: they may be secrets.

use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

use osps_heart::pulse::{Limits, slack};
use osps_heart::shown::Shown;
use osps_heart::words::HeartSource;

use super::file::{Entry, Family, File, Origin};
use super::{Config, time};
use crate::prober;
use crate::service::Service;

/// What is not as it should be on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What, and of which service.
    pub text: String,
    /// Whether its service would not run because of it.
    pub fatal: bool,
}

/// All that is to be told of a file. Looks at programs and directories.
pub fn render(file: &File, findings: &[Finding]) -> String {
    let mut text = String::new();
    // A text takes whatever is written to it.
    let _ = tell(&mut text, file, findings);
    text
}

fn tell(text: &mut String, file: &File, findings: &[Finding]) -> fmt::Result {
    let shown = Shown(&file.path);
    for family in &file.families {
        let Some(service) = file.services.get(family.first) else { continue };
        writeln!(text, "service {}{}", family.name, instances(family))?;
        for Entry { key, shown: value, origin } in &family.entries {
            let origin = match origin {
                Origin::Service(line) => format!("{shown}:{line}"),
                Origin::Defaults(line) => format!("[defaults] {shown}:{line}"),
                Origin::Default => continue,
            };
            writeln!(text, "  {key:<14} {:<40} {origin}", Shown(value).to_string())?;
        }
        writeln!(text, "  a freeze       {}\n", latency(service))?;
    }
    // Said once: what nobody says is the same for all.
    writeln!(text, "default, where a service above does not say it")?;
    let entries = || file.families.iter().flat_map(|family| &family.entries);
    for key in super::keys::KEYS.iter().filter(|key| key.is_services()) {
        let unsaid = |entry: &&Entry| entry.key == key.name && entry.origin == Origin::Default;
        if let Some(Entry { key, shown: value, .. }) = entries().find(unsaid) {
            writeln!(text, "  {key:<14} {}", Shown(value))?;
        }
    }
    writeln!(text)?;
    writeln!(text, "start order")?;
    for (number, level) in (1..).zip(levels(&file.families)) {
        for index in level {
            let family = &file.families[index];
            let after = family.after.iter().map(|other| file.families[*other].name.as_str());
            let after = after.collect::<Vec<_>>().join(", ");
            let after = if after.is_empty() { after } else { format!(" after {after}") };
            writeln!(text, "  {number}. {}{after}", family.name)?;
        }
    }
    if !findings.is_empty() {
        writeln!(text)?;
    }
    for Finding { text: found, fatal } in findings {
        writeln!(text, "{}: {found}", if *fatal { "error" } else { "warning" })?;
    }
    Ok(())
}

fn instances(family: &Family) -> String {
    match family.instances {
        1 => String::new(),
        count => format!(" ({count} instances: {0}-1 to {0}-{count})", family.name),
    }
}

/// The families by how many others must be up before them, one after the other.
fn levels(families: &[Family]) -> Vec<Vec<usize>> {
    let mut level = vec![0; families.len()];
    // A way is no longer than there are families; there are no circles.
    for _ in families {
        let mut changed = false;
        for (index, family) in families.iter().enumerate() {
            let after = family.after.iter().map(|other| level[*other] + 1).max().unwrap_or(0);
            changed |= level[index] != after;
            level[index] = after;
        }
        if !changed {
            break;
        }
    }
    let most = level.iter().max().map_or(0, |most| most + 1);
    let at = |wanted| (0..families.len()).filter(|index| level[*index] == wanted).collect();
    (0..most).map(at).collect()
}

/// How soon a freeze is noticed: the bound of docs/verdicts.md, with its numbers.
pub fn latency(service: &Service) -> String {
    let Limits { hang, start } = service.limits;
    let source = service.manner.heart.source;
    let (gap, why) = match source {
        HeartSource::None => return "is not noticed: only death is (heart none)".to_owned(),
        HeartSource::Memory => {
            let standard = Config { hang_timeout: hang, ..Config::default() };
            (standard.beat_interval(), "a beat interval")
        }
        // Its own choice; half of what it is told is the custom.
        HeartSource::Notify | HeartSource::Auto => (hang / 2, "half of WATCHDOG_USEC"),
        HeartSource::Loop | HeartSource::Loops => (hang / 4, "a slice of a wait"),
        HeartSource::File => (Duration::ZERO, ""),
        HeartSource::Probe => {
            let (period, allowance) = (prober::probe_period(hang), prober::probe_allowance(hang));
            (period.max(allowance), "what a probe may take")
        }
    };
    let look = match source {
        HeartSource::File => prober::look_period(hang),
        _ => Duration::ZERO,
    };
    let (best, worst) = (hang.saturating_sub(gap), hang + slack(hang) + look);
    let from = match source {
        HeartSource::Auto => "its first beat (until then only death is), within ",
        _ => "",
    };
    let mut parts = vec![format!("{from}{} to {}: limit {}", time(best), time(worst), time(hang))];
    if !gap.is_zero() {
        parts.push(format!("less {why} of {}", time(gap)));
    }
    parts.push(format!("plus slack {}", time(slack(hang))));
    if !look.is_zero() {
        parts.push(format!("plus a look every {}", time(look)));
        parts.push("less the time between two moves".to_owned());
    }
    match source {
        HeartSource::Loop | HeartSource::Loops => {
            parts.push(format!("and not before it is {} old", time(start)));
        }
        HeartSource::Auto => {}
        _ => parts.push(format!("before the first beat {}", time(start))),
    }
    if service.manner.warn {
        parts.push("told, and not acted on".to_owned());
    }
    format!("is noticed after {}", parts.join(", "))
}

/// The directories that a service needs and that are not there.
pub(super) fn missing_directories(service: &Service) -> Vec<String> {
    let missing = |path: &&Path| !path.is_dir();
    let own = service.launch.directory.as_deref().filter(missing);
    let logs = service.launch.log.as_deref().and_then(Path::parent).filter(missing);
    let own = own.map(|path| format!("there is no directory {}", Shown(path)));
    own.into_iter()
        .chain(logs.map(|path| format!("there is no directory {} for its log", Shown(path))))
        .collect()
}

/// What of a file is not as it should be on this machine, by service and without repetition.
pub fn findings(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    for family in &file.families {
        let Some(service) = file.services.get(family.first) else { continue };
        let mut add = |fatal, what: String| {
            found.push(Finding { text: format!("service {}: {what}", family.name), fatal });
        };
        match service.look() {
            Ok(None) => {}
            Ok(Some(warning)) => add(false, warning),
            Err(error) => add(true, error.to_string()),
        }
        for what in missing_directories(service) {
            add(true, what);
        }
        match service.manner.heart.source {
            HeartSource::None => add(false, "only its death is noticed (heart none)".to_owned()),
            HeartSource::Auto => {
                add(false, "only its death is noticed, unless it beats (heart auto)".to_owned());
            }
            _ => {}
        }
    }
    found
}
