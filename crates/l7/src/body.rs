//! Bodies on their way: of requests to a backend, of responses to a client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// A body of a message: what came, what we made, or what was kept to be sent again.
#[derive(Debug)]
pub(crate) enum Body {
    /// As it comes in.
    Incoming(Incoming),
    /// Bytes that are here, and trailers.
    Kept(Option<Bytes>, Option<HeaderMap>),
    /// Bytes that are here, and more that comes in.
    Begun(Option<Bytes>, Box<Body>),
}

impl Body {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::Kept(None, None)
    }

    /// Reads up to a limit ahead; the body is the same as before, with what was read in front.
    ///
    /// # Errors
    /// The client broke off.
    pub(crate) async fn read_ahead(mut self, limit: usize) -> Result<Self, hyper::Error> {
        let mut bytes = BytesMut::new();
        loop {
            let Some(frame) = self.frame().await.transpose()? else {
                return Ok(Self::Kept(some(bytes), None));
            };
            let frame = match frame.into_data() {
                Ok(data) => {
                    bytes.extend_from_slice(&data);
                    if bytes.len() > limit {
                        return Ok(Self::Begun(some(bytes), Box::new(self)));
                    }
                    continue;
                }
                Err(frame) => frame,
            };
            if let Ok(trailers) = frame.into_trailers() {
                return Ok(Self::Kept(some(bytes), Some(trailers)));
            }
        }
    }

    /// What of the body is here, and whether there is more.
    pub(crate) fn begun(&self) -> (Bytes, bool) {
        match self {
            Self::Incoming(incoming) => (Bytes::new(), !incoming.is_end_stream()),
            Self::Kept(bytes, _) => (bytes.clone().unwrap_or_default(), false),
            Self::Begun(bytes, rest) => {
                let more = !rest.is_end_stream();
                (bytes.clone().unwrap_or_default(), more)
            }
        }
    }

    /// A text of ours.
    pub(crate) fn full(text: &'static str) -> Self {
        Self::Kept(Some(Bytes::from_static(text.as_bytes())), None)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Kept(bytes, trailers) => Poll::Ready(match (bytes.take(), trailers) {
                (Some(bytes), _) => Some(Ok(Frame::data(bytes))),
                (None, trailers) => trailers.take().map(|t| Ok(Frame::trailers(t))),
            }),
            Self::Begun(bytes, rest) => match bytes.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(&mut **rest).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Kept(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            Self::Begun(bytes, rest) => bytes.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(incoming) => incoming.size_hint(),
            Self::Kept(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Begun(bytes, rest) => {
                let (begun, rest) = (
                    bytes.as_ref().map_or(0, |b| b.len() as u64),
                    rest.size_hint(),
                );
                let mut hint = SizeHint::new();
                hint.set_lower(begun + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(begun + upper);
                }
                hint
            }
        }
    }
}

/// The body of a request, as far as it can be sent again.
#[derive(Debug)]
pub(crate) enum Replay {
    /// All of it is here.
    Whole(Option<Bytes>, Option<HeaderMap>),
    /// It can be sent once.
    Once(Option<Body>),
}

impl Replay {
    /// A body that is sent as it comes: again only if all of it is here.
    pub(crate) fn streamed(body: Body) -> Self {
        match body {
            Body::Kept(bytes, trailers) => Self::Whole(bytes, trailers),
            body if body.is_end_stream() => Self::Whole(None, None),
            body => Self::Once(Some(body)),
        }
    }

    /// Reads the body up to a limit, so that it can be sent again.
    ///
    /// # Errors
    /// The client broke off.
    pub(crate) async fn kept(body: Body, limit: usize) -> Result<Self, hyper::Error> {
        Ok(Self::streamed(body.read_ahead(limit).await?))
    }

    /// It can be sent again after this time.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(..))
    }

    /// The body to send; `None` if it was sent and cannot be sent again.
    pub(crate) fn next(&mut self) -> Option<Body> {
        match self {
            Self::Whole(bytes, trailers) => Some(Body::Kept(bytes.clone(), trailers.clone())),
            Self::Once(body) => body.take(),
        }
    }

    /// Gives back a body that was not sent.
    pub(crate) fn give_back(&mut self, body: Body) {
        if let Self::Once(place) = self {
            *place = Some(body);
        }
    }
}

fn some(bytes: BytesMut) -> Option<Bytes> {
    (!bytes.is_empty()).then(|| bytes.freeze())
}

/// Told when a body has come to its end, or was dropped before.
pub(crate) trait Ending: Unpin {
    /// Bytes have passed.
    fn passed(&mut self, bytes: &Bytes);
    /// Trailers have passed.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// It has come to its end, or broke off.
    fn ended(&mut self, complete: bool);
}

/// A body that tells how it goes.
pub(crate) struct Watched<E: Ending> {
    body: Body,
    ending: Option<E>,
}

impl<E: Ending> Watched<E> {
    /// Watches a body; one that is empty has ended.
    pub(crate) fn new(body: Body, mut ending: E) -> Self {
        if body.is_end_stream() {
            ending.ended(true);
            return Self { body, ending: None };
        }
        Self {
            body,
            ending: Some(ending),
        }
    }

    /// The body, which nobody watches any more.
    pub(crate) fn into_inner(mut self) -> Body {
        self.ending = None;
        std::mem::replace(&mut self.body, Body::empty())
    }

    fn end(&mut self, complete: bool) {
        if let Some(mut ending) = self.ending.take() {
            ending.ended(complete);
        }
    }
}

impl<E: Ending> http_body::Body for Watched<E> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match (&frame, &mut self.ending) {
            (Some(Ok(frame)), Some(ending)) => {
                if let Some(data) = frame.data_ref() {
                    ending.passed(data);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    ending.trailers(trailers);
                }
                if self.body.is_end_stream() {
                    self.end(true);
                }
            }
            (None, _) => self.end(true),
            (Some(Err(_)), _) => self.end(false),
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<E: Ending> Drop for Watched<E> {
    fn drop(&mut self) {
        self.end(false);
    }
}
