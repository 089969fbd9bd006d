//! Why a connection failed: a text for the log, a flag for the metrics.

use std::fmt::Display;

use ambit_transport::copy::CopyError;
use ambit_transport::{hbone, socket};

use crate::metrics::ResponseFlags;

/// The end of a connection that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the metrics.
    pub flags: ResponseFlags,
    /// For the log.
    pub error: String,
}

impl Failure {
    /// A failure of no specific kind, which counts as a failed connection.
    pub fn new(error: impl Display) -> Self {
        Self::flagged(ResponseFlags::Connect, error)
    }

    /// A failure of a kind.
    pub fn flagged(flags: ResponseFlags, error: impl Display) -> Self {
        Self {
            flags,
            error: error.to_string(),
        }
    }

    /// A policy forbids the connection.
    pub fn denied(reason: impl Display) -> Self {
        let error = format!("connection closed due to policy rejection: {reason}");
        Self {
            flags: ResponseFlags::Deny,
            error,
        }
    }

    /// A policy that changed forbids the connection that was open.
    pub fn denied_since_change() -> Self {
        Self::flagged(
            ResponseFlags::Deny,
            "connection closed due to policy change",
        )
    }
}

impl From<&hbone::ConnectError> for Failure {
    fn from(error: &hbone::ConnectError) -> Self {
        use hbone::ConnectError;
        let flags = match error {
            ConnectError::Timeout(_) => ResponseFlags::NetworkPolicy,
            ConnectError::Tls(_) => ResponseFlags::TlsFailure,
            ConnectError::Identity(_) => ResponseFlags::IdentityError,
            ConnectError::Http2Handshake(_) => ResponseFlags::H2HandshakeFailure,
            ConnectError::Io(_)
            | ConnectError::Http2(_)
            | ConnectError::Status(_)
            | ConnectError::InvalidRequest(_) => ResponseFlags::Connect,
        };
        Self::flagged(flags, error)
    }
}

impl From<&socket::ConnectError> for Failure {
    fn from(error: &socket::ConnectError) -> Self {
        Self::new(format_args!("connection failed: {error}"))
    }
}

impl From<&CopyError> for Failure {
    fn from(error: &CopyError) -> Self {
        Self::new(error)
    }
}
