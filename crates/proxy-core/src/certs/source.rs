//! Where certificates come from: the control plane's authority, or, in tests, a built-in one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::Identity;
use ambit_transport::tls::{CertificateError, TlsOptions, WorkloadCertificate};
use ambit_wire::ca;

/// There is no certificate; the text says why.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The authority did not deliver.
    #[error(transparent)]
    Ca(#[from] ca::FetchError),
    /// The built-in authority failed.
    #[error(transparent)]
    Issue(#[from] ca::IssueError),
    /// The fetch itself failed in a way that nobody foresaw.
    #[error("the fetch broke off: {0}")]
    Broken(String),
    /// What was delivered cannot be used.
    #[error(transparent)]
    Unusable(#[from] CertificateError),
}

/// The future of a fetch.
pub type Fetching<'a> =
    Pin<Box<dyn Future<Output = Result<WorkloadCertificate, FetchError>> + Send + 'a>>;

/// Makes certificates, each with a key of its own.
pub trait Source: Send + Sync + 'static {
    /// Fetches a certificate for an identity.
    fn fetch<'a>(&'a self, identity: &'a Identity) -> Fetching<'a>;
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> Fetching<'a> {
        (**self).fetch(identity)
    }
}

/// The control plane's authority.
#[derive(Debug)]
pub struct CaSource {
    client: ca::Client,
    tls: TlsOptions,
}

impl CaSource {
    /// Asks `client`; `tls` is what connections with the certificates may negotiate.
    pub fn new(client: ca::Client, tls: TlsOptions) -> Self {
        Self { client, tls }
    }
}

impl Source for CaSource {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> Fetching<'a> {
        Box::pin(async move { usable(self.client.fetch(identity).await?, &self.tls) })
    }
}

/// An authority in the process itself (`FAKE_CA=true`): proxies with the same one trust each other,
/// and nobody else does.
#[derive(Debug)]
pub struct FakeCa {
    authority: Arc<ca::Authority>,
    lifetime: Duration,
    tls: TlsOptions,
}

impl FakeCa {
    /// Signs with `authority`, for `lifetime`.
    pub fn new(authority: Arc<ca::Authority>, lifetime: Duration, tls: TlsOptions) -> Self {
        Self {
            authority,
            lifetime,
            tls,
        }
    }
}

impl Source for FakeCa {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> Fetching<'a> {
        Box::pin(async move { usable(self.authority.certify(identity, self.lifetime)?, &self.tls) })
    }
}

fn usable(
    issued: ca::IssuedCertificate,
    tls: &TlsOptions,
) -> Result<WorkloadCertificate, FetchError> {
    let bytes = |list: Vec<rustls_pki_types::CertificateDer<'static>>| {
        list.into_iter()
            .map(|certificate| certificate.to_vec())
            .collect()
    };
    let (chain, roots) = (bytes(issued.chain), bytes(issued.roots));
    Ok(WorkloadCertificate::from_der(
        chain, issued.key, roots, tls,
    )?)
}
