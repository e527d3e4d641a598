//! What a launch says, in the words that the trampoline understands.

use std::ffi::{OsStr, OsString};

use crate::instance::orders::{Orders, setting};
use crate::service::{Address, Launch};

/// The orders for a program of a service. `member` is the run directory that it lives in, `own` is
/// what osps sets in its environment, over whatever the user set there.
pub(super) fn orders(launch: &Launch, member: &OsStr, own: &[(&str, &OsStr)]) -> Orders {
    let mut settings = Vec::new();
    let mut set = |name: &str, value: OsString| settings.push((name.into(), value));
    set(setting::MEMBER, member.into());
    for limit in &launch.limits {
        let number = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        let (soft, hard) = (number(limit.soft), number(limit.hard));
        set(setting::LIMIT, format!("{} {soft} {hard}", limit.resource.word()).into());
    }
    if let Some(mask) = launch.umask {
        set(setting::UMASK, format!("{mask:o}").into());
    }
    if let Some(log) = &launch.log {
        set(setting::LOG, log.into());
    }
    if let Some(user) = &launch.user {
        let ids = [user.uid, user.gid].into_iter().chain(user.groups.iter().copied());
        let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
        set(setting::USER, ids.join(" ").into());
    }
    if let Some(directory) = &launch.directory {
        set(setting::DIRECTORY, directory.into());
    }
    if !launch.listen.is_empty() {
        let names: Vec<_> = launch.listen.iter().map(Address::name).collect();
        set(setting::NAMES, names.join(":").into());
    }
    let mut env = launch.variables();
    env.extend(own.iter().map(|(name, value)| ((*name).into(), (*value).to_owned())));
    Orders { settings, env, command: launch.command.clone() }
}
