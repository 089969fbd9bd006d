//! A line of the access log as OTLP carries it.

use ambit_proto::otlp::logs::v1::LogRecord;
use ambit_proto::otlp::{AnyValue, any_value::Value};
use bytes::Bytes;
use jiff::Timestamp;

use super::Trace;
use super::span::tag;

/// The record of a request or connection: a text, or keys with their texts; and the span that it
/// belongs to, if there is one.
pub(crate) fn log_record(
    start: Timestamp,
    body: Option<String>,
    fields: Vec<(String, String)>,
    trace: Option<&Trace>,
) -> LogRecord {
    let id = |bytes: fn(&super::Place) -> Bytes| {
        trace.map_or_else(Bytes::new, |trace| bytes(&trace.place))
    };
    LogRecord {
        time_unix_nano: u64::try_from(start.as_nanosecond()).unwrap_or_default(),
        body: body.map(|text| AnyValue {
            value: Some(Value::StringValue(text)),
        }),
        attributes: fields
            .into_iter()
            .map(|(name, value)| tag(name, value))
            .collect(),
        trace_id: id(|place| Bytes::copy_from_slice(&place.trace.to_be_bytes())),
        span_id: id(|place| Bytes::copy_from_slice(&place.span.to_be_bytes())),
    }
}
