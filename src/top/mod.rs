//! `osps top`: an instance, live, on a terminal.
//!
//! A reader in a process of its own: it maps the segment read-only, needs no watchdog, and asks one
//! only for what the user confirmed.
//!
//! ```text
//! look     the thread that looks: snapshots four times a second, /proc of what is selected
//! model    rows, rates and traces, from one look to the next                           pure
//! app      what is selected, asked and answered                                        pure
//! keys     bytes -> keys -> actions                                                    pure
//! draw     what is known -> a frame; columns, detail: its parts                        pure
//! screen   the terminal: taken, drawn on without waiting, given back on every way out
//! ```
//!
//! This file waits for keys, signals, looks and answers, and does none of them itself. Tested in
//! these files and, in a terminal, in tests/top.rs.

mod app;
mod bell;
mod columns;
mod detail;
mod draw;
mod keys;
mod look;
mod model;
mod screen;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use osps_heart::clock::SystemClock;
use osps_heart::shown::Shown;
use osps_heart::time::{Clock, Monotonic};

use self::app::{App, Effect, Taste, Tone};
use self::bell::Bell;
use self::keys::{Keys, Mode};
use self::look::{Look, Order};
use self::screen::Screen;
use crate::error::Error;
use crate::instance::ask::{self, Said};
use crate::instance::control::Wish;
use crate::instance::place::Place;
use crate::sys::Failed;
use crate::sys::poll::{Interest, Poll};
use crate::sys::signals::{OfTerminal, Told};
use crate::view::status::{self, Wanted};

/// How long the rest of a key's bytes may take.
const REST_OF_KEY: Duration = Duration::from_millis(50);

const KEYS: u64 = 0;
const SIGNALS: u64 = 1;
const NEWS: u64 = 2;
const OUT: u64 = 3;

/// What the thread that asks says.
type Heard = (Tone, String);

/// Shows an instance until the user leaves; once, as `osps status` does, where there is no terminal
/// or that is wanted.
pub fn main(place: &Place, once: bool) -> Result<ExitCode, Error> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let keys = if once || dumb || !std::io::stdout().is_terminal() { None } else { keys() };
    let Some(keys) = keys else { return status::main(Ok(place.clone()), Wanted::Servers, false) };
    if std::fs::symlink_metadata(&place.path).is_err() {
        log::error!("{}", place.not_running());
        return Ok(ExitCode::from(3));
    }
    screen::restore_at_panics();
    // Whoever is in the background is stopped here, before signals are blocked.
    let screen = Screen::take(keys, rustix::stdio::stdout())?;
    let mut top = Top::start(place, screen)?;
    let end = top.run();
    top.screen.leave();
    end.map(|()| ExitCode::SUCCESS)
}

/// Where keys come from: standard input, or what is behind it if that is no terminal.
fn keys() -> Option<OwnedFd> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return stdin.as_fd().try_clone_to_owned().ok();
    }
    let tty = std::fs::File::options().read(true).write(true).open("/dev/tty");
    tty.ok().map(OwnedFd::from)
}

/// As the environment says.
fn taste() -> Taste {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let is_utf8 = |locale: &OsStr| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    };
    Taste {
        colours: set("NO_COLOR").is_none(),
        // Nobody said anything: as nearly everywhere.
        unicode: locale.is_none_or(|locale| is_utf8(&locale)),
    }
}

struct Top<'a> {
    place: &'a Place,
    app: App,
    screen: Screen,
    poll: Poll,
    signals: OfTerminal,
    keys: Keys,
    looks: Receiver<Look>,
    orders: Sender<Order>,
    heard: Receiver<Heard>,
    tell: Sender<Heard>,
    bell: Arc<Bell>,
    /// When a key that was begun is over.
    key_until: Option<Monotonic>,
    /// The loop waits until the terminal takes more.
    is_blocked: bool,
    /// It is ours to draw on.
    is_ours: bool,
    is_over: bool,
}

impl<'a> Top<'a> {
    fn start(place: &'a Place, screen: Screen) -> Result<Top<'a>, Error> {
        let signals = OfTerminal::block()?;
        let bell = Arc::new(Bell::new()?);
        let poll = Poll::new()?;
        poll.add(screen.keys(), KEYS, Interest::READ)?;
        poll.add(&signals, SIGNALS, Interest::READ)?;
        poll.add(&*bell, NEWS, Interest::READ)?;
        let (look, looks) = mpsc::sync_channel(4);
        let (orders, ordered) = mpsc::channel();
        let (tell, heard) = mpsc::channel();
        let (its_place, its_bell) = (place.clone(), Arc::clone(&bell));
        let looker = std::thread::Builder::new().name("look".to_owned());
        looker
            .spawn(move || look::run(&its_place, &ordered, &look, &its_bell))
            .map_err(Failed::to("start", "a thread"))?;
        let name = place.path.file_name().unwrap_or(place.path.as_os_str());
        let app = App::new(Shown(name).to_string(), taste());
        let keys = Keys::default();
        let (key_until, is_blocked, is_ours, is_over) = (None, false, true, false);
        Ok(Top {
            place,
            app,
            screen,
            poll,
            signals,
            keys,
            looks,
            orders,
            heard,
            tell,
            bell,
            key_until,
            is_blocked,
            is_ours,
            is_over,
        })
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut selected = None;
        while !self.is_over {
            let now = SystemClock.now();
            let ready = self.poll.wait(now, self.key_until)?;
            let mut changed = false;
            if self.key_until.is_some_and(|until| SystemClock.now() >= until) {
                self.key_until = None;
                let key = self.keys.close();
                changed |= self.press(key);
            }
            for one in ready {
                changed |= match one.token {
                    KEYS => self.typed(one.closed),
                    SIGNALS => self.told()?,
                    NEWS => self.news()?,
                    _ => self.on_drained(),
                };
            }
            if selected != self.app.selected {
                selected.clone_from(&self.app.selected);
                let _ = self.orders.send(Order::Closer(selected.clone()));
            }
            if changed && self.is_ours && !self.is_over {
                self.draw()?;
            }
        }
        Ok(())
    }

    fn draw(&mut self) -> Result<(), Failed> {
        // A frame that is still on its way is followed by the newest one.
        if !self.screen.is_busy() {
            let frame = draw::frame(&mut self.app, self.screen.size());
            self.screen.draw(frame);
        }
        let is_busy = self.screen.is_busy();
        if is_busy && !self.is_blocked {
            self.poll.add(self.screen.out(), OUT, Interest { read: false, write: true })?;
        } else if !is_busy && self.is_blocked {
            self.poll.remove(self.screen.out());
        }
        self.is_blocked = is_busy;
        Ok(())
    }

    /// The terminal takes more.
    fn on_drained(&mut self) -> bool {
        self.is_over |= !self.screen.flush();
        !self.screen.is_busy()
    }

    /// Reads keys.
    fn typed(&mut self, is_closed: bool) -> bool {
        let Some(bytes) = self.screen.typed() else {
            self.is_over = true;
            return false;
        };
        if bytes.is_empty() && is_closed {
            self.is_over = true;
        }
        let keys = self.keys.feed(&bytes);
        self.key_until = self.keys.is_open().then(|| SystemClock.now() + REST_OF_KEY);
        self.press(keys)
    }

    fn press(&mut self, keys: impl IntoIterator<Item = keys::Key>) -> bool {
        let mut changed = false;
        for key in keys {
            let before = self.app.mode();
            let Some(action) = keys::action(before, key) else { continue };
            changed = true;
            match self.app.act(action) {
                None => {}
                Some(Effect::Quit) => self.is_over = true,
                Some(Effect::Redraw) => self.screen.wipe(),
                Some(Effect::Suspend) => self.suspend(true),
                Some(Effect::Ask(wish)) => self.ask(wish),
            }
            // What was typed before a question could be read is no answer to it.
            if before != Mode::Question && self.app.mode() == Mode::Question {
                break;
            }
        }
        changed
    }

    /// Obeys signals.
    fn told(&mut self) -> Result<bool, Failed> {
        for told in self.signals.take() {
            match told {
                Told::Leave => self.is_over = true,
                Told::Suspend => self.suspend(false),
                Told::Continue => self.resume()?,
                // The next frame has the new size.
                Told::Resize => {}
            }
        }
        Ok(true)
    }

    fn suspend(&mut self, group: bool) {
        self.screen.leave();
        // Nobody draws meanwhile, so nobody would stop waiting for it.
        if std::mem::take(&mut self.is_blocked) {
            self.poll.remove(self.screen.out());
        }
        self.is_ours = false;
        self.signals.stop(group);
        // Where nobody can stop us, no signal says that it goes on.
        let _ = self.resume();
    }

    /// Somebody continued us: in the foreground, or not.
    fn resume(&mut self) -> Result<(), Failed> {
        if self.screen.is_ours() {
            self.screen.enter()?;
            self.is_ours = true;
        }
        Ok(())
    }

    /// Takes looks and answers.
    fn news(&mut self) -> Result<bool, Error> {
        self.bell.hush();
        let mut changed = false;
        loop {
            match self.looks.try_recv() {
                Ok(look) => self.app.look(look),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    let lost = std::io::Error::other("it ended");
                    return Err(Failed::to("go on without", "the thread that looks")(lost).into());
                }
            }
            changed = true;
        }
        while let Ok((tone, text)) = self.heard.try_recv() {
            self.app.hear(tone, text);
            changed = true;
        }
        Ok(changed)
    }

    /// Asks the watchdog, in a thread: an answer takes as long as what was asked for.
    fn ask(&mut self, wish: Wish) {
        let (place, tell, bell) = (self.place.clone(), self.tell.clone(), Arc::clone(&self.bell));
        let asker = std::thread::Builder::new().name("ask".to_owned());
        let spawned = asker.spawn(move || {
            let mut last = Heard::from((Tone::Going, String::new()));
            let done = ask::hear(&place, &wish, &mut |said| {
                last = match said {
                    Said::Progress(text) => (Tone::Going, text),
                    Said::Problem(text) => (Tone::Bad, text),
                };
                let _ = tell.send((Tone::Going, last.1.clone()));
                bell.ring();
            });
            let end = match (done, last) {
                (Err(error), _) => (Tone::Bad, error.to_string()),
                (Ok(()), (_, text)) => (Tone::Good, text),
            };
            let _ = tell.send(end);
            bell.ring();
        });
        if let Err(error) = spawned {
            self.app.hear(Tone::Bad, Failed::to("start", "a thread")(error).to_string());
        }
    }
}
