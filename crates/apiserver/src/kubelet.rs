//! The way from the API server to kubelets: mutual TLS with certificates of the cluster's CA,
//! and connections that become raw byte streams after an upgrade.

use crate::{
    http::{Body, BoxError},
    pki::{ClusterPki, PkiError},
    status::{ApiError, Result},
    tls,
};
use http::{HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long a kubelet may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Dials kubelets.
#[derive(Clone)]
pub struct KubeletClient {
    tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for KubeletClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeletClient")
    }
}

impl KubeletClient {
    /// A client with a fresh certificate.
    pub fn new(pki: &ClusterPki) -> Result<Self, PkiError> {
        let tls = tls::client(pki.ca_pem(), &pki.kubelet_client()?)?;
        Ok(KubeletClient { tls: Arc::new(tls) })
    }

    /// Sends a request to a kubelet. An upgrade that it accepts is carried on as raw bytes in
    /// both directions, whatever its protocol.
    pub async fn forward(
        &self,
        node: &str,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        let failed = |why: String| {
            ApiError::bad_gateway(format!(
                "error dialing backend: the kubelet of node {node:?} at {address}: {why}"
            ))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed("connect timed out".into()))?
            .map_err(|e| failed(e.to_string()))?;
        // Interactive sessions are small packets.
        let _ = stream.set_nodelay(true);
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .map_err(|e| failed(format!("TLS: {e} (its certificate must be signed by the cluster's CA and name the address)")))?;
        forward_on(stream, request)
            .await
            .map_err(|e| failed(e.to_string()))
    }

    /// Sends a request to a pod or service in plain HTTP (`proxy` subresources).
    pub async fn forward_plain(
        &self,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>> {
        let failed = |why: String| {
            ApiError::bad_gateway(format!("error trying to reach service: {address}: {why}"))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed("connect timed out".into()))?
            .map_err(|e| failed(e.to_string()))?;
        forward_on(stream, request)
            .await
            .map_err(|e| failed(e.to_string()))
    }
}

async fn forward_on<S>(
    stream: S,
    mut request: Request<Body>,
) -> Result<Response<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    let ours = hyper::upgrade::on(&mut request);
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    let mut response = sender.send_request(request).await?;
    if wants_upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(splice(ours, theirs));
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, crate::http::full("")));
    }
    let mut response =
        response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync());
    for name in [
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
    ] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

/// Carries bytes between two upgraded connections until both directions are done.
async fn splice(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "streaming session ended");
            }
        }
        Err(error) => tracing::debug!(%error, "streaming session not upgraded"),
    }
}
