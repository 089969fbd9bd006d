//! Where a captured outbound connection goes.
//!
//! What is known is never bypassed: a service without a usable endpoint, or with a waypoint that
//! cannot be found, refuses. Only what the mesh does not know at all, and services that ask for
//! it, pass through as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use crate::balance::{self, Host, Purpose};
use crate::service::LoadBalancingMode;
use crate::state::{Found, MeshState};
use crate::waypoint::{self, Gateway};
use crate::workload::{GatewayAddress, GatewayDestination, Protocol};
use crate::{Identity, Service, Text, Workload};

/// Port on which pods and gateways take HBONE.
pub const HBONE_PORT: u16 = 15008;

/// The connection that is decided about.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The pod that connects.
    pub source: &'a Workload,
    /// Where it wanted to go.
    pub original: SocketAddr,
    /// The proxy's own network.
    pub network: &'a str,
    /// Ports of the proxy itself; see [`is_loop`].
    pub own_ports: &'a [u16],
}

/// What `:authority` a tunnel is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// An address and port.
    Address(SocketAddr),
    /// The address that is dialled, with this port.
    Dialled(u16),
    /// A service by name.
    Name(Text, u16),
}

/// What is dialled, and how.
#[derive(Clone, Debug)]
pub enum Route {
    /// As it is: the mesh knows nothing of the destination, or nothing that has a tunnel.
    Plaintext {
        /// Where to.
        host: Host,
        /// Port.
        port: u16,
    },
    /// Through one tunnel.
    Hbone {
        /// Where the tunnel ends.
        host: Host,
        /// The port that takes HBONE.
        port: u16,
        /// What is asked for in it.
        authority: Authority,
        /// Who may answer; never empty.
        identities: Vec<Identity>,
    },
    /// Through a tunnel to another network's gateway, and in it one to the destination.
    DoubleHbone {
        /// The gateway.
        host: Host,
        /// The gateway's HBONE port.
        port: u16,
        /// What is asked for in both tunnels.
        authority: Authority,
        /// Who the gateway may be.
        outer: Vec<Identity>,
        /// Who may answer in the inner tunnel.
        inner: Vec<Identity>,
    },
}

/// A route, and what it leads to as far as that is known.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do.
    pub route: Route,
    /// The workload at the other end of it: for a waypoint, the waypoint's.
    pub workload: Option<Arc<Workload>>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The destination is the proxy itself.
    #[error("attempted recursive call to ourselves")]
    Loop,
    /// The waypoint of the destination is not known, or has no usable endpoint.
    #[error("unknown waypoint: {0}")]
    UnknownWaypoint(String),
    /// The gateway of the destination's network is not known.
    #[error("unknown network gateway: {0}")]
    UnknownNetworkGateway(String),
    /// The service has no endpoint for this port.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(SocketAddr),
    /// The chosen workload cannot be reached from here.
    #[error("no valid routing destination for workload: {0}")]
    NoRoute(Text),
    /// Another network can only be reached by the name of a service.
    #[error("no service for target address: {0}")]
    NoService(SocketAddr),
}

/// The destination would lead back into the proxy.
pub fn is_loop(destination: SocketAddr, own_ports: &[u16]) -> bool {
    destination.ip().is_loopback() && own_ports.contains(&destination.port())
}

/// Decides where `request` goes.
pub fn decide<R: Rng + ?Sized>(
    state: &MeshState,
    request: Request<'_>,
    rng: &mut R,
) -> Result<Decision, Refusal> {
    let Request {
        source,
        original,
        network,
        own_ports,
    } = request;
    if is_loop(original, own_ports) {
        return Err(Refusal::Loop);
    }
    let found = state.find(network, original.ip(), &source.namespace);

    if let Some(Found::Service(service, _)) = found
        && let Some(reference) = waypoint::of_service(service, rng)
    {
        return to_service_waypoint(state, request, service, reference, rng);
    }
    match choose(state, request, rng) {
        Some(chosen) => to_workload(state, request, chosen?, rng),
        None => match found {
            Some(Found::Service(service, _)) if !is_passthrough(service) => {
                Err(Refusal::NoHealthyUpstream(original))
            }
            Some(Found::Service(service, _)) => Ok(pass_through(original, Some(service.clone()))),
            // A range of a service covers the address, and the service has nothing for it: the
            // workload that has the address is still what it is.
            Some(Found::Workload(workload)) => {
                let chosen = Chosen {
                    workload,
                    service: None,
                    host: Host::Ip(original.ip()),
                    port: original.port(),
                };
                to_workload(state, request, chosen, rng)
            }
            None => Ok(pass_through(original, None)),
        },
    }
}

fn is_passthrough(service: &Service) -> bool {
    service
        .load_balancing
        .as_ref()
        .is_some_and(|lb| lb.mode == LoadBalancingMode::Passthrough)
}

fn pass_through(to: SocketAddr, service: Option<Arc<Service>>) -> Decision {
    let route = Route::Plaintext {
        host: Host::Ip(to.ip()),
        port: to.port(),
    };
    Decision {
        route,
        workload: None,
        service,
    }
}

/// A workload that was chosen, with the port of it.
struct Chosen<'a> {
    workload: &'a Arc<Workload>,
    service: Option<&'a Arc<Service>>,
    host: Host,
    port: u16,
}

/// The endpoint for the connection, if the mesh has one: services come before workloads here.
fn choose<'a, R: Rng + ?Sized>(
    state: &'a MeshState,
    Request {
        source,
        original,
        network,
        ..
    }: Request<'_>,
    rng: &mut R,
) -> Option<Result<Chosen<'a>, Refusal>> {
    match waypoint::owner(state, network, original.ip(), &source.namespace)? {
        Found::Service(service, entry) => {
            let purpose = Purpose::Standard;
            let end = balance::pick(service, entry, source, original.port(), purpose, rng)?;
            let (workload, port) = (end.workload, end.port);
            let Some(host) = balance::host(workload, Some(service), original) else {
                return Some(Err(Refusal::NoRoute(workload.uid.clone())));
            };
            Some(Ok(Chosen {
                workload,
                service: Some(service),
                host,
                port,
            }))
        }
        Found::Workload(workload) => Some(Ok(Chosen {
            workload,
            service: None,
            host: Host::Ip(original.ip()),
            port: original.port(),
        })),
    }
}

fn to_service_waypoint<R: Rng + ?Sized>(
    state: &MeshState,
    request: Request<'_>,
    service: &Arc<Service>,
    reference: &GatewayAddress,
    rng: &mut R,
) -> Result<Decision, Refusal> {
    let Request {
        source, original, ..
    } = request;
    let gateway = waypoint::resolve(state, reference, source, original, rng)
        .ok_or_else(|| Refusal::UnknownWaypoint(describe(reference)))?;
    if gateway.workload.network != source.network {
        return across_networks(state, request, service, gateway.workload, rng);
    }
    let authority = Authority::Address(original);
    to_gateway(gateway, authority, Some(service.clone()))
}

fn to_gateway(
    gateway: Gateway<'_>,
    authority: Authority,
    service: Option<Arc<Service>>,
) -> Result<Decision, Refusal> {
    if gateway.host == Host::Remote {
        return Err(Refusal::NoRoute(gateway.workload.uid.clone()));
    }
    Ok(Decision {
        route: Route::Hbone {
            identities: identities(gateway.service.map(|s| &**s), Some(gateway.workload)),
            host: gateway.host,
            port: gateway.port,
            authority,
        },
        workload: Some(gateway.workload.clone()),
        service,
    })
}

fn to_workload<R: Rng + ?Sized>(
    state: &MeshState,
    request: Request<'_>,
    chosen: Chosen<'_>,
    rng: &mut R,
) -> Result<Decision, Refusal> {
    let Request {
        source, original, ..
    } = request;
    let Chosen {
        workload,
        service,
        host,
        port,
    } = chosen;
    if workload.network != source.network {
        let service = service.ok_or(Refusal::NoService(original))?;
        return across_networks(state, request, service, workload, rng);
    }
    if service.is_none()
        && let Some(reference) = &workload.waypoint
        && !waypoint::is_instance(state, reference, source)
    {
        let gateway = waypoint::resolve(state, reference, source, original, rng)
            .ok_or_else(|| Refusal::UnknownWaypoint(describe(reference)))?;
        return to_gateway(gateway, Authority::Address(original), None);
    }
    if host == Host::Remote {
        return Err(Refusal::NoRoute(workload.uid.clone()));
    }
    let route = match workload.protocol {
        Protocol::Hbone => Route::Hbone {
            authority: match &host {
                Host::Ip(ip) => Authority::Address(SocketAddr::new(*ip, port)),
                Host::Name(_) | Host::Remote => Authority::Dialled(port),
            },
            host,
            port: HBONE_PORT,
            identities: identities(service.map(|s| &**s), Some(workload)),
        },
        Protocol::Tcp => Route::Plaintext { host, port },
    };
    Ok(Decision {
        route,
        workload: Some(workload.clone()),
        service: service.cloned(),
    })
}

/// To another network, through the gateway that the workload there names.
fn across_networks<R: Rng + ?Sized>(
    state: &MeshState,
    Request {
        source, original, ..
    }: Request<'_>,
    service: &Arc<Service>,
    workload: &Arc<Workload>,
    rng: &mut R,
) -> Result<Decision, Refusal> {
    let Some(reference) = &workload.network_gateway else {
        return Err(Refusal::NoRoute(workload.uid.clone()));
    };
    let gateway = network_gateway(state, reference, source, original, rng)
        .filter(|gateway| gateway.host != Host::Remote)
        .ok_or_else(|| Refusal::UnknownNetworkGateway(describe(reference)))?;
    let inner = identities(Some(service), None);
    Ok(Decision {
        route: Route::DoubleHbone {
            host: gateway.host,
            port: gateway.port,
            authority: Authority::Name(service.hostname.clone(), original.port()),
            outer: identities(gateway.service.map(|s| &**s), Some(gateway.workload)),
            inner,
        },
        workload: Some(workload.clone()),
        service: Some(service.clone()),
    })
}

fn network_gateway<'a, R: Rng + ?Sized>(
    state: &'a MeshState,
    reference: &GatewayAddress,
    source: &Workload,
    original: SocketAddr,
    rng: &mut R,
) -> Option<Gateway<'a>> {
    let port = reference.hbone_mtls_port;
    let (found, like) = match &reference.destination {
        GatewayDestination::Address(at) => {
            let found = waypoint::owner(state, &at.network, at.address, &source.namespace)?;
            (found, SocketAddr::new(at.address, port))
        }
        GatewayDestination::Hostname(key) => {
            let found = match state.service(key) {
                Some((service, entry)) => Found::Service(service, entry),
                None => Found::Workload(state.workload_named(key)?),
            };
            (found, original)
        }
    };
    match found {
        Found::Service(service, entry) => {
            // Unlike a waypoint, a gateway's service must really have the port.
            let purpose = Purpose::Standard;
            waypoint::of_endpoint(service, entry, source, port, like, purpose, rng)
        }
        Found::Workload(workload) => {
            let host = balance::host(workload, None, like)?;
            Some(Gateway {
                workload,
                service: None,
                host,
                port,
            })
        }
    }
}

/// Who may answer: the identities that the service lists, and the workload's own.
fn identities(service: Option<&Service>, workload: Option<&Workload>) -> Vec<Identity> {
    let listed = service
        .map(|s| &s.subject_alt_names[..])
        .unwrap_or_default();
    listed
        .iter()
        .filter_map(|name| name.parse().ok())
        .chain(workload.map(Workload::identity))
        .collect()
}

fn describe(reference: &GatewayAddress) -> String {
    match &reference.destination {
        GatewayDestination::Hostname(key) => format!("{key}:{}", reference.hbone_mtls_port),
        GatewayDestination::Address(at) => {
            format!(
                "{}/{}",
                at.network,
                SocketAddr::new(at.address, reference.hbone_mtls_port)
            )
        }
    }
}

/// The address of a route that needs no name to be resolved.
pub fn dialled(host: &Host, port: u16) -> Option<SocketAddr> {
    match host {
        Host::Ip(ip) => Some(SocketAddr::new(*ip, port)),
        Host::Name(_) | Host::Remote => None,
    }
}

/// One of the addresses that a name resolved to, of the client's family if there is one.
pub fn of_family<R: Rng + ?Sized>(
    addresses: &[IpAddr],
    like: IpAddr,
    rng: &mut R,
) -> Option<IpAddr> {
    use rand::seq::IteratorRandom;
    let same = |ip: &&IpAddr| ip.is_ipv4() == like.is_ipv4();
    addresses
        .iter()
        .filter(same)
        .choose(rng)
        .or_else(|| addresses.iter().choose(rng))
        .copied()
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
