//! What is typed: bytes become keys, and a key becomes an action by what is on the screen. Pure.
//!
//! Only keys that mean something here are told apart. crossterm has a reader of its own, which is
//! not used: once its terminal is gone it spins, and it cannot wait for anything else beside.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A character.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    Enter,
    Esc,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

/// Bytes that are not a whole key yet. The longest sequence that any terminal sends is shorter than
/// [`LONGEST`]; more is noise.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<u8>);

const LONGEST: usize = 32;
const ESC: u8 = 0x1b;

impl Keys {
    /// The keys in these bytes and those before them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.0.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, length)) = first(&self.0) {
            self.0.drain(..length);
            keys.extend(key);
        }
        if self.0.len() > LONGEST {
            self.0.clear();
        }
        keys
    }

    /// Whether something was begun. If nothing follows soon, it was the Esc key.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_empty()
    }

    /// Nothing followed.
    pub(super) fn close(&mut self) -> Option<Key> {
        let begun = std::mem::take(&mut self.0);
        (begun == [ESC]).then_some(Key::Esc)
    }
}

/// The first key and its length; a sequence that means nothing has a length alone. `None` = more
/// has to come.
fn first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let (first, rest) = bytes.split_first()?;
    let key = match first {
        &ESC => return sequence(rest).map(|(key, length)| (key, length + 1)),
        b'\r' | b'\n' => Key::Enter,
        0x08 | 0x7f => Key::Char('\u{8}'),
        b'\t' => Key::Char('\t'),
        0 => Key::Ctrl(' '),
        1..=26 => Key::Ctrl(char::from(first - 1 + b'a')),
        0x1c..=0x1f => return Some((None, 1)),
        0x20..0x80 => Key::Char(char::from(*first)),
        0x80.. => return character(bytes),
    };
    Some((Some(key), 1))
}

/// A character of several bytes.
fn character(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let chunk = bytes.utf8_chunks().next()?;
    match chunk.valid().chars().next() {
        Some(c) => Some((Some(Key::Char(c)), c.len_utf8())),
        // Cut off, as far as one can see.
        None if chunk.invalid().len() == bytes.len() && bytes.len() < 4 => None,
        None => Some((None, chunk.invalid().len().max(1))),
    }
}

/// What follows an Esc.
fn sequence(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    match bytes {
        [] | [b'O'] => None,
        // Esc twice: the first one was the key.
        [ESC, ..] => Some((Some(Key::Esc), 0)),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
            if !(0x40..=0x7e).contains(&rest[end]) {
                // What belongs to no sequence ends it, and is a key of its own.
                return Some((None, end + 1));
            }
            let parameter = rest[..end].split(|byte| *byte == b';').next().unwrap_or_default();
            Some((named(rest[end], parameter), end + 2))
        }
        [b'O', letter, ..] => Some((named(*letter, b""), 2)),
        // With Alt: nothing here.
        [_, ..] => Some((None, 1)),
    }
}

fn named(letter: u8, parameter: &[u8]) -> Option<Key> {
    Some(match (letter, parameter) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'M', b"") => Key::Enter,
        _ => return None,
    })
}

/// What is on the screen, as far as keys go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The list.
    List,
    /// One server alone.
    Alone,
    /// The help.
    Help,
    /// A question: shall that be done?
    Question,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Suspend,
    Redraw,
    /// Up or down by so many lines.
    Move(isize),
    /// By so many pages.
    Page(isize),
    Top,
    Bottom,
    /// One server alone.
    Open,
    /// Back to what was there before.
    Close,
    /// The help, or away with it.
    Help,
    /// The other order of rows.
    Order,
    Restart,
    /// Pause, or resume.
    Pause,
    /// Stop, or start.
    Stop,
    /// A longer or a shorter pause.
    Span(isize),
    Yes,
    No,
}

/// What a key means.
pub(super) fn action(mode: Mode, key: Key) -> Option<Action> {
    let everywhere = match key {
        Key::Ctrl('c') => Some(Action::Quit),
        Key::Ctrl('z') => Some(Action::Suspend),
        Key::Ctrl('l') => Some(Action::Redraw),
        _ => None,
    };
    everywhere.or(match mode {
        Mode::List | Mode::Alone => looking(mode, key),
        Mode::Help => match key {
            Key::Char('q') => Some(Action::Quit),
            Key::Esc | Key::Enter | Key::Char('?' | 'h' | ' ') => Some(Action::Help),
            _ => None,
        },
        Mode::Question => match key {
            Key::Char('y' | 'Y') => Some(Action::Yes),
            Key::Char('n' | 'N' | 'q') | Key::Esc => Some(Action::No),
            Key::Left | Key::Char('-') => Some(Action::Span(-1)),
            Key::Right | Key::Char('+') => Some(Action::Span(1)),
            _ => None,
        },
    })
}

fn looking(mode: Mode, key: Key) -> Option<Action> {
    Some(match key {
        Key::Esc | Key::Enter | Key::Left | Key::Char('\u{8}') if mode == Mode::Alone => {
            Action::Close
        }
        Key::Char('q') | Key::Esc => Action::Quit,
        Key::Up | Key::Char('k') | Key::Ctrl('p') => Action::Move(-1),
        Key::Down | Key::Char('j') | Key::Ctrl('n') => Action::Move(1),
        Key::PageUp | Key::Ctrl('b') => Action::Page(-1),
        Key::PageDown | Key::Ctrl('f') | Key::Char(' ') => Action::Page(1),
        Key::Home | Key::Char('g') => Action::Top,
        Key::End | Key::Char('G') => Action::Bottom,
        Key::Enter | Key::Right => Action::Open,
        Key::Char('?' | 'h') => Action::Help,
        Key::Char('o') => Action::Order,
        Key::Char('r') => Action::Restart,
        Key::Char('p') => Action::Pause,
        Key::Char('s') => Action::Stop,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        let mut found = keys.feed(bytes);
        found.extend(keys.close());
        found
    }

    #[test]
    fn terminals_say_a_key_in_several_ways() {
        for (bytes, expected) in [
            (&b"q"[..], &[Key::Char('q')][..]),
            (b"\x1b", &[Key::Esc]),
            (b"\x1b\x1b", &[Key::Esc, Key::Esc]),
            (b"\x03\x1a\x0c", &[Key::Ctrl('c'), Key::Ctrl('z'), Key::Ctrl('l')]),
            (b"\r\n", &[Key::Enter, Key::Enter]),
            (b"\x1b[A\x1bOB\x1b[1;5C\x1b[D", &[Key::Up, Key::Down, Key::Right, Key::Left]),
            (b"\x1b[5~\x1b[6~", &[Key::PageUp, Key::PageDown]),
            (b"\x1b[H\x1b[1~\x1b[7~\x1bOH", &[Key::Home; 4]),
            (b"\x1b[F\x1b[4~\x1b[8~\x1bOF", &[Key::End; 4]),
            ("é\u{1f600}".as_bytes(), &[Key::Char('é'), Key::Char('\u{1f600}')]),
            // Nothing here: F5, a report of the mouse, Alt-x, a paste's bounds, a broken sequence.
            (
                b"\x1b[15~\x1b[<0;1;1M\x1bx\x1b[200~\x1b[201~\x1b[1\x01q",
                &[Key::Ctrl('a'), Key::Char('q')],
            ),
            (b"\xff\xc3(k", &[Key::Char('('), Key::Char('k')]),
        ] {
            assert_eq!(typed(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_key_may_come_in_pieces() {
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"\x1b"), []);
        assert!(keys.is_open());
        assert_eq!(keys.feed(b"[1"), []);
        assert_eq!(keys.feed(b";2A"), [Key::Up]);
        assert!(!keys.is_open());
        assert_eq!(keys.feed(b"\xc3"), []);
        assert_eq!(keys.feed(b"\xa9"), [Key::Char('é')]);
    }

    #[test]
    fn what_keys_mean_where() {
        use Mode::{Alone, Help, List, Question};
        for (key, [list, alone, help, question]) in [
            (Key::Ctrl('c'), [Some(Action::Quit); 4]),
            (Key::Ctrl('z'), [Some(Action::Suspend); 4]),
            (Key::Ctrl('l'), [Some(Action::Redraw); 4]),
            (
                Key::Char('q'),
                [
                    Some(Action::Quit),
                    Some(Action::Quit),
                    Some(Action::Quit),
                    // A question is left, and nothing else.
                    Some(Action::No),
                ],
            ),
            (
                Key::Esc,
                [Some(Action::Quit), Some(Action::Close), Some(Action::Help), Some(Action::No)],
            ),
            (Key::Enter, [Some(Action::Open), Some(Action::Close), Some(Action::Help), None]),
            (Key::Up, [Some(Action::Move(-1)), Some(Action::Move(-1)), None, None]),
            (Key::Char('j'), [Some(Action::Move(1)), Some(Action::Move(1)), None, None]),
            (Key::PageDown, [Some(Action::Page(1)), Some(Action::Page(1)), None, None]),
            (Key::Char('g'), [Some(Action::Top), Some(Action::Top), None, None]),
            (Key::Char('G'), [Some(Action::Bottom), Some(Action::Bottom), None, None]),
            (Key::Char('?'), [Some(Action::Help), Some(Action::Help), Some(Action::Help), None]),
            (Key::Char('o'), [Some(Action::Order), Some(Action::Order), None, None]),
            (Key::Char('r'), [Some(Action::Restart), Some(Action::Restart), None, None]),
            (Key::Char('p'), [Some(Action::Pause), Some(Action::Pause), None, None]),
            (Key::Char('s'), [Some(Action::Stop), Some(Action::Stop), None, None]),
            (Key::Char('y'), [None, None, None, Some(Action::Yes)]),
            (Key::Char('n'), [None, None, None, Some(Action::No)]),
            (Key::Right, [Some(Action::Open), Some(Action::Open), None, Some(Action::Span(1))]),
            (Key::Char('é'), [None; 4]),
        ] {
            for (mode, expected) in
                [(List, list), (Alone, alone), (Help, help), (Question, question)]
            {
                assert_eq!(action(mode, key), expected, "{key:?} in {mode:?}");
            }
        }
    }

    proptest! {
        /// Whatever is typed: no panic, and nothing is kept for ever.
        #[test]
        fn noise_is_survived(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let mut keys = Keys::default();
            for piece in pieces {
                keys.feed(&piece);
                prop_assert!(keys.0.len() <= LONGEST);
            }
        }
    }
}
