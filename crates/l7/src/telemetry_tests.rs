//! What collectors, logs and metrics are told of requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::service::NamespacedHostname;
use ambit_model::state::Change;
use ambit_model::telemetry::{
    ALL, Collector, CollectorProtocol, Context, LogFormat, LogProvider, Logging, Metric,
    MetricOverride, Share, Tag, Telemetry, TraceProvider, Tracing,
};
use ambit_proto::otlp::KeyValue;
use ambit_proto::otlp::any_value::Value as Any;
use ambit_proto::otlp::logs::v1::{ExportLogsServiceRequest, LogRecord};
use ambit_proto::otlp::trace::v1::{ExportTraceServiceRequest, Span, status::Code};
use ambit_wire::xds::{Handler, Received};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;

use crate::reporting::Environment;
use crate::state::TelemetryHandler;
use crate::testbed::{Got, Testbed, endpoint_of, service_of};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What a collector was told.
#[derive(Default)]
struct Told {
    spans: Vec<Span>,
    logs: Vec<LogRecord>,
    zipkin: Vec<serde_json::Value>,
    services: Vec<String>,
    keys: Vec<String>,
}

type Shared = Arc<Mutex<Told>>;

fn collector_key() -> NamespacedHostname {
    NamespacedHostname::new("o11y", "collector.o11y.svc.cluster.local")
}

fn collector(protocol: CollectorProtocol) -> Collector {
    Collector {
        service: collector_key(),
        port: 80,
        timeout: Duration::from_secs(5),
        protocol,
        headers: vec![("x-key".into(), "secret".into())],
    }
}

/// Takes spans and logs over everything that OTLP and Zipkin have.
async fn collect(told: Shared, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let path = request.uri().path().to_owned();
    let key = request.headers()["x-key"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut told = told.lock();
    told.keys.push(key);
    let text = |tags: &[KeyValue], key: &str| value(tags, key).unwrap_or_default();
    let spans = |told: &mut Told, message: &[u8]| {
        for group in ExportTraceServiceRequest::decode(message)
            .unwrap()
            .resource_spans
        {
            let resource = group.resource.unwrap();
            told.services
                .push(text(&resource.attributes, "service.name"));
            told.spans
                .extend(group.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    };
    let mut grpc = true;
    match path.as_str() {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
            spans(&mut told, &body[5..]);
        }
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
            for group in ExportLogsServiceRequest::decode(&body[5..])
                .unwrap()
                .resource_logs
            {
                told.logs
                    .extend(group.scope_logs.into_iter().flat_map(|s| s.log_records));
            }
        }
        "/v1/traces" => {
            spans(&mut told, &body);
            grpc = false;
        }
        "/api/v2/spans" => {
            let list: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
            told.zipkin.extend(list);
            grpc = false;
        }
        other => panic!("{other}"),
    }
    if !grpc {
        let mut accepted = Response::new(Full::default().boxed());
        *accepted.status_mut() = http::StatusCode::ACCEPTED;
        return accepted;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    Response::new(body.boxed())
}

fn value(tags: &[KeyValue], key: &str) -> Option<String> {
    let tag = tags.iter().find(|tag| tag.key == key)?;
    match tag.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
    }
}

async fn serve(told: Shared) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            let service = service_fn(move |request| {
                let told = told.clone();
                async { Ok::<_, Infallible>(collect(told, request).await) }
            });
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

fn nothing() -> Telemetry {
    Telemetry {
        namespace: "shop".into(),
        name: "all".into(),
        created: 1,
        root: false,
        attachments: Vec::new(),
        logs: Vec::new(),
        tracing: Vec::new(),
        metrics: Vec::new(),
    }
}

fn traced(context: Context, protocol: CollectorProtocol, sampling: Share) -> Telemetry {
    Telemetry {
        tracing: vec![Tracing {
            provider: Some(TraceProvider {
                name: "otel".into(),
                collector: collector(protocol),
                context,
                max_tag_length: 5,
            }),
            sampling: Some(sampling),
            ..Tracing::default()
        }],
        ..nothing()
    }
}

/// A waypoint that is told this, and its collector.
async fn testbed(telemetry: &Telemetry) -> (Testbed, Shared) {
    let told = Shared::default();
    let port = serve(told.clone()).await;
    let mut testbed = Testbed::new().await;
    testbed.know(vec![
        Change::Service(Arc::new(service_of(collector_key(), port))),
        Change::Workload(Arc::new(endpoint_of("collector-1", collector_key()))),
    ]);
    let environment = Environment::from([("POD_NAME".to_owned(), "waypoint-1".to_owned())]);
    let resource = Received {
        name: telemetry.key(),
        aliases: Vec::new(),
        message: telemetry.into(),
    };
    let rejected = TelemetryHandler(testbed.l7(), environment).handle(vec![resource], vec![]);
    assert!(rejected.is_empty());
    (testbed, told)
}

/// Sends a request with these headers; what the backend got of it.
async fn ask(testbed: &Testbed, headers: &[(&str, &str)]) -> Got {
    let mut request = "GET /shelf?b=1 HTTP/1.1\r\nhost: echo\r\n".to_owned();
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    let (answer, mut got) = testbed.exchange(format!("{request}\r\n").as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    got.remove(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_trace_goes_on() {
    let protocols = [
        CollectorProtocol::OtlpGrpc,
        CollectorProtocol::OtlpHttp("/v1/traces".into()),
    ];
    for protocol in protocols {
        let mut telemetry = traced(Context::W3c, protocol, 0);
        telemetry.tracing[0].tags = BTreeMap::from([
            ("a".into(), Tag::Literal("1".into())),
            ("b".into(), Tag::Environment("POD_NAME".into(), "".into())),
            ("c".into(), Tag::Environment("NONE".into(), "other".into())),
            ("d".into(), Tag::Header("x-user".into(), "".into())),
            ("e".into(), Tag::Header("x-none".into(), "nobody".into())),
            (
                "f".into(),
                Tag::Format("%REQ(:METHOD)% %RESPONSE_CODE%".into()),
            ),
        ]);
        let (testbed, told) = testbed(&telemetry).await;
        let headers = [
            ("traceparent", PARENT),
            ("tracestate", "vendor=1"),
            ("x-user", "jo"),
        ];
        let got = ask(&testbed, &headers).await;
        testbed.flush().await;
        let told = told.lock();
        let [span] = &told.spans[..] else {
            panic!("{:?}", told.spans)
        };
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
        assert_eq!(span.trace_state, "vendor=1");
        assert_eq!(span.name, "echo.shop.svc.cluster.local:80/*");
        assert!(span.start_time_unix_nano > 0);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        // The backend goes on from this span.
        let next = format!("00-{TRACE}-{}-01", hex(&span.span_id));
        assert_eq!(got.values("traceparent"), [&next]);
        assert_eq!(got.values("tracestate"), ["vendor=1"]);
        for (key, wanted) in [
            ("http.method", "GET"),
            ("http.url", "http://echo/shel"),
            ("http.status_code", "200"),
            ("peer.address", "10.0.0.9"),
            (
                "upstream_cluster",
                "inbound-vip|80|http|echo.shop.svc.cluster.local",
            ),
            ("guid:x-request-id", got.values("x-request-id")[0]),
            ("istio.namespace", "shop"),
            ("istio.canonical_service", "waypoint"),
            ("istio.destination_instance_name", "echo-1"),
            ("istio.upstream.namespace", "shop"),
            ("a", "1"),
            ("b", "waypoint-1"),
            ("c", "other"),
            ("d", "jo"),
            ("e", "nobody"),
            ("f", "GET 200"),
        ] {
            let got = value(&span.attributes, key);
            assert_eq!(got.as_deref(), Some(wanted), "{key}");
        }
        assert_eq!(told.services, ["waypoint.shop"]);
        assert_eq!(told.keys, ["secret"]);
    }
}

#[tokio::test]
async fn zipkin_and_b3() {
    let protocol = CollectorProtocol::Zipkin("/api/v2/spans".into());
    let (testbed, told) = testbed(&traced(Context::B3, protocol, ALL)).await;
    let got = ask(&testbed, &[]).await;
    testbed.flush().await;
    let told = told.lock();
    let span = &told.zipkin[0];
    assert_eq!(span["traceId"], got.values("x-b3-traceid")[0]);
    assert_eq!(span["id"], got.values("x-b3-spanid")[0]);
    assert_eq!(span["localEndpoint"]["serviceName"], "waypoint.shop");
    assert_eq!(span["tags"]["http.method"], "GET");
    assert_eq!(got.values("x-b3-sampled"), ["1"]);
    assert_eq!(got.values("traceparent"), [""; 0]);
    // Whoever looks at the identifier decides the same.
    assert_eq!(got.values("x-request-id")[0].as_bytes()[14], b'9');
}

#[tokio::test]
async fn what_is_not_traced_leaves_no_span() {
    let (testbed, told) = testbed(&traced(Context::W3c, CollectorProtocol::OtlpGrpc, 0)).await;
    let got = ask(&testbed, &[]).await;
    assert!(got.values("traceparent")[0].ends_with("-00"));
    let unsampled = PARENT.replace("-01", "-00");
    let got = ask(&testbed, &[("traceparent", &unsampled)]).await;
    let next = got.values("traceparent")[0].to_owned();
    assert!(next.contains(TRACE) && next.ends_with("-00"), "{next}");
    testbed.flush().await;
    assert!(told.lock().spans.is_empty());
}

#[tokio::test]
async fn spans_and_headers_can_be_switched_off_alone() {
    let mut telemetry = traced(Context::W3c, CollectorProtocol::OtlpGrpc, ALL);
    telemetry.tracing[0].no_spans = Some(true);
    let (bed, told) = testbed(&telemetry).await;
    let got = ask(&bed, &[("traceparent", PARENT)]).await;
    bed.flush().await;
    assert_ne!(got.values("traceparent"), [PARENT]);
    assert!(told.lock().spans.is_empty());

    telemetry.tracing[0].no_spans = None;
    telemetry.tracing[0].no_propagation = Some(true);
    telemetry.tracing[0].mesh_tags = Some(false);
    let (bed, told) = testbed(&telemetry).await;
    let got = ask(&bed, &[("traceparent", PARENT)]).await;
    bed.flush().await;
    assert_eq!(got.values("traceparent"), [PARENT]);
    let span = told.lock().spans.remove(0);
    assert_eq!(value(&span.attributes, "istio.namespace"), None);

    let (bed, _) = testbed(&nothing()).await;
    let got = ask(&bed, &[("traceparent", PARENT)]).await;
    assert_eq!(got.values("traceparent"), [PARENT]);
    assert_eq!(ask(&bed, &[]).await.values("traceparent"), [""; 0]);
}

#[tokio::test]
async fn a_failure_is_one_in_the_span_too() {
    let (mut testbed, told) =
        testbed(&traced(Context::W3c, CollectorProtocol::OtlpGrpc, ALL)).await;
    testbed.know(vec![Change::RemoveAddress("echo-1".into())]);
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n";
    let (answer, _) = testbed.exchange(request).await;
    assert!(answer.starts_with(b"HTTP/1.1 503"));
    testbed.flush().await;
    let span = told.lock().spans.remove(0);
    assert_eq!(span.status.unwrap().code, i32::from(Code::Error));
    assert_eq!(value(&span.attributes, "error").as_deref(), Some("true"));
    let flags = value(&span.attributes, "response_flags");
    assert_eq!(flags.as_deref(), Some("UH"));
}

/// Requests do not wait for a collector, nor fail with it.
#[tokio::test]
async fn without_a_collector_requests_go_on() {
    let telemetry = traced(Context::W3c, CollectorProtocol::OtlpGrpc, ALL);
    let (mut testbed, told) = testbed(&telemetry).await;
    testbed.know(vec![Change::RemoveAddress("collector-1".into())]);
    ask(&testbed, &[]).await;
    testbed.flush().await;
    assert!(told.lock().spans.is_empty());
    let back = endpoint_of("collector-1", collector_key());
    testbed.know(vec![Change::Workload(Arc::new(back))]);
    ask(&testbed, &[]).await;
    testbed.flush().await;
    assert_eq!(told.lock().spans.len(), 1);
}

#[tokio::test]
async fn access_logs_go_to_a_collector_by_a_filter() {
    let fields = vec![("code".into(), "%RESPONSE_CODE%".into())];
    let provider = |name: &str, format| LogProvider {
        name: name.into(),
        format,
        collector: Some(collector(CollectorProtocol::OtlpGrpc)),
    };
    let telemetry = Telemetry {
        logs: vec![Logging {
            providers: vec![
                provider("a", LogFormat::Json(fields)),
                provider("b", LogFormat::Text("%REQ(:PATH)%".into())),
            ],
            filter: Some("request.headers['x-log'] == 'yes'".into()),
            ..Logging::default()
        }],
        ..traced(Context::W3c, CollectorProtocol::OtlpGrpc, ALL)
    };
    let (testbed, told) = testbed(&telemetry).await;
    ask(&testbed, &[("x-log", "yes"), ("traceparent", PARENT)]).await;
    ask(&testbed, &[("x-log", "no")]).await;
    ask(&testbed, &[]).await;
    testbed.flush().await;
    let told = told.lock();
    assert_eq!(told.logs.len(), 2);
    let code = told
        .logs
        .iter()
        .find_map(|log| value(&log.attributes, "code"));
    assert_eq!(code.as_deref(), Some("200"));
    let bodies = told.logs.iter().filter_map(|log| log.body.clone()?.value);
    let bodies: Vec<Any> = bodies.collect();
    assert_eq!(bodies, [Any::StringValue("/shelf?b=1".into())]);
    assert!(told.logs.iter().all(|log| hex(&log.trace_id) == TRACE));
}

#[tokio::test]
async fn labels_of_metrics() {
    let change = |metrics: &[Metric], disabled, labels: &[(&str, Option<&str>)]| MetricOverride {
        metrics: metrics.into(),
        disabled,
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).into(), value.map(Into::into)))
            .collect(),
    };
    let telemetry = Telemetry {
        metrics: vec![
            change(
                &[Metric::Requests],
                None,
                &[
                    ("host", Some("request.host")),
                    ("user", Some("request.headers['x-user']")),
                    ("source_app", None),
                    ("response_code", Some("string(response.code / 100) + 'xx'")),
                ],
            ),
            change(&[Metric::Duration], Some(true), &[]),
        ],
        ..nothing()
    };
    let (testbed, _) = testbed(&telemetry).await;
    ask(&testbed, &[]).await;
    let page = testbed.metrics();
    let find = |name: &str| page.lines().find(|line| line.starts_with(name));
    let line = find("istio_requests_total{").unwrap();
    for wanted in ["host=\"echo\"", "user=\"unknown\"", "response_code=\"2xx\""] {
        assert!(line.contains(wanted), "{line}");
    }
    assert!(!line.contains("source_app"), "{line}");
    assert_eq!(find("istio_request_duration_milliseconds_count"), None);
    assert!(
        find("istio_request_bytes_count{")
            .unwrap()
            .contains("source_app")
    );
}
