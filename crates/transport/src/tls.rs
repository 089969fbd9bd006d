//! Mutual TLS between workloads: SPIFFE identities in place of host names.
//!
//! Always true: TLS 1.3 (1.2 only by explicit option), AES-GCM, both sides present a certificate,
//! no server name is sent or needed, nothing is resumed, and the protocol offered is `h2`. What a
//! peer must prove is said in [`verify`]. Configurations are built once for each certificate, not
//! for each connection.

mod certificate;
mod coalesce;
mod hello;
mod origin;
mod read_ahead;
mod stream;
mod verify;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

pub use certificate::{CertificateError, TlsOptions, WorkloadCertificate};
pub use hello::{Hello, hello};
pub use origin::{Origin, OriginError, OriginName, OriginRoots, OriginStream};
pub use stream::{AcceptError, TlsStream, accept, connect};

/// The versions, suites and groups of every connection, from the one crypto library of the house.
///
/// The provider is always passed on explicitly: a process-wide default belongs to whoever installs
/// one first, and other libraries do.
pub(crate) fn provider(options: &TlsOptions) -> Arc<rustls::crypto::CryptoProvider> {
    use rustls::crypto::aws_lc_rs as lib;
    let mut provider = lib::default_provider();
    provider.cipher_suites = vec![
        lib::cipher_suite::TLS13_AES_256_GCM_SHA384,
        lib::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ];
    if options.tls12 {
        provider.cipher_suites.extend([
            lib::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            lib::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            lib::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            lib::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ]);
    }
    if options.post_quantum_only {
        provider.kx_groups = vec![lib::kx_group::X25519MLKEM768];
    }
    Arc::new(provider)
}

pub(crate) fn versions(options: &TlsOptions) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    if options.tls12 { &BOTH } else { &BOTH[..1] }
}
