//! Spans and records of the access log on their way to collectors: kept for a moment, sent together,
//! over the mesh as everything else. A request never waits for it: what does not fit is lost, and the
//! log says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_model::route::Target;
use ambit_model::telemetry::{Collector, CollectorProtocol};
use ambit_proto::otlp::logs::v1::{ExportLogsServiceRequest, LogRecord, ResourceLogs, ScopeLogs};
use ambit_proto::otlp::trace::v1::{ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span};
use ambit_proto::otlp::{Resource, Scope};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderValue, Request, Version};
use http_body_util::{BodyExt, Limited};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::body::Body;
use crate::failure::Failure;
use crate::shared::Worker;
use crate::trace::{tag, zipkin};
use crate::upstream::{self, SendError};
use crate::{choose, forward, grpc};

/// What may wait to be sent.
const QUEUE: usize = 2048;
/// What is sent together at most.
const BATCH: usize = 512;
/// How long it waits for more.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest answer of a collector.
const ANSWER_LIMIT: usize = 64 * 1024;

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Takes what is to be sent, from the requests of one worker.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: mpsc::Sender<Item>,
    lost: Arc<AtomicU64>,
}

/// The other end of an [`Exporter`].
pub(crate) struct Waiting {
    items: mpsc::Receiver<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Span(Arc<Collector>, Box<Span>),
    Log(Arc<Collector>, Box<LogRecord>),
    Flush(oneshot::Sender<()>),
}

/// What waits for a collector.
#[derive(Default)]
struct Batch {
    spans: Vec<Span>,
    logs: Vec<LogRecord>,
    /// The last time it could not be told.
    failing: bool,
}

impl Exporter {
    /// Both ends.
    pub(crate) fn new() -> (Self, Waiting) {
        let (queue, items) = mpsc::channel(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        let exporter = Self {
            queue,
            lost: lost.clone(),
        };
        (exporter, Waiting { items, lost })
    }

    /// Sends a span, soon.
    pub(crate) fn span(&self, collector: &Arc<Collector>, span: Span) {
        self.put(Item::Span(collector.clone(), Box::new(span)));
    }

    /// Sends a record, soon.
    pub(crate) fn log(&self, collector: &Arc<Collector>, record: LogRecord) {
        self.put(Item::Log(collector.clone(), Box::new(record)));
    }

    fn put(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits, now, and comes back when that is done.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            // An error means that nobody sends any more.
            let _ = wait.await;
        }
    }
}

/// Sends what the requests of a worker leave, until nobody can leave more.
pub(crate) async fn run(worker: Arc<Worker>, mut waiting: Waiting) {
    let mut batches: HashMap<Arc<Collector>, Batch> = HashMap::new();
    let mut tick = tokio::time::interval(PAUSE);
    loop {
        let item = tokio::select! {
            item = waiting.items.recv() => item,
            _ = tick.tick() => {
                send_all(&worker, &mut batches, &waiting.lost).await;
                continue;
            }
        };
        let (collector, full) = match item {
            None => return,
            Some(Item::Flush(done)) => {
                send_all(&worker, &mut batches, &waiting.lost).await;
                // Who asked may have stopped waiting.
                let _ = done.send(());
                continue;
            }
            Some(Item::Span(collector, span)) => {
                let batch = batches.entry(collector.clone()).or_default();
                batch.spans.push(*span);
                (collector, batch.spans.len() >= BATCH)
            }
            Some(Item::Log(collector, record)) => {
                let batch = batches.entry(collector.clone()).or_default();
                batch.logs.push(*record);
                (collector, batch.logs.len() >= BATCH)
            }
        };
        if let (true, Some(batch)) = (full, batches.get_mut(&collector)) {
            batch.send(&worker, &collector).await;
        }
    }
}

async fn send_all(
    worker: &Arc<Worker>,
    batches: &mut HashMap<Arc<Collector>, Batch>,
    lost: &AtomicU64,
) {
    for (collector, batch) in batches.iter_mut() {
        batch.send(worker, collector).await;
    }
    // Only those are kept of which something is still to be said.
    batches.retain(|_, batch| batch.failing);
    let lost = lost.swap(0, Ordering::Relaxed);
    if lost > 0 {
        tracing::warn!("{lost} spans or records were lost: collectors are too slow");
    }
}

impl Batch {
    async fn send(&mut self, worker: &Arc<Worker>, collector: &Collector) {
        let spans = std::mem::take(&mut self.spans);
        let logs = std::mem::take(&mut self.logs);
        let number = spans.len() + logs.len();
        if number == 0 {
            return;
        }
        let sending = async {
            if !spans.is_empty() {
                send(worker, collector, spans_to(worker, collector, spans)?).await?;
            }
            if !logs.is_empty() {
                send(worker, collector, logs_to(worker, collector, logs)?).await?;
            }
            Ok::<_, String>(())
        };
        let result = match timeout(collector.timeout, sending).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", collector.timeout)),
        };
        let name = format!("{}:{}", collector.service, collector.port);
        match &result {
            Ok(()) if self.failing => tracing::info!("{name} takes spans and records again"),
            Ok(()) => {}
            Err(why) if self.failing => {
                tracing::debug!("{number} spans or records for {name} are lost: {why}");
            }
            Err(why) => tracing::warn!("{number} spans or records for {name} are lost: {why}"),
        }
        self.failing = result.is_err();
    }
}

/// The name of the waypoint as a service, as Istio gives it.
fn service_name(worker: &Worker) -> String {
    let config = &worker.shared.config;
    let own = worker.shared.workload();
    let name = match own.canonical_name.is_empty() {
        true => &config.gateway,
        false => &own.canonical_name,
    };
    format!("{name}.{}", config.pod.namespace)
}

fn resource(worker: &Worker) -> (Resource, Scope) {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = vec![
        tag("service.name", service_name(worker)),
        tag("telemetry.sdk.language", "rust"),
        tag("telemetry.sdk.name", "ambit"),
        tag("telemetry.sdk.version", version),
    ];
    let scope = Scope {
        name: "ambit".to_owned(),
        version: version.to_owned(),
    };
    (Resource { attributes }, scope)
}

fn spans_to(
    worker: &Worker,
    collector: &Collector,
    spans: Vec<Span>,
) -> Result<Request<Body>, String> {
    if let CollectorProtocol::Zipkin(path) = &collector.protocol {
        let address = &worker.shared.config.ip;
        let body = zipkin(&service_name(worker), address, &spans).to_string();
        return request(collector, path, "application/json", body.into());
    }
    let (resource, scope) = resource(worker);
    let message = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
            }],
        }],
    };
    match &collector.protocol {
        CollectorProtocol::OtlpHttp(path) => {
            let body = message.encode_to_vec().into();
            request(collector, path, "application/x-protobuf", body)
        }
        _ => request(collector, TRACES, GRPC, grpc::framed(&message)?),
    }
}

fn logs_to(
    worker: &Worker,
    collector: &Collector,
    log_records: Vec<LogRecord>,
) -> Result<Request<Body>, String> {
    let (resource, scope) = resource(worker);
    let message = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records,
            }],
        }],
    };
    request(collector, LOGS, GRPC, grpc::framed(&message)?)
}

const GRPC: &str = "application/grpc";

fn request(
    collector: &Collector,
    path: &str,
    content_type: &'static str,
    body: Bytes,
) -> Result<Request<Body>, String> {
    let host = &collector.service.hostname;
    let mut builder = Request::post(match content_type {
        GRPC => format!("http://{host}{path}"),
        _ => path.to_owned(),
    });
    for (name, value) in &collector.headers {
        builder = builder.header(&**name, &**value);
    }
    builder = builder.header(CONTENT_TYPE, HeaderValue::from_static(content_type));
    builder = match content_type {
        GRPC => builder
            .version(Version::HTTP_2)
            .header(TE, HeaderValue::from_static("trailers")),
        _ => builder.header(HOST, format!("{host}:{}", collector.port)),
    };
    let built = builder.body(Body::Kept(Some(body), None));
    built.map_err(|e| e.to_string())
}

async fn send(
    worker: &Arc<Worker>,
    collector: &Collector,
    request: Request<Body>,
) -> Result<(), String> {
    let said = |failure: Failure| failure.reason().unwrap_or(failure.details()).to_owned();
    let target = Target {
        service: collector.service.clone(),
        port: collector.port,
    };
    let destination = forward::find_service(&worker.shared, &target).map_err(said)?;
    let chosen = choose::for_ourselves(worker, &destination).map_err(said)?;
    let http2 = request.version() == Version::HTTP_2;
    let request = request.map(forward::uncounted);
    let sent = upstream::send(worker, &chosen.endpoint, http2, request).await;
    let (response, back) = sent.map_err(|error| match error {
        SendError::NotSent(_, failure) | SendError::Failed(failure) => said(failure),
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT).collect().await;
    let body = body.map_err(|e| format!("its answer broke off: {e}"))?;
    if let Some(back) = back {
        back.give();
    }
    if !head.status.is_success() {
        return Err(format!("it answered {}", head.status));
    }
    match http2 {
        true => grpc::status(body.trailers().unwrap_or(&head.headers)),
        false => Ok(()),
    }
}
