//! Subresources: parts of objects, actions on them, and streams that kubelets serve.

use super::{Context, change, eviction, read, scale};
use crate::{
    authn::tokens::{Grant, Reference},
    decode,
    http::{self as answer, Body, BoxError},
    object,
    ops::{self, Part},
    registry::{Registry, Resource},
    status::{ApiError, Cause, Result},
    store::Key,
};
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Longest and shortest life of a token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

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
        "token" => token(&context, request).await,
        "eviction" => eviction::evict(&context, &resource, request).await,
        "binding" => {
            let body = body(request).await?;
            bind(&context, &context.target.name, &body)
        }
        "log" | "exec" | "attach" | "portforward" => kubelet(&context, request).await,
        "proxy" => proxy(&context, &resource, request).await,
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

pub(super) async fn body(request: Request<Incoming>) -> Result<Value> {
    let content_type = answer::content_type(request.headers());
    let bytes = answer::read(request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    Ok(decode::object(&content_type, &bytes)?.value)
}

pub(super) fn builtin(registry: &Registry, kind: &str) -> Result<Arc<Resource>> {
    registry
        .find_kind("", "v1", kind)
        .ok_or_else(|| ApiError::internal(format!("{kind} is not served")))
}

/// POST serviceaccounts/x/token.
async fn token(context: &Context, request: Request<Incoming>) -> Result<Response<Body>> {
    let mut body = body(request).await?;
    let api = &context.api;
    let accounts = builtin(&api.registry, "ServiceAccount")?;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let account = ops::get(api, &accounts, namespace, name)?;
    let reference = |value: &Value| Reference {
        name: object::name(value).to_string(),
        uid: object::uid(value).to_string(),
    };
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
    if !body.is_object() {
        body = json!({});
    }
    let audiences = match grant.audiences.is_empty() {
        true => vec![api.settings.issuer.clone()],
        false => grant.audiences,
    };
    if let Some(spec) = object::child(&mut body, "spec") {
        spec.insert("audiences".into(), json!(audiences));
        spec.insert("expirationSeconds".into(), grant.seconds.into());
        spec.entry("boundObjectRef").or_insert(Value::Null);
    }
    let mut body = object::typed(body, "authentication.k8s.io/v1", "TokenRequest");
    if let Some(map) = body.as_object_mut() {
        map.insert(
            "metadata".into(),
            json!({"name": name, "namespace": namespace, "creationTimestamp": object::now()}),
        );
        let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        map.insert(
            "status".into(),
            json!({"token": token, "expirationTimestamp": end}),
        );
    }
    Ok(answer::value(StatusCode::CREATED, &body))
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

/// Binds a token to the pod or secret that the request names. A node gets tokens only for pods
/// that run on it, and they must be bound to them.
fn bind_token(context: &Context, body: &Value, grant: &mut Grant) -> Result<()> {
    let wanted = body
        .pointer("/spec/boundObjectRef")
        .filter(|r| !r.is_null());
    let refuse = |why: &str| ApiError::forbidden("", "serviceaccounts", &context.target.name, why);
    let Some(wanted) = wanted else {
        return match context.user.node() {
            Some(_) => Err(refuse("node requested token not bound to a pod")),
            None => Ok(()),
        };
    };
    let (kind, name) = (object::text(wanted, "/kind"), object::text(wanted, "/name"));
    let resource = match kind {
        "Pod" | "Secret" => builtin(&context.api.registry, kind)?,
        _ => {
            let why = "cannot bind token to object of this kind";
            let cause = Cause::invalid("spec.boundObjectRef", wanted, why);
            return Err(ApiError::invalid(
                "authentication.k8s.io",
                "TokenRequest",
                "",
                vec![cause],
            ));
        }
    };
    let found = ops::get(&context.api, &resource, &grant.namespace, name)?;
    let (found, uid) = (found.value(), object::text(wanted, "/uid"));
    if !uid.is_empty() && uid != object::uid(found) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict_because("", &resource.plural, name, &why));
    }
    let reference = Reference {
        name: name.into(),
        uid: object::uid(found).into(),
    };
    if kind == "Secret" {
        grant.secret = Some(reference);
        return Ok(());
    }
    let node = object::text(found, "/spec/nodeName");
    if context.user.node().is_some_and(|n| n != node) {
        return Err(refuse(
            "node requested token bound to a pod scheduled on a different node",
        ));
    }
    if object::text(found, "/spec/serviceAccountName") != grant.account.name {
        let why = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name",
            grant.account.name
        );
        return Err(ApiError::forbidden("", "pods", name, &why));
    }
    grant.pod = Some(reference);
    if !node.is_empty() {
        let node_object = context.api.store.get(&Key::new(&"nodes".into(), "", node));
        let uid = node_object
            .map(|n| object::uid(n.value()).to_string())
            .unwrap_or_default();
        grant.node = Some(Reference {
            name: node.into(),
            uid,
        });
    }
    Ok(())
}

/// POST pods/x/binding: puts a pod on a node.
pub fn bind(context: &Context, pod: &str, body: &Value) -> Result<Response<Body>> {
    let pods = builtin(&context.api.registry, "Pod")?;
    let node = object::text(body, "/target/name").to_string();
    if node.is_empty() {
        return Err(ApiError::invalid(
            "",
            "Binding",
            pod,
            vec![Cause::required("target.name", "")],
        ));
    }
    let mut writer = context.writer()?;
    ops::update(
        &context.api,
        &pods,
        context.namespace(),
        pod,
        Part::All,
        &mut writer,
        |current, _| {
            let conflict = |why: &str| ApiError::conflict_because("", "pods/binding", pod, why);
            if object::terminating(current) {
                return Err(conflict(&format!(
                    "pod {pod} is being deleted, cannot be assigned to a host"
                )));
            }
            let there = object::text(current, "/spec/nodeName");
            if !there.is_empty() {
                return Err(conflict(&format!(
                    "pod {pod} is already assigned to node {there:?}"
                )));
            }
            let uid = object::uid(body);
            if !uid.is_empty() && uid != object::uid(current) {
                return Err(conflict("the pod has another uid than the binding"));
            }
            let mut next = current.clone();
            if let Some(spec) = object::child(&mut next, "spec") {
                spec.insert("nodeName".into(), node.clone().into());
            }
            scheduled(&mut next);
            Ok(next)
        },
    )?;
    let mut value =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    value["code"] = 201.into();
    Ok(answer::value(StatusCode::CREATED, &value))
}

/// The condition `PodScheduled` becomes true.
fn scheduled(pod: &mut Value) {
    let Some(status) = object::child(pod, "status") else {
        return;
    };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    list.retain(|c| object::text(c, "/type") != "PodScheduled");
    list.push(
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": object::now()}),
    );
}

/// The container that a request means: the one it names, else the annotated or the only one.
fn container(context: &Context, pod: &Value) -> Result<String> {
    let names: Vec<&str> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|key| {
            pod.pointer(&format!("/spec/{key}"))
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        })
        .map(|c| object::text(c, "/name"))
        .collect();
    let pod_name = object::name(pod);
    if let Some(wanted) = context.query.get("container") {
        return match names.contains(&wanted) {
            true => Ok(wanted.to_string()),
            false => Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {pod_name}"
            ))),
        };
    }
    let plain = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let annotations = pod.pointer("/metadata/annotations");
    let default = annotations
        .and_then(|a| a.get("kubectl.kubernetes.io/default-container"))
        .and_then(Value::as_str);
    match (default, plain) {
        (Some(name), _) if names.contains(&name) => Ok(name.to_string()),
        (_, 1) => Ok(names.first().map(|n| n.to_string()).unwrap_or_default()),
        _ => {
            let choices: Vec<&str> = names.iter().take(plain).copied().collect();
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                choices.join(" ")
            )))
        }
    }
}

/// log, exec, attach and portforward go to the kubelet of the pod's node.
async fn kubelet(context: &Context, request: Request<Incoming>) -> Result<Response<Body>> {
    let pods = builtin(&context.api.registry, "Pod")?;
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let pod = ops::get(&context.api, &pods, namespace, name)?;
    let pod = pod.value();
    let node = object::text(pod, "/spec/nodeName");
    if node.is_empty() {
        let why = format!("pod {name} does not have a host assigned");
        return match context.target.subresource.as_str() {
            "log" => Ok(answer::with_type(StatusCode::OK, "text/plain", "")),
            _ => Err(ApiError::bad_request(why)),
        };
    }
    let (path, query) = kubelet_path(context, pod)?;
    let address = kubelet_address(context, node)?;
    let uri = match query.is_empty() {
        true => path,
        false => format!("{path}?{query}"),
    };
    let request = forwarded(request, &uri, &address.to_string())?;
    let response = context.api.kubelets.forward(node, address, request).await?;
    if response.status().is_client_error() || response.status().is_server_error() {
        return Err(kubelet_error(context, response).await);
    }
    Ok(response)
}

/// The kubelet's path and query for a request.
fn kubelet_path(context: &Context, pod: &Value) -> Result<(String, String)> {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let subresource = context.target.subresource.as_str();
    if subresource == "portforward" {
        for ports in context.query.all("ports") {
            query.append_pair("ports", ports);
        }
        return Ok((format!("/portForward/{namespace}/{name}"), query.finish()));
    }
    let container = container(context, pod)?;
    if subresource == "log" {
        for key in [
            "follow",
            "previous",
            "timestamps",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ] {
            if let Some(value) = context.query.get(key) {
                query.append_pair(key, value);
            }
        }
        return Ok((
            format!("/containerLogs/{namespace}/{name}/{container}"),
            query.finish(),
        ));
    }
    for (ours, theirs) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if context.query.flag(ours) {
            query.append_pair(theirs, "1");
        }
    }
    for word in context.query.all("command") {
        query.append_pair("command", word);
    }
    Ok((
        format!("/{subresource}/{namespace}/{name}/{container}"),
        query.finish(),
    ))
}

fn kubelet_address(context: &Context, node: &str) -> Result<SocketAddr> {
    let nodes = builtin(&context.api.registry, "Node")?;
    let object = ops::get(&context.api, &nodes, "", node)?;
    let addresses = object
        .value()
        .pointer("/status/addresses")
        .and_then(Value::as_array);
    let ip = addresses
        .into_iter()
        .flatten()
        .find(|a| object::text(a, "/type") == "InternalIP")
        .and_then(|a| object::text(a, "/address").parse::<IpAddr>().ok());
    let port = object
        .value()
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64);
    match (ip, port.and_then(|p| u16::try_from(p).ok())) {
        (Some(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(ApiError::bad_gateway(format!(
            "node {node:?} has no InternalIP or kubelet port in its status: its kubelet is not running yet"
        ))),
    }
}

/// A client's request with another target; credentials stay here.
fn forwarded(request: Request<Incoming>, uri: &str, host: &str) -> Result<Request<Body>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = uri
        .parse::<Uri>()
        .map_err(|e| ApiError::bad_request(format!("bad path: {e}")))?;
    parts.version = ::http::Version::HTTP_11;
    parts.headers.remove(header::AUTHORIZATION);
    parts.headers.remove(header::COOKIE);
    let impersonation: Vec<_> = parts
        .headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for key in impersonation {
        parts.headers.remove(key);
    }
    let host = HeaderValue::from_str(host).map_err(|e| ApiError::internal(e.to_string()))?;
    parts.headers.insert(header::HOST, host);
    let body = body.map_err(|e| Box::new(e) as BoxError).boxed_unsync();
    Ok(Request::from_parts(parts, body))
}

/// What a kubelet says in plain text, as `Status`.
async fn kubelet_error(context: &Context, response: Response<Body>) -> ApiError {
    let code = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim().to_string();
    let text = match serde_json::from_str::<Value>(&text) {
        Ok(status) => object::text(&status, "/message").to_string(),
        Err(_) => text,
    };
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND if text.is_empty() => {
            ApiError::not_found("", "pods", &context.target.name)
        }
        StatusCode::NOT_FOUND => ApiError {
            message: text,
            ..ApiError::not_found("", "pods", &context.target.name)
        },
        _ => ApiError {
            code,
            ..ApiError::internal(text)
        },
    }
}

/// `proxy`: plain HTTP to a pod, or to an endpoint of a service.
async fn proxy(
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (scheme, name, port) = split_proxy_name(&context.target.name);
    if scheme == "https" {
        return Err(ApiError::bad_request(
            "proxying to HTTPS backends is not supported here",
        ));
    }
    let address = match resource.kind.as_ref() {
        "Pod" => pod_address(context, name, port)?,
        "Service" => service_address(context, name, port)?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    let query = request
        .uri()
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    // The path as it was sent: escapes in it belong to the backend.
    let path = request.uri().path();
    let rest = path.split_once("/proxy/").map_or("", |(_, rest)| rest);
    let uri = format!("/{rest}{query}");
    let request = forwarded(request, &uri, &address.to_string())?;
    context.api.kubelets.forward_plain(address, request).await
}

/// `[scheme:]name[:port]`.
fn split_proxy_name(text: &str) -> (&str, &str, &str) {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", text, ""),
    }
}

fn pod_address(context: &Context, name: &str, port: &str) -> Result<SocketAddr> {
    let pods = builtin(&context.api.registry, "Pod")?;
    let pod = ops::get(&context.api, &pods, context.namespace(), name)?;
    let ip: IpAddr = object::text(pod.value(), "/status/podIP")
        .parse()
        .map_err(|_| ApiError::unavailable(format!("pod {name:?} has no address yet")))?;
    let first = pod
        .value()
        .pointer("/spec/containers/0/ports/0/containerPort")
        .and_then(Value::as_u64);
    let port = port
        .parse::<u16>()
        .ok()
        .or(first.and_then(|p| u16::try_from(p).ok()))
        .unwrap_or(80);
    Ok(SocketAddr::new(ip, port))
}

fn service_address(context: &Context, name: &str, port: &str) -> Result<SocketAddr> {
    let api = &context.api;
    let services = builtin(&api.registry, "Service")?;
    let service = ops::get(api, &services, context.namespace(), name)?;
    let ports = service
        .value()
        .pointer("/spec/ports")
        .and_then(Value::as_array);
    let wanted = ports.into_iter().flatten().find(|p| {
        port.is_empty()
            || object::text(p, "/name") == port
            || p.get("port")
                .and_then(Value::as_u64)
                .is_some_and(|n| n.to_string() == port)
    });
    let none = || ApiError::unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = wanted
        .map(|p| object::text(p, "/name").to_string())
        .ok_or_else(none)?;
    for slice in api
        .store
        .list("endpointslices.discovery.k8s.io", Some(context.namespace()))
        .1
    {
        let slice = slice.value();
        let labels = slice.pointer("/metadata/labels");
        let of = labels
            .and_then(|l| l.get("kubernetes.io/service-name"))
            .and_then(Value::as_str);
        if of != Some(name) {
            continue;
        }
        let ports = slice.get("ports").and_then(Value::as_array);
        let port = ports
            .into_iter()
            .flatten()
            .find(|p| object::text(p, "/name") == port_name)
            .and_then(|p| p.get("port").and_then(Value::as_u64))
            .and_then(|p| u16::try_from(p).ok());
        let endpoints = slice.get("endpoints").and_then(Value::as_array);
        let ready = |e: &&Value| e.pointer("/conditions/ready") != Some(&Value::Bool(false));
        let ip = endpoints
            .into_iter()
            .flatten()
            .find(ready)
            .and_then(|e| object::text(e, "/addresses/0").parse::<IpAddr>().ok());
        if let (Some(ip), Some(port)) = (ip, port) {
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err(none())
}
