//! Kinds that are asked and answered: reviews of tokens and of access, bindings.

use super::Context;
use crate::{
    authn::{User, tokens},
    decode,
    http::{self as answer, Body},
    object, ops, rbac,
    registry::Resource,
    request::Target,
    status::{ApiError, Result},
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
        return super::pods::bind(context, resource, &pod, value).await;
    }
    let admitted = context.admit("CREATE", resource, value, None, &mut writer);
    let mut value = admitted.await?;
    let api = &context.api;
    let status = match resource.kind.as_ref() {
        "TokenReview" => token_review(context, &value),
        "SelfSubjectReview" => json!({"userInfo": context.user.to_value()}),
        "SelfSubjectRulesReview" => {
            rbac::rules_of(api, &context.user, object::text(&value, "/spec/namespace"))
        }
        "SelfSubjectAccessReview" => access(context, &context.user, &value)?,
        "SubjectAccessReview" => access(context, &reviewed(&value)?, &value)?,
        "LocalSubjectAccessReview" => {
            let namespace = object::text(&value, "/spec/resourceAttributes/namespace");
            if namespace != context.namespace() {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match metadata.namespace: {:?}",
                    context.namespace()
                )));
            }
            access(context, &reviewed(&value)?, &value)?
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

fn token_review(context: &Context, value: &Value) -> Value {
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
    match tokens::verify(&context.api, object::text(value, "/spec/token"), &audiences) {
        Ok(verified) => json!({
            "authenticated": true,
            "user": verified.user.to_value(),
            "audiences": verified.audiences,
        }),
        Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
    }
}

/// The user that a review is about.
fn reviewed(value: &Value) -> Result<User> {
    let name = object::text(value, "/spec/user").to_string();
    let groups: Vec<String> = value
        .pointer("/spec/groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|g| g.as_str().map(str::to_string))
        .collect();
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::unprocessable(
            "SubjectAccessReview is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(User {
        name,
        groups,
        ..User::default()
    })
}

fn access(context: &Context, user: &User, value: &Value) -> Result<Value> {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let (resource, path) = (
        spec.get("resourceAttributes"),
        spec.get("nonResourceAttributes"),
    );
    let target = match (resource, path) {
        (Some(resource), None) => resource_target(resource),
        (None, Some(path)) => Target {
            verb: object::text(path, "/verb"),
            path: object::text(path, "/path").to_string(),
            ..Target::default()
        },
        _ => {
            return Err(ApiError::unprocessable(
                "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let decision = rbac::decide(&context.api, user, &target);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
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
