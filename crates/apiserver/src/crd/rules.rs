//! Validation rules in CEL (`x-kubernetes-validations`): compiled once with the schema that they
//! stand in, evaluated on each object that is written.

use super::{
    correlate::{OldItems, child, entry, shown},
    schema::{Additional, JsonType, Structural},
};
use crate::{
    cel::{self, Program, Type},
    object,
    status::{Cause, shown_value},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The rules of one node of a schema.
#[derive(Debug)]
pub struct Rules {
    /// What `self` is.
    kind: Type,
    /// In the order of the schema.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// The rule as it was written.
    pub source: Value,
    /// The expression, or why it is none.
    pub program: Result<Program, String>,
    /// The expression that makes the message, or why it is none.
    pub message: Option<Result<Program, String>>,
    /// Whether `oldSelf` may be missing.
    pub optional_old: bool,
    /// The field that the rule is about, below the node.
    field: String,
}

impl Rule {
    fn text(&self, key: &str) -> &str {
        object::text(&self.source, &format!("/{key}")).trim()
    }

    /// Whether the rule compares with the old value.
    pub fn uses_old(&self) -> bool {
        self.program.as_ref().is_ok_and(|p| p.uses("oldSelf"))
    }

    /// How the rule is called in errors.
    fn name(&self) -> &str {
        match self.text("message") {
            "" => self.text("rule"),
            message => message,
        }
    }

    fn compile(schema: &Structural, kind: &Type, source: &Value) -> Rule {
        let optional_old = source.get("optionalOldSelf") == Some(&Value::Bool(true));
        let old = match optional_old {
            true => Type::optional(kind.clone()),
            false => kind.clone(),
        };
        let variables = [("self", kind.clone()), ("oldSelf", old)];
        let compile = |key: &str, wanted: Type, why: &str| {
            let text = source.get(key).and_then(Value::as_str).unwrap_or_default();
            let program = Program::compile(text, &variables)?;
            match program.result() {
                Type::Dyn => Ok(program),
                found if *found == wanted => Ok(program),
                _ => Err(why.to_string()),
            }
        };
        let program = compile("rule", Type::Bool, "cel expression must evaluate to a bool");
        let message = source.get("messageExpression").map(|_| {
            let why = "messageExpression must evaluate to a string";
            compile("messageExpression", Type::String, why)
        });
        let path = source.get("fieldPath").and_then(Value::as_str);
        Rule {
            program,
            message,
            optional_old,
            field: path
                .and_then(|p| field_path(schema, p).ok())
                .unwrap_or_default(),
            source: source.clone(),
        }
    }
}

/// Compiles the rules of a schema and everything below it.
pub fn compile(schema: &mut Structural, source: &Value, root: bool) {
    let rules = source
        .get("x-kubernetes-validations")
        .and_then(Value::as_array);
    if let Some(rules) = rules.filter(|r| !r.is_empty()) {
        let kind = kind(schema, root).unwrap_or(Type::Dyn);
        let compiled = rules.iter().map(|r| Rule::compile(schema, &kind, r));
        schema.rules = Some(Arc::new(Rules {
            rules: compiled.collect(),
            kind,
        }));
    }
    for (key, property) in &mut schema.properties {
        let embedded = property.embedded;
        compile(property, &source["properties"][key], embedded);
    }
    if let Some(Additional::Schema(inner)) = &mut schema.additional {
        let embedded = inner.embedded;
        compile(inner, &source["additionalProperties"], embedded);
    }
    if let Some(items) = &mut schema.items {
        let embedded = items.embedded;
        compile(items, &source["items"], embedded);
    }
}

/// The type that expressions see; None for what they do not see.
fn kind(schema: &Structural, root: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    Some(match schema.kind? {
        JsonType::Array => {
            let items = schema.items.as_ref()?;
            Type::list(kind(items, items.embedded)?)
        }
        JsonType::Object => match &schema.additional {
            Some(Additional::Schema(inner)) => Type::map(kind(inner, inner.embedded)?),
            _ => fields(schema, root),
        },
        JsonType::String => match schema.format.as_str() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        JsonType::Boolean => Type::Bool,
        JsonType::Number => Type::Double,
        JsonType::Integer => Type::Int,
    })
}

fn fields(schema: &Structural, root: bool) -> Type {
    let known = schema.properties.iter().filter_map(|(name, property)| {
        Some((cel::escape(name)?, kind(property, property.embedded)?))
    });
    let mut fields: BTreeMap<String, Type> = known.collect();
    if root {
        let names = ["name", "generateName"].map(|n| (n.to_string(), Type::String));
        fields.insert("apiVersion".into(), Type::String);
        fields.insert("kind".into(), Type::String);
        let metadata = Type::Object(Arc::new(names.into()));
        fields.insert("metadata".into(), metadata);
    }
    Type::Object(Arc::new(fields))
}

/// Reads a `fieldPath` (`.a.b`, `['a']`, `.map['k']`) and gives the path that errors show.
pub fn field_path(schema: &Structural, text: &str) -> Result<String, String> {
    let mut here = Some(schema);
    let mut path = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix("['") {
            Some(quoted) => {
                let (name, after) = quoted
                    .split_once("']")
                    .ok_or("unexpected end of JSON path")?;
                (name.replace("\\'", "'").replace("\\\\", "\\"), after)
            }
            None => {
                let plain = rest
                    .strip_prefix('.')
                    .ok_or_else(|| format!("expected [ or . but got: {rest}"))?;
                let end = plain.find(['.', '[']).unwrap_or(plain.len());
                (plain[..end].to_string(), &plain[end..])
            }
        };
        let unknown = || "does not refer to a valid field".to_string();
        let node = here.ok_or_else(unknown)?;
        path = match (node.properties.get(&name), &node.additional) {
            (Some(property), _) => {
                here = Some(property);
                child(&path, &name)
            }
            (None, Some(Additional::Schema(inner))) if node.properties.is_empty() => {
                here = Some(inner);
                entry(&path, &name)
            }
            _ => return Err(unknown()),
        };
        rest = after;
    }
    Ok(path)
}

/// Evaluates all rules of a schema. Rules that fail where nothing has changed only warn, unless
/// they compare with the old value.
pub fn check(
    schema: &Structural,
    value: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
    warnings: &mut Vec<String>,
) {
    let mut walk = Walk { causes, warnings };
    walk.node(schema, value, old, false, "");
}

struct Walk<'a> {
    causes: &'a mut Vec<Cause>,
    warnings: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn node(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        inside_unchanged: bool,
        path: &str,
    ) {
        if value.is_null() {
            return;
        }
        let unchanged = match old {
            Some(old) => old == value,
            None => inside_unchanged,
        };
        if let Some(rules) = &schema.rules {
            self.rules(rules, value, old.filter(|o| !o.is_null()), unchanged, path);
        }
        match value {
            Value::Object(map) => {
                for (key, item) in map {
                    let Some(inner) = schema.child(key) else {
                        continue;
                    };
                    let path = match schema.properties.contains_key(key) {
                        true => child(path, key),
                        false => entry(path, key),
                    };
                    let before = old.and_then(|o| o.get(key));
                    self.node(inner, item, before, unchanged, &path);
                }
            }
            Value::Array(list) => {
                let Some(items) = &schema.items else { return };
                let before = OldItems::of(schema, old);
                for (i, item) in list.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    self.node(items, item, before.find(item), unchanged, &path);
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        rules: &Rules,
        value: &Value,
        old: Option<&Value>,
        unchanged: bool,
        path: &str,
    ) {
        let own = cel::from_json(&rules.kind, value);
        let old = old.map(|old| cel::from_json(&rules.kind, old));
        for rule in &rules.rules {
            let old = match rule.optional_old {
                true => Some(cel::optional(old.clone())),
                false => old.clone(),
            };
            let Some(cause) = judge(rule, &own, old.as_ref(), value, path) else {
                continue;
            };
            match unchanged && !rule.uses_old() {
                true => self
                    .warnings
                    .push(format!("{}: {}", cause.field, cause.message)),
                false => self.causes.push(cause),
            }
        }
    }
}

/// What one rule says about a value.
fn judge(
    rule: &Rule,
    own: &cel::Value,
    old: Option<&cel::Value>,
    value: &Value,
    path: &str,
) -> Option<Cause> {
    let failed = |why: String| {
        let kind = match value {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            _ => "number",
        };
        let field = shown(path.to_string());
        Some(Cause::invalid(field, &kind.into(), &why))
    };
    let program = match &rule.program {
        Ok(program) => program,
        Err(why) => return failed(format!("rule compile error: {why}")),
    };
    let mut variables = vec![("self", own)];
    match old {
        Some(old) => variables.push(("oldSelf", old)),
        // A transition needs something to come from.
        None if program.uses("oldSelf") => return None,
        None => {}
    }
    match program.holds(&variables) {
        Ok(true) => None,
        Ok(false) => Some(refusal(rule, &variables, value, path)),
        Err(why) if why == "no such overload" => failed(format!(
            "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
            rule.name()
        )),
        Err(why) => failed(format!("{why} evaluating rule: {}", rule.name())),
    }
}

fn refusal(rule: &Rule, variables: &[(&str, &cel::Value)], value: &Value, path: &str) -> Cause {
    let field = match rule.field.as_str() {
        "" => path.to_string(),
        // A path that begins with a key of a map needs no dot.
        below if below.starts_with('[') => format!("{path}{below}"),
        below => child(path, below),
    };
    let field = shown(field);
    let why = computed_message(rule, variables).unwrap_or_else(|| match rule.text("message") {
        "" => format!("failed rule: {}", rule.name()),
        message => message.to_string(),
    });
    let whole = value.is_object() || value.is_array();
    let with_value = |what: &str| match whole {
        true => what.to_string(),
        false => format!("{what}: {}", shown_value(value)),
    };
    let (reason, message) = match rule.text("reason") {
        "FieldValueForbidden" => ("FieldValueForbidden", format!("Forbidden: {why}")),
        "FieldValueRequired" => ("FieldValueRequired", format!("Required value: {why}")),
        "FieldValueDuplicate" => ("FieldValueDuplicate", with_value("Duplicate value")),
        _ => (
            "FieldValueInvalid",
            format!("{}: {why}", with_value("Invalid value")),
        ),
    };
    Cause {
        reason,
        field,
        message,
    }
}

/// Longest text that `messageExpression` may make.
const MESSAGE_LIMIT: usize = 5 * 1024;

/// What `messageExpression` says; None where it says nothing that can be shown.
fn computed_message(rule: &Rule, variables: &[(&str, &cel::Value)]) -> Option<String> {
    let Some(Ok(program)) = &rule.message else {
        return None;
    };
    let text = match program.evaluate(variables) {
        Ok(cel::Value::String(text)) => text.trim().to_string(),
        Ok(_) => return None,
        Err(why) => {
            tracing::debug!(why, rule = rule.name(), "messageExpression failed");
            return None;
        }
    };
    let usable = !text.is_empty() && text.len() <= MESSAGE_LIMIT && !text.contains('\n');
    usable.then_some(text)
}
