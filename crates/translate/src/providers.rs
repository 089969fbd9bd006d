//! `meshConfig.extensionProviders` → the providers that policies and telemetry name.

mod check;
mod telemetry;

use std::collections::BTreeMap;

use ambit_model::Text;
use ambit_model::access::Provider;
use ambit_model::service::NamespacedHostname;
use ambit_model::telemetry::{LogFormat, LogProvider, TraceProvider};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use telemetry::{json_format, zipkin_at};

/// Kinds of Istio's that nothing here makes use of.
const OTHER_KINDS: &[&str] = &[
    "datadog",
    "envoyHttpAls",
    "envoyTcpAls",
    "lightstep",
    "opencensus",
    "sds",
    "skywalking",
    "stackdriver",
];

/// Name of the provider that writes to standard output without being listed.
const BUILT_IN: &str = "envoy";

/// Providers by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Providers {
    all: BTreeMap<Text, AnyProvider>,
    /// `envoy`, unless another is called so.
    pub(crate) built_in: LogProvider,
}

impl Default for Providers {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            built_in: LogProvider {
                name: BUILT_IN.into(),
                format: LogFormat::Text("".into()),
                collector: None,
            },
        }
    }
}

/// A provider of some kind.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AnyProvider {
    /// Is asked about requests.
    Check(Provider),
    /// Gets access logs.
    Log(LogProvider),
    /// Gets spans.
    Trace(TraceProvider),
    /// Fetches metrics.
    Prometheus,
    /// Is of a kind that nothing here makes use of.
    Other,
}

impl Providers {
    /// Who is asked about requests.
    pub fn check(&self, name: &str) -> Option<&Provider> {
        match self.all.get(name)? {
            AnyProvider::Check(provider) => Some(provider),
            _ => None,
        }
    }

    /// Who gets access logs.
    pub fn log(&self, name: &str) -> Option<&LogProvider> {
        match self.all.get(name) {
            Some(AnyProvider::Log(provider)) => Some(provider),
            None if name == BUILT_IN => Some(&self.built_in),
            _ => None,
        }
    }

    /// Who gets spans.
    pub fn trace(&self, name: &str) -> Option<&TraceProvider> {
        match self.all.get(name)? {
            AnyProvider::Trace(provider) => Some(provider),
            _ => None,
        }
    }

    /// Whether metrics are fetched by a provider of this name: `prometheus` is always there.
    pub fn is_prometheus(&self, name: &str) -> bool {
        match self.all.get(name) {
            Some(provider) => *provider == AnyProvider::Prometheus,
            None => name == "prometheus",
        }
    }
}

/// Reads the list. `found` gets what is wrong with an entry, which is left out then.
pub fn parse(list: &[Value], mut found: impl FnMut(usize, String)) -> Providers {
    let mut providers = Providers::default();
    for (number, entry) in list.iter().enumerate() {
        match one(entry) {
            Ok((name, provider)) => drop(providers.all.insert(name, provider)),
            Err(why) => found(number, why),
        }
    }
    providers
}

fn one(entry: &Value) -> Result<(Text, AnyProvider), String> {
    let entry = entry.as_object().ok_or("it is no map of keys and values")?;
    let name = entry.get("name").and_then(Value::as_str);
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or("it has no name")?;
    let mut kinds = entry.iter().filter(|(key, _)| *key != "name");
    let (kind, settings) = kinds.next().ok_or("it says nothing but its name")?;
    if kinds.next().is_some() {
        return Err("it is of more than one kind".to_owned());
    }
    let provider = match kind.as_str() {
        "envoyExtAuthzGrpc" => check::over_grpc(settings).map(AnyProvider::Check),
        "envoyExtAuthzHttp" => check::over_http(settings).map(AnyProvider::Check),
        "envoyFileAccessLog" => telemetry::file(name, settings).map(AnyProvider::Log),
        "envoyOtelAls" => telemetry::otel_log(name, settings).map(AnyProvider::Log),
        "opentelemetry" => telemetry::opentelemetry(name, settings).map(AnyProvider::Trace),
        "zipkin" => telemetry::zipkin(name, settings).map(AnyProvider::Trace),
        "prometheus" => Ok(AnyProvider::Prometheus),
        other if OTHER_KINDS.contains(&other) => Ok(AnyProvider::Other),
        other => Err(format!("{other} is no kind of provider")),
    };
    let provider = provider.map_err(|why| format!("{name}: {why}"))?;
    Ok((name.into(), provider))
}

fn read<T: for<'de> Deserialize<'de>>(settings: &Value) -> Result<T, String> {
    T::deserialize(settings).map_err(|e| e.to_string())
}

fn port(number: u32) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("port {number} is none"))
}

/// `namespace/host`, or the host name of a Kubernetes service, which names its namespace.
fn service(text: &str) -> Result<NamespacedHostname, String> {
    if let Some((namespace, host)) = text.split_once('/') {
        return Ok(NamespacedHostname::new(namespace, host));
    }
    let mut labels = text.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), Some("svc")) if !name.is_empty() => {
            Ok(NamespacedHostname::new(namespace, text))
        }
        _ => Err(format!(
            "service {text:?} is neither namespace/host nor name.namespace.svc with the cluster's domain"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ambit_model::access::{CheckProtocol, HttpCheck};
    use ambit_model::telemetry::{CollectorProtocol, Context};
    use serde_json::json;

    fn parsed(list: Value) -> (Providers, Vec<String>) {
        let mut found = Vec::new();
        let list = list.as_array().unwrap();
        let providers = parse(list, |_, why| found.push(why));
        (providers, found)
    }

    #[test]
    fn what_people_write() {
        let (providers, found) = parsed(json!([
            {"name": "grpc", "envoyExtAuthzGrpc": {
                "service": "ext-authz.foo.svc.cluster.local", "port": 9000, "timeout": "0.25s",
            }},
            {"name": "http", "envoyExtAuthzHttp": {
                "service": "foo/ext-authz.example.com", "port": "8000", "failOpen": true,
                "statusOnError": "503", "includeRequestHeadersInCheck": ["X-Ext-Authz", "x-b3-*"],
                "headersToUpstreamOnAllow": ["authorization"],
                "includeRequestBodyInCheck": {"maxRequestBytes": 10, "allowPartialMessage": true},
            }},
            {"name": "sw", "skywalking": {"service": "z", "port": 1}},
        ]));
        // A port is a number in Istio's API.
        assert_eq!(found.len(), 1, "{found:?}");
        let grpc = providers.check("grpc").unwrap();
        assert_eq!(grpc.service.namespace, "foo".into());
        assert_eq!(grpc.timeout, Duration::from_millis(250));
        assert_eq!((grpc.status_on_error, grpc.fail_open), (403, false));
        assert!(providers.check("http").is_none());
    }

    #[test]
    fn an_http_provider() {
        let (providers, found) = parsed(json!([{"name": "http", "envoyExtAuthzHttp": {
            "service": "foo/ext-authz.example.com", "port": 8000, "pathPrefix": "/check",
            "includeRequestHeadersInCheck": ["X-Ext-Authz", "x-b3-*"],
        }}]));
        assert_eq!(found, Vec::<String>::new());
        let CheckProtocol::Http(http) = &providers.check("http").unwrap().protocol else {
            panic!("it is one of HTTP")
        };
        assert!(HttpCheck::lists(&http.request_headers, "x-ext-authz"));
        assert!(HttpCheck::lists(&http.request_headers, "x-b3-traceid"));
        assert!(!HttpCheck::lists(&http.request_headers, "x-other"));
    }

    #[test]
    fn what_cannot_be_asked_is_left_out_with_a_reason() {
        let settings = |settings: Value| json!({"name": "p", "envoyExtAuthzGrpc": settings});
        for (entry, why) in [
            (json!({"envoyExtAuthzGrpc": {}}), "no name"),
            (json!({"name": "p"}), "nothing"),
            (json!({"name": "p", "oracle": {}}), "oracle"),
            (settings(json!({"service": "short", "port": 1})), "service"),
            (settings(json!({"service": "a/b", "port": 0})), "port"),
            (
                settings(json!({"service": "a/b", "port": 1, "timeout": "soon"})),
                "timeout",
            ),
            (
                settings(json!({"service": "a/b", "port": 1, "statusOnError": "x"})),
                "statusOnError",
            ),
        ] {
            let (providers, found) = parsed(json!([entry]));
            assert_eq!(providers, Providers::default());
            assert!(found[0].contains(why), "{found:?}");
        }
    }

    #[test]
    fn who_gets_logs_and_spans() {
        let (providers, found) = parsed(json!([
            {"name": "file", "envoyFileAccessLog": {"path": "/dev/stdout", "logFormat": {
                "labels": {"code": "%RESPONSE_CODE%"},
            }}},
            {"name": "als", "envoyOtelAls": {
                "service": "collector.o11y.svc.cluster.local", "port": 4317,
                "logFormat": {"text": "%PROTOCOL%", "labels": {"a": "b"}},
            }},
            {"name": "otel", "opentelemetry": {
                "service": "collector.o11y.svc.cluster.local", "port": 4317,
            }},
            {"name": "otel-http", "opentelemetry": {
                "service": "collector.o11y.svc.cluster.local", "port": 4318, "maxTagLength": 10,
                "http": {"path": "/v1/traces", "timeout": "1s", "headers": [
                    {"name": "X-Key", "value": "secret"},
                ]},
            }},
            {"name": "zipkin", "zipkin": {
                "service": "zipkin.o11y.svc.cluster.local", "port": 9411,
                "traceContextOption": "USE_B3_WITH_W3C_PROPAGATION",
            }},
            {"name": "prom", "prometheus": {}},
        ]));
        assert_eq!(found, Vec::<String>::new());
        let pairs = |key: &str, value: &str| vec![(key.into(), value.into())];
        let file = providers.log("file").unwrap();
        assert_eq!(
            file.format,
            LogFormat::Json(pairs("code", "%RESPONSE_CODE%"))
        );
        let als = providers.log("als").unwrap();
        let protocol = |collector: &ambit_model::telemetry::Collector| collector.protocol.clone();
        assert_eq!(
            protocol(als.collector.as_ref().unwrap()),
            CollectorProtocol::OtlpGrpc
        );
        let otel = providers.trace("otel").unwrap();
        assert_eq!(protocol(&otel.collector), CollectorProtocol::OtlpGrpc);
        assert_eq!((otel.context, otel.max_tag_length), (Context::W3c, 256));
        let http = providers.trace("otel-http").unwrap();
        let wanted = CollectorProtocol::OtlpHttp("/v1/traces".into());
        assert_eq!(protocol(&http.collector), wanted);
        assert_eq!(http.collector.headers, pairs("x-key", "secret"));
        assert_eq!(http.collector.timeout, Duration::from_secs(1));
        let zipkin = providers.trace("zipkin").unwrap();
        assert_eq!(zipkin.context, Context::B3AndW3c);
        assert!(providers.is_prometheus("prom") && providers.is_prometheus("prometheus"));
        assert!(!providers.is_prometheus("otel"));
    }

    #[test]
    fn collectors_that_cannot_be_told_anything() {
        let service = "a.b.svc.cluster.local";
        for (kind, settings, why) in [
            ("opentelemetry", json!({"port": 1}), "service"),
            ("zipkin", json!({"service": service}), "port"),
            (
                "zipkin",
                json!({"service": service, "port": 1, "path": "x"}),
                "path",
            ),
            (
                "opentelemetry",
                json!({"service": service, "port": 1, "http": {"path": "/a", "headers": [{"name": "a b"}]}}),
                "header",
            ),
            (
                "opentelemetry",
                json!({"service": service, "port": 1, "http": {"path": "/"}, "grpc": {}}),
                "both",
            ),
            (
                "envoyFileAccessLog",
                json!({"path": "/var/log/x"}),
                "standard output",
            ),
        ] {
            let (_, found) = parsed(json!([{"name": "p", kind: settings}]));
            assert!(found.first().is_some_and(|f| f.contains(why)), "{found:?}");
        }
    }
}
