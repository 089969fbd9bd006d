//! Metric families of a proxy, under the names and labels that Istio's dashboards ask for.
//!
//! A connection looks its counters up once, when it opens; per worker thread a cache remembers them
//! by the identity of the objects involved, so that not even that hashes two dozen labels. Byte
//! counters of open connections are settled when a page is written, and cost the data path nothing
//! beyond the counting that the copy does anyway.

mod http;
mod labels;
mod live;
mod traffic;

use ambit_runtime::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

pub use http::{HttpTelemetry, Outcome};
pub use labels::{LabelChanges, Reporter, ResponseFlags};
pub(crate) use traffic::Opened;
pub use traffic::{Changes, Telemetry};

/// Counts open TCP sockets: `istio_tcp_sockets_open{reporter}`.
#[derive(Clone, Debug)]
pub struct SocketMetrics {
    open: Family<SocketLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SocketLabels {
    reporter: Reporter,
}

/// An open socket; dropping it counts it as closed.
#[derive(Debug)]
pub struct SocketGuard(Gauge);

impl SocketMetrics {
    /// The gauge in a registry.
    pub fn register(registry: &Registry) -> Self {
        let help = "The current number of open TCP sockets";
        Self {
            open: registry.add("istio_tcp_sockets_open", help, Family::default()),
        }
    }

    /// Counts a socket for as long as the guard lives.
    pub fn opened(&self, reporter: Reporter) -> SocketGuard {
        let gauge = self.open.get_or_create_owned(&SocketLabels { reporter });
        gauge.inc();
        SocketGuard(gauge)
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts the proxies of the pods on the node: `workload_manager_…`.
#[derive(Clone, Debug)]
pub struct WorkloadManagerMetrics {
    /// Proxies that run.
    pub active: Gauge,
    /// Proxies that could not be started yet.
    pub pending: Gauge,
    /// Proxies started so far.
    pub started: Counter,
    /// Proxies stopped so far.
    pub stopped: Counter,
}

impl WorkloadManagerMetrics {
    /// The four families in a registry.
    pub fn register(registry: &Registry) -> Self {
        let name = |name: &str| format!("workload_manager_{name}");
        let gauge = |n: &str, help: &str| registry.add(&name(n), help, Gauge::default());
        let counter = |n: &str, help: &str| registry.add(&name(n), help, Counter::default());
        Self {
            active: gauge("active_proxy_count", "The total number of active proxies"),
            pending: gauge("pending_proxy_count", "The total number of pending proxies"),
            started: counter(
                "proxies_started",
                "The total number of proxies that were started",
            ),
            stopped: counter(
                "proxies_stopped",
                "The total number of proxies that were stopped",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_count_while_they_are_open() {
        let registry = Registry::new();
        let sockets = SocketMetrics::register(&registry);
        let guard = sockets.opened(Reporter::Destination);
        let line = |count| format!("istio_tcp_sockets_open{{reporter=\"destination\"}} {count}\n");
        assert!(registry.encode().contains(&line(1)));
        drop(guard);
        assert!(registry.encode().contains(&line(0)));
    }

    #[test]
    fn the_workload_manager_has_no_prefix() {
        let registry = Registry::new();
        let metrics = WorkloadManagerMetrics::register(&registry);
        metrics.started.inc();
        let page = registry.encode();
        assert!(
            page.contains("\nworkload_manager_proxies_started_total 1\n"),
            "{page}"
        );
        assert!(
            page.contains("\nworkload_manager_pending_proxy_count 0\n"),
            "{page}"
        );
    }
}
