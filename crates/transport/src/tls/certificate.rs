//! One epoch of a workload's certificate, with the TLS configurations that follow from it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_model::{Identity, Text};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::FromDer;

use super::verify::{ClientVerifier, ServerVerifier, uri_names};

/// What may be negotiated beyond the fixed rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Allow TLS 1.2 as well (`TLS12_ENABLED`).
    pub tls12: bool,
    /// Allow only the hybrid post-quantum key exchange (`COMPLIANCE_POLICY=pqc`).
    pub post_quantum_only: bool,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM, or holds none of what it should.
    #[error("cannot read the {what} as PEM: {reason}")]
    Pem {
        /// Certificate chain, private key or roots.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The chain has no certificate.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// Without a root nobody can be verified.
    #[error("no trusted root certificate was given")]
    NoRoots,
    /// A certificate cannot be parsed.
    #[error("cannot parse the {what}: {reason}")]
    Parse {
        /// Which certificate.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Key and certificate do not belong together, or the TLS library cannot use them.
    #[error("the certificate and its key cannot be used for TLS: {0}")]
    Unusable(String),
}

/// A certificate with its key and roots. Clones share one value.
#[derive(Clone)]
pub struct WorkloadCertificate(Arc<Inner>);

struct Inner {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    store: Arc<RootCertStore>,
}

impl fmt::Debug for WorkloadCertificate {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.0.identity)
            .field("serial", &self.0.serial)
            .field("not_after", &self.0.not_after)
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// Takes the leaf followed by intermediates (no root), its private key (PKCS#8, SEC1 or PKCS#1)
    /// and the trusted roots, all PEM.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        roots: &[u8],
        options: &TlsOptions,
    ) -> Result<Self, CertificateError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| CertificateError::Pem {
            what: "private key",
            reason: e.to_string(),
        })?;
        build(
            pem("certificate chain", chain)?,
            key,
            pem("root certificates", roots)?,
            options,
        )
    }

    /// Takes the same as DER; the key is PKCS#8.
    pub fn from_der(
        chain: Vec<Vec<u8>>,
        pkcs8: Vec<u8>,
        roots: Vec<Vec<u8>>,
        options: &TlsOptions,
    ) -> Result<Self, CertificateError> {
        let der = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
        build(
            der(chain),
            PrivateKeyDer::Pkcs8(pkcs8.into()),
            der(roots),
            options,
        )
    }

    /// Who the certificate speaks for: its first URI name that is an identity.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    /// Leaf and intermediates, DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chain.iter().map(|c| c.as_ref())
    }

    /// Trusted roots, DER.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.0.roots.iter().map(|c| c.as_ref())
    }

    /// Serial number of the leaf, decimal.
    pub fn serial(&self) -> &str {
        &self.0.serial
    }

    /// When the leaf becomes valid.
    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    /// When the leaf expires.
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Whether the leaf has expired or is not valid yet.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.0.not_before <= now && now < self.0.not_after
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.0.server.clone()
    }

    /// The client configuration for a peer that must have one of these identities.
    pub(crate) fn client_config(&self, expected: Arc<[Identity]>) -> Arc<ClientConfig> {
        // All but the verifier is shared, so this clones a handful of pointers.
        let mut config = self.0.client.clone();
        let provider = config.crypto_provider().clone();
        let verifier = ServerVerifier::new(self.0.store.clone(), expected, provider);
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

fn pem(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|e| CertificateError::Pem {
            what,
            reason: e.to_string(),
        })
}

fn build(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    options: &TlsOptions,
) -> Result<WorkloadCertificate, CertificateError> {
    let leaf = chain.first().ok_or(CertificateError::EmptyChain)?;
    let store = Arc::new(root_store(&roots)?);
    let names = uri_names(leaf).map_err(|e| CertificateError::Parse {
        what: "certificate",
        reason: e.to_string(),
    })?;
    // The first name decides about the trust domain, the first that is an identity about the name.
    let own_domain = names
        .first()
        .and_then(|n| n.parse::<Identity>().ok())
        .map(|i| i.trust_domain);
    let identity = names.iter().find_map(|n| n.parse().ok());
    let (serial, not_before, not_after) = facts(leaf)?;
    let server = server_config(&chain, &key, store.clone(), own_domain, options)?;
    let client = client_config(&chain, &key, store.clone(), options)?;
    Ok(WorkloadCertificate(Arc::new(Inner {
        chain,
        roots,
        identity,
        serial,
        not_before,
        not_after,
        server,
        client,
        store,
    })))
}

fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root.clone())
            .map_err(|e| CertificateError::Parse {
                what: "root certificate",
                reason: e.to_string(),
            })?;
    }
    if store.is_empty() {
        Err(CertificateError::NoRoots)
    } else {
        Ok(store)
    }
}

fn facts(leaf: &CertificateDer<'_>) -> Result<(String, SystemTime, SystemTime), CertificateError> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf).map_err(|e| {
        CertificateError::Parse {
            what: "certificate",
            reason: e.to_string(),
        }
    })?;
    let time = |t: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(t.timestamp().max(0).unsigned_abs())
    };
    let validity = parsed.validity();
    Ok((
        parsed.serial.to_string(),
        time(validity.not_before),
        time(validity.not_after),
    ))
}

fn unusable(e: impl fmt::Display) -> CertificateError {
    CertificateError::Unusable(e.to_string())
}

fn server_config(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    store: Arc<RootCertStore>,
    own_domain: Option<Text>,
    options: &TlsOptions,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = super::provider(options);
    let verifier = ClientVerifier::new(store, own_domain, provider.clone()).map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(super::versions(options))
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain.to_vec(), key.clone_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    store: Arc<RootCertStore>,
    options: &TlsOptions,
) -> Result<ClientConfig, CertificateError> {
    let provider = super::provider(options);
    // This verifier expects nobody; every connection gets one of its own.
    let nobody = ServerVerifier::new(store, Arc::from([]), provider.clone());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(super::versions(options))
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_auth_cert(chain.to_vec(), key.clone_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}
