//! `istio_dns_…`: what pods ask, and how forwarding goes.

use std::future::Future;
use std::time::Instant;

use ambit_model::Workload;
use ambit_runtime::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

use super::message::{Question, Transport};

/// Labels of a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    request_query_type: String,
    request_protocol: &'static str,
    source_canonical_service: String,
    source_canonical_revision: String,
}

#[derive(Clone, Copy, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.0005, 0.001, 0.01, 0.1, 1.0, 5.0])
    }
}

/// Counters of the DNS proxy. Clones count together.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    requests: Family<Labels, Counter>,
    upstream_requests: Family<Labels, Counter>,
    upstream_failures: Family<Labels, Counter>,
    upstream_duration: Family<Labels, Histogram, Seconds>,
}

impl DnsMetrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> Self {
        let duration = Family::new_with_constructor(Seconds);
        Self {
            requests: registry.add(
                "istio_dns_requests",
                "Total number of DNS requests",
                Family::default(),
            ),
            upstream_requests: registry.add(
                "istio_dns_upstream_requests",
                "Total number of DNS requests forwarded to upstream",
                Family::default(),
            ),
            upstream_failures: registry.add(
                "istio_dns_upstream_failures",
                "Total number of DNS requests forwarded to upstream that failed",
                Family::default(),
            ),
            upstream_duration: registry.add(
                "istio_dns_upstream_request_duration_seconds",
                "Total time in seconds Istio takes to get DNS response from upstream",
                duration,
            ),
        }
    }

    pub(super) fn request(
        &self,
        question: &Question,
        transport: Transport,
        client: &Workload,
    ) -> Labels {
        let labels = Labels {
            request_query_type: question.kind().to_string().to_lowercase(),
            request_protocol: match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            source_canonical_service: client.canonical_name.to_string(),
            source_canonical_revision: client.canonical_revision.to_string(),
        };
        self.requests.get_or_create(&labels).inc();
        labels
    }

    pub(super) async fn upstream<T, E>(
        &self,
        labels: &Labels,
        forwarding: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.upstream_requests.get_or_create(labels).inc();
        let start = Instant::now();
        let result = forwarding.await;
        self.upstream_duration
            .get_or_create(labels)
            .observe(start.elapsed().as_secs_f64());
        if result.is_err() {
            self.upstream_failures.get_or_create(labels).inc();
        }
        result
    }
}
