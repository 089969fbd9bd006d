//! Connections to endpoints: opened, kept, and used again.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ambit_model::traffic::Origination;
use ambit_model::{Identity, Text, Workload};
use ambit_transport::hbone::client::{self, Dial};
use ambit_transport::hbone::{Baggage, ConnectError, ConnectRequest, Stream, TraceParent};
use ambit_transport::socket::{self, ConnectOptions};
use ambit_transport::tls::{Origin, OriginStream};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::body::Watched;
use crate::failure::Failure;
use crate::record::Counted;
use crate::shared::Worker;

/// Connections to one endpoint that may wait for requests.
const IDLE: usize = 64;

/// The body of a request to a backend.
pub(crate) type Sent = Watched<Counted>;

/// Where a request is sent.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The workload.
    pub(crate) workload: Arc<Workload>,
    /// Its address and port.
    pub(crate) address: SocketAddr,
    /// Who may answer, where there is a tunnel.
    pub(crate) expected: Arc<[Identity]>,
    /// It is reached through a tunnel.
    pub(crate) tunnel: bool,
    /// What is secured with TLS of its own; an error if it should be and cannot.
    pub(crate) tls: Option<Result<Origin, Text>>,
    /// Longest wait for a TCP connection.
    pub(crate) connect_timeout: Duration,
    /// How long a connection to it waits for a request.
    pub(crate) idle_time: Duration,
    /// Requests on one connection at most.
    pub(crate) requests: Option<u32>,
    /// What its connections are found by.
    pub(crate) key: Key,
}

/// Which connections may share a tunnel: an address that another pod has taken over never gets the
/// tunnel of its predecessor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    expected: Arc<[Identity]>,
    destination: SocketAddr,
    uid: Text,
}

/// Which requests may share a connection. It is hashed once, when the endpoint is made.
#[derive(Clone, Debug)]
pub(crate) struct Key(Arc<(u64, KeyParts)>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct KeyParts {
    uid: Text,
    address: SocketAddr,
    expected: Arc<[Identity]>,
    tunnel: bool,
    tls: Option<Arc<Origination>>,
}

impl Key {
    /// The key of an endpoint.
    pub(crate) fn new(
        workload: &Workload,
        address: SocketAddr,
        expected: &Arc<[Identity]>,
        tunnel: bool,
        tls: Option<&Arc<Origination>>,
    ) -> Self {
        let parts = KeyParts {
            uid: workload.uid.clone(),
            address,
            expected: expected.clone(),
            tunnel,
            tls: tls.cloned(),
        };
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&parts);
        Self(Arc::new((hash, parts)))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

/// The connections of one worker.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    /// Those of HTTP/1 that wait, the last used one last.
    waiting: HashMap<Key, Vec<Waiting>>,
    /// Those of HTTP/2, which requests share, with how many they have carried.
    shared: HashMap<Key, (http2::SendRequest<Sent>, u32)>,
}

/// A connection that waits for a request.
struct Waiting {
    sender: http1::SendRequest<Sent>,
    carried: u32,
    until: Instant,
}

impl Waiting {
    fn is_usable(&self) -> bool {
        Instant::now() < self.until && !self.sender.is_closed()
    }
}

/// A connection of HTTP/1 that is free once its response has been read.
pub(crate) struct Back {
    pool: Pool,
    key: Key,
    sender: http1::SendRequest<Sent>,
    carried: u32,
    most: Option<u32>,
    idle_time: Duration,
}

impl Back {
    /// Gives it back, if it may carry more.
    pub(crate) fn give(self) {
        let carried = self.carried + 1;
        if self.sender.is_closed() || self.most.is_some_and(|most| carried >= most) {
            return;
        }
        let mut connections = self.pool.0.lock();
        let waiting = connections.waiting.entry(self.key).or_default();
        if waiting.len() < IDLE {
            waiting.push(Waiting {
                sender: self.sender,
                carried,
                until: Instant::now() + self.idle_time,
            });
        }
    }
}

/// Why a request has no answer.
pub(crate) enum SendError {
    /// It was not sent, and is here again.
    NotSent(Box<Request<Sent>>, Failure),
    /// It was sent, or may have been.
    Failed(Failure),
}

/// An answer, and the connection that is free after it.
pub(crate) type Answered = (Response<Incoming>, Option<Back>);

/// Sends a request to an endpoint.
pub(crate) async fn send(
    worker: &Worker,
    endpoint: &Endpoint,
    over_http2: bool,
    request: Request<Sent>,
) -> Result<Answered, SendError> {
    let key = endpoint.key.clone();
    match over_http2 {
        true => send_http2(worker, endpoint, key, request).await,
        false => send_http1(worker, endpoint, key, request).await,
    }
}

async fn send_http1(
    worker: &Worker,
    endpoint: &Endpoint,
    key: Key,
    mut request: Request<Sent>,
) -> Result<Answered, SendError> {
    // One that has waited may have been closed at the other end: then the request is here again.
    while let Some(Waiting {
        mut sender,
        carried,
        ..
    }) = worker.pool.waiting(&key)
    {
        if sender.ready().await.is_err() {
            continue;
        }
        match sender.try_send_request(request).await {
            Ok(response) => {
                let back = back(worker, endpoint, key, sender, carried);
                return Ok((response, Some(back)));
            }
            Err(mut e) => match e.take_message() {
                Some(again) => request = again,
                None => return Err(SendError::Failed(reset(&e.into_error()))),
            },
        }
    }
    let io = match Box::pin(connect(worker, endpoint, HTTP1)).await {
        Ok(io) => io,
        Err(failure) => return Err(SendError::NotSent(Box::new(request), failure)),
    };
    let (mut sender, connection) = match http1::handshake(TokioIo::new(io)).await {
        Ok(open) => open,
        Err(e) => return Err(SendError::NotSent(Box::new(request), reset(&e))),
    };
    drive(async move { connection.with_upgrades().await });
    match sender.try_send_request(request).await {
        Ok(response) => {
            let back = back(worker, endpoint, key, sender, 0);
            Ok((response, Some(back)))
        }
        Err(mut e) => match e.take_message() {
            Some(request) => {
                let failure = reset(&e.into_error());
                Err(SendError::NotSent(Box::new(request), failure))
            }
            None => Err(SendError::Failed(reset(&e.into_error()))),
        },
    }
}

fn back(
    worker: &Worker,
    endpoint: &Endpoint,
    key: Key,
    sender: http1::SendRequest<Sent>,
    carried: u32,
) -> Back {
    Back {
        pool: worker.pool.clone(),
        key,
        sender,
        carried,
        most: endpoint.requests,
        idle_time: endpoint.idle_time,
    }
}

async fn send_http2(
    worker: &Worker,
    endpoint: &Endpoint,
    key: Key,
    mut request: Request<Sent>,
) -> Result<Answered, SendError> {
    if let Some(mut sender) = worker.pool.shared(&key, endpoint.requests) {
        match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, None)),
            Err(mut e) => match e.take_message() {
                Some(again) => request = again,
                None => return Err(SendError::Failed(reset(&e.into_error()))),
            },
        }
    }
    let io = match Box::pin(connect(worker, endpoint, HTTP2)).await {
        Ok(io) => io,
        Err(failure) => return Err(SendError::NotSent(Box::new(request), failure)),
    };
    let opened = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(io))
        .await;
    let (mut sender, connection) = match opened {
        Ok(open) => open,
        Err(e) => return Err(SendError::NotSent(Box::new(request), reset(&e))),
    };
    drive(connection);
    if endpoint.requests != Some(1) {
        let mut connections = worker.pool.0.lock();
        connections.shared.insert(key, (sender.clone(), 1));
    }
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, None)),
        Err(mut e) => match e.take_message() {
            Some(request) => {
                let failure = reset(&e.into_error());
                Err(SendError::NotSent(Box::new(request), failure))
            }
            None => Err(SendError::Failed(reset(&e.into_error()))),
        },
    }
}

fn reset(e: &hyper::Error) -> Failure {
    Failure::Reset(ambit_wire::error_chain(e))
}

/// Does a connection's work on the runtime of its worker.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("connection to an endpoint ended: {e}");
        }
    });
}

impl Pool {
    fn waiting(&self, key: &Key) -> Option<Waiting> {
        let mut connections = self.0.lock();
        let waiting = connections.waiting.get_mut(key)?;
        let last = waiting.pop()?;
        if !last.is_usable() {
            // Those before it have waited longer.
            connections.waiting.remove(key);
            return None;
        }
        Some(last)
    }

    fn shared(&self, key: &Key, most: Option<u32>) -> Option<http2::SendRequest<Sent>> {
        let mut connections = self.0.lock();
        let (sender, carried) = connections.shared.get_mut(key)?;
        *carried += 1;
        let sender = sender.clone();
        let last = most.is_some_and(|most| *carried >= most);
        if last || sender.is_closed() {
            connections.shared.remove(key);
        }
        (!sender.is_closed()).then_some(sender)
    }

    /// Lets connections go that have waited too long or have ended.
    pub(crate) fn sweep(&self) {
        let mut connections = self.0.lock();
        connections.waiting.retain(|_, waiting| {
            waiting.retain(Waiting::is_usable);
            !waiting.is_empty()
        });
        connections
            .shared
            .retain(|_, (sender, _)| !sender.is_closed());
    }
}

/// What is spoken within TLS (ALPN).
const HTTP1: &[&[u8]] = &[b"http/1.1"];
const HTTP2: &[&[u8]] = &[b"h2"];
/// Whatever the client speaks.
pub(crate) const ANYTHING: &[&[u8]] = &[];

/// A connection to an endpoint.
pub(crate) enum Io {
    /// Through a tunnel.
    Tunnel(Box<Stream>),
    /// In plain text.
    Plain(TcpStream),
    /// With TLS of its own, over one of the others.
    Tls(Box<OriginStream<Io>>),
}

/// Opens a connection to an endpoint, with TLS of its own where a policy asks for it.
pub(crate) async fn connect(
    worker: &Worker,
    endpoint: &Endpoint,
    protocols: &[&[u8]],
) -> Result<Io, Failure> {
    let origin = match &endpoint.tls {
        None => return bare(worker, endpoint).await,
        Some(Ok(origin)) => origin,
        Some(Err(reason)) => return Err(Failure::Connect(format!("TLS: {reason}"))),
    };
    let io = bare(worker, endpoint).await?;
    let securing = origin.connect(io, protocols);
    let secured = match tokio::time::timeout(endpoint.connect_timeout, securing).await {
        Ok(secured) => secured.map_err(|e| format!("TLS: {}", ambit_wire::error_chain(&e))),
        Err(_) => Err("TLS: the server did not finish the handshake in time".to_owned()),
    };
    secured
        .map(|stream| Io::Tls(Box::new(stream)))
        .map_err(Failure::Connect)
}

/// Opens a connection through a tunnel whose other end has shown that it is the endpoint, or in plain
/// text where the endpoint has none.
async fn bare(worker: &Worker, endpoint: &Endpoint) -> Result<Io, Failure> {
    if !endpoint.tunnel {
        let options = options(endpoint.connect_timeout);
        let connected = socket::connect(None, endpoint.address, &options).await;
        return match connected {
            Ok(stream) => Ok(Io::Plain(stream)),
            Err(e) => Err(Failure::Connect(ambit_wire::error_chain(&e))),
        };
    }
    tunnel(worker, endpoint)
        .await
        .map(|stream| Io::Tunnel(Box::new(stream)))
        .map_err(|e| Failure::Connect(e.to_string()))
}

/// Nothing captures what a waypoint sends, so that it needs no mark, nor the right to set one.
fn options(timeout: Duration) -> ConnectOptions {
    ConnectOptions {
        timeout,
        ..ConnectOptions::unmarked()
    }
}

/// A stream on a tunnel to an endpoint.
pub(crate) async fn tunnel(worker: &Worker, endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    let shared = &worker.shared;
    let request = ConnectRequest {
        authority: endpoint.address.to_string(),
        baggage: Some(Baggage::from(&*shared.workload())),
        traceparent: Some(TraceParent::random()),
        ..ConnectRequest::default()
    };
    let key = TunnelKey {
        expected: endpoint.expected.clone(),
        destination: SocketAddr::new(endpoint.address.ip(), crate::config::HBONE),
        uid: endpoint.workload.uid.clone(),
    };
    let timeout = endpoint.connect_timeout;
    let dial = || {
        let (shared, key) = (shared.clone(), key.clone());
        async move {
            let certificate = shared.certificates.certificate(&shared.identity).await;
            let certificate =
                certificate.map_err(|e| ConnectError::Identity(e.to_string().into()))?;
            client::dial(Dial {
                destination: key.destination,
                netns: None,
                socket: options(timeout),
                certificate,
                expected: key.expected,
                http2: shared.config.client.clone(),
            })
            .await
        }
    };
    Ok(worker.tunnels.open(&key, dial, &request).await?.stream)
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
