//! `DestinationRule`: how endpoints of a service are chosen and spared.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::resource;
use crate::selector::WorkloadSelector;

resource! {
    /// How endpoints of a service are chosen and spared.
    DestinationRule { spec: DestinationRuleSpec, group: super::GROUP, version: "v1", plural: "destinationrules" }
}

/// The service, and what holds for traffic to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["host"]))]
pub struct DestinationRuleSpec {
    /// Name of the service.
    pub host: String,
    /// What holds for traffic to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of its endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// Namespaces that see it; all of them without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Client pods that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,
}

/// What holds for traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// How endpoints are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How much may be under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are left out for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS of connections to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// What holds for single ports instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// TCP within another protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// The PROXY protocol in front of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many requests may be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

/// What holds for one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortSelector>,
    /// How endpoints are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How much may be under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are left out for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS of connections to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// A port by its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PortSelector {
    /// The number.
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub number: u32,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = [
    {"not": {"anyOf": [
        {"required": ["simple"]},
        {"required": ["consistentHash"]},
        {"required": ["backendUtilization"]}
    ]}},
    {"required": ["simple"]},
    {"required": ["consistentHash"]},
    {"required": ["backendUtilization"]}
]))]
pub struct LoadBalancer {
    /// By a method of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [
        "UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"
    ]))]
    pub simple: Option<String>,
    /// The same for the same request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// By where endpoints are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// By the zones of endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// New endpoints get less at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// The same, as older versions of the API spelt it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub warmup_duration_secs: Option<String>,
    /// By what endpoints say about their load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_utilization: Option<BackendUtilization>,
}

/// What of a request decides, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("allOf" = [
    {"oneOf": [
        {"not": {"anyOf": [
            {"required": ["httpHeaderName"]},
            {"required": ["httpCookie"]},
            {"required": ["useSourceIp"]},
            {"required": ["httpQueryParameterName"]}
        ]}},
        {"required": ["httpHeaderName"]},
        {"required": ["httpCookie"]},
        {"required": ["useSourceIp"]},
        {"required": ["httpQueryParameterName"]}
    ]},
    {"oneOf": [
        {"not": {"anyOf": [{"required": ["ringHash"]}, {"required": ["maglev"]}]}},
        {"required": ["ringHash"]},
        {"required": ["maglev"]}
    ]}
]))]
pub struct ConsistentHash {
    /// A header.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http_header_name: String,
    /// A cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HttpCookie>,
    /// The client's address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_source_ip: bool,
    /// A parameter of the query.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http_query_parameter_name: String,
    /// By a ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// By Maglev.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maglev: Option<Maglev>,
    /// Places of a ring, as older versions of the API spelt it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub minimum_ring_size: Option<u64>,
}

/// A cookie that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct HttpCookie {
    /// Its name.
    pub name: String,
    /// Path that it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// How long it lives. Without, clients are given none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Further attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<CookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct CookieAttribute {
    /// Its name.
    pub name: String,
    /// Its value, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// A ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Places at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub minimum_ring_size: Option<u64>,
}

/// A table of Maglev.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Places, a prime.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub table_size: Option<u64>,
}

/// How much may be under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConnectionPool {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// At most so many, of HTTP/1 and TCP.
    pub max_connections: i32,
    /// Longest wait for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub connect_timeout: Option<String>,
    /// Probes of idle ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Longest life of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub max_connection_duration: Option<String>,
    /// How long one may carry nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
}

/// Requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Requests that wait for a connection.
    #[serde(rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: i32,
    /// Requests under way.
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: i32,
    /// Requests on one connection.
    pub max_requests_per_connection: i32,
    /// Requests that are tried again.
    pub max_retries: i32,
    /// How long a connection waits for a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub idle_timeout: Option<String>,
    /// Whether HTTP/1.1 becomes HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]))]
    pub h2_upgrade_policy: Option<String>,
    /// The client's protocol goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_client_protocol: bool,
    /// Requests at a time on one connection of HTTP/2.
    pub max_concurrent_streams: i32,
    /// Probes of connections of HTTP/2.
    #[serde(rename = "http2KeepAlive", skip_serializing_if = "Option::is_none")]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// When an endpoint is left out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// The number of the next one, as older versions of the API spelt it.
    pub consecutive_errors: i32,
    /// Statuses of 5xx in a row; 5 without, 0 is never.
    #[serde(
        rename = "consecutive5xxErrors",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub consecutive_5xx_errors: Option<u32>,
    /// Statuses of 502, 503 and 504 in a row; never without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub consecutive_gateway_errors: Option<u32>,
    /// Connections that failed in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Connections that failed count by themselves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub split_external_local_origin_errors: bool,
    /// Time between looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub interval: Option<String>,
    /// How long the first time; 30 seconds without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub base_ejection_time: Option<String>,
    /// How many of a hundred may be left out; 10 without.
    pub max_ejection_percent: i32,
    /// With fewer healthy ones of a hundred, all are used.
    pub min_health_percent: i32,
    /// Statuses that count as errors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 100, max = 599)))]
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// How many requests may be tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Of a hundred under way; 20 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<f64>,
    /// So many in any case; 3 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub min_retry_concurrency: Option<u32>,
    /// The time over which requests are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_interval: Option<String>,
}

/// A named part of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Labels that its endpoints have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What holds for traffic to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// TLS of connections to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Whether there is TLS, and whose certificate is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]))]
    pub mode: Option<String>,
    /// File with the client's certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_certificate: String,
    /// File with its key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub private_key: String,
    /// File with the roots that are believed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_certificates: String,
    /// Secret with all of these.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub credential_name: String,
    /// Names that the endpoint's certificate may have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// Name that is asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sni: String,
    /// Any certificate will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
    /// File with revoked certificates.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_crl: String,
}

/// TCP within another protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["targetHost", "targetPort"]))]
pub struct Tunnel {
    /// `CONNECT` or `POST`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Where to.
    pub target_host: String,
    /// Its port.
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub target_port: u32,
}

/// The PROXY protocol in front of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProxyProtocol {
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["V1", "V2"]))]
    pub version: Option<String>,
}

/// By where endpoints are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Shares by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribute>,
    /// Where to when a place has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// Labels that say how near an endpoint is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
    /// It is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// By the zones of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLbSetting {
    /// Where to when a place has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// Labels that say how near an endpoint is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
    /// It is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Endpoints that there must be at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub min_cluster_size: Option<u32>,
}

/// Shares of traffic from a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Distribute {
    /// The place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Shares by place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub to: BTreeMap<String, Share>,
}

/// A share of a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Share(#[schemars(range(min = 0, max = 4_294_967_295_u64))] pub u32);

/// A place, and the one that takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Failover {
    /// The place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The other one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to: String,
}

/// New endpoints get less at first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["duration"]))]
pub struct Warmup {
    /// How long.
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub duration: String,
    /// The least of a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub minimum_percent: Option<f64>,
    /// How quickly it grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub aggression: Option<f64>,
}

/// By what endpoints say about their load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendUtilization {
    /// Time between looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_update_period: Option<String>,
    /// How long what was said holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_expiration_period: Option<String>,
    /// How long an endpoint must have said something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_stabilization_period: Option<String>,
    /// What errors count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub error_utilization_penalty_percent: Option<u32>,
    /// Names of what is said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metric_names_for_computing_utilization: Vec<String>,
}

/// Probes of idle connections of TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpKeepalive {
    /// How many without an answer.
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub probes: u32,
    /// How long a connection is idle before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub time: Option<String>,
    /// Time between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub interval: Option<String>,
}

/// Probes of connections of HTTP/2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Http2KeepAlive {
    /// Time between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub interval: Option<String>,
    /// Longest wait for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('1ms')", "message": "it must be a duration of at least 1ms"}
    ]))]
    pub timeout: Option<String>,
}
