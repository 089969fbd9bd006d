//! `security.istio.io`: who may talk to whom, and whether in plaintext.

pub mod authorization_policy;
pub mod peer_authentication;
pub mod request_authentication;

pub use authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec};
pub use peer_authentication::{PeerAuthentication, PeerAuthenticationSpec};
pub use request_authentication::{RequestAuthentication, RequestAuthenticationSpec};

/// API group of these kinds.
pub const GROUP: &str = "security.istio.io";
