//! The part of validation that OpenAPI describes: types, limits, patterns, required keys and
//! combinations, with the messages and paths of the real API server.
//!
//! On updates, what stayed as it was is not judged again ("ratcheting"): an object that was
//! stored under a laxer schema can be changed elsewhere.

use super::{
    correlate::{OldItems, child, shown},
    formats,
    schema::{Additional, JsonType, Structural},
};
use crate::status::Cause;
use serde_json::{Map, Value};

/// Reports what a schema forbids. Paths in messages start at the value, those of the causes at
/// `prefix`.
pub fn check(
    schema: &Structural,
    value: &Value,
    old: Option<&Value>,
    prefix: &str,
    causes: &mut Vec<Cause>,
) {
    let mut walk = Walk {
        prefix,
        causes: Vec::new(),
        visited: 0,
    };
    walk.node(schema, value, old, "");
    for cause in walk.causes {
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
}

struct Walk<'a> {
    prefix: &'a str,
    causes: Vec<Cause>,
    /// Values looked at: of several alternatives that all fail, the one that got furthest is
    /// the one that was meant.
    visited: usize,
}

impl Walk<'_> {
    fn node(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        if old != Some(value) {
            self.judge(schema, value, old, path);
        }
    }

    fn judge(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        self.visited += 1;
        self.kind(schema, value, path);
        if value.is_null() {
            return self.allowed(schema, value, path);
        }
        self.combinations(schema, value, old, path);
        match value {
            Value::String(text) => self.text(schema, text, value, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Array(list) => self.list(schema, list, old, path),
            _ => {}
        }
        self.allowed(schema, value, path);
        if let Value::Object(map) = value {
            self.object(schema, map, old, path);
        }
    }

    /// Where a cause stands.
    fn field(&self, path: &str) -> String {
        match path {
            "" => shown(self.prefix.to_string()),
            path => child(self.prefix, path),
        }
    }

    fn invalid(&mut self, path: &str, value: &Value, why: &str) {
        let cause = Cause::invalid(self.field(path), value, &format!("{path} in body {why}"));
        self.causes.push(cause);
    }

    /// A message about the value as a whole, which the real server puts at the root.
    fn general(&mut self, path: &str, why: &str) {
        let message = format!("Invalid value: \"\": {path:?} {why}");
        self.causes.push(Cause {
            reason: "FieldValueInvalid",
            field: self.field(""),
            message,
        });
    }

    fn kind(&mut self, schema: &Structural, value: &Value, path: &str) {
        let (wanted, fits) = match (schema.int_or_string, schema.kind) {
            (true, _) => ("integer,string", value.is_string() || is_whole(value)),
            (false, None) => return,
            (false, Some(kind)) => match kind {
                JsonType::Object => ("object", value.is_object()),
                JsonType::Array => ("array", value.is_array()),
                JsonType::String => ("string", value.is_string()),
                JsonType::Integer => ("integer", is_whole(value)),
                JsonType::Number => ("number", value.is_number()),
                JsonType::Boolean => ("boolean", value.is_boolean()),
            },
        };
        if fits || (value.is_null() && schema.nullable) {
            return;
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
        let why = format!("{path} in body must be of type {wanted}: {found:?}");
        let cause = Cause::wrong_type(self.field(path), value, &why);
        self.causes.push(cause);
    }

    fn allowed(&mut self, schema: &Structural, value: &Value, path: &str) {
        if schema.allowed.is_empty() || schema.allowed.contains(value) {
            return;
        }
        let allowed: Vec<String> = schema
            .allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
            .collect();
        let cause = Cause::unsupported(self.field(path), value, &allowed);
        self.causes.push(cause);
    }

    fn text(&mut self, schema: &Structural, text: &str, value: &Value, path: &str) {
        let limits = &schema.limits;
        let length = text.chars().count() as u64;
        if let Some(limit) = limits.max_length.filter(|l| length > *l) {
            let unit = if limit == 1 { "byte" } else { "bytes" };
            let message = format!("Too long: may not be more than {limit} {unit}");
            let field = self.field(path);
            let reason = "FieldValueTooLong";
            self.causes.push(Cause {
                reason,
                field,
                message,
            });
        } else if let Some(limit) = limits.min_length.filter(|l| length < *l) {
            self.invalid(
                path,
                value,
                &format!("should be at least {limit} chars long"),
            );
        } else if let Some(pattern) = limits.pattern.as_ref().filter(|p| !p.is_match(text)) {
            self.invalid(path, value, &format!("should match '{pattern}'"));
        }
        if !formats::fits(&schema.format, text) {
            let why = format!("{path} in body must be of type {}: {text:?}", schema.format);
            let mut cause = Cause::invalid(self.field(path), value, &why);
            cause.reason = "FieldValueTypeInvalid";
            self.causes.push(cause);
        }
    }

    fn number(&mut self, schema: &Structural, value: &Value, path: &str) {
        let Some(n) = value.as_f64() else { return };
        let limits = &schema.limits;
        if let Some(of) = limits.multiple_of
            && (n / of).fract() != 0.0
        {
            self.invalid(path, value, &format!("should be a multiple of {of}"));
        }
        match limits.maximum {
            Some((max, true)) if n >= max => {
                self.invalid(path, value, &format!("should be less than {max}"));
            }
            Some((max, false)) if n > max => {
                self.invalid(
                    path,
                    value,
                    &format!("should be less than or equal to {max}"),
                );
            }
            _ => {}
        }
        match limits.minimum {
            Some((min, true)) if n <= min => {
                self.invalid(path, value, &format!("should be greater than {min}"));
            }
            Some((min, false)) if n < min => {
                self.invalid(
                    path,
                    value,
                    &format!("should be greater than or equal to {min}"),
                );
            }
            _ => {}
        }
    }

    fn too_many(&mut self, path: &str, count: u64, limit: u64) {
        let unit = if limit == 1 { "item" } else { "items" };
        let cause = Cause {
            reason: "FieldValueTooMany",
            field: self.field(path),
            message: format!("Too many: {count}: must have at most {limit} {unit}"),
        };
        self.causes.push(cause);
    }

    fn list(&mut self, schema: &Structural, list: &[Value], old: Option<&Value>, path: &str) {
        if let Some(items) = &schema.items {
            let before = OldItems::of(schema, old);
            for (i, item) in list.iter().enumerate() {
                self.node(items, item, before.find(item), &format!("{path}[{i}]"));
            }
        }
        let count = list.len() as u64;
        if let Some(limit) = schema.limits.min_items.filter(|l| count < *l) {
            let why = format!("should have at least {limit} items");
            self.invalid(path, &count.into(), &why);
        }
        if let Some(limit) = schema.limits.max_items.filter(|l| count > *l) {
            self.too_many(path, count, limit);
        }
    }

    fn object(
        &mut self,
        schema: &Structural,
        map: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
    ) {
        let count = map.len() as u64;
        if let Some(limit) = schema.limits.min_properties.filter(|l| count < *l) {
            let why = format!("should have at least {limit} properties");
            self.invalid(path, &count.into(), &why);
        }
        if let Some(limit) = schema.limits.max_properties.filter(|l| count > *l) {
            self.too_many(path, count, limit);
        }
        for (key, item) in map {
            match (schema.child(key), &schema.additional) {
                (Some(inner), _) => {
                    let before = old.and_then(|o| o.get(key));
                    self.node(inner, item, before, &child(path, key));
                }
                (None, Some(Additional::Forbidden)) => {
                    let why = format!("{path}.{key} in body is a forbidden property");
                    let cause = Cause::invalid(self.field(path), &key.as_str().into(), &why);
                    self.causes.push(cause);
                }
                _ => {}
            }
        }
        for key in schema.required.iter().filter(|key| !map.contains_key(*key)) {
            let cause = Cause::required(self.field(&child(path, key)), "");
            self.causes.push(cause);
        }
    }

    /// What an alternative finds, by itself.
    fn alone(&self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) -> Self {
        let mut walk = Walk {
            prefix: self.prefix,
            causes: Vec::new(),
            visited: 0,
        };
        walk.judge(schema, value, old, path);
        walk
    }

    fn combinations(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) {
        let tried = |walk: &Self, parts: &[Structural]| -> Vec<Self> {
            let one = |part| walk.alone(part, value, old, path);
            parts.iter().map(one).collect()
        };
        let any = tried(self, &schema.any_of);
        if !any.is_empty() && any.iter().all(|t| !t.causes.is_empty()) {
            self.general(path, "must validate at least one schema (anyOf)");
            self.nearest(any);
        }
        let one = tried(self, &schema.one_of);
        let count = one.iter().filter(|t| t.causes.is_empty()).count();
        if !one.is_empty() && count == 0 {
            self.general(
                path,
                "must validate one and only one schema (oneOf). Found none valid",
            );
            self.nearest(one);
        } else if count > 1 {
            let why = format!(
                "must validate one and only one schema (oneOf). Found {count} valid alternatives"
            );
            self.general(path, &why);
        }
        let all = tried(self, &schema.all_of);
        let held = all.iter().filter(|t| t.causes.is_empty()).count();
        let of = all.len();
        self.causes.extend(all.into_iter().flat_map(|t| t.causes));
        if held < of {
            let tail = if held == 0 { ". None validated" } else { "" };
            self.general(
                path,
                &format!("must validate all the schemas (allOf){tail}"),
            );
        }
        if let Some(not) = &schema.not
            && self.alone(not, value, old, path).causes.is_empty()
        {
            self.general(path, "must not validate the schema (not)");
        }
    }

    /// Adds what is wrong with the alternative that got furthest.
    fn nearest(&mut self, tried: Vec<Self>) {
        let best = tried
            .into_iter()
            .reduce(|best, next| match next.visited > best.visited {
                true => next,
                false => best,
            });
        self.causes.extend(best.into_iter().flat_map(|t| t.causes));
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
}
