//! The Kubernetes side of the contract: labels, annotations, object names, resource types of our
//! own with the CRDs generated from them, and the set-up of a client.
//!
//! What stands here is compatible with Istio's ambient mode by name and meaning. Decisions about
//! the objects are in `ambit-translate`; this crate only says what they look like.

pub mod annotations;
pub mod client;
pub mod crds;
pub mod gateway_api;
pub mod labels;
pub mod names;
pub mod networking;
mod resource;
pub mod security;
pub mod selector;
pub mod status;
pub mod telemetry;

pub use client::{ClientError, ClientOptions, client};
pub use networking::{DestinationRule, DestinationRuleSpec};
pub use security::{
    AuthorizationPolicy, AuthorizationPolicySpec, PeerAuthentication, PeerAuthenticationSpec,
    RequestAuthentication, RequestAuthenticationSpec,
};
pub use telemetry::{Telemetry, TelemetrySpec};
