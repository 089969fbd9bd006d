//! A TCP connection as one side of a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::buffers::Buffer;

use super::direction::{Sink, Source};
use super::queue::Queue;
use super::sealed::Side;

/// The first read, and the least: most requests fit.
const SMALLEST_READ: usize = 4 * 1024;
/// The largest read. More only leaves the cache before it is encrypted.
const LARGEST_READ: usize = crate::buffers::LARGE;
/// Pieces in one vectored write.
const PIECES: usize = 64;

impl Side for TcpStream {
    type Reader = TcpReader;
    type Writer = OwnedWriteHalf;

    fn halves(self) -> (TcpReader, OwnedWriteHalf) {
        let (read, write) = self.into_split();
        (
            TcpReader {
                half: read,
                next: SMALLEST_READ,
            },
            write,
        )
    }
}

/// Reads with buffers that grow while they come out full and shrink when they do not.
pub struct TcpReader {
    half: OwnedReadHalf,
    next: usize,
}

impl TcpReader {
    fn adapt(&mut self, size: usize, read: usize) {
        if read == size {
            self.next = (size * 4).min(LARGEST_READ);
        } else if read < size / 4 {
            self.next = (size / 2).max(SMALLEST_READ);
        }
    }
}

impl Source for TcpReader {
    const EAGER: bool = false;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // Readiness first: an idle connection then holds no buffer.
        ready!(self.half.as_ref().poll_read_ready(cx))?;
        let size = self.next;
        let mut buffer = Buffer::take(size);
        let mut into = ReadBuf::uninit(buffer.room());
        ready!(Pin::new(&mut self.half).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        // SAFETY: the read has initialised `read` bytes at the start of the buffer's room.
        unsafe { buffer.filled(read) };
        self.adapt(size, read);
        Poll::Ready(Ok((read > 0).then(|| buffer.into_bytes())))
    }

    fn release(&mut self, _: usize) {}
}

impl Sink for OwnedWriteHalf {
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = queue.slices(&mut slices);
        let n = ready!(Pin::new(self).poll_write_vectored(cx, &slices[..count]))?;
        queue.advance(n);
        Poll::Ready(if n == 0 {
            Err(io::ErrorKind::WriteZero.into())
        } else {
            Ok(n)
        })
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // A peer that has closed shows itself to the reader of this socket.
        Poll::Pending
    }
}
