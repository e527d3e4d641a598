//! What was survived, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::faults::Fault;

/// What was survived.
#[derive(Default)]
pub struct Tally {
    /// By fault: how many, and the slowest recovery from one that came alone.
    faults: BTreeMap<Fault, (u64, Duration)>,
    pub rounds: usize,
    pub lives: usize,
    pub starts: u64,
    /// By class.
    pub verdicts: BTreeMap<String, u64>,
    pub extensions: usize,
    pub requests: u64,
    pub cuts: u64,
    /// Connections refused by servers that died while there was no watchdog.
    pub refused: u64,
    pub epochs: usize,
    /// From the start of a watchdog until it had taken over who lived; and how long nobody was
    /// watched when it became another image.
    pub take_overs: Vec<Duration>,
    pub upgrades: Vec<Duration>,
}

impl Tally {
    pub fn struck(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().0 += 1;
    }

    /// How often a fault struck.
    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).map_or(0, |(count, _)| *count)
    }

    pub fn recovered(&mut self, fault: Fault, took: Duration) {
        let slowest = &mut self.faults.entry(fault).or_default().1;
        *slowest = took.max(*slowest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10}{:>10}{:>26}", "fault", "survived", "slowest recovery, alone")?;
        for (fault, (count, slowest)) in &self.faults {
            let slowest = slowest.as_millis();
            writeln!(f, "{:<10}{count:>10}{slowest:>23} ms", fault.word())?;
        }
        let faults: u64 = self.faults.values().map(|(count, _)| count).sum();
        let Tally { rounds, lives, starts, extensions, requests, cuts, epochs, .. } = self;
        writeln!(f, "{faults} faults in {rounds} rounds of {lives} instances: {starts} starts")?;
        let verdicts = self.verdicts.iter().map(|(class, count)| format!("{class} {count}"));
        let verdicts = verdicts.collect::<Vec<_>>().join(", ");
        writeln!(f, "verdicts: {verdicts}; {extensions} limits extended")?;
        writeln!(f, "{requests} requests answered, {cuts} connections cut, {epochs} epochs seen")?;
        write!(f, "{} connections refused by the dead while there was no watchdog", self.refused)?;
        for (what, spans) in [("take-overs", &self.take_overs), ("upgrades", &self.upgrades)] {
            let mut spans = spans.clone();
            spans.sort_unstable();
            let part = |percent: usize| spans.get(spans.len().saturating_sub(1) * percent / 100);
            if let (Some(middle), Some(most), Some(worst)) = (part(50), part(99), spans.last()) {
                let count = spans.len();
                write!(
                    f,
                    "\n{count} {what}: median {middle:.1?}, 99 % {most:.1?}, most {worst:.1?}"
                )?;
            }
        }
        Ok(())
    }
}
