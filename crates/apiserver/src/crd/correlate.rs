//! Which part of the old object a part of the new one is compared with.

use super::schema::{ListKind, Structural};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The keys of an item of a list that is a map, as one text.
fn identity(keys: &[String], item: &Value) -> String {
    let own: Map<String, Value> = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
        .collect();
    Value::Object(own).to_string()
}

/// The items of an old list, found by the keys of new ones. Lists without keys have none: where
/// an item stands says nothing about which one it was.
#[derive(Default)]
pub struct OldItems<'a> {
    keys: &'a [String],
    items: HashMap<String, &'a Value>,
}

impl<'a> OldItems<'a> {
    /// Reads an old list.
    pub fn of(schema: &'a Structural, old: Option<&'a Value>) -> Self {
        let (Some(ListKind::Map(keys)), Some(Value::Array(list))) = (&schema.list_kind, old) else {
            return OldItems::default();
        };
        let items = list.iter().map(|item| (identity(keys, item), item));
        OldItems {
            keys,
            items: items.collect(),
        }
    }

    /// The old item with the keys of a new one.
    pub fn find(&self, item: &Value) -> Option<&'a Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&identity(self.keys, item)).copied()
    }
}

/// `a.b`, or `b` at the root.
pub fn child(path: &str, key: &str) -> String {
    match path {
        "" => key.to_string(),
        path => format!("{path}.{key}"),
    }
}

/// The path of a key of a map, whose names are the user's: `a[b]`.
pub fn entry(path: &str, key: &str) -> String {
    format!("{path}[{key}]")
}

/// A path as errors show it: the root has no name.
pub fn shown(path: String) -> String {
    match path.as_str() {
        "" => "<nil>".to_string(),
        _ => path,
    }
}
