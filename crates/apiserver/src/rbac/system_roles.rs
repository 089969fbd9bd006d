//! The roles and bindings of the cluster's own parts, and of those who extend it.

use super::bootstrap::{
    ALL, READ, cluster_binding, cluster_role, group, named, namespaced, rule, user,
};
use crate::api::Api;
use serde_json::{Value, json};

const SYSTEM: &str = "kube-system";

fn paths(paths: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": ["get"]})
}

fn account(name: &str) -> Value {
    json!([{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}])
}

fn events() -> Value {
    rule(
        &["", "events.k8s.io"],
        &["events"],
        &["create", "patch", "update"],
    )
}

/// Those who ask the API server about the users of their own APIs.
fn delegation() -> Vec<Value> {
    vec![
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(
            &["authorization.k8s.io"],
            &["subjectaccessreviews"],
            &["create"],
        ),
    ]
}

/// Creates them.
pub fn create(api: &Api) {
    everybody(api);
    extensions(api);
    components(api);
    in_namespaces(api);
}

/// What everybody may do: find out what there is, and what they may do.
fn everybody(api: &Api) {
    const AUTHENTICATED: &str = "system:authenticated";
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let mut discovery = vec![
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/openapi",
        "/openapi/*",
    ];
    discovery.extend(health);
    let discovered = [
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ];
    let own = vec![
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
    ];
    let anybody: &[&str] = &[AUTHENTICATED, "system:unauthenticated"];
    for (name, rules, groups) in [
        (
            "system:discovery",
            vec![paths(&discovery)],
            &[AUTHENTICATED][..],
        ),
        ("system:basic-user", own, &[AUTHENTICATED]),
        ("system:public-info-viewer", vec![paths(&health)], anybody),
        (
            "system:service-account-issuer-discovery",
            vec![paths(&discovered)],
            &["system:serviceaccounts"],
        ),
    ] {
        cluster_role(api, name, rules);
        cluster_binding(api, name, name, group(groups));
    }
}

/// Roles for what is installed into a cluster.
fn extensions(api: &Api) {
    cluster_role(api, "system:auth-delegator", delegation());
    cluster_role(
        api,
        "system:kube-aggregator",
        vec![rule(&[""], &["endpoints", "services"], &READ)],
    );
    let health = [
        "/healthz",
        "/healthz/*",
        "/livez",
        "/livez/*",
        "/readyz",
        "/readyz/*",
    ];
    let mut watched = vec!["/metrics", "/metrics/slis"];
    watched.extend(health);
    let monitoring = vec![paths(&watched), rule(&[""], &["nodes/metrics"], &["get"])];
    cluster_role(api, "system:monitoring", monitoring);
    cluster_binding(
        api,
        "system:monitoring",
        "system:monitoring",
        group(&["system:monitoring"]),
    );
    cluster_role(
        api,
        "system:kubelet-api-admin",
        vec![
            rule(&[""], &["nodes"], &READ),
            rule(&[""], &["nodes"], &["proxy"]),
            rule(
                &[""],
                &["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"],
                &["*"],
            ),
            rule(
                &[""],
                &["nodes/configz", "nodes/healthz", "nodes/pods"],
                &["*"],
            ),
        ],
    );
    cluster_role(
        api,
        "system:node-problem-detector",
        vec![
            rule(&[""], &["nodes"], &["get"]),
            rule(&[""], &["nodes/status"], &["patch"]),
            events(),
        ],
    );
    cluster_role(
        api,
        "system:persistent-volume-provisioner",
        vec![
            rule(
                &[""],
                &["persistentvolumes"],
                &["create", "delete", "get", "list", "watch"],
            ),
            rule(
                &[""],
                &["persistentvolumeclaims"],
                &["get", "list", "update", "watch"],
            ),
            rule(&["storage.k8s.io"], &["storageclasses"], &READ),
            rule(&[""], &["events"], &["watch"]),
            events(),
        ],
    );
}

/// The control plane, nodes and DNS.
fn components(api: &Api) {
    let listed = ["list", "watch"];
    for (name, rules, subjects) in [
        (
            "system:node-proxier",
            vec![
                rule(&[""], &["endpoints", "services"], &listed),
                rule(&[""], &["nodes"], &READ),
                events(),
                rule(&["networking.k8s.io"], &["servicecidrs"], &listed),
                rule(&["discovery.k8s.io"], &["endpointslices"], &listed),
            ],
            user("system:kube-proxy"),
        ),
        (
            "system:kube-dns",
            vec![rule(&[""], &["endpoints", "services"], &listed)],
            account("kube-dns"),
        ),
        (
            "system:coredns",
            vec![
                rule(
                    &[""],
                    &["endpoints", "services", "pods", "namespaces"],
                    &listed,
                ),
                rule(&["discovery.k8s.io"], &["endpointslices"], &listed),
            ],
            account("coredns"),
        ),
        (
            "system:kube-scheduler",
            scheduler(),
            user("system:kube-scheduler"),
        ),
        (
            "system:kube-controller-manager",
            controllers(),
            user("system:kube-controller-manager"),
        ),
        // The node authorizer decides for nodes; the role exists for those who look for it.
        ("system:node", Vec::new(), json!([])),
    ] {
        cluster_role(api, name, rules);
        cluster_binding(api, name, name, subjects);
    }
}

fn scheduler() -> Vec<Value> {
    let mut rules = vec![
        events(),
        rule(
            &[""],
            &[
                "namespaces",
                "nodes",
                "persistentvolumeclaims",
                "persistentvolumes",
                "replicationcontrollers",
                "services",
            ],
            &READ,
        ),
        rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
        rule(&[""], &["bindings", "pods/binding"], &["create"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&["apps"], &["replicasets", "statefulsets"], &READ),
        rule(&["policy"], &["poddisruptionbudgets"], &READ),
        rule(
            &["coordination.k8s.io"],
            &["leases"],
            &["create", "get", "list", "update", "watch"],
        ),
    ];
    rules.extend(delegation());
    rules
}

/// All controllers are one user here, so that this role has what Kubernetes gives to the accounts
/// of single controllers.
fn controllers() -> Vec<Value> {
    let mut rules = vec![
        events(),
        rule(&["*"], &["*"], &READ),
        rule(
            &["apps"],
            &[
                "controllerrevisions",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status",
            ],
            &ALL,
        ),
        rule(
            &[""],
            &[
                "configmaps",
                "endpoints",
                "nodes",
                "nodes/status",
                "pods",
                "pods/status",
                "secrets",
                "serviceaccounts",
                "services/status",
            ],
            &ALL,
        ),
        rule(
            &[""],
            &["pods/binding", "pods/eviction", "serviceaccounts/token"],
            &["create"],
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], &ALL),
        rule(&["coordination.k8s.io"], &["leases"], &ALL),
        rule(
            &["policy"],
            &["poddisruptionbudgets/status"],
            &["patch", "update"],
        ),
    ];
    rules.extend(delegation());
    rules
}

/// Roles of single namespaces.
fn in_namespaces(api: &Api) {
    // Everyone may find the cluster's CA, as the config map says.
    let found = vec![named(&["configmaps"], &["cluster-info"], &["get"])];
    namespaced(
        api,
        "kube-public",
        "system:controller:bootstrap-signer",
        found,
    );
    let authentication = "extension-apiserver-authentication";
    let reader = vec![named(&["configmaps"], &[authentication], &READ)];
    let name = "extension-apiserver-authentication-reader";
    namespaced(api, SYSTEM, name, reader);
    let leases = rule(
        &["coordination.k8s.io"],
        &["leases"],
        &["create", "get", "list", "update", "watch"],
    );
    for component in ["kube-controller-manager", "kube-scheduler"] {
        let name = format!("system::leader-locking-{component}");
        namespaced(api, SYSTEM, &name, vec![leases.clone()]);
    }
}
