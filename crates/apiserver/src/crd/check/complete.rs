//! Schemas are complete: everything that a combination speaks of is specified outside of it too.

use super::schema::{children, parts};
use crate::status::Cause;
use serde_json::Value;

/// Checks a schema and everything below it.
pub fn check(source: &Value, path: &str, causes: &mut Vec<Cause>) {
    complete(source, source, path, path, causes);
}

fn complete(source: &Value, spine: &Value, spine_path: &str, path: &str, causes: &mut Vec<Cause>) {
    let Some(map) = source.as_object() else {
        return;
    };
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in parts(map, key) {
            covered(
                part,
                Some(spine),
                spine_path,
                &format!("{path}.{key}[{i}]"),
                causes,
            );
        }
    }
    if let Some(part) = map.get("not") {
        covered(
            part,
            Some(spine),
            spine_path,
            &format!("{path}.not"),
            causes,
        );
    }
    if std::ptr::eq(source, spine) {
        for (key, inner) in children(map, "properties") {
            let path = format!("{path}.properties[{key}]");
            complete(inner, inner, &path, &path, causes);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner @ Value::Object(_)) = map.get(key) {
                let path = format!("{path}.{key}");
                complete(inner, inner, &path, &path, causes);
            }
        }
    }
}

fn covered(
    part: &Value,
    spine: Option<&Value>,
    spine_path: &str,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let Some(spine) = spine else {
        let hint = format!("because it is defined in {path}");
        causes.push(Cause::required(spine_path, &hint));
        return;
    };
    complete(part, spine, spine_path, path, causes);
    if let Some(items) = part.get("items") {
        let spine = spine.get("items");
        covered(
            items,
            spine,
            &format!("{spine_path}.items"),
            &format!("{path}.items"),
            causes,
        );
    }
    for (key, inner) in part
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let spine = spine.get("properties").and_then(|p| p.get(key));
        let spine_path = format!("{spine_path}.properties[{key}]");
        covered(
            inner,
            spine,
            &spine_path,
            &format!("{path}.properties[{key}]"),
            causes,
        );
    }
}
