//! The metrics of a process: one registry, written as OpenMetrics text on request.
//!
//! Handles of counters are kept by whoever counts; the registry is locked only to add a family and
//! to write a page, never to count.

mod page;
mod process;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Metric;

pub use page::routes;
pub use prometheus_client;

/// All families of a process. Cloning gives another handle to the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Mutex<prometheus_client::registry::Registry>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a family under its full name. Counters are named without `_total`, which is added when
    /// the page is written; `help` goes without a full stop.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.inner.lock().register(name, help, metric);
    }

    /// Adds a family and gives it back: `let opened = registry.add("x", "…", Family::default())`.
    pub fn add<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.register(name, help, metric.clone());
        metric
    }

    /// Adds families that are read at the moment a page is written.
    pub fn register_collector(&self, collector: impl Collector) {
        self.inner.lock().register_collector(Box::new(collector));
    }

    /// Adds the gauge `istio_build{component,tag} 1`.
    pub fn add_build(&self, component: &str, tag: &str) {
        type Labels = [(String, String); 2];
        let family: Family<Labels, Gauge> = Family::default();
        let labels = [("component", component), ("tag", tag)];
        family
            .get_or_create(&labels.map(|(k, v)| (k.to_owned(), v.to_owned())))
            .set(1);
        self.register("istio_build", "Istio component build info", family);
    }

    /// Adds `process_open_fds` and `process_max_fds`, read when the page is written.
    pub fn add_process(&self) {
        self.inner
            .lock()
            .register_collector(Box::new(process::ProcessCollector));
    }

    /// Adds the `tokio_…` gauges of a runtime, read when the page is written.
    pub fn add_tokio(&self, handle: &tokio::runtime::Handle) {
        self.register_collector(process::TokioCollector(handle.metrics()));
    }

    /// Writes all families as OpenMetrics text, ending in `# EOF`.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail; a collector that does leaves a page without `# EOF`,
        // which every scraper refuses.
        if let Err(error) = prometheus_client::encoding::text::encode(&mut page, &self.inner.lock())
        {
            tracing::error!("the metrics page could not be written: {error}");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn writes_open_metrics() {
        let registry = Registry::new();
        let counter = registry.add("istio_test", "A test", Counter::<u64>::default());
        counter.inc_by(3);
        registry.add_build("ztunnel", "1.29.0");
        registry.add_process();
        let page = registry.encode();
        assert!(
            page.contains("# TYPE istio_test counter\nistio_test_total 3\n"),
            "{page}"
        );
        assert!(
            page.contains("istio_build{component=\"ztunnel\",tag=\"1.29.0\"} 1\n"),
            "{page}"
        );
        assert!(
            page.contains("# TYPE process_open_fds gauge\nprocess_open_fds "),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[tokio::test]
    async fn shows_the_runtime() {
        let registry = Registry::new();
        registry.add_tokio(&tokio::runtime::Handle::current());
        let page = registry.encode();
        assert!(page.contains("tokio_num_workers 1\n"), "{page}");
        assert!(
            page.contains("tokio_worker_park_count_total{worker=\"0\"} "),
            "{page}"
        );
    }
}
