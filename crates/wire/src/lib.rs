//! Both ends of the control channels: delta xDS, the certificate authority, ZDS with file
//! descriptor passing.
//!
//! Clients reconnect for ever and keep what they have; servers check who calls before they answer.
//! Nothing here decides about workloads or policies: resources are bytes on the server side, and
//! decoded messages handed to a handler on the client side.

pub mod backoff;
pub mod ca;
pub mod credentials;
pub mod tls;
pub mod xds;
pub mod zds;

/// An error with all its causes on one line: `transport error: tcp connect error: refused`.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A gRPC status as text: code, message and, where the transport failed, its causes.
pub fn status_text(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
