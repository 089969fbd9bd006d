//! Which webhooks a request concerns.

use super::{
    Attributes,
    hook::{Hook, Rule},
};
use crate::{
    api::Api,
    cel::{self, Type},
    crd,
    registry::Resource,
    status::{ApiError, Result},
    store::Key,
};
use serde_json::Value;
use std::sync::Arc;

/// The resource as which a webhook wants to see the request; None if it does not concern it.
pub fn wanted(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Arc<Resource>>> {
    let Some(seen_as) = seen_as(api, hook, attributes) else {
        return Ok(None);
    };
    if !in_namespace(api, hook, attributes, object)? || !of_object(hook, object, old)? {
        return Ok(None);
    }
    if !conditions(hook, attributes, &seen_as, object, old)? {
        return Ok(None);
    }
    Ok(Some(seen_as))
}

/// A rule covers the resource itself, or another version of it.
fn seen_as(api: &Api, hook: &Hook, attributes: &Attributes<'_>) -> Option<Arc<Resource>> {
    let own = attributes.resource;
    if hook.rules.iter().any(|rule| covers(rule, attributes, own)) {
        return Some(own.clone());
    }
    if !hook.equivalent {
        return None;
    }
    // Earlier rules come first.
    let others = api.registry.custom(&own.storage);
    hook.rules.iter().find_map(|rule| {
        others
            .iter()
            .find(|other| covers(rule, attributes, other))
            .cloned()
    })
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn covers(rule: &Rule, attributes: &Attributes<'_>, resource: &Resource) -> bool {
    let of_cluster = attributes.namespace.is_empty() || resource.is("", "Namespace");
    let scope = match rule.scope.as_str() {
        "" | "*" => true,
        "Cluster" => of_cluster,
        "Namespaced" => !of_cluster,
        _ => false,
    };
    let resources = rule.resources.iter().any(|pattern| {
        let (name, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
        (name == "*" || name == resource.plural.as_ref())
            && (sub == "*" || sub == attributes.subresource)
    });
    scope
        && resources
        && has(&rule.operations, attributes.operation)
        && has(&rule.groups, &resource.group)
        && has(&rule.versions, &resource.version)
}

fn unreadable(hook: &Hook, what: &str) -> ApiError {
    ApiError::internal(format!(
        "webhook {:?}: its {what} cannot be read",
        hook.name
    ))
}

/// The namespace's labels fit; those of a namespace are its own.
fn in_namespace(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<bool> {
    let selector = hook
        .namespaces
        .as_ref()
        .ok_or_else(|| unreadable(hook, "namespaceSelector"))?;
    if selector.is_empty() || attributes.namespace.is_empty() {
        return Ok(true);
    }
    if attributes.resource.is("", "Namespace")
        && attributes.subresource.is_empty()
        && let Some(own) = object
    {
        return Ok(selector.matches(own));
    }
    let key = Key::new(&"namespaces".into(), "", attributes.namespace);
    match api.store.get(&key) {
        Some(namespace) => Ok(selector.matches(namespace.value())),
        None => Err(ApiError::not_found("", "namespaces", attributes.namespace)),
    }
}

/// The object's labels fit, before or after.
fn of_object(hook: &Hook, object: Option<&Value>, old: Option<&Value>) -> Result<bool> {
    let selector = hook
        .objects
        .as_ref()
        .ok_or_else(|| unreadable(hook, "objectSelector"))?;
    let fits = |value: Option<&Value>| value.is_some_and(|v| selector.matches(v));
    Ok(selector.is_empty() || fits(object) || fits(old))
}

/// All conditions hold. One that does not settles it; one that cannot be evaluated counts as a
/// failure of the webhook.
fn conditions(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen_as: &Resource,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<bool> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let value = |json: &Value| cel::from_json(&Type::Dyn, json);
    let object = value(object.unwrap_or(&Value::Null));
    let old = value(old.unwrap_or(&Value::Null));
    let request = value(&super::review::request(attributes, seen_as, ""));
    let variables = [
        ("object", &object),
        ("oldObject", &old),
        ("request", &request),
    ];
    let mut broken = None;
    for (name, program) in &hook.conditions {
        let program = program.as_ref().map_err(Clone::clone);
        match program.and_then(|p| p.holds(&variables)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => {
                broken
                    .get_or_insert_with(|| format!("expression {name:?} resulted in error: {why}"));
            }
        }
    }
    match broken {
        None => Ok(true),
        Some(why) if hook.ignore_failure => {
            tracing::warn!(
                webhook = hook.name,
                why,
                "match conditions cannot be evaluated"
            );
            Ok(false)
        }
        Some(why) => {
            let resource = attributes.resource;
            Err(ApiError::forbidden(
                &resource.group,
                &resource.plural,
                attributes.name,
                &why,
            ))
        }
    }
}

/// Whether webhooks have no say about a kind: nobody could repair a configuration otherwise.
pub fn exempt(resource: &Resource) -> bool {
    resource.group.as_ref() == "admissionregistration.k8s.io"
}

/// An object in the version that a webhook wants to see.
pub fn shown(attributes: &Attributes<'_>, seen_as: &Resource, value: Value) -> Value {
    between(attributes.resource, seen_as, value)
}

/// What [`shown`] was, in the version of the request again.
pub fn restored(attributes: &Attributes<'_>, seen_as: &Resource, value: Value) -> Value {
    between(seen_as, attributes.resource, value)
}

fn between(from: &Resource, to: &Resource, value: Value) -> Value {
    match to.custom() {
        Some(version) if from.version != to.version => crd::in_version(to, version, value),
        _ => value,
    }
}
