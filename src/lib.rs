//! osps: a Linux supervisor that can tell *frozen* from *alive*.
//!
//! This library is the program in parts, for its own tests and benches; a program that wants to
//! beat uses the crate `osps-heart`. The folder names are the architecture (docs/architecture.md):
//! what is decided (`policy`), what touches Linux (`sys`), the file that a command executes
//! (`program`), one supervised program (`service`), who lives here (`instance`), beating for others
//! (`prober`), what was seen of who had to go (`report`), telling (`view`, live in `top` and in a
//! browser by `page`), supervising (`watchdog`), trying it out (`drill`), the built-in pair
//! (`pair`), what the operator wants (`config`, `cli`), and what is handed out beside the binary
//! (`manual`).

#[cfg(not(target_os = "linux"))]
compile_error!("osps supports Linux only: it supervises through pidfds, signalfd and /proc.");

#[doc(hidden)]
pub mod policy;
#[doc(hidden)]
pub mod sys;

#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod instance;
#[doc(hidden)]
pub mod prober;
#[doc(hidden)]
pub mod program;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod service;
#[doc(hidden)]
pub mod top;
#[doc(hidden)]
pub mod view;
#[doc(hidden)]
pub mod watchdog;

#[doc(hidden)]
pub mod page;

pub mod drill;
#[doc(hidden)]
pub mod pair;

#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod manual;
