//! `osps.toml`: a text becomes services, or everything that is wrong with it at once.
//!
//! Total and, but for what `Look` answers, pure. First every value is read by the table in `keys`;
//! then what is said of a service, in `[defaults]` and by default is put together, and looked at as
//! a whole: names, edges, addresses. A value that was refused is told once and has no follow-ups.
//! Tested in tests/config.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use osps_heart::pulse::Limits;
use osps_heart::words::HeartSource;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Kind, Preset, SLOTS, SLOTS_MAX, Stands};
use super::look::{Look, Who};
use super::problem::{Lines, Notes, Problems, quoted};
use super::value::{Part, Reader, Value};
use super::variables::{self, Variables};
use super::{is_name, name_rule, programs_patience};
use crate::policy::restart::{Restart, Rule};
use crate::prober::target::Target;
use crate::service::launch::{Limit, User};
use crate::service::{
    Address, HeartChoice, KillMode, Launch, Manner, NAME_MAX, Needs, Reload, Service, StackChoice,
};

/// Most bytes of a file. Two hundred services with everything said take a tenth of it.
pub const FILE_MAX: usize = 1 << 20;
/// Most bytes of a file of variables; the kernel takes no single longer one.
pub const VARIABLES_MAX: usize = 128 << 10;
/// Most addresses of a service: its sockets travel in one message, which has room for 253.
pub const LISTEN_MAX: usize = 32;
/// Most circles that are told.
const CYCLES_MAX: usize = 10;

/// What a file says of the instance as a whole. `None` = nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: Option<String>,
    /// Its run directory.
    pub run_dir: Option<PathBuf>,
    /// Where reports of hangs are kept; `none` = nowhere.
    pub report_dir: Option<PathBuf>,
    /// Longest time between two checks.
    pub check_interval: Option<Duration>,
    /// How long services outlive their watchdog.
    pub orphan_timeout: Option<Duration>,
    /// Whether to tell only what went wrong.
    pub quiet: Option<bool>,
    /// Slots of the instance: the services fit.
    pub slots: usize,
}

/// Where a value comes from; lines count from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The service itself says it, in this line.
    Service(usize),
    /// `[defaults]` say it, in this line.
    Defaults(usize),
    /// Nobody says it.
    Default,
}

/// One key of a service as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: &'static str,
    /// Its value for people: without arguments of commands and values of variables.
    pub shown: String,
    /// Who said so.
    pub origin: Origin,
}

/// A service as the file has it, with all its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name in the file.
    pub name: String,
    /// The place of its first instance in the list of services.
    pub first: usize,
    /// How many instances it has.
    pub instances: usize,
    /// Others that it starts after, by their places in the list of families.
    pub after: Vec<usize>,
    /// Every key in effect, in the order of the table.
    pub entries: Vec<Entry>,
}

/// A sound file.
#[derive(Clone, Debug)]
pub struct File {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The instance as a whole.
    pub instance: Instance,
    /// One for each instance of a service, in the order of the file.
    pub services: Vec<Service>,
    /// The services as they stand in the file.
    pub families: Vec<Family>,
}

/// Reads and parses a file.
pub fn load(path: &Path, look: &dyn Look) -> Result<File, Problems> {
    let whole = |text| Problems::whole(path, text);
    let bytes = look.read(path, FILE_MAX as u64).map_err(|error| whole(answer(&error)))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let good = String::from_utf8_lossy(&error.as_bytes()[..good]);
        whole(format!("it is no UTF-8 text, see line {}", good.matches('\n').count() + 1))
    })?;
    parse(path, &text, look)
}

/// The kernel's answer without its number.
fn answer(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Parses a file of services: all of them, or all that is wrong.
pub fn parse(path: &Path, text: &str, look: &dyn Look) -> Result<File, Problems> {
    if text.len() > FILE_MAX {
        let size = format!("it has more than {FILE_MAX} bytes (1 MiB), which is no configuration");
        return Err(Problems::whole(path, size));
    }
    let base = look.here().join(path.parent().unwrap_or(Path::new("")));
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut notes = Notes::default();
    let lines = Lines::of(text);
    let mut broken = BTreeSet::new();
    for error in &errors {
        let span = error.span().unwrap_or_default();
        // One slip a line: the rest follows from the first. So does every line within an array or
        // a table that somebody forgot to close.
        let inside = ["in array", "array elements", "in inline table", "table elements"];
        let follows = inside.iter().any(|words| error.message().contains(words));
        if broken.insert(lines.line(span.start)) && !(follows && broken.len() > 1) {
            let about = text.get(span.clone()).unwrap_or_default();
            notes.add(span.start, "", syntax(error.message(), about));
        }
    }
    let mut read = Notes::default();
    let reader = &mut Reader { base: &base, notes: &mut read };
    let said = Said::read(document.get_ref(), reader, text.len());
    // A line that is no TOML has been told, and what follows it may seem to stand at the top.
    read.retain(|at, key| {
        let line = lines.line(at);
        let in_table = key.contains('.') || broken.first().is_none_or(|first| line < *first);
        !broken.contains(&line) && in_table
    });
    notes.append(read);
    // What is missing or wrong as a whole may stand where the text is broken.
    if !errors.is_empty() {
        return Err(notes.placed(path, text));
    }
    let whole = Whole { said: &said, look, notes, users: BTreeMap::new(), files: BTreeMap::new() };
    whole.file(path, &lines).map_err(|notes| notes.placed(path, text))
}

/// A message of the TOML parser, with the text it is about where that says more.
fn syntax(message: &str, about: &str) -> String {
    if message == "duplicate key" { format!("`{about}` stands here again") } else { message.into() }
}

/// A value and where it stands.
#[derive(Debug)]
struct Placed {
    /// `None` = it was refused.
    value: Option<Value>,
    at: usize,
}

/// What one table says.
type Table = BTreeMap<&'static str, Placed>;

/// A service as its own table has it.
#[derive(Debug)]
struct Draft {
    name: String,
    at: usize,
    table: Table,
}

/// All that a file says, value by value.
#[derive(Debug)]
struct Said {
    top: Table,
    defaults: Table,
    presets: Table,
    /// In the order of the file.
    drafts: Vec<Draft>,
    /// Where the file ends.
    end: usize,
    /// There was something that meant to be a service.
    services_refused: bool,
}

/// Which table is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Top,
    Defaults,
    Service,
}

/// The tables at the top.
const SERVICE: &str = "service";
const DEFAULTS: &str = "defaults";

impl Said {
    fn read(document: &DeTable<'_>, reader: &mut Reader<'_>, end: usize) -> Said {
        let mut top = Table::new();
        let mut defaults = Table::new();
        let mut drafts = Vec::new();
        for (name, value) in document {
            let at = value.span().start;
            match (name.get_ref().as_ref(), value.get_ref()) {
                (DEFAULTS, DeValue::Table(table)) => {
                    read_table(table, DEFAULTS, Room::Defaults, reader, &mut defaults);
                }
                (SERVICE, DeValue::Table(table)) => {
                    for (name, value) in table {
                        drafts.extend(Draft::read(name, value, reader));
                    }
                }
                (DEFAULTS, _) => reader.notes.add(at, DEFAULTS, "expected a table, [defaults]"),
                (SERVICE, _) => {
                    reader.notes.add(at, SERVICE, "expected tables, [service.NAME]");
                }
                _ => read_key(name, value, "", Room::Top, reader, &mut top),
            }
        }
        drafts.sort_by_key(|draft| draft.at);
        let is_more = |value: &DeValue<'_>| value.as_table().is_none_or(|all| !all.is_empty());
        let services_refused = document
            .iter()
            .any(|(name, value)| name.get_ref() == SERVICE && is_more(value.get_ref()));
        Said { top, defaults, presets: presets(), drafts, end, services_refused }
    }
}

impl Draft {
    fn read(
        name: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) -> Option<Draft> {
        let (at, name) = (name.span().start, name.get_ref().to_string());
        let path = format!("{SERVICE}.{name}");
        if !is_name(&name, NAME_MAX) {
            let rule = format!("no name of a service, expected {}", name_rule(NAME_MAX));
            reader.notes.add(at, path.as_str(), rule);
        }
        let DeValue::Table(values) = value.get_ref() else {
            let meant = match Key::named(&name) {
                Some(key) if key.is_services() => {
                    format!(": `{name}` is a key of a service, say [service.NAME] above it")
                }
                _ => String::new(),
            };
            let text = format!("expected a table, [service.NAME]{meant}");
            reader.notes.add(value.span().start, path, text);
            return None;
        };
        let mut table = Table::new();
        read_table(values, &path, Room::Service, reader, &mut table);
        Some(Draft { name, at, table })
    }
}

fn read_table(
    table: &DeTable<'_>,
    path: &str,
    room: Room,
    reader: &mut Reader<'_>,
    into: &mut Table,
) {
    for (name, value) in table {
        read_key(name, value, path, room, reader, into);
    }
}

fn read_key(
    name: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    room: Room,
    reader: &mut Reader<'_>,
    into: &mut Table,
) {
    let (at, name) = (name.span().start, name.get_ref().as_ref());
    let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let Some(key) = Key::named(name) else {
        let may = |key: &&Key| key.is_services() != (room == Room::Top);
        let tables = [SERVICE, DEFAULTS].into_iter().filter(|_| room == Room::Top);
        let known = KEYS.iter().filter(may).map(|key| key.name).chain(tables);
        let near = reader.notes.hint(name, known);
        reader.notes.add(at, path, format!("no such key{near}"));
        return;
    };
    let misplaced = match (room, key.stands) {
        (Room::Top, Stands::Both) => "it belongs into [defaults] or a [service.NAME]".to_owned(),
        (Room::Top, Stands::Service(_)) => "it belongs into a [service.NAME]".to_owned(),
        (Room::Defaults | Room::Service, Stands::Top) => {
            "it belongs to the top of the file, above all tables".to_owned()
        }
        (Room::Defaults, Stands::Service(why)) => format!("not in [defaults]: {why}"),
        _ => {
            let at = value.span().start;
            let value = reader.value(key, &path, value);
            into.insert(key.name, Placed { value, at });
            return;
        }
    };
    reader.notes.add(at, path, misplaced);
}

/// The defaults of all keys, read like a file.
fn presets() -> Table {
    let mut notes = Notes::default();
    let reader = &mut Reader { base: Path::new(""), notes: &mut notes };
    let mut table = Table::new();
    for key in &KEYS {
        if let Preset::Value(text) = key.preset
            && let Ok(value) = DeValue::parse(text)
        {
            let value = reader.value(key, key.name, &value);
            table.insert(key.name, Placed { value, at: 0 });
        }
    }
    assert!(notes.is_empty(), "a default is a sound value");
    table
}

/// A key in effect.
struct Found<'a> {
    value: &'a Value,
    at: usize,
    /// As it is told.
    path: String,
}

/// Looks a key up: in the service, in the defaults of the file, in those of osps.
#[derive(Clone, Copy)]
struct Effective<'a> {
    said: &'a Said,
    draft: &'a Draft,
}

impl<'a> Effective<'a> {
    fn name(self) -> &'a str {
        &self.draft.name
    }

    /// What the file says, and whether the service itself does.
    fn said(self, key: &str) -> Option<(&'a Placed, bool)> {
        let own = self.draft.table.get(key).map(|placed| (placed, true));
        own.or_else(|| self.said.defaults.get(key).map(|placed| (placed, false)))
    }

    /// Whether it was said and refused: then nothing that follows from it is told.
    fn is_refused(self, key: &str) -> bool {
        self.said(key).is_some_and(|(placed, _)| placed.value.is_none())
    }

    fn find(self, key: &str) -> Option<Found<'a>> {
        if let Some((Placed { value: Some(value), at }, own)) = self.said(key) {
            let table =
                if own { format!("{SERVICE}.{}", self.name()) } else { DEFAULTS.to_owned() };
            return Some(Found { value, at: *at, path: format!("{table}.{key}") });
        }
        let value = self.said.presets.get(key)?.value.as_ref()?;
        Some(Found { value, at: self.draft.at, path: format!("{SERVICE}.{}", self.name()) })
    }

    /// The values of both tables, those of the defaults first: they are put together.
    fn both(self, key: &str) -> impl Iterator<Item = &'a Value> {
        let tables = [&self.said.defaults, &self.draft.table];
        let placed: Vec<_> = tables.into_iter().filter_map(|table| table.get(key)).collect();
        placed.into_iter().filter_map(|placed| placed.value.as_ref())
    }
}

/// Declares accessors by type. A key of another type is our own slip, and reads as if not said.
macro_rules! accessors {
    ($($name:ident: $variant:ident => $type:ty;)+) => {
        impl<'a> Effective<'a> {
            $(fn $name(self, key: &str) -> Option<&'a $type> {
                match self.find(key).map(|found| found.value) {
                    Some(Value::$variant(value)) => Some(value),
                    _ => None,
                }
            })+
        }
    };
}

accessors! {
    flag: Flag => bool;
    count: Count => u64;
    time: Time => Duration;
    choice: Choice => &'static str;
    text: Text => String;
    path: Path => PathBuf;
    command: Command => Vec<OsString>;
    statuses: Statuses => Vec<i32>;
    mask: Mask => u32;
    signal: Signal => Signal;
    intensity: Intensity => crate::policy::restart::Intensity;
    heart: Heart => HeartChoice;
    reload: Reload => Reload;
}

impl<'a> Effective<'a> {
    fn parts<T: Clone>(
        self,
        key: &str,
        of: impl Fn(&Value) -> Option<&Vec<Part<T>>>,
    ) -> Vec<Part<T>> {
        self.find(key).and_then(|found| of(found.value).cloned()).unwrap_or_default()
    }

    fn addresses(self) -> Vec<Part<Address>> {
        self.parts("listen", |value| match value {
            Value::Addresses(parts) => Some(parts),
            _ => None,
        })
    }

    fn names(self, key: &str) -> Vec<Part<String>> {
        self.parts(key, |value| match value {
            Value::Names(parts) => Some(parts),
            _ => None,
        })
    }

    fn owner(self, key: &str) -> Option<(&'a Who, Found<'a>)> {
        let found = self.find(key)?;
        match found.value {
            Value::Owner(who) => Some((who, found)),
            _ => None,
        }
    }
}

/// The file as a whole.
struct Whole<'a> {
    said: &'a Said,
    look: &'a dyn Look,
    notes: Notes,
    /// What was looked up already.
    users: BTreeMap<Who, Result<Option<User>, String>>,
    files: BTreeMap<PathBuf, (Variables, Vec<String>)>,
}

/// One service before its instances are told apart.
struct Member<'a> {
    effective: Effective<'a>,
    service: Service,
    instances: usize,
    /// Those that it starts after, and where that is said.
    after: BTreeMap<usize, (usize, String)>,
}

impl Member<'_> {
    fn names(&self) -> impl Iterator<Item = String> + '_ {
        let name = &self.service.family;
        (1..=self.instances).map(move |number| match self.instances {
            1 => name.clone(),
            _ => format!("{name}-{number}"),
        })
    }
}

impl<'a> Whole<'a> {
    fn file(mut self, path: &Path, lines: &Lines) -> Result<File, Notes> {
        let said = self.said;
        let Some(slots) = self.room() else { return Err(self.notes) };
        let members = said.drafts.iter().map(|draft| self.member(Effective { said, draft }));
        let mut members: Vec<_> = members.collect();
        self.settle_edges(&mut members);
        self.refuse_cycles(&members);
        self.refuse_shared_addresses(&members);
        if !self.notes.is_empty() {
            return Err(self.notes);
        }
        let mut services = Vec::new();
        let mut families = Vec::new();
        for member in members {
            families.push(Family {
                name: member.service.family.clone(),
                first: services.len(),
                instances: member.instances,
                after: member.after.keys().copied().collect(),
                entries: entries(member.effective, lines),
            });
            for name in member.names() {
                services.push(Service { name, ..member.service.clone() });
            }
        }
        Ok(File { path: path.to_owned(), instance: instance(&said.top, slots), services, families })
    }

    /// The slots, if the services fit: what follows need not look at more than there may be.
    fn room(&mut self) -> Option<usize> {
        let said = self.said;
        let placed = said.top.get("slots");
        let slots = match placed {
            None => SLOTS,
            Some(Placed { value: Some(Value::Count(slots)), .. }) => *slots,
            Some(_) => SLOTS_MAX,
        };
        let needed = |draft| *Effective { said, draft }.count("instances").unwrap_or(&1);
        let needed: u64 = said.drafts.iter().map(needed).sum();
        if said.drafts.is_empty() && !said.services_refused {
            self.notes.add(
                said.end,
                "",
                "no service is in it; write [service.NAME] with a command",
            );
        }
        if needed > slots {
            let advice = if needed > SLOTS_MAX {
                format!("an instance has {SLOTS_MAX} at most: take several files with a name each")
            } else {
                format!("say slots = {needed} or more")
            };
            let at = placed.map_or(0, |placed| placed.at);
            let text = format!("{needed} services do not fit into {slots} slots; {advice}");
            self.notes.add(at, "slots", text);
            if needed > SLOTS_MAX {
                return None;
            }
        }
        usize::try_from(slots).ok()
    }

    fn member(&mut self, effective: Effective<'a>) -> Member<'a> {
        let second = Duration::from_secs(1);
        let span = |key| *effective.time(key).unwrap_or(&second);
        let (hang, start) = (span("hang-timeout"), span("start-timeout"));
        let patience = programs_patience(hang, span("stop-timeout"));
        let launch = self.launch(effective);
        let name = effective.name().to_owned();
        let mut service = Service::program(name, launch, Limits { hang, start }, patience);
        service.manner = self.manner(effective, &service.launch);
        service.rule = rule(effective);
        service.reload = effective.reload("reload").cloned();
        service.on_event = effective.command("on-event").cloned().unwrap_or_default();
        let instances = effective.count("instances").copied().unwrap_or(1);
        let instances = usize::try_from(instances).unwrap_or(1);
        Member { effective, service, instances, after: BTreeMap::new() }
    }

    fn launch(&mut self, effective: Effective<'_>) -> Launch {
        let path = format!("{SERVICE}.{}", effective.name());
        if effective.said("command").is_none() {
            self.notes.add(effective.draft.at, path.as_str(), "it has no `command`");
        }
        let listen: Vec<_> = effective.addresses().into_iter().map(|(_, each)| each).collect();
        if listen.len() > LISTEN_MAX {
            let at = effective.find("listen").map_or(0, |found| found.at);
            let text = format!("found {} addresses, expected {LISTEN_MAX} at most", listen.len());
            self.notes.add(at, format!("{path}.listen"), text);
        }
        let mut limits: Vec<Limit> = Vec::new();
        for value in effective.both("limits") {
            let Value::Limits(more) = value else { continue };
            limits.retain(|limit| more.iter().all(|other| other.resource != limit.resource));
            limits.extend(more);
        }
        Launch {
            command: effective.command("command").cloned().unwrap_or_default(),
            directory: effective.path("directory").cloned(),
            env: self.variables(effective),
            user: self.user(effective),
            umask: effective.mask("umask").copied(),
            limits,
            listen,
            log: effective.path("log").cloned(),
        }
    }

    /// The files of variables, then those of `[defaults]`, then the service's own.
    fn variables(&mut self, effective: Effective<'_>) -> Vec<(OsString, OsString)> {
        let mut all = Variables::new();
        if let Some(Found { value: Value::Paths(paths), path, .. }) = effective.find("env-file") {
            for (at, file) in paths {
                let (variables, wrong) = self.file_of_variables(file);
                all.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
                for text in wrong.clone() {
                    self.notes.add(*at, path.as_str(), text);
                }
            }
        }
        for value in effective.both("env") {
            if let Value::Variables(variables) = value {
                all.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        all.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn file_of_variables(&mut self, file: &Path) -> &(Variables, Vec<String>) {
        let look = self.look;
        self.files.entry(file.to_owned()).or_insert_with(|| {
            let shown = file.display();
            let mut variables = Variables::new();
            let wrong = match look.read(file, VARIABLES_MAX as u64) {
                Err(error) => vec![format!("{shown}: {}", answer(&error))],
                Ok(bytes) if bytes.len() > VARIABLES_MAX => {
                    vec![format!("{shown}: it has more than {VARIABLES_MAX} bytes")]
                }
                Ok(bytes) => match std::str::from_utf8(&bytes) {
                    Err(_) => vec![format!("{shown}: it is no UTF-8 text")],
                    Ok(text) => variables::read(text, &mut variables)
                        .into_iter()
                        .map(|(line, why)| format!("{shown}:{line}: {why}"))
                        .collect(),
                },
            };
            (variables, wrong)
        })
    }

    fn user(&mut self, effective: Effective<'_>) -> Option<User> {
        let group = effective.owner("group");
        let Some((who, found)) = effective.owner("user") else {
            if let Some((_, found)) = group.filter(|_| !effective.is_refused("user")) {
                let text = format!("service {} has no `user`; say that as well", effective.name());
                self.notes.add(found.at, found.path, text);
            }
            return None;
        };
        if !self.look.is_root() {
            let text =
                "only root may give a service another user; take it out, or run osps as root";
            self.notes.add(found.at, found.path, text);
            return None;
        }
        let look = self.look;
        let known = self.users.entry(who.clone());
        let known = known.or_insert_with(|| look.user(who).map_err(|error| answer(&error))).clone();
        let gid = group.and_then(|(who, found)| match who {
            Who::Number(number) => Some(*number),
            Who::Name(name) => {
                let gid = look.group(name).map_err(|error| answer(&error));
                let gid = gid.and_then(|gid| gid.ok_or_else(|| format!("no such group: {name}")));
                gid.map_err(|why| self.notes.add(found.at, found.path, why)).ok()
            }
        });
        let user = match (known, who) {
            (Ok(Some(user)), _) => Ok(User { gid: gid.unwrap_or(user.gid), ..user }),
            // A number needs no name.
            (Ok(None), Who::Number(uid)) => match gid {
                Some(gid) => Ok(User { uid: *uid, gid, groups: vec![gid], known: None }),
                None if effective.is_refused("group") => return None,
                None => Err(format!("user {uid} has no name and no group; say `group` as well")),
            },
            (Ok(None), Who::Name(name)) => Err(format!("no such user: {name}")),
            (Err(why), _) => Err(why),
        };
        user.map_err(|why| self.notes.add(found.at, found.path, why)).ok()
    }

    fn manner(&mut self, effective: Effective<'_>, launch: &Launch) -> Manner {
        let standard = Manner::default();
        let mut heart = effective.heart("heart").cloned().unwrap_or(standard.heart);
        heart.process = effective.text("heart-process").cloned();
        if let Some(found) = effective.find("heart-process")
            && !heart.is_looped()
            && !effective.is_refused("heart")
        {
            let text = format!(
                "only event loops are watched by the name of a process: say heart = \"loop\" or \
                 \"loops\" as well (service {})",
                effective.name()
            );
            self.notes.add(found.at, found.path, text);
        }
        if let Some(found) = effective.find("heart") {
            let port = |address: &Address| match address {
                Address::Tcp(address) => Some(address.port()),
                Address::Unix(_) => None,
            };
            let held = |wanted| launch.listen.iter().filter_map(port).any(|port| port == wanted);
            let other = launch.user.as_ref().is_some_and(|user| user.uid != 0);
            let why = match heart.source {
                HeartSource::Memory if other => {
                    "only osps's own user can beat in memory, since the run directory is private; \
                     say notify, loop, probe or file"
                }
                HeartSource::Probe => match Target::parse(&heart.text) {
                    Ok(Target::Tcp { port, .. }) if held(port) => {
                        "osps itself listens there for the service, so a connection is made \
                         whoever is frozen: probe with http:// or a command"
                    }
                    _ => "",
                },
                _ => "",
            };
            if !why.is_empty() {
                let text = format!("{why} (service {})", effective.name());
                self.notes.add(found.at, found.path, text);
            }
        }
        Manner {
            heart,
            warn: effective.choice("on-hang") == Some(&"warn"),
            stop_signal: effective.signal("stop-signal").copied().unwrap_or(standard.stop_signal),
            kill_mode: match effective.choice("kill-mode") {
                Some(&"group") => KillMode::Group,
                _ => standard.kill_mode,
            },
            stacks: StackChoice::new(
                effective.flag("stacks").copied(),
                effective.command("stack-command").cloned(),
                effective.time("report-limit").copied(),
            ),
        }
    }

    /// Turns names into edges.
    fn settle_edges(&mut self, members: &mut [Member<'_>]) {
        let mut known: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
        for (index, member) in members.iter().enumerate() {
            let names: Vec<_> = member.names().collect();
            known.insert(member.service.family.clone(), (index, names));
        }
        for (index, member) in members.iter().enumerate().filter(|(_, each)| each.instances > 1) {
            for name in member.names() {
                self.check_instance(
                    &name,
                    member.effective,
                    known.get(&name).map(|entry| {
                        members.get(entry.0).map_or("", |member| member.effective.name())
                    }),
                );
                known.entry(name.clone()).or_insert_with(|| (index, vec![name]));
            }
        }
        let ends: Vec<_> = members
            .iter()
            .map(|each| {
                each.service.rule.restart != Restart::Always || each.effective.is_refused("restart")
            })
            .collect();
        for member in members.iter_mut() {
            let mut needs = Needs::default();
            for key in ["depends-on", "restart-with"] {
                let path = format!("{SERVICE}.{}.{key}", member.effective.name());
                let mut seen = BTreeSet::new();
                for (at, text) in member.effective.names(key) {
                    if !seen.insert(text.clone()) {
                        continue;
                    }
                    let (name, condition) =
                        text.split_once(':').map_or((text.as_str(), None), |(n, c)| (n, Some(c)));
                    let Some((index, names)) = known.get(name) else {
                        let near = self.notes.hint(name, known.keys().map(String::as_str));
                        let name = quoted(name);
                        self.notes.add(at, path.as_str(), format!("no service {name}{near}"));
                        continue;
                    };
                    let into = match (key, condition) {
                        ("depends-on", None) => &mut needs.up,
                        ("depends-on", Some("done")) if ends[*index] => &mut needs.done,
                        ("depends-on", Some("done")) => {
                            let text = format!(
                                "{name} never ends: its restart is \"always\"; there say \
                                 \"on-failure\" or \"never\""
                            );
                            self.notes.add(at, path.as_str(), text);
                            continue;
                        }
                        (_, None) => {
                            add(&mut needs.with, names);
                            &mut needs.up
                        }
                        ("depends-on", Some(_)) => {
                            let text = "only `:done` may stand behind a name";
                            self.notes.add(at, path.as_str(), text);
                            continue;
                        }
                        (_, Some(_)) => {
                            let text = "nothing may stand behind a name here";
                            self.notes.add(at, path.as_str(), text);
                            continue;
                        }
                    };
                    add(into, names);
                    member.after.entry(*index).or_insert_with(|| (at, path.clone()));
                }
            }
            member.service.needs = needs;
        }
    }

    /// Whether an instance may be called that; `taken` = by whom the name is.
    fn check_instance(&mut self, name: &str, effective: Effective<'_>, taken: Option<&str>) {
        let at = effective.find("instances").map_or(effective.draft.at, |found| found.at);
        let path = format!("{SERVICE}.{}", effective.name());
        if let Some(taken) = taken {
            let text = format!("its instance {name} would be called like one of service {taken}");
            self.notes.add(at, path, text);
        } else if !is_name(name, NAME_MAX) && is_name(effective.name(), NAME_MAX) {
            let text = format!("its instance {name} has no name, expected {}", name_rule(NAME_MAX));
            self.notes.add(at, path, text);
        }
    }

    fn refuse_cycles(&mut self, members: &[Member<'_>]) {
        let mut walk =
            Walk { members, done: vec![false; members.len()], path: Vec::new(), found: 0 };
        for start in 0..members.len() {
            walk.from(start, &mut self.notes);
        }
    }

    fn refuse_shared_addresses(&mut self, members: &[Member<'_>]) {
        let mut taken: Vec<(Address, &str)> = Vec::new();
        for member in members {
            let name = member.effective.name();
            for (at, address) in member.effective.addresses().into_iter().take(LISTEN_MAX) {
                // Any free port twice would be one socket twice: it is known by its address.
                let again = |(other, by): &&(Address, &str)| {
                    clash(other, &address) || *by == name && *other == address
                };
                if let Some((_, by)) = taken.iter().find(again) {
                    let text = match by {
                        _ if *by == name => format!("{address} stands here twice"),
                        by => format!("service {by} listens to {address} as well"),
                    };
                    self.notes.add(at, format!("{SERVICE}.{name}.listen"), text);
                }
                taken.push((address, name));
            }
        }
    }
}

/// Adds names that are not there yet.
fn add(to: &mut Vec<String>, names: &[String]) {
    for name in names {
        if !to.contains(name) {
            to.push(name.clone());
        }
    }
}

/// Whether two sockets cannot be bound side by side.
pub(super) fn clash(one: &Address, other: &Address) -> bool {
    let any = |address: &SocketAddr| address.ip().is_unspecified();
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(one), Address::Tcp(other)) => {
            // All of IPv6 is all of IPv4 as well.
            let all = |one: &SocketAddr, other: &SocketAddr| {
                any(one) && (one.is_ipv6() || other.is_ipv4())
            };
            let same = one.ip() == other.ip() || all(one, other) || all(other, one);
            one.port() == other.port() && one.port() != 0 && same
        }
        _ => false,
    }
}

/// A search for circles, depth first.
struct Walk<'a> {
    members: &'a [Member<'a>],
    done: Vec<bool>,
    path: Vec<usize>,
    found: usize,
}

impl Walk<'_> {
    /// At most one frame per service, of which there are few.
    fn from(&mut self, at: usize, notes: &mut Notes) {
        if self.done[at] {
            return;
        }
        self.path.push(at);
        for (next, (place, key)) in &self.members[at].after {
            if let Some(start) = self.path.iter().position(|on| on == next) {
                self.found += 1;
                if self.found <= CYCLES_MAX {
                    let circle = self.path[start..].iter().chain([next]);
                    let names = circle.map(|each| self.members[*each].effective.name());
                    let text = format!(
                        "services wait for each other: {}",
                        names.collect::<Vec<_>>().join(" -> ")
                    );
                    notes.add(*place, key.as_str(), text);
                }
            } else {
                self.from(*next, notes);
            }
        }
        self.path.pop();
        self.done[at] = true;
    }
}

fn rule(effective: Effective<'_>) -> Rule {
    let standard = Rule::default();
    Rule {
        restart: effective
            .choice("restart")
            .and_then(|word| Restart::of(word))
            .unwrap_or(standard.restart),
        success: effective.statuses("success-exit").cloned().unwrap_or(standard.success),
        intensity: effective.intensity("max-restarts").copied(),
        essential: effective.flag("essential").copied().unwrap_or(standard.essential),
    }
}

fn instance(top: &Table, slots: usize) -> Instance {
    let value = |key: &str| top.get(key).and_then(|placed| placed.value.as_ref());
    let time = |key| match value(key) {
        Some(Value::Time(span)) => Some(*span),
        _ => None,
    };
    let path = |key| match value(key) {
        Some(Value::Path(path)) => Some(path.clone()),
        _ => None,
    };
    Instance {
        name: match value("name") {
            Some(Value::Text(name)) => Some(name.clone()),
            _ => None,
        },
        run_dir: path("run-dir"),
        report_dir: path("report-dir"),
        check_interval: time("check-interval"),
        orphan_timeout: time("orphan-timeout"),
        quiet: match value("quiet") {
            Some(Value::Flag(quiet)) => Some(*quiet),
            _ => None,
        },
        slots,
    }
}

/// Every key of a service with its value and where that comes from.
fn entries(effective: Effective<'_>, lines: &Lines) -> Vec<Entry> {
    let mut entries = Vec::new();
    for key in KEYS.iter().filter(|key| key.is_services()) {
        let own = effective.draft.table.get(key.name);
        let general = effective.said.defaults.get(key.name);
        let together = matches!(key.kind, Kind::Variables | Kind::Limits);
        let mut tell = |placed: &Placed, origin: fn(usize) -> Origin| {
            let shown = placed.value.as_ref().map(Value::shown).unwrap_or_default();
            entries.push(Entry { key: key.name, shown, origin: origin(lines.line(placed.at)) });
        };
        if let Some(placed) = general.filter(|_| own.is_none() || together) {
            tell(placed, Origin::Defaults);
        }
        if let Some(placed) = own {
            tell(placed, Origin::Service);
        }
        if own.is_none() && general.is_none() {
            let preset = effective.said.presets.get(key.name);
            let shown = match key.preset {
                Preset::Absent(meaning) => meaning.to_owned(),
                Preset::Value(_) => {
                    let value = preset.and_then(|placed| placed.value.as_ref());
                    value.map(Value::shown).unwrap_or_default()
                }
            };
            entries.push(Entry { key: key.name, shown, origin: Origin::Default });
        }
    }
    entries
}
