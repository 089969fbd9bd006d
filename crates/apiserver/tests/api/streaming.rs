//! What goes through to kubelets: logs, upgrades, errors.

use crate::common::{Cluster, PODS, pod, send_with};
use ambit_apiserver::pki::ClusterPki;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A kubelet that answers a log with its own URL, echoes upgrades, and fails for `bad`.
async fn kubelet(pki: &ClusterPki) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let key = pki
        .node_serving("n1", &[Ipv4Addr::LOCALHOST.into()])
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap())
        .unwrap();
    // Only the API server may talk to a kubelet.
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(key.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades()
                    .await;
            });
        }
    });
    port
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let url = request.uri().to_string();
    assert!(
        request.headers().get("authorization").is_none(),
        "credentials stay with the API server"
    );
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream.write_all(url.as_bytes()).await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1");
        return Ok(response.body(Full::default()).unwrap());
    }
    if url.contains("previous") {
        let text = "previous terminated container \"c\" in pod \"p\" not found";
        return Ok(Response::builder()
            .status(400)
            .body(Full::from(text))
            .unwrap());
    }
    Ok(Response::new(Full::from(format!("{url}\n"))))
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let port = kubelet(cluster.server.pki()).await;
    cluster
        .post(
            "/api/v1/nodes",
            &json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}),
        )
        .await
        .ok();
    let mut p = pod("p");
    p["spec"]["nodeName"] = "n1".into();
    cluster.post(PODS, &p).await.ok();
    cluster
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let cluster = cluster().await;
    let answer = cluster
        .get(&format!("{PODS}/p/log?follow=true&tailLines=5&container=c"))
        .await;
    assert_eq!(
        String::from_utf8(answer.bytes).unwrap(),
        "/containerLogs/default/p/c?follow=true&tailLines=5\n"
    );
    let answer = cluster.get(&format!("{PODS}/p/log")).await;
    assert_eq!(
        String::from_utf8(answer.bytes).unwrap(),
        "/containerLogs/default/p/c\n"
    );
    let answer = cluster.get(&format!("{PODS}/p/log?previous=true")).await;
    assert!(
        answer
            .refused(400, "BadRequest")
            .starts_with("previous terminated container")
    );
    let answer = cluster.get(&format!("{PODS}/p/log?container=none")).await;
    assert_eq!(
        answer.refused(400, "BadRequest"),
        "container none is not valid for pod p"
    );
    cluster
        .get(&format!("{PODS}/none/log"))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn upgrades_are_carried_as_raw_bytes() {
    let cluster = cluster().await;
    let path = format!("{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false");
    let request = http::Request::post(&path)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(kube::client::Body::empty())
        .unwrap();
    let response = cluster.client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let expected = "/exec/default/p/c?input=1&output=1&command=sh&command=-c";
    let mut head = vec![0; expected.len()];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(String::from_utf8(head).unwrap(), expected);
    stream.write_all(b"\x00\xffraw").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"\x00\xffraw");
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_named() {
    let cluster = Cluster::start().await;
    let mut p = pod("p");
    p["spec"]["nodeName"] = "n9".into();
    cluster.post(PODS, &p).await.ok();
    cluster
        .get(&format!("{PODS}/p/log"))
        .await
        .refused(404, "NotFound");
    cluster
        .post("/api/v1/nodes", &json!({"metadata": {"name": "n9"}}))
        .await
        .ok();
    let message = cluster
        .get(&format!("{PODS}/p/log"))
        .await
        .refused(502, "InternalError");
    assert!(message.contains("n9"), "{message}");
    // Someone else's certificate is not a kubelet's.
    let other = ClusterPki::generate(["x"]).unwrap();
    let port = kubelet(&other).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster
        .send(
            "PATCH",
            "/api/v1/nodes/n9/status",
            "application/merge-patch+json",
            status.to_string(),
        )
        .await
        .ok();
    let message = cluster
        .get(&format!("{PODS}/p/log"))
        .await
        .refused(502, "InternalError");
    assert!(message.contains("signed by the cluster's CA"), "{message}");
}

#[tokio::test]
async fn proxied_to_a_pod() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async move {
            let url = request.uri().to_string();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let text = format!("{url} {}", String::from_utf8_lossy(&body));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    cluster.post(PODS, &pod("p")).await.ok();
    let status = json!({"status": {"podIP": "127.0.0.1"}});
    cluster
        .send(
            "PATCH",
            &format!("{PODS}/p/status"),
            "application/merge-patch+json",
            status.to_string(),
        )
        .await
        .ok();
    let path = format!("{PODS}/p:{port}/proxy/a%2Fb?c=d");
    let answer = send_with(&cluster.client, "POST", &path, &[], "hello").await;
    assert_eq!(String::from_utf8(answer.bytes).unwrap(), "/a%2Fb?c=d hello");
}
