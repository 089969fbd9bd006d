//! Custom resource definitions: checked, given a status, and turned into served resources.
//!
//! Schemas are compiled once per definition. CEL rules (`x-kubernetes-validations`) are stored
//! and not evaluated; whoever creates such a definition is told so by a warning.

mod check;
mod schema;
mod walk;

pub use check::check;
pub use schema::{ListKind, Structural};
pub use walk::{default, prune, validate};

use crate::{
    api::Api,
    object::{self, set_default},
    registry::{self, Resource, Schema, Subresource},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Finalizer that holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// One version of a CRD, compiled.
#[derive(Debug, Default)]
pub struct CustomVersion {
    /// What objects look like; None allows everything.
    pub schema: Option<Structural>,
    /// Resource version of the definition.
    pub revision: u64,
    /// The schema as it was written, for OpenAPI.
    pub source: Value,
    /// `additionalPrinterColumns`.
    pub columns: Vec<PrinterColumn>,
    /// Whether status is a part of its own.
    pub status: bool,
    /// Where replicas are, if the scale subresource is served.
    pub scale: Option<ScalePaths>,
    /// Fields that lists can select by.
    pub selectable: Vec<String>,
    /// What users of a deprecated version are told.
    pub deprecation: Option<String>,
}

/// One entry of `additionalPrinterColumns`.
#[derive(Debug, Clone, Default)]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// string, integer, number, boolean, date.
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 is always shown, others with `-o wide`.
    pub priority: i64,
    /// JSONPath of the value.
    pub path: String,
}

/// JSONPaths of the scale subresource.
#[derive(Debug, Clone, Default)]
pub struct ScalePaths {
    /// Where the wanted number stands.
    pub spec: String,
    /// Where the present number stands.
    pub status: String,
    /// Where the label selector stands, as text.
    pub selector: Option<String>,
}

/// Fills in what a definition leaves out, its status included.
pub fn defaults(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string();
        set_default(names, "singular", kind.to_lowercase());
        set_default(names, "listKind", format!("{kind}List"));
    }
    let names = spec.get("names").cloned().unwrap_or(Value::Null);
    let versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let storage: Vec<&str> = versions
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| object::text(v, "/name"))
        .collect();
    if !object::terminating(value) {
        add_finalizer(value);
    }
    let mut stored: Vec<String> = value
        .pointer("/status/storedVersions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_string))
        .collect();
    for version in storage {
        if !stored.iter().any(|s| s == version) {
            stored.push(version.to_string());
        }
    }
    let conditions = value
        .pointer("/status/conditions")
        .cloned()
        .unwrap_or_else(established);
    if let Some(map) = value.as_object_mut() {
        map.insert(
            "status".into(),
            json!({"conditions": conditions, "acceptedNames": names, "storedVersions": stored}),
        );
    }
}

fn add_finalizer(value: &mut Value) {
    let mut finalizers: Vec<String> = object::finalizers(value)
        .into_iter()
        .map(str::to_string)
        .collect();
    if !finalizers.iter().any(|f| f == CLEANUP) {
        finalizers.push(CLEANUP.to_string());
        object::set_metadata(value, "finalizers", Some(json!(finalizers)));
    }
}

fn established() -> Value {
    let now = object::now();
    json!([
        {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now,
         "reason": "NoConflicts", "message": "no conflicts found"},
        {"type": "Established", "status": "True", "lastTransitionTime": now,
         "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"},
    ])
}

/// Serves what the definition declares, from now on.
pub fn register(api: &Api, crd: &Value) {
    let resources = resources(crd);
    tracing::debug!(
        crd = object::name(crd),
        versions = resources.len(),
        "custom resource registered"
    );
    api.registry.set_custom(object::name(crd), resources);
}

/// Ends the service of a definition that is gone.
pub fn unregister(api: &Api, crd: &Value) {
    api.registry.remove_custom(object::name(crd));
}

fn resources(crd: &Value) -> Vec<Arc<Resource>> {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let text = |pointer: &str| -> Arc<str> { object::text(spec, pointer).into() };
    let list = |pointer: &str| -> Vec<Arc<str>> {
        let list = spec.pointer(pointer).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(Into::into))
            .collect()
    };
    let revision = object::text(crd, "/metadata/resourceVersion")
        .parse()
        .unwrap_or(0);
    let mut resources = Vec::new();
    for version in spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if version.get("served") != Some(&Value::Bool(true)) {
            continue;
        }
        let compiled = Arc::new(compile(version, spec, revision));
        let mut subresources = Vec::new();
        if compiled.status {
            subresources.push(registry::builtin::subresource("status"));
        }
        if compiled.scale.is_some() {
            subresources.push(Subresource {
                ..registry::builtin::subresource("scale")
            });
        }
        resources.push(Arc::new(Resource {
            group: text("/group"),
            version: object::text(version, "/name").into(),
            kind: text("/names/kind"),
            list_kind: text("/names/listKind"),
            plural: text("/names/plural"),
            singular: text("/names/singular"),
            short_names: list("/names/shortNames"),
            categories: list("/names/categories"),
            namespaced: object::text(spec, "/scope") == "Namespaced",
            storage: object::name(crd).into(),
            verbs: registry::ALL_VERBS,
            subresources,
            schema: Schema::Custom(compiled),
            inert: None,
        }));
    }
    resources.sort_by_key(|r| std::cmp::Reverse(version_order(&r.version)));
    resources
}

fn compile(version: &Value, spec: &Value, revision: u64) -> CustomVersion {
    let source = version
        .pointer("/schema/openAPIV3Schema")
        .cloned()
        .unwrap_or(Value::Null);
    let mut schema = source.is_object().then(|| Structural::compile(&source));
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true))
        && let Some(schema) = &mut schema
    {
        schema.preserve_unknown = true;
    }
    let column = |c: &Value| PrinterColumn {
        name: object::text(c, "/name").into(),
        kind: object::text(c, "/type").into(),
        format: object::text(c, "/format").into(),
        description: object::text(c, "/description").into(),
        priority: c.get("priority").and_then(Value::as_i64).unwrap_or(0),
        path: object::text(c, "/jsonPath").into(),
    };
    let array = |pointer: &str| {
        version
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let scale = version.pointer("/subresources/scale").map(|s| ScalePaths {
        spec: object::text(s, "/specReplicasPath").into(),
        status: object::text(s, "/statusReplicasPath").into(),
        selector: s
            .get("labelSelectorPath")
            .and_then(Value::as_str)
            .map(Into::into),
    });
    let deprecated = version.get("deprecated") == Some(&Value::Bool(true));
    let default_warning = || {
        format!(
            "{}/{} {} is deprecated",
            object::text(spec, "/group"),
            object::text(version, "/name"),
            object::text(spec, "/names/kind")
        )
    };
    let warning = version
        .get("deprecationWarning")
        .and_then(Value::as_str)
        .map(str::to_string);
    CustomVersion {
        schema,
        revision,
        source,
        columns: array("/additionalPrinterColumns").map(column).collect(),
        status: version.pointer("/subresources/status").is_some(),
        scale,
        selectable: array("/selectableFields")
            .map(|f| {
                object::text(f, "/jsonPath")
                    .trim_start_matches('.')
                    .to_string()
            })
            .collect(),
        deprecation: deprecated.then(|| warning.unwrap_or_else(default_warning)),
    }
}

/// What the creator of a definition must know: rules in it that are not evaluated.
pub fn unevaluated(resource: &Resource, crd: &Value) -> Option<String> {
    if !resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        return None;
    }
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array)?;
    let schemas = versions
        .iter()
        .filter_map(|v| v.pointer("/schema/openAPIV3Schema"));
    let rules: usize = schemas.map(|s| Structural::compile(s).rules_below()).sum();
    (rules > 0).then(|| {
        format!(
            "{rules} validation rules (x-kubernetes-validations) of {} are stored, but this API server does not evaluate them",
            object::name(crd)
        )
    })
}

/// Order of versions as Kubernetes prefers them: GA, beta, alpha, each the higher the better.
pub fn version_order(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_string()));
    let Some(rest) = version.strip_prefix('v') else {
        return other;
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (Ok(major), tail) = (rest[..end].parse::<u64>(), &rest[end..]) else {
        return other;
    };
    let stage = |name: &str| tail.strip_prefix(name).and_then(|n| n.parse::<u64>().ok());
    let none = std::cmp::Reverse(String::new());
    match (tail, stage("beta"), stage("alpha")) {
        ("", _, _) => (3, major, 0, none),
        (_, Some(n), _) => (2, major, n, none),
        (_, _, Some(n)) => (1, major, n, none),
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_prefers_them() {
        let mut versions = ["v1alpha1", "v2", "v1", "v1beta2", "foo", "v10", "v1beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_order(v)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]
        );
    }

    #[test]
    fn a_definition_is_established_at_once() {
        let mut crd = json!({"metadata": {"name": "foos.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        defaults(&mut crd);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(crd["status"]["acceptedNames"]["listKind"], "FooList");
        let conditions = crd["status"]["conditions"].clone();
        defaults(&mut crd);
        assert_eq!(crd["status"]["conditions"], conditions, "times stay");
        assert_eq!(resources(&crd).len(), 1);
    }
}
