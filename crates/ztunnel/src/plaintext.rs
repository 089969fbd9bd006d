//! Plaintext that reaches a pod: captured on 15006.
//!
//! Where it may not come in, a policy says so (`STRICT` is a policy that denies peers without
//! identity). It goes to the application from the client's own address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_model::{authorize, inbound};
use ambit_proxy_core::metrics::Reporter;
use ambit_proxy_core::record::{Connection, ConnectionRecord, Failure, Party, refused};
use ambit_transport::{copy, socket};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::port;
use crate::connections::{Inbound, Protocol};
use crate::policy;
use crate::shared::{Pod, Worker};

/// Serves one captured connection to its end.
pub(crate) async fn serve(worker: Arc<Worker>, pod: Arc<Pod>, client: TcpStream, peer: SocketAddr) {
    let start = Instant::now();
    let shared = &worker.shared;
    let _open = shared.sockets.opened(Reporter::Destination);
    let original = match socket::original_destination(&client) {
        Ok(original) => original,
        Err(e) => {
            return refused(
                Reporter::Destination,
                peer,
                peer,
                format_args!("io error: {e}"),
            );
        }
    };
    let refuse =
        |error: &dyn std::fmt::Display| refused(Reporter::Destination, peer, original, error);
    if let Err(e) = inbound::check_plaintext(original, port::OWN) {
        return refuse(&e);
    }
    if let Err(e) = socket::configure_accepted(&client, shared.config.keepalive.as_ref()) {
        return refuse(&format_args!("io error: {e}"));
    }
    let workload = match shared.workload(&pod).await {
        Ok(workload) => workload,
        Err(e) => return refuse(&e),
    };
    let inbound = Arc::new(Inbound {
        connection: authorize::Connection {
            identity: None,
            source: peer.ip(),
            destination: original,
        },
        workload,
        source: peer,
        service: None,
        protocol: Protocol::Tcp,
        cut: CancellationToken::new(),
    });
    let _guard = worker.connections.inbound(&pod.uid, &inbound);
    let record = ConnectionRecord::open(&shared.telemetry, describe(&worker, &inbound), start);
    if let Err(reason) = policy::check(shared, &inbound) {
        return record.finish(Err(Failure::denied(reason)));
    }
    let carried = carry(&worker, &pod, client, &inbound, &record);
    let result = tokio::select! {
        result = carried => result,
        _ = inbound.cut.cancelled() => Err(Failure::denied_since_change()),
    };
    record.finish(result);
}

async fn carry(
    worker: &Worker,
    pod: &Pod,
    client: TcpStream,
    inbound: &Inbound,
    record: &ConnectionRecord,
) -> Result<(), Failure> {
    let source = Some(inbound.source.ip()).filter(|_| pod.transparent);
    let options = worker.shared.connect_options(source);
    let to = inbound.connection.destination;
    let app = socket::connect(Some(&pod.netns), to, &options).await;
    let app = app.map_err(|e| Failure::from(&e))?;
    let copied = copy::bidirectional(client, app, record.counters()).await;
    copied.map_err(|e| Failure::from(&e))
}

fn describe(worker: &Worker, inbound: &Inbound) -> Connection {
    let state = worker.shared.store.load();
    let known = state.workload_at(&worker.shared.config.network, inbound.source.ip());
    let port = inbound.connection.destination.port();
    Connection {
        reporter: Reporter::Destination,
        source_address: inbound.source,
        destination_address: inbound.connection.destination,
        hbone_target: None,
        source: Party {
            workload: known.cloned(),
            baggage: None,
            identity: None,
        },
        destination: Party {
            workload: Some(inbound.workload.clone()),
            baggage: None,
            identity: None,
        },
        service: inbound::service_for(&state, &inbound.workload, port, None),
        mutual_tls: false,
    }
}
