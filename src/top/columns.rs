//! Where the columns of the list stand: what matters most comes first, and what does not fit last
//! goes first.

use ratatui_core::text::Span;

use super::model::{COLUMNS, Row};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    State,
    Beat,
    Rate,
    Trace,
    Restarts,
    Sessions,
    Note,
}

/// Fields from left to right: where each begins and how wide it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns(Vec<(Field, u16, u16)>);

/// The longest name that is shown whole where there is little room.
const NAME_MAX: u16 = 16;
const STATE: u16 = 8;
const BEAT: u16 = 7;
const RATE: u16 = 5;
const RESTARTS: u16 = 3;
const SESSIONS: u16 = 4;
/// The narrowest trace that is worth its place.
const TRACE_MIN: u16 = 8;

impl Field {
    /// Whether it stands at its right edge: numbers.
    pub(super) fn is_right(self) -> bool {
        matches!(self, Field::Beat | Field::Rate | Field::Restarts | Field::Sessions)
    }

    pub(super) fn title(self, width: usize) -> String {
        match self {
            Field::Name => "SERVER".to_owned(),
            Field::State => "STATE".to_owned(),
            Field::Beat => "BEAT".to_owned(),
            Field::Rate => "RATE".to_owned(),
            Field::Trace if width >= 15 => format!("LAST {width} SECONDS"),
            Field::Trace => format!("LAST {width} S"),
            Field::Restarts => "RST".to_owned(),
            Field::Sessions => "SES".to_owned(),
            Field::Note => "NOTE".to_owned(),
        }
    }
}

impl Columns {
    /// For this width and these rows.
    pub(super) fn of(width: u16, rows: &[&Row]) -> Columns {
        let name = |row: &&Row| Span::raw(&row.server.name).width() + usize::from(row.owns);
        let longest = rows.iter().map(name).max().unwrap_or(0).clamp(6, 33);
        let longest = u16::try_from(longest).unwrap_or(NAME_MAX);
        let name = if width < 100 { longest.min(NAME_MAX) } else { longest };
        // Of what is left, the trace gets about half.
        let fixed = name + STATE + BEAT + RATE + RESTARTS + SESSIONS + 2 + 9;
        let rest = width.saturating_sub(fixed);
        let trace = (rest / 2).clamp(TRACE_MIN, u16::try_from(COLUMNS).unwrap_or(60));
        let all = [
            (Field::Name, name),
            (Field::State, STATE),
            (Field::Beat, BEAT),
            (Field::Rate, RATE),
            (Field::Trace, trace),
            (Field::Restarts, RESTARTS),
            (Field::Sessions, SESSIONS),
            (Field::Note, u16::MAX),
        ];
        let mut x: u16 = 2;
        let mut found = Vec::new();
        for (field, wide) in all {
            if x >= width {
                break;
            }
            // A number that is cut would be another number.
            let left = width - x;
            let is_cut = wide > left && !matches!(field, Field::Name | Field::Note);
            if is_cut {
                break;
            }
            let wide = wide.min(left);
            found.push((field, x, wide));
            let space = if matches!(field, Field::Rate | Field::Sessions) { 2 } else { 1 };
            x = x.saturating_add(wide).saturating_add(space);
        }
        Columns(found)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Field, u16, u16)> + '_ {
        self.0.iter().copied()
    }
}
