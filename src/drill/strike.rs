//! Makes a fault, and takes it back if nobody else ends it.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use osps_heart::ids::Generation;
use osps_heart::segment::Segment;
use osps_heart::sync::Ordering;
use rustix::process::Signal;

use super::plan::Fault;
use crate::instance::place::RunDir;
use crate::sys::process::Process;
use crate::sys::{Failed, procfs};

/// How long a server may take to accept a client: it is up, and its loop turns.
const ACCEPT: Duration = Duration::from_secs(1);

/// The process that a fault is made in: held, so that no other one can be hit.
#[derive(Debug)]
pub(super) struct Victim {
    process: Process,
    /// The start that it is of.
    pub(super) generation: Generation,
    /// Somebody behind it does the work: it is stopped with its process group.
    group: bool,
}

impl Victim {
    /// The process that stands in a slot, if it is one of this instance: what a page says is
    /// believed only where the kernel says so, too.
    pub(super) fn find(segment: &Segment, run_dir: &RunDir, slot: usize) -> Option<Victim> {
        let server = &segment.slots().get(slot)?.server;
        let identity = server.identity()?;
        let process = Process::find(identity.pid, identity.start_time)?;
        let watchdog = segment.header().watchdog_pid.load(Ordering::Relaxed);
        let is_child =
            procfs::stat(identity.pid).is_some_and(|stat| u64::from(stat.parent) == watchdog);
        if !is_child && !procfs::has_variable(identity.pid, &run_dir.mark()) {
            return None;
        }
        let beats = segment.hearts().get(slot)?.claimed().pid;
        let works = server.main().map_or(identity.pid, |(pid, _)| pid);
        let group = beats != 0 && beats != identity.pid || works != identity.pid;
        Some(Victim { process, generation: identity.generation, group })
    }

    /// Makes a fault. One that is asked for ends after this time by itself.
    pub(super) fn strike(
        self,
        fault: Fault,
        address: Option<SocketAddr>,
        at_most: Duration,
    ) -> Result<Struck, String> {
        let made = match (fault, address) {
            (Fault::Kill, _) => self.process.signal(Signal::KILL).map(|()| Made::Killed),
            (Fault::Stop, _) => self.signal(Signal::STOP).map(|()| Made::Stopped),
            (Fault::Spin | Fault::Block, Some(address)) => {
                ask(address, fault, at_most).map(Made::Asked)
            }
            (Fault::Spin | Fault::Block, None) => return Err("it listens nowhere".to_owned()),
        };
        let made = made.map_err(|failed| failed.to_string())?;
        Ok(Struck { victim: self, made, over: false })
    }

    fn signal(&self, signal: Signal) -> Result<(), Failed> {
        if self.group && self.process.signal_group(signal).is_ok() {
            return Ok(());
        }
        self.process.signal(signal)
    }
}

/// Asks a server of osps's own to misbehave, and waits for no answer.
fn ask(address: SocketAddr, fault: Fault, at_most: Duration) -> Result<TcpStream, Failed> {
    let failed = |error| Failed::to("ask", address)(error);
    let mut stream = TcpStream::connect_timeout(&address, ACCEPT).map_err(failed)?;
    stream.set_write_timeout(Some(ACCEPT)).map_err(failed)?;
    let line = format!("DEBUG {} {}\r\n", fault.word(), at_most.as_secs() + 1);
    stream.write_all(line.as_bytes()).map_err(failed)?;
    Ok(stream)
}

#[derive(Debug)]
enum Made {
    Killed,
    Stopped,
    /// It hangs as long as this is open, at most.
    Asked(#[allow(dead_code, reason = "held")] TcpStream),
}

/// A process with its fault.
#[derive(Debug)]
pub(super) struct Struck {
    victim: Victim,
    made: Made,
    over: bool,
}

impl Struck {
    /// It was convicted: from now on it is its watchdog's affair.
    pub(super) fn is_over(&mut self) {
        self.over = true;
    }
}

/// Nobody stays stopped because of us, whatever ends the drill.
impl Drop for Struck {
    fn drop(&mut self) {
        if !self.over && matches!(self.made, Made::Stopped) && !self.victim.process.is_dead() {
            let _ = self.victim.signal(Signal::CONT);
        }
    }
}
