//! Telling: one model, many faces. Reads only.
//!
//! A look at an instance is a [`Snapshot`](snapshot::Snapshot); a happening is a
//! [`Record`](osps_heart::segment::Record). Each face renders one of them, and none computes what
//! another would have to compute again.
//!
//! ```text
//! snapshot   the model: what the segment and the kernel say now
//! table      for people;  json: for tools;  status: `osps status`;  list: `osps list`
//! events     records, as lines or JSON: `osps events`
//! health     a look as one line and an exit code: `osps health`
//! gaps       the hearts of a server, and their silences
//! metrics    for Prometheus: `osps metrics`
//! looker     looks again and again, cheaply and without waiting: `osps top`
//! advice     what limits the gaps between beats suggest: `osps status --advice`
//! log        a record as a line of the log; the watchdog's status line
//! ```

pub mod advice;
pub mod events;
pub mod gaps;
pub mod health;
pub mod json;
pub mod list;
pub mod log;
pub mod logs;
pub mod look;
pub mod looker;
pub mod metrics;
pub mod snapshot;
pub mod status;
pub mod table;
