//! Kubernetes objects as JSON values, and the few fields of `metadata` that the server reads.
//!
//! Objects stay untyped on purpose: the same code serves built-in kinds and custom resources.

use bytes::Bytes;
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// An object as it is stored: never changed, shared by readers, encoded at most once.
#[derive(Debug)]
pub struct Object {
    value: Value,
    revision: u64,
    json: OnceLock<Bytes>,
}

impl Object {
    /// Takes a value whose `metadata.resourceVersion` says `revision` already.
    pub(crate) fn new(value: Value, revision: u64) -> Self {
        Object {
            value,
            revision,
            json: OnceLock::new(),
        }
    }

    /// The object.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The resource version of this state of the object.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object's JSON text, made at the first call.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| encode(&self.value)).clone()
    }
}

/// JSON text of a value.
pub fn encode(value: &Value) -> Bytes {
    // A `Value` has string keys only, so that this cannot fail.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// The string at a JSON pointer, or "".
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `metadata.name`, or "".
pub fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

/// `metadata.namespace`, or "".
pub fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

/// `metadata.uid`, or "".
pub fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

/// Whether deletion was asked for and waits for finalizers or a grace period.
pub fn terminating(value: &Value) -> bool {
    value
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|t| !t.is_null())
}

/// `metadata.finalizers`.
pub fn finalizers(value: &Value) -> Vec<&str> {
    value
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// The object's map at `key`, made when it is missing or null. None if `value` is no map or
/// the key holds something else.
pub fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let slot = value
        .as_object_mut()?
        .entry(key.to_string())
        .or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

/// `metadata` of an object, made when it is missing.
pub fn metadata(value: &mut Value) -> Option<&mut Map<String, Value>> {
    child(value, "metadata")
}

/// Sets or, with `None`, removes a key of `metadata`.
pub fn set_metadata(value: &mut Value, key: &str, new: Option<Value>) {
    if let Some(map) = metadata(value) {
        match new {
            Some(v) => {
                map.insert(key.to_string(), v);
            }
            None => {
                map.shift_remove(key);
            }
        }
    }
}

/// Sets a key unless it has a value.
pub fn set_default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let slot = map.entry(key.to_string()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// `apiVersion` and `kind` put first, as every answer has them.
pub fn typed(mut value: Value, api_version: &str, kind: &str) -> Value {
    if let Some(map) = value.as_object_mut() {
        if map.get("apiVersion").and_then(Value::as_str) == Some(api_version)
            && map.get("kind").and_then(Value::as_str) == Some(kind)
        {
            return value;
        }
        map.shift_remove("apiVersion");
        map.shift_remove("kind");
        map.shift_insert(0, "kind".into(), kind.into());
        map.shift_insert(1, "apiVersion".into(), api_version.into());
    }
    value
}

/// Now, in the whole seconds of `metav1.Time`.
pub fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
