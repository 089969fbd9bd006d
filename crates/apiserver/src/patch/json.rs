//! JSON patch as Kubernetes reads it: like RFC 6902, but a `test` for null also holds where the
//! path does not exist (finalizer helpers of clients rely on that), and a `replace` adds a key that
//! is not there.

use crate::status::{ApiError, Result};
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::Value;

/// Most operations in one patch, as in Kubernetes.
const LIMIT: usize = 10_000;

/// Kubernetes says no more, and people search for what it says.
const REJECTED: &str = "the server rejected our request due to an error in our request";

/// Whether the path names a key that its object does not have.
fn is_new_key(object: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').map(|(parent, _)| parent);
    let parent = parent.and_then(|parent| object.pointer(parent));
    parent.is_some_and(Value::is_object) && object.pointer(path).is_none()
}

/// Applies a patch. The error is 422 for a test that fails or a path that is not there.
pub fn apply(body: &Value, object: &Value) -> Result<Value> {
    let patch: Patch = serde_json::from_value(body.clone()).map_err(|e| match body.is_array() {
        true => ApiError::unprocessable(REJECTED),
        false => ApiError::bad_request(format!("error decoding patch: {e}")),
    })?;
    if patch.0.len() > LIMIT {
        return Err(ApiError::too_large(LIMIT));
    }
    let mut result = object.clone();
    for operation in patch.0 {
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && result
                .pointer(test.path.as_str())
                .is_none_or(Value::is_null)
        {
            continue;
        }
        let operation = match operation {
            PatchOperation::Replace(new) if is_new_key(&result, new.path.as_str()) => {
                PatchOperation::Add(AddOperation {
                    path: new.path,
                    value: new.value,
                })
            }
            other => other,
        };
        json_patch::patch(&mut result, &[operation])
            .map_err(|_| ApiError::unprocessable(REJECTED))?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_path_is_null_for_a_test() {
        let patch = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["x/y"]},
            {"op": "add", "path": "/metadata/finalizers/-", "value": "z/z"}
        ]);
        let done = apply(&patch, &json!({"metadata": {}})).unwrap();
        assert_eq!(done["metadata"]["finalizers"], json!(["x/y", "z/z"]));
        assert_eq!(apply(&patch, &done).unwrap_err().code, 422);
    }

    #[test]
    fn a_replace_may_add_a_key_but_no_parent() {
        let patch = json!([{"op": "replace", "path": "/a", "value": 1}]);
        assert_eq!(apply(&patch, &json!({})).unwrap(), json!({"a": 1}));
        let patch = json!([{"op": "replace", "path": "/a/b", "value": 1}]);
        assert_eq!(apply(&patch, &json!({})).unwrap_err().code, 422);
        let patch = json!([{"op": "replace", "path": "/a/1", "value": 1}]);
        assert_eq!(apply(&patch, &json!({"a": [0]})).unwrap_err().code, 422);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            apply(&json!({"op": "add"}), &json!({})).unwrap_err().code,
            400
        );
        let unknown = json!([{"op": "increase", "path": "/a"}]);
        assert_eq!(apply(&unknown, &json!({})).unwrap_err().code, 422);
        let patch = json!([{"op": "remove", "path": "/a"}]);
        assert_eq!(apply(&patch, &json!({})).unwrap_err().code, 422);
    }
}
