//! One direction of a copy: a source, a queue of what it gave, a sink.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::DirectionError;
use super::queue::Queue;

/// Where bytes come from.
pub trait Source {
    /// Whether the bytes are in memory anyway, so that taking them early costs none, and merging
    /// small pieces saves some.
    const EAGER: bool;

    /// The next bytes, `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// These bytes have left the proxy.
    fn release(&mut self, bytes: usize);
}

/// Where bytes go.
pub trait Sink {
    /// Takes bytes off the queue, at least one.
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>>;

    /// Passes on the end.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when nothing that is sent will be read any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// How a direction ended, if without error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The end was passed on, or the sink did not want more.
    Clean,
    /// The source was reset: its connection is dead in both directions.
    Reset,
}

/// An error that does not know yet who is at which end.
pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
    Close(io::Error),
}

impl Failed {
    pub(super) fn into_error(self, sink: &'static str) -> DirectionError {
        match self {
            Self::Read(e) => DirectionError::Read(e),
            Self::Write(e) if e.kind() == io::ErrorKind::WriteZero => {
                DirectionError::Disconnected(sink)
            }
            Self::Write(e) => DirectionError::Write(e),
            Self::Close(e) => DirectionError::Close(e),
        }
    }
}

/// Endings that applications meet every day.
fn is_ordinary(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(
        e.kind(),
        NotConnected | UnexpectedEof | ConnectionReset | BrokenPipe
    )
}

enum State {
    Open,
    /// The source has ended; after the queue the end is passed on.
    Draining(Ended),
    Done,
}

pub(super) struct Direction<'c, R, W> {
    source: R,
    sink: W,
    queue: Queue,
    moved: &'c AtomicU64,
    state: State,
}

impl<'c, R: Source, W: Sink> Direction<'c, R, W> {
    pub(super) fn new(source: R, sink: W, moved: &'c AtomicU64) -> Self {
        Self {
            source,
            sink,
            queue: Queue::default(),
            moved,
            state: State::Open,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Moves what can be moved. May be called again after the end, when it has nothing to say.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ended, Failed>> {
        loop {
            self.fill(cx)?;
            if !self.queue.is_empty() {
                match ready!(self.sink.poll_send(cx, &mut self.queue)) {
                    Ok(n) => {
                        self.source.release(n);
                        self.moved.fetch_add(n as u64, Ordering::Relaxed);
                        continue;
                    }
                    Err(e) if is_ordinary(&e) => return self.end(Ended::Clean),
                    Err(e) => return Poll::Ready(Err(Failed::Write(e))),
                }
            }
            match self.state {
                State::Done => return Poll::Pending,
                State::Draining(how) => match ready!(self.sink.poll_finish(cx)) {
                    Err(e) if !is_ordinary(&e) => return Poll::Ready(Err(Failed::Close(e))),
                    _ => return self.end(how),
                },
                State::Open => {
                    ready!(self.sink.poll_gone(cx));
                    return self.end(Ended::Clean);
                }
            }
        }
    }

    fn end(&mut self, how: Ended) -> Poll<Result<Ended, Failed>> {
        self.queue = Queue::default();
        self.state = State::Done;
        Poll::Ready(Ok(how))
    }

    /// Takes from the source: one piece if nothing is queued, or all that there is if it is eager.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Failed> {
        while matches!(self.state, State::Open) && (R::EAGER || self.queue.is_empty()) {
            match self.source.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(bytes))) => self.queue.push(bytes),
                Poll::Ready(Ok(None)) => self.state = State::Draining(Ended::Clean),
                Poll::Ready(Err(e)) if is_ordinary(&e) => {
                    self.state = State::Draining(Ended::Reset);
                }
                Poll::Ready(Err(e)) => return Err(Failed::Read(e)),
            }
        }
        Ok(())
    }
}
