//! Goal: whatever happens in whatever order, one process at most writes the data area, no epoch is
//! granted twice, nothing that the dead said or held has an effect, and who wants to write gets its
//! turn once faults stop.
//!
//! Method: the real automata, `Arbiter` and three `Holder`s (the primary's own and two
//! secondaries), in a world made of the owner word, the pending recall, a tube per direction, and a
//! watchdog (`world`). Servers look, write, give back, die at any step, are confirmed dead and
//! replaced; frames are lost, wait for successors, find tubes full. What a process read may be old
//! when it writes. That world is taken through its life in two ways:
//!
//! - all of it (`exploration`): every reachable state and every step from it, by a model checker,
//!   without a bound on time. `classes` says how that becomes finite;
//! - long random schedules (`schedules`), in which numbers wrap and tubes are as long as real ones.
//!
//! Rules that are broken on purpose, one at a time, show that the nets have no such holes.
//!
//! ```text
//! cargo test --test ownership -- --nocapture                     states, steps, counterexamples
//! cargo test --release --test ownership -- --ignored --nocapture the large ones, some minutes
//! ```
//!
//! What it cannot show: the order of memory accesses (tests/loom), that the servers use the
//! automata as the world does (tests/share.rs), and what comes about only with four servers or more
//! or with longer rows of frames than were explored.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "an exploration tells its size")]
#![allow(unreachable_pub, reason = "the parts of one test")]

mod classes;
mod exploration;
mod schedules;
mod world;
