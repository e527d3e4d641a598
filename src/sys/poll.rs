//! The one blocking call of every loop: wait for descriptors or for the earliest deadline.
//!
//! epoll, because a server may hold ten thousand idle clients; nanosecond deadlines, because a
//! verdict is due at its deadline and not a millisecond later.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::time::{Clock, Monotonic};
use rustix::event::{Timespec, epoll};

use super::Failed;

/// Most events taken from the kernel in one turn; the rest comes in the next. Bounds a turn.
pub const BATCH: usize = 256;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wake up when it can be read.
    pub read: bool,
    /// Wake up when it can be written.
    pub write: bool,
}

impl Interest {
    /// Wake up when it can be read.
    pub const READ: Interest = Interest { read: true, write: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN | epoll::EventFlags::RDHUP, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

/// A descriptor that has something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number it was added with.
    pub token: u64,
    /// It can be read, has ended or failed: a read will tell.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// The other side is gone or it failed.
    pub closed: bool,
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> Result<Poll, Failed> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(Failed::to("create", "epoll descriptor"))?;
        Ok(Poll { epoll })
    }

    /// Watches a descriptor under a number of the caller's.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Failed> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())
            .map_err(Failed::to("watch", format!("descriptor {token}")))
    }

    /// Watches it for something else.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Failed> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())
            .map_err(Failed::to("watch", format!("descriptor {token}")))
    }

    /// Stops watching it. Closing it is not enough where another process holds a copy.
    pub fn remove(&self, fd: impl AsFd) {
        // The only failures are "not watched" and "not open": both are what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until a descriptor is ready or `until` has come, counted from `now`; without `until`
    /// as long as it takes. A wait that is interrupted ends as well, with what is ready then: who
    /// is not among those had nothing to tell, unless there are [`BATCH`].
    pub fn wait(&self, now: Monotonic, until: Option<Monotonic>) -> Result<Vec<Ready>, Failed> {
        let mut timeout = until.map(|until| timespec(until.since(now)));
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); BATCH];
        loop {
            match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
                Ok((events, _)) => return Ok(events.iter().map(ready).collect()),
                Err(rustix::io::Errno::INTR) => timeout = Some(timespec(Duration::ZERO)),
                Err(errno) => return Err(Failed::to("wait for", "descriptors")(errno)),
            }
        }
    }
}

/// How long [`pause`] waits.
const PAUSE: Duration = Duration::from_millis(10);

/// A short wait between two tries of something that nothing announces.
pub fn pause() {
    sleep(PAUSE);
}

/// Waits for so long, and for nothing else.
pub fn sleep(span: Duration) {
    let now = SystemClock.now();
    if let Ok(poll) = Poll::new() {
        let _ = poll.wait(now, Some(now + span));
    }
}

fn ready(event: &epoll::Event) -> Ready {
    use epoll::EventFlags;
    let flags = event.flags;
    let closed = flags.intersects(EventFlags::HUP | EventFlags::ERR);
    Ready {
        token: event.data.u64(),
        readable: closed || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: flags.contains(EventFlags::OUT),
        closed,
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
