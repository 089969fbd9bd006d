//! Changing an object: all of it, or one of its parts.

use super::{
    Writer,
    create::{has_generation, is_definition},
    key,
};
use crate::{
    admission,
    api::Api,
    apply, crd, defaults, hooks,
    object::{self, Object},
    rbac,
    registry::{Resource, Schema},
    status::{ApiError, Cause, Result},
    store::WriteError,
    validation,
    webhooks::{self, Attributes},
};
use serde_json::Value;
use std::{borrow::Cow, sync::Arc};

/// Which part of an object a request may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, where that is a part of its own.
    Object,
    /// The status alone.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// `spec.ephemeralContainers` of a pod.
    EphemeralContainers,
    /// The replicas, wherever the kind has them.
    Scale,
    /// Everything: the server's own controllers and bindings.
    All,
}

impl Part {
    /// The name of the subresource in managed fields.
    pub fn subresource(self) -> &'static str {
        match self {
            Part::Object | Part::All => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::EphemeralContainers => "ephemeralcontainers",
            Part::Scale => "scale",
        }
    }
}

/// Replaces an object by what `change` makes of it. `change` may be called again if someone else
/// writes in between; a body that names a resource version fails then instead.
pub async fn update(
    api: &Api,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    part: Part,
    writer: &mut Writer<'_>,
    mut change: impl FnMut(&Value, &mut Writer<'_>) -> Result<Value>,
) -> Result<Arc<Object>> {
    loop {
        let stored = super::get(api, resource, namespace, name)?;
        let current = shown(resource, &stored);
        let proposed = change(&current, writer)?;
        let proposed = propose(resource, part, &current, proposed, writer)?;
        let attributes = Attributes {
            subresource: part.subresource(),
            ..Attributes::of("UPDATE", resource, namespace, name, writer)
        };
        let mut warnings = Vec::new();
        let proposed =
            webhooks::mutated(api, &attributes, proposed, Some(&current), &mut warnings).await?;
        let next = judged(api, resource, part, &current, proposed, writer)?;
        let wanted = next.as_ref().unwrap_or(&current);
        webhooks::validate(
            api,
            &attributes,
            Some(wanted),
            Some(&current),
            &mut warnings,
        )
        .await?;
        warnings.into_iter().for_each(|text| writer.warn(text));
        if let Some(done) = commit(api, resource, &stored, next, writer)? {
            return Ok(done);
        }
    }
}

/// As [`update`], for the server itself: webhooks are not asked.
pub fn update_own(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
    part: Part,
    writer: &mut Writer<'_>,
    mut change: impl FnMut(&Value, &mut Writer<'_>) -> Result<Value>,
) -> Result<Arc<Object>> {
    loop {
        let stored = super::get(api, resource, namespace, name)?;
        let current = shown(resource, &stored);
        let proposed = change(&current, writer)?;
        let proposed = propose(resource, part, &current, proposed, writer)?;
        let next = judged(api, resource, part, &current, proposed, writer)?;
        if let Some(done) = commit(api, resource, &stored, next, writer)? {
            return Ok(done);
        }
    }
}

/// A stored object in the version of the request.
fn shown<'a>(resource: &Resource, stored: &'a Object) -> Cow<'a, Value> {
    match resource.custom() {
        Some(version) => crd::present(resource, version, stored.value()),
        None => Cow::Borrowed(stored.value()),
    }
}

/// Stores the object, if there is one to store. None: somebody else was faster.
fn commit(
    api: &Api,
    resource: &Resource,
    current: &Arc<Object>,
    next: Option<Value>,
    writer: &Writer<'_>,
) -> Result<Option<Arc<Object>>> {
    let Some(mut next) = next else {
        return Ok(Some(current.clone()));
    };
    if writer.dry_run {
        return Ok(Some(Arc::new(Object::new(next, current.revision()))));
    }
    if let Some(version) = resource.custom() {
        next = crd::stored(version, next);
    }
    let (namespace, name) = (
        object::namespace(current.value()),
        object::name(current.value()),
    );
    let target = key(resource, namespace, name);
    match api.store.update(&target, current.revision(), next) {
        Ok(updated) => {
            hooks::updated(api, resource, current.value(), &updated);
            Ok(Some(finish_deletion(api, resource, updated)))
        }
        Err(WriteError::Stale) => Ok(None),
        Err(_) => Err(ApiError::not_found(&resource.group, &resource.plural, name)),
    }
}

/// An object whose last finalizer went is gone.
fn finish_deletion(api: &Api, resource: &Resource, updated: Arc<Object>) -> Arc<Object> {
    if !super::delete::is_done(resource, updated.value()) {
        return updated;
    }
    super::delete::remove(api, resource, &updated).unwrap_or(updated)
}

fn check_identity(resource: &Resource, current: &Value, proposed: &Value) -> Result<()> {
    let name = object::name(current);
    let (group, plural) = (&resource.group, &resource.plural);
    let version = object::text(proposed, "/metadata/resourceVersion");
    if !version.is_empty() && version != object::text(current, "/metadata/resourceVersion") {
        return Err(ApiError::conflict(group, plural, name));
    }
    let uid = object::uid(proposed);
    if !uid.is_empty() && uid != object::uid(current) {
        return Err(ApiError::conflict_because(
            group,
            plural,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(current)
            ),
        ));
    }
    for (field, was) in [("name", name), ("namespace", object::namespace(current))] {
        let now = object::text(proposed, &format!("/metadata/{field}"));
        if !now.is_empty() && now != was {
            return Err(ApiError::bad_request(format!(
                "the {field} of the object ({now}) does not match the {field} on the URL ({was})"
            )));
        }
    }
    Ok(())
}

/// What a request asks for: the part that it may change, filled in.
fn propose(
    resource: &Resource,
    part: Part,
    current: &Value,
    proposed: Value,
    writer: &Writer<'_>,
) -> Result<Value> {
    check_identity(resource, current, &proposed)?;
    let mut next = compose(resource, part, current, proposed);
    keep_metadata(current, &mut next);
    if matches!(resource.schema, Schema::Builtin(_)) {
        defaults::on_update(resource, current, &mut next);
    } else {
        defaults::custom(resource, &mut next);
    }
    if part == Part::Object {
        admission::on_update(resource, current, &next, writer)?;
    }
    Ok(next)
}

/// The object to store, or None if nothing would change.
fn judged(
    api: &Api,
    resource: &Resource,
    part: Part,
    current: &Value,
    mut next: Value,
    writer: &mut Writer<'_>,
) -> Result<Option<Value>> {
    // What a webhook has done to it is undone.
    keep_metadata(current, &mut next);
    rbac::check_escalation(api, writer.user, resource, Some(current), &next)?;
    hooks::allocate(api, resource, &mut next, Some(current), writer.dry_run)?;
    validation::on_update(resource, current, &next, part, writer)?;
    if is_definition(resource) {
        crd::settle(api, &mut next);
    }
    // A pod that gets its node is the same pod still.
    let is_binding = part == Part::All && resource.is("", "Pod");
    if has_generation(resource) && !is_binding && spec_changed(resource, current, &next) {
        let generation = current
            .pointer("/metadata/generation")
            .and_then(Value::as_i64);
        object::set_metadata(
            &mut next,
            "generation",
            Some((generation.unwrap_or(0) + 1).into()),
        );
    }
    if unchanged(current, &next) {
        return Ok(None);
    }
    if !writer.applying {
        apply::track(
            resource,
            Some(current),
            &mut next,
            &writer.manager,
            part.subresource(),
        );
    }
    Ok(Some(next))
}

/// Takes from the proposed object what the part covers, and the rest from the current one.
fn compose(resource: &Resource, part: Part, current: &Value, proposed: Value) -> Value {
    match part {
        Part::All | Part::Scale => proposed,
        Part::Object if resource.is("", "Namespace") => {
            // Only their own path changes these.
            let finalizers = current.pointer("/spec/finalizers");
            let mut next = with(proposed, "status", current.get("status"));
            if let (Some(spec), Some(own)) = (object::child(&mut next, "spec"), finalizers) {
                spec.insert("finalizers".into(), own.clone());
            }
            next
        }
        Part::Object if !resource.has_subresource("status") => proposed,
        Part::Object => with(proposed, "status", current.get("status")),
        Part::Status => {
            let mut next = with(current.clone(), "status", proposed.get("status"));
            let own_metadata = resource.is("", "Node") || resource.is("", "Pod");
            if own_metadata || matches!(resource.schema, Schema::Builtin(_)) {
                for key in ["labels", "annotations"].iter().filter(|_| own_metadata) {
                    let value = proposed.pointer(&format!("/metadata/{key}")).cloned();
                    object::set_metadata(&mut next, key, value);
                }
            }
            let managed = proposed.pointer("/metadata/managedFields").cloned();
            object::set_metadata(&mut next, "managedFields", managed);
            next
        }
        Part::Finalize => {
            let finalizers = proposed.pointer("/spec/finalizers").cloned();
            let mut next = current.clone();
            if let Some(spec) = object::child(&mut next, "spec") {
                spec.insert(
                    "finalizers".into(),
                    finalizers.unwrap_or_else(|| Value::Array(vec![])),
                );
            }
            next
        }
        Part::EphemeralContainers => {
            let containers = proposed.pointer("/spec/ephemeralContainers").cloned();
            let mut next = current.clone();
            if let (Some(spec), Some(containers)) = (object::child(&mut next, "spec"), containers) {
                spec.insert("ephemeralContainers".into(), containers);
            }
            next
        }
    }
}

fn with(mut object: Value, key: &str, value: Option<&Value>) -> Value {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => {
                map.insert(key.to_string(), value.clone());
            }
            None => {
                map.shift_remove(key);
            }
        }
    }
    object
}

/// What clients cannot change in `metadata`.
fn keep_metadata(current: &Value, next: &mut Value) {
    const KEPT: [&str; 9] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for key in KEPT {
        let value = current
            .pointer("/metadata")
            .and_then(|m| m.get(key))
            .cloned();
        object::set_metadata(next, key, value);
    }
    object::set_metadata(next, "selfLink", None);
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        // Removing the last entry removes the field.
        let empty = match next.pointer("/metadata").and_then(|m| m.get(key)) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            object::set_metadata(next, key, None);
        }
    }
}

/// Whether anything changed that counts as the desired state.
fn spec_changed(resource: &Resource, current: &Value, next: &Value) -> bool {
    let keys = |v: &Value| -> Vec<String> {
        v.as_object()
            .map(|m| m.keys().cloned().collect())
            .unwrap_or_default()
    };
    let own = |k: &str| match k {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !resource.has_subresource("status"),
        _ => true,
    };
    let mut all = keys(current);
    all.extend(keys(next));
    all.iter()
        .filter(|k| own(k))
        .any(|k| current.get(k) != next.get(k))
        || (resource.is("apps", "Deployment") && annotations(current) != annotations(next))
}

/// Annotations of a Deployment go on to its ReplicaSets, so they count, too.
fn annotations(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/annotations")
}

/// Equality apart from the record of managers.
fn unchanged(current: &Value, next: &Value) -> bool {
    let managed = |v: &Value| v.pointer("/metadata/managedFields").cloned();
    if current == next {
        return true;
    }
    if managed(current) == managed(next) {
        return false;
    }
    let mut copy = next.clone();
    object::set_metadata(&mut copy, "managedFields", managed(current));
    // Managers that come or go are a change of their own, but not times alone.
    copy == *current && apply::same_managers(current, next)
}

/// Refuses a custom resource without resource version, which the real server does on PUT.
pub(crate) fn require_version(resource: &Resource, proposed: &Value) -> Result<()> {
    let conditional = matches!(resource.schema, Schema::Custom(_))
        || resource.is("coordination.k8s.io", "Lease")
        || resource.is("apiextensions.k8s.io", "CustomResourceDefinition");
    if conditional && object::text(proposed, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::invalid(
            &resource.group,
            &resource.kind,
            object::name(proposed),
            vec![Cause {
                reason: "FieldValueInvalid",
                field: "metadata.resourceVersion".into(),
                message: "Invalid value: 0: must be specified for an update".into(),
            }],
        ));
    }
    Ok(())
}
