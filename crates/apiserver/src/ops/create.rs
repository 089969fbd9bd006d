//! Creating an object.

use super::{Writer, key, shape};
use crate::{
    admission,
    api::Api,
    apply, crd,
    decode::Decoded,
    defaults, hooks,
    object::{self, Object},
    rbac,
    registry::{Resource, Schema},
    services::Allocation,
    status::{ApiError, Result},
    store::WriteError,
    validation,
    webhooks::{self, Attributes},
};
use rand::RngExt;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

/// Attempts to find a free name from `generateName`.
const NAME_ATTEMPTS: usize = 8;

/// Creates an object in `namespace` (ignored for resources of the cluster).
pub async fn create(
    api: &Api,
    resource: &Arc<Resource>,
    namespace: &str,
    decoded: Decoded,
    writer: &mut Writer<'_>,
) -> Result<Arc<Object>> {
    let value = crate::events::stored(resource, shape(resource, decoded, writer)?);
    create_shaped(api, resource, namespace, value, writer).await
}

/// Creates an object for the server itself, without asking webhooks.
pub fn create_own(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    decoded: Decoded,
    writer: &mut Writer<'_>,
) -> Result<Arc<Object>> {
    let value = crate::events::stored(resource, shape(resource, decoded, writer)?);
    let draft = Draft::begin(api, resource, namespace, value, writer)?;
    let draft = draft.judged(api, resource, writer)?;
    draft.commit(api, resource, namespace, writer)
}

/// Creates an object from a body that has been shaped already.
pub async fn create_shaped(
    api: &Api,
    resource: &Arc<Resource>,
    namespace: &str,
    value: Value,
    writer: &mut Writer<'_>,
) -> Result<Arc<Object>> {
    let mut draft = Draft::begin(api, resource, namespace, value, writer)?;
    let name = object::name(&draft.value).to_string();
    let attributes = Attributes::of("CREATE", resource, namespace, &name, writer);
    let mut warnings = Vec::new();
    let drafted = draft.value.clone();
    draft.value = webhooks::mutated(api, &attributes, draft.value, None, &mut warnings).await?;
    keep_own(resource, &drafted, &mut draft.value);
    let draft = draft.judged(api, resource, writer)?;
    let allowed = webhooks::validate(api, &attributes, Some(&draft.value), None, &mut warnings);
    let allowed = allowed.await;
    warnings.into_iter().for_each(|text| writer.warn(text));
    match allowed {
        Ok(()) => draft.commit(api, resource, namespace, writer),
        Err(error) => {
            hooks::release(api, draft.allocated);
            Err(error)
        }
    }
}

/// Puts back what is the server's to give: webhooks change neither identity nor status.
fn keep_own(resource: &Resource, drafted: &Value, changed: &mut Value) {
    for key in ["uid", "creationTimestamp", "generation"] {
        let own = drafted.pointer(&format!("/metadata/{key}")).cloned();
        object::set_metadata(changed, key, own);
    }
    if !gives_status(resource) {
        let status = drafted.get("status").cloned();
        if let Some(map) = changed.as_object_mut() {
            map.shift_remove("status");
            map.extend(status.map(|status| ("status".to_string(), status)));
        }
    }
}

/// A node comes with its status; everything else that has one gets it from a controller.
fn gives_status(resource: &Resource) -> bool {
    resource.is("", "Node") || !resource.has_subresource("status")
}

/// An object on its way into the store.
struct Draft {
    value: Value,
    /// Whether its name was made and may be made again.
    generated: bool,
    allocated: Allocation,
}

impl Draft {
    /// Names, stamps and fills in a new object, and records who owns its fields.
    fn begin(
        api: &Api,
        resource: &Resource,
        namespace: &str,
        mut value: Value,
        writer: &mut Writer<'_>,
    ) -> Result<Draft> {
        if resource
            .custom()
            .is_some_and(|v| v.life.terminating.load(Ordering::Relaxed))
        {
            return Err(ApiError::method_not_allowed_because(
                "create not allowed while custom resource definition is terminating",
            ));
        }
        if !object::text(&value, "/metadata/resourceVersion").is_empty() && !writer.applying {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::odd(why));
        }
        place(api, resource, namespace, &mut value)?;
        let generated = generate_name(&mut value);
        let name = object::name(&value).to_string();
        let target = key(resource, namespace, &name);
        if !generated && !name.is_empty() && api.store.get(&target).is_some() {
            let (group, plural) = (&resource.group, &resource.plural);
            return Err(ApiError::already_exists(group, plural, &name));
        }
        let managers = writer
            .applying
            .then(|| apply::first(resource, &value, &writer.manager));
        stamp(resource, &mut value);
        defaults::on_create(resource, &mut value);
        // What admission changes belongs to nobody.
        match managers {
            Some(managers) => object::set_metadata(&mut value, "managedFields", managers),
            None => apply::track(resource, None, &mut value, &writer.manager, ""),
        }
        admission::on_create(api, resource, &mut value, writer)?;
        Ok(Draft {
            value,
            generated,
            allocated: Allocation::default(),
        })
    }

    /// Refuses what the rules of the kind forbid; takes what the object needs.
    fn judged(mut self, api: &Api, resource: &Resource, writer: &mut Writer<'_>) -> Result<Draft> {
        rbac::check_escalation(api, writer.user, resource, None, &self.value)?;
        validation::on_create(resource, &self.value, writer)?;
        if is_definition(resource) {
            crd::settle(api, &mut self.value);
        }
        let dry_run = writer.dry_run;
        self.allocated = hooks::allocate(api, resource, &mut self.value, None, dry_run)?;
        if let Some(why) = resource.inert {
            let name = object::name(&self.value);
            tracing::warn!(kind = %resource.kind, %name, "{why}");
            writer.warn(format!("{} {why}", resource.qualified()));
        }
        Ok(self)
    }

    /// Stores it, unless nothing is to be stored.
    fn commit(
        self,
        api: &Api,
        resource: &Resource,
        namespace: &str,
        writer: &Writer<'_>,
    ) -> Result<Arc<Object>> {
        if writer.dry_run {
            return Ok(Arc::new(Object::new(self.value, 0)));
        }
        let value = match resource.custom() {
            Some(version) => crd::stored(version, self.value),
            None => self.value,
        };
        let stored = store(api, resource, namespace, value, self.generated);
        match &stored {
            Ok(object) => hooks::created(api, resource, object),
            Err(_) => hooks::release(api, self.allocated),
        }
        stored
    }
}

fn store(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    mut value: Value,
    generated: bool,
) -> Result<Arc<Object>> {
    for _ in 0..NAME_ATTEMPTS {
        let name = object::name(&value).to_string();
        let target = key(resource, namespace, &name);
        // The value is needed again only if a generated name is taken.
        let attempt = if generated {
            value.clone()
        } else {
            std::mem::take(&mut value)
        };
        match api.store.create(&target, attempt) {
            Ok(object) => return Ok(object),
            Err(WriteError::Exists) if generated => {
                object::set_metadata(&mut value, "name", None);
                generate_name(&mut value);
            }
            Err(_) => {
                return Err(ApiError::already_exists(
                    &resource.group,
                    &resource.plural,
                    &name,
                ));
            }
        }
    }
    Err(ApiError::already_exists(
        &resource.group,
        &resource.plural,
        object::name(&value),
    ))
}

/// Whether objects of the resource define resources.
pub(super) fn is_definition(resource: &Resource) -> bool {
    resource.is("apiextensions.k8s.io", "CustomResourceDefinition")
}

/// Puts the object into the namespace of the request, which must exist.
fn place(api: &Api, resource: &Resource, namespace: &str, value: &mut Value) -> Result<()> {
    if !resource.namespaced {
        object::set_metadata(value, "namespace", None);
        return Ok(());
    }
    let own = object::namespace(value);
    if !own.is_empty() && own != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({own} != {namespace})"
        )));
    }
    object::set_metadata(value, "namespace", Some(namespace.into()));
    let found = api
        .store
        .get(&crate::store::Key::new(&"namespaces".into(), "", namespace));
    let Some(found) = found else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if object::terminating(found.value()) {
        let name = object::name(value);
        let mut error = ApiError::forbidden(
            &resource.group,
            &resource.plural,
            name,
            &format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            ),
        );
        if let Some(details) = error.details.as_object_mut() {
            details.insert(
                "causes".into(),
                json!([{"reason": "NamespaceTerminating",
                        "message": format!("namespace {namespace} is being terminated"),
                        "field": "metadata.namespace"}]),
            );
        }
        return Err(error);
    }
    Ok(())
}

/// Makes a name from `generateName` if there is no name. Says whether it did.
pub fn generate_name(value: &mut Value) -> bool {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let prefix = object::text(value, "/metadata/generateName").to_string();
    if prefix.is_empty() || !object::name(value).is_empty() {
        return false;
    }
    let mut rng = rand::rng();
    let suffix: String = (0..5)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect();
    let prefix: String = prefix.chars().take(58).collect();
    object::set_metadata(value, "name", Some(format!("{prefix}{suffix}").into()));
    true
}

/// Whether objects of the kind count changes of their spec.
pub(super) fn has_generation(resource: &Resource) -> bool {
    match &resource.schema {
        Schema::Custom(_) => true,
        Schema::Builtin(_) => !matches!(
            (resource.group.as_ref(), resource.kind.as_ref()),
            (
                "",
                "Namespace"
                    | "Node"
                    | "ConfigMap"
                    | "Secret"
                    | "ServiceAccount"
                    | "Event"
                    | "Endpoints"
                    | "Service"
                    | "PersistentVolumeClaim"
                    | "ResourceQuota"
                    | "LimitRange"
            ) | (
                "rbac.authorization.k8s.io"
                    | "coordination.k8s.io"
                    | "events.k8s.io"
                    | "autoscaling",
                _
            )
        ),
    }
}

/// The part of `metadata` that only the server writes, and the status that only controllers do.
fn stamp(resource: &Resource, value: &mut Value) {
    for key in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        object::set_metadata(value, key, None);
    }
    object::set_metadata(value, "uid", Some(uuid::Uuid::new_v4().to_string().into()));
    object::set_metadata(value, "creationTimestamp", Some(object::now().into()));
    let generation = has_generation(resource).then(|| 1.into());
    object::set_metadata(value, "generation", generation);
    if !gives_status(resource)
        && let Some(map) = value.as_object_mut()
    {
        map.shift_remove("status");
    }
}
