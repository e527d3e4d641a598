//! Which faults can be made in which service, and what is promised then.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use osps_heart::pulse::slack;
use osps_heart::words::{HeartSource, Role};

use crate::policy::restart::{Intensity, Restart};
use crate::service::Service;
use crate::view::snapshot::Server;

/// One way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// An endless loop in its main loop.
    Spin,
    /// A read in its main loop that never ends.
    Block,
}

impl Fault {
    /// All.
    pub const ALL: [Fault; 4] = [Fault::Kill, Fault::Stop, Fault::Spin, Fault::Block];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Stop => "stop",
            Fault::Spin => "spin",
            Fault::Block => "block",
        }
    }

    /// What is done.
    pub const fn deed(self) -> &'static str {
        match self {
            Fault::Kill => "kill it (SIGKILL)",
            Fault::Stop => "freeze it (SIGSTOP)",
            Fault::Spin => "let its main loop spin (DEBUG SPIN)",
            Fault::Block => "let its main loop block (DEBUG BLOCK)",
        }
    }

    /// Whether it lives and does nothing, so that only its heart tells.
    pub const fn is_freeze(self) -> bool {
        !matches!(self, Fault::Kill)
    }
}

/// Which of them are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// SIGKILL
    Kill,
    /// SIGSTOP
    Stop,
    /// An endless loop in the main loop; only in servers of the pair, with --allow-debug
    Spin,
    /// A read that never ends in the main loop; only in servers of the pair, with --allow-debug
    Block,
    /// Whatever each can be drilled with
    #[default]
    All,
}

impl Wanted {
    fn faults(self) -> Vec<Fault> {
        match self {
            Wanted::Kill => vec![Fault::Kill],
            Wanted::Stop => vec![Fault::Stop],
            Wanted::Spin => vec![Fault::Spin],
            Wanted::Block => vec![Fault::Block],
            Wanted::All => Fault::ALL.to_vec(),
        }
    }
}

/// One service that is to be drilled.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: usize,
    /// Whether it has a process.
    pub runs: bool,
    /// Whether its silence convicts it.
    pub watched: bool,
    /// Who beats for it.
    pub heart: Option<HeartSource>,
    /// Whether it is osps's own, and does what `DEBUG` says.
    pub debug: Debug,
    /// Where it can be asked for that.
    pub address: Option<SocketAddr>,
    /// What its watchdog wrote down of it; `None` = that cannot be read.
    pub known: Option<Known>,
}

/// Whether a server misbehaves on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debug {
    /// It is a program of the user's.
    Foreign,
    /// It could, and may not.
    Off,
    /// Yes.
    On,
}

/// What is known of a service from its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which of its deaths are followed by another process.
    pub restart: Restart,
    /// When it is given up.
    pub intensity: Option<Intensity>,
    /// A freeze is only told.
    pub warn: bool,
    /// Silence that convicts.
    pub hang: Duration,
    /// Time to its first beat.
    pub start: Duration,
}

impl Subject {
    /// Of a server, and of what is written down of it.
    pub(super) fn of(server: &Server, service: Option<Service>, debug_is_on: bool) -> Subject {
        Subject {
            name: server.name.clone(),
            slot: server.slot,
            runs: server.pid.is_some(),
            watched: server.watched,
            heart: server.heart,
            debug: match server.role {
                Some(Role::Program) | None => Debug::Foreign,
                _ if debug_is_on => Debug::On,
                _ => Debug::Off,
            },
            address: server.listen.as_ref().and_then(|listen| listen.parse().ok()),
            known: service.map(|service| Known {
                restart: service.rule.restart,
                intensity: service.rule.intensity,
                warn: service.manner.warn,
                hang: service.limits.hang,
                start: service.limits.start,
            }),
        }
    }

    /// What stands against a fault.
    fn obstacle(&self, fault: Fault) -> Option<&'static str> {
        if !self.runs {
            return Some("it has no process");
        }
        let Some(known) = self.known else {
            return Some("what its watchdog wrote down of it cannot be read");
        };
        if known.restart == Restart::Never {
            return Some("its `restart` is `never`: it would not come back");
        }
        if known.intensity.is_some_and(|intensity| intensity.restarts == 0) {
            return Some("its first restart would be its last (max-restarts)");
        }
        if !fault.is_freeze() {
            return None;
        }
        if known.warn {
            return Some("its `on-hang` is `warn`: nobody would end the freeze");
        }
        if !self.watched {
            return Some("it is not watched: give it a heart, and a freeze is noticed");
        }
        match (fault, self.debug) {
            (Fault::Spin | Fault::Block, Debug::Foreign) => {
                Some("nobody can make another's program do that from outside")
            }
            (Fault::Spin | Fault::Block, Debug::Off) => {
                Some("its osps was started without --allow-debug")
            }
            (Fault::Spin | Fault::Block, Debug::On) if self.address.is_none() => {
                Some("it listens nowhere")
            }
            _ => None,
        }
    }
}

/// A fault in a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the list of subjects.
    pub subject: usize,
    /// The name of the service.
    pub name: String,
    /// The fault.
    pub fault: Fault,
    /// What is promised.
    pub promise: Promise,
}

/// Faults that cannot be made, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The service.
    pub name: String,
    /// These.
    pub faults: Vec<Fault>,
    /// For this.
    pub why: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(|fault| fault.word()).collect();
        write!(f, "{} ({}): {}", self.name, faults.join(", "), self.why)
    }
}

/// What shall be done, round by round, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The faults.
    pub steps: Vec<Step>,
    /// Those that were wanted, and cannot be made.
    pub left_out: Vec<LeftOut>,
}

impl Plan {
    /// These faults in these services, as far as they can be made.
    pub fn of(subjects: &[Subject], wanted: Wanted) -> Plan {
        let mut plan = Plan::default();
        for (number, subject) in subjects.iter().enumerate() {
            for fault in wanted.faults() {
                match (subject.obstacle(fault), &subject.known) {
                    (Some(why), _) => plan.leave_out(&subject.name, fault, why),
                    (None, Some(known)) => plan.steps.push(Step {
                        subject: number,
                        name: subject.name.clone(),
                        fault,
                        promise: Promise::of(fault, known),
                    }),
                    (None, None) => {}
                }
            }
        }
        plan
    }

    fn leave_out(&mut self, name: &str, fault: Fault, why: &'static str) {
        match self.left_out.last_mut() {
            Some(last) if last.name == name && last.why == why => last.faults.push(fault),
            _ => {
                let (name, faults) = (name.to_owned(), vec![fault]);
                self.left_out.push(LeftOut { name, faults, why });
            }
        }
    }

    /// How long it takes at least.
    pub fn duration(&self, rounds: usize, idle: Duration) -> Duration {
        let once: Duration =
            self.steps.iter().map(|step| idle + step.promise.notice.least).sum::<Duration>();
        once * u32::try_from(rounds).unwrap_or(u32::MAX)
    }
}

/// From when until when something has to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Not before.
    pub least: Duration,
    /// Not after.
    pub most: Duration,
}

impl Bound {
    /// Whether it was kept.
    pub fn holds(self, span: Duration) -> bool {
        (self.least..=self.most).contains(&span)
    }
}

/// What is promised for a fault (docs/operations.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// A death: from it until it is noticed. A freeze: from the last beat until the verdict.
    pub notice: Bound,
    /// From the fault until the successor is up.
    pub back: Bound,
}

/// Alive for so long, one without a heart is up.
const GROWN_UP: Duration = Duration::from_secs(1);

impl Promise {
    fn of(fault: Fault, known: &Known) -> Promise {
        Promise::within(fault, known.hang, known.start)
    }

    /// For this limit, and this time to the first beat.
    pub fn within(fault: Fault, limit: Duration, start: Duration) -> Promise {
        let slack = slack(limit);
        let notice = match fault {
            Fault::Kill => Bound { least: Duration::ZERO, most: slack },
            Fault::Stop | Fault::Spin | Fault::Block => Bound { least: limit, most: limit + slack },
        };
        let most = notice.most + slack + start.max(GROWN_UP);
        Promise { notice, back: Bound { least: Duration::ZERO, most } }
    }

    /// The same for a heart of which only the count is known, and not when it beat last: from the
    /// fault on, with the longest time between two looks on top.
    #[must_use]
    pub fn counted(self, look_gap: Duration) -> Promise {
        let most = self.notice.most + look_gap;
        let notice = Bound { least: Duration::ZERO, most };
        Promise { notice, back: Bound { most: self.back.most + look_gap, ..self.back } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn known() -> Known {
        let (hang, start) = (4 * SECOND, 10 * SECOND);
        Known { restart: Restart::Always, intensity: None, warn: false, hang, start }
    }

    fn subject() -> Subject {
        Subject {
            name: "web".to_owned(),
            slot: 0,
            runs: true,
            watched: true,
            heart: Some(HeartSource::Loop),
            debug: Debug::Foreign,
            address: None,
            known: Some(known()),
        }
    }

    fn faults(subject: Subject, wanted: Wanted) -> Vec<Fault> {
        Plan::of(&[subject], wanted).steps.iter().map(|step| step.fault).collect()
    }

    #[test]
    fn nobody_is_drilled_with_what_it_would_not_survive() {
        use Fault::{Block, Kill, Spin, Stop};
        let all = |subject| faults(subject, Wanted::All);
        assert_eq!(all(subject()), [Kill, Stop]);
        let address = "127.0.0.1:2222".parse().ok();
        let own = Subject { debug: Debug::On, address, ..subject() };
        assert_eq!(all(own.clone()), [Kill, Stop, Spin, Block]);
        assert_eq!(all(Subject { debug: Debug::Off, ..own.clone() }), [Kill, Stop]);
        assert_eq!(all(Subject { address: None, ..own.clone() }), [Kill, Stop]);
        assert_eq!(all(Subject { watched: false, ..own.clone() }), [Kill]);
        assert_eq!(all(Subject { runs: false, ..own.clone() }), []);
        assert_eq!(all(Subject { known: None, ..own.clone() }), []);
        let with = |known| Subject { known: Some(known), ..own.clone() };
        assert_eq!(all(with(Known { warn: true, ..known() })), [Kill]);
        assert_eq!(all(with(Known { restart: Restart::Never, ..known() })), []);
        assert_eq!(all(with(Known { restart: Restart::OnFailure, ..known() })).len(), 4);
        let intensity = |restarts| Some(Intensity { restarts, period: SECOND });
        assert_eq!(all(with(Known { intensity: intensity(0), ..known() })), []);
        assert_eq!(all(with(Known { intensity: intensity(1), ..known() })).len(), 4);
        assert_eq!(faults(subject(), Wanted::Stop), [Stop]);
        assert_eq!(faults(subject(), Wanted::Spin), []);
    }

    #[test]
    fn what_is_left_out_is_told_once_for_each_reason() {
        let plan = Plan::of(&[subject()], Wanted::All);
        let told: Vec<_> = plan.left_out.iter().map(ToString::to_string).collect();
        let why = "nobody can make another's program do that from outside";
        assert_eq!(told, [format!("web (spin, block): {why}")]);
    }

    #[test]
    fn the_promise_is_that_of_the_documents() {
        let ms = Duration::from_millis;
        let stop = Promise::within(Fault::Stop, 4 * SECOND, 10 * SECOND);
        assert_eq!(stop.notice, Bound { least: ms(4000), most: ms(4500) });
        assert_eq!(stop.back.most, ms(15_000));
        assert!(!stop.notice.holds(ms(3999)) && stop.notice.holds(ms(4000)));
        assert!(stop.notice.holds(ms(4500)) && !stop.notice.holds(ms(4501)));
        let kill = Promise::within(Fault::Kill, 4 * SECOND, Duration::ZERO);
        assert_eq!(kill.notice, Bound { least: ms(0), most: ms(500) });
        assert_eq!(kill.back.most, ms(2000));
        assert_eq!(stop.counted(SECOND).notice, Bound { least: ms(0), most: ms(5500) });
    }
}
