//! JSON patch as Kubernetes reads it: like RFC 6902, but a `test` for null also holds where the
//! path does not exist. Finalizer helpers of clients rely on that.

use crate::status::{ApiError, Result};
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

/// Most operations in one patch, as in Kubernetes.
const LIMIT: usize = 10_000;

/// Applies a patch. The error is 422 for a test that fails or a path that is not there.
pub fn apply(body: &Value, object: &Value) -> Result<Value> {
    let patch: Patch = serde_json::from_value(body.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
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
        json_patch::patch(&mut result, &[operation]).map_err(|e| {
            ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {e}"
            ))
        })?;
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
    fn nonsense_is_refused() {
        assert_eq!(
            apply(&json!({"op": "add"}), &json!({})).unwrap_err().code,
            400
        );
        let patch = json!([{"op": "remove", "path": "/a"}]);
        assert_eq!(apply(&patch, &json!({})).unwrap_err().code, 422);
    }
}
