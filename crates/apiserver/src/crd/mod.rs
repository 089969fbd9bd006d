//! Custom resource definitions: checked, given a status, and turned into served resources.
//!
//! The way of a definition: `check` (is it one?) → `status` (may it have its names?) →
//! `register` (compiled once, served). The way of an object: `prune` gives it the form of its
//! schema, `validate` judges it, and it is stored in one version, whatever version it came in.

mod check;
mod correlate;
mod formats;
mod openapi;
mod prune;
mod register;
mod rules;
mod schema;
mod status;
mod unique;
mod validate;

pub use check::check;
// The steps one by one, for properties that each of them has.
pub use register::{names_changed, reconsider, register, touch, unregister};
pub use schema::{ListKind, Structural};
pub use status::settle;
pub use validate::{Verdict, on_create, on_update};
#[cfg(any(test, fuzzing))]
pub use {
    check::check_schema,
    openapi::check as judge,
    prune::{default as fill, prune as prune_by},
};

use crate::{
    object::{self, set_default},
    registry::Resource,
    schema::Findings,
};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    sync::{Arc, atomic::AtomicBool},
};
use tokio_util::sync::CancellationToken;

/// Finalizer that holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// One version of a CRD, compiled.
#[derive(Debug, Default)]
pub struct CustomVersion {
    /// What objects look like; None allows everything.
    pub schema: Option<Arc<Structural>>,
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
    /// The version that objects are stored in.
    pub storage: Arc<Storage>,
    /// How long this form of the definition is served.
    pub life: Arc<Life>,
}

/// The version that objects are stored in.
#[derive(Debug, Default)]
pub struct Storage {
    /// `group/version`.
    pub api_version: String,
    /// What stored objects look like.
    pub schema: Option<Arc<Structural>>,
}

/// The life of one form of a definition, shared by its versions.
#[derive(Debug, Default)]
pub struct Life {
    /// What decides on the form.
    served: Value,
    /// Whether the definition is being deleted: it takes no new objects then.
    pub terminating: AtomicBool,
    /// Cancelled when the definition is gone or has another form.
    pub ended: CancellationToken,
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

/// Fills in what a definition leaves out.
pub fn defaults(value: &mut Value) {
    let Some(spec) = object::child(value, "spec") else {
        return;
    };
    set_default(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str);
        let kind = kind.unwrap_or_default().to_string();
        set_default(names, "singular", kind.to_lowercase());
        set_default(names, "listKind", format!("{kind}List"));
    }
    if !object::terminating(value) {
        add_finalizer(value);
    }
}

fn add_finalizer(value: &mut Value) {
    let mut finalizers = object::finalizers(value);
    if !finalizers.contains(&CLEANUP) {
        finalizers.push(CLEANUP);
        let finalizers = json!(finalizers);
        object::set_metadata(value, "finalizers", Some(finalizers));
    }
}

/// Gives the body of a request the form of its version.
pub fn prune(
    version: &CustomVersion,
    value: &mut Value,
    findings: &mut Findings,
) -> Result<(), String> {
    prune::prune(version.schema.as_deref(), value, findings)
}

/// Fills in what the schema declares as default.
pub fn default(version: &CustomVersion, value: &mut Value) {
    if let Some(schema) = &version.schema {
        prune::default(schema, value);
    }
}

/// An object as it is stored: in one version, in the form of that version.
pub fn stored(version: &CustomVersion, mut value: Value) -> Value {
    let storage = &version.storage;
    if object::text(&value, "/apiVersion") != storage.api_version {
        convert(&mut value, &storage.api_version, storage.schema.as_deref());
        storage.fill(&mut value);
    }
    value
}

impl Storage {
    /// What is stored has the defaults of the version that it is stored in, and no other's.
    fn fill(&self, value: &mut Value) {
        if let Some(schema) = &self.schema {
            prune::default(schema, value);
        }
    }
}

/// A stored object as a version shows it: with the defaults of the stored version and pruned, both
/// by the schemas as they are now.
pub fn present<'a>(
    resource: &Resource,
    version: &CustomVersion,
    value: &'a Value,
) -> Cow<'a, Value> {
    let api_version = resource.api_version();
    let written = object::text(value, "/metadata/resourceVersion").parse::<u64>();
    let current = object::text(value, "/apiVersion") == api_version
        && written.is_ok_and(|at| at > version.revision);
    if current {
        return Cow::Borrowed(value);
    }
    let mut value = value.clone();
    version.storage.fill(&mut value);
    convert(&mut value, &api_version, version.schema.as_deref());
    Cow::Owned(value)
}

/// An object of one version as another version has it.
pub fn in_version(resource: &Resource, version: &CustomVersion, mut value: Value) -> Value {
    convert(
        &mut value,
        &resource.api_version(),
        version.schema.as_deref(),
    );
    value
}

/// Between versions nothing changes but the version, and what one of them knows and the other
/// does not.
fn convert(value: &mut Value, api_version: &str, schema: Option<&Structural>) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
    }
    // A stored object has metadata that was checked when it came.
    if let Err(why) = prune::prune(schema, value, &mut Findings::default()) {
        tracing::warn!(why, api_version, "a stored object does not fit its schema");
    }
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
}
