//! What a built-in server knows of itself and of its peers: its view of the segment.

use osps_heart::clock::SystemClock;
use osps_heart::ids::{Generation, Owner, SlotId};
use osps_heart::segment::Segment;
use osps_heart::segment::layout::{HeartCells, SlotCells};

/// What a server knows of itself.
#[derive(Debug)]
pub struct SlotView {
    /// Its slot.
    pub slot: SlotId,
    /// Its generation.
    pub generation: Generation,
    /// Its name.
    pub name: String,
    /// The segment.
    pub segment: Segment,
    /// Its clock.
    pub clock: SystemClock,
}

impl SlotView {
    /// Its page.
    pub fn page(&self) -> &SlotCells {
        &self.segment.slots()[self.slot.index()]
    }

    /// Its heart.
    pub fn heart(&self) -> &HeartCells {
        &self.segment.hearts()[self.slot.index()]
    }

    /// The generation that the watchdog last published for a slot.
    pub fn generation_in(&self, slot: SlotId) -> Generation {
        let page = self.segment.slots().get(slot.index());
        page.map_or(Generation(0), |page| page.server.current_generation())
    }

    /// The generation that lives in a slot; `None` = nobody, or confirmed dead.
    pub fn live_in(&self, slot: SlotId) -> Option<Generation> {
        let page = self.segment.slots().get(slot.index())?;
        page.server.identity().map(|identity| identity.generation)
    }

    /// The owner word.
    pub fn owner(&self) -> Owner {
        self.segment.owner().current()
    }
}
