//! Lists that are sets or maps hold each value, or each combination of keys, once.

use super::{
    correlate::{child, entry, shown},
    schema::{ListKind, Structural},
};
use crate::status::Cause;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Reports items that repeat earlier ones.
pub fn check(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (key, item) in map {
                let Some(inner) = schema.child(key) else {
                    continue;
                };
                let path = match schema.properties.contains_key(key) {
                    true => child(path, key),
                    false => entry(path, key),
                };
                check(inner, item, &path, causes);
            }
        }
        Value::Array(list) => {
            repeated(schema, list, path, causes);
            if let Some(items) = &schema.items {
                for (i, item) in list.iter().enumerate() {
                    check(items, item, &format!("{path}[{i}]"), causes);
                }
            }
        }
        _ => {}
    }
}

fn repeated(schema: &Structural, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let identities: Vec<Value> = match &schema.list_kind {
        Some(ListKind::Set) => list.to_vec(),
        Some(ListKind::Map(keys)) => {
            let odd = list.iter().position(|i| !i.is_object() && !i.is_null());
            if let Some(i) = odd {
                let why = "must be an object for an array of list-type map";
                causes.push(Cause::invalid(format!("{path}[{i}]"), &list[i], why));
                return;
            }
            list.iter().map(|item| keys_of(keys, item)).collect()
        }
        _ => return,
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, identity) in identities.iter().enumerate() {
        let times = seen.entry(identity.to_string()).or_default();
        *times += 1;
        // Each repeated value is told once.
        if *times == 2 {
            causes.push(Cause::duplicate(shown(format!("{path}[{i}]")), identity));
        }
    }
}

fn keys_of(keys: &[String], item: &Value) -> Value {
    let own = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    let mut own: Vec<(String, Value)> = own.collect();
    own.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(Map::from_iter(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_and_maps() {
        let schema = Structural::compile(&json!({"type": "object", "properties": {
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "object", "additionalProperties": {"type": "array",
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}}}}}));
        let value = json!({"s": ["a", "b", "a", "a"],
            "m": {"k": [{"name": "a"}, {"name": "a", "port": 1}, {"port": 1, "name": "a"}]}});
        let mut causes = Vec::new();
        check(&schema, &value, "", &mut causes);
        let found: Vec<String> = causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        assert_eq!(
            found,
            [
                "s[2]: Duplicate value: \"a\"",
                "m[k][2]: Duplicate value: {\"name\":\"a\",\"port\":1}"
            ]
        );
    }
}
