//! Kinds that are asked and answered: reviews of tokens and of access, bindings.

use super::Context;
use crate::{
    authn::{User, tokens},
    decode,
    http::{self as answer, Body},
    object, ops, rbac,
    registry::Resource,
    request::Target,
    status::{ApiError, Cause, Result},
};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// POST of a review.
pub async fn create(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    let decoded = decode::object(&content_type, &bytes)?;
    let mut writer = context.writer()?;
    let value = ops::shape(resource, decoded, &mut writer)?;
    if resource.kind.as_ref() == "Binding" {
        let pod = object::name(&value).to_string();
        return super::binding::bind(context, resource, &pod, value).await;
    }
    let admitted = context.admit("CREATE", resource, value, None, &mut writer);
    let mut value = admitted.await?;
    let api = &context.api;
    let status = match resource.kind.as_ref() {
        "TokenReview" => token_review(context, &value)?,
        "SelfSubjectReview" => {
            object::set_metadata(&mut value, "creationTimestamp", Some(object::now().into()));
            json!({"userInfo": context.user.to_value()})
        }
        "SelfSubjectRulesReview" => {
            rbac::rules_of(api, &context.user, object::text(&value, "/spec/namespace"))
        }
        "SelfSubjectAccessReview" => {
            check(&value, &[])?;
            access(context, &context.user, &value)
        }
        "SubjectAccessReview" => {
            check(&value, &[nobody, named])?;
            access(context, &reviewed(&value), &value)
        }
        "LocalSubjectAccessReview" => {
            check(&value, &[nobody, elsewhere])?;
            if object::namespace(&value) != context.namespace() {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            access(context, &reviewed(&value), &value)
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    if let Some(map) = value.as_object_mut() {
        map.entry("metadata")
            .or_insert_with(|| json!({"creationTimestamp": null}));
        map.insert("status".into(), status);
    }
    let mut response = answer::value(StatusCode::CREATED, &value);
    answer::add_warnings(response.headers_mut(), &writer.warnings);
    Ok(response)
}

/// What may be wrong with a review.
type Rule = fn(&Value) -> Option<Cause>;

/// Checks a review of access by these rules, and that it asks for one thing.
fn check(value: &Value, rules: &[Rule]) -> Result<()> {
    let all = rules.iter().chain(&[what as Rule]);
    let causes: Vec<Cause> = all.filter_map(|rule| rule(value)).collect();
    match causes.is_empty() {
        true => Ok(()),
        // The real server leaves out the kind.
        false => Err(ApiError::invalid("authorization.k8s.io", "", "", causes)),
    }
}

fn what(value: &Value) -> Option<Cause> {
    let has = |key: &str| value.pointer(key).is_some_and(|v| !v.is_null());
    let (resource, path) = (
        has("/spec/resourceAttributes"),
        has("/spec/nonResourceAttributes"),
    );
    match (resource, path) {
        (true, true) => Some(Cause::invalid(
            "spec.nonResourceAttributes",
            &value["spec"]["nonResourceAttributes"],
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => Some(Cause::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => None,
    }
}

fn nobody(value: &Value) -> Option<Cause> {
    let groups = value.pointer("/spec/groups").and_then(Value::as_array);
    let nobody = object::text(value, "/spec/user").is_empty() && groups.is_none_or(Vec::is_empty);
    nobody.then(|| {
        let why = "at least one of user or group must be specified";
        Cause::invalid("spec.user", &"".into(), why)
    })
}

/// A review of the whole cluster has no name and no place.
fn named(value: &Value) -> Option<Cause> {
    let metadata = value.get("metadata")?;
    let set = ["name", "namespace", "labels", "annotations"];
    let set = set.iter().any(|key| metadata.get(key).is_some());
    set.then(|| Cause::invalid("metadata", metadata, "must be empty"))
}

/// A review of a namespace is about that namespace.
fn elsewhere(value: &Value) -> Option<Cause> {
    let asked = value.pointer("/spec/resourceAttributes/namespace")?;
    (asked.as_str() != Some(object::namespace(value))).then(|| {
        let field = "spec.resourceAttributes.namespace";
        Cause::invalid(field, asked, "must match metadata.namespace")
    })
}

fn token_review(context: &Context, value: &Value) -> Result<Value> {
    if object::text(value, "/spec/token").is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let wanted: Vec<String> = value
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_string))
        .collect();
    let audiences = match wanted.is_empty() {
        true => vec![context.api.settings.issuer.clone()],
        false => wanted,
    };
    let verified = tokens::verify(&context.api, object::text(value, "/spec/token"), &audiences);
    Ok(match verified {
        Ok(verified) => json!({
            "authenticated": true,
            "user": verified.user.to_value(),
            "audiences": verified.audiences,
        }),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}

/// The user that a review is about.
fn reviewed(value: &Value) -> User {
    let groups = value
        .pointer("/spec/groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|g| g.as_str().map(str::to_string))
        .collect();
    User {
        name: object::text(value, "/spec/user").to_string(),
        groups,
        ..User::default()
    }
}

fn access(context: &Context, user: &User, value: &Value) -> Value {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let target = match spec.get("nonResourceAttributes") {
        None | Some(Value::Null) => resource_target(&spec["resourceAttributes"]),
        Some(path) => Target {
            verb: object::text(path, "/verb"),
            path: object::text(path, "/path").to_string(),
            ..Target::default()
        },
    };
    let decision = rbac::decide(&context.api, user, &target);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    status
}

fn resource_target(attributes: &Value) -> Target<'_> {
    let text = |key: &str| object::text(attributes, &format!("/{key}")).to_string();
    Target {
        verb: object::text(attributes, "/verb"),
        is_resource: true,
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        ..Target::default()
    }
}
