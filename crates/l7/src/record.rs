//! The record of a request: its metrics, its lines in access logs, its span, whatever its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ambit_model::Service;
use ambit_proxy_core::metrics::{Outcome, Reporter};
use ambit_proxy_core::record::{Connection, Party};
use ambit_runtime::log as runtime_log;
use bytes::Bytes;
use http::{HeaderMap, Request, response};

use crate::access_log::{self, Remembered};
use crate::body::Ending;
use crate::expression::Known;
use crate::failure::{Failure, is_grpc};
use crate::grpc;
use crate::health::UnderWay;
use crate::pace::Pace;
use crate::reporting::Reporting;
use crate::serve::Inbound;
use crate::shared::Worker;
use crate::trace::{self, Trace};
use crate::upstream::{Back, Endpoint};

/// A request that is on its way.
pub(crate) struct Record {
    worker: Arc<Worker>,
    reporting: Arc<Reporting>,
    connection: Connection,
    start: Instant,
    method: http::Method,
    path: String,
    code: u16,
    flag: &'static str,
    details: &'static str,
    reason: Option<String>,
    grpc: Option<Option<u16>>,
    request: Arc<Passed>,
    response_bytes: u64,
    /// Of a call.
    response_messages: grpc::Counter,
    /// Where something is to be told that is known of the request alone.
    remembered: Option<Remembered>,
    trace: Option<Trace>,
    /// Where the last try went, and when.
    upstream: Option<(SocketAddr, Instant)>,
    service_milliseconds: Option<u128>,
    port: u16,
    /// The request counts for its endpoint until its record ends.
    under_way: Option<UnderWay>,
}

/// What has passed of a request's body.
#[derive(Default)]
struct Passed {
    bytes: AtomicU64,
    messages: AtomicU64,
}

impl Record {
    /// A request has come in. Where it is traced, its headers say so from here on.
    pub(crate) fn begin<B>(inbound: &Inbound, request: &mut Request<B>) -> Self {
        let worker = inbound.worker.clone();
        let client = &inbound.client;
        let service = inbound.destination.service();
        let reporting = worker
            .shared
            .l7
            .load()
            .reporting(service.map(Arc::as_ref))
            .clone();
        let traced = reporting.tracing.as_ref().map(|tracing| &tracing.traced);
        let trace = traced.map(|traced| trace::begin(traced, request.headers_mut()));
        let leaves_span = trace.as_ref().is_some_and(|trace| trace.place.sampled)
            && traced.is_some_and(|traced| traced.spans);
        let remembers = reporting.remembers() || leaves_span;
        let connection = Connection {
            reporter: Reporter::Waypoint,
            source_address: client.address,
            destination_address: inbound.asked,
            hbone_target: None,
            source: Party {
                workload: client.workload.clone(),
                baggage: client.baggage.clone(),
                identity: client.identity.clone(),
            },
            destination: Party::default(),
            service: service.cloned(),
            mutual_tls: true,
        };
        Self {
            remembered: remembers.then(|| Remembered::request(request)),
            trace: trace.filter(|_| leaves_span),
            worker,
            reporting,
            connection,
            start: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            code: 0,
            flag: "-",
            details: "via_upstream",
            reason: None,
            grpc: is_grpc(request.headers()).then_some(None),
            request: Arc::default(),
            response_bytes: 0,
            response_messages: grpc::Counter::default(),
            upstream: None,
            service_milliseconds: None,
            port: inbound.destination.port(),
            under_way: None,
        }
    }

    /// It is a call of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    /// What counts what passes of the request's body.
    pub(crate) fn counted(&self) -> Counted {
        Counted {
            passed: self.request.clone(),
            messages: self.is_grpc().then(grpc::Counter::default),
        }
    }

    /// It goes to this endpoint, of this service, with these headers.
    pub(crate) fn chosen(
        &mut self,
        service: Option<&Arc<Service>>,
        endpoint: &Endpoint,
        headers: &HeaderMap,
    ) {
        self.upstream = Some((endpoint.address, Instant::now()));
        if let Some(remembered) = &mut self.remembered {
            remembered.note_headers(headers);
        }
        self.connection.destination = Party {
            workload: Some(endpoint.workload.clone()),
            baggage: None,
            identity: endpoint.tunnel.then(|| endpoint.workload.identity()),
        };
        self.connection.mutual_tls = true;
        if let Some(service) = service {
            self.connection.service = Some(service.clone());
        }
    }

    /// It is under way to the endpoint of the last try.
    pub(crate) fn under_way(&mut self, under_way: UnderWay) {
        self.under_way = Some(under_way);
    }

    /// It was not answered by its backend.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.flag = failure.flag();
        self.details = failure.details();
        self.reason = failure.reason().map(str::to_owned);
    }

    /// This is what the client gets.
    pub(crate) fn answered(&mut self, head: &response::Parts) {
        self.code = head.status.as_u16();
        let since = self.upstream.map(|(_, since)| since.elapsed().as_millis());
        self.service_milliseconds = since.filter(|_| self.flag == "-");
        if let Some(remembered) = &mut self.remembered {
            remembered.response.clone_from(&head.headers);
        }
        self.note_status(&head.headers);
    }

    /// The status of a call is in the head or in the trailers.
    fn note_status(&mut self, headers: &HeaderMap) {
        if self.grpc == Some(None) {
            let status = headers.get("grpc-status").and_then(|v| v.to_str().ok());
            self.grpc = Some(status.and_then(|text| text.parse().ok()));
        }
    }

    fn finish(self) {
        let outcome = Outcome {
            code: self.code,
            grpc: self.grpc,
            flags: self.flag,
            duration: self.start.elapsed(),
            request_bytes: self.request.bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes,
            messages: [
                self.request.messages.load(Ordering::Relaxed),
                self.response_messages.messages,
            ],
        };
        self.tell(&outcome);
        tracing::debug!(
            target: "access",
            code = self.code,
            flags = self.flag,
            details = self.details,
            reason = self.reason.as_deref(),
            milliseconds = outcome.duration.as_millis(),
            service = self.connection.service.as_ref().map(|service| &*service.hostname),
            "{} {}",
            self.method,
            self.path,
        );
    }
}

impl Record {
    /// Metrics, lines in access logs, the span.
    fn tell(&self, outcome: &Outcome) {
        let http = &self.worker.shared.http;
        let Some(remembered) = &self.remembered else {
            http.record(&self.connection, outcome);
            return;
        };
        let ended = &self.known_at_end(outcome);
        let known = Known { remembered, ended };
        if self.reporting.changes_metrics() {
            let changes = |metric| self.reporting.labels(metric, known);
            http.record_changed(&self.connection, outcome, &changes);
        } else {
            http.record(&self.connection, outcome);
        }
        log(&self.worker, &self.reporting, known, self.trace.as_ref());
        if let (Some(tracing), Some(trace)) = (&self.reporting.tracing, &self.trace) {
            let told = trace::Told {
                known,
                connection: &self.connection,
                shared: &self.worker.shared,
            };
            let span = trace::span(tracing, trace, &told);
            self.worker.exporter.span(&tracing.collector, span);
        }
    }

    fn known_at_end(&self, outcome: &Outcome) -> access_log::Ended<'_> {
        let service = self.connection.service.as_ref();
        access_log::Ended {
            code: self.code,
            flags: self.flag,
            details: self.details,
            reason: self.reason.as_deref(),
            received: outcome.request_bytes,
            sent: outcome.response_bytes,
            milliseconds: outcome.duration.as_millis(),
            service_milliseconds: self.service_milliseconds,
            grpc: self.grpc.flatten(),
            upstream: self.upstream.map(|(address, _)| address),
            service: service.map(|service| (&*service.hostname, self.port)),
            spoken: "http",
            asked: self.connection.destination_address,
            client: self.connection.source_address,
            identity: self.connection.source.identity.as_ref(),
            server_name: None,
        }
    }
}

/// Lines in the access logs.
pub(crate) fn log(worker: &Worker, reporting: &Reporting, known: Known<'_>, trace: Option<&Trace>) {
    for log in reporting.logs.iter().filter(|log| log.takes(known)) {
        let (remembered, ended) = (known.remembered, known.ended);
        match &log.collector {
            None => runtime_log::append(&log.format.line(remembered, ended)),
            Some(collector) => {
                let (body, fields) = log.format.parts(remembered, ended);
                let record = trace::log_record(remembered.start, body, fields, trace);
                worker.exporter.log(collector, record);
            }
        }
    }
}

/// Ends a record with the response's body, gives the connection back that it came on, and lets that
/// of the client wait for its next request.
pub(crate) struct Ended {
    record: Option<Box<Record>>,
    back: Option<Back>,
    pace: Option<Arc<Pace>>,
}

impl Ended {
    pub(crate) fn new(record: Record, back: Option<Back>, pace: Option<Arc<Pace>>) -> Self {
        Self {
            record: Some(Box::new(record)),
            back,
            pace,
        }
    }
}

impl Ending for Ended {
    fn passed(&mut self, bytes: &Bytes) {
        if let Some(record) = &mut self.record {
            record.response_bytes += bytes.len() as u64;
            if record.is_grpc() {
                record.response_messages.passed(bytes);
            }
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.note_status(trailers);
        }
    }

    fn ended(&mut self, complete: bool) {
        if let Some(pace) = self.pace.take() {
            pace.ended();
        }
        if let Some(back) = self.back.take().filter(|_| complete) {
            back.give();
        }
        if let Some(mut record) = self.record.take() {
            if !complete && record.flag == "-" {
                record.flag = "DC";
            }
            record.finish();
        }
    }
}

/// Counts what passes of a request's body.
#[derive(Default)]
pub(crate) struct Counted {
    passed: Arc<Passed>,
    messages: Option<grpc::Counter>,
}

impl Ending for Counted {
    fn passed(&mut self, bytes: &Bytes) {
        let length = bytes.len() as u64;
        self.passed.bytes.fetch_add(length, Ordering::Relaxed);
        if let Some(counter) = &mut self.messages {
            let before = counter.messages;
            counter.passed(bytes);
            let more = counter.messages - before;
            self.passed.messages.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn trailers(&mut self, _: &HeaderMap) {}

    fn ended(&mut self, _: bool) {}
}
