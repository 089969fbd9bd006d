//! The scale subresource: replicas as `autoscaling/v1` Scale.

use super::Context;
use crate::{
    decode,
    http::{self as answer, Body, View},
    object::{self, Object},
    ops::{self, Part, Writer},
    patch::{self, PatchKind},
    registry::{Resource, Schema},
    selectors,
    status::{ApiError, Cause, Result},
    table::{self, JsonPath},
};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// How often a patch is tried again when somebody else writes in between.
const PATCH_ATTEMPTS: usize = 5;

/// Where a kind keeps its replicas, as JSON pointers.
struct Paths {
    spec: String,
    status: String,
    selector: Option<String>,
}

fn paths(resource: &Resource) -> Paths {
    let pointer = |path: &str| format!("/{}", path.trim_start_matches('.').replace('.', "/"));
    if let Schema::Custom(version) = &resource.schema
        && let Some(scale) = &version.scale
    {
        return Paths {
            spec: pointer(&scale.spec),
            status: pointer(&scale.status),
            selector: scale.selector.clone(),
        };
    }
    Paths {
        spec: "/spec/replicas".into(),
        status: "/status/replicas".into(),
        selector: None,
    }
}

/// GET, PUT and PATCH of a scale.
pub async fn serve(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let paths = paths(resource);
    if context.target.verb == "get" {
        let found = ops::get(&context.api, resource, namespace, name)?;
        return shown(context, &scale(&paths, found.value()));
    }
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    let kind = match context.target.verb {
        "patch" => Some(PatchKind::parse(&content_type)?),
        _ => None,
    };
    let body = match kind {
        Some(_) => decode::yaml(&bytes)?.value,
        None => decode::object(&content_type, &bytes)?.value,
    };
    let mut writer = context.writer()?;
    let mut attempts = 0..PATCH_ATTEMPTS;
    let updated = loop {
        let found = ops::get(&context.api, resource, namespace, name)?;
        let now = scale(&paths, found.value());
        let wanted = match kind {
            None => body.clone(),
            Some(PatchKind::Json) => patch::json(&body, &now)?,
            Some(_) => patch::merge(&body, &now),
        };
        replicas(resource, name, &wanted)?;
        let wanted = object::typed(wanted, "autoscaling/v1", "Scale");
        let wanted = context.admit("UPDATE", resource, wanted, Some(&now), &mut writer);
        let wanted = wanted.await?;
        match store(context, resource, &paths, &wanted, &mut writer) {
            // Somebody else changed the object since it was read.
            Err(e)
                if e.code == StatusCode::CONFLICT
                    && kind.is_some()
                    && attempts.next().is_some() => {}
            result => break result?,
        }
    };
    let mut response = shown(context, &scale(&paths, updated.value()))?;
    answer::add_warnings(response.headers_mut(), &writer.warnings);
    Ok(response)
}

/// A scale in the form that was asked for.
fn shown(context: &Context, scale: &Value) -> Result<Response<Body>> {
    let value = match context.view()? {
        View::Table(version) => table::of_scale(scale, version),
        _ => scale.clone(),
    };
    Ok(answer::value(StatusCode::OK, &value))
}

/// Writes the replicas of a scale into its object, if that is as the scale says.
fn store(
    context: &Context,
    resource: &Resource,
    paths: &Paths,
    scale: &Value,
    writer: &mut Writer<'_>,
) -> Result<Arc<Object>> {
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let replicas = replicas(resource, name, scale)?;
    let version = object::text(scale, "/metadata/resourceVersion");
    let change = |current: &Value, _: &mut Writer<'_>| {
        if !version.is_empty() && version != object::text(current, "/metadata/resourceVersion") {
            return Err(ApiError::conflict(&resource.group, &resource.plural, name));
        }
        set(current, paths, replicas)
    };
    ops::update_own(
        &context.api,
        resource,
        namespace,
        name,
        Part::Scale,
        writer,
        change,
    )
}

fn replicas(resource: &Resource, name: &str, scale: &Value) -> Result<i64> {
    let found = scale
        .pointer("/spec/replicas")
        .cloned()
        .unwrap_or_else(|| json!(0));
    match found.as_i64() {
        Some(n) if (0..=i64::from(i32::MAX)).contains(&n) => Ok(n),
        _ => {
            let cause = Cause::invalid(
                "spec.replicas",
                &found,
                "must be greater than or equal to 0",
            );
            Err(ApiError::invalid(
                &resource.group,
                "Scale",
                name,
                vec![cause],
            ))
        }
    }
}

/// The object with another number of replicas.
fn set(current: &Value, paths: &Paths, replicas: i64) -> Result<Value> {
    let mut next = current.clone();
    let mut slot = &mut next;
    let keys: Vec<&str> = paths.spec.split('/').skip(1).collect();
    for key in &keys[..keys.len().saturating_sub(1)] {
        let map = slot
            .as_object_mut()
            .ok_or_else(|| ApiError::internal("the replicas path leads nowhere"))?;
        slot = map.entry(key.to_string()).or_insert_with(|| json!({}));
    }
    if let (Some(map), Some(key)) = (slot.as_object_mut(), keys.last()) {
        map.insert(key.to_string(), replicas.into());
    }
    Ok(next)
}

fn scale(paths: &Paths, value: &Value) -> Value {
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => JsonPath::parse(path)
            .and_then(|p| {
                p.find(value)
                    .first()
                    .and_then(|v| v.as_str().map(str::to_string))
            })
            .unwrap_or_default(),
        None => selectors::to_text(value.pointer("/spec/selector").unwrap_or(&Value::Null)),
    };
    let mut metadata = json!({"name": object::name(value), "namespace": object::namespace(value)});
    for key in ["uid", "resourceVersion", "creationTimestamp"] {
        metadata[key] = value
            .pointer(&format!("/metadata/{key}"))
            .cloned()
            .unwrap_or(Value::Null);
    }
    let mut status = json!({"replicas": number(&paths.status)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
           "spec": {"replicas": number(&paths.spec)}, "status": status})
}
