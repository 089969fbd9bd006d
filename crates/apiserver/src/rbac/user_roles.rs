//! The roles that cluster administrators give to people: cluster-admin, admin, edit, view. The
//! last three gather what is labelled for them, so that a custom resource can join them.

use super::bootstrap::{ALL, READ, cluster_binding, cluster_role, group, labelled_role, rule};
use crate::api::Api;
use serde_json::json;

const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
type Table = &'static [(&'static [&'static str], &'static [&'static str])];

/// What `view` may read: (groups, resources).
#[rustfmt::skip]
const VIEW: Table = &[
    (&[""], &["configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
        "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status"]),
    (&[""], &["bindings", "limitranges", "namespaces/status", "pods/log", "pods/status",
        "replicationcontrollers/status", "resourcequotas", "resourcequotas/status"]),
    (&[""], &["namespaces"]),
    (&["", "events.k8s.io"], &["events"]),
    (&["discovery.k8s.io"], &["endpointslices"]),
    (&["apps"], &["controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
        "deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets",
        "statefulsets/scale", "statefulsets/status"]),
    (&["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    (&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    (&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    (&["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
];

/// What `edit` may change beside that.
#[rustfmt::skip]
const EDIT: Table = &[
    (&[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
    (&[""], &["configmaps", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
        "secrets", "serviceaccounts", "services", "services/proxy"]),
    (&["", "events.k8s.io"], &["events"]),
    (&["apps"], &["daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
        "replicasets/scale", "statefulsets", "statefulsets/scale"]),
    (&["autoscaling"], &["horizontalpodautoscalers"]),
    (&["batch"], &["cronjobs", "jobs"]),
    (&["policy"], &["poddisruptionbudgets"]),
    (&["networking.k8s.io"], &["ingresses", "networkpolicies"]),
];

/// Creates them.
pub fn create(api: &Api) {
    let everything = vec![
        rule(&["*"], &["*"], &["*"]),
        json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
    ];
    cluster_role(api, "cluster-admin", everything);
    cluster_binding(
        api,
        "cluster-admin",
        "cluster-admin",
        group(&["system:masters"]),
    );

    let table = |table: Table, verbs: &[&str]| -> Vec<_> {
        let rules = table
            .iter()
            .map(|(groups, resources)| rule(groups, resources, verbs));
        rules.collect()
    };
    let view = table(VIEW, &READ);
    let mut edit = vec![
        rule(
            &[""],
            &[
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
                "secrets",
                "services/proxy",
            ],
            &READ,
        ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(
            &[""],
            &["pods/eviction", "serviceaccounts/token"],
            &["create"],
        ),
        rule(&["coordination.k8s.io"], &["leases"], &ALL),
    ];
    edit.extend(table(EDIT, &WRITE));
    let admin = vec![
        rule(
            &["authorization.k8s.io"],
            &["localsubjectaccessreviews"],
            &["create"],
        ),
        rule(
            &["rbac.authorization.k8s.io"],
            &["rolebindings", "roles"],
            &ALL,
        ),
    ];
    // Each role gathers what is labelled for it, the next smaller role among it.
    for (name, part_of, rules) in [
        ("view", Some("edit"), view),
        ("edit", Some("admin"), edit),
        ("admin", None, admin),
    ] {
        let label = |of: &str| format!("rbac.authorization.k8s.io/aggregate-to-{of}");
        let selector = json!({"clusterRoleSelectors": [{"matchLabels": {label(name): "true"}}]});
        let labels = part_of.map(label);
        labelled_role(api, name, labels, json!({"aggregationRule": selector}));
        let own = format!("system:aggregate-to-{name}");
        labelled_role(api, &own, Some(label(name)), json!({"rules": rules}));
    }
    super::aggregate::refresh(api);
}
