//! What has to be derived again.

use std::collections::BTreeSet;

use ambit_model::Text;
use ambit_translate::ObjectKey;

use super::tables::RouteKey;

/// Marks of outputs whose inputs changed.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// All of them.
    pub everything: bool,
    /// Workloads of pods.
    pub pods: BTreeSet<ObjectKey>,
    /// Services.
    pub services: BTreeSet<ObjectKey>,
    /// Workloads of endpoints that are no pods, by slice.
    pub slices: BTreeSet<ObjectKey>,
    /// Policies.
    pub policies: BTreeSet<ObjectKey>,
    /// Policies converted from `PeerAuthentication`s.
    pub peers: BTreeSet<ObjectKey>,
    /// The policy that refuses plaintext.
    pub static_strict: bool,
    /// What is believed of tokens.
    pub authentications: BTreeSet<ObjectKey>,
    /// How endpoints are chosen and spared.
    pub traffic: BTreeSet<ObjectKey>,
    /// TLS to the endpoints of services.
    pub backend_tls: BTreeSet<ObjectKey>,
    /// What is told about requests.
    pub telemetry: BTreeSet<ObjectKey>,
    /// What the mesh configuration says of it.
    pub mesh_telemetry: bool,
    /// Other keys may be asked for.
    pub key_sources: bool,
    /// Other ConfigMaps may be asked for.
    pub config_maps: bool,
    /// Routes.
    pub routes: BTreeSet<RouteKey>,
    /// Waypoints, or what they are made of.
    pub gateways: bool,
    /// Names of workloads that are gone although their object is not.
    pub gone_addresses: BTreeSet<Text>,
    /// Names of policies that are gone although their object is not.
    pub gone_policies: BTreeSet<Text>,
}
