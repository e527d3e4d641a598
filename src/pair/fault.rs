//! Faults made by hand: what `--allow-debug` is for.

use std::time::Duration;

use osps_heart::time::Clock;

use super::slot_view::SlotView;
use crate::pair::store::commands::Debug;

/// Stops the main loop in the way that was asked for, for as long as that was.
pub fn make(me: &SlotView, fault: &Debug) {
    log::warn!("{} gen={}: DEBUG {fault:?} on a client's request", me.name, me.generation);
    let activity = &me.page().activity;
    let before = activity.text().unwrap_or_default();
    activity.set_text(&format!("DEBUG {fault:?}"));
    match fault {
        Debug::Sleep(time) | Debug::Block(Some(time)) => sleep(*time),
        Debug::Block(None) => block_for_ever(),
        Debug::Spin(time) => {
            let until = time.map(|time| me.clock.now() + time);
            while until.is_none_or(|until| me.clock.now() < until) {
                std::hint::spin_loop();
            }
        }
        Debug::Abort => std::process::abort(),
    }
    activity.set_text(&before);
}

fn sleep(time: Duration) {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let span = rustix::time::Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
    let _ = rustix::thread::nanosleep(&span);
}

/// Reads from a pipe that nobody ever writes to.
fn block_for_ever() {
    if let Ok((read, _write)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        let _ = rustix::io::read(&read, &mut [0u8; 1]);
    }
}
