//! Services as a graph: who needs whom, and where each stands when it is drawn.
//!
//! Edges stand in the files that a watchdog leaves for the next one (`started-SLOT` in the run
//! directory). What is needed stands left of who needs it. Names without a file have no edges.

use std::collections::BTreeMap;
use std::path::Path;

use osps_heart::ids::SlotId;
use serde::{Deserialize, Serialize};

use crate::instance::place::{RunDir, started_name};
use crate::service::Needs;

/// What is read of a file.
#[derive(Debug, Deserialize)]
struct Started {
    service: Needing,
}

#[derive(Debug, Deserialize)]
struct Needing {
    name: String,
    needs: Needs,
}

/// How one needs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// It starts when the other one is up.
    Up,
    /// It starts when the other one is done.
    Done,
    /// It goes down with the other one.
    With,
}

/// One needs another: places in [`Graph::nodes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: Kind,
}

/// A service, in its column and row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) column: usize,
    pub(super) row: usize,
}

/// The graph; without edges there is nothing to draw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

/// The edges of these services, as far as the run directory tells.
pub(super) fn read(run_dir: &Path, services: &[(SlotId, String)]) -> Graph {
    let Ok(dir) = RunDir::visit(run_dir) else { return Graph::default() };
    let needs = services.iter().filter_map(|(slot, name)| {
        let started: Started = dir.read(&started_name(*slot))?;
        // Of another service that had the slot before.
        (started.service.name == *name).then(|| (name.clone(), started.service.needs))
    });
    let needs: BTreeMap<_, _> = needs.collect();
    let names: Vec<_> = services.iter().map(|(_, name)| name.as_str()).collect();
    Graph::of(&names, &needs)
}

impl Graph {
    /// Columns by the longest way, rows in the order of the names.
    fn of(names: &[&str], needs: &BTreeMap<String, Needs>) -> Graph {
        let mut edges = Vec::new();
        for (to, name) in names.iter().enumerate() {
            let Some(needs) = needs.get(*name) else { continue };
            let kinds =
                [(&needs.up, Kind::Up), (&needs.done, Kind::Done), (&needs.with, Kind::With)];
            for (others, kind) in kinds {
                for other in others {
                    let from = names.iter().position(|known| known == other);
                    edges.extend(from.map(|from| Edge { from, to, kind }));
                }
            }
        }
        // Whoever is needed in two ways is shown by the stronger one.
        edges.sort_by_key(|edge| (edge.from, edge.to, std::cmp::Reverse(edge.kind)));
        edges.dedup_by_key(|edge| (edge.from, edge.to));
        edges.retain(|edge| edge.from != edge.to);
        let mut columns = vec![0; names.len()];
        // A circle cannot be, but a file may say anything: as many rounds as there are names.
        for _ in names {
            for edge in &edges {
                columns[edge.to] = columns[edge.to].max((columns[edge.from] + 1).min(names.len()));
            }
        }
        let mut rows = BTreeMap::new();
        let place = |(name, column): (&&str, usize)| {
            let row = rows.entry(column).or_insert(0);
            *row += 1;
            Node { name: (*name).to_owned(), column, row: *row - 1 }
        };
        let nodes = names.iter().zip(columns).map(place).collect();
        Graph { nodes, edges }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(names: &[&str], edges: &[(&str, &str, Kind)]) -> Graph {
        let mut needs: BTreeMap<String, Needs> = BTreeMap::new();
        for (who, whom, kind) in edges {
            let needs = needs.entry((*who).to_owned()).or_default();
            let list = match kind {
                Kind::Up => &mut needs.up,
                Kind::Done => &mut needs.done,
                Kind::With => &mut needs.with,
            };
            list.push((*whom).to_owned());
        }
        Graph::of(names, &needs)
    }

    fn columns(graph: &Graph) -> Vec<(usize, usize)> {
        graph.nodes.iter().map(|node| (node.column, node.row)).collect()
    }

    #[test]
    fn what_is_needed_stands_left_of_who_needs_it() {
        let edges = [
            ("web", "app", Kind::With),
            ("app", "db", Kind::Up),
            ("app", "migrate", Kind::Done),
            ("migrate", "db", Kind::Up),
        ];
        let graph = graph(&["web", "app", "db", "migrate", "cron"], &edges);
        assert_eq!(columns(&graph), [(3, 0), (2, 0), (0, 0), (1, 0), (0, 1)]);
        assert_eq!(graph.edges.len(), 4);
    }

    #[test]
    fn strangers_circles_and_doubles_draw_nothing_odd() {
        assert!(graph(&["a"], &[("a", "gone", Kind::Up)]).edges.is_empty());
        assert!(graph(&["a"], &[("a", "a", Kind::Up)]).edges.is_empty());
        let double = graph(&["a", "b"], &[("a", "b", Kind::Up), ("a", "b", Kind::With)]);
        assert_eq!(double.edges, [Edge { from: 1, to: 0, kind: Kind::With }]);
        let circle = graph(&["a", "b"], &[("a", "b", Kind::Up), ("b", "a", Kind::Up)]);
        assert!(circle.nodes.iter().all(|node| node.column <= 2));
        assert_eq!(graph(&[], &[]), Graph::default());
    }
}
