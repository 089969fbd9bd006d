//! What is told about requests and connections: access logs, traces, labels of metrics; and how what
//! several objects say about the same traffic comes together.
//!
//! Objects are asked from the general to the special: the mesh configuration, the root namespace, the
//! waypoint's namespace, the service's namespace, then what is attached to the class, to the gateway
//! and to the service. Of each level the oldest object holds. What is more special goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Text;
use crate::access::Attachment;
use crate::service::NamespacedHostname;

/// A share of requests, in ten-thousandths.
pub type Share = u32;

/// All requests.
pub const ALL: Share = 10_000;

/// What one object says (`Telemetry` of `telemetry.istio.io`, or the mesh configuration).
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Namespace of the object; empty for the mesh configuration.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// It holds for all namespaces.
    pub root: bool,
    /// What it is attached to; without any it holds for its namespace.
    pub attachments: Vec<Attachment>,
    /// Access logs.
    pub logs: Vec<Logging>,
    /// Traces.
    pub tracing: Vec<Tracing>,
    /// Labels of metrics, and which are counted.
    pub metrics: Vec<MetricOverride>,
}

/// What is said about access logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Where lines go; without any, where they went before.
    pub providers: Vec<LogProvider>,
    /// Nothing is written there.
    pub disabled: bool,
    /// An expression of CEL that must be true of what is written.
    pub filter: Option<Text>,
}

/// A provider of access logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogProvider {
    /// Its name in the mesh configuration.
    pub name: Text,
    /// How a line looks.
    pub format: LogFormat,
    /// Who gets it, over OTLP; standard output without.
    pub collector: Option<Collector>,
}

/// How a line of an access log looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// A line of text; empty for Istio's own.
    Text(Text),
    /// An object of JSON: keys, and what stands there; empty for Istio's own.
    Json(Vec<(Text, Text)>),
}

/// Who collects what is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// The service.
    pub service: NamespacedHostname,
    /// Its port.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How it is told.
    pub protocol: CollectorProtocol,
    /// Headers that are sent along, or metadata of the call.
    pub headers: Vec<(Text, Text)>,
}

/// How a collector is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CollectorProtocol {
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP over HTTP, at this path.
    OtlpHttp(Text),
    /// Zipkin's JSON of version 2, at this path.
    Zipkin(Text),
}

/// What is said about traces. What is not said stays as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracing {
    /// Where spans go.
    pub provider: Option<TraceProvider>,
    /// How many requests without a decision are traced.
    pub sampling: Option<Share>,
    /// Spans are not sent.
    pub no_spans: Option<bool>,
    /// Backends are not told.
    pub no_propagation: Option<bool>,
    /// Spans tell of the workloads.
    pub mesh_tags: Option<bool>,
    /// The identifier of a request takes part in the decision.
    pub by_request_id: Option<bool>,
    /// More tags.
    pub tags: BTreeMap<Text, Tag>,
}

/// A provider of traces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceProvider {
    /// Its name in the mesh configuration.
    pub name: Text,
    /// Who gets the spans.
    pub collector: Collector,
    /// How backends are told of the trace.
    pub context: Context,
    /// Longest value of the tag with the path, in characters.
    pub max_tag_length: u32,
}

/// In which headers a trace is carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// `traceparent` and `tracestate` (W3C).
    W3c,
    /// `x-b3-…` (Zipkin).
    B3,
    /// Both, read in this order: B3, W3C.
    B3AndW3c,
}

/// A tag of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Always this.
    Literal(Text),
    /// A variable of the proxy's environment, or else a value of its own.
    Environment(Text, Text),
    /// A header of the request, or else a value of its own.
    Header(Text, Text),
    /// In the words of the access log.
    Format(Text),
}

/// A change of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricOverride {
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// Whether they are counted; as before without.
    pub disabled: Option<bool>,
    /// Labels with an expression of CEL for their values, or those that are left out.
    pub labels: BTreeMap<Text, Option<Text>>,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// `istio_requests_total`.
    Requests,
    /// `istio_request_duration_milliseconds`.
    Duration,
    /// `istio_request_bytes`.
    RequestBytes,
    /// `istio_response_bytes`.
    ResponseBytes,
    /// `istio_request_messages_total`.
    RequestMessages,
    /// `istio_response_messages_total`.
    ResponseMessages,
    /// `istio_tcp_connections_opened_total`.
    Opened,
    /// `istio_tcp_connections_closed_total`.
    Closed,
    /// `istio_tcp_sent_bytes_total`.
    SentBytes,
    /// `istio_tcp_received_bytes_total`.
    ReceivedBytes,
}

impl Metric {
    /// All of them, in the order of their numbers on the wire.
    pub const ALL: [Metric; 10] = [
        Metric::Requests,
        Metric::Duration,
        Metric::RequestBytes,
        Metric::ResponseBytes,
        Metric::RequestMessages,
        Metric::ResponseMessages,
        Metric::Opened,
        Metric::Closed,
        Metric::SentBytes,
        Metric::ReceivedBytes,
    ];
}

impl Telemetry {
    /// The key of the object, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }
}

/// Whose traffic is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Viewpoint<'a> {
    /// Namespace and name of the gateway that traffic goes through.
    pub gateway: (&'a Text, &'a Text),
    /// Its class.
    pub class: &'a str,
    /// The service that the traffic is for, if it is known.
    pub service: Option<&'a NamespacedHostname>,
}

/// What holds for some traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// Access logs.
    pub logs: Vec<Log>,
    /// Traces.
    pub tracing: Option<Traced>,
    /// Labels of metrics, by family.
    pub metrics: BTreeMap<Metric, MetricChange>,
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where lines go, and how they look.
    pub provider: LogProvider,
    /// An expression of CEL that must be true of what is written.
    pub filter: Option<Text>,
}

/// How requests are traced.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// Where spans go.
    pub provider: TraceProvider,
    /// How many requests without a decision are traced.
    pub sampling: Share,
    /// Spans are sent.
    pub spans: bool,
    /// Backends are told.
    pub propagate: bool,
    /// Spans tell of the workloads.
    pub mesh_tags: bool,
    /// The identifier of a request takes part in the decision.
    pub by_request_id: bool,
    /// More tags.
    pub tags: BTreeMap<Text, Tag>,
}

/// What is different about a family of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricChange {
    /// It is not counted.
    pub disabled: bool,
    /// Labels with an expression of CEL for their values, or those that are left out.
    pub labels: BTreeMap<Text, Option<Text>>,
}

/// Where an object stands among others, from the general to the special.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Mesh,
    Root,
    Gateway,
    Service,
    OnClass,
    OnGateway,
    OnService,
}

impl Viewpoint<'_> {
    /// The level that an object has for this traffic, if it holds for it.
    fn level(&self, object: &Telemetry) -> Option<Level> {
        if object.attachments.is_empty() {
            return match &object.namespace {
                _ if object.namespace.is_empty() => Some(Level::Mesh),
                _ if object.root => Some(Level::Root),
                namespace if namespace == self.gateway.0 => Some(Level::Gateway),
                namespace => {
                    let service = self.service?;
                    (service.namespace == *namespace).then_some(Level::Service)
                }
            };
        }
        let of = |attachment: &Attachment| match attachment {
            Attachment::Class(name) => (**name == *self.class).then_some(Level::OnClass),
            Attachment::Gateway(namespace, name) => {
                ((namespace, name) == self.gateway).then_some(Level::OnGateway)
            }
            Attachment::Service(service) => {
                (Some(service) == self.service).then_some(Level::OnService)
            }
        };
        object.attachments.iter().filter_map(of).max()
    }
}

/// What holds for some traffic, of all objects there are.
pub fn effective<'a>(
    objects: impl Iterator<Item = &'a Telemetry>,
    viewpoint: Viewpoint<'_>,
) -> Effective {
    let mut levels: BTreeMap<Level, &Telemetry> = BTreeMap::new();
    for object in objects {
        let Some(level) = viewpoint.level(object) else {
            continue;
        };
        let age = |object: &Telemetry| (object.created, object.key());
        let held = levels.entry(level).or_insert(object);
        if age(object) < age(held) {
            *held = object;
        }
    }
    let objects: Vec<&Telemetry> = levels.into_values().collect();
    Effective {
        logs: logs(&objects),
        tracing: traced(&objects),
        metrics: metrics(&objects),
    }
}

/// The last object that names providers decides where lines go; each provider has the filter that was
/// said last.
fn logs(objects: &[&Telemetry]) -> Vec<Log> {
    let all = || objects.iter().flat_map(|object| &object.logs);
    let named = all().filter(|logging| !logging.providers.is_empty());
    let Some(decides) = named.clone().next_back() else {
        return Vec::new();
    };
    let mut logs: Vec<(Log, bool)> = Vec::new();
    for provider in &decides.providers {
        let provider = provider.clone();
        let log = Log {
            provider,
            filter: None,
        };
        logs.push((log, true));
    }
    let mut before: &[LogProvider] = &[];
    for logging in all() {
        if !logging.providers.is_empty() {
            before = &logging.providers;
        }
        for (log, enabled) in &mut logs {
            if before.iter().any(|p| p.name == log.provider.name) {
                *enabled = !logging.disabled;
                log.filter.clone_from(&logging.filter);
            }
        }
    }
    let enabled = logs.into_iter().filter(|(_, enabled)| *enabled);
    enabled.map(|(log, _)| log).collect()
}

fn traced(objects: &[&Telemetry]) -> Option<Traced> {
    let mut all = Tracing::default();
    for tracing in objects.iter().flat_map(|object| &object.tracing) {
        fn take<T: Clone>(held: &mut Option<T>, said: &Option<T>) {
            if said.is_some() {
                held.clone_from(said);
            }
        }
        take(&mut all.provider, &tracing.provider);
        take(&mut all.sampling, &tracing.sampling);
        take(&mut all.no_spans, &tracing.no_spans);
        take(&mut all.no_propagation, &tracing.no_propagation);
        take(&mut all.mesh_tags, &tracing.mesh_tags);
        take(&mut all.by_request_id, &tracing.by_request_id);
        let tags = tracing.tags.iter().map(|(k, v)| (k.clone(), v.clone()));
        all.tags.extend(tags);
    }
    Some(Traced {
        provider: all.provider?,
        sampling: all.sampling.unwrap_or_default(),
        spans: !all.no_spans.unwrap_or(false),
        propagate: !all.no_propagation.unwrap_or(false),
        mesh_tags: all.mesh_tags.unwrap_or(true),
        by_request_id: all.by_request_id.unwrap_or(true),
        tags: all.tags,
    })
}

fn metrics(objects: &[&Telemetry]) -> BTreeMap<Metric, MetricChange> {
    let mut changes: BTreeMap<Metric, MetricChange> = BTreeMap::new();
    for change in objects.iter().flat_map(|object| &object.metrics) {
        for metric in &change.metrics {
            let held = changes.entry(*metric).or_default();
            held.disabled = change.disabled.unwrap_or(held.disabled);
            let labels = change.labels.iter().map(|(k, v)| (k.clone(), v.clone()));
            held.labels.extend(labels);
        }
    }
    changes.retain(|_, change| *change != MetricChange::default());
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(namespace: &str, name: &str, attachments: Vec<Attachment>) -> Telemetry {
        Telemetry {
            namespace: namespace.into(),
            name: name.into(),
            created: 1,
            root: namespace == "istio-system",
            attachments,
            logs: Vec::new(),
            tracing: Vec::new(),
            metrics: Vec::new(),
        }
    }

    fn provider(name: &str) -> LogProvider {
        LogProvider {
            name: name.into(),
            format: LogFormat::Text("".into()),
            collector: None,
        }
    }

    fn logging(providers: &[&str], disabled: bool, filter: Option<&str>) -> Logging {
        Logging {
            providers: providers.iter().map(|name| provider(name)).collect(),
            disabled,
            filter: filter.map(Text::from),
        }
    }

    fn seen(objects: &[Telemetry], service: Option<(&str, &str)>) -> Effective {
        let service = service.map(|(namespace, name)| NamespacedHostname::new(namespace, name));
        let viewpoint = Viewpoint {
            gateway: (&"shop".into(), &"waypoint".into()),
            class: "istio-waypoint",
            service: service.as_ref(),
        };
        effective(objects.iter(), viewpoint)
    }

    fn logs_of(objects: &[Telemetry], service: Option<(&str, &str)>) -> Vec<(String, String)> {
        let logs = seen(objects, service).logs.into_iter();
        let pair = |log: Log| {
            let filter = log.filter.map(|f| f.to_string());
            (log.provider.name.to_string(), filter.unwrap_or_default())
        };
        logs.map(pair).collect()
    }

    fn of(name: &str, filter: &str) -> (String, String) {
        (name.to_owned(), filter.to_owned())
    }

    #[test]
    fn the_special_goes_before_the_general() {
        let cart = Attachment::Service(NamespacedHostname::new("shop", "cart"));
        let gateway = Attachment::Gateway("shop".into(), "waypoint".into());
        let with = |mut object: Telemetry, filter| {
            object.logs = vec![logging(&[], false, Some(filter))];
            object
        };
        let mut mesh = object("", "mesh", vec![]);
        mesh.logs = vec![logging(&["file"], false, None)];
        let mut objects = vec![mesh];
        let mut check = |object: Telemetry, service, filter: &str| {
            objects.push(object);
            objects.reverse();
            assert_eq!(logs_of(&objects, service), [of("file", filter)]);
        };
        let cart_key = Some(("shop", "cart"));
        let outside = Some(("web", "front"));
        check(
            with(object("istio-system", "a", vec![]), "root"),
            cart_key,
            "root",
        );
        check(with(object("shop", "a", vec![]), "shop"), cart_key, "shop");
        check(with(object("web", "a", vec![]), "web"), outside, "web");
        check(
            with(object("web", "b", vec![]), "younger"),
            cart_key,
            "shop",
        );
        check(
            with(object("shop", "g", vec![gateway]), "gateway"),
            outside,
            "gateway",
        );
        check(
            with(object("shop", "s", vec![cart]), "cart"),
            cart_key,
            "cart",
        );
        check(object("other", "a", vec![]), None, "gateway");
    }

    #[test]
    fn of_two_objects_of_a_level_the_older_holds() {
        let mut old = object("shop", "z", vec![]);
        old.logs = vec![logging(&["a"], false, None)];
        let mut young = object("shop", "a", vec![]);
        young.created = 2;
        young.logs = vec![logging(&["b"], false, None)];
        assert_eq!(logs_of(&[young.clone(), old.clone()], None), [of("a", "")]);
        assert_eq!(logs_of(&[old, young], None), [of("a", "")]);
    }

    #[test]
    fn providers_are_replaced_and_filters_belong_to_them() {
        let mut mesh = object("", "mesh", vec![]);
        mesh.logs = vec![logging(&["file"], false, None)];
        let mut shop = object("shop", "a", vec![]);
        let check = |shop: &Telemetry, wanted: &[(String, String)]| {
            assert_eq!(logs_of(&[mesh.clone(), shop.clone()], None), wanted);
        };
        shop.logs = vec![logging(&[], true, None)];
        check(&shop, &[]);
        shop.logs = vec![logging(&["otel"], false, Some("x"))];
        check(&shop, &[of("otel", "x")]);
        shop.logs = vec![
            logging(&["file", "otel"], false, None),
            logging(&["file", "otel"], false, Some("both")),
        ];
        check(&shop, &[of("file", "both"), of("otel", "both")]);
        assert_eq!(logs_of(&[shop], None).len(), 2);
    }

    #[test]
    fn traces_and_metrics_are_joined_field_by_field() {
        let collector = Collector {
            service: NamespacedHostname::new("o", "collector"),
            port: 4317,
            timeout: Duration::from_secs(1),
            protocol: CollectorProtocol::OtlpGrpc,
            headers: Vec::new(),
        };
        let tag = |text: &str| Tag::Literal(text.into());
        let mut mesh = object("", "mesh", vec![]);
        mesh.tracing = vec![Tracing {
            sampling: Some(100),
            ..Tracing::default()
        }];
        assert_eq!(seen(&[mesh.clone()], None).tracing, None);
        mesh.tracing[0].provider = Some(TraceProvider {
            name: "otel".into(),
            collector,
            context: Context::W3c,
            max_tag_length: 256,
        });
        mesh.tracing[0].tags = [("a".into(), tag("1")), ("b".into(), tag("1"))].into();
        let mut shop = object("shop", "a", vec![]);
        shop.tracing = vec![Tracing {
            sampling: Some(ALL),
            no_spans: Some(true),
            tags: [("b".into(), tag("2"))].into(),
            ..Tracing::default()
        }];
        let change = |disabled, label: &str, value: Option<&str>| MetricOverride {
            metrics: vec![Metric::Requests],
            disabled,
            labels: [(label.into(), value.map(Text::from))].into(),
        };
        mesh.metrics = vec![change(Some(true), "a", Some("1"))];
        shop.metrics = vec![change(Some(false), "a", None)];
        let seen = seen(&[mesh, shop], None);
        let traced = seen.tracing.unwrap();
        assert_eq!(traced.sampling, ALL);
        assert!(!traced.spans && traced.propagate && traced.mesh_tags);
        let tags: Vec<_> = traced.tags.values().cloned().collect();
        assert_eq!(tags, [tag("1"), tag("2")]);
        let wanted = MetricChange {
            disabled: false,
            labels: [("a".into(), None)].into(),
        };
        assert_eq!(seen.metrics[&Metric::Requests], wanted);
    }
}
