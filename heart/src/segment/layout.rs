//! The bytes of the segment: cells, offsets and sizes, with nothing that runs.
//!
//! Every structure is `repr(C)`, made of [`Word`]s only and without padding, so that C, Python or
//! `od` can read it. `docs/segment.md` prints these tables and a test compares them. A change
//! that moves a word is a new [`VERSION`].

use crate::sync::Word;
use crate::words::{Cause, Class};

/// First word of every segment: "OSPSSEG" and the digit of the family, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OSPSSEG1");
/// Layout version, the word that is written last at creation: 0 means "not finished".
pub const VERSION: u64 = 5;
/// Sections start on page boundaries, so that a reader may map a part.
pub const PAGE: usize = 4096;
/// Most slots of an instance: their numbers have a byte in the words that name an owner or a
/// claimant, and "nobody" and the watchdog need one each.
pub const SLOTS_MAX: usize = 254;
/// Most heart lines of an instance; bounds what a damaged header can make a reader map.
pub const HEARTS_MAX: usize = 1 << 16;
/// Heart lines of an ordinary instance: each server's own, and room for named further ones.
pub const HEARTS_DEFAULT: usize = 256;
/// Events kept. A crash loop writes some five events a restart, so this is the last 200 restarts.
pub const EVENTS: usize = if cfg!(loom) { 2 } else { 1024 };
/// Words of a set of slots: a bit for each.
pub const SLOT_SET: usize = 4;
/// Words that a slot has for its recent deaths: two counts and their moments, monotonic ns.
pub const TALLY: usize = 130;
/// Buckets of a histogram of gaps, two to each doubling from a millisecond to 18 minutes. More cost
/// memory for each heart; fewer, and the advice is coarser than people set limits.
pub const GAP_BUCKETS: usize = 42;
/// Dirty ranges listed before one range stands for everything.
pub const RANGES: usize = 496;
/// Largest data area, a page below 4 GiB: range entries hold 32-bit offsets and lengths.
pub const DATA_MAX: u64 = (1 << 32) - 4096;

/// The header page. Written by the watchdog.
#[derive(Debug)]
#[repr(C)]
pub struct HeaderCells {
    /// [`MAGIC`].
    pub magic: Word,
    /// [`VERSION`], stored last (release): whoever sees it sees a whole header.
    pub version: Word,
    /// Bytes of the file.
    pub total_size: Word,
    /// Offset and number of the heart lines.
    pub hearts_offset: Word,
    /// Number of heart lines.
    pub hearts_count: Word,
    /// Offset of the first slot page.
    pub slots_offset: Word,
    /// Number of slots in use.
    pub slots_count: Word,
    /// Offset of the event ring.
    pub events_offset: Word,
    /// Entries of the event ring.
    pub events_count: Word,
    /// Offset of the owner page.
    pub owner_offset: Word,
    /// Offset of the data area's control page; copy 0 follows it, then copy 1.
    pub data_offset: Word,
    /// Bytes of one copy of the data area.
    pub data_size: Word,
    /// Bytes of one cell of the table in the data area.
    pub cell_size: Word,
    /// Flag bits: see [`flag`].
    pub flags: Word,
    /// Boot id of the kernel that ran when the segment was made.
    pub boot_id: [Word; 2],
    /// Name of the instance, UTF-8, zero-padded.
    pub name: [Word; 8],
    /// Process id of the watchdog.
    pub watchdog_pid: Word,
    /// Its start time in clock ticks since boot, as in `/proc/PID/stat`.
    pub watchdog_start_time: Word,
    /// When it started, monotonic ns.
    pub started_ns: Word,
    /// When it started, ns since 1970.
    pub started_unix_ns: Word,
    /// Silence that convicts, ns.
    pub hang_timeout_ns: Word,
    /// Longest time between two checks, ns.
    pub check_interval_ns: Word,
    /// Longest time between two beats that servers promise, ns.
    pub beat_interval_ns: Word,
    /// Time to the first beat, ns.
    pub start_timeout_ns: Word,
    /// Time to leave after the stop order, ns.
    pub stop_timeout_ns: Word,
    /// How long servers outlive a dead or frozen watchdog, ns.
    pub orphan_timeout_ns: Word,
    /// Last generation given out, over all slots.
    pub generation: Word,
    /// Log and status lines that were dropped because nobody read them.
    pub dropped_lines: Word,
    /// Offset of the histograms of gaps.
    pub gaps_offset: Word,
    /// Turns of the watchdog that came so late that limits ran again.
    pub late_turns: Word,
    /// How late its latest turn so far was, ns.
    pub worst_lag_ns: Word,
    /// How late its last turn was, ns.
    pub lag_ns: Word,
    /// The watchdog's own heartbeat, on a line of its own.
    pub watchdog_heart: HeartCells,
}

/// Bits of [`HeaderCells::flags`].
pub mod flag {
    /// osps made the run directory and removes it.
    pub const MADE_DIR: u64 = 1;
    /// osps made the directory above it as well, and removes it when it is empty.
    pub const MADE_PARENT: u64 = 2;
    /// `DEBUG` commands are answered.
    pub const ALLOW_DEBUG: u64 = 4;
}

/// One heartbeat: one cache line, because two writers on one line cost each of them six times the
/// store. `count` and `stamp_ns` are written by the claimant, `claim` by compare-exchange by
/// whoever claims the line and by the watchdog, the rest by the watchdog.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct HeartCells {
    /// Beats so far. Never reset: only a change means anything. Stored last (release).
    pub count: Word,
    /// Monotonic ns of the beat; 0 where only the count is kept, all ones (`pulse::PARKED`) where
    /// silence means nothing until the next beat.
    pub stamp_ns: Word,
    /// Silence that convicts, ns. In a server's own line for readers outside, the watchdog judges
    /// by its own figure; in a further line by who claimed it, 0 = as the server's own.
    pub limit_ns: Word,
    /// Whose heart this is and who beats in it, see `ids::Claim`; 0 = free line.
    pub claim: Word,
    /// Name, UTF-8, zero-padded.
    pub name: [Word; 4],
}

/// One server's page.
#[derive(Debug)]
#[repr(C)]
pub struct SlotCells {
    /// The half that the watchdog writes.
    pub server: ServerCells,
    /// The half that the server in the slot writes.
    pub activity: ActivityCells,
}

/// What the watchdog says of a server.
#[derive(Debug)]
#[repr(C)]
pub struct ServerCells {
    /// Name, UTF-8, zero-padded.
    pub name: [Word; 4],
    /// Role, see `words::Role`.
    pub role: Word,
    /// State, see `words::State`.
    pub state: Word,
    /// Process id, 0 = none. Cleared before and stored after the other words of the identity.
    pub pid: Word,
    /// Start time in clock ticks since boot.
    pub start_time: Word,
    /// Generation of the process.
    pub generation: Word,
    /// What the operator wants, see `words::Desired`. Servers look at it at every beat.
    pub desired: Word,
    /// When the state was entered, monotonic ns.
    pub since_ns: Word,
    /// When the process was spawned, monotonic ns.
    pub spawned_ns: Word,
    /// Value of the heart's count when the process was spawned.
    pub baseline: Word,
    /// Listening address as text, UTF-8, zero-padded; empty = none.
    pub listen: [Word; 8],
    /// Processes started in this slot.
    pub starts: Word,
    /// Restarts per cause, in the order of `words::Cause`.
    pub restarts: [Word; Cause::ALL.len()],
    /// Cause of the last restart, 0 = none.
    pub last_cause: Word,
    /// Class of the last freeze, 0 = none.
    pub last_class: Word,
    /// Silence when the last verdict fell, ns.
    pub last_silence_ns: Word,
    /// Slot number + 1 of the server that a blocked one waits for, 0 = none.
    pub blocked_by: Word,
    /// Who beats for it, see `words::HeartSource`; 0 = not known.
    pub heart_source: Word,
    /// Whether its silence convicts it now, see `words::Watched`; 0 = not known.
    pub watched: Word,
    /// Name of the heart that the last verdict was about, UTF-8, zero-padded; empty = its own.
    pub last_heart: [Word; 4],
    /// Until when it is not judged, monotonic ns; 0 = it is judged.
    pub paused_until_ns: Word,
    /// What it shall do, see `words::Goal`: for the next watchdog, if this one is killed.
    pub goal: Word,
    /// When a server that backs off starts again, monotonic ns; 0 = it does not.
    pub due_ns: Word,
    /// Nobody convicts it before, monotonic ns: for the next watchdog, too.
    pub excused_until_ns: Word,
    /// Its recent deaths, see `tally`: for the next watchdog, too.
    pub tally: [Word; TALLY],
    /// Its listening sockets that osps does not hold: whoever has them goes on with them, and they
    /// are bound again at its next start.
    pub unheld: Word,
    /// Process that does the work, as the program said (`MAINPID`), 0 = the leader: for the next
    /// watchdog, too.
    pub main_pid: Word,
    /// Its start time.
    pub main_start: Word,
    /// Since when its process is up, monotonic ns; 0 = it is not: for the next watchdog, too.
    pub up_since_ns: Word,
    /// Generation of the last process whose gate was opened: what never ran is not counted.
    pub opened: Word,
    /// Verdicts of cause `frozen` per class, in the order of `words::Class`.
    pub hangs: [Word; Class::ALL.len()],
    /// Hang reports that were written about it.
    pub reports: Word,
    /// Number of the newest of them, 0 = none.
    pub last_report: Word,
    /// Name of the service that it is an instance of, UTF-8, zero-padded.
    pub family: [Word; 4],
    /// Slots that it waits for until they are up, see `slot::store_set`.
    pub depends_on: [Word; SLOT_SET],
    /// Slots that it waits for until they are done.
    pub after_done: [Word; SLOT_SET],
    /// Slots that it goes down with.
    pub restart_with: [Word; SLOT_SET],
    /// Room for later fields.
    pub reserved: [Word; 179 - TALLY],
}

/// What the server in the slot says of itself.
#[derive(Debug)]
#[repr(C)]
pub struct ActivityCells {
    /// Client connections it serves.
    pub sessions: Word,
    /// Generation of the peer that its FIFO link was last confirmed with; 0 = link down.
    pub link: Word,
    /// Frames dropped: malformed, misaddressed or of another generation.
    pub frames_dropped: Word,
    /// Guard of `text`: odd while it is being written.
    pub text_guard: Word,
    /// "What am I doing", UTF-8, zero-padded.
    pub text: [Word; 12],
    /// Client connections that wait for the ownership of the data.
    pub parked: Word,
    /// When it last committed a change of the data, monotonic ns.
    pub committed_ns: Word,
    /// Generation of the process that looks at its desired word; 0 = nobody does, so a stop begins
    /// with the stop signal.
    pub heeds: Word,
    /// Room for later fields and the flight recorder.
    pub reserved: [Word; 237],
}

/// The ring of events.
#[derive(Debug)]
#[repr(C)]
pub struct RingCells {
    /// Events ever written.
    pub head: Word,
    /// Room to a line boundary.
    pub reserved: [Word; 7],
    /// Event number `n` is entry `n % 1024`.
    pub entries: [EventCells; EVENTS],
}

/// One event, with everything that is said of it: names change, and slots find new services.
#[derive(Debug)]
#[repr(C)]
pub struct EventCells {
    /// Event number + 1, 0 while being written.
    pub ticket: Word,
    /// Monotonic ns.
    pub time_ns: Word,
    /// Slot number + 1, 0 = the watchdog itself.
    pub slot: Word,
    /// Generation of the process in the slot.
    pub generation: Word,
    /// Kind, see `words::Event`.
    pub kind: Word,
    /// The kind's arguments.
    pub arguments: [Word; 3],
    /// Ns since 1970, 0 = not known.
    pub unix_ns: Word,
    /// Process id of the process in the slot, or of the watchdog; 0 = none.
    pub pid: Word,
    /// State until then, see `words::State`, + 1; 0 = the state did not change.
    pub from: Word,
    /// State from then on + 1, 0 = as above.
    pub to: Word,
    /// Limit in force of the heart that it is about, ns; 0 = not said.
    pub limit_ns: Word,
    /// How long the process had been up, ns; 0 = not said.
    pub up_ns: Word,
    /// Time from a kill without grace to the confirmed death, ns; 0 = not said.
    pub took_ns: Word,
    /// Name of the service in the slot, UTF-8, zero-padded; empty = the watchdog itself.
    pub name: [Word; 4],
    /// Name of the further heart that it is about, UTF-8, zero-padded; empty = its own.
    pub heart: [Word; 4],
    /// What the kind has a word more for, UTF-8, zero-padded.
    pub detail: [Word; 5],
    /// What the kind has a longer text for, UTF-8, zero-padded.
    pub text: [Word; 12],
}

/// Who may write the data area.
#[derive(Debug)]
#[repr(C)]
pub struct OwnerCells {
    /// Slot (8 bits, none = 0xff), generation (low 16 bits), epoch (40 bits).
    pub word: Word,
    /// Epoch that the arbiter wants back, 0 = none.
    pub recall_epoch: Word,
    /// Since when, monotonic ns.
    pub recall_since_ns: Word,
    /// Room for later fields.
    pub reserved: [Word; 509],
}

/// How long one heart was silent between its beats, over all processes of its service. Written by
/// the watchdog. Number `i` is that of heart line `i`, as long as the names agree.
#[derive(Debug)]
#[repr(C)]
pub struct GapCells {
    /// Name of the service, UTF-8, zero-padded; empty = this is nobody's yet.
    pub service: [Word; 4],
    /// Name of the further heart, UTF-8, zero-padded; empty = the service's own.
    pub heart: [Word; 4],
    /// When the first gap was counted, monotonic ns.
    pub since_ns: Word,
    /// When the last one was.
    pub last_ns: Word,
    /// Limit that was in force then, ns.
    pub limit_ns: Word,
    /// The longest one, ns.
    pub worst_ns: Word,
    /// Gaps that were found late, and ended by a beat.
    pub near_misses: Word,
    /// Gaps by their length, see `gaps::bucket`.
    pub buckets: [Word; GAP_BUCKETS],
    /// All of them together, ns.
    pub sum_ns: Word,
    /// Room for later fields.
    pub reserved: [Word; 50 - GAP_BUCKETS],
}

/// Control page of the data area. Written by the owner.
#[derive(Debug)]
#[repr(C)]
pub struct AreaCells {
    /// Commits so far; copy `sequence & 1` is the good one.
    pub sequence: Word,
    /// Keys in the table, as of the last commit. For people only.
    pub keys: Word,
    /// Room to a line boundary.
    pub reserved: [Word; 6],
    /// Entries in `ranges`; all ones = everything is dirty.
    pub range_count: Word,
    /// Room to a line boundary.
    pub reserved_too: [Word; 7],
    /// Where the copies may differ: offset << 32 | length, in bytes.
    pub ranges: [Word; RANGES],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<HeaderCells>() <= PAGE);
    // No padding: the last word ends where the heart's line begins.
    assert!(
        std::mem::offset_of!(HeaderCells, lag_ns) + 8
            == std::mem::offset_of!(HeaderCells, watchdog_heart)
    );
    assert!(size_of::<HeartCells>() == 64 && align_of::<HeartCells>() == 64);
    assert!(size_of::<SlotCells>() == PAGE && size_of::<ServerCells>() == PAGE / 2);
    assert!(SLOTS_MAX <= SLOT_SET * 64);
    assert!(size_of::<EventCells>() == 320 && size_of::<GapCells>() == 512);
    assert!(size_of::<OwnerCells>() == PAGE && size_of::<AreaCells>() == PAGE);
};

/// Where the sections of one segment lie, in bytes from its start. Computed from four sizes, so
/// a stored header is believed only if computing it again gives the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of slots, 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// Number of heart lines, at least one per slot.
    pub hearts: usize,
    /// Bytes of one copy of the data area, a multiple of a page.
    pub data_size: u64,
    /// Bytes of one table cell.
    pub cell_size: u64,
    /// Offset of the heart lines.
    pub hearts_offset: usize,
    /// Offset of the slot pages.
    pub slots_offset: usize,
    /// Offset of the event ring.
    pub events_offset: usize,
    /// Offset of the owner page.
    pub owner_offset: usize,
    /// Offset of the histograms of gaps, one for each heart line.
    pub gaps_offset: usize,
    /// Offset of the data area's control page.
    pub data_offset: usize,
    /// Bytes of the file.
    pub total_size: usize,
}

impl Geometry {
    /// The layout for these sizes; `None` if one is out of bounds. `data_size` is rounded up to
    /// whole pages.
    pub fn new(slots: usize, hearts: usize, data_size: u64, cell_size: u64) -> Option<Geometry> {
        let sound = (1..=SLOTS_MAX).contains(&slots)
            && (slots..=HEARTS_MAX).contains(&hearts)
            && (1..=DATA_MAX).contains(&data_size)
            && cell_size <= data_size;
        if !sound {
            return None;
        }
        let data_size = data_size.next_multiple_of(PAGE as u64);
        let copy = usize::try_from(data_size).ok()?;
        let pages = |bytes: usize| bytes.next_multiple_of(PAGE);
        let hearts_offset = PAGE;
        let slots_offset = hearts_offset + pages(hearts * size_of::<HeartCells>());
        let events_offset = slots_offset + slots * PAGE;
        let owner_offset = events_offset + pages(size_of::<RingCells>());
        let gaps_offset = owner_offset + PAGE;
        let data_offset = gaps_offset + pages(hearts * size_of::<GapCells>());
        let total_size = (data_offset + PAGE).checked_add(copy.checked_mul(2)?)?;
        Some(Geometry {
            slots,
            hearts,
            data_size,
            cell_size,
            hearts_offset,
            slots_offset,
            events_offset,
            owner_offset,
            gaps_offset,
            data_offset,
            total_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other_on_page_boundaries() {
        for (slots, hearts, data) in [(1, 1, 1), (2, 128, 1 << 20), (33, 10_000, DATA_MAX)] {
            let g = Geometry::new(slots, hearts, data, 1).expect("sizes within bounds");
            let offsets = [
                0,
                g.hearts_offset,
                g.slots_offset,
                g.events_offset,
                g.owner_offset,
                g.gaps_offset,
                g.data_offset,
            ];
            assert!(offsets.is_sorted());
            assert!(offsets.iter().all(|offset| offset % PAGE == 0));
            assert!(g.slots_offset - g.hearts_offset >= hearts * 64);
            assert!(g.data_offset - g.gaps_offset >= hearts * 512);
            assert_eq!(g.total_size as u64, g.data_offset as u64 + 4096 + 2 * g.data_size);
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        for (slots, hearts, data, cell) in [
            (0, 1, 1, 1),
            (SLOTS_MAX + 1, HEARTS_MAX, 1, 1),
            (2, 1, 1, 1),
            (1, HEARTS_MAX + 1, 1, 1),
            (1, 1, 0, 0),
            (1, 1, DATA_MAX + 1, 1),
            (1, 1, 100, 101),
            (usize::MAX, usize::MAX, u64::MAX, 0),
        ] {
            assert_eq!(Geometry::new(slots, hearts, data, cell), None);
        }
    }
}
