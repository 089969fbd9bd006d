//! The addresses and names of one cluster, derived from its index on this
//! machine. Pure.
//!
//! One /24 of the host's address space per cluster holds everything that the
//! host can reach: its own end of the link, the router, the nodes, and the
//! addresses of load balancers. Pods and services have addresses that exist
//! only inside, so clusters share those ranges without meeting.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::kind::NODE_PREFIX;

/// Indices of clusters on one machine.
pub(crate) const INDICES: std::ops::RangeInclusive<u8> = 0..=254;
/// Port of the API server inside the cluster.
pub(crate) const API_PORT: u16 = 6443;
/// Port of each node's kubelet.
pub(crate) const KUBELET_PORT: u16 = 10250;
/// Last bytes of addresses in the cluster's /24.
const HOST: u8 = 1;
const ROUTER: u8 = 2;
const FIRST_NODE: u8 = 10;
const BALANCERS: (u8, u8) = (128, 250);

/// The addresses of the cluster with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    index: u8,
}

impl Addresses {
    /// The addresses of index `index`, one of [`INDICES`].
    pub(crate) fn new(index: u8) -> Self {
        Self { index }
    }

    /// The network of all addresses that the host reaches.
    pub(crate) fn network(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.at(0), 24)
    }

    /// The host's end of the link.
    pub(crate) fn host(self) -> Ipv4Addr {
        self.at(HOST)
    }

    /// The router: next hop of the host and of all nodes; the API server and
    /// DNS listen here.
    pub(crate) fn router(self) -> Ipv4Addr {
        self.at(ROUTER)
    }

    /// The node at this place of the configuration.
    pub(crate) fn node(self, place: usize) -> Ipv4Addr {
        self.at(FIRST_NODE.saturating_add(u8::try_from(place).unwrap_or(u8::MAX)))
    }

    /// First and last address for load balancers.
    pub(crate) fn balancers(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.at(BALANCERS.0), self.at(BALANCERS.1))
    }

    /// The host's end of the link that connects it to the cluster. The name
    /// is also the claim: two clusters cannot have the same.
    pub(crate) fn host_link(self) -> String {
        format!("ambit{}", self.index)
    }

    /// The router's end of that link, before and after it is moved.
    pub(crate) fn router_link(self) -> String {
        format!("ambit{}r", self.index)
    }

    fn at(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.index, last)
    }
}

/// The pod subnet of the node at this place.
pub(crate) fn pod_subnet(all: Ipv4Net, place: usize) -> Option<Ipv4Net> {
    all.subnets(NODE_PREFIX).ok()?.nth(place)
}

/// The address at an offset in the service subnet: 1 is the service
/// `kubernetes`, 10 is DNS.
pub(crate) fn service_address(services: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(services.network()) + offset)
}

/// The name of the node at this place among those of its role, as kind names
/// them: `worker`, `worker2`, `worker3` …
pub(crate) fn node_name(cluster: &str, role: crate::kind::Role, place: usize) -> String {
    let role = match role {
        crate::kind::Role::ControlPlane => "control-plane",
        crate::kind::Role::Worker => "worker",
    };
    match place {
        0 => format!("{cluster}-{role}"),
        _ => format!("{cluster}-{role}{}", place + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Role;

    #[test]
    fn clusters_do_not_share_addresses() {
        let (one, two) = (Addresses::new(0), Addresses::new(1));
        assert_ne!(one.network(), two.network());
        assert_eq!(one.node(63).to_string(), "172.30.0.73");
        assert!(one.node(63) < one.balancers().0);
        assert!(one.network().contains(&one.balancers().1));
        assert!(one.router_link().len() < 16);
    }

    #[test]
    fn names_are_as_kind_gives_them() {
        assert_eq!(node_name("a", Role::ControlPlane, 0), "a-control-plane");
        assert_eq!(node_name("a", Role::Worker, 0), "a-worker");
        assert_eq!(node_name("a", Role::Worker, 1), "a-worker2");
    }
}
