//! A certificate as the authority's answer delivers it, checked against what was asked for.

use std::time::{Duration, SystemTime};

use ambit_model::Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this moment.
    pub not_before: SystemTime,
    /// Not after this moment.
    pub not_after: SystemTime,
}

/// A certificate with its key: all that a workload needs to prove who it is.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// Whom it names.
    pub identity: Identity,
    /// The private key, PKCS#8 DER.
    pub key: Vec<u8>,
    /// What is presented: the leaf, then the intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// Validity of the leaf.
    pub validity: Validity,
}

/// An answer of the authority that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificate at all.
    #[error("the certificate authority answered with an empty chain")]
    Empty,
    /// Only the leaf.
    #[error("the certificate authority answered without a root certificate")]
    NoRoot,
    /// Not PEM, or not X.509.
    #[error("the certificate authority answered with something that is no certificate: {0}")]
    Malformed(String),
    /// A certificate for somebody else.
    #[error("the certificate is for {got:?}, but {wanted} was asked for")]
    WrongIdentity {
        /// Who is named, if anybody.
        got: Option<String>,
        /// Who should be.
        wanted: String,
    },
    /// A certificate for another key.
    #[error("the certificate is for another key than the one in the request")]
    WrongKey,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("identity", &self.identity)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Validity {
    /// Reads the validity of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        Ok(validity(&parse(certificate)?))
    }

    /// The moment halfway through: time to renew.
    pub fn half_life(&self) -> SystemTime {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + life / 2
    }
}

impl IssuedCertificate {
    /// Takes an answer apart: the leaf, an intermediate per further element, and in the last
    /// element all roots. `public_key` is the raw public key that the leaf has to carry; `check`
    /// is false for an authority that decides the identity itself.
    pub fn from_response(
        elements: &[String],
        identity: &Identity,
        key: Vec<u8>,
        public_key: &[u8],
        check: bool,
    ) -> Result<Self, CertificateError> {
        let (roots, chain) = match elements {
            [] => return Err(CertificateError::Empty),
            [_] => return Err(CertificateError::NoRoot),
            [chain @ .., roots] => (all(roots)?, chain),
        };
        if roots.is_empty() {
            return Err(CertificateError::NoRoot);
        }
        let chain = chain
            .iter()
            .map(|pem| first(pem))
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = parse(&chain[0])?;
        if leaf.public_key().subject_public_key.data.as_ref() != public_key {
            return Err(CertificateError::WrongKey);
        }
        let named = first_uri(&leaf);
        let identity = match named.as_deref().map(str::parse::<Identity>) {
            Some(Ok(named)) if !check || named == *identity => named,
            _ => {
                let wanted = identity.to_string();
                return Err(CertificateError::WrongIdentity { got: named, wanted });
            }
        };
        let validity = validity(&leaf);
        Ok(Self {
            identity,
            key,
            chain,
            roots,
            validity,
        })
    }
}

fn malformed(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Malformed(error.to_string())
}

fn first(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(malformed)
}

fn all(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(malformed)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(malformed)
}

fn first_uri(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
}

fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let moment = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    Validity {
        not_before: moment(certificate.validity().not_before.timestamp()),
        not_after: moment(certificate.validity().not_after.timestamp()),
    }
}
