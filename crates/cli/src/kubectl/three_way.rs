//! The patch of a client-side apply: what the manifest says, and the removal of what it said the
//! last time and does not say any more.
//!
//! The patch always carries the whole manifest. A server that merges it finds nothing to change
//! when nothing has changed, so there is no need to compute the smallest difference here.

use serde_json::{Map, Value, json};

/// Annotation that holds the manifest of the last apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How the server will merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// By Kubernetes' list keys: built-in kinds.
    Strategic,
    /// Lists as a whole: custom resources.
    Plain,
}

/// The patch that makes an object what the manifest says.
pub fn patch(last: &Value, manifest: &Value, merge: Merge) -> Value {
    map(
        last.as_object().unwrap_or(&Map::new()),
        manifest.as_object().unwrap_or(&Map::new()),
        merge,
    )
}

fn map(last: &Map<String, Value>, wanted: &Map<String, Value>, merge: Merge) -> Value {
    let mut patch = Map::new();
    for key in last.keys().filter(|key| !wanted.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in wanted {
        let before = last.get(key).unwrap_or(&Value::Null);
        let merged = match value {
            Value::Object(new) => map(before.as_object().unwrap_or(&Map::new()), new, merge),
            Value::Array(new) if merge == Merge::Strategic => list(key, before, new),
            other => other.clone(),
        };
        patch.insert(key.clone(), merged);
    }
    Value::Object(patch)
}

/// The field by which the items of a list are told apart, if they are.
fn merge_key(field: &str, items: &[Value]) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "webhooks" => "name",
        "ports" if items.iter().any(|i| i.get("containerPort").is_some()) => "containerPort",
        "ports" if items.iter().all(|i| i.get("port").is_some()) => "port",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

fn list(field: &str, before: &Value, wanted: &[Value]) -> Value {
    let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
    let all: Vec<Value> = before.iter().chain(wanted).cloned().collect();
    let Some(key) = merge_key(field, &all) else {
        return wanted.to_vec().into();
    };
    let same = |a: &Value, b: &Value| a.get(key).is_some() && a.get(key) == b.get(key);
    let mut items = Vec::new();
    for item in wanted {
        let old = before
            .iter()
            .find(|o| same(o, item))
            .unwrap_or(&Value::Null);
        items.push(match (old.as_object(), item.as_object()) {
            (Some(old), Some(new)) => map(old, new, Merge::Strategic),
            _ => item.clone(),
        });
    }
    for gone in before
        .iter()
        .filter(|old| !wanted.iter().any(|new| same(old, new)))
    {
        items.push(json!({"$patch": "delete", key: gone.get(key)}));
    }
    items.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_any_more_goes() {
        let last = json!({"data": {"a": "1", "b": "2"}, "spec": {"containers": [{"name": "x", "image": "1", "args": ["a"]}, {"name": "y"}]}});
        let new =
            json!({"data": {"a": "3"}, "spec": {"containers": [{"name": "x", "image": "2"}]}});
        assert_eq!(
            patch(&last, &new, Merge::Strategic),
            json!({"data": {"b": null, "a": "3"}, "spec": {"containers": [
                {"args": null, "name": "x", "image": "2"}, {"$patch": "delete", "name": "y"}]}})
        );
        assert_eq!(
            patch(&last, &new, Merge::Plain)["spec"]["containers"],
            new["spec"]["containers"]
        );
    }

    #[test]
    fn ports_are_told_apart_by_what_they_are() {
        let last = json!({"ports": [{"port": 80}, {"port": 81}]});
        let done = patch(&last, &json!({"ports": [{"port": 80}]}), Merge::Strategic);
        assert_eq!(done["ports"][1], json!({"$patch": "delete", "port": 81}));
        let last = json!({"ports": [{"containerPort": 80}]});
        let done = patch(
            &last,
            &json!({"ports": [{"containerPort": 81}]}),
            Merge::Strategic,
        );
        assert_eq!(
            done["ports"][1],
            json!({"$patch": "delete", "containerPort": 80})
        );
    }
}
