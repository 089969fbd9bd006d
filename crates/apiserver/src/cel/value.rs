//! JSON into CEL values.

use super::{Type, Value, types::escape};
use kube_cel::cel::{
    functions,
    objects::{Key, Map, OptionalValue},
};
use serde_json::Value as Json;
use std::{collections::HashMap, sync::Arc};

/// A value of a type. Fields that the type does not have are left out; a value of another JSON
/// type than expected is taken as it is.
pub fn from_json(kind: &Type, json: &Json) -> Value {
    match (kind, json) {
        (Type::Object(fields), Json::Object(map)) => {
            entries(map.iter().filter_map(|(key, item)| {
                let key = escape(key)?;
                let value = from_json(fields.get(&key)?, item);
                Some((key, value))
            }))
        }
        (Type::Map(inner), Json::Object(map)) => {
            entries(map.iter().map(|(k, v)| (k.clone(), from_json(inner, v))))
        }
        // What has no schema keeps its names.
        (_, Json::Object(map)) => entries(
            map.iter()
                .map(|(k, v)| (k.clone(), from_json(&Type::Dyn, v))),
        ),
        (Type::List(inner), Json::Array(list)) => items(inner, list),
        (_, Json::Array(list)) => items(&Type::Dyn, list),
        (kind, json) => scalar(kind, json),
    }
}

fn items(inner: &Type, list: &[Json]) -> Value {
    Value::List(Arc::new(
        list.iter().map(|item| from_json(inner, item)).collect(),
    ))
}

fn entries(items: impl Iterator<Item = (String, Value)>) -> Value {
    let map: HashMap<Key, Value> = items.map(|(k, v)| (Key::String(Arc::new(k)), v)).collect();
    Value::Map(Map { map: Arc::new(map) })
}

/// A value that is neither list nor object.
fn scalar(kind: &Type, json: &Json) -> Value {
    match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (kind, n.as_i64()) {
            (Type::Double, _) | (_, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            (_, Some(n)) => Value::Int(n),
        },
        Json::String(text) => text_of(kind, text),
        _ => Value::Null,
    }
}

fn text_of(kind: &Type, text: &str) -> Value {
    let shared = Arc::new(text.to_string());
    let parsed = match kind {
        Type::Duration => functions::duration(shared.clone()).ok(),
        // A date alone is its first moment.
        Type::Timestamp if text.len() == 10 => {
            functions::timestamp(Arc::new(format!("{text}T00:00:00Z"))).ok()
        }
        Type::Timestamp => functions::timestamp(shared.clone()).ok(),
        Type::Bytes => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let bytes = STANDARD.decode(text).ok();
            bytes.map(|bytes| Value::Bytes(Arc::new(bytes)))
        }
        _ => None,
    };
    parsed.unwrap_or(Value::String(shared))
}

/// A value that may be missing.
pub fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}
