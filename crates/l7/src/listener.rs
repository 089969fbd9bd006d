//! Tunnels from node proxies, and the connections in them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use ambit_proxy_core::metrics::Reporter;
use ambit_proxy_core::record::refused;
use ambit_transport::hbone::server::{Connection, Request};
use ambit_transport::{socket, tls};
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::dispatch::{self, Destination, Spoken};
use crate::shared::{Client, Worker};
use crate::sniff::{self, Protocol};
use crate::{serve, tcp};

/// Pause after an accept that failed for want of something that others may give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until a drain begins.
pub(crate) async fn accept(worker: Arc<Worker>, socket: StdListener) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("a listening socket cannot be used: {e}"),
    };
    let draining = worker.shared.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let tunnel = serve_tunnel(worker.clone(), stream, socket::canonical(peer));
                spawn(&worker, tunnel);
            }
            // The client has gone away in the meantime.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("accept failed: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Runs something on this worker until it ends, or until all is to end.
pub(crate) fn spawn(worker: &Worker, task: impl Future<Output = ()> + Send + 'static) {
    let end = worker.shared.end.clone();
    worker.shared.tasks.spawn(until(end, task));
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = stop.cancelled() => {}
        _ = task => {}
    }
}

/// Serves one tunnel to its end. A drain lets the streams that are open come to theirs.
async fn serve_tunnel(worker: Arc<Worker>, tcp: TcpStream, peer: SocketAddr) {
    let shared = &worker.shared;
    let local = tcp.local_addr().map_or(peer, socket::canonical);
    let refuse = |error: &dyn std::fmt::Display| refused(Reporter::Waypoint, peer, local, error);
    if let Err(e) = socket::configure_accepted(&tcp, None) {
        return refuse(&format_args!("io error: {e}"));
    }
    let certificate = match shared.certificates.certificate(&shared.identity).await {
        Ok(certificate) => certificate,
        Err(e) => return refuse(&format_args!("identity error: {e}")),
    };
    let tls = match tls::accept(&certificate, tcp).await {
        Ok(tls) => tls,
        Err(e) => return refuse(&e),
    };
    let mut tunnel = match Connection::handshake(tls, peer, &shared.config.server).await {
        Ok(tunnel) => tunnel,
        Err(e) => return refuse(&e),
    };
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            _ = shared.draining.cancelled(), if !told => {
                told = true;
                tunnel.graceful_shutdown();
            }
            next = tunnel.accept() => match next {
                Some(Ok(request)) => {
                    let stream = serve_stream(worker.clone(), request, local);
                    spawn(&worker, stream);
                }
                Some(Err(e)) => {
                    tracing::debug!(%peer, "tunnel ended: {e}");
                    return;
                }
                None => return,
            },
        }
    }
}

/// Serves one connection of an application.
async fn serve_stream(worker: Arc<Worker>, request: Request, local: SocketAddr) {
    let shared = &worker.shared;
    let peer = request.peer_address();
    let authority = match request.head().authority.clone() {
        Ok(authority) => authority,
        Err(e) => {
            refused(Reporter::Waypoint, peer, local, &e);
            return request.refuse(StatusCode::BAD_REQUEST);
        }
    };
    let (destination, workload) = {
        let state = shared.store.load();
        let destination = dispatch::find(&state, shared.own(), &authority);
        let workload = state
            .workload_at(&shared.config.network, peer.ip())
            .cloned();
        (destination, workload)
    };
    let Some(destination) = destination else {
        let error = format!("{authority} is no service or workload of this waypoint");
        refused(Reporter::Waypoint, peer, local, error);
        return request.refuse(StatusCode::NOT_FOUND);
    };
    let baggage = request
        .head()
        .baggage
        .clone()
        .filter(|_| workload.is_none());
    let client = Arc::new(Client {
        identity: request.peer_identity().cloned(),
        address: peer,
        workload,
        baggage: baggage.map(Arc::new),
    });
    let asked = match &authority {
        ambit_transport::hbone::Authority::Address(address) => *address,
        ambit_transport::hbone::Authority::Host { port, .. } => SocketAddr::new(local.ip(), *port),
    };
    let stream = match request.accept(None) {
        Ok(stream) => stream,
        Err(e) => return refused(Reporter::Waypoint, peer, local, e),
    };
    let destination = Arc::new(destination);
    connection(worker, client, destination, asked, stream).await;
}

async fn connection(
    worker: Arc<Worker>,
    client: Arc<Client>,
    destination: Arc<Destination>,
    asked: SocketAddr,
    stream: ambit_transport::hbone::Stream,
) {
    let spoken = destination.spoken();
    if spoken == Spoken::Tcp {
        return tcp::serve(
            &worker,
            &client,
            &destination,
            asked,
            bytes::Bytes::new(),
            stream,
        )
        .await;
    }
    match sniff::sniff(stream, spoken == Spoken::Http).await {
        Ok((Protocol::Other, stream)) => {
            let (seen, stream) = stream.into_parts();
            tcp::serve(&worker, &client, &destination, asked, seen, stream).await;
        }
        Ok((protocol, stream)) => {
            let inbound = serve::Inbound {
                worker,
                client,
                destination,
                asked,
                server_name: None,
            };
            serve::connection(inbound, protocol, stream).await;
        }
        Err(e) => tracing::debug!(peer = %client.address, "the client broke off: {e}"),
    }
}
