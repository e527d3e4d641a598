//! What another list of services means for those that run: a pure comparison.

use osps_heart::ids::SlotId;
use osps_heart::words::HeartSource;

use super::Service;

/// What becomes of one service, by its place in the new list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its process stays; limits of the verdict, edges and hooks may be others.
    Keep(SlotId, usize),
    /// Its process received something that is another now.
    Replace(SlotId, usize),
    /// It is new.
    Add(usize),
    /// It is not in the list any more.
    Remove(SlotId),
}

/// Compares the services that run with those of a new list, by their names: what is kept, changed
/// and new in the order of the new list, then what is gone.
pub fn diff<'a>(old: &[(SlotId, &'a Service)], new: &[Service]) -> Vec<Fate> {
    let find = |name: &str| old.iter().find(|(_, service)| service.name == name);
    let mut fates: Vec<_> = (0..)
        .zip(new)
        .map(|(place, service)| match find(&service.name) {
            None => Fate::Add(place),
            Some((slot, known)) if is_same_process(known, service) => Fate::Keep(*slot, place),
            Some((slot, _)) => Fate::Replace(*slot, place),
        })
        .collect();
    let is_gone =
        |(_, known): &&(SlotId, &'a Service)| !new.iter().any(|service| service.name == known.name);
    fates.extend(old.iter().filter(is_gone).map(|(slot, _)| Fate::Remove(*slot)));
    fates
}

/// Whether the process of one is as good as that of the other. What a process was told of its limit
/// when it started (`WATCHDOG_USEC`, or the shim's) is part of that.
fn is_same_process(old: &Service, new: &Service) -> bool {
    let tells = match new.manner.heart.source {
        HeartSource::Notify | HeartSource::Auto | HeartSource::Loop | HeartSource::Loops => true,
        HeartSource::Memory | HeartSource::File | HeartSource::Probe | HeartSource::None => false,
    };
    old.launch == new.launch
        && old.manner.heart == new.manner.heart
        && !(tells && old.limits.hang != new.limits.hang)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lifecycle::Patience;
    use crate::service::{HeartChoice, Launch};
    use osps_heart::pulse::Limits;
    use std::time::Duration;

    fn service(name: &str, source: HeartSource) -> Service {
        let second = Duration::from_secs(1);
        let launch = Launch { command: vec![name.into()], ..Launch::default() };
        let limits = Limits { hang: second, start: second };
        let patience = Patience { ask: second, term: second, kill: second };
        let mut service = Service::program(name.to_owned(), launch, limits, patience);
        service.manner.heart = HeartChoice::of(source);
        service
    }

    #[test]
    fn services_are_kept_replaced_added_and_removed_by_name() {
        let none = HeartSource::None;
        let old = ["a", "b", "c"].map(|name| service(name, none));
        let old: Vec<_> = (0u8..).map(SlotId).zip(&old).collect();
        let mut new = ["d", "c", "a"].map(|name| service(name, none));
        new[1].launch.command.push("--other".into());
        let fates = diff(&old, &new);
        let [a, b, c] = [0, 1, 2].map(SlotId);
        let expected = [Fate::Add(0), Fate::Replace(c, 1), Fate::Keep(a, 2), Fate::Remove(b)];
        assert_eq!(fates, expected);
        assert_eq!(diff(&[], &[]), []);
    }

    #[test]
    fn only_what_the_process_received_replaces_it() {
        type Edit = fn(&mut Service);
        let edits: [(bool, Edit); 12] = [
            (true, |service| service.launch.command.push("x".into())),
            (true, |service| service.launch.directory = Some("/".into())),
            (true, |service| service.launch.env.push(("A".into(), "b".into()))),
            (true, |service| service.launch.umask = Some(0o77)),
            (true, |service| service.launch.log = Some("/dev/null".into())),
            (true, |service| service.manner.heart = HeartChoice::of(HeartSource::Auto)),
            (false, |service| service.limits.hang *= 2),
            (false, |service| service.limits.start *= 2),
            (false, |service| service.patience.term *= 2),
            (false, |service| service.manner.warn = true),
            (false, |service| service.needs.up.push("x".into())),
            (false, |service| service.on_event.push("x".into())),
        ];
        for (number, (replaces, edit)) in edits.into_iter().enumerate() {
            let old = service("a", HeartSource::Memory);
            let mut new = old.clone();
            edit(&mut new);
            let fate = diff(&[(SlotId(7), &old)], std::slice::from_ref(&new));
            let (keep, replace) = (Fate::Keep(SlotId(7), 0), Fate::Replace(SlotId(7), 0));
            assert_eq!(fate, [if replaces { replace } else { keep }], "edit {number}");
        }
    }

    #[test]
    fn a_limit_that_the_process_was_told_replaces_it() {
        for source in HeartSource::ALL {
            let old = service("a", source);
            let mut new = old.clone();
            new.limits.hang *= 2;
            let replaced = matches!(
                diff(&[(SlotId(0), &old)], std::slice::from_ref(&new))[..],
                [Fate::Replace(..)]
            );
            let told = matches!(
                source,
                HeartSource::Notify | HeartSource::Auto | HeartSource::Loop | HeartSource::Loops
            );
            assert_eq!(replaced, told, "{source}");
        }
    }
}
