//! Who waits for whom, and who goes down with whom: the edges between servers.
//!
//! Two kinds. `depends_on` orders: a server starts when the others are up, and stops before them; a
//! dependency that fails later changes nothing. `restart_with` propagates: when one of those failed
//! for a reason of its own, this one goes down as well, and stops before them, too. Both are edges
//! of one graph without circles, so every start, stop and restart ends.

use osps_heart::ids::SlotId;

/// What one server needs of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// It starts when these are up.
    pub depends_on: Vec<SlotId>,
    /// It starts when these are done: they end, and need not be there after that.
    pub after_done: Vec<SlotId>,
    /// It goes down when one of these failed, and starts again once its own death is confirmed.
    pub restart_with: Vec<SlotId>,
}

impl Edges {
    /// Every server that it stops before, by whichever kind.
    pub fn all(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.depends_on.iter().chain(&self.after_done).chain(&self.restart_with).copied()
    }
}

/// A way from a server back to itself: the first is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<SlotId>);

/// All edges of an instance, without a circle.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    edges: Vec<Edges>,
}

impl Graph {
    /// The graph of these servers, in the order of their slots. Edges to nobody are dropped.
    pub fn new(edges: impl IntoIterator<Item = Edges>) -> Result<Graph, Cycle> {
        let mut graph = Graph { edges: edges.into_iter().collect() };
        let count = graph.edges.len();
        for edges in &mut graph.edges {
            edges.depends_on.retain(|slot| slot.index() < count);
            edges.after_done.retain(|slot| slot.index() < count);
            edges.restart_with.retain(|slot| slot.index() < count);
        }
        graph.cycle().map_or(Ok(graph), Err)
    }

    /// Gives a server other edges; those of a slot that did not exist are new. Who calls has made
    /// sure that there is no circle.
    pub fn set(&mut self, slot: SlotId, edges: Edges) {
        if self.edges.len() <= slot.index() {
            self.edges.resize(slot.index() + 1, Edges::default());
        }
        self.edges[slot.index()] = edges;
    }

    /// Those that stop before it.
    pub fn stop_before(&self, of: SlotId) -> Vec<SlotId> {
        self.slots_with(|edges| edges.all().any(|slot| slot == of))
    }

    /// Those that go down with it, directly or through others.
    pub fn go_with(&self, failed: SlotId) -> Vec<SlotId> {
        let mut found = vec![failed];
        let mut next = 0;
        while let Some(of) = found.get(next).copied() {
            next += 1;
            for slot in self.slots_with(|edges| edges.restart_with.contains(&of)) {
                if !found.contains(&slot) {
                    found.push(slot);
                }
            }
        }
        found.remove(0);
        found.sort_unstable();
        found
    }

    fn slots_with(&self, wanted: impl Fn(&Edges) -> bool) -> Vec<SlotId> {
        (0u8..)
            .map(SlotId)
            .zip(&self.edges)
            .filter(|(_, edges)| wanted(edges))
            .map(|e| e.0)
            .collect()
    }

    /// The first way from a server back to itself.
    fn cycle(&self) -> Option<Cycle> {
        let mut done = vec![false; self.edges.len()];
        let mut path = Vec::new();
        for slot in self.slots_with(|_| true) {
            if let Some(cycle) = self.walk(slot, &mut done, &mut path) {
                return Some(cycle);
            }
        }
        None
    }

    /// Depth first; `path` is the way here. At most one frame per server.
    fn walk(&self, at: SlotId, done: &mut [bool], path: &mut Vec<SlotId>) -> Option<Cycle> {
        if let Some(start) = path.iter().position(|slot| *slot == at) {
            let mut way = path.split_off(start);
            way.push(at);
            return Some(Cycle(way));
        }
        if done[at.index()] {
            return None;
        }
        path.push(at);
        for next in self.edges[at.index()].all() {
            if let Some(cycle) = self.walk(next, done, path) {
                return Some(cycle);
            }
        }
        path.pop();
        done[at.index()] = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(numbers: &[u8]) -> Vec<SlotId> {
        numbers.iter().copied().map(SlotId).collect()
    }

    fn graph(edges: &[(&[u8], &[u8])]) -> Result<Graph, Cycle> {
        let edge = |(depends, restarts): &(&[u8], &[u8])| Edges {
            depends_on: slots(depends),
            after_done: Vec::new(),
            restart_with: slots(restarts),
        };
        Graph::new(edges.iter().map(edge))
    }

    #[test]
    fn restarts_propagate_through_others_and_dependencies_do_not() {
        // 1 restarts with 0, 2 with 1; 3 only depends on 0, 4 restarts with 3.
        let graph = graph(&[(&[], &[]), (&[], &[0]), (&[], &[1]), (&[0], &[]), (&[], &[3])]);
        let graph = graph.expect("no circle");
        assert_eq!(graph.go_with(SlotId(0)), slots(&[1, 2]));
        assert_eq!(graph.go_with(SlotId(1)), slots(&[2]));
        assert_eq!(graph.go_with(SlotId(3)), slots(&[4]));
        assert_eq!(graph.go_with(SlotId(9)), []);
        assert_eq!(graph.stop_before(SlotId(0)), slots(&[1, 3]));
    }

    #[test]
    fn circles_are_refused_with_their_path() {
        for (edges, path) in [
            (vec![(&[0u8][..], &[][..])], &[0, 0][..]),
            (vec![(&[1], &[]), (&[], &[0])], &[0, 1, 0]),
            (vec![(&[], &[]), (&[0], &[2]), (&[3], &[]), (&[], &[1])], &[1, 2, 3, 1]),
        ] {
            assert_eq!(graph(&edges).expect_err("a circle"), Cycle(slots(path)));
        }
    }

    #[test]
    fn two_ways_to_one_server_are_no_circle_and_nobody_is_nothing() {
        let diamond = graph(&[(&[], &[]), (&[0], &[0]), (&[0], &[]), (&[1, 2], &[1, 200])]);
        let diamond = diamond.expect("no circle");
        assert_eq!(diamond.go_with(SlotId(0)), slots(&[1, 3]), "each once");
        assert_eq!(diamond.stop_before(SlotId(0)), slots(&[1, 2]));
        assert_eq!(diamond.stop_before(SlotId(200)), []);
    }
}
