//! What differs from run to run is replaced by stable names. Things that are the same keep the same
//! name within a case, so that answers still show whether a version moved or an identity stayed.

use std::{collections::HashMap, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// The names given so far in one case.
pub struct Names {
    namespace: String,
    given: HashMap<(&'static str, String), usize>,
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).unwrap());
    };
}

pattern!(
    UID,
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
);
pattern!(MICRO_TIME, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z");
pattern!(TIME, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ");
pattern!(CLUSTER_IP, r"\b10\.96\.\d+\.\d+\b");
pattern!(TOKEN, r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+");
pattern!(TOKEN_VOLUME, r"kube-api-access-[a-z0-9]{5}\b");
pattern!(
    CERTIFICATE,
    r"(?s)-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\n?"
);
pattern!(
    VERSIONS,
    r"(version(?: too old)?): \d+(?: \(\d+\)|, current: \d+)"
);
// Objects within messages: Go prints its own structs there, or the whole text of an object.
pattern!(PRINTED, r#"(?s)( value: )"?\{.*?\}"?(: |$)"#);
pattern!(DUMPED, r"(?s)(if it was previously negative\))\n.*");
pattern!(STORED, r"in record \(\d+\)");
pattern!(AGE, r"^\d+(ms|s|m|h)$");

impl Names {
    pub fn new(namespace: &str) -> Self {
        Names {
            namespace: namespace.to_owned(),
            given: HashMap::new(),
        }
    }

    /// A name by order of first appearance.
    fn of(&mut self, kind: &'static str, value: &str) -> String {
        let count = self.given.keys().filter(|(k, _)| *k == kind).count();
        let number = *self
            .given
            .entry((kind, value.to_owned()))
            .or_insert(count + 1);
        format!("<{kind}-{number}>")
    }

    /// An answer without what differs from run to run, its keys sorted.
    pub fn value(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect(),
            Value::Object(map) => self.object(map),
            other => other.clone(),
        }
    }

    fn object(&mut self, map: &Map<String, Value>) -> Value {
        // The version of a list or a bookmark is that of the whole server, which others move.
        let moving = map.contains_key("items")
            || map.contains_key("rows")
            || map.get("type").is_some_and(|t| t == "BOOKMARK");
        let ordered = causes_in_order(map);
        let map = ordered.as_ref().unwrap_or(map);
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_unstable();
        let mut out = Map::new();
        for key in keys {
            let value = &map[key];
            let normal = match (key.as_str(), value) {
                ("metadata", Value::Object(meta)) => self.metadata(meta, moving),
                ("object", Value::Object(_)) if moving => self.bookmark(value),
                ("managedFields", Value::Array(entries)) => self.managers(entries),
                ("nodePort" | "healthCheckNodePort", Value::Number(port)) => {
                    self.port(port.as_u64().unwrap_or_default())
                }
                ("resourceVersion", Value::String(version)) if !version.is_empty() => {
                    self.of("rv", version).into()
                }
                ("continue", Value::String(_)) => "<continue>".into(),
                ("cells", Value::Array(cells)) => cells.iter().map(|c| self.cell(c)).collect(),
                ("columnDefinitions", Value::Array(columns)) => {
                    columns.iter().map(column).collect()
                }
                _ => self.value(value),
            };
            out.insert(key.clone(), normal);
        }
        Value::Object(out)
    }

    fn metadata(&mut self, meta: &Map<String, Value>, moving: bool) -> Value {
        let text = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, prefix) = (text("name"), text("generateName"));
        let generated =
            !prefix.is_empty() && name.len() == prefix.len() + 5 && name.starts_with(prefix);
        let mut own = Map::new();
        if generated {
            own.insert("name".into(), self.of("generated", name).into());
        }
        if moving && !text("resourceVersion").is_empty() {
            own.insert("resourceVersion".into(), "<rv>".into());
        }
        let mut rest = meta.clone();
        rest.retain(|key, _| !own.contains_key(key));
        let mut out = self.object(&rest);
        for (key, value) in own {
            out[key] = value;
        }
        sorted(out)
    }

    /// The object of a bookmark.
    fn bookmark(&mut self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(version) = object.pointer_mut("/metadata/resourceVersion") {
            *version = Value::Null;
        }
        self.value(&object)
    }

    /// One line a manager: who, how, and which fields. Sorted, because the order of writes within
    /// one second is not kept.
    fn managers(&mut self, entries: &[Value]) -> Value {
        let line = |entry: &Value| {
            let text = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
            let subresource = match entry["subresource"].as_str() {
                Some(name) => format!(" /{name}"),
                None => String::new(),
            };
            let fields = sorted(entry["fieldsV1"].clone());
            let line = format!(
                "{} {} {}{subresource} {fields}",
                text("manager"),
                text("operation"),
                text("apiVersion")
            );
            line
        };
        let mut lines: Vec<String> = entries.iter().map(line).collect();
        lines.sort_unstable();
        lines.iter().map(|l| Value::String(self.text(l))).collect()
    }

    fn port(&mut self, port: u64) -> Value {
        match port {
            30000..=32767 => self.of("port", &port.to_string()).into(),
            other => other.into(),
        }
    }

    fn cell(&mut self, cell: &Value) -> Value {
        match cell.as_str() {
            Some(text) if AGE.is_match(text) => "<age>".into(),
            _ => self.value(cell),
        }
    }

    /// Text without identities, times, addresses and secrets.
    pub fn text(&mut self, text: &str) -> String {
        let mut out = text.replace(&self.namespace, "$ns");
        for (pattern, kind) in [(&UID, "uid"), (&CLUSTER_IP, "ip")] {
            out = pattern
                .replace_all(&out, |found: &Captures<'_>| self.of(kind, &found[0]))
                .into_owned();
        }
        for (pattern, name) in [
            (&MICRO_TIME, "<microtime>"),
            (&TIME, "<time>"),
            (&TOKEN, "<token>"),
            (&TOKEN_VOLUME, "kube-api-access-<suffix>"),
            (&CERTIFICATE, "<certificate>"),
            (&VERSIONS, "$1: <rv>"),
            (&PRINTED, "$1<object>$2"),
            (&DUMPED, "$1"),
            (&STORED, "in record (<rv>)"),
        ] {
            out = pattern.replace_all(&out, name).into_owned();
        }
        out
    }
}

/// Several causes of one failure come in any order, both as a list and in the message, which says
/// no more than the list.
fn causes_in_order(status: &Map<String, Value>) -> Option<Map<String, Value>> {
    let causes = status.get("details")?.get("causes")?.as_array()?;
    let message = status.get("message")?.as_str()?;
    if causes.len() < 2 {
        return None;
    }
    let mut causes = causes.clone();
    causes.sort_by_key(Value::to_string);
    let end = message.find(": ").map_or(message.len(), |at| at + 2);
    let mut status = status.clone();
    status["details"]["causes"] = causes.into();
    status["message"] = format!("{}<causes>", &message[..end]).into();
    Some(status)
}

/// A column's description is prose for `kubectl explain`; what is shown is the rest.
fn column(column: &Value) -> Value {
    let mut column = column.clone();
    if let Some(map) = column.as_object_mut() {
        map.remove("description");
    }
    sorted(column)
}

/// Keys in order.
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs.into_iter().map(|(k, v)| (k, sorted(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_thing_keeps_its_name() {
        let mut names = Names::new("case-1");
        let uid = |n: u8| format!("0000000{n}-0000-0000-0000-000000000000");
        let seen = names.value(&json!({
            "metadata": {"uid": uid(1), "resourceVersion": "7", "namespace": "case-1",
                "ownerReferences": [{"uid": uid(2)}, {"uid": uid(1)}]}}));
        assert_eq!(
            seen,
            json!({"metadata": {"namespace": "$ns", "ownerReferences": [{"uid": "<uid-1>"},
                {"uid": "<uid-2>"}], "resourceVersion": "<rv-1>", "uid": "<uid-2>"}})
        );
        let later = names.value(&json!({"metadata": {"uid": uid(1), "resourceVersion": "8"}}));
        assert_eq!(
            later["metadata"],
            json!({"resourceVersion": "<rv-2>", "uid": "<uid-2>"})
        );
    }
}
