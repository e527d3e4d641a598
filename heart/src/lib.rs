//! A heartbeat for programs that `osps` supervises, and the data that they share.
//!
//! [`Heart`] beats, [`DataReader`] reads the instance's data area from anywhere, [`DataWriter`]
//! changes it. Three lines make a program one whose freezes are found:
//!
//! ```no_run
//! # fn main() -> Result<(), osps_heart::HeartError> {
//! let mut heart = osps_heart::Heart::from_env()?; // started by: osps run -- this-program
//! while !heart.should_stop() {
//!     heart.beat(); // once per turn of the loop that does the work
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This crate holds whatever runs in a process that osps did not write, and the rules that both
//! sides run. It is small on purpose: no proc macro, no logging, no threads. Linux 5.11 or later,
//! 64-bit little-endian. All processes of an instance run as one user and trust each other that
//! far.
//!
//! The hidden modules are the supervisor's side of it: they may change with any version. Reading
//! order: the numbers and their words, what is shared (`segment`), the rules on it (`pulse`: is it
//! alive; `orphan`: is the watchdog; `ownership`: who may write; `table`: keys and values).

#[cfg(not(target_os = "linux"))]
compile_error!("osps supports Linux only: its segment lives on a tmpfs, its clocks are Linux's.");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("osps supports 64-bit little-endian machines only: the segment's words are such.");

#[doc(hidden)]
pub mod ids;
#[doc(hidden)]
pub mod shown;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod time;
#[doc(hidden)]
pub mod words;

#[doc(hidden)]
pub mod segment;

#[doc(hidden)]
pub mod ownership;
#[doc(hidden)]
pub mod pulse;
#[doc(hidden)]
pub mod table;

#[cfg(not(loom))]
#[doc(hidden)]
pub mod clock;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod orphan;

#[cfg(not(loom))]
mod data;
#[cfg(not(loom))]
mod heart;

#[cfg(not(loom))]
#[doc(hidden)]
pub mod example;

#[cfg(not(loom))]
pub use data::{DataReader, DataWriter};
#[cfg(not(loom))]
pub use heart::{Heart, HeartError};
#[cfg(not(loom))]
pub use segment::area::{OutOfBounds, Update};
