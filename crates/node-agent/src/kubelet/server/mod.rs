//! The kubelet's HTTPS endpoint, with the paths of a real kubelet. The API server is its only client.

mod logs;
mod query;
mod sessions;
mod tls;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::KubeletError;
use super::node::Node;

/// Body of every answer.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// A TLS handshake that takes longer is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts listening and serving.
///
/// # Errors
/// The certificates are unusable or the address is taken.
pub(super) async fn start(node: Arc<Node>) -> Result<JoinHandle<()>, KubeletError> {
    let acceptor = tls::acceptor(&node.config).map_err(KubeletError::Server)?;
    let address = node.config.server.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| KubeletError::Server(format!("cannot listen on {address}: {error}")))?;
    Ok(tokio::spawn(accept_all(listener, acceptor, node)))
}

async fn accept_all(listener: TcpListener, acceptor: TlsAcceptor, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, acceptor.clone(), node.clone()));
            }
            Err(error) => {
                tracing::warn!("kubelet endpoint: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, node: Arc<Node>) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("kubelet endpoint: handshake: {error}"),
        Err(_) => return,
    };
    let client = tls::common_name(stream.get_ref().1.peer_certificates()).unwrap_or_default();
    let allowed = node.config.server.allowed_clients.contains(&client);
    let service = service_fn(move |request| {
        let (node, client) = (node.clone(), client.clone());
        async move {
            if !allowed {
                let text = format!("client {client:?} may not use the kubelet endpoint\n");
                return Ok::<_, Infallible>(answer(StatusCode::FORBIDDEN, text));
            }
            Ok(route(request, node).await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!("kubelet endpoint: {error}");
    }
}

/// A plain text answer.
pub(super) fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed());
    *response.status_mut() = status;
    response
}

async fn route(request: Request<Incoming>, node: Arc<Node>) -> Response<Body> {
    let path = request.uri().path().to_string();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_read = request.method() == Method::GET;
    match segments.as_slice() {
        ["healthz"] | ["livez"] | ["readyz"] => answer(StatusCode::OK, "ok"),
        ["pods"] if is_read => pods(&node),
        ["containerLogs", namespace, pod, container] if is_read => {
            logs::answer(&node, namespace, pod, container, request.uri().query())
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            let target = (
                namespace.to_string(),
                pod.to_string(),
                container.to_string(),
            );
            sessions::exec(request, &node, target).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            let target = (
                namespace.to_string(),
                pod.to_string(),
                container.to_string(),
            );
            sessions::attach(request, &node, target).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            let (namespace, pod) = (namespace.to_string(), pod.to_string());
            sessions::port_forward(request, &node, &namespace, &pod).await
        }
        _ => answer(
            StatusCode::NOT_FOUND,
            format!("404 page not found: {path}\n"),
        ),
    }
}

fn pods(node: &Node) -> Response<Body> {
    let items: Vec<_> = node.pods.all();
    let list =
        serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    answer(StatusCode::OK, list.to_string())
}
