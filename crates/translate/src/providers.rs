//! `meshConfig.extensionProviders` → the providers that `CUSTOM` policies name.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_model::Text;
use ambit_model::access::{CheckProtocol, HttpCheck, Provider, ShownBody, string_match};
use ambit_model::policy::StringMatch;
use ambit_model::service::NamespacedHostname;
use serde::Deserialize;
use serde_json::Value;

/// Longest wait for an answer where nobody says another (Istio's default).
const TIMEOUT: Duration = Duration::from_secs(600);
/// The status of a request about which there is no answer.
const STATUS_ON_ERROR: u16 = 403;

/// Providers by name.
pub type Providers = BTreeMap<Text, Provider>;

/// Kinds of providers that nobody is asked about requests with.
const OTHER_KINDS: &[&str] = &[
    "datadog",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyOtelAls",
    "envoyTcpAls",
    "lightstep",
    "opencensus",
    "opentelemetry",
    "prometheus",
    "sds",
    "skywalking",
    "stackdriver",
    "zipkin",
];

/// `envoyExtAuthzGrpc`, and what it has in common with `envoyExtAuthzHttp`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Common {
    service: String,
    port: u32,
    timeout: String,
    fail_open: bool,
    status_on_error: String,
    include_request_body_in_check: Option<Body>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    max_request_bytes: u32,
    allow_partial_message: bool,
    pack_as_bytes: bool,
}

/// The rest of `envoyExtAuthzHttp`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Http {
    path_prefix: String,
    include_headers_in_check: Vec<String>,
    include_request_headers_in_check: Vec<String>,
    include_additional_headers_in_check: BTreeMap<String, String>,
    headers_to_upstream_on_allow: Vec<String>,
    headers_to_downstream_on_allow: Vec<String>,
    headers_to_downstream_on_deny: Vec<String>,
}

/// Reads the list. `found` gets what is wrong with an entry, which is left out then.
pub fn parse(list: &[Value], mut found: impl FnMut(usize, String)) -> Providers {
    let mut providers = Providers::new();
    for (number, entry) in list.iter().enumerate() {
        match one(entry) {
            Ok(None) => {}
            Ok(Some((name, provider))) => drop(providers.insert(name, provider)),
            Err(why) => found(number, why),
        }
    }
    providers
}

fn one(entry: &Value) -> Result<Option<(Text, Provider)>, String> {
    let entry = entry.as_object().ok_or("it is no map of keys and values")?;
    let name = entry.get("name").and_then(Value::as_str);
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or("it has no name")?;
    let kinds = || entry.keys().filter(|key| *key != "name");
    let provider = match kinds().map(String::as_str).collect::<Vec<_>>()[..] {
        ["envoyExtAuthzGrpc"] => provider(&entry["envoyExtAuthzGrpc"], |_| Ok(CheckProtocol::Grpc)),
        ["envoyExtAuthzHttp"] => provider(&entry["envoyExtAuthzHttp"], |settings| {
            Ok(CheckProtocol::Http(Box::new(http(read(settings)?))))
        }),
        [other] if OTHER_KINDS.contains(&other) => return Ok(None),
        [other] => Err(format!("{other} is no kind of provider")),
        [] => Err("it says nothing but its name".to_owned()),
        _ => Err("it is of more than one kind".to_owned()),
    };
    let provider = provider.map_err(|why| format!("{name}: {why}"))?;
    Ok(Some((name.into(), provider)))
}

fn read<T: for<'de> Deserialize<'de>>(settings: &Value) -> Result<T, String> {
    T::deserialize(settings).map_err(|e| e.to_string())
}

fn provider(
    settings: &Value,
    protocol: impl FnOnce(&Value) -> Result<CheckProtocol, String>,
) -> Result<Provider, String> {
    let common: Common = read(settings)?;
    let port = u16::try_from(common.port).ok().filter(|port| *port != 0);
    let timeout = match common.timeout.as_str() {
        "" => Some(TIMEOUT),
        text => crate::durations::parse(text).filter(|time| !time.is_zero()),
    };
    let status = match common.status_on_error.as_str() {
        "" => Some(STATUS_ON_ERROR),
        text => text.parse().ok().filter(|code| (100..600).contains(code)),
    };
    Ok(Provider {
        service: service(&common.service)?,
        port: port.ok_or_else(|| format!("port {} is none", common.port))?,
        timeout: timeout.ok_or_else(|| format!("timeout {:?} is none", common.timeout))?,
        fail_open: common.fail_open,
        status_on_error: status
            .ok_or_else(|| format!("statusOnError {:?} is none", common.status_on_error))?,
        body: common.include_request_body_in_check.map(|body| ShownBody {
            max_bytes: body.max_request_bytes,
            partial: body.allow_partial_message,
            raw: body.pack_as_bytes,
        }),
        protocol: protocol(settings)?,
    })
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

fn http(settings: Http) -> HttpCheck {
    let names = |list: Vec<String>| -> Vec<StringMatch> {
        list.iter()
            .map(|name| string_match(&name.to_ascii_lowercase()))
            .collect()
    };
    let mut request_headers = settings.include_request_headers_in_check;
    // The older name of the same; the newer one goes before it.
    if request_headers.is_empty() {
        request_headers = settings.include_headers_in_check;
    }
    let additional = settings.include_additional_headers_in_check.into_iter();
    HttpCheck {
        path_prefix: settings.path_prefix.into(),
        request_headers: names(request_headers),
        additional_headers: additional
            .map(|(name, value)| (name.to_ascii_lowercase().into(), value.into()))
            .collect(),
        to_backend: names(settings.headers_to_upstream_on_allow),
        to_client_on_allow: names(settings.headers_to_downstream_on_allow),
        to_client_on_deny: names(settings.headers_to_downstream_on_deny),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            {"name": "zipkin", "zipkin": {"service": "z", "port": 1}},
        ]));
        // A port is a number in Istio's API.
        assert_eq!(found.len(), 1, "{found:?}");
        let grpc = &providers["grpc"];
        assert_eq!(grpc.service.namespace, "foo".into());
        assert_eq!(grpc.timeout, Duration::from_millis(250));
        assert_eq!((grpc.status_on_error, grpc.fail_open), (403, false));
        assert_eq!(providers.len(), 1);
    }

    #[test]
    fn an_http_provider() {
        let (providers, found) = parsed(json!([{"name": "http", "envoyExtAuthzHttp": {
            "service": "foo/ext-authz.example.com", "port": 8000, "pathPrefix": "/check",
            "includeRequestHeadersInCheck": ["X-Ext-Authz", "x-b3-*"],
        }}]));
        assert_eq!(found, Vec::<String>::new());
        let CheckProtocol::Http(http) = &providers["http"].protocol else {
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
            assert!(providers.is_empty());
            assert!(found[0].contains(why), "{found:?}");
        }
    }
}
