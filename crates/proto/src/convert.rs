//! Workloads and services: messages to model and back.
//!
//! What makes a message unusable is decided here: the reasons in [`ConvertError`] reject the
//! one resource that has them, and everything else about a message is accepted. Unknown numbers
//! of enumerations that decide where or how bytes travel reject; unknown numbers that only name
//! things fall back to the default, so that a newer control plane can talk to an older proxy.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;

use ambit_model::service::{
    AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, NamespacedHostname,
    NetworkCidr, PortMap, Scope, Visibility, WeightedWaypoint,
};
use ambit_model::workload::{
    ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, HealthStatus,
    Locality, NetworkAddress, NetworkMode, Protocol, WorkloadType,
};
use ambit_model::{Service, Text, Workload};

use crate::workload as pb;

/// Why one resource is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The resource says neither workload nor service.
    #[error("address has no type; it must be a workload or a service")]
    NoType,
    /// An IP address has another length than 4 or 16 bytes.
    #[error("IP address of {0} bytes; it must have 4 or 16")]
    AddressLength(usize),
    /// A prefix is longer than its address.
    #[error("prefix length {length} is too long for {address}")]
    PrefixLength {
        /// The address.
        address: IpAddr,
        /// The length that was given.
        length: u32,
    },
    /// A gateway reference points nowhere.
    #[error("gateway address has no destination")]
    NoGatewayDestination,
    /// A leg of a canary split points nowhere.
    #[error("weighted waypoint has no destination")]
    NoWeightedWaypointDestination,
    /// A service is named in another form than `namespace/hostname`.
    #[error("service key {0:?} is not of the form namespace/hostname")]
    ServiceKey(String),
    /// A part that is needed is not there, or of a form that this proxy does not know.
    #[error("{0} is missing, or of an unknown form")]
    Missing(&'static str),
    /// A number that the enumeration does not have, or that cannot be served.
    #[error("{field} has the unsupported value {value}")]
    UnsupportedValue {
        /// Name of the field in the message.
        field: &'static str,
        /// The number.
        value: i32,
    },
}

/// A resource of type [`crate::type_url::ADDRESS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A workload.
    Workload(Box<Workload>),
    /// A service.
    Service(Box<Service>),
}

impl TryFrom<pb::Address> for Address {
    type Error = ConvertError;

    fn try_from(message: pb::Address) -> Result<Self, ConvertError> {
        match message.r#type.ok_or(ConvertError::NoType)? {
            pb::address::Type::Workload(w) => Ok(Self::Workload(Box::new(w.try_into()?))),
            pb::address::Type::Service(s) => Ok(Self::Service(Box::new(s.try_into()?))),
        }
    }
}

impl From<&Workload> for pb::Address {
    fn from(workload: &Workload) -> Self {
        Self {
            r#type: Some(pb::address::Type::Workload(workload.into())),
        }
    }
}

impl From<&Service> for pb::Address {
    fn from(service: &Service) -> Self {
        Self {
            r#type: Some(pb::address::Type::Service(service.into())),
        }
    }
}

impl From<&Address> for pb::Address {
    fn from(address: &Address) -> Self {
        match address {
            Address::Workload(w) => w.as_ref().into(),
            Address::Service(s) => s.as_ref().into(),
        }
    }
}

/// The address in `bytes`; an IPv4 address in IPv6 clothes counts as IPv4.
pub(crate) fn ip_from(bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    let ip = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
        other => return Err(ConvertError::AddressLength(other)),
    };
    ip.map(|ip| ip.to_canonical())
        .map_err(|_| ConvertError::AddressLength(bytes.len()))
}

/// The bytes of an address.
pub(crate) fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// Ports travel as 32 bits; the upper half means nothing.
fn port(number: u32) -> u16 {
    number as u16
}

fn unsupported<T>(field: &'static str, value: i32) -> Result<T, ConvertError> {
    Err(ConvertError::UnsupportedValue { field, value })
}

fn or_default(text: String, default: &str) -> Text {
    if text.is_empty() {
        default.into()
    } else {
        text.into()
    }
}

fn network_address(message: pb::NetworkAddress) -> Result<NetworkAddress, ConvertError> {
    Ok(NetworkAddress {
        network: message.network.into(),
        address: ip_from(&message.address)?,
    })
}

fn gateway(message: pb::GatewayAddress) -> Result<GatewayAddress, ConvertError> {
    use pb::gateway_address::Destination;
    let destination = match message
        .destination
        .ok_or(ConvertError::NoGatewayDestination)?
    {
        Destination::Hostname(n) => {
            GatewayDestination::Hostname(NamespacedHostname::new(n.namespace, n.hostname))
        }
        Destination::Address(a) => GatewayDestination::Address(network_address(a)?),
    };
    Ok(GatewayAddress {
        destination,
        hbone_mtls_port: port(message.hbone_mtls_port),
    })
}

impl From<&GatewayAddress> for pb::GatewayAddress {
    fn from(gateway: &GatewayAddress) -> Self {
        use pb::gateway_address::Destination;
        let destination = match &gateway.destination {
            GatewayDestination::Hostname(n) => Destination::Hostname(pb::NamespacedHostname {
                namespace: n.namespace.to_string(),
                hostname: n.hostname.to_string(),
            }),
            GatewayDestination::Address(a) => Destination::Address(a.into()),
        };
        Self {
            destination: Some(destination),
            hbone_mtls_port: gateway.hbone_mtls_port.into(),
        }
    }
}

impl From<&NetworkAddress> for pb::NetworkAddress {
    fn from(address: &NetworkAddress) -> Self {
        Self {
            network: address.network.to_string(),
            address: ip_bytes(address.address),
            length: None,
        }
    }
}

fn port_map(ports: &[pb::Port]) -> PortMap {
    ports
        .iter()
        .map(|p| (port(p.service_port), port(p.target_port)))
        .collect()
}

fn tunnel_protocol(value: i32) -> Result<Protocol, ConvertError> {
    match pb::TunnelProtocol::try_from(value) {
        Ok(pb::TunnelProtocol::None) => Ok(Protocol::Tcp),
        Ok(pb::TunnelProtocol::Hbone) => Ok(Protocol::Hbone),
        _ => unsupported("tunnel_protocol", value),
    }
}

fn status(value: i32) -> Result<HealthStatus, ConvertError> {
    match pb::WorkloadStatus::try_from(value) {
        Ok(pb::WorkloadStatus::Healthy) => Ok(HealthStatus::Healthy),
        Ok(pb::WorkloadStatus::Unhealthy) => Ok(HealthStatus::Unhealthy),
        Err(_) => unsupported("status", value),
    }
}

fn network_mode(value: i32) -> Result<NetworkMode, ConvertError> {
    match pb::NetworkMode::try_from(value) {
        Ok(pb::NetworkMode::Standard) => Ok(NetworkMode::Standard),
        Ok(pb::NetworkMode::HostNetwork) => Ok(NetworkMode::HostNetwork),
        Err(_) => unsupported("network_mode", value),
    }
}

fn workload_type(value: i32) -> WorkloadType {
    match pb::WorkloadType::try_from(value) {
        Ok(pb::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(pb::WorkloadType::Pod) => WorkloadType::Pod,
        Ok(pb::WorkloadType::Job) => WorkloadType::Job,
        Ok(pb::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
    }
}

fn application_tunnel(message: pb::ApplicationTunnel) -> Result<ApplicationTunnel, ConvertError> {
    use pb::application_tunnel::Protocol as P;
    let protocol = match P::try_from(message.protocol) {
        Ok(P::None) => ApplicationTunnelProtocol::None,
        Ok(P::Proxy) => ApplicationTunnelProtocol::Proxy,
        Err(_) => return unsupported("application_tunnel.protocol", message.protocol),
    };
    let port = Some(port(message.port)).filter(|p| *p != 0);
    Ok(ApplicationTunnel { protocol, port })
}

fn workload_services(
    message: BTreeMap<String, pb::PortList>,
) -> Result<BTreeMap<NamespacedHostname, PortMap>, ConvertError> {
    message
        .into_iter()
        .map(|(key, list)| {
            let name = key.parse().map_err(|_| ConvertError::ServiceKey(key))?;
            Ok((name, port_map(&list.ports)))
        })
        .collect()
}

impl TryFrom<pb::Workload> for Workload {
    type Error = ConvertError;

    fn try_from(m: pb::Workload) -> Result<Self, ConvertError> {
        let locality = m.locality.unwrap_or_default();
        Ok(Workload {
            uid: m.uid.into(),
            name: m.name.into(),
            namespace: m.namespace.into(),
            addresses: m
                .addresses
                .iter()
                .map(|a| ip_from(a))
                .collect::<Result<_, _>>()?,
            hostname: m.hostname.into(),
            network: m.network.into(),
            protocol: tunnel_protocol(m.tunnel_protocol)?,
            trust_domain: or_default(m.trust_domain, ambit_model::identity::DEFAULT_TRUST_DOMAIN),
            service_account: or_default(m.service_account, "default"),
            waypoint: m.waypoint.map(gateway).transpose()?,
            network_gateway: m.network_gateway.map(gateway).transpose()?,
            node: m.node.into(),
            canonical_name: m.canonical_name.into(),
            canonical_revision: m.canonical_revision.into(),
            workload_type: workload_type(m.workload_type),
            workload_name: m.workload_name.into(),
            native_tunnel: m.native_tunnel,
            application_tunnel: m.application_tunnel.map(application_tunnel).transpose()?,
            services: workload_services(m.services)?,
            authorization_policies: m
                .authorization_policies
                .into_iter()
                .map(Text::from)
                .collect(),
            status: status(m.status)?,
            cluster_id: or_default(m.cluster_id, "Kubernetes"),
            locality: Locality {
                region: locality.region.into(),
                zone: locality.zone.into(),
                subzone: locality.subzone.into(),
            },
            network_mode: network_mode(m.network_mode)?,
            capacity: m.capacity.unwrap_or(1),
        })
    }
}

/// Fields that have a default on the wire are sent empty when they have it.
fn unless(text: &Text, default: &str) -> String {
    if **text == *default {
        String::new()
    } else {
        text.to_string()
    }
}

impl From<&Workload> for pb::Workload {
    fn from(w: &Workload) -> Self {
        Self {
            uid: w.uid.to_string(),
            name: w.name.to_string(),
            namespace: w.namespace.to_string(),
            addresses: w.addresses.iter().map(|ip| ip_bytes(*ip)).collect(),
            hostname: w.hostname.to_string(),
            network: w.network.to_string(),
            tunnel_protocol: match w.protocol {
                Protocol::Tcp => pb::TunnelProtocol::None,
                Protocol::Hbone => pb::TunnelProtocol::Hbone,
            }
            .into(),
            trust_domain: unless(&w.trust_domain, ambit_model::identity::DEFAULT_TRUST_DOMAIN),
            service_account: unless(&w.service_account, "default"),
            waypoint: w.waypoint.as_ref().map(Into::into),
            network_gateway: w.network_gateway.as_ref().map(Into::into),
            node: w.node.to_string(),
            canonical_name: w.canonical_name.to_string(),
            canonical_revision: w.canonical_revision.to_string(),
            workload_type: match w.workload_type {
                WorkloadType::Deployment => pb::WorkloadType::Deployment,
                WorkloadType::CronJob => pb::WorkloadType::Cronjob,
                WorkloadType::Pod => pb::WorkloadType::Pod,
                WorkloadType::Job => pb::WorkloadType::Job,
            }
            .into(),
            workload_name: w.workload_name.to_string(),
            native_tunnel: w.native_tunnel,
            application_tunnel: w.application_tunnel.map(|t| pb::ApplicationTunnel {
                protocol: match t.protocol {
                    ApplicationTunnelProtocol::None => pb::application_tunnel::Protocol::None,
                    ApplicationTunnelProtocol::Proxy => pb::application_tunnel::Protocol::Proxy,
                }
                .into(),
                port: t.port.unwrap_or(0).into(),
            }),
            services: w
                .services
                .iter()
                .map(|(k, ports)| {
                    (
                        k.to_string(),
                        pb::PortList {
                            ports: port_list(ports, None),
                        },
                    )
                })
                .collect(),
            authorization_policies: w
                .authorization_policies
                .iter()
                .map(ToString::to_string)
                .collect(),
            status: match w.status {
                HealthStatus::Healthy => pb::WorkloadStatus::Healthy,
                HealthStatus::Unhealthy => pb::WorkloadStatus::Unhealthy,
            }
            .into(),
            cluster_id: unless(&w.cluster_id, "Kubernetes"),
            locality: (w.locality != Locality::default()).then(|| pb::Locality {
                region: w.locality.region.to_string(),
                zone: w.locality.zone.to_string(),
                subzone: w.locality.subzone.to_string(),
            }),
            network_mode: match w.network_mode {
                NetworkMode::Standard => pb::NetworkMode::Standard,
                NetworkMode::HostNetwork => pb::NetworkMode::HostNetwork,
            }
            .into(),
            extensions: Vec::new(),
            capacity: Some(w.capacity).filter(|c| *c != 1),
        }
    }
}

fn app_protocol(value: i32) -> AppProtocol {
    match pb::AppProtocol::try_from(value) {
        Ok(pb::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(pb::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(pb::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(pb::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(pb::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(pb::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    }
}

fn port_list(ports: &PortMap, protocols: Option<&BTreeMap<u16, AppProtocol>>) -> Vec<pb::Port> {
    let protocol = |port: &u16| match protocols.and_then(|p| p.get(port)).copied() {
        None | Some(AppProtocol::Unknown) => pb::AppProtocol::Unknown,
        Some(AppProtocol::Http11) => pb::AppProtocol::Http11,
        Some(AppProtocol::Http2) => pb::AppProtocol::Http2,
        Some(AppProtocol::Grpc) => pb::AppProtocol::Grpc,
        Some(AppProtocol::Tcp) => pb::AppProtocol::Tcp,
        Some(AppProtocol::Tls) => pb::AppProtocol::Tls,
    };
    ports
        .iter()
        .map(|(service_port, target)| pb::Port {
            service_port: (*service_port).into(),
            target_port: (*target).into(),
            app_protocol: protocol(service_port).into(),
        })
        .collect()
}

fn scope(value: i32) -> Result<Scope, ConvertError> {
    use pb::load_balancing::Scope as S;
    match S::try_from(value) {
        Ok(S::Region) => Ok(Scope::Region),
        Ok(S::Zone) => Ok(Scope::Zone),
        Ok(S::Subzone) => Ok(Scope::Subzone),
        Ok(S::Node) => Ok(Scope::Node),
        Ok(S::Cluster) => Ok(Scope::Cluster),
        Ok(S::Network) => Ok(Scope::Network),
        Ok(S::UnspecifiedScope) | Err(_) => unsupported("load_balancing.routing_preference", value),
    }
}

fn load_balancing(m: pb::LoadBalancing) -> Result<LoadBalancing, ConvertError> {
    use pb::load_balancing::{HealthPolicy as H, Mode as M};
    Ok(LoadBalancing {
        routing_preferences: m
            .routing_preference
            .into_iter()
            .map(scope)
            .collect::<Result<_, _>>()?,
        mode: match M::try_from(m.mode) {
            Ok(M::UnspecifiedMode) => LoadBalancingMode::Standard,
            Ok(M::Strict) => LoadBalancingMode::Strict,
            Ok(M::Failover) => LoadBalancingMode::Failover,
            Ok(M::Passthrough) => LoadBalancingMode::Passthrough,
            Err(_) => return unsupported("load_balancing.mode", m.mode),
        },
        health_policy: match H::try_from(m.health_policy) {
            Ok(H::OnlyHealthy) => HealthPolicy::OnlyHealthy,
            Ok(H::AllowAll) => HealthPolicy::AllowAll,
            Err(_) => return unsupported("load_balancing.health_policy", m.health_policy),
        },
    })
}

impl From<&LoadBalancing> for pb::LoadBalancing {
    fn from(lb: &LoadBalancing) -> Self {
        use pb::load_balancing::{HealthPolicy as H, Mode as M, Scope as S};
        Self {
            routing_preference: lb
                .routing_preferences
                .iter()
                .map(|scope| {
                    match scope {
                        Scope::Region => S::Region,
                        Scope::Zone => S::Zone,
                        Scope::Subzone => S::Subzone,
                        Scope::Node => S::Node,
                        Scope::Cluster => S::Cluster,
                        Scope::Network => S::Network,
                    }
                    .into()
                })
                .collect(),
            mode: match lb.mode {
                LoadBalancingMode::Standard => M::UnspecifiedMode,
                LoadBalancingMode::Strict => M::Strict,
                LoadBalancingMode::Failover => M::Failover,
                LoadBalancingMode::Passthrough => M::Passthrough,
            }
            .into(),
            health_policy: match lb.health_policy {
                HealthPolicy::OnlyHealthy => H::OnlyHealthy,
                HealthPolicy::AllowAll => H::AllowAll,
            }
            .into(),
        }
    }
}

fn ip_families(value: i32) -> Result<Option<IpFamilies>, ConvertError> {
    match pb::IpFamilies::try_from(value) {
        Ok(pb::IpFamilies::Automatic) => Ok(None),
        Ok(pb::IpFamilies::Ipv4Only) => Ok(Some(IpFamilies::Ipv4)),
        Ok(pb::IpFamilies::Ipv6Only) => Ok(Some(IpFamilies::Ipv6)),
        Ok(pb::IpFamilies::Dual) => Ok(Some(IpFamilies::Dual)),
        Err(_) => unsupported("ip_families", value),
    }
}

/// A virtual address, or a range of them when a shorter prefix is given.
fn vip(m: pb::NetworkAddress) -> Result<Result<NetworkAddress, NetworkCidr>, ConvertError> {
    let address = ip_from(&m.address)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    match m.length {
        Some(length) if length > bits => Err(ConvertError::PrefixLength { address, length }),
        Some(length) if length < bits => {
            let cidr = IpNet::new(address, length as u8)
                .map_err(|_| ConvertError::PrefixLength { address, length })?
                .trunc();
            Ok(Err(NetworkCidr {
                network: m.network.into(),
                cidr,
            }))
        }
        _ => Ok(Ok(NetworkAddress {
            network: m.network.into(),
            address,
        })),
    }
}

impl TryFrom<pb::Service> for Service {
    type Error = ConvertError;

    fn try_from(m: pb::Service) -> Result<Self, ConvertError> {
        let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
        for address in m.addresses {
            match vip(address)? {
                Ok(exact) => vips.push(exact),
                Err(range) => cidr_vips.push(range),
            }
        }
        let weighted_waypoints = m
            .weighted_waypoints
            .into_iter()
            .map(|leg| {
                let to = leg
                    .destination
                    .ok_or(ConvertError::NoWeightedWaypointDestination)?;
                Ok(WeightedWaypoint {
                    destination: gateway(to)?,
                    weight: leg.weight,
                })
            })
            .collect::<Result<_, ConvertError>>()?;
        Ok(Service {
            name: m.name.into(),
            namespace: m.namespace.into(),
            hostname: m.hostname.into(),
            vips,
            cidr_vips,
            ports: port_map(&m.ports),
            app_protocols: m
                .ports
                .iter()
                .map(|p| (port(p.service_port), app_protocol(p.app_protocol)))
                .filter(|(_, protocol)| *protocol != AppProtocol::Unknown)
                .collect(),
            subject_alt_names: m.subject_alt_names.into_iter().map(Text::from).collect(),
            waypoint: m.waypoint.map(gateway).transpose()?,
            weighted_waypoints,
            load_balancing: m.load_balancing.map(load_balancing).transpose()?,
            ip_families: ip_families(m.ip_families)?,
            canonical: m.canonical,
            ingress_use_waypoint: m.ingress_use_waypoint,
            visibility: match pb::service::Visibility::try_from(m.visibility) {
                Ok(pb::service::Visibility::Namespace) => Visibility::Namespace,
                Ok(pb::service::Visibility::Public) | Err(_) => Visibility::Public,
            },
        })
    }
}

impl From<&Service> for pb::Service {
    fn from(s: &Service) -> Self {
        let ranges = s.cidr_vips.iter().map(|range| pb::NetworkAddress {
            network: range.network.to_string(),
            address: ip_bytes(range.cidr.addr()),
            length: Some(range.cidr.prefix_len().into()),
        });
        Self {
            name: s.name.to_string(),
            namespace: s.namespace.to_string(),
            hostname: s.hostname.to_string(),
            addresses: s.vips.iter().map(Into::into).chain(ranges).collect(),
            ports: port_list(&s.ports, Some(&s.app_protocols)),
            subject_alt_names: s
                .subject_alt_names
                .iter()
                .map(ToString::to_string)
                .collect(),
            waypoint: s.waypoint.as_ref().map(Into::into),
            load_balancing: s.load_balancing.as_ref().map(Into::into),
            ip_families: match s.ip_families {
                None => pb::IpFamilies::Automatic,
                Some(IpFamilies::Ipv4) => pb::IpFamilies::Ipv4Only,
                Some(IpFamilies::Ipv6) => pb::IpFamilies::Ipv6Only,
                Some(IpFamilies::Dual) => pb::IpFamilies::Dual,
            }
            .into(),
            extensions: Vec::new(),
            canonical: s.canonical,
            ingress_use_waypoint: s.ingress_use_waypoint,
            weighted_waypoints: s
                .weighted_waypoints
                .iter()
                .map(|leg| pb::WeightedWaypoint {
                    destination: Some((&leg.destination).into()),
                    weight: leg.weight,
                })
                .collect(),
            visibility: match s.visibility {
                Visibility::Public => pb::service::Visibility::Public,
                Visibility::Namespace => pb::service::Visibility::Namespace,
            }
            .into(),
        }
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
