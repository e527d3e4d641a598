//! Who lives here: the run directory, its lock, its servers' way in, its control socket.
//!
//! It reports, it decides nothing, and it never kills: what a killed watchdog left is told to
//! whoever claims the directory, and a stop is asked for.
//!
//! ```text
//! place       the directory: found, checked, swept, removed
//! find        which instances there are, of whom
//! claim       taking it, for a watchdog
//! life        whether a watchdog lives;  survivors: who is left of a killed instance
//! outside     files of an instance that lie elsewhere
//! shim        what it preloads into programs whose event loop is watched
//! exec        the trampoline that every server starts as;  orders: what it is to become
//! control     the socket that answers requests;  ask: the one who asks
//! beat        one beat, from within a script that is supervised
//! ```

pub mod ask;
pub mod beat;
pub mod claim;
pub mod control;
pub mod exec;
pub mod find;
pub mod life;
pub mod orders;
pub mod outside;
pub mod place;
pub mod shim;

pub mod survivors;
