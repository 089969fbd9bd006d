//! Admission webhooks: programs that may change or refuse what is written.
//!
//! For each request: which webhooks want it (`matching`), what they are asked and what their
//! answers mean (`review`), how they are reached (`call`). Mutating webhooks are asked one after
//! the other, validating ones at the same time. A webhook that does not answer properly counts as
//! a refusal unless its configuration says otherwise.

mod call;
mod check;
mod hook;
mod matching;
mod review;

pub use check::check;
pub use hook::Hooks;

use crate::{
    api::Api,
    authn::User,
    ops::{self, Writer},
    patch,
    registry::Resource,
    status::{ApiError, Result},
};
use hook::{Hook, Stage};
use review::{Answer, Decision};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

/// What webhooks are told about a request, beside the objects.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: &'static str,
    /// The resource that the request names.
    pub resource: &'a Arc<Resource>,
    /// The subresource, or "".
    pub subresource: &'a str,
    /// Group, version and kind of the object, where they are not the resource's own.
    pub kind: Option<(&'a str, &'a str, &'a str)>,
    /// The object's name; "" where it is still to be generated.
    pub name: &'a str,
    /// The namespace, for a namespace its own name, or "".
    pub namespace: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
    /// `CreateOptions` and so on.
    pub options: Value,
}

impl<'a> Attributes<'a> {
    /// Those of a writer's request.
    pub fn of(
        operation: &'static str,
        resource: &'a Arc<Resource>,
        namespace: &'a str,
        name: &'a str,
        writer: &Writer<'a>,
    ) -> Self {
        let kind = match operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            "DELETE" => "DeleteOptions",
            _ => "",
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if writer.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if operation != "DELETE" {
            options["fieldManager"] = writer.manager.clone().into();
            options["fieldValidation"] = writer.validation.name().into();
        }
        Attributes {
            operation,
            resource,
            subresource: "",
            kind: None,
            name,
            namespace: match resource.namespaced {
                true => namespace,
                false if resource.is("", "Namespace") => name,
                false => "",
            },
            user: writer.user,
            dry_run: writer.dry_run,
            options: if kind.is_empty() {
                Value::Null
            } else {
                options
            },
        }
    }
}

/// Asks all mutating webhooks about an object of the resource.
pub async fn mutated(
    api: &Api,
    attributes: &Attributes<'_>,
    object: Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let reform = |value| ops::reform(attributes.resource, value);
    let asked = mutate(api, attributes, Some(object), old, warnings, &reform).await?;
    Ok(asked.unwrap_or_default())
}

/// Asks all webhooks about a request that stores no object of the resource: a deletion, or a
/// request to a subresource with a kind of its own.
pub async fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: Option<Value>,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>> {
    let object = mutate(api, attributes, object, old, warnings, &Ok).await?;
    validate(api, attributes, object.as_ref(), old, warnings).await?;
    Ok(object)
}

/// Asks all mutating webhooks. `reshape` gives a changed object its proper form again.
async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    mut object: Option<Value>,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
    reshape: &(dyn Fn(Value) -> Result<Value> + Sync),
) -> Result<Option<Value>> {
    let hooks = of(api, Stage::Mutating, attributes);
    // Those that want to be asked again, and those that must be.
    let (mut asked, mut again) = (HashSet::new(), HashSet::new());
    for round in 0..2 {
        for (i, hook) in hooks.iter().enumerate() {
            if round == 1 && !again.contains(&i) {
                continue;
            }
            let Some(seen_as) = matching::wanted(api, hook, attributes, object.as_ref(), old)?
            else {
                continue;
            };
            let answer = ask(api, hook, attributes, &seen_as, object.as_ref(), old, true).await?;
            let Some(answer) = answer else { continue };
            let before = object.clone();
            object = apply(
                hook, attributes, &seen_as, answer, object, warnings, reshape,
            )?;
            if object != before {
                again.extend(asked.drain());
            }
            if hook.again {
                asked.insert(i);
            }
        }
    }
    Ok(object)
}

/// Does what a mutating webhook has answered.
fn apply(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen_as: &Resource,
    answer: Answer,
    object: Option<Value>,
    warnings: &mut Vec<String>,
    reshape: &(dyn Fn(Value) -> Result<Value> + Sync),
) -> Result<Option<Value>> {
    let patch = match note(hook, answer, warnings)? {
        None => return Ok(object),
        Some(patch) => patch,
    };
    let Some(object) = object else {
        return Err(ApiError::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        )));
    };
    let shown = matching::shown(attributes, seen_as, object);
    let patched = patch::json(&patch, &shown).map_err(|e| ApiError::internal(e.message))?;
    let patched = matching::restored(attributes, seen_as, patched);
    reshape(patched).map(Some)
}

/// Asks all validating webhooks at the same time.
pub async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut calls = Vec::new();
    for hook in of(api, Stage::Validating, attributes) {
        if let Some(seen_as) = matching::wanted(api, &hook, attributes, object, old)? {
            calls.push(async move {
                let answer = ask(api, &hook, attributes, &seen_as, object, old, false).await?;
                Ok::<_, ApiError>(answer.map(|answer| (hook, answer)))
            });
        }
    }
    let mut failure = None;
    for result in futures_util::future::join_all(calls).await {
        let noted = match result {
            Ok(None) => Ok(None),
            Ok(Some((hook, answer))) => note(&hook, answer, warnings),
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

fn of(api: &Api, stage: Stage, attributes: &Attributes<'_>) -> Vec<Arc<Hook>> {
    match matching::exempt(attributes.resource) {
        true => Vec::new(),
        false => api.hooks.of(api, stage),
    }
}

/// Passes on what a webhook says beside its decision, which may be a patch.
fn note(hook: &Hook, answer: Answer, warnings: &mut Vec<String>) -> Result<Option<Value>> {
    for (key, value) in &answer.annotations {
        let key = format!("{}/{key}", hook.name);
        tracing::debug!(target: "ambit_apiserver::audit", key, value, "annotation of a webhook");
    }
    warnings.extend(answer.warnings);
    match answer.decision {
        Decision::Allowed => Ok(None),
        Decision::Changed(patch) => Ok(Some(patch)),
        Decision::Refused(status) => Err(review::refusal(&hook.name, &status)),
    }
}

/// Asks one webhook. None: it did not answer, and that does not matter.
async fn ask(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen_as: &Arc<Resource>,
    object: Option<&Value>,
    old: Option<&Value>,
    mutating: bool,
) -> Result<Option<Answer>> {
    if attributes.dry_run && hook.dry_run == Some(false) {
        return Err(ApiError::bad_request(format!(
            "admission webhook {:?} does not support dry run",
            hook.name
        )));
    }
    let failure = match exchange(api, hook, attributes, seen_as, object, old, mutating).await {
        Ok(answer) => return Ok(Some(answer)),
        Err(why) => format!("failed calling webhook {:?}: {why}", hook.name),
    };
    if hook.ignore_failure {
        tracing::warn!(
            failure,
            "the request goes on, as the webhook's failurePolicy says"
        );
        return Ok(None);
    }
    Err(ApiError::internal(failure))
}

async fn exchange(
    api: &Api,
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen_as: &Arc<Resource>,
    object: Option<&Value>,
    old: Option<&Value>,
    mutating: bool,
) -> Result<Answer, String> {
    if attributes.dry_run && hook.dry_run.is_none() {
        return Err("Webhook SideEffects is nil".into());
    }
    let Some(version) = hook.version else {
        return Err(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .into(),
        );
    };
    let shown =
        |value: Option<&Value>| value.map(|v| matching::shown(attributes, seen_as, v.clone()));
    let uid = uuid::Uuid::new_v4().to_string();
    let (object, old) = (shown(object), shown(old));
    let asked = review::request(attributes, seen_as, &uid);
    let review = review::review(version, asked, object.as_ref(), old.as_ref());
    let body = call::call(api, hook, &review)
        .await
        .map_err(|why| format!("failed to call webhook: {why}"))?;
    review::read(&body, version, &uid, mutating)
        .map_err(|why| format!("received invalid webhook response: {why}"))
}
