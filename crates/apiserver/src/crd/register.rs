//! From a definition to the resources that it adds.

use super::{CustomVersion, Life, PrinterColumn, ScalePaths, Storage, schema::Structural, status};
use crate::{
    api::Api,
    authn::User,
    gc, object,
    ops::{self, Part, Writer},
    registry::{self, Resource, Schema},
};
use serde_json::Value;
use std::sync::{Arc, atomic::Ordering};

/// Serves what a definition declares, from now on. Streams of an earlier form end, so that their
/// clients ask again.
pub fn register(api: &Api, crd: &Value) {
    let name = object::name(crd);
    let known = api.registry.custom(name);
    let known = known.first().and_then(|r| r.custom());
    if known.is_some_and(|k| k.revision > revision(crd)) {
        // A later write was faster.
        return;
    }
    if !status::holds(crd, "Established") {
        return api.registry.remove_custom(name);
    }
    if let Some(known) = known
        && known.life.served == served(crd)
    {
        let terminating = object::terminating(crd);
        known.life.terminating.store(terminating, Ordering::Relaxed);
        return;
    }
    let resources = resources(crd);
    tracing::debug!(
        crd = name,
        versions = resources.len(),
        "custom resource registered"
    );
    api.registry.set_custom(name, resources);
    if let Some(known) = known {
        known.life.ended.cancel();
    }
}

/// Ends the service of a definition that is gone, and its streams. Its names are free again for
/// those that waited for them.
pub fn unregister(api: &Api, crd: &Value) {
    let name = object::name(crd);
    for resource in api.registry.custom(name) {
        if let Some(version) = resource.custom() {
            version.life.ended.cancel();
        }
    }
    api.registry.remove_custom(name);
}

/// Lets definitions of the group know that names may be free which they wait for.
pub fn names_changed(api: &Api, before: Option<&Value>, crd: &Value) {
    let names = |v: &Value| v.pointer("/status/acceptedNames").cloned();
    if before.is_none_or(|before| names(before) != names(crd)) {
        let group = object::text(crd, "/spec/group").to_string();
        gc::send(api, gc::Work::Names(group));
    }
}

/// Gives definitions of a group the names that they wait for, where these are free now.
pub fn reconsider(api: &Api, group: &str) {
    let storage = "customresourcedefinitions.apiextensions.k8s.io";
    for definition in api.store.list(storage, None).1 {
        let crd = definition.value();
        if object::text(crd, "/spec/group") == group && !status::holds(crd, "NamesAccepted") {
            touch(api, object::name(crd));
        }
    }
}

/// Brings the status of a definition up to date.
pub fn touch(api: &Api, name: &str) {
    let (group, kind) = ("apiextensions.k8s.io", "CustomResourceDefinition");
    let Some(resource) = api.registry.find_kind(group, "v1", kind) else {
        return;
    };
    let user = User::system("system:apiserver");
    let mut writer = Writer::internal(&user, "kube-apiserver");
    let same = |current: &Value, _: &mut Writer<'_>| Ok(current.clone());
    let done = ops::update_own(api, &resource, "", name, Part::All, &mut writer, same);
    if let Err(error) = done
        && error.code != http::StatusCode::NOT_FOUND
    {
        tracing::warn!(crd = name, %error, "cannot write the status of a definition");
    }
}

fn revision(crd: &Value) -> u64 {
    object::text(crd, "/metadata/resourceVersion")
        .parse()
        .unwrap_or(0)
}

/// What decides on the form of the service.
fn served(crd: &Value) -> Value {
    let part = |pointer: &str| crd.pointer(pointer).cloned().unwrap_or(Value::Null);
    Value::Array(vec![part("/spec"), part("/status/acceptedNames")])
}

pub(super) fn resources(crd: &Value) -> Vec<Arc<Resource>> {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let versions = spec.get("versions").and_then(Value::as_array);
    let versions = versions.map(Vec::as_slice).unwrap_or_default();
    let mut schemas = Schemas::default();
    let storage = Arc::new(storage(spec, versions, &mut schemas));
    let life = Arc::new(Life {
        served: served(crd),
        terminating: object::terminating(crd).into(),
        ..Life::default()
    });
    let mut resources: Vec<Arc<Resource>> = versions
        .iter()
        .filter(|v| v.get("served") == Some(&Value::Bool(true)))
        .map(|version| {
            let compiled = CustomVersion {
                schema: schemas.of(version),
                revision: revision(crd),
                storage: storage.clone(),
                life: life.clone(),
                ..describe(version, spec)
            };
            Arc::new(resource(crd, version, compiled))
        })
        .collect();
    resources.sort_by_key(|r| std::cmp::Reverse(super::version_order(&r.version)));
    resources
}

/// Compiled schemas: versions that look alike share one.
#[derive(Default)]
struct Schemas<'a>(Vec<(&'a Value, Arc<Structural>)>);

impl<'a> Schemas<'a> {
    fn of(&mut self, version: &'a Value) -> Option<Arc<Structural>> {
        let source = version.pointer("/schema/openAPIV3Schema")?;
        if !source.is_object() {
            return None;
        }
        if let Some((_, known)) = self.0.iter().find(|(s, _)| *s == source) {
            return Some(known.clone());
        }
        let compiled = Arc::new(Structural::compile(source));
        self.0.push((source, compiled.clone()));
        Some(compiled)
    }
}

fn storage<'a>(spec: &Value, versions: &'a [Value], schemas: &mut Schemas<'a>) -> Storage {
    let found = versions
        .iter()
        .find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let name = found.map_or("", |v| object::text(v, "/name"));
    Storage {
        api_version: format!("{}/{name}", object::text(spec, "/group")),
        schema: found.and_then(|v| schemas.of(v)),
    }
}

fn resource(crd: &Value, version: &Value, compiled: CustomVersion) -> Resource {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let names = crd.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
    let text = |key: &str| -> Arc<str> { object::text(names, &format!("/{key}")).into() };
    let list = |key: &str| -> Vec<Arc<str>> {
        let list = names.get(key).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(Into::into).collect()
    };
    let mut subresources = Vec::new();
    if compiled.status {
        subresources.push(registry::builtin::subresource("status"));
    }
    if compiled.scale.is_some() {
        subresources.push(registry::builtin::subresource("scale"));
    }
    Resource {
        group: object::text(spec, "/group").into(),
        version: object::text(version, "/name").into(),
        kind: text("kind"),
        list_kind: text("listKind"),
        plural: text("plural"),
        singular: text("singular"),
        short_names: list("shortNames"),
        categories: list("categories"),
        namespaced: object::text(spec, "/scope") == "Namespaced",
        storage: object::name(crd).into(),
        verbs: registry::CUSTOM_VERBS,
        subresources,
        schema: Schema::Custom(Arc::new(compiled)),
        inert: None,
    }
}

/// What users of a deprecated version are told, and what to use instead.
fn deprecation(version: &Value, spec: &Value) -> String {
    let (group, kind) = (
        object::text(spec, "/group"),
        object::text(spec, "/names/kind"),
    );
    let text = format!(
        "{group}/{} {kind} is deprecated",
        object::text(version, "/name")
    );
    let is = |v: &Value, key: &str| v.get(key) == Some(&Value::Bool(true));
    let versions = spec.get("versions").and_then(Value::as_array);
    let good = versions.into_iter().flatten();
    let good = good.filter(|v| is(v, "served") && !is(v, "deprecated"));
    match good
        .map(|v| object::text(v, "/name"))
        .max_by_key(|name| super::version_order(name))
    {
        Some(name) => format!("{text}; use {group}/{name} {kind}"),
        None => text,
    }
}

/// What a version says beside its schema.
fn describe(version: &Value, spec: &Value) -> CustomVersion {
    let column = |c: &Value| PrinterColumn {
        name: object::text(c, "/name").into(),
        kind: object::text(c, "/type").into(),
        format: object::text(c, "/format").into(),
        description: object::text(c, "/description").into(),
        priority: c.get("priority").and_then(Value::as_i64).unwrap_or(0),
        path: object::text(c, "/jsonPath").into(),
    };
    let array = |pointer: &str| {
        let list = version.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten()
    };
    let scale = version.pointer("/subresources/scale").map(|s| ScalePaths {
        spec: object::text(s, "/specReplicasPath").into(),
        status: object::text(s, "/statusReplicasPath").into(),
        selector: Some(object::text(s, "/labelSelectorPath"))
            .filter(|path| !path.is_empty())
            .map(Into::into),
    });
    let deprecated = version.get("deprecated") == Some(&Value::Bool(true));
    let warning = version.get("deprecationWarning").and_then(Value::as_str);
    let default_warning = || deprecation(version, spec);
    let selectable = array("/selectableFields").map(|f| object::text(f, "/jsonPath"));
    CustomVersion {
        source: version
            .pointer("/schema/openAPIV3Schema")
            .cloned()
            .unwrap_or(Value::Null),
        columns: array("/additionalPrinterColumns").map(column).collect(),
        status: version.pointer("/subresources/status").is_some(),
        scale,
        selectable: selectable
            .map(|path| path.trim_start_matches('.').to_string())
            .collect(),
        deprecation: deprecated.then(|| warning.map_or_else(default_warning, Into::into)),
        ..CustomVersion::default()
    }
}
