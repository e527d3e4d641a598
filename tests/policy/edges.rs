//! Who needs whom, once more: every way through the edges, read off a matrix.

use osps::policy::graph::{Cycle, Edges};
use osps::policy::group::{Group, Spec};
use osps::policy::lifecycle::Patience;
use osps_heart::ids::SlotId;
use osps_heart::pulse::Limits;
use proptest::collection::vec;
use proptest::prelude::*;

use super::draw::{BOOT, config, ms};

/// Between which servers there is a way, of one edge or more.
fn ways(count: usize, is_edge: impl Fn(usize, usize) -> bool) -> Vec<Vec<bool>> {
    let row = |from| (0..count).map(|to| is_edge(from, to)).collect();
    let mut ways: Vec<Vec<bool>> = (0..count).map(row).collect();
    for over in 0..count {
        for from in 0..count {
            for to in 0..count {
                ways[from][to] |= ways[from][over] && ways[over][to];
            }
        }
    }
    ways
}

/// Whether this one goes down with that one, directly or through others.
pub fn goes_with(specs: &[Spec], slot: SlotId, failed: SlotId) -> bool {
    let is_edge = |from: usize, to: usize| {
        specs[from].edges.restart_with.iter().any(|with| with.index() == to)
    };
    ways(specs.len(), is_edge)[slot.index()][failed.index()]
}

/// Whether this one needs that one directly, in one way or the other.
pub fn needs(edges: &Edges, other: SlotId) -> bool {
    edges.all().any(|on| on == other)
}

fn spec(edges: Edges) -> Spec {
    let limits = Limits { hang: ms(4000), start: ms(10_000) };
    let patience = Patience { ask: ms(50), term: ms(10), kill: ms(40) };
    Spec { edges, limits, patience, ..Spec::default() }
}

proptest! {
    #![proptest_config(config(1024))]

    /// A group is refused if and only if somebody waits for itself, and the way that is named is
    /// one. Edges to nobody are no way.
    #[test]
    fn a_group_is_refused_for_a_circle_only(
        count in 1..=6_usize,
        edges in vec((0..6_usize, 0..8_u8, any::<bool>()), 0..9),
    ) {
        let mut specs = vec![spec(Edges::default()); count];
        for (from, to, orders) in edges {
            let edges = &mut specs[from % count].edges;
            let kind = if orders { &mut edges.depends_on } else { &mut edges.restart_with };
            kind.push(SlotId(to));
        }
        let slot = |index: usize| SlotId(u8::try_from(index).expect("few"));
        let ways = ways(count, |from, to| needs(&specs[from].edges, slot(to)));
        let circle = (0..count).any(|at| ways[at][at]);
        match Group::new(BOOT, &specs) {
            Ok(_) => prop_assert!(!circle, "a circle was not found"),
            Err(Cycle(way)) => {
                prop_assert!(circle, "no circle: {way:?}");
                prop_assert!(way.len() > 1 && way.first() == way.last(), "{way:?}");
                for step in way.windows(2) {
                    prop_assert!(needs(&specs[step[0].index()].edges, step[1]), "{way:?}");
                }
                let mut once = way[1..].to_vec();
                once.sort_unstable();
                once.dedup();
                prop_assert_eq!(once.len(), way.len() - 1, "the same one twice: {:?}", way);
            }
        }
    }
}
