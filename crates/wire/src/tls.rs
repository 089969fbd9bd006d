//! TLS of the control channels: server authentication only, the client shows a token.
//!
//! Clients check the name of the host against roots that they read again for each connection.
//! Servers hold a certificate that can be replaced while connections live.

mod channel;
mod roots;
mod server;
mod verifier;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use channel::{ConnectError, Target, TargetError};
pub use roots::{Roots, RootsError};
pub use server::{
    Incoming, PeerInfo, ServerCertificate, ServerStream, ServerTlsError, server_config,
};

/// The only provider of cryptography, named explicitly so that no process-wide default matters.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
