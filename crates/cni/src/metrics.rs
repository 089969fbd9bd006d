//! The agent's metrics, under Istio's names.

use ambit_runtime::metrics::Registry;
use ambit_runtime::metrics::prometheus_client::metrics::counter::Counter;
use ambit_runtime::metrics::prometheus_client::metrics::family::Family;
use ambit_runtime::metrics::prometheus_client::metrics::gauge::Gauge;

type Label = [(&'static str, String); 1];

/// Handles to every family of the agent.
#[derive(Clone, Debug)]
pub struct Metrics {
    events: Family<Label, Counter>,
    requests: Family<Label, Counter>,
    installs: Family<Label, Counter>,
    /// 1 while the plugin is installed.
    pub install_ready: Gauge,
    /// 1 while a node proxy is connected.
    pub ztunnel_connected: Gauge,
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> Self {
        Self {
            events: registry.add(
                "nodeagent_reconcile_events",
                "The total number of node agent reconcile events",
                Family::default(),
            ),
            requests: registry.add(
                "istio_cni_plugin_requests",
                "Total number of requests of the CNI plugin, by response code",
                Family::default(),
            ),
            installs: registry.add(
                "istio_cni_installs",
                "Total number of CNI plugin installations, by result",
                Family::default(),
            ),
            install_ready: registry.add(
                "istio_cni_install_ready",
                "Whether the CNI plugin installation is ready or not",
                Gauge::default(),
            ),
            ztunnel_connected: registry.add(
                "ztunnel_connected",
                "Whether a node proxy is connected",
                Gauge::default(),
            ),
        }
    }

    /// Counts a watched change of a pod.
    pub fn event(&self, kind: &str) {
        self.events
            .get_or_create(&[("type", kind.to_owned())])
            .inc();
    }

    /// Counts an answer to the plugin.
    pub fn request(&self, status: u16) {
        self.requests
            .get_or_create(&[("response_code", status.to_string())])
            .inc();
    }

    /// Counts an attempt to install.
    pub fn install(&self, result: &str) {
        self.installs
            .get_or_create(&[("result", result.to_owned())])
            .inc();
    }
}
