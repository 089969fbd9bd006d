//! Counters of a discovery client.

use ambit_runtime::metrics::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Termination {
    /// It was never made.
    ConnectionError,
    /// The server let it go: it ages out connections, or goes away itself.
    Reconnect,
    /// It failed.
    Error,
    /// It came to its end.
    Complete,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TerminationLabels {
    reason: Termination,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UrlLabels {
    url: String,
}

/// The families `istio_xds_…`. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct ClientMetrics {
    terminations: Family<TerminationLabels, Counter>,
    messages: Family<UrlLabels, Counter>,
    bytes: Family<UrlLabels, Counter>,
}

impl ClientMetrics {
    /// Counters in a registry.
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let Self {
            terminations,
            messages,
            bytes,
        } = metrics.clone();
        let help = "The total number of completed connections to xds server";
        registry.register("istio_xds_connection_terminations", help, terminations);
        registry.register(
            "istio_xds_message",
            "Total number of messages received",
            messages,
        );
        let help = "Total number of bytes received";
        registry.register("istio_xds_message_bytes", help, bytes);
        metrics
    }

    pub(super) fn terminated(&self, reason: Termination) {
        self.terminations
            .get_or_create(&TerminationLabels { reason })
            .inc();
    }

    pub(super) fn received(&self, url: &str, bytes: usize) {
        let labels = UrlLabels {
            url: url.to_owned(),
        };
        self.messages.get_or_create(&labels).inc();
        self.bytes.get_or_create(&labels).inc_by(bytes as u64);
    }
}
