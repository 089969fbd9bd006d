//! Rules about pods and pod templates.

use super::{
    container::containers,
    fields::{address, label_name, list, one_of, within},
    meta, scheduling, security,
    volumes::volumes,
};
use crate::{object, status::Cause};
use serde_json::Value;

/// What a pod's spec stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    /// A pod: its ports are settled.
    Pod,
    /// A template of pods.
    Template,
}

/// A pod; `current` is what it was before, if it was.
pub fn pod(value: &Value, current: Option<&Value>, causes: &mut Vec<Cause>) {
    check(value.get("spec"), "spec", In::Pod, causes);
    if current.is_none() && !ephemeral_containers(value).is_empty() {
        let why = "cannot be set on create";
        causes.push(Cause::forbidden("spec.ephemeralContainers", why));
    }
}

fn ephemeral_containers(pod: &Value) -> &[Value] {
    list(
        pod.get("spec").unwrap_or(&Value::Null),
        "ephemeralContainers",
    )
}

/// Ephemeral containers are added to those that there are.
pub fn ephemeral(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    const FIELD: &str = "spec.ephemeralContainers";
    pod(next, Some(current), causes);
    let name = |container: &Value| object::text(container, "/name").to_owned();
    for before in ephemeral_containers(current) {
        let own = name(before);
        let after = ephemeral_containers(next).iter().find(|c| name(c) == own);
        let what = match after {
            Some(after) if after == before => continue,
            Some(_) => "changed",
            None => "removed",
        };
        let why = format!("existing ephemeral containers {own:?} may not be {what}\n");
        causes.push(Cause::forbidden(FIELD, &why));
    }
}

/// The spec of a template of pods at a path.
pub fn spec(spec: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    check(spec, path, In::Template, causes);
}

fn check(spec: Option<&Value>, path: &str, place: In, causes: &mut Vec<Cause>) {
    let spec = spec.unwrap_or(&Value::Null);
    let volumes = volumes(spec, path, causes);
    containers(spec, path, &volumes, causes);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_ports(spec, path, place, causes);
    }
    let policies = ["Always", "Never", "OnFailure"];
    one_of(spec, "restartPolicy", path, &policies, causes);
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(spec, "dnsPolicy", path, &dns, causes);
    let field = format!("{path}.nodeSelector");
    meta::labels_of(spec.get("nodeSelector"), &field, causes);
    security::of_pod(spec, path, causes);
    scheduling::placement(spec, path, causes);
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let field = format!("{path}.readinessGates[{i}].conditionType");
        meta::label_name(object::text(gate, "/conditionType"), &field, causes);
    }
    scheduling::spread(spec, path, causes);
    names(spec, path, causes);
    scheduling::tolerations(spec, path, causes);
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let field = format!("{path}.hostAliases[{i}]");
        address(object::text(alias, "/ip"), &format!("{field}.ip"), causes);
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            if let Some(why) = meta::dns_subdomain(name.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("{field}.hostnames[{j}]"), name, why));
            }
        }
    }
}

/// On the node's own network a container's port is the node's.
fn host_ports(spec: &Value, path: &str, place: In, causes: &mut Vec<Cause>) {
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let number = |key: &str| port.get(key).and_then(Value::as_i64).unwrap_or(0);
            let (host, own) = (number("hostPort"), number("containerPort"));
            if host != own && (host != 0 || place == In::Pod) {
                let field = format!("{path}.containers[{i}].ports[{j}].hostPort");
                let why = "must match `containerPort` when `hostNetwork` is true";
                causes.push(Cause::invalid(field, &host.into(), why));
            }
        }
    }
}

fn names(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["serviceAccountName", "nodeName"] {
        let name = object::text(spec, &format!("/{key}"));
        if let Some(why) = meta::dns_subdomain(name).filter(|_| !name.is_empty()) {
            causes.push(Cause::invalid(format!("{path}.{key}"), &name.into(), why));
        }
    }
    if let Some(deadline) = spec.get("activeDeadlineSeconds") {
        let most = i64::from(i32::MAX);
        within(
            deadline,
            1,
            most,
            &format!("{path}.activeDeadlineSeconds"),
            causes,
        );
    }
    for key in ["hostname", "subdomain"] {
        let name = object::text(spec, &format!("/{key}"));
        if !name.is_empty() {
            label_name(name, &format!("{path}.{key}"), causes);
        }
    }
}

/// A pod's spec is fixed, apart from images, deadlines, tolerations and the binding to a node.
pub fn update(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let strip = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(map) = spec.as_object_mut() {
            for key in [
                "activeDeadlineSeconds",
                "terminationGracePeriodSeconds",
                "tolerations",
                "schedulingGates",
            ] {
                map.shift_remove(key);
            }
            for key in ["containers", "initContainers"] {
                for c in map
                    .get_mut(key)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(c) = c.as_object_mut() {
                        c.shift_remove("image");
                    }
                }
            }
        }
        spec
    };
    if strip(current) != strip(next) {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ephemeral_containers_come_later() {
        let value = json!({"spec": {"containers": [{"name": "c", "image": "x"}],
            "ephemeralContainers": [{"name": "e", "image": "x"}]}});
        let mut causes = Vec::new();
        pod(&value, None, &mut causes);
        assert!(
            causes
                .iter()
                .any(|c| c.message.contains("cannot be set on create"))
        );
        let mut causes = Vec::new();
        pod(&value, Some(&value), &mut causes);
        assert!(!causes.iter().any(|c| c.message.contains("on create")));
    }

    fn complaints(value: Value) -> Vec<String> {
        let mut causes = Vec::new();
        spec(Some(&value), "spec", &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn mistakes_are_named_with_their_path() {
        assert_eq!(complaints(json!({})), ["spec.containers: Required value"]);
        let found = complaints(json!({"containers": [
            {"name": "A", "image": "x"},
            {"name": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}], "readinessProbe": {}}
        ]}));
        assert!(found[0].starts_with("spec.containers[0].name: Invalid value: \"A\""));
        assert_eq!(found[1], "spec.containers[1].image: Required value");
        assert_eq!(
            found[2],
            "spec.containers[1].volumeMounts[0].name: Not found: \"v\""
        );
        assert_eq!(
            found[3],
            "spec.containers[1].readinessProbe: Required value: must specify a handler type"
        );
        let found = complaints(
            json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}),
        );
        assert_eq!(
            found,
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
            ]
        );
    }
}
