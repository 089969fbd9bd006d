//! What the parts of a waypoint have in common: one [`Shared`] for the process, one [`Worker`] for
//! each thread.

use std::sync::Arc;
use std::time::Duration;

use ambit_model::{Identity, Workload};
use ambit_proxy_core::certs::CertificateManager;
use ambit_proxy_core::metrics::{HttpTelemetry, Telemetry};
use ambit_proxy_core::store::Store;
use ambit_transport::hbone::pool::Pool as Tunnels;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Clusters;
use crate::config::Config;
use crate::dispatch::Own;
use crate::export::Exporter;
use crate::health::Loads;
use crate::state::Store as L7Store;
use crate::upstream::{Pool, TunnelKey};

/// Longest wait for a TCP connection (`meshConfig.connectTimeout`).
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the whole process has once.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) l7: L7Store,
    pub(crate) certificates: CertificateManager,
    pub(crate) identity: Identity,
    pub(crate) telemetry: Telemetry,
    pub(crate) http: HttpTelemetry,
    /// What is under way to services.
    pub(crate) loads: Loads,
    /// Everything that a drain waits for.
    pub(crate) tasks: TaskTracker,
    /// No new connections.
    pub(crate) draining: CancellationToken,
    /// No connections at all.
    pub(crate) end: CancellationToken,
}

impl Shared {
    /// Who we are to services and workloads.
    pub(crate) fn own(&self) -> Own<'_> {
        Own {
            service: &self.config.service,
            network: &self.config.network,
        }
    }

    /// The own workload, which says how near an endpoint is; one that says nothing until it is
    /// known.
    pub(crate) fn workload(&self) -> Arc<Workload> {
        let known = self.store.local_workload(&self.config.pod);
        known.unwrap_or_else(|| {
            Arc::new(Workload {
                namespace: self.config.pod.namespace.clone(),
                network: self.config.network.clone(),
                ..Workload::default()
            })
        })
    }
}

/// A thread of the data path. Connections never leave it.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Handle,
    /// Tunnels to node proxies.
    pub(crate) tunnels: Tunnels<TunnelKey>,
    /// Connections that requests are sent on.
    pub(crate) pool: Pool,
    /// Endpoints of services.
    pub(crate) clusters: Clusters,
    /// Spans and records for collectors.
    pub(crate) exporter: Exporter,
}

/// The client of a tunnel: what is kept of it, and from nowhere else.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Who it is, as TLS has shown.
    pub(crate) identity: Option<Identity>,
    /// Its address: that of the pod.
    pub(crate) address: std::net::SocketAddr,
    /// Its workload, if it is known by the address.
    pub(crate) workload: Option<Arc<Workload>>,
    /// What it says about itself.
    pub(crate) baggage: Option<Arc<ambit_transport::hbone::Baggage>>,
}
