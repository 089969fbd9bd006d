//! A service that changes its type: what belonged to the old one goes, unless the client says
//! otherwise in the same request. As `dropTypeDependentFields` of Kubernetes.

use crate::object;
use serde_json::{Map, Value};

fn kind(service: &Value) -> &str {
    object::text(service, "/spec/type")
}

fn has_address(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    let allocated = service.pointer("/spec/allocateLoadBalancerNodePorts");
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => allocated != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn is_balanced(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
}

fn is_checked(service: &Value) -> bool {
    is_balanced(service) && object::text(service, "/spec/externalTrafficPolicy") == "Local"
}

fn is_reachable(service: &Value) -> bool {
    let external = service.pointer("/spec/externalIPs");
    let external = external.and_then(Value::as_array);
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && external.is_some_and(|ips| !ips.is_empty()))
}

/// Removes from the next state what its type has no use for and its client did not change.
pub fn drop_dependent(current: &Value, next: &mut Value) {
    let loses = |has: fn(&Value) -> bool| has(current) && !has(next);
    let mut gone: Vec<&[&str]> = Vec::new();
    if loses(has_address) {
        gone.push(&["clusterIP", "clusterIPs"]);
        gone.push(&["ipFamilies"]);
        gone.push(&["ipFamilyPolicy"]);
        gone.push(&["internalTrafficPolicy"]);
    }
    if loses(is_checked) {
        gone.push(&["healthCheckNodePort"]);
    }
    if loses(is_balanced) {
        gone.push(&["allocateLoadBalancerNodePorts"]);
        gone.push(&["loadBalancerClass"]);
    }
    if loses(is_reachable) {
        gone.push(&["externalTrafficPolicy"]);
    }
    let ports = loses(has_node_ports) && node_ports(current) == node_ports(next);
    let before = current.get("spec").unwrap_or(&Value::Null);
    let Some(spec) = object::child(next, "spec") else {
        return;
    };
    for keys in gone {
        if keys.iter().all(|key| spec.get(*key) == before.get(*key)) {
            keys.iter().for_each(|key| drop(spec.shift_remove(*key)));
        }
    }
    if ports {
        drop_node_ports(spec);
    }
}

fn node_ports(service: &Value) -> Vec<Option<&Value>> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let ports = ports.into_iter().flatten();
    ports.map(|port| port.get("nodePort")).collect()
}

fn drop_node_ports(spec: &mut Map<String, Value>) {
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.shift_remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn retyped(current: &Value, change: &Value) -> Value {
        let mut next = crate::patch::merge(change, current);
        drop_dependent(current, &mut next);
        next["spec"].take()
    }

    #[test]
    fn what_belongs_to_a_type_goes_with_it() {
        let node = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]}});
        let inner = retyped(&node, &json!({"spec": {"type": "ClusterIP"}}));
        assert_eq!(
            inner,
            json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"port": 80}]})
        );
        let name = retyped(&node, &json!({"spec": {"type": "ExternalName"}}));
        assert_eq!(
            name,
            json!({"type": "ExternalName", "ports": [{"port": 80}]})
        );
        // Who asks for it in the same request is told that it does not fit.
        let ports =
            json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30081}]}});
        assert_eq!(retyped(&node, &ports)["ports"][0]["nodePort"], 30081);
        let same = retyped(&node, &json!({"spec": {"type": "NodePort"}}));
        assert_eq!(same, node["spec"]);
    }
}
