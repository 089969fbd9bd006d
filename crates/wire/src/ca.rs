//! The certificate authority API: who asks ([`Client`]), who answers ([`service`]), and the signing
//! itself ([`Authority`]), which is pure apart from randomness.

mod authority;
mod certificate;
mod client;
mod request;
mod server;

pub use authority::{Authority, AuthorityError, IssueError};
pub use certificate::{CertificateError, IssuedCertificate, Validity};
pub use client::{Client, ClientOptions, FetchError};
pub use server::{Call, Issuer, service};

/// Metadata key of a request: the identity to issue for, when it is not the caller's own.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// Metadata key of a request: the Kubernetes signer to use.
pub const CERT_SIGNER: &str = "CertSigner";
