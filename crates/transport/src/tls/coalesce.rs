//! Small writes above TLS, put together until they are flushed.
//!
//! The TLS library makes a record, and its adapter a system call, of every write. HTTP/2 writes
//! each frame by itself and flushes when it has no more, so with many streams on a tunnel what
//! could be one record and one call would be dozens. This adapter collects small writes; large ones
//! pass by, behind what was collected. It holds a buffer only while something is in it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers::{Buffer, LARGE};

/// The plaintext of a full record: what is as large gains nothing by being copied.
const RECORD: usize = 16 * 1024;
/// Slices of a large write that are passed on together.
const SLICES: usize = 16;

pub(crate) struct Coalesce<IO> {
    io: IO,
    collected: Option<Buffer>,
    /// How much of it has been written.
    written: usize,
}

impl<IO> Coalesce<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            collected: None,
            written: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &IO {
        &self.io
    }

    fn forget_written(&mut self) {
        self.written = 0;
        self.collected = None;
    }
}

/// What has been collected and not written. Not a method, so that the transport can be borrowed
/// beside it.
fn waiting(collected: &Option<Buffer>, written: usize) -> &[u8] {
    collected
        .as_ref()
        .map_or(&[], |buffer| &buffer.as_ref()[written..])
}

impl<IO: AsyncWrite + Unpin> Coalesce<IO> {
    /// Writes what has been collected.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let rest = waiting(&self.collected, self.written);
            if rest.is_empty() {
                self.forget_written();
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
    }

    /// Writes what has been collected and, in the same records, of `bufs` what fits.
    fn poll_pass(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let rest = waiting(&self.collected, self.written);
            let mut slices = [IoSlice::new(&[]); SLICES];
            slices[0] = IoSlice::new(rest);
            let count = bufs.len().min(SLICES - 1);
            for (slot, buf) in slices[1..].iter_mut().zip(bufs) {
                *slot = IoSlice::new(buf);
            }
            let before = rest.len();
            let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..=count]))?;
            if n >= before {
                self.forget_written();
            } else {
                self.written += n;
            }
            if n > before {
                return Poll::Ready(Ok(n - before));
            }
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Coalesce<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if total >= RECORD {
            return this.poll_pass(cx, bufs);
        }
        if waiting(&this.collected, 0).len() + total > LARGE {
            ready!(this.poll_drain(cx))?;
        }
        if total > 0 {
            let collected = this.collected.get_or_insert_with(|| Buffer::take(LARGE));
            bufs.iter().for_each(|buf| collected.append(buf));
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Coalesce<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes a little at a time and remembers the writes.
    #[derive(Default)]
    struct Writes {
        most: usize,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.push(Vec::new());
            self.as_mut().poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.to_vec()).collect();
            let taken = all.len().min(self.most);
            self.writes.push(all[..taken].to_vec());
            self.writes.retain(|w| !w.is_empty());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn writes(pieces: &[Vec<u8>], most: usize) -> Vec<Vec<u8>> {
        let mut to = Coalesce::new(Writes {
            most,
            writes: Vec::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            for piece in pieces {
                to.write_all(piece).await.unwrap();
            }
            to.flush().await.unwrap();
        });
        to.io.writes
    }

    #[test]
    fn small_writes_become_one_and_a_large_one_follows_in_the_same() {
        let small: Vec<_> = (0..10).map(|i| vec![i; 100]).collect();
        assert_eq!(writes(&small, usize::MAX).len(), 1);
        let with_large = [small, vec![vec![9; 50_000]]].concat();
        assert_eq!(writes(&with_large, usize::MAX).len(), 1);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_moved(
            lengths in proptest::collection::vec(
                prop_oneof![0usize..200, 10_000usize..40_000], 0..12),
            most in prop_oneof![1usize..5000, Just(usize::MAX)],
        ) {
            let pieces: Vec<Vec<u8>> =
                lengths.iter().enumerate().map(|(i, n)| vec![i as u8; *n]).collect();
            prop_assert_eq!(writes(&pieces, most).concat(), pieces.concat());
        }
    }
}
