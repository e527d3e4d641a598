//! What is struck: the pair with its secondaries, or the services of a file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use osps_heart::words::HeartSource;

use super::common::{Launch, PRIMARY, ms};
use super::faults::Fault;

/// What is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The primary and so many secondaries, which hold data.
    Pair { workers: usize },
    /// Those of [`SERVICES`], programs of all kinds.
    Services,
}

/// The services: slot for slot their name and their heart.
pub const SERVICES: [(&str, HeartSource); 7] = [
    ("db", HeartSource::Loop),
    ("web-1", HeartSource::Memory),
    ("web-2", HeartSource::Memory),
    ("edge", HeartSource::Loop),
    ("mail", HeartSource::Notify),
    ("lamp", HeartSource::File),
    ("job", HeartSource::None),
];
/// Slots of some of them.
pub const WEB: [usize; 2] = [1, 2];
const EDGE: usize = 3;
/// Comes and goes with the file.
pub const GUEST: &str = "guest";

/// What of the file changes, by bits.
pub const WEB_CHANGES: u64 = 1;
pub const HAS_GUEST: u64 = 2;
pub const LIMITS_CHANGE: u64 = 4;

/// A real server and a real script between programs of the tests. What `job` and `lamp` start has to
/// go with them.
pub fn file(variant: u64) -> String {
    let given = |bit: u64, text: &'static str| if variant & bit == 0 { "" } else { text };
    format!(
        "check-interval = '500ms'
[defaults]
hang-timeout = '1s'
start-timeout = '3s'
stop-timeout = '2s'
[service.db]
command = ['redis-server', '--port', '0', '--unixsocket', '@DIR@/db.sock', '--save', '',
    '--loglevel', 'warning']
heart = 'loop'
[service.web]
@SERVE@
listen = '127.0.0.1:0'
instances = 2
depends-on = ['db']
{}
[service.edge]
@LOOP@
restart-with = ['web']
[service.mail]
@NOTIFY@
depends-on = ['db']
{}
[service.lamp]
command = ['sh', '-c', 'while :; do echo > @DIR@/lamp; sleep 0.05; done']
heart = 'file:@DIR@/lamp'
[service.job]
command = ['sh', '-c', 'sleep 1000 & setsid sleep 2000 & exec sleep 3000']
heart = 'none'
{}",
        given(WEB_CHANGES, "umask = '027'"),
        given(LIMITS_CHANGE, "stop-timeout = '3s'\nmax-restarts = '1000/1m'"),
        given(HAS_GUEST, "[service.guest]\n@BEAT@\ndepends-on = ['web']"),
    )
}

impl World {
    /// Which of a fault's shares is its.
    pub fn place(self) -> usize {
        match self {
            World::Pair { .. } => 0,
            World::Services => 1,
        }
    }

    pub fn has(self, fault: Fault) -> bool {
        fault.row().shares[self.place()] > 0
    }

    /// Those that may be struck, from slot 0 on.
    pub fn slots(self) -> usize {
        match self {
            World::Pair { workers } => 1 + workers,
            World::Services => SERVICES.len(),
        }
    }

    /// `--hang-timeout` and `--start-timeout`.
    pub fn limits(self) -> (Duration, Duration) {
        match self {
            World::Pair { .. } => (ms(500), ms(3000)),
            World::Services => (ms(1000), ms(3000)),
        }
    }

    /// Who takes this one with it when it fails.
    pub fn goes_with(self, slot: usize) -> &'static [usize] {
        match self {
            World::Pair { .. } if slot != PRIMARY => &[PRIMARY],
            World::Services if slot == EDGE => &WEB,
            World::Pair { .. } | World::Services => &[],
        }
    }

    /// Whether silence can be seen.
    pub fn beats(self, slot: usize) -> bool {
        match self {
            World::Pair { .. } => true,
            World::Services => SERVICES[slot].1 != HeartSource::None,
        }
    }

    pub fn launch(self) -> Launch {
        match self {
            World::Pair { workers } => Launch::pair(&[
                "--workers",
                &workers.to_string(),
                "--allow-debug",
                "--hang-timeout",
                "500ms",
                "--start-timeout",
                "3s",
            ]),
            World::Services => Launch::up(&file(0)),
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            World::Pair { workers } => write!(f, "workers={workers}"),
            World::Services => f.write_str("services"),
        }
    }
}

impl FromStr for World {
    type Err = String;

    fn from_str(text: &str) -> Result<World, String> {
        let workers = text.strip_prefix("workers=").and_then(|count| count.parse().ok());
        match workers {
            Some(workers) => Ok(World::Pair { workers }),
            None if text == "services" => Ok(World::Services),
            None => Err("a script begins with workers=N or services".to_owned()),
        }
    }
}
