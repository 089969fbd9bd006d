//! Objects that are made up: of built-in kinds, by the field table, and of no kind at all.

use super::Choices;
use crate::{
    protobuf::{Other, other_than_schema},
    registry::{Schema, builtin},
    schema::{Field, Scalar, Shape, Types, builtin_types},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rand::{Rng, RngExt};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Deepest objects that are made up.
const DEPTH: usize = 7;

const TEXTS: [&str; 6] = ["a", "b-c", "äö", "a b\n", "0", "{}"];

/// Group version, kind and type of everything that a client may send as a whole.
pub fn bodies() -> &'static [(String, String, &'static str)] {
    static BODIES: LazyLock<Vec<(String, String, &str)>> = LazyLock::new(find_bodies);
    &BODIES
}

fn find_bodies() -> Vec<(String, String, &'static str)> {
    let mut bodies = vec![("v1".into(), "DeleteOptions".into(), "meta.v1.DeleteOptions")];
    for resource in builtin::resources() {
        if let Schema::Builtin(name) = resource.schema {
            bodies.push((resource.api_version(), resource.kind.to_string(), name));
        }
        for part in resource.subresources.iter().filter(|s| !s.kind.is_empty()) {
            // The options of streams come as a query.
            if part.kind.ends_with("Options") {
                continue;
            }
            let own = (resource.group.as_ref(), resource.version.as_ref());
            let (group, version) = part.group_version.unwrap_or(own);
            let api_version = match group {
                "" => version.to_string(),
                group => format!("{group}/{version}"),
            };
            let name = builtin::type_name(group, version, part.kind);
            bodies.push((api_version, part.kind.to_string(), name));
        }
    }
    bodies
}

/// An object of a built-in type, without zero values.
pub fn object(index: usize, choices: &mut Choices<'_>) -> Map<String, Value> {
    let types = builtin_types();
    message(types, index, 0, choices)
}

fn message(
    types: &Types,
    index: usize,
    depth: usize,
    choices: &mut Choices<'_>,
) -> Map<String, Value> {
    let mut map = Map::new();
    let fields = types.json_fields(index);
    // A few fields of each object: wide objects would leave no choices for deep ones.
    let share = (3.0 / fields.len().max(1) as f64).clamp(0.02, 0.7);
    for field in fields {
        let leaf = matches!(field.shape, Shape::Scalar(_))
            && other_than_schema(types, index, field).is_none();
        if (leaf || depth < DEPTH) && choices.yes(share) {
            let value = value(types, index, field, &field.shape, depth, choices);
            map.insert(field.json.into(), value);
        }
    }
    map
}

fn value(
    types: &Types,
    owner: usize,
    field: &Field,
    shape: &Shape,
    depth: usize,
    choices: &mut Choices<'_>,
) -> Value {
    let count = choices.random_range(1..3);
    let mut one = |inner: &Shape| value(types, owner, field, inner, depth, choices);
    match shape {
        Shape::List(inner) => (0..count).map(|_| one(inner)).collect(),
        Shape::Map(inner) => {
            let entries = (0..count).map(|i| (format!("k{i}"), one(inner)));
            Value::Object(entries.collect())
        }
        Shape::Message(index) => Value::Object(message(types, *index, depth + 1, choices)),
        Shape::Scalar(scalar) => match other_than_schema(types, owner, field) {
            Some(other) => schema_or(types, owner, other, depth, choices),
            None => leaf(*scalar, choices),
        },
    }
}

fn schema_or(
    types: &Types,
    owner: usize,
    other: Other,
    depth: usize,
    choices: &mut Choices<'_>,
) -> Value {
    let whole = choices.yes(0.5);
    let mut schema = || Value::Object(message(types, owner, depth + 1, choices));
    match other {
        _ if whole => schema(),
        Other::Bool => choices.yes(0.5).into(),
        Other::Schemas => Value::Array(vec![schema(), schema()]),
        Other::Texts => json!(["a", ""]),
    }
}

fn leaf(scalar: Scalar, choices: &mut Choices<'_>) -> Value {
    let text = choices.of(&TEXTS);
    let second = i64::from(choices.random_range(1..u32::MAX));
    let time = |format: &str| {
        let at = jiff::Timestamp::from_second(second).unwrap_or_default();
        Value::from(at.strftime(format).to_string())
    };
    match scalar {
        Scalar::String => text.into(),
        Scalar::Bool => true.into(),
        Scalar::Int32 => (choices.next_u32() as i32 | 1).into(),
        Scalar::Int64 => (choices.next_u64() as i64 | 1).into(),
        Scalar::Double => (f64::from(choices.random_range(1..1000)) / 8.0).into(),
        Scalar::Bytes => STANDARD.encode(text).into(),
        Scalar::Quantity => "250m".into(),
        Scalar::Time => time("%Y-%m-%dT%H:%M:%SZ"),
        Scalar::MicroTime => time("%Y-%m-%dT%H:%M:%S.000001Z"),
        Scalar::Duration => format!("{}s", choices.random_range(1..60)).into(),
        Scalar::IntOrString if choices.yes(0.5) => choices.random_range(0..100).into(),
        Scalar::IntOrString => text.into(),
        Scalar::Raw | Scalar::FieldsV1 => json!({"f:a": {text: [1, null]}}),
        Scalar::Json => choices.of(&[json!(1), json!(text), json!({"a": []}), json!(false)]),
        Scalar::Extra => json!([text, ""]),
    }
}

/// Any JSON, with few keys so that two of them meet.
pub fn json(depth: usize, choices: &mut Choices<'_>) -> Value {
    let kinds = if depth == 0 { 4 } else { 6 };
    match choices.random_range(0..kinds) {
        0 => Value::Null,
        1 => choices.yes(0.5).into(),
        2 => choices.random_range(-2..3).into(),
        3 => choices.of(&TEXTS).into(),
        4 => {
            let count = choices.random_range(0..3);
            (0..count).map(|_| json(depth - 1, choices)).collect()
        }
        _ => {
            let mut map = Map::new();
            for key in ["a", "b", "/", "~"] {
                if choices.yes(0.4) {
                    map.insert(key.into(), json(depth - 1, choices));
                }
            }
            Value::Object(map)
        }
    }
}
