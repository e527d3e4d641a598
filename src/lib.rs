//! osps: a Linux supervisor that can tell *frozen* from *alive*.
//!
//! Each server has a heartbeat in shared memory, an atomic count and a time stamp in a mapped file,
//! beaten by the loop that does its work. The watchdog reads it from outside, every two seconds
//! and exactly when a beat would be overdue. A dead or a frozen server is replaced; clients keep
//! their port.
//!
//! The library is the program in parts, for those who want to read it, to beat from a program of
//! their own ([`Heart`]), to read the shared data from outside ([`DataArea`]), or to look at a
//! segment ([`segment::Segment`]).
//!
//! # Reading order
//!
//! What is shared, what is decided, what touches Linux, what data means, who runs. The folder names
//! are the architecture: `segment`, `policy` and `sys` do not know each other; `role` joins them.
//!
//! # Caveats
//!
//! Linux 5.11 or later, 64-bit little-endian. All processes of an instance run as one user and
//! trust each other that far: a hostile server can scribble over the segment, though it cannot
//! crash the watchdog with it. Nothing survives a power loss: the segment lives on tmpfs.

#[cfg(not(target_os = "linux"))]
compile_error!("osps supports Linux only: it supervises through pidfds, signalfd and /proc.");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("osps supports 64-bit little-endian machines only: the segment's words are such.");

pub mod ids;
pub mod sync;
pub mod time;

pub mod segment;

pub mod policy;

pub mod wire;

#[cfg(not(loom))]
pub mod sys;

pub mod store;

#[cfg(not(loom))]
pub mod config;
#[cfg(not(loom))]
pub mod role;

#[cfg(not(loom))]
pub mod cli;

#[cfg(not(loom))]
#[doc(hidden)]
pub mod example;

#[cfg(not(loom))]
pub use role::data::{DataArea, DataError, OwnedData};
#[cfg(not(loom))]
pub use role::heart::{Heart, NoHeart};
