//! Changes that a real cluster's built-in admission plugins make to new pods.

use crate::{
    api::Api,
    node_restriction, object,
    ops::Writer,
    registry::Resource,
    status::{ApiError, Result},
    store::Key,
};
use serde_json::{Map, Value, json};

/// Where every container finds its service account's token.
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A new object, after defaulting.
pub fn on_create(
    api: &Api,
    resource: &Resource,
    value: &mut Value,
    writer: &Writer<'_>,
) -> Result<()> {
    if resource.is("", "Node")
        && let Some(node) = writer.user.node()
    {
        node_restriction::on_create(node, value)?;
    }
    // Its end waits for what is in it.
    if resource.is("", "Namespace")
        && let Some(spec) = object::child(value, "spec")
    {
        spec.insert("finalizers".into(), serde_json::json!(["kubernetes"]));
    }
    if resource.is("", "Pod") {
        priority(api, value)?;
        service_account(api, value)?;
        tolerations(value);
    }
    Ok(())
}

/// A changed object, after defaulting.
pub fn on_update(
    resource: &Resource,
    current: &Value,
    next: &Value,
    writer: &Writer<'_>,
) -> Result<()> {
    if resource.is("", "Node")
        && let Some(node) = writer.user.node()
    {
        node_restriction::on_update(node, current, next)?;
    }
    Ok(())
}

/// The plugin `ServiceAccount`: the account must exist; its token is mounted into every
/// container unless account or pod say otherwise.
fn service_account(api: &Api, pod: &mut Value) -> Result<()> {
    let annotations = pod.pointer("/metadata/annotations");
    if annotations
        .and_then(|a| a.get("kubernetes.io/config.mirror"))
        .is_some()
    {
        return Ok(());
    }
    let (namespace, pod_name) = (
        object::namespace(pod).to_string(),
        object::name(pod).to_string(),
    );
    let Some(spec) = object::child(pod, "spec") else {
        return Ok(());
    };
    object::set_default(spec, "serviceAccountName", "default");
    let account = spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or("default")
        .to_string();
    spec.insert("serviceAccount".into(), account.clone().into());
    let found = api
        .store
        .get(&Key::new(&"serviceaccounts".into(), &namespace, &account));
    let Some(found) = found else {
        let why = format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        );
        return Err(ApiError::forbidden("", "pods", &pod_name, &why));
    };
    if !spec.contains_key("imagePullSecrets")
        && let Some(secrets) = found.value().get("imagePullSecrets")
    {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let wanted = spec
        .get("automountServiceAccountToken")
        .or_else(|| found.value().get("automountServiceAccountToken"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if wanted {
        mount_token(spec);
    }
    Ok(())
}

fn mount_token(spec: &mut Map<String, Value>) {
    let has_mount = |container: &Value| {
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        mounts
            .into_iter()
            .flatten()
            .any(|m| object::text(m, "/mountPath") == TOKEN_MOUNT)
    };
    let lists = ["initContainers", "containers"];
    let needed = lists.iter().any(|list| {
        let containers = spec.get(*list).and_then(Value::as_array);
        containers.into_iter().flatten().any(|c| !has_mount(c))
    });
    if !needed {
        return;
    }
    let mut volume = json!({"metadata": {"generateName": "kube-api-access-"}});
    crate::ops::generate_name(&mut volume);
    let volume_name = object::name(&volume).to_string();
    for list in lists {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if has_mount(container) {
                continue;
            }
            let mount = json!({"name": volume_name, "readOnly": true, "mountPath": TOKEN_MOUNT});
            push(container, "volumeMounts", mount);
        }
    }
    let volume = json!({
        "name": volume_name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
            "defaultMode": 420,
        },
    });
    if let Some(volumes) = spec
        .entry("volumes")
        .or_insert_with(|| json!([]))
        .as_array_mut()
    {
        volumes.push(volume);
    }
}

fn push(value: &mut Value, key: &str, item: Value) {
    if let Some(map) = value.as_object_mut()
        && let Some(list) = map
            .entry(key.to_string())
            .or_insert_with(|| json!([]))
            .as_array_mut()
    {
        list.push(item);
    }
}

/// The plugin `DefaultTolerationSeconds`: pods stay five minutes on a node that is lost.
fn tolerations(pod: &mut Value) {
    let Some(spec) = object::child(pod, "spec") else {
        return;
    };
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = list.iter().any(|t| {
            let (k, effect) = (object::text(t, "/key"), object::text(t, "/effect"));
            (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// The class of pods that name none: of several, the one of the least value.
fn default_class(api: &Api) -> Option<String> {
    let (_, classes) = api.store.list("priorityclasses.scheduling.k8s.io", None);
    let value = |class: &Value| class.get("value").and_then(Value::as_i64);
    classes
        .iter()
        .map(|class| class.value())
        .filter(|class| class.get("globalDefault") == Some(&Value::Bool(true)))
        .min_by_key(|class| value(class))
        .map(|class| object::name(class).to_string())
}

/// The plugin `Priority`: a class name becomes a number.
fn priority(api: &Api, pod: &mut Value) -> Result<()> {
    let pod_name = object::name(pod).to_string();
    let Some(spec) = object::child(pod, "spec") else {
        return Ok(());
    };
    let mut class = spec
        .get("priorityClassName")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    if class.is_empty()
        && let Some(default) = default_class(api)
    {
        spec.insert("priorityClassName".into(), default.clone().into());
        class = default;
    }
    let mut policy = Value::from("PreemptLowerPriority");
    let number = if class.is_empty() {
        0
    } else {
        let found = api.store.get(&Key::new(
            &"priorityclasses.scheduling.k8s.io".into(),
            "",
            &class,
        ));
        let Some(found) = found else {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(ApiError::forbidden("", "pods", &pod_name, &why));
        };
        if let Some(p) = found.value().get("preemptionPolicy") {
            policy = p.clone();
        }
        found
            .value()
            .get("value")
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    let given = spec.get("priority").and_then(Value::as_i64);
    if let Some(given) = given.filter(|given| *given != number) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {number} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden("", "pods", &pod_name, &why));
    }
    spec.insert("priority".into(), number.into());
    object::set_default(spec, "preemptionPolicy", policy);
    Ok(())
}
