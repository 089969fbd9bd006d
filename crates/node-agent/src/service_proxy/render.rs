//! From the ports of services to nftables: one table per family.
//!
//! A map leads from each address and port to a chain of the service's port,
//! which picks one of the endpoints' chains at random; each of those rewrites
//! the destination. Addresses and ports that lead nowhere are refused or
//! dropped where packets pass that nobody rewrote. Replies find their way back
//! by connection tracking, so sources stay as they are, except where replies
//! would take another way: a pod that reaches itself, and connections from
//! outside that may go on to another node. Those are marked, and masqueraded
//! when they leave.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::rules::{Front, Port};
use crate::nft::{Family, Objects, Table};

/// The mark of connections to masquerade, the one that kube-proxy uses.
const MARK: u32 = 0x4000;

/// The table of a family.
pub fn table(family: Family) -> Table {
    let name = "kube-services";
    Table { family, name }
}

/// What a node's rules depend on beside services, in one family.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Its own address, where node ports answer; without it there are none.
    pub address: Option<IpAddr>,
    /// Addresses of its pods.
    pub pods: Vec<IpNet>,
}

/// The hooks, and the maps that all services share.
pub fn skeleton(family: Family, place: &Place) -> Objects {
    let mut table = Objects::new();
    let address_key = format!("{} . inet_proto . inet_service", family.address_type());
    for map in ["services", "unserved", "guarded"] {
        table.verdict_map(map, &address_key);
    }
    for map in ["node-ports", "unserved-node-ports"] {
        table.verdict_map(map, "inet_proto . inet_service");
    }
    let addresses = format!("type {};", family.address_type());
    table.set("cluster-addresses", addresses);
    let target = format!("{family} daddr . meta l4proto . th dport");
    let to_node = place.address.map(|node| format!("{family} daddr {node}"));
    let mut find = vec![format!("{target} vmap @services")];
    let mut refuse = vec![
        format!("{target} vmap @unserved"),
        // A port that the service does not have.
        format!("{family} daddr @cluster-addresses reject"),
    ];
    if let Some(to_node) = to_node {
        find.push(format!(
            "{to_node} meta l4proto . th dport vmap @node-ports"
        ));
        refuse.push(format!(
            "{to_node} meta l4proto . th dport vmap @unserved-node-ports"
        ));
    }
    table.chain("find", find);
    table.chain("refuse", vec!["reject".to_owned()]);
    table.chain("refuse-unserved", refuse);
    let mark = format!("meta mark set meta mark or {MARK:#x}");
    table.chain("mark-for-masquerade", vec![mark]);
    for hook in ["prerouting", "output"] {
        let (nat, filter) = (format!("nat-{hook}"), format!("guard-{hook}"));
        let jump = vec!["jump find".to_owned()];
        table.base_chain(&nat, &format!("type nat hook {hook} priority -100"), jump);
        let guard = vec![format!("ct state new {target} vmap @guarded")];
        table.base_chain(
            &filter,
            &format!("type filter hook {hook} priority -110"),
            guard,
        );
    }
    for hook in ["input", "forward", "output"] {
        let jump = vec!["jump refuse-unserved".to_owned()];
        let at = format!("type filter hook {hook} priority 0");
        table.base_chain(&format!("filter-{hook}"), &at, jump);
    }
    let masquerade = format!(
        "meta mark and {MARK:#x} == {MARK:#x} meta mark set meta mark and {:#x} masquerade",
        !MARK
    );
    let at = "type nat hook postrouting priority 100";
    table.base_chain("nat-postrouting", at, vec![masquerade]);
    table
}

/// The part of the table that a service's port makes.
pub fn port(family: Family, port: &Port, place: &Place) -> Objects {
    let mut table = Objects::new();
    let chains = Chains { family, port };
    for endpoint in port.endpoints.union(&port.local) {
        chains.endpoint(&mut table, *endpoint);
    }
    if !port.endpoints.is_empty() {
        table.chain(chains.name("cluster"), chains.balance(&port.endpoints));
    }
    if !port.local.is_empty() {
        table.chain(chains.name("local"), chains.balance(&port.local));
    }
    if !port.endpoints.is_empty() && port.outer().next().is_some() {
        table.chain(chains.name("external"), chains.external(&place.pods));
    }
    chains.lead_own(&mut table);
    for front in port.outer() {
        chains.lead_outer(&mut table, front);
    }
    chains.guard(&mut table);
    table
}

struct Chains<'a> {
    family: Family,
    port: &'a Port,
}

impl Chains<'_> {
    fn name(&self, kind: &str) -> String {
        format!("{kind}/{}", self.port.name)
    }

    /// Names hold no colons.
    fn endpoint_name(&self, kind: &str, endpoint: SocketAddr) -> String {
        let address = endpoint.ip().to_string().replace(':', ".");
        format!("{kind}/{}/{address}/{}", self.port.name, endpoint.port())
    }

    fn endpoint(&self, table: &mut Objects, endpoint: SocketAddr) {
        let (family, address) = (self.family, endpoint.ip());
        let mut rules = vec![format!("{family} saddr {address} jump mark-for-masquerade")];
        if let Some(seconds) = self.port.affinity {
            let set = self.affinity_set(seconds, endpoint);
            rules.push(format!("update @{set} {{ {family} saddr }}"));
            let kind = family.address_type();
            table.set(
                set,
                format!("type {kind}; flags dynamic,timeout; timeout {seconds}s;"),
            );
        }
        let protocol = self.port.protocol;
        rules.push(format!("meta l4proto {protocol} dnat to {endpoint}"));
        table.chain(self.endpoint_name("endpoint", endpoint), rules);
    }

    fn affinity_set(&self, seconds: u32, endpoint: SocketAddr) -> String {
        self.endpoint_name(&format!("affinity-{seconds}"), endpoint)
    }

    /// Picks one of the endpoints: the one that the client stays with, or any.
    fn balance(&self, endpoints: &BTreeSet<SocketAddr>) -> Vec<String> {
        let mut rules = Vec::new();
        let goto =
            |endpoint: &SocketAddr| format!("goto {}", self.endpoint_name("endpoint", *endpoint));
        if let Some(seconds) = self.port.affinity {
            rules.extend(endpoints.iter().map(|endpoint| {
                let set = self.affinity_set(seconds, *endpoint);
                format!("{} saddr @{set} {}", self.family, goto(endpoint))
            }));
        }
        rules.push(match endpoints.first() {
            Some(only) if endpoints.len() == 1 => goto(only),
            _ => {
                let all = endpoints.iter().enumerate();
                let all: Vec<_> = all
                    .map(|(index, e)| format!("{index} : {}", goto(e)))
                    .collect();
                format!(
                    "numgen random mod {} vmap {{ {} }}",
                    endpoints.len(),
                    all.join(", ")
                )
            }
        });
        rules
    }

    /// Connections to fronts other than the own address.
    fn external(&self, pods: &[IpNet]) -> Vec<String> {
        let cluster = format!("goto {}", self.name("cluster"));
        let mark = "jump mark-for-masquerade";
        if !self.port.external_local {
            // It may go on to another node, and the reply must come back here.
            return vec![mark.to_owned(), cluster];
        }
        // What starts here is not from outside, and finds all endpoints.
        let mut rules = Vec::new();
        if !pods.is_empty() {
            let pods: Vec<_> = pods.iter().map(ToString::to_string).collect();
            let from = format!("{} saddr {{ {} }}", self.family, pods.join(", "));
            rules.push(format!("{from} {cluster}"));
        }
        rules.push(format!("fib saddr type local {mark}"));
        rules.push(format!("fib saddr type local {cluster}"));
        if !self.port.local.is_empty() {
            rules.push(format!("goto {}", self.name("local")));
        }
        rules
    }

    fn lead_own(&self, table: &mut Objects) {
        let port = self.port;
        let Some(address) = port.cluster else { return };
        table.element("cluster-addresses", address.to_string());
        let (kind, usable) = match port.internal_local {
            true => ("local", &port.local),
            false => ("cluster", &port.endpoints),
        };
        let key = self.key(address);
        if !usable.is_empty() {
            table.verdict("services", key, format!("goto {}", self.name(kind)));
        } else if !port.endpoints.is_empty() {
            table.verdict("unserved", key, "drop");
        }
    }

    fn lead_outer(&self, table: &mut Objects, front: Front) {
        let port = self.port;
        let (map, unserved, key) = match front {
            Front::Address(address, ..) => ("services", "unserved", self.key(address)),
            Front::NodePort(protocol, port) => {
                let key = format!("{protocol} . {port}");
                ("node-ports", "unserved-node-ports", key)
            }
        };
        if port.endpoints.is_empty() {
            table.verdict(unserved, key, "goto refuse");
            return;
        }
        if port.external_local && port.local.is_empty() {
            table.verdict(unserved, key.clone(), "drop");
        }
        table.verdict(map, key, format!("goto {}", self.name("external")));
    }

    /// Who may use the load balancer.
    fn guard(&self, table: &mut Objects) {
        let port = self.port;
        if port.sources.is_empty() || port.balancers.is_empty() {
            return;
        }
        let ours = port
            .sources
            .iter()
            .filter(|net| Family::of(net.addr()) == self.family);
        let ours: Vec<_> = IpNet::aggregate(&ours.copied().collect())
            .iter()
            .map(ToString::to_string)
            .collect();
        let rule = match ours.is_empty() {
            true => "drop".to_owned(),
            false => format!("{} saddr != {{ {} }} drop", self.family, ours.join(", ")),
        };
        table.chain(self.name("guard"), vec![rule]);
        for address in &port.balancers {
            let verdict = format!("goto {}", self.name("guard"));
            table.verdict("guarded", self.key(*address), verdict);
        }
    }

    fn key(&self, address: IpAddr) -> String {
        format!("{address} . {} . {}", self.port.protocol, self.port.number)
    }
}
