//! Copying to and from a server that speaks TLS of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

use super::direction::{Sink, Source};
use super::queue::Queue;
use super::sealed::Side;
use crate::tls::OriginStream;

/// A record of TLS carries no more.
const READ: usize = 16 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Side for OriginStream<S> {
    type Reader = OriginReader<S>;
    type Writer = OriginWriter<S>;

    fn halves(self) -> (OriginReader<S>, OriginWriter<S>) {
        let (read, half) = tokio::io::split(self);
        (OriginReader(read), OriginWriter { half, written: 0 })
    }
}

pub struct OriginReader<S>(ReadHalf<OriginStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Source for OriginReader<S> {
    const EAGER: bool = false;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut buffer = BytesMut::zeroed(READ);
        let mut into = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        buffer.truncate(read);
        Poll::Ready(Ok((read > 0).then(|| buffer.freeze())))
    }

    fn release(&mut self, _: usize) {}
}

pub struct OriginWriter<S> {
    half: WriteHalf<OriginStream<S>>,
    /// Taken, but not out yet.
    written: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink for OriginWriter<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        if self.written == 0 {
            let mut slices = [IoSlice::new(&[])];
            let count = queue.slices(&mut slices);
            let Some(first) = slices[..count].first() else {
                return Poll::Ready(Ok(0));
            };
            self.written = ready!(Pin::new(&mut self.half).poll_write(cx, first))?;
            if self.written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        // What is taken stays in the queue until it is out: nobody would ask again for its sake.
        ready!(Pin::new(&mut self.half).poll_flush(cx))?;
        let written = std::mem::take(&mut self.written);
        queue.advance(written);
        Poll::Ready(Ok(written))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // A peer that has closed shows itself to the reader.
        Poll::Pending
    }
}
