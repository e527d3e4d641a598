//! A snapshot for tools: one JSON object (docs/operations.md). Tools build on it: keys are only
//! ever added within a schema.

use serde::Serialize;

use super::snapshot::Snapshot;

/// Version of the keys.
const SCHEMA: u32 = 2;

#[derive(Serialize)]
struct Versioned<'a> {
    schema: u32,
    /// How it is, in two words.
    state: &'static str,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

/// The object, on one line.
pub fn render(snapshot: &Snapshot) -> String {
    // Only a map with keys that are no texts could fail.
    serde_json::to_string(&Versioned { schema: SCHEMA, state: snapshot.summary(), snapshot })
        .unwrap_or_default()
}
