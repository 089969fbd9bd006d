//! Figures that are read from the process and its runtime at the moment of a scrape.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::RuntimeMetrics;

/// Open files and their limit.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let open = crate::process::open_files();
        gauge(
            &mut encoder,
            "process_open_fds",
            "Number of open file descriptors",
            open,
        )?;
        let max = crate::process::max_open_files();
        gauge(
            &mut encoder,
            "process_max_fds",
            "Maximum number of open file descriptors",
            max,
        )
    }
}

/// The state of a tokio runtime.
#[derive(Debug)]
pub(super) struct TokioCollector(pub RuntimeMetrics);

impl Collector for TokioCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let runtime = &self.0;
        let encoder = &mut encoder;
        let workers = runtime.num_workers();
        gauge(
            encoder,
            "tokio_num_workers",
            "Worker threads of the runtime",
            Some(workers as u64),
        )?;
        let queued = runtime.global_queue_depth() as u64;
        gauge(
            encoder,
            "tokio_global_queue_depth",
            "Tasks in the global queue",
            Some(queued),
        )?;
        let alive = runtime.num_alive_tasks() as u64;
        gauge(
            encoder,
            "tokio_num_alive_tasks",
            "Tasks that have not ended",
            Some(alive),
        )?;
        let busy = |w| runtime.worker_total_busy_duration(w).as_secs_f64();
        per_worker(
            encoder,
            "tokio_worker_total_busy_duration_seconds",
            "Busy time",
            workers,
            busy,
        )?;
        let parks = |w| runtime.worker_park_count(w);
        per_worker(
            encoder,
            "tokio_worker_park_count",
            "Times a worker went idle",
            workers,
            parks,
        )?;
        let both = |w| runtime.worker_park_unpark_count(w);
        let help = "Times a worker went idle or was woken";
        per_worker(
            encoder,
            "tokio_worker_park_unpark_count",
            help,
            workers,
            both,
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: Option<u64>,
) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

fn per_worker<V>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    workers: usize,
    value: impl Fn(usize) -> V,
) -> Result<(), Error>
where
    ConstCounter<V>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for worker in 0..workers {
        let labels = [("worker", worker.to_string())];
        ConstCounter::new(value(worker)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
