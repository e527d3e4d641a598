//! How long hearts are silent: each gap that a beat has ended is counted in the segment.
//!
//! A histogram has the place of its heart's line and says whose it is, so it goes on with the next
//! process of the service and with the next watchdog; that of a further heart follows its name to
//! whatever line it gets. Tested in tests/gaps.rs.

use osps_heart::ids::SlotId;
use osps_heart::segment::gaps::{Name, NoGaps, OWN};
use osps_heart::segment::layout::{GapCells, HeartCells};

use super::Watchdog;
use crate::policy::group::Line;

impl Watchdog {
    /// Counts the gap that a heart has ended in this look, if it did.
    pub(super) fn count_gap(&mut self, slot: SlotId, line: Line) {
        let Some(gap) = self.group.take_gap(slot, line) else { return };
        if line.is_none() {
            let now = self.group.turn().now;
            self.children[slot.index()].recent.count(now, gap.span);
        }
        let service = self.children[slot.index()].name();
        let place = line.map_or(slot.index(), usize::from);
        let (Some(cells), Some(heart)) =
            (self.segment.gaps().get(place), self.segment.hearts().get(place))
        else {
            return;
        };
        let name = line.map_or(OWN, |_| heart.raw_name());
        if !(cells.is_of(service) && cells.is_of_heart(name)) {
            if line.is_some() {
                self.bring_gaps(place, service, name);
            }
            if !(cells.is_of(service) && cells.is_of_heart(name)) {
                cells.begin(service, name);
            }
        }
        cells.count(gap, self.group.turn().now);
    }

    /// A further heart has another line than before: its histogram changes places with what stands
    /// there, if it has one; else that one goes where there is room.
    fn bring_gaps(&self, place: usize, service: &str, name: Name) {
        let slots = self.segment.slots().len();
        let all = self.segment.hearts().iter().zip(self.segment.gaps()).skip(slots);
        let is_its = |cells: &&GapCells| cells.is_of(service) && cells.is_of_heart(name);
        let mut misplaced = all.clone().filter(|(line, cells)| !self.is_beside(line, cells));
        let known = misplaced.find(|(_, cells)| is_its(cells));
        let free = || all.clone().find(|(_, cells)| cells.is_of(""));
        if let Some((_, other)) = known.or_else(free) {
            self.segment.gaps()[place].exchange(other);
        }
    }

    /// Whether a histogram is of who beats in its line. (Two hearts may have one name.)
    fn is_beside(&self, line: &HeartCells, cells: &GapCells) -> bool {
        let slot = line.claimed().slot;
        let child = slot.and_then(|slot| self.children.get(slot.index()));
        child.is_some_and(|child| cells.is_of(child.name()) && cells.is_of_heart(line.raw_name()))
    }

    /// Before a launch: what somebody scribbled over begins anew.
    pub(super) fn mend_gaps(&self, slot: SlotId) {
        let service = self.children[slot.index()].name();
        for cells in self.segment.gaps() {
            if cells.is_of(service) && cells.read() == Err(NoGaps::Damaged) {
                cells.forget();
            }
        }
    }

    /// A service is not wanted any more: one that comes in its place has a history of its own.
    pub(super) fn forget_gaps(&self, slot: SlotId) {
        let service = self.children[slot.index()].name();
        for cells in self.segment.gaps() {
            if cells.is_of(service) {
                cells.forget();
            }
        }
    }
}
