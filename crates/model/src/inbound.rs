//! What may come in, and where in the pod it goes.
//!
//! A tunnel leads only into the pod whose address it ended at. Anything else in `:authority` is
//! accepted only as a name for that pod, or for what that pod stands in front of.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::balance::{self, Purpose};
use crate::service::NamespacedHostname;
use crate::state::{Found, MeshState};
use crate::waypoint::owner;
use crate::workload::{ApplicationTunnelProtocol, GatewayAddress, GatewayDestination};
use crate::{Service, Text, Workload};

/// `:authority` of a CONNECT request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// An address and port.
    Address(SocketAddr),
    /// A name and port.
    Name(Text, u16),
}

/// A PROXY header that goes in front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// What the client asked for, which the header tells as the destination.
    pub destination: SocketAddr,
}

/// Where a tunnel leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod's address and the port in it; policies look at this.
    pub address: SocketAddr,
    /// Header that the application wants.
    pub proxy_header: Option<ProxyHeader>,
}

/// Why a tunnel leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address is not the pod's.
    #[error("ip mismatch: {pod} != {asked}")]
    Mismatch {
        /// The pod's address.
        pod: IpAddr,
        /// The address in `:authority`.
        asked: IpAddr,
    },
    /// The name belongs to no service or workload.
    #[error("no service or workload for hostname: {0}")]
    UnknownName(Text),
    /// The service does not lead to a port of this pod.
    #[error("requested service {0}:{1} found, but cannot resolve port")]
    UnknownPort(Text, u16),
    /// The application wants a header that needs an address of the service.
    #[error("requested service {0} found, but has no IP addresses")]
    NoAddress(Text),
    /// The port is the proxy's own.
    #[error("attempted recursive call to ourselves")]
    Loop,
}

impl Refusal {
    /// HTTP status that tells the peer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Mismatch { .. } => 400,
            Self::UnknownName(_) | Self::UnknownPort(..) | Self::NoAddress(_) | Self::Loop => 503,
        }
    }
}

/// Finds where a tunnel that ended at `pod` leads.
pub fn target(
    state: &MeshState,
    local: &Workload,
    pod: IpAddr,
    authority: &Authority,
    network: &str,
    own_ports: &[u16],
) -> Result<Target, Refusal> {
    let tunnel = local.application_tunnel;
    let (asked, port) = match authority {
        Authority::Address(asked) => {
            check_address(state, local, pod, asked.ip(), network)?;
            (Some(*asked), asked.port())
        }
        Authority::Name(name, service_port) => {
            let service = named_service(state, local, name)
                .ok_or_else(|| Refusal::UnknownName(name.clone()))?;
            let port = port_in(service, local, *service_port)
                .ok_or_else(|| Refusal::UnknownPort(name.clone(), *service_port))?;
            let vip = address_of(service, network).map(|ip| SocketAddr::new(ip, *service_port));
            if tunnel.is_some() && vip.is_none() {
                return Err(Refusal::NoAddress(name.clone()));
            }
            (vip, port)
        }
    };
    if own_ports.contains(&port) {
        return Err(Refusal::Loop);
    }
    let port = tunnel.and_then(|t| t.port).unwrap_or(port);
    let wants_header = tunnel.is_some_and(|t| t.protocol == ApplicationTunnelProtocol::Proxy);
    Ok(Target {
        address: SocketAddr::new(pod, port),
        proxy_header: asked
            .filter(|_| wants_header)
            .map(|destination| ProxyHeader { destination }),
    })
}

fn check_address(
    state: &MeshState,
    local: &Workload,
    pod: IpAddr,
    asked: IpAddr,
    network: &str,
) -> Result<(), Refusal> {
    if asked == pod || local.application_tunnel.is_some() {
        return Ok(());
    }
    // A waypoint that runs without a tunnel protocol of its own takes what is addressed to the
    // services and workloads behind it.
    let reference = match state.find(network, asked, &local.namespace) {
        Some(Found::Service(service, _)) => service.waypoint.as_ref(),
        Some(Found::Workload(workload)) => workload.waypoint.as_ref(),
        None => None,
    };
    match reference {
        Some(reference) if leads_to(state, reference, local, pod) => Ok(()),
        _ => Err(Refusal::Mismatch { pod, asked }),
    }
}

/// The waypoint reference means this pod.
fn leads_to(state: &MeshState, reference: &GatewayAddress, local: &Workload, pod: IpAddr) -> bool {
    let found = match &reference.destination {
        GatewayDestination::Hostname(key) => match state.service(key) {
            Some((service, entry)) => Some(Found::Service(service, entry)),
            None => state.workload_named(key).map(Found::Workload),
        },
        GatewayDestination::Address(at) => owner(state, &at.network, at.address, &local.namespace),
    };
    match found {
        Some(Found::Service(_, entry)) => entry.endpoints().any(|w| w.uid == local.uid),
        Some(Found::Workload(w)) => w.addresses.contains(&pod),
        None => false,
    }
}

/// The service of a name, the local workload's own namespace first.
fn named_service<'a>(
    state: &'a MeshState,
    local: &Workload,
    name: &str,
) -> Option<&'a Arc<Service>> {
    state
        .service_named(name, &local.namespace, None)
        .map(|(service, _)| service)
}

fn port_in(service: &Service, local: &Workload, port: u16) -> Option<u16> {
    balance::target_port(service, &service.key(), local, port, Purpose::Standard)
}

/// One address of a service: of the own network rather than another, IPv4 rather than IPv6.
fn address_of(service: &Service, network: &str) -> Option<IpAddr> {
    service
        .vips
        .iter()
        .min_by_key(|vip| (*vip.network != *network, vip.address.is_ipv6()))
        .map(|vip| vip.address)
}

/// May captured plaintext go to `destination`?
pub fn check_plaintext(destination: SocketAddr, own_ports: &[u16]) -> Result<(), Refusal> {
    if own_ports.contains(&destination.port()) {
        Err(Refusal::Loop)
    } else {
        Ok(())
    }
}

/// The service that a connection to `port` of the workload is told under: the one that the client
/// named, if the workload serves it, or else the first that leads to the port.
pub fn service_for(
    state: &MeshState,
    local: &Workload,
    port: u16,
    named: Option<&str>,
) -> Option<Arc<Service>> {
    let known = |key: &NamespacedHostname| state.service(key).map(|(service, _)| service.clone());
    if let Some(key) = local
        .services
        .keys()
        .find(|key| Some(&*key.hostname) == named)
        && let Some(service) = known(key)
    {
        return Some(service);
    }
    local.services.iter().find_map(|(key, own)| {
        let service = known(key)?;
        let serves = own.values().any(|target| *target == port)
            || service.ports.values().any(|target| *target == port);
        serves.then_some(service)
    })
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
