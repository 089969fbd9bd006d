//! The families that count requests: `istio_requests_total` and what belongs to it.
//!
//! Calls of gRPC are counted by their messages, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ambit_model::telemetry::Metric;
use ambit_model::{Identity, Service, Workload};
use ambit_runtime::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::{Changed, Ends, LabelChanges, Labelled, security_policy};
use super::traffic::Changes;
use crate::record::Connection;

/// Requests that a worker remembers the counters of.
const CACHED: usize = 1024;

/// Buckets of all histograms: milliseconds or bytes, as Istio has them.
const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// Counts requests. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct HttpTelemetry(Arc<Families>);

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Status; 0 where none was sent.
    pub code: u16,
    /// It was a call of gRPC, with this status if there was one.
    pub grpc: Option<Option<u16>>,
    /// Why it failed, as Envoy abbreviates it; `-` if it did not.
    pub flags: &'static str,
    /// From its first byte to the last of its response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Messages of a call, there and back.
    pub messages: [u64; 2],
}

#[derive(Debug)]
struct Families {
    requests: Family<Changed<Labels>, Counter>,
    duration: Histograms,
    request_bytes: Histograms,
    response_bytes: Histograms,
    request_messages: Family<Changed<Labels>, Counter>,
    response_messages: Family<Changed<Labels>, Counter>,
}

type Histograms = Family<Changed<Labels>, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    ends: Ends,
    request_protocol: &'static str,
    response_code: u16,
    grpc_response_status: String,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

impl Labelled for Labels {
    fn each(&self, with: &mut dyn FnMut(&'static str, &str)) {
        self.ends.each(with);
        with("request_protocol", self.request_protocol);
        with("response_code", &self.response_code.to_string());
        with("grpc_response_status", &self.grpc_response_status);
        with("response_flags", self.response_flags);
        with(
            "connection_security_policy",
            self.connection_security_policy,
        );
    }
}

/// The counters of requests that look alike; none of what is not counted.
#[derive(Debug)]
struct Handles {
    requests: Option<Counter>,
    duration: Option<Histogram>,
    request_bytes: Option<Histogram>,
    response_bytes: Option<Histogram>,
    /// Of calls alone.
    messages: [Option<Counter>; 2],
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl HttpTelemetry {
    /// The families in a registry.
    pub fn register(registry: &Registry) -> Self {
        let new = || Family::new_with_constructor(histogram as fn() -> Histogram);
        let families = Families {
            requests: Family::default(),
            duration: new(),
            request_bytes: new(),
            response_bytes: new(),
            request_messages: Family::default(),
            response_messages: Family::default(),
        };
        let help = "The total number of requests";
        registry.register("istio_requests", help, families.requests.clone());
        let help = "Duration of requests in milliseconds";
        let duration = families.duration.clone();
        registry.register("istio_request_duration_milliseconds", help, duration);
        let help = "Sizes of request bodies in bytes";
        registry.register("istio_request_bytes", help, families.request_bytes.clone());
        let help = "Sizes of response bodies in bytes";
        registry.register(
            "istio_response_bytes",
            help,
            families.response_bytes.clone(),
        );
        let help = "Messages of gRPC that clients have sent";
        let messages = families.request_messages.clone();
        registry.register("istio_request_messages", help, messages);
        let help = "Messages of gRPC that clients were sent";
        let messages = families.response_messages.clone();
        registry.register("istio_response_messages", help, messages);
        Self(Arc::new(families))
    }

    /// Counts a request that has come to its end.
    pub fn record(&self, connection: &Connection, outcome: &Outcome) {
        self.handles(connection, outcome).count(outcome);
    }

    /// The same, where something is different about the labels.
    pub fn record_changed(
        &self,
        connection: &Connection,
        outcome: &Outcome,
        changes: &Changes<'_>,
    ) {
        self.look_up(connection, outcome, changes).count(outcome);
    }

    fn handles(&self, connection: &Connection, outcome: &Outcome) -> Arc<Handles> {
        if connection.source.workload.is_none() && connection.source.baggage.is_some() {
            return self.look_up(connection, outcome, &nothing);
        }
        let key = Key::of(Arc::downgrade(&self.0), connection, outcome);
        CACHE.with_borrow_mut(|cache| {
            if let Some(entry) = cache.get(&key) {
                return entry.handles.clone();
            }
            // Entries outlive their workloads; starting over now and then is the cheapest cure.
            if cache.len() >= CACHED {
                cache.clear();
            }
            let handles = self.look_up(connection, outcome, &nothing);
            let entry = Entry {
                handles: handles.clone(),
                _held: Held::of(connection),
            };
            cache.insert(key, entry);
            handles
        })
    }

    fn look_up(
        &self,
        connection: &Connection,
        outcome: &Outcome,
        changes: &Changes<'_>,
    ) -> Arc<Handles> {
        let labels = Labels {
            ends: Ends::of(connection),
            request_protocol: match outcome.grpc {
                Some(_) => "grpc",
                None => "http",
            },
            response_code: outcome.code,
            grpc_response_status: match outcome.grpc {
                Some(Some(status)) => status.to_string(),
                _ => String::new(),
            },
            response_flags: outcome.flags,
            connection_security_policy: security_policy(connection),
        };
        let families = &self.0;
        let changed = |metric| {
            changes(metric).map(|changes| Changed {
                labels: labels.clone(),
                changes,
            })
        };
        let counter = |metric, family: &Family<Changed<Labels>, Counter>| {
            changed(metric).map(|labels| family.get_or_create_owned(&labels))
        };
        let histogram = |metric, family: &Histograms| {
            changed(metric).map(|labels| family.get_or_create_owned(&labels))
        };
        let is_call = outcome.grpc.is_some();
        let messages = |metric, family| is_call.then(|| counter(metric, family)).flatten();
        Arc::new(Handles {
            requests: counter(Metric::Requests, &families.requests),
            duration: histogram(Metric::Duration, &families.duration),
            request_bytes: histogram(Metric::RequestBytes, &families.request_bytes),
            response_bytes: histogram(Metric::ResponseBytes, &families.response_bytes),
            messages: [
                messages(Metric::RequestMessages, &families.request_messages),
                messages(Metric::ResponseMessages, &families.response_messages),
            ],
        })
    }
}

/// Nothing is different.
fn nothing(_: Metric) -> Option<LabelChanges> {
    Some(LabelChanges::new())
}

impl Handles {
    fn count(&self, outcome: &Outcome) {
        if let Some(requests) = &self.requests {
            requests.inc();
        }
        let milliseconds = outcome.duration.as_secs_f64() * 1e3;
        for (histogram, value) in [
            (&self.duration, milliseconds),
            (&self.request_bytes, outcome.request_bytes as f64),
            (&self.response_bytes, outcome.response_bytes as f64),
        ] {
            if let Some(histogram) = histogram {
                histogram.observe(value);
            }
        }
        for (counter, number) in self.messages.iter().zip(outcome.messages) {
            if let Some(counter) = counter {
                counter.inc_by(number);
            }
        }
    }
}

/// What decides about the labels of a request. Objects are compared by address, which the entry
/// keeps from being used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    addresses: [usize; 4],
    identities: [Option<Identity>; 2],
    mutual_tls: bool,
    code: u16,
    grpc: Option<Option<u16>>,
    flags: &'static str,
}

impl Key {
    fn of(families: Weak<Families>, connection: &Connection, outcome: &Outcome) -> Self {
        let address = |workload: &Option<Arc<Workload>>| {
            workload.as_ref().map_or(0, |w| Arc::as_ptr(w) as usize)
        };
        let service = connection.service.as_ref();
        Self {
            addresses: [
                families.as_ptr() as usize,
                address(&connection.source.workload),
                address(&connection.destination.workload),
                service.map_or(0, |service| Arc::as_ptr(service) as usize),
            ],
            identities: [
                connection.source.identity.clone(),
                connection.destination.identity.clone(),
            ],
            mutual_tls: connection.mutual_tls,
            code: outcome.code,
            grpc: outcome.grpc,
            flags: outcome.flags,
        }
    }
}

/// What an entry keeps alive.
#[derive(Debug)]
struct Held {
    _workloads: [Option<Arc<Workload>>; 2],
    _service: Option<Arc<Service>>,
}

impl Held {
    fn of(connection: &Connection) -> Self {
        Self {
            _workloads: [
                connection.source.workload.clone(),
                connection.destination.workload.clone(),
            ],
            _service: connection.service.clone(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    handles: Arc<Handles>,
    _held: Held,
}

thread_local! {
    static CACHE: RefCell<HashMap<Key, Entry>> = RefCell::new(HashMap::new());
}

#[cfg(test)]
mod tests {
    use super::super::Reporter;
    use super::*;
    use crate::record::Party;

    #[test]
    fn a_request_counts_once_under_its_labels() {
        let registry = Registry::new();
        let telemetry = HttpTelemetry::register(&registry);
        let workload = |name: &str| {
            Some(Arc::new(Workload {
                workload_name: name.into(),
                namespace: "shop".into(),
                ..Workload::default()
            }))
        };
        let party = |name| Party {
            workload: workload(name),
            ..Party::default()
        };
        let connection = Connection {
            reporter: Reporter::Waypoint,
            source_address: "10.0.0.1:1".parse().unwrap(),
            destination_address: "10.0.0.2:2".parse().unwrap(),
            hbone_target: None,
            source: party("web"),
            destination: party("cart"),
            service: None,
            mutual_tls: true,
        };
        let outcome = |code| Outcome {
            code,
            grpc: None,
            flags: "-",
            duration: Duration::from_millis(3),
            request_bytes: 10,
            response_bytes: 20,
            messages: [0, 0],
        };
        telemetry.record(&connection, &outcome(200));
        telemetry.record(&connection, &outcome(200));
        telemetry.record(&connection, &outcome(503));
        let page = registry.encode();
        let line = |code: &str| {
            let wanted = format!("response_code=\"{code}\"");
            let mut lines = page.lines();
            lines
                .find(|l| l.starts_with("istio_requests_total{") && l.contains(&wanted))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(line("200").ends_with(" 2"), "{page}");
        assert!(line("503").ends_with(" 1"), "{page}");
        assert!(
            line("200").contains("reporter=\"waypoint\",source_workload=\"web\""),
            "{page}"
        );
        assert!(
            page.contains("istio_request_duration_milliseconds_bucket{"),
            "{page}"
        );
    }

    #[test]
    fn families_are_left_out_and_calls_are_counted_by_messages() {
        let registry = Registry::new();
        let telemetry = HttpTelemetry::register(&registry);
        let connection = Connection {
            reporter: Reporter::Waypoint,
            source_address: "10.0.0.1:1".parse().unwrap(),
            destination_address: "10.0.0.2:2".parse().unwrap(),
            hbone_target: None,
            source: Party::default(),
            destination: Party::default(),
            service: None,
            mutual_tls: true,
        };
        let outcome = Outcome {
            code: 200,
            grpc: Some(Some(0)),
            flags: "-",
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            messages: [2, 3],
        };
        telemetry.record_changed(&connection, &outcome, &|metric| match metric {
            Metric::Requests => Some(vec![("host".into(), Some("echo".into()))]),
            Metric::Duration => None,
            _ => nothing(metric),
        });
        let page = registry.encode();
        let find = |name: &str| page.lines().find(|line| line.starts_with(name));
        assert!(
            find("istio_requests_total{")
                .unwrap()
                .contains(",host=\"echo\"} 1")
        );
        assert_eq!(find("istio_request_duration_milliseconds_count"), None);
        assert!(
            find("istio_request_messages_total{")
                .unwrap()
                .ends_with(" 2")
        );
        assert!(
            find("istio_response_messages_total{")
                .unwrap()
                .ends_with(" 3")
        );
    }
}
