//! What is told about requests and connections, ready for use: formats taken apart, expressions read,
//! and for every service the one that holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ambit_model::Text;
use ambit_model::access::Attachment;
use ambit_model::service::NamespacedHostname;
use ambit_model::telemetry::{
    self, Collector, Effective, Log as ModelLog, Metric, MetricChange, Tag as ModelTag, Telemetry,
    Traced, Viewpoint,
};
use ambit_proxy_core::metrics::LabelChanges;

use crate::access_log::{Format, Piece, pieces};
use crate::expression::{Expression, Known};

/// The environment of the process, which tags may name parts of.
pub(crate) type Environment = BTreeMap<String, String>;

/// What is told about some traffic.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    pub(crate) logs: Vec<Log>,
    pub(crate) tracing: Option<Tracing>,
    metrics: BTreeMap<Metric, MetricRule>,
}

/// An access log.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: Text,
    pub(crate) format: Format,
    filter: Option<Expression>,
    /// Who gets it; standard output without.
    pub(crate) collector: Option<Arc<Collector>>,
}

/// How requests are traced.
#[derive(Debug)]
pub(crate) struct Tracing {
    pub(crate) traced: Traced,
    pub(crate) collector: Arc<Collector>,
    pub(crate) tags: Vec<(String, Tag)>,
}

/// A tag of spans.
#[derive(Debug)]
pub(crate) enum Tag {
    Text(String),
    /// The header, or else the text.
    Header(String, String),
    Format(Vec<Piece>),
}

/// What is different about a family of metrics.
#[derive(Debug)]
struct MetricRule {
    disabled: bool,
    labels: Vec<(Text, Option<Expression>)>,
}

impl Log {
    fn new(log: ModelLog) -> Option<Self> {
        let provider = log.provider;
        let filter = log.filter.map(|text| Expression::new(&text)).transpose();
        let filter = filter
            .inspect_err(|e| tracing::warn!("access log {} is off: {e}", provider.name))
            .ok()?;
        Some(Self {
            format: Format::new(&provider.format),
            collector: provider.collector.map(Arc::new),
            name: provider.name,
            filter,
        })
    }

    /// Whether something is written.
    pub(crate) fn takes(&self, known: Known<'_>) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.is_true(known))
    }
}

impl Tracing {
    fn new(traced: Traced, environment: &Environment) -> Self {
        let tag = |tag: &ModelTag| match tag {
            ModelTag::Literal(text) => Tag::Text(text.to_string()),
            ModelTag::Environment(name, other) => {
                let value = environment.get(&**name).cloned();
                Tag::Text(value.unwrap_or_else(|| other.to_string()))
            }
            ModelTag::Header(name, other) => Tag::Header(name.to_string(), other.to_string()),
            ModelTag::Format(text) => Tag::Format(pieces(text)),
        };
        let tags = traced.tags.iter();
        Self {
            tags: tags.map(|(name, t)| (name.to_string(), tag(t))).collect(),
            collector: Arc::new(traced.provider.collector.clone()),
            traced,
        }
    }
}

impl MetricRule {
    fn new(change: MetricChange) -> Self {
        let label = |(name, value): (Text, Option<Text>)| {
            let value = value.map(|text| Expression::new(&text)).transpose();
            let value = value.inspect_err(|e| tracing::warn!("label {name} stays as it is: {e}"));
            Some((name, value.ok()?))
        };
        Self {
            disabled: change.disabled,
            labels: change.labels.into_iter().filter_map(label).collect(),
        }
    }
}

impl Reporting {
    fn new(effective: Effective, environment: &Environment) -> Self {
        let metrics = effective.metrics.into_iter();
        Self {
            logs: effective.logs.into_iter().filter_map(Log::new).collect(),
            tracing: effective.tracing.map(|t| Tracing::new(t, environment)),
            metrics: metrics.map(|(m, c)| (m, MetricRule::new(c))).collect(),
        }
    }

    /// Whether a request must be remembered until its end, if it leaves no span.
    pub(crate) fn remembers(&self) -> bool {
        !self.logs.is_empty() || !self.metrics.is_empty()
    }

    /// Whether something is different about the metrics.
    pub(crate) fn changes_metrics(&self) -> bool {
        !self.metrics.is_empty()
    }

    /// What is different about the labels of a family; `None` if it is not counted.
    pub(crate) fn labels(&self, metric: Metric, known: Known<'_>) -> Option<LabelChanges> {
        let Some(rule) = self.metrics.get(&metric) else {
            return Some(LabelChanges::new());
        };
        let value = |expression: &Expression| match expression.text(known) {
            Some(text) => text.into(),
            None => "unknown".into(),
        };
        let label = |(name, expression): &(Text, Option<Expression>)| {
            (name.clone(), expression.as_ref().map(value))
        };
        (!rule.disabled).then(|| rule.labels.iter().map(label).collect())
    }
}

/// What is told, by service: few differ from the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports {
    all: BTreeMap<Text, Arc<Telemetry>>,
    general: Arc<Reporting>,
    by_namespace: HashMap<Text, Arc<Reporting>>,
    by_service: HashMap<NamespacedHostname, Arc<Reporting>>,
}

impl Reports {
    /// What is told about traffic to a service, or to none.
    pub(crate) fn of(&self, service: Option<&ambit_model::Service>) -> &Arc<Reporting> {
        let Some(service) = service else {
            return &self.general;
        };
        let of_service = || match self.by_service.is_empty() {
            true => None,
            false => self.by_service.get(&service.key()),
        };
        of_service()
            .or_else(|| self.by_namespace.get(&service.namespace))
            .unwrap_or(&self.general)
    }

    /// All objects.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Telemetry>> {
        self.all.values()
    }

    /// Takes objects in and out.
    pub(crate) fn change(
        &mut self,
        set: Vec<Telemetry>,
        removed: Vec<String>,
        gateway: &(Text, Text),
        class: &str,
        environment: &Environment,
    ) {
        for object in set {
            self.all.insert(object.key(), Arc::new(object));
        }
        for key in removed {
            self.all.remove(&*key);
        }
        let seen = |service: Option<&NamespacedHostname>| {
            let viewpoint = Viewpoint {
                gateway: (&gateway.0, &gateway.1),
                class,
                service,
            };
            let objects = self.all.values().map(Arc::as_ref);
            let effective = telemetry::effective(objects, viewpoint);
            Arc::new(Reporting::new(effective, environment))
        };
        let general = seen(None);
        let mut by_namespace = HashMap::new();
        let mut by_service = HashMap::new();
        for object in self.all.values() {
            if object.attachments.is_empty() && !object.namespace.is_empty() {
                let any = NamespacedHostname::new(object.namespace.clone(), "");
                by_namespace.insert(object.namespace.clone(), seen(Some(&any)));
            }
            for attachment in &object.attachments {
                if let Attachment::Service(service) = attachment {
                    by_service.insert(service.clone(), seen(Some(service)));
                }
            }
        }
        (self.general, self.by_namespace, self.by_service) = (general, by_namespace, by_service);
    }
}
