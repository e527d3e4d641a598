//! Bytes that may be anything, as people and tools read them.
//!
//! Linux knows paths, arguments and process names as bytes. Where one is shown (log, status, JSON,
//! errors), text stays as it is, and what is no text is escaped, byte by byte: `\xff` for a byte
//! that is not UTF-8 or belongs to a control character, `\\` for a backslash. So a line stays a
//! line, a terminal does not obey a file name, and whoever undoes the two escapes has the bytes.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;

/// Shows a path or a word, whatever bytes it is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shown<T>(pub T);

impl<T: AsRef<OsStr>> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        };
        for chunk in self.0.as_ref().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => escape(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                    c => f.write_char(c)?,
                }
            }
            escape(f, chunk.invalid())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_bytes_are_escaped() {
        for (bytes, expected) in [
            (&b"/dev/shm/osps-0/default"[..], "/dev/shm/osps-0/default"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"caf\xe9/run", r"caf\xe9/run"),
            (b"\xe2\x82", r"\xe2\x82"),
            (b"a\\xffb", r"a\\xffb"),
            (b"two\nlines\x1b[2J\x7f", r"two\x0alines\x1b[2J\x7f"),
            ("\u{85}".as_bytes(), r"\xc2\x85"),
            (b"", ""),
        ] {
            assert_eq!(Shown(OsStr::from_bytes(bytes)).to_string(), expected);
        }
    }

    /// Different bytes never look the same.
    #[test]
    fn what_is_shown_can_be_undone() {
        let undone = |text: &str| {
            let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
            while let [first, more @ ..] = rest {
                let taken = match (first, more) {
                    (b'\\', [b'\\', ..]) => 1,
                    (b'\\', [b'x', digits @ ..]) => {
                        let digits = std::str::from_utf8(&digits[..2]).expect("ASCII");
                        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                        rest = &more[3..];
                        continue;
                    }
                    _ => 0,
                };
                bytes.push(*first);
                rest = &more[taken..];
            }
            bytes
        };
        for first in 0..=255u8 {
            for second in [0, b'\\', b'x', b'a', 0x80, 0xc3, 0xff] {
                let bytes = [first, second, b'x'];
                assert_eq!(undone(&Shown(OsStr::from_bytes(&bytes)).to_string()), bytes);
            }
        }
    }
}
