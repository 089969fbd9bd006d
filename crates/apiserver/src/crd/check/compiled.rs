//! Schemas as they are compiled: that defaults are valid and rules are expressions.

use crate::{
    crd::{
        openapi, prune,
        rules::{self, Rule},
        schema::{Additional, ListKind, Structural},
        unique,
    },
    schema::Findings,
    status::Cause,
};
use serde_json::{Value, json};

/// Checks a schema and everything below it.
pub fn check(schema: &Structural, path: &str, causes: &mut Vec<Cause>) {
    node(schema, path, None, causes);
}

/// `unrelated` is the place above which old and new values cannot be told apart.
fn node(schema: &Structural, path: &str, unrelated: Option<&str>, causes: &mut Vec<Cause>) {
    let found = causes.len();
    for (key, inner) in &schema.properties {
        node(
            inner,
            &format!("{path}.properties[{key}]"),
            unrelated,
            causes,
        );
    }
    if let Some(Additional::Schema(inner)) = &schema.additional {
        node(
            inner,
            &format!("{path}.additionalProperties"),
            unrelated,
            causes,
        );
    }
    if let Some(items) = &schema.items {
        let related = matches!(schema.list_kind, Some(ListKind::Map(_)));
        let unrelated = unrelated.or((!related).then_some(path));
        node(items, &format!("{path}.items"), unrelated, causes);
    }
    let rules = schema.rules.iter().flat_map(|r| &r.rules);
    for (i, rule) in rules.enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{i}]");
        self::rule(schema, rule, &path, unrelated, causes);
    }
    if let Some(value) = &schema.default
        && causes.len() == found
    {
        default(schema, value, &format!("{path}.default"), causes);
    }
}

fn rule(
    schema: &Structural,
    rule: &Rule,
    path: &str,
    unrelated: Option<&str>,
    causes: &mut Vec<Cause>,
) {
    let mut refuse = |key: &str, value: &Value, why: &str| {
        causes.push(Cause::invalid(format!("{path}.{key}"), value, why));
    };
    let field = rule
        .source
        .get("fieldPath")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !field.is_empty() && rules::field_path(schema, field).is_err() {
        refuse("fieldPath", &field.into(), "must be a valid path");
    }
    if let Err(why) = &rule.program {
        return refuse("rule", &shown(rule), &detail("", why));
    }
    if let Some(Err(why)) = &rule.message {
        refuse(
            "messageExpression",
            &shown(rule),
            &detail("messageExpression ", why),
        );
    }
    if rule.uses_old() {
        if let Some(place) = unrelated {
            let why = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {place}"
            );
            refuse("rule", &rule.source["rule"], &why);
        }
    } else if let Some(value) = rule.source.get("optionalOldSelf") {
        refuse(
            "optionalOldSelf",
            value,
            "may not be set if oldSelf is not used in rule",
        );
    }
}

/// A compiler's text says that it is one; other reasons stand for themselves.
fn detail(what: &str, why: &str) -> String {
    match why.starts_with("ERROR") {
        true => format!("{what}compilation failed: {why}"),
        false => why.to_string(),
    }
}

/// A rule as Kubernetes shows it.
fn shown(rule: &Rule) -> Value {
    let text = |key: &str| rule.source.get(key).cloned().unwrap_or_else(|| "".into());
    let or_null = |key: &str| rule.source.get(key).cloned().unwrap_or(Value::Null);
    json!({"Rule": text("rule"), "Message": text("message"), "MessageExpression": text("messageExpression"),
        "Reason": or_null("reason"), "FieldPath": text("fieldPath"), "OptionalOldSelf": or_null("optionalOldSelf")})
}

/// A default is a value that the schema accepts as it is.
fn default(schema: &Structural, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut pruned = json!({"metadata": {}, "value": value});
    let whole = Structural {
        properties: [("value".to_string(), schema.clone())].into(),
        ..Structural::default()
    };
    let mut findings = Findings::default();
    let form = prune::prune(Some(&whole), &mut pruned, &mut findings);
    if form.is_err() || !findings.unknown.is_empty() {
        causes.push(Cause::invalid(path, value, "must not have unknown fields"));
        return;
    }
    let found = causes.len();
    openapi::check(schema, value, None, path, causes);
    unique::check(schema, value, path, causes);
    if causes.len() == found {
        let mut own = Vec::new();
        rules::check(schema, value, None, &mut own, &mut Vec::new());
        causes.extend(own.into_iter().map(|cause| Cause {
            field: format!("{path}.{}", cause.field),
            ..cause
        }));
    }
}
