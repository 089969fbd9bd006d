//! Who a peer must be.
//!
//! Both sides: the chain leads to one of the mesh's roots, is valid now, and carries the matching
//! extended key usage if it carries any. Then the server wants a client of its own trust domain,
//! and the client wants a server with one of the identities that it expects. Host names play no
//! part, and an empty list of expected identities matches nobody.

use std::fmt;
use std::sync::Arc;

use ambit_model::{Identity, Text};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// A certificate that is sound but belongs to somebody else. The peer sees the alert
/// `certificate_unknown`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongPeer {
    #[error("the client's identity {found:?} is not of the trust domain {own}")]
    TrustDomain { found: Vec<String>, own: Text },
    #[error("the server's identity {found:?} is none of {expected:?}")]
    Identity {
        found: Vec<String>,
        expected: Vec<String>,
    },
}

impl From<WrongPeer> for Error {
    fn from(e: WrongPeer) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e))))
    }
}

/// The URI names of a certificate, in order.
pub(crate) fn uri_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, webpki::Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)?;
    Ok(parsed.valid_uri_names().map(str::to_owned).collect())
}

/// The identity of a verified peer: its first URI name that is one.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    uri_names(certificate)
        .ok()?
        .iter()
        .find_map(|name| name.parse().ok())
}

pub(super) fn names_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    uri_names(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

// === the server's view ===

/// Verifies clients.
pub(crate) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    own_domain: Option<Text>,
}

impl ClientVerifier {
    /// `own_domain` is the trust domain of the server's own certificate; if that has none, the
    /// chain alone decides.
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        own_domain: Option<Text>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider)
            // A client has one certificate; a list of our roots would not help it to choose.
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self { chain, own_domain })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("own_domain", &self.own_domain)
            .finish()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let Some(own) = &self.own_domain else {
            return Ok(verified);
        };
        let found = names_of(end_entity)?;
        let of_own_domain = |name: &String| {
            name.parse::<Identity>()
                .is_ok_and(|i| i.trust_domain == *own)
        };
        if found.iter().any(of_own_domain) {
            Ok(verified)
        } else {
            Err(WrongPeer::TrustDomain {
                found,
                own: own.clone(),
            }
            .into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

// === the client's view ===

/// Verifies servers.
pub(crate) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    expected: Arc<[Identity]>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        expected: Arc<[Identity]>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self {
            roots,
            expected,
            provider,
        }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier")
            .field("expected", &self.expected)
            .finish()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let found = names_of(end_entity)?;
        let expected = |name: &String| {
            name.parse::<Identity>()
                .is_ok_and(|identity| self.expected.contains(&identity))
        };
        if found.iter().any(expected) {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = self.expected.iter().map(ToString::to_string).collect();
        Err(WrongPeer::Identity { found, expected }.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
