//! The roles and bindings that every cluster has.

use super::{system_roles, user_roles};
use crate::{api::Api, namespaces::ensure};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
/// The verbs that read.
pub const READ: [&str; 3] = ["get", "list", "watch"];
/// The verbs that read and write.
pub const ALL: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Creates them.
pub fn bootstrap(api: &Api) {
    user_roles::create(api);
    system_roles::create(api);
}

/// A rule about resources.
pub fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// A rule about some objects of the core group.
pub fn named(resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [""], "resources": resources, "resourceNames": names, "verbs": verbs})
}

/// The metadata of everything here.
fn metadata(name: &str, label: Option<String>) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    if let Some(label) = label {
        labels[label] = "true".into();
    }
    json!({"name": name, "labels": labels,
           "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

fn create(api: &Api, kind: &str, namespace: &str, mut body: Value, metadata: Value) {
    body["metadata"] = metadata;
    ensure(api, GROUP, "v1", kind, namespace, body);
}

/// Creates a cluster role.
pub fn cluster_role(api: &Api, name: &str, rules: Vec<Value>) {
    labelled_role(api, name, None, json!({ "rules": rules }));
}

/// Creates a cluster role, its label with the value "true".
pub fn labelled_role(api: &Api, name: &str, label: Option<String>, body: Value) {
    create(api, "ClusterRole", "", body, metadata(name, label));
}

/// Creates a cluster role binding.
pub fn cluster_binding(api: &Api, name: &str, role: &str, subjects: Value) {
    let body = json!({"subjects": subjects,
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}});
    create(api, "ClusterRoleBinding", "", body, metadata(name, None));
}

/// Creates a role of a namespace.
pub fn namespaced(api: &Api, namespace: &str, name: &str, rules: Vec<Value>) {
    let body = json!({ "rules": rules });
    create(api, "Role", namespace, body, metadata(name, None));
}

/// Groups as subjects.
pub fn group(names: &[&str]) -> Value {
    let group = |name: &&str| json!({"apiGroup": GROUP, "kind": "Group", "name": name});
    names.iter().map(group).collect()
}

/// A user as subjects.
pub fn user(name: &str) -> Value {
    json!([{"apiGroup": GROUP, "kind": "User", "name": name}])
}
