//! TLS to endpoints that are not of the mesh.

use std::convert::Infallible;
use std::sync::Arc;

use ambit_model::state::Change;
use ambit_model::traffic::{BackendTls, ClientTls, Origination};
use ambit_testkit::TestCa;
use ambit_wire::xds::{Handler, Received};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::sniff::Protocol;
use crate::state::BackendTlsHandler;
use crate::testbed::{Testbed, service_key, service_of};

/// A server of TLS for this name; it says which protocol was agreed on, and for which name it was
/// asked.
async fn serve(ca: &TestCa, name: &str) -> u16 {
    let name = rcgen::SanType::DnsName(name.try_into().unwrap());
    let issued = ca.issue_with(&[], |params| params.subject_alt_names.push(name));
    let issued = issued.unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let (_, session) = stream.get_ref();
            let spoken = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default());
            let said = format!("{spoken} {}", session.server_name().unwrap_or_default());
            let service = service_fn(move |request: Request<Incoming>| {
                let scheme = request.uri().scheme_str().unwrap_or_default();
                let said = Bytes::from(format!("{said} {scheme}"));
                async { Ok::<_, Infallible>(Response::new(Full::new(said))) }
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

async fn told(port: u16, tls: Origination) -> Testbed {
    let mut testbed = Testbed::new().await;
    let service = service_of(service_key(), port);
    testbed.know(vec![Change::Service(Arc::new(service))]);
    let policy = BackendTls {
        namespace: "shop".into(),
        name: "tls".into(),
        created: 1,
        targets: vec![(service_key(), Some(80))],
        tls: Arc::new(tls),
    };
    let resource = Received {
        name: policy.key(),
        aliases: Vec::new(),
        message: (&policy).into(),
    };
    let rejected = BackendTlsHandler(testbed.l7()).handle(vec![resource], vec![]);
    assert!(rejected.is_empty());
    testbed
}

async fn answer(testbed: &Testbed) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n";
    let (answer, got) = testbed.exchange(request).await;
    assert!(got.is_empty(), "the plain backend got something");
    String::from_utf8(answer).unwrap()
}

fn client(server: &str, authorities: &TestCa) -> Origination {
    Origination::Tls(ClientTls {
        server: server.into(),
        names: Vec::new(),
        authorities: Some(authorities.root().into()),
    })
}

#[tokio::test]
async fn a_request_goes_out_over_tls() {
    let ca = TestCa::new("authority").unwrap();
    let port = serve(&ca, "cart.example.com").await;
    let testbed = told(port, client("cart.example.com", &ca)).await;
    for _ in 0..2 {
        let answer = answer(&testbed).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("http/1.1 cart.example.com "), "{answer}");
    }
}

#[tokio::test]
async fn http2_goes_out_over_tls_too() {
    let ca = TestCa::new("authority").unwrap();
    let port = serve(&ca, "cart.example.com").await;
    let testbed = told(port, client("cart.example.com", &ca)).await;
    let io = TokioIo::new(testbed.connect(Protocol::Http2));
    let handshake = http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://echo/").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "h2 cart.example.com https");
}

/// Nothing goes out in plain text, and nothing to somebody else.
#[tokio::test]
async fn what_is_not_proven_is_not_sent() {
    let ca = TestCa::new("authority").unwrap();
    let other = TestCa::new("other").unwrap();
    let port = serve(&ca, "cart.example.com").await;
    for tls in [
        client("other.example.com", &ca),
        client("cart.example.com", &other),
        Origination::Unusable("its authorities have not been read yet".into()),
        Origination::Tls(ClientTls {
            server: "cart.example.com".into(),
            names: Vec::new(),
            authorities: Some("no PEM".into()),
        }),
    ] {
        let answer = answer(&told(port, tls.clone()).await).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{tls:?}: {answer}");
    }
}
