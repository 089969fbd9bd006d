//! Facts about a pod.

use std::net::IpAddr;

use ambit_kube_api::{annotations, labels};
use ambit_model::Text;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

use super::owner::workload_name;
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID of the object.
    pub uid: Text,
    /// Labels.
    pub labels: Labels,
    /// All its addresses; none until the node has given it one.
    pub addresses: Vec<IpAddr>,
    /// Node that it runs on, empty until it is scheduled.
    pub node: Text,
    /// Service account.
    pub service_account: Text,
    /// It uses the network of the node.
    pub host_network: bool,
    /// It passed its readiness checks and is not about to end.
    pub ready: bool,
    /// It has failed for good.
    pub failed: bool,
    /// It has come to its end, well or not.
    pub ended: bool,
    /// The node agent has completed its capture.
    pub captured: bool,
    /// It speaks HBONE itself.
    pub native_tunnel: bool,
    /// Name of what owns it.
    pub workload_name: Text,
    /// Named TCP ports of its containers.
    pub ports: Vec<(Text, u16)>,
}

impl PodFacts {
    /// The facts about a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let redirection = pod.annotations().get(annotations::REDIRECTION);
        let tunnel = pod.labels().get(labels::TUNNEL);
        Self {
            key: ObjectKey::of(pod),
            uid: pod.uid().unwrap_or_default().into(),
            labels: labels_from(pod.metadata.labels.as_ref()),
            addresses: addresses(pod),
            node: spec
                .and_then(|s| s.node_name.as_deref())
                .unwrap_or_default()
                .into(),
            service_account: spec
                .and_then(|s| s.service_account_name.as_deref())
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .into(),
            host_network: spec.and_then(|s| s.host_network).unwrap_or_default(),
            ready: is_ready(pod),
            failed: phase == "Failed",
            ended: matches!(phase, "Failed" | "Succeeded"),
            captured: redirection.is_some_and(|v| v == annotations::REDIRECTION_ENABLED),
            native_tunnel: tunnel.is_some_and(|v| v == labels::TUNNEL_HTTP),
            workload_name: workload_name(pod),
            ports: named_ports(pod),
        }
    }

    /// It is part of the mesh: reached over HBONE, and its policies are enforced.
    pub fn in_mesh(&self) -> bool {
        self.captured || self.native_tunnel
    }

    /// The number of a named port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|(n, _)| **n == *name)
            .map(|(_, port)| *port)
    }
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in listed.chain(status.pod_ip.as_deref()) {
        if let Ok(ip) = text.parse::<IpAddr>()
            && !addresses.contains(&ip)
        {
            addresses.push(ip);
        }
    }
    addresses
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Ports of the containers, and of init containers that keep running.
fn named_ports(pod: &Pod) -> Vec<(Text, u16)> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let stays = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let init = spec.init_containers.iter().flatten().filter(stays);
    spec.containers
        .iter()
        .chain(init)
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|p| {
            Some((
                p.name.as_deref()?.into(),
                u16::try_from(p.container_port).ok()?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(value: serde_json::Value) -> PodFacts {
        PodFacts::of(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_running_pod() {
        let pod = facts(json!({
            "metadata": {
                "name": "cart-1", "namespace": "shop", "uid": "u1",
                "labels": {"app": "cart"},
                "annotations": {"ambient.istio.io/redirection": "enabled", "other": "x"}
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "cart",
                "containers": [{"name": "c", "ports": [
                    {"name": "web", "containerPort": 8080},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"containerPort": 9000}
                ]}],
                "initContainers": [
                    {"name": "once", "ports": [{"name": "gone", "containerPort": 1}]},
                    {"name": "stays", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}
                ]
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}]
            }
        }));
        assert_eq!(pod.key.to_string(), "shop/cart-1");
        assert_eq!(pod.addresses.len(), 2);
        assert!(pod.ready && pod.captured && pod.in_mesh() && !pod.ended);
        assert_eq!((pod.port("web"), pod.port("side")), (Some(8080), Some(2)));
        assert_eq!((pod.port("dns"), pod.port("gone")), (None, None));
        assert_eq!(&*pod.workload_name, "cart-1");
    }

    #[test]
    fn an_empty_pod_has_facts() {
        let pod = facts(json!({"metadata": {"name": "p"}}));
        assert_eq!(&*pod.service_account, "default");
        assert!(pod.addresses.is_empty() && !pod.ready && !pod.in_mesh());
    }

    #[test]
    fn a_pod_that_ends_is_not_ready() {
        let pod = facts(json!({
            "metadata": {"name": "p", "deletionTimestamp": "2030-01-01T00:00:00Z"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        }));
        assert!(!pod.ready);
    }

    #[test]
    fn pending_capture_is_no_capture() {
        let pod = facts(json!({
            "metadata": {"name": "p", "annotations": {"ambient.istio.io/redirection": "pending"}}
        }));
        assert!(!pod.in_mesh());
    }
}
