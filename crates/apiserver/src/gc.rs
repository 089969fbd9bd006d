//! The garbage collector: objects go with their owners, or are released from them.
//!
//! Work arrives through a queue and is done by one task, so that a delete request never waits for
//! the things that hang on its object. An object goes when none of its owners exists.

use crate::{
    api::Api,
    authn::User,
    crd, namespaces,
    object::{self, Object},
    ops::{self, DeleteOptions, Part, Writer},
    rbac,
    registry::Resource,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Finalizers of [`DeleteOptions::propagation`].
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Work {
    /// The owner with this uid is gone.
    OwnerGone(String),
    /// This object has owners: do they exist?
    Check(Place),
    /// This object waits for its dependents.
    Terminating(Place),
    /// A custom resource definition waits for its objects.
    Cleanup(String),
    /// Definitions of a group may get names that were taken.
    Names(String),
    /// Cluster roles may gather other rules than before.
    Roles,
    /// A namespace waits for its content.
    Namespace(String),
}

/// Where an object is, and which one it was.
#[derive(Debug, Clone)]
pub struct Place {
    group: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

impl Place {
    fn of(resource: &Resource, value: &Value) -> Self {
        Place {
            group: resource.group.to_string(),
            kind: resource.kind.to_string(),
            namespace: object::namespace(value).to_string(),
            name: object::name(value).to_string(),
            uid: object::uid(value).to_string(),
        }
    }
}

/// An object with owners was made or changed.
pub fn check(api: &Api, resource: &Resource, value: &Value) {
    send(api, Work::Check(Place::of(resource, value)));
}

/// An object waits to be deleted.
pub fn terminating(api: &Api, resource: &Resource, value: &Value) {
    let finalizers = object::finalizers(value);
    if finalizers.contains(&FOREGROUND) || finalizers.contains(&ORPHAN) {
        send(api, Work::Terminating(Place::of(resource, value)));
    }
    if finalizers.contains(&crd::CLEANUP) && resource.kind.as_ref() == "CustomResourceDefinition" {
        send(api, Work::Cleanup(object::name(value).to_string()));
    }
}

/// An object is gone.
pub fn gone(api: &Api, resource: &Resource, value: &Value) {
    send(api, Work::OwnerGone(object::uid(value).to_string()));
    for owner in owners(value) {
        // An owner that waits for its dependents may be done now.
        if let Some((resource, found)) = find_owner(api, object::namespace(value), owner)
            && object::terminating(found.value())
        {
            terminating(api, &resource, found.value());
        }
    }
    if matches!(resource.schema, crate::registry::Schema::Custom(_)) {
        send(api, Work::Cleanup(resource.storage.to_string()));
    }
}

/// Queues work.
pub fn send(api: &Api, work: Work) {
    // The queue is closed only while the server stops.
    let _ = api.garbage.send(work);
}

/// Does the work until the server stops.
pub async fn run(api: Arc<Api>, mut queue: mpsc::UnboundedReceiver<Work>) {
    loop {
        let work = tokio::select! {
            () = api.stop.cancelled() => return,
            work = queue.recv() => match work {
                Some(work) => work,
                None => return,
            },
        };
        match work {
            Work::OwnerGone(uid) => owner_gone(&api, &uid),
            Work::Check(place) => check_owners(&api, &place),
            Work::Terminating(place) => finish_terminating(&api, &place),
            Work::Cleanup(name) => cleanup(&api, &name),
            Work::Names(group) => crd::reconsider(&api, &group),
            Work::Roles => rbac::refresh(&api),
            Work::Namespace(name) => namespaces::empty(&api, &name),
        }
    }
}

fn owners(value: &Value) -> &[Value] {
    let list = value
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn find_owner(api: &Api, namespace: &str, owner: &Value) -> Option<(Arc<Resource>, Arc<Object>)> {
    let version = object::text(owner, "/apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let resource = api
        .registry
        .find_group_kind(group, object::text(owner, "/kind"))?;
    let found = ops::get(api, &resource, namespace, object::text(owner, "/name")).ok()?;
    (object::uid(found.value()) == object::text(owner, "/uid")).then_some((resource, found))
}

/// All objects that name the uid as an owner.
fn dependents(api: &Api, uid: &str) -> Vec<(Arc<Resource>, Arc<Object>)> {
    let mut found = Vec::new();
    for resource in api.registry.storages() {
        for object in api.store.list(&resource.storage, None).1 {
            if owners(object.value())
                .iter()
                .any(|o| object::text(o, "/uid") == uid)
            {
                found.push((resource.clone(), object));
            }
        }
    }
    found
}

fn owner_gone(api: &Api, uid: &str) {
    for (resource, dependent) in dependents(api, uid) {
        collect(api, &resource, dependent.value());
    }
}

fn check_owners(api: &Api, place: &Place) {
    if let Some((resource, found)) = lookup(api, place) {
        collect(api, &resource, found.value());
    }
}

fn lookup(api: &Api, place: &Place) -> Option<(Arc<Resource>, Arc<Object>)> {
    let resource = api.registry.find_group_kind(&place.group, &place.kind)?;
    let found = ops::get(api, &resource, &place.namespace, &place.name).ok()?;
    (object::uid(found.value()) == place.uid).then_some((resource, found))
}

/// Deletes an object whose owners are all gone; otherwise forgets the ones that are.
fn collect(api: &Api, resource: &Resource, value: &Value) {
    let namespace = object::namespace(value);
    let (alive, dead): (Vec<&Value>, Vec<&Value>) = owners(value)
        .iter()
        .partition(|owner| find_owner(api, namespace, owner).is_some());
    if dead.is_empty() {
        return;
    }
    let name = object::name(value);
    if !alive.is_empty() {
        let dead: Vec<String> = dead
            .iter()
            .map(|o| object::text(o, "/uid").to_string())
            .collect();
        release(api, resource, namespace, name, &dead);
        return;
    }
    let propagation = match object::finalizers(value) {
        f if f.contains(&ORPHAN) => "Orphan",
        f if f.contains(&FOREGROUND) => "Foreground",
        _ => "Background",
    };
    remove(api, resource, value, propagation);
}

fn remove(api: &Api, resource: &Resource, value: &Value, propagation: &str) {
    let user = User::system("system:serviceaccount:kube-system:generic-garbage-collector");
    let mut writer = Writer::internal(&user, "kube-controller-manager");
    let options = DeleteOptions {
        propagation: Some(propagation.into()),
        uid: Some(object::uid(value).into()),
        ..DeleteOptions::default()
    };
    let (namespace, name) = (object::namespace(value), object::name(value));
    match ops::delete_own(api, resource, namespace, name, &options, &mut writer) {
        Ok(_) => tracing::debug!(kind = %resource.kind, namespace, name, "collected"),
        Err(error) if error.code == http::StatusCode::NOT_FOUND => {}
        Err(error) => {
            tracing::warn!(kind = %resource.kind, namespace, name, %error, "cannot collect")
        }
    }
}

/// Takes owners off an object.
fn release(api: &Api, resource: &Resource, namespace: &str, name: &str, uids: &[String]) {
    let user = User::system("system:serviceaccount:kube-system:generic-garbage-collector");
    let mut writer = Writer::internal(&user, "kube-controller-manager");
    let result = ops::update_own(
        api,
        resource,
        namespace,
        name,
        Part::All,
        &mut writer,
        |current, _| {
            let left: Vec<Value> = owners(current)
                .iter()
                .filter(|o| !uids.iter().any(|uid| uid == object::text(o, "/uid")))
                .cloned()
                .collect();
            let mut next = current.clone();
            object::set_metadata(
                &mut next,
                "ownerReferences",
                (!left.is_empty()).then(|| json!(left)),
            );
            Ok(next)
        },
    );
    if let Err(error) = result
        && error.code != http::StatusCode::NOT_FOUND
    {
        tracing::warn!(kind = %resource.kind, namespace, name, %error, "cannot release from its owner");
    }
}

/// Foreground: dependents first, the object when they are gone. Orphan: release them.
fn finish_terminating(api: &Api, place: &Place) {
    let Some((resource, found)) = lookup(api, place) else {
        return;
    };
    let finalizers = object::finalizers(found.value());
    let dependents = dependents(api, &place.uid);
    let done = if finalizers.contains(&ORPHAN) {
        for (resource, dependent) in &dependents {
            let value = dependent.value();
            let uids = [place.uid.clone()];
            release(
                api,
                resource,
                object::namespace(value),
                object::name(value),
                &uids,
            );
        }
        ORPHAN
    } else if finalizers.contains(&FOREGROUND) {
        let blocks = |value: &Value| {
            owners(value).iter().any(|o| {
                object::text(o, "/uid") == place.uid
                    && o.get("blockOwnerDeletion") == Some(&Value::Bool(true))
            })
        };
        for (resource, dependent) in &dependents {
            let value = dependent.value();
            if !object::terminating(value) {
                // In the foreground only where that makes a difference.
                let alone = self::dependents(api, object::uid(value)).is_empty();
                let policy = if alone { "Background" } else { "Foreground" };
                remove(api, resource, value, policy);
            }
        }
        if self::dependents(api, &place.uid)
            .iter()
            .any(|(_, o)| blocks(o.value()))
        {
            return;
        }
        FOREGROUND
    } else {
        return;
    };
    if let Err(error) = ops::finalize(api, &resource, &place.namespace, &place.name, done) {
        tracing::warn!(kind = %resource.kind, name = place.name, %error, "cannot finish the deletion");
    }
}

/// Deletes the objects of a definition that goes, then lets it go.
fn cleanup(api: &Api, name: &str) {
    let Some(definitions) =
        api.registry
            .find_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    else {
        return;
    };
    let Ok(definition) = ops::get(api, &definitions, "", name) else {
        return;
    };
    if !object::terminating(definition.value()) {
        return;
    }
    crd::touch(api, name);
    if let Some(resource) = api.registry.custom(name).first() {
        for object in api.store.list(&resource.storage, None).1 {
            if !object::terminating(object.value()) {
                remove(api, resource, object.value(), "Background");
            }
        }
    }
    let storage: Arc<str> = name.into();
    if api.store.list(&storage, None).1.is_empty()
        && let Err(error) = ops::finalize(api, &definitions, "", name, crd::CLEANUP)
    {
        tracing::warn!(crd = name, %error, "cannot finish the deletion");
    }
}
