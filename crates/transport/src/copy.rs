//! Moving the bytes of a connection in both directions, until both have ended.
//!
//! - An end is passed on at once: FIN becomes END_STREAM and back. The other direction goes on, for
//!   ever if need be; nothing here times out.
//! - Endings that applications meet every day (reset, broken pipe, not connected) are no errors.
//! - Bytes are not copied between the socket and the tunnel: what is read from a socket is handed to
//!   the tunnel as it is, and what the tunnel received is written from where it lies.
//! - Memory is bounded: one read at a time from a socket, and from a tunnel what its window allows.
//!   An idle connection holds no buffer.

mod direction;
mod origin;
mod queue;
mod tcp;
mod tunnel;

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use direction::{Direction, Ended};

/// Bytes moved so far; may be read while the copy runs.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    /// Bytes from the downstream side to the upstream side.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the upstream side to the downstream side.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// How a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// From downstream to upstream.
    #[error("send: {0}")]
    Send(#[source] DirectionError),
    /// From upstream to downstream.
    #[error("receive: {0}")]
    Receive(#[source] DirectionError),
}

/// How one direction failed.
#[derive(Debug, thiserror::Error)]
pub enum DirectionError {
    /// Reading failed.
    #[error("{0}")]
    Read(io::Error),
    /// The side that is written to has gone, with bytes for it at hand.
    #[error("{0} disconnected before all data was written")]
    Disconnected(&'static str),
    /// Writing failed.
    #[error("while writing: {0}")]
    Write(io::Error),
    /// Passing on the end failed.
    #[error("while closing connection: {0}")]
    Close(io::Error),
}

mod sealed {
    use super::direction::{Sink, Source};

    /// One side of a connection.
    pub trait Side: Send {
        type Reader: Source + Unpin + Send;
        type Writer: Sink + Unpin + Send;
        fn halves(self) -> (Self::Reader, Self::Writer);
    }
}

/// A connection that can be copied: [`tokio::net::TcpStream`], [`hbone::Stream`](crate::hbone::Stream)
/// or [`tls::OriginStream`](crate::tls::OriginStream).
pub trait Endpoint: sealed::Side {}

impl Endpoint for tokio::net::TcpStream {}
impl Endpoint for crate::hbone::Stream {}
impl<S> Endpoint for crate::tls::OriginStream<S> where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send
{
}

/// Copies until both directions have ended, and closes both sides.
///
/// `downstream` is the side that opened the connection; bytes from it count as sent. An error ends
/// both directions. So does a reset of a side, without being an error: nobody is left to read what
/// the other side may still say.
pub async fn bidirectional<D: Endpoint, U: Endpoint>(
    downstream: D,
    upstream: U,
    counters: &Counters,
) -> Result<(), CopyError> {
    let (down_reader, down_writer) = downstream.halves();
    let (up_reader, up_writer) = upstream.halves();
    // Both keep their halves until both have ended: dropping one early would reset a stream.
    let mut send = Direction::new(down_reader, up_writer, &counters.sent);
    let mut receive = Direction::new(up_reader, down_writer, &counters.received);
    poll_fn(|cx| {
        let sent = send
            .poll(cx)
            .map_err(|e| CopyError::Send(e.into_error("destination")));
        if let Some(end) = conclude(sent) {
            return Poll::Ready(end);
        }
        let received = receive
            .poll(cx)
            .map_err(|e| CopyError::Receive(e.into_error("client")));
        if let Some(end) = conclude(received) {
            return Poll::Ready(end);
        }
        if send.has_ended() && receive.has_ended() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Whether what became of one direction ends the whole copy.
fn conclude(direction: Poll<Result<Ended, CopyError>>) -> Option<Result<(), CopyError>> {
    match direction {
        Poll::Pending | Poll::Ready(Ok(Ended::Clean)) => None,
        Poll::Ready(Ok(Ended::Reset)) => Some(Ok(())),
        Poll::Ready(Err(e)) => Some(Err(e)),
    }
}
