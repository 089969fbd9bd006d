//! HTTP requests to a port of a pod, through the API server.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

/// How long a whole request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A pod that requests go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// Sends a request to a port of the pod and gives back the body.
///
/// # Errors
/// When the pod is out of reach or answers with an error.
pub async fn request(
    client: &Client,
    target: &Target,
    port: u16,
    method: Method,
    path: &str,
) -> anyhow::Result<Bytes> {
    let name = format!("pod {}/{}", target.namespace, target.pod);
    let exchange = exchange(client, target, port, method, path);
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(result) => result.with_context(|| format!("{name}, port {port}")),
        Err(_) => bail!("{name}, port {port}: no answer within {TIMEOUT:?}; is the pod running?"),
    }
}

async fn exchange(
    client: &Client,
    target: &Target,
    port: u16,
    method: Method,
    path: &str,
) -> anyhow::Result<Bytes> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let mut forwarder = pods
        .portforward(&target.pod, &[port])
        .await
        .context("the port cannot be forwarded")?;
    let stream = forwarder
        .take_stream(port)
        .context("the port cannot be forwarded")?;
    let refused = forwarder.take_error(port);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Full::new(Bytes::new()))?;
    let answer = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        anyhow::Ok((status, body))
    };
    let (status, body) = match answer.await {
        Ok(answer) => answer,
        Err(error) => {
            // The far end says why on a channel of its own.
            let reason = match refused {
                Some(refused) => tokio::time::timeout(Duration::from_millis(200), refused).await,
                None => Ok(None),
            };
            return match reason {
                Ok(Some(reason)) => Err(error.context(reason)),
                _ => Err(error),
            };
        }
    };
    forwarder.abort();
    if !status.is_success() {
        bail!(
            "{path} answered {status}: {}",
            String::from_utf8_lossy(&body).trim()
        );
    }
    Ok(body)
}
