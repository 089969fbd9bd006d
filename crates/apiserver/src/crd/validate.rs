//! Judges a custom resource: schema, scale, embedded objects, uniqueness, rules.

use super::{CustomVersion, correlate::child, openapi, rules, schema::Structural, unique};
use crate::{
    ops::Part,
    status::{Cause, shown_value},
};
use serde_json::Value;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Why the object is refused.
    pub causes: Vec<Cause>,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Judges a new object.
pub fn on_create(version: &CustomVersion, value: &Value) -> Verdict {
    judge(version, value, None, Part::Object)
}

/// Judges a changed object; a part that did not change is left in peace.
pub fn on_update(version: &CustomVersion, value: &Value, old: &Value, part: Part) -> Verdict {
    judge(version, value, Some(old), part)
}

fn judge(version: &CustomVersion, value: &Value, old: Option<&Value>, part: Part) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(schema) = version.schema.as_deref() else {
        return verdict;
    };
    let causes = &mut verdict.causes;
    if part == Part::Status {
        let key = "status";
        if let (Some(schema), Some(status)) = (schema.child(key), value.get(key)) {
            let old = old.and_then(|o| o.get(key));
            openapi::check(schema, status, old, key, causes);
        }
    } else {
        openapi::check(schema, value, old, "", causes);
        scale_spec(version, value, causes);
    }
    scale_status(version, value, causes);
    embedded(schema, value, "", causes);
    if old.is_none_or(|old| repeated(schema, old).is_empty()) {
        causes.extend(repeated(schema, value));
    }
    if blocking(causes) {
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        causes.push(Cause::invalid("<nil>", &Value::Null, why));
    } else {
        rules::check(schema, value, old, causes, &mut verdict.warnings);
    }
    verdict
}

fn repeated(schema: &Structural, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    unique::check(schema, value, "", &mut causes);
    causes
}

/// Whether rules could not be evaluated safely on such an object.
fn blocking(causes: &[Cause]) -> bool {
    const BLOCKING: [&str; 5] = [
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    ];
    causes.iter().any(|cause| BLOCKING.contains(&cause.reason))
}

/// A whole embedded object says what it is.
fn embedded(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for key in ["apiVersion", "kind"].iter().filter(|_| schema.embedded) {
                let field = child(path, key);
                match map.get(*key).map(Value::as_str) {
                    None => causes.push(Cause::required(field, "")),
                    Some(Some("")) => {
                        causes.push(Cause::invalid(field, &"".into(), "must not be empty"));
                    }
                    Some(Some(_)) => {}
                    Some(None) => {
                        causes.push(Cause::invalid(field, &map[*key], "must be a string"));
                    }
                }
            }
            for (key, item) in map {
                if let Some(inner) = schema.child(key) {
                    embedded(inner, item, &child(path, key), causes);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (i, item) in list.iter().enumerate() {
                    embedded(items, item, &format!("{path}[{i}]"), causes);
                }
            }
        }
        _ => {}
    }
}

fn scale_spec(version: &CustomVersion, value: &Value, causes: &mut Vec<Cause>) {
    if let Some(scale) = &version.scale {
        replicas(value, &scale.spec, causes);
    }
}

fn scale_status(version: &CustomVersion, value: &Value, causes: &mut Vec<Cause>) {
    let Some(scale) = &version.scale else { return };
    replicas(value, &scale.status, causes);
    if let Some(path) = &scale.selector
        && let Some(found) = at(value, path)
        && !found.is_string()
    {
        causes.push(accessor(path, found, "string"));
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    value.pointer(&path.replace('.', "/"))
}

fn replicas(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(found) = at(value, path) else { return };
    match found.as_i64() {
        None => causes.push(accessor(path, found, "int64")),
        Some(n) if n < 0 => {
            causes.push(Cause::invalid(
                path,
                found,
                "should be a non-negative integer",
            ));
        }
        Some(n) if n > i64::from(i32::MAX) => {
            let why = format!("should be less than or equal to {}", i32::MAX);
            causes.push(Cause::invalid(path, found, &why));
        }
        Some(_) => {}
    }
}

fn accessor(path: &str, found: &Value, wanted: &str) -> Cause {
    let why = format!(
        "{path} accessor error: {} is not of the expected type {wanted}",
        shown_value(found)
    );
    Cause::invalid(path, &Value::from(0), &why)
}

#[cfg(test)]
mod tests;
