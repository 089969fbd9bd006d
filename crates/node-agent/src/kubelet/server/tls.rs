//! TLS of the kubelet's endpoint: only the API server's client certificate is let in.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::kubelet::config::{KubeletConfig, ServerConfig};

/// Builds the acceptor. HTTP/1.1 only, because upgrades need nothing else.
///
/// # Errors
/// What is wrong with the certificates.
pub(super) fn acceptor(config: &KubeletConfig) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = client_roots(&config.server)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("client CA: {error}"))?;
    let (chain, key) = serving_certificate(config)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("serving certificate: {error}"))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls).into())
}

fn client_roots(config: &ServerConfig) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.client_ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("client CA: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("client CA: {error}"))?;
    }
    if roots.is_empty() {
        Err("client CA: no certificate in the bundle".to_string())
    } else {
        Ok(roots)
    }
}

fn serving_certificate(
    config: &KubeletConfig,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let (chain, key) = match &config.server.serving {
        Some((chain, key)) => (chain.clone(), key.clone()),
        None => self_signed(config)?,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("serving certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("serving key: {error}"))?;
    Ok((chain, key))
}

fn self_signed(config: &KubeletConfig) -> Result<(String, String), String> {
    let mut names = vec![config.node_name.clone()];
    names.extend(config.node_ips.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

/// The common name of the peer's certificate, which the verifier has already checked.
pub(super) fn common_name(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let leaf = certificates?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_string())
}
