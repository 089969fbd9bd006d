//! One probe attempt.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::{ProbeTarget, grpc};
use crate::kubelet::process::{self, Stdio};

/// Longest output of a failed attempt that an event quotes.
const QUOTED: usize = 1024;

/// Runs the probe's action within a time.
pub(super) async fn run(
    target: &ProbeTarget,
    probe: &Probe,
    limit: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(limit, act(target, probe)).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "no answer within {}s (context deadline exceeded)",
            limit.as_secs()
        )),
    }
}

async fn act(target: &ProbeTarget, probe: &Probe) -> Result<(), String> {
    if let Some(action) = &probe.http_get {
        return http_get(target, action).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty());
        let address = address(target, host.as_deref(), &action.port)?;
        return TcpStream::connect(address)
            .await
            .map(drop)
            .map_err(|error| format!("dial tcp {address}: {error}"));
    }
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default()).await;
    }
    if let Some(action) = &probe.grpc {
        let address = address(target, None, &IntOrString::Int(action.port))?;
        return grpc::check(address, action.service.as_deref().unwrap_or_default()).await;
    }
    Err("the probe has no action".to_string())
}

fn address(
    target: &ProbeTarget,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<SocketAddr, String> {
    let ip = match host {
        Some(host) => host
            .parse::<IpAddr>()
            .map_err(|_| format!("probe host {host:?} is not an address"))?,
        None => target.address,
    };
    Ok(SocketAddr::new(ip, port_number(&target.container, port)?))
}

/// A port by number or by the name of a container port.
pub(in crate::kubelet) fn port_number(
    container: &Container,
    port: &IntOrString,
) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("container {:?} has no port {port:?}", container.name))
}

async fn http_get(target: &ProbeTarget, action: &HTTPGetAction) -> Result<(), String> {
    let host = action.host.clone().filter(|host| !host.is_empty());
    let address = address(target, host.as_deref(), &action.port)?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("Get {address}: dial tcp: {error}"))?;
    if action.scheme.as_deref() == Some("HTTPS") {
        let name = rustls_pki_types::ServerName::from(address.ip());
        let stream = tls()?
            .connect(name, stream)
            .await
            .map_err(|error| format!("Get https://{address}: {error}"))?;
        return request(stream, action, address).await;
    }
    request(stream, action, address).await
}

async fn request<S>(stream: S, action: &HTTPGetAction, address: SocketAddr) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let path = action
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    };
    let describe = |error: &dyn std::fmt::Display| format!("Get http://{address}{path}: {error}");
    let mut builder = Request::get(&path)
        .header("user-agent", "kube-probe/1.35")
        .header("accept", "*/*");
    let mut has_host = false;
    for header in action.http_headers.iter().flatten() {
        has_host |= header.name.eq_ignore_ascii_case("host");
        builder = builder.header(&header.name, &header.value);
    }
    if !has_host {
        builder = builder.header("host", address.to_string());
    }
    let request = builder
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| describe(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| describe(&e))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| describe(&e));
    let result = match response {
        Ok(response) => {
            let status = response.status();
            // Read the answer, so that the server does not see a broken connection.
            let _ = Limited::new(response.into_body(), 64 * 1024)
                .collect()
                .await;
            if (200..400).contains(&status.as_u16()) {
                Ok(())
            } else {
                Err(format!(
                    "HTTP probe failed with statuscode: {}",
                    status.as_u16()
                ))
            }
        }
        Err(error) => Err(error),
    };
    connection.abort();
    result
}

async fn exec(target: &ProbeTarget, command: Vec<String>) -> Result<(), String> {
    let spec = target.running.exec_spec(command, false);
    let started = process::start(&target.init_program, &spec, Stdio::Pipes { stdin: false })
        .await
        .map_err(|error| error.to_string())?;
    let guard = KillOnDrop(started.process.clone());
    let (out, err) = tokio::join!(quote(started.stdout), quote(started.stderr));
    let exit = started.process.wait().await;
    drop(guard);
    if exit.code == 0 {
        Ok(())
    } else {
        Err(format!("command exited with {}: {out}{err}", exit.code))
    }
}

/// An attempt that is given up must not leave its process behind.
struct KillOnDrop(process::Process);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.0.exited().is_none() {
            self.0.signal(libc::SIGKILL);
        }
    }
}

async fn quote(reader: Option<process::Reader>) -> String {
    let Some(mut reader) = reader else {
        return String::new();
    };
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        if text.len() < QUOTED {
            text.extend_from_slice(&buffer[..count]);
        }
    }
    text.truncate(QUOTED);
    String::from_utf8_lossy(&text).trim().to_string()
}

/// A client that accepts any certificate: a probe asks whether something answers, not who.
fn tls() -> Result<tokio_rustls::TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls_pki_types::CertificateDer<'_>,
        _intermediates: &[rustls_pki_types::CertificateDer<'_>],
        _server_name: &rustls_pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_name_or_number() {
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        let get = |port| port_number(&container, &port);
        assert_eq!(get(IntOrString::Int(1)), Ok(1));
        assert_eq!(get(IntOrString::String("web".into())), Ok(8080));
        assert_eq!(get(IntOrString::String("99".into())), Ok(99));
        assert!(get(IntOrString::String("none".into())).is_err());
        assert!(get(IntOrString::Int(70000)).is_err());
    }
}
