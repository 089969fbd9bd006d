//! Questions that other parts ask of the state.

use std::collections::BTreeSet;

use ambit_model::{Identity, Text};
use ambit_translate::authentications::KeySource;
use ambit_translate::{Mesh, ObjectKey, PodFacts};

use super::Engine;

/// What the certificate authority has to know about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAccount {
    /// UID of the pod.
    pub uid: Text,
    /// Its service account.
    pub service_account: Text,
    /// Its node, empty until it is scheduled.
    pub node: Text,
}

impl Engine {
    /// Settings of the mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.tables.mesh
    }

    /// Where keys of issuers are asked for.
    pub fn key_sources(&self) -> BTreeSet<KeySource> {
        let all = self.tables.authentications.values();
        let active = all.filter(|e| self.tables.is_active(&e.facts.key, &e.facts.labels));
        active.flat_map(|e| e.facts.key_sources()).collect()
    }

    /// A pod, whether its namespace is seen or not.
    pub fn pod_account(&self, key: &ObjectKey) -> Option<PodAccount> {
        self.tables.pods.get(key).map(|pod| PodAccount {
            uid: pod.uid.clone(),
            service_account: pod.service_account.clone(),
            node: pod.node.clone(),
        })
    }

    /// Whether a pod of this identity, which has not failed, is on a node.
    pub fn runs_on(&self, node: &Text, identity: &Identity) -> bool {
        self.tables.pods_on(node).any(|pod| {
            pod.key.namespace == identity.namespace
                && pod.service_account == identity.service_account
                && !pod.failed
        })
    }

    /// Whether a service account may ask for the certificates of the pods on its node.
    pub fn is_trusted_node_account(&self, namespace: &str, name: &str) -> bool {
        let is = |account: &ObjectKey| *account.namespace == *namespace && *account.name == *name;
        self.tables.settings.trusted_node_accounts.iter().any(is)
            || self.tables.config.trusted_node_accounts.iter().any(is)
    }

    /// Namespaces in which workloads of the mesh can run, except those that are about to go.
    pub fn namespaces(&self) -> Vec<Text> {
        let mut names: Vec<Text> = self
            .tables
            .namespaces
            .values()
            .filter(|ns| !ns.terminating && self.tables.in_scope(&ns.name))
            .map(|ns| ns.name.clone())
            .collect();
        names.sort();
        names
    }

    /// How many services are known.
    pub fn services(&self) -> usize {
        self.tables.services.len()
    }

    /// How many objects of each kind are known.
    pub fn counts(&self) -> [(&'static str, usize); 7] {
        let t = &self.tables;
        [
            ("Namespace", t.namespaces.len()),
            ("Node", t.nodes.len()),
            ("Pod", t.pods.len()),
            ("Service", t.services.len()),
            ("EndpointSlice", t.slices.len()),
            ("AuthorizationPolicy", t.policies.len()),
            ("PeerAuthentication", t.peers.len()),
        ]
    }
}

/// Whether a pod is a workload that a policy can cover.
pub(super) fn is_covered(pod: &PodFacts) -> bool {
    !pod.addresses.is_empty() && !pod.ended && !pod.host_network
}
