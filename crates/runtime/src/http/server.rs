//! Listeners and connections of the small servers.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::router::{Query, Reply, Request, Router, text};

/// Connections served at a time, so that a flood of them cannot exhaust the process.
const MAX_CONNECTIONS: usize = 128;
/// Longest body that a request may carry.
const MAX_BODY: usize = 1 << 20;
/// Longest wait for a request's header, idle time between requests included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {name} server cannot listen on {address}: {source}; is another process using the port?"
)]
pub struct BindError {
    name: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Bound listeners that serve nothing yet.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    listeners: Vec<TcpListener>,
}

/// The loopback addresses of a port: both families, or IPv4 alone.
pub fn localhost(port: u16, ipv6: bool) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    if ipv6 {
        addresses.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port));
    }
    addresses
}

/// The wildcard address of a port: `[::]`, which takes IPv4 too, or `0.0.0.0` without IPv6.
pub fn wildcard(port: u16, ipv6: bool) -> Vec<SocketAddr> {
    let ip = if ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    vec![SocketAddr::new(ip, port)]
}

impl Server {
    /// Binds every address. Where the machine has no IPv6, its IPv6 addresses are left out
    /// (`[::]` becomes `0.0.0.0`).
    pub async fn bind(name: &'static str, addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for &address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if address.is_ipv6() && no_ipv6(&error) => {
                    if address.ip().is_unspecified() {
                        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                        let bound = TcpListener::bind(v4).await;
                        listeners.push(bound.map_err(|source| BindError {
                            name,
                            address: v4,
                            source,
                        })?);
                    }
                }
                Err(source) => {
                    return Err(BindError {
                        name,
                        address,
                        source,
                    });
                }
            }
        }
        Ok(Self { name, listeners })
    }

    /// The addresses that were bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves the routes in background tasks until `stop` is cancelled.
    pub fn serve(self, router: Router, stop: CancellationToken) {
        let router = Arc::new(router);
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for listener in self.listeners {
            let (router, permits, stop) = (router.clone(), permits.clone(), stop.clone());
            tokio::spawn(accept(self.name, listener, router, permits, stop));
        }
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
    )
}

async fn accept(
    name: &'static str,
    listener: TcpListener,
    router: Arc<Router>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = permits.clone().acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tokio::spawn(async move {
                    serve_connection(stream, router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("the {name} server could not accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Arc<Router>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(&router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that breaks off or talks nonsense is its own problem.
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(HEADER_TIMEOUT, connection).await;
        }
    }
}

async fn answer(router: &Router, request: ::http::Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body is too long or broken off\n",
        );
    };
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: body.to_bytes(),
    };
    router.answer(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn serves_until_stopped() {
        let stop = CancellationToken::new();
        let server = Server::bind("test", &localhost(0, false)).await.unwrap();
        let address = server.addresses()[0];
        let router = Router::new().post("/echo", |request: Request| async move {
            text(
                StatusCode::OK,
                String::from_utf8_lossy(&request.body).into_owned(),
            )
        });
        server.serve(router, stop.clone());
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
        stream.write_all(request).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\nhello"), "{reply}");
        stop.cancel();
        // The listener goes away with its task.
        let gone = tokio::time::timeout(Duration::from_secs(5), async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn a_used_port_gives_a_clear_error() {
        let first = Server::bind("first", &localhost(0, false)).await.unwrap();
        let error = Server::bind("second", &first.addresses())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the second server cannot listen on 127.0.0.1"),
            "{error}"
        );
    }
}
