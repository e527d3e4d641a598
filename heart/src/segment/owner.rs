//! The owner word: who may write the data area.
//!
//! It changes by compare-exchange of the whole word only: the arbiter grants and takes back, the
//! watchdog clears what a dead generation held. Holders only read it. Beside it stands the pending
//! recall, which the arbiter writes and everybody reads.

use super::layout::OwnerCells;
use crate::ids::{Epoch, Owner};
use crate::sync::Ordering;
use crate::time::Monotonic;

impl OwnerCells {
    /// Who owns the data area now.
    pub fn current(&self) -> Owner {
        // Acquire: pairs with the release in `exchange`.
        Owner::unpack(self.word.load(Ordering::Acquire))
    }

    /// Replaces exactly `from` by `to`. `false` = somebody else changed it meanwhile: look again.
    pub fn exchange(&self, from: Owner, to: Owner) -> bool {
        // Release: what the old owner did (and the kernel's word that it is dead) comes before what
        // the new one does, which looks with acquire; so did who calls this, to know `from`.
        self.word
            .compare_exchange(from.pack(), to.pack(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Asks for an epoch back. Arbiter only. Asking again does not make it younger.
    pub fn set_recall(&self, epoch: Epoch, now: Monotonic) {
        if self.recall_epoch.load(Ordering::Relaxed) != epoch.0 {
            self.recall_since_ns.store(now.0, Ordering::Relaxed);
            // Release: whoever sees the epoch sees its time.
            self.recall_epoch.store(epoch.0, Ordering::Release);
        }
    }

    /// The epoch that the arbiter wants back, and since when, as it says; epoch 0 = none.
    pub fn recall(&self) -> Option<(Epoch, Monotonic)> {
        let epoch = self.recall_epoch.load(Ordering::Acquire);
        let since = Monotonic(self.recall_since_ns.load(Ordering::Relaxed));
        (epoch != 0).then_some((Epoch(epoch), since))
    }
}
