//! Rules for definitions themselves: names that fit, one storage version, structural schemas.

use crate::{api::Api, object, status::Cause, validation::dns_subdomain};
use regex::Regex;
use serde_json::Value;

/// Checks a definition.
pub fn check(_api: &Api, crd: &Value, causes: &mut Vec<Cause>) {
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    names(crd, spec, causes);
    let scope = object::text(spec, "/scope");
    if !matches!(scope, "Namespaced" | "Cluster") {
        causes.push(Cause::not_supported(
            "spec.scope",
            &scope.into(),
            &["Cluster", "Namespaced"],
        ));
    }
    if object::text(spec, "/conversion/strategy") == "Webhook" {
        let allowed = ["None"];
        causes.push(Cause::not_supported(
            "spec.conversion.strategy",
            &"Webhook".into(),
            &allowed,
        ));
    }
    let versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if versions.is_empty() {
        causes.push(Cause::required(
            "spec.versions",
            "must have at least one version",
        ));
        return;
    }
    let storage = versions
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .count();
    if storage != 1 {
        let shown = spec.get("versions").unwrap_or(&Value::Null);
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", shown, why));
    }
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if object::text(version, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        let schema = format!("{path}.schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            Some(found) if found.is_object() => {
                if found.get("type").and_then(Value::as_str) != Some("object") {
                    let why = "must be object at the root";
                    let shown = found.get("type").unwrap_or(&Value::Null);
                    causes.push(Cause::invalid(format!("{schema}.type"), shown, why));
                }
                structural(found, &schema, causes);
            }
            _ => causes.push(Cause::required(schema, "schemas are required")),
        }
        for (j, column) in columns(version).iter().enumerate() {
            for key in ["name", "type", "jsonPath"] {
                if object::text(column, &format!("/{key}")).is_empty() {
                    let field = format!("{path}.additionalPrinterColumns[{j}].{key}");
                    causes.push(Cause::required(field, ""));
                }
            }
        }
    }
}

fn columns(version: &Value) -> &[Value] {
    let found = version
        .get("additionalPrinterColumns")
        .and_then(Value::as_array);
    found.map(Vec::as_slice).unwrap_or_default()
}

fn names(crd: &Value, spec: &Value, causes: &mut Vec<Cause>) {
    let (group, plural) = (
        object::text(spec, "/group"),
        object::text(spec, "/names/plural"),
    );
    for (field, text) in [
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", object::text(spec, "/names/kind")),
    ] {
        if text.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if !group.is_empty() {
        if let Some(why) = dns_subdomain(group) {
            causes.push(Cause::invalid("spec.group", &group.into(), why));
        } else if !group.contains('.') {
            causes.push(Cause::invalid(
                "spec.group",
                &group.into(),
                "should be a domain with at least one dot",
            ));
        }
    }
    let name = object::name(crd);
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &name.into(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
}

/// The rules of structural schemas that decide what the walks may rely on.
fn structural(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let typed = map
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|t| !t.is_empty());
    if !typed
        && !flag("x-kubernetes-int-or-string")
        && !flag("x-kubernetes-preserve-unknown-fields")
    {
        causes.push(Cause::required(
            format!("{path}.type"),
            "must not be empty for specified object fields",
        ));
    }
    if map.get("type").and_then(Value::as_str) == Some("array")
        && !map.get("items").is_some_and(Value::is_object)
    {
        causes.push(Cause::required(
            format!("{path}.items"),
            "must be specified",
        ));
    }
    if map.get("properties").is_some()
        && map
            .get("additionalProperties")
            .is_some_and(|a| a != &Value::Bool(false))
    {
        let why = "must not be used together with properties";
        causes.push(Cause::forbidden(
            format!("{path}.additionalProperties"),
            why,
        ));
    }
    if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
        && let Err(e) = Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {e}");
        causes.push(Cause::invalid(
            format!("{path}.pattern"),
            &pattern.into(),
            &why,
        ));
    }
    list_keys(map, path, causes);
    for (name, child) in map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        structural(child, &format!("{path}.properties[{name}]"), causes);
    }
    if let Some(child @ Value::Object(_)) = map.get("additionalProperties") {
        structural(child, &format!("{path}.additionalProperties"), causes);
    }
    if let Some(child @ Value::Object(_)) = map.get("items") {
        structural(child, &format!("{path}.items"), causes);
    }
}

/// A list that is a map needs keys, and each key a property.
fn list_keys(map: &serde_json::Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    if map.get("x-kubernetes-list-type").and_then(Value::as_str) != Some("map") {
        return;
    }
    let keys = map
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array);
    let field = format!("{path}.x-kubernetes-list-map-keys");
    let Some(keys) = keys.filter(|k| !k.is_empty()) else {
        causes.push(Cause::required(
            field,
            "must not be empty if x-kubernetes-list-type is map",
        ));
        return;
    };
    for (i, key) in keys.iter().enumerate() {
        let known = map.get("items").and_then(|items| items.get("properties"));
        if known
            .and_then(|p| p.get(key.as_str().unwrap_or_default()))
            .is_none()
        {
            causes.push(Cause::invalid(
                format!("{field}[{i}]"),
                key,
                "entries must all be names of item properties",
            ));
        }
    }
}
