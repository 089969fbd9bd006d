//! The order in which objects are applied: what others refer to comes first.

use serde_json::Value;

/// A sort key: definitions, accounts and roles, bindings, webhooks, configuration, workloads, the
/// rest; within one step by kind, namespace and name.
pub fn apply_order(object: &Value) -> (u8, String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let step = match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "Role" => 2,
        "ClusterRoleBinding" | "RoleBinding" => 3,
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => 4,
        "ConfigMap" | "Secret" | "ResourceQuota" => 5,
        "Deployment" | "DaemonSet" | "StatefulSet" => 6,
        _ => 7,
    };
    let metadata = &object["metadata"];
    (
        step,
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}
