//! Which secondary gets the next client, and what became of the jobs: the primary's book.
//!
//! A job is announced to a secondary, begun when its client comes, and ends as done or failed.
//! Jobs not begun are announced again (to the successor, if the secondary was replaced); begun
//! ones have failed with their secondary. Both books are bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use osps_heart::ids::{Generation, SlotId};
use osps_heart::time::Monotonic;

/// How long a client may take from the port to its connection.
pub const CLAIM_TIME: Duration = Duration::from_secs(10);
/// Most jobs in a book; beyond, the oldest is forgotten.
pub const JOBS_MAX: usize = 4096;

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobType {
    /// `requetetype1`.
    Read,
    /// `requetetype2`.
    ReadWrite,
}

impl JobType {
    /// Every type with its number in a frame and the word that asks for it.
    pub const ALL: [(JobType, u8, &'static str); 2] =
        [(JobType::Read, 1, "requetetype1"), (JobType::ReadWrite, 2, "requetetype2")];

    /// Its number in a frame.
    pub fn code(self) -> u8 {
        JobType::ALL.iter().find(|(known, ..)| *known == self).map_or(0, |(_, code, _)| *code)
    }

    /// The type with this number.
    pub fn from_code(code: u8) -> Option<JobType> {
        JobType::ALL.iter().find(|(_, known, _)| *known == code).map(|(kind, ..)| *kind)
    }
}

/// A client that was sent to a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number, never 0.
    pub id: u64,
    /// What it may do.
    pub kind: JobType,
    /// Where it will come from.
    pub peer: IpAddr,
    /// When it was announced first.
    pub at: Monotonic,
}

/// A secondary that could take a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its slot.
    pub slot: SlotId,
    /// Its live generation.
    pub generation: Generation,
    /// Client connections it has, as its page says.
    pub sessions: u64,
}

/// How a job of a replaced secondary ended, or what a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobProgress {
    /// `debuttraitement`.
    Begin,
    /// `fintraitement`.
    Done,
    /// `errtraitement`.
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    job: Job,
    slot: SlotId,
    begun_by: Option<Generation>,
}

/// The primary's book of jobs.
#[derive(Clone, Debug, Default)]
pub struct Dispatcher {
    jobs: BTreeMap<u64, Entry>,
    last_id: u64,
    last_slot: Option<SlotId>,
}

impl Dispatcher {
    /// A book that starts behind `last_id`; successors of one primary start behind each other.
    pub fn new(last_id: u64) -> Dispatcher {
        Dispatcher { last_id, ..Dispatcher::default() }
    }

    /// Chooses the candidate with the fewest sessions and announced jobs; among equals the one
    /// after the last choice.
    pub fn assign(
        &mut self,
        candidates: &[Candidate],
        kind: JobType,
        peer: IpAddr,
        now: Monotonic,
    ) -> Option<(SlotId, Job)> {
        let after_last = |slot: SlotId| self.last_slot.is_none_or(|last| slot > last);
        let load = |candidate: &&Candidate| {
            let waiting = self
                .jobs
                .values()
                .filter(|entry| entry.slot == candidate.slot && entry.begun_by.is_none());
            let load = candidate.sessions.saturating_add(waiting.count() as u64);
            (load, !after_last(candidate.slot), candidate.slot)
        };
        let slot = candidates.iter().min_by_key(load)?.slot;
        self.last_id += 1;
        let job = Job { id: self.last_id, kind, peer, at: now };
        self.jobs.insert(job.id, Entry { job, slot, begun_by: None });
        if self.jobs.len() > JOBS_MAX {
            self.jobs.pop_first();
        }
        self.last_slot = Some(slot);
        Some((slot, job))
    }

    /// A report of a secondary. Returns whether it fits the book.
    pub fn report(
        &mut self,
        id: u64,
        slot: SlotId,
        generation: Generation,
        report: JobProgress,
    ) -> bool {
        let Some(entry) = self.jobs.get_mut(&id).filter(|entry| entry.slot == slot) else {
            return false;
        };
        match report {
            JobProgress::Begin => {
                entry.begun_by = Some(generation);
            }
            JobProgress::Done | JobProgress::Failed => {
                self.jobs.remove(&id);
            }
        }
        true
    }

    /// Ends what can no longer end well, and returns it: jobs begun by a generation that is gone,
    /// and clients that never came.
    pub fn sweep(
        &mut self,
        now: Monotonic,
        live: impl Fn(SlotId) -> Option<Generation>,
    ) -> Vec<Job> {
        let mut ended = Vec::new();
        self.jobs.retain(|_, entry| {
            let over = match entry.begun_by {
                Some(generation) => live(entry.slot) != Some(generation),
                None => now.since(entry.job.at) > CLAIM_TIME,
            };
            if over {
                ended.push(entry.job);
            }
            !over
        });
        ended
    }

    /// Jobs of a slot that were not begun: to be announced (again).
    pub fn unbegun(&self, slot: SlotId) -> Vec<Job> {
        let of_slot = |entry: &&Entry| entry.slot == slot && entry.begun_by.is_none();
        self.jobs.values().filter(of_slot).map(|entry| entry.job).collect()
    }
}

/// A secondary's book of announced clients.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    jobs: VecDeque<Job>,
    /// Numbers already begun, so that a repeated announcement is recognised.
    begun: VecDeque<u64>,
}

/// What an announcement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// A client will come.
    New,
    /// It is known already.
    Known,
    /// It was begun: the report of that was lost, send it again.
    Begun,
}

impl Expected {
    /// The primary announces a job.
    pub fn announce(&mut self, job: Job) -> Announced {
        if self.begun.contains(&job.id) {
            return Announced::Begun;
        }
        if self.jobs.iter().any(|known| known.id == job.id) {
            return Announced::Known;
        }
        self.jobs.push_back(job);
        if self.jobs.len() > JOBS_MAX {
            self.jobs.pop_front();
        }
        Announced::New
    }

    /// A connection came: it takes the oldest job from its address.
    pub fn claim(&mut self, peer: IpAddr, now: Monotonic) -> Option<Job> {
        self.jobs.retain(|job| now.since(job.at) <= CLAIM_TIME);
        let index = self.jobs.iter().position(|job| job.peer == peer)?;
        let job = self.jobs.remove(index)?;
        self.begun.push_back(job.id);
        if self.begun.len() > JOBS_MAX {
            self.begun.pop_front();
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(s: u64) -> Monotonic {
        Monotonic(s * 1_000_000_000)
    }

    fn candidate(slot: u8, sessions: u64) -> Candidate {
        Candidate { slot: SlotId(slot), generation: Generation(10 + u32::from(slot)), sessions }
    }

    #[test]
    fn the_least_busy_gets_the_next_client_and_equals_take_turns() {
        let mut book = Dispatcher::new(0);
        let mut choose = |sessions: [u64; 3]| {
            let candidates: Vec<_> = (1..).zip(sessions).map(|(s, n)| candidate(s, n)).collect();
            let (slot, job) = book.assign(&candidates, JobType::Read, PEER, at(0)).expect("one");
            assert!(book.report(job.id, slot, Generation(1), JobProgress::Done));
            slot.0
        };
        assert_eq!([choose([0; 3]), choose([0; 3]), choose([0; 3]), choose([0; 3])], [1, 2, 3, 1]);
        assert_eq!(choose([5, 4, 9]), 2);
        assert!(Dispatcher::new(0).assign(&[], JobType::Read, PEER, at(0)).is_none());
    }

    #[test]
    fn announced_clients_count_before_they_come() {
        let mut book = Dispatcher::new(0);
        let both = [candidate(1, 0), candidate(2, 1)];
        let mut slots = Vec::new();
        for _ in 0..4 {
            slots.push(book.assign(&both, JobType::Read, PEER, at(0)).expect("one").0.0);
        }
        assert_eq!(slots, [1, 2, 1, 2]);
    }

    #[test]
    fn begun_jobs_fail_with_their_secondary_and_others_go_to_its_successor() {
        let mut book = Dispatcher::new(41);
        let one = [candidate(1, 0)];
        let (slot, first) = book.assign(&one, JobType::ReadWrite, PEER, at(0)).expect("one");
        let (_, second) = book.assign(&one, JobType::Read, PEER, at(1)).expect("one");
        assert_eq!((first.id, second.id), (42, 43));
        assert!(book.report(first.id, slot, Generation(11), JobProgress::Begin));
        assert!(
            !book.report(first.id, SlotId(2), Generation(12), JobProgress::Done),
            "not its job"
        );
        assert_eq!(book.unbegun(slot), [second]);
        assert_eq!(book.sweep(at(2), |_| Some(Generation(11))), []);
        assert_eq!(book.sweep(at(2), |_| Some(Generation(12))), [first]);
        assert_eq!(book.unbegun(slot), [second]);
        assert_eq!(book.sweep(at(11), |_| Some(Generation(12))), [], "it may come yet");
        assert_eq!(book.sweep(at(12), |_| Some(Generation(12))), [second], "it never came");
    }

    #[test]
    fn a_connection_takes_the_oldest_job_from_its_address() {
        let mut expected = Expected::default();
        let other = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
        let job = |id, peer, s| Job { id, kind: JobType::Read, peer, at: at(s) };
        for (id, peer, s) in [(1, other, 0), (2, PEER, 0), (3, PEER, 1)] {
            assert_eq!(expected.announce(job(id, peer, s)), Announced::New);
        }
        assert_eq!(expected.announce(job(2, PEER, 0)), Announced::Known);
        assert_eq!(expected.claim(PEER, at(2)).map(|job| job.id), Some(2));
        assert_eq!(expected.announce(job(2, PEER, 0)), Announced::Begun);
        assert_eq!(expected.claim(PEER, at(11)).map(|job| job.id), Some(3));
        assert_eq!(expected.claim(PEER, at(11)), None);
        assert_eq!(expected.claim(other, at(11)), None, "it came too late");
    }

    #[test]
    fn books_are_bounded() {
        let mut book = Dispatcher::new(0);
        let mut expected = Expected::default();
        for _ in 0..JOBS_MAX + 10 {
            let (_, job) =
                book.assign(&[candidate(1, 0)], JobType::Read, PEER, at(0)).expect("one");
            expected.announce(job);
        }
        assert_eq!(book.jobs.len(), JOBS_MAX);
        assert_eq!(expected.jobs.len(), JOBS_MAX);
        // The oldest ten were forgotten; all others can be begun, and stay known as begun.
        while expected.claim(PEER, at(0)).is_some() {}
        let job = |id| Job { id, kind: JobType::Read, peer: PEER, at: at(0) };
        assert_eq!(expected.announce(job(11)), Announced::Begun);
        assert_eq!(expected.announce(job(10)), Announced::New);
        assert!(expected.claim(PEER, at(0)).is_some());
        assert_eq!(expected.begun.len(), JOBS_MAX);
        assert_eq!(expected.announce(job(11)), Announced::New, "the oldest made room");
    }
}
