//! What is decided, and nothing else: sans-I/O, in the order of the pipeline.
//!
//! ```text
//! sample --pulse--> reading --group--> trigger --lifecycle--> stage + act
//!                                ^  ^                            |
//!                    graph ------+  +-- restart (again, when?) <-+
//! ```
//!
//! `server` is what `group` keeps of one of them; `verdict` says what kind of freeze it is;
//! `advice` tells people what limit the gaps between beats suggest; `collect` says who gets a
//! report of how much, and how long a kill waits for it. The rules that servers run as well (is
//! this heart alive, who may write) stand in `osps_heart`.
//! Nothing here knows what a server is for.
//!
//! Contract of every piece: deterministic; performs no I/O; never reads a clock; never blocks; no
//! sequence of inputs makes it panic; memory bounded. `now` is an argument, so a day of trouble
//! is a millisecond of test (tests/policy).

pub mod adopt;
pub mod advice;
pub mod collect;
pub mod graph;
pub mod group;
pub mod lifecycle;
pub mod restart;
mod server;
pub mod verdict;
