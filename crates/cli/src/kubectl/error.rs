//! Errors in kubectl's words.

use serde_json::Value;

/// A refusal by the server, with its `Status`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("Error from server ({}): {}", .reason, .message)]
pub struct ServerError {
    /// HTTP status.
    pub code: u16,
    /// Machine readable.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl ServerError {
    /// From an answer that is no success.
    pub fn new(code: u16, body: &[u8]) -> Self {
        let status: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |key: &str| status.get(key).and_then(Value::as_str).map(str::to_string);
        ServerError {
            code,
            reason: text("reason").unwrap_or_else(|| "InternalError".into()),
            message: text("message")
                .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_string()),
        }
    }

    /// The same, with what was being done: `error when creating "x.yaml": …`.
    pub fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// Whether the error says that something does not exist.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ServerError>()
        .is_some_and(|e| e.code == 404)
}

/// What the user sees.
pub fn shown(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if text.starts_with("error:") || text.starts_with("Error from server") {
        return text;
    }
    format!("error: {text}")
}
