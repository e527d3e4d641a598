//! Services as a graph: who needs whom, and where each stands when it is drawn.
//!
//! What is needed stands left of who needs it. Names that nobody has are no edges.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::view::snapshot::Server;

/// A service, and whom it needs: up, done, and to go down with.
type Needing<'a> = (&'a str, [&'a [String]; 3]);

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

impl Graph {
    /// Of these servers.
    pub(super) fn of(servers: &[Server]) -> Graph {
        let mut needing: Vec<Needing<'_>> = Vec::new();
        for one in servers {
            needing.push((&one.name, [&one.depends_on, &one.after_done, &one.restart_with]));
        }
        Graph::between(&needing)
    }

    /// Columns by the longest way, rows in the order of the names.
    fn between(services: &[Needing<'_>]) -> Graph {
        let mut edges = Vec::new();
        for (to, (_, needs)) in services.iter().enumerate() {
            for (others, kind) in needs.iter().zip([Kind::Up, Kind::Done, Kind::With]) {
                for other in *others {
                    let from = services.iter().position(|(known, _)| known == other);
                    edges.extend(from.map(|from| Edge { from, to, kind }));
                }
            }
        }
        // Whoever is needed in two ways is shown by the stronger one.
        edges.sort_by_key(|edge| (edge.from, edge.to, std::cmp::Reverse(edge.kind)));
        edges.dedup_by_key(|edge| (edge.from, edge.to));
        edges.retain(|edge| edge.from != edge.to);
        let mut columns = vec![0; services.len()];
        // A circle cannot be, but a file may say anything: as many rounds as there are names.
        for _ in services {
            for edge in &edges {
                columns[edge.to] =
                    columns[edge.to].max((columns[edge.from] + 1).min(services.len()));
            }
        }
        let mut rows = BTreeMap::new();
        let place = |((name, _), column): (&Needing<'_>, usize)| {
            let row = rows.entry(column).or_insert(0);
            *row += 1;
            Node { name: (*name).to_owned(), column, row: *row - 1 }
        };
        let nodes = services.iter().zip(columns).map(place).collect();
        Graph { nodes, edges }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(names: &[&str], edges: &[(&str, &str, Kind)]) -> Graph {
        let needs = |name: &str, wanted: Kind| -> Vec<String> {
            let edges = edges.iter().filter(|(who, _, kind)| *who == name && *kind == wanted);
            edges.map(|(_, whom, _)| (*whom).to_owned()).collect()
        };
        let all = |name: &str| [Kind::Up, Kind::Done, Kind::With].map(|kind| needs(name, kind));
        let lists: Vec<_> = names.iter().map(|name| all(name)).collect();
        let lists = lists.iter().map(|[up, done, with]| [&**up, &**done, &**with]);
        Graph::between(&names.iter().copied().zip(lists).collect::<Vec<_>>())
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
