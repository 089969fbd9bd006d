//! Tokens of service accounts, made on request.

use super::{
    Context,
    subresources::{body, builtin},
};
use crate::{
    authn::tokens::{Grant, Reference},
    http::{self as answer, Body},
    object, ops,
    registry::Resource,
    status::{ApiError, Cause, Result},
    store::Key,
};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest and shortest life of a token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

/// POST serviceaccounts/x/token.
pub async fn create(
    context: &Context,
    accounts: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let body = body(request).await?;
    let api = &context.api;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let account = ops::get(api, accounts, namespace, name)?;
    let mut body = match body.is_object() {
        true => body,
        false => json!({}),
    };
    check_identity(&body, namespace, name)?;
    for (key, value) in [("name", name), ("namespace", namespace)] {
        object::set_metadata(&mut body, key, Some(value.into()));
    }
    let body = object::typed(body, "authentication.k8s.io/v1", "TokenRequest");
    let mut writer = context.writer()?;
    let admitted = context.admit("CREATE", accounts, body, None, &mut writer);
    let mut body = admitted.await?;
    let mut grant = Grant {
        namespace: namespace.to_string(),
        account: reference(account.value()),
        seconds: token_seconds(&body)?,
        audiences: body
            .pointer("/spec/audiences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_string))
            .collect(),
        ..Grant::default()
    };
    bind_token(context, &body, &mut grant)?;
    let (token, end) = api
        .tokens
        .issue(&grant)
        .map_err(|e| ApiError::internal(e.to_string()))?;
    let end = jiff::Timestamp::from_second(end).map_err(|e| ApiError::internal(e.to_string()))?;
    let audiences = match grant.audiences.is_empty() {
        true => vec![api.settings.issuer.clone()],
        false => grant.audiences,
    };
    if let Some(spec) = object::child(&mut body, "spec") {
        spec.insert("audiences".into(), json!(audiences));
        spec.insert("expirationSeconds".into(), grant.seconds.into());
        spec.entry("boundObjectRef").or_insert(Value::Null);
    }
    if let Some(map) = body.as_object_mut() {
        map.insert(
            "metadata".into(),
            json!({"name": name, "namespace": namespace, "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": object::now()}),
        );
        let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        map.insert(
            "status".into(),
            json!({"token": token, "expirationTimestamp": end}),
        );
    }
    let mut response = answer::value(StatusCode::CREATED, &body);
    answer::add_warnings(response.headers_mut(), &writer.warnings);
    Ok(response)
}

/// A request may say which account it is for, but not another one than its path.
fn check_identity(body: &Value, namespace: &str, name: &str) -> Result<()> {
    let differs = |own: &str, is: &str| !own.is_empty() && own != is;
    if differs(object::namespace(body), namespace) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let own = object::name(body);
    if differs(own, name) {
        let why = "must match the service account name if specified";
        let cause = Cause::invalid("metadata.name", &own.into(), why);
        let (group, kind) = ("authentication.k8s.io", "TokenRequest");
        return Err(ApiError::invalid(group, kind, name, vec![cause]));
    }
    Ok(())
}

fn token_seconds(body: &Value) -> Result<i64> {
    let wanted = body
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(3600);
    if TOKEN_SECONDS.contains(&wanted) {
        return Ok(wanted);
    }
    let why = match wanted < 600 {
        true => "may not specify a duration less than 10 minutes",
        false => "may not specify a duration larger than 2^32 seconds",
    };
    let cause = Cause::invalid("spec.expirationSeconds", &wanted.into(), why);
    Err(ApiError::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        vec![cause],
    ))
}

/// Binds a token to the object that the request names.
fn bind_token(context: &Context, body: &Value, grant: &mut Grant) -> Result<()> {
    let wanted = body
        .pointer("/spec/boundObjectRef")
        .filter(|r| !r.is_null());
    if let Some(node) = context.user.node() {
        of_own_pod(context, node, wanted)?;
    }
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let text = |key: &str| object::text(wanted, &format!("/{key}"));
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (group, version) = match text("apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text("apiVersion")),
    };
    let resource = match (group, kind) {
        ("", "Pod" | "Secret" | "Node") => builtin(&context.api.registry, kind)?,
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let found = ops::get(&context.api, &resource, &grant.namespace, name)?;
    let found = found.value();
    if kind == "Pod" && object::text(found, "/spec/serviceAccountName") != grant.account.name {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            grant.account.name
        )));
    }
    if !uid.is_empty() && uid != object::uid(found) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict_because(group, kind, name, &why));
    }
    let reference = Some(reference(found));
    match kind {
        "Node" => grant.node = reference,
        "Secret" => grant.secret = reference,
        _ => {
            grant.pod = reference;
            grant.node = node_of(context, found);
        }
    }
    Ok(())
}

fn reference(value: &Value) -> Reference {
    Reference {
        name: object::name(value).to_string(),
        uid: object::uid(value).to_string(),
    }
}

/// The node that a pod is on; without its uid if it does not exist any more.
fn node_of(context: &Context, pod: &Value) -> Option<Reference> {
    let name = object::text(pod, "/spec/nodeName");
    if name.is_empty() {
        return None;
    }
    let node = context.api.store.get(&Key::new(&"nodes".into(), "", name));
    Some(node.map_or_else(
        || Reference {
            name: name.into(),
            uid: String::new(),
        },
        |node| reference(node.value()),
    ))
}

/// A node gets tokens only for pods that run on it, and they must be bound to them.
fn of_own_pod(context: &Context, node: &str, wanted: Option<&Value>) -> Result<()> {
    let refuse = |why| {
        let account = &context.target.name;
        Err(ApiError::forbidden("", "serviceaccounts", account, why))
    };
    let text = |key: &str| wanted.map_or("", |w| object::text(w, key));
    if text("/apiVersion") != "v1" || text("/kind") != "Pod" || text("/name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if text("/uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pods = builtin(&context.api.registry, "Pod")?;
    let pod = ops::get(&context.api, &pods, context.namespace(), text("/name"))?;
    if object::text(pod.value(), "/spec/nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}
