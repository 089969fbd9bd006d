//! The rules in the node's own network namespace: the exemption of kubelet probes.
//!
//! A probe is a connection that a process of the node opens to a pod. Its source address is
//! translated to a link-local address that no router forwards, and the pod's rules let that
//! address pass to the ports of the pod's probes. The match is as narrow as nftables allows:
//! TCP, made by a local socket (never forwarded traffic) of the kubelet's user, to an enrolled
//! pod's address, to a port that a probe of that pod names.
//!
//! What else it lets in: any other process of that user in the node's network namespace (also
//! in host-network pods that run as that user) reaches those ports without mutual TLS and policy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::{
    Action, Chain, Element, Hook, Match, Plan, Protocol, Rule, Set, Table, TableRemoval,
};
use super::{NAT_TABLE, PROBE_SNAT_V4, PROBE_SNAT_V6};

const SET_V4: &str = "istio-inpod-probes-v4";
const SET_V6: &str = "istio-inpod-probes-v6";

/// A place that probes may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeTarget {
    /// Address of an enrolled pod.
    pub address: IpAddr,
    /// Port of one of its probes.
    pub port: u16,
}

/// All exemptions of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostExemption {
    /// The kubelet's user id.
    pub kubelet_user: u32,
    /// Translated source address on IPv4.
    pub v4: Ipv4Addr,
    /// Translated source address on IPv6.
    pub v6: Ipv6Addr,
    /// The targets, each with the UID of its pod.
    pub targets: BTreeMap<ProbeTarget, String>,
}

impl Default for HostExemption {
    fn default() -> Self {
        Self {
            kubelet_user: 0,
            v4: PROBE_SNAT_V4,
            v6: PROBE_SNAT_V6,
            targets: BTreeMap::new(),
        }
    }
}

/// Plans the node's table. The plan holds all targets, so that applying it also drops stale ones.
pub fn host_plan(exemption: &HostExemption) -> Plan {
    let set = |name, ipv6| Set {
        name,
        ipv6,
        elements: exemption
            .targets
            .iter()
            .filter(|(t, _)| t.address.is_ipv6() == ipv6)
            .map(|(t, uid)| Element {
                address: t.address,
                port: t.port,
                comment: uid.clone(),
            })
            .collect(),
    };
    let rule = |set, ipv6, to| Rule {
        matches: vec![
            Match::L4(Protocol::Tcp),
            Match::SocketUser(exemption.kubelet_user),
            Match::DestinationInSet { set, ipv6 },
        ],
        action: Action::Snat(to),
    };
    Plan {
        tables: vec![Table {
            name: NAT_TABLE,
            sets: vec![set(SET_V4, false), set(SET_V6, true)],
            chains: vec![Chain {
                name: "postrouting",
                hook: Some(Hook::NatPostrouting),
                rules: vec![
                    rule(SET_V4, false, IpAddr::V4(exemption.v4)),
                    rule(SET_V6, true, IpAddr::V6(exemption.v6)),
                ],
            }],
        }],
    }
}

/// The removal of everything that [`host_plan`] can make.
pub fn host_removal() -> TableRemoval {
    TableRemoval {
        tables: vec![NAT_TABLE],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_in_full() {
        let mut exemption = HostExemption::default();
        for (address, port, uid) in [
            ("10.244.1.7", 9080, "uid-a"),
            ("10.244.1.7", 8080, "uid-a"),
            ("fd00::7", 80, "uid-b"),
        ] {
            let target = ProbeTarget {
                address: address.parse().expect("address"),
                port,
            };
            exemption.targets.insert(target, uid.into());
        }
        insta::assert_snapshot!(host_plan(&exemption).to_string());
    }
}
