//! Requests to subresources: parts of objects, actions on them, and what kubelets serve.

use super::{Context, binding, change, eviction, read, scale, streams, token};
use crate::{
    decode,
    http::{self as answer, Body},
    ops::{Part, Writer},
    registry::{Registry, Resource},
    status::{ApiError, Result},
};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// A request to a subresource.
pub async fn subresource(
    context: Context,
    resource: Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let name = context.target.subresource.as_str();
    let Some(known) = resource.subresources.iter().find(|s| s.name == name) else {
        return Err(ApiError::unknown_path());
    };
    let verb = match context.target.verb {
        "list" | "watch" => "get",
        verb => verb,
    };
    if !known.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed());
    }
    match name {
        "scale" => scale::serve(&context, &resource, request).await,
        "token" => token::create(&context, &resource, request).await,
        "eviction" => eviction::evict(&context, &resource, request).await,
        "binding" => {
            let body = body(request).await?;
            binding::bind(&context, &resource, &context.target.name, body).await
        }
        "log" | "exec" | "attach" | "portforward" => {
            streams::kubelet(&context, &resource, request).await
        }
        "proxy" => streams::proxy(&context, &resource, request).await,
        _ => part(&context, &resource, request).await,
    }
}

async fn part(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let part = match context.target.subresource.as_str() {
        "finalize" => Part::Finalize,
        "ephemeralcontainers" => Part::EphemeralContainers,
        _ => Part::Status,
    };
    match context.target.verb {
        "update" => change::replace(context, resource, request, part).await,
        "patch" => change::patch(context, resource, request, part).await,
        _ => read::get(context, resource),
    }
}

/// The body of a request; null if it has none.
pub async fn body(request: Request<Incoming>) -> Result<Value> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    Ok(decode::object(&content_type, &bytes)?.value)
}

/// A resource of the core group that is always served.
pub fn builtin(registry: &Registry, kind: &str) -> Result<Arc<Resource>> {
    registry
        .find_kind("", "v1", kind)
        .ok_or_else(|| ApiError::internal(format!("{kind} is not served")))
}

/// The answer to an action that worked.
pub fn done(writer: &Writer<'_>) -> Response<Body> {
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": 201});
    let mut response = answer::value(StatusCode::CREATED, &value);
    answer::add_warnings(response.headers_mut(), &writer.warnings);
    response
}
