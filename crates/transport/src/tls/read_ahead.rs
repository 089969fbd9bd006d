//! Large reads below TLS.
//!
//! The record layer asks its transport for little more than one record at a time, which costs a
//! system call for every 16 KiB of a bulk transfer. This adapter reads what the socket has, up to
//! [`SIZE`], and hands it on in the pieces that are asked for. It holds a buffer only while bytes
//! are waiting in it, so that an idle connection costs nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::buffers::{Buffer, LARGE};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes taken from the socket at once: four full records, and below the size from which
/// allocators turn to the kernel.
const SIZE: usize = LARGE;

pub(crate) struct ReadAhead<IO> {
    io: IO,
    buffer: Option<Buffer>,
    taken: usize,
}

impl<IO> ReadAhead<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            buffer: None,
            taken: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &IO {
        &self.io
    }

    fn waiting(&self) -> &[u8] {
        self.buffer
            .as_ref()
            .map_or(&[], |buffer| &buffer.as_ref()[self.taken..])
    }
}

impl<IO: AsyncRead + Unpin> ReadAhead<IO> {
    /// Fills an empty buffer with one read.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = Buffer::take(SIZE);
        let mut into = ReadBuf::uninit(buffer.room());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        let filled = into.filled().len();
        // SAFETY: the read has initialised the first `filled` bytes of the room.
        unsafe { buffer.filled(filled) };
        self.taken = 0;
        self.buffer = Some(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting().is_empty() {
            this.buffer = None;
            if buf.remaining() >= SIZE {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            ready!(this.poll_fill(cx))?;
        }
        let waiting = this.waiting();
        let n = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..n]);
        this.taken += n;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in_and_no_buffer_stays() {
        let (mut a, b) = tokio::io::duplex(200_000);
        let mut b = ReadAhead::new(b);
        let sent: Vec<u8> = (0..150_000u32).map(|i| i as u8).collect();
        a.write_all(&sent).await.unwrap();
        let mut got = vec![0; sent.len()];
        for piece in got.chunks_mut(997) {
            b.read_exact(piece).await.unwrap();
        }
        assert_eq!(got, sent);
        let mut byte = [0u8];
        let idle = tokio::time::timeout(std::time::Duration::from_millis(5), b.read(&mut byte));
        assert!(idle.await.is_err());
        assert!(b.buffer.is_none());
        drop(a);
        assert_eq!(b.read(&mut byte).await.unwrap(), 0);
    }
}
