//! The accepting side of a tunnel.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use ambit_model::Identity;
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::flush::{self, Deferred, Flusher, Linger};
use super::ping::Pinger;
use super::{
    Baggage, ConnectHead, Http2Settings, SMALL_FRAME_BUDGET, Stream, TunnelError, head::BAGGAGE,
};
use crate::tls::TlsStream;

/// A tunnel that a client has opened.
///
/// [`accept`](Self::accept) also does the tunnel's own work (windows, pings, sending), so it must be
/// awaited again and again until it returns `None`, while requests are served in tasks of their own.
pub struct Connection<IO> {
    http: h2::server::Connection<Deferred<TlsStream<IO>>, Bytes>,
    flusher: Flusher<TlsStream<IO>>,
    pinger: Option<Pinger>,
    peer: Option<Identity>,
    peer_address: SocketAddr,
    failed: bool,
    /// It was closed in order, and the client reads the rest.
    linger: Option<Linger>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Speaks HTTP/2 on an accepted TLS connection. There is no timeout here; a caller that wants
    /// one drops the future.
    pub async fn handshake(
        tls: TlsStream<IO>,
        peer_address: SocketAddr,
        settings: &Http2Settings,
    ) -> Result<Self, TunnelError> {
        let peer = tls.peer_identity().cloned();
        let (transport, flusher) = flush::split(tls);
        let mut http = h2::server::Builder::new()
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.max_frame_size)
            .max_header_list_size(settings.max_header_list_size)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_send_buffer_size(settings.send_buffer)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .handshake(transport)
            .await
            .map_err(|e| TunnelError::Handshake(e.to_string()))?;
        let pinger = http
            .ping_pong()
            .map(|pings| Pinger::new(pings, settings.ping_interval, settings.ping_timeout));
        let peer_address = crate::socket::canonical(peer_address);
        Ok(Self {
            http,
            flusher,
            pinger,
            peer,
            peer_address,
            failed: false,
            linger: None,
        })
    }

    /// The client's proven identity.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }

    /// The client's address: that of the source pod.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// The next request. `None` when the tunnel has ended in good order, and the client has read the
    /// end of what was sent (or has had ten seconds for it); after an error there is
    /// nothing more to come. Safe to cancel.
    pub async fn accept(&mut self) -> Option<Result<Request, TunnelError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Request, TunnelError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        if let Some(linger) = &mut self.linger {
            return linger.poll(&self.flusher, cx).map(|()| None);
        }
        let next = self.http.poll_accept(cx);
        // Also when there is a request: the caller may take its time with it.
        let flushed = self.flusher.poll(cx);
        match next {
            Poll::Ready(Some(Ok((request, respond)))) => {
                return Poll::Ready(Some(Ok(self.request(request, respond))));
            }
            Poll::Ready(Some(Err(e))) => {
                self.failed = true;
                return Poll::Ready(Some(Err(e.into())));
            }
            Poll::Ready(None) => {
                let linger = self.linger.insert(Linger::new());
                return linger.poll(&self.flusher, cx).map(|()| None);
            }
            Poll::Pending => {}
        }
        if let Poll::Ready(Err(e)) = flushed {
            self.failed = true;
            return Poll::Ready(Some(Err(TunnelError::Io(e))));
        }
        if let Some(pinger) = &mut self.pinger
            && pinger.poll_timeout(cx).is_ready()
        {
            // The GOAWAY that this queues is worth one attempt; the peer is not listening.
            self.http.abrupt_shutdown(h2::Reason::NO_ERROR);
            let _ = self.http.poll_closed(cx);
            let _ = self.flusher.poll(cx);
            self.failed = true;
            return Poll::Ready(Some(Err(TunnelError::PingTimeout)));
        }
        Poll::Pending
    }

    fn request(
        &self,
        request: http::Request<h2::RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Request {
        let (parts, receive) = request.into_parts();
        Request {
            head: ConnectHead::from_http(&parts),
            peer: self.peer.clone(),
            peer_address: self.peer_address,
            receive,
            respond,
        }
    }

    /// Tells the client to open no more streams here; those that are open go on. Keep awaiting
    /// [`accept`](Self::accept) until it returns `None`.
    pub fn graceful_shutdown(&mut self) {
        self.http.graceful_shutdown();
    }
}

/// A CONNECT request that waits for its answer. Dropping it resets the stream.
pub struct Request {
    head: ConnectHead,
    peer: Option<Identity>,
    peer_address: SocketAddr,
    receive: h2::RecvStream,
    respond: SendResponse<Bytes>,
}

impl Request {
    /// What is asked for.
    pub fn head(&self) -> &ConnectHead {
        &self.head
    }

    /// The proven identity of who asks.
    pub fn peer_identity(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }

    /// The address of who asks.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Answers with an error status and ends the stream; the tunnel goes on.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // If the client has gone away in the meantime there is nobody left to tell. Dropping the
        // rest sends RST_STREAM(NO_ERROR), since the client's half is still open.
        let _ = self.respond.send_response(response, true);
    }

    /// Answers 200, which promises that the destination is connected, and gives the byte stream.
    /// `baggage` describes the destination workload.
    pub fn accept(mut self, baggage: Option<&Baggage>) -> Result<Stream, TunnelError> {
        let mut response = Response::new(());
        let described = baggage.map(ToString::to_string).filter(|b| !b.is_empty());
        if let Some(value) = described.and_then(|b| HeaderValue::try_from(b).ok()) {
            response.headers_mut().insert(BAGGAGE, value);
        }
        let send = self.respond.send_response(response, false)?;
        Ok(Stream::new(send, self.receive, None))
    }
}
