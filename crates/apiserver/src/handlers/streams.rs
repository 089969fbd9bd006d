//! Requests that kubelets, pods and services answer: logs, streams and proxies.

use super::{Context, subresources::builtin};
use crate::{
    backends,
    http::{self as answer, Body, BoxError},
    object, ops,
    registry::Resource,
    status::{ApiError, Result},
};
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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
pub async fn kubelet(
    context: &Context,
    pods: &Arc<Resource>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (namespace, name) = (context.namespace(), context.target.name.as_str());
    let pod = ops::get(&context.api, pods, namespace, name)?;
    let pod = pod.value();
    if context.target.subresource != "log" {
        connect(context, pods).await?;
    }
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

/// Asks the webhooks about a stream. They cannot change it: kubelets get what the client wrote.
async fn connect(context: &Context, resource: &Arc<Resource>) -> Result<()> {
    let options = options(context, resource);
    let mut writer = context.writer()?;
    context
        .admit("CONNECT", resource, options, None, &mut writer)
        .await?;
    Ok(())
}

/// What the query of a stream says, in the form in which webhooks see it.
fn options(context: &Context, resource: &Resource) -> Value {
    let query = &context.query;
    let kind = match (context.target.subresource.as_str(), resource.kind.as_ref()) {
        ("exec", _) => "PodExecOptions",
        ("attach", _) => "PodAttachOptions",
        ("portforward", _) => "PodPortForwardOptions",
        (_, "Service") => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    match kind {
        "PodPortForwardOptions" => {
            let ports = query.all("ports").filter_map(|p| p.parse::<u16>().ok());
            options["ports"] = ports.collect();
        }
        "PodProxyOptions" | "ServiceProxyOptions" => {
            let path = context
                .target
                .path
                .split_once("/proxy")
                .map_or("", |(_, rest)| rest);
            options["path"] = path.into();
        }
        _ => {
            for key in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(key) {
                    options[key] = true.into();
                }
            }
            if let Some(container) = query.get("container") {
                options["container"] = container.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if kind == "PodExecOptions" {
                options["command"] = command.into();
            }
        }
    }
    options
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
pub async fn proxy(
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
    connect(context, resource).await?;
    let address = match resource.kind.as_ref() {
        "Pod" => pod_address(context, name, port)?,
        "Service" => backends::of_service(&context.api, context.namespace(), name, port).await?,
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
