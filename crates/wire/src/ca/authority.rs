//! A certificate authority: a key, its certificate, and the rules for what it signs.
//!
//! From a request only the public key is taken. Names, usages and times are ours.

use std::time::{Duration, SystemTime};

use ambit_model::Identity;
use rand::RngExt;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::{IssuedCertificate, Validity};
use super::request::new_request;

/// Certificates are valid from a little before they are made, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(120);

/// Signs certificates of workloads and of the control plane's own servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    validity: Validity,
    certificate_pem: String,
    key_pem: String,
    /// What a leaf is followed by: the signing certificate, if it is not a root, and what is above.
    intermediates: Vec<String>,
    root_pem: String,
}

/// The material of an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate or key is not what it should be.
    #[error("the certificate authority's {what} cannot be used: {reason}")]
    Material {
        /// Which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The key is not the key of the certificate.
    #[error("the certificate authority's key does not belong to its certificate")]
    KeyMismatch,
}

/// A certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is not one, or not signed by its own key.
    #[error("the certificate signing request is not valid: {0}")]
    Request(String),
    /// The authority itself is no longer valid.
    #[error("the certificate authority's own certificate has expired")]
    Expired,
    /// Signing failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root with a new key, valid from now. `organization` is its name; Istio uses the trust
    /// domain.
    pub fn self_signed(organization: &str, lifetime: Duration) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| material("key", error))?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + lifetime);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| material("certificate", error))?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem(), "", "")
    }

    /// An authority from the PEM texts of the secret `cacerts` (or `istio-ca-secret`): the signing
    /// certificate, its key, the chain above it, and the roots. The chain may be empty; the roots
    /// may be when the signing certificate is one itself.
    pub fn from_pem(
        certificate: &str,
        key: &str,
        chain: &str,
        roots: &str,
    ) -> Result<Self, AuthorityError> {
        let unusable = |error| material("certificate", error);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unusable)?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| material("certificate", error))?;
        if !parsed.is_ca() {
            return Err(material(
                "certificate",
                "it is not the certificate of an authority",
            ));
        }
        let key_der = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| material("key", error))?;
        let key_pair = KeyPair::try_from(&key_der).map_err(|error| material("key", error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key_pair.der_bytes() {
            return Err(AuthorityError::KeyMismatch);
        }
        let is_root = parsed.subject() == parsed.issuer();
        let validity = Validity::of(&der).map_err(|error| material("certificate", error))?;
        let root_pem = match (normalized(roots)?, is_root) {
            (roots, _) if !roots.is_empty() => roots.concat(),
            (_, true) => normalized(certificate)?.concat(),
            _ => return Err(material("root certificate", "it is missing")),
        };
        let issuer = Issuer::from_ca_cert_der(&der, key_pair)
            .map_err(|error| material("certificate", error))?;
        Ok(Self {
            issuer,
            validity,
            intermediates: if is_root {
                Vec::new()
            } else {
                intermediates(certificate, chain)?
            },
            certificate_pem: certificate.to_owned(),
            key_pem: key.to_owned(),
            root_pem,
        })
    }

    /// The signing certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, for the secret that keeps it.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The roots that everybody has to trust.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Validity of the signing certificate.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Signs a workload's certificate; returns the elements of an `IstioCertificateResponse`: the
    /// leaf, the intermediates, and all roots in the last one.
    pub fn issue(
        &self,
        csr_pem: &str,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<Vec<String>, IssueError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| IssueError::Request(error.to_string()))?;
        let common_name = request
            .params
            .distinguished_name
            .get(&DnType::CommonName)
            .cloned();
        let uri = identity.to_string();
        let uri = uri
            .try_into()
            .map_err(|error: rcgen::Error| IssueError::Sign(error.to_string()))?;
        let mut params = self.leaf(vec![SanType::URI(uri)], lifetime)?;
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        request.params = params;
        let leaf = request
            .signed_by(&self.issuer)
            .map_err(|error| IssueError::Sign(error.to_string()))?;
        let mut elements = vec![leaf.pem()];
        elements.extend(self.intermediates.iter().cloned());
        elements.push(self.root_pem.clone());
        Ok(elements)
    }

    /// Makes a key and a certificate for it, as a client of this authority would get them.
    pub fn certify(
        &self,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, IssueError> {
        let request = |error: rcgen::Error| IssueError::Request(error.to_string());
        let (key, csr) = new_request(identity).map_err(request)?;
        let elements = self.issue(&csr, identity, lifetime)?;
        let (private, public) = (key.serialize_der(), key.der_bytes());
        IssuedCertificate::from_response(&elements, identity, private, public, true)
            .map_err(|error| IssueError::Sign(error.to_string()))
    }

    /// Signs a certificate for a server of our own with a new key; returns chain and key as PEM.
    pub fn issue_server(
        &self,
        names: &[String],
        lifetime: Duration,
    ) -> Result<(String, String), IssueError> {
        let sign = |error: rcgen::Error| IssueError::Sign(error.to_string());
        let key = KeyPair::generate().map_err(sign)?;
        let names = CertificateParams::new(names)
            .map_err(sign)?
            .subject_alt_names;
        let leaf = self
            .leaf(names, lifetime)?
            .signed_by(&key, &self.issuer)
            .map_err(sign)?;
        let chain = std::iter::once(leaf.pem()).chain(self.intermediates.iter().cloned());
        Ok((chain.collect(), key.serialize_pem()))
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        lifetime: Duration,
    ) -> Result<CertificateParams, IssueError> {
        let now = SystemTime::now();
        let not_after = (now + lifetime).min(self.validity.not_after);
        if not_after <= now {
            return Err(IssueError::Expired);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serial_number = Some(random_serial());
        params.not_before = OffsetDateTime::from((now - BACKDATE).max(self.validity.not_before));
        params.not_after = OffsetDateTime::from(not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn material(what: &'static str, reason: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Material {
        what,
        reason: reason.to_string(),
    }
}

/// The signing certificate and what stands above it, without roots and repetitions.
fn intermediates(certificate: &str, chain: &str) -> Result<Vec<String>, AuthorityError> {
    let mut found: Vec<String> = Vec::new();
    for der in ders(certificate)?.into_iter().chain(ders(chain)?) {
        let is_root = X509Certificate::from_der(&der).is_ok_and(|(_, c)| c.subject() == c.issuer());
        let pem = to_pem(&der);
        if !is_root && !found.contains(&pem) {
            found.push(pem);
        }
    }
    Ok(found)
}

fn ders(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| material("certificate chain", error))
}

/// The certificates of a PEM text, each written anew, without comments between them.
fn normalized(pem: &str) -> Result<Vec<String>, AuthorityError> {
    Ok(ders(pem)?.iter().map(to_pem).collect())
}

fn to_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::rng().random();
    // Positive and never zero (RFC 5280, 4.1.2.2).
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn csr(key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // A name that must not be believed.
        params.subject_alt_names = vec![SanType::DnsName("evil.example".try_into().unwrap())];
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn identity() -> Identity {
        Identity::new("cluster.local", "shop", "cart")
    }

    fn issue(authority: &Authority, lifetime: Duration) -> IssuedCertificate {
        let key = KeyPair::generate().unwrap();
        let elements = authority.issue(&csr(&key), &identity(), lifetime).unwrap();
        let private = key.serialize_der();
        IssuedCertificate::from_response(&elements, &identity(), private, key.der_bytes(), true)
            .unwrap()
    }

    #[test]
    fn issues_what_istio_issues() {
        let authority = Authority::self_signed("cluster.local", 10 * DAY).unwrap();
        let issued = issue(&authority, DAY);
        assert_eq!((issued.chain.len(), issued.roots.len()), (1, 1));
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical, "the subject is empty");
        assert_eq!(names.value.general_names.len(), 1);
        assert!(!leaf.is_ca());
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth);
        let life = issued
            .validity
            .not_after
            .duration_since(issued.validity.not_before)
            .unwrap();
        assert_eq!(life.as_secs(), DAY.as_secs() + 120);
    }

    #[test]
    fn a_leaf_does_not_outlive_its_authority() {
        let authority = Authority::self_signed("cluster.local", DAY).unwrap();
        let issued = issue(&authority, 10 * DAY);
        assert_eq!(issued.validity.not_after, authority.validity().not_after);
        let dead = Authority::self_signed("cluster.local", Duration::ZERO).unwrap();
        let refused = dead.issue(&csr(&KeyPair::generate().unwrap()), &identity(), DAY);
        assert!(matches!(refused, Err(IssueError::Expired)), "{refused:?}");
    }

    #[test]
    fn an_intermediate_is_presented_and_the_root_trusted() {
        let root = Authority::self_signed("root", 10 * DAY).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_after = OffsetDateTime::from(SystemTime::now() + DAY);
        let certificate = params.signed_by(&key, &root.issuer).unwrap().pem();
        let chain = format!("{certificate}{}", root.root_pem());
        let authority =
            Authority::from_pem(&certificate, &key.serialize_pem(), &chain, root.root_pem())
                .unwrap();
        let issued = issue(&authority, DAY);
        assert_eq!((issued.chain.len(), issued.roots.len()), (2, 1));
        let missing_root = Authority::from_pem(&certificate, &key.serialize_pem(), &chain, "");
        assert!(missing_root.is_err());
    }

    #[test]
    fn an_authority_may_have_an_rsa_key() {
        // What Istio makes by itself, and what its documents tell users to make.
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = OffsetDateTime::from(SystemTime::now() + DAY);
        let certificate = params.self_signed(&key).unwrap().pem();
        // Some tools put the parameters of the key before it.
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let key = format!("{parameters}{}", key.serialize_pem());
        let authority = Authority::from_pem(&certificate, &key, "", "").unwrap();
        assert_eq!(issue(&authority, DAY).identity, identity());
    }

    #[test]
    fn refuses_nonsense() {
        let authority = Authority::self_signed("cluster.local", DAY).unwrap();
        let refused = authority.issue("not a request", &identity(), DAY);
        assert!(matches!(refused, Err(IssueError::Request(_))));
        let other = KeyPair::generate().unwrap().serialize_pem();
        let mismatch = Authority::from_pem(authority.certificate_pem(), &other, "", "");
        assert!(matches!(mismatch, Err(AuthorityError::KeyMismatch)));
    }
}
