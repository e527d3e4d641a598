//! The store: what the data means. Bytes from a client become a request, a request a command.
//!
//! ```text
//!  bytes ──resp──> words ──commands──> Command ... reply ──resp──> bytes
//! ```
//!
//! **Invariant:** everything here is pure and total: no I/O, no clock, no panic whatever a client
//! sends, memory bounded by named constants. Who may write, and when, is not decided here.
//! Each module is tested in its own file.

pub mod commands;
pub mod execute;
pub mod resp;
