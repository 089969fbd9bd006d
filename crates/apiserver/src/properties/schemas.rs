//! Schemas of custom resources, and objects for them.

use super::{Choices, objects::json};
use crate::{
    crd::{self, Structural},
    schema::Findings,
};
use rand::RngExt;
use serde_json::{Map, Value, json};

/// Deepest schemas that are made up.
const DEPTH: usize = 4;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// A schema and an object that mostly has its form.
pub fn made_up(bytes: &[u8]) -> (Value, Value) {
    let mut choices = Choices::new(bytes);
    let mut schema = schema(DEPTH, &mut choices);
    schema["type"] = "object".into();
    let object = fitting(&schema, &mut choices);
    let object = match object.is_object() {
        true => object,
        false => json!({}),
    };
    (schema, object)
}

/// What holds for a schema that a definition may have, and any object. Answers whether the object
/// is valid as it is.
pub fn check(source: &Value, object: &Value) -> Option<bool> {
    let mut causes = Vec::new();
    crd::check_schema(source, "", false, &mut causes);
    if !causes.is_empty() {
        return None;
    }
    let schema = Structural::compile(source);
    let valid = |value: &Value| {
        let mut causes = Vec::new();
        crd::judge(&schema, value, None, "", &mut causes);
        causes.is_empty()
    };
    let prune = |value: &mut Value| {
        let mut findings = Findings::default();
        crd::prune_by(Some(&schema), value, &mut findings).map(|()| findings)
    };
    let verdict = valid(object);
    let mut pruned = object.clone();
    if prune(&mut pruned).is_ok() {
        // What is pruned stays as it is, and has nothing that is unknown.
        let mut again = pruned.clone();
        let findings = prune(&mut again).unwrap_or_default();
        assert_eq!(again, pruned);
        assert!(findings.unknown.is_empty(), "{:?}", findings.unknown);
    }
    let mut filled = pruned.clone();
    crd::fill(&schema, &mut filled);
    let mut again = filled.clone();
    crd::fill(&schema, &mut again);
    assert_eq!(again, filled, "defaults are filled in once");
    // What did not change is not judged again.
    let mut causes = Vec::new();
    crd::judge(&schema, object, Some(object), "", &mut causes);
    assert!(causes.is_empty());
    Some(verdict)
}

fn schema(depth: usize, choices: &mut Choices<'_>) -> Value {
    let kinds = ["string", "integer", "number", "boolean", "array", "object"];
    let kinds = if depth == 0 { &kinds[..4] } else { &kinds[..] };
    if choices.yes(0.08) {
        return json!({"x-kubernetes-int-or-string": true});
    }
    if choices.yes(0.08) {
        return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    let kind = choices.of(kinds);
    let mut schema = json!({"type": kind});
    limits(kind, &mut schema, choices);
    match kind {
        "array" => schema["items"] = self::schema(depth - 1, choices),
        "object" if choices.yes(0.3) => {
            schema["additionalProperties"] = self::schema(depth - 1, choices);
        }
        "object" => {
            let mut properties = Map::new();
            for key in KEYS {
                if choices.yes(0.5) {
                    properties.insert(key.into(), self::schema(depth - 1, choices));
                }
            }
            let required: Vec<&str> = KEYS.into_iter().filter(|_| choices.yes(0.15)).collect();
            if !required.is_empty() {
                schema["required"] = required.into();
            }
            schema["properties"] = Value::Object(properties);
        }
        _ => {}
    }
    combinations(&mut schema, choices);
    schema
}

fn limits(kind: &str, schema: &mut Value, choices: &mut Choices<'_>) {
    let words: &[&str] = match kind {
        "string" => &["minLength", "maxLength"],
        "integer" | "number" => &["minimum", "maximum"],
        "array" => &["minItems", "maxItems"],
        "object" => &["minProperties", "maxProperties"],
        _ => &[],
    };
    for word in words {
        if choices.yes(0.2) {
            schema[*word] = choices.random_range(0..3).into();
        }
    }
    match kind {
        "string" if choices.yes(0.2) => schema["enum"] = json!(["a", "0"]),
        "string" if choices.yes(0.2) => schema["pattern"] = choices.of(&["^[a-z]*$", "b|0"]).into(),
        "string" if choices.yes(0.2) => schema["default"] = "a".into(),
        "integer" if choices.yes(0.2) => schema["multipleOf"] = 2.into(),
        _ => {}
    }
    if choices.yes(0.15) {
        schema["nullable"] = true.into();
    }
}

/// Alternatives say no types, only limits and required keys.
fn combinations(schema: &mut Value, choices: &mut Choices<'_>) {
    if schema["type"] != "object" || !choices.yes(0.25) {
        return;
    }
    let needs = |choices: &mut Choices<'_>| json!({"required": [choices.of(&KEYS)]});
    let word = choices.of(&["allOf", "anyOf", "oneOf", "not"]);
    schema[word] = match word {
        "not" => needs(choices),
        _ => json!([needs(choices), needs(choices)]),
    };
}

/// A value that has the form of a schema, but for a few places.
fn fitting(schema: &Value, choices: &mut Choices<'_>) -> Value {
    if choices.yes(0.05) {
        return json(2, choices);
    }
    if schema["nullable"] == true && choices.yes(0.2) {
        return Value::Null;
    }
    let count = choices.random_range(0..3);
    match schema["type"].as_str() {
        Some("string") => choices.of(&["", "a", "bb", "ccc", "0", "äöü"]).into(),
        Some("integer") => choices.random_range(-1..4).into(),
        Some("number") => choices.of(&[json!(0.5), json!(2), json!(-1.25)]),
        Some("boolean") => choices.yes(0.5).into(),
        Some("array") => (0..count)
            .map(|_| fitting(&schema["items"], choices))
            .collect(),
        Some("object") => {
            let mut map = Map::new();
            for key in KEYS {
                let inner = schema["properties"]
                    .get(key)
                    .or(schema.get("additionalProperties"));
                let share = if inner.is_some() { 0.7 } else { 0.1 };
                if choices.yes(share) {
                    let value = inner.map_or(json!(1), |inner| fitting(inner, choices));
                    map.insert(key.into(), value);
                }
            }
            Value::Object(map)
        }
        _ if schema["x-kubernetes-int-or-string"] == true => choices.of(&[json!(1), json!("1")]),
        _ => json(1, choices),
    }
}
