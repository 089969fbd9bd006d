//! Schemas as they are written: that they are structural, and say nothing that has no meaning.

use super::complete;
use crate::status::Cause;
use regex::Regex;
use serde_json::{Map, Value};

/// Checks a schema and everything in it.
pub fn check(source: &Value, path: &str, status: bool, causes: &mut Vec<Cause>) {
    let mut structural = Vec::new();
    let mut walk = Walk {
        causes: &mut structural,
    };
    walk.root(source, path, status);
    walk.node(source, path, Level::Root, false);
    complete::check(source, path, walk.causes);
    structural.sort_by_key(|c| (c.field.clone(), c.message.clone()));
    structural.dedup();
    causes.append(&mut structural);
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}

pub(super) fn children<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map.get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

pub(super) fn parts<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (usize, &'a Value)> {
    let list = map.get(key).and_then(Value::as_array);
    list.into_iter().flatten().enumerate()
}

pub(super) struct Walk<'a> {
    pub(super) causes: &'a mut Vec<Cause>,
}

impl Walk<'_> {
    pub(super) fn required(&mut self, path: String, hint: &str) {
        self.causes.push(Cause::required(path, hint));
    }

    pub(super) fn forbidden(&mut self, path: String, why: &str) {
        self.causes.push(Cause::forbidden(path, why));
    }

    pub(super) fn invalid(&mut self, path: String, value: &Value, why: &str) {
        self.causes.push(Cause::invalid(path, value, why));
    }

    /// The schema of the whole object.
    fn root(&mut self, source: &Value, path: &str, status: bool) {
        let Some(map) = source.as_object() else {
            return;
        };
        if flag(map, "nullable") {
            self.forbidden(
                format!("{path}.nullable"),
                "nullable cannot be true at the root",
            );
        }
        let kind = text(map, "type");
        if !kind.is_empty() && kind != "object" {
            self.invalid(
                format!("{path}.type"),
                &kind.into(),
                "must be object at the root",
            );
        }
        if map.contains_key("additionalProperties") {
            let why = "must not be used at the root";
            self.forbidden(format!("{path}.additionalProperties"), why);
        }
        // The status is judged by its own part of the schema: more than that would be lost.
        const BESIDE_STATUS: [&str; 5] = ["allOf", "anyOf", "oneOf", "not", "enum"];
        if status && BESIDE_STATUS.iter().any(|key| map.contains_key(*key)) {
            let why = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled";
            self.invalid(path.to_string(), source, why);
        }
        if let Some(metadata) = source.pointer("/properties/metadata") {
            self.metadata(metadata, &format!("{path}.properties[metadata]"));
        }
        for key in META {
            if let Some(found) = source.pointer(&format!("/properties/{key}")) {
                let path = format!("{path}.properties[{key}]");
                self.no_defaults(found, &path, &format!("in top-level {key}"));
                if key != "metadata" && found.get("type") != Some(&"string".into()) {
                    let shown = found.get("type").cloned().unwrap_or_else(|| "".into());
                    self.invalid(format!("{path}.type"), &shown, "must be string");
                }
            }
        }
    }

    /// The metadata of the whole object is given; only names can be restricted.
    fn metadata(&mut self, source: &Value, path: &str) {
        let Some(map) = source.as_object() else {
            return;
        };
        if text(map, "type") != "object" {
            let shown = map.get("type").cloned().unwrap_or_else(|| "".into());
            self.invalid(format!("{path}.type"), &shown, "must be object");
        }
        let known = |key: &String| matches!(key.as_str(), "type" | "properties" | "default");
        let names = children(map, "properties")
            .all(|(key, _)| matches!(key.as_str(), "name" | "generateName"));
        if !names || !map.keys().all(known) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            self.forbidden(path.to_string(), why);
        }
    }

    fn no_defaults(&mut self, source: &Value, path: &str, reason: &str) {
        let Some(map) = source.as_object() else {
            return;
        };
        if map.get("default").is_some_and(|d| !d.is_null()) {
            let why = format!("must not be set {reason}");
            self.forbidden(format!("{path}.default"), &why);
        }
        for (key, inner) in children(map, "properties") {
            self.no_defaults(inner, &format!("{path}.properties[{key}]"), reason);
        }
    }

    fn node(&mut self, source: &Value, path: &str, level: Level, nested: bool) {
        let Some(map) = source.as_object() else {
            return;
        };
        self.unsupported(map, path);
        if nested {
            self.nested(map, path);
        } else {
            self.typed(map, path, level);
            self.lists(map, path);
            self.maps(map, path);
            self.rules(map, path);
        }
        if let Err(e) = Regex::new(text(map, "pattern")) {
            let why = format!("must be a valid regular expression, but isn't: {e}");
            self.invalid(format!("{path}.pattern"), &map["pattern"], &why);
        }
        self.below(map, path, nested);
    }

    fn below(&mut self, map: &Map<String, Value>, path: &str, nested: bool) {
        for (key, inner) in children(map, "properties") {
            self.node(
                inner,
                &format!("{path}.properties[{key}]"),
                Level::Field,
                nested,
            );
        }
        if let Some(inner @ Value::Object(_)) = map.get("additionalProperties") {
            self.node(
                inner,
                &format!("{path}.additionalProperties"),
                Level::Field,
                nested,
            );
        }
        if let Some(inner @ Value::Object(_)) = map.get("items") {
            self.node(inner, &format!("{path}.items"), Level::Item, nested);
        }
        let skipped = int_or_string_form(map);
        for key in ["allOf", "anyOf", "oneOf"] {
            for (i, inner) in parts(map, key) {
                if skipped != Some((key, i)) && !(skipped == Some(("anyOf", 0)) && key == "anyOf") {
                    self.node(inner, &format!("{path}.{key}[{i}]"), Level::Field, true);
                }
            }
        }
        if let Some(inner) = map.get("not") {
            self.node(inner, &format!("{path}.not"), Level::Field, true);
        }
    }

    fn unsupported(&mut self, map: &Map<String, Value>, path: &str) {
        const MEANINGLESS: [&str; 6] = [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ];
        for key in MEANINGLESS.iter().filter(|key| map.contains_key(**key)) {
            self.forbidden(format!("{path}.{key}"), &format!("{key} is not supported"));
        }
        match text(map, "type") {
            "" => {}
            "null" => {
                let why = "type cannot be set to null, use nullable as an alternative";
                self.forbidden(format!("{path}.type"), why);
            }
            kind if TYPES.contains(&kind) => {}
            kind => {
                let cause = Cause::not_supported(format!("{path}.type"), &kind.into(), &TYPES);
                self.causes.push(cause);
            }
        }
        if map.get("items").is_some_and(Value::is_array) {
            self.forbidden(
                format!("{path}.items"),
                "items must be a schema object and not an array",
            );
        }
        if flag(map, "uniqueItems") {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(format!("{path}.uniqueItems"), why);
        }
    }

    /// What must not stand in a part of a combination.
    fn nested(&mut self, map: &Map<String, Value>, path: &str) {
        const EMPTY: [(&str, &str); 13] = [
            ("type", "must be empty to be structural"),
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            (
                "x-kubernetes-preserve-unknown-fields",
                "must be false to be structural",
            ),
            (
                "x-kubernetes-embedded-resource",
                "must be false to be structural",
            ),
            (
                "x-kubernetes-int-or-string",
                "must be false to be structural",
            ),
            (
                "x-kubernetes-list-map-keys",
                "must be empty to be structural",
            ),
            (
                "x-kubernetes-list-type",
                "must be undefined to be structural",
            ),
            (
                "x-kubernetes-map-type",
                "must be undefined to be structural",
            ),
            ("x-kubernetes-validations", "must be empty to be structural"),
        ];
        for (key, why) in EMPTY {
            let set = !matches!(map.get(key), None | Some(Value::Null | Value::Bool(false)));
            if set && map[key] != "" {
                self.forbidden(format!("{path}.{key}"), why);
            }
        }
        if children(map, "properties").any(|(key, _)| key == "metadata") {
            let why = "must not be specified in a nested context";
            self.forbidden(format!("{path}.properties[metadata]"), why);
        }
    }

    fn typed(&mut self, map: &Map<String, Value>, path: &str, level: Level) {
        let kind = text(map, "type");
        let preserve = flag(map, "x-kubernetes-preserve-unknown-fields");
        let int_or_string = flag(map, "x-kubernetes-int-or-string");
        let embedded = flag(map, "x-kubernetes-embedded-resource");
        let at = |key: &str| format!("{path}.{key}");
        if kind == "array" && !map.contains_key("items") {
            self.required(at("items"), "must be specified");
        }
        if embedded && kind != "object" {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            match kind {
                "" => self.required(at("type"), why),
                kind => self.invalid(at("type"), &kind.into(), why),
            }
        } else if kind.is_empty() && !int_or_string && !preserve {
            self.required(
                at("type"),
                match level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    Level::Field => "must not be empty for specified object fields",
                },
            );
        }
        if embedded && map.contains_key("additionalProperties") {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            self.forbidden(at("additionalProperties"), why);
        }
        if embedded && !preserve && children(map, "properties").next().is_none() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.required(at("properties"), why);
        }
        for (set, key) in [
            (preserve, "x-kubernetes-preserve-unknown-fields"),
            (embedded, "x-kubernetes-embedded-resource"),
        ] {
            if int_or_string && set {
                let why = "must be false if x-kubernetes-int-or-string is true";
                self.invalid(at(key), &true.into(), why);
            }
        }
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let key = "x-kubernetes-preserve-unknown-fields";
            self.invalid(at(key), &false.into(), "must be true or undefined");
        }
        let schema_too = map
            .get("additionalProperties")
            .is_some_and(|a| a != &Value::Bool(true));
        if schema_too && children(map, "properties").next().is_some() {
            let why = "additionalProperties and properties are mutual exclusive";
            self.forbidden(at("additionalProperties"), why);
        }
    }
}

/// The one place where a combination may give types: `anyOf: [integer, string]`, by itself or as
/// the first part of `allOf`.
fn int_or_string_form(map: &Map<String, Value>) -> Option<(&'static str, usize)> {
    let form = serde_json::json!([{"type": "integer"}, {"type": "string"}]);
    if map.get("anyOf") == Some(&form) {
        return Some(("anyOf", 0));
    }
    let first = map.get("allOf").and_then(|all| all.get(0))?;
    (first.get("anyOf") == Some(&form)).then_some(("allOf", 0))
}
