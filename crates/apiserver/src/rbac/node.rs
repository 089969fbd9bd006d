//! The node authorizer: a kubelet sees what the pods on its node need, and writes only about
//! itself and them.

use crate::{api::Api, object, request::Target, store::Key};
use serde_json::Value;
use std::sync::Arc;

/// Whether node `node` may do this.
pub fn allows(api: &Api, node: &str, target: &Target<'_>) -> bool {
    if !target.is_resource {
        return false;
    }
    let read = matches!(target.verb, "get" | "list" | "watch");
    let write = matches!(target.verb, "create" | "update" | "patch");
    let path = target.resource_path();
    match (target.group.as_str(), path.as_str()) {
        ("", "services" | "namespaces") | ("discovery.k8s.io", "endpointslices") => read,
        ("node.k8s.io", "runtimeclasses") | ("storage.k8s.io", "csidrivers") => read,
        ("", "nodes") => read || target.verb == "create" || (write && target.name == node),
        ("", "nodes/status") => write && target.name == node,
        ("", "pods") => pods(api, node, target),
        ("", "pods/status") => matches!(target.verb, "update" | "patch") && runs(api, node, target),
        ("", "pods/eviction") => target.verb == "create" && runs(api, node, target),
        ("", "events") | ("events.k8s.io", "events") => write,
        ("coordination.k8s.io", "leases") => {
            target.namespace == "kube-node-lease"
                && (target.name == node || target.verb == "create")
                && (target.verb == "get" || write || target.verb == "delete")
        }
        ("", "secrets" | "configmaps") => {
            read && !target.name.is_empty() && needed(api, node, target)
        }
        ("", "serviceaccounts") => target.verb == "get" && uses_account(api, node, target),
        ("", "serviceaccounts/token") => target.verb == "create" && uses_account(api, node, target),
        ("", "persistentvolumeclaims" | "persistentvolumes") => target.verb == "get",
        ("authentication.k8s.io", "tokenreviews") => target.verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
            target.verb == "create"
        }
        _ => false,
    }
}

fn pods(api: &Api, node: &str, target: &Target<'_>) -> bool {
    match target.verb {
        "get" | "delete" => runs(api, node, target),
        // Only a list that is limited to the node shows nothing of others.
        "list" | "watch" => target.node_selected.as_deref() == Some(node),
        _ => false,
    }
}

fn pods_on(api: &Api, node: &str, namespace: &str) -> Vec<Arc<object::Object>> {
    let all = api.store.list("pods", Some(namespace)).1;
    all.into_iter()
        .filter(|p| object::text(p.value(), "/spec/nodeName") == node)
        .collect()
}

fn runs(api: &Api, node: &str, target: &Target<'_>) -> bool {
    let pod = api
        .store
        .get(&Key::new(&"pods".into(), &target.namespace, &target.name));
    // A pod that is gone may be asked about: the answer is "not found".
    pod.is_none_or(|pod| object::text(pod.value(), "/spec/nodeName") == node)
}

fn uses_account(api: &Api, node: &str, target: &Target<'_>) -> bool {
    pods_on(api, node, &target.namespace)
        .iter()
        .any(|pod| object::text(pod.value(), "/spec/serviceAccountName") == target.name)
}

/// Whether a pod of the node mentions the secret or config map.
fn needed(api: &Api, node: &str, target: &Target<'_>) -> bool {
    pods_on(api, node, &target.namespace).iter().any(|pod| {
        mentions(
            pod.value().get("spec").unwrap_or(&Value::Null),
            &target.resource,
            &target.name,
        )
    })
}

/// Looks for references in volumes, environment and image pull secrets.
fn mentions(spec: &Value, resource: &str, name: &str) -> bool {
    let (volume, key_ref, source_ref) = match resource {
        "secrets" => ("secret", "secretKeyRef", "secretRef"),
        _ => ("configMap", "configMapKeyRef", "configMapRef"),
    };
    let list = |value: &Value, key: &str| -> Vec<Value> {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let named =
        |value: Option<&Value>, key: &str| value.is_some_and(|v| object::text(v, key) == name);
    let in_volume = |v: &Value| {
        named(v.get(volume), "/secretName")
            || named(v.get(volume), "/name")
            || v.get("projected").is_some_and(|p| {
                list(p, "sources")
                    .iter()
                    .any(|s| named(s.get(volume), "/name"))
            })
    };
    let in_container = |c: &Value| {
        list(c, "env")
            .iter()
            .any(|e| named(e.pointer(&format!("/valueFrom/{key_ref}")), "/name"))
            || list(c, "envFrom")
                .iter()
                .any(|e| named(e.get(source_ref), "/name"))
    };
    list(spec, "volumes").iter().any(in_volume)
        || ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .any(|key| list(spec, key).iter().any(in_container))
        || (resource == "secrets"
            && list(spec, "imagePullSecrets")
                .iter()
                .any(|s| object::text(s, "/name") == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found() {
        let spec = json!({
            "volumes": [{"name": "a", "secret": {"secretName": "s1"}},
                        {"name": "b", "projected": {"sources": [{"configMap": {"name": "c1"}}]}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s2"}}}], "envFrom": [{"configMapRef": {"name": "c2"}}]}],
            "imagePullSecrets": [{"name": "s3"}]});
        for s in ["s1", "s2", "s3"] {
            assert!(mentions(&spec, "secrets", s), "{s}");
            assert!(!mentions(&spec, "configmaps", s), "{s}");
        }
        assert!(mentions(&spec, "configmaps", "c1") && mentions(&spec, "configmaps", "c2"));
        assert!(!mentions(&spec, "secrets", "other"));
    }
}
