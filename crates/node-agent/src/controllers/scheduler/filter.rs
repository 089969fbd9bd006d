//! Which nodes are out of the question for a pod, and why, in the words of the
//! Kubernetes scheduler. Each filter sees only nodes that the ones before it left.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::Place;
use super::affinity::Affinities;
use super::resources;
use super::spread::Spread;
use crate::controllers::placement::{
    self, UNSCHEDULABLE, matches_node, taint, tolerates, untolerated,
};

/// Why a node is out of the question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Obstacle {
    pub(super) reason: String,
    /// Whether it might go away if other pods did.
    pub(super) by_pods: bool,
}

impl Obstacle {
    fn of_node(reason: &str) -> Vec<Self> {
        vec![Self {
            reason: reason.to_owned(),
            by_pods: false,
        }]
    }

    fn of_pods(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            by_pods: true,
        }
    }
}

/// What keeps the pod from one of `places`; nothing if it fits there.
pub(super) fn obstacles(
    pod: &Pod,
    spec: &PodSpec,
    place: &Place<'_>,
    spread: &Spread,
    affinities: &Affinities,
) -> Vec<Obstacle> {
    let node = place.node;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    if cordoned && !tolerates(tolerations, &taint(UNSCHEDULABLE, "NoSchedule")) {
        return Obstacle::of_node("node(s) were unschedulable");
    }
    if untolerated(tolerations, node, &["NoSchedule", "NoExecute"]).is_some() {
        return Obstacle::of_node("node(s) had untolerated taint(s)");
    }
    if !matches_node(spec, node) {
        return Obstacle::of_node("node(s) didn't match Pod's node affinity/selector");
    }
    if clashes(spec, &place.pods) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return vec![Obstacle::of_pods(reason)];
    }
    let lacking = lacking(spec, node, &place.pods);
    if !lacking.is_empty() {
        return lacking;
    }
    if let Some(obstacle) = spread.obstacle(pod, node) {
        return vec![obstacle];
    }
    affinities.obstacle(pod, node).into_iter().collect()
}

fn lacking(spec: &PodSpec, node: &Node, pods: &[&Pod]) -> Vec<Obstacle> {
    // What even the empty node lacks is not a matter of other pods.
    let always = resources::lacking(spec, node, &[]);
    let reason = |name: &String| match name.as_str() {
        "pods" => "Too many pods".to_owned(),
        name => format!("Insufficient {name}"),
    };
    resources::lacking(spec, node, pods)
        .iter()
        .map(|name| Obstacle {
            reason: reason(name),
            by_pods: !always.contains(name),
        })
        .collect()
}

/// Whether the node is ready as far as scheduling goes; a heartbeat is no change.
pub(super) fn same_for_scheduling(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && placement::is_ready(old) == placement::is_ready(new)
        && allocatable(old) == allocatable(new)
}

type HostPort = (i32, String, String);

/// Host ports (port, protocol, address) that a pod claims on its node.
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let on_host = spec.host_network == Some(true);
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port
                .host_port
                .or_else(|| on_host.then_some(port.container_port))?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().filter(|a| a != "0.0.0.0");
            Some((number, protocol, address.unwrap_or_default()))
        })
        .collect()
}

fn clashes(spec: &PodSpec, pods: &[&Pod]) -> bool {
    let wanted = host_ports(spec);
    let same = |a: &HostPort, b: &HostPort| {
        a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2.is_empty() || b.2.is_empty())
    };
    !wanted.is_empty()
        && pods.iter().filter_map(|pod| pod.spec.as_ref()).any(|spec| {
            let taken = host_ports(spec);
            wanted.iter().any(|a| taken.iter().any(|b| same(a, b)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(mut node: Value) -> Node {
        node["metadata"]["name"] = "n1".into();
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        node["status"]["allocatable"] = json!({"cpu": "1", "memory": "1Gi", "pods": "2"});
        serde_json::from_value(node).unwrap()
    }

    fn pod(mut spec: Value) -> Pod {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn reasons(pod: &Pod, node: &Node, there: &[&Pod]) -> Vec<String> {
        let place = Place {
            node,
            pods: there.to_vec(),
        };
        let spec = pod.spec.as_ref().unwrap();
        let places = [place];
        let spread = Spread::of(pod, &places);
        let affinities = Affinities::of(pod, &places, &[]);
        obstacles(pod, spec, &places[0], &spread, &affinities)
            .into_iter()
            .map(|obstacle| obstacle.reason)
            .collect()
    }

    #[test]
    fn reasons_are_the_usual_ones() {
        let plain = pod(json!({}));
        assert_eq!(reasons(&plain, &node(json!({})), &[]), [""; 0]);
        let cordoned = node(json!({"spec": {"unschedulable": true}}));
        assert_eq!(
            reasons(&plain, &cordoned, &[]),
            ["node(s) were unschedulable"]
        );
        let tainted = node(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
        assert_eq!(
            reasons(&plain, &tainted, &[]),
            ["node(s) had untolerated taint(s)"]
        );
        let picky = pod(json!({"nodeSelector": {"disk": "ssd"}}));
        let reason = "node(s) didn't match Pod's node affinity/selector";
        assert_eq!(reasons(&picky, &node(json!({})), &[]), [reason]);
        let greedy = pod(
            json!({"containers": [{"name": "c", "resources": {"requests":
            {"cpu": "2", "memory": "2Gi"}}}]}),
        );
        assert_eq!(
            reasons(&greedy, &node(json!({})), &[]),
            ["Insufficient cpu", "Insufficient memory"]
        );
        assert_eq!(
            reasons(&plain, &node(json!({})), &[&plain, &plain]),
            ["Too many pods"]
        );
    }

    #[test]
    fn host_ports_are_taken_once_per_address() {
        let node = node(json!({}));
        let with = |ip: &str| {
            pod(json!({"containers": [{"name": "c", "ports":
                [{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]}))
        };
        let there = with("10.0.0.1");
        assert_eq!(reasons(&with("10.0.0.2"), &node, &[&there]), [""; 0]);
        let taken = ["node(s) didn't have free ports for the requested pod ports"];
        assert_eq!(reasons(&with("0.0.0.0"), &node, &[&there]), taken);
        assert_eq!(reasons(&with("10.0.0.1"), &node, &[&there]), taken);
    }
}
