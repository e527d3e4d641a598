//! The processes of a fake kernel: they beat, freeze, leave and die as their habit says.

use std::time::Duration;

use osps_heart::pulse::{Limits, Sample, Turn};
use osps_heart::segment::Death;
use osps_heart::time::Monotonic;
use osps_heart::words::Class;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::draw::{CHECK, Stamp, stamp, stride};
use super::reference::{EXTENSIONS, most_of, slack};

/// How the processes of a slot behave.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// The kernel starts it at all.
    pub starts: bool,
    /// Time to the first beat, in ms; beyond the start timeout it is too slow.
    pub first_beat: u64,
    /// Time between two beats, in thousandths of the hang limit.
    pub every: u32,
    /// By how much a beat moves the count.
    pub stride: u64,
    /// What its beats carry.
    pub stamp: Stamp,
    /// Time that it needs to leave when asked or terminated; `None` = it does not care.
    pub leaves: Option<u64>,
    /// Time that the kernel needs to kill it.
    pub dies: u64,
}

pub const GOOD: Habit = Habit {
    starts: true,
    first_beat: 20,
    every: 125,
    stride: 1,
    stamp: Stamp::Honest,
    leaves: Some(5),
    dies: 1,
};

pub fn habit() -> impl Strategy<Value = Habit> {
    let first_beat = prop_oneof![3 => 1..300_u64, 1 => Just(60_000)];
    let starts = prop::bool::weighted(0.8);
    (starts, first_beat, 10..400_u32, stride(), stamp(), option::of(1..3000_u64), 1..400_u64)
        .prop_map(|(starts, first_beat, every, stride, stamp, leaves, dies)| Habit {
            starts,
            first_beat,
            every,
            stride,
            stamp,
            leaves,
            dies,
        })
}

/// A server that beats as it should, with stamps or without.
pub fn beating() -> impl Strategy<Value = Habit> {
    let stamp = select(vec![Stamp::Honest, Stamp::Zero]);
    (1..100_u64, 10..=400_u32, stride(), stamp).prop_map(|(first_beat, every, stride, stamp)| {
        Habit { first_beat, every, stride, stamp, ..GOOD }
    })
}

/// By how much a beat may be taken for younger than it is. Without a stamp that is the longest time
/// between two looks: 60 % of the limit, and the slack while it starts. With one it is what the
/// latter is longer, below a limit of 84 ms.
pub fn blind(habit: &Habit, limits: Limits) -> Duration {
    let (known, starting) = (most_of(limits.hang), slack(limits.hang));
    if habit.stamp == Stamp::Honest {
        starting.saturating_sub(known)
    } else {
        known.max(starting).min(CHECK)
    }
}

/// A process of the fake kernel, with what is true of it.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Process {
    pub habit: Habit,
    pub limits: Limits,
    pub next_beat: Monotonic,
    /// Or the spawn.
    pub last_beat: Monotonic,
    /// What that beat carries.
    pub stamp: Stamp,
    pub frozen: Option<Class>,
    /// It goes on between the two looks of its examination.
    pub wakes: bool,
    /// A kill waits until this ends.
    pub unkillable: bool,
    pub kill_waits: bool,
    pub dies: Option<(Monotonic, Death)>,
    /// It is neither frozen nor was its host, since the last beat.
    pub innocent: bool,
    /// How late turns were since the last beat.
    pub lateness: Duration,
    /// Its count as the group saw it last, and the moment of that beat. (All that is seen in one
    /// turn was there at its beginning.)
    pub heard: u64,
    pub heard_at: Monotonic,
    /// How much older its stamp may have made that beat.
    pub lie: Duration,
    /// The group saw it beat.
    pub beaten: bool,
    /// Late turns that this silence was forgiven, and limits that it got for being starved.
    pub extensions: usize,
    pub spared: usize,
    /// When its limit began to run again the last time.
    pub forgiven: Monotonic,
}

impl Process {
    pub fn every(&self) -> Duration {
        self.limits.hang * self.habit.every / 1000
    }

    /// The limit in force.
    pub fn limit(&self) -> Duration {
        if self.beaten { self.limits.hang } else { self.limits.start }
    }

    /// Beats so often, the last time at this moment.
    pub fn beat(&mut self, heart: &mut Sample, times: u32, last: Monotonic) {
        let moved = self.habit.stride.wrapping_mul(times.into());
        *heart =
            Sample { count: heart.count.wrapping_add(moved), stamp: self.habit.stamp.at(last) };
        self.next_beat = last + self.every();
        (self.last_beat, self.stamp) = (last, self.habit.stamp);
        self.innocent = true;
        self.lateness = Duration::ZERO;
    }

    /// The group hears its heart in this turn.
    pub fn hear(&mut self, count: u64, turn: &Turn) {
        let late = turn.lateness > slack(self.limit());
        if count != self.heard {
            self.lie = self.stamp.lie(self.limits, self.limit(), turn);
            (self.heard, self.beaten) = (count, true);
            self.heard_at = self.last_beat.min(turn.now);
            (self.extensions, self.spared) = (0, 0);
        }
        if late && self.extensions < EXTENSIONS {
            self.extensions += 1;
            self.forgiven = turn.now;
        }
    }
}
