//! Calls a webhook: finds it, trusts what its configuration says, and waits no longer than that.

use super::hook::{Hook, Target};
use crate::{api::Api, backends, http::full, tls};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Largest answer that is read.
const ANSWER_LIMIT: usize = 3 * 1024 * 1024;

/// Sends a review and answers the body of the response. The error is what stands after
/// "failed to call webhook: ".
pub async fn call(api: &Api, hook: &Hook, review: &Value) -> Result<Vec<u8>, String> {
    let text = url(hook);
    let url = Url::parse(&text).map_err(|e| format!("parse {text:?}: {e}"))?;
    let quoted = |why: String| format!("Post {text:?}: {why}");
    match tokio::time::timeout(hook.timeout, exchange(api, hook, &url, review)).await {
        Ok(result) => result.map_err(quoted),
        Err(_) => Err(quoted("context deadline exceeded".into())),
    }
}

/// The URL as errors show it: a service by its name, with its port.
fn url(hook: &Hook) -> String {
    let base = match &hook.client.target {
        Target::Url(url) => url.clone(),
        Target::Service {
            namespace,
            name,
            path,
            port,
        } => format!("https://{name}.{namespace}.svc:{port}{path}"),
    };
    format!("{base}?timeout={}s", hook.timeout.as_secs())
}

async fn exchange(api: &Api, hook: &Hook, url: &Url, review: &Value) -> Result<Vec<u8>, String> {
    let address = address(api, hook, url).await?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| format!("dial tcp {address}: connect: {}", reason(&e)))?;
    // One small message each way.
    let _ = stream.set_nodelay(true);
    let host = url
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_string();
    let server = ServerName::try_from(host.clone()).map_err(|e| format!("{host:?}: {e}"))?;
    let config = tls::trusting(&hook.client.ca)
        .map_err(|e| format!("tls: caBundle of the webhook cannot be used: {e}"))?;
    let stream = TlsConnector::from(config)
        .connect(server, stream)
        .await
        .map_err(|e| format!("tls: failed to verify certificate: {e}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender
            .send_request(request(url, review)?)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await;
        let body = body.map_err(|e| e.to_string())?.to_bytes().to_vec();
        match status.is_success() {
            true => Ok(body),
            false => Err(refused(status, &body)),
        }
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// In the words of Go, which people search for.
fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::HostUnreachable => "no route to host".into(),
        ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

fn request(url: &Url, review: &Value) -> Result<Request<crate::http::Body>, String> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(full(review.to_string()))
        .map_err(|e| e.to_string())
}

fn refused(status: http::StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => format!("the server answered {status}"),
        text => format!("the server answered {status}: {text:.200}"),
    }
}

/// Where to connect: an endpoint of the service, or the host of the URL.
async fn address(api: &Api, hook: &Hook, url: &Url) -> Result<SocketAddr, String> {
    if let Target::Service {
        namespace,
        name,
        port,
        ..
    } = &hook.client.target
    {
        return backends::of_service(api, namespace, name, &port.to_string())
            .await
            .map_err(|error| error.message);
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    let mut found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| format!("dial tcp: lookup {host}: {e}"))?;
    found
        .next()
        .ok_or_else(|| format!("dial tcp: lookup {host}: no such host"))
}
