//! What the agent knows about the pods that it captured.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::uid;
use crate::eligibility::probe_ports;
use crate::netns::Netns;
use crate::rules::ProbeTarget;

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl PodKey {
    /// The key of a pod from the API.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the node proxy is told about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Kubernetes UID.
    pub uid: String,
    /// Namespace and name.
    pub key: PodKey,
    /// Service account, the pod's identity.
    pub service_account: String,
}

/// A captured pod.
#[derive(Clone, Debug)]
pub struct Member {
    pod: Announcement,
    addresses: Vec<IpAddr>,
    ports: BTreeSet<u16>,
    announced: bool,
    /// The pod's namespace, kept open so that it cannot be taken for another one.
    pub netns: Option<Arc<Netns>>,
}

impl Member {
    /// A pod with what is known about its place on this node.
    pub fn new(
        pod: &Pod,
        netns: Option<Arc<Netns>>,
        addresses: Vec<IpAddr>,
        announced: bool,
    ) -> Self {
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone());
        Self {
            pod: Announcement {
                uid: uid(pod).to_owned(),
                key: PodKey::of(pod),
                service_account: account
                    .filter(|a| !a.is_empty())
                    .unwrap_or_else(|| "default".into()),
            },
            addresses,
            ports: probe_ports(pod),
            announced,
            netns,
        }
    }

    /// What the node proxy is told.
    pub fn announcement(&self) -> Announcement {
        self.pod.clone()
    }

    /// The proxy has the pod, and its namespace is known.
    pub fn is_complete(&self) -> bool {
        self.announced && self.netns.is_some()
    }
}

/// All captured pods of the node, by UID.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<String, Member>);

impl Members {
    pub fn get(&self, uid: &str) -> Option<&Member> {
        self.0.get(uid)
    }

    /// Adds a pod, or what is newly known about it. A pod that was announced in the same namespace
    /// stays announced.
    pub fn insert(&mut self, mut member: Member) {
        if let Some(before) = self.0.get(&member.pod.uid) {
            let same = match (&before.netns, &member.netns) {
                (Some(a), Some(b)) => a.id() == b.id(),
                _ => false,
            };
            member.announced |= before.announced && same;
        }
        self.0.insert(member.pod.uid.clone(), member);
    }

    pub fn mark_announced(&mut self, uid: &str) {
        if let Some(member) = self.0.get_mut(uid) {
            member.announced = true;
        }
    }

    /// The pod is being taken out: no exemptions any more, but still known.
    pub fn close(&mut self, uid: &str) {
        if let Some(member) = self.0.get_mut(uid) {
            member.ports.clear();
            member.announced = false;
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// UIDs of pods with this name other than the given one.
    pub fn others(&self, key: &PodKey, current: Option<&str>) -> Vec<String> {
        let others = self
            .0
            .values()
            .filter(|m| m.pod.key == *key && Some(m.pod.uid.as_str()) != current);
        others.map(|m| m.pod.uid.clone()).collect()
    }

    /// Names of all pods.
    pub fn keys(&self) -> Vec<PodKey> {
        self.0.values().map(|m| m.pod.key.clone()).collect()
    }

    /// What the kubelet may reach. Only pods that the proxy has: the exemption comes after the
    /// acknowledgement.
    pub fn probe_targets(&self) -> BTreeMap<ProbeTarget, String> {
        let announced = self.0.values().filter(|m| m.announced);
        announced
            .flat_map(|m| {
                m.addresses.iter().flat_map(move |&address| {
                    m.ports
                        .iter()
                        .map(move |&port| (ProbeTarget { address, port }, m.pod.uid.clone()))
                })
            })
            .collect()
    }
}
