//! The roles and bindings that every cluster has.

use crate::{api::Api, namespaces::ensure};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
const READ: [&str; 3] = ["get", "list", "watch"];
const ALL: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Resources of the roles admin, edit and view: (group, resources).
const WORK: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "deployments",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
];
/// What can be read beside that: states, logs, limits.
const SEEN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "bindings",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "pods/log",
            "pods/status",
            "resourcequotas",
            "resourcequotas/status",
            "services/status",
        ],
    ),
    (
        "apps",
        &[
            "daemonsets/status",
            "deployments/status",
            "replicasets/status",
            "statefulsets/status",
        ],
    ),
    ("discovery.k8s.io", &["endpointslices"]),
];

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn table(table: &[(&str, &[&str])], verbs: &[&str]) -> Vec<Value> {
    table
        .iter()
        .map(|(group, resources)| rule(&[group], resources, verbs))
        .collect()
}

fn cluster_role(api: &Api, name: &str, rules: Vec<Value>) {
    ensure(
        api,
        GROUP,
        "v1",
        "ClusterRole",
        "",
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                    "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
               "rules": rules}),
    );
}

fn cluster_binding(api: &Api, name: &str, role: &str, subjects: Value) {
    ensure(
        api,
        GROUP,
        "v1",
        "ClusterRoleBinding",
        "",
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                    "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
               "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
               "subjects": subjects}),
    );
}

fn group(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"apiGroup": GROUP, "kind": "Group", "name": name}))
        .collect()
}

fn user(name: &str) -> Value {
    json!([{"apiGroup": GROUP, "kind": "User", "name": name}])
}

/// Creates them.
pub fn bootstrap(api: &Api) {
    user_roles(api);
    discovery_roles(api);
    system_roles(api);
    // Everyone may find the cluster's CA, as the config map says.
    ensure(
        api,
        GROUP,
        "v1",
        "Role",
        "kube-public",
        json!({"metadata": {"name": "system:controller:bootstrap-signer"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["cluster-info"]}]}),
    );
}

fn user_roles(api: &Api) {
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

    let mut view = table(WORK, &READ);
    view.extend(table(SEEN, &READ));
    let mut edit = table(WORK, &ALL);
    edit.extend(table(SEEN, &READ));
    edit.push(rule(&[""], &["secrets"], &ALL));
    edit.push(rule(
        &[""],
        &[
            "pods/attach",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "services/proxy",
        ],
        &[
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ],
    ));
    edit.push(rule(
        &[""],
        &["pods/eviction", "serviceaccounts/token"],
        &["create"],
    ));
    edit.push(rule(&[""], &["serviceaccounts"], &["impersonate"]));
    edit.push(rule(&[""], &["events"], &["create", "patch", "update"]));
    edit.push(rule(&["coordination.k8s.io"], &["leases"], &ALL));
    let mut admin = edit.clone();
    admin.push(rule(&[GROUP], &["rolebindings", "roles"], &ALL));
    admin.push(rule(
        &["authorization.k8s.io"],
        &["localsubjectaccessreviews"],
        &["create"],
    ));
    cluster_role(api, "view", view);
    cluster_role(api, "edit", edit);
    cluster_role(api, "admin", admin);
}

fn discovery_roles(api: &Api) {
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    cluster_role(
        api,
        "system:discovery",
        vec![json!({"nonResourceURLs": discovery, "verbs": ["get"]})],
    );
    cluster_role(
        api,
        "system:public-info-viewer",
        vec![json!({"nonResourceURLs": health, "verbs": ["get"]})],
    );
    cluster_role(
        api,
        "system:basic-user",
        vec![
            rule(
                &["authorization.k8s.io"],
                &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                &["create"],
            ),
            rule(
                &["authentication.k8s.io"],
                &["selfsubjectreviews"],
                &["create"],
            ),
        ],
    );
    cluster_role(
        api,
        "system:service-account-issuer-discovery",
        vec![
            json!({"nonResourceURLs": ["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/"], "verbs": ["get"]}),
        ],
    );
    cluster_binding(
        api,
        "system:discovery",
        "system:discovery",
        group(&["system:authenticated"]),
    );
    cluster_binding(
        api,
        "system:basic-user",
        "system:basic-user",
        group(&["system:authenticated"]),
    );
    cluster_binding(
        api,
        "system:public-info-viewer",
        "system:public-info-viewer",
        group(&["system:authenticated", "system:unauthenticated"]),
    );
    cluster_binding(
        api,
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        group(&["system:serviceaccounts"]),
    );
}

fn system_roles(api: &Api) {
    let events = rule(
        &["", "events.k8s.io"],
        &["events"],
        &["create", "patch", "update"],
    );
    cluster_role(
        api,
        "system:auth-delegator",
        vec![
            rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            rule(
                &["authorization.k8s.io"],
                &["subjectaccessreviews"],
                &["create"],
            ),
        ],
    );
    cluster_role(
        api,
        "system:node-proxier",
        vec![
            rule(&[""], &["nodes", "services", "endpoints"], &READ),
            rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
            events.clone(),
        ],
    );
    cluster_binding(
        api,
        "system:node-proxier",
        "system:node-proxier",
        user("system:kube-proxy"),
    );
    cluster_role(
        api,
        "system:coredns",
        vec![
            rule(
                &[""],
                &["endpoints", "services", "pods", "namespaces"],
                &["list", "watch"],
            ),
            rule(
                &["discovery.k8s.io"],
                &["endpointslices"],
                &["list", "watch"],
            ),
        ],
    );
    cluster_binding(
        api,
        "system:coredns",
        "system:coredns",
        json!([{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}]),
    );
    cluster_role(
        api,
        "system:kube-scheduler",
        vec![
            rule(
                &[""],
                &[
                    "nodes",
                    "namespaces",
                    "pods",
                    "replicationcontrollers",
                    "services",
                    "persistentvolumeclaims",
                    "persistentvolumes",
                ],
                &READ,
            ),
            rule(&["apps"], &["replicasets", "statefulsets"], &READ),
            rule(&["policy"], &["poddisruptionbudgets"], &READ),
            rule(&[""], &["bindings", "pods/binding"], &["create"]),
            rule(&[""], &["pods/status"], &["patch", "update"]),
            rule(&[""], &["pods"], &["delete"]),
            rule(
                &["coordination.k8s.io"],
                &["leases"],
                &["create", "get", "list", "update", "watch"],
            ),
            events.clone(),
        ],
    );
    cluster_binding(
        api,
        "system:kube-scheduler",
        "system:kube-scheduler",
        user("system:kube-scheduler"),
    );
    cluster_role(
        api,
        "system:kube-controller-manager",
        vec![
            rule(&["*"], &["*"], &READ),
            rule(
                &["apps"],
                &[
                    "controllerrevisions",
                    "daemonsets",
                    "daemonsets/status",
                    "deployments",
                    "deployments/status",
                    "replicasets",
                    "replicasets/status",
                    "replicasets/scale",
                    "deployments/scale",
                ],
                &ALL,
            ),
            rule(
                &[""],
                &[
                    "pods",
                    "pods/status",
                    "endpoints",
                    "services/status",
                    "nodes",
                    "nodes/status",
                    "serviceaccounts",
                    "configmaps",
                    "secrets",
                ],
                &ALL,
            ),
            rule(
                &[""],
                &["pods/eviction", "pods/binding", "serviceaccounts/token"],
                &["create"],
            ),
            rule(&["discovery.k8s.io"], &["endpointslices"], &ALL),
            rule(&["coordination.k8s.io"], &["leases"], &ALL),
            rule(
                &["policy"],
                &["poddisruptionbudgets/status"],
                &["patch", "update"],
            ),
            events,
        ],
    );
    cluster_binding(
        api,
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        user("system:kube-controller-manager"),
    );
    // The node authorizer decides for nodes; the role exists for those who look for it.
    cluster_role(api, "system:node", Vec::new());
}
