//! The requests of one connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::Watched;
use crate::dispatch::Destination;
use crate::pace::{Pace, Paced};
use crate::phases;
use crate::record::{Ended, Record};
use crate::shared::{Client, Worker};
use crate::sniff::Protocol;

/// Largest head of a request.
pub(crate) const HEAD_LIMIT: usize = 64 * 1024;
/// Most headers of a request.
const HEADER_COUNT: usize = 200;
/// Streams that a client may have open at once on one connection.
const STREAMS: u32 = 100;
/// Bytes of one stream that may come in before they are taken.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Where requests come from, and where they are meant to go.
#[derive(Clone)]
pub(crate) struct Inbound {
    pub(crate) worker: Arc<Worker>,
    pub(crate) client: Arc<Client>,
    pub(crate) destination: Arc<Destination>,
    /// What the client dialled.
    pub(crate) asked: SocketAddr,
    /// The name that a client of TLS has asked for, where something goes by it.
    pub(crate) server_name: Option<String>,
}

/// Serves a connection to its end. A drain lets the requests that are there come to theirs: the
/// connection is looked at first, so that what has come in already counts as there.
pub(crate) async fn connection<S>(inbound: Inbound, protocol: Protocol, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let draining = inbound.worker.shared.draining.clone();
    let peer = inbound.client.address;
    let head_timeout = inbound.worker.shared.config.head_timeout;
    let pace = Arc::new(Pace::default());
    let serving = pace.clone();
    let service = service_fn(move |request| one(inbound.clone(), serving.clone(), request));
    let served = match protocol {
        Protocol::Http2 => {
            let io = TokioIo::new(stream);
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(HEAD_LIMIT as u32);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            tokio::select! {
                biased;
                served = connection.as_mut() => served,
                _ = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        _ => {
            let io = TokioIo::new(Paced::new(stream, pace, head_timeout));
            let mut builder = http1::Builder::new();
            builder
                .max_buf_size(HEAD_LIMIT)
                .max_headers(HEADER_COUNT)
                .half_close(true);
            let connection = builder.serve_connection(io, service).with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                served = connection.as_mut() => served,
                _ = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(e) = served {
        tracing::debug!(%peer, "connection ended: {e}");
    }
}

/// Answers one request, and records it.
async fn one(
    inbound: Inbound,
    pace: Arc<Pace>,
    mut request: Request<Incoming>,
) -> Result<Response<Watched<Ended>>, Infallible> {
    pace.serving();
    phases::identify(request.headers_mut());
    if inbound.worker.shared.config.show_caller {
        phases::show_caller(&inbound, request.headers_mut());
    }
    let mut record = Record::begin(&inbound, &mut request);
    // In a box: HTTP/2 moves what serves a request around several times before it begins.
    let answered = Box::pin(phases::answer(&inbound, request, &mut record)).await;
    let (response, back) = match answered {
        Ok(answered) => answered,
        Err(failure) => {
            record.failed(&failure);
            (failure.response(record.is_grpc()), None)
        }
    };
    let (parts, body) = response.into_parts();
    record.answered(&parts);
    // A connection that was switched to another protocol carries no more requests.
    let pace = (parts.status != StatusCode::SWITCHING_PROTOCOLS).then_some(pace);
    let body = Watched::new(body, Ended::new(record, back, pace));
    Ok(Response::from_parts(parts, body))
}
