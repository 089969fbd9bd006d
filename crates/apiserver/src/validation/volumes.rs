//! Rules about a pod's volumes and where containers mount them.

use super::fields::{label_name, list};
use crate::{object, status::Cause};
use serde_json::Value;
use std::collections::HashSet;

/// Checks all volumes. Returns the names that containers may mount.
pub fn volumes<'a>(spec: &'a Value, path: &str, causes: &mut Vec<Cause>) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        let before = causes.len();
        source(volume, &path, causes);
        let name = object::text(volume, "/name");
        label_name(name, &format!("{path}.name"), causes);
        if names.contains(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        if causes.len() == before {
            names.insert(name);
        }
    }
    names
}

fn source(volume: &Value, path: &str, causes: &mut Vec<Cause>) {
    let sources = volume.as_object().into_iter().flatten();
    let sources: Vec<(&String, &Value)> = sources.filter(|(key, _)| *key != "name").collect();
    let Some(((kind, first), others)) = sources.split_first() else {
        causes.push(Cause::required(path, "must specify a volume type"));
        return;
    };
    let path_of = |kind: &str| format!("{path}.{kind}");
    one(kind, first, &path_of(kind), causes);
    for (kind, _) in others {
        let why = "may not specify more than 1 volume type";
        causes.push(Cause::forbidden(path_of(kind), why));
    }
}

fn one(kind: &str, source: &Value, path: &str, causes: &mut Vec<Cause>) {
    let needed = match kind {
        "hostPath" => "path",
        "secret" => "secretName",
        "configMap" => "name",
        "persistentVolumeClaim" => "claimName",
        _ => "",
    };
    let text = object::text(source, &format!("/{needed}"));
    let field = format!("{path}.{needed}");
    if !needed.is_empty() && text.is_empty() {
        causes.push(Cause::required(field.clone(), ""));
    }
    if kind == "hostPath" {
        no_way_up(text, &field, causes);
    }
    if let Some(mode) = source.get("defaultMode").and_then(Value::as_i64) {
        file_mode(mode, &format!("{path}.defaultMode"), causes);
    }
    for (i, item) in list(source, "items").iter().enumerate() {
        self::item(item, &format!("{path}.items[{i}]"), kind, causes);
    }
}

/// A key, or a field of the pod, as a file.
fn item(item: &Value, path: &str, kind: &str, causes: &mut Vec<Cause>) {
    if kind != "downwardAPI" && object::text(item, "/key").is_empty() {
        causes.push(Cause::required(format!("{path}.key"), ""));
    }
    let file = object::text(item, "/path");
    if file.is_empty() {
        causes.push(Cause::required(format!("{path}.path"), ""));
    }
    if file.starts_with('/') {
        let why = "must be a relative path";
        causes.push(Cause::invalid(format!("{path}.path"), &file.into(), why));
    }
    no_way_up(file, &format!("{path}.path"), causes);
    if let Some(mode) = item.get("mode").and_then(Value::as_i64) {
        file_mode(mode, &format!("{path}.mode"), causes);
    }
}

fn file_mode(mode: i64, path: &str, causes: &mut Vec<Cause>) {
    if !(0..=0o777).contains(&mode) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.push(Cause::invalid(path, &mode.into(), why));
    }
}

fn no_way_up(target: &str, path: &str, causes: &mut Vec<Cause>) {
    if target.split('/').any(|part| part == "..") {
        causes.push(Cause::invalid(
            path,
            &target.into(),
            "must not contain '..'",
        ));
    }
}

/// Where a container sees volumes.
pub fn mounts(container: &Value, path: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let mut targets = HashSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let all = format!("{path}.volumeMounts");
        let path = format!("{all}[{i}]");
        let text = |key: &str| object::text(mount, &format!("/{key}"));
        let (name, target) = (text("name"), text("mountPath"));
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        if !volumes.contains(name) {
            causes.push(Cause::not_found(format!("{path}.name"), name));
        }
        let field = format!("{path}.mountPath");
        if target.is_empty() {
            causes.push(Cause::required(field.clone(), ""));
        }
        if !targets.insert(target) {
            causes.push(Cause::invalid(field, &target.into(), "must be unique"));
        }
        // Kubernetes names the list here, not the mount.
        for key in ["subPath", "subPathExpr"] {
            let field = format!("{all}.{key}");
            if text(key).starts_with('/') {
                let why = "must be a relative path";
                causes.push(Cause::invalid(field.clone(), &text(key).into(), why));
            }
            no_way_up(text(key), &field, causes);
        }
    }
}
