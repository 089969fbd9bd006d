//! What must happen together with a write: allocations before it, and notices after it to the
//! parts of the server that follow objects of certain kinds.

use crate::{
    api::Api,
    crd, gc, namespaces,
    object::Object,
    registry::Resource,
    services::{self, Allocation},
    status::Result,
};
use serde_json::Value;
use std::sync::Arc;

/// Takes what the object needs from the pools of the cluster (addresses and ports of services).
/// `before` is the object that is replaced.
pub fn allocate(
    api: &Api,
    resource: &Resource,
    value: &mut Value,
    before: Option<&Value>,
    dry_run: bool,
) -> Result<Allocation> {
    if resource.is("", "Service") {
        return services::allocate(api, value, before, dry_run);
    }
    Ok(Allocation::default())
}

/// Gives back what a write that failed has taken.
pub fn release(api: &Api, allocation: Allocation) {
    api.services.release(&allocation);
}

/// An object was created.
pub fn created(api: &Api, resource: &Resource, object: &Arc<Object>) {
    let value = object.value();
    if value.pointer("/metadata/ownerReferences").is_some() {
        gc::check(api, resource, value);
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::register(api, value),
        ("", "Namespace") => namespaces::furnish(api, value),
        ("rbac.authorization.k8s.io", "ClusterRole") => gc::send(api, gc::Work::Roles),
        _ => {}
    }
}

/// An object was replaced.
pub fn updated(api: &Api, resource: &Resource, before: &Value, object: &Arc<Object>) {
    let value = object.value();
    let references = |v: &Value| v.pointer("/metadata/ownerReferences").cloned();
    if references(value).is_some() && references(before) != references(value) {
        gc::check(api, resource, value);
    }
    if crate::object::terminating(value) && before != value {
        gc::terminating(api, resource, value);
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            crd::register(api, value);
            crd::names_changed(api, Some(before), value);
        }
        ("", "Namespace") => namespaces::changed(api, value),
        ("", "Service") => services::changed(api, before, value),
        ("rbac.authorization.k8s.io", "ClusterRole") => gc::send(api, gc::Work::Roles),
        _ => {}
    }
}

/// An object is gone.
pub fn deleted(api: &Api, resource: &Resource, object: &Arc<Object>) {
    let value = object.value();
    gc::gone(api, resource, value);
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            crd::unregister(api, value);
            crd::names_changed(api, None, value);
        }
        ("", "Service") => services::deleted(api, value),
        ("rbac.authorization.k8s.io", "ClusterRole") => gc::send(api, gc::Work::Roles),
        _ => namespaces::content_deleted(api, resource, value),
    }
}
