//! What a pod sends: captured on 15001, decided, and carried on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_model::balance::Host;
use ambit_model::outbound::{self, Authority, Decision, Request, Route};
use ambit_model::{Identity, Text, Workload};
use ambit_proxy_core::metrics::Reporter;
use ambit_proxy_core::record::{Connection, ConnectionRecord, Failure, Party, refused};
use ambit_transport::hbone::client::{self, Dial, Tunnel};
use ambit_transport::hbone::{
    Baggage, ConnectError, ConnectRequest, Forwarded, Stream, TraceParent,
};
use ambit_transport::{copy, socket, tls};
use tokio::net::TcpStream;

use crate::config::port;
use crate::connections::{Outbound, Protocol};
use crate::resolve;
use crate::shared::{Pod, TunnelKey, Worker};

/// A connection on its way.
struct Journey<'a> {
    worker: &'a Worker,
    pod: &'a Pod,
    /// The application's end of the captured connection.
    peer: SocketAddr,
    /// Where the application wanted to go.
    original: SocketAddr,
    source: Arc<Workload>,
}

/// Serves one captured connection to its end.
pub(crate) async fn serve(worker: Arc<Worker>, pod: Arc<Pod>, app: TcpStream, peer: SocketAddr) {
    let start = Instant::now();
    let shared = &worker.shared;
    let _open = shared.sockets.opened(Reporter::Source);
    let original = match socket::original_destination(&app) {
        Ok(original) => original,
        Err(e) => return refused(Reporter::Source, peer, peer, format_args!("io error: {e}")),
    };
    let refuse = |error: &dyn std::fmt::Display| refused(Reporter::Source, peer, original, error);
    if let Err(e) = socket::configure_accepted(&app, shared.config.keepalive.as_ref()) {
        return refuse(&format_args!("io error: {e}"));
    }
    let source = match shared.workload(&pod).await {
        Ok(source) => source,
        Err(e) => return refuse(&e),
    };
    let decision = {
        let request = Request {
            source: &source,
            original,
            network: &shared.config.network,
            own_ports: port::OWN,
        };
        outbound::decide(&shared.store.load(), request, &mut rand::rng())
    };
    let decision = match decision {
        Ok(decision) => decision,
        Err(refusal) => return refuse(&refusal),
    };
    let dialled = match resolve::dialled(&decision, original).await {
        Ok(dialled) => dialled,
        Err(e) => return refuse(&e),
    };
    let journey = Journey {
        worker: &worker,
        pod: &pod,
        peer,
        original,
        source,
    };
    journey.go(app, decision, dialled, start).await;
}

impl Journey<'_> {
    async fn go(self, app: TcpStream, decision: Decision, dialled: SocketAddr, start: Instant) {
        let Decision {
            route,
            workload,
            service,
        } = decision;
        let tunnel = TunnelRequest::of(route, dialled);
        let protocol = match &tunnel {
            None => Protocol::Tcp,
            Some(t) if t.inner.is_none() => Protocol::Hbone,
            Some(_) => Protocol::DoubleHbone,
        };
        let _guard = self.worker.connections.outbound(
            &self.pod.uid,
            Outbound {
                source: self.peer,
                original: self.original,
                actual: dialled,
                protocol,
            },
        );
        let encrypted = tunnel.is_some();
        let connection = Connection {
            reporter: Reporter::Source,
            source_address: self.peer,
            destination_address: dialled,
            hbone_target: tunnel.as_ref().map(|t| t.authority.clone()),
            source: Party {
                identity: encrypted.then(|| self.source.identity()),
                workload: Some(self.source.clone()),
                baggage: None,
            },
            destination: Party {
                identity: workload
                    .as_ref()
                    .filter(|_| encrypted)
                    .map(|w| w.identity()),
                workload: workload.clone(),
                baggage: None,
            },
            service,
            mutual_tls: encrypted,
        };
        let host = connection.service.as_ref().map(|s| s.hostname.clone());
        let record = ConnectionRecord::open(&self.worker.shared.telemetry, connection, start);
        let result = match tunnel {
            None => self.plaintext(app, dialled, &record).await,
            Some(tunnel) => {
                let uid = workload.map_or_else(|| Text::from(""), |w| w.uid.clone());
                self.tunnelled(app, tunnel, dialled, uid, host, &record)
                    .await
            }
        };
        record.finish(result);
    }

    /// As it came, to where it was going.
    async fn plaintext(
        &self,
        app: TcpStream,
        to: SocketAddr,
        record: &ConnectionRecord,
    ) -> Result<(), Failure> {
        let options = self.worker.shared.connect_options(None);
        let upstream = socket::connect(Some(&self.pod.netns), to, &options)
            .await
            .map_err(|e| Failure::new(format_args!("io error: {e}")))?;
        let copied = copy::bidirectional(app, upstream, record.counters()).await;
        copied.map_err(|e| Failure::from(&e))
    }

    async fn tunnelled(
        &self,
        app: TcpStream,
        tunnel: TunnelRequest,
        to: SocketAddr,
        uid: Text,
        host: Option<Text>,
        record: &ConnectionRecord,
    ) -> Result<(), Failure> {
        let request = ConnectRequest {
            authority: tunnel.authority.to_string(),
            baggage: Some(Baggage::from(&*self.source)),
            forwarded: Some(Forwarded {
                source: self.peer,
                host: host.map(|host| host.to_string()),
            }),
            traceparent: Some(TraceParent::random()),
            forwarded_network: None,
            source_kind: None,
        };
        let stream = self
            .open(&tunnel, to, uid, &request)
            .await
            .map_err(|e| Failure::from(&e))?;
        let Some(inner) = tunnel.inner else {
            let copied = copy::bidirectional(app, stream, record.counters()).await;
            return copied.map_err(|e| Failure::from(&e));
        };
        let inner = self.nested(stream, inner, to, request).await;
        let (_tunnel, stream) = inner.map_err(|e| Failure::from(&e))?;
        let copied = copy::bidirectional(app, stream, record.counters()).await;
        copied.map_err(|e| Failure::from(&e))
    }

    /// A stream on a tunnel that this connection may share.
    async fn open(
        &self,
        tunnel: &TunnelRequest,
        to: SocketAddr,
        uid: Text,
        request: &ConnectRequest,
    ) -> Result<Stream, ConnectError> {
        let key = TunnelKey {
            enrolment: self.pod.enrolment,
            source: self.source.identity(),
            expected: tunnel.expected.clone(),
            destination: to,
            destination_uid: uid,
        };
        let dial = || {
            let shared = self.worker.shared.clone();
            let netns = self.pod.netns.clone();
            let (source, expected) = (key.source.clone(), key.expected.clone());
            async move {
                let certificate = shared.certificates.certificate(&source).await;
                let certificate =
                    certificate.map_err(|e| ConnectError::Identity(e.to_string().into()))?;
                client::dial(Dial {
                    destination: to,
                    netns: Some(netns),
                    socket: shared.connect_options(None),
                    certificate,
                    expected,
                    http2: shared.config.client.clone(),
                })
                .await
            }
        };
        Ok(self.worker.pool.open(&key, dial, request).await?.stream)
    }

    /// A tunnel of its own through the stream, to the other network.
    async fn nested(
        &self,
        outer: Stream,
        expected: Arc<[Identity]>,
        to: SocketAddr,
        mut request: ConnectRequest,
    ) -> Result<(Tunnel, Stream), ConnectError> {
        let shared = &self.worker.shared;
        let certificate = shared
            .certificates
            .certificate(&self.source.identity())
            .await;
        let certificate = certificate.map_err(|e| ConnectError::Identity(e.to_string().into()))?;
        let tls = tls::connect(&certificate, expected, to, outer).await?;
        let tunnel = Tunnel::handshake(tls, &shared.config.client).await?;
        request.forwarded_network = Some(shared.config.network.to_string());
        let stream = tunnel.open(&request).await?.stream;
        Ok((tunnel, stream))
    }
}

/// The tunnel that a route asks for.
struct TunnelRequest {
    authority: Text,
    expected: Arc<[Identity]>,
    /// Who answers in the tunnel inside it, if there is one.
    inner: Option<Arc<[Identity]>>,
}

impl TunnelRequest {
    fn of(route: Route, dialled: SocketAddr) -> Option<Self> {
        let text = |authority: Authority| -> Text {
            match authority {
                Authority::Address(address) => address.to_string().into(),
                Authority::Dialled(port) => SocketAddr::new(dialled.ip(), port).to_string().into(),
                Authority::Name(name, port) => format!("{name}:{port}").into(),
            }
        };
        match route {
            Route::Plaintext { .. } => None,
            Route::Hbone {
                authority,
                identities,
                ..
            } => Some(Self {
                authority: text(authority),
                expected: identities.into(),
                inner: None,
            }),
            Route::DoubleHbone {
                authority,
                outer,
                inner,
                ..
            } => Some(Self {
                authority: text(authority),
                expected: outer.into(),
                inner: Some(inner.into()),
            }),
        }
    }
}

/// Host and port of a route.
pub(crate) fn target(route: &Route) -> (&Host, u16) {
    match route {
        Route::Plaintext { host, port }
        | Route::Hbone { host, port, .. }
        | Route::DoubleHbone { host, port, .. } => (host, *port),
    }
}
