//! The opening side of a tunnel.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use ambit_model::Identity;
use bytes::Bytes;
use h2::client::SendRequest;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{connect_error, text};
use super::flush::{self, Deferred, Flusher, Linger};
use super::head::BAGGAGE;
use super::ping::Pinger;
use super::{Baggage, ConnectError, ConnectRequest, Http2Settings, SMALL_FRAME_BUDGET, Stream};
use crate::netns::Netns;
use crate::socket::{self, ConnectOptions};
use crate::tls::{self, TlsStream, WorkloadCertificate};

/// Everything that it takes to open a tunnel.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The peer's HBONE port.
    pub destination: SocketAddr,
    /// The source pod, if the connection is to start there.
    pub netns: Option<Netns>,
    /// TCP options.
    pub socket: ConnectOptions,
    /// The source's certificate.
    pub certificate: WorkloadCertificate,
    /// The peer must have one of these identities.
    pub expected: Arc<[Identity]>,
    /// HTTP/2 parameters.
    pub http2: Http2Settings,
}

/// Opens a tunnel: TCP, TLS, HTTP/2. Only TCP has a timeout.
pub async fn dial(dial: Dial) -> Result<Tunnel, ConnectError> {
    let tcp = socket::connect(dial.netns.as_ref(), dial.destination, &dial.socket)
        .await
        .map_err(|e| match e {
            socket::ConnectError::Timeout(to) => ConnectError::Timeout(to),
            socket::ConnectError::Io(e) => ConnectError::Io(e),
            socket::ConnectError::Netns(e) => std::io::Error::other(e.to_string()).into(),
        })?;
    let tls = tls::connect(&dial.certificate, dial.expected, dial.destination, tcp).await?;
    Tunnel::handshake(tls, &dial.http2).await
}

/// An HTTP/2 connection to a peer, shared by the streams on it.
///
/// Its own work is done by a task on the runtime that opened it. The connection closes when no
/// handle and no stream is left.
#[derive(Clone)]
pub struct Tunnel(Arc<Shared>);

struct Shared {
    send: SendRequest<Bytes>,
    peer: Option<Identity>,
    negotiated: String,
    closed: Arc<AtomicBool>,
    active: AtomicUsize,
    last_used: Mutex<Instant>,
}

/// A stream on a tunnel, answered with 200.
pub struct Opened {
    /// The bytes.
    pub stream: Stream,
    /// The proven identity of the peer.
    pub peer: Option<Identity>,
    /// What the peer says about the destination workload.
    pub baggage: Option<Baggage>,
}

impl Tunnel {
    /// Speaks HTTP/2 on an authenticated connection.
    pub async fn handshake<IO>(
        tls: TlsStream<IO>,
        settings: &Http2Settings,
    ) -> Result<Self, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = tls.peer_identity().cloned();
        let negotiated = tls.negotiated();
        let (transport, flusher) = flush::split(tls);
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame_size)
            .max_header_list_size(settings.max_header_list_size)
            .initial_max_send_streams(settings.initial_max_send_streams)
            .max_send_buffer_size(settings.send_buffer)
            .enable_push(false)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .handshake(transport)
            .await
            .map_err(|e| ConnectError::Http2Handshake(text(&e)))?;
        let closed = Arc::new(AtomicBool::new(false));
        let pinger = connection
            .ping_pong()
            .map(|pings| Pinger::new(pings, settings.ping_interval, settings.ping_timeout));
        tokio::spawn(drive(connection, flusher, pinger, closed.clone()));
        Ok(Self(Arc::new(Shared {
            send,
            peer,
            negotiated,
            closed,
            active: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
        })))
    }

    /// Opens a stream, without regard to how many there are.
    pub async fn open(&self, request: &ConnectRequest) -> Result<Opened, ConnectError> {
        let (request, lease) = (request.to_http()?, self.lease());
        self.send(request, lease)
            .await
            .map_err(OpenError::into_inner)
    }

    /// The proven identity of the peer.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.0.peer.as_ref()
    }

    /// TLS version, suite and group, for diagnostics.
    pub fn negotiated(&self) -> &str {
        &self.0.negotiated
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Streams that are open or being opened.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Acquire)
    }

    pub(super) fn lease(&self) -> Arc<InUse> {
        self.0.active.fetch_add(1, Ordering::AcqRel);
        Arc::new(InUse(self.0.clone()))
    }

    /// A lease, if the tunnel lives and fewer than `limit` streams, and than the peer allows, are
    /// in use. The caller holds the pool's lock, so that nobody leases between look and take.
    pub(super) fn try_lease(&self, limit: usize) -> Option<Arc<InUse>> {
        let limit = limit.min(self.0.send.current_max_send_streams());
        (!self.is_closed() && self.active() < limit).then(|| self.lease())
    }

    pub(super) fn retire(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// How long no stream has been in use; none if one is.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        (self.active() == 0).then(|| self.0.last_used.lock().elapsed())
    }

    pub(super) async fn send(
        &self,
        request: http::Request<()>,
        lease: Arc<InUse>,
    ) -> Result<Opened, OpenError> {
        let mut send = self
            .0
            .send
            .clone()
            .ready()
            .await
            .map_err(|e| OpenError::NotSent(connect_error(e)))?;
        let (response, sender) = send
            .send_request(request, false)
            .map_err(not_sent_or_failed)?;
        drop(send);
        let response = response
            .await
            .map_err(|e| OpenError::Failed(connect_error(e)))?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Failed(ConnectError::Status(response.status())));
        }
        let (parts, receive) = response.into_parts();
        let baggage = if parts.headers.contains_key(BAGGAGE) {
            Baggage::from_headers(&parts.headers)
        } else {
            None
        };
        let stream = Stream::new(sender, receive, Some(lease));
        Ok(Opened {
            stream,
            peer: self.0.peer.clone(),
            baggage,
        })
    }
}

/// Whether the peer can have seen the request, which decides if another tunnel may be tried.
pub(super) enum OpenError {
    /// The tunnel was closing; nothing was sent.
    NotSent(ConnectError),
    /// The request was or may have been sent.
    Failed(ConnectError),
}

impl OpenError {
    pub(super) fn into_inner(self) -> ConnectError {
        match self {
            Self::NotSent(e) | Self::Failed(e) => e,
        }
    }
}

/// The library checks the connection before it queues a request, and reports a request of ours that
/// it will not send as a user error, which another tunnel would meet just the same.
fn not_sent_or_failed(e: h2::Error) -> OpenError {
    let user = !e.is_io() && !e.is_go_away() && !e.is_reset();
    if user {
        OpenError::Failed(connect_error(e))
    } else {
        OpenError::NotSent(connect_error(e))
    }
}

/// A stream's claim on its tunnel, released when both halves are gone.
pub(super) struct InUse(Arc<Shared>);

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.last_used.lock() = Instant::now();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Does the connection's work until it ends, or until the peer stops answering.
async fn drive<T>(
    mut connection: h2::client::Connection<Deferred<T>, Bytes>,
    flusher: Flusher<T>,
    mut pinger: Option<Pinger>,
    closed: Arc<AtomicBool>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let in_order = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            if let Err(e) = &result {
                tracing::debug!("tunnel ended: {e}");
            }
            return Poll::Ready(result.is_ok());
        }
        if let Poll::Ready(Err(e)) = flusher.poll(cx) {
            tracing::debug!("tunnel ended: {e}");
            return Poll::Ready(false);
        }
        match pinger.as_mut().map(|p| p.poll_timeout(cx)) {
            Some(Poll::Ready(())) => {
                tracing::debug!("tunnel dropped: the peer did not answer a ping in time");
                Poll::Ready(false)
            }
            _ => Poll::Pending,
        }
    })
    .await;
    // Before the connection is dropped, which fails the streams on it: whoever sees that must
    // already find the tunnel closed.
    closed.store(true, Ordering::Release);
    drop(connection);
    if in_order {
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(&flusher, cx)).await;
    }
}
