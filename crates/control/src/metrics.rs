//! The control plane's counters, under Istio's names.

use std::time::SystemTime;

use ambit_runtime::metrics::Registry;
use ambit_runtime::metrics::prometheus_client::encoding::EncodeLabelSet;
use ambit_runtime::metrics::prometheus_client::metrics::counter::Counter;
use ambit_runtime::metrics::prometheus_client::metrics::family::Family;
use ambit_runtime::metrics::prometheus_client::metrics::gauge::Gauge;
use ambit_runtime::metrics::prometheus_client::metrics::histogram::Histogram;

use crate::engine::Kind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    r#type: &'static str,
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: &'static str,
}

/// All counters. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry_events: Family<EventLabels, Counter>,
    config_events: Family<EventLabels, Counter>,
    pushes: Family<TypeLabels, Counter>,
    services: Gauge,
    derive_time: Histogram,
    /// Requests for certificates.
    pub csr_count: Counter,
    /// Callers that could not be authenticated, or may not have what they ask for.
    pub authentication_failures: Counter,
    /// Requests that are not certificate signing requests.
    pub csr_parsing_errors: Counter,
    /// Requests that could not be signed for another reason.
    pub csr_sign_errors: Counter,
    /// Certificates issued.
    pub issued: Counter,
    root_expiry: Gauge,
    status_writes: Family<TypeLabels, Counter>,
}

impl Metrics {
    /// The counters, in a registry.
    pub fn register(registry: &Registry) -> Self {
        let seconds = [0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        Self {
            registry_events: registry.add(
                "pilot_k8s_reg_events",
                "Events from the Kubernetes registry",
                Family::default(),
            ),
            config_events: registry.add(
                "pilot_k8s_cfg_events",
                "Events of configuration objects",
                Family::default(),
            ),
            pushes: registry.add(
                "pilot_xds_pushes",
                "Changed resources that were published, by type",
                Family::default(),
            ),
            services: registry.add("pilot_services", "Services known", Gauge::default()),
            derive_time: registry.add(
                "pilot_proxy_convergence_time",
                "Seconds from a change to its publication",
                Histogram::new(seconds),
            ),
            csr_count: registry.add(
                "citadel_server_csr_count",
                "Certificate signing requests received",
                Counter::default(),
            ),
            authentication_failures: registry.add(
                "citadel_server_authentication_failure_count",
                "Callers that could not be authenticated",
                Counter::default(),
            ),
            csr_parsing_errors: registry.add(
                "citadel_server_csr_parsing_err_count",
                "Requests that could not be parsed",
                Counter::default(),
            ),
            csr_sign_errors: registry.add(
                "citadel_server_csr_sign_err_count",
                "Requests that could not be signed",
                Counter::default(),
            ),
            issued: registry.add(
                "citadel_server_success_cert_issuance_count",
                "Certificates issued",
                Counter::default(),
            ),
            root_expiry: registry.add(
                "citadel_server_root_cert_expiry_timestamp",
                "When the root certificate expires, in seconds since the epoch",
                Gauge::default(),
            ),
            status_writes: registry.add(
                "ambit_status_writes",
                "Statuses written, by result",
                Family::default(),
            ),
        }
    }

    /// An event of a watch.
    pub fn event(&self, kind: Kind, event: &'static str) {
        let labels = EventLabels {
            r#type: kind.name(),
            event,
        };
        let family = match kind {
            Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice => {
                &self.registry_events
            }
            _ => &self.config_events,
        };
        family.get_or_create(&labels).inc();
    }

    /// Resources were published.
    pub fn published(&self, published: crate::publish::Published, seconds: f64, services: usize) {
        let count = |r#type, n: usize| {
            self.pushes
                .get_or_create(&TypeLabels { r#type })
                .inc_by(n as u64);
        };
        count("wds", published.addresses);
        count("wads", published.policies);
        count("l7", published.l7);
        self.derive_time.observe(seconds);
        self.services
            .set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// When the root expires.
    pub fn set_root_expiry(&self, moment: SystemTime) {
        let seconds = moment
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.root_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// A status was written, or not.
    pub fn status_written(&self, result: &'static str) {
        self.status_writes
            .get_or_create(&TypeLabels { r#type: result })
            .inc();
    }
}
