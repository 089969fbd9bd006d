//! Which waypoint takes a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::{Rng, RngExt};

use crate::balance::{self, Host, Purpose};
use crate::state::{Found, MeshState};
use crate::workload::{GatewayAddress, GatewayDestination};
use crate::{Service, Workload};

/// A waypoint, or another gateway that is reached over HBONE.
#[derive(Clone, Debug)]
pub struct Gateway<'a> {
    /// The workload that takes the connection.
    pub workload: &'a Arc<Workload>,
    /// The service that it was chosen from, if the gateway is named by one.
    pub service: Option<&'a Arc<Service>>,
    /// Where to dial it.
    pub host: Host,
    /// HBONE port.
    pub port: u16,
}

/// The reference that counts for a service now: a leg of its canary split, or its waypoint.
pub fn of_service<'a, R: Rng + ?Sized>(
    service: &'a Service,
    rng: &mut R,
) -> Option<&'a GatewayAddress> {
    let total: u64 = service
        .weighted_waypoints
        .iter()
        .map(|leg| u64::from(leg.weight))
        .sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut draw = rng.random_range(0..total);
    for leg in &service.weighted_waypoints {
        let weight = u64::from(leg.weight);
        if draw < weight {
            return Some(&leg.destination);
        }
        draw -= weight;
    }
    service.waypoint.as_ref()
}

/// Finds the gateway of a reference, for a connection of `source` to `original`.
pub fn resolve<'a, R: Rng + ?Sized>(
    state: &'a MeshState,
    reference: &GatewayAddress,
    source: &Workload,
    original: SocketAddr,
    rng: &mut R,
) -> Option<Gateway<'a>> {
    let port = reference.hbone_mtls_port;
    match &reference.destination {
        GatewayDestination::Hostname(key) => {
            if let Some((service, entry)) = state.service(key) {
                return of_endpoint(
                    service,
                    entry,
                    source,
                    port,
                    original,
                    Purpose::Waypoint,
                    rng,
                );
            }
            let workload = state.workload_named(key)?;
            let host = balance::host(workload, None, original)?;
            Some(Gateway {
                workload,
                service: None,
                host,
                port,
            })
        }
        GatewayDestination::Address(at) => {
            let like = SocketAddr::new(at.address, port);
            match owner(state, &at.network, at.address, &source.namespace)? {
                Found::Service(service, entry) => {
                    of_endpoint(service, entry, source, port, like, Purpose::Waypoint, rng)
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
    }
}

/// What owns an address, for sending to it: services come first.
pub fn owner<'a>(
    state: &'a MeshState,
    network: &str,
    ip: IpAddr,
    namespace: &str,
) -> Option<Found<'a>> {
    match state.service_at(network, ip, namespace) {
        Some((service, entry)) => Some(Found::Service(service, entry)),
        None => state.workload_at(network, ip).map(Found::Workload),
    }
}

/// Draws an endpoint of a gateway's service.
pub fn of_endpoint<'a, R: Rng + ?Sized>(
    service: &'a Arc<Service>,
    entry: &'a crate::state::ServiceEntry,
    source: &Workload,
    port: u16,
    original: SocketAddr,
    purpose: Purpose,
    rng: &mut R,
) -> Option<Gateway<'a>> {
    let endpoint = balance::pick(service, entry, source, port, purpose, rng)?;
    let host = balance::host(endpoint.workload, Some(service), original)?;
    Some(Gateway {
        workload: endpoint.workload,
        service: Some(service),
        host,
        port: endpoint.port,
    })
}

/// `workload` is an instance of the waypoint that the reference points to: only then may its
/// traffic skip that waypoint. Its identity and its address must both be the waypoint's.
pub fn is_instance(state: &MeshState, reference: &GatewayAddress, workload: &Workload) -> bool {
    let same = |other: &Workload| {
        other.network == workload.network
            && other.identity() == workload.identity()
            && other
                .addresses
                .iter()
                .any(|ip| workload.addresses.contains(ip))
    };
    match &reference.destination {
        GatewayDestination::Hostname(key) => match state.service(key) {
            Some((_, entry)) => entry.endpoints().any(|w| same(w)),
            None => state.workload_named(key).is_some_and(|w| same(w)),
        },
        GatewayDestination::Address(at) => {
            match owner(state, &at.network, at.address, &workload.namespace) {
                Some(Found::Service(_, entry)) => entry.endpoints().any(|w| same(w)),
                Some(Found::Workload(w)) => same(w),
                None => false,
            }
        }
    }
}
