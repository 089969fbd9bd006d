//! How long a client of HTTP/1 may take for the head of a request, and how long its connection may
//! wait between requests. The two differ: a client that keeps a connection has nothing to hurry for,
//! one that has begun to ask does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a connection may wait for a request (Envoy's `idle_timeout`).
const IDLE: Duration = Duration::from_secs(3600);

/// A head is expected, or coming in.
const HEAD: u8 = 0;
/// A request is served.
const SERVING: u8 = 1;
/// The last request has ended.
const WAITING: u8 = 2;

/// Where a connection stands. Whoever serves its requests says so.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU8);

impl Pace {
    /// A head has come in.
    pub(crate) fn serving(&self) {
        self.0.store(SERVING, Ordering::Relaxed);
    }

    /// The request has ended, and the connection may carry another.
    pub(crate) fn ended(&self) {
        self.0.store(WAITING, Ordering::Relaxed);
    }

    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection whose reads fail when its client takes too long.
pub(crate) struct Paced<S> {
    inner: S,
    pace: Arc<Pace>,
    head: Duration,
    /// The state that the deadline is for.
    seen: u8,
    deadline: Instant,
    /// Never armed for later than [`Self::head`] from now, so that no request has to move it.
    timer: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    /// `head` is the longest time for a head.
    pub(crate) fn new(inner: S, pace: Arc<Pace>, head: Duration) -> Self {
        let deadline = Instant::now() + head;
        Self {
            inner,
            pace,
            head,
            seen: HEAD,
            deadline,
            timer: Box::pin(tokio::time::sleep_until(deadline)),
        }
    }

    fn enter(&mut self, state: u8) {
        self.seen = state;
        self.deadline = Instant::now()
            + match state {
                WAITING => IDLE,
                _ => self.head,
            };
    }

    /// The time is over.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.seen == SERVING {
            return Poll::Pending;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.deadline <= now {
                return Poll::Ready(());
            }
            let next = self.deadline.min(now + self.head);
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = self.pace.state();
        if state != self.seen {
            self.enter(state);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if read.is_pending() {
            return match self.poll_late(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            };
        }
        if state == WAITING && buffer.filled().len() > before {
            self.pace.0.store(HEAD, Ordering::Relaxed);
            self.enter(HEAD);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
