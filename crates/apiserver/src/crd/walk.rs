//! Walks over custom resources along their schema: prune, fill in defaults, validate.

use super::{
    CustomVersion,
    schema::{Additional, JsonType, ListKind, Structural},
};
use crate::{
    schema::{Findings, normalize},
    status::Cause,
};
use serde_json::{Map, Value};

/// Drops what the schema does not know, and reports it.
pub fn prune(
    version: &CustomVersion,
    value: &mut Value,
    findings: &mut Findings,
) -> Result<(), String> {
    let Some(map) = value.as_object_mut() else {
        return Err("the body is not an object".into());
    };
    metadata(map, findings)?;
    let Some(schema) = &version.schema else {
        return Ok(());
    };
    prune_map(schema, map, "", findings, true);
    Ok(())
}

/// `metadata` has the form of all kinds, whatever the schema says.
fn metadata(map: &mut Map<String, Value>, findings: &mut Findings) -> Result<(), String> {
    if let Some(metadata) = map.get_mut("metadata") {
        let mut own = Findings::default();
        normalize("meta.v1.ObjectMeta", metadata, &mut own)?;
        findings.unknown.extend(
            own.unknown
                .into_iter()
                .map(|path| format!("metadata.{path}")),
        );
    }
    Ok(())
}

fn prune_value(schema: &Structural, value: &mut Value, path: &str, findings: &mut Findings) {
    match value {
        Value::Object(map) => prune_map(schema, map, path, findings, schema.embedded),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (i, item) in list.iter_mut().enumerate() {
                    prune_value(items, item, &format!("{path}[{i}]"), findings);
                }
            }
        }
        _ => {}
    }
}

fn prune_map(
    schema: &Structural,
    map: &mut Map<String, Value>,
    path: &str,
    findings: &mut Findings,
    object: bool,
) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_string()
        } else {
            format!("{path}.{key}")
        }
    };
    let keep_all = schema.preserve_unknown || matches!(schema.additional, Some(Additional::Any));
    let mut drop = Vec::new();
    for (key, item) in map.iter_mut() {
        if object && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        match schema.child(key) {
            Some(child) => prune_value(child, item, &join(key), findings),
            None if keep_all => {}
            None => {
                findings.unknown.push(join(key));
                drop.push(key.clone());
            }
        }
    }
    for key in drop {
        map.shift_remove(&key);
    }
}

/// Fills in what the schema declares as default.
pub fn default(version: &CustomVersion, value: &mut Value) {
    if let Some(schema) = &version.schema {
        default_value(schema, value);
    }
}

fn default_value(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, child) in &schema.properties {
                let unset = match map.get(key) {
                    None => true,
                    // null where it is no value means "use the default".
                    Some(Value::Null) => !child.nullable,
                    Some(_) => false,
                };
                match (&child.default, unset) {
                    (Some(default), true) => {
                        map.insert(key.clone(), default.clone());
                    }
                    (None, true) => {
                        map.shift_remove(key);
                    }
                    _ => {}
                }
            }
            for (key, item) in map.iter_mut() {
                if let Some(child) = schema.child(key) {
                    default_value(child, item);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|item| default_value(items, item));
            }
        }
        _ => {}
    }
}

/// Reports everything that the schema forbids.
pub fn validate(version: &CustomVersion, value: &Value, causes: &mut Vec<Cause>) {
    if let Some(schema) = &version.schema {
        check(schema, value, "", causes);
    }
}

fn invalid(path: &str, value: &Value, why: &str) -> Cause {
    Cause::invalid(path, value, &format!("{path} in body {why}"))
}

fn check(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if let Some(cause) = wrong_type(schema, value, path) {
        // What else there is to say about a value of the wrong type is noise.
        causes.push(cause);
        return;
    }
    if !schema.allowed.is_empty() && !schema.allowed.contains(value) {
        let allowed: Vec<&str> = schema.allowed.iter().filter_map(Value::as_str).collect();
        causes.push(Cause::not_supported(path, value, &allowed));
    }
    match value {
        Value::Object(map) => object(schema, map, value, path, causes),
        Value::Array(list) => array(schema, list, value, path, causes),
        Value::String(text) => string(schema, text, value, path, causes),
        Value::Number(_) => number(schema, value, path, causes),
        _ => {}
    }
    combined(schema, value, path, causes);
}

fn wrong_type(schema: &Structural, value: &Value, path: &str) -> Option<Cause> {
    if schema.int_or_string {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| {
            Cause::wrong_type(
                path,
                value,
                &format!("{path} in body must be of type integer or string"),
            )
        });
    }
    let kind = schema.kind?;
    let (fits, name) = match kind {
        JsonType::Object => (value.is_object(), "object"),
        JsonType::Array => (value.is_array(), "array"),
        JsonType::String => (value.is_string(), "string"),
        JsonType::Integer => (
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
            "integer",
        ),
        JsonType::Number => (value.is_number(), "number"),
        JsonType::Boolean => (value.is_boolean(), "boolean"),
    };
    if fits {
        return None;
    }
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Some(Cause::wrong_type(
        path,
        value,
        &format!("{path} in body must be of type {name}: {found:?}"),
    ))
}

fn object(
    schema: &Structural,
    map: &Map<String, Value>,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_string()
        } else {
            format!("{path}.{key}")
        }
    };
    for key in &schema.required {
        if !map.contains_key(key) {
            causes.push(Cause::required(join(key), ""));
        }
    }
    let count = map.len() as u64;
    if let Some(limit) = schema.limits.max_properties.filter(|l| count > *l) {
        causes.push(too_many(path, count, limit));
    }
    if let Some(limit) = schema.limits.min_properties.filter(|l| count < *l) {
        causes.push(invalid(
            path,
            value,
            &format!("should have at least {limit} properties"),
        ));
    }
    let root = path.is_empty();
    for (key, item) in map {
        if root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if let Some(child) = schema.child(key) {
            check(child, item, &join(key), causes);
        }
    }
}

fn too_many(path: &str, count: u64, limit: u64) -> Cause {
    let message = format!("Too many: {count}: must have at most {limit} items");
    Cause {
        reason: "FieldValueTooMany",
        field: path.into(),
        message,
    }
}

fn array(schema: &Structural, list: &[Value], value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let count = list.len() as u64;
    if let Some(limit) = schema.limits.max_items.filter(|l| count > *l) {
        causes.push(too_many(path, count, limit));
    }
    if let Some(limit) = schema.limits.min_items.filter(|l| count < *l) {
        causes.push(invalid(
            path,
            value,
            &format!("should have at least {limit} items"),
        ));
    }
    unique(schema, list, path, causes);
    if let Some(items) = &schema.items {
        for (i, item) in list.iter().enumerate() {
            check(items, item, &format!("{path}[{i}]"), causes);
        }
    }
}

/// Lists that are sets or maps hold each value or each key once.
fn unique(schema: &Structural, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let identity: Box<dyn Fn(&Value) -> Value> = match &schema.list_kind {
        Some(ListKind::Set) => Box::new(Value::clone),
        Some(ListKind::Map(keys)) => Box::new(move |item: &Value| {
            let items = schema.items.as_deref();
            let key = |key: &String| {
                let default = || {
                    items
                        .and_then(|s| s.properties.get(key))
                        .and_then(|s| s.default.clone())
                };
                (
                    key.clone(),
                    item.get(key)
                        .cloned()
                        .or_else(default)
                        .unwrap_or(Value::Null),
                )
            };
            Value::Object(keys.iter().map(key).filter(|(_, v)| !v.is_null()).collect())
        }),
        _ => return,
    };
    let mut seen: Vec<Value> = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let identity = identity(item);
        if seen.contains(&identity) {
            causes.push(Cause::duplicate(format!("{path}[{i}]"), &identity));
        }
        seen.push(identity);
    }
}

fn string(schema: &Structural, text: &str, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(limit) = schema.limits.max_length.filter(|l| length > *l) {
        let message = format!("Too long: may not be more than {limit} bytes");
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: path.into(),
            message,
        });
    }
    if let Some(limit) = schema.limits.min_length.filter(|l| length < *l) {
        causes.push(invalid(
            path,
            value,
            &format!("should be at least {limit} chars long"),
        ));
    }
    if let Some(pattern) = &schema.limits.pattern
        && !pattern.is_match(text)
    {
        causes.push(invalid(path, value, &format!("should match '{pattern}'")));
    }
    if !fits_format(&schema.format, text) {
        causes.push(invalid(
            path,
            value,
            &format!("must be of type {}: {text:?}", schema.format),
        ));
    }
}

fn fits_format(format: &str, text: &str) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(a, p)| {
            a.parse::<IpAddr>().is_ok() && p.parse::<u8>().is_ok_and(|p| p <= 128)
        }),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}

fn number(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(n) = value.as_f64() else { return };
    let limits = &schema.limits;
    match limits.minimum {
        Some((min, true)) if n <= min => {
            causes.push(invalid(
                path,
                value,
                &format!("should be greater than {min}"),
            ));
        }
        Some((min, false)) if n < min => {
            causes.push(invalid(
                path,
                value,
                &format!("should be greater than or equal to {min}"),
            ));
        }
        _ => {}
    }
    match limits.maximum {
        Some((max, true)) if n >= max => {
            causes.push(invalid(path, value, &format!("should be less than {max}")));
        }
        Some((max, false)) if n > max => {
            causes.push(invalid(
                path,
                value,
                &format!("should be less than or equal to {max}"),
            ));
        }
        _ => {}
    }
    if let Some(of) = limits.multiple_of
        && (n / of).fract() != 0.0
    {
        causes.push(invalid(
            path,
            value,
            &format!("should be a multiple of {of}"),
        ));
    }
}

/// allOf, anyOf, oneOf, not.
fn combined(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let holds = |s: &Structural| {
        let mut found = Vec::new();
        check(s, value, path, &mut found);
        found.is_empty()
    };
    for part in &schema.all_of {
        check(part, value, path, causes);
    }
    let shown = if path.is_empty() { "<nil>" } else { path };
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(holds) {
        let why = format!("{shown:?} must validate at least one schema (anyOf)");
        causes.push(Cause {
            reason: "FieldValueInvalid",
            field: path.into(),
            message: why,
        });
    }
    if !schema.one_of.is_empty() {
        let count = schema.one_of.iter().filter(|s| holds(s)).count();
        if count != 1 {
            let found = if count == 0 {
                "none valid".to_string()
            } else {
                format!("{count} valid alternatives")
            };
            let why =
                format!("{shown:?} must validate one and only one schema (oneOf). Found {found}");
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: path.into(),
                message: why,
            });
        }
    }
    if let Some(not) = &schema.not
        && holds(not)
    {
        let why = format!("{shown:?} must not validate the schema (not)");
        causes.push(Cause {
            reason: "FieldValueInvalid",
            field: path.into(),
            message: why,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(schema: Value) -> CustomVersion {
        CustomVersion {
            schema: Some(Structural::compile(&schema)),
            ..CustomVersion::default()
        }
    }

    fn causes(schema: Value, value: Value) -> Vec<String> {
        let mut causes = Vec::new();
        validate(&version(schema), &value, &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let v = version(json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}}}}}}));
        let mut value = json!({"kind": "Foo", "metadata": {"name": "n", "bad": 1},
            "spec": {"a": "1", "b": 2, "free": {"z": 1}, "map": {"k": {"x": "1", "y": 1}}}});
        let mut findings = Findings::default();
        prune(&v, &mut value, &mut findings).unwrap();
        assert_eq!(findings.unknown, ["metadata.bad", "spec.b", "spec.map.k.y"]);
        assert_eq!(
            value["spec"],
            json!({"a": "1", "free": {"z": 1}, "map": {"k": {"x": "1"}}})
        );
    }

    #[test]
    fn defaults_reach_into_lists_and_replace_nulls() {
        let v = version(
            json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
            "mode": {"type": "string", "default": "A"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 1}}}}}}}}),
        );
        let mut value = json!({"spec": {"mode": null, "list": [{}, {"p": 2}]}});
        default(&v, &mut value);
        assert_eq!(
            value,
            json!({"spec": {"mode": "A", "list": [{"p": 1}, {"p": 2}]}})
        );
        let mut value = json!({});
        default(&v, &mut value);
        assert_eq!(value, json!({"spec": {"mode": "A"}}));
    }

    #[test]
    fn messages_are_those_of_kubernetes() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["x"], "properties": {
            "x": {"type": "integer", "minimum": 1},
            "m": {"type": "string", "enum": ["A", "B"]},
            "p": {"type": "string", "pattern": "^a+$", "minLength": 1}}}}});
        assert_eq!(
            causes(schema.clone(), json!({"spec": {}})),
            ["spec.x: Required value"]
        );
        assert_eq!(
            causes(schema.clone(), json!({"spec": {"x": "1"}})),
            [
                "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\""
            ]
        );
        let found = causes(schema, json!({"spec": {"x": 0, "m": "C", "p": "b"}}));
        assert_eq!(
            found,
            [
                "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
                "spec.m: Unsupported value: \"C\": supported values: \"A\", \"B\"",
                "spec.p: Invalid value: \"b\": spec.p in body should match '^a+$'",
            ]
        );
    }

    #[test]
    fn list_maps_hold_each_key_once() {
        let schema = json!({"type": "object", "properties": {"l": {"type": "array",
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer", "default": 80}}}}}});
        let found = causes(
            schema,
            json!({"l": [{"name": "a"}, {"name": "a", "port": 81}, {"name": "a", "port": 80}]}),
        );
        assert_eq!(
            found,
            ["l[2]: Duplicate value: {\"name\":\"a\",\"port\":80}"]
        );
    }

    #[test]
    fn combinations() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}});
        assert!(causes(schema.clone(), json!({"a": "1"})).is_empty());
        assert_eq!(causes(schema.clone(), json!({"a": "1", "b": "2"})).len(), 1);
        assert_eq!(causes(schema.clone(), json!({})).len(), 1);
        assert_eq!(causes(schema, json!({"a": "", "c": 1})).len(), 1);
    }
}
