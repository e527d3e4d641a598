//! Goal: the rules of `policy` hold for *every* history, not only for those somebody thought of.
//!
//! Method: random scripts in simulated time, shrunk to a short one when they fail. `pulse` runs
//! beside a `reference` written from docs/verdicts.md, which keeps the whole history and reads the
//! rule off it; `restart` beside the list of all deaths; `edges` beside a matrix of all ways;
//! `lifecycle` is small enough to enumerate; `group` is played against a fake `kernel`, which
//! starts, kills and loses processes that beat, freeze or exit as the `script` says, stops them all
//! together with the watchdog, and knows of each how long it was silent in truth. `world` joins
//! group and kernel, `rules` is what must hold after every step, `stories` are scripts that
//! somebody wrote, `watches` the ones on who beats and from when on that counts. `edits` is another
//! list of services while the old one runs, beside a model of that; `taken` is another watchdog
//! that goes on, wherever the last one was killed. `gaps` is what beats end, beside what is true of
//! it, and what limit follows from that.
//!
//! What it cannot show: that the performer does what the actions say, in that order and in time
//! (tests/supervise.rs), and that a real `/proc` tells the classes apart. Every limit is a sane
//! one: config refuses the rest.
#![allow(unreachable_pub, reason = "the parts of one test")]

mod draw;
mod edges;
mod edits;
mod gaps;
mod group;
mod kernel;
mod lifecycle;
mod pulse;
mod reference;
mod restart;
mod rules;
mod script;
mod stories;
mod taken;
mod watches;
mod world;
