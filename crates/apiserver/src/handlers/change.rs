//! create, update, patch and delete.

use super::Context;
use crate::{
    apply,
    decode::{self, Decoded},
    events,
    http::{self as answer, Body},
    ops::{self, DeleteOptions, Part, Writer},
    patch::{self, PatchKind},
    registry::{Resource, Schema},
    status::{self, ApiError, Result},
    views,
};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use std::sync::Arc;

/// POST to a collection.
pub async fn create(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    let decoded = decode::object(&content_type, &bytes)?;
    let mut writer = context.writer()?;
    let namespace = context.namespace();
    let created = ops::create(&context.api, resource, namespace, decoded, &mut writer).await?;
    context.object(StatusCode::CREATED, resource, &created, &writer.warnings)
}

/// PUT of an object or a part of it.
pub async fn replace(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
    part: Part,
) -> Result<Response<Body>> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    let decoded = decode::object(&content_type, &bytes)?;
    let mut writer = context.writer()?;
    let proposed = ops::shape(resource, decoded, &mut writer)?;
    ops::update::require_version(resource, &proposed)?;
    let proposed = events::stored(resource, proposed);
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let updated = ops::update(
        &context.api,
        resource,
        namespace,
        name,
        part,
        &mut writer,
        |_, _| Ok(proposed.clone()),
    )
    .await?;
    context.object(StatusCode::OK, resource, &updated, &writer.warnings)
}

/// PATCH of an object or a part of it.
pub async fn patch(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
    part: Part,
) -> Result<Response<Body>> {
    let kind = PatchKind::parse(&answer::content_type(request.headers()))?;
    let bytes = answer::read(request.into_body()).await?;
    if kind == PatchKind::Apply {
        return apply(context, resource, &bytes, part).await;
    }
    let body = decode::json(&bytes)?;
    let mut writer = context.writer()?;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let updated = ops::update(
        &context.api,
        resource,
        namespace,
        name,
        part,
        &mut writer,
        |current, writer| {
            let current = views::present(resource, current);
            let patched = patched(resource, kind, &body.value, &current)?;
            let decoded = Decoded {
                value: patched,
                duplicates: body.duplicates.clone(),
            };
            Ok(events::stored(
                resource,
                ops::shape(resource, decoded, writer)?,
            ))
        },
    )
    .await?;
    context.object(StatusCode::OK, resource, &updated, &writer.warnings)
}

/// Server-side apply: creates the object, or merges what its manager wants into it.
async fn apply(
    context: &Context,
    resource: &Arc<Resource>,
    bytes: &[u8],
    part: Part,
) -> Result<Response<Body>> {
    let mut writer = context.writer()?;
    let force = context.query.flag("force");
    if context.query.get("fieldManager").is_none() {
        return Err(ApiError::unprocessable(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let decoded = decode::yaml(bytes)?;
    if decoded
        .value
        .pointer("/metadata/managedFields")
        .is_some_and(|m| !m.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for key in ["apiVersion", "kind"] {
        if crate::object::text(&decoded.value, &format!("/{key}")).is_empty() {
            return Err(ApiError::bad_request(format!(
                "invalid object type: {key} must be set in an apply patch"
            )));
        }
    }
    let config = ops::shape(resource, decoded, &mut writer)?;
    let mut config = events::stored(resource, config);
    limit_to(resource, part, &mut config);
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    if crate::object::name(&config).is_empty() {
        crate::object::set_metadata(&mut config, "name", Some(name.into()));
    }
    loop {
        let missing = ops::get(&context.api, resource, namespace, name).is_err();
        if !missing {
            let manager = writer.manager.clone();
            writer.applying = true;
            let subresource = part.subresource();
            let updated = ops::update(
                &context.api,
                resource,
                namespace,
                name,
                part,
                &mut writer,
                |live, _| apply::merge(resource, live, &config, &manager, subresource, force),
            )
            .await?;
            return context.object(StatusCode::OK, resource, &updated, &writer.warnings);
        }
        let of_no_object = part != Part::Object || !crate::object::uid(&config).is_empty();
        if of_no_object || crate::object::name(&config) != name {
            return Err(ApiError::not_found(&resource.group, &resource.plural, name));
        }
        writer.applying = true;
        let config = config.clone();
        match ops::create_shaped(&context.api, resource, namespace, config, &mut writer).await {
            Ok(created) => {
                return context.object(StatusCode::CREATED, resource, &created, &writer.warnings);
            }
            // Someone else was faster: merge into what they made.
            Err(error) if &*error.reason == "AlreadyExists" => continue,
            Err(error) => return Err(error),
        }
    }
}

/// Leaves in an apply only what its path can change.
fn limit_to(resource: &Resource, part: Part, config: &mut Value) {
    let Some(map) = config.as_object_mut() else {
        return;
    };
    match part {
        Part::Status => map
            .retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ if resource.has_subresource("status") => {
            map.shift_remove("status");
        }
        _ => {}
    }
}

fn patched(resource: &Resource, kind: PatchKind, body: &Value, current: &Value) -> Result<Value> {
    match (kind, &resource.schema) {
        (PatchKind::Json, _) => patch::json(body, current),
        (PatchKind::Strategic, Schema::Builtin(name)) => patch::strategic(name, body, current),
        (PatchKind::Strategic, Schema::Custom(_)) => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
        _ if !body.is_object() => Err(ApiError::bad_request("a merge patch must be an object")),
        _ => Ok(patch::merge(body, current)),
    }
}

/// The options of a deletion: body first, then query.
async fn delete_options(
    context: &Context,
    request: Request<Incoming>,
) -> Result<(DeleteOptions, bool)> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    let body = match bytes.is_empty() {
        true => Value::Null,
        false => decode::object(&content_type, &bytes)?.value,
    };
    let mut options = DeleteOptions::parse(&body)?;
    let query = &context.query;
    if let Some(grace) = query.get("gracePeriodSeconds").and_then(|g| g.parse().ok()) {
        options.grace_period_seconds.get_or_insert(grace);
    }
    if let Some(policy) = query.get("propagationPolicy") {
        options.propagation.get_or_insert(policy.to_string());
    }
    let dry_run = body.pointer("/dryRun/0").and_then(Value::as_str) == Some("All");
    Ok((options, dry_run))
}

/// DELETE of one object.
pub async fn delete(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (options, dry_run) = delete_options(context, request).await?;
    let mut writer = context.writer()?;
    writer.dry_run |= dry_run;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let (object, gone) = ops::delete(
        &context.api,
        resource,
        namespace,
        name,
        &options,
        &mut writer,
    )
    .await?;
    // What is deleted but not gone is shown; so is a pod, whose clients look at it.
    if !gone || resource.is("", "Pod") {
        return context.object(StatusCode::OK, resource, &object, &writer.warnings);
    }
    let uid = crate::object::uid(object.value());
    let mut response = answer::value(
        StatusCode::OK,
        &status::success(&resource.group, &resource.plural, name, uid),
    );
    answer::add_warnings(response.headers_mut(), &writer.warnings);
    Ok(response)
}

/// DELETE of everything that a selector matches.
pub async fn delete_collection(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let scope = super::read::scope(context, resource)?;
    let (options, dry_run) = delete_options(context, request).await?;
    let mut writer: Writer<'_> = context.writer()?;
    writer.dry_run |= dry_run;
    let (revision, objects) = context
        .api
        .store
        .list(&resource.storage, scope.namespace.as_deref());
    let mut deleted = Vec::new();
    for object in objects.iter().filter(|o| scope.contains(o.value())) {
        let value = object.value();
        let (namespace, name) = (crate::object::namespace(value), crate::object::name(value));
        match ops::delete(
            &context.api,
            resource,
            namespace,
            name,
            &options,
            &mut writer,
        )
        .await
        {
            Ok((object, _)) => deleted.push(object),
            Err(error) if error.code == StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    let metadata = serde_json::json!({"resourceVersion": revision.to_string()});
    let bytes = views::list(resource, &deleted, &metadata, context.view()?, None);
    Ok(answer::json(StatusCode::OK, bytes))
}
