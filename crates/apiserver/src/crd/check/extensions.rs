//! The extensions of Kubernetes in a schema: kinds of lists and maps, rules.

use super::schema::{Walk, flag, parts, text};
use crate::status::Cause;
use serde_json::{Map, Value};

impl Walk<'_> {
    pub(super) fn maps(&mut self, map: &Map<String, Value>, path: &str) {
        let kind = text(map, "x-kubernetes-map-type");
        if kind.is_empty() {
            return;
        }
        let why = "must be object if x-kubernetes-map-type is specified";
        match text(map, "type") {
            "object" => {}
            "" => self.required(format!("{path}.type"), why),
            other => self.invalid(format!("{path}.type"), &other.into(), why),
        }
        if !matches!(kind, "atomic" | "granular") {
            let field = format!("{path}.x-kubernetes-map-type");
            let cause = Cause::not_supported(field, &kind.into(), &["atomic", "granular"]);
            self.causes.push(cause);
        }
    }

    pub(super) fn lists(&mut self, map: &Map<String, Value>, path: &str) {
        let at = |key: &str| format!("{path}.{key}");
        let kind = text(map, "x-kubernetes-list-type");
        let keys: Vec<&Value> = parts(map, "x-kubernetes-list-map-keys")
            .map(|(_, k)| k)
            .collect();
        if !keys.is_empty() && kind != "map" {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            match kind {
                "" => self.required(at("x-kubernetes-list-type"), why),
                kind => self.invalid(at("x-kubernetes-list-type"), &kind.into(), why),
            }
        }
        if kind.is_empty() {
            return;
        }
        let why = "must be array if x-kubernetes-list-type is specified";
        match text(map, "type") {
            "array" => {}
            "" => self.required(at("type"), why),
            other => self.invalid(at("type"), &other.into(), why),
        }
        let items = map.get("items").and_then(Value::as_object);
        match kind {
            "atomic" => {}
            "set" => self.set(items, path),
            "map" => self.map_list(map, &keys, items, path),
            other => {
                let field = at("x-kubernetes-list-type");
                let allowed = ["atomic", "map", "set"];
                self.causes
                    .push(Cause::not_supported(field, &other.into(), &allowed));
            }
        }
        if kind != "atomic" && items.is_some_and(|i| flag(i, "nullable")) {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            self.forbidden(at("items.nullable"), &why);
        }
    }

    /// Items of a set are compared as a whole, so they must be owned as a whole.
    fn set(&mut self, items: Option<&Map<String, Value>>, path: &str) {
        let Some(items) = items else { return };
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (key, fits) = match text(items, "type") {
            "array" => (
                "x-kubernetes-list-type",
                matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
            ),
            "object" => (
                "x-kubernetes-map-type",
                text(items, "x-kubernetes-map-type") == "atomic",
            ),
            _ => return,
        };
        if !fits {
            let shown = items.get(key).unwrap_or(&Value::Null);
            self.invalid(format!("{path}.items.{key}"), shown, why);
        }
    }

    /// Items of a map need their keys, as scalars that are always there.
    fn map_list(
        &mut self,
        map: &Map<String, Value>,
        keys: &[&Value],
        items: Option<&Map<String, Value>>,
        path: &str,
    ) {
        let field = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.required(
                field.clone(),
                "must not be empty if x-kubernetes-list-type is map",
            );
        }
        let Some(items) = items else {
            let why = "must have a schema if x-kubernetes-list-type is map";
            return self.required(format!("{path}.items"), why);
        };
        if text(items, "type") != "object" {
            let shown = text(items, "type").into();
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            return self.invalid(format!("{path}.items.type"), &shown, why);
        }
        let shown = map
            .get("x-kubernetes-list-map-keys")
            .unwrap_or(&Value::Null);
        for (i, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            let at = format!("{path}.items.properties[{name}]");
            let Some(property) = items.get("properties").and_then(|p| p.get(name)) else {
                self.invalid(
                    field.clone(),
                    shown,
                    "entries must all be names of item properties",
                );
                continue;
            };
            if matches!(property["type"].as_str(), Some("array" | "object")) {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.invalid(format!("{at}.type"), &property["type"], why);
            }
            if keys[..i].contains(key) {
                self.invalid(field.clone(), shown, "must not contain duplicate entries");
            }
            let needed = parts(items, "required").any(|(_, r)| r == *key);
            if !needed && property.get("default").is_none_or(Value::is_null) {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.required(format!("{at}.default"), why);
            }
            if property["nullable"] == true {
                let why =
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbidden(format!("{at}.nullable"), why);
            }
        }
    }

    /// What rules say beside their expressions.
    pub(super) fn rules(&mut self, map: &Map<String, Value>, path: &str) {
        for (i, rule) in parts(map, "x-kubernetes-validations") {
            let Some(rule) = rule.as_object() else {
                continue;
            };
            let at = |key: &str| format!("{path}.x-kubernetes-validations[{i}].{key}");
            let broken = |text: &str| text.contains(['\n', '\r']);
            let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
            if source.is_empty() {
                self.required(at("rule"), "rule is not specified");
            } else if !message.is_empty() && message.trim().is_empty() {
                self.invalid(
                    at("message"),
                    &message.into(),
                    "must be non-empty if specified",
                );
            } else if broken(message.trim()) {
                self.invalid(
                    at("message"),
                    &message.into(),
                    "must not contain line breaks",
                );
            } else if broken(source) && message.trim().is_empty() {
                let why = "message must be specified if rule contains line breaks";
                self.required(at("message"), why);
            }
            let expression = text(rule, "messageExpression");
            if !expression.is_empty() && expression.trim().is_empty() {
                let why = "messageExpression must be non-empty if specified";
                self.required(at("messageExpression"), why);
            }
            const REASONS: [&str; 4] = [
                "FieldValueDuplicate",
                "FieldValueForbidden",
                "FieldValueInvalid",
                "FieldValueRequired",
            ];
            let reason = text(rule, "reason");
            if !reason.is_empty() && !REASONS.contains(&reason) {
                let cause = Cause::not_supported(at("reason"), &reason.into(), &REASONS);
                self.causes.push(cause);
            }
            let field = text(rule, "fieldPath");
            if !field.is_empty() && field.trim().is_empty() {
                self.invalid(
                    at("fieldPath"),
                    &field.into(),
                    "must be non-empty if specified",
                );
            } else if broken(field) {
                self.invalid(
                    at("fieldPath"),
                    &field.into(),
                    "must not contain line breaks",
                );
            }
        }
    }
}
