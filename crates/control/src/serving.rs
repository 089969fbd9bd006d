//! Our own serving certificate: from our own authority, renewed at half its life and whenever the
//! authority changes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_wire::ca::{Authority, IssueError, Validity};
use ambit_wire::tls::{ServerCertificate, ServerTlsError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::ca::CurrentAuthority;

/// How long a serving certificate is valid.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// There is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The authority does not sign.
    #[error("the control plane's own certificate could not be issued: {0}")]
    Issue(#[from] IssueError),
    /// The result cannot be used.
    #[error("the control plane's own certificate cannot be used: {0}")]
    Tls(#[from] ServerTlsError),
}

/// The names under which clients reach the control plane.
pub fn names(namespace: &str, revision: &str, domain: &str, custom: Option<&str>) -> Vec<String> {
    let mut services = vec!["istiod".to_owned()];
    if revision != ambit_kube_api::labels::DEFAULT_REVISION {
        services.insert(0, format!("istiod-{revision}"));
    }
    services.extend(["istiod-remote".to_owned(), "istio-pilot".to_owned()]);
    let of = |service: &String| {
        [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{domain}"),
            format!("{service}.{namespace}"),
        ]
    };
    let mut names: Vec<String> = services.iter().flat_map(of).collect();
    names.extend(custom.map(str::to_owned));
    names
}

/// A certificate for the names, and the moment to renew it.
fn issue(
    authority: &Authority,
    names: &[String],
) -> Result<(String, String, SystemTime), IssueError> {
    let (chain, key) = authority.issue_server(names, LIFETIME)?;
    let renew = CertificateDer::from_pem_slice(chain.as_bytes())
        .ok()
        .and_then(|leaf| Validity::of(&leaf).ok())
        .map_or_else(
            || SystemTime::now() + LIFETIME / 2,
            |validity| validity.half_life(),
        );
    Ok((chain, key, renew))
}

/// The serving certificate, which a background task keeps valid for as long as the authority is
/// kept.
pub fn start(
    mut authority: CurrentAuthority,
    names: Vec<String>,
) -> Result<Arc<ServerCertificate>, ServingError> {
    let (chain, key, mut renew) = issue(&authority.borrow_and_update(), &names)?;
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes())?;
    let served = certificate.clone();
    tokio::spawn(async move {
        loop {
            let wait = renew.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
                changed = authority.changed() => if changed.is_err() { return },
            }
            let current = authority.borrow_and_update().clone();
            renew = match replace(&served, &current, &names) {
                Ok(renew) => {
                    tracing::info!("the control plane's own certificate was renewed");
                    renew
                }
                Err(error) => {
                    tracing::error!("{error}; the old one is kept");
                    SystemTime::now() + RETRY
                }
            };
        }
    });
    Ok(certificate)
}

fn replace(
    served: &ServerCertificate,
    authority: &Authority,
    names: &[String],
) -> Result<SystemTime, ServingError> {
    let (chain, key, renew) = issue(authority, names)?;
    served.replace(chain.as_bytes(), key.as_bytes())?;
    Ok(renew)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_services() {
        let plain = names("istio-system", "default", "cluster.local", None);
        assert_eq!(plain[0], "istiod.istio-system.svc");
        assert!(plain.contains(&"istiod.istio-system.svc.cluster.local".to_owned()));
        let revision = names(
            "istio-system",
            "canary",
            "cluster.local",
            Some("istiod.example.com"),
        );
        assert_eq!(revision[0], "istiod-canary.istio-system.svc");
        assert!(revision.contains(&"istiod.example.com".to_owned()));
    }

    #[test]
    fn renewed_at_half_life() {
        let authority = Authority::self_signed("cluster.local", LIFETIME * 10).unwrap();
        let (_, _, renew) = issue(&authority, &names("ns", "default", "d", None)).unwrap();
        let wait = renew.duration_since(SystemTime::now()).unwrap();
        assert!(
            wait > LIFETIME / 2 - Duration::from_secs(300) && wait <= LIFETIME / 2,
            "{wait:?}"
        );
    }
}
