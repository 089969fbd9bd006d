//! The authority in a secret: `cacerts`, which the user brings, or `istio-ca-secret`, which we make.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_kube_api::names;
use ambit_wire::ca::{Authority, AuthorityError};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;

/// Lifetime of a root that we make: ten years, as Istio's.
pub(super) const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// Reads an authority. `None` for a secret that holds none: the key files of a `cacerts` secret
/// may be missing on purpose.
pub(super) fn read(secret: &Secret) -> Result<Option<Authority>, AuthorityError> {
    let text = |key: &str| {
        let value = secret.data.as_ref()?.get(key)?;
        let text = String::from_utf8_lossy(&value.0).into_owned();
        Some(text).filter(|t| !t.trim().is_empty())
    };
    let istio = (text(names::CA_CERT_KEY), text(names::CA_PRIVATE_KEY_KEY));
    if let (Some(certificate), Some(key)) = istio {
        let chain = text(names::CERT_CHAIN_KEY).unwrap_or_default();
        let roots = text(names::ROOT_CERT_KEY).unwrap_or_default();
        return Authority::from_pem(&certificate, &key, &chain, &roots).map(Some);
    }
    // The form of Kubernetes' own TLS secrets, in which cert-manager writes.
    if let (Some(chain), Some(key)) = (text("tls.crt"), text("tls.key")) {
        let roots = text("ca.crt").unwrap_or_default();
        return Authority::from_pem(&chain, &key, &chain, &roots).map(Some);
    }
    Ok(None)
}

/// The secret that keeps a self-signed authority.
pub(super) fn secret(namespace: &str, authority: &Authority) -> Secret {
    let data = [
        (names::CA_CERT_KEY, authority.certificate_pem()),
        (names::CA_PRIVATE_KEY_KEY, authority.key_pem()),
        (names::CERT_CHAIN_KEY, ""),
        (names::ROOT_CERT_KEY, authority.root_pem()),
    ];
    let data: BTreeMap<String, ByteString> = data
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
        .collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(names::SELF_SIGNED_CA_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(names::CA_SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read() {
        let made = Authority::self_signed("cluster.local", ROOT_LIFETIME).unwrap();
        let read = read(&secret("istio-system", &made)).unwrap().unwrap();
        assert_eq!(read.root_pem(), made.root_pem());
        assert_eq!(read.key_pem(), made.key_pem());
    }

    #[test]
    fn the_form_of_tls_secrets() {
        let made = Authority::self_signed("cluster.local", ROOT_LIFETIME).unwrap();
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = [
            ("tls.crt".to_owned(), bytes(made.certificate_pem())),
            ("tls.key".to_owned(), bytes(made.key_pem())),
        ];
        let secret = Secret {
            data: Some(data.into()),
            ..Secret::default()
        };
        assert_eq!(read(&secret).unwrap().unwrap().root_pem(), made.root_pem());
    }

    #[test]
    fn others() {
        assert!(read(&Secret::default()).unwrap().is_none());
        let mut broken = secret(
            "ns",
            &Authority::self_signed("cluster.local", ROOT_LIFETIME).unwrap(),
        );
        let data = broken.data.as_mut().unwrap();
        data.insert(
            names::CA_PRIVATE_KEY_KEY.to_owned(),
            ByteString(b"garbage".to_vec()),
        );
        assert!(read(&broken).is_err());
    }
}
