//! Rules that an object must fulfil beyond its form. The messages are Kubernetes'.

mod batch;
mod container;
mod fields;
mod meta;
mod network;
mod pod;
mod policy;
mod scheduling;
mod security;
mod service;
mod volumes;
mod workload;

pub use fields::selector as label_selector;
pub use meta::{dns_label, dns_subdomain, label_name, label_value};

use crate::{
    crd, object,
    ops::{Part, Writer},
    registry::{Resource, Schema},
    status::{ApiError, Cause, Result},
    webhooks,
};
use serde_json::Value;

/// A new object.
pub fn on_create(resource: &Resource, value: &Value, writer: &mut Writer<'_>) -> Result<()> {
    let mut causes = Vec::new();
    meta::object(resource, value, &mut causes);
    match &resource.schema {
        Schema::Custom(version) => judged(crd::on_create(version, value), &mut causes, writer),
        Schema::Builtin(_) => kind(resource, value, None, &mut causes),
    }
    if resource.is("", "Service") {
        service::warnings(value).for_each(|text| writer.warn(text));
    }
    refuse(resource, value, causes)
}

fn judged(verdict: crd::Verdict, causes: &mut Vec<Cause>, writer: &mut Writer<'_>) {
    causes.extend(verdict.causes);
    verdict
        .warnings
        .into_iter()
        .for_each(|text| writer.warn(text));
}

/// A changed object.
pub fn on_update(
    resource: &Resource,
    current: &Value,
    next: &Value,
    part: Part,
    writer: &mut Writer<'_>,
) -> Result<()> {
    let mut causes = Vec::new();
    meta::object(resource, next, &mut causes);
    if object::terminating(current) {
        meta::no_new_finalizers(current, next, &mut causes);
    }
    match (part, &resource.schema) {
        (_, Schema::Custom(version)) => {
            let verdict = crd::on_update(version, next, current, part);
            judged(verdict, &mut causes, writer);
        }
        (Part::Object, Schema::Builtin(_)) => {
            kind(resource, next, Some(current), &mut causes);
            immutable(resource, current, next, &mut causes);
        }
        (written, Schema::Builtin(_)) => apart(resource, written, current, next, &mut causes),
    }
    refuse(resource, next, causes)
}

/// Rules about parts of built-in kinds that are written apart.
fn apart(resource: &Resource, part: Part, current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    match (part, resource.group.as_ref(), resource.kind.as_ref()) {
        (Part::Status, "", "Service") => service::status(next, causes),
        (Part::Status, "apps", kind) => workload::status(kind, next, causes),
        (Part::EphemeralContainers, ..) => pod::ephemeral(current, next, causes),
        _ => {}
    }
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

fn kind(resource: &Resource, value: &Value, current: Option<&Value>, causes: &mut Vec<Cause>) {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::pod(value, current, causes),
        ("", "Service") => service::service(value, causes),
        ("", "ConfigMap") => policy::config_map(value, causes),
        ("", "Secret") => policy::secret(value, causes),
        ("", "Endpoints") => network::endpoints(value, causes),
        ("", "Node") => policy::node(value, causes),
        ("apps", kind @ ("Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")) => {
            workload::apps(kind, value, causes);
        }
        ("batch", "Job") => batch::job(value, causes),
        ("batch", "CronJob") => batch::cron_job(value, causes),
        ("rbac.authorization.k8s.io", kind) => rbac(kind, value, causes),
        ("admissionregistration.k8s.io", kind) if kind.ends_with("WebhookConfiguration") => {
            webhooks::check(value, causes);
        }
        ("apiextensions.k8s.io", _) => crd::check(value, current, causes),
        ("" | "events.k8s.io", "Event") => policy::event(value, causes),
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler(value, causes),
        ("coordination.k8s.io", _) => policy::lease(value, causes),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(value, causes),
        ("networking.k8s.io", "NetworkPolicy") => network::policy(value, causes),
        ("policy", "PodDisruptionBudget") => policy::budget(value, causes),
        _ => {}
    }
}

/// Fields that cannot change once they are set.
fn immutable(resource: &Resource, current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let fields: &[&str] = match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => &["spec.selector"],
        ("", "Secret") => &["type"],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &["roleRef"],
        ("discovery.k8s.io", "EndpointSlice") => &["addressType"],
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
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::update(current, next, causes),
        ("apps", "StatefulSet") => workload::stateful_set_update(current, next, causes),
        ("batch", "Job") => batch::job_update(current, next, causes),
        _ => {}
    }
    if resource.is("", "Service") {
        service::kept(current, next, causes);
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

fn rbac(kind: &str, value: &Value, causes: &mut Vec<Cause>) {
    if kind.ends_with("Binding") {
        let group = object::text(value, "/roleRef/apiGroup");
        if group != "rbac.authorization.k8s.io" {
            let allowed = ["rbac.authorization.k8s.io"];
            causes.push(Cause::not_supported(
                "roleRef.apiGroup",
                &group.into(),
                &allowed,
            ));
        }
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
            if object::text(subject, "/name").is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            }
            if !matches!(of, "User" | "Group" | "ServiceAccount") {
                let allowed = ["Group", "ServiceAccount", "User"];
                causes.push(Cause::not_supported(
                    format!("{path}.kind"),
                    &of.into(),
                    &allowed,
                ));
            }
            let nowhere = object::text(subject, "/namespace").is_empty();
            if kind == "ClusterRoleBinding" && of == "ServiceAccount" && nowhere {
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
