//! HBONE: HTTP/2 CONNECT over mutual TLS. Each connection of an application is one stream of a
//! tunnel that two proxies share.
//!
//! Nothing here buffers without bound. What a peer may send ahead of the application is limited by
//! the windows, and they open only as the application takes the bytes. Small frames are merged as
//! they arrive ([`stream`]), so that a chatty sender costs bytes and not frames.

pub mod client;
mod error;
mod flush;
mod head;
mod ping;
pub mod pool;
pub mod server;
mod stream;

use std::time::Duration;

pub use error::{ConnectError, TunnelError};
pub use head::{
    Authority, AuthorityError, Baggage, ConnectHead, ConnectRequest, Forwarded, TraceParent,
};
pub use stream::{Stream, StreamReader, StreamWriter};

/// Unread small frames that a connection may hold, in units of the HTTP/2 library's accounting
/// (256 minus the length, for every frame shorter than 256 bytes).
///
/// The library ends the whole connection, with all its streams, when this is spent, and its default
/// is spent by 128 unread frames of one byte. The proxy drains frames as they arrive, so what counts
/// here is a burst between two turns of a task: this allows about 260,000 such frames.
pub(crate) const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// Parameters of the HTTP/2 connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Bytes that the peer may send on one stream before the application takes any.
    pub stream_window: u32,
    /// The same for all streams together.
    pub connection_window: u32,
    /// Largest frame that the peer may send.
    pub max_frame_size: u32,
    /// Largest header list that the peer may send.
    pub max_header_list_size: u32,
    /// Server: streams that a client may have open at once.
    pub max_concurrent_streams: u32,
    /// Client: streams to open before the server has said how many it allows.
    pub initial_max_send_streams: usize,
    /// Bytes of one stream that may wait to be sent.
    pub send_buffer: usize,
    /// Time between pings.
    pub ping_interval: Duration,
    /// A ping that is not answered for this long ends the connection.
    pub ping_timeout: Duration,
}

impl Http2Settings {
    /// What a client offers.
    pub fn client() -> Self {
        Self {
            max_header_list_size: 16 * 1024,
            ..Self::server()
        }
    }

    /// What a server offers.
    pub fn server() -> Self {
        Self {
            stream_window: 4 * 1024 * 1024,
            connection_window: 16 * 1024 * 1024,
            max_frame_size: 1024 * 1024,
            max_header_list_size: 64 * 1024,
            max_concurrent_streams: 200,
            initial_max_send_streams: 100,
            send_buffer: 256 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}
