//! Trees of values: merge them, and find keys that nothing reads.

use serde_json::{Map, Value};

/// Puts `over` on top of `base`: objects are merged, anything else replaces.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// An object as a value.
pub fn object() -> Value {
    Value::Object(Map::new())
}

/// The value at a path, if all its parents are objects.
pub fn at<'a>(tree: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |node, key| node.get(key))
}

/// Paths in `given` that `known` does not have. An empty object or null in `known` takes anything
/// below it.
pub fn unknown_paths(given: &Value, known: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_unknown(given, known, "", &mut found);
    found
}

fn collect_unknown(given: &Value, known: &Value, prefix: &str, found: &mut Vec<String>) {
    let (Value::Object(given), Value::Object(known)) = (given, known) else {
        return;
    };
    if known.is_empty() {
        return;
    }
    for (key, value) in given {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match known.get(key) {
            Some(below) => collect_unknown(value, below, &path, found),
            None => found.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_merged_and_the_rest_is_replaced() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": true});
        merge(
            &mut base,
            json!({"a": {"c": [3], "e": null}, "d": false, "f": {"g": 1}}),
        );
        assert_eq!(
            base,
            json!({"a": {"b": 1, "c": [3], "e": null}, "d": false, "f": {"g": 1}})
        );
    }

    #[test]
    fn unknown_keys_are_found_with_their_path() {
        let known = json!({"cni": {"ambient": {"enabled": false}, "env": {}}, "tag": null});
        let given = json!({"cni": {"ambient": {"enable": true}, "env": {"X": 1}}, "tagg": 1, "tag": {"x": 1}});
        assert_eq!(
            unknown_paths(&given, &known),
            ["cni.ambient.enable", "tagg"]
        );
    }
}
