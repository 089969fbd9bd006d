//! Workloads: something with an address that traffic goes to and comes from, usually a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Text;
use crate::identity::{DEFAULT_TRUST_DOMAIN, Identity};
use crate::service::{NamespacedHostname, PortMap};

/// How a workload is reached (`istio.workload.TunnelProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain TCP.
    #[default]
    Tcp,
    /// HTTP/2 CONNECT over mutual TLS on port 15008.
    Hbone,
}

/// Whether the workload has a network namespace of its own (`istio.workload.NetworkMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// A pod network of its own.
    #[default]
    Standard,
    /// The node's network. Such a workload is never found by its address.
    HostNetwork,
}

/// Health as the control plane sees it (`istio.workload.WorkloadStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HealthStatus {
    /// May receive traffic.
    #[default]
    Healthy,
    /// Receives traffic only where the service asks for unready endpoints too.
    Unhealthy,
}

/// What owns the workload (`istio.workload.WorkloadType`); it names the baggage key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// A Deployment, or anything long-running.
    #[default]
    Deployment,
    /// A CronJob.
    CronJob,
    /// A bare pod.
    Pod,
    /// A Job.
    Job,
}

impl WorkloadType {
    /// Its name in telemetry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// An address on a named network; the default network's name is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// Network id, empty for the default one.
    pub network: Text,
    /// The address on it.
    pub address: IpAddr,
}

/// Where a gateway (a waypoint or a network gateway) is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// By the name of a service or workload.
    Hostname(NamespacedHostname),
    /// By address.
    Address(NetworkAddress),
}

/// A reference to a gateway (`istio.workload.GatewayAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Which gateway.
    pub destination: GatewayDestination,
    /// Its HBONE port, normally 15008.
    pub hbone_mtls_port: u16,
}

/// Protocol spoken on the loopback leg to an application that wants its traffic wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ApplicationTunnelProtocol {
    /// Nothing is added.
    #[default]
    None,
    /// A PROXY protocol v2 header comes first.
    Proxy,
}

/// `istio.workload.ApplicationTunnel`: captured traffic goes to this port of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApplicationTunnel {
    /// What is spoken on it.
    pub protocol: ApplicationTunnelProtocol,
    /// The port, or `None` to keep the one that was asked for.
    pub port: Option<u16>,
}

/// Where in the world a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region, empty if unknown.
    pub region: Text,
    /// Zone, empty if unknown.
    pub zone: Text,
    /// Subzone, empty if unknown.
    pub subzone: Text,
}

/// One workload, as the workload discovery service describes it (`istio.workload.Workload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique over the mesh, for example `Kubernetes//Pod/shop/cart-0`.
    pub uid: Text,
    /// Pod name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Addresses; none for a workload that is known by [`hostname`](Self::hostname) only.
    pub addresses: Vec<IpAddr>,
    /// DNS name that is resolved on connect, when there is no address.
    pub hostname: Text,
    /// Network id, empty for the default one.
    pub network: Text,
    /// How to reach it.
    pub protocol: Protocol,
    /// Trust domain; never empty here.
    pub trust_domain: Text,
    /// Service account; never empty here.
    pub service_account: Text,
    /// Waypoint for traffic addressed to the workload itself.
    pub waypoint: Option<GatewayAddress>,
    /// The gateway of its network, for clients on other networks.
    pub network_gateway: Option<GatewayAddress>,
    /// Node it runs on.
    pub node: Text,
    /// Canonical service name, for telemetry.
    pub canonical_name: Text,
    /// Canonical revision, for telemetry.
    pub canonical_revision: Text,
    /// What owns it.
    pub workload_type: WorkloadType,
    /// Name of its owner, for example of the Deployment.
    pub workload_name: Text,
    /// It terminates HBONE itself.
    pub native_tunnel: bool,
    /// Captured traffic goes to this tunnel of the application.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Services that it serves, by `namespace/hostname`, with the target port of each service port.
    pub services: BTreeMap<NamespacedHostname, PortMap>,
    /// Keys (`namespace/name`) of the selector policies that apply to it.
    pub authorization_policies: Vec<Text>,
    /// Health.
    pub status: HealthStatus,
    /// Cluster id.
    pub cluster_id: Text,
    /// Locality.
    pub locality: Locality,
    /// Own network namespace or the node's.
    pub network_mode: NetworkMode,
    /// Weight in load balancing; 0 is never chosen.
    pub capacity: u32,
}

impl Default for Workload {
    fn default() -> Self {
        let empty: Text = "".into();
        Self {
            uid: empty.clone(),
            name: empty.clone(),
            namespace: empty.clone(),
            addresses: Vec::new(),
            hostname: empty.clone(),
            network: empty.clone(),
            protocol: Protocol::Tcp,
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            service_account: "default".into(),
            waypoint: None,
            network_gateway: None,
            node: empty.clone(),
            canonical_name: empty.clone(),
            canonical_revision: empty.clone(),
            workload_type: WorkloadType::default(),
            workload_name: empty,
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            authorization_policies: Vec::new(),
            status: HealthStatus::Healthy,
            cluster_id: "Kubernetes".into(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
        }
    }
}

impl Workload {
    /// Who the workload is.
    pub fn identity(&self) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}
