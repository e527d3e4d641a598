//! One value of a file: its type, its bounds, and how it is told if it does not fit.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use osps_heart::pulse::LIMIT_MAX;
use osps_heart::words::HeartSource;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::keys::{Key, Kind};
use super::look::Who;
use super::problem::{Notes, quoted};
use super::variables::Variables;
use super::{is_name, name_rule, texts, time};
use crate::policy::restart::{INTENSITY_MAX, Intensity};
use crate::prober::target::Target;
use crate::report::store::NOWHERE;
use crate::service::launch::{Limit, Resource, UNIX, UNLIMITED};
use crate::service::manner::word;
use crate::service::{Address, HeartChoice, Reload};

/// Most bytes of the path of a unix socket: the kernel has room for one more, which is zero.
const SOCKET_PATH_MAX: usize = 107;
/// Most mode bits.
const MASK_MAX: u32 = 0o777;

/// A part of a value, and where it stands.
pub(super) type Part<T> = (usize, T);

/// A sound value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Flag(bool),
    Count(u64),
    Time(Duration),
    Choice(&'static str),
    Text(String),
    Path(PathBuf),
    Paths(Vec<Part<PathBuf>>),
    Command(Vec<OsString>),
    Addresses(Vec<Part<Address>>),
    Names(Vec<Part<String>>),
    Statuses(Vec<i32>),
    Variables(Variables),
    Limits(Vec<Limit>),
    Owner(Who),
    Mask(u32),
    Signal(Signal),
    Intensity(Intensity),
    Heart(HeartChoice),
    Reload(Reload),
}

/// What the arguments of a command are when they are shown: they may hold secrets.
fn command_shown(command: &[OsString]) -> String {
    let program = command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    match command.len().saturating_sub(1) {
        0 => program.into_owned(),
        1 => format!("{program} and an argument"),
        more => format!("{program} and {more} arguments"),
    }
}

impl Value {
    /// As `osps check` shows it: without arguments and values of variables.
    pub(super) fn shown(&self) -> String {
        fn all<T>(parts: &[T], show: impl Fn(&T) -> String) -> String {
            parts.iter().map(show).collect::<Vec<_>>().join(", ")
        }
        match self {
            Value::Flag(flag) => flag.to_string(),
            Value::Count(number) => number.to_string(),
            Value::Time(span) => time(*span),
            Value::Choice(word) => (*word).to_owned(),
            Value::Text(text) => text.clone(),
            Value::Path(path) => path.to_string_lossy().into_owned(),
            Value::Paths(paths) => all(paths, |(_, path)| path.to_string_lossy().into_owned()),
            Value::Command(command) | Value::Reload(Reload::Command(command)) => {
                command_shown(command)
            }
            Value::Addresses(addresses) => all(addresses, |(_, address)| address.to_string()),
            Value::Names(names) => all(names, |(_, name)| name.clone()),
            Value::Statuses(statuses) => all(statuses, i32::to_string),
            Value::Variables(variables) => {
                variables.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            }
            Value::Limits(limits) => all(limits, |limit| {
                let bound =
                    |bound: Option<u64>| bound.map_or(UNLIMITED.to_owned(), |n| n.to_string());
                format!("{} {} {}", limit.resource.word(), bound(limit.soft), bound(limit.hard))
            }),
            Value::Owner(Who::Name(name)) => name.clone(),
            Value::Owner(Who::Number(number)) => number.to_string(),
            Value::Mask(bits) => format!("{bits:03o}"),
            Value::Signal(signal) | Value::Reload(Reload::Signal(signal)) => {
                word(*signal).to_owned()
            }
            Value::Intensity(Intensity { restarts, period }) => {
                format!("{restarts}/{}", time(*period))
            }
            Value::Heart(heart) => match Target::parse(&heart.text) {
                Ok(Target::Command(command)) => format!("probe:{}", command_shown(&command)),
                _ => heart.text.to_string_lossy().into_owned(),
            },
        }
    }
}

/// Reads the values of one table.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// The directory that relative paths begin with.
    pub(super) base: &'a Path,
    /// What was wrong so far.
    pub(super) notes: &'a mut Notes,
}

/// What a value is, as it is told.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => format!("the integer {}", shortened(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", shortened(number.as_str())),
        DeValue::Boolean(flag) => flag.to_string(),
        other => kind(other).to_owned(),
    }
}

/// The digits of a number as far as anybody reads them.
fn shortened(digits: &str) -> String {
    digits.chars().take(40).collect()
}

/// The type of a value alone.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn integer(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl Reader<'_> {
    /// The value of a key, which is called `path` where it is told; `None` = it was refused.
    pub(super) fn value(
        &mut self,
        key: &'static Key,
        path: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Value> {
        let at = value.span().start;
        let before = self.notes.count();
        let read = self.read(key, path, value);
        // What says no more is of another type or form.
        if read.is_none() && self.notes.count() == before {
            // Variables may be secrets, also where they are no table.
            let found = match key.kind {
                Kind::Variables => kind(value.get_ref()).to_owned(),
                _ => found(value.get_ref()),
            };
            let mut text = format!("found {found}, expected {}", key.expected);
            text += &self.meant(key, value.get_ref());
            self.notes.add(at, path, text);
        }
        read.filter(|_| self.notes.count() == before)
    }

    /// What somebody may have meant.
    fn meant(&self, key: &Key, value: &DeValue<'_>) -> String {
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => return String::new(),
        };
        let numeric = text.parse::<f64>().is_ok_and(|number| number >= 0.0 && number.is_finite());
        match key.kind {
            Kind::Time(_) if numeric && text.len() < 20 => {
                format!(" (did you mean \"{text}s\"?)")
            }
            Kind::Choice(words) => self.notes.hint(&text, words.iter().copied()),
            Kind::Heart => {
                let words = HeartSource::ALL.map(HeartSource::word);
                self.notes.hint(&text, words)
            }
            _ => String::new(),
        }
    }

    /// Reads a value. `None` without a note = it is of another form than the key expects.
    fn read(
        &mut self,
        key: &'static Key,
        path: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Value> {
        let at = value.span().start;
        let value = value.get_ref();
        let text = || match value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        };
        if text().is_some_and(|text| text.contains('\0')) {
            self.notes.add(at, path, "a zero byte cannot be in it");
            return None;
        }
        Some(match key.kind {
            Kind::Flag => Value::Flag(value.as_bool()?),
            Kind::Count(least, most) => {
                let number = integer(value.as_integer()?)?;
                Value::Count(Some(number).filter(|number| (least..=most).contains(number))?)
            }
            Kind::Time(least) => Value::Time(self.time(path, at, text()?, least)?),
            Kind::Choice(words) => {
                let text = text()?;
                Value::Choice(words.iter().find(|word| **word == text)?)
            }
            Kind::Name(most) => {
                let name = text()?;
                if !is_name(name, most) {
                    let rule = name_rule(most);
                    self.notes.add(at, path, format!("found {}, expected {rule}", quoted(name)));
                }
                Value::Text(name.to_owned())
            }
            Kind::Text => Value::Text(Some(text()?).filter(|text| !text.is_empty())?.to_owned()),
            Kind::Store if text()? == NOWHERE => Value::Path(NOWHERE.into()),
            Kind::Path | Kind::Store => Value::Path(self.path(text()?)?),
            Kind::Paths => {
                let parts = self.parts((path, at), value, key.expected)?;
                let paths = parts.into_iter().map(|(at, text)| Some((at, self.path(&text)?)));
                Value::Paths(paths.collect::<Option<_>>()?)
            }
            Kind::Command => Value::Command(self.command(path, at, value, key.expected)?),
            Kind::Addresses => {
                let parts = self.parts((path, at), value, key.expected)?;
                let read = |(at, text): Part<String>| Some((at, self.address(path, at, &text)?));
                Value::Addresses(parts.into_iter().filter_map(read).collect())
            }
            Kind::Names => {
                value.as_array()?;
                Value::Names(self.parts((path, at), value, key.expected)?)
            }
            Kind::Statuses => {
                let mut statuses = Vec::new();
                for item in value.as_array()? {
                    let number = item.get_ref().as_integer().and_then(integer);
                    match number.and_then(|number| u8::try_from(number).ok()) {
                        Some(status) => statuses.push(i32::from(status)),
                        None => self.refuse_part(path, item, key.expected),
                    }
                }
                statuses.sort_unstable();
                statuses.dedup();
                Value::Statuses(statuses)
            }
            Kind::Variables => Value::Variables(self.variables(path, value.as_table()?)),
            Kind::Limits => Value::Limits(self.limits(path, value.as_table()?)),
            Kind::Owner => Value::Owner(match value {
                DeValue::Integer(number) => Who::Number(owner(integer(number)?)?),
                _ => match text()? {
                    "" => return None,
                    digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                        Who::Number(owner(digits.parse().ok()?)?)
                    }
                    name => Who::Name(name.to_owned()),
                },
            }),
            Kind::Mask => {
                let digits = text()?;
                let octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
                let bits = u32::from_str_radix(digits, 8).ok().filter(|_| octal)?;
                Value::Mask(Some(bits).filter(|bits| *bits <= MASK_MAX)?)
            }
            Kind::Signal => Value::Signal(texts::signal(text()?).ok()?),
            Kind::Intensity => {
                let intensity = texts::intensity(text()?).ok()?;
                if intensity.restarts > INTENSITY_MAX
                    || intensity.period.is_zero()
                    || intensity.period > LIMIT_MAX
                {
                    let most = time(LIMIT_MAX);
                    let rule = format!(
                        "found {}, expected at most {INTENSITY_MAX} restarts, within a time above \
                         zero and up to {most}",
                        quoted(text()?)
                    );
                    self.notes.add(at, path, rule);
                }
                Value::Intensity(intensity)
            }
            Kind::Heart => Value::Heart(self.heart(path, at, text()?)?),
            Kind::Reload => Value::Reload(match value {
                DeValue::Array(_) => {
                    Reload::Command(self.command(path, at, value, key.expected)?)
                }
                _ => Reload::Signal(texts::signal(text()?).ok()?),
            }),
        })
    }

    fn refuse_part(&mut self, path: &str, part: &Spanned<DeValue<'_>>, expected: &str) {
        let text = format!("found {}, expected {expected}", found(part.get_ref()));
        self.notes.add(part.span().start, path, text);
    }

    fn time(&mut self, path: &str, at: usize, text: &str, least: Duration) -> Option<Duration> {
        let span = texts::duration(text).ok()?;
        let bound = if span < least {
            format!("at least {}", time(least))
        } else if span > LIMIT_MAX {
            format!("{} at most", time(LIMIT_MAX))
        } else {
            return Some(span);
        };
        self.notes.add(at, path, format!("found {}, expected {bound}", quoted(text)));
        None
    }

    /// A path, from the file's directory on.
    fn path(&self, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| self.base.join(text))
    }

    /// The strings of an array, or a single one.
    fn parts(
        &mut self,
        (path, at): (&str, usize),
        value: &DeValue<'_>,
        expected: &str,
    ) -> Option<Vec<Part<String>>> {
        let array = match value {
            DeValue::String(text) => return Some(vec![(at, text.to_string())]),
            DeValue::Array(array) => array,
            _ => return None,
        };
        let mut parts = Vec::new();
        for item in array {
            match item.get_ref() {
                DeValue::String(text) if text.contains('\0') => {
                    self.notes.add(item.span().start, path, "a zero byte cannot be in it");
                }
                DeValue::String(text) => parts.push((item.span().start, text.to_string())),
                _ => self.refuse_part(path, item, expected),
            }
        }
        Some(parts)
    }

    fn command(
        &mut self,
        path: &str,
        at: usize,
        value: &DeValue<'_>,
        expected: &str,
    ) -> Option<Vec<OsString>> {
        let before = self.notes.count();
        let words = if let DeValue::String(line) = value {
            let words = shell_words::split(line);
            words.map_err(|_| self.notes.add(at, path, "a quote stands open")).ok()?
        } else {
            let parts = self.parts((path, at), value, expected)?;
            parts.into_iter().map(|(_, word)| word).collect()
        };
        if self.notes.count() > before {
            return None;
        }
        if words.first().is_none_or(String::is_empty) {
            self.notes.add(at, path, "it is empty: a program to run is needed");
        }
        Some(words.into_iter().map(OsString::from).collect())
    }

    fn address(&mut self, path: &str, at: usize, text: &str) -> Option<Address> {
        let address = Address::parse(text);
        match &address {
            Some(Address::Unix(socket)) if socket.as_os_str().len() > SOCKET_PATH_MAX => {
                let most = format!("a socket's path of at most {SOCKET_PATH_MAX} bytes");
                self.notes.add(at, path, format!("found {}, expected {most}", quoted(text)));
            }
            Some(_) => {}
            None => {
                let hint = match text.strip_prefix(UNIX) {
                    Some(_) => "an absolute path behind unix:",
                    None => "an address like 127.0.0.1:80, [::1]:80 or unix:/PATH",
                };
                self.notes.add(at, path, format!("found {}, expected {hint}", quoted(text)));
            }
        }
        address
    }

    fn variables(&mut self, path: &str, table: &DeTable<'_>) -> Variables {
        let mut variables = Variables::new();
        for (name, value) in table {
            let path = format!("{path}.{}", name.get_ref());
            let wrong = match value.get_ref() {
                _ if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) => {
                    "a name has no `=` and no zero byte, and is not empty".to_owned()
                }
                DeValue::String(text) if text.contains('\0') => {
                    "a zero byte cannot be in it".to_owned()
                }
                DeValue::String(text) => {
                    variables.insert(name.get_ref().to_string(), text.to_string());
                    continue;
                }
                // Not the value itself: it may be a secret.
                other => format!("found {}, expected a string, in quotes", kind(other)),
            };
            self.notes.add(value.span().start, path, wrong);
        }
        variables
    }

    fn limits(&mut self, path: &str, table: &DeTable<'_>) -> Vec<Limit> {
        let mut limits = Vec::new();
        for (name, value) in table {
            let path = format!("{path}.{}", name.get_ref());
            let Some(resource) =
                Resource::ALL.into_iter().find(|known| known.word() == name.get_ref())
            else {
                let words = Resource::ALL.map(Resource::word);
                let near = self.notes.hint(name.get_ref(), words);
                let text = format!("no such resource{near}; known are {}", words.join(", "));
                self.notes.add(name.span().start, path, text);
                continue;
            };
            let bounds = match value.get_ref() {
                DeValue::Array(pair) => match pair.iter().collect::<Vec<_>>()[..] {
                    [soft, hard] => bound(soft.get_ref()).zip(bound(hard.get_ref())),
                    _ => None,
                },
                single => bound(single).map(|bound| (bound, bound)),
            };
            let Some((soft, hard)) = bounds else {
                let expected = "a number, \"unlimited\", or [soft, hard]";
                self.refuse_part(&path, value, expected);
                continue;
            };
            if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
                let text = "the soft limit is above the hard one; write [soft, hard]";
                self.notes.add(value.span().start, path, text);
                continue;
            }
            limits.push(Limit { resource, soft, hard });
        }
        limits
    }

    fn heart(&mut self, path: &str, at: usize, text: &str) -> Option<HeartChoice> {
        let mut heart = HeartChoice::parse(text.as_ref())?;
        if matches!(heart.source, HeartSource::File | HeartSource::Probe) {
            match Target::parse(&heart.text) {
                // Paths of a file begin with its directory, this one too.
                Ok(Target::File(file)) => {
                    heart.text = OsString::from("file:");
                    heart.text.push(self.base.join(file));
                }
                Ok(_) => {}
                Err(why) => {
                    self.notes.add(at, path, format!("found {}: {why}", quoted(text)));
                }
            }
        }
        Some(heart)
    }
}

/// A limit; within, `None` = unlimited.
#[allow(clippy::option_option, reason = "no limit, or none that is one")]
fn bound(value: &DeValue<'_>) -> Option<Option<u64>> {
    match value {
        // The largest number is what the kernel takes for none.
        DeValue::Integer(number) => integer(number).filter(|n| *n < u64::MAX).map(Some),
        DeValue::String(word) if word == UNLIMITED => Some(None),
        _ => None,
    }
}

/// The number of a user or a group. The last one means nobody to the kernel.
fn owner(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number != u32::MAX)
}
