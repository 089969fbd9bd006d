//! `Telemetry`: access logs, metrics and traces of requests.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::resource;
use crate::selector::{PolicyTargetReference, WorkloadSelector};

resource! {
    /// What is told about traffic.
    Telemetry { spec: TelemetrySpec, group: super::GROUP, version: "v1", plural: "telemetries" }
}

/// What is told about the traffic of some workloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.selector), has(self.targetRef), has(self.targetRefs)].filter(x, x).size() <= 1",
    "message": "at most one of selector, targetRef and targetRefs can be set"
}]))]
pub struct TelemetrySpec {
    /// Gateway pods that it applies to. Waypoints need targets instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The object that it applies to. `targetRefs` replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTargetReference>,
    /// Objects that it applies to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Traces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracing: Vec<Tracing>,
    /// Metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metrics>,
    /// Access logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_logging: Vec<AccessLogging>,
}

/// A provider of `meshConfig.extensionProviders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct ProviderRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The side of a connection that something is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Match {
    /// Both without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["CLIENT_AND_SERVER", "CLIENT", "SERVER"]))]
    pub mode: Option<String>,
}

/// Traces of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// The side that it is for.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
    /// Where spans go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderRef>,
    /// How many of a hundred requests without a decision are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub random_sampling_percentage: Option<f64>,
    /// Spans are not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_span_reporting: Option<bool>,
    /// More tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Spans tell of the workloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_istio_tags: Option<bool>,
    /// `x-request-id` takes part in the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Backends are not told of the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_context_propagation: Option<bool>,
}

/// A tag of spans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("oneOf" = [
    {"not": {"anyOf": [
        {"required": ["literal"]},
        {"required": ["environment"]},
        {"required": ["header"]},
        {"required": ["formatter"]}
    ]}},
    {"required": ["literal"]},
    {"required": ["environment"]},
    {"required": ["header"]},
    {"required": ["formatter"]}
]))]
pub struct CustomTag {
    /// Always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<Literal>,
    /// From the proxy's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<WithDefault>,
    /// A header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<WithDefault>,
    /// In the words of the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatter: Option<Formatter>,
}

/// A value that is always the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["value"]))]
pub struct Literal {
    /// The value.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// A value that is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct WithDefault {
    /// Under this name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_value: String,
}

/// A value in the words of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["value"]))]
pub struct Formatter {
    /// Such as `%REQ(:METHOD)%`.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// Changes of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// Who is told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderRef>,
    /// What is different.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<MetricOverride>,
    /// How often open connections are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub reporting_interval: Option<String>,
}

/// What is different about some metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricOverride {
    /// The metrics; all without.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<MetricSelector>,
    /// They are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Their labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Some metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = [
    {"not": {"anyOf": [{"required": ["metric"]}, {"required": ["customMetric"]}]}},
    {"required": ["metric"]},
    {"required": ["customMetric"]}
]))]
pub struct MetricSelector {
    /// One of Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [
        "ALL_METRICS", "REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE",
        "TCP_OPENED_CONNECTIONS", "TCP_CLOSED_CONNECTIONS", "TCP_SENT_BYTES", "TCP_RECEIVED_BYTES",
        "GRPC_REQUEST_MESSAGES", "GRPC_RESPONSE_MESSAGES"
    ]))]
    pub metric: Option<String>,
    /// By its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub custom_metric: Option<String>,
    /// The side that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["CLIENT_AND_SERVER", "CLIENT", "SERVER"]))]
    pub mode: Option<String>,
}

/// A label, put in or taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.operation) || self.operation != 'UPSERT' || (has(self.value) && self.value != '')",
        "message": "UPSERT needs a value"
    },
    {
        "rule": "!has(self.operation) || self.operation != 'REMOVE' || !has(self.value)",
        "message": "REMOVE takes no value"
    }
]))]
pub struct TagOverride {
    /// `UPSERT` without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["UPSERT", "REMOVE"]))]
    pub operation: Option<String>,
    /// An expression of CEL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Access logs of requests and connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AccessLogging {
    /// The side that it is for.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
    /// Where lines go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderRef>,
    /// Nothing is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// What is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// Which requests and connections are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Filter {
    /// Those of which this expression of CEL is true.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expression: String,
}
