//! Services: a stable name and address in front of workloads.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::Text;
use crate::workload::{GatewayAddress, NetworkAddress};

/// A hostname owned by a namespace: the key of a service, written `namespace/hostname`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedHostname {
    /// The namespace that owns the name here.
    pub namespace: Text,
    /// Fully qualified host name, possibly `*.example.com`.
    pub hostname: Text,
}

/// Why a string is not a [`NamespacedHostname`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/hostname")]
pub struct ParseNamespacedHostnameError(pub String);

impl NamespacedHostname {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Text>, hostname: impl Into<Text>) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl FromStr for NamespacedHostname {
    type Err = ParseNamespacedHostnameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.split_once('/') {
            Some((ns, host)) if !host.contains('/') => Ok(Self::new(ns, host)),
            _ => Err(ParseNamespacedHostnameError(s.to_owned())),
        }
    }
}

/// Service port → target port. A target of 0 means "by name": see the endpoint's own map.
pub type PortMap = BTreeMap<u16, u16>;

/// What is spoken on a port (`istio.workload.AppProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Not said.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque TCP.
    Tcp,
    /// Opaque TLS.
    Tls,
}

/// What an endpoint can share with its client (`istio.workload.LoadBalancing.Scope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The same region.
    Region,
    /// The same zone.
    Zone,
    /// The same subzone.
    Subzone,
    /// The same node.
    Node,
    /// The same cluster.
    Cluster,
    /// The same network.
    Network,
}

/// How preferences are used (`istio.workload.LoadBalancing.Mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// All endpoints are equal.
    #[default]
    Standard,
    /// Only endpoints that match every preference.
    Strict,
    /// The endpoints that match best, whatever that is.
    Failover,
    /// The address that the client dialled.
    Passthrough,
}

/// Which endpoints may receive traffic (`istio.workload.LoadBalancing.HealthPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HealthPolicy {
    /// Healthy ones.
    #[default]
    OnlyHealthy,
    /// All.
    AllowAll,
}

/// Load balancing of a service (`istio.workload.LoadBalancing`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Preferences, most important first.
    pub routing_preferences: Vec<Scope>,
    /// How they are used.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health_policy: HealthPolicy,
}

/// Address families of a service (`istio.workload.IPFamilies`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamilies {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// Who sees a service (`istio.workload.Service.Visibility`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
}

/// One leg of a canary split between waypoints (`istio.workload.WeightedWaypoint`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Its share, relative to the sum of all.
    pub weight: u32,
}

/// A range of addresses on a network, all of them the service's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkCidr {
    /// Network id.
    pub network: Text,
    /// The range.
    pub cidr: IpNet,
}

/// One service, as the workload discovery service describes it (`istio.workload.Service`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of the Kubernetes object.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Fully qualified host name.
    pub hostname: Text,
    /// Virtual addresses.
    pub vips: Vec<NetworkAddress>,
    /// Virtual address ranges.
    pub cidr_vips: Vec<NetworkCidr>,
    /// Ports.
    pub ports: PortMap,
    /// What is spoken on each service port; ports that are not in the map are unknown.
    pub app_protocols: BTreeMap<u16, AppProtocol>,
    /// Identities that endpoints may have beside their own (SPIFFE URIs).
    pub subject_alt_names: Vec<Text>,
    /// Waypoint for traffic addressed to the service.
    pub waypoint: Option<GatewayAddress>,
    /// Canary split between waypoints; overrides `waypoint` where it can be sampled.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// Load balancing.
    pub load_balancing: Option<LoadBalancing>,
    /// Families that may be chosen; `None` is automatic.
    pub ip_families: Option<IpFamilies>,
    /// It is the owner of its host name over all namespaces.
    pub canonical: bool,
    /// Gateways send traffic for it through its waypoint.
    pub ingress_use_waypoint: bool,
    /// Who sees it.
    pub visibility: Visibility,
}

impl Default for Service {
    fn default() -> Self {
        let empty: Text = "".into();
        Self {
            name: empty.clone(),
            namespace: empty.clone(),
            hostname: empty,
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: PortMap::new(),
            app_protocols: BTreeMap::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: None,
            ip_families: None,
            canonical: false,
            ingress_use_waypoint: false,
            visibility: Visibility::Public,
        }
    }
}

impl Service {
    /// The key of the service.
    pub fn key(&self) -> NamespacedHostname {
        NamespacedHostname {
            namespace: self.namespace.clone(),
            hostname: self.hostname.clone(),
        }
    }
}
