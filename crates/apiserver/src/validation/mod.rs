//! Rules that an object must fulfil beyond its form. The messages are Kubernetes'.

mod meta;
mod pod;
mod workload;

pub use meta::dns_subdomain;

use crate::{
    api::Api,
    crd, object,
    ops::Part,
    registry::{Resource, Schema},
    status::{ApiError, Cause, Result},
};
use serde_json::{Value, json};

/// A new object.
pub fn on_create(api: &Api, resource: &Resource, value: &Value) -> Result<()> {
    let mut causes = Vec::new();
    meta::object(resource, value, &mut causes);
    kind(api, resource, value, &mut causes);
    refuse(resource, value, causes)
}

/// A changed object.
pub fn on_update(
    api: &Api,
    resource: &Resource,
    current: &Value,
    next: &Value,
    part: Part,
) -> Result<()> {
    let mut causes = Vec::new();
    meta::object(resource, next, &mut causes);
    if object::terminating(current) {
        meta::no_new_finalizers(current, next, &mut causes);
    }
    match part {
        Part::Object => {
            kind(api, resource, next, &mut causes);
            immutable(resource, current, next, &mut causes);
        }
        Part::Status if matches!(resource.schema, Schema::Custom(_)) => {
            kind(api, resource, next, &mut causes);
        }
        _ => {}
    }
    refuse(resource, next, causes)
}

fn refuse(resource: &Resource, value: &Value, causes: Vec<Cause>) -> Result<()> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        &resource.group,
        &resource.kind,
        object::name(value),
        causes,
    ))
}

fn kind(api: &Api, resource: &Resource, value: &Value, causes: &mut Vec<Cause>) {
    if let Schema::Custom(version) = &resource.schema {
        return crd::validate(version, value, causes);
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::spec(value.get("spec"), "spec", causes),
        ("", "Service") => service(value, causes),
        ("", "ConfigMap") => keys(value, &["data", "binaryData"], causes),
        ("", "Secret") => keys(value, &["data"], causes),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet") => {
            workload::apps(value, causes);
        }
        ("batch", "Job") => workload::job(value, causes),
        ("rbac.authorization.k8s.io", kind) => rbac(kind, value, causes),
        ("apiextensions.k8s.io", _) => crd::check(api, value, causes),
        ("coordination.k8s.io", _) => lease(value, causes),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(value, causes),
        _ => {}
    }
}

/// Fields that cannot change once they are set.
fn immutable(resource: &Resource, current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let fields: &[&str] = match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet") => &["spec.selector"],
        ("batch", "Job") => &["spec.selector", "spec.template", "spec.completions"],
        ("", "Secret") => &["type"],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &["roleRef"],
        ("discovery.k8s.io", "EndpointSlice") => &["addressType"],
        ("apiextensions.k8s.io", _) => &["spec.group", "spec.names.plural", "spec.scope"],
        _ => &[],
    };
    for field in fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        let (before, after) = (current.pointer(&pointer), next.pointer(&pointer));
        if before.is_some() && before != after {
            let why = match *field {
                "roleRef" => "cannot change roleRef",
                _ => "field is immutable",
            };
            causes.push(Cause::invalid(*field, after.unwrap_or(&Value::Null), why));
        }
    }
    if resource.is("", "Pod") {
        pod::update(current, next, causes);
    }
    if resource.is("", "Service") {
        cluster_ip_kept(current, next, causes);
    }
    let is_data =
        matches!(resource.kind.as_ref(), "ConfigMap" | "Secret") && resource.group.is_empty();
    if is_data && current.get("immutable") == Some(&Value::Bool(true)) {
        for key in ["data", "binaryData", "immutable"] {
            if current.get(key) != next.get(key) {
                causes.push(Cause::forbidden(
                    key,
                    "field is immutable when `immutable` is set",
                ));
            }
        }
    }
}

fn cluster_ip_kept(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let external = |v: &Value| object::text(v, "/spec/type") == "ExternalName";
    if external(current) || external(next) {
        return;
    }
    let (before, after) = (
        current.pointer("/spec/clusterIP"),
        next.pointer("/spec/clusterIP"),
    );
    if before != after {
        let shown = json!([after]);
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &shown,
            "may not change once set",
        ));
    }
}

fn service(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let kind = object::text(spec, "/type");
    const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !TYPES.contains(&kind) {
        causes.push(Cause::not_supported("spec.type", &kind.into(), &TYPES));
    }
    let ports = spec
        .get("ports")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let headless = object::text(spec, "/clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && object::text(spec, "/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let mut names = std::collections::HashSet::new();
    let mut numbers = std::collections::HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = object::text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        pod::port_number(port.get("port"), &format!("{path}.port"), causes);
        pod::protocol(port, &path, causes);
        let identity = (
            port.get("port").map(Value::to_string),
            object::text(port, "/protocol"),
        );
        if !numbers.insert(identity) {
            causes.push(Cause::duplicate(path, port));
        }
    }
}

fn keys(value: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    for field in fields {
        for key in value
            .get(*field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
        {
            let valid = !key.is_empty()
                && key.len() <= 253
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && key != "."
                && !key.starts_with("..");
            if !valid {
                causes.push(Cause::invalid(
                    format!("{field}[{key}]"),
                    &key.as_str().into(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
        }
    }
}

fn rbac(kind: &str, value: &Value, causes: &mut Vec<Cause>) {
    if kind.ends_with("Binding") {
        let role = object::text(value, "/roleRef/kind");
        let allowed: &[&str] = if kind == "RoleBinding" {
            &["ClusterRole", "Role"]
        } else {
            &["ClusterRole"]
        };
        if !allowed.contains(&role) {
            causes.push(Cause::not_supported("roleRef.kind", &role.into(), allowed));
        }
        if object::text(value, "/roleRef/name").is_empty() {
            causes.push(Cause::required("roleRef.name", ""));
        }
        let subjects = value.get("subjects").and_then(Value::as_array);
        for (i, subject) in subjects.into_iter().flatten().enumerate() {
            let path = format!("subjects[{i}]");
            let of = object::text(subject, "/kind");
            if !matches!(of, "User" | "Group" | "ServiceAccount") {
                let allowed = ["Group", "ServiceAccount", "User"];
                causes.push(Cause::not_supported(
                    format!("{path}.kind"),
                    &of.into(),
                    &allowed,
                ));
            }
            if of == "ServiceAccount" && object::text(subject, "/namespace").is_empty() {
                causes.push(Cause::required(format!("{path}.namespace"), ""));
            }
        }
        return;
    }
    for (i, rule) in value
        .get("rules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let empty = |key: &str| {
            rule.get(key)
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
        };
        if empty("verbs") {
            causes.push(Cause::required(
                format!("rules[{i}].verbs"),
                "verbs must contain at least one value",
            ));
        }
        if empty("nonResourceURLs") {
            if empty("apiGroups") {
                let hint = "resource rules must supply at least one api group";
                causes.push(Cause::required(format!("rules[{i}].apiGroups"), hint));
            }
            if empty("resources") {
                let hint = "resource rules must supply at least one resource";
                causes.push(Cause::required(format!("rules[{i}].resources"), hint));
            }
        } else if kind == "Role" {
            let why = "namespaced rules cannot apply to non-resource URLs";
            let shown = rule.get("nonResourceURLs").unwrap_or(&Value::Null);
            causes.push(Cause::invalid(
                format!("rules[{i}].nonResourceURLs"),
                shown,
                why,
            ));
        }
    }
}

fn lease(value: &Value, causes: &mut Vec<Cause>) {
    for field in ["leaseDurationSeconds", "leaseTransitions"] {
        let number = value
            .pointer(&format!("/spec/{field}"))
            .and_then(Value::as_i64);
        let least = if field == "leaseTransitions" { 0 } else { 1 };
        if let Some(n) = number.filter(|n| *n < least) {
            let why = if least == 1 {
                "must be greater than 0"
            } else {
                "must be greater than or equal to 0"
            };
            causes.push(Cause::invalid(format!("spec.{field}"), &n.into(), why));
        }
    }
}

fn endpoint_slice(value: &Value, causes: &mut Vec<Cause>) {
    let kind = object::text(value, "/addressType");
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        causes.push(Cause::not_supported(
            "addressType",
            &kind.into(),
            &["FQDN", "IPv4", "IPv6"],
        ));
    }
    for (i, endpoint) in value
        .get("endpoints")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let addresses = endpoint.get("addresses").and_then(Value::as_array);
        if addresses.is_none_or(Vec::is_empty) {
            let hint = "must contain at least 1 address";
            causes.push(Cause::required(format!("endpoints[{i}].addresses"), hint));
        }
    }
}
