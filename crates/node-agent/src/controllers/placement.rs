//! Whether a pod may be on a node: selectors, required node affinity, taints
//! and tolerations, host ports. Pure; the scheduler and the daemon sets use
//! the same answer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

/// Set on nodes whose condition `Ready` is not true.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Set on nodes that nobody has heard of for a while.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Set on cordoned nodes.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node is out of the question, in the scheduler's usual words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// `nodeSelector` or required node affinity do not match.
    Affinity,
    /// A taint that the pod does not tolerate.
    Taint(String),
    /// The node is cordoned.
    Cordoned,
    /// A host port of the pod is in use there.
    HostPort,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Taint(taint) => write!(f, "node(s) had untolerated taint {{{taint}}}"),
            Self::Cordoned => f.write_str("node(s) were unschedulable"),
            Self::HostPort => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
        }
    }
}

/// What keeps a pod of this `spec` from `node`, given the pods there.
pub(crate) fn obstacle<'a>(
    spec: &PodSpec,
    node: &Node,
    mut there: impl Iterator<Item = &'a Pod>,
) -> Option<Obstacle> {
    if !matches_node(spec, node) {
        return Some(Obstacle::Affinity);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordon = taint(UNSCHEDULABLE, "NoSchedule");
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true)
        && !tolerates(tolerations, &cordon)
    {
        return Some(Obstacle::Cordoned);
    }
    if let Some(taint) = untolerated(tolerations, node, &["NoSchedule", "NoExecute"]) {
        return Some(Obstacle::Taint(describe(&taint)));
    }
    let wanted = host_ports(spec);
    let clash = |pod: &Pod| {
        pod.spec
            .as_ref()
            .is_some_and(|s| ports_clash(&wanted, &host_ports(s)))
    };
    if !wanted.is_empty() && there.any(clash) {
        return Some(Obstacle::HostPort);
    }
    None
}

/// Whether `nodeSelector` and required node affinity of a pod match the node.
pub(crate) fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected && required.is_none_or(|selector| matches_selector(selector, labels, node))
}

fn matches_selector(
    selector: &NodeSelector,
    labels: &BTreeMap<String, String>,
    node: &Node,
) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| matches_term(term, labels, node))
}

fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without any requirement matches no node.
    let has_any = !expressions.is_empty() || !fields.is_empty();
    has_any
        && expressions
            .iter()
            .all(|r| matches_value(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| match r.key.as_str() {
            "metadata.name" => matches_value(r, node.metadata.name.as_deref()),
            _ => false,
        })
}

fn matches_value(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let limit = values.first().and_then(|v| number(v));
    let compared = |accept: fn(i64, i64) -> bool| {
        value
            .and_then(number)
            .zip(limit)
            .is_some_and(|(value, limit)| accept(value, limit))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, limit| value > limit),
        "Lt" => compared(|value, limit| value < limit),
        _ => false,
    }
}

/// The first taint of the node with one of these effects that nothing tolerates.
pub(crate) fn untolerated(
    tolerations: &[Toleration],
    node: &Node,
    effects: &[&str],
) -> Option<Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    // A node that has only just registered may not carry its taint yet.
    let implied = (!is_ready(node)).then(|| taint(NOT_READY, "NoSchedule"));
    taints
        .into_iter()
        .chain(implied)
        .find(|taint| effects.contains(&taint.effect.as_str()) && !tolerates(tolerations, taint))
}

/// Whether any of the tolerations covers the taint.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations
        .iter()
        .any(|toleration| covers(toleration, taint))
}

/// Whether the toleration covers the taint.
pub(crate) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    let value = toleration.value.as_deref().unwrap_or("");
    let same_effect = effect.is_empty() || effect == taint.effect;
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => same_effect && (key.is_empty() || key == taint.key),
        "Equal" | "" => {
            same_effect && key == taint.key && value == taint.value.as_deref().unwrap_or("")
        }
        _ => false,
    }
}

/// Whether the node's condition `Ready` is true.
pub(crate) fn is_ready(node: &Node) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// A taint without a value.
pub(crate) fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    }
}

fn describe(taint: &Taint) -> String {
    format!("{}: {}", taint.key, taint.value.as_deref().unwrap_or(""))
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
            let address = port
                .host_ip
                .clone()
                .filter(|a| a != "0.0.0.0")
                .unwrap_or_default();
            Some((number, protocol, address))
        })
        .collect()
}

fn ports_clash(one: &[HostPort], other: &[HostPort]) -> bool {
    one.iter().any(|a| {
        other
            .iter()
            .any(|b| a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2.is_empty() || b.2.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(labels: Value, taints: Value) -> Node {
        let node = json!({
            "metadata": {"name": "n1", "labels": labels},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        serde_json::from_value(node).expect("a node")
    }

    fn spec(mut spec: Value) -> PodSpec {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(spec).expect("a pod spec")
    }

    fn required(expressions: Value) -> PodSpec {
        spec(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}}))
    }

    #[test]
    fn affinity_operators() {
        let node = node(json!({"zone": "a", "cores": "4"}), json!([]));
        let cases = [
            (
                json!([{"key": "zone", "operator": "In", "values": ["a", "b"]}]),
                true,
            ),
            (
                json!([{"key": "zone", "operator": "NotIn", "values": ["a"]}]),
                false,
            ),
            (
                json!([{"key": "none", "operator": "NotIn", "values": ["a"]}]),
                true,
            ),
            (json!([{"key": "zone", "operator": "Exists"}]), true),
            (json!([{"key": "none", "operator": "DoesNotExist"}]), true),
            (
                json!([{"key": "cores", "operator": "Gt", "values": ["3"]}]),
                true,
            ),
            (
                json!([{"key": "cores", "operator": "Lt", "values": ["4"]}]),
                false,
            ),
            (
                json!([{"key": "zone", "operator": "Like", "values": ["a"]}]),
                false,
            ),
            (json!([]), false),
        ];
        for (expressions, expected) in cases {
            assert_eq!(
                matches_node(&required(expressions.clone()), &node),
                expected,
                "{expressions}"
            );
        }
    }

    #[test]
    fn selectors_and_fields_select_nodes() {
        let node = node(json!({"disk": "ssd"}), json!([]));
        assert!(matches_node(
            &spec(json!({"nodeSelector": {"disk": "ssd"}})),
            &node
        ));
        assert!(!matches_node(
            &spec(json!({"nodeSelector": {"disk": "hdd"}})),
            &node
        ));
        let by_name = |name: &str| {
            spec(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                    "matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}))
        };
        assert!(matches_node(&by_name("n1"), &node));
        assert!(!matches_node(&by_name("n2"), &node));
    }

    #[test]
    fn taints_need_a_matching_toleration() {
        let node = node(
            json!({}),
            json!([{"key": "role", "value": "edge", "effect": "NoSchedule"}]),
        );
        let blocked = Some(Obstacle::Taint("role: edge".into()));
        let cases = [
            (json!([]), blocked.clone()),
            (json!([{"operator": "Exists"}]), None),
            (json!([{"key": "role", "operator": "Exists"}]), None),
            (
                json!([{"key": "role", "value": "edge", "effect": "NoSchedule"}]),
                None,
            ),
            (json!([{"key": "role", "value": "core"}]), blocked.clone()),
            (
                json!([{"key": "role", "operator": "Exists", "effect": "NoExecute"}]),
                blocked,
            ),
        ];
        for (tolerations, expected) in cases {
            let spec = spec(json!({"tolerations": tolerations}));
            assert_eq!(obstacle(&spec, &node, [].iter()), expected, "{tolerations}");
        }
    }

    #[test]
    fn a_node_that_is_not_ready_or_cordoned_takes_no_pods() {
        let mut node = node(json!({}), json!([]));
        let plain = spec(json!({}));
        assert_eq!(obstacle(&plain, &node, [].iter()), None);
        node.spec.as_mut().expect("spec").unschedulable = Some(true);
        assert_eq!(obstacle(&plain, &node, [].iter()), Some(Obstacle::Cordoned));
        node.spec.as_mut().expect("spec").unschedulable = None;
        node.status = None;
        assert!(matches!(
            obstacle(&plain, &node, [].iter()),
            Some(Obstacle::Taint(_))
        ));
    }

    #[test]
    fn host_ports_are_taken_once_per_address() {
        let node = node(json!({}), json!([]));
        let with = |ip: &str| {
            spec(json!({"containers": [{"name": "c", "ports":
                [{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]}]}))
        };
        let there = Pod {
            spec: Some(with("10.0.0.1")),
            ..Pod::default()
        };
        assert_eq!(
            obstacle(&with("10.0.0.2"), &node, [&there].into_iter()),
            None
        );
        let taken = Some(Obstacle::HostPort);
        assert_eq!(
            obstacle(&with("0.0.0.0"), &node, [&there].into_iter()),
            taken
        );
        assert_eq!(
            obstacle(&with("10.0.0.1"), &node, [&there].into_iter()),
            taken
        );
    }
}
