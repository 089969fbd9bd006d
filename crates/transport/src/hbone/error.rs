//! What can go wrong with a tunnel, in the words of the access log.

use std::fmt;
use std::io;
use std::sync::Arc;

use http::StatusCode;

/// Why no stream to a peer could be opened. Clones are cheap: one failure answers all who waited.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection in time.
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: {0}")]
    Timeout(std::net::SocketAddr),
    /// TCP or the TLS handshake failed.
    #[error("io error: {0}")]
    Io(Arc<io::Error>),
    /// The own TLS configuration cannot be used.
    #[error("tls error: {0}")]
    Tls(Arc<str>),
    /// There is no certificate for the source.
    #[error("identity error: {0}")]
    Identity(Arc<str>),
    /// The HTTP/2 connection could not be set up.
    #[error("http2 handshake failed: {0}")]
    Http2Handshake(Arc<str>),
    /// The HTTP/2 connection failed under the request.
    #[error("h2 failed: {0}")]
    Http2(Arc<str>),
    /// The peer refused.
    #[error("http status: {0}")]
    Status(StatusCode),
    /// The request cannot be expressed in HTTP.
    #[error("invalid CONNECT request: {0}")]
    InvalidRequest(Arc<str>),
}

impl From<io::Error> for ConnectError {
    fn from(e: io::Error) -> Self {
        Self::Io(Arc::new(e))
    }
}

/// Why an accepted tunnel ended, other than by its end.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The HTTP/2 preface or settings failed.
    #[error("http2 handshake failed: {0}")]
    Handshake(String),
    /// The transport failed.
    #[error("io error: {0}")]
    Io(io::Error),
    /// The peer broke the protocol, or said that we did.
    #[error("h2 failed: {0}")]
    Protocol(String),
    /// The peer stopped answering pings.
    #[error("the peer did not answer a ping in time")]
    PingTimeout,
}

impl From<h2::Error> for TunnelError {
    fn from(e: h2::Error) -> Self {
        if e.is_io() {
            Self::Io(into_io(e))
        } else {
            Self::Protocol(e.to_string())
        }
    }
}

/// A failure of the connection below a request.
pub(super) fn connect_error(e: h2::Error) -> ConnectError {
    if e.is_io() {
        into_io(e).into()
    } else {
        ConnectError::Http2(text(&e))
    }
}

pub(super) fn text(e: &impl fmt::Display) -> Arc<str> {
    e.to_string().into()
}

/// The HTTP/2 error as an I/O error, keeping the kind if it was one.
pub(super) fn into_io(e: h2::Error) -> io::Error {
    if e.is_io() {
        let shown = e.to_string();
        e.into_io().unwrap_or_else(|| io::Error::other(shown))
    } else {
        io::Error::other(e.to_string())
    }
}

/// Reading: whether a reset is how the peer says that it is done.
pub(super) fn is_end_of_stream(e: &h2::Error) -> bool {
    matches!(e.reason(), Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL)) && e.is_reset()
}

/// Writing: whether the peer merely does not want more.
pub(super) fn is_unwanted(reason: h2::Reason) -> bool {
    matches!(
        reason,
        h2::Reason::NO_ERROR | h2::Reason::CANCEL | h2::Reason::STREAM_CLOSED
    )
}
