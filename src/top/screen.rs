//! The terminal: taken, drawn on without ever waiting for it, and given back on every way out.
//!
//! What is drawn is what changed since the frame before. A frame goes through a descriptor of our
//! own that does not block, piece by piece as the terminal takes it; only then the next one begins.
//! So a terminal that stands still (a slow line, a window that is stopped) keeps nobody from
//! reading signals and keys. What was saved of the terminal is kept for the panic hook, too:
//! whoever restores takes it, so it is restored once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use osps_heart::clock::SystemClock;
use osps_heart::time::Clock;
use ratatui_core::backend::Backend;
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::cursor::{Hide, Show};
use ratatui_crossterm::crossterm::queue;
use ratatui_crossterm::crossterm::style::ResetColor;
use ratatui_crossterm::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios};
use rustix::termios::{tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use crate::sys::Failed;

/// How long a terminal that stands still is waited for when it is given back.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(300);
/// Ends a sequence of which a part was written.
const CANCEL: u8 = 0x18;

/// What the terminal was like, from the moment on at which it is not like that any more.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    keys: OwnedFd,
    out: OwnedFd,
    termios: Termios,
}

/// A terminal that is ours.
#[derive(Debug)]
pub(super) struct Screen {
    /// Where keys come from.
    keys: OwnedFd,
    /// Where frames go.
    out: OwnedFd,
    /// What is on it, or on its way.
    shown: Buffer,
    /// What is on its way and not yet taken.
    rest: Vec<u8>,
}

impl Screen {
    /// Takes a terminal: what is typed comes as it is, and another screen is drawn on.
    pub(super) fn take(keys: OwnedFd, out: BorrowedFd<'_>) -> Result<Screen, Failed> {
        let out = reopened(out)?;
        let mut screen = Screen { keys, out, shown: Buffer::default(), rest: Vec::new() };
        screen.enter()?;
        Ok(screen)
    }

    /// Where keys come from.
    pub(super) fn keys(&self) -> BorrowedFd<'_> {
        self.keys.as_fd()
    }

    /// Where frames go.
    pub(super) fn out(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }

    /// Takes it (again): the next frame is a whole one.
    pub(super) fn enter(&mut self) -> Result<(), Failed> {
        let failed = Failed::to("set up", "the terminal");
        let termios = tcgetattr(&self.keys).map_err(failed)?;
        let mut raw = termios.clone();
        raw.make_raw();
        // A read takes what is there, and never waits.
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if let Ok(mut saved) = SAVED.lock()
            && saved.is_none()
        {
            let copy = |fd: &OwnedFd| {
                rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(Failed::to("copy", "a descriptor"))
            };
            *saved = Some(Saved { keys: copy(&self.keys)?, out: copy(&self.out)?, termios });
        }
        let failed = Failed::to("set up", "the terminal");
        tcsetattr(&self.keys, OptionalActions::Now, &raw).map_err(failed)?;
        self.shown = Buffer::empty(self.size());
        let _ = queue!(self.rest, EnterAlternateScreen, Hide, Clear(ClearType::All));
        self.flush();
        Ok(())
    }

    /// Gives it back, until [`Screen::enter`].
    pub(super) fn leave(&mut self) {
        self.rest.clear();
        restore();
    }

    /// Whether the terminal is this process group's now; one without groups is everybody's.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.keys).is_ok_and(|group| group == rustix::process::getpgrp())
            || tcgetpgrp(&self.keys) == Err(Errno::NOTTY)
    }

    /// Whether a part of a frame waits for the terminal.
    pub(super) fn is_busy(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The area to draw on.
    pub(super) fn size(&self) -> Rect {
        let (columns, rows) =
            tcgetwinsize(&self.out).map_or((0, 0), |size| (size.ws_col, size.ws_row));
        // A terminal that does not know.
        let or = |value: u16, otherwise: u16| if value == 0 { otherwise } else { value };
        Rect::new(0, 0, or(columns, 80), or(rows, 24))
    }

    /// Forgets what is on it: the next frame is a whole one.
    pub(super) fn wipe(&mut self) {
        self.shown = Buffer::empty(self.size());
        let _ = queue!(self.rest, Clear(ClearType::All));
    }

    /// Shows a frame, if the one before it is out.
    pub(super) fn draw(&mut self, frame: Buffer) {
        if self.is_busy() {
            return;
        }
        if frame.area != self.shown.area {
            self.wipe();
            self.shown = Buffer::empty(frame.area);
        }
        let mut backend = CrosstermBackend::new(&mut self.rest);
        // Writing into memory does not fail.
        let _ = backend.draw(self.shown.diff(&frame).into_iter());
        self.shown = frame;
        self.flush();
    }

    /// Goes on with what waits. `false` = the terminal is gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.rest.is_empty() {
            match rustix::io::write(&self.out, &self.rest) {
                Ok(written) => drop(self.rest.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => {
                    self.rest.clear();
                    return false;
                }
            }
        }
        true
    }

    /// What was typed; `None` = the terminal is gone.
    pub(super) fn typed(&self) -> Option<Vec<u8>> {
        let mut bytes = [0; 256];
        match rustix::io::read(&self.keys, &mut bytes) {
            Ok(length) => Some(bytes[..length].to_vec()),
            Err(Errno::INTR | Errno::AGAIN) => Some(Vec::new()),
            Err(_) => None,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal before a panic is told, whichever thread panics.
pub(super) fn restore_at_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        tell(panic);
    }));
}

/// Gives the terminal back as it was, if it is taken.
fn restore() {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    let Some(Saved { keys, out, termios }) = saved else { return };
    let mut bytes = vec![CANCEL];
    let _ = queue!(bytes, ResetColor, Show, LeaveAlternateScreen);
    let mut rest = &bytes[..];
    let until = SystemClock.now() + PATIENCE;
    while !rest.is_empty() {
        match rustix::io::write(&out, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::AGAIN | Errno::INTR) => {
                let left = until.since(SystemClock.now());
                let span = Timespec::try_from(left).ok();
                let ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], span.as_ref());
                if left.is_zero() || ready == Ok(0) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = tcsetattr(&keys, OptionalActions::Now, &termios);
}

/// The same terminal through a description of our own: others share ours, and shall not find it
/// changed. Where it cannot be opened, the shared one has to do.
fn reopened(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    use std::os::fd::AsRawFd;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = File::options().read(true).write(true).custom_flags(flags).open(path);
    match opened {
        Ok(file) => Ok(file.into()),
        Err(_) => {
            fd.try_clone_to_owned().map_err(|error: io::Error| Failed::to("copy", "stdout")(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read;

    /// What the guard does is what a panic does to it: the hook first, then the unwinding.
    #[test]
    fn a_panic_gives_the_terminal_back_once() {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let path = ptsname(&near, Vec::new()).unwrap();
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        let mut open = File::options();
        open.read(true).write(true).custom_flags(flags);
        let far = open.open(path.to_str().unwrap()).unwrap();
        let before = format!("{:?}", tcgetattr(&far).unwrap());
        let panicked = std::panic::catch_unwind(|| {
            let keys = far.as_fd().try_clone_to_owned().unwrap();
            let mut screen = Screen::take(keys, far.as_fd()).unwrap();
            screen.draw(Buffer::empty(screen.size()));
            assert_ne!(format!("{:?}", tcgetattr(&far).unwrap()), before);
            restore();
            panic!("as told");
        });
        assert!(panicked.is_err());
        assert_eq!(format!("{:?}", tcgetattr(&far).unwrap()), before);
        let mut written = [0; 4096];
        let length = File::from(near).read(&mut written).unwrap();
        let written = String::from_utf8_lossy(&written[..length]).into_owned();
        assert!(written.starts_with("\x1b[?1049h"), "{written:?}");
        assert!(written.ends_with("\x1b[?1049l"), "{written:?}");
        assert_eq!(written.matches("\x1b[?1049l").count(), 1, "{written:?}");
    }
}
