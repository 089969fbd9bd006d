//! Spans as Zipkin takes them: JSON, version 2 of its API.

use ambit_proto::otlp::any_value::Value as Any;
use ambit_proto::otlp::trace::v1::Span;
use serde_json::{Map, Value, json};

use super::context::trace_of_b3;

/// Spans of one service as a list.
pub(crate) fn zipkin(service: &str, address: &str, spans: &[Span]) -> Value {
    spans
        .iter()
        .map(|span| one(service, address, span))
        .collect()
}

fn one(service: &str, address: &str, span: &Span) -> Value {
    let microseconds = |from: u64, to: u64| to.saturating_sub(from) / 1_000;
    let start = span.start_time_unix_nano;
    let trace = <[u8; 16]>::try_from(&span.trace_id[..]).map(u128::from_be_bytes);
    let mut endpoint = json!({"serviceName": service});
    if let Ok(address) = address.parse::<std::net::IpAddr>() {
        let key = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        endpoint[key] = address.to_string().into();
    }
    let mut object = json!({
        "traceId": trace_of_b3(trace.unwrap_or_default()),
        "id": hex(&span.span_id),
        "name": span.name,
        "kind": "SERVER",
        "timestamp": microseconds(0, start),
        // Zipkin takes 0 for none.
        "duration": microseconds(start, span.end_time_unix_nano).max(1),
        "localEndpoint": endpoint,
        "tags": tags(span),
    });
    if !span.parent_span_id.is_empty() {
        object["parentId"] = hex(&span.parent_span_id).into();
    }
    object
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tags(span: &Span) -> Map<String, Value> {
    let attributes = span.attributes.iter();
    let pair = |tag: &ambit_proto::otlp::KeyValue| {
        let text = match tag.value.as_ref()?.value.as_ref()? {
            Any::StringValue(text) => text.clone(),
            Any::IntValue(number) => number.to_string(),
        };
        Some((tag.key.clone(), text.into()))
    };
    attributes.filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::span::tag;

    #[test]
    fn a_span() {
        let span = Span {
            trace_id: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10].into(),
            span_id: vec![0, 0, 0, 0, 0, 0, 0, 11].into(),
            parent_span_id: vec![0, 0, 0, 0, 0, 0, 0, 12].into(),
            name: "echo:80/*".into(),
            start_time_unix_nano: 2_000_000,
            end_time_unix_nano: 5_000_000,
            attributes: vec![tag("a", "b")],
            ..Span::default()
        };
        let wanted = json!([{
            "traceId": "000000000000000a", "id": "000000000000000b", "name": "echo:80/*",
            "kind": "SERVER", "timestamp": 2_000, "duration": 3_000,
            "localEndpoint": {"serviceName": "waypoint.shop", "ipv4": "10.0.0.1"},
            "tags": {"a": "b"}, "parentId": "000000000000000c",
        }]);
        assert_eq!(zipkin("waypoint.shop", "10.0.0.1", &[span]), wanted);
    }
}
