//! `CUSTOM` policies with providers of both kinds, and with none that answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::access::{
    AccessPolicy, AccessRule, Action, Attachment, CheckProtocol, HttpCheck, Provider, ShownBody,
};
use ambit_model::policy::StringMatch;
use ambit_model::service::NamespacedHostname;
use ambit_model::state::Change;
use ambit_proto::auth::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, check_response::HttpResponse,
};
use ambit_proto::discovery::Status;
use ambit_wire::xds::{Handler, Received};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message;
use tokio::net::TcpListener;

use crate::state::PolicyHandler;
use crate::testbed::{Got, Testbed, endpoint_of, service_key, service_of};

fn judge() -> NamespacedHostname {
    NamespacedHostname::new("shop", "judge.shop.svc.cluster.local")
}

/// Lets pass what says `x-ext-authz: allow`, over both protocols; says who asks and what it saw.
async fn judge_one(request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    if request.uri().path().starts_with("/envoy.service.auth.v3") {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked = CheckRequest::decode(&body[5..]).unwrap();
        let message = by_call(asked).encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let body = Full::new(Bytes::from(framed)).with_trailers(async { Some(Ok(trailers)) });
        return Response::new(body.boxed());
    }
    let allow = request.headers().get("x-ext-authz");
    let allow = allow.is_some_and(|value| value == "allow");
    let saw = format!("{} {}", request.method(), request.uri());
    let host = request.headers()["host"].clone();
    let token = request.headers().get("x-token").cloned();
    let length = request.into_body().collect().await.unwrap().to_bytes();
    let mut response = Response::builder();
    if let Some(token) = token {
        response = response.header("authorization", token);
    }
    response
        .status(if allow { 200 } else { 401 })
        .header("x-saw", saw)
        .header("x-host", host)
        .header("x-length", length.len())
        .body(Full::new(Bytes::from("not you")).boxed())
        .unwrap()
}

fn by_call(asked: CheckRequest) -> CheckResponse {
    let attributes = asked.attributes.unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    let allow = http
        .headers
        .get("x-ext-authz")
        .is_some_and(|v| v == "allow");
    let option = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: Bytes::new(),
        }),
        ..HeaderValueOption::default()
    };
    let principal = attributes.source.unwrap().principal;
    let response = match allow {
        true => HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![
                option("x-principal", &principal),
                option("x-saw", &http.path),
            ],
            headers_to_remove: vec!["x-ext-authz".into()],
            response_headers_to_add: vec![option("x-answered", "yes")],
            ..OkHttpResponse::default()
        }),
        false => HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: 418 }),
            headers: vec![option("x-why", "no header")],
            body: http.body,
        }),
    };
    CheckResponse {
        status: Some(Status {
            code: if allow { 0 } else { 7 },
            ..Status::default()
        }),
        http_response: Some(response),
    }
}

async fn serve_judge() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(judge_one(request).await) });
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

pub(crate) fn provider(protocol: CheckProtocol) -> Provider {
    Provider {
        service: judge(),
        port: 80,
        timeout: Duration::from_secs(5),
        fail_open: false,
        status_on_error: 503,
        body: None,
        protocol,
    }
}

fn over_http() -> Provider {
    let names = |name: &str| vec![StringMatch::Exact(name.into())];
    provider(CheckProtocol::Http(Box::new(HttpCheck {
        path_prefix: "/check".into(),
        request_headers: names("x-ext-authz"),
        to_backend: vec![StringMatch::Prefix("x-".into())],
        to_client_on_deny: names("x-host"),
        ..HttpCheck::default()
    })))
}

/// A waypoint that asks a provider about everything.
pub(crate) async fn asking(provider: Option<Provider>) -> Testbed {
    let mut testbed = Testbed::new().await;
    let service = service_of(judge(), serve_judge().await);
    testbed.know(vec![
        Change::Service(Arc::new(service)),
        Change::Workload(Arc::new(endpoint_of("judge-1", judge()))),
    ]);
    let policy = AccessPolicy {
        namespace: "shop".into(),
        name: "ask".into(),
        attachments: vec![Attachment::Service(service_key())],
        action: Action::Custom("judge".into()),
        provider,
        rules: vec![AccessRule::default()],
        dry_run: false,
        requires: vec!["custom".into()],
    };
    let received = Received {
        name: policy.key(),
        aliases: Vec::new(),
        message: (&policy).into(),
    };
    PolicyHandler(testbed.l7()).handle(vec![received], vec![]);
    testbed
}

pub(crate) async fn get(testbed: &Testbed, header: &str) -> (String, Vec<Got>) {
    let request = format!("GET /a?b=c HTTP/1.1\r\nhost: echo\r\n{header}\r\n\r\n");
    let (answer, got) = testbed.exchange(request.as_bytes()).await;
    (String::from_utf8(answer).unwrap(), got)
}

async fn post(testbed: &Testbed, body: &str) -> (String, Vec<Got>) {
    let length = body.len();
    let request =
        format!("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: {length}\r\n\r\n{body}");
    let (answer, got) = testbed.exchange(request.as_bytes()).await;
    (String::from_utf8(answer).unwrap(), got)
}

#[tokio::test]
async fn a_provider_of_http() {
    let testbed = asking(Some(over_http())).await;
    let (answer, got) = get(&testbed, "x-ext-authz: allow\r\ncookie: secret").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(got[0].values("x-saw"), ["GET /check/a?b=c"]);
    assert_eq!(got[0].values("x-host"), ["echo"]);
    let (answer, got) = get(&testbed, "x-ext-authz: no").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(
        answer.contains("x-host: echo") && answer.ends_with("not you"),
        "{answer}"
    );
    assert!(!answer.contains("x-saw"), "{answer}");
    assert_eq!(got, []);
}

#[tokio::test]
async fn a_provider_of_grpc() {
    let testbed = asking(Some(provider(CheckProtocol::Grpc))).await;
    let (answer, got) = get(&testbed, "x-ext-authz: allow").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-answered: yes"), "{answer}");
    let principal = "spiffe://cluster.local/ns/shop/sa/client";
    assert_eq!(got[0].values("x-principal"), [principal]);
    assert_eq!(got[0].values("x-saw"), ["/a?b=c"]);
    assert_eq!(got[0].values("x-ext-authz"), [""; 0]);
    let (answer, got) = get(&testbed, "x: y").await;
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    assert!(answer.contains("x-why: no header"), "{answer}");
    assert_eq!(got, []);
}

#[tokio::test]
async fn what_a_provider_is_shown_of_a_body() {
    let body = |partial| {
        Some(ShownBody {
            max_bytes: 4,
            partial,
            raw: false,
        })
    };
    let mut grpc = provider(CheckProtocol::Grpc);
    grpc.body = body(true);
    let testbed = asking(Some(grpc.clone())).await;
    // The provider says what it saw.
    let (answer, _) = post(&testbed, "abcdef").await;
    assert!(answer.ends_with("\r\n\r\nabcd"), "{answer}");
    grpc.body = body(false);
    let testbed = asking(Some(grpc)).await;
    let (answer, got) = post(&testbed, "abcdef").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(got, []);
    let (answer, _) = post(&testbed, "abc").await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");

    // What was shown still goes to the backend, as a whole.
    let mut http = over_http();
    http.body = body(true);
    let testbed = asking(Some(http)).await;
    let request =
        "POST / HTTP/1.1\r\nhost: echo\r\nx-ext-authz: allow\r\ncontent-length: 6\r\n\r\nabcdef";
    let (_, got) = testbed.exchange(request.as_bytes()).await;
    assert_eq!(got[0].body, b"abcdef");
    assert_eq!(got[0].values("x-length"), ["4"]);
}

#[tokio::test]
async fn without_an_answer_the_request_passes_only_where_the_mesh_says_so() {
    let mut deaf = provider(CheckProtocol::Grpc);
    deaf.service = NamespacedHostname::new("shop", "nobody");
    let testbed = asking(Some(deaf.clone())).await;
    let (answer, got) = get(&testbed, "x-ext-authz: allow").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(got, []);
    deaf.fail_open = true;
    let testbed = asking(Some(deaf)).await;
    let (answer, got) = get(&testbed, "x: y").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(got.len(), 1);
    // A provider that nobody knows is no reason to let anything pass.
    let testbed = asking(None).await;
    let (answer, got) = get(&testbed, "x-ext-authz: allow").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(got, []);
}
