//! The providers that `Telemetry` objects name: who gets access logs and spans.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_model::Text;
use ambit_model::telemetry::{
    Collector, CollectorProtocol, Context, LogFormat, LogProvider, TraceProvider,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{port, read, service};

/// Longest wait for a collector's answer where nobody says another.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest value of the tag with the path where nobody says another (Envoy's default).
const MAX_TAG: u32 = 256;
/// Where Zipkin takes spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// Where OTLP over HTTP takes spans.
const OTLP_PATH: &str = "/v1/traces";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    path: String,
    log_format: Option<Format>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Format {
    text: String,
    labels: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OtelLog {
    service: String,
    port: u32,
    log_format: Option<Format>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OpenTelemetry {
    service: String,
    port: u32,
    max_tag_length: Option<u32>,
    http: Option<Http>,
    grpc: Option<Grpc>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Http {
    path: String,
    timeout: String,
    headers: Vec<Header>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Grpc {
    timeout: String,
    initial_metadata: Vec<Header>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Zipkin {
    service: String,
    port: u32,
    max_tag_length: Option<u32>,
    path: String,
    timeout: String,
    headers: Vec<Header>,
    trace_context_option: String,
}

/// `envoyFileAccessLog`.
pub(super) fn file(name: &str, settings: &Value) -> Result<LogProvider, String> {
    let file: File = read(settings)?;
    if !["", "/dev/stdout"].contains(&file.path.as_str()) {
        return Err(format!(
            "waypoints write to standard output, not to {}",
            file.path
        ));
    }
    Ok(LogProvider {
        name: name.into(),
        format: format(file.log_format.unwrap_or_default())?,
        collector: None,
    })
}

/// What is set of text and labels; Istio's text where nothing is.
fn format(format: Format) -> Result<LogFormat, String> {
    match format.labels.is_empty() {
        true => Ok(LogFormat::Text(format.text.into())),
        false => json_format(&format.labels).map(LogFormat::Json),
    }
}

/// Keys and what stands there, of an object of texts.
pub(crate) fn json_format(fields: &Map<String, Value>) -> Result<Vec<(Text, Text)>, String> {
    let pair = |(key, value): (&String, &Value)| match value.as_str() {
        Some(text) => Ok((key.as_str().into(), text.into())),
        None => Err(format!("{value} is no text")),
    };
    fields.iter().map(pair).collect()
}

/// `envoyOtelAls`. Labels become attributes, the text the body.
pub(super) fn otel_log(name: &str, settings: &Value) -> Result<LogProvider, String> {
    let log: OtelLog = read(settings)?;
    Ok(LogProvider {
        name: name.into(),
        format: format(log.log_format.unwrap_or_default())?,
        collector: Some(Collector {
            service: service(&log.service)?,
            port: port(log.port)?,
            timeout: TIMEOUT,
            protocol: CollectorProtocol::OtlpGrpc,
            headers: Vec::new(),
        }),
    })
}

/// `opentelemetry`.
pub(super) fn opentelemetry(name: &str, settings: &Value) -> Result<TraceProvider, String> {
    let otel: OpenTelemetry = read(settings)?;
    let (protocol, wait, list) = match (otel.http, otel.grpc) {
        (Some(_), Some(_)) => return Err("it is told over both HTTP and gRPC".to_owned()),
        (Some(http), None) => {
            let path = path(&http.path, OTLP_PATH)?;
            (
                CollectorProtocol::OtlpHttp(path),
                http.timeout,
                http.headers,
            )
        }
        (None, grpc) => {
            let grpc = grpc.unwrap_or_default();
            let metadata = grpc.initial_metadata;
            (CollectorProtocol::OtlpGrpc, grpc.timeout, metadata)
        }
    };
    Ok(TraceProvider {
        name: name.into(),
        collector: Collector {
            service: service(&otel.service)?,
            port: port(otel.port)?,
            timeout: timeout(&wait)?,
            protocol,
            headers: headers(list)?,
        },
        context: Context::W3c,
        max_tag_length: otel.max_tag_length.unwrap_or(MAX_TAG),
    })
}

/// `zipkin`.
pub(super) fn zipkin(name: &str, settings: &Value) -> Result<TraceProvider, String> {
    let zipkin: Zipkin = read(settings)?;
    let context = match zipkin.trace_context_option.as_str() {
        "" | "USE_B3" => Context::B3,
        "USE_B3_WITH_W3C_PROPAGATION" => Context::B3AndW3c,
        other => return Err(format!("traceContextOption {other:?} is none")),
    };
    Ok(TraceProvider {
        name: name.into(),
        collector: Collector {
            service: service(&zipkin.service)?,
            port: port(zipkin.port)?,
            timeout: timeout(&zipkin.timeout)?,
            protocol: CollectorProtocol::Zipkin(path(&zipkin.path, ZIPKIN_PATH)?),
            headers: headers(zipkin.headers)?,
        },
        context,
        max_tag_length: zipkin.max_tag_length.unwrap_or(MAX_TAG),
    })
}

/// The provider that `defaultConfig.tracing.zipkin.address` stands for.
pub(crate) fn zipkin_at(address: &str) -> Result<TraceProvider, String> {
    let (host, number) = address.rsplit_once(':').unwrap_or((address, "9411"));
    let number: u32 = number
        .parse()
        .map_err(|_| format!("port {number:?} is none"))?;
    let settings = BTreeMap::from([
        ("service", Value::from(host)),
        ("port", Value::from(number)),
    ]);
    zipkin("zipkin", &serde_json::json!(settings))
}

fn path(text: &str, default: &str) -> Result<Text, String> {
    match text {
        "" => Ok(default.into()),
        text if text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok() => {
            Ok(text.into())
        }
        text => Err(format!("path {text:?} is none")),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = match text {
        "" => Some(TIMEOUT),
        text => crate::durations::parse(text).filter(|time| !time.is_zero()),
    };
    time.ok_or_else(|| format!("timeout {text:?} is none"))
}

fn headers(list: Vec<Header>) -> Result<Vec<(Text, Text)>, String> {
    let pair = |header: Header| {
        let name = header.name.to_ascii_lowercase();
        let good = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && !header.value.is_empty()
            && http::HeaderValue::from_str(&header.value).is_ok();
        match good {
            true => Ok((name.into(), header.value.into())),
            false => Err(format!("header {:?} has no name and value", header.name)),
        }
    };
    list.into_iter().map(pair).collect()
}
