//! Whether a node is one that a pod asks for: selectors, node affinity, taints
//! and tolerations. Pure; the scheduler and the daemon sets use the same answer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Set on nodes whose condition `Ready` is not true.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Set on nodes that nobody has heard of for a while.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Set on cordoned nodes.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

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

/// Whether one term of node affinity matches the node.
pub(crate) fn prefers(term: &NodeSelectorTerm, node: &Node) -> bool {
    let none = BTreeMap::new();
    matches_term(term, node.metadata.labels.as_ref().unwrap_or(&none), node)
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
        for (tolerations, tolerated) in [
            (json!([]), false),
            (json!([{"operator": "Exists"}]), true),
            (json!([{"key": "role", "operator": "Exists"}]), true),
            (
                json!([{"key": "role", "value": "edge", "effect": "NoSchedule"}]),
                true,
            ),
            (json!([{"key": "role", "value": "core"}]), false),
            (
                json!([{"key": "role", "operator": "Exists", "effect": "NoExecute"}]),
                false,
            ),
        ] {
            let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            let found = untolerated(&parsed, &node, &["NoSchedule", "NoExecute"]);
            assert_eq!(found.is_none(), tolerated, "{tolerations}");
        }
    }

    #[test]
    fn a_node_that_is_not_ready_is_as_good_as_tainted() {
        let mut node = node(json!({}), json!([]));
        assert_eq!(untolerated(&[], &node, &["NoSchedule"]), None);
        node.status = None;
        let found = untolerated(&[], &node, &["NoSchedule"]);
        assert_eq!(found.map(|taint| taint.key).as_deref(), Some(NOT_READY));
    }
}
