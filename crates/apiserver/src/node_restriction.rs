//! The admission plugin `NodeRestriction`: a node that was broken into cannot draw pods to itself
//! by its own labels, nor drop its taints.

use crate::{
    object,
    status::{ApiError, Result},
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Kubernetes' own labels that kubelets give their nodes.
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Whether a node may give itself a label: its own ones, those that are not Kubernetes', and those
/// of domains made for it.
pub fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let within = |parent: &str| {
        domain
            .strip_suffix(parent)
            .is_some_and(|start| start.is_empty() || start.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let kubelets = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    !kubernetes || kubelets || KUBELET_LABELS.contains(&label)
}

/// Checks what a node makes of itself.
pub fn on_create(node: &str, value: &Value) -> Result<()> {
    let set = differing(&Value::Null, value);
    refuse(node, value, "set the following labels: ", &set)
}

/// Checks how a node changes itself.
pub fn on_update(node: &str, current: &Value, next: &Value) -> Result<()> {
    let changed = differing(current, next);
    refuse(node, current, "modify labels: ", &changed)?;
    if current.pointer("/spec/taints") != next.pointer("/spec/taints") {
        let why = format!("node {node:?} is not allowed to modify taints");
        let name = object::name(current);
        return Err(ApiError::forbidden("", "nodes", name, &why));
    }
    Ok(())
}

/// The labels that differ and that a node may not set.
fn differing<'a>(current: &'a Value, next: &'a Value) -> BTreeSet<&'a str> {
    let labels = |value: &'a Value| value.pointer("/metadata/labels").and_then(Value::as_object);
    let of = |value, key: &str| labels(value).and_then(|all| all.get(key));
    let keys = [labels(current), labels(next)].into_iter().flatten();
    keys.flat_map(|all| all.keys().map(String::as_str))
        .filter(|key| !may_set(key) && of(current, key) != of(next, key))
        .collect()
}

fn refuse(node: &str, value: &Value, what: &str, labels: &BTreeSet<&str>) -> Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = labels.iter().copied().collect();
    let why = format!("node {node:?} is not allowed to {what}{}", list.join(", "));
    let name = object::name(value);
    Err(ApiError::forbidden("", "nodes", name, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kubernetes_labels_are_for_administrators_but_for_the_kubelets_own() {
        for (label, may) in [
            ("rack", true),
            ("example.com/rack", true),
            ("notkubernetes.io/rack", true),
            ("kubernetes.io/hostname", true),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/anything", true),
            ("my.kubelet.kubernetes.io/anything", true),
            ("kubernetes.io/anything", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("x.k8s.io/anything", false),
            ("node-restriction.kubernetes.io/secure", false),
            ("a.node-restriction.kubernetes.io/secure", false),
        ] {
            assert_eq!(may_set(label), may, "{label}");
        }
    }

    #[test]
    fn refusals_name_the_labels() {
        let node = json!({"metadata": {"name": "n", "labels": {"k8s.io/b": "1", "a.k8s.io/a": "1", "x": "1"}}});
        let error = on_create("n", &node).unwrap_err();
        assert!(
            error.message.ends_with(
                "node \"n\" is not allowed to set the following labels: a.k8s.io/a, k8s.io/b"
            ),
            "{}",
            error.message
        );
        let next =
            json!({"metadata": {"name": "n", "labels": {"k8s.io/b": "2", "a.k8s.io/a": "1"}}});
        let error = on_update("n", &node, &next).unwrap_err();
        assert!(
            error
                .message
                .ends_with("is not allowed to modify labels: k8s.io/b")
        );
        assert!(on_update("n", &node, &node).is_ok());
    }
}
