//! A provider of gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use ambit_model::Identity;
use ambit_model::access::Provider;
use ambit_proto::auth::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    OkHttpResponse, SocketAddress,
    attribute_context::{HttpRequest, Peer, Request as Asked},
    check_response::HttpResponse,
};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header};

use super::{Answer, Changes, Denial, Header, Shown};
use crate::body::Body;
use crate::grpc;
use crate::serve::Inbound;

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// `HeaderValueOption.HeaderAppendAction`: in the place of others.
const OVERWRITE: [i32; 2] = [2, 3];

pub(super) async fn ask(
    inbound: &Inbound,
    provider: &Provider,
    shown: Option<&Shown<'_>>,
) -> Result<Answer, String> {
    let message = CheckRequest {
        attributes: Some(attributes(inbound, provider, shown)),
    };
    let request = request(provider, &message)?;
    let (head, body) = super::send(inbound, provider, true, request).await?;
    if head.status() != StatusCode::OK {
        return Err(format!("it answered {}", head.status()));
    }
    grpc::status(body.trailers().unwrap_or(head.headers()))?;
    Ok(answer(grpc::message(&body.to_bytes())?))
}

fn request(provider: &Provider, message: &CheckRequest) -> Result<Request<Body>, String> {
    let target = format!("http://{}{METHOD}", provider.service.hostname);
    let built = Request::post(target)
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, HeaderValue::from_static("trailers"))
        .body(Body::Kept(Some(grpc::framed(message)?), None));
    built.map_err(|e| e.to_string())
}

fn attributes(
    inbound: &Inbound,
    provider: &Provider,
    shown: Option<&Shown<'_>>,
) -> AttributeContext {
    let principal = |identity: Option<&Identity>| identity.map(ToString::to_string);
    let peer = |address: SocketAddr, identity| Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal(identity).unwrap_or_default(),
        ..Peer::default()
    };
    let client = &inbound.client;
    AttributeContext {
        source: Some(peer(client.address, client.identity.as_ref())),
        destination: Some(peer(inbound.asked, Some(&inbound.worker.shared.identity))),
        request: shown.map(|shown| Asked {
            time: Some(SystemTime::now().into()),
            http: Some(http_request(provider, shown)),
        }),
        context_extensions: BTreeMap::new(),
    }
}

fn http_request(provider: &Provider, shown: &Shown<'_>) -> HttpRequest {
    let Shown {
        parts,
        exchange,
        body,
        partial,
    } = shown;
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    if provider.body.is_some() {
        headers.insert("x-envoy-auth-partial-body".into(), partial.to_string());
    }
    let path = match &exchange.query {
        Some(query) => format!("{}?{query}", exchange.path),
        None => exchange.path.clone(),
    };
    // As Envoy has them, although they are no headers.
    for (name, value) in [
        (":method", parts.method.as_str()),
        (":path", &path),
        (":authority", &exchange.authority),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let raw = provider.body.is_some_and(|body| body.raw);
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: parts.method.to_string(),
        headers,
        path,
        host: exchange.authority.clone(),
        scheme: "http".to_owned(),
        size: length.unwrap_or(-1),
        protocol: format!("{:?}", parts.version),
        body: match raw {
            true => String::new(),
            false => String::from_utf8_lossy(body).into_owned(),
        },
        raw_body: match raw {
            true => body.clone(),
            false => Bytes::new(),
        },
        ..HttpRequest::default()
    }
}

/// What an answer means.
fn answer(message: CheckResponse) -> Answer {
    let allowed = message.status.is_none_or(|status| status.code == 0);
    match (allowed, message.http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => Answer::Allow(Box::new(changes(ok))),
        // A denial within a status that says yes is one.
        (_, Some(HttpResponse::DeniedResponse(denied))) => Answer::Deny(Box::new(denial(denied))),
        (true, None) => Answer::Allow(Box::default()),
        (false, _) => Answer::Deny(Box::new(denial(DeniedHttpResponse::default()))),
    }
}

fn changes(ok: OkHttpResponse) -> Changes {
    let (set, append) = ok.headers.into_iter().partition(overwrites);
    let names = ok.headers_to_remove.iter();
    Changes {
        set: headers(set),
        append: headers(append),
        remove: names
            .filter_map(|name| name.parse().ok())
            .filter(|name| !super::is_of_one_hop(name))
            .collect(),
        query_set: (ok.query_parameters_to_set.into_iter())
            .map(|parameter| (parameter.key, parameter.value))
            .collect(),
        query_remove: ok.query_parameters_to_remove,
        to_client: headers(ok.response_headers_to_add),
    }
}

/// A header stands in the place of others, unless the answer says `append`.
fn overwrites(option: &HeaderValueOption) -> bool {
    match option.append {
        Some(append) => !append,
        None => option.append_action == 0 || OVERWRITE.contains(&option.append_action),
    }
}

fn denial(denied: DeniedHttpResponse) -> Denial {
    let code = denied
        .status
        .and_then(|status| u16::try_from(status.code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    Denial {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers: headers(denied.headers),
        body: denied.body.into(),
    }
}

fn headers(options: Vec<HeaderValueOption>) -> Vec<Header> {
    let headers = options.into_iter().filter_map(|option| option.header);
    headers
        .filter_map(|header| match header.raw_value.is_empty() {
            true => super::header(&header.key, header.value.as_bytes()),
            false => super::header(&header.key, &header.raw_value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_proto::auth::{HeaderValue as Value, HttpStatus};
    use ambit_proto::discovery::Status;

    fn option(key: &str, append: Option<bool>) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(Value {
                key: key.to_owned(),
                value: "v".to_owned(),
                raw_value: Bytes::new(),
            }),
            append,
            append_action: 0,
        }
    }

    fn names(headers: &[Header]) -> Vec<&str> {
        headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn an_answer_that_lets_pass() {
        let ok = OkHttpResponse {
            headers: vec![
                option("a", None),
                option("b", Some(true)),
                option("host", None),
                option(":path", None),
            ],
            headers_to_remove: vec!["c".into(), "content-length".into(), "no name".into()],
            ..OkHttpResponse::default()
        };
        let Answer::Allow(changes) = answer(CheckResponse {
            status: Some(Status::default()),
            http_response: Some(HttpResponse::OkResponse(ok)),
        }) else {
            panic!("it passes")
        };
        assert_eq!(names(&changes.set), ["a"]);
        assert_eq!(names(&changes.append), ["b"]);
        assert_eq!(changes.remove, ["c"]);
        let nothing = CheckResponse::default();
        assert!(matches!(answer(nothing), Answer::Allow(_)));
    }

    #[test]
    fn an_answer_that_does_not() {
        let denied = |code, response: Option<DeniedHttpResponse>| {
            let status = Status {
                code,
                ..Status::default()
            };
            match answer(CheckResponse {
                status: Some(status),
                http_response: response.map(HttpResponse::DeniedResponse),
            }) {
                Answer::Deny(denial) => denial.status.as_u16(),
                Answer::Allow(_) => 200,
            }
        };
        let with = |code| {
            Some(DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                ..DeniedHttpResponse::default()
            })
        };
        assert_eq!(denied(7, None), 403);
        assert_eq!(denied(7, with(401)), 401);
        assert_eq!(denied(0, with(401)), 401);
        assert_eq!(denied(7, with(99_999)), 403);
        let strange = CheckResponse {
            status: Some(Status {
                code: 7,
                ..Status::default()
            }),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        };
        assert!(matches!(answer(strange), Answer::Deny(_)));
    }
}
