//! A stream of a tunnel as one side of a copy.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::direction::{Sink, Source};
use super::queue::Queue;
use super::sealed::Side;
use crate::hbone::{Stream, StreamReader, StreamWriter};

impl Side for Stream {
    type Reader = StreamReader;
    type Writer = StreamWriter;

    fn halves(self) -> (StreamReader, StreamWriter) {
        self.into_split()
    }
}

impl Source for StreamReader {
    // The tunnel has read them already, and its account of small frames is settled when we take
    // them. How much there can be is bounded by the window, which `release` opens.
    const EAGER: bool = true;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.poll_receive(cx)
    }

    fn release(&mut self, bytes: usize) {
        StreamReader::release(self, bytes);
    }
}

impl Sink for StreamWriter {
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        let Some(mut bytes) = queue.pop() else {
            return Poll::Ready(Ok(0));
        };
        let sent = StreamWriter::poll_send(self, cx, &mut bytes);
        queue.put_back(bytes);
        sent
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // How it is gone shows in the reader.
        let _ = ready!(self.poll_reset(cx));
        Poll::Ready(())
    }
}
