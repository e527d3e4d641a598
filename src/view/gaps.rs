//! The hearts of a server with their limits, and how long each was silent between its beats: for
//! the advice and for metrics. What a gap is: docs/verdicts.md.

use std::time::Duration;

use osps_heart::segment::gaps::{Gaps, NoGaps, OWN};
use osps_heart::segment::layout::GapCells;
use osps_heart::segment::{Segment, text};

use super::snapshot::Server;

/// What is known of one heart, or of several of one name: they do the same work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartGaps {
    /// Name of a further heart; `None` = the service's own.
    pub heart: Option<String>,
    /// The limit in force.
    pub limit: Option<Duration>,
    /// Its gaps, over all processes of the service.
    pub gaps: Result<Gaps, NoGaps>,
}

/// The hearts of a server: its own, and all that ever had a name, in the order of the names.
pub fn of(segment: &Segment, server: &Server) -> Vec<HeartGaps> {
    let (own, further) = segment.gaps().split_at(segment.slots().len());
    let own = &own[server.slot];
    let is_own = own.is_of(&server.name) && own.is_of_heart(OWN);
    let mut all = vec![HeartGaps {
        heart: None,
        limit: server.limit,
        gaps: if is_own { own.read() } else { Err(NoGaps::Empty) },
    }];
    let mut named: Vec<(String, Result<Gaps, NoGaps>)> = Vec::new();
    for cells in further.iter().filter(|cells: &&GapCells| cells.is_of(&server.name)) {
        let (name, read) = (text::load(&cells.heart), cells.read());
        match named.iter_mut().find(|(known, _)| *known == name) {
            None => named.push((name, read)),
            Some((_, known)) => {
                *known = match (known.clone(), read) {
                    (Ok(known), Ok(more)) => Ok(known.and(&more)),
                    (Ok(gaps), Err(_)) | (Err(_), Ok(gaps)) => Ok(gaps),
                    (Err(known), Err(_)) => Err(known),
                };
            }
        }
    }
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    all.extend(named.into_iter().map(|(name, gaps)| HeartGaps {
        heart: Some(name),
        limit: gaps.as_ref().ok().map(|gaps| gaps.limit),
        gaps,
    }));
    all
}
