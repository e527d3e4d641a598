//! Reports of hangs: what is seen of a program when it has to go.

use std::path::PathBuf;

use super::Watchdog;
use crate::instance::place::REPORTS;
use crate::report::store::Store;

/// What is kept, and where.
#[derive(Debug)]
pub(super) struct Reports {
    /// The directory; `None` = nothing is kept.
    directory: Option<PathBuf>,
}

impl Reports {
    /// In this directory, if it can be used. An image that takes another one's place does not look:
    /// nobody is watched meanwhile.
    pub(super) fn new(directory: Option<PathBuf>, upgrade: bool) -> Reports {
        let usable = |path: &PathBuf| match Store::at(path.clone()).check() {
            Ok(()) => true,
            Err(why) => {
                log::warn!("no reports of hangs: {why}; choose another --report-dir");
                false
            }
        };
        Reports { directory: directory.filter(|path| upgrade || usable(path)) }
    }
}

impl Watchdog {
    /// Names the directory for those who read reports.
    pub(super) fn name_report_directory(&self) {
        if let Err(failed) = self.claim.run_dir.write(REPORTS, &self.reports.directory) {
            log::debug!("{failed}; readers look for reports in the default place");
        }
    }
}
