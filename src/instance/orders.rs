//! What a trampoline is to become, as it goes through its gate: a file in memory, so that it may be
//! as long as a command line may, and nobody waits for whoever is to read it.
//!
//! Texts that end with a zero byte, which no argument and no variable can hold: the number of
//! settings, those as `NAME=VALUE`, the number of variables, those likewise, then the command.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::sys::memory_file;

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// What is done before the program runs: names are in [`setting`]. One may be there more than
    /// once.
    pub settings: Vec<(OsString, OsString)>,
    /// What is set in its environment, beside what it inherits.
    pub env: Vec<(OsString, OsString)>,
    /// Program and arguments; never empty.
    pub command: Vec<OsString>,
}

/// Names of settings.
pub mod setting {
    /// The run directory, in which a share of `members` is taken. Without it, none is: the process
    /// is nobody's server.
    pub const MEMBER: &str = "member";
    /// The working directory.
    pub const DIRECTORY: &str = "directory";
    /// Mode bits that files never have, in octal digits.
    pub const UMASK: &str = "umask";
    /// A limit of a resource: its name, soft and hard limit, with blanks between them.
    pub const LIMIT: &str = "limit";
    /// The file to which output is appended.
    pub const LOG: &str = "log";
    /// User, group and further groups as numbers, with blanks between them.
    pub const USER: &str = "user";
    /// Names of the listening sockets, with colons between them.
    pub const NAMES: &str = "names";
}

impl Orders {
    /// Written down, for the gate.
    pub fn pack(&self) -> io::Result<OwnedFd> {
        let mut bytes = Vec::new();
        for pairs in [&self.settings, &self.env] {
            bytes.extend(pairs.len().to_string().into_bytes());
            bytes.push(0);
            for (name, value) in pairs {
                bytes.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
            }
        }
        for word in &self.command {
            bytes.extend_from_slice(word.as_bytes());
            bytes.push(0);
        }
        memory_file("osps orders", &bytes)
    }

    /// Read, behind the gate; `None` = it is no orders.
    pub fn unpack(file: OwnedFd) -> Option<Orders> {
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).ok()?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let mut texts = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let mut pairs = || {
            let count: usize = str::from_utf8(texts.next()?).ok()?.parse().ok()?;
            let mut pairs = Vec::new();
            for _ in 0..count {
                let entry = texts.next()?;
                let end = entry.iter().position(|byte| *byte == b'=')?;
                pairs.push((text(&entry[..end]), text(&entry[end + 1..])));
            }
            Some(pairs)
        };
        let (settings, env) = (pairs()?, pairs()?);
        let command: Vec<_> = texts.map(text).collect();
        (!command.is_empty()).then_some(Orders { settings, env, command })
    }

    /// The values of a setting, in their order.
    pub fn settings(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        let of = move |(known, _): &&(OsString, OsString)| *known == *name;
        self.settings.iter().filter(of).map(|(_, value)| value.as_os_str())
    }

    /// The value of a variable that is set.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        let found = self.env.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(1..=u8::MAX, 0..40), 1..20)
    }

    proptest! {
        #[test]
        fn any_bytes_go_through_the_gate(command in words(), values in words()) {
            let own = |bytes: Vec<u8>| OsString::from_vec(bytes);
            let name = |number: usize| OsString::from(format!("NAME{number}"));
            let env = values.into_iter().enumerate().map(|(i, value)| (name(i), own(value)));
            let env: Vec<_> = env.collect();
            let command = command.into_iter().map(own).collect();
            let orders = Orders { settings: env.clone(), env, command };
            let read = Orders::unpack(orders.pack().expect("memory"));
            prop_assert_eq!(read.as_ref(), Some(&orders));
            prop_assert_eq!(orders.value("NAME0"), Some(orders.env[0].1.as_os_str()));
            prop_assert!(orders.settings("NAME0").eq([orders.env[0].1.as_os_str()]));
        }
    }

    #[test]
    fn a_long_command_line_fits() {
        let orders = Orders { command: vec!["x".repeat(1 << 21).into()], ..Orders::default() };
        assert_eq!(Orders::unpack(orders.pack().expect("memory")), Some(orders));
    }
}
