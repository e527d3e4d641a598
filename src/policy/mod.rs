//! What is decided, and nothing else: sans-I/O, in the order of the pipeline.
//!
//! ```text
//! observation --verdict--> reading --group--> event --lifecycle--> state + act
//!                                     ^                               |
//!                            restart (may it run again, when?) <------+
//! ```
//!
//! Beside it stand the two books of the data: `ownership` (who may write) and `dispatch` (who gets
//! the next client).
//!
//! Contract of every piece: deterministic; performs no I/O; never reads a clock; never blocks; no
//! sequence of inputs makes it panic; memory bounded. `now` is an argument, so a day of trouble
//! is a millisecond of test (tests/policy.rs).

pub mod dispatch;
pub mod group;
pub mod lifecycle;
pub mod ownership;
pub mod restart;
pub mod verdict;
