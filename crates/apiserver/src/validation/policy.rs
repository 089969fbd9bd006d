//! Rules about kinds that other programs act on: budgets, autoscalers, leases, nodes, secrets.

use super::{
    fields::{list, range, selector, share},
    meta, scheduling,
};
use crate::{object, status::Cause};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// A PodDisruptionBudget.
pub fn budget(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let keys = ["minAvailable", "maxUnavailable"];
    if keys.iter().all(|key| spec.get(*key).is_some()) {
        let why = "minAvailable and maxUnavailable cannot be both set";
        causes.push(Cause::invalid("spec", spec, why));
    }
    for key in keys {
        share(spec.get(key), &format!("spec.{key}"), causes);
    }
    selector(spec.get("selector"), "spec.selector", causes);
}

/// A HorizontalPodAutoscaler.
pub fn autoscaler(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    let most = number("maxReplicas").unwrap_or(0);
    if let Some(least) = number("minReplicas").filter(|n| *n < 1) {
        let why = "must be greater than or equal to 1";
        causes.push(Cause::invalid("spec.minReplicas", &least.into(), why));
    }
    if most < 1 {
        let why = "must be greater than 0";
        causes.push(Cause::invalid("spec.maxReplicas", &most.into(), why));
    }
    if number("minReplicas").is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid("spec.maxReplicas", &most.into(), why));
    }
    for key in ["kind", "name"] {
        if object::text(spec, &format!("/scaleTargetRef/{key}")).is_empty() {
            causes.push(Cause::required(format!("spec.scaleTargetRef.{key}"), ""));
        }
    }
}

/// A Lease.
pub fn lease(value: &Value, causes: &mut Vec<Cause>) {
    for (field, least, why) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        let number = value.pointer(&format!("/spec/{field}"));
        if let Some(n) = number.and_then(Value::as_i64).filter(|n| *n < least) {
            causes.push(Cause::invalid(format!("spec.{field}"), &n.into(), why));
        }
    }
}

/// A Node.
pub fn node(value: &Value, causes: &mut Vec<Cause>) {
    scheduling::taints(value, causes);
    let spec = value.get("spec").unwrap_or(&Value::Null);
    for (i, text) in list(spec, "podCIDRs").iter().enumerate() {
        let field = format!("spec.podCIDRs[{i}]");
        range(text.as_str().unwrap_or_default(), &field, causes);
    }
}

/// An Event is in the namespace of what it is about.
pub fn event(value: &Value, causes: &mut Vec<Cause>) {
    let about = object::text(value, "/involvedObject/namespace");
    if !about.is_empty() && about != object::namespace(value) {
        let why = "does not match event.namespace";
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            &about.into(),
            why,
        ));
    }
}

/// A ConfigMap.
pub fn config_map(value: &Value, causes: &mut Vec<Cause>) {
    keys(value, &["data", "binaryData"], causes);
    let keys_of = |field: &str| value.get(field).and_then(Value::as_object);
    for (key, _) in keys_of("data").into_iter().flatten() {
        if keys_of("binaryData").is_some_and(|bytes| bytes.contains_key(key)) {
            let why = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                why,
            ));
        }
    }
}

/// A Secret: what its type promises.
pub fn secret(value: &Value, causes: &mut Vec<Cause>) {
    keys(value, &["data"], causes);
    let data = value.get("data").and_then(Value::as_object);
    let missing = |key: &str| !data.is_some_and(|data| data.contains_key(key));
    let required = |key: &str| Cause::required(format!("data[{key}]"), "");
    let json = |key: &str, causes: &mut Vec<Cause>| match data.and_then(|d| d.get(key)) {
        None => causes.push(required(key)),
        Some(text) => {
            if let Err(why) = decoded_json(text) {
                let shown = "<secret contents redacted>".into();
                causes.push(Cause::invalid(format!("data[{key}]"), &shown, &why));
            }
        }
    };
    match object::text(value, "/type") {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let named = value.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
            if named.and_then(Value::as_str).unwrap_or_default().is_empty() {
                let field = format!("metadata.annotations[{ACCOUNT}]");
                causes.push(Cause::required(field, ""));
            }
        }
        "kubernetes.io/dockercfg" => json(".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => json(".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            causes.extend(["username", "password"].map(required));
        }
        "kubernetes.io/ssh-auth" if missing("ssh-privatekey") => {
            causes.push(required("ssh-privatekey"));
        }
        "kubernetes.io/tls" => {
            let keys = ["tls.crt", "tls.key"].into_iter();
            causes.extend(keys.filter(|key| missing(key)).map(required));
        }
        _ => {}
    }
}

/// Why a secret's bytes are no JSON object, in the words of Go's reader as far as it goes.
fn decoded_json(text: &Value) -> Result<(), String> {
    let bytes = STANDARD.decode(text.as_str().unwrap_or_default());
    let bytes = bytes.map_err(|error| error.to_string())?;
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        Ok(_) => Ok(()),
        Err(_) if bytes.is_empty() => Err("unexpected end of JSON input".to_owned()),
        Err(_) => Err(format!(
            "invalid character {} looking for beginning of value",
            go_character(bytes[0])
        )),
    }
}

fn go_character(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        0x20..=0x7e => format!("'{}'", byte as char),
        other => format!(r"'\x{other:02x}'"),
    }
}

fn keys(value: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    for field in fields {
        let map = value.get(*field).and_then(Value::as_object);
        for (key, _) in map.into_iter().flatten() {
            if let Some(why) = meta::config_key(key) {
                causes.push(Cause::invalid(
                    format!("{field}[{key}]"),
                    &key.as_str().into(),
                    why,
                ));
            }
        }
    }
}
