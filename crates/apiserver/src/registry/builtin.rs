//! The table of built-in resources.
//!
//! A row says everything that discovery, routing and storage must know about a kind. Kinds that
//! nothing acts on say so in `inert`; the text goes to the client as a warning whenever such an
//! object is created.

use super::{ALL_VERBS, Resource, Schema, Subresource, VERBS_OF_NAMESPACES};
use std::sync::Arc;

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [&'static str],
    inert: Option<&'static str>,
}

const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    subresources: &'static [&'static str],
) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        namespaced,
        short,
        categories: &[],
        subresources,
        inert: None,
    }
}

impl Row {
    const fn all(mut self) -> Row {
        self.categories = &["all"];
        self
    }

    const fn inert(mut self, why: &'static str) -> Row {
        self.inert = Some(why);
        self
    }
}

const STATUS: &[&str] = &["status"];
const NONE: &[&str] = &[];
const SCALE: &[&str] = &["status", "scale"];
const POD: &[&str] = &[
    "attach",
    "binding",
    "ephemeralcontainers",
    "eviction",
    "exec",
    "log",
    "portforward",
    "proxy",
    "status",
];
const NO_CONTROLLER: &str =
    "stored, but no controller acts on this kind in this cluster: it creates no pods";
const NO_STORAGE: &str = "stored, but this cluster provides no persistent storage";
const NO_POLICIES: &str = "stored, but this API server does not evaluate admission policies";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("", "v1", "Namespace", "namespaces", false, &["ns"], &["finalize", "status"]),
    row("", "v1", "Node", "nodes", false, &["no"], &["proxy", "status"]),
    row("", "v1", "Pod", "pods", true, &["po"], POD).all(),
    row("", "v1", "PodTemplate", "podtemplates", true, NONE, NONE),
    row("", "v1", "Service", "services", true, &["svc"], &["proxy", "status"]).all(),
    row("", "v1", "Endpoints", "endpoints", true, &["ep"], NONE),
    row("", "v1", "ServiceAccount", "serviceaccounts", true, &["sa"], &["token"]),
    row("", "v1", "ConfigMap", "configmaps", true, &["cm"], NONE),
    row("", "v1", "Secret", "secrets", true, NONE, NONE),
    row("", "v1", "Event", "events", true, &["ev"], NONE),
    row("", "v1", "ReplicationController", "replicationcontrollers", true, &["rc"], SCALE)
        .all().inert(NO_CONTROLLER),
    row("", "v1", "PersistentVolume", "persistentvolumes", false, &["pv"], STATUS).inert(NO_STORAGE),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true, &["pvc"], STATUS)
        .inert(NO_STORAGE),
    row("", "v1", "ResourceQuota", "resourcequotas", true, &["quota"], STATUS)
        .inert("stored, but quotas are not enforced in this cluster"),
    row("", "v1", "LimitRange", "limitranges", true, &["limits"], NONE)
        .inert("stored, but limit ranges are not applied in this cluster"),
    row("apps", "v1", "Deployment", "deployments", true, &["deploy"], SCALE).all(),
    row("apps", "v1", "ReplicaSet", "replicasets", true, &["rs"], SCALE).all(),
    row("apps", "v1", "DaemonSet", "daemonsets", true, &["ds"], STATUS).all(),
    row("apps", "v1", "StatefulSet", "statefulsets", true, &["sts"], SCALE).all(),
    row("apps", "v1", "ControllerRevision", "controllerrevisions", true, NONE, NONE),
    row("batch", "v1", "Job", "jobs", true, NONE, STATUS).all(),
    row("batch", "v1", "CronJob", "cronjobs", true, &["cj"], STATUS).all(),
    row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, &["hpa"], STATUS)
        .all().inert("stored, but nothing scales by it in this cluster"),
    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true, &["pdb"], STATUS),
    row("rbac.authorization.k8s.io", "v1", "Role", "roles", true, NONE, NONE),
    row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", true, NONE, NONE),
    row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false, NONE, NONE),
    row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false, NONE, NONE),
    row("networking.k8s.io", "v1", "Ingress", "ingresses", true, &["ing"], STATUS)
        .inert("stored, but no ingress controller runs in this cluster"),
    row("networking.k8s.io", "v1", "IngressClass", "ingressclasses", false, NONE, NONE),
    row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", true, &["netpol"], NONE)
        .inert("stored, but network policies are not enforced in this cluster"),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true, NONE, NONE),
    row("coordination.k8s.io", "v1", "Lease", "leases", true, NONE, NONE),
    row("events.k8s.io", "v1", "Event", "events", true, &["ev"], NONE),
    row("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations", false, NONE, NONE),
    row("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations", false, NONE, NONE),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies", false, NONE, STATUS).inert(NO_POLICIES),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings", false, NONE, NONE).inert(NO_POLICIES),
    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false, &["pc"], NONE),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false, NONE, NONE)
        .inert("stored, but pods run the same way whatever their runtime class"),
    row("storage.k8s.io", "v1", "StorageClass", "storageclasses", false, &["sc"], NONE)
        .inert(NO_STORAGE),
    row("storage.k8s.io", "v1", "CSIDriver", "csidrivers", false, NONE, NONE).inert(NO_STORAGE),
    row("storage.k8s.io", "v1", "CSINode", "csinodes", false, NONE, NONE),
    row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests",
        false, &["csr"], &["approval", "status"])
        .inert("stored, but nothing approves or signs it in this cluster"),
    row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions",
        false, &["crd", "crds"], STATUS),
];

/// Kinds that are asked and answered, and never stored: (group, kind, plural, namespaced).
#[rustfmt::skip]
const REVIEWS: &[(&str, &str, &str, bool)] = &[
    ("", "Binding", "bindings", true),
    ("authentication.k8s.io", "TokenReview", "tokenreviews", false),
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", false),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", false),
    ("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
];

/// The built-in resources.
pub fn resources() -> Vec<Resource> {
    let reviews = REVIEWS.iter().map(|&(group, kind, plural, namespaced)| {
        let mut resource = resource(&row(group, "v1", kind, plural, namespaced, NONE, NONE));
        resource.verbs = &["create"];
        resource
    });
    ROWS.iter().map(resource).chain(reviews).collect()
}

fn resource(row: &Row) -> Resource {
    let arc = |s: &[&'static str]| s.iter().map(|s| Arc::from(*s)).collect();
    let storage = match row.plural {
        "events" => "events".to_string(),
        plural => crate::status::qualified(row.group, plural),
    };
    Resource {
        group: row.group.into(),
        version: row.version.into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind).into(),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase().into(),
        short_names: arc(row.short),
        categories: arc(row.categories),
        namespaced: row.namespaced,
        storage: storage.into(),
        verbs: match row.plural {
            "namespaces" => VERBS_OF_NAMESPACES,
            _ => ALL_VERBS,
        },
        subresources: row
            .subresources
            .iter()
            .map(|name| subresource(name))
            .collect(),
        schema: Schema::Builtin(type_name(row.group, row.version, row.kind)),
        inert: row.inert,
    }
}

/// The name of a kind's type in the field table; "" for a kind that is not built in.
pub fn type_name(group: &str, version: &str, kind: &str) -> &'static str {
    let package = match group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    crate::schema::builtin_types()
        .name(&format!("{package}.{version}.{kind}"))
        .unwrap_or("")
}

/// A subresource by name; the same name means the same thing for every built-in resource.
pub fn subresource(name: &'static str) -> Subresource {
    let (kind, group_version, verbs): (_, _, &'static [&'static str]) = match name {
        "scale" => (
            "Scale",
            Some(("autoscaling", "v1")),
            &["get", "patch", "update"],
        ),
        "eviction" => ("Eviction", Some(("policy", "v1")), &["create"]),
        "binding" => ("Binding", None, &["create"]),
        "token" => (
            "TokenRequest",
            Some(("authentication.k8s.io", "v1")),
            &["create"],
        ),
        "exec" => ("PodExecOptions", None, &["create", "get"]),
        "attach" => ("PodAttachOptions", None, &["create", "get"]),
        "portforward" => ("PodPortForwardOptions", None, &["create", "get"]),
        "proxy" => (
            "PodProxyOptions",
            None,
            &["create", "delete", "get", "patch", "update"],
        ),
        "log" => ("", None, &["get"]),
        "finalize" => ("", None, &["update"]),
        _ => ("", None, &["get", "patch", "update"]),
    };
    Subresource {
        name,
        group_version,
        kind,
        verbs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_kind_has_its_fields() {
        for resource in resources() {
            let Schema::Builtin(name) = &resource.schema else {
                panic!("not built in")
            };
            assert!(!name.is_empty(), "{} {}", resource.group, resource.kind);
        }
    }
}
