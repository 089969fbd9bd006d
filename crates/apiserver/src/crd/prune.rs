//! Gives a custom resource the form of its schema: drops what the schema does not know, nulls that
//! mean nothing, and unknown metadata, also that of embedded objects; fills in defaults.

use super::{
    correlate::child,
    schema::{Additional, Structural},
};
use crate::schema::{Findings, normalize};
use serde_json::{Map, Value};

/// Keys that every object has, whatever its schema says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Prunes a whole object.
pub fn prune(
    schema: Option<&Structural>,
    value: &mut Value,
    findings: &mut Findings,
) -> Result<(), String> {
    let Some(map) = value.as_object_mut() else {
        return Err("the body is not an object".into());
    };
    metadata(map, "", findings)?;
    let Some(schema) = schema else {
        return Ok(());
    };
    let mut walk = Walk::default();
    walk.object(schema, map, "", true, schema.preserve_unknown);
    walk.unknown.sort();
    findings.unknown.append(&mut walk.unknown);
    nulls(schema, value);
    embedded(schema, value, "", findings, true)
}

/// `metadata` has the form of all kinds.
fn metadata(
    map: &mut Map<String, Value>,
    path: &str,
    findings: &mut Findings,
) -> Result<(), String> {
    let Some(metadata) = map.get_mut("metadata") else {
        return Ok(());
    };
    let mut own = Findings::default();
    normalize("meta.v1.ObjectMeta", metadata, &mut own)?;
    let prefix = child(path, "metadata");
    let unknown = own.unknown.into_iter().map(|key| child(&prefix, &key));
    findings.unknown.extend(unknown);
    Ok(())
}

#[derive(Default)]
struct Walk {
    unknown: Vec<String>,
}

impl Walk {
    fn value(&mut self, schema: Option<&Structural>, value: &mut Value, path: &str) {
        let keep = schema.is_some_and(|s| s.preserve_unknown);
        self.kept(schema, value, path, keep);
    }

    /// `keep`: unknown keys stay here and in the items of a list, but not below known keys.
    fn kept(&mut self, schema: Option<&Structural>, value: &mut Value, path: &str, keep: bool) {
        match (value, schema) {
            (Value::Object(map), Some(schema)) => {
                self.object(schema, map, path, schema.embedded, keep);
            }
            // Nothing is known about this place, so nothing can stay in it.
            (Value::Object(map), None) if !keep => {
                self.unknown.extend(map.keys().map(|key| child(path, key)));
                map.clear();
            }
            (Value::Array(list), schema) => {
                let items = schema.and_then(|s| s.items.as_deref());
                for (i, item) in list.iter_mut().enumerate() {
                    let keep = keep || items.is_some_and(|s| s.preserve_unknown);
                    self.kept(items, item, &format!("{path}[{i}]"), keep);
                }
            }
            _ => {}
        }
    }

    fn object(
        &mut self,
        schema: &Structural,
        map: &mut Map<String, Value>,
        path: &str,
        whole: bool,
        keep: bool,
    ) {
        let mut drop = Vec::new();
        for (key, item) in map.iter_mut() {
            if whole && META.contains(&key.as_str()) {
                continue;
            }
            match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => self.value(Some(property), item, &child(path, key)),
                (None, Some(Additional::Schema(inner))) => {
                    self.value(Some(inner), item, &child(path, key));
                }
                (None, Some(_)) => self.value(None, item, &child(path, key)),
                (None, None) if keep => {}
                (None, None) => {
                    self.unknown.push(child(path, key));
                    drop.push(key.clone());
                }
            }
        }
        for key in drop {
            map.shift_remove(&key);
        }
    }
}

/// Drops nulls that are no values and stand for no default.
fn nulls(schema: &Structural, value: &mut Value) {
    let meaningless = |schema: &Structural| !schema.nullable && schema.default.is_none();
    match value {
        Value::Object(map) => map.retain(|key, item| match schema.child(key) {
            Some(inner) if item.is_null() => !meaningless(inner),
            Some(inner) => {
                nulls(inner, item);
                true
            }
            None => true,
        }),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|item| nulls(items, item));
            }
        }
        _ => {}
    }
}

/// Brings the metadata of embedded objects into form.
fn embedded(
    schema: &Structural,
    value: &mut Value,
    path: &str,
    findings: &mut Findings,
    root: bool,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            if schema.embedded && !root {
                for key in ["apiVersion", "kind"] {
                    if map.get(key).is_some_and(|v| !v.is_string()) {
                        return Err(format!("{}: must be a string", child(path, key)));
                    }
                }
                metadata(map, path, findings)?;
            }
            for (key, item) in map.iter_mut() {
                if let Some(inner) = schema.child(key) {
                    embedded(inner, item, &child(path, key), findings, false)?;
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (i, item) in list.iter_mut().enumerate() {
                    embedded(items, item, &format!("{path}[{i}]"), findings, false)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Fills in what the schema declares as default. A null that is no value means "the default".
pub fn default(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, property) in &schema.properties {
                let Some(default) = &property.default else {
                    continue;
                };
                let unset = map
                    .get(key)
                    .is_none_or(|found| found.is_null() && !property.nullable);
                if unset {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, item) in map.iter_mut() {
                if let Some(inner) = schema.child(key) {
                    null_default(inner, item);
                    default(inner, item);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for item in list {
                    null_default(items, item);
                    default(items, item);
                }
            }
        }
        _ => {}
    }
}

fn null_default(schema: &Structural, item: &mut Value) {
    if let (true, false, Some(default)) = (item.is_null(), schema.nullable, &schema.default) {
        *item = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pruned(schema: Value, mut value: Value) -> (Value, Vec<String>) {
        let mut findings = Findings::default();
        prune(
            Some(&Structural::compile(&schema)),
            &mut value,
            &mut findings,
        )
        .unwrap();
        (value, findings.unknown)
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {}}}},
            "any": {"type": "object", "additionalProperties": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}}}}}});
        let (value, unknown) = pruned(
            schema,
            json!({"kind": "Foo", "metadata": {"name": "n", "bad": 1}, "spec": {
                "a": "1", "b": 2, "free": {"z": {"y": 1}, "known": {"q": 1}},
                "any": {"n": 1, "o": {"p": 1}},
                "list": [{"x": "1"}, {"y": 1}], "map": {"k": {"x": "1", "y": 1}}}}),
        );
        assert_eq!(
            unknown,
            [
                "metadata.bad",
                "spec.any.o.p",
                "spec.b",
                "spec.free.known.q",
                "spec.list[1].y",
                "spec.map.k.y"
            ]
        );
        assert_eq!(
            value["spec"],
            json!({"a": "1", "free": {"z": {"y": 1}, "known": {}}, "any": {"n": 1, "o": {}},
                "list": [{"x": "1"}, {}], "map": {"k": {"x": "1"}}})
        );
    }

    #[test]
    fn embedded_objects_keep_their_head() {
        let schema = json!({"type": "object", "properties": {"template": {"type": "object",
            "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let (value, unknown) = pruned(
            schema,
            json!({"template": {"apiVersion": "v1", "kind": "Pod", "other": 1,
                "metadata": {"name": "n", "odd": 1}, "spec": {"x": 1}}}),
        );
        assert_eq!(
            value["template"],
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {}})
        );
        assert_eq!(
            unknown,
            ["template.other", "template.spec.x", "template.metadata.odd"]
        );
    }

    #[test]
    fn defaults_reach_into_lists_and_replace_nulls() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
            "mode": {"type": "string", "default": "A"},
            "none": {"type": "string", "nullable": true, "default": "B"},
            "gone": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 1}}}}}}}});
        let (mut value, _) = pruned(
            schema.clone(),
            json!({"spec": {"mode": null, "none": null, "gone": null, "list": [{}, {"p": 2}]}}),
        );
        let schema = Structural::compile(&schema);
        default(&schema, &mut value);
        assert_eq!(
            value,
            json!({"spec": {"mode": "A", "none": null, "list": [{"p": 1}, {"p": 2}]}})
        );
        let mut value = json!({});
        default(&schema, &mut value);
        assert_eq!(value, json!({"spec": {"mode": "A", "none": "B"}}));
    }
}
