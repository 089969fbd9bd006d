//! The addresses and names of one cluster, derived from its index on this
//! machine. Pure.
//!
//! One /24 (in IPv6: one /64) of the host's address space per cluster holds
//! everything that the host can reach: its own end of the link, the router,
//! the nodes, and the addresses of load balancers. Pods and services have
//! addresses that exist only inside, so clusters share those ranges without
//! meeting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_node_agent::nft::Family;
use ipnet::IpNet;

use crate::kind::node_prefix;

/// Indices of clusters on one machine.
pub(crate) const INDICES: std::ops::RangeInclusive<u8> = 0..=254;
/// Port of the API server inside the cluster.
pub(crate) const API_PORT: u16 = 6443;
/// Port of each node's kubelet.
pub(crate) const KUBELET_PORT: u16 = 10250;
/// Last bytes of addresses in the cluster's network.
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
    pub(crate) fn network(self, family: Family) -> IpNet {
        let length = match family {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        IpNet::new_assert(self.at(family, 0), length)
    }

    /// The host's end of the link.
    pub(crate) fn host(self, family: Family) -> IpAddr {
        self.at(family, HOST)
    }

    /// The router: next hop of the host and of all nodes; the API server
    /// listens here.
    pub(crate) fn router(self, family: Family) -> IpAddr {
        self.at(family, ROUTER)
    }

    /// The node at this place of the configuration.
    pub(crate) fn node(self, family: Family, place: usize) -> IpAddr {
        let place = u8::try_from(place).unwrap_or(u8::MAX);
        self.at(family, FIRST_NODE.saturating_add(place))
    }

    /// First and last address for load balancers.
    pub(crate) fn balancers(self, family: Family) -> (IpAddr, IpAddr) {
        (self.at(family, BALANCERS.0), self.at(family, BALANCERS.1))
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

    fn at(self, family: Family, last: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(172, 30, self.index, last).into(),
            // A unique local prefix (RFC 4193) of our own.
            Family::V6 => Ipv6Addr::new(
                0xfd61,
                0x6d62,
                0x6974,
                self.index.into(),
                0,
                0,
                0,
                last.into(),
            )
            .into(),
        }
    }
}

/// The pod subnet of the node at this place.
pub(crate) fn pod_subnet(all: IpNet, place: usize) -> Option<IpNet> {
    all.subnets(node_prefix(all)).ok()?.nth(place)
}

/// The address at an offset in the service subnet: 1 is the service
/// `kubernetes`, 10 is DNS.
pub(crate) fn service_address(services: IpNet, offset: u32) -> IpAddr {
    match services.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + offset).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + u128::from(offset)).into(),
    }
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
        for family in [Family::V4, Family::V6] {
            assert_ne!(one.network(family), two.network(family));
            assert!(one.node(family, 63) < one.balancers(family).0);
            assert!(one.network(family).contains(&one.balancers(family).1));
        }
        assert_eq!(one.node(Family::V4, 63).to_string(), "172.30.0.73");
        assert_eq!(two.router(Family::V6).to_string(), "fd61:6d62:6974:1::2");
        assert!(one.router_link().len() < 16);
    }

    #[test]
    fn subnets_and_addresses_inside() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        assert_eq!(
            pod_subnet(net("10.244.0.0/16"), 2),
            Some(net("10.244.2.0/24"))
        );
        let six = pod_subnet(net("fd00:10:244::/56"), 2);
        assert_eq!(six, Some(net("fd00:10:244:2::/64")));
        let dns = service_address(net("fd00:10:96::/112"), 10);
        assert_eq!(dns.to_string(), "fd00:10:96::a");
    }

    #[test]
    fn names_are_as_kind_gives_them() {
        assert_eq!(node_name("a", Role::ControlPlane, 0), "a-control-plane");
        assert_eq!(node_name("a", Role::Worker, 0), "a-worker");
        assert_eq!(node_name("a", Role::Worker, 1), "a-worker2");
    }
}
