//! Which endpoint of a service takes a connection.
//!
//! Endpoints that cannot take it are left out, the others are ranked by what they share with the
//! client, and one of the highest rank is drawn by weight. Nothing is remembered between draws.

mod choose;
pub mod locality;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::{Rng, RngExt};

use crate::service::{IpFamilies, LoadBalancing, LoadBalancingMode, Scope};
use crate::state::ServiceEntry;
use crate::{Service, Text, Workload};

pub use choose::Weights;
pub use table::{Bucket, Maglev, Ring, hash};

/// What kind of traffic the endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The application's own.
    Standard,
    /// Traffic that goes through the service as a waypoint.
    Waypoint,
}

/// Where a workload is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// At an address.
    Ip(IpAddr),
    /// At an address that DNS gives at the time.
    Name(Text),
    /// Nowhere directly: it has no address here, only a gateway of its network.
    Remote,
}

/// An endpoint and the port that it serves.
#[derive(Clone, Debug)]
pub struct Endpoint<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// Target port.
    pub port: u16,
}

/// Draws an endpoint for a connection of `source` to `port` of the service.
pub fn pick<'a, R: Rng + ?Sized>(
    service: &Service,
    entry: &'a ServiceEntry,
    source: &Workload,
    port: u16,
    purpose: Purpose,
    rng: &mut R,
) -> Option<Endpoint<'a>> {
    let (mut best_rank, mut total, mut chosen) = (0, 0u64, None);
    for (endpoint, rank) in candidates(service, entry, source, port, purpose) {
        if rank < best_rank {
            continue;
        }
        if rank > best_rank {
            (best_rank, total, chosen) = (rank, 0, None);
        }
        // Each newcomer replaces the chosen one with the probability of its share so far, which
        // draws by weight in one pass.
        let weight = u64::from(endpoint.workload.capacity);
        total += weight;
        if total == weight || rng.random_range(0..total) < weight {
            chosen = Some(endpoint);
        }
    }
    chosen
}

/// The endpoints that can take a connection of `source` to `port` of the service, each with how well
/// it fits: those of the highest rank are used, as long as there are any.
pub fn candidates<'a>(
    service: &Service,
    entry: &'a ServiceEntry,
    source: &Workload,
    port: u16,
    purpose: Purpose,
) -> impl Iterator<Item = (Endpoint<'a>, usize)> {
    let lb = service.load_balancing.as_ref();
    let key = service.key();
    entry.endpoints().filter_map(move |workload| {
        if !is_reachable(workload, source) || workload.capacity == 0 {
            return None;
        }
        let port = target_port(service, &key, workload, port, purpose)?;
        let rank = rank(lb, source, workload)?;
        Some((Endpoint { workload, port }, rank))
    })
}

fn is_reachable(workload: &Workload, source: &Workload) -> bool {
    !workload.addresses.is_empty()
        || !workload.hostname.is_empty()
        || (workload.network != source.network && workload.network_gateway.is_some())
}

/// The port of the workload that serves `port` of the service, if it does.
pub fn target_port(
    service: &Service,
    key: &crate::service::NamespacedHostname,
    workload: &Workload,
    port: u16,
    purpose: Purpose,
) -> Option<u16> {
    let tunnel = workload.application_tunnel;
    let of_service = service.ports.get(&port).copied();
    if of_service.is_none() && !(purpose == Purpose::Waypoint && tunnel.is_some()) {
        return None;
    }
    let own = workload
        .services
        .get(key)
        .and_then(|ports| ports.get(&port))
        .copied();
    own.filter(|p| *p != 0)
        .or(of_service.filter(|p| *p != 0))
        .or_else(|| tunnel.and_then(|t| t.port).map(|_| port))
}

/// How well an endpoint fits; `None` if it may not be used.
fn rank(lb: Option<&LoadBalancing>, source: &Workload, workload: &Workload) -> Option<usize> {
    let Some(lb) = lb else { return Some(0) };
    if !matches!(
        lb.mode,
        LoadBalancingMode::Failover | LoadBalancingMode::Strict
    ) {
        return Some(0);
    }
    let preferences = &lb.routing_preferences[..];
    // A network that comes first outranks everything else without ending the comparison.
    let (rest, network) = match preferences {
        [Scope::Network, rest @ ..] => (rest, Some(shares(Scope::Network, source, workload))),
        all => (all, None),
    };
    let leading = rest
        .iter()
        .take_while(|scope| shares(**scope, source, workload))
        .count();
    let matched = leading + usize::from(network == Some(true));
    if lb.mode == LoadBalancingMode::Strict && matched != preferences.len() {
        return None;
    }
    let bonus = if network == Some(true) {
        preferences.len() - 1
    } else {
        0
    };
    Some(matched + bonus)
}

fn shares(scope: Scope, a: &Workload, b: &Workload) -> bool {
    match scope {
        Scope::Region => a.locality.region == b.locality.region,
        Scope::Zone => a.locality.zone == b.locality.zone,
        Scope::Subzone => a.locality.subzone == b.locality.subzone,
        Scope::Node => a.node == b.node,
        Scope::Cluster => a.cluster_id == b.cluster_id,
        Scope::Network => a.network == b.network,
    }
}

/// Where to dial the workload for a client that asked for `original`; `None` if none of its
/// addresses is of a family that the service has.
pub fn host(workload: &Workload, service: Option<&Service>, original: SocketAddr) -> Option<Host> {
    let asked = original.ip();
    if workload.addresses.contains(&asked) {
        return Some(Host::Ip(asked));
    }
    let allowed = |ip: &IpAddr| match service.and_then(|s| s.ip_families) {
        None | Some(IpFamilies::Dual) => true,
        Some(IpFamilies::Ipv4) => ip.is_ipv4(),
        Some(IpFamilies::Ipv6) => ip.is_ipv6(),
    };
    let mut fitting = workload.addresses.iter().copied().filter(allowed);
    let first = fitting.clone().next();
    if let Some(ip) = fitting.find(|ip| ip.is_ipv4() == asked.is_ipv4()).or(first) {
        return Some(Host::Ip(ip));
    }
    if !workload.hostname.is_empty() {
        return Some(Host::Name(workload.hostname.clone()));
    }
    (workload.addresses.is_empty() && workload.network_gateway.is_some()).then_some(Host::Remote)
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
