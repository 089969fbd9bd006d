//! Bookinfo: productpage asks details and reviews; reviews (v2 and v3) asks ratings.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri};
use bytes::Bytes;
use serde_json::Value;

use crate::fetch::{Ask, FetchError, fetch};

pub mod details;
pub mod page;
pub mod productpage;
pub mod ratings;
pub mod reviews;

/// Request headers that every service hands on: trace context, session and credentials.
pub const FORWARDED_HEADERS: &[&str] = &[
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "sw8",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
];

/// The headers of a request that are handed on.
pub fn forwarded(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| FORWARDED_HEADERS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Where a Bookinfo service is found: `<NAME>_HOSTNAME`, `<NAME>_SERVICE_PORT`, `SERVICES_DOMAIN`.
pub fn base_url(service: &str) -> String {
    let upper = service.to_uppercase();
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let host = var(&format!("{upper}_HOSTNAME")).unwrap_or_else(|| service.to_owned());
    let port = var(&format!("{upper}_SERVICE_PORT")).unwrap_or_else(|| "9080".to_owned());
    let domain = var("SERVICES_DOMAIN")
        .map(|d| format!(".{d}"))
        .unwrap_or_default();
    format!("http://{host}{domain}:{port}")
}

/// Asks another service for JSON.
///
/// # Errors
/// When there is no answer; an error status is an answer.
pub async fn ask_json(
    url: String,
    headers: HeaderMap,
    timeout: Duration,
) -> Result<(StatusCode, Value), FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Url(url))?;
    let answer = fetch(Ask {
        headers,
        ..Ask::get(uri, timeout)
    })
    .await?;
    let body: &Bytes = answer.body();
    Ok((
        answer.status(),
        serde_json::from_slice(body).unwrap_or(Value::Null),
    ))
}
