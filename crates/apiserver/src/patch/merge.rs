//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Applies a merge patch: null removes, objects merge, everything else replaces.
pub fn apply(patch: &Value, target: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut result = match target {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            result.shift_remove(key);
        } else {
            let merged = apply(value, result.get(key).unwrap_or(&Value::Null));
            result.insert(key.clone(), merged);
        }
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rfc_7386() {
        let target = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 1});
        let patch = json!({"a": {"b": null, "x": {"y": null, "z": 1}}, "d": [2, 3], "e": null});
        assert_eq!(
            apply(&patch, &target),
            json!({"a": {"c": 2, "x": {"z": 1}}, "d": [2, 3]})
        );
    }
}
