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
    pub epochs: usize,
}

impl Tally {
    pub fn struck(&mut self, fault: Fault) {
        self.faults.entry(fault).or_default().0 += 1;
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
        write!(f, "{requests} requests answered, {cuts} connections cut, {epochs} epochs seen")
    }
}
