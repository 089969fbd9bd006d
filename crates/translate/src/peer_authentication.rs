//! `PeerAuthentication` → DENY policies for traffic without identity, and which workload has which.
//!
//! There is no mode on the wire. A workload that takes no plaintext at all is attached to one static
//! policy; where ports differ, to a policy converted from the object. The policy that a workload
//! names is always published: both follow from [`Requirement`], which is decided in one place.

use std::collections::BTreeMap;

use ambit_kube_api::PeerAuthentication;
use ambit_kube_api::security::peer_authentication::Mode;
use ambit_model::Text;
use ambit_model::policy::{Action, Authorization, Match, PolicyScope, StringMatch};
use k8s_openapi::jiff::Timestamp;

use crate::findings::{Code, Finding};
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from, selects};
use crate::mesh::Mesh;

/// What is known about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// When it was created; the oldest of a level wins.
    pub created: Option<Timestamp>,
    /// Labels of the object itself.
    pub labels: Labels,
    /// The selector: `None` without one.
    pub selector: Option<Labels>,
    /// Mode of the object; `Unset` inherits.
    pub mode: Mode,
    /// Modes of single ports.
    pub ports: BTreeMap<u16, Mode>,
    /// Keys of `portLevelMtls` that are no ports.
    pub invalid_ports: Vec<String>,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
}

/// How far an object reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The whole mesh.
    Mesh,
    /// Its namespace.
    Namespace,
    /// The pods that it selects in its namespace.
    Workload,
    /// Nothing: it selects in the root namespace.
    Nothing,
}

impl PeerFacts {
    /// The facts about an object.
    pub fn of(object: &PeerAuthentication) -> Self {
        let mode = |m: Option<ambit_kube_api::security::peer_authentication::MutualTls>| {
            m.and_then(|m| m.mode).unwrap_or_default()
        };
        let (mut ports, mut invalid_ports) = (BTreeMap::new(), Vec::new());
        for (key, value) in &object.spec.port_level_mtls {
            match key.parse::<u16>() {
                Ok(port) if port > 0 => {
                    ports.insert(port, mode(Some(*value)));
                }
                _ => invalid_ports.push(key.clone()),
            }
        }
        Self {
            key: ObjectKey::of(object),
            created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
            labels: labels_from(object.metadata.labels.as_ref()),
            selector: object
                .spec
                .selector
                .as_ref()
                .map(|s| labels_from(Some(&s.match_labels))),
            mode: mode(object.spec.mtls),
            ports,
            invalid_ports,
            generation: object.metadata.generation,
        }
    }

    /// How far it reaches. A selector without pairs reaches its namespace, never the mesh.
    pub fn level(&self, mesh: &Mesh) -> Level {
        let in_root = self.key.namespace == mesh.root_namespace;
        match &self.selector {
            None if in_root => Level::Mesh,
            None => Level::Namespace,
            Some(pairs) if pairs.is_empty() => Level::Namespace,
            Some(_) if in_root => Level::Nothing,
            Some(_) => Level::Workload,
        }
    }

    fn selects(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|s| selects(s, labels))
    }

    fn age(&self) -> (Option<Timestamp>, &ObjectKey) {
        (self.created, &self.key)
    }
}

/// What a workload, or a port of it, asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requirement<'a> {
    /// Nothing.
    Plaintext,
    /// An identity, on every port.
    Identity,
    /// What the converted policy of the object says.
    Converted(&'a PeerFacts, Converted),
}

/// What a converted policy refuses without identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Converted {
    /// Everything but the ports that are not STRICT.
    AllBut,
    /// The ports that are STRICT.
    Only,
}

/// The objects that can matter to the workloads of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Candidates<'a> {
    mesh: Option<&'a PeerFacts>,
    namespace: Option<&'a PeerFacts>,
    workload: Vec<&'a PeerFacts>,
}

impl<'a> Candidates<'a> {
    /// Picks from `root`, the objects of the root namespace, and `own`, those of the namespace
    /// itself: the oldest on each level. The two may be the same.
    pub fn new(
        mesh: &Mesh,
        root: impl IntoIterator<Item = &'a PeerFacts>,
        own: impl IntoIterator<Item = &'a PeerFacts>,
    ) -> Self {
        let oldest = |a: Option<&'a PeerFacts>, b: &'a PeerFacts| match a {
            Some(a) if a.age() <= b.age() => Some(a),
            _ => Some(b),
        };
        let mut picked = Self::default();
        for facts in root.into_iter().filter(|f| f.level(mesh) == Level::Mesh) {
            picked.mesh = oldest(picked.mesh, facts);
        }
        for facts in own {
            match facts.level(mesh) {
                Level::Namespace => picked.namespace = oldest(picked.namespace, facts),
                Level::Workload => picked.workload.push(facts),
                Level::Mesh | Level::Nothing => {}
            }
        }
        picked.workload.sort_by_key(|f| f.age());
        picked
    }

    /// Keys of the policies that a workload with these labels is attached to.
    pub fn policies_of(&self, mesh: &Mesh, labels: &Labels) -> Option<Text> {
        match self.requirement(labels) {
            Requirement::Plaintext => None,
            Requirement::Identity => Some(static_strict_key(mesh).text()),
            Requirement::Converted(facts, _) => Some(converted_key(&facts.key).text()),
        }
    }

    /// The object that decides about a workload with these labels, on the narrowest level.
    pub fn deciding(&self, labels: &Labels) -> Option<&'a PeerFacts> {
        self.workload_level(labels).or(self.namespace).or(self.mesh)
    }

    /// The policy converted from an object, if a workload can be attached to it.
    pub fn converted(&self, facts: &PeerFacts) -> Option<Authorization> {
        match self.of_workload_level(facts) {
            Requirement::Converted(facts, kind) => Some(convert(facts, kind)),
            Requirement::Plaintext | Requirement::Identity => None,
        }
    }

    fn workload_level(&self, labels: &Labels) -> Option<&'a PeerFacts> {
        self.workload.iter().copied().find(|f| f.selects(labels))
    }

    fn requirement(&self, labels: &Labels) -> Requirement<'a> {
        match self.workload_level(labels) {
            Some(facts) => self.of_workload_level(facts),
            None if self.parent_is_strict() => Requirement::Identity,
            None => Requirement::Plaintext,
        }
    }

    /// Mode of the mesh, replaced by that of the namespace where it states one.
    fn parent_is_strict(&self) -> bool {
        let stated = |f: Option<&PeerFacts>| f.map(|f| f.mode).filter(|m| *m != Mode::Unset);
        stated(self.namespace).or_else(|| stated(self.mesh)) == Some(Mode::Strict)
    }

    fn of_workload_level<'b>(&self, facts: &'b PeerFacts) -> Requirement<'b> {
        let any = |modes: &[Mode]| facts.ports.values().any(|m| modes.contains(m));
        let strict = match facts.mode {
            Mode::Strict => true,
            Mode::Permissive | Mode::Disable => false,
            Mode::Unset => self.parent_is_strict(),
        };
        // Under a strict parent, DISABLE alone makes no exception: it would be the only way to
        // open a port by a mode that is otherwise read as "no mutual TLS".
        let exceptions: &[Mode] = match facts.mode {
            Mode::Unset => &[Mode::Permissive],
            _ => &[Mode::Permissive, Mode::Disable],
        };
        match strict {
            true if any(exceptions) => Requirement::Converted(facts, Converted::AllBut),
            true => Requirement::Identity,
            false if any(&[Mode::Strict]) => Requirement::Converted(facts, Converted::Only),
            false => Requirement::Plaintext,
        }
    }
}

/// Key of the policy that refuses whoever has no identity.
pub fn static_strict_key(mesh: &Mesh) -> ObjectKey {
    ObjectKey::new(mesh.root_namespace.clone(), "istio_converted_static_strict")
}

/// Key of the policy converted from the object with this key.
pub fn converted_key(object: &ObjectKey) -> ObjectKey {
    let name = format!("converted_peer_authentication_{}", object.name);
    ObjectKey::new(object.namespace.clone(), name)
}

/// The policy that refuses whoever has no identity. It is published as long as there is any
/// `PeerAuthentication`.
pub fn static_strict(mesh: &Mesh) -> Authorization {
    deny(static_strict_key(mesh), vec![vec![vec![no_identity()]]])
}

fn convert(facts: &PeerFacts, kind: Converted) -> Authorization {
    let ports = |strict: bool| {
        let chosen = move |m: &Mode| match m {
            Mode::Strict => strict,
            Mode::Permissive | Mode::Disable => !strict,
            // A port that states nothing is as the workload is, in both kinds of policy.
            Mode::Unset => false,
        };
        facts
            .ports
            .iter()
            .filter(move |(_, m)| chosen(m))
            .map(|(port, _)| *port)
    };
    let rules = match kind {
        Converted::AllBut => {
            let exempt = ports(false).map(|port| {
                vec![Match {
                    not_destination_ports: vec![port],
                    ..Match::default()
                }]
            });
            vec![std::iter::once(vec![no_identity()]).chain(exempt).collect()]
        }
        Converted::Only => ports(true)
            .map(|port| {
                vec![vec![Match {
                    destination_ports: vec![port],
                    ..no_identity()
                }]]
            })
            .collect(),
    };
    deny(converted_key(&facts.key), rules)
}

fn no_identity() -> Match {
    Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    }
}

fn deny(key: ObjectKey, rules: Vec<ambit_model::policy::Rule>) -> Authorization {
    Authorization {
        name: key.name,
        namespace: key.namespace,
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        rules,
        dry_run: false,
    }
}

/// What is to be said about an object. `winner` is the object that holds on its level, for an
/// object of the mesh or namespace level.
pub fn findings(mesh: &Mesh, facts: &PeerFacts, winner: Option<&PeerFacts>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let level = facts.level(mesh);
    if level == Level::Nothing {
        let message = "a selector in the root namespace selects nothing";
        findings.push(Finding::new(
            Code::SelectorInRootNamespace,
            "spec.selector",
            message,
        ));
    }
    for port in &facts.invalid_ports {
        let message = format!("{port:?} is not a port; it is ignored");
        findings.push(Finding::new(
            Code::InvalidPort,
            "spec.portLevelMtls",
            message,
        ));
    }
    if matches!(level, Level::Mesh | Level::Namespace) && !facts.ports.is_empty() {
        let message = "ports are looked at only together with a selector";
        findings.push(Finding::new(
            Code::PortsWithoutSelector,
            "spec.portLevelMtls",
            message,
        ));
    }
    if let Some(winner) = winner.filter(|w| w.key != facts.key) {
        let message = format!("{} is older and holds instead", winner.key);
        findings.push(Finding::new(Code::OlderWins, "", message));
    }
    if facts.mode == Mode::Disable {
        let message = "the node proxy accepts mutual TLS all the same";
        findings.push(Finding::new(
            Code::DisableIsPermissive,
            "spec.mtls.mode",
            message,
        ));
    }
    findings
}

impl Candidates<'_> {
    /// The object that holds on the level of `facts`; `None` on the workload level.
    pub fn winner(&self, mesh: &Mesh, facts: &PeerFacts) -> Option<&PeerFacts> {
        match facts.level(mesh) {
            Level::Mesh => self.mesh,
            Level::Namespace => self.namespace,
            Level::Workload | Level::Nothing => None,
        }
    }
}

#[cfg(test)]
#[path = "peer_authentication_tests.rs"]
mod tests;
