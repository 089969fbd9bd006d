//! Rules about containers: the ordinary ones, those that run before, and those for debugging.

use super::{
    fields::{
        label_name, list, non_negative, one_of, port_name, port_number, port_reference, protocol,
    },
    security,
    volumes::mounts,
};
use crate::{object, quantity, status::Cause};
use serde_json::Value;
use std::collections::HashSet;

/// All containers of a pod.
pub fn containers(spec: &Value, path: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let ordinary = list(spec, "containers");
    if ordinary.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for (i, container) in ordinary.iter().enumerate() {
        let path = format!("{path}.containers[{i}]");
        common(container, &path, volumes, causes);
        unique_name(container, &path, &mut names, causes);
        handlers(container, &path, causes);
        if container.get("restartPolicy").is_some() {
            let policies = ["Always", "Never", "OnFailure"];
            one_of(container, "restartPolicy", &path, &policies, causes);
        }
    }
    host_ports_once(ordinary, &format!("{path}.containers"), causes);
    for (i, container) in list(spec, "initContainers").iter().enumerate() {
        let path = format!("{path}.initContainers[{i}]");
        common(container, &path, volumes, causes);
        let policies = ["Always", "Never", "OnFailure"];
        one_of(container, "restartPolicy", &path, &policies, causes);
        unique_name(container, &path, &mut names, causes);
        if object::text(container, "/restartPolicy") == "Always" {
            handlers(container, &path, causes);
        } else {
            no_handlers(container, &path, causes);
        }
    }
    for (i, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = format!("{path}.ephemeralContainers[{i}]");
        common(container, &path, volumes, causes);
        unique_name(container, &path, &mut names, causes);
        ephemeral(container, spec, &path, causes);
    }
}

fn unique_name<'a>(
    container: &'a Value,
    path: &str,
    names: &mut HashSet<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let name = object::text(container, "/name");
    if !name.is_empty() && !names.insert(name) {
        causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
    }
}

fn common(container: &Value, path: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    label_name(
        object::text(container, "/name"),
        &format!("{path}.name"),
        causes,
    );
    if object::text(container, "/image").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    let image = object::text(container, "/image");
    if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{path}.image"), &image.into(), why));
    }
    let policies = ["FallbackToLogsOnError", "File"];
    one_of(
        container,
        "terminationMessagePolicy",
        path,
        &policies,
        causes,
    );
    ports(container, path, causes);
    environment(container, path, causes);
    mounts(container, path, volumes, causes);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(container, "imagePullPolicy", path, &policies, causes);
    resources(container, path, causes);
    security::of_container(container, path, causes);
}

fn ports(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    for (i, port) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let name = object::text(port, "/name");
        if !name.is_empty() {
            let before = causes.len();
            port_name(name, &format!("{path}.name"), causes);
            if causes.len() == before && !names.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        let field = format!("{path}.containerPort");
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => causes.push(Cause::required(field, "")),
            Some(_) => port_number(port.get("containerPort"), &field, causes),
        }
        if port.get("hostPort").is_some_and(|p| *p != 0) {
            port_number(port.get("hostPort"), &format!("{path}.hostPort"), causes);
        }
        protocol(port, &path, causes);
    }
}

/// Two containers cannot have one port of the node.
fn host_ports_once(containers: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let mut taken = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let number = port.get("hostPort").and_then(Value::as_i64).unwrap_or(0);
            let (protocol, ip) = (
                object::text(port, "/protocol"),
                object::text(port, "/hostIP"),
            );
            let what = format!("{protocol}/{ip}/{number}");
            if number != 0 && !taken.insert(what.clone()) {
                let field = format!("{path}[{i}].ports[{j}].hostPort");
                causes.push(Cause::duplicate(field, &what.into()));
            }
        }
    }
}

fn environment(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (i, variable) in list(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        if object::text(variable, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        let Some(from) = variable.get("valueFrom") else {
            continue;
        };
        let path = format!("{path}.valueFrom");
        let sources = from.as_object().map_or(0, |sources| sources.len());
        if let Some(field) = from.get("fieldRef") {
            pod_field(object::text(field, "/fieldPath"), &path, causes);
        }
        for key in ["configMapKeyRef", "secretKeyRef"] {
            let Some(source) = from.get(key) else {
                continue;
            };
            for part in ["name", "key"] {
                if object::text(source, &format!("/{part}")).is_empty() {
                    causes.push(Cause::required(format!("{path}.{key}.{part}"), ""));
                }
            }
        }
        let why = if sources == 0 {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        } else if !object::text(variable, "/value").is_empty() {
            "may not be specified when `value` is not empty"
        } else if sources > 1 {
            "may not have more than one field specified at a time"
        } else {
            continue;
        };
        causes.push(Cause::invalid(path, &"".into(), why));
    }
}

/// Fields of a pod that a variable can have.
const POD_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn pod_field(field: &str, path: &str, causes: &mut Vec<Cause>) {
    let path = format!("{path}.fieldRef.fieldPath");
    let of_map = |prefix: &str| field.starts_with(prefix) && field.ends_with("']");
    if field.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if matches!(field, "metadata.labels" | "metadata.annotations") {
        causes.push(Cause::not_supported(path, &field.into(), &POD_FIELDS));
    } else if !POD_FIELDS.contains(&field)
        && !of_map("metadata.labels['")
        && !of_map("metadata.annotations['")
    {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        causes.push(Cause::invalid(path, &field.into(), &why));
    }
}

fn resources(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let resources = container.get("resources").unwrap_or(&Value::Null);
    let map = |key: &str| resources.get(key).and_then(Value::as_object);
    for key in ["limits", "requests"] {
        for (name, amount) in map(key).into_iter().flatten() {
            let field = format!("{path}.resources.{key}");
            resource_name(name, &field, causes);
            if quantity::is_negative(amount) {
                let why = "must be greater than or equal to 0";
                causes.push(Cause::invalid(format!("{field}[{name}]"), amount, why));
            }
        }
    }
    for (name, request) in map("requests").into_iter().flatten() {
        let limit = map("limits").and_then(|limits| limits.get(name));
        if let Some(limit) = limit.filter(|limit| quantity::exceeds(request, limit)) {
            let shown = limit.as_str().map_or(limit.to_string(), str::to_owned);
            let why = format!("must be less than or equal to {name} limit of {shown}");
            causes.push(Cause::invalid(
                format!("{path}.resources.requests"),
                request,
                &why,
            ));
        }
    }
}

fn resource_name(name: &str, path: &str, causes: &mut Vec<Cause>) {
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage")
        || name.starts_with("hugepages-")
        || name.contains('/');
    if !standard {
        let why = "must be a standard resource for containers";
        causes.push(Cause::invalid(format!("{path}[{name}]"), &name.into(), why));
    }
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

fn handlers(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for hook in ["postStart", "preStop"] {
        if let Some(found) = container.pointer(&format!("/lifecycle/{hook}")) {
            handler(found, &format!("{path}.lifecycle.{hook}"), causes);
        }
    }
    for probe in PROBES {
        if let Some(found) = container.get(probe) {
            self::probe(found, probe, &format!("{path}.{probe}"), causes);
        }
    }
}

/// A container that ends before the next one starts has no life to watch.
fn no_handlers(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["lifecycle"].into_iter().chain(PROBES) {
        if container.get(key).is_some() {
            let why = "may not be set for init containers without restartPolicy=Always";
            causes.push(Cause::forbidden(format!("{path}.{key}"), why));
        }
    }
}

fn ephemeral(container: &Value, spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let target = object::text(container, "/targetContainerName");
    let known = |key: &str| {
        list(spec, key)
            .iter()
            .any(|c| object::text(c, "/name") == target)
    };
    if !target.is_empty() && !known("containers") && !known("initContainers") {
        causes.push(Cause::not_found(
            format!("{path}.targetContainerName"),
            target,
        ));
    }
    let forbidden = ["ports", "lifecycle", "resizePolicy"];
    for key in forbidden.into_iter().chain(PROBES) {
        if container.get(key).is_some() {
            let why = "cannot be set for an Ephemeral Container";
            causes.push(Cause::forbidden(format!("{path}.{key}"), why));
        }
    }
    let resources = container.get("resources").and_then(Value::as_object);
    if resources.is_some_and(|r| !r.is_empty()) {
        let why = "cannot be set for an Ephemeral Container";
        causes.push(Cause::forbidden(format!("{path}.resources"), why));
    }
}

fn probe(probe: &Value, kind: &str, path: &str, causes: &mut Vec<Cause>) {
    handler(probe, path, causes);
    let counts = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    non_negative(probe, &counts, path, causes);
    let successes = probe.get("successThreshold").and_then(Value::as_i64);
    if kind != "readinessProbe"
        && let Some(n) = successes.filter(|n| *n != 1)
    {
        let field = format!("{path}.successThreshold");
        causes.push(Cause::invalid(field, &n.into(), "must be 1"));
    }
}

/// What a probe or a hook does.
fn handler(handler: &Value, path: &str, causes: &mut Vec<Cause>) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let mut given = kinds
        .into_iter()
        .filter(|kind| handler.get(*kind).is_some());
    let Some(kind) = given.next() else {
        return causes.push(Cause::required(path, "must specify a handler type"));
    };
    let action = &handler[kind];
    let field = format!("{path}.{kind}");
    match kind {
        "exec" if list(action, "command").is_empty() => {
            causes.push(Cause::required(format!("{field}.command"), ""));
        }
        "httpGet" => {
            if object::text(action, "/path").is_empty() {
                causes.push(Cause::required(format!("{field}.path"), ""));
            }
            port_reference(action.get("port"), &format!("{field}.port"), causes);
            one_of(action, "scheme", &field, &["HTTP", "HTTPS"], causes);
        }
        "tcpSocket" => port_reference(action.get("port"), &format!("{field}.port"), causes),
        "grpc" => port_number(action.get("port"), &format!("{field}.port"), causes),
        _ => {}
    }
    for other in given {
        let why = "may not specify more than 1 handler type";
        causes.push(Cause::forbidden(format!("{path}.{other}"), why));
    }
}
