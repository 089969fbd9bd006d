//! The five families that count connections and their bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Error;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock, Weak};

use ambit_model::telemetry::Metric;
use ambit_model::{Identity, Service, Workload};
use ambit_runtime::metrics::Registry;
use ambit_transport::copy::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::labels::{LabelChanges, Labels, Reporter, ResponseFlags};
use super::live::{Live, LiveTable};
use crate::record::Connection;

/// Connections that a worker remembers the counters of.
const CACHED: usize = 1024;

/// Counts connections: `istio_tcp_…`. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Families>);

#[derive(Debug, Default)]
struct Families {
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    received_bytes: Family<Labels, Counter>,
    sent_bytes: Family<Labels, Counter>,
    live: LiveTable,
}

/// What is different about the labels of a family; `None` if it is not counted.
pub type Changes<'a> = dyn Fn(Metric) -> Option<LabelChanges> + 'a;

/// The counters of connections that look alike.
#[derive(Debug)]
pub(super) struct Handles {
    labels: Labels,
    opened: Counter,
    /// Labels of those that have closed; `None` where they are not counted.
    closed_labels: Option<Labels>,
    /// Ended well; it appears with the first connection that did.
    closed: OnceLock<Counter>,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
}

/// A connection that was counted as opened and has to be counted as closed.
#[derive(Debug)]
pub(crate) struct Opened {
    families: Arc<Families>,
    live: Arc<Live>,
    id: u64,
}

impl Telemetry {
    /// The families in a registry.
    pub fn register(registry: &Registry) -> Self {
        let families = Arc::new(Families::default());
        let add = |name: &str, help: &str, family: &Family<Labels, Counter>| {
            registry.register(&format!("istio_tcp_{name}"), help, family.clone());
        };
        add(
            "connections_opened",
            "The total number of TCP connections opened",
            &families.opened,
        );
        add(
            "connections_closed",
            "The total number of TCP connections closed",
            &families.closed,
        );
        let help = "The total number of TCP connections that failed";
        add("connections_failed", help, &families.failed);
        registry.register_collector(ByteFamilies(families.clone()));
        Self(families)
    }

    /// Counts a connection as opened. `changes` say what is different about its labels.
    pub(crate) fn opened(&self, connection: &Connection, changes: Option<&Changes<'_>>) -> Opened {
        let handles = match changes {
            None => self.0.handles(connection),
            Some(changes) => self.0.look_up_changed(connection, changes),
        };
        handles.opened.inc();
        let live = Arc::new(Live::new(handles));
        let id = self.0.live.insert(live.clone());
        Opened {
            families: self.0.clone(),
            live,
            id,
        }
    }
}

impl Opened {
    /// Where the copy counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.live.counters
    }

    /// Counts the connection as closed.
    pub(crate) fn closed(self, flags: ResponseFlags) {
        self.live.settle();
        self.families.live.remove(self.id);
        let handles = &self.live.handles;
        if let Some(labels) = &handles.closed_labels {
            match flags {
                ResponseFlags::None => {
                    let closed = || self.families.closed.get_or_create_owned(labels);
                    handles.closed.get_or_init(closed).inc();
                }
                flags => {
                    let labels = labels.ended(flags);
                    self.families.closed.get_or_create(&labels).inc();
                }
            }
        }
        if flags != ResponseFlags::None {
            let labels = handles.labels.ended(flags);
            self.families.failed.get_or_create(&labels).inc();
        }
    }
}

/// What decides about the labels of a connection between workloads that are known. Objects are
/// compared by address, which the cache keeps from being used again.
#[derive(Clone, Debug)]
struct Key {
    families: Weak<Families>,
    reporter: Reporter,
    mutual_tls: bool,
    source: Option<Arc<Workload>>,
    source_identity: Option<Identity>,
    destination: Option<Arc<Workload>>,
    destination_identity: Option<Identity>,
    service: Option<Arc<Service>>,
}

impl Key {
    fn addresses(&self) -> [usize; 4] {
        let address = |workload: &Option<Arc<Workload>>| {
            workload
                .as_ref()
                .map_or(0, |workload| Arc::as_ptr(workload) as usize)
        };
        [
            self.families.as_ptr() as usize,
            address(&self.source),
            address(&self.destination),
            self.service
                .as_ref()
                .map_or(0, |service| Arc::as_ptr(service) as usize),
        ]
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.addresses() == other.addresses()
            && (self.reporter, self.mutual_tls) == (other.reporter, other.mutual_tls)
            && self.source_identity == other.source_identity
            && self.destination_identity == other.destination_identity
    }
}

impl Eq for Key {}

thread_local! {
    static CACHE: RefCell<HashMap<Key, Arc<Handles>>> = RefCell::new(HashMap::new());
}

impl Families {
    fn handles(self: &Arc<Self>, connection: &Connection) -> Arc<Handles> {
        let from_baggage =
            |party: &crate::record::Party| party.workload.is_none() && party.baggage.is_some();
        if from_baggage(&connection.source) || from_baggage(&connection.destination) {
            return self.look_up(connection);
        }
        let key = Key {
            families: Arc::downgrade(self),
            reporter: connection.reporter,
            mutual_tls: connection.mutual_tls,
            source: connection.source.workload.clone(),
            source_identity: connection.source.identity.clone(),
            destination: connection.destination.workload.clone(),
            destination_identity: connection.destination.identity.clone(),
            service: connection.service.clone(),
        };
        CACHE.with_borrow_mut(|cache| {
            if let Some(handles) = cache.get(&key) {
                return handles.clone();
            }
            // Entries outlive their workloads; starting over now and then is the cheapest cure.
            if cache.len() >= CACHED {
                cache.clear();
            }
            cache.entry(key).or_insert(self.look_up(connection)).clone()
        })
    }

    fn look_up(&self, connection: &Connection) -> Arc<Handles> {
        let labels = Labels::of(connection);
        Arc::new(Handles {
            opened: self.opened.get_or_create_owned(&labels),
            closed: OnceLock::new(),
            received_bytes: self.received_bytes.get_or_create_owned(&labels),
            sent_bytes: self.sent_bytes.get_or_create_owned(&labels),
            closed_labels: Some(labels.clone()),
            labels,
        })
    }

    /// The same for a connection with something different about its labels, which nobody remembers.
    fn look_up_changed(&self, connection: &Connection, changes: &Changes<'_>) -> Arc<Handles> {
        let labels = Labels::of(connection);
        // What is not counted is counted where nobody sees it.
        let counter = |metric, family: &Family<Labels, Counter>| match changes(metric) {
            Some(changes) => family.get_or_create_owned(&labels.changed(changes)),
            None => Counter::default(),
        };
        Arc::new(Handles {
            opened: counter(Metric::Opened, &self.opened),
            closed: OnceLock::new(),
            received_bytes: counter(Metric::ReceivedBytes, &self.received_bytes),
            sent_bytes: counter(Metric::SentBytes, &self.sent_bytes),
            closed_labels: changes(Metric::Closed).map(|changes| labels.changed(changes)),
            labels,
        })
    }
}

/// Writes the byte families, after counting what open connections have moved.
#[derive(Debug)]
struct ByteFamilies(Arc<Families>);

impl Collector for ByteFamilies {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        self.0.live.settle_all();
        let mut write = |name: &str, help: &str, family: &Family<Labels, Counter>| {
            let family_type: MetricType = <Family<Labels, Counter> as TypedMetric>::TYPE;
            family.encode(encoder.encode_descriptor(name, help, None, family_type)?)
        };
        let help = "The total number of bytes received during a TCP connection";
        write("istio_tcp_received_bytes", help, &self.0.received_bytes)?;
        let help = "The total number of bytes sent during a TCP connection";
        write("istio_tcp_sent_bytes", help, &self.0.sent_bytes)
    }
}
