//! What an object has before anybody says anything of it.
//!
//! The real server compares with objects of Go types, in which structures that are no pointers are
//! always there. Whoever fills one in makes its fields, but not the structure.

use crate::registry::{Resource, Schema};
use serde_json::{Value, json};

/// An object as it was, or nothing, with the structures that are always there.
pub fn completed(resource: &Resource, before: Option<&Value>) -> Value {
    let mut value = before.cloned().unwrap_or_else(|| json!({}));
    complete(&mut value, &zero(resource));
    value
}

fn complete(value: &mut Value, zero: &Value) {
    let (Value::Object(map), Value::Object(zero)) = (value, zero) else {
        return;
    };
    for (key, inner) in zero {
        complete(map.entry(key).or_insert_with(|| inner.clone()), inner);
    }
}

fn zero(resource: &Resource) -> Value {
    let mut zero = json!({"metadata": {}});
    if matches!(resource.schema, Schema::Custom(_)) {
        return zero;
    }
    let pod = json!({"containers": []});
    let template = json!({"metadata": {}, "spec": pod});
    let spec = match resource.kind.as_ref() {
        "Pod" => pod,
        "ReplicaSet" | "Job" => json!({"template": template}),
        "Deployment" => json!({"template": template, "strategy": {}}),
        "StatefulSet" | "DaemonSet" => json!({"template": template, "updateStrategy": {}}),
        "CronJob" => {
            json!({"jobTemplate": {"metadata": {}, "spec": {"template": template}}})
        }
        "HorizontalPodAutoscaler" => json!({"scaleTargetRef": {}}),
        "NetworkPolicy" => json!({"podSelector": {}}),
        "PersistentVolumeClaim" => json!({"resources": {}}),
        "CustomResourceDefinition" => json!({"names": {}, "versions": []}),
        _ => json!({}),
    };
    let status = match resource.kind.as_ref() {
        "Service" | "Ingress" => json!({"loadBalancer": {}}),
        "Node" => json!({"daemonEndpoints": {"kubeletEndpoint": {}}, "nodeInfo": {}}),
        "CustomResourceDefinition" => {
            json!({"acceptedNames": {}, "conditions": [], "storedVersions": []})
        }
        _ => json!({}),
    };
    zero["spec"] = spec;
    zero["status"] = status;
    match resource.kind.as_ref() {
        "RoleBinding" | "ClusterRoleBinding" => zero["roleRef"] = json!({}),
        "Event" => {
            for key in ["involvedObject", "source", "regarding", "deprecatedSource"] {
                zero[key] = json!({});
            }
        }
        _ => {}
    }
    zero
}
