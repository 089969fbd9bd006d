//! Values that the real API server fills in, kind by kind.
//!
//! Clients rely on them: kubectl panics on a pod without `securityContext`, and a missing default
//! makes `kubectl apply` report "configured" for ever.

mod pod;
mod workload;

use crate::{
    crd,
    object::{self, set_default},
    registry::{Resource, Schema},
    services,
};
use serde_json::{Map, Value, json};

/// Defaults of a new object.
pub fn on_create(resource: &Resource, value: &mut Value) {
    if let Schema::Custom(_) = resource.schema {
        return custom(resource, value);
    }
    apply(resource, value);
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Namespace") => namespace(value),
        ("", "Node") => node(value),
        ("", "ResourceQuota") => status(value, json!({})),
        ("", "Pod") => pod::new_status(value),
        ("", "Service") => status(value, json!({"loadBalancer": {}})),
        ("apps", "Deployment") => status(value, json!({})),
        ("apps", "ReplicaSet") => status(value, json!({"replicas": 0})),
        ("apps", "StatefulSet") => status(value, json!({"replicas": 0, "availableReplicas": 0})),
        ("apps", "DaemonSet") => status(
            value,
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        ),
        ("policy", "PodDisruptionBudget") => status(
            value,
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        ),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => {
            status(value, json!({"phase": "Pending"}))
        }
        ("batch", "Job" | "CronJob") => status(value, json!({})),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            status(value, json!({"desiredReplicas": 0, "currentMetrics": null}));
        }
        ("networking.k8s.io", "Ingress") => status(value, json!({"loadBalancer": {}})),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {}
        _ => {}
    }
}

/// Defaults of a changed object.
pub fn on_update(resource: &Resource, current: &Value, value: &mut Value) {
    apply(resource, value);
    if resource.is("", "Service") {
        services::drop_dependent(current, value);
    }
}

/// Defaults that a CRD's schema declares.
pub fn custom(resource: &Resource, value: &mut Value) {
    if let Schema::Custom(version) = &resource.schema {
        crd::default(version, value);
    }
}

fn status(value: &mut Value, status: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert("status".into(), status);
    }
}

fn apply(resource: &Resource, value: &mut Value) {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => {
            if let Some(spec) = object::child(value, "spec") {
                pod::spec(spec);
            }
            pod::conditions(value);
        }
        ("", "Service") => service(value),
        ("", "Secret") => secret(value),
        ("", "Endpoints") => endpoints(value),
        ("", "Event") | ("events.k8s.io", "Event") => event(value),
        ("", "PersistentVolumeClaim") => {
            if let Some(spec) = object::child(value, "spec") {
                set_default(spec, "volumeMode", "Filesystem");
            }
        }
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(value),
        ("", "Namespace") => {
            let name = object::name(value).to_string();
            if let Some(metadata) = object::metadata(value) {
                let labels = metadata.entry("labels").or_insert_with(|| json!({}));
                if let Some(labels) = labels.as_object_mut() {
                    labels.insert("kubernetes.io/metadata.name".into(), name.into());
                }
            }
        }
        ("apps", "Deployment") => workload::deployment(value),
        ("apps", "ReplicaSet") => workload::replica_set(value),
        ("apps", "DaemonSet") => workload::daemon_set(value),
        ("apps", "StatefulSet") => workload::stateful_set(value),
        ("batch", "Job") => workload::job(value),
        ("batch", "CronJob") => workload::cron_job(value),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(value),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(value),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            if let Some(map) = value.as_object_mut() {
                map.entry("rules").or_insert(Value::Null);
            }
        }
        ("networking.k8s.io", "NetworkPolicy") => network_policy(value),
        ("admissionregistration.k8s.io", kind) if kind.ends_with("WebhookConfiguration") => {
            webhooks(value);
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::defaults(value),
        ("scheduling.k8s.io", "PriorityClass") => {
            if let Some(map) = value.as_object_mut() {
                set_default(map, "preemptionPolicy", "PreemptLowerPriority");
            }
        }
        _ => {}
    }
}

/// A node's ranges begin with its first one.
fn node(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    if let Some(first) = spec.get("podCIDR").cloned() {
        set_default(spec, "podCIDRs", json!([first]));
    }
}

/// Fields of events that are there even when they say nothing.
fn event(value: &mut Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    set_default(map, "reportingComponent", "");
    set_default(map, "reportingInstance", "");
    set_default(map, "source", json!({}));
}

fn endpoints(value: &mut Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for subset in items(map, "subsets") {
        for port in items(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

/// One pod at least, and four fifths of the processor time that pods ask for.
fn autoscaler(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "minReplicas", 1);
    let utilization = json!({"type": "Utilization", "averageUtilization": 80});
    let processor = json!({"type": "Resource", "resource": {"name": "cpu", "target": utilization}});
    set_default(spec, "metrics", json!([processor]));
}

fn namespace(value: &mut Value) {
    status(value, json!({"phase": "Active"}));
}

fn service(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
        set_default(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    for port in items(spec, "ports") {
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        set_default(port, "protocol", "TCP");
        if kind != "ExternalName" || port.contains_key("targetPort") {
            let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
                || port.get("targetPort") == Some(&json!(0))
                || port.get("targetPort") == Some(&json!(""));
            if unset {
                port.insert("targetPort".into(), number);
            }
        }
    }
    if kind != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(balancer) = value
        .pointer_mut("/status/loadBalancer")
        .and_then(Value::as_object_mut)
    {
        for ingress in items(balancer, "ingress").filter(|ingress| ingress.contains_key("ip")) {
            set_default(ingress, "ipMode", "VIP");
        }
    }
}

fn secret(value: &mut Value) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(map) = value.as_object_mut() else {
        return;
    };
    set_default(map, "type", "Opaque");
    // `stringData` is a convenience for writers and never stored.
    if let Some(Value::Object(texts)) = map.shift_remove("stringData") {
        let data = map.entry("data").or_insert_with(|| json!({}));
        if let Some(data) = data.as_object_mut() {
            for (key, text) in texts {
                data.insert(
                    key,
                    STANDARD.encode(text.as_str().unwrap_or_default()).into(),
                );
            }
        }
    }
}

fn endpoint_slice(value: &mut Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for endpoint in items(map, "endpoints") {
        set_default(endpoint, "conditions", json!({}));
    }
    for port in items(map, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
    map.entry("endpoints").or_insert(Value::Null);
    map.entry("ports").or_insert(Value::Null);
}

fn binding(value: &mut Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for subject in items(map, "subjects") {
        let group = match subject.get("kind").and_then(Value::as_str) {
            Some("User" | "Group") => "rbac.authorization.k8s.io",
            _ => continue,
        };
        if subject
            .get("apiGroup")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            subject.insert("apiGroup".into(), group.into());
        }
    }
    if let Some(role) = map.get_mut("roleRef").and_then(Value::as_object_mut)
        && role
            .get("apiGroup")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
    {
        role.insert("apiGroup".into(), "rbac.authorization.k8s.io".into());
    }
}

fn network_policy(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    let types = if spec.contains_key("egress") {
        json!(["Ingress", "Egress"])
    } else {
        json!(["Ingress"])
    };
    set_default(spec, "policyTypes", types);
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set_default(port, "protocol", "TCP");
            }
        }
    }
}

fn webhooks(value: &mut Value) {
    let mutating = object::text(value, "/kind").starts_with("Mutating");
    let Some(map) = value.as_object_mut() else {
        return;
    };
    for webhook in items(map, "webhooks") {
        set_default(webhook, "failurePolicy", "Fail");
        set_default(webhook, "matchPolicy", "Equivalent");
        set_default(webhook, "namespaceSelector", json!({}));
        set_default(webhook, "objectSelector", json!({}));
        set_default(webhook, "timeoutSeconds", 10);
        if mutating {
            set_default(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items(webhook, "rules") {
            set_default(rule, "scope", "*");
        }
        if let Some(service) = webhook
            .get_mut("clientConfig")
            .and_then(|c| c.get_mut("service"))
            && let Some(service) = service.as_object_mut()
        {
            set_default(service, "port", 443);
        }
    }
}

/// The objects of a list field.
pub(crate) fn items<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}
