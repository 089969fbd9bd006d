//! The record of a request: one line in the access log and one set of metrics, whatever its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ambit_model::Service;
use ambit_proxy_core::metrics::{Outcome, Reporter};
use ambit_proxy_core::record::{Connection, Party};
use ambit_runtime::log;
use http::{HeaderMap, Request, response};

use crate::access_log::{self, Remembered};
use crate::body::Ending;
use crate::failure::{Failure, is_grpc};
use crate::health::UnderWay;
use crate::pace::Pace;
use crate::serve::Inbound;
use crate::shared::Shared;
use crate::upstream::{Back, Endpoint};

/// A request that is on its way.
pub(crate) struct Record {
    shared: Arc<Shared>,
    connection: Connection,
    start: Instant,
    method: http::Method,
    path: String,
    code: u16,
    flag: &'static str,
    details: &'static str,
    reason: Option<String>,
    grpc: Option<Option<u16>>,
    request_bytes: Arc<AtomicU64>,
    response_bytes: u64,
    /// For the line in the access log, where there is one.
    remembered: Option<Remembered>,
    /// Where the last try went, and when.
    upstream: Option<(SocketAddr, Instant)>,
    service_milliseconds: Option<u128>,
    port: u16,
    /// The request counts for its endpoint until its record ends.
    under_way: Option<UnderWay>,
}

impl Record {
    /// A request has come in.
    pub(crate) fn begin<B>(inbound: &Inbound, request: &Request<B>) -> Self {
        let shared = inbound.worker.shared.clone();
        let client = &inbound.client;
        let log = shared.config.access_log.as_ref();
        let remembered = log.map(|log| log.remember(request));
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
            service: inbound.destination.service().cloned(),
            mutual_tls: true,
        };
        Self {
            shared,
            connection,
            start: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            code: 0,
            flag: "-",
            details: "via_upstream",
            reason: None,
            grpc: is_grpc(request.headers()).then_some(None),
            request_bytes: Arc::default(),
            response_bytes: 0,
            remembered,
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

    /// Where bytes of the request's body are counted.
    pub(crate) fn request_bytes(&self) -> Arc<AtomicU64> {
        self.request_bytes.clone()
    }

    /// It goes to this endpoint, of this service, with these headers.
    pub(crate) fn chosen(
        &mut self,
        service: Option<&Arc<Service>>,
        endpoint: &Endpoint,
        headers: &HeaderMap,
    ) {
        self.upstream = Some((endpoint.address, Instant::now()));
        if let (Some(log), Some(remembered)) =
            (&self.shared.config.access_log, &mut self.remembered)
        {
            log.note_headers(remembered, headers);
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
        if let (Some(log), Some(remembered)) =
            (&self.shared.config.access_log, &mut self.remembered)
        {
            log.note_answer(remembered, &head.headers);
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
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes,
        };
        self.shared.http.record(&self.connection, &outcome);
        self.log(&outcome);
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
    /// The line in the access log.
    fn log(&self, outcome: &Outcome) {
        let (Some(format), Some(remembered)) = (&self.shared.config.access_log, &self.remembered)
        else {
            return;
        };
        let service = self.connection.service.as_ref();
        let ended = access_log::Ended {
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
        };
        log::append(&format.line(remembered, &ended));
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
    fn passed(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.response_bytes += bytes as u64;
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

/// Counts the bytes of a request's body.
pub(crate) struct Counted(pub(crate) Arc<AtomicU64>);

impl Ending for Counted {
    fn passed(&mut self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn trailers(&mut self, _: &HeaderMap) {}

    fn ended(&mut self, _: bool) {}
}
