//! The built-in pair as a list of services: a primary, its secondaries, and the FIFOs between them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use osps_heart::ids::{Epoch, Generation, SlotId};
use osps_heart::pulse::Limits;
use osps_heart::words::Role;

use super::link::{tube_down, tube_up};
use super::wire::{self, FRAME_SIZE, Frame, FrameKind, PAYLOAD_SIZE};
use crate::error::Error;
use crate::policy::lifecycle::Patience;
use crate::policy::restart::Rule;
use crate::service::{Address, Inheritance, Launch, Manner, Needs, Service, WAKE_SIZE, Wake};
use crate::sys::fifo::Fifo;

/// Most secondaries.
pub const WORKERS_MAX: usize = 32;

/// The name of the first server.
const PRIMARY: &str = "primary";

const _: () = assert!(WAKE_SIZE == FRAME_SIZE, "a wake-up is a frame");

/// The services of a pair with so many secondaries: binds their sockets, then makes their FIFOs in
/// the run directory. Secondaries listen on the ports after the primary's.
pub fn services(
    dir: BorrowedFd<'_>,
    inherited: &mut Inheritance,
    listen: SocketAddr,
    workers: usize,
    limits: Limits,
    patience: Patience,
    rule: &Rule,
) -> Result<Vec<Service>, Error> {
    let count = u8::try_from(workers.min(WORKERS_MAX)).unwrap_or(u8::MAX);
    let service = |number: u8| {
        let mut address = listen;
        if address.port() != 0 {
            address.set_port(address.port() + u16::from(number));
        }
        let (name, role, with) = match number {
            0 => (PRIMARY.to_owned(), Role::Primary, Vec::new()),
            _ => (format!("secondary-{number}"), Role::Secondary, vec![PRIMARY.to_owned()]),
        };
        Ok(Service {
            sockets: inherited.listener(&name, &Address::Tcp(address))?.into_iter().collect(),
            role,
            manner: Manner::built_in(),
            rule: rule.clone(),
            needs: Needs { with, ..Needs::default() },
            arbiter: number == 0,
            ..Service::program(name, Launch::default(), limits, patience)
        })
    };
    let mut services = (0..=count).map(service).collect::<Result<Vec<_>, Error>>()?;
    for number in 1..=count {
        let made = |name: String| {
            match Fifo::create(dir, &name) {
                // That of servers that are taken over.
                Err(failed) if failed.answer.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            }
            Fifo::open(dir, &name).map(Arc::new)
        };
        let (down, up) = (made(tube_down(number))?, made(tube_up(number))?);
        let secondary = &mut services[usize::from(number)];
        secondary.wake = Some(wake(Arc::clone(&down)));
        secondary.fifos = vec![Arc::clone(&down), Arc::clone(&up)];
        let primary = &mut services[0];
        primary.wake.get_or_insert_with(|| wake(Arc::clone(&up)));
        primary.fifos.extend([down, up]);
    }
    Ok(services)
}

/// Names of the FIFOs that any pair may have made.
pub fn fifos() -> Vec<String> {
    let numbers = 1..=u8::try_from(WORKERS_MAX).unwrap_or(u8::MAX);
    numbers.flat_map(|number| [tube_down(number), tube_up(number)]).collect()
}

/// Through this FIFO its reader is told that something changed in the segment.
fn wake(fifo: Arc<Fifo>) -> Wake {
    Wake { fifo, bytes: lost }
}

fn lost(slot: SlotId, generation: Generation) -> [u8; FRAME_SIZE] {
    wire::encode(&Frame {
        kind: FrameKind::Lost,
        from: wire::WATCHDOG,
        to: slot,
        from_generation: Generation::default(),
        to_generation: generation,
        epoch: Epoch::default(),
        sequence: 0,
        job: 0,
        payload: [0; PAYLOAD_SIZE],
    })
}
