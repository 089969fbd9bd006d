//! What every request handler and internal controller shares.

use crate::{
    authn::tokens::TokenIssuer, pki::ClusterPki, registry::Registry, services::Allocator,
    store::Store,
};
use std::net::SocketAddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The state of one API server.
#[derive(Debug)]
pub struct Api {
    /// The objects.
    pub store: Store,
    /// The resources.
    pub registry: Registry,
    /// The keys.
    pub pki: ClusterPki,
    /// Service account tokens.
    pub tokens: TokenIssuer,
    /// Cluster IPs and node ports.
    pub services: Allocator,
    /// How requests reach kubelets and, for proxied services, pods.
    pub kubelets: crate::kubelet::KubeletClient,
    /// Admission webhooks.
    pub hooks: crate::webhooks::Hooks,
    /// What was configured.
    pub settings: Settings,
    /// Work for the garbage collector.
    pub garbage: mpsc::UnboundedSender<crate::gc::Work>,
    /// Ends every stream and task.
    pub stop: CancellationToken,
}

/// What was configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where pods reach the server (endpoint of the service `kubernetes`).
    pub advertise: SocketAddr,
    /// Issuer and default audience of service account tokens.
    pub issuer: String,
    /// `gitVersion` of `/version`.
    pub version: String,
}
