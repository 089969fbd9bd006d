//! Providers of `CUSTOM` policies: messages to model and back. One that cannot be read is none, which
//! closes its policy.

use std::time::Duration;

use ambit_model::access::{CheckProtocol, HttpCheck, Provider, ShownBody};
use ambit_model::policy::StringMatch;

use crate::convert_access::{of_string, string};
use crate::convert_route::{service, service_key, span};
use crate::l7 as pb;

pub(crate) fn provider(m: pb::Provider) -> Option<Provider> {
    let protocol = match m.protocol? {
        pb::provider::Protocol::Grpc(_) => CheckProtocol::Grpc,
        pb::provider::Protocol::Http(m) => CheckProtocol::Http(Box::new(http(m)?)),
    };
    let body = m.body.map(|m| ShownBody {
        max_bytes: m.max_bytes,
        partial: m.partial,
        raw: m.raw,
    });
    Some(Provider {
        service: service(m.service)?,
        port: u16::try_from(m.port).ok()?,
        timeout: Duration::try_from(m.timeout?).ok()?,
        fail_open: m.fail_open,
        status_on_error: u16::try_from(m.status_on_error).ok()?,
        body,
        protocol,
    })
}

fn http(m: pb::HttpCheck) -> Option<HttpCheck> {
    // A header that is not understood would be lost without a word.
    let list = |list: Vec<pb::TextMatch>| list.into_iter().map(string).collect::<Option<_>>();
    let additional = m.additional_headers.into_iter();
    Some(HttpCheck {
        path_prefix: m.path_prefix.into(),
        request_headers: list(m.request_headers)?,
        additional_headers: additional
            .map(|header| (header.name.into(), header.value.into()))
            .collect(),
        to_backend: list(m.to_backend)?,
        to_client_on_allow: list(m.to_client_on_allow)?,
        to_client_on_deny: list(m.to_client_on_deny)?,
    })
}

impl From<&Provider> for pb::Provider {
    fn from(provider: &Provider) -> Self {
        let protocol = match &provider.protocol {
            CheckProtocol::Grpc => pb::provider::Protocol::Grpc(pb::GrpcCheck {}),
            CheckProtocol::Http(http) => pb::provider::Protocol::Http((&**http).into()),
        };
        Self {
            service: Some(service_key(&provider.service)),
            port: provider.port.into(),
            timeout: Some(span(provider.timeout)),
            fail_open: provider.fail_open,
            status_on_error: provider.status_on_error.into(),
            body: provider.body.map(|body| pb::ShownBody {
                max_bytes: body.max_bytes,
                partial: body.partial,
                raw: body.raw,
            }),
            protocol: Some(protocol),
        }
    }
}

impl From<&HttpCheck> for pb::HttpCheck {
    fn from(check: &HttpCheck) -> Self {
        let list = |list: &[StringMatch]| list.iter().map(of_string).collect();
        let additional = check.additional_headers.iter();
        Self {
            path_prefix: check.path_prefix.to_string(),
            request_headers: list(&check.request_headers),
            additional_headers: additional
                .map(|(name, value)| pb::Header {
                    name: name.to_string(),
                    value: value.to_string(),
                })
                .collect(),
            to_backend: list(&check.to_backend),
            to_client_on_allow: list(&check.to_client_on_allow),
            to_client_on_deny: list(&check.to_client_on_deny),
        }
    }
}
