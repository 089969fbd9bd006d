//! Deleting an object: at once, after a grace period, or when its finalizers are done.

use super::{Writer, key};
use crate::{
    api::Api,
    hooks,
    object::{self, Object},
    registry::Resource,
    status::{ApiError, Cause, Result},
    store::WriteError,
    webhooks::{self, Attributes},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Finalizer: the garbage collector first deletes what the object owns.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer: the garbage collector first releases what the object owns.
pub const ORPHAN: &str = "orphan";

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds until a pod is killed; 0 means at once.
    pub grace_period_seconds: Option<i64>,
    /// Background, Foreground or Orphan.
    pub propagation: Option<String>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this resource version.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Reads a body (null if there is none).
    pub fn parse(body: &Value) -> Result<Self> {
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
                .map(str::to_string)
        };
        let mut propagation = text("/propagationPolicy");
        if let Some(orphan) = body.get("orphanDependents").and_then(Value::as_bool) {
            if let Some(policy) = propagation {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                let cause = Cause::invalid("propagationPolicy", &policy.into(), why);
                return Err(Self::refused(cause));
            }
            propagation = Some(if orphan { "Orphan" } else { "Background" }.to_string());
        }
        if let Some(policy) = &propagation {
            Self::check_propagation(policy)?;
        }
        Ok(DeleteOptions {
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        })
    }

    /// What becomes of dependents.
    ///
    /// # Errors
    /// There is no such policy (422).
    pub fn check_propagation(policy: &str) -> Result<()> {
        // In the order, and with the odd last word, of Kubernetes.
        let allowed = ["Foreground", "Background", "Orphan", "nil"].map(String::from);
        match policy {
            "Background" | "Foreground" | "Orphan" => Ok(()),
            other => Err(Self::refused(Cause::unsupported(
                "propagationPolicy",
                &other.into(),
                &allowed,
            ))),
        }
    }

    fn refused(cause: Cause) -> ApiError {
        ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause])
    }

    /// As webhooks see them.
    fn to_value(&self, dry_run: bool) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = &self.propagation {
            value["propagationPolicy"] = policy.clone().into();
        }
        if dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

/// Deletes an object, or begins to. The flag says whether it is gone.
pub async fn delete(
    api: &Api,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    writer: &mut Writer<'_>,
) -> Result<(Arc<Object>, bool)> {
    let current = super::get(api, resource, namespace, name)?;
    let attributes = Attributes {
        options: options.to_value(writer.dry_run),
        ..Attributes::of("DELETE", resource, namespace, name, writer)
    };
    let mut warnings = Vec::new();
    let old = Some(current.value());
    webhooks::admit(api, &attributes, None, old, &mut warnings).await?;
    warnings.into_iter().for_each(|text| writer.warn(text));
    delete_own(api, resource, namespace, name, options, writer)
}

/// As [`delete`], for the server itself: webhooks are not asked.
pub fn delete_own(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    writer: &mut Writer<'_>,
) -> Result<(Arc<Object>, bool)> {
    let target = key(resource, namespace, name);
    if is_protected(resource, name) {
        return Err(ApiError::forbidden(
            &resource.group,
            &resource.plural,
            name,
            "this namespace may not be deleted",
        ));
    }
    loop {
        let current = super::get(api, resource, namespace, name)?;
        check_preconditions(resource, current.value(), options)?;
        let marked = mark(resource, current.value(), options);
        if writer.dry_run {
            let gone = is_done(resource, &marked);
            return Ok((Arc::new(Object::new(marked, current.revision())), gone));
        }
        let result = if is_done(resource, &marked) {
            // A pod's end is written before the pod goes: watchers see both.
            let last = match resource.is("", "Pod") && marked != *current.value() {
                true => api.store.update(&target, current.revision(), marked),
                false => Ok(current.clone()),
            };
            last.and_then(|last| api.store.delete(&target, last.revision()))
                .map(|gone| (gone, true))
        } else if marked == *current.value() {
            return Ok((current, false));
        } else {
            api.store
                .update(&target, current.revision(), marked)
                .map(|o| (o, false))
        };
        match result {
            Ok((object, gone)) => {
                if gone {
                    hooks::deleted(api, resource, &object);
                } else {
                    hooks::updated(api, resource, current.value(), &object);
                }
                return Ok((object, gone));
            }
            Err(WriteError::Stale) => continue,
            Err(_) => return Err(ApiError::not_found(&resource.group, &resource.plural, name)),
        }
    }
}

fn is_protected(resource: &Resource, name: &str) -> bool {
    resource.is("", "Namespace") && matches!(name, "default" | "kube-system" | "kube-public")
}

fn check_preconditions(
    resource: &Resource,
    current: &Value,
    options: &DeleteOptions,
) -> Result<()> {
    let checks = [
        ("UID", &options.uid, object::uid(current)),
        (
            "ResourceVersion",
            &options.resource_version,
            object::text(current, "/metadata/resourceVersion"),
        ),
    ];
    for (what, wanted, found) in checks {
        if let Some(wanted) = wanted
            && wanted != found
        {
            return Err(ApiError::conflict_because(
                &resource.group,
                &resource.plural,
                object::name(current),
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                ),
            ));
        }
    }
    Ok(())
}

/// The object with its deletion begun.
fn mark(resource: &Resource, current: &Value, options: &DeleteOptions) -> Value {
    let mut next = current.clone();
    let grace = grace_period(resource, current, options);
    let already = object::terminating(current);
    let old_grace = current
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    if !already {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        object::set_metadata(&mut next, "deletionTimestamp", Some(at.into()));
        object::set_metadata(&mut next, "deletionGracePeriodSeconds", Some(grace.into()));
        if let Some(n) = current
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
        {
            object::set_metadata(&mut next, "generation", Some((n + 1).into()));
        }
    } else if old_grace.is_some_and(|old| grace < old) {
        // A second request may only shorten the wait.
        object::set_metadata(&mut next, "deletionGracePeriodSeconds", Some(grace.into()));
    }
    if !already {
        add_policy(&mut next, options);
    }
    if resource.is("", "Namespace")
        && let Some(status) = object::child(&mut next, "status")
    {
        status.insert("phase".into(), "Terminating".into());
    }
    next
}

/// Seconds that the object stays after the request: only pods on a node take their time.
fn grace_period(resource: &Resource, current: &Value, options: &DeleteOptions) -> i64 {
    if !resource.is("", "Pod") || object::text(current, "/spec/nodeName").is_empty() {
        return 0;
    }
    if matches!(
        object::text(current, "/status/phase"),
        "Succeeded" | "Failed"
    ) {
        return 0;
    }
    let own = current
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    let grace = options.grace_period_seconds.or(own).unwrap_or(30);
    // Less than nothing is the shortest time that there is.
    if grace < 0 { 1 } else { grace }
}

fn add_policy(next: &mut Value, options: &DeleteOptions) {
    let mut finalizers: Vec<String> = object::finalizers(next)
        .into_iter()
        .map(str::to_string)
        .collect();
    let policy = options.propagation.as_deref();
    if policy.is_some() {
        // An explicit policy replaces what an earlier request left.
        finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    }
    match policy {
        Some("Foreground") => finalizers.push(FOREGROUND.into()),
        Some("Orphan") => finalizers.push(ORPHAN.into()),
        _ => {}
    }
    let value = (!finalizers.is_empty()).then(|| json!(finalizers));
    object::set_metadata(next, "finalizers", value);
}

/// Whether nothing holds a terminating object any more.
pub(super) fn is_done(resource: &Resource, value: &Value) -> bool {
    if !object::terminating(value) || !object::finalizers(value).is_empty() {
        return false;
    }
    if resource.is("", "Namespace") {
        let held = value.pointer("/spec/finalizers").and_then(Value::as_array);
        return held.is_none_or(Vec::is_empty);
    }
    let grace = value
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    grace.unwrap_or(0) == 0
}

/// Removes an object that is done.
pub(super) fn remove(api: &Api, resource: &Resource, object: &Arc<Object>) -> Option<Arc<Object>> {
    let target = key(
        resource,
        object::namespace(object.value()),
        object::name(object.value()),
    );
    let gone = api.store.delete(&target, object.revision()).ok()?;
    hooks::deleted(api, resource, &gone);
    Some(gone)
}

/// Takes a finalizer off an object (the server's own controllers).
pub fn finalize(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
    finalizer: &str,
) -> Result<()> {
    let user = crate::authn::User::system("system:apiserver");
    let mut writer = Writer::internal(&user, "kube-apiserver");
    super::update_own(
        api,
        resource,
        namespace,
        name,
        super::Part::All,
        &mut writer,
        |current, _| {
            let mut next = current.clone();
            let left: Vec<&str> = object::finalizers(current)
                .into_iter()
                .filter(|f| *f != finalizer)
                .collect();
            let value = (!left.is_empty()).then(|| json!(left));
            object::set_metadata(&mut next, "finalizers", value);
            Ok(next)
        },
    )?;
    Ok(())
}
