//! The JSON schema of `osps.toml`, for editors: made from the table of keys.
//!
//! It is checked in as docs/osps.schema.json; tests/config.rs compares. A schema knows types and
//! words; what depends on more than one value only the parser knows.

use serde_json::{Map, Value, json};

use super::keys::{KEYS, Key, Kind, Preset, Stands};
use crate::service::NAME_MAX;
use crate::service::launch::{Resource, UNLIMITED};

/// The dialect that is spoken.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The whole schema, as it is checked in.
pub fn render() -> String {
    let name = format!("^[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{}}}$", NAME_MAX - 1);
    let mut top = properties(|key| key.stands == Stands::Top);
    top.insert(
        "defaults".to_owned(),
        json!({
            "description": "what holds for every service that does not say it itself",
            "type": "object",
            "properties": properties(|key| key.stands == Stands::Both),
            "additionalProperties": false,
        }),
    );
    top.insert(
        "service".to_owned(),
        json!({
            "description": "the services, by their names",
            "type": "object",
            "patternProperties": { name: { "$ref": "#/$defs/service" } },
            "additionalProperties": false,
            "minProperties": 1,
        }),
    );
    let schema = json!({
        "$schema": DIALECT,
        "title": "osps.toml",
        "description": "services of osps, docs/services.md",
        "type": "object",
        "properties": top,
        "required": ["service"],
        "additionalProperties": false,
        "$defs": {
            "service": {
                "type": "object",
                "properties": properties(Key::is_services),
                "required": ["command"],
                "additionalProperties": false,
            },
        },
    });
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

fn properties(wanted: impl Fn(&Key) -> bool) -> Map<String, Value> {
    let known = KEYS.iter().filter(|key| wanted(key));
    known.map(|key| (key.name.to_owned(), property(key))).collect()
}

fn property(key: &Key) -> Value {
    let mut property = form(key.kind);
    property["description"] = json!(key.meaning);
    // A default is written as in the file, and what stands in ours is JSON as well.
    if let Preset::Value(text) = key.preset
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        property["default"] = value;
    }
    property
}

fn form(kind: Kind) -> Value {
    let text = || json!({ "type": "string", "minLength": 1 });
    let list = |item: Value| json!({ "type": "array", "items": item });
    let line = || json!({ "type": "string" });
    let command = || json!({ "type": "array", "items": line(), "minItems": 1 });
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Count(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::Time(_) => json!({ "type": "string", "pattern": "^[0-9].*[a-z]$" }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Name(most) => {
            let pattern = format!("^[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{}}}$", most - 1);
            json!({ "type": "string", "pattern": pattern })
        }
        Kind::Text | Kind::Path | Kind::Store | Kind::Signal | Kind::Heart => text(),
        Kind::Paths | Kind::Addresses => json!({ "anyOf": [text(), list(text())] }),
        Kind::Command | Kind::Reload => json!({ "anyOf": [text(), command()] }),
        Kind::Names => list(text()),
        Kind::Statuses => list(json!({ "type": "integer", "minimum": 0, "maximum": 255 })),
        Kind::Variables => json!({ "type": "object", "additionalProperties": line() }),
        Kind::Limits => {
            let bound = json!({
                "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": UNLIMITED }]
            });
            let pair = json!({ "type": "array", "items": bound, "minItems": 2, "maxItems": 2 });
            let limit = json!({ "anyOf": [bound, pair] });
            let known = Resource::ALL.map(|resource| (resource.word().to_owned(), limit.clone()));
            let known: Map<_, _> = known.into_iter().collect();
            json!({ "type": "object", "properties": known, "additionalProperties": false })
        }
        Kind::Owner => json!({ "anyOf": [text(), { "type": "integer", "minimum": 0 }] }),
        Kind::Mask => json!({ "type": "string", "pattern": "^0*[0-7]{1,3}$" }),
        Kind::Intensity => json!({ "type": "string", "pattern": "^[0-9]+/[0-9].*[a-z]$" }),
    }
}
