//! The cluster's keys: its CA, the API server's certificate, the key that signs service account
//! tokens, and the client certificates of admin, API server and nodes.
//!
//! Everything hangs on one CA, as in a kubeadm cluster. The private keys leave this module only
//! as PEM for the files of their owners.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{io, net::IpAddr, path::Path, time::Duration};

/// How long certificates are valid, from an hour before they are made (clocks differ).
const VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// Failures while making or loading keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The cryptography library refused.
    #[error("cannot make a certificate for {what}: {source}")]
    Certificate {
        /// What was being made.
        what: String,
        /// The library's reason.
        source: rcgen::Error,
    },
    /// A name that cannot stand in a certificate.
    #[error("{0:?} cannot be a name in a certificate: use a DNS name or an IP address")]
    Name(String),
    /// Files of an earlier run cannot be read or written.
    #[error("cannot use the key file {path}: {source}; remove the folder to make new keys")]
    File {
        /// The file.
        path: String,
        /// The reason.
        source: io::Error,
    },
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone)]
pub struct KeyCert {
    /// The certificate, followed by its issuers if any.
    pub cert_pem: String,
    /// PKCS#8 private key.
    pub key_pem: String,
}

impl std::fmt::Debug for KeyCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyCert(..)")
    }
}

/// The keys of one cluster.
pub struct ClusterPki {
    ca: KeyCert,
    service_account: KeyCert,
    serving_names: Vec<String>,
}

impl std::fmt::Debug for ClusterPki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterPki")
            .field("serving_names", &self.serving_names)
            .finish()
    }
}

impl ClusterPki {
    /// Makes new keys. `names` are the DNS names and addresses under which clients reach the API
    /// server, beside those that every cluster has.
    pub fn generate(names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, PkiError> {
        let mut params = parameters("the cluster CA", "kubernetes", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = new_key("the cluster CA")?;
        let cert = params.self_signed(&key).map_err(failed("the cluster CA"))?;
        let ca = KeyCert {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        };
        let signer = new_key("service account tokens")?;
        let service_account = KeyCert {
            cert_pem: signer.public_key_pem(),
            key_pem: signer.serialize_pem(),
        };
        let serving_names = names.into_iter().map(Into::into).collect();
        Ok(ClusterPki {
            ca,
            service_account,
            serving_names,
        })
    }

    /// Loads the keys of a folder, or makes them there.
    pub fn load_or_generate(
        folder: &Path,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, PkiError> {
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        let loaded = (
            read("ca.crt"),
            read("ca.key"),
            read("sa.pub"),
            read("sa.key"),
        );
        if let (Ok(ca_cert), Ok(ca_key), Ok(sa_pub), Ok(sa_key)) = loaded {
            return Ok(ClusterPki {
                ca: KeyCert {
                    cert_pem: ca_cert,
                    key_pem: ca_key,
                },
                service_account: KeyCert {
                    cert_pem: sa_pub,
                    key_pem: sa_key,
                },
                serving_names: names.into_iter().map(Into::into).collect(),
            });
        }
        let pki = Self::generate(names)?;
        for (name, content) in [
            ("ca.crt", &pki.ca.cert_pem),
            ("ca.key", &pki.ca.key_pem),
            ("sa.pub", &pki.service_account.cert_pem),
            ("sa.key", &pki.service_account.key_pem),
        ] {
            crate::kubeconfig::write_private(&folder.join(name), content.as_bytes()).map_err(
                |source| PkiError::File {
                    path: folder.join(name).display().to_string(),
                    source,
                },
            )?;
        }
        Ok(pki)
    }

    /// The CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.cert_pem
    }

    /// The key pair that signs service account tokens; `cert_pem` is the bare public key.
    pub fn service_account_key(&self) -> &KeyCert {
        &self.service_account
    }

    /// The API server's own certificate.
    pub fn serving(&self, more: &[String]) -> Result<KeyCert, PkiError> {
        let names: Vec<String> = self.serving_names.iter().chain(more).cloned().collect();
        self.issue_server("kube-apiserver", None, &names)
    }

    /// The administrator's client certificate: member of `system:masters`, which no rule limits.
    pub fn admin(&self) -> Result<KeyCert, PkiError> {
        self.issue_client("kubernetes-admin", Some("system:masters"))
    }

    /// The certificate with which the API server talks to kubelets.
    pub fn kubelet_client(&self) -> Result<KeyCert, PkiError> {
        self.issue_client("kube-apiserver-kubelet-client", Some("system:masters"))
    }

    /// The client certificate of a node: user `system:node:<name>`, group `system:nodes`.
    pub fn node_client(&self, node: &str) -> Result<KeyCert, PkiError> {
        self.issue_client(&format!("system:node:{node}"), Some("system:nodes"))
    }

    /// The serving certificate of a node's kubelet; the API server requires that it is signed by
    /// this CA and names the address it dials.
    pub fn node_serving(&self, node: &str, addresses: &[IpAddr]) -> Result<KeyCert, PkiError> {
        let mut names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        names.push(node.to_string());
        self.issue_server(&format!("system:node:{node}"), Some("system:nodes"), &names)
    }

    /// A client certificate for a user and one group.
    pub fn issue_client(&self, user: &str, group: Option<&str>) -> Result<KeyCert, PkiError> {
        let mut params = parameters(user, user, group)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(user, params)
    }

    /// A server certificate for DNS names and addresses.
    pub fn issue_server(
        &self,
        common_name: &str,
        organization: Option<&str>,
        names: &[String],
    ) -> Result<KeyCert, PkiError> {
        let mut params = parameters(common_name, common_name, organization)?;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .map_err(|_| PkiError::Name(name.clone()))?,
                ),
            });
        }
        self.issue(common_name, params)
    }

    fn issue(&self, what: &str, params: CertificateParams) -> Result<KeyCert, PkiError> {
        let ca_key = KeyPair::from_pem(&self.ca.key_pem).map_err(failed("the cluster CA"))?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca.cert_pem, ca_key)
            .map_err(failed("the cluster CA"))?;
        let key = new_key(what)?;
        let cert = params.signed_by(&key, &issuer).map_err(failed(what))?;
        Ok(KeyCert {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn new_key(what: &str) -> Result<KeyPair, PkiError> {
    // P-256 is the default of the library, and what every client verifies.
    KeyPair::generate().map_err(failed(what))
}

fn parameters(
    what: &str,
    common_name: &str,
    organization: Option<&str>,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed(what))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::HOUR;
    params.not_after = now + VALID;
    Ok(params)
}

fn failed(what: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let what = what.to_string();
    move |source| PkiError::Certificate { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_what_was_asked_and_hang_on_the_ca() {
        let pki = ClusterPki::generate(["example.test", "127.0.0.1"]).unwrap();
        let serving = pki.serving(&[]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(serving.cert_pem.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(pki.ca_pem().as_bytes()).unwrap();
        cert.verify_signature(Some(ca.parse_x509().unwrap().public_key()))
            .unwrap();
        let names = format!(
            "{:?}",
            cert.subject_alternative_name().unwrap().unwrap().value
        );
        assert!(names.contains("example.test"), "{names}");
    }

    #[test]
    fn keys_survive_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let a = ClusterPki::load_or_generate(dir.path(), ["a"]).unwrap();
        let b = ClusterPki::load_or_generate(dir.path(), ["a"]).unwrap();
        assert_eq!(a.ca_pem(), b.ca_pem());
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let pki = ClusterPki::generate(["a"]).unwrap();
        assert!(!format!("{pki:?} {:?}", pki.admin().unwrap()).contains("PRIVATE"));
    }
}
