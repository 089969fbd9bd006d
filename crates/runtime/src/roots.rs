//! Authorities that servers outside of the mesh are believed by.

use rustls_pki_types::CertificateDer;

/// Those that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others); where it names none,
/// as in images that carry no files but the program, those that Mozilla trusts.
pub fn system() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("an authority of the system cannot be read: {error}");
    }
    match found.certs.is_empty() {
        true => webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec(),
        false => found.certs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_some() {
        assert!(system().len() > 10);
    }
}
