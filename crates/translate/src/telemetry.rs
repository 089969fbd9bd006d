//! `Telemetry` and the mesh configuration → [`Telemetry`](model::Telemetry).
//!
//! An entry that cannot be understood is found and left out: what was said before it holds. Entries
//! for clients alone say nothing to waypoints, which are servers.

use std::collections::BTreeMap;

use ambit_kube_api::selector::PolicyTargetReference;
use ambit_kube_api::telemetry::{
    AccessLogging, CustomTag, MetricOverride as ApiOverride, MetricSelector, Metrics, ProviderRef,
    Telemetry, TelemetrySpec, Tracing as ApiTracing,
};
use ambit_model::Text;
use ambit_model::telemetry::{self as model, Logging, Metric, MetricOverride, Share, Tag, Tracing};

use crate::findings::{Code, Finding};
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::mesh::Mesh;
use crate::policies::attachments;

/// What is known about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    created: i64,
    spec: TelemetrySpec,
}

/// An object as it is sent to waypoints, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryTranslation {
    /// What is sent, if anything.
    pub telemetry: Option<model::Telemetry>,
    /// What is to be said.
    pub findings: Vec<Finding>,
}

impl TelemetryFacts {
    /// The facts about an object.
    pub fn of(object: &Telemetry) -> Self {
        let created = object.metadata.creation_timestamp.as_ref();
        Self {
            key: ObjectKey::of(object),
            labels: labels_from(object.metadata.labels.as_ref()),
            created: created.map_or(0, |time| time.0.as_second()),
            spec: object.spec.clone(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.spec.target_ref.iter().chain(&self.spec.target_refs)
    }
}

/// What the mesh configuration says, as an object of its own.
pub fn of_mesh(mesh: &Mesh) -> model::Telemetry {
    let logging = Logging {
        providers: mesh.logs.clone(),
        ..Logging::default()
    };
    model::Telemetry {
        namespace: "".into(),
        name: "mesh".into(),
        created: 0,
        root: true,
        attachments: Vec::new(),
        logs: vec![logging],
        tracing: vec![mesh.tracing.clone()],
        metrics: Vec::new(),
    }
}

/// The object as it is sent to waypoints.
pub fn translate(mesh: &Mesh, facts: &TelemetryFacts) -> TelemetryTranslation {
    let mut reader = Reader {
        mesh,
        findings: Vec::new(),
    };
    let spec = &facts.spec;
    let namespace = &facts.key.namespace;
    let attachments = attachments(mesh, namespace, facts.targets(), &mut reader.findings);
    // Targets of which none can be one are not the same as none.
    let nowhere = attachments.is_empty() && facts.targets().next().is_some();
    if spec.selector.is_some() {
        let message = "it is for the pods of gateways; waypoints need targetRefs";
        reader.find(Code::NotEnforced, "spec.selector", message);
    }
    let telemetry = model::Telemetry {
        namespace: namespace.clone(),
        name: facts.key.name.clone(),
        created: facts.created,
        root: *namespace == mesh.root_namespace,
        attachments,
        logs: entries(&spec.access_logging, |i, api| reader.logging(i, api)),
        tracing: entries(&spec.tracing, |i, api| reader.tracing(i, api)),
        metrics: entries(&spec.metrics, |i, api| Some(reader.metrics(i, api)))
            .into_iter()
            .flatten()
            .collect(),
    };
    TelemetryTranslation {
        telemetry: (!nowhere && spec.selector.is_none()).then_some(telemetry),
        findings: reader.findings,
    }
}

/// A percentage in ten-thousandths.
pub fn share(percentage: f64) -> Share {
    let hundredths = (percentage * 100.0).round();
    // The conversion keeps what is out of range within it.
    (hundredths as Share).min(model::ALL)
}

fn entries<A, T>(list: &[A], mut read: impl FnMut(usize, &A) -> Option<T>) -> Vec<T> {
    let numbered = list.iter().enumerate();
    numbered.filter_map(|(i, api)| read(i, api)).collect()
}

fn is_for_servers(mode: Option<&String>) -> bool {
    mode.is_none_or(|mode| mode != "CLIENT")
}

struct Reader<'a> {
    mesh: &'a Mesh,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn find(&mut self, code: Code, field: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding::new(code, field, message));
    }

    fn logging(&mut self, index: usize, api: &AccessLogging) -> Option<Logging> {
        let field = format!("spec.accessLogging[{index}]");
        if !is_for_servers(api.matches.as_ref().and_then(|m| m.mode.as_ref())) {
            return None;
        }
        let mesh = self.mesh;
        let providers = self.named(&field, &api.providers, |name| mesh.providers.log(name))?;
        let filter = api.filter.as_ref().map(|filter| filter.expression.as_str());
        let filter = filter.filter(|text| !text.is_empty());
        if let Some(text) = filter {
            self.expression(&format!("{field}.filter.expression"), text)?;
        }
        Some(Logging {
            providers,
            disabled: api.disabled.unwrap_or(false),
            filter: filter.map(Text::from),
        })
    }

    /// The providers of these names; `None` if some are named, and none of them can be used.
    fn named<'p, T: Clone + 'p>(
        &mut self,
        field: &str,
        names: &[ProviderRef],
        find: impl Fn(&str) -> Option<&'p T>,
    ) -> Option<Vec<T>> {
        let mut providers = Vec::new();
        for name in names {
            match find(&name.name) {
                Some(provider) => providers.push(provider.clone()),
                None => {
                    let message = format!("no provider that could do it is called {:?}", name.name);
                    self.find(Code::UnknownProvider, format!("{field}.providers"), message);
                }
            }
        }
        (names.is_empty() || !providers.is_empty()).then_some(providers)
    }

    fn expression(&mut self, field: &str, text: &str) -> Option<()> {
        match cel::Program::compile(text) {
            Ok(_) => Some(()),
            Err(e) => {
                let why = e.to_string();
                let line = why.lines().next().unwrap_or_default();
                let message = format!("{text:?} is no expression of CEL: {line}");
                self.find(Code::InvalidExpression, field, message);
                None
            }
        }
    }

    fn tracing(&mut self, index: usize, api: &ApiTracing) -> Option<Tracing> {
        let field = format!("spec.tracing[{index}]");
        if !is_for_servers(api.matches.as_ref().and_then(|m| m.mode.as_ref())) {
            return None;
        }
        let mesh = self.mesh;
        let providers = self.named(&field, &api.providers, |name| mesh.providers.trace(name))?;
        let tags = api.custom_tags.iter();
        Some(Tracing {
            provider: providers.into_iter().next(),
            sampling: api.random_sampling_percentage.map(share),
            no_spans: api.disable_span_reporting,
            no_propagation: api.disable_context_propagation,
            mesh_tags: api.enable_istio_tags,
            by_request_id: api.use_request_id_for_trace_sampling,
            tags: tags
                .filter_map(|(name, api)| Some((name.as_str().into(), tag(api)?)))
                .collect(),
        })
    }

    fn metrics(&mut self, index: usize, api: &Metrics) -> Vec<MetricOverride> {
        let mut names = api.providers.iter();
        let is_for_us = api.providers.is_empty()
            || names.any(|provider| self.mesh.providers.is_prometheus(&provider.name));
        if !is_for_us {
            let field = format!("spec.metrics[{index}].providers");
            let message = "none of them fetches metrics; Prometheus does";
            self.find(Code::UnknownProvider, field, message);
            return Vec::new();
        }
        entries(&api.overrides, |i, api| {
            self.metric_override(&format!("spec.metrics[{index}].overrides[{i}]"), api)
        })
    }

    fn metric_override(&mut self, field: &str, api: &ApiOverride) -> Option<MetricOverride> {
        let selector = api.matches.as_ref();
        if !is_for_servers(selector.and_then(|m| m.mode.as_ref())) {
            return None;
        }
        let Some(metrics) = metrics_of(selector) else {
            let message = "no metric of the mesh has that name";
            self.find(Code::UnknownAttribute, format!("{field}.match"), message);
            return None;
        };
        let mut labels = BTreeMap::new();
        for (name, change) in &api.tag_overrides {
            let value = change.value.as_deref().unwrap_or_default();
            let at = format!("{field}.tagOverrides[{name}]");
            let label = match change.operation.as_deref() {
                Some("REMOVE") => None,
                _ if !is_label(name) => {
                    self.find(Code::InvalidValue, at, "it is no name of a label");
                    continue;
                }
                _ if self.expression(&at, value).is_none() => continue,
                _ => Some(value.into()),
            };
            labels.insert(name.as_str().into(), label);
        }
        Some(MetricOverride {
            metrics,
            disabled: api.disabled,
            labels,
        })
    }
}

/// A name that Prometheus takes for a label.
fn is_label(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(good) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn tag(api: &CustomTag) -> Option<Tag> {
    let text = |text: &str| Text::from(text);
    if let Some(literal) = &api.literal {
        return Some(Tag::Literal(text(&literal.value)));
    }
    if let Some(of) = &api.environment {
        return Some(Tag::Environment(text(&of.name), text(&of.default_value)));
    }
    if let Some(of) = &api.header {
        let name = of.name.to_ascii_lowercase();
        return Some(Tag::Header(text(&name), text(&of.default_value)));
    }
    let formatter = api.formatter.as_ref()?;
    Some(Tag::Format(text(&formatter.value)))
}

/// The families that a selector is about; `None` for a name that none has.
fn metrics_of(selector: Option<&MetricSelector>) -> Option<Vec<Metric>> {
    let Some(selector) = selector else {
        return Some(Metric::ALL.into());
    };
    if let Some(name) = &selector.custom_metric {
        let short = name.strip_prefix("istio_").unwrap_or(name);
        let found = NAMES.iter().find(|(_, other, _)| *other == short);
        return found.map(|(_, _, metric)| vec![*metric]);
    }
    match selector.metric.as_deref() {
        None | Some("ALL_METRICS") => Some(Metric::ALL.into()),
        Some(name) => {
            let found = NAMES.iter().find(|(other, ..)| *other == name);
            found.map(|(_, _, metric)| vec![*metric])
        }
    }
}

/// Metrics as `Telemetry` calls them, and as they are called on the page.
const NAMES: [(&str, &str, Metric); 10] = [
    ("REQUEST_COUNT", "requests_total", Metric::Requests),
    (
        "REQUEST_DURATION",
        "request_duration_milliseconds",
        Metric::Duration,
    ),
    ("REQUEST_SIZE", "request_bytes", Metric::RequestBytes),
    ("RESPONSE_SIZE", "response_bytes", Metric::ResponseBytes),
    (
        "GRPC_REQUEST_MESSAGES",
        "request_messages_total",
        Metric::RequestMessages,
    ),
    (
        "GRPC_RESPONSE_MESSAGES",
        "response_messages_total",
        Metric::ResponseMessages,
    ),
    (
        "TCP_OPENED_CONNECTIONS",
        "tcp_connections_opened_total",
        Metric::Opened,
    ),
    (
        "TCP_CLOSED_CONNECTIONS",
        "tcp_connections_closed_total",
        Metric::Closed,
    ),
    ("TCP_SENT_BYTES", "tcp_sent_bytes_total", Metric::SentBytes),
    (
        "TCP_RECEIVED_BYTES",
        "tcp_received_bytes_total",
        Metric::ReceivedBytes,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers;
    use ambit_model::access::Attachment;
    use serde_json::{Value, json};

    fn mesh() -> Mesh {
        let collector = json!({"service": "c.o.svc.cluster.local", "port": 4317});
        let list = json!([
            {"name": "file", "envoyFileAccessLog": {"path": "/dev/stdout"}},
            {"name": "als", "envoyOtelAls": collector},
            {"name": "otel", "opentelemetry": collector},
            {"name": "sd", "stackdriver": {}},
        ]);
        Mesh {
            providers: providers::parse(list.as_array().unwrap(), |_, why| panic!("{why}")),
            ..Mesh::default()
        }
    }

    fn translated(namespace: &str, spec: Value) -> (Option<model::Telemetry>, Vec<Code>) {
        let object: Telemetry = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": "t"}, "spec": spec,
        }))
        .unwrap();
        let translation = translate(&mesh(), &TelemetryFacts::of(&object));
        let codes = translation.findings.iter().map(|f| f.code).collect();
        (translation.telemetry, codes)
    }

    #[test]
    fn access_logs() {
        let (telemetry, codes) = translated(
            "shop",
            json!({"accessLogging": [
                {"providers": [{"name": "file"}, {"name": "als"}],
                 "filter": {"expression": "response.code >= 400"}},
                {"match": {"mode": "CLIENT"}, "disabled": true},
                {"match": {"mode": "SERVER"}, "disabled": true},
            ]}),
        );
        assert_eq!(codes, []);
        let logs = telemetry.unwrap().logs;
        assert_eq!(logs.len(), 2);
        assert_eq!(logs[0].providers.len(), 2);
        assert_eq!(logs[0].filter, Some("response.code >= 400".into()));
        assert!(logs[1].disabled && logs[1].providers.is_empty());
    }

    /// What cannot be understood is left out, and the rest holds.
    #[test]
    fn bad_entries_are_found() {
        for (spec, code, left) in [
            (
                json!([{"providers": [{"name": "no"}]}, {}]),
                Code::UnknownProvider,
                1,
            ),
            (
                json!([{"providers": [{"name": "no"}, {"name": "file"}]}]),
                Code::UnknownProvider,
                1,
            ),
            (
                json!([{"providers": [{"name": "otel"}]}]),
                Code::UnknownProvider,
                0,
            ),
            (
                json!([{"filter": {"expression": "a =="}}]),
                Code::InvalidExpression,
                0,
            ),
        ] {
            let (telemetry, codes) = translated("shop", json!({"accessLogging": spec}));
            assert_eq!(codes, [code], "{spec}");
            assert_eq!(telemetry.unwrap().logs.len(), left, "{spec}");
        }
        let (telemetry, codes) = translated(
            "shop",
            json!({"metrics": [
                {"providers": [{"name": "sd"}], "overrides": [{"disabled": true}]},
                {"overrides": [
                    {"match": {"customMetric": "my_own"}},
                    {"tagOverrides": {"a-b": {"value": "'x'"}, "ok": {"value": "("}}},
                ]},
            ]}),
        );
        let wanted = [
            Code::UnknownProvider,
            Code::UnknownAttribute,
            Code::InvalidValue,
            Code::InvalidExpression,
        ];
        assert_eq!(codes, wanted);
        assert_eq!(telemetry.unwrap().metrics[0].labels, BTreeMap::new());
    }

    #[test]
    fn traces() {
        let (telemetry, codes) = translated(
            "istio-system",
            json!({"tracing": [{
                "providers": [{"name": "otel"}], "randomSamplingPercentage": 12.34,
                "disableSpanReporting": true, "enableIstioTags": false,
                "customTags": {
                    "a": {"literal": {"value": "x"}},
                    "b": {"environment": {"name": "POD", "defaultValue": "none"}},
                    "c": {"header": {"name": "X-User"}},
                    "d": {"formatter": {"value": "%PROTOCOL%"}},
                    "e": {},
                },
            }]}),
        );
        assert_eq!(codes, []);
        let telemetry = telemetry.unwrap();
        assert!(telemetry.root);
        let tracing = &telemetry.tracing[0];
        assert_eq!(tracing.sampling, Some(1234));
        let said = (tracing.no_spans, tracing.mesh_tags, tracing.by_request_id);
        assert_eq!(said, (Some(true), Some(false), None));
        let tags: Vec<_> = tracing.tags.values().cloned().collect();
        let wanted = [
            Tag::Literal("x".into()),
            Tag::Environment("POD".into(), "none".into()),
            Tag::Header("x-user".into(), "".into()),
            Tag::Format("%PROTOCOL%".into()),
        ];
        assert_eq!(tags, wanted);
        assert_eq!(
            [share(-1.0), share(f64::NAN), share(1e9)],
            [0, 0, model::ALL]
        );
    }

    #[test]
    fn metrics() {
        let (telemetry, codes) = translated(
            "shop",
            json!({"metrics": [{
                "providers": [{"name": "prometheus"}],
                "overrides": [
                    {"match": {"metric": "REQUEST_COUNT", "mode": "CLIENT"}, "disabled": true},
                    {"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {
                        "host": {"value": "request.host"}, "source_app": {"operation": "REMOVE"},
                    }},
                    {"match": {"customMetric": "istio_request_bytes"}, "disabled": true},
                    {"disabled": false},
                ],
            }]}),
        );
        assert_eq!(codes, []);
        let metrics = telemetry.unwrap().metrics;
        assert_eq!(metrics.len(), 3);
        let labels = [
            ("host".into(), Some("request.host".into())),
            ("source_app".into(), None),
        ];
        assert_eq!(metrics[0].labels, labels.into());
        assert_eq!(metrics[1].metrics, [Metric::RequestBytes]);
        assert_eq!(metrics[2].metrics, Metric::ALL);
    }

    #[test]
    fn where_it_holds() {
        let target = |kind: &str| json!({"targetRefs": [{"kind": kind, "name": "cart"}]});
        let (telemetry, codes) = translated("shop", target("Service"));
        assert_eq!(codes, []);
        assert!(matches!(
            telemetry.unwrap().attachments[..],
            [Attachment::Service(_)]
        ));
        let (telemetry, codes) = translated("shop", target("Pod"));
        assert_eq!((telemetry, codes), (None, vec![Code::InvalidTarget]));
        let (telemetry, codes) = translated("shop", json!({"selector": {"matchLabels": {}}}));
        assert_eq!((telemetry, codes), (None, vec![Code::NotEnforced]));
    }
}
