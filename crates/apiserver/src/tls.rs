//! TLS settings of the server and of its connections to kubelets.

use crate::pki::{ClusterPki, KeyCert, PkiError};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::sync::Arc;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(what: &str) -> PkiError {
    PkiError::Certificate {
        what: what.into(),
        source: rcgen::Error::CouldNotParseCertificate,
    }
}

fn chain(
    key: &KeyCert,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(key.cert_pem.as_bytes()).collect();
    let certs = certs.map_err(|_| unusable("TLS"))?;
    let key = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).map_err(|_| unusable("TLS"))?;
    Ok((certs, key))
}

fn roots(ca_pem: &str) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let cert = cert.map_err(|_| unusable("the cluster CA"))?;
        roots.add(cert).map_err(|_| unusable("the cluster CA"))?;
    }
    Ok(roots)
}

/// The server: client certificates of the cluster's CA are accepted and not required. Only
/// HTTP/1.1 is offered, so that upgrades (exec, port-forward) work for every client.
pub fn server(pki: &ClusterPki, serving: &KeyCert) -> Result<ServerConfig, PkiError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki.ca_pem())?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|_| unusable("the cluster CA"))?;
    let (certs, key) = chain(serving)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("TLS"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs, key)
        .map_err(|_| unusable("TLS"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts a CA alone and shows no certificate.
pub fn trusting(ca_pem: &str) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("TLS"))?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that trusts the cluster's CA and shows a certificate.
pub fn client(ca_pem: &str, key: &KeyCert) -> Result<ClientConfig, PkiError> {
    let (certs, key) = chain(key)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("TLS"))?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(certs, key)
        .map_err(|_| unusable("TLS"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
