//! A CRD's OpenAPI schema, compiled into the form that the walks read.

use super::rules::{self, Rules};
use regex::Regex;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// JSON types of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonType {
    /// A map.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// true or false.
    Boolean,
}

/// Additional keys of a map.
#[derive(Debug, Clone)]
pub enum Additional {
    /// Any value.
    Any,
    /// None.
    Forbidden,
    /// Values of this form.
    Schema(Box<Structural>),
}

/// What a list is, for merging and uniqueness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// One value as a whole.
    Atomic,
    /// Each value once.
    Set,
    /// Each combination of these keys once.
    Map(Vec<String>),
}

/// One node of a schema.
#[derive(Debug, Clone, Default)]
pub struct Structural {
    /// The type; None where `x-kubernetes-int-or-string` or nothing is said.
    pub kind: Option<JsonType>,
    /// null is a value.
    pub nullable: bool,
    /// Number or text.
    pub int_or_string: bool,
    /// Unknown keys are kept.
    pub preserve_unknown: bool,
    /// The value is a whole Kubernetes object.
    pub embedded: bool,
    /// Known keys.
    pub properties: BTreeMap<String, Structural>,
    /// Other keys.
    pub additional: Option<Additional>,
    /// Form of the items of a list.
    pub items: Option<Box<Structural>>,
    /// Keys that must be there.
    pub required: Vec<String>,
    /// Allowed values.
    pub allowed: Vec<Value>,
    /// Value where none is given.
    pub default: Option<Value>,
    /// Limits of numbers, lengths and counts.
    pub limits: Limits,
    /// OpenAPI format.
    pub format: String,
    /// All of these must hold.
    pub all_of: Vec<Structural>,
    /// One or more of these must hold.
    pub any_of: Vec<Structural>,
    /// Exactly one of these must hold.
    pub one_of: Vec<Structural>,
    /// This must not hold.
    pub not: Option<Box<Structural>>,
    /// How items of a list are told apart.
    pub list_kind: Option<ListKind>,
    /// Whether a map is owned as a whole.
    pub atomic_map: bool,
    /// Rules at this node, compiled.
    pub rules: Option<Arc<Rules>>,
}

/// Limits of a value.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Smallest number, and whether it is excluded.
    pub minimum: Option<(f64, bool)>,
    /// Largest number, and whether it is excluded.
    pub maximum: Option<(f64, bool)>,
    /// Number must be a multiple.
    pub multiple_of: Option<f64>,
    /// Characters of a text.
    pub min_length: Option<u64>,
    /// Characters of a text.
    pub max_length: Option<u64>,
    /// Items of a list.
    pub min_items: Option<u64>,
    /// Items of a list.
    pub max_items: Option<u64>,
    /// Keys of a map.
    pub min_properties: Option<u64>,
    /// Keys of a map.
    pub max_properties: Option<u64>,
    /// A text must match.
    pub pattern: Option<Regex>,
}

impl Structural {
    /// Reads `openAPIV3Schema` and compiles its rules. What it cannot hold (checked before by
    /// `check`) is left out.
    pub fn compile(source: &Value) -> Structural {
        let mut schema = Self::read(source);
        rules::compile(&mut schema, source, true);
        schema
    }

    fn read(source: &Value) -> Structural {
        let get = |key: &str| source.get(key);
        let flag = |key: &str| get(key) == Some(&Value::Bool(true));
        let many = |key: &str| -> Vec<Structural> {
            get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(Self::read)
                .collect()
        };
        let additional = match get("additionalProperties") {
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(Value::Bool(false)) => Some(Additional::Forbidden),
            Some(schema @ Value::Object(_)) => {
                Some(Additional::Schema(Box::new(Self::read(schema))))
            }
            _ => None,
        };
        let strings = |key: &str| -> Vec<String> {
            let list = get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|v| v.as_str().map(str::to_string))
                .collect()
        };
        Structural {
            kind: kind(get("type")),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties: get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), Self::read(v)))
                .collect(),
            additional,
            items: get("items")
                .filter(|i| i.is_object())
                .map(|i| Box::new(Self::read(i))),
            required: strings("required"),
            allowed: get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            default: get("default").filter(|d| !d.is_null()).cloned(),
            limits: limits(source),
            format: get("format")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string(),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: get("not").map(|n| Box::new(Self::read(n))),
            list_kind: match get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("map") => Some(ListKind::Map(strings("x-kubernetes-list-map-keys"))),
                Some("set") => Some(ListKind::Set),
                Some(_) => Some(ListKind::Atomic),
                None => None,
            },
            atomic_map: get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            rules: None,
        }
    }

    /// The schema at a path of names.
    pub fn at(&self, path: &str) -> Option<&Structural> {
        path.split('.')
            .try_fold(self, |schema, name| schema.properties.get(name))
    }

    /// Whether it describes a text, a truth value or a whole number.
    pub fn is_plain(&self) -> bool {
        use JsonType::{Boolean, Integer, String};
        matches!(self.kind, Some(String | Boolean | Integer))
    }

    /// The schema of a key of a map.
    pub fn child(&self, key: &str) -> Option<&Structural> {
        self.properties.get(key).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        })
    }
}

fn kind(value: Option<&Value>) -> Option<JsonType> {
    Some(match value?.as_str()? {
        "object" => JsonType::Object,
        "array" => JsonType::Array,
        "string" => JsonType::String,
        "integer" => JsonType::Integer,
        "number" => JsonType::Number,
        "boolean" => JsonType::Boolean,
        _ => return None,
    })
}

fn limits(source: &Value) -> Limits {
    let number = |key: &str| source.get(key).and_then(Value::as_f64);
    let count = |key: &str| source.get(key).and_then(Value::as_u64);
    let flag = |key: &str| source.get(key) == Some(&Value::Bool(true));
    Limits {
        minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
        maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        pattern: source
            .get("pattern")
            .and_then(Value::as_str)
            .and_then(|p| Regex::new(p).ok()),
    }
}
