//! A certificate authority for tests.

use anyhow::Result;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// A root that issues SPIFFE certificates.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, all PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, then intermediates.
    pub chain: String,
    /// Private key, PKCS#8.
    pub key: String,
    /// The root that issued it.
    pub roots: String,
}

impl TestCa {
    /// A new root.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, Duration::days(1));
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
        })
    }

    /// The root, PEM.
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// The root's private key, PEM, for a CA that runs in a process under test.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a workload: one URI name, client and server use, valid for an hour.
    pub fn issue(&self, uri: &str) -> Result<Issued> {
        self.issue_with(&[uri], |_| {})
    }

    /// A certificate with any URI names, changed at will before it is signed.
    pub fn issue_with(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        valid_for(&mut params, Duration::hours(1));
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate: Certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            roots: self.root(),
        })
    }
}

fn valid_for(params: &mut CertificateParams, time: Duration) {
    let now = OffsetDateTime::now_utc();
    // A little in the past, as real authorities do, for clocks that are behind.
    params.not_before = now - Duration::minutes(1);
    params.not_after = now + time;
}
