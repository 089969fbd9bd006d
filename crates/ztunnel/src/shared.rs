//! What the parts of the data path have in common: one [`Shared`] for the process, one [`Worker`]
//! for each thread, one [`Pod`] for each enrolled pod.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_model::{Identity, Text, Workload};
use ambit_proxy_core::certs::CertificateManager;
use ambit_proxy_core::metrics::{SocketMetrics, Telemetry};
use ambit_proxy_core::store::{LOCAL_WORKLOAD_TIMEOUT, PodName, Store, UnknownLocalWorkload};
use ambit_transport::hbone::pool::Pool;
use ambit_transport::netns::Netns;
use ambit_transport::socket::ConnectOptions;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::connections::Connections;

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the whole process has once.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) certificates: CertificateManager,
    pub(crate) telemetry: Telemetry,
    pub(crate) sockets: SocketMetrics,
    /// Everything that a drain waits for.
    pub(crate) tasks: TaskTracker,
    /// No new connections.
    pub(crate) draining: CancellationToken,
    /// No connections at all.
    pub(crate) end: CancellationToken,
}

impl Shared {
    /// The workload of a pod, waiting for it for a while.
    pub(crate) async fn workload(&self, pod: &Pod) -> Result<Arc<Workload>, UnknownLocalWorkload> {
        self.store
            .wait_for_local_workload(&pod.name, LOCAL_WORKLOAD_TIMEOUT)
            .await
    }

    /// Options of a connection out of a pod; `source` is the address to appear from.
    pub(crate) fn connect_options(&self, source: Option<IpAddr>) -> ConnectOptions {
        ConnectOptions {
            mark: self.config.mark,
            keepalive: self.config.keepalive,
            source,
            timeout: CONNECT_TIMEOUT,
        }
    }
}

/// A thread of the data path. Tunnels and connections never leave it.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Handle,
    pub(crate) pool: Pool<TunnelKey>,
    pub(crate) connections: Arc<Connections>,
}

/// Which connections may share a tunnel. The receiver concludes the source's address and identity
/// from the tunnel, so two pods never share one; and an address that another pod has taken over
/// never gets the tunnel of its predecessor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The enrolment of the source pod.
    pub(crate) enrolment: u64,
    pub(crate) source: Identity,
    pub(crate) expected: Arc<[Identity]>,
    pub(crate) destination: SocketAddr,
    pub(crate) destination_uid: Text,
}

/// An enrolled pod.
pub(crate) struct Pod {
    pub(crate) uid: Text,
    pub(crate) name: PodName,
    pub(crate) netns: Netns,
    /// Tells this enrolment from all others, also of the same pod.
    pub(crate) enrolment: u64,
    /// The kernel lets us appear as somebody else in this pod.
    pub(crate) transparent: bool,
    /// The pod is gone, or all connections are to end.
    pub(crate) stop: CancellationToken,
}

/// A number that no other enrolment of this process has.
pub(crate) fn next_enrolment() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs a connection to its end, or drops it when `stop` comes. What is stopped is not polled again:
/// it must not find its tunnel gone and report that as its own failure.
pub(crate) async fn until(stop: CancellationToken, connection: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        _ = stop.cancelled() => {}
        _ = connection => {}
    }
}
