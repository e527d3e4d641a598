//! What is shared: one mapped file that is the whole truth about an instance.
//!
//! ```text
//! header      who made it, sizes and offsets, intervals, the watchdog's own heartbeat
//! hearts      one 64-byte line per heartbeat, dense, so that a scan is a walk over lines
//! slots       one page per server: the watchdog's half, then the server's half
//! events      ring of the last 1024 records
//! owner       who may write the data area
//! gaps        how long each heart was silent between its beats
//! data        sequence, dirty ranges, copy 0, copy 1
//! ```
//!
//! Everything is little-endian 64-bit atomic words and byte strings made of them: no pointers, no
//! enums, no locks. Offsets never move within a layout version (docs/segment.md). What another
//! process wrote is an *allegation*: bounds and codes are checked by whoever reads them.
//!
//! Crash model: a killed process leaves every store it executed, in an order that the fences
//! allow; power loss is out of scope, the file lives on tmpfs.
//!
//! This stratum knows neither what is decided (`policy`) nor the kernel's other faces (`sys`).

pub mod area;
pub mod events;
pub mod gaps;
pub mod heart;
pub mod layout;
#[cfg(not(loom))]
pub mod mapping;
pub mod owner;
pub mod slot;
pub mod text;

pub use events::{Death, Record, Since, What};
pub use layout::Geometry;
#[cfg(not(loom))]
pub use mapping::{Access, AttachError, CreateOptions, Segment, Times, Unforked};
