//! A NetworkPolicy as a plain value: who it is about and what it allows.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::Selector;

use crate::informer::ObjectKey;
use crate::nft::Protocol;

/// A policy. What cannot be understood never allows more.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// The pods of its namespace that it is about.
    pub pods: Selector,
    /// What may reach them; none: it says nothing about that.
    pub ingress: Option<Vec<Rule>>,
    /// What they may reach; none: it says nothing about that.
    pub egress: Option<Vec<Rule>>,
}

/// What is allowed: each of these ports with each of these peers.
#[derive(Debug, Clone)]
pub struct Rule {
    /// None means everybody.
    pub peers: Option<Vec<Peer>>,
    /// None means every port of every protocol.
    pub ports: Option<Vec<Port>>,
}

/// The other side of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Pods.
    Pods(Group),
    /// Addresses, but not those of `except`.
    Block {
        /// The addresses.
        net: IpNet,
        /// Those of them that do not count.
        except: Vec<IpNet>,
    },
}

/// Pods by their labels and the namespace they are in.
#[derive(Debug, Clone)]
pub struct Group {
    /// Where they are.
    pub namespaces: Namespaces,
    /// What they have.
    pub pods: Selector,
}

/// Namespaces of a group.
#[derive(Debug, Clone)]
pub enum Namespaces {
    /// The one of this name.
    Own(String),
    /// All that have these labels.
    With(Selector),
}

impl Group {
    /// A text that is the same for equal groups only.
    pub fn identity(&self) -> String {
        match &self.namespaces {
            Namespaces::Own(name) => format!("{name}|{}", self.pods),
            Namespaces::With(labels) => format!("[{labels}]|{}", self.pods),
        }
    }
}

/// Ports of the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// All of a protocol.
    All(Protocol),
    /// From the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The one that the destination pod has under this name.
    Named(Protocol, String),
}

impl Policy {
    /// The policy that an object describes.
    pub fn new(object: &NetworkPolicy) -> Self {
        let key = ObjectKey::of(object);
        let spec = object.spec.clone().unwrap_or_default();
        let rules_in = || {
            let rules = spec.ingress.iter().flatten();
            let rules = rules.map(|r| Rule::new(&key, r.from.as_deref(), r.ports.as_deref()));
            rules.collect()
        };
        let rules_out = || {
            let rules = spec.egress.iter().flatten();
            let rules = rules.map(|r| Rule::new(&key, r.to.as_deref(), r.ports.as_deref()));
            rules.collect()
        };
        // Without types: ingress, and egress if the policy has rules for it.
        let types = spec.policy_types.clone().unwrap_or_default();
        let has = |name: &str| types.iter().any(|kind| kind == name);
        let open = types.is_empty();
        let egress = has("Egress") || open && spec.egress.as_ref().is_some_and(|e| !e.is_empty());
        Self {
            // One that cannot be read is about everybody.
            pods: selector(spec.pod_selector.as_ref()).unwrap_or_default(),
            ingress: (has("Ingress") || open).then(rules_in),
            egress: egress.then(rules_out),
            key: key.clone(),
        }
    }
}

impl Rule {
    fn new(
        policy: &ObjectKey,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Self {
        // An empty list is as good as none; one of things that cannot be
        // understood is a list of nobody.
        let peers = peers.filter(|peers| !peers.is_empty());
        let ports = ports.filter(|ports| !ports.is_empty());
        Self {
            peers: peers.map(|all| all.iter().filter_map(|p| Peer::new(policy, p)).collect()),
            ports: ports.map(|all| all.iter().filter_map(Port::new).collect()),
        }
    }
}

impl Peer {
    fn new(policy: &ObjectKey, peer: &NetworkPolicyPeer) -> Option<Self> {
        if let Some(IPBlock { cidr, except }) = &peer.ip_block {
            let except = except.iter().flatten().map(|text| text.parse());
            return Some(Self::Block {
                net: cidr.parse().ok()?,
                except: except.collect::<Result<_, _>>().ok()?,
            });
        }
        if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
            return None;
        }
        let namespaces = match &peer.namespace_selector {
            Some(labels) => Namespaces::With(selector(Some(labels))?),
            None => Namespaces::Own(policy.namespace.clone()),
        };
        let pods = selector(peer.pod_selector.as_ref())?;
        Some(Self::Pods(Group { namespaces, pods }))
    }
}

impl Port {
    fn new(port: &NetworkPolicyPort) -> Option<Self> {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        Some(match &port.port {
            None => Self::All(protocol),
            Some(IntOrString::String(name)) => Self::Named(protocol, name.clone()),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                let number = |n: i32| u16::try_from(n).ok();
                Self::Range(protocol, number(*first)?, number(last)?)
            }
        })
    }
}

/// The selector that an object describes; none selects everything.
fn selector(labels: Option<&LabelSelector>) -> Option<Selector> {
    match labels {
        Some(labels) => labels.clone().try_into().ok(),
        None => Some(Selector::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(spec: Value) -> Policy {
        let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
        Policy::new(&serde_json::from_value(object).expect("a policy"))
    }

    #[test]
    fn directions_follow_types_or_rules() {
        let cases = [
            (json!({}), true, false),
            (json!({"egress": []}), true, false),
            (json!({"egress": [{}]}), true, true),
            (json!({"policyTypes": ["Egress"]}), false, true),
            (
                json!({"policyTypes": ["Ingress"], "egress": [{}]}),
                true,
                false,
            ),
        ];
        for (mut spec, ingress, egress) in cases {
            spec["podSelector"] = json!({});
            let policy = policy(spec.clone());
            let found = (policy.ingress.is_some(), policy.egress.is_some());
            assert_eq!(found, (ingress, egress), "{spec}");
        }
    }

    #[test]
    fn nothing_given_is_everything_and_nonsense_is_nobody() {
        let policy = policy(json!({"podSelector": {}, "ingress": [
            {"from": [], "ports": []},
            {"from": [{"ipBlock": {"cidr": "here"}}], "ports": [{"protocol": "GRE"}]},
            {"ports": [{"port": 80, "endPort": 90}, {"port": "http", "protocol": "UDP"}, {}]}]}));
        let rules = policy.ingress.expect("rules");
        assert!(rules[0].peers.is_none() && rules[0].ports.is_none());
        assert!(rules[1].peers.as_ref().is_some_and(Vec::is_empty));
        assert!(rules[1].ports.as_ref().is_some_and(Vec::is_empty));
        let ports = rules[2].ports.clone().expect("ports");
        assert_eq!(
            ports,
            [
                Port::Range(Protocol::Tcp, 80, 90),
                Port::Named(Protocol::Udp, "http".into()),
                Port::All(Protocol::Tcp),
            ]
        );
    }
}
