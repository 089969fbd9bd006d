//! The span of a request: its name, its times, and tags as Envoy and Istio give them.

use ambit_proto::otlp::trace::v1::{Span, Status, span::Kind, status::Code};
use ambit_proto::otlp::{AnyValue, KeyValue, any_value::Value};
use ambit_proxy_core::record::{Connection, Party};
use bytes::Bytes;

use super::Trace;
use crate::access_log::join;
use crate::expression::Known;
use crate::reporting::{Tag, Tracing};
use crate::shared::Shared;

/// What a span tells of, beside the trace that it is part of.
pub(crate) struct Told<'a> {
    pub(crate) known: Known<'a>,
    pub(crate) connection: &'a Connection,
    pub(crate) shared: &'a Shared,
}

/// A tag with its value.
pub(crate) fn tag(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
    }
}

/// The span of a request that has ended.
pub(crate) fn span(tracing: &Tracing, trace: &Trace, told: &Told<'_>) -> Span {
    let ended = told.known.ended;
    let start = told.known.remembered.start.as_nanosecond();
    let start = u64::try_from(start).unwrap_or_default();
    let length = u64::try_from(ended.milliseconds.saturating_mul(1_000_000)).unwrap_or(u64::MAX);
    let place = &trace.place;
    let name = match ended.service {
        Some((host, port)) => format!("{host}:{port}/*"),
        None => "ingress".to_owned(),
    };
    let mut attributes = tags_of_request(tracing, told);
    if tracing.traced.mesh_tags {
        tags_of_mesh(&mut attributes, told);
    }
    for (name, value) in &tracing.tags {
        let value = value_of(value, told.known);
        attributes.extend((!value.is_empty()).then(|| tag(name.as_str(), value)));
    }
    Span {
        trace_id: Bytes::copy_from_slice(&place.trace.to_be_bytes()),
        span_id: Bytes::copy_from_slice(&place.span.to_be_bytes()),
        trace_state: trace.state.clone(),
        parent_span_id: match place.parent {
            Some(parent) => Bytes::copy_from_slice(&parent.to_be_bytes()),
            None => Bytes::new(),
        },
        name,
        kind: Kind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(length),
        attributes,
        status: Some(Status {
            message: String::new(),
            code: match failed(told) {
                true => Code::Error.into(),
                false => Code::Unset.into(),
            },
        }),
    }
}

fn failed(told: &Told<'_>) -> bool {
    let ended = told.known.ended;
    ended.code >= 500 || ended.code == 0
}

fn value_of(value: &Tag, known: Known<'_>) -> String {
    match value {
        Tag::Text(text) => text.clone(),
        Tag::Header(name, other) => {
            let header = known.remembered.headers.get(name);
            let text = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            text.unwrap_or_else(|| other.clone())
        }
        Tag::Format(pieces) => join(pieces, known.remembered, known.ended),
    }
}

/// The tags that Envoy gives.
fn tags_of_request(tracing: &Tracing, told: &Told<'_>) -> Vec<KeyValue> {
    let Known { remembered, ended } = told.known;
    let header = |name: &str| match remembered.headers.get(name) {
        Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        None => "-".to_owned(),
    };
    let most = usize::try_from(tracing.traced.provider.max_tag_length).unwrap_or(usize::MAX);
    let path: String = remembered.path.chars().take(most).collect();
    let cluster = ended.cluster().unwrap_or_else(|| "-".to_owned());
    let mut tags = vec![
        tag("component", "proxy"),
        tag("node_id", told.shared.config.node_id()),
        tag("guid:x-request-id", header("x-request-id")),
        tag("http.url", format!("http://{}{path}", remembered.authority)),
        tag("http.method", remembered.method.as_str()),
        tag(
            "downstream_cluster",
            header("x-envoy-downstream-service-cluster"),
        ),
        tag("user_agent", header("user-agent")),
        tag("http.protocol", remembered.protocol),
        tag("peer.address", ended.client.ip().to_string()),
        tag("request_size", ended.received.to_string()),
        tag("response_size", ended.sent.to_string()),
        tag("http.status_code", ended.code.to_string()),
        tag("response_flags", ended.flags),
        tag("upstream_cluster", cluster.as_str()),
        tag("upstream_cluster.name", cluster.as_str()),
    ];
    if let Some(upstream) = ended.upstream {
        tags.push(tag("upstream_address", upstream.to_string()));
    }
    if let Some(status) = ended.grpc {
        tags.push(tag("grpc.status_code", status.to_string()));
    }
    if failed(told) {
        tags.push(tag("error", "true"));
    }
    tags
}

/// The tags that Istio gives: of the waypoint itself, and of both ends.
fn tags_of_mesh(tags: &mut Vec<KeyValue>, told: &Told<'_>) {
    let config = &told.shared.config;
    let own = told.shared.workload();
    let service = match own.canonical_name.is_empty() {
        true => &config.gateway,
        false => &own.canonical_name,
    };
    tags.extend([
        tag("istio.mesh_id", &*config.trust_domain),
        tag("istio.cluster_id", &*config.cluster_id),
        tag("istio.namespace", &*config.pod.namespace),
        tag("istio.canonical_service", &**service),
        tag(
            "istio.canonical_revision",
            revision(&own.canonical_revision),
        ),
    ]);
    let ends = [
        ("source", "downstream", &told.connection.source),
        ("destination", "upstream", &told.connection.destination),
    ];
    for (end, side, party) in ends {
        tags_of_party(tags, end, side, party);
    }
}

fn revision(text: &str) -> &str {
    if text.is_empty() { "latest" } else { text }
}

fn tags_of_party(tags: &mut Vec<KeyValue>, end: &str, side: &str, party: &Party) {
    let Some(workload) = &party.workload else {
        return;
    };
    let kind = workload.workload_type.name();
    tags.extend([
        tag(format!("istio.{end}_workload"), &*workload.workload_name),
        tag(format!("istio.{end}_workload_type"), kind),
        tag(format!("istio.{end}_namespace"), &*workload.namespace),
        tag(format!("istio.{end}_cluster_id"), &*workload.cluster_id),
        tag(
            format!("istio.{end}_canonical_service"),
            &*workload.canonical_name,
        ),
        tag(
            format!("istio.{end}_canonical_revision"),
            revision(&workload.canonical_revision),
        ),
        tag(format!("istio.{end}_app"), &*workload.canonical_name),
        tag(
            format!("istio.{end}_app_version"),
            revision(&workload.canonical_revision),
        ),
        tag(format!("istio.{end}_instance_name"), &*workload.name),
        tag(format!("istio.{side}.workload"), &*workload.workload_name),
        tag(format!("istio.{side}.namespace"), &*workload.namespace),
    ]);
}
