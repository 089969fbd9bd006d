//! The providers that `CUSTOM` policies name.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_model::access::{CheckProtocol, HttpCheck, Provider, ShownBody, string_match};
use ambit_model::policy::StringMatch;
use serde::Deserialize;
use serde_json::Value;

use super::{port, read, service};

/// Longest wait for an answer where nobody says another (Istio's default).
const TIMEOUT: Duration = Duration::from_secs(600);
/// The status of a request about which there is no answer.
const STATUS_ON_ERROR: u16 = 403;

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

/// `envoyExtAuthzGrpc`.
pub(super) fn over_grpc(settings: &Value) -> Result<Provider, String> {
    provider(settings, |_| Ok(CheckProtocol::Grpc))
}

/// `envoyExtAuthzHttp`.
pub(super) fn over_http(settings: &Value) -> Result<Provider, String> {
    provider(settings, |settings| {
        Ok(CheckProtocol::Http(Box::new(http(read(settings)?))))
    })
}

fn provider(
    settings: &Value,
    protocol: impl FnOnce(&Value) -> Result<CheckProtocol, String>,
) -> Result<Provider, String> {
    let common: Common = read(settings)?;
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
        port: port(common.port)?,
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
