//! From a plan to nftables: one table per family.
//!
//! Forwarded packets pass two chains, one for the pod that sends them and one
//! for the pod that gets them; what is allowed in the first is still looked at
//! in the second. Each isolated pod has a chain per direction that tries the
//! policies that are about it and drops the rest. Packets of connections that
//! were allowed pass. What a node's own processes send, probes above all, is
//! not forwarded and passes, as the specification wants.

use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::policy::{Peer, Policy, Port, Rule};
use crate::informer::ObjectKey;
use crate::nft::{Family, Objects, Protocol, Table};

/// The table of a family.
pub fn table(family: Family) -> Table {
    let name = "kube-policies";
    Table { family, name }
}

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

impl Direction {
    /// In names of chains.
    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    /// The address of the pod that is kept to policies.
    fn own(self) -> &'static str {
        match self {
            Self::In => "daddr",
            Self::Out => "saddr",
        }
    }

    /// The address of the other side.
    fn peer(self) -> &'static str {
        match self {
            Self::In => "saddr",
            Self::Out => "daddr",
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::In => "isolated-in",
            Self::Out => "isolated-out",
        }
    }

    fn rules(self, policy: &Policy) -> Option<&Vec<Rule>> {
        match self {
            Self::In => policy.ingress.as_ref(),
            Self::Out => policy.egress.as_ref(),
        }
    }
}

/// All of a family's table.
pub fn objects(family: Family, plan: &Plan) -> Objects {
    let mut table = Objects::new();
    let renderer = Renderer { family };
    renderer.hooks(&mut table);
    for policy in plan.policies.values() {
        for direction in [Direction::In, Direction::Out] {
            if let Some(rules) = direction.rules(policy) {
                let lines = rules.iter().flat_map(|rule| renderer.rule(direction, rule));
                table.chain(policy_chain(direction, &policy.key), lines.collect());
            }
        }
    }
    for (address, isolation) in &plan.isolated {
        if Family::of(*address) == family {
            renderer.isolate(
                &mut table,
                Direction::In,
                *address,
                isolation.ingress.as_deref(),
            );
            renderer.isolate(
                &mut table,
                Direction::Out,
                *address,
                isolation.egress.as_deref(),
            );
        }
    }
    for (identity, addresses) in &plan.groups {
        let name = group_set(identity);
        table.set(name.clone(), format!("type {};", family.address_type()));
        for address in addresses.iter().filter(|a| Family::of(**a) == family) {
            table.element(name.clone(), address.to_string());
        }
    }
    for ((protocol, port), places) in &plan.named {
        let name = named_set(*protocol, port);
        let spec = format!("type {} . inet_service;", family.address_type());
        table.set(name.clone(), spec);
        for (address, number) in places.iter().filter(|(a, _)| Family::of(*a) == family) {
            table.element(name.clone(), format!("{address} . {number}"));
        }
    }
    table
}

fn policy_chain(direction: Direction, policy: &ObjectKey) -> String {
    format!("policy-{}/{policy}", direction.name())
}

/// Selectors hold anything; names of sets do not.
fn group_set(identity: &str) -> String {
    let digest = Sha256::digest(identity.as_bytes());
    let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("group-{hex}")
}

fn named_set(protocol: Protocol, port: &str) -> String {
    format!("named-{protocol}/{port}")
}

struct Renderer {
    family: Family,
}

impl Renderer {
    fn hooks(&self, table: &mut Objects) {
        for (direction, chain, priority) in [
            (Direction::Out, "forward-out", 0),
            (Direction::In, "forward-in", 1),
        ] {
            table.verdict_map(direction.map(), self.family.address_type());
            let (family, own, map) = (self.family, direction.own(), direction.map());
            let rules = vec![
                "ct state established,related accept".to_owned(),
                format!("{family} {own} vmap @{map}"),
            ];
            let hook = format!("type filter hook forward priority {priority}");
            table.base_chain(chain, &hook, rules);
        }
    }

    /// A pod that only its policies open.
    fn isolate(
        &self,
        table: &mut Objects,
        direction: Direction,
        pod: IpAddr,
        policies: Option<&[ObjectKey]>,
    ) {
        let Some(policies) = policies else { return };
        // No policy keeps a pod from itself, as through a service of its own.
        let mut rules = vec![format!("{} {} {pod} accept", self.family, direction.peer())];
        let jumps = policies.iter().map(|key| policy_chain(direction, key));
        rules.extend(jumps.map(|chain| format!("jump {chain}")));
        rules.push("drop".to_owned());
        // Names hold no colons.
        let address = pod.to_string().replace(':', ".");
        let chain = format!("pod-{}/{address}", direction.name());
        table.verdict(direction.map(), pod.to_string(), format!("goto {chain}"));
        table.chain(chain, rules);
    }

    /// Each peer with each port.
    fn rule(&self, direction: Direction, rule: &Rule) -> Vec<String> {
        let peers = match &rule.peers {
            None => vec![String::new()],
            Some(peers) => {
                let each = peers.iter();
                each.filter_map(|peer| self.peer(direction, peer)).collect()
            }
        };
        let ports = match &rule.ports {
            None => vec![String::new()],
            Some(ports) => ports.iter().map(|port| self.port(port)).collect(),
        };
        let pairs = peers
            .iter()
            .flat_map(|peer| ports.iter().map(move |port| (peer, port)));
        pairs
            .map(|(peer, port)| format!("{peer}{port}accept"))
            .collect()
    }

    /// None for addresses of the other family.
    fn peer(&self, direction: Direction, peer: &Peer) -> Option<String> {
        let address = format!("{} {}", self.family, direction.peer());
        match peer {
            Peer::Pods(group) => Some(format!("{address} @{} ", group_set(&group.identity()))),
            Peer::Block { net, .. } if Family::of(net.addr()) != self.family => None,
            Peer::Block { net, except } => {
                let ours = except
                    .iter()
                    .filter(|net| Family::of(net.addr()) == self.family);
                let ours = IpNet::aggregate(&ours.copied().collect());
                let ours: Vec<_> = ours.iter().map(ToString::to_string).collect();
                Some(match ours.is_empty() {
                    true => format!("{address} {net} "),
                    false => format!("{address} {net} {address} != {{ {} }} ", ours.join(", ")),
                })
            }
        }
    }

    fn port(&self, port: &Port) -> String {
        match port {
            Port::All(protocol) => format!("meta l4proto {protocol} "),
            Port::Range(protocol, first, last) if first == last => {
                format!("meta l4proto {protocol} th dport {first} ")
            }
            Port::Range(protocol, first, last) => {
                format!("meta l4proto {protocol} th dport {first}-{last} ")
            }
            Port::Named(protocol, name) => {
                let set = named_set(*protocol, name);
                let place = format!("{} daddr . th dport", self.family);
                format!("meta l4proto {protocol} {place} @{set} ")
            }
        }
    }
}
