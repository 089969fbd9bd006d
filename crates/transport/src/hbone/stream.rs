//! One application connection on a tunnel, as a stream of bytes.
//!
//! The two directions split into halves that own their part, so that a copy in one direction never
//! waits for the other. Window is given back to the peer only through
//! [`StreamReader::release`], when bytes have really left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::InUse;
use super::error::{into_io, is_end_of_stream, is_unwanted};

/// Both directions of a stream. Dropping it before both ends are done resets the stream.
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
    /// For [`AsyncRead`]: received, not yet read.
    rest: Bytes,
}

/// The receiving half.
pub struct StreamReader {
    receive: RecvStream,
    _in_use: Option<Arc<InUse>>,
}

/// The sending half.
pub struct StreamWriter {
    send: SendStream<Bytes>,
    _in_use: Option<Arc<InUse>>,
}

impl Stream {
    pub(super) fn new(
        send: SendStream<Bytes>,
        receive: RecvStream,
        in_use: Option<Arc<InUse>>,
    ) -> Self {
        Self {
            reader: StreamReader {
                receive,
                _in_use: in_use.clone(),
            },
            writer: StreamWriter {
                send,
                _in_use: in_use,
            },
            rest: Bytes::new(),
        }
    }

    /// The two halves.
    pub fn into_split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

impl StreamReader {
    /// The next bytes as they came off the wire; `None` at the end. The peer's window stays used
    /// until the bytes are [released](Self::release).
    ///
    /// A reset without error is how many peers say that they are done, and counts as the end.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Poll::Ready(match ready!(self.receive.poll_data(cx)) {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(e)) if is_end_of_stream(&e) => Ok(None),
            // The tunnel broke in the middle of the stream. That must not look like a reset by the
            // application, which is an ordinary ending.
            Some(Err(e)) if e.is_io() => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("tunnel lost: {e}"),
            )),
            Some(Err(e)) => Err(into_io(e)),
        })
    }

    /// Lets the peer send this many bytes more.
    pub fn release(&mut self, bytes: usize) {
        // Fails only for more than was received, and on a connection that has ended.
        let _ = self.receive.flow_control().release_capacity(bytes);
    }
}

impl StreamWriter {
    /// Sends as much of `bytes` as there is room for, at least one byte, without copying it.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(send_error(e))),
                None => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            }
        }
        let room = self.send.capacity().min(bytes.len());
        let piece = bytes.split_to(room);
        self.send.send_data(piece, false).map_err(send_error)?;
        Poll::Ready(Ok(room))
    }

    /// Ends this direction.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(send_error)
    }

    /// Ready when the peer has reset the stream: nothing that is sent will be read.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) if is_unwanted(reason) => Poll::Ready(Ok(())),
            Ok(reason) => Poll::Ready(Err(into_io(reason.into()))),
            Err(e) => Poll::Ready(Err(send_error(e))),
        }
    }
}

/// `BrokenPipe` if the peer does not want more, `WriteZero` if it can no longer get it.
fn send_error(e: h2::Error) -> io::Error {
    let kind = match e.reason() {
        Some(reason) if is_unwanted(reason) => io::ErrorKind::BrokenPipe,
        None if e.is_io() => io::ErrorKind::WriteZero,
        // A use of a stream that a reset has already closed.
        None => io::ErrorKind::BrokenPipe,
        Some(_) => return into_io(e),
    };
    io::Error::new(kind, e.to_string())
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.reader.poll_receive(cx))? {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        self.reader.release(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        const MOST: usize = 64 * 1024;
        let mut bytes = Bytes::copy_from_slice(&buf[..buf.len().min(MOST)]);
        self.writer.poll_send(cx, &mut bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.writer.finish())
    }
}
