//! Tunnels that reach a pod on 15008.
//!
//! A stream is answered with 200 only when its destination is connected; whatever refuses it, the
//! tunnel and the other streams in it go on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ambit_model::inbound::{self, Target};
use ambit_model::workload::ApplicationTunnelProtocol;
use ambit_model::{Text, Workload, authorize};
use ambit_proxy_core::metrics::Reporter;
use ambit_proxy_core::record::{Connection, ConnectionRecord, Failure, Party, refused};
use ambit_transport::hbone::server::{self, Request};
use ambit_transport::hbone::{Authority, Baggage, ConnectHead};
use ambit_transport::proxy_header::ProxyHeader;
use ambit_transport::{copy, socket, tls};
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::port;
use crate::connections::{Inbound, Protocol};
use crate::policy;
use crate::shared::{Pod, Worker, until};

/// Serves one tunnel to its end.
pub(crate) async fn serve(worker: Arc<Worker>, pod: Arc<Pod>, tcp: TcpStream, peer: SocketAddr) {
    let shared = &worker.shared;
    let _open = shared.sockets.opened(Reporter::Destination);
    let local = match tcp.local_addr() {
        Ok(local) => socket::canonical(local),
        Err(e) => {
            return refused(
                Reporter::Destination,
                peer,
                peer,
                format_args!("io error: {e}"),
            );
        }
    };
    let refuse = |error: &dyn std::fmt::Display| refused(Reporter::Destination, peer, local, error);
    // Pings find dead peers here, so that TCP need not.
    if let Err(e) = socket::configure_accepted(&tcp, None) {
        return refuse(&format_args!("io error: {e}"));
    }
    let identity = match shared.workload(&pod).await {
        Ok(workload) => workload.identity(),
        Err(e) => return refuse(&e),
    };
    let certificate = match shared.certificates.certificate(&identity).await {
        Ok(certificate) => certificate,
        Err(e) => return refuse(&format_args!("identity error: {e}")),
    };
    let tls = match tls::accept(&certificate, tcp).await {
        Ok(tls) => tls,
        Err(e) => return refuse(&e),
    };
    match server::Connection::handshake(tls, peer, &shared.config.server).await {
        Ok(tunnel) => serve_streams(&worker, &pod, tunnel, local).await,
        Err(e) => refuse(&e),
    }
}

/// Gives each stream a task of its own. A drain lets the streams that are open come to their end.
async fn serve_streams(
    worker: &Arc<Worker>,
    pod: &Arc<Pod>,
    mut tunnel: server::Connection<TcpStream>,
    local: SocketAddr,
) {
    let draining = &worker.shared.draining;
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            _ = draining.cancelled(), if !told => {
                told = true;
                tunnel.graceful_shutdown();
            }
            next = tunnel.accept() => match next {
                Some(Ok(request)) => {
                    let (worker, pod) = (worker.clone(), pod.clone());
                    let tasks = worker.shared.tasks.clone();
                    let stop = pod.stop.clone();
                    tasks.spawn(until(stop, serve_stream(worker, pod, request, local)));
                }
                Some(Err(e)) => {
                    tracing::debug!(peer = %tunnel.peer_address(), "tunnel ended: {e}");
                    return;
                }
                None => return,
            },
        }
    }
}

async fn serve_stream(worker: Arc<Worker>, pod: Arc<Pod>, request: Request, local: SocketAddr) {
    let start = Instant::now();
    let shared = &worker.shared;
    let peer = request.peer_address();
    let refuse = |request: Request, status, error: &dyn std::fmt::Display| {
        refused(Reporter::Destination, peer, local, error);
        request.refuse(status);
    };
    let authority = match request.head().authority.clone() {
        Ok(authority) => authority,
        Err(e) => return refuse(request, StatusCode::BAD_REQUEST, &e),
    };
    let workload = match shared.workload(&pod).await {
        Ok(workload) => workload,
        Err(e) => return refuse(request, StatusCode::SERVICE_UNAVAILABLE, &e),
    };
    let (network, asked) = (&*shared.config.network, of_model(&authority));
    let target = {
        let state = shared.store.load();
        inbound::target(&state, &workload, local.ip(), &asked, network, port::OWN)
    };
    let target = match target {
        Ok(target) => target,
        Err(e) => {
            let status = StatusCode::from_u16(e.status()).unwrap_or(StatusCode::BAD_REQUEST);
            return refuse(request, status, &e);
        }
    };

    let inbound = Arc::new(Inbound {
        connection: authorize::Connection {
            identity: request.peer_identity().cloned(),
            source: peer.ip(),
            destination: target.address,
        },
        workload: workload.clone(),
        source: peer,
        service: request.head().forwarded_host.as_deref().map(Text::from),
        protocol: Protocol::Hbone,
        cut: CancellationToken::new(),
    });
    let _guard = worker.connections.inbound(&pod.uid, &inbound);
    let connection = describe(&worker, &inbound, request.head(), local, &authority);
    let record = ConnectionRecord::open(&shared.telemetry, connection, start);
    if let Err(reason) = policy::check(shared, &inbound) {
        request.refuse(StatusCode::UNAUTHORIZED);
        return record.finish(Err(Failure::denied(reason)));
    }
    let carried = carry(&worker, &pod, request, target, &inbound, &record);
    let result = tokio::select! {
        result = carried => result,
        _ = inbound.cut.cancelled() => Err(Failure::denied_since_change()),
    };
    record.finish(result);
}

/// Connects to the application, says so to the peer, and moves the bytes.
async fn carry(
    worker: &Worker,
    pod: &Pod,
    request: Request,
    target: Target,
    inbound: &Inbound,
    record: &ConnectionRecord,
) -> Result<(), Failure> {
    let shared = &worker.shared;
    let to = destination(
        shared.config.localhost_app_tunnel,
        &inbound.workload,
        target.address,
    );
    let source = Some(inbound.source.ip()).filter(|_| pod.transparent && !to.ip().is_loopback());
    let options = shared.connect_options(source);
    let mut app = match socket::connect(Some(&pod.netns), to, &options).await {
        Ok(app) => app,
        Err(e) => {
            request.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return Err(Failure::from(&e));
        }
    };
    let baggage = shared
        .config
        .baggage
        .then(|| Baggage::from(&*inbound.workload));
    let stream = request.accept(baggage.as_ref()).map_err(Failure::new)?;
    if let Some(header) = target.proxy_header {
        let header = ProxyHeader {
            source: inbound.source,
            destination: header.destination,
            identity: inbound.connection.identity.clone(),
        };
        let written = app.write_all(&header.encode()).await;
        written.map_err(|e| Failure::new(format_args!("io error: {e}")))?;
    }
    let copied = copy::bidirectional(stream, app, record.counters()).await;
    copied.map_err(|e| Failure::from(&e))
}

/// An application that wants the PROXY header listens on loopback, where nobody else reaches it.
fn destination(localhost: bool, workload: &Workload, target: SocketAddr) -> SocketAddr {
    let wants_header = workload
        .application_tunnel
        .is_some_and(|t| t.protocol == ApplicationTunnelProtocol::Proxy);
    if !(localhost && wants_header) {
        return target;
    }
    let loopback = match target.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, target.port())
}

fn of_model(authority: &Authority) -> inbound::Authority {
    match authority {
        Authority::Address(address) => inbound::Authority::Address(*address),
        Authority::Host { host, port } => inbound::Authority::Name(host.as_str().into(), *port),
    }
}

fn describe(
    worker: &Worker,
    inbound: &Inbound,
    head: &ConnectHead,
    local: SocketAddr,
    authority: &Authority,
) -> Connection {
    let config = &worker.shared.config;
    let state = worker.shared.store.load();
    // Behind another network's gateway the address is the gateway's, and says nothing.
    let through_gateway = head
        .forwarded_network
        .as_ref()
        .is_some_and(|network| !network.eq_ignore_ascii_case(&config.network));
    let known = state.workload_at(&config.network, inbound.source.ip());
    let workload = known.filter(|_| !through_gateway).cloned();
    let baggage = head
        .baggage
        .as_ref()
        .filter(|_| config.baggage && workload.is_none());
    let port = inbound.connection.destination.port();
    let named = inbound.service.as_deref();
    Connection {
        reporter: Reporter::Destination,
        source_address: inbound.source,
        destination_address: local,
        hbone_target: Some(authority.to_string().into()),
        source: Party {
            baggage: baggage.cloned().map(Arc::new),
            workload,
            identity: inbound.connection.identity.clone(),
        },
        destination: Party {
            workload: Some(inbound.workload.clone()),
            baggage: None,
            identity: Some(inbound.workload.identity()),
        },
        service: inbound::service_for(&state, &inbound.workload, port, named),
        mutual_tls: true,
    }
}
