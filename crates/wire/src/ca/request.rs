//! The certificate signing request of a workload.

use ambit_model::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

/// A new P-256 key, and a PEM request signed with it that names the identity and nothing else.
pub(super) fn new_request(identity: &Identity) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key, csr))
}
