//! What users change about the objects that a gateway is made of: a ConfigMap with a patch for each
//! (`spec.infrastructure.parametersRef`, or one for all gateways of a class).
//!
//! Patches are merged as Kubernetes merges them strategically: maps key by key, lists of things that
//! have a name by that name, other lists as a whole. `null` takes a key out; `$patch: delete` an
//! element, `$patch: replace` puts the patch in the place of what is there.

use std::collections::BTreeMap;

use ambit_model::Text;
use serde_json::{Map, Value};

use crate::facts::GatewayFacts;
use crate::key::ObjectKey;
use crate::waypoints::{object_name, service_account};

/// An object that a gateway is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Its pods.
    Deployment,
    /// Where clients find them.
    Service,
    /// Who they are.
    ServiceAccount,
    /// How many there are.
    HorizontalPodAutoscaler,
    /// How many there are at least.
    PodDisruptionBudget,
}

impl Part {
    const ALL: [Part; 5] = [
        Part::Deployment,
        Part::Service,
        Part::ServiceAccount,
        Part::HorizontalPodAutoscaler,
        Part::PodDisruptionBudget,
    ];

    /// Its key in the ConfigMap.
    pub fn key(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Service => "service",
            Self::ServiceAccount => "serviceAccount",
            Self::HorizontalPodAutoscaler => "horizontalPodAutoscaler",
            Self::PodDisruptionBudget => "podDisruptionBudget",
        }
    }

    /// API version and kind of the object.
    pub fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("apps/v1", "Deployment"),
            Self::Service => ("v1", "Service"),
            Self::ServiceAccount => ("v1", "ServiceAccount"),
            Self::HorizontalPodAutoscaler => ("autoscaling/v2", "HorizontalPodAutoscaler"),
            Self::PodDisruptionBudget => ("policy/v1", "PodDisruptionBudget"),
        }
    }
}

/// The patches of one ConfigMap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    patches: BTreeMap<Part, Value>,
}

/// A ConfigMap with what holds for all gateways of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassDefaults {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The class.
    pub class: Text,
    /// When it was made, seconds since 1970: of several the oldest holds.
    pub created: i64,
    /// What stands in it.
    pub data: BTreeMap<String, String>,
}

impl Overlay {
    /// Reads a ConfigMap for the objects of a gateway.
    ///
    /// # Errors
    /// A patch is none; there is one for an object that gateways are not made of; or one would make
    /// another object of it.
    pub fn read(
        gateway: &GatewayFacts,
        map: &ObjectKey,
        data: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut patches = BTreeMap::new();
        for (key, text) in data {
            let part = Part::ALL.into_iter().find(|part| part.key() == *key);
            let part = part.ok_or_else(|| {
                let known = Part::ALL.map(Part::key).join(", ");
                format!("ConfigMap {map} has a key {key:?}; it may have {known}")
            })?;
            let patch: Value = serde_saphyr::from_str(text).map_err(|e| {
                let line = e.to_string();
                let line = line.lines().next().unwrap_or_default().to_owned();
                format!("{key} in ConfigMap {map} cannot be read: {line}")
            })?;
            match patch {
                Value::Null => {}
                Value::Object(_) if changes_identity(gateway, part, &patch) => {
                    return Err(format!(
                        "{key} in ConfigMap {map} changes apiVersion, kind, name or namespace"
                    ));
                }
                Value::Object(_) => drop(patches.insert(part, patch)),
                _ => return Err(format!("{key} in ConfigMap {map} is no object")),
            }
        }
        Ok(Self { patches })
    }

    /// There is a patch for this object.
    pub fn has(&self, part: Part) -> bool {
        self.patches.contains_key(&part)
    }

    /// The object, patched.
    pub fn apply(&self, part: Part, object: Value) -> Value {
        match self.patches.get(&part) {
            Some(patch) => merged("", object, patch.clone()),
            None => object,
        }
    }
}

fn changes_identity(gateway: &GatewayFacts, part: Part, patch: &Value) -> bool {
    let (version, kind) = part.kind();
    let name = match part {
        Part::ServiceAccount => service_account(gateway),
        _ => object_name(gateway),
    };
    let fixed = [
        ("/apiVersion", version),
        ("/kind", kind),
        ("/metadata/name", &*name),
        ("/metadata/namespace", &*gateway.key.namespace),
    ];
    let differs = |(path, fixed): (&str, &str)| patch.pointer(path).is_some_and(|v| v != fixed);
    let replaces = |path: &str| patch.pointer(path).is_some();
    fixed.into_iter().any(differs)
        || replaces("/$patch")
        || replaces("/metadata/$patch")
        || patch.get("metadata") == Some(&Value::Null)
}

/// What tells the elements of a list apart, by the name of its field.
fn merge_keys(field: &str) -> &'static [&'static str] {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets" => &["name"],
        "ports" => &["containerPort", "port"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey"],
        "ownerReferences" => &["uid"],
        _ => &[],
    }
}

fn merged(field: &str, base: Value, patch: Value) -> Value {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => Value::Object(merged_maps(base, patch)),
        (Value::Array(base), Value::Array(patch)) => merged_lists(field, base, patch),
        (_, patch) => without_directives(patch),
    }
}

const DIRECTIVE: &str = "$patch";

fn merged_maps(mut base: Map<String, Value>, mut patch: Map<String, Value>) -> Map<String, Value> {
    match patch.remove(DIRECTIVE).as_ref().and_then(Value::as_str) {
        Some("delete") => return Map::new(),
        Some("replace") => base.clear(),
        _ => {}
    }
    for (key, value) in patch {
        // `$setElementOrder` and its like only help tools to sort.
        if key.starts_with('$') {
            continue;
        }
        match (base.remove(&key), value) {
            (_, Value::Null) => {}
            (None, value) => drop(base.insert(key, without_directives(value))),
            (Some(old), value) => {
                let new = merged(&key, old, value);
                base.insert(key, new);
            }
        }
    }
    base
}

fn merged_lists(field: &str, mut base: Vec<Value>, patch: Vec<Value>) -> Value {
    let key = |value: &Value| {
        let keys = merge_keys(field).iter();
        let mut found = keys.filter_map(|key| Some((*key, value.get(key)?.clone())));
        found.next()
    };
    let is_replace = |value: &Value| value.get(DIRECTIVE).is_some_and(|d| d == "replace");
    if patch.iter().any(is_replace) {
        let rest = patch.into_iter().filter(|value| !is_replace(value));
        return rest.map(without_directives).collect();
    }
    if merge_keys(field).is_empty() || !patch.iter().all(|value| key(value).is_some()) {
        return patch.into_iter().map(without_directives).collect();
    }
    for value in patch {
        let at = base.iter().position(|old| key(old) == key(&value));
        let deletes = value.get(DIRECTIVE).is_some_and(|d| d == "delete");
        match (at, deletes) {
            (Some(at), true) => drop(base.remove(at)),
            (Some(at), false) => base[at] = merged("", std::mem::take(&mut base[at]), value),
            (None, true) => {}
            (None, false) => base.push(without_directives(value)),
        }
    }
    base.into()
}

/// A value that is put in as a whole: directives and nulls in it have nothing to act on.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter();
            let kept = kept.filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(kept.map(|(k, v)| (k, without_directives(v))).collect())
        }
        Value::Array(list) => list.into_iter().map(without_directives).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map() -> ObjectKey {
        ObjectKey::new("shop", "params")
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Overlay, String> {
        let pairs = pairs.iter();
        let data = pairs.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Overlay::read(&gateway(), &map(), &data.collect())
    }

    fn gateway() -> GatewayFacts {
        let object = json!({
            "metadata": {"name": "waypoint", "namespace": "shop"},
            "spec": {"gatewayClassName": "istio-waypoint", "listeners": []},
        });
        GatewayFacts::of(&serde_json::from_value(object).unwrap())
    }

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {"a": "1"}},
            "spec": {"template": {"spec": {
                "containers": [{
                    "name": "istio-proxy", "image": "x",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}},
                }],
                "tolerations": [{"key": "old"}],
            }}},
        })
    }

    #[test]
    fn a_patch_is_merged_strategically() {
        let overlay = read(&[(
            "deployment",
            "metadata: {labels: {b: \"2\"}, annotations: {c: \"3\"}}\n\
             spec:\n  replicas: 3\n  template:\n    spec:\n\
             \x20     tolerations: [{key: new}]\n\
             \x20     containers:\n\
             \x20     - name: istio-proxy\n\
             \x20       env: [{name: B, value: other}, {name: A, $patch: delete}, {name: C, value: \"3\"}]\n\
             \x20       resources: {limits: null}\n\
             \x20     - {name: beside, image: other}\n",
        )]);
        let overlay = overlay.unwrap();
        assert!(overlay.has(Part::Deployment) && !overlay.has(Part::Service));
        let wanted = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "waypoint", "namespace": "shop",
                "labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"},
            },
            "spec": {"replicas": 3, "template": {"spec": {
                "containers": [
                    {
                        "name": "istio-proxy", "image": "x",
                        "env": [{"name": "B", "value": "other"}, {"name": "C", "value": "3"}],
                        "resources": {"requests": {"cpu": "1"}},
                    },
                    {"name": "beside", "image": "other"},
                ],
                "tolerations": [{"key": "new"}],
            }}},
        });
        assert_eq!(overlay.apply(Part::Deployment, deployment()), wanted);
    }

    #[test]
    fn replacing() {
        let patch = "spec: {template: {spec: {containers: [{$patch: replace}, {name: only}]}}}";
        let overlay = read(&[("deployment", patch)]).unwrap();
        let patched = overlay.apply(Part::Deployment, deployment());
        let containers = patched.pointer("/spec/template/spec/containers");
        assert_eq!(containers, Some(&json!([{"name": "only"}])));
        let patch = "metadata: {labels: {$patch: replace, z: \"1\"}}";
        let overlay = read(&[("deployment", patch)]).unwrap();
        let patched = overlay.apply(Part::Deployment, deployment());
        assert_eq!(patched["metadata"]["labels"], json!({"z": "1"}));
    }

    #[test]
    fn an_object_stays_the_same() {
        for patch in [
            "metadata: {name: other}",
            "metadata: {namespace: other}",
            "kind: StatefulSet",
            "apiVersion: null",
            "metadata: null",
            "$patch: replace\nspec: {}",
            "metadata: {$patch: delete}",
        ] {
            let error = read(&[("deployment", patch)]).unwrap_err();
            assert!(error.contains("changes apiVersion"), "{patch}: {error}");
        }
        let same = read(&[("deployment", "kind: Deployment\nmetadata: {name: waypoint}")]).unwrap();
        assert_eq!(same.apply(Part::Deployment, deployment()), deployment());
    }

    #[test]
    fn what_is_no_patch() {
        for (key, text, why) in [
            ("deployments", "{}", "horizontalPodAutoscaler"),
            ("service", "a: b: c", "cannot be read"),
            ("service", "- a", "no object"),
        ] {
            let error = read(&[(key, text)]).unwrap_err();
            assert!(
                error.contains(why) && error.contains("shop/params"),
                "{error}"
            );
        }
        assert_eq!(read(&[("service", "")]), Ok(Overlay::default()));
    }
}
