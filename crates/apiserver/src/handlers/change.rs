//! create, update, patch and delete.

use super::Context;
use crate::{
    apply,
    decode::{self, Decoded},
    events,
    http::{self as answer, Body},
    list_options::number,
    ops::{self, DeleteOptions, Part, Writer},
    patch::{self, PatchKind},
    registry::{Resource, Schema},
    status::{self, ApiError, Cause, Result},
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
    let name = context.target.name.as_str();
    if crate::object::name(&proposed).is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    let version = crate::object::text(&proposed, "/metadata/resourceVersion");
    if !version.is_empty() && version.parse::<u64>().is_err() {
        let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
        return Err(ApiError::odd(why));
    }
    ops::update::require_version(resource, &proposed)?;
    let proposed = events::stored(resource, proposed);
    let updated = ops::update(
        &context.api,
        resource,
        context.namespace(),
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
    if context.query.flag("force") {
        let why = "may not be specified for non-apply patch";
        let cause = Cause::forbidden("force", why);
        return Err(ApiError::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![cause],
        ));
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
            let next = ops::shape_patched(resource, &body.value, decoded, writer)?;
            same_uid(resource, &current, &next)?;
            Ok(events::stored(resource, next))
        },
    )
    .await?;
    context.object(StatusCode::OK, resource, &updated, &writer.warnings)
}

/// A patch cannot give an object another identity.
fn same_uid(resource: &Resource, current: &Value, next: &Value) -> Result<()> {
    let uid = crate::object::uid(next);
    if uid.is_empty() || uid == crate::object::uid(current) {
        return Ok(());
    }
    // Kubernetes checks, and says, it twice.
    let cause = Cause::invalid("metadata.uid", &uid.into(), "field is immutable");
    let (group, kind, name) = (
        &resource.group,
        &resource.kind,
        crate::object::name(current),
    );
    let causes = vec![cause.clone(), cause];
    Err(ApiError::invalid(group, kind, name, causes))
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
    let config = ops::shape_applied(resource, decoded, &mut writer)?;
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
    let kind = crate::object::text(&body, "/kind");
    if !matches!(kind, "" | "DeleteOptions") {
        let version = crate::object::text(&body, "/apiVersion");
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        )));
    }
    let mut options = DeleteOptions::parse(&body)?;
    let query = &context.query;
    if let Some(grace) = number(query, "gracePeriodSeconds")? {
        options.grace_period_seconds.get_or_insert(grace);
    }
    if let Some(policy) = query.get("propagationPolicy") {
        DeleteOptions::check_propagation(policy)?;
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
    // What is deleted but not gone is shown; of some kinds, what is gone, too.
    if !gone || shows_deleted(resource) {
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

/// Kinds whose deletion answers with the object, as in Kubernetes.
fn shows_deleted(resource: &Resource) -> bool {
    let kinds = [
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ResourceQuota",
        "Service",
        "ServiceAccount",
    ];
    resource.group.is_empty() && kinds.contains(&resource.kind.as_ref())
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
