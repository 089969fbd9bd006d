//! Strategic merge patch: a merge patch that knows which lists are sets or maps of the kind.
//!
//! Directives: `$patch: delete | replace | merge`, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`.

use crate::{
    schema::{Field, Shape, Types, builtin_types},
    status::{ApiError, Result},
};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";

/// Applies a patch to an object of the named built-in type.
pub fn apply(type_name: &str, patch: &Value, target: &Value) -> Result<Value> {
    let types = builtin_types();
    let Some(map) = patch.as_object() else {
        return Err(ApiError::bad_request(
            "a strategic merge patch must be an object",
        ));
    };
    let target = target.as_object().cloned().unwrap_or_default();
    let shape = types.index(type_name).map(Shape::Message);
    Ok(Value::Object(merge_map(
        types,
        shape.as_ref(),
        map,
        target,
    )?))
}

/// How the keys of an object are described: by a type, by the values of a map, or not at all.
fn field<'a>(types: &'a Types, shape: Option<&Shape>, key: &str) -> Option<&'a Field> {
    match shape {
        Some(Shape::Message(index)) => types.field(*index, key),
        _ => None,
    }
}

fn value_shape<'a>(types: &'a Types, shape: Option<&'a Shape>, key: &str) -> Option<&'a Shape> {
    match shape {
        Some(Shape::Message(index)) => types.field(*index, key).map(|f| &f.shape),
        Some(Shape::Map(inner)) => Some(inner),
        _ => None,
    }
}

fn merge_map(
    types: &Types,
    shape: Option<&Shape>,
    patch: &Map<String, Value>,
    mut target: Map<String, Value>,
) -> Result<Map<String, Value>> {
    match patch.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(strip(patch)),
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return Err(ApiError::odd(format!(
                "unknown patch type: {other} in map: {}",
                Value::Object(patch.clone())
            )));
        }
    }
    if let Some(Value::Array(keys)) = patch.get(RETAIN) {
        let kept = |key: &String| keys.iter().any(|k| k.as_str() == Some(key));
        if !patch.keys().all(|key| key.starts_with('$') || kept(key)) {
            return Err(ApiError::bad_request("invalid patch format of retainKeys"));
        }
        target.retain(|key, _| keys.iter().any(|k| k.as_str() == Some(key)));
    }
    let server = target.clone();
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        if value.is_null() {
            target.shift_remove(key);
            continue;
        }
        let described = field(types, shape, key);
        let inner = value_shape(types, shape, key);
        let merged = match (value, target.get(key)) {
            (Value::Object(patch), existing) => {
                let existing = existing
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default();
                Value::Object(merge_map(types, inner, patch, existing)?)
            }
            (Value::Array(patch), existing) => {
                let existing = existing
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                Value::Array(merge_list(types, described, patch, existing)?)
            }
            (value, _) => value.clone(),
        };
        target.insert(key.clone(), merged);
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVE) {
            delete_primitives(&mut target, list, value);
        }
        let (list, wanted) = match key.strip_prefix(ORDER) {
            Some(list) => (list, value),
            None if patch.contains_key(&format!("{ORDER}{key}")) => continue,
            None => (key.as_str(), value),
        };
        let merge = field(types, shape, list).and_then(|f| f.patch);
        if let (Some(merge), Some(wanted)) = (merge, wanted.as_array()) {
            order(&mut target, list, wanted, server.get(list), merge);
        }
    }
    Ok(target)
}

/// The content of a patch without its directives.
fn strip(patch: &Map<String, Value>) -> Map<String, Value> {
    let inner = |value: &Value| match value {
        Value::Object(map) => Value::Object(strip(map)),
        other => other.clone(),
    };
    patch
        .iter()
        .filter(|(k, v)| !k.starts_with('$') && !v.is_null())
        .map(|(k, v)| (k.clone(), inner(v)))
        .collect()
}

fn merge_list(
    types: &Types,
    field: Option<&Field>,
    patch: &[Value],
    target: Vec<Value>,
) -> Result<Vec<Value>> {
    match field.and_then(|f| f.patch) {
        None => Ok(patch
            .iter()
            .map(|v| {
                v.as_object()
                    .map_or_else(|| v.clone(), |m| Value::Object(strip(m)))
            })
            .collect()),
        Some(None) => {
            let mut all = target;
            for value in patch {
                if !all.contains(value) {
                    all.push(value.clone());
                }
            }
            Ok(all)
        }
        Some(Some(key)) => merge_by_key(types, field, key, patch, target),
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(PATCH).and_then(Value::as_str)
}

fn merge_by_key(
    types: &Types,
    field: Option<&Field>,
    key: &str,
    patch: &[Value],
    target: Vec<Value>,
) -> Result<Vec<Value>> {
    let shape = match field.map(|f| &f.shape) {
        Some(Shape::List(inner)) => Some(inner.as_ref()),
        _ => None,
    };
    // An item that holds nothing but `$patch: replace` replaces the whole list by the others.
    let replaces = |v: &Value| directive(v) == Some("replace") && v.get(key).is_none();
    if patch.iter().any(replaces) {
        let others = patch.iter().filter(|v| !replaces(v));
        return Ok(others
            .map(|v| {
                v.as_object()
                    .map_or_else(|| v.clone(), |m| Value::Object(strip(m)))
            })
            .collect());
    }
    let mut all = target;
    for item in patch {
        let Some(map) = item.as_object() else {
            return Err(ApiError::bad_request(format!(
                "an item of a list that is merged by {key:?} must be an object"
            )));
        };
        let Some(id) = map.get(key) else {
            return Err(ApiError::odd(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let at = all
            .iter()
            .position(|existing| existing.get(key) == Some(id));
        match (directive(item), at) {
            (Some("delete"), _) => all.retain(|existing| existing.get(key) != Some(id)),
            (Some("replace"), Some(at)) => all[at] = Value::Object(strip(map)),
            (_, Some(at)) => {
                let existing = all[at].as_object().cloned().unwrap_or_default();
                all[at] = Value::Object(merge_map(types, shape, map, existing)?);
            }
            (_, None) => all.push(Value::Object(merge_map(types, shape, map, Map::new())?)),
        }
    }
    Ok(all)
}

fn delete_primitives(target: &mut Map<String, Value>, list: &str, gone: &Value) {
    let gone = gone.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(items) = target.get_mut(list).and_then(Value::as_array_mut) {
        items.retain(|item| !gone.contains(item));
    }
}

/// Orders a merged list as Kubernetes does: items that the patch names come as it names them, and
/// before those that it does not name, unless both were there and stood the other way round.
fn order(
    target: &mut Map<String, Value>,
    list: &str,
    wanted: &[Value],
    server: Option<&Value>,
    key: Option<&str>,
) {
    let Some(items) = target.get_mut(list).and_then(Value::as_array_mut) else {
        return;
    };
    let identity = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let place = |list: &[Value], item: &Value| {
        let id = identity(item);
        list.iter().position(|other| identity(other) == id)
    };
    let server = server.and_then(Value::as_array);
    let server = server.map(Vec::as_slice).unwrap_or_default();
    let (mut named, mut others): (Vec<_>, Vec<_>) = items
        .drain(..)
        .partition(|item| place(wanted, item).is_some());
    named.sort_by_key(|item| place(wanted, item));
    others.sort_by_key(|item| place(server, item));
    let mut others = others.into_iter().peekable();
    for item in named {
        let stood_before = |other: &Value| {
            let places = (place(server, other), place(server, &item));
            matches!(places, (Some(other), Some(own)) if other < own)
        };
        while let Some(other) = others.next_if(stood_before) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(patch: Value, target: Value) -> Value {
        apply("apps.v1.Deployment", &patch, &target).unwrap()
    }

    fn pod_spec(spec: Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    #[test]
    fn containers_merge_by_name() {
        let target = pod_spec(json!({"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}));
        let patch = pod_spec(
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]}),
        );
        let done = deployment(patch, target);
        assert_eq!(
            done["spec"]["template"]["spec"]["containers"],
            json!([{"name": "b", "image": "1"}, {"name": "a", "image": "2",
                "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}])
        );
    }

    #[test]
    fn directives() {
        let target = pod_spec(
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}}),
        );
        let done = deployment(
            pod_spec(json!({"containers": [{"name": "a", "$patch": "delete"}],
            "nodeSelector": {"$patch": "replace", "y": "2"}})),
            target,
        );
        assert_eq!(
            done["spec"]["template"]["spec"],
            json!({"containers": [{"name": "b"}], "nodeSelector": {"y": "2"}})
        );
        let done = deployment(
            pod_spec(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})),
            pod_spec(json!({"containers": [{"name": "a"}]})),
        );
        assert_eq!(
            done["spec"]["template"]["spec"]["containers"],
            json!([{"name": "c"}])
        );
        let done = deployment(
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}),
        );
        assert_eq!(done["spec"]["strategy"], json!({"type": "Recreate"}));
        let unsaid = json!({"spec": {"strategy": {"$retainKeys": [], "type": "Recreate"}}});
        let refused = apply("apps.v1.Deployment", &unsaid, &json!({}));
        assert_eq!(refused.unwrap_err().code, 400);
        let bad = apply("v1.Pod", &json!({"$patch": "explode"}), &json!({}));
        assert_eq!(bad.unwrap_err().code, 500);
    }

    #[test]
    fn lists_of_scalars() {
        let target = json!({"metadata": {"finalizers": ["a/a", "b/b"]}});
        let done = deployment(
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"], "finalizers": ["c/c"]}}),
            target,
        );
        assert_eq!(done["metadata"]["finalizers"], json!(["c/c", "b/b"]));
        // A list without marks is replaced as a whole.
        let done = deployment(
            pod_spec(json!({"containers": [{"name": "a", "args": ["z"]}]})),
            pod_spec(json!({"containers": [{"name": "a", "args": ["x", "y"]}]})),
        );
        assert_eq!(
            done["spec"]["template"]["spec"]["containers"][0]["args"],
            json!(["z"])
        );
    }

    #[test]
    fn null_removes() {
        let done = deployment(
            json!({"metadata": {"labels": {"a": null}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        );
        assert_eq!(done["metadata"]["labels"], json!({"b": "2"}));
    }
}
