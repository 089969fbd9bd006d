//! Patches: each form does what it promises, to whatever object.

use super::{
    Choices,
    objects::{bodies, json, object},
};
use crate::{patch, schema::builtin_types};
use serde_json::{Value, json};

/// Deepest values in patches.
const DEPTH: usize = 3;

/// Makes up objects and patches, and checks what must hold.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (target, body) = (json(DEPTH, &mut choices), json(DEPTH, &mut choices));
    merge(&target, &body);
    operations(&target, &mut choices);
    strategic(&mut choices);
}

/// A merge patch leaves no null behind where it made an object, and twice is once.
fn merge(target: &Value, body: &Value) {
    let once = patch::merge(body, target);
    assert_eq!(patch::merge(body, &once), once, "{body}");
    if body.is_object() && !has_null_key(target) {
        assert!(!has_null_key(&once), "{body} {target}");
    }
    if let (Some(body), Some(once)) = (body.as_object(), once.as_object()) {
        for (key, value) in body {
            assert_eq!(value.is_null(), !once.contains_key(key), "{key}");
        }
    }
}

/// Whether a key of a map (not of one in a list) is null.
fn has_null_key(value: &Value) -> bool {
    let map = value.as_object();
    map.is_some_and(|map| map.values().any(|v| v.is_null() || has_null_key(v)))
}

/// JSON patches: what is added is there, what is removed is not, and a patch that fails changes
/// nothing.
fn operations(target: &Value, choices: &mut Choices<'_>) {
    let value = json(1, choices);
    let path = choices.of(&["/a", "/b/a", "/a/0", "/~1", "/~0/b", "/a/-", ""]);
    let add = json!([{"op": "add", "path": path, "value": value}]);
    if let Ok(added) = patch::json(&add, target)
        && !path.ends_with('-')
    {
        assert_eq!(added.pointer(path), Some(&value));
        let test = json!([{"op": "test", "path": path, "value": value}]);
        assert_eq!(patch::json(&test, &added).ok(), Some(added));
    }
    let remove = json!([{"op": "remove", "path": path}]);
    let removed = patch::json(&remove, target);
    if !path.is_empty() {
        assert_eq!(
            removed.is_ok(),
            target.pointer(path).is_some(),
            "{path} {target}"
        );
    }
    // Anything may come as a patch.
    let odd: Vec<Value> = (0..2)
        .map(|_| {
            let op = choices.of(&["add", "remove", "replace", "move", "copy", "test", "x"]);
            let from = choices.of(&["/a", "/b", "", "a"]);
            json!({"op": op, "path": choices.of(&["/a/b", "/b/1", "", "x"]), "from": from,
                "value": json(1, choices)})
        })
        .collect();
    let _ = patch::json(&Value::Array(odd), target);
}

/// A strategic merge patch with an object of a kind on itself changes nothing; with itself on an
/// empty object, it makes that object.
fn strategic(choices: &mut Choices<'_>) {
    let (_, _, name) = choices.of(bodies());
    let Some(index) = builtin_types().index(name) else {
        return;
    };
    let (one, other) = (object(index, choices), object(index, choices));
    let (one, other) = (Value::Object(one), Value::Object(other));
    let _ = patch::strategic(name, &one, &other);
    let _ = patch::strategic(name, &json(DEPTH, choices), &one);
    let made = patch::strategic(name, &json!({}), &one).ok();
    assert_eq!(made, Some(one));
}
