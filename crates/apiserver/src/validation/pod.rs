//! Rules about pods and pod templates.

use super::meta;
use crate::{object, status::Cause};
use serde_json::Value;
use std::collections::HashSet;

/// Checks a pod's spec at a path.
pub fn spec(spec: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let spec = spec.unwrap_or(&Value::Null);
    let volumes = volumes(spec, path, causes);
    let containers = list(spec, "containers");
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for key in ["initContainers", "containers"] {
        for (i, c) in list(spec, key).iter().enumerate() {
            container(
                c,
                &format!("{path}.{key}[{i}]"),
                &mut names,
                &volumes,
                causes,
            );
        }
    }
    one_of(
        spec,
        "restartPolicy",
        path,
        &["Always", "Never", "OnFailure"],
        causes,
    );
    let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(spec, "dnsPolicy", path, &dns, causes);
}

/// A field of text with few values; missing is fine, as it was defaulted before.
fn one_of(map: &Value, key: &str, path: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    if let Some(value) = map.get(key)
        && !value.as_str().is_some_and(|v| allowed.contains(&v))
    {
        causes.push(Cause::not_supported(
            format!("{path}.{key}"),
            value,
            allowed,
        ));
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn volumes<'a>(spec: &'a Value, path: &str, causes: &mut Vec<Cause>) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        let name = object::text(volume, "/name");
        label_name(name, &format!("{path}.name"), causes);
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        let sources = volume
            .as_object()
            .map(|m| m.len().saturating_sub(1))
            .unwrap_or(0);
        if sources > 1 {
            causes.push(Cause::forbidden(
                path.clone(),
                "may not specify more than 1 volume type",
            ));
        }
        for (source, key) in [
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("configMap", "name"),
        ] {
            if let Some(found) = volume.get(source)
                && object::text(found, &format!("/{key}")).is_empty()
            {
                causes.push(Cause::required(format!("{path}.{source}.{key}"), ""));
            }
        }
    }
    names
}

fn label_name(name: &str, path: &str, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(path, ""));
    } else if let Some(why) = meta::dns_label(name, false) {
        causes.push(Cause::invalid(path, &name.into(), why));
    }
}

fn container<'a>(
    c: &'a Value,
    path: &str,
    names: &mut HashSet<&'a str>,
    volumes: &HashSet<&str>,
    causes: &mut Vec<Cause>,
) {
    let name = object::text(c, "/name");
    label_name(name, &format!("{path}.name"), causes);
    if !name.is_empty() && !names.insert(name) {
        causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
    }
    if object::text(c, "/image").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    one_of(
        c,
        "imagePullPolicy",
        path,
        &["Always", "IfNotPresent", "Never"],
        causes,
    );
    ports(c, path, causes);
    for (i, env) in list(c, "env").iter().enumerate() {
        if object::text(env, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.env[{i}].name"), ""));
        }
        let literal = !object::text(env, "/value").is_empty();
        if literal && env.get("valueFrom").is_some() {
            let field = format!("{path}.env[{i}].valueFrom");
            causes.push(Cause::invalid(
                field,
                &"".into(),
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (i, mount) in list(c, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        let (name, target) = (
            object::text(mount, "/name"),
            object::text(mount, "/mountPath"),
        );
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            causes.push(Cause {
                reason: "FieldValueNotFound",
                field: format!("{path}.name"),
                message: format!("Not found: {name:?}"),
            });
        }
        if target.is_empty() {
            causes.push(Cause::required(format!("{path}.mountPath"), ""));
        } else if !paths.insert(target) {
            causes.push(Cause::invalid(
                format!("{path}.mountPath"),
                &target.into(),
                "must be unique",
            ));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = c.get(probe) {
            self::probe(found, &format!("{path}.{probe}"), causes);
        }
    }
}

fn ports(c: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    for (i, port) in list(c, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        port_number(
            port.get("containerPort"),
            &format!("{path}.containerPort"),
            causes,
        );
        protocol(port, &path, causes);
        let name = object::text(port, "/name");
        if name.len() > 15 {
            let why = "must be no more than 15 characters";
            causes.push(Cause::invalid(format!("{path}.name"), &name.into(), why));
        }
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
    }
}

/// A port number of 1 to 65535.
pub fn port_number(port: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    match port.and_then(Value::as_i64) {
        None => causes.push(Cause::required(path, "")),
        Some(1..=65535) => {}
        Some(n) => {
            let why = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(path, &n.into(), why));
        }
    }
}

/// TCP, UDP or SCTP.
pub fn protocol(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    one_of(port, "protocol", path, &["SCTP", "TCP", "UDP"], causes);
}

fn probe(probe: &Value, path: &str, causes: &mut Vec<Cause>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|h| probe.get(**h).is_some()).count() {
        0 => causes.push(Cause::required(path, "must specify a handler type")),
        1 => {}
        _ => causes.push(Cause::forbidden(
            path,
            "may not specify more than 1 handler type",
        )),
    }
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "failureThreshold",
    ] {
        if let Some(n) = probe.get(key).and_then(Value::as_i64).filter(|n| *n < 0) {
            let why = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("{path}.{key}"), &n.into(), why));
        }
    }
}

/// A pod's spec is fixed, apart from images, deadlines, tolerations and the binding to a node.
pub fn update(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let strip = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(map) = spec.as_object_mut() {
            for key in [
                "activeDeadlineSeconds",
                "terminationGracePeriodSeconds",
                "tolerations",
                "schedulingGates",
            ] {
                map.shift_remove(key);
            }
            for key in ["containers", "initContainers"] {
                for c in map
                    .get_mut(key)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(c) = c.as_object_mut() {
                        c.shift_remove("image");
                    }
                }
            }
        }
        spec
    };
    if strip(current) != strip(next) {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value) -> Vec<String> {
        let mut causes = Vec::new();
        spec(Some(&value), "spec", &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn mistakes_are_named_with_their_path() {
        assert_eq!(check(json!({})), ["spec.containers: Required value"]);
        let found = check(json!({"containers": [
            {"name": "A", "image": "x"},
            {"name": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}], "readinessProbe": {}}
        ]}));
        assert!(found[0].starts_with("spec.containers[0].name: Invalid value: \"A\""));
        assert_eq!(found[1], "spec.containers[1].image: Required value");
        assert_eq!(
            found[2],
            "spec.containers[1].volumeMounts[0].name: Not found: \"v\""
        );
        assert_eq!(
            found[3],
            "spec.containers[1].readinessProbe: Required value: must specify a handler type"
        );
        let found = check(
            json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}),
        );
        assert_eq!(
            found,
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
            ]
        );
    }
}
