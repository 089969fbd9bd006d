//! Which certificate authorities a client trusts.

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Bundles of the common distributions, tried in this order for [`Roots::System`].
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where trusted roots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// A PEM file, read again for each connection.
    File(PathBuf),
    /// What the machine trusts.
    System,
    /// PEM text.
    Pem(String),
}

/// No connection can be made for want of usable roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("the root certificates {path} cannot be read: {source}; is the volume mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it is a certificate.
    #[error("there is no usable certificate in {0}")]
    Empty(String),
}

impl Roots {
    /// The meaning of `XDS_ROOT_CA` and `CA_ROOT_CA`: `SYSTEM`, PEM text, or a path.
    pub fn parse(text: &str) -> Self {
        if text == "SYSTEM" {
            Roots::System
        } else if text.contains("-----BEGIN") {
            Roots::Pem(text.to_owned())
        } else {
            Roots::File(PathBuf::from(text))
        }
    }

    /// The PEM text as it is now.
    pub fn read(&self) -> Result<Vec<u8>, RootsError> {
        let read = |path: PathBuf| match std::fs::read(&path) {
            Ok(text) => Ok(text),
            Err(source) => Err(RootsError::Read { path, source }),
        };
        match self {
            Roots::Pem(text) => Ok(text.clone().into_bytes()),
            Roots::File(path) => read(path.clone()),
            Roots::System => {
                let found = SYSTEM_BUNDLES
                    .iter()
                    .map(PathBuf::from)
                    .find(|path| path.exists());
                read(found.unwrap_or_else(|| SYSTEM_BUNDLES[0].into()))
            }
        }
    }

    /// The roots as they are now.
    pub fn load(&self) -> Result<RootCertStore, RootsError> {
        let name = match self {
            Roots::File(path) => path.display().to_string(),
            Roots::System => "the system's bundle".to_owned(),
            Roots::Pem(_) => "the given PEM text".to_owned(),
        };
        parse_pem(&self.read()?).ok_or(RootsError::Empty(name))
    }
}

/// The certificates of a PEM text; `None` if there are none that can be used.
fn parse_pem(pem: &[u8]) -> Option<RootCertStore> {
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates);
    (added > 0).then_some(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_three_forms() {
        assert_eq!(Roots::parse("SYSTEM"), Roots::System);
        assert_eq!(Roots::parse("./a.pem"), Roots::File("./a.pem".into()));
        assert!(matches!(
            Roots::parse("-----BEGIN CERTIFICATE-----\n"),
            Roots::Pem(_)
        ));
    }

    #[test]
    fn says_what_is_missing() {
        let missing = Roots::parse("/nonexistent/root-cert.pem")
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("/nonexistent/root-cert.pem cannot be read"),
            "{missing}"
        );
        let nonsense =
            Roots::Pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into());
        assert!(matches!(nonsense.load(), Err(RootsError::Empty(_))));
    }
}
