//! What every namespace has (a default service account, the cluster's CA certificate), and what
//! happens to its content when it goes.

use crate::{
    api::Api,
    authn::User,
    decode::Decoded,
    gc, object,
    ops::{self, DeleteOptions, Part, Writer},
    registry::Resource,
};
use serde_json::{Value, json};

/// Namespaces of every cluster.
pub const DEFAULT: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates an object for the server itself; one that exists is left alone.
pub fn ensure(api: &Api, group: &str, version: &str, kind: &str, namespace: &str, value: Value) {
    let Some(resource) = api.registry.find_kind(group, version, kind) else {
        return;
    };
    let user = User::system("system:apiserver");
    let mut writer = Writer::internal(&user, "kube-apiserver");
    let decoded = Decoded {
        value,
        duplicates: Vec::new(),
    };
    if let Err(error) = ops::create_own(api, &resource, namespace, decoded, &mut writer)
        && &*error.reason != "AlreadyExists"
    {
        tracing::warn!(kind, namespace, %error, "cannot create a default object");
    }
}

/// Gives a new namespace what every namespace has.
pub fn furnish(api: &Api, namespace: &Value) {
    let name = object::name(namespace);
    root_certificate(api, name);
    ensure(
        api,
        "",
        "v1",
        "ServiceAccount",
        name,
        json!({"metadata": {"name": "default"}}),
    );
}

fn root_certificate(api: &Api, namespace: &str) {
    let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    ensure(
        api,
        "",
        "v1",
        "ConfigMap",
        namespace,
        json!({"metadata": {"name": "kube-root-ca.crt",
                    "annotations": {"kubernetes.io/description": description}},
               "data": {"ca.crt": api.pki.ca_pem()}}),
    );
}

/// A namespace was changed; one that goes loses its content.
pub fn changed(api: &Api, namespace: &Value) {
    if object::terminating(namespace) {
        gc::send(
            api,
            gc::Work::Namespace(object::name(namespace).to_string()),
        );
    }
}

/// An object in a namespace is gone: perhaps the last one, or one that must come back.
pub fn content_deleted(api: &Api, resource: &Resource, value: &Value) {
    if !resource.namespaced {
        return;
    }
    let name = object::namespace(value);
    let Some(namespaces) = api.registry.find_kind("", "v1", "Namespace") else {
        return;
    };
    let Ok(namespace) = ops::get(api, &namespaces, "", name) else {
        return;
    };
    if object::terminating(namespace.value()) {
        gc::send(api, gc::Work::Namespace(name.to_string()));
        return;
    }
    match (resource.kind.as_ref(), object::name(value)) {
        ("ConfigMap", "kube-root-ca.crt") | ("ServiceAccount", "default") => {
            furnish(api, namespace.value());
        }
        _ => {}
    }
}

/// Deletes everything in a namespace that goes, and the namespace when nothing is left. Runs in
/// the garbage collector's task: a namespace may hold more objects than a stack can recurse.
pub fn empty(api: &Api, name: &str) {
    let Some(namespaces) = api.registry.find_kind("", "v1", "Namespace") else {
        return;
    };
    match ops::get(api, &namespaces, "", name) {
        Ok(found) if object::terminating(found.value()) => {}
        _ => return,
    }
    let user = User::system("system:serviceaccount:kube-system:namespace-controller");
    let mut writer = Writer::internal(&user, "kube-controller-manager");
    let options = DeleteOptions {
        propagation: Some("Background".into()),
        ..DeleteOptions::default()
    };
    for resource in api.registry.storages().iter().filter(|r| r.namespaced) {
        for object in api.store.list(&resource.storage, Some(name)).1 {
            if object::terminating(object.value()) {
                continue;
            }
            let object_name = object::name(object.value());
            if let Err(error) =
                ops::delete_own(api, resource, name, object_name, &options, &mut writer)
                && error.code != http::StatusCode::NOT_FOUND
            {
                tracing::warn!(namespace = name, kind = %resource.kind, object_name, %error, "cannot delete");
            }
        }
    }
    finish(api, &namespaces, name);
}

/// Lets an empty namespace go; says in its status what holds one that is not.
fn finish(api: &Api, namespaces: &Resource, name: &str) {
    let storages = api.registry.storages();
    let held: Vec<String> = storages
        .iter()
        .filter(|r| r.namespaced)
        .filter_map(|r| match api.store.list(&r.storage, Some(name)).1.len() {
            0 => None,
            n => Some(format!("{} has {n} resource instances", r.qualified())),
        })
        .collect();
    let user = User::system("system:serviceaccount:kube-system:namespace-controller");
    let mut writer = Writer::internal(&user, "kube-controller-manager");
    let result = ops::update_own(
        api,
        namespaces,
        "",
        name,
        Part::All,
        &mut writer,
        |current, _| {
            let mut next = current.clone();
            if held.is_empty() {
                if let Some(spec) = object::child(&mut next, "spec") {
                    spec.insert("finalizers".into(), json!([]));
                }
            } else if let Some(status) = object::child(&mut next, "status") {
                status.insert("conditions".into(), remaining(current, &held));
            }
            Ok(next)
        },
    );
    if let Err(error) = result
        && error.code != http::StatusCode::NOT_FOUND
    {
        tracing::warn!(namespace = name, %error, "cannot finish the namespace");
    }
}

fn remaining(namespace: &Value, held: &[String]) -> Value {
    let message = format!("Some resources are remaining: {}", held.join(", "));
    let old = namespace.pointer("/status/conditions/0");
    let since = old.and_then(|c| c.get("lastTransitionTime")).cloned();
    json!([{"type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
            "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| object::now().into())}])
}

/// Creates what a cluster has from its first moment.
pub fn bootstrap(api: &Api) {
    for name in DEFAULT {
        ensure(
            api,
            "",
            "v1",
            "Namespace",
            "",
            json!({"metadata": {"name": name}}),
        );
    }
    let port = api.settings.advertise.port();
    let address = api.services.addresses(1).next().map(|a| a.to_string());
    ensure(
        api,
        "",
        "v1",
        "Service",
        "default",
        json!({"metadata": {"name": "kubernetes",
                    "labels": {"component": "apiserver", "provider": "kubernetes"}},
               "spec": {"clusterIP": address,
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}}),
    );
    ensure(
        api,
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "default",
        json!({"metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
               "addressType": if api.settings.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
               "endpoints": [{"addresses": [api.settings.advertise.ip().to_string()],
                              "conditions": {"ready": true}}],
               "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
    );
    ensure(
        api,
        "",
        "v1",
        "Endpoints",
        "default",
        json!({"metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
               "subsets": [{"addresses": [{"ip": api.settings.advertise.ip().to_string()}],
                            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
    );
    for (name, value) in [
        ("system-node-critical", 2_000_001_000),
        ("system-cluster-critical", 2_000_000_000),
    ] {
        let description = "Used for system critical pods that must run in the cluster.";
        ensure(
            api,
            "scheduling.k8s.io",
            "v1",
            "PriorityClass",
            "",
            json!({"metadata": {"name": name}, "value": value, "description": description}),
        );
    }
}
