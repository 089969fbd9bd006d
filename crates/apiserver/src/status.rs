//! Every failure the API answers, as Kubernetes' `Status` object.
//!
//! Clients branch on `reason` and `code` (kubectl on both, kube-rs on `code` and `reason`), and
//! people read `message`, so the wording follows the real API server's.

use http::StatusCode;
use serde_json::{Value, json};

/// The result of serving a request.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A failed request: what a client gets as `Status`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status, also `code` of the Status.
    pub code: StatusCode,
    /// Machine readable reason, such as `NotFound`.
    pub reason: Box<str>,
    /// Text for people.
    pub message: String,
    /// `details` of the Status, or null.
    pub details: Value,
}

/// One reason why an object is invalid, with the field it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// Path in the object such as `spec.containers[0].name`.
    pub field: String,
    /// Text that follows the path.
    pub message: String,
}

impl Cause {
    /// The field must be set.
    pub fn required(field: impl Into<String>, hint: &str) -> Self {
        let message = match hint {
            "" => "Required value".to_string(),
            hint => format!("Required value: {hint}"),
        };
        Cause {
            reason: "FieldValueRequired",
            field: field.into(),
            message,
        }
    }

    /// The field has a value that is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", shown_value(value));
        Cause {
            reason: "FieldValueInvalid",
            field: field.into(),
            message,
        }
    }

    /// The value has the wrong JSON type.
    pub fn wrong_type(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", shown_type(value));
        Cause {
            reason: "FieldValueTypeInvalid",
            field: field.into(),
            message,
        }
    }

    /// The value is none of the allowed ones.
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let mut sorted: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        sorted.sort();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            shown_value(value),
            sorted.join(", ")
        );
        Cause {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message,
        }
    }

    /// As [`Cause::not_supported`], with the allowed values in their own order.
    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[String]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            shown_value(value),
            allowed.join(", ")
        );
        Cause {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message,
        }
    }

    /// Two items of a list have the same key.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown_value(value));
        Cause {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message,
        }
    }

    /// The field names something that is not there.
    pub fn not_found(field: impl Into<String>, name: &str) -> Self {
        Cause {
            reason: "FieldValueNotFound",
            field: field.into(),
            message: format!("Not found: {name:?}"),
        }
    }

    /// The field must not be set or changed here.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Cause {
            reason: "FieldValueForbidden",
            field: field.into(),
            message: format!("Forbidden: {why}"),
        }
    }
}

/// A value as the real API server quotes it: strings in quotes, the rest as JSON.
pub fn shown_value(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

fn shown_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "\"null\"",
        Value::Bool(_) => "\"boolean\"",
        Value::Number(n) if n.is_f64() => "\"number\"",
        Value::Number(_) => "\"integer\"",
        Value::String(_) => "\"string\"",
        Value::Array(_) => "\"array\"",
        Value::Object(_) => "\"object\"",
    }
}

/// `deployments.apps`, or `pods` for the core group.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_string()
    } else {
        format!("{name}.{group}")
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        if !resource.is_empty() {
            details.insert("kind".into(), resource.into());
        }
        self.details = Value::Object(details);
        self
    }

    /// No object of that name.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(group, resource, name)
    }

    /// Nothing is served at this path.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource";
        let mut e = Self::new(StatusCode::NOT_FOUND, "NotFound", message);
        e.details = json!({});
        e
    }

    /// An object of that name exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(group, resource, name)
    }

    /// The object changed since the client read it.
    pub fn conflict(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict_because(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// The request contradicts the object's state.
    pub fn conflict_because(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(group, resource)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(group, resource, name)
    }

    /// Another manager owns a field that a server-side apply would change.
    pub fn apply_conflict(conflicts: Vec<(String, String)>) -> Self {
        let n = conflicts.len();
        let list: Vec<String> = conflicts
            .iter()
            .map(|(manager, field)| format!("conflict with {manager}: {field}"))
            .collect();
        let message = format!(
            "Apply failed with {n} conflict{}: {}",
            if n == 1 { "" } else { "s" },
            list.join("\n")
        );
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict",
                       "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        let mut e = Self::new(StatusCode::CONFLICT, "Conflict", message);
        e.details = json!({ "causes": causes });
        e
    }

    /// The object breaks rules of its kind.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|c| match c.field.as_str() {
                "" => c.message.clone(),
                field => format!("{field}: {}", c.message),
            })
            .collect();
        let joined = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {joined}", qualified(group, kind));
        let mut e = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(group, kind, name);
        let causes: Vec<Value> = causes
            .into_iter()
            .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
            .collect();
        if let Some(details) = e.details.as_object_mut() {
            details.insert("causes".into(), causes.into());
        }
        e
    }

    /// The request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// Understood, but a value in it cannot be accepted and no object is to blame.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// Who asks is unknown.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// Who asks may not. `why` is the text after "is forbidden: ".
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = match name {
            "" => qualified(group, resource),
            name => format!("{} {name:?}", qualified(group, resource)),
        };
        let message = format!("{what} is forbidden: {why}");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, resource, name)
    }

    /// As [`ApiError::forbidden`], for a path that is no resource.
    pub fn forbidden_path(message: impl Into<String>) -> Self {
        let mut e = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        e.details = json!({});
        e
    }

    /// The resource does not have this verb.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut e = Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
        e.details = json!({});
        e
    }

    /// As [`ApiError::method_not_allowed`], for a reason that may pass.
    pub fn method_not_allowed_because(why: &str) -> Self {
        let mut e = Self::method_not_allowed();
        e.message = why.to_string();
        e
    }

    /// A body format this server does not read.
    pub fn unsupported_media_type(what: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            what,
        )
    }

    /// An answer format this server does not write.
    pub fn not_acceptable(accept: &str) -> Self {
        let message = format!(
            "only application/json is served (with as=Table or as=PartialObjectMetadata where it applies), not {accept:?}"
        );
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The history that was asked for is gone; the client must list again.
    pub fn expired(requested: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {requested} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The revision that was asked for has not been reached; the client may come again.
    pub fn future_version(asked: u64, now: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {now}");
        let mut e = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        e.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        e
    }

    /// A failure for which Kubernetes has no reason and answers 500, although the client is to
    /// blame.
    pub fn odd(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// A list cannot be continued; the client must start it again.
    pub fn continue_expired() -> Self {
        Self::new(
            StatusCode::GONE,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        )
    }

    /// The body is larger than the server reads.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// Disruption budget refuses an eviction now.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    /// Something behind this server did not answer (a kubelet).
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "InternalError", message)
    }

    /// Not the client's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        let why = message.into();
        let message = format!("Internal error occurred: {why}");
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
        error.details = json!({"causes": [{"message": why}]});
        error
    }

    /// The server is stopping or not ready yet.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if let Some(map) = v.as_object_mut() {
            if !self.reason.is_empty() {
                map.insert("reason".into(), self.reason.as_ref().into());
            }
            if !self.details.is_null() {
                map.insert("details".into(), self.details.clone());
            }
            map.insert("code".into(), self.code.as_u16().into());
        }
        v
    }
}

/// The `Status` of something that worked and has no object to show.
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource});
    if let Some(map) = details.as_object_mut() {
        if !group.is_empty() {
            map.insert("group".into(), group.into());
        }
        if !uid.is_empty() {
            map.insert("uid".into(), uid.into());
        }
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_is_that_of_kubernetes() {
        let e = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(e.message, "deployments.apps \"web\" not found");
        assert_eq!(e.to_value()["details"]["kind"], "deployments");
        let e = ApiError::invalid(
            "",
            "Pod",
            "p",
            vec![
                Cause::required("spec.containers", ""),
                Cause::required("metadata.name", "set it"),
            ],
        );
        assert_eq!(
            e.message,
            "Pod \"p\" is invalid: [spec.containers: Required value, metadata.name: Required value: set it]"
        );
        assert_eq!(e.to_value()["code"], 422);
    }

    #[test]
    fn unsupported_values_are_sorted_and_quoted() {
        let c = Cause::not_supported("spec.type", &"x".into(), &["B", "A"]);
        assert_eq!(
            c.message,
            "Unsupported value: \"x\": supported values: \"A\", \"B\""
        );
    }
}
