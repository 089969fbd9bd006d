//! `AdmissionReview`: what a webhook is asked, and what its answer means.

use super::Attributes;
use crate::{object, registry::Resource, status::ApiError};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};

/// The request without its objects. Conditions see it too.
pub fn request(attributes: &Attributes<'_>, seen_as: &Resource, uid: &str) -> Value {
    let kind = |of: &Resource| match &attributes.kind {
        Some((group, version, kind)) => json!({"group": group, "version": version, "kind": kind}),
        None => json!({"group": of.group, "version": of.version, "kind": of.kind}),
    };
    let resource =
        |of: &Resource| json!({"group": of.group, "version": of.version, "resource": of.plural});
    let mut user = attributes.user.to_value();
    if let Some(map) = user.as_object_mut() {
        map.entry("extra").or_insert_with(|| json!({}));
    }
    let mut request = json!({
        "uid": uid,
        "kind": kind(seen_as),
        "resource": resource(seen_as),
        "requestKind": kind(attributes.resource),
        "requestResource": resource(attributes.resource),
        "name": attributes.name,
        "namespace": attributes.namespace,
        "operation": attributes.operation,
        "userInfo": user,
        "dryRun": attributes.dry_run,
        "options": attributes.options,
    });
    if !attributes.subresource.is_empty() {
        request["subResource"] = attributes.subresource.into();
        request["requestSubResource"] = attributes.subresource.into();
    }
    request
}

/// The review that is sent.
pub fn review(
    version: &str,
    mut request: Value,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    request["object"] = object.cloned().unwrap_or(Value::Null);
    request["oldObject"] = old.cloned().unwrap_or(Value::Null);
    let api_version = format!("admission.k8s.io/{version}");
    json!({"kind": "AdmissionReview", "apiVersion": api_version, "request": request})
}

/// What a webhook has answered.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// Texts for the client.
    pub warnings: Vec<String>,
    /// Notes for the audit log, by key.
    pub annotations: Vec<(String, String)>,
    /// What it decided.
    pub decision: Decision,
}

/// What a webhook has decided.
#[derive(Debug, Default, PartialEq)]
pub enum Decision {
    /// The request goes on.
    #[default]
    Allowed,
    /// The request goes on with a changed object: a JSON patch.
    Changed(Value),
    /// The request ends: the webhook's `Status`.
    Refused(Value),
}

/// Reads an answer to a review of a version. The error says what is wrong with it.
pub fn read(body: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    let text = |pointer: &str| object::text(&review, pointer);
    let Some(response) = review.get("response").filter(|r| r.is_object()) else {
        return Err("webhook response was absent".into());
    };
    // The old version asked for neither.
    if version != "v1beta1" {
        let found = text("/response/uid");
        if found != uid {
            return Err(format!("expected response.uid={uid:?}, got {found:?}"));
        }
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
            ));
        }
    }
    let warnings = response.get("warnings").and_then(Value::as_array);
    let annotations = response.get("auditAnnotations").and_then(Value::as_object);
    let texts = |(k, v): (&String, &Value)| (k.clone(), v.as_str().unwrap_or_default().to_string());
    let patch = patch(response, version, mutating)?;
    let allowed = response.get("allowed") == Some(&Value::Bool(true));
    Ok(Answer {
        warnings: warnings
            .into_iter()
            .flatten()
            .filter_map(|w| w.as_str().map(str::to_string))
            .collect(),
        annotations: annotations.into_iter().flatten().map(texts).collect(),
        decision: match (allowed, patch) {
            (false, _) => Decision::Refused(response.get("status").cloned().unwrap_or(Value::Null)),
            (true, Some(patch)) => Decision::Changed(patch),
            (true, None) => Decision::Allowed,
        },
    })
}

fn patch(response: &Value, version: &str, mutating: bool) -> Result<Option<Value>, String> {
    let text = |key: &str| object::text(response, &format!("/{key}"));
    let (patch, kind) = (
        text("patch"),
        response.get("patchType").and_then(Value::as_str),
    );
    match (mutating, patch, kind) {
        (_, "", None) => Ok(None),
        (true, patch, None) if version == "v1beta1" => patch_of(patch),
        (false, "", Some(_)) => Err("validating webhook may not return response.patchType".into()),
        (false, _, _) => Err("validating webhook may not return response.patch".into()),
        (true, "", Some(_)) => {
            Err("webhook returned response.patchType but not response.patch".into())
        }
        (true, _, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, patch, Some("JSONPatch")) => patch_of(patch),
        (true, _, Some(other)) => Err(format!("unsupported patch type {other:?}")),
    }
}

/// The patch in base64, unless it does nothing.
fn patch_of(text: &str) -> Result<Option<Value>, String> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|e| format!("response.patch is not base64: {e}"))?;
    let patch: Value = serde_json::from_slice(&bytes)
        .map_err(|e| format!("received undecodable patch in webhook response: {e}"))?;
    Ok(Some(patch).filter(|p| p.as_array().is_none_or(|list| !list.is_empty())))
}

/// A refusal as the client sees it.
pub fn refusal(hook: &str, status: &Value) -> ApiError {
    let denied = format!("admission webhook {hook:?} denied the request");
    let (message, reason) = (
        object::text(status, "/message"),
        object::text(status, "/reason"),
    );
    let code = status.get("code").and_then(Value::as_u64);
    let code = code
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| *c >= 400);
    ApiError {
        code: code
            .and_then(|c| StatusCode::from_u16(c).ok())
            .unwrap_or(StatusCode::BAD_REQUEST),
        reason: reason.to_string().into(),
        message: match (message, reason) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        },
        details: status.get("details").cloned().unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    fn read_value(value: &Value, mutating: bool) -> Result<Answer, String> {
        read(value.to_string().as_bytes(), "v1", "u", mutating)
    }

    #[test]
    fn answers_are_read() {
        let patch = STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let value = answer(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch,
            "warnings": ["w"], "auditAnnotations": {"k": "v"}}),
        );
        let found = read_value(&value, true).unwrap();
        assert_eq!(found.warnings, ["w"]);
        assert_eq!(found.annotations, [("k".to_string(), "v".to_string())]);
        let change = json!([{"op": "add", "path": "/a", "value": 1}]);
        assert_eq!(found.decision, Decision::Changed(change));
        let refused = answer(json!({"uid": "u", "allowed": false}));
        assert_eq!(
            read_value(&refused, false).unwrap().decision,
            Decision::Refused(Value::Null)
        );
    }

    #[test]
    fn answers_that_mean_nothing_are_errors() {
        for (response, mutating, why) in [
            (
                json!({"uid": "other", "allowed": true}),
                true,
                "expected response.uid=\"u\", got \"other\"",
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10="}),
                true,
                "response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "allowed": true, "patchType": "JSONPatch"}),
                true,
                "response.patchType but not response.patch",
            ),
            (
                json!({"uid": "u", "allowed": true, "patchType": "Merge", "patch": "e30="}),
                true,
                "unsupported patch type \"Merge\"",
            ),
            (
                json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "W10="}),
                false,
                "validating webhook may not return response.patch",
            ),
        ] {
            let error = read_value(&answer(response), mutating).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let wrong = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "u"}});
        assert!(
            read_value(&wrong, true)
                .unwrap_err()
                .contains("expected webhook response of")
        );
        assert!(read(b"no", "v1", "u", true).is_err());
        assert_eq!(
            read(b"{}", "v1", "u", true).unwrap_err(),
            "webhook response was absent"
        );
    }

    #[test]
    fn the_old_version_says_less() {
        let old = json!({"response": {"allowed": true, "patch": STANDARD.encode(r#"[{"op":"remove","path":"/a"}]"#)}});
        let found = read(old.to_string().as_bytes(), "v1beta1", "u", true).unwrap();
        let change = json!([{"op": "remove", "path": "/a"}]);
        assert_eq!(found.decision, Decision::Changed(change));
    }

    #[test]
    fn refusals_have_the_words_of_the_webhook() {
        let error = refusal(
            "a.b.c",
            &json!({"code": 403, "reason": "Forbidden", "message": "no"}),
        );
        assert_eq!(
            error.message,
            "admission webhook \"a.b.c\" denied the request: no"
        );
        assert_eq!(
            (error.code.as_u16(), error.reason.as_ref()),
            (403, "Forbidden")
        );
        let error = refusal("a.b.c", &json!({"code": 200, "reason": "Because"}));
        assert_eq!(
            error.message,
            "admission webhook \"a.b.c\" denied the request: Because"
        );
        assert_eq!(error.code, 400);
        let error = refusal("a.b.c", &Value::Null);
        assert_eq!(
            error.message,
            "admission webhook \"a.b.c\" denied the request without explanation"
        );
    }
}
