//! Columns that CRDs declare, and the subset of JSONPath that such columns use.

use super::{
    columns::{Column, age, name},
    text,
};
use crate::crd::{CustomVersion, PrinterColumn};
use serde_json::Value;

/// Columns of a custom resource.
pub fn columns(version: &CustomVersion) -> Vec<Column> {
    let mut columns = vec![name()];
    if version.columns.is_empty() {
        columns.push(age().said_to_be("date"));
        return columns;
    }
    columns.extend(version.columns.iter().map(column));
    columns
}

fn column(declared: &PrinterColumn) -> Column {
    let path = JsonPath::parse(&declared.path);
    let kind = declared.kind.clone();
    let cell_kind = kind.clone();
    let mut column = Column::new(&declared.name, &kind, move |object| {
        let found = path.as_ref().map(|p| p.find(object)).unwrap_or_default();
        cell(&cell_kind, &found)
    });
    column.format = declared.format.clone();
    column.description = declared.description.clone();
    column.priority = declared.priority;
    column
}

fn cell(kind: &str, found: &[&Value]) -> Value {
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match (kind, first) {
        (_, Value::Null) => Value::Null,
        ("date", Value::String(time)) => text::age(time).into(),
        ("date", _) => "<invalid>".into(),
        ("integer", Value::Number(_))
        | ("number", Value::Number(_))
        | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("integer" | "number" | "boolean", _) => Value::Null,
        // Of several, Kubernetes shows the first.
        _ => shown(first).into(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A path such as `.spec.hosts[0]` or `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(i64),
    Every,
    Where(Vec<String>, String),
}

impl JsonPath {
    /// Reads a path; None if it uses more than this subset.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let text = text
            .trim()
            .trim_start_matches('{')
            .trim_end_matches('}')
            .trim_start_matches('$');
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = key_end(after);
                if end > 0 {
                    let key = after[..end].replace('\\', "");
                    steps.push(if key == "*" {
                        Step::Every
                    } else {
                        Step::Key(key)
                    });
                }
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = after.find(']')?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
            } else {
                // A path without the leading dot.
                if !steps.is_empty() {
                    return None;
                }
                let end = key_end(rest);
                steps.push(Step::Key(rest[..end].to_string()));
                rest = &rest[end..];
            }
        }
        Some(JsonPath(steps))
    }

    /// The values that the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|v| take(step, v)).collect();
        }
        found
    }
}

/// Where a key ends: at the next dot or bracket that is not escaped.
fn key_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return i,
            _ => escaped = false,
        }
    }
    text.len()
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::Every);
    }
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    let unquote = |text: &str| -> Option<String> {
        let text = text.trim();
        let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        Some(text.strip_prefix(quote)?.strip_suffix(quote)?.to_string())
    };
    if let Some(key) = unquote(inner) {
        return Some(Step::Key(key));
    }
    let filter = inner.strip_prefix("?(")?.strip_suffix(')')?;
    let (path, value) = filter.split_once("==")?;
    let path = path.trim().strip_prefix("@.")?;
    let keys = path.split('.').map(str::to_string).collect();
    Some(Step::Where(
        keys,
        unquote(value).unwrap_or_else(|| value.trim().to_string()),
    ))
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => map.get(key).into_iter().collect(),
        (Step::Index(i), Value::Array(list)) => {
            let at = if *i < 0 { list.len() as i64 + i } else { *i };
            usize::try_from(at)
                .ok()
                .and_then(|at| list.get(at))
                .into_iter()
                .collect()
        }
        (Step::Every, Value::Array(list)) => list.iter().collect(),
        (Step::Every, Value::Object(map)) => map.values().collect(),
        (Step::Where(keys, wanted), Value::Array(list)) => list
            .iter()
            .filter(|item| {
                let found = keys.iter().try_fold(*item, |v, key| v.get(key));
                found.is_some_and(|v| shown(v) == *wanted)
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, value: &Value) -> String {
        let found = JsonPath::parse(path).unwrap();
        found
            .find(value)
            .iter()
            .map(|v| shown(v))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_paths_of_real_definitions() {
        let o = json!({"spec": {"hosts": ["a", "b"], "m": {"x.y/z": "k"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}],
                       "addresses": [{"value": "1.2.3.4"}]}});
        assert_eq!(find(".spec.hosts", &o), "[\"a\",\"b\"]");
        assert_eq!(find(".spec.hosts[*]", &o), "a b");
        assert_eq!(find(".spec.hosts[-1]", &o), "b");
        assert_eq!(
            find(".status.conditions[?(@.type==\"Ready\")].status", &o),
            "True"
        );
        assert_eq!(
            find(".status.conditions[?(@.type=='Other')].status", &o),
            "False"
        );
        assert_eq!(find(".status.addresses[*].value", &o), "1.2.3.4");
        assert_eq!(find("{.spec.m.x\\.y/z}", &o), "k");
        assert_eq!(find(".spec.m['x.y/z']", &o), "k");
        assert_eq!(find(".none.at.all", &o), "");
    }
}
