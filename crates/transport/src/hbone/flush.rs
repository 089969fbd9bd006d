//! One flush for each turn of a tunnel, however many frames it sends.
//!
//! The HTTP/2 library flushes its transport after every DATA frame that is not very small. With
//! many streams on a tunnel that is a TLS record and a system call for each of them, where one
//! would do for all that are ready. So its flush does nothing here, and whoever drives the
//! connection flushes when the library has no more to say. What it has written waits below, in a
//! bounded buffer that pushes back when it is full.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a peer may take to read the end of what was sent and to close.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_BUFFER: usize = 16 * 1024;

/// A transport for the library, and the hand that flushes it.
pub(super) fn split<IO>(io: IO) -> (Deferred<IO>, Flusher<IO>) {
    let shared = Arc::new(Mutex::new(io));
    (Deferred(shared.clone()), Flusher(shared))
}

/// Passes everything on but flushes. The lock is never contended: both parts are used by the one
/// task that drives the connection.
pub(super) struct Deferred<IO>(Arc<Mutex<IO>>);

/// Flushes.
pub(super) struct Flusher<IO>(Arc<Mutex<IO>>);

impl<IO: AsyncWrite + Unpin> Flusher<IO> {
    /// To be called each time the connection has been polled, and nothing else is to be done.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }
}

/// The end of a connection that was closed in order. A socket that is closed with something unread
/// resets the connection, and a reset takes along what the peer has not read yet. So what the peer
/// still says is read and thrown away until it closes its side, too, or has had its time.
pub(super) struct Linger {
    over: Pin<Box<Sleep>>,
    thrown_away: Vec<u8>,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self {
            over: Box::pin(tokio::time::sleep(LINGER)),
            thrown_away: vec![0; LINGER_BUFFER],
        }
    }

    /// Ready when the connection can be dropped.
    pub(super) fn poll<IO>(&mut self, io: &Flusher<IO>, cx: &mut Context<'_>) -> Poll<()>
    where
        IO: AsyncRead + Unpin,
    {
        loop {
            let mut buffer = ReadBuf::new(&mut self.thrown_away);
            match Pin::new(&mut *io.0.lock()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.over.as_mut().poll(cx),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Deferred<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Deferred<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}
