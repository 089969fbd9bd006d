//! What the policies mean for the pods of one node: who is isolated, and the
//! addresses behind the names that rules use. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::core::{Selector, SelectorExt};

use super::policy::{Group, Namespaces, Peer, Policy, Port, Rule};
use crate::informer::ObjectKey;
use crate::nft::Protocol;

/// Labels, as objects have them.
pub type Labels = BTreeMap<String, String>;

/// The part of a pod that policies can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports that have a name.
    pub ports: Vec<(Protocol, String, u16)>,
    /// Whether it is on this node, where it is kept to the policies.
    pub local: bool,
}

impl Pod {
    /// The pod that an object describes. None if no policy is about it: one
    /// that shares its node's network, or that has ended.
    pub fn new(object: &PodObject, node: &str) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        if spec.host_network == Some(true) || has_ended(object) {
            return None;
        }
        let status = object.status.as_ref();
        let listed = status.and_then(|status| status.pod_ips.as_ref());
        let named = |port: &k8s_openapi::api::core::v1::ContainerPort| {
            let protocol = Protocol::parse(port.protocol.as_deref())?;
            let number = u16::try_from(port.container_port).ok()?;
            Some((protocol, port.name.clone()?, number))
        };
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        Some(Self {
            key: ObjectKey::of(object),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            addresses: listed
                .into_iter()
                .flatten()
                .filter_map(|ip| ip.ip.parse().ok())
                .collect(),
            ports: containers
                .flat_map(|c| c.ports.iter().flatten())
                .filter_map(named)
                .collect(),
            local: spec.node_name.as_deref() == Some(node),
        })
    }
}

/// Whether nothing runs in the pod any more; its addresses may be another's.
fn has_ended(pod: &PodObject) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The plan of a node.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Addresses of pods that are not open in some direction.
    pub isolated: BTreeMap<IpAddr, Isolation>,
    /// The policies that are about one of them.
    pub policies: BTreeMap<ObjectKey, Arc<Policy>>,
    /// Addresses of the groups that those name, by [`Group::identity`].
    pub groups: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Where the port names that those use are found.
    pub named: BTreeMap<(Protocol, String), BTreeSet<(IpAddr, u16)>>,
}

/// The policies that a pod is kept to; none in a direction that is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    /// For what comes to it.
    pub ingress: Option<Vec<ObjectKey>>,
    /// For what it sends.
    pub egress: Option<Vec<ObjectKey>>,
}

/// Plans for the local ones of these pods.
pub fn plan(policies: &[Arc<Policy>], pods: &[Pod], namespaces: &HashMap<String, Labels>) -> Plan {
    let mut plan = Plan::default();
    for pod in pods.iter().filter(|pod| pod.local) {
        let about: Vec<_> = policies
            .iter()
            .filter(|policy| is_about(policy, pod))
            .collect();
        if about.is_empty() {
            continue;
        }
        let names = |isolates: fn(&Policy) -> bool| {
            let all = about.iter().filter(|policy| isolates(policy));
            let keys: Vec<_> = all.map(|policy| policy.key.clone()).collect();
            (!keys.is_empty()).then_some(keys)
        };
        let isolation = Isolation {
            ingress: names(|policy| policy.ingress.is_some()),
            egress: names(|policy| policy.egress.is_some()),
        };
        for address in &pod.addresses {
            plan.isolated.insert(*address, isolation.clone());
        }
        for policy in about {
            plan.policies.insert(policy.key.clone(), policy.clone());
        }
    }
    let needed: Vec<Arc<Policy>> = plan.policies.values().cloned().collect();
    for policy in &needed {
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        for rule in rules {
            plan.resolve(rule, pods, namespaces);
        }
    }
    plan
}

fn is_about(policy: &Policy, pod: &Pod) -> bool {
    policy.key.namespace == pod.key.namespace && policy.pods.matches(&pod.labels)
}

impl Plan {
    /// Finds the addresses behind the names of a rule.
    fn resolve(&mut self, rule: &Rule, pods: &[Pod], namespaces: &HashMap<String, Labels>) {
        for peer in rule.peers.iter().flatten() {
            let Peer::Pods(group) = peer else { continue };
            self.groups.entry(group.identity()).or_insert_with(|| {
                let members = pods.iter().filter(|pod| is_member(pod, group, namespaces));
                members.flat_map(|pod| &pod.addresses).copied().collect()
            });
        }
        for port in rule.ports.iter().flatten() {
            let Port::Named(protocol, name) = port else {
                continue;
            };
            let key = (*protocol, name.clone());
            self.named.entry(key).or_insert_with(|| {
                let all = pods.iter().flat_map(|pod| places(pod, *protocol, name));
                all.collect()
            });
        }
    }
}

fn is_member(pod: &Pod, group: &Group, namespaces: &HashMap<String, Labels>) -> bool {
    let there = match &group.namespaces {
        Namespaces::Own(name) => pod.key.namespace == *name,
        Namespaces::With(labels) => matches(labels, namespaces.get(&pod.key.namespace)),
    };
    there && group.pods.matches(&pod.labels)
}

/// Of a namespace that is not known (yet) nothing is known.
fn matches(selector: &Selector, labels: Option<&Labels>) -> bool {
    labels.is_some_and(|labels| selector.matches(labels))
}

/// Where a pod has the port of this name.
fn places<'a>(
    pod: &'a Pod,
    protocol: Protocol,
    name: &'a str,
) -> impl Iterator<Item = (IpAddr, u16)> + 'a {
    let named = pod.ports.iter();
    named
        .filter(move |(p, n, _)| *p == protocol && n == name)
        .flat_map(|(.., number)| pod.addresses.iter().map(|address| (*address, *number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// A connection.
    #[derive(Debug, Clone, Copy)]
    struct Packet {
        from: IpAddr,
        to: IpAddr,
        protocol: Protocol,
        port: u16,
    }

    impl Plan {
        /// Whether the node lets a connection pass: what the rules do.
        fn allows(&self, packet: Packet) -> bool {
            let Packet { from, to, .. } = packet;
            if from == to {
                return true;
            }
            let out = self.isolated.get(&from).and_then(|i| i.egress.as_ref());
            let into = self.isolated.get(&to).and_then(|i| i.ingress.as_ref());
            let passes = |policies: &Vec<ObjectKey>, egress: bool| {
                policies.iter().any(|key| {
                    let policy = &self.policies[key];
                    let (rules, peer) = match egress {
                        true => (&policy.egress, to),
                        false => (&policy.ingress, from),
                    };
                    rules.iter().flatten().any(|r| self.covers(r, peer, packet))
                })
            };
            out.is_none_or(|policies| passes(policies, true))
                && into.is_none_or(|policies| passes(policies, false))
        }

        fn covers(&self, rule: &Rule, peer: IpAddr, packet: Packet) -> bool {
            let is_peer = |wanted: &Peer| match wanted {
                Peer::Pods(group) => self.groups[&group.identity()].contains(&peer),
                Peer::Block { net, except } => {
                    net.contains(&peer) && !except.iter().any(|net| net.contains(&peer))
                }
            };
            let is_port = |wanted: &Port| match wanted {
                Port::All(protocol) => *protocol == packet.protocol,
                Port::Range(protocol, first, last) => {
                    *protocol == packet.protocol && (*first..=*last).contains(&packet.port)
                }
                Port::Named(protocol, name) => {
                    *protocol == packet.protocol
                        && self.named[&(*protocol, name.clone())]
                            .contains(&(packet.to, packet.port))
                }
            };
            rule.peers
                .as_ref()
                .is_none_or(|peers| peers.iter().any(is_peer))
                && rule
                    .ports
                    .as_ref()
                    .is_none_or(|ports| ports.iter().any(is_port))
        }
    }

    /// Two namespaces, labels of one key with two values: small enough that
    /// random policies meet random pods.
    #[derive(Debug, Clone)]
    struct Model {
        pods: Vec<(u8, u8, bool)>,
        policies: Vec<ModelPolicy>,
    }

    #[derive(Debug, Clone)]
    struct ModelPolicy {
        namespace: u8,
        about: Option<u8>,
        types: (bool, bool),
        ingress: Vec<ModelRule>,
        egress: Vec<ModelRule>,
    }

    #[derive(Debug, Clone)]
    struct ModelRule {
        peers: Vec<ModelPeer>,
        ports: Vec<ModelPort>,
    }

    #[derive(Debug, Clone)]
    enum ModelPeer {
        /// Label of the namespace, label of the pod.
        Pods(Option<Option<u8>>, Option<u8>),
        /// The whole pod network but for the first so many addresses.
        AllBut(u8),
    }

    #[derive(Debug, Clone)]
    enum ModelPort {
        Tcp,
        Range(u16, u16),
        Http,
    }

    fn model() -> impl Strategy<Value = Model> {
        let label = || 0..2u8;
        let peer = prop_oneof![
            (
                prop::option::of(prop::option::of(label())),
                prop::option::of(label())
            )
                .prop_map(|(namespace, pod)| ModelPeer::Pods(namespace, pod)),
            (0..8u8).prop_map(ModelPeer::AllBut),
        ];
        let port = prop_oneof![
            Just(ModelPort::Tcp),
            (80..84u16, 0..3u16).prop_map(|(first, more)| ModelPort::Range(first, first + more)),
            Just(ModelPort::Http),
        ];
        let rule = (
            prop::collection::vec(peer, 0..3),
            prop::collection::vec(port, 0..3),
        )
            .prop_map(|(peers, ports)| ModelRule { peers, ports });
        let rules = || prop::collection::vec(rule.clone(), 0..3);
        let policy = (
            label(),
            prop::option::of(label()),
            any::<(bool, bool)>(),
            rules(),
            rules(),
        )
            .prop_map(|(namespace, about, types, ingress, egress)| ModelPolicy {
                namespace,
                about,
                types,
                ingress,
                egress,
            });
        (
            prop::collection::vec((label(), label(), any::<bool>()), 1..6),
            prop::collection::vec(policy, 0..4),
        )
            .prop_map(|(pods, policies)| Model { pods, policies })
    }

    fn address(index: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(index).expect("few pods")])
    }

    /// The port that a pod calls `http`.
    fn http(index: usize) -> u16 {
        80 + u16::try_from(index % 3).expect("small")
    }

    impl Model {
        /// What the specification says, without any plan.
        fn allows(&self, from: usize, to: usize, protocol: Protocol, port: u16) -> bool {
            if from == to {
                return true;
            }
            let about = |policy: &&ModelPolicy, pod: usize| {
                let (namespace, label, local) = self.pods[pod];
                local
                    && policy.namespace == namespace
                    && policy.about.is_none_or(|wanted| wanted == label)
            };
            let (mut open_out, mut open_in) = (true, true);
            let (mut passes_out, mut passes_in) = (false, false);
            for policy in &self.policies {
                let covers = |rule: &ModelRule, peer: usize| {
                    self.covers(policy, rule, peer, to, protocol, port)
                };
                if policy.types.1 && about(&policy, from) {
                    open_out = false;
                    passes_out |= policy.egress.iter().any(|rule| covers(rule, to));
                }
                if policy.types.0 && about(&policy, to) {
                    open_in = false;
                    passes_in |= policy.ingress.iter().any(|rule| covers(rule, from));
                }
            }
            (open_out || passes_out) && (open_in || passes_in)
        }

        fn covers(
            &self,
            policy: &ModelPolicy,
            rule: &ModelRule,
            peer: usize,
            to: usize,
            protocol: Protocol,
            port: u16,
        ) -> bool {
            let (namespace, label, _) = self.pods[peer];
            let tcp = protocol == Protocol::Tcp;
            let is_peer = |wanted: &ModelPeer| match wanted {
                ModelPeer::Pods(wanted_namespace, wanted_label) => {
                    wanted_namespace.map_or(policy.namespace == namespace, |labels| {
                        labels.is_none_or(|l| l == namespace)
                    }) && wanted_label.is_none_or(|l| l == label)
                }
                ModelPeer::AllBut(first) => peer >= usize::from(*first),
            };
            let is_port = |wanted: &ModelPort| match wanted {
                ModelPort::Tcp => tcp,
                ModelPort::Range(first, last) => tcp && (*first..=*last).contains(&port),
                ModelPort::Http => tcp && http(to) == port,
            };
            (rule.peers.is_empty() || rule.peers.iter().any(is_peer))
                && (rule.ports.is_empty() || rule.ports.iter().any(is_port))
        }

        fn plan(&self) -> Plan {
            let labels = |value: u8| Labels::from([("l".to_owned(), value.to_string())]);
            let pods: Vec<Pod> = self
                .pods
                .iter()
                .enumerate()
                .map(|(index, (namespace, label, local))| Pod {
                    key: ObjectKey::new(format!("ns{namespace}"), format!("p{index}")),
                    labels: labels(*label),
                    addresses: vec![address(index)],
                    ports: vec![(Protocol::Tcp, "http".into(), http(index))],
                    local: *local,
                })
                .collect();
            let namespaces = (0..2).map(|n| (format!("ns{n}"), labels(n))).collect();
            let policies: Vec<_> = self
                .policies
                .iter()
                .enumerate()
                .map(|(index, policy)| Arc::new(policy.object(index)))
                .collect();
            plan(&policies, &pods, &namespaces)
        }
    }

    fn selector(label: Option<u8>) -> Value {
        match label {
            Some(label) => json!({"matchLabels": {"l": label.to_string()}}),
            None => json!({}),
        }
    }

    impl ModelPolicy {
        fn object(&self, index: usize) -> Policy {
            let rules = |rules: &[ModelRule], side: &str| -> Vec<Value> {
                let one = |rule: &ModelRule| {
                    let peers: Vec<_> = rule.peers.iter().map(ModelPeer::object).collect();
                    let ports: Vec<_> = rule.ports.iter().map(ModelPort::object).collect();
                    json!({side: peers, "ports": ports})
                };
                rules.iter().map(one).collect()
            };
            let mut types = Vec::new();
            types.extend(self.types.0.then_some("Ingress"));
            types.extend(self.types.1.then_some("Egress"));
            let object = json!({
                "metadata": {"namespace": format!("ns{}", self.namespace), "name": format!("p{index}")},
                "spec": {"podSelector": selector(self.about), "policyTypes": types,
                    "ingress": rules(&self.ingress, "from"), "egress": rules(&self.egress, "to")}});
            let mut policy = Policy::new(&serde_json::from_value(object).expect("a policy"));
            // Without any type the API means ingress; the model means nothing.
            if self.types == (false, false) {
                (policy.ingress, policy.egress) = (None, None);
            }
            policy
        }
    }

    impl ModelPeer {
        fn object(&self) -> Value {
            match self {
                Self::Pods(namespace, pod) => {
                    let mut peer = json!({"podSelector": selector(*pod)});
                    if let Some(namespace) = namespace {
                        peer["namespaceSelector"] = selector(*namespace);
                    }
                    peer
                }
                Self::AllBut(first) => {
                    let except: Vec<_> = (0..*first).map(|n| format!("10.0.0.{n}/32")).collect();
                    json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": except}})
                }
            }
        }
    }

    impl ModelPort {
        fn object(&self) -> Value {
            match self {
                Self::Tcp => json!({"protocol": "TCP"}),
                Self::Range(first, last) => json!({"port": first, "endPort": last}),
                Self::Http => json!({"port": "http"}),
            }
        }
    }

    proptest! {
        #[test]
        fn a_plan_allows_what_the_policies_allow(model in model()) {
            let plan = model.plan();
            for from in 0..model.pods.len() {
                for to in 0..model.pods.len() {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        for port in 79..86 {
                            let packet = Packet { from: address(from), to: address(to), protocol, port };
                            prop_assert_eq!(
                                plan.allows(packet),
                                model.allows(from, to, protocol, port),
                                "{:?} in {:?}", packet, plan
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn who_is_not_in_a_pod_is_known_by_address_alone() {
        let policy = json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"podSelector": {}, "ingress": [{"from": [
                {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}]}]}});
        let policy = Policy::new(&serde_json::from_value(policy).expect("a policy"));
        let pod = Pod {
            key: ObjectKey::new("ns", "p"),
            labels: Labels::new(),
            addresses: vec![address(1)],
            ports: Vec::new(),
            local: true,
        };
        let plan = plan(&[Arc::new(policy)], &[pod], &HashMap::new());
        let passes = |from: &str| {
            plan.allows(Packet {
                from: from.parse().expect("an address"),
                to: address(1),
                protocol: Protocol::Udp,
                port: 1,
            })
        };
        assert!(passes("192.0.2.7"));
        assert!(!passes("192.0.2.200") && !passes("198.51.100.1"));
    }
}
