//! Files of services on the running machine: what `osps up` starts, what `osps check` shows, and
//! the process that reads a file again while an instance runs.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use osps_heart::shown::Shown;

use super::check;
use super::file::{self, Instance};
use super::look::Machine;
use super::{Config, Programs};
use crate::error::{Error, Refusal};
use crate::service::{Held, Inheritance, Listener, Loaded, Service};
use crate::sys::{Failed, memory_file, output, socket};

/// The file that is meant if none is named.
pub const FILE: &str = "osps.toml";
/// The byte of an answer that is a text of what is wrong.
const WRONG: u8 = b'e';

/// What the command line says of an instance over what its file says.
#[derive(Clone, Debug, Default)]
pub struct Over {
    /// Its name.
    pub name: Option<String>,
    /// Its run directory.
    pub run_dir: Option<PathBuf>,
    /// Where reports of hangs are kept.
    pub report_dir: Option<PathBuf>,
    /// Whether to tell only what went wrong.
    pub quiet: bool,
}

/// What a file wants to run.
pub fn config(path: &Path, over: &Over) -> Result<Config, Error> {
    let file = load(path)?;
    // What the command line says stays as it is, whatever the file says later.
    let mut top = top(&file.instance);
    top.retain(|(key, _)| match key.as_str() {
        "name" => over.name.is_none(),
        "run-dir" => over.run_dir.is_none(),
        "report-dir" => over.report_dir.is_none(),
        "quiet" => !over.quiet,
        _ => true,
    });
    let Instance { name, run_dir, report_dir, check_interval, orphan_timeout, quiet, slots } =
        file.instance;
    let standard = Config::default();
    let config = Config {
        name: over.name.clone().or(name).unwrap_or(standard.name),
        run_dir: over.run_dir.clone().or(run_dir),
        report_dir: over.report_dir.clone().or(report_dir),
        check_interval: check_interval.unwrap_or(standard.check_interval),
        orphan_timeout: orphan_timeout.unwrap_or(standard.orphan_timeout),
        quiet: over.quiet || quiet.unwrap_or(false),
        // Nobody but the pair has data to share: the least that a segment has.
        data_size: standard.cell_size * 16,
        programs: Programs::Listed { services: file.services, slots, file: path.to_owned(), top },
        ..Config::default()
    };
    config.validate()?;
    Ok(config)
}

/// The keys at the top of a file with what is in effect, said or not.
fn top(instance: &Instance) -> Vec<(String, String)> {
    let Instance { name, run_dir, report_dir, check_interval, orphan_timeout, quiet, slots } =
        instance;
    let path = |path: &Option<PathBuf>| {
        path.as_ref().map_or(String::new(), |path| Shown(path).to_string())
    };
    let standard = Config::default();
    let time = |said: &Option<Duration>, standard| super::time(said.unwrap_or(standard));
    let texts = [
        ("name", name.clone().unwrap_or(standard.name)),
        ("run-dir", path(run_dir)),
        ("report-dir", path(report_dir)),
        ("check-interval", time(check_interval, standard.check_interval)),
        ("orphan-timeout", time(orphan_timeout, standard.orphan_timeout)),
        ("quiet", quiet.unwrap_or(false).to_string()),
        ("slots", slots.to_string()),
    ];
    texts.map(|(key, text)| (key.to_owned(), text)).into()
}

fn load(path: &Path) -> Result<file::File, Error> {
    file::load(path, &Machine).map_err(|problems| Error::Problems(problems.to_string()))
}

/// `osps check`: what a file means, and what would go wrong.
pub fn check(path: &Path) -> Result<ExitCode, Error> {
    let file = load(path)?;
    let findings = check::findings(&file);
    output::print(check::render(&file, &findings).as_bytes());
    let fatal = findings.iter().any(|finding| finding.fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Binds the sockets of services that are about to start; instances of one share them.
pub(super) fn bind(services: &mut [Service], inherited: &mut Inheritance) -> Result<(), Error> {
    let there = inherited.sockets.len();
    for service in services {
        let all = service.launch.listen.iter();
        let all: Result<Option<Vec<_>>, Error> =
            all.map(|address| inherited.listener(&service.family, address)).collect();
        match all {
            Ok(all) => service.sockets = all.unwrap_or_default(),
            Err(error) => {
                unbind(inherited.sockets[there..].iter().map(|(_, listener)| &**listener));
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Says what is known to go wrong with services that are about to start. They are started all the
/// same: the others do not suffer for it.
pub(super) fn warn(services: &[Service]) {
    for warning in warnings(services) {
        log::warn!("{warning}");
    }
}

/// What of the machine is not as these services need it, once for all instances of one.
fn warnings(services: &[Service]) -> Vec<String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for service in services {
        if seen.contains(&service.family.as_str()) {
            continue;
        }
        seen.push(&service.family);
        let program = service.look().unwrap_or_else(|error| Some(error.to_string()));
        let missing = program.into_iter().chain(check::missing_directories(service));
        found.extend(missing.map(|what| format!("{}: {what}", service.family)));
    }
    found
}

/// Reads a file for a watchdog that runs (`osps __load FILE`): it gets the sockets that are held
/// already through its gate, and answers there.
pub fn main(args: &[OsString]) -> Result<ExitCode, Error> {
    let [path] = args else { return Err(Refusal::NotForPeople("__load").into()) };
    let Some((_, mut handed)) = socket::receive_descriptors(std::io::stdin())? else {
        return Ok(ExitCode::SUCCESS);
    };
    let held = handed.pop().and_then(|memory| {
        serde_json::from_reader::<_, Vec<Held>>(BufReader::new(File::from(memory))).ok()
    });
    let held = held.ok_or(Refusal::NotForPeople("__load"))?;
    let (kind, bytes, sockets) = match again(path.as_ref(), &held) {
        Ok((loaded, sockets)) => {
            let bytes = serde_json::to_vec(&loaded);
            let bytes = bytes.map_err(|error| Failed::to("write down", "services")(error))?;
            (Loaded::WORD, bytes, sockets)
        }
        Err(error) => (WRONG, error.to_string().into_bytes(), Vec::new()),
    };
    let memory = memory_file("osps services", &bytes);
    let memory = memory.map_err(Failed::to("write down", "services"))?;
    // Whoever gets the answer ends this process at once, with what it has not written yet.
    output::stderr().flush_bounded();
    let fds: Vec<BorrowedFd<'_>> =
        [memory.as_fd()].into_iter().chain(sockets.iter().map(AsFd::as_fd)).collect();
    socket::send_descriptors_to(std::io::stdin(), kind, &fds)?;
    Ok(ExitCode::SUCCESS)
}

/// Nobody will listen on these: their files go.
fn unbind<'a>(listeners: impl IntoIterator<Item = &'a Listener>) {
    for path in listeners.into_iter().filter_map(|listener| listener.asked.path()) {
        let _ = std::fs::remove_file(path);
    }
}

/// The file as it is now, and sockets for the addresses that nobody holds yet.
fn again(path: &Path, held: &[Held]) -> Result<(Loaded, Vec<Listener>), Error> {
    let file::File { services, instance, .. } = load(path)?;
    let (warnings, top) = (warnings(&services), top(&instance));
    let mut loaded = Loaded { services, bound: Vec::new(), warnings, top };
    let mut sockets = Vec::new();
    for service in &loaded.services {
        for address in &service.launch.listen {
            let wanted = Held { family: service.family.clone(), address: address.clone() };
            // What one service gave up another one may take over.
            let is_there = |known: &Held| {
                *known == wanted || known.address == wanted.address && !wanted.address.is_any()
            };
            if held.iter().chain(&loaded.bound).any(is_there) {
                continue;
            }
            let bound = if sockets.len() + 1 < socket::FDS_MAX {
                Listener::bind(&wanted.address, &service.family)
            } else {
                Err(Refusal::Sockets(socket::FDS_MAX - 1).into())
            };
            match bound {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    unbind(&sockets);
                    let own = held.iter().find(|held| file::clash(&held.address, &wanted.address));
                    return Err(own.map_or(error, |held| {
                        let (family, held) = (held.family.clone(), held.address.to_string());
                        let wanted = wanted.address.to_string();
                        Refusal::OwnAddress { wanted, held, family }.into()
                    }));
                }
            }
            loaded.bound.push(wanted);
        }
    }
    Ok((loaded, sockets))
}
