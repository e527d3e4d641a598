//! The built-in pair: a primary, its secondaries, and what only they need.
//!
//! For the rest of the house this is a list of services and a program that goes on behind the gate;
//! only `main` and `config` know that it is there.
//!
//! ```text
//! plan        the pair as services: sockets, FIFOs, who goes with whom
//! server      what both servers do;  role: the seam;  primary, secondary: what only one does
//! slot_view   a server's view of the segment;  link, wire: its FIFOs and their frames
//! dispatch    which secondary gets the next client, and what became of the jobs
//! clients     their connections;  store: what their bytes mean;  fault: made by hand
//! client      `osps client`
//! ```

pub mod client;
pub mod clients;
pub mod dispatch;
pub mod fault;
pub mod link;
pub mod plan;
pub mod primary;
pub mod role;
pub mod secondary;
pub mod server;
pub mod slot_view;
pub mod store;
pub mod wire;
